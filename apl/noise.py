"""Label noise: transition matrices, rows that depend on the sample, and labels drawn from them.

T[j, k] is the probability that a sample of true class j carries label k; rows sum to 1.  Where the
noise depends on the sample there is a row for each, [N, K].
Same seed, same labels, on every platform (numpy's PCG64 streams are fixed).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml

from apl.errors import BadInput, NoiseWarning, one_line
from apl.presets import METHODS, SCALES, check_rate

IntArray = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]

UNKNOWN = -1  # the true label of a sample whose truth nobody knows
MOST_CLASSES = 1000  # of which a matrix [K, K] is made: of more it would outgrow all else


@dataclass(frozen=True)
class Labels:
    """The labels of N samples: as given, and true, UNKNOWN where nobody knows.

    transition: the matrix [K, K] that the given labels were drawn by, None where none is known.
    """

    given: IntArray
    true: IntArray
    transition: Matrix | None = None

    def __len__(self) -> int:
        return len(self.given)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """True where the true label is known."""
        known: npt.NDArray[np.bool_] = self.true != UNKNOWN
        return known

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """True where the given label is known to be wrong."""
        wrong: npt.NDArray[np.bool_] = self.known & (self.given != self.true)
        return wrong

    @property
    def empirical(self) -> Matrix:
        """The matrix that the labels of known truth show; nan in the row of a class without any."""
        known = self.known
        size = len(self.transition) if self.transition is not None else 0
        named = max(int(part.max(initial=-1)) for part in (self.given, self.true))
        num_classes = max(size, named + 1)
        if num_classes > MOST_CLASSES:
            raise BadInput(
                f"{num_classes:,} classes; a matrix of them is made of at most {MOST_CLASSES:,}"
            )
        pairs = self.true[known] * num_classes + self.given[known]
        counts = np.bincount(pairs, minlength=num_classes**2)
        counts = counts.reshape(num_classes, num_classes).astype(np.float64)
        with np.errstate(invalid="ignore"):
            shares: Matrix = counts / counts.sum(1, keepdims=True)
        return shares


_SUPERCLASSES = """
beaver dolphin otter seal whale; aquarium_fish flatfish ray shark trout;
orchid poppy rose sunflower tulip; bottle bowl can cup plate;
apple mushroom orange pear sweet_pepper; clock keyboard lamp telephone television;
bed chair couch table wardrobe; bee beetle butterfly caterpillar cockroach;
bear leopard lion tiger wolf; bridge castle house road skyscraper;
cloud forest mountain plain sea; camel cattle chimpanzee elephant kangaroo;
fox porcupine possum raccoon skunk; crab lobster snail spider worm;
baby boy girl man woman; crocodile dinosaur lizard snake turtle;
hamster mouse rabbit shrew squirrel; maple_tree oak_tree palm_tree pine_tree willow_tree;
bicycle bus motorcycle pickup_truck train; lawn_mower rocket streetcar tank tractor
"""

_GROUPS = [group.split() for group in _SUPERCLASSES.split(";")]


def _next_in(groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """Each name to the one behind it in its group, the last to the first."""
    return {name: group[(i + 1) % len(group)] for group in groups for i, name in enumerate(group)}


_NEXT_IN_SUPERCLASS = _next_in(_GROUPS)
# CIFAR-100 numbers its classes in the order of their letters.
_BY_ID = sorted(_NEXT_IN_SUPERCLASS)

MAPS: dict[str, tuple[dict[str, str], ...]] = {
    # Patrini et al. 2017 and Ma et al. 2020 as their texts say: CIFAR-10, MNIST, and CIFAR-100's
    # next class inside the superclass, cyclic.
    "paper": (
        {
            "truck": "automobile",
            "bird": "airplane",
            "deer": "horse",
            "cat": "dog",
            "dog": "cat",
        },
        {"7": "1", "2": "7", "5": "6", "6": "5", "3": "8"},
        _NEXT_IN_SUPERCLASS,
    ),
    # The report's map; it prints "Truck (7)" for automobile, and the name decides (truck is 9).
    "report": (
        {
            "airplane": "bird",
            "automobile": "truck",
            "bird": "airplane",
            "cat": "dog",
            "deer": "horse",
            "dog": "cat",
            "frog": "deer",
            "horse": "automobile",
            "ship": "truck",
            "truck": "ship",
        },
    ),
    # What their code does on CIFAR-100, and that of nearly everyone since: the next class inside a
    # block of five consecutive class numbers, which are alphabetical and so no superclasses.
    "blocks": (_next_in([_BY_ID[k : k + 5] for k in range(0, 100, 5)]),),
    # What their texts say, by a name that can't be mistaken (Englesson & Azizpour 2021 run it).
    "superclass": (_NEXT_IN_SUPERCLASS,),
}
"""Asymmetric maps by name; the one whose classes the data set has is used."""


def symmetric(num_classes: int, rate: float) -> Matrix:
    """Each label flips with probability `rate`, to every other class alike."""
    check_rate(rate)
    if num_classes < 2:
        raise BadInput(f"label noise needs at least 2 classes, got {num_classes}")
    matrix = np.full((num_classes, num_classes), rate / (num_classes - 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def symmetric_all(num_classes: int, rate: float) -> Matrix:
    """Each label is drawn anew with probability `rate`, from all classes, its own among them.

    So only rate (K-1)/K of the labels become wrong.  The code of ELR (Liu et al. 2020) and GJS
    (Englesson & Azizpour 2021) draws so, and tables call it by the rate it is drawn at.
    """
    return symmetric(num_classes, check_rate(rate) * (num_classes - 1) / max(num_classes, 1))


def pair_flip(num_classes: int, rate: float) -> Matrix:
    """Class j becomes j + 1 (the last one 0) with probability `rate`."""
    names = [str(k) for k in range(num_classes)]
    following = {name: names[(k + 1) % num_classes] for k, name in enumerate(names)}
    return asymmetric(names, rate, following)


def asymmetric(class_names: Sequence[str], rate: float, mapping: Mapping[str, str]) -> Matrix:
    """Each source class of `mapping` becomes its target with probability `rate`.

    Classes that are no source keep their labels, so the overall rate can be below `rate`.
    """
    check_rate(rate)
    index = {name: k for k, name in enumerate(class_names)}
    matrix = np.eye(len(class_names))
    for source, target in mapping.items():
        for name in (source, target):
            if name not in index:
                raise BadInput(
                    f"the noise map names the class {name!r}, which the data set lacks; "
                    f"its classes: {', '.join(class_names)}"
                )
        if source == target:
            raise BadInput(f"the noise map sends {source!r} to itself")
        matrix[index[source], index[source]] = 1 - rate
        matrix[index[source], index[target]] = rate
    return matrix


def find_map(name: str, class_names: Sequence[str]) -> dict[str, str]:
    """The asymmetric map `name`: 'paper', 'report', or a JSON or YAML file {source: target}."""
    if name in MAPS:
        for mapping in MAPS[name]:
            if set(mapping) <= set(class_names):
                return mapping
        raise BadInput(
            f"the map {name!r} does not fit the classes {', '.join(class_names)}; "
            "give a JSON or YAML file with source: target, by class names"
        )
    path = Path(name)
    if not path.is_file():
        raise BadInput(
            f"no noise map {name!r}: give {', '.join(MAPS)}, or a JSON or YAML file "
            "with source: target, by class names"
        )
    try:
        # YAML is a superset of JSON, and the safe loader builds plain data only.
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = one_line(error)
        raise BadInput(f"{path} is neither JSON nor YAML: {problem}") from None
    if not isinstance(content, dict) or not content:
        raise BadInput(f"{path} must map source classes to target classes, e.g. {{cat: dog}}")
    return {str(source): str(target) for source, target in content.items()}


def read_matrix(path: str | Path, num_classes: int) -> Matrix:
    """A transition matrix [K, K] from a .npy, .csv, .txt or .json file, checked."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no transition matrix at {path}: give a .npy, .csv, .txt or .json file")
    try:
        if path.suffix == ".npy":
            raw = np.load(path, allow_pickle=False)
        elif path.suffix == ".json":
            raw = np.asarray(json.loads(path.read_text(encoding="utf-8")))
        else:
            text = path.read_text(encoding="utf-8").replace(",", " ").splitlines()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about an empty file: the shape tells it
                raw = np.loadtxt(text, ndmin=2)
        matrix = np.asarray(raw, dtype=np.float64)
    except (ValueError, OSError, EOFError) as error:
        problem = one_line(error)
        raise BadInput(f"{path} holds no matrix of numbers: {problem}") from None
    return check_transition(matrix, num_classes, str(path))


def check_transition(matrix: Matrix, num_classes: int, name: str) -> Matrix:
    """The matrix itself, if it is a transition matrix for `num_classes` classes."""
    if matrix.shape != (num_classes, num_classes):
        shape = " x ".join(map(str, matrix.shape))
        raise BadInput(f"{name} must be {num_classes} x {num_classes}, got {shape}")
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise BadInput(f"{name} must hold probabilities; it has negative or non-finite entries")
    sums = matrix.sum(1)
    if np.abs(sums - 1).max() > 1e-6:
        worst = int(np.abs(sums - 1).argmax())
        raise BadInput(f"every row of {name} must sum to 1; row {worst} sums to {sums[worst]:.6g}")
    exact: Matrix = matrix / sums[:, None]
    return exact


def past_bound(transition: Matrix) -> str | None:
    """Why no loss is tolerant to this noise, or None where the bounds hold.

    Symmetric noise is tolerated below (K-1)/K (Ma et al. 2020, Lemma 1), class-conditional noise
    while the true class stays the most frequent label of every class (Lemma 2).
    """
    diagonal = np.diag(transition)
    rivals = transition - np.diag(diagonal)
    lost = np.flatnonzero(rivals.max(1) >= diagonal - 1e-12)
    if not len(lost):
        return None
    if len(transition) > 2 and np.allclose(transition, symmetric(len(transition), 1 - diagonal[0])):
        bound = (len(transition) - 1) / len(transition)
        return (
            f"symmetric noise of {1 - diagonal[0]:.3g} is at or past the bound (K-1)/K = "
            f"{bound:.3g}: no loss is tolerant to it, the labels carry no usable signal"
        )
    return (
        f"in {len(lost)} of {len(transition)} classes (first: class {lost[0]}) the most frequent "
        "noisy label is not the true one: no loss is tolerant to this noise"
    )


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
    _warn_past(transition)
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
            "the method 'exact-per-pair' counts by class and class, and this noise has a row for "
            "each sample; accepted: transition, exact, exact-per-class"
        )
    if rows.shape != (len(clean), rows.shape[-1]):
        raise BadInput(f"the rows must be {len(clean)} x K, got {' x '.join(map(str, rows.shape))}")
    if not (rows >= 0).all() or np.abs(rows.sum(1) - 1).max(initial=0) > 1e-6:
        raise BadInput("the rows must hold probabilities that sum to 1")
    mean = mean_by_class(rows, clean)
    _warn_past(mean)
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


def _warn_past(transition: Matrix) -> None:
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


# ------------------------------------------------------------- noise that depends on the sample


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
            f"PMD noise of type {kind} has rates of {low:.3g} to {high:.3g} by this posterior, "
            f"got {rate:g}"
        )
    stay = np.clip(stay * share, 0, 1)
    rows = np.zeros(rest.shape)
    rows[each, first], rows[each, second] = stay, 1 - stay
    return rows


def read_posterior(path: str | Path, count: int, num_classes: int) -> Matrix:
    """A network's probabilities [N, K] for the training samples in their order, from a .npy."""
    path = Path(path)
    wanted = f"a .npy of the probabilities [{count}, {num_classes}] that a network gives"
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise BadInput(f"no posterior at {path}; accepted: {wanted}") from None
    except (ValueError, OSError, EOFError) as error:
        raise BadInput(
            f"{path} holds no posterior ({one_line(error)}); accepted: {wanted}"
        ) from None
    if found.shape != (count, num_classes) or found.dtype.kind not in "fiu":
        raise BadInput(
            f"the posterior in {path} is {list(found.shape)} of {found.dtype}; accepted: {wanted}"
        )
    posterior: Matrix = found.astype(np.float64)
    if not (posterior >= 0).all() or np.abs(posterior.sum(1) - 1).max(initial=0) > 1e-2:
        raise BadInput(f"the rows of {path} are no probabilities that sum to 1; accepted: {wanted}")
    return posterior


# -------------------------------------------------------------------------- labels from files


def read_published(path: str | Path, clean: IntArray, num_classes: int) -> IntArray:
    """The noisy labels [n] of a file that a paper published, for the training samples in their
    order, of which `clean` [N] are the labels without noise.

    A .npy of whole numbers (PMD, DAL), a .json list of them (LogitClip, eps-softmax, JAL), a .pt
    with `noisy_label` (CIFAR-100N), or an .npz with `noisy`, as `apl noise` writes it.  There is
    one for each sample; or for nine in ten, where the last tenth is for validation (PMD's 45,000
    of 50,000), and only these are trained on.
    Warns with NoiseWarning past the tolerance bound, as a file in another order would be.
    Raises BadInput for any other file.
    """
    path = Path(path)
    wanted = "a .npy, .json, .pt or .npz file of labels"
    if not path.is_file():
        raise BadInput(f"no labels at {path}; accepted: {wanted}")
    try:
        if path.suffix == ".npy":
            found = {"noisy": np.load(path, allow_pickle=False)}
        elif path.suffix == ".json":
            found = {"noisy": np.asarray(json.loads(path.read_text(encoding="utf-8")))}
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        elif path.suffix == ".pt":
            found = read_pt(path)
        else:
            raise BadInput(f"{path} holds no labels; accepted: {wanted}")
    except BadInput:
        raise
    except Exception as error:  # a damaged zip raises nearly anything
        raise BadInput(f"{path} holds no labels ({one_line(error)}); accepted: {wanted}") from None
    key = next((name for name in ("noisy", "noisy_label") if name in found), "")
    if not key:
        raise BadInput(f"{path} has no 'noisy' or 'noisy_label', but {', '.join(found)}")
    given = found[key]
    if given.ndim != 1 or given.dtype.kind not in "iu":
        shape = list(given.shape)
        raise BadInput(
            f"the labels of {path} are {shape} of {given.dtype}; accepted: whole numbers"
        )
    tenth = len(clean) - len(clean) // 10
    if len(given) not in (len(clean), tenth):
        raise BadInput(
            f"{path} has {len(given):,} labels; accepted: {len(clean):,}, one for each training "
            f"sample, or {tenth:,}, without the last tenth"
        )
    if len(given) and not 0 <= given.min() <= given.max() < num_classes:
        raise BadInput(f"the labels of {path} must lie in [0, {num_classes})")
    known = found.get("clean", found.get("clean_label"))
    if known is not None and not np.array_equal(known, clean[: len(given)]):
        raise BadInput(f"{path} holds the labels of other samples, or in another order")
    labels: IntArray = given.astype(np.int64)
    _warn_past(mean_by_class(np.eye(num_classes)[labels], clean[: len(given)]))
    return labels


def read_pt(path: Path) -> dict[str, IntArray]:
    """The arrays by name in a .pt of CIFAR-10N or CIFAR-100N (Wei et al. 2022), with nothing of
    what else a pickle could run; raises nearly anything for a damaged file."""
    import torch  # takes seconds, and none else here needs it

    # The file holds numpy arrays: the few constructors they need are named, nothing else may run.
    multiarray = (getattr(np, "_core", None) or np.core).multiarray
    allowed = [
        (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        multiarray._reconstruct,
        np.ndarray,
        np.dtype,
        type(np.dtype(np.int64)),
    ]
    with torch.serialization.safe_globals(allowed):
        content = torch.load(path, weights_only=True)
    return {str(name): np.asarray(labels, np.int64) for name, labels in content.items()}


MATRICES: dict[str, Callable[[Sequence[str], float, str], Matrix]] = {
    "none": lambda class_names, rate, map: symmetric(len(class_names), 0.0),
    "sym": lambda class_names, rate, map: symmetric(len(class_names), rate),
    "asym": lambda class_names, rate, map: asymmetric(
        class_names, rate, find_map(map, class_names)
    ),
    "sym-all": lambda class_names, rate, map: symmetric_all(len(class_names), rate),
    "pair": lambda class_names, rate, map: pair_flip(len(class_names), rate),
    "matrix": lambda class_names, rate, map: read_matrix(map, len(class_names)),
}
"""The transition matrix of every kind of noise that has one, from class names, rate and map."""

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
