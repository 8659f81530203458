"""Short cells on a simulated Ray cluster of three nodes while nodes and processes are killed.

    python benchmarks/cluster.py --cells 1000 --kill-seconds 15

Prints what a cell costs there and in worker processes of this machine, the driver's memory, how
often a cell was begun again, and whether the records are the same.  Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import resource
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from apl.config.config import Config
from apl.config.grid import make_grid
from apl.runs.run import RECORD
from apl.study.processes import Processes
from apl.study.ray import Ray
from apl.study.run import Progress, run_study
from apl.training.machine import Machine

ENDINGS: Counter[str] = Counter()
COMPLETED: Counter[str] = Counter()


class Counted(Ray):
    """Counts how cells end."""

    def events(self, seconds: float) -> Iterator[tuple[Config, str, Any]]:
        for cell, kind, content in super().events(seconds):
            ENDINGS[kind] += 1
            COMPLETED[cell.name] += kind == "result"
            yield cell, kind, content


class Apart(Counted):
    """As where no node sees the study's folder."""

    def __init__(self, count: int, machine: Machine, **more: Any) -> None:
        super().__init__(count, machine, **more)
        self._mark = Path("/no/such/folder/mark")


def memory() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Killer:
    """Kills a node, which another one replaces, or a process of one, every so many seconds."""

    def __init__(self, cluster: Cluster, nodes: list[Any], seconds: float) -> None:
        self.cluster, self.nodes, self.seconds = cluster, nodes, seconds
        self.draw, self.last = random.Random(0), time.monotonic()
        self.killed: Counter[str] = Counter()

    def __call__(self, progress: Progress) -> None:
        if not self.seconds or time.monotonic() - self.last < self.seconds:
            return
        if self.draw.random() < 0.5:
            node = self.nodes.pop(self.draw.randrange(len(self.nodes)))
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=1))
            self.killed["nodes"] += 1
        elif workers := training():
            os.kill(self.draw.choice(workers), signal.SIGKILL)
            self.killed["processes"] += 1
        self.last = time.monotonic()


def training() -> list[int]:
    """The processes of this machine that Ray has a cell of ours in."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if file.read_bytes().startswith(b"ray::_on_node"):
                found.append(int(file.parts[2]))
        except OSError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--kill-seconds", type=float, default=15.0, help="0: nobody is killed")
    parser.add_argument("--apart", action="store_true", help="nodes do not see the study's folder")
    parser.add_argument("--no-reference", action="store_true", help="Ray alone")
    given = parser.parse_args()
    cells = make_grid("quick", ["ce"], ["sym"], [0.4], given.cells, train_size=50, epochs=1)
    machine = Machine(threads=1)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    kill = Killer(cluster, nodes, given.kill_seconds)
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder, "here"), Path(folder, "there")
        begun = memory()
        start = time.monotonic()
        kind = Apart if given.apart else Counted
        engine = functools.partial(kind, address=cluster.address)
        progress = run_study(
            cells, there, workers=len(cells), machine=machine, engine=engine, observe=kill
        )
        on_ray = time.monotonic() - start
        print(
            f"{len(cells)} cells on Ray: {on_ray:.1f} s, {1000 * on_ray / len(cells):.0f} ms each"
        )
        print(f"killed: {dict(kill.killed)}; endings: {dict(ENDINGS)}")
        print(
            f"done: {len(progress.results)}, failed: {len(progress.failed)}, "
            f"completed twice: {sum(n > 1 for n in COMPLETED.values())}"
        )
        print(f"driver: {begun:.0f} MB before, {memory():.0f} MB at most")
        if progress.failed:  # whose process died twice: the same command goes on with them
            again = run_study(cells, there, workers=len(cells), machine=machine, engine=engine)
            print(f"the same command again: {len(again.results)} done, {len(again.failed)} failed")
        if given.no_reference:
            return
        start = time.monotonic()
        run_study(cells, here, workers=3, machine=machine, engine=Processes)
        alone = time.monotonic() - start
        print(f"in 3 processes: {alone:.1f} s, {1000 * alone / len(cells):.0f} ms each")
        print(f"records equal: {(here / RECORD).read_bytes() == (there / RECORD).read_bytes()}")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
