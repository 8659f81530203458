"""One head on rows in memory: arrays in, arrays out, no data set, run folder or process."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from apl.errors import BadInput
from apl.losses.catalog import loss_name
from apl.losses.modules import CRITERIA, NoisyLabelLoss, RowLoss, make_loss, needs_of
from apl.noise.labels import Vector
from apl.training.dropout import dropped

EPOCHS, FEWEST_STEPS = 10, 200  # where no number of epochs is given
BATCH, SMALLEST_BATCH = 512, 64
LR, USUAL_BATCH = 0.05, 128  # where no rate is given; of more samples a step is longer
MOMENTUM = 0.9

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Recipe:
    """How a head is trained: `linear`, or `mlp` with a hidden layer of this width.

    epochs: 0 for EPOCHS, more where these are less than FEWEST_STEPS steps; the first
    `warm_start_epochs` with cross entropy.  lr: 0 for LR, by the size of a batch.  dropout: shares
    of the inputs and of hidden units.
    """

    loss: str = "nce_rce"
    network: str = "mlp"
    epochs: int = 0
    warm_start_epochs: int = 0
    lr: float = 0.0
    weight_decay: float = 5e-3
    width: int = 256
    dropout: tuple[float, float] = (0.2, 0.5)
    seed: int = 0


@dataclass(frozen=True)
class Layers:
    """A trained head: weights [in, out] and biases [out] of its layers, and a row for each epoch
    (`epoch`, `train_loss`, `lr`)."""

    weights: list[npt.NDArray[np.float64]]
    biases: list[npt.NDArray[np.float64]]
    history: list[dict[str, float]]


def require_loss(loss: str) -> None:
    """Raise BadInput unless a head can be trained with it: it needs neither a known noise matrix
    nor several views of a sample."""
    found = CRITERIA.get(loss_name(loss))
    if found is not None and (found.views > 1 or "transition" in found.needs):
        what = "several views of a sample" if found.views > 1 else "a known noise matrix"
        raise BadInput(f"loss is {loss!r}, which needs {what}; accepted: a loss without")
    if loss_name(loss) == "forward_est":
        raise BadInput(f"loss is {loss!r}; with repair the noise matrix is estimated anyway: ce")
    try:
        _made(loss, 2, 1)
    except ValueError as error:
        raise BadInput(str(error)) from None


def _made(loss: str, classes: int, samples: int) -> NoisyLabelLoss | RowLoss:
    """The loss of each row, of what has so many classes and samples."""
    remembers = "num_samples" in needs_of(loss)
    return make_loss(loss, classes, "none", num_samples=samples if remembers else None)


def train_head(rows: Tensor, targets: Tensor, weights: Vector, recipe: Recipe) -> Layers:
    """Train on rows float32 [N, F] and the chances of their classes [N, K]; weights: how much each
    counts [N].  A loss that is no sum of terms learns the likeliest class.

    Nothing but the seed decides what is drawn.  Raises BadInput where the loss is not finite.
    """
    training = _Head(rows, targets, weights, recipe)
    return training.run()


class _Head:
    """A training, as it goes."""

    def __init__(self, rows: Tensor, targets: Tensor, weights: Vector, recipe: Recipe) -> None:
        self.rows, self.recipe, self.classes = rows, recipe, targets.shape[1]
        self.weights = torch.from_numpy(weights / weights.mean()).float()
        self.generator = torch.Generator().manual_seed(recipe.seed)
        found = CRITERIA.get(loss_name(recipe.loss))
        self.wants = found.wants if found is not None else ()
        self.soft = targets
        self.targets = targets if found is None else targets.argmax(1)
        self.criterion = _made(recipe.loss, self.classes, len(rows))
        self.parameters = self._begin()

    def _begin(self) -> list[Tensor]:
        width, hidden = self.rows.shape[1], self.recipe.width
        inner = [] if self.recipe.network == "linear" else [hidden]
        made = []
        for into, out in itertools.pairwise([width, *inner, self.classes]):
            weight = torch.randn(into, out, generator=self.generator) / math.sqrt(3 * into)
            made += [weight.requires_grad_(), torch.zeros(out, requires_grad=True)]
        return made

    def _answer(self, seen: Tensor) -> Tensor:
        wide, inner = self.recipe.dropout
        values = dropped(seen, wide, self.generator, quick=True)
        *before, weight, bias = self.parameters
        if before:
            values = (values @ before[0] + before[1]).relu()
            values = dropped(values, inner, self.generator, quick=True)
        return values @ weight + bias

    def run(self) -> Layers:
        """Train for all epochs, with a cosine of the learning rate."""
        recipe, count = self.recipe, len(self.rows)
        batch = max(SMALLEST_BATCH, min(BATCH, count // 10))
        steps = math.ceil(count / batch)
        epochs = recipe.epochs or max(EPOCHS, math.ceil(FEWEST_STEPS / steps))
        highest = recipe.lr or LR * max(1.0, batch / USUAL_BATCH)
        optimiser = torch.optim.SGD(
            self.parameters, highest, MOMENTUM, weight_decay=recipe.weight_decay
        )
        history, step = [], 0
        for epoch in range(epochs):
            total = 0.0
            for chosen in torch.randperm(count, generator=self.generator).split(batch):
                rate = 0.5 * highest * (1 + math.cos(math.pi * step / (epochs * steps)))
                optimiser.param_groups[0]["lr"] = rate
                logits, counts = self._answer(self.rows[chosen]), self.weights[chosen]
                summed = (self._losses(logits, chosen, epoch) * counts).sum()
                optimiser.zero_grad()
                (summed / counts.sum()).backward()
                optimiser.step()
                total += float(summed.detach())
                step += 1
            history.append({"epoch": epoch + 1, "train_loss": total / count, "lr": rate})
            if not math.isfinite(total):
                raise BadInput(
                    f"the training diverged in epoch {epoch + 1}; accepted: a smaller lr than "
                    f"{highest:g}, or features without outliers"
                )
        ends = [each.detach().double().numpy() for each in self.parameters]
        return Layers(ends[::2], ends[1::2], history)

    def _losses(self, logits: Tensor, chosen: Tensor, epoch: int) -> Tensor:
        if epoch < self.recipe.warm_start_epochs:
            return F.cross_entropy(logits, self.soft[chosen], reduction="none")
        wanted = {"samples": chosen, "epoch": epoch}
        losses: Tensor = self.criterion(
            logits, self.targets[chosen], **{name: wanted[name] for name in self.wants}
        )
        return losses
