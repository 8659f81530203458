"""A run is what it was when it was begun, whatever a later release puts into its tables."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from apl.config import published
from apl.config.config import Config, make_config
from apl.config.grid import make_grid
from apl.config.presets import HEAD, PRESETS
from apl.errors import BadInput, Interrupted
from apl.losses.catalog import PARAMS
from apl.report.results import results_table
from apl.report.study import studies
from apl.runs.record import as_begun, read_record, read_runs, write_study
from apl.runs.run import RECORD, RUNS, TABLE, Finished, Run
from apl.study.run import run_study
from apl.training.listener import Listener
from apl.training.machine import Machine
from apl.training.train import train

EVIDENCE = Path(__file__).parents[2] / "results" / "evidence"
STUDIES = sorted(path.parent for path in EVIDENCE.glob(f"*/{RECORD}"))
HERE = Machine(device="cpu", threads=1)
SMALL = {"network": "mlp", "width": 4, "train_size": 200}


def release(patch: pytest.MonkeyPatch) -> None:
    """A later release: presets have other learning rates, other settings are published."""
    for name, preset in PRESETS.items():
        per_dataset = {
            dataset: {**chosen, **({"lr": 2 * chosen["lr"]} if "lr" in chosen else {})}
            for dataset, chosen in preset.per_dataset.items()
        }
        settings = {**preset.settings, "lr": 2 * preset.settings.get("lr", 0.01), "clip": 7.0}
        later = dataclasses.replace(preset, settings=settings, per_dataset=per_dataset)
        patch.setitem(PRESETS, name, later)
    for name, value in {"lr": 0.04, "clip": 7.0}.items():  # and of heads on features
        patch.setitem(HEAD, name, value)
    rows = published.settings_rows()
    for dataset in ("digits", "mnist", "cifar10"):
        for loss, param, value in (
            ("gce", "q", "0.7"),  # its own default
            ("fl", "gamma", "2"),
            ("nce_rce", "A", "-4"),
            ("ce", "weight_decay", "0.5"),
        ):
            new = {"dataset": dataset, "loss": loss, "parameter": param, "value": value}
            rows.append({"noise": "", "rate": "", "source": "a later paper", **new})
    for row in rows:
        if row["loss"] == "sce" and row["parameter"] == "alpha":
            row["value"] = "3"
    rows = [row for row in rows if (row["loss"], row["parameter"]) != ("anl_ce", "l1")]
    patch.setattr(published, "settings_rows", lambda: rows)
    published.published_table.cache_clear()
    published.published_names.cache_clear()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Called, it makes what follows a later release."""
    yield lambda: release(monkeypatch)
    monkeypatch.undo()
    published.published_table.cache_clear()
    published.published_names.cache_clear()


def told(runs: list[Finished]) -> dict[str, Any]:
    """What is said of the runs of a study, but for its table: names, variants, legends."""
    parts = studies(runs)
    return {
        "names": [(run.name, run.config.name, run.config.variant) for run in runs],
        "legends": [list(part.styles) for part in parts],
        "captions": [part.caption for part in parts],
        "groups": [part.runs[["run", "method", "own", "standard"]].to_csv() for part in parts],
    }


def ask(run: Config) -> Config:
    """What its user typed of it."""
    options = dict(run.overrides)
    options["map"] = run.map if run.noise == "human" else None
    cell = {name: getattr(run, name) for name in ("dataset", "loss", "noise", "rate", "seed")}
    asked = make_config(run.preset, **cell, **options)
    return asked.saying(run.tuned["values"]) if run.tuned else asked


def never(*_: Any) -> Any:
    raise AssertionError("a finished cell would be trained again")


QUICK = ("report-redone",)  # in the inner loop
ASKED = 150  # runs of a study that are asked for again, from one end of it to the other
ELSEWHERE = ("banking77-tfidf",)  # of a file that is not here, so it can't be asked for again


@pytest.mark.parametrize(
    "study",
    [
        pytest.param(study, id=study.name, marks=[] if study.name in QUICK else pytest.mark.slow)
        for study in STUDIES
    ],
)
def test_a_release_changes_nothing_of_a_committed_study(
    study: Path, later: Any, tmp_path: Path
) -> None:
    runs = read_runs(study)
    before, every = told(runs), [run.config for run in runs]
    configs = every[:: max(1, len(every) // ASKED)]
    with (study / "summary.csv").open(encoding="utf-8", newline="") as file:
        summary = [(row["run"], row["variant"]) for row in csv.DictReader(file)]
    assert [(name, variant) for name, _, variant in before["names"]] == summary
    can_ask = study.name not in ELSEWHERE
    assert not can_ask or [ask(config) for config in configs] == configs
    later()
    again = read_runs(study)
    assert told(again) == before
    table = results_table(studies(again), published.published_rows())
    assert table == (study / TABLE).read_text(encoding="utf-8")
    if not can_ask:
        return
    asked = [ask(config) for config in configs]
    assert asked != configs  # the release would train otherwise
    shutil.copy(study / RECORD, tmp_path)
    progress = run_study(asked, tmp_path, workers=1, machine=HERE, engine=never)
    assert [cell.name for cell in progress.cells] == [config.name for config in configs]
    assert len(progress.results) == len(configs)
    assert not progress.failed
    assert any("and now would be" in line for line in progress.messages)


@pytest.mark.slow
def test_the_record_of_an_old_format_stays_as_it_was_written(later: Any, tmp_path: Path) -> None:
    old = EVIDENCE / "cifar10-sweep"
    shutil.copy(old / RECORD, tmp_path)
    later()
    run = next(run for run in read_record(tmp_path).values() if run.config.variant)
    assert run.config.overrides == {"weight_decay": 0.0, "l1": 5e-05}
    write_study(tmp_path)
    assert (tmp_path / RECORD).read_bytes() == (old / RECORD).read_bytes()
    assert told(read_runs(tmp_path)) == told(read_runs(old))


def interrupted(config: Config, folder: Path, epochs: int = 1) -> None:
    """A run that is stopped after so many epochs."""
    seen: list[float] = []
    with pytest.raises(Interrupted):
        train(
            config,
            folder,
            machine=HERE,
            listener=Listener(
                on_epoch=lambda row: seen.append(row["epoch"]),
                should_stop=lambda: len(seen) >= epochs,
            ),
        )


def test_a_run_goes_on_as_it_was_begun(later: Any, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"loss": "gce(q=0.9)", "epochs": 3, **SMALL}
    first = make_config(**asked)
    name = first.name
    whole, folder = tmp_path / "whole", tmp_path / "runs" / name
    train(first, whole, machine=HERE)
    interrupted(first, folder)
    later()
    again = make_config(**asked)
    assert again.name == name
    assert (again.lr, first.lr) == (0.1, 0.05)
    said: list[str] = []
    train(again, folder, machine=HERE, listener=Listener(on_message=said.append))
    line, *_ = said  # and that so short a run has learned nothing
    assert line == (
        f"{name} is as it was begun: lr is 0.05, and now would be 0.1; "
        "clip is 5, and now would be 7"
    )
    assert Run(folder).history == Run(whole).history
    assert Run(folder).config == first
    # What was typed otherwise is refused as ever, and so is what was not begun by that name.
    with pytest.raises(BadInput, match=r"holds a run with other arguments \(lr is 0\.05, asked fo"):
        train(make_config(**asked, lr=0.3), folder, machine=HERE)
    typed = make_config(**asked, lr=0.1)  # the preset's now, so that the name is the same
    assert typed.name == name
    with pytest.raises(BadInput, match=r"lr is 0\.05, asked for 0\.1"):
        train(typed, folder, machine=HERE)
    # Who types what it was begun with has the same run, by the name that it has.
    exact = make_config(**asked, lr=0.05, clip=5.0)
    assert exact.name != name
    (found,), lines = as_begun(tmp_path, [exact])
    assert (found, found.name, lines) == (first, name, [])


@pytest.mark.slow
def test_a_study_goes_on_as_it_was_begun(later: Any, tmp_path: Path) -> None:
    grid: dict[str, Any] = {"noises": ["sym"], "rates": [0.4], "epochs": 1, **SMALL}
    begun = make_grid("quick", ["ce", "gce"], seeds=1, **grid)
    variant = begun[0].variant
    run_study(begun, tmp_path, workers=1, machine=HERE)
    later()
    asked = make_grid("quick", ["ce", "gce", "mae"], seeds=2, **grid)
    cells, (line,) = as_begun(tmp_path, asked)
    assert line == (
        "2 of 6 runs are as begun: lr is 0.05, and now would be 0.1; clip is 5, and now would be "
        "7; another --out trains anew"
    )
    # New seeds and new losses are trained as those beside them, so that a table compares one thing.
    assert {(cell.lr, cell.clip) for cell in cells} == {(0.05, 5.0)}
    assert [cell.name for cell in cells] == [cell.name for cell in asked]
    assert {cell.variant for cell in cells} == {variant}
    typed = make_grid("quick", ["mae"], seeds=1, lr=0.1, **grid)
    assert as_begun(tmp_path, typed)[0] == typed
    assert as_begun(tmp_path / "elsewhere", asked) == (asked, [])
    progress = run_study(asked, tmp_path, workers=1, machine=HERE)
    assert len(progress.results) == 6
    assert not progress.failed
    assert {run.config.lr for run in read_runs(tmp_path)} == {0.05}
    assert run_study(asked, tmp_path, workers=1, machine=HERE, engine=never).results


def test_a_name_of_an_old_run_tells_its_variant() -> None:
    fields = {k: v for k, v in make_config().to_json().items() if k != "params"}
    fields |= {"schedule": "x0.1@4,8", "nesterov": True, "lr": 0.5, "params": {"beta": 2.0}}
    name = "nce_rce_sym-0.4_seed0_beta=2,lr=0.5,schedule=x0.1-4,8,nesterov=True"
    config = Config.read(fields, name)
    assert config.name == name
    assert config.overrides == {
        "beta": 2.0,
        "lr": 0.5,
        "schedule": "x0.1@4,8",
        "nesterov": True,
    }
    assert config.params["A"] < -9  # resolved, as nobody set it
    # A value that a release wrote into names by mistake stays what it is called.
    odd = Config.read({**fields, "params": {}}, "nce_rce_sym-0.4_seed0_beta=None")
    assert odd.variant == "beta=None"
    # A name that was cut, or is none of ours, says nothing: it is computed.
    cut = Config.read(fields, f"nce_rce_sym-0.4_seed0_beta=2,lr=0.{'5' * 110}-0123abcd")
    assert cut.name.endswith("-0123abcd")
    assert cut.overrides == config.overrides
    assert Config.read(fields, "run").name == name


def test_a_loss_with_brackets_is_the_run_that_its_options_ask_for() -> None:
    plain = make_config(loss="gce", q=0.9)
    assert make_config(loss="gce(q=0.9)") == plain
    assert make_config(loss=" GCE( q=.9 )", q=0.9) == plain
    assert plain.name == make_config(loss="gce(q=0.9)").name == "gce_sym-0.4_seed0_q=0.9"
    assert make_config(loss="gce(q=0.7)") == make_config(loss="gce")
    mixed = make_config(loss="gce(q=0.3) + gce(q=0.9)")
    assert (mixed.loss, mixed.params) == ("gce + gce", {"q": (0.3, 0.9)})
    assert mixed.name == "gce+gce_sym-0.4_seed0_q=0.3-0.9"
    assert mixed.variant == "q=0.3/0.9"
    content = json.loads(json.dumps({**mixed.naming(), "config": mixed.to_json()}))
    back = Config.read(content["config"], content["run"], content["variant"])
    assert (back, back.name, back.overrides) == (mixed, mixed.name, mixed.overrides)
    # What is published of a loss, its brackets outrank.
    assert make_config("laptop", loss="nce_rce(beta=3)").params["beta"] == 3.0
    assert make_config("laptop", loss="nce_rce(beta=3)").params["alpha"] == 1.0
    with pytest.raises(BadInput, match=r"q is 0\.9 in 'gce\(q=0\.9\)' and 0\.5 beside it"):
        make_config(loss="gce(q=0.9)", q=0.5)
    with pytest.raises(BadInput, match="do not close"):
        make_config(loss="gce(q=0.9")
    cells = make_grid("quick", ["ce", "gce(q=0.5)", "gce(q=0.9)"], ["sym"], [0.4], 1)
    assert [cell.variant for cell in cells] == ["", "q=0.5", "q=0.9"]
    assert set(cells[1].params) <= set(PARAMS)


def test_a_run_in_two_parts_trains(tmp_path: Path) -> None:
    config = make_config(loss="gce(q=0.3) + gce(q=0.9)", epochs=1, **SMALL)
    result = train(config, tmp_path / RUNS / config.name, machine=HERE)
    assert result.test_accuracy > 0
    (run,) = read_runs(tmp_path)
    assert run.config == config
    assert "q=0.3/0.9" in results_table(studies([run]))
