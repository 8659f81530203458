"""Probabilities that mean something: one temperature for a run, fitted without any true label.

A network trained on noisy labels is calibrated against noise, if at all.  How often it is right on
samples that it was not trained on is estimated from their given labels: cross-fitted heads learn
the noise matrix together with what each sample is (`apl.training.crossfit`), and the mean chance,
by sample and given label, of the class that the network names is its accuracy.  The temperature is
the one at which the network's mean confidence on these samples is that accuracy; it changes no
prediction.  docs/use.md says what this reaches, and what the likelihood of the given labels alone
does not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apl.config.config import Config
from apl.data.dataset import Dataset, Split
from apl.errors import BadInput
from apl.features.catalog import NONE, default_of
from apl.features.embed import featured
from apl.noise.labels import UNKNOWN
from apl.runs.run import Run
from apl.training.crossfit import Budget, CrossFit, cross_fit
from apl.training.machine import Machine
from apl.training.prepare import embedding, hold_out, prepare
from apl.training.use import NOT_CALIBRATED, Trained, load_run

COLDEST, HOTTEST = 0.05, 20.0
FIRST_ALONE = Budget(rounds=0)  # later rounds are too sure of themselves


def calibrate(
    path: Path, machine: Machine | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Fit the temperature of a finished run and keep it with the run.

    The training data must be at hand.

    Args:
        path: The run folder.
        machine: Where and how, None for what a `Machine` is by default.
        say: Gets a line of what is being done.

    Returns:
        What is kept with the run.

    Raises:
        BadInput: No labels were held out, or images have no features by which the heads could judge
            them.
    """
    machine = machine or Machine()
    run, trained = Run(path), load_run(path, machine)
    config = run.config
    data, held_out = held_out_of(config, prepare(config, machine))
    say(f"fitting the temperature on {len(held_out):,} given labels that were not trained on")
    fit = judged(config, data, held_out, machine)
    kept = fitted(trained.evaluator.logits(held_out.images), fit)
    run.keep_calibration(kept)
    return kept


def can_calibrate(runs: Sequence[Trained]) -> bool:
    """Whether `calibrate` would fit what some of several runs lack: all of them held labels out, or
    have test labels as given, and features by which these are judged."""
    held_out = all(run.config.select or run.config.dataset_sha256 for run in runs)
    judged_by = (
        run.inputs.kind != "images"
        or run.config.features != NONE
        or default_of(run.inputs.shape) != NONE
        for run in runs
    )
    return held_out and all(judged_by) and any(run.calibrated == NOT_CALIBRATED for run in runs)


def judged(config: Config, data: Dataset, held_out: Split, machine: Machine) -> CrossFit:
    """What cross-fitted heads say of the labels of samples that were trained on, and then of those
    that were not; the network has no say in it."""
    rows = _rows(config, data, held_out, machine)
    labels = np.concatenate([data.train.labels.given, held_out.labels.given])
    return cross_fit(rows, labels, data.num_classes, seed=config.seed, budget=FIRST_ALONE)


def fitted(logits: Tensor, fit: CrossFit) -> dict[str, Any]:
    """The calibration by a network's logits [N, K] of the samples that were not trained on, as a
    run keeps it."""
    count = len(logits)
    named = logits.argmax(1).cpu().numpy()
    accuracy = float(fit.posterior[-count:][np.arange(count), named].mean())
    temperature = temperature_for(logits.float().cpu(), accuracy)
    return {
        "temperature": temperature,
        "on": f"calibrated on {count:,} given labels that were not trained on, of which about "
        f"{fit.rate.estimate:.0%} are wrong: temperature {temperature:.2f}",
        "accuracy_estimated": accuracy,
        "noise_rate": fit.rate.estimate,
        "transition": fit.transition.tolist(),
    }


def temperature_for(logits: Tensor, accuracy: float) -> float:
    """The temperature at which the mean of the largest probabilities of logits [N, K] is this
    accuracy, from 0.05 to 20; by bisection, since the mean falls as the temperature rises."""
    low, high = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(50):
        middle = (low + high) / 2
        confidence = float((logits / math.exp(middle)).softmax(1).amax(1).mean())
        low, high = (middle, high) if confidence > accuracy else (low, middle)
    return math.exp((low + high) / 2)


def held_out_of(config: Config, data: Dataset) -> tuple[Dataset, Split]:
    """The data that were trained on, and samples with given labels that were not."""
    if config.select:
        return hold_out(data)
    if not data.digest:
        raise BadInput(
            f"{config.name} held out no given labels, and the test labels of {data.name} are true "
            "ones, which nobody has in practice: train it with --select noisy to calibrate it"
        )
    labelled = np.flatnonzero(data.test.labels.given != UNKNOWN)
    return data, data.test.take(labelled)


def _rows(config: Config, data: Dataset, held_out: Split, machine: Machine) -> Tensor:
    """Rows [N, F] of the samples that were trained on and then of those that were not: features
    of the run, the cells of a table, or of images the features that photos have."""
    parts = (data.train, held_out)
    if data.train.images.ndim == 4:
        how = embedding(config, machine)
        name = default_of(tuple(data.train.images.shape[1:]))
        how = dataclasses.replace(how, name=name, weights="", digest="")
        seen = featured(dataclasses.replace(data, test=held_out), how)
        if seen.train.images.ndim == 4:
            raise BadInput(
                f"the images of {data.name} have no features to judge labels by; accepted: photos "
                "in colour with pip install 'apl-noisy-labels[features]', or runs on features"
            )
        parts = (seen.train, seen.test)
    return torch.cat([part.images.float() for part in parts])
