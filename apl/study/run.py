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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from apl.config.config import Config
from apl.errors import BadInput
from apl.runs.record import as_begun, read_record, write_study
from apl.runs.run import LOG, RUNS, SUMMARY, Run
from apl.runs.scores import Result
from apl.study.clock import Clock
from apl.study.processes import Processes
from apl.study.ray import Ray
from apl.study.trackers import Tracking, import_runs
from apl.training.machine import Machine
from apl.training.train import train

SUMMARY_SECONDS = 30.0  # between two writings of the record while a study runs
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
    track: a key of `apl.study.trackers.TRACKERS` that hears of every run, also of those finished
    before; the driver tells it, so a study has one writer.
    A cell that raises is reported in `failed` and does not stop the others; one whose process
    dies is tried once more, one whose node dies as often as that happens.  What a cell prints goes
    to log.txt in its run folder.  On KeyboardInterrupt (SIGTERM included) the running cells write
    their checkpoints, and the exception goes on to the caller, as does the OSError of a disk that
    is full, read-only or gone; the same call later continues.  Raises BadInput where a data set is
    missing or damaged.
    """
    machine = machine or Machine()
    machine = dataclasses.replace(machine, threads=machine.threads or 1)
    cells, lines = as_begun(study, cells)
    progress = Progress(list(cells), messages=lines)
    folders = {cell.name: study / RUNS / cell.name for cell in cells}
    waiting = deque(_unfinished(progress, study, folders))
    observe(progress)
    if not waiting:
        _summarise(study, progress)
        _complete(track, study, progress)
        return progress
    tracked: dict[str, Tracking] = {}
    asleep: dict[str, tuple[Config, float]] = {}  # trained by another study; when to ask again
    crashed: set[str] = set()
    clock = Clock(waiting, folders)
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
