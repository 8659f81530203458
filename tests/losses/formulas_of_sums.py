"""Every sum of terms once more, in 50-digit numbers: what test_losses.py and `apl verify` compare
with.

    python tests/losses/formulas_of_sums.py

writes apl/losses/sums.json anew; `test_formulas.py` (slow) finds whether it would be the same.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import mpmath

GOLDEN = Path(__file__).parents[2] / "apl" / "losses" / "sums.json"

mpmath.mp.dps = 50

# Of few numbers, and of each of them for many losses, labels and classes with equal logits.
exp, log, sqrt = (functools.cache(of) for of in (mpmath.exp, mpmath.log, mpmath.sqrt))

LOG_ZERO = log(mpmath.mpf("1e-4"))
Row = list[mpmath.mpf]
Formula = Callable[[Row, int], mpmath.mpf]


def softmax(logits: list[float]) -> Row:
    exps = [exp(mpmath.mpf(z)) for z in logits]
    total = mpmath.fsum(exps)
    return [e / total for e in exps]


def ce(p: Row, y: int) -> mpmath.mpf:
    return -log(p[y])


def fl(p: Row, y: int) -> mpmath.mpf:
    return -sqrt(1 - p[y]) * log(p[y])


def mae(p: Row, y: int) -> mpmath.mpf:
    return mpmath.fsum(abs(p[k] - (1 if k == y else 0)) for k in range(len(p)))


def rce(p: Row, y: int) -> mpmath.mpf:
    return -mpmath.fsum(p[k] * (0 if k == y else LOG_ZERO) for k in range(len(p)))


def gce(p: Row, y: int) -> mpmath.mpf:
    return (1 - p[y] ** mpmath.mpf(0.7)) / mpmath.mpf(0.7)


def agce(p: Row, y: int, a: float = 0.6, q: float = 0.6) -> mpmath.mpf:
    a, q = mpmath.mpf(a), mpmath.mpf(q)
    return ((a + 1) ** q - (a + p[y]) ** q) / q


def aul(p: Row, y: int, a: float = 5.5, q: float = 3) -> mpmath.mpf:
    a, q = mpmath.mpf(a), mpmath.mpf(q)
    return ((a - p[y]) ** q - (a - 1) ** q) / q


def ael(p: Row, y: int, a: float = 2.5) -> mpmath.mpf:
    return exp(-p[y] / mpmath.mpf(a))


def tce(p: Row, y: int, t: int = 6) -> mpmath.mpf:
    return mpmath.fsum((1 - p[y]) ** i / mpmath.mpf(i) for i in range(1, t + 1))


def phuber_ce(p: Row, y: int, tau: float = 2) -> mpmath.mpf:
    if p[y] > 1 / mpmath.mpf(tau):
        return -log(p[y])
    return -mpmath.mpf(tau) * p[y] + log(tau) + 1


def phuber_gce(p: Row, y: int, tau: float = 10, q: float = 0.7) -> mpmath.mpf:
    tau, q = mpmath.mpf(tau), mpmath.mpf(q)
    edge = tau ** (1 / (q - 1))
    if p[y] > edge:
        return (1 - p[y] ** q) / q
    return -tau * p[y] + tau * edge + (1 - edge**q) / q


def js(p: Row, y: int, pi: float = 0.7) -> mpmath.mpf:
    pi = mpmath.mpf(pi)
    label = [mpmath.mpf(k == y) for k in range(len(p))]
    mean = [pi * one + (1 - pi) * other for one, other in zip(label, p, strict=True)]

    def divergence(of: Row) -> mpmath.mpf:
        return mpmath.fsum(x * log(x / m) for x, m in zip(of, mean, strict=True) if x)

    whole = pi * divergence(label) + (1 - pi) * divergence(p)
    return whole / -((1 - pi) * log(1 - pi))


def negative(loss: Callable[[mpmath.mpf], mpmath.mpf], p_min: float = 1e-7) -> Formula:
    """The normalised negative of a loss of p_y, which is flat below p_min."""
    p_min = mpmath.mpf(p_min)

    def left(p: Row, k: int) -> mpmath.mpf:
        return loss(p_min) - loss(max(p[k], p_min))

    return lambda p, y: 1 - left(p, y) / mpmath.fsum(left(p, k) for k in range(len(p)))


nnce = negative(lambda p: -log(p))
nnfl = negative(lambda p: -sqrt(1 - p) * log(p))


def amse(p: Row, y: int, a: float = 30) -> mpmath.mpf:
    return mpmath.fsum((p[k] - mpmath.mpf(a) * (k == y)) ** 2 for k in range(len(p))) / len(p)


def with_target(p: Row, target: Row) -> mpmath.mpf:
    return -mpmath.fsum(q * log(u) for q, u in zip(target, p, strict=True))


def ls(p: Row, y: int, s: float = 0.1) -> mpmath.mpf:
    s = mpmath.mpf(s)
    return with_target(p, [(1 - s) * (k == y) + s / len(p) for k in range(len(p))])


def boot_soft(p: Row, y: int, beta: float = 0.95) -> mpmath.mpf:
    beta = mpmath.mpf(beta)
    return with_target(p, [beta * (k == y) + (1 - beta) * p[k] for k in range(len(p))])


def norm(loss: Formula) -> Formula:
    def whole(p: Row) -> mpmath.mpf:  # equal probabilities have equal losses
        return mpmath.fsum(count * loss(p, p.index(u)) for u, count in Counter(p).items())

    return lambda p, y: loss(p, y) / whole(p)


def both(active: Formula, passive: Formula, alpha: float = 1, beta: float = 1) -> Formula:
    return lambda p, y: mpmath.mpf(alpha) * active(p, y) + mpmath.mpf(beta) * passive(p, y)


# Written from the papers' definitions in 50-digit arithmetic, sharing nothing with the code.
FORMULAS: dict[str, Formula] = {
    "ce": ce,
    "fl": fl,
    "mae": mae,
    "rce": rce,
    "gce": gce,
    "sce": both(ce, rce, 0.1, 1),
    "nce": norm(ce),
    "nfl": norm(fl),
    "nmae": norm(mae),
    "nrce": norm(rce),
    "ngce": norm(gce),
    "nce_mae": both(norm(ce), mae),
    "nce_rce": both(norm(ce), rce),
    "nfl_mae": both(norm(fl), mae),
    "nfl_rce": both(norm(fl), rce),
    "ngce_mae": both(norm(gce), mae),
    "ngce_rce": both(norm(gce), rce),
    "agce": agce,
    "aul": aul,
    "ael": ael,
    "tce": tce,
    "phuber_ce": phuber_ce,
    "phuber_gce": phuber_gce,
    "js": js,
    "nagce": norm(agce),
    "naul": norm(aul),
    "nael": norm(ael),
    "ntce": norm(tce),
    "nphuber_ce": norm(phuber_ce),
    "nphuber_gce": norm(phuber_gce),
    "njs": norm(js),
    "nce_agce": both(norm(ce), lambda p, y: agce(p, y, 6, 1.5), 1, 4),
    "nce_aul": both(norm(ce), lambda p, y: aul(p, y, 6.3, 1.5), 1, 4),
    "nce_ael": both(norm(ce), lambda p, y: ael(p, y, 5), 1, 4),
    "nce_tce": both(norm(ce), tce),
    "nce_phuber_ce": both(norm(ce), phuber_ce),
    "nce_phuber_gce": both(norm(ce), phuber_gce),
    "nce_js": both(norm(ce), js),
    "nnce": nnce,
    "nnfl": nnfl,
    "anl_ce": both(norm(ce), nnce, 5, 5),
    "anl_fl": both(norm(fl), nnfl, 5, 5),
    "amse": amse,
    "jal_ce": both(norm(ce), amse),
    "jal_fl": both(norm(fl), amse),
    "ls": ls,
    "boot_soft": boot_soft,
}


ROWS = [
    ([0.3, -1.2], 0),
    ([0.5, -0.25, 2.0, 1.0], 3),
    ([0.0] * 10, 7),
    ([8.0, -3.0, 0.5, 0.0, 1.5], 0),  # confident and right
    ([8.0, -3.0, 0.5, 0.0, 1.5], 1),  # confident and wrong
    ([30.0, 0.0, -30.0], 0),  # p_y = 1 to machine precision
    ([30.0, 0.0, -30.0], 2),
    ([float(k % 7) for k in range(100)], 42),
]


def different(logits: list[float], target: int) -> list[int]:
    """The first class of each logit, and the target: equal logits have equal gradients."""
    first = {(z, k == target): k for k, z in reversed(list(enumerate(logits)))}
    return sorted(first.values())


def exact(name: str, logits: list[float], target: int) -> tuple[float, list[float]]:
    """Value, and gradient by the logits of the `different` classes, from the formula; the gradient
    by a difference of 50-digit numbers."""
    formula, step = FORMULAS[name], mpmath.mpf("1e-20")

    def at(k: int, sign: int) -> mpmath.mpf:
        moved = [mpmath.mpf(z) + (sign * step if j == k else 0) for j, z in enumerate(logits)]
        return formula(softmax(moved), target)

    gradient = [float((at(k, 1) - at(k, -1)) / (2 * step)) for k in different(logits, target)]
    return float(formula(softmax(logits), target)), gradient


def as_text(golden: Mapping[str, object], **beside: object) -> str:
    """JSON of what is beside the losses, and of each loss, a line each."""

    def lines(of: Mapping[str, object]) -> str:
        return ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in of.items())

    return f'{{\n{lines(beside)},\n"losses": {{\n{lines(golden)}\n}}}}\n'


def golden() -> str:
    """The rows, and of every loss, in their order: its value and its gradient, as `exact` gives
    them."""
    return as_text({name: [exact(name, *row) for row in ROWS] for name in FORMULAS}, rows=ROWS)


if __name__ == "__main__":
    GOLDEN.write_text(golden(), encoding="utf-8")
