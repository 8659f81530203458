"""Labels repaired by features, and training on them."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli

from apl.config.config import Config, make_config
from apl.config.grid import make_grid, study_commands
from apl.data.sources import load_data
from apl.errors import BadInput, Interrupted
from apl.noise.labels import UNKNOWN
from apl.report.terminal import repaired_line
from apl.training.crossfit import Budget
from apl.training.listener import Listener, ignore
from apl.training.repair import repair_labels
from apl.training.train import train

SHORT, SHORTEST = Budget(rounds=1, steps=300), Budget(rounds=1, steps=1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def clouds(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, Any]:
    """Rows of classes that lie apart, with a constant column, and their classes."""
    rng = np.random.default_rng(seed)
    true = np.arange(count) % classes
    centres = rng.normal(size=(classes, 8)) * 2.5
    rows = np.c_[centres[true] + rng.normal(size=(count, 8)), np.ones(count)]
    return torch.from_numpy(rows), true


@pytest.mark.slow
def test_labels_are_repaired_and_people_win() -> None:
    rows, true = clouds(300, 3)
    given = true.copy()
    wrong = np.random.default_rng(1).permutation(300)[:75]
    given[wrong] = (true[wrong] + 1) % 3
    given[100:110] = UNKNOWN
    decided = {int(wrong[0]): int(given[wrong[0]]), 105: int((true[105] + 1) % 3), 3: int(true[3])}
    made = repair_labels(rows, given, 3, decided=decided, seed=7, budget=SHORT)
    assert np.allclose(made.targets.sum(1), 1)
    assert all(made.targets[row].tolist() == np.eye(3)[c].tolist() for row, c in decided.items())
    free = np.setdiff1d(np.arange(300), [*decided])
    assert (made.labels == true)[free].mean() > 0.95 > (given == true)[free].mean()
    asked = (given != UNKNOWN) & (given != true)
    assert abs(made.rate.estimate - asked.mean()) < 0.1
    assert made.wrong[100:110].tolist() == [0] * 10
    assert made.wrong[wrong[0]] == 0  # people say that it is right
    assert made.moved[free].sum() == pytest.approx(asked[free].sum(), abs=6)
    again = repair_labels(rows, given, 3, decided=decided, seed=7, budget=SHORT)
    assert np.array_equal(made.targets, again.targets)
    assert not made.moved[100:110].any()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 12])
def test_few_samples_constant_features_and_one_class(count: int) -> None:
    rows = torch.ones(count, 4)
    given = np.arange(count) % 2
    for classes, labels in ((2, given), (3, given), (1, given * 0)):
        made = repair_labels(rows, labels, classes, seed=2**63 - 1, budget=SHORTEST)
        assert np.isfinite(made.targets).all()
        assert np.isfinite(made.wrong).all()
        assert np.allclose(made.targets.sum(1), 1)
    known = repair_labels(rows, np.full(count, UNKNOWN), 2, decided={0: 1}, budget=SHORTEST)
    assert known.targets[0].tolist() == [0, 1]
    assert not known.wrong.any()


@pytest.mark.parametrize(
    ("rows", "given", "decided", "said"),
    [
        (torch.ones(3, 0), [0, 1, 0], {}, r"shapes \[3, 0\] and \[3\]"),
        (torch.ones(3, 2), [0, 1], {}, "shapes"),
        (torch.tensor([[1.0], [float("nan")]]), [0, 1], {}, "not finite"),
        (torch.ones(2, 1), [0, 2], {}, "a label is 2; accepted: 0 to 1"),
        (torch.ones(2, 1), [-1, -1], {}, "no sample has a label"),
        (torch.ones(2, 1), [0, 1], {2: 0}, "a decided row is 2"),
        (torch.ones(2, 1), [0, 1], {1: 5}, "a decided class is 5"),
    ],
)
def test_what_can_not_be_repaired_is_told(rows: Any, given: Any, decided: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        repair_labels(rows, given, 2, decided=decided)


# ------------------------------------------------------------------------------ trained on them


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that learn for as long as so few samples need, and no longer."""
    monkeypatch.setattr("apl.training.repair.BUDGET", Budget(steps=100))


def table(folder: Path, count: int = 90) -> list[int]:
    """A table of three classes in which one label of five is wrong; the rows of these."""
    rows, true = clouds(count, 3)
    given = true.copy()
    wrong = np.random.default_rng(2).permutation(count)[: count // 5]
    given[wrong] = (true[wrong] + 1) % 3
    lines = [
        ",".join([*(f"{value:.4f}" for value in row[:8]), "=yes no maybe".split()[k]])
        for row, k in zip(rows.tolist(), given, strict=True)
    ]
    columns = ",".join([*(f"x{i}" for i in range(8)), "label"])
    (folder / "t.csv").write_text("\n".join([columns, *lines]) + "\n", encoding="utf-8")
    return sorted(wrong.tolist())


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_stopped_run_on_repaired_labels_ends_as_an_unstopped_one(tmp_path: Path) -> None:
    table(tmp_path)
    data = load_data(tmp_path / "t.csv")
    config = make_config("quick", dataset=data, loss="repair", epochs=3)
    quiet = Listener(on_message=ignore)
    result = train(config, tmp_path / "whole", listener=quiet)
    assert result.repaired is not None
    assert result.repaired["labels"] == len(data.train)
    assert 5 <= result.repaired["moved"] <= 25
    for calls in (20, 63):  # asked 60 times by the heads, an epoch each, then by each step
        asked = iter(range(calls))
        stop = dataclasses.replace(quiet, should_stop=lambda asked=asked: next(asked, None) is None)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "stopped", listener=stop)
        assert (tmp_path / "stopped" / "checkpoint.safetensors").exists() == (calls > 60)
    assert train(config, tmp_path / "stopped", listener=quiet) == result
    for name in ("model.safetensors", "repaired.csv", "history.csv", "noise.npz"):
        whole, stopped = ((tmp_path / run / name).read_bytes() for run in ("whole", "stopped"))
        assert whole == stopped, name


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_repair_from_the_command_line_and_beside_losses(here: Cli, tmp_path: Path) -> None:
    table(tmp_path, 240)
    asked = ("train", "--dataset", "t.csv", "--epochs", "8")
    here(*asked, "--loss", "ce")
    shown = here(*asked, "--repair").stdout
    assert "labels moved; estimated noise rate" in shown
    (file,) = tmp_path.glob("results/*/runs/repair_given_seed0*/repaired.csv")
    with file.open(encoding="utf-8", newline="") as lines:
        moved = list(csv.DictReader(lines))
    assert {"id", "given_label", "repaired_label", "repaired_probability"} <= set(moved[0])
    assert all(row["given_label"] != row["repaired_label"] for row in moved)
    assert any("'=yes" in (row["given_label"], row["repaired_label"]) for row in moved)
    chances = [float(row["repaired_probability"]) for row in moved]
    assert chances == sorted(chances, reverse=True)
    assert json.loads((file.parent / "result.json").read_text())["repaired"]["moved"] == len(moved)
    # A person says of the surest one that its label is right.
    name = moved[0]["file_name"] or moved[0]["id"]
    (tmp_path / "d.csv").write_text(f"file_name,decision\n{name},keep\n", encoding="utf-8")
    here(*asked, "--repair", "--labels", "d.csv", "--out", "decided")
    (file,) = tmp_path.glob("decided/runs/repair_*/repaired.csv")
    assert name not in {line.split(",")[-1] for line in file.read_text().splitlines()}
    (study,) = tmp_path.glob("results/*/summary.csv")
    with study.open(encoding="utf-8", newline="") as lines:
        assert {row["loss"] for row in csv.DictReader(lines)} == {"ce", "repair"}


def test_fewer_labels_that_moved_than_are_wrong_are_explained() -> None:
    """92 looked wrong to `apl find`, 10 moved, and no line said why."""
    found = {"labels": 480, "moved": 10, "noise_rate": 0.27, "low": 0.1, "high": 0.3}
    why = "A label moves only where one other class is likelier than it; apl find flags as many as"
    assert why in repaired_line(found)
    assert repaired_line({**found, "moved": 130}).endswith("rate 27.0% (10.0% to 30.0%)")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "repair"}, "repair on features"),
        ({"loss": "repair(q=0.9)"}, "'repair' is no loss"),
        ({"loss": "ce + repair"}, "'repair' is no loss"),
        ({"loss": "repair", "q": 0.9}, "takes no parameter 'q'"),
    ],
)
def test_what_repair_does_not_take_is_told(settings: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make_config(**settings)


def test_repair_is_a_row_of_a_study_with_settings_of_its_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", train=np.zeros((3, 4)), test=np.zeros((2, 4)))
    features = {"features": str(tmp_path / "v.npz"), "dataset": "digits"}
    asked = make_grid("quick", ["ce", "Repair"], ["sym"], [0.4], 1, **features)
    assert [cell.loss for cell in asked] == ["ce", "repair"]
    assert asked[1].name.startswith("repair_sym-0.4_seed0_features=")
    assert "dropout" not in asked[1].name
    assert (asked[0].network, asked[1].network, asked[1].dropout) == ("linear", "mlp", 0.5)
    assert "--losses ce,repair" in study_commands(asked)[0]
    assert Config.read(asked[1].to_json()) == asked[1]
    own = make_config("quick", loss="repair", network="linear", **features)
    assert (own.network, own.dropout) == ("linear", 0.5)
