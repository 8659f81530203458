"""Pixels of any depth, 16 bits, floats, fractions, to bytes: one range for a whole data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from apl.errors import BadInput

Pixels = npt.NDArray[np.uint8]
BLOCK = 1024  # images at a time where all are looked at


def full_range(low: float, high: float, whole: bool) -> tuple[float, float]:
    """The range that pixels from low to high are of: 0 to 1, or as many bits as the highest takes,
    of `whole` numbers at least 8 and up to 16 an even number; below 0 as far as the lowest takes
    bits.  Raises ValueError where they are no finite numbers."""
    if not math.isfinite(low + high):
        raise ValueError("pixels that are no numbers")
    lowest = -float(2 ** math.ceil(-low - 1).bit_length()) if low < 0 else 0.0
    if not whole and high <= 1:
        return lowest, 1.0
    bits = max(0, math.ceil(high)).bit_length()
    if whole:
        bits = max(8, bits + bits % 2 if bits < 16 else bits)
    return lowest, float(2**bits - 1)


def range_of(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The range that the pixels of an array are of; (0, 0) of an empty one or one of bytes."""
    if values.dtype == np.uint8 or not values.size:
        return 0.0, 0.0
    return full_range(float(values.min()), float(values.max()), values.dtype.kind in "iu")


def to_bytes(values: npt.NDArray[Any], low: float, high: float) -> Pixels:
    """Pixels of low to high as those of 0 to 255; bytes as they are."""
    if values.dtype == np.uint8:
        return values
    if (low, high) != (0, 255):
        values = (values - low if low else values) * (255 / (high - low))
    pixels: Pixels = np.rint(values).astype(np.uint8)
    return pixels


def told_range(low: float, high: float) -> list[str]:
    """The line to tell where pixels are not of 0 to 255 or of 0 to 1."""
    if (low, high) in ((0, 0), (0, 1), (0, 255)):
        return []
    return [f"pixels of {low:g} to {high:g} become 0 to 255: the range that all of them take"]


def as_pixels(parts: Sequence[npt.NDArray[Any]], name: str, say: Callable[[str], None]) -> Pixels:
    """The images [N, H, W, C] of all parts, one after the other, as bytes.

    Raises BadInput for what are no pixels, fractions below 0 among them.
    """
    ranges = [checked_range(part, name) for part in parts]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    if len(parts) == 1 and parts[0].dtype == np.uint8:
        return np.ascontiguousarray(parts[0])
    pixels = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.uint8)
    start = 0
    for part in parts:
        for at in range(0, len(part), BLOCK):
            block = part[at : at + BLOCK]
            pixels[start : start + len(block)] = to_bytes(block, low, high)
            start += len(block)
    for line in told_range(low, high):
        say(line)
    return pixels


def checked_range(values: npt.NDArray[Any], name: str) -> tuple[float, float]:
    """As `range_of`; BadInput for what are no pixels, fractions below 0 among them."""
    kind = values.dtype.kind
    try:
        if kind not in "biuf":
            raise ValueError("pixels that are no numbers")
        low, high = range_of(values)
        if kind == "f" and low < 0:
            raise ValueError("pixels below 0")
    except ValueError:
        lowest, highest = (values.min(), values.max()) if kind in "biuf" else ("", "")
        told = f" from {lowest} to {highest}" if kind in "biuf" else ""
        odd = (
            0 if kind != "f" else int((~np.isfinite(values)).reshape(len(values), -1).any(1).sum())
        )
        holes = f"; {odd:,} of {len(values):,} images have some that are no numbers" if odd else ""
        raise BadInput(
            f"the pixels of {name} are {values.dtype}{told}; accepted: whole numbers, or fractions "
            f"from 0 on; normalised ones as they were before{holes}"
        ) from None
    return low, high


def channels_last(images: Any, name: str) -> npt.NDArray[Any]:
    """Images as [N, H, W, C]: from [N, H, W] or [N, H, W, C], or [N, C, H, W] where only the second
    axis can be one of colours."""
    array: npt.NDArray[Any] = np.asarray(images)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
        raise BadInput(
            f"the images of {name} are {list(array.shape)}; accepted: [N, H, W] or [N, H, W, C] "
            "with 1 or 3 channels"
        )
    return array
