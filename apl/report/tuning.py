"""What tuning tried and chose, and what choosing without the truth cost, in tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from apl.config.config import settings_text
from apl.losses.catalog import loss_label
from apl.report.study import Study, setting_name
from apl.report.tables import Cell, Table
from apl.runs.tuned import Tried, Tuned

EDGE = "⌟"
POINTS = 100


def rows_of(study: Study) -> dict[str, dict[str, Tuned]]:
    """What was tried, by noise setting and by the loss's name in print, in the tables' order."""
    rank = {name: place for place, name in enumerate(study.styles)}
    found: dict[str, dict[str, Tuned]] = {setting: {} for setting in study.settings}
    for each in sorted(study.tuned, key=lambda t: rank.get(label(t), len(rank))):
        found.setdefault(setting_of(study, each), {})[label(each)] = each
    return {setting: of for setting, of in found.items() if of}


def label(each: Tuned) -> str:
    """The loss of what was tried, in print."""
    return loss_label(each.config.loss)


def setting_of(study: Study, each: Tuned) -> str:
    """The noise setting of what was tried, as the study's tables have it."""
    config = each.config
    clean = config.rate == 0 and config.noise not in ("human", "matrix", "file")
    noise, table = ("none", "") if clean else (config.noise, config.map)
    on = "true" if "true" in set(study.runs["on"]) else "given"
    return setting_name(noise, table, 100 * config.rate, on)


def value_text(values: Mapping[str, float]) -> str:
    """A configuration: of one setting its value alone."""
    return f"{next(iter(values.values())):g}" if len(values) == 1 else settings_text(values)


def names_of(study: Study) -> str:
    """What was tuned, in words."""
    names = [name for each in study.tuned for tried in each.tried for name in tried.values]
    return ", ".join(dict.fromkeys(names))


def chosen_values_table(study: Study) -> Table | None:
    """What was chosen for each loss under each noise setting; None where nothing was tuned."""
    by_setting = rows_of(study)
    if not by_setting:
        return None

    def cell(each: Tuned) -> Cell:
        if each.chosen is None:
            return Cell("")
        mark = EDGE if each.edge else ""
        return Cell(value_text(each.chosen.values) + mark, next(iter(each.chosen.values.values())))

    one = study.tuned[0]
    notes = [
        "Chosen for each loss and noise setting by the mean accuracy on held-out training labels "
        f"as given, wrong ones among them, after the last epoch: {len(one.tried)} configurations, "
        f"{len(one.complete[0].held_out)} tuning seeds, which no other run has. No true label "
        "chooses."
    ]
    if any(each.edge for each in study.tuned):
        notes.append(f"{EDGE} at an edge of what was tried: beyond it may be better.")
    if study.earlier:
        notes.append(f"{study.earlier} runs of an earlier choice are left out.")
    return _grid(f"What was chosen ({names_of(study)})", by_setting, cell, notes)


def cost_table(study: Study) -> Table | None:
    """By how much what was chosen is behind the best of its grid on the test labels."""
    by_setting = rows_of(study)
    if not by_setting:
        return None

    def cell(each: Tuned) -> Cell:
        points = POINTS * each.cost
        return Cell("") if math.isnan(points) else Cell(f"{points:.1f}", points)

    notes = [
        f"In points of accuracy on {study.labels}, on the tuning seeds: the best configuration in "
        "hindsight less the chosen one. This alone needs the test labels, and nothing was chosen "
        "by it."
    ]
    return _grid("What choosing without the truth cost", by_setting, cell, notes)


def _grid(
    caption: str,
    by_setting: Mapping[str, Mapping[str, Tuned]],
    make: Callable[[Tuned], Cell],
    notes: Sequence[str],
) -> Table:
    labels = dict.fromkeys(name for of in by_setting.values() for name in of)
    rows = [
        [Cell(name), *(make(of[name]) if name in of else Cell("") for of in by_setting.values())]
        for name in labels
    ]
    return Table(caption, ["Method", *by_setting], rows, notes)


def curves(study: Study) -> list[tuple[str, Table]]:
    """For each noise setting what each loss reaches over the values that were tried, as a title
    and a table: on held-out given labels, and below it on the test labels."""
    found = []
    for setting, of in rows_of(study).items():
        texts = dict.fromkeys(value_text(t.values) for each in of.values() for t in each.tried)
        rows = []
        for name, each in of.items():
            made = {value_text(tried.values): _curve_cell(each, tried) for tried in each.tried}
            rows.append([Cell(name), *(made.get(text, Cell("")) for text in texts)])
        caption = f"Accuracy over {names_of(study)}, {setting}"
        notes = [
            f"Above: on held-out given labels, in %, which choose; below: on {study.labels}, which "
            "do not. Mean over the tuning seeds. The chosen one is in bold."
        ]
        found.append((setting, Table(caption, ["Method", *texts], rows, notes)))
    return found


def _curve_cell(each: Tuned, tried: Tried) -> Cell:
    mark = EDGE if tried is each.chosen and each.edge else ""
    return Cell(
        f"{POINTS * tried.mean:.1f}{mark}",
        POINTS * tried.mean,
        f"{POINTS * tried.test_mean:.1f}",
        heat=tried.test_mean,
        best=tried is each.chosen,
    )
