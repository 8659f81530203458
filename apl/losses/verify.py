"""The theory, checked numerically: what the lemmas of Ma et al. 2020 say of every loss.

The exact problem is one input whose true class is 0 and whose label is drawn from row 0 of a
transition matrix T: the noisy risk of the probabilities p is R(p) = sum_j T[0, j] L(p, j), the
clean one is L(p, 0), and its minimiser is the vertex e_0 where p_0 = 1.  A loss tolerates the
noise if e_0 minimises R as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apl.kernels.bases import Term
from apl.kernels.reference import row_losses
from apl.losses.catalog import SUMS, loss_terms
from apl.noise.labels import Matrix
from apl.noise.matrices import pair_flip, symmetric

FLOOR = 1e-12  # stands for a probability of 0, whose logarithm the losses take
LATTICE = {2: 64, 3: 24, 4: 12, 5: 8, 6: 7, 7: 6, 8: 5, 9: 5, 10: 5}  # steps along an edge, by K
RATES = tuple(round(0.01 * step, 2) for step in range(101))


@dataclass(frozen=True)
class Verdict:
    """What holds of one loss.

    sum_spread: (max - min) / mean of sum_j L(z, j) over random logits, 0 if it is constant.
    highest: the largest value found, to hold against the 1/(K-1) of Lemma 2.
    gradient_error: largest difference of the gradient from a central difference, over its largest
    entry.
    symmetric, pair: the highest rate of symmetric and of pair-flip noise, in steps of 0.01, up to
    which e_0 minimises the noisy risk, by K; nan where it does not minimise the clean one.
    """

    loss: str
    sum_spread: float
    highest: float
    gradient_error: float
    symmetric: dict[int, float]
    pair: dict[int, float]

    @property
    def constant_sum(self) -> bool:
        """Whether sum_j L(z, j) is the same for all z, up to rounding (Lemma 1)."""
        return self.sum_spread < 1e-12

    @property
    def bounded(self) -> bool:
        """Whether no value found exceeds 1/(K-1), at the largest K (Lemma 2)."""
        return self.highest <= 1 / (max(self.symmetric) - 1) + 1e-12


def verify(
    names: Sequence[str] = SUMS, classes: Sequence[int] = tuple(range(2, 11))
) -> list[Verdict]:
    """Check each named loss with its default parameters for each number of classes, 2 to 10."""
    verdicts = []
    for name in names:
        terms = {k: loss_terms(name, k) for k in classes}
        largest = max(classes)
        values = _all_labels(_random_log_p(largest), terms[largest])
        sums = values.sum(1)
        edges = _all_labels(lattice(largest).log(), terms[largest])
        verdicts.append(
            Verdict(
                name,
                float((sums.max() - sums.min()) / sums.mean()),
                float(max(values.max(), edges.max())),
                _gradient_error(terms[largest], largest),
                {k: _tolerated(terms[k], k, symmetric) for k in classes},
                {k: _tolerated(terms[k], k, pair_flip) for k in classes},
            )
        )
    return verdicts


def lattice(num_classes: int) -> Tensor:
    """Points [N, K] of the simplex: all whose coordinates are multiples of 1 / LATTICE[K], with
    FLOOR for 0, and some ever closer to the vertex e_0, along each edge and towards the middle."""
    steps = LATTICE[num_classes]
    # Stars and bars: the gaps between K - 1 bars among steps + K - 1 places are the coordinates.
    bars = np.array(list(itertools.combinations(range(steps + num_classes - 1), num_classes - 1)))
    edges = np.hstack(
        [
            np.full((len(bars), 1), -1),
            bars,
            np.full((len(bars), 1), steps + num_classes - 1),
        ]
    )
    points = (np.diff(edges, axis=1) - 1) / steps
    near = []
    for distance in np.logspace(-1, -10, 28):
        for target in [*np.eye(num_classes)[1:], np.full(num_classes, 1 / num_classes)]:
            near.append((1 - distance) * np.eye(num_classes)[0] + distance * target)
    found = torch.from_numpy(np.vstack([points, near])).clamp_min(FLOOR)
    return found / found.sum(1, keepdim=True)


def _random_log_p(num_classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, num_classes, generator=generator, dtype=torch.float64)
    scales = torch.logspace(-1, 1.5, 2000, dtype=torch.float64)[:, None]
    return torch.log_softmax(logits * scales, 1)


def _all_labels(log_p: Tensor, terms: Sequence[Term]) -> Tensor:
    """The loss of every row of log-probabilities [N, K] for every label: [N, K]."""
    count, num_classes = log_p.shape
    columns = [row_losses(log_p, torch.full((count,), j), terms) for j in range(num_classes)]
    return torch.stack(columns, 1)


def _gradient_error(terms: Sequence[Term], num_classes: int) -> float:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20, num_classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(num_classes, (20,), generator=generator)

    def loss(z: Tensor) -> Tensor:
        return row_losses(torch.log_softmax(z, 1), targets, terms)

    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    step = 1e-6
    moves = torch.eye(num_classes, dtype=torch.float64) * step
    differences = [(loss(logits + move) - loss(logits - move)) / (2 * step) for move in moves]
    error = (gradient - torch.stack(differences, 1)).abs().max()
    return float(error / gradient.abs().max())


def _tolerated(
    terms: Sequence[Term], num_classes: int, noise: Callable[[int, float], Matrix]
) -> float:
    """The highest rate up to which no point of the lattice has a lower noisy risk than e_0, nan
    where one has a lower clean risk (label smoothing)."""
    points = lattice(num_classes)
    values = _all_labels(points.log(), terms)
    vertex = int(points[:, 0].argmax())
    rows = torch.from_numpy(np.stack([noise(num_classes, rate)[0] for rate in RATES]))
    risks = values @ rows.T  # [points, rates]
    beaten = risks.min(0).values < risks[vertex] - 1e-9 * values.max()
    first = int(beaten.int().argmax()) if beaten.any() else len(RATES)
    return RATES[first - 1] if first else math.nan
