"""Wrong labels found by other people's models: out-of-fold probabilities of scikit-learn's, judged
by `find_issues`, by cleanlab, and by the plain rule that the prediction differs from the label.

    python benchmarks/experiments/find_probs.py ...
        --collect [--seeds 0,1,2] [--tables ..]   cross-validates, once for each file
        [--tables ..] [--out results/find-probs]  the tables, from those files

Forty cases a seed: four tables x five models x two kinds of noise.  The tables `made-..` are made
up: the rules of `find_issues` were chosen on these, with seeds 10 and 11 (`--tables made`), and
nothing on the truth of the others.  `sorted` is 10 % of symmetric noise in samples that stand class
by class, in five folds that nobody shuffled.  The files lie in --folder.  cleanlab is needed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from apl.data.folders import cache_folder
from apl.detect.evidence import find_issues

Table = tuple[np.ndarray, np.ndarray]


def _made(count: int, classes: int, apart: float, seed: int, weights: Any = None) -> Table:
    made: Table = datasets.make_classification(
        count,
        n_features=16,
        n_informative=8,
        n_redundant=4,
        n_classes=classes,
        n_clusters_per_class=2,
        class_sep=apart,
        weights=weights,
        flip_y=0,
        random_state=seed,
    )
    return made


TABLES: dict[str, Callable[[], Table]] = {
    "breast_cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "made-2": lambda: _made(500, 2, 1.5, 1),
    "made-2-hard": lambda: _made(600, 2, 0.8, 2, [0.65]),
    "made-3": lambda: _made(180, 3, 2.0, 3),
    "made-4": lambda: _made(1200, 4, 1.5, 4),
    "made-8": lambda: _made(1600, 8, 2.5, 5),
    "made-moons": lambda: datasets.make_moons(400, noise=0.2, random_state=6),
    "made-blobs": lambda: datasets.make_blobs(150, 4, centers=3, random_state=7),
    "made-blobs-10": lambda: datasets.make_blobs(
        1500, 12, centers=10, cluster_std=4.0, random_state=8
    ),
}
FORTY = ("breast_cancer", "wine", "digits", "iris")
MODELS: dict[str, Callable[[], Any]] = {
    "LR": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    "LR C=.01": lambda: make_pipeline(StandardScaler(), LogisticRegression(C=0.01)),
    "forest": lambda: RandomForestClassifier(random_state=0),
    "NB": lambda: make_pipeline(StandardScaler(), GaussianNB()),
    "boosting": lambda: HistGradientBoostingClassifier(random_state=0, max_iter=50),
}
NOISES = ("sym-0.2", "sym-0.3", "asym-0.3", "pair-0.3", "sorted")
TWO = ("sym-0.3", "asym-0.3")
FOLDS = 5
BEHIND = 0.02


def noisy(true: np.ndarray, noise: str, seed: int) -> np.ndarray:
    """The labels [N] with noise: `sym` to any other class, `asym` of every second class to the next
    one, `pair` of every class to the next one."""
    draws, classes = np.random.default_rng(seed), int(true.max()) + 1
    kind, rate = noise.split("-") if "-" in noise else ("sym", "0.1")
    hit = draws.random(len(true)) < float(rate)
    step = draws.integers(1, classes, len(true)) if kind == "sym" else np.ones(len(true), np.int64)
    if kind == "asym":
        hit &= true % 2 == 0
    return np.where(hit, (true + step) % classes, true)


def collect(table: str, model: str, noise: str, seed: int, file: Path) -> None:
    """Cross-validate, and keep labels and probabilities."""
    rows, true = TABLES[table]()
    draws = np.random.default_rng(1000 + seed)
    order = draws.permutation(len(true))
    if noise == "sorted":
        order = order[np.argsort(true[order], kind="stable")]
    rows, true = rows[order], true[order]
    given = noisy(true, noise, seed)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    if noise == "sorted":
        folds = KFold(FOLDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probs = cross_val_predict(MODELS[model](), rows, given, cv=folds, method="predict_proba")
    beside = file.with_suffix(".tmp.npz")
    np.savez_compressed(beside, given=given, true=true, probs=probs)
    os.replace(beside, file)


def judged(file: Path) -> dict[str, Any]:
    """F1 of the three cuts, and AP of the rankings, on one file."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    kept = np.load(file)
    given, probs = kept["given"], kept["probs"] / kept["probs"].sum(1, keepdims=True)
    wrong = given != kept["true"]
    found = find_issues(given, probs)
    kinds = (("self_confidence", False), ("normalized_margin", False), ("normalized_margin", True))
    scores = [
        get_label_quality_scores(given, probs, method=method, adjust_pred_probs=adjusted)
        for method, adjusted in kinds
    ]
    rate = found.noise_rate
    return {
        "f1": f1_score(wrong, found.is_label_issue, zero_division=0),
        "cleanlab_f1": f1_score(wrong, find_label_issues(given, probs, n_jobs=1), zero_division=0),
        "differs_f1": f1_score(wrong, probs.argmax(1) != given, zero_division=0),
        "ap": average_precision_score(wrong, -found.label_score),
        "cleanlab_ap": max(average_precision_score(wrong, -score) for score in scores),
        "wrong": wrong.mean(),
        "rate": rate.estimate,
        "held": rate.low <= wrong.mean() <= rate.high,
    }


COLUMNS = {
    "f1": "F1 of the cut",
    "cleanlab_f1": "cleanlab",
    "differs_f1": "differs",
    "ap": "AP",
    "cleanlab_ap": "cleanlab, its best score",
    "wrong": "wrong",
    "rate": "noise rate",
    "held": "interval holds",
}


def row(name: str, part: list[dict[str, Any]]) -> str:
    """The means of several cases, and in how many the cut is behind the better of the other two."""
    means = [f"{np.mean([each[column] for each in part]):.3f}" for column in COLUMNS]
    behind = sum(r["f1"] < max(r["cleanlab_f1"], r["differs_f1"]) - BEHIND for r in part)
    return f"| {' | '.join([name, *means, f'{behind} of {len(part)}'])} |"


def means(rows: list[dict[str, Any]]) -> str:
    """The means as a Markdown table: of the forty by seed, then by noise, model and data."""
    head = ["cases", *COLUMNS.values(), f"behind by more than {BEHIND}"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    forty = [r for r in rows if r["noise"] in TWO]
    for seed in dict.fromkeys(r["seed"] for r in forty):
        lines.append(row(f"the forty, seed {seed}", [r for r in forty if r["seed"] == seed]))
    for key in ("noise", "model", "table"):
        among = rows if key == "noise" else forty
        for value in dict.fromkeys(r[key] for r in among):
            lines.append(row(value, [r for r in among if r[key] == value]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--collect", action="store_true", help="cross-validate first")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tables", default=",".join(FORTY), help="some of them, or made")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "find-probs")
    parser.add_argument("--out", type=Path, help="a folder for find-probs.json and .md")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    made = [table for table in TABLES if table.startswith("made")]
    tables = made if asked.tables == "made" else asked.tables.split(",")
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    rows = []
    for seed, noise, table, model in itertools.product(seeds, NOISES, tables, MODELS):
        file = asked.folder / f"{table}_{model}_{noise}_{seed}.npz"
        if asked.collect and not file.exists():
            collect(table, model, noise, seed, file)
        case = {"seed": seed, "noise": noise, "table": table, "model": model}
        rows.append({**case, **{name: float(v) for name, v in judged(file).items()}})
    print(means(rows))
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "find-probs.json").write_text(json.dumps(rows, indent=1) + "\n")
        (asked.out / "find-probs.md").write_text(means(rows) + "\n")


if __name__ == "__main__":
    main()
