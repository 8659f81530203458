"""`LabelMonitor` gathers what a network says of each label while it is trained, in any loop."""

from __future__ import annotations

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

    Memory: 2 N K + 2 N numbers, on the device of the logits.  A step costs a handful of small
    operations and waits for nothing.  early: visits of a sample before the network memorises.
    curves: whether to keep what each sample's label got epoch by epoch, 2 N bytes for each.
    """

    def __init__(
        self, num_samples: int, num_classes: int, early: int = EARLY, curves: bool = False
    ) -> None:
        for name, value, least in (
            ("num_samples", num_samples, 1),
            ("num_classes", num_classes, 2),
            ("early", early, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be {least} or more, got {value}")
        import torch

        self.early = early
        self._sums = {
            "log_probs": torch.zeros(num_samples, num_classes),
            "early": torch.zeros(num_samples, num_classes),
            "visits": torch.zeros(num_samples),
            "labels": torch.full((num_samples,), -1),
        }
        self._columns: list[Tensor] | None = [] if curves else None
        self._taken = 0  # samples so far, which tells the epoch without asking the device

    def update(self, indices: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Take in a batch: which samples [B], their logits [B, K] and given labels [B].

        Called once a step, with the logits that the loss gets.  Raises ValueError for shapes that
        do not fit.
        """
        import torch

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
            indices = indices.to(device, torch.int64)
            targets = targets.to(device, torch.int64)
            sums = self._sums
            log_probs = torch.log_softmax(logits.detach().float(), 1)
            # A factor, not a choice: to branch on it would make the device wait.
            early = (sums["visits"][indices] < self.early).float()
            sums["log_probs"].index_add_(0, indices, log_probs)
            sums["early"].index_add_(0, indices, log_probs.exp() * early[:, None])
            sums["visits"].index_add_(0, indices, torch.ones_like(early))
            sums["labels"][indices] = targets
            if self._columns is not None:
                epoch = self._taken // len(sums["visits"])
                while len(self._columns) <= epoch:
                    self._columns.append(torch.full_like(sums["visits"], torch.nan).half())
                of_label = log_probs.gather(1, targets[:, None]).squeeze(1)
                self._columns[epoch][indices] = of_label.exp().half()
        self._taken += len(logits)

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
        """Go on from a checkpoint's state; ValueError where it is of other samples or classes.

        Curves begin anew where the state holds none.
        """
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
        """The given labels [N], -1 for a sample never seen."""
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
        )

    def findings(self) -> Findings:
        """What it says of the labels, with noise rate and doubts; ValueError before any update."""
        return find_issues(self.labels, self.evidence)

    def issues(self) -> pd.DataFrame:
        """A row a sample: is_label_issue, label_score, given_label, predicted_label (-1: never
        seen)."""
        return self.findings().table()
