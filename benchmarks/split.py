"""Images per second of a study, for every split of the cores between processes and threads.

    python benchmarks/split.py [--preset laptop] [--epochs 4] [--rounds 3] [--data-dir DIR]

Every process trains the same cell with NCE+RCE; the first epoch, in which they start and warm up,
is not counted.  The splits take turns in every round and each keeps its best.  Prints a Markdown
table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

from apl.config.config import make_config
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine, keep_freed_memory
from apl.training.train import train


def work(barrier: Barrier, preset: str, epochs: int, threads: int, data_dir: Path | None) -> None:
    """Train one cell; meet the others after the first epoch."""
    keep_freed_memory()
    machine = Machine(threads=threads, data_dir=data_dir)
    config = make_config(preset, loss="nce_rce", epochs=epochs, eval_every=1000)

    def on_epoch(row: dict[str, float]) -> None:
        if row["epoch"] == 1 or row["epoch"] == epochs - 1:
            barrier.wait()

    train(config, machine=machine, listener=Listener(on_epoch=on_epoch, on_message=ignore))


def images_per_second(
    preset: str, epochs: int, processes: int, threads: int, data_dir: Path | None
) -> float:
    """Over all processes, from the end of the first epoch to that of the last but one."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    pool = [
        context.Process(target=work, args=(barrier, preset, epochs, threads, data_dir))
        for _ in range(processes)
    ]
    for process in pool:
        process.start()
    barrier.wait()
    began = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - began
    for process in pool:
        process.join()
    return processes * (epochs - 2) * make_config(preset).train_size / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="laptop", help="one that trains on a part of the data")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    cores = os.cpu_count() or 1
    splits = [(cores // n, n) for n in range(1, cores + 1) if cores % n == 0]
    best = dict.fromkeys(splits, 0.0)
    for _ in range(given.rounds):
        for processes, threads in splits:
            rate = images_per_second(given.preset, given.epochs, processes, threads, given.data_dir)
            best[processes, threads] = max(rate, best[processes, threads])
    print("| processes x threads | images/s | over the first |\n| --- | --- | --- |")
    for (processes, threads), rate in best.items():
        print(f"| {processes} x {threads} | {rate:.0f} | {rate / best[splits[0]]:.2f} |")


if __name__ == "__main__":
    main()
