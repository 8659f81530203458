"""The cells of a study as tasks of a Ray cluster; the words are those of `apl.study.processes`."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import platform
import queue
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from apl.config.config import Config
from apl.data.folders import available, data_folder
from apl.errors import BadInput, Busy, one_line, require
from apl.files import require_no_link, write_atomic
from apl.names import DATASETS
from apl.runs.run import (
    CALIBRATION,
    CHECKPOINT,
    CONFIG,
    HISTORY,
    INPUTS,
    LOG,
    NOISE,
    REPAIRED,
    RESULT,
    VOCABULARY,
    WEIGHTS,
    Run,
)
from apl.study.cells import CELLS_PER_GPU, ON_THE_WAY, Event, train_cell
from apl.training.machine import Machine, keep_freed_memory
from apl.training.prepare import data_of

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
        return f"no node of the cluster has {wanted} for a run: waiting for one"

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
        require_no_link(run.parent, run, run / LOG)
        if self._mark is None:
            run.parent.mkdir(parents=True, exist_ok=True)
            self._mark = run.parent / f".shared-{uuid.uuid4().hex}"
            self._mark.touch()
        brought = []
        if (run / CHECKPOINT).is_file():
            # In a list, so that only a node without the folder fetches it.
            brought = [self._ray.put(_read(run, BROUGHT))]
        task = _Task(
            cell=cell,
            run=run,
            machine=self.machine,
            mark=self._mark,
            folder=Path.cwd(),
            versions=self._versions,
            decode=self.decode,
            weights=self.weights,
            ship_seconds=SHIP_SECONDS,
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
                run.begun_as(flight.cell)
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
    require(cells_per_gpu >= 1, "runs_per_gpu", cells_per_gpu, "a whole number >= 1")
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
        yield "unfit", (node, f"no runs go to {platform.node()}: {error}")
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
                ending = train_cell(task.cell, run, machine, told.put, stopping.is_set)
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
        weights = [WEIGHTS, VOCABULARY] if task.weights else []
        names = [NOISE, CONFIG, HISTORY, *weights, INPUTS, CALIBRATION, LOG]
        names += [REPAIRED, RESULT]
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
