"""Data sets as tensors, and their batches: from pixels to what a network takes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apl.noise import IntArray, Labels


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W, C] (channels last, as convolutions on a CPU like them) and labels.

    The images lie in memory, or are mapped from a file and may be more than it holds: index a
    batch of them, and copy no more.  names: what the user calls each sample, () where nobody does.
    """

    images: Tensor
    labels: Labels
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: IntArray) -> Split:
        """The samples at `chosen` alone."""
        labels = dataclasses.replace(
            self.labels, given=self.labels.given[chosen], true=self.labels.true[chosen]
        )
        names = tuple(self.names[i] for i in chosen) if self.names else ()
        return Split(self.images[torch.from_numpy(chosen)], labels, names)


@dataclass(frozen=True)
class Dataset:
    """What is learned from; mean and std are those of its training pixels in [0, 1], a channel.

    digest: the sha256 of the content of data of the user's own, '' of a built-in set; root: the
    folder that its samples' names are relative to, '' where they are no files.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str = ""
    root: str = ""

    @property
    def on(self) -> str:
        """Whether the test labels are 'true', or only 'given' since nobody knows the truth."""
        return "true" if self.test.labels.known.all() else "given"

    @property
    def image_size(self) -> int:
        """The height of its images."""
        return int(self.train.images.shape[1])

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def to_float(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, C] to normalised float32 [B, C, H, W] in channels-last memory."""
        return to_float(images, self.mean, self.std)


class Batches:
    """The training images in batches on the device, shuffled and augmented.

    Nothing depends on what ran before: order and augmentation of an epoch follow from
    (seed, epoch) alone, so that a run interrupted anywhere goes on exactly.
    """

    def __init__(
        self, data: Dataset, batch_size: int, seed: int, augment: bool, device: torch.device
    ) -> None:
        self.data, self.seed, self.augment, self.device = data, seed, augment, device
        self.images = data.train.images.to(device)
        self.bounds = batch_bounds(len(self.images), batch_size)

    def __len__(self) -> int:
        return len(self.bounds)

    def of(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from the `first` on: which samples [B], and their images as
        float [B, C, H, W]."""
        count = len(self.images)
        generator = _generator(self.seed, epoch)
        order = torch.randperm(count, generator=generator).to(self.device)
        if self.augment:
            offsets = torch.randint(0, 2 * BORDER + 1, (count, 2), generator=generator)
            offsets = offsets.to(self.device)
            flips = (torch.rand(count, generator=generator) < 0.5).to(self.device)
            rows = torch.arange(max(end - start for start, end in self.bounds), device=self.device)
        for start, end in self.bounds[first:]:
            chosen = order[start:end]
            batch = self.images.index_select(0, chosen)
            if self.augment:
                # Padded by the batch: a padded copy of all would not fit where they are mapped.
                places = rows[: end - start], offsets[start:end], flips[start:end]
                batch = crop_and_flip(pad(batch), *places)
            yield chosen, self.data.to_float(batch)


def _generator(seed: int, epoch: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and end of every batch; a last batch of one image joins the one before it, since
    batch norm can't take it."""
    starts = list(range(0, count, batch_size))
    if count % batch_size == 1 and len(starts) > 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def balanced_subset(labels: IntArray, count: int) -> IntArray:
    """The indices, ascending, of `count` samples with all classes as equal as can be; the same
    ones every time, so that runs differ by their seed and not by their images."""
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[by_class], labels[by_class])
    rank_in_class = np.arange(len(labels)) - starts
    return np.sort(by_class[np.argsort(rank_in_class, kind="stable")[:count]])


def to_float(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [B, H, W, C] to normalised float32 [B, C, H, W] in channels-last memory."""
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    return (images.float() * scale - shift).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=32)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    # Once per device: to copy them anew in each step would make a GPU wait for the copy.
    with torch.inference_mode(False):  # an inference tensor could not take part in training later
        scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        return scale, torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device)


BORDER = 4  # pixels of zeros around an image before a random crop, as in the paper


def pad(images: Tensor) -> Tensor:
    """Zero-pad the height and width of [N, H, W, C] images, for `crop_and_flip`."""
    return torch.nn.functional.pad(images, (0, 0, BORDER, BORDER, BORDER, BORDER))


def crop_and_flip(padded: Tensor, indices: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
    """Random crops of the padded images at `indices` [B], one gather for the whole batch.

    padded: [N, H + 2 BORDER, W + 2 BORDER, C]; offsets: [B, 2] in [0, 2 BORDER]; flips: bool [B],
    mirrored left to right where true.  Returns [B, H, W, C].
    """
    height, width = (size - 2 * BORDER for size in padded.shape[1:3])
    rows = offsets[:, :1] + torch.arange(height, device=padded.device)
    columns = torch.arange(width, device=padded.device).expand(len(indices), -1)
    columns = offsets[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)
    return padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
