"""What a run and a study look like in a terminal, in 80 columns: tables and lines for rich."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from apl.config.config import Config
from apl.config.tuning import TunedGrid
from apl.losses.catalog import loss_label
from apl.names import NOISES
from apl.noise.labels import BoolArray, IntArray, Labels
from apl.report.tables import Cell, Table, bands, shortened
from apl.runs.scores import VALIDATION, Result, Scores, budget_verdict, cause, memory_verdict
from apl.runs.tuned import TUNING, Tuned

FEW_CELLS = 100  # of a study that has a line for each in a log
FEW_RUNNING = 4  # named in a line
STATE_WIDTH = 4  # kept for a cell that has no result yet
NAME_WIDTH = 24  # of a loss beside its figures, before it is folded
WORST = 20  # classes shown of so many that they have no confusion matrix
WIDTH = 80  # columns, where nobody says how many there are
NARROWEST = 5  # cells that a class above its column is cut to
NARROWEST_ROW = 12  # and before its row


def class_table(
    title: str,
    names: Sequence[str],
    of_each: tuple[str, Sequence[str]],
    matrix: npt.NDArray[Any],
    most: str,
    form: str,
    width: int = WIDTH,
) -> RichTable:  # of what, in which words, and how wide
    """A row a class: its name, a figure `of_each` (heading, figures), and its row of a matrix.

    Names are cut, in their middle, where `width` has no room for them.  Where it has none for a
    column for each class, the largest off the diagonal stands alone, under the heading `most`.
    """
    texts = [[format(value, form) if value else "·" for value in row] for row in matrix]
    figures = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
    shares = max(map(cell_len, (of_each[0], *of_each[1])))
    fitted = _fitted(names, figures, width - 3 - shares)
    if fitted is None:
        others = matrix.copy()
        np.fill_diagonal(others, 0)
        tops = others.argmax(1).tolist()
        texts = [
            [f"{names[top]} {row[top]}" if others[k, top] else "·"]
            for k, (row, top) in enumerate(zip(texts, tops, strict=True))
        ]
        fitted = (names, [most])
    named, heads = fitted
    rows = [
        [Cell(text) for text in (name, share, *row)]
        for name, share, row in zip(named, of_each[1], texts, strict=True)
    ]
    return Table(title, ["class", of_each[0], *heads], rows).rich("close")


def _fitted(
    names: Sequence[str], figures: Sequence[int], room: int
) -> tuple[Sequence[str], list[str]] | None:
    """The names before the rows and above columns that hold figures so wide, as long as the room
    lets them be; None where it has too little."""
    lengths = [*map(cell_len, names)]
    row, longest = max(5, *lengths), max(lengths)

    def needed(most: int) -> int:  # with a cell between two columns
        pairs = zip(lengths, figures, strict=True)
        return sum(1 + max(least, min(length, most)) for length, least in pairs)

    most = next((m for m in range(longest, NARROWEST - 1, -1) if row + 1 + needed(m) <= room), None)
    if most is None:  # the rows give way too
        most = min(longest, NARROWEST)
        row = room - 1 - needed(most)
        if row < min(longest, NARROWEST_ROW):
            return None
    return [shortened(name, row) for name in names], [shortened(name, most) for name in names]


def noise_table(
    config: Config, names: Sequence[str], labels: Labels, width: int = WIDTH
) -> RichTable:
    """How often each class is given each label, in percent."""
    title = f"{config.noise} noise of {config.dataset}: rows true, columns given, in %"
    shares = 100 * labels.empirical
    wrong = [f"{100 - shares[k, k]:.1f}" for k in range(len(names))]
    most = "most frequent wrong label"
    return class_table(title, names, ("wrong", wrong), shares, most, ".1f", width)


def scores_table(names: Sequence[str], scores: Scores, width: int = WIDTH) -> RichTable:
    """The accuracy of each class, and what it is taken for."""
    right = ("right", [f"{share:.1%}" for share in scores.per_class])
    if scores.confusion is None:
        worst = np.argsort(scores.per_class, kind="stable")[:WORST]
        rows = [[Cell(names[k]), Cell(right[1][k])] for k in worst]
        title = f"the {len(worst)} worst of {len(names):,} classes"
        return Table(title, ["class", "right"], rows).rich("close")
    title, most = "rows: label, columns: prediction", "most frequent mistake"
    return class_table(title, names, right, scores.confusion, most, "d", width)


def result_table(title: str, result: Result) -> RichTable:
    """The scores of a run, in words."""
    on = "clean" if result.on == "true" else "given"
    nothing = "unknown" if result.transition is None else "none wrong"
    rows = []
    for value, meaning, missing in (
        (result.test_accuracy, f"accuracy on the {on} test labels", "-"),
        (result.train_accuracy, "accuracy on the noisy training labels", "-"),
        (result.memorised, "of the wrong labels: memorised (predicted as given)", nothing),
        (result.recovered, "of the wrong labels: recovered (predicted as true)", nothing),
    ):
        told = missing if math.isnan(value) else f"{100 * value:.2f} %"
        rows.append([Cell(meaning), Cell(told)])
    return Table(title, [], rows, words=True).rich()


def verdicts(config: Config, result: Result) -> list[Text]:
    """What a reader must know of a run, a line each: what collapsed, which classes it never
    predicts, whether its budget can tell robust losses from others."""
    lines = []
    matrix = result.confusion
    given_up = [] if matrix is None else Scores.of(np.array(matrix)).never_predicted
    if result.collapsed:
        failed = (f"collapsed ({result.reason})", "bold red")
        lines.append(Text.assemble(failed, f": {cause(result)}"))
    elif given_up:
        names = ", ".join(result.class_names[k] for k in given_up)
        lines.append(Text(f"never predicted: {names}", "yellow"))
    if result.repaired is not None:
        lines.append(Text(repaired_line(result.repaired)))
    memory = None if result.collapsed else memory_verdict(config, result)
    said = (budget_verdict(config, result.memorised), memory)
    lines += [Text(verdict, "yellow") for verdict in said if verdict]
    return lines


def repaired_line(found: Mapping[str, float]) -> str:
    """What `Result.repaired` says, and why `apl find` flags more where few moved."""
    line = (
        f"repaired: {found['moved']:,.0f} of {found['labels']:,.0f} labels moved; estimated noise "
        f"rate {found['noise_rate']:.1%} ({found['low']:.1%} to {found['high']:.1%})"
    )
    if found["moved"] >= found["noise_rate"] * found["labels"]:
        return line
    return (
        f"{line}.  A label moves only where one other class is likelier than it; apl find flags as "
        "many as that rate asks for, held-out ones too"
    )


LINES = 40  # of a training, where no line an epoch is due


def shows(epoch: int, epochs: int) -> bool:
    """Whether an epoch (from 1) of so many has a line: each one, of many only some and the last."""
    return epoch == epochs or epoch % math.ceil(epochs / LINES) == 0


def epoch_line(row: Mapping[str, float], epochs: int, on: str = "true") -> str:
    """A row of the history as a line; on: whether the test labels are 'true' or only 'given'.  What
    nobody knows, since no label is known to be wrong, has no place in it."""

    def percent(name: str) -> str:
        return "     -" if math.isnan(row[name]) else f"{100 * row[name]:5.1f}%"

    test = "test (clean)" if on == "true" else "test (given labels)"
    wrong = "".join(
        f"  {name} {percent(name)}"
        for name in ("memorised", "recovered")
        if not math.isnan(row[name])
    )
    held_out = f"  held out (given) {percent(VALIDATION)}" if VALIDATION in row else ""
    return (
        f"epoch {row['epoch']:3d}/{epochs}  loss {row['train_loss']:8.4f}  "
        f"train (noisy) {percent('train_accuracy')}  {test} {percent('test_accuracy')}"
        f"{wrong}{held_out}"
    )


class StudyLog:
    """What a study says where there is no terminal: called after every change.

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

    def __call__(
        self,
        results: Mapping[str, Result],
        running: Mapping[str, Mapping[str, float]],
        failed: Mapping[str, str],
        seconds_left: float | None,
    ) -> None:
        """Say what is due; the arguments are those of `study_table`."""
        done, now = len(results), self.now()
        if self.total <= FEW_CELLS:
            self.told = now if self.told is None else self.told
            for name in results.keys() - self.shown:
                self.say(cell_line(name, results[name], done, self.total, seconds_left))
                self.told = now
                self.shown.add(name)
        first = self.told is None and seconds_left is not None
        if first or (self.told is not None and now - self.told >= self.every):
            self.say(running_line(running, len(failed), done, self.total, seconds_left))
            self.told = now


def opening(done: int, total: int, study: Path, at_a_time: str) -> list[str]:
    """The lines a study begins with: its cells, its folder, and first of all how many are finished.

    at_a_time: how many are trained side by side, and where, in words.
    """
    if done == total:
        what = f"all {total} runs are" if total > 1 else "the only run is"
        told = f"{what} finished in {study}: nothing is trained"
        return [told, "for a new study give another --out"]
    before = f"; {done} of them {'are' if done > 1 else 'is'} finished" if done else ""
    return [f"{total} run{'s' * (total != 1)} in {study}, {at_a_time}{before}"]


def tuning_cost(grid: TunedGrid) -> str:
    """What a tuned study costs, before it begins."""
    cells, tuning = len(grid.base), grid.tuning
    each = len(tuning.configurations(grid.base[0].loss))
    over = "; ".join(f"{n} {', '.join(f'{v:g}' for v in vs)}" for n, vs in tuning.over.items())
    seeds = f"{tuning.seeds} seed{'s' * (tuning.seeds != 1)}"
    return (
        f"tuning {over}: {each} configurations of each of {cells} losses and noise settings, on "
        f"{seeds}, {each * cells * tuning.seeds:,} runs; then what is chosen on {grid.seeds} "
        f"others, {cells * grid.seeds:,} runs"
    )


def tuned_lines(found: Sequence[Tuned], study: Path) -> list[str]:
    """What was chosen, in short."""
    edges = sum(bool(each.edge) for each in found)
    lines = [f"chosen by held-out given labels alone: {study / TUNING}"]
    if edges:
        lines.append(
            f"{edges} of {len(found)} choices lie at an edge of their grid: a wider --tune may do "
            "better"
        )
    return lines


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


Setting = tuple[str, str, float]  # noise, map and rate


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
    grid: dict[str, dict[Setting, list[Config]]] = {}
    for cell in cells:
        of_loss = grid.setdefault(cell.loss, {})
        of_loss.setdefault((cell.noise, cell.map, cell.rate), []).append(cell)
    settings = list(dict.fromkeys(setting for row in grid.values() for setting in row))
    states = {
        loss: {s: _state(row.get(s, ()), results, running, failed) for s in settings}
        for loss, row in grid.items()
    }
    heads = {setting: "\n".join(_setting_head(*setting)) for setting in settings}
    names = {loss: "\n".join(_folded(loss_label(loss))) for loss in grid}

    texts = {
        s: [*heads[s].split("\n"), *(row[s].text for row in states.values())] for s in settings
    }
    widths = [1 + max(STATE_WIDTH, *map(cell_len, texts[setting])) for setting in settings]
    names_width = max(4, *(cell_len(line) for name in names.values() for line in name.split("\n")))
    parts = [[settings[k] for k in band] for band in bands(widths, width - 2 - names_width)]
    losses = list(grid)
    if height is not None:
        busy = [(c.loss, (c.noise, c.map, c.rate)) for c in cells if c.name in running]
        frame = 3 + max(head.count("\n") + 1 for head in heads.values())
        lines = {loss: name.count("\n") + 1 for loss, name in names.items()}
        parts, losses = _what_fits(parts, lines, frame, busy, height)

    given = any(result.on != "true" for result in results.values())
    what = "test accuracy on given labels" if given else "clean test accuracy"
    far = f"{len(results)} of {len(cells)} runs{_time_left(seconds_left)}"
    told: list[RenderableType] = [Text(f"{far}; {what} in %", "italic")]
    for part in parts:
        rows = [
            [Cell(names[loss]), *(states[loss][setting] for setting in part)] for loss in losses
        ]
        table = Table("", ["loss", *(heads[setting] for setting in part)], rows)
        told.append(table.rich("close", unbroken=True, narrowest=STATE_WIDTH))
    shown = sum(map(len, parts))
    if shown < len(settings) or len(losses) < len(grid):
        some = f"{shown} of {len(settings)} settings, {len(losses)} of {len(grid)} losses"
        told.append(Text(f"room for {some}", "dim"))
    return Group(*told)


def _state(
    same: Sequence[Config],
    results: Mapping[str, Result],
    running: Mapping[str, Mapping[str, float]],
    failed: Mapping[str, str],
) -> Cell:
    """What is to say of the cells that differ in their seed alone."""
    finished = [results[cell.name] for cell in same if cell.name in results]
    at_work = [cell for cell in same if cell.name in running]
    if any(cell.name in failed for cell in same):
        return Cell("failed", style="red")
    if at_work:
        epoch = running[at_work[0].name].get("epoch", 0)
        return Cell(f"{epoch:.0f}/{at_work[0].epochs}", style="cyan")
    if not finished:
        return Cell("·" if same else "", style="dim")
    mean = sum(result.test_accuracy for result in finished) / len(finished)
    mark = "†" if any(result.collapsed for result in finished) else ""
    return Cell(f"{100 * mean:.1f}{mark}" + ("" if len(finished) == len(same) else "…"))


def _what_fits(
    parts: list[list[Setting]],
    lines: Mapping[str, int],
    frame: int,
    busy: Sequence[tuple[str, Setting]],
    height: int,
) -> tuple[list[list[Setting]], list[str]]:
    """The settings of each table and the losses for which there are lines enough, at the least one
    of both; lines: those of each loss; frame: of a table without losses (a blank line, its heads
    and a rule above them, a blank line below); busy: what is at work."""
    losses, busy_losses = list(lines), {loss for loss, _ in busy}
    busy_settings = {setting for _, setting in busy}

    def needed() -> int:
        return 2 + len(parts) * (frame + sum(lines[loss] for loss in losses))

    if needed() > height:
        parts = [part for part in parts if busy_settings & set(part)] or parts[:1]
    while len(losses) > 1 and needed() > height:  # from the end, those at work last of all
        idle = [loss for loss in losses if loss not in busy_losses]
        losses.remove((idle or losses)[-1])
    return parts, losses


def _setting_head(noise: str, named: str, rate: float) -> list[str]:
    """What stands above the column of a noise setting, in one line or two."""
    below = f"{rate:g}" if NOISES[noise].rated else named if noise == "human" else ""
    return [noise, below] if below else [noise]


def _folded(name: str) -> list[str]:
    """The name of a loss in lines that leave room for figures."""
    return wrap(name, NAME_WIDTH) or [name]


def findings_table(
    given: IntArray,
    suggested: IntArray,
    wrong: BoolArray,
    rate: tuple[float, float, float],
    names: Sequence[str],
    width: int = WIDTH,
) -> RichTable:
    """How many labels of each class are taken for wrong, and for what they are taken instead.

    given, suggested: labels [N]; wrong: which of them look wrong [N]; rate: the noise rate, and its
    interval, nan where nothing can be told.
    """
    estimate, low, high = rate
    share = f"{estimate:.1%} ({low:.1%} to {high:.1%})" if math.isfinite(estimate) else "unknown"
    title = (
        f"{wrong.sum():,} of {len(wrong):,} labels look wrong; noise rate {share}\n"
        "rows given, columns suggested"
    )
    pairs = np.zeros((len(names), len(names)), np.int64)
    np.add.at(pairs, (given[wrong], suggested[wrong]), 1)
    counts = ("wrong", [f"{count:,}" for count in pairs.sum(1)])
    return class_table(title, names, counts, pairs, "most are rather", "d", width)
