"""Published data sets in their authors' layouts: small ones, made exactly so."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from apl.config.config import make_config
from apl.data.dataset import Dataset
from apl.data.files import read_path
from apl.data.layouts import ANIMALS, RECORD, TEST_SETS, list_layout
from apl.data.listing import Listing
from apl.data.reading import Reading
from apl.data.sources import load_data
from apl.errors import BadInput
from apl.runs.run import Run
from apl.training.evaluate import Evaluator, load_network
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.train import train


def picture(path: Path, shade: int = 0, size: tuple[int, int] = (12, 9)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade % 256, 90, 200)).save(path)


def write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def listed(root: Path, test_set: str = "") -> Listing:
    found = list_layout(root, test_set)
    assert found is not None
    return found


def rows(found: Listing, split: str) -> dict[str, tuple[str, str]]:
    """Given and true label of each sample of a split, by name."""
    return {s.name: (s.given, s.true) for s in found.samples if s.split == split}


# --------------------------------------------------------------------------- WebVision mini


def dividemix(root: Path) -> Path:
    """As DivideMix's dataloader_webvision.py reads it: 1,000 classes, of which 50 are taken."""
    lines = [f"google/q{label:04}/{k}.jpg {label}" for label in (0, 1, 49, 50, 999) for k in (1, 2)]
    write(root / "info" / "train_filelist_google.txt", lines)
    for line in lines:
        picture(root / line.split()[0])
    lines = [f"val{k:06}.jpg {label}" for k, label in enumerate((0, 1, 49, 50), 1)]
    write(root / "info" / "val_filelist.txt", lines)
    for line in lines:
        picture(root / "val_images_256" / line.split()[0])
    return root


def imagenet_by_number(root: Path) -> None:
    for label in (0, 1, 2, 49, 50):
        picture(root / "imagenet" / "val" / str(label) / f"ILSVRC2012_val_{label:08}.JPEG")


def test_webvision_takes_the_first_fifty_classes(tmp_path: Path) -> None:
    found = listed(dividemix(tmp_path))
    assert found.name == "webvision_mini"
    assert rows(found, "train") == {
        f"google/q{label:04}/{k}.jpg": (str(label), "") for label in (0, 1, 49) for k in (1, 2)
    }
    assert rows(found, "test") == {
        "val_images_256/val000001.jpg": ("0", "0"),
        "val_images_256/val000002.jpg": ("1", "1"),
        "val_images_256/val000003.jpg": ("49", "49"),
    }
    assert not found.broken
    assert all(Path(sample.path).is_file() for sample in found.samples)


def test_which_test_set_is_a_choice_where_there_are_two(tmp_path: Path) -> None:
    imagenet_by_number(dividemix(tmp_path))
    with pytest.raises(
        BadInput, match=r"test_set is ''; accepted: webvision or imagenet for .* both"
    ):
        list_layout(tmp_path)
    assert listed(tmp_path, "imagenet").name == "ilsvrc12_val50"
    tests = {name: rows(listed(tmp_path, name), "test") for name in TEST_SETS}
    assert next(iter(tests["webvision"])).startswith("val_images_256/")
    assert tests["imagenet"] == {
        f"imagenet/val/{label}/ILSVRC2012_val_{label:08}.JPEG": (str(label), str(label))
        for label in (0, 1, 2, 49)
    }
    with pytest.raises(BadInput, match="test_set is 'clean'; accepted: webvision or imagenet"):
        list_layout(tmp_path, "clean")


def test_the_list_of_elr_says_the_classes_of_imagenet(tmp_path: Path) -> None:
    dividemix(tmp_path)
    lines = ["ILSVRC2012_val_00000007.JPEG 49", "ILSVRC2012_val_00000003.JPEG 50"]
    write(tmp_path / "imagenet" / "imagenet_val.txt", lines)
    for line in lines:
        picture(tmp_path / "imagenet" / "val" / line.split()[0])
    test = rows(listed(tmp_path, "imagenet"), "test")
    assert test == {"imagenet/val/ILSVRC2012_val_00000007.JPEG": ("49", "49")}


def test_wordnet_ids_are_numbered_in_their_order(tmp_path: Path) -> None:
    dividemix(tmp_path)
    folder = tmp_path / "imagenet" / "val"
    names = [f"n{10 * k + 7:08}" for k in range(50)]
    for name in (names[0], names[31]):
        picture(folder / name / "a.JPEG")
    for name in names:
        (folder / name).mkdir(exist_ok=True)
    test = rows(listed(tmp_path, "imagenet"), "test")
    assert sorted(given for given, _ in test.values()) == ["0", "31"]
    (folder / names[5]).rmdir()
    with pytest.raises(BadInput, match="has 49 classes; accepted: all 1,000, or the first 50"):
        list_layout(tmp_path, "imagenet")


def test_the_lists_of_jal_name_paths_relative_to_themselves(tmp_path: Path) -> None:
    root, data = tmp_path / "datasets", tmp_path / "data" / "webvision"
    files = {
        "webvision_mini_train.txt": ["google/q0001/a.jpg 0", "google/q0002/b.jpg 49"],
        "webvision_mini_val.txt": ["val_images_256/val000001.jpg 0"],
        "imagenet_val.txt": ["ILSVRC2012_img_val/ILSVRC2012_val_00000018.JPEG 23"],
    }
    for name, lines in files.items():
        write(root / name, [f"../data/webvision/{line}" for line in lines])
        for line in lines:
            picture(data / line.split()[0])
    found = listed(root, "imagenet")
    assert rows(found, "train") == {
        "../data/webvision/google/q0001/a.jpg": ("0", ""),
        "../data/webvision/google/q0002/b.jpg": ("49", ""),
    }
    assert list(rows(found, "test").values()) == [("23", "23")]
    assert list(rows(listed(root, "webvision"), "test").values()) == [("0", "0")]


def test_a_list_with_missing_images_and_bad_lines_loses_only_these(tmp_path: Path) -> None:
    dividemix(tmp_path)
    with (tmp_path / "info" / "train_filelist_google.txt").open("a") as file:
        file.write("google/q0001/gone.jpg 1\nno number\n\nalone\n")
    found = listed(tmp_path)
    assert len(rows(found, "train")) == 6
    assert found.broken == [
        ("google/q0001/gone.jpg", "no such file"),
        ("train_filelist_google.txt line 12", "not a path and a number"),
        ("train_filelist_google.txt line 14", "not a path and a number"),
    ]


def test_webvision_without_a_test_set_says_what_is_wanted(tmp_path: Path) -> None:
    dividemix(tmp_path)
    (tmp_path / "info" / "val_filelist.txt").unlink()
    with pytest.raises(BadInput, match=r"has no test set; accepted: info/val_filelist\.txt"):
        list_layout(tmp_path)


# ------------------------------------------------------------------------------- Clothing1M

NOISY = {"images/0/00/a.jpg": 0, "images/0/01/b.jpg": 13, "images/9/02/c.jpg": 5}
CLEAN = {
    "images/9/02/c.jpg": 6,
    "images/1/03/d.jpg": 2,
    "images/2/04/e.jpg": 0,
    "images/2/04/f.jpg": 13,
}
NAMES = [f"Garment {k}" for k in range(14)]


def clothing1m(lists: Path, images: Path, cut: int = 0) -> None:
    write(lists / "noisy_label_kv.txt", [f"{key} {label}" for key, label in NOISY.items()])
    write(lists / "clean_label_kv.txt", [f"{key} {label}" for key, label in CLEAN.items()])
    write(lists / "noisy_train_key_list.txt", list(NOISY))
    write(lists / "clean_train_key_list.txt", ["images/9/02/c.jpg"])
    write(lists / "clean_val_key_list.txt", ["images/1/03/d.jpg"])
    write(lists / "clean_test_key_list.txt", ["images/2/04/e.jpg", "images/2/04/f.jpg"])
    for key in {**NOISY, **CLEAN}:
        picture(images / key[cut:])


def test_clothing1m_knows_the_truth_where_the_clean_list_does(tmp_path: Path) -> None:
    clothing1m(tmp_path / "annotations", tmp_path)
    write(tmp_path / "category_names_eng.txt", NAMES)
    found = listed(tmp_path)
    assert rows(found, "train") == {
        "images/0/00/a.jpg": ("Garment 0", ""),
        "images/0/01/b.jpg": ("Garment 13", ""),
        "images/9/02/c.jpg": ("Garment 5", "Garment 6"),
    }
    assert rows(found, "validation") == {"images/1/03/d.jpg": ("Garment 2", "Garment 2")}
    assert rows(found, "test") == {
        "images/2/04/e.jpg": ("Garment 0", "Garment 0"),
        "images/2/04/f.jpg": ("Garment 13", "Garment 13"),
    }


def test_clothing1m_as_dividemix_wants_it(tmp_path: Path) -> None:
    clothing1m(tmp_path, tmp_path, cut=7)  # the loader cuts the seven letters of images/
    found = listed(tmp_path)
    assert rows(found, "train")["9/02/c.jpg"] == ("5", "6")
    assert not found.broken


def test_a_key_without_a_label_shifts_no_others(tmp_path: Path) -> None:
    clothing1m(tmp_path / "annotations", tmp_path)
    keys = ["images/0/00/unknown.jpg", *NOISY]
    write(tmp_path / "annotations" / "noisy_train_key_list.txt", keys)
    found = listed(tmp_path)
    assert found.broken == [(keys[0], "no label of 0 to 13 in noisy_label_kv.txt")]
    assert rows(found, "train")["images/0/01/b.jpg"] == ("13", "")


def test_clothing1m_without_its_test_list_is_told(tmp_path: Path) -> None:
    clothing1m(tmp_path / "annotations", tmp_path)
    (tmp_path / "annotations" / "clean_test_key_list.txt").unlink()
    with pytest.raises(BadInput, match=r"Clothing1M in .* lacks .*clean_test_key_list\.txt"):
        list_layout(tmp_path)


# ------------------------------------------------------------------------------- ANIMAL-10N


def test_animals_are_called_by_their_label(tmp_path: Path) -> None:
    for k in range(10):
        picture(tmp_path / "training" / f"{k}_{k:05}.jpg", k, (64, 64))
        picture(tmp_path / "testing" / f"{k}_test.jpg", k, (64, 64))
    (tmp_path / "training" / "README.txt").write_text("x")
    found = listed(tmp_path)
    train = rows(found, "train")
    assert train["training/1_00001.jpg"] == ("lynx", "")
    assert [train[f"training/{k}_{k:05}.jpg"][0] for k in range(10)] == list(ANIMALS)
    assert rows(found, "test")["testing/9_test.jpg"] == ("guinea pig", "")
    assert "not read: 1 files" in found.notes[0]


def records(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = np.zeros(count, RECORD)
    made["id"], made["label"] = np.arange(count) + 300, np.arange(count) % 10
    made["pixels"] = rng.integers(0, 256, (count, 3, 64, 64))
    return made


def test_animal_records_are_read_byte_by_byte(tmp_path: Path) -> None:
    parts = [records(4, 0), records(3, 1), records(10, 2)]
    names = ["data_batch_1.bin", "data_batch_10.bin", "data_batch_2.bin"]
    order = [0, 2, 1]  # by number, not by letter
    for name, part in zip(names, parts, strict=True):
        part.tofile(tmp_path / name)
    test = records(10, 3)
    test.tofile(tmp_path / "test_batch.bin")
    raw = (tmp_path / "data_batch_1.bin").read_bytes()
    assert len(raw) == 4 * (4 + 4 + 3 * 64 * 64)
    assert raw[12296 + 4 : 12296 + 8] == bytes([0, 0, 0, 1])  # the second one's label
    found = listed(tmp_path)
    assert found.pixels is not None
    expected = np.concatenate([*(parts[k] for k in order), test])
    assert (found.pixels == expected["pixels"].transpose(0, 2, 3, 1)).all()
    assert found.pixels.flags.c_contiguous
    assert [s.given for s in found.samples] == [ANIMALS[k] for k in expected["label"]]
    assert [s.split for s in found.samples] == ["train"] * 17 + ["test"] * 10
    assert found.samples[4].name == "data_batch_2.bin:0"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-1], "not made of ANIMAL-10N's records: it has 49,183 bytes"),
        (lambda raw: raw[:4] + b"\1\0\0\0" + raw[8:], "record 0 has the label 16777216"),
    ],
)
def test_damaged_records_are_told(tmp_path: Path, damage: object, message: str) -> None:
    assert callable(damage)
    records(10, 0).tofile(tmp_path / "test_batch.bin")
    (tmp_path / "data_batch_1.bin").write_bytes(damage(records(4, 0).tobytes()))
    with pytest.raises(BadInput, match=message):
        list_layout(tmp_path)


# -------------------------------------------------------------------------------- Food-101N


def food101n(root: Path, food101: Path) -> None:
    train = ["apple_pie/1.jpg", "apple_pie/2.jpg", "waffles/3.jpg"]
    write(root / "meta" / "imagelist.tsv", ["class_name/key", *train])
    write(root / "meta" / "classes.txt", ["class_name", "apple_pie", "waffles"])
    verified = ["class_name/key\tverification_label", "apple_pie/1.jpg\t1", "waffles/3.jpg\t0"]
    write(root / "meta" / "verified_train.tsv", verified)
    for key in train:
        picture(root / "images" / key)
    write(food101 / "meta" / "test.txt", ["apple_pie/77", "waffles/88"])
    for key in ("apple_pie/77", "waffles/88"):
        picture(food101 / "images" / f"{key}.jpg")


@pytest.mark.parametrize("beside", [True, False])
def test_food101n_is_tested_on_food101(tmp_path: Path, beside: bool) -> None:
    root = tmp_path / "Food-101N_release"
    food101n(root, (tmp_path if beside else root) / "food-101")
    found = listed(root)
    assert rows(found, "train") == {
        "images/apple_pie/1.jpg": ("apple_pie", ""),
        "images/apple_pie/2.jpg": ("apple_pie", ""),
        "images/waffles/3.jpg": ("waffles", ""),
    }
    below = "../food-101" if beside else "food-101"
    assert rows(found, "test") == {
        f"{below}/images/apple_pie/77.jpg": ("apple_pie", "apple_pie"),
        f"{below}/images/waffles/88.jpg": ("waffles", "waffles"),
    }
    assert found.notes[1] == "verified_train.tsv: 1 of 2 labels are wrong (50.0%)"


def test_food101n_without_food101_says_where_it_belongs(tmp_path: Path) -> None:
    root = tmp_path / "Food-101N_release"
    food101n(root, tmp_path / "elsewhere")
    with pytest.raises(BadInput, match=r"unpack food-101\.tar\.gz to .*/food-101"):
        list_layout(root)


# ------------------------------------------------------------------------------ what is none


def test_other_folders_and_files_are_no_layout(tmp_path: Path) -> None:
    picture(tmp_path / "training" / "cat" / "1_a.png")
    picture(tmp_path / "testing" / "cat" / "1_b.png")
    (tmp_path / "list.csv").write_text("file_name,label\n")
    for path in (tmp_path, tmp_path / "training", tmp_path / "list.csv", tmp_path / "gone"):
        assert list_layout(path) is None
    with pytest.raises(BadInput, match="test_set is 'imagenet'; accepted: '' for"):
        list_layout(tmp_path, "imagenet")


def test_no_images_at_all_are_told(tmp_path: Path) -> None:
    write(tmp_path / "info" / "train_filelist_google.txt", ["google/q0001/a.jpg 0"])
    write(tmp_path / "info" / "val_filelist.txt", ["val000001.jpg 0"])
    with pytest.raises(BadInput, match=r"has no training images; left out 2: .* no such file"):
        list_layout(tmp_path)


# ----------------------------------------------------- the same decoding and cache as own data


def read(root: Path, **given: Any) -> Dataset:
    return read_path(root, Reading.of(given), say=lambda line: None)


def test_a_layout_is_decoded_as_own_data_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clothing1m(tmp_path / "annotations", tmp_path)
    data = read(tmp_path, image_size=8)
    assert (len(data.train), len(data.test)) == (3, 2)
    assert data.train.images.shape == (3, 8, 8, 3)
    assert data.train.labels.known.tolist() == [False, False, True]
    assert data.train.labels.wrong.tolist() == [False, False, True]
    assert data.on == "true"
    assert read(tmp_path, image_size=8).digest == data.digest


def test_each_test_set_is_a_data_set_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    imagenet_by_number(dividemix(tmp_path))
    with (tmp_path / "info" / "train_filelist_google.txt").open("a") as file:
        file.write("google/q0002/1.jpg 2\n")  # of the class that ImageNet alone tests
    picture(tmp_path / "google/q0002/1.jpg")
    made = {name: read(tmp_path, test_set=name, image_size=8) for name in TEST_SETS}
    assert [len(data.test) for data in made.values()] == [3, 4]
    assert len({data.digest for data in made.values()}) == 2
    with pytest.raises(BadInput, match=r"test_set is ''; accepted: webvision or imagenet"):
        read(tmp_path)


def test_a_network_is_scored_on_the_other_test_set_and_on_its_five_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/data.md does it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    imagenet_by_number(dividemix(tmp_path / "webvision"))
    shutil.rmtree(tmp_path / "webvision/imagenet/val/2")  # a class with no training image
    trained, other = (
        load_data(tmp_path / "webvision", image_size=8, test_set=name, say=lambda line: None)
        for name in ("imagenet", "webvision")
    )
    assert (trained.mean, trained.class_names) == (other.mean, other.class_names)
    config = make_config("quick", dataset=trained, network="mlp", width=4, epochs=1)
    train(config, tmp_path / "run", data=trained, listener=Listener(on_message=ignore))
    run = Run(tmp_path / "run")
    network = load_network(run, run.config, other, Machine())
    evaluator = Evaluator(network, other, run.config)
    scores = evaluator.scores()
    assert scores.labelled.sum() == len(other.test) == 3
    five = evaluator.logits(other.test.images).topk(3).indices
    true = torch.from_numpy(other.test.labels.true)
    assert float((five == true[:, None]).any(1).float().mean()) >= scores.accuracy


def test_records_go_to_the_cache_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = {"data_batch_1.bin": records(20, 0), "test_batch.bin": records(10, 1)}
    for name, part in made.items():
        part.tofile(tmp_path / name)
    data = read(tmp_path)
    expected = made["data_batch_1.bin"]["pixels"].transpose(0, 2, 3, 1)
    assert (data.train.images.numpy() == expected).all()
    assert data.on == "given"
    assert set(data.class_names) == set(ANIMALS)
