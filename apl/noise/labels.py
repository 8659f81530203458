"""Labels, and what is known of them: as given, true, the noise matrix, the rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from apl.errors import BadInput

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]

UNKNOWN = -1  # the true label of a sample whose truth nobody knows
MOST_CLASSES = 1000  # of which a matrix [K, K] is made: of more it would outgrow all else


@dataclass(frozen=True)
class Rate:
    """A share of wrong labels, and the interval that it lies in; nan where nothing can be told."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Labels:
    """The labels of N samples: as given, and true, UNKNOWN where nobody knows.

    Attributes:
        given: The label of each sample as given [N].
        true: Its true class [N], UNKNOWN where nobody knows it.
        transition: The matrix [K, K] that the given labels were drawn by, None where none is known.
    """

    given: IntArray
    true: IntArray
    transition: Matrix | None = None

    def __len__(self) -> int:
        return len(self.given)

    @property
    def known(self) -> BoolArray:
        """True where the true label is known."""
        known: BoolArray = self.true != UNKNOWN
        return known

    @property
    def wrong(self) -> BoolArray:
        """True where the given label is known to be wrong."""
        wrong: BoolArray = self.known & (self.given != self.true)
        return wrong

    @property
    def empirical(self) -> Matrix:
        """The matrix that the labels of known truth show; nan in the row of a class without any."""
        known = self.known
        size = len(self.transition) if self.transition is not None else 0
        named = max(int(part.max(initial=-1)) for part in (self.given, self.true))
        num_classes = max(size, named + 1)
        if num_classes > MOST_CLASSES:
            raise BadInput(
                f"{num_classes:,} classes; a matrix of them is made of at most {MOST_CLASSES:,}"
            )
        pairs = self.true[known] * num_classes + self.given[known]
        counts = np.bincount(pairs, minlength=num_classes**2)
        counts = counts.reshape(num_classes, num_classes).astype(np.float64)
        with np.errstate(invalid="ignore"):
            shares: Matrix = counts / counts.sum(1, keepdims=True)
        return shares
