"""Labels repaired by features, and training on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from apl.errors import BadInput
from apl.noise.labels import UNKNOWN
from apl.training.repair import repair_labels


def clouds(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, Any]:
    """Rows of classes that lie apart, with a constant column, and their classes."""
    rng = np.random.default_rng(seed)
    true = np.arange(count) % classes
    centres = rng.normal(size=(classes, 8)) * 2.5
    rows = np.c_[centres[true] + rng.normal(size=(count, 8)), np.ones(count)]
    return torch.from_numpy(rows), true


def test_labels_are_repaired_and_people_win() -> None:
    rows, true = clouds(150, 3)
    given = true.copy()
    wrong = np.random.default_rng(1).permutation(150)[:40]
    given[wrong] = (true[wrong] + 1) % 3
    given[100:110] = UNKNOWN
    decided = {int(wrong[0]): int(given[wrong[0]]), 105: int((true[105] + 1) % 3), 3: int(true[3])}
    made = repair_labels(rows, given, 3, decided=decided, seed=7, rounds=1, steps=150)
    assert np.allclose(made.targets.sum(1), 1)
    assert all(made.targets[row].tolist() == np.eye(3)[c].tolist() for row, c in decided.items())
    free = np.setdiff1d(np.arange(150), [*decided])
    assert (made.labels == true)[free].mean() > 0.95 > (given == true)[free].mean()
    asked = (given != UNKNOWN) & (given != true)
    assert abs(made.rate.estimate - asked.mean()) < 0.1
    assert made.wrong[100:110].tolist() == [0] * 10
    assert made.wrong[wrong[0]] == 0  # people say that it is right
    assert made.moved[free].sum() == pytest.approx(asked[free].sum(), abs=6)
    again = repair_labels(rows, given, 3, decided=decided, seed=7, rounds=1, steps=150)
    assert np.array_equal(made.targets, again.targets)
    assert not made.moved[100:110].any()


@pytest.mark.parametrize("count", [1, 12])
def test_few_samples_constant_features_and_one_class(count: int) -> None:
    rows = torch.ones(count, 4)
    given = np.arange(count) % 2
    for classes, labels in ((2, given), (3, given), (1, given * 0)):
        made = repair_labels(rows, labels, classes, seed=2**63 - 1, rounds=1, steps=1)
        assert np.isfinite(made.targets).all()
        assert np.isfinite(made.wrong).all()
        assert np.allclose(made.targets.sum(1), 1)
    known = repair_labels(rows, np.full(count, UNKNOWN), 2, decided={0: 1}, rounds=1, steps=1)
    assert known.targets[0].tolist() == [0, 1]
    assert not known.wrong.any()


@pytest.mark.parametrize(
    ("rows", "given", "decided", "said"),
    [
        (torch.ones(3, 0), [0, 1, 0], {}, r"shapes \[3, 0\] and \[3\]"),
        (torch.ones(3, 2), [0, 1], {}, "shapes"),
        (torch.tensor([[1.0], [float("nan")]]), [0, 1], {}, "not finite"),
        (torch.ones(2, 1), [0, 2], {}, "a label is 2; accepted: 0 to 1"),
        (torch.ones(2, 1), [-1, -1], {}, "no sample has a label"),
        (torch.ones(2, 1), [0, 1], {2: 0}, "a decided row is 2"),
        (torch.ones(2, 1), [0, 1], {1: 5}, "a decided class is 5"),
    ],
)
def test_what_can_not_be_repaired_is_told(rows: Any, given: Any, decided: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        repair_labels(rows, given, 2, decided=decided)
