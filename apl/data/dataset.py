"""Data sets as tensors, and their batches: from pixels to what a network takes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from apl.ddp import ALONE, Group
from apl.errors import BadInput
from apl.noise import IntArray, Labels


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, H, W, C] (channels last, as convolutions on a CPU like them) and labels.

    Of a table, images are its rows, float32 [N, F]: standardised numbers and one-hot categories.
    They lie in memory, or are mapped from a file and may be more than it holds: index a batch of
    them, and copy no more.  names: what the user calls each sample, () where nobody does.
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
    """What is learned from; mean and std are those of its training pixels in [0, 1], a channel,
    and () for a table.

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
        """The height of its images, 1 for a table."""
        images = self.train.images
        return 1 if images.ndim == 2 else int(images.shape[1])

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def to_float(self, images: Tensor, crop_size: int = 0, plain: bool = False) -> Tensor:
        """uint8 [B, H, W, C] to normalised float32 [B, C, H, W] in channels-last memory, as it is
        looked at in evaluation; the rows of a table as they are.

        crop_size, plain: of a network trained on random crops, the `middle` of the images in that
        size.
        """
        if images.ndim == 2:
            return images
        if crop_size:
            images = middle(images, crop_size, plain)
        return to_float(images, self.mean, self.std)


class Batches:
    """The training images in batches on the device, shuffled and augmented.

    augment: mirror images at random, and unless crop_size is given pad them by 4 and crop.
    crop_size: pixels a side of random crops, 0 for none; resized, or plain squares of that size.
    colour: strength of the random brightness, contrast and saturation, 0 for none.
    views: how many times each image is drawn, augmented anew.
    group: the processes that share each batch; an image is the same one as without them.

    Nothing depends on what ran before: order and augmentation of an epoch follow from
    (seed, epoch) alone, so that a run interrupted anywhere goes on exactly.
    Raises BadInput where a table is to be augmented.
    """

    def __init__(
        self,
        data: Dataset,
        batch_size: int,
        seed: int,
        augment: bool,
        device: torch.device,
        *,
        crop_size: int = 0,
        plain: bool = False,
        colour: float = 0.0,
        views: int = 1,
        group: Group = ALONE,
    ) -> None:
        if data.train.images.ndim == 2 and (augment or crop_size or colour):
            raise BadInput("a table has no pixels: leave augment, crop_size and colour out")
        self.data, self.seed, self.augment, self.device = data, seed, augment, device
        self.crop_size, self.plain, self.colour, self.views = crop_size, plain, colour, views
        self.images = place(data.train.images, device)
        self.bounds, self.group = batch_bounds(len(self.images), batch_size), group

    def __len__(self) -> int:
        return len(self.bounds)

    def of(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from the `first` on: which samples [B], and their images as
        float [B, C, H, W]; several views of them as [V, B, C, H, W], the first of which is what
        one view would be; rows of a table as [B, F].  In a group: all samples of the batch, but
        the images of this process's share alone."""
        generator = _generator(self.seed, epoch)
        order = torch.randperm(len(self.images), generator=generator).to(self.images.device)
        drawn = [self._draw(generator) for _ in range(self.views)]
        for start, end in self.bounds[first:]:
            share = self.group.share(start, end)
            batch = self.images.index_select(0, order[share]).to(self.device)
            views = [
                self._augmented(batch, {name: each[share] for name, each in view.items()})
                for view in drawn
            ]
            images = self.data.to_float(views[0] if self.views == 1 else torch.cat(views))
            if self.views > 1:
                images = images.unflatten(0, (self.views, -1))
            yield order[start:end].to(self.device), images

    def _draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """What is random in one view of each image, in the order of the epoch."""
        count, drawn = len(self.images), {}
        if self.crop_size:
            height, width = self.images.shape[1:3]
            if self.plain:
                boxes = plain_boxes(count, height, width, self.crop_size, generator)
            else:
                boxes = random_boxes(count, height, width, generator)
            drawn["boxes"] = boxes
        elif self.augment:
            drawn["offsets"] = torch.randint(0, 2 * BORDER + 1, (count, 2), generator=generator)
        if self.augment:
            drawn["flips"] = torch.rand(count, generator=generator) < 0.5
        if self.colour:
            spread = self.colour * (2 * torch.rand(count, 3, generator=generator) - 1)
            drawn["factors"] = (1 + spread).clamp(min=0)
        return {name: each.to(self.device) for name, each in drawn.items()}

    def _augmented(self, batch: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """One view of a batch [B, H, W, C], or its rows [B, F] as they are."""
        if self.crop_size:
            batch = resized_crop(batch, drawn["boxes"], self.crop_size, drawn.get("flips"))
        elif self.augment:
            rows = torch.arange(len(batch), device=batch.device)
            # Padded by the batch: a padded copy of all would not fit where they are mapped.
            batch = crop_and_flip(pad(batch), rows, drawn["offsets"], drawn["flips"])
        if self.colour:
            batch = jitter(batch, drawn["factors"])
        return batch


def place(images: Tensor, device: torch.device) -> Tensor:
    """The images on the device, or where they are if they would fill half of its free memory."""
    if device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return images
    return images.to(device)


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
    """Pixels [B, H, W, C] of 0 to 255 to normalised float32 [B, C, H, W], channels-last."""
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    pixels = (images.float() * scale - shift).permute(0, 3, 1, 2)
    return pixels.contiguous(memory_format=torch.channels_last)  # only crops lie in another


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
    return functional.pad(images, (0, 0, BORDER, BORDER, BORDER, BORDER))


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


# ------------------------------------------------------------- random resized crops, colours


AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # of a crop: Szegedy et al. 2015, as ImageNet is trained
TRIES = 10  # draws until a crop lies within the image


def random_boxes(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """`count` random crops of a height x width image: top, left, height, width, float [count, 4].

    Area and aspect ratio (uniform in its logarithm) are drawn until the crop lies within the
    image, at most ten times; then it is the middle of the image as far as the ratios allow.
    """
    limits = torch.tensor([height, width])
    low, high = ASPECT
    whole = torch.tensor([min(height, width / low), min(width, height * high)], dtype=torch.float32)
    sizes = whole.round().expand(count, 2).clone()
    missing = torch.ones(count, dtype=torch.bool)
    for _ in range(TRIES):
        # All are drawn anew, so that how many numbers are drawn does not depend on the images.
        area = torch.empty(count).uniform_(*AREA, generator=generator) * (height * width)
        ratio = torch.empty(count).uniform_(math.log(low), math.log(high), generator=generator)
        ratio = ratio.exp()
        tried = torch.stack([area / ratio, area * ratio], 1).sqrt().round()
        fits = missing & ((tried >= 1) & (tried <= limits)).all(1)
        sizes[fits] = tried[fits]
        missing &= ~fits
    corners = _corners(limits - sizes, generator)
    corners[missing] = ((limits - sizes)[missing] / 2).floor()
    return torch.cat([corners, sizes], 1)


def plain_boxes(
    count: int, height: int, width: int, side: int, generator: torch.Generator
) -> Tensor:
    """`count` squares of `side` pixels, as far as the image has room, at random places: as
    `random_boxes`."""
    limits = torch.tensor([height, width])
    sizes = limits.clamp(max=side).float().expand(count, 2)
    return torch.cat([_corners(limits - sizes, generator), sizes], 1)


def _corners(free: Tensor, generator: torch.Generator) -> Tensor:
    """Whole numbers from 0 to the free [count, 2], each as likely as another."""
    drawn = torch.rand(len(free), 2, generator=generator) * (free + 1)
    return drawn.floor().minimum(free)


def resized_crop(images: Tensor, boxes: Tensor, size: int, flips: Tensor | None = None) -> Tensor:
    """The boxes [B, 4] of the images [B, H, W, C] resized to size x size, bilinearly: one gather
    for the whole batch.

    flips: bool [B], mirrored left to right where true.  Returns float32 [B, size, size, C] of 0 to
    255; in memory each channel lies by itself, as `jitter` likes them.
    Images at least one and a half times as large as the crops are sampled more finely and averaged,
    so that nothing aliases.
    """
    height, width = images.shape[1:3]
    finer = max(1, round(min(height, width) / size))
    middles = (torch.arange(size * finer, device=images.device) + 0.5) / (size * finer)
    top, left, tall, wide = boxes[:, :, None].unbind(1)
    across = middles.expand(len(images), -1)
    if flips is not None:
        across = torch.where(flips[:, None], 1 - across, across)
    # Pixel middles of the box only: what lies beyond it does not shine in.
    rows = (top + middles * tall).clamp(top + 0.5, top + tall - 0.5)
    columns = (left + across * wide).clamp(left + 0.5, left + wide - 0.5)
    grid = torch.stack(
        torch.broadcast_tensors(
            (2 / width * columns - 1)[:, None, :], (2 / height * rows - 1)[:, :, None]
        ),
        -1,
    )
    pixels = images.permute(0, 3, 1, 2).float()
    sampled = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    if finer > 1:
        sampled = functional.avg_pool2d(sampled, finer)
    return sampled.permute(0, 2, 3, 1)


def middle(images: Tensor, size: int, plain: bool = False) -> Tensor:
    """The middle of the images [B, H, W, C] for evaluation, size x size: the square of 7/8 of their
    shorter side, as the 224 of 256 pixels on ImageNet, or where crops are plain of `size` pixels;
    resized where it has another size."""
    height, width = images.shape[1:3]
    shorter = min(height, width)
    side = min(size, shorter) if plain else max(1, round(shorter * 7 / 8))
    top, left = (height - side) // 2, (width - side) // 2
    if side == size:
        return images[:, top : top + side, left : left + side]
    box = torch.tensor([top, left, side, side], dtype=torch.float32, device=images.device)
    return resized_crop(images, box.expand(len(images), 4), size)


def jitter(images: Tensor, factors: Tensor) -> Tensor:
    """The images [B, H, W, C] in [0, 255] with other brightness, contrast and saturation, in this
    order, each cut to the range.

    factors: [B, 3] of the three, at least 0; 1 changes nothing.  Returns float32 [B, H, W, C].
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    images = (images.float() * brightness).clamp_(0, 255)
    mean = _grey(images).mean((1, 2), keepdim=True)
    images = torch.lerp(mean, images, contrast).clamp_(0, 255)
    return torch.lerp(_grey(images), images, saturation).clamp_(0, 255)


def _grey(images: Tensor) -> Tensor:
    """Luma (ITU-R BT.601) of colour images, [B, H, W, 1]; grey ones themselves."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = images.unbind(-1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[..., None]
