"""The pictures of a study: one function a picture.

What can be drawn is known by name before anything is drawn, so that several processes share the
work: a large study has some twenty pictures, of which each takes about a second.
"""

from __future__ import annotations

import gc
import io
import math
import multiprocessing
import os
import re
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from PIL import Image

from apl.config.published import own_protocol, published_at, published_rows
from apl.cores import leave_ctrl_c_to_the_parent, without_script
from apl.files import write_atomic
from apl.losses.catalog import LOSSES
from apl.names import NOISES
from apl.noise.labels import Labels
from apl.report.fonts import families
from apl.report.results import choices
from apl.report.study import HEADLINE, STYLES, Study, Style, given, method_label, with_headline

# --------------------------------------------------------------------------------------- drawing

_LOOK = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10.5,
    "figure.titlesize": 12,
    "legend.fontsize": 10,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.handlelength": 4.2,
    "figure.constrained_layout.h_pad": 0.09,
    "figure.constrained_layout.w_pad": 0.09,
    "svg.hashsalt": "apl",  # else the ids in an svg are random
    "text.parse_math": False,  # names come from files, and a '$' in one is no formula
}
_LOCK = threading.RLock()
RATE = "Noise rate (%)"
FEW, MANY_LINES = (
    6,
    8,
)  # methods that a small panel tells apart, and from how many on they are fewer
BEHIND = Style("#c3c9d0", "solid", "")


def accuracy(study: Study) -> str:
    """What an axis of accuracies says; of labels whose truth nobody knows, that."""
    return f"Accuracy on {study.labels} (%)" if study.on_given else "Test accuracy (%)"


def on_labels(study: Study) -> str:
    """For a title."""
    return ", on given labels" if study.on_given else ""


@contextmanager
def look(text: str = "") -> Iterator[None]:
    """Draw with the project's settings, whatever the user's are; one thread at a time.

    text: the names that stand in the pictures, which may take other fonts.
    """
    fonts = families(text)
    chosen = {**_LOOK, "font.family": fonts} if len(fonts) > 1 else _LOOK
    with (
        _LOCK,
        matplotlib.style.context(chosen, after_reset=True),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # it was said once, in `families`
        yield


def names_in(parts: Sequence[Study]) -> str:
    """The names from people's files that stand in pictures of these."""
    return "".join(text for part in parts for text in (part.caption, *part.classes, *part.styles))


def _canvas(
    caption: str, title: str, rows: int, cols: int, size: tuple[float, float], **subplots: Any
) -> tuple[Figure, Any]:
    """A figure and its grid of axes, `size` inches each; captioned with what was run."""
    width = size[0] * min(1.0, 17 / (size[0] * cols))  # a page wide at most
    # The legend and the title need room also where there is one small panel.
    figure = Figure(figsize=(width * cols + 2.2, size[1] * rows + 0.9), layout="constrained")
    lines = textwrap.fill(caption, int(9 * figure.get_figwidth()))  # 9 characters to an inch fit
    figure.suptitle(f"{title}\n{lines}", linespacing=1.4)
    return figure, figure.subplots(rows, cols, squeeze=False, **subplots)


def _legend(figure: Any, study: Study, methods: Sequence[str], extra: Sequence[Any] = ()) -> None:
    """The methods' legend, beside the axes."""
    lines = [Line2D([], [], label=method, **study.styles[method].line()) for method in methods]
    handles = [*lines, *extra]
    figure.legend(handles=handles, loc="outside right center", ncols=math.ceil(len(handles) / 24))


def _draw(
    axes: Any, study: Study, frame: pd.DataFrame, x: str, y: str
) -> dict[tuple[str, float], tuple[float, float]]:
    """Mean of y over the seeds against x, a line a method, with a band of ± std.

    Where x takes one value, lines would be points on top of each other: they go side by side.
    Returns where each (method, x) was drawn.
    """
    points = frame.dropna(subset=[y]).groupby(["method", x])[y].agg(["mean", "std"])
    points = points.fillna({"std": 0.0}).reset_index()
    methods = [method for method in study.styles if method in set(points["method"])]
    beside = len(methods) > 1 and points[x].nunique() == 1
    drawn = {}
    rows = points[[x, "mean", "std"]].to_numpy(dtype=float)
    axes.set_autoscale_on(False)  # until all is there: each band would scale the axes anew
    for index, method in enumerate(methods):
        one = rows[(points["method"] == method).to_numpy()]
        xs, means, stds = one.T
        style = study.styles[method].line()
        for at, mean in zip(xs.tolist(), means, strict=True):
            drawn[method, at] = (index if beside else at, mean)
        if beside:
            axes.errorbar(index, means, stds, capsize=3, **style)
            continue
        step = math.ceil(len(one) / 6)  # a marker on each of 120 epochs would hide the line
        axes.plot(xs, means, markevery=(index % step, step), **style)
        low, high = (means - stds).clip(0), (means + stds).clip(max=100)
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.13, lw=0)
    axes.set_autoscale_on(True)
    if beside:
        axes.set_xticks(range(len(methods)), methods, rotation=90)
        axes.set_xlim(-0.6, len(methods) - 0.4)
    else:
        axes.set_xlabel({"x": RATE, "epoch": "Epoch"}[x])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=x == "epoch"))
        _tick_values(axes, sorted(points[x].unique()))
    return drawn


def _tick_values(axes: Any, values: Sequence[float]) -> None:
    """Tick the values themselves where there are few enough, and far enough apart, to read."""
    gaps = np.diff(values)
    if len(values) == 1:
        axes.set_xlim(values[0] - 1, values[0] + 1)
    if len(values) <= 8 and (len(values) == 1 or gaps.min() >= 0.08 * gaps.sum()):
        axes.set_xticks(values, [f"{value:g}" for value in values])


def _chance(axes: Any, study: Study) -> Any:
    """A line where guessing would be; its legend entry."""
    if not study.classes:
        return []
    share, name = guess(study)
    axes.axhline(share, color="#555555", lw=1, ls=(0, (2, 3)), zorder=1)
    return [Line2D([], [], color="#555555", lw=1, ls=(0, (2, 3)), label=f"{name} ({share:.3g} %)")]


def guess(study: Study) -> tuple[float, str]:
    """What who guesses reaches at best, in %, and what it is called: the share of the largest class
    among the test labels."""
    even = 100 / len(study.classes)
    matrix = next((m for m in study.runs["confusion"] if given(m)), None)
    counts = np.zeros(1) if matrix is None else np.asarray(matrix, dtype=float).sum(axis=1)
    share = 100 * counts.max() / counts.sum() if counts.sum() else even
    # Test sets that are meant to be even, such as that of digits, are nearly so.
    return (even, "chance") if share < 1.1 * even else (share, "largest class")


def _heatmaps(
    caption: str,
    names: Sequence[str],
    title: str,
    cells: Sequence[Sequence[tuple[str, Any]]],
    labels: tuple[str, str, str],
) -> Figure:
    """A grid of K by K matrices of shares, in percent; labels: those of x, y and the colours."""
    cols = max(map(len, cells))
    few = len(cells[0][0][1]) <= 20  # more classes leave no room for names and figures
    size = (3.3, 3.4 + 1.2 / len(cells)) if few else (3.0, 3.1)  # the names need their room below
    figure, grid = _canvas(caption, title, len(cells), cols, size, sharex=True, sharey=True)
    for row, line in enumerate(cells):
        for col in range(cols):
            axes = grid[row, col]
            if col >= len(line):
                axes.set_visible(False)
                continue
            heading, matrix = line[col]
            percent = 100 * np.asarray(matrix, dtype=float)
            mesh = axes.pcolormesh(
                percent,
                vmin=0,
                vmax=100,
                cmap="Blues",
                edgecolors="white" if few else "none",
                linewidth=0.5 if few else 0,
                rasterized=not few,  # 10,000 cells a panel are no longer a drawing
            )
            axes.set_title(heading)
            axes.set(aspect="equal", facecolor="#dddddd")
            axes.grid(False)
            below = row + 1 < len(cells) and col < len(cells[row + 1])
            axes.tick_params(length=0, labelbottom=not below, labelleft=col == 0)
            if few:
                _annotate(axes, percent)
                ticks = np.arange(len(percent)) + 0.5
                axes.set_xticks(ticks, names or range(len(percent)), rotation=90)
                axes.set_yticks(ticks, names or range(len(percent)))
    grid[0, 0].invert_yaxis()  # shared by all
    figure.supxlabel(labels[0], size="medium")
    figure.supylabel(labels[1], size="medium")
    shown = [axes for axes in grid.flat if axes.get_visible()]
    figure.colorbar(mesh, ax=shown, label=labels[2], shrink=min(1.0, 1.2 / len(cells)), aspect=25)
    return figure


def _annotate(axes: Any, percent: Any) -> None:
    """Write the figures into a heat map; those that round to 0 would only be clutter."""
    for (row, col), value in np.ndenumerate(percent):
        if value >= 0.5:
            color = "white" if value > 55 else "#222222"
            text = axes.text(
                col + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", color=color, size=7
            )
            text.set_in_layout(False)  # inside its axes anyway, and slow to measure


def _slug(text: str) -> str:
    """A file name, for every system, that still says what it is."""
    return re.sub(r"[^a-z0-9.+=-]+", "_", text.lower()).strip("_")


# -------------------------------------------------------------------------------------- pictures

Pictures = Iterator[tuple[str, Callable[[], Figure]]]  # a name, and what draws it under `look()`


def _report(study: Study) -> Pictures:
    """The figure of the report, for each method: accuracy overall (line) and per class (bars)."""
    taken: set[str] = set()
    for method in study.styles:
        runs = study.runs[study.runs["method"] == method]
        runs = runs[runs["per_class_accuracy"].map(given)]
        kinds = [kind for kind in study.kinds if kind in set(runs["kind"])]
        if not kinds and not runs.empty:  # only its runs without noise are done yet
            kinds = [NOISES["none"].label]
        if not kinds or runs["test_accuracy"].isna().all():
            continue
        loss, own = runs.iloc[0][["loss", "own"]]
        slug = _slug(f"{loss} {own}")
        while slug in taken:  # '2*nce' and '2 nce' differ in the specification alone
            slug += "_"
        taken.add(slug)
        yield f"report_{slug}", partial(_draw_report, study, method, runs, kinds)


def _draw_report(study: Study, method: str, runs: pd.DataFrame, kinds: Sequence[str]) -> Figure:
    what = "against noise rate" if len(study.settings) > 1 else "overall and per class"
    title = f"{method}: accuracy {what}{on_labels(study)}"
    shape: dict[str, Any] = {"width_ratios": [1, 2.3], "sharey": True}
    figure, grid = _canvas(study.caption, title, len(kinds), 2, (5.4, 3.3), **shape)
    handles: list[Any] = []
    for (left, right), kind in zip(grid, kinds, strict=True):
        panel = study.panel(runs, kind)
        _draw(left, study, panel, "x", "test_accuracy")
        for x, mean in panel.groupby("x")["test_accuracy"].mean().dropna().items():
            left.annotate(
                f"{mean:.1f}",
                (x, mean),
                (0, 9 if mean < 90 else -9),
                textcoords="offset points",
                ha="center",
                va="bottom" if mean < 90 else "top",
                size=9,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )
        left.margins(x=0.12)
        left.set(title=f"Overall, {kind}", ylabel=accuracy(study), ylim=(0, 100))
        handles = _class_bars(right, study, panel, kind)
    if handles:
        figure.legend(handles=handles, loc="outside right center", handlelength=1.4)
    return figure


def _class_bars(axes: Any, study: Study, panel: pd.DataFrame, kind: str) -> list[Any]:
    """Accuracy per class as bars, a group a noise rate; returns the legend of the classes.

    With many classes the bars have no room for a colour each and stand in order of accuracy.
    """
    rates = sorted(panel["x"].unique())
    count = max(map(len, panel["per_class_accuracy"]))
    many = count > 20
    colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.95, count))
    names = study.classes or [str(index) for index in range(count)]
    width = 0.84 / count
    for group, x in enumerate(rates):
        rows = np.array(panel.loc[panel["x"] == x, "per_class_accuracy"].tolist(), dtype=float)
        mean = 100 * rows.mean(axis=0)
        std = 100 * rows.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(count)
        order = np.argsort(-mean) if many else np.arange(count)
        axes.bar(
            group + (np.arange(count) - (count - 1) / 2) * width,
            mean[order],
            width,
            color=STYLES["nce"].color if many else colors,
            edgecolor="none" if many else "white",
            linewidth=0.3,
            yerr=std if len(rows) > 1 and not many else None,
            error_kw={"lw": 0.8, "ecolor": "#444444"},
        )
    axes.set_xticks(range(len(rates)), [f"{x:g}" for x in rates])
    axes.set_xlabel(RATE)
    axes.tick_params(axis="x", length=0)
    axes.grid(False, axis="x")
    order_note = f" ({count} classes, in order of accuracy)" if many else ""
    axes.set_title(f"Per class, {kind}{order_note}")
    return [] if many else [Patch(color=c, label=n) for c, n in zip(colors, names, strict=True)]


def _accuracy_vs_rate(study: Study) -> Pictures:
    """All methods against the noise rate, a panel a kind of noise."""
    kinds = [k for k in study.kinds if study.panel(study.runs, k)["test_accuracy"].notna().any()]
    if kinds:
        yield "accuracy_vs_rate", partial(_draw_accuracy_vs_rate, study, kinds)


def _draw_accuracy_vs_rate(study: Study, kinds: Sequence[str]) -> Figure:
    what = "against noise rate" if len(study.settings) > 1 else "of each loss"
    title = f"Test accuracy {what} (last epoch{on_labels(study)}{study.spread})"
    figure, grid = _canvas(study.caption, title, 1, len(kinds), (5.4, 4.9), sharey=True)
    study = replace(study, styles=with_headline(study.styles))
    extra: list[Any] = []
    ringed: list[Any] = []
    for axes, kind in zip(grid[0], kinds, strict=True):
        panel = study.panel(study.runs, kind)
        drawn = _draw(axes, study, panel, "x", "test_accuracy")
        axes.set_title(_panel_title(panel, kind))
        ringed += _ring_collapsed(axes, panel, drawn)
        extra = _chance(axes, study)
    grid[0, 0].set_ylabel(accuracy(study))
    extra += ringed[:1]
    _legend(figure, study, list(study.styles), extra)
    return figure


def _ranking(study: Study) -> Pictures:
    """The methods in order of their mean over the rates of each kind of noise; of so many that
    their lines lie on each other only the order can be read."""
    panels = []
    for kind in study.kinds:
        runs = study.runs[(study.runs["kind"] == kind) & study.runs["test_accuracy"].notna()]
        # Over the same rates for all, so of the seeds that have all of them.
        each = runs.groupby(["method", "seed", "rank"])["test_accuracy"].mean().unstack()
        means = each.dropna().mean(axis=1).groupby("method").agg(["mean", "std"]).fillna(0.0)
        if len(means) > 1:
            panels.append((kind, runs, means.sort_values("mean")))
    if panels:
        yield "ranking", partial(_draw_ranking, study, panels)


def _draw_ranking(study: Study, panels: Sequence[tuple[str, pd.DataFrame, pd.DataFrame]]) -> Figure:
    clean = study.runs[study.runs["kind"] == NOISES["none"].label]
    without = clean.groupby("method")["test_accuracy"].mean()
    rows = max(len(means) for _, _, means in panels)
    size = (4.2, 1.2 + 0.22 * rows)
    over = "the mean over the noise rates" if len(study.settings) > 1 else "their accuracy"
    title = f"Methods in order of {over} (last epoch{on_labels(study)}{study.spread})"
    chosen = {choice.method for choice in choices(study)} if len(study.settings) == 1 else set()
    figure, grid = _canvas(study.caption, title, 1, len(panels), size, sharex=True)
    for axes, (kind, runs, means) in zip(grid[0], panels, strict=True):
        for at, method in enumerate(means.index):
            color = study.styles[method].color
            mean, std = means.loc[method]
            axes.errorbar(mean, at, xerr=std, color=color, capsize=2, fmt="o")
            if method in without.index:
                axes.plot(without[method], at, "o", mec=color, mfc="white", zorder=1)
        names = [f"{name} (chosen)" if name in chosen else name for name in means.index]
        axes.set_yticks(range(len(means)), names)
        axes.set_ylim(-0.7, len(means) - 0.3)
        rates = [f"{x:g}" for x in sorted(runs["x"].unique())]
        name = _panel_title(runs, kind)
        axes.set_title(name if len(rates) == 1 else f"{name}\nmean over {', '.join(rates)} %")
        axes.set_xlabel(accuracy(study))
    if not without.empty and study.kinds != [NOISES["none"].label]:
        marks = [
            Line2D([], [], ls="none", marker="o", color="#555555", mfc=fill, label=label)
            for fill, label in (("#555555", "with noise"), ("white", "clean labels"))
        ]
        figure.legend(handles=marks, loc="outside right center")
    return figure


def _panel_title(panel: pd.DataFrame, kind: str) -> str:
    """The kind of noise, with the rate where there is one and the axis does not show it."""
    titles = panel["title"].unique()
    return f"{titles[0] if len(titles) == 1 else kind}".capitalize()


def _ring_collapsed(
    axes: Any, panel: pd.DataFrame, drawn: dict[tuple[str, float], tuple[float, float]]
) -> list[Any]:
    """Ring the points that a collapsed run is part of; returns the ring's legend entry."""
    ring: dict[str, Any] = {
        "marker": "o",
        "markersize": 13,
        "mfc": "none",
        "mec": "#b3002d",
        "ls": "none",
    }
    collapsed = panel[panel["collapsed"].astype(bool)]
    places = {
        drawn[key] for key in zip(collapsed["method"], collapsed["x"], strict=True) if key in drawn
    }
    if not places:
        return []
    axes.plot(*np.transpose(sorted(places)), **ring)
    return [Line2D([], [], label="with a collapsed run", **ring)]


def _settings_grid(study: Study, scores: Sequence[str], clean: bool) -> list[tuple[str, Any]]:
    """The rows of a grid over noise settings, as (score, the frames of its panels)."""
    rows = []
    for kind in study.kinds:
        rows_of_kind = study.panel(study.epochs, kind)
        for score in scores:
            frame = rows_of_kind.dropna(subset=[score])
            if not clean:
                frame = frame[frame["x"] > 0]
            panels = [panel for _, panel in frame.groupby("rank")]
            if panels:
                rows.append((score, panels))
    return rows


def _per_epoch(
    study: Study, title: str, rows: Sequence[tuple[str, Any]], labels: dict[str, str]
) -> Figure:
    """A figure of scores per epoch: a row a score and kind of noise, a column a rate."""
    cols = max(len(panels) for _, panels in rows)
    width = 5.6 if cols == 1 and len(rows) <= 2 else 3.4
    figure, grid = _canvas(
        study.caption, title, len(rows), cols, (width, 0.85 * width), sharey=True
    )
    few, study = _in_front(study)
    shown: set[str] = set()
    chance: list[Any] = []
    published: list[Any] = []
    for line, (score, panels) in zip(grid, rows, strict=True):
        line[0].set_ylabel(labels[score])
        for axes in line[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(line, panels, strict=False):
            _draw(axes, study, panel, "epoch", score)
            if score == "test_accuracy":
                chance = _chance(axes, study)
                published = _mark_published(axes, study, panel) or published
            axes.set_title(panel["title"].iloc[0].capitalize())
            shown |= set(panel["method"])
    methods = [method for method in study.styles if method in shown & {*few}]
    behind = len(shown) - len(methods)
    more = [Line2D([], [], label=f"{behind} others", **BEHIND.line())] if behind else []
    _legend(figure, study, methods, [*more, *chance, *published])
    return figure


def telling(study: Study) -> list[str]:
    """The methods that tell most, FEW at most: CE, the paper's own, the one with the lowest mean
    accuracy and those with the highest; in the order of the tables."""
    of_setting = study.runs.groupby(["method", "setting"])["test_accuracy"].mean()
    means = of_setting.groupby("method").mean().sort_values(ascending=False, kind="stable")
    first = [name for name in (method_label("ce", ""), method_label(HEADLINE, "")) if name in means]
    chosen = list(dict.fromkeys([*first, *means.index[-1:], *means.index]))[:FEW]
    return [method for method in study.styles if method in chosen]


def _in_front(study: Study) -> tuple[list[str], Study]:
    """The methods whose lines are to be told apart, and the study with all others in grey behind
    them, where there are so many that a small panel shows none."""
    if len(study.styles) <= MANY_LINES:
        return list(study.styles), study
    few = telling(study)
    behind = {method: BEHIND for method in study.styles if method not in few}
    front = with_headline({method: study.styles[method] for method in few})
    return few, replace(study, styles={**behind, **front})


def _accuracy_per_epoch(study: Study) -> Pictures:
    """Test accuracy per epoch at each noise rate: where it falls, memorisation sets in."""
    rows = _settings_grid(study, ["test_accuracy"], clean=True)
    if rows:
        title = f"Test accuracy per epoch{on_labels(study)}{study.spread}"
        draw = partial(_per_epoch, study, title, rows, {"test_accuracy": accuracy(study)})
        yield "accuracy_per_epoch", draw


def _mark_published(axes: Any, study: Study, panel: pd.DataFrame) -> list[Any]:
    """At the right edge of curves over epochs, where the papers' runs ended; its legend entry.

    Only for the papers' own recipe: of others it is no surprise that they end elsewhere.
    """
    runs = study.runs[study.runs["standard"] & (study.runs["rank"] == panel["rank"].iloc[0])]
    first = study.runs.iloc[0]
    if first["preset"] != "paper" or runs.empty:
        return []
    published = own_protocol(published_rows())
    published = published[published["dataset"] == first["dataset"]]
    at = published_at(published, *runs.iloc[0][["noise", "map", "x"]])
    ends = at.drop_duplicates("method").set_index("method")["mean"]  # of the first of the papers
    drawn = runs[runs["loss"].isin(ends.index)].drop_duplicates("loss")
    if drawn.empty:
        return []
    mark: dict[str, Any] = {"marker": "<", "markersize": 7, "mec": "white", "mew": 0.6}
    edge = {"transform": axes.get_yaxis_transform(), "clip_on": False}
    for loss, method in zip(drawn["loss"], drawn["method"], strict=True):
        axes.plot(1.02, ends[loss], color=study.styles[method].color, **edge, **mark)
    return [Line2D([], [], color="#555555", ls="none", label="published (last epoch)", **mark)]


def _memorised_recovered(study: Study) -> Pictures:
    """Of the corrupted training samples: predicted as the wrong label, and as the true one."""
    rows = _settings_grid(study, ["memorised", "recovered"], clean=False)
    if rows:
        yield "memorised_recovered", partial(_draw_memorised_recovered, study, rows)


def _draw_memorised_recovered(study: Study, rows: Sequence[tuple[str, Any]]) -> Figure:
    title = "Corrupted training samples: wrong label memorised, true label recovered"
    labels = {"memorised": "Memorised (%)", "recovered": "Recovered (%)"}
    figure = _per_epoch(study, title, rows, labels)
    for axes in figure.axes:
        axes.set_ylim(-3, 103)
    return figure


def _vanilla_vs_normalised(study: Study) -> Pictures:
    """Each loss beside its normalised form, a row a kind of noise."""
    runs = study.runs.dropna(subset=["test_accuracy"])
    done = set(zip(runs["loss"], runs["own"], strict=True))
    pairs = [
        (method_label(loss, own), method_label(f"n{loss}", own))
        for own in sorted({own for _, own in done})
        for loss in LOSSES
        if (loss, own) in done and (f"n{loss}", own) in done
    ]
    if pairs:
        yield "vanilla_vs_normalised", partial(_draw_pairs, study, runs, pairs)


def _draw_pairs(study: Study, runs: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> Figure:
    paired = runs[runs["method"].isin([method for pair in pairs for method in pair])]
    kinds = [kind for kind in study.kinds if not study.panel(paired, kind).empty]
    on = f"test accuracy, last epoch{on_labels(study)}{study.spread}"
    title = f"Vanilla against normalised loss ({on})"
    figure, grid = _canvas(study.caption, title, len(kinds), len(pairs), (4.0, 3.4), sharey=True)
    extra = []
    for line, kind in zip(grid, kinds, strict=True):
        line[0].set_ylabel(accuracy(study))
        for axes, pair in zip(line, pairs, strict=True):
            panel = study.panel(runs[runs["method"].isin(pair)], kind)
            if panel.empty:  # this pair was not run with this noise, or not yet
                axes.set_visible(False)
                continue
            _draw(axes, study, panel, "x", "test_accuracy")
            extra = _chance(axes, study)
            axes.set_title(f"{pair[0]} / {pair[1]}: {_panel_title(panel, kind).lower()}")
    _legend(figure, study, [m for m in study.styles if any(m in pair for pair in pairs)], extra)
    return figure


def _confusions(study: Study) -> Pictures:
    """The methods' confusion matrices at the most telling rate of each kind of noise."""
    for kind in study.kinds:
        runs = study.runs[(study.runs["kind"] == kind) & study.runs["confusion"].map(given)]
        if runs.empty:
            continue
        means = runs.groupby(["x", "method"])["test_accuracy"].mean().unstack()
        # Where the best method is furthest from the middle one; of equals, the noisiest.
        lead = means.max(axis=1) - means.median(axis=1)
        rate = max(means.index, key=lambda x: (lead.fillna(0)[x], x))
        runs = runs[runs["x"] == rate]
        name = f"confusion_{_slug(runs.iloc[0]['setting'])}"
        methods = [method for method in study.styles if method in set(runs["method"])]
        first = telling(study) if len(methods) > MANY_LINES else methods
        rest = [method for method in methods if method not in first]
        pages = [first, *(rest[at : at + FEW] for at in range(0, len(rest), FEW))]
        for number, page in enumerate(pages, 1):
            there = runs[runs["method"].isin(page)]
            if not there.empty:
                place = f"_{number}" if number > 1 else ""
                yield f"{name}{place}", partial(_draw_confusions, study, there)


def _draw_confusions(study: Study, runs: pd.DataFrame) -> Figure:
    panels = []
    for method in study.styles:
        matrices = runs.loc[runs["method"] == method, "confusion"].tolist()
        if matrices:
            counts = np.sum(np.array(matrices, dtype=float), axis=0)
            with np.errstate(invalid="ignore"):  # a class without test samples has no shares
                panels.append((method, counts / counts.sum(axis=1, keepdims=True)))
    cols = min(3 if len(panels) in (5, 6) else 4, len(panels))
    rows = [panels[start : start + cols] for start in range(0, len(panels), cols)]
    first = runs.iloc[0]
    of = "true" if first["on"] == "true" else "given"  # labels of the test images
    return _heatmaps(
        study.caption,
        study.classes,
        f"Confusion matrices, {first['title']} (sum of the seeds)",
        rows,
        ("Predicted class", f"{of.capitalize()} class", f"Share of the {of} class (%)"),
    )


def _transition(study: Study) -> Pictures:
    """The noise itself: how often each class is given each label."""
    runs = study.runs[(study.runs["x"] > 0) & study.runs["transition"].map(given)]
    rows = []
    for kind in study.kinds:
        settings = runs[runs["kind"] == kind].drop_duplicates("rank").sort_values("rank")
        cells = list(zip(settings["title"].str.capitalize(), settings["transition"], strict=True))
        if cells:
            rows.append(cells)
    if rows:
        labels = ("Label given", "True class", "Share of the true class (%)")
        title = "Transition matrices of the noise"
        draw = partial(_heatmaps, study.caption, study.classes, title, rows, labels)
        yield "transition", draw


PICTURES: tuple[Callable[[Study], Pictures], ...] = (
    _report,
    _accuracy_vs_rate,
    _ranking,
    _accuracy_per_epoch,
    _memorised_recovered,
    _vanilla_vs_normalised,
    _confusions,
    _transition,
)


HEAT_MAPS = (_confusions, _transition)


def _drawings(study: Study, pictures: Sequence[Callable[[Study], Pictures]] = PICTURES) -> Pictures:
    """What the data allow to draw; runs whose noise rate nobody knows have no place in it."""
    known = study.runs["x"].notna()
    for picture in pictures if known.any() else ():
        yield from picture(replace(study, runs=study.runs[known]))


def draw_study(
    study: Study, pictures: Sequence[Callable[[Study], Pictures]] = PICTURES
) -> Iterator[tuple[str, Figure]]:
    """Every picture that the data allow, as (name, figure); draw and save them under `look()`.

    Runs whose noise rate nobody knows have no place in them.
    """
    for name, draw in _drawings(study, pictures):
        yield name, draw()


def plot_study(
    parts: Sequence[Study],
    folder: Path,
    *,
    processes: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Write every picture that the data allow into `folder`, as .png and .svg.

    parts: a study folder by data set and preset, as `apl.report.study.studies` has them.
    processes: draw in so many at most, where there are pictures enough.  They are started afresh,
    so a script that asks for several keeps what it runs under `if __name__ == "__main__":`.
    progress: told how many pictures are written, of how many.
    The same data give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawings = _of_all(parts)
    written: dict[str, list[Path]] = {}
    progress(0, len(drawings))
    for name, files in _write_all(parts, folder, drawings, processes):
        written[name] = files
        progress(len(written), len(drawings))
    return [file for name in drawings for file in written[name]]


def _of_all(parts: Sequence[Study]) -> dict[str, Callable[[], Figure]]:
    """What there is to draw of a study folder, by the name of the files."""
    found: dict[str, Callable[[], Figure]] = {}
    for study in parts:
        first = study.runs.iloc[0]
        prefix = f"{first['dataset']}_{first['preset']}_" if len(parts) > 1 else ""
        found |= {f"{prefix}{name}": draw for name, draw in _drawings(study)}
    return found


def plot_transition(
    labels: Labels, class_names: Sequence[str], path: Path, caption: str
) -> list[Path]:
    """Write the intended matrix beside the one found in the labels, to `path` .png and .svg."""
    cells = [[("Intended", labels.transition), ("Found in the labels", labels.empirical)]]
    cells = [[(title, matrix) for title, matrix in cells[0] if matrix is not None]]
    words = ("Label given", "True class", "Share of the true class (%)")
    title = "Transition matrix of the noise"
    draw = partial(_heatmaps, caption, class_names, title, cells, words)
    return _write(draw, path, "".join([caption, *class_names]))


# ----------------------------------------------------------------------------------------- files

FEW_PICTURES = 4  # a process must draw to be worth its start


def _write_all(
    parts: Sequence[Study],
    folder: Path,
    drawings: Mapping[str, Callable[[], Figure]],
    processes: int,
) -> Iterator[tuple[str, list[Path]]]:
    """Draw and write, in several processes where that pays; names and files as they are done."""
    left = dict(drawings)
    count = min(processes, len(left) // FEW_PICTURES)
    if count > 1:
        try:
            for name, files in _write_in_processes(parts, folder, list(left), count):
                del left[name]
                yield name, files
        except (BrokenProcessPool, NotImplementedError, ImportError):
            pass  # none can be started, or one was killed: what is left is drawn in this one
    names = names_in(parts)
    for name, draw in left.items():
        yield name, _write(draw, folder / name, names)


def _write_in_processes(
    parts: Sequence[Study], folder: Path, names: Sequence[str], count: int
) -> Iterator[tuple[str, list[Path]]]:
    context = multiprocessing.get_context("spawn")  # fork and torch's threads don't mix
    pool = ProcessPoolExecutor(count, context, _begin, (parts, folder))
    try:
        # The largest are the last ones: with them first, no process is left with one alone.
        with without_script():  # they are started when the first of them is asked
            drawn = [pool.submit(_write_named, name) for name in reversed(names)]
        for future in as_completed(drawn):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


_todo: dict[str, Callable[[], list[Path]]] = {}
"""What a process of `_write_in_processes` may be asked for."""


def _begin(parts: Sequence[Study], folder: Path) -> None:
    """Get ready, in such a process."""
    leave_ctrl_c_to_the_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore", UserWarning)  # the parent says it
    names = names_in(parts)
    for name, draw in _of_all(parts).items():
        _todo[name] = partial(_write, draw, folder / name, names)
    gc.collect()
    gc.freeze()  # what is there now stays: it need not be searched for garbage each time


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_named(name: str) -> tuple[str, list[Path]]:
    return name, _todo[name]()


def _write(draw: Callable[[], Figure], path: Path, names: str = "") -> list[Path]:
    """Draw a figure and write it to `path` .png and .svg, both as it was laid out for the png;
    names: those that stand in it."""
    with look(names):
        figure = draw()
        image, png, svg = pixels(figure), io.BytesIO(), io.BytesIO()
        image.save(png, "png", dpi=(DPI, DPI))
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})
    written = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "svg")]
    for file, data in zip(written, (png, svg), strict=True):
        write_atomic(file, data.getvalue())
    return written


DPI = 150


def pixels(figure: Figure, dpi: float = DPI) -> Image.Image:
    """Lay a figure out, draw it, and keep its layout for whatever it is drawn to next.

    `Figure.savefig` would lay it out and draw it without ink before each time that it draws it.
    """
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    figure.set_layout_engine("none")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])  # the page is white: no alpha
