"""The specification: every loss of the project, defined once, in plain torch.

A *base* loss is an elementwise function phi of a log-probability: the loss of a row with
log-probabilities l, had its label been j, is phi(l_j).  Everything else follows from phi:

* the loss of the row is phi(l_y);
* its normalised form (Ma et al. 2020, eq. 1) is phi(l_y) / sum_j phi(l_j);
* any weighted sum of plain and normalised bases is a loss: a tuple of `Term`s.

Whatever is faster (the fused paths of this package) is tested against `reference_loss`, whose
gradients of every order come from autograd and are the true ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS = ("mean", "sum", "none")

LOG_ZERO = -9.210340371976182  # log 1e-4: what the RCE of Wang et al. 2019 puts for log 0


@dataclass(frozen=True)
class Base:
    """One base loss.

    phi(log_p, *params) maps log-probabilities of any shape to losses of that shape; params are
    floats in the order of `params` (name -> default).  slope(log_p, *params) is its derivative
    d phi / d log_p, a number where it is one for every log_p: the closed form of
    `apl.kernels.closed_form` needs it, the specification does not (autograd finds it from phi).
    `total(num_classes, *params)` is the constant sum_j phi(l_j) where it is one for every l (then
    the loss is tolerant to symmetric noise as it stands, Lemma 1), else None.
    """

    phi: Callable[..., Tensor]
    slope: Callable[..., Tensor | float]
    formula: str
    source: str
    active: bool
    params: Mapping[str, float] = field(default_factory=dict)
    total: Callable[..., float] | None = None


def _one_minus_p(log_p: Tensor) -> Tensor:
    # 1 - p without cancellation, kept above 0 so that a fractional power has a finite gradient.
    return (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)


def _focal_slope(log_p: Tensor, gamma: float) -> Tensor:
    # With the clamp above, gamma < 1 at p -> 1 gives (huge but finite) * p * 0 and not inf * 0.
    rest = _one_minus_p(log_p)
    return -(rest**gamma) + gamma * rest ** (gamma - 1) * (log_p.exp() * log_p)


BASES: dict[str, Base] = {
    "ce": Base(
        phi=lambda log_p: -log_p,
        slope=lambda log_p: -1.0,
        formula="-log p_y",
        source="cross entropy",
        active=True,
    ),
    "fl": Base(
        phi=lambda log_p, gamma: -(_one_minus_p(log_p) ** gamma) * log_p,
        slope=_focal_slope,
        formula="-(1 - p_y)^gamma log p_y",
        source="Lin et al. 2017",
        active=True,
        params={"gamma": 0.5},
    ),
    "gce": Base(
        phi=lambda log_p, q: -torch.expm1(q * log_p) / q,
        slope=lambda log_p, q: -(log_p * q).exp(),
        formula="(1 - p_y^q) / q",
        source="Zhang & Sabuncu 2018",
        active=True,
        params={"q": 0.7},
    ),
    "mae": Base(
        phi=lambda log_p: -2 * torch.expm1(log_p),
        slope=lambda log_p: -2 * log_p.exp(),
        formula="sum_k |p_k - q_k| = 2 (1 - p_y)",
        source="Ghosh et al. 2017",
        active=False,
        total=lambda num_classes: 2.0 * (num_classes - 1),
    ),
    "rce": Base(
        phi=lambda log_p, A: A * torch.expm1(log_p),
        slope=lambda log_p, A: A * log_p.exp(),
        formula="-A (1 - p_y), A = log 1e-4",
        source="Wang et al. 2019",
        active=False,
        params={"A": LOG_ZERO},
        total=lambda num_classes, A: -A * (num_classes - 1),
    ),
}


class Term(NamedTuple):
    """weight * base, or weight * base / sum_j base_j where `normalised`; params as in `Base`."""

    base: str
    weight: float = 1.0
    normalised: bool = False
    params: tuple[float, ...] = ()


def simplify(terms: Sequence[Term], num_classes: int) -> tuple[Term, ...]:
    """The same loss with fewer terms: sums of like terms joined, constant sums divided out.

    A base whose sum over the labels is a constant (MAE, RCE) needs no normalising at run time:
    NMAE and NRCE are MAE and RCE times a number (Ma et al. 2020, eqs. 4 and 5).
    """
    joined: dict[Term, float] = {}
    for term in terms:
        base, weight, normalised = BASES[term.base], term.weight, term.normalised
        if normalised and base.total is not None:
            weight, normalised = weight / base.total(num_classes, *term.params), False
        key = Term(term.base, 1.0, normalised, term.params)
        joined[key] = joined.get(key, 0.0) + weight
    return tuple(key._replace(weight=weight) for key, weight in joined.items())


def row_losses(log_p: Tensor, targets: Tensor, terms: Sequence[Term]) -> Tensor:
    """Losses [N] from log-probabilities [N, K] and targets [N] in [0, K)."""
    log_p_y = log_p.gather(1, targets[:, None]).squeeze(1)
    losses = torch.zeros_like(log_p_y)
    for base, weight, normalised, params in terms:
        phi = BASES[base].phi
        value = phi(log_p_y, *params)
        if normalised:
            value = value / phi(log_p, *params).sum(1)
        losses = losses + weight * value
    return losses


def reduce_rows(losses: Tensor, row_weights: Tensor, reduction: Reduction) -> Tensor:
    """Row losses [N] times row weights [N] (0 where ignored), reduced as torch's losses are:
    'mean' divides by the sum of the row weights, so it is nan when no row counts."""
    losses = losses * row_weights
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / row_weights.sum()


def reference_loss(
    logits: Tensor,
    targets: Tensor,
    terms: Sequence[Term],
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """The loss of logits [N, K] (any float type, float64 or float32 arithmetic) at targets [N].

    weight: one factor per class [K]; rows whose target is ignore_index count nothing.
    Returns a scalar, or [N] for reduction 'none', in the dtype of the logits.
    """
    kept = targets != ignore_index
    safe = torch.where(kept, targets, 0)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    # An ignored row must not spread its own nan or inf through a product with 0.
    wide = torch.where(kept[:, None], wide, 0.0)
    losses = row_losses(torch.log_softmax(wide, 1), safe, terms)
    row_weights = kept.to(wide.dtype)
    if weight is not None:
        row_weights = row_weights * weight.to(wide.dtype)[safe]
    return reduce_rows(losses, row_weights, reduction).to(logits.dtype)
