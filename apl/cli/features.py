"""What a command tells of features, which it computes before it goes on to train."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from apl.cli.console import console, counting
from apl.features.catalog import NONE, advice, says

if TYPE_CHECKING:
    from apl.config.config import Config
    from apl.data.dataset import Dataset
    from apl.training.machine import Machine

DECIDE = ("dataset", "dataset_sha256", "features", "weights", "train_size", "map", "labels")
"""The fields of a config by which it needs the features of other samples."""


def features_first(cells: Sequence[Config], machine: Machine, own: Dataset | None) -> None:
    """Compute the features of all cells that are not in the cache yet; own: the user's data, None
    for a built-in set."""
    out = console()
    different = {
        (*(getattr(cell, name) for name in DECIDE), cell.fresh_data and cell.seed): cell
        for cell in cells
    }
    if own is not None and own.kind == "images" and all(c.features == NONE for c in cells):
        typed = any("features" in (cell.typed or ()) for cell in cells)
        line = "" if typed else advice(tuple(own.train.images.shape[1:]))
        if line:
            out.print(line, markup=False)
    told: set[str] = set()
    for cell in different.values():
        if cell.features == NONE:
            if own is not None and own.kind == "texts":
                out.print("features none: learned from the other columns, not from the texts")
            continue
        from apl.training.prepare import embedding, prepare

        if cell.features not in told:
            out.print(f"features: {says(cell.features)}", markup=False)
            told.add(cell.features)
        computed, began = 0, time.monotonic()
        with counting("computing features", out) as count:

            def progress(done: int, total: int) -> None:
                nonlocal computed
                computed = total
                count(done, total)

            prepare(cell, machine, own, embedding(cell, machine, say=out.print, progress=progress))
        if computed:
            seconds = time.monotonic() - began
            out.print(f"computed for {computed:,} samples in {seconds:.0f} s, kept in the cache")
