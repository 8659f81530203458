"""The recipes of docs/examples.md as users run them: the gradient is that of one large batch."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

DOCS = Path(__file__).resolve().parents[2] / "docs"


def code_below(heading: str) -> str:
    """The first block of Python below a heading of the page."""
    text = (DOCS / "examples.md").read_text(encoding="utf-8")
    part = re.split(rf"^##+ {heading}$", text, flags=re.M)[1]
    found = re.search(r"^```python\n(.*?)^```", part, re.S | re.M)
    assert found is not None
    return found[1]


@pytest.fixture
def loss_of_batch() -> Callable[..., Tensor]:
    """The function of the recipe, as it stands in the page."""
    given: dict[str, Any] = {}
    exec(code_below("Hugging Face Trainer"), given)
    function: Callable[..., Tensor] = given["loss_of_batch"]
    return function


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 10))


IMAGES = torch.randn(64, 20, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(64) % 10


def accumulated(
    loss_of_batch: Callable[..., Tensor],
    batches: int,
    labels: Tensor = LABELS,
    forward: Callable[[nn.Module, Tensor], Tensor] = lambda net, x: net(x),
    scale: float = 1.0,
) -> Tensor:
    """The gradient of one step as Trainer takes it: the labels of all batches are counted, and what
    the function returns is not divided."""
    net = network()
    parts = list(zip(IMAGES.chunk(batches), labels.chunk(batches), strict=True))
    count = sum((part != -100).sum() for _, part in parts)
    for x, y in parts:
        loss = loss_of_batch(SimpleNamespace(logits=forward(net, x)), y, num_items_in_batch=count)
        (scale * loss).backward()
    return torch.cat([p.grad.reshape(-1) for p in net.parameters() if p.grad is not None]) / scale


@pytest.mark.parametrize("batches", [1, 4, 8, 64])
def test_accumulated_batches_have_the_gradient_of_one(
    loss_of_batch: Callable[..., Tensor], batches: int
) -> None:
    whole, parts = accumulated(loss_of_batch, 1), accumulated(loss_of_batch, batches)
    assert float(parts.norm()) == pytest.approx(float(whole.norm()), rel=0.05)
    assert torch.allclose(parts, whole, atol=1e-5)


def test_labels_that_are_ignored_are_not_counted(loss_of_batch: Callable[..., Tensor]) -> None:
    labels = LABELS.clone()
    labels[:24] = -100  # so that some batches have none at all
    whole = accumulated(loss_of_batch, 1, labels)
    assert torch.allclose(accumulated(loss_of_batch, 8, labels), whole, atol=1e-5)
    mean = loss_of_batch(SimpleNamespace(logits=network()(IMAGES)), labels)  # nobody counts
    kept = loss_of_batch(SimpleNamespace(logits=network()(IMAGES[24:])), labels[24:])
    assert torch.allclose(mean, kept)


def test_checkpointing_changes_nothing(loss_of_batch: Callable[..., Tensor]) -> None:
    again = lambda net, x: checkpoint(net, x, use_reentrant=False)  # noqa: E731
    parts = accumulated(loss_of_batch, 4, forward=again)
    assert torch.allclose(parts, accumulated(loss_of_batch, 1), atol=1e-5)


def test_what_a_grad_scaler_multiplies_it_divides(loss_of_batch: Callable[..., Tensor]) -> None:
    """Its factor, as on a GPU; on a CPU it is switched off."""
    parts = accumulated(loss_of_batch, 4, scale=2.0**16)
    assert torch.allclose(parts, accumulated(loss_of_batch, 1), atol=1e-5)


def test_logits_that_come_back_from_several_devices_are_one_batch(
    loss_of_batch: Callable[..., Tensor],
) -> None:
    """As DataParallel has it: Trainer gives the count once for each device, and takes the mean."""
    logits = network()(IMAGES)
    count = torch.tensor([[64], [64]])
    several = loss_of_batch(SimpleNamespace(logits=logits), LABELS, num_items_in_batch=count).mean()
    alone = loss_of_batch(SimpleNamespace(logits=logits), LABELS)
    assert torch.allclose(several, alone)


@pytest.mark.slow
def test_the_real_trainer_has_one_gradient_however_it_accumulates(
    loss_of_batch: Callable[..., Tensor], tmp_path: Path
) -> None:
    for package in ("transformers", "accelerate"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    import transformers

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(network())

        def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
            return transformers.modeling_outputs.SequenceClassifierOutput(logits=self.net(x))

    norms = []
    for batches in (1, 4, 8):
        settings = transformers.TrainingArguments(
            output_dir=str(tmp_path / str(batches)),
            max_steps=1,
            per_device_train_batch_size=64 // batches,
            gradient_accumulation_steps=batches,
            max_grad_norm=1e9,
            logging_steps=1,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        rows = [{"x": x, "labels": y} for x, y in zip(IMAGES, LABELS, strict=True)]
        trainer = transformers.Trainer(
            model=Model(), args=settings, train_dataset=rows, compute_loss_func=loss_of_batch
        )
        trainer.train()
        norms += [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
    print(f"grad_norm with 1 x 64, 4 x 16, 8 x 8: {norms}")
    assert norms == pytest.approx([norms[0]] * 3, rel=0.05)
