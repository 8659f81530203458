"""What each command says may be typed next: pasted into a shell there, it runs."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apl.cli.after import typed

Run = Callable[..., Any]
QUICK = tuple("--epochs 2 --batch-size 16 --network mlp --width 8 --device cpu".split())
PHOTOS = "мои фото's/"


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / PHOTOS
    for k, name in enumerate(("кот", "-пёс")):
        (root / name).mkdir(parents=True)
        for i in range(40):
            pixels = np.random.default_rng(100 * k + i).integers(0, 100, (8, 8, 3))
            Image.fromarray((pixels + 156 * k).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def next_of(said: str) -> list[tuple[str, ...]]:
    """The commands among the last two lines, without `apl`."""
    found = [re.search(r"(?:^|: )(apl .+)$", line) for line in said.splitlines()[-2:]]
    return [tuple(shlex.split(each[1])[1:]) for each in found if each]


@pytest.mark.slow
def test_one_command_leads_to_the_next(tmp_path: Path, here: Run) -> None:
    ((*train, _),) = next_of(here("find", PHOTOS, *QUICK).stdout)
    findings = tmp_path / "results" / "мои-фото-s-find"
    assert train == ["train", "--dataset", PHOTOS, "--labels"]
    with (findings / "issues.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    with (findings / "decisions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["file_name", "decision"], [row["file_name"], "drop"]])
    apply, gained = next_of(here("find", PHOTOS, *QUICK).stdout)
    assert gained == (*train, str(findings.relative_to(tmp_path) / "decisions.csv"))
    evaluate, _ = next_of(here(*gained, *QUICK).stdout)
    assert evaluate[0] == "evaluate"
    (report,) = next_of(here(*evaluate).stdout)
    assert "python3 -m webbrowser file://" in here(*report).stdout.splitlines()[-1]
    (do_it,) = next_of(here(*apply).stdout)
    assert do_it == (*apply, "--yes")
    undo, find = next_of(here(*do_it).stdout)
    assert len([*(tmp_path / "мои фото's-cleaned").rglob("*.png")]) == 79
    here(*find, *QUICK)
    # The place is taken by now, so that the same is suggested elsewhere.
    assert next_of(here("find", PHOTOS, *QUICK).stdout)[0][-1] == "мои фото's-cleaned2"
    here(*undo)
    study = ("study", "--dataset", PHOTOS, "--losses", "ce", "--noise", "none", "--seeds", "1")
    study = (*study, "--no-pictures", "--workers", "1", *QUICK)
    report, find = next_of(here(*study).stdout)
    assert find == ("find", PHOTOS)
    assert next_of(here("plot", report[1]).stdout) == [report]


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked", [("losses",), ("losses", "2*nce + mae"), ("doctor",), ("datasets",), ("cache",)]
)
def test_what_lists_leads_to_what_runs(here: Run, asked: tuple[str, ...]) -> None:
    for command in next_of(here(*asked).stdout):
        here(*command, "--help")
        if command[0] in ("losses", "cache"):
            here(*command)


@pytest.mark.slow
def test_labels_lead_to_a_training_on_them(here: Run) -> None:
    (train,) = next_of(here("noise", "--rate", "0.3", "--seed", "4").stdout)
    assert train == ("train", "--loss", "nce_rce", "--rate", "0.3", "--seed", "4")


@pytest.mark.slow
def test_a_training_that_failed_leads_to_one_that_may_not(here: Run) -> None:
    ask = ("train", "--dataset", PHOTOS, *QUICK, "--features", "none", "--clip", "0")
    again, _ = next_of(here(*ask, "--lr", "1e30", code=1).stdout)
    assert again == (*ask, "--lr", "1e+29")


def test_options_are_typed_as_they_were_given() -> None:
    given = {"skip": "-x,y", "download": False, "rate": 0.25, "classes": "a b", "loss": None}
    words = ["--skip=-x,y", "--no-download", "--rate", "0.25", "--classes", "a b"]
    assert typed(given) == words
    assert typed(given, ("rate",)) == ["--rate", "0.25"]
