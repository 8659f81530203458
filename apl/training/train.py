"""One run, top to bottom: data and noise, network and loss, epochs, result.

A batch comes from `Batches`, is counted by `Counts`, and what remains of it is written by `Run`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from apl.config.config import Config
from apl.data.dataset import Dataset, place
from apl.errors import Interrupted
from apl.losses.modules import ForwardEstimated, make_loss
from apl.runs.run import Run
from apl.runs.scores import VALIDATION, Result, Scores
from apl.training.batches import Batches
from apl.training.ddp import Group, synchronise
from apl.training.evaluate import judge, look, outputs, predict, warning
from apl.training.fit import Counts, Criterion, Fit, Watcher, compiled, learning_rate, make_forward
from apl.training.machine import Machine, choose_device, environment
from apl.training.prepare import (
    build_network,
    check_code,
    data_of,
    find_criterion,
    hold_out,
    prepare,
    set_up,
)


def train(
    config: Config,
    run: Path | None = None,
    *,
    machine: Machine | None = None,
    data: Dataset | None = None,
    criterion: Criterion | None = None,
    network: nn.Module | None = None,
    monitor: Watcher | None = None,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
    say: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train one network as `config` says, on the machine as `machine` says.

    run: a folder for config.json, noise.npz, history.csv, result.json and model.safetensors; a
    run interrupted there goes on, a finished one is returned as it is.  None writes nothing.
    criterion: another loss than the config's, called as criterion(logits, targets).
    data, network: others than the config's (the network takes images [B, C, H, W] to logits
    [B, K] and is trained in place), only without a run folder, whose config would not describe
    them, or data that the config was made for.
    monitor: listens to every step, and is part of the checkpoints.
    on_epoch gets each row of the history, say each warning; should_stop is asked after each step,
    and True writes a checkpoint and raises Interrupted.
    Raises BadInput for what does not fit, and when another process is training in the folder.

    In processes that torchrun started, the batch of the config is shared out to them
    (`apl.training.ddp`); the first one alone writes, and hears of rows and warnings.

    The history's train_accuracy, memorised and recovered come from the training forward passes of
    the epoch (so from images as augmented, by weights as they were); the result's from one pass
    over the training images in evaluation mode at the end.
    """
    described = data is None or (data.digest and data.digest == config.dataset_sha256)
    if run is not None and (network is not None or not described):
        own = "a network" if network is not None else "data"
        raise ValueError(f"{own} of your own: train without a run folder, leave out run")
    machine, group = machine or Machine(), Group.here()
    folder = Run(run if group.rank == 0 else None)
    if group.rank > 0:
        on_epoch = say = _ignore
    with contextlib.ExitStack() as stack:
        if group.size > 1:
            stack.enter_context(group.joined(choose_device(machine.device)))

        def finished() -> Result | None:
            stack.enter_context(folder.lock())
            if folder.begun:
                folder.check(config)
                if folder.finished:
                    folder.delete_checkpoints()  # it may have been killed after its result
                    return folder.result
            return None

        return group.from_first(finished) or _train(
            *(config, folder, machine, group, data, criterion, network, monitor),
            *(on_epoch, say, should_stop),
        )


def _ignore(_: object) -> None:
    pass


def _train(
    config: Config,
    run: Run,
    machine: Machine,
    group: Group,
    data: Dataset | None,
    criterion: Criterion | None,
    network: nn.Module | None,
    monitor: Watcher | None,
    on_epoch: Callable[[dict[str, float]], None],
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Result:
    device = set_up(config, machine)
    if config.code_sha256:
        check_code(config, machine, (config.network, config.loss))
    if data is None:
        group.one_before_the_rest(lambda: data_of(config, machine))
    data, validation = prepare(config, machine, data), None
    if config.select:
        data, validation = hold_out(data)
    labels = data.train.labels
    at = {"device": str(device), "threads": torch.get_num_threads()}
    if group.size > 1:
        at["processes"] = group.size
    group.from_first(lambda: run.begin(config, labels, {**at, **environment()}))

    test_images = place(data.test.images, device)
    given = torch.from_numpy(labels.given).to(device)
    if criterion is None:
        criterion = find_criterion(config, data)
    if isinstance(criterion, nn.Module):
        criterion = criterion.to(device)
    batches = Batches(
        *(data, config.batch_size, config.seed, config.augment, device),
        crop_size=config.crop_size,
        plain=config.crop == "plain",
        colour=config.colour,
        views=getattr(criterion, "views", 1),
        group=group,
    )
    if network is None:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            network = build_network(config, data, machine)
    network = network.to(device).train()
    if group.size > 1 and device.type == "cuda":  # torch has no SyncBatchNorm for a CPU
        network = synchronise(network)
    called = group.parallel(network)
    if machine.compile and group.size > 1:  # as far as no process waits for another
        called = compiled(called, device, group)
    forward = make_forward(called, criterion, device, config, group)
    warm = make_forward(called, make_loss("ce", data.num_classes), device, config, group)
    if machine.compile and group.size == 1:
        forward, warm = (compiled(each, device, group) for each in (forward, warm))
    wants = getattr(criterion, "wants", ())
    counts = Counts(labels, device)
    states = {"criterion": criterion, "monitor": monitor}
    fit = Fit(config, run, network, counts, states, len(batches), machine.checkpoint_minutes, group)
    fit.resume(say)

    scores: Scores | None = None  # of the network as it is, once it has been evaluated
    for epoch in fit.epochs():
        scores = None
        begins = fit.step == 0 and epoch == config.warm_epochs
        if begins and isinstance(criterion, ForwardEstimated):
            logits = outputs(network, batches.images, data, config, should_stop, group)
            criterion.estimate(group.whole(logits, len(batches.images)).softmax(1))
        for chosen, images in batches.of(epoch, fit.step):
            if epoch < config.warm_epochs:
                logits, loss = warm(images, given[chosen])
            else:
                about = {"samples": chosen, "epoch": epoch + fit.step / len(batches)}
                logits, loss = forward(images, given[chosen], **{w: about[w] for w in wants})
            if not fit.descend(loss):
                break
            counts.add(chosen, logits, loss)
            if monitor is not None:
                monitor.update(chosen, logits, given[chosen])
            fit.pause(should_stop)
        if fit.reason:
            break
        row = counts.row(epoch + 1, learning_rate(config, epoch, 1.0))
        if validation is not None:
            row[VALIDATION] = math.nan
        if not math.isfinite(row["train_loss"]):
            fit.reason = "diverged"
        elif (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            try:
                scores = look(network, data, test_images, config, should_stop, group)
                if validation is not None:
                    images = validation.images
                    predicted = predict(network, images, data, config, should_stop, group)
                    row[VALIDATION] = float((predicted == validation.labels.given).mean())
            except Interrupted:
                fit.save()
                raise
            row["test_accuracy"] = scores.accuracy
            if scores.collapsed_into is not None and epoch + 1 < config.epochs:
                into = data.class_names[scores.collapsed_into]
                detail = f"epoch {epoch + 1}: all but a few predictions are {into!r}"
                say(warning("one-class", detail))
        on_epoch(row)
        fit.end_epoch(row)

    scores = scores or look(network, data, test_images, config, should_stop, group)
    on_training = predict(network, batches.images, data, config, should_stop, group)
    result = judge(config, data, scores, on_training, fit.reason)
    if result.collapsed:
        unreached = ", ".join(sorted(fit.unreached)[:3])
        detail = f"no gradient reached {unreached}" if unreached else ""
        say(warning(result.reason, detail or f"test accuracy {scores.accuracy:.2%}"))
    run.finish(config, network.state_dict(), fit.history, result)
    return result
