"""What is in memory to a `Dataset`: arrays, data frames, torch Datasets.

They go to the cache folder as files do, where the workers of a study find them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from apl.data.dataset import Dataset
from apl.data.depth import as_pixels, channels_last, checked_range, to_bytes, told_range
from apl.data.files import FORMAT, cached
from apl.data.folders import cache_folder
from apl.data.images import GREY, Broken, Misfit, Plan, Progress, opened, plan_of, to_pixels, wider
from apl.data.labels import (
    NUMBERS,
    WORDS,
    Unclear,
    as_text,
    label_text,
    on_cpu,
    one_hot_text,
    require_one_order,
    texts_of,
    tidy,
    to_number,
)
from apl.data.listing import (
    SPLITS,
    SUFFIXES,
    Listing,
    Sample,
    Say,
    only_classes,
    settle_labels,
    suffix_of,
    why_not,
)
from apl.data.lists import HEAD, take_names
from apl.data.numbers import Cells
from apl.data.reading import Reading, names_of
from apl.data.tables import row_digests, to_columns
from apl.data.texts import NO_TEXTS, as_texts, find_texts, require_column
from apl.errors import BadInput, cut
from apl.paths import user_path

INPUTS = ("image", "img", "images", "pixel_values", "input", "inputs", "x", "data")
TRUTH = "clean_label"
SPLIT = "split"
TARGETS = ("label", "labels", "target", "targets", "y", "class")
"""The names of what an item that is a mapping holds."""


def from_frame(name: str, frame: Any, reading: Reading, say: Say) -> Dataset:
    """A data set of a pandas DataFrame that has the labels in one of its columns, in its index, or
    in several columns of 0 and 1 that are named with commas; a column `split` says which rows are
    for testing, and what it says of the truth is not learned from."""
    wanted = names_of(reading.label_column)
    inside = [name for name in frame.index.names if name in wanted and name not in frame.columns]
    frame = frame.reset_index(inside) if inside else frame
    columns = [str(column) for column in frame.columns]
    lacking = [each for each in wanted if columns.count(each) != 1]
    if lacking:
        raise BadInput(
            f"{name} has {'two columns' if lacking[0] in columns else 'no column'} "
            f"{lacking[0]!r}; accepted: label_column, one of {', '.join(map(repr, columns))[:200]}"
        )
    at = [columns.index(each) for each in wanted]
    left = [k for k, each in enumerate(columns) if k not in at and each not in (TRUTH, SPLIT)]
    if TRUTH in columns:
        say(f"not learned from: column {TRUTH!r}")
    labels = frame.iloc[:, at] if len(at) > 1 else frame.iloc[:, at[0]]
    if columns.count(SPLIT) != 1:
        return from_arrays(name, {"": (frame.iloc[:, left], labels)}, reading, say)
    said = np.array([as_text(each).lower() for each in frame.iloc[:, columns.index(SPLIT)]])
    for unknown in sorted({*said.tolist()} - {*SPLITS}):
        raise BadInput(f"split is {unknown!r}; accepted: {', '.join(SPLITS)}")
    where = np.array([SPLITS[each] for each in said.tolist()])
    parts = {
        split: (frame.iloc[where == split, left], labels[where == split])
        for split in dict.fromkeys(where.tolist())
    }
    return from_arrays(name, parts, reading, say)


def from_arrays(
    name: str, parts: Mapping[str, tuple[Any, Any]], reading: Reading, say: Say
) -> Dataset:
    """A data set of arrays, (inputs, labels) by split, '' for one that is not split: images
    [N, H, W] or [N, H, W, C], a list of files of images, texts, or a table [N, F], an array or a
    pandas DataFrame; labels [N], numbers or words, or [N, K] one-hot."""
    given: list[str] = []
    splits: list[str] = []
    for split, (inputs, labels) in parts.items():
        require_one_order(inputs, labels, f"the rows of {name}")
        texts = texts_of(labels, name)
        shape = getattr(inputs, "shape", None) or (len(inputs),)
        if shape[0] != len(texts):
            of = f" of {split}" if split else ""
            what = "images" if len(shape) > 2 else "rows"
            raise BadInput(f"{name} has {shape[0]} {what}{of} but {len(texts)} labels")
        given += texts
        splits += [split] * len(texts)
    inputs = next(iter(parts.values()))[0] if len(parts) == 1 else _joined(name, parts)
    if _are_files(inputs):
        return _of_files(name, inputs, given, splits, reading, say)
    return _in_memory(_taken_in(name, inputs, reading), given, reading, say, splits)


def _joined(name: str, parts: Mapping[str, tuple[Any, Any]]) -> Any:
    """The inputs of several splits, one below the other."""
    several = [inputs for inputs, _ in parts.values()]
    if all(hasattr(inputs, "columns") for inputs in several):
        import pandas as pd

        return pd.concat(several, ignore_index=True)
    if all(isinstance(inputs, list | tuple) for inputs in several):
        return [each for inputs in several for each in inputs]
    arrays = [np.asarray(on_cpu(inputs, name)) for inputs in several]
    if len({array.shape[1:] for array in arrays}) > 1:
        shapes = ", ".join(str([*array.shape]) for array in arrays)
        raise BadInput(f"the splits of {name} differ in shape: {shapes}")
    return np.concatenate(arrays)


def _are_files(inputs: Any) -> bool:
    """Whether samples are names of files of images that are there."""
    if not isinstance(inputs, list | tuple) and getattr(inputs, "ndim", 2) != 1:
        return False
    first = list(itertools.islice(inputs, 20))
    named = [isinstance(each, str | Path) and suffix_of(str(each)) in SUFFIXES for each in first]
    return bool(named) and all(named) and any(user_path(each).is_file() for each in first)


def _of_files(
    name: str,
    files: Sequence[str | Path],
    given: Sequence[str],
    splits: Sequence[str],
    reading: Reading,
    say: Say,
) -> Dataset:
    """A data set of files of images that are named one by one, by way of the cache folder."""
    found = Listing(Path(), name=name)
    for file, label, split in zip(map(str, files), given, splits, strict=True):
        path = user_path(file)
        try:
            info = path.stat()
        except OSError as error:
            found.broken.append((file, why_not(error)))
            continue
        at = (info.st_size, info.st_mtime_ns)
        found.samples.append(Sample(file, os.path.abspath(path), label, "", split, at))
    settle_labels(found, reading, name)
    only_classes(found, reading.classes, name)
    how = dataclasses.astuple(dataclasses.replace(reading, max_broken=0))
    key = json.dumps([FORMAT, name, how, found.broken, found.samples])
    return cached(key, found, name, reading, say, lambda done, total: None)


def _taken_in(name: str, inputs: Any, reading: Reading) -> Listing:
    """What lists inputs of one kind, without their labels."""
    found = Listing(Path(), name=name)
    inputs = on_cpu(inputs, name)
    if hasattr(inputs, "toarray") and hasattr(inputs, "nnz"):
        raise BadInput(
            f"the rows of {name} are sparse; accepted: dense ones "
            f"({type(inputs).__name__}.toarray())"
        )
    if not hasattr(inputs, "columns") and not isinstance(inputs, np.ma.MaskedArray):
        try:
            inputs = np.asarray(inputs, object if _are_texts(inputs) else None)
        except ValueError:
            shapes = sorted({str([*np.shape(each)]) for each in inputs})[:3]
            raise BadInput(
                f"the samples of {name} differ in shape ({', '.join(shapes)}): resize them to one"
            ) from None
    if getattr(getattr(inputs, "dtype", None), "names", None) and inputs.ndim == 1:
        found.columns = to_columns(inputs)
        _take_texts(found, found.columns, reading)
    elif inputs.ndim == 1 and inputs.dtype == object:
        found.columns, found.texts = {}, as_texts(inputs)
    elif inputs.ndim == 2:
        found.columns = to_columns(inputs)
        if hasattr(inputs, "columns"):
            found.notes += take_names(found.columns)[1]
        _take_texts(found, found.columns, reading)
    else:
        inputs = channels_last(inputs, name)
        found.pixels = as_pixels([inputs], name, found.notes.append)
    return found


def from_torch(
    name: str, parts: Mapping[str, Any], reading: Reading, say: Say, progress: Progress
) -> Dataset:
    """A data set of torch Datasets, or of Hugging Face's, by their splits, '' for one that is not
    split.  Their items are (input, label) or have these by name: an image of Pillow's, an array
    [H, W, C] or a tensor [C, H, W]; or the numbers [F] of a table's row.  Where they have `classes`
    or `features`, these name the classes.

    Their items are read one by one into a file in the cache folder.
    """
    count = sum(len(part) for part in parts.values())
    if not count:
        raise BadInput(f"{name} is empty")
    cache = cache_folder() / "decoded"
    cache.mkdir(parents=True, exist_ok=True)
    taken = _Taken(name, reading.image_size)
    splits = [split for split, part in parts.items() for _ in range(len(part))]
    while True:
        # On most systems it has no name: nothing is left of it where this process is killed.
        with tempfile.TemporaryFile(dir=cache) as file:
            try:
                given, shape, kind = _read_items(parts, taken, reading, file, progress)
            except Misfit as misfit:
                taken.widen(misfit)
                continue
            except Broken as error:
                raise BadInput(f"{name} has an image with {error}") from None
            file.flush()
            rows: npt.NDArray[Any] = np.memmap(file, kind, "r", shape=(count, *shape))
            found = Listing(Path(), name=name, notes=told_range(taken.low, taken.high))
            if rows.ndim == 2:
                found.columns = to_columns(rows)
            else:
                found.pixels = rows
            return _in_memory(found, given, reading, say, splits)


def _are_texts(inputs: Any) -> bool:
    """Whether samples are texts, one by one: a list, a tuple, an array or a Series of them."""
    return len(inputs) > 0 and all(isinstance(each, str) for each in itertools.islice(inputs, 100))


def _take_texts(found: Listing, columns: dict[str, Cells], reading: Reading) -> None:
    """Have the column of texts of a frame be texts, where there is one."""
    column = reading.text_column
    if not column:
        words = [name for name, cells in columns.items() if np.asarray(cells).dtype == object]
        cells = zip(*(columns[name] for name in words), strict=True)
        rows = [dict(zip(words, row, strict=True)) for row in itertools.islice(cells, HEAD)]
        column = find_texts(rows, words)
        if column:
            found.notes.append(f"texts: column {column!r} (text_column takes another)")
    elif column != NO_TEXTS:
        require_column(column, list(columns), found.name)
    if column not in ("", NO_TEXTS):
        found.text_column, found.texts = column, as_texts(columns.pop(column))


@dataclass
class _Taken:
    """What the items of a data set of this name are taken for, until one does not fit: `plan` of
    images of Pillow's, `low` to `high` the range of arrays."""

    name: str
    image_size: int
    plan: Plan | None = None
    low: float = 0.0
    high: float = 0.0

    def row(self, picture: Any) -> npt.NDArray[Any]:
        """An item's pixels uint8 [H, W, C], or its numbers float64 [F].  Raises Misfit."""
        from PIL import Image

        if isinstance(picture, Mapping) and "bytes" in picture:
            picture = opened(picture["bytes"] or picture.get("path") or b"")
        elif isinstance(picture, bytes):
            picture = opened(picture)
        if isinstance(picture, Image.Image):
            grey = picture.mode in GREY
            self.plan = self.plan or plan_of({picture.size}, grey, self.image_size)
            return to_pixels(picture, self.plan)
        array = np.asarray(on_cpu(picture, self.name))
        if array.ndim == 1:
            return array.astype(np.float64)
        if not isinstance(picture, np.ndarray) and array.ndim == 3:
            array = array.transpose(1, 2, 0)  # torch's tensors have their channels first
        image = channels_last(array[None], self.name)[0]
        low, high = checked_range(image, self.name)
        if low < self.low or high > self.high:
            raise Misfit(low=min(low, self.low), high=max(high, self.high))
        return np.ascontiguousarray(to_bytes(image, self.low, self.high))

    def widen(self, misfit: Misfit) -> None:
        """Take them for what the image that did not fit is too."""
        self.low = misfit.changes.get("low", self.low)
        self.high = misfit.changes.get("high", self.high)
        if self.plan is not None:
            self.plan = wider(self.plan, misfit.changes, self.image_size)


def _read_items(
    parts: Mapping[str, Any], taken: _Taken, reading: Reading, file: IO[bytes], progress: Progress
) -> tuple[list[str], tuple[int, ...], npt.DTypeLike]:
    """Write the inputs of all items to a file; their labels, and the shape and kind of each."""
    given: list[str] = []
    shape: tuple[int, ...] = ()
    kind: npt.DTypeLike = np.uint8
    total = sum(len(part) for part in parts.values())
    for dataset in parts.values():
        for i in range(len(dataset)):
            picture, label, column = _pair(dataset[i], taken.name, reading.label_column)
            row = taken.row(picture)
            if shape and row.shape != shape:
                raise BadInput(
                    f"the items of {taken.name} differ in shape ({list(shape)} and "
                    f"{list(row.shape)}): resize them to one"
                )
            shape, kind = row.shape, row.dtype
            file.write(row.tobytes())
            classes = _class_names(dataset, column)
            given.append(_label(label, classes, f"item {i} of {taken.name}"))
            progress(len(given), total)
    return given, shape, kind


def _class_names(dataset: Any, column: str) -> Sequence[str] | None:
    """The names of a data set's classes, as torchvision's and Hugging Face's have them."""
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping) and column:
        names = getattr(features.get(column), "names", None)
    else:
        names = getattr(dataset, "classes", None)
    return None if names is None else [tidy(str(name)) for name in names]


def _pair(item: Any, name: str, label_column: str) -> tuple[Any, Any, str]:
    """The input and the label of an item, and the name of the latter where it has one."""
    if isinstance(item, Mapping):
        inputs = [key for key in INPUTS if key in item]
        inputs += [key for key in item if key not in inputs and _is_picture(item[key])]
        targets = [key for key in (label_column, *TARGETS) if key in item]
        if label_column != "label":
            targets = [key for key in targets if key == label_column]
        others = [key for key in item if {"label", "class"} & {*str(key).lower().split("_")}]
        if not targets and label_column == "label" and len(others) == 1:
            targets = others
        if inputs and targets:
            return item[inputs[0]], item[targets[0]], str(targets[0])
        raise BadInput(
            f"the items of {name} have {', '.join(map(repr, item))[:200]}; accepted: one of "
            f"{', '.join(INPUTS)}, and one of {', '.join(TARGETS)}, or --label-column"
        )
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise BadInput(
            f"the items of {name} are of type {type(item).__name__}; accepted: (input, label)"
        )
    return item[0], item[1], ""


def _is_picture(value: Any) -> bool:
    """Whether a value of an item is an image: of Pillow's, or as Hugging Face keeps one."""
    from PIL import Image

    kept = isinstance(value, Mapping) and {*value} == {"bytes", "path"}
    return kept or isinstance(value, Image.Image)


def _label(label: Any, classes: Sequence[str] | None, where: str) -> str:
    """The class of an item's label: a number, a word, or a one-hot vector."""
    label = on_cpu(label, where)
    values = label.reshape(-1).tolist() if getattr(label, "ndim", 0) else label
    if isinstance(values, list | tuple) and len(values) > 1:
        marked = one_hot_text(values)
        if marked is None:
            raise BadInput(f"{where} has {len(values)} labels; accepted: one, or a one-hot vector")
        label = marked
    try:
        text = label_text(label)
    except Unclear as error:
        raise BadInput(f"{where} has {error}; accepted: one") from None
    if classes is None or text in classes or not text:
        return text
    if text in NUMBERS or text in WORDS:
        return ""
    number = to_number(text)
    if number is None or number % 1 or not 0 <= number < len(classes):
        raise BadInput(
            f"{where} has the label {cut(text, 100)!r}; accepted: 0 to {len(classes) - 1}"
        )
    return classes[int(number)]


def _in_memory(
    found: Listing,
    given: Sequence[str],
    reading: Reading,
    say: Say,
    splits: Sequence[str] = (),
) -> Dataset:
    """What is in memory, by way of the cache folder; the rows of a table or images of an array.
    splits: of each sample, '' for none."""
    counts: Counter[str] = Counter()
    for label, split in zip(given, splits or [""] * len(given), strict=True):
        name = f"{split}:{counts[split]}" if split else str(counts[split])
        found.samples.append(Sample(name, "", label, "", split, (0, 0)))
        counts[split] += 1
    settle_labels(found, reading, found.name)
    only_classes(found, reading.classes, found.name)
    shape: Sequence[Any]
    content: Any
    if found.columns is not None:
        content, shape = row_digests(found.cells).tobytes(), list(found.cells)
    else:
        assert found.pixels is not None
        content, shape = found.pixels.data, found.pixels.shape
    asked = [FORMAT, found.name, given, *counts.items(), reading.classes, shape]
    asked += ["cells"] if found.columns is not None else []
    key = json.dumps([*asked, hashlib.sha256(content).hexdigest()])
    return cached(key, found, found.name, reading, say, lambda done, total: None)
