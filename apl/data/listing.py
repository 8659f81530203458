"""What a path of the user's holds, in words: which files, which labels, what is trained on.

Nothing is decoded here, and nothing that is wrong with one file or row loses the others.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from apl.data.rows import Row, read_rows
from apl.errors import BadInput, one_line
from apl.noise.labels import UNKNOWN, IntArray

Pixels = npt.NDArray[np.uint8]
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


def list_path(path: Path, label_column: str) -> Listing:
    """What lies at a path; BadInput where nothing can be learned from it."""
    if path.is_dir():
        for name in METADATA:
            if (path / name).is_file():
                return _list_file(path / name, label_column)
        if any(_is_array_name(file.stem) for file in path.glob("*.npy")):
            return _list_arrays(path)
        return _list_folder(path)
    if path.suffix.lower() in (".npz", ".npy"):
        return _list_arrays(path)
    if path.suffix.lower() in LISTS:
        return _list_file(path, label_column)
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
    """Which columns of a list say what; '' where none does."""

    label: str
    file: str
    split: str


def _list_file(path: Path, label_column: str) -> Listing:
    """A list of files with their labels, the files named relative to the list's folder; or, without
    a column of files, a table: a sample a row."""
    sheet = read_rows(path, {label_column})
    found = Listing(path.parent, decimal=sheet.decimal)
    columns: _Columns | None = None
    cells: dict[str, list[Any]] = {}
    for place, (number, row) in enumerate(sheet.rows):
        if isinstance(row, str):
            found.broken.append((f"row {number}", row))
            continue
        columns = columns or _columns_of(path, row, label_column, found)
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
    check_labels([sample.given for sample in found.samples], f"{path} ({label_column})")
    if not columns.file:
        _make_table(found, cells, label_column)
    return found


def _columns_of(path: Path, row: Row, label_column: str, found: Listing) -> _Columns:
    """What the columns of a list are for, by its first row."""
    file = next((name for name in FILE_COLUMNS if name in row), "")
    if not file and (file := _names_images(row)):
        found.notes.append(f"column {file!r} names the files")
    if label_column not in row:
        raise BadInput(_no_labels(path, label_column, list(row)))
    return _Columns(label_column, file, "split" if "split" in row else "")


def _sample_of(path: Path, row: Row, columns: _Columns, name: str) -> Sample | str:
    """The sample of a row, or why it is none."""
    given, true = as_text(row.get(columns.label)), as_text(row.get("clean_label"))
    split = as_text(row.get(columns.split)).lower() if columns.split else ""
    if not name:
        return "no file is named"
    if not given:
        return "no label"
    if columns.split and split not in SPLITS:
        return f"split is {split!r}; accepted: {', '.join(SPLITS)}"
    file = os.path.join(path.parent, name) if columns.file else ""
    try:
        info = os.stat(file or path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        return why_not(error)
    stat = (info.st_size, info.st_mtime_ns)
    return Sample(name, file, given, true, SPLITS.get(split, ""), stat)


def _names_images(row: Mapping[str, Any]) -> str:
    """The first column with the name of an image in this row, '' where there is none."""
    named = (name for name in row if _suffix(as_text(row[name])) in SUFFIXES)
    return next(named, "")


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _no_labels(path: Path, label_column: str, columns: Sequence[str]) -> str:
    has = some_of([repr(name) for name in columns], 20)
    hint = ""
    if sum(_number(name) is not None for name in columns) > len(columns) / 2:
        hint = "; the first line must name the columns, and here it looks like numbers"
    return (
        f"{path} has no column of the labels ({label_column!r}; --label-column); its columns: "
        f"{has}{hint}"
    )


ID_COLUMNS = ("id", "", "index", "unnamed: 0")  # the last three are those of pandas' row numbers


def _make_table(found: Listing, cells: dict[str, list[Any]], label_column: str) -> None:
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
    for name in (label_column, "clean_label", "split"):
        cells.pop(name, None)
    labels = [
        name for name in cells if {"label", "labels"} & set(re.split(r"[\W_]+", name.lower()))
    ]
    if labels:
        found.notes.append(f"columns left out, called labels: {some_of(labels)}")
    found.columns = {name: column for name, column in cells.items() if name not in labels}


def as_text(value: object) -> str:
    """A cell as text: '' for what is missing, a whole number without a fraction of zeros."""
    if value is None or value != value:  # nan
        return ""
    text = str(value).strip()
    whole = "." in text and re.fullmatch(r"[+-]?\d+\.0*", text)
    return text.split(".")[0] if whole else text


_IMAGES = ("x", "image", "images", "data")
_LABELS = ("y", "label", "labels", "target", "targets")
_NAMED = "x and y, or x_train, y_train, x_test, y_test, or train_images, train_labels and so on"
_WORDS = {*_IMAGES, *_LABELS, *SPLITS, "clean"}


def _is_array_name(name: str) -> bool:
    return _WORDS.issuperset(name.lower().split("_"))


def _list_arrays(path: Path) -> Listing:
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
        inputs.append(images if images.ndim == 2 else as_pixels(images, str(path)))
        given, true = (as_texts(part.get(name)) for name in ("given", "true"))
        true = true or [""] * len(given)
        if not len(images) == len(given) == len(true):
            raise BadInput(f"{path}: {len(images)} images but {len(given)} labels")
        for i, (a, b) in enumerate(zip(given, true, strict=True)):
            name = f"{split}:{i}" if split else str(i)
            b = "" if b == str(UNKNOWN) else b
            found.samples.append(Sample(name, "", a, b, split, stat))
    if not inputs:
        raise BadInput(f"{path} has no arrays that are called images and labels: {_NAMED}")
    if len({images.shape[1:] for images in inputs}) > 1:
        raise BadInput(f"{path}: the images of its splits differ in shape")
    check_labels([sample.given for sample in found.samples], str(path))
    whole = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
    if whole.ndim == 2:
        found.columns = {str(k): column for k, column in enumerate(whole.T)}
    else:
        found.pixels = whole
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


def as_texts(labels: Any) -> list[str]:
    return [] if labels is None else [as_text(label) for label in np.asarray(labels).reshape(-1)]


def as_pixels(images: Any, name: str) -> Pixels:
    """Images as uint8 [N, H, W, C]: from [N, H, W] or [N, H, W, C], or [N, C, H, W] where only the
    second axis can be one of colours; whole numbers of 0 to 255, or fractions of 0 to 1."""
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise BadInput(
            f"the images of {name} are {list(images.shape)}; accepted: [N, H, W] or [N, H, W, C] "
            "with 1 or 3 channels"
        )
    if images.dtype != np.uint8 and images.size:
        low, high = images.min(), images.max()
        if images.dtype.kind == "f" and 0 <= low <= high <= 1:
            images = np.rint(images * 255)
        elif images.dtype.kind not in "iu" or not 0 <= low <= high <= 255:
            raise BadInput(
                f"the pixels of {name} are {images.dtype} from {low} to {high}; accepted: whole "
                "numbers from 0 to 255, or fractions from 0 to 1"
            )
    return np.ascontiguousarray(images, np.uint8)


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


def arrange(
    given: Sequence[str], true: Sequence[str], splits: Sequence[str], name: str, say: Say
) -> Order:
    """Labels as text to numbers, and the split: what is called test is tested on, else what is
    called validation, else a share of each class, the same every time.

    true: '' where nobody knows.  Classes that are numbers are in order of their value, words in
    that of their letters.
    """
    labels = sorted({*given, *true} - {""}, key=_by_value)
    if len(labels) < 2:
        only = f": all are {labels[0]!r}" if labels else ""
        raise BadInput(f"{name} has {len(labels)} class of labels, nothing to learn{only}")
    for _, alike in itertools.groupby(sorted(labels, key=_folded), key=_folded):
        same = list(alike)
        if len(same) > 1:
            say(f"classes that differ in case alone are {len(same)} classes: {some_of(same)}")
    index = {label: k for k, label in enumerate(labels)}
    y = np.array([index[label] for label in given], np.int64)
    y_true = np.array([index.get(label, UNKNOWN) for label in true], np.int64)
    where = np.array([split or "train" for split in splits])
    tested = next((split for split in ("test", "validation") if (where == split).any()), "")
    if tested == "test" and (where == "validation").any():
        say(f"not used: {(where == 'validation').sum():,} samples for validation")
    if tested:
        train, test = (np.flatnonzero(where == split) for split in ("train", tested))
    else:
        out = held_out(y)
        train, test = np.flatnonzero(~out), np.flatnonzero(out)
        say(
            f"no test split: one in {HELD_OUT} of each class is held out, {len(test):,} of "
            f"{len(y):,}, the same every time"
        )
    if not len(train) or not len(test):
        what = "training" if not len(train) else "test"
        raise BadInput(f"{name} has {len(y):,} samples, and none of them for {what}")
    for one, other, there, lacking in (
        ("training", "test", train, test),
        ("test", "training", test, train),
    ):
        alone = sorted(set(y[there].tolist()) - set(y[lacking].tolist()))
        if alone:
            names = some_of([labels[k] for k in alone])
            say(f"classes among the {one} samples, but not among the {other} samples: {names}")
    chosen = np.concatenate([train, test])
    return Order(chosen, len(train), y[chosen], y_true[chosen], tuple(labels))


def check_labels(labels: Sequence[str], name: str) -> None:
    """BadInput where labels are measured and not classes: numbers, some of them with fractions."""
    values = [_number(label) for label in set(labels)]
    fractions = [value for value in values if value is not None and value % 1]
    if fractions and None not in values:
        raise BadInput(
            f"the labels of {name} are numbers such as {fractions[0]:g}; accepted: words or whole "
            "numbers, one for each class"
        )


def _number(label: str) -> float | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _by_value(label: str) -> tuple[bool, float, str]:
    value = _number(label)
    return value is None, value or 0.0, label


def _folded(label: str) -> str:
    return unicodedata.normalize("NFC", label).casefold()


def held_out(labels: IntArray) -> npt.NDArray[np.bool_]:
    """True for one in HELD_OUT of each class, at least one of two; the same every time."""
    order = np.random.default_rng(0).permutation(len(labels))
    out = np.zeros(len(labels), dtype=bool)
    for members in _by_class(labels[order]):
        count = max(round(len(members) / HELD_OUT), min(len(members) - 1, 1))
        out[order[members[:count]]] = True
    return out


def _by_class(labels: IntArray) -> list[IntArray]:
    """The positions of each class, in order."""
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    return np.split(order, starts[1:])
