"""Every base loss, defined once: words, numbers and tensor methods, so that it needs no torch.

A *base* loss is an elementwise function phi of a log-probability: the loss of a row with
log-probabilities l, had its label been j, is phi(l_j).  Everything else follows from phi:

* the loss of the row is phi(l_y);
* its normalised form (Ma et al. 2020, eq. 1) is phi(l_y) / sum_j phi(l_j), the sum over the classes
  that there are: not those that a logit of -inf masks out;
* its sum over the classes is sum_j phi(l_j), whatever the label;
* any weighted sum of these three forms of bases is a loss: a tuple of `Term`s.

`apl.kernels.reference` computes them from phi and autograd; whatever is faster is tested against
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    Number = float | Tensor  # a parameter: of no dimension where it is a tensor

Form = Literal["at", "norm", "sum"]  # phi(l_y), phi(l_y) / sum_j phi(l_j), sum_j phi(l_j)

LOG_ZERO = -9.210340371976182  # log 1e-4: what the RCE of Wang et al. 2019 puts for log 0


class Range(NamedTuple):
    """What a parameter may be: in words, and whether a number is."""

    accepted: str
    fits: Callable[[float], bool]


@dataclass(frozen=True)
class Base:
    """One base loss.

    phi(log_p, *params) maps log-probabilities of any shape to losses of that shape; params are
    floats in the order of `params` (name -> default), or tensors of no dimension.
    slope(log_p, *params) is its derivative d phi / d log_p, a number where it is one for every
    log_p: the closed form of `apl.kernels.closed_form` needs it, the specification does not
    (autograd finds it from phi).
    `rate(*params)`, where phi is it times p - 1, is that number.
    `total(num_classes, *params)` is the constant sum_j phi(l_j) where it is one for every l (then
    the loss is tolerant to symmetric noise as it stands, Lemma 1), else None.
    active: by the definitions of Ma et al. 2020; what its authors join with NCE as the passive
    part is passive.
    ranges: of its parameters those that take less here than in another base.
    counted: its parameters are counts of what phi adds up: numbers in the code of a path.
    part: it is no loss, but a part of others.
    """

    phi: Callable[..., Tensor]
    slope: Callable[..., Tensor | float]
    formula: str
    source: str
    active: bool
    params: Mapping[str, float] = field(default_factory=dict)
    rate: Callable[..., float] | None = None
    total: Callable[..., float] | None = None
    ranges: Mapping[str, Range] = field(default_factory=dict)
    counted: bool = False
    part: bool = False


def _one_minus_p(log_p: Tensor) -> Tensor:
    # 1 - p without cancellation, kept above 0 so that a fractional power has a finite gradient.
    from torch import finfo

    return (-log_p.expm1()).clamp_min(finfo(log_p.dtype).tiny)


def _unmasked(log_p: Tensor) -> Tensor:
    # The log p of a class that is masked out by a logit of -inf: finite, since p log p is 0 there.
    from torch import finfo

    return log_p.clamp_min(finfo(log_p.dtype).min)


def _bounded(log_p: Tensor) -> Tensor:
    # What times p is p log p, 0 at p = 0: there a number that times any loss scale is finite.
    return log_p.clamp_min(-1e4)


def _focal_slope(log_p: Tensor, gamma: Number) -> Tensor:
    # With the clamp above, gamma < 1 at p -> 1 gives (huge but finite) * p * 0 and not inf * 0.
    rest = _one_minus_p(log_p)
    return -(rest**gamma) + gamma * rest ** (gamma - 1) * (log_p.exp() * _unmasked(log_p))


def _focal(log_p: Tensor, gamma: Number) -> Tensor:
    # inf at p = 0, as -log p is: where the label itself is masked out.
    inside = -(_one_minus_p(log_p) ** gamma) * _unmasked(log_p)
    return (-log_p).where(log_p == -math.inf, inside)


def _log(x: Number) -> Number:
    # No int | float: Dynamo of torch 2.8 can't trace a union.
    return math.log(x) if isinstance(x, (int, float)) else x.log()


def _log_mean(log_p: Tensor, a: Number) -> Tensor:
    # log((a + p) / (a + 1)), from whichever of a + p and 1 - p says more of it.
    less = log_p.expm1() / (a + 1)
    near = less.clamp_min(-0.5).log1p()
    return near.where(less > -0.5, ((log_p.exp() + a) / (a + 1)).log())


def _agce(log_p: Tensor, a: Number, q: Number) -> Tensor:
    return (q * _log_mean(log_p, a)).expm1() * (-((a + 1) ** q) / q)


def _agce_slope(log_p: Tensor, a: Number, q: Number) -> Tensor:
    p = log_p.exp()
    return -p * (p + a) ** (q - 1)


def _aul(log_p: Tensor, a: Number, q: Number) -> Tensor:
    rest = -log_p.expm1()
    return (rest + (a - 1)) ** q * (-q * (rest / (a - 1)).log1p()).expm1() / -q


def _aul_slope(log_p: Tensor, a: Number, q: Number) -> Tensor:
    return -log_p.exp() * ((a - 1) - log_p.expm1()) ** (q - 1)


def _tce(log_p: Tensor, t: float) -> Tensor:
    rest = -log_p.expm1()
    total = rest / t
    for i in range(int(t) - 1, 0, -1):  # Horner's scheme
        total = rest * (total + 1 / i)
    return total


def _tce_slope(log_p: Tensor, t: float) -> Tensor:
    # -(1 - r^t) = -p (1 + r + ... + r^(t - 1)), r = 1 - p: to the last digit for p near 0 too.
    rest = -log_p.expm1()
    total = rest.new_ones(rest.shape)
    for _ in range(int(t) - 1):
        total = rest * total + 1
    return -log_p.exp() * total


def _phuber_ce(log_p: Tensor, tau: Number) -> Tensor:
    edge = _log(tau)
    return (-log_p).where(log_p > -edge, -tau * log_p.exp() + (edge + 1))


def _phuber_ce_slope(log_p: Tensor, tau: Number) -> Tensor:
    return -((tau * log_p.exp()).clamp_max(1.0))


def _phuber_gce(log_p: Tensor, tau: Number, q: Number) -> Tensor:
    edge = _log(tau) / (q - 1)  # log of the p from which on it is GCE
    power = tau ** (q / (q - 1))  # of that p, to the q: tau p as well
    tangent = -tau * log_p.exp() + (power + (1 - power) / q)
    return ((q * log_p).expm1() / -q).where(log_p > edge, tangent)


def _phuber_gce_slope(log_p: Tensor, tau: Number, q: Number) -> Tensor:
    return -((q * log_p).exp().minimum(tau * log_p.exp()))


def _js_parts(log_p: Tensor, pi: Number) -> tuple[Tensor, Tensor]:
    # Of the mean m = pi + (1 - pi) p_y of label and prediction, log m and log(m / p_y).  The
    # latter from p_y / (1 - p_y), until m is so much the larger that the difference is as good.
    log_m = _log_mean(log_p, pi / (1 - pi))
    near = (pi * (-log_p.clamp_min(-16.0)).expm1()).log1p()
    return log_m, near.where(log_p > -16.0, log_m - _bounded(log_p))


def _js(log_p: Tensor, pi: Number) -> Tensor:
    log_m, above = _js_parts(log_p, pi)
    rest = (1 - pi) * (log_p.exp() * above - log_p.expm1() * _log(1 - pi))
    return (pi * log_m + rest) / ((1 - pi) * _log(1 - pi))


def _js_slope(log_p: Tensor, pi: Number) -> Tensor:
    _, above = _js_parts(log_p, pi)
    return log_p.exp() * (above / _log(1 - pi) - 1)


def _negative_focal(log_p: Tensor, p_min: Number, gamma: Number) -> Tensor:
    # 0 below p_min to the last digit: there may be many of them.
    most = -((1 - p_min) ** gamma) * _log(p_min)
    return (most - _focal(log_p, gamma)).masked_fill(log_p <= _log(p_min), 0.0)


def _negative_focal_slope(log_p: Tensor, p_min: Number, gamma: Number) -> Tensor:
    return (-_focal_slope(log_p, gamma)).masked_fill(log_p <= _log(p_min), 0.0)


ABOVE_1 = Range("a number > 1", lambda v: v > 1)
UP_TO_1 = Range("a number in (0, 1]", lambda v: 0 < v <= 1)
BELOW_1 = Range("a number in (0, 1)", lambda v: 0 < v < 1)

ZHOU = "Zhou et al. 2021"
YE = "Ye et al. 2023"

BASES: dict[str, Base] = {
    "ce": Base(
        phi=lambda log_p: -log_p,
        slope=lambda log_p: -1.0,
        formula="-log p_y",
        source="cross entropy",
        active=True,
    ),
    "fl": Base(
        phi=_focal,
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
        rate=lambda: -2.0,
        total=lambda num_classes: 2.0 * (num_classes - 1),
    ),
    "rce": Base(
        phi=lambda log_p, A: A * log_p.expm1(),
        slope=lambda log_p, A: A * log_p.exp(),
        formula="-A (1 - p_y), A = log 1e-4",
        source="Wang et al. 2019",
        active=False,
        params={"A": LOG_ZERO},
        rate=lambda A: A,
        total=lambda num_classes, A: -A * (num_classes - 1),
    ),
    "gce": Base(
        phi=lambda log_p, q: -(q * log_p).expm1() / q,
        slope=lambda log_p, q: -(log_p * q).exp(),
        formula="(1 - p_y^q) / q",
        source="Zhang & Sabuncu 2018",
        active=True,
        params={"q": 0.7},
        ranges={"q": UP_TO_1},
    ),
    "agce": Base(
        phi=_agce,
        slope=_agce_slope,
        formula="((a + 1)^q - (a + p_y)^q) / q",
        source=ZHOU,
        active=False,
        params={"a": 0.6, "q": 0.6},
    ),
    "aul": Base(
        phi=_aul,
        slope=_aul_slope,
        formula="((a - p_y)^q - (a - 1)^q) / q",
        source=ZHOU,
        active=False,
        params={"a": 5.5, "q": 3.0},
        ranges={"a": ABOVE_1},
    ),
    "ael": Base(
        phi=lambda log_p, a: (log_p.exp() / -a).exp(),
        slope=lambda log_p, a: (log_p.exp() / -a) * (log_p.exp() / -a).exp(),
        formula="exp(-p_y / a)",
        source=ZHOU,
        active=False,
        params={"a": 2.5},
    ),
    "tce": Base(
        phi=_tce,
        slope=_tce_slope,
        formula="sum_{i = 1..t} (1 - p_y)^i / i",
        source="Feng et al. 2020",
        active=True,
        params={"t": 6},
        counted=True,
    ),
    "phuber_ce": Base(
        phi=_phuber_ce,
        slope=_phuber_ce_slope,
        formula="-log p_y, and below p_y = 1/tau its tangent there",
        source="Menon et al. 2020",
        active=True,
        params={"tau": 2.0},
    ),
    "phuber_gce": Base(
        phi=_phuber_gce,
        slope=_phuber_gce_slope,
        formula="(1 - p_y^q) / q, and below p_y = tau^(1/(q - 1)) its tangent there",
        source="Menon et al. 2020",
        active=True,
        params={"tau": 10.0, "q": 0.7},
        ranges={"q": BELOW_1},
    ),
    "js": Base(
        phi=_js,
        slope=_js_slope,
        formula="(pi KL(q || m) + (1 - pi) KL(p || m)) / (-(1 - pi) log(1 - pi)), "
        "m = pi q + (1 - pi) p",
        source="Englesson & Azizpour 2021",
        active=True,
        params={"pi": 0.7},
    ),
    "one": Base(
        phi=lambda log_p: log_p.clamp(1.0, 1.0),  # autograd finds the slope 0 of it, and nan stays
        slope=lambda log_p: 0.0,
        formula="1",
        source="",
        active=False,
        total=lambda num_classes: float(num_classes),
        part=True,
    ),
    "negce": Base(
        phi=lambda log_p, p_min: (log_p - _log(p_min)).clamp_min(0.0),
        slope=lambda log_p, p_min: (log_p > _log(p_min)).to(log_p.dtype),
        formula="max(log p_y, log p_min) - log p_min",
        source=YE,
        active=False,
        params={"p_min": 1e-7},
        part=True,
    ),
    "negfl": Base(
        phi=_negative_focal,
        slope=_negative_focal_slope,
        formula="fl(p_min) - fl(max(p_y, p_min))",
        source=YE,
        active=False,
        params={"p_min": 1e-7, "gamma": 0.5},
        part=True,
    ),
    "sq": Base(
        phi=lambda log_p: (2 * log_p).exp(),
        slope=lambda log_p: 2 * (2 * log_p).exp(),
        formula="p_y^2",
        source="",
        active=False,
        part=True,
    ),
    "entropy": Base(
        phi=lambda log_p: -log_p.exp() * _bounded(log_p),
        slope=lambda log_p: -log_p.exp() * (_bounded(log_p) + 1),
        formula="-p_y log p_y",
        source="",
        active=False,
        part=True,
    ),
}


class Term(NamedTuple):
    """weight times a form of a base: of the label ('at'), normalised ('norm'), or summed over all
    classes whatever the label ('sum'); params as in `Base`."""

    base: str
    weight: float = 1.0
    form: Form = "at"
    params: tuple[float, ...] = ()


def simplify(terms: Sequence[Term], num_classes: int) -> tuple[Term, ...]:
    """The same loss with fewer terms: sums of like terms joined, constant sums divided out.

    A base whose sum over the labels is a constant (MAE, RCE) needs no normalising at run time:
    NMAE and NRCE are MAE and RCE times a number (Ma et al. 2020, eqs. 4 and 5).
    """
    joined: dict[Term, float] = {}
    for term in terms:
        base, weight, form = BASES[term.base], term.weight, term.form
        if form == "norm" and base.total is not None:
            weight, form = weight / base.total(num_classes, *term.params), "at"
        key = Term(term.base, 1.0, form, term.params)
        joined[key] = joined.get(key, 0.0) + weight
    return tuple(key._replace(weight=weight) for key, weight in joined.items())
