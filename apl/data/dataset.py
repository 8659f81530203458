"""Data sets as tensors: images or rows, their labels, and how pixels are normalised."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from apl.data.pixels import middle, to_float
from apl.data.texts import numbered
from apl.noise.labels import BoolArray, IntArray, Labels

DRAW = 0xDA7A  # beside a seed: the images that it draws depend on no other draw of the seed's
COPIED = 1024  # images that are in memory at a time where all are looked at


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W, C] (channels last, as convolutions on a CPU like them) and labels.

    They lie in memory, or are mapped from a file and may be more than it holds: index a batch of
    them, and copy no more.

    Attributes:
        images: The images; of a table its rows, float32 [N, F]: standardised numbers and one-hot
            categories.
        labels: Their labels [N], as given and true.
        names: What the user calls each sample, () where nobody does.
        texts: Of samples that are texts, images then being the rows of what stands beside them, [N,
            0] where nothing does.
        at: Which samples of the whole split these are [N], None for all of them.
        pixels: The images of the whole split, where `images` are features of them.
        decided: Whose label a person has looked at and decided on [N], None where nobody has.
        votes: What each of several annotators says [N, A], UNKNOWN where one says nothing; None
            where there is one.
        alike: A number for each image [N], the same one for copies and near copies; None where they
            were not looked for.
    """

    images: Tensor
    labels: Labels
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    at: IntArray | None = None
    pixels: Tensor | None = None
    decided: BoolArray | None = None
    votes: IntArray | None = None
    alike: IntArray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: IntArray) -> Split:
        """The samples at `chosen` alone.

        Args:
            chosen: Their places in this split.
        """
        labels = dataclasses.replace(
            self.labels, given=self.labels.given[chosen], true=self.labels.true[chosen]
        )
        names = tuple(self.names[i] for i in chosen) if self.names else ()
        texts = tuple(self.texts[i] for i in chosen) if self.texts else ()
        images = self.images[torch.from_numpy(chosen)]
        at = chosen if self.at is None else self.at[chosen]
        decided = None if self.decided is None else self.decided[chosen]
        votes = None if self.votes is None else self.votes[chosen]
        alike = None if self.alike is None else self.alike[chosen]
        return Split(images, labels, names, texts, at, self.pixels, decided, votes, alike)

    @property
    def pictures(self) -> Tensor | None:
        """What a person looks at, uint8 [N, H, W, C]; None where there are no images."""
        if self.pixels is not None:
            return self.pixels if self.at is None else self.pixels[torch.from_numpy(self.at)]
        return self.images if self.images.ndim == 4 else None


@dataclass(frozen=True)
class Dataset:
    """What is learned from.

    Attributes:
        name: What it is called.
        class_names: Its classes, in the order of their numbers.
        train: The training samples.
        test: The test samples.
        mean: The mean of its training pixels in [0, 1], a channel, and () for a table.
        std: Their standard deviation, a channel, and () for a table.
        digest: The sha256 of the content of data of the user's own, '' of a built-in set.
        root: The folder that its samples' names are relative to, '' where they are no files.
        features: The name of what its images were made by, '' where they are as they came.
        made_by: What decided these features.
        contents: The sha256 of each sample's file or row [N, 32], as it was read, those of the
            training first.
        encoding: How samples to come are brought into this form: `columns`, the recipes of a
            table's (`apl.data.tables`), with `text_column` where it has one, or `range`, of images
            the pixels that became 0 to 255, both 0 where they were bytes; empty of a built-in set.
        annotators: Whose labels the splits' votes are.
        cells: The file with the cells of a table's rows as they were, in the same order, which
            `apl.data.tables.shown_cells` reads; '' where there is none.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str = ""
    root: str = ""
    features: str = ""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    contents: npt.NDArray[np.uint8] | None = None
    encoding: Mapping[str, Any] = field(default_factory=dict)
    annotators: tuple[str, ...] = ()
    cells: str = ""

    @property
    def on(self) -> str:
        """Whether the test labels are 'true', or only 'given' since nobody knows the truth."""
        return "true" if self.test.labels.known.all() else "given"

    @property
    def image_size(self) -> int:
        """The height of its images, 1 for a table and for texts."""
        images = self.train.images
        return 1 if images.ndim == 2 else int(images.shape[1])

    @property
    def kind(self) -> str:
        """What its samples are: 'images', 'texts', or the 'rows' of a table or of features."""
        if self.train.texts and not self.features:
            return "texts"
        return "rows" if self.train.images.ndim == 2 else "images"

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def to_float(self, images: Tensor, crop_size: int = 0, plain: bool = False) -> Tensor:
        """uint8 [B, H, W, C] to normalised float32 [B, C, H, W], as it is looked at in evaluation.

        The result lies in channels-last memory. The rows of a table stay as they are, in float32.

        Args:
            images: The images [B, H, W, C] in uint8, or rows [B, F].
            crop_size: Of a network trained on random crops, their size: the `middle` of the images
                in that size is taken; 0 for whole images.
            plain: Whether those crops were plain squares.
        """
        if images.ndim == 2:
            return images.float()  # of features, which are kept in half as many bytes
        if crop_size:
            images = middle(images, crop_size, plain)
        return to_float(images, self.mean, self.std)


SHOWN_CLASSES = 8


def told_classes(data: Dataset) -> str:
    """A line with the classes and how many samples are labelled so, in training and test together,
    the largest first."""
    given = np.concatenate([data.train.labels.given, data.test.labels.given])
    counts = np.bincount(given[given >= 0], minlength=data.num_classes)
    order = np.argsort(-counts, kind="stable").tolist()
    named = [f"{data.class_names[k]} {counts[k]:,}" for k in order]
    if len(named) > SHOWN_CLASSES + 1:
        rest = len(named) - SHOWN_CLASSES + 1
        named = [*named[: SHOWN_CLASSES - 1], f"and {rest} more down to {named[-1]}"]
    what = data.kind if not data.features else "samples"
    return f"{data.name}: {counts.sum():,} {what} in {data.num_classes} classes: {', '.join(named)}"


def copies(split: Split) -> IntArray | None:
    """A number from 0 on for each image or text [N], the same one for copies and, of the user's own
    images, near copies; None where no two are alike, and for the rows of a table, which may be
    alike and are none."""
    if split.texts:
        alike = numbered(split.texts)
        return alike if len({*split.texts}) < len(alike) else None
    if split.alike is not None:
        different, found = np.unique(split.alike, return_inverse=True)
        return found.reshape(-1) if len(different) < len(found) else None
    pixels = split.images if split.images.ndim == 4 else split.pixels
    if pixels is None:
        return None
    at = np.arange(len(split)) if split.at is None or pixels is split.images else split.at
    numbers: dict[bytes, int] = {}
    parts = (torch.from_numpy(at[k : k + COPIED]) for k in range(0, len(at), COPIED))
    blocks = (pixels[part].numpy() for part in parts)
    rows = (hashlib.sha256(row.data).digest() for block in blocks for row in block)
    found = np.array([numbers.setdefault(row, len(numbers)) for row in rows], np.int64)
    return found if len(numbers) < len(found) else None


def place(images: Tensor, device: torch.device) -> Tensor:
    """The images on the device, or where they are if they would fill half of its free memory."""
    if device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return images
    return images.to(device)


def balanced_subset(labels: IntArray, count: int, draw: int | None = None) -> IntArray:
    """The indices, ascending, of `count` samples with all classes as equal as can be; the same
    ones every time, so that runs differ by their seed and not by their images, unless a number says
    which draw it is."""
    seed = 0 if draw is None else [draw, DRAW]
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[by_class], labels[by_class])
    rank_in_class = np.arange(len(labels)) - starts
    return np.sort(by_class[np.argsort(rank_in_class, kind="stable")[:count]])
