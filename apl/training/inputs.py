"""What a network was trained to see: enough to bring new samples into that form, wherever the
training data are now.  It is kept with the run, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apl.data.dataset import Dataset, Split
from apl.data.images import Plan
from apl.errors import BadInput
from apl.features.catalog import is_file, sized
from apl.features.make import make_backbone
from apl.features.words import kept_counts
from apl.noise.labels import Labels
from apl.runs.run import INPUTS, Run


@dataclass(frozen=True)
class Inputs:
    """What goes in, before features are made of it.

    kind: 'images', 'texts', 'rows' of a table, or 'vectors', rows of a file that the user made.
    shape: of an image (H, W, C), of a row (F,), of what stands beside a text (F,).  mean, std: of
    pixels, a channel.  encoding: as `apl.data.dataset.Dataset` has it.  made_by: what decides the
    features, empty where there are none.
    """

    kind: str
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoding: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Dataset, made_by: Mapping[str, Any]) -> Inputs:
        """Those of a network that is trained on a data set, as it is before features are made."""
        vectors = is_file(str(made_by.get("name", "")))
        return cls(
            "vectors" if vectors else data.kind,
            tuple(data.train.images.shape[1:]),
            tuple(data.class_names),
            tuple(data.mean),
            tuple(data.std),
            dict(data.encoding),
            dict(made_by),
        )

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Inputs:
        """Those that a run keeps.  Raises KeyError or TypeError for what is none."""
        tuples = ("shape", "class_names", "mean", "std")
        named = {f.name: content[f.name] for f in dataclasses.fields(cls)}
        return cls(**{**named, **{name: tuple(content[name]) for name in tuples}})

    def to_json(self) -> dict[str, Any]:
        """What a file holds of them."""
        return dataclasses.asdict(self)

    @property
    def plan(self) -> Plan:
        """How images are decoded."""
        low, high = self.encoding.get("range", (0.0, 0.0))
        side, _, channels = self.shape
        return Plan(side, channels == 1, False, low, high)

    def nothing(self, name: str, features: str, numbers: int) -> Dataset:
        """A data set of no samples, in the form that the network takes: features of so many
        numbers where it learned from these."""
        shape = (numbers,) if features else self.shape
        kind = torch.uint8 if len(shape) == 3 else torch.float32
        none = np.zeros(0, np.int64)
        split = Split(torch.zeros((0, *shape), dtype=kind), Labels(none, none))
        mean, std = ((), ()) if features else (self.mean, self.std)
        return Dataset(name, self.class_names, split, split, mean, std, features=features)


def keep_inputs(run: Run, data: Dataset, made_by: Mapping[str, Any]) -> None:
    """Keep with a run what its network sees; data: as it is before features are made."""
    if run.path is None:
        return
    run.keep_inputs(Inputs.of(data, made_by).to_json(), vocabulary_of(data, made_by))


def vocabulary_of(data: Dataset, made_by: Mapping[str, Any]) -> Path | None:
    """The file in the cache folder with what tfidf counts in the texts of a data set, None for
    other features."""
    name = str(made_by.get("name", ""))
    if sized(name)[0] != "tfidf":
        return None
    texts = data.train.texts
    return kept_counts(make_backbone(name, texts=texts), texts)


def read_inputs(run: Run) -> Inputs | None:
    """What a run keeps of its inputs; None of a run of an older apl."""
    content = run.inputs
    if content is None:
        return None
    try:
        return Inputs.read(content)
    except (KeyError, TypeError):
        raise BadInput(f"{run.file(INPUTS)} is none of this apl's: train the run again") from None
