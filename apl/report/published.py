"""What papers published, to compare with: each figure with the protocol that it was got under."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import PurePath

import pandas as pd

from apl.presets import NETWORK, NOISES

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
    with resources.files("apl.report").joinpath("published.csv").open(encoding="utf-8") as file:
        numbers = {name: [""] for name in ("rate", "mean", "std", "epochs")}
        rows = pd.read_csv(file, keep_default_na=False, na_values=numbers)
    return rows.assign(**{name: rows[name] == "yes" for name in ("rerun", "quoted")})


def own_protocol(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows to rank losses by: what a paper measured as Ma et al. 2020 did, the 8-layer CNN on
    CIFAR-10 (ResNet-34 on CIFAR-100), scored after the last epoch.

    On CIFAR-10 those are the tables of Ma et al. 2020, Wang et al. 2024 (epsilon-softmax) and Wang
    et al. 2025 (JAL), other people's methods included. Not quoted and doubtful figures, nor those
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
