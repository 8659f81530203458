"""Several annotators: the consensus of `apl.consensus` beside majority, Dawid-Skene and CROWDLAB.

    python benchmarks/experiments/annotators.py [--data people|digits] [--seeds 0,1,2]
        [--out results/evidence/annotators]

people: CIFAR-10N's three labels of the 10,000 training images of find.py, by features of lite0, so
pretrained on ImageNet.  digits: MNIST's pixels and simulated annotators, who err as classifiers do
that saw few images; settings were chosen there, and none by CIFAR-10's truth.  All get the same
features: CROWDLAB (cleanlab) the out-of-fold chances of a logistic regression that learned the
majority, as its authors do, and those of our heads too.  Right: the share of consensus labels that
are; AP: of the wrong ones, ranked by how sure each method is.  Seeds are those of folds and heads;
majority breaks ties at random by them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

import apl
from apl.config.config import make_config
from apl.data.folders import data_folder
from apl.noise.labels import UNKNOWN
from apl.training.crossfit import stratified
from apl.training.machine import Machine
from apl.training.prepare import data_of, prepare

Array = np.ndarray[Any, Any]


def people(machine: Machine) -> tuple[Array, Array, Array]:
    """Features, true classes and the three labels of CIFAR-10N."""
    votes = []
    for number in (1, 2, 3):
        config = make_config("laptop", features="lite0", noise="human", map=f"random{number}")
        data = prepare(config, machine, data_of(config, machine))
        votes.append(data.train.labels.given)
    rows = data.train.images.float().numpy()
    return rows, data.train.labels.true, np.stack(votes, 1)


def digits(folder: Path, seed: int, count: int = 5000) -> tuple[Array, Array, Array]:
    """Pixels, true classes, and the labels of six simulated annotators of whom each labels half."""
    raw = folder / "MNIST" / "raw"

    def read(name: str, skip: int) -> Array:
        packed = raw / f"{name}.gz"
        content = gzip.decompress(packed.read_bytes()) if packed.is_file() else None
        content = content or (raw / name).read_bytes()
        return np.frombuffer(content, np.uint8, offset=skip)

    pixels = read("train-images-idx3-ubyte", 16).reshape(-1, 784)
    classes = read("train-labels-idx1-ubyte", 8)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(classes))
    rows, true = pixels[order[:count]] / 255, classes[order[:count]].astype(np.int64)
    votes = np.full((count, 6), UNKNOWN)
    for a in range(6):
        seen = order[count + 200 * a :][: 60 * (1 + a % 3)]
        model = LogisticRegression(C=0.01, max_iter=50).fit(pixels[seen] / 255, classes[seen])
        chances = np.full((count, 10), 1e-3)
        chances[:, model.classes_] = model.predict_proba(rows)
        chances *= 0.5 / chances.sum(1, keepdims=True)
        chances[np.arange(count), true] += 0.5
        votes[:, a] = (chances.cumsum(1) > rng.random((count, 1))).argmax(1)
        votes[rng.random(count) < 0.5, a] = UNKNOWN
    votes[(votes == UNKNOWN).all(1), 0] = true[(votes == UNKNOWN).all(1)]
    return rows, true, votes


def majority(votes: Array, classes: int, seed: int) -> tuple[Array, Array]:
    """The label with most votes, ties at random, and its share of them."""
    counts = (votes[:, :, None] == np.arange(classes)).sum(1)
    torn = counts + np.random.default_rng(seed).random(counts.shape) / 2
    return torn.argmax(1), counts.max(1) / counts.sum(1)


def dawid_skene(votes: Array) -> tuple[Array, Array]:
    """crowd-kit's."""
    import pandas as pd
    from crowdkit.aggregation.classification.dawid_skene import DawidSkene

    task, worker = np.nonzero(votes != UNKNOWN)
    frame = pd.DataFrame({"task": task, "worker": worker, "label": votes[task, worker]})
    chances = DawidSkene(n_iter=100).fit_predict_proba(frame).sort_index(axis=0).sort_index(axis=1)
    said = chances.to_numpy()
    return np.asarray(chances.columns)[said.argmax(1)], said.max(1)


def logistic(rows: Array, labels: Array, classes: int, seed: int) -> Array:
    """Out-of-fold chances of a logistic regression on standardised rows."""
    scaled = (rows - rows.mean(0)) / rows.std(0).clip(1e-6)
    folds, probs = stratified(labels, 5, seed), np.zeros((len(labels), classes))
    for k in range(5):
        model = LogisticRegression(C=1e-3, max_iter=100)
        model.fit(scaled[folds != k], labels[folds != k])
        probs[np.ix_(folds == k, model.classes_)] = model.predict_proba(scaled[folds == k])
    return probs


def crowdlab(votes: Array, probs: Array) -> tuple[Array, Array]:
    """cleanlab's, with its defaults."""
    from cleanlab.multiannotator import get_label_quality_multiannotator

    given = np.where(votes == UNKNOWN, np.nan, votes)
    found = get_label_quality_multiannotator(given, probs, verbose=False)["label_quality"]
    return found["consensus_label"].to_numpy(), found["consensus_quality_score"].to_numpy()


def scored(labels: Array, sure: Array, true: Array) -> dict[str, float]:
    """Right and AP of the wrong consensus."""
    wrong = labels != true
    return {
        "right": float(1 - wrong.mean()),
        "ap": float(average_precision_score(wrong, -sure)) if wrong.any() else np.nan,
    }


def one(rows: Array, true: Array, votes: Array, seed: int) -> dict[str, dict[str, float]]:
    """All methods on the same labels."""
    classes = int(max(true.max(), votes.max())) + 1
    names = range(classes)
    found: dict[str, dict[str, float]] = {}

    def keep(name: str, labels: Array, sure: Array, began: float) -> None:
        found[name] = scored(labels, sure, true) | {"cpu_seconds": time.process_time() - began}
        print(name, found[name], flush=True)

    began = time.process_time()
    most, share = majority(votes, classes, seed)
    keep("majority", most, share, began)
    began = time.process_time()
    keep("Dawid-Skene (crowd-kit)", *dawid_skene(votes), began)
    began = time.process_time()
    alone = apl.consensus(votes, classes=names)
    keep("apl, labels alone", alone.labels, alone.probability, began)
    began = time.process_time()
    probs = logistic(rows, most, classes, seed)
    keep("CROWDLAB, logistic regression", *crowdlab(votes, probs), began)
    began = time.process_time()
    fixed = apl.consensus(votes, probs, classes=names)
    keep("apl, the same logistic regression", fixed.labels, fixed.probability, began)
    began = time.process_time()
    ours = apl.consensus(votes, features=torch.as_tensor(rows).float(), classes=names, seed=seed)
    keep("apl, features", ours.labels, ours.probability, began)
    assert ours.clean is not None
    keep("the heads alone", ours.clean.argmax(1), ours.clean.max(1), began)
    keep("CROWDLAB, our heads", *crowdlab(votes, ours.clean), began)
    sure = float(ours.probability.mean())
    print(f"said right {sure:.4f}, temperature {ours.temperature}, {ours.accuracy.round(3)}")
    found["apl, features"]["said_right"] = sure
    return found


def table(runs: list[dict[str, Any]]) -> str:
    """A Markdown table, a row a method: the mean over the seeds and from which to which."""
    lines = ["| | right | AP of the wrong consensus | CPU s |", "|" + " --- |" * 4]
    for name in runs[0]["methods"]:
        cells = []
        for column in ("right", "ap", "cpu_seconds"):
            values = [run["methods"][name][column] for run in runs]
            digits = 0 if column == "cpu_seconds" else 4 if column == "right" else 3
            mean, low, high = np.mean(values), min(values), max(values)
            spread = f" ({low:.{digits}f} to {high:.{digits}f})" if digits and low < high else ""
            cells.append(f"{mean:.{digits}f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="people", choices=("people", "digits"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, help="a folder for DATA.json and DATA.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    machine, runs = Machine(threads=1), []
    for seed in map(int, given.seeds.split(",")):
        parts = people(machine) if given.data == "people" else digits(data_folder(), seed)
        runs.append({"seed": seed, "methods": one(*parts, seed)})
    print(table(runs))
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / f"{given.data}.json").write_text(json.dumps(runs, indent=1) + "\n")
        (given.out / f"{given.data}.md").write_text(table(runs) + "\n")


if __name__ == "__main__":
    main()
