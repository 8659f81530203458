"""Where the cells of a study run: worker processes on this machine, or tasks of a Ray cluster.

Both train cell after cell in one process, so that torch and the data set are loaded once, and both
speak to `apl.study` through the same five words: check, free, start, events, stop.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import faulthandler
import multiprocessing
import os
import platform
import queue
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from apl.config.config import Config
from apl.cores import cores
from apl.data.folders import available, data_folder
from apl.errors import BadInput, Busy, Interrupted, one_line, require
from apl.files import write_atomic
from apl.names import DATASETS
from apl.runs.run import CHECKPOINT, CONFIG, HISTORY, LOG, NOISE, RESULT, WEIGHTS, Run
from apl.training.machine import Machine, choose_device, keep_freed_memory
from apl.training.prepare import data_of
from apl.training.train import train

# One, until it is measured on a card: a second cell on a GPU pays only where a single one leaves it
# idle, as small networks do, and costs a CUDA context and a data set more of its memory.
CELLS_PER_GPU = 1

Event = tuple[str, Any]  # its kind, its content
ON_THE_WAY = ("epoch", "message")  # the kinds that do not end a cell


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
    require(cells_per_gpu >= 1, "cells_per_gpu", cells_per_gpu, "a whole number >= 1")
    workers = max(1, cores() // max(threads, 1))
    gpus = len(_gpus(device))
    return min(workers, gpus * cells_per_gpu) if gpus else workers


# ---------------------------------------------------------------------------------- this machine


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
        process.start()
        theirs.close()
        return _Worker(process, ours, gpu)


def _work(pipe: Connection, machine: Machine, gpu: str) -> None:
    """The life of a worker: train each cell that comes through the pipe."""
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    # Ctrl-C reaches every process of the terminal; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
        ending = _train_cell(cell, run, machine, pipe.send, should_stop)
        if ending is None:
            return
        try:
            pipe.send(ending)
        except OSError:
            return


def _train_cell(
    cell: Config,
    run: Path,
    machine: Machine,
    tell: Callable[[Event], None],
    should_stop: Callable[[], bool],
) -> Event | None:
    """Train a cell in its run folder, telling each 'epoch' and 'message'; returns what ends it,
    None where it was told to stop."""

    def say(text: str) -> None:
        print(text, flush=True)
        tell(("message", text))

    try:
        with _log_to(run / LOG):
            result = train(
                *(cell, run),
                machine=machine,
                on_epoch=lambda row: tell(("epoch", row)),
                say=say,
                should_stop=should_stop,
            )
        return "result", result
    except Interrupted:
        return None
    except Busy:
        return "busy", ""
    except OSError as error:
        return ("no disk", error) if error.errno in NO_DISK else ("failed", one_line(error))
    except Exception as error:
        return "failed", one_line(error)


# What no cell of the study can get past, so that trying the others would only repeat it.
NO_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


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


# --------------------------------------------------------------------------------- a Ray cluster

AHEAD = 4  # cells that wait at nodes, besides one to each place: no node idles, an autoscaler sees
LOOK_SECONDS = 2.0  # between two looks at which nodes there are
SHIP_SECONDS = 30.0  # between two checkpoints that come from a node without the study's folder
BROUGHT = (NOISE, CONFIG, CHECKPOINT)  # what a cell goes on from
FOR_US = ("apart", "files")  # the kinds of event that are no matter of the study


@dataclass(frozen=True)
class _Task:
    """What a node is told of a cell."""

    cell: Config
    run: Path
    machine: Machine
    mark: Path  # a file of the driver's: who sees it shares the study's folder
    folder: Path  # in which the driver was started: maps and code of the user's are relative to it
    versions: Mapping[str, str]
    decode: Callable[[], object] | None
    weights: bool
    ship_seconds: float


@dataclass
class _Flight:
    """A cell on its way, and what is held for it until it ends: its lock, where it runs apart."""

    cell: Config
    run: Path
    held: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)


class Ray:
    """Up to `count` tasks of a Ray cluster at a time; the events are those of `Processes`.

    A node that sees the study's folder trains there.  Any other sends back what it wrote: config,
    noise, history, result, the log, with `weights` the trained network, and every half minute the
    newest checkpoint, from which the cell goes on elsewhere if its node dies.  Only this process,
    the driver, decides which cells run.

    address: 'auto' for the cluster that this machine belongs to, or HOST:PORT.
    cells_per_gpu: how many cells share a GPU, where the cluster has any.
    decode: called on a node that has not decoded the data of the user's own.
    Raises BadInput where Ray is not installed, the cluster can't be reached or is of another
    version, and when no node is left that has the data.
    """

    def __init__(
        self,
        count: int,
        machine: Machine,
        *,
        address: str = "auto",
        cells_per_gpu: int = CELLS_PER_GPU,
        weights: bool = False,
        decode: Callable[[], object] | None = None,
    ) -> None:
        self._ray, self._ours = _connect(address)
        self.count, self.weights, self.decode = count, weights, decode
        try:
            there = self._ray.cluster_resources().get("GPU", 0) > 0
            self.request, device = request_of(machine, cells_per_gpu, there)
        except BaseException:
            self._leave()
            raise
        folder = data_folder(machine.data_dir).absolute()
        self.machine = dataclasses.replace(machine, data_dir=folder, device=device)
        # A worker that has used a GPU is not used again (Ray's rule, max_calls=1 for these): the
        # next cell may get another GPU, and CUDA has already chosen.
        self._remote = self._ray.remote(_on_node)
        self._versions = _versions()
        self._flights: dict[Any, _Flight] = {}
        self._unfit: dict[str, str] = {}
        self._mark: Path | None = None
        self._places, self._looked = 0, -LOOK_SECONDS

    def check(self, cells: Sequence[Config]) -> str:
        """A line to tell where no node can take a cell yet.  (Whether the data are there each node
        finds out for itself.)"""
        if self._count_places():
            return ""
        wanted = " and ".join(f"{n:g} {name[4:].upper()}" for name, n in self.request.items() if n)
        return f"no node of the cluster has {wanted} for a cell: waiting for one"

    @property
    def free(self) -> bool:
        """Whether a cell can be started."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._places, self._looked = self._count_places(), time.monotonic()
        return len(self._flights) < min(self.count, 2 * self._places + AHEAD)

    @property
    def training(self) -> bool:
        """Whether any cell is on its way."""
        return bool(self._flights)

    def start(self, cell: Config, run: Path) -> None:
        """Train a cell in its run folder, or in one that is like it; only where one is `free`."""
        run = run.absolute()
        if self._mark is None:
            run.parent.mkdir(parents=True, exist_ok=True)
            self._mark = run.parent / f".shared-{uuid.uuid4().hex}"
            self._mark.touch()
        brought = []
        if (run / CHECKPOINT).is_file():
            # In a list, so that only a node without the folder fetches it.
            brought = [self._ray.put(_read(run, BROUGHT))]
        task = _Task(
            *(cell, run, self.machine, self._mark, Path.cwd(), self._versions),
            *(self.decode, self.weights, SHIP_SECONDS),
        )
        options: dict[str, Any] = {"scheduling_strategy": "SPREAD", "num_returns": "streaming"}
        if self._unfit:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(self._unfit)})"}
        # No retries of Ray's: what is started again is what is not done, from its last checkpoint.
        remote = self._remote.options(**self.request, **options, max_retries=0)
        self._flights[remote.remote(task, brought)] = _Flight(cell, run)

    def events(self, seconds: float) -> Iterator[tuple[Config, str, Any]]:
        """What the nodes have to tell, waited for so long at most."""
        if not self._flights:
            time.sleep(seconds)
        for task in self._ready(seconds):
            flight = self._flights[task]
            try:
                kind, content = self._hear(task, flight)
            except Busy:
                kind, content = "busy", ""
            if kind in FOR_US:
                continue
            if kind not in ON_THE_WAY:
                self._flights.pop(task)
                flight.held.close()
            yield flight.cell, kind, content

    def stop(self) -> None:
        """End the tasks, each after its checkpoint, and leave the cluster."""
        for task in self._flights:
            self._ray.cancel(task)
        end = time.monotonic() + 10
        while self._flights and (left := end - time.monotonic()) > 0:
            for task in self._ready(left):
                kind = "stopped"
                with contextlib.suppress(Exception):  # one of them says that it was cancelled
                    kind, _ = self._hear(task, self._flights[task])
                if kind not in (*ON_THE_WAY, *FOR_US):
                    self._flights.pop(task).held.close()
        for flight in self._flights.values():
            flight.held.close()
        if self._mark is not None:
            self._mark.unlink(missing_ok=True)
        self._leave()

    def _leave(self) -> None:
        if self._ours:
            self._ray.shutdown()

    def _count_places(self) -> int:
        """How many cells the nodes that are there hold at a time."""
        nodes = [node["Resources"] for node in self._ray.nodes() if self._fits(node)]
        asked = {
            {"num_cpus": "CPU", "num_gpus": "GPU"}[name]: n for name, n in self.request.items() if n
        }
        return sum(min(int(node.get(k, 0) / n + 1e-6) for k, n in asked.items()) for node in nodes)

    def _fits(self, node: Mapping[str, Any]) -> bool:
        return bool(node["Alive"]) and node["NodeID"] not in self._unfit

    def _ready(self, seconds: float) -> list[Any]:
        """The tasks with something to tell."""
        tasks = list(self._flights)
        if not tasks or not self._ray.wait(tasks, num_returns=1, timeout=seconds)[0]:
            return []
        ready: list[Any] = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)[0]
        return ready

    def _hear(self, task: Any, flight: _Flight) -> Event:
        """The next event of a task.  Busy where another process has the lock of its run."""
        errors = self._ray.exceptions
        kind: str
        try:
            kind, content = self._ray.get(next(task))
        except StopIteration:
            return "lost", "its task ended early"
        except (errors.NodeDiedError, errors.ObjectLostError, errors.LocalRayletDiedError):
            return "lost", "its node died"
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            return "died", f"its process died ({type(error).__name__})"
        except (errors.ObjectStoreFullError, errors.OutOfDiskError) as error:
            return "no disk", OSError(errno.ENOSPC, f"Ray's object store: {one_line(error)}")
        except errors.RayTaskError as error:  # _on_node catches what a cell raises
            *_, last = str(error).strip().splitlines()
            ours = _versions()["apl"]
            raise BadInput(f"a node of the cluster can't run apl {ours}: {last}") from None
        except errors.RayError as error:
            raise OSError(errno.EIO, f"the Ray cluster is gone: {one_line(error)}") from None
        if kind == "apart":
            return self._follow(task, flight)
        if kind == "files":
            _receive(flight.run, content)
        if kind == "unfit":
            node, why = content
            self._unfit[node], self._looked = why, -LOOK_SECONDS
            if not self._count_places():
                raise BadInput(why)
            return "lost", why
        return kind, content

    def _follow(self, task: Any, flight: _Flight) -> Event:
        """Hold the lock of a run that a node trains in a folder of its own."""
        run = Run(flight.run)
        try:
            flight.held.enter_context(run.lock())
            if run.begun:
                run.check(flight.cell)
            if not run.finished:
                return "apart", ""
            ending: Event = ("result", run.result)  # by another study, since this one looked
        except Busy:
            self._ray.cancel(task)
            raise
        except BadInput as error:
            ending = ("failed", str(error))
        self._ray.cancel(task)
        return ending


def request_of(machine: Machine, cells_per_gpu: int, gpus: bool) -> tuple[dict[str, float], str]:
    """What a cell asks of a cluster with or without GPUs, and the device it is trained on there.

    Ray hides from a task the GPUs that it was not given, so that 'cuda' is the right one.
    """
    require(cells_per_gpu >= 1, "cells_per_gpu", cells_per_gpu, "a whole number >= 1")
    if machine.device.startswith("cuda:"):
        raise BadInput(f"device is {machine.device!r}; accepted on Ray, which gives each: cuda")
    on_gpu = machine.device == "cuda" or (machine.device == "auto" and gpus)
    request = {"num_cpus": float(machine.threads or 1)}
    request["num_gpus"] = 1 / cells_per_gpu if on_gpu else 0.0
    return request, "cuda" if on_gpu else "cpu" if machine.device == "auto" else machine.device


def _connect(address: str) -> tuple[Any, bool]:
    """Ray, connected to a cluster, and whether that was done here."""
    # Or it prints the last twenty lines of a dead node's log; our own messages say who died.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError:
        raise BadInput("Ray is not installed: pip install 'apl-noisy-labels[ray]'") from None
    if ray.is_initialized():
        return ray, False
    if "://" in address:
        raise BadInput(
            f"the address is {address!r}; accepted: auto or HOST:PORT, on a machine of the cluster"
        )
    host, _, port = address.rpartition(":")
    if host:
        try:  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, ValueError) as error:
            raise BadInput(f"no Ray cluster answers at {address}: {one_line(error)}") from None
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise BadInput(
            f"no Ray cluster can be joined at {address} ({one_line(error)}): on its first machine "
            "`ray start --head`, on the others `ray start --address HOST:PORT`"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray put one of its own in its place
    return ray, True


def _versions() -> dict[str, str]:
    return {"apl": version("apl-noisy-labels"), "torch": version("torch")}


def _read(run: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Those of the files of a run that are there."""
    found = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # a checkpoint is renamed when a newer comes
            found[name] = (run / name).read_bytes()
    return found


def _receive(run: Path, files: Mapping[str, bytes]) -> None:
    """Put files that came from a node into the run folder, in their order."""
    for name, content in files.items():
        if name == LOG:
            with (run / LOG).open("ab") as log:
                log.write(content)
        else:
            write_atomic(run / name, content)
    if RESULT in files:
        Run(run).delete_checkpoints()


def _on_node(task: _Task, brought: Sequence[Any]) -> Iterator[Event]:
    """A cell on a node of the cluster: its events as they come, 'unfit' where the node can't train
    it, 'apart' and then 'files' where it does not see the folder of the study."""
    import ray

    if task.folder.is_dir():
        os.chdir(task.folder)
    try:
        machine = _machine_here(task)
    except BadInput as error:
        node = ray.get_runtime_context().get_node_id()
        yield "unfit", (node, f"no cells go to {platform.node()}: {error}")
        return
    with contextlib.ExitStack() as stack:
        run, apart = task.run, not task.mark.exists()
        if apart:
            yield "apart", ""
            run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="apl-"))) / run.name
            run.mkdir()
            for name, content in (ray.get(brought[0]) if brought else {}).items():
                (run / name).write_bytes(content)
        # In a thread of its own: a generator can tell only between two of its steps.
        told: queue.SimpleQueue[Event] = queue.SimpleQueue()
        stopping = threading.Event()

        def work() -> None:
            ending: Event | None = ("died", "its thread died")
            try:
                ending = _train_cell(task.cell, run, machine, told.put, stopping.is_set)
            finally:
                told.put(ending or ("stopped", ""))

        keep_freed_memory()
        trainer = threading.Thread(target=work, daemon=True)
        trainer.start()
        try:
            yield from _report(task, run, apart, told)
        finally:  # the study stops, which is a KeyboardInterrupt here, or Ray closes the generator
            stopping.set()
            trainer.join()


def _report(task: _Task, run: Path, apart: bool, told: queue.SimpleQueue[Event]) -> Iterator[Event]:
    """What the trainer tells, and between that the checkpoints of a run that is apart."""
    shipped, newest = time.monotonic(), 0
    while True:
        with contextlib.suppress(queue.Empty):
            event = told.get(timeout=1.0)
            if event[0] not in ON_THE_WAY:
                break
            yield event
        if apart and time.monotonic() - shipped > task.ship_seconds:
            with contextlib.suppress(FileNotFoundError):
                written = (run / CHECKPOINT).stat().st_mtime_ns
                if written > newest:
                    yield "files", _read(run, BROUGHT)
                    newest = written
            shipped = time.monotonic()
    if apart:
        names = [NOISE, CONFIG, HISTORY, *([WEIGHTS] if task.weights else []), LOG, RESULT]
        yield "files", _read(run, names)
    yield event


def _machine_here(task: _Task) -> Machine:
    """The machine's settings on a node; BadInput where it has not what the cell needs."""
    if _versions() != task.versions:
        here, there = (
            ", ".join(f"{k} {v}" for k, v in each.items()) for each in (_versions(), task.versions)
        )
        raise BadInput(f"it has {here}, where the study runs it is {there}")
    machine, cell = task.machine, task.cell
    if not data_folder(machine.data_dir).is_dir():
        machine = dataclasses.replace(machine, data_dir=None)
    if cell.dataset_sha256:
        try:
            data_of(cell, machine)
        except BadInput:
            if task.decode is None:
                raise
            task.decode()
            data_of(cell, machine)
        return machine
    folder = data_folder(machine.data_dir)
    with contextlib.ExitStack() as stack:
        if cell.dataset in DATASETS and not available(cell.dataset, folder) and machine.download:
            import filelock

            folder.mkdir(parents=True, exist_ok=True)  # the cells of a node download once
            stack.enter_context(filelock.FileLock(folder / f".{cell.dataset}.lock"))
        data_of(cell, machine)
    return machine
