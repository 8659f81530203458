"""How people's own data are read: what the files themselves don't say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apl.errors import require

LARGEST = 1024  # pixels a side


@dataclass(frozen=True)
class Reading:
    """How data of the user's own are read.

    image_size: pixels a side; 0 for the images' own where all are square, of one size and of at
    most 64 pixels, else 64.  label_column: the column of a list with the labels.  test_set: which
    test set of a published data set, where it has two.  max_broken: the share of the files or rows
    that may be left out because they can't be read; a single one may.
    Raises BadInput for what is none of these.
    """

    image_size: int = 0
    label_column: str = "label"
    test_set: str = ""
    max_broken: float = 0.01

    def __post_init__(self) -> None:
        sizes = f"1 to {LARGEST}, or 0 for the data's own"
        require(0 <= self.image_size <= LARGEST, "image_size", self.image_size, sizes)
        share = 0 <= self.max_broken <= 1
        require(share, "max_broken", self.max_broken, "a number from 0 to 1")

    @classmethod
    def of(cls, settings: Mapping[str, Any], **others: Any) -> Reading:
        """What settings, such as those of a config, say of the reading, and what `others` do."""
        named = {field.name for field in dataclasses.fields(cls)}
        said = {name: settings[name] for name in named if settings.get(name) is not None}
        return cls(**dict(said, **others))


AS_USUAL = Reading()
