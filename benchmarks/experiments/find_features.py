"""Wrong labels found on features, by `apl find`'s cross-fitted heads, beside cleanlab's best on the
same features.

    python benchmarks/experiments/find_features.py
        [--cases ..] [--seeds 0,1,2] [--features lite0] [--banking FILE [--texts minilm,tfidf]]
        [--cleanlab]        cleanlab too, after all others
        [--out FOLDER]      where the record and the table lie; what is in the record is not redone
        [--table]           the table alone, from the record
        [--sizes 200,400,800,1600,3000]  how far the noise rate is off in parts of so many alone

The cases are those of find.py on CIFAR-10, and clean labels; --banking takes Banking77's
banking77_train.csv, with 20 % symmetric noise.  Pretrained on ImageNet, so beside no figure from
scratch.  cleanlab gets five folds of logistic regression (two strengths), and of its scores and
filters those that are best by the truth: that is its handicap's worth.  Each training is a line of
rows.jsonl as soon as it is done, so a killed run goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from find import CASES
from sklearn.metrics import average_precision_score, f1_score

from apl.config.config import make_config
from apl.data.dataset import balanced_subset
from apl.data.folders import cache_folder
from apl.detect.crossfit import findings_of
from apl.detect.evidence import find_issues
from apl.features.make import make_backbone
from apl.features.words import fit_counts
from apl.noise.draw import corrupt
from apl.noise.labels import Labels
from apl.noise.matrices import symmetric
from apl.training.calibration import FIRST_ALONE
from apl.training.crossfit import BUDGET, Budget, cross_fit, stratified
from apl.training.machine import Machine
from apl.training.prepare import data_of, prepare

ALL = {"clean": {"noise": "none"}, **{k: v for k, v in CASES.items() if "dataset" not in v}}
SCORES = (("self_confidence", False), ("normalized_margin", False), ("normalized_margin", True))
STRENGTHS = (1e-3, 1e-2)  # of logistic regression, for cleanlab
FILTERS = ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning",
           "predicted_neq_given")  # fmt: skip


def judged(
    rows: torch.Tensor, labels: Labels, classes: int, seed: int, budget: Budget = BUDGET
) -> dict[str, Any]:
    """How well cross-fitted heads find the wrong labels."""
    began = time.process_time()
    fit = cross_fit(rows, labels.given, classes, seed=seed, budget=budget)
    found = findings_of(fit, labels.given)
    wrong = labels.wrong
    differs = fit.clean.argmax(1) != labels.given
    return {
        "wrong": wrong.mean(),
        "ap": average_precision_score(wrong, -found.label_score) if wrong.any() else 0.0,
        "f1": f1_score(wrong, found.is_label_issue) if wrong.any() else 0.0,
        "f1_differs": f1_score(wrong, differs) if wrong.any() else 0.0,
        "agrees": 1 - differs.mean(),
        "rate": found.noise_rate.estimate,
        "low": found.noise_rate.low,
        "high": found.noise_rate.high,
        "cpu_seconds": time.process_time() - began,
    }


def cleanlab(rows: torch.Tensor, labels: Labels, classes: int, seed: int) -> dict[str, Any]:
    """The best that cleanlab makes of out-of-fold probabilities, chosen with the truth; and what
    `find_issues` makes of the same."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression

    began = time.process_time()
    features = rows.float()
    features = ((features - features.mean(0)) / features.std(0).clamp(min=1e-6)).numpy()
    given, wrong = labels.given, labels.wrong
    folds = stratified(given, 5, seed)
    same = []
    for strength in STRENGTHS:
        probs = np.zeros((len(given), classes))
        for k in range(5):
            model = LogisticRegression(C=strength, max_iter=100)
            model.fit(features[folds != k], given[folds != k])
            probs[np.ix_(folds == k, model.classes_)] = model.predict_proba(features[folds == k])
        scores = [
            get_label_quality_scores(given, probs, method=method, adjust_pred_probs=adjusted)
            for method, adjusted in SCORES
        ]
        flags = [find_label_issues(given, probs, filter_by=rule) for rule in FILTERS]
        found = find_issues(given, probs)
        same.append(
            {
                "strength": strength,
                "ap": average_precision_score(wrong, -found.label_score),
                "f1": f1_score(wrong, found.is_label_issue),
                "cleanlab_ap": max(average_precision_score(wrong, -score) for score in scores),
                "cleanlab_f1": max(f1_score(wrong, flagged) for flagged in flags),
            }
        )
    best = {name: max(each[name] for each in same) for name in ("cleanlab_ap", "cleanlab_f1")}
    return {**best, "same": same, "cleanlab_cpu_seconds": time.process_time() - began}


@functools.cache
def vectors(file: Path, features: str) -> tuple[torch.Tensor, np.ndarray, int]:
    """Banking77's questions as features [N, F], their classes [N], and how many there are."""
    with file.open(encoding="utf-8") as lines:
        read = list(csv.DictReader(lines))
    names = sorted({row["category"] for row in read})
    true = np.array([names.index(row["category"]) for row in read])
    texts = [row["text"] for row in read]
    backbone = make_backbone(features, texts=texts)
    parts = [backbone.of(texts[i : i + 64]) for i in range(0, len(texts), 64)]
    return torch.as_tensor(np.concatenate(parts)), true, len(names)


def banking(file: Path, features: str, seed: int) -> tuple[torch.Tensor, Labels, int]:
    """Banking77 by features of texts, with 20 % symmetric noise."""
    rows, true, classes = vectors(file, features)
    return rows, corrupt(true, symmetric(classes, 0.2), "transition", seed), classes


@functools.lru_cache(maxsize=3)  # the cases of FEW: parts of all sizes are taken of them
def cifar(case: str, features: str, seed: int) -> tuple[torch.Tensor, Labels, int]:
    """The training images of a case as features, with their labels."""
    config = make_config("laptop", features=features, seed=seed, **{**ALL, **FEW}[case])
    whole = data_of(config, Machine())
    alone = dataclasses.replace(whole, test=whole.test.take(np.arange(1)))  # nothing is tested
    data = prepare(config, Machine(threads=1), alone)
    return data.train.images, data.train.labels, data.num_classes


BEHIND = 0.005
NUMBERS = ("wrong", "ap", "f1", "f1_differs", "rate", "low", "high")
BARS = {  # of issue 26: AP, F1 of the cut
    "sym 0.2": (0.965, 0.88),
    "sym 0.4": (0.975, 0.915),
    "sym 0.6": (0.98, 0.925),
    "asym 0.2": (0.90, 0.80),
    "asym 0.4": (0.90, 0.82),
    "aggre": (0.76, 0.67),
    "random1": (0.87, 0.77),
    "worse": (0.94, 0.86),
    "Banking77 sym 0.2, minilm": (0.993, 0.965),
}
HEAD = (
    "| | wrong | AP (by seed); asked | F1 of the cut; asked | F1 of `differs` | cleanlab: AP, F1 | "
    "noise rate, interval | within 3 points | held |"
)


def merged(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a case and seed, of what all lines of the record say of it."""
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for line in lines:
        rows.setdefault((line["case"], line["seed"]), {}).update(line)
    return [*rows.values()]


def table(lines: list[dict[str, Any]]) -> str:
    """A Markdown table, a row a case: the means over its seeds, AP by seed too."""
    shown = [HEAD, "|" + " --- |" * HEAD.count(" |")]
    rows = [row for row in merged(lines) if "ap" in row]
    for case in dict.fromkeys(row["case"] for row in rows):
        same = sorted((row for row in rows if row["case"] == case), key=lambda row: row["seed"])
        mean = {name: float(np.mean([row[name] for row in same])) for name in NUMBERS}
        theirs = [row for row in same if "cleanlab_ap" in row]
        cells = [case, f"{mean['wrong']:.3f}"]
        if mean["wrong"]:
            ap, f1 = BARS.get(case, (None, None))
            each = ", ".join(f"{row['ap']:.3f}" for row in same)
            cells += [
                f"**{mean['ap']:.3f}** ({each})" + (f"; {ap}" if ap else ""),
                f"**{mean['f1']:.3f}**" + (f"; {f1}" if f1 else ""),
                f"{mean['f1_differs']:.3f}",
            ]
            best = [[row[f"cleanlab_{k}"] for row in theirs] for k in ("ap", "f1")]
            cells.append(", ".join(f"{np.mean(each):.3f}" for each in best) if theirs else "")
        else:
            cells += ["", "", "", ""]
        near = sum(abs(row["rate"] - row["wrong"]) <= 0.03 for row in same)
        held = sum(row["low"] <= row["wrong"] <= row["high"] for row in same)
        cells += [
            f"{mean['rate']:.3f}, {mean['low']:.3f}-{mean['high']:.3f}",
            f"{near} of {len(same)}",
            f"{held} of {len(same)}",
        ]
        shown.append(f"| {' | '.join(cells)} |")
    return "\n".join(shown)


def same_table(lines: list[dict[str, Any]]) -> str:
    """A Markdown table of what both make of the same probabilities: means over seeds and strengths
    of logistic regression, a row a case."""
    rows = [(row["case"], each) for row in merged(lines) for each in row.get("same", ())]
    shown = ["| | AP | cleanlab's best score | F1 | cleanlab's best filter | behind |"]
    shown.append("|" + " --- |" * 6)
    for case in dict.fromkeys(case for case, _ in rows):
        part = [each for name, each in rows if name == case]
        numbers = [
            f"{np.mean([each[name] for each in part]):.3f}"
            for name in ("ap", "cleanlab_ap", "f1", "cleanlab_f1")
        ]
        behind = sum(each["ap"] < each["cleanlab_ap"] - BEHIND for each in part)
        shown.append(f"| {case} | {' | '.join(numbers)} | {behind} of {len(part)} |")
    return "\n".join(shown)


Parts = Callable[[], tuple[torch.Tensor, Labels, int]]


def asked(given: argparse.Namespace) -> list[tuple[str, int, Parts]]:
    """The name of each case, its seed, and what makes its features and labels."""
    seeds = [int(seed) for seed in given.seeds.split(",")]
    found: list[tuple[str, int, Parts]] = []
    for seed, features in itertools.product(seeds, given.texts.split(",") if given.banking else ()):
        parts = functools.partial(banking, given.banking, features, seed)
        found.append((f"Banking77 sym 0.2, {features}", seed, parts))
    for seed, case in itertools.product(seeds, filter(None, given.cases.split(","))):
        found.append((case, seed, functools.partial(cifar, case, given.features, seed)))
    return found


EACH = 40  # questions of a class
FEW = {
    "sym 0.2": {"noise": "sym", "rate": 0.2},
    "asym 0.3": {"noise": "asym", "rate": 0.3},
    "aggre": ALL["aggre"],
}


def few_images(case: str, features: str, size: int, seed: int) -> Parts:
    """So many images of a case, each class as often, drawn by the seed."""

    def parts() -> tuple[torch.Tensor, Labels, int]:
        rows, labels, classes = cifar(case, features, 0)
        chosen = balanced_subset(labels.true, size, seed)
        few = Labels(labels.given[chosen], labels.true[chosen])
        return rows[torch.from_numpy(chosen)], few, classes

    return parts


def few_texts(file: Path, size: int, seed: int) -> Parts:
    """So many of Banking77's questions, EACH of a class, drawn by the seed, by their own tfidf,
    with 20 % symmetric noise."""

    def parts() -> tuple[torch.Tensor, Labels, int]:
        whole, rng = pd.read_csv(file), np.random.default_rng(seed)
        count = whole["category"].value_counts()
        drawn = rng.permutation(sorted(count.index)).tolist()
        names = [name for name in drawn if count[name] >= EACH][: size // EACH]
        of = [whole[whole["category"] == name].sample(EACH, random_state=seed) for name in names]
        texts = pd.concat(of)["text"].tolist()
        rows = torch.as_tensor(fit_counts(texts).rows(texts)).half()
        true = np.repeat(np.arange(len(names)), EACH)
        labels = corrupt(true, symmetric(len(names), 0.2), "transition", seed)
        return rows, labels, len(names)

    return parts


def few_table(lines: list[dict[str, Any]]) -> str:
    """A Markdown table, a row a size: how far the noise rate was off, in points."""
    made = pd.DataFrame(lines)
    made["off"] = (made["rate"] - made["wrong"]) * 100
    shown = [FEW_HEAD, "|" + " --- |" * FEW_HEAD.count(" |")]
    for (kind, size), same in made.groupby(["kind", "size"]):
        each, far = size / same["classes"].iloc[0], same["off"].abs()
        shown.append(
            f"| {kind} | {size:,} | {each:.0f} | {same['agrees'].mean():.2f} | "
            f"{same['off'].mean():+.1f} | {far.mean():.1f} | {far.max():.1f} |"
        )
    return "\n".join(shown)


FEW_HEAD = "| | samples | of a class | heads agree | rate off by, mean | without sign | at most |"


def look_at_few(given: argparse.Namespace, lines: list[dict[str, Any]], record: Path) -> None:
    """Judge parts of the data, and print how far the noise rate is off by their size."""
    done = {(line["case"], line["size"], line["seed"]) for line in lines}
    for seed, size in itertools.product(
        map(int, given.seeds.split(",")), map(int, given.sizes.split(","))
    ):
        asked = [("photos", case, few_images(case, given.features, size, seed)) for case in FEW]
        if given.banking:
            asked.append(("texts", "Banking77 sym 0.2", few_texts(given.banking, size, seed)))
        for kind, case, parts in asked:
            if (case, size, seed) not in done:
                rows, labels, classes = parts()
                found = judged(rows, labels, classes, seed, FIRST_ALONE)
                found |= {"kind": kind, "case": case, "size": size, "seed": seed}
                found["classes"] = classes
                lines.append(json.loads(json.dumps(found, default=float)))
                with record.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    print(few_table(lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(ALL))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--features", default="lite0")
    parser.add_argument("--banking", type=Path)
    parser.add_argument("--texts", default="minilm,tfidf", help="features of Banking77")
    parser.add_argument("--cleanlab", action="store_true")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--sizes", default="", help="parts of the data alone, of so many samples")
    parser.add_argument("--out", type=Path, default=cache_folder() / "find-features")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    record = given.out / ("few.jsonl" if given.sizes else "rows.jsonl")
    lines = (
        [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    )
    if given.sizes:
        look_at_few(given, lines, record)
        return
    kinds = {"heads": judged, **({"cleanlab": cleanlab} if given.cleanlab else {})}
    for by, judge in {} if given.table else kinds.items():
        done = {(line["case"], line["seed"]) for line in lines if line["by"] == by}
        for case, seed, parts in asked(given):
            if (case, seed) in done or (by == "cleanlab" and case == "clean"):
                continue
            found = {"case": case, "seed": seed, "by": by, **judge(*parts(), seed)}
            lines.append(json.loads(json.dumps(found, default=float)))
            with record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(lines[-1], flush=True)
    shown = f"{table(lines)}\n\n{same_table(lines)}\n"
    print(shown)
    (given.out / "find.md").write_text(shown, encoding="utf-8")


if __name__ == "__main__":
    main()
