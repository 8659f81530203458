"""Dropout from random bytes: shares, scale, and what decides them."""

from __future__ import annotations

import pytest
import torch

from apl.training.dropout import LEVELS, dropped


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_a_share_is_left_out_and_the_mean_stays(share: float, quick: bool) -> None:
    values = torch.ones(401, 77)  # no multiple of eight
    made = dropped(values, share, torch.Generator().manual_seed(3), quick)
    out = round(share * LEVELS) / LEVELS if quick else share
    assert (made == 0).float().mean() == pytest.approx(out, abs=0.01)
    assert made[made > 0].unique().item() == pytest.approx(1 / (1 - out))
    assert (values == 1).all()


def test_rows_and_columns_are_left_out_alike() -> None:
    made = dropped(torch.ones(512, 512), 0.5, torch.Generator().manual_seed(0), quick=True) > 0
    assert abs(made.float().mean(0) - 0.5).max() < 0.12
    assert abs(made.float().mean(1) - 0.5).max() < 0.12
    assert abs((made[:, 1:] == made[:, :-1]).float().mean() - 0.5) < 0.01


def test_the_generator_alone_decides_and_nothing_is_drawn_for_no_share() -> None:
    values, generator = torch.randn(9, 5), torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert dropped(values, 0.0, generator, quick=True) is values
    assert torch.equal(generator.get_state(), before)
    one = dropped(values, 0.5, generator, quick=True)
    assert torch.equal(one, dropped(values, 0.5, generator.set_state(before), quick=True))
    assert not torch.equal(one, dropped(values, 0.5, generator, quick=True))


def test_gradients_go_through_what_stays() -> None:
    values = torch.ones(64, 3, requires_grad=True)
    made = dropped(values, 0.5, torch.Generator().manual_seed(2), quick=True)
    made.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, made.detach())
