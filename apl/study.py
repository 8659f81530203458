"""A study: cells trained until all are done, its record kept up to date.

A cell is a run folder under STUDY/runs; one that is finished there, or in the study's record, is
never run again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import signal
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from apl.config import Config
from apl.errors import BadInput
from apl.loggers import Tracking, import_runs
from apl.machine import Machine
from apl.runs import LOG, RECORD, RUNS, SUMMARY, Run, read_record, write_study
from apl.scores import Result
from apl.train import train
from apl.workers import Processes, Ray

SUMMARY_SECONDS = 30.0  # between two writings of the record while a study runs
BUSY_SECONDS = 2.0  # before asking again for a cell that another study is training
LEFT_SECONDS = 0.2  # between two estimates of the time left: of many cells they take a while
RECENT = 50  # epochs of a loss, and cells, that the time left is estimated from


@dataclasses.dataclass
class Progress:
    """How far a study is; `run_study` hands it to its observer after every change."""

    cells: list[Config]
    results: dict[str, Result] = dataclasses.field(default_factory=dict)
    running: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    messages: list[str] = dataclasses.field(default_factory=list)
    seconds_left: float | None = None


def run_study(
    cells: Sequence[Config],
    study: Path,
    *,
    workers: int,
    machine: Machine | None = None,
    engine: Callable[[int, Machine], Processes | Ray] = Processes,
    track: str = "",
    observe: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train every cell that is not finished, `workers` at a time, and write the record.

    engine: where, `Processes` of this machine or `Ray` with its settings
    (`functools.partial(Ray, address="auto")`), called with how many at a time and the machine.
    track: a key of `apl.loggers.TRACKERS` that hears of every run, also of those finished before;
    the driver tells it, so a study has one writer.
    A cell that raises is reported in `failed` and does not stop the others; one whose process
    dies is tried once more, one whose node dies as often as that happens.  What a cell prints goes
    to log.txt in its run folder.  On KeyboardInterrupt (SIGTERM included) the running cells write
    their checkpoints, and the exception goes on to the caller, as does the OSError of a disk that
    is full, read-only or gone; the same call later continues.  Raises BadInput where a data set is
    missing or damaged.
    """
    machine = machine or Machine()
    machine = dataclasses.replace(machine, threads=machine.threads or 1)
    progress = Progress(list(cells))
    folders = {cell.name: study / RUNS / cell.name for cell in cells}
    waiting = deque(_unfinished(progress, study, folders))
    if not waiting:
        _summarise(study, progress)
        _complete(track, study, progress)
        return progress
    tracked: dict[str, Tracking] = {}
    asleep: dict[str, tuple[Config, float]] = {}  # trained by another study; when to ask again
    crashed: set[str] = set()
    clock = _Clock(waiting, folders)
    last_summary = last_estimate = time.monotonic()
    with _sigterm_as_interrupt(), contextlib.ExitStack() as stack:
        pool = engine(min(workers, len(waiting)), machine)
        stack.callback(_end, tracked)
        stack.callback(pool.stop)
        if line := pool.check(list(waiting)):  # while the workers start
            progress.messages.append(line)
        while waiting or asleep or pool.training:
            now = time.monotonic()
            for name in [name for name, (_, when) in asleep.items() if when <= now]:
                cell, _ = asleep.pop(name)
                waiting.append(cell)  # not in the clock: it is theirs until an epoch of ours ends
            while waiting and pool.free:
                cell = waiting.popleft()
                pool.start(cell, folders[cell.name])
                progress.running[cell.name] = {}
            for cell, kind, content in pool.events(0.5):
                if kind == "epoch":
                    progress.running[cell.name] = content
                    clock.tick(cell, content["epoch"])
                    if track:
                        if cell.name not in tracked:
                            told = (track, folders[cell.name], cell, progress.messages.append)
                            tracked[cell.name] = Tracking(*told)
                        tracked[cell.name].row(content)
                    continue
                if kind == "message":
                    progress.messages.append(f"{cell.name}: {content}")
                    continue
                progress.running.pop(cell.name, None)
                clock.drop(cell, lost=kind in ("lost", "died"))
                if kind == "no disk":
                    raise content
                if kind == "result":
                    progress.results[cell.name] = content
                    if cell.name in tracked:
                        tracked.pop(cell.name).end()
                elif kind == "busy":
                    asleep[cell.name] = cell, time.monotonic() + BUSY_SECONDS
                elif kind == "lost" or (kind == "died" and cell.name not in crashed):
                    crashed |= {cell.name} if kind == "died" else set()
                    again = "trying once more" if kind == "died" else "going on elsewhere"
                    progress.messages.append(f"{cell.name}: {content}; {again}")
                    clock.add(cell)
                    waiting.append(cell)
                else:
                    log = folders[cell.name] / LOG
                    progress.failed[cell.name] = f"{content}; see {log}"
            if time.monotonic() - last_estimate > LEFT_SECONDS:
                progress.seconds_left = clock.seconds_left()
                last_estimate = time.monotonic()
            observe(progress)
            if time.monotonic() - last_summary > SUMMARY_SECONDS:
                _summarise(study, progress)
                last_summary = time.monotonic()
    _summarise(study, progress)
    _complete(track, study, progress)
    return progress


def _end(tracked: dict[str, Tracking]) -> None:
    for tracking in tracked.values():
        tracking.end()


def _complete(track: str, study: Path, progress: Progress) -> None:
    """Tell the tracker what it lacks: cells finished before, or while nobody listened."""
    if track and progress.results:
        try:
            import_runs(study, track, progress.messages.append)
        except BadInput as error:
            progress.messages.append(str(error))


def _unfinished(progress: Progress, study: Path, folders: dict[str, Path]) -> Iterator[Config]:
    """The cells that are to be trained; the others' results are entered."""
    record = read_record(study)
    recorded = 0
    for cell in progress.cells:
        known = record.get(cell.name)
        if Run(folders[cell.name]).finished:
            try:
                progress.results[cell.name] = train(cell, folders[cell.name])
            except BadInput as error:
                progress.failed[cell.name] = str(error)
        elif known is not None and known.config == cell:
            progress.results[cell.name] = known.result
            recorded += 1
        else:
            yield cell
    if recorded:
        progress.messages.append(
            f"{recorded} of {len(progress.cells)} cells stand in {study / RECORD} and are not run "
            "again; another --out runs them anew"
        )


def _summarise(study: Path, progress: Progress) -> None:
    """Write the record; that it can't be written (it may be open elsewhere) stops no training."""
    if any(Run(study / RUNS / cell.name).finished for cell in progress.cells):
        try:
            write_study(study)
        except (OSError, BadInput) as error:
            why = error.strerror if isinstance(error, OSError) else error
            problem = f"{study / SUMMARY} can't be written ({why})"
            progress.messages.append(f"{problem}; `apl plot {study}` writes it later")


class _Clock:
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


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread: the caller's affair
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
