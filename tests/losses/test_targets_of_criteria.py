"""Losses that are no sums of terms: targets and samples that are none, padding, masked classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from apl import make_loss
from apl.losses.modules import CRITERIA, RowLoss

K = 4


def made(name: str, **options: Any) -> RowLoss:
    needs = CRITERIA[name].needs
    if "num_samples" in needs:
        options["num_samples"] = 6
    if "transition" in needs:
        options["transition"] = 0.7 * torch.eye(K) + 0.3 / K
    criterion = make_loss(name, K, **options)
    assert isinstance(criterion, RowLoss)
    return criterion


def call(criterion: RowLoss, logits: Tensor, targets: Tensor, samples: Tensor | None) -> Tensor:
    wanted: dict[str, Any] = {}
    if "samples" in criterion.wants:
        wanted["samples"] = torch.arange(len(targets)) if samples is None else samples
    if "epoch" in criterion.wants:
        wanted["epoch"] = 0.0
    if criterion.views > 1:
        logits = torch.stack([logits] * criterion.views)
    return criterion(logits, targets, **wanted)


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("bad", [-1, K, 255])
def test_a_target_that_is_no_class_is_an_index_error(name: str, bad: int) -> None:
    with pytest.raises(IndexError, match=f"target {bad} is out of bounds"):
        call(made(name), torch.randn(3, K), torch.tensor([0, bad, 1]), None)


@pytest.mark.parametrize("name", CRITERIA)
def test_where_no_value_may_be_looked_at_its_row_is_nan(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a GPU gets, where a look would have to wait.
    monkeypatch.setattr("apl.losses.modules.known", lambda targets: False)
    criterion = made(name, reduction="none")
    losses = call(criterion, torch.randn(4, K), torch.tensor([0, -1, K, 1]), None)
    assert losses.isnan().tolist() == [False, True, True, False]


@pytest.mark.parametrize("name", [n for n in CRITERIA if "samples" in CRITERIA[n].wants])
def test_samples_that_are_none_are_told(name: str) -> None:
    logits, targets = torch.randn(3, K), torch.tensor([0, 1, 2])
    for bad in (-1, 6):
        with pytest.raises(IndexError, match=f"sample {bad} is out of bounds; .* 0 to 5"):
            call(made(name), logits, targets, torch.tensor([0, bad, 1]))
    for samples in (torch.tensor([True, False, True]), torch.zeros(3), torch.tensor([0, 1])):
        with pytest.raises(ValueError, match=r"samples of .* must be the numbers"):
            call(made(name), logits, targets, samples)


@pytest.mark.parametrize("name", [n for n in CRITERIA if "samples" in CRITERIA[n].wants])
@pytest.mark.parametrize("padding", [0, -1, -100, 10**9])
def test_padding_is_not_remembered(name: str, padding: int) -> None:
    padded, plain = made(name), made(name)
    for seed in range(3):
        logits = torch.randn(4, K, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        targets, samples = torch.tensor([0, 1, -100, -100]), torch.tensor([0, 3, padding, padding])
        with_padding = call(padded, logits, targets, samples)
        without = call(plain, logits[:2], targets[:2], samples[:2])
        assert torch.equal(with_padding, without)
    for (which, memory), (_, expected) in zip(
        padded.named_buffers(), plain.named_buffers(), strict=True
    ):
        assert torch.equal(memory, expected), which


@pytest.mark.parametrize("name", [n for n in CRITERIA if "samples" in CRITERIA[n].wants])
def test_a_batch_of_padding_alone_changes_nothing(name: str) -> None:
    criterion = made(name)
    before = {which: memory.clone() for which, memory in criterion.named_buffers()}
    targets = torch.full((3,), -100)
    call(criterion, torch.randn(3, K).requires_grad_(), targets, torch.zeros(3, dtype=torch.long))
    assert all(torch.equal(memory, before[which]) for which, memory in criterion.named_buffers())


# For the others a masked class has no meaning of its own: bi-tempered takes the tail of a
# distribution that has none, and epsilon-softmax, bootstrapping and forward only need softmax.
MASKED = ("gjs", "sr", "ce_lc", "ce_lc_authors", "ce_lc_eps", "aldr_kl", "forward", "elr")


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_class_leaves_loss_and_gradient_finite(name: str) -> None:
    logits = torch.randn(3, K, generator=torch.Generator().manual_seed(1))
    logits[:, 2] = -math.inf
    logits.requires_grad_()
    criterion = made(name)
    for _ in range(2):  # the second time from what it remembers
        loss = call(criterion, logits, torch.tensor([0, 1, 3]), None)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad[:, [0, 1, 3]].isfinite().all()
    assert (logits.grad[:, 2] == 0).all()


def test_a_label_that_no_class_is_given_is_impossible_without_a_gradient() -> None:
    transition = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    criterion = make_loss("forward", 3, "none", transition=transition)
    logits = torch.randn(2, 3).requires_grad_()
    losses = criterion(logits, torch.tensor([0, 2]))
    assert losses[0].isfinite()
    assert losses[1] == math.inf
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["ce", "nce_rce", "elr", "aldr_kl", "ldr_kl", "bi_tempered", "sr"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_batch_of_nothing_is_as_of_cross_entropy(name: str, reduction: str) -> None:
    more = {"num_samples": 5} if name in ("elr", "aldr_kl") else {}
    criterion = make_loss(name, num_classes=3, reduction=reduction, **more)
    asked = {"samples": torch.zeros(0, dtype=torch.long), "epoch": 0}
    wanted = {key: asked[key] for key in getattr(criterion, "wants", ())}
    logits, targets = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.long)
    value = criterion(logits, targets, **wanted)
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction=reduction)
    assert torch.equal(value.isnan(), plain.isnan())
    assert value.shape == plain.shape
    value.sum().backward()
    assert logits.grad is not None
    assert logits.grad.shape == (0, 3)
