"""The report, from made-up results that look like real ones, written as a study writes them."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import PATIENCE, Cli
from PIL import Image
from test_plots import GRID, TWELVE, altered, study, summary_of, unknown, with_curve

from apl.config.published import published_rows
from apl.errors import BadInput
from apl.losses.catalog import loss_label
from apl.noise.labels import Labels
from apl.report.charts import MOST_EPOCHS, dark
from apl.report.claims import CLAIMS
from apl.report.page import Report, make_comparison, make_report, read_study
from apl.report.pictures import HEAT_MAPS, _drawings, draw_study, look
from apl.report.results import results_table
from apl.report.study import STYLES
from apl.runs.record import _to_line, read_runs, write_study
from apl.runs.run import CONFIG, RECORD, RESULT, RUNS, SUMMARY, Finished, Run

pytestmark = pytest.mark.slow  # they share a study and its page, which take seconds

ENVIRONMENT = {"device": "cpu", "python": "3.12.1", "torch": "2.9.0", "git_commit": "0123abc"}


def write(folder: Path, runs: list[Finished]) -> Path:
    """The run folders, the record and the summary.csv that made-up runs would have left."""
    labels = np.zeros(2, np.int64)
    for made in runs:
        run = Run(folder / RUNS / made.name)
        run.file(CONFIG).parent.mkdir(parents=True)
        matrix = made.result.transition
        given = Labels(labels, labels, None if matrix is None else np.array(matrix))
        run.begin(made.config, given, ENVIRONMENT)
        run.finish(made.config, {}, made.history, made.result)
    write_study(folder)
    return folder


def write_record(folder: Path, runs: list[Finished]) -> Path:
    """The record alone, as one is committed, in a tenth of the time."""
    folder.mkdir(parents=True)
    lines = [_to_line(run._replace(environment=ENVIRONMENT)) for run in runs]
    (folder / RECORD).write_text("".join(lines), encoding="utf-8")
    return folder


def record_alone(folder: Path) -> Path:
    """The study as one is committed: without its run folders."""
    shutil.rmtree(folder / RUNS)
    return folder


def edit_record(folder: Path, change: Callable[[dict[str, Any]], object], line: int = 0) -> None:
    """Change a line of the record, as nobody who wrote it by apl would."""
    lines = (folder / RECORD).read_text().splitlines()
    content = json.loads(lines[line])
    change(content)
    lines[line] = json.dumps(content)
    (folder / RECORD).write_text("\n".join(lines) + "\n")


class Page(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, dict[str, list[str]]] = {}
        self.text = ""
        self.script = ""
        self.templates: list[tuple[str, str]] = []
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
        if "script" in self._open:
            self.script += data
        if "template" in self._open:
            self.templates.append((str(self.tags[-1][1]["data-as"]), data))
        if {"script", "style", "template"} & set(self._open):
            return
        self.text += f"\n{data}" if "caption" in self._open else data
        if {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data

    @property
    def figures(self) -> list[dict[str, Any]]:
        """What the script draws, a part of the page each."""
        line = next(line for line in self.script.splitlines() if line.startswith("const figures ="))
        found: list[dict[str, Any]] = json.loads(line.removeprefix("const figures =").rstrip(";"))
        return found

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A study of 12 losses, 9 settings and 3 seeds with a collapsed run, and its page without
    pictures, which take longer to draw than all else."""
    runs = study(seeds=(0, 1, 2), collapse=("mae", "sym", 0.8, 2))
    folder = write_record(tmp_path_factory.mktemp("results") / "cifar10-laptop", runs)
    with pytest.MonkeyPatch.context() as now:
        now.setattr("apl.report.page._pictures", lambda study: [])
        return folder, make_report(folder.name, read_study(folder))


@pytest.fixture
def whole(made: tuple[Path, Report]) -> tuple[Path, str]:
    """That study, and the page as it is read."""
    folder, report = made
    return folder, report.html


SMALL: dict[str, Any] = {"losses": ["ce", "nce_rce"], "seeds": (0, 1)}


def html_of(folder: Path) -> str:
    return make_report(folder.name, read_study(folder)).html


def page_of(folder: Path) -> Page:
    return Page(html_of(folder))


ACCURACY = "Accuracy on clean test labels after the last epoch, in %"


@pytest.mark.slow
def test_the_whole_study_is_in_the_page(whole: tuple[Path, str]) -> None:
    folder, html = whole
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>")
    assert page.named("html") == [{"lang": "en"}]
    assert any(meta.get("name") == "viewport" for meta in page.named("meta"))
    assert "<title>cifar10-laptop: report of an apl study</title>" in html

    summary = summary_of(read_runs(folder))
    table = page.tables[ACCURACY]
    for column, (noise, _, rate) in enumerate(GRID):
        here = summary[(summary["noise"] == noise) & (summary["rate"] == rate)]
        groups = 100 * here.groupby("loss")["test_accuracy"].agg(["mean", "std"])
        for loss in TWELVE:
            mean, std = groups.loc[loss]
            dead = (loss, noise, rate) == ("mae", "sym", 0.8)
            ours = f"{mean:.2f} ± {std:.2f}"
            assert table[loss_label(loss)][column] == ours + "†" * dead
    assert html.count("<strong>") == len(GRID)

    for score in ("Memorised: ", "Recovered: ", "Accuracy on the training labels"):
        (found,) = (t for caption, t in page.tables.items() if caption.startswith(score))
        below = {"guessing", "trained on right labels"} if "Memorised" in score else set()
        assert set(found) == {"Method", *map(loss_label, TWELVE), *below}
    per_class = [c for c in page.tables if c.startswith("Accuracy of each class in %")]
    assert len(per_class) == len(GRID)
    given_up = page.tables["Accuracy of each class in %, sym 0.8"]["MAE"]
    assert ["∅ 1/3" in cell for cell in given_up] == [k != 3 for k in range(10)]
    assert page.tables["Collapsed runs"]["MAE"] == ["sym 0.8", "2", "one-class"]
    for idea in {claim.idea for claim in CLAIMS}:
        assert idea in page.tables
    assert "apl study --preset laptop\napl report results/cifar10-laptop" in page.text
    assert "324 of the 324 runs of the grid" in page.text
    assert "torch 2.9.0" in page.text


PUBLISHED = {
    (rerun, epoch): f"Accuracy in %, here and published: {methods}, {told}"
    for rerun, methods in (
        (False, "each paper's own methods"),
        (True, "methods of others, as each paper ran them"),
    )
    for epoch, told in (
        ("last", "after the last epoch"),
        ("best", "at the best epoch"),
        ("", "at an epoch that is not stated"),
    )
}


@pytest.mark.slow
def test_published_figures_stand_beside_ours_a_paper_and_protocol_a_column(
    whole: tuple[Path, str],
) -> None:
    folder, html = whole
    page = Page(html)
    runs = read_runs(folder)
    summary = summary_of(runs)
    best = {run.name: max(row["test_accuracy"] for row in run.history) for run in runs}
    summary["best"] = [best[run.name] for run in runs]
    means = 100 * summary.groupby(["loss", "noise", "rate"])[["test_accuracy", "best"]].mean()
    published = published_rows()
    published = published[published["dataset"] == "cifar10"]
    told = 0
    for (rerun, epoch), caption in PUBLISHED.items():
        of_kind = published[(published["rerun"] == rerun) & (published["epoch"] == epoch)]
        if caption not in page.tables:
            assert epoch != "last"
            assert not rerun
            continue
        table = page.tables[caption]
        heads = [head.replace("\n", " ") for head in table["Method"]]
        assert heads[0] == f"Here, {'best' if epoch == 'best' else 'last'} epoch"
        assert len(set(heads)) == len(heads)
        if epoch == "last":
            assert heads[1] == "Ma et al., ICML 2020: cnn8, 120 epochs"
        for loss, (noise, _, rate) in itertools.product(TWELVE, GRID):
            name = "clean" if noise == "none" else f"{noise} {rate:g}"
            here = (of_kind[["method", "noise", "rate"]] == [loss, noise, rate]).all(axis=1)
            line = table.get(f"{loss_label(loss)}, {name}")
            assert (line is not None) == here.any()
            ours = means.loc[(loss, noise, rate), "best" if epoch == "best" else "test_accuracy"]
            for row in of_kind[here].to_dict("records"):
                (place,) = [k for k, head in enumerate(heads) if head.startswith(row["paper"])]
                assert row["network"] in heads[place]
                assert line is not None
                theirs, _, difference = line[place].partition("|")
                assert theirs.startswith(f"{row['mean']:.2f}")
                assert difference == (f"{ours - row['mean']:+.2f}" if epoch else "")
                told += 1
    assert told > 150
    assert "This study: cnn5 of width 32, 10 epochs, 10,000 training images. No paper" in page.text


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
        mean = sum(
            float(row[share].partition("|")[0]) * n for row, n in zip(kinds, counts, strict=True)
        )
        overall = float(everything[share].partition("|")[0])
        assert mean / sum(counts) == pytest.approx(overall, abs=0.011)


@pytest.mark.slow
def test_every_picture_is_embedded_and_nothing_is_loaded(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "x", study(["ce", "mae", "nce_rce"], grid=[GRID[2], GRID[-1]], seeds=(0,))
    )
    html = html_of(folder)
    page = Page(html)
    names = [name for name, _ in _drawings(read_study(folder)[0], HEAT_MAPS)]
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
    without = without.replace("http://www.w3.org/2000/svg", "")  # a name, which nobody fetches
    assert not re.search(r"https?:|url\(|@import|//cdn", without)
    assert len(html.encode()) < 1_500_000


def test_the_answers_come_first_with_by_how_much_and_how_sure(whole: tuple[Path, str]) -> None:
    folder, html = whole
    page = Page(html)
    first = html.index('class="answer"')
    assert first < html.index("<table") < html.index('<section id="accuracy-1"')
    assert html.index('id="run-1"') > html.index('id="problems-1"')
    summary = summary_of(read_runs(folder))
    sym = summary[summary["noise"] == "sym"]
    means = 100 * sym.groupby("loss")["test_accuracy"].mean()
    best = means.idxmax()
    told = page.text[page.text.index("Symmetric, 20 to 80 %") :]
    assert f"{loss_label(best)} leads with {means[best]:.1f} % on average" in told
    margins = 100 * sym.pivot_table(index=["rate", "seed"], columns="loss", values="test_accuracy")
    lead = (margins[best] - margins["ce"]).groupby("seed").mean()
    reach = 4.302653 * lead.std() / 3**0.5  # of Student's t with two degrees of freedom
    shown = f"{lead.mean():.1f} ({lead.mean() - reach:.1f} to {lead.mean() + reach:.1f}) points"
    assert f"{shown} before CE" in told
    table = page.tables["Which loss leads under which noise"]
    assert table["Noise"] == ["Best", "%", "vs CE", "or it is"]
    for noise, _, rate in GRID:
        at = summary[(summary["noise"] == noise) & (summary["rate"] == rate)]
        means = 100 * at.groupby("loss")["test_accuracy"].mean()
        name = "clean" if noise == "none" else f"{noise} {rate:g}"
        assert table[name][:2] == [loss_label(means.idxmax()), f"{means.max():.1f}"]


@pytest.mark.usefixtures("unpainted")
def test_what_chance_could_have_done_is_said_and_what_it_could_not(tmp_path: Path) -> None:
    curves = {
        "ce": 2 * [0.5, 0.51, 0.52],
        "nce_rce": 2 * [0.7, 0.72, 0.71],
        "gce": 2 * [0.71, 0.7, 0.71],
    }
    runs = [
        with_curve(run, [0.3, curves[run.config.loss][run.config.seed]])
        for run in study(list(curves), grid=GRID[3:4], seeds=tuple(range(6)), epochs=2)
    ]
    page = page_of(write_record(tmp_path / "x", runs))
    assert "NCE+RCE leads with 71.0 %, 20.0 (" in page.text
    assert "it can't be told from GCE." in page.text
    assert page.tables["Which loss leads under which noise"]["sym 0.6"][-1] == "GCE"
    two = [run for run in runs if run.config.loss != "gce"]
    page = page_of(write_record(tmp_path / "two", two))
    assert "ahead of every other, beyond chance." in page.text
    few = [run for run in two if run.config.seed < 3]
    page = page_of(write_record(tmp_path / "few", few))
    assert "three seeds can't tell which is the best." in page.text
    apart = [run for run in two if (run.config.loss == "ce") == (run.config.seed < 3)]
    page = page_of(write_record(tmp_path / "apart", apart))
    assert "without a seed in common with CE; no seed has all losses" in page.text
    assert page.tables["Which loss leads under which noise"]["sym 0.6"][-2] == ""
    assert "nan" not in re.findall(r"\w+", page.text)
    one = [run for run in two if run.config.seed == 0]
    page = page_of(write_record(tmp_path / "one", one))
    assert "20.0 points before CE; one seed: nobody knows how much of it is chance." in page.text


def test_the_pictures_have_the_figures_of_the_runs(whole: tuple[Path, str]) -> None:
    folder, html = whole
    runs = read_runs(folder)
    summary = summary_of(runs)
    (figures,) = Page(html).figures
    names = [method["name"] for method in figures["methods"]]
    assert sorted(names) == sorted(map(loss_label, TWELVE))
    assert [panel["title"] for panel in figures["rates"]] == ["Symmetric", "Asymmetric"]
    assert list(figures["rate_scores"])[:2] == ["test_accuracy", "best"]
    assert "chosen" not in figures["rate_scores"]
    sym = figures["rates"][0]
    best = {run.name: max(row["test_accuracy"] for row in run.history) for run in runs}
    summary["best"] = [best[run.name] for run in runs]
    for score in ("test_accuracy", "best"):
        drawn = sym["scores"][score]
        assert drawn["x"] == [0, 20, 40, 60, 80]
        for place, line in drawn["lines"].items():
            loss = next(loss for loss in TWELVE if loss_label(loss) == names[int(place)])
            here = summary[(summary["loss"] == loss) & summary["noise"].isin(["none", "sym"])]
            values = 100 * here.groupby("rate")[score].agg(["mean", "std"])
            np.testing.assert_allclose(line, values.to_numpy(), atol=0.006)
    assert len(figures["epochs"]) == len(GRID)
    assert figures["epochs"][1]["scores"]["memorised"]["x"] == list(range(1, 11))


@pytest.mark.usefixtures("unpainted")
def test_long_curves_are_thinned_and_keep_their_end(tmp_path: Path) -> None:
    runs = study(["ce"], grid=GRID[2:3], seeds=(0,), epochs=120)
    (figures,) = page_of(write_record(tmp_path / "x", runs)).figures
    drawn = figures["epochs"][0]["scores"]["test_accuracy"]
    assert len(drawn["x"]) == len(drawn["lines"]["0"]) == MOST_EPOCHS
    assert (drawn["x"][0], drawn["x"][-1]) == (1, 120)
    last = 100 * runs[0].history[-1]["test_accuracy"]
    assert drawn["lines"]["0"][-1] == [pytest.approx(last, abs=0.006), None]


def test_on_a_dark_page_every_line_is_light_enough_to_see() -> None:
    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    page = luminance("#14171a")
    for style in STYLES.values():
        assert (luminance(dark(style.color)) + 0.05) / (page + 0.05) >= 3  # WCAG, of graphics


@pytest.mark.usefixtures("unpainted")
def test_the_chosen_epoch_and_loss_stand_in_the_page(tmp_path: Path) -> None:
    given: dict[str, Any] = {"grid": GRID[2:3], "seeds": (0, 1), "epochs": 3, "select": "noisy"}
    runs = [
        with_curve(run, [0.2, 0.6, 0.5], [0.1, 0.4, 0.3])
        if run.config.loss == "ce"
        else with_curve(run, [0.2, 0.4, 0.55], [0.1, 0.2, 0.25])
        for run in study(["ce", "nce_rce"], **given)
    ]
    page = page_of(write_record(tmp_path / "x", runs))
    table = page.tables["Accuracy on clean test labels by the epoch that is taken, in %"]
    assert table["Method"] == ["Last epoch", "Best epoch", "Chosen epoch"]
    assert table["CE, sym 0.4"] == ["50.00 ± 0.00", *["60.00 ± 0.00"] * 2]
    chosen = page.tables["The loss that held-out labels choose"]["sym 0.4"]
    assert chosen == ["CE", "30.00", "50.00 ± 0.00", "NCE+RCE", "55.00 ± 0.00"]
    (figures,) = page.figures
    assert list(figures["rate_scores"])[:3] == ["test_accuracy", "best", "chosen"]
    assert "validation_accuracy" in figures["epoch_scores"]
    human = study(**SMALL, grid=[GRID[0], ("human", "worse", 0.0)])
    (figures,) = page_of(write_record(tmp_path / "human", human)).figures
    assert [panel["ticks"] for panel in figures["rates"]] == [{"0": "clean", "1": "worse"}]
    without = page_of(write_record(tmp_path / "y", study(**SMALL, grid=GRID[2:3])))
    assert "Chosen epoch" not in without.text


@pytest.mark.usefixtures("unpainted")
def test_two_studies_stand_side_by_side(tmp_path: Path) -> None:
    one = study(["ce", "gce", "nce_rce"], grid=GRID[:4], seeds=(0, 1), epochs=3)
    other = study(["ce", "gce", "mae"], grid=GRID[2:5], seeds=(0,), epochs=3, dataset="mnist")
    parts = [
        (n, read_study(write_record(tmp_path / n, runs))) for n, runs in (("a", one), ("b", other))
    ]
    made = make_comparison(parts)
    page = Page(made.html)
    order = page.tables["The order of the methods that a and b have in common"]
    assert list(order) == ["Noise", "sym 0.4", "sym 0.6"]
    assert order["sym 0.4"][0] == "2"
    both = page.tables["Accuracy of a, below it of b and the difference"]
    assert list(both) == ["Method", "CE", "GCE"]
    ours, theirs = (
        100 * np.mean([r.result.test_accuracy for r in runs if (r.config.loss, r.config.rate) == k])
        for runs, k in ((one, ("ce", 0.4)), (other, ("ce", 0.4)))
    )
    assert both["CE"][0] == f"{ours:.2f}|{theirs:.2f}, {ours - theirs:+.2f}"
    beside, *parts_of_each = page.figures
    assert [panel["title"] for panel in beside["rates"]] == ["a: symmetric", "b: symmetric"]
    assert [len(part["methods"]) for part in (beside, *parts_of_each)] == [4, 3, 3]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    with pytest.raises(BadInput, match="two or more, each once"):
        make_comparison([parts[0], parts[0]])
    with pytest.raises(BadInput, match="two or more, each once"):
        make_comparison(parts[:1])


def test_every_table_is_to_be_had_as_csv_and_latex(made: tuple[Path, Report]) -> None:
    _, report = made
    page = Page(report.html)
    assert len(page.templates) == 2 * len(page.named("table"))
    assert [text for kind, text in page.templates if kind == "tex"]
    assert report.latex.count("\\begin{tabular}") == len(page.named("table"))
    assert all(text in report.latex for kind, text in page.templates if kind == "tex")


@pytest.mark.usefixtures("unpainted")
@pytest.mark.slow
def test_the_same_study_gives_the_same_bytes_with_or_without_its_run_folders(
    tmp_path: Path,
) -> None:
    folder = write(tmp_path / "cifar10-laptop", study(**SMALL, grid=GRID[:2]))
    (one,) = read_study(folder)
    html = html_of(folder)
    (other,) = read_study(record_alone(folder))
    assert html_of(folder) == html
    pd.testing.assert_frame_equal(one.runs, other.runs)  # all that pictures are drawn from
    pd.testing.assert_frame_equal(one.epochs, other.epochs)
    command = "apl study --preset laptop --losses ce,nce_rce --noise none,sym --rates 0.2"
    assert f"{command} --seeds 2\n" in Page(html).text


HOSTILE = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$\\frac$ & {{ 7*7 }}"


@pytest.mark.usefixtures("unrendered")
@pytest.mark.slow
def test_names_from_files_are_text_and_never_markup(tmp_path: Path) -> None:
    runs = study(**SMALL, grid=GRID[:3], classes=[*HOSTILE, "d"])
    folder = write(tmp_path / "<b onclick=x>&amp;", runs)
    for config in folder.glob(f"{RUNS}/*/{CONFIG}"):
        content = json.loads(config.read_text())
        content["environment"] = {HOSTILE[0]: HOSTILE[1], "torch": HOSTILE[2]}
        config.write_text(json.dumps(content))
    page = page_of(folder)
    assert len(page.named("script")) == 1
    assert not page.named("b")
    assert HOSTILE[0] not in page.script
    assert all(str(image["src"]).startswith("data:") for image in page.named("img"))
    assert all(name in page.text for name in (*HOSTILE, folder.name))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)

    # What no run writes, a record can say all the same.
    bare = write_record(tmp_path / "bare", study(**SMALL, grid=GRID[2:3]))

    def change(content: dict[str, Any]) -> None:
        content["run"] = HOSTILE[0]
        content["config"] |= {"noise": "asym", "map": HOSTILE[1], "map_sha256": HOSTILE[0]}
        content["result"] |= {"collapsed": True, "reason": HOSTILE[2]}
        content["environment"] = {"python": HOSTILE[0]}

    edit_record(bare, change)
    page = page_of(bare)
    assert len(page.named("script")) == 1
    assert all(str(image["src"]).startswith("data:") for image in page.named("img"))
    assert all(name in page.text for name in HOSTILE)


@pytest.mark.usefixtures("unrendered")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"losses": ["ce"], "grid": GRID[2:3], "seeds": (0,), "epochs": 1}, "1 of the 1 runs"),
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
    page = page_of(write_record(tmp_path / "x", study(**{"epochs": 2, **given})))
    assert told in page.text
    assert "nan" not in page.text.replace("nano", "")


@pytest.mark.usefixtures("unpainted")
def test_many_classes_stand_below_each_other(tmp_path: Path) -> None:
    classes = [f"class {k}" for k in range(100)]
    page = page_of(write_record(tmp_path / "x", study(**SMALL, grid=GRID[2:3], classes=classes)))
    table = page.tables["Accuracy of each class in %, sym 0.4"]
    assert list(table) == ["Class", *classes]
    assert table["Class"] == ["CE", "NCE+RCE"]


@pytest.mark.usefixtures("unpainted")
def test_a_loss_that_was_lost_is_a_dash_and_not_nan(tmp_path: Path) -> None:
    lost = dict.fromkeys(("test_accuracy", "train_accuracy", "memorised"), float("nan"))
    runs = [
        altered(run, **lost, collapsed=True, reason="not-finite")
        if run.config.loss == "ce" and run.config.rate == 0.4
        else run
        for run in study(**SMALL, grid=GRID[:3])
    ]
    page = page_of(write_record(tmp_path / "x", runs))
    assert page.tables[ACCURACY]["CE"][2].startswith("-†")
    assert "nan" not in page.text


MEMORY = (
    "Memorised: wrong training labels predicted as given, in %",
    "Recovered: wrong training labels predicted as the true class, in %",
)


@pytest.mark.usefixtures("unpainted")
def test_what_nobody_knows_is_said_and_has_no_table(tmp_path: Path) -> None:
    # Labels as somebody gave them, the test labels too: what is wrong among them nobody knows.
    runs = [unknown(run) for run in study(**SMALL, grid=GRID[:1], epochs=3)]
    folder = write(tmp_path / "x", runs)
    summary = pd.read_csv(folder / SUMMARY)
    assert set(summary["on"]) == {"given"}
    assert summary[["memorised", "recovered"]].isna().all(axis=None)
    for _ in ("from the run folders", "from the record"):
        page = page_of(folder)
        assert "Nobody knows which of these training labels are wrong." in page.text
        assert page.tables.keys().isdisjoint(MEMORY)  # of dashes alone
        table = page.tables["Accuracy on given test labels after the last epoch, in %"]
        mean = 100 * np.mean([r.result.test_accuracy for r in runs if r.config.loss == "ce"])
        assert table["CE"][0].startswith(f"{mean:.2f} ± ")
        assert "clean test labels" not in page.text
        assert not re.search(r"\bnan\b", page.text)
        assert "Transition matrices" not in page.text
        lacking = page.tables["Claims that were not run"]
        assert lacking["NCE+RCE memorises less than CE"] == ["symmetric noise"] * 2
        if (folder / RUNS).exists():
            record_alone(folder)


@pytest.mark.usefixtures("unpainted")
def test_of_clean_labels_known_to_be_right_there_is_no_dash(tmp_path: Path) -> None:
    known = study(**SMALL, grid=GRID[:2])
    page = page_of(write_record(tmp_path / "known", known))
    assert page.tables[MEMORY[0]]["Method"] == ["sym 0.2"]
    assert "nobody knows" not in page.text
    # Beside runs of known truth, those of unknown truth are told apart.
    mixed = [unknown(run) if run.config.noise == "none" else run for run in known]
    page = page_of(write_record(tmp_path / "mixed", mixed))
    assert "clean test labels, or given ones where the truth is unknown" in page.text
    memorised = page.tables[MEMORY[0]]
    assert memorised["Method"] == ["as given", "sym 0.2"]
    assert memorised["CE"][0] == "-"
    assert float(memorised["CE"][1].split(" ±")[0]) > 50


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("noise", ["human", "matrix"])
def test_noise_of_an_unknown_matrix_has_a_page(tmp_path: Path, noise: str) -> None:
    runs = study(**SMALL, grid=[GRID[0], ("human", "worse", 0.0)], epochs=2)
    runs = [unknown(run) if run.config.noise == "human" else run for run in runs]
    folder = write_record(tmp_path / "x", runs)
    for line, run in enumerate(read_runs(folder)):
        if run.config.noise == "human" and noise == "matrix":
            # The file with the matrix need not be here to read what was made of it.
            its = {"noise": "matrix", "map": "m.csv", "map_sha256": "0"}
            edit_record(folder, lambda content, its=its: content["config"].update(its), line)
    page = page_of(folder)
    name = "human worse" if noise == "human" else "matrix (m.csv)"
    (table,) = (
        table for caption, table in page.tables.items() if caption.endswith("last epoch, in %")
    )
    assert table["Method"] == ["clean", name]
    assert page.tables.keys().isdisjoint(MEMORY)  # of dashes alone
    assert not re.search(r"\bnan\b", page.text)
    assert "8 of the 8 runs" in page.text


@pytest.mark.slow
def test_a_class_of_which_no_sample_is_known_is_left_out_of_the_rate(tmp_path: Path) -> None:
    # As with human labels on so few images that a class has none: its row of the matrix is null.
    (run,) = study(["ce"], [("human", "worse", 0.0)], seeds=(0,), epochs=2)
    matrix = [[0.5, 0.5, *[0.0] * 8], *np.eye(10)[1:9].tolist(), [float("nan")] * 10]
    folder = write(tmp_path / "x", [altered(run, transition=matrix)])
    assert pd.read_csv(folder / SUMMARY)["rate"].tolist() == [pytest.approx(0.5 / 9, abs=1e-6)]
    assert "1 of the 1 runs" in page_of(folder).text


@pytest.mark.usefixtures("unpainted")
def test_cells_that_were_not_run_are_named(tmp_path: Path) -> None:
    runs = [
        run
        for run in study(**SMALL, grid=GRID[:3])
        if (run.config.loss, run.config.noise, run.config.seed) != ("ce", "none", 1)
    ]
    folder = write(tmp_path / "x", runs)
    (folder / RUNS / "nce_rce_sym-0.4_seed1" / RESULT).unlink()
    (folder / RECORD).unlink()  # which has it still
    page = page_of(folder)
    table = page.tables["Runs of the grid that are missing"]
    assert table["CE"] == ["clean", "1"]
    assert table["NCE+RCE"] == ["sym 0.4", "1"]
    assert "10 of the 12 runs" in page.text
    not_run = page.tables["Claims that were not run"]
    assert not_run["NCE is more accurate than CE"] == ["symmetric noise of 0.4 or more", "NCE"]


def test_a_folder_with_neither_runs_nor_record_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = record_alone(write(tmp_path / "x", study(**SMALL, grid=GRID[:1])))
    (folder / RECORD).unlink()
    assert (folder / SUMMARY).is_file()
    with pytest.raises(BadInput, match=r"x is no study: .* and no runs\.jsonl") as caught:
        read_study(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:left out")  # the lines, told of one by one
@pytest.mark.parametrize("content", ["", "run,loss\n", "[]\n{}\n", "\x00\xff"])
def test_a_broken_record_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD).write_text(content, encoding="latin-1")
    with pytest.raises(BadInput) as caught:
        read_study(tmp_path)
    said = "can't be read" if "\xff" in content else "there is no finished run"
    assert said in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["config"].update(noise="loud"),
        lambda content: content["config"].update(rate="high"),
        lambda content: content["config"].update(loss="nce_rcx"),
        lambda content: content["config"].update(dataset="imagenet"),
        lambda content: content["config"].update(preset="quick", dataset="imagenet"),
        lambda content: content["config"].update(network="transformer"),
        lambda content: content["config"].pop("lr"),
        lambda content: content["result"].update(class_names=["a"]),
        lambda content: content["result"].pop("confusion"),
        lambda content: content["history"]["lr"].pop(),
        lambda content: content.pop("environment"),
        lambda content: content.clear(),
    ],
)
def test_a_broken_line_of_the_record_is_left_out_and_told_of(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    runs = study(**{**SMALL, "seeds": (0,)}, grid=GRID[1:2], epochs=2)
    folder = write_record(tmp_path / "x", runs)
    edit_record(folder, change, line=1)
    with pytest.warns(UserWarning, match=r"^left out: .*line 2 of .*runs\.jsonl") as told:
        parts = read_study(folder)
    assert ["\n" in str(warning.message) for warning in told] == [False]
    assert [list(part.runs["loss"]) for part in parts] == [["ce"]]


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered")
def test_one_reading_serves_page_table_and_pictures(tmp_path: Path) -> None:
    runs = study(["ce"], grid=GRID[1:2], seeds=(0, 1), epochs=2)
    folder = write_record(tmp_path / "x", runs)
    published = published_rows()

    def tell() -> tuple[str, str, list[str]]:
        with look():
            drawn = [name for part in parts for name, _ in draw_study(part)]
        return make_report("x", parts).html, results_table(parts, published), drawn

    parts = read_study(folder)
    before = [(study.runs.copy(), study.epochs.copy()) for study in parts]
    (folder / RECORD).unlink()
    first = tell()
    for part, (runs, epochs) in zip(parts, before, strict=True):
        pd.testing.assert_frame_equal(part.runs, runs)
        pd.testing.assert_frame_equal(part.epochs, epochs)
    assert tell() == first


WITHOUT_TORCH = """
import shutil, sys
from pathlib import Path
from apl.report.page import make_report, read_study
folder = Path(sys.argv[1])
html = make_report("x", read_study(folder)).html
assert "<!DOCTYPE html>" in html and "data:image/png" in html
shutil.rmtree(folder / "runs")
(from_the_record,) = read_study(folder)
assert len(from_the_record.runs) == 1
loaded = {"torch", "torchvision", "sklearn", "apl.training.train", "apl.losses.modules"}
print(sorted(loaded & set(sys.modules)))
"""


@pytest.mark.slow
def test_a_study_is_told_without_torch_and_without_the_trainer(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", study(["ce"], grid=GRID[2:3], seeds=(0,), epochs=2))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(folder)], capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.usefixtures("unrendered")
@pytest.mark.slow
def test_the_command_writes_the_file_and_says_where(here: Cli, tmp_path: Path) -> None:
    write_record(tmp_path / "results/cifar10-laptop", study(**SMALL, grid=GRID[2:3]))
    shown = here("report", "results/cifar10-laptop").stdout
    assert "Ma et al., ICML 2020: " in shown
    assert "over 1 pair of losses" in shown
    assert f"wrote {Path('results/cifar10-laptop/report.html')}" in shown
    here("report", "results/cifar10-laptop", "--out", "new/page.html")
    first = (tmp_path / "results/cifar10-laptop/report.html").read_bytes()
    assert (tmp_path / "new/page.html").read_bytes() == first
    with pytest.raises(BadInput, match=r"is no study: .*; give one of .*cifar10-laptop"):
        read_study(tmp_path / "results")


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
  const root = document.documentElement, chart = document.querySelector(".chart");
  const count = () => ["svg", "g"].map((name) => chart.querySelectorAll(`.panels ${name}`).length);
  const [score, noise] = chart.querySelectorAll("select");
  const method = chart.querySelector(".legend button");
  const tip = () => chart.querySelector(".values").innerText.split("\\n");
  const choose = (box, value) => { box.value = value; box.dispatchEvent(new Event("change")); };
  const charts = { whole: count() };
  method.click(); charts.hidden = [...count(), method.getAttribute("aria-pressed")];
  method.click(); charts.again = count();
  choose(noise, "0"); charts.one = count();
  const svg = () => chart.querySelector(".panels svg"), box = svg().getBoundingClientRect();
  const at = { clientX: box.left + 2, clientY: box.top + 2 };
  svg().dispatchEvent(new PointerEvent("pointermove", at)); charts.pointed = tip();
  svg().dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" })); charts.keyed = tip();
  svg().dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" })); charts.left = tip();
  choose(score, "best");
  svg().dispatchEvent(new PointerEvent("pointermove", at)); charts.best = tip();
  charts.focusable = svg().tabIndex;
  parent.postMessage(JSON.stringify({
    errors, charts, before, down, up, again, states,
    width: innerWidth, scrolls: root.scrollWidth > innerWidth,
    button: table.querySelector("th button").tabIndex,
    pictures: [...document.images].filter((image) => !image.complete || !image.naturalWidth).length,
  }), "*");
});
"""


def in_browser(html: str, probe: str, folder: Path) -> dict[str, Any]:
    """What a script that is put into a page posts to its parent; skips where there is no browser.

    In a frame, since no window of the browser's is as narrow as a telephone.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"there is no browser: none of {', '.join(names)}")
    (folder / "page.html").write_text(
        html.replace("<head>", f"<head><script>{probe}</script>", 1), encoding="utf-8"
    )
    (folder / "frame.html").write_text(
        '<iframe src="page.html" style="width:390px;height:800px;border:0"></iframe><pre></pre>'
        "<script>onmessage = (e) => document.querySelector('pre').append(e.data)</script>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [browser, *flags, (folder / "frame.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(unescape(found[1]))
    return told


TEXTS = """
addEventListener("load", () => {
  const cut = [], names = [];
  for (const drawn of document.querySelectorAll(".panels svg")) {
    const texts = [...drawn.querySelectorAll("text")];
    const boxes = texts.map((text) => text.getBBox());
    boxes.forEach((box, k) => {
      const name = texts[k].firstChild.data;
      names.push(name);
      if (box.x < -1 || box.x + box.width > 421 || box.y + box.height > 300) cut.push(name);
      boxes.slice(0, k).forEach((other, m) => {
        const beside = box.x + 1 > other.x + other.width || other.x + 1 > box.x + box.width;
        const below = box.y + 4 > other.y + other.height || other.y + 4 > box.y + box.height;
        if (!beside && !below) cut.push([name, texts[m].firstChild.data]);
      });
    });
  }
  parent.postMessage(JSON.stringify({ cut, names }), "*");
});
"""


@pytest.mark.usefixtures("unpainted")  # the page draws those that are looked at
@pytest.mark.slow
def test_no_name_in_the_pictures_is_cut_or_covers_another(tmp_path: Path) -> None:
    human = [("human", name, 0.0) for name in ("aggre", "random1", "random2", "random3", "worse")]
    files = [tmp_path / f"cifar10_dependent_{rate}.json" for rate in (0.2, 0.4, 0.6)]
    for file in files:
        file.write_text("[]")
    published = [("file", str(file), 0.0) for file in files]
    runs = study(["ce", "gce"], [GRID[0], GRID[2], *human, *published], seeds=(0,), epochs=2)
    seen = in_browser(html_of(write_record(tmp_path / "x", runs)), TEXTS, tmp_path)
    assert seen["cut"] == []
    assert {"clean", "aggre", "random3", "worse", "40"} <= set(seen["names"])
    assert any(name.endswith("_0.6.json)") and "…" in name for name in seen["names"])


def test_in_a_browser_it_sorts_and_never_scrolls_sideways(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    folder, html = whole
    seen = in_browser(html, PROBE, tmp_path)
    assert seen["errors"] == []
    assert seen["pictures"] == 0
    assert seen["width"] == 390
    assert not seen["scrolls"]
    assert seen["button"] == 0  # the Tab key reaches it
    assert seen["states"] == ["none", "descending", "ascending", "none"]
    summary = summary_of(read_runs(folder))
    at = summary[(summary["noise"] == "sym") & (summary["rate"] == 0.2)]
    means = at.groupby("loss")["test_accuracy"].mean().sort_values()
    assert seen["up"] == [loss_label(loss) for loss in means.index]
    assert seen["down"] == seen["up"][::-1]
    assert seen["again"] == seen["before"]

    charts = seen["charts"]
    assert charts["whole"] == charts["again"] == [2, 24]  # symmetric and asymmetric, 12 methods
    assert charts["hidden"] == [2, 22, "false"]
    assert charts["one"] == [1, 12]
    assert charts["focusable"] == 0
    assert charts["left"] == [""]
    best = {run.name: max(row["test_accuracy"] for row in run.history) for run in read_runs(folder)}
    summary["best"] = [best[name] for name in (run.name for run in read_runs(folder))]
    for told, heading, rate, score in (
        ("pointed", "Noise rate 0 %", 0.0, "test_accuracy"),
        ("keyed", "Noise rate 20 %", 0.2, "test_accuracy"),
        ("best", "Noise rate 0 %", 0.0, "best"),
    ):
        here = summary[(summary["rate"] == rate) & summary["noise"].isin(["none", "sym"])]
        values = 100 * here.groupby("loss")[score].agg(["mean", "std"])
        highest = values["mean"].max()
        (row,) = values[values["mean"] == highest].itertuples()
        first, *rows = charts[told]
        assert first == heading
        assert len(rows) == len(TWELVE)
        assert rows[0] == f"{loss_label(row.Index)} {row.mean:.2f} ± {row.std:.2f}"
