"""Labels repaired by what features say of them: soft targets, from which a network learns what it
would have learned from true labels, as far as anything tells them.  docs/repair.md has what it
reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from apl.errors import BadInput, require
from apl.noise.labels import UNKNOWN, BoolArray, IntArray, Matrix, Rate, Vector
from apl.training.crossfit import FEWEST_STEPS, ROUNDS, CrossFit, cross_fit


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
    rounds: int = ROUNDS,
    steps: int = FEWEST_STEPS,
    should_stop: Callable[[], bool] = lambda: False,
) -> Repaired:
    """Repair given labels [N], UNKNOWN (-1) where there is none, by features [N, F].

    decided: the true class of samples by their row, which people have said: it always wins.
    seed: all that is random follows from it.  rounds: of learning from what is already repaired;
    steps: the fewest of a round, of which small data has many.  should_stop: asked after each
    epoch, and True raises Interrupted.
    Raises BadInput where the rows hold no finite numbers or a label is no class.
    """
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
        rounds=rounds,
        steps=steps,
        should_stop=should_stop,
    )
    return Repaired(fit.posterior, labels, fit)
