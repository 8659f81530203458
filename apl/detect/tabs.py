"""What of a data set's health a person decides on in the gallery, beside the labels: a tab a check,
near copies in groups that stand side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from apl.noise.labels import UNKNOWN

if TYPE_CHECKING:
    from apl.detect.evidence import Findings
    from apl.detect.health import Health
    from apl.noise.labels import BoolArray, IntArray

MOST = 200  # samples in a tab, the worst first; the rest are in issues.csv
COPIES = "near_duplicate"
TOLD = {
    COPIES: (
        "Near copies",
        "Samples that are nearly the same, side by side. Drop those that add nothing; where their "
        "labels differ, one at least is wrong.",
    ),
    "outlier": (
        "No class",
        "These are like none of the classes, the strangest first. Drop what belongs to none; keep "
        "what does.",
    ),
    "low_information": ("Blank", "There is hardly anything to be seen on these."),
    "dark": ("Dark", "Nearly all of these is dark."),
    "blurry": ("Blurred", "These are far less sharp than the others."),
}
"""Of each check, in the order of the tabs: what its tab is called, and what it says."""


@dataclass(frozen=True)
class Tab:
    """A check with what it found.

    key: its name; title, told: in words; groups: the samples shown, the worst first, those of a
    group side by side; found: how many there are, of which some may not be shown.
    """

    key: str
    title: str
    told: str
    groups: tuple[tuple[int, ...], ...]
    found: int

    @property
    def samples(self) -> list[int]:
        """All that it shows, in order."""
        return [i for group in self.groups for i in group]


def tabs_of(health: Health, findings: Findings, decided: Mapping[int, str]) -> list[Tab]:
    """The tabs with anything to decide on, without what was `decided` before: a word by sample.  A
    group of near copies of which one is left at most, the others dropped, has been decided on."""
    tabs = []
    for key, (title, told) in TOLD.items():
        if key not in health.issues:
            continue
        if key == COPIES:
            groups = _groups(health, findings, decided)
        else:
            worst = _worst(health, key, health.issues[key])
            groups = [(i,) for i in worst if i not in decided]
        shown: list[tuple[int, ...]] = []
        for group in groups:
            if sum(map(len, shown)) + len(group) > MOST and shown:
                break
            shown.append(group[:MOST])
        if shown:
            tabs.append(Tab(key, title, told, tuple(shown), sum(map(len, groups))))
    return tabs


def _worst(health: Health, key: str, chosen: BoolArray) -> list[int]:
    """The samples chosen [N], those with the lowest scores of a check first."""
    order: IntArray = np.argsort(health.scores[key], kind="stable")
    worst: list[int] = order[chosen[order]].tolist()
    return worst


def _groups(
    health: Health, findings: Findings, decided: Mapping[int, str]
) -> list[tuple[int, ...]]:
    """The groups of near copies, the nearest first; in each first those whose label is not
    doubted, and without what was decided."""
    members: dict[int, list[int]] = {}
    for i in _worst(health, COPIES, health.copies != UNKNOWN):
        members.setdefault(int(health.copies[i]), []).append(i)
    doubted = findings.is_label_issue
    groups = []
    for group in members.values():
        left = [i for i in group if decided.get(i) != "drop"]
        new = sorted((i for i in left if i not in decided), key=lambda i: (bool(doubted[i]), i))
        if len(left) > 1 and new:
            groups.append(tuple(new))
    return groups
