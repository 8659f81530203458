"""A tuned study as a user runs it: tried, chosen, judged, stopped and gone on with."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli

from apl.config.config import make_config
from apl.errors import BadInput
from apl.runs.record import read_record
from apl.runs.run import RUNS, Run
from apl.training.prepare import hold_out, prepare

STUDY = (
    *("study", "--losses", "ce,nce", "--noise", "sym", "--rates", "0.4", "--seeds", "2"),
    *("--tune", "lr=.02,.1", "--tune-seeds", "2", "--epochs", "1", "--train-size", "200"),
    *("--network", "mlp", "--width", "4", "--workers", "1", "--no-pictures"),
)


@pytest.mark.slow
def test_a_tuned_study_from_its_cost_to_its_records(here: Cli, tmp_path: Path) -> None:
    out = here(*STUDY).stdout
    study = tmp_path / "results" / "digits-quick-tuned"
    assert (
        "tuning lr 0.02, 0.1: 2 configurations of each of 2 losses and noise settings, on 2 "
        "seeds, 8 runs; then what is chosen on 2 others, 4 runs"
    ) in out
    with (study / "tuning.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = {row["loss"]: float(row["lr"]) for row in rows if row["chosen"]}
    assert (len(rows), set(chosen)) == (4, {"ce", "nce"})
    record = read_record(study)
    parts: dict[str, list[int]] = {"tuning": [], "evaluation": []}
    for run in record.values():
        assert run.config.tuned is not None
        parts[run.config.tuned["part"]].append(run.config.seed)
        if run.config.tuned["part"] == "evaluation":
            assert run.config.lr == chosen[run.config.loss] == run.config.tuned["values"]["lr"]
            assert run.config.tuned["over"] == {"lr": [0.02, 0.1]}
    assert sorted(parts["tuning"]) == [1000] * 4 + [1001] * 4
    assert sorted(parts["evaluation"]) == [0, 0, 1, 1]
    # Again: nothing is trained; with a seed more, only its runs are.
    times = {run: Run(study / RUNS / run).file("result.json").stat().st_mtime_ns for run in record}
    assert "nothing is trained" in here(*STUDY).stdout
    more = here(*STUDY[:8], "3", *STUDY[9:]).stdout
    assert "6 runs in results/digits-quick-tuned, 1 at a time; 4 of them are finished" in more
    for run, then in times.items():
        assert Run(study / RUNS / run).file("result.json").stat().st_mtime_ns == then
    table = (study / "table.md").read_text()
    assert "What was chosen (lr)" in table
    page = here("report", str(study)).stdout
    assert "report.html" in page
    told = (study / "report.html").read_text()
    assert "What choosing without the truth cost" in told
    assert "--tune lr=0.02,0.1" in told


@pytest.mark.slow
def test_a_folder_is_tuned_or_it_is_not(here: Cli) -> None:
    tune = ("--tune", "lr=.02,.1", "--tune-seeds", "2")
    at = STUDY.index("--tune")
    plain = (*STUDY[:at], *STUDY[at + len(tune) :])
    here(*plain, "--out", "here")
    said = here(*STUDY, "--out", "here", code=2).stderr
    assert "here holds runs that were not tuned: choose another --out" in said
    here(*STUDY, "--out", "there")
    said = here(*plain, "--out", "there", code=2).stderr
    assert "there holds a study with --tune: choose another --out" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--tune", "lr"), "accepted: NAME=X,X"),
        (("--tune", "lr=.1,.2", "--lr", ".1"), "lr is given and tuned"),
        (("--tune", "lr=.1,.2", "--tune-seeds", "0"), "tune_seeds is 0"),
        (("--fresh-data", "--train-size", "0"), "fresh_data is True; accepted: no, or with"),
    ],
)
def test_bad_input_is_one_line(here: Cli, typed: tuple[str, ...], said: str) -> None:
    error = here("study", "--losses", "ce", *typed, code=2).stderr
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_fresh_data_are_each_seeds_own_and_the_same_for_every_loss() -> None:
    def drawn(loss: str, seed: int, fresh: bool = True, noise: str = "sym") -> tuple[object, ...]:
        config = make_config(
            loss=loss,
            seed=seed,
            noise=noise,
            rate=0.4,
            train_size=200,
            fresh_data=fresh,
            select="noisy",
        )
        data = prepare(config)
        _, held_out = hold_out(data)
        at = data.train.at
        assert at is not None
        assert len(np.unique(at)) == 200
        counts = np.bincount(data.train.labels.true, minlength=10)
        assert counts.max() - counts.min() <= 1
        assert held_out.at is not None
        return tuple(map(tuple, (at, data.train.labels.given, held_out.at)))

    assert drawn("ce", 0) == drawn("mae", 0)
    assert drawn("ce", 0) != drawn("ce", 1)
    sets = [set(drawn("ce", seed)[0]) for seed in range(3)]  # type: ignore[call-overload]
    assert all(a != b for a, b in itertools.combinations(sets, 2))
    assert drawn("ce", 0, fresh=False)[0] == drawn("ce", 1, fresh=False)[0]
    with pytest.raises(BadInput, match="fresh_data is True"):
        make_config(fresh_data=True)
