"""How far probabilities are from the truth, with and without a temperature: ECE with 15 bins on
CIFAR-10's clean test labels, which take no part in the fit.

    python benchmarks/experiments/calibration.py --on features --seeds 1,2 --out results/calibration

Trains CE, SCE and NCE+RCE by the preset laptop (10,000 images, a tenth held out with its labels as
given) under 40 % symmetric and asymmetric noise and people's worst labels; what is trained already
is taken as it is.  `likelihood` is the other way to a temperature: by the likelihood of the
held-out given labels, with the noise matrix of the network's own probabilities (EM).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch

from apl.config.config import make_config
from apl.training.calibration import fitted, held_out_of, judged
from apl.training.crossfit import explain
from apl.training.machine import Machine
from apl.training.prepare import prepare
from apl.training.train import train
from apl.training.use import load_run

NOISES = {
    "sym .4": {"noise": "sym", "rate": 0.4},
    "asym .4": {"noise": "asym", "rate": 0.4},
    "worse": {"noise": "human", "map": "worse"},
}
LOSSES = ("ce", "sce", "nce_rce")
BINS = 15
GRID = np.exp(np.linspace(np.log(0.05), np.log(20), 60))


def ece(logits: torch.Tensor, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Expected calibration error of the largest probability (Guo et al. 2017, equation 3)."""
    confidence, named = (logits / temperature).softmax(1).max(1)
    right = named.numpy() == labels
    bins = np.minimum((confidence.numpy() * BINS).astype(int), BINS - 1)
    gaps = [
        abs(right[bins == k].mean() - confidence.numpy()[bins == k].mean()) * (bins == k).mean()
        for k in range(BINS)
        if (bins == k).any()
    ]
    return float(sum(gaps))


def by_likelihood(logits: torch.Tensor, given: np.ndarray) -> float:
    """The temperature, of a grid, at which the given labels are likeliest."""
    best = []
    for temperature in GRID:
        said = (logits / temperature).softmax(1).double().numpy()
        _, transition = explain(said, given)
        best.append(np.log((said * transition.T[given]).sum(1).clip(1e-12)).mean())
    return float(GRID[int(np.argmax(best))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--on", default="features", choices=("features", "pixels"))
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--out", type=Path, default=Path("results/calibration"))
    asked = parser.parse_args()
    machine = Machine(device="cpu")
    more = {"features": "lite0", "eval_every": 20} if asked.on == "features" else {}
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / f"{asked.on}.csv"
    rows: list[dict[str, object]] = []
    for seed in map(int, asked.seeds.split(",")):
        for noise, settings in NOISES.items():
            fit = None
            for loss in LOSSES:
                config = make_config(
                    "laptop", dataset="cifar10", loss=loss, seed=seed, select="noisy",
                    **settings, **more,
                )  # fmt: skip
                run = asked.out / "runs" / asked.on / config.name
                train(config, run, machine=machine)
                data, held_out = held_out_of(config, prepare(config, machine))
                fit = fit or judged(config, data, held_out, machine)  # the loss has no say in it
                trained = load_run(run, machine)
                held = trained.evaluator.logits(held_out.images)
                test = trained.evaluator.logits(data.test.images)
                clean = data.test.labels.true
                kept = fitted(held, fit)
                other = by_likelihood(held, held_out.labels.given)
                rows.append(
                    {
                        "on": asked.on,
                        "noise": noise,
                        "loss": loss,
                        "seed": seed,
                        "accuracy": round(float((test.argmax(1).numpy() == clean).mean()), 4),
                        "accuracy_estimated": round(kept["accuracy_estimated"], 4),
                        "noise_rate": round(kept["noise_rate"], 4),
                        "temperature": round(kept["temperature"], 3),
                        "ece_before": round(ece(test, clean), 4),
                        "ece": round(ece(test, clean, kept["temperature"]), 4),
                        "temperature_likelihood": round(other, 3),
                        "ece_likelihood": round(ece(test, clean, other), 4),
                        "ece_best": round(min(ece(test, clean, t) for t in GRID), 4),
                    }
                )
                print(rows[-1], flush=True)
                with path.open("w", newline="") as file:
                    writer = csv.DictWriter(file, list(rows[0]))
                    writer.writeheader()
                    writer.writerows(rows)


if __name__ == "__main__":
    main()
