"""Each command as a user runs it: a subprocess in an empty folder, good input and bad."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Cli
from rich.cells import cell_len
from rich.console import Console, RenderableType
from typer.testing import CliRunner

import apl.cli.study
from apl import LOSSES
from apl.cli.app import app, run
from apl.config.config import make_config
from apl.config.grid import make_grid
from apl.losses.catalog import loss_label
from apl.names import DATASETS
from apl.noise.labels import Labels
from apl.report.tables import shortened
from apl.report.terminal import (
    class_table,
    noise_table,
    result_table,
    scores_table,
    study_table,
    verdicts,
)
from apl.runs.scores import Result, Scores

FAST = ("--train-size", "300", "--epochs", "3", "--threads", "1")


@pytest.mark.slow
def test_the_commands_of_the_readme_work_as_written(cli: Cli, tmp_path: Path) -> None:
    shown = cli("noise", "--type", "asym", "--rate", "0.3").stdout
    assert "labels changed" in shown
    with np.load(tmp_path / "results/noise/digits_asym-paper-0.3_seed0.npz") as file:
        assert set(file) == {"clean", "noisy", "mask", "transition"}
        assert (file["mask"] == (file["clean"] != file["noisy"])).all()
        assert 0.1 < file["mask"].mean() < 0.2  # half of the classes are sources
    assert (tmp_path / "results/noise/digits_asym-paper-0.3_seed0.png").stat().st_size > 5000

    shown = cli("train", "--loss", "nce_rce").stdout
    assert "epoch  20/20" in shown
    run = tmp_path / "results/digits-quick-train/runs/nce_rce_sym-0.4_seed0"
    assert {p.name for p in run.iterdir()} >= {
        *("config.json", "history.csv", "result.json", "model.safetensors", "noise.npz"),
    }
    result = json.loads((run / "result.json").read_text())
    assert result["test_accuracy"] > 0.85

    shown = cli("plot", "results/", FORCE_COLOR="1").stdout
    assert "NCE+RCE" in shown
    assert "drawing pictures" in shown
    study = run.parent.parent
    assert len(list((study / "pictures").glob("*.png"))) >= 4
    assert {p.stem for p in study.glob("pictures/*.png")} == {
        p.stem for p in study.glob("pictures/*.svg")
    }
    assert "NCE+RCE" in (study / "table.md").read_text()
    assert len(pd.read_csv(study / "summary.csv")) == 1

    shown = cli("evaluate", str(run)).stdout
    assert f"{result['test_accuracy']:.2%} on the clean test labels" in shown
    noisy = cli("evaluate", str(run), "--labels", "noisy").stdout
    assert "on the noisy test labels" in noisy


@pytest.mark.slow
def test_train_again_shows_the_finished_run(cli: Cli, tmp_path: Path) -> None:
    assert "finished" not in cli("train", *FAST).stdout
    (result,) = tmp_path.glob("results/*/runs/*/result.json")
    before = result.stat().st_mtime_ns
    again = cli("train", *FAST).stdout
    assert "epoch   1/3" not in again
    assert again.startswith("a finished run is shown, nothing is trained")
    assert result.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.usefixtures("unpainted", "one_picture")  # what is asked `here`
def test_study_ends_with_table_and_pictures(cli: Cli, here: Cli, tmp_path: Path) -> None:
    arguments = ("--losses", "ce,2*nce + 0.5*mae", "--noise", "none,sym", "--rates", "0.4", *FAST)
    shown = cli("study", *arguments, "--seeds", "1").stdout
    assert "4 runs in results/digits-quick" in shown
    assert "4/4" in shown
    study = tmp_path / "results/digits-quick"
    assert len(pd.read_csv(study / "summary.csv")) == 4
    assert (study / "pictures/accuracy_vs_rate.svg").exists()
    again = here("study", *arguments, "--seeds", "1", "--no-pictures").stdout
    told = "all 4 runs are finished in results/digits-quick: nothing is trained\nfor a new study"
    assert again.startswith(told)
    shutil.rmtree(study / "runs")  # the record is enough
    assert here("study", *arguments, "--seeds", "1", "--no-pictures").stdout.startswith(told)
    more = ("--losses", "ce,mae", "--noise", "none", *FAST, "--seeds", "1", "--no-pictures")
    begin, *_ = cli("study", *more, "--out", str(study)).stdout.splitlines()
    assert begin.startswith("2 runs in ")
    assert begin.endswith("; 1 of them is finished")
    here("report", str(study), "--latex")
    assert "<html" in (study / "report.html").read_text()
    assert "\\begin{tabular}" in (study / "report.tex").read_text()
    twice = here("report", str(study), str(study), code=2).stderr
    assert "two or more, each once" in twice
    shutil.copytree(study, tmp_path / "results/evidence/digits-quick")
    here("report", "results/digits-quick", "results/evidence/digits-quick", "--out", "same.html")
    page = (tmp_path / "same.html").read_text()
    assert "results/digits-quick beside results/evidence/digits-quick" in page
    for record in tmp_path.glob("results/**/runs.jsonl"):  # one run has few pictures
        record.write_text(record.read_text().splitlines(keepends=True)[0])
    found = here("plot", "results/").stdout
    assert "drawing" not in found  # no bar where there is no terminal
    for folder in ("results/digits-quick", "results/evidence/digits-quick"):
        assert f"wrote {folder}/runs.jsonl" in found
    study.rename(tmp_path / "mine")
    here("study", *arguments[:2], "--noise", "none", *FAST, "--seeds", "1", "--no-pictures")
    here("report", "mine", str(study), "--out", "both.html")
    page = (tmp_path / "both.html").read_text()
    assert "mine" in page
    assert "digits-quick" in page


@pytest.mark.slow
def test_a_tracker_that_is_not_there_is_told_before_training(cli: Cli) -> None:
    for command in (("train",), ("study", "--losses", "ce")):
        assert (
            "track is 'notes'; accepted: tensorboard"
            in cli(*command, "--track", "notes", code=2).stderr
        )
    done = cli("track", "import", ".", "--to", "notes", code=2)
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_failed_cell_makes_the_study_exit_1_with_its_reason(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("a: b\n")
    done = cli(
        *("study", "--losses", "ce", "--noise", "sym,asym", "--rates", "0.4", "--seeds", "1"),
        *("--map", "map.yaml", "--no-pictures", *FAST),
        code=1,
    )
    assert "failed ce_asym" in done.stderr
    assert "the data set lacks" in done.stderr
    assert len(pd.read_csv(tmp_path / "results/digits-quick/summary.csv")) == 1


@pytest.mark.slow
def test_a_collapsed_run_exits_1_and_says_why(cli: Cli) -> None:
    done = cli("train", "--lr", "0", *FAST, code=1)
    assert "collapsed (" in done.stdout
    assert "has not learned" in done.stdout


@pytest.mark.slow
def test_noise_past_the_bound_is_warned_about(cli: Cli) -> None:
    done = cli("noise", "--type", "sym", "--rate", "0.95")
    assert "at or past the bound" in done.stderr


def test_losses_and_datasets_list_everything(cli: Cli) -> None:
    shown = cli("losses").stdout
    assert all(name in shown for name in LOSSES)
    shown = cli("datasets").stdout
    assert all(name in shown for name in DATASETS)
    assert "laptop" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--loss", "nce_rcx"), "did you mean 'nce_rce'"),
        (("train", "--lr", "fast"), "Invalid value for '--lr'"),
        (("train", "--rate", "1.5"), "between 0 and 1, got 1.5"),
        (("train", "--rate", "40"), "got 40; did you mean 0.4?"),
        (("study", "--rates", "0.2,40"), "got 40; did you mean 0.4?"),
        (("find",), "`apl find photos/`, a folder of classes; or, to try it out, `apl find digits"),
        (("train", "--preset", "huge"), "preset is 'huge'; accepted: quick"),
        (
            ("train", "--dataset", "cifar10", "--no-download", "--data-dir", "void"),
            "is not in void",
        ),
        (("train", "--device", "cuda:9"), "no device 'cuda:9'"),
        (("noise", "--type", "asym", "--map", "nowhere.yaml"), "no noise map 'nowhere.yaml'"),
        (("noise", "--typ", "asym"), "No such option: --typ"),
        (("study", "--rates", "a,b"), "rates is 'a,b'; accepted"),
        (("study", "--losses", ","), "the study is empty"),
        (("study", "--preset", "laptop", "--no-download", "--data-dir", "void"), "is not in void"),
        (("plot", "nowhere"), "there is no folder nowhere"),
        (("plot", "."), "there is no finished run"),
        (("report", "nowhere"), "there is no folder nowhere"),
        (("report", "."), ". is no study: it has no finished run and no runs.jsonl"),
        (("report", ".", "--out", "."), "out is ., a folder; accepted: the name of a file"),
        (("evaluate", "nowhere"), "there is no run folder nowhere"),
        (("evaluate", ".", "--labels", "dirty"), "labels is 'dirty'; accepted: clean, noisy"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("apl: ")
    assert shown.err.count("\n") == 1
    assert "Traceback" not in shown.out


@pytest.mark.slow
def test_cifar10_noise_as_a_user_would_make_it(cli: Cli, cifar10: str, tmp_path: Path) -> None:
    shown = cli("noise", "--dataset", cifar10, "--type", "asym", "--rate", "0.4").stdout
    assert "truck" in shown
    with np.load(tmp_path / "results/noise/cifar10_asym-paper-0.4_seed0.npz") as file:
        assert len(file["clean"]) == 50_000
        assert abs(file["mask"].mean() - 0.2) < 0.005
    cli("noise", "--dataset", cifar10, "--type", "human", "--map", "aggre")
    with np.load(tmp_path / "results/noise/cifar10_human-aggre_seed0.npz") as file:
        assert abs(file["mask"].mean() - 0.0901) < 0.0005


@pytest.mark.slow
def test_python_m_apl_and_cli_py_are_the_same_command(fresh_cli: Cli) -> None:
    module = subprocess.run(
        [sys.executable, "-m", "apl", "losses"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert module.stdout == fresh_cli("losses").stdout


def test_doctor_says_what_is_there_and_bench_where_it_went(cli: Cli) -> None:
    shown = cli("doctor").stdout
    assert all(word in shown for word in ("torch", "triton", "loss backend auto", "data folder"))
    (line,) = cli("bench", "kernels", "--static", "--arch", "90", code=2).stderr.splitlines()
    named = re.search(r"(benchmarks/\w+\.py)", line)
    assert named
    assert (ROOT / named[1]).is_file()


SHELLS = {
    # What the script that `--install-completion` writes asks for, shell by shell.
    "bash": {"COMP_WORDS": "apl train --loss nce", "COMP_CWORD": "3"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "apl train --loss nce"},
    "fish": {
        "_TYPER_COMPLETE_ARGS": "apl train --loss nce",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    },
}


@pytest.mark.slow
def test_find_review_and_train_on_what_was_decided(cli: Cli, tmp_path: Path) -> None:
    """The way of the README: find, decide, train on it, find what is left."""
    asked = ("digits", "--noise", "sym", "--rate", "0.3", "--threads", "1")
    shown = cli("find", *asked).stdout
    assert "labels look wrong; noise rate" in shown
    folder = tmp_path / "results/digits-find"
    issues = pd.read_csv(folder / "issues.csv", dtype={"given_label": str, "predicted_label": str})
    assert issues["label_score"].is_monotonic_increasing
    mask = np.load(folder / "is_label_issue.npy")
    assert mask.sum() == issues["is_label_issue"].sum()
    with np.load(folder / "run/noise.npz") as labels:
        wrong = labels["mask"]
        true = labels["clean"]
    assert (mask & wrong).sum() / mask.sum() > 0.9
    assert (mask & wrong).sum() / wrong.sum() > 0.9
    noise = json.loads((folder / "noise.json").read_text())
    assert 0.2 < noise["noise_rate"]["estimate"] < 0.4
    assert noise["detection"]["precision"] == pytest.approx((mask & wrong).sum() / mask.sum())
    assert noise["detection"]["recall"] == pytest.approx((mask & wrong).sum() / wrong.sum())
    assert noise["detection"]["average_precision"] > 0.95
    assert "against the true labels: precision 0.9" in shown
    assert "<script" in (folder / "gallery.html").read_text()
    before = {p: p.read_bytes() for p in folder.glob("*.*")}
    assert cli("find", *asked).stdout.count("epoch ") == 0  # judged anew, not trained
    assert {p: p.read_bytes() for p in folder.glob("*.*")} == before

    flagged = issues[issues["is_label_issue"]].assign(decision="fix")
    flagged["label"] = flagged["predicted_label"]
    flagged[["id", "decision", "label"]].to_csv(tmp_path / "decisions.csv", index=False)
    noise = ("--noise", "sym", "--rate", "0.3", "--epochs", "2", "--threads", "1")
    cli("train", *noise, "--labels", "decisions.csv", "--loss", "ce")
    (run,) = tmp_path.glob("results/digits-quick-train/runs/*")
    with np.load(run / "noise.npz") as labels:
        assert (labels["clean"] == true).all()
        assert labels["mask"].mean() < wrong.mean() / 4  # cleaned by what was decided
    shown = cli("find", *asked, "--decisions", "decisions.csv").stdout
    assert "labels look wrong" in shown
    assert len(re.findall(r"gallery\.html", shown)) == 1


@pytest.mark.slow
def test_a_search_whose_training_failed_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "find digits --lr 0 --noise sym --rate 0.3 --epochs 2 --train-size 200 --threads 1"
    assert run(words.split()) == 1
    assert "the training failed (" in capsys.readouterr().out
    assert (tmp_path / "results/digits-find/issues.csv").exists()


@pytest.mark.slow
def test_the_wrong_rows_of_a_table(cli: Cli, tmp_path: Path) -> None:
    """Find, correct in issues.csv as in a spreadsheet, train on it."""
    from sklearn.datasets import load_breast_cancer

    rows = load_breast_cancer(as_frame=True).frame.sample(frac=1, random_state=0)
    true = rows.pop("target").map({0: "malignant", 1: "benign"}).to_numpy()
    wrong = np.random.default_rng(0).random(len(true)) < 0.15
    other = {"malignant": "benign", "benign": "malignant"}
    given = [other[k] if flip else k for k, flip in zip(true, wrong, strict=True)]
    rows.assign(label=given, row=range(len(true))).to_csv(tmp_path / "cells.csv", index=False)
    shown = cli("find", "cells.csv", "--threads", "1").stdout
    assert "review them in a browser" in shown
    folder = tmp_path / "results/cells-find"
    assert "<dt>mean radius</dt>" in (folder / "gallery.html").read_text(encoding="utf-8")
    issues = pd.read_csv(folder / "issues.csv")
    flagged = issues["is_label_issue"]
    assert abs(flagged.mean() - 0.15) < 0.06
    issues.loc[flagged, "given_label"] = issues["predicted_label"][flagged]
    issues.to_csv(tmp_path / "corrected.csv", index=False)
    asked = ("--dataset", "cells.csv", "--epochs", "4", "--threads", "1")
    cli("train", *asked, "--labels", "corrected.csv")
    (run,) = tmp_path.glob("results/cells-quick-train/runs/*")
    with np.load(run / "noise.npz") as labels:
        changed = labels["noisy"]
    assert len(issues) == len(true)  # those held out too
    trained_on = issues[issues["split"] == "train"]
    assert len(changed) == len(trained_on)
    before = trained_on.sort_values("id")["is_label_issue"].to_numpy()
    cli("train", *asked)
    (run,) = set(tmp_path.glob("results/cells-quick-train/runs/*")) - {run}
    with np.load(run / "noise.npz") as labels:
        assert ((labels["noisy"] != changed) == before).all()


CODE = """
from torch import nn
from torch.nn import functional as F

class Net(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, num_classes))

def robust(logits, targets):
    return F.cross_entropy(logits, targets, label_smoothing=0.1)

def numbers():
    from sklearn.datasets import load_digits
    digits = load_digits()
    return (digits.images / 16)[:600], digits.target[:600]
"""


@pytest.mark.slow
@pytest.mark.usefixtures("one_picture")
def test_code_of_ones_own_is_typed_and_never_read_out_of_a_file(
    cli: Cli, here: Cli, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    asked = ("--network", "mine:Net", "--epochs", "2", "--threads", "1", "--lr", "0.1")
    cli(
        "study",
        "--losses",
        "mine:robust,ce",
        "--rates",
        "0.2",
        "--noise",
        "sym",
        *asked[:-2],
        *("--seeds", "1", "--no-pictures"),
    )
    (study,) = tmp_path.glob("results/*")
    assert "mine:robust" in (study / "table.md").read_text()
    run = next(study.glob("runs/mine-robust_*"))
    assert "imported only where you type it" in cli("evaluate", str(run), code=2).stderr
    assert "test labels" in cli("evaluate", str(run), "--network", "mine:Net").stdout
    here("plot", "results/")  # reads the study, and imports nothing of it
    assert "mine" not in sys.modules
    shown = cli("train", "--dataset", "mine:numbers", *asked).stdout
    assert "on the given test labels" in shown
    for wrong, said in (
        (("--network", "mine:Nett"), "did you mean 'Net'"),
        (("--loss", "nowhere:robust"), "no module 'nowhere'"),
        (("--network", "torchvision:resnet19"), "resnet18"),
    ):
        line = cli("train", *wrong, "--epochs", "1", code=2).stderr
        assert said in line
        assert line.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completion_offers_the_losses_without_loading_torch(fresh_cli: Cli, shell: str) -> None:
    asked = {"_APL_COMPLETE": f"complete_{shell}", **SHELLS[shell]}
    done = fresh_cli(**asked, PYTHONPROFILEIMPORTTIME="1")
    offered = set(re.findall(r"[a-z_]+", done.stdout.replace("_arguments", "")))
    assert {"nce", "nce_mae", "nce_rce"} <= offered
    assert not {"ce", "mae", "nfl_rce"} & offered  # none of them begins with 'nce'
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert not {"torch", "matplotlib", "pandas", "apl.training.train"} & loaded


def test_completion_can_be_installed(cli: Cli) -> None:
    assert "--install-completion" in cli("--help").stdout
    script = cli("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_APL_COMPLETE=complete_bash" in script.stdout


# ----------------------------------------------------------------------------- in 80 columns

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()


def shown(*what: RenderableType) -> list[str]:
    """The lines of something in a terminal of 80 columns, nothing of which is cut or wrapped."""
    console = Console(width=80, highlight=False, soft_wrap=True)
    with console.capture() as taken:
        for each in what:
            console.print(each)
    lines = [line.rstrip() for line in taken.get().splitlines()]
    assert max(map(len, lines)) <= 80
    head = re.compile(r"\s*class ")  # where names of classes may be cut
    assert not any("…" in line for line in lines if not head.match(line))
    return lines


def rows_of(lines: list[str], names: list[str]) -> list[list[str]]:
    rows = [line.split() for line in lines]
    return [row for row in rows if row and row[0] in names]


def a_result(count: int = 10, **fields: Any) -> Result:
    given: dict[str, Any] = {
        **{"collapsed": False, "reason": "", "too_short": False},
        **{"test_accuracy": 1.0, "train_accuracy": 0.9999, "memorised": 1.0, "recovered": 0.0},
        **{"corrupted": 50_000, "class_names": [*CIFAR10, *map(str, range(count))][:count]},
        **{"confusion": (1000 * np.eye(count, dtype=int)).tolist()},
        **{"transition": np.eye(count).tolist(), **fields},
    }
    return Result(**given)


@pytest.mark.slow
def test_a_study_in_no_terminal_says_that_it_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apl.cli.study, "QUIET_SECONDS", 0)
    words = "study --losses ce --noise sym --rates 0.4 --seeds 1 --no-pictures"
    done = CliRunner().invoke(app, [*words.split(), *FAST, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert re.search(r"^0/1.*: running ce_sym-0\.4_seed0.* epoch [0-3]$", done.output, re.M)


def test_tables_of_classes_fit_a_terminal() -> None:
    def lines(names: list[str], form: str) -> list[list[str]]:
        matrix = 100.0 * np.eye(len(names))
        matrix[1, 0] = 30
        shares = [f"{10 * k}.0%" for k in range(len(names))]
        table = class_table("title", names, ("share", shares), matrix, "most", form)
        return rows_of(shown(table), names)

    few = lines(CIFAR10, ".1f")
    assert few[1] == ["automobile", "10.0%", "30.0", "100.0", *"········"]
    assert [row[2 + k] for k, row in enumerate(few)] == ["100.0"] * 10
    many = lines([f"class{k}" for k in range(20)], ".0f")
    assert [row[2:] for row in many[:3]] == [["·"], ["class0", "30"], ["·"]]


FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one sign


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize(
    "names",
    [
        ["golden retriever, of the field", "golden eagle", *CIFAR10[2:]],
        [
            "金毛寻回犬和它的朋友们",
            "사모예드",
            "кошка сибирская",
            "γάτα της γειτονιάς",
            "قطة",
            "猫",
        ],
        ["e\u0301" * 12, FAMILY * 9, "कि" * 15, "🇩🇪🇫🇷🇮🇹🇪🇸", "zero\u200dwidth", "x"],
        [f"a class with a long name, number {k}" for k in range(14)],
        [f"{k:02d}" for k in range(17)],
    ],
)
def test_names_of_classes_are_cut_only_where_there_is_no_room(names: list[str], width: int) -> None:
    matrix = np.full((len(names), len(names)), 12)
    shares = ["12.5%"] * len(names)
    made = class_table("t", names, ("right", shares), matrix, "most", "d", width)
    console = Console(file=io.StringIO(), width=width, soft_wrap=True)
    console.print(made)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(cell_len, lines)) <= width
    rows = [line for line in lines if "12.5%" in line]
    assert len(rows) == len(names)
    whole = sum(2 * cell_len(name) + 2 for name in names) if len(names) < 14 else 10**6
    if width == 200 and whole < 300:
        assert "…" not in "".join(lines)
        assert all(name in row for name, row in zip(names, rows, strict=True))
    # Columns end at the same cell, whatever the letters are as wide as.
    assert len({cell_len(row.rstrip()) for row in rows}) == 1


def test_a_name_is_cut_between_letters() -> None:
    assert shortened("golden retriever", 9) == "gold…ever"
    assert shortened("猫猫猫猫", 6) == "猫…猫"
    assert shortened("e\u0301" * 9, 4) == "e\u0301e\u0301…e\u0301"
    assert not shortened(FAMILY * 9, 15).replace(FAMILY, "").strip("…")
    for room in range(1, 12):
        for text in ("कि" * 9, "👍🏽" * 9, "قِطَّةٌ" * 3, "a\u200db" * 9):
            assert cell_len(shortened(text, room)) <= room


def test_the_noise_of_ten_classes_fits_a_terminal() -> None:
    config = make_config("paper", noise="sym", rate=0.8)
    # Every cell at its widest: each class has all labels, and one has a label throughout.
    given = np.tile(np.arange(10), 10)
    labels = Labels(np.r_[given, 3], np.r_[np.repeat(np.arange(10), 10), 9])
    table = rows_of(shown(noise_table(config, CIFAR10, labels)), CIFAR10)
    assert table[0] == ["airplane", "90.0", *["10.0"] * 10]
    assert len(table[9]) == 12
    flipped = Labels((given + 1) % 10, given)
    table = rows_of(shown(noise_table(config, CIFAR10, flipped)), CIFAR10)
    assert table[1] == ["automobile", "100.0", "·", "·", "100.0", *"·" * 7]


def test_the_scores_of_ten_classes_fit_a_terminal() -> None:
    confusion = np.full((10, 10), 1000)
    table = rows_of(shown(scores_table(CIFAR10, Scores.of(confusion))), CIFAR10)
    assert table[1] == ["automobile", "10.0%", *["1000"] * 10]
    right = rows_of(
        shown(scores_table(CIFAR10, Scores.of(10_000 * np.eye(10, dtype=int)))), CIFAR10
    )
    assert right[0] == ["airplane", "100.0%", "10000", *"·" * 9]


def test_a_result_says_what_is_known_and_what_is_not() -> None:
    nothing = {"memorised": math.nan, "recovered": math.nan}
    known = shown(result_table("NCE+RCE, last epoch", a_result()))
    assert any("accuracy on the clean test labels" in li and "100.00 %" in li for li in known)
    clean = shown(result_table("NCE+RCE, last epoch", a_result(**nothing)))
    assert sum("none wrong" in line for line in clean) == 2
    of_given = a_result(**nothing, transition=None, on="given")
    lines = shown(result_table("NCE+RCE, last epoch", of_given))
    assert any("accuracy on the given test labels" in line for line in lines)
    assert sum("unknown" in line for line in lines) == 2
    assert not any("clean" in line or "nan" in line for line in lines)
    # Nothing is said of a budget of which nobody knows what it memorised.
    assert verdicts(make_config(loss="ce"), of_given) == []


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["laptop", "paper", "quick"])
def test_a_study_of_nine_settings_fits_a_terminal(preset: str) -> None:
    cells = make_grid(preset, seeds=2)
    assert len({(cell.noise, cell.rate) for cell in cells}) == 9
    # Every state a cell can be in, at its widest.
    first = [cell for cell in cells if cell.seed == 0]
    bad = a_result(collapsed=True, reason="chance", test_accuracy=0.55)
    results = {cell.name: bad if cell.noise == "asym" else a_result() for cell in cells}
    missing = {cell.name for cell in cells if cell.seed == 1 and cell.loss == "ce"}
    results = {name: result for name, result in results.items() if name not in missing}
    running = {cell.name: {"epoch": cell.epochs} for cell in first if cell.noise == "sym"}
    failed = {cell.name: "it broke" for cell in first if cell.noise == "asym"}
    epochs = cells[0].epochs
    # The ellipsis is that of a cell that lacks a seed; nothing is cut.
    states = {"100.0", "100.0…", "55.0†", "55.0†…"}
    for at_work, broken in (({}, {}), (running, failed)):
        console = Console(width=80)
        with console.capture() as taken:
            console.print(study_table(cells, results, at_work, broken, 86_399.0))
        lines = [line.rstrip() for line in taken.get().splitlines() if line.strip()]
        assert max(map(len, lines)) <= 80
        title, above, below, _, *rows = [line.split() for line in lines]
        assert " ".join(title).endswith("23 h 59 min left; clean test accuracy in %")
        rates = [f"{cell.rate:g}" for cell in first if cell.noise != "none"][:: len(rows)]
        assert above == [*["sym"] * 4, *["asym"] * 4]
        assert below == ["loss", "none", *rates]
        assert [row[0] for row in rows] == [loss_label(cell.loss) for cell in first][: len(rows)]
        if broken:
            states = {"100.0", "100.0…", "failed", f"{epochs}/{epochs}"}
        assert {state for row in rows for state in row[1:]} == states
        assert {len(row) for row in rows} == {10}
