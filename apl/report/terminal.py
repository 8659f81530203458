"""What a run and a study look like in a terminal, in 80 columns: tables and lines for rich."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from apl.config.config import Config
from apl.losses.catalog import loss_label
from apl.names import NOISES
from apl.noise.labels import Labels
from apl.runs.scores import CAUSES, VALIDATION, Result, Scores, budget_verdict

if TYPE_CHECKING:
    from apl.detect.evidence import Findings
    from apl.study.run import Progress

FEW_CELLS = 100  # of a study that has a line for each in a log
FEW_RUNNING = 4  # named in a line
STATE_WIDTH = 4  # kept for a cell that has no result yet
NAME_WIDTH = 24  # of a loss beside its figures, before it is folded
KEYS = ("Method", "Noise")  # columns that say what a row of a table is of
WORST = 20  # classes shown of so many that they have no confusion matrix
MANY_CLASSES = 12  # 80 columns have no room for a column for each of more


def _compact(title: str) -> Table:
    """A table whose columns stand so close that ten figures and a name fit 80 columns."""
    return Table(title=title, box=box.SIMPLE, padding=0)


def class_table(
    title: str,
    names: Sequence[str],
    of_each: tuple[str, Sequence[str]],
    matrix: npt.NDArray[Any],
    most: str,
    form: str,
) -> Table:
    """A row a class: its name, a figure `of_each` (heading, figures), and its row of a matrix.

    Of many classes there is no room for a column each: the largest off the diagonal stands alone,
    under the heading `most`.  Ten classes with names of ten letters fit 80 columns.
    """
    table = _compact(title)
    wide = len(names) > MANY_CLASSES
    table.add_column("class")
    for heading in (of_each[0], *([most] if wide else [name[:5] for name in names])):
        table.add_column(escape(heading), justify="right")
    for k, name in enumerate(names):
        cells = [format(value, form) if value else "·" for value in matrix[k]]
        if wide:
            others = matrix[k].copy()
            others[k] = 0
            top = int(others.argmax())
            cells = [escape(f"{names[top]} {cells[top]}") if others[top] else "·"]
        table.add_row(escape(name), of_each[1][k], *cells)
    return table


def noise_table(config: Config, names: Sequence[str], labels: Labels) -> Table:
    """How often each class is given each label, in percent."""
    title = f"{config.noise} noise of {config.dataset}: rows true, columns given, in %"
    shares = 100 * labels.empirical
    wrong = [f"{100 - shares[k, k]:.1f}" for k in range(len(names))]
    return class_table(title, names, ("wrong", wrong), shares, "most frequent wrong label", ".1f")


def scores_table(names: Sequence[str], scores: Scores) -> Table:
    """The accuracy of each class, and what it is taken for."""
    right = ("right", [f"{share:.1%}" for share in scores.per_class])
    if scores.confusion is None:
        worst = np.argsort(scores.per_class, kind="stable")[:WORST]
        table = _compact(f"the {len(worst)} worst of {len(names):,} classes")
        table.add_column("class")
        table.add_column("right", justify="right")
        for k in worst:
            table.add_row(escape(names[k]), right[1][k])
        return table
    title, most = "rows: label, columns: prediction", "most frequent mistake"
    return class_table(title, names, right, scores.confusion, most, "d")


def result_table(title: str, result: Result) -> Table:
    """The scores of a run, in words."""
    table = Table(title=title, show_header=False)
    on = "clean" if result.on == "true" else "given"
    nothing = "unknown" if result.transition is None else "none wrong"
    for value, meaning, missing in (
        (result.test_accuracy, f"accuracy on the {on} test labels", "-"),
        (result.train_accuracy, "accuracy on the noisy training labels", "-"),
        (result.memorised, "of the wrong labels: memorised (predicted as given)", nothing),
        (result.recovered, "of the wrong labels: recovered (predicted as true)", nothing),
    ):
        table.add_row(meaning, missing if math.isnan(value) else f"{100 * value:.2f} %")
    return table


def verdicts(config: Config, result: Result) -> list[Text]:
    """What a reader must know of a run, a line each: what collapsed, what is given up,
    whether its budget can tell robust losses from others."""
    lines = []
    matrix = result.confusion
    given_up = [] if matrix is None else Scores.of(np.array(matrix)).never_predicted
    if result.collapsed:
        failed = (f"collapsed ({result.reason})", "bold red")
        lines.append(Text.assemble(failed, f": {CAUSES[result.reason]}"))
    elif given_up:
        names = ", ".join(result.class_names[k] for k in given_up)
        lines.append(Text(f"never predicted: {names}", "yellow"))
    verdict = budget_verdict(config, result.memorised)
    if verdict:
        lines.append(Text(verdict, "yellow"))
    return lines


def epoch_line(row: Mapping[str, float], epochs: int, on: str = "true") -> str:
    """A row of the history as a line; on: whether the test labels are 'true' or only 'given'."""

    def percent(name: str) -> str:
        return "     -" if math.isnan(row[name]) else f"{100 * row[name]:5.1f}%"

    test = "test (clean)" if on == "true" else "test (on given labels)"
    held_out = f"  held out (given) {percent(VALIDATION)}" if VALIDATION in row else ""
    return (
        f"epoch {row['epoch']:3d}/{epochs}  loss {row['train_loss']:8.4f}  "
        f"train (noisy) {percent('train_accuracy')}  {test} {percent('test_accuracy')}  "
        f"memorised {percent('memorised')}  recovered {percent('recovered')}{held_out}"
    )


class StudyLog:
    """What a study says where there is no terminal: called with its progress after every change.

    A line for each finished cell where there are no more than `FEW_CELLS`; of more, or while none
    ends, a line an hour with what runs, the first as soon as the time left is known.

    say: prints a line.  every: the seconds of that hour.  now: the time in seconds.
    """

    def __init__(
        self,
        total: int,
        say: Callable[[str], None],
        every: float = 3600.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.say, self.every, self.now = total, say, every, now
        self.shown: set[str] = set()
        self.told: float | None = None  # when the last line was

    def __call__(self, progress: Progress) -> None:
        """Say what is due."""
        done, left, now = len(progress.results), progress.seconds_left, self.now()
        if self.total <= FEW_CELLS:
            self.told = now if self.told is None else self.told
            for name in progress.results.keys() - self.shown:
                self.say(cell_line(name, progress.results[name], done, self.total, left))
                self.told = now
                self.shown.add(name)
        first = self.told is None and left is not None
        if first or (self.told is not None and now - self.told >= self.every):
            self.say(running_line(progress.running, len(progress.failed), done, self.total, left))
            self.told = now


def opening(progress: Progress, study: Path, at_a_time: str) -> str:
    """What a study begins with: its cells, its folder, and first of all how many are finished.

    at_a_time: how many are trained side by side, and where, in words.
    """
    total, done = len(progress.cells), len(progress.results)
    if done == total:
        what = f"all {total} runs are" if total > 1 else "the only run is"
        return f"{what} finished in {study}: nothing is trained\nfor a new study give another --out"
    before = f"; {done} of them {'are' if done > 1 else 'is'} finished" if done else ""
    return f"{total} cells in {study}, {at_a_time}{before}"


def cell_line(name: str, result: Result, done: int, total: int, seconds_left: float | None) -> str:
    """A finished cell of a study as a line, and how far the study is."""
    mark = f"  collapsed ({result.reason})" if result.collapsed else ""
    left = _time_left(seconds_left)
    on = "" if result.on == "true" else " on given labels"
    return f"{done}/{total}{left}: {name}  test {result.test_accuracy:.2%}{on}{mark}"


def running_line(
    running: Mapping[str, Mapping[str, float]],
    failed: int,
    done: int,
    total: int,
    seconds_left: float | None,
) -> str:
    """The cells at work and the epochs they have behind them, and how far the study is."""
    cells = [f"{name} epoch {row['epoch']:g}" for name, row in running.items() if row]
    cells += [f"{name} epoch 0" for name, row in running.items() if not row]
    more = f" and {len(cells) - FEW_RUNNING} more" if len(cells) > FEW_RUNNING else ""
    what = ", ".join(cells[:FEW_RUNNING]) or "none"
    bad = f", {failed} failed" if failed else ""
    return f"{done}/{total}{bad}{_time_left(seconds_left)}: running {what}{more}"


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f", {f'{hours} h {minutes:02d} min' if hours else f'{minutes} min {rest:02d} s'} left"


def study_table(
    cells: Sequence[Config],
    results: Mapping[str, Result],
    running: Mapping[str, Mapping[str, float]],
    failed: Mapping[str, str],
    seconds_left: float | None,
    *,
    width: int = 80,
    height: int | None = None,
) -> Group:
    """A study while it runs: losses by noise settings; results, epochs and failures by the name of
    the cell.

    Settings for which `width` has no room stand in a second table, and so on.  Where all of it has
    more lines than `height`, the tables and then the losses with nothing at work are left out, and
    a last line says how many.
    """
    grid: dict[str, dict[tuple[str, str, float], list[Config]]] = {}
    for cell in cells:
        grid.setdefault(cell.loss, {}).setdefault((cell.noise, cell.map, cell.rate), []).append(
            cell
        )
    settings = list(dict.fromkeys(setting for row in grid.values() for setting in row))

    def state(same: Sequence[Config]) -> str:
        finished = [results[c.name] for c in same if c.name in results]
        at_work = [c for c in same if c.name in running]
        if any(c.name in failed for c in same):
            return "[red]failed[/]"
        if at_work:
            epoch = running[at_work[0].name].get("epoch", 0)
            return f"[cyan]{epoch:.0f}/{at_work[0].epochs}[/]"
        if not finished:
            return "[dim]·[/]" if same else ""
        mean = sum(result.test_accuracy for result in finished) / len(finished)
        mark = "†" if any(result.collapsed for result in finished) else ""
        return f"{100 * mean:.1f}{mark}" + ("" if len(finished) == len(same) else "[dim]…[/]")

    states = {
        loss: {setting: state(row.get(setting, ())) for setting in settings}
        for loss, row in grid.items()
    }
    heads = {setting: _setting_head(*setting) for setting in settings}
    names = {loss: _folded(loss_label(loss)) for loss in grid}
    busy = {
        (cell.loss, (cell.noise, cell.map, cell.rate)) for cell in cells if cell.name in running
    }

    room = width - 2 - max(4, *(cell_len(line) for name in names.values() for line in name))
    bands: list[list[tuple[str, str, float]]] = [[]]
    used = 0
    for setting in settings:
        texts = [
            *heads[setting],
            *(Text.from_markup(row[setting]).plain for row in states.values()),
        ]
        column = 1 + max(STATE_WIDTH, *map(cell_len, texts))
        if bands[-1] and used + column > room:
            bands.append([])
            used = 0
        bands[-1].append(setting)
        used += column

    losses = list(grid)
    # Above the rows of a table stand a blank line, its heads and a rule, below them a blank line.
    frame = 3 + max(map(len, heads.values()))

    def lines() -> int:
        return 2 + len(bands) * (frame + sum(len(names[loss]) for loss in losses))

    if height is not None and lines() > height:
        at_work = {setting for _, setting in busy}
        bands = [band for band in bands if at_work & set(band)] or bands[:1]
        while len(losses) > 1 and lines() > height:  # from the end, those at work last of all
            idle = [loss for loss in losses if not any((loss, s) in busy for s in settings)]
            losses.remove((idle or losses)[-1])
    done, total = len(results), len(cells)
    given = any(result.on != "true" for result in results.values())
    what = "test accuracy on given labels" if given else "clean test accuracy"
    parts: list[RenderableType] = [
        Text(f"{done} of {total} cells{_time_left(seconds_left)}; {what} in %", "italic")
    ]
    for band in bands:
        table = Table(box=box.SIMPLE, padding=0)
        table.add_column("loss", no_wrap=True)
        for setting in band:
            head = "\n".join(heads[setting])
            table.add_column(head, justify="right", no_wrap=True, min_width=STATE_WIDTH)
        for loss in losses:
            row = states[loss]
            table.add_row(escape("\n".join(names[loss])), *(row[setting] for setting in band))
        parts.append(table)
    shown = sum(map(len, bands))
    if shown < len(settings) or len(losses) < len(grid):
        some = f"{shown} of {len(settings)} settings, {len(losses)} of {len(grid)} losses"
        parts.append(Text(f"room for {some}", "dim"))
    return Group(*parts)


def _setting_head(noise: str, named: str, rate: float) -> list[str]:
    """What stands above the column of a noise setting, in one line or two."""
    below = f"{rate:g}" if NOISES[noise].rated else named if noise == "human" else ""
    return [noise, below] if below else [noise]


def _folded(name: str) -> list[str]:
    """The name of a loss in lines that leave room for figures."""
    return wrap(name, NAME_WIDTH) or [name]


def fold_tables(markdown: str, width: int) -> str:
    """The Markdown with each table that is wider put as several, one below the other, all of which
    have the columns Method and Noise with which it begins."""
    parts = []
    for is_table, block in itertools.groupby(markdown.split("\n"), lambda line: line[:1] == "|"):
        lines = list(block)
        if not is_table or max(map(cell_len, lines)) <= width:
            parts += lines
            continue
        # With its padding, so that what is joined again lines up.
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
        keys = sum(1 for _ in itertools.takewhile(lambda c: c.strip() in KEYS, rows[0]))
        bands: list[list[int]] = [[]]
        for k in range(keys, len(rows[0])):
            columns = [*range(keys), *bands[-1], k]
            if bands[-1] and 1 + sum(1 + cell_len(rows[0][c]) for c in columns) > width:
                bands.append([])
            bands[-1].append(k)
        for band in bands:
            columns = [*range(keys), *band]
            parts += ["|" + "|".join(row[c] for c in columns) + "|" for row in rows]
            parts.append("")
        parts.pop()
    return "\n".join(parts)


def findings_table(findings: Findings, names: Sequence[str]) -> Table:
    """How many labels of each class are taken for wrong, and for what they are taken instead."""
    rate, flagged = findings.noise_rate, findings.is_label_issue
    title = (
        f"{flagged.sum():,} of {len(flagged):,} labels look wrong; noise rate "
        f"{rate.estimate:.1%} ({rate.low:.1%} to {rate.high:.1%}); rows given, columns suggested"
    )
    pairs = np.zeros((len(names), len(names)), np.int64)
    np.add.at(pairs, (findings.given_label[flagged], findings.predicted_label[flagged]), 1)
    counts = ("wrong", [f"{count:,}" for count in pairs.sum(1)])
    return class_table(title, names, counts, pairs, "most are rather", "d")
