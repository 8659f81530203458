"""The committed results are what the preset makes, and say what the README says of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from apl.config import PRESETS
from apl.report.published import published_rows
from apl.runs import read_config, read_study, write_summary
from apl.study import make_grid

RESULTS = Path(__file__).parents[1] / "results"
LAPTOP = RESULTS / "cifar10-laptop"


def test_the_laptop_study_is_the_presets() -> None:
    cells = {cell.name: cell for cell in make_grid("laptop")}
    runs = {run.name: read_config(run) for run in (LAPTOP / "runs").iterdir()}
    for name, config in runs.items():
        assert config.identity() == cells[name].identity()
    assert {name for name, cell in cells.items() if cell.seed == 0} <= set(runs)


def test_the_summary_follows_from_the_runs(tmp_path: Path) -> None:
    shutil.copytree(LAPTOP / "runs", tmp_path / "runs")
    write_summary(tmp_path)
    assert (tmp_path / "summary.csv").read_bytes() == (LAPTOP / "summary.csv").read_bytes()


def test_the_laptop_study_shows_what_it_is_for() -> None:
    """At 60 % symmetric noise NCE+RCE is 15 points ahead of CE, which memorised; the normalised
    losses are robust and underfit; nothing collapsed."""
    summary = pd.read_csv(LAPTOP / "summary.csv")
    assert not summary["collapsed"].any()
    means = 100 * summary.pivot_table(
        index="loss", columns=["noise", "rate"], values=["test_accuracy", "memorised"]
    )
    accuracy, memorised = means["test_accuracy"], means["memorised"]
    assert accuracy.at["nce_rce", ("sym", 0.6)] >= accuracy.at["ce", ("sym", 0.6)] + 15
    assert memorised.at["ce", ("sym", 0.6)] > 60 > 30 > memorised.at["nce_rce", ("sym", 0.6)]
    for normalised, plain in (("nce", "ce"), ("nfl", "fl")):
        assert accuracy.at[normalised, ("none", 0.0)] < accuracy.at[plain, ("none", 0.0)] - 10
        assert accuracy.at[normalised, ("sym", 0.6)] > accuracy.at[plain, ("sym", 0.6)]
    for loss in ("mae", "rce", "nce_mae", "nce_rce", "nfl_mae", "nfl_rce"):
        assert accuracy.at[loss, ("sym", 0.6)] > accuracy.at["ce", ("sym", 0.6)] + 10


def test_the_report_redone_learned() -> None:
    folder = RESULTS / "report-redone"
    ours = pd.read_csv(folder / "summary.csv")
    printed = pd.read_csv(folder / "printed.csv")
    both = ours.merge(printed, on=["loss", "noise", "rate"], validate="one_to_one")
    assert len(both) == len(printed)
    assert sorted(ours["loss"].unique()) == sorted(PRESETS["report"].losses)
    assert both["printed"].between(9, 11).all()
    assert (100 * both["test_accuracy"] > both["printed"]).mean() > 0.9


def test_the_papers_protocol_heads_for_its_figures() -> None:
    """NCE+RCE within two published deviations already, CE past its best and still memorising."""
    folder = RESULTS / "cifar10-paper-50-epochs"
    summary, histories = read_study(folder)
    published = published_rows().set_index(["dataset", "noise", "rate", "method", "paper"])
    theirs = published.loc[("cifar10", "sym", 0.6, "nce_rce", "Ma et al., ICML 2020")]
    ours = summary.set_index("loss")
    assert abs(100 * ours.at["nce_rce", "test_accuracy"] - theirs["mean"]) < 2 * theirs["std"]
    ce = histories[histories["run"] == ours.at["ce", "run"]]
    assert ce["test_accuracy"].max() > ours.at["ce", "test_accuracy"] + 0.05
    assert ce["memorised"].iloc[-1] == ce["memorised"].max()
    for run in (folder / "runs").iterdir():
        assert read_config(run).overrides == {"epochs": 50, "precision": "bf16"}


@pytest.mark.parametrize("study", ["cifar10-laptop", "cifar10-paper-50-epochs", "report-redone"])
def test_no_weights_are_committed(study: str) -> None:
    ignored = (RESULTS.parent / ".gitignore").read_text().splitlines()
    assert {"results/**/*.safetensors", "results/**/*.npz", "results/**/log.txt"} <= set(ignored)
    assert (RESULTS / study / "summary.csv").is_file()
