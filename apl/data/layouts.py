"""Data sets with wrong labels of people and of the web, as their authors publish them.

A folder is known by its files, and listed as the users' own data are, so that one decoding, one
cache and one split serve all.  docs/data.md says where each is to be had and how it is unpacked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from apl.data.listing import SUFFIXES, Listing, Sample, broken_line, why_not
from apl.errors import BadInput, require

MINI = 50  # WebVision mini: the classes below it, as Jiang et al. (2018) cut it
ANIMALS = (
    "cat",
    "lynx",
    "wolf",
    "coyote",
    "cheetah",
    "jaguar",
    "chimpanzee",
    "orangutan",
    "hamster",
    "guinea pig",
)
RECORD = np.dtype([("id", ">u4"), ("label", ">u4"), ("pixels", "u1", (3, 64, 64))])
# What is trained and tested on has a name of its own for each test set: papers use both.
TEST_SETS = {"webvision": "webvision_mini", "imagenet": "ilsvrc12_val50"}
PUBLISHED = (*TEST_SETS.values(), "clothing1m", "animal10n", "food101n")
"""The names of data sets that are laid out as their authors publish them."""


def list_layout(root: Path, test_set: str = "") -> Listing | None:
    """What a folder holds that is laid out as a published data set is; None where it is none.

    WebVision mini (the lists of DivideMix, ELR and JAL), Clothing1M, ANIMAL-10N (images or binary
    records) and Food-101N beside Food-101.  Training labels are given, and true where the authors
    publish that; test labels are true, but for ANIMAL-10N's, which are taken as given.
    test_set: which one of two, 'webvision' or 'imagenet'; '' where there is one.
    Raises BadInput for a folder that lacks a part, or has two test sets and no choice.
    """
    layouts = LAYOUTS if root.is_dir() else ()
    list_it = next((listed for known, listed in layouts if known(root)), None)
    if list_it is not _webvision:
        require(not test_set, "test_set", test_set, f"'' for {root}, which has no other test set")
    if list_it is None:
        return None
    found = list_it(root, test_set)
    for split, what in (("train", "training"), ("test", "test")):
        if not any(sample.split == split for sample in found.samples):
            raise BadInput(f"{root} has no {what} images; {broken_line(found.broken)}")
    return found


def _add(found: Listing, name: str, given: str, true: str, split: str) -> None:
    """One image, or why it is left out."""
    path = os.path.join(found.root, name)
    try:
        stat = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        found.broken.append((name, why_not(error)))
        return
    at = (stat.st_size, stat.st_mtime_ns)
    found.samples.append(Sample(name, path, given, true, split, at))


def _lines(path: Path, what: str) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from map(str.strip, file)
    except FileNotFoundError:
        raise BadInput(f"{what} lacks {path}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8") from None


def _pairs(found: Listing, path: Path, what: str) -> Iterator[tuple[str, int]]:
    """The lines `name label` of a list."""
    for number, line in enumerate(_lines(path, what), 1):
        words = line.rsplit(maxsplit=1)
        if len(words) == 2 and words[1].isdecimal():
            yield words[0], int(words[1])
        elif words:
            found.broken.append((f"{path.name} line {number}", "not a path and a number"))


# ----------------------------------------------------------------------------- WebVision mini


def _is_webvision(root: Path) -> bool:
    return any((root / name).is_file() for name in (JAL_TRAIN, GOOGLE))


JAL_TRAIN, GOOGLE = "webvision_mini_train.txt", "info/train_filelist_google.txt"


def _webvision(root: Path, test_set: str) -> Listing:
    """JAL and eps-softmax: three lists, of paths relative to them.  DivideMix, ELR+ and GJS: the
    lists of WebVision 1.0 in info/, of which the first 50 classes are taken, the training images
    beside info/, those of the validation in val_images_256/; ILSVRC12's below imagenet/.

    Labels are compared by number with those of ILSVRC12, as every loader does.
    """
    found = Listing(root)
    what = "WebVision mini"
    if (root / JAL_TRAIN).is_file():
        train, below = JAL_TRAIN, {"webvision": "", "imagenet": ""}
        lists = {"webvision": "webvision_mini_val.txt", "imagenet": "imagenet_val.txt"}
    else:
        train, below = GOOGLE, {"webvision": "val_images_256/", "imagenet": "imagenet/val/"}
        lists = {"webvision": "info/val_filelist.txt", "imagenet": "imagenet/imagenet_val.txt"}
    there = [name for name in TEST_SETS if (root / lists[name]).is_file()]
    folder = root / "imagenet" / "val"
    if "imagenet" not in there and folder.is_dir():
        there.append("imagenet")
    accepted = " or ".join(there)
    if not there:
        wanted = ", ".join([*lists.values(), "imagenet/val/CLASS/"])
        raise BadInput(f"{root} has no test set; accepted: {wanted}")
    if test_set or len(there) > 1:
        both = "; it has both, and papers use both" if not test_set else ""
        require(test_set in there, "test_set", test_set, f"{accepted} for {root}{both}")
    chosen = test_set or there[0]
    for name, label in _pairs(found, root / train, what):
        if label < MINI:
            _add(found, name, str(label), "", "train")
    if (root / lists[chosen]).is_file():
        tested = _pairs(found, root / lists[chosen], what)
    else:
        tested, below = _classes(root, folder), {chosen: ""}
    for name, label in tested:
        if label < MINI:
            _add(found, below[chosen] + name, str(label), str(label), "test")
    found.notes.append(f"read as WebVision mini, tested on {chosen}'s validation images")
    found.name = TEST_SETS[chosen]
    return found


def _classes(root: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """The images of ILSVRC12's validation in a folder a class: called by the class's number, or by
    its WordNet id, whose order is that of the numbers."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    if names and all(re.fullmatch(r"n\d{8}", name) for name in names):
        if len(names) not in (MINI, 1000):
            raise BadInput(
                f"{folder} has {len(names)} classes; accepted: all 1,000, or the first {MINI}, "
                "since their order makes their numbers"
            )
        numbers = dict(zip(names, range(len(names)), strict=True))
    else:
        numbers = {name: int(name) for name in names if name.isdecimal()}
    for name, number in numbers.items():
        if number < MINI:
            for file in sorted(os.scandir(folder / name), key=lambda entry: entry.name):
                if _is_image(file.name):
                    yield os.path.relpath(file.path, root).replace(os.sep, "/"), number


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


# ---------------------------------------------------------------------------------- Clothing1M


def _is_clothing1m(root: Path) -> bool:
    return _annotations(root) is not None


def _annotations(root: Path) -> Path | None:
    places = (root, root / "annotations")
    return next((place for place in places if (place / "noisy_label_kv.txt").is_file()), None)


def _clothing1m(root: Path, test_set: str) -> Listing:
    """Xiao et al. 2015: labels by image in two lists, and lists of the images of each split, which
    lie in the folder or its annotations/; images in images/, or where DivideMix wants them, beside
    the lists.  Trained on the noisy list, whose true labels are known where the clean list has the
    image too; tested on the clean one.
    """
    place = _annotations(root)
    assert place is not None
    what = f"Clothing1M in {root}"
    found = Listing(root, name="clothing1m")
    noisy, clean = (
        dict(_pairs(found, place / f"{name}_label_kv.txt", what)) for name in ("noisy", "clean")
    )
    names = _category_names(place) or _category_names(root)
    text = {k: names[k] if names else str(k) for k in range(14)}
    prefix = "" if (root / "images").is_dir() else "images/"
    for split, file in (
        ("train", "noisy_train_key_list.txt"),
        ("validation", "clean_val_key_list.txt"),
        ("test", "clean_test_key_list.txt"),
    ):
        if split == "validation" and not (place / file).is_file():
            continue
        labels, source = (noisy, "noisy") if split == "train" else (clean, "clean")
        for key in filter(None, _lines(place / file, what)):
            given, true = text.get(labels.get(key, -1)), text.get(clean.get(key, -1), "")
            if given is None:  # JAL's conversion skips it, and shifts all labels behind it
                found.broken.append((key, f"no label of 0 to 13 in {source}_label_kv.txt"))
                continue
            _add(found, key.removeprefix(prefix), given, true, split)
    found.notes.append("read as Clothing1M: trained on its noisy list, tested on its clean one")
    return found


def _category_names(place: Path) -> Sequence[str]:
    path = place / "category_names_eng.txt"
    names = list(filter(None, _lines(path, ""))) if path.is_file() else []
    return names if len(set(names)) == 14 else ()


# ---------------------------------------------------------------------------------- ANIMAL-10N


def _is_animal10n(root: Path) -> bool:
    if (root / "test_batch.bin").is_file() and (root / "data_batch_1.bin").is_file():
        return (root / "test_batch.bin").stat().st_size % RECORD.itemsize == 0
    return all(_is_prefixed(root / folder) for folder in ("training", "testing"))


def _is_prefixed(folder: Path) -> bool:
    """Whether a folder holds images whose names begin with a label, and no folders."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        first = next((entry for entry in entries if not entry.name.startswith(".")), None)
    return first is not None and re.match(r"\d_", first.name) is not None and first.is_file()


def _animal10n(root: Path, test_set: str) -> Listing:
    """Song et al. 2019: images of 64 pixels in training/ and testing/, whose names begin with their
    label and '_'; or data_batch_*.bin and test_batch.bin of records: id and label of four bytes
    each, the first one the highest, then the pixels, channels first (see SELFIE's README)."""
    found = Listing(root, name="animal10n")
    if (root / "test_batch.bin").is_file():
        files = sorted(root.glob("data_batch_*.bin"), key=lambda file: (len(file.name), file.name))
        _records(found, [(file, "train") for file in files] + [(root / "test_batch.bin", "test")])
        found.notes.append("read as ANIMAL-10N, from its binary records")
        return found
    other = 0
    for folder, split in (("training", "train"), ("testing", "test")):
        for entry in os.scandir(root / folder):
            label = re.match(r"(\d)_", entry.name)
            if label and _is_image(entry.name):
                _add(found, f"{folder}/{entry.name}", ANIMALS[int(label[1])], "", split)
            else:
                other += not entry.name.startswith(".")
    if other:
        found.notes.append(f"not read: {other:,} files that are not called LABEL_NAME.jpg")
    found.notes.append("read as ANIMAL-10N, from its images")
    return found


def _records(found: Listing, files: Sequence[tuple[Path, str]]) -> None:
    """The records of binary files, their pixels in one array."""
    parts = []
    for file, split in files:
        stat = file.stat()
        if stat.st_size % RECORD.itemsize:
            raise BadInput(
                f"{file} is not made of ANIMAL-10N's records: it has {stat.st_size:,} bytes, no "
                f"multiple of {RECORD.itemsize:,}"
            )
        part = np.memmap(file, RECORD, "r") if stat.st_size else np.empty(0, RECORD)
        wrong = np.flatnonzero(part["label"] >= len(ANIMALS))
        if len(wrong):
            label = part["label"][wrong[0]]
            raise BadInput(f"{file}: record {wrong[0]} has the label {label}; accepted: 0 to 9")
        at = (stat.st_size, stat.st_mtime_ns)
        for k, label in enumerate(part["label"]):
            found.samples.append(Sample(f"{file.name}:{k}", "", ANIMALS[label], "", split, at))
        parts.append(part)
    pixels = np.empty((len(found.samples), 64, 64, 3), np.uint8)
    start = 0
    for part in parts:
        pixels[start : start + len(part)] = part["pixels"].transpose(0, 2, 3, 1)
        start += len(part)
    found.pixels = pixels


# ----------------------------------------------------------------------------------- Food-101N


def _is_food101n(root: Path) -> bool:
    return (root / "meta" / "imagelist.tsv").is_file()


def _food101n(root: Path, test_set: str) -> Listing:
    """Lee et al. 2018: all images of meta/imagelist.tsv are trained on, and Food-101's test images
    (Bossard et al. 2014) tested on, in food-101/ inside the folder or beside it.

    Its verification labels say of some images whether their label is right, not which one is; so
    they are told, and no true label is known.
    """
    found = Listing(root, name="food101n")
    what = f"Food-101N in {root}"
    places = (root / "food-101", root.parent / "food-101")
    food101 = next((place for place in places if (place / "meta" / "test.txt").is_file()), None)
    if food101 is None:
        raise BadInput(f"{what} is tested on Food-101: unpack food-101.tar.gz to {places[1]}")
    for key in _lines(root / "meta" / "imagelist.tsv", what):
        if "/" in key and not key.startswith("class_name"):  # its first line
            _add(found, f"images/{key}", key.partition("/")[0], "", "train")
    images = os.path.relpath(food101 / "images", root).replace(os.sep, "/")
    for key in filter(None, _lines(food101 / "meta" / "test.txt", what)):
        name = key.partition("/")[0]
        _add(found, f"{images}/{key}.jpg", name, name, "test")
    found.notes.append("read as Food-101N, tested on Food-101's test images")
    for part in ("train", "val"):
        path = root / "meta" / f"verified_{part}.tsv"
        if path.is_file():
            said = [line.rpartition("\t")[2] for line in _lines(path, what)]
            right, wrong = said.count("1"), said.count("0")
            if right + wrong:
                share = wrong / (right + wrong)
                found.notes.append(
                    f"{path.name}: {wrong:,} of {right + wrong:,} labels are wrong ({share:.1%})"
                )
    return found


LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path, str], Listing]], ...] = (
    (_is_webvision, _webvision),
    (_is_clothing1m, _clothing1m),
    (_is_animal10n, _animal10n),
    (_is_food101n, _food101n),
)
"""What each layout is known by, and how it is listed."""
