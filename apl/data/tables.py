"""A table's columns to the numbers that a network takes: numbers standardised, words one-hot.

What is a number and what a word is decided by a whole column; what is usual, how far it spreads
and which words there are, by the rows that are trained on alone.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from apl.data.depth import Pixels
from apl.data.labels import as_text
from apl.data.listing import Say, some_of
from apl.errors import BadInput
from apl.noise.labels import IntArray

Cells = Sequence[Any]  # of a column: text as in a file, or numbers, a NumPy array among them
Rows = npt.NDArray[np.float32]

MOST = 100  # categories of a column that get a number of their own, the most frequent ones
STRAY = 0.05  # of a column of numbers that may be something else, and then is missing
_MISSING = frozenset(("", "-", "?", "na", "n/a", "null", "none"))  # and nan, a number to Python
_TRUTH = {"true": 1.0, "false": 0.0}
_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ].*)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")


def to_columns(array: Any) -> dict[str, Cells]:
    """The columns of an array [N, F], or of a pandas DataFrame, by name."""
    if not hasattr(array, "columns"):
        array = np.asarray(array)
        return {str(k): column for k, column in enumerate(array.T)}
    columns: dict[str, Cells] = {}
    for place, name in enumerate(array.columns):
        column = array.iloc[:, place]
        plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf"
        columns[str(name)] = (
            column.to_numpy() if plain else column.astype(object).where(column.notna(), None)
        )
    return columns


def row_digests(columns: Mapping[str, Cells]) -> Pixels:
    """The sha256 of each row's cells, uint8 [N, 32]."""
    rows: Iterable[bytes]
    if all(_is_numeric(cells) for cells in columns.values()):
        table = np.stack(list(columns.values()), 1)
        rows = (row.astype("<f8").tobytes() for row in table)
    else:
        cells = zip(*columns.values(), strict=True)
        rows = ("\x1f".join(map(as_text, row)).encode() for row in cells)
    digests = b"".join(hashlib.sha256(row).digest() for row in rows)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


def to_features(
    columns: Mapping[str, Cells],
    chosen: IntArray,
    train: int,
    name: str,
    say: Say,
    *,
    decimal: str = ".",
    class_names: Sequence[str] = (),
) -> list[Rows]:
    """The features [N] of the rows at `chosen`, of which the first `train` are trained on.

    A column of numbers is standardised by the training rows' mean and std; what is missing becomes
    the mean, and where training rows lack some, a column of 0 and 1 says which.  A column of words
    becomes a column of 0 and 1 for each that training rows have at least twice, of 100 at most; the
    rest of them share one, and a word that training never showed is none of these, or one of the
    rest.  Left out, and told: what is the same in all training rows, dates, row numbers, words of
    which more than half are different (ids, free text), and other labels.

    decimal: ',' where numbers are written with a comma.  class_names: a column of words that are
    all among these is one of labels.
    Raises BadInput where nothing is left.
    """
    features: list[Rows] = []
    left: dict[str, list[str]] = {}
    numbers = words = 0
    for column, cells in columns.items():
        values, strays = _to_numbers(cells, decimal)
        made: list[Rows] | str
        if values is None:
            made = _one_hot([as_text(cell) for cell in cells], chosen, train, set(class_names))
            made = "lists and the like" if _is_nested(cells) else made
            words += not isinstance(made, str)
        else:
            made = "row numbers" if _counts_rows(values) else _standardised(values[chosen], train)
            numbers += not isinstance(made, str)
        if isinstance(made, str):
            left.setdefault(made, []).append(column)
            continue
        if strays:
            say(f"column {column!r}: missing where there is no number: {some_of(strays, 3)}")
        features += made
    for why, names in left.items():
        say(f"columns left out, {why}: {some_of(names)}")
    if not features:
        raise BadInput(f"{name} has no column that anything can be learned from")
    say(f"{name}: {len(features)} features of {numbers} columns of numbers and {words} of words")
    return features


def _is_numeric(cells: Cells) -> bool:
    return isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf"


def _is_nested(cells: Cells) -> bool:
    return any(isinstance(cell, list | dict | bytes | np.ndarray) for cell in cells)


def _to_numbers(cells: Cells, decimal: str) -> tuple[npt.NDArray[np.float64] | None, list[str]]:
    """A column as numbers, nan where one is missing, and which cells are none; None where too many
    are."""
    if _is_numeric(cells):
        values = np.array(cells, np.float64)
        values[~np.isfinite(values)] = np.nan
        return values, []
    written = ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]
    texts = written
    if decimal == "," and any("," in text for text in texts):  # then a point parts thousands
        texts = [text.replace(".", "").replace(",", ".") for text in texts]
    values = np.full(len(texts), np.nan)
    strays, missing = [], 0
    for i, text in enumerate(texts):
        value = _to_number(text)
        if value is not None:
            values[i] = value
        elif text.lower() in _MISSING:
            missing += 1
        else:
            strays.append(written[i])
    there = len(texts) - missing
    few = there > 0 and len(strays) <= STRAY * there
    return (values, strays) if few else (None, [])


def _to_number(text: str) -> float | None:
    if "," in text and _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    try:
        value = float(text)
    except ValueError:
        return _TRUTH.get(text.lower())
    return value if math.isfinite(value) else math.nan


def _counts_rows(values: npt.NDArray[np.float64]) -> bool:
    """Whether whole numbers rise from row to row, hardly ever by more than one."""
    if len(values) < 10 or not np.isfinite(values).all() or (values % 1).any():
        return False
    return bool((np.diff(values) > 0).all() and values[-1] - values[0] <= 1.1 * len(values))


def _standardised(values: npt.NDArray[np.float64], train: int) -> list[Rows] | str:
    """Numbers with the training rows' mean 0 and std 1, and which are missing where some are; or
    why they are left out."""
    known = np.isfinite(values)
    of_training = values[:train][known[:train]]
    made: list[Rows] = []
    if len(of_training) and of_training.min() < of_training.max():
        scale = np.abs(of_training).max()  # so that no square overflows
        with np.errstate(over="ignore"):
            scaled = values / scale
        usual = scaled[:train][known[:train]]
        mean, std = usual.mean(), usual.std()
        if std > 0:
            scaled = np.where(known, (scaled - mean) / std, 0.0)
            # No training row can lie further out; a test row that does may not flood the network.
            bound = math.sqrt(train)
            made.append(np.clip(scaled, -bound, bound).astype(np.float32))
    if 0 < len(of_training) < train:
        made.append((~known).astype(np.float32))
    return made or "the same in all training rows"


def _one_hot(
    texts: Sequence[str], chosen: IntArray, train: int, class_names: set[str]
) -> list[Rows] | str:
    """A column of 0 and 1 for each word, and one for those that are rare; or why they are left
    out.  A missing word is one as any other."""
    distinct = set(texts) - {""}
    there = sum(text != "" for text in texts)
    if distinct and all(map(_DATE.fullmatch, distinct)):
        return "dates"
    if len(distinct) > 1 and distinct <= class_names:
        return "labels too, as it seems"
    if 2 * len(distinct) > there:
        return "nearly every row another word (ids, free text)"
    texts = [texts[i] for i in chosen]
    counts = Counter(texts[:train])
    frequent = sorted((text for text in counts if counts[text] > 1), key=lambda t: (-counts[t], t))
    own = {text: k for k, text in enumerate(sorted(frequent[:MOST]))}
    rest = len(own)
    index = np.array([own.get(text, rest) for text in texts])
    if len(np.unique(index[:train])) < 2:
        return "the same in all training rows"
    count = rest + bool((index[:train] == rest).any())
    return [(index == k).astype(np.float32) for k in range(count)]
