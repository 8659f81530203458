"""The report, from made-up results that look like real ones, written as a study writes them."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import Cli
from PIL import Image
from test_plots import GRID, TWELVE, study

from apl.config import make_config
from apl.errors import BadInput
from apl.losses import LOSSES
from apl.report.claims import CLAIMS
from apl.report.page import make_report, read_material
from apl.report.pictures import draw_study, look
from apl.report.published import published_table
from apl.runs import HISTORY_COLUMNS, read_study, write_history, write_json, write_summary

ENVIRONMENT = {"device": "cpu", "python": "3.12.1", "torch": "2.9.0", "git_commit": "0123abc"}
RESULT = """collapsed reason too_short test_accuracy train_accuracy memorised recovered class_names
per_class_accuracy confusion transition""".split()


def write_study(folder: Path, summary: pd.DataFrame, histories: pd.DataFrame) -> Path:
    """The run folders and the summary.csv that made-up runs would have left."""
    for row in summary.to_dict("records"):
        config = make_config(
            **{name: row[name] for name in ("preset", "dataset", "loss", "noise", "map", "rate")},
            seed=int(row["seed"]),
        )
        run = folder / "runs" / config.name
        run.mkdir(parents=True)
        content = {"config": config.__dict__, "environment": ENVIRONMENT}
        write_json(run / "config.json", {"format": 1, **content})
        corrupted = int(10_000 * row["rate"])
        result = {name: row[name] for name in RESULT}
        write_json(run / "result.json", {"format": 1, **result, "corrupted": corrupted})
        history = histories[histories["run"] == row["run"]]
        write_history(run / "history.csv", history[list(HISTORY_COLUMNS)].to_dict("records"))
    write_summary(folder)
    return folder


class Page(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, dict[str, list[str]]] = {}
        self.text = ""
        self._rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag == "small" and self._rows:
            self._rows[-1][-1] += "|"

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        if tag == "caption":
            self._caption = self.text.splitlines()[-1].strip()
        elif tag == "table":
            self.tables[self._caption] = {row[0]: row[1:] for row in self._rows}

    def handle_data(self, data: str) -> None:
        if {"script", "style"} & set(self._open):
            return
        self.text += f"\n{data}" if "caption" in self._open else data
        if {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A study of 12 losses, 9 settings and 3 seeds with a collapsed run, and its page."""
    summary, histories = study(seeds=(0, 1, 2), collapse=("mae", "sym", 0.8, 2))
    (dead,) = summary.index[summary["collapsed"]]
    summary.at[dead, "confusion"] = [[1000 * (k == 3) for k in range(10)]] * 10
    folder = tmp_path_factory.mktemp("results") / "cifar10-laptop"
    write_study(folder, summary, histories)
    return folder, make_report(read_material(folder)).html


SMALL: dict[str, Any] = {"losses": ["ce", "nce_rce"], "seeds": (0, 1)}


def page_of(folder: Path) -> Page:
    return Page(make_report(read_material(folder)).html)


ACCURACY = "Accuracy on clean test labels after the last epoch, in %"


@pytest.mark.xdist_group("report")
def test_the_whole_study_is_in_the_page(whole: tuple[Path, str]) -> None:
    folder, html = whole
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert page.named("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.named("meta"))
    assert "cifar10-laptop: report of an apl study" in html

    summary, _ = read_study(folder)
    table = page.tables[ACCURACY]
    published = published_table("cifar10")
    assert published is not None
    theirs = published.set_index(["method", "noise", "rate"])
    for column, (noise, _, rate) in enumerate(GRID):
        here = summary[(summary["noise"] == noise) & (summary["rate"] == rate)]
        groups = 100 * here.groupby("loss")["test_accuracy"].agg(["mean", "std"])
        for loss in TWELVE:
            mean, std = groups.loc[loss]
            ours, _, below = table[LOSSES[loss].label][column].partition("|")
            dead = (loss, noise, rate) == ("mae", "sym", 0.8)
            assert ours == f"{mean:.2f} ± {std:.2f}" + "†" * dead
            if (loss, noise, rate) in theirs.index:
                row = theirs.loc[(loss, noise, rate)]
                assert below.startswith(f"{row['mean']:.2f}")
                assert row["paper"] in page.text
    assert html.count("<strong>") == len(GRID)

    for score in ("Memorised: ", "Recovered: ", "Accuracy on the training labels"):
        (found,) = (t for caption, t in page.tables.items() if caption.startswith(score))
        assert set(found) == {"Method", *(LOSSES[loss].label for loss in TWELVE)}
    per_class = [c for c in page.tables if c.startswith("Accuracy of each class in %")]
    assert len(per_class) == len(GRID)
    given_up = page.tables["Accuracy of each class in %, sym 0.8"]["MAE"]
    assert ["∅ 1/3" in cell for cell in given_up] == [k != 3 for k in range(10)]
    assert page.tables["Collapsed runs"]["MAE"] == ["sym 0.8", "2", "one-class"]
    for idea in {claim.idea for claim in CLAIMS}:
        assert idea in page.tables
    assert "apl study --preset laptop\napl report results/cifar10-laptop" in page.text
    assert "324 of the 324 cells" in page.text
    assert "torch 2.9.0" in page.text


@pytest.mark.xdist_group("report")
def test_the_agreement_is_told_by_kind_of_noise(whole: tuple[Path, str]) -> None:
    table = Page(whole[1]).tables[
        "Pairs in the same order less pairs in the reverse one, as a share of all pairs"
    ]
    kinds = [
        table[f"All papers, {name}"]
        for name in ("clean labels", "symmetric noise", "asymmetric noise")
    ]
    everything = table["All papers, each within itself"]
    for share, pairs in ((0, 1), (2, 3)):
        counts = [int(row[pairs]) for row in kinds]
        assert sum(counts) == int(everything[pairs])
        mean = sum(float(row[share]) * n for row, n in zip(kinds, counts, strict=True))
        assert mean / sum(counts) == pytest.approx(float(everything[share]), abs=0.011)


@pytest.mark.xdist_group("report")
def test_every_picture_is_embedded_and_nothing_is_loaded(whole: tuple[Path, str]) -> None:
    folder, html = whole
    page = Page(html)
    with look():
        names = [name for name, _ in draw_study(*read_study(folder))]
    pictures = page.named("img")
    assert len(pictures) == len(names)
    for picture in pictures:
        head, _, data = str(picture["src"]).partition(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert min(image.size) > 300
        assert len(str(picture["alt"])) > 40
    links = {value for _, attributes in page.tags for value in [attributes.get("href")] if value}
    ids = {f"#{attributes['id']}" for _, attributes in page.tags if "id" in attributes}
    assert links <= ids  # within the page, and each leads somewhere
    assert not page.named("link")
    assert all("src" not in script for script in page.named("script"))
    without = re.sub(r"base64,[A-Za-z0-9+/=]*", "", html)
    assert not re.search(r"https?:|url\(|@import|//cdn", without)
    assert len(html.encode()) < 4_000_000


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    data = study(**SMALL, grid=GRID[:3])
    pages = [
        make_report(read_material(write_study(tmp_path / place / "x", *data))).html
        for place in "ab"
    ]
    assert pages[0] == pages[1]


HOSTILE = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$\\frac$ & {{ 7*7 }}"


def test_names_from_files_are_text_and_never_markup(tmp_path: Path) -> None:
    data = study(**SMALL, grid=GRID[:3], classes=[*HOSTILE, "d"])
    folder = write_study(tmp_path / "<b onclick=x>&amp;", *data)
    for config in folder.glob("runs/*/config.json"):
        content = json.loads(config.read_text())
        content["environment"] = {HOSTILE[0]: HOSTILE[1], "torch": HOSTILE[2]}
        config.write_text(json.dumps(content))
    page = page_of(folder)
    assert len(page.named("script")) == 1
    assert not page.named("b")
    assert all(str(image["src"]).startswith("data:") for image in page.named("img"))
    assert all(name in page.text for name in (*HOSTILE, folder.name))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)

    # What run folders can't hold, since a config is checked, a summary.csv can.
    summary = pd.read_csv(folder / "summary.csv")
    for column, name in zip(("loss", "variant", "reason"), HOSTILE, strict=True):
        summary[column] = name
    summary.loc[0, ["collapsed", "preset"]] = [True, HOSTILE[0]]
    bare = tmp_path / "bare"
    bare.mkdir()
    summary.to_csv(bare / "summary.csv", index=False)
    page = page_of(bare)
    assert len(page.named("script")) == 1
    assert all(str(image["src"]).startswith("data:") for image in page.named("img"))
    assert all(name in page.text for name in HOSTILE)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"losses": ["ce"], "grid": GRID[2:3], "seeds": (0,), "epochs": 1}, "1 of the 1 cells"),
        ({"losses": ["ce", "nce"], "grid": GRID[2:4], "seeds": (5,)}, "one seed only"),
        ({"losses": ["ce", "2*nce + 0.5*mae"], "grid": GRID[:2], "seeds": (0, 1)}, "2*nce"),
        ({"losses": ["mae"], "grid": [("human", "worse", 0.0)], "seeds": (0,)}, "human worse"),
        ({"losses": ["mae"], "grid": GRID[4:5], "collapse": ("mae", "sym", 0.8, 1)}, "one-class"),
    ],
    ids=["one run", "one seed", "own loss", "human", "collapsed"],
)
def test_small_and_odd_studies_have_a_page(
    given: dict[str, Any], told: str, tmp_path: Path
) -> None:
    page = page_of(write_study(tmp_path / "x", *study(**{"epochs": 2, **given})))
    assert told in page.text
    assert "nan" not in page.text.replace("nano", "")


def test_many_classes_stand_below_each_other(tmp_path: Path) -> None:
    classes = [f"class {k}" for k in range(100)]
    page = page_of(write_study(tmp_path / "x", *study(**SMALL, grid=GRID[2:3], classes=classes)))
    table = page.tables["Accuracy of each class in %, sym 0.4"]
    assert list(table) == ["Class", *classes]
    assert table["Class"] == ["CE", "NCE+RCE"]


def test_a_loss_that_was_lost_is_a_dash_and_not_nan(tmp_path: Path) -> None:
    summary, histories = study(**SMALL, grid=GRID[:3])
    dead = (summary["loss"] == "ce") & (summary["rate"] == 0.4)
    summary.loc[dead, ["test_accuracy", "train_accuracy", "memorised"]] = float("nan")
    summary.loc[dead, ["collapsed", "reason"]] = [True, "not-finite"]
    page = page_of(write_study(tmp_path / "x", summary, histories))
    assert page.tables[ACCURACY]["CE"][2].startswith("-†")
    assert "nan" not in page.text


def test_cells_that_were_not_run_are_named(tmp_path: Path) -> None:
    summary, histories = study(**SMALL, grid=GRID[:3])
    hole = (summary["loss"] == "ce") & (summary["noise"] == "none") & (summary["seed"] == 1)
    folder = write_study(tmp_path / "x", summary[~hole], histories)
    begun = folder / "runs" / "nce_rce_sym-0.4_seed1" / "result.json"
    begun.unlink()
    page = page_of(folder)
    table = page.tables["Cells of the grid that are missing"]
    assert table["CE"] == ["clean", "1"]
    assert table["NCE+RCE"] == ["sym 0.4", "1"]
    assert "10 of the 12 cells" in page.text
    not_run = page.tables["Claims that were not run"]
    assert not_run["NCE is more accurate than CE"] == ["symmetric noise of 0.4 or more", "NCE"]


def test_a_folder_with_a_summary_alone_shows_what_it_can(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "cifar10-laptop", *study(**SMALL, grid=GRID[:4]))
    full = page_of(folder)
    shutil.rmtree(folder / "runs")
    page = page_of(folder)
    assert page.tables[ACCURACY] == full.tables[ACCURACY]
    assert (
        page.tables["Accuracy of each class in %, sym 0.4"]
        == full.tables["Accuracy of each class in %, sym 0.4"]
    )
    assert {image["alt"] for image in page.named("img")} < {i["alt"] for i in full.named("img")}
    assert "the run folders are not here" in page.text
    command = "apl study --preset laptop --losses ce,nce_rce --noise none,sym --rates 0.2,0.4,0.6"
    assert f"{command} --seeds 2\n" in page.text
    assert f"{command} --seeds 2\n" in full.text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "No columns"),
        ("run,loss\n", "not in index"),
        ("\x00\xff", "is no summary of this apl"),
    ],
)
def test_a_broken_summary_is_one_line(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "summary.csv").write_text(content, encoding="latin-1")
    with pytest.raises(BadInput, match=r"summary\.csv is no summary of this apl") as caught:
        read_material(tmp_path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_summary_without_runs_or_of_unknown_noise_is_refused(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "x", *study(**SMALL, grid=GRID[:1]))
    shutil.rmtree(folder / "runs")
    summary = pd.read_csv(folder / "summary.csv")
    for wrong in (summary.iloc[:0], summary.assign(noise="loud"), summary.assign(rate="high")):
        wrong.to_csv(folder / "summary.csv", index=False)
        with pytest.raises(BadInput, match="is no summary of this apl"):
            read_material(folder)


def test_the_command_writes_the_file_and_says_where(cli: Cli, tmp_path: Path) -> None:
    write_study(tmp_path / "results/cifar10-laptop", *study(**SMALL, grid=GRID[2:3]))
    shown = cli("report", "results/cifar10-laptop").stdout
    assert "Ma et al., ICML 2020: " in shown
    assert "over 1 pair of losses" in shown
    assert f"wrote {Path('results/cifar10-laptop/report.html')}" in shown
    cli("report", "results/cifar10-laptop", "--out", "new/page.html")
    first = (tmp_path / "results/cifar10-laptop/report.html").read_bytes()
    assert (tmp_path / "new/page.html").read_bytes() == first
    with pytest.raises(BadInput, match=r"is no study: .*; give one of .*cifar10-laptop"):
        read_material(tmp_path / "results")


# ------------------------------------------------------------------------------------ in a browser

PROBE = """
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("load", () => {
  const table = [...document.querySelectorAll("table")].find((t) =>
    t.caption.textContent.startsWith("Accuracy on clean test labels"));
  const column = 2, order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
  const heading = table.tHead.rows[0].cells[column], states = [heading.getAttribute("aria-sort")];
  const before = order();
  const click = (k) => { table.tHead.rows[0].cells[k].querySelector("button").click(); };
  click(column); const down = order(); states.push(heading.getAttribute("aria-sort"));
  click(column); const up = order(); states.push(heading.getAttribute("aria-sort"));
  click(0); const again = order(); states.push(heading.getAttribute("aria-sort"));
  for (const folded of document.querySelectorAll("details")) folded.open = true;
  const root = document.documentElement;
  parent.postMessage(JSON.stringify({
    errors, before, down, up, again, states,
    width: innerWidth, scrolls: root.scrollWidth > innerWidth,
    button: table.querySelector("th button").tabIndex,
    pictures: [...document.images].filter((image) => !image.complete || !image.naturalWidth).length,
  }), "*");
});
"""


@pytest.mark.xdist_group("report")
def test_in_a_browser_it_sorts_and_never_scrolls_sideways(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"there is no browser: none of {', '.join(names)}")
    folder, html = whole
    (tmp_path / "page.html").write_text(
        html.replace("<head>", f"<head><script>{PROBE}</script>", 1), encoding="utf-8"
    )
    # A frame, since no window of the browser's is as narrow as a telephone.
    (tmp_path / "frame.html").write_text(
        '<iframe src="page.html" style="width:390px;height:800px;border:0"></iframe><pre></pre>'
        "<script>onmessage = (e) => document.querySelector('pre').append(e.data)</script>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [browser, *flags, (tmp_path / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    seen = json.loads(unescape(found[1]))
    assert seen["errors"] == []
    assert seen["pictures"] == 0
    assert seen["width"] == 390
    assert not seen["scrolls"]
    assert seen["button"] == 0  # the Tab key reaches it
    assert seen["states"] == ["none", "descending", "ascending", "none"]
    summary, _ = read_study(folder)
    at = summary[(summary["noise"] == "sym") & (summary["rate"] == 0.2)]
    means = at.groupby("loss")["test_accuracy"].mean().sort_values()
    assert seen["up"] == [LOSSES[loss].label for loss in means.index]
    assert seen["down"] == seen["up"][::-1]
    assert seen["again"] == seen["before"]
