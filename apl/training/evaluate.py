"""What a network says of images, what that scores, and the result of a run."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from apl.config.config import Config
from apl.data.dataset import Dataset
from apl.errors import BadInput, Interrupted, one_line, require
from apl.features.catalog import NONE
from apl.features.embed import featured
from apl.noise.draw import corrupt
from apl.noise.labels import IntArray, Labels
from apl.runs.run import WEIGHTS, Run
from apl.runs.scores import CAUSES, Result, Scores, memorised_and_recovered, score, too_short
from apl.training.ddp import ALONE, Group
from apl.training.listener import never
from apl.training.machine import Machine
from apl.training.prepare import build_network, check_code, data_of, embedding

BATCH = 512  # images at a time where no gradient is wanted


@dataclass(frozen=True)
class Evaluator:
    """A network asked about images in evaluation mode.

    Attributes:
        network: The network that is asked.
        data: The data set whose mean and std normalise the images.
        config: Where it says that the network was trained on crops, the middle of an image counts.
        should_stop: Asked before each batch, and True raises Interrupted.
        group: The processes that share the images out among them.
    """

    network: nn.Module
    data: Dataset
    config: Config
    should_stop: Callable[[], bool] = never
    group: Group = ALONE

    def logits(self, images: Tensor) -> Tensor:
        """The logits [N, K] of images.

        Args:
            images: uint8 [N, H, W, C], or the rows [N, F] of a table.
        """
        return self.group.whole(self._of_share(images), len(images))

    def predict(self, images: Tensor) -> IntArray:
        """The class [N] that the network gives each image.

        Args:
            images: As for `logits`.
        """
        classes = self._of_share(images).argmax(1)
        predicted: IntArray = self.group.whole(classes, len(images)).cpu().numpy()
        return predicted

    def scores(self) -> Scores:
        """Scores on the test images, by true labels where all are known, else by those given."""
        labels = self.data.test.labels
        against = labels.true if labels.known.all() else labels.given
        return score(self.predict(self.data.test.images), against, self.data.num_classes)

    def _of_share(self, images: Tensor) -> Tensor:
        """The logits of this process's share of the images."""
        network, crop = self.network, (self.config.crop_size, self.config.crop == "plain")
        device = next(network.parameters()).device
        was_training = network.training
        parts, stopped = [], False
        network.eval()
        with torch.inference_mode():
            for batch in images[self.group.share(0, len(images))].split(BATCH):
                stopped = self.should_stop()
                if stopped:
                    break
                parts.append(network(self.data.to_float(batch.to(device), *crop)))
        network.train(was_training)
        if self.group.any(stopped):
            raise Interrupted
        return torch.cat(parts)


def outputs(network: nn.Module, images: Tensor, data: Dataset, config: Config) -> Tensor:
    """`Evaluator.logits` as 0.2 had it; it goes in 1.0."""
    told = "outputs(...) is Evaluator(network, data, config).logits(images) since 0.3"
    warnings.warn(f"{told}; it goes in 1.0", DeprecationWarning, stacklevel=2)
    return Evaluator(network, data, config).logits(images)


def judge(
    config: Config, data: Dataset, scores: Scores, on_training: IntArray, reason: str
) -> Result:
    """The result of a run: its scores on the test images, what it predicts on the training images
    [N], and why it stopped, if it did."""
    labels = data.train.labels
    memorised, recovered = memorised_and_recovered(on_training, labels)
    if not reason:
        one_class = scores.collapsed_into is not None
        reason = "one-class" if one_class else "chance" if scores.at_chance else ""
    return Result(
        collapsed=bool(reason),
        reason=reason,
        too_short=too_short(config.loss, memorised),
        test_accuracy=scores.accuracy,
        train_accuracy=score(on_training, labels.given, data.num_classes).accuracy,
        memorised=memorised,
        recovered=recovered,
        corrupted=int(labels.wrong.sum()),
        class_names=list(data.class_names),
        confusion=None if scores.confusion is None else scores.confusion.tolist(),
        transition=None if labels.transition is None else labels.transition.tolist(),
        on="true" if data.test.labels.known.all() else "given",
        per_class_accuracy=scores.per_class,
    )


def warning(reason: str, detail: str, means: str = "") -> str:
    """The line that says why a training fails: a key of CAUSES, what was seen, and what it means,
    if not what CAUSES says."""
    return f"{reason}: {detail}; {means or CAUSES[reason]}"


def load_network(run: Run, config: Config, data: Dataset, machine: Machine) -> nn.Module:
    """The trained network of a run folder."""
    check_code(config, machine, (config.network, config.features))
    plain = config if data.features else dataclasses.replace(config, weights="")
    network = build_network(plain, data, machine)
    try:
        network.load_state_dict(run.weights(config))
    except RuntimeError as error:
        problem = one_line(error)[:200]
        raise BadInput(
            f"{run.file(WEIGHTS)} does not fit the network of its config: {problem}"
        ) from None
    return network


def noisy_test_labels(config: Config, data: Dataset, labels: Labels) -> IntArray:
    """The test labels corrupted by the training noise's matrix, as the report scored: with other
    draws than the training labels'."""
    if labels.transition is None:
        raise BadInput("the noise of this run has no known matrix: score on its clean test labels")
    draws = np.random.default_rng([config.seed, 1])
    return corrupt(data.test.labels.given, labels.transition, config.method, draws).given


def evaluate_run(
    path: Path, labels: str = "clean", machine: Machine | None = None
) -> tuple[Scores, Config, Result]:
    """Score the network of a finished run folder on 'clean' or 'noisy' test labels.

    Returns the scores, the run's config and its result.  Raises BadInput where a file of the run
    is missing or damaged.
    """
    require(labels in ("clean", "noisy"), "labels", labels, "clean, noisy")
    if not path.is_dir():
        raise BadInput(f"there is no run folder {path}")
    machine = machine or Machine()
    run = Run(path)
    config, result = run.config, run.result
    data = data_of(config, machine)
    if config.features != NONE:
        data = featured(data, embedding(config, machine), train=False)
    network = load_network(run, config, data, machine)
    evaluator = Evaluator(network, data, config)
    if labels == "clean":
        return evaluator.scores(), config, result
    noisy = noisy_test_labels(config, data, run.labels)
    predicted = evaluator.predict(data.test.images)
    return score(predicted, noisy, data.num_classes), config, result
