"""When classes are given up under asymmetric noise: epoch by epoch, by strength of the network.

    python benchmarks/experiments/given_up.py [--out docs/given-up] [--seeds 1] [--data-dir DIR]

Trains the laptop recipe on CIFAR-10 with NCE+RCE at asymmetric 0.4, with and without three epochs
of CE first, at several widths and after each epoch takes the predictions on the test images.  A
class is given up where it is never predicted, as `Scores.never_predicted` has it.  Writes a row an
epoch and class to OUT.csv, draws OUT.png and prints a Markdown table.  What stands in OUT.csv is
not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch

from apl.config.config import Config, make_config
from apl.runs.scores import score
from apl.training.evaluate import Evaluator
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine, keep_freed_memory
from apl.training.networks import make_network
from apl.training.prepare import data_of
from apl.training.train import train

WIDTHS = (8, 16, 32, 64)
WARM = (0.0, 3.0)


def recalls(config: Config, machine: Machine) -> list[dict[str, float]]:
    """The recall of each class after each epoch of a training, and whether it is given up: rows of
    epoch, class, recall, lost."""
    data = data_of(config, machine)
    torch.manual_seed(config.seed)
    shape = tuple(data.train.images.shape[1:])
    network = make_network(config.network, shape, data.num_classes, config.width)
    true = data.test.labels.true
    rows: list[dict[str, float]] = []

    def on_epoch(row: dict[str, float]) -> None:
        predicted = Evaluator(network, data, config).predict(data.test.images)
        scores = score(predicted, true, data.num_classes)
        for k, recall in enumerate(scores.per_class):
            lost = k in scores.never_predicted
            rows.append({"epoch": row["epoch"], "class": k, "recall": recall, "lost": lost})

    train(
        config,
        machine=machine,
        network=network,
        listener=Listener(on_epoch=on_epoch, on_message=ignore),
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/given-up"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    machine = Machine(data_dir=given.data_dir)
    keep_freed_memory()
    file = given.out.with_suffix(".csv")
    done = pd.read_csv(file) if file.exists() else pd.DataFrame()
    for seed in range(given.seeds):
        for width in WIDTHS:
            for warm in WARM:
                cell = {"width": width, "warm": warm, "seed": seed}
                if len(done) and (done[list(cell)] == list(cell.values())).all(axis=1).any():
                    continue
                config = make_config(
                    *("laptop",),
                    **{"loss": "nce_rce", "noise": "asym", "rate": 0.4, "eval_every": 100},
                    **{"width": width, "warm_start": warm, "seed": seed},
                )
                rows = pd.DataFrame(recalls(config, machine)).assign(**cell)
                done = pd.concat([done, rows], ignore_index=True)
                done.to_csv(file, index=False)
    draw(done, given.out.with_suffix(".png"))
    print(table(done))


def lost(rows: pd.DataFrame) -> pd.Series:
    """How many classes are given up after each epoch, the mean over seeds."""
    counts = rows.groupby(["seed", "epoch"])["lost"].sum()
    return counts.groupby("epoch").mean()


def table(rows: pd.DataFrame) -> str:
    """Classes given up by epoch, a line a training."""
    epochs = sorted(rows["epoch"].unique())
    lines = [
        "| width | CE first | "
        + " | ".join(f"{epoch}" for epoch in epochs)
        + " | recall at the end |",
        "| --- | --- |" + " --- |" * (len(epochs) + 1),
    ]
    for (width, warm), part in rows.groupby(["width", "warm"]):
        counts = lost(part)
        end = part[part["epoch"] == epochs[-1]]["recall"].mean()
        cells = " | ".join(f"{counts[epoch]:g}" for epoch in epochs)
        lines.append(f"| {width} | {warm:g} | {cells} | {end:.3f} |")
    return "\n".join(lines)


def draw(rows: pd.DataFrame, path: Path) -> None:
    """The recall of each class over the epochs, a panel a width, with and without CE first."""
    widths = sorted(rows["width"].unique())
    figure, panels = plt.subplots(
        *(len(WARM), len(widths)),
        **{"figsize": (3 * len(widths), 5), "sharex": True, "sharey": True, "squeeze": False},
        layout="constrained",
    )
    for line, warm in zip(panels, WARM, strict=True):
        for panel, width in zip(line, widths, strict=True):
            part = rows[(rows["width"] == width) & (rows["warm"] == warm)]
            gone = 0
            for _, of_class in part.groupby("class"):
                recall = of_class.groupby("epoch")["recall"].mean()
                at_end = of_class[of_class["epoch"] == of_class["epoch"].max()]
                lost_it = at_end["lost"].mean() >= 0.5
                gone += lost_it
                color, thickness = ("#c94f00", 2.0) if lost_it else ("#9aa7b5", 1.0)
                panel.plot(recall.index, recall, color=color, linewidth=thickness)
            panel.set_title(f"width {width}: {gone or 'none'} given up", fontsize=10)
        line[0].set_ylabel(
            f"{warm:g} epochs of CE first" if warm else "NCE+RCE from the start", fontsize=10
        )
    figure.supylabel("Recall of each class on clean test labels", fontsize=10)
    for panel in panels[-1]:
        panel.set_xlabel("Epoch")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
