"""A trained network in use: `load_run(RUN)` and what it says of new samples.

What comes in is brought into the form of the training (`apl.data.samples`), features are made of it
by the backbone of the training, and the probabilities are calibrated as the run says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from apl.config.config import Config
from apl.data.listing import some_of
from apl.data.samples import as_columns, as_images, as_texts, encoded
from apl.data.tables import encode
from apl.errors import BadInput
from apl.features.backbone import Backbone
from apl.features.catalog import NONE, is_file, sized
from apl.features.embed import rows_of
from apl.features.make import make_backbone
from apl.features.words import counted
from apl.runs.run import INPUTS, VOCABULARY, Run
from apl.training.evaluate import Evaluator, load_network
from apl.training.inputs import Inputs, read_inputs, vocabulary_of
from apl.training.machine import Machine, choose_device
from apl.training.prepare import data_of

NOT_CALIBRATED = "not calibrated"
Probabilities = npt.NDArray[np.float32]  # [N, K]


@dataclass(frozen=True)
class Trained:
    """A run's network, ready to be asked; `load_run` makes it.

    Attributes:
        config: What it was trained by.
        network: On its device, in evaluation mode; it takes normalised images [B, C, H, W], or rows
            [B, F] of features or of a table.
        inputs: How samples to come are brought into the form of those that it was trained on.
        backbone: What makes features of them, None where nothing does.
        evaluator: How the network is asked about many samples.
        temperature: What logits are divided by before they become probabilities, 1 where nothing
            was fitted.
        calibrated: In words, on what the temperature was fitted.
    """

    config: Config
    network: nn.Module
    inputs: Inputs
    backbone: Backbone | None
    evaluator: Evaluator
    temperature: float
    calibrated: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the probabilities."""
        return self.inputs.class_names

    def predict_proba(self, samples: Any) -> Probabilities:
        """The probability of each class for each sample [N, K].

        Args:
            samples: One or several. Of a network for images: arrays (uint8 or fractions of 1,
                channels last), tensors (channels first too), images of Pillow's, paths; for texts:
                strings, or a table with their column; for a table: a DataFrame, columns or rows by
                name, an array [N, F]; for features that you made: an array [N, F] of these.

        Raises:
            BadInput: Samples do not fit.
        """
        return self.probabilities(self.seen(samples))

    def predict(self, samples: Any) -> npt.NDArray[np.str_]:
        """The likeliest class of each sample by its name [N].

        Args:
            samples: As for `predict_proba`.

        Raises:
            BadInput: Samples do not fit.
        """
        named: npt.NDArray[np.str_] = np.array(self.class_names)
        found: npt.NDArray[np.str_] = named[self.predict_proba(samples).argmax(1)]
        return found

    def seen(self, samples: Any) -> Tensor:
        """Samples as the network's first layer, but for normalising, takes them: uint8
        [N, H, W, C], or rows [N, F] of features or of a table."""
        inputs = self.inputs
        if inputs.kind == "images":
            pixels = as_images(samples, inputs.plan)
            return self.embedded(
                torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())
            )
        if inputs.kind == "vectors":
            return self._vectors(samples)
        if inputs.kind == "texts":
            return self._with_texts(samples)
        return self.rows_seen(*as_columns(samples))

    def rows_seen(self, columns: Mapping[str, Any], count: int, decimal: str = ".") -> Tensor:
        """The cells of a table as rows [N, F]."""
        recipes = self.inputs.encoding.get("columns", ())
        return torch.from_numpy(encoded(columns, count, recipes, decimal))

    def embedded(self, samples: Any, beside: Tensor | None = None) -> Tensor:
        """Images uint8 [N, H, W, C], or texts with what stands `beside` them [N, F], as features
        [N, F] where the network learned from these; else images as they are."""
        if self.backbone is None:
            made: Tensor = samples
            return made
        if not len(samples):
            return torch.zeros(0, self.evaluator.data.train.images.shape[1])
        rows = torch.from_numpy(rows_of(self.backbone, samples))
        return (
            rows if beside is None or not beside.shape[1] else torch.cat([beside.float(), rows], 1)
        )

    def probabilities(self, seen: Tensor) -> Probabilities:
        """The probability of each class [N, K] of what `seen` made."""
        if not len(seen):
            return np.zeros((0, len(self.class_names)), np.float32)
        logits = self.evaluator.logits(seen).float() / self.temperature
        found: Probabilities = logits.softmax(1).cpu().numpy()
        return found

    def _vectors(self, samples: Any) -> Tensor:
        wanted = self.evaluator.data.train.images.shape[1]
        rows = samples.detach().cpu().numpy() if hasattr(samples, "detach") else np.asarray(samples)
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or rows.shape[1] != wanted or rows.dtype.kind not in "iuf":
            raise BadInput(
                f"vectors are {list(rows.shape)}, {rows.dtype}; accepted: numbers [N, {wanted}], "
                f"made as those of {self.config.features} were"
            )
        return torch.from_numpy(rows.astype(np.float32))

    def _with_texts(self, samples: Any) -> Tensor:
        """Texts alone, or a table with them and with what stands beside them."""
        rows = isinstance(samples, list | tuple) and samples and isinstance(samples[0], Mapping)
        if isinstance(samples, Mapping) or hasattr(samples, "columns") or rows:
            return self.texts_in(as_columns(samples)[0])
        return self.texts_seen(as_texts(samples), {})

    def texts_in(self, columns: Mapping[str, Any], decimal: str = ".") -> Tensor:
        """A table's column of texts, and what stands beside it, as rows of features."""
        column = self.inputs.encoding.get("text_column", "")
        if column not in columns:
            raise BadInput(f"there is no column {column!r}, which has the texts")
        return self.texts_seen(as_texts(columns[column]), columns, decimal)

    def texts_seen(
        self, texts: Sequence[str], columns: Mapping[str, Any], decimal: str = "."
    ) -> Tensor:
        """Texts, and the cells of the columns beside them, as rows of features."""
        recipes = self.inputs.encoding.get("columns", ())
        beside = encode(columns, recipes, len(texts), decimal)
        return self.embedded(texts, torch.from_numpy(beside))


def load_run(path: str | Path, machine: Machine | None = None) -> Trained:
    """The trained network of a run folder.

    Args:
        path: The folder.
        machine: Its device, and the names `module:NAME` of code of your own that may be imported,
            for instance `Machine(device="cpu", imports=("nets.mine:Net",))`.

    Returns:
        The network with all that it takes to ask it.

    Raises:
        BadInput: A file of the run is missing or damaged, the weights of its features are others
            than those of the training, or an older apl wrote it and its data are not here.
    """
    path, machine = Path(path), machine or Machine()
    if not path.is_dir():
        raise BadInput(f"there is no run folder {path}")
    run = Run(path)
    config = run.config
    inputs, backbone = _what_goes_in(run, config, machine)
    weights = run.weights(config)
    numbers = len(weights["0.mean"]) if config.features != NONE else 0
    named = "" if config.features == NONE else config.features
    nothing = inputs.nothing(config.dataset, named, numbers)
    device = choose_device(machine.device)
    network = load_network(run, config, nothing, machine).to(device).eval()
    temperature, calibrated = _calibration(run)
    evaluator = Evaluator(network, nothing, config)
    return Trained(config, network, inputs, backbone, evaluator, temperature, calibrated)


def _what_goes_in(run: Run, config: Config, machine: Machine) -> tuple[Inputs, Backbone | None]:
    """What a run's network sees, and what makes features of it, None where nothing does."""
    inputs = read_inputs(run)
    vocabulary = run.file(VOCABULARY)
    if inputs is None:
        try:
            data = data_of(config, machine)
        except BadInput:
            raise BadInput(
                f"{run.path} was written by an older apl, which kept no {INPUTS}, and its data are "
                f"not decoded here: give --dataset PATH, in Python apl.load_data(PATH) before"
            ) from None
        made_by = run.environment.get("features") or {"name": config.features}
        made_by = {} if config.features == NONE else made_by
        inputs = Inputs.of(data, made_by)
        vocabulary = vocabulary_of(data, made_by) or vocabulary
    if config.features == NONE or is_file(config.features):
        return inputs, None
    if sized(config.features)[0] == "tfidf":
        try:
            return inputs, counted(vocabulary)
        except FileNotFoundError:
            raise BadInput(f"{vocabulary} is missing: train the run again") from None
    backbone = make_backbone(
        config.features,
        weights=config.weights,
        device=choose_device(machine.device),
        imports=machine.imports,
    )
    _check_backbone(backbone, inputs.made_by, config)
    return inputs, backbone


def _check_backbone(backbone: Backbone, made_by: Mapping[str, Any], config: Config) -> None:
    """Raise BadInput unless features are made as they were for the training."""
    for name, value in backbone.decided_by.items():
        if name in made_by and made_by[name] != value:
            then, now = (str(each)[:12] for each in (made_by[name], value))
            raise BadInput(
                f"{config.features} makes other features than those of the training: its {name} "
                f"are {now}, and were {then}; install what it was trained with"
            )


def _calibration(run: Run) -> tuple[float, str]:
    """The temperature of a run, and on what it was fitted, in words."""
    content = run.calibration
    if content is None:
        return 1.0, NOT_CALIBRATED
    return float(content["temperature"]), str(content["on"])


def agreed(runs: Sequence[Trained]) -> tuple[str, ...]:
    """The classes of several runs, in the order of the first; BadInput where one has others."""
    first = runs[0].class_names
    for run in runs[1:]:
        differ = sorted({*run.class_names} ^ {*first})
        if differ:
            raise BadInput(
                f"{run.config.name} has other classes than {runs[0].config.name}: "
                f"{some_of(differ)}; accepted: runs with the same class names"
            )
    return first


def mean_of(parts: Sequence[tuple[Trained, Probabilities]]) -> Probabilities:
    """The mean of what several runs say [N, K], in the order of the first one's classes."""
    first = parts[0][0].class_names
    ordered = [said[:, [run.class_names.index(k) for k in first]] for run, said in parts]
    mean: Probabilities = np.mean(ordered, 0, dtype=np.float32)
    return mean
