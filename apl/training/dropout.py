"""Dropout of small heads, by a generator of the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 256  # of a byte: quick shares are multiples of 1 / 256


def dropped(
    values: Tensor, share: float, generator: torch.Generator, quick: bool = False
) -> Tensor:
    """Values of any shape without a share of them, the others scaled so that the mean stays.

    quick: masks from random bytes, and the share to the nearest 256th.  One random number for each
    value, as it is without, takes longer than all else that a step of a small head does.
    """
    if not quick:
        if not share:
            return values
        mask = torch.empty_like(values).bernoulli_(1 - share, generator=generator)
        return values * mask / (1 - share)
    least = min(round(share * LEVELS), LEVELS - 1)
    if not least:
        return values
    count = values.numel()
    words = torch.empty((count + 7) // 8, dtype=torch.int64)
    words.random_(-(2**63), None, generator=generator)
    kept = words.view(torch.uint8)[:count].view(values.shape) >= least
    return values * kept * (LEVELS / (LEVELS - least))
