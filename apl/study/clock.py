"""Time left of a study."""

from __future__ import annotations

import dataclasses
import heapq
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from apl.config.config import Config
from apl.runs.run import Run

RECENT = 50  # epochs of a loss, and cells, that the time left is estimated from


class Clock:
    """Time left: the cells to come are dealt out to the workers in their order, each at the seconds
    an epoch of its loss has taken so far.

    What lies between the last epoch of a cell and the first of the next (the final scores, the
    labels of the next cell, a compiler) is counted once for each cell to come, as seen so far.  How
    many workers there are is seen from the epochs that come in: a Ray cluster grows and shrinks.
    now: the time in seconds.
    """

    def __init__(
        self,
        cells: Iterable[Config],
        folders: dict[str, Path],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folders, self.now = folders, now
        self.waiting: dict[str, tuple[str, float]] = {}  # of each its epochs to come, in order
        self.at_work: dict[str, tuple[str, float, float]] = {}  # and when its last epoch ended
        self.idle: list[float] = []  # since when, of the workers between two cells
        self.epochs: dict[str, deque[float]] = {}  # seconds each
        self.between: deque[tuple[str, float]] = deque(maxlen=RECENT)  # the first epoch included
        self.ours: set[str] = set()
        self.theirs: set[str] = set()  # cells that others trained, or train
        for cell in cells:
            self.add(cell)

    def add(self, cell: Config) -> None:
        """A cell that is to be trained, less the epochs that its checkpoint has."""
        left = cell.epochs - Run(self.folders[cell.name]).epochs_done()
        self.waiting[cell.name] = _kind(cell), left
        self.theirs.discard(cell.name)

    def tick(self, cell: Config, epoch: float) -> None:
        """A cell has `epoch` epochs behind it."""
        now, kind, left = self.now(), _kind(cell), cell.epochs - epoch
        if cell.name in self.at_work:
            _, before, since = self.at_work[cell.name]
            if before > left:
                taken = self.epochs.setdefault(kind, deque(maxlen=RECENT))
                taken.append((now - since) / (before - left))
        elif self.idle:
            self.between.append((kind, now - self.idle.pop()))
        self.waiting.pop(cell.name, None)
        self.at_work[cell.name] = kind, left, now
        self.ours.add(cell.name)
        self.theirs.discard(cell.name)

    def drop(self, cell: Config, *, lost: bool = False) -> None:
        """A cell is done, or another process trains it; lost: its worker is gone."""
        if cell.name in self.at_work:
            *_, since = self.at_work.pop(cell.name)
            if not lost:
                self.idle.append(since)
        elif self.waiting.pop(cell.name, None) and not lost:
            self.theirs.add(cell.name)

    def seconds_left(self) -> float | None:
        """None while there is no pace yet, and where nothing is left for us."""
        if not (self.waiting or self.at_work) or not (self.epochs or self.between):
            return None
        pace = {kind: statistics.fmean(taken) for kind, taken in self.epochs.items()}
        usual = statistics.fmean(pace.values()) if pace else 0.0  # of a loss not seen yet
        extra = [taken - pace.get(kind, usual) for kind, taken in self.between]
        between = max(0.0, statistics.fmean(extra)) if extra else 0.0
        # Where another study takes cells of the same folder, it will go on to.
        share = len(self.ours) / max(1, len(self.ours) + len(self.theirs))
        # Seconds of work that each worker has, and since when; when it will be free, from now on.
        slots = [(0.0, since) for since in self.idle]
        slots += [
            (left * pace.get(kind, usual), since) for kind, left, since in self.at_work.values()
        ]
        now = self.now()
        free = [max(work - (now - since), 0.0 if work else -between) for work, since in slots]
        free = free or [0.0]  # every worker died
        heapq.heapify(free)
        for kind, left in self.waiting.values():
            seconds = share * (between + left * pace.get(kind, usual))
            heapq.heapreplace(free, free[0] + seconds)
        return max(0.0, *free)


_COSTS_NOTHING = ("noise", "rate", "map", "map_sha256", "method", "seed", "epochs")


def _kind(cell: Config) -> str:
    """What cells share whose epochs take the same time: all but labels, seed and length."""
    fields = (f.name for f in dataclasses.fields(cell) if f.name not in _COSTS_NOTHING)
    return "|".join(str(getattr(cell, name)) for name in fields)
