"""Run folders and records: those of the first format, round trips, what nobody knows, damage."""

from __future__ import annotations

import csv
import json
import math
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from apl.config.config import Config, make_config
from apl.config.grid import make_grid
from apl.errors import BadInput, Interrupted
from apl.files import FORMAT, load_tensors
from apl.kernels.bases import LOG_ZERO
from apl.noise.files import read_noise, write_noise
from apl.noise.labels import UNKNOWN, Labels
from apl.noise.matrices import check_transition, symmetric
from apl.runs.record import (
    find_studies,
    read_record,
    read_runs,
    read_unfinished,
    setting,
    write_study,
)
from apl.runs.run import (
    CHECKPOINT,
    CONFIG,
    HISTORY,
    NOISE,
    PREVIOUS,
    RECORD,
    RESULT,
    RUNS,
    SUMMARY,
    WEIGHTS,
    Finished,
    Run,
)
from apl.runs.scores import Result
from apl.study.run import run_study
from apl.training.evaluate import evaluate_run
from apl.training.listener import Listener
from apl.training.machine import Machine
from apl.training.train import train

OLD = Path(__file__).parent / "format1"
HERE = Machine(device="cpu", threads=1)


def small(*preset: str, **given: Any) -> Config:
    return make_config(*preset, **{"network": "mlp", "width": 4, "epochs": 2, **given})


def asked(matrix: str = "matrix.csv") -> dict[str, Config]:
    """What the runs of the old study were asked for, by the loss; README.md there says it."""
    interrupted = {"gamma": 1.0, "augment": True, "train_size": 640, "epochs": 4}
    return {
        "ce": small(loss="ce", noise="asym", rate=0.3),
        "nce_rce": small(
            *("laptop",), dataset="digits", loss="nce_rce", noise="none", alpha=2.0, beta=0.5
        ),
        "mae": small(loss="mae", noise="matrix", map=matrix),
        "fl": small(loss="fl", noise="sym", rate=0.6, **interrupted),
    }


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old study, and the folder with its matrix to work in."""
    shutil.copytree(OLD, tmp_path / "format1")
    monkeypatch.chdir(tmp_path / "format1")  # the matrix was given by a relative name
    return tmp_path / "format1"


def text(runs: list[Finished]) -> list[str]:
    """For comparing, wherever they were read: every digit of every number, and nan is nan."""
    return [repr(run._replace(line="")) for run in sorted(runs)]


# Folders of the first format.


def test_the_old_runs_are_of_the_first_format_and_whole() -> None:
    configs = list(OLD.glob(f"{RUNS}/*/{CONFIG}"))
    assert len(configs) == 4
    for path in configs:
        content = json.loads(path.read_text())
        assert content["format"] == 1 < FORMAT
        assert {"alpha", "threads", "device", "compile"} <= set(content["config"])
    for run in OLD.glob(f"{RUNS}/*"):
        kept = {CHECKPOINT, PREVIOUS} if "fl_" in run.name else {HISTORY, RESULT, WEIGHTS}
        assert {path.name for path in run.iterdir()} == {CONFIG, NOISE, *kept}


@pytest.mark.filterwarnings("error")
def test_old_runs_are_read_and_are_what_the_same_arguments_ask_for_now(old: Path) -> None:
    runs = {run.config.loss: run for run in read_runs(old)}
    cells = asked()
    (interrupted,) = read_unfinished(old)
    assert interrupted == cells["fl"]
    assert runs["ce"].config == cells["ce"]
    assert runs["nce_rce"].config == cells["nce_rce"]
    assert runs["nce_rce"].config.params == {"alpha": 2.0, "beta": 0.5, "A": LOG_ZERO}
    # The first format did not keep what a file held: all else of a matrix's run is the same.
    (difference,) = runs["mae"].config.differs(cells["mae"])
    assert difference.startswith("map_sha256 is ")
    assert runs["mae"].config.map_sha256 == ""
    for loss, run in runs.items():
        assert run.name == cells[loss].name  # so that the same command finds its folder
        assert run.environment["device"] == "cpu"
        assert run.environment["threads"] == 1
        assert [row["epoch"] for row in run.history] == [1, 2]
        assert run.result.on == "true"
    assert cells["fl"].name == Path(next(old.glob(f"{RUNS}/fl_*"))).name
    assert find_studies(old.parent) == [old]


@pytest.mark.filterwarnings("error")
def test_old_labels_are_read_and_are_drawn_again_as_they_were(old: Path, tmp_path: Path) -> None:
    for cell in asked().values():
        labels = Run(old / RUNS / cell.name).labels
        assert labels.known.all()
        assert len(labels) == (cell.train_size or 1347)
        looks: Iterator[bool] = iter([True])
        with pytest.raises(Interrupted):
            train(
                cell,
                tmp_path / cell.loss,
                machine=HERE,
                listener=Listener(should_stop=lambda: next(looks)),  # noqa: B023
            )
        again = Run(tmp_path / cell.loss).labels
        assert (labels.given == again.given).all()
        assert (labels.true == again.true).all()
        np.testing.assert_allclose(labels.transition, again.transition)


@pytest.mark.parametrize("loss", ["ce", "nce_rce", "mae"])
def test_old_weights_score_as_they_did(old: Path, loss: str) -> None:
    scores, config, result = evaluate_run(old / RUNS / asked()[loss].name, machine=HERE)
    assert config.loss == loss
    assert scores.accuracy == result.test_accuracy
    assert scores.confusion.tolist() == result.confusion
    noisy, _, _ = evaluate_run(old / RUNS / config.name, "noisy", HERE)
    assert noisy.confusion.sum() == scores.confusion.sum()


def test_an_old_finished_run_is_returned_as_it_is(old: Path) -> None:
    cell = asked()["ce"]
    run = old / RUNS / cell.name
    before = {path: path.read_bytes() for path in run.iterdir()}
    result = train(
        cell,
        run,
        machine=HERE,
        listener=Listener(on_epoch=lambda row: pytest.fail("it was trained")),
    )
    assert repr(result) == repr(Run(run).result)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True], ids=["newest", "the one before"])
def test_an_old_interrupted_run_goes_on_from_its_checkpoint(
    old: Path, tmp_path: Path, damaged: bool
) -> None:
    cell = asked()["fl"]
    run, whole = old / RUNS / cell.name, tmp_path / "whole"
    assert Run(run).epochs_done() == 2
    if damaged:
        (run / CHECKPOINT).write_bytes((run / CHECKPOINT).read_bytes()[:-1])
    steps, said, epochs = [0], [], []

    def count() -> bool:
        steps[0] += 1
        return False

    result = train(
        *(cell, run),
        machine=HERE,
        listener=Listener(
            on_epoch=lambda row: epochs.append(row["epoch"]),
            on_message=said.append,
            should_stop=count,
        ),
    )
    assert not any("another run's" in line for line in said)
    assert any("going on from the one before it" in line for line in said) == damaged
    assert epochs == [3, 4]
    # Asked after each step and for each look: 6 or 10 + 10 steps, 2 looks, one at all training
    # images (two batches), so it did not begin its third epoch anew where it need not.
    assert steps[0] == (24 if damaged else 20)
    assert not (run / CHECKPOINT).exists()
    assert not (run / PREVIOUS).exists()

    train(cell, whole, machine=HERE)
    # Its first epochs tell whether this machine sums as that one did, to the last bit: the version
    # of torch and the instruction set do not.
    first = [repr(Run(folder).history[:2]) for folder in (run, whole)]
    if first[0] == first[1]:
        for name in (WEIGHTS, HISTORY, RESULT):
            assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    else:
        weights = (load_tensors(folder / WEIGHTS)[0] for folder in (run, whole))
        torch.testing.assert_close(*weights, rtol=0.05, atol=0.02)
    assert len(Run(run).history) == 4
    assert result.test_accuracy == evaluate_run(run, machine=HERE)[0].accuracy


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_an_old_study_goes_on_where_it_was(old: Path) -> None:
    cells = [cell for loss, cell in asked().items() if loss != "mae"]
    before = {path: path.read_bytes() for path in old.glob(f"{RUNS}/*/{RESULT}")}
    progress = run_study(cells, old, workers=1, machine=HERE)
    assert progress.failed == {}
    assert set(progress.results) == {cell.name for cell in cells}
    assert {path: path.read_bytes() for path in before} == before
    assert len(read_record(old)) == 4
    assert read_unfinished(old) == []


@pytest.mark.filterwarnings("error")
def test_the_summary_of_an_old_study_is_as_it_was_but_for_the_matrix_s_rate(old: Path) -> None:
    before = pd.read_csv(old / SUMMARY)
    write_study(old)
    after = pd.read_csv(old / SUMMARY)
    matrix = before["noise"] == "matrix"
    assert before.loc[matrix, "rate"].tolist() == [0.4]  # the preset's, which meant nothing
    assert after.loc[matrix, "rate"].tolist() == [0.18]
    before.loc[matrix, "rate"] = 0.18
    pd.testing.assert_frame_equal(after, before)


# The record.


@pytest.fixture
def record(old: Path) -> Path:
    """The study folder with the record of the old runs and nothing else."""
    write_study(old)
    shutil.rmtree(old / RUNS)
    return old


def rewrite(path: Path, number: int, line: str) -> list[str]:
    """Put `line` in the place of a line of the file; returns the lines before."""
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:number], line, *lines[number + 1 :]]) + "\n")
    return lines


@pytest.mark.filterwarnings("error")
def test_a_record_keeps_all_of_the_runs_whose_folders_are_gone(old: Path) -> None:
    runs = read_runs(old)
    assert len(runs) == 3
    assert text(write_study(old)) == text(runs)
    assert text(read_runs(old)) == text(runs)
    written = (old / SUMMARY).read_bytes()
    shutil.rmtree(old / RUNS)
    assert text(read_runs(old)) == text(runs)
    assert find_studies(old.parent) == [old]
    write_study(old)
    assert (old / SUMMARY).read_bytes() == written


def test_a_record_of_a_record_has_the_same_bytes(record: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(record / RECORD, copy)
    for study in (record, copy):
        before = (study / RECORD).read_bytes()
        write_study(study)
        assert (study / RECORD).read_bytes() == before
    assert (copy / SUMMARY).read_bytes() == (record / SUMMARY).read_bytes()


def test_the_record_is_one_line_of_plain_json_a_run_in_order(record: Path) -> None:
    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    lines = (record / RECORD).read_text().splitlines()
    runs = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [run["run"] for run in runs] == sorted(run["run"] for run in runs)
    assert {run["format"] for run in runs} == {FORMAT}


def test_what_was_not_measured_is_null_in_the_record_and_nan_again(record: Path) -> None:
    name = asked()["nce_rce"].name
    lines = map(json.loads, (record / RECORD).read_text().splitlines())
    (line,) = (line for line in lines if line["run"] == name)
    assert line["history"]["memorised"] == [None, None]  # no label was wrong
    assert line["history"]["test_accuracy"][0] is None  # a look every second epoch
    assert line["result"]["memorised"] is None
    run = read_record(record)[name]
    assert all(math.isnan(row["memorised"]) for row in run.history)
    assert math.isnan(run.history[0]["test_accuracy"])
    assert run.history[1]["test_accuracy"] == run.result.test_accuracy
    assert math.isnan(run.result.memorised)
    row = next(row for row in csv.DictReader((record / SUMMARY).open()) if row["run"] == name)
    assert row["memorised"] == row["recovered"] == ""


def damaged_lines(line: str) -> Iterator[str]:
    yield from ("", "{", "[]", "{}", "null", "7", line[:-1], line[: len(line) // 2], line + line)
    content = json.loads(line)
    for name in ("run", "config", "history", "result", "environment"):
        yield json.dumps({key: value for key, value in content.items() if key != name})
        yield json.dumps({**content, name: 7})
    yield json.dumps({**content, "config": {**content["config"], "width": 1}})
    yield json.dumps({**content, "history": {**content["history"], "lr": [1.0]}})
    rows = ([2, 1], [-1, 1], [1], ["0", 1])
    packed = [{"usual": [0, 0], "others": [[], row]} for row in rows]
    for matrix in ([[1]], {"usual": [0, 0]}, {"usual": [0], "others": [[], []]}, *packed):
        yield json.dumps({**content, "result": {**content["result"], "confusion": matrix}})


def test_a_damaged_line_is_left_out_with_a_warning_and_the_others_stay(record: Path) -> None:
    path = record / RECORD
    whole = path.read_text()
    names = list(read_record(record))
    for line in damaged_lines(whole.splitlines()[1]):
        rewrite(path, 1, line)
        with pytest.warns(UserWarning, match=r"left out: .*line 2 of .*runs\.jsonl") as caught:
            found = read_record(record)
        assert list(found) == [names[0], names[2]], line
        assert [str(w.message).count("\n") for w in caught] == [0]
        path.write_text(whole)


def test_a_damaged_line_is_written_again_from_its_run(old: Path) -> None:
    write_study(old)
    whole = (old / RECORD).read_bytes()
    rewrite(old / RECORD, 0, "{")
    with pytest.warns(UserWarning, match="line 1"):
        assert len(write_study(old)) == 3
    assert (old / RECORD).read_bytes() == whole


def test_a_damaged_run_is_taken_from_the_record(old: Path) -> None:
    runs = text(write_study(old))
    (old / RUNS / asked()["ce"].name / RESULT).write_text("{")
    with pytest.warns(UserWarning, match=r"taken from the record: .*result\.json"):
        assert text(read_runs(old)) == runs


def test_a_record_that_is_no_text_is_one_line(record: Path) -> None:
    (record / RECORD).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match=r"runs\.jsonl can't be read") as caught:
        read_runs(record)
    assert "\n" not in str(caught.value)


def test_a_record_of_a_newer_format_is_told_in_one_line_and_left_as_it_is(
    record: Path, tmp_path: Path
) -> None:
    content = json.loads((record / RECORD).read_text().splitlines()[0])
    newer = {"format": FORMAT + 1, "run": content["run"], "something": "else"}
    rewrite(record / RECORD, 0, json.dumps(newer))
    before = (record / RECORD).read_bytes()
    for read in (
        lambda: read_record(record),
        lambda: read_runs(record),
        lambda: write_study(record),
        lambda: run_study([asked()["ce"]], record, workers=1),
    ):
        with pytest.raises(BadInput, match=r"line 1 of .*newer apl.*update apl") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert (record / RECORD).read_bytes() == before  # nothing is lost to an older apl


def test_a_cell_in_the_record_is_not_run_again_where_its_folder_is_gone(record: Path) -> None:
    cells = [asked()["ce"], asked()["nce_rce"]]
    progress = run_study(cells, record, workers=1, machine=HERE)
    known = read_record(record)
    for cell in cells:
        assert repr(progress.results[cell.name]) == repr(known[cell.name].result)
        assert not (record / RUNS / cell.name).exists()
    assert progress.messages == []


# What nobody knows.


def result(transition: list[list[float]] | None, **given: Any) -> Result:
    usual = {
        **{"collapsed": False, "reason": "", "too_short": False, "test_accuracy": 0.75},
        **{"train_accuracy": 0.5, "memorised": math.nan, "recovered": math.nan, "corrupted": 0},
        **{"class_names": ["a", "b"], "confusion": [[3, 1], [0, 0]], "transition": transition},
    }
    return Result(**{**usual, **given})


def test_unknown_truth_survives_the_run_folder_and_the_record(tmp_path: Path) -> None:
    config = make_config("laptop", noise="human", epochs=1)
    run = Run(tmp_path / RUNS / config.name)
    labels = Labels(np.array([0, 1, 1, 0]), np.array([0, UNKNOWN, UNKNOWN, 1]))
    row = {"epoch": 1.0, "lr": 0.02, "train_loss": 2.5, "train_accuracy": 0.5}
    row |= dict.fromkeys(("memorised", "recovered", "test_accuracy"), math.nan)
    with run.lock():
        run.begin(config, labels, {"device": "cpu"})
        run.finish(config, {"w": torch.zeros(2)}, [row], result(None, on="given"))
    again = run.labels
    assert again.given.tolist() == labels.given.tolist()
    assert again.true.tolist() == [0, UNKNOWN, UNKNOWN, 1]
    assert again.transition is None
    (from_folder,) = write_study(tmp_path)
    shutil.rmtree(tmp_path / RUNS)
    (from_record,) = read_runs(tmp_path)
    assert text([from_record]) == text([from_folder])
    assert from_record.result.transition is None
    assert from_record.result.on == "given"
    assert math.isnan(from_record.result.memorised)
    assert math.isnan(from_record.result.per_class_accuracy[1])  # a class without test images
    (line,) = csv.DictReader((tmp_path / SUMMARY).open())
    assert line["rate"] == line["memorised"] == line["acc_b"] == ""
    assert line["on"] == "given"


def test_matrices_of_many_classes_take_little_room_and_come_back(tmp_path: Path) -> None:
    config = make_config("laptop", noise="sym", epochs=1)
    run = Run(tmp_path / RUNS / config.name)
    rng = np.random.default_rng(0)
    true, said = rng.integers(77, size=(2, 3_000))
    confusion = np.zeros((77, 77), int)
    np.add.at(confusion, (true, np.where(rng.random(3_000) < 0.7, true, said)), 1)
    transition = check_transition(symmetric(77, 0.4), 77, "it")  # as noise has it: rows differ
    transition[5] = math.nan  # a class of whose labels nobody knows the truth
    wide = {"class_names": [f"{k}" for k in range(77)], "confusion": confusion.tolist()}
    was = result(transition.tolist(), **wide)
    with run.lock():
        run.begin(config, Labels(np.arange(4), np.arange(4)), {"device": "cpu"})
        run.finish(config, {"w": torch.zeros(2)}, [], was)
    write_study(tmp_path)
    whole = len(json.dumps([was.confusion, was.transition]))
    assert 5 * (tmp_path / RECORD).stat().st_size < whole
    shutil.rmtree(tmp_path / RUNS)
    (again,) = read_runs(tmp_path)
    assert again.result.confusion == was.confusion
    np.testing.assert_array_equal(np.array(again.result.transition, float), transition)


def test_labels_of_which_nothing_is_known_are_kept(tmp_path: Path) -> None:
    labels = Labels(np.array([2, 0, 1]), np.full(3, UNKNOWN))
    write_noise(tmp_path / NOISE, labels)
    again = read_noise(tmp_path / NOISE)
    assert again.given.tolist() == [2, 0, 1]
    assert not again.known.any()
    assert again.transition is None
    write_noise(tmp_path / "again.npz", again)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / NOISE).read_bytes()


# The rate of noise that has none of its own.


def finished(config: Config, transition: list[list[float]] | None) -> Finished:
    return Finished(config.name, config, {}, [], result(transition))


def test_noise_without_a_chosen_rate_has_that_of_its_matrix() -> None:
    (cell,) = make_grid("laptop", ["ce"], ["human"], seeds=1)
    alone = make_config("laptop", loss="ce", noise="human")
    assert cell == alone
    for config in (cell, alone):
        assert setting(finished(config, [[0.9, 0.1], [0.3, 0.7]]))["rate"] == 0.2
        assert math.isnan(setting(finished(config, None))["rate"])
    for noise, rate in (("sym", 0.4), ("none", 0.0)):  # what was asked
        config = make_config("laptop", loss="ce", noise=noise)
        assert setting(finished(config, [[0.9, 0.1], [0.3, 0.7]]))["rate"] == rate


@pytest.mark.slow
def test_a_matrix_has_one_rate_whether_study_or_train_ran_it(old: Path, tmp_path: Path) -> None:
    given = {"network": "mlp", "width": 4, "epochs": 1, "map": "matrix.csv"}
    cells = make_grid("quick", ["ce"], ["matrix"], seeds=1, **given)
    alone = make_config(loss="ce", noise="matrix", **given)
    run_study(cells, tmp_path / "study", workers=1, machine=HERE)
    train(alone, tmp_path / "train" / RUNS / alone.name, machine=HERE)
    write_study(tmp_path / "train")
    summaries = [(tmp_path / name / SUMMARY).read_bytes() for name in ("study", "train")]
    assert summaries[0] == summaries[1]
    assert pd.read_csv(tmp_path / "train" / SUMMARY)["rate"].tolist() == [0.18]


# A file that decides a run and was changed.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "name", "contents"),
    [
        ("asym", "map.json", ['{"1": "7"}', '{"1": "8"}']),
        ("matrix", "given.json", [str(np.eye(10).tolist()), str(np.eye(10)[::-1].tolist())]),
    ],
)
@pytest.mark.filterwarnings("ignore::apl.errors.NoiseWarning")
def test_an_edited_file_is_not_answered_with_the_result_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: str, name: str, contents: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def asked(content: str) -> Config:
        Path(name).write_text(content)
        return small(loss="ce", noise=noise, map=name, epochs=1, train_size=100)

    before = asked(contents[0])
    study = Path("study")
    done = run_study([before], study, workers=1, machine=HERE)
    assert set(done.results) == {before.name}
    after = asked(contents[1])
    assert after.name == before.name
    with pytest.raises(BadInput, match=r"map_sha256 is .*choose another --out") as caught:
        train(after, study / RUNS / after.name, machine=HERE)
    assert "\n" not in str(caught.value)
    edited = run_study([after], study, workers=1, machine=HERE)
    assert edited.results == {}
    assert "map_sha256" in edited.failed[after.name]
    # Nor from the record, where the folder is gone: it is another run.
    shutil.rmtree(study / RUNS)
    anew = run_study([after], study, workers=1, machine=HERE)
    assert anew.failed == {}
    assert (study / RUNS / after.name / RESULT).exists()
    assert anew.results[after.name].transition != done.results[after.name].transition
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [run.config for run in read_runs(study)] == [after]
