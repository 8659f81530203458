"""Transition matrices: symmetric, asymmetric by a map, pair flips, and those of a file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from apl.errors import BadInput, one_line
from apl.names import check_rate
from apl.noise.labels import Matrix

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
