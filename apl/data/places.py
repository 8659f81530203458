"""Where the files lie that a list names: beside it, or in any folder below."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
import urllib.parse
from pathlib import Path
from typing import NamedTuple

from apl.data.listing import SUFFIXES, suffix_of, why_not
from apl.data.trees import KEPT
from apl.errors import BadInput
from apl.paths import user_path

MOST_FOLDERS = 20_000  # that are looked through for files: a list may lie in a home folder


class Place(NamedTuple):
    """A file that a list names: its path below the folder, the whole one, its size and time;
    searched: whether the name alone does not lead there."""

    name: str
    path: str
    stat: tuple[int, int]
    searched: bool


def _folded(name: str) -> str:
    """A name as names are compared: in small letters, each accent one with its letter."""
    return (name if name.isascii() else unicodedata.normalize("NFC", name)).casefold()


class Places:
    """The files that a list may name: regular ones below its folder, or below `image_folder`.

    A name is a path from there, or ends one, with or without its suffix: `ISIC_0027419` for
    `HAM10000_images_part_1/ISIC_0027419.jpg`.  It may be a whole path of another machine or an
    address that ends with such a path, `C:\\photos\\cat\\1.png` or `file:///photos/cat/1.png`,
    with signs written as %20, and an accent however it is written.  Raises BadInput
    where image_folder is none.
    """

    def __init__(self, path: Path, image_folder: str = "") -> None:
        self.beside = path.parent
        self.root = user_path(image_folder) if image_folder else path.parent
        if not self.root.is_dir():
            raise BadInput(
                f"image_folder is {image_folder!r}, where no folder is; accepted: the folder that "
                "the files lie in, or none where the list names no files"
            )
        self.top = os.path.realpath(self.root)
        self.cut = False  # whether there were more folders than are looked through
        self._index: dict[str, list[str]] | None = None  # paths below the root, by name and stem
        self._numbers: dict[int, list[str]] = {}  # by a stem that is a number
        self._inside: dict[str, bool] = {}

    def find(self, name: str, hints: tuple[str, ...] = ()) -> Place | str:
        """The file of that name, or why there is none.  hints: of several files, the one in
        folders that are called so is meant."""
        outside, named = "", name.replace("\\", "/") if os.sep == "/" else name
        for each in dict.fromkeys((name, named)):
            for base in dict.fromkeys((self.beside, self.root)):
                path = os.path.join(base, each)
                try:
                    info = os.lstat(path)
                except (OSError, ValueError) as error:  # ValueError: a null byte in the name
                    if not isinstance(error, FileNotFoundError | NotADirectoryError):
                        return why_not(error)
                    continue
                found = self._take(each, path, info)
                if isinstance(found, Place):
                    return found
                outside = found
        if outside:
            return outside
        named = re.sub(r"^file:(//[^/]*)?(?=/)", "", named.strip())
        found = self._search(named, hints)
        plain = urllib.parse.unquote(named)
        return self._search(plain, hints) if isinstance(found, str) and plain != named else found

    def has(self, name: str) -> bool:
        """Whether any file may be meant by a name."""
        name = name.replace("\\", "/")
        return bool(self._candidates(name)) or os.path.isfile(os.path.join(self.root, name))

    def _take(self, name: str, path: str, info: os.stat_result) -> Place | str:
        """A file that is there, or why it is not taken: what lies elsewhere is nobody's to show."""
        away = "it lies outside of the list's folder: --image-folder says where the files lie"
        folder = os.path.dirname(path)
        if folder not in self._inside:
            self._inside[folder] = self._is_inside(folder)
        if not self._inside[folder]:
            return away
        if stat.S_ISLNK(info.st_mode):
            if not self._is_inside(path):
                return away
            try:
                info = os.stat(path)
            except OSError as error:
                return why_not(error)
        if not stat.S_ISREG(info.st_mode):
            return "no regular file"
        own = os.path.join(self.root, name) == path and not os.path.isabs(name)
        below = name if own else os.path.relpath(path, self.root).replace(os.sep, "/")
        if below.startswith("../"):
            below = os.path.relpath(os.path.realpath(path), self.top).replace(os.sep, "/")
        return Place(below, path, (info.st_size, info.st_mtime_ns), False)

    def _is_inside(self, path: str) -> bool:
        whole = os.path.realpath(path)
        return whole == self.top or whole.startswith(os.path.join(self.top, ""))

    def _search(self, name: str, hints: tuple[str, ...]) -> Place | str:
        found = self._candidates(name)
        if len(found) > 1:
            hinted = {hint.casefold() for hint in hints if hint}
            near = [path for path in found if hinted & {*path.casefold().split("/")[:-1]}]
            found = near if len(near) == 1 else found
        if not found:
            more = f", in the first {MOST_FOLDERS:,} folders" if self.cut else ""
            return f"no such file{more}"
        if len(found) > 1:
            return f"several files of that name: {', '.join(found[:3])}"
        path = os.path.join(self.root, found[0])
        try:
            place = self._take(found[0], path, os.lstat(path))
        except OSError as error:
            return why_not(error)
        return place if isinstance(place, str) else place._replace(searched=True)

    def _candidates(self, name: str) -> list[str]:
        """The files below the root whose paths a name ends, but for their suffix."""
        index = self._files()
        name = _folded(name.strip("/"))
        folder, _, last = name.rpartition("/")
        found = index.get(last, [])
        if not found and last.isdecimal():
            found = self._numbers.get(int(last), [])
        if folder:
            ends = [path for path in found if f"/{_folded(path)}".rpartition("/")[0]
                    .endswith(f"/{folder}")]  # fmt: skip
            # The other way round, of a path from elsewhere: all of the file's is in the name.
            ends = ends or [path for path in found if f"/{name}".endswith(f"/{_folded(path)}")]
            found = ends or (found if len(found) == 1 else [])
        return found

    def _files(self) -> dict[str, list[str]]:
        if self._index is None:
            self._index = {}
            folders = [""]
            for place, folder in enumerate(folders):  # which grows while it is gone through
                if place >= MOST_FOLDERS:
                    self.cut = True
                    break
                folders += self._add(folder)
        return self._index

    def _add(self, folder: str) -> list[str]:
        """Enter the images of a folder; the folders in it."""
        assert self._index is not None
        inner = []
        try:
            entries = sorted(os.scandir(self.root / folder), key=lambda entry: entry.name)
        except OSError:
            return []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name.casefold() not in KEPT:
                    inner.append(path)
            elif suffix_of(entry.name) in SUFFIXES:
                name = _folded(entry.name)
                stem = os.path.splitext(name)[0]
                self._index.setdefault(name, []).append(path)
                self._index.setdefault(stem, []).append(path)
                if stem.isdecimal():
                    self._numbers.setdefault(int(stem), []).append(path)
        return inner
