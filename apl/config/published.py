"""What papers published: the settings of each loss, and figures to compare with, each with the
protocol that it was got under."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import PurePath
from typing import TYPE_CHECKING

from apl.config.presets import NETWORK
from apl.losses.catalog import PARAMS
from apl.names import NOISES

if TYPE_CHECKING:
    import pandas as pd

Settings = Mapping[tuple[str, str], Mapping[tuple[str, str], Mapping[str, float]]]
"""By (dataset, loss) and (noise, rate), '' for any: the parameters and settings."""


def settings_rows() -> list[dict[str, str]]:
    """Every published setting as settings.csv has it: dataset, loss, noise, rate, parameter, value,
    source.

    The parameters of each loss in the configuration files of the paper's code and of its
    successors', and the settings of the training that are part of a method, such as the L1 of ANL.
    noise and rate are '' where authors take one value for all of it; some set theirs by the noise,
    or even by its rate, and so by what nobody knows in practice.  Values are those of our losses:
    the MAE of most papers is half of ours, so a scale or beta of 1 for it is 0.5 here
    (docs/losses.md); in CE_eps+MAE theirs is ours.
    """
    with resources.files("apl.config").joinpath("settings.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def published_lines(loss: str) -> list[str]:
    """What is published of a loss, a line for each data set, noise and source."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in settings_rows():
        if row["loss"] == loss:
            at = " ".join(filter(None, (row["dataset"], row["noise"], row["rate"])))
            lines.setdefault((at, row["source"]), []).append(f"{row['parameter']}={row['value']}")
    return [f"{at}: {', '.join(set_)} ({source})" for (at, source), set_ in lines.items()]


@functools.cache
def published_table() -> Settings:
    """settings.csv by what it is looked up by."""
    found: dict[tuple[str, str], dict[tuple[str, str], dict[str, float]]] = {}
    for row in settings_rows():
        of_loss = found.setdefault((row["dataset"], row["loss"]), {})
        at = of_loss.setdefault((row["noise"], row["rate"]), {})
        at[row["parameter"]] = float(row["value"])
    return found


@functools.cache
def published_names() -> frozenset[str]:
    """The parameters and settings that any loss has published values of, and all parameters."""
    return frozenset({row["parameter"] for row in settings_rows()} | {*PARAMS})


def published_settings(dataset: str, loss: str, noise: str, rate: float) -> dict[str, float]:
    """What is published for a loss on a data set under this noise: loss parameters, and settings of
    the training that are part of the method; {} where nothing is.

    A rate that is not there has what stands for its kind of noise.  Symmetric over all classes
    counts as symmetric: authors who draw so call it that, and choose by the rate that they draw at.
    """
    noise = "sym" if noise == "sym-all" else noise
    of_loss = published_table().get((dataset, loss), {})
    settings: dict[str, float] = {}
    for at in (("", ""), (noise, ""), (noise, f"{rate:g}")):
        settings |= of_loss.get(at, {})
    return settings


# The label files that LogitClip, epsilon-softmax and JAL share, by whatever path they are given.
_SHARED_FILE = re.compile(r"cifar100?_dependent_(0\.\d+)\.json")


def published_rows() -> pd.DataFrame:
    """Every published figure, a row each, Ma et al. 2020 first.

    dataset, noise, map, rate, method: by our names where we have the same thing, else by the
    paper's. 'asym' on CIFAR-100 has the map 'blocks', since that is what everybody's code does; a
    draw from all classes is 'sym-all'; what is instance-dependent has the name of its kind; the
    rate is nan where the labels decide it and nobody counted. The test set is part of the dataset
    where there are several.
    mean, std: in %; std nan where there is none.
    paper, network, epochs, epoch: who trained what, for how long, and which epoch was scored:
    'last', 'best' or 'other'. '' (nan for epochs) is what was not stated.
    rerun: whether the paper ran somebody else's method, so that this is not its authors' figure.
    quoted: whether it was read elsewhere than in that paper: in a note, or in another paper.
    doubtful: why not to trust it, '' where there is no reason known.
    source: where it was read.
    """
    return _published_rows().copy()


@functools.cache
def _published_rows() -> pd.DataFrame:
    import pandas as pd

    with resources.files("apl.config").joinpath("published.csv").open(encoding="utf-8") as file:
        numbers = {name: [""] for name in ("rate", "mean", "std", "epochs")}
        rows = pd.read_csv(file, keep_default_na=False, na_values=numbers)
    return rows.assign(**{name: rows[name] == "yes" for name in ("rerun", "quoted")})


def own_protocol(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows to rank losses by: what a paper measured as Ma et al. 2020 did, the 8-layer CNN on
    CIFAR-10 (ResNet-34 on CIFAR-100, the 4-layer CNN on MNIST), scored after the last epoch.

    On CIFAR-10 those are the tables of Ma et al. 2020 and Wang et al. 2024 (epsilon-softmax), other
    people's methods included; on MNIST that of Ma et al., which stands in the authors' notebook
    alone. Not quoted and doubtful figures, nor those
    of another network, of the best epoch, or of one that is not stated.
    """
    networks = rows["dataset"].map(lambda name: NETWORK.get(name, {}).get("network"))
    measured = ~rows["quoted"] & (rows["doubtful"] == "")
    return rows[(rows["network"] == networks) & (rows["epoch"] == "last") & measured]


def published_at(rows: pd.DataFrame, noise: str, map: str, x: float) -> pd.DataFrame:
    """Those of the rows that have a noise setting; map, x: as in the runs of a `Study`.

    A label file that papers share counts as the noise that made it, by its name.
    """
    shared = _SHARED_FILE.fullmatch(PurePath(map).name) if noise == "file" else None
    if shared:
        noise, map, x = "idn-uniform", "normalised", 100 * float(shared[1])
    same = (rows["noise"] == noise) & (rows["map"] == map)
    if NOISES[noise].rated:
        same &= (100 * rows["rate"] - x).abs() < 1e-6
    return rows[same]
