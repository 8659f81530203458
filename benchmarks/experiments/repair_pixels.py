"""Labels repaired from pixels alone, which `--repair` refuses: what five folds of the preset laptop
make of them on CIFAR-10, and what a network that is trained on that learns.

    python benchmarks/experiments/repair_pixels.py [--cases ..] [--seed 0] [--out FILE.csv]

In each fold NCE+RCE is trained on the labels as given; what the five say of images that they have
not seen, and a noise matrix by EM, make the chance of each true class; on these soft targets the
same network is trained with CE.  Beside it NCE+RCE on the labels as given.  Last epoch, 10,000
clean test labels.  The data are looked for in $APL_DATA.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from find import CASES
from torch import Tensor

from apl.config.config import Config, make_config
from apl.data.dataset import Dataset
from apl.training.crossfit import explain, stratified
from apl.training.evaluate import Evaluator
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.prepare import build_network, data_of, prepare
from apl.training.train import train

NAMES = ("sym 0.4", "asym 0.4", "worse")
FOLDS = 5
MACHINE = Machine(threads=1)
QUIET = Listener(on_message=ignore)


def unseen(config: Config, data: Dataset) -> np.ndarray:
    """The probabilities [N, K] of each training image by a network that has not seen it."""
    fold = stratified(data.train.labels.given, FOLDS, config.seed)
    found = np.zeros((len(fold), data.num_classes))
    for k in range(FOLDS):
        part = dataclasses.replace(data, train=data.train.take(np.flatnonzero(fold != k)))
        network = build_network(config, part, MACHINE)
        train(config, machine=MACHINE, data=part, network=network, listener=QUIET)
        images = data.train.images[np.flatnonzero(fold == k)]
        found[fold == k] = Evaluator(network, part, config).logits(images).softmax(1).numpy()
    return found


def measured(case: str, seed: int) -> dict[str, Any]:
    """One case: labels that are right before and after, and what is learned from either."""
    usual = {"dataset": "cifar10", "loss": "nce_rce", "seed": seed, "eval_every": 10}
    noisy = make_config("laptop", **usual, **CASES[case])
    data = prepare(noisy, MACHINE, data_of(noisy, MACHINE))
    # The labels are noisy already, and the images chosen.
    robust = make_config("laptop", **usual, noise="none", train_size=0)
    labels = data.train.labels
    posterior, _ = explain(unseen(robust, data), labels.given)
    targets = torch.from_numpy(posterior).float()

    def soft(logits: Tensor, given: Tensor, samples: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits, targets[samples])

    soft.wants = ("samples",)  # type: ignore[attr-defined]
    again = train(robust, machine=MACHINE, data=data, criterion=soft, listener=QUIET)
    plain = train(robust, machine=MACHINE, data=data, listener=QUIET)
    return {
        "case": case,
        "seed": seed,
        "right_before": float(np.mean(labels.given == labels.true)),
        "right_after": float(np.mean(posterior.argmax(1) == labels.true)),
        "nce_rce": plain.test_accuracy,
        "repaired": again.test_accuracy,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(NAMES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/repair-pixels.csv"))
    asked = parser.parse_args()
    rows = []
    for case in asked.cases.split(","):
        rows.append(measured(case, asked.seed))
        print(rows[-1], flush=True)
        with open(asked.out, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
