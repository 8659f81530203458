"""Arrays of images or of a table as files: an .npz, or .npy files beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apl.data.depth import as_pixels, channels_last
from apl.data.labels import texts_of
from apl.data.listing import SPLITS, Listing, Sample, settle_labels
from apl.data.reading import Reading
from apl.errors import BadInput, one_line

_IMAGES = ("x", "image", "images", "data")
_LABELS = ("y", "label", "labels", "target", "targets")
_NAMED = "x and y, or x_train, y_train, x_test, y_test, or train_images, train_labels and so on"
_WORDS = {*_IMAGES, *_LABELS, *SPLITS, "clean"}


def is_array_name(name: str) -> bool:
    """Whether a file or an array that is called so holds images or labels."""
    return _WORDS.issuperset(name.lower().split("_"))


def list_arrays(path: Path, reading: Reading, *, labelled: bool = True) -> Listing:
    """An .npz, or .npy files beside each other, with images and labels by name: x and y, or the
    words above, with a split before or behind (x_train, train_images), and `clean` in the name of
    true labels (y_train_clean).  Arrays [N, F] are a table.

    labelled: whether a sample needs a label.
    """
    arrays, stat = _read_arrays(path, labelled)
    parts = _by_split(arrays)
    found = Listing(path if path.is_dir() else path.parent)
    inputs: list[npt.NDArray[Any]] = []
    for split, part in parts.items():
        if not ({"images", "given"} if labelled else {"images"}) <= set(part):
            raise BadInput(
                f"{path} lacks images or labels{f' of {split}' if split else ''}: {_NAMED}"
            )
        images = part["images"]
        inputs.append(images if images.ndim == 2 else channels_last(images, str(path)))
        given = texts_of(part["given"], str(path)) if "given" in part else [""] * len(images)
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
    if labelled:
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


def _read_arrays(path: Path, labelled: bool) -> tuple[dict[str, npt.NDArray[Any]], tuple[int, int]]:
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
        files = {file.stem: file for file in sorted(top.glob("*.npy")) if is_array_name(file.stem)}
        if path.is_file() and not is_array_name(path.stem):
            labels = [path.with_stem(f"{path.stem}_{word}") for word in _LABELS]
            beside = next(filter(Path.is_file, labels), None)
            if beside is None and labelled:
                raise BadInput(f"{path} has no labels beside it; accepted: {path.stem}_labels.npy")
            files = {"x": path} if beside is None else {"x": path, "y": beside}
    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        for name, file in files.items():
            if name:
                arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
            else:
                with np.load(file, allow_pickle=False) as content:
                    # Others, such as label_names, may be none that can be read.
                    arrays = {key: content[key] for key in filter(is_array_name, content.files)}
    except Exception as error:  # a damaged file raises nearly anything
        raise BadInput(f"{path} holds no arrays of numbers ({one_line(error)})") from None
    stats = [file.stat() for file in files.values()]
    return arrays, (sum(s.st_size for s in stats), max(s.st_mtime_ns for s in stats))
