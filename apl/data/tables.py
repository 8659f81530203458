"""A table's columns to the numbers that a network takes: numbers standardised, words one-hot.

What is a number and what a word is decided by a whole column; what is usual, how far it spreads
and which words there are, by the rows that are trained on alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from apl.data.depth import Pixels
from apl.data.labels import as_text
from apl.data.listing import Say, some_of
from apl.data.numbers import Cells, is_numeric, to_numbers
from apl.data.rows import different
from apl.errors import BadInput
from apl.noise.labels import IntArray

Rows = npt.NDArray[np.float32]

MOST = 100  # categories of a column that get a number of their own, the most frequent ones
_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ].*)?")

Recipe = dict[str, Any]
"""How a column becomes features, as JSON holds it: its name (`column`); of numbers whether what is
missing is marked, scale, mean, std and bound, unless they are the same in all training rows, and,
where cells have them, the `decimal` mark and the `unit` beside each number; of words those that
have a feature each, and whether the rest share one."""


def to_columns(array: Any) -> dict[str, Cells]:
    """The columns of an array [N, F], of records [N], or of a pandas DataFrame, by name; what is
    masked is missing, and a span of time is its seconds.

    Raises BadInput for complex numbers: which part of them is meant is not known here.
    """
    if isinstance(array, np.ndarray) and array.dtype.names:
        return {name: _plain(array[name], name) for name in array.dtype.names}
    if not hasattr(array, "columns"):
        array = array if isinstance(array, np.ma.MaskedArray) else np.asarray(array)
        return {str(k): _plain(column, str(k)) for k, column in enumerate(array.T)}
    columns: dict[str, Cells] = {}
    for place, name in enumerate(different([str(name) for name in array.columns])):
        column = array.iloc[:, place]
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "cm":
            columns[name] = _plain(column.to_numpy(), name)
            continue
        plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf"
        columns[name] = (
            column.to_numpy() if plain else column.astype(object).where(column.notna(), None)
        )
    return columns


def _plain(column: Any, name: str) -> Any:
    # A column of an array without what no recipe knows.
    if column.dtype.kind == "c":
        if column.imag.any():
            raise BadInput(
                f"column {name!r} holds complex numbers; accepted: their parts as columns of their "
                "own (.real and .imag, or their absolute value and angle)"
            )
        column = column.real
    if column.dtype.kind == "m":
        column = column / np.timedelta64(1, "s")
    if not isinstance(column, np.ma.MaskedArray):
        return column
    whole = np.array(column.data, np.float64 if column.dtype.kind in "biuf" else object)
    whole[np.ma.getmaskarray(column)] = None  # nan among numbers
    return whole


def row_digests(columns: Mapping[str, Cells]) -> Pixels:
    """The sha256 of each row's cells, uint8 [N, 32]."""
    rows: Iterable[bytes]
    if all(is_numeric(cells) for cells in columns.values()):
        table = np.stack(list(columns.values()), 1)
        rows = (row.astype("<f8").tobytes() for row in table)
    else:
        cells = zip(*columns.values(), strict=True)
        rows = ("\x1f".join(map(as_text, row)).encode() for row in cells)
    digests = b"".join(hashlib.sha256(row).digest() for row in rows)
    return np.frombuffer(digests, np.uint8).reshape(-1, 32)


SHOWN_COLUMNS, SHOWN_CELLS = 40, 4_000_000  # of a row at most, and of all rows


def shown_lines(columns: Mapping[str, Cells], chosen: Sequence[int], train: int) -> Iterator[bytes]:
    """The lines of a file for `shown_cells`: the columns, then the cells of each row at `chosen`,
    whose first `train` are trained on; of a very wide or long table the first columns alone."""
    count = min(SHOWN_COLUMNS, max(4, SHOWN_CELLS // max(len(chosen), 1)))
    names = list(columns)[:count]
    rest = len(columns) - len(names)
    yield (json.dumps([names, rest, train]) + "\n").encode()
    cells = [columns[name] for name in names]
    for i in chosen:
        row = [as_text(column[i])[:1000] for column in cells]
        yield (json.dumps(row) + "\n").encode("utf-8", "backslashreplace")


Place = tuple[bool, int]  # of a row: whether it is one of the test, and its number there


def shown_cells(file: str, chosen: Iterable[Place]) -> dict[Place, list[tuple[str, str]]]:
    """The cells of rows, with the names of their columns, as they were; none of those that the file
    has not."""
    wanted = {*chosen}
    found: dict[Place, list[tuple[str, str]]] = {}
    with open(file, encoding="utf-8") as lines:
        names, rest, train = json.loads(next(lines))
        for line_number, line in enumerate(lines):
            test = line_number >= train
            number = (test, line_number - train if test else line_number)
            if number in wanted:
                found[number] = [*zip(names, json.loads(line), strict=True)]
                if rest:
                    found[number].append((f"and {rest} more columns", ""))
    return found


def to_features(
    columns: Mapping[str, Cells],
    chosen: IntArray,
    train: int,
    name: str,
    say: Say,
    *,
    decimal: str = ".",
    class_names: Sequence[str] = (),
) -> tuple[list[Rows], list[Recipe]]:
    """The features [N] of the rows at `chosen`, of which the first `train` are trained on; and by
    which recipes the columns became these, for rows to come.

    A column of numbers is standardised by the training rows' mean and std; what is missing becomes
    the mean, and where training rows lack some, a column of 0 and 1 says which.  A column of words
    becomes a column of 0 and 1 for each that training rows have at least twice, of 100 at most; the
    rest of them share one, and a word that training never showed is none of these, or one of the
    rest.  Left out, and told: what is the same in all training rows, dates, row numbers, words of
    which more than half are different (ids, free text), and other labels.

    decimal: ',' where numbers are written with a comma.  class_names: a column of words that are
    all among these is one of labels.
    Nothing is left of some, which is for the caller to tell.
    """
    features: list[Rows] = []
    recipes: list[Recipe] = []
    left: dict[str, list[str]] = {}
    examples: list[str] = []
    numbers = words = 0
    for column, cells in columns.items():
        written = to_numbers(cells, decimal)
        recipe: Recipe | str
        if written is None:
            texts = [as_text(cell) for cell in cells]
            recipe = _words_of(texts, chosen[:train], set(class_names))
            recipe = "lists and the like" if _is_nested(cells) else recipe
            words += not isinstance(recipe, str)
        else:
            values = written.values
            recipe = "row numbers" if _counts_rows(values) else _usual_of(values[chosen[:train]])
            numbers += not isinstance(recipe, str)
        if isinstance(recipe, str):
            left.setdefault(recipe, []).append(column)
            continue
        if written is None:
            made = _one_hot([texts[i] for i in chosen], recipe)
        else:
            made = _standardised(written.values[chosen], recipe)
            recipe |= {"decimal": written.decimal} if written.decimal else {}
            recipe |= {"unit": written.unit} if written.unit else {}
            if written.example:
                examples.append(f"{column!r} ({written.example})")
            if written.strays:
                strays = some_of(written.strays, 3)
                say(f"column {column!r}: missing where there is no number: {strays}")
        features += made
        recipes.append({"column": column, **recipe})
    if examples:
        say(f"columns of numbers as people write them: {some_of(examples)}")
    for why, names in left.items():
        say(f"columns left out, {why}: {some_of(names)}")
    if features:
        say(
            f"{name}: {len(features)} features of {numbers} columns of numbers and {words} of words"
        )
    return features, recipes


def encode(
    columns: Mapping[str, Cells], recipes: Sequence[Recipe], count: int, decimal: str = "."
) -> Rows:
    """The features [N, F] of `count` new rows, by the recipes of those that were trained on: the
    columns are found by their names, and one that is not there is missing in each row."""
    features: list[Rows] = []
    for recipe in recipes:
        cells = columns.get(recipe["column"])
        if cells is None:
            cells = [None] * count
        if "words" in recipe:
            features += _one_hot([as_text(cell) for cell in cells], recipe)
        else:
            written = to_numbers(cells, recipe.get("decimal", decimal), recipe.get("unit", ""))
            assert written is not None
            features += _standardised(written.values, recipe)
    made: Rows = np.stack(features, 1) if features else np.zeros((count, 0), np.float32)
    return made


def _is_nested(cells: Cells) -> bool:
    return any(isinstance(cell, list | dict | bytes | np.ndarray) for cell in cells)


def _counts_rows(values: npt.NDArray[np.float64]) -> bool:
    """Whether whole numbers rise from row to row, hardly ever by more than one."""
    if len(values) < 10 or not np.isfinite(values).all() or (values % 1).any():
        return False
    return bool((np.diff(values) > 0).all() and values[-1] - values[0] <= 1.1 * len(values))


def _usual_of(values: npt.NDArray[np.float64]) -> Recipe | str:
    """The recipe of a column of numbers by those of the training rows, nan where one is missing; or
    why it is left out."""
    known = np.isfinite(values)
    there = values[known]
    recipe: Recipe = {"missing": bool(0 < len(there) < len(values))}
    if len(there) and there.min() < there.max():
        scale = float(np.abs(there).max())  # so that no square overflows
        usual = there / scale
        mean, std = float(usual.mean()), float(usual.std())
        if std > 0:
            # No training row can lie further out; another that does may not flood the network.
            bound = math.sqrt(len(values))
            recipe |= {"scale": scale, "mean": mean, "std": std, "bound": bound}
    return recipe if recipe["missing"] or "scale" in recipe else "the same in all training rows"


def _standardised(values: npt.NDArray[np.float64], recipe: Recipe) -> list[Rows]:
    """Numbers with the training rows' mean 0 and std 1, and which are missing where some were."""
    known = np.isfinite(values)
    made: list[Rows] = []
    if "scale" in recipe:
        with np.errstate(over="ignore"):
            scaled = values / recipe["scale"]
        scaled = np.where(known, (scaled - recipe["mean"]) / recipe["std"], 0.0)
        made.append(np.clip(scaled, -recipe["bound"], recipe["bound"]).astype(np.float32))
    if recipe["missing"]:
        made.append((~known).astype(np.float32))
    return made


def _words_of(texts: Sequence[str], training: IntArray, class_names: set[str]) -> Recipe | str:
    """The recipe of a column of words, by those of the training rows, or why it is left out.  A
    missing word is one as any other."""
    distinct = set(texts) - {""}
    there = sum(text != "" for text in texts)
    if distinct and all(map(_DATE.fullmatch, distinct)):
        return "dates"
    if len(distinct) > 1 and distinct <= class_names:
        return "labels too, as it seems"
    if 2 * len(distinct) > there:
        return "nearly every row another word (ids, free text)"
    counts = Counter(texts[i] for i in training)
    frequent = sorted((text for text in counts if counts[text] > 1), key=lambda t: (-counts[t], t))
    own = sorted(frequent[:MOST])
    rest = bool({*counts} - {*own})
    if len(own) + rest < 2:
        return "the same in all training rows"
    return {"words": own, "rest": rest}


def _one_hot(texts: Sequence[str], recipe: Recipe) -> list[Rows]:
    """A column of 0 and 1 for each word of its own, and one for all others where there is one."""
    own = {text: k for k, text in enumerate(recipe["words"])}
    index = np.array([own.get(text, len(own)) for text in texts], np.int64)
    return [(index == k).astype(np.float32) for k in range(len(own) + recipe["rest"])]
