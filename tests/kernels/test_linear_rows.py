"""The last layer and the loss in one: which rows are computed, in which type, and soft targets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from apl import linear_loss, make_loss
from apl.kernels import linear
from apl.kernels.options import REDUCTIONS

N, H, K = 24, 6, 9


class Products(TorchDispatchMode):
    """The matrix products of what runs inside: their sizes and types."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...], torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_"):
            a, b = args[:2] if name == "mm" else args[1:3]
            self.seen.append((tuple(a.shape), tuple(b.shape), a.dtype))
        return func(*args, **(kwargs or {}))


def case(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, H, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    layer = torch.randn(K, H, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, layer, torch.randint(K, (N,), generator=random)


def both(
    hidden: Tensor, layer: Tensor, targets: Tensor, reduction: Any, **options: Any
) -> Iterator[tuple[Tensor, ...]]:
    weight = options.pop("class_weight", None)
    chunk = options.pop("chunk", None)
    criterion = make_loss("nce_rce", K, reduction, weight=weight, backend="reference", **options)
    for value in (
        linear_loss(
            *(hidden, layer, targets, "nce_rce", None, reduction),
            class_weight=weight,
            chunk=chunk,
            **options,
        ),
        criterion(F.linear(hidden, layer), targets),
    ):
        incoming = torch.linspace(0.5, 2.0, value.numel(), dtype=value.dtype).reshape(value.shape)
        yield value.detach(), *torch.autograd.grad(value, (hidden, layer), incoming)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignore_index", [-100, 255, 3])
def test_rows_that_are_ignored_are_not_computed(reduction: str, ignore_index: int) -> None:
    hidden, layer, targets = case()
    targets[::2] = ignore_index
    kept = int((targets != ignore_index).sum())
    with Products() as products:
        value = linear_loss(
            *(hidden, layer, targets, "nce_rce", None, reduction),
            ignore_index=ignore_index,
            chunk=5,
        )
        value.sum().backward()
    rows = sum(a[0] for a, b, _ in products.seen if b == (H, K))
    assert rows == kept * (1 + (reduction == "none"))  # by rows the backward computes them again
    assert all(max(a[0], a[1]) <= K for a, _, _ in products.seen)
    for ours, theirs in zip(
        *both(hidden, layer, targets, reduction, ignore_index=ignore_index, chunk=5), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_rows_that_are_all_ignored(reduction: str) -> None:
    hidden, layer, targets = case()
    ours, theirs = both(hidden, layer, torch.full_like(targets, -100), reduction)
    torch.testing.assert_close(ours[0], theirs[0], equal_nan=True)
    for grad in ours[1:]:
        assert not grad.any()


def test_a_target_that_is_no_class_is_told_beside_ignored_ones() -> None:
    hidden, layer, targets = case()
    targets[0], targets[1] = -100, K
    with pytest.raises(IndexError, match=f"target {K} is out of bounds"):
        linear_loss(hidden, layer, targets, "nce_rce")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_soft_targets(reduction: str, smoothing: float, weighted: bool) -> None:
    hidden, layer, _ = case()
    q = torch.randn(N, K, dtype=torch.float64).softmax(1)
    options = {"label_smoothing": smoothing, "chunk": 5}
    if weighted:
        options["class_weight"] = torch.rand(K) + 0.5
    for ours, theirs in zip(*both(hidden, layer, q, reduction, **options), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_soft_targets_of_several_dimensions_and_of_one_row() -> None:
    hidden, layer, _ = case()
    q = torch.randn(N, K, dtype=torch.float64).softmax(1)
    flat = linear_loss(hidden, layer, q, "nce_rce", reduction="none")
    shaped = linear_loss(
        hidden.reshape(4, 6, H), layer, q.reshape(4, 6, K), "nce_rce", reduction="none"
    )
    torch.testing.assert_close(shaped, flat.reshape(4, 6))
    torch.testing.assert_close(linear_loss(hidden[0], layer, q[0], "nce_rce"), flat[0])
    (first,) = torch.autograd.grad(flat.sum(), hidden, create_graph=True)
    assert torch.autograd.grad(first.square().sum(), layer)[0].isfinite().all()
    for bad, said in (
        (q[:, :-1], r"soft targets \[24, 9\]"),
        (q * 2, "must sum to 1"),
        (q.requires_grad_(), "targets must not require a gradient"),
    ):
        with pytest.raises(ValueError, match=said):
            linear_loss(hidden, layer, bad, "nce_rce")


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_bfloat16_without_a_unit_for_it_is_computed_in_float32(
    reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, layer, targets = case(dtype=torch.bfloat16)
    wide, wide_layer = (t.detach().float().requires_grad_() for t in (hidden, layer))
    for has_unit in (False, True):  # whatever processor this is
        monkeypatch.setattr(linear, "_bf16_unit", lambda found=has_unit: found)
        with Products() as products:
            value = linear_loss(hidden, layer, targets, "nce_rce", None, reduction, chunk=7)
            grads = torch.autograd.grad(value.float().sum(), (hidden, layer))
        used = {dtype for _, _, dtype in products.seen}
        assert used == {torch.bfloat16 if has_unit else torch.float32}
        assert value.dtype == torch.bfloat16
        expected = linear_loss(wide, wide_layer, targets, "nce_rce", None, reduction)
        wanted = torch.autograd.grad(expected.sum(), (wide, wide_layer))
        for ours, theirs in zip((value, *grads), (expected, *wanted), strict=True):
            assert ours.dtype == torch.bfloat16
            room = (3e-2 if has_unit else 8e-3) * theirs.abs().max()
            assert (ours.float() - theirs).abs().max() <= room


def test_autocast_without_a_unit_for_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_bf16_unit", lambda: False)
    hidden, layer, targets = case(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16), Products() as products:
        value = linear_loss(hidden, layer, targets, "nce_rce")
    assert value.dtype == torch.float32
    assert {dtype for _, _, dtype in products.seen} == {torch.float32}
