"""What tab completion offers: it loads no torch, since a shell waits for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from apl.config.grid import ALL_PUBLISHED
from apl.config.presets import PRESETS
from apl.features.catalog import KNOWN, NONE
from apl.kernels.bases import BASES
from apl.losses.catalog import LOSSES, REPAIR
from apl.names import DATASETS, METHODS, NETWORKS, NOISES, PRECISIONS

Offer = Callable[[str], list[str]]

CHOICES: dict[str, Iterable[str]] = {
    "preset": PRESETS,
    "dataset": DATASETS,
    "noise": NOISES,
    "map": dict.fromkeys(name for kind in NOISES.values() for name in kind.names),
    "method": METHODS,
    "network": NETWORKS,
    "weights": ("default",),
    "features": (NONE, *KNOWN),
    "select": ("noisy",),
    "crop": ("resized", "plain"),
    "schedule": ("cosine",),
    "precision": PRECISIONS,
    "device": ("auto", "cpu", "cuda", "mps"),
    "test_set": ("webvision", "imagenet"),
    "layout": ("classes", "splits"),
}
"""By option: the words that it takes, of some beside others."""


def one_of(choices: Iterable[str]) -> Offer:
    """Offer those of the choices that begin with what is typed."""
    return lambda incomplete: [name for name in choices if name.startswith(incomplete)]


def loss(incomplete: str) -> list[str]:
    """Offer what goes on with a loss: a name, in a sum too, what norm() takes, and in the brackets
    of a loss the parameters that it has."""
    before, last = re.fullmatch(r"(.*?)(\w*)", incomplete, re.DOTALL).groups()  # type: ignore[union-attr]
    inside = re.search(r"(\w+)\(([^()]*)$", before)
    if inside is None:
        names: Iterable[str] = (*LOSSES, REPAIR)
    elif inside[1] == "norm":
        names = [base for base in BASES if f"n{base}" in LOSSES]
    elif inside[1] in LOSSES and not before.endswith("="):
        names = [f"{name}=" for name in LOSSES[inside[1]].params if f"{name}=" not in inside[2]]
    else:
        names = ()
    return [before + name for name in names if name.startswith(last)]


def with_commas(each: Offer) -> Offer:
    """Offer what goes on after the last comma that stands in no brackets."""

    def offer(incomplete: str) -> list[str]:
        depth, start = 0, 0
        for place, letter in enumerate(incomplete):
            depth += (letter == "(") - (letter == ")")
            if letter == "," and depth <= 0:
                start = place + 1
        return [incomplete[:start] + found for found in each(incomplete[start:])]

    return offer


def losses(incomplete: str) -> list[str]:
    """Offer losses with commas, and the word for all that are published."""
    found = with_commas(loss)(incomplete)
    return found + with_commas(one_of([ALL_PUBLISHED]))(incomplete)
