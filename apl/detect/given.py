"""Labels and probabilities as people hand them over: which say nothing, and which fit no class."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from apl.data.labels import NUMBERS, Unclear, label_text, no_labels, to_number
from apl.noise.labels import MOST_CLASSES, UNKNOWN, BoolArray, IntArray, Matrix

NO_NUMBERS = [int(number) for number in NUMBERS]


def class_numbers(labels: Any, classes: int) -> IntArray:
    """Labels of N samples as numbers of classes [N], UNKNOWN where there is none.

    labels: whole numbers in a list, an array, a Series or a tensor; what `apl.data.labels` takes
    for no label (nan, None, pandas' NA and NaT, '', 'N/A' and the like, -1, -100) is none here too.
    Raises ValueError for any other that is no number from 0 to K-1.
    """
    if classes > MOST_CLASSES:
        raise ValueError(f"{classes:,} classes; accepted: at most {MOST_CLASSES:,}")
    array = _array(labels)
    if array.ndim != 1:
        raise ValueError(f"labels must be [N], one for each sample, got {list(array.shape)}")
    if len(array) and not np.issubdtype(array.dtype, np.integer):
        array = _numbers(array, classes)
    none = np.isin(array, NO_NUMBERS)
    wrong = ~none & ((array < 0) | (array >= classes))
    if wrong.any():
        raise ValueError(_outside(array[wrong][0], classes))
    return np.where(none, UNKNOWN, array).astype(np.int64)


def _array(labels: Any) -> npt.NDArray[Any]:
    if hasattr(labels, "detach"):  # a tensor
        labels = labels.detach().cpu().numpy()
    if isinstance(labels, np.ma.MaskedArray):
        told = np.array(labels.data, object)
        told[np.ma.getmaskarray(labels)] = None
        return told
    if isinstance(labels, list | tuple):
        told = np.empty(len(labels), object)  # NumPy would make text or nan of what is missing
        try:
            told[:] = [getattr(label, "item", lambda label=label: label)() for label in labels]
        except ValueError:  # lists in the list
            return np.asarray(labels, object)
        if all(isinstance(label, int) and not isinstance(label, bool) for label in told):
            return np.asarray(labels)
        return told
    return np.asarray(labels)


def _numbers(array: npt.NDArray[Any], classes: int) -> npt.NDArray[Any]:
    """Labels of any type as whole numbers, UNKNOWN for none of them."""
    if np.issubdtype(array.dtype, np.bool_):
        raise ValueError(f"labels must be integers from 0 to {classes - 1}, got {array.dtype}")
    try:
        texts = [label_text(label) for label in array.tolist()]
    except Unclear as error:
        raise ValueError(f"labels must be one class for each sample, got {error}") from None
    none = no_labels(texts)
    # Whole numbers become floats where some are missing, as in pandas; else they mean others.
    if not none and not {*texts} & {*NUMBERS} and all(isinstance(x, float) for x in array.tolist()):
        kind = array.dtype if array.dtype != object else "float"
        raise ValueError(f"labels must be integers from 0 to {classes - 1}, got {kind}")
    numbers = np.full(len(array), UNKNOWN)
    for i, (label, text) in enumerate(zip(array.tolist(), texts, strict=True)):
        if text in none or text in NUMBERS:
            continue
        value = None if isinstance(label, str | bytes | bool) else to_number(text)
        if value is None or not value.is_integer():
            raise ValueError(_outside(repr(label), classes))
        numbers[i] = int(value)
    return numbers


def _outside(label: object, classes: int) -> str:
    return (
        f"labels must be from 0 to {classes - 1}, got {label}; without a label: nan, None, "
        f"'' or {' or '.join(NUMBERS)}"
    )


def probabilities(probs: Any) -> tuple[Matrix, BoolArray]:
    """Probabilities of N samples [N, K], and which rows are finite [N]; the others are alike for
    all classes.  Raises ValueError for what are none."""
    given = _floats(probs)
    if given.ndim != 2 or given.shape[1] < 2:
        raise ValueError(
            f"probabilities must be [N, K] with K of 2 or more, got {list(given.shape)}"
        )
    told: BoolArray = np.asarray(np.isfinite(given).all(1))
    if (given[told] < 0).any():
        raise ValueError("probabilities must be finite and not negative")
    exact = np.where(told[:, None], given, 1 / given.shape[1])
    sums = exact.sum(1)
    if len(sums) and np.abs(sums - 1).max() > 1e-3:
        worst = int(np.abs(sums - 1).argmax())
        raise ValueError(
            f"every row of probabilities must sum to 1; row {worst} sums to {sums[worst]:.4g}"
        )
    return exact / sums[:, None], told


def _floats(probs: Any) -> Matrix:
    if hasattr(probs, "detach"):
        probs = probs.detach().cpu()
        probs = (probs.double() if probs.is_floating_point() else probs).numpy()
    if isinstance(probs, np.ma.MaskedArray):
        probs = np.ma.filled(probs.astype(np.float64), np.nan)
    if hasattr(probs, "to_numpy"):  # a frame, whose missing values NumPy can't read
        return np.asarray(probs.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    return np.asarray(probs, dtype=np.float64)
