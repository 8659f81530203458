"""The pictures and the table of a study: one function a picture, one fixed style a loss."""

from __future__ import annotations

import io
import math
import re
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from apl.losses import LOSSES, PARAMS, loss_label
from apl.noise import NoisyLabels
from apl.report.published import published_table
from apl.runs import write_atomic
from apl.scores import HARDLY_MEMORISED, is_tolerant

# ---------------------------------------------------------------------------------------- styles


@dataclass(frozen=True)
class Style:
    """How a method is drawn. Colour alone, or line and marker alone (in print), tell it apart."""

    color: str
    dash: Any
    marker: str
    hollow: bool = False

    def line(self) -> dict[str, Any]:
        """The keywords that matplotlib takes for a line of this style."""
        face = "white" if self.hollow else self.color
        return {
            "color": self.color,
            "linestyle": self.dash,
            "marker": self.marker,
            "markerfacecolor": face,
            "markeredgecolor": self.color if self.hollow else "white",
            "markeredgewidth": 1.4 if self.hollow else 0.6,
            "markersize": 8.5 if self.marker in "*PX" else 6.5,
        }


SOLID, DASHED, DOTTED = "solid", (0, (5, 1.6)), (0, (1, 1.2))
DASHDOT, DASHDOTDOT = (0, (6, 1.4, 1.2, 1.4)), (0, (6, 1.2, 1, 1.2, 1, 1.2))

# The hue is the loss one starts from (CE blue, FL orange, GCE green), darkest for the loss itself
# and lighter the more is done to it; the line says what is done (dashed: normalised, dash-dot:
# plus MAE, dotted: plus RCE). The hues are those of Okabe and Ito, safe for the colour-blind, and
# their steps differ in lightness, which survives a black-and-white printer.
STYLES: dict[str, Style] = {
    "ce": Style("#0b2f6b", SOLID, "o"),
    "nce": Style("#0072b2", DASHED, "s"),
    "nce_mae": Style("#3590d8", DASHDOT, "^"),
    "nce_rce": Style("#5fb3ee", DOTTED, "v"),
    "sce": Style("#5b3fa8", DASHDOTDOT, "*"),
    "fl": Style("#6e2a00", SOLID, "P"),
    "nfl": Style("#c94f00", DASHED, "X"),
    "nfl_mae": Style("#e58a1f", DASHDOT, "<"),
    "nfl_rce": Style("#dfa11e", DOTTED, ">"),
    "gce": Style("#00483a", SOLID, "D"),
    "ngce": Style("#009e73", DASHED, "d"),
    "ngce_mae": Style("#3aae86", DASHDOT, "p"),
    "ngce_rce": Style("#72c6a2", DOTTED, "h"),
    "mae": Style("#8a2460", SOLID, "o", hollow=True),
    "nmae": Style("#cc79a7", DASHED, "^", hollow=True),
    "rce": Style("#000000", SOLID, "s", hollow=True),
    "nrce": Style("#7a7a7a", DASHED, "v", hollow=True),
}
_SPARE_COLORS = ("#9a8b00", "#b3002d", "#5c4a1f", "#b07cff", "#4d6b7a")
_SPARE_DASHES = (SOLID, DASHED, DASHDOT, DOTTED)
_SPARE_MARKERS = ("D", "P", "X", "<", ">", "p", "*")  # hollow, which no named loss has


def method_label(loss: str, variant: str) -> str:
    """What a method is called: its loss, and what was set by hand where something was."""
    return f"{loss_label(loss)} ({variant})" if variant else loss_label(loss)


def shared_settings(variants: Iterable[str]) -> tuple[str, ...]:
    """The settings, beside their preset's, that all runs of a study have: they tell none apart."""
    parts = [variant.split(",") for variant in variants]
    return tuple(part for part in parts[0] if part and all(part in others for others in parts))


def own_settings(variant: str, shared: Sequence[str]) -> str:
    """What is left of a run's variant without the settings that all runs of its study have."""
    return ",".join(part for part in variant.split(",") if part not in shared)


def sets_loss(variant: str) -> bool:
    """Whether a parameter of the loss is among the settings that differ from the preset's."""
    return any(part.partition("=")[0] in PARAMS for part in variant.split(","))


def method_styles(methods: Sequence[tuple[str, str]]) -> dict[str, Style]:
    """A style by label for each (loss, variant), in the order of the tables.

    A named loss looks the same everywhere. A variant keeps the colour of its loss. Spare styles go
    to the rest in alphabetical order, so they are the same in every picture of a study.
    """
    ranks = {loss: rank for rank, loss in enumerate(LOSSES)}
    styles, spare = {}, 0
    for loss, variant in sorted(set(methods), key=lambda m: (ranks.get(m[0], len(ranks)), m)):
        style = STYLES.get(loss)
        if style is None or variant:
            dash = _SPARE_DASHES[spare % len(_SPARE_DASHES)]
            marker = _SPARE_MARKERS[spare % len(_SPARE_MARKERS)]
            color = style.color if style else _SPARE_COLORS[spare % len(_SPARE_COLORS)]
            style, spare = Style(color, dash, marker, hollow=True), spare + 1
        styles[method_label(loss, variant)] = style
    return styles


# ------------------------------------------------------------------------------------------ data

_KINDS = {
    "none": "no noise",
    "sym": "symmetric",
    "asym": "asymmetric",
    "pair": "pair flip",
    "human": "human",
    "matrix": "given matrix",
}
_SCORES = ("test_accuracy", "train_accuracy", "memorised", "recovered")


@dataclass(frozen=True)
class Study:
    """Runs of one data set and preset, ready to draw: everything in percent.

    runs: the summary with columns method, kind (a panel), x (noise rate in %), title and setting
    (the noise setting's name in pictures and tables), rank (their order) and standard (whether the
    loss and the noise are those of the papers, so that a published figure can stand beside);
    epochs: the histories with method, kind, x, title and rank of their run;
    shared: settings that all runs have beside their preset's, and so are no part of a method.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    styles: dict[str, Style]
    shared: tuple[str, ...]

    @property
    def caption(self) -> str:
        """What was run, for the second line of every picture."""
        first = self.runs.iloc[0]
        seeds = self.runs.groupby(["method", "rank"])["seed"].nunique()
        text = (
            f"{first['dataset']}, preset {first['preset']}, {_span(self.runs['epochs'], 'epoch')}, "
            f"{_span(seeds, 'seed')}"
        )
        return ", ".join([text, *(part for part in self.shared if part.split("=")[0] != "epochs")])

    @property
    def spread(self) -> str:
        """What lines and bands are, for a title; '' where there is one seed."""
        return ", mean ± std" if self.runs["seed"].nunique() > 1 else ""

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return next((list(names) for names in self.runs["class_names"] if _given(names)), [])

    @property
    def kinds(self) -> list[str]:
        """The kinds of noise, a panel each; 'no noise' only where there is nothing else."""
        kinds = list(self.runs.sort_values("rank")["kind"].unique())
        return [kind for kind in kinds if kind != _KINDS["none"]] or kinds

    def panel(self, frame: pd.DataFrame, kind: str) -> pd.DataFrame:
        """The rows of one kind of noise, runs without noise being its rate 0."""
        return frame[frame["kind"].isin([kind, _KINDS["none"]])]


def _span(numbers: pd.Series[int], unit: str) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low}-{high} {unit}s" if low != high else f"{low} {unit}{'s' if low != 1 else ''}"


def _given(value: object) -> bool:
    """Whether a cell holds a list with something in it, and not the NaN of a missing one."""
    return isinstance(value, (list, tuple, np.ndarray)) and len(value) > 0


def _rate(row: pd.Series[Any]) -> float:
    """The noise rate in percent: as asked for, or what a matrix or human labels come to."""
    if row["noise"] in ("human", "matrix") and _given(row["transition"]):
        return float(round(100 * (1 - np.mean(np.diag(row["transition"]))), 1))
    return float(round(100 * row["rate"], 4))


def studies(summary: pd.DataFrame, histories: pd.DataFrame | None = None) -> list[Study]:
    """The summary and its histories (None where they are not needed), by data set and preset."""
    if histories is None:
        histories = pd.DataFrame(columns=["run", "epoch", *_SCORES])
    runs = summary.assign(**{name: 100 * summary[name].astype(float) for name in _SCORES})
    runs[["variant", "map", "reason"]] = runs[["variant", "map", "reason"]].fillna("")
    runs["x"] = [_rate(row) for _, row in runs.iterrows()]
    clean = (runs["x"] == 0) & ~runs["noise"].isin(["human", "matrix"])  # those keep their name
    runs.loc[clean, "noise"], runs.loc[clean, "map"] = "none", ""
    groups = runs.groupby(["dataset", "preset"])["variant"]
    shared = {key: shared_settings(variants) for key, variants in groups}
    runs["own"] = [
        own_settings(variant, shared[dataset, preset])
        for variant, dataset, preset in zip(
            runs["variant"], runs["dataset"], runs["preset"], strict=True
        )
    ]
    # A rate of 0 of any kind of noise is one and the same training: it counts once.
    same = ["dataset", "preset", "loss", "variant", "noise", "map", "x", "seed"]
    runs = runs[~(clean & runs.duplicated(same))].copy()
    theirs = ~runs["variant"].map(sets_loss).astype(bool)
    runs["standard"] = runs["map"].isin(["", "paper"]) & (runs["own"] == "") & theirs
    runs["method"] = [method_label(*pair) for pair in zip(runs["loss"], runs["own"], strict=True)]
    keys = list(zip(runs["noise"], runs["map"], runs["x"], strict=True))
    names = list(_KINDS)
    order = sorted(set(keys), key=lambda key: (names.index(key[0]), *key[1:]))
    runs["rank"] = [order.index(key) for key in keys]
    runs["kind"] = [_kind(noise, table) for noise, table, _ in keys]
    runs["title"] = [_title(*key) for key in keys]
    runs["setting"] = [setting_name(*key) for key in keys]

    epochs = histories.assign(**{n: 100 * histories[n].astype(float) for n in _SCORES})
    epochs = epochs.merge(
        runs[["run", "dataset", "preset", "method", "kind", "x", "title", "rank"]], on="run"
    )
    styles = method_styles(list(zip(runs["loss"], runs["own"], strict=True)))
    return [
        Study(
            part,
            epochs[(epochs["dataset"] == dataset) & (epochs["preset"] == preset)],
            {label: style for label, style in styles.items() if label in set(part["method"])},
            shared[dataset, preset],
        )
        for (dataset, preset), part in runs.groupby(["dataset", "preset"])
    ]


def _kind(noise: str, table: str) -> str:
    # Subsets of human labels are points of one panel; maps of asymmetric noise are panels.
    return f"{_KINDS[noise]} (map {table})" if table and noise == "asym" else _KINDS[noise]


def _title(noise: str, table: str, x: float) -> str:
    name = f"{_KINDS[noise]} {table}" if noise in ("human", "matrix") else _kind(noise, table)
    return name if noise == "none" else f"{name.strip()}, {x:g} %"


def setting_name(noise: str, table: str, x: float) -> str:
    """A noise setting as the tables call it: 'sym 0.4' for symmetric noise of x = 40 percent."""
    if noise == "none":
        return "clean"
    if noise == "human" and table:
        return f"human {table}"
    # 'paper' is the map that a bare 'asym' stands for in the literature.
    return f"{noise} {x / 100:g}" + (f" ({table})" if table not in ("", "paper") else "")


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
ACCURACY = "Test accuracy (%)"
RATE = "Noise rate (%)"


@contextmanager
def look() -> Iterator[None]:
    """Draw with the project's settings, whatever the user's are; one thread at a time."""
    with _LOCK, matplotlib.style.context(_LOOK, after_reset=True):
        yield


def _canvas(
    caption: str, title: str, rows: int, cols: int, size: tuple[float, float], **subplots: Any
) -> tuple[Any, Any]:
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
    for index, method in enumerate(methods):
        one = points[points["method"] == method]
        style = study.styles[method].line()
        for at, mean in zip(one[x], one["mean"], strict=True):
            drawn[method, at] = (index if beside else at, mean)
        if beside:
            axes.errorbar(index, one["mean"], one["std"], capsize=3, **style)
            continue
        step = math.ceil(len(one) / 6)  # a marker on each of 120 epochs would hide the line
        axes.plot(one[x], one["mean"], markevery=(index % step, step), **style)
        low, high = one["mean"] - one["std"], one["mean"] + one["std"]
        axes.fill_between(
            one[x], low.clip(0), high.clip(upper=100), color=style["color"], alpha=0.13, lw=0
        )
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
    share = 100 / len(study.classes)
    axes.axhline(share, color="#555555", lw=1, ls=(0, (2, 3)), zorder=1)
    return [Line2D([], [], color="#555555", lw=1, ls=(0, (2, 3)), label=f"chance ({share:g} %)")]


def _heatmaps(
    caption: str,
    names: Sequence[str],
    title: str,
    cells: Sequence[Sequence[tuple[str, Any]]],
    labels: tuple[str, str, str],
) -> Any:
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

Pictures = Iterator[tuple[str, Any]]


def _report(study: Study) -> Pictures:
    """The figure of the report, for each method: accuracy overall (line) and per class (bars)."""
    taken: set[str] = set()
    for method in study.styles:
        runs = study.runs[study.runs["method"] == method]
        runs = runs[runs["per_class_accuracy"].map(_given)]
        kinds = [kind for kind in study.kinds if kind in set(runs["kind"])]
        if not kinds and not runs.empty:  # only its runs without noise are done yet
            kinds = [_KINDS["none"]]
        if not kinds or runs["test_accuracy"].isna().all():
            continue
        figure, grid = _canvas(
            study.caption,
            f"{method}: accuracy against noise rate",
            len(kinds),
            2,
            (5.4, 3.3),
            width_ratios=[1, 2.3],
            sharey=True,
        )
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
            left.set(title=f"Overall, {kind}", ylabel=ACCURACY, ylim=(0, 100))
            handles = _class_bars(right, study, panel, kind)
        if handles:
            figure.legend(handles=handles, loc="outside right center", handlelength=1.4)
        loss, own = runs.iloc[0][["loss", "own"]]
        slug = _slug(f"{loss} {own}")
        while slug in taken:  # '2*nce' and '2 nce' differ in the specification alone
            slug += "_"
        taken.add(slug)
        yield f"report_{slug}", figure


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
    if not kinds:
        return
    title = f"Test accuracy against noise rate (last epoch{study.spread})"
    figure, grid = _canvas(study.caption, title, 1, len(kinds), (5.4, 4.9), sharey=True)
    extra: list[Any] = []
    ringed: list[Any] = []
    for axes, kind in zip(grid[0], kinds, strict=True):
        panel = study.panel(study.runs, kind)
        drawn = _draw(axes, study, panel, "x", "test_accuracy")
        axes.set_title(_panel_title(panel, kind))
        ringed += _ring_collapsed(axes, panel, drawn)
        extra = _chance(axes, study)
    grid[0, 0].set_ylabel(ACCURACY)
    extra += ringed[:1]
    _legend(figure, study, list(study.styles), extra)
    yield "accuracy_vs_rate", figure


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
) -> Any:
    """A figure of scores per epoch: a row a score and kind of noise, a column a rate."""
    cols = max(len(panels) for _, panels in rows)
    width = 5.6 if cols == 1 and len(rows) <= 2 else 3.4
    figure, grid = _canvas(
        study.caption, title, len(rows), cols, (width, 0.85 * width), sharey=True
    )
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
    methods = [method for method in study.styles if method in shown]
    _legend(figure, study, methods, [*chance, *published])
    return figure


def _accuracy_per_epoch(study: Study) -> Pictures:
    """Test accuracy per epoch at each noise rate: where it falls, memorisation sets in."""
    rows = _settings_grid(study, ["test_accuracy"], clean=True)
    if rows:
        title = f"Test accuracy per epoch{study.spread}"
        figure = _per_epoch(study, title, rows, {"test_accuracy": ACCURACY})
        yield "accuracy_per_epoch", figure


def _mark_published(axes: Any, study: Study, panel: pd.DataFrame) -> list[Any]:
    """At the right edge of curves over epochs, where the papers' runs ended; its legend entry.

    Only for the papers' own recipe: of others it is no surprise that they end elsewhere.
    """
    runs = study.runs[study.runs["standard"] & (study.runs["rank"] == panel["rank"].iloc[0])]
    first = study.runs.iloc[0]
    published = published_table(first["dataset"]) if first["preset"] == "paper" else None
    if published is None or runs.empty:
        return []
    noise, x = runs.iloc[0][["noise", "x"]]
    here = (published["noise"] == noise) & ((100 * published["rate"] - x).abs() < 1e-6)
    ends = published[here].set_index("method")["mean"]
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
        title = "Corrupted training samples: wrong label memorised, true label recovered"
        labels = {"memorised": "Memorised (%)", "recovered": "Recovered (%)"}
        figure = _per_epoch(study, title, rows, labels)
        for axes in figure.axes:
            axes.set_ylim(-3, 103)
        yield "memorised_recovered", figure


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
    if not pairs:
        return
    paired = runs[runs["method"].isin([method for pair in pairs for method in pair])]
    kinds = [kind for kind in study.kinds if not study.panel(paired, kind).empty]
    title = f"Vanilla against normalised loss (test accuracy, last epoch{study.spread})"
    figure, grid = _canvas(study.caption, title, len(kinds), len(pairs), (4.0, 3.4), sharey=True)
    extra = []
    for line, kind in zip(grid, kinds, strict=True):
        line[0].set_ylabel(ACCURACY)
        for axes, pair in zip(line, pairs, strict=True):
            panel = study.panel(runs[runs["method"].isin(pair)], kind)
            if panel.empty:  # this pair was not run with this noise, or not yet
                axes.set_visible(False)
                continue
            _draw(axes, study, panel, "x", "test_accuracy")
            extra = _chance(axes, study)
            axes.set_title(f"{pair[0]} / {pair[1]}: {_panel_title(panel, kind).lower()}")
    _legend(figure, study, [m for m in study.styles if any(m in pair for pair in pairs)], extra)
    yield "vanilla_vs_normalised", figure


def _confusions(study: Study) -> Pictures:
    """The methods' confusion matrices at the most telling rate of each kind of noise."""
    for kind in study.kinds:
        runs = study.runs[(study.runs["kind"] == kind) & study.runs["confusion"].map(_given)]
        if runs.empty:
            continue
        means = runs.groupby(["x", "method"])["test_accuracy"].mean().unstack()
        # Where the best method is furthest from the middle one; of equals, the noisiest.
        lead = means.max(axis=1) - means.median(axis=1)
        rate = max(means.index, key=lambda x: (lead.fillna(0)[x], x))
        runs = runs[runs["x"] == rate]
        panels = []
        for method in study.styles:
            matrices = runs.loc[runs["method"] == method, "confusion"].tolist()
            if matrices:
                counts = np.sum(np.array(matrices, dtype=float), axis=0)
                with np.errstate(invalid="ignore"):  # a class without test samples has no shares
                    panels.append((method, counts / counts.sum(axis=1, keepdims=True)))
        cols = min(4, len(panels))
        rows = [panels[start : start + cols] for start in range(0, len(panels), cols)]
        first = runs.iloc[0]
        figure = _heatmaps(
            study.caption,
            study.classes,
            f"Confusion matrices, {first['title']} (sum of the seeds)",
            rows,
            ("Predicted class", "True class", "Share of the true class (%)"),
        )
        yield f"confusion_{_slug(first['setting'])}", figure


def _transition(study: Study) -> Pictures:
    """The noise itself: how often each class is given each label."""
    runs = study.runs[(study.runs["x"] > 0) & study.runs["transition"].map(_given)]
    rows = []
    for kind in study.kinds:
        settings = runs[runs["kind"] == kind].drop_duplicates("rank").sort_values("rank")
        cells = list(zip(settings["title"].str.capitalize(), settings["transition"], strict=True))
        if cells:
            rows.append(cells)
    if rows:
        labels = ("Label given", "True class", "Share of the true class (%)")
        title = "Transition matrices of the noise"
        yield "transition", _heatmaps(study.caption, study.classes, title, rows, labels)


PICTURES: tuple[Callable[[Study], Pictures], ...] = (
    _report,
    _accuracy_vs_rate,
    _accuracy_per_epoch,
    _memorised_recovered,
    _vanilla_vs_normalised,
    _confusions,
    _transition,
)


def draw_study(summary: pd.DataFrame, histories: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """Every picture that the data allow, as (name, figure); draw and save them under `look()`."""
    parts = studies(summary, histories)
    for study in parts:
        first = study.runs.iloc[0]
        prefix = f"{first['dataset']}_{first['preset']}_" if len(parts) > 1 else ""
        for picture in PICTURES:
            for name, figure in picture(study):
                yield prefix + name, figure


def plot_study(summary: pd.DataFrame, histories: pd.DataFrame, folder: Path) -> list[Path]:
    """Write every picture that the data allow into `folder`, as .png and .svg.

    summary: a row a run; histories: a row a run and epoch (both as `apl.runs` reads them).
    The same data give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with look():
        for name, figure in draw_study(summary, histories):
            written += _save(figure, folder / name)
    return written


def plot_transition(
    labels: NoisyLabels, class_names: Sequence[str], path: Path, caption: str
) -> list[Path]:
    """Write the intended matrix beside the one found in the labels, to `path` .png and .svg."""
    cells = [[("Intended", labels.transition), ("Found in the labels", labels.empirical)]]
    words = ("Label given", "True class", "Share of the true class (%)")
    with look():
        figure = _heatmaps(caption, class_names, "Transition matrix of the noise", cells, words)
        return _save(figure, path)


def _save(figure: Any, path: Path) -> list[Path]:
    written = []
    for kind in _METADATA:
        written.append(path.with_name(f"{path.name}.{kind}"))
        write_atomic(written[-1], render(figure, kind))
    return written


_METADATA: dict[str, dict[str, None]] = {"png": {"Software": None}, "svg": {"Date": None}}


def render(figure: Any, kind: str) -> bytes:
    """A figure as a 'png' or 'svg' file; the same figure gives the same bytes."""
    data = io.BytesIO()
    figure.savefig(data, format=kind, dpi=150, metadata=_METADATA[kind])
    return data.getvalue()


# ----------------------------------------------------------------------------------------- table


def results_table(summary: pd.DataFrame, published: pd.DataFrame | None = None) -> str:
    """The results in Markdown: a row a method, a column a noise setting, mean ± std in percent.

    published: rows as those of `apl.published.published_rows`, the first of several for one cell
    being taken; it adds a second table, ours beside theirs.
    """
    parts = []
    for study in studies(summary):
        parts += [f"**{study.caption}**", _main_table(study), _notes(study)]
        if published is not None:
            here = published["dataset"] == study.runs["dataset"].iloc[0]
            parts.append(_beside_published(study, published[here]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _main_table(study: Study) -> str:
    scores = study.runs.groupby(["rank", "method"])["test_accuracy"].agg(["mean", "std", "count"])
    collapsed = study.runs.groupby(["rank", "method"])["collapsed"].any()
    settings = study.runs.drop_duplicates("rank").sort_values("rank")
    seeds = scores["count"].max()
    table = [["Method", *settings["setting"]]]
    for method in study.styles:
        row = [_escape(method)]
        for rank in settings["rank"]:
            if (rank, method) not in scores.index:
                row.append("")
                continue
            mean, std, count = scores.loc[(rank, method)]
            cell = mean_std(mean, std)
            column = scores.loc[rank, "mean"]
            if column.count() > 1 and f"{mean:.2f}" == f"{column.max():.2f}":
                cell = f"**{cell}**"
            if count not in (0, seeds):
                cell += f" (n = {count:.0f})"
            row.append(cell + "†" * bool(collapsed[rank, method]))
        table.append(row)
    return _markdown(table)


def _notes(study: Study) -> str:
    """What a reader must know to read the table: what was scored, what collapsed, what is short."""
    runs = study.runs
    seeds = runs.groupby(["method", "rank"])["seed"].nunique().max()
    spread = f"mean ± std over {seeds} seeds" if seeds > 1 else "1 seed"
    notes = [
        f"Accuracy in % after the last epoch, on clean test labels; {spread}"
        f"{' unless n says otherwise' if seeds > 1 else ''}. The best of each column is in bold."
    ]
    for _, cell in runs.groupby(["rank", "method"]):
        bad = cell[cell["collapsed"].astype(bool)]
        if not bad.empty:
            first = bad.iloc[0]
            reasons = ", ".join(sorted(set(bad["reason"]) - {""})) or "no reason recorded"
            notes.append(
                f"† {_escape(first['method'])}, {first['setting']}: {len(bad)} of {len(cell)} "
                f"run{'s' * (len(cell) > 1)} collapsed ({reasons})."
            )
    # Only a loss that does not resist memorising shows whether the budget suffices to memorise.
    fragile = runs[(runs["x"] > 0) & ~runs["loss"].map(is_tolerant)]
    most = fragile.groupby(["rank", "setting"])["memorised"].max()
    names = [setting for _, setting in most.index[most < 100 * HARDLY_MEMORISED]]
    if names:
        notes.append(
            f"Hardly any wrong label was memorised by any method at {', '.join(names)}: "
            "this budget is too short to tell robust losses apart."
        )
    return "\n".join(f"- {note}" for note in notes)


def _beside_published(study: Study, published: pd.DataFrame) -> str:
    """Ours beside theirs, for the methods and noise settings that both have."""
    theirs = {
        (row["method"], row["noise"], round(100 * float(row["rate"]), 4)): row
        for row in published.drop_duplicates(["method", "noise", "rate"]).to_dict("records")
    }
    standard = study.runs[study.runs["standard"]]
    table = [["Method", "Noise", "Here", "Published", "Difference", "Paper"]]
    for _, runs in standard.groupby(["rank", "method"]):
        first = runs.iloc[0]
        row = theirs.get((first["loss"], first["noise"], first["x"]))
        if row is None:
            continue
        mean, std = runs["test_accuracy"].mean(), runs["test_accuracy"].std()
        table.append(
            [
                _escape(first["method"]),
                first["setting"],
                mean_std(mean, std),
                mean_std(row["mean"], row["std"]),
                f"{mean - row['mean']:+.2f}",
                _escape(row["paper"]),
            ]
        )
    return _markdown(table) if len(table) > 1 else ""


def mean_std(mean: float, std: float) -> str:
    """'87.38 ± 0.16'; without a deviation where there is one seed, '-' where there is nothing."""
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" if math.isnan(std) else f"{mean:.2f} ± {std:.2f}"


def _markdown(table: list[list[str]]) -> str:
    """Rows of cells, the first being the heading, as a Markdown table that lines up as text too."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in table]
    rule = [
        f"{':' if index == 0 else '-'}{'-' * (w - 2)}{'-' if index == 0 else ':'}"
        for index, w in enumerate(widths)
    ]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)


def _escape(text: str) -> str:
    """Expressions hold '*', which Markdown would take for emphasis."""
    return re.sub(r"([*_|])", r"\\\1", str(text))
