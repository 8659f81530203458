"""A study: the grid of losses x noise x rates x seeds, its cells trained in parallel processes.

A cell is a run folder under STUDY/runs; a finished one is never run again.  The parent hands out
cells and watches; each worker is one process that trains cell after cell, so that torch and the
data set are loaded once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import faulthandler
import itertools
import multiprocessing
import os
import shlex
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from apl.config import NOISES, PRESETS, Config, make_config
from apl.data.sources import load_dataset
from apl.errors import BadInput, Busy, Interrupted, one_line
from apl.losses import LOSSES, PARAMS, parse_loss
from apl.runs import is_finished, write_summary
from apl.train import choose_device, keep_freed_memory, train

SUMMARY_SECONDS = 30.0  # between two writings of summary.csv while a study runs
BUSY_SECONDS = 2.0  # before asking again for a cell that another study is training


def make_grid(
    preset: str,
    losses: Sequence[str] | None = None,
    noises: Sequence[str] | None = None,
    rates: Sequence[float] | None = None,
    seeds: int | None = None,
    **overrides: Any,
) -> list[Config]:
    """The cells of a study, seed by seed, so that an unfinished one covers the whole grid early.

    None takes the preset's losses, noise types, rates (per noise type) and number of seeds.  A
    loss parameter in `overrides` goes to the losses that take it.  Raises BadInput for what does
    not fit, an empty grid or a cell given twice included.
    """
    if preset not in PRESETS:
        raise BadInput(f"preset is {preset!r}; accepted: {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    losses = chosen.losses if losses is None else losses
    noises = tuple(chosen.rates) if noises is None else noises
    seeds = chosen.seeds if seeds is None else seeds
    if seeds < 1:
        raise BadInput(f"seeds is {seeds}; accepted: a whole number >= 1")
    given = {name for name in PARAMS if overrides.get(name) is not None}
    taken = {loss: _params(loss) for loss in losses}
    for name in sorted(given - set().union(*taken.values())):
        raise BadInput(f"none of {', '.join(losses)} takes the parameter {name!r}")
    cells = []
    for seed, noise in itertools.product(range(seeds), noises):
        for rate, loss in itertools.product(_rates(chosen.rates, noise, rates), losses):
            fitting = {k: v for k, v in overrides.items() if k not in given - taken[loss]}
            cell = {**fitting, "loss": loss, "noise": noise, "rate": rate, "seed": seed}
            cells.append(make_config(preset, **cell))
    if not cells:
        raise BadInput("the study is empty: give at least one loss, noise type and rate")
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"the study holds {twice} twice: give each loss, noise type and rate once")
    return cells


def _params(loss: str) -> set[str]:
    try:
        return {name for _, part in parse_loss(loss) for name in part.params}
    except ValueError as error:
        raise BadInput(str(error)) from None


def _rates(
    defaults: dict[str, tuple[float, ...]], noise: str, rates: Sequence[float] | None
) -> Sequence[float]:
    if noise in ("none", "human", "matrix"):  # their labels are given, there is no rate to choose
        return (0.0,)
    return defaults.get(noise, defaults["sym"]) if rates is None else rates


def study_commands(cells: Sequence[Config]) -> list[str]:
    """The `apl study` commands that make these cells, the inverse of `make_grid`: one for each
    choice of settings and of rates.  Of a grid with holes they make the whole."""
    alike: dict[tuple[tuple[str, Any], ...], list[Config]] = {}
    for cell in cells:
        options = {"preset": cell.preset, "dataset": cell.dataset, **cell.overrides}
        if cell.map != _usual_map(cell):
            options["map"] = cell.map
        alike.setdefault(tuple(options.items()), []).append(cell)
    commands = []
    for chosen, group in alike.items():
        options = dict(chosen)
        preset = PRESETS[options.pop("preset")]
        if options["dataset"] == preset.dataset:
            del options["dataset"]
        for noises, rates in _shared_rates(group, preset.rates):
            made = [cell for cell in group if cell.noise in noises]
            losses = {cell.loss for cell in made}
            words = ["apl", "study", "--preset", group[0].preset]
            if losses != set(preset.losses):
                ranks = {loss: rank for rank, loss in enumerate(LOSSES)}
                ordered = sorted(losses, key=lambda loss: (ranks.get(loss, len(ranks)), loss))
                words += ["--losses", ",".join(ordered)]
            if set(noises) != set(preset.rates):
                words += ["--noise", ",".join(noises)]
            if rates is not None:
                words += ["--rates", ",".join(map(str, rates))]
            seeds = 1 + max(cell.seed for cell in made)
            if seeds != preset.seeds:
                words += ["--seeds", str(seeds)]
            for name, value in options.items():
                flag = name.replace("_", "-")
                if isinstance(value, bool):
                    words.append(f"--{flag}" if value else f"--no-{flag}")
                else:
                    words += [f"--{flag}", str(value)]
            commands.append(shlex.join(words))
    return commands


def _usual_map(cell: Config) -> str:
    """The map that the cell's kind of noise has where none is given."""
    if cell.noise == "matrix":
        return ""
    return make_config(cell.preset, dataset=cell.dataset, noise=cell.noise).map


def _shared_rates(
    cells: Sequence[Config], defaults: dict[str, tuple[float, ...]]
) -> list[tuple[list[str], tuple[float, ...] | None]]:
    """The noise types that one command can make, with its rates; None for the preset's own."""
    found: dict[str, set[float]] = {}
    for cell in cells:
        found.setdefault(cell.noise, set()).add(cell.rate)
    shared: dict[tuple[float, ...] | None, list[str]] = {}
    unrated = []
    for noise in (noise for noise in NOISES if noise in found):
        usual = _rates(defaults, noise, None)
        if _rates(defaults, noise, ()) == usual:
            unrated.append(noise)
        else:
            rates = tuple(sorted(found[noise]))
            shared.setdefault(None if rates == tuple(sorted(usual)) else rates, []).append(noise)
    if unrated:  # they go with any rates
        first = next(iter(shared), None)
        shared[first] = [*unrated, *shared.get(first, [])]
    return [(noises, rates) for rates, noises in shared.items()]


GPU_WORKERS = 4  # to a GPU: each holds a context of its own in the GPU's memory


def default_workers(threads: int, device: str = "cpu") -> int:
    """As many processes as the cores allow at `threads` each; fewer where they share a GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = max(1, (cores or 1) // max(threads, 1))
    return workers if choose_device(device).type == "cpu" else min(workers, GPU_WORKERS)


@dataclasses.dataclass
class Progress:
    """How far a study is; `run_study` hands it to its observer after every change."""

    cells: list[Config]
    results: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    running: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    messages: list[str] = dataclasses.field(default_factory=list)
    seconds_left: float | None = None


@dataclasses.dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    pipe: Connection
    cell: Config | None = None


def run_study(
    cells: Sequence[Config],
    study: Path,
    *,
    workers: int,
    data_dir: str | Path | None = None,
    download: bool = True,
    observe: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Train every cell that is not finished, `workers` at a time, and write summary.csv.

    A cell that raises is reported in `failed` and does not stop the others; one whose process
    dies is tried once more.  What a cell prints goes to log.txt in its run folder.  On
    KeyboardInterrupt (SIGTERM included) the running cells write their checkpoints, and the
    exception goes on to the caller, as does the OSError of a disk that is full, read-only or
    gone; the same call later continues.  Raises BadInput where a data set is missing or damaged.
    """
    progress = Progress(list(cells))
    runs = study / "runs"
    waiting = deque(cell for cell in cells if not is_finished(runs / cell.name))
    for cell in cells:
        if is_finished(runs / cell.name):
            try:
                progress.results[cell.name] = train(cell, runs / cell.name)
            except BadInput as error:
                progress.failed[cell.name] = str(error)
    asleep: dict[str, float] = {}  # cells that another study trains, and when to ask again
    crashed: set[str] = set()
    clock = _Clock(sum(cell.epochs for cell in waiting), workers)
    last_summary = time.monotonic()
    pool: list[_Worker] = []
    with _sigterm_as_interrupt(), contextlib.ExitStack() as stack:
        stack.callback(_stop, pool)
        pool += [_start(data_dir, download) for _ in range(min(workers, len(waiting)))]
        for dataset in {cell.dataset for cell in waiting}:
            # While the workers start: downloaded once, and what is missing or damaged is told
            # before every cell fails of it.
            load_dataset(dataset, data_dir, download)
        while waiting or asleep or any(worker.cell for worker in pool):
            now = time.monotonic()
            for name in [name for name, when in asleep.items() if when <= now]:
                del asleep[name]
                waiting.append(next(cell for cell in cells if cell.name == name))
            for worker in pool:
                if worker.cell is None and waiting:
                    worker.cell = waiting.popleft()
                    worker.pipe.send((worker.cell, runs / worker.cell.name))
                    progress.running[worker.cell.name] = {}
            ready = wait([worker.pipe for worker in pool], timeout=0.5)
            for worker in pool:
                if worker.pipe not in ready:
                    continue
                assert worker.cell is not None  # a worker speaks only of its cell
                cell = worker.cell
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    code = worker.process.exitcode
                    kind, content = "died", f"its process died (exit code {code})"
                    fresh = _start(data_dir, download)
                    worker.process, worker.pipe = fresh.process, fresh.pipe
                if kind == "epoch":
                    progress.running[cell.name] = content
                    clock.tick()
                    continue
                if kind == "message":
                    progress.messages.append(f"{cell.name}: {content}")
                    continue
                worker.cell = None
                progress.running.pop(cell.name, None)
                if kind == "no disk":
                    raise content
                if kind == "result":
                    progress.results[cell.name] = content
                elif kind == "busy":
                    asleep[cell.name] = time.monotonic() + BUSY_SECONDS
                elif kind == "died" and cell.name not in crashed:
                    crashed.add(cell.name)
                    progress.messages.append(f"{cell.name}: {content}; trying once more")
                    waiting.append(cell)
                else:
                    log = runs / cell.name / "log.txt"
                    progress.failed[cell.name] = f"{content}; see {log}"
            progress.seconds_left = clock.seconds_left()
            observe(progress)
            if time.monotonic() - last_summary > SUMMARY_SECONDS:
                _summarise(study, progress)
                last_summary = time.monotonic()
    _summarise(study, progress)
    return progress


def _summarise(study: Path, progress: Progress) -> None:
    """Write summary.csv; that it can't be written (it may be open elsewhere) stops no training."""
    if any(is_finished(study / "runs" / cell.name) for cell in progress.cells):
        try:
            write_summary(study)
        except (OSError, BadInput) as error:
            why = error.strerror if isinstance(error, OSError) else error
            problem = f"{study / 'summary.csv'} can't be written ({why})"
            progress.messages.append(f"{problem}; `apl plot {study}` writes it later")


class _Clock:
    """Time left, from the pace of the epochs seen so far (of the last 200, as cells differ)."""

    def __init__(self, epochs: int, workers: int) -> None:
        self.left = epochs
        self.ticks: deque[float] = deque(maxlen=200)

    def tick(self) -> None:
        self.left -= 1
        self.ticks.append(time.monotonic())

    def seconds_left(self) -> float | None:
        if len(self.ticks) < 2:
            return None
        return max(self.left, 0) * (self.ticks[-1] - self.ticks[0]) / (len(self.ticks) - 1)


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


def _start(data_dir: str | Path | None, download: bool) -> _Worker:
    context = multiprocessing.get_context("spawn")  # fork and torch's threads don't mix
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, data_dir, download), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _stop(pool: list[_Worker]) -> None:
    """End the workers: an idle one at once, a training one after its checkpoint."""
    for worker in pool:
        if worker.cell is None:
            worker.pipe.close()
        elif worker.process.is_alive():
            worker.process.terminate()
    for worker in pool:
        worker.process.join(10)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(pipe: Connection, data_dir: str | Path | None, download: bool) -> None:
    """The life of a worker: train each cell that comes through the pipe."""
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    # Ctrl-C reaches every process of the terminal; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    keep_freed_memory()

    def should_stop() -> bool:
        return stopping or os.getppid() != parent  # an orphan has nobody to work for

    while True:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            cell, run = pipe.recv()
        except (EOFError, OSError):
            return
        signal.signal(signal.SIGTERM, stop)
        answer: tuple[str, Any]
        try:
            with _log_to(run / "log.txt"):
                result = train(
                    cell,
                    run,
                    data_dir=data_dir,
                    download=download,
                    on_epoch=lambda row: pipe.send(("epoch", row)),
                    say=lambda text: _say(pipe, text),
                    should_stop=should_stop,
                )
            answer = ("result", result)
        except Interrupted:
            return
        except Busy:
            answer = ("busy", "")
        except OSError as error:
            answer = ("no disk", error) if error.errno in NO_DISK else ("failed", one_line(error))
        except Exception as error:
            answer = ("failed", one_line(error))
        try:
            pipe.send(answer)
        except OSError:
            return


# What no cell of the study can get past, so that trying the others would only repeat it.
NO_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def _say(pipe: Connection, text: str) -> None:
    print(text, flush=True)
    pipe.send(("message", text))


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send everything this process prints, from C code too, to the end of the file, and the
    traceback of an exception that passes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    # O_NOFOLLOW: a link planted in its place must not lead elsewhere.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        faulthandler.enable(2)  # a segfault leaves its stack here
        try:
            yield
        except (Interrupted, Busy):
            raise
        except Exception:
            with contextlib.suppress(OSError):  # the disk may be full
                traceback.print_exc()
            raise
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            for target, saved in zip((1, 2), before, strict=True):
                os.dup2(saved, target)
                os.close(saved)
