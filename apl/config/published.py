"""What papers published: the settings of each loss, and figures to compare with, each with the
protocol that it was got under."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import PurePath
from typing import TYPE_CHECKING

from apl.config.presets import NETWORK
from apl.names import NOISES

if TYPE_CHECKING:
    import pandas as pd

# The parameters of each loss in the configuration files of the paper's code and of its successors',
# and the settings of the training that are part of a method.  The sums with MAE and RCE, SCE: the
# paper's, as eps-softmax and ANL have them too (ALFs has others).  AGCE, AUL, AEL and NCE with
# them: `lnl/config.py` of ALFs (Zhou et al. 2021).  ANL: its config/*.json (Ye et al. 2023; +ER:
# the journal version).  JAL: its `config.py` (Wang et al. 2025).  CE_eps+MAE, LDR-KL, CE+LC (eps):
# `config.py` of eps-softmax (Wang et al. 2024).  PHuber: dmizr/phuber, after Menon et al. 2020.
# ELR: its configs (Liu et al. 2020).  SR: `config.py` and `main.py` of lnl_sr (Zhou et al. 2021).
# JS, GJS: their yaml files (Englesson & Azizpour 2021).  The quantile of forward_est: `models.py`
# of loss-correction (Patrini et al. 2017).
# Their MAE is half of ours, so a scale or beta of 1 for it is 0.5 here (see docs/losses.md); in
# CE_eps+MAE theirs is ours.
PUBLISHED_WEIGHTS: dict[str, dict[str, dict[str, float]]] = {
    "mnist": {
        "mae": {"scale": 0.5},
        "agce": {"a": 4.0, "q": 0.2},
        "aul": {"a": 3.0, "q": 0.1},
        "ael": {"a": 3.5},
        "nce_agce": {"alpha": 0.0, "beta": 1.0, "a": 4.0, "q": 0.2},
        "nce_aul": {"alpha": 0.0, "beta": 1.0, "a": 3.0, "q": 0.1},
        "nce_ael": {"alpha": 0.0, "beta": 1.0, "a": 3.5},
        "anl_ce": {"alpha": 1.0, "beta": 1.0, "l1": 1e-6, "weight_decay": 0.0},
        "anl_fl": {"alpha": 1.0, "beta": 1.0, "l1": 1e-6, "weight_decay": 0.0},
        "phuber_ce": {"tau": 10.0},
        "phuber_gce": {"tau": 10.0, "q": 0.7},
        "ldr_kl": {"margin": 0.1, "lam": 10.0},
        "forward_est": {"quantile": 0.97},
        "sr": {"temp": 0.1, "s": 0.1, "lam": 4.0, "rho": 2.0, "every": 5.0},
        "sce": {"alpha": 0.01, "beta": 1.0},
        "nce_mae": {"alpha": 1.0, "beta": 5.0},
        "nfl_mae": {"alpha": 1.0, "beta": 5.0},
        "ngce_mae": {"alpha": 1.0, "beta": 5.0, "q": 0.1},
        "nce_rce": {"alpha": 1.0, "beta": 10.0},
        "nfl_rce": {"alpha": 1.0, "beta": 10.0},
        "ngce_rce": {"alpha": 1.0, "beta": 10.0, "q": 0.1},
    },
    "cifar10": {
        "mae": {"scale": 0.5},
        "agce": {"a": 0.6, "q": 0.6},
        "aul": {"a": 5.5, "q": 3.0},
        "ael": {"a": 2.5},
        "nce_agce": {"alpha": 1.0, "beta": 4.0, "a": 6.0, "q": 1.5},
        "nce_aul": {"alpha": 1.0, "beta": 4.0, "a": 6.3, "q": 1.5},
        "nce_ael": {"alpha": 1.0, "beta": 4.0, "a": 5.0},
        "anl_ce": {"alpha": 5.0, "beta": 5.0, "l1": 5e-5, "weight_decay": 0.0},
        "anl_fl": {"alpha": 5.0, "beta": 5.0, "l1": 5e-5, "weight_decay": 0.0},
        "phuber_ce": {"tau": 2.0},
        "phuber_gce": {"tau": 10.0, "q": 0.7},
        "jal_ce": {"alpha": 1.0, "beta": 1.0, "a": 30.0, "l1": 5e-5, "weight_decay": 0.0},
        "jal_fl": {"alpha": 1.0, "beta": 1.0, "a": 30.0, "l1": 5e-5, "weight_decay": 0.0},
        "eps_softmax_mae": {"alpha": 0.01, "beta": 5.0, "m": 1e5},
        "ldr_kl": {"margin": 0.1, "lam": 10.0},
        "forward_est": {"quantile": 0.97},
        "elr": {"ema": 0.7, "lam": 3.0},
        "sr": {"temp": 0.5, "s": 0.1, "lam": 1.2, "rho": 1.03},
        "anl_ce_er": {"alpha": 5.0, "beta": 5.0, "lam": 2.0, "l1": 5e-5, "weight_decay": 0.0},
        "anl_fl_er": {"alpha": 5.0, "beta": 5.0, "lam": 2.0, "l1": 5e-5, "weight_decay": 0.0},
        "sce": {"alpha": 0.1, "beta": 1.0},
        "nce_mae": {"alpha": 1.0, "beta": 0.5},
        "nfl_mae": {"alpha": 1.0, "beta": 0.5},
        "ngce_mae": {"alpha": 1.0, "beta": 0.5, "q": 0.1},
        "nce_rce": {"alpha": 1.0, "beta": 1.0},
        "nfl_rce": {"alpha": 1.0, "beta": 1.0},
        "ngce_rce": {"alpha": 1.0, "beta": 1.0, "q": 0.1},
    },
    "cifar100": {
        "mae": {"scale": 0.5},
        "agce": {"a": 0.6, "q": 0.6},
        "aul": {"a": 5.5, "q": 3.0},
        "ael": {"a": 2.5},
        "nce_agce": {"alpha": 10.0, "beta": 0.1, "a": 1.8, "q": 3.0},
        "nce_aul": {"alpha": 10.0, "beta": 0.015, "a": 6.0, "q": 3.0},
        "nce_ael": {"alpha": 10.0, "beta": 0.1, "a": 1.5},
        "anl_ce": {"alpha": 10.0, "beta": 1.0, "l1": 5e-7, "weight_decay": 0.0},
        "anl_fl": {"alpha": 10.0, "beta": 1.0, "l1": 5e-7, "weight_decay": 0.0},
        "phuber_ce": {"tau": 10.0},
        "phuber_gce": {"tau": 10.0, "q": 0.7},
        "jal_ce": {"alpha": 5.0, "beta": 1.0, "a": 20.0, "l1": 5e-6, "weight_decay": 0.0},
        "jal_fl": {"alpha": 5.0, "beta": 1.0, "a": 20.0, "l1": 5e-6, "weight_decay": 0.0},
        "eps_softmax_mae": {"beta": 1.0, "m": 1e4},
        "ldr_kl": {"margin": 0.1, "lam": 1.0},
        "forward_est": {"quantile": 1.0},
        "elr": {"ema": 0.9, "lam": 7.0},
        "sr": {"temp": 0.5, "s": 0.01, "lam": 4.0, "rho": 1.02},
        "anl_ce_er": {"alpha": 10.0, "beta": 1.0, "lam": 0.01, "l1": 5e-7, "weight_decay": 0.0},
        "anl_fl_er": {"alpha": 10.0, "beta": 1.0, "lam": 0.01, "l1": 5e-7, "weight_decay": 0.0},
        "sce": {"alpha": 6.0, "beta": 0.1},
        "nce_mae": {"alpha": 10.0, "beta": 0.5},
        "nfl_mae": {"alpha": 10.0, "beta": 0.5},
        "ngce_mae": {"alpha": 10.0, "beta": 0.5},
        "nce_rce": {"alpha": 10.0, "beta": 0.1},
        "nfl_rce": {"alpha": 10.0, "beta": 0.1},
        "ngce_rce": {"alpha": 10.0, "beta": 0.1},
    },
}

# ANL by its own config, the others by eps-softmax's and JAL's.  JS and GJS leave out a factor here.
_ON_WEBVISION: dict[str, dict[str, float]] = {
    "gce": {"q": 0.7},
    "sce": {"alpha": 10.0, "beta": 1.0},
    "agce": {"a": 1e-5, "q": 0.5},
    "nce_rce": {"alpha": 50.0, "beta": 0.1},
    "nce_agce": {"alpha": 50.0, "beta": 0.1, "a": 2.5, "q": 3.0},
    "anl_ce": {"alpha": 20.0, "beta": 1.0, "l1": 5e-6, "weight_decay": 0.0},
    "jal_ce": {"alpha": 50.0, "beta": 1.0, "a": 30.0},
    "eps_softmax_mae": {"alpha": 0.015, "beta": 0.3, "m": 1e3},
    "ldr_kl": {"margin": 0.1, "lam": 1.0},
    "ce_lc_eps": {"delta": 1.2},
    "js": {"pi": 0.1},
    "gjs": {"pi": 0.1},
}
PUBLISHED_WEIGHTS |= {
    "webvision_mini": _ON_WEBVISION,
    "ilsvrc12_val50": _ON_WEBVISION,
    "clothing1m": {
        "gce": {"q": 0.6},
        "nce_rce": {"alpha": 10.0, "beta": 1.0},
        "nce_agce": {"alpha": 50.0, "beta": 0.1, "a": 2.5, "q": 3.0},
        "anl_ce": {"alpha": 5.0, "beta": 0.1, "p_min": 1e-8},  # by JAL, which adds no L1 here
        "jal_ce": {"alpha": 5.0, "beta": 0.1, "a": 5.0},
        "eps_softmax_mae": {"alpha": 0.012, "beta": 0.1, "m": 1e3},
        "ldr_kl": {"margin": 0.1, "lam": 1.0},
        "elr": {"ema": 0.7, "lam": 3.0},  # of ELR+, with two networks
    },
}

# What some authors set by the noise, or even by its rate ('sym 0.2'): so by what nobody knows in
# practice.  A rate that is not here has the line of its kind.
PUBLISHED_BY_NOISE: dict[str, dict[str, dict[str, dict[str, float]]]] = {
    "cifar10": {
        "eps_softmax_mae": {
            "asym": {"alpha": 0.02, "m": 1e3},
            "idn-uniform": {"alpha": 0.045, "beta": 10.0},
            "human": {"alpha": 0.5, "beta": 1.0, "m": 1e4},
        },
        "ce_lc_eps": {
            **{kind: {"delta": 1.0} for kind in ("none", "sym 0.2", "sym 0.4")},
            **{kind: {"delta": 1.5} for kind in ("sym 0.6", "sym 0.8")},
            **{kind: {"delta": 2.5} for kind in ("asym", "human")},
            "idn-uniform": {"delta": 2.0},
        },
        "elr": {"asym": {"ema": 0.9, "lam": 1.0}},
        "js": {
            **{"none": {"pi": 0.1}, "asym": {"pi": 0.3}},
            **{kind: {"pi": 0.7} for kind in ("sym 0.2", "sym 0.4")},
            **{kind: {"pi": 0.9} for kind in ("sym 0.6", "sym 0.8")},
        },
        "gjs": {
            **{"none": {"pi": 0.5}, "asym": {"pi": 0.3}, "sym 0.2": {"pi": 0.3}},
            **{"sym 0.4": {"pi": 0.9}, "sym 0.6": {"pi": 0.1}, "sym 0.8": {"pi": 0.1}},
        },
    },
    "cifar100": {
        "eps_softmax_mae": {
            **{"none": {"alpha": 0.1}, "sym 0.2": {"alpha": 0.05}, "sym 0.4": {"alpha": 0.03}},
            # 0.0125 in the paper, 0.00125 in the code that made its figures
            **{"sym 0.6": {"alpha": 0.00125}, "sym 0.8": {"alpha": 0.0075}},
            **{"asym 0.1": {"alpha": 0.015, "m": 1e2}, "asym 0.2": {"alpha": 0.007, "m": 1e2}},
            **{"asym 0.3": {"alpha": 0.005, "m": 1e2}, "asym 0.4": {"alpha": 0.004, "m": 1e2}},
            **{"idn-uniform 0.2": {"alpha": 0.05}, "idn-uniform 0.4": {"alpha": 0.03}},
            "idn-uniform 0.6": {"alpha": 0.00125},
            "human": {"alpha": 0.5},
        },
        "ce_lc_eps": {"": {"delta": 0.5}, "asym": {"delta": 2.5}},
        "sr": {"asym": {"lam": 10.0}},
        "js": {
            **{kind: {"pi": 0.1} for kind in ("none", "sym 0.2")},
            **{"sym 0.4": {"pi": 0.3}, "sym 0.6": {"pi": 0.5}, "sym 0.8": {"pi": 0.3}},
            "asym": {"pi": 0.5},
        },
        "gjs": {
            **{kind: {"pi": 0.3} for kind in ("none", "sym 0.2")},
            **{"sym 0.4": {"pi": 0.5}, "sym 0.6": {"pi": 0.9}, "sym 0.8": {"pi": 0.1}},
            **{"asym 0.2": {"pi": 0.5}, "asym 0.4": {"pi": 0.1}},
        },
    },
}


def published_settings(dataset: str, loss: str, noise: str, rate: float) -> dict[str, float]:
    """What is published for a loss on a data set under this noise: loss parameters, and settings of
    the training that are part of the method; {} where nothing is.

    Symmetric over all classes counts as symmetric: authors who draw so call it that, and choose by
    the rate that they draw at.
    """
    noise = "sym" if noise == "sym-all" else noise
    of_noise = PUBLISHED_BY_NOISE.get(dataset, {}).get(loss, {})
    settings = dict(PUBLISHED_WEIGHTS.get(dataset, {}).get(loss, {}))
    for kind in ("", noise, f"{noise} {rate:g}"):
        settings |= of_noise.get(kind, {})
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
    import pandas as pd

    with resources.files("apl.config").joinpath("published.csv").open(encoding="utf-8") as file:
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
