"""Batches of a training, shuffled and augmented: each follows from (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from apl.config.config import Config
from apl.data.dataset import Dataset, place
from apl.data.pixels import (
    BORDER,
    crop_and_flip,
    jitter,
    pad,
    plain_boxes,
    random_boxes,
    resized_crop,
)
from apl.errors import BadInput
from apl.training.ddp import ALONE, Group


class Batches:
    """The training images in batches on the device, shuffled and augmented.

    config: batch_size, seed, and what is drawn at random in an image.  augment: mirror it, and
    unless crop_size is given pad it by 4 and crop; crop_size: pixels a side of crops, 0 for none;
    crop: whether these are resized, or plain squares of that size; colour: strength of the
    brightness, contrast and saturation, 0 for none.
    views: how many times each image is drawn, augmented anew.
    group: the processes that share each batch; an image is the same one as without them.

    Nothing depends on what ran before: order and augmentation of an epoch follow from
    (seed, epoch) alone, so that a run interrupted anywhere goes on exactly.
    Raises BadInput where a table is to be augmented.
    """

    def __init__(
        self,
        data: Dataset,
        config: Config,
        device: torch.device,
        *,
        views: int = 1,
        group: Group = ALONE,
    ) -> None:
        if data.train.images.ndim == 2 and (config.augment or config.crop_size or config.colour):
            raise BadInput("a table has no pixels: leave augment, crop_size and colour out")
        self.data, self.config, self.device, self.views = data, config, device, views
        self.images = place(data.train.images, device)
        self.bounds, self.group = batch_bounds(len(self.images), config.batch_size), group

    def __len__(self) -> int:
        return len(self.bounds)

    def of(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from the `first` on: which samples [B], and their images as
        float [B, C, H, W]; several views of them as [V, B, C, H, W], the first of which is what
        one view would be; rows of a table as [B, F].  In a group: all samples of the batch, but
        the images of this process's share alone."""
        generator = _generator(self.config.seed, epoch)
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
        config, count, drawn = self.config, len(self.images), {}
        if config.crop_size:
            height, width = self.images.shape[1:3]
            if config.crop == "plain":
                boxes = plain_boxes(count, height, width, config.crop_size, generator)
            else:
                boxes = random_boxes(count, height, width, generator)
            drawn["boxes"] = boxes
        elif config.augment:
            drawn["offsets"] = torch.randint(0, 2 * BORDER + 1, (count, 2), generator=generator)
        if config.augment:
            drawn["flips"] = torch.rand(count, generator=generator) < 0.5
        if config.colour:
            spread = config.colour * (2 * torch.rand(count, 3, generator=generator) - 1)
            drawn["factors"] = (1 + spread).clamp(min=0)
        return {name: each.to(self.device) for name, each in drawn.items()}

    def _augmented(self, batch: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """One view of a batch [B, H, W, C], or its rows [B, F] as they are."""
        if self.config.crop_size:
            batch = resized_crop(batch, drawn["boxes"], self.config.crop_size, drawn.get("flips"))
        elif self.config.augment:
            rows = torch.arange(len(batch), device=batch.device)
            # Padded by the batch: a padded copy of all would not fit where they are mapped.
            batch = crop_and_flip(pad(batch), rows, drawn["offsets"], drawn["flips"])
        if self.config.colour:
            batch = jitter(batch, drawn["factors"])
        return batch


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
