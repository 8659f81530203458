"""Small networks on frozen features: standardised inside, so that a trained one needs no more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from apl.config.config import Config
from apl.data.dataset import Dataset
from apl.training.networks import Dropout, make_network

BLOCK = 4096  # rows at a time where all are read


def make_head(config: Config, data: Dataset, imports: Sequence[str] = ()) -> nn.Module:
    """The network that a config means on features, initialised from torch's global random state:
    `linear`, `mlp` with one hidden layer of the config's width, or one of the user's own."""
    numbers, classes, share = data.train.images.shape[1], data.num_classes, config.dropout
    first = Standardise(data.train.images, config.components)
    if config.network == "linear":
        return nn.Sequential(first, Dropout(share, config.seed), nn.Linear(numbers, classes))
    if config.network == "mlp":
        return nn.Sequential(
            first,
            Dropout(share, config.seed),
            nn.Linear(numbers, config.width),
            nn.ReLU(),
            Dropout(share, config.seed + 1),
            nn.Linear(config.width, classes),
        )
    own = make_network(config.network, (numbers,), classes, config.width, imports=imports)
    return nn.Sequential(first, own)


class Standardise(nn.Module):
    """Features [B, F] to mean 0 and std 1, as they are in the training rows [N, F]; what is the
    same in all of these becomes 0.

    components: of the standardised rows only what so many principal ones of the training rows tell
    is left, and that is standardised again; 0 for all of it.
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor  # [F, components]
    again: Tensor

    def __init__(self, rows: Tensor, components: int = 0) -> None:
        super().__init__()
        mean, std = moments(rows)
        scale = _inverse(std)
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", scale.float())
        self.reduces = 0 < components < rows.shape[1]
        if self.reduces:
            strength, axes = principal_axes(rows, mean, scale, components)
            self.register_buffer("axes", axes.float())
            self.register_buffer("again", _inverse((axes**2 @ strength).sqrt()).float())

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [B, F] of features, standardised."""
        usual = (rows - self.mean) * self.scale
        return usual @ self.axes @ self.axes.T * self.again if self.reduces else usual


def _inverse(std: Tensor) -> Tensor:
    """What columns of these standard deviations are multiplied by; 0 where all is the same."""
    usual = float(std.mean()) if len(std) else 0.0
    return torch.where(std <= 1e-4 * usual, 0.0, 1 / std.clamp(min=1e-12))


def principal_axes(rows: Tensor, mean: Tensor, scale: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The variances [count] and the axes [F, count] of the first principal components of rows
    [N, F] that are standardised by mean and scale [F], in float64; zeros where there are none."""
    width = rows.shape[1]
    if not len(rows):
        return torch.zeros(count, dtype=torch.float64), torch.zeros(width, count).double()
    squares = torch.zeros(width, width, dtype=torch.float64)
    for block in rows.split(BLOCK):
        usual = (block.double() - mean) * scale
        squares += usual.T @ usual
    strength, axes = torch.linalg.eigh(squares / len(rows))
    return strength[-count:].clamp(min=0), axes[:, -count:].contiguous()  # as when read back


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of each column of rows [N, F], in float64; 0 and 0 where there are none."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    if not len(rows):
        return total, squares
    for block in rows.split(BLOCK):
        wide = block.double()
        total += wide.sum(0)
        squares += (wide * wide).sum(0)
    mean = total / len(rows)
    return mean, (squares / len(rows) - mean**2).clamp(min=0).sqrt()
