"""Noisy labels drawn by a transition matrix, or by a row for each sample."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from apl.errors import BadInput, NoiseWarning
from apl.names import METHODS
from apl.noise.labels import IntArray, Labels, Matrix
from apl.noise.matrices import check_transition, past_bound


def corrupt(
    labels: npt.ArrayLike,
    transition: Matrix,
    method: str = "transition",
    rng: np.random.Generator | int = 0,
) -> Labels:
    """Corrupt labels [N] by a transition matrix [K, K].

    method 'transition': every label flips independently; 'exact': the number of flipped labels
    over the whole set is the expected one, rounded; 'exact-per-class': so it is in every class
    (Ma et al.'s code).  Where a flipped label goes is always drawn from its row of the matrix,
    except by 'exact-per-pair': of the n_j labels of class j exactly floor(T_jk n_j) become k, for
    every k (`method2` of the code of Ye et al. 2023 and Wang et al. 2025).  What the floors leave
    stays clean, so the rate falls below T's: on CIFAR-100 0.4 becomes 0.396.
    Warns with NoiseWarning past the tolerance bound (see `past_bound`).
    """
    num_classes = len(transition)
    transition = check_transition(np.asarray(transition, np.float64), num_classes, "the matrix")
    clean = _checked(labels, num_classes, method)
    warn_past(transition)
    rng = np.random.default_rng(rng)
    if method == "exact-per-pair":
        return Labels(_flip_pairs(clean, transition, rng), clean, transition)
    flipped = _flipped(clean, (1 - np.diag(transition))[clean], num_classes, method, rng)
    noisy = clean.copy()
    noisy[flipped] = _draw_other(clean[flipped], transition, rng)
    return Labels(noisy, clean, transition)


def corrupt_each(
    labels: npt.ArrayLike,
    rows: Matrix,
    method: str = "transition",
    rng: np.random.Generator | int = 0,
) -> Labels:
    """Corrupt labels [N] by a row of probabilities each [N, K], as `corrupt` does by a matrix.

    The labels' transition is then the mean of the rows of each class.  'exact-per-pair' needs a
    matrix and raises BadInput.
    """
    rows = np.asarray(rows, np.float64)
    clean = _checked(labels, rows.shape[-1], method)
    if method == "exact-per-pair":
        raise BadInput(
            "the method 'exact-per-pair' needs noise that depends on the class alone; accepted "
            "for this noise: transition, exact, exact-per-class"
        )
    if rows.shape != (len(clean), rows.shape[-1]):
        raise BadInput(f"the rows must be {len(clean)} x K, got {' x '.join(map(str, rows.shape))}")
    if not (rows >= 0).all() or np.abs(rows.sum(1) - 1).max(initial=0) > 1e-6:
        raise BadInput("the rows must hold probabilities that sum to 1")
    mean = mean_by_class(rows, clean)
    warn_past(mean)
    rng = np.random.default_rng(rng)
    flip_rates = np.clip(1 - rows[np.arange(len(clean)), clean], 0, 1)
    flipped = _flipped(clean, flip_rates, rows.shape[1], method, rng)
    noisy = clean.copy()
    noisy[flipped] = _draw_other_of(clean[flipped], rows[flipped], rng)
    return Labels(noisy, clean, mean)


def mean_by_class(rows: Matrix, labels: IntArray) -> Matrix:
    """The mean of the rows [N, K] of each class [K, K]; a class without samples keeps its label."""
    mean = np.eye(rows.shape[1])
    for k in np.unique(labels):
        mean[k] = rows[labels == k].mean(0)
    return mean


def _checked(labels: npt.ArrayLike, num_classes: int, method: str) -> IntArray:
    clean = np.asarray(labels, dtype=np.int64)
    if clean.ndim != 1:
        raise BadInput(f"labels must be one-dimensional, got shape {list(clean.shape)}")
    if len(clean) and not 0 <= clean.min() <= clean.max() < num_classes:
        wrong = clean[(clean < 0) | (clean >= num_classes)][0]
        raise BadInput(f"labels must lie in [0, {num_classes}), got {wrong}")
    if method not in METHODS:
        raise BadInput(f"the method must be one of {', '.join(METHODS)}, got {method!r}")
    return clean


def warn_past(transition: Matrix) -> None:
    problem = past_bound(transition)
    if problem:
        warnings.warn(problem, NoiseWarning, stacklevel=3)


def _flipped(
    clean: IntArray,
    rates: npt.NDArray[np.float64],
    num_classes: int,
    method: str,
    rng: np.random.Generator,
) -> npt.NDArray[np.bool_]:
    """Which labels flip, at a rate each [N]."""
    if method == "transition":
        by_chance: npt.NDArray[np.bool_] = rng.random(len(clean)) < rates
        return by_chance
    if method == "exact":
        return _draw_exactly(rates, rng)
    flipped = np.zeros(len(clean), dtype=bool)
    for k in range(num_classes):
        members = np.flatnonzero(clean == k)
        flipped[members] = _draw_exactly(rates[members], rng)
    return flipped


def _flip_pairs(clean: IntArray, transition: Matrix, rng: np.random.Generator) -> IntArray:
    """The labels of which exactly floor(T_jk n_j) go from j to k."""
    noisy = clean.copy()
    others = transition - np.diag(np.diag(transition))
    for k in range(len(transition)):
        members = rng.permutation(np.flatnonzero(clean == k))
        # A product that is whole must not fall to the number below by its rounding.
        counts = np.floor(others[k] * len(members) + 1e-9).astype(np.int64)
        targets = np.repeat(np.arange(len(transition)), counts)
        noisy[members[: len(targets)]] = targets
    return noisy


def _draw_exactly(
    rates: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Choose exactly round(sum of rates) positions, each in proportion to its rate."""
    total = rates.sum()
    count = round(total)
    if count > total:
        # Rounding up would push a rate of 1 past 1; leaving the rest out never does.
        return ~_sample(1 - rates, len(rates) - count, rng)
    return _sample(rates, count, rng)


def _sample(
    rates: npt.NDArray[np.float64], count: int, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Exactly `count` <= sum of rates positions, by systematic sampling over a random order
    (which for equal rates is simple random sampling)."""
    chosen = np.zeros(len(rates), dtype=bool)
    if count > 0:
        order = rng.permutation(len(rates))
        cumulative = np.cumsum(rates[order])
        cumulative *= count / cumulative[-1]
        cumulative[-1] = count  # so that rounding of the sum can't lose or add a position
        marks = np.floor(cumulative + rng.random())
        chosen[order] = np.diff(marks, prepend=0.0) >= 1
    return chosen


def _draw_other(clean: IntArray, transition: Matrix, rng: np.random.Generator) -> IntArray:
    """A label other than the true one for every sample, from the row of its class."""
    others = transition - np.diag(np.diag(transition))
    sums = others.sum(1, keepdims=True)
    cumulative = np.cumsum(np.divide(others, sums, out=np.zeros_like(others), where=sums > 0), 1)
    draws = rng.random(len(clean))
    # A draw at or past the sum of the row (1 up to rounding) falls to the last possible label.
    last = others.shape[1] - 1 - np.argmax(others[:, ::-1] > 0, axis=1)
    noisy = np.empty_like(clean)
    for k in np.unique(clean):
        members = clean == k
        picked = np.searchsorted(cumulative[k], draws[members], side="right")
        noisy[members] = np.minimum(picked, last[k])
    return noisy


def _draw_other_of(clean: IntArray, rows: Matrix, rng: np.random.Generator) -> IntArray:
    """A label other than the true one for every sample, from a row each [N, K]."""
    each = np.arange(len(clean))
    others = rows.copy()
    others[each, clean] = 0
    cumulative = np.cumsum(others, 1)
    # A draw at the whole sum, up to rounding, falls to the last possible label.
    last = others.shape[1] - 1 - np.argmax(others[:, ::-1] > 0, axis=1)
    draws = rng.random(len(clean)) * cumulative[:, -1]
    noisy: IntArray = np.minimum((cumulative <= draws[:, None]).sum(1), last)
    return noisy
