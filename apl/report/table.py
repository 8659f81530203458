"""A study as it is told: read once, by data set and preset, and its table in Markdown.

Claims, pictures and the page take a `Study` as an argument; here stands what a method and a noise
setting are called, and the one style that each method is drawn in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from apl.config.config import Config, settings_text
from apl.config.published import published_at
from apl.kernels.bases import BASES
from apl.losses.catalog import LOSSES, PARAMS, is_tolerant, loss_label
from apl.names import NOISES
from apl.runs.record import setting
from apl.runs.run import Finished
from apl.runs.scores import HARDLY_MEMORISED, HISTORY_COLUMNS, SCORES, VALIDATION

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

STYLES: dict[str, Style] = {
    "sce": Style("#5b3fa8", DASHDOTDOT, "*"),
    **{
        name.format(base): Style(color, dash, marker, hollow=not BASES[base].active)
        for base, (colors, markers) in _HUES.items()
        for (name, dash), color, marker in zip(_DONE.items(), colors, markers, strict=False)
    },
}
"""The styles of the losses of the paper; others get a spare one."""

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
    unfinished: the configs of runs that were begun and have no result yet.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    styles: dict[str, Style]
    shared: Mapping[str, Any]
    unfinished: Sequence[Config]

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
        return ", ".join([text, *map(settings_text, rest)])

    @property
    def labels(self) -> str:
        """What the accuracies are on: 'clean test labels', or 'given' ones of unknown truth."""
        on = set(self.runs["on"])
        if len(on) > 1:
            return "clean test labels, or given ones where the truth is unknown"
        return "clean test labels" if "true" in on else "given test labels"

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
    runs = pd.DataFrame([_row(run) for run in found])
    measured = [name for name, kind in NOISES.items() if not kind.rated and name != "none"]
    clean = (runs["x"] == 0) & ~runs["noise"].isin(measured)  # those keep their name
    runs.loc[clean, "noise"], runs.loc[clean, "map"] = "none", ""
    settings = [config.overrides for config in runs["config"]]
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
        )
        for (dataset, preset), part in runs.groupby(["dataset", "preset"])
    ]


def _row(run: Finished) -> dict[str, Any]:
    """A run as a row of the frame, its scores in percent."""
    result = dict(vars(run.result))
    for name in SCORES:
        result[name] = 100 * result[name]
    row = setting(run)
    x = round(100 * row["rate"], 4 if NOISES[row["noise"]].rated else 1)
    return {
        **{"run": run.name, **row, **result, **_at_epochs(run), "x": x},
        **{"config": run.config, "environment": run.environment},
    }


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
    own = {name: value for name, value in config.overrides.items() if name not in shared}
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


# ----------------------------------------------------------------------------------------- table


def results_table(parts: Sequence[Study], published: pd.DataFrame | None = None) -> str:
    """The results in Markdown: a row a method, a column a noise setting, mean ± std in percent.

    published: rows as those of `published_rows`; ours beside theirs then follow.
    """
    texts = []
    for study in parts:
        texts += [f"**{study.caption}**", _main_table(study), _notes(study)]
        texts += [_epochs_table(study), _losses_table(study)]
        if published is not None:
            texts += _beside_published(study, published)
    return "\n\n".join(text for text in texts if text) + "\n"


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
        f"Accuracy in % after the last epoch, on {study.labels}; {spread}"
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


def epoch_choices(study: Study) -> tuple[list[str], pd.DataFrame]:
    """The test accuracy at the last, the best and the chosen epoch, where there is a choice.

    That is where labels were held out to choose by, and under human noise, of which others publish
    now the one, now the other.  Returns the names of EPOCHS that are known, and a row for each
    setting and method, in the order of the tables: setting, method, and for each name its mean and
    std over the seeds, and whether that mean leads in its setting: NAME_mean, NAME_std, NAME_leads.
    """
    runs = study.runs[study.runs["held_out"].notna() | (study.runs["noise"] == "human")]
    known = [name for name in EPOCHS if runs[name].notna().any()]
    rows = []
    for (_, named), part in runs.groupby(["rank", "setting"]):
        means = part.groupby("method")[known].mean().round(2)
        for method in [method for method in study.styles if method in means.index]:
            scores = part.loc[part["method"] == method, known]
            row: dict[str, Any] = {"setting": named, "method": method}
            for name in known:
                row[f"{name}_mean"], row[f"{name}_std"] = scores[name].mean(), scores[name].std()
                leads = means.at[method, name] == means[name].max()
                row[f"{name}_leads"] = len(means) > 1 and leads
            rows.append(row)
    return known, pd.DataFrame(rows)


def loss_choices(study: Study) -> pd.DataFrame:
    """What choosing the method by held-out given labels comes to, a row a noise setting.

    By the mean over the seeds after the last epoch.  Columns: setting, chosen, held_out (accuracy
    on the held-out labels), chosen_mean and chosen_std (on the test images), best (the method with
    the highest test accuracy among those with held-out labels), best_mean, best_std.
    """
    rows = []
    runs = study.runs[study.runs["held_out"].notna() & study.runs["test_accuracy"].notna()]
    for (_, named), part in runs.groupby(["rank", "setting"]):
        means = part.groupby("method")[["held_out", "test_accuracy"]].mean()
        if len(means) < 2:
            continue
        means = means.loc[[method for method in study.styles if method in means.index]]
        deviations = part.groupby("method")["test_accuracy"].std()
        row: dict[str, Any] = {"setting": named, "held_out": means["held_out"].max()}
        for word, score in (("chosen", "held_out"), ("best", "test_accuracy")):
            method = str(means[score].idxmax())
            mean, std = means.loc[method, "test_accuracy"], deviations.loc[method]
            row |= {word: method, f"{word}_mean": mean, f"{word}_std": std}
        rows.append(row)
    return pd.DataFrame(rows)


def epoch_notes(study: Study, known: Sequence[str]) -> list[str]:
    """What to know of these columns of EPOCHS before comparing them with anybody's."""
    truth = "true" in set(study.runs["on"])
    unknown = "nobody has them in practice" if truth else "it was chosen on what it is scored on"
    notes = [
        f"The best epoch is the one with the highest accuracy on the {study.labels}: {unknown}, "
        "so it is no result, but what others may have published."
    ]
    if "chosen" in known:
        notes.append(
            "The chosen epoch is the one with the highest accuracy on held-out training labels as "
            "given, wrong ones among them: anybody can choose so."
        )
    return notes


LOSS_NOTE = (
    "Chosen: the highest accuracy on held-out training labels as given, after the last epoch, mean "
    "over the seeds. Best in hindsight: the highest on the test images."
)


def _epochs_table(study: Study) -> str:
    known, choices = epoch_choices(study)
    if choices.empty:
        return ""
    table = [["Noise", "Method", *(EPOCHS[name] for name in known)]]
    for row in choices.to_dict("records"):
        cells = [mean_std(row[f"{name}_mean"], row[f"{name}_std"]) for name in known]
        bold = ["**" * row[f"{name}_leads"] for name in known]
        cells = [f"{mark}{cell}{mark}" for mark, cell in zip(bold, cells, strict=True)]
        table.append([row["setting"], _escape(row["method"]), *cells])
    notes = "\n".join(f"- {note}" for note in epoch_notes(study, known))
    return f"{_markdown(table)}\n\n{notes}"


def _losses_table(study: Study) -> str:
    choices = loss_choices(study)
    if choices.empty:
        return ""
    table = [["Noise", "Chosen", "Held out", "Test", "Best in hindsight", "Test"]]
    for row in choices.to_dict("records"):
        tests = [mean_std(row[f"{word}_mean"], row[f"{word}_std"]) for word in ("chosen", "best")]
        held_out = f"{row['held_out']:.2f}"
        names = _escape(row["chosen"]), _escape(row["best"])
        table.append([row["setting"], names[0], held_out, tests[0], names[1], tests[1]])
    return f"{_markdown(table)}\n\n- {LOSS_NOTE}"


@dataclass(frozen=True)
class Published:
    """A published figure: its mean and std in %, by how much ours is ahead at the same epoch (nan
    where that is not known), and why not to trust it, '' for no reason."""

    mean: float
    std: float
    ahead: float
    doubtful: str

    @property
    def text(self) -> str:
        """'87.38 ± 0.16', with a mark where it is doubtful."""
        return mean_std(self.mean, self.std) + "‡" * bool(self.doubtful)

    @property
    def difference(self) -> str:
        """'-3.21', '' where it is not known."""
        return "" if math.isnan(self.ahead) else f"{self.ahead:+.2f}"


@dataclass(frozen=True)
class Beside:
    """Ours beside published figures: a row a method and noise setting, a column a paper under one
    protocol.

    about: what the figures have in common; ours: which epoch stands of ours; columns: paper and
    protocol; rows: method, setting, the mean and std of ours, and theirs by the place of their
    column; notes: what to know below the table.
    """

    about: str
    ours: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, str, tuple[float, float], Mapping[int, Published]]]
    notes: Sequence[str]


PAPERS_WIDTH = 64  # of their networks, as we count it
_METHODS = {False: "each paper's own methods", True: "methods of others, as each paper ran them"}
_EPOCHS = {
    "last": ("test_accuracy", "after the last epoch"),
    "best": ("best", "at the best epoch"),
    "other": ("test_accuracy", "at another epoch"),
    "": ("test_accuracy", "at an epoch that is not stated"),
}
"""By the epoch that a paper scored: the score of ours to stand beside, and how it is told."""


def beside_published(study: Study, published: pd.DataFrame) -> tuple[str, list[Beside]]:
    """What a study ran beside what papers published of it: in a line how it trained and which of
    the papers trained so, and the tables; '' and none where nothing was published of it.

    published: rows as those of `published_rows`. What is quoted, another network and other epochs
    are columns of their own. Another epoch that is scored is a table of its own, and so are a
    paper's own methods and those of others that it ran.
    """
    rows = published[published["dataset"] == study.runs["dataset"].iloc[0]]
    runs = study.runs[study.runs["standard"]]
    found: list[tuple[str, pd.DataFrame, Any, Any]] = []
    for _, of_setting in runs.groupby("rank"):
        first = of_setting.iloc[0]
        there = published_at(rows, first["noise"], first["map"], first["x"])
        for method in study.styles:
            ours = of_setting[of_setting["method"] == method]
            theirs = there[there["method"].isin(ours["loss"])]
            places = zip(theirs.index, theirs.to_dict("records"), strict=True)
            found += [(method, ours, place, row) for place, row in places]
    parts: dict[tuple[bool, str], list[Any]] = {
        (rerun, epoch): [] for rerun in _METHODS for epoch in _EPOCHS
    }
    for line in found:
        parts[line[-1]["rerun"], line[-1]["epoch"]].append(line)
    tables = [_beside(*kind, part) for kind, part in parts.items() if part]
    return (_trained(runs["config"], [line[-1] for line in found]) if found else ""), tables


def _beside(
    rerun: bool, epoch: str, found: Sequence[tuple[str, pd.DataFrame, Any, Mapping[str, Any]]]
) -> Beside:
    """The table of these: method, our runs of it in a setting, the place of a published row in the
    file, which orders the columns, and the row."""
    score, told = _EPOCHS[epoch]
    columns = list(dict.fromkeys(_column(row) for *_, row in sorted(found, key=lambda f: f[2])))
    rows: dict[tuple[str, str], Any] = {}
    doubts: dict[str, list[str]] = {}
    for method, runs, _, row in found:
        setting = str(runs["setting"].iloc[0])
        mean, std = float(runs[score].mean()), float(runs[score].std())
        ahead = mean - row["mean"] if epoch in ("last", "best") else math.nan
        line = rows.setdefault((method, setting), (method, setting, (mean, std), {}))
        theirs = Published(row["mean"], row["std"], ahead, row["doubtful"])
        line[-1][columns.index(_column(row))] = theirs
        if theirs.doubtful:
            doubts.setdefault(theirs.doubtful, []).append(method)
    notes = ["The difference is this study less the paper."]
    if epoch not in ("last", "best"):
        notes = ["No difference is taken: ours are of the last epoch."]
    notes += [f"‡ {', '.join(dict.fromkeys(names))}: {why}." for why, names in doubts.items()]
    about = f"{_METHODS[rerun]}, {told}"
    return Beside(about, EPOCHS[score].lower(), columns, list(rows.values()), notes)


def _column(row: Mapping[str, Any]) -> tuple[str, str]:
    """The paper of a published row, and how it trained: 'cnn8, 120 epochs'."""
    protocol = [
        row["network"] or "network not stated",
        *([] if math.isnan(row["epochs"]) else [f"{row['epochs']:g} epochs"]),
        *(["quoted elsewhere"] if row["quoted"] else []),
    ]
    return str(row["paper"]), ", ".join(protocol)


def _trained(configs: Iterable[Config], rows: Sequence[Mapping[str, Any]]) -> str:
    """How a study trained, and which papers of published rows trained so too."""
    ways = sorted({(c.network, c.width, c.epochs, c.train_size) for c in configs})
    told = [
        f"{network} of width {width}, {epochs} epochs, "
        f"{f'{size:,}' if size else 'all'} training images"
        for network, width, epochs, size in ways
    ]
    text = f"This study: {'; '.join(told)}."
    so = {
        (network, epochs)
        for network, width, epochs, size in ways
        if width == PAPERS_WIDTH and not size
    }
    alike = {row["paper"]: None for row in rows if (row["network"], row["epochs"]) in so}
    if all((row["network"], row["epochs"]) in so for row in rows):
        return f"{text} So did the papers."
    who = f"{' and '.join(alike)} did so; elsewhere" if alike else "No paper did so:"
    return (
        f"{text} {who} a difference is as much of the training as of the loss, and the order says "
        "more."
    )


def _beside_published(study: Study, published: pd.DataFrame) -> list[str]:
    line, tables = beside_published(study, published)
    texts = [line]
    for beside in tables:
        heads = [f"{_escape(paper)}: {protocol}" for paper, protocol in beside.columns]
        table = [["Method", "Noise", f"Here, {beside.ours}", *heads]]
        for method, named, ours, theirs in beside.rows:
            cells = []
            for place in range(len(beside.columns)):
                figure = theirs.get(place)
                told = [figure.text, f"({figure.difference})"] if figure else []
                cells.append(" ".join(told).removesuffix(" ()"))
            table.append([_escape(method), named, mean_std(*ours), *cells])
        notes = "\n".join(f"- {note}" for note in beside.notes)
        texts += [f"Published, {beside.about}:", _markdown(table), notes]
    return texts


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
