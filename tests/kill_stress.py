"""Kill a training run again and again and compare with an undisturbed one.

    python tests/kill_stress.py --kills 50

Each attempt is a forked process that gets SIGKILL after a random time, inside an epoch or inside
the write of a checkpoint, and the next one goes on; a round ends when an attempt finishes.  Prints
the number of files that differ from those of the undisturbed run.  `test_reliability` runs it with
fewer kills.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from apl.config.config import Config, make_config
from apl.runs.run import HISTORY, NOISE, RESULT, WEIGHTS
from apl.training.listener import Listener, ignore
from apl.training.train import train

FILES = (WEIGHTS, HISTORY, RESULT, NOISE)


def in_child(work: Callable[[], None]) -> int:
    """Start `work` in a forked process and return its pid; it exits 0 where nothing was raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one thread runs here, so that a fork is safe
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def train_quietly(config: Config, run: Path) -> None:
    train(config, run, listener=Listener(on_message=ignore))


def differing(run: Path, reference: Path) -> list[str]:
    """The files of a finished run that are not byte for byte those of the other."""
    return [n for n in FILES if (run / n).read_bytes() != (reference / n).read_bytes()]


def stress(config: Config, kills: int, folder: Path, seed: int = 0) -> tuple[int, int, int]:
    """SIGKILL `kills` attempts at random moments.  Returns rounds, kills inside a checkpoint
    write, and files that differ from the undisturbed run's."""
    draw = random.Random(seed)
    reference = folder / "reference"
    start = time.monotonic()
    assert os.waitpid(in_child(lambda: train_quietly(config, reference)), 0)[1] == 0
    duration = time.monotonic() - start
    rounds = killed = inside_write = wrong = 0
    while killed < kills:
        run = folder / f"round{rounds}"
        while True:
            pid = in_child(lambda run=run: train_quietly(config, run))  # type: ignore[misc]
            if killed < kills:
                time.sleep(draw.uniform(0, 0.6 * duration))
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if status == 0:
                break
            assert status == signal.SIGKILL, f"the attempt failed by itself: status {status}"
            killed += 1
            inside_write += any(run.glob(".*.tmp"))
        wrong += len(differing(run, reference))
        rounds += 1
    return rounds, inside_write, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    config = make_config(epochs=given.epochs, augment=True)
    with tempfile.TemporaryDirectory() as folder:
        rounds, inside, wrong = stress(config, given.kills, Path(folder), given.seed)
    print(f"{given.kills} kills in {rounds} rounds, {inside} inside a write: {wrong} files differ")
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
