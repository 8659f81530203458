"""An audit: labels drawn at random, which a person judges, and what they say of all labels.

The draw is uniform and knows nothing of what was found, so its intervals hold whatever the noise:
errors that can be predicted from the input, which no method without truth sees, are drawn as often
as others.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apl.data.decisions import Decisions
from apl.errors import BadInput
from apl.files import write_json
from apl.noise.labels import BoolArray, IntArray

AUDIT, PAGE = "audit.json", "audit.html"
CONFIDENCE = 0.95


# ------------------------------------------------------------------------------------- drawing


def draw(folder: Path, count: int, digest: str, given: IntArray, seed: int) -> list[int]:
    """The numbers of `count` of given labels [N], each set of them equally likely, and kept in the
    folder; of the same data and labels the first ones are those that were drawn there before.

    digest: of the data.  Raises BadInput where fewer are asked for than were drawn, since who
    leaves some out may choose which.
    """
    kept, of = _kept(folder, digest, given), len(given)
    if kept is not None:
        seed = kept["seed"]
        if count < len(kept["drawn"]):
            raise BadInput(
                f"audit is {count}, but {len(kept['drawn'])} labels were drawn already: as many "
                "or more"
            )
    drawn: list[int] = np.random.default_rng([seed, of]).permutation(of)[:count].tolist()
    write_json(folder / AUDIT, {"data": _key(digest, given), "seed": seed, "drawn": drawn})
    return drawn


def drawn_before(folder: Path, digest: str, given: IntArray) -> list[int]:
    """What was drawn of the same labels before, in this folder; nothing where nothing was."""
    kept = _kept(folder, digest, given)
    return list(kept["drawn"]) if kept is not None else []


def _key(digest: str, given: IntArray) -> str:
    return hashlib.sha256(digest.encode() + given.astype("<i8").tobytes()).hexdigest()


def _kept(folder: Path, digest: str, given: IntArray) -> dict[str, Any] | None:
    try:
        kept = json.loads((folder / AUDIT).read_text(encoding="utf-8"))
        same = kept["data"] == _key(digest, given)
        numbers = all(isinstance(i, int) and 0 <= i < len(given) for i in kept["drawn"])
        if not (same and numbers and isinstance(kept["seed"], int)):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    found: dict[str, Any] = kept
    return found


# -------------------------------------------------------------------------------- what it says


@dataclass(frozen=True)
class Count:
    """How many of `size` labels are wrong, by `drawn` of them of which `wrong` are and `left` are
    undecided: estimate, and the least and most, of 95 % confidence."""

    size: int
    drawn: int
    wrong: int
    low: int
    high: int
    left: int = 0

    @property
    def share(self) -> float:
        """The estimated share, nan where nothing was drawn, or some are undecided: nobody leaves
        these open by chance."""
        return self.wrong / self.drawn if self.drawn and not self.left else float("nan")

    @property
    def told(self) -> str:
        """The share with its interval, in words."""
        interval = f"{self.low / self.size:.1%} to {self.high / self.size:.1%}"
        return interval if self.left else f"{self.share:.1%} ({interval})"

    @property
    def are_wrong(self) -> str:
        """That so many are wrong, and how many are undecided, in words."""
        return "are wrong" + (f" and {self.left} undecided" if self.left else "")


@dataclass(frozen=True)
class Audit:
    """What an audit says: of all labels, of those that were flagged, of those that were not; left:
    how many of the drawn are not decided, which widen the intervals to both sides."""

    all: Count
    flagged: Count
    others: Count
    left: int

    @property
    def lines(self) -> list[str]:
        """It in words, a sentence each."""
        rate = self.all
        told = [
            f"audit: {rate.wrong} of {rate.drawn} labels drawn at random {rate.are_wrong}: noise "
            f"rate {rate.told}, with {CONFIDENCE:.0%} confidence whatever the noise"
        ]
        if self.flagged.drawn:
            told.append(
                f"audit: {self.flagged.wrong} of {self.flagged.drawn} flagged labels among them "
                f"{self.flagged.are_wrong}: precision {self.flagged.told}"
            )
        if self.others.drawn:
            least, most = f"{self.others.low:,}", f"{self.others.high:,}"
            told.append(
                f"audit: {self.others.wrong} of {self.others.drawn} labels among them that were "
                f"not flagged {self.others.are_wrong}: {least} to {most} wrong labels were missed"
            )
        return told

    def as_json(self) -> dict[str, Any]:
        """It for other programs."""
        parts = {"all": self.all, "flagged": self.flagged, "not_flagged": self.others}
        numbers = {
            name: {**vars(part), "share": part.share if part.share == part.share else None}
            for name, part in parts.items()
        }
        return {"confidence": CONFIDENCE, "undecided": self.left, **numbers}


def audited(drawn: list[int], said: Decisions, given: IntArray, flagged: BoolArray) -> Audit:
    """What decisions on drawn labels say of all N.

    A label is wrong if it was fixed, or its sample dropped.  Those of the drawn that are flagged
    are a uniform draw of all flagged, whatever their number; so are the others.
    """
    at = np.array(drawn, np.int64)
    decided = said.decided[at]
    wrong = decided & (~said.keep[at] | (said.labels[at] != given[at]))
    every = np.ones(len(at), bool)
    parts = (every, len(given)), (flagged[at], flagged.sum()), (~flagged[at], (~flagged).sum())
    of_all, of_flagged, of_others = (
        _count(int(size), int(part.sum()), int(wrong[part].sum()), int((part & ~decided).sum()))
        for part, size in parts
    )
    return Audit(of_all, of_flagged, of_others, int((~decided).sum()))


def _count(size: int, drawn: int, wrong: int, left: int) -> Count:
    low, _ = bounds(wrong, drawn, size)
    _, high = bounds(wrong + left, drawn, size)
    return Count(size, drawn, wrong, low, high, left)


@functools.lru_cache(maxsize=4096)
def bounds(wrong: int, drawn: int, size: int) -> tuple[int, int]:
    """The least and most of `size` labels that may be wrong, where `wrong` of `drawn` are.

    Clopper and Pearson's interval for a draw without replacement: a number of wrong labels is left
    out where it would show so many, or so few, with a chance of at most 2.5 % (hypergeometric).
    """
    from scipy.stats import hypergeom

    tail = (1 - CONFIDENCE) / 2
    least = _first(lambda k: hypergeom.sf(wrong - 1, size, k, drawn) > tail, wrong, size)
    beyond = _first(lambda k: hypergeom.cdf(wrong, size, k, drawn) <= tail, least, size + 1)
    return least, beyond - 1


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first number from `low` on for which it holds, `high` where it holds for none below."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
