"""Pixels of a batch: normalised, cropped, mirrored, coloured, on the device they lie on."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


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
