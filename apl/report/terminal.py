"""What a run and a study look like in a terminal, in 80 columns: tables and lines for rich."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.markup import escape
from rich.table import Table

from apl.config import Config
from apl.losses import loss_label
from apl.noise import Labels
from apl.presets import NOISES
from apl.scores import CAUSES, VALIDATION, Result, Scores, budget_verdict

if TYPE_CHECKING:
    from apl.find import Findings

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
        table.add_column(heading, justify="right")
    for k, name in enumerate(names):
        cells = [format(value, form) if value else "·" for value in matrix[k]]
        if wide:
            others = matrix[k].copy()
            others[k] = 0
            top = int(others.argmax())
            cells = [f"{names[top]} {cells[top]}" if others[top] else "·"]
        table.add_row(name, of_each[1][k], *cells)
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


def verdicts(config: Config, result: Result) -> list[str]:
    """What a reader must know of a run, as lines of markup: what collapsed, what is given up,
    whether its budget can tell robust losses from others."""
    lines = []
    matrix = result.confusion
    given_up = [] if matrix is None else Scores.of(np.array(matrix)).never_predicted
    if result.collapsed:
        lines.append(f"[bold red]collapsed ({result.reason})[/]: {escape(CAUSES[result.reason])}")
    elif given_up:
        names = ", ".join(result.class_names[k] for k in given_up)
        lines.append(f"[yellow]never predicted: {escape(names)}[/]")
    verdict = budget_verdict(config, result.memorised)
    if verdict:
        lines.append(f"[yellow]{escape(verdict)}[/]")
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


def cell_line(name: str, result: Result, done: int, total: int, seconds_left: float | None) -> str:
    """A finished cell of a study as a line, and how far the study is."""
    mark = f"  collapsed ({result.reason})" if result.collapsed else ""
    left = _time_left(seconds_left)
    on = "" if result.on == "true" else " on given labels"
    return f"{done}/{total}{left}: {name}  test {result.test_accuracy:.2%}{on}{mark}"


def running_line(
    running: Mapping[str, Mapping[str, float]], done: int, total: int, seconds_left: float | None
) -> str:
    """The cells at work and the epochs they have behind them, and how far the study is."""
    cells = ", ".join(f"{name} epoch {row.get('epoch', 0):g}" for name, row in running.items())
    return f"{done}/{total}{_time_left(seconds_left)}: running {cells or 'none'}"


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
) -> Table:
    """A study while it runs: losses by noise settings; results, epochs and failures by the name of
    the cell."""
    settings = list(dict.fromkeys((cell.noise, cell.map, cell.rate) for cell in cells))
    done, total = len(results), len(cells)
    given = any(result.on != "true" for result in results.values())
    what = "test accuracy on given labels" if given else "clean test accuracy"
    table = _compact(f"{done} of {total} cells{_time_left(seconds_left)}; {what} in %")
    table.add_column("loss", no_wrap=True)
    for noise, named, rate in settings:
        below = f"{rate:g}" if NOISES[noise].rated else named if noise == "human" else ""
        table.add_column(f"{noise}\n{below}".strip(), justify="right")

    def state(same: Sequence[Config]) -> str:
        finished = [results[c.name] for c in same if c.name in results]
        at_work = [c for c in same if c.name in running]
        if any(c.name in failed for c in same):
            return "[red]failed[/]"
        if at_work:
            epoch = running[at_work[0].name].get("epoch", 0)
            return f"[cyan]{epoch:.0f}/{at_work[0].epochs}[/]"
        if not finished:
            return "[dim]·[/]"
        mean = sum(result.test_accuracy for result in finished) / len(finished)
        mark = "†" if any(result.collapsed for result in finished) else ""
        return f"{100 * mean:.1f}{mark}" + ("" if len(finished) == len(same) else "[dim]…[/]")

    for loss in dict.fromkeys(cell.loss for cell in cells):
        of_loss = [
            [c for c in cells if (c.loss, c.noise, c.map, c.rate) == (loss, *setting)]
            for setting in settings
        ]
        table.add_row(loss_label(loss), *map(state, of_loss))
    return table


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
