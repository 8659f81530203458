"""Pixels of 16 and 32 bits, floats, fractions: one range for a whole set, and it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from told import load

from apl.data.dataset import Dataset
from apl.data.depth import full_range
from apl.errors import BadInput

COUNT = 20


pytestmark = pytest.mark.usefixtures("cache")


def shades(high: int, dark: int = 3) -> np.ndarray[Any, Any]:
    """Grey pictures [N, 8, 8] of 0 to high, but for a first one of 0 to `dark`."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, high + 1, (COUNT, 8, 8))
    values[:, 0, 0], values[:, 0, 1] = 0, high
    values[0] = np.minimum(values[0], dark)
    return values


def decoded(data: Dataset, name: Callable[[str], int] = int) -> np.ndarray[Any, Any]:
    found = np.zeros((COUNT, 8, 8), np.uint8)
    for split in (data.train, data.test):
        for each, image in zip(split.names, split.images, strict=True):
            found[name(each)] = image[..., 0].numpy()
    return found


LABELS = ["cat", "dog"] * (COUNT // 2)
RANGES = [(255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4095, 4095), (9000, 16383)]
DEEP = [*RANGES, (65535, 65535)]


def line_of(full: int) -> list[str]:
    told = f"pixels of 0 to {full} become 0 to 255: the range that all of them take"
    return [told] if full != 255 else []


def files_of(root: Path, values: np.ndarray[Any, Any], suffix: str) -> Path:
    for i, image in enumerate(values):
        (root / LABELS[i]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / LABELS[i] / f"{i}{suffix}")
    return root


def number(name: str) -> int:
    return int(Path(name).stem)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("high", "full"), DEEP)
def test_files_of_16_bits_keep_their_picture(
    tmp_path: Path, high: int, full: int, suffix: str
) -> None:
    values = shades(high).astype(np.uint16)
    data, told = load(files_of(tmp_path / "my", values, suffix))
    assert np.array_equal(decoded(data, number), np.rint(values * (255 / full)).astype(np.uint8))
    assert [line for line in told if line.startswith("pixels of")] == line_of(full)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "full"),
    [
        (shades(100_000).astype(np.int32), (0, 131071)),
        (shades(1000).astype(np.int32) - 1000, (-1024, 255)),
        (shades(4000).astype(np.int32) - 1000, (-1024, 4095)),
        (shades(4000).astype(np.float32) / 4000, (0, 1)),
        (shades(200).astype(np.float32), (0, 255)),
        (shades(1000).astype(np.float32) / 400, (0, 3)),
    ],
)
def test_files_of_32_bits_have_one_range(
    tmp_path: Path, values: np.ndarray[Any, Any], full: tuple[int, int]
) -> None:
    data, _ = load(files_of(tmp_path / "my", values, ".tif"))
    low, high = full
    wanted = np.rint((values.astype(np.float64) - low) * (255 / (high - low)))
    assert np.abs(decoded(data, number) - wanted).max() <= 1  # float32, or a tie
    assert len(np.unique(decoded(data, number))) > 90


def test_pixels_that_are_no_numbers_are_broken(tmp_path: Path) -> None:
    values = shades(200).astype(np.float32)
    values[3, 2, 2] = np.nan
    data, told = load(files_of(tmp_path / "my", values, ".tif"))
    assert len(data.train) + len(data.test) == COUNT - 1
    assert any("dog/3.tif: pixels that are no numbers" in line for line in told)


def test_the_brightest_of_all_is_found_late(tmp_path: Path) -> None:
    """The guess looks at some of the images: the rest may be brighter."""
    values = np.full((150, 8, 8), 200, np.uint16)
    values[149] = 4000
    root = tmp_path / "my"
    for i, image in enumerate(values):
        (root / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "ab"[i % 2] / f"{i:03d}.png")
    data, told = load(root)
    assert line_of(4095)[0] in told
    shown = {int(image.max()) for split in (data.train, data.test) for image in split.images}
    assert shown == {12, 249}


ARRAYS: list[tuple[Any, float]] = [
    (shades(255).astype(np.int64), 255),
    (shades(255).astype(np.float32), 255),
    (shades(250) + 0.25, 255),
    (shades(1000).astype(np.uint16), 1023),
    (shades(4000).astype(np.int32), 4095),
    (shades(65535).astype(np.float64), 65535),
    (shades(255) / 255, 1),
    (shades(255).astype(np.float16) / 255, 1),
    (shades(160) / 64, 3),
    (shades(255) > 100, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("values", "full"), ARRAYS)
def test_arrays_of_any_depth(tmp_path: Path, values: Any, full: float) -> None:
    wanted = np.rint(values.astype(np.float64) * (255 / full)).astype(np.uint8)
    data, told = load((values, LABELS))
    assert np.abs(decoded(data).astype(int) - wanted).max() <= (values.dtype == np.float16)
    assert sum(line.startswith("pixels of 0 to ") for line in told) == (full not in (1, 255))
    np.savez(tmp_path / "my.npz", x=values, y=LABELS)
    assert np.array_equal(decoded(load(tmp_path / "my.npz")[0]), decoded(data))
    items = list(zip(values, LABELS, strict=True))  # the dark one first
    again, said = load(items)
    assert np.array_equal(decoded(again), decoded(data))
    assert again.digest == data.digest
    assert [line for line in said if line.startswith("pixels")] == [
        line for line in told if line.startswith("pixels")
    ]
    tensors = [(torch.tensor(value)[None], label) for value, label in items]
    if values.dtype != np.uint16:
        assert load(tensors)[0].digest == data.digest


def test_the_splits_of_an_npz_have_one_range(tmp_path: Path) -> None:
    train, test = shades(4000), shades(1000)
    parts = {"x_train": train, "y_train": LABELS, "x_test": test, "y_test": LABELS}
    np.savez(tmp_path / "my.npz", **parts)
    data, told = load(tmp_path / "my.npz")
    assert told.count(line_of(4095)[0]) == 1
    assert data.test.images.max() == round(1000 * 255 / 4095)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (shades(255) - 0.5, "float64 from -0.5 to 254.5; accepted: whole numbers, or fractions"),
        (shades(255) * np.nan, "from nan to nan"),
        (shades(255) + np.inf, "from inf to inf"),
        (shades(255).astype(complex), "complex128; accepted: whole numbers"),
    ],
)
def test_what_are_no_pixels(values: Any, said: str) -> None:
    with pytest.raises(BadInput, match=f"pixels of arrays are .*{said}"):
        load((values, LABELS))
    with pytest.raises(BadInput, match=r"pixels of list are .*; accepted: whole numbers, or"):
        load(list(zip(values, LABELS, strict=True)))


def test_full_ranges() -> None:
    for high, full in DEEP:
        assert full_range(0, high, True) == (0, full)
    assert full_range(0, 65536, True) == (0, 131071)
    assert full_range(-1, 1, True) == (-1, 255)
    assert full_range(-1000, 3000, True) == (-1024, 4095)
    assert full_range(0, 0.01, False) == (0, 1)
    assert full_range(0, 1.5, False) == (0, 3)
    assert full_range(0, 254.8, False) == (0, 255)


# ------------------------------------------------------------------------------- huge images


@pytest.mark.slow
def test_a_huge_photo_is_decoded_smaller(tmp_path: Path) -> None:
    """A JPEG of 108 million pixels, as telephones make them."""
    root = files_of(tmp_path / "my", shades(255).astype(np.uint8), ".png")
    limit = Image.MAX_IMAGE_PIXELS
    Image.new("L", (12_000, 9_000), 77).save(root / "cat" / "20.jpg", quality=50)
    data, told = load(root)
    assert len(data.train) + len(data.test) == COUNT + 1
    assert not any("left out" in line for line in told)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_option_that_allows_a_huge_image(tmp_path: Path) -> None:
    root = files_of(tmp_path / "my", shades(255).astype(np.uint8), ".png")
    Image.new("L", (40, 30), 77).save(root / "cat" / "20.png")
    _, told = load(root, max_pixels=1000)
    assert any("cat/20.png: 1,200 pixels, more than the 1,000 of --max-pixels" in x for x in told)
    data, _ = load(root, max_pixels=1200)
    assert "cat/20.png" in (*data.train.names, *data.test.names)
