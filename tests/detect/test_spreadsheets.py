"""What a spreadsheet would run is written so that it does not, and comes back as it was."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given as given_
from hypothesis import strategies as st

from apl.data.decisions import read_labels, rename_decisions
from apl.detect.evidence import Evidence, find_issues
from apl.detect.review import ISSUES, write_review
from apl.files import harmless, table_bytes, unharmed

NAMES = [
    '=HYPERLINK("http://x","y").png',
    "+1+cmd|' /C calc'!A0",
    "-2+3.png",
    "@SUM(A1)",
    "'=quoted",
    "''=twice",
    "'plain",
    "plain",
    "-1.5",
    "+3e8",
]


@given_(st.text())
def test_a_text_comes_back_as_it_was(text: str) -> None:
    assert unharmed(harmless(text)) == text


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_begins_like_a_formula(name: str) -> None:
    written = table_bytes(["a"], [[name]]).decode()
    cell = next(csv.reader(io.StringIO(written.split("\n", 1)[1])))[0]
    assert cell[0] not in "=@"
    assert cell[0] not in "+-" or cell[1].isdecimal()
    assert (cell == name) == (name in ("'plain", "plain", "-1.5", "+3e8"))


def test_findings_and_decisions_come_back(tmp_path: Path) -> None:
    classes = ("=cat", "-dog", "3")
    given = np.arange(len(NAMES)) % 3
    probs = np.eye(3)[(given + (np.arange(len(NAMES)) == 2)) % 3] * 0.91 + 0.03
    findings = find_issues(given, Evidence.of(probs), classes)
    write_review(tmp_path, findings, class_names=classes, names=NAMES, pixels=None)
    said = read_labels(tmp_path / ISSUES, given, classes, NAMES)
    assert not said.decided.any()  # an issues.csv as it was written corrects nothing
    rows = [[name, "fix", classes[(k + 1) % 3]] for k, name in enumerate(NAMES)]
    path = tmp_path / "decisions.csv"
    path.write_bytes(table_bytes(["file_name", "decision", "label"], rows))
    assert read_labels(path, given, classes, NAMES).labels.tolist() == ((given + 1) % 3).tolist()
    moved = [f"={name}" for name in NAMES]
    now = dict(zip(NAMES, moved, strict=True))
    assert read_labels(path, given, classes, moved, now).decided.all()
    rename_decisions(path, tmp_path / "now.csv", now)
    assert read_labels(tmp_path / "now.csv", given, classes, moved).decided.all()
