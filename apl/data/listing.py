"""What a path of the user's holds, in words: which files, which labels, what is trained on.

Nothing is decoded here, and nothing that is wrong with one file or row loses the others.
"""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from apl.data.depth import Pixels, as_pixels, channels_last
from apl.data.labels import (
    NO_LABEL,
    NUMBERS,
    Unclear,
    as_text,
    by_value,
    combined,
    label_text,
    no_labels,
    one_hot_text,
    texts_of,
    to_number,
)
from apl.data.reading import Reading, names_of
from apl.data.rows import Row, read_rows
from apl.errors import BadInput, one_line
from apl.noise.labels import UNKNOWN, BoolArray, IntArray

Say = Callable[[str], None]

SPLITS = (
    dict.fromkeys(("train", "training"), "train")
    | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
    | dict.fromkeys(("test", "testing", "eval"), "test")
)
"""The names of splits, those that Hugging Face's imagefolder reads."""

SUFFIXES = frozenset(".png .jpg .jpeg .gif .bmp .tif .tiff .webp .ppm .pgm .pbm".split())
LISTS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
METADATA = tuple(f"metadata{kind}" for kind in LISTS if kind != ".json")
"""A list of a folder's files, as Hugging Face's imagefolder names it; a .json may be anything."""
FILE_COLUMNS = ("file_name", "filename", "file", "path", "image")
HELD_OUT = 5  # one in so many is held out where there is no test split


class Sample(NamedTuple):
    """A sample as it is listed: what the user calls it, where it lies, its labels as text."""

    name: str
    path: str
    given: str
    true: str
    split: str
    stat: tuple[int, int]  # size and time of its file


@dataclass
class Listing:
    """What a path holds, before anything is decoded.

    root: what the names are relative to; broken: what is left out, by name, and why; notes: lines
    to tell; pixels: the images themselves where arrays hold them, in the samples' order; columns:
    so the cells of a table, by column, with `decimal` where a number's fraction begins; name: of
    the data set, '' until it has one.
    """

    root: Path
    samples: list[Sample] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pixels: Pixels | None = None
    columns: dict[str, Sequence[Any]] | None = None
    decimal: str = "."
    name: str = ""


def list_path(path: Path, reading: Reading) -> Listing:
    """What lies at a path; BadInput where nothing can be learned from it."""
    if path.is_dir():
        for name in METADATA:
            if (path / name).is_file():
                return _list_file(path / name, reading)
        if any(_is_array_name(file.stem) for file in path.glob("*.npy")):
            return _list_arrays(path, reading)
        return _list_folder(path)
    if path.suffix.lower() in (".npz", ".npy"):
        return _list_arrays(path, reading)
    if path.suffix.lower() in LISTS:
        return _list_file(path, reading)
    raise BadInput(
        f"{path} is no data set; accepted: a folder of classes, a list of files or a table "
        f"({', '.join(LISTS)}), or arrays (.npz, .npy)"
    )


def _list_folder(root: Path) -> Listing:
    """root/CLASS/.../x.png or root/SPLIT/CLASS/.../x.png."""
    found = Listing(root)
    folders = sorted(entry.name for entry in os.scandir(root) if _is_folder(entry))
    splits = [
        name
        for name in folders
        if name.lower() in SPLITS and any(map(_is_folder, os.scandir(root / name)))
    ]
    if folders and not splits and all(name.lower() in SPLITS for name in folders):
        raise BadInput(
            f"{root} has splits without folders of classes ({', '.join(folders)}); accepted: "
            f"{root.name}/{folders[0]}/CLASS/x.png"
        )
    outside: list[str] = []
    if splits:  # a class may be called `train`; then images lie in it, and no folders
        outside = sorted(set(folders) - set(splits))
        for name in splits:
            _list_classes(found, root / name, SPLITS[name.lower()])
    else:
        _list_classes(found, root, "")
    if outside:
        found.notes.append(f"not read, as they are no splits with classes: {some_of(outside)}")
    if not found.samples:
        raise BadInput(
            f"{root} has no images in folders of classes; accepted: {root.name}/CLASS/x.png or "
            f"{root.name}/train/CLASS/x.png, with {' '.join(sorted(SUFFIXES))}"
        )
    return found


def _list_classes(found: Listing, top: Path, split: str) -> None:
    empty: list[str] = []
    other: set[str] = set()
    others = outside = 0
    home = os.path.realpath(found.root) + os.sep
    before = len(found.samples)
    for entry in os.scandir(top):
        name = entry.name
        if name.startswith("."):
            continue
        if not _is_folder(entry):
            if entry.is_symlink() and os.path.isdir(entry.path):
                found.broken.append((_relative(entry.path, found.root), "a link to a folder"))
            else:
                outside += _suffix(name) in SUFFIXES
            continue
        count = 0
        for file in _files(entry.path, found):
            relative = _relative(file.path, found.root)
            if file.is_dir():
                found.broken.append((relative, "a link to a folder"))
                continue
            if _suffix(file.name) not in SUFFIXES:
                other.add(_suffix(file.name) or file.name)
                others += 1
                continue
            count += 1
            try:
                if file.is_symlink() and not os.path.realpath(file.path).startswith(home):
                    found.broken.append((relative, "a link out of the folder"))
                else:
                    info = file.stat()
                    at = (info.st_size, info.st_mtime_ns)
                    found.samples.append(Sample(relative, file.path, name, "", split, at))
            except OSError as error:
                found.broken.append((relative, why_not(error)))
        if not count:
            empty.append(name)
    where = f" in {split}" if split else ""
    if empty:
        found.notes.append(f"left out{where}, classes without images: {some_of(sorted(empty))}")
    if outside and len(found.samples) > before:
        found.notes.append(f"not read{where}: {outside:,} images outside the folders of classes")
    if other:
        kinds = some_of(sorted(other))
        found.notes.append(f"not read{where}: {others:,} files that are not called images: {kinds}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)


def _files(folder: str, found: Listing) -> Iterator[os.DirEntry[str]]:
    """Every file below a folder, and every link, which is not followed."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        found.broken.append((_relative(folder, found.root), why_not(error)))
        return
    for entry in entries:
        if entry.name.startswith("."):  # .DS_Store, and what macOS writes beside each file
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, found)
        else:
            yield entry


def _relative(path: str, root: Path) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")


class _Columns(NamedTuple):
    """Which columns of a list say what: several of the label where it is one-hot, '' for what none
    says."""

    labels: Sequence[str]
    file: str
    split: str


def _list_file(path: Path, reading: Reading) -> Listing:
    """A list of files with their labels, the files named relative to the list's folder; or, without
    a column of files, a table: a sample a row."""
    sheet = read_rows(path, {reading.label_column})
    found = Listing(path.parent, decimal=sheet.decimal)
    columns: _Columns | None = None
    cells: dict[str, list[Any]] = {}
    for place, (number, row) in enumerate(sheet.rows):
        if isinstance(row, str):
            found.broken.append((f"row {number}", row))
            continue
        columns = columns or _columns_of(path, row, reading.label_column, found)
        name = str(row.get(columns.file) or "") if columns.file else str(place)
        sample = _sample_of(path, row, columns, name)
        if isinstance(sample, str):
            found.broken.append((name if name and columns.file else f"row {number}", sample))
            continue
        if not columns.file:
            for column in row:
                if column not in cells:  # a JSON object may have more than those before it
                    cells[column] = [None] * len(found.samples)
            for column, values in cells.items():
                values.append(row.get(column))
        found.samples.append(sample)
    if columns is None or not found.samples:
        what = "image that is there" if columns and columns.file else "sample"
        raise BadInput(f"{path} lists no {what}; {broken_line(found.broken)}")
    settle_labels(found, reading, f"{path} ({reading.label_column})")
    if not columns.file:
        _make_table(found, cells, columns.labels)
    return found


def _columns_of(path: Path, row: Row, label_column: str, found: Listing) -> _Columns:
    """What the columns of a list are for, by its first row."""
    file = next((name for name in FILE_COLUMNS if name in row), "")
    if not file and (file := _names_images(row)):
        found.notes.append(f"column {file!r} names the files")
    labels = (label_column,) if label_column in row else names_of(label_column)
    if not {*labels} <= {*row}:
        raise BadInput(_no_labels(path, label_column, row))
    return _Columns(labels, file, "split" if "split" in row else "")


def _sample_of(path: Path, row: Row, columns: _Columns, name: str) -> Sample | str:
    """The sample of a row, or why it is none."""
    split = as_text(row.get(columns.split)).lower() if columns.split else ""
    if not name:
        return "no file is named"
    try:
        given, true = _label_of(row, columns.labels), label_text(row.get("clean_label"))
    except Unclear as error:
        return str(error)
    if not given:
        return NO_LABEL
    if columns.split and split not in SPLITS:
        return f"split is {split!r}; accepted: {', '.join(SPLITS)}"
    file = os.path.join(path.parent, name) if columns.file else ""
    try:
        info = os.stat(file or path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        return why_not(error)
    stat = (info.st_size, info.st_mtime_ns)
    return Sample(name, file, given, true, SPLITS.get(split, ""), stat)


def _label_of(row: Row, columns: Sequence[str]) -> str:
    """The label of a row, in its column or by the one of several columns that is 1."""
    if len(columns) == 1:
        return label_text(row.get(columns[0]))
    text = one_hot_text([as_text(row.get(name)) or 0 for name in columns], columns)
    if text is None:
        raise Unclear(f"not a single 1 in the columns {some_of(columns)}")
    return text


def _names_images(row: Mapping[str, Any]) -> str:
    """The first column with the name of an image in this row, '' where there is none."""
    named = (name for name in row if _suffix(as_text(row[name])) in SUFFIXES)
    return next(named, "")


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _no_labels(path: Path, label_column: str, row: Row) -> str:
    columns = list(row)
    has = some_of([repr(name) for name in columns], 20)
    hint = ""
    marks = [name for name in columns if as_text(row[name]) in ("0", "1")]
    if sum(to_number(name) is not None for name in columns) > len(columns) / 2:
        hint = "; the first line must name the columns, and here it looks like numbers"
    elif len(marks) > 1 and [as_text(row[name]) for name in marks].count("1") == 1:
        hint = f"; a column for each class is given as --label-column {','.join(marks)[:200]}"
    return (
        f"{path} has no column of the labels ({label_column!r}; --label-column); its columns: "
        f"{has}{hint}"
    )


ID_COLUMNS = ("id", "", "index", "unnamed: 0")  # the last three are those of pandas' row numbers


def _make_table(found: Listing, cells: dict[str, list[Any]], label_columns: Sequence[str]) -> None:
    """What a table's columns are for: names, labels, or to learn from."""
    ids = next((name for name in cells if name.strip().lower() in ID_COLUMNS), None)
    if ids is not None:
        names = [as_text(cell) for cell in cells.pop(ids)]
        if "" not in names and len(set(names)) == len(names):
            named = zip(found.samples, names, strict=True)
            found.samples = [sample._replace(name=name) for sample, name in named]
        else:
            found.notes.append(
                f"column {ids!r} names no sample: it has the same value twice, or none"
            )
    for name in (*label_columns, "clean_label", "split"):
        cells.pop(name, None)
    labels = [
        name for name in cells if {"label", "labels"} & set(re.split(r"[\W_]+", name.lower()))
    ]
    if labels:
        found.notes.append(f"columns left out, called labels: {some_of(labels)}")
    found.columns = {name: column for name, column in cells.items() if name not in labels}


_IMAGES = ("x", "image", "images", "data")
_LABELS = ("y", "label", "labels", "target", "targets")
_NAMED = "x and y, or x_train, y_train, x_test, y_test, or train_images, train_labels and so on"
_WORDS = {*_IMAGES, *_LABELS, *SPLITS, "clean"}


def _is_array_name(name: str) -> bool:
    return _WORDS.issuperset(name.lower().split("_"))


def _list_arrays(path: Path, reading: Reading) -> Listing:
    """An .npz, or .npy files beside each other, with images and labels by name: x and y, or the
    words above, with a split before or behind (x_train, train_images), and `clean` in the name of
    true labels (y_train_clean).  Arrays [N, F] are a table."""
    arrays, stat = _read_arrays(path)
    parts = _by_split(arrays)
    found = Listing(path if path.is_dir() else path.parent)
    inputs: list[npt.NDArray[Any]] = []
    for split, part in parts.items():
        if not {"images", "given"} <= set(part):
            raise BadInput(
                f"{path} lacks images or labels{f' of {split}' if split else ''}: {_NAMED}"
            )
        images = part["images"]
        inputs.append(images if images.ndim == 2 else channels_last(images, str(path)))
        given = texts_of(part["given"], str(path))
        true = texts_of(part["true"], str(path)) if "true" in part else [""] * len(given)
        if not len(images) == len(given) == len(true):
            raise BadInput(f"{path}: {len(images)} images but {len(given)} labels")
        for i, (a, b) in enumerate(zip(given, true, strict=True)):
            name = f"{split}:{i}" if split else str(i)
            found.samples.append(Sample(name, "", a, b, split, stat))
    if not inputs:
        raise BadInput(f"{path} has no arrays that are called images and labels: {_NAMED}")
    if len({images.shape[1:] for images in inputs}) > 1:
        raise BadInput(f"{path}: the images of its splits differ in shape")
    settle_labels(found, reading, str(path))
    if inputs[0].ndim == 2:
        found.columns = {str(k): column for k, column in enumerate(np.concatenate(inputs).T)}
    else:
        found.pixels = as_pixels(inputs, str(path), found.notes.append)
    return found


def _by_split(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, dict[str, npt.NDArray[Any]]]:
    """Arrays by their names: those of each split that are images, given and true labels."""
    parts: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for key, array in arrays.items():
        words = key.lower().split("_")
        split = next((SPLITS[word] for word in words if word in SPLITS), "")
        if any(word in _LABELS for word in words):
            kind = "true" if "clean" in words else "given"
        elif any(word in _IMAGES for word in words):
            kind = "images"
        else:
            continue
        parts.setdefault(split, {})[kind] = array
    return parts


def _read_arrays(path: Path) -> tuple[dict[str, npt.NDArray[Any]], tuple[int, int]]:
    """The arrays at a path by name, those of .npy files mapped, and the sizes and the last time of
    its files.

    An .npz; a folder with .npy files; or one of such files, which stands for all of its folder
    where it is called as they are (x_train.npy), else for itself and its labels beside it
    (photos.npy, photos_labels.npy).
    """
    if path.suffix.lower() == ".npz":
        files = {"": path}
    else:
        top = path if path.is_dir() else path.parent
        files = {file.stem: file for file in sorted(top.glob("*.npy")) if _is_array_name(file.stem)}
        if path.is_file() and not _is_array_name(path.stem):
            labels = [path.with_stem(f"{path.stem}_{word}") for word in _LABELS]
            beside = next(filter(Path.is_file, labels), None)
            if beside is None:
                raise BadInput(f"{path} has no labels beside it; accepted: {path.stem}_labels.npy")
            files = {"x": path, "y": beside}
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        for name, file in files.items():
            if name:
                arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
            else:
                with np.load(file, allow_pickle=False) as content:
                    # Others, such as label_names, may be none that can be read.
                    arrays = {key: content[key] for key in filter(_is_array_name, content.files)}
    except Exception as error:  # a damaged file raises nearly anything
        raise BadInput(f"{path} holds no arrays of numbers ({one_line(error)})") from None
    stats = [file.stat() for file in files.values()]
    return arrays, (sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats))


def why_not(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (error.strerror if isinstance(error, OSError) else None) or one_line(error)


def some_of(names: Sequence[str], count: int = 5) -> str:
    rest = len(names) - count
    return ", ".join(map(_printable, names[:count])) + (f" and {rest:,} more" if rest > 0 else "")


def _printable(name: str) -> str:
    """A name on one line: names of files may hold newlines, and bytes that are no text."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return text if text.isprintable() else repr(text)[1:-1]


def broken_line(broken: Sequence[tuple[str, str]]) -> str:
    if not broken:
        return "it is empty"
    shown = "; ".join(f"{_printable(name)}: {why}" for name, why in broken[:3])
    return f"left out {len(broken):,}: {shown}{'; ...' if len(broken) > 3 else ''}"


# --------------------------------------------------------------------- which is learned from which


class Order(NamedTuple):
    """The samples that are used, those to train on first: positions, labels, classes."""

    chosen: IntArray
    train: int  # so many of them
    given: IntArray
    true: IntArray
    class_names: tuple[str, ...]
    ours: bool  # whether the split is


def arrange(
    samples: Sequence[Sample],
    name: str,
    say: Say,
    classes: Collection[str] = (),
    alike: IntArray | None = None,
) -> Order:
    """Labels as text to numbers, and the split: what is called test is tested on, else what is
    called validation, else a share of each class, the same every time.

    The classes are those that training samples have, given or true, and those named by `classes`:
    numbers in order of their value, then words in that of their letters.  Without a label, or with
    that of a class which nothing is trained on, a sample is left out.  alike: a number for each
    sample, the same one for those that are held out together or not at all.
    """
    labelled = np.array([sample.given != "" for sample in samples], bool)
    where = np.array([sample.split or "train" for sample in samples])
    there = {*where[labelled].tolist()}
    tested = next((split for split in ("test", "validation") if split in there), "")
    if tested == "test" and "validation" in there:
        unused = (labelled & (where == "validation")).sum()
        say(f"not used: {unused:,} samples for validation")
    train = np.flatnonzero(labelled & (where == "train") if tested else labelled)
    test = np.flatnonzero(labelled & (where == tested))
    if tested and not len(train):
        raise BadInput(f"{name} has {labelled.sum():,} samples, and none of them for training")
    labels = _classes(samples, train, classes, name, say)
    index = {label: k for k, label in enumerate(labels)}
    y = np.array([index.get(sample.given, UNKNOWN) for sample in samples], np.int64)
    y_true = np.array([index.get(sample.true, UNKNOWN) for sample in samples], np.int64)
    if tested:
        test = _known_classes(samples, test, index, say)
    else:
        out = held_out(y[train], None if alike is None else alike[train])
        if alike is not None and out.any():
            say("copies of one image are held out together, or not at all")
        elif alike is not None:
            say("copies of one image are nearly all there is: they can't be held out together")
            out = held_out(y[train])
        train, test = train[~out], train[out]
        say(
            f"no test split: one in {HELD_OUT} of each class is held out, {len(test):,} of "
            f"{labelled.sum():,}, the same every time"
        )
    if not len(test):
        raise BadInput(f"{name} has {labelled.sum():,} samples, and none of them for test")
    for one, other, have, lack in (
        ("training", "test", train, test),
        ("test", "training", test, train),
    ):
        alone = sorted({*y[have].tolist()} - {*y[lack].tolist()})
        if alone:
            names = some_of([labels[k] for k in alone])
            say(f"classes among the {one} samples, but not among the {other} samples: {names}")
    chosen = np.concatenate([train, test])
    return Order(chosen, len(train), y[chosen], y_true[chosen], tuple(labels), not tested)


def _classes(
    samples: Sequence[Sample], train: IntArray, classes: Collection[str], name: str, say: Say
) -> list[str]:
    """The classes in their order, those of the samples at `train` and those that are named."""
    found = {*classes}
    for i in train:
        found |= {samples[i].given, samples[i].true}
    labels = sorted(found - {""}, key=by_value)
    if len(labels) < 2:
        only = f": all are {labels[0]!r}" if labels else ""
        raise BadInput(f"{name} has {len(labels)} class of labels, nothing to learn{only}")
    for _, alike in itertools.groupby(sorted(labels, key=_folded), key=_folded):
        same = list(alike)
        if len(same) > 1:
            say(f"classes that differ in case alone are {len(same)} classes: {some_of(same)}")
    several = combined(labels)
    if several:
        say(f"classes that look like several in one, and are taken as one: {some_of(several)}")
    return labels


def _known_classes(
    samples: Sequence[Sample], test: IntArray, index: Mapping[str, int], say: Say
) -> IntArray:
    """The test samples of classes that are learned; the others are told."""
    known = np.array([{samples[i].given, samples[i].true} <= {*index, ""} for i in test], bool)
    if not known.all():
        strange = {label for i in test[~known] for label in (samples[i].given, samples[i].true)}
        names = some_of(sorted(strange - {*index, ""}))
        say(
            f"not tested on: {(~known).sum():,} samples of classes that no training sample has: "
            f"{names} (--classes with all names keeps them)"
        )
    chosen: IntArray = test[known]
    return chosen


def settle_labels(found: Listing, reading: Reading, name: str) -> None:
    """Have labels that are none be '', and tell how many; BadInput for what is no class.

    They are left out, and count as no broken files.
    """
    given = [sample.given for sample in found.samples]
    none = no_labels(given, reading.classes)
    kept = {*given} - none
    unknown = no_labels((sample.true for sample in found.samples), kept) | ({*NUMBERS} - kept)
    written = Counter(label for label in given if label in none)
    if written or any(sample.true in unknown and sample.true for sample in found.samples):
        for i, sample in enumerate(found.samples):
            if sample.given in none:
                why = f"{NO_LABEL} ({sample.given!r})" if sample.given else NO_LABEL
                found.broken.append((sample.name, why))
            found.samples[i] = sample._replace(
                given="" if sample.given in none else sample.given,
                true="" if sample.true in unknown else sample.true,
            )
    unlabelled = sum(why.startswith(NO_LABEL) for _, why in found.broken)
    if unlabelled:
        words = [f"{word!r} {count:,}" for word, count in written.most_common(5) if word]
        told = f": {', '.join(words)}; --classes names a class that is called so" if words else ""
        found.notes.append(f"without a label and left out: {unlabelled:,} samples{told}")
    if not reading.classes:
        check_labels([label for label in given if label not in none], name)


def only_classes(found: Listing, classes: Collection[str], name: str) -> None:
    """Leave samples of other classes than these out, and tell; BadInput for one that nobody has."""
    there = {sample.given for sample in found.samples} - {""}
    for each in classes:
        if each not in there:
            has = some_of(sorted(there, key=by_value), 20)
            raise BadInput(f"classes names {each!r}, which {name} lacks; its classes: {has}")
    others = there - {*classes}
    if classes and others:
        left = sum(sample.given in others for sample in found.samples)
        names = some_of(sorted(others, key=by_value))
        found.notes.append(f"left out, of other classes than --classes: {left:,} samples: {names}")
        found.samples = [
            sample._replace(
                given=sample.given if sample.given in classes else "",
                true=sample.true if sample.true in classes else "",
            )
            for sample in found.samples
        ]


MANY = 20  # classes from which on it is asked whether labels are classes at all


def check_labels(labels: Sequence[str], name: str) -> None:
    """BadInput where labels are measured and not classes: numbers, some of them with fractions; or
    nearly all different."""
    counts = Counter(labels)
    values = [to_number(label) for label in counts]
    fractions = [value for value in values if value is not None and value % 1]
    if fractions and None not in values:
        raise BadInput(
            f"the labels of {name} are numbers such as {fractions[0]:g}; accepted: words or whole "
            "numbers, one for each class"
        )
    single = sum(count == 1 for count in counts.values())
    if len(counts) > MANY and 2 * single > len(counts):
        raise BadInput(
            f"the labels of {name} are {len(counts):,} different ones, {single:,} of them of one "
            "sample each: values that are measured, or names; accepted: words or whole numbers, "
            "one for each class (--classes where these are meant)"
        )


def _folded(label: str) -> str:
    return unicodedata.normalize("NFC", label).casefold()


def held_out(labels: IntArray, alike: IntArray | None = None) -> BoolArray:
    """True for one in HELD_OUT of each class, at least one of two; the same every time.

    alike: a number for each sample; those of one number are held out together or not at all, and
    no class is held out as a whole for it.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    out = np.zeros(len(labels), dtype=bool)
    rest = Counter(labels.tolist())  # of each class, what is not held out
    together = _by_class(alike) if alike is not None else []
    group = {i: members for members in together if len(members) > 1 for i in members.tolist()}
    for members in _by_class(labels[order]):
        label, size = int(labels[order[members[0]]]), len(members)
        wanted = max(round(size / HELD_OUT), min(size - 1, 1))
        if not group:
            out[order[members[:wanted]]] = True
            continue
        spare: list[IntArray] = []  # copies that are more than are wanted
        for i in order[members].tolist():
            same = group.get(i, np.array([i]))
            taken = Counter(labels[same].tolist())
            if out[i] or any(rest[k] <= count for k, count in taken.items()):
                continue
            if size - rest[label] + taken[label] <= wanted:
                out[same] = True
                rest.subtract(taken)
            else:
                spare.append(same)
        if rest[label] == size and spare:  # the fewest of them, rather than none
            same = min(spare, key=len)
            out[same] = True
            rest.subtract(Counter(labels[same].tolist()))
    return out


def _by_class(labels: IntArray) -> list[IntArray]:
    """The positions of each class, in order."""
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    return np.split(order, starts[1:])
