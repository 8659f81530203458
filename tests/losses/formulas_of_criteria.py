"""Every loss that is no sum once more, in 50-digit numbers: what test_criteria.py and `apl verify`
compare with.

    python tests/losses/formulas_of_criteria.py

writes apl/losses/criteria.json anew; `test_formulas.py` (slow) finds whether it would be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import mpmath
from formulas_of_sums import as_text

GOLDEN = Path(__file__).parents[2] / "apl" / "losses" / "criteria.json"

mpmath.mp.dps = 50
mpf = mpmath.mpf
Row = list[mpmath.mpf]
Formula = Callable[[Row], mpmath.mpf]  # of logits, the label known


def softmax(z: Row) -> Row:
    exps = [mpmath.exp(v) for v in z]
    total = mpmath.fsum(exps)
    return [e / total for e in exps]


def ce(z: Row, y: int) -> mpmath.mpf:
    return -mpmath.log(softmax(z)[y])


def top(z: Row) -> int:
    return max(range(len(z)), key=lambda k: (z[k], -k))


def hard_bootstrap(z: Row, y: int) -> mpmath.mpf:
    return mpf(0.8) * ce(z, y) + (1 - mpf(0.8)) * ce(z, top(z))


def eps_softmax(z: Row, y: int) -> mpmath.mpf:
    m = mpf(1e5)
    raised = (softmax(z)[y] + m * (top(z) == y)) / (m + 1)
    return -mpmath.log(max(raised, mpf(1e-8)))


def eps_softmax_mae(z: Row, y: int) -> mpmath.mpf:
    return mpf(0.01) * eps_softmax(z, y) + 5 * 2 * (1 - softmax(z)[y])


def norm(z: Row) -> mpmath.mpf:
    return mpmath.sqrt(mpmath.fsum(v * v for v in z))


def clip(z: Row, y: int) -> mpmath.mpf:
    scale = min(mpf(1), 1 / norm(z)) if norm(z) else mpf(1)
    return ce([v * scale for v in z], y)


def clip_authors(z: Row, y: int) -> mpmath.mpf:
    length = norm(z) + mpf(1e-7)
    return ce([v / length / 1 for v in z], y) if length > 1 else ce(z, y)


def clip_eps(z: Row, y: int) -> mpmath.mpf:
    length, delta = norm(z) + mpf(1e-7), mpf(1.5)
    return ce([v / length * delta for v in z], y) if length > 1 / delta else ce(z, y)


def robust_max(f: Row, y: int, margin: mpmath.mpf, lam: mpmath.mpf) -> mpmath.mpf:
    exps = [mpmath.exp((margin * (k != y) + f[k] - f[y]) / lam) for k in range(len(f))]
    return lam * mpmath.log(mpmath.fsum(exps) / len(f))


def ldr_kl(z: Row, y: int) -> mpmath.mpf:
    soft = [mpmath.log1p(mpmath.exp(v)) for v in z]
    mean = mpmath.fsum(soft) / len(z)
    return robust_max([s / mean for s in soft], y, mpf(0.1), mpf(10))


def tempered(z: Sequence[float | mpmath.mpf], t: float | mpmath.mpf) -> Row:
    """exp_t(z - nu) for t > 1, with nu by Newton's method: from where the sum is above 1 it falls
    ever less, so that no step goes too far."""
    z, t = [mpf(v) for v in z], mpf(t)
    nu = max(z)
    while True:
        inside = [1 + (1 - t) * (v - nu) for v in z]
        p = [u ** (1 / (1 - t)) for u in inside]
        step = (mpmath.fsum(p) - 1) / mpmath.fsum(q / u for q, u in zip(p, inside, strict=True))
        if step < mpf("1e-46"):
            return p
        nu += step


def bi_tempered(z: Row, y: int) -> mpmath.mpf:
    t1, t2 = mpf(0.7), mpf(1.5)
    p = tempered(z, t2)

    def log_t(u: mpmath.mpf) -> mpmath.mpf:
        return (u ** (1 - t1) - 1) / (1 - t1)

    divergence = mpmath.fsum((v ** (2 - t1)) - (k == y) for k, v in enumerate(p)) / (2 - t1)
    return log_t(mpf(1)) - log_t(p[y]) + divergence


def transition(count: int) -> list[list[float]]:
    """A matrix with no symmetry: row i gives 0.6 to i and the rest to the others, unevenly."""

    def row(i: int) -> list[float]:
        uneven = [0 if k == i else (3 * i + 5 * k) % 7 + 1 for k in range(count)]
        total = sum(uneven)
        return [0.6 if k == i else 0.4 * uneven[k] / total for k in range(count)]

    return [row(i) for i in range(count)]


def matrix(count: int) -> mpmath.matrix:
    return mpmath.matrix(transition(count))


def forward(z: Row, y: int) -> mpmath.mpf:
    t = matrix(len(z))
    return -mpmath.log(mpmath.fsum(p * t[k, y] for k, p in enumerate(softmax(z))))


def backward(z: Row, y: int) -> mpmath.mpf:
    inverse = matrix(len(z)) ** -1
    return -mpmath.fsum(inverse[y, k] * mpmath.log(p) for k, p in enumerate(softmax(z)))


def gjs(z: Row, y: int) -> mpmath.mpf:
    """Of two views, one after the other."""
    half = len(z) // 2
    pi = mpf(0.3)
    label = [mpf(k == y) for k in range(half)]
    parts = [(pi, label), *(((1 - pi) / 2, softmax(v)) for v in (z[:half], z[half:]))]
    mean = [mpmath.fsum(w * p[k] for w, p in parts) for k in range(half)]
    total = mpmath.fsum(
        w * p[k] * mpmath.log(p[k] / mean[k]) for w, p in parts for k in range(half) if p[k]
    )
    return -total / ((1 - pi) * mpmath.log(1 - pi))


def sr(z: Row, y: int) -> mpmath.mpf:
    scaled = [v / norm(z) / mpf(0.5) for v in z]
    sparse = mpmath.fsum(p ** mpf(0.1) for p in softmax(scaled))
    return ce(scaled, y) + mpf(1.2) * mpf(1.03) ** 7 * sparse


def negative_loss(z: Row, y: int, focal: bool) -> mpmath.mpf:
    """ANL of one row, and of it alone the entropy."""
    p, floor = softmax(z), mpf(1e-7)

    def strength(u: mpmath.mpf) -> mpmath.mpf:
        return -(mpmath.sqrt(1 - u) if focal else 1) * mpmath.log(u)

    largest = strength(floor)
    active = strength(p[y]) / mpmath.fsum(strength(u) for u in p)
    left = [largest - strength(max(u, floor)) for u in p]
    entropy = -mpmath.fsum(u * mpmath.log(u) for u in p)
    negative = 1 - left[y] / mpmath.fsum(left)
    return 5 * active + 5 * negative + 2 * (mpmath.log(len(z)) - entropy)


FORMULAS: dict[str, Callable[[Row, int], mpmath.mpf]] = {
    "boot_hard": hard_bootstrap,
    "eps_softmax": eps_softmax,
    "eps_softmax_mae": eps_softmax_mae,
    "ce_lc": clip,
    "ce_lc_authors": clip_authors,
    "ce_lc_eps": clip_eps,
    "ldr_kl": ldr_kl,
    "bi_tempered": bi_tempered,
    "forward": forward,
    "forward_est": lambda z, y: ce(z, y),  # with nothing estimated yet
    "backward": backward,
    "gjs": gjs,
    "anl_ce_er": lambda z, y: negative_loss(z, y, focal=False),
    "anl_fl_er": lambda z, y: negative_loss(z, y, focal=True),
    "sr": sr,
}


REMEMBERING = ("aldr_kl", "elr")


def frozen(name: str, z: Row, y: int, state: Row) -> tuple[Formula, Row]:
    """The loss of a row of a loss that remembers, and the state after it, which is a constant for
    the gradient."""
    count = mpf(len(z))
    if name == "elr":

        def clamped(values: Row) -> Row:
            low = mpf(1e-4)
            return [min(max(p, low), mpf(1 - 1e-4)) for p in softmax(values)]

        now = clamped(z)
        total = mpmath.fsum(now)
        after = [mpf(0.7) * t + (1 - mpf(0.7)) * p / total for t, p in zip(state, now, strict=True)]

        def elr(v: Row) -> mpmath.mpf:
            agreement = mpmath.fsum(t * p for t, p in zip(after, clamped(v), strict=True))
            return ce(v, y) + 3 * mpmath.log(1 - agreement)

        return elr, after

    def scores(values: Row) -> Row:
        return [count * v / mpmath.fsum(abs(v) for v in values) for v in values]

    p = softmax([f / state[0] for f in scores(z)])
    divergence = mpmath.fsum(pk * mpmath.log(count * pk) for pk in p)
    strength = 2 * mpmath.log(count)
    lam = 10 - 10 * divergence / strength

    def aldr(v: Row) -> mpmath.mpf:
        extra = -strength / 10 * (lam - 10) ** 2 / 2
        return robust_max(scores(v), y, mpf(0.1), lam) + extra

    return aldr, [lam]


def gradient(formula: Formula, z: Row) -> list[float]:
    step = mpf("1e-20")

    def at(k: int, sign: int) -> mpmath.mpf:
        return formula([v + sign * step if j == k else v for j, v in enumerate(z)])

    return [float((at(k, 1) - at(k, -1)) / (2 * step)) for k in range(len(z))]


ROWS = [
    ([0.3, -1.2], 0),
    ([0.5, -0.25, 2.0, 1.0], 3),
    ([0.2, 0.1, 0.05, 0.0], 1),  # within every norm that logits are clipped to
    ([8.0, -3.0, 0.5, 0.0, 1.5], 0),  # confident and right
    ([8.0, -3.0, 0.5, 0.0, 1.5], 1),  # confident and wrong
    ([30.0, 0.0, -30.0], 0),  # p_y = 1 to machine precision
    ([30.0, 0.0, -30.0], 2),
    ([-60.0, -80.0, -70.0], 1),  # all far below 0
    ([float((3 * k) % 7) + k / 16 for k in range(12)], 5),
]


Case = list[object]  # logits, target, value, gradient, and of a loss that remembers what it does


def exact(name: str, row: list[float], target: int) -> list[Case]:
    """Value and gradient of a row."""
    z = inputs(name, row)

    def formula(values: Row) -> mpmath.mpf:
        return FORMULAS[name](values, target)

    return [[[float(v) for v in z], target, float(formula(z)), gradient(formula, z)]]


def inputs(name: str, row: list[float]) -> Row:
    """The logits of a row; of gjs those of two views, one after the other."""
    z = [mpf(v) for v in row]
    return z + [v / 2 - k for k, v in enumerate(z)] if name == "gjs" else z


def three_visits(name: str, row: list[float], target: int) -> list[Case]:
    """Value, gradient and what is remembered, when a row comes the first, second, third time, its
    logits each time larger."""
    state = [mpf(0)] * len(row) if name == "elr" else [mpf(10)]
    found: list[Case] = []
    for visit in range(3):
        z = [mpf(v) * (1 + visit) for v in row]
        formula, state = frozen(name, z, target, state)
        said, slope = float(formula(z)), gradient(formula, z)
        found.append([[float(v) for v in z], target, said, slope, [float(v) for v in state]])
    return found


def golden() -> str:
    """The transition matrices by the number of classes, and of every loss, in the order of ROWS,
    what `exact` gives, or `three_visits`."""
    of = {name: [exact(name, *row) for row in ROWS] for name in FORMULAS}
    of |= {name: [three_visits(name, *row) for row in ROWS] for name in REMEMBERING}
    sizes = sorted({len(row) for row, _ in ROWS})
    return as_text(of, transitions={size: transition(size) for size in sizes})


if __name__ == "__main__":
    GOLDEN.write_text(golden(), encoding="utf-8")
