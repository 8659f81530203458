"""The committed results are what the preset makes, and say what the README says of them.

Everything is read from the record of a study, as in a fresh clone: run folders are not committed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import PATIENCE, ROOT

from apl.config.config import Config
from apl.config.grid import make_grid
from apl.config.presets import PRESETS
from apl.config.published import published_rows
from apl.report.page import make_report, read_study
from apl.report.results import results_table
from apl.report.study import studies
from apl.runs.record import read_runs, write_study
from apl.runs.run import (
    CHECKPOINT,
    CONFIG,
    HISTORY,
    LOG,
    NOISE,
    RECORD,
    REPORT,
    RESULT,
    RUNS,
    SUMMARY,
    TABLE,
    WEIGHTS,
    Finished,
)

EVIDENCE = ROOT / "results" / "evidence"
LAPTOP = EVIDENCE / "cifar10-laptop"
STUDIES = [
    *("cifar10-laptop", "cifar10-laptop-warm", "cifar10-paper-50-epochs", "digits-quick"),
    *("cifar10-field", "cifar10-human", "cifar10-paper-ce", "cifar10-sweep", "mnist-laptop"),
    *("mnist-sweep", "report-redone", "cifar10-lite0-linear", "banking77-tfidf", "digits-tuned"),
    *("cifar10-lite0-mlp", "mnist-tuned"),
]
SUCCESSORS = (
    *("nce_agce", "nce_aul", "nce_ael", "anl_ce", "jal_ce", "eps_softmax_mae", "js", "ce_lc"),
    *("elr", "forward", "bi_tempered", "ls"),
)


@pytest.fixture
def record(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A study folder with a committed record and nothing else."""
    folder = tmp_path / request.param
    folder.mkdir()
    shutil.copy(EVIDENCE / request.param / RECORD, folder)
    return folder


def configs_of(runs: list[Finished]) -> dict[str, Config]:
    return {run.name: run.config for run in runs}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("record", "preset", "settings"),
    [
        ("cifar10-laptop", "laptop", {}),
        ("digits-quick", "quick", {}),
        ("cifar10-laptop-warm", "laptop", {"warm_start": 3.0}),  # epochs of ce first
        ("mnist-laptop", "laptop", {"dataset": "mnist"}),
    ],
    indirect=["record"],
)
def test_a_whole_study_is_the_presets(record: Path, preset: str, settings: Any) -> None:
    cells = {cell.name: cell for cell in make_grid(preset, **settings)}
    assert configs_of(read_runs(record)) == cells


def human(**settings: Any) -> dict[str, Config]:
    """The cells of the three sets of CIFAR-10N, for the losses of the field."""
    losses = (*PRESETS["laptop"].losses, *SUCCESSORS)
    return {
        cell.name: cell
        for name in ("aggre", "random1", "worse")
        for cell in make_grid("laptop", losses, ("human",), map=name, **settings)
    }


@pytest.mark.slow
@pytest.mark.parametrize("record", ["cifar10-field"], indirect=True)
def test_the_field_has_the_laptop_study_its_successors_and_peoples_labels(record: Path) -> None:
    found = configs_of(read_runs(record))
    laptop = configs_of(read_runs(LAPTOP))
    later = {cell.name: cell for cell in make_grid("laptop", SUCCESSORS)}
    assert found == laptop | later | human()


@pytest.mark.parametrize("record", ["cifar10-human"], indirect=True)
def test_the_study_of_peoples_labels_holds_some_of_them_out(record: Path) -> None:
    assert configs_of(read_runs(record)) == human(seeds=2, select="noisy", eval_every=1)


@pytest.mark.parametrize("record", ["report-redone"], indirect=True)
def test_the_report_redone_is_the_presets_grid_with_other_settings(record: Path) -> None:
    configs = configs_of(read_runs(record))
    settings = next(iter(configs.values())).overrides
    cells = make_grid("report", **settings)
    assert configs == {cell.name: cell for cell in cells}


@pytest.mark.slow
@pytest.mark.parametrize("record", STUDIES, indirect=True)
def test_summary_and_table_follow_from_the_record(record: Path) -> None:
    committed = EVIDENCE / record.name
    runs = write_study(record)
    for name in (RECORD, SUMMARY):
        assert (record / name).read_bytes() == (committed / name).read_bytes()
    table = results_table(studies(runs), published_rows())
    assert table.encode() == (committed / TABLE).read_bytes()


def without_pictures(html: str) -> str:
    """A page without what depends on matplotlib's version."""
    return re.sub(r"base64,[A-Za-z0-9+/=]*", "", html)


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("record", ["cifar10-laptop"], indirect=True)
def test_the_report_follows_from_the_record(record: Path) -> None:
    html = make_report(record.name, read_study(record)).html
    committed = (LAPTOP / REPORT).read_text(encoding="utf-8")
    assert without_pictures(html) == without_pictures(committed)


def test_the_laptop_study_shows_what_it_is_for() -> None:
    """At 60 % symmetric noise NCE+RCE is 15 points ahead of CE, which memorised; the normalised
    losses are robust and underfit; nothing collapsed."""
    summary = pd.read_csv(LAPTOP / SUMMARY)
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
    folder = EVIDENCE / "report-redone"
    ours = pd.read_csv(folder / SUMMARY)
    printed = pd.read_csv(folder / "printed.csv")
    both = ours.merge(printed, on=["loss", "noise", "rate"], validate="one_to_one")
    assert len(both) == len(printed)
    assert sorted(ours["loss"].unique()) == sorted(PRESETS["report"].losses)
    assert both["printed"].between(9, 11).all()
    assert (100 * both["test_accuracy"] > both["printed"]).mean() > 0.9


@pytest.mark.parametrize("record", ["cifar10-paper-50-epochs"], indirect=True)
def test_the_papers_protocol_heads_for_its_figures(record: Path) -> None:
    """NCE+RCE within two published deviations already, CE past its best and still memorising."""
    runs = read_runs(record)
    for run in runs:
        assert run.config.preset == "paper"
        assert run.config.overrides == {"epochs": 50, "precision": "bf16"}
    published = published_rows().set_index(["dataset", "noise", "rate", "method", "paper"])
    theirs = published.loc[("cifar10", "sym", 0.6, "nce_rce", "Ma et al., ICML 2020")]
    ours = {run.config.loss: run for run in runs}
    assert set(ours) == {"ce", "nce_rce"}
    accuracy = 100 * ours["nce_rce"].result.test_accuracy
    assert abs(accuracy - theirs["mean"]) < 2 * theirs["std"]
    ce = ours["ce"]
    best = max(row["test_accuracy"] for row in ce.history)
    assert best > ce.result.test_accuracy + 0.05
    memorised = [row["memorised"] for row in ce.history]
    assert memorised[-1] == max(memorised)


def git(*arguments: str) -> list[str]:
    """The paths that git names for the repository; skips where there is no git."""
    found = shutil.which("git")
    if found is None or not (ROOT / ".git").exists():
        pytest.skip("there is no git here to say what is committed")
    command = [found, "-c", "safe.directory=*", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # 1: check-ignore names nothing
    return done.stdout.splitlines()


def test_few_small_files_are_committed_and_no_weights_or_run_folders() -> None:
    tracked = [Path(name) for name in git("ls-files", "results")]
    assert 0 < len(tracked) <= 134
    assert not [path for path in tracked if RUNS in path.parts]
    assert not [path for path in tracked if path.suffix in (".safetensors", ".npz", ".pt", ".svg")]
    for study in STUDIES:
        folder = Path("results", "evidence", study)
        assert {folder / name for name in (RECORD, SUMMARY, TABLE)} <= set(tracked)


def test_what_is_written_by_default_is_neither_committed_nor_offered_for_it() -> None:
    tracked = git("ls-files", "results")
    assert {Path(name).parts[:2] for name in tracked} == {("results", "evidence")}
    run = f"evidence/x/{RUNS}/ce_clean_seed0"
    left = [f"{run}/{name}" for name in (CONFIG, NOISE, HISTORY, RESULT, WEIGHTS, LOG, CHECKPOINT)]
    left += [f"digits-quick/{name}" for name in (RECORD, SUMMARY, TABLE, REPORT)]
    left += [f"digits-quick-train/{RUNS}/ce_clean_seed0/{CONFIG}", "photos-find/issues.csv"]
    left += ["noise/digits_sym-0.4_seed0.npz", "noise/digits_sym-0.4_seed0.png"]
    kept = [f"evidence/x/{name}" for name in (RECORD, SUMMARY, TABLE)]
    asked = [f"results/{name}" for name in (*left, *kept)]
    assert git("check-ignore", "--no-index", *asked) == asked[: len(left)]


@pytest.mark.slow
def test_the_first_command_of_the_readme_trains_in_a_fresh_clone(tmp_path: Path) -> None:
    """What is committed is no study that it would find finished: it is the first of its place."""
    for name in git("ls-files"):
        if (ROOT / name).is_file():  # or it is deleted here, and not yet in a commit
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    block = (ROOT / "README.md").read_text(encoding="utf-8").partition("```sh\n")[2]
    clone, first = [line for line in block.splitlines() if not line.startswith("#")][:2]
    assert clone.startswith("git clone ")
    program, *arguments = shlex.split(first.rpartition("&&")[2])
    assert (Path(program).name, arguments) == ("apl", ["study"])
    grid = "--losses nce_rce --noise sym --rates 0.4 --seeds 1"  # and all else as it is
    done = subprocess.run(
        [sys.executable, "cli.py", *arguments, *grid.split()],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    begin, *_ = done.stdout.splitlines()
    assert begin.startswith(f"1 run in {Path('results/digits-quick')}, ")
    assert "finished" not in begin
    study = tmp_path / "results" / "digits-quick"
    assert len(list(study.glob(f"{RUNS}/*/{WEIGHTS}"))) == 1
    assert len((study / RECORD).read_text(encoding="utf-8").splitlines()) == 1
