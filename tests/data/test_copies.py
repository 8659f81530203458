"""Copies of one image: never on both sides of a split of ours, and told where they are."""

from __future__ import annotations

import csv
import dataclasses
import io
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from told import load

from apl.data.dataset import Dataset, Split, balanced_subset, copies
from apl.data.listing import held_out
from apl.data.near import grouped, near_pairs
from apl.training.machine import Machine
from apl.training.prepare import hold_out

pytestmark = pytest.mark.usefixtures("cache")


def noise(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def shared(data: Dataset) -> set[bytes]:
    """The images that are on both sides."""
    one, other = ({x.numpy().tobytes() for x in s.images} for s in (data.train, data.test))
    return one & other


def test_copies_are_held_out_together() -> None:
    """Pure noise with labels by chance, five copies of each: a network that remembers is no use."""
    images, coins = noise(120), np.random.default_rng(1).integers(0, 2, 120)
    data, told = load((np.repeat(images, 5, 0), np.repeat(coins, 5)))
    assert not shared(data)
    assert len(data.train) + len(data.test) == 600
    assert 0.15 < len(data.test) / 600 < 0.25
    assert "copies are held out together, or not at all" in told
    for split in (data.train, data.test):
        for name, image, label in zip(split.names, split.images, split.labels.given, strict=True):
            assert np.array_equal(image.numpy(), images[int(name) // 5])
            assert label == coins[int(name) // 5]


def test_copies_of_files_are_held_out_together(tmp_path: Path, cache: Path) -> None:
    for i, image in enumerate(noise(40)):
        for k in range(3):
            folder = tmp_path / "my" / "ab"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{k}-{i:02d}.png")
    (tmp_path / "my" / "a" / "broken.png").write_bytes(b"x")
    data, _ = load(tmp_path / "my")
    assert not shared(data)
    assert len(data.train) + len(data.test) == 120
    for split in (data.train, data.test):
        for name, image, label in zip(split.names, split.images, split.labels.given, strict=True):
            with Image.open(tmp_path / "my" / name) as file:
                assert np.array_equal(np.asarray(file), image.numpy())
            assert name.startswith("ab"[label])
    again, _ = load(tmp_path / "my")
    assert again.digest == data.digest


def test_copies_under_two_labels_are_held_out_together() -> None:
    images = np.repeat(noise(30), 2, 0)
    data, told = load((images, ["cat", "dog"] * 30))
    assert not shared(data)
    assert len(data.test) == 12
    assert any(line.startswith("60 images have a copy with another label") for line in told)


def test_a_class_of_one_image_stays_in_training() -> None:
    images = np.concatenate([noise(20), np.repeat(noise(1, 9), 10, 0)])
    data, told = load((images, ["cat"] * 20 + ["dog"] * 10))
    assert not shared(data)
    assert Counter(data.train.labels.given.tolist()) == {0: 16, 1: 10}
    assert "classes among the training samples, but not among the test samples: dog" in told


def test_without_copies_the_split_is_as_it_was() -> None:
    images, labels = noise(50), ["cat", "dog"] * 25
    data, told = load((images, labels))
    out = held_out(np.arange(50) % 2)
    assert data.test.names == tuple(str(i) for i in np.flatnonzero(out))
    assert not any("copies" in line for line in told)


def test_copies_across_a_split_that_was_given_are_told(tmp_path: Path, cache: Path) -> None:
    for i, image in enumerate(noise(20)):
        folder = tmp_path / "my" / "train" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    shutil.copytree(tmp_path / "my" / "train", tmp_path / "my" / "test")
    for i, image in enumerate(noise(5, 1)):
        Image.fromarray(image).save(tmp_path / "my" / "test" / "a" / f"new-{i}.png")
    data, told = load(tmp_path / "my")
    assert len(data.test) == 25
    (path,) = cache.glob("*/copies_across.csv")
    wanted = (
        "20 of 25 test images are copies of training images, so the accuracy says less than it "
        f"seems: {path}"
    )
    assert wanted in told
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert Counter(row["split"] for row in rows) == {"train": 20, "test": 20}
    assert {row["file_name"].split("/", 1)[1] for row in rows if row["copies_of_one_sample"] == "1"}
    for number in {row["copies_of_one_sample"] for row in rows}:
        same = [row["file_name"] for row in rows if row["copies_of_one_sample"] == number]
        assert len({name.partition("/")[2] for name in same}) == 1


def test_equal_rows_of_a_table_are_no_copies() -> None:
    rows = np.array([[i % 3, i % 2] for i in range(60)], np.float64)
    _, told = load((rows, ["cat", "dog"] * 30))
    assert not any("copies" in line for line in told)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_what_is_held_out(samples: list[tuple[int, int]]) -> None:
    labels, alike = (np.array(part, np.int64) for part in zip(*samples, strict=True))
    out = held_out(labels, alike)
    for number in alike:
        assert len({*out[alike == number].tolist()}) == 1
    for label in labels:
        assert not out[labels == label].all()
    plain = held_out(labels)
    assert np.array_equal(held_out(labels, np.arange(len(labels))), plain)
    # One image twice keeps no other class from being held out.
    assert not out.any() or out.sum() <= max(
        plain.sum() * 2, max(Counter(alike.tolist()).values()) * 4
    )


@pytest.mark.parametrize("each", [2, 5])
def test_what_is_kept_to_choose_by_never_separates_copies(each: int) -> None:
    """`--select noisy` holds a tenth out, labels as given."""
    data, _ = load((np.repeat(noise(100), each, 0), np.repeat(np.arange(100) % 2, each)))
    rest, kept = hold_out(data)
    assert not shared(dataclasses.replace(rest, test=kept))
    assert 0.05 < len(kept) / (len(rest.train) + len(kept)) < 0.15
    single, _ = load((noise(100), np.arange(100) % 2))
    _, kept = hold_out(single)  # without copies it is what it was
    given_ = single.train.labels.given
    assert kept.names == single.train.take(balanced_subset(given_, len(given_) // 10)).names


def trained_on(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> list[Split]:
    """The training samples of each of three folds."""
    seen: list[Split] = []
    from apl.detect.search import find_mislabelled
    from apl.training import train as training

    def watched(config: Any, run: Any = None, *, data: Any, **more: Any) -> Any:
        seen.append(data.train)
        return real(config, run, data=data, **more)

    real = training.train
    monkeypatch.setattr(training, "train", watched)
    find_mislabelled(data, folds=3, epochs=1, network="mlp", width=4, machine=Machine(device="cpu"))
    assert len(seen) == 3
    return seen


def test_copies_are_in_one_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = load((np.repeat(noise(30), 4, 0), np.repeat(np.arange(30) % 2, 4)))
    alike = copies(data.train)
    assert alike is not None
    assert len(set(alike.tolist())) < len(data.train)
    every = {x.numpy().tobytes() for x in data.train.images}
    seen = [{x.numpy().tobytes() for x in split.images} for split in trained_on(data, monkeypatch)]
    unseen = [every - part for part in seen]
    assert sum(map(len, unseen)) == len(every)  # each image is unseen by one, with all its copies


def pictures(count: int, side: int = 48) -> list[Image.Image]:
    """Smooth colours as photographs have them, no two alike."""
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (6, 6, 3), dtype=np.uint8) for _ in range(count)]
    return [Image.fromarray(each).resize((side, side), Image.Resampling.BICUBIC) for each in small]


def saved_again(image: Image.Image, kind: int) -> Image.Image:
    """A near copy: in another quality, resized, or without a little of each edge."""
    side, cut = image.width, round(0.06 * image.width)
    if kind == 0:
        buffer = io.BytesIO()
        image.save(buffer, "jpeg", quality=80)
        return Image.open(buffer).convert("RGB")
    if kind == 1:
        return image.resize((side // 2, side // 2)).resize((side, side))
    return image.crop((cut, cut, side - cut, side - cut)).resize((side, side))


def test_near_copies_are_found_and_no_others() -> None:
    images = pictures(150)
    copied = [saved_again(image, k % 3) for k, image in enumerate(images[:45])]
    pixels = np.stack([np.asarray(image) for image in images + copied])
    assert near_pairs(pixels).tolist() == [[i, i + 150] for i in range(45)]
    flat = np.full((4, 32, 32, 3), 7, np.uint8)
    assert not len(near_pairs(flat))
    assert not len(near_pairs(pixels[:0]))


@pytest.mark.slow
def test_near_copies_stay_on_one_side_and_are_told(tmp_path: Path) -> None:
    images = pictures(120)
    for k, image in enumerate(images):
        folder = tmp_path / "my" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{k:03d}.png")
        other = tmp_path / "my" / ("ba" if k < 6 else "ab")[k % 2]
        if k < 60:
            other.mkdir(parents=True, exist_ok=True)
            saved_again(image, k % 3).save(other / f"{k:03d}-again.png")
    data, told = load(tmp_path / "my")
    (line,) = [line for line in told if line.startswith("near copies (saved again")]
    assert "12 of another label, so wrong labels are among them: " in line
    assert "test images" not in line
    numbers = [{Path(name).stem[:3] for name in s.names} for s in (data.train, data.test)]
    assert not numbers[0] & numbers[1]
    with open(line.rpartition(": ")[2], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert rows[0]["pair"] == rows[1]["pair"]
    assert {rows[0]["label"], rows[1]["label"]} == {"a", "b"}
    # A split of the user's own stays as it is, and is told.
    (tmp_path / "split").mkdir()
    (tmp_path / "my").rename(tmp_path / "split" / "train")
    for name in "ab":
        (tmp_path / "split" / "test" / name).mkdir(parents=True)
    train = tmp_path / "split" / "train"
    for file in [*sorted((train / "a").glob("*-again.png"))[10:20], train / "b" / "119.png"]:
        file.rename(tmp_path / "split" / "test" / file.parent.name / file.name)
    _, told = load(tmp_path / "split")
    assert any("; 10 test images of training images: " in line for line in told)


@pytest.mark.slow
def test_near_copies_are_together_in_what_is_kept_to_choose_by_and_in_folds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = [np.asarray(image) for image in pictures(120)]
    again = [np.asarray(saved_again(Image.fromarray(x), k % 3)) for k, x in enumerate(pixels)]
    data, _ = load((np.stack([*pixels, *again]), ["a", "b"] * 120))
    number = {image.tobytes(): k % 120 for k, image in enumerate([*pixels, *again])}

    def whose(split: Split) -> set[int]:
        assert split.pictures is not None
        return {number[image.numpy().tobytes()] for image in split.pictures}

    rest, kept = hold_out(data)
    assert len(kept) > 5
    assert not whose(rest.train) & whose(kept)
    every = whose(data.train)
    unseen = [every - whose(split) for split in trained_on(data, monkeypatch)]
    assert sum(map(len, unseen)) == len(every)


def test_who_has_too_many_images_is_told_that_near_copies_are_not_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("apl.data.near.MOST", 30)
    _, told = load((np.stack([np.asarray(image) for image in pictures(40)]), ["a", "b"] * 20))
    assert "near copies are not looked for among more than 30 images" in told


def test_a_chain_of_likenesses_joins_no_more_than_a_few() -> None:
    chain = np.stack([np.arange(30), np.arange(1, 31)], 1)
    assert len(np.unique(grouped(chain, np.arange(40)))) == 40
    assert len(np.unique(grouped(chain[:10], np.arange(40)))) == 30
