"""A network being fitted: its steps, their learning rate, what they show, its checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn

from apl.config.config import Config, read_schedule
from apl.errors import BadInput, Interrupted
from apl.kernels import dispatch
from apl.noise.labels import Labels
from apl.runs.run import History, Run
from apl.runs.scores import HISTORY_COLUMNS, Result
from apl.training.ddp import Group
from apl.usercode import told

FIRST_STEPS = 5  # steps within which a gradient must have reached every parameter

Criterion = Callable[..., Tensor]
Forward = Callable[..., tuple[Tensor, Any]]  # images, targets, what it wants -> logits, their loss


def make_forwards(
    network: nn.Module,
    criteria: Sequence[Criterion],
    config: Config,
    group: Group,
    *,
    compile: bool = False,
) -> list[Forward]:
    """Network and loss as one function, for each of several losses, as a step of training calls
    them; compile: through torch.compile, so that they are one graph."""
    device = next(network.parameters()).device
    called = group.parallel(network)
    if compile and group.size > 1:  # as far as no process waits for another
        called = _compiled(called, device, group)
    forwards = [_forward(called, criterion, device, config, group) for criterion in criteria]
    if compile and group.size == 1:
        forwards = [_compiled(forward, device, group) for forward in forwards]
    return forwards


def _forward(
    network: nn.Module, criterion: Criterion, device: torch.device, config: Config, group: Group
) -> Forward:
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
        raise BadInput("--compile needs a C++ compiler (CXX, g++) and finds none: leave it out")
    # dynamic=False: the smaller last batch of an epoch gets a graph of its own.
    mode = "reduce-overhead" if device.type == "cuda" and group.size == 1 else "default"
    return torch.compile(forward, dynamic=False, mode=mode)


class Counts:
    """What the forward passes of an epoch showed, summed on the device: it is asked for its row
    once an epoch, so that no step waits for it."""

    def __init__(self, labels: Labels, device: torch.device) -> None:
        self._given, self._true, self._wrong = (
            torch.from_numpy(part).to(device) for part in (labels.given, labels.true, labels.wrong)
        )
        self.wrong = int(labels.wrong.sum())
        wide = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        self.sums = torch.zeros(4, device=device, dtype=wide)  # loss, right, memorised, recovered

    def add(self, chosen: Tensor, logits: Tensor, loss: Tensor) -> None:
        """Count a batch: which samples [B], their logits [B, K], and their mean loss."""
        with torch.no_grad():
            predicted = logits.argmax(1)
            right, wrong = predicted == self._given[chosen], self._wrong[chosen]
            recovered = (predicted == self._true[chosen]) & wrong
            parts = (loss * len(chosen), right.sum(), (right & wrong).sum(), recovered.sum())
            self.sums += torch.stack([part.to(self.sums.dtype) for part in parts])

    def row(self, epoch: int, lr: float) -> dict[str, float]:
        """The history's row of an epoch (from 1), test_accuracy still nan."""
        loss, right, memorised, recovered = self.sums.tolist()
        count = len(self._given)
        shares = [s / self.wrong if self.wrong else math.nan for s in (memorised, recovered)]
        values = (epoch, lr, loss / count, right / count, *shares, math.nan)
        return dict(zip(HISTORY_COLUMNS, values, strict=True))

    def clear(self) -> None:
        """Begin the next epoch."""
        self.sums.zero_()


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


class WeightMean:
    """The exponential mean of a network's weights and statistics over its steps: `kept` of it stays
    at a step; in the first ones less, so that all of these count alike.

    network: a copy that holds the mean, no part of the training.

    Polyak & Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    """

    def __init__(self, network: nn.Module, kept: float) -> None:
        try:
            self.network = copy.deepcopy(network)
        except Exception as error:  # of a network of the user's own
            problem = f"can't be copied: {told(error)}"
            raise BadInput(
                f"weight_ema is {kept:g}, and the network {problem}; accepted: 0"
            ) from None
        self.kept, self.steps = kept, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        means, values = ([*each.parameters(), *each.buffers()] for each in (self.network, network))
        wide = [mean.is_floating_point() for mean in means]
        share = max(1 - self.kept, 1 / self.steps)
        torch._foreach_lerp_([*compress(means, wide)], [*compress(values, wide)], share)
        for mean, value, is_wide in zip(means, values, wide, strict=True):
            if not is_wide:  # a count
                mean.copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        """The mean, and of how many steps it is."""
        mean = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        return {"steps": torch.tensor(self.steps), **mean}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        at = len("network.")
        self.steps = int(state["steps"])
        self.network.load_state_dict({k[at:]: t for k, t in state.items() if k != "steps"})


class Fit:
    """A network being fitted: its optimiser, how far it is, and whether it learns at all.

    kept: what is evaluated and stays, the network itself or the mean of its weights over the steps;
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
    ) -> None:
        self.config, self.run, self.network = config, run, network
        self.counts, self.steps = counts, steps
        self.mean = WeightMean(network, config.weight_ema) if config.weight_ema else None
        self.kept = network if self.mean is None else self.mean.network
        # What else has a state that the steps to come depend on: the loss, the mean, who listens.
        parts = {**states, "mean": self.mean}
        self.states = {k: v for k, v in parts.items() if hasattr(v, "state_dict")}
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
        if self.mean is not None:
            self.mean.update(self.network)
        self.step += 1
        return True

    def _reached(self, name: str) -> bool:
        grad = self.parameters[name].grad
        return grad is not None and bool(grad.any())

    def pause(self, stop: bool) -> None:
        """Write a checkpoint where it is time for one; to stop, write one and raise Interrupted."""
        if stop:
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

    def finish(self, result: Result) -> None:
        """Write what remains of the run; its checkpoints go.  The network gets what was kept."""
        if self.mean is not None:
            self.network.load_state_dict(self.kept.state_dict())
        self.run.finish(self.config, self.network.state_dict(), self.history, result)

    def resume(self, group: Group, say: Callable[[str], None]) -> None:
        """Go on from the newest good checkpoint, if there is one; say what was wrong with newer."""
        tensors, state, problems = group.from_first(lambda: self.run.resume(self.config))
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
