"""Small batches on a CPU: few calls of torch, the gradient over the logits, what is compiled."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter

from apl.kernels import closed_form, linear
from apl.losses.catalog import SUMS
from apl.losses.modules import make_loss


@pytest.mark.parametrize("shape", [(9, 7), (2, 9, 3, 2)])
@pytest.mark.parametrize("name", [*SUMS][::4])
def test_what_rows_count_and_what_is_masked_as_the_specification_says(name, shape):
    k = shape[1]
    generator = torch.Generator().manual_seed(len(name))
    for case in range(8):
        z = 3 * torch.randn(shape, generator=generator)
        y = torch.randint(k, shape[:1] + shape[2:], generator=generator)
        if case & 1:
            z[0, (int(y.flatten()[0]) + 1) % k] = -torch.inf
        if case & 2:
            y.flatten()[::3] = -100
        options = {"weight": torch.rand(k, generator=generator) + 0.5} if case & 4 else {}
        for reduction in ("mean", "sum", "none"):
            value, grad = value_and_grad(name, z, y, reduction, **options)
            expected = value_and_grad(name, z.double(), y, reduction, "reference", **options)
            torch.testing.assert_close(value.double(), expected[0], rtol=2e-5, atol=2e-5)
            torch.testing.assert_close(grad.double(), expected[1], rtol=2e-4, atol=2e-5)


def value_and_grad(name, logits, targets, reduction, backend="auto", **options):
    leaf = logits.clone().requires_grad_()
    value = make_loss(name, logits.shape[1], reduction, backend=backend, **options)(leaf, targets)
    (value * torch.linspace(1, 2, value.numel()).view_as(value)).sum().backward()
    return value.detach(), leaf.grad


def test_an_ignored_row_spreads_no_nan_and_a_second_derivative_is_there():
    z = torch.randn(4, 5, dtype=torch.float64)
    z[1] = torch.nan
    y = torch.tensor([0, -100, 4, 2])
    value, grad = value_and_grad("nce_rce", z, y, "mean")
    assert value.isfinite()
    assert grad.isfinite().all()
    assert not grad[1].any()
    criterion = make_loss("nce_rce", 5)
    kept = z[[0, 2, 3]].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: criterion(x, y[[0, 2, 3]]), kept)


def test_what_is_done_to_losses_in_place_does_not_reach_the_gradient():
    z, y = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 1, 2, 3])
    losses = make_loss("nce", 5, "none")(z, y)
    (expected,) = torch.autograd.grad(losses.sum(), z, retain_graph=True)
    (found,) = torch.autograd.grad(losses.mul_(1.0).sum(), z)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["nce_rce", "nfl", "ce"])
def test_the_gradient_takes_the_place_of_the_logits(name, monkeypatch):
    monkeypatch.setattr("apl.kernels.plain_rows._BLOCK", 14)  # two rows at a time
    z, y = torch.randn(5, 7), torch.tensor([0, 6, 2, 3, 3])
    z[2, 5] = -torch.inf
    expected = value_and_grad(name, z, y, "mean")
    leaf = z.clone().requires_grad_()
    logits = leaf * 1
    value = make_loss(name, 7, inplace=True)(logits, y)
    torch.testing.assert_close(value.detach(), expected[0])
    torch.testing.assert_close(logits.detach(), expected[1])
    (3 * value).backward(retain_graph=True)
    torch.testing.assert_close(leaf.grad, 3 * expected[1])
    with pytest.raises(RuntimeError, match="has one backward"):
        value.backward()


@pytest.mark.slow
def test_a_training_compiles_three_times_and_says_so_once(monkeypatch):
    """With a smaller last batch, evaluation without gradient, and a row that is ignored."""
    counter, real = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda code, **_: real(code, backend=counter))
    monkeypatch.setattr(closed_form, "COMPILE_FROM", 1 << 8)
    monkeypatch.setattr(closed_form, "has_compiler", lambda: True)
    monkeypatch.setattr("apl.kernels.dispatch.has_compiler", lambda: True)
    closed_form._compiled.cache_clear()
    closed_form._say_that_it_compiles.cache_clear()
    criterion = make_loss("nce_rce", 40)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for rows in (32, 32, 19, 32, 19):
            z, y = torch.randn(rows, 40, requires_grad=True), torch.randint(40, (rows,))
            criterion(z, y).backward()
            y[0] = -100
            criterion(z, y).backward()
            with torch.no_grad():
                found = criterion(z, y)
            torch.testing.assert_close(found, make_loss("nce_rce", 40, backend="eager")(z, y))
    closed_form._compiled.cache_clear()
    assert 2 <= counter.frame_count <= 3
    (told,) = [str(w.message) for w in caught if "compiled" in str(w.message)]
    assert "backend='eager'" in told
    assert "\n" not in told


def test_a_half_product_is_added_to_a_wide_sum_at_once_where_torch_can():
    device = torch.device("cpu")
    linear._adds_wide.cache_clear()
    grad, part = torch.randn(6, 9).bfloat16(), torch.randn(6, 4).bfloat16()
    total = torch.randn(9, 4)
    expected = total + grad.float().T @ part.float()
    linear._add_product(total, grad, part)
    torch.testing.assert_close(total, expected, rtol=2e-2, atol=2e-2)
    ones = torch.ones(8, 8, dtype=torch.bfloat16)
    try:
        found = torch.addmm(torch.ones(8, 8), ones, ones, out_dtype=torch.float32)
    except (RuntimeError, TypeError):
        found = None
    assert linear._adds_wide(device, torch.bfloat16) == (found is not None)


def test_small_batches_raise_as_cross_entropy_does():
    z = torch.randn(3, 4)
    for wrong in (4, -1, 255):
        y = torch.tensor([0, wrong, 2])
        with pytest.raises(IndexError):
            F.cross_entropy(z, y)
        with pytest.raises(IndexError, match=f"target {wrong} is out of bounds"):
            make_loss("nce_rce", 4)(z, y)
