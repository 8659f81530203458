"""Tables that benchmarks wrote follow from their records, and pages show them as they are."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT

EVIDENCE = ROOT / "results" / "evidence"


@pytest.fixture
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of benchmarks/experiments, by its name; it may import what lies beside it."""
    for name in ("find", request.param):
        path = ROOT / "benchmarks" / "experiments" / f"{name}.py"
        spec = spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        made = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, made)  # a clone may have such a name, too
        spec.loader.exec_module(made)
    return made


def lines_of(record: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["find"], indirect=True)
def test_the_tables_of_wrong_labels_found_follow_from_their_records(script: ModuleType) -> None:
    folder = EVIDENCE / "find"
    rows = json.loads((folder / "find.json").read_text(encoding="utf-8"))
    shown = script.table([*rows, *script.means(rows)])
    assert (folder / "find.md").read_text(encoding="utf-8") == f"{shown}\n"
    shown = script.same_table(lines_of(folder / "folds.jsonl"))
    assert (folder / "folds.md").read_text(encoding="utf-8") == f"{shown}\n"
    assert shown in page("find-evidence.md")


@pytest.mark.parametrize("script", ["find_probs"], indirect=True)
def test_the_tables_of_other_models_follow_from_their_record(script: ModuleType) -> None:
    folder = EVIDENCE / "find"
    rows = json.loads((folder / "find-probs.json").read_text(encoding="utf-8"))
    shown = script.means(rows)
    assert (folder / "find-probs.md").read_text(encoding="utf-8") == f"{shown}\n"
    assert "\n".join(shown.split("\n")[:10]) in page("find-evidence.md")


@pytest.mark.parametrize("script", ["find_features"], indirect=True)
def test_the_tables_on_features_follow_from_their_record(script: ModuleType) -> None:
    folder = EVIDENCE / "find-features"
    lines = lines_of(folder / "rows.jsonl")
    tables = [script.table(lines), script.same_table(lines)]
    assert (folder / "find.md").read_text(encoding="utf-8") == "{}\n\n{}\n".format(*tables)
    for shown in tables:
        assert shown in page("features.md")


@pytest.mark.parametrize("script", ["head_defaults"], indirect=True)
def test_the_table_of_heads_follows_from_its_record(script: ModuleType) -> None:
    folder = EVIDENCE / "head-defaults"
    shown = script.table(lines_of(folder / "rows.jsonl"))
    assert (folder / "heads.md").read_text(encoding="utf-8") == f"{shown}\n"
    assert shown in page("features.md")


def rows(text: str) -> list[Counter[float]]:
    """The numbers of each row of the tables in a text, whatever the words beside them."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    found = [Counter(map(float, re.findall(r"\d*\.?\d+", line))) for line in lines]
    return [numbers for numbers in found if numbers]


# What makes a table, and the page that shows its figures, perhaps in other words and another order.
SHOWN = {
    "laptop_search": ("describe", "docs/laptop-search.csv", "laptop-preset.md"),
    "own_defaults": ("table", "docs/own-defaults.csv", "own-data.md"),
    "given_up": ("table", "docs/given-up.csv", "warm-start.md"),
    "repair": ("table", "results/evidence/repair/repair.csv", "repair.md"),
}


@pytest.mark.parametrize("script", SHOWN, indirect=True)
def test_the_figures_of_a_page_follow_from_its_csv(script: ModuleType) -> None:
    function, file, shown = SHOWN[script.__name__]
    if script.__name__ == "repair":  # whose rows end with bars, and begin with how many seeds
        with open(ROOT / file, encoding="utf-8", newline="") as lines:
            made = getattr(script, function)(list(csv.DictReader(lines)))
        cells = [line.split("|") for line in made.splitlines()]
        made = "\n".join("|".join(row[:2] + row[3:7]) for row in cells)
    else:
        made = getattr(script, function)(pd.read_csv(ROOT / file))
    there = rows(page(shown))
    lacking = [found for found in rows(made) if not any(found <= row for row in there)]
    assert len(rows(made)) > 4
    assert lacking == []


@pytest.mark.slow
@pytest.mark.parametrize("script", ["scale"], indirect=True)
def test_the_tables_of_scale_follow_from_their_records(script: ModuleType) -> None:
    for study in ("cifar10-sweep", "mnist-sweep"):
        for table in script.tables(script.cells(EVIDENCE / study)).split("\n\n"):
            assert table in page("scale.md")


TUNED = (
    *("cifar10-lite0-linear", "cifar10-lite0-mlp", "digits-tuned", "mnist-tuned"),
    *("cifar10-pixels-tuned", "banking77-tfidf"),
)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["regret"], indirect=True)
def test_the_regret_of_rules_follows_from_the_records(script: ModuleType) -> None:
    shown = page("which-loss.md")
    assert script.table([EVIDENCE / name for name in TUNED]) in shown
    assert script.table(script.USUAL) in page("laptop-preset.md")
    table = (EVIDENCE / TUNED[0] / "table.md").read_text(encoding="utf-8")
    accuracies = rows(table[table.index("| Method") :].split("\n\n")[0])
    assert len(accuracies) > 7
    assert all(found in rows(shown) for found in accuracies)
