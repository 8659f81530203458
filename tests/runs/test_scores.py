"""Memorised and recovered, counted by hand."""

from __future__ import annotations

import math

import numpy as np

from apl.noise.labels import UNKNOWN, Labels
from apl.runs.scores import memorised_and_recovered

TRUE = np.array([0, 0, 0, 0, 1, 2, 2])
GIVEN = np.array([1, 1, 1, 2, 1, 2, 0])  # the first four and the last are wrong
SAID = np.array([1, 0, 2, 2, 0, 2, 1])  # as given, as true, as neither, as given; ...; as neither


def test_what_is_predicted_as_neither_is_neither() -> None:
    memorised, recovered = memorised_and_recovered(SAID, Labels(GIVEN, TRUE, None))
    assert (memorised, recovered) == (2 / 5, 1 / 5)


def test_without_a_wrong_label_both_are_unknown() -> None:
    for true in (GIVEN, np.full(7, UNKNOWN)):
        assert all(map(math.isnan, memorised_and_recovered(SAID, Labels(GIVEN, true, None))))
