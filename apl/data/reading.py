"""How people's own data are read: what the files themselves don't say."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from apl.errors import require
from apl.names import SIDE

LARGEST = 1024  # pixels a side
LAYOUTS = ("", "classes", "splits")
"""What the folders of a folder may be: ROOT/CLASS/x.png, or ROOT/SPLIT/CLASS/x.png."""


@dataclass(frozen=True)
class Reading:
    """How data of the user's own are read.

    image_size: pixels a side; 0 for the images' own where all are square, of one size and of at
    most 64 pixels, else 64.  label_column: the column of a list with the labels.  test_set: which
    test set of a published data set, where it has two.  max_broken: the share of the files or rows
    that may be left out because they can't be read; a single one may.  classes: the names of the
    classes, others are left out; () for all that training samples have.  What is named there is a
    class in any case, `NA` and -1 too.  max_pixels: an image with more is not read, unless it is a
    JPEG, which can be decoded smaller.  image_folder: where the files of a list lie, '' for below
    its folder; `none`: it names no files.  layout: what the folders of a folder are, one of
    LAYOUTS, '' where that is judged.  skip: names of folders that are not read, beside those that
    programs keep; `none`: each is read.  text_column: of a table, the one with texts,
    '' where that is judged; `none`: there is none.  side: what stands for the 64 of image_size,
    where features want to see more.
    Raises BadInput for what is none of these.
    """

    image_size: int = 0
    label_column: str = "label"
    test_set: str = ""
    max_broken: float = 0.01
    classes: tuple[str, ...] = ()
    max_pixels: int = 89_478_485  # a quarter of a gigabyte, as Pillow warns of
    image_folder: str = ""
    layout: str = ""
    skip: tuple[str, ...] = ()
    text_column: str = ""
    side: int = SIDE

    def __post_init__(self) -> None:
        sizes = f"1 to {LARGEST}, or 0 for the data's own"
        require(0 <= self.image_size <= LARGEST, "image_size", self.image_size, sizes)
        require(1 <= self.side <= LARGEST, "side", self.side, f"1 to {LARGEST}")
        share = 0 <= self.max_broken <= 1
        require(share, "max_broken", self.max_broken, "a number from 0 to 1")
        require(self.max_pixels >= 1, "max_pixels", self.max_pixels, "a whole number >= 1")
        require(self.layout in LAYOUTS, "layout", self.layout, ", ".join(filter(None, LAYOUTS)))
        different = len({*self.classes}) == len(self.classes) != 1
        require(different, "classes", ", ".join(self.classes), "two different names or more")

    @classmethod
    def of(cls, *settings: Mapping[str, Any]) -> Reading:
        """What settings, such as those of a config and of a machine, say of the reading."""
        named = [field.name for field in dataclasses.fields(cls)]
        said = {
            name: each[name]
            for each in settings
            for name in named
            if each.get(name) not in (None, "")
        }
        said |= {name: names_of(said[name]) for name in ("classes", "skip") if name in said}
        return cls(**said)


def names_of(names: str | Iterable[object]) -> tuple[str, ...]:
    """Names as people give them: in a text, with commas between them and quotes around one that
    has a comma, or one by one."""
    if isinstance(names, str):
        names = [name.strip() for name in next(csv.reader([names], skipinitialspace=True), [])]
    return tuple(map(str, names))


AS_USUAL = Reading()
