"""Targets that are no class: every backend says so, and none ends the process."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from apl import linear_loss, make_loss
from apl.kernels.dispatch import BACKENDS

# Logits [N, K], few and many, and a picture's.
SHAPES = {"few": (8, 5), "many": (4096, 100), "pixels": (2, 21, 96, 96)}
ON_CPU = [backend for backend in BACKENDS if backend != "triton"]


def a_batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator).requires_grad_()
    targets = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    return logits, targets


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("backend", ON_CPU)
def test_a_target_that_is_no_class_is_an_index_error(backend: str, shape: tuple[int, ...]) -> None:
    logits, targets = a_batch(shape)
    classes = shape[1]
    for options in ({}, {"weight": torch.rand(classes) + 0.5}, {"label_smoothing": 0.1}):
        criterion = make_loss("nce_rce", classes, backend=backend, **options)
        for bad in (classes, -1, 255, -2):
            spoiled = targets.clone()
            spoiled.view(-1)[-1] = bad
            with pytest.raises(IndexError, match=f"target {bad} is out of bounds; accepted: the"):
                criterion(logits, spoiled)
            with torch.no_grad(), pytest.raises(IndexError):
                criterion(logits, spoiled)
        if backend in ("eager", "reference"):  # the others would compile for half a minute
            criterion(logits, targets).backward()  # it goes on afterwards


@pytest.mark.parametrize("ignore_index", [-100, -1, 255, 3])
@pytest.mark.parametrize("backend", ON_CPU)
def test_what_is_ignored_is_no_error(backend: str, ignore_index: int) -> None:
    logits, targets = a_batch((8, 5))
    targets[2] = ignore_index
    kept = targets != ignore_index
    criterion = make_loss("nce_rce", 5, backend=backend, ignore_index=ignore_index)
    if backend != "compiled":
        whole, alone = criterion(logits, targets), make_loss("nce_rce", 5)
        assert torch.allclose(whole, alone(logits[kept], targets[kept]), rtol=1e-5)
    other = -100 if ignore_index != -100 else -1
    targets[3] = other
    with pytest.raises(
        IndexError, match=f"target {other} .* ignore_index, which is {ignore_index}"
    ):
        criterion(logits, targets)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_narrow_targets_are_looked_at_as_they_are(dtype: torch.dtype) -> None:
    logits, targets = a_batch((8, 5))
    targets[1] = 100
    with pytest.raises(IndexError, match="target 100"):
        make_loss("ce", 5)(logits, targets.to(dtype))


@pytest.mark.parametrize("classes", [7, 400])
def test_the_last_layer_says_it_too(classes: int) -> None:
    hidden, layer = torch.randn(1024, 16), torch.randn(classes, 16)
    targets = torch.randint(0, classes, (1024,))
    targets[-1] = classes
    with pytest.raises(IndexError, match=f"target {classes} is out of bounds"):
        linear_loss(hidden, layer.requires_grad_(), targets, "nce_rce")


def test_tensors_without_values_have_a_loss_of_the_right_shape() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        logits, targets = torch.randn(4, 10), torch.tensor([1, 2, 3, 4])
        assert make_loss("nce_rce", 10)(logits, targets).shape == ()
        assert make_loss("nce_rce", 10, "none")(logits, targets).shape == (4,)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wants", [False, True])
def test_forward_mode_derivatives_are_the_references(backend: str, wants: bool) -> None:
    from torch.autograd import forward_ad

    logits, targets = a_batch((8, 5))
    logits = logits.detach().requires_grad_(wants)
    tangent = torch.randn(8, 5)

    def derivative(backend: str) -> Tensor:
        with forward_ad.dual_level():
            loss = make_loss("nce_rce", 5, backend=backend)(
                forward_ad.make_dual(logits, tangent), targets
            )
            found = forward_ad.unpack_dual(loss).tangent
            assert found is not None
            return found.detach()

    assert torch.allclose(derivative(backend), derivative("reference"))
    exact = torch.autograd.functional.jvp(
        lambda z: make_loss("nce_rce", 5, backend="reference")(z, targets), logits, tangent
    )[1]
    assert torch.allclose(derivative(backend), exact, atol=1e-6)
