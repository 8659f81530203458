"""Tests over seeds: of margins, by two tests that must agree; of families, by Holm; of which
methods may be the best.

Seeds are what is independent: a margin is one number a seed, the difference of two methods that saw
the same images and the same wrong labels.  By scipy, but for Holm's step and the set of the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
FEWEST = 6
"""Seeds below which no verdict is given: of five margins no arrangement of signs is rarer than one
in 32, and whether they are normally distributed they can't show."""

_RESAMPLED = 9_999  # arrangements of signs where there are more than that


@dataclass(frozen=True)
class Estimate:
    """A mean with its t-interval, of 95 % unless told, and the two-sided p of its being 0.

    Of one value there is only the mean, the others are nan.
    """

    count: int
    mean: float
    low: float
    high: float
    p: float


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Student's t over values that are independent of each other, as seeds are; the interval holds
    their mean with this confidence."""
    sample = np.asarray(values, dtype=float)
    count, mean = len(sample), float(sample.mean()) if len(sample) else math.nan
    if count < 2:
        return Estimate(count, mean, math.nan, math.nan, math.nan)
    if _constant(sample):  # the same each time, up to rounding: no error to see
        return Estimate(count, mean, mean, mean, 0.0 if mean else 1.0)
    from scipy import stats  # takes a second: what tests nothing does not load it

    test = stats.ttest_1samp(sample, 0.0)
    low, high = test.confidence_interval(confidence)
    return Estimate(count, mean, float(low), float(high), float(test.pvalue))


def _constant(sample: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bool:
    return bool(np.ptp(sample) <= 1e-12 * abs(sample.mean()))


def above(values: Sequence[float], margin: float = 0.0) -> float:
    """The one-sided p of the values' mean not being above a margin: the larger one of Student's t,
    which supposes a normal distribution, and of flipping signs, which supposes a symmetric one.
    nan for fewer than two values."""
    over = np.asarray(values, dtype=float) - margin
    if len(over) < 2:
        return math.nan
    from scipy import stats  # takes a second

    if _constant(over):
        by_t = 0.0 if over.mean() > 0 else 1.0
    else:
        by_t = float(stats.ttest_1samp(over, 0.0, alternative="greater").pvalue)
    flipped = stats.permutation_test(
        (over,),
        np.mean,
        permutation_type="samples",
        n_resamples=_RESAMPLED,
        alternative="greater",
        vectorized=True,
        random_state=0,
    )
    return max(by_t, float(flipped.pvalue))


def below(values: Sequence[float], margin: float = 0.0) -> float:
    """As `above`, of the mean not being below a margin."""
    return above([-value for value in values], -margin)


def within(values: Sequence[float], margin: float) -> float:
    """The p of the mean not being within a margin of 0, either way: two one-sided tests, both of
    which must reject."""
    return max(above(values, -margin), below(values, margin))


def outside(values: Sequence[float], margin: float) -> float:
    """The p of the mean being within a margin of 0: the smaller of two one-sided ones, twice."""
    return min(1.0, 2 * min(above(values, margin), below(values, -margin)))


def holm(ps: Sequence[float]) -> list[float]:
    """The p of each of a family of tests, by Holm's step-down method; those that are nan, tests
    that could not be made, do not count.

    Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    found = np.full(len(ps), math.nan)
    made = np.flatnonzero(~np.isnan(np.asarray(ps, dtype=float)))
    order = made[np.argsort(np.asarray(ps, dtype=float)[made], kind="stable")]
    reached = 0.0
    for place, at in enumerate(order):
        reached = max(reached, min(1.0, (len(order) - place) * ps[at]))
        found[at] = reached
    return [float(p) for p in found]


def family(
    margins: Sequence[Sequence[float]],
    tests: Sequence[Callable[[Sequence[float]], tuple[float, float]]],
) -> list[tuple[float, float]]:
    """The two p of each of a family of claims, of it not holding and of its holding, each by Holm
    over all claims; nan of those with fewer than FEWEST margins, which do not count.

    margins: of each claim, one a seed; tests: what makes the two p of them.
    """
    ps = [
        test(values) if len(values) >= FEWEST else (math.nan, math.nan)
        for values, test in zip(margins, tests, strict=True)
    ]
    holds, fails = (holm([pair[k] for pair in ps]) for k in (0, 1))
    return list(zip(holds, fails, strict=True))


def may_be_best(scores: pd.DataFrame) -> list[str]:
    """The methods that may be the best: a set that holds the best one in 19 of 20 studies.

    scores: a row a seed, a column a method, nothing missing.  A method is left out where another is
    ahead of it at 5 % divided by the number of the others, since any of these might have been the
    one that happened to be (multiple comparisons with the best by Bonferroni over the others; that
    many methods are judged costs nothing more, for only one of them is the best).
    """
    methods = list(scores.columns)
    count = len(scores)
    if count < 2 or len(methods) < 2:
        return methods
    from scipy import stats  # takes a second

    values = scores.to_numpy(dtype=float)
    kept = []
    for k, method in enumerate(methods):
        behind = np.delete(values, k, axis=1) - values[:, [k]]
        mean, error = behind.mean(0), behind.std(0, ddof=1) / math.sqrt(count)
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(mean == 0, 0.0, mean / error)
        p = float(stats.t.sf(reach.max(), count - 1)) * (len(methods) - 1)
        if p > LEVEL:
            kept.append(method)
    return kept


def cant_tell(count: int) -> str:
    """Why there is no verdict of so few seeds."""
    words = ("no", "one", "two", "three", "four", "five")
    return f"{words[count]} seed{'s' * (count != 1)} can't tell"
