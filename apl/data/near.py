"""Near copies among images: one that was saved again, resized, or cropped a little.

They are told by pixels, not by features.  Each image becomes a small one, of 16 pixels a side, as
it is and without 3 or 6 % at each edge, less its mean; two are near copies where one of these and
the whole other one have nearly the same direction.  docs/own-data.md has what that finds of planted
copies, and what features of a pretrained network find.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from apl.noise.labels import IntArray

SIDE = 16  # pixels of what is compared, and the fewest that an image has
CUT = (0.0, 0.03, 0.06)  # of each edge
NEAR, NEAR_GREY = 0.99, 0.995  # the least cosine; drawings and digits in grey are more alike
FLAT = 2.0  # grey levels of deviation: below it an image has nothing to be known by
MOST = 20_000  # images among which they are looked for: among more it may take as long as reading
TOGETHER = 20  # in a group of more, which a chain of likenesses makes, each is by itself
BLOCK = 512
AXES = 12  # directions in which images differ most: what is apart there is apart
CANDIDATES = 64  # of an image, the nearest there: more than TOGETHER are no group anyway

Floats = npt.NDArray[np.float32]


def near_pairs(images: npt.NDArray[np.uint8]) -> IntArray:
    """The pairs [P, 2] of near copies among images [N, H, W, C], exact ones among them, the first
    of each before the second."""
    from scipy.spatial import cKDTree

    if not len(images) or min(images.shape[1:3]) < SIDE:
        return np.empty((0, 2), np.int64)
    least = NEAR if images.shape[3] == 3 else NEAR_GREY
    # Between directions of length 1 a cosine is a distance, and no projection makes it longer.
    radius = np.sqrt(2 * (1 - least)) + 1e-3
    axes = _axes(images)
    whole = _projected(images, CUT[0], axes)
    there = np.flatnonzero(whole.any(1))  # flat ones are near to none
    if not len(there):
        return np.empty((0, 2), np.int64)
    tree = cKDTree(whole[there])
    found = set[tuple[int, int]]()
    for share in CUT:
        cut = _projected(images, share, axes)
        for start in range(0, len(images), BLOCK):
            block = cut[start : start + BLOCK]
            near = tree.query(block, min(CANDIDATES, len(there)), distance_upper_bound=radius)[1]
            at, place = np.nonzero(near.reshape(len(block), -1) < len(there))
            ones, others = at + start, there[near.reshape(len(block), -1)[at, place]]
            asked = ones != others
            pairs = np.stack([ones[asked], others[asked]], 1)
            found |= {(min(pair), max(pair)) for pair in _as_near(images, share, pairs, least)}
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def _as_near(
    images: npt.NDArray[np.uint8], share: float, pairs: IntArray, least: float
) -> list[tuple[int, int]]:
    """Of these pairs those whose cosine is large enough, the first without a share of each edge."""
    found = []
    for start in range(0, len(pairs), BLOCK):
        part = pairs[start : start + BLOCK]
        one, other = _small(images[part[:, 0]], share), _small(images[part[:, 1]], CUT[0])
        cosine = (one.astype(np.float64) * other).sum(1)
        found += [(int(i), int(j)) for i, j in part[cosine >= least]]
    return found


def _axes(images: npt.NDArray[np.uint8]) -> Floats:
    """About the directions [F, AXES] in which some of the small images differ most: any that stand
    at right angles would do, these leave the fewest candidates."""
    some = _small(images[:: max(1, len(images) // 1000)], CUT[0])
    found = np.random.default_rng(0).normal(size=(some.shape[1], AXES)).astype(np.float32)
    for _ in range(4):
        found = np.linalg.qr(some.T @ (some @ found))[0]
    return found


def _projected(images: npt.NDArray[np.uint8], share: float, axes: Floats) -> Floats:
    parts = [
        _small(images[start : start + BLOCK], share) @ axes
        for start in range(0, len(images), BLOCK)
    ]
    return np.concatenate(parts)


def _small(images: npt.NDArray[np.uint8], share: float) -> Floats:
    """Images [N, SIDE * SIDE * C] without a share of each edge, to mean 0 and length 1, those that
    are flat to 0."""
    height, width = images.shape[1:3]
    across, down = round(share * width), round(share * height)
    rows, columns = _areas(height - 2 * down), _areas(width - 2 * across)
    made = []
    for start in range(0, len(images), BLOCK):
        block = np.asarray(images[start : start + BLOCK], np.float32)
        block = block[:, down : height - down, across : width - across]
        small = np.einsum("ah,nhwc,bw->nabc", rows, block, columns, optimize=True)
        small = small.reshape(len(block), -1)
        small -= small.mean(1, keepdims=True)
        length = np.linalg.norm(small, axis=1, keepdims=True)
        flat = length < FLAT * np.sqrt(small.shape[1])
        made.append(np.where(flat, 0, small / np.where(flat, 1, length)))
    return np.concatenate(made).astype(np.float32)


def _areas(size: int) -> Floats:
    """How much of each of `size` pixels is in each of SIDE equal parts [SIDE, size]."""
    edges = np.arange(SIDE + 1) * size / SIDE
    pixels = np.arange(size)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (shared.clip(0) * SIDE / size).astype(np.float32)


def grouped(pairs: IntArray, group: IntArray) -> IntArray:
    """A number for each sample [N], the same one for those of one group [N] and for near copies of
    each other, in groups of TOGETHER at most."""
    above = dict[int, int]()

    def top(number: int) -> int:
        while number in above:
            number = above[number]
        return number

    for i, j in pairs.tolist():
        one, other = top(int(group[i])), top(int(group[j]))
        if one != other:
            above[max(one, other)] = min(one, other)
    joined = np.array([top(number) for number in group.tolist()], np.int64)
    _, place, sizes = np.unique(joined, return_inverse=True, return_counts=True)
    chained: IntArray = np.where(sizes[place.reshape(-1)] > TOGETHER, group, joined)
    return chained


def members(group: IntArray) -> Iterator[IntArray]:
    """The positions of the samples of each group, where it has several."""
    order = np.argsort(group, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(same) > 1:
            yield same
