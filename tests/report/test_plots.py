"""The pictures and the table, from made-up results that look like real ones."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.legend import Legend
from matplotlib.text import Text

from apl.config.config import make_config
from apl.config.published import published_at, published_rows
from apl.losses.catalog import LOSSES, loss_label
from apl.names import NOISES
from apl.noise.draw import corrupt
from apl.noise.matrices import symmetric
from apl.report import pictures
from apl.report.pictures import (
    _drawings,
    _write,
    draw_study,
    look,
    plot_study,
    plot_transition,
)
from apl.report.results import Beside, beside_published, mean_std, results_table
from apl.report.study import STYLES, Study, method_styles, studies
from apl.runs.run import Finished
from apl.runs.scores import VALIDATION, Result

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
TWELVE = "ce fl gce sce mae rce nce nfl nce_mae nce_rce nfl_mae nfl_rce".split()
GRID = [
    ("none", "", 0.0),
    *(("sym", "", rate) for rate in (0.2, 0.4, 0.6, 0.8)),
    *(("asym", "paper", rate) for rate in (0.1, 0.2, 0.3, 0.4)),
]


def transition(noise: str, rate: float, classes: int) -> np.ndarray:
    matrix = np.eye(classes)
    if noise == "sym":
        matrix = np.full((classes, classes), rate / (classes - 1))
        np.fill_diagonal(matrix, 1 - rate)
    elif noise != "none":
        for source in range(0, classes, 2):
            matrix[source, source], matrix[source, (source + 1) % classes] = 1 - rate, rate
    return matrix


def study(
    losses: list[str] = TWELVE,
    grid: list[tuple[str, str, float]] = GRID,
    seeds: tuple[int, ...] = (1, 2, 3),
    epochs: int = 10,
    classes: list[str] = CIFAR10,
    collapse: tuple[str, str, float, int] | None = None,
    preset: str = "laptop",
    dataset: str = "cifar10",
    **settings: Any,
) -> list[Finished]:
    """Made-up runs: losses that are not tolerant memorise, MAE and RCE are slow to learn.

    collapse: the (loss, noise, rate, seed) of a run that ends with one class only; settings: those
    of the configs beside the preset's, which 10 epochs are for `laptop`.
    """
    rng = np.random.default_rng(0)
    count = len(classes)
    runs = []
    for loss, (noise, table, rate), seed in itertools.product(losses, grid, seeds):
        config = make_config(
            preset,
            **{"dataset": dataset, "loss": loss, "noise": noise, "map": table, "rate": rate},
            **{"seed": seed, "epochs": epochs, **settings},
        )
        named = LOSSES.get(loss, LOSSES["nce"])
        harm = rate if noise == "sym" else 1.3 * rate
        peak = 0.9 - 0.28 * harm - (0.22 if named.kind == "passive" else 0.0) * (0.4 + harm)
        fall = (0.05 if named.tolerant else 0.55) * harm
        time = np.arange(1, epochs + 1) / epochs
        memorised = (0.12 if named.tolerant else 0.95) * time**2 * (rate > 0)
        curve = peak * (1 - np.exp(-7 * time)) - fall * time**2
        curve = (curve + rng.normal(0, 0.008, epochs)).clip(0.1, 1)
        dead = collapse == (loss, noise, rate, seed)
        if dead:
            curve[epochs // 2 :] = 1 / count
        per_class = (curve[-1] + rng.normal(0, 0.06, count)).clip(0, 1)
        wrong = (1 - per_class)[:, None] * (1 - np.eye(count)) / (count - 1)
        confusion = np.array([rng.multinomial(1000, row) for row in np.diag(per_class) + wrong])
        if dead:
            confusion = 1000 * np.eye(count, dtype=int)[[3] * count]
        result = Result(
            collapsed=dead,
            reason="one-class" if dead else "",
            too_short=False,
            test_accuracy=float(curve[-1]),
            train_accuracy=float(curve[-1]),
            memorised=float(memorised[-1]) if rate else math.nan,
            recovered=0.9 - float(memorised[-1]) if rate else math.nan,
            corrupted=int(10_000 * rate),
            class_names=list(classes),
            confusion=confusion.tolist(),
            transition=transition(noise, rate, count).tolist(),
        )
        history = [
            {
                "epoch": epoch + 1.0,
                "lr": 0.01,
                "train_loss": 1.0,
                "train_accuracy": curve[epoch],
                "memorised": memorised[epoch] if rate else math.nan,
                "recovered": 0.9 * curve[epoch] if rate else math.nan,
                "test_accuracy": curve[epoch],
            }
            for epoch in range(epochs)
        ]
        history = [{name: float(value) for name, value in row.items()} for row in history]
        runs.append(Finished(config.name, config, {}, history, result))
    return runs


def altered(run: Finished, **fields: Any) -> Finished:
    """The same run with another outcome."""
    return run._replace(result=replace(run.result, **fields))


def unknown(run: Finished) -> Finished:
    """The same run on labels whose truth nobody knows, the test labels among them."""
    nothing = {"memorised": math.nan, "recovered": math.nan}
    history = [{**row, **nothing} for row in run.history]
    fields = {**nothing, "corrupted": 0, "transition": None, "on": "given"}
    return altered(run._replace(history=history), **fields)


def held_out(run: Finished, accuracies: list[float]) -> Finished:
    """The same run with the accuracy of each epoch on held-out labels, nan where none was taken."""
    rows = zip(run.history, accuracies, strict=True)
    return run._replace(history=[{**row, VALIDATION: value} for row, value in rows])


def one_study(runs: list[Finished]) -> Study:
    (study,) = studies(runs)
    return study


def picture(runs: list[Finished], name: str) -> Any:
    """One of the pictures of a study, without the others, which take seconds."""
    return dict(_drawings(one_study(runs)))[name]()


def summary_of(runs: list[Finished]) -> pd.DataFrame:
    """What was asked and what came out, as a frame: worked out here, not by what is tested."""
    return pd.DataFrame([{**vars(run.config), **vars(run.result)} for run in runs])


@pytest.fixture(scope="module")
def full() -> list[Finished]:
    return study(collapse=("mae", "sym", 0.8, 2))


def text_faults(figure: Any) -> list[tuple[str, ...]]:
    """Texts (ticks, titles, legend) of a figure that cover each other or leave the page."""
    figure.canvas = FigureCanvasAgg(figure)
    # Laid out, and not drawn, which would lay most of it out once more.
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine("none")
    for legend in figure.findobj(Legend):  # its texts are placed where they are drawn
        legend.draw(figure.canvas.get_renderer())
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    unseen = set()  # matplotlib keeps labels for ticks beyond an axis, and does not draw them
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = axis.get_major_ticks()
            unseen |= {tick.label1 for tick in ticks if not low <= tick.get_loc() <= high}
    boxes = []
    for text in figure.findobj(Text):
        if text in unseen or not text.get_in_layout():
            continue
        if text.get_text().strip() and text.get_visible():
            box = text.get_window_extent()
            if box.width > 1 and box.height > 1:
                boxes.append((text.get_text(), box.shrunk(0.9, 0.8)))
    inside = drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height
    return [("something leaves the page",)] * (not inside) + [
        (one, other) for (one, a), (other, b) in itertools.combinations(boxes, 2) if a.overlaps(b)
    ]


@pytest.mark.slow
def test_every_picture_is_there_and_no_text_covers_another(full: list[Finished]) -> None:
    with look():
        drawings = dict(_drawings(one_study(full)))
        assert set(drawings) >= {
            *(f"report_{loss}" for loss in TWELVE),
            *("accuracy_vs_rate", "accuracy_per_epoch", "memorised_recovered"),
            *("vanilla_vs_normalised", "transition", "ranking"),
        }
        assert any(name.startswith("confusion_sym") for name in drawings)
        assert any(name.startswith("confusion_asym") for name in drawings)
        alike = {name for name in drawings if name.startswith("report_") or name.endswith("_2")}
        for name in drawings.keys() - alike | {"report_nce_rce"}:
            assert text_faults(drawings[name]()) == [], name


@pytest.mark.slow
def test_the_ranking_is_over_the_rates_that_a_seed_has_all_of() -> None:
    runs = study(["ce", "mae", "nce"], GRID[:3])
    late = [run for run in runs if (run.config.loss, run.config.seed) == ("mae", 2)]
    runs = [run for run in runs if run is not late[-1]]  # of its last seed one rate is missing
    summary = summary_of(runs)
    noisy = summary[(summary["noise"] == "sym") & ~((summary.loss == "mae") & (summary.seed == 2))]
    means = 100 * noisy.groupby(["loss", "seed"])["test_accuracy"].mean().groupby("loss").mean()
    with look():
        figure = picture(runs, "ranking")
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [loss_label(loss) for loss in means.sort_values().index]
    drawn = [line.get_xdata()[0] for bars in axes.containers for line in [bars.lines[0]]]
    assert drawn == pytest.approx(means.sort_values().to_list())


@pytest.mark.slow
def test_against_the_rate_the_papers_loss_lies_on_top() -> None:
    """Under the others, and pale, nobody saw it."""
    with look():
        figure = picture(study(seeds=(0, 1)), "accuracy_vs_rate")
        alone = picture(study(["ce", "mae"], seeds=(0,)), "accuracy_vs_rate")
    for axes in figure.axes:
        curves = [line for line in axes.lines if line.get_marker() not in ("None", "")]
        assert len(curves) == len(TWELVE)
        (own,) = [line for line in curves if line.get_marker() == STYLES["nce_rce"].marker]
        others = [line for line in curves if line is not own]
        assert own.get_zorder() > max(line.get_zorder() for line in others)
        assert own.get_linewidth() > max(line.get_linewidth() for line in others)
        assert own.get_color() not in {line.get_color() for line in others}
    (legend,) = figure.legends
    thick = [line.get_linewidth() for line in legend.get_lines()]
    names = [text.get_text() for text in legend.get_texts()]
    assert names[thick.index(max(thick))] == "NCE+RCE"
    assert len({line.get_linewidth() for line in alone.legends[0].get_lines()[:-1]}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accuracy_per_epoch", "transition"])  # lines, and a heat map
def test_a_picture_is_what_savefig_draws(name: str, tmp_path: Path) -> None:
    runs = study(["ce", "nce_rce"], GRID[1:2], seeds=(1,), epochs=2)
    (png, _) = _write(lambda: picture(runs, name), tmp_path / name)
    with look():
        picture(runs, name).savefig(tmp_path / "saved.png", dpi=150)
    saved = imread(tmp_path / "saved.png")
    assert (saved[..., 3] == 1).all()  # nothing shows through
    assert (imread(png) == saved[..., :3]).all()


SCRIPT = """
from pathlib import Path
with open({begun!r}, "a") as file:
    file.write("begun ")
from apl.report import pictures, study
from apl.runs.record import read_runs

pictures.FEW_PICTURES = 1
drawn = pictures._of_all
pictures._of_all = lambda parts: dict([*drawn(parts).items()][:2])  # two of them are enough
parts = study.studies(read_runs(Path({one_run!r})))
print(len(pictures.plot_study(parts, Path("pictures"), processes=2)), "written")
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    """A script without a guard, which can't be started again."""
    one_run = str(ROOT / "results/evidence/cifar10-paper-ce")
    return SCRIPT.format(begun=str(tmp_path / "begun"), one_run=one_run)


def drawn_by_it(folder: Path) -> None:
    assert len(list((folder / "pictures").iterdir())) == 4
    assert (folder / "begun").read_text() == "begun "  # by no process but the user's own


@pytest.mark.slow
def test_a_script_that_asks_for_processes_has_its_pictures(script: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"{script}import sys\nassert 'torch' not in sys.modules\n")
    named: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "script.py"], **named)
    assert (done.returncode, done.stdout, done.stderr) == (0, "4 written\n", "")
    drawn_by_it(tmp_path)


@pytest.mark.slow
def test_a_script_from_stdin_that_asks_for_processes_has_its_pictures(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes are forked here, and begin by what a fresh one would run of its script."""
    monkeypatch.chdir(tmp_path)
    for name in ("FEW_PICTURES", "_of_all"):  # which it sets
        monkeypatch.setattr(pictures, name, getattr(pictures, name))
    main = types.ModuleType("__main__")  # it has no file
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(script, vars(main))
    drawn_by_it(tmp_path)


@pytest.mark.slow
def test_files_are_pictures_and_the_same_each_time_by_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "FEW_PICTURES", 1)
    drawn = pictures._of_all
    few = ("report_ce", "memorised_recovered", "transition")  # bars, lines, a heat map
    monkeypatch.setattr(
        pictures, "_of_all", lambda parts: {name: drawn(parts)[name] for name in few}
    )
    parts = studies(study(["ce", "nce"], GRID[1:2], seeds=(1,), epochs=2))
    told: list[tuple[int, int]] = []
    alone = plot_study(parts, tmp_path / "alone")
    shared = plot_study(
        parts, tmp_path / "shared", processes=2, progress=lambda *counts: told.append(counts)
    )
    assert len(alone) >= 2 * 2  # else they would not be shared
    assert told == [(done, len(alone) // 2) for done in range(len(alone) // 2 + 1)]
    assert [file.name for file in shared] == [file.name for file in alone]
    assert {file.suffix for file in alone} == {".png", ".svg"}
    assert set(alone) == set((tmp_path / "alone").iterdir())
    for one, other in zip(alone, shared, strict=True):
        assert one.read_bytes() == other.read_bytes()
        if one.suffix == ".png":
            pixels = imread(one)
            assert min(pixels.shape[:2]) > 300
            assert pixels.std() > 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"losses": ["ce"], "grid": GRID[2:3], "seeds": (0,), "epochs": 1},
        {"losses": ["ce", "2*nce + 0.5*mae"], "grid": GRID[:1], "seeds": (0,), "epochs": 2},
        {"losses": ["nce"], "grid": GRID[1:3], "classes": [str(k) for k in range(100)]},
        {"losses": ["mae"], "grid": [("human", "worse", 0.0)], "seeds": (0,)},
    ],
    ids=["one cell of one epoch", "clean only", "100 classes", "human"],
)
def test_small_and_odd_studies_have_pictures(given: dict[str, Any]) -> None:
    with look():
        figures = dict(draw_study(one_study(study(**given))))
        assert len(figures) >= 4
        for name, figure in figures.items():
            assert text_faults(figure) == [], name
            shown = [axes for axes in figure.axes if axes.get_visible()]
            assert all(axes.has_data() for axes in shown), name


def test_missing_numbers_are_left_out() -> None:
    runs = study(["ce", "mae"], GRID[:2], seeds=(0,), epochs=4)
    runs[0] = altered(runs[0], memorised=math.nan)
    for row in itertools.chain.from_iterable(run.history for run in runs):
        if row["epoch"] % 2:
            row["test_accuracy"] = math.nan
    with look():
        assert picture(runs, "accuracy_per_epoch").axes


def test_every_loss_has_a_style_of_its_own() -> None:
    assert set(STYLES) <= set(LOSSES)
    everything = method_styles([(loss, "") for loss in LOSSES]).values()
    seen = {(str(s.dash), s.marker, s.hollow, s.color) for s in everything}
    assert len(seen) == len(LOSSES)
    in_print = [(str(s.dash), s.marker, s.hollow) for s in STYLES.values()]
    assert len(set(in_print)) == len(STYLES)
    assert len({s.color for s in STYLES.values()}) == len(STYLES)
    mixed = method_styles([("ce", ""), ("ce", "lr=1"), ("2*nce + mae", ""), ("norm(gce)", "")])
    assert mixed["CE"] == STYLES["ce"]
    assert len({(str(s.dash), s.marker, s.hollow, s.color) for s in mixed.values()}) == 4


def cells(table: str, method: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {method} "))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def table_of(runs: list[Finished], published: pd.DataFrame | None = None) -> str:
    return results_table(studies(runs), published)


@pytest.mark.slow
def test_table_has_the_means_the_best_in_bold_and_a_dagger_on_the_collapsed(
    full: list[Finished],
) -> None:
    summary = summary_of(full)
    table = table_of(full)
    for column, (noise, _, rate) in enumerate(GRID):
        here = summary[(summary["noise"] == noise) & (summary["rate"] == rate)]
        groups = 100 * here.groupby("loss")["test_accuracy"].agg(["mean", "std"])
        best = groups["mean"].round(2).max()
        for loss in TWELVE:
            mean, std = groups.loc[loss]
            cell = cells(table, loss_label(loss))[column]
            assert f"{mean:.2f} ± {std:.2f}" in cell
            assert ("**" in cell) == (round(mean, 2) == best)
            assert ("†" in cell) == ((loss, noise, rate) == ("mae", "sym", 0.8))
    assert "clean test labels" in table
    assert "one-class" in table


def test_a_budget_too_short_to_memorise_is_told_in_the_table() -> None:
    runs = study(["ce", "nce_rce"], GRID[1:3], seeds=(0,))
    assert "memorised hardly any" not in table_of(runs)
    short = [altered(r, memorised=0.05) if r.config.rate == 0.2 else r for r in runs]
    told = "At sym 0.2 even losses that do not resist wrong labels memorised hardly any"
    assert told in table_of(short)
    robust = [run for run in short if run.config.loss == "nce_rce"]
    assert "memorised hardly any" not in table_of(robust)


@pytest.mark.slow
@pytest.mark.parametrize("matrix", [True, False], ids=["no label wrong", "unknown matrix"])
def test_human_labels_are_not_taken_for_clean_ones(matrix: bool) -> None:
    # Their rate is that of the matrix; where it comes to 0, or nobody knows it, they stay theirs.
    runs = study(["ce", "mae"], [("none", "", 0.0), ("human", "worse", 0.0)], seeds=(0,))
    if not matrix:
        runs = [altered(r, transition=None) if r.config.noise == "human" else r for r in runs]
    table = table_of(runs)
    assert cells(table, "Method") == ["clean", "human worse"]
    for loss in ("ce", "mae"):
        assert [cell.strip("*") for cell in cells(table, loss_label(loss))] == [
            f"{100 * run.result.test_accuracy:.2f}" for run in runs if run.config.loss == loss
        ]
    with look():
        for name, figure in draw_study(one_study(runs)):
            assert text_faults(figure) == [], name
            assert not any("nan" in text.get_text() for text in figure.findobj(Text)), name


@pytest.mark.slow
def test_a_study_of_unknown_truth_names_its_labels_and_draws_what_it_knows() -> None:
    runs = [unknown(run) for run in study(["ce", "nce_rce"], GRID[:1], seeds=(0, 1), epochs=3)]
    one = one_study(runs)
    assert one.labels == "given test labels"
    table = results_table([one])
    assert "on given test labels; mean ± std over 2 seeds" in table
    assert "clean test labels" not in table
    assert "nan" not in table
    mean = 100 * np.mean([r.result.test_accuracy for r in runs if r.config.loss == "ce"])
    assert cells(table, "CE")[0].strip("*").startswith(f"{mean:.2f} ± ")
    with look():
        figures = dict(draw_study(one))
    assert {"report_ce", "accuracy_vs_rate", "accuracy_per_epoch"} <= set(figures)
    assert not {"transition", "memorised_recovered"} & set(figures)
    # With one run whose truth is known, both are named.
    mixed = one_study([*runs[1:], study(["ce"], GRID[:1], seeds=(0,), epochs=3)[0]])
    assert "clean test labels, or given ones where the truth is unknown" in results_table([mixed])


def with_curve(run: Finished, test: list[float], held: list[float] | None = None) -> Finished:
    """The same run, its test accuracy epoch by epoch as given, the last being its result."""
    rows = zip(run.history, test, strict=True)
    run = run._replace(history=[{**row, "test_accuracy": value} for row, value in rows])
    run = altered(run, test_accuracy=test[-1])
    return held_out(run, held) if held else run


def test_last_best_and_chosen_epoch_stand_side_by_side() -> None:
    nan = math.nan
    given: dict[str, Any] = {"grid": GRID[2:3], "seeds": (0, 1), "epochs": 4, "select": "noisy"}
    ce0, ce1, rce0, rce1 = study(["ce", "nce_rce"], **given)
    runs = [
        with_curve(ce0, [nan, 0.8, 0.7, 0.4], [nan, 0.5, 0.6, 0.3]),  # chosen: the third
        with_curve(ce1, [nan, 0.6, 0.5, 0.4], [nan, 0.5, 0.5, 0.3]),  # the last of equal ones
        with_curve(rce0, [nan, 0.5, 0.55, 0.6], [nan, 0.2, 0.3, 0.4]),
        with_curve(rce1, [nan, 0.5, 0.55, 0.6], [nan, 0.2, 0.3, 0.4]),
    ]
    table = table_of(runs)
    heading, _, first, second, *_ = table[table.index("| Method  | Noise") :].splitlines()
    assert cells(heading, "Method") == ["Noise", "Last epoch", "Best epoch", "Chosen epoch"]
    assert cells(first, "CE") == [
        "sym 0.4",
        "40.00 ± 0.00",
        "**70.00 ± 14.14**",
        "**60.00 ± 14.14**",
    ]
    assert cells(second, "NCE+RCE") == [
        "sym 0.4",
        "**60.00 ± 0.00**",
        "60.00 ± 0.00",
        "**60.00 ± 0.00**",
    ]
    assert "so it is no result" in table
    assert max(map(len, (heading, first, second))) <= 80


def test_the_loss_that_held_out_labels_choose_stands_beside_the_best() -> None:
    given: dict[str, Any] = {"grid": GRID[2:3], "seeds": (0, 1), "epochs": 2, "select": "noisy"}
    runs = [
        with_curve(run, [0.3, test], [held[0], held[1 + run.config.seed]])
        for run in study(["ce", "nce_rce", "2*nce+mae"], **given)
        for test, held in [
            {
                "ce": (0.5, [0.9, 0.41, 0.43]),  # held out, epoch 1 is no end of any run
                "nce_rce": (0.6, [0.1, 0.40, 0.40]),
                "2*nce+mae": (0.55, [0.1, 0.2, 0.6]),
            }[run.config.loss]
        ]
    ]
    table = table_of(runs)
    line = table[table.index("| Noise   | Chosen") :].splitlines()[2]
    assert cells(line, "sym 0.4") == [
        *("CE", "42.00", "50.00 ± 0.00"),
        *("NCE+RCE", "60.00 ± 0.00"),
    ]


def test_of_human_noise_last_and_best_epoch_are_always_told_and_of_other_noise_never() -> None:
    runs = study(["ce", "nce_rce"], [*GRID[2:3], ("human", "worse", 0.0)], seeds=(0,), epochs=3)
    table = table_of(runs)
    heading, _, *rows = table[table.index("| Method  | Noise") :].splitlines()
    assert cells(heading, "Method") == ["Noise", "Last epoch", "Best epoch"]
    assert [row.split("|")[2].strip() for row in rows[:2]] == ["human worse"] * 2
    assert not rows[2]
    assert "Chosen" not in table
    assert "Best epoch" not in table_of(runs[:1])


def test_published_figures_stand_beside_ours() -> None:
    published = published_rows()
    table = table_of(study(["ce", "nce_rce"], GRID[:3], seeds=(0, 1)), published)
    rows = published[published["dataset"] == "cifar10"].set_index(["method", "noise", "rate"])
    theirs = rows.loc[("nce_rce", "sym", 0.4)]
    lines = [line for line in table.splitlines() if line.startswith("| NCE+RCE | sym 0.4 ")]
    assert len(lines) == 2  # by its authors, and by others
    for line, rerun in zip(lines, (False, True), strict=True):
        assert all(f"{mean:.2f}" in line for mean in theirs.loc[theirs["rerun"] == rerun, "mean"])
        heading = table[: table.index(line)].rpartition("| Method")[2].splitlines()[0]
        assert all(paper in heading for paper in theirs.loc[theirs["rerun"] == rerun, "paper"])
    assert "| CE      | sym 0.4 " in table.split("methods of others")[1]
    assert "| CE      | sym 0.4 " not in table.split("own methods")[1].split("methods of others")[0]


HERE = {
    **{"dataset": "cifar10", "noise": "sym", "map": "", "rate": 0.4, "method": "nce"},
    **{"mean": 60.0, "std": 0.5, "paper": "A", "network": "cnn8", "epochs": 120.0},
    **{"epoch": "last", "rerun": False, "quoted": False, "doubtful": "", "source": "a table"},
}


def beside(runs: list[Finished], *rows: dict[str, Any]) -> tuple[str, list[Beside]]:
    return beside_published(one_study(runs), pd.DataFrame([{**HERE, **row} for row in rows]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        {"paper": "B"},
        {"network": "resnet34"},
        {"network": ""},
        {"epochs": 100.0},
        {"epochs": math.nan},
        {"quoted": True},
    ],
)
def test_no_column_has_two_protocols(other: dict[str, Any]) -> None:
    runs = study(["nce", "nce_rce"], GRID[2:3], seeds=(0, 1), epochs=3)
    _, (table,) = beside(runs, {}, {**other, "method": "nce_rce"}, {**other, "mean": 10.0})
    assert len(table.columns) == len(set(table.columns)) == 2
    (nce, _, _, of_nce), (nce_rce, _, _, of_nce_rce) = table.rows
    assert (nce, nce_rce) == ("NCE", "NCE+RCE")
    assert {place: figure.mean for place, figure in of_nce.items()} == {0: 60.0, 1: 10.0}
    assert list(of_nce_rce) == [1]


@pytest.mark.parametrize("other", [{"rerun": True}, {"epoch": "best"}, {"epoch": ""}])
def test_methods_of_others_and_other_epochs_are_tables_of_their_own(other: dict[str, Any]) -> None:
    runs = study(["nce", "ce"], GRID[2:3], seeds=(0,), epochs=2)
    _, tables = beside(runs, {**other, "method": "ce"}, {})
    assert [[row[0] for row in table.rows] for table in tables] == [["NCE"], ["CE"]]
    assert [table.columns for table in tables] == [[("A", "cnn8, 120 epochs")]] * 2
    assert len({table.about for table in tables}) == 2


@pytest.mark.slow
def test_a_noise_stands_beside_the_same_noise_only() -> None:
    rows = [
        {"noise": "idn-uniform", "map": "normalised", "mean": 1.0},
        {"noise": "idn-part", "map": "raw", "mean": 2.0},
        {"noise": "sym-all", "mean": 3.0},
        {"noise": "asym", "map": "blocks", "mean": 4.0},
        {"noise": "human", "map": "worse", "mean": 5.0, "rate": 0.4021},
        {"noise": "human", "map": "aggre", "mean": 6.0, "rate": 0.0903},
        {"rate": 0.2, "mean": 7.0},
        {"dataset": "cifar100", "mean": 8.0},
        {"mean": 9.0},
    ]
    for (noise, map, rate), mean in {
        ("idn-uniform", "normalised", 0.4): 1.0,
        ("idn-part", "raw", 0.4): 2.0,
        ("sym-all", "", 0.4): 3.0,
        ("human", "worse", 0.0): 5.0,
        ("human", "aggre", 0.0): 6.0,
        ("sym", "", 0.4): 9.0,
    }.items():
        runs = study(["nce"], [(noise, map, rate)], seeds=(0,), epochs=2)
        _, (table,) = beside(runs, *rows)
        assert [f.mean for row in table.rows for f in row[-1].values()] == [mean]
    for noise, map, rate in (
        ("asym", "paper", 0.4),
        ("idn-uniform", "raw", 0.4),
        ("pair", "", 0.4),
    ):
        runs = study(["nce"], [(noise, map, rate)], seeds=(0,), epochs=2)
        assert beside(runs, *rows) == ("", [])
    # The label files that papers share are the noise that made them, at the rate of their name.
    everything = published_rows()
    everything = everything[everything["dataset"] == "cifar10"]
    file = published_at(everything, "file", "/data/cifar10_dependent_0.4.json", 39.9)
    assert len(file)
    pd.testing.assert_frame_equal(file, published_at(everything, "idn-uniform", "normalised", 40))
    assert published_at(everything, "file", "/data/mine.npy", 40.0).empty


def test_ours_at_the_published_epoch_is_what_is_subtracted() -> None:
    (run,) = study(["nce"], [("human", "worse", 0.0)], seeds=(0,), epochs=3)
    accuracies = zip(run.history, (0.5, 0.7, 0.6), strict=True)
    curve = [{**row, "test_accuracy": accuracy} for row, accuracy in accuracies]
    run = altered(run._replace(history=curve), test_accuracy=0.6)
    human = {"noise": "human", "map": "worse", "rate": 0.4}
    for epoch, mean, ours, shown, difference in (
        ("last", 61.0, 60, "last epoch", "-1.00"),
        ("best", 71.0, 70, "best epoch", "-1.00"),
        ("other", 55.0, 60, "last epoch", ""),
        ("", 55.0, 60, "last epoch", ""),
    ):
        _, (table,) = beside([run], {**human, "mean": mean, "epoch": epoch})
        assert table.ours == shown
        ((_, setting, (here, _), theirs),) = table.rows
        assert setting == "human worse"
        assert here == pytest.approx(ours)
        assert theirs[0].difference == difference
        assert ("less the paper" in table.notes[0]) == bool(difference)


def test_what_is_doubtful_is_marked_and_says_why() -> None:
    runs = study(["nce"], GRID[2:3], seeds=(0,), epochs=2)
    rows = pd.DataFrame([{**HERE, "doubtful": "two tables of the paper differ"}])
    table = results_table([one_study(runs)], rows)
    assert "| 60.00 ± 0.50‡ (" in table
    assert "- ‡ NCE: two tables of the paper differ." in table
    assert "‡" not in results_table([one_study(runs)], pd.DataFrame([HERE]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"preset": "paper", "epochs": 120}, "all training images. So did the papers."),
        ({"preset": "paper", "epochs": 120, "width": 32}, "all training images. No paper did so: "),
        ({"preset": "paper", "epochs": 50}, "50 epochs, all training images. No paper did so: "),
        ({"preset": "laptop"}, "cnn5 of width 32, 10 epochs, 10,000 training images. No paper did"),
    ],
)
def test_the_protocol_is_told_where_it_is_not_the_papers(given: dict[str, Any], told: str) -> None:
    runs = study(["nce", "ce"], GRID[2:3], seeds=(0,), **given)
    line, _ = beside(runs, {}, {"method": "ce"})
    assert told in line
    if "So did" in told:
        line, _ = beside(runs, {}, {"paper": "B", "network": "resnet34", "epochs": 200.0})
        assert "all training images. A did so; elsewhere a difference" in line


def test_every_published_row_says_its_protocol_once() -> None:
    rows = published_rows()
    key = ["dataset", "noise", "map", "rate", "method"]
    assert not rows.duplicated([*key, "paper", "network", "epochs", "epoch", "quoted"]).any()
    assert set(rows["noise"]) <= {*NOISES, "real"}
    maps = rows.loc[rows["noise"] == "human", "map"]
    assert set(maps) <= {*NOISES["human"].names, "noisy"}
    assert set(rows["epoch"]) == {"last", "best", "other", ""}
    said = {"BEST epoch": "best", "last epoch": "last", "LAST epoch": "last"}
    for words, epoch in said.items():
        assert set(rows.loc[rows["source"].str.contains(words), "epoch"]) == {epoch}
    said = {"ResNet-34": "resnet34", "ResNet-50": "resnet50", "8-layer": "cnn8", "LeNet": "lenet5"}
    for words, network in said.items():
        several = rows["source"].str.contains("two networks")  # as much as that is all that is said
        there = rows["source"].str.contains(words) & ~several
        assert set(rows.loc[there, "network"]) == {network}
    assert rows.loc[rows["source"].str.contains("third-party|quoted in"), "quoted"].all()
    assert (rows.loc[rows["source"].str.contains("doubtful|clipping rule"), "doubtful"] != "").all()
    assert rows["mean"].between(0, 100).all()
    assert rows["source"].str.len().min() > 10


REFERENCE = ROOT.parent / "shared/reference/published_more.csv"


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference is not here to compare with")
def test_no_figure_of_the_reference_is_lost_or_changed() -> None:
    reference = pd.read_csv(REFERENCE)
    assert len(reference) == 672
    # Where a figure was read ours say in other words.
    numbers = ["dataset", "rate", "mean", "std", "paper"]
    theirs = reference.groupby(numbers, dropna=False).size()
    counts = published_rows().groupby(numbers, dropna=False).size()
    ours = counts.reindex(theirs.index, fill_value=0)
    assert theirs[ours < theirs].empty


@pytest.mark.slow
def test_settings_shared_by_a_study_keep_the_published_figures_and_changed_losses_do_not() -> None:
    published = published_rows()
    losses = ["rce", "nce_rce"]
    given: dict[str, Any] = {"grid": GRID[:3], "seeds": (0,)}
    shorter = study(losses, **given, epochs=20, precision="bf16")
    assert "20 epochs, 1 seed, precision=bf16**" in table_of(shorter)
    assert "Published" in table_of(shorter, published)
    changed = study(losses, **given, epochs=50, A=-6.0)
    assert "A=-6" in table_of(changed)
    assert "Published" not in table_of(changed, published)
    one = study(["ce"], **given) + study(["nce_rce"], **given, beta=2.0)
    told = table_of(one, published).split("Published", 1)[1]
    assert "| CE " in told
    assert "NCE+RCE" not in told


@pytest.mark.slow
def test_where_published_runs_end_is_marked_in_the_papers_own_recipe_only() -> None:
    grid = [GRID[0], GRID[3]]
    losses = ["ce", "nce_rce", "2*nce + mae"]
    published = published_rows().drop_duplicates(["dataset", "method", "noise", "rate"])
    published = published[published["dataset"] == "cifar10"]
    ends = published.set_index(["method", "noise", "rate"])["mean"]

    def marked(preset: str) -> list[list[float]]:
        with look():
            runs = study(losses, grid, seeds=(0,), epochs=5, preset=preset)
            figure = picture(runs, "accuracy_per_epoch")
            assert text_faults(figure) == []
        named = any(text.get_text() == "published (last epoch)" for text in figure.findobj(Text))
        assert named == (preset == "paper")
        return [
            [line.get_ydata()[0] for line in axes.lines if line.get_marker() == "<"]
            for axes in figure.axes
        ]

    wanted = [[ends[loss, noise, rate] for loss in ("ce", "nce_rce")] for noise, _, rate in grid]
    assert marked("paper") == wanted
    assert marked("laptop") == [[], []]


@pytest.mark.slow
def test_transition_of_labels(tmp_path: Path) -> None:
    labels = corrupt(np.repeat(np.arange(3), 50), symmetric(3, 0.3))
    written = plot_transition(labels, ["a", "b", "c"], tmp_path / "x_sym-0.3", "x")
    assert [path.name for path in written] == ["x_sym-0.3.png", "x_sym-0.3.svg"]
    assert all(path.stat().st_size > 3000 for path in written)
    # Of labels that nobody drew by a matrix there is the one found in them, alone.
    bare = replace(labels, transition=None)
    alone = plot_transition(bare, ["a", "b", "c"], tmp_path / "y", "y")
    assert imread(alone[0]).shape[1] < imread(written[0]).shape[1]


@pytest.mark.slow
def test_pairs_that_were_run_with_some_kinds_of_noise_only_are_drawn() -> None:
    without = {"ce": "asym", "nce": "asym", "fl": "sym", "nfl": "sym"}
    kept = [
        run
        for run in study(["ce", "nce", "fl", "nfl", "mae"], GRID[1:], seeds=(0,), epochs=2)
        if run.config.noise != without.get(run.config.loss)
    ]
    with look():
        figure = picture(kept, "vanilla_vs_normalised")
    drawn = [axes.get_visible() for axes in figure.axes]
    assert drawn == [True, False, False, True]


def test_a_rate_of_zero_counts_once_whatever_its_kind() -> None:
    runs = study(["ce"], [("none", "", 0.0), ("sym", "", 0.0), ("sym", "", 0.2)])
    one = one_study(runs)
    assert one.runs.groupby("setting").size().to_dict() == {"clean": 3, "sym 0.2": 3}
    assert "n = " not in results_table([one]).replace("n says", "")


def test_published_figures_are_those_of_the_data_set() -> None:
    runs = study(["ce"], GRID[1:2], seeds=(0,))
    (other,) = study(["ce"], GRID[1:2], seeds=(0,), dataset="cifar100")
    published = published_rows()
    ten, hundred = table_of([*runs, other._replace(name="other")], published).split("**cifar100,")
    assert ten.startswith("**cifar10,")
    same = (published[["method", "noise", "rate"]] == ["ce", "sym", 0.2]).all(axis=1)
    for part, dataset in ((ten, "cifar10"), (hundred, "cifar100")):
        shown = "".join(line for line in part.splitlines() if line.startswith("| CE "))
        of_part = published[same & (published["dataset"] == dataset)]
        there = {mean_std(*row) for row in of_part[["mean", "std"]].to_numpy()}
        others = published[same & (published["dataset"] != dataset)]
        absent = {mean_std(*row) for row in others[["mean", "std"]].to_numpy()} - there
        assert all(figure in shown for figure in there)
        assert not any(figure in shown for figure in absent)


def test_settings_that_all_runs_share_are_told_once_and_name_no_method() -> None:
    given: dict[str, Any] = {"width": 16, "train_size": 5000, "lr": 0.032}
    one = one_study(study(["ce", "nce_rce"], seeds=(1,), **given))
    assert list(one.styles) == ["CE", "NCE+RCE"]
    assert one.caption.endswith("1 seed, width=16, train_size=5000, lr=0.032")
    assert one.shared == given
    changed = study(["nce_rce"], seeds=(1,), **given, alpha=2.0)
    two = one_study(study(["ce"], seeds=(1,), **given) + changed)
    assert list(two.styles) == ["CE", "NCE+RCE (alpha=2)"]
    assert one_study(study(["ce", "nce_rce"], seeds=(1,))).shared == {}


def test_features_that_all_networks_see_by_are_told_once() -> None:
    runs = study(["ce"], seeds=(1,), features="lite0", network="linear")
    runs += study(["nce_rce"], seeds=(1,), features="lite0", network="mlp")
    assert one_study(runs).caption.count("on features: EfficientNet-Lite0") == 1
