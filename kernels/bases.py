"""Every base loss, defined once: words, numbers and tensor methods, so that it needs no torch.

A *base* loss is an elementwise function phi of a log-probability: the loss of a row with
log-probabilities l, had its label been j, is phi(l_j).  Everything else follows from phi:

* the loss of the row is phi(l_y);
* its normalised form (Ma et al. 2020, eq. 1) is phi(l_y) / sum_j phi(l_j);
* any weighted sum of plain and normalised bases is a loss: a tuple of `Term`s.

`apl.kernels.reference` computes them from phi and autograd; whatever is faster is tested against
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
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
    from torch import finfo

    return (-log_p.expm1()).clamp_min(finfo(log_p.dtype).tiny)


def _unmasked(log_p: Tensor) -> Tensor:
    # The log p of a class that is masked out by a logit of -inf: finite, since p log p is 0 there.
    from torch import finfo

    return log_p.clamp_min(finfo(log_p.dtype).min)


def _focal_slope(log_p: Tensor, gamma: float) -> Tensor:
    # With the clamp above, gamma < 1 at p -> 1 gives (huge but finite) * p * 0 and not inf * 0.
    rest = _one_minus_p(log_p)
    return -(rest**gamma) + gamma * rest ** (gamma - 1) * (log_p.exp() * _unmasked(log_p))


BASES: dict[str, Base] = {
    "ce": Base(
        phi=lambda log_p: -log_p,
        slope=lambda log_p: -1.0,
        formula="-log p_y",
        source="cross entropy",
        active=True,
    ),
    "fl": Base(
        phi=lambda log_p, gamma: -(_one_minus_p(log_p) ** gamma) * _unmasked(log_p),
        slope=_focal_slope,
        formula="-(1 - p_y)^gamma log p_y",
        source="Lin et al. 2017",
        active=True,
        params={"gamma": 0.5},
    ),
    "mae": Base(
        phi=lambda log_p: -2 * log_p.expm1(),
        slope=lambda log_p: -2 * log_p.exp(),
        formula="sum_k |p_k - q_k| = 2 (1 - p_y)",
        source="Ghosh et al. 2017",
        active=False,
        total=lambda num_classes: 2.0 * (num_classes - 1),
    ),
    "rce": Base(
        phi=lambda log_p, A: A * log_p.expm1(),
        slope=lambda log_p, A: A * log_p.exp(),
        formula="-A (1 - p_y), A = log 1e-4",
        source="Wang et al. 2019",
        active=False,
        params={"A": LOG_ZERO},
        total=lambda num_classes, A: -A * (num_classes - 1),
    ),
    "gce": Base(
        phi=lambda log_p, q: -(q * log_p).expm1() / q,
        slope=lambda log_p, q: -(log_p * q).exp(),
        formula="(1 - p_y^q) / q",
        source="Zhang & Sabuncu 2018",
        active=True,
        params={"q": 0.7},
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
