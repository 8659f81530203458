"""What there is by name, in words: data sets, networks, kinds of noise, and options' helps.

The command line lists them without loading any; the code behind each name stands in
`apl.data.sources`, `apl.training.networks` and `apl.noise`."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any

from apl.errors import BadInput
from apl.paths import user_path

# ------------------------------------------------------------------------------ what there is


@dataclass(frozen=True)
class Source:
    """Where a built-in data set comes from; mean and std are of its training pixels in [0, 1]."""

    description: str
    size: int
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    archive: str = ""
    folder: str = ""


DATASETS: dict[str, Source] = {
    "digits": Source(
        "scikit-learn's digits: 1,347 + 450 images, 8x8 grey; always there",
        8,
        10,
        (0.3052,),
        (0.3760,),
    ),
    "cifar10": Source(
        "CIFAR-10: 50,000 + 10,000 images, 32x32 colour",
        32,
        10,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        "cifar-10-python.tar.gz",
        "cifar-10-batches-py",
    ),
    "cifar100": Source(
        "CIFAR-100: 50,000 + 10,000 images, 32x32 colour",
        32,
        100,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        "cifar-100-python.tar.gz",
        "cifar-100-python",
    ),
    "mnist": Source(
        "MNIST: 60,000 + 10,000 images, 28x28 grey",
        28,
        10,
        (0.1307,),
        (0.3081,),
        "the four *-ubyte.gz files",
        "MNIST/raw",
    ),
}

NETWORKS: dict[str, str] = {
    "cnn8": "8 layers (paper, CIFAR-10): 3 x (conv-conv-maxpool), widths w, 2w, 3.06w, FC 4w",
    "cnn5": "5 layers (laptop): 5x5 conv stride 2, 2 x (conv-maxpool), widths w, 1.5w, 2w, FC 8w",
    "cnn4": "4 layers (paper, MNIST): 2 x (conv-maxpool), widths w/2, w, FC 2w",
    "resnet34": "ResNet-34 (paper, CIFAR-100) with the 3x3 stem of the CIFAR literature",
    "mlp": "2 hidden layers of width w, for the smallest images; on features 1, with dropout",
    "linear": "no hidden layer; on features with dropout",
}


@dataclass(frozen=True)
class Noise:
    """A kind of label noise.

    label: what it is called in pictures; rated: whether its rate is chosen, or follows from the
    labels or the matrix that are given; map: the one it has where none is given; names: maps that
    are known by name; file: what a file with one is, '' where none is taken.
    """

    label: str
    rated: bool
    map: str = ""
    names: tuple[str, ...] = ()
    file: str = ""

    @property
    def maps(self) -> str:
        """What is accepted for a map, in words; '' where the noise takes none."""
        return " or ".join(filter(None, [", ".join(self.names), self.file]))


HUMAN_LABELS = {
    "aggre": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worse": "worse_label",
}
"""The label sets of CIFAR-10N, and their keys in its file."""

HUMAN: dict[str, dict[str, str]] = {"cifar100": {"noisy": "noisy_label"}, "cifar10": HUMAN_LABELS}
"""The labels that people gave to a data set's training images (Wei et al. 2022)."""

SIDE = 64  # pixels a side of images that differ in size or are larger, where none is asked for

SCALES = ("raw", "unit", "normalised")
"""What pixels count as in noise that depends on them: 0 to 255, 0 to 1, or with the training set's
mean 0 and std 1.  Without that the brightness that all images share favours one wrong label."""

MAPS: dict[tuple[str, str], str] = {("cifar100", "human"): "noisy"}
"""By (data set, kind of noise): the map where none is given, if it is not the kind's own."""

_POSTERIOR = "a .npy of a network's probabilities for the training images"

NOISES: dict[str, Noise] = {
    "none": Noise("no noise", rated=False),
    "sym": Noise("symmetric", rated=True),
    "asym": Noise(
        "asymmetric",
        rated=True,
        map="paper",
        names=("paper", "report", "blocks", "superclass"),
        file="a JSON/YAML file {source: target}",
    ),
    "sym-all": Noise("symmetric over all classes", rated=True),
    "pair": Noise("pair flip", rated=True),
    "idn-part": Noise("part-dependent", True, "raw", SCALES),
    "idn-uniform": Noise("image-dependent, uniform", True, "normalised", SCALES),
    **{f"pmd-{k}": Noise(f"PMD type {k}", rated=True, file=_POSTERIOR) for k in (1, 2, 3)},
    "file": Noise("published labels", rated=False, file="labels in a .npy, .json, .pt or .npz"),
    "human": Noise("human", False, "worse", tuple(HUMAN_LABELS)),
    "matrix": Noise("given matrix", rated=False, file="a .npy, .csv or .json file"),
}


def check_rate(rate: float) -> float:
    """The noise rate itself, if it is a probability."""
    if not 0 <= rate <= 1:
        meant = f"; did you mean {rate / 100:g}?" if 1 < rate <= 100 else ""
        raise BadInput(f"the noise rate must be between 0 and 1, got {rate:g}{meant}")
    return float(rate)


METHODS = ("transition", "exact", "exact-per-class", "exact-per-pair")
PRECISIONS = ("float32", "tf32", "bf16")


def option(help: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is an option of the command line, with its help."""
    if isinstance(default, dict):
        return field(default_factory=lambda: default, metadata={"help": help})
    return field(default=default, metadata={"help": help})


def no_dataset(given: str) -> BadInput:
    """That what was given for a data set is none."""
    path = user_path(given)
    if given and path.exists():
        return BadInput(f"dataset is {given!r}, a path: give what apl.load_data makes of it")
    near = difflib.get_close_matches(path.name, DATASETS, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return BadInput(
        f"dataset is {given!r}; accepted: {', '.join(DATASETS)}, a path that exists, "
        f"module:function, or hf://OWNER/NAME{hint}"
    )
