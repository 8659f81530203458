"""The tables of a study, which table.md, the terminal and the page have in common: accuracies, what
choosing an epoch or a loss comes to, and ours beside published figures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from apl.config.config import Config
from apl.config.published import published_at
from apl.errors import BadInput
from apl.features.catalog import NONE
from apl.losses.catalog import is_tolerant
from apl.report.statistics import FEWEST, cant_tell, may_be_best
from apl.report.study import EPOCHS, Study, given
from apl.report.tables import Cell, Table, escape
from apl.report.tuning import chosen_values_table
from apl.runs.scores import FROZEN, HARDLY_MEMORISED


def results_table(parts: Sequence[Study], published: pd.DataFrame | None = None) -> str:
    """The results in Markdown: a row a method, a column a noise setting, mean ± std in percent.

    published: rows as those of `published_rows`; ours beside theirs then follow.
    """
    told = results(parts, published)
    return in_markdown([piece for ours, theirs in told for piece in (*ours, *theirs)])


Pieces = list[str | Table]


def results(
    parts: Sequence[Study], published: pd.DataFrame | None = None
) -> list[tuple[Pieces, Pieces]]:
    """The texts and tables of each study, and those that set it beside what is published."""
    told = []
    for study in parts:
        ours: Pieces = [f"**{study.caption}**", *map(escape, chosen_lines(study))]
        ours += [accuracy_table(study), _bullets(_accuracy_notes(study))]
        for table in (chosen_values_table(study), epochs_table(study), chosen_table(study)):
            if table is not None:
                if study.tuned:  # several tables of methods by noise: each says what it is
                    ours.append(f"{escape(table.caption)}:")
                ours += [table, _bullets(table.notes)]
        theirs: Pieces = []
        if published is not None:
            line, tables = beside_published(study, published)
            theirs.append(line)
            for beside in tables:
                theirs += [f"Published, {beside.about}:", beside.table, _bullets(beside.notes)]
        told.append((ours, [piece for piece in theirs if piece]))
    return told


def in_markdown(pieces: Iterable[str | Table], width: float = math.inf) -> str:
    """Texts and tables one below the other; a table that is wider than that stands as several."""
    texts = (each if isinstance(each, str) else each.markdown(width) for each in pieces)
    return "\n\n".join(text for text in texts if text) + "\n"


def _bullets(notes: Iterable[str]) -> str:
    return "\n".join(f"- {escape(note)}" for note in notes)


# -------------------------------------------------------------------------------------- accuracy


def grid_table(study: Study, caption: str, make: Callable[[pd.DataFrame], Cell]) -> Table:
    """Methods by noise settings: `make` turns the runs of a cell into what stands there. Settings
    without anything are left out."""
    cells = study.runs.groupby(["method", "setting"], sort=False)
    made = {key: make(runs) for key, runs in cells}
    told = {setting for (_, setting), cell in made.items() if cell.text}
    settings = [setting for setting in study.settings if setting in told]
    rows = [
        [Cell(method), *(made.get((method, setting), Cell("")) for setting in settings)]
        for method in study.styles
    ]
    return Table(caption, ["Method", *settings], rows)


def accuracy_table(study: Study) -> Table:
    """Mean ± std of every method and setting."""
    seeds = study.runs.groupby(["setting", "method"])["test_accuracy"].count().max()
    best = {setting: _bold(of) for setting, of in study.runs.groupby("setting")}

    def cell(runs: pd.DataFrame) -> Cell:
        setting, scores = runs["setting"].iloc[0], runs["test_accuracy"]
        mean, count = float(scores.mean()), scores.count()
        text = mean_std(mean, scores.std())
        if count not in (0, seeds):
            text += f" (n = {count})"
        text += "†" * bool(runs["collapsed"].any())
        return Cell(text, mean, best=runs["method"].iloc[0] in best[setting])

    return grid_table(study, f"Accuracy on {study.labels} after the last epoch, in %", cell)


def _bold(runs: pd.DataFrame) -> set[str]:
    """The methods of a noise setting that stand in bold: those that may be the best, where there
    are seeds enough to say so, else those with the highest mean; none of one method."""
    scores = runs.pivot_table(index="seed", columns="method", values="test_accuracy")
    if len(scores.columns) < 2:
        return set()
    whole = scores.dropna()
    if len(whole) >= FEWEST:
        return set(may_be_best(whole))
    means = scores.mean().round(2)
    return set(means.index[means == means.max()])


def what_is_bold(study: Study) -> str:
    """What bold says in the table of accuracies, and what it doesn't."""
    seeds = int(study.runs.groupby("setting")["seed"].nunique().max())
    if seeds >= FEWEST:
        return (
            "In bold: those that may be the best of their column, a set that holds the best one in "
            "19 of 20 studies"
        )
    return f"The highest of each column is in bold; {cant_tell(seeds)} whether it is the best"


def _accuracy_notes(study: Study) -> list[str]:
    """What to know of the accuracies: what was scored, what collapsed, what is short."""
    runs = study.runs
    seeds = runs.groupby(["method", "rank"])["seed"].nunique().max()
    spread = f"mean ± std over {seeds} seeds" if seeds > 1 else "1 seed"
    notes = [
        f"Accuracy in % after the last epoch, on {study.labels}; {spread}"
        f"{' unless n says otherwise' if seeds > 1 else ''}. {what_is_bold(study)}."
    ]
    told = runs[["rank", "method", "setting", "collapsed", "reason"]]
    for _, cell in told.groupby(["rank", "method"]):
        bad = cell[cell["collapsed"].astype(bool)]
        if not bad.empty:
            first = bad.iloc[0]
            reasons = ", ".join(sorted(set(bad["reason"]) - {""})) or "no reason recorded"
            notes.append(
                f"† {first['method']}, {first['setting']}: {len(bad)} of {len(cell)} "
                f"run{'s' * (len(cell) > 1)} collapsed ({reasons})."
            )
    names = too_short_settings(runs)
    if names and on_features(runs):
        notes.append(f"At {', '.join(names)} hardly any wrong label was memorised: {FROZEN}.")
    elif names:
        notes.append(
            f"At {', '.join(names)} even losses that do not resist wrong labels memorised hardly "
            "any: this budget is too short to tell robust losses apart."
        )
    return notes


def on_features(runs: pd.DataFrame) -> bool:
    """Whether all runs learn from frozen features."""
    return bool(runs["config"].map(lambda config: config.features != NONE).all())


def too_short_settings(runs: pd.DataFrame) -> list[str]:
    """The settings of a study's runs whose budget does not suffice to memorise wrong labels, so
    that robust losses can't be told from others: CE says so, where there is a run of it, for other
    losses may resist more than theory promises.  None of a tuned study, in which each loss has the
    step that suits these labels: little memory is what was chosen."""
    if runs["config"].map(lambda config: bool(config.tuned)).any():
        return []
    fragile = runs[(runs["x"] > 0) & ~runs["loss"].map(is_tolerant)]
    judged_by_ce = fragile["setting"].isin(fragile.loc[fragile["loss"] == "ce", "setting"])
    fragile = fragile[~judged_by_ce | (fragile["loss"] == "ce")]
    most = fragile.groupby(["rank", "setting"])["memorised"].max()
    names = [setting for _, setting in most.index[most < 100 * HARDLY_MEMORISED]]
    return list(dict.fromkeys(names))


def confused_anyway(study: Study) -> dict[str, float]:
    """By noise setting, how often networks trained on right labels take test images of a class for
    the class that the noise makes of it, in %: what "memorised" counts though nothing was.

    They are CE's runs of the clean setting, else those of all losses; {} where there are none.
    """
    runs = study.runs[study.runs["confusion"].map(given)]
    clean = runs[(runs["noise"] == "none") & ~runs["collapsed"].astype(bool)]
    by_ce = clean[clean["loss"] == "ce"]
    matrices = list((by_ce if len(by_ce) else clean)["confusion"])
    if not matrices:
        return {}
    counts = np.sum(matrices, axis=0)
    classes = counts.sum(1)
    shares = counts / np.maximum(classes, 1)[:, None]
    found = {}
    for setting, of_setting in runs[runs["transition"].map(given)].groupby("setting", sort=False):
        flips = np.mean([np.array(matrix) for matrix in of_setting["transition"]], 0)
        flips = classes[:, None] * flips * (1 - np.eye(len(flips)))
        if flips.sum() > 0:
            found[str(setting)] = float(100 * (flips * shares).sum() / flips.sum())
    return found


# --------------------------------------------------------------------- which epoch, which loss


def epochs_table(study: Study) -> Table | None:
    """The test accuracy at the last, the best and the chosen epoch, where there is a choice.

    That is where labels were held out to choose by, and under human noise, of which others publish
    now the one, now the other.
    """
    runs = study.runs[study.runs["held_out"].notna() | (study.runs["noise"] == "human")]
    known = [name for name in EPOCHS if runs[name].notna().any()]
    rows = []
    for (_, setting), part in runs.groupby(["rank", "setting"]):
        means = part.groupby("method")[known].mean().round(2)
        for method in [method for method in study.styles if method in means.index]:
            row = [Cell(method), Cell(str(setting))]
            for name in known:
                scores = part.loc[part["method"] == method, name]
                mean = float(scores.mean())
                leads = len(means) > 1 and bool(means.at[method, name] == means[name].max())
                row.append(Cell(mean_std(mean, scores.std()), mean, best=leads))
            rows.append(row)
    if not rows:
        return None
    caption = f"Accuracy on {study.labels} by the epoch that is taken, in %"
    head = ["Method", "Noise", *(EPOCHS[name] for name in known)]
    return Table(caption, head, rows, _epoch_notes(study, known), keys=2)


def _epoch_notes(study: Study, known: Sequence[str]) -> list[str]:
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


@dataclass(frozen=True)
class Choice:
    """The loss that held-out given labels choose under one noise setting.

    setting, method: their names; held_out, test: the method's accuracy on the held-out and on the
    test labels, in %; ahead: of each other method, by how many points on the held-out ones, the
    closest first; count: how many labels are held out, 0 where that was not recorded.
    """

    setting: str
    method: str
    held_out: float
    test: float
    ahead: Mapping[str, float]
    count: int

    @property
    def reach(self) -> float:
        """By how many points two methods must differ on so many labels for 19 in 20 not to be
        chance; nan where nobody knows how many there are."""
        share = min(max(self.held_out / 100, 0.02), 0.98)
        return 196 * math.sqrt(2 * share * (1 - share) / self.count) if self.count else math.nan

    @property
    def sentence(self) -> str:
        """What was chosen, by how much, and whether so few labels can decide."""
        close = [method for method, points in self.ahead.items() if points < self.reach]
        second, points = next(iter(self.ahead.items()))
        lead = f"{points:.1f} points ahead of" if points >= 0.05 else "level with"
        text = (
            f"{self.method}, chosen by held-out given labels: {self.held_out:.1f} % of them, "
            f"{lead} {second}"
        )
        if self.count and close:
            names = close[0] if len(close) == 1 else f"{', '.join(close[:-1])} and {close[-1]}"
            names = names if len(close) < 5 else f"{len(close)} of the {len(self.ahead)} others"
            text += (
                f"; {self.count:,} labels alone can't decide between it and {names}: they show "
                f"differences of {self.reach:.1f} points or more"
            )
        elif self.count:
            text += f", which {self.count:,} labels can tell ({self.reach:.1f} points or more)"
        return f"{text}. It reaches {self.test:.1f} %"


def _to_choose_from(study: Study) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Each setting in which labels were held out and several methods run: its name, its runs, and
    the methods' means of both accuracies, in the order of the tables."""
    runs = study.runs[study.runs["held_out"].notna() & study.runs["test_accuracy"].notna()]
    for (_, setting), part in runs.groupby(["rank", "setting"]):
        means = part.groupby("method")[["held_out", "test_accuracy"]].mean()
        if len(means) > 1:
            order = [method for method in study.styles if method in means.index]
            yield str(setting), part, means.loc[order]


def choices(study: Study) -> list[Choice]:
    """What held-out labels choose, a setting at a time; none where nothing was held out, or one
    method was run."""
    found = []
    for setting, part, means in _to_choose_from(study):
        method = str(means["held_out"].idxmax())
        best = float(means["held_out"][method])
        behind = (best - means["held_out"].drop(method)).sort_values(kind="stable")
        ahead = {str(name): float(points) for name, points in behind.items()}
        test = float(means["test_accuracy"][method])
        count = int(part["held_out_count"].min())
        found.append(Choice(setting, method, best, test, ahead, count))
    return found


def chosen_run(found: Sequence[Study], folder: str) -> tuple[str, str]:
    """The run of a study that held-out given labels choose, and a line that says so: of the method
    that `choices` names the seed with the highest accuracy on them.

    Raises BadInput where nothing was held out, or runs of several data sets, presets or noise
    settings can't be compared.
    """
    settings = [(s.caption, setting) for s in found for setting in s.settings]
    if len(settings) != 1:
        raise BadInput(
            f"{folder} has {len(settings)} settings of data and noise, whose runs can't be "
            "compared: name a run in place of --best"
        )
    (study,) = found
    runs = study.runs[study.runs["held_out"].notna()]
    if not len(runs):
        raise BadInput(
            f"nothing was held out in {folder} to choose by: run it with --select noisy, or name "
            "a run in place of --best"
        )
    methods = runs.groupby("method")["held_out"].mean()
    best = runs[runs["method"] == methods.idxmax()]
    row = best.iloc[int(best["held_out"].to_numpy().argmax())]
    why = (
        f"{row['run']}: chosen by held-out given labels, {row['held_out']:.1f} % of "
        f"{row['held_out_count']:,}; not by the truth"
    )
    return str(row["run"]), why


def chosen_lines(study: Study) -> list[str]:
    """The sentences of `choices`, each with its setting where there are several."""
    found = choices(study)
    several = len(found) > 1
    return [
        f"{f'{choice.setting}: ' if several else ''}{choice.sentence} on {study.labels}."
        for choice in found
    ]


def chosen_table(study: Study) -> Table | None:
    """What choosing the loss by held-out given labels comes to, a row a noise setting, where labels
    were held out: by the mean over the seeds after the last epoch."""
    rows = []
    for setting, part, means in _to_choose_from(study):
        deviations = part.groupby("method")["test_accuracy"].std()
        held_out = means["held_out"].max()
        found = []
        for score in ("held_out", "test_accuracy"):
            method = str(means[score].idxmax())
            mean = float(means["test_accuracy"][method])
            found.append((Cell(method), Cell(mean_std(mean, deviations[method]), mean)))
        (chosen, its_test), (best, best_test) = found
        share = Cell(f"{held_out:.2f}", held_out)
        rows.append([Cell(setting), chosen, share, its_test, best, best_test])
    if not rows:
        return None
    head = ["Noise", "Chosen", "Held out (%)", "Test (%)", "Best in hindsight", "Test (%)"]
    note = (
        "Chosen: the highest accuracy on held-out training labels as given, after the last epoch, "
        "mean over the seeds. Best in hindsight: the highest on the test samples."
    )
    return Table("The loss that held-out labels choose", head, rows, [note], words=True)


# -------------------------------------------------------------------------------- beside published


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

    @property
    def table(self) -> Table:
        """As a table: method, noise, ours, and theirs with the difference below."""
        rows = []
        for method, setting, ours, theirs in self.rows:
            row = [Cell(method), Cell(setting), Cell(mean_std(*ours), ours[0])]
            for place in range(len(self.columns)):
                figure = theirs.get(place)
                told = Cell(figure.text, figure.mean, figure.difference) if figure else Cell("")
                row.append(told)
            rows.append(row)
        head = ["Method", "Noise", f"Here,\n{self.ours}"]
        head += [f"{_lines(paper)}:\n{_lines(protocol)}" for paper, protocol in self.columns]
        caption = f"Accuracy in %, here and published: {self.about}"
        return Table(caption, head, rows, self.notes, keys=2)


def _lines(heading: str) -> str:
    """A long heading in several lines."""
    return textwrap.fill(heading, 20, break_long_words=False, break_on_hyphens=False)


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
        places = list(zip(there.index, there.to_dict("records"), strict=True))
        by_method = {str(method): runs for method, runs in of_setting.groupby("method")}
        for method in filter(by_method.__contains__, study.styles):
            ours = by_method[method]
            losses = {*ours["loss"]}
            found += [
                (method, ours, place, row) for place, row in places if row["method"] in losses
            ]
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


def mean_std(mean: float, std: float) -> str:
    """'87.38 ± 0.16'; without a deviation where there is one seed, '-' where there is nothing."""
    if math.isnan(mean):
        return "-"
    return f"{mean:.2f}" if math.isnan(std) else f"{mean:.2f} ± {std:.2f}"
