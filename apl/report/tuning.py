"""What tuning tried and chose, and what choosing without the truth cost, in tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from apl.config.config import settings_text
from apl.report.study import MEASURED, Study, method_label, setting_name
from apl.report.tables import Cell, Table
from apl.runs.tuned import Tried, Tuned

EDGE = "⌟"
POINTS = 100


def rows_of(study: Study) -> dict[str, dict[str, Tuned]]:
    """What was tried, by noise setting and by the loss's name in print, in the tables' order."""
    rank = {name: place for place, name in enumerate(study.styles)}
    found: dict[str, dict[str, Tuned]] = {setting: {} for setting in study.settings}
    for each in sorted(study.tuned, key=lambda t: rank.get(label(study, t), len(rank))):
        found.setdefault(setting_of(study, each), {})[label(study, each)] = each
    return {setting: of for setting, of in found.items() if of}


def label(study: Study, each: Tuned) -> str:
    """What was tried, as the method is called whose choice it is."""
    tuned = (each.config.tuned or {}).get("values", ())
    rest = each.config.overrides.items()
    own = {n: value for n, value in rest if n not in tuned and n not in study.shared}
    return method_label(each.config.loss, settings_text(own))


def setting_of(study: Study, each: Tuned) -> str:
    """The noise setting of what was tried, as the study's tables have it."""
    config = each.config
    clean = config.rate == 0 and config.noise not in MEASURED
    noise, table = ("none", "") if clean else (config.noise, config.map)
    on = "true" if "true" in set(study.runs["on"]) else "given"
    return setting_name(noise, table, 100 * config.rate, on)


def _count(counts: Sequence[int], what: str) -> str:
    """How many of something there are, a range where they differ."""
    least, most = min(counts), max(counts)
    return f"{least if least == most else f'{least} to {most}'} {what}{'s' * (most != 1)}"


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

    configurations = [len(each.tried) for each in study.tuned]
    seeds = [len({seed for t in each.tried for seed in t.held_out}) for each in study.tuned]
    notes = [
        "Chosen for each loss and noise setting by the mean accuracy on held-out training labels "
        "as given, wrong ones among them, after the last epoch: "
        f"{_count(configurations, 'configuration')} of each, {_count(seeds, 'tuning seed')}, which "
        "no other run has. No true label chooses."
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


@dataclass(frozen=True)
class Regret:
    """A rule that a person could follow, and by how many points it is behind the best loss of each
    noise setting: on average, at worst, and where that is; shown: whether it is told in short."""

    name: str
    mean: float
    worst: float
    where: str
    shown: bool = False


CHOOSE = "loss and step chosen by held-out given labels"


def regrets(study: Study) -> list[Regret]:
    """The regret of each rule over the noise settings of a study: always a loss, in a tuned one at
    the step that is chosen for it, and there the loss too chosen by held-out given labels, those of
    the tuning seeds.  Rules that lack a setting are left out; none of fewer than two losses."""
    means = study.runs.groupby(["method", "setting"])["test_accuracy"].mean().unstack("setting")
    if len(means) < 2:
        return []
    best = means.max()
    rules: dict[str, Any] = {
        f"always {m}": means.loc[m] for m in study.styles if means.loc[m].notna().all()
    }
    chosen = {}
    for setting, of in rows_of(study).items():
        reached = {
            name: each.chosen.mean
            for name, each in of.items()
            if each.chosen is not None and name in means.index
        }
        if reached and setting in means.columns:
            chosen[setting] = means.at[max(reached, key=reached.__getitem__), setting]
    if chosen and set(chosen) == set(means.columns):
        rules[CHOOSE] = pd.Series(chosen)
    found = []
    for name, taken in rules.items():
        behind = (best - taken).dropna()
        shown = name in ("always CE", CHOOSE)
        worst = str(behind.idxmax())
        found.append(Regret(name, float(behind.mean()), float(behind.max()), worst, shown))
    return found


def regret_table(study: Study) -> Table | None:
    """What each rule costs in a tuned study, the least first; None in another, whose one step suits
    some losses better than others."""
    found = sorted(regrets(study), key=lambda rule: rule.mean) if study.judged else []
    if not found:
        return None
    rows = [
        [
            Cell(rule.name),
            Cell(f"{rule.mean:.1f}", rule.mean),
            Cell(f"{rule.worst:.1f}", rule.worst),
            Cell(rule.where),
        ]
        for rule in found
    ]
    settings = study.runs["setting"].nunique()
    notes = [
        f"In points of accuracy on {study.labels}, over {settings} noise settings: the best loss "
        "of each setting in hindsight less what the rule takes, every loss at its chosen step."
    ]
    head = ["Rule", "On average", "At worst", "Where"]
    return Table("Regret: behind the best loss of each noise setting", head, rows, notes)
