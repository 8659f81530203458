"""A data set's health, from features and pixels that are there anyway: near copies, samples that
belong to none of the classes, and images that are blank, dark or blurred.

One pass of nearest neighbours (`apl.detect.neighbours`) says which samples are alike, and which
have no neighbours; a few statistics of the pixels the rest.  Columns are called as cleanlab's
Datalab calls them; a score is low where something is amiss.  docs/find.md argues the thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from apl.noise.labels import UNKNOWN, BoolArray, IntArray, Vector

if TYPE_CHECKING:
    from torch import Tensor

Bytes = npt.NDArray[np.uint8]

NEIGHBOURS = 10
COMPONENTS = 256  # principal ones in which neighbours are looked for
COPY = 0.13  # of the usual distance to the nearest: closer ones are near copies
LOOKS = 12  # pixels a side in which two images are compared,
ALIKE = 0.97  # how the pixels of neighbours must correlate to be near copies; or, where they lie
LESS, NEAR = 0.75, 0.5  # no further apart than so many times the usual distance, this
PER_COMPONENT = 16  # samples: scaled alike, more components than these bear are noise
NONE = 0.1  # of the usual score: samples below belong to no class
AGREED = 0.1  # share of neighbours that each class has before any is asked
DARK = 0.2  # of white, that all but one in a hundred pixels are below
BLANK = 3.0  # of 255: the standard deviation of the pixels of an image with nothing on it
BLURRED = 4.0  # robust standard deviations by which an image is less sharp than the others
MOST = 100_000  # samples whose neighbours are looked for: of more it would take longer than finding
BLOCK = 256  # images at a time


@dataclass(frozen=True)
class Health:
    """What is amiss with N samples beside their labels.

    issues, scores: by the name of each check, flags [N] and scores in [0, 1], low where it is amiss
    (Datalab's columns is_NAME_issue and NAME_score); copies: of which group of near copies each
    sample is [N], UNKNOWN of none.
    """

    issues: dict[str, BoolArray]
    scores: dict[str, Vector]
    copies: IntArray = field(default_factory=lambda: np.empty(0, np.int64))

    def columns(self, names: Sequence[str]) -> dict[str, Sequence[Any]]:
        """The columns of issues.csv: for near copies also `near_duplicate_sets`, the other samples
        of the group by name, or by number where they have none."""
        found: dict[str, Sequence[Any]] = {}
        for check, flags in self.issues.items():
            found[f"is_{check}_issue"] = flags.tolist()
            found[f"{check}_score"] = [round(x, 4) for x in self.scores[check].tolist()]
            if check == "near_duplicate":
                found["near_duplicate_sets"] = self._sets(names)
        return found

    def _sets(self, names: Sequence[str]) -> list[str]:
        members: dict[int, list[int]] = {}
        for i in np.flatnonzero(self.copies != UNKNOWN).tolist():
            members.setdefault(int(self.copies[i]), []).append(i)
        told = [""] * len(self.copies)
        for group in members.values():
            for i in group:
                others = [names[j] or str(j) for j in group if j != i][:SHOWN]
                told[i] = "; ".join(others)
        return told

    def told(self) -> list[str]:
        """What was found, a line a check that found anything."""
        lines = []
        for check, words in WORDS.items():
            count = int(self.issues[check].sum()) if check in self.issues else 0
            if count:
                lines.append(f"{words}: {count:,}")
        return lines


SHOWN = 20  # other members of a group of near copies that are named
WORDS = {
    "near_duplicate": "near copies of other samples",
    "outlier": "belong to none of the classes, perhaps",
    "low_information": "blank",
    "dark": "dark",
    "blurry": "blurred",
}
"""The checks in the order of their columns, and what is said of the samples found."""


def health_of(
    rows: Tensor | None,
    labels: IntArray,
    pixels: Any = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Health:
    """Look at N samples: rows, their features [N, F]; labels [N]; pixels, uint8 [N, H, W, C], of
    which a few are read at a time.  What is None is not looked at."""
    issues: dict[str, BoolArray] = {}
    scores: dict[str, Vector] = {}
    copies = np.full(len(labels), UNKNOWN)
    seen = _looks(pixels) if pixels is not None and len(pixels) else None
    if rows is not None and NEIGHBOURS < len(rows) <= MOST:
        from apl.detect.neighbours import neighbours

        parts = components(rows)
        places, near = neighbours(parts, NEIGHBOURS, should_stop)
        apart = np.maximum(0.0, 1.0 - near.astype(np.float64))
        flags, score, copies = _near_copies(places, apart, seen)
        issues["near_duplicate"], scores["near_duplicate"] = flags, score
        if (labels != UNKNOWN).any():
            issues["outlier"], scores["outlier"] = _outliers(parts, places, labels)
    if seen is not None:
        for check, (flags, score) in _pictures(seen).items():
            issues[check], scores[check] = flags, score
    return Health(issues, scores, copies)


def components(rows: Tensor, most: int = COMPONENTS) -> Tensor:
    """The first `most` principal components of rows [N, F], all columns of no more than that."""
    import torch

    wide = rows.float()
    wide = wide - wide.mean(0)
    if wide.shape[1] <= most:
        return wide
    _, vectors = torch.linalg.eigh(wide.T @ wide / len(wide))
    made: Tensor = wide @ vectors[:, -most:]
    return made


# ----------------------------------------------------------------------------------- neighbours


def _near_copies(
    places: IntArray, apart: Vector, seen: _Looks | None
) -> tuple[BoolArray, Vector, IntArray]:
    """Which samples have near copies, how far the nearest is (0: the same; 1: usual and more), and
    the groups.  Pairs are neighbours much closer than usual; of images, neighbours whose pixels are
    the same but for a file format or size, or close ones that look alike, mirrored too."""
    usual = float(np.median(apart[:, 0]))
    close = apart <= COPY * usual
    if seen is not None:
        one, other = np.repeat(np.arange(len(places)), places.shape[1]), places.ravel()
        alike, far = seen.alike(one, other), apart.ravel() / max(usual, 1e-12)
        close = (alike >= ALIKE) | ((alike >= LESS) & (far <= NEAR))
        close = close.reshape(apart.shape)
    group = _joined(len(places), np.argwhere(close), places)
    flags: BoolArray = group != UNKNOWN
    nearest = np.where(close, apart, np.inf).min(1)
    nearest = np.where(flags & np.isfinite(nearest), nearest, apart[:, 0])
    score = np.minimum(1.0, nearest / max(usual, 1e-12))
    return flags, np.where(flags, np.minimum(score, 0.5), np.maximum(score, 0.5)), group


def _joined(count: int, pairs: IntArray, places: IntArray) -> IntArray:
    """The group of each sample [N] by pairs (a sample, the how manieth of its neighbours); UNKNOWN
    of one that is in none."""
    leader = np.arange(count)

    def first(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = int(leader[i])
        return i

    inside = np.zeros(count, bool)
    for i, k in pairs.tolist():
        j = int(places[i, k])
        inside[[i, j]] = True
        one, two = sorted((first(i), first(j)))
        leader[two] = one
    return np.array([first(i) if inside[i] else UNKNOWN for i in range(count)], np.int64)


def _outliers(parts: Tensor, places: IntArray, labels: IntArray) -> tuple[BoolArray, Vector]:
    """Which samples belong to none of the classes.

    Score: the cosine of a sample [D] and the mean of the class that it is nearest to, of which it
    is not a part itself, all components scaled alike, one for PER_COMPONENT samples at most; times
    the share of its neighbours that have the label of this class.  Strange samples lie in no
    class's direction, even many that are alike; and those that lie near one by chance have
    neighbours of several.
    """
    import torch
    import torch.nn.functional as F

    parts = components(parts, max(NEIGHBOURS, len(parts) // PER_COMPONENT))
    wide = F.normalize(parts / parts.std(0).clamp(min=1e-6))
    known = torch.from_numpy(labels != UNKNOWN)
    given = torch.from_numpy(labels.clip(0))
    sums = torch.zeros(int(labels.max()) + 1, wide.shape[1])
    sums.index_add_(0, given[known], wide[known])
    alike = wide @ F.normalize(sums).T
    others = F.normalize(sums[given] - wide)
    rows = torch.arange(len(wide))[known]
    alike[rows, given[known]] = (wide * others).sum(1)[known]
    cosine, nearest = alike.max(1)
    share = (labels[places] == nearest.numpy()[:, None]).mean(1)
    score = cosine.clamp(0, 1).double().numpy() * (share + AGREED) / (1 + AGREED)
    return score < NONE * float(np.median(score)), score


# --------------------------------------------------------------------------------------- pixels


@dataclass(frozen=True)
class _Looks:
    """What is kept of N images: each in few grey pixels [N, LOOKS, LOOKS], how bright all but one
    in a hundred of its pixels are at most, how much they vary, and how sharp they are [N]."""

    small: npt.NDArray[np.float32]
    bright: Vector
    varied: Vector
    sharp: Vector

    def alike(self, one: IntArray, other: IntArray) -> Vector:
        """How the pixels of two images correlate, as they are or mirrored, for pairs of them [P];
        1 for two that are blank."""
        flat = self.small.reshape(len(self.small), -1)
        mirrored = self.small[:, :, ::-1].reshape(len(self.small), -1)
        found = np.zeros(len(one))
        for k in range(0, len(one), 4096):
            first, second = one[k : k + 4096], other[k : k + 4096]
            plain = (flat[first] * flat[second]).sum(1)
            turned = (flat[first] * mirrored[second]).sum(1)
            both = ~flat[first].any(1) & ~flat[second].any(1)
            found[k : k + 4096] = np.where(both, 1.0, np.maximum(plain, turned))
        return found


def _looks(pixels: Any) -> _Looks:
    """Read images [N, H, W, C] once, a block at a time."""
    count, height, width = pixels.shape[:3]
    small = np.zeros((count, LOOKS, LOOKS), np.float32)
    bright, varied, sharp = np.zeros(count), np.zeros(count), np.zeros(count)
    for start in range(0, count, BLOCK):
        block = np.stack([np.asarray(pixels[i]) for i in range(start, min(start + BLOCK, count))])
        at = slice(start, start + len(block))
        grey = block.astype(np.float32).mean(3)
        small[at] = _shrunk(grey)
        flat = grey.reshape(len(grey), -1)
        bright[at] = np.percentile(flat, 99, axis=1) / 255
        varied[at] = flat.std(1)
        if min(height, width) > 2:
            inside = grey[:, 1:-1, 1:-1]
            edges = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
            sharp[at] = (edges - 4 * inside).reshape(len(grey), -1).std(1)
    centred = small - small.mean((1, 2), keepdims=True)
    lengths = np.sqrt((centred**2).sum((1, 2), keepdims=True)).clip(1e-6)
    return _Looks(centred / lengths, bright, varied, sharp)


def _shrunk(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Images [B, H, W] in LOOKS by LOOKS pixels, each the mean of what it stands for."""
    for axis in (1, 2):
        size = grey.shape[axis]
        starts = (np.arange(LOOKS) * size) // LOOKS
        if size < LOOKS:
            grey = np.take(grey, starts, axis)
        else:
            ends = np.append(starts[1:], size)
            sums = np.add.reduceat(grey, starts, axis)
            grey = sums / (ends - starts).reshape((-1, 1) if axis == 1 else (-1,))
    return grey.astype(np.float32)


def _pictures(seen: _Looks) -> dict[str, tuple[BoolArray, Vector]]:
    """What is amiss with images, and the scores."""
    blank = seen.varied < BLANK
    sharpness = np.log((seen.sharp / seen.varied.clip(1e-6)).clip(1e-6))
    looked = sharpness[~blank] if (~blank).any() else sharpness
    middle = float(np.median(looked))
    spread = max(1.4826 * float(np.median(np.abs(looked - middle))), 1e-6)
    below = (sharpness - middle) / spread
    return {
        "low_information": (blank, np.minimum(1.0, seen.varied / 64)),
        "dark": (seen.bright < DARK, seen.bright),
        "blurry": (~blank & (below < -BLURRED), np.where(blank, 1.0, 1 / (1 + np.exp(-below - 4)))),
    }
