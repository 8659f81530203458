"""Wrong labels found from one training, beside cleanlab's five folds of the same recipe.

    python benchmarks/experiments/find.py ...
        --collect [--cases ..] [--seeds 0,1,2]   trains, once for each file
        --folds [--cases ..] [--seeds 0]         cleanlab's five trainings
            [--epochs 4]                         fewer epochs: weaker networks, sooner
        --same [--out results/find]              both judge these: folds.jsonl and folds.md
        --own                                    own data: small, many classes
        [--out results/find [--pictures]]        the table, from those files

The recipe is that of `apl.find_mislabelled`, the preset `laptop` (MNIST: cnn4 of width 32): the
first three epochs with CE, the other seven with SCE; cleanlab's trainings have CE alone, and all
else alike.  The files lie in --folder; a killed run goes on where it was.  cleanlab is
needed for its own rows alone.  The data are looked for in $APL_DATA.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_auc_score,
)
from torch import Tensor, nn

from apl import load_data
from apl.config.config import Config
from apl.data.dataset import Dataset
from apl.data.folders import cache_folder
from apl.detect.evidence import Evidence, find_issues
from apl.detect.monitor import LabelMonitor
from apl.detect.search import find_mislabelled, search_config
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.prepare import build_network, prepare
from apl.training.train import train

MNIST = {"dataset": "mnist", "train_size": 10_000, "epochs": 10, "eval_every": 2}
CASES: dict[str, dict[str, Any]] = {
    **{f"sym {rate}": {"noise": "sym", "rate": rate} for rate in (0.2, 0.4, 0.6)},
    **{f"asym {rate}": {"noise": "asym", "rate": rate} for rate in (0.2, 0.4)},
    **{name: {"noise": "human", "map": name} for name in ("aggre", "random1", "worse")},
    "mnist sym 0.4": {**MNIST, "noise": "sym", "rate": 0.4},
    "mnist asym 0.4": {**MNIST, "noise": "asym", "rate": 0.4},
    "digits sym 0.4": {"dataset": "digits", "noise": "sym", "rate": 0.4},
    "digits asym 0.4": {"dataset": "digits", "noise": "asym", "rate": 0.4},
}
FOLDS = 5
FEW_TESTED = 10
ONE_THREAD = Machine(threads=1)


class Timed(LabelMonitor):
    """A monitor that knows what it costs."""

    seconds = 0.0

    def update(self, indices: Tensor, logits: Tensor, targets: Tensor) -> None:
        began = time.perf_counter()
        super().update(indices, logits, targets)
        self.seconds += time.perf_counter() - began


def config_of(case: str, seed: int, **more: Any) -> Config:
    """As `apl.find_mislabelled` has it for the case."""
    settings = {"seed": seed, **CASES[case], **more}
    return search_config("laptop", load_data(settings.pop("dataset", "cifar10")), settings)


def collect(config: Config, file: Path) -> None:
    """One training, watched; its evidence and what it took."""
    data = prepare(config)
    labels = data.train.labels
    monitor = Timed(len(labels), data.num_classes, curves=True)
    began = time.perf_counter()
    result = train(config, machine=ONE_THREAD, listener=monitor.listener)
    evidence = monitor.evidence
    save(
        file,
        given=labels.given,
        true=labels.true,
        log_probs=evidence.log_probs.astype(np.float32),
        early=evidence.early.astype(np.float32),
        visits=evidence.visits,
        seconds=time.perf_counter() - began,
        watching=monitor.seconds,
        accuracy=result.test_accuracy,
    )


def cross_validate(config: Config, file: Path, epochs: int) -> None:
    """Out-of-fold probabilities of five plain trainings with CE, as cleanlab wants them."""
    data = prepare(config)
    labels = data.train.labels
    fold = np.random.default_rng(config.seed).permutation(len(labels)) % FOLDS
    probs = np.zeros((len(labels), data.num_classes), np.float32)
    plain = dataclasses.replace(
        config, noise="none", rate=0.0, map="", train_size=0, epochs=epochs, eval_every=epochs
    )
    few = data.test.take(np.arange(FEW_TESTED))  # nothing here depends on what tests say
    began = time.perf_counter()
    for k in range(FOLDS):
        part = dataclasses.replace(data, train=data.train.take(np.flatnonzero(fold != k)), test=few)
        torch.manual_seed(config.seed)
        network = build_network(config, data, ONE_THREAD)
        train(plain, machine=ONE_THREAD, data=part, network=network)
        probs[fold == k] = softmax(network, data, data.train.images[torch.from_numpy(fold == k)])
    seconds = time.perf_counter() - began
    save(file, given=labels.given, true=labels.true, probs=probs, seconds=seconds, epochs=epochs)


def softmax(network: nn.Module, data: Dataset, images: Tensor) -> np.ndarray:
    """Probabilities [N, K] of uint8 images [N, H, W, C], in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        parts = [network(data.to_float(batch)).softmax(1) for batch in images.split(512)]
    return torch.cat(parts).numpy()


def save(file: Path, **arrays: Any) -> None:
    """Written beside and renamed, so that a killed run leaves no half file."""
    beside = file.with_suffix(".tmp.npz")
    np.savez_compressed(beside, **arrays)
    os.replace(beside, file)
    print(f"{file.name}: {float(arrays['seconds']):.0f} s", flush=True)


# ------------------------------------------------------------------------------------ scoring


def evidence_in(found: Any) -> Evidence:
    """What a file of one training holds."""
    return Evidence(found["log_probs"].astype(float), found["early"].astype(float), found["visits"])


def ours(file: Path) -> dict[str, Any]:
    """How well one training finds the wrong labels."""
    found = np.load(file)
    wrong = found["given"] != found["true"]
    evidence = evidence_in(found)
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


def scores_of(found: Any) -> dict[str, np.ndarray]:
    """cleanlab's three scores of what a file of five folds holds."""
    from cleanlab.rank import get_label_quality_scores

    given, probs = found["given"], found["probs"].astype(float)
    probs /= probs.sum(1, keepdims=True)
    return {
        "self_confidence": get_label_quality_scores(given, probs, method="self_confidence"),
        "normalized_margin": get_label_quality_scores(given, probs, method="normalized_margin"),
        "adjusted_margin": get_label_quality_scores(
            given, probs, method="normalized_margin", adjust_pred_probs=True
        ),
    }


def cleanlab(file: Path) -> dict[str, Any]:
    """How well cleanlab does with its five folds: each of its scores, its filter, and the plain
    rule that the prediction differs from the label."""
    from cleanlab.filter import find_label_issues

    found = np.load(file)
    given, probs = found["given"], found["probs"].astype(float)
    wrong = given != found["true"]
    scores = scores_of(found)
    ap = {name: average_precision_score(wrong, -score) for name, score in scores.items()}
    return {
        "cleanlab_ap": max(ap.values()),
        "cleanlab_score": max(ap, key=lambda name: ap[name]),
        "cleanlab_auroc": max(roc_auc_score(wrong, -score) for score in scores.values()),
        "cleanlab_f1": f1_score(wrong, find_label_issues(given, probs)),
        "folds_f1_differs": f1_score(wrong, probs.argmax(1) != given),
        "folds_seconds": float(found["seconds"]),
    }


def same(file: Path) -> dict[str, Any]:
    """How well `find_issues` does on what a file of five folds holds, beside cleanlab."""
    found = np.load(file)
    wrong = found["given"] != found["true"]
    issues = find_issues(found["given"], found["probs"])
    theirs = cleanlab(file)
    return {
        "wrong": wrong.mean(),
        "right": (found["probs"].argmax(1) == found["true"]).mean(),
        "epochs": int(found["epochs"]),
        "ap": average_precision_score(wrong, -issues.label_score),
        "f1": f1_score(wrong, issues.is_label_issue),
        **{name: theirs[name] for name in ("cleanlab_ap", "cleanlab_score", "cleanlab_f1")},
        "f1_differs": theirs["folds_f1_differs"],
    }


# ---------------------------------------------------------------------------------- own data


def few_samples(seeds: list[int]) -> None:
    """Digits as data of the user's own, in several sizes, epochs and batches: AP of sym 0.4, then
    of asym 0.4, a number a seed."""
    pixels, true = load_digits(return_X_y=True)
    images = (pixels / 16 * 255).astype(np.uint8).reshape(-1, 8, 8)
    flips = {7: 1, 2: 7, 5: 6, 6: 5, 3: 8}
    for count in (1797, 500, 200):
        for epochs, batch_size in ((10, 128), (10, 32), (10, 16), (39, 32)):
            shown = []
            for kind in ("sym", "asym"):
                for seed in seeds:
                    draws = np.random.default_rng(seed)
                    hit, y = draws.random(count) < 0.4, true[:count]
                    other = (
                        (y + draws.integers(1, 10, count)) % 10
                        if kind == "sym"
                        else np.array([flips.get(k, k) for k in y])
                    )
                    ap, _ = judged(
                        *(images[:count], np.where(hit, other, y), y),
                        epochs=epochs,
                        batch_size=batch_size,
                    )
                    shown.append(f"{ap:.3f}")
            print(count, f"{epochs} epochs, {batch_size} a step:", *shown, flush=True)


def many_classes() -> None:
    """Pairs of MNIST digits, 100 classes, with several weights in SCE: AP and F1 of the cut."""
    mnist = load_data("mnist").train
    draws = np.random.default_rng(0)
    left, right = draws.integers(0, len(mnist), (2, 12_500))
    digits = mnist.labels.true

    def half(chosen: np.ndarray) -> np.ndarray:
        pixels = mnist.images.numpy()[chosen, ..., 0]
        return pixels.reshape(-1, 28, 14, 2).mean(3)

    images = np.concatenate([half(left), half(right)], 2).astype(np.uint8)
    true = digits[left] * 10 + digits[right]
    hit = draws.random(len(true)) < 0.4
    for kind in ("sym", "asym"):
        other = (
            (true + draws.integers(1, 100, len(true))) % 100
            if kind == "sym"
            else true // 10 * 10 + (true + 1) % 10
        )
        for weights in ((0.1, 1.0), (1.0, 1.0), (6.0, 0.1), ()):
            chosen = {"loss": "ce"}
            if weights:
                chosen = {"loss": "sce", "alpha": weights[0], "beta": weights[1], "warm_start": 3.0}
            ap, f1 = judged(images, np.where(hit, other, true), true, **chosen)
            print(kind, chosen, f"AP {ap:.3f} F1 {f1:.3f}", flush=True)


def judged(
    images: np.ndarray, given: np.ndarray, true: np.ndarray, **settings: Any
) -> tuple[float, float]:
    """AP and F1 of a search in arrays, on the training samples."""
    found = find_mislabelled(
        (images, given), machine=ONE_THREAD, listener=Listener(on_message=ignore), **settings
    )
    which = np.array([int(name) for name in found.data.train.names])
    wrong, findings = (given != true)[which], found.findings
    rate = findings.noise_rate
    print(f"  wrong {wrong.mean():.3f}, found {rate.estimate:.3f}", *findings.doubts, sep="; ")
    return (
        average_precision_score(wrong, -findings.label_score),
        f1_score(wrong, findings.is_label_issue),
    )


# ---------------------------------------------------------------------------------- pictures

SHOWN = ("sym 0.4", "asym 0.4", "random1", "worse")  # the cases in the picture of the curves
PAGE = ("aggre", 6, 8)  # whose found errors are shown, in how many rows and columns


def draw_curves(folder: Path, out: Path) -> None:
    """Precision against recall of seed 0, ours and cleanlab's best score, with the cuts."""
    from cleanlab.filter import find_label_issues

    figure = Figure(figsize=(12, 3.4), layout="constrained")
    for axes, case in zip(figure.subplots(1, len(SHOWN), sharey=True), SHOWN, strict=True):
        name = f"{case.replace(' ', '_')}_0.npz"
        once, folds = (np.load(folder / f"{kind}_{name}") for kind in ("once", "folds"))
        given, wrong = once["given"], once["given"] != once["true"]
        found = find_issues(given, evidence_in(once))
        best = max(
            scores_of(folds).values(), key=lambda score: average_precision_score(wrong, -score)
        )
        for label, score, flags, color in (
            ("one training", found.label_score, found.is_label_issue, "C0"),
            ("cleanlab, five", best, find_label_issues(given, folds["probs"].astype(float)), "C1"),
        ):
            precision, recall, _ = precision_recall_curve(wrong, -score)
            axes.plot(recall, precision, color=color, label=label)
            cut = precision_score(wrong, flags), recall_score(wrong, flags)
            axes.plot(cut[1], cut[0], "o", color=color)
        axes.axhline(wrong.mean(), color="0.7", linewidth=0.8, zorder=0)
        axes.set(title=case, xlabel="recall", xlim=(0, 1), ylim=(0, 1))
    figure.axes[0].set_ylabel("precision")
    figure.axes[0].legend(frameon=False, loc="lower left")
    figure.savefig(out, dpi=100)


def draw_page(folder: Path, out: Path) -> None:
    """The worst labels that people gave, the given one above and the suggested one below; red
    where CIFAR-10 itself has the given one."""
    case, rows, columns = PAGE
    data = prepare(config_of(case, 0))
    once = np.load(folder / f"once_{case}_0.npz")
    found = find_issues(once["given"], evidence_in(once))
    worst = np.argsort(found.label_score, kind="stable")[: rows * columns]
    figure = Figure(figsize=(1.15 * columns, 1.5 * rows), layout="constrained")
    for axes, i in zip(figure.subplots(rows, columns).flat, worst, strict=True):
        axes.imshow(data.train.images[i].numpy())
        names = data.class_names
        wrong = once["given"][i] != once["true"][i]
        axes.set_title(names[once["given"][i]], fontsize=8, color="black" if wrong else "C3")
        axes.set_xlabel(names[found.predicted_label[i]], fontsize=8)
        axes.set(xticks=[], yticks=[])
    figure.savefig(out, dpi=100)
    share = (once["given"] != once["true"])[worst].mean()
    print(f"{out.name}: {share:.0%} of these {len(worst)} labels of {case} differ from CIFAR-10's")


# ------------------------------------------------------------------------------------- table

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
    "watching": "monitor's share",
    "folds_seconds": "5-fold s",
}


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, a row a case and seed."""
    lines = [f"| {' | '.join(COLUMNS.values())} |", f"|{' --- |' * len(COLUMNS)}"]
    for row in rows:
        shown = {**row, "interval": f"{row['rate_low']:.3f}-{row['rate_high']:.3f}"}
        for name, value in row.items():
            if value is None:
                shown[name] = ""
            if isinstance(value, float):
                shown[name] = f"{value:.0f}" if name.endswith("seconds") else f"{value:.3f}"
        lines.append(f"| {' | '.join(str(shown.get(name, '')) for name in COLUMNS)} |")
    return "\n".join(lines)


SAME = {
    "wrong": "wrong",
    "right": "predictions right",
    "ap": "AP",
    "cleanlab_ap": "cleanlab AP, its best score",
    "f1": "F1 of the cut",
    "cleanlab_f1": "cleanlab F1",
    "f1_differs": "F1 of `differs`",
}
BEHIND = 0.005


def same_table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of the means over seeds, a row a case, and of all cases."""
    heads = ["case", *SAME.values(), "behind", "seeds"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    cases = [*dict.fromkeys(row["case"] for row in rows)]
    for name, part in [*((c, [r for r in rows if r["case"] == c]) for c in cases), ("all", rows)]:
        numbers = [f"{np.mean([row[column] for row in part]):.3f}" for column in SAME]
        behind = sum(row["ap"] < row["cleanlab_ap"] - BEHIND for row in part)
        seeds = len({row["seed"] for row in part})
        lines.append(f"| {' | '.join([name, *numbers, f'{behind} of {len(part)}', str(seeds)])} |")
    return "\n".join(lines)


def both_judge(folder: Path, cases: list[str], seeds: list[int], out: Path | None) -> None:
    """Print the table of the probabilities that lie in the folder, and keep it."""
    rows = [
        plain({"case": case, "seed": seed, **same(file)})
        for case in cases
        for seed in seeds
        if (file := folder / f"folds_{case.replace(' ', '_')}_{seed}.npz").exists()
    ]
    print(same_table(rows))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (out / "folds.jsonl").write_text(lines, encoding="utf-8")
        (out / "folds.md").write_text(same_table(rows) + "\n", encoding="utf-8")


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
    parser.add_argument("--epochs", type=int, default=0, help="of --folds, 0: the recipe's")
    parser.add_argument("--same", action="store_true", help="cleanlab's folds, judged by both")
    parser.add_argument("--own", action="store_true", help="few samples, and many classes")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--folder", type=Path, default=cache_folder() / "find", help="where evidence is kept"
    )
    parser.add_argument("--pictures", action="store_true", help="draw them, into --out")
    parser.add_argument("--out", type=Path, help="a folder for find.json, find.md and the pictures")
    given = parser.parse_args()
    if given.pictures and not given.out:
        parser.error("--pictures needs --out")
    given.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if given.own:
        few_samples([0, 1])
        many_classes()
        return
    cases, seeds = given.cases.split(","), [int(seed) for seed in given.seeds.split(",")]
    if given.same:
        both_judge(given.folder, cases, seeds, given.out)
        return
    rows = []
    for case in cases:
        for seed in seeds:
            name = f"{case.replace(' ', '_')}_{seed}.npz"
            once, folds = given.folder / f"once_{name}", given.folder / f"folds_{name}"
            if given.collect and not once.exists():
                collect(config_of(case, seed), once)
            if given.folds and not folds.exists():
                config = config_of(case, seed, loss="ce")
                cross_validate(config, folds, given.epochs or config.epochs)
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
    if given.pictures:
        draw_curves(given.folder, given.out / "precision-recall.png")
        draw_page(given.folder, given.out / "found.png")


if __name__ == "__main__":
    main()
