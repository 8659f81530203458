"""One search for wrong labels: a training that is listened to, or folds, and what it found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apl.detect.evidence import Evidence, Findings, find_issues, untold
from apl.detect.monitor import Halves, LabelMonitor
from apl.noise.labels import MOST_CLASSES
from apl.training.listener import Listener, with_keywords

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from apl.config.config import Config
    from apl.data.dataset import Dataset
    from apl.training.machine import Machine

EVIDENCE = "evidence.safetensors"  # in a run folder: what its monitor has gathered
CUT_SHORT = ("no-gradient", "diverged")  # why a run may end before it has seen anything
FEWEST_BATCH = 16  # samples a step in a search in few samples


# --------------------------------------------------------------------------- from data to names


@dataclass(frozen=True)
class Search:
    """What `find_mislabelled` found, and in what.

    data: as trained on; the arrays of the findings go with the samples of data.train.  curves: as
    a monitor's, [N, 0] where folds were judged.  failed: why the training did, '' where it did
    not; then nothing can be told, and it is the first doubt of the findings.
    """

    findings: Findings
    data: Dataset
    config: Config
    evidence: Evidence
    curves: Halves
    failed: str = ""

    def table(self) -> pd.DataFrame:
        """One row a sample, as `apl find` writes them: id (its number in data.train), the columns
        of cleanlab's Datalab with classes by name ('' for a sample never seen), and file_name
        (what the user calls it, '' where nobody does)."""
        table, names = self.findings.table(), np.array([*self.data.class_names, ""])
        for column in ("given_label", "predicted_label"):
            table[column] = names[table[column]]  # UNKNOWN is the last of the names
        table.insert(0, "id", range(len(table)))
        table["file_name"] = self.data.train.names or ""
        return table


def find_mislabelled(
    source: Any,
    preset: str = "laptop",
    *,
    folds: int = 0,
    run: Path | None = None,
    machine: Machine | None = None,
    listener: Listener = Listener(),  # noqa: B008 (it is frozen)
    **settings: Any,
) -> Search:
    """Train on data and say which of its training labels are wrong.

    source: what `apl.load_data` takes, or a Dataset that it made.
    preset, settings: as `apl.config.config.make_config` takes them; what is not given is chosen for
    finding: labels as they are, three epochs with CE and the others with SCE, and small batches
    where there are few samples.
    folds, run, machine, listener: as `search_labels` takes them.

    Raises BadInput for what does not fit, Interrupted where the listener asks for it.
    """
    from apl.config.config import usual_side
    from apl.data.dataset import Dataset
    from apl.data.reading import Reading
    from apl.data.sources import read_data
    from apl.training.machine import Machine

    listener = with_keywords(listener, settings)
    machine = machine or Machine()
    reading = Reading.of(settings, vars(machine))
    reading = dataclasses.replace(reading, side=usual_side(settings))
    data = read_data(source, reading, machine.data_dir, machine.download, listener.on_message)
    config = search_config(preset, data, settings)
    # A built-in set is the config's own, which a run folder can describe.
    own = data if data.digest or isinstance(source, Dataset) else None
    return search_labels(config, own, folds=folds, run=run, machine=machine, listener=listener)


def search_config(preset: str, data: Dataset, settings: Mapping[str, Any]) -> Config:
    """The config of a search in data: the settings given, and what serves to find where they say
    nothing.

    A small set is not shown more often, as a preset does, since a network that sees it often learns
    its wrong labels by heart: it gets smaller batches, for as many steps.  With many classes CE has
    more weight in SCE, whose other part gives classes up.
    """
    from apl.config.config import make_config
    from apl.config.presets import FEWEST_STEPS, SEARCH

    given = {name: value for name, value in settings.items() if value is not None}
    chosen: dict[str, Any] = {"noise": "none"}
    if "loss" not in given:
        alpha = max(0.1, data.num_classes / 100)
        chosen |= {**SEARCH, "alpha": alpha, "beta": 1.0}
    if data.digest:
        chosen["epochs"] = make_config(preset).epochs
    config = make_config(preset, dataset=data, **(chosen | given))
    ours = set(chosen) - set(given)
    typed = tuple(name for name in config.typed or () if name not in ours)
    config = dataclasses.replace(config, typed=typed)
    if "batch_size" in given:
        return config
    count = config.train_size or len(data.train)
    size = max(FEWEST_BATCH, count * config.epochs // FEWEST_STEPS)
    return dataclasses.replace(config, batch_size=min(size, config.batch_size))


def search_labels(
    config: Config,
    data: Dataset | None = None,
    *,
    folds: int = 0,
    run: Path | None = None,
    machine: Machine | None = None,
    listener: Listener = Listener(),  # noqa: B008 (it is frozen)
) -> Search:
    """Train as a config of `search_config` says, and say which training labels are wrong.

    data: other than the config's own, as `apl.training.train.train` takes it.
    folds: 0 judges labels by how the one training took them; K trains K times without a part of
    the samples, and judges these by what the network says that has never seen them.
    run: a folder for the training, as `train` has it; what a finished one gathered is read, and
    judged anew.  machine, listener: as there.

    Raises BadInput for what does not fit, Interrupted where the listener asks for it.
    """
    from apl.errors import require
    from apl.runs.run import Run
    from apl.training.machine import Machine
    from apl.training.prepare import prepare

    require(folds == 0 or folds >= 2, "folds", folds, "0, or 2 and more")
    require(not config.select, "select", config.select, "none: all are judged")
    require(not (folds and run), "run", str(run), "none with folds, which keep no checkpoints")
    machine = machine or Machine()
    if run is not None and Run(run).begun:
        config = Run(run).begun_as(config, listener.on_message)
    prepared = prepare(config, machine, data)
    classes = prepared.num_classes
    require(classes <= MOST_CLASSES, "classes", classes, f"at most {MOST_CLASSES:,} to judge")
    if folds:
        evidence, failed = _out_of_fold(config, prepared, folds, machine, listener)
        curves: Halves = np.empty((len(prepared.train), 0), np.float16)
    else:
        # Under torchrun a step of ours puts the shares together before it is listened to.
        monitor = LabelMonitor(len(prepared.train), classes, curves=True, together=False)
        failed = _watch(monitor, config, run, data, machine, listener)
        evidence, curves = monitor.evidence, monitor.curves
    given = prepared.train.labels.given
    if failed and not evidence.visits.any():
        findings = untold(given, classes, [])
    else:
        findings = find_issues(given, evidence, prepared.class_names)
    if failed:
        findings = dataclasses.replace(findings, doubts=[failed, *findings.doubts])
    return Search(findings, prepared, config, evidence, curves, failed)


def _watch(
    monitor: LabelMonitor,
    config: Config,
    run: Path | None,
    data: Dataset | None,
    machine: Machine,
    listener: Listener,
) -> str:
    """Let the monitor listen to one training; returns why that failed, '' where it did not."""
    from apl.errors import BadInput
    from apl.files import load_tensors, save_tensors
    from apl.training.train import train

    file = None if run is None else run / EVIDENCE

    def keep(row: dict[str, float]) -> None:
        # Before the run is finished: after that nobody could tell what it has seen.
        last = row["epoch"] == config.epochs or not math.isfinite(row["train_loss"])
        if file is not None and last:
            save_tensors(file, monitor.state_dict(), {})

    watching = monitor.listener + Listener(on_epoch=keep) + listener
    result = train(config, run, machine=machine, data=data, listener=watching)
    if file is not None and not (monitor.labels >= 0).any():  # the run was finished before
        try:
            monitor.load_state_dict(load_tensors(file)[0])
        except FileNotFoundError:
            if result.reason not in CUT_SHORT:
                told = f"{run} was trained and not watched: give another folder"
                raise BadInput(told) from None
    return _failure(result.reason)


def _failure(reason: str) -> str:
    from apl.runs.scores import CAUSES

    return f"the training failed ({reason}): {CAUSES[reason]}" if reason else ""


def _out_of_fold(
    config: Config, data: Dataset, folds: int, machine: Machine, listener: Listener
) -> tuple[Evidence, str]:
    """What networks say of the samples that each of them has not seen, and why all trainings
    failed, '' where one did not."""
    import torch

    from apl.training.evaluate import BATCH, Evaluator
    from apl.training.prepare import build_network
    from apl.training.train import train

    given = data.train.labels.given
    # Every class is spread over all folds.
    order = np.random.default_rng(config.seed).permutation(len(given))
    fold = np.empty(len(given), dtype=np.int64)
    fold[order[np.argsort(given[order], kind="stable")]] = np.arange(len(given)) % folds
    # The noise is in the labels already, and the samples are chosen.
    plain = dataclasses.replace(config, noise="none", rate=0.0, map="", map_sha256="", train_size=0)
    plain = dataclasses.replace(plain, labels="", labels_sha256="")
    probs, reasons = np.zeros((len(given), data.num_classes)), []
    for part in range(folds):
        seen, unseen = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
        network = build_network(config, data, machine)
        others = dataclasses.replace(data, train=data.train.take(seen))
        result = train(plain, machine=machine, data=others, network=network, listener=listener)
        reasons.append(result.reason)
        evaluator = Evaluator(network, data, config)
        # A batch at a time: images that are mapped from a file may be more than memory holds.
        for chosen in np.array_split(unseen, max(1, len(unseen) // BATCH)):
            logits = evaluator.logits(data.train.images[torch.from_numpy(chosen)])
            probs[chosen] = logits.softmax(1).cpu().numpy()
    return Evidence.of(probs), _failure(reasons[0]) if all(reasons) else ""
