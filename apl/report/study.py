"""A study as it is told: read once, by data set and preset.

Tables, claims, pictures and the page take a `Study` as an argument; here stands what a method and a
noise setting are called, and the one style that each method is drawn in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from apl.config.config import Config, settings_text
from apl.config.tuning import part_of, setting_key
from apl.features.catalog import seen_by
from apl.kernels.bases import BASES
from apl.losses.catalog import LOSSES, PARAMS, loss_label
from apl.names import NOISES
from apl.runs.record import setting
from apl.runs.run import Finished
from apl.runs.scores import HISTORY_COLUMNS, SCORES, VALIDATION
from apl.runs.tuned import Tuned, tuned_in

# ---------------------------------------------------------------------------------------- styles


@dataclass(frozen=True)
class Style:
    """How a method is drawn. Colour alone, or line and marker alone (in print), tell it apart."""

    color: str
    dash: Any
    marker: str
    hollow: bool = False
    leads: bool = False  # it lies on top of the others, and is thicker

    def line(self) -> dict[str, Any]:
        """The keywords that matplotlib takes for a line of this style."""
        face = "white" if self.hollow else self.color
        on_top = {"linewidth": 3.2, "zorder": 3} if self.leads else {}
        return {
            **on_top,
            "color": self.color,
            "linestyle": self.dash,
            "marker": self.marker,
            "markerfacecolor": face,
            "markeredgecolor": self.color if self.hollow else "white",
            "markeredgewidth": 1.4 if self.hollow else 0.6,
            "markersize": 8.5 if self.leads or self.marker in "*PX" else 6.5,
        }


SOLID, DASHED, DOTTED = "solid", (0, (5, 1.6)), (0, (1, 1.2))
DASHDOT, DASHDOTDOT = (0, (6, 1.4, 1.2, 1.4)), (0, (6, 1.2, 1, 1.2, 1, 1.2))

# The hue is the loss one starts from (CE blue, FL orange, GCE green), darkest for the loss itself
# and lighter the more is done to it: normalised, plus MAE, plus RCE. The hues are those of Okabe
# and Ito, safe for the colour-blind, and their steps differ in lightness, which survives a
# black-and-white printer. The markers of the passive losses are hollow.
_HUES: dict[str, tuple[tuple[str, ...], str]] = {
    "ce": (("#0b2f6b", "#0072b2", "#3590d8", "#5fb3ee"), "os^v"),
    "fl": (("#6e2a00", "#c94f00", "#e58a1f", "#dfa11e"), "PX<>"),
    "gce": (("#00483a", "#009e73", "#3aae86", "#72c6a2"), "Ddph"),
    "mae": (("#8a2460", "#cc79a7"), "o^"),
    "rce": (("#000000", "#7a7a7a"), "sv"),
}
_DONE = {"{}": SOLID, "n{}": DASHED, "n{}_mae": DASHDOT, "n{}_rce": DOTTED}  # what is done to it

STYLES: dict[str, Style] = {"sce": Style("#5b3fa8", DASHDOTDOT, "*")} | {
    name.format(base): Style(color, dash, marker, hollow=not BASES[base].active)
    for base, (colors, markers) in _HUES.items()
    for (name, dash), color, marker in zip(_DONE.items(), colors, markers, strict=False)
}
"""The styles of the losses of the paper; others get a spare one."""

HEADLINE = "nce_rce"  # the loss that the paper is about
# Noise whose rate is found and not asked for: one of 0 is not "no noise".
MEASURED = tuple(name for name, kind in NOISES.items() if not kind.rated and name != "none")


def with_headline(styles: Mapping[str, Style]) -> dict[str, Style]:
    """The styles for a picture in which many lines lie on each other: the paper's own loss in full
    colour and on top, if it is there."""
    label = method_label(HEADLINE, "")
    bold = {label: Style("#0a6cff", SOLID, STYLES[HEADLINE].marker, leads=True)}
    return {**styles, **bold} if label in styles else dict(styles)


_SPARE_COLORS = ("#9a8b00", "#b3002d", "#5c4a1f", "#b07cff", "#4d6b7a")
_SPARE_DASHES = (SOLID, DASHED, DASHDOT, DOTTED)
_SPARE_MARKERS = ("D", "P", "X", "<", ">", "p", "*")  # hollow, which no named loss has


def method_label(loss: str, variant: str) -> str:
    """What a method is called: its loss, and what was set by hand where something was."""
    return f"{loss_label(loss)} ({variant})" if variant else loss_label(loss)


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


@dataclass(frozen=True)
class Study:
    """Runs of one data set and preset, ready to tell and to draw: everything in percent.

    runs: a row a run, with the columns of summary.csv, class_names, per_class_accuracy, confusion
    ([true][predicted]) and transition (None where unknown) as lists, its `config` and
    `environment`, and: method, kind (a panel), x (noise rate in %), title and setting (the noise
    setting's name in pictures and tables), rank (their order), own (what was set by hand and tells
    methods apart), standard (whether nothing of the loss was set by hand, so that published figures
    can stand beside it), best and chosen (the test accuracy at these epochs, as in EPOCHS),
    held_out (the accuracy on held-out given labels after the last epoch), nan where there is none;
    epochs: the histories, with the accuracy on held-out labels where there are some, and method,
    kind, x, title and rank of their run;
    styles: how each method is drawn, in the order of the tables;
    shared: settings that all runs have beside their preset's, and so are no part of a method;
    unfinished: the configs of runs that were begun and have no result yet;
    tuned: what was tried of each loss under each noise setting where settings were tuned; runs are
    then those of what was chosen, and a method is its loss at whatever that is;
    earlier: how many runs are left out since they are of an earlier choice.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    styles: dict[str, Style]
    shared: Mapping[str, Any]
    unfinished: Sequence[Config]
    tuned: Sequence[Tuned] = ()
    earlier: int = 0

    @property
    def caption(self) -> str:
        """What was run, for the second line of every picture."""
        first = self.runs.iloc[0]
        seeds = self.runs.groupby(["method", "rank"])["seed"].nunique()
        text = (
            f"{first['dataset']}, preset {first['preset']}, {_span(self.runs['epochs'], 'epoch')}, "
            f"{_span(seeds, 'seed')}"
        )
        rest = [{name: value} for name, value in self.shared.items() if name != "epochs"]
        of = {(c.features, c.network, c.weights) for c in self.runs["config"]}
        seen = filter(None, sorted({seen_by(*each) for each in of}))
        names = {name for each in self.tuned for tried in each.tried for name in tried.values}
        tuned = [f"{' and '.join(sorted(names))} tuned for each loss"] if names else []
        return ", ".join([text, *map(settings_text, rest), *tuned, *seen])

    @property
    def judged(self) -> bool:
        """Whether settings were tuned, and its runs are those of what was chosen: before there is
        one of these, they are the tuning runs."""
        return {part_of(config) for config in self.runs["config"]} == {"evaluation"}

    @property
    def labels(self) -> str:
        """What the accuracies are on: 'clean test labels', or 'given' ones of unknown truth."""
        on = set(self.runs["on"])
        if len(on) > 1:
            return "clean test labels, or given ones where the truth is unknown"
        return "clean test labels" if "true" in on else "given test labels"

    @property
    def on_given(self) -> bool:
        """Whether all accuracies are on labels of which nobody knows whether they are right."""
        return set(self.runs["on"]) == {"given"}

    @property
    def spread(self) -> str:
        """What lines and bands are, for a title; '' where there is one seed."""
        return ", mean ± std" if self.runs["seed"].nunique() > 1 else ""

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return next((list(names) for names in self.runs["class_names"] if given(names)), [])

    @property
    def kinds(self) -> list[str]:
        """The kinds of noise, a panel each; 'no noise' only where there is nothing else."""
        kinds = list(self.runs.sort_values("rank")["kind"].unique())
        return [kind for kind in kinds if kind != NOISES["none"].label] or kinds

    @property
    def settings(self) -> list[str]:
        """The names of the noise settings, in the order of the tables."""
        return list(self.runs.sort_values("rank")["setting"].unique())

    def panel(self, frame: pd.DataFrame, kind: str) -> pd.DataFrame:
        """The rows of one kind of noise, runs without noise being its rate 0."""
        return frame[frame["kind"].isin([kind, NOISES["none"].label])]


def _span(numbers: pd.Series[int], unit: str) -> str:
    low, high = int(numbers.min()), int(numbers.max())
    return f"{low}-{high} {unit}s" if low != high else f"{low} {unit}{'s' if low != 1 else ''}"


def given(value: object) -> bool:
    """Whether a cell holds a list with something in it, and not the NaN of a missing one."""
    return isinstance(value, (list, tuple, np.ndarray)) and len(value) > 0


def studies(found: Sequence[Finished], unfinished: Sequence[Config] = ()) -> list[Study]:
    """The runs of a study folder, as `read_runs` has them, by data set and preset."""
    tuned = tuned_in(found)
    whole, found = found, _judged(found, tuned)
    judging = [config for config in unfinished if part_of(config) != "tuning"]
    unfinished = judging if len(found) < len(whole) else unfinished
    earlier = sum(part_of(run.config) == "evaluation" for run in whole)
    earlier -= sum(part_of(run.config) == "evaluation" for run in found)
    runs = pd.DataFrame([_row(run) for run in found])
    clean = (runs["x"] == 0) & ~runs["noise"].isin(MEASURED)  # those keep their name
    runs.loc[clean, "noise"], runs.loc[clean, "map"] = "none", ""
    # Fresh images have a measured rate of their own in each seed: one setting for all that.
    fresh = np.array([bool(config.by_hand.get("fresh_data")) for config in runs["config"]])
    of_one = runs[runs["noise"].isin(MEASURED).to_numpy() & fresh]
    for _, x in of_one.groupby(["dataset", "preset", "noise", "map"])["x"]:
        runs.loc[x.index, "x"] = round(float(x.mean()), 2)
    settings = [config.by_hand for config in runs["config"]]
    groups = list(zip(runs["dataset"], runs["preset"], strict=True))
    shared = {
        group: _shared([s for s, of in zip(settings, groups, strict=True) if of == group])
        for group in dict.fromkeys(groups)
    }
    runs["own"] = [
        own_settings(config, shared[group])
        for config, group in zip(runs["config"], groups, strict=True)
    ]
    runs["sets_loss"] = [bool(set(PARAMS) & set(overrides)) for overrides in settings]
    # A rate of 0 of any kind of noise is one and the same training: it counts once.
    same = ["dataset", "preset", "loss", "variant", "noise", "map", "x", "seed"]
    runs = runs[~(clean & runs.duplicated(same))].copy()
    runs["standard"] = (runs["own"] == "") & ~runs["sets_loss"]
    runs["method"] = [method_label(*pair) for pair in zip(runs["loss"], runs["own"], strict=True)]
    keys = list(zip(runs["noise"], runs["map"], runs["x"], strict=True))
    names = list(NOISES)
    # An unknown rate, nan, equals nothing, not even itself: it is ordered as -1.
    ordered = [(names.index(noise), table, -1 if math.isnan(x) else x) for noise, table, x in keys]
    order = sorted(set(ordered))
    runs["rank"] = [order.index(key) for key in ordered]
    runs["kind"] = [_kind(noise, table) for noise, table, _ in keys]
    runs["title"] = [_title(*key, on) for key, on in zip(keys, runs["on"], strict=True)]
    runs["setting"] = [setting_name(*key, on) for key, on in zip(keys, runs["on"], strict=True)]

    rows = [{"run": run.name, **row} for run in found for row in run.history]
    epochs = pd.DataFrame(rows, columns=["run", *HISTORY_COLUMNS, VALIDATION])
    epochs[[*SCORES, VALIDATION]] *= 100
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
            [c for c in unfinished if (c.dataset, c.preset) == (dataset, preset)],
            [
                each
                for each in tuned.values()
                if (each.config.dataset, each.config.preset) == (dataset, preset)
            ],
            earlier,
        )
        for (dataset, preset), part in runs.groupby(["dataset", "preset"])
    ]


def _judged(found: Sequence[Finished], tuned: Mapping[str, Tuned]) -> list[Finished]:
    """The runs that a study is told by: where settings were tuned those of what is chosen now, and
    before there is one of these the tuning runs themselves."""

    def judges(run: Finished) -> bool:
        if part_of(run.config) != "evaluation":
            return not part_of(run.config)
        of = tuned.get(setting_key(run.config))
        values = (run.config.tuned or {})["values"]
        return of is None or of.chosen is None or of.chosen.values == values

    return [run for run in found if judges(run)] or list(found)


def _row(run: Finished) -> dict[str, Any]:
    """A run as a row of the frame, its scores in percent."""
    row = {"run": run.name} | setting(run) | vars(run.result)
    for name in SCORES:
        row[name] = 100 * row[name]
    row |= _at_epochs(run)
    row["x"] = round(100 * row["rate"], 4 if NOISES[row["noise"]].rated else 1)
    return row | {"config": run.config, "environment": run.environment}


EPOCHS = {"test_accuracy": "Last epoch", "best": "Best epoch", "chosen": "Chosen epoch"}
"""The epochs that a test accuracy can be reported of, by its column in the frame of runs.

Best: where the test accuracy is highest; chosen: where the accuracy on held-out labels, as given,
is highest, the last of equal ones."""


def _at_epochs(run: Finished) -> dict[str, float]:
    """What a run reached at its best and its chosen epoch, and on what was held out, in percent."""
    looks = [row for row in run.history if not math.isnan(row["test_accuracy"])]
    held_out = [row for row in looks if not math.isnan(row.get(VALIDATION, math.nan))]
    chosen = max(held_out, key=lambda row: (row[VALIDATION], row["epoch"]), default=None)
    return {
        "best": max((100 * row["test_accuracy"] for row in looks), default=math.nan),
        "chosen": 100 * chosen["test_accuracy"] if chosen else math.nan,
        "held_out": 100 * held_out[-1][VALIDATION] if held_out else math.nan,
        "held_out_count": run.result.held_out,
    }


def _shared(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings, beside their preset's, that all runs of a study have: they tell none apart."""
    return {
        name: value
        for name, value in settings[0].items()
        if all(name in others and others[name] == value for others in settings)
    }


def own_settings(config: Config, shared: Mapping[str, Any]) -> str:
    """What was set by hand for a run, without what all runs of its study have."""
    own = {name: value for name, value in config.by_hand.items() if name not in shared}
    return settings_text(own)


def _kind(noise: str, table: str) -> str:
    # Subsets of human labels are points of one panel; maps of asymmetric noise are panels.
    kind = NOISES[noise]
    return f"{kind.label} (map {table})" if table and kind.rated else kind.label


def bare(name: str) -> str:
    """The name of a kind or setting without the map that a bare 'asymmetric' stands for in the
    literature."""
    return name.replace(" (map paper)", "")


def _title(noise: str, table: str, x: float, on: str) -> str:
    if noise == "none" and on != "true":
        return "labels as given"
    name = _kind(noise, table) if NOISES[noise].rated else f"{NOISES[noise].label} {table}"
    return name.strip() if noise == "none" or math.isnan(x) else f"{name.strip()}, {x:g} %"


def setting_name(noise: str, table: str, x: float, on: str = "true") -> str:
    """A noise setting as the tables call it: 'sym 0.4' for symmetric noise of x = 40 percent; on:
    whether the test labels are 'true' or only 'given', and so those without added noise too."""
    if noise == "none":
        return "clean" if on == "true" else "as given"
    if noise == "human" and table:
        return f"human {table}"
    rate = "" if math.isnan(x) else f" {x / 100:g}"
    # 'paper' is the map that a bare 'asym' stands for in the literature.
    return f"{noise}{rate}" + (f" ({table})" if table not in ("", "paper") else "")
