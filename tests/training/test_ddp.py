"""One run in two processes, as torchrun starts them: the curve of one, and the bytes of one never
killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import torch
from conftest import PATIENCE, ROOT, Begun, Cli
from hypothesis import given
from hypothesis import strategies as st
from kill_stress import differing

from apl.config.config import make_config
from apl.data.sources import load_data
from apl.errors import BadInput
from apl.runs.run import CHECKPOINT, LOCK, Run
from apl.training.batches import Batches
from apl.training.ddp import Group, synchronise
from apl.training.machine import choose_device
from apl.training.networks import make_network

posix = pytest.mark.skipif(os.name != "posix", reason="needs signals")

# Without batch norm, which on a CPU takes the statistics of each process's own images.
NETWORK = """
from torch import nn

class Plain(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, num_classes))

class Spare(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.plain, self.spare = Plain(num_classes), nn.Linear(64, num_classes)

    def forward(self, images):
        return self.plain(images)
"""
# ELR remembers what it saw of each sample; of 1,347 images in batches of 21 the last has 3, too few
# to be shared.
ARGUMENTS = (
    *("train", "--network", "nets:Plain", "--loss", "elr", "--epochs", "6", "--batch-size", "21"),
    *("--warm-start", "2", "--clip", "1", "--l1", "1e-5", "--threads", "1", "--lr", "0.05"),
)


def torchrun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`torchrun ... apl ...` in two processes in a folder."""
    (folder / "nets.py").write_text(NETWORK)
    start = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "apl")
    return subprocess.Popen(
        [sys.executable, "-m", *start, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_in(folder: Path) -> Path:
    (found,) = folder.glob("results/*/runs/*")
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run in two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    process = torchrun(folder, *ARGUMENTS)
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return folder, out


@pytest.mark.slow
def test_two_processes_train_as_one(
    undisturbed: tuple[Path, str], cli: Cli, tmp_path: Path
) -> None:
    folder, out = undisturbed
    (tmp_path / "nets.py").write_text(NETWORK)
    alone = cli(*ARGUMENTS)
    one, two = Run(run_in(tmp_path)), Run(run_in(folder))
    curves = [np.array([list(row.values()) for row in run.history]) for run in (one, two)]
    np.testing.assert_allclose(*curves, rtol=1e-5)
    assert one.result.test_accuracy > 0.8
    weights = [run.weights(run.config) for run in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-5)
    # The first process alone speaks and writes, and the machine's part tells of both.
    assert out.splitlines() == alone.stdout.splitlines()
    assert two.environment["processes"] == 2
    assert "processes" not in one.environment
    assert {file.name for file in one.file("x").parent.iterdir()} == {
        file.name for file in two.file("x").parent.iterdir()
    }


def checkpoints(folder: Path) -> Iterator[None]:
    """Waits for the next checkpoint in a folder, each time it is asked."""
    seen = 0
    while True:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline
            found = list(folder.glob(f"results/*/runs/*/{CHECKPOINT}"))
            now = max((file.stat().st_mtime_ns for file in found if file.exists()), default=0)
            if now > seen:
                break
            time.sleep(0.01)
        seen = now
        yield


def as_rank(rank: int, size: int = 2) -> dict[str, str]:
    """The environment that torchrun gives."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    numbers = map(str, (rank, rank, size, size))
    return {"TORCHELASTIC_RUN_ID": "none", **dict(zip(names, numbers, strict=True))}


class Two:
    """The two processes of a run as torchrun starts and ends them, forked: its own interpreter and
    what each of theirs loads take longer than the training."""

    def __init__(self, folder: Path, arguments: tuple[str, ...] = ARGUMENTS) -> None:
        (folder / "nets.py").write_text(NETWORK)
        with socket.create_server(("127.0.0.1", 0)) as free:
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        self._both = [Begun(arguments, folder, as_rank(rank) | meeting) for rank in range(2)]

    def kill_one(self) -> None:
        """As by the system when memory is short; torchrun then ends the other."""
        one, other = self._both
        other.send_signal(signal.SIGKILL)
        other.process.join()
        one.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        for each in self._both:
            each.send_signal(signal.SIGTERM)

    def end(self) -> tuple[list[int], str]:
        """Their exit codes, and what they said of errors."""
        done = [each.end() for each in self._both]
        return [each.returncode for each in done], "".join(each.stderr for each in done)


@pytest.mark.slow
@posix
def test_killed_and_stopped_it_ends_in_the_same_bytes(
    undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    written = checkpoints(tmp_path)
    two = Two(tmp_path)
    next(written)
    two.kill_one()
    codes, _ = two.end()
    assert 0 not in codes

    two = Two(tmp_path)
    next(written)
    two.stop()
    codes, errors = two.end()
    assert 0 not in codes
    assert errors.count("stopped; to go on: the same torchrun command") == 1, errors
    assert (run_in(tmp_path) / CHECKPOINT).exists()

    codes, errors = Two(tmp_path).end()
    assert codes == [0, 0], errors
    assert differing(run_in(tmp_path), run_in(undisturbed[0])) == []


@pytest.mark.slow
def test_what_the_first_process_can_not_do_is_told_once(undisturbed: tuple[Path, str]) -> None:
    folder, _ = undisturbed
    with filelock.FileLock(run_in(folder) / LOCK):
        codes, errors = Two(folder).end()
    assert codes == [2, 2], errors
    assert errors.count("apl: another process is training in") == 1, errors
    assert "terminate called" not in errors


@pytest.mark.slow
def test_a_part_that_nothing_reaches_is_told_of_as_in_one_process(tmp_path: Path) -> None:
    little = "train --network nets:Spare --loss ce --noise none --epochs 1 --threads 1".split()
    codes, errors = Two(tmp_path, tuple(little)).end()
    assert codes == [1, 1]
    assert "Traceback" not in errors
    assert Run(run_in(tmp_path)).result.reason == "no-gradient"


# ---------------------------------------------------------------------------- in one process


@given(start=st.integers(0, 1000), count=st.integers(0, 1000), size=st.integers(1, 9))
def test_shares_are_the_whole_in_order(start: int, count: int, size: int) -> None:
    whole = list(range(start + count))
    shares = [whole[Group(rank, size).share(start, start + count)] for rank in range(size)]
    if count < 2 * size:
        assert shares == [whole[start:]] * size
        return
    assert [each for share in shares for each in share] == whole[start:]
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 2


@pytest.mark.parametrize("recipe", [{}, {"crop_size": 6, "colour": 0.4, "views": 2}])
def test_the_shares_of_a_batch_are_the_batch_of_one_process(recipe: dict[str, Any]) -> None:
    data, recipe = load_data("digits"), dict(recipe)
    views = recipe.pop("views", 1)
    given = (data, make_config(batch_size=67, seed=3, augment=True, **recipe), torch.device("cpu"))
    alone = Batches(*given, views=views).of(2)
    groups = [Group(rank, 3) for rank in range(3)]
    shared = [Batches(*given, views=views, group=group).of(2) for group in groups]
    for (chosen, images), *shares in zip(alone, *shared, strict=True):
        for samples, _ in shares:
            assert torch.equal(samples, chosen)
        together = torch.cat([part for _, part in shares], dim=1 if views > 1 else 0)
        torch.testing.assert_close(together, images, rtol=0, atol=0)


def test_each_process_has_the_device_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in as_rank(1).items():
        monkeypatch.setenv(name, value)
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(BadInput, match=r"device is 'cuda:1'; accepted: auto, cuda, cpu under"):
        choose_device("cuda:1")
    if torch.cuda.device_count() < 2:
        with pytest.raises(BadInput, match=r"2 processes on a machine with \d GPUs; accepted: a"):
            choose_device("cuda")
    else:
        assert choose_device("auto") == torch.device("cuda", 1)


@pytest.mark.parametrize("rank", [0, 1])
def test_torchrun_is_for_training(cli: Cli, rank: int) -> None:
    done = cli("study", code=2, **as_rank(rank))
    line = "apl: torchrun was given apl study; accepted: apl train (a study"
    assert done.stderr.count(line) == (rank == 0)
    assert done.stdout == ""


def test_batch_norm_of_torch_alone_is_synchronised() -> None:
    network = make_network("cnn4", (8, 8, 1), 10, 8)
    before = network.state_dict()
    kinds = {type(layer).__name__ for layer in synchronise(network).modules()}
    assert "SyncBatchNorm" in kinds
    assert not any(kind.startswith("BatchNorm") for kind in kinds)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)

    class WithActivation(torch.nn.BatchNorm2d):
        pass

    with pytest.raises(BadInput, match=r"1 is a WithActivation.*accepted under torchrun"):
        synchronise(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), WithActivation(4)))
