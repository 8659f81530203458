"""What own data hold, in a line before anything is trained on them."""

from __future__ import annotations

import numpy as np
import pytest

from apl import load_data
from apl.data.dataset import told_classes


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (2, "2 classes: c1 15, c0 15"),
        (9, "9 classes: c8 15, "),
        (
            30,
            "30 classes: c29 15, c28 15, c27 15, c26 15, c25 15, c24 15, c23 15, and 23 more down",
        ),
    ],
)
def test_classes_and_their_counts_the_largest_first(classes: int, said: str) -> None:
    labels = np.repeat(np.arange(classes), 15)
    rows = np.random.default_rng(0).normal(size=(len(labels), 3))
    line = told_classes(load_data((rows, np.array([f"c{k}" for k in labels])), say=lambda _: None))
    assert f"{len(labels):,} rows in {classes} classes: " in line
    assert line.count(",") <= 9
    assert said.split(": ")[0] in line
    assert ("more down to" in line) is (classes > 9)
