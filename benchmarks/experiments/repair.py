"""What repaired labels are worth: a head on CIFAR-10's features, pretrained on ImageNet, trained on
them, beside the same head on the true labels, and CE and NCE+RCE on the labels as given.

    python benchmarks/experiments/repair.py [--cases ..] [--seeds 0,1,2] [--methods ..]

The recipe is the preset laptop's with `--features lite0`: 10,000 training images, all 10,000 clean
test images, accuracy after the last epoch.  CE and NCE+RCE have the linear layer of the preset,
the other two the settings of `--repair`.  A row of --out is written as soon as it is measured, and
none is measured twice.  The data are looked for in $APL_DATA.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from find import CASES
from torch import Tensor

from apl.config.config import make_config
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.prepare import build_network, data_of, find_criterion, prepare
from apl.training.train import train

NAMES = ("sym 0.4", "sym 0.6", "asym 0.4", "aggre", "worse")
ALL: dict[str, dict[str, Any]] = {
    "clean": {"noise": "none"},
    **{name: CASES[name] for name in NAMES},
    "sym 0.8": {"noise": "sym", "rate": 0.8},
}
METHODS = ("repair", "true", "nce_rce", "ce")
BARS = {"clean": 0.5, "aggre": 1.5, "asym 0.4": 2.5, "sym 0.4": 3.5, "sym 0.6": 5, "worse": 5}
COLUMNS = (
    *("case", "seed", "method", "settings", "accuracy", "wrong", "rate", "moved"),
    *("right_before", "right_after", "cpu_seconds"),
)
QUIET = Listener(on_message=ignore)


def measured(case: str, seed: int, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One training: its accuracy on clean test labels, and of repaired labels how many are right
    before and after."""
    loss = "repair" if method == "true" else method
    config = make_config(
        "laptop", features="lite0", seed=seed, loss=loss, eval_every=20, **ALL[case], **settings
    )
    machine = Machine(threads=1)
    data = prepare(config, machine, data_of(config, machine))
    began, labels = time.process_time(), data.train.labels
    criterion = find_criterion(config, data)
    if method == "true":

        def criterion(logits: Tensor, targets: Tensor, samples: Tensor) -> Tensor:
            true = torch.from_numpy(labels.true)
            return torch.nn.functional.cross_entropy(logits, true[samples])

        criterion.wants = ("samples",)  # type: ignore[attr-defined]
    network = build_network(config, data, machine)
    result = train(config, machine=machine, criterion=criterion, network=network, listener=QUIET)
    found = {"accuracy": result.test_accuracy, "wrong": labels.wrong.mean()}
    if method == "repair":
        repaired = criterion.targets.argmax(1).numpy()
        about = result.repaired or {}
        found |= {"rate": about["noise_rate"], "moved": about["moved"]}
        found |= {"right_before": np.mean(labels.given == labels.true)}
        found |= {"right_after": np.mean(repaired == labels.true)}
    return {**found, "cpu_seconds": time.process_time() - began}


def table(rows: list[dict[str, str]]) -> str:
    """A Markdown table: a row a case, the means over its seeds in percent."""
    head = ("labels", "seeds", "CE", "NCE+RCE", "repaired", "true labels", "behind true", "bar")
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    true = {row["seed"]: 100 * float(row["accuracy"]) for row in rows if row["method"] == "true"}
    for case in ALL:
        of = {
            method: {
                row["seed"]: 100 * float(row["accuracy"])
                for row in rows
                if row["case"] == case and row["method"] == method
            }
            for method in METHODS
        }
        seeds = sorted({*of["repair"]} & {*true})
        if not seeds:
            continue
        means = [np.mean([*of[m].values()]) if of[m] else np.nan for m in ("ce", "nce_rce")]
        repaired, best = (np.mean([part[s] for s in seeds]) for part in (of["repair"], true))
        numbers = [f"{value:.1f}" for value in (*means, repaired, best, best - repaired)]
        bar = f"{BARS[case]} at most" if case in BARS else "60 at least"
        lines.append(f"| {' | '.join([case, str(len(seeds)), *numbers, bar])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(ALL))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER")
    parser.add_argument("--out", type=Path, default=Path("results/repair/repair.csv"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: float(value) for name, _, value in (s.partition("=") for s in given.set)}
    written = ",".join(given.set)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for seed in map(int, given.seeds.split(",")):
        for case in given.cases.split(","):
            for method in given.methods.split(","):
                of = "clean" if method == "true" else case  # what labels are given says nothing
                key = {"case": of, "seed": str(seed), "method": method, "settings": written}
                if any(all(row[n] == v for n, v in key.items()) for row in read(given.out)):
                    continue
                row = {**key, **measured(of, seed, method, settings)}
                fresh = not given.out.exists()
                with given.out.open("a", encoding="utf-8", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
                    if fresh:
                        writer.writeheader()
                    writer.writerow(
                        {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
                    )
                print(row, flush=True)
    rows = [row for row in read(given.out) if row["settings"] == written]
    (given.out.parent / "repair.md").write_text(table(rows) + "\n", encoding="utf-8")
    print(table(rows))


def read(file: Path) -> list[dict[str, str]]:
    """The rows that are measured."""
    if not file.exists():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


if __name__ == "__main__":
    main()
