"""A backbone: what makes rows of numbers out of images or texts, and what decides these."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apl.errors import BadInput
from apl.features.catalog import kind_of

VERSION = 1  # of how samples are prepared; another one is computed anew

Rows = Any  # float [B, F], an array or a tensor


@dataclass(frozen=True)
class Sight:
    """How a backbone of images looks at one, for a copy of it elsewhere: the middle square, resized
    to `size` pixels a side as `to_input` does, then (x - mean) / std of pixels from 0 to 255, then
    its network, which takes [B, 3, size, size] to features [B, F]."""

    network: Any
    size: int
    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True)
class Backbone:
    """What makes features.

    of: a batch of samples, uint8 images [B, H, W, C] as a tensor or texts as a list, to rows
    [B, F].  decided_by: all that decides the numbers, as JSON holds it.  batch: samples at a time;
    parallel: whether several threads may call it at once.  sight: of a network of images how it
    looks at them, None of others.
    """

    name: str
    of: Callable[[Any], Rows]
    decided_by: Mapping[str, Any]
    batch: int = 16
    parallel: bool = True
    notes: Sequence[str] = field(default_factory=tuple)
    sight: Sight | None = None

    @property
    def key(self) -> str:
        """A digest of what decides its numbers."""
        content = json.dumps([VERSION, self.name, dict(self.decided_by)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def require_kind(name: str, kind: str, dataset: str) -> None:
    """Raise BadInput unless features are of such samples: 'images', 'texts' or 'rows'."""
    of = kind_of(name)
    if kind == "rows" or of not in ("", kind):
        what = {"rows": "a table of numbers", "images": "images", "texts": "texts"}[kind]
        of = of or "images or texts"
        raise BadInput(f"features are {name!r}, of {of}, but {dataset} is {what}: leave them out")
