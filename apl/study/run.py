"""A study: cells trained until all are done, its record kept up to date.

A cell is a run folder under STUDY/runs; one that is finished there, or in the study's record, is
never run again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apl.config.config import Config
from apl.errors import BadInput
from apl.runs.record import as_begun, read_record, write_study
from apl.runs.run import LOG, RUNS, SUMMARY, Finished, Run
from apl.runs.scores import Result
from apl.study.clock import Clock
from apl.study.processes import Processes
from apl.study.ray import Ray
from apl.study.trackers import Tracking, import_runs
from apl.training.machine import Machine
from apl.training.train import train

SUMMARY_SECONDS = 30.0  # between two writings of the record while a study runs, at the least
SUMMARY_SHARE = 50  # and so many times what one takes: of thousands of runs it takes seconds
BUSY_SECONDS = 2.0  # before asking again for a cell that another study is training
LEFT_SECONDS = 0.2  # between two estimates of the time left: of many cells they take a while


@dataclasses.dataclass
class Progress:
    """How far a study is; `run_study` hands it to its observer before anything is trained, with
    what was finished already, and after every change."""

    cells: list[Config]
    results: dict[str, Result] = dataclasses.field(default_factory=dict)
    running: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    messages: list[str] = dataclasses.field(default_factory=list)
    seconds_left: float | None = None

    def with_later(self, cells: int) -> Progress:
        """The same with the time left of so many cells more, that are trained when these are done
        and take as long each."""
        left = len(self.cells) - len(self.results) - len(self.failed)
        if self.seconds_left is None or not left:
            return self
        return dataclasses.replace(self, seconds_left=self.seconds_left * (1 + cells / left))


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

    A cell that raises is reported in `failed` and does not stop the others; one whose process dies
    is tried once more, one whose node dies as often as that happens. What a cell prints goes to
    log.txt in its run folder. On KeyboardInterrupt (SIGTERM included) the running cells write their
    checkpoints, and the exception goes on to the caller, as does the OSError of a disk that is
    full, read-only or gone; the same call later continues.

    Args:
        cells: A config for each, as `make_grid` makes them.
        study: The folder of the study.
        workers: How many cells are trained at a time.
        machine: Where and how each is trained, None for what a `Machine` is by default; threads
            that are not given are 1.
        engine: Where, `Processes` of this machine or `Ray` with its settings
            (`functools.partial(Ray, address="auto")`), called with how many at a time and the
            machine.
        track: A key of `apl.study.trackers.TRACKERS` that hears of every run, also of those
            finished before; the driver tells it, so a study has one writer.
        observe: Hears how far the study is, before anything is trained and after every change.

    Returns:
        How far the study is at the end.

    Raises:
        BadInput: A data set is missing or damaged.
    """
    machine = machine or Machine()
    machine = dataclasses.replace(machine, threads=machine.threads or 1)
    record = read_record(study)
    cells, lines = as_begun(study, cells, record)
    progress = Progress(list(cells), messages=lines)
    folders = {cell.name: study / RUNS / cell.name for cell in cells}
    waiting = list(_unfinished(progress, record, folders))
    del record  # histories, for which there is no more use
    observe(progress)
    if waiting:
        with _sigterm_as_interrupt(), contextlib.ExitStack() as stack:
            pool = engine(min(workers, len(waiting)), machine)
            course = _Course(waiting, folders, pool, progress, track)
            stack.callback(course.end_tracking)
            stack.callback(pool.stop)
            if line := pool.check(waiting):  # while the workers start
                progress.messages.append(line)
            last_summary, pause = time.monotonic(), SUMMARY_SECONDS
            while course.goes_on:
                course.hand_out()
                for cell, kind, content in pool.events(0.5):
                    course.hear(cell, kind, content)
                course.estimate()
                observe(progress)
                if time.monotonic() - last_summary > pause:
                    began = time.monotonic()
                    _summarise(study, progress)
                    last_summary = time.monotonic()
                    pause = max(SUMMARY_SECONDS, SUMMARY_SHARE * (last_summary - began))
    _summarise(study, progress)
    _complete(track, study, progress)
    return progress


class _Course:
    """The cells of a study that are to be trained, from where they wait to what became of them,
    which is entered in the study's progress."""

    def __init__(
        self,
        waiting: Sequence[Config],
        folders: dict[str, Path],
        pool: Processes | Ray,
        progress: Progress,
        track: str,
    ) -> None:
        self.folders, self.pool, self.progress, self.track = folders, pool, progress, track
        self.waiting = deque(waiting)
        self.asleep: dict[str, tuple[Config, float]] = {}  # another study trains it; when to ask
        self.died: set[str] = set()  # cells whose process did, once
        self.tracked: dict[str, Tracking] = {}
        self.clock = Clock(waiting, folders)
        self._estimated = time.monotonic()

    @property
    def goes_on(self) -> bool:
        """Whether any cell is not done."""
        return bool(self.waiting or self.asleep or self.pool.training)

    def hand_out(self) -> None:
        """Give the workers that are free the cells that wait."""
        now = time.monotonic()
        for name in [name for name, (_, when) in self.asleep.items() if when <= now]:
            cell, _ = self.asleep.pop(name)
            self.waiting.append(cell)  # not in the clock: theirs until an epoch of ours ends
        while self.waiting and self.pool.free:
            cell = self.waiting.popleft()
            self.pool.start(cell, self.folders[cell.name])
            self.progress.running[cell.name] = {}

    def hear(self, cell: Config, kind: str, content: Any) -> None:
        """Take in what a worker tells of its cell: an epoch, a message, or how it ended."""
        if kind == "epoch":
            self.progress.running[cell.name] = content
            self.clock.tick(cell, content["epoch"])
            if self.track:
                self._tracking(cell).row(content)
        elif kind == "message":
            self.progress.messages.append(f"{cell.name}: {content}")
        else:
            self.progress.running.pop(cell.name, None)
            self.clock.drop(cell, lost=kind in ("lost", "died"))
            self._end(cell, kind, content)

    def _end(self, cell: Config, kind: str, content: Any) -> None:
        """Enter how the training of a cell ended, or let it wait to be tried again."""
        name, progress = cell.name, self.progress
        if kind == "no disk":
            raise content
        if kind == "result":
            progress.results[name] = content
            if name in self.tracked:
                self.tracked.pop(name).end()
        elif kind == "busy":
            self.asleep[name] = cell, time.monotonic() + BUSY_SECONDS
        elif kind == "lost" or (kind == "died" and name not in self.died):
            if kind == "died":
                self.died.add(name)
            again = "trying once more" if kind == "died" else "going on elsewhere"
            progress.messages.append(f"{name}: {content}; {again}")
            self.clock.add(cell)
            self.waiting.append(cell)
        else:
            progress.failed[name] = f"{content}; see {self.folders[name] / LOG}"

    def estimate(self) -> None:
        """Estimate the time left, where the last estimate is not of this moment."""
        if time.monotonic() - self._estimated > LEFT_SECONDS:
            self.progress.seconds_left = self.clock.seconds_left()
            self._estimated = time.monotonic()

    def _tracking(self, cell: Config) -> Tracking:
        """Who tells the tracker of a cell, from its first epoch on."""
        if cell.name not in self.tracked:
            say = self.progress.messages.append
            self.tracked[cell.name] = Tracking(self.track, self.folders[cell.name], cell, say)
        return self.tracked[cell.name]

    def end_tracking(self) -> None:
        """Tell the tracker of the cells that did not finish that they stopped."""
        for tracking in self.tracked.values():
            tracking.end()


def _complete(track: str, study: Path, progress: Progress) -> None:
    """Tell the tracker what it lacks: cells finished before, or while nobody listened."""
    if track and progress.results:
        try:
            import_runs(study, track, progress.messages.append)
        except BadInput as error:
            progress.messages.append(str(error))


def _unfinished(
    progress: Progress, record: Mapping[str, Finished], folders: dict[str, Path]
) -> Iterator[Config]:
    """The cells that are to be trained; the others' results are entered."""
    for cell in progress.cells:
        known = record.get(cell.name)
        if Run(folders[cell.name]).finished:
            try:
                progress.results[cell.name] = train(cell, folders[cell.name])
            except BadInput as error:
                progress.failed[cell.name] = str(error)
        elif known is not None and known.config == cell:
            progress.results[cell.name] = known.result
        else:
            yield cell


def _summarise(study: Path, progress: Progress) -> None:
    """Write the record; that it can't be written (it may be open elsewhere) stops no training."""
    if any(Run(study / RUNS / cell.name).finished for cell in progress.cells):
        try:
            write_study(study)
        except (OSError, BadInput) as error:
            why = error.strerror if isinstance(error, OSError) else error
            problem = f"{study / SUMMARY} can't be written ({why})"
            later = shlex.join(["apl", "plot", str(study)])
            progress.messages.append(f"{problem}; `{later}` writes it later")


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
