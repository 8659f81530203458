"""Noise that depends on the sample: a row of probabilities for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from apl.errors import BadInput
from apl.names import SCALES, check_rate
from apl.noise.files import read_posterior
from apl.noise.labels import IntArray, Matrix


class Inputs(NamedTuple):
    """What instance-dependent noise looks at: the pixels of each sample, uint8 [N, H, W, C], with
    the mean and std of each channel in [0, 1]; or the rows of a table, float32 [N, F], which are
    standardised already and taken as they are."""

    values: npt.NDArray[Any]
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)


SPREAD = 0.1  # of the flip rates around theirs: norm_std of Xia et al.'s code
FLOATS = 2**22  # at a time, 32 MiB, where inputs are multiplied


def part_dependent(
    inputs: Inputs,
    labels: IntArray,
    num_classes: int,
    rate: float,
    rng: np.random.Generator,
    scale: str = "raw",
) -> Matrix:
    """Instance-dependent noise as in Xia et al., "Part-dependent Label Noise" (NeurIPS 2020,
    Algorithm 2): a row for each sample [N, K].

    Each sample flips at a rate of its own, drawn from a normal distribution around `rate` with std
    0.1, truncated to [0, 1]; the wrong label follows softmax(x W_y) without y, where W_y, of
    standard normal entries, is one for each true class.

    The published code (get_instance_noisy_label) multiplies pixels of 0 to 255, scale 'raw': the
    scores of 32x32 images lie thousands apart, so the wrong label is a function of image and class,
    not drawn.  Forks that turn images to tensors first have pixels of 0 to 1, scale 'unit', where
    it still nearly is.  The rate is the one asked for on average only, and near 0 and 1 truncation
    moves it: 0 gives 0.08.  Rates are drawn in the order of the data, so another order gives other
    labels, as there.
    """
    check_rate(rate)
    flips = rng.normal(rate, SPREAD, len(labels))
    while (outside := (flips < 0) | (flips > 1)).any():
        flips[outside] = rng.normal(rate, SPREAD, outside.sum())
    return _rows_by_scores(inputs, labels, num_classes, flips, rng, scale)


def uniform_dependent(
    inputs: Inputs,
    labels: IntArray,
    num_classes: int,
    rate: float,
    rng: np.random.Generator,
    scale: str = "normalised",
) -> Matrix:
    """The "dependent" noise of the label files of LogitClip (Wei et al., ICML 2023), which the code
    of eps-softmax (NeurIPS 2024) and JAL (ICCV 2025) shares: a row for each sample [N, K].

    Every sample flips at the same rate, and the wrong label follows softmax(x W_y) without y, W_y
    as in `part_dependent`, x normalised.  So the wrong labels of a class spread over the others,
    and its own stays far ahead: mild noise, though papers cite Xia et al. (2020) for it.

    The published code flips exactly floor(rate N) samples (give the method 'exact') and looks at
    each image through the random crop and flip of training; here it is the image as it is.
    """
    flips = np.full(len(labels), check_rate(rate))
    return _rows_by_scores(inputs, labels, num_classes, flips, rng, scale)


def _rows_by_scores(
    inputs: Inputs,
    labels: IntArray,
    num_classes: int,
    flips: npt.NDArray[np.float64],
    rng: np.random.Generator,
    scale: str,
) -> Matrix:
    """Rows [N, K]: 1 - flips for the true class y, and flips softmax(x W_y) for the others."""
    if scale not in SCALES:
        raise BadInput(f"the scale of the pixels is {scale!r}; accepted: {', '.join(SCALES)}")
    if num_classes < 2:
        raise BadInput(f"label noise needs at least 2 classes, got {num_classes}")
    size = int(np.prod(inputs.values.shape[1:]))
    rows = np.empty((len(labels), num_classes))
    for k in range(num_classes):
        # Drawn for every class, so that which ones there are moves no other's weights.
        weights = rng.standard_normal((size, num_classes))
        members = np.flatnonzero(labels == k)
        for chosen in np.array_split(members, len(members) * size // FLOATS + 1):
            scores = _vectors(inputs, chosen, scale) @ weights
            scores[:, k] = -np.inf
            shares = np.exp(scores - scores.max(1, keepdims=True))
            shares *= (flips[chosen] / shares.sum(1))[:, None]
            shares[:, k] = 1 - flips[chosen]
            rows[chosen] = shares
    return rows


def _vectors(inputs: Inputs, chosen: IntArray, scale: str) -> Matrix:
    """The inputs at `chosen` as vectors [n, d], pixels in the given scale."""
    size = int(np.prod(inputs.values.shape[1:]))
    vectors: Matrix = np.asarray(inputs.values[chosen], np.float64).reshape(len(chosen), size)
    if inputs.values.ndim > 2 and scale != "raw":
        vectors /= 255
    if inputs.values.ndim > 2 and scale == "normalised":  # channels come last
        pixels = size // len(inputs.mean)
        vectors -= np.tile(inputs.mean, pixels)
        vectors /= np.tile(inputs.std, pixels)
    return vectors


def pmd(posterior: Matrix, labels: IntArray, rate: float, kind: int) -> Matrix:
    """Polynomial-margin-diminishing noise of type 1, 2 or 3: Zhang et al., "Learning with
    Feature-Dependent Label Noise: A Progressive Approach" (ICLR 2021, section 4): a row for each
    sample [N, K], from the posterior of a network [N, K].

    With u and s the likeliest two classes of a sample and D their difference in probability, its
    label is u with probability P / factor, else s:  P is (1 + D^2) / 2, D^3 or (D^3 + D^2 + D) / 3.
    The sample's own label is not looked at, so it may become a label that is neither.  By the paper
    the rate of flips 1 - P is multiplied by the factor; this is what its code does instead, where a
    sample that is hard to tell (D near 0) surely becomes s in types 2 and 3.

    The authors try factors (1.02 to 3.4) until the share of wrong labels is 0.35 or 0.70; here the
    factor is the one by which the expected share is `rate`.  At 0.70 their true classes are not
    dominant, and no theorem of tolerance applies.

    Raises BadInput where no factor leads to the rate.
    """
    check_rate(rate)
    each = np.arange(len(posterior))
    rest = np.array(posterior, np.float64)
    first = rest.argmax(1)
    margin = rest[each, first]
    rest[each, first] = -np.inf
    second = rest.argmax(1)
    margin -= rest[each, second]
    polynomials = {
        1: (1 + margin**2) / 2,
        2: margin**3,
        3: (margin**3 + margin**2 + margin) / 3,
    }
    if kind not in polynomials:
        raise BadInput(f"PMD noise is of type 1, 2 or 3, got {kind}")
    stay = polynomials[kind]
    # The expected share of wrong labels falls in a straight line with 1 / factor.
    at_second = 1 - float((second == labels).mean())
    slope = float((stay * ((first == labels) * 1.0 - (second == labels))).mean())
    most = 1 / max(float(stay.max()), 1e-12)  # of 1 / factor, since P / factor is a probability
    share = (at_second - rate) / slope if slope > 0 else np.inf
    if not -1e-9 <= share <= most + 1e-9:
        low, high = sorted((at_second, at_second - most * slope))
        raise BadInput(
            f"PMD noise of type {kind} has rates of {low:.3g} to {high:.3g} with these "
            f"probabilities, got {rate:g}"
        )
    stay = np.clip(stay * share, 0, 1)
    rows = np.zeros(rest.shape)
    rows[each, first], rows[each, second] = stay, 1 - stay
    return rows


Rows = Callable[[Inputs, IntArray, int, float, str, np.random.Generator], Matrix]


def _pmd_rows(kind: int) -> Rows:
    return lambda inputs, labels, classes, rate, map, rng: pmd(
        read_posterior(map, len(labels), classes), labels, rate, kind
    )


ROWS: dict[str, Rows] = {
    "idn-part": lambda inputs, labels, classes, rate, map, rng: part_dependent(
        inputs, labels, classes, rate, rng, map
    ),
    "idn-uniform": lambda inputs, labels, classes, rate, map, rng: uniform_dependent(
        inputs, labels, classes, rate, rng, map
    ),
    "pmd-1": _pmd_rows(1),
    "pmd-2": _pmd_rows(2),
    "pmd-3": _pmd_rows(3),
}
"""The rows [N, K] of every kind of noise that depends on the sample, from inputs, labels, number of
classes, rate and map."""
