"""One search for wrong labels: a training that is listened to, or folds, and what it found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from apl.detect.evidence import INVISIBLE, Evidence, Findings, eyes, find_issues, untold
from apl.detect.monitor import Halves, LabelMonitor
from apl.errors import require
from apl.losses.catalog import PARAMS, REPAIR, loss_name
from apl.noise.labels import MOST_CLASSES, UNKNOWN, IntArray, Matrix
from apl.training.listener import Listener, with_keywords

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from torch import Tensor

    from apl.config.config import Config
    from apl.data.dataset import Dataset, Split
    from apl.detect.consensus import Consensus
    from apl.training.evaluate import Evaluator
    from apl.training.machine import Machine

ALL, TRAIN = "all", "train"  # which labels are judged
TEST = "test"  # what was said of the test samples is called in a file
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

    test: what was found in the labels of data.test, of which the network has seen none; None where
    they were not judged.  test_curves: as curves, None without any.  unjudged: which labels were
    not, and why, a sentence each.  agreed: what several annotators say together of all samples that
    were judged, those of the training first; None where there is one label of each.
    """

    findings: Findings
    data: Dataset
    config: Config
    evidence: Evidence
    curves: Halves
    failed: str = ""
    test: Findings | None = None
    test_curves: Halves | None = None
    unjudged: tuple[str, ...] = ()
    agreed: Consensus | None = None

    def table(self) -> pd.DataFrame:
        """One row a training sample, as `apl find` writes them: id (its number in data.train), the
        columns of cleanlab's Datalab with classes by name ('' for a sample never seen), and
        file_name (what the user calls it, '' where nobody does); of texts also these."""
        return self._table(self.findings, self.data.train)

    def test_table(self) -> pd.DataFrame:
        """The same of the test samples, numbered on from those of the training; no rows where they
        were not judged."""
        if self.test is None:
            return self.table().iloc[:0]
        table = self._table(self.test, self.data.test)
        table["id"] += len(self.data.train)
        return table

    def _table(self, findings: Findings, split: Split) -> pd.DataFrame:
        table, names = findings.table(), np.array([*self.data.class_names, ""])
        for column in ("given_label", "predicted_label"):
            table[column] = names[table[column]]  # UNKNOWN is the last of the names
        table.insert(0, "id", range(len(table)))
        table["file_name"] = split.names or ""
        if split.texts:
            table["text"] = split.texts
        return table


def find_mislabelled(
    source: Any,
    preset: str = "laptop",
    *,
    folds: int = 0,
    judge: str = ALL,
    run: Path | None = None,
    machine: Machine | None = None,
    listener: Listener = Listener(),  # noqa: B008 (it is frozen)
    **settings: Any,
) -> Search:
    """Train on data and say which of its labels are wrong.

    Args:
        source: What `apl.load_data` takes, or a Dataset that it made.
        preset: As `apl.config.config.make_config` takes it.
        folds: As `search_labels` takes it: 0 judges labels by the one training, K by K trainings
            that have not seen them.
        judge: As `search_labels` takes it: 'all', or 'train' for the training samples alone.
        run: As `search_labels` takes it: a folder for the training.
        machine: As `search_labels` takes it: where and how.
        listener: As `search_labels` takes it: what is called while a network is trained.
        **settings: As `apl.config.config.make_config` takes them. What is not given is chosen for
            finding: labels as they are, three epochs with CE and the others with SCE, and small
            batches where there are few samples.

    Returns:
        What was found, and in what; its `table()` has a row a sample.

    Raises:
        BadInput: What is given does not fit.
        Interrupted: The listener asks for it.
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
    return search_labels(
        config, own, folds=folds, judge=judge, run=run, machine=machine, listener=listener
    )


def search_config(preset: str, data: Dataset, settings: Mapping[str, Any]) -> Config:
    """The config of a search in data: the settings given, and what serves to find where they say
    nothing.

    A small set is not shown more often, as a preset does, since a network that sees it often learns
    its wrong labels by heart: it gets smaller batches, for as many steps.  With many classes CE has
    more weight in SCE, whose other part gives classes up.
    """
    from apl.config.config import make_config
    from apl.config.presets import PRESETS, SEARCH

    given = {name: value for name, value in settings.items() if value is not None}
    chosen: dict[str, Any] = {"noise": "none"}
    loss = loss_name(str(given.get("loss", "")))
    accepted = "a loss of `apl losses`: find judges labels itself"
    require(loss != REPAIR, "loss", loss, accepted)
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
    size = max(FEWEST_BATCH, count * config.epochs // PRESETS[preset].own_steps)
    return dataclasses.replace(config, batch_size=min(size, config.batch_size))


# More than seven parameters: people name the ones that they give.
def search_labels(
    config: Config,
    data: Dataset | None = None,
    *,
    folds: int = 0,
    judge: str = ALL,
    run: Path | None = None,
    machine: Machine | None = None,
    listener: Listener = Listener(),  # noqa: B008 (it is frozen)
) -> Search:
    """Train as a config of `search_config` says, and say which labels are wrong.

    data: other than the config's own, as `apl.training.train.train` takes it.
    folds: 0 judges labels by how the one training took them, on features by cross-fitted heads
    where no setting of a training was typed; K trains K times without a part of
    the samples, and judges these by what the network says that has never seen them.
    judge: 'all' judges the test labels of people's own data too, by what the network, which never
    sees them, says of them after each epoch; 'train' those alone that are trained on.
    run: a folder for the training, as `train` has it; what a finished one gathered is read, and
    judged anew.  machine, listener: as there.

    Raises BadInput for what does not fit, Interrupted where the listener asks for it.
    """
    from apl.errors import require
    from apl.runs.run import Run
    from apl.training.machine import Machine
    from apl.training.prepare import data_of, prepare

    require(folds == 0 or folds >= 2, "folds", folds, "0, or 2 and more")
    require(judge in (ALL, TRAIN), "judge", judge, f"{ALL}, or {TRAIN}")
    require(not config.select, "select", config.select, "none: all are judged")
    require(not (folds and run), "run", str(run), "none with folds, which keep no checkpoints")
    machine = machine or Machine()
    if run is not None and Run(run).begun:
        config = Run(run).begun_as(config, listener.on_message)
    prepared = prepare(config, machine, data)
    classes = prepared.num_classes
    require(classes <= MOST_CLASSES, "classes", classes, f"at most {MOST_CLASSES:,} to judge")
    whole = data_of(config, machine) if data is None else data
    unjudged = _unjudged(whole, prepared, judge)
    both = judge == ALL and bool(prepared.digest)
    curves: Halves = np.empty((len(prepared.train), 0), np.float16)
    test_curves: Halves | None = None
    said: Evidence | None
    if not folds and judges_by_heads(config):
        return _by_heads(config, prepared, both, unjudged, listener)
    if prepared.train.votes is not None and not folds:
        return _by_votes(config, prepared, both, unjudged)
    if folds:
        evidence, said, failed = _out_of_fold(config, prepared, folds, machine, listener)
    else:
        # Under torchrun a step of ours puts the shares together before it is listened to.
        monitor = LabelMonitor(len(prepared.train), classes, curves=True, together=False)
        beside = Beside(prepared.test, classes) if both else None
        failed = _watch(monitor, beside, config, run, data, machine, listener)
        evidence, curves = monitor.evidence, monitor.curves
        said = beside.said if beside is not None else None
        test_curves = beside.monitor.curves if beside is not None else None
    if prepared.train.votes is not None and not failed:  # each was judged out of fold
        told = [evidence] if said is None or not both else [evidence, said]
        clean = np.exp(np.concatenate([part.log_probs for part in told]))
        return _by_votes(config, prepared, both, unjudged, clean=clean)
    given, names = prepared.train.labels.given, prepared.class_names
    if failed and not evidence.visits.any():
        findings = untold(given, classes, [])
    else:
        findings = find_issues(given, evidence, names)
    if failed:
        findings = dataclasses.replace(findings, doubts=[failed, *findings.doubts])
    test = None
    if both and said is not None:
        test = find_issues(prepared.test.labels.given, said, names)
        shares = _agreement(evidence, given), _agreement(said, test.given_label)
        more = eyes(findings, test, *shares)
        at = len(findings.doubts) - (INVISIBLE in findings.doubts)
        doubts = [*findings.doubts[:at], *more, *findings.doubts[at:]]
        findings = dataclasses.replace(findings, doubts=doubts)
    elif both:
        unjudged.append(f"{len(prepared.test):,} test labels: the search was made without them")
    return Search(
        findings, prepared, config, evidence, curves, failed, test, test_curves, tuple(unjudged)
    )


def _agreement(evidence: Evidence, labels: IntArray) -> float:
    """The share of the labels that a network's averaged prediction agrees with."""
    seen = evidence.seen & (labels != UNKNOWN)
    predicted = evidence.log_probs[seen].argmax(1)
    return float((predicted == labels[seen]).mean()) if seen.any() else math.nan


def _unjudged(whole: Dataset, prepared: Dataset, judge: str) -> list[str]:
    """Which labels are not judged, and why, a sentence each."""
    told, left, test = [], len(whole.train) - len(prepared.train), len(prepared.test)
    if left > 0:
        why = "--train-size, or dropped by --labels"
        told.append(f"{left:,} of {len(whole.train):,} training labels ({why})")
    if not prepared.digest:
        told.append(f"{test:,} test labels: those of {prepared.name} are taken for true")
    elif judge == TRAIN:
        told.append(f"{test:,} test labels (--judge {TRAIN})")
    return told


class Beside:
    """What a network in training says of samples that it never sees, after each epoch."""

    def __init__(self, split: Split, classes: int) -> None:
        self.split = split
        self.monitor = LabelMonitor(len(split), classes, curves=True, together=False)

    def look(self, ask: Callable[[Tensor], Tensor]) -> None:
        """Take in what the network says now."""
        import torch

        logits = ask(self.split.images)
        targets = torch.from_numpy(self.split.labels.given).to(logits.device)
        self.monitor.update(torch.arange(len(logits), device=logits.device), logits, targets)

    def state_dict(self) -> dict[str, Tensor]:
        """What it has gathered."""
        return self.monitor.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what it had gathered; a checkpoint from before there was this has nothing."""
        if state:
            self.monitor.load_state_dict(state)

    @property
    def said(self) -> Evidence | None:
        """The mean of its log-probabilities over the epochs, as of a model that has not seen the
        labels; None where it was never asked."""
        evidence = self.monitor.evidence
        if not (evidence.visits.any() or evidence.lost.any()):
            return None
        probs = np.exp(evidence.log_probs)
        probs[evidence.visits == 0] = np.nan
        return Evidence.of(probs / probs.sum(1, keepdims=True))


OF_A_TRAINING = {
    *("loss", "network", "width", "epochs", "batch_size", "lr", "momentum", "nesterov", "dropout"),
    *("weight_decay", "schedule", "warmup", "warm_start", "clip", "l1", "weight_ema", *PARAMS),
}
"""Settings that only a training has: who types one wants its network to be listened to."""


def judges_by_heads(config: Config) -> bool:
    """Whether a search judges labels by cross-fitted heads on features, as `apl.training.crossfit`
    has them, and not by listening to one training."""
    return config.features != "none" and not OF_A_TRAINING & {*(config.typed or ())}


def _by_heads(
    config: Config, data: Dataset, both: bool, unjudged: Sequence[str], listener: Listener
) -> Search:
    """A search by cross-fitted heads on features; both: the test labels are judged with the
    training labels, in one set of folds."""
    import torch

    from apl.detect.crossfit import findings_of, with_few_told
    from apl.training.crossfit import cross_fit

    parts = (data.train, data.test) if both else (data.train,)
    rows = torch.cat([part.images for part in parts])
    if data.train.votes is not None:
        stop = listener.should_stop
        return _by_votes(config, data, both, unjudged, rows=rows, should_stop=stop)
    given = np.concatenate([part.labels.given for part in parts])
    stop = listener.should_stop
    fit = cross_fit(rows, given, data.num_classes, seed=config.seed, should_stop=stop)
    found = with_few_told(findings_of(fit, given, data.class_names), fit)
    count = len(data.train)
    test = _part(found, slice(count, None)) if both else None
    curves: Halves = np.empty((count, 0), np.float16)
    evidence = Evidence.of(fit.clean[:count])
    findings = _part(found, slice(count))
    return Search(findings, data, config, evidence, curves, test=test, unjudged=tuple(unjudged))


# What may be known of the samples beside their votes, in two forms.
def _by_votes(
    config: Config,
    data: Dataset,
    both: bool,
    unjudged: Sequence[str],
    *,
    rows: Tensor | None = None,
    clean: Matrix | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Search:
    """A search in what several annotators say, together with heads on features [N, F], or with
    what networks say of samples that they have not seen [N, K]; or alone."""
    from apl.detect.consensus import agreed, findings_of

    parts = (data.train, data.test) if both else (data.train,)
    votes = np.concatenate([part.votes for part in parts if part.votes is not None])
    given = np.concatenate([part.labels.given for part in parts])
    names = tuple(name for part in parts for name in part.names)
    found = agreed(
        votes, data.class_names, data.annotators, names, rows=rows, clean=clean, seed=config.seed,
        should_stop=should_stop,
    )  # fmt: skip
    findings, count = findings_of(found, given), len(data.train)
    curves: Halves = np.empty((count, 0), np.float16)
    return Search(
        _part(findings, slice(count)),
        data,
        config,
        Evidence.of(found.posterior[:count]),
        curves,
        test=_part(findings, slice(count, None)) if both else None,
        unjudged=tuple(unjudged),
        agreed=found,
    )


def _part(found: Findings, part: slice) -> Findings:
    """The findings of some samples, with the rate and the doubts of all."""
    return dataclasses.replace(
        found,
        is_label_issue=found.is_label_issue[part],
        label_score=found.label_score[part],
        given_label=found.given_label[part],
        predicted_label=found.predicted_label[part],
    )


def _watch(
    monitor: LabelMonitor,
    beside: Beside | None,
    config: Config,
    run: Path | None,
    data: Dataset | None,
    machine: Machine,
    listener: Listener,
) -> str:
    """Let the monitors listen to one training; returns why that failed, '' where it did not."""
    from apl.errors import BadInput
    from apl.files import load_tensors, save_tensors
    from apl.training.train import train

    file = None if run is None else run / EVIDENCE
    watching = monitor.listener
    if beside is not None:
        watching += Listener(on_look=beside.look, states={TEST: beside})

    def keep(row: dict[str, float]) -> None:
        # Before the run is finished: after that nobody could tell what it has seen.
        last = row["epoch"] == config.epochs or not math.isfinite(row["train_loss"])
        if file is not None and last:
            others = beside.state_dict() if beside is not None else {}
            named = {f"{TEST}.{name}": tensor for name, tensor in others.items()}
            save_tensors(file, {**monitor.state_dict(), **named}, {})

    watching += Listener(on_epoch=keep) + listener
    result = train(config, run, machine=machine, data=data, listener=watching)
    if file is not None and not (monitor.labels >= 0).any():  # the run was finished before
        try:
            state = load_tensors(file)[0]
        except FileNotFoundError:
            if result.reason not in CUT_SHORT:
                told = f"{run} was trained and not watched: give another folder"
                raise BadInput(told) from None
            return _failure(result.reason)
        of_test = {name: tensor for name, tensor in state.items() if name.startswith(f"{TEST}.")}
        monitor.load_state_dict({k: tensor for k, tensor in state.items() if k not in of_test})
        if beside is not None:
            at = len(TEST) + 1
            beside.load_state_dict({name[at:]: tensor for name, tensor in of_test.items()})
    return _failure(result.reason)


def _failure(reason: str) -> str:
    from apl.runs.scores import CAUSES

    return f"the training failed ({reason}): {CAUSES[reason]}" if reason else ""


def _out_of_fold(
    config: Config, data: Dataset, folds: int, machine: Machine, listener: Listener
) -> tuple[Evidence, Evidence, str]:
    """What networks say of the training samples that each of them has not seen, what all say of the
    test samples, and why all trainings failed, '' where one did not."""
    from apl.data.dataset import copies
    from apl.training.evaluate import Evaluator
    from apl.training.prepare import build_network
    from apl.training.train import train

    given = data.train.labels.given
    # Every class is spread over all folds.
    order = np.random.default_rng(config.seed).permutation(len(given))
    fold = np.empty(len(given), dtype=np.int64)
    fold[order[np.argsort(given[order], kind="stable")]] = np.arange(len(given)) % folds
    alike = copies(data.train)
    if alike is not None:  # who has seen one copy has seen the others
        fold = fold[np.unique(alike, return_index=True)[1][alike]]
    # The noise is in the labels already, and the samples are chosen.
    plain = dataclasses.replace(config, noise="none", rate=0.0, map="", map_sha256="", train_size=0)
    plain = dataclasses.replace(plain, labels="", labels_sha256="")
    probs, reasons = np.zeros((len(given), data.num_classes)), []
    of_test = np.zeros((len(data.test), data.num_classes))
    for part in range(folds):
        seen, unseen = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
        network = build_network(config, data, machine)
        others = dataclasses.replace(data, train=data.train.take(seen))
        result = train(plain, machine=machine, data=others, network=network, listener=listener)
        reasons.append(result.reason)
        evaluator = Evaluator(network, data, config)
        probs[unseen] = _probabilities(evaluator, data.train.images, unseen)
        of_test += _probabilities(evaluator, data.test.images, np.arange(len(of_test))) / folds
    failed = _failure(reasons[0]) if all(reasons) else ""
    return Evidence.of(probs), Evidence.of(of_test), failed


def _probabilities(evaluator: Evaluator, images: Tensor, chosen: IntArray) -> Matrix:
    """What a network says of some images [N, K], asked a batch at a time: images that are mapped
    from a file may be more than memory holds."""
    import torch

    from apl.training.evaluate import BATCH

    said = [
        evaluator.logits(images[torch.from_numpy(part)]).softmax(1).cpu().numpy()
        for part in np.array_split(chosen, max(1, len(chosen) // BATCH))
    ]
    return np.concatenate(said).astype(np.float64)
