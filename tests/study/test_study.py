"""Studies: the grid, parallel cells, failures, and going on after any kind of stop."""

from __future__ import annotations

import dataclasses
import heapq
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import filelock
import numpy as np
import pandas as pd
import pytest
from conftest import PATIENCE, ROOT, Begun, Cli
from hypothesis import example, given, settings
from hypothesis import strategies as st

from apl import cli
from apl.config.config import Config, make_config
from apl.config.grid import make_grid, study_commands
from apl.config.presets import PRESETS
from apl.errors import BadInput, Interrupted
from apl.losses.catalog import SUMS, parse_loss
from apl.names import DATASETS, METHODS, NETWORKS, NOISES, PRECISIONS
from apl.runs.record import find_studies, read_runs, write_study
from apl.runs.run import CHECKPOINT, HISTORY, LOCK, LOG, RESULT, SUMMARY, WEIGHTS, Run
from apl.study.clock import Clock
from apl.study.processes import Processes, default_workers
from apl.study.run import Progress, run_study
from apl.training.listener import Listener
from apl.training.machine import Machine
from apl.training.train import train

SMALL: dict[str, Any] = {"train_size": 200, "epochs": 2}


def contents(study: Path) -> dict[str, bytes]:
    names = (HISTORY, RESULT, WEIGHTS)
    files = {
        f"{run.name}/{n}": (run / n).read_bytes() for run in study.glob("runs/*") for n in names
    }
    return {SUMMARY: (study / SUMMARY).read_bytes(), **files}


def by_name(cells: list[Config]) -> list[Config]:
    return sorted(cells, key=lambda cell: cell.name)


def test_the_grid_covers_everything_once_seed_by_seed() -> None:
    cells = make_grid("quick", ["ce", "mae"], ["none", "sym"], [0.2, 0.6], 2)
    assert len(cells) == len({cell.name for cell in cells}) == 2 * 2 * (1 + 2)
    assert [cell.seed for cell in cells] == [0] * 6 + [1] * 6
    default = make_grid("quick")
    assert {cell.rate for cell in default if cell.noise == "sym"} == {0.2, 0.4, 0.6, 0.8}
    assert {cell.rate for cell in default if cell.noise == "asym"} == {0.1, 0.2, 0.3, 0.4}
    assert len(default) == 9 * 9 * 3
    report = make_grid("report")
    assert {cell.rate for cell in report if cell.noise == "asym"} == {0.1, 0.2, 0.23, 0.33}


def test_a_loss_parameter_goes_to_the_losses_that_take_it() -> None:
    cells = {c.loss: c for c in make_grid("quick", ["ce", "fl"], ["sym"], [0.4], 1, gamma=2.0)}
    assert (cells["ce"].params, cells["fl"].params) == ({}, {"gamma": 2.0})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "x"}, "preset is 'x'"),
        ({"losses": []}, "study is empty"),
        ({"losses": ["ce", "ce"]}, "twice"),
        ({"losses": ["cee"]}, "did you mean 'ce'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"rates": [2.0]}, "between 0 and 1"),
        ({"losses": ["ce"], "gamma": 1.0}, "none of ce takes the parameter 'gamma'"),
    ],
)
def test_bad_grids(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_grid(**{"preset": "quick", **arguments})


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        {"preset": "laptop"},
        {"preset": "quick", "losses": ["ce", "2*nce + 0.5*mae"], "noises": ["none", "pair"]},
        {"preset": "quick", "dataset": "mnist", "noises": ["sym"], "rates": [0.05], "seeds": 1},
        {"preset": "paper", "losses": ["ce", "nce_rce"], "alpha": 2.5, "augment": False},
        {"preset": "report", "noises": ["asym"], "map": "paper", "lr": 5e-5, "clip": 1.0},
        {"preset": "laptop", "noises": ["human", "sym"], "rates": [0.3]},
        {
            "preset": "quick",
            "noises": ["matrix"],
            "map": str(ROOT / "tests/runs/format1/matrix.csv"),
        },
    ],
    ids=["preset", "own loss", "data set", "settings", "map", "human", "matrix"],
)
def test_the_commands_of_a_study_make_its_cells_again(arguments: dict[str, Any]) -> None:
    cells = make_grid(**arguments)
    assert by_name(made_by(study_commands(cells))) == by_name(cells)


def made_by(commands: list[str]) -> list[Config]:
    """The cells that these commands would run, through the command line."""
    made: list[Config] = []

    def collect(cells: list[Config], *_: object, **__: object) -> Progress:
        made.extend(cells)
        return Progress(cells)

    with mock.patch("apl.study.run.run_study", collect):
        for command in commands:
            assert cli.run(shlex.split(command)[1:]) == 0, command
    return made


def some(values: Iterable[Any], least: int = 1) -> st.SearchStrategy[list[Any]]:
    values = list(values)
    return st.lists(st.sampled_from(values), min_size=least, max_size=3, unique=True)


@st.composite
def grids(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `make_grid`, whatever `apl study` takes among them."""
    preset = draw(st.sampled_from(list(PRESETS)))
    dataset = draw(st.sampled_from([None, *DATASETS]))
    where = dataset or PRESETS[preset].dataset
    noises = [
        name for name, kind in NOISES.items() if name != "human" and (kind.map or not kind.file)
    ]
    noises += ["human"] if where == "cifar10" else []
    losses = draw(st.none() | some([*SUMS, "2*nce + 0.5*mae", "norm(gce)"]))
    taken = {
        name
        for loss in (PRESETS[preset].losses if losses is None else losses)
        for part in parse_loss(loss)
        for name in part.loss.params
    }
    numbers = {"alpha": [0.1, 1.0, 2.5], "beta": [0.5, 1e-5], "gamma": [0.5, 2.0], "q": [0.1, 0.7]}
    rate = st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 1 / 3])
    optional = {
        "network": st.sampled_from(list(NETWORKS)),
        "width": st.sampled_from([4, 16, 32, 64]),  # those of presets above all
        "epochs": st.sampled_from([1, 10, 15, 20]),
        "lr": st.sampled_from([0.02, 0.05, 5e-05, 1 / 3]),
        "clip": st.sampled_from([0.0, 1.0, 5.0]),
        "train_size": st.sampled_from([0, 300, 10_000]),
        "warmup": st.sampled_from([0.0, 2.0, 0.5]),
        "method": st.sampled_from(METHODS),
        "precision": st.sampled_from(PRECISIONS),
        "augment": st.booleans(),
        **{name: st.sampled_from(numbers[name]) for name in sorted(taken & set(numbers))},
    }
    return {
        "preset": preset,
        "losses": losses,
        "noises": draw(st.none() | some(noises)),
        "rates": draw(st.none() | st.lists(rate, min_size=1, max_size=3, unique=True)),
        "seeds": draw(st.sampled_from([None, 1, 2, 3])),
        **({"dataset": dataset} if dataset else {}),
        **draw(st.fixed_dictionaries({}, optional=optional)),
    }


@pytest.mark.slow
@given(grids())
@settings(max_examples=40, deadline=None)
# A width that is the preset's, of another network, which has a width of its own.
@example({"preset": "quick", "losses": ["ce"], "network": "mlp", "width": 32})
@example({"preset": "laptop", "losses": ["ce"], "network": "cnn8", "width": 32, "seeds": 1})
@example({"preset": "report", "losses": ["ce"], "network": "mlp", "width": 64, "map": "paper"})
def test_the_commands_of_any_grid_make_its_cells_again(arguments: dict[str, Any]) -> None:
    cells = make_grid(**arguments)
    commands = study_commands(cells)
    made = made_by(commands)
    assert by_name(made) == by_name(cells), commands


def test_a_width_that_is_the_presets_is_told_where_the_network_is_another() -> None:
    cells = make_grid("quick", ["ce"], ["sym"], [0.4], 1, network="mlp", width=32)
    assert study_commands(cells) == [
        "apl study --preset quick --losses ce --noise sym --rates 0.4 --seeds 1 "
        "--network mlp --width 32"
    ]


def test_different_rates_and_maps_take_a_command_each() -> None:
    cells = [
        *make_grid("laptop", ["ce"], ["sym"], [0.6], 1),
        *make_grid("laptop", ["ce"], ["none", "asym"], [0.4], 1),
        *make_grid("laptop", ["ce"], ["human"], seeds=1, map="aggre"),
    ]
    assert study_commands(cells) == [
        "apl study --preset laptop --losses ce --noise none,sym --rates 0.6 --seeds 1",
        "apl study --preset laptop --losses ce --noise asym --rates 0.4 --seeds 1",
        "apl study --preset laptop --losses ce --noise human --seeds 1 --map aggre",
    ]


@pytest.mark.slow
def test_workers_do_not_change_results_and_finished_cells_never_run_again(tmp_path: Path) -> None:
    cells = make_grid("quick", ["ce", "nce_rce"], ["sym"], [0.4], 2, **SMALL)
    one = run_study(cells, tmp_path / "one", workers=1)
    assert len(one.results) == 4
    assert one.failed == {}
    run_study(cells, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "one").glob(f"runs/*/{RESULT}")}
    again = run_study(cells, tmp_path / "one", workers=2)
    assert again.results == one.results
    assert before == {p: p.stat().st_mtime_ns for p in before}
    # A cell of a study is the run that `train` makes of the same config.
    alone = train(cells[0], tmp_path / "alone")
    assert alone == one.results[cells[0].name]


@pytest.mark.slow
def test_summary_is_tidy(tmp_path: Path) -> None:
    run_study(make_grid("quick", ["ce"], ["none", "sym"], [0.4], 2, **SMALL), tmp_path, workers=2)
    summary = pd.read_csv(tmp_path / SUMMARY)
    assert len(summary) == 4
    assert {"loss", "noise", "rate", "seed", "collapsed", "test_accuracy", "acc_0", "acc_9"} <= set(
        summary.columns
    )
    per_class = summary[[f"acc_{k}" for k in range(10)]].mean(axis=1)
    assert per_class.tolist() == pytest.approx(summary["test_accuracy"].tolist())
    runs = read_runs(tmp_path)
    assert [run.name for run in runs] == summary["run"].tolist()
    assert sum(len(run.history) for run in runs) == 4 * 2
    assert all(sum(map(sum, run.result.confusion)) == 450 for run in runs)
    assert find_studies(tmp_path) == [tmp_path]


@pytest.mark.slow
def test_a_failed_cell_is_reported_and_stops_no_other(tmp_path: Path) -> None:
    good = make_config(loss="ce", **SMALL)
    bad = make_config(loss="ce", **{**SMALL, "train_size": 99_999})
    progress = run_study([bad, good], tmp_path, workers=1)
    assert set(progress.results) == {good.name}
    assert "train_size is 99999" in progress.failed[bad.name]
    assert "Traceback" in (tmp_path / "runs" / bad.name / LOG).read_text()


@pytest.mark.slow
def test_a_dying_worker_is_replaced_and_its_cell_tried_once_more(tmp_path: Path) -> None:
    killed: list[str] = []

    def kill_first(progress: Progress) -> None:
        if not killed and progress.running:
            for worker in multiprocessing.active_children():
                worker.kill()
            killed.extend(progress.running)

    cells = make_grid("quick", ["ce", "mae"], ["sym"], [0.4], 1, **{**SMALL, "epochs": 6})
    progress = run_study(cells, tmp_path, workers=1, observe=kill_first)
    assert killed
    assert set(progress.results) == {cell.name for cell in cells}


@pytest.mark.slow
def test_a_cell_that_always_kills_its_worker_fails_after_two_tries(tmp_path: Path) -> None:
    deaths = 0

    def kill_all(progress: Progress) -> None:
        nonlocal deaths
        if any(name.startswith("mae") for name in progress.running):
            for worker in multiprocessing.active_children():
                worker.kill()
                deaths += 1

    cells = make_grid("quick", ["mae", "ce"], ["sym"], [0.4], 1, **{**SMALL, "epochs": 500})
    cells[1] = make_config(loss="ce", **SMALL)
    progress = run_study(cells, tmp_path, workers=1, observe=kill_all)
    assert deaths >= 2
    assert set(progress.results) == {cells[1].name}
    assert "died (exit code -9)" in progress.failed[cells[0].name]


@pytest.mark.slow
def test_an_idle_worker_that_dies_does_not_end_the_study(tmp_path: Path) -> None:
    pools: list[Processes] = []

    class Seen(Processes):
        def __init__(self, count: int, machine: Machine) -> None:
            super().__init__(count, machine)
            pools.append(self)

    short, long = make_config(loss="ce", **SMALL), make_config(loss="mae", **SMALL | {"epochs": 90})
    killed: list[float] = []
    epochs_after: list[float] = []

    def kill_the_idle(progress: Progress) -> None:
        row = progress.running.get(long.name)
        if killed and row and row["epoch"] > killed[0]:
            epochs_after.append(row["epoch"])
        if not killed and row and short.name in progress.results:
            (idle,) = [worker for worker in pools[0]._pool if worker.cell is None]
            idle.process.kill()
            idle.process.join()
            killed.append(row["epoch"])

    progress = run_study([short, long], tmp_path, workers=2, engine=Seen, observe=kill_the_idle)
    assert killed
    assert len(epochs_after) > 3  # it was noticed while the other was training
    assert progress.failed == {}
    assert set(progress.results) == {short.name, long.name}
    assert not any("died" in line for line in progress.messages)  # nothing was lost by it


@pytest.mark.slow
def test_an_idle_worker_that_died_is_replaced_for_the_next_cell(tmp_path: Path) -> None:
    cell = make_config(loss="ce", **SMALL)
    pool = Processes(1, Machine(threads=1))
    try:
        (first,) = multiprocessing.active_children()
        first.kill()
        first.join()
        assert list(pool.events(5.0)) == []
        assert not pool.training
        assert pool.free
        pool.start(cell, tmp_path / "run")
        assert multiprocessing.active_children() != [first]
        kinds: list[str] = []
        end = time.monotonic() + PATIENCE
        while pool.training:
            assert time.monotonic() < end
            kinds += [kind for _, kind, _ in pool.events(0.5)]
        assert kinds == ["epoch", "epoch", "result"]
    finally:
        pool.stop()
    assert Run(tmp_path / "run").finished


# The time left.


def stopped_after(cell: Config, study: Path, epochs: int) -> None:
    """Begin a cell of a study and stop it where so many epochs are done."""
    run = study / "runs" / cell.name
    with pytest.raises(Interrupted):
        train(cell, run, listener=Listener(should_stop=lambda: Run(run).epochs_done() == epochs))
    assert Run(run).epochs_done() == epochs


def a_clock(cells: list[Config], study: Path) -> tuple[Clock, SimpleNamespace]:
    """A clock of a study, and the time that it reads."""
    watch = SimpleNamespace(now=0.0)
    folders = {cell.name: study / "runs" / cell.name for cell in cells}
    return Clock(cells, folders, lambda: watch.now), watch


def test_the_time_left_is_of_the_epochs_that_are_left(tmp_path: Path) -> None:
    """One worker, an epoch every ten seconds."""
    cells = [make_config(loss=loss, **SMALL | {"epochs": 8}) for loss in ("ce", "mae", "fl")]
    ce, mae, fl = cells
    stopped_after(ce, tmp_path, 5)
    clock, watch = a_clock(cells, tmp_path)

    def tick(cell: Config, epoch: int) -> None:
        watch.now += 10
        clock.tick(cell, epoch)

    assert clock.seconds_left() is None
    tick(ce, 6)  # it went on from its checkpoint
    assert clock.seconds_left() is None
    tick(ce, 7)
    assert clock.seconds_left() == 10 * (1 + 8 + 8)
    watch.now += 4
    assert clock.seconds_left() == 10 * (1 + 8 + 8) - 4
    watch.now -= 4
    tick(ce, 8)
    clock.drop(ce)
    watch.now += 3  # between two cells
    tick(mae, 1)
    assert clock.seconds_left() == 10 * 7 + (3 + 10 * 8)
    clock.drop(mae, lost=True)  # its process died without a checkpoint: it begins anew
    clock.add(mae)
    assert clock.seconds_left() == (3 + 10 * 8) + (3 + 10 * 8)
    tick(fl, 8)  # another process trained seven epochs of it
    clock.drop(fl)
    tick(mae, 7)
    assert clock.seconds_left() == 10
    tick(mae, 8)
    clock.drop(mae)
    assert clock.seconds_left() is None  # nothing is left


def test_each_loss_has_a_pace_of_its_own(tmp_path: Path) -> None:
    """A mean of all losses is right of them together, and wrong of what is left at the end."""
    seconds = {"ce": 1.0, "mae": 10.0}
    cells = [
        make_config(loss=loss, seed=seed, **SMALL | {"epochs": 2})
        for seed in (1, 2)
        for loss in seconds
    ]
    clock, watch = a_clock(cells, tmp_path)
    left = []
    for cell in cells:
        for epoch in (1, 2):
            watch.now += seconds[cell.loss]
            clock.tick(cell, epoch)
        clock.drop(cell)
        left.append(clock.seconds_left())
    assert left[1:] == [2 * 1 + 2 * 10, 2 * 10, None]


def test_a_cell_that_waits_has_no_epochs_left_that_its_checkpoint_has(tmp_path: Path) -> None:
    begun, first = (make_config(loss=loss, **SMALL | {"epochs": 8}) for loss in ("ce", "mae"))
    stopped_after(begun, tmp_path, 5)
    clock, watch = a_clock([first, begun], tmp_path)
    for epoch in (1, 2):
        watch.now += 10
        clock.tick(first, epoch)
    assert clock.seconds_left() == 10 * (6 + 3)


def test_several_epochs_between_two_looks_have_each_their_share_of_the_time(tmp_path: Path) -> None:
    (cell,) = cells = [make_config(loss="ce", **SMALL | {"epochs": 8})]
    clock, watch = a_clock(cells, tmp_path)
    clock.tick(cell, 2)
    watch.now = 30
    clock.tick(cell, 5)  # three epochs, ten seconds each
    assert clock.seconds_left() == 10 * 3


def test_where_another_study_takes_every_second_cell_half_of_them_are_left(tmp_path: Path) -> None:
    cells = make_grid("quick", ["ce"], ["sym"], [0.4], 20, **SMALL | {"epochs": 10})
    clock, watch = a_clock(cells, tmp_path)
    for ours, theirs in zip(cells[0:10:2], cells[1:10:2], strict=True):
        clock.drop(theirs)  # it is being trained, or has been
        for epoch in range(1, 11):
            watch.now += 10
            clock.tick(ours, epoch)
        clock.drop(ours)
    assert clock.seconds_left() == pytest.approx(5 * 10 * 10)
    clock.tick(cells[1], 1)  # they were stopped
    assert clock.seconds_left() > 6 * 10 * 10


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A study of which every second is known. seconds: of an epoch, by loss; between: two cells of
    a worker; starts: when each worker begins its first one."""

    seconds: dict[str, float]
    settings: int = 10
    between: float = 0.0
    starts: tuple[float, ...] = (0.0, 0.0)
    epochs: int = 10

    def play(self) -> tuple[list[Config], list[tuple[float, Config, int]]]:
        """The cells, and when each epoch ends; 0 stands for the end of the cell."""
        config = {"epochs": self.epochs, "train_size": 200}
        cells = make_grid("quick", list(self.seconds), ["sym"], [0.4], self.settings, **config)
        free = sorted(self.starts)
        events = []
        for cell in cells:
            begun = heapq.heappop(free) + self.between
            each = self.seconds[cell.loss]
            events += [(begun + k * each, cell, k) for k in range(1, self.epochs + 1)]
            heapq.heappush(free, begun + self.epochs * each)
            events.append((begun + self.epochs * each, cell, 0))
        return cells, sorted(events, key=lambda event: event[0])

    def told(self, *parts: float) -> Iterator[float]:
        """What the clock tells when each of these parts of the epochs is done, over what is
        left."""
        cells, events = self.play()
        clock, watch = a_clock(cells, Path("nowhere"))
        untils = [events[int(part * len(events))][0] for part in parts]
        for now, cell, epoch in events:
            while untils and now > untils[0]:
                watch.now = untils.pop(0)
                told = clock.seconds_left()
                assert told is not None
                yield told / (events[-1][0] - watch.now)
            watch.now = now
            if epoch:
                clock.tick(cell, epoch)
            else:
                clock.drop(cell)
        assert not untils


@pytest.mark.slow
@pytest.mark.parametrize(
    "schedule",
    {
        "constant": Schedule({"ce": 3.0}, settings=40),
        "two costs": Schedule({"ce": 2.0, "js": 5.0}, settings=20),
        "all dear ones last": Schedule({"ce": 2.0, "js": 5.0}, settings=20, starts=(0,) * 4),
        "workers that start late": Schedule({"ce": 3.0}, settings=40, starts=(0, 0, 25, 25)),
        "a slow start": Schedule({"ce": 0.1}, settings=100, starts=(8, 9, 10, 11)),
        "much between cells": Schedule({"ce": 1.0}, settings=40, between=8),
        "an odd cell at the end": Schedule({"ce": 3.0}, settings=11, starts=(0, 0)),
        "three rounds": Schedule({"ce": 3.0}, settings=9, starts=(0,) * 4),
        "cells of one epoch": Schedule({"ce": 20.0}, settings=60, epochs=1),
        "a whole cell in the first tenth": Schedule({"ce": 3.0}, settings=4, epochs=100),
    }.items(),
    ids=lambda item: item[0],
)
def test_the_time_left_is_right_after_a_tenth(schedule: tuple[str, Schedule]) -> None:
    assert [*schedule[1].told(0.1, 0.3, 0.5, 0.8)] == pytest.approx([1] * 4, abs=0.2)


@pytest.mark.slow
@given(
    st.lists(st.floats(1, 5), min_size=1, max_size=4),
    st.integers(10, 20),
    st.floats(0, 5),
    st.lists(st.floats(0, 10), min_size=1, max_size=4),
)
@settings(max_examples=20, deadline=None)
@example([1.0], 10, 5.0, [0.0])  # as much between two cells as may be
def test_the_time_left_of_any_study_is_right_after_a_tenth(
    seconds: list[float], seeds: int, between: float, starts: list[float]
) -> None:
    """Losses of any cost, and what comes between two cells up to half of a cheap one."""
    by_loss = dict(zip(("ce", "mae", "fl", "gce"), seconds, strict=False))
    rounds = seeds * len(by_loss) // len(starts)
    schedule = Schedule(by_loss, seeds, between, tuple(starts))
    # Before the second round nothing between two cells has been seen.
    for told in schedule.told(*sorted((max(0.1, 1.5 / rounds), 0.5))):
        assert told == pytest.approx(1, abs=0.2)


@pytest.mark.slow
def test_a_study_that_goes_on_counts_what_is_done_and_what_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of the epochs stand in a checkpoint; another cell is being trained by somebody else,
    and is asked for again and again in the meantime."""
    mine = make_config(loss="ce", **SMALL | {"epochs": 200})
    theirs = make_config(loss="mae", **SMALL | {"epochs": 10**6})
    stopped_after(mine, tmp_path, 170)
    run = tmp_path / "runs" / theirs.name
    run.mkdir(parents=True)
    monkeypatch.setattr("apl.study.run.BUSY_SECONDS", 0.1)
    seen: list[tuple[float, float, float]] = []  # epoch, when, seconds left

    def observe(progress: Progress) -> None:
        row = progress.running.get(mine.name)
        if row and progress.seconds_left is not None:
            seen.append((row["epoch"], time.monotonic(), progress.seconds_left))
        if mine.name in progress.results:
            raise KeyboardInterrupt  # or it would wait for them

    with filelock.FileLock(run / LOCK), pytest.raises(KeyboardInterrupt):
        run_study([theirs, mine], tmp_path, workers=1, observe=observe)
    epochs, times, lefts = np.array(seen).T
    assert epochs.min() > 170  # it went on
    assert len(set(epochs)) > 10
    pace = (times[-1] - times[0]) / (epochs[-1] - epochs[0])
    middle = np.flatnonzero(epochs <= 192)
    # With those of the checkpoint it would be seven times as much, with theirs 10^5 times.
    assert (lefts[middle] < 4 * pace * (200 - epochs[middle])).mean() > 0.5
    assert lefts.max() < 100 * pace * 200


def _study(folder: Path, *more: str) -> tuple[str, ...]:
    return (
        *("study", "--losses", "ce,nce_rce,mae", "--noise", "sym", "--rates", "0.4"),
        *("--seeds", "1", "--train-size", "400", "--epochs", "12", "--no-pictures"),
        *("--out", str(folder), *more),
    )


def _wait_for(condition: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


CELLS = make_grid(
    *("quick", ["ce", "nce_rce", "mae"], ["sym"], [0.4], 1), train_size=400, epochs=12
)  # of `_study`


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of `CELLS` that nobody stopped, by one process."""
    folder = tmp_path_factory.mktemp("whole")
    for cell in CELLS:
        train(cell, folder / "runs" / cell.name)
    write_study(folder)
    return folder


def from_stdin(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """`apl ARGUMENTS` by a script without a guard that comes from stdin."""
    script = (
        f"import sys\nfrom apl.cli import main\nsys.argv = {['apl', *arguments]}\n"
        "with open('begun', 'a') as file:\n    file.write('begun ')\nmain()\n"
    )
    with (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-"],
            **{"cwd": folder, "stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL},
            **{"stderr": err, "text": True},
        )
    with process.stdin as given:  # type: ignore[union-attr]
        given.write(script)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_study_stopped_anyhow_goes_on_to_the_same_result(
    tmp_path: Path, begin: Callable[..., Begun], here: Cli, whole: Path, how: int
) -> None:
    stopped = tmp_path / "stopped"
    # The last cell is somebody else's until the signal: it can't come too late.
    last = stopped / "runs" / CELLS[-1].name / LOCK
    last.parent.mkdir(parents=True)
    with filelock.FileLock(last):
        if how == signal.SIGKILL:  # whose worker sees that it is gone: by processes as a user's
            killed = from_stdin(*_study(stopped, "--workers", "1"), folder=tmp_path)
            _wait_for(lambda: list(stopped.glob(f"runs/*/{CHECKPOINT}")) or killed.poll())
            killed.kill()
            assert killed.wait() == -signal.SIGKILL, (tmp_path / "err").read_text()
            assert "Traceback" not in (tmp_path / "err").read_text()
            assert (tmp_path / "begun").read_text() == "begun "  # by no process but the user's own
        else:
            process = begin(*_study(stopped))
            _wait_for(lambda: list(stopped.glob(f"runs/*/{CHECKPOINT}")))
            process.send_signal(how)
            done = process.end()
            assert done.returncode == 130
            to_go_on = "nothing finished is lost; to go on: apl study --losses ce,nce_rce,mae"
            assert to_go_on in done.stderr
    assert sum(Run(run).finished for run in stopped.glob("runs/*")) < 3
    here(*_study(stopped))
    assert contents(stopped) == contents(whole)


@pytest.mark.slow
def test_two_studies_share_a_folder_and_run_no_cell_twice(
    tmp_path: Path, begin: Callable[..., Begun]
) -> None:
    for process in [begin(*_study(tmp_path, "--workers", "1")) for _ in range(2)]:
        done = process.end()
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(pd.read_csv(tmp_path / SUMMARY)) == 3
    assert all(Run(run).finished for run in tmp_path.glob("runs/*"))


def test_a_cell_that_another_process_trains_is_left_to_it(tmp_path: Path) -> None:
    config = make_config(loss="ce", **SMALL)
    run = tmp_path / "runs" / config.name
    run.mkdir(parents=True)
    with (
        filelock.FileLock(run / LOCK),
        pytest.raises(BadInput, match="another process is training"),
    ):
        train(config, run)
    train(config, run)
    assert Run(run).finished


def test_workers_fit_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert default_workers(1) == cores
    assert default_workers(10**6) == 1
