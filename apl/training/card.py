"""The model card of a run, from its record alone: Hugging Face's front matter, then what was
trained on what, how well it does on which labels, and what nobody knows."""

from __future__ import annotations

import math
from typing import Any

import yaml

from apl.config.config import Config, settings_text
from apl.features.catalog import NONE, licence_of, seen_by
from apl.losses.catalog import loss_label
from apl.names import NOISES
from apl.runs.run import Run
from apl.runs.scores import Result, cause
from apl.training.use import NOT_CALIBRATED, Trained

_TASKS = {
    "images": "image-classification",
    "texts": "text-classification",
    "rows": "tabular-classification",
    "vectors": "tabular-classification",
}
_LIBRARIES = {"onnx": "onnx", "torch": "pytorch"}


def model_card(run: Run, trained: Trained, to: str, takes: str) -> str:
    """The text of a card for the file that a run was exported to; takes: what goes in."""
    config, result = run.config, run.result
    front = yaml.safe_dump(_front(config, result, trained, to), sort_keys=False, allow_unicode=True)
    parts = [
        f"# {loss_label(config.loss)} on {config.dataset}",
        f"Input: {takes}. Output: the probability of each of {len(trained.class_names)} classes.",
        *_section("Data and labels", _data(config, result, run)),
        *_section("Training", _training(config, run)),
        *_section("How well it does", _scores(result)),
        *_section("Limits", _limits(config, result, trained)),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "\n".join(f"- {line}" for line in lines)]


def _front(config: Config, result: Result, trained: Trained, to: str) -> dict[str, Any]:
    task = _TASKS[trained.inputs.kind]
    score = {"type": "accuracy", "value": round(result.test_accuracy, 4), "name": _on(result)}
    of = {"name": config.dataset, "type": config.dataset}
    index = {"task": {"type": task}, "dataset": of, "metrics": [score]}
    return {
        "library_name": _LIBRARIES[to],
        "pipeline_tag": task,
        "tags": ["noisy-labels", config.loss],
        "metrics": ["accuracy"],
        "model-index": [{"name": config.name, "results": [index]}],
    }


def _on(result: Result) -> str:
    true = "accuracy on clean test labels"
    return true if result.on == "true" else "accuracy on test labels as given"


def _data(config: Config, result: Result, run: Run) -> list[str]:
    digest = config.dataset_sha256
    count = f"{len(run.labels):,} training samples, {len(result.class_names)} classes: "
    lines = [
        config.dataset if not digest else f"{config.dataset} (sha256 {digest})",
        count + ", ".join(result.class_names),
    ]
    if config.noise == "none":
        lines.append("labels as they were given; how many are wrong is not known")
    else:
        rate = f" at rate {config.rate:g}" if NOISES[config.noise].rated else ""
        kind = f"{config.noise} noise{f' ({config.map})' if config.map else ''}{rate}"
        lines.append(f"{kind} in the training labels: {result.corrupted:,} of them are wrong")
    if config.labels:
        lines.append("training labels corrected by a file of decisions")
    return lines


def _training(config: Config, run: Run) -> list[str]:
    own = {name: config.settings[name] for name in ("network", "epochs", "batch_size", "lr")}
    seen = seen_by(config.features, config.network, config.weights)
    where = run.environment
    versions = f"torch {where['torch']}" if "torch" in where else "torch"
    params = f" ({settings_text(config.params)})" if config.params else ""
    lines = [
        f"loss {loss_label(config.loss)}{params}",
        f"preset {config.preset}, {settings_text(own)}, seed {config.seed}; {versions}",
    ]
    if seen:
        licence = licence_of(config.features) if config.features != NONE else ""
        lines.append(f"{seen}{f'; licence: {licence}' if licence else ''}")
    return lines


def _scores(result: Result) -> list[str]:
    lines = [f"{_on(result)}: {result.test_accuracy:.2%}"]
    known = [
        (name, share)
        for name, share in zip(result.class_names, result.per_class_accuracy, strict=True)
        if not math.isnan(share)
    ]
    if known:
        name, share = min(known, key=lambda pair: pair[1])
        lines.append(f"lowest of a class: {name}, {share:.2%}")
    if not math.isnan(result.memorised):
        lines.append(f"of the wrong training labels {result.memorised:.1%} were learned by heart")
    return lines


def _limits(config: Config, result: Result, trained: Trained) -> list[str]:
    lines = []
    if result.on != "true":
        lines.append(
            "nobody checked the test labels: the accuracy is agreement with labels as given"
        )
    if result.collapsed:
        lines.append(f"the training failed ({result.reason}): {cause(result)}")
    if trained.calibrated == NOT_CALIBRATED:
        lines.append("the probabilities are not calibrated: take them for an order, not for shares")
    else:
        lines.append(f"probabilities: {trained.calibrated}")
    if config.features != NONE or config.weights:
        lines.append("it rests on pretrained weights, with what these were trained on and left out")
    lines.append("it gives each sample one of its classes, also one that belongs to none of them")
    return lines
