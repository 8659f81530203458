"""Each command as a user runs it: a subprocess in an empty folder, good input and bad."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, Cli
from rich.console import Console

from apl import LOSSES
from apl.cli import class_table
from apl.data.sources import SOURCES

FAST = ("--train-size", "300", "--epochs", "3", "--threads", "1")
COMMANDS = (
    *("noise", "train", "evaluate", "study", "plot", "report"),
    *("losses", "datasets", "doctor", "verify"),
)


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

    shown = cli("plot", "results/").stdout
    assert "NCE+RCE" in shown
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


def test_train_again_shows_the_finished_run(cli: Cli, tmp_path: Path) -> None:
    cli("train", *FAST)
    (result,) = tmp_path.glob("results/*/runs/*/result.json")
    before = result.stat().st_mtime_ns
    assert "epoch   1/3" not in cli("train", *FAST).stdout
    assert result.stat().st_mtime_ns == before


def test_study_ends_with_table_and_pictures(cli: Cli, tmp_path: Path) -> None:
    arguments = ("--losses", "ce,2*nce + 0.5*mae", "--noise", "none,sym", "--rates", "0.4", *FAST)
    shown = cli("study", *arguments, "--seeds", "2").stdout
    assert "8 cells in results/digits-quick" in shown
    assert "8/8" in shown
    study = tmp_path / "results/digits-quick"
    assert len(pd.read_csv(study / "summary.csv")) == 8
    assert (study / "pictures/accuracy_vs_rate.svg").exists()
    again = cli("study", *arguments, "--seeds", "2", "--no-pictures").stdout
    assert "8 cells" in again


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


def test_a_collapsed_run_exits_1_and_says_why(cli: Cli) -> None:
    done = cli("train", "--lr", "0", *FAST, code=1)
    assert "collapsed (" in done.stdout
    assert "has not learned" in done.stdout


def test_noise_past_the_bound_is_warned_about(cli: Cli) -> None:
    done = cli("noise", "--type", "sym", "--rate", "0.95")
    assert "at or past the bound" in done.stderr


def test_losses_and_datasets_list_everything(cli: Cli) -> None:
    shown = cli("losses").stdout
    assert all(name in shown for name in LOSSES)
    shown = cli("datasets").stdout
    assert all(name in shown for name in SOURCES)
    assert "laptop" in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_and_exits_0(cli: Cli, command: str) -> None:
    shown = cli(command, "--help").stdout
    assert f"apl {command}" in shown
    assert "Example" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--loss", "nce_rcx"), "did you mean 'nce_rce'"),
        (("train", "--lr", "fast"), "Invalid value for '--lr'"),
        (("train", "--rate", "1.5"), "between 0 and 1, got 1.5"),
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
        (("report", "."), ". is no study: it has no finished run and no summary.csv"),
        (("report", ".", "--out", "."), "out is ., a folder; accepted: the name of a file"),
        (("evaluate", "nowhere"), "there is no run folder nowhere"),
        (("evaluate", ".", "--labels", "dirty"), "labels is 'dirty'; accepted: clean, noisy"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    cli: Cli, arguments: tuple[str, ...], message: str
) -> None:
    done = cli(*arguments, code=2)
    assert message in done.stderr
    assert done.stderr.startswith("apl: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout


def test_cifar10_noise_as_a_user_would_make_it(cli: Cli, cifar10: str, tmp_path: Path) -> None:
    shown = cli("noise", "--dataset", cifar10, "--type", "asym", "--rate", "0.4").stdout
    assert "truck" in shown
    with np.load(tmp_path / "results/noise/cifar10_asym-paper-0.4_seed0.npz") as file:
        assert len(file["clean"]) == 50_000
        assert abs(file["mask"].mean() - 0.2) < 0.005
    cli("noise", "--dataset", cifar10, "--type", "human", "--map", "aggre")
    with np.load(tmp_path / "results/noise/cifar10_human-aggre_seed0.npz") as file:
        assert abs(file["mask"].mean() - 0.0901) < 0.0005


def test_python_m_apl_and_cli_py_are_the_same_command(cli: Cli) -> None:
    module = subprocess.run(
        [sys.executable, "-m", "apl", "losses"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert module.stdout == cli("losses").stdout


def test_doctor_and_static_bench_say_what_is_there(cli: Cli) -> None:
    shown = cli("doctor").stdout
    assert all(word in shown for word in ("torch", "triton", "loss backend auto", "data folder"))
    done = cli("bench", "kernels", "--static", "--arch", "75", code=2)
    assert "arch is 75; accepted: 80, 90, 100" in done.stderr or "needs triton" in done.stderr


def test_tables_of_classes_fit_a_terminal() -> None:
    def lines(names: list[str], form: str) -> list[list[str]]:
        matrix = 100.0 * np.eye(len(names))
        matrix[1, 0] = 30
        shares = [f"{10 * k}.0%" for k in range(len(names))]
        console = Console(width=80)
        with console.capture() as shown:
            console.print(class_table("title", names, ("share", shares), matrix, "most", form))
        rows = [line.split() for line in shown.get().splitlines()]
        return [row for row in rows if row and row[0] in names]

    cifar10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
    few = lines(cifar10, ".1f")
    assert few[1] == ["automobile", "10.0%", "30.0", "100.0", *"········"]
    assert [row[2 + k] for k, row in enumerate(few)] == ["100.0"] * 10
    many = lines([f"class{k}" for k in range(20)], ".0f")
    assert [row[2:] for row in many[:3]] == [["·"], ["class0", "30"], ["·"]]
