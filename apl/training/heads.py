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
    first = Standardise(data.train.images)
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
    same in all of these becomes 0."""

    mean: Tensor
    scale: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        mean, std = moments(rows)
        usual = float(std.mean()) if len(std) else 0.0
        same = std <= 1e-4 * usual
        self.register_buffer("mean", mean.float())
        self.register_buffer("scale", torch.where(same, 0.0, 1 / std.clamp(min=1e-12)).float())

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [B, F] of features, standardised."""
        return (rows - self.mean) * self.scale


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
