"""The promises of docs/reliability.md: crashes, full disks, damaged or hostile files, bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PATIENCE, Begun, Cli
from forked import in_clean_process
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kill_stress import FILES, differing, in_child, stress, train_quietly

from apl.cli import app as command_line
from apl.config.config import Config, make_config
from apl.config.grid import make_grid
from apl.data.sources import human_labels, load_data
from apl.errors import BadInput, Interrupted
from apl.files import FORMAT, load_tensors, save_tensors, write_atomic
from apl.noise.files import read_noise
from apl.noise.matrices import find_map, read_matrix
from apl.runs.record import read_record, read_runs
from apl.runs.run import (
    CHECKPOINT,
    CONFIG,
    HISTORY,
    LOG,
    NOISE,
    PREVIOUS,
    RECORD,
    RESULT,
    SUMMARY,
    WEIGHTS,
    Run,
)
from apl.study.run import run_study
from apl.training.evaluate import evaluate_run
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.train import train

OFTEN = Machine(checkpoint_minutes=0.0)  # a checkpoint after every step

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and signals")


def small(**given: Any) -> Config:
    tiny = {"network": "mlp", "width": 64, "train_size": 200, "epochs": 2, "seed": 5}
    return make_config(**{**tiny, **given})


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of `small()`; copy it before changing anything."""
    run = tmp_path_factory.mktemp("finished") / "run"
    train(small(), run)
    return run


# Crashes.


@pytest.mark.slow
@posix
def test_sigkill_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    in_clean_process(_sigkill_at_random_moments, tmp_path)


def _sigkill_at_random_moments(tmp_path: Path) -> None:
    rounds, _, wrong = stress(make_config(epochs=5, augment=True), 8, tmp_path)
    assert rounds >= 1
    assert wrong == 0


WRITES = ("os.rename", "os.remove", "os.chmod")


def at_write(number: int, folder: Path, act: Any) -> None:
    """From now on in this process: call `act` at the write `number` (from 0) inside the folder."""
    seen = -1

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        writes = event in WRITES or (event == "open" and arguments[1] is None and _flags(arguments))
        if writes and str(folder) in str(arguments[0]):
            seen += 1
            if seen == number:
                act()

    sys.addaudithook(hook)


def _flags(arguments: tuple[Any, ...]) -> bool:
    """Whether a file of ours is opened to write it: filelock opens its own, and from 4.3 on a
    nameless one in the folder, to see whether it may."""
    path, _, flags = arguments
    ours = not (str(path).endswith(".lock") or os.path.isdir(path))
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) and ours


def every_write(folder: Path, act: Any) -> Iterator[tuple[Path, int]]:
    """Train in a new folder for each write that training does, with `act` called at that write;
    yields the run folder and the exit status of the process."""
    for number in range(200):
        run = folder / f"write{number}"

        def work(run: Path = run, number: int = number) -> None:
            at_write(number, run, act)
            train_quietly(small(), run)

        _, status = os.waitpid(in_child(work), 0)
        if status == 0:
            assert number > 20, "training writes more often than that"
            return
        yield run, status
    raise AssertionError("training never ended")


@pytest.mark.slow
@posix
def test_sigkill_at_each_single_write_changes_nothing(tmp_path: Path, finished: Path) -> None:
    in_clean_process(_sigkill_at_each_single_write, tmp_path, finished)


def _sigkill_at_each_single_write(tmp_path: Path, finished: Path) -> None:
    for run, status in every_write(tmp_path, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        assert status == signal.SIGKILL
        for name in FILES:  # what stands under a final name is whole
            if (run / name).exists() and name != RESULT:
                assert (run / name).read_bytes() == (finished / name).read_bytes()
        train_quietly(small(), run)
        assert differing(run, finished) == []
        assert not list(run.glob(".*.tmp"))
        assert not list(run.glob("checkpoint*"))


@pytest.mark.slow
@posix
def test_a_failing_disk_at_each_single_write_loses_nothing(tmp_path: Path, finished: Path) -> None:
    in_clean_process(_failing_disk_at_each_single_write, tmp_path, finished)


def _failing_disk_at_each_single_write(tmp_path: Path, finished: Path) -> None:
    def no_space() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for run, status in every_write(tmp_path, no_space):
        assert os.waitstatus_to_exitcode(status) == 1
        assert not (run / RESULT).exists() or differing(run, finished) == []
        train_quietly(small(), run)
        assert differing(run, finished) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 16 epochs, a second or more, that nobody stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(make_config(epochs=16), run)
    return run


@pytest.mark.slow
@posix
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_apl_train_stops_on_a_signal_and_goes_on(
    tmp_path: Path, begin: Callable[..., Begun], cli: Cli, whole: Path, how: int
) -> None:
    command = ("train", "--epochs", "16", "--threads", "1", "--out", str(tmp_path / "stopped"))
    process = begin(*command)
    end = time.monotonic() + PATIENCE
    while not list(tmp_path.glob("stopped/runs/*/checkpoint.safetensors")):
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(how)
    stopped = process.end()
    assert stopped.returncode == 130, stopped.stdout + stopped.stderr
    to_go_on = "stopped; to go on: apl train --epochs 16 --threads 1 --out "
    assert stopped.stderr.startswith(to_go_on)
    (run,) = tmp_path.glob("stopped/runs/*")
    assert not (run / RESULT).exists()
    assert "epoch   1/16" not in cli(*command).stdout  # it did not begin anew
    assert differing(run, whole) == []


@pytest.mark.slow
def test_stopping_inside_an_epoch_and_inside_an_evaluation_is_exact(
    tmp_path: Path, finished: Path
) -> None:
    """Ask to stop at the n-th look, for every n: each step and each batch of an evaluation."""
    run = tmp_path / "run"
    for number in range(200):
        shutil.rmtree(run, ignore_errors=True)
        asked = iter(range(number + 1))
        try:
            train(
                small(),
                run,
                listener=Listener(should_stop=lambda asked=asked: next(asked, None) is None),
            )
            break
        except Interrupted:
            pass
        train(small(), run)
        assert differing(run, finished) == []
    assert number > 8


def test_checkpoints_inside_an_epoch_by_the_clock(tmp_path: Path, finished: Path) -> None:
    train(small(), tmp_path, machine=OFTEN)
    assert differing(tmp_path, finished) == []


# Disks.


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def one_line(errors: str) -> bool:
    return errors.count("\n") == 1 and "Traceback" not in errors


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_loses_nothing(here: Cli, tiny_disk: Path) -> None:
    arguments = ("--losses", "ce,mae", "--noise", "sym", "--rates", "0.4", "--seeds", "3")
    fast = ("--train-size", "300", "--epochs", "3", "--network", "mlp", "--width", "64")
    everything = ("study", *arguments, *fast, "--workers", "2", "--no-pictures")
    everything += ("--out", str(tiny_disk / "study"))
    # One finished run is there and leaves room for one more at a time: whenever the two workers
    # meet, the disk is full before the study is done, and not before anything is.
    here("train", "--loss", "ce", *arguments[2:4], "--rate", "0.4", *fast, *everything[-2:])
    done = here(*everything, code=1)
    assert one_line(done.stderr), done.stderr
    assert f"No space left on device: {tiny_disk}" in done.stderr
    results = sorted(tiny_disk.glob("study/runs/*/result.json"))
    assert 0 < len(results) < 6
    assert not list(tiny_disk.rglob("*.tmp"))
    kept = {path: path.read_bytes() for path in results}
    subprocess.run(["mount", "-o", "remount,size=50m", str(tiny_disk)], check=True)
    here(*everything)
    assert len(list(tiny_disk.glob("study/runs/*/result.json"))) == 6
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_an_error_of_the_disk_names_what_was_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(FileNotFoundError) as missing:
        write_atomic(tmp_path / "gone" / "x.csv", b"")
    assert missing.value.filename == str(tmp_path / "gone" / "x.csv")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device: .*x\.csv") as full:
        write_atomic(tmp_path / "x.csv", b"")
    assert full.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command", ["train", pytest.param("study", marks=pytest.mark.slow), "noise"]
)
def test_a_read_only_folder_is_one_line(here: Cli, tiny_disk: Path, command: str) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    target = tiny_disk / ("x.npz" if command == "noise" else "study")
    done = here(command, "--out", str(target), code=1)
    assert one_line(done.stderr), done.stderr
    assert "Read-only file system" in done.stderr
    if command == "noise":  # no table of labels that nobody will find
        assert done.stdout == ""


@pytest.mark.parametrize("where", ["a file", "no permission"])
def test_noise_that_cannot_be_written_is_one_line_and_says_nothing_before(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    target = tmp_path / "there" / "x.npz"
    if where == "a file":
        target.parent.touch()
    else:  # by hand, as root may write everywhere

        def refuse(path: Path, *_: Any) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

        monkeypatch.setattr("apl.noise.files.write_atomic", refuse)
    assert command_line.run(["noise", "--out", str(target)]) == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert one_line(errors), errors
    assert "nothing finished is lost" in errors
    assert not target.exists()


def test_a_run_folder_that_vanishes_is_an_error_and_no_half_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError):
        train(small(), run, listener=Listener(on_epoch=lambda row: shutil.rmtree(run)))
    assert not run.exists()
    train(small(), run)
    assert (run / RESULT).exists()


@pytest.mark.slow
def test_a_summary_that_cannot_be_written_stops_no_training(tmp_path: Path) -> None:
    (tmp_path / SUMMARY).mkdir()  # stands for a file that another program holds
    (tmp_path / SUMMARY / "x").touch()
    cells = make_grid("quick", ["ce"], ["sym"], [0.4], 1, train_size=200, epochs=1)
    progress = run_study(cells, tmp_path, workers=1)
    assert len(progress.results) == 1
    assert any("summary.csv can't be written" in line for line in progress.messages)


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# Damaged and foreign files.


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run that a test may damage, in a study folder."""
    target = tmp_path / "study" / "runs" / small().name
    shutil.copytree(finished, target)
    return target


def two_checkpoints(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for epoch in (1, 2):
        Run(folder).save(small(), {"w": torch.full((50,), float(epoch))}, {"epoch": epoch})


@pytest.mark.slow
@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_damage_to_a_checkpoint_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    two_checkpoints(folder)
    content = bytearray((folder / CHECKPOINT).read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[where] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[where:]
    (folder / CHECKPOINT).write_bytes(content)
    tensors, state, problems = Run(folder).resume(small())
    assert isinstance(Run(folder).epochs_done(), int)  # whatever it reads, it never raises
    config = state.pop("config")
    assert Config.read(config) == small()
    if state == {"epoch": 2}:  # the flipped bit was in the padding of the header
        assert tensors["w"].tolist() == [2.0] * 50
        assert problems == []
    else:
        assert state == {"epoch": 1}  # the previous good one is used
        assert tensors["w"].tolist() == [1.0] * 50
        assert CHECKPOINT in problems[0]


def test_training_goes_on_from_the_previous_checkpoint_and_says_so(
    tmp_path: Path, finished: Path
) -> None:
    run = tmp_path / "run"
    stop = iter([False] * 8)
    with pytest.raises(Interrupted):
        train(small(), run, machine=OFTEN, listener=Listener(should_stop=lambda: next(stop, True)))
    assert (run / PREVIOUS).exists()
    content = bytearray((run / CHECKPOINT).read_bytes())
    content[-5] ^= 4
    (run / CHECKPOINT).write_bytes(content)
    said: list[str] = []
    train(small(), run, listener=Listener(on_message=said.append))
    assert "checksum does not match; going on from the one before it" in said[0]
    assert differing(run, finished) == []


def test_training_begins_anew_where_no_checkpoint_is_good(tmp_path: Path, finished: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (CHECKPOINT, PREVIOUS):
        (run / name).write_bytes(b"garbage")
    said: list[str] = []
    train(small(), run, listener=Listener(on_message=said.append))
    assert "going on from the start" in said[-1]
    assert differing(run, finished) == []


def test_a_checkpoint_of_another_run_is_not_gone_on_from(tmp_path: Path, finished: Path) -> None:
    looks = iter(range(8))
    with pytest.raises(Interrupted):
        train(
            small(lr=0.3),
            tmp_path / "other",
            listener=Listener(should_stop=lambda: next(looks, None) is None),
        )
    (tmp_path / "run").mkdir()
    shutil.copy(tmp_path / "other" / CHECKPOINT, tmp_path / "run")
    said: list[str] = []
    train(small(), tmp_path / "run", listener=Listener(on_message=said.append))
    assert "is another run's; going on from the start" in said[0]
    assert differing(tmp_path / "run", finished) == []


def before_later_fields(path: Path) -> None:
    """Rewrite weights or a checkpoint as an apl without the fields that came later wrote them."""
    tensors, state = load_tensors(path)
    for field in dataclasses.fields(Config):
        if field.default is not dataclasses.MISSING:
            state["config"].pop(field.name, None)
    save_tensors(path, tensors, state)


def test_runs_from_before_a_setting_was_there_stay(run: Path, tmp_path: Path) -> None:
    accuracy = evaluate_run(run)[0].accuracy
    before_later_fields(run / WEIGHTS)
    assert evaluate_run(run)[0].accuracy == accuracy

    begun = tmp_path / "begun"
    looks = iter(range(8))
    with pytest.raises(Interrupted):
        train(small(), begun, listener=Listener(should_stop=lambda: next(looks, None) is None))
    before_later_fields(begun / CHECKPOINT)
    said: list[str] = []
    train(small(), begun, listener=Listener(on_message=said.append))
    assert not any("another run's" in line for line in said)


def test_other_arguments_in_a_run_folder(run: Path) -> None:
    with pytest.raises(BadInput, match=r"lr is 0\.05, asked for 0\.2.*choose another --out"):
        train(small(lr=0.2), run)


def test_a_config_from_a_newer_version(run: Path) -> None:
    content = json.loads((run / CONFIG).read_text())
    (run / CONFIG).write_text(json.dumps({**content, "format": FORMAT + 1}))
    with pytest.raises(BadInput, match=r"config\.json was written by a newer apl.*update apl"):
        train(small(), run)


@pytest.mark.slow
@pytest.mark.parametrize("name", [CONFIG, RESULT, HISTORY])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe\x00", b"epoch\n1\n"])
def test_damaged_text_files_are_named_and_leave_the_other_runs_alone(
    run: Path, name: str, content: bytes
) -> None:
    other = run.parent / "other"
    shutil.copytree(run, other)
    (run / name).write_bytes(content)
    with pytest.warns(UserWarning, match=rf"left out: .*{name}"):
        runs = read_runs(run.parent.parent)
    assert [found.name for found in runs] == ["other"]
    if name != HISTORY:
        with pytest.raises(BadInput, match=name):
            train(small(), run)
        progress = run_study([small()], run.parent.parent, workers=1)
        assert name in progress.failed[small().name]


def test_a_missing_or_foreign_model(run: Path, tmp_path: Path) -> None:
    model = run / WEIGHTS
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"model\.safetensors is damaged"):
        evaluate_run(run)
    save_tensors(model, {"w": torch.zeros(3)}, {})
    with pytest.raises(BadInput, match="is another run's"):
        evaluate_run(run)
    save_tensors(model, {"w": torch.zeros(3)}, {"config": dataclasses.asdict(small())})
    with pytest.raises(BadInput, match="does not fit the network"):
        evaluate_run(run)
    model.unlink()
    with pytest.raises(BadInput, match=r"model\.safetensors is missing"):
        evaluate_run(run)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no noisy labels"),
        (b"PK\x03\x04 no zip", "holds no noisy labels"),
        (npz(clean=[0]), "holds no noisy labels"),
        (npz(clean=[0, 9], noisy=[0, 1], transition=np.eye(2)), r"clean labels must lie in \[0, 2"),
        (npz(clean=[0, 1], noisy=[0, -1], transition=np.eye(2)), r"noisy labels must lie in"),
        (npz(clean=[0.5], noisy=[0], transition=np.eye(2)), "clean must be a vector of whole"),
        (npz(clean=[0, 1], noisy=[0], transition=np.eye(2)), "2 clean labels but 1 noisy"),
        (npz(clean=[0], noisy=[0], transition=np.ones((2, 2))), "row 0 sums to 2"),
        (npz(clean=[0], noisy=[0], transition=np.ones(2)), "must be 2 x 2, got 2"),
    ],
)
def test_a_wrong_npz(run: Path, content: bytes, message: str) -> None:
    (run / NOISE).write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_noise(run / NOISE)
    assert NOISE in str(caught.value)
    (run / RESULT).unlink()
    with pytest.raises(BadInput, match=message):
        train(small(), run)


def test_other_labels_in_a_run_folder(run: Path, tmp_path: Path) -> None:
    (run / RESULT).unlink()
    train(small(seed=6), tmp_path / "other")
    shutil.copy(tmp_path / "other" / NOISE, run)
    with pytest.raises(BadInput, match="trained on other labels"):
        train(small(), run)


# No file can run code.


class Evil:
    """Unpickling this makes a file: the mark that code ran."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.mark), "w"))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_loader_runs_a_pickle(run: Path, tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "code-ran"
    raw = pickle.dumps(Evil(mark), protocol)
    buffer = io.BytesIO()
    torch.save({"clean_label": Evil(mark), "worse_label": Evil(mark)}, buffer)
    objects = io.BytesIO()
    np.savez(objects, clean=np.array([Evil(mark)], dtype=object), noisy=[0], transition=np.eye(2))
    array = io.BytesIO()
    np.save(array, np.array([Evil(mark)], dtype=object))
    evil = tmp_path / "evil"
    clean = load_data("digits").train.labels.true
    for content in (raw, buffer.getvalue(), objects.getvalue(), array.getvalue()):
        for name in (CONFIG, HISTORY, RESULT, NOISE, WEIGHTS):
            (run / name).write_bytes(content)
        (run / CHECKPOINT).write_bytes(content)
        evil.write_bytes(content)
        (tmp_path / "evil.npy").write_bytes(content)
        (tmp_path / "CIFAR-10_human.pt").write_bytes(content)
        for load in (
            lambda: Run(run).config,
            lambda: Run(run).environment,
            lambda: Run(run).history,
            lambda: Run(run).result,
            lambda: Run(run).labels,
            lambda: Run(run).weights(small()),
            lambda: read_noise(run / NOISE),
            lambda: load_tensors(run / WEIGHTS),
            lambda: find_map(str(evil), ["a", "b"]),
            lambda: read_matrix(evil, 10),
            lambda: read_matrix(tmp_path / "evil.npy", 10),
            lambda: human_labels("worse", clean, tmp_path),
            lambda: evaluate_run(run),
            lambda: train(small(), run),
        ):
            with pytest.raises(BadInput):
                load()
        assert Run(run).resume(small())[0] == {}
        assert Run(run).epochs_done() == 0
        with pytest.warns(UserWarning, match="left out"), pytest.raises(BadInput):
            read_runs(run.parent.parent)
        record = run.parent.parent / RECORD
        record.write_bytes(content)
        with warnings.catch_warnings(), contextlib.suppress(BadInput):
            warnings.simplefilter("ignore")  # a line or the whole file is told of
            assert read_record(record.parent) == {}
        record.unlink()
    assert not mark.exists()


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "mnist"])
def test_a_data_set_made_of_evil_pickles_is_refused(tmp_path: Path, dataset: str) -> None:
    mark = tmp_path / "code-ran"
    content = pickle.dumps(Evil(mark))
    folders = ("cifar-10-batches-py", "cifar-100-python", "MNIST/raw", "MNIST/processed")
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch", "batches.meta"]
    names += ["train", "test", "meta", "training.pt", "test.pt"]
    names += [f"{s}-{k}-ubyte" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / folder / name).write_bytes(content)
    with pytest.raises(BadInput, match="damaged or incomplete"):
        load_data(dataset, tmp_path, download=False)
    assert not mark.exists()


def test_links_do_not_lead_out_of_the_results(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    config = small()
    runs = tmp_path / "study" / "runs"
    runs.mkdir(parents=True)
    (runs / config.name).symlink_to(outside)
    with pytest.raises(BadInput, match="is a link"):
        train(config, runs / config.name)
    assert list(outside.iterdir()) == []
    (runs / config.name).unlink()
    (runs / config.name).mkdir()
    (outside / "precious").write_text("text")
    (runs / config.name / LOG).symlink_to(outside / "precious")
    progress = run_study([config], tmp_path / "study", workers=1)
    assert config.name in progress.failed
    assert (outside / "precious").read_text() == "text"


@pytest.mark.slow
def test_names_never_leave_the_results_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "map.json").write_text('{"1": "7"}')
    nested = tmp_path / "here"
    nested.mkdir()
    cli(
        *("train", "--noise", "asym", "--map", str(tmp_path / "up" / ".." / "up" / "map.json")),
        *("--train-size", "200", "--epochs", "2", "--threads", "1", "--out", "here/study"),
    )
    written = {p for p in tmp_path.rglob("*") if p.is_file()} - {tmp_path / "up" / "map.json"}
    assert all(nested in path.parents for path in written)


# Numbers and options.

texts = st.text(max_size=12)
anything = st.one_of(
    texts,
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["", "-1", "0", "1", "nan", "inf", "1e400", "../..", "/", "ce", "sym", "none"]),
)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["--type", "--rate", "--map", "--method", "--seed", "--train-size"]),
            anything,
        ),
        max_size=4,
    )
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_options_of_noise_give_a_result_or_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[tuple[str, str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    # Its picture is made each time, and not written, which takes longer than all else.
    monkeypatch.setattr("apl.report.pictures._write", lambda draw, path, names: [draw() and path])
    code = command_line.run(["noise", "--out", "x.npz", *(f"{k}={v}" for k, v in options)])
    errors = [line for line in capsys.readouterr().err.splitlines() if "warning:" not in line]
    assert code in (0, 2)
    assert len(errors) == (code == 2), errors
    if code == 0:
        assert np.shape(read_noise(tmp_path / "x.npz").transition) == (10, 10)


numbers = st.one_of(st.none(), st.integers(), st.floats())
fields = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("alpha", "beta", "gamma", "q", "A", "lr", "momentum", "clip"), numbers),
        **dict.fromkeys(("rate", "weight_decay"), st.floats()),
        **dict.fromkeys(("seed", "width", "epochs", "batch_size", "train_size"), st.integers()),
        **dict.fromkeys(("loss", "map", "preset", "dataset", "network"), texts),
        "noise": st.one_of(texts, st.sampled_from(["none", "sym", "asym", "pair"])),
    },
)


@pytest.mark.slow
@given(fields)
@settings(max_examples=300, deadline=None)
def test_any_values_make_a_config_or_one_line(given: dict[str, Any]) -> None:
    try:
        config = make_config(**given)
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert 0 < len(config.name) <= 150
        assert Config(**config.__dict__) == config
        assert Config.read(dataclasses.asdict(config)) == config


@pytest.mark.slow
@given(
    st.fixed_dictionaries(
        {},
        optional={"checkpoint_minutes": st.floats(), "device": texts, "threads": st.integers()},
    )
)
@settings(max_examples=200, deadline=None)
def test_any_values_make_a_machine_or_one_line(given: dict[str, Any]) -> None:
    try:
        machine = Machine(**given)
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert machine.threads_for("digits") >= 0
        assert 0 <= machine.checkpoint_minutes < float("inf")


@pytest.mark.slow
@given(
    st.integers(2, 40),
    st.integers(2, 64),
    st.sampled_from(["none", "sym", "asym", "pair"]),
    st.sampled_from([0.0, 0.4, 0.9, 1.0]),
    st.sampled_from([0.0, 0.1, 1e6, 1e38]),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
@pytest.mark.filterwarnings("ignore::apl.errors.NoiseWarning")
def test_training_on_a_handful_of_images_never_breaks(
    count: int, batch: int, noise: str, rate: float, lr: float, augment: bool
) -> None:
    config = make_config(
        train_size=count,
        batch_size=batch,
        noise=noise,
        rate=rate,
        lr=lr,
        augment=augment,
        epochs=2,
        loss="ce",
    )
    result = train(config, listener=Listener(on_message=ignore))
    assert 0 <= result.test_accuracy <= 1
    if lr == 0.0:
        assert result.collapsed


@pytest.mark.slow
def test_a_diverging_cell_is_marked_and_the_study_goes_on(tmp_path: Path) -> None:
    wild = small(lr=1e38, clip=0.0, loss="ce", batch_size=10)
    progress = run_study([wild, small()], tmp_path, workers=1)
    assert progress.failed == {}
    assert progress.results[wild.name].reason == "diverged"
    assert progress.results[wild.name].collapsed
    assert not progress.results[small().name].reason
    assert any("diverged" in line for line in progress.messages)
