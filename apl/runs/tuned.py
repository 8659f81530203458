"""What was tried of each loss under each noise setting, and what held-out given labels chose."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apl.config.config import Config
from apl.config.tuning import part_of, setting_key
from apl.files import csv_bytes, write_atomic
from apl.runs.run import Finished
from apl.runs.scores import VALIDATION

TUNING = "tuning.csv"


@dataclass(frozen=True)
class Tried:
    """A configuration: its values, and by tuning seed its accuracy after the last epoch (0 to 1) on
    held-out given labels, by which it is chosen, and on the test labels, by which it is not."""

    values: Mapping[str, float]
    held_out: Mapping[int, float]
    test: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean accuracy on held-out given labels."""
        return statistics.fmean(self.held_out.values())

    @property
    def test_mean(self) -> float:
        """The mean accuracy on the test labels."""
        return statistics.fmean(self.test.values())


@dataclass(frozen=True)
class Tuned:
    """A loss under a noise setting: one of its tuning runs, and the configurations that were tried,
    in order of their values."""

    config: Config
    tried: Sequence[Tried]

    @property
    def complete(self) -> list[Tried]:
        """The configurations that were tried on every tuning seed."""
        seeds = {seed for each in self.tried for seed in each.held_out}
        return [each for each in self.tried if len(each.held_out) == len(seeds)]

    @property
    def chosen(self) -> Tried | None:
        """The one with the highest mean on held-out given labels, of equal ones the first."""
        return max(self.complete, key=lambda each: each.mean, default=None)

    @property
    def best(self) -> Tried | None:
        """The one with the highest mean on the test labels, which nobody could have chosen."""
        return max(self.complete, key=lambda each: each.test_mean, default=None)

    @property
    def cost(self) -> float:
        """By how much the chosen one's mean on the test labels is below the best's, 0 to 1; nan
        where nothing was chosen."""
        best, chosen = self.best, self.chosen
        return best.test_mean - chosen.test_mean if best and chosen else math.nan

    @property
    def edge(self) -> list[str]:
        """The settings whose chosen value is the lowest or the highest that was tried, though a
        lower or higher one may be better; below 0 there is none."""
        found = []
        for name, value in (self.chosen.values if self.chosen else {}).items():
            values = {each.values[name] for each in self.tried}
            lowest = value == min(values) and value > 0
            if len(values) > 1 and (lowest or value == max(values)):
                found.append(name)
        return found

    @property
    def record(self) -> dict[str, Any]:
        """What the records of the evaluation runs say of the choice."""
        if self.chosen is None:
            return {}
        held_out = round(self.chosen.mean, 6)
        return {"values": dict(self.chosen.values), "held_out": held_out, "edge": self.edge}


def tuned_in(runs: Sequence[Finished]) -> dict[str, Tuned]:
    """What was tried in these runs, by the `setting_key` of each loss and noise setting."""
    grouped: dict[str, list[Finished]] = {}
    for run in runs:
        if part_of(run.config) == "tuning":
            grouped.setdefault(setting_key(run.config), []).append(run)
    return {key: Tuned(group[0].config, _tried(group)) for key, group in grouped.items()}


def _tried(runs: Sequence[Finished]) -> list[Tried]:
    grouped: dict[tuple[tuple[str, float], ...], list[Finished]] = {}
    for run in runs:
        grouped.setdefault(tuple((run.config.tuned or {})["values"].items()), []).append(run)
    return [
        Tried(
            dict(values),
            {run.config.seed: _held_out(run) for run in grouped[values]},
            {run.config.seed: run.result.test_accuracy for run in grouped[values]},
        )
        for values in sorted(grouped)
    ]


def _held_out(run: Finished) -> float:
    """The accuracy on held-out labels after the last epoch; 0 of a run that diverged, which has
    learned nothing of them."""
    share = run.history[-1].get(VALIDATION, math.nan) if run.history else math.nan
    return 0.0 if math.isnan(share) else share


def write_tuning(study: Path, found: Sequence[Tuned]) -> Path:
    """Write tuning.csv: a row a configuration, what it reached on held-out given labels (mean, std
    over the tuning seeds, in %), whether it was chosen, and at which edge of the grid it is."""
    names = list(dict.fromkeys(n for each in found for tried in each.tried for n in tried.values))
    head = ["loss", "noise", "map", "rate", *names, "seeds", "held_out", "std", "chosen", "edge"]
    rows: list[list[Any]] = [head]
    for each in found:
        config = each.config
        for tried in each.tried:
            shares = [100 * share for share in tried.held_out.values()]
            chosen = tried is each.chosen
            rows.append(
                [
                    *(config.loss, config.noise, config.map, config.rate),
                    *(tried.values.get(name, "") for name in names),
                    *(len(shares), round(statistics.fmean(shares), 4)),
                    round(statistics.stdev(shares), 4) if len(shares) > 1 else "",
                    "yes" if chosen else "",
                    " ".join(each.edge) if chosen else "",
                ]
            )
    path = study / TUNING
    write_atomic(path, csv_bytes(rows))
    return path
