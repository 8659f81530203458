"""All that a search judged in one list, the training samples first, as it is written for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from apl.data.tables import shown_cells
from apl.detect.evidence import Findings
from apl.detect.gallery import Looks
from apl.detect.health import Health, health_of
from apl.detect.monitor import Halves
from apl.detect.neighbours import neighbours
from apl.detect.search import Search
from apl.features.catalog import seen_by
from apl.noise.labels import IntArray

if TYPE_CHECKING:
    from torch import Tensor

NEAREST = 3  # samples that stand beside each one
TRAIN, TEST = "train", "test"


@dataclass(frozen=True)
class Rows:
    """The samples of a search: what was found, with rate, matrix and doubts of the training
    samples; what the user calls each; what they look like; curves; and the split that each is of,
    () where only training samples were judged."""

    findings: Findings
    names: tuple[str, ...]
    looks: Looks
    curves: Halves | None
    splits: tuple[str, ...]


class Pixels:
    """Images of several arrays [N, H, W, C] as one; only those asked for are read."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts
        self.count = sum(len(part) for part in parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, C]."""
        return (self.count, *self.parts[0].shape[1:])

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> npt.NDArray[np.uint8]:
        for part in self.parts:
            if place < len(part):
                image: npt.NDArray[np.uint8] = np.asarray(part[place])
                return image
            place -= len(part)
        raise IndexError(place)


def rows_of(search: Search) -> Rows:
    """Everything that a search judged."""
    train, test = search.data.train, search.data.test
    splits = [train] if search.test is None else [train, test]
    pictures = [split.pictures for split in splits]
    pixels = Pixels([each.numpy() for each in pictures if each is not None])
    found, curves = search.findings, [search.curves]
    if search.test is not None:
        found = _joined(found, search.test)
        curves.append(_as_long(search.test_curves, search.curves.shape[1], len(test)))
    told = np.concatenate(curves)
    features = [split.images for split in splits]
    looks = Looks(
        pixels=pixels if None not in pictures else None,
        texts=tuple(text for split in splits for text in split.texts),
        cells=_cells(search) if search.data.cells else None,
        nearest=partial(_nearest, features) if features[0].ndim == 2 else None,
    )
    return Rows(
        findings=found,
        names=tuple(name for split in splits for name in split.names),
        looks=looks,
        curves=told if told.shape[1] else None,
        splits=() if search.test is None else (TRAIN,) * len(train) + (TEST,) * len(test),
    )


def search_health(search: Search, rows: Rows) -> Health:
    """What else is amiss with the samples of a search: by their features, where it has some or they
    are a table's rows, and by their pixels."""
    import torch

    data = search.data
    parts = [data.train.images] if search.test is None else [data.train.images, data.test.images]
    seen = torch.cat(parts) if parts[0].ndim == 2 and parts[0].shape[1] else None
    return health_of(seen, rows.findings.given_label, rows.looks.pixels)


def _nearest(features: Sequence[Tensor], chosen: IntArray) -> IntArray:
    """The judged samples that are most like each of some [M, 3]."""
    import torch

    return neighbours(torch.cat([*features]), NEAREST, asked=chosen)[0]


def _cells(search: Search) -> Callable[[Sequence[int]], dict[int, list[tuple[str, str]]]]:
    """What reads the cells of judged rows, by their numbers among these."""
    places = [
        (is_test, int(number))
        for is_test, split in ((False, search.data.train), (True, search.data.test))
        for number in (range(len(split)) if split.at is None else split.at)
    ]

    def read(chosen: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
        found = shown_cells(search.data.cells, [places[i] for i in chosen])
        return {i: found[places[i]] for i in chosen if places[i] in found}

    return read


def _joined(first: Findings, second: Findings) -> Findings:
    """The samples of both, with what is told of the first as a whole; the second's doubts beside
    the first's, but for classes with few samples, of which a small part has many."""
    known = {*first.doubts}
    more = [t for t in second.doubts if not t.startswith("too few") and t not in known]
    return dataclasses.replace(
        first,
        is_label_issue=np.concatenate([first.is_label_issue, second.is_label_issue]),
        label_score=np.concatenate([first.label_score, second.label_score]),
        given_label=np.concatenate([first.given_label, second.given_label]),
        predicted_label=np.concatenate([first.predicted_label, second.predicted_label]),
        doubts=[*first.doubts, *(f"test labels: {text}" for text in more)],
    )


def _as_long(curves: Halves | None, epochs: int, count: int) -> Halves:
    """Curves [N, E] of as many epochs, nan where there was none."""
    whole = np.full((count, epochs), np.nan, np.float16)
    if curves is not None:
        shown = min(epochs, curves.shape[1])
        whole[:, :shown] = curves[:, :shown]
    return whole


def judged(search: Search) -> list[str]:
    """Which labels were judged, and how, and which were not, and why, a sentence each."""
    count = f"{len(search.data.train):,} training labels"
    folds = not search.curves.shape[1]
    how = "by networks that had not seen them" if folds else "by how the training took them"
    config = search.config
    seen = seen_by(config.features, config.network, config.weights)
    told = [f"judged: {count} {how}{f', {seen}' if seen else ''}"]
    if search.test is not None:
        wrong, rate = int(search.test.is_label_issue.sum()), search.test.noise_rate
        share = "unknown"
        if np.isfinite(rate.estimate):
            share = f"{rate.estimate:.1%} ({rate.low:.1%} to {rate.high:.1%})"
        of_all = rate == search.findings.noise_rate  # of heads, which judge all labels as one
        told.append(
            f"judged: {len(search.data.test):,} test labels, which nothing was trained on, by the "
            f"same network{'s' if folds else ''}: {wrong:,} look wrong"
            f"{'' if of_all else f'; noise rate {share}'}"
        )
    return told + [f"not judged: {text}" for text in search.unjudged]
