"""`LabelMonitor` gathers what a network says of each label while it is trained, in any loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from apl.detect.evidence import EARLY, Evidence, Findings, find_issues
from apl.noise.labels import IntArray
from apl.training.listener import Listener

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor
Halves = npt.NDArray[np.float16]


# ------------------------------------------------------------------------- while one trains


class LabelMonitor:
    """Watches a training and then says which labels are wrong.

        monitor = LabelMonitor(len(dataset), num_classes)
        for indices, images, targets in loader:      # indices: which samples these are
            logits = network(images)
            monitor.update(indices, logits, targets)
            ...
        monitor.issues()

    It takes 2 N K + 3 N numbers of memory, on the device of the logits. A step costs a handful of
    small operations and waits for nothing.

    What is not finite (nan, inf, a half number that overflowed) is no visit; it is counted and
    told. A target of -1, -100 or nan is no label.

    Where torch.distributed has several processes, each call of `update` puts together what all of
    them hand over, so every one knows all samples, and any of them alone may ask for the findings
    or write the state. So all must call it equally often, as DDP's backward pass; a step then waits
    for the others.

    Args:
        num_samples: How many samples there are, N.
        num_classes: How many classes there are, K, 2 or more.
        early: Visits of a sample before the network memorises.
        curves: Whether to keep what each sample's label got epoch by epoch, 2 N bytes for each.
        together: False keeps each process to itself: for networks of their own, or logits that were
            put together before.

    Raises:
        ValueError: A number is too small.
    """

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        early: int = EARLY,
        curves: bool = False,
        together: bool = True,
    ) -> None:
        for name, value, least in (
            ("num_samples", num_samples, 1),
            ("num_classes", num_classes, 2),
            ("early", early, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be {least} or more, got {value}")
        import torch

        self.early, self.together = early, together
        self._sums = {
            "log_probs": torch.zeros(num_samples, num_classes),
            "early": torch.zeros(num_samples, num_classes),
            "visits": torch.zeros(num_samples),
            "lost": torch.zeros(num_samples),
            "labels": torch.full((num_samples,), -1),
        }
        self._columns: list[Tensor] | None = [] if curves else None
        self._taken = 0  # samples so far, which tells the epoch without asking the device

    def update(
        self, indices: Tensor | npt.ArrayLike, logits: Tensor, targets: Tensor | npt.ArrayLike
    ) -> None:
        """Take in a batch, once a step, with the logits that the loss gets.

        Args:
            indices: Which samples these are [B], from 0 on; a tensor, an array or a list.
            logits: Their logits [B, K].
            targets: Their given labels [B], likewise.

        Raises:
            ValueError: Shapes do not fit, or on a CPU indices or targets lie outside; from a GPU,
                which nobody waits for here, the findings tell of such targets.
        """
        import torch

        indices, targets = (
            each if isinstance(each, torch.Tensor) else torch.from_numpy(np.array(each))
            for each in (indices, targets)
        )
        classes = self._sums["early"].shape[1]
        if logits.ndim != 2 or logits.shape[1] != classes:
            raise ValueError(f"logits must be [B, {classes}], got {list(logits.shape)}")
        if indices.shape != logits.shape[:1] or targets.shape != logits.shape[:1]:
            raise ValueError(
                f"indices and targets must be [{len(logits)}], as the logits are, got "
                f"{list(indices.shape)} and {list(targets.shape)}"
            )
        device = logits.device
        if self._sums["early"].device != device:
            self._sums = {name: total.to(device) for name, total in self._sums.items()}
            if self._columns is not None:
                self._columns = [column.to(device) for column in self._columns]
        with torch.no_grad():
            targets = _whole(targets).to(device)
            indices = indices.to(device, torch.int64)
            if device.type == "cpu":
                _check_batch(indices, targets, *self._sums["early"].shape)
            log_probs = torch.log_softmax(logits.detach().float(), 1)
            if self.together:
                indices, targets, log_probs = _of_all_processes(indices, targets, log_probs)
            self._add(indices, targets, log_probs)

    def _add(self, indices: Tensor, targets: Tensor, log_probs: Tensor) -> None:
        import torch

        sums = self._sums
        seen = torch.ones(len(log_probs), device=log_probs.device)
        # A CPU may look whether all is well; on a GPU that would make it wait: factors, no choice.
        well = log_probs.device.type == "cpu" and math.isfinite(float(log_probs.sum()))
        if not well:
            log_probs, seen = _finite(log_probs)
            sums["lost"].index_add_(0, indices, 1 - seen)
        early = (sums["visits"][indices] < self.early).float() * seen
        probs = log_probs.exp()
        sums["log_probs"].index_add_(0, indices, log_probs)
        sums["early"].index_add_(0, indices, probs * early[:, None])
        sums["visits"].index_add_(0, indices, seen)
        sums["labels"][indices] = targets
        if self._columns is not None:
            epoch = self._taken // len(sums["visits"])
            while len(self._columns) <= epoch:
                self._columns.append(torch.full_like(sums["visits"], torch.nan).half())
            classes = log_probs.shape[1]
            of_label = probs.gather(1, targets.clamp(0, classes - 1)[:, None]).squeeze(1)
            told = (seen > 0) & (targets >= 0) & (targets < classes)
            self._columns[epoch][indices] = of_label.where(told, math.nan).half()
        self._taken += len(log_probs)

    def state_dict(self) -> dict[str, Tensor]:
        """All it has gathered, as tensors, for a checkpoint."""
        import torch

        state = dict(self._sums)
        if self._columns is not None:
            state["curves"] = self._stacked()
            state["taken"] = torch.tensor(self._taken)
        return state

    def _stacked(self) -> Tensor:
        import torch

        if not self._columns:
            return torch.empty(len(self._sums["visits"]), 0, dtype=torch.float16)
        return torch.stack(self._columns, 1)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's state; curves begin anew where the state holds none.

        Args:
            state: What `state_dict` gave.

        Raises:
            ValueError: The state is of other samples or classes.
        """
        if "lost" not in state:  # of a version that did not count it
            state = {**state, "lost": self._sums["lost"].new_zeros(self._sums["lost"].shape)}
        for name, total in self._sums.items():
            if name not in state or state[name].shape != total.shape:
                got = list(state[name].shape) if name in state else "none"
                raise ValueError(f"the state's {name} must be {list(total.shape)}, got {got}")
        self._sums = {
            name: state[name].clone().to(total.dtype) for name, total in self._sums.items()
        }
        if self._columns is not None:
            kept = "curves" in state
            self._columns = list(state["curves"].clone().unbind(1)) if kept else []
            self._taken = int(state["taken"]) if kept else 0

    @property
    def listener(self) -> Listener:
        """Itself as a listener of `apl.training.train.train`, and a part of its checkpoints."""
        return Listener(on_step=self.update, states={"monitor": self})

    @property
    def curves(self) -> Halves:
        """The probability of the given label, epoch by epoch [N, E]: nan where a sample was not
        seen; [N, 0] where curves were not asked for.

        An epoch is as many samples as there are, whichever they were: where a loop leaves some out
        of each, the columns run ahead of its epochs.
        """
        curves: Halves = self._stacked().cpu().numpy()
        return curves

    @property
    def labels(self) -> IntArray:
        """The given labels [N], -1 for a sample never seen, negative for one without a label."""
        labels: IntArray = self._sums["labels"].cpu().numpy()
        return labels

    @property
    def evidence(self) -> Evidence:
        """What was gathered so far; of a sample never seen, that all classes are alike."""
        sums: dict[str, Any] = {name: total.cpu().numpy() for name, total in self._sums.items()}
        visits = sums["visits"][:, None].astype(np.float64)
        early = np.minimum(visits, self.early)
        classes = sums["early"].shape[1]
        return Evidence(
            log_probs=sums["log_probs"] / np.maximum(visits, 1),
            early=np.where(visits > 0, sums["early"] / np.maximum(early, 1), 1 / classes),
            visits=sums["visits"].astype(np.int64),
            lost=sums["lost"].astype(np.int64),
        )

    def findings(self) -> Findings:
        """What it says of the labels, with noise rate and doubts.

        Raises:
            ValueError: There was no update yet.
        """
        return find_issues(self.labels, self.evidence)

    def issues(self) -> pd.DataFrame:
        """What it says of the labels, a row a sample; the doubts are in the findings.

        Returns:
            The columns is_label_issue, label_score (nan where it was never seen or has no label),
            given_label (-1 where there is none) and predicted_label (-1 where it was never seen).

        Raises:
            ValueError: There was no update yet.
        """
        return self.findings().table()


def _whole(targets: Tensor) -> Tensor:
    """Targets [B] as whole numbers, -1 for nan; ValueError for a fraction."""
    import torch

    if targets.is_floating_point():
        given = targets.nan_to_num(nan=-1.0)
        if not bool((given == given.round()).all()):
            wrong = float(given[given != given.round()][0])
            raise ValueError(f"targets must be whole numbers, got {wrong:g}")
        targets = given
    return targets.to(torch.int64)


def _check_batch(indices: Tensor, targets: Tensor, samples: int, classes: int) -> None:
    """Raise ValueError for a sample or a class that there is not."""
    which, labels = indices.numpy(), targets.numpy()  # a tenth of the time of torch's calls
    if len(which) and not 0 <= which.min() <= which.max() < samples:
        wrong = which[(which < 0) | (which >= samples)][0]
        raise ValueError(f"indices must be from 0 to {samples - 1}, got {wrong}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        outside = ((labels < 0) | (labels >= classes)) & ~np.isin(labels, (-1, -100))
        if outside.any():
            raise ValueError(
                f"targets must be from 0 to {classes - 1}, or -1 or -100 for none, got "
                f"{labels[outside][0]}"
            )


def _finite(log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [B, K] with zeros in the rows that are not finite, and 1 for each row that
    is, 0 for the others [B]; a class masked by -inf is ruled out, and its log stays finite."""
    import torch

    ruled_out = math.log(torch.finfo(torch.float32).tiny)
    log_probs = log_probs.where(log_probs != -math.inf, ruled_out)
    finite = log_probs.isfinite().all(1)
    return log_probs.where(finite[:, None], 0.0), finite.float()


def _of_all_processes(
    indices: Tensor, targets: Tensor, log_probs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The batches of all processes one after the other, the same in each of them."""
    import torch
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return indices, targets, log_probs
    # In one tensor, as wide as the whole numbers in it need; the batches may differ in size.
    mine = torch.cat([indices[:, None].double(), targets[:, None].double(), log_probs], 1)
    size = torch.tensor([len(mine)], device=mine.device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    counts = [int(each) for each in sizes]
    padded = mine.new_zeros(max(counts), mine.shape[1])
    padded[: len(mine)] = mine
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    whole = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return whole[:, 0].long(), whole[:, 1].long(), whole[:, 2:].to(log_probs.dtype)
