"""What trained networks say of new samples, as a table that is written while they are read.

The rows go into a file beside the table, a batch at a time, and the table is there once it has all
of them: one that is there is whole.  A command that was killed goes on after the rows that it had
written, where the same runs are asked about the same samples; else it begins anew.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apl.data.images import Plan
from apl.data.listing import Listing, Sample
from apl.data.reading import AS_USUAL
from apl.data.samples import files_of, read_files
from apl.errors import BadInput
from apl.files import plain, table_bytes, unharmed, write_atomic
from apl.training.evaluate import BATCH
from apl.training.use import Probabilities, Trained, agreed, mean_of

COLUMNS = ("file_name", "predicted_label", "probability")


@dataclass
class Told:
    """What a table of predictions holds: how many rows, and how many of them are of samples that
    were trained on; which samples can't be read, and why; of those whose label is one of the
    classes how many, and how many are predicted so, the same of those that were not trained on;
    and the other labels, with how many samples each."""

    rows: int = 0
    trained: int = 0
    broken: list[tuple[str, str]] = field(default_factory=list)
    labelled: int = 0
    right: int = 0
    new_labelled: int = 0
    new_right: int = 0
    strange: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Question:
    """Several runs asked about the samples of listings; every: with a column for each class; most:
    pixels of an image that may be read; trained: the samples, by their places, that a run was
    trained on, as far as that is known.  Raises BadInput for what does not fit together."""

    runs: Sequence[Trained]
    listings: Sequence[Listing]
    every: bool = False
    most: int = AS_USUAL.max_pixels
    trained: Collection[int] = ()

    def __post_init__(self) -> None:
        agreed(self.runs)
        for run in self.runs:
            for listing in self.listings:
                _check_kind(run, listing)

    @property
    def samples(self) -> list[Sample]:
        """All samples in the order of the table."""
        return [sample for listing in self.listings for sample in listing.samples]

    @property
    def columns(self) -> list[str]:
        """The names of the table's columns."""
        names = self.runs[0].class_names if self.every else ()
        return [*COLUMNS, *(plain(f"probability_{name}") for name in names)]

    def row(self, name: str, said: Any) -> list[str]:
        """The row of a sample, by its name and its probabilities [K]."""
        best = int(said.argmax())
        more = said if self.every else ()
        label = plain(self.runs[0].class_names[best])
        return [plain(name), label, *(f"{float(each):.6g}" for each in (said[best], *more))]

    @property
    def key(self) -> str:
        """A digest of what decides the table."""
        runs = [[run.config.to_json(), run.temperature, run.class_names] for run in self.runs]
        about = [self.every, self.most, runs, [tuple(sample) for sample in self.samples]]
        content = json.dumps(about).encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).hexdigest()


def write_predictions(
    asked: Question,
    path: Path,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Told:
    """Write the table of what is asked, a row a sample that can be read, in their order; what it
    holds.  say gets lines to tell, progress the samples that are done and in all."""
    samples = asked.samples
    part = path.with_name(f"{path.name}.{asked.key[:12]}.part")
    for other in map(Path, glob.glob(f"{glob.escape(str(path))}.*.part")):
        if other != part:
            other.unlink()
            say(f"begun anew: {other.name} was of other samples or another run")
    kept = _kept(part, asked, samples)
    if kept:
        say(f"going on: {len(kept):,} of {len(samples):,} rows were written before")
    told = Told(broken=[each for listing in asked.listings for each in listing.broken])
    for place, row in kept.items():
        _count(told, asked, samples, place, row[1])
    write_atomic(part, table_bytes(asked.columns, kept.values()))
    with part.open("ab") as file:
        for places, said in _said(asked, [i for i in range(len(samples)) if i not in kept], told):
            rows = [asked.row(samples[i].name, each) for i, each in zip(places, said, strict=True)]
            for i, row in zip(places, rows, strict=True):
                _count(told, asked, samples, i, row[1])
            file.write(table_bytes(rows[0], rows[1:]))
            file.flush()
            progress(told.rows + len(told.broken), len(samples))
        os.fsync(file.fileno())
    os.replace(part, path)
    return told


def _kept(part: Path, asked: Question, samples: Sequence[Sample]) -> dict[int, list[str]]:
    """The whole rows of a half-written table, by the places of their samples."""
    try:
        text = part.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    rows = list(csv.reader(io.StringIO(text, newline="")))
    columns = len(asked.columns)
    kept: dict[int, list[str]] = {}
    place = 0
    for row in rows[1:-1]:  # the last one may be cut
        cells = [unharmed(cell) for cell in row]
        while place < len(samples) and plain(samples[place].name) != cells[0]:
            place += 1  # it could not be read, and is looked at again
        if len(cells) != columns or place == len(samples):
            return {}
        kept[place] = cells
        place += 1
    return kept


def _said(
    asked: Question, todo: Sequence[int], told: Told
) -> Iterator[tuple[list[int], Probabilities]]:
    """Batch by batch: which of the samples to do can be read, and what the runs say of them."""
    start = 0
    for listing in asked.listings:
        end = start + len(listing.samples)
        mine = [i - start for i in todo if start <= i < end]
        in_files = listing.columns is None and listing.pixels is None
        with files_of(listing) as paths:
            for begin in range(0, len(mine), BATCH):
                chosen = mine[begin : begin + BATCH]
                pixels: dict[Plan, torch.Tensor] = {}
                if in_files:
                    plans = {run.inputs.plan for run in asked.runs}
                    pixels, problems = _read([paths[i] for i in chosen], plans, asked.most)
                    told.broken += [
                        (listing.samples[chosen[k]].name, problems[k]) for k in problems
                    ]
                    chosen = [i for k, i in enumerate(chosen) if k not in problems]
                if chosen:
                    parts = []
                    for run in asked.runs:
                        if in_files:
                            seen = run.embedded(pixels[run.inputs.plan])
                        else:
                            seen = _seen(run, listing, chosen)
                        parts.append((run, run.probabilities(seen)))
                    yield [start + i for i in chosen], mean_of(parts)
        start = end


def _read(
    paths: Sequence[str], plans: Iterable[Plan], most: int
) -> tuple[dict[Plan, torch.Tensor], dict[int, str]]:
    """The images that can be read, by each plan for how, and why others can't, by position."""
    read = {plan: read_files(paths, plan, most) for plan in plans}
    problems = {k: why for _, theirs in read.values() for k, why in sorted(theirs.items())}
    pixels = {}
    for plan, (images, theirs) in read.items():
        there = [k for k in range(len(paths)) if k not in theirs]
        pixels[plan] = torch.from_numpy(images[[k not in problems for k in there]])
    return pixels, problems


def _seen(run: Trained, listing: Listing, chosen: Sequence[int]) -> torch.Tensor:
    """The samples at these places, pixels or rows, as a run's network takes them."""
    if listing.pixels is not None:
        return run.seen(listing.pixels[np.array(chosen)])
    columns = listing.columns or {}
    cells = {name: [column[i] for i in chosen] for name, column in columns.items()}
    if listing.texts is not None:
        return run.texts_seen([listing.texts[i] for i in chosen], cells, listing.decimal)
    if run.inputs.kind == "texts":
        return run.texts_in(cells, listing.decimal)
    if run.inputs.kind == "vectors":
        return run.seen(np.array(list(cells.values()), np.float64).T)
    return run.rows_seen(cells, len(chosen), listing.decimal)


def _check_kind(run: Trained, listing: Listing) -> None:
    """Raise BadInput unless a run was trained on what is listed."""
    table = listing.columns is not None
    if table == (run.inputs.kind != "images"):
        return
    what = "a table" if table else "images"
    needs = {
        "images": "images",
        "texts": "texts, a column of a list",
        "rows": "rows of a table",
        "vectors": f"vectors as in {run.config.features}",
    }[run.inputs.kind]
    raise BadInput(f"{listing.root} has {what}, but {run.config.name} was trained on {needs}")


def _count(
    told: Told, asked: Question, samples: Sequence[Sample], place: int, predicted: str
) -> None:
    """Count the row of a sample, and whether it says what that is labelled."""
    sample, seen = samples[place], place in asked.trained
    told.rows += 1
    told.trained += seen
    if not sample.given:
        return
    if sample.given not in asked.runs[0].class_names:
        told.strange[sample.given] += 1
        return
    right = plain(sample.given) == predicted
    told.labelled += 1
    told.right += right
    told.new_labelled += not seen
    told.new_right += right and not seen
