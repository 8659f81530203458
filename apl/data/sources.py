"""Data sets as tensors: one uint8 tensor of images each, augmented in batches on the device."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apl.errors import BadInput, one_line
from apl.noise import Labels


@dataclass(frozen=True)
class Dataset:
    """Images uint8 [N, H, W, C] (channels last, as convolutions on a CPU like them), labels [N]."""

    name: str
    class_names: tuple[str, ...]
    train_images: Tensor
    train_labels: Labels
    test_images: Tensor
    test_labels: Labels
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """Where a data set comes from; mean and std are of its training pixels in [0, 1]."""

    description: str
    size: int
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    archive: str = ""
    folder: str = ""


SOURCES: dict[str, Source] = {
    "digits": Source(
        "scikit-learn's digits: 1,347 + 450 images, 8x8 grey; always there",
        8,
        10,
        (0.3052,),
        (0.3760,),
    ),
    "cifar10": Source(
        "CIFAR-10: 50,000 + 10,000 images, 32x32 colour",
        32,
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
    ),
    "cifar100": Source(
        "CIFAR-100: 50,000 + 10,000 images, 32x32 colour",
        32,
        100,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        "cifar-100-python.tar.gz",
        "cifar-100-python",
    ),
    "mnist": Source(
        "MNIST: 60,000 + 10,000 images, 28x28 grey",
        28,
        10,
        (0.1307,),
        (0.3081,),
        "the four *-ubyte.gz files",
        "MNIST/raw",
    ),
}


def data_folder(given: str | Path | None = None) -> Path:
    """Where data sets lie: `given`, else $APL_DATA, else the user's cache folder."""
    if given:
        return Path(given).expanduser()
    if os.environ.get("APL_DATA"):
        return Path(os.environ["APL_DATA"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "apl"


@functools.lru_cache(maxsize=2)  # a study's worker trains many networks on one data set
def load_dataset(name: str, folder: str | Path | None = None, download: bool = True) -> Dataset:
    """The data set `name`, from the data folder, downloaded there if it is missing.

    Raises BadInput when it is missing and can't be had, or when its files are damaged.
    """
    if name not in SOURCES:
        raise BadInput(f"unknown data set {name!r}; accepted: {', '.join(SOURCES)}")
    source = SOURCES[name]
    if name == "digits":
        images, labels, class_names = _digits()
    else:
        images, labels, class_names = _torchvision(name, data_folder(folder), download)
    for part, split in zip(("training", "test"), zip(images, labels, strict=True), strict=True):
        _check(name, part, *split, source)
    return Dataset(
        name, class_names, images[0], labels[0], images[1], labels[1], source.mean, source.std
    )


def available(name: str, folder: str | Path | None = None) -> bool:
    """Whether the data set lies in the data folder, so that nothing would be downloaded."""
    return name == "digits" or (data_folder(folder) / SOURCES[name].folder).is_dir()


Split = tuple[tuple[Tensor, Tensor], tuple[Labels, Labels], tuple[str, ...]]


def _digits() -> Split:
    from sklearn.datasets import load_digits  # takes a second, so only where it is needed

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8))[..., None]
    labels = bunch.target.astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    test[balanced_subset(labels, 450)] = True
    names = tuple(str(k) for k in range(10))
    return (images[~test], images[test]), (labels[~test], labels[test]), names


def _torchvision(name: str, root: Path, download: bool) -> Split:
    import torchvision  # takes a second, so only where it is needed

    source = SOURCES[name]
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
                f"or unpack {source.archive} there anew"
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


def _check(name: str, part: str, images: Tensor, labels: Labels, source: Source) -> None:
    shape = (len(labels), source.size, source.size, len(source.mean))
    if tuple(images.shape) != shape or len(labels) == 0:
        raise BadInput(
            f"the {part} images of {name} must be [N, {', '.join(map(str, shape[1:]))}] with N "
            f"labels, got {list(images.shape)} with {len(labels)} labels"
        )
    if not 0 <= labels.min() <= labels.max() < source.num_classes:
        raise BadInput(f"the {part} labels of {name} must lie in [0, {source.num_classes})")


HUMAN_LABELS = {
    "aggre": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worse": "worse_label",
}


def human_labels(name: str, clean: Labels, folder: str | Path | None = None) -> Labels:
    """CIFAR-10N (Wei et al. 2022): the labels people gave to CIFAR-10's training images, `name`
    one of HUMAN_LABELS; `clean` are the true labels, which must match the file's."""
    if name not in HUMAN_LABELS:
        raise BadInput(f"unknown human labels {name!r}; accepted: {', '.join(HUMAN_LABELS)}")
    path = data_folder(folder) / "CIFAR-10_human.pt"
    if not path.is_file():
        raise BadInput(f"the CIFAR-10N labels are not there: put CIFAR-10_human.pt at {path}")
    # The file holds numpy arrays: the few constructors they need are named, nothing else may run.
    multiarray = getattr(np, "_core", None) or np.core
    allowed = [
        (multiarray.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        multiarray.multiarray._reconstruct,
        np.ndarray,
        np.dtype,
        type(np.dtype(np.int64)),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, weights_only=True)
        labels = {
            key: np.asarray(content[key], np.int64) for key in ("clean_label", HUMAN_LABELS[name])
        }
    except Exception as error:  # torch.load raises nearly anything on a damaged file
        problem = one_line(error)[:200]
        raise BadInput(f"{path} is damaged or is not CIFAR-10N's file: {problem}") from None
    given = labels[HUMAN_LABELS[name]]
    if not np.array_equal(labels["clean_label"], clean) or not 0 <= given.min() <= given.max() < 10:
        raise BadInput(f"{path} does not hold labels of CIFAR-10's training images in their order")
    return given


def balanced_subset(labels: Labels, count: int) -> Labels:
    """The indices, ascending, of `count` samples with all classes as equal as can be; the same
    ones every time, so that runs differ by their seed and not by their images."""
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.searchsorted(labels[by_class], labels[by_class])
    rank_in_class = np.arange(len(labels)) - starts
    return np.sort(by_class[np.argsort(rank_in_class, kind="stable")[:count]])


def to_float(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 [B, H, W, C] to normalised float32 [B, C, H, W] in channels-last memory."""
    scale, shift = _scale_and_shift(tuple(mean), tuple(std), images.device)
    return (images.float() * scale - shift).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=32)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    # Once per device: to copy them anew in each step would make a GPU wait for the copy.
    with torch.inference_mode(False):  # an inference tensor could not take part in training later
        scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        return scale, torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=device)


BORDER = 4  # pixels of zeros around an image before a random crop, as in the paper


def pad(images: Tensor) -> Tensor:
    """Zero-pad the height and width of [N, H, W, C] images, for `crop_and_flip`."""
    return torch.nn.functional.pad(images, (0, 0, BORDER, BORDER, BORDER, BORDER))


def crop_and_flip(padded: Tensor, indices: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
    """Random crops of the padded images at `indices` [B], one gather for the whole batch.

    padded: [N, H + 2 BORDER, W + 2 BORDER, C]; offsets: [B, 2] in [0, 2 BORDER]; flips: bool [B],
    mirrored left to right where true.  Returns [B, H, W, C].
    """
    height, width = (size - 2 * BORDER for size in padded.shape[1:3])
    rows = offsets[:, :1] + torch.arange(height, device=padded.device)
    columns = torch.arange(width, device=padded.device).expand(len(indices), -1)
    columns = offsets[:, 1:] + torch.where(flips[:, None], width - 1 - columns, columns)
    return padded[indices[:, None, None], rows[:, :, None], columns[:, None, :]]
