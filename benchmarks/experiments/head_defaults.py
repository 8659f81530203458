"""Step, weight decay and dropout of the heads on features, chosen by held-out *given* labels.

    python benchmarks/experiments/head_defaults.py --texts banking77_train.csv
        [--heads linear,mlp] [--seeds 10] [--out FOLDER] [--table]

2,500 images of CIFAR-10 (`lite0`, pretrained on ImageNet) and 2,310 questions of Banking77
(`tfidf`), clean and with wrong labels of our own draws, three losses.  A tenth of the given labels
is held out; no true label and no test label is looked at.  Each training is a line of rows.jsonl in
--out as soon as it is done; what is there is not trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from apl import load_data, make_config
from apl.data.dataset import Dataset
from apl.data.folders import cache_folder
from apl.runs.scores import VALIDATION
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.train import train

LOSSES = ("ce", "gce", "nce_rce")
CLEAN, HALF = {"noise": "none"}, {"noise": "sym", "rate": 0.4}
NOISES: dict[str, dict[str, dict[str, Any]]] = {
    "CIFAR-10": {"clean": CLEAN, "sym 0.4": HALF, "asym 0.4": {"noise": "asym", "rate": 0.4}},
    "Banking77": {"clean": CLEAN, "sym 0.4": HALF},
}
FEATURES: dict[str, dict[str, Any]] = {
    "CIFAR-10": {"features": "lite0", "train_size": 2500},
    "Banking77": {"features": "tfidf", "train_size": 2310},
}
CANDIDATES = [  # lr, weight decay, dropout
    *((lr, decay, 0.0) for lr in (0.005, 0.02, 0.08) for decay in (1e-4, 1e-3, 5e-3)),
    (0.02, 1e-3, 0.5),
]
CHOSEN = (0.02, 1e-3, 0.0)
KEYS = ("head", "data", "noise", "loss", "seed", "lr", "weight_decay", "dropout")


def held_out(data: Dataset, settings: dict[str, Any]) -> float:
    """The share of held-out given labels that a head predicts after its last epoch."""
    config = make_config("laptop", dataset=data, select="noisy", eval_every=20, **settings)
    rows: list[dict[str, float]] = []
    train(
        config,
        data=data,
        machine=Machine(threads=1, device="cpu"),
        listener=Listener(on_epoch=lambda row: rows.append(dict(row)), on_message=ignore),
    )
    return rows[-1][VALIDATION]


def table(lines: list[dict[str, Any]]) -> str:
    """A Markdown table of each head: a row a candidate, the mean over all losses, data and noises
    of what it loses against the best candidate of each, the worst of that, and by data; where all
    candidates were trained, and none of a head of which not all were."""
    shown = []
    for head in dict.fromkeys(line["head"] for line in lines):
        of = [line for line in lines if line["head"] == head]
        trained = Counter(tuple(line[name] for name in KEYS[1:5]) for line in of)
        whole = {key for key, count in trained.items() if count == len(CANDIDATES)}
        of = [line for line in of if tuple(line[name] for name in KEYS[1:5]) in whole]
        if not of:
            continue
        best: dict[tuple[Any, ...], float] = {}
        for line in of:
            key = tuple(line[name] for name in KEYS[1:5])
            best[key] = max(best.get(key, 0.0), line["held_out"])
        shown += [
            f"| {head}: lr | weight decay | dropout | behind the best | at most | "
            f"{' | '.join(NOISES)} |",
            f"|{' --- |' * (5 + len(NOISES))}",
        ]
        for candidate in CANDIDATES:
            part = [li for li in of if (li["lr"], li["weight_decay"], li["dropout"]) == candidate]
            if not part:
                continue
            lost = [100 * (best[tuple(li[n] for n in KEYS[1:5])] - li["held_out"]) for li in part]
            by_data = [
                f"{np.mean([100 * li['held_out'] for li in part if li['data'] == name]):.1f}"
                for name in NOISES
            ]
            mark = "**" if candidate == CHOSEN else ""
            cells = [*map(str, candidate), f"{mark}{np.mean(lost):.1f}{mark}", f"{max(lost):.1f}"]
            shown.append(f"| {' | '.join(cells + by_data)} |")
        shown.append("")
    return "\n".join(shown).rstrip()


def main() -> None:
    """Train what lacks, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", help="banking77_train.csv")
    parser.add_argument("--heads", default="linear,mlp")
    parser.add_argument("--seeds", default="10")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--out", type=Path, default=cache_folder() / "head-defaults")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    record = given.out / "rows.jsonl"
    lines = [json.loads(line) for line in record.open()] if record.exists() else []
    done = {tuple(line[name] for name in KEYS) for line in lines}
    sources: dict[str, Dataset] = {}
    if not given.table:
        cifar = load_data("cifar10")
        one = cifar.test.take(np.arange(1))  # nothing is tested
        sources["CIFAR-10"] = dataclasses.replace(cifar, test=one)
        if given.texts:
            sources["Banking77"] = load_data(given.texts, label_column="category", say=ignore)
    grid = itertools.product(
        given.heads.split(","), sources, LOSSES, map(int, given.seeds.split(","))
    )
    for head, name, loss, seed in grid:
        for (noise, how), (lr, decay, dropout) in itertools.product(
            NOISES[name].items(), CANDIDATES
        ):
            key = (head, name, noise, loss, seed, lr, decay, dropout)
            if key in done:
                continue
            asked = {"network": head, "loss": loss, "seed": seed, "lr": lr, **how, **FEATURES[name]}
            asked |= {"weight_decay": decay, "dropout": dropout}
            lines.append(
                {**dict(zip(KEYS, key, strict=True)), "held_out": held_out(sources[name], asked)}
            )
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    print(table(lines))
    (given.out / "heads.md").write_text(table(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
