"""A folder of the user's as a tree, and what its folders are: classes, splits, or neither.

The tree is judged as a whole: what one folder is depends on those beside it and inside it.  What
was made of it is told, a line each, and `--layout` and `--skip` say otherwise.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from apl.data.formats import hint
from apl.data.labels import tidy
from apl.data.listing import SPLITS, SUFFIXES, Listing, Sample, some_of, suffix_of, why_not
from apl.data.reading import Reading
from apl.errors import BadInput

NONE = "none"  # of --skip: every folder is read
KEPT = frozenset(
    (
        *("@eadir", "#recycle", "@recycle", "$recycle.bin", "system volume information"),
        *("__macosx", "lost+found", "__pycache__", "thumbnails", "_thumbnails", "_thumbs"),
    )
)
"""Folders that programs keep beside images, those of a NAS and of a file manager among them."""
OURS = frozenset(
    ("runs.jsonl", "noise.json", "issues.csv", "label_studio.xml", "summary.csv", "table.md")
)
"""Two of these beside each other, and apl wrote the folder."""
IMAGE_WORDS = frozenset(
    "image images img imgs photo photos picture pictures jpg jpeg jpegs png pngs rgb raw "
    "original originals".split()
)
SIDE_WORDS = frozenset(
    "mask masks segmentation segmentations seg annotation annotations label labels gt groundtruth "
    "ground_truth thumb thumbs thumbnail thumbnails preview previews depth edge edges overlay "
    "overlays heatmap heatmaps".split()
)
"""What folders are called with something made of the images beside them."""
_SIDE = re.compile(r"[ ._-]*(mask|masks|seg|segmentation|gt|thumb|thumbnail)(_\d+)?$", re.I)
_FILLERS = frozenset("set sets data dataset image images img imgs photos split splits".split())
_BOTH = "--layout classes or --layout splits says otherwise"


@dataclass
class Folder:
    """A folder and all below it, without hidden ones; links to folders are not followed.  within:
    its path below the root, with a slash at its end, '' of the root itself."""

    path: str
    name: str
    within: str = ""
    files: list[os.DirEntry[str]] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)

    @functools.cached_property
    def here(self) -> int:
        """How many of its own files are called images."""
        return sum(suffix_of(file.name) in SUFFIXES for file in self.files)

    @functools.cached_property
    def count(self) -> int:
        """How many files in it and below are called images."""
        return self.here + sum(folder.count for folder in self.folders)

    @property
    def filled(self) -> list[Folder]:
        """Its folders that have images in them or below."""
        return [folder for folder in self.folders if folder.count]

    def below(self) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Every file in it and below, each with what its folder is within."""
        yield from ((self.within, file) for file in self.files)
        for folder in self.folders:
            yield from folder.below()


class Tree(NamedTuple):
    """What was found below a folder, and which folders were left out because of their names."""

    top: Folder
    kept: Counter[str]
    ours: list[str]
    broken: list[tuple[str, str]]


class Unit(NamedTuple):
    """A folder that is a class, in a split where it is in one."""

    label: str
    split: str
    folder: Folder


# --------------------------------------------------------------------------------- what is there


def scan(root: Path, skip: Sequence[str] = ()) -> Tree:
    """The tree below a folder, without folders of these names, those that programs keep and those
    that apl wrote; `none` among the names is for all.  Raises OSError for the folder itself."""
    tree = Tree(Folder(os.fspath(root), root.name), Counter(), [], [])
    _scan(tree.top, tree, root, frozenset(name.casefold() for name in skip))
    return tree


def _scan(folder: Folder, tree: Tree, root: Path, skip: frozenset[str]) -> None:
    for entry in sorted(os.scandir(folder.path), key=lambda entry: entry.name):
        name = entry.name
        if name.startswith("."):  # .DS_Store, .thumbnails, what macOS writes beside each file
            continue
        if entry.is_dir(follow_symlinks=False):
            if name.casefold() in (skip if NONE in skip else skip | KEPT):
                tree.kept[name] += 1
                continue
            inner = Folder(entry.path, name, f"{folder.within}{name}/")
            try:
                _scan(inner, tree, root, skip)
            except OSError as error:
                tree.broken.append((relative(entry.path, root), why_not(error)))
                continue
            if NONE not in skip and _is_ours(inner):
                tree.ours.append(relative(entry.path, root))
            else:
                folder.folders.append(inner)
        elif entry.is_symlink() and os.path.isdir(entry.path):
            tree.broken.append((relative(entry.path, root), "a link to a folder"))
        else:
            folder.files.append(entry)


def _is_ours(folder: Folder) -> bool:
    """Whether apl wrote a folder: results of a study or a search, or the pictures of noise."""
    names = {file.name for file in folder.files}
    inner = {each.name for each in folder.folders}
    if len(OURS & names) > 1 or (OURS & names and inner & {"runs", "run", "pictures"}):
        return True
    if folder.name == "runs" and not folder.here:
        return any("config.json" in {file.name for file in run.files} for run in folder.folders)
    if "config.json" in names and "noise.npz" in names:
        return True
    stems = {os.path.splitext(name)[0] for name in names if name.endswith(".npz")}
    return folder.name == "noise" and bool(stems) and not folder.folders


def relative(path: str, root: Path) -> str:
    """The path below the root, with slashes."""
    return os.path.relpath(path, root).replace(os.sep, "/")


# ------------------------------------------------------------------------------------ what it is


def split_of(name: str) -> tuple[str, tuple[str, ...]]:
    """The split that a name tells, '' where it tells none, and the words that it has beside it:
    `test_set` is test, `seg_train` train and `seg`."""
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word not in ("", *_FILLERS)]
    words = [re.sub(r"(set|\d+)$", "", word) or word for word in words]
    found = [word for word in words if word in SPLITS]
    if len(found) != 1:
        return "", ()
    return SPLITS[found[0]], tuple(word for word in words if word not in SPLITS)


def splits_among(names: Sequence[str]) -> dict[str, str]:
    """Which of these names are splits; one with further words only where two have the same."""
    told = {name: split_of(name) for name in names}
    beside: dict[tuple[str, ...], set[str]] = {}
    for split, rest in told.values():
        beside.setdefault(rest, set()).add(split)
    return {
        name: split
        for name, (split, rest) in told.items()
        if split and (not rest or len(beside[rest] - {""}) > 1)
    }


def class_folders(top: Folder, layout: str = "") -> int:
    """How many folders of classes there are, those of the split with the most where there are
    splits; folders that are called splits, or images, are none."""
    found = [len(folder.filled) for folder, _ in _tops(top, layout, [])[0]]
    own = {folder.name for folder in top.filled}
    if len(found) == 1 and (splits_among(sorted(own)) or {n.lower() for n in own} & IMAGE_WORDS):
        return 0
    return max(found, default=0)


def _tops(top: Folder, layout: str, notes: list[str]) -> tuple[list[tuple[Folder, str]], list[str]]:
    """The folders that have folders of classes, each with its split, and which are read as
    neither."""
    if layout == "classes":
        return [(top, "")], []
    named = splits_among([folder.name for folder in top.folders])
    splits = [folder for folder in top.folders if folder.name in named and _has_classes(folder)]
    others = [folder for folder in top.folders if folder not in splits]
    rivals = [folder for folder in others if folder.count and folder.name not in named]
    if layout != "splits" and splits and _are_classes(splits, rivals):
        names = some_of([folder.name for folder in splits])
        notes.append(f"read as classes, like the folders beside them: {names} ({_BOTH})")
        splits = []
    if splits:
        opened = [(_same(folder), named[folder.name]) for folder in splits]
        return opened, sorted(folder.name for folder in others)
    inner = _only(top, notes)
    if inner is not top:
        return _tops(inner, layout, notes)
    return [(top, "")], []


def _has_classes(folder: Folder) -> bool:
    """Whether most of its images lie in folders of it: it may be a split, and is no class."""
    return sum(inner.count for inner in folder.folders) > folder.here or (
        not folder.here and bool(folder.folders)
    )


def _are_classes(splits: Sequence[Folder], others: Sequence[Folder]) -> bool:
    """Whether folders that are called splits are classes like those beside them: all have folders
    of the same names in them, or it is a single one among several with images of their own."""
    if not others:
        return False
    alike = [{inner.name for inner in folder.filled} for folder in (*splits, *others)]
    if all(alike) and all(names == alike[0] for names in alike):
        words = {name.lower() for name in alike[0]}
        return bool(words & (IMAGE_WORDS | SIDE_WORDS)) or len(words) == 1
    return len(splits) == 1 and len(others) > 1 and all(folder.here for folder in others)


def _only(folder: Folder, notes: list[str]) -> Folder:
    """The folder that all its images lie in, where that has folders of classes: what was unpacked
    often lies one deeper.  Of `images` beside `masks` the first."""
    inner = folder.filled
    chosen = [each for each in inner if each.name.lower() in IMAGE_WORDS]
    beside = [each for each in inner if each.name.lower() in SIDE_WORDS]
    if len(inner) > 1 and len(chosen) == 1 and len(chosen) + len(beside) == len(inner):
        left = some_of([each.name for each in beside])
        if not folder.here and len(chosen[0].filled) > 1:
            notes.append(f"read: {chosen[0].name}; not read, as they seem made of it: {left}")
            return _only(chosen[0], notes)
    if folder.here or len(inner) != 1 or inner[0].here:
        return folder
    notes.append(f"read: {inner[0].name}, the only folder with images in {folder.name}")
    return _only(inner[0], notes)


def _same(split: Folder) -> Folder:
    """The folder of a split that has its classes: `seg_train/seg_train`, `train/images`."""
    inner = split.filled
    if split.here or len(inner) != 1 or inner[0].here:
        return split
    name = inner[0].name.lower()
    return inner[0] if name == split.name.lower() or name in IMAGE_WORDS else split


def _units(tops: Sequence[tuple[Folder, str]], layout: str, notes: list[str]) -> list[Unit]:
    """The classes; those with folders of splits inside, CLASS/train and CLASS/test, in these."""
    units = [Unit(each.name, split, each) for top, split in tops for each in top.folders]
    filled = [unit for unit in units if unit.folder.count]
    if layout or len(tops) > 1 or not filled:
        return units
    inside = [splits_among([each.name for each in unit.folder.filled]) for unit in filled]
    whole = all(
        named and len(named) == len(unit.folder.filled) and not unit.folder.here
        for named, unit in zip(inside, filled, strict=True)
    )
    splits = {split for named in inside for split in named.values()}
    if not whole or len(splits) < 2:
        return units
    names = some_of(sorted({name for named in inside for name in named}))
    notes.append(f"splits inside the classes: {names} (--layout classes takes them as one)")
    return [
        Unit(unit.label, named[each.name], each)
        for named, unit in zip(inside, filled, strict=True)
        for each in unit.folder.filled
    ]


# ------------------------------------------------------------------------------- what is read


def list_folder(root: Path, reading: Reading, tree: Tree | None = None) -> Listing:
    """ROOT/CLASS/.../x.png, ROOT/SPLIT/CLASS/.../x.png or ROOT/CLASS/SPLIT/x.png, which of these is
    judged by all folders; `reading.layout` says it, `reading.skip` names folders that are not read.

    Raises BadInput where there are no classes.
    """
    tree = tree or scan(root, reading.skip)
    found = Listing(root, broken=list(tree.broken))
    tops, outside = _tops(tree.top, reading.layout, found.notes)
    top, split = tops[0]
    names = [folder.name for folder in top.filled]  # beside folders of boxes, masks and the like
    if not top.here and names and (len(tops), split, reading.layout) == (1, "", ""):
        named = splits_among(names)
        if len(named) == len(names):
            raise BadInput(
                f"{root} has splits without folders of classes ({', '.join(names)}); accepted: "
                f"{root.name}/{names[0]}/CLASS/x.png (--layout classes where these are classes)"
            )
    if reading.layout == "splits" and tops == [(tree.top, "")]:
        raise BadInput(f"layout is 'splits', but {root} has no folders such as train and test")
    called = {folder.name.lower() for folder in tree.top.filled}
    flat = len(called) > 1 and called & IMAGE_WORDS and called <= IMAGE_WORDS | SIDE_WORDS
    if flat and tops == [(tree.top, "")] and not reading.layout:
        raise BadInput(
            f"{root} has no folders of classes, as its folders are called what lies in them "
            f"({some_of(sorted(called))}); accepted: a list of the labels beside them, or --layout "
            "classes where these are classes"
        )
    _check_height(tree.top, tops, reading, root)
    units = _units(tops, reading.layout, found.notes)
    _tell_inner(units, found.notes)
    everything = NONE in reading.skip
    for split in dict.fromkeys(split for _, split in tops):
        mine = [top for top, its in tops if its == split]
        here = [unit for unit in units if len(tops) == 1 or unit.split == split]
        _list_units(found, mine, here, split, everything)
    if outside:
        found.notes.append(f"not read, as they are no splits with classes: {some_of(outside)}")
    if tree.kept:
        kept = some_of([f"{name} ({count:,})" for name, count in tree.kept.most_common()])
        found.notes.append(f"not read, folders that programs keep or --skip names: {kept}")
    if tree.ours:
        found.notes.append(f"not read, folders that apl wrote: {some_of(sorted(tree.ours))}")
    if not found.samples:
        raise BadInput(_nothing(root, found, tree.top))
    return found


def _check_height(
    top: Folder, tops: Sequence[tuple[Folder, str]], reading: Reading, root: Path
) -> None:
    """BadInput where the folder is one too high: a folder of it has classes, and others have none
    that compare with them."""
    if reading.layout or tops != [(top, "")] or any(folder.here for folder in top.filled):
        return
    whole = [folder for folder in top.filled if sum(bool(f.here) for f in folder.filled) > 1]
    if len(top.filled) < 2 or len(whole) != 1:
        return
    likely = whole[0]
    beside = {each.name for folder in top.filled if folder is not likely for each in folder.filled}
    inner = {folder.name for folder in likely.filled}
    if inner & beside or {name.lower() for name in inner} & (IMAGE_WORDS | SIDE_WORDS):
        return  # folders of one kind inside each class
    raise BadInput(
        f"{root} looks like one folder too high: all its images lie two folders deep; the likely "
        f"one is {os.path.join(root, likely.name)}, with {likely.count:,} of {top.count:,} images "
        f"in {len(likely.filled)} folders (--layout classes takes it as it is)"
    )


def _tell_inner(units: Sequence[Unit], notes: list[str]) -> None:
    """Tell of folders inside the classes, which are part of these."""
    inner = Counter(each.name for unit in units for each in unit.folder.filled)
    inner = Counter({n: k for n, k in inner.items() if n.lower() not in IMAGE_WORDS | SIDE_WORDS})
    if inner:
        names = some_of([name for name, _ in inner.most_common()])
        each = [{folder.name for folder in unit.folder.filled} for unit in units]
        alike = len(units) > 1 and len(each[0]) > 1 and all(one == each[0] for one in each)
        hint = f"; where they are the classes, give {units[0].label} alone" if alike else ""
        notes.append(f"folders inside the classes are part of these: {names}{hint}")


def _list_units(
    found: Listing, tops: Sequence[Folder], units: Sequence[Unit], split: str, everything: bool
) -> None:
    """The samples of these classes, and what was left out of them."""
    empty: set[str] = set()
    spelled: dict[str, list[str]] = {}
    made: Counter[str] = Counter()
    other: set[str] = set()
    others = outside = 0
    home = os.path.realpath(found.root) + os.sep
    before = len(found.samples)
    for top in tops:
        outside += top.here
    for written, its, folder in units:
        count, label = 0, tidy(written)
        spelled.setdefault(label, []).append(written)
        for within, file in folder.below() if everything else _pictures(folder, made):
            suffix = suffix_of(file.name)
            if suffix not in SUFFIXES:
                other.add(suffix or file.name)
                others += 1
                continue
            count += 1
            name = within + file.name
            try:
                info = file.stat()
                if file.is_symlink() and not os.path.realpath(file.path).startswith(home):
                    found.broken.append((name, "a link out of the folder"))
                elif not stat.S_ISREG(info.st_mode):
                    found.broken.append((name, "no regular file"))
                else:
                    at = (info.st_size, info.st_mtime_ns)
                    found.samples.append(Sample(name, file.path, label, "", its, at))
            except OSError as error:
                found.broken.append((name, why_not(error)))
        if not count:
            empty.add(label)
    where = f" in {split}" if split else ""
    if empty:
        found.notes.append(f"left out{where}, classes without images: {some_of(sorted(empty))}")
    for label, folders in spelled.items():
        if len({*folders}) > 1:
            names = ", ".join(map(ascii, sorted({*folders})))
            found.notes.append(f"folders of one class{where}, {label}: {names}")
    if made:
        kinds = some_of([f"{name} ({count:,})" for name, count in made.most_common()])
        found.notes.append(
            f"not read{where}, made of the images beside them: {kinds}; --skip none reads all"
        )
    if outside and len(found.samples) > before:
        found.notes.append(f"not read{where}: {outside:,} images outside the folders of classes")
    if other:
        kinds = some_of(sorted(other))
        found.notes.append(f"not read{where}: {others:,} files that are not called images: {kinds}")


def _pictures(folder: Folder, made: Counter[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files of a class but masks, thumbnails and the like of other images of it, which are
    counted by what they are called."""
    stems = {file.name.rpartition(".")[0] or file.name for file in folder.files}
    for file in folder.files:
        stem = file.name.rpartition(".")[0] or file.name
        base = _SIDE.sub("", stem) if stem[-1:].isalnum() else stem
        if base != stem and base in stems and suffix_of(file.name) in SUFFIXES:
            made[f"*{stem[len(base) :]}"] += 1
        else:
            yield folder.within, file
    sides = [each for each in folder.filled if each.name.lower() in SIDE_WORDS]
    rest = [each for each in folder.folders if each not in sides]
    named = any(each.name.lower() in IMAGE_WORDS for each in rest if each.count)
    for each in rest:
        yield from _pictures(each, made)
    for side in sides:
        if named or _made_of(side, stems, rest):
            made[side.name] += side.count
        else:
            yield from _pictures(side, made)


def _made_of(side: Folder, stems: set[str], rest: Sequence[Folder]) -> bool:
    """Whether most files of a folder are called as others beside it are."""
    beside = stems | {os.path.splitext(f.name)[0] for each in rest for _, f in each.below()}
    own = [os.path.splitext(file.name)[0] for _, file in side.below()]
    return 2 * sum(n in beside or _SIDE.sub("", n) in beside for n in own) > len(own)


def _nothing(root: Path, found: Listing, top: Folder) -> str:
    """Why there are no images: what was met instead."""
    other = next((file.name for file in top.files if hint(Path(file.name))), "")
    met = [f"{some_of([other])} is {hint(Path(other))}"] if other else []
    met += [note for note in found.notes if note.startswith(("not read", "left out"))]
    if found.broken:
        name, why = found.broken[0]
        met.append(f"{len(found.broken):,} left out, as {some_of([name])}: {why}")
    told = f" ({'; '.join(met[:3])})" if met else ""
    return (
        f"{root} has no images in folders of classes{told}; accepted: {root.name}/CLASS/x.png or "
        f"{root.name}/train/CLASS/x.png, with {' '.join(sorted(SUFFIXES))}"
    )
