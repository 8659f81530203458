"""Where the cells of a study run: worker processes on this machine.

Each is one process that trains cell after cell, so that torch and the data set are loaded once.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from apl.config import Config
from apl.errors import Busy, Interrupted, one_line
from apl.machine import Machine, choose_device, keep_freed_memory
from apl.runs import LOG
from apl.train import train

GPU_WORKERS = 4  # to a GPU: each holds a context of its own in the GPU's memory


def default_workers(threads: int, device: str = "cpu") -> int:
    """As many processes as the cores allow at `threads` each; fewer where they share a GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = max(1, (cores or 1) // max(threads, 1))
    return workers if choose_device(device).type == "cpu" else min(workers, GPU_WORKERS)


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    cell: Config | None = None


class Processes:
    """Up to `count` worker processes.

    An event is (cell, kind, content): 'epoch' with a row of the history, 'message' with a line to
    tell, and one that ends the cell: 'result' with its result, 'busy' where another process trains
    it, 'died' with how, 'failed' with why, 'no disk' with an OSError that no cell can get past.
    """

    def __init__(self, count: int, machine: Machine) -> None:
        self.count, self.machine = count, machine
        self._pool = [self._hire() for _ in range(count)]

    @property
    def free(self) -> bool:
        """Whether a cell can be started."""
        return sum(worker.cell is not None for worker in self._pool) < self.count

    @property
    def training(self) -> bool:
        """Whether any cell is being trained."""
        return any(worker.cell is not None for worker in self._pool)

    def start(self, cell: Config, run: Path) -> None:
        """Train a cell in its run folder; only where one is `free`."""
        idle = [worker for worker in self._pool if worker.cell is None]
        if not idle:  # one died
            idle = [self._hire()]
            self._pool += idle
        idle[0].cell = cell
        with contextlib.suppress(OSError):  # it has just died: `events` will tell
            idle[0].pipe.send((cell, run))

    def events(self, seconds: float) -> Iterator[tuple[Config, str, Any]]:
        """What the workers have to tell, waited for so long at most."""
        if not self._pool:  # `wait` returns at once from nothing
            time.sleep(seconds)
        ready = wait([worker.pipe for worker in self._pool], timeout=seconds)
        for worker in [worker for worker in self._pool if worker.pipe in ready]:
            cell = worker.cell
            try:
                kind, content = worker.pipe.recv()
            except (EOFError, OSError):
                worker.process.join()
                code = worker.process.exitcode
                kind, content = "died", f"its process died (exit code {code})"
                self._pool.remove(worker)
            if cell is None:  # an idle one died: nothing is lost, and `start` hires another
                continue
            if kind not in ("epoch", "message"):
                worker.cell = None
            yield cell, kind, content

    def stop(self) -> None:
        """End the workers: an idle one at once, a training one after its checkpoint."""
        for worker in self._pool:
            if worker.cell is None:
                worker.pipe.close()
            elif worker.process.is_alive():
                worker.process.terminate()
        for worker in self._pool:
            worker.process.join(10)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _hire(self) -> _Worker:
        context = multiprocessing.get_context("spawn")  # fork and torch's threads don't mix
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.machine), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)


def _work(pipe: Connection, machine: Machine) -> None:
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
            with _log_to(run / LOG):
                result = train(
                    cell,
                    run,
                    machine=machine,
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
