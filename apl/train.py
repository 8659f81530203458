"""The training loop, top to bottom: data and noise, network and loss, epochs, result.

Nothing random depends on what ran before: the order and augmentation of an epoch follow from
(seed, epoch) alone, so a run that was interrupted anywhere goes on exactly.
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from torch import Tensor, nn

import apl.kernels as kernels
from apl.checkpoint import delete_checkpoints, load_checkpoint, save_checkpoint, save_tensors
from apl.config import Config
from apl.data.sources import (
    BORDER,
    Dataset,
    balanced_subset,
    crop_and_flip,
    human_labels,
    load_dataset,
    pad,
    to_float,
)
from apl.errors import BadInput, Busy, Interrupted
from apl.losses import make_loss
from apl.networks import make_network
from apl.noise import (
    NoisyLabels,
    asymmetric,
    corrupt,
    find_map,
    pair_flip,
    read_matrix,
    symmetric,
)
from apl.runs import (
    FORMAT,
    environment,
    is_finished,
    read_config,
    read_noise,
    read_result,
    write_history,
    write_json,
    write_noise,
)
from apl.scores import (
    HARDLY_MEMORISED,
    Scores,
    is_tolerant,
    memorised_and_recovered,
    predict,
    score,
)

FIRST_STEPS = 5  # steps within which a gradient must have reached every parameter

CAUSES = {
    "no-gradient": (
        "the loss is cut off from the network: it was computed outside torch (numpy), under "
        "no_grad, from detached logits, or wrapped into a new tensor"
    ),
    "diverged": "the loss is not finite: lower --lr, keep --clip, or check the loss",
    "one-class": (
        "nearly all predictions fall into one class: the network has not learned, or not yet "
        "(learning rate or number of steps too small, a loss that underfits, or no gradient)"
    ),
    "chance": (
        "the accuracy is no better than guessing: the network has not learned, or the labels "
        "carry no signal at this noise rate"
    ),
}
"""Why a run can end `collapsed`, and what that likely means."""


def prepare(
    config: Config, data_dir: str | Path | None = None, download: bool = True
) -> tuple[Dataset, NoisyLabels]:
    """The data set of a run (its training images cut to `train_size`) and its noisy labels."""
    data = load_dataset(config.dataset, data_dir, download)
    num_classes, names = len(data.class_names), data.class_names
    if config.train_size > len(data.train_labels):
        raise BadInput(
            f"train_size is {config.train_size}, but {config.dataset} has "
            f"{len(data.train_labels)} training images"
        )
    kept = np.arange(len(data.train_labels))
    if config.train_size:
        kept = balanced_subset(data.train_labels, config.train_size)
    clean = data.train_labels[kept]
    if config.noise == "human":
        given = human_labels(config.map, data.train_labels, data_dir)
        noisy = NoisyLabels(clean, given[kept], np.eye(num_classes))
        labels = dataclasses.replace(noisy, transition=noisy.empirical)
    else:
        if config.noise == "asym":
            transition = asymmetric(names, config.rate, find_map(config.map, names))
        elif config.noise == "pair":
            transition = pair_flip(num_classes, config.rate)
        elif config.noise == "matrix":
            transition = read_matrix(config.map, num_classes)
        else:  # sym, or none: symmetric noise of rate 0
            transition = symmetric(num_classes, config.rate)
        labels = corrupt(clean, transition, config.method, config.seed)
    if len(clean) < 2:
        raise BadInput(f"training needs at least 2 images, got {len(clean)}")
    images = data.train_images[torch.from_numpy(kept)]
    return dataclasses.replace(data, train_images=images, train_labels=clean), labels


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next step, in this process.

    By default it gives large blocks back to the system at once and asks for them again in the
    next step; on a CPU the page faults of that cost up to a quarter of the training time.  Does
    nothing where there is no glibc.
    """
    mmap_max, trim_threshold = -4, -1  # mallopt's names for its parameters
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # macOS, Windows, musl
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def choose_device(name: str) -> torch.device:
    """The device that `name` means; 'auto' is the first of CUDA, MPS and CPU that is there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= there:
        raise BadInput(f"there is no device {name!r} here; accepted: auto, or one that is there")
    return device


def _compiled(network: nn.Module, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network through torch.compile; on CUDA its launches become graphs."""
    if device.type == "cpu" and not kernels.has_compiler():
        raise BadInput("compile needs a C++ compiler (CXX, g++), which is not here: leave it out")
    # dynamic=False: the smaller last batch of an epoch gets a graph of its own.
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return torch.compile(network, dynamic=False, mode=mode)


def _generator(seed: int, epoch: int) -> torch.Generator:
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def learning_rate(config: Config, epoch: int, done: float) -> float:
    """The learning rate in an epoch (from 0) of which the share `done` is done, the step at hand
    included: a cosine that falls by the epoch, as in the paper's code, after a linear rise."""
    annealed = config.lr * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
    return annealed * min(1.0, (epoch + done) / config.warmup) if config.warmup else annealed


def _batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and end of every batch; a last batch of one image joins the one before it, since
    batch norm can't take it."""
    starts = list(range(0, count, batch_size))
    if count % batch_size == 1 and len(starts) > 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def train(
    config: Config,
    run: Path | None = None,
    *,
    criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
    network: nn.Module | None = None,
    data_dir: str | Path | None = None,
    download: bool = True,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
    say: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Train one network as `config` says and return its result (the content of result.json).

    run: a folder for config.json, noise.npz, history.csv, result.json and model.safetensors; a
    run interrupted there goes on, a finished one is returned as it is.  None writes nothing.
    criterion: another loss than the config's, called as criterion(logits, targets).
    network: another network than the config's, images [B, C, H, W] to logits [B, K]; it is trained
    in place, and only without a run folder, whose config would not describe it.
    on_epoch gets each row of the history, say each warning; should_stop is asked after each step,
    and True writes a checkpoint and raises Interrupted.
    Raises BadInput for what does not fit, and when another process is training in the folder.

    The history's train_accuracy, memorised and recovered come from the training forward passes of
    the epoch (so from images as augmented, by weights as they were); the result's from one pass
    over the training images in evaluation mode at the end.
    """
    others = (data_dir, download, on_epoch, say, should_stop)
    if run is None:
        return _train(config, None, criterion, network, *others)
    if network is not None:
        raise ValueError("a network of your own trains without a run folder: leave out run")
    run.mkdir(parents=True, exist_ok=True)
    links = [path for path in (run, *run.iterdir()) if path.is_symlink()]
    if links:
        raise BadInput(f"{links[0]} is a link, which may lead out of the results: delete it")
    try:
        with filelock.FileLock(run / "run.lock", blocking=False):
            for leftover in run.glob(".*.tmp"):  # of a process that was killed while it wrote
                leftover.unlink()
            return _train(config, run, criterion, None, *others)
    except filelock.Timeout:
        raise Busy(f"another process is training in {run}") from None


def _train(
    config: Config,
    run: Path | None,
    criterion: Callable[[Tensor, Tensor], Tensor] | None,
    network: nn.Module | None,
    data_dir: str | Path | None,
    download: bool,
    on_epoch: Callable[[dict[str, float]], None],
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    if run is not None and (run / "config.json").exists():
        _check_same(config, read_config(run), run)
        if is_finished(run):
            delete_checkpoints(run)  # it may have been killed between its result and this
            return read_result(run)

    # Machine: the threads decide the order of float sums, so they are part of the result's story.
    if config.threads:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    tf32 = config.precision != "float32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")

    # Data: images live on the device as uint8, padded once if they will be cropped.
    data, labels = prepare(config, data_dir, download)
    num_classes, count = len(data.class_names), len(labels.clean)
    images = data.train_images.to(device)
    cropped = pad(images) if config.augment else images
    test_images = data.test_images.to(device)
    clean, noisy = (torch.from_numpy(y).to(device) for y in (labels.clean, labels.noisy))
    wrong = clean != noisy
    corrupted = int(labels.mask.sum())
    if run is not None:
        _write_setting(run, config, labels, device)

    # Network, loss, optimiser.  The learning rate is set from epoch and step: no scheduler to save.
    if network is None:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            network = make_network(config.network, images.shape[1:], num_classes, config.width)
    network = network.to(device).train()
    forward = _compiled(network, device) if config.compile else network
    if criterion is None:
        criterion = make_loss(config.loss, num_classes, **config.loss_params).to(device)
    parameters = dict(network.named_parameters())
    optimiser = torch.optim.SGD(
        parameters.values(),
        config.lr,
        config.momentum,
        weight_decay=config.weight_decay,
        fused=True,
    )

    # Where to begin: the sums are loss, right, memorised and recovered so far in this epoch.
    first_epoch, first_step = 0, 0
    wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
    sums = torch.zeros(4, device=device, dtype=wide)
    history: list[dict[str, float]] = []
    unreached = set(parameters)
    reason = ""

    def checkpoint(epoch: int, step: int) -> None:
        if run is not None:
            tensors = {f"model.{name}": t for name, t in network.state_dict().items()}
            for name, parameter in parameters.items():
                momentum = optimiser.state[parameter].get("momentum_buffer")
                if momentum is not None:
                    tensors[f"momentum.{name}"] = momentum
            state = {
                "config": config.identity(),
                "epoch": epoch,
                "step": step,
                "history": history,
                "unreached": sorted(unreached),
            }
            save_checkpoint(run, {**tensors, "sums": sums}, state)

    found = load_checkpoint(run) if run is not None else None
    if found:
        tensors, state, problems = found
        if tensors and not config.is_identity(state.get("config")):
            problems, tensors = [*problems, f"the checkpoint in {run} is another run's"], {}
        for problem in problems:
            say(f"{problem}; going on from {'the one before it' if tensors else 'the start'}")
        if tensors:
            network.load_state_dict(
                {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}
            )
            for name, parameter in parameters.items():
                if f"momentum.{name}" in tensors:
                    buffer = torch.empty_like(parameter).copy_(tensors[f"momentum.{name}"])
                    optimiser.state[parameter]["momentum_buffer"] = buffer
            sums.copy_(tensors["sums"])
            first_epoch, first_step, history = state["epoch"], state["step"], state["history"]
            unreached = set(state["unreached"])

    scores: Scores | None = None  # of the network as it is, once it has been evaluated
    last_checkpoint = time.monotonic()
    bounds = _batch_bounds(count, config.batch_size)
    for epoch in range(first_epoch, config.epochs):
        generator = _generator(config.seed, epoch)
        order = torch.randperm(count, generator=generator).to(device)
        if config.augment:
            offsets = torch.randint(0, 2 * BORDER + 1, (count, 2), generator=generator).to(device)
            flips = (torch.rand(count, generator=generator) < 0.5).to(device)

        scores = None
        for step in range(first_step, len(bounds)):
            start, end = bounds[step]
            optimiser.param_groups[0]["lr"] = learning_rate(config, epoch, (step + 1) / len(bounds))
            chosen = order[start:end]
            if config.augment:
                batch = crop_and_flip(cropped, chosen, offsets[start:end], flips[start:end])
            else:
                batch = images[chosen]
            targets = noisy[chosen]
            with autocast:
                logits = forward(to_float(batch, data.mean, data.std))
            loss = criterion(logits.float(), targets)
            if not isinstance(loss, Tensor) or not loss.requires_grad:
                reason = "no-gradient"
                break
            optimiser.zero_grad()
            loss.backward()
            if epoch == 0 and unreached:
                unreached = {
                    name
                    for name in unreached
                    if (grad := parameters[name].grad) is None or not bool(grad.any())
                }
                if not bool(loss.isfinite()):
                    reason = "diverged"
                    break
                if unreached and step + 1 >= min(FIRST_STEPS, len(bounds)):
                    reason = "no-gradient"
                    break
            if config.clip:
                torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
            optimiser.step()

            with torch.no_grad():
                predicted = logits.argmax(1)
                right, mislabelled = predicted == targets, wrong[chosen]
                recovered = (predicted == clean[chosen]) & mislabelled
                parts = (
                    loss * len(chosen),
                    right.sum(),
                    (right & mislabelled).sum(),
                    recovered.sum(),
                )
                sums += torch.stack([part.to(wide) for part in parts])
            if should_stop():
                checkpoint(epoch, step + 1)
                raise Interrupted
            if time.monotonic() - last_checkpoint > 60 * config.checkpoint_minutes:
                checkpoint(epoch, step + 1)
                last_checkpoint = time.monotonic()
        if reason:
            break

        total_loss, right_count, memorised_count, recovered_count = sums.tolist()
        row = {
            "epoch": epoch + 1,
            "lr": learning_rate(config, epoch, 1.0),
            "train_loss": total_loss / count,
            "train_accuracy": right_count / count,
            "memorised": memorised_count / corrupted if corrupted else math.nan,
            "recovered": recovered_count / corrupted if corrupted else math.nan,
            "test_accuracy": math.nan,
        }
        if not math.isfinite(total_loss):
            reason = "diverged"
        elif (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs:
            try:
                predicted = predict(network, test_images, data, should_stop)
            except Interrupted:
                checkpoint(epoch, len(bounds))
                raise
            scores = score(predicted, data.test_labels, num_classes)
            row["test_accuracy"] = scores.accuracy
            if scores.collapsed_into is not None and epoch + 1 < config.epochs:
                say(
                    _warning(
                        "one-class",
                        f"epoch {epoch + 1}: all but a few predictions are "
                        f"{data.class_names[scores.collapsed_into]!r}",
                    )
                )
        history.append(row)
        on_epoch(row)
        if reason:
            break
        sums.zero_()
        first_step = 0
        checkpoint(epoch + 1, 0)
        last_checkpoint = time.monotonic()

    if scores is None:
        test_predictions = predict(network, test_images, data, should_stop)
        scores = score(test_predictions, data.test_labels, num_classes)
    train_predictions = predict(network, images, data, should_stop)
    memorised_share, recovered_share = memorised_and_recovered(train_predictions, labels)
    reason = reason or _what_went_wrong(scores)
    if reason:
        detail = f"no gradient reached {', '.join(sorted(unreached)[:3])}" if unreached else ""
        say(_warning(reason, detail or f"test accuracy {scores.accuracy:.2%}"))
    result = {
        "format": FORMAT,
        "collapsed": bool(reason),
        "reason": reason,
        "too_short": bool(
            corrupted and not is_tolerant(config.loss) and memorised_share < HARDLY_MEMORISED
        ),
        "test_accuracy": scores.accuracy,
        "train_accuracy": score(train_predictions, labels.noisy, num_classes).accuracy,
        "memorised": memorised_share,
        "recovered": recovered_share,
        "corrupted": corrupted,
        "class_names": list(data.class_names),
        "per_class_accuracy": scores.per_class,
        "confusion": scores.confusion.tolist(),
        "transition": labels.transition.tolist(),
    }
    if run is not None:
        save_tensors(run / "model.safetensors", network.state_dict(), {"config": config.identity()})
        write_history(run / "history.csv", history)
        write_json(run / "result.json", result)
        delete_checkpoints(run)
    return result


def _what_went_wrong(scores: Scores) -> str:
    if scores.collapsed_into is not None:
        return "one-class"
    return "chance" if scores.at_chance else ""


def _warning(reason: str, detail: str) -> str:
    return f"{reason}: {detail}; {CAUSES[reason]}"


def _check_same(asked: Config, there: Config, run: Path) -> None:
    ours, theirs = asked.identity(), there.identity()
    different = [
        f"{name} is {theirs[name]!r}, asked for {ours[name]!r}"
        for name in ours
        if ours[name] != theirs[name]
    ]
    if different:
        raise BadInput(
            f"{run} holds a run with other arguments ({'; '.join(different)}): "
            "choose another --out, or delete it"
        )


def _write_setting(run: Path, config: Config, labels: NoisyLabels, device: torch.device) -> None:
    """config.json and noise.npz of a new run; of an old one, the labels must be the same."""
    if (run / "config.json").exists():
        if not (run / "noise.npz").exists():
            write_noise(run / "noise.npz", labels)
        before = read_noise(run / "noise.npz")
        if not np.array_equal(before.noisy, labels.noisy):
            raise BadInput(
                f"{run} was trained on other labels than these arguments give: delete it"
            )
        return
    machine = {"device": str(device), "threads": torch.get_num_threads(), **environment()}
    write_noise(run / "noise.npz", labels)
    write_json(
        run / "config.json",
        {"format": FORMAT, "config": dataclasses.asdict(config), "environment": machine},
    )
