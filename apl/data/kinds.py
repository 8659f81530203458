"""Which kind of data lies at a path: folders of classes, a list, a table, arrays.

A folder may hold several of them.  What is read is what has labels and images that are there; of
two such what its authors meant to be read, a metadata file before the folders; it is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apl.data.annotators import join_votes
from apl.data.arrays import is_array_name, list_arrays
from apl.data.formats import hint
from apl.data.layouts import list_layout
from apl.data.listing import LISTS, SPLITS, Listing, Sample, only_classes, some_of
from apl.data.lists import FILE_COLUMNS, list_file
from apl.data.reading import Reading
from apl.data.texts import NO_TEXTS
from apl.data.trees import Tree, class_folders, list_folder, scan, split_of
from apl.errors import BadInput, require

METADATA = tuple(f"metadata{kind}" for kind in LISTS if kind != ".json")
"""A list of a folder's files, as Hugging Face's imagefolder names it; a .json may be anything."""
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")  # lists that need no other name to be one


def list_data(path: Path, reading: Reading) -> Listing:
    """What lies at a path, its samples in the order in which they are numbered; BadInput where
    nothing can be learned from it."""
    listing = list_layout(path, reading.test_set) or list_path(path, reading)
    only_classes(listing, reading.classes, str(path))
    listing.broken.sort()
    if listing.columns is not None:
        only = f"0 or 1 for {path}, a table"
        require(reading.image_size in (0, 1), "image_size", reading.image_size, only)
    elif listing.pixels is None and listing.pictures is None:
        # By name, so that neither the disk's order nor the list's decides what is held out; by that
        # of the file first, so that files which are numbered throughout come as they are.
        by_name = sorted(range(len(listing.samples)), key=lambda i: _by_name(listing.samples[i]))
        listing.samples = [listing.samples[i] for i in by_name]
        listing.rows = [listing.rows[i] for i in by_name] if listing.rows else []
        listing.votes = [listing.votes[i] for i in by_name] if listing.votes else []
    elif listing.pixels is not None and reading.image_size not in (0, listing.pixels.shape[1]):
        raise BadInput(
            f"image_size is {reading.image_size}, but {path} holds arrays of height "
            f"{listing.pixels.shape[1]}, which are taken as they are: leave it out"
        )
    return listing


def _by_name(sample: Sample) -> tuple[str, Sample]:
    return sample.name.rpartition("/")[2], sample


def list_path(path: Path, reading: Reading) -> Listing:
    """What lies at a path; BadInput where nothing can be learned from it."""
    if path.is_dir():
        return _list_top(path, reading)
    if path.suffix.lower() in (".npz", ".npy"):
        return list_arrays(path, reading)
    if path.suffix.lower() in LISTS and path.is_file():
        return list_file(path, reading)
    what = f"; it is {known}" if (known := hint(path)) else ""
    raise BadInput(
        f"{path} is no data set; accepted: a folder of classes, a list of files or a table "
        f"({', '.join(LISTS)}), or arrays (.npz, .npy){what}"
    )


def _list_top(path: Path, reading: Reading) -> Listing:
    """A folder: by its metadata file, its arrays, the lists of its splits, its folders of classes,
    or another list in it."""
    tree = scan(path, reading.skip)
    if reading.layout:
        return list_folder(path, reading, tree)
    classes = class_folders(tree.top)
    for name in METADATA:
        if (path / name).is_file():
            return _by_metadata(path / name, reading, tree, classes)
    notes: list[str] = []
    arrays = sorted(file.stem for file in path.glob("*.npy") if is_array_name(file.stem))
    lists = _lists_of_splits(path)
    if arrays:
        found = _by_arrays(path, reading, arrays, classes, notes)
    elif lists and not classes:
        found = _by_splits(path, reading, lists)
    else:
        found = _by_another_list(path, reading, tree, classes, notes)
    found = found or list_folder(path, reading, tree)
    found.notes[:0] = notes
    return found


def _by_metadata(file: Path, reading: Reading, tree: Tree, classes: int) -> Listing:
    """What a metadata file lists, unless it says nothing of the labels, or is left over, beside
    folders of classes."""
    if classes < 2:
        return list_file(file, reading)
    taken = f"the folders of classes are (give {file} to read that one)"
    try:
        listed = list_file(file, reading, sure=True)
        why = ""
    except BadInput as error:
        why = str(error).replace(f"{file} ", "")
        listed = Listing(file.parent)
    if not why and listed.columns is not None:
        why = f"has no column of files, as {FILE_COLUMNS[0]}"
    elif not why and 2 * len(listed.samples) < tree.top.count:
        why = f"names {len(listed.samples):,} of {tree.top.count:,} images"
    if why:
        found = list_folder(file.parent, reading, tree)
        found.notes.insert(0, f"{file.name} is not read, it {why[:200]}: {taken}")
        return found
    folders = {sample.name: sample.given for sample in list_folder(file.parent, reading).samples}
    other = sum(folders.get(sample.name) != sample.given for sample in listed.samples)
    if other:
        listed.notes.insert(
            0,
            f"labels are those of {file.name}, and {other:,} of {len(listed.samples):,} are not "
            "those of the folders (--layout classes takes the folders')",
        )
    return listed


def _by_arrays(
    path: Path, reading: Reading, arrays: list[str], classes: int, notes: list[str]
) -> Listing | None:
    """The arrays of a folder, None where they are left over beside folders of classes."""
    try:
        found = list_arrays(path, reading)
    except BadInput as error:
        if classes < 2:
            raise
        named = some_of([f"{name}.npy" for name in arrays])
        why = str(error).replace(f"{path} ", "").split(": x and y")[0]
        notes.append(f"{named} not read ({why[:200]}): the folders of classes are")
        return None
    if classes > 1:
        named = some_of([f"{name}.npy" for name in arrays])
        found.notes.insert(0, f"read: {named}, and not the folders beside (--layout classes)")
    return found


# --------------------------------------------------------------------------- lists in a folder


def _lists_of_splits(path: Path) -> list[tuple[Path, str]]:
    """The lists in a folder that are called splits, or metadata in folders that are, with these:
    train/metadata.jsonl, train.csv, data/train-00000-of-00002.parquet."""
    found = []
    for name in METADATA:
        files = sorted(path.glob(f"*/{name}"))
        found += [(file, SPLITS.get(file.parent.name.lower(), "")) for file in files]
    found = [(file, split) for file, split in found if split]
    if found:
        return found
    for folder in (path, path / "data", path / "default"):
        files = [file for file in sorted(folder.glob("*")) if file.suffix.lower() in _TABLES]
        named = [(file, split_of(file.stem.split("-")[0])[0]) for file in files]
        splits = {split for _, split in named if split}
        shards = all(file.suffix.lower() == ".parquet" for file, split in named if split)
        if splits and (shards or len(splits) > 1):
            return [(file, split) for file, split in named if split]
    return []


def _by_splits(path: Path, reading: Reading, lists: list[tuple[Path, str]]) -> Listing:
    """Lists of one kind, each of a split; those of the test may have no labels, and then lack."""
    read: dict[int, Listing] = {}
    notes: list[str] = []
    for place in sorted(range(len(lists)), key=lambda k: lists[k][1] != "train"):
        file, split = lists[place]
        try:
            part = list_file(file, reading, split)
        except BadInput as error:
            if split == "train":
                raise
            notes.append(f"{file.relative_to(path)} is not read: {str(error)[:200]}")
            continue
        below = part.root.relative_to(path) if part.root.is_relative_to(path) else None
        if below is not None:
            prefix = "" if below == Path() else f"{below.as_posix()}/"
            part.samples = [s._replace(name=f"{prefix}{s.name}") for s in part.samples]
            part.broken = [(f"{prefix}{name}", why) for name, why in part.broken]
        if not read and part.columns is not None:  # what is one column of texts is one in all
            reading = dataclasses.replace(reading, text_column=part.text_column or NO_TEXTS)
        read[place] = part
    parts = [read[place] for place in sorted(read)]
    kinds = {(part.pictures is None, part.columns is None) for part in parts}
    if len(kinds) != 1:
        raise BadInput(f"{path} has lists of several kinds: {some_of([f.name for f, _ in lists])}")
    first = parts[0]
    found = Listing(path, notes=notes, decimal=first.decimal)
    if first.columns is not None:
        found.columns = _joined(parts)
        found.text_column = first.text_column
        if first.text_column:
            found.texts = [text for part in parts for text in part.texts or ()]
    if first.pictures is not None:
        found.pictures = type(first.pictures)([], [])
    for part in parts:
        if part.pictures is not None and found.pictures is not None:
            at = sum(_count(file) for file, _ in found.pictures.files)
            found.pictures.files += part.pictures.files
            found.pictures.rows += [at + row for row in part.pictures.rows]
        found.samples += part.samples
        found.broken += part.broken
        found.notes += [note for note in part.notes if note not in found.notes]
    join_votes(found, parts)
    names = [sample.name for sample in found.samples]
    if len({*names}) < len(names) and first.pictures is not None:  # numbers of rows
        found.samples = [s._replace(name=str(k)) for k, s in enumerate(found.samples)]
    return found


def _joined(parts: list[Listing]) -> dict[str, Sequence[Any]]:
    """The columns of tables one below the other, None where one has no such column."""
    names = dict.fromkeys(name for part in parts for name in part.columns or ())
    return {
        name: [
            cell
            for part in parts
            for cell in (part.columns or {}).get(name, [None] * len(part.samples))
        ]
        for name in names
    }


def _count(file: Path) -> int:
    from apl.data.pictures import pyarrow_parquet

    return int(pyarrow_parquet(file).ParquetFile(file).metadata.num_rows)


def _by_another_list(
    path: Path, reading: Reading, tree: Tree, classes: int, notes: list[str]
) -> Listing | None:
    """What the one list in a folder says that names most of its images, where its folders are no
    classes: HAM10000_metadata.csv beside two folders of images, train.csv beside train_images/."""
    files = [file for file in sorted(path.glob("*")) if file.suffix.lower() in _TABLES]
    files = [file for file in files if file.is_file() and not _is_ours(file)]
    best: Listing | None = None
    chosen = ""
    why = ""
    for file in files if tree.top.count or classes < 2 else ():
        try:
            listed = list_file(file, reading, sure=classes > 1)
        except BadInput as error:
            why = why or str(error)
            continue
        if listed.columns is None and (best is None or len(listed.samples) > len(best.samples)):
            best, chosen = listed, file.name
    if best is None:
        if files and not classes and why:
            raise BadInput(why)
        return None
    labels = {sample.given for sample in best.samples}
    folders = {folder.name for folder in tree.top.folders}
    if classes > 1 and (labels & folders or 2 * len(best.samples) < tree.top.count):
        return None
    notes.append(f"read: {chosen}, which names the images (--layout classes takes the folders)")
    return best


def _is_ours(file: Path) -> bool:
    return file.name in ("issues.csv", "decisions.csv", "fiftyone.csv", "summary.csv") or (
        "submission" in file.name.lower()
    )
