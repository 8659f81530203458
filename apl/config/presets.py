"""What we and the papers choose: the settings of each preset and the grid of its study."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from apl.names import MAPS, NOISES

# ---------------------------------------------------------------------------- what is chosen


@dataclass(frozen=True)
class Preset:
    """Settings, and the grid that `apl study` runs by default.

    weights: whether losses have their published settings, or those of the loss alone;
    per_dataset: of a built-in data set, or one with a published layout (`apl.data.layouts`);
    maps: as `MAPS`, '' for any data set;
    own: settings on data of the user's own, own_head: those on features of such data, own_steps:
    the fewest steps in both, whatever the epochs; own_decay: the weight decay of a linear head on
    these features, times the training samples and the classes (`decay_of`), 0 for that of `HEAD`;
    own_each: how many images there are for each component that it sees (`components_of`).
    """

    description: str
    dataset: str
    settings: dict[str, Any]
    per_dataset: dict[str, dict[str, Any]]
    losses: tuple[str, ...]
    rates: dict[str, tuple[float, ...]]
    seeds: int
    weights: bool = False
    maps: dict[tuple[str, str], str] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    own_head: dict[str, Any] = field(default_factory=dict)
    own_steps: int = 420  # what the preset quick gives to digits
    own_decay: float = 0.0
    own_each: int = 0

    def decay_of(self, samples: int, classes: int) -> float:
        """The weight decay of a linear head on features of so much data of the user's own: the more
        there is to learn from, the less; two digits of it, so that names stay short."""
        return float(f"{min(1.0, self.own_decay / (samples * max(classes, 10))):.2g}")

    def components_of(self, samples: int) -> int:
        """How many principal components of its features a linear head on so many images of the
        user's own sees: the others are chance in few images, by which it learns labels by heart.
        0 for all of them, where there are many."""
        found = samples // self.own_each if self.own_each else 0
        return found if found < MANY_COMPONENTS else 0

    def map_of(self, dataset: str, noise: str) -> str:
        """The map that a kind of noise has where none is given."""
        anywhere = self.maps.get(("", noise), NOISES[noise].map)
        return {**MAPS, **self.maps}.get((dataset, noise), anywhere)


COMMON: dict[str, Any] = {
    "loss": "nce_rce",
    "noise": "sym",
    "rate": 0.4,
    "map": "",
    "method": "transition",
    "seed": 0,
    "train_size": 0,
    "image_size": 0,
    "label_column": "label",
    "test_set": "",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "clip": 5.0,
    "augment": False,
    "eval_every": 1,
    "warmup": 0.0,
    "precision": "tf32",
    "weights": "",
    "crop_size": 0,
    "colour": 0.0,
    "l1": 0.0,
    "warm_start": 0.0,
    "select": "",
    "labels": "",
    "schedule": "cosine",
    "nesterov": False,
    "crop": "resized",
    "features": "none",
    "dropout": 0.0,
    "fresh_data": False,
    "weight_ema": 0.0,
    "components": 0,
}

_NINE = ("ce", "fl", "nce", "nfl", "mae", "nce_mae", "nce_rce", "nfl_mae", "nfl_rce")
_SYM = (0.2, 0.4, 0.6, 0.8)
_ASYM = (0.1, 0.2, 0.3, 0.4)

NETWORK: dict[str, dict[str, Any]] = {
    "digits": {"network": "cnn4", "width": 32},
    "mnist": {"network": "cnn4", "width": 64},
    "cifar10": {"network": "cnn8", "width": 64},
    "cifar100": {"network": "resnet34", "width": 64},
}


def own_network(image_size: int) -> dict[str, Any]:
    """The network for data of the user's own: one whose step a CPU can pay for at that size."""
    if image_size < 8:
        # A table counts as images of one pixel a side; nothing of it can be cropped.
        own = {"augment": False} if image_size == 1 else {}
        return {"network": "mlp", "width": 64, "dropout": 0.0, **own}
    return {"network": "cnn4" if image_size <= 32 else "cnn5", "width": 32}


DROPS = ("cnn4", "cnn5", "cnn8", "mlp")  # the networks of ours that take dropout, on pixels or rows
HEADS = ("linear", "mlp")  # the networks of ours that learn from features
MANY_COMPONENTS = 512  # which are not worth the products that leave the others out
HEAD_WIDTH = 512  # hidden units of an mlp on features, where none are given

HEAD: dict[str, Any] = {
    "network": "linear",
    "width": 64,
    "epochs": 20,
    "batch_size": 128,
    "lr": 0.02,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 1e-3,
    "schedule": "cosine",
    "warmup": 0.0,
    "warm_start": 0.0,
    "clip": 5.0,
    "l1": 0.0,
    "augment": False,
    "crop_size": 0,
    "crop": "resized",
    "colour": 0.0,
    "eval_every": 1,
    "dropout": 0.0,
    "weight_ema": 0.0,
    "components": 0,
    "weights": "",
}
"""What a training on features has in each preset: chosen once for all losses, data and noises, as
docs/features.md says."""


REPAIRED_HEAD: dict[str, Any] = {
    "network": "mlp",
    "width": HEAD_WIDTH,
    "dropout": 0.5,
    "weight_decay": 5e-3,
}
"""What is other where labels are repaired: soft targets leave little to memorise, so a hidden layer
helps; chosen once, as docs/repair.md says."""

WARM_START = 2.0  # epochs of ce where budgets are short, see docs/warm-start.md

SEARCH: dict[str, Any] = {"loss": "sce", "warm_start": 3.0}
"""What `apl find` trains with where no loss is given: some epochs with ce, for the visits that are
early, then SCE."""

OTHER_WIDTH = 64  # of a network that is not the preset's, where none is given

_RESNET50 = {"network": "torchvision:resnet50", "width": OTHER_WIDTH}
# Ye et al. 2023, `dataset.py` and config/webvision_*.json: resized crops, the hue besides.
_WEBVISION: dict[str, Any] = {
    **_RESNET50,
    "crop_size": 224,
    "augment": True,
    "colour": 0.4,
    "epochs": 250,
    "batch_size": 512,
    "lr": 0.4,
    "schedule": "x0.97",
    "nesterov": True,
    "weight_decay": 3e-5,
}

PRESETS: dict[str, Preset] = {
    "quick": Preset(
        "seconds a run: digits, a small CNN that memorises",
        "digits",
        {"epochs": 20, "batch_size": 64, "lr": 0.05},
        {"mnist": {"width": 16}, "cifar10": {"width": 16}},
        _NINE,
        {"none": (0.0,), "sym": _SYM, "asym": _ASYM},
        3,
        # Chosen on small sets, each time once for all losses: docs/own-data.md.
        own={"warm_start": WARM_START, "epochs": 7, "weight_decay": 1e-2, "dropout": 0.3},
        own_head={"weight_ema": 0.98},
        own_steps=80,
        own_decay=4000.0,
        own_each=8,
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
        {
            "digits": {"train_size": 0, "network": "cnn4"},
            "mnist": {
                "network": "cnn4",
                "width": 32,
                "train_size": 5_000,
                "epochs": 20,
                "eval_every": 5,
            },
        },
        ("ce", "fl", "gce", "sce", "mae", "rce", "nce", "nfl", *_NINE[5:]),
        {"none": (0.0,), "sym": _SYM, "asym": _ASYM},
        3,
        weights=True,
        own={"warm_start": WARM_START},
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
            "webvision_mini": _WEBVISION,
            "ilsvrc12_val50": _WEBVISION,
            # Wang et al. 2024 (eps-softmax), `main_real_world.py`
            "clothing1m": {
                **_RESNET50,
                "weights": "default",
                "crop_size": 224,
                "crop": "plain",
                "augment": True,
                "epochs": 10,
                "batch_size": 256,
                "lr": 5e-3,
                "schedule": "x0.1@5",
                "weight_decay": 1e-3,
                "clip": 0.0,
            },
            # Zhang et al. 2021 (PLC), `train.py` of each; ANIMAL-10N's images are only mirrored
            "animal10n": {
                "network": "torchvision:vgg19_bn",
                "width": OTHER_WIDTH,
                "augment": True,
                "crop_size": 64,
                "crop": "plain",
                "epochs": 100,
                "lr": 0.1,
                "momentum": 0.0,
                "schedule": "x0.2@50,75",
                "weight_decay": 1e-3,
                "clip": 0.0,
            },
            "food101n": {
                **_RESNET50,
                "weights": "default",
                "crop_size": 224,
                "crop": "plain",
                "augment": True,
                "epochs": 30,
                "batch_size": 32,
                "lr": 0.005,
                "momentum": 0.0,
                "schedule": "x0.1@10,20",
                "weight_decay": 1e-3,
                "clip": 0.0,
            },
        },
        ("ce", "fl", "gce", "sce", "nce", "nfl", "mae", "rce", *_NINE[5:]),
        {"none": (0.0,), "sym": _SYM, "asym": _ASYM},
        3,
        weights=True,
        # Everybody's code flips within blocks of five consecutive ids, and ids are alphabetical.
        maps={("cifar100", "asym"): "blocks"},
    ),
    "report": Preset(
        "what the report ran: 15 epochs, batch 4, learning rate 1e-4, its rates and its map",
        "cifar10",
        {"epochs": 15, "batch_size": 4, "lr": 1e-4, "clip": 0.0, "width": 16},
        {"cifar100": {"network": "cnn8"}},
        ("nce", "nfl", "mae", "ce", "fl", "nce_mae", "nfl_mae"),
        {"sym": (0.4, 0.5, 0.6, 0.7), "asym": (0.1, 0.2, 0.23, 0.33)},
        1,
        maps={("", "asym"): "report"},
    ),
}


# A network as small as digits' gains nothing from a second thread, and loses much where another
# process wants the core.
THREADS = {"digits": 1}
