"""One run, top to bottom: what it is made of, its epochs, what it scores, and `train`, which does
these one after the other.

A batch comes from `Batches`, a step of it is taken by `Fit` and counted by `Counts`, the network is
asked by `Evaluator`, who listens is a `Listener`, and what remains of it all is written by `Run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apl.config.config import Config
from apl.data.dataset import Dataset, Split, place
from apl.errors import Interrupted
from apl.losses.modules import ForwardEstimated, make_loss
from apl.runs.run import Run
from apl.runs.scores import VALIDATION, Result, Scores, cause
from apl.training.batches import Batches
from apl.training.ddp import Group, synchronise
from apl.training.evaluate import Evaluator, judge, warning
from apl.training.fit import Counts, Criterion, Fit, Forward, learning_rate, make_forwards
from apl.training.inputs import keep_inputs
from apl.training.listener import Listener, ignore, never, with_keywords
from apl.training.machine import Machine, choose_device, environment, set_up
from apl.training.prepare import (
    build_network,
    check_code,
    data_of,
    embedding,
    find_criterion,
    hold_out,
    prepare,
)
from apl.training.repair import COLUMNS, Repaired, RepairedLabels, repaired_data


@dataclass(frozen=True)
class Parts:
    """What a run is made of, ready on its device.

    data: with the labels that are learned; held_out: samples kept for choosing, None without
    --select; learn, warm: network and loss as one function, the run's loss and CE.
    """

    config: Config
    data: Dataset
    held_out: Split | None
    criterion: Criterion
    learn: Forward
    warm: Forward
    batches: Batches
    fit: Fit
    evaluator: Evaluator
    listener: Listener
    group: Group


def _prepare(
    config: Config,
    run: Run,
    machine: Machine,
    listener: Listener,
    data: Dataset | None,
    criterion: Criterion | None,
    network: nn.Module | None,
) -> Parts:
    """The parts of a run, those that are not given as its config says: where it begins, or from its
    checkpoint."""
    group, device = Group.here(), set_up(config, machine)
    check_code(config, machine, (config.network, config.loss, config.features))
    if data is None:
        group.one_before_the_rest(lambda: data_of(config, machine))
        data = data_of(config, machine)
    how = embedding(config, machine, say=listener.on_message, should_stop=listener.should_stop)
    source, held_out = data, None
    data = prepare(config, machine, source, how)
    if config.select:
        data, held_out = hold_out(data)
    labels = data.train.labels
    at: dict[str, Any] = {"device": str(device), "threads": torch.get_num_threads()}
    if group.size > 1:
        at["processes"] = group.size
    if data.made_by:
        at["features"] = dict(data.made_by)
    group.from_first(lambda: run.begin(config, labels, at | environment()))
    keep_inputs(run, source, data.made_by)

    test = dataclasses.replace(data.test, images=place(data.test.images, device))
    data = dataclasses.replace(data, test=test)
    if criterion is None:
        criterion = find_criterion(config, data)
    if isinstance(criterion, nn.Module):
        criterion = criterion.to(device)
    views = getattr(criterion, "views", 1)
    batches = Batches(data, config, device, views=views, group=group)
    if network is None:
        network = build_network(config, data, machine)
    network = network.to(device).train()
    if group.size > 1 and device.type == "cuda":  # torch has no SyncBatchNorm for a CPU
        network = synchronise(network)
    criteria = (criterion, make_loss("ce", data.num_classes))
    learn, warm = make_forwards(network, criteria, config, group, compile=machine.compile)
    states = {"criterion": criterion, **listener.states}
    counts = Counts(labels, device)
    fit = Fit(config, run, network, counts, states, len(batches), machine.checkpoint_minutes)
    fit.resume(group, listener.on_message)
    evaluator = Evaluator(fit.kept, data, config, listener.should_stop, group)
    return Parts(
        config=config,
        data=data,
        held_out=held_out,
        criterion=criterion,
        learn=learn,
        warm=warm,
        batches=batches,
        fit=fit,
        evaluator=evaluator,
        listener=listener,
        group=group,
    )


def _fit(parts: Parts) -> Scores | None:
    """Train the epochs that are left.  Returns the scores of the network as it is then, None where
    it was not evaluated after its last step."""
    config, batches, fit, listener = parts.config, parts.batches, parts.fit, parts.listener
    given = torch.from_numpy(parts.data.train.labels.given).to(batches.device)
    wants = getattr(parts.criterion, "wants", ())
    scores: Scores | None = None
    for epoch in fit.epochs():
        scores = None
        begins = fit.step == 0 and epoch == config.warm_epochs
        if begins and isinstance(parts.criterion, ForwardEstimated):
            parts.criterion.estimate(parts.evaluator.logits(batches.images).softmax(1))
        if begins and isinstance(parts.criterion, RepairedLabels):
            parts.criterion.take(_repaired(parts))
        for chosen, images in batches.of(epoch, fit.step):
            targets = given[chosen]
            if epoch < config.warm_epochs:
                logits, loss = parts.warm(images, targets)
            else:
                about = {"samples": chosen, "epoch": epoch + fit.step / len(batches)}
                logits, loss = parts.learn(images, targets, **{w: about[w] for w in wants})
            if not fit.descend(loss):
                break
            fit.counts.add(chosen, logits, loss)
            listener.on_step(chosen, logits, targets)
            fit.pause(parts.group.any(listener.should_stop()))
        if fit.reason:
            break
        row = fit.counts.row(epoch + 1, learning_rate(config, epoch, 1.0))
        if parts.held_out is not None:
            row[VALIDATION] = math.nan
        if not math.isfinite(row["train_loss"]):
            fit.reason = "diverged"
        elif (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            scores = _measure(parts, row)
        if not fit.reason:
            _let_look(parts)
        listener.on_epoch(row)
        fit.end_epoch(row)
    return scores


def _repaired(parts: Parts) -> Repaired:
    """What the given labels become, judged in the first process alone."""
    alone = parts.group.size == 1  # others would wait for one that stops
    stop = parts.listener.should_stop if alone else never
    return parts.group.from_first(lambda: repaired_data(parts.data, parts.config.seed, stop))


def _measure(parts: Parts, row: dict[str, float]) -> Scores:
    """The scores after an epoch, entered in its row of the history."""
    evaluator, held_out = parts.evaluator, parts.held_out
    try:
        scores = evaluator.scores()
        if held_out is not None:
            predicted = evaluator.predict(held_out.images)
            row[VALIDATION] = float((predicted == held_out.labels.given).mean())
    except Interrupted:
        parts.fit.save()
        raise
    row["test_accuracy"] = scores.accuracy
    if scores.collapsed_into is not None and row["epoch"] < parts.config.epochs:
        into = parts.data.class_names[scores.collapsed_into]
        detail = f"epoch {row['epoch']:.0f}: all but a few predictions are {into!r}"
        parts.listener.on_message(warning("one-class", detail))
    return scores


def _let_look(parts: Parts) -> None:
    """Whoever listens may ask the network as it is after an epoch."""
    try:
        parts.listener.on_look(parts.evaluator.logits)
    except Interrupted:
        parts.fit.save()
        raise


def _evaluate(parts: Parts, scores: Scores | None) -> Result:
    """The result of the trained network, written with its weights and history."""
    fit, evaluator = parts.fit, parts.evaluator
    scores = scores or evaluator.scores()
    on_training = evaluator.predict(parts.batches.images)
    result = judge(parts.config, parts.data, scores, on_training, fit.reason)
    if parts.held_out is not None:
        result = dataclasses.replace(result, held_out=len(parts.held_out))
    if isinstance(parts.criterion, RepairedLabels):
        train, given = parts.data.train, parts.data.train.labels.given
        result = dataclasses.replace(result, repaired=parts.criterion.summary(given))
        names = parts.data.class_names
        fit.run.write_repaired(COLUMNS, parts.criterion.rows(given, names, train.names))
    if result.collapsed:
        unreached = ", ".join(sorted(fit.unreached)[:3])
        detail = f"no gradient reached {unreached}" if unreached else ""
        detail = detail or f"test accuracy {scores.accuracy:.2%}"
        parts.listener.on_message(warning(result.reason, detail, cause(result)))
    fit.finish(result)
    return result


def train(
    config: Config,
    run: Path | None = None,
    *,
    machine: Machine | None = None,
    data: Dataset | None = None,
    criterion: Criterion | None = None,
    network: nn.Module | None = None,
    listener: Listener = Listener(),  # noqa: B008 (it is frozen)
    **keywords: Any,
) -> Result:
    """Train one network as `config` says, on the machine as `machine` says.

    In processes that torchrun started, the batch of the config is shared out to them
    (`apl.training.ddp`); the first one alone writes, and hears of rows and warnings.

    The history's train_accuracy, memorised and recovered come from the training forward passes of
    the epoch (so from images as augmented, by weights as they were); the result's from one pass
    over the training images in evaluation mode at the end.  With `weight_ema` in the config all
    else is said by the mean of the weights, which is what remains of the run.

    Args:
        config: What decides the outcome, as `make_config` makes it.
        run: A folder for config.json, noise.npz, history.csv, result.json and model.safetensors; a
            run interrupted there goes on, a finished one is returned as it is. None writes nothing.
        machine: Where and how, None for what a `Machine` is by default.
        data: Another data set than the config's; only without a run folder, whose config would not
            describe it, or the one that the config was made for.
        criterion: Another loss than the config's, called as criterion(logits, targets).
        network: Another network than the config's; only without a run folder. It takes images [B,
            C, H, W] to logits [B, K] and is trained in place.
        listener: Hears each step, each row of the history and each warning, and may stop the
            training, which writes a checkpoint and raises Interrupted.
        **keywords: on_epoch, say, should_stop and monitor, which stood for the listener in 0.2.

    Returns:
        Accuracies, what was memorised, the confusion, and why the run failed, if it did.

    Raises:
        BadInput: What is given does not fit, or another process is training in the folder.
        Interrupted: The listener asks for it.
        ValueError: A network or data of your own are given with a run folder.
    """
    listener = with_keywords(listener, keywords)
    if keywords:
        raise TypeError(f"train() got an unexpected keyword argument {min(keywords)!r}")
    described = data is None or (data.digest and data.digest == config.dataset_sha256)
    if run is not None and (network is not None or not described):
        own = "a network" if network is not None else "data"
        raise ValueError(f"{own} of your own: train without a run folder, leave out run")
    machine, group = machine or Machine(), Group.here()
    folder = Run(run if group.rank == 0 else None)
    if group.rank > 0:
        listener = dataclasses.replace(listener, on_epoch=ignore, on_message=ignore)
    with contextlib.ExitStack() as stack:
        if group.size > 1:
            stack.enter_context(group.joined(choose_device(machine.device)))

        def begun() -> tuple[Config, Result | None]:
            stack.enter_context(folder.lock())
            if not folder.begun:
                return config, None
            as_begun = folder.begun_as(config, listener.on_message)
            if not folder.finished:
                return as_begun, None
            folder.delete_checkpoints()  # it may have been killed after its result
            return as_begun, folder.result

        config, result = group.from_first(begun)
        if result is None:
            parts = _prepare(config, folder, machine, listener, data, criterion, network)
            result = _evaluate(parts, _fit(parts))
        return result
