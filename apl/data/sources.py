"""A name, a path or arrays to a `Dataset`: digits, CIFAR, MNIST, what the user has, and the labels
that people gave to CIFAR's."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apl.data.dataset import Dataset, Split, balanced_subset
from apl.data.files import own_name, read_path
from apl.data.folders import available, data_folder
from apl.data.hub import PREFIX, is_saved, load_hub, load_saved, splits_in
from apl.data.images import Progress
from apl.data.listing import Say, some_of
from apl.data.memory import from_arrays, from_frame, from_torch
from apl.data.reading import AS_USUAL, Reading, names_of
from apl.errors import BadInput, one_line, require
from apl.names import DATASETS, HUMAN, Source, no_dataset
from apl.noise.files import read_pt
from apl.noise.labels import IntArray, Labels
from apl.paths import user_path


# More than seven parameters: it is called by people, who name the ones they give.
def load_data(  # the keywords are Reading's, for users
    source: Any,
    folder: str | Path | None = None,
    download: bool = True,
    *,
    image_size: int = 0,
    label_column: str = "label",
    test_set: str = "",
    max_broken: float = 0.01,
    classes: str | Sequence[str] = (),
    max_pixels: int = AS_USUAL.max_pixels,
    image_folder: str | Path = "",
    layout: str = "",
    skip: str | Sequence[str] = (),
    text_column: str = "",
    side: int = AS_USUAL.side,
    say: Say = print,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """The data set that `source` is: a built-in name, a path, arrays or a torch Dataset.

    A built-in one is read from the data folder, downloaded there if it is missing. A path is read
    by `apl.data.files.read_path`, as the other arguments say (`apl.data.reading.Reading`). Arrays
    are (images, labels): images [N, H, W] or [N, H, W, C] in uint8, or in fractions of 1; or the
    rows [N, F] of a table, a pandas DataFrame too; labels [N], numbers or words. The items of a
    torch Dataset are (image, label), or (row [F], label), or have these by name, as those of
    Hugging Face's data sets do, which may also be given as `hf://OWNER/NAME`; a mapping has such a
    data set for each split. Without a test split a share of each class is held out. A Dataset of
    ours is returned as it is.

    Arrays and torch Datasets go to the cache folder too, where `data_of` finds them by the config
    that `make_config` makes of them.

    Args:
        source: A built-in name, a path, (images, labels), a torch Dataset or a mapping of these, or
            a Dataset of ours.
        folder: The data folder; None for $APL_DATA, else the user's cache.
        download: Whether a built-in set that is missing is downloaded.
        image_size: Pixels a side; 0 for the images' own where all are square, of one size and of at
            most 64 pixels, else 64.
        label_column: The column of a list with the labels.
        test_set: Which test set of a published data set, where it has two.
        max_broken: The share of the files or rows that may be left out because they can't be read;
            a single one may.
        classes: The names of the classes, others are left out; none for all that training samples
            have.
        max_pixels: An image with more is not read, unless it is a JPEG, which can be decoded
            smaller.
        image_folder: Where the files of a list lie, '' for below its folder; 'none' where it names
            no files.
        layout: What the folders of a folder are, 'classes' or 'splits', '' where that is judged.
        skip: Names of folders that are not read, beside those that programs keep; 'none' where each
            is read.
        text_column: Of a table, the one with texts, '' where that is judged; 'none' where there is
            none.
        side: What stands for the 64 of image_size, where features want to see more.
        say: Gets each line that is to be told.
        progress: Gets the images decoded so far and in all.

    Returns:
        The data set, its images decoded.

    Raises:
        BadInput: Data are missing and can't be had, are damaged, or can't be learned from.
    """
    reading = Reading(
        image_size=image_size,
        label_column=label_column,
        test_set=test_set,
        max_broken=max_broken,
        classes=names_of(classes),
        max_pixels=max_pixels,
        image_folder=str(image_folder),
        layout=layout,
        skip=names_of(skip),
        text_column=text_column,
        side=side,
    )
    return read_data(source, reading, folder, download, say, progress)


def read_data(
    source: Any,
    reading: Reading = AS_USUAL,
    folder: str | Path | None = None,
    download: bool = True,
    say: Say = print,
    progress: Progress = lambda done, total: None,
) -> Dataset:
    """As `load_data`, with how people's data are read in one value."""
    if isinstance(source, Dataset):
        return source
    name = type(source).__name__.lower()
    if isinstance(source, str) and source.startswith(PREFIX):
        source, name = load_hub(source, download), own_name(Path(source))
    elif isinstance(source, str | Path):
        if str(source) in DATASETS:
            require(not reading.classes, "classes", reading.classes, f"none with {source}")
            return built_in(str(source), folder, download)
        path = user_path(source)
        if not path.exists():
            raise no_dataset(str(source))
        if not is_saved(path):
            return read_path(source, reading, say, progress)
        source, name = load_saved(path), own_name(path)
    if _is_pair(source) and all(map(_is_pair, source)):  # as Keras's load_data returns them
        source, name = dict(zip(("train", "test"), source, strict=True)), "arrays"
    if isinstance(source, tuple) and len(source) == 2:
        return from_arrays("arrays", {"": source}, reading, say)
    if isinstance(source, Mapping) and {"data", "target"} <= {*source}:  # scikit-learn's Bunch
        return from_arrays(name, {"": (source["data"], source["target"])}, reading, say)
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        return from_frame(name, source, reading, say)
    splits = splits_in(source)
    if splits is not None:
        parts, others = splits
        if others:
            say(f"not read, as they are no splits: {some_of(others)}")
        if all(map(_is_pair, parts.values())):
            return from_arrays(name, parts, reading, say)
        return from_torch(name, parts, reading, say, progress)
    items = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    # A pandas DataFrame and a mapping have no items by number.
    if items and not hasattr(source, "columns") and not isinstance(source, Mapping):
        return from_torch(name, {"": source}, reading, say, progress)
    raise BadInput(
        f"the data is a {type(source).__name__}{_why_none(source)}; accepted: "
        f"{', '.join(DATASETS)}, a path, hf://OWNER/NAME, (images, labels), (table, labels), a "
        "torch Dataset or one of Hugging Face's, or a mapping of splits to these"
    )


def _is_pair(source: Any) -> bool:
    """Whether it is (inputs, labels), or two of these."""
    return isinstance(source, tuple) and len(source) == 2


def _why_none(source: Any) -> str:
    """What to give in the place of something that has no items by number, where that is known."""
    if hasattr(source, "dataset") and hasattr(source, "batch_size"):
        return " of batches: give its .dataset"
    if hasattr(source, "__iter__") and not isinstance(source, Mapping | str | bytes):
        return ", and one that is streamed has no items by number: list(...) of it has"
    return ""


@functools.lru_cache(maxsize=2)  # a study's worker trains many networks on one data set
def built_in(name: str, folder: str | Path | None, download: bool) -> Dataset:
    """The built-in data set of that name, from the data folder; BadInput where it can't be had."""
    source = DATASETS[name]
    if name == "digits":
        images, labels, class_names = _digits()
    else:
        images, labels, class_names = _torchvision(name, data_folder(folder), download)
    for k, part in enumerate(("training", "test")):
        _check(name, part, images[k], labels[k], source)
    train, test = (
        Split(pixels, Labels(given, true=given))
        for pixels, given in zip(images, labels, strict=True)
    )
    return Dataset(name, class_names, train, test, source.mean, source.std)


Parts = tuple[tuple[Tensor, Tensor], tuple[IntArray, IntArray], tuple[str, ...]]


@functools.cache  # it is read from a text file
def _digits() -> Parts:
    # What `sklearn.datasets.load_digits` reads, by its file: to import it takes longer than a
    # short training, in each process of a study.
    sklearn = importlib.util.find_spec("sklearn")
    assert sklearn is not None  # apl requires it
    assert sklearn.origin is not None
    file = Path(sklearn.origin).parent / "datasets" / "data" / "digits.csv.gz"
    rows = np.loadtxt(file, delimiter=",")
    pixels, labels = rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
    images = torch.from_numpy((pixels * (255 / 16)).round().astype(np.uint8))[..., None]
    test = np.zeros(len(labels), dtype=bool)
    test[balanced_subset(labels, 450)] = True
    names = tuple(str(k) for k in range(10))
    return (images[~test], images[test]), (labels[~test], labels[test]), names


def _torchvision(name: str, root: Path, download: bool) -> Parts:
    import torchvision  # takes a second, so only where it is needed

    source = DATASETS[name]
    where = f"{root / source.folder}"
    if not available(name, root) and not download:
        raise BadInput(
            f"{name} is not in {root}: unpack {source.archive} so that {where} exists, give "
            "--data-dir or $APL_DATA, or allow the download (drop --no-download)"
        )
    kind = {
        "cifar10": torchvision.datasets.CIFAR10,
        "cifar100": torchvision.datasets.CIFAR100,
        "mnist": torchvision.datasets.MNIST,
    }[name]
    try:
        # torchvision reads a CIFAR batch (a pickle) only after its md5 has matched.
        if available(name, root):
            train, test = kind(str(root), train=True), kind(str(root), train=False)
        else:
            train, test = kind(str(root), train=True, download=True), kind(str(root), train=False)
    except Exception as error:  # a damaged file raises nearly anything
        if available(name, root):
            damaged = _damaged_files(kind, root)
            what = ", ".join(damaged) or one_line(error)
            raise BadInput(
                f"{name} in {where} is damaged or incomplete ({what}): delete it and run again, "
                f"or unpack {source.archive} there again"
            ) from None
        problem = one_line(error)
        raise BadInput(
            f"{name} could not be downloaded ({problem}): put {source.archive}, unpacked, "
            f"at {where}"
        ) from None
    if name == "mnist":
        names = tuple(str(k) for k in range(10))
        images = (train.data[..., None], test.data[..., None])
    else:
        names = tuple(train.classes)
        train_images, test_images = map(torch.from_numpy, (train.data, test.data))
        images = (train_images.contiguous(), test_images.contiguous())
    labels = tuple(np.asarray(split.targets, dtype=np.int64) for split in (train, test))
    return images, (labels[0], labels[1]), names


def _damaged_files(kind: type, root: Path) -> list[str]:
    from torchvision.datasets.utils import check_integrity

    files = [*getattr(kind, "train_list", ()), *getattr(kind, "test_list", ())]
    folder = root / getattr(kind, "base_folder", "")
    return [file for file, md5 in files if not check_integrity(str(folder / file), md5)]


def _check(name: str, part: str, images: Tensor, labels: IntArray, source: Source) -> None:
    shape = (len(labels), source.size, source.size, len(source.mean))
    if tuple(images.shape) != shape or len(labels) == 0:
        raise BadInput(
            f"the {part} images of {name} must be [N, {', '.join(map(str, shape[1:]))}] with N "
            f"labels, got {list(images.shape)} with {len(labels)} labels"
        )
    if not 0 <= labels.min() <= labels.max() < source.num_classes:
        raise BadInput(f"the {part} labels of {name} must lie in [0, {source.num_classes})")


def human_labels(name: str, clean: IntArray, folder: str | Path | None = None) -> IntArray:
    """CIFAR-10N and CIFAR-100N (Wei et al. 2022): the labels people gave to CIFAR's training
    images, `name` one of HUMAN's; `clean` are the true labels, which must match the file's."""
    dataset = next((dataset for dataset, names in HUMAN.items() if name in names), "")
    if not dataset:
        accepted = ", ".join(name for names in HUMAN.values() for name in names)
        raise BadInput(f"unknown human labels {name!r}; accepted: {accepted}")
    key, classes = HUMAN[dataset][name], DATASETS[dataset].num_classes
    path = data_folder(folder) / f"CIFAR-{classes}_human.pt"
    if not path.is_file():
        raise BadInput(f"the CIFAR-{classes}N labels are not there: put {path.name} at {path}")
    try:
        content = read_pt(path)
        true, given = content["clean_label"], content[key]
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        problem = one_line(error)[:200]
        raise BadInput(f"{path} is damaged or is not CIFAR-{classes}N's file: {problem}") from None
    if not np.array_equal(true, clean) or not 0 <= given.min() <= given.max() < classes:
        raise BadInput(
            f"{path} does not hold labels of CIFAR-{classes}'s training images in their order"
        )
    return given
