"""What the folders of a folder are, judged as a whole: classes, splits, or neither."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from told import load

from apl.data.dataset import Dataset
from apl.data.trees import splits_among
from apl.errors import BadInput

pytestmark = pytest.mark.usefixtures("cache")


def fill(*folders: Path, each: int = 5, suffix: str = ".png") -> None:
    """Some images into each folder, no two alike."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(each):
            path = folder / f"{i:02d}{suffix}"
            seed = abs(hash(str(path))) % 2**32
            pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)


def names_of(data: Dataset) -> set[str]:
    return {*data.train.names, *data.test.names}


def has(told: list[str], text: str) -> bool:
    return any(text in line for line in told)


# ------------------------------------------------------------------------------ inside classes


def test_masks_beside_images_inside_the_classes(tmp_path: Path) -> None:
    for name in ("covid", "normal"):
        fill(tmp_path / "x" / name / "images", tmp_path / "x" / name / "masks")
    data, told = load(tmp_path / "x")
    assert len(names_of(data)) == 10
    assert not any("masks" in name for name in names_of(data))
    assert has(told, "not read, made of the images beside them: masks (10); --skip none reads all")
    everything, _ = load(tmp_path / "x", skip="none")
    assert len(names_of(everything)) == 20
    images, told = load(tmp_path / "x", skip="images")
    assert all("masks" in name for name in names_of(images))
    assert has(told, "folders that programs keep or --skip names: images (2)")


def test_masks_beside_each_image(tmp_path: Path) -> None:
    """As breast ultrasound images have them: `benign (1).png`, `benign (1)_mask.png`."""
    for name in ("benign", "malignant"):
        fill(tmp_path / "x" / name)
        for file in sorted((tmp_path / "x" / name).iterdir()):
            (file.parent / f"{file.stem}_mask.png").write_bytes(file.read_bytes())
    data, told = load(tmp_path / "x")
    assert len(names_of(data)) == 10
    assert has(told, "made of the images beside them: *_mask (10)")


@pytest.mark.parametrize("kept", ["@eaDir", ".thumbnails", "thumbnails", "__MACOSX", "#recycle"])
def test_what_programs_keep_is_no_class_and_no_part_of_one(tmp_path: Path, kept: str) -> None:
    root = tmp_path / "x"
    fill(root / "cat", root / "dog", root / kept, root / "cat" / kept / "deep")
    data, told = load(root)
    assert data.class_names == ("cat", "dog")
    assert len(names_of(data)) == 10
    assert kept.startswith(".") or has(told, f"programs keep or --skip names: {kept} (2)")


def test_our_own_results_inside_the_data_are_no_class(tmp_path: Path) -> None:
    root = tmp_path / "x"
    fill(root / "cat", root / "dog", root / "results" / "x-find" / "pictures")
    fill(root / "results" / "x-quick" / "pictures", root / "results" / "noise")
    for name in ("issues.csv", "noise.json"):
        (root / "results" / "x-find" / name).write_text("")
    for name in ("runs.jsonl", "summary.csv"):
        (root / "results" / "x-quick" / name).write_text("")
    (root / "results" / "noise" / "00.npz").write_bytes(b"")
    data, told = load(root)
    assert data.class_names == ("cat", "dog")
    assert has(told, "not read, folders that apl wrote: results/noise, results/x-find, results/x-")


def test_folders_inside_classes_are_part_of_them_and_told(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "x" / name / "2020", tmp_path / "x" / name / "2021")
    data, told = load(tmp_path / "x")
    assert len(names_of(data)) == 20
    assert has(told, "folders inside the classes are part of these: 2020, 2021; where they are th")


def test_a_class_may_be_called_masks(tmp_path: Path) -> None:
    """And so may a folder of photos of masks that are no images' masks."""
    root = tmp_path / "x"
    fill(root / "hats", root / "masks", root / "costumes" / "robes", each=4)
    fill(root / "costumes" / "masks", each=6, suffix=".jpg")
    for file in (root / "costumes" / "masks").iterdir():
        file.rename(file.with_stem(f"venice{file.stem}"))
    data, _ = load(root)
    assert data.class_names == ("costumes", "hats", "masks")
    assert len(names_of(data)) == 18


# ------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training", "testing"),
        ("Train", "Valid"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("trainset", "valset"),
        ("train_images", "test_images"),
        ("train2017", "val2017"),
        ("pets-train", "pets-test"),
    ],
)
def test_other_peoples_names_of_splits(tmp_path: Path, train: str, test: str) -> None:
    root = tmp_path / "x"
    fill(*(root / train / name for name in ("cat", "dog")), each=4)
    fill(*(root / test / name for name in ("cat", "dog")), each=2)
    data, _ = load(root)
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (8, 4)


def test_what_was_unpacked_lies_one_deeper(tmp_path: Path) -> None:
    root = tmp_path / "x"
    for split in ("seg_train", "seg_test"):
        fill(*(root / split / split / name for name in ("sea", "street")))
    assert load(root)[0].class_names == ("sea", "street")
    fill(*(tmp_path / "y" / "PetImages" / name for name in ("Cat", "Dog")))
    data, told = load(tmp_path / "y")
    assert data.class_names == ("Cat", "Dog")
    assert "read: PetImages, the only folder with images in y" in told
    fill(tmp_path / "z" / "data" / "train" / "a", tmp_path / "z" / "data" / "train" / "b")
    assert load(tmp_path / "z")[0].class_names == ("a", "b")


def test_splits_inside_the_classes(tmp_path: Path) -> None:
    root = tmp_path / "x"
    for name in ("cat", "dog"):
        fill(root / name / "train", each=4)
        fill(root / name / "test", each=2)
    data, told = load(root)
    assert (len(data.train), len(data.test)) == (8, 4)
    assert "splits inside the classes: test, train (--layout classes takes them as one)" in told
    assert len(load(root, layout="classes")[0].test) != 4


def test_a_class_that_is_called_like_a_split(tmp_path: Path) -> None:
    """A train among other vehicles, each with its images in a folder."""
    root = tmp_path / "x"
    fill(*(root / name / "images" for name in ("bus", "plane", "train")))
    data, told = load(root)
    assert data.class_names == ("bus", "plane", "train")
    assert has(told, "read as classes, like the folders beside them: train (--layout")
    fill(*(tmp_path / "y" / name for name in ("bus", "plane", "train/2020", "train/2021")))
    assert load(tmp_path / "y")[0].class_names == ("bus", "plane", "train")
    assert load(tmp_path / "y", layout="splits")[0].class_names == ("2020", "2021")


def test_an_unlabelled_test_folder_is_told(tmp_path: Path) -> None:
    root = tmp_path / "x"
    fill(root / "train" / "cat", root / "train" / "dog", root / "test", root / "val")
    data, told = load(root)
    assert data.class_names == ("cat", "dog")
    assert "not read, as they are no splits with classes: test, val" in told


def test_masks_as_folders_of_their_own(tmp_path: Path) -> None:
    root = tmp_path / "x"
    fill(*(root / top / name for top in ("images", "masks") for name in ("cat", "dog")))
    data, told = load(root)
    assert data.class_names == ("cat", "dog")
    assert len(names_of(data)) == 10
    assert has(told, "read: images; not read, as they seem made of it: masks")


def test_one_folder_too_high(tmp_path: Path) -> None:
    root = tmp_path / "work"
    fill(*(root / "photos" / name for name in ("cat", "dog", "emu")))
    fill(root / "website" / "static")
    with pytest.raises(BadInput, match=r"one folder too high: .*work/photos, with 15 of 20 images"):
        load(root)
    assert load(root, layout="classes")[0].class_names == ("photos", "website")


def test_frames_below_people_below_classes_are_not_too_high(tmp_path: Path) -> None:
    root = tmp_path / "x"
    fill(*(root / f"{k}" / f"{k}{i}" for k in ("run", "walk") for i in range(3)))
    data, told = load(root)
    assert data.class_names == ("run", "walk")
    assert has(told, "folders inside the classes are part of these: run0, run1, run2")


def test_folders_that_are_called_what_lies_in_them_are_no_classes(tmp_path: Path) -> None:
    """As Oxford's pets: images/Abyssinian_1.jpg, annotations/trimaps/Abyssinian_1.png."""
    root = tmp_path / "x"
    fill(root / "images", root / "annotations" / "trimaps")
    with pytest.raises(
        BadInput, match=r"no folders of classes, as .* \(annotations, images\); acc"
    ):
        load(root)
    assert load(root, layout="classes")[0].class_names == ("annotations", "images")


def test_words_beside_the_name_of_a_split() -> None:
    assert splits_among(["train", "test"]) == {"train": "train", "test": "test"}
    assert splits_among(["bullet train", "bus"]) == {}
    assert splits_among(["test_a", "train_b"]) == {}


def test_why_no_image_was_found(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "x" / name).mkdir(parents=True)
        (tmp_path / "x" / name / "1.heic").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"no images in folders .*2 files .* not called images: .he"):
        load(tmp_path / "x")
    (tmp_path / "y").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "y" / name).symlink_to(tmp_path / "x" / name)
    with pytest.raises(BadInput, match=r"no images in folders .*2 left out, as cat: a link to a"):
        load(tmp_path / "y")


def test_a_pipe_in_a_class_never_hangs(tmp_path: Path) -> None:
    fill(tmp_path / "x" / "cat", tmp_path / "x" / "dog")
    os.mkfifo(tmp_path / "x" / "cat" / "pipe.png")
    _, told = load(tmp_path / "x")
    assert has(told, "left out 1: cat/pipe.png: no regular file")


# ---------------------------------------------------------------------- files that take over


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("file_name,text\ncat/00.png,a cat\ncat/01.png,one more\n", "no column of the labels"),
        ("file_name,photographer\ncat/00.png,Ann\ncat/01.png,Bob\n", "no column of the labels"),
        ("file_name,label\nold/1.png,cat\nold/2.png,dog\n", "lists no image that is there"),
        ("file_name,label\ncat/00.png,cat\ndog/00.png,dog\n", "names 2 of 10 images"),
        ("", "lists no sample"),
        ("who,when\nAnn,2020\n", "no column of the labels"),
    ],
)
def test_a_metadata_file_that_says_nothing_of_the_labels(
    tmp_path: Path, text: str, why: str
) -> None:
    fill(tmp_path / "x" / "cat", tmp_path / "x" / "dog")
    (tmp_path / "x" / "metadata.csv").write_text(text)
    data, told = load(tmp_path / "x")
    assert data.class_names == ("cat", "dog")
    assert len(names_of(data)) == 10
    assert has(told, "metadata.csv is not read, it")
    assert has(told, why)


def test_a_metadata_file_with_labels_of_its_own(tmp_path: Path) -> None:
    fill(tmp_path / "x" / "cat", tmp_path / "x" / "dog")
    rows = [
        f"{k}/{i:02d}.png,{'old' if i % 2 else 'new'}" for k in ("cat", "dog") for i in range(5)
    ]
    (tmp_path / "x" / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    data, told = load(tmp_path / "x")
    assert data.class_names == ("new", "old")
    assert has(told, "labels are those of metadata.csv, and 10 of 10 are not those of the folders")
    assert load(tmp_path / "x", layout="classes")[0].class_names == ("cat", "dog")


@pytest.mark.parametrize("splits", [False, True])
def test_labels_beside_folders_of_classes(tmp_path: Path, splits: bool) -> None:
    for split in ("train", "test") if splits else ("",):
        fill(tmp_path / "x" / split / "cat", tmp_path / "x" / split / "dog")
    np.save(tmp_path / "x" / "labels.npy", np.arange(10) % 2)
    data, told = load(tmp_path / "x")
    assert data.class_names == ("cat", "dog")
    assert has(told, "labels.npy not read (")
    assert has(told, "lacks images or labels): the folders of classes are")


def test_our_own_lists_in_the_data_do_not_take_over(tmp_path: Path) -> None:
    fill(tmp_path / "x" / "cat", tmp_path / "x" / "dog")
    rows = [f"{k}/{i:02d}.png,cow,fix" for k in ("cat", "dog") for i in range(5)]
    (tmp_path / "x" / "decisions.csv").write_text("\n".join(["file_name,label,decision", *rows]))
    assert load(tmp_path / "x")[0].class_names == ("cat", "dog")


# ---------------------------------------------------------------------------- lists by split


def test_metadata_in_each_split(tmp_path: Path) -> None:
    for split, each in (("train", 6), ("test", 3)):
        fill(tmp_path / "x" / split, each=each)
        rows = [f'{{"file_name": "{i:02d}.png", "label": "{"ab"[i % 2]}"}}' for i in range(each)]
        (tmp_path / "x" / split / "metadata.jsonl").write_text("\n".join(rows))
    data, _ = load(tmp_path / "x")
    assert data.class_names == ("a", "b")
    assert data.train.names[1] == "train/01.png"
    assert len(data.test) == 3
    assert (Path(data.root) / data.test.names[0]).is_file()


def test_a_list_for_each_split(tmp_path: Path) -> None:
    fill(tmp_path / "x" / "pictures", each=9)
    for split, some in (("train", range(6)), ("val", range(6, 9))):
        rows = [f"pictures/{i:02d}.png,{'ab'[i % 2]}" for i in some]
        (tmp_path / "x" / f"{split}.csv").write_text("\n".join(["file_name,label", *rows]))
    (tmp_path / "x" / "test.csv").write_text("file_name\npictures/00.png\n")
    data, told = load(tmp_path / "x")
    assert (len(data.train), len(data.test)) == (6, 3)
    assert has(told, "test.csv is not read")
