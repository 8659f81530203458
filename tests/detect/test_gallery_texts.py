"""Texts and rows in the gallery and the lists, and the samples that are most like one."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from apl.data.tables import shown_cells, shown_lines
from apl.detect import neighbours
from apl.detect.evidence import Findings, Rate
from apl.detect.gallery import FOLD, Looks
from apl.detect.review import write_review

CLASSES = ("плохо", "хорошо")
TEXTS = (
    "<script>alert(1)</script> & so on",
    "فيلم رائع جدا 🙂",
    "=cmd|' /C calc'!A0",
    "слово " * 2000 + "конец",
    "\u202e turned around",
)


def findings() -> Findings:
    """Five labels, all flagged."""
    return Findings(
        is_label_issue=np.ones(5, bool),
        label_score=np.array([0.1, 0.2, 0.3, 0.4, 0.5]),
        given_label=np.array([0, 1, 0, 1, 0]),
        predicted_label=np.array([1, 0, 1, 0, 1]),
        noise_rate=Rate(0.4, 0.3, 0.5),
        transition=np.full((2, 2), 0.5),
        doubts=[],
    )


class Texts(HTMLParser):
    """The text of each element that has a direction, and the tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.said: list[str] = []
        self.tags: list[str] = []
        self.inside = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if dict(attrs).get("dir") == "auto":
            self.inside += 1
            self.said.append("")

    def handle_endtag(self, tag: str) -> None:
        if self.inside and tag in ("p", "summary", "dd", "bdi"):
            self.inside -= 1

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.said[-1] += data


def test_texts_stand_in_the_gallery_as_they_are_and_run_nothing(tmp_path: Path) -> None:
    cells = {i: [("stars", str(i)), ("<b>", "'\"")] for i in range(5)}
    looks = Looks(
        texts=TEXTS,
        cells=lambda chosen: {i: cells[i] for i in chosen},
        nearest=lambda chosen: np.array([[(i + 1) % 5] for i in chosen.tolist()]),
    )
    write_review(tmp_path, findings(), class_names=CLASSES, pixels=None, looks=looks)
    html = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    page = Texts(html)
    assert {*TEXTS} <= {*page.said}
    assert TEXTS[3][:FOLD] + "…" in page.said  # folded, and whole
    assert page.tags.count("details") == 2 + 1  # those of the page's own
    assert page.tags.count("script") == 5  # of the page's own: data and code
    assert "img" not in "".join(re.findall(r"<li class=.card.*?</li>", html, re.S))
    assert "<script>alert" not in html
    near = re.findall(r"<b>(.*?)</b> <bdi dir=.auto.>(.*?)</bdi>", html)
    assert near[0] == ("хорошо", "فيلم رائع جدا 🙂")  # beside the first one
    assert len(near) == 5
    table = pd.read_csv(tmp_path / "issues.csv")
    assert list(table["text"])[:3] == [TEXTS[0], TEXTS[1], f"'{TEXTS[2]}"]
    assert len(table["text"][3]) == 2000


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_page_with_texts_is_javascript(tmp_path: Path) -> None:
    write_review(tmp_path, findings(), class_names=CLASSES, pixels=None, looks=Looks(texts=TEXTS))
    html = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    (code,) = re.findall(r"<script>\n(.*?)</script>", html, re.S)
    (tmp_path / "page.js").write_text(code, encoding="utf-8")
    subprocess.run(["node", "--check", str(tmp_path / "page.js")], check=True)


def test_the_neighbours_of_some_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(101, 6)).astype(np.float16))
    wanted, _ = neighbours.neighbours(rows, 3)
    asked = np.array([99, 7, 0])
    monkeypatch.setattr(neighbours, "BLOCK_BYTES", 4 * 101 * 2)  # two at a time
    assert np.array_equal(neighbours.neighbours(rows, 3, asked=asked)[0], wanted[asked])
    assert neighbours.neighbours(rows, 3, asked=asked[:0])[0].shape == (0, 3)


def test_the_cells_of_rows_are_read_as_they_were(tmp_path: Path) -> None:
    columns = {"a": [1.5, None, 3], "имя": ["x", "a\nb", "\ud83d"]}
    wide = {f"c{i}": [i, i, i] for i in range(50)}
    file = tmp_path / "cells.jsonl"
    file.write_bytes(b"".join(shown_lines(columns, [2, 0, 1], 2)))
    found = shown_cells(str(file), [(False, 1), (True, 0), (True, 7)])
    assert found == {
        (False, 1): [("a", "1.5"), ("имя", "x")],
        (True, 0): [("a", ""), ("имя", "a\nb")],
    }
    file.write_bytes(b"".join(shown_lines(wide, [0], 1)))
    ((*_, last),) = shown_cells(str(file), [(False, 0)]).values()
    assert last == ("and 10 more columns", "")
