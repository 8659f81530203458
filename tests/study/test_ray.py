"""A study on a Ray cluster: the same bytes as on one machine, whoever dies in the meantime.

The cluster is simulated: each node is a raylet of its own on this machine.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE, ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from apl.config.config import make_config
from apl.config.grid import make_grid
from apl.data.sources import load_data
from apl.errors import BadInput
from apl.runs.run import CHECKPOINT, HISTORY, LOG, NOISE, RECORD, RESULT, SUMMARY, WEIGHTS, Run
from apl.study.processes import default_workers, emptiest, gpus_of
from apl.study.ray import Ray, request_of
from apl.study.run import Progress, run_study
from apl.training.machine import Machine

SMALL: dict[str, Any] = {"train_size": 200, "epochs": 2}

Engine = Callable[..., Callable[[int, Machine], Ray]]


def contents(study: Path, *names: str) -> dict[str, bytes]:
    """The study's record and summary, and these files of its runs."""
    files = {f"{r.name}/{n}": (r / n).read_bytes() for r in study.glob("runs/[!.]*") for n in names}
    return {n: (study / n).read_bytes() for n in (RECORD, SUMMARY)} | files


# ------------------------------------------------------------------------- without any cluster


def test_a_worker_gets_the_gpu_that_its_device_means() -> None:
    assert gpus_of("auto", 3, None) == gpus_of("cuda", 3, None) == ["0", "1", "2"]
    assert gpus_of("cuda:1", 3, None) == ["1"]
    # Of those that this process was given, whatever they are called.
    assert gpus_of("cuda", 2, "5, 7") == ["5", "7"]
    assert gpus_of("cuda:1", 2, "GPU-a,GPU-b") == ["GPU-b"]
    assert gpus_of("auto", 0, None) == gpus_of("cpu", 2, None) == gpus_of("mps", 0, None) == []


@given(st.integers(1, 8), st.lists(st.booleans(), max_size=60))
def test_workers_spread_evenly_over_the_gpus_also_where_some_died(
    gpus: int, hires: list[bool]
) -> None:
    names = [str(i) for i in range(gpus)]
    taken: list[str] = []
    for hired in hires:
        if hired or not taken:
            taken.append(emptiest(names, taken))
        else:
            gone = max(names, key=taken.count)  # where most are, one dies
            taken.remove(gone)
        loads = [taken.count(name) for name in names]
        assert max(loads) - min(loads) <= 1
    assert emptiest([], []) == ""


def test_what_a_cell_asks_of_a_cluster() -> None:
    two = Machine(threads=2)
    assert request_of(two, 1, gpus=False) == ({"num_cpus": 2, "num_gpus": 0}, "cpu")
    assert request_of(two, 4, gpus=True) == ({"num_cpus": 2, "num_gpus": 0.25}, "cuda")
    asked = Machine(threads=1, device="cuda")  # a GPU that an autoscaler may bring
    assert request_of(asked, 1, gpus=False) == ({"num_cpus": 1, "num_gpus": 1}, "cuda")
    on_cpu = Machine(device="cpu")
    assert request_of(on_cpu, 1, gpus=True) == ({"num_cpus": 1, "num_gpus": 0}, "cpu")
    with pytest.raises(BadInput, match="device is 'cuda:1'; accepted on Ray"):
        request_of(Machine(device="cuda:1"), 1, gpus=True)
    for call in (lambda: request_of(two, 0, gpus=True), lambda: default_workers(1, "cpu", 0)):
        with pytest.raises(BadInput, match="runs_per_gpu is 0; accepted"):
            call()


def test_ray_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadInput, match=r"pip install 'apl-noisy-labels\[ray\]'"):
        Ray(1, Machine())


# ------------------------------------------------------------------------------- on a cluster


STORE = 80 * 2**20  # bytes of a node's object store; Ray takes no less than 75 MiB


class Simulated:
    """A cluster of a head that trains nothing and nodes of one core each."""

    def __init__(self, nodes: int, cache: Path) -> None:
        from ray.cluster_utils import Cluster

        self.cache = cache  # of the nodes, which is not this process's
        small = {"object_store_memory": STORE}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
        self.nodes = [self.add() for _ in range(nodes)]

    def add(self, cache: Path | None = None) -> Any:
        env = {"XDG_CACHE_HOME": str(cache or self.cache)}
        return self.cluster.add_node(num_cpus=1, env_vars=env, object_store_memory=STORE)

    def kill(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)

    def engine(self, kind: type[Ray] = Ray, **more: Any) -> Callable[[int, Machine], Ray]:
        return functools.partial(kind, address=self.cluster.address, **more)


class Apart(Ray):
    """As where no node sees the folder of the study: the file by which they would know is not
    there."""

    def __init__(self, count: int, machine: Machine, **more: Any) -> None:
        super().__init__(count, machine, **more)
        self._mark = Path("/no/such/folder/mark")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'apl-noisy-labels[ray]'")
    if sys.platform == "win32":
        pytest.skip("Ray simulates no clusters on Windows")
    import ray

    made = Simulated(2, tmp_path_factory.mktemp("cache"))
    # One connection for all, so that the nodes' processes serve all tests: torch is loaded once.
    ray.init(address=made.cluster.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.cluster.shutdown()


CELLS = make_grid(
    "quick", ["ce", "nce_rce"], ["sym"], [0.4], 1, train_size=1200, epochs=150
)  # some seconds


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cells on this machine alone."""
    study = tmp_path_factory.mktemp("alone")
    run_study(CELLS, study, workers=2, machine=Machine(threads=1))
    return study


def once(condition: Callable[[Progress], bool], act: Callable[[], None]) -> tuple[Any, list[int]]:
    """An observer that acts once the condition holds, and of what epoch each cell told after."""
    later: list[int] = []
    done: list[bool] = []

    def observe(progress: Progress) -> None:
        if done:
            later.extend(int(row["epoch"]) for row in progress.running.values() if row)
        elif condition(progress):
            act()
            done.append(True)

    return observe, later


def both_past(epoch: int) -> Callable[[Progress], bool]:
    return lambda progress: (
        sum(bool(row) and row["epoch"] > epoch for row in progress.running.values()) == len(CELLS)
    )


def test_the_nodes_of_a_cluster_write_what_one_machine_writes(
    simulated: Simulated, alone: Path, tmp_path: Path
) -> None:
    progress = run_study(CELLS, tmp_path, workers=9, engine=simulated.engine())
    assert progress.failed == {}
    names = (HISTORY, RESULT, NOISE, WEIGHTS)
    assert contents(tmp_path, *names) == contents(alone, *names)
    assert not list(tmp_path.glob("runs/.shared-*"))


@pytest.mark.parametrize("weights", [False, True])
def test_without_a_shared_folder_what_is_asked_for_comes_back(
    simulated: Simulated, alone: Path, tmp_path: Path, weights: bool
) -> None:
    progress = run_study(
        CELLS, tmp_path, workers=9, engine=simulated.engine(Apart, weights=weights)
    )
    assert progress.failed == {}
    names = (HISTORY, RESULT, NOISE, *([WEIGHTS] if weights else []))
    assert contents(tmp_path, *names) == contents(alone, *names)
    run = tmp_path / "runs" / CELLS[0].name
    assert (run / WEIGHTS).exists() == weights
    assert not (run / CHECKPOINT).exists()
    assert (run / LOG).exists()


def test_a_network_that_fills_the_object_store_comes_back(
    simulated: Simulated, tmp_path: Path
) -> None:
    """Ray puts what has no room on the disk."""
    cell = make_config("quick", loss="ce", network="cnn8", width=384, epochs=1, train_size=20)
    progress = run_study([cell], tmp_path, workers=1, engine=simulated.engine(Apart, weights=True))
    assert progress.failed == {}
    assert Run(tmp_path / "runs" / cell.name).file(WEIGHTS).stat().st_size > STORE


def test_a_cell_goes_on_elsewhere_after_its_node_died(
    simulated: Simulated, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoints came back, and a node that comes in the meantime takes a part."""
    monkeypatch.setattr("apl.study.ray.SHIP_SECONDS", 0.2)
    brought: list[int] = []

    def epochs_brought() -> list[int]:
        return [Run(tmp_path / "runs" / cell.name).epochs_done() for cell in CELLS]

    def kill() -> None:
        brought.extend(epochs_brought())
        simulated.kill(simulated.nodes.pop())
        simulated.nodes.append(simulated.add())

    at_work = both_past(15)
    observe, later = once(lambda now: at_work(now) and min(epochs_brought()) > 0, kill)
    progress = run_study(
        CELLS, tmp_path, workers=9, engine=simulated.engine(Apart), observe=observe
    )
    assert brought
    assert min(later) > min(brought)  # neither began anew
    assert any("its node died; going on elsewhere" in line for line in progress.messages)
    assert progress.failed == {}
    assert contents(tmp_path, HISTORY, RESULT, NOISE) == contents(alone, HISTORY, RESULT, NOISE)


def test_a_worker_that_is_killed_is_replaced(
    simulated: Simulated, alone: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill() -> None:
        killed.append(writer_of(tmp_path / "runs" / CELLS[0].name / LOG))
        os.kill(killed[0], signal.SIGKILL)

    observe, later = once(both_past(15), kill)
    progress = run_study(CELLS, tmp_path, workers=9, engine=simulated.engine(), observe=observe)
    assert any("its process died (WorkerCrashedError)" in line for line in progress.messages)
    assert min(later) > 10
    assert progress.failed == {}
    assert contents(tmp_path, WEIGHTS) == contents(alone, WEIGHTS)


def writer_of(file: Path) -> int:
    """The process that has a file open as its output."""
    for link in Path("/proc").glob("[0-9]*/fd/1"):
        try:
            if link.resolve() == file.resolve():
                return int(link.parts[2])
        except OSError:
            continue
    raise AssertionError(f"nobody writes to {file}")


DRIVER = """
import functools, sys
from pathlib import Path
from apl.study.run import run_study
from test_ray import CELLS, Apart, Ray
kind = {"Ray": Ray, "Apart": Apart}[sys.argv[2]]
engine = functools.partial(kind, address=sys.argv[1])
run_study(CELLS[:1], Path(sys.argv[3]), workers=9, engine=engine)
"""


@pytest.mark.parametrize("kind", ["Ray", "Apart"])
def test_a_driver_killed_and_started_again_ends_in_the_same_bytes(
    simulated: Simulated, alone: Path, tmp_path: Path, kind: str
) -> None:
    often = "import apl.study.ray; apl.study.ray.SHIP_SECONDS = 0.2"
    script = DRIVER if kind == "Ray" else often + DRIVER
    arguments = [sys.executable, "-c", script, simulated.cluster.address, kind, str(tmp_path)]
    paths = os.pathsep.join(map(str, (ROOT / "tests", ROOT / "tests" / "study")))
    driver = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": paths})
    run = Run(tmp_path / "runs" / CELLS[0].name)
    try:
        end = time.monotonic() + PATIENCE
        while not run.file(CHECKPOINT).exists():
            assert driver.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        driver.kill()
        driver.wait()
    assert not run.finished
    begun = run.epochs_done()
    first: list[float] = []

    def observe(progress: Progress) -> None:
        first.extend(row["epoch"] for row in progress.running.values() if row)

    engine = simulated.engine({"Ray": Ray, "Apart": Apart}[kind])
    progress = run_study(CELLS[:1], tmp_path, workers=9, engine=engine, observe=observe)
    assert progress.failed == {}
    assert first[0] > max(begun, 1)  # it went on
    for name in (HISTORY, RESULT):
        assert run.file(name).read_bytes() == (alone / "runs" / CELLS[0].name / name).read_bytes()


def test_a_node_without_the_data_is_told_of_once_and_left_out(
    simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third node has a cache folder of its own, so not what this machine has decoded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for i in range(40):
        folder = tmp_path / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 120, (8, 8, 3)) + 120 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    data = load_data(tmp_path / "photos")
    cells = [make_config(dataset=data, loss=loss, epochs=2) for loss in ("ce", "mae", "nce_rce")]
    # The nodes at hand were started with another cache folder: none has the data.
    with pytest.raises(BadInput, match=r"no cells go to .*: photos \(sha256 .* is not decoded"):
        run_study(cells, tmp_path / "none", workers=9, engine=simulated.engine())
    node = simulated.add(tmp_path / "cache")
    try:
        progress = run_study(cells, tmp_path / "some", workers=9, engine=simulated.engine())
        assert set(progress.results) == {cell.name for cell in cells}
        assert any("is not decoded on this machine" in line for line in progress.messages)
    finally:
        simulated.kill(node)
    # A node that sees the path decodes it for itself.
    decode = functools.partial(load_data, tmp_path / "photos")
    engine = simulated.engine(decode=decode)
    progress = run_study(cells, tmp_path / "decoded", workers=9, engine=engine)
    assert set(progress.results) == {cell.name for cell in cells}


def test_code_of_ones_own_is_found_from_the_folder_it_was_typed_in(
    simulated: Simulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine_on_ray.py").write_text(
        "import torch.nn.functional as F\ndef loss(logits, targets):\n"
        "    return F.cross_entropy(logits, targets)\n"
    )
    cell = make_config(loss="mine_on_ray:loss", **SMALL)
    for imports, done in (("mine_on_ray:loss",), True), ((), False):
        machine = Machine(imports=imports)
        study = tmp_path / str(done)
        progress = run_study([cell], study, workers=1, machine=machine, engine=simulated.engine())
        assert (cell.name in progress.results) == done
        assert done or "imported only where you type it" in progress.failed[cell.name]


def test_a_study_that_is_stopped_leaves_its_checkpoints(
    simulated: Simulated, tmp_path: Path
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    observe, _ = once(both_past(5), stop)
    cells = [dataclasses.replace(cell, epochs=5000) for cell in CELLS]  # so that both train at once
    with pytest.raises(KeyboardInterrupt):
        run_study(cells, tmp_path, workers=9, engine=simulated.engine(), observe=observe)
    for cell in cells:
        assert Run(tmp_path / "runs" / cell.name).epochs_done() > 5
        with Run(tmp_path / "runs" / cell.name).lock():  # nobody trains on
            pass


def test_another_version_and_no_cluster_are_one_line(
    simulated: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    ray.shutdown()
    with pytest.raises(BadInput, match=r"accepted: auto or HOST:PORT"):
        Ray(1, Machine(), address="ray://head:10001")
    with pytest.raises(BadInput, match=r"no Ray cluster answers at 127.0.0.1:9: .*refused"):
        Ray(1, Machine(), address="127.0.0.1:9")
    monkeypatch.setattr(ray, "__version__", "2.0.0")
    with pytest.raises(BadInput, match=r"no Ray cluster can be joined .*Version mismatch") as error:
        simulated.engine()(1, Machine())
    assert "\n" not in str(error.value)
    assert not ray.is_initialized()
