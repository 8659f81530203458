"""Data of the user's own: folders, lists, arrays, and what is met among them in the wild."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import time
import weakref
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from forked import CONTEXT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from told import load

import apl
from apl.config.config import make_config
from apl.config.grid import make_grid, study_commands
from apl.config.presets import PRESETS
from apl.data import files, images, listing
from apl.data.dataset import Dataset
from apl.data.folders import cache_folder
from apl.data.labels import as_text
from apl.data.sources import load_data
from apl.errors import BadInput
from apl.noise.labels import UNKNOWN
from apl.training.batches import Batches
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.prepare import data_of, prepare
from apl.training.train import train

HERE = Machine(device="cpu", threads=1)


pytestmark = pytest.mark.usefixtures("cache")


def noise_of(seed: int, side: int = 8, channels: int = 3) -> np.ndarray[Any, Any]:
    shape = (side, side, channels) if channels > 1 else (side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(path: Path, seed: int, side: int = 8, channels: int = 3) -> np.ndarray[Any, Any]:
    """A picture of noise in a file, whose pixels are returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise_of(seed, side, channels)
    Image.fromarray(pixels).save(path)
    return pixels


def folder_of(root: Path, classes: Sequence[str] = ("cat", "dog"), each: int = 10) -> Path:
    for k, name in enumerate(classes):
        for i in range(each):
            picture(root / name / f"{i:02d}.png", 1000 * k + i)
    return root


def broken(cache: Path) -> dict[str, str]:
    """What broken.csv of the only data set lists."""
    (path,) = cache.glob("*/broken.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return {row["file_name"]: row["problem"] for row in csv.DictReader(file)}


def image_of(data: Dataset, name: str) -> np.ndarray[Any, Any]:
    for split in (data.train, data.test):
        if name in split.names:
            found: np.ndarray[Any, Any] = split.images[split.names.index(name)].numpy()
            return found
    raise AssertionError(f"{name} is in neither split")


# ------------------------------------------------------------------------------- folders


def test_a_folder_of_classes(tmp_path: Path) -> None:
    data, told = load(folder_of(tmp_path / "my"))
    assert (data.name, data.class_names) == ("my", ("cat", "dog"))
    assert (len(data.train), len(data.test)) == (16, 4)
    assert data.train.images.shape == (16, 8, 8, 3)
    assert np.bincount(data.test.labels.given).tolist() == [2, 2]
    assert not data.train.labels.known.any()
    assert data.on == "given"
    for split in (data.train, data.test):
        for name, image, label in zip(split.names, split.images, split.labels.given, strict=True):
            assert name.startswith(data.class_names[label])
            with Image.open(tmp_path / "my" / name) as file:
                assert np.array_equal(np.asarray(file), image.numpy())
    assert not set(data.train.names) & set(data.test.names)
    assert any(
        "no test split: one in 5 of each class is held out, 4 of 20" in line for line in told
    )
    assert any("8 x 8 x 3 pixels, as they are" in line for line in told)
    pixels = data.train.images.float().div(255)
    assert pixels.mean((0, 1, 2)).tolist() == pytest.approx(data.mean, abs=1e-4)
    assert pixels.std((0, 1, 2), correction=0).tolist() == pytest.approx(data.std, abs=1e-4)


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "eval"), ("train", "dev")])
def test_a_folder_of_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, each in zip(names, (4, 3), strict=True):
        folder_of(tmp_path / "my" / name, each=each)
    data, told = load(tmp_path / "my")
    assert (len(data.train), len(data.test)) == (8, 6)
    assert all(name.startswith(names[0]) for name in data.train.names)
    assert not any("held out" in line for line in told)


def test_validation_is_not_trained_on_and_what_is_no_split_is_told(tmp_path: Path) -> None:
    for name in ("train", "val", "test", "extra"):
        folder_of(tmp_path / "my" / name, each=3)
    data, told = load(tmp_path / "my")
    assert {name.split("/")[0] for name in data.train.names} == {"train"}
    assert {name.split("/")[0] for name in data.test.names} == {"test"}
    assert "not used: 6 samples for validation" in told
    assert "not read, as they are no splits with classes: extra" in told


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data, _ = load(folder_of(tmp_path / "my", ["bus", "train"]))
    assert data.class_names == ("bus", "train")


def test_splits_without_classes_are_no_classes(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"splits without folders of classes \(test, train\); accept"
    ):
        load(folder_of(tmp_path / "my", ["train", "test"]))


def test_folders_that_are_called_fractions_are_classes(tmp_path: Path) -> None:
    data, _ = load(folder_of(tmp_path / "my", ["1.5", "10", "2"]))
    assert data.class_names == ("1.5", "2", "10")


def test_the_same_is_held_out_every_time(tmp_path: Path) -> None:
    first, _ = load(folder_of(tmp_path / "a"))
    (tmp_path / "b").mkdir()
    for name in sorted((tmp_path / "a").iterdir(), reverse=True):
        for file in sorted(name.iterdir(), reverse=True):
            target = tmp_path / "b" / name.name / file.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    second, _ = load(tmp_path / "b")
    assert first.test.names == second.test.names
    assert first.digest == second.digest != ""


@given(st.lists(st.integers(0, 6), min_size=2, max_size=200))
@settings(max_examples=60, deadline=None)
def test_held_out_is_a_share_of_each_class(labels: list[int]) -> None:
    given_ = np.array(labels)
    out = listing.held_out(given_)
    for k in set(labels):
        count, held = labels.count(k), int(out[given_ == k].sum())
        assert held < count or count == 0
        assert held == max(round(count / listing.HELD_OUT), min(count - 1, 1))


def test_what_lies_around_in_a_folder(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "my")
    (root / "nothing").mkdir()
    (root / "cat" / "notes.txt").write_text("x")
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / "cat" / "._00.png").write_bytes(b"x")
    picture(root / "loose.png", 5)
    picture(root / "dog" / "deeper" / "x.png", 6)
    data, told = load(root)
    assert data.class_names == ("cat", "dog")
    assert len(data.train) + len(data.test) == 21
    assert "left out, classes without images: nothing" in told
    assert "not read: 1 files that are not called images: .txt" in told
    assert "not read: 1 images outside the folders of classes" in told


def test_names_of_all_kinds(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "my")
    names = ["a b.png", "ä漢.png", "a,b;c.png", 'q"uote.png', "new\nline.png"]
    pixels = {name: picture(root / "cat" / name, 50 + i) for i, name in enumerate(names)}
    raw = os.fsdecode(b"raw\xff.png")
    pixels[raw] = picture(root / "cat" / raw, 99)
    (root / "cat" / "bad\nname.png").write_bytes(b"no image")
    data, told = load(root)
    for name, image in pixels.items():
        assert np.array_equal(image_of(data, f"cat/{name}"), image)
    assert all(line.isprintable() for line in told)
    assert any(r"left out 1: cat/bad\nname.png: no image" in line for line in told)


# -------------------------------------------------------------------------- single images

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30))  # of the quarters, row by row


def quarters(mode: str = "RGB", side: int = 8) -> Image.Image:
    pixels = np.zeros((side, side, 3), np.uint8)
    half = side // 2
    for k, colour in enumerate(COLOURS):
        top, left = half * (k // 2), half * (k % 2)
        pixels[top : top + half, left : left + half] = colour
    return Image.fromarray(pixels).convert(mode)


def corners(pixels: np.ndarray[Any, Any]) -> list[list[int]]:
    return [pixels[y, x].tolist() for y, x in ((1, 1), (1, -2), (-2, 1), (-2, -2))]


def grey() -> tuple[Image.Image, str]:
    return quarters("L"), "png"


def alpha() -> tuple[Image.Image, str]:
    image = quarters("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    return image, "png"


def palette() -> tuple[Image.Image, str]:
    return quarters().convert("P", palette=Image.Palette.ADAPTIVE, colors=8), "png"


def cmyk() -> tuple[Image.Image, str]:
    return quarters("CMYK"), "tiff"


def rotated() -> tuple[Image.Image, str]:
    image = quarters().transpose(Image.Transpose.ROTATE_90)
    image.getexif()[0x0112] = 6  # to be turned clockwise
    return image, "png"


def first_frame() -> tuple[Image.Image, str]:
    return quarters(), "gif"


def one_bit() -> tuple[Image.Image, str]:
    return quarters("L").point(lambda value: 255 * (value > 40)).convert("1"), "png"


@pytest.mark.parametrize("kind", [grey, alpha, palette, cmyk, rotated, first_frame, one_bit])
def test_an_image_of_any_kind_among_colour_ones(
    tmp_path: Path, kind: Callable[[], tuple[Image.Image, str]]
) -> None:
    root = folder_of(tmp_path / "my")
    image, suffix = kind()
    more: dict[str, Any] = {"exif": image.getexif()} if kind is rotated else {}
    if kind is first_frame:
        more = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), "white")]}
    image.save(root / "cat" / f"odd.{suffix}", **more)
    data, told = load(root)
    got = image_of(data, f"cat/odd.{suffix}")
    assert got.shape == (8, 8, 3)
    if kind in (grey, one_bit):
        level = np.asarray(image.convert("L"))[..., None]
        assert np.array_equal(got, np.repeat(level, 3, axis=2))
    else:
        assert corners(got) == [list(colour) for colour in COLOURS]
    if kind is alpha:
        assert got[0, 0].tolist() == [255, 255, 255]
    assert not any("left out" in line for line in told)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    deep = (noise_of(7, channels=1).astype(np.uint16) * 257)[:8, :8]
    for k, name in enumerate(("cat", "dog")):
        for i in range(5):
            picture(tmp_path / "my" / name / f"{i}.png", 10 * k + i, channels=1)
    Image.fromarray(deep).save(tmp_path / "my" / "cat" / "deep.png")
    data, _ = load(tmp_path / "my")
    assert data.train.images.shape[3] == 1  # all are grey
    assert np.array_equal(image_of(data, "cat/deep.png")[..., 0], noise_of(7, channels=1))


def test_a_rotated_jpeg_of_a_camera(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "my")
    image = quarters(side=512).transpose(Image.Transpose.ROTATE_90)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(root / "cat" / "photo.jpg", quality=95, exif=exif)
    data, told = load(root)
    assert data.image_size == 64
    assert any("64 x 64 x 3 pixels, the shorter side resized, the middle cut" in t for t in told)
    got = np.array(corners(image_of(data, "cat/photo.jpg")), int)
    assert np.abs(got - np.array(COLOURS)).max() < 16


def test_images_of_mixed_sizes_are_resized_and_cut(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "my")
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255  # the middle square
    Image.fromarray(wide).save(root / "cat" / "wide.png")
    data, _ = load(root)
    assert data.train.images.shape[1:] == (64, 64, 3)
    assert (image_of(data, "cat/wide.png")[:, 2:-2] == 255).all()
    small, _ = load(root, image_size=16)
    assert small.train.images.shape[1:] == (16, 16, 3)
    assert (image_of(small, "cat/wide.png")[:, 2:-2] == 255).all()
    assert small.digest == data.digest  # of the files, which are the same


@pytest.mark.slow
@pytest.mark.parametrize("odd", ["size", "colour"])
def test_one_odd_image_found_late_counts(
    tmp_path: Path, odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What some images look like is only a guess at all of them."""
    monkeypatch.setattr(images, "BLOCK", 16)
    for k, name in enumerate(("cat", "dog")):
        for i in range(100):
            picture(tmp_path / "my" / name / f"{i:03d}.png", 100 * k + i, channels=1)
    plain, _ = load(tmp_path / "my")
    assert plain.train.images.shape[1:] == (8, 8, 1)
    # The guess looks at every second or so: hide the odd one where it does not.
    for i in range(90, 94):
        side, channels = (12, 1) if odd == "size" else (8, 3)
        picture(tmp_path / "my" / "dog" / f"{i:03d}.png", i, side, channels)
        data, _ = load(tmp_path / "my")
        assert data.train.images.shape[1:] == ((64, 64, 1) if odd == "size" else (8, 8, 3))


def write_text(path: Path) -> None:
    path.write_text("this is no picture")


def write_half(path: Path) -> None:
    picture(path, 3, side=64)
    path.write_bytes(path.read_bytes()[:3000])


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_bomb(path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(path)


def write_link(path: Path) -> None:
    outside = path.parents[2] / "secret.png"
    picture(outside, 1)
    path.symlink_to(outside)


def write_folder_link(path: Path) -> None:
    path.symlink_to(path.parents[1], target_is_directory=True)


def write_dangling(path: Path) -> None:
    path.symlink_to(path.parent / "gone.png")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (write_text, "no image (PNG"),
        (write_half, "truncated"),
        (write_nothing, "an empty file"),
        (write_bomb, "200,000,000 pixels, more than the 89,478,485 of --max-pixels"),
        (write_link, "a link out of the folder"),
        (write_folder_link, "a link to a folder"),
        (write_dangling, "no such file"),
    ],
)
def test_what_can_t_be_read_is_named_and_left_out(
    tmp_path: Path, cache: Path, write: Callable[[Path], None], problem: str
) -> None:
    root = folder_of(tmp_path / "my")
    write(root / "cat" / "zz.png")
    data, told = load(root)
    assert len(data.train) + len(data.test) == 20
    assert "cat/zz.png" not in (*data.train.names, *data.test.names)
    ((name, why),) = broken(cache).items()
    assert name == "cat/zz.png"
    assert problem in why
    assert any(f"left out 1: cat/zz.png: {why}" in line for line in told)
    for split in (data.train, data.test):  # none of the others moved
        for name, image in zip(split.names, split.images, strict=True):
            with Image.open(root / name) as file:
                assert np.array_equal(np.asarray(file), image.numpy())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read(tmp_path: Path, cache: Path) -> None:
    root = folder_of(tmp_path / "my")
    (root / "cat" / "00.png").chmod(0)
    load(root)
    assert broken(cache) == {"cat/00.png": "Permission denied"}


def test_what_can_t_be_read_has_no_say_in_what_all_images_are(tmp_path: Path) -> None:
    for k, name in enumerate(("cat", "dog")):
        for i in range(10):
            picture(tmp_path / "my" / name / f"{i}.png", 10 * k + i, channels=1)
    write_half(tmp_path / "my" / "cat" / "3.png")  # larger, and in colour
    data, _ = load(tmp_path / "my")
    assert data.train.images.shape[1:] == (8, 8, 1)


def test_more_broken_files_than_are_allowed_stop_with_one_line(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "my")
    for i in range(3):
        (root / "cat" / f"{i:02d}.png").write_bytes(b"x")
    with pytest.raises(
        BadInput, match=r"3 of 20 in .* more than max_broken 0\.01: left out 3: cat"
    ):
        load(root)
    data, told = load(root, max_broken=0.2)
    assert len(data.train) + len(data.test) == 17
    assert any(str(cache_folder()) in line for line in told)


def test_nothing_readable_at_all(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "my" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "my" / name / f"{i}.png").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"no image of .* can be read; left out 8: a/0\.png"):
        load(tmp_path / "my", max_broken=1.0)


# -------------------------------------------------------------------------------- classes


def test_too_little_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="1 class of labels, nothing to learn: all are 'cat'"):
        load(folder_of(tmp_path / "one", ["cat"]))
    with pytest.raises(BadInput, match="1 class of labels, nothing to learn"):
        load(folder_of(tmp_path / "single", ["cat"], each=1))
    with pytest.raises(BadInput, match="has 2 samples, and none of them for test"):
        load(folder_of(tmp_path / "pair", each=1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty has no images in folders of classes; accepted"):
        load(tmp_path / "empty")
    folder_of(tmp_path / "untrained" / "test")
    with pytest.raises(BadInput, match="has 20 samples, and none of them for training"):
        load(tmp_path / "untrained")


def test_a_class_in_one_split_only_is_told(tmp_path: Path) -> None:
    folder_of(tmp_path / "my" / "train", ["cat", "dog", "emu"], each=4)
    folder_of(tmp_path / "my" / "test", ["cat", "dog", "fox"], each=4)
    data, told = load(tmp_path / "my")
    assert "classes among the training samples, but not among the test samples: emu" in told
    # What no sample is trained on can't be learned, and a test of it says nothing.
    assert data.class_names == ("cat", "dog", "emu")
    assert (len(data.train), len(data.test)) == (12, 8)
    assert any(
        line.startswith("not tested on: 4 samples of classes that no training sample has: fox")
        for line in told
    )
    data, told = load(tmp_path / "my", classes="cat,dog,emu,fox")
    assert data.class_names == ("cat", "dog", "emu", "fox")
    assert len(data.test) == 12
    assert "classes among the test samples, but not among the training samples: fox" in told


def test_classes_that_differ_in_case_are_told(tmp_path: Path) -> None:
    data, told = load(folder_of(tmp_path / "my", ["Cat", "cat"]))
    assert data.class_names == ("Cat", "cat")
    assert "classes that differ in case alone are 2 classes: Cat, cat" in told


@pytest.mark.slow
def test_two_thousand_classes(tmp_path: Path) -> None:
    shown = noise_of(0, 4)
    for k in range(2000):
        (tmp_path / "my" / f"c{k}").mkdir(parents=True)
    first = tmp_path / "my" / "c0" / "a.png"
    Image.fromarray(shown).save(first)
    content = first.read_bytes()
    for k in range(2000):
        for name in ("a.png", "b.png"):
            (tmp_path / "my" / f"c{k}" / name).write_bytes(content)
    data, told = load(tmp_path / "my")
    assert (data.num_classes, len(data.train), len(data.test)) == (2000, 2000, 2000)
    assert np.bincount(data.test.labels.given).tolist() == [1] * 2000
    assert any(line.startswith("4,000 images have a copy with another label") for line in told)
    assert any(line.startswith("2,000 of 2,000 test images are copies of train") for line in told)
    assert any(line.startswith("copies are nearly all there is") for line in told)


def test_copies_with_different_labels_are_listed(tmp_path: Path, cache: Path) -> None:
    root = folder_of(tmp_path / "my")
    (root / "dog" / "copy.png").write_bytes((root / "cat" / "03.png").read_bytes())
    (root / "cat" / "same.png").write_bytes((root / "cat" / "04.png").read_bytes())
    _, told = load(root)
    (path,) = cache.glob("*/copies.csv")
    assert any(f"2 images have a copy with another label, so wrong labels are among them: {path}"
               in line for line in told)  # fmt: skip
    with path.open(newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert sorted(rows) == [("cat/03.png", "cat", "1"), ("dog/copy.png", "dog", "1")]


# ---------------------------------------------------------------------------------- lists


def list_of(root: Path, text: str | bytes, name: str = "list.csv", count: int = 10) -> Path:
    for i in range(count):
        picture(root / "images" / f"{i}.png", i)
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def csv_text(labels: Sequence[object], head: str = "file_name,label") -> str:
    rows = [f"images/{i}.png,{label}" for i, label in enumerate(labels)]
    return "\n".join([head, *rows, ""])


def labels_of(data: Dataset) -> dict[str, str]:
    return {
        name: data.class_names[label]
        for split in (data.train, data.test)
        for name, label in zip(split.names, split.labels.given, strict=True)
    }


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["cat", "dog"] * 5, ("cat", "dog")),
        ([1, 10, 2, 1, 10] * 2, ("1", "2", "10")),
        ([1.0, 10.0, 2.0, 1.0, 10.0] * 2, ("1", "2", "10")),
        (["-1", "1"] * 5, ("-1", "1")),
        (["007", "7"] * 5, ("007", "7")),
        (["1.5", "big"] * 5, ("1.5", "big")),
        (["true", "false"] * 5, ("false", "true")),
    ],
)
def test_labels_of_a_list(tmp_path: Path, labels: list[object], classes: tuple[str, ...]) -> None:
    data, _ = load(list_of(tmp_path, csv_text(labels)))
    assert data.class_names == classes
    shown = {f"images/{i}.png": as_text(label) for i, label in enumerate(labels)}
    assert labels_of(data) == shown


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    path = list_of(tmp_path, csv_text([i / 7 for i in range(1, 11)]))
    with pytest.raises(BadInput, match=r"numbers such as .*; accepted: words or whole numbers"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("images/0.png", '"images/0.png"'),
        lambda text: text.replace("file_name,label", " file_name , label "),
        lambda text: text.replace(",", ", "),
        lambda text: text + "\n\n",
    ],
    ids=["bom", "semicolons", "tabs", "windows", "quotes", "spaces", "indents", "empty lines"],
)
def test_dialects_of_csv(tmp_path: Path, change: Callable[[str], str]) -> None:
    plain = csv_text(["a", "b"] * 5)
    data, _ = load(list_of(tmp_path, change(plain)))
    assert labels_of(data) == {f"images/{i}.png": "ab"[i % 2] for i in range(10)}


def test_a_list_with_names_of_all_kinds(tmp_path: Path) -> None:
    names = ["a,b.png", "new\nline.png", "ü x.png", 'q"q.png', "end .png "]
    path = list_of(tmp_path, csv_text(["a", "b"] * 5))
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([name, "b"] for name in names)
    for i, name in enumerate(names):
        picture(tmp_path / "any.png", 20 + i)
        (tmp_path / "any.png").rename(tmp_path / name)
    data, _ = load(path)
    assert set(names) < set(labels_of(data))


def test_what_is_missing_in_a_list(tmp_path: Path, cache: Path) -> None:
    labels = ["a", "b"] * 100
    text = csv_text(labels) + "images/3.png,\nimages/gone.png,a\n,a\nimages/4.png,a,more\n"
    data, told = load(list_of(tmp_path, text, count=200), max_broken=0.02)
    assert len(data.train) + len(data.test) == 200
    assert broken(cache) == {
        "images/3.png": "no label",
        "images/gone.png": "no such file",
        "row 204": "no file is named",
        "row 205": "3 cells under 2 columns",
    }
    assert any("left out 4: " in line for line in told)


def test_splits_and_clean_labels_of_a_list(tmp_path: Path) -> None:
    rows = [
        {"file_name": f"images/{i}.png", "label": i % 2, "split": "test" if i > 6 else "train"}
        for i in range(10)
    ]
    for i, row in enumerate(rows):
        row["clean_label"] = None if i in (0, 1) else (row["label"] + (i == 4)) % 2  # type: ignore[operator]
    text = "\n".join(map(json.dumps, rows))
    data, _ = load(list_of(tmp_path, text, "list.jsonl"))
    assert data.train.names == tuple(f"images/{i}.png" for i in range(7))
    assert data.train.labels.given.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert data.train.labels.true.tolist() == [UNKNOWN, UNKNOWN, 0, 1, 1, 1, 0]
    assert data.train.labels.wrong.tolist() == [False] * 4 + [True] + [False] * 2
    assert data.on == "true"  # the truth of every test image is told


def test_another_column_of_labels(tmp_path: Path) -> None:
    text = "path,label,noisy\n" + "".join(
        f"images/{i}.png,{'ab'[i % 2]},{'xyz'[i % 3]}\n" for i in range(10)
    )
    path = list_of(tmp_path, text)
    assert load(path)[0].class_names == ("a", "b")
    noisy = load(path, label_column="noisy")[0]
    assert noisy.class_names == ("x", "y", "z")
    assert noisy.digest != load(path)[0].digest
    with pytest.raises(BadInput, match=r"no column of the labels \('nosy'; --label-column\); its "
                       "columns: 'path', 'label', 'noisy'"):  # fmt: skip
        load(path, label_column="nosy")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "", "lists no sample; it is empty"),
        ("list.csv", "a,b\n1,2\n", r"no column of the labels \('label'; --label-column\)"),
        ("list.csv", b"file_name,label\n\xff\xfe,a\n", "is not UTF-8"),
        ("list.jsonl", "no json\n", "lists no sample; left out 1: row 1: no JSON"),
        ("list.csv", "file_name,label\nnone.png,a\n", "left out 1: none.png: no such file"),
        ("data.txt", "x", r"is no data set; accepted: a folder of classes, a list"),
        ("data.npz", "x", r"holds no arrays of numbers"),
        ("list.parquet", "x", r"pyarrow|damaged or no Parquet"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load(list_of(tmp_path, text, name, count=1))


def test_a_parquet_list(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = list_of(tmp_path, "", "list.parquet")
    names = [f"images/{i}.png" for i in range(10)]
    table = pyarrow.table({"file_name": names, "label": [float(i % 2) for i in range(10)]})
    parquet.write_table(table, path)
    data, _ = load(path)
    assert data.class_names == ("0", "1")


def test_a_column_of_images_by_another_name(tmp_path: Path) -> None:
    data, told = load(list_of(tmp_path, csv_text(["a", "b"] * 5, "img path,label")))
    assert labels_of(data)["images/1.png"] == "b"
    assert "column 'img path' names the files" in told


def test_metadata_in_a_folder_as_imagefolder_has_it(tmp_path: Path) -> None:
    list_of(tmp_path, csv_text(["a", "b"] * 5), "metadata.csv")
    data, _ = load(tmp_path)
    assert labels_of(data)["images/1.png"] == "b"


# --------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    "names", [("x_train", "y_train", "x_test", "y_test"),
              ("train_images", "train_labels", "test_images", "test_labels")],
)  # fmt: skip
def test_an_npz_with_a_test_split(tmp_path: Path, names: tuple[str, ...]) -> None:
    images = np.stack([noise_of(i) for i in range(12)])
    labels = np.arange(12)[:, None] % 3  # as MedMNIST has them
    parts = (images[:8], labels[:8], images[8:], labels[8:])
    np.savez(tmp_path / "my.npz", **dict(zip(names, parts, strict=True)), label_names=["q"])
    data, _ = load(tmp_path / "my.npz")
    assert data.name == "my"
    assert np.array_equal(data.train.images.numpy(), images[:8])
    assert np.array_equal(data.test.images.numpy(), images[8:])
    assert data.test.labels.given.tolist() == [2, 0, 1, 2]
    assert load(tmp_path / "my.npz", image_size=8)[0].digest == data.digest
    with pytest.raises(BadInput, match=r"image_size is 16, but .* of height 8, which are taken as"):
        load(tmp_path / "my.npz", image_size=16)
    assert data.train.names[1] == "train:1"


def test_an_npz_without_one_and_with_true_labels(tmp_path: Path) -> None:
    images = np.stack([noise_of(i, channels=1) for i in range(10)]) / 255
    true = np.array([0, 1] * 4 + [UNKNOWN] * 2)
    np.savez(tmp_path / "my.npz", x=images, y=np.array([0, 1] * 5), y_clean=true)
    data, _ = load(tmp_path / "my.npz")
    assert data.train.images.shape == (8, 8, 8, 1)
    for split in (data.train, data.test):
        for name, image, label in zip(split.names, split.images, split.labels.true, strict=True):
            assert np.array_equal(image[..., 0].numpy(), noise_of(int(name), channels=1))
            assert label == true[int(name)]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((4, 8, 8))}, "lacks images or labels: x and y, or"),
        ({"a": np.zeros(4)}, "no arrays that are called images and labels"),
        ({"x": np.zeros(4), "y": np.zeros(4)}, r"are \[4\]; accepted: \[N, H, W\]"),
        ({"x": np.full((4, 8, 8), -7.0), "y": np.zeros(4)}, "from -7.0 to -7.0; accepted: whole"),
        ({"x": np.full((4, 8, 8), np.nan), "y": np.zeros(4)}, "from nan to nan; accepted: whole"),
        ({"x": np.full((4, 8, 8), "a"), "y": np.zeros(4)}, "pixels of .* are <U1; accepted: whole"),
        ({"x": np.zeros((4, 8, 8)), "y": np.zeros(3)}, "4 images but 3 labels"),
        ({"x": np.array([{}]), "y": np.zeros(1)}, "holds no arrays of numbers"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "my.npz", **arrays)
    with pytest.raises(BadInput, match=message):
        load(tmp_path / "my.npz")


class Ten:
    """A torch Dataset in all but its base."""

    def __init__(self, item: Callable[[int], Any], classes: list[str] | None = None) -> None:
        self.item, self.label = item, [0, 1] * 5
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> Any:
        return self.item(i), self.label[i]


@pytest.mark.parametrize(
    "item",
    [
        lambda i: Image.fromarray(noise_of(i)),
        noise_of,
        lambda i: torch.from_numpy(noise_of(i)).permute(2, 0, 1),
        lambda i: torch.from_numpy(noise_of(i)).permute(2, 0, 1) / 255,
    ],
    ids=["pillow", "array", "uint8", "float"],
)
def test_arrays_and_torch_datasets_are_the_same_data(item: Callable[[int], Any]) -> None:
    images = np.stack([noise_of(i) for i in range(10)])
    expected = apl.load_data((images, ["cat", "dog"] * 5), say=lambda line: None)
    data = apl.load_data(Ten(item, ["cat", "dog"]), say=lambda line: None)
    assert data.class_names == expected.class_names == ("cat", "dog")
    assert torch.equal(data.train.images, expected.train.images)
    assert data.train.labels.given.tolist() == expected.train.labels.given.tolist()
    assert data.digest == expected.digest
    config = make_config(dataset=data, noise="none", epochs=1, network="mlp", width=4)
    assert train(config, machine=HERE, data=data).on == "given"


class Lazy:
    """A torch Dataset that knows which of its items are still held."""

    def __init__(self, item: Callable[[int], Any], count: int = 10) -> None:
        self.item, self.count = item, count
        self.given: list[weakref.ref[Any]] = []
        self.most = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Any:
        item = self.item(i)
        if not isinstance(item, str):
            self.given.append(weakref.ref(item))
        self.most = max(self.most, sum(ref() is not None for ref in self.given))
        return item, "ab"[i % 2]


@pytest.mark.slow
def test_what_is_in_memory_is_found_by_its_config(tmp_path: Path, cache: Path, cli: Cli) -> None:
    pixels = np.stack([noise_of(i) for i in range(20)])
    data = load_data((pixels, ["cat", "dog"] * 10), say=lambda line: None)
    config = make_config(dataset=data, noise="none", epochs=2, network="mlp", width=4)
    found = data_of(config, HERE)
    assert torch.equal(found.train.images, data.train.images)
    assert found.train.names == data.train.names
    train(config, tmp_path / "run", machine=HERE, listener=Listener(on_message=ignore))
    # Another process, as a worker of a study is, has the run's folder alone.
    assert "cat " in cli("evaluate", str(tmp_path / "run")).stdout
    # The same content is not written again, another one is.
    (about,) = cache.glob("*/about.json")
    before = about.stat().st_mtime_ns
    again = load_data((pixels.copy(), ["cat", "dog"] * 10), say=lambda line: None)
    assert again.digest == data.digest
    assert [path.stat().st_mtime_ns for path in cache.glob("*/about.json")] == [before]
    pixels[3] += 1
    assert load_data((pixels, ["cat", "dog"] * 10), say=lambda line: None).digest != data.digest
    assert len(list(cache.glob("*/about.json"))) == 2
    assert load_data(data) is data


def test_a_torch_dataset_is_read_item_by_item(cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    lazy = Lazy(lambda i: Image.fromarray(noise_of(i)))
    load_data(lazy, say=lambda line: None, progress=lambda *at: seen.append(at))
    assert len(lazy.given) == 10  # once each, as they are all alike
    assert lazy.most <= 2  # the one at hand and the one before it
    assert seen == [(i + 1, 10) for i in range(10)]
    assert {path.name for path in cache.iterdir() if path.is_dir()} == {
        path.parent.name for path in cache.glob("*/about.json")
    }  # and nothing is left of the reading


@pytest.mark.parametrize(
    ("item", "shape"),
    [
        (lambda i: Image.fromarray(noise_of(i, 8 + i % 3)), (64, 64, 3)),
        (lambda i: Image.fromarray(noise_of(i, channels=3 if i == 7 else 1)), (8, 8, 3)),
        (lambda i: Image.fromarray(noise_of(i, 8 + i % 3, 1 + 2 * (i % 2))), (64, 64, 3)),
        (lambda i: Image.fromarray(noise_of(i, 100, 1)), (64, 64, 1)),
    ],
    ids=["sizes", "colour at last", "both", "large"],
)
def test_images_of_a_torch_dataset_that_differ(
    item: Callable[[int], Any], shape: tuple[int, ...]
) -> None:
    data = load_data(Lazy(item), say=lambda line: None)
    assert data.train.images.shape[1:] == shape


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (lambda i: noise_of(i, 8 + i), r"differ in shape \(\[8, 8, 3\] and \[9, 9, 3\]\): resize"),
        (lambda i: torch.full((3, 8, 8), -1.5), "pixels of lazy are float32 from -1.5 to -1.5"),
        (lambda i: "a.png", r"images of lazy are \[1\]; accepted: \[N, H, W\]"),
    ],
)
def test_items_that_are_none(item: Callable[[int], Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_data(Lazy(item), say=lambda line: None)
    with pytest.raises(BadInput, match=r"items of list are of type int; accepted: \(input, label"):
        load_data([1, 2, 3], say=lambda line: None)


@pytest.mark.parametrize(
    ("images", "labels", "asked"),
    [
        ("images", "labels", ""),
        ("x_train", "y_train", ""),
        ("x", "y", "x.npy"),
        ("photos", "photos_labels", "photos.npy"),
    ],
)
def test_npy_files_beside_each_other(tmp_path: Path, images: str, labels: str, asked: str) -> None:
    pixels = np.stack([noise_of(i) for i in range(10)])
    top = tmp_path / "my"
    top.mkdir()
    np.save(top / f"{images}.npy", pixels)
    np.save(top / f"{labels}.npy", ["cat", "dog"] * 5)
    np.save(top / "notes.npy", np.array([{}], object))  # not looked at
    if images == "x_train":
        np.save(top / "x_test.npy", pixels[:2])
        np.save(top / "y_test.npy", ["cat", "dog"])
    data, _ = load(top / asked)
    for split in (data.train, data.test):
        for name, image in zip(split.names, split.images, strict=True):
            assert np.array_equal(image.numpy(), pixels[int(name.rpartition(":")[2])])
    assert len(data.test) == 2
    (top / f"{labels}.npy").unlink()
    with pytest.raises(BadInput, match=r"lacks images or labels|has no labels beside it; accepted"):
        load(top / asked)


def test_what_is_no_data() -> None:
    with pytest.raises(BadInput, match="the data is a int; accepted: digits"):
        load_data(3)
    said = r"dataset is 'my/cifar'; accepted: digits.*, or hf:.* \(did you mean 'cifar10'"
    with pytest.raises(BadInput, match=said):
        load_data("my/cifar")
    with pytest.raises(BadInput, match="10 images but 9 labels"):
        load_data((np.zeros((10, 8, 8)), [0] * 9))


# -------------------------------------------------------------------------------- the cache


def test_a_second_time_nothing_is_decoded(tmp_path: Path, cache: Path) -> None:
    root = folder_of(tmp_path / "my")
    first, told = load(root)
    (entry,) = cache.glob("*/about.json")
    before = entry.stat().st_mtime_ns
    second, again = load(root)
    assert (told, first.digest) == (again, second.digest)
    assert entry.stat().st_mtime_ns == before
    assert torch.equal(first.train.images, second.train.images)
    # A worker of a study has the digest alone.
    config = make_config(dataset=first)
    assert torch.equal(data_of(config, HERE).test.images, first.test.images)


def test_a_changed_file_is_decoded_anew(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "my")
    first, _ = load(root)
    pixels = picture(root / "cat" / "05.png", 77)
    second, _ = load(root)
    assert np.array_equal(image_of(second, "cat/05.png"), pixels)
    assert second.digest != first.digest
    # Touched and the same inside, it is another file and the same data.
    os.utime(root / "cat" / "06.png", ns=(1, 1))
    third, _ = load(root)
    assert third.digest == second.digest


@pytest.mark.slow
def test_several_processes_decode_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path / "my", each=40)
    (root / "cat" / "39.png").write_bytes(b"x")
    one, _ = load(root, max_broken=0.1)
    monkeypatch.setattr(images, "FEW", 1)
    monkeypatch.setattr(images, "BLOCK", 8)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    seen: list[tuple[int, int]] = []
    many, _ = load(root, max_broken=0.1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (80, 80)
    assert len(seen) == 10
    assert many.digest == one.digest
    assert torch.equal(many.train.images, one.train.images)


def decode_slowly(root: Path, told: Connection) -> None:
    """Decode a folder in a process of its own, a few images at a time."""
    images.FEW, images.BLOCK, images.FLUSH_SECONDS = 10**6, 8, 0.0

    def slowly(done: int, total: int) -> None:
        told.send(done)
        time.sleep(0.05)

    files.read_path(root, progress=slowly)


def decoding(root: Path) -> tuple[Any, Connection]:
    """A process that does so, and what tells how many it has decoded."""
    hears, tells = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=decode_slowly, args=(root, tells))
    process.start()
    tells.close()
    return process, hears


@pytest.mark.slow
def test_a_killed_decoding_goes_on(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder_of(tmp_path / "my", each=60)
    process, hears = decoding(root)
    while hears.recv() < 40:
        pass
    process.kill()
    process.join()
    (mask,) = cache.glob("*/decoded.u8")
    done = int(np.fromfile(mask, np.uint8).sum())
    assert 32 <= done < 120
    monkeypatch.setattr(images, "FEW", 10**6)
    monkeypatch.setattr(images, "BLOCK", 8)  # so that one begun anew would tell of 8 first
    seen: list[int] = []
    data, _ = load(root, progress=lambda count, total: seen.append(count))
    assert seen[0] > done
    assert sum(1 for split in (data.train, data.test) for _ in split.names) == 120
    for split in (data.train, data.test):
        for name, image in zip(split.names, split.images, strict=True):
            with Image.open(root / name) as file:
                assert np.array_equal(np.asarray(file), image.numpy())


@pytest.mark.slow
def test_those_who_want_the_same_data_wait_for_one(tmp_path: Path, cache: Path) -> None:
    root = folder_of(tmp_path / "my", each=60)
    process, hears = decoding(root)
    hears.recv()  # it decodes
    data, told = load(root)
    process.join()
    assert process.exitcode == 0
    assert told[0] == "another process decodes my: waiting for it"
    assert len(data.train) == 96
    assert len(list(cache.glob("*/about.json"))) == 1


@pytest.mark.parametrize("how", ["killed", "damaged"])
def test_a_cache_that_was_cut_short_is_made_anew(tmp_path: Path, cache: Path, how: str) -> None:
    root = folder_of(tmp_path / "my")
    first, _ = load(root)
    expected = first.train.images.clone()
    (about,) = cache.glob("*/about.json")
    del first
    if how == "killed":  # before its last file
        about.unlink()
    (about.parent / "images.u8").write_bytes(b"short")
    second, _ = load(root)
    assert torch.equal(second.train.images, expected)


def test_batches_of_mapped_images_copy_no_more_than_a_batch(tmp_path: Path) -> None:
    data, _ = load(folder_of(tmp_path / "my"))
    asked, cpu = make_config(batch_size=4, augment=True), torch.device("cpu")
    batches = Batches(data, asked, cpu)
    assert batches.images.data_ptr() == data.train.images.data_ptr()
    copy = dataclasses.replace(
        data, train=dataclasses.replace(data.train, images=data.train.images.clone())
    )
    for (i, a), (j, b) in zip(batches.of(1), Batches(copy, asked, cpu).of(1), strict=True):
        assert torch.equal(i, j)
        assert torch.equal(a, b)


# ------------------------------------------------------------------------ from data to a run


@pytest.mark.slow
def test_cifar10_as_png_trains_to_the_same_bytes(cifar10: str, tmp_path: Path) -> None:
    built_in = load_data(cifar10)
    first = np.arange(300)
    small = dataclasses.replace(
        built_in, train=built_in.train.take(first), test=built_in.test.take(first)
    )
    for split in ("train", "test"):
        part = getattr(small, split)
        for i, label in enumerate(part.labels.given):
            path = tmp_path / "png" / split / small.class_names[label] / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(part.images[i].numpy()).save(path)
    data, _ = load(tmp_path / "png")
    assert data.class_names == small.class_names
    for split in ("train", "test"):
        ours, theirs = getattr(data, split), getattr(small, split)
        assert torch.equal(ours.images, theirs.images)
        assert ours.labels.given.tolist() == theirs.labels.given.tolist()
    # Mean and std are of the 300 images here and of all 50,000 there: nothing else differs, and of
    # all of them they are the same.
    assert files.moments(built_in.train.images.numpy()) == (built_in.mean, built_in.std)
    same = dataclasses.replace(data, mean=small.mean, std=small.std)
    settings = {"noise": "sym", "rate": 0.4, "epochs": 2, "network": "cnn4", "width": 8}
    settings |= {"warm_start": 0.0, "weight_decay": 1e-4}  # as built-in data have them
    weights = []
    for chosen in (same, small):
        config = make_config(dataset=chosen, augment=True, **settings)
        network = apl_network(config, chosen)
        train(
            config, machine=HERE, data=chosen, network=network, listener=Listener(on_message=ignore)
        )
        weights.append(network.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def apl_network(config: Any, data: Dataset) -> torch.nn.Module:
    from apl.training.networks import make_network

    torch.manual_seed(0)
    shape = tuple(data.train.images.shape[1:])
    return make_network(config.network, shape, data.num_classes, config.width)


def test_the_config_of_own_data_holds_no_path(tmp_path: Path) -> None:
    data, _ = load(folder_of(tmp_path / "my"))
    config = make_config(dataset=data, loss="ce")
    assert config.epochs == 80  # of one step each
    assert make_config(dataset=data, epochs=3).epochs == 3
    config = make_config(dataset=data, loss="ce", epochs=7)
    assert (config.dataset, config.dataset_sha256) == ("my", data.digest)
    assert (config.image_size, config.network) == (8, "cnn4")
    assert str(tmp_path) not in json.dumps(dataclasses.asdict(config))
    assert config.overrides == {"image_size": 8}
    (command,) = study_commands(make_grid("quick", ["ce"], dataset=data, epochs=7))
    assert command == (
        "apl study --preset quick --losses ce --noise none --dataset my --image-size 8"
    )
    assert type(config).read(dataclasses.asdict(config)) == config
    # Their labels are noisy as they are; a rate asks for more.
    assert {cell.noise for cell in make_grid("quick", dataset=data)} == {"none"}
    assert {cell.noise for cell in make_grid("quick", rates=[0.4], dataset=data)} == {"sym"}
    assert (make_config(dataset=data).noise, make_config(dataset=data).rate) == ("none", 0.0)
    added = make_config(dataset=data, rate=0.4)
    assert (added.noise, added.rate) == ("sym", 0.4)
    assert make_config(dataset=data, noise="none").name == (
        "nce_rce_given_seed0_epochs=80,image_size=8"
    )
    other = make_config(dataset=data, noise="none", label_column="noisy")
    assert other.name == "nce_rce_given_seed0_epochs=80,image_size=8,label_column=noisy"
    for preset in ("laptop", "paper", "report"):
        assert make_config(preset, dataset=data).train_size == 0
    # Short budgets begin with ce, so that no class is given up; the paper's protocol does not.
    assert [make_config(preset, dataset=data).warm_start for preset in PRESETS] == [2, 2, 0, 0]
    without = make_config(dataset=data, epochs=7, warm_start=0.0)
    assert without.overrides == {"image_size": 8, "warm_start": 0.0}
    with pytest.raises(BadInput, match=r"dataset is 'my'; accepted: digits"):
        make_config(dataset="my")
    with pytest.raises(BadInput, match="cifar10 with human noise"):
        make_config(dataset=data, noise="human")
    with pytest.raises(BadInput, match="image_size is 16; accepted: 0 with a built-in"):
        make_config(dataset="digits", image_size=16)
    with pytest.raises(BadInput, match="label_column is 'x'; accepted: label with a built-in"):
        make_config(dataset="digits", label_column="x")


def test_own_data_are_never_taken_for_a_built_in_set(tmp_path: Path) -> None:
    data, _ = load(folder_of(tmp_path / "cifar10"))
    assert data.name == "cifar10-own"
    assert make_config(dataset=data).network == "cnn4"


def test_noise_on_top_takes_given_labels_for_true(tmp_path: Path) -> None:
    data, _ = load(folder_of(tmp_path / "my", each=50))
    asked = make_config(dataset=data, noise="sym", rate=0.4, method="exact")
    labels = prepare(asked, HERE).train.labels
    assert labels.true.tolist() == data.train.labels.given.tolist()
    assert labels.wrong.sum() == 32
    plain = prepare(make_config(dataset=data, noise="none"), HERE).train.labels
    assert not plain.known.any()
    assert plain.transition is None


def separable(root: Path, each: int = 40) -> Path:
    """Two classes that a network tells apart in seconds."""
    for k, name in enumerate(("dark", "light")):
        for i in range(each):
            path = root / name / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = noise_of(100 * k + i) // 2 + 127 * k
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.mark.slow
def test_train_and_evaluate_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    separable(tmp_path / "my")
    fast = ("--epochs", "4", "--width", "8", "--batch-size", "16", "--threads", "1")
    shown = cli("train", "--dataset", "my/", "--loss", "nce_rce", "--rate", "0.2", *fast).stdout
    assert "on my (quick), in results/my-quick-train/runs/nce_rce_sym-0.2_seed0" in shown
    assert "test (given labels)" in shown
    assert "accuracy on the given test labels" in shown
    assert "clean" not in shown
    run = next((tmp_path / "results" / "my-quick-train" / "runs").iterdir())
    assert json.loads((run / "result.json").read_text())["on"] == "given"
    for file in run.rglob("*.json"):
        assert str(tmp_path) not in file.read_text()
    # It is shown and not repeated, and found without a path.
    cli("train", "--dataset", "my/", "--loss", "nce_rce", "--rate", "0.2", *fast)
    assert "on the given test labels" in cli("evaluate", str(run)).stdout
    # Moved, and the cache gone: it needs the path, and knows the data by their content.
    (tmp_path / "my").rename(tmp_path / "moved")
    env = {"XDG_CACHE_HOME": str(tmp_path / "empty")}
    failed = cli("evaluate", str(run), code=2, **env).stderr
    assert "my (sha256 " in failed
    assert "give its path with --dataset" in failed
    moved = cli("evaluate", str(run), "--dataset", "moved", **env).stdout
    assert "on the given test labels" in moved
    picture(tmp_path / "moved" / "dark" / "00.png", 1)
    env = {"XDG_CACHE_HOME": str(tmp_path / "changed")}
    assert "has changed since" in cli(
        "evaluate", str(run), "--dataset", "moved", code=2, **env
    ).stderr  # fmt: skip


@pytest.mark.slow
def test_a_study_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    separable(tmp_path / "my")
    ask = ("study", "--dataset", "./my", "--losses", "ce,gce,nce_rce", "--noise", "none,sym")
    more = ("--rates", "0.2", "--seeds", "1", "--epochs", "3", "--width", "8", "--no-pictures")
    shown = cli(*ask, *more, "--workers", "2").stdout
    assert "6 runs in results/my-quick" in shown
    assert " on given labels" in shown
    assert len(list(Path(cache_folder() / "decoded").glob("*/about.json"))) == 1
    again = cli(*ask, *more)
    assert "6/6" not in again.stdout
    record = (tmp_path / "results" / "my-quick" / "runs.jsonl").read_text().splitlines()
    assert len(record) == 6
    assert str(tmp_path) not in "".join(record)
    table = (tmp_path / "results" / "my-quick" / "table.md").read_text()
    assert re.search(r"^\| Method +\| +as given +\| +sym 0.2 +\|$", table, re.MULTILINE)
    assert "clean" not in table


@pytest.mark.slow
def test_noise_of_own_data_from_the_command_line(here: Cli, tmp_path: Path) -> None:
    separable(tmp_path / "my")
    assert "of 64 labels changed" in here("noise", "--dataset", "my", "--rate", "0.5").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "cifra10"], "(did you mean 'cifar10'?)"),
        (
            ["--dataset", "nowhere/"],
            "accepted: digits, cifar10, cifar100, mnist, a path that exists",
        ),
        (["--max-broken", "2"], "max_broken is 2.0; accepted: a number from 0 to 1"),
        (["--image-size", "16"], "image_size is 16; accepted: 0 with a built-in data set"),
    ],
)
def test_bad_input_on_the_command_line(here: Cli, arguments: list[str], message: str) -> None:
    failed = here("train", *arguments, code=2)
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1
