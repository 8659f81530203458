"""Your own data: a folder of classes, a list of files or arrays, to a `Dataset`.

A path is read once.  Its images are decoded into one file of uint8 in the cache folder, which is
mapped and not loaded, so that a set may be larger than memory.  Two keys lead there: what the
files look like from outside (names, sizes, times), for whoever has the path; and the digest of
their content, for whoever has a run's config alone, such as the worker of a study.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from apl.data.dataset import Dataset, Split
from apl.data.images import (
    DECODING,
    DIGESTS,
    DONE,
    GREY,
    IMAGES,
    Broken,
    Progress,
    decode,
    plan_of,
    to_pixels,
    write_whole,
)
from apl.data.listing import (
    Listing,
    Pixels,
    Say,
    arrange,
    as_pixels,
    as_text,
    as_texts,
    broken_line,
    check_labels,
    list_path,
)
from apl.errors import BadInput
from apl.machine import cache_folder
from apl.noise import IntArray, Labels
from apl.presets import DATASETS

FORMAT = 1  # of what lies in the cache, and of how it is decoded; another one is decoded anew
BLOCK = 1024  # rows at a time where all are read

ABOUT, LABELS, NAMES = "about.json", "labels.npz", "names.json"
BROKEN, COPIES = "broken.csv", "copies.csv"


def read_path(
    path: str | Path,
    *,
    image_size: int = 0,
    label_column: str = "label",
    max_broken: float = 0.01,
    say: Say = print,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """The data set at a path, decoded into the cache folder where it is not there yet.

    path: a folder of classes, ROOT/CLASS/x.png or ROOT/SPLIT/CLASS/x.png; a list of files (.csv,
    .tsv, .jsonl, .parquet) with the columns file_name, label and, where it has them, split and
    clean_label; or an .npz with images and labels.  image_size: pixels a side; 0 for the images'
    own where all are square, of one size and of at most 64 pixels, else 64.  label_column: the
    column of a list with the labels.  max_broken: the share of the files that may be left out
    because they can't be read; a single one always may.

    The cache folder may be deleted at any time: what is wanted is decoded again.  It keeps every
    state that a path was in, since a run may still be asked about it.
    Raises BadInput for what can't be learned from.
    """
    import filelock

    path = Path(path).expanduser()
    if image_size < 0 or image_size > 1024:
        raise BadInput(f"image_size is {image_size}; accepted: 1 to 1024, or 0 for the data's own")
    listing = list_path(path, label_column)
    listing.broken.sort()
    if listing.pixels is None:
        # By name, so that neither the disk's order nor the list's decides what is held out.
        listing.samples.sort()
    elif image_size not in (0, listing.pixels.shape[1]):
        raise BadInput(
            f"image_size is {image_size}, but {path} holds arrays of height "
            f"{listing.pixels.shape[1]}, which are taken as they are: leave it out"
        )
    name = own_name(path)
    asked = [FORMAT, name, os.path.abspath(path), image_size, label_column, listing.notes]
    key = hashlib.sha256(json.dumps([asked, listing.broken, listing.samples]).encode())
    folder = cache_folder() / "decoded" / key.hexdigest()[:32]
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        say(f"another process decodes {name}: waiting for it")
        lock.acquire()
    try:
        about = _about(folder)
        if about is None:
            _build(folder, listing, name, path, image_size, progress)
            about = json.loads((folder / ABOUT).read_text())
    finally:
        lock.release()
    for note in about["notes"]:
        say(note)
    if about["broken"]:
        listed = about["listed"]
        left = f"{about['broken_line']}; all of them in {folder / BROKEN}"
        if about["broken"] > max(1, max_broken * listed):
            raise BadInput(
                f"{about['broken']:,} of {listed:,} in {path} can't be used, more than max_broken "
                f"{max_broken:g}: {left}"
            )
        say(left)
    if about["copies"]:
        say(
            f"{about['copies']:,} images have a copy with another label, so wrong labels are among "
            f"them: {folder / COPIES}"
        )
    return _open(folder, about)


def own_name(path: Path) -> str:
    """What a data set of the user's is called: a single part of a path on every system, and none
    of the built-in names."""
    path = Path(os.path.abspath(path))
    name = path.name if path.is_dir() else path.stem
    name = re.sub(r"[^\w.+=-]+", "-", name).lstrip(".-")[:60] or "data"
    return f"{name}-own" if name in DATASETS else name


def _build(
    folder: Path, listing: Listing, name: str, path: Path, image_size: int, progress: Progress
) -> None:
    """Decode what is listed and write down what it is; ABOUT is the last file, and says that all
    others are whole."""
    notes = list(listing.notes)
    samples = listing.samples
    order = arrange(
        [sample.given for sample in samples],
        [sample.true for sample in samples],
        [sample.split for sample in samples],
        str(path),
        notes.append,
    )
    samples = [samples[i] for i in order.chosen]
    problems: dict[int, str] = {}
    if listing.pixels is None:
        plan, problems = decode(folder, [sample.path for sample in samples], image_size, progress)
        shape = plan.shape
        how = "as they are" if plan.exact else "the shorter side resized, the middle cut out"
        notes.append(f"{name}: {shape[0]} x {shape[1]} x {shape[2]} pixels, {how}")
    else:
        shape = listing.pixels.shape[1:]
        with open(folder / IMAGES, "wb") as images, open(folder / DIGESTS, "wb") as sums:
            for i in order.chosen:
                images.write(listing.pixels[i].data)
                sums.write(hashlib.sha256(listing.pixels[i].data).digest())
    good = np.ones(len(samples), bool)
    good[list(problems)] = False
    train = int(good[: order.train].sum())
    if len(problems):
        _drop(folder, good, shape)
    broken = [*listing.broken, *((samples[i].name, problems[i]) for i in sorted(problems))]
    samples = [sample for sample, kept in zip(samples, good, strict=True) if kept]
    _table(folder / BROKEN, ("file_name", "problem"), broken)
    if train in (0, len(samples)):
        raise BadInput(f"no image of {path} can be read; {broken_line(broken)}")
    given, true = order.given[good], order.true[good]
    digests = np.fromfile(folder / DIGESTS, np.uint8).reshape(-1, 32)
    copies = _copies(digests, given)
    rows = ((samples[i].name, order.class_names[given[i]], group) for group, i in copies)
    _table(folder / COPIES, ("file_name", "label", "copies_of_one_image"), rows)
    arrays = io.BytesIO()
    np.savez(arrays, given=given, true=true)
    write_whole(folder / LABELS, arrays.getvalue())
    write_whole(folder / NAMES, json.dumps([sample.name for sample in samples]).encode())
    mean, std = moments(_map(folder / IMAGES, len(samples), shape)[:train])
    about = {
        "name": name,
        "root": os.path.abspath(listing.root),
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
    write_whole(folder / ABOUT, json.dumps(about, indent=1).encode())
    for leftover in (DECODING, DONE):
        (folder / leftover).unlink(missing_ok=True)


def _drop(folder: Path, good: npt.NDArray[np.bool_], shape: Sequence[int]) -> None:
    """Leave the rows of broken images out of the files, by way of a copy."""
    for name, row in ((DIGESTS, (32,)), (IMAGES, tuple(shape))):
        rows = np.memmap(folder / name, np.uint8, "r", shape=(len(good), *row))
        aside = folder / f"{name}.tmp"
        with open(aside, "wb") as file:
            for start in range(0, len(good), BLOCK):
                file.write(rows[start : start + BLOCK][good[start : start + BLOCK]].data)
        del rows
        os.replace(aside, folder / name)


def _copies(digests: Pixels, given: IntArray) -> list[tuple[int, int]]:
    """The images that have a copy with another label, as (group, position)."""
    _, group = np.unique(digests.view("V32").reshape(-1), return_inverse=True)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    conflicts = [same for same in members if len(same) > 1 and len(set(given[same].tolist())) > 1]
    return [(number, int(i)) for number, same in enumerate(conflicts, 1) for i in same]


def _table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def digest_of(
    class_names: Sequence[str], train: int, given: IntArray, true: IntArray, digests: Pixels
) -> str:
    """The sha256 of a data set: its classes, labels and split, and the digest of each image; not
    of the names of its files or where they lie."""
    digest = hashlib.sha256(json.dumps([list(class_names), train]).encode())
    for part in (given.astype("<i8"), true.astype("<i8"), digests):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def moments(images: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of pixels [N, H, W, C] in [0, 1], a channel; a std of 0 is given as 1."""
    counts = np.zeros((images.shape[3], 256), np.int64)
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        for channel in range(images.shape[3]):
            counts[channel] += np.bincount(block[..., channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    mean = counts @ values / counts.sum(1)
    std = np.sqrt((counts * (values - mean[:, None]) ** 2).sum(1) / counts.sum(1))
    std[std == 0] = 1.0
    return tuple(map(float, mean)), tuple(map(float, std))


def _map(path: Path, count: int, shape: Sequence[int]) -> Pixels:
    # 'c', copy on write: torch warns of memory that it may not write to.
    mapped: Pixels = np.memmap(path, np.uint8, "c", shape=(count, *shape))
    return mapped


def _about(folder: Path) -> dict[str, Any] | None:
    """What a folder of the cache holds, None where it holds no whole data set."""
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
        height, width, channels = about["shape"]
        size = (folder / IMAGES).stat().st_size
        files = [(folder / name).is_file() for name in (LABELS, NAMES)]
        whole = size == about["images"] * height * width * channels and all(files)
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
        *(train, test, tuple(about["mean"]), tuple(about["std"])),
        digest=about["digest"],
        root=about["root"],
    )


def find_decoded(digest: str, image_size: int) -> Dataset | None:
    """The data set of this digest and size, if it has been decoded on this machine."""
    for folder in sorted((cache_folder() / "decoded").glob("*/")):
        about = _about(folder)
        if about and (about["digest"], about["shape"][0]) == (digest, image_size):
            return _open(folder, about)
    return None


# ------------------------------------------------------------------------------------- in memory


def from_arrays(name: str, images: Any, labels: Any, say: Say = print) -> Dataset:
    """A data set of arrays: images [N, H, W] or [N, H, W, C], labels [N], numbers or words."""
    pixels, given = as_pixels(images, name), as_texts(labels)
    if len(pixels) != len(given):
        raise BadInput(f"{name} has {len(pixels)} images but {len(given)} labels")
    return _in_memory(name, pixels, given, say)


def from_torch(name: str, dataset: Any, image_size: int = 0, say: Say = print) -> Dataset:
    """A data set of a torch Dataset, whose items are (image, label): an image of Pillow's, an
    array [H, W, C], or a tensor [C, H, W], of 0 to 255 in uint8 or of 0 to 1.  Its images are held
    in memory; where its labels are words, or it has `classes`, these name the classes."""
    from PIL import Image

    items = [dataset[i] for i in range(len(dataset))]
    if not items:
        raise BadInput(f"{name} is empty")
    pictures = [item[0] for item in items]
    classes = getattr(dataset, "classes", None)
    given = [
        str(classes[int(item[1])]) if classes is not None else as_text(_scalar(item[1]))
        for item in items
    ]
    if all(isinstance(picture, Image.Image) for picture in pictures):
        grey = all(picture.mode in GREY for picture in pictures)
        plan = plan_of({picture.size for picture in pictures}, grey, image_size)
        try:
            pixels = np.stack([to_pixels(picture, plan) for picture in pictures])
        except Broken as error:
            raise BadInput(f"{name} has an image with {error}") from None
        return _in_memory(name, pixels, given, say)
    arrays = [np.asarray(picture) for picture in pictures]
    if len({array.shape for array in arrays}) > 1:
        raise BadInput(f"the images of {name} differ in shape: resize them to one")
    stacked = np.stack(arrays)
    if not isinstance(pictures[0], np.ndarray) and stacked.ndim == 4:
        stacked = stacked.transpose(0, 2, 3, 1)  # torch's tensors have their channels first
    return _in_memory(name, as_pixels(stacked, name), given, say)


def _scalar(label: Any) -> Any:
    return label.item() if hasattr(label, "item") else label


def _in_memory(name: str, pixels: Pixels, given: Sequence[str], say: Say) -> Dataset:
    check_labels(given, name)
    nothing = [""] * len(given)
    order = arrange(given, nothing, nothing, name, say)
    pixels = pixels[order.chosen]
    names = tuple(str(i) for i in order.chosen)
    train, test = (
        Split(
            torch.from_numpy(pixels[part]), Labels(order.given[part], order.true[part]), names[part]
        )
        for part in (slice(None, order.train), slice(order.train, None))
    )
    digests = np.stack(
        [np.frombuffer(hashlib.sha256(row.data).digest(), np.uint8) for row in pixels]
    )
    digest = digest_of(order.class_names, order.train, order.given, order.true, digests)
    mean, std = moments(pixels[: order.train])
    return Dataset(name, order.class_names, train, test, mean, std, digest=digest)
