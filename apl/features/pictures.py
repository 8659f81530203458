"""Images as a backbone sees them: colour, square, of its size, in its range."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def to_input(
    images: Tensor, size: int, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> Tensor:
    """uint8 [B, H, W, C], grey or colour, to float32 [B, 3, size, size], channels last: the middle
    square resized (bicubic, as Pillow does), then (x - mean) / std of pixels from 0 to 255."""
    batch = images.permute(0, 3, 1, 2)
    height, width = batch.shape[2:]
    side = min(height, width)
    if height != width:
        top, left = (height - side) // 2, (width - side) // 2
        batch = batch[:, :, top : top + side, left : left + side]
    if side != size:
        # In uint8 on the CPU, rounded: so the numbers are the same wherever the network runs.
        batch = F.interpolate(
            batch.cpu().contiguous(memory_format=torch.channels_last),
            (size, size),
            mode="bicubic",
            antialias=True,
            align_corners=False,
        )
    batch = batch.to(device).float()
    if batch.shape[1] == 1:
        batch = batch.expand(-1, 3, -1, -1)
    shift = torch.tensor(mean, device=device)[:, None, None]
    scale = torch.tensor(std, device=device)[:, None, None]
    return ((batch - shift) / scale).contiguous(memory_format=torch.channels_last)
