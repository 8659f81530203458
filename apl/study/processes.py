"""The cells of a study in worker processes of this machine.

Each trains cell after cell, so that torch and the data set are loaded once.  `apl.study.run` speaks
to them, as to `apl.study.ray`, through five words: check, free, start, events, stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from apl.config.config import Config
from apl.cores import cores, leave_ctrl_c_to_the_parent, without_script
from apl.errors import require
from apl.study.cells import CELLS_PER_GPU, ON_THE_WAY, train_cell
from apl.training.machine import Machine, choose_device, keep_freed_memory
from apl.training.prepare import data_of


def gpus_of(device: str, there: int, visible: str | None) -> list[str]:
    """What CUDA_VISIBLE_DEVICES must be for each GPU that `device` means; none for other devices.

    there: how many GPUs this process sees; visible: its own CUDA_VISIBLE_DEVICES, whose entries may
    be numbers or UUIDs.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda"):
        return []
    seen = visible.split(",") if visible else [str(i) for i in range(there)]
    return [seen[i].strip() for i in ([int(number)] if number else range(there))]


def emptiest(gpus: Sequence[str], taken: Sequence[str]) -> str:
    """The GPU that the next worker goes to: that of the fewest workers, the first of these; ''
    where there is no GPU."""
    load = Counter(taken)
    return min(gpus, key=lambda gpu: load[gpu], default="")


def _gpus(device: str) -> list[str]:
    import torch

    choose_device(device)  # BadInput where it isn't there
    return gpus_of(device, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def default_workers(threads: int, device: str = "cpu", cells_per_gpu: int = CELLS_PER_GPU) -> int:
    """As many processes as the cores allow at `threads` each; where they share GPUs, no more than
    `cells_per_gpu` to each."""
    require(cells_per_gpu >= 1, "runs_per_gpu", cells_per_gpu, "a whole number >= 1")
    workers = max(1, cores() // max(threads, 1))
    gpus = len(_gpus(device))
    return min(workers, gpus * cells_per_gpu) if gpus else workers


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    gpu: str
    cell: Config | None = None


class Processes:
    """Up to `count` worker processes, spread over the GPUs that the machine's device means.

    An event is (cell, kind, content): 'epoch' with a row of the history, 'message' with a line to
    tell, and one that ends the cell: 'result' with its result, 'busy' where another process trains
    it, 'died' with how, 'lost' with how, where the cell can't be the reason, 'failed' with why,
    'no disk' with an OSError that no cell can get past.
    """

    def __init__(self, count: int, machine: Machine) -> None:
        self.count, self.gpus = count, _gpus(machine.device)
        # Each worker sees one GPU alone, so that the record of a cell tells no number of it.
        self.machine = dataclasses.replace(machine, device="cuda") if self.gpus else machine
        self._pool: list[_Worker] = []
        for _ in range(count):
            self._pool.append(self._hire())

    def check(self, cells: Sequence[Config]) -> str:
        """Raise BadInput for a data set that is missing or damaged, before every cell fails of it;
        one that can be had is downloaded, once."""
        for cell in {(cell.dataset, cell.dataset_sha256): cell for cell in cells}.values():
            data_of(cell, self.machine)
        return ""

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
            if kind not in ON_THE_WAY:
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
        gpu = emptiest(self.gpus, [worker.gpu for worker in self._pool])
        process = context.Process(target=_work, args=(theirs, self.machine, gpu), daemon=True)
        with without_script():
            process.start()
        theirs.close()
        return _Worker(process, ours, gpu)


def _work(pipe: Connection, machine: Machine, gpu: str) -> None:
    """The life of a worker: train each cell that comes through the pipe."""
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    leave_ctrl_c_to_the_parent()
    parent = os.getppid()
    if gpu:  # before anything asks CUDA what there is
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
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
        ending = train_cell(cell, run, machine, pipe.send, should_stop)
        if ending is None:
            return
        try:
            pipe.send(ending)
        except OSError:
            return
