"""Wrong labels found from one training, beside cleanlab's five folds of the same recipe.

    python benchmarks/find.py --collect [--cases ..] [--seeds 0,1,2]   trains, once for each file
    python benchmarks/find.py --folds [--cases ..] [--seeds 0]         cleanlab's five trainings
    python benchmarks/find.py [--out results/find]                     the table, from those files

The recipe is the preset `laptop` (MNIST: cnn4 of width 32): the first three epochs with CE, the
other seven with SCE.  The files lie in --folder; a killed run goes on where it was.  cleanlab is
needed for its own rows alone.  The data are looked for in $APL_DATA.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor, nn

from apl.config import Config, make_config
from apl.criteria import make_loss
from apl.data.dataset import Batches, Dataset
from apl.find import Evidence, LabelMonitor, find_issues
from apl.machine import cache_folder
from apl.networks import make_network
from apl.train import learning_rate, prepare

MNIST = {"dataset": "mnist", "network": "cnn4", "width": 32}
CASES: dict[str, dict[str, Any]] = {
    **{f"sym {rate}": {"noise": "sym", "rate": rate} for rate in (0.2, 0.4, 0.6)},
    **{f"asym {rate}": {"noise": "asym", "rate": rate} for rate in (0.2, 0.4)},
    **{name: {"noise": "human", "map": name} for name in ("aggre", "random1", "worse")},
    "mnist sym 0.4": {**MNIST, "noise": "sym", "rate": 0.4},
    "mnist asym 0.4": {**MNIST, "noise": "asym", "rate": 0.4},
    "digits sym 0.4": {"dataset": "digits", "noise": "sym", "rate": 0.4},
    "digits asym 0.4": {"dataset": "digits", "noise": "asym", "rate": 0.4},
}
WARM = 3  # epochs of CE before SCE
FOLDS = 5
Watch = Callable[[Tensor, Tensor, Tensor], None]


def fit(config: Config, data: Dataset, warm: int, watch: Watch | None = None) -> nn.Module:
    """A network trained as apl.train does, `warm` epochs with CE and the rest with SCE."""
    batches = Batches(data, config.batch_size, config.seed, config.augment, torch.device("cpu"))
    given = torch.from_numpy(data.train.labels.given)
    torch.manual_seed(config.seed)
    network = make_network(
        config.network, batches.images.shape[1:], data.num_classes, config.width
    ).train()
    ce = make_loss("ce", data.num_classes)
    sce = make_loss("sce", data.num_classes, alpha=0.1, beta=1.0)
    optimiser = torch.optim.SGD(
        network.parameters(),
        config.lr,
        config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )
    for epoch in range(config.epochs):
        criterion = ce if epoch < warm else sce
        for step, (chosen, images) in enumerate(batches.of(epoch)):
            logits = network(images)
            if watch:
                watch(chosen, logits, given[chosen])
            optimiser.param_groups[0]["lr"] = learning_rate(
                config, epoch, (step + 1) / len(batches)
            )
            optimiser.zero_grad()
            criterion(logits, given[chosen]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimiser.step()
    return network.eval()


def softmax(network: nn.Module, data: Dataset, images: Tensor) -> np.ndarray:
    """Probabilities [N, K] of uint8 images [N, H, W, C], in evaluation mode."""
    with torch.inference_mode():
        parts = [network(data.to_float(batch)).softmax(1) for batch in images.split(512)]
    return torch.cat(parts).numpy()


def collect(config: Config, file: Path) -> None:
    """One training, watched; its evidence and what it took."""
    data = prepare(config)
    labels = data.train.labels
    monitor = LabelMonitor(len(labels), data.num_classes)
    watching = 0.0

    def watch(chosen: Tensor, logits: Tensor, targets: Tensor) -> None:
        nonlocal watching
        began = time.perf_counter()
        monitor.update(chosen, logits, targets)
        watching += time.perf_counter() - began

    began = time.perf_counter()
    network = fit(config, data, WARM, watch)
    seconds = time.perf_counter() - began
    predicted = softmax(network, data, data.test.images).argmax(1)
    evidence = monitor.evidence
    save(
        file,
        given=labels.given,
        true=labels.true,
        log_probs=evidence.log_probs.astype(np.float32),
        early=evidence.early.astype(np.float32),
        visits=evidence.visits,
        seconds=seconds,
        watching=watching,
        accuracy=(predicted == data.test.labels.true).mean(),
    )


def cross_validate(config: Config, file: Path) -> None:
    """Out-of-fold probabilities of five plain trainings with CE, as cleanlab wants them."""
    data = prepare(config)
    labels = data.train.labels
    fold = np.random.default_rng(config.seed).permutation(len(labels)) % FOLDS
    probs = np.zeros((len(labels), data.num_classes), np.float32)
    began = time.perf_counter()
    for k in range(FOLDS):
        part = dataclasses.replace(data, train=data.train.take(np.flatnonzero(fold != k)))
        network = fit(config, part, config.epochs)
        probs[fold == k] = softmax(network, data, data.train.images[torch.from_numpy(fold == k)])
    seconds = time.perf_counter() - began
    save(file, given=labels.given, true=labels.true, probs=probs, seconds=seconds)


def save(file: Path, **arrays: Any) -> None:
    """Written beside and renamed, so that a killed run leaves no half file."""
    beside = file.with_suffix(".tmp.npz")
    np.savez_compressed(beside, **arrays)
    os.replace(beside, file)
    print(f"{file.name}: {float(arrays['seconds']):.0f} s", flush=True)


# ------------------------------------------------------------------------------------ scoring


def ours(file: Path) -> dict[str, Any]:
    """How well one training finds the wrong labels."""
    found = np.load(file)
    wrong = found["given"] != found["true"]
    evidence = Evidence(
        found["log_probs"].astype(float), found["early"].astype(float), found["visits"]
    )
    issues = find_issues(found["given"], evidence)
    differs = evidence.log_probs.argmax(1) != found["given"]
    rate = issues.noise_rate
    return {
        "wrong": wrong.mean(),
        "ap": average_precision_score(wrong, -issues.label_score),
        "auroc": roc_auc_score(wrong, -issues.label_score),
        "f1": f1_score(wrong, issues.is_label_issue),
        "f1_differs": f1_score(wrong, differs),
        "rate": rate.estimate,
        "rate_low": rate.low,
        "rate_high": rate.high,
        "test_accuracy": float(found["accuracy"]),
        "seconds": float(found["seconds"]),
        "watching": float(found["watching"] / found["seconds"]),
        "doubts": issues.doubts,
    }


def cleanlab(file: Path) -> dict[str, Any]:
    """How well cleanlab does with its five folds: each of its scores, its filter, and the plain
    rule that the prediction differs from the label; and `rank` on the same probabilities."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    found = np.load(file)
    given, probs = found["given"], found["probs"].astype(float)
    probs /= probs.sum(1, keepdims=True)
    wrong = given != found["true"]
    scores = {
        "self_confidence": get_label_quality_scores(given, probs, method="self_confidence"),
        "normalized_margin": get_label_quality_scores(given, probs, method="normalized_margin"),
        "adjusted_margin": get_label_quality_scores(
            given, probs, method="normalized_margin", adjust_pred_probs=True
        ),
    }
    ap = {name: average_precision_score(wrong, -score) for name, score in scores.items()}
    issues = find_issues(given, probs)
    return {
        "cleanlab_ap": max(ap.values()),
        "cleanlab_score": max(ap, key=lambda name: ap[name]),
        "cleanlab_auroc": max(roc_auc_score(wrong, -score) for score in scores.values()),
        "cleanlab_f1": f1_score(wrong, find_label_issues(given, probs)),
        "folds_f1_differs": f1_score(wrong, probs.argmax(1) != given),
        "folds_our_ap": average_precision_score(wrong, -issues.label_score),
        "folds_our_f1": f1_score(wrong, issues.is_label_issue),
        "folds_seconds": float(found["seconds"]),
    }


COLUMNS = {
    "case": "case",
    "seed": "seed",
    "wrong": "wrong",
    "ap": "AP",
    "auroc": "AUROC",
    "f1": "F1 of the cut",
    "f1_differs": "F1 of `differs`",
    "rate": "noise rate",
    "interval": "interval",
    "cleanlab_ap": "cleanlab AP",
    "cleanlab_f1": "cleanlab F1",
    "folds_f1_differs": "5-fold F1 of `differs`",
    "seconds": "s",
    "folds_seconds": "5-fold s",
}


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, a row a case and seed."""
    lines = [f"| {' | '.join(COLUMNS.values())} |", f"|{' --- |' * len(COLUMNS)}"]
    for row in rows:
        shown = {**row, "interval": f"{row['rate_low']:.3f}-{row['rate_high']:.3f}"}
        for name, value in row.items():
            if isinstance(value, float):
                shown[name] = f"{value:.0f}" if name.endswith("seconds") else f"{value:.3f}"
        lines.append(f"| {' | '.join(str(shown.get(name, '')) for name in COLUMNS)} |")
    return "\n".join(lines)


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """The row as JSON holds it: Python's numbers, None for what was not measured."""
    numbers = {k: float(v) for k, v in row.items() if isinstance(v, (float, np.floating))}
    return {**row, **{k: v if np.isfinite(v) else None for k, v in numbers.items()}}


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a case: the mean over its seeds of what all of them measured."""
    averaged = []
    for case in dict.fromkeys(row["case"] for row in rows):
        seeds = [row for row in rows if row["case"] == case]
        shared = [
            name for name in seeds[0] if all(isinstance(row.get(name), float) for row in seeds)
        ]
        average = {name: float(np.mean([row[name] for row in seeds])) for name in shared}
        averaged.append({"case": case, "seed": f"mean of {len(seeds)}", **average})
    return averaged


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collect", action="store_true", help="train once for each case and seed")
    parser.add_argument("--folds", action="store_true", help="train five folds for each")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--folder", type=Path, default=cache_folder() / "find", help="where evidence is kept"
    )
    parser.add_argument("--out", type=Path, help="a folder for find.json and find.md")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    rows = []
    for case in given.cases.split(","):
        for seed in map(int, given.seeds.split(",")):
            config = make_config("laptop", seed=seed, **CASES[case])
            name = f"{case.replace(' ', '_')}_{seed}.npz"
            once, folds = given.folder / f"once_{name}", given.folder / f"folds_{name}"
            if given.collect and not once.exists():
                collect(config, once)
            if given.folds and not folds.exists():
                cross_validate(config, folds)
            if not (given.collect or given.folds) and once.exists():
                beside = cleanlab(folds) if folds.exists() else {}
                row = {"case": case, "seed": seed, **ours(once), **beside}
                rows.append(plain(row))
    shown = table([*rows, *means(rows)])
    if rows:
        print(shown)
    if rows and given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "find.json").write_text(json.dumps(rows, indent=1) + "\n")
        (given.out / "find.md").write_text(shown + "\n")


if __name__ == "__main__":
    main()
