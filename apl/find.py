"""Which labels are wrong: evidence from one training, a score for every sample, a cut, a rate.

`LabelMonitor` gathers the evidence inside a training loop, `rank` scores labels by it and
`find_issues` says everything at once.  All but the monitor is numpy on plain arrays, and takes
anybody's out-of-fold probabilities too.  docs/find.md tells the method and what it reaches.

The head loads no torch: to read and rank costs none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from apl.noise import MOST_CLASSES, UNKNOWN, IntArray, Labels, Matrix

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from torch import Tensor

    from apl.config import Config
    from apl.data.dataset import Dataset
    from apl.machine import Machine

BoolArray = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float64]
Halves = npt.NDArray[np.float16]

EVIDENCE = "evidence.safetensors"  # in a run folder: what its monitor has gathered
WARM = 3.0  # epochs of a search are with CE, for the visits that are early
FEWEST_BATCH = 16  # samples a step in a search in few samples
EARLY = 3  # visits of a sample before a network memorises: what it says then is nearly unseen data
# Chosen on seed 0 of sym 0.4, asym 0.4 and CIFAR-10N worse together; docs/find.md has the others.
TEMPERATURE = 1.5  # that the averaged logits are divided by: networks are too sure of themselves
BALANCE = 0.85  # how much of the confusion one way is taken for granted by that the other way
SLOPE = 3.0  # an early network shows about a third of a flip
MOST = 0.5  # of a class's samples that are taken to have flipped one way: above it, it is undone
BACKGROUND = 0.2  # of the labels are taken to be wrong in any way, before the labels are looked at
ROUNDS = 5  # of expectation and maximisation; more fit the noise matrix to the network's errors
ANCHORS = 0.08  # of a class's share of the samples: the ones that it is surest of, at least
SURE = 0.95  # of more anchors that must be confirmed to take them
FEW = 50  # samples of a class below which its noise can't be told


@dataclass(frozen=True)
class Evidence:
    """What a network said of N samples while it was trained.

    log_probs: the log of its softmax, averaged over all visits [N, K]; early: its softmax,
    averaged over the first visits [N, K]; visits: how often each sample was seen [N].
    """

    log_probs: Matrix
    early: Matrix
    visits: IntArray

    @classmethod
    def of(cls, probs: npt.ArrayLike) -> Evidence:
        """From probabilities [N, K] of a network that has not seen the labels (out of fold)."""
        given: Matrix = np.asarray(probs, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] < 2:
            raise ValueError(
                f"probabilities must be [N, K] with K of 2 or more, got {list(given.shape)}"
            )
        if not np.isfinite(given).all() or (given < 0).any():
            raise ValueError("probabilities must be finite and not negative")
        sums = given.sum(1)
        if len(sums) and np.abs(sums - 1).max() > 1e-3:
            worst = int(np.abs(sums - 1).argmax())
            raise ValueError(
                f"every row of probabilities must sum to 1; row {worst} sums to {sums[worst]:.4g}"
            )
        exact: Matrix = given / sums[:, None]
        tiny = np.finfo(np.float32).tiny  # the log of a class that is ruled out stays finite
        return cls(np.log(np.maximum(exact, tiny)), exact, np.ones(len(exact), dtype=np.int64))


@dataclass(frozen=True)
class Rate:
    """A share of wrong labels, and the interval that it lies in."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Findings:
    """What the evidence says of N labels.

    is_label_issue [N]: flagged as wrong; label_score [N]: how likely the label is right, in
    [0, 1], nan for a sample never seen; predicted_label [N]: the likeliest class, for a flagged
    label the likeliest other one; transition [K, K]: the noise matrix that the scores rest on,
    T[j, k] the share of class j labelled k; doubts: sentences on why not to trust all this.
    """

    is_label_issue: BoolArray
    label_score: Vector
    given_label: IntArray
    predicted_label: IntArray
    noise_rate: Rate
    transition: Matrix
    doubts: list[str]

    def table(self) -> pd.DataFrame:
        """One row a sample, in the columns of cleanlab's Datalab."""
        import pandas as pd

        names = ("is_label_issue", "label_score", "given_label", "predicted_label")
        return pd.DataFrame({name: getattr(self, name) for name in names})


def detection_scores(findings: Findings, labels: Labels) -> dict[str, float]:
    """How well wrong labels were found, among the samples whose true label is known: precision,
    recall and F1 of what is flagged, and the average precision of the ranking.

    Empty where no label is known to be wrong.
    """
    seen = labels.known & np.isfinite(findings.label_score)
    wrong, flagged = labels.wrong[seen], findings.is_label_issue[seen]
    if not wrong.any():
        return {}
    from sklearn.metrics import average_precision_score  # takes a second, so only where it is used

    hits = int((wrong & flagged).sum())
    return {
        "precision": hits / max(int(flagged.sum()), 1),
        "recall": hits / int(wrong.sum()),
        "f1": 2 * hits / int(flagged.sum() + wrong.sum()),
        "average_precision": float(average_precision_score(wrong, -findings.label_score[seen])),
    }


# ------------------------------------------------------------------------------ plain arrays


def rank(labels: npt.ArrayLike, evidence: Evidence | npt.ArrayLike) -> Vector:
    """How likely each label is right [N], in [0, 1]: the lowest are the most suspicious.

    labels: classes [N]; evidence: a monitor's, or probabilities [N, K] of a network that has not
    seen the labels.  Raises ValueError for what does not fit.

    The score is the posterior p_y T[y, y] / sum_j p_j T[j, y] of the given label y, as in noisy
    channel models (Bootkrajang & Kabán 2012; Patrini et al. 2017).  p is the network's averaged
    prediction (the mean log-probability over a training, whose ranking is that of Pleiss et al.'s
    (2020) area under the margin but for the other classes), T the noise matrix.
    """
    labels, evidence = _checked(labels, evidence)
    posterior, _, _ = _explain(labels, evidence)
    return _of_label(posterior, labels)


def estimate_transition(labels: npt.ArrayLike, evidence: Evidence | npt.ArrayLike) -> Matrix:
    """The noise matrix [K, K] that the scores of `rank` rest on; its rows sum to 1.

    It says which classes flip into which, not how often: see `noise_rate` for that.
    """
    return _explain(*_checked(labels, evidence))[2]


def noise_rate(labels: npt.ArrayLike, evidence: Evidence | npt.ArrayLike) -> Rate:
    """The share of wrong labels, read off the samples that the early network is surest of: how many
    of them carry another label, averaged over the classes (anchor points: Liu & Tao 2016, Patrini
    et al. 2017).

    That is too high where the network is weak, whose surest samples are not all of their class.
    Among those of them that the whole training puts into the same class it is too low, since it
    has learned some wrong labels by heart.  The estimate lies midway; the interval goes from the
    lower one with half as many samples to the higher one with twice as many, and two standard
    errors beyond.  Where people err on hard images the estimate is too low: the surest are easy.
    It is of ANCHORS of the samples, doubled as long as the whole training puts SURE of them into
    the same class.
    """
    labels, evidence = _checked(labels, evidence)
    return _rate(labels, evidence, _explain(labels, evidence)[1])


def _rate(labels: IntArray, evidence: Evidence, clean: Matrix) -> Rate:
    classes = clean.mean(0)  # how large each is, its labels being what is in doubt
    share = ANCHORS
    # A network that has seen the labels is surest of samples whose label fits: the fewer anchors,
    # the fewer wrong ones among them.  So there are as many as one can name that is this good.
    most = 1.0 if evidence.visits.max() > 1 else share
    while 2 * share <= most and _anchors(labels, evidence, classes, 2 * share).confirmed >= SURE:
        share *= 2
    fewer, more = (
        _anchors(labels, evidence, classes, part) for part in (share / 2, min(2 * share, 1.0))
    )
    found = _anchors(labels, evidence, classes, share)
    estimate = (found.low + found.high) / 2
    return Rate(
        estimate,
        max(0.0, min(fewer.low - 2 * fewer.low_error, estimate)),
        min(1.0, max(more.high + 2 * more.high_error, estimate)),
    )


def find_issues(
    labels: npt.ArrayLike, evidence: Evidence | npt.ArrayLike, class_names: Sequence[str] = ()
) -> Findings:
    """Everything the evidence says: scores, flags, suggested labels, noise rate, doubts.

    labels, evidence: as `rank` takes them, but some samples may never have been seen; class_names:
    what the doubts call the classes, their numbers where there are none.

    The scores are those of `rank`, moved so that as many labels are expected to be wrong as the
    noise rate says; flagged is what makes the expected F1 largest (Lipton et al. 2014).
    """
    if isinstance(evidence, Evidence) and (evidence.visits == 0).any():
        return _of_the_seen(np.asarray(labels), evidence, class_names)
    labels, evidence = _checked(labels, evidence)
    posterior, clean, transition = _explain(labels, evidence)
    rate = _rate(labels, evidence, clean)
    right = _of_label(posterior, labels)
    wrong = _calibrated(1 - right, rate.estimate)
    order = np.argsort(right, kind="stable")
    expected = 2 * wrong[order].cumsum() / (np.arange(1, len(wrong) + 1) + wrong.sum())
    flagged = np.zeros(len(labels), dtype=bool)
    flagged[order[: int(expected.argmax()) + 1]] = rate.estimate > 0
    others = posterior.copy()
    others[np.arange(len(labels)), labels] = -1
    predicted = np.where(flagged, others.argmax(1), clean.argmax(1))
    doubts = _doubts(labels, evidence, clean, rate, class_names)
    return Findings(flagged, 1 - wrong, labels, predicted, rate, transition, doubts)


def _calibrated(chances: Vector, mean: float) -> Vector:
    """Chances [N] in the same order, their log-odds softened, since a network is too sure of what
    it was trained on, and moved by one number so that `mean` is their mean."""
    chances = chances.clip(1e-9, 1 - 1e-9)
    odds = np.log(chances / (1 - chances)) / TEMPERATURE
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        if (1 / (1 + np.exp(-(odds + middle)))).mean() < mean:
            low = middle
        else:
            high = middle
    calibrated: Vector = 1 / (1 + np.exp(-(odds + low)))
    return calibrated


def _of_the_seen(labels: IntArray, evidence: Evidence, class_names: Sequence[str]) -> Findings:
    """Findings where some samples were never seen, which count for nothing in what is estimated."""
    seen = evidence.visits > 0
    if not seen.any():
        raise ValueError("no sample was ever seen: call update in the training loop")
    if labels.shape != seen.shape:
        raise ValueError(
            f"labels must be {list(seen.shape)}, as the evidence is, got {list(labels.shape)}"
        )
    part = find_issues(
        labels[seen],
        Evidence(evidence.log_probs[seen], evidence.early[seen], evidence.visits[seen]),
        class_names,
    )
    flagged, scores = np.zeros(len(seen), dtype=bool), np.full(len(seen), np.nan)
    predicted = np.full(len(seen), UNKNOWN)
    flagged[seen], scores[seen] = part.is_label_issue, part.label_score
    predicted[seen] = part.predicted_label
    unseen = f"{int((~seen).sum())} of {len(seen)} samples were never seen, so they have no score"
    return dataclasses.replace(
        part,
        is_label_issue=flagged,
        label_score=scores,
        given_label=labels.astype(np.int64),
        predicted_label=predicted,
        doubts=[unseen, *part.doubts],
    )


def confident_joint(labels: IntArray, probs: Matrix) -> Matrix:
    """Counts [K, K] of samples that look like class j and are labelled k.

    A sample looks like class j where p_j is at least its mean over the samples labelled j; where
    several are, the likeliest of them (Northcutt et al. 2021, equation 1).  Columns are scaled to
    the number of labels.
    """
    classes = probs.shape[1]
    sizes = np.bincount(labels, minlength=classes)
    own = np.bincount(labels, _of_label(probs, labels), classes)
    # A class without labels has no threshold, and nothing looks like it.
    threshold = np.divide(own, sizes, out=np.full(classes, np.inf), where=sizes > 0)
    above = np.where(probs >= threshold, probs, -1.0)
    confident = above.max(1) >= 0
    pairs = above.argmax(1)[confident] * classes + labels[confident]
    counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    joint: Matrix = counts / np.maximum(counts.sum(0), 1) * sizes
    return joint


def one_way_flips(labels: IntArray, early: Matrix) -> Matrix:
    """Which share of class j was labelled k by a noise that does not flip as many back [K, K].

    Where labels are clean, or wrong alike in all directions, classes that look alike are taken for
    each other about as often one way as the other.  So what the confident joint has one way beyond
    the other way is laid to the labels, as far as it exceeds the largest difference expected by
    chance: sqrt(2 log m) standard errors in m pairs (Donoho & Johnstone 1994).
    """
    joint = confident_joint(labels, early)
    classes = len(joint)
    sizes = np.maximum(joint.sum(1, keepdims=True), 1)
    share = joint / sizes
    variance = share * (1 - share) / sizes
    chance = np.sqrt(2 * math.log(classes * (classes - 1)) * (variance + BALANCE**2 * variance.T))
    flips = SLOPE * np.maximum(share - BALANCE * share.T - chance, 0)
    np.fill_diagonal(flips, 0)
    total = flips.sum(1, keepdims=True)
    limited: Matrix = flips * np.minimum(1, MOST / np.maximum(total, MOST))
    return limited


def _explain(labels: IntArray, evidence: Evidence) -> tuple[Matrix, Matrix, Matrix]:
    """Posterior of the true class given image and label [N, K], given the image alone [N, K], and
    the noise matrix [K, K]."""
    flips = one_way_flips(labels, evidence.early)
    logits = evidence.log_probs / TEMPERATURE
    seen = np.exp(logits - logits.max(1, keepdims=True))
    seen /= seen.sum(1, keepdims=True)
    # The network learned the flips with the labels: q = p T, so p = q T^-1 (Patrini et al. 2017),
    # and where that leaves nothing of a class, a little of what was seen keeps the order.
    undone = seen @ np.linalg.inv(_with_diagonal(flips))
    clean = np.maximum(undone, 1e-3 * seen)
    clean /= clean.sum(1, keepdims=True)
    transition = _with_diagonal(flips + BACKGROUND / (len(flips) - 1))
    order = np.argsort(labels, kind="stable")
    carried, starts = np.unique(labels[order], return_index=True)
    for _ in range(ROUNDS):
        posterior = clean * transition.T[labels]
        posterior /= posterior.sum(1, keepdims=True)
        counts = np.full_like(flips, 0.1)  # a class that nothing looks like has a row all the same
        counts[:, carried] += np.add.reduceat(posterior[order], starts).T
        transition = counts / counts.sum(1, keepdims=True)
    return posterior, clean, transition


def _with_diagonal(off: Matrix) -> Matrix:
    """The transition matrix with these entries off the diagonal."""
    off = off.copy()
    np.fill_diagonal(off, 0)
    return off + np.diag(1 - off.sum(1))


def _of_label(values: Matrix, labels: IntArray) -> Vector:
    chosen: Vector = values[np.arange(len(labels)), labels]
    return chosen


class _Anchors(NamedTuple):
    """Of each class's surest samples: which share of them the whole training puts into the same
    class, how many carry another label among these (low) and among all (high), with the standard
    errors."""

    confirmed: float
    low: float
    low_error: float
    high: float
    high_error: float


def _anchors(labels: IntArray, evidence: Evidence, weights: Vector, share: float) -> _Anchors:
    """The anchors of each class, `share` of an average class's samples; classes count by their
    weights [K]."""
    count, classes = evidence.early.shape
    # In small sets the error of few would be worse than that of those it is less sure of.
    size = max(1, round(max(share * count, min(FEW * classes, count / 2)) / classes))
    surest = np.argpartition(-evidence.early, size - 1, axis=0)[:size]
    other = labels[surest] != np.arange(classes)
    confirmed = evidence.log_probs.argmax(1)[surest] == np.arange(classes)

    def mean(among: BoolArray) -> tuple[float, float]:
        number = among.sum(0)
        wrong = (other & among).sum(0)
        # Two pseudo-counts of each kind (Agresti & Coull 1998): none seen does not mean none.
        smooth = (wrong + 2) / (number + 4)
        error = math.sqrt(float((weights**2 * smooth * (1 - smooth) / (number + 4)).sum()))
        return float(weights @ (wrong / np.maximum(number, 1))), error

    return _Anchors(float(confirmed.mean()), *mean(confirmed), *mean(np.ones_like(confirmed)))


def _doubts(
    labels: IntArray, evidence: Evidence, clean: Matrix, rate: Rate, class_names: Sequence[str]
) -> list[str]:
    """Why not to trust the findings, a sentence each."""
    count, classes = clean.shape
    sizes = np.bincount(labels, minlength=classes)
    doubts = []
    few = np.flatnonzero((sizes > 0) & (sizes < FEW))
    if len(few):
        doubts.append(
            f"too few samples: fewer than {FEW} carry the label of {_named(few, class_names)}, so "
            "their noise cannot be told"
        )
    predicted = np.bincount(clean.argmax(1), minlength=classes)
    lost = np.flatnonzero((sizes >= FEW) & (predicted < 0.1 * sizes))
    if len(lost):
        doubts.append(
            f"given up: the network hardly ever predicts {_named(lost, class_names)}, so it knows "
            "nothing of their labels; begin with more epochs of ce"
        )
    agreement = float((clean.argmax(1) == labels).mean())
    chance = float(((sizes / count) ** 2).sum())
    if agreement < chance + 0.5 * (1 - rate.estimate) * (1 - chance):
        doubts.append(
            f"weak network: it agrees with {agreement:.0%} of the labels, so most of what it "
            "suspects may be its own error; train longer, or a better network"
        )
    if agreement > 0.98 and evidence.visits.max(initial=0) > EARLY:
        doubts.append(
            f"memorised: the network agrees with {agreement:.0%} of the labels it was trained on; "
            "if many are wrong, it has learned them by heart (fewer epochs, or a robust loss)"
        )
    return doubts


def _named(classes: IntArray, class_names: Sequence[str]) -> str:
    names = [repr(class_names[k]) if class_names else str(k) for k in classes[:5]]
    shown = ", ".join(names) + (", ..." if len(classes) > 5 else "")
    return f"class {shown}" if len(classes) == 1 else f"classes {shown}"


def _checked(
    labels: npt.ArrayLike, evidence: Evidence | npt.ArrayLike
) -> tuple[IntArray, Evidence]:
    """The two as arrays that fit each other; ValueError where they do not."""
    if not isinstance(evidence, Evidence):
        evidence = Evidence.of(evidence)
    labels = np.asarray(labels)
    count, classes = evidence.early.shape
    if labels.shape != (count,):
        raise ValueError(f"labels must be [{count}], as the evidence is, got {list(labels.shape)}")
    if count == 0:
        raise ValueError("there are no samples to judge")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels must be integers from 0 to {classes - 1}, got {labels.dtype}")
    if classes > MOST_CLASSES:
        raise ValueError(f"{classes:,} classes; accepted: at most {MOST_CLASSES:,}")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {wrong}")
    return labels.astype(np.int64), evidence


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


# --------------------------------------------------------------------------- from data to names


@dataclass(frozen=True)
class Search:
    """What `find_mislabelled` found, and in what.

    data: as trained on; the arrays of the findings go with the samples of data.train.  curves: as
    a monitor's, [N, 0] where folds were judged.
    """

    findings: Findings
    data: Dataset
    config: Config
    evidence: Evidence
    curves: Halves

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
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
    say: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Search:
    """Train on data and say which of its training labels are wrong.

    source: what `apl.load_data` takes, or a Dataset that it made.
    preset, settings: as `apl.config.make_config` takes them; what is not given is chosen for
    finding: labels as they are, three epochs with CE and the others with SCE, and small batches
    where there are few samples.
    folds: 0 judges labels by how the one training took them; K trains K times without a part of
    the samples, and judges these by what the network says that has never seen them.
    run: a folder for the training, as `apl.train.train` has it; what a finished one gathered is
    read, and judged anew.  machine, on_epoch, say, should_stop: as there.

    Raises BadInput for what does not fit, Interrupted where should_stop asks for it.
    """
    from apl.data.dataset import Dataset
    from apl.data.sources import load_data
    from apl.errors import require
    from apl.machine import Machine
    from apl.train import prepare

    require(folds == 0 or folds >= 2, "folds", folds, "0, or 2 and more")
    require(not settings.get("select"), "select", settings.get("select"), "none: all are judged")
    require(not (folds and run), "run", str(run), "none with folds, which keep no checkpoints")
    machine = machine or Machine()
    data = source
    if not isinstance(source, Dataset):
        data = load_data(
            *(source, machine.data_dir, machine.download),
            image_size=settings.get("image_size") or 0,
            label_column=settings.get("label_column") or "label",
            test_set=settings.get("test_set") or "",
            max_broken=machine.max_broken,
            say=say,
        )
    classes = data.num_classes
    require(classes <= MOST_CLASSES, "classes", classes, f"at most {MOST_CLASSES:,} to judge")
    config = search_config(preset, data, settings)
    watched = prepare(config, machine, data)
    hooks = {"machine": machine, "say": say, "should_stop": should_stop}
    if folds:
        evidence = _out_of_fold(config, watched, folds, {**hooks, "on_epoch": on_epoch})
        curves: Halves = np.empty((len(watched.train), 0), np.float16)
        failed = ""
    else:
        # A built-in set is the config's own, which a run folder can describe.
        own = data if data.digest or isinstance(source, Dataset) else None
        monitor, failed = _watch(config, run, own, watched, on_epoch, hooks)
        evidence, curves = monitor.evidence, monitor.curves
    findings = find_issues(watched.train.labels.given, evidence, watched.class_names)
    if failed:
        findings = dataclasses.replace(findings, doubts=[failed, *findings.doubts])
    return Search(findings, watched, config, evidence, curves)


def search_config(preset: str, data: Dataset, settings: Mapping[str, Any]) -> Config:
    """The config of a search in data: the settings given, and what serves to find where they say
    nothing.

    A small set is not shown more often, as a preset does, since a network that sees it often learns
    its wrong labels by heart: it gets smaller batches, for as many steps.  With many classes CE has
    more weight in SCE, whose other part gives classes up.
    """
    from apl.config import make_config
    from apl.presets import FEWEST_STEPS

    given = {name: value for name, value in settings.items() if value is not None}
    chosen: dict[str, Any] = {"noise": "none"}
    if "loss" not in given:
        alpha = max(0.1, data.num_classes / 100)
        chosen |= {"loss": "sce", "alpha": alpha, "beta": 1.0, "warm_start": WARM}
    if data.digest:
        chosen["epochs"] = make_config(preset).epochs
    config = make_config(preset, dataset=data, **{**chosen, **given})
    if "batch_size" in given:
        return config
    count = config.train_size or len(data.train)
    size = max(FEWEST_BATCH, count * config.epochs // FEWEST_STEPS)
    return dataclasses.replace(config, batch_size=min(size, config.batch_size))


def _watch(
    config: Config,
    run: Path | None,
    own: Dataset | None,
    data: Dataset,
    on_epoch: Callable[[dict[str, float]], None],
    hooks: Mapping[str, Any],
) -> tuple[LabelMonitor, str]:
    """The monitor of one training, and why that failed, '' where it did not."""
    from apl.errors import BadInput
    from apl.runs import load_tensors, save_tensors
    from apl.scores import CAUSES
    from apl.train import train

    monitor = LabelMonitor(len(data.train), data.num_classes, curves=True)
    file = None if run is None else run / EVIDENCE

    def keep(row: dict[str, float]) -> None:
        # Before the run is finished: after that nobody could tell what it has seen.
        if file is not None and row["epoch"] == config.epochs:
            save_tensors(file, monitor.state_dict(), {})
        on_epoch(row)

    result = train(config, run, data=own, monitor=monitor, on_epoch=keep, **hooks)
    if file is not None and not (monitor.labels >= 0).any():  # the run was finished before
        try:
            monitor.load_state_dict(load_tensors(file)[0])
        except FileNotFoundError:
            raise BadInput(f"{run} was trained and not watched: give another folder") from None
    if not (monitor.labels >= 0).any():
        raise BadInput(f"nothing was learned ({result.reason}): {CAUSES[result.reason]}")
    if not result.collapsed:
        return monitor, ""
    return monitor, f"the training failed ({result.reason}): {CAUSES[result.reason]}"


def _out_of_fold(config: Config, data: Dataset, folds: int, hooks: Mapping[str, Any]) -> Evidence:
    """What networks say of the samples that each of them has not seen."""
    import torch

    from apl.train import BATCH, build_network, train

    given = data.train.labels.given
    # Every class is spread over all folds.
    order = np.random.default_rng(config.seed).permutation(len(given))
    fold = np.empty(len(given), dtype=np.int64)
    fold[order[np.argsort(given[order], kind="stable")]] = np.arange(len(given)) % folds
    # The noise is in the labels already, and the samples are chosen.
    plain = dataclasses.replace(config, noise="none", rate=0.0, map="", map_sha256="", train_size=0)
    plain = dataclasses.replace(plain, labels="", labels_sha256="")
    probs = np.zeros((len(given), data.num_classes))
    for part in range(folds):
        seen, unseen = np.flatnonzero(fold != part), np.flatnonzero(fold == part)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            network = build_network(config, data, hooks["machine"])
        others = dataclasses.replace(data, train=data.train.take(seen))
        train(plain, data=others, network=network, **hooks)
        device = next(network.parameters()).device
        network.eval()
        with torch.inference_mode():
            for chosen in np.array_split(unseen, max(1, len(unseen) // BATCH)):
                images = data.train.images[torch.from_numpy(chosen)].to(device)
                pixels = data.to_float(images, config.crop_size, config.crop == "plain")
                probs[chosen] = network(pixels).softmax(1).cpu().numpy()
    return Evidence.of(probs)
