"""Label noise: transition matrices and the corruption of labels by them.

T[j, k] is the probability that a sample of true class j carries label k; rows sum to 1.
Same seed, same labels, on every platform (numpy's PCG64 streams are fixed).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from apl.errors import BadInput, NoiseWarning, one_line
from apl.presets import METHODS, check_rate

IntArray = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float64]

UNKNOWN = -1  # the true label of a sample whose truth nobody knows


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

MAPS: dict[str, tuple[dict[str, str], ...]] = {
    # Patrini et al. 2017 and Ma et al. 2020: CIFAR-10, MNIST, and CIFAR-100's next class inside
    # the superclass, cyclic.
    "paper": (
        {
            "truck": "automobile",
            "bird": "airplane",
            "deer": "horse",
            "cat": "dog",
            "dog": "cat",
        },
        {"7": "1", "2": "7", "5": "6", "6": "5", "3": "8"},
        {
            name: group[(i + 1) % len(group)]
            for group in (line.split() for line in _SUPERCLASSES.split(";"))
            for i, name in enumerate(group)
        },
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
    (the paper's code).  Where a flipped label goes is always drawn from its row of the matrix.
    Warns with NoiseWarning past the tolerance bound (see `past_bound`).
    """
    clean = np.asarray(labels, dtype=np.int64)
    num_classes = len(transition)
    transition = check_transition(np.asarray(transition, np.float64), num_classes, "the matrix")
    if clean.ndim != 1:
        raise BadInput(f"labels must be one-dimensional, got shape {list(clean.shape)}")
    if len(clean) and not 0 <= clean.min() <= clean.max() < num_classes:
        wrong = clean[(clean < 0) | (clean >= num_classes)][0]
        raise BadInput(f"labels must lie in [0, {num_classes}), got {wrong}")
    if method not in METHODS:
        raise BadInput(f"the method must be one of {', '.join(METHODS)}, got {method!r}")
    problem = past_bound(transition)
    if problem:
        warnings.warn(problem, NoiseWarning, stacklevel=2)
    rng = np.random.default_rng(rng)
    flip_rates = (1 - np.diag(transition))[clean]
    if method == "transition":
        flipped = rng.random(len(clean)) < flip_rates
    elif method == "exact":
        flipped = _draw_exactly(flip_rates, rng)
    else:
        flipped = np.zeros(len(clean), dtype=bool)
        for k in range(num_classes):
            members = np.flatnonzero(clean == k)
            flipped[members] = _draw_exactly(flip_rates[members], rng)
    noisy = clean.copy()
    noisy[flipped] = _draw_other(clean[flipped], transition, rng)
    return Labels(noisy, clean, transition)


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


MATRICES: dict[str, Callable[[Sequence[str], float, str], Matrix]] = {
    "none": lambda class_names, rate, map: symmetric(len(class_names), 0.0),
    "sym": lambda class_names, rate, map: symmetric(len(class_names), rate),
    "asym": lambda class_names, rate, map: asymmetric(
        class_names, rate, find_map(map, class_names)
    ),
    "pair": lambda class_names, rate, map: pair_flip(len(class_names), rate),
    "matrix": lambda class_names, rate, map: read_matrix(map, len(class_names)),
}
"""The transition matrix of every kind of noise that has one, from class names, rate and map."""
