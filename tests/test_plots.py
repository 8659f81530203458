"""The pictures and the table, from made-up results that look like real ones."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Text

from apl.losses import LOSSES
from apl.noise import corrupt, symmetric
from apl.report.pictures import (
    STYLES,
    draw_study,
    look,
    method_styles,
    plot_study,
    plot_transition,
    results_table,
    studies,
)
from apl.report.published import published_rows, published_table

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
    epochs: int = 20,
    classes: list[str] = CIFAR10,
    collapse: tuple[str, str, float, int] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Made-up runs: losses that are not tolerant memorise, MAE and RCE are slow to learn.

    collapse: the (loss, noise, rate, seed) of a run that ends with one class only.
    """
    rng = np.random.default_rng(0)
    count = len(classes)
    runs, history = [], []
    for loss, (noise, table, rate), seed in itertools.product(losses, grid, seeds):
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
        if dead:
            per_class = np.eye(count)[3]
        wrong = (1 - per_class)[:, None] * (1 - np.eye(count)) / (count - 1)
        confusion = np.array([rng.multinomial(1000, row) for row in np.diag(per_class) + wrong])
        run = f"{loss}-{noise}-{rate}-{seed}"
        runs.append(
            {
                "run": run,
                "dataset": "cifar10",
                "preset": "laptop",
                "loss": loss,
                "variant": "",
                "noise": noise,
                "map": table,
                "rate": rate,
                "seed": seed,
                "epochs": epochs,
                "collapsed": dead,
                "reason": "one-class" if dead else "",
                "too_short": False,
                "test_accuracy": curve[-1],
                "train_accuracy": curve[-1],
                "memorised": memorised[-1] if rate else np.nan,
                "recovered": 0.9 - memorised[-1] if rate else np.nan,
                "class_names": list(classes),
                "per_class_accuracy": per_class.tolist(),
                "confusion": confusion.tolist(),
                "transition": transition(noise, rate, count).tolist(),
            }
        )
        for epoch in range(epochs):
            history.append(
                {
                    "run": run,
                    "epoch": epoch + 1,
                    "lr": 0.01,
                    "train_loss": 1.0,
                    "train_accuracy": curve[epoch],
                    "memorised": memorised[epoch] if rate else np.nan,
                    "recovered": 0.9 * curve[epoch] if rate else np.nan,
                    "test_accuracy": curve[epoch],
                }
            )
    return pd.DataFrame(runs), pd.DataFrame(history)


@pytest.fixture(scope="module")
def full() -> tuple[pd.DataFrame, pd.DataFrame]:
    return study(collapse=("mae", "sym", 0.8, 2))


def text_faults(figure: Any) -> list[tuple[str, ...]]:
    """Texts (ticks, titles, legend) of a figure that cover each other or leave the page."""
    figure.canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
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
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    inside = drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= width and drawn.y1 <= height
    return [("something leaves the page",)] * (not inside) + [
        (one, other) for (one, a), (other, b) in itertools.combinations(boxes, 2) if a.overlaps(b)
    ]


def test_every_picture_is_there_and_no_text_covers_another(
    full: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    with look():
        figures = dict(draw_study(*full))
        assert set(figures) >= {
            *(f"report_{loss}" for loss in TWELVE),
            *("accuracy_vs_rate", "accuracy_per_epoch", "memorised_recovered"),
            *("vanilla_vs_normalised", "transition"),
        }
        assert any(name.startswith("confusion_sym") for name in figures)
        assert any(name.startswith("confusion_asym") for name in figures)
        for name, figure in figures.items():
            if not name.startswith("report_") or name == "report_nce_rce":  # those are all alike
                assert text_faults(figure) == [], name


def test_files_are_pictures_and_the_same_each_time(tmp_path: Path) -> None:
    data = study(["nce_rce"], GRID[:3], seeds=(1, 2), epochs=5)
    for name in ("a", "b"):
        plot_study(*data, tmp_path / name)
    written = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {Path(name).suffix for name in written} == {".png", ".svg"}
    for name in written:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        if name.endswith(".png"):
            pixels = imread(tmp_path / "a" / name)
            assert min(pixels.shape[:2]) > 300
            assert pixels[..., :3].std() > 0.02


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
        figures = dict(draw_study(*study(**given)))
        assert len(figures) >= 4
        for name, figure in figures.items():
            assert text_faults(figure) == [], name
            shown = [axes for axes in figure.axes if axes.get_visible()]
            assert all(axes.has_data() for axes in shown), name


def test_missing_numbers_are_left_out() -> None:
    summary, histories = study(["ce", "mae"], GRID[:2], seeds=(0,), epochs=4)
    histories["test_accuracy"] = histories["test_accuracy"].where(histories["epoch"] % 2 == 0)
    summary.loc[0, "memorised"] = np.nan
    with look():
        assert "accuracy_per_epoch" in dict(draw_study(summary, histories))


def test_every_loss_has_a_style_of_its_own() -> None:
    assert set(STYLES) == set(LOSSES)
    in_print = [(str(s.dash), s.marker, s.hollow) for s in STYLES.values()]
    assert len(set(in_print)) == len(STYLES)
    assert len({s.color for s in STYLES.values()}) == len(STYLES)
    mixed = method_styles([("ce", ""), ("ce", "lr=1"), ("2*nce + mae", ""), ("norm(gce)", "")])
    assert mixed["CE"] == STYLES["ce"]
    assert len({(str(s.dash), s.marker, s.hollow, s.color) for s in mixed.values()}) == 4


def cells(table: str, method: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {method} "))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_table_has_the_means_the_best_in_bold_and_a_dagger_on_the_collapsed(
    full: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    summary, _ = full
    table = results_table(summary)
    for column, (noise, _, rate) in enumerate(GRID):
        here = summary[(summary["noise"] == noise) & (summary["rate"] == rate)]
        groups = 100 * here.groupby("loss")["test_accuracy"].agg(["mean", "std"])
        best = groups["mean"].round(2).max()
        for loss in TWELVE:
            mean, std = groups.loc[loss]
            cell = cells(table, LOSSES[loss].label)[column]
            assert f"{mean:.2f} ± {std:.2f}" in cell
            assert ("**" in cell) == (round(mean, 2) == best)
            assert ("†" in cell) == ((loss, noise, rate) == ("mae", "sym", 0.8))
    assert "clean test labels" in table
    assert "one-class" in table


def test_a_budget_too_short_to_memorise_is_told_in_the_table() -> None:
    summary, _ = study(["ce", "nce_rce"], GRID[1:3], seeds=(0,))
    assert "too short" not in results_table(summary)
    low = summary["rate"] == 0.2
    summary.loc[low, "memorised"] = 0.05
    assert "by any method at sym 0.2: this budget is too short" in results_table(summary)
    robust = summary[summary["loss"] == "nce_rce"]
    assert "too short" not in results_table(robust)


def test_human_labels_are_not_taken_for_clean_ones() -> None:
    # A config without a rate says 0, which for human labels does not mean that none is wrong.
    summary, _ = study(["ce", "mae"], [("none", "", 0.0), ("human", "worse", 0.0)], seeds=(0,))
    summary["transition"] = [[]] * len(summary)
    by = summary.set_index(["loss", "noise"])["test_accuracy"]
    table = results_table(summary)
    assert [cell.strip("*") for cell in cells(table, "CE")] == [
        f"{100 * by['ce', 'none']:.2f}",
        f"{100 * by['ce', 'human']:.2f}",
    ]


def test_published_figures_stand_beside_ours() -> None:
    summary, _ = study(["ce", "nce_rce"], GRID[:3], seeds=(0, 1))
    published = published_table("cifar10")
    assert published is not None
    table = results_table(summary, published)
    row = published.set_index(["method", "noise", "rate"]).loc[("nce_rce", "sym", 0.4)]
    assert f"{row['mean']:.2f}" in table
    assert row["paper"] in table


def test_settings_shared_by_a_study_keep_the_published_figures_and_changed_losses_do_not() -> None:
    summary, _ = study(["ce", "nce_rce"], GRID[:3], seeds=(0,))
    published = published_table("cifar10")
    shorter = summary.assign(variant="epochs=20,precision=bf16")
    assert "20 epochs, 1 seed, precision=bf16**" in results_table(shorter)
    assert "Published" in results_table(shorter, published)
    assert "Published" not in results_table(summary.assign(variant="epochs=50,A=-6"), published)
    one = summary.assign(variant=["beta=2" * (loss == "nce_rce") for loss in summary["loss"]])
    beside = results_table(one, published).split("Published")[1]
    assert "| CE " in beside
    assert "NCE+RCE" not in beside


def test_where_published_runs_end_is_marked_in_the_papers_own_recipe_only() -> None:
    grid = [GRID[0], GRID[3]]
    summary, histories = study(["ce", "nce_rce", "2*nce + mae"], grid, seeds=(0,), epochs=5)
    published = published_table("cifar10")
    assert published is not None
    ends = published.set_index(["method", "noise", "rate"])["mean"]

    def marked(preset: str) -> list[list[float]]:
        with look():
            figures = dict(draw_study(summary.assign(preset=preset), histories))
            figure = figures["accuracy_per_epoch"]
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


def test_transition_of_labels(tmp_path: Path) -> None:
    labels = corrupt(np.repeat(np.arange(3), 50), symmetric(3, 0.3))
    written = plot_transition(labels, ["a", "b", "c"], tmp_path / "x_sym-0.3", "x")
    assert [path.name for path in written] == ["x_sym-0.3.png", "x_sym-0.3.svg"]
    assert all(path.stat().st_size > 3000 for path in written)


def test_pairs_that_were_run_with_some_kinds_of_noise_only_are_drawn() -> None:
    summary, histories = study(["ce", "nce", "fl", "nfl", "mae"], GRID[1:], seeds=(0,), epochs=2)
    without = {"ce": "asym", "nce": "asym", "fl": "sym", "nfl": "sym"}
    kept = [
        noise != without.get(loss)
        for loss, noise in zip(*summary[["loss", "noise"]].T.values, strict=True)
    ]
    with look():
        figures = dict(draw_study(summary[kept], histories))
    drawn = [axes.get_visible() for axes in figures["vanilla_vs_normalised"].axes]
    assert drawn == [True, False, False, True]


def test_a_rate_of_zero_counts_once_whatever_its_kind() -> None:
    summary, _ = study(["ce"], [("none", "", 0.0), ("sym", "", 0.0), ("sym", "", 0.2)])
    (one,) = studies(summary)
    assert one.runs.groupby("setting").size().to_dict() == {"clean": 3, "sym 0.2": 3}
    assert "n = " not in results_table(summary).replace("n says", "")


def test_published_figures_are_those_of_the_data_set() -> None:
    cifar, _ = study(["ce"], GRID[1:2], seeds=(0,))
    other = cifar.assign(dataset="cifar100", run="other")
    table = results_table(pd.concat([cifar, other], ignore_index=True), published_rows())
    assert table.count("Published") == 1


def test_settings_that_all_runs_share_are_told_once_and_name_no_method() -> None:
    summary, histories = study(["ce", "nce_rce"], seeds=(1,))
    given = "width=32,train_size=5000,lr=0.032"
    (one,) = studies(summary.assign(variant=given), histories)
    assert list(one.styles) == ["CE", "NCE+RCE"]
    assert one.caption.endswith("1 seed, width=32, train_size=5000, lr=0.032")
    other = summary.assign(
        variant=[f"{given},alpha=2" if loss == "nce_rce" else given for loss in summary["loss"]]
    )
    (two,) = studies(other, histories)
    assert list(two.styles) == ["CE", "NCE+RCE (alpha=2)"]
    assert studies(summary, histories)[0].shared == ()
