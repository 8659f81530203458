"""Your own data: a folder of classes, a list of files, a table or arrays, to a `Dataset`.

Data are read once.  Their images are decoded into one file of uint8 in the cache folder, a table's
features written into one of float32, which is mapped and not loaded, so that a set may be larger
than memory.  Two keys lead there: what a path's files look like from outside (names, sizes, times),
or the content of what is in memory, for whoever has these; and the digest of their content, for
whoever has a run's config alone, such as the worker of a study.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from apl.data import near
from apl.data.cache import STATES, entries, outdated, remove, replaced, size_text, touch
from apl.data.dataset import Dataset, Split
from apl.data.depth import Pixels, told_range
from apl.data.folders import cache_folder
from apl.data.images import DECODING, DIGESTS, DONE, IMAGES, Progress, decode
from apl.data.kinds import list_data
from apl.data.labels import NO_LABEL
from apl.data.layouts import PUBLISHED
from apl.data.listing import (
    Listing,
    Order,
    Say,
    arrange,
    broken_line,
)
from apl.data.numbers import Cells
from apl.data.reading import AS_USUAL, Reading
from apl.data.tables import Recipe, row_digests, shown_lines, to_features
from apl.data.texts import NO_TEXT, numbered
from apl.errors import BadInput
from apl.files import naming, plain, table_bytes, write_atomic, write_parts
from apl.names import DATASETS, SIDE
from apl.noise.labels import UNKNOWN, IntArray, Labels
from apl.paths import user_path

FORMAT = 5  # of what lies in the cache, and of how it is decoded; another one is decoded anew
BLOCK = 1024  # rows at a time where all are read

TAKEN_OUT = "taken_out"  # images that lie in a file, while they are decoded
ABOUT, LABELS, NAMES, TEXTS = "about.json", "labels.npz", "names.json", "texts.json"
CELLS = "cells.jsonl"  # of a table as they were, to be looked at
BROKEN, COPIES, ACROSS = "broken.csv", "copies.csv", "copies_across.csv"
NEAR_COPIES = "near_copies.csv"


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

    The cache folder may be deleted at any time: what is wanted is decoded again.  It keeps the last
    states of a path that differ, since a run may still be asked about them.
    Raises BadInput for what can't be learned from.
    """
    path = user_path(path)
    listing = list_data(path, reading)
    if listing.columns is not None:
        reading = dataclasses.replace(reading, image_size=1)
    listing.name = listing.name or own_name(path)
    *how, text_column, side = dataclasses.astuple(dataclasses.replace(reading, max_broken=0))
    how += [] if side == SIDE else [side]
    how += [["text", text_column]] if text_column else []
    how += ["cells"] if listing.columns is not None else []
    asked = [FORMAT, listing.name, os.path.abspath(path), how]
    key = json.dumps([asked, listing.notes, listing.broken, listing.samples, *listing.votes])
    return cached(key, listing, str(path), reading, say, progress, json.dumps(asked))


def cached(
    key: str,
    listing: Listing,
    source: str,
    reading: Reading,
    say: Say,
    progress: Progress,
    origin: str = "",
) -> Dataset:
    """What is listed, from the folder of the cache that the key leads to, built there if it is
    not; `source` is what errors call it.  origin: the same for all states that this source may be
    in, '' where it is in one alone; older ones of the same content, and those beyond the last few,
    are removed and told."""
    import filelock

    folder = cache_folder() / "decoded" / hashlib.sha256(key.encode()).hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        say(f"another process decodes {listing.name}: waiting for it")
        lock.acquire()
    built = False
    try:
        about = _about(folder)
        if about is None or (listing.columns is not None and "encoding" not in about):
            with naming(folder):
                _build(folder, listing, source, reading, progress)
            about = json.loads((folder / ABOUT).read_text())
            about |= {"origin": origin, "path": os.path.abspath(source) if origin else ""}
            write_atomic(folder / ABOUT, json.dumps(about, indent=1).encode())
            built = True
    finally:
        lock.release()
    touch(folder)
    if built:
        count, size = remove(replaced(entries(), folder))
        if count:
            say(
                f"{listing.name} was decoded anew, as this release reads data in another way; what "
                f"an older one had decoded is removed, {size_text(size)}"
            )
    if built and origin:
        older = [entry for entry in entries() if entry.origin == origin]
        count, size = remove(entry for entry in outdated(older, STATES) if entry.folder != folder)
        if count:
            states = "an older state" if count == 1 else f"{count} older states"
            say(
                f"removed from the cache: {states} of {listing.name}, {size_text(size)} (apl cache)"
            )
    for note in about["notes"]:
        say(note)
    if about["broken"]:
        listed, broken = about["listed"], about["broken"] - about["unlabelled"]
        left = f"{about['broken_line']}; all of them in {folder / BROKEN}"
        if broken > max(1, reading.max_broken * listed):
            raise BadInput(
                f"{broken:,} of {listed:,} in {source} can't be used, more than "
                f"max_broken {reading.max_broken:g}: {left}"
            )
        say(left)
    _tell_copies(folder, about, listing, say)
    return _open(folder, about)


def _tell_copies(folder: Path, about: Mapping[str, Any], listing: Listing, say: Say) -> None:
    """Say which samples are copies of others, where that puts labels or a test in doubt."""
    if about["copies"]:
        what = (
            "rows are as others with another label, so wrong or not to be told apart"
            if listing.columns is not None
            else "images have a copy with another label, so wrong labels are among them"
        )
        say(f"{about['copies']:,} {what}: {folder / COPIES}")
    if about["across"]:
        kind = "images" if listing.texts is None else "texts"
        say(
            f"{about['across']:,} of {about['images'] - about['train']:,} test {kind} are copies "
            f"of training {kind}, so the accuracy says less than it seems: {folder / ACROSS}"
        )
    several, tested = about.get("near", 0), about.get("near_across", 0)
    if several or tested:
        parts = [
            f"{several:,} of another label, so wrong labels are among them" if several else "",
            f"{tested:,} test images of training images" if tested else "",
        ]
        say(
            "near copies (saved again, resized or cropped a little): "
            f"{'; '.join(filter(None, parts))}: {folder / NEAR_COPIES}"
        )


def own_name(path: Path) -> str:
    """What a data set of the user's is called: a single part of a path on every system, and none
    of the names that stand for a data set with settings of its own."""
    path = Path(os.path.abspath(path))
    name = path.name if path.is_dir() else path.stem
    if not path.is_dir() and path.with_suffix("").is_dir():  # X.csv beside X/ is another one
        name = path.name
    name = re.sub(r"[^\w.+=-]+", "-", name).lstrip(".-")[:60] or "data"
    return f"{name}-own" if name in (*DATASETS, *PUBLISHED) else name


def _build(
    folder: Path, listing: Listing, source: str, reading: Reading, progress: Progress
) -> None:
    """Decode what is listed and write down what it is; ABOUT is the last file, and says that all
    others are whole."""
    notes: list[str] = []
    said = {text for row in listing.votes for text in row} - {""}  # by the fewest, too
    classes = {*reading.classes, *said}
    order = _arranged(listing, source, notes.append, classes)
    same = _same_texts(listing, order)
    if same is not None:
        notes.clear()
        order = arrange(listing.samples, source, notes.append, classes, same)
    content = _write_content(folder, listing, order, reading, progress)
    rows = np.arange(len(order.chosen))  # where each sample lies in the files
    together, pairs = _copied(folder, listing, order, content)
    alike = _alike(listing, order, together)
    if alike is not None:
        notes = []
        apart = arrange(listing.samples, source, notes.append, classes, alike)
        at = np.empty(len(listing.samples), np.int64)
        at[order.chosen] = rows
        rows, order = at[apart.chosen], apart
    good = np.array([i not in content.problems for i in rows.tolist()], bool)
    if alike is not None or not good.all():
        _pick(folder, rows[good], len(rows), content.shape)
    named = zip(order.chosen, rows.tolist(), strict=True)
    unread = [(listing.samples[i].name, k) for i, k in named if k in content.problems]
    broken = listing.broken + [(name, content.problems[k]) for name, k in unread]
    _write_csv(folder / BROKEN, ("file_name", "problem"), broken)
    train = int(good[: order.train].sum())
    if listing.columns:
        write_parts(
            folder / CELLS, shown_lines(listing.columns, order.chosen[good].tolist(), train)
        )
    samples = [listing.samples[i] for i in order.chosen[good]]
    if train in (0, len(samples)):
        raise BadInput(f"no image of {source} can be read; {broken_line(broken)}")
    labels = Labels(order.given[good], order.true[good])
    votes = _votes(listing, order, order.chosen[good])
    images = {"alike": together[rows[good]]} if len(content.shape) > 1 else {}
    _write_labels(folder, labels, votes | images)
    names = [sample.name for sample in samples]
    write_atomic(folder / NAMES, json.dumps(names).encode())
    texts = listing.texts
    if texts is not None:
        write_atomic(folder / TEXTS, json.dumps([texts[i] for i in order.chosen[good]]).encode())
    digests = np.fromfile(folder / DIGESTS, np.uint8).reshape(-1, 32)
    words = [order.class_names[k] for k in labels.given]
    pairs = _placed(pairs, rows[good], len(rows))
    copies = _write_copies(folder, digests, pairs, names, words, train)
    copies["across"] *= listing.columns is None or texts is not None  # rows may be alike
    mean, std = moments(_map(folder / IMAGES, len(samples), content.shape)[:train])
    unlabelled = sum(why.startswith((NO_LABEL, NO_TEXT)) for _, why in broken)
    about = {
        "format": FORMAT,
        "name": listing.name,
        "root": os.path.abspath(listing.root) if samples[0].path else "",
        "digest": digest_of(order.class_names, train, labels, digests, *votes.values()),
        "annotators": list(listing.annotators),
        "shape": content.shape,
        "image_size": reading.image_size,
        "class_names": order.class_names,
        "images": len(samples),
        "train": train,
        "mean": mean,
        "std": std,
        "notes": [*listing.notes, *notes, *content.notes],
        "listed": len(order.chosen) + len(listing.broken) - unlabelled,
        "broken": len(broken),
        "unlabelled": unlabelled,
        "broken_line": broken_line(broken),
        **copies,
        **({} if texts is None else {"texts": listing.text_column}),
        "encoding": content.encoding,
    }
    write_atomic(folder / ABOUT, json.dumps(about, indent=1).encode())
    for leftover in (DECODING, DONE, ".*.tmp"):  # the last ones of a writing that was killed
        for file in folder.glob(leftover):
            file.unlink()


def _arranged(listing: Listing, source: str, say: Say, classes: Collection[str]) -> Order:
    """Which samples are for what; who is refused is told what was left out, perhaps the reason."""
    try:
        return arrange(listing.samples, source, say, classes)
    except BadInput as error:
        left = f"; {broken_line(listing.broken)}" if listing.broken else ""
        raise BadInput(f"{error}{left}") from None


def _write_labels(folder: Path, labels: Labels, more: Mapping[str, Any]) -> None:
    arrays = io.BytesIO()
    np.savez(arrays, given=labels.given, true=labels.true, **dict[str, Any](more))
    write_atomic(folder / LABELS, arrays.getvalue())


def _votes(listing: Listing, order: Order, chosen: IntArray) -> dict[str, IntArray]:
    """What annotators say of the samples at `chosen` as numbers of classes [N, A], by its name in
    the file; nothing where there are none."""
    if not listing.votes:
        return {}
    index = {label: k for k, label in enumerate(order.class_names)}
    rows = [[index.get(text, UNKNOWN) for text in listing.votes[i]] for i in chosen]
    return {"votes": np.array(rows, np.int64).reshape(len(rows), len(listing.annotators))}


def _placed(pairs: IntArray, samples: IntArray, count: int) -> IntArray:
    """Pairs of what was decoded, so many, by their places among the samples, -1 for what is none of
    these; samples: which of what was decoded each is."""
    place = np.full(count, -1)
    place[samples] = np.arange(len(samples))
    found: IntArray = place[pairs]
    return found


def _write_copies(
    folder: Path,
    digests: Pixels,
    pairs: IntArray,
    names: Sequence[str],
    labels: Sequence[str],
    train: int,
) -> dict[str, int]:
    """The lists of samples that have a copy with another label, and of those that have one on the
    other side of the split; how many the first are, and how many of the second are tested on, and
    the same of near copies, whose pairs are given."""
    several = list(near.members(_groups(digests)))
    conflicts = [same for same in several if len({labels[i] for i in same}) > 1]
    both = [same for same in several if same.min() < train <= same.max()]
    head = ("file_name", "label", "copies_of_one_sample")
    copies = [(names[i], labels[i], n) for n, same in enumerate(conflicts, 1) for i in same]
    _write_csv(folder / COPIES, head, copies)
    sides = [
        ("train" if i < train else "test", i, n) for n, same in enumerate(both, 1) for i in same
    ]
    across = [(names[i], labels[i], n, side) for side, i, n in sides]
    _write_csv(folder / ACROSS, (*head, "split"), across)
    differing, tested = _write_near(folder, pairs, names, labels, train)
    return {
        "copies": sum(map(len, conflicts)),
        "across": sum(int((same >= train).sum()) for same in both),
        "near": differing,
        "near_across": tested,
    }


def _write_near(
    folder: Path,
    pairs: IntArray,
    names: Sequence[str],
    labels: Sequence[str],
    train: int,
) -> tuple[int, int]:
    """The list of samples that have a near copy with another label, or one on the other side of
    the split; how many the first are, and how many of the second are tested on.

    pairs: by the places of the samples, -1 for what could not be read.
    """
    told = [
        (i, j)
        for i, j in pairs.tolist()
        if min(i, j) >= 0 and (labels[i] != labels[j] or (i < train) != (j < train))
    ]
    rows = [
        (names[i], labels[i], "train" if i < train else "test", n)
        for n, pair in enumerate(told, 1)
        for i in pair
    ]
    _write_csv(folder / NEAR_COPIES, ("file_name", "label", "split", "pair"), rows)
    several = {i for pair in told for i in pair if labels[pair[0]] != labels[pair[1]]}
    tested = {max(pair) for pair in told if min(pair) < train <= max(pair)}
    return len(several), len(tested)


@dataclass
class _Content:
    """What was written of the samples in their order: the shape of each, why some can't be read by
    their position, lines to tell, and how samples to come are brought into the same form."""

    shape: tuple[int, ...]
    problems: dict[int, str]
    notes: list[str]
    encoding: dict[str, Any]


def _write_content(
    folder: Path, listing: Listing, order: Order, reading: Reading, progress: Progress
) -> _Content:
    """Images or features to IMAGES and their digests to DIGESTS, in the order's order."""
    notes: list[str] = []
    if listing.columns is not None:
        shape, recipes = _write_features(folder, listing, listing.columns, order, notes.append)
        texts = {} if listing.texts is None else {"text_column": listing.text_column}
        return _Content(shape, {}, notes, {"columns": recipes, **texts})
    if listing.pixels is not None:
        _write_pixels(folder, listing.pixels, order.chosen)
        how = "as they are"
        shape, problems = listing.pixels.shape[1:], dict[int, str]()
        low, high = 0.0, 0.0
    else:
        with contextlib.ExitStack() as stack:
            if listing.pictures is None:
                paths = [listing.samples[i].path for i in order.chosen]
            else:
                inside = listing.pictures.taken_out(folder / TAKEN_OUT, order.chosen)
                paths = stack.enter_context(inside)
            plan, problems = decode(folder, paths, reading, progress)
        how = "as they are" if plan.exact else "the shorter side resized, the middle cut out"
        shape, notes = plan.shape, told_range(plan.low, plan.high)
        low, high = plan.low, plan.high
    size = " x ".join(map(str, shape))
    told = [f"{listing.name}: {size} pixels, {how}", *notes]
    return _Content(shape, problems, told, {"range": [low, high]})


def _same_texts(listing: Listing, order: Order) -> IntArray | None:
    """As `_alike` for texts, copies whatever stands beside them; it is asked before anything is
    written, since the other columns' usual values are those of the training rows."""
    if listing.texts is None or not order.ours:
        return None
    same = numbered(listing.texts)
    trained, tested = np.split(same[order.chosen], [order.train])
    return same if np.intersect1d(trained, tested).size else None


def _copied(
    folder: Path, listing: Listing, order: Order, content: _Content
) -> tuple[IntArray, IntArray]:
    """Of what was decoded: a number for each [N], the same one for copies and near copies, and the
    pairs [P, 2] of near copies that are no copies; none of both for rows and texts, which may be
    alike."""
    count = len(order.chosen)
    if len(content.shape) == 1:
        return np.arange(count), np.empty((0, 2), np.int64)
    group = _groups(np.fromfile(folder / DIGESTS, np.uint8).reshape(-1, 32))
    unread = list(content.problems)
    group[unread] = len(group) + np.arange(len(unread))
    if count > near.MOST:
        content.notes.append(f"near copies are not looked for among more than {near.MOST:,} images")
        return group, np.empty((0, 2), np.int64)
    pairs = near.near_pairs(_map(folder / IMAGES, count, content.shape))
    pairs = pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]
    return near.grouped(pairs, group), pairs


def _alike(listing: Listing, order: Order, group: IntArray) -> IntArray | None:
    """A number for each listed sample, the same one for those of a group, where some would lie on
    both sides of a split of ours; None where none do."""
    if not order.ours or not np.intersect1d(group[: order.train], group[order.train :]).size:
        return None
    alike = -1 - np.arange(len(listing.samples))
    alike[order.chosen] = group
    return alike


def _write_features(
    folder: Path, listing: Listing, columns: Mapping[str, Cells], order: Order, say: Say
) -> tuple[tuple[int, ...], list[Recipe]]:
    """The features of a table's rows and their digests to the cache; the shape of a row, and by
    which recipes the columns became them."""
    features, recipes = to_features(
        columns,
        order.chosen,
        order.train,
        listing.name,
        say,
        decimal=listing.decimal,
        class_names=order.class_names,
    )
    if not features and listing.texts is None:
        raise BadInput(
            f"{listing.name} has no column that anything can be learned from "
            "(--text-column NAME: one of texts)"
        )
    starts = range(0, len(order.chosen), BLOCK) if features else ()
    blocks = (np.stack([feature[k : k + BLOCK] for feature in features], 1) for k in starts)
    write_parts(folder / IMAGES, (block.data for block in blocks))
    write_atomic(folder / DIGESTS, row_digests(listing.cells)[order.chosen].tobytes())
    return (len(features),), recipes


def _write_pixels(folder: Path, pixels: Pixels, chosen: IntArray) -> None:
    """The images of an array and their digests to the cache."""
    digests = b"".join(hashlib.sha256(pixels[i].data).digest() for i in chosen)
    write_parts(folder / IMAGES, (pixels[i].data for i in chosen))
    write_atomic(folder / DIGESTS, digests)


def _pick(folder: Path, rows: IntArray, count: int, shape: Sequence[int]) -> None:
    """Have these rows alone, in this order, in the files of `count` images, by way of a copy."""
    for name, row in ((DIGESTS, (32,)), (IMAGES, tuple(shape))):
        write_parts(folder / name, _rows_of(folder / name, rows, (count, *row)))


def _rows_of(path: Path, rows: IntArray, shape: Sequence[int]) -> Iterator[memoryview]:
    content = np.memmap(path, np.uint8, "r", shape=tuple(shape))
    for start in range(0, len(rows), BLOCK):
        yield content[rows[start : start + BLOCK]].data


def _groups(digests: Pixels) -> IntArray:
    """A number for each image, the same one for copies."""
    _, group = np.unique(digests.view("V32").reshape(-1), return_inverse=True)
    return group.reshape(-1).astype(np.int64)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    write_atomic(path, table_bytes(columns, ([plain(str(cell)) for cell in row] for row in rows)))


def digest_of(
    class_names: Sequence[str], train: int, labels: Labels, digests: Pixels, *votes: IntArray
) -> str:
    """The sha256 of a data set: its classes, labels and split, the digest of each image, and what
    several annotators say; not of the names of its files or where they lie."""
    digest = hashlib.sha256(json.dumps([list(class_names), train]).encode())
    numbers = [part.astype("<i8") for part in (labels.given, labels.true, *votes)]
    for part in (*numbers[:2], digests, *numbers[2:]):
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
    if not math.prod(shape):  # of texts with nothing beside them: no file of no bytes is mapped
        return np.zeros((count, *shape), kind)
    mapped: npt.NDArray[Any] = np.memmap(path, kind, "c", shape=(count, *shape))
    return mapped


def _about(folder: Path) -> dict[str, Any] | None:
    """What a folder of the cache holds, None where it holds no whole data set."""
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
        shape = about["shape"]
        size = (folder / IMAGES).stat().st_size
        others = (LABELS, NAMES, TEXTS) if "texts" in about else (LABELS, NAMES)
        files = [(folder / name).is_file() for name in others]
        item = 4 if len(shape) == 1 else 1  # bytes
        whole = size == about["images"] * math.prod(shape) * item and all(files)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return about if whole else None


def _open(folder: Path, about: Mapping[str, Any]) -> Dataset:
    """The data set that was decoded into a folder of the cache."""
    with np.load(folder / LABELS) as file:
        given, true = file["given"], file["true"]
        votes = file["votes"] if "votes" in file.files else None
        alike = file["alike"] if "alike" in file.files else None
    names = tuple(json.loads((folder / NAMES).read_text()))
    texts: tuple[str, ...] = ()
    if "texts" in about:
        texts = tuple(json.loads((folder / TEXTS).read_text()))
    images = torch.from_numpy(_map(folder / IMAGES, len(given), about["shape"]))
    at = about["train"]
    train, test = (
        Split(
            images[part],
            Labels(given[part], true[part]),
            names[part],
            texts[part],
            votes=None if votes is None else votes[part],
            alike=None if alike is None else alike[part],
        )
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
        contents=np.fromfile(folder / DIGESTS, np.uint8).reshape(-1, 32),
        encoding=about.get("encoding", {}),
        annotators=tuple(about.get("annotators", ())),
        cells=str(folder / CELLS) if (folder / CELLS).is_file() else "",
    )


def find_decoded(digest: str, image_size: int) -> Dataset | None:
    """The data set of this digest and size (1 of a table), if this machine has decoded it."""
    for folder in sorted((cache_folder() / "decoded").glob("*/")):
        about = _about(folder)
        if about and about["digest"] == digest:
            size = 1 if len(about["shape"]) == 1 else about["shape"][0]
            if size == image_size:
                touch(folder)
                return _open(folder, about)
    return None
