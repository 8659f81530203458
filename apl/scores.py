"""What a network says about images: accuracy, per class, confusion, memorised and recovered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from apl.checkpoint import load_tensors
from apl.config import Config
from apl.data.sources import Dataset, load_dataset, to_float
from apl.errors import BadInput, Interrupted, one_line
from apl.losses import parse_loss
from apl.networks import make_network
from apl.noise import Labels, NoisyLabels, corrupt
from apl.runs import read_config, read_noise, read_result

ONE_CLASS_SHARE = 0.95  # of the predictions in one class: the network has collapsed
HARDLY_MEMORISED = 0.10  # of the wrong labels: below it, losses can't be told apart by robustness
BATCH = 512


@dataclass(frozen=True)
class Scores:
    """Counts of (label, prediction) pairs [K, K] and what follows from them."""

    confusion: npt.NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Share of predictions that equal the label."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def per_class(self) -> list[float]:
        """The accuracy on each label's samples; nan for a label without samples."""
        with np.errstate(invalid="ignore"):
            shares = np.diag(self.confusion) / self.confusion.sum(1)
        return [float(share) for share in shares]

    @property
    def collapsed_into(self) -> int | None:
        """The class that gets nearly all predictions while the labels say otherwise, or None."""
        total = self.confusion.sum()
        top = int(self.confusion.sum(0).argmax())
        share = self.confusion[:, top].sum() / total
        true_share = self.confusion[top].sum() / total
        return top if share >= ONE_CLASS_SHARE and true_share < 0.9 else None

    @property
    def never_predicted(self) -> list[int]:
        """The classes that have samples but get no prediction: given up, though not collapsed."""
        missing = (self.confusion.sum(0) == 0) & (self.confusion.sum(1) > 0)
        return [int(k) for k in np.flatnonzero(missing)]

    @property
    def at_chance(self) -> bool:
        """Whether the accuracy is no better than guessing, within three standard errors."""
        chance = 1 / len(self.confusion)
        error = (chance * (1 - chance) / self.confusion.sum()) ** 0.5
        return bool(self.accuracy <= chance + 3 * error)


def predict(
    network: nn.Module,
    images: Tensor,
    data: Dataset,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """The predicted class [N] of every uint8 image [N, H, W, C], in evaluation mode.

    Raises Interrupted as soon as should_stop, asked before each batch, is true.
    """
    device = next(network.parameters()).device
    was_training = network.training
    predictions = []
    network.eval()
    with torch.inference_mode():
        for batch in images.split(BATCH):
            if should_stop():
                raise Interrupted
            pixels = to_float(batch.to(device), data.mean, data.std)
            predictions.append(network(pixels).argmax(1))
    network.train(was_training)
    return torch.cat(predictions)


def score(predictions: Tensor, labels: Labels, num_classes: int) -> Scores:
    """Scores of predictions [N] against labels [N]."""
    pairs = labels * num_classes + predictions.cpu().numpy()
    counts = np.bincount(pairs, minlength=num_classes**2)
    return Scores(counts.reshape(num_classes, num_classes))


def memorised_and_recovered(predictions: Tensor, labels: NoisyLabels) -> tuple[float, float]:
    """Of the samples with a wrong label: the share predicted as that wrong label, and the share
    predicted as the true one.  nan where no label is wrong."""
    if not labels.mask.any():
        return float("nan"), float("nan")
    predicted = predictions.cpu().numpy()[labels.mask]
    memorised = (predicted == labels.noisy[labels.mask]).mean()
    recovered = (predicted == labels.clean[labels.mask]).mean()
    return float(memorised), float(recovered)


def is_tolerant(loss: str) -> bool:
    """Whether every part of the loss is tolerant to symmetric noise."""
    return all(part.tolerant for _, part in parse_loss(loss))


def budget_verdict(config: Config, memorised: float) -> str | None:
    """What a low share of memorised labels says about the budget, or None where it is not low."""
    if not memorised < HARDLY_MEMORISED:
        return None
    found = f"hardly any wrong label was memorised ({memorised:.1%})"
    if is_tolerant(config.loss):
        return (
            f"{found}: {config.loss} resists memorising, or the budget is too short to tell; "
            "only a ce run at the same settings says which"
        )
    return (
        f"{found} although {config.loss} does not resist memorising: this budget is too short to "
        "tell robust losses apart (more epochs or width, fewer images, no augmentation)"
    )


def load_network(run: Path, config: Config, data: Dataset) -> nn.Module:
    """The trained network of a run folder."""
    network = make_network(
        config.network, data.train_images.shape[1:], len(data.class_names), config.width
    )
    path = run / "model.safetensors"
    try:
        tensors, state = load_tensors(path)
        if not config.is_identity(state.get("config")):
            raise BadInput(f"{path} is another run's, not that of its config.json: train it again")
        network.load_state_dict(tensors)
    except FileNotFoundError:
        raise BadInput(f"{path} is missing: train the run (weights are not committed)") from None
    except RuntimeError as error:
        problem = one_line(error)[:200]
        raise BadInput(f"{path} does not fit the network of its config: {problem}") from None
    return network


def noisy_test_labels(config: Config, data: Dataset, labels: NoisyLabels) -> Labels:
    """The test labels corrupted by the training noise's matrix, as the report scored: with other
    draws than the training labels'."""
    draws = np.random.default_rng([config.seed, 1])
    return corrupt(data.test_labels, labels.transition, config.method, draws).noisy


def evaluate_run(
    run: Path, labels: str = "clean", data_dir: str | Path | None = None, download: bool = True
) -> tuple[Scores, Config, dict[str, Any]]:
    """Score the network of a finished run folder on 'clean' or 'noisy' test labels.

    Returns the scores, the run's config and its result.  Raises BadInput where a file of the run
    is missing or damaged.
    """
    if labels not in ("clean", "noisy"):
        raise BadInput(f"labels is {labels!r}; accepted: clean, noisy")
    if not run.is_dir():
        raise BadInput(f"there is no run folder {run}")
    config = read_config(run)
    result = read_result(run)
    data = load_dataset(config.dataset, data_dir, download)
    network = load_network(run, config, data)
    given = data.test_labels
    if labels == "noisy":
        given = noisy_test_labels(config, data, read_noise(run / "noise.npz"))
    scores = score(predict(network, data.test_images, data), given, len(data.class_names))
    return scores, config, result
