"""The search for the preset `laptop`: recipes tried on CIFAR-10, seed 0.

    python benchmarks/experiments/laptop_search.py [--data-dir DIR] [--out docs/laptop-search]

Trains every recipe and loss that is not yet in OUT.csv, two at a time and one thread each, then
prints the tables and draws OUT.png.  `seconds` is one process's time for one cell, so that a cell
takes half of it on two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from apl.config.config import make_config
from apl.files import write_atomic
from apl.runs.scores import Scores
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine, keep_freed_memory
from apl.training.networks import conv, head, initialise, make_network
from apl.training.train import train


class Recipe(NamedTuple):
    """What was tried: settings beside the preset's, a network of its own, the losses run."""

    name: str
    settings: dict[str, Any]
    network: Callable[[], nn.Module] | None = None
    losses: tuple[str, ...] = ("ce", "nce_rce")
    noise: str = "sym"
    rate: float = 0.6


def finish(layers: list[nn.Module], features: int, hidden: int) -> nn.Module:
    """The layers with the head and the initialisation of the paper's networks."""
    return initialise(nn.Sequential(*layers, nn.Flatten(), *head(features, hidden, 10)))


def patches() -> nn.Module:
    """2x2 patches, then four convolutions: 7 layers."""
    pool = nn.MaxPool2d(2)
    stem = [*conv(3, 32, 2, 2), *conv(32, 32), *conv(32, 48), pool]
    return finish([*stem, *conv(48, 48), *conv(48, 64), pool], 16 * 64, 128)


def early_patches() -> nn.Module:
    """As `patches`, pooled one convolution earlier and wider after it."""
    pool = nn.MaxPool2d(2)
    stem = [*conv(3, 32, 2, 2), *conv(32, 32), pool, *conv(32, 64), *conv(64, 64), pool]
    return finish([*stem, *conv(64, 96)], 16 * 96, 128)


def five_layers(first: int, second: int, third: int) -> nn.Module:
    """cnn5 in other widths."""
    pool = nn.MaxPool2d(2)
    stem = [*conv(3, first, 5, 2), *conv(first, second), pool]
    return finish([*stem, *conv(second, third), pool], 16 * third, 256)


def zero_head() -> nn.Module:
    """`patches` that begins with all logits zero."""
    network = patches()
    *_, last = network.children()
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return network


class SmallLogits(nn.Module):
    """A network whose logits are scaled down, as the fastest CIFAR-10 recipes do."""

    def __init__(self, network: nn.Module, scale: float) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images) * self.scale
        return logits


PATCHES = {"warmup": 0.0, "lr": 0.05}
ONLY = ("nce_rce",)

RECIPES = (
    Recipe(
        "cnn8 width 16, 20 epochs, no warm-up",
        {"network": "cnn8", "width": 16, "epochs": 20, "warmup": 0.0, "eval_every": 1},
    ),
    Recipe("patches, lr 0.05, no warm-up", PATCHES, patches, ("ce", "nce_rce", "mae", "nce")),
    Recipe("patches, lr 0.05, no warm-up, zero head", PATCHES, zero_head, ONLY),
    Recipe(
        "patches, lr 0.05, no warm-up, zero head, logits x 0.3",
        PATCHES,
        lambda: SmallLogits(zero_head(), 0.3),
        ONLY,
    ),
    Recipe("patches, lr 0.01, no warm-up", {"warmup": 0.0, "lr": 0.01}, patches, ONLY),
    Recipe("patches", {}, patches, ("ce", "nce_rce", "mae", "nce", "nce_mae")),
    Recipe("patches, batch 64", {"batch_size": 64}, patches, ONLY),
    Recipe(
        "patches, 5,000 images, 14 epochs",
        {"train_size": 5000, "epochs": 14},
        patches,
        ("ce", "nce_rce", "mae", "nce_mae"),
    ),
    Recipe("early patches", {}, early_patches),
    Recipe("cnn4 width 32", {"network": "cnn4", "width": 32}),
    Recipe("cnn5 in widths 32, 64, 96", {}, lambda: five_layers(32, 64, 96)),
    Recipe("cnn5 in widths 32, 64, 96, 8 epochs", {"epochs": 8}, lambda: five_layers(32, 64, 96)),
    Recipe("cnn5 in widths 24, 48, 96", {}, lambda: five_layers(24, 48, 96)),
    Recipe("the preset: cnn5 width 32", {}),
    # What might have kept NCE+RCE from giving classes up under asymmetric noise, and did not.
    *(
        Recipe(name, settings, None, ONLY, "asym", 0.4)
        for name, settings in (
            ("the preset: cnn5 width 32", {}),
            ("lr 0.01", {"lr": 0.01}),
            ("lr 0.005", {"lr": 0.005}),
            ("5 epochs of warm-up", {"warmup": 5.0}),
            ("batch 32, lr 0.01", {"batch_size": 32, "lr": 0.01}),
            ("weight decay 5e-3", {"weight_decay": 5e-3}),
            ("no momentum, lr 0.1", {"momentum": 0.0, "lr": 0.1}),
        )
    ),
    Recipe(
        "widths 32, 64, 96, 20,000 images",
        {"train_size": 20_000},
        lambda: five_layers(32, 64, 96),
        ("ce", "nce_rce"),
        "asym",
        0.4,
    ),
)


def run(job: tuple[int, str, Path | None]) -> dict[str, Any]:
    """One cell of the search; the test images are looked at once, after the last epoch."""
    index, loss, data_dir = job
    recipe = RECIPES[index]
    settings = {"eval_every": 1000, **recipe.settings}
    config = make_config("laptop", loss=loss, noise=recipe.noise, rate=recipe.rate, **settings)
    torch.manual_seed(config.seed)
    if recipe.network:
        network = recipe.network()
    else:
        network = make_network(config.network, (32, 32, 3), 10, config.width)
    began = time.perf_counter()
    machine = Machine(threads=1, data_dir=data_dir)
    result = train(config, network=network, machine=machine, listener=Listener(on_message=ignore))
    return {
        "recipe": recipe.name,
        "noise": recipe.noise,
        "rate": recipe.rate,
        "loss": loss,
        "test_accuracy": result.test_accuracy,
        "memorised": result.memorised,
        "never_predicted": len(Scores.of(np.array(result.confusion)).never_predicted),
        "seconds": round(time.perf_counter() - began, 1),
    }


def draw(table: pd.DataFrame, path: Path) -> None:
    """Points that NCE+RCE is ahead of CE by at sym 0.6, against a cell's time on two cores."""
    table = table[table["noise"] == "sym"]
    wide = table.pivot(index="recipe", columns="loss", values="test_accuracy") * 100
    times = table[table["loss"].isin(["ce", "nce_rce"])].groupby("recipe")["seconds"].mean() / 2
    gap = (wide["nce_rce"] - wide["ce"])[times.notna()].dropna()
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.axhline(15, color="0.6", linewidth=1, linestyle="--")
    axes.axvline(60, color="0.6", linewidth=1, linestyle="--")
    for recipe, points in gap.items():
        chosen = str(recipe).startswith("the preset")
        axes.plot(times[recipe], points, "o", color="C3" if chosen else "C0", markersize=7)
        axes.annotate(
            str(recipe),
            (times[recipe], points),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            fontweight="bold" if chosen else "normal",
        )
    axes.set_xlim(10, 110)
    axes.set_xlabel("seconds a cell on two cores")
    axes.set_ylabel("NCE+RCE ahead of CE, points")
    axes.set_title(
        "Recipes tried, CIFAR-10, 60 % symmetric noise, seed 0 (aims dashed)", fontsize=10
    )
    figure.savefig(path, dpi=150, metadata={"Software": None})


def describe(table: pd.DataFrame) -> str:
    """Markdown tables, one for each kind of noise: accuracy / memorised in %, classes given up."""
    lines = []
    for (noise, rate), part in table.groupby(["noise", "rate"], sort=False):
        losses = list(dict.fromkeys(part["loss"]))
        lines += [
            f"| {noise} {rate:g} | " + " | ".join(losses) + " | s a cell |",
            "| --- |" + " --- |" * (len(losses) + 1),
        ]
        for recipe in RECIPES:
            rows = part[part["recipe"] == recipe.name].set_index("loss")
            if rows.empty or recipe.noise != noise:
                continue
            cells = []
            for loss in losses:
                if loss not in rows.index:
                    cells.append("")
                    continue
                row = rows.loc[loss]
                cell = f"{100 * row['test_accuracy']:.1f} / {100 * row['memorised']:.0f}"
                given_up = int(row["never_predicted"])
                cells.append(cell + f" ({given_up} given up)" * bool(given_up))
            seconds = rows["seconds"].mean() / 2
            cells.append("" if pd.isna(seconds) else f"{seconds:.0f}")
            lines.append(f"| {recipe.name} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def start() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", default="docs/laptop-search")
    given = parser.parse_args()
    path = Path(given.out).with_suffix(".csv")
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    there = {(row["recipe"], row["noise"], row["loss"]) for row in rows}
    jobs = [
        (index, loss, given.data_dir)
        for index, recipe in enumerate(RECIPES)
        for loss in recipe.losses
        if (recipe.name, recipe.noise, loss) not in there
    ]
    with multiprocessing.get_context("spawn").Pool(2, start) as pool:
        for row in pool.imap(run, jobs):
            rows.append(row)
            write_atomic(path, pd.DataFrame(rows).to_csv(index=False).encode())
    table = pd.DataFrame(rows)
    print(describe(table))
    draw(table, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
