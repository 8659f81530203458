"""Your own data: a folder of classes, a list of files, a table or arrays, to a `Dataset`.

Data are read once.  Their images are decoded into one file of uint8 in the cache folder, a table's
features written into one of float32, which is mapped and not loaded, so that a set may be larger
than memory.  Two keys lead there: what a path's files look like from outside (names, sizes, times),
or the content of what is in memory, for whoever has these; and the digest of their content, for
whoever has a run's config alone, such as the worker of a study.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from apl.data.dataset import Dataset, Split
from apl.data.folders import cache_folder
from apl.data.images import (
    DECODING,
    DIGESTS,
    DONE,
    GREY,
    IMAGES,
    Broken,
    Misfit,
    Plan,
    Progress,
    decode,
    plan_of,
    to_pixels,
    wider,
)
from apl.data.layouts import PUBLISHED, list_layout
from apl.data.listing import (
    Listing,
    Order,
    Pixels,
    Sample,
    Say,
    arrange,
    as_pixels,
    as_text,
    as_texts,
    broken_line,
    check_labels,
    list_path,
)
from apl.data.reading import AS_USUAL, Reading
from apl.data.tables import Cells, row_digests, to_columns, to_features
from apl.errors import BadInput, require
from apl.files import plain, table_bytes, write_atomic, write_parts
from apl.names import DATASETS
from apl.noise.labels import IntArray, Labels

FORMAT = 2  # of what lies in the cache, and of how it is decoded; another one is decoded anew
BLOCK = 1024  # rows at a time where all are read

ABOUT, LABELS, NAMES = "about.json", "labels.npz", "names.json"
BROKEN, COPIES = "broken.csv", "copies.csv"


def read_path(
    path: str | Path,
    reading: Reading = AS_USUAL,
    say: Say = print,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """The data set at a path, decoded into the cache folder where it is not there yet.

    path: a folder of classes, ROOT/CLASS/x.png or ROOT/SPLIT/CLASS/x.png; a list of files (.csv,
    .tsv, .jsonl, .json, .parquet: `apl.data.rows`) with the columns file_name, label and, where it
    has them, split and clean_label; such a list without file_name, which is a table of numbers and
    words (`apl.data.tables`); or arrays of images or a table, an .npz, or .npy files beside each
    other, called images and labels, x_train and y_train and so on; or a published data set as its
    authors lay it out (`apl.data.layouts`).

    The cache folder may be deleted at any time: what is wanted is decoded again.  It keeps every
    state that a path was in, since a run may still be asked about it.
    Raises BadInput for what can't be learned from.
    """
    path = Path(path).expanduser()
    listing = list_layout(path, reading.test_set) or list_path(path, reading.label_column)
    listing.broken.sort()
    image_size = reading.image_size
    if listing.columns is not None:
        only = f"0 or 1 for {path}, a table"
        require(image_size in (0, 1), "image_size", image_size, only)
        reading = dataclasses.replace(reading, image_size=1)
    elif listing.pixels is None:
        # By name, so that neither the disk's order nor the list's decides what is held out; by that
        # of the file first, so that files which are numbered throughout come as they are.
        listing.samples.sort(key=lambda sample: (sample.name.rpartition("/")[2], sample))
    elif image_size not in (0, listing.pixels.shape[1]):
        raise BadInput(
            f"image_size is {image_size}, but {path} holds arrays of height "
            f"{listing.pixels.shape[1]}, which are taken as they are: leave it out"
        )
    listing.name = listing.name or own_name(path)
    place, column = os.path.abspath(path), reading.label_column
    asked = [FORMAT, listing.name, place, reading.image_size, column, listing.notes]
    key = json.dumps([asked, listing.broken, listing.samples])
    return _cached(key, listing, str(path), reading, say, progress)


def _cached(
    key: str, listing: Listing, source: str, reading: Reading, say: Say, progress: Progress
) -> Dataset:
    """What is listed, from the folder of the cache that the key leads to, built there if it is
    not; `source` is what errors call it."""
    import filelock

    folder = cache_folder() / "decoded" / hashlib.sha256(key.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        say(f"another process decodes {listing.name}: waiting for it")
        lock.acquire()
    try:
        about = _about(folder)
        if about is None:
            _build(folder, listing, source, reading.image_size, progress)
            about = json.loads((folder / ABOUT).read_text())
    finally:
        lock.release()
    for note in about["notes"]:
        say(note)
    if about["broken"]:
        listed = about["listed"]
        left = f"{about['broken_line']}; all of them in {folder / BROKEN}"
        if about["broken"] > max(1, reading.max_broken * listed):
            raise BadInput(
                f"{about['broken']:,} of {listed:,} in {source} can't be used, more than "
                f"max_broken {reading.max_broken:g}: {left}"
            )
        say(left)
    if about["copies"]:
        what = (
            "rows are as others with another label, so wrong or not to be told apart"
            if listing.columns is not None
            else "images have a copy with another label, so wrong labels are among them"
        )
        say(f"{about['copies']:,} {what}: {folder / COPIES}")
    return _open(folder, about)


def own_name(path: Path) -> str:
    """What a data set of the user's is called: a single part of a path on every system, and none
    of the names that stand for a data set with settings of its own."""
    path = Path(os.path.abspath(path))
    name = path.name if path.is_dir() else path.stem
    name = re.sub(r"[^\w.+=-]+", "-", name).lstrip(".-")[:60] or "data"
    return f"{name}-own" if name in (*DATASETS, *PUBLISHED) else name


def _build(
    folder: Path, listing: Listing, source: str, image_size: int, progress: Progress
) -> None:
    """Decode what is listed and write down what it is; ABOUT is the last file, and says that all
    others are whole."""
    notes, samples = list(listing.notes), listing.samples
    order = arrange(
        [sample.given for sample in samples],
        [sample.true for sample in samples],
        [sample.split for sample in samples],
        source,
        notes.append,
    )
    samples = [samples[i] for i in order.chosen]
    problems: dict[int, str] = {}
    shape: tuple[int, ...]
    if listing.columns is not None:
        shape = _write_features(folder, listing, listing.columns, order, notes.append)
    elif listing.pixels is not None:
        shape = listing.pixels.shape[1:]
        _write_pixels(folder, listing.pixels, order.chosen)
        notes.append(f"{listing.name}: {shape[0]} x {shape[1]} x {shape[2]} pixels, as they are")
    else:
        plan, problems = decode(folder, [sample.path for sample in samples], image_size, progress)
        shape = plan.shape
        how = "as they are" if plan.exact else "the shorter side resized, the middle cut out"
        notes.append(f"{listing.name}: {shape[0]} x {shape[1]} x {shape[2]} pixels, {how}")
    good = np.ones(len(samples), bool)
    good[list(problems)] = False
    train = int(good[: order.train].sum())
    if len(problems):
        _drop(folder, good, shape)
    broken = listing.broken + [(samples[i].name, problems[i]) for i in sorted(problems)]
    samples = [sample for sample, kept in zip(samples, good, strict=True) if kept]
    _write_csv(folder / BROKEN, ("file_name", "problem"), broken)
    if train in (0, len(samples)):
        raise BadInput(f"no image of {source} can be read; {broken_line(broken)}")
    given, true = order.given[good], order.true[good]
    digests = np.fromfile(folder / DIGESTS, np.uint8).reshape(-1, 32)
    copies = _copies(digests, given)
    copied = [(samples[i].name, order.class_names[given[i]], group) for group, i in copies]
    _write_csv(folder / COPIES, ("file_name", "label", "copies_of_one_sample"), copied)
    arrays = io.BytesIO()
    np.savez(arrays, given=given, true=true)
    write_atomic(folder / LABELS, arrays.getvalue())
    write_atomic(folder / NAMES, json.dumps([sample.name for sample in samples]).encode())
    mean, std = moments(_map(folder / IMAGES, len(samples), shape)[:train])
    about = {
        "name": listing.name,
        "root": os.path.abspath(listing.root) if samples[0].path else "",
        "digest": digest_of(order.class_names, train, given, true, digests),
        "shape": shape,
        "image_size": image_size,
        "class_names": order.class_names,
        "images": len(samples),
        "train": train,
        "mean": mean,
        "std": std,
        "notes": notes,
        "listed": len(listing.samples) + len(listing.broken),
        "broken": len(broken),
        "broken_line": broken_line(broken),
        "copies": len(copies),
    }
    write_atomic(folder / ABOUT, json.dumps(about, indent=1).encode())
    for leftover in (DECODING, DONE, ".*.tmp"):  # the last ones of a writing that was killed
        for file in folder.glob(leftover):
            file.unlink()


def _write_features(
    folder: Path, listing: Listing, columns: Mapping[str, Cells], order: Order, say: Say
) -> tuple[int, ...]:
    """The features of a table's rows and their digests to the cache; the shape of a row."""
    features = to_features(
        columns,
        order.chosen,
        order.train,
        listing.name,
        say,
        decimal=listing.decimal,
        class_names=order.class_names,
    )
    starts = range(0, len(order.chosen), BLOCK)
    blocks = (np.stack([feature[k : k + BLOCK] for feature in features], 1) for k in starts)
    write_parts(folder / IMAGES, (block.data for block in blocks))
    write_atomic(folder / DIGESTS, row_digests(columns)[order.chosen].tobytes())
    return (len(features),)


def _write_pixels(folder: Path, pixels: Pixels, chosen: IntArray) -> None:
    """The images of an array and their digests to the cache."""
    digests = b"".join(hashlib.sha256(pixels[i].data).digest() for i in chosen)
    write_parts(folder / IMAGES, (pixels[i].data for i in chosen))
    write_atomic(folder / DIGESTS, digests)


def _drop(folder: Path, good: npt.NDArray[np.bool_], shape: Sequence[int]) -> None:
    """Leave the rows of broken images out of the files, by way of a copy."""
    for name, row in ((DIGESTS, (32,)), (IMAGES, tuple(shape))):
        write_parts(folder / name, _good_rows(folder / name, good, row))


def _good_rows(path: Path, good: npt.NDArray[np.bool_], row: Sequence[int]) -> Iterator[memoryview]:
    rows = np.memmap(path, np.uint8, "r", shape=(len(good), *row))
    for start in range(0, len(good), BLOCK):
        yield rows[start : start + BLOCK][good[start : start + BLOCK]].data


def _copies(digests: Pixels, given: IntArray) -> list[tuple[int, int]]:
    """The images that have a copy with another label, as (group, position)."""
    _, group = np.unique(digests.view("V32").reshape(-1), return_inverse=True)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    conflicts = [same for same in members if len(same) > 1 and len(set(given[same].tolist())) > 1]
    return [(number, int(i)) for number, same in enumerate(conflicts, 1) for i in same]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    write_atomic(path, table_bytes(columns, ([plain(str(cell)) for cell in row] for row in rows)))


def digest_of(
    class_names: Sequence[str], train: int, given: IntArray, true: IntArray, digests: Pixels
) -> str:
    """The sha256 of a data set: its classes, labels and split, and the digest of each image; not
    of the names of its files or where they lie."""
    digest = hashlib.sha256(json.dumps([list(class_names), train]).encode())
    for part in (given.astype("<i8"), true.astype("<i8"), digests):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def moments(images: npt.NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of pixels [N, H, W, C] in [0, 1], a channel, to four digits as those of the
    built-in sets are; a std of 0 is given as 1.  Of a table none."""
    if images.ndim == 2:
        return (), ()
    counts = np.zeros((images.shape[3], 256), np.int64)
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        for channel in range(images.shape[3]):
            counts[channel] += np.bincount(block[..., channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    std = np.sqrt((counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1)).round(4)
    std[std == 0] = 1.0
    return tuple(map(float, mean.round(4))), tuple(map(float, std))


def _map(path: Path, count: int, shape: Sequence[int]) -> npt.NDArray[Any]:
    """The file of images [N, H, W, C], or of a table's features [N, F]."""
    # 'c', copy on write: torch warns of memory that it may not write to.
    kind = np.float32 if len(shape) == 1 else np.uint8
    mapped: npt.NDArray[Any] = np.memmap(path, kind, "c", shape=(count, *shape))
    return mapped


def _about(folder: Path) -> dict[str, Any] | None:
    """What a folder of the cache holds, None where it holds no whole data set."""
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
        shape = about["shape"]
        size = (folder / IMAGES).stat().st_size
        files = [(folder / name).is_file() for name in (LABELS, NAMES)]
        item = 4 if len(shape) == 1 else 1  # bytes
        whole = size == about["images"] * math.prod(shape) * item and all(files)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return about if whole else None


def _open(folder: Path, about: Mapping[str, Any]) -> Dataset:
    """The data set that was decoded into a folder of the cache."""
    with np.load(folder / LABELS) as file:
        given, true = file["given"], file["true"]
    names = tuple(json.loads((folder / NAMES).read_text()))
    images = torch.from_numpy(_map(folder / IMAGES, len(given), about["shape"]))
    at = about["train"]
    train, test = (
        Split(images[part], Labels(given[part], true[part]), names[part])
        for part in (slice(None, at), slice(at, None))
    )
    return Dataset(
        about["name"],
        tuple(about["class_names"]),
        train,
        test,
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        digest=about["digest"],
        root=about["root"],
    )


def find_decoded(digest: str, image_size: int) -> Dataset | None:
    """The data set of this digest and size (1 of a table), if this machine has decoded it."""
    for folder in sorted((cache_folder() / "decoded").glob("*/")):
        about = _about(folder)
        if about and about["digest"] == digest:
            size = 1 if len(about["shape"]) == 1 else about["shape"][0]
            if size == image_size:
                return _open(folder, about)
    return None


# ------------------------------------------------------------------------------------- in memory


def from_arrays(name: str, inputs: Any, labels: Any, say: Say = print) -> Dataset:
    """A data set of arrays: images [N, H, W] or [N, H, W, C], or a table [N, F], an array or a
    pandas DataFrame; labels [N], numbers or words."""
    given = as_texts(labels)
    found = Listing(Path())
    if not hasattr(inputs, "columns"):
        inputs = np.asarray(inputs)
    if inputs.ndim == 2:
        found.columns = to_columns(inputs)
    else:
        inputs = found.pixels = as_pixels(inputs, name)
    if len(inputs) != len(given):
        raise BadInput(f"{name} has {len(inputs)} images but {len(given)} labels")
    return _in_memory(name, found, given, say)


def from_torch(
    name: str,
    dataset: Any,
    image_size: int = 0,
    say: Say = print,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """A data set of a torch Dataset, whose items are (input, label): an image of Pillow's, an
    array [H, W, C], or a tensor [C, H, W], of 0 to 255 in uint8 or of 0 to 1; or the numbers [F] of
    a table's row.  Where it has `classes`, these name the classes.

    Its items are read one by one into a file in the cache folder.
    """
    from PIL import Image

    count = len(dataset)
    if not count:
        raise BadInput(f"{name} is empty")
    classes = getattr(dataset, "classes", None)
    cache = cache_folder() / "decoded"
    cache.mkdir(parents=True, exist_ok=True)
    plan: Plan | None = None
    while True:
        given, shape, kind = [], (), np.dtype(np.uint8)
        # On most systems it has no name: nothing is left of it where this process is killed.
        with tempfile.TemporaryFile(dir=cache) as file:
            try:
                for i in range(count):
                    picture, label = _pair(dataset[i], name)
                    if isinstance(picture, Image.Image):
                        grey = picture.mode in GREY
                        plan = plan or plan_of({picture.size}, grey, image_size)
                        row = to_pixels(picture, plan)
                    else:
                        row = _to_row(picture, name)
                    if shape and row.shape != shape:
                        raise BadInput(
                            f"the items of {name} differ in shape ({list(shape)} and "
                            f"{list(row.shape)}): resize them to one"
                        )
                    shape, kind = row.shape, row.dtype
                    file.write(row.tobytes())
                    given.append(as_text(label) if classes is None else str(classes[int(label)]))
                    progress(i + 1, count)
            except Misfit as misfit:  # what the first images had in common, this one has not
                assert plan is not None
                plan = wider(plan, str(misfit), image_size)
                continue
            except Broken as error:
                raise BadInput(f"{name} has an image with {error}") from None
            file.flush()
            rows: npt.NDArray[Any] = np.memmap(file, kind, "r", shape=(count, *shape))
            found = Listing(Path())
            if rows.ndim == 2:
                found.columns = to_columns(rows)
            else:
                found.pixels = rows
            return _in_memory(name, found, given, say)


def _pair(item: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise BadInput(
            f"the items of {name} are of type {type(item).__name__}; accepted: (input, label)"
        )
    picture, label = item
    return picture, label.item() if hasattr(label, "item") else label


def _to_row(picture: Any, name: str) -> npt.NDArray[Any]:
    """An item's pixels uint8 [H, W, C], or numbers float64 [F], of an array or a tensor."""
    array = np.asarray(picture)
    if array.ndim == 1:
        return array.astype(np.float64)
    if not isinstance(picture, np.ndarray) and array.ndim == 3:
        array = array.transpose(1, 2, 0)  # torch's tensors have their channels first
    pixels: Pixels = as_pixels(array[None], name)[0]
    return pixels


def _in_memory(name: str, found: Listing, given: Sequence[str], say: Say) -> Dataset:
    """What is in memory, by way of the cache folder, where the workers of a study find it."""
    check_labels(given, name)
    found.name = name
    found.samples = [Sample(str(i), "", label, "", "", (0, 0)) for i, label in enumerate(given)]
    shape: Sequence[Any]
    content: Any
    if found.columns is not None:
        content, shape = row_digests(found.columns).tobytes(), list(found.columns)
    else:
        assert found.pixels is not None
        content, shape = found.pixels.data, found.pixels.shape
    asked = [FORMAT, name, list(given), shape, hashlib.sha256(content).hexdigest()]
    whole = Reading(max_broken=0.0)
    return _cached(json.dumps(asked), found, name, whole, say, lambda done, total: None)
