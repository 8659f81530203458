"""Labels repaired by what features say of them: soft targets, from which a network learns what it
would have learned from true labels, as far as anything tells them.  docs/repair.md has what it
reaches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apl.data.dataset import Dataset
from apl.errors import BadInput, require
from apl.files import plain
from apl.noise.labels import MOST_CLASSES, UNKNOWN, BoolArray, IntArray, Matrix, Rate, Vector
from apl.training.crossfit import BUDGET, Budget, CrossFit, cross_fit


@dataclass(frozen=True)
class Repaired:
    """What N labels become.

    targets: the chance of each true class by features and given label [N, K], float64, rows that
    sum to 1; of a sample that somebody decided on, that class alone.  given: the labels as they
    were, UNKNOWN where there was none [N].  fit: the cross-fitted heads that said so.
    """

    targets: Matrix
    given: IntArray
    fit: CrossFit

    @property
    def transition(self) -> Matrix:
        """The estimated noise matrix [K, K]: row the true class, column the given label."""
        return self.fit.transition

    @property
    def rate(self) -> Rate:
        """The estimated share of wrong labels, of those that nobody decided on."""
        return self.fit.rate

    @property
    def wrong(self) -> Vector:
        """How likely each given label is wrong [N], 0 where none is given."""
        return self.fit.wrong

    @property
    def labels(self) -> IntArray:
        """The likeliest class of each sample [N]."""
        found: IntArray = self.targets.argmax(1)
        return found

    @property
    def moved(self) -> BoolArray:
        """Whose likeliest class is not its given label; where none was given nothing moved [N]."""
        moved: BoolArray = (self.given != UNKNOWN) & (self.labels != self.given)
        return moved


def repair_labels(  # what is repaired, and how long it may take
    rows: Tensor | npt.ArrayLike,
    given: npt.ArrayLike,
    classes: int,
    *,
    decided: Mapping[int, int] | None = None,
    seed: int = 0,
    budget: Budget = BUDGET,
    should_stop: Callable[[], bool] = lambda: False,
) -> Repaired:
    """Repair given labels [N], UNKNOWN (-1) where there is none, by features [N, F].

    Args:
        rows: The features [N, F].
        given: The labels [N].
        classes: How many classes there are.
        decided: The true class of samples by their row, which people have said: it always wins.
        seed: All that is random follows from it.
        budget: What judging may cost: rounds, epochs, steps.
        should_stop: Asked after each epoch, and True raises Interrupted.

    Returns:
        The posterior of each sample's class, and the labels that follow from it.

    Raises:
        BadInput: The rows hold no finite numbers, or a label is no class.
        Interrupted: `should_stop` said so.
    """
    require(1 <= classes <= MOST_CLASSES, "classes", classes, f"1 to {MOST_CLASSES:,}")
    features = torch.as_tensor(rows)
    labels = np.asarray(given, dtype=np.int64)
    if features.ndim != 2 or len(features) != len(labels) or not features.shape[1]:
        shapes = f"{list(features.shape)} and {list(labels.shape)}"
        raise BadInput(f"rows and labels have the shapes {shapes}; accepted: [N, F] and [N]")
    if not bool(torch.isfinite(features).all()):
        raise BadInput("the features hold numbers that are not finite, which no label is judged by")
    sure = np.full(len(labels), UNKNOWN)
    for row, true in (decided or {}).items():
        require(0 <= row < len(labels), "a decided row", row, f"0 to {len(labels) - 1}")
        require(0 <= true < classes, "a decided class", true, f"0 to {classes - 1}")
        sure[row] = true
    strange = labels[(labels < UNKNOWN) | (labels >= classes)]
    accepted = f"0 to {classes - 1}, and {UNKNOWN} where there is none"
    require(not len(strange), "a label", int(strange[0]) if len(strange) else None, accepted)
    if not ((labels != UNKNOWN) | (sure != UNKNOWN)).any():
        raise BadInput("no sample has a label to learn from; accepted: one of each class at least")
    fit = cross_fit(
        features,
        labels,
        classes,
        decided=sure,
        seed=seed,
        budget=budget,
        should_stop=should_stop,
    )
    return Repaired(fit.posterior, labels, fit)


def repaired_data(data: Dataset, seed: int, should_stop: Callable[[], bool]) -> Repaired:
    """What the training labels of data whose samples are rows become; people's decisions win.
    Raises Interrupted where should_stop says so."""
    train = data.train
    given = train.labels.given
    rows = np.flatnonzero(train.decided) if train.decided is not None else ()
    return repair_labels(
        train.images,
        given,
        data.num_classes,
        decided={int(row): int(given[row]) for row in rows},
        seed=seed,
        budget=dataclasses.replace(BUDGET, freer=False),  # which is the worst label does not matter
        should_stop=should_stop,
    )


class RepairedLabels(nn.Module):
    """CE on what N labels of K classes become: soft targets, which `take` brings and a checkpoint
    keeps, so that a training that was interrupted does not judge them again."""

    wants: ClassVar[tuple[str, ...]] = ("samples",)
    targets: Tensor
    rate: Tensor

    def __init__(self, count: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("targets", torch.zeros(count, classes))
        self.register_buffer("rate", torch.zeros(3))  # with its interval

    def take(self, made: Repaired) -> None:
        """Learn these from now on.  In place, so that what was compiled before sees it."""
        found = made.rate
        self.targets.copy_(torch.from_numpy(made.targets))
        self.rate.copy_(torch.tensor([found.estimate, found.low, found.high]))

    def forward(self, logits: Tensor, targets: Tensor, samples: Tensor) -> Tensor:
        """The mean CE of logits [B, K] of these samples [B]; their given labels do not count."""
        return F.cross_entropy(logits, self.targets[samples])

    def moved(self, given: IntArray) -> IntArray:
        """The samples whose likeliest class is not their given label [N], the surest first."""
        targets = self.targets.cpu().numpy()
        there = np.flatnonzero(targets.argmax(1) != given)
        order: IntArray = there[np.argsort(-targets[there].max(1), kind="stable")]
        return order

    def summary(self, given: IntArray) -> dict[str, float]:
        """What a record keeps: how many labels there are, how many moved, and the noise rate."""
        rate, low, high = (round(float(each), 6) for each in self.rate)
        counts = {"labels": len(given), "moved": len(self.moved(given))}
        return {**counts, "noise_rate": rate, "low": low, "high": high}

    def rows(
        self, given: IntArray, class_names: Sequence[str], names: Sequence[str]
    ) -> Iterator[tuple[object, ...]]:
        """COLUMNS of each sample that moved."""
        targets = self.targets.cpu().numpy()
        for i in self.moved(given):
            to, name = int(targets[i].argmax()), plain(names[i]) if names else ""
            labels = class_names[given[i]], class_names[to]
            chances = f"{targets[i, to]:.4f}", f"{targets[i, given[i]]:.4f}"
            yield (int(i), *labels, *chances, name)


COLUMNS = (
    *("id", "given_label", "repaired_label"),
    *("repaired_probability", "given_probability", "file_name"),
)
