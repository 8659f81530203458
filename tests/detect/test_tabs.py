"""A data set's health in the gallery: a tab a check, and what is decided there carried out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from conftest import PATIENCE, Cli
from PIL import Image

from apl.data.decisions import read_labels
from apl.detect.evidence import Findings, Rate
from apl.detect.health import Health
from apl.detect.review import write_review
from apl.detect.tabs import tabs_of

CLASSES = ("кошки", "船", "طائرات")
COUNT = 9
GIVEN = np.arange(COUNT) % 3
NAMES = tuple(f"{CLASSES[k]}/{i}.png" for i, k in enumerate(GIVEN))


def findings(*flagged: int) -> Findings:
    """Nine labels, of which some are flagged as the class before."""
    issue = np.isin(np.arange(COUNT), flagged)
    return Findings(
        is_label_issue=issue,
        label_score=np.where(issue, 0.1, 0.9),
        given_label=GIVEN,
        predicted_label=np.where(issue, (GIVEN + 2) % 3, GIVEN),
        noise_rate=Rate(0.1, 0.0, 0.2),
        transition=np.eye(3),
        doubts=[],
    )


def health(**flags: list[int]) -> Health:
    """Copies {0, 3, 4} and {7, 8}, the second nearer, and what is flagged by other checks."""
    copies = np.array([0, -1, -1, 0, 0, -1, -1, 7, 7])
    near = np.where(copies < 0, 0.9, np.where(copies == 7, 0.1, 0.2))
    issues = {name: np.isin(np.arange(COUNT), rows) for name, rows in flags.items()}
    scores = {name: np.linspace(0.9, 0.1, COUNT) for name in flags}
    return Health(
        {"near_duplicate": copies >= 0, **issues}, {"near_duplicate": near, **scores}, copies
    )


class Cards(HTMLParser):
    """The cards of a page, the tabs that it offers, and the links to those on other pages."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.cards: dict[int, dict[str, str | None]] = {}
        self.tabs: list[str] = []
        self.links: list[str] = []
        self.feed(html)
        found = re.search(r'id="groups">(.*?)</script>', html, re.S)
        assert found is not None
        self.groups: dict[str, list[list[int]]] = json.loads(found[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "data-id" in given:
            self.cards[int(given["data-id"] or "")] = given
        if tag == "button" and "data-tab" in given:
            self.tabs.append(given["data-tab"] or "")
        if tag == "a" and "#" in (given.get("href") or "") and given["href"] != "#":
            self.links.append(given["href"] or "")


def pages(folder: Path, found: Findings, seen: Health | None, **more: Any) -> list[str]:
    pixels = np.zeros((COUNT, 8, 8, 3), np.uint8)
    write_review(
        folder, found, class_names=CLASSES, names=NAMES, pixels=pixels, health=seen, **more
    )
    files = sorted(folder.glob("gallery*.html"), key=lambda file: (len(file.name), file.name))
    return [file.read_text(encoding="utf-8") for file in files]


def test_each_check_has_a_tab_and_copies_stand_side_by_side(tmp_path: Path) -> None:
    (html,) = pages(tmp_path, findings(3, 5), health(outlier=[1, 6], dark=[6], blurry=[]))
    page = Cards(html)
    assert page.tabs == ["labels", "near_duplicate", "outlier", "dark"]
    # The nearest first, and of a group those first whose label is not doubted.
    assert page.groups == {
        "near_duplicate": [[7, 8], [0, 4, 3]],
        "outlier": [[6], [1]],
        "dark": [[6]],
    }
    assert list(page.cards)[:2] == [3, 5]
    assert sorted(page.cards) == [0, 1, 3, 4, 5, 6, 7, 8]
    assert page.cards[3]["data-suggested"] == CLASSES[2]
    assert page.cards[6]["data-suggested"] == ""  # nobody doubts its label
    for count in ("Near copies<b>5</b>", "No class<b>2</b>", "Dark<b>1</b>"):
        assert count in html


def test_a_gallery_without_health_has_no_tabs_and_one_without_flags_has_them(
    tmp_path: Path,
) -> None:
    (html,) = pages(tmp_path, findings(3), None)
    assert Cards(html).tabs == []
    (html,) = pages(tmp_path, findings(), health())
    page = Cards(html)
    assert page.tabs == ["labels", "near_duplicate"]
    assert "No label is flagged" in html


def test_tabs_that_do_not_fit_beside_the_labels_have_pages_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apl.detect.gallery.PER_PAGE", 4)
    found = pages(tmp_path, findings(3, 5, 6), health(outlier=[1, 6]))
    read = [Cards(html) for html in found]
    assert [list(page.cards) for page in read] == [[3, 5, 6], [7, 8], [0, 4, 3, 6], [1]]
    assert [page.groups for page in read] == [
        {},
        {"near_duplicate": [[7, 8]]},
        {"near_duplicate": [[0, 4, 3]], "outlier": [[6]]},
        {"outlier": [[1]]},
    ]
    assert read[0].links == ["gallery-2.html#near_duplicate", "gallery-3.html#outlier"]
    monkeypatch.setattr("apl.detect.gallery.PER_PAGE", 500)
    monkeypatch.setattr("apl.detect.tabs.MOST", 2)
    (html,) = pages(tmp_path, findings(), health())
    assert Cards(html).groups == {"near_duplicate": [[7, 8]]}
    assert "3 more stand in issues.csv" in html


def test_what_was_decided_is_not_asked_again() -> None:
    found = findings(3)
    seen = health(outlier=[1, 6])
    left = {tab.key: tab.groups for tab in tabs_of(seen, found, {8: "drop", 4: "keep", 1: "keep"})}
    # 7 alone is left of its two; of three 0 and 3 are still alike, and like the one kept.
    assert left == {"near_duplicate": ((0, 3),), "outlier": ((6,),)}
    assert tabs_of(seen, found, dict.fromkeys(range(COUNT), "drop")) == []


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "фото"
    for i, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, i, i)).save(root / name)
    return root


SAVED = "id,file_name,decision,label,given_label,predicted_label,label_score\n"


def test_apply_carries_out_what_was_decided_in_the_tabs(photos: Path, cli: Cli) -> None:
    """As the page saves it: samples whose label nobody doubted, without a suggestion."""
    file = photos.parent / "decisions.csv"
    rows = [
        f"8,{NAMES[8]},drop,,{CLASSES[2]},,0.9",  # a copy
        f"7,{NAMES[7]},keep,{CLASSES[1]},{CLASSES[1]},,0.9",
        f"6,{NAMES[6]},drop,,{CLASSES[0]},,0.9",  # of no class
        f"1,{NAMES[1]},fix,{CLASSES[0]},{CLASSES[1]},,0.9",  # dark, and of another class
    ]
    file.write_text(SAVED + "\n".join(rows) + "\n", encoding="utf-8")
    cleaned = photos.parent / "чисто"
    cli("apply", str(photos), "--decisions", str(file), "--to", str(cleaned), "--yes")
    there = {str(path.relative_to(cleaned)) for path in cleaned.rglob("*.png")}
    moved = {NAMES[1]: f"{CLASSES[0]}/1.png"}
    assert there == {moved.get(name, name) for name in NAMES if name not in (NAMES[6], NAMES[8])}


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVE = """
<script>
addEventListener("error", (event) => { document.body.dataset.error = event.message; });
URL.createObjectURL = (blob) => {
  blob.text().then((text) => { document.body.dataset.saved = text; });
  return "data:,";
};
HTMLAnchorElement.prototype.click = () => {};
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true }));
const click = (what) => document.querySelector(what).click();
%s
press("s");
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize(
    ("steps", "decided", "handed"),
    [
        # The rest of the nearest group goes; the one that stays is still to be judged.
        ('click("[data-tab=near_duplicate]"); click(".group button");', {8: "drop"}, ""),
        # What was decided on another page, whose link led here.
        (
            'click("[data-do=keep]");',
            {3: "keep", 6: "drop"},
            f'{{"6": [6, "{NAMES[6]}", "drop", "", "{CLASSES[0]}", "", 0.9]}}',
        ),
        (
            'click("[data-tab=near_duplicate]"); click(".group button"); click("#undo");'
            ' click("[data-tab=outlier]"); click(".card:not([hidden]) [data-do=drop]");'
            ' press("1");',
            {6: "drop", 1: "keep"},
            "",
        ),
    ],
)
def test_tabs_decide_in_a_browser(
    tmp_path: Path, steps: str, decided: dict[int, str], handed: str
) -> None:
    (html,) = pages(tmp_path, findings(3, 5), health(outlier=[1, 6]))
    page = tmp_path / "driven.html"
    page.write_text(html.replace("</body>", DRIVE % steps), encoding="utf-8")
    assert CHROMIUM is not None
    flags = "--headless --no-sandbox --disable-gpu --virtual-time-budget=3000 --dump-dom".split()
    command = [
        CHROMIUM,
        *flags,
        f"--user-data-dir={tmp_path / 'profile'}",
        page.as_uri() + (f"#tab=&decided={quote(handed)}" if handed else ""),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    body: dict[str, str | None] = {}

    class Body(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "body":
                body.update(attrs)

    Body().feed(done.stdout)
    assert "data-error" not in body
    file = tmp_path / "decisions.csv"
    file.write_text(body["data-saved"] or "", encoding="utf-8")
    read = read_labels(file, GIVEN, CLASSES, NAMES)
    words = {i: word for i, word in enumerate(read.words(GIVEN)) if word}
    assert words == decided
