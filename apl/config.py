"""Everything that decides a run: one `Config`, the presets, and the weights the paper published."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from dataclasses import dataclass, field
from typing import Any

from apl.data.sources import HUMAN_LABELS, SOURCES
from apl.errors import BadInput
from apl.losses import PARAMS, loss_name, loss_terms
from apl.networks import NETWORKS
from apl.noise import METHODS, check_rate

PRECISIONS = ("float32", "tf32", "bf16")
NOISES = ("none", "sym", "asym", "pair", "human", "matrix")


def _option(help: str, default: Any = dataclasses.MISSING, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run.  Every field is an option of `apl train`; `make_config` fills them from a preset."""

    preset: str = _option("settings to start from: quick, laptop, paper, report")
    dataset: str = _option(f"{', '.join(SOURCES)}; each preset has its own")
    loss: str = _option("a name from `apl losses` or a sum such as `2*nce + 0.5*mae`")
    alpha: float | None = _option("weight of the active part of a combination")
    beta: float | None = _option("weight of the passive part of a combination")
    gamma: float | None = _option("focusing parameter of the focal losses")
    q: float | None = _option("exponent of the gce losses")
    A: float | None = _option("what rce puts for log 0")
    noise: str = _option(f"label noise: {', '.join(NOISES)}")
    rate: float = _option("noise rate, 0 to 1")
    map: str = _option(
        "asym: paper, report or a JSON/YAML file {source: target}; "
        f"human: {', '.join(HUMAN_LABELS)}; matrix: a .npy/.csv/.json file"
    )
    method: str = _option(f"how labels are flipped: {', '.join(METHODS)}")
    seed: int = _option("seed of the noise, the initial weights, the order and the augmentation")
    network: str = _option(", ".join(NETWORKS))
    width: int = _option("width of the network, see `apl datasets`")
    train_size: int = _option("how many training images, class-balanced; 0 for all")
    epochs: int = _option("passes over the training images")
    batch_size: int = _option("images per step")
    lr: float = _option("learning rate at the start; it falls to 0 along a cosine")
    momentum: float = _option("momentum of SGD")
    weight_decay: float = _option("weight decay of SGD")
    clip: float = _option("bound on the norm of the gradient; 0 for none")
    augment: bool = _option("random crop (pad 4) and horizontal flip")
    eval_every: int = _option("epochs between two looks at the test images; the last always is one")
    threads: int = _option(
        "CPU threads; 0: all cores for one run, one for each cell of a study", identity=False
    )
    device: str = _option("auto, cpu, cuda, cuda:1, mps", identity=False)
    checkpoint_minutes: float = _option(
        "minutes between checkpoints inside an epoch; one is written after every epoch too",
        identity=False,
    )
    # Fields that came later, with what runs did before they were there, so that old runs stay.
    warmup: float = _option("epochs over which the learning rate rises from 0", default=0.0)
    precision: str = _option(
        "of the network in training: float32, tf32 (as float32, with CUDA's faster products), "
        "bf16 (autocast)",
        default="tf32",
    )
    compile: bool = _option(
        "train the network through torch.compile, with CUDA graphs on a GPU: it compiles at the "
        "start, so for long runs",
        default=False,
        identity=False,
    )

    def __post_init__(self) -> None:
        _require(self.preset in PRESETS, "preset", self.preset, ", ".join(PRESETS))
        _require(self.network in NETWORKS, "network", self.network, ", ".join(NETWORKS))
        _require(self.noise in NOISES, "noise", self.noise, ", ".join(NOISES))
        _require(self.method in METHODS, "method", self.method, ", ".join(METHODS))
        _require(self.precision in PRECISIONS, "precision", self.precision, ", ".join(PRECISIONS))
        if self.noise == "human":
            _require(self.map in HUMAN_LABELS, "map", self.map, ", ".join(HUMAN_LABELS))
            _require(self.dataset == "cifar10", "dataset", self.dataset, "cifar10 with human noise")
        check_rate(self.rate)
        _require(2 <= self.width <= 1024, "width", self.width, "a whole number from 2 to 1024")
        for name in ("epochs", "eval_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number >= 1")
        _require(self.batch_size >= 2, "batch_size", self.batch_size, "a whole number >= 2")
        for name in ("train_size", "threads", "seed"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "a whole number >= 0")
        _require(self.seed < 2**63, "seed", self.seed, "a whole number below 2^63")
        for name in ("lr", "weight_decay", "clip", "checkpoint_minutes", "warmup"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, name, value, "a finite number >= 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "a number in [0, 1)")
        _require(
            re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device) is not None,
            "device",
            self.device,
            "auto, cpu, cuda, cuda:N, mps",
        )
        try:
            loss_terms(self.loss, SOURCES[self.dataset].num_classes, **self.loss_params)
        except ValueError as error:
            raise BadInput(str(error)) from None

    @property
    def loss_params(self) -> dict[str, Any]:
        """alpha, beta, gamma, q, A as `make_loss` takes them."""
        return {name: getattr(self, name) for name in PARAMS}

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings that are not the preset's; noise, rate, map and seed are no settings."""
        base = make_config(
            self.preset,
            **{name: getattr(self, name) for name in ("dataset", "loss", *_SETTING)},
        )
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(Config)
            if f.metadata.get("identity", True) and getattr(self, f.name) != getattr(base, f.name)
        }

    @property
    def variant(self) -> str:
        """What differs from the preset, as 'lr=0.5,width=8'; '' where nothing does."""
        return ",".join(f"{name}={_text(value)}" for name, value in self.overrides.items())

    @property
    def name(self) -> str:
        """A folder name that says all of it: 'nce_rce_sym-0.6_seed0', and what differs."""
        noise = "clean" if self.noise == "none" else self.noise
        if self.map:
            noise += f"-{self.map}"
        if self.noise in ("sym", "asym", "pair"):
            noise += f"-{_text(self.rate)}"
        parts = [self.loss, noise, f"seed{self.seed}", *filter(None, [self.variant])]
        return _safe("_".join(parts))

    def identity(self) -> dict[str, Any]:
        """The fields that decide the outcome, for comparing a run folder with what was asked."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.metadata.get("identity", True)
        }

    def is_identity(self, stored: object) -> bool:
        """Whether what `identity` gave, now or before some fields were there, is this run's."""
        later = {
            f.name: f.default
            for f in dataclasses.fields(self)
            if f.default is not dataclasses.MISSING and f.metadata.get("identity", True)
        }
        return isinstance(stored, dict) and {**later, **stored} == self.identity()


_SETTING = ("noise", "rate", "map", "seed")  # fields that say which cell of a study a run is


def _require(fits: bool, name: str, value: object, accepted: str) -> None:
    if not fits:
        raise BadInput(f"{name} is {value!r}; accepted: {accepted}")


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _safe(name: str) -> str:
    """A single path component on every system: no separators, no leading dot, not too long."""
    safe = re.sub(r"[^A-Za-z0-9.+=,_-]+", "", name.replace("*", "x").replace("/", "-")).lstrip(".")
    if len(safe) > 150:
        safe = f"{safe[:140]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return safe


@dataclass(frozen=True)
class Preset:
    """Settings, and the grid that `apl study` runs by default."""

    description: str
    dataset: str
    settings: dict[str, Any]
    per_dataset: dict[str, dict[str, Any]]
    losses: tuple[str, ...]
    rates: dict[str, tuple[float, ...]]
    seeds: int


_COMMON: dict[str, Any] = {
    **dict.fromkeys(PARAMS),
    "loss": "nce_rce",
    "noise": "sym",
    "rate": 0.4,
    "map": "",
    "method": "transition",
    "seed": 0,
    "train_size": 0,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "clip": 5.0,
    "augment": False,
    "eval_every": 1,
    "warmup": 0.0,
    "precision": "tf32",
    "compile": False,
    "threads": 0,
    "device": "auto",
    "checkpoint_minutes": 10.0,
}

_NINE = ("ce", "fl", "nce", "nfl", "mae", "nce_mae", "nce_rce", "nfl_mae", "nfl_rce")
_SYM = (0.2, 0.4, 0.6, 0.8)
_ASYM = (0.1, 0.2, 0.3, 0.4)

_NETWORK: dict[str, dict[str, Any]] = {
    "digits": {"network": "cnn4", "width": 32},
    "mnist": {"network": "cnn4", "width": 64},
    "cifar10": {"network": "cnn8", "width": 64},
    "cifar100": {"network": "resnet34", "width": 64},
}

PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "seconds a run: digits, a small CNN that memorises",
        "digits",
        # Networks as small as digits' gain nothing from a second thread, and lose much where
        # another process wants the core.
        {"epochs": 20, "batch_size": 64, "lr": 0.05, "threads": 1},
        {
            "mnist": {"width": 16, "threads": 0},
            "cifar10": {"width": 16, "threads": 0},
            "cifar100": {"threads": 0},
        },
        _NINE,
        {"none": (0.0,), "sym": _SYM, "asym": _ASYM},
        3,
    ),
    "laptop": Preset(
        "CIFAR-10 on two cores, few images and no augmentation: memorisation shows in a minute",
        "cifar10",
        {
            "network": "cnn5",
            "width": 32,
            "train_size": 10_000,
            "epochs": 10,
            "batch_size": 128,
            "lr": 0.02,
            "warmup": 2.0,
            "eval_every": 2,
        },
        {"digits": {"train_size": 0, "network": "cnn4"}},
        ("ce", "fl", "gce", "sce", "mae", "rce", "nce", "nfl", *_NINE[5:]),
        {"none": (0.0,), "sym": _SYM, "asym": _ASYM},
        3,
    ),
    "paper": Preset(
        "the settings of Ma et al. 2020 for each data set; a GPU's work",
        "cifar10",
        {"method": "exact-per-class", "batch_size": 128, "lr": 0.01},
        {
            "digits": {"epochs": 50, "weight_decay": 1e-3},
            "mnist": {"epochs": 50, "weight_decay": 1e-3},
            "cifar10": {"epochs": 120, "augment": True},
            "cifar100": {"epochs": 200, "lr": 0.1, "weight_decay": 1e-5, "augment": True},
        },
        ("ce", "fl", "gce", "sce", "nce", "nfl", "mae", "rce", *_NINE[5:]),
        {"none": (0.0,), "sym": _SYM, "asym": _ASYM},
        3,
    ),
    "report": Preset(
        "what the report ran: 15 epochs, batch 4, learning rate 1e-4, its rates and its map",
        "cifar10",
        {"epochs": 15, "batch_size": 4, "lr": 1e-4, "clip": 0.0, "width": 16},
        {"cifar100": {"network": "cnn8"}},
        ("nce", "nfl", "mae", "ce", "fl", "nce_mae", "nfl_mae"),
        {"sym": (0.4, 0.5, 0.6, 0.7), "asym": (0.1, 0.2, 0.23, 0.33)},
        1,
    ),
}

# The weights of each combination in the configuration files of the paper's code.  Its MAE is half
# of ours, so its beta of 1 for a combination with MAE is 0.5 here (see docs/losses.md).
PUBLISHED_WEIGHTS: dict[str, dict[str, dict[str, float]]] = {
    "mnist": {
        "sce": {"alpha": 0.01, "beta": 1.0},
        "nce_mae": {"alpha": 1.0, "beta": 5.0},
        "nfl_mae": {"alpha": 1.0, "beta": 5.0},
        "ngce_mae": {"alpha": 1.0, "beta": 5.0, "q": 0.1},
        "nce_rce": {"alpha": 1.0, "beta": 10.0},
        "nfl_rce": {"alpha": 1.0, "beta": 10.0},
        "ngce_rce": {"alpha": 1.0, "beta": 10.0, "q": 0.1},
    },
    "cifar10": {
        "sce": {"alpha": 0.1, "beta": 1.0},
        "nce_mae": {"alpha": 1.0, "beta": 0.5},
        "nfl_mae": {"alpha": 1.0, "beta": 0.5},
        "ngce_mae": {"alpha": 1.0, "beta": 0.5, "q": 0.1},
        "nce_rce": {"alpha": 1.0, "beta": 1.0},
        "nfl_rce": {"alpha": 1.0, "beta": 1.0},
        "ngce_rce": {"alpha": 1.0, "beta": 1.0, "q": 0.1},
    },
    "cifar100": {
        "sce": {"alpha": 6.0, "beta": 0.1},
        "nce_mae": {"alpha": 10.0, "beta": 0.5},
        "nfl_mae": {"alpha": 10.0, "beta": 0.5},
        "ngce_mae": {"alpha": 10.0, "beta": 0.5},
        "nce_rce": {"alpha": 10.0, "beta": 0.1},
        "nfl_rce": {"alpha": 10.0, "beta": 0.1},
        "ngce_rce": {"alpha": 10.0, "beta": 0.1},
    },
}


def make_config(preset: str = "quick", **given: Any) -> Config:
    """A config from a preset: the preset's settings for the data set, then what is `given`.

    None means not given.  The presets `paper` and `laptop` use the published weights of each
    combination; the others alpha = beta = 1.  Raises BadInput for anything that does not fit.
    """
    if preset not in PRESETS:
        raise BadInput(f"preset is {preset!r}; accepted: {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    given = {name: value for name, value in given.items() if value is not None}
    if "loss" in given:
        given["loss"] = loss_name(given["loss"])
    dataset = given.get("dataset", chosen.dataset)
    if dataset not in SOURCES:
        raise BadInput(f"dataset is {dataset!r}; accepted: {', '.join(SOURCES)}")
    settings = {
        **_COMMON,
        **_NETWORK[dataset],
        **chosen.settings,
        **chosen.per_dataset.get(dataset, {}),
        "preset": preset,
        "dataset": dataset,
    }
    if given.get("network", settings["network"]) != settings["network"]:
        settings["width"] = 64
    if preset in ("paper", "laptop"):
        loss = given.get("loss", settings["loss"])
        settings.update(PUBLISHED_WEIGHTS.get(dataset, {}).get(loss, {}))
    settings.update(given)
    if settings["noise"] == "none":
        settings["rate"] = 0.0
    if not settings["map"]:
        default = {"asym": "report" if preset == "report" else "paper", "human": "worse"}
        settings["map"] = default.get(settings["noise"], "")
    if settings["noise"] not in ("asym", "human", "matrix"):
        settings["map"] = ""
    if settings["noise"] == "matrix" and not settings["map"]:
        raise BadInput("matrix noise needs --map FILE with the transition matrix")
    return Config(**settings)
