"""One run, top to bottom: data and noise, network and loss, epochs, result.

A batch comes from `apl.data.dataset.Batches`, is counted by `apl.scores.Counts`, and what remains
of it is written by `apl.runs.Run`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apl.config import Config, code_digest, labels_digest, map_digest, read_schedule
from apl.criteria import ForwardEstimated, make_loss, needs_of
from apl.data.dataset import Batches, Dataset, Split, balanced_subset, place
from apl.data.sources import data_of, human_labels
from apl.ddp import ALONE, Group, synchronise
from apl.errors import BadInput, Interrupted, is_own, look_up, one_line, require
from apl.find import LabelMonitor
from apl.kernels import dispatch
from apl.machine import Machine, choose_device, environment
from apl.networks import make_network
from apl.noise import (
    MATRICES,
    MOST_CLASSES,
    ROWS,
    Inputs,
    IntArray,
    Labels,
    corrupt,
    corrupt_each,
    read_published,
)
from apl.review import read_labels
from apl.runs import WEIGHTS, History, Run
from apl.scores import (
    CAUSES,
    VALIDATION,
    Counts,
    Result,
    Scores,
    memorised_and_recovered,
    score,
    too_short,
)

FIRST_STEPS = 5  # steps within which a gradient must have reached every parameter
BATCH = 512  # images at a time where no gradient is wanted
HELD_OUT = 10  # with --select, one training image in so many is kept for choosing

Criterion = Callable[..., Tensor]
Forward = Callable[..., tuple[Tensor, Any]]  # images, targets, what it wants -> logits, their loss


def prepare(config: Config, machine: Machine | None = None, data: Dataset | None = None) -> Dataset:
    """The data of a run: its training images cut to `train_size`, their labels corrupted.

    data: another data set than the config's.  Artificial noise takes its given labels for true.
    """
    machine = machine or Machine()
    data = data or data_of(config, machine)
    train = data.train
    if config.noise != "none" and data.num_classes > MOST_CLASSES:
        raise BadInput(
            f"{config.noise} noise of {data.num_classes:,} classes; accepted: none, or at most "
            f"{MOST_CLASSES:,} classes"
        )
    if config.map_sha256 and map_digest(config.map, config.noise) != config.map_sha256:
        raise BadInput(f"{config.map} has changed since the run was asked for: ask for it again")
    if config.noise == "human":
        people = human_labels(config.map, train.labels.true, machine.data_dir)
        # Known by its size: in a small subset nobody may have named the last class.
        labels = Labels(people, train.labels.true, np.eye(data.num_classes))
        train = dataclasses.replace(train, labels=labels)
    elif config.noise == "file":
        given = read_published(config.map, train.labels.given, data.num_classes)
        train = train.take(np.arange(len(given)))  # PMD's files leave out the last tenth
        labels = Labels(given, train.labels.given, np.eye(data.num_classes))
        train = dataclasses.replace(train, labels=labels)
    elif config.noise in ROWS:  # of all images, so that a part of them has the same labels
        train = dataclasses.replace(train, labels=by_image(config, data))
    if config.train_size > len(train):
        raise BadInput(
            f"train_size is {config.train_size}, but {data.name} has {len(train)} training images"
        )
    if config.train_size:
        # Balanced by the true classes where they are known: people's labels choose no images.
        classes = train.labels.true if train.labels.known.all() else train.labels.given
        train = train.take(balanced_subset(classes, config.train_size))
    if len(train) < 2:
        raise BadInput(f"training needs at least 2 images, got {len(train)}")
    labels = train.labels  # as they are, where no noise is added to labels not known to be true
    if config.noise in ("human", "file"):
        labels = dataclasses.replace(labels, transition=labels.empirical)
    elif (
        config.noise not in ROWS
        and data.num_classes <= MOST_CLASSES
        and (config.noise != "none" or np.array_equal(labels.given, labels.true))
    ):
        transition = MATRICES[config.noise](data.class_names, config.rate, config.map)
        labels = corrupt(labels.given, transition, config.method, config.seed)
    train = dataclasses.replace(train, labels=labels)
    if config.labels:
        if labels_digest(config.labels) != config.labels_sha256:
            raise BadInput(f"{config.labels} has changed since the run was asked for: ask anew")
        train = relabelled(train, Path(config.labels), data.class_names)
    return dataclasses.replace(data, train=train)


def by_image(config: Config, data: Dataset) -> Labels:
    """The labels of a noise that depends on the image."""
    rng = np.random.default_rng(config.seed)
    inputs = Inputs(data.train.images.numpy(), data.mean, data.std)
    given = data.train.labels.given
    rows = ROWS[config.noise](inputs, given, data.num_classes, config.rate, config.map, rng)
    return corrupt_each(given, rows, config.method, rng)


def relabelled(train: Split, file: Path, class_names: Sequence[str]) -> Split:
    """The samples with the labels that a file gives them, without those that it drops."""
    said = read_labels(file, train.labels.given, class_names, train.names)
    labels = dataclasses.replace(train.labels, given=said.labels)
    names = train.names or tuple(map(str, range(len(train))))  # numbers outlive what is left out
    train = dataclasses.replace(train, labels=labels, names=names)
    return train if said.keep.all() else train.take(np.flatnonzero(said.keep))


def hold_out(data: Dataset) -> tuple[Dataset, Split]:
    """The data without a class-balanced tenth of its training samples, and that tenth, its labels
    as given: what a choice may look at where nobody knows the truth."""
    given = data.train.labels.given
    chosen = balanced_subset(given, max(1, len(given) // HELD_OUT))
    rest = np.setdiff1d(np.arange(len(given)), chosen)
    return dataclasses.replace(data, train=data.train.take(rest)), data.train.take(chosen)


def learning_rate(config: Config, epoch: int, done: float) -> float:
    """The learning rate in an epoch (from 0) of which the share `done` is done, the step at hand
    included: a cosine that falls by the epoch, as in the paper's code, or steps, after a linear
    rise."""
    factor, after = read_schedule(config.schedule) or (0.0, ())
    if factor:
        falls = sum(epoch >= step for step in after) if after else epoch
        annealed = config.lr * factor**falls
    else:
        annealed = config.lr * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
    return annealed * min(1.0, (epoch + done) / config.warmup) if config.warmup else annealed


def train(
    config: Config,
    run: Path | None = None,
    *,
    machine: Machine | None = None,
    data: Dataset | None = None,
    criterion: Criterion | None = None,
    network: nn.Module | None = None,
    monitor: LabelMonitor | None = None,
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

    In processes that torchrun started, the batch of the config is shared out to them (`apl.ddp`);
    the first one alone writes, and hears of rows and warnings.

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
    monitor: LabelMonitor | None,
    on_epoch: Callable[[dict[str, float]], None],
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Result:
    device = _set_up(config, machine)
    if config.code_sha256:
        _check_code(config, machine, (config.network, config.loss))
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
        called = _compiled(called, device, group)
    forward = _forward(called, criterion, device, config, group)
    warm = _forward(called, make_loss("ce", data.num_classes), device, config, group)
    if machine.compile and group.size == 1:
        forward, warm = (_compiled(each, device, group) for each in (forward, warm))
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
                say(_warning("one-class", detail))
        on_epoch(row)
        fit.end_epoch(row)

    scores = scores or look(network, data, test_images, config, should_stop, group)
    on_training = predict(network, batches.images, data, config, should_stop, group)
    result = judge(config, data, scores, on_training, fit.reason)
    if result.collapsed:
        unreached = ", ".join(sorted(fit.unreached)[:3])
        detail = f"no gradient reached {unreached}" if unreached else ""
        say(_warning(result.reason, detail or f"test accuracy {scores.accuracy:.2%}"))
    run.finish(config, network.state_dict(), fit.history, result)
    return result


def _set_up(config: Config, machine: Machine) -> torch.device:
    """The device, and what torch must be told before anything runs there."""
    # The threads decide the order of float sums, so they are part of the result's story.
    threads = machine.threads_for(config.dataset)
    if threads:
        torch.set_num_threads(threads)
    device = choose_device(machine.device)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    tf32 = config.precision != "float32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    return device


def _check_code(config: Config, machine: Machine, wanted: Sequence[str]) -> None:
    """Raise BadInput unless the user typed what is wanted of the code that the config names, and
    it is as it was."""
    own = [name for name in (config.network, config.loss) if is_own(name)]
    for name in own:
        if name in wanted and name not in machine.imports:
            raise BadInput(
                f"{name!r} is code of your own, which is imported only where you type it: give it "
                "to --network or --loss, in Python to Machine(imports=...)"
            )
    if code_digest(own) != config.code_sha256:
        raise BadInput(f"{', '.join(own)} has changed since the run was asked for: ask anew")


def find_criterion(config: Config, data: Dataset) -> Criterion:
    """The loss that a config means: ours by name, or `module:name` of the user's own, a function
    of (logits [B, K], targets [B]) or a class of such modules, called with the classes' number."""
    classes = data.num_classes
    if not is_own(config.loss):
        given: dict[str, Any] = dict(config.params)
        for name in needs_of(config.loss):
            given[name] = len(data.train) if name == "num_samples" else _known_matrix(data)
        return make_loss(config.loss, classes, **given)
    own = look_up(config.loss)
    made: Criterion = own(classes) if isinstance(own, type) else own
    if not callable(made):
        raise BadInput(f"loss is {config.loss!r}, a {type(made).__name__}; accepted: a function")
    return made


def _known_matrix(data: Dataset) -> Tensor:
    """The noise matrix [K, K] of the training labels, for a loss that corrects by it."""
    if data.train.labels.transition is None:
        raise BadInput(
            f"the noise of {data.name} has no known matrix, which this loss corrects by: add "
            "--noise, or take another loss"
        )
    return torch.from_numpy(data.train.labels.transition).float()


def _forward(
    network: nn.Module, criterion: Criterion, device: torch.device, config: Config, group: Group
) -> Forward:
    """Network and loss as one function, so that compiled they are one graph."""
    bf16 = config.precision == "bf16"
    views = getattr(criterion, "views", 1)

    def forward(images: Tensor, targets: Tensor, **wanted: Any) -> tuple[Tensor, Any]:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = network(images.flatten(0, 1) if views > 1 else images)
        if views > 1:
            logits = logits.unflatten(0, (views, -1))
        logits = group.whole(logits, len(targets), logits.ndim - 2)
        loss = criterion(logits.float(), targets, **wanted)
        if config.l1:
            loss = loss + config.l1 * sum(p.abs().sum() for p in network.parameters())
        # Detached for the counts: the graph's backward would else expect a gradient of them.
        return (logits[0] if views > 1 else logits).detach(), loss

    return forward


def _compiled(forward: Any, device: torch.device, group: Group) -> Any:
    """The function through torch.compile; on CUDA its launches become graphs, where no other
    process waits for its gradients."""
    if device.type == "cpu" and not dispatch.has_compiler():
        raise BadInput("compile needs a C++ compiler (CXX, g++), which is not here: leave it out")
    # dynamic=False: the smaller last batch of an epoch gets a graph of its own.
    mode = "reduce-overhead" if device.type == "cuda" and group.size == 1 else "default"
    return torch.compile(forward, dynamic=False, mode=mode)


class Fit:
    """A network being fitted: its optimiser, how far it is, and whether it learns at all.

    reason: why it can't go on, a key of CAUSES, '' while it can; unreached: the parameters that no
    gradient has reached yet; step: where the epoch at hand begins, 0 unless it was interrupted.
    """

    def __init__(
        self,
        config: Config,
        run: Run,
        network: nn.Module,
        counts: Counts,
        states: Mapping[str, Any],
        steps: int,
        checkpoint_minutes: float,
        group: Group,
    ) -> None:
        self.config, self.run, self.network, self.group = config, run, network, group
        self.counts, self.steps = counts, steps
        # What else has a state that the steps to come depend on: the loss, who listens.
        self.states = {k: v for k, v in states.items() if hasattr(v, "state_dict")}
        self.parameters = dict(network.named_parameters())
        # The learning rate is set from epoch and step: no scheduler to save.
        self.optimiser = torch.optim.SGD(
            self.parameters.values(),
            config.lr,
            config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            fused=True,
        )
        self.epoch, self.step = 0, 0
        self.history: History = []
        self.unreached = set(self.parameters)
        self.reason = ""
        self._checkpoint_seconds = 60 * checkpoint_minutes
        self._saved = time.monotonic()

    def epochs(self) -> Iterator[int]:
        """The epochs (from 0) that are left, until there is a reason to stop."""
        while self.epoch < self.config.epochs and not self.reason:
            yield self.epoch

    def descend(self, loss: Any) -> bool:
        """One step down the gradient; False, with the reason, where none can be taken."""
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            self.reason = "no-gradient"
            return False
        done = (self.step + 1) / self.steps
        self.optimiser.param_groups[0]["lr"] = learning_rate(self.config, self.epoch, done)
        self.optimiser.zero_grad()
        loss.backward()
        if self.epoch == 0 and self.unreached:
            self.unreached = {name for name in self.unreached if not self._reached(name)}
            # Of none at all no second step is waited for: DDP could not take it.
            none = all(parameter.grad is None for parameter in self.parameters.values())
            late = self.step + 1 >= min(FIRST_STEPS, self.steps)
            if not bool(loss.isfinite()):
                self.reason = "diverged"
            elif self.unreached and (none or late):
                self.reason = "no-gradient"
            if self.reason:
                return False
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip)
        self.optimiser.step()
        self.step += 1
        return True

    def _reached(self, name: str) -> bool:
        grad = self.parameters[name].grad
        return grad is not None and bool(grad.any())

    def pause(self, should_stop: Callable[[], bool]) -> None:
        """Write a checkpoint where it is time for one, and Interrupted where it is asked for."""
        if self.group.any(should_stop()):
            self.save()
            raise Interrupted
        if time.monotonic() - self._saved > self._checkpoint_seconds:
            self.save()

    def end_epoch(self, row: dict[str, float]) -> None:
        """Keep the history's row of an epoch, and a checkpoint of its end."""
        self.history.append(row)
        if not self.reason:
            self.epoch, self.step = self.epoch + 1, 0
            self.counts.clear()
            self.save()

    def save(self) -> None:
        """Write a checkpoint: all that the steps to come depend on."""
        tensors = {f"model.{name}": t for name, t in self.network.state_dict().items()}
        for name, parameter in self.parameters.items():
            momentum = self.optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        for owner, part in self.states.items():
            tensors |= {f"{owner}.{name}": t for name, t in part.state_dict().items()}
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "unreached": sorted(self.unreached),
        }
        self.run.save(self.config, {**tensors, "sums": self.counts.sums}, state)
        self._saved = time.monotonic()

    def resume(self, say: Callable[[str], None]) -> None:
        """Go on from the newest good checkpoint, if there is one; say what was wrong with newer."""
        tensors, state, problems = self.group.from_first(lambda: self.run.resume(self.config))
        for problem in problems:
            say(f"{problem}; going on from {'the one before it' if tensors else 'the start'}")
        if not tensors:
            return
        for owner, part in {"model": self.network, **self.states}.items():
            at = len(owner) + 1
            part.load_state_dict({k[at:]: t for k, t in tensors.items() if k[:at] == f"{owner}."})
        for name, parameter in self.parameters.items():
            if f"momentum.{name}" in tensors:
                buffer = torch.empty_like(parameter).copy_(tensors[f"momentum.{name}"])
                self.optimiser.state[parameter]["momentum_buffer"] = buffer
        self.counts.sums.copy_(tensors["sums"])
        self.epoch, self.step, self.history = state["epoch"], state["step"], state["history"]
        self.unreached = set(state["unreached"])


def outputs(
    network: nn.Module,
    images: Tensor,
    data: Dataset,
    config: Config,
    should_stop: Callable[[], bool] = lambda: False,
    group: Group = ALONE,
) -> Tensor:
    """The logits [N, K] of every uint8 image [N, H, W, C], in evaluation mode; the middle of the
    image counts where the network was trained on crops.

    In a group: those of this process's share of the images.

    Raises Interrupted as soon as should_stop, asked before each batch, is true.
    """
    device = next(network.parameters()).device
    was_training = network.training
    parts, stopped = [], False
    network.eval()
    with torch.inference_mode():
        for batch in images[group.share(0, len(images))].split(BATCH):
            stopped = should_stop()
            if stopped:
                break
            batch = batch.to(device)
            pixels = data.to_float(batch, config.crop_size, config.crop == "plain")
            parts.append(network(pixels))
    network.train(was_training)
    if group.any(stopped):
        raise Interrupted
    return torch.cat(parts)


def predict(
    network: nn.Module,
    images: Tensor,
    data: Dataset,
    config: Config,
    should_stop: Callable[[], bool] = lambda: False,
    group: Group = ALONE,
) -> IntArray:
    """The predicted class [N] of every image, as `outputs` sees it."""
    logits = outputs(network, images, data, config, should_stop, group)
    predicted: IntArray = group.whole(logits.argmax(1), len(images)).cpu().numpy()
    return predicted


def look(
    network: nn.Module,
    data: Dataset,
    test_images: Tensor,
    config: Config,
    should_stop: Callable[[], bool] = lambda: False,
    group: Group = ALONE,
) -> Scores:
    """Scores on the test images, by their true labels where all are known, else by those given."""
    predicted = predict(network, test_images, data, config, should_stop, group)
    labels = data.test.labels
    against = labels.true if labels.known.all() else labels.given
    return score(predicted, against, data.num_classes)


def judge(
    config: Config, data: Dataset, scores: Scores, on_training: IntArray, reason: str
) -> Result:
    """The result of a run: its scores on the test images, what it predicts on the training images
    [N], and why it stopped, if it did."""
    labels = data.train.labels
    memorised, recovered = memorised_and_recovered(on_training, labels)
    if not reason:
        one_class = scores.collapsed_into is not None
        reason = "one-class" if one_class else "chance" if scores.at_chance else ""
    return Result(
        collapsed=bool(reason),
        reason=reason,
        too_short=too_short(config.loss, memorised),
        test_accuracy=scores.accuracy,
        train_accuracy=score(on_training, labels.given, data.num_classes).accuracy,
        memorised=memorised,
        recovered=recovered,
        corrupted=int(labels.wrong.sum()),
        class_names=list(data.class_names),
        confusion=None if scores.confusion is None else scores.confusion.tolist(),
        transition=None if labels.transition is None else labels.transition.tolist(),
        on="true" if data.test.labels.known.all() else "given",
        per_class_accuracy=scores.per_class,
    )


def _warning(reason: str, detail: str) -> str:
    return f"{reason}: {detail}; {CAUSES[reason]}"


# ------------------------------------------------------------------------------- a trained run


def build_network(config: Config, data: Dataset, machine: Machine) -> nn.Module:
    """The network that a config means, initialised from torch's global random state."""
    shape: Sequence[int] = data.train.images.shape[1:]
    if config.crop_size:
        shape = (config.crop_size, config.crop_size, shape[-1])
    return make_network(
        *(config.network, shape, data.num_classes, config.width),
        weights=config.weights,
        imports=machine.imports,
    )


def load_network(run: Run, config: Config, data: Dataset, machine: Machine) -> nn.Module:
    """The trained network of a run folder."""
    if config.code_sha256:
        _check_code(config, machine, (config.network,))
    network = build_network(dataclasses.replace(config, weights=""), data, machine)
    try:
        network.load_state_dict(run.weights(config))
    except RuntimeError as error:
        problem = one_line(error)[:200]
        raise BadInput(
            f"{run.file(WEIGHTS)} does not fit the network of its config: {problem}"
        ) from None
    return network


def noisy_test_labels(config: Config, data: Dataset, labels: Labels) -> IntArray:
    """The test labels corrupted by the training noise's matrix, as the report scored: with other
    draws than the training labels'."""
    if labels.transition is None:
        raise BadInput("the noise of this run has no known matrix: score on its clean test labels")
    draws = np.random.default_rng([config.seed, 1])
    return corrupt(data.test.labels.given, labels.transition, config.method, draws).given


def evaluate_run(
    path: Path, labels: str = "clean", machine: Machine | None = None
) -> tuple[Scores, Config, Result]:
    """Score the network of a finished run folder on 'clean' or 'noisy' test labels.

    Returns the scores, the run's config and its result.  Raises BadInput where a file of the run
    is missing or damaged.
    """
    require(labels in ("clean", "noisy"), "labels", labels, "clean, noisy")
    if not path.is_dir():
        raise BadInput(f"there is no run folder {path}")
    machine = machine or Machine()
    run = Run(path)
    config, result = run.config, run.result
    data = data_of(config, machine)
    network = load_network(run, config, data, machine)
    if labels == "clean":
        return look(network, data, data.test.images, config), config, result
    noisy = noisy_test_labels(config, data, run.labels)
    predicted = predict(network, data.test.images, data, config)
    return score(predicted, noisy, data.num_classes), config, result
