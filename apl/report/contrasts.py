"""Claims from a file: what somebody says of two losses before the runs, judged by a study.

A claim names two losses, noise settings, a margin in points of test accuracy, and its kind: `ahead`
by more than the margin, or `level` within it.  The margin of a study is one number a seed, averaged
over the settings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from apl.errors import BadInput, one_line
from apl.losses.catalog import loss_label, loss_name
from apl.report.statistics import (
    FEWEST,
    LEVEL,
    Estimate,
    above,
    below,
    cant_tell,
    estimate,
    family,
    outside,
    within,
)

MOST = 12
"""Claims of a file: each costs the others power, and who claims everything claims nothing."""
KINDS = ("ahead", "level")
OURS = "claims.yaml"
_FIELDS = ("says", "kind", "better", "than", "settings", "margin")


@dataclass(frozen=True)
class Contrast:
    """A claim: in whose words, its kind, the two losses, the noise settings as tables call them
    ('sym 0.4'), and the margin in points."""

    says: str
    kind: str
    better: str
    than: str
    settings: tuple[str, ...]
    margin: float

    @property
    def statement(self) -> str:
        """What is tested."""
        one, other = loss_label(self.better), loss_label(self.than)
        if self.kind == "level":
            return f"{one} level with {other} within {self.margin:g}"
        by = f" by more than {self.margin:g}" if self.margin else ""
        return f"{one} ahead of {other}{by}"


def read_claims(file: Path | None = None) -> list[Contrast]:
    """The claims of a file, ours where none is given.  Raises BadInput for what is none."""
    name = str(file) if file else OURS
    try:
        source = file or resources.files("apl.report").joinpath(OURS)
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{name} can't be read as claims ({one_line(error)})") from None
    accepted = f"a list of 1 to {MOST} claims, each with {', '.join(_FIELDS)}"
    if not isinstance(content, list) or not 1 <= len(content) <= MOST:
        what = f"{len(content)} claims" if isinstance(content, list) else "no list"
        raise BadInput(f"{name} holds {what}; accepted: {accepted}")
    return [_claim(each, f"claim {place} of {name}") for place, each in enumerate(content, 1)]


def _claim(content: Any, where: str) -> Contrast:
    if not isinstance(content, dict) or set(content) != set(_FIELDS):
        raise BadInput(f"{where} has other fields; accepted: {', '.join(_FIELDS)}")
    kind, margin, settings = content["kind"], content["margin"], content["settings"]
    if kind not in KINDS:
        raise BadInput(f"{where}: kind is {kind!r}; accepted: {', '.join(KINDS)}")
    number = isinstance(margin, int | float) and math.isfinite(margin) and margin >= 0
    if not number or (kind == "level" and not margin):
        least = "above 0, to be level within" if kind == "level" else "of 0 or more"
        raise BadInput(f"{where}: margin is {margin!r}; accepted: points, {least}")
    if not isinstance(settings, list) or not settings:
        raise BadInput(f"{where}: settings is {settings!r}; accepted: a list, as [clean, sym 0.4]")
    one, other = (loss_name(str(content[name])) for name in ("better", "than"))
    return Contrast(
        str(content["says"]), kind, one, other, tuple(map(str, settings)), float(margin)
    )


@dataclass(frozen=True)
class Judged:
    """A claim and what a study says to it.

    margins: a number a seed, in points, averaged over the settings; missing: what the study lacks
    to judge it, which has then no margin; holds, fails: the p of the claim not holding and of its
    holding, by Holm over all claims that the study can judge.
    """

    claim: Contrast
    margins: Sequence[float]
    missing: Sequence[str]
    holds: float = math.nan
    fails: float = math.nan

    @property
    def estimate(self) -> Estimate:
        """The margin over the seeds, with its interval."""
        return estimate(self.margins)

    @property
    def verdict(self) -> str:
        """'holds', 'does not hold', 'undecided', 'three seeds can't tell' or 'not run'."""
        if not self.margins:
            return "not run"
        if len(self.margins) < FEWEST:
            return cant_tell(len(self.margins))
        if self.holds <= LEVEL:
            return "holds"
        return "does not hold" if self.fails <= LEVEL else "undecided"


def judge_claims(runs: pd.DataFrame, claims: Sequence[Contrast]) -> list[Judged]:
    """Judge claims by the runs of a study, of which no two have the same loss, setting and seed."""
    found = [_margins(runs, claim) for claim in claims]
    ps = family([margins for margins, _ in found], [partial(_tests, claim) for claim in claims])
    return [
        Judged(claim, margins, missing, *both)
        for claim, (margins, missing), both in zip(claims, found, ps, strict=True)
    ]


def _margins(runs: pd.DataFrame, claim: Contrast) -> tuple[list[float], list[str]]:
    """The margin of each seed that has all settings of a claim, and what is missing for it."""
    table = runs[runs["setting"].isin(claim.settings)].pivot_table(
        index="seed", columns=["loss", "setting"], values="test_accuracy"
    )
    there: set[Any] = set(table.columns)
    missing = [
        f"{loss_label(loss)} at {setting}"
        for loss in (claim.better, claim.than)
        for setting in claim.settings
        if (loss, setting) not in there
    ]
    if missing:
        return [], missing
    margins = pd.concat(
        [table[claim.better, s] - table[claim.than, s] for s in claim.settings], axis=1
    )
    return [float(m) for m in margins.dropna().mean(axis=1)], []


def _tests(claim: Contrast, margins: Sequence[float]) -> tuple[float, float]:
    """The p of a claim not holding, and of its holding."""
    if claim.kind == "level":
        return within(margins, claim.margin), outside(margins, claim.margin)
    return above(margins, claim.margin), below(margins, claim.margin)
