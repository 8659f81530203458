"""A data set's health: what its features and its pixels say beside its labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apl.detect import neighbours as module
from apl.detect.neighbours import neighbours
from apl.errors import Interrupted


@pytest.mark.parametrize("block", [1, 2**26])  # a row at a time, and all at once
def test_the_neighbours_are_the_exact_ones(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    rows = torch.randn(60, 7, generator=torch.Generator().manual_seed(0)).half()
    places, near = neighbours(rows, 5)
    wide = rows.double().numpy()
    wide -= wide.mean(0)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    alike = wide @ wide.T
    np.fill_diagonal(alike, -9)
    np.testing.assert_array_equal(places, np.argsort(-alike, 1)[:, :5])
    np.testing.assert_allclose(near, -np.sort(-alike, 1)[:, :5], atol=1e-5)


def test_few_rows_have_few_neighbours_and_a_stop_is_heard():
    assert neighbours(torch.zeros(0, 3), 4)[0].shape == (0, 0)
    assert neighbours(torch.ones(1, 3), 4)[0].shape == (1, 0)
    places, near = neighbours(torch.ones(3, 2), 4)  # all alike: nearer to none
    assert places.shape == (3, 2)
    assert (near == 0).all()
    with pytest.raises(Interrupted):
        neighbours(torch.ones(3, 2), 1, lambda: True)
