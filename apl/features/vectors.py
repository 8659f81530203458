"""Vectors of the user's own, from a file: a row a sample, in order or by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apl.data.dataset import Dataset, Split
from apl.data.listing import Listing, Sample
from apl.errors import BadInput, one_line
from apl.features.catalog import path_of
from apl.features.store import Halves, as_rows

Array = npt.NDArray[Any]
NAMES = ("names", "name", "file_name", "file_names", "id", "ids")
VECTORS = ("vectors", "features", "embeddings", "vector", "embedding", "x")


def read_vectors(file: str, parts: Mapping[str, Split], whole: Dataset) -> dict[str, Halves]:
    """The rows [N, F] of these parts of a data set, by 'train' and 'test', from a file.

    .npy: an array [N, F] in the order of the samples, the one in which they are numbered where
    their names are numbers, else that of their names as text.  .npz: the same, or `train` and
    `test`, or with the samples' names beside it (`names`).  .parquet: a column of names where one
    is called so, and a column of lists or a column a number.
    Raises BadInput where the file is damaged, rows are missing, or are not finite.
    """
    path = path_of(file)
    content = _parquet(path) if path.suffix.lower() == ".parquet" else _arrays(path)
    names, tables = content
    found = {}
    for part, split in parts.items():
        if part in tables:
            rows = _in_split(tables[part], split, file, part)
        elif names is not None:
            rows = _by_name(next(iter(tables.values())), names, split, file)
        else:
            rows = _in_order(next(iter(tables.values())), split, whole, file)
        found[part] = as_rows(rows, len(split), file, split.names or _numbers(split))
    widths = {part: rows.shape[1] for part, rows in found.items()}
    if len({*widths.values()}) > 1:
        raise BadInput(f"{file} has rows of {widths} numbers; accepted: as many in each part")
    return found


def list_vectors(file: str) -> Listing:
    """The rows of a file of vectors as samples, all of its parts one after the other, by their
    names where it has these, else by their numbers.  Raises BadInput as `read_vectors` does."""
    path = path_of(file)
    names, tables = _parquet(path) if path.suffix.lower() == ".parquet" else _arrays(path)
    rows = np.concatenate(list(tables.values()))
    if names is None or len(names) != len(rows):
        names = [str(k) for k in range(len(rows))]
    info = path.stat()
    at = (info.st_size, info.st_mtime_ns)
    samples = [Sample(name, "", "", "", "", at) for name in names]
    return Listing(path, samples, columns={str(k): column for k, column in enumerate(rows.T)})


def _arrays(path: Path) -> tuple[list[str] | None, dict[str, Array]]:
    """The names, None where there are none, and the arrays of rows, by split where they are."""
    try:
        content = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays: Mapping[str, Array] = {"vectors": content}
        if path.suffix.lower() == ".npz":
            with content:
                arrays = {name: content[name] for name in content.files}
    except Exception as error:  # a damaged file raises nearly anything
        problem = getattr(error, "strerror", None) or one_line(error)
        if "pickle" in problem:  # numpy takes whatever it does not know for objects
            problem = "it is damaged, of another kind, or of Python's objects"
        raise BadInput(f"{path} holds no vectors ({problem[:160]})") from None
    names = next((arrays[name] for name in NAMES if name in arrays), None)
    splits = {name: arrays[name] for name in ("train", "test") if name in arrays}
    if not splits:
        named = [name for name in arrays if name in VECTORS]
        others = [name for name, array in arrays.items() if array.ndim == 2]
        chosen = [*named, *others][:1]
        splits = {name: arrays[name] for name in chosen}
    if not splits or any(array.ndim != 2 for array in splits.values()):
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise BadInput(f"{path} holds {shapes[:200]}; accepted: vectors [N, F], a row a sample")
    return (None if names is None else [str(name) for name in names]), splits


def _parquet(path: Path) -> tuple[list[str] | None, dict[str, Array]]:
    try:
        from pyarrow import parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise BadInput(f"{path} needs pyarrow: pip install pyarrow, or give a .npz") from None
    try:
        table = parquet.read_table(path)
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except Exception as error:  # a damaged file raises nearly anything
        raise BadInput(f"{path} is damaged or no Parquet: {one_line(error)[:160]}") from None
    key = next((name for name in NAMES if name in columns), None)
    names = None if key is None else [str(name) for name in columns.pop(key)]
    lists = [name for name in columns if columns[name] and hasattr(columns[name][0], "__len__")]
    lists = [name for name in lists if not isinstance(columns[name][0], str | bytes)]
    try:
        if lists:
            rows = np.array(columns[lists[0]], np.float64)
        else:
            rows = np.array([columns[name] for name in columns], np.float64).T
    except (TypeError, ValueError):
        rows = np.zeros(0)
    if rows.ndim != 2 or not rows.shape[1]:
        raise BadInput(
            f"{path} has the columns {', '.join(columns)[:160]}; accepted: a column of lists of "
            f"numbers, all as long, or columns of numbers, and one of {', '.join(NAMES)}"
        )
    return names, {"vectors": rows}


def _in_split(rows: Array, split: Split, file: str, part: str) -> Array:
    """Rows of one split alone, in its order, of which a run may train a part."""
    at = _numbers(split)
    if len(rows) <= int(at.max(initial=-1)):
        raise _too_few(file, rows, int(at.max()) + 1, part)
    chosen: Array = rows[at]
    return chosen


def _in_order(rows: Array, split: Split, whole: Dataset, file: str) -> Array:
    """Rows in the order of all samples, of training and test together."""
    everyone = [*whole.train.names, *whole.test.names]
    if not everyone:  # a built-in set: training samples, then test samples
        raise BadInput(
            f"{file} has one array, but {whole.name} has two parts: an .npz with train and test"
        )
    if all(name.isdecimal() for name in everyone):
        at = np.array([int(name) for name in split.names], np.int64)
        need = max(map(int, everyone)) + 1
    else:
        order = {name: place for place, name in enumerate(sorted(everyone))}
        at = np.array([order[name] for name in split.names], np.int64)
        need = len(everyone)
        if len(rows) > need:
            raise BadInput(
                f"{file} has {len(rows):,} rows, but {whole.name} has {need:,} samples that can be "
                "used: give their names beside the vectors (.npz with names and vectors)"
            )
    if len(rows) < need:
        raise _too_few(file, rows, need, whole.name)
    chosen: Array = rows[at]
    return chosen


def _by_name(rows: Array, names: Sequence[str], split: Split, file: str) -> Array:
    if len(names) != len(rows):
        raise BadInput(f"{file} has {len(names):,} names for {len(rows):,} rows: one for each")
    place = {name: at for at, name in enumerate(names)}
    wanted = split.names or tuple(map(str, range(len(split))))
    missing = [name for name in wanted if name not in place]
    if missing:
        raise BadInput(
            f"{file} has no row for {len(missing):,} of {len(wanted):,} samples, such as "
            f"{missing[0]!r}; its names are as {names[0]!r}"
        )
    chosen: Array = rows[[place[name] for name in wanted]]
    return chosen


def _numbers(split: Split) -> npt.NDArray[np.int64]:
    """The number of each sample of a split that has no names of its own, or numbers for these."""
    if split.at is not None:
        return split.at
    return np.arange(len(split))


def _too_few(file: str, rows: Array, need: int, name: str) -> BadInput:
    return BadInput(f"{file} has {len(rows):,} rows, but {name} has {need:,} samples: one for each")
