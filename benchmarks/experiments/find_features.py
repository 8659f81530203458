"""Wrong labels found on features, by `apl find`'s cross-fitted heads, beside cleanlab's best on the
same features.

    python benchmarks/experiments/find_features.py [--cases ..] [--seeds 0,1,2] [--features lite0]
        [--banking FILE] [--cleanlab] [--out results/evidence/find-features]

The cases are those of find.py on CIFAR-10, and clean labels; --banking takes Banking77's
banking77_train.csv, with `minilm` and 20 % symmetric noise.  Pretrained on ImageNet, so beside no
figure from scratch.  cleanlab gets five folds of logistic regression (C of --strengths), and of its
scores and filters those that are best by the truth: that is its handicap's worth.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from find import CASES
from sklearn.metrics import average_precision_score, f1_score

from apl.config.config import make_config
from apl.detect.crossfit import findings_of
from apl.features.make import make_backbone
from apl.noise.draw import corrupt
from apl.noise.labels import Labels
from apl.noise.matrices import symmetric
from apl.training.crossfit import cross_fit, stratified
from apl.training.machine import Machine
from apl.training.prepare import data_of, prepare

ALL = {"clean": {"noise": "none"}, **{k: v for k, v in CASES.items() if "dataset" not in v}}
STRENGTHS = (1e-3, 1e-2)  # of logistic regression, for cleanlab
FILTERS = ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning",
           "predicted_neq_given")  # fmt: skip


def judged(rows: torch.Tensor, labels: Labels, classes: int, seed: int) -> dict[str, Any]:
    """How well cross-fitted heads find the wrong labels."""
    began = time.process_time()
    fit = cross_fit(rows, labels.given, classes, seed=seed)
    found = findings_of(fit, labels.given)
    wrong = labels.wrong
    differs = fit.clean.argmax(1) != labels.given
    return {
        "wrong": wrong.mean(),
        "ap": average_precision_score(wrong, -found.label_score) if wrong.any() else np.nan,
        "f1": f1_score(wrong, found.is_label_issue) if wrong.any() else np.nan,
        "f1_differs": f1_score(wrong, differs) if wrong.any() else np.nan,
        "rate": found.noise_rate.estimate,
        "low": found.noise_rate.low,
        "high": found.noise_rate.high,
        "cpu_seconds": time.process_time() - began,
    }


def cleanlab(rows: torch.Tensor, labels: Labels, classes: int, seed: int) -> dict[str, Any]:
    """The best that cleanlab makes of out-of-fold probabilities, chosen with the truth."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression

    features = rows.float()
    features = ((features - features.mean(0)) / features.std(0).clamp(min=1e-6)).numpy()
    given, wrong = labels.given, labels.wrong
    folds = stratified(given, 5, seed)
    aps, f1s = [0.0], [0.0]
    for strength in STRENGTHS:
        probs = np.zeros((len(given), classes))
        for k in range(5):
            model = LogisticRegression(C=strength, max_iter=100)
            model.fit(features[folds != k], given[folds != k])
            probs[np.ix_(folds == k, model.classes_)] = model.predict_proba(features[folds == k])
        for method in ("self_confidence", "normalized_margin"):
            for adjusted in (False, True) if method == "normalized_margin" else (False,):
                score = get_label_quality_scores(
                    given, probs, method=method, adjust_pred_probs=adjusted
                )
                aps.append(average_precision_score(wrong, -score))
        f1s += [f1_score(wrong, find_label_issues(given, probs, filter_by=f)) for f in FILTERS]
    return {"cleanlab_ap": max(aps), "cleanlab_f1": max(f1s)}


def banking(file: Path, seed: int) -> tuple[torch.Tensor, Labels, int]:
    """Banking77 by minilm, with 20 % symmetric noise."""
    with file.open(encoding="utf-8") as lines:
        read = list(csv.DictReader(lines))
    names = sorted({row["category"] for row in read})
    true = np.array([names.index(row["category"]) for row in read])
    matrix = symmetric(len(names), 0.2)
    texts, backbone = [row["text"] for row in read], make_backbone("minilm")
    return (
        torch.as_tensor(backbone.of(texts)),
        corrupt(true, matrix, "transition", seed),
        len(names),
    )


COLUMNS = {
    "case": "case", "seed": "seed", "wrong": "wrong", "ap": "AP", "f1": "F1 of the cut",
    "f1_differs": "F1 of `differs`", "rate": "noise rate", "low": "from", "high": "to",
    "cleanlab_ap": "cleanlab AP", "cleanlab_f1": "cleanlab F1", "cpu_seconds": "CPU s",
}  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table, a row a case and seed, and the mean of each case."""
    shown = list(rows)
    for case in dict.fromkeys(row["case"] for row in rows):
        same = [row for row in rows if row["case"] == case]
        mean = {
            n: np.mean([row[n] for row in same]) for n in COLUMNS if n in same[0] and n != "case"
        }
        shown.append({**mean, "case": case, "seed": f"mean of {len(same)}"})
    lines = [f"| {' | '.join(COLUMNS.values())} |", f"|{' --- |' * len(COLUMNS)}"]
    for row in shown:
        cells = [row.get(name, "") for name in COLUMNS]
        lines.append(
            "| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(ALL))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--features", default="lite0")
    parser.add_argument("--banking", type=Path)
    parser.add_argument("--cleanlab", action="store_true")
    parser.add_argument("--out", type=Path, help="a folder for find.json and find.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    asked = [
        (case, int(seed))
        for case in filter(None, given.cases.split(","))
        for seed in given.seeds.split(",")
    ]
    for case, seed in asked:
        config = make_config("laptop", features=given.features, seed=seed, **ALL[case])
        data = prepare(config, Machine(threads=1), data_of(config, Machine()))
        parts = data.train.images, data.train.labels, data.num_classes
        rows.append({"case": case, "seed": seed, **judged(*parts, seed)})
        if given.cleanlab and rows[-1]["wrong"]:
            rows[-1] |= cleanlab(*parts, seed)
        print(rows[-1], flush=True)
    for seed in map(int, given.seeds.split(",")) if given.banking else ():
        parts = banking(given.banking, seed)
        rows.append({"case": "Banking77 sym 0.2", "seed": seed, **judged(*parts, seed)})
        if given.cleanlab:
            rows[-1] |= cleanlab(*parts, seed)
        print(rows[-1], flush=True)
    print(table(rows))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "find.json").write_text(json.dumps(rows, indent=1, default=float) + "\n")
        (given.out / "find.md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    main()
