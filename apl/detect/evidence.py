"""Which labels are wrong: evidence from one training, a score for every sample, a cut, a rate.

`LabelMonitor` gathers the evidence inside a training loop, `rank` scores labels by it and
`find_issues` says everything at once.  All but the monitor is numpy on plain arrays, and takes
anybody's out-of-fold probabilities too.  docs/find.md tells the method, docs/find-evidence.md what
it reaches.

The head loads no torch: to read and rank costs none.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from apl.data.labels import require_one_order
from apl.detect import outside
from apl.detect.flips import of_label, one_way_flips, with_diagonal
from apl.detect.given import class_numbers, probabilities
from apl.noise.labels import UNKNOWN, BoolArray, IntArray, Labels, Matrix, Rate, Vector

if TYPE_CHECKING:
    import pandas as pd
EARLY = 3  # visits of a sample before a network memorises: what it says then is nearly unseen data
# Chosen on seed 0 of sym 0.4, asym 0.4 and CIFAR-10N worse together; docs/find-evidence.md has the
# others.
TEMPERATURE = 1.5  # that the averaged logits are divided by: networks are too sure of themselves
BACKGROUND = 0.2  # of the labels are taken to be wrong in any way, before the labels are looked at
ROUNDS = 5  # of expectation and maximisation; more fit the noise matrix to the network's errors
ANCHORS = 0.08  # of a class's share of the samples: the ones that it is surest of, at least
SURE = 0.95  # of more anchors that must be confirmed to take them
BLOCKS = (
    "unshuffled: the samples stand class by class; if the folds were cut in that order, the models "
    "have hardly seen the classes that they judge, and nothing here is right: shuffle the folds"
)
INVISIBLE = (
    "errors that can be predicted from the input are invisible to every method that has no truth: "
    "the noise rate counts none of them"
)
"""The doubt that always is there, the last one."""
WEAK = 0.1  # of the right labels that a network may get wrong before it is called weak
BY_HEART, GAP = 0.9, 0.2  # agreement with labels trained on, and how far ahead of that with others
FEW = 50  # samples of a class below which its noise can't be told


@dataclass(frozen=True)
class Evidence:
    """What a network said of N samples while it was trained.

    log_probs: the log of its softmax, averaged over all visits [N, K]; early: its softmax,
    averaged over the first visits [N, K]; visits: how often each sample was seen [N]; lost: how
    often what it said was not finite, which is no visit [N], () where nobody counted.
    """

    log_probs: Matrix
    early: Matrix
    visits: IntArray
    lost: IntArray = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, probs: npt.ArrayLike) -> Evidence:
        """From probabilities [N, K] of a network that has not seen the labels (out of fold); a row
        that is not finite says nothing."""
        exact, told = probabilities(probs)
        tiny = np.finfo(np.float32).tiny  # the log of a class that is ruled out stays finite
        log_probs = np.log(np.maximum(exact, tiny))
        return cls(log_probs, exact, told.astype(np.int64), (~told).astype(np.int64))

    def take(self, chosen: BoolArray) -> Evidence:
        """What was said of the samples at `chosen` [N] alone."""
        lost = self.lost[chosen] if len(self.lost) else self.lost
        return Evidence(
            self.log_probs[chosen], self.early[chosen], self.visits[chosen].astype(np.int64), lost
        )

    @property
    def seen(self) -> BoolArray:
        """Of which samples there is evidence, and all of it is finite [N]."""
        finite = np.isfinite(self.log_probs).all(1) & np.isfinite(self.early).all(1)
        seen: BoolArray = (self.visits > 0) & finite
        return seen

    @property
    def out_of_fold(self) -> bool:
        """Whether it is of models that had not seen the labels: each sample was looked at once, out
        of fold or before a first step."""
        return int(self.visits.max(initial=0)) <= 1


@dataclass(frozen=True)
class Findings:
    """What the evidence says of N labels.

    Attributes:
        is_label_issue: Which are flagged as wrong [N].
        label_score: How likely each label is right [N], in [0, 1], nan for a sample never seen or
            without a label.
        given_label: The labels as given [N], UNKNOWN (-1) for one without.
        predicted_label: The likeliest class [N], for a flagged label the likeliest other one,
            UNKNOWN for a sample never seen.
        noise_rate: The share of wrong labels, with its interval.
        transition: The noise matrix [K, K] that the scores rest on, T[j, k] the share of class j
            labelled k, nan where nothing can be told.
        doubts: Sentences on why not to trust all this.
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
    """How well wrong labels were found, among the samples whose true label is known.

    Args:
        findings: What was found.
        labels: The labels, with the true ones.

    Returns:
        precision, recall and f1 of what is flagged, and the average_precision of the ranking; empty
        where no label is known to be wrong.
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
    (2020) area under the margin but for the other classes), T the noise matrix.  For probabilities
    of weak models see `apl.detect.outside.chances`.
    """
    labels, evidence = _checked(labels, evidence)
    posterior, _, transition = _explain(labels, evidence)
    return _right(labels, evidence, posterior, transition)


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

    Where the model has not seen the labels the estimate is the mean of their chances to be wrong.
    """
    labels, evidence = _checked(labels, evidence)
    posterior, clean, _ = _explain(labels, evidence)
    return _rate(labels, evidence, clean, 1 - float(of_label(posterior, labels).mean()))


def _rate(labels: IntArray, evidence: Evidence, clean: Matrix, expected: float) -> Rate:
    """The noise rate; expected: the mean of the labels' chances to be wrong, which is the estimate
    where the model had not seen them."""
    classes = clean.mean(0)  # how large each is, its labels being what is in doubt
    share = ANCHORS
    # A network that has seen the labels is surest of samples whose label fits: the fewer anchors,
    # the fewer wrong ones among them.  So there are as many as one can name that is this good.
    most = share if evidence.out_of_fold else 1.0
    while 2 * share <= most and _anchors(labels, evidence, classes, 2 * share).confirmed >= SURE:
        share *= 2
    fewer, more = (
        _anchors(labels, evidence, classes, part) for part in (share / 2, min(2 * share, 1.0))
    )
    found = _anchors(labels, evidence, classes, share)
    estimate = expected if evidence.out_of_fold else (found.low + found.high) / 2
    return Rate(
        estimate,
        max(0.0, min(fewer.low - 2 * fewer.low_error, estimate)),
        min(1.0, max(more.high + 2 * more.high_error, estimate)),
    )


def find_issues(
    labels: npt.ArrayLike, evidence: Evidence | npt.ArrayLike, class_names: Sequence[str] = ()
) -> Findings:
    """Everything the evidence says: scores, flags, suggested labels, noise rate, doubts.

    labels, evidence: as `rank` takes them, but some samples may never have been seen, be without a
    label (nan, None, pandas' NA, '', 'N/A' and the like, -1, -100) or have probabilities that are
    not finite: they get no score, take no part in what is estimated, and are counted in the doubts.
    class_names: what the doubts call the classes, their numbers where there are none.

    The scores are those of `rank`; of a training they are moved so that as many labels are expected
    to be wrong as the noise rate says, and flagged is what makes the expected F1 largest (Lipton et
    al. 2014).  For probabilities of models that have not seen the labels see `apl.detect.outside`.
    """
    theirs = not isinstance(evidence, Evidence)
    labels, evidence = _fitting(labels, evidence)
    found = _of_the_judged(labels, evidence, class_names)
    known = labels != UNKNOWN
    if theirs and outside.strange_blocks(labels[known], evidence.early[known]):
        return dataclasses.replace(found, doubts=[*found.doubts, BLOCKS])
    return found


def _of_the_judged(labels: IntArray, evidence: Evidence, class_names: Sequence[str]) -> Findings:
    """Findings where some samples may have no label, or no evidence."""
    seen = evidence.seen
    lost = evidence.lost if len(evidence.lost) else np.zeros(len(seen), dtype=np.int64)
    if not seen.any() and not lost.any() and not (evidence.visits > 0).any():
        raise ValueError("no sample was ever seen: call update in the training loop")
    judged = seen & (labels != UNKNOWN)
    if judged.all() and not lost.any():
        return _judge(labels, evidence, class_names)
    doubts = _left_out(labels, seen, lost, evidence.visits)
    if not judged.any():
        nothing = f"nothing can be told of these labels: {doubts[0]}"
        return untold(labels, evidence.early.shape[1], [nothing, *doubts[1:]])
    part = _judge(labels[judged], evidence.take(judged), class_names)
    whole = untold(labels, evidence.early.shape[1], [*doubts, *part.doubts])
    for name in ("is_label_issue", "label_score", "predicted_label"):
        getattr(whole, name)[judged] = getattr(part, name)
    others = seen & ~judged
    if others.any():
        if evidence.out_of_fold:
            clean = outside.undo(evidence.early[others], part.transition)
        else:
            flips = one_way_flips(labels[judged], evidence.early[judged])
            clean = _undone(evidence.take(others), flips)
        whole.predicted_label[others] = clean.argmax(1)
    return dataclasses.replace(whole, noise_rate=part.noise_rate, transition=part.transition)


def untold(labels: IntArray, classes: int, doubts: Sequence[str]) -> Findings:
    """Findings that say nothing of N labels, and in `doubts` why."""
    count = len(labels)
    return Findings(
        is_label_issue=np.zeros(count, dtype=bool),
        label_score=np.full(count, np.nan),
        given_label=labels,
        predicted_label=np.full(count, UNKNOWN),
        noise_rate=Rate(math.nan, math.nan, math.nan),
        transition=np.full((classes, classes), np.nan),
        doubts=[*doubts],
    )


def _judge(labels: IntArray, evidence: Evidence, class_names: Sequence[str]) -> Findings:
    """Findings of samples that all were seen and have a label."""
    posterior, clean, transition = _explain(labels, evidence)
    right = _right(labels, evidence, posterior, transition)
    rate = _rate(labels, evidence, clean, 1 - float(right.mean()))
    order = np.argsort(right, kind="stable")
    if evidence.out_of_fold:
        wrong, number = 1 - right, outside.how_many(labels, right, clean)
    else:
        wrong = _calibrated(1 - right, rate.estimate)
        expected = 2 * wrong[order].cumsum() / (np.arange(1, len(wrong) + 1) + wrong.sum())
        number = int(expected.argmax()) + 1
    flagged = np.zeros(len(labels), dtype=bool)
    flagged[order[:number]] = rate.estimate > 0
    others = posterior.copy()
    others[np.arange(len(labels)), labels] = -1
    predicted = np.where(flagged, others.argmax(1), clean.argmax(1))
    doubts = doubts_of(labels, evidence, clean, rate, class_names)
    return Findings(flagged, 1 - wrong, labels, predicted, rate, transition, doubts)


def _left_out(labels: IntArray, seen: BoolArray, lost: IntArray, visits: IntArray) -> list[str]:
    """What takes no part, and why, a sentence each."""
    count, told = len(seen), []
    silent = ~seen & ((lost > 0) | (visits > 0))
    if lost.any() or silent.any():
        outputs = int(lost.sum()) + int((silent & (lost == 0)).sum())
        samples = int(((lost > 0) | silent).sum())
        rest = f", and {int(silent.sum()):,} have no score" if silent.any() else ""
        told.append(
            f"not finite: {outputs:,} answers of the network, to {samples:,} of {count:,} samples, "
            f"are no finite numbers and were left out{rest}"
        )
    never = ~seen & ~silent
    if never.any():
        told.append(f"{int(never.sum())} of {count} samples were never seen, so they have no score")
    without = seen & (labels == UNKNOWN)
    if without.any():
        told.append(
            f"{int(without.sum())} of {count} samples have no label, so they have no score, and a "
            "predicted label alone"
        )
    return told


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


def _explain(labels: IntArray, evidence: Evidence) -> tuple[Matrix, Matrix, Matrix]:
    """Posterior of the true class given image and label [N, K], given the image alone [N, K], and
    the noise matrix [K, K]."""
    if evidence.out_of_fold:
        return outside.explain(labels, evidence.early)
    flips = one_way_flips(labels, evidence.early)
    clean = _undone(evidence, flips)
    transition = with_diagonal(flips + BACKGROUND / (len(flips) - 1))
    order = np.argsort(labels, kind="stable")
    carried, starts = np.unique(labels[order], return_index=True)
    for _ in range(ROUNDS):
        posterior = clean * transition.T[labels]
        posterior /= posterior.sum(1, keepdims=True)
        counts = np.full_like(flips, 0.1)  # a class that nothing looks like has a row all the same
        counts[:, carried] += np.add.reduceat(posterior[order], starts).T
        transition = counts / counts.sum(1, keepdims=True)
    return posterior, clean, transition


def _right(labels: IntArray, evidence: Evidence, posterior: Matrix, transition: Matrix) -> Vector:
    """How likely each label is right [N], by what `_explain` says."""
    if evidence.out_of_fold:
        return outside.chances(labels, evidence.early, posterior, transition)
    return of_label(posterior, labels)


def _undone(evidence: Evidence, flips: Matrix) -> Matrix:
    """The chance of each true class given the image alone [N, K], the flips [K, K] undone."""
    logits = evidence.log_probs / TEMPERATURE
    seen = np.exp(logits - logits.max(1, keepdims=True))
    seen /= seen.sum(1, keepdims=True)
    # The network learned the flips with the labels: q = p T, so p = q T^-1 (Patrini et al. 2017),
    # and where that leaves nothing of a class, a little of what was seen keeps the order.
    undone = seen @ np.linalg.inv(with_diagonal(flips))
    clean: Matrix = np.maximum(undone, 1e-3 * seen)
    clean /= clean.sum(1, keepdims=True)
    return clean


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


def doubts_of(
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
            "if many are wrong, it has memorised them (take fewer epochs, or a robust loss)"
        )
    return [*doubts, INVISIBLE]


def eyes(findings: Findings, outside: Findings, trained_on: float, unseen: float) -> list[str]:
    """What the labels of samples that a network has not seen say of how well it sees: doubts of the
    findings on those it was trained on.

    outside: the findings on the unseen ones; trained_on, unseen: with which share of the labels it
    agrees there and here.
    """
    rate, count = findings.noise_rate.estimate, int(np.isfinite(outside.label_score).sum())
    if not (count and math.isfinite(rate) and rate < 1):
        return []
    doubts, chance = [], 2 * math.sqrt(0.25 / count)  # two standard errors of a share
    own = 1 - unseen / (1 - rate)
    if own > max(rate, WEAK) + chance / 2:
        doubts.append(
            f"weak eyes: the network agrees with {unseen:.0%} of {count:,} labels that it has not "
            f"seen, where {1 - rate:.0%} would be right, so it errs itself in about {own:.0%}: of "
            "what it suspects more may be right than wrong, and it misses much; a better network, "
            "features of a pretrained one, or more samples"
        )
    if trained_on > BY_HEART and trained_on - unseen > max(GAP, rate + chance):
        doubts.append(
            f"learned by heart: it agrees with {trained_on:.0%} of the labels that it was trained "
            f"on, and with {unseen:.0%} of others; wrong ones that it has learned are not found, "
            "and the noise rate may be too low (fewer epochs, or a robust loss)"
        )
    return doubts


def _named(classes: IntArray, class_names: Sequence[str]) -> str:
    names = [repr(class_names[k]) if class_names else str(k) for k in classes[:5]]
    shown = ", ".join(names) + (", ..." if len(classes) > 5 else "")
    return f"class {shown}" if len(classes) == 1 else f"classes {shown}"


def _fitting(
    labels: npt.ArrayLike, evidence: Evidence | npt.ArrayLike
) -> tuple[IntArray, Evidence]:
    """The two as arrays of the same samples, UNKNOWN where there is no label; ValueError where they
    do not fit."""
    signs = not isinstance(evidence, Evidence)
    if not isinstance(evidence, Evidence):
        require_one_order(evidence, labels, "the probabilities")
        evidence = Evidence.of(evidence)
    count, classes = evidence.early.shape
    numbers = class_numbers(labels, classes)
    if len(numbers) != count:
        raise ValueError(f"labels must be [{count}], as the evidence is, got [{len(numbers)}]")
    if count == 0:
        raise ValueError("there are no samples to judge")
    if signs and classes == 2 and {*np.unique(numbers)} == {UNKNOWN, 1}:
        raise ValueError("labels must be from 0 to 1, got -1 and 1: give 0 for -1")
    return numbers, evidence


def _checked(
    labels: npt.ArrayLike, evidence: Evidence | npt.ArrayLike
) -> tuple[IntArray, Evidence]:
    """The two as arrays that fit each other, every sample seen and with a label; ValueError where
    they do not."""
    labels, evidence = _fitting(labels, evidence)
    accepted = "leave them out, or ask find_issues, which does"
    without = int((labels == UNKNOWN).sum())
    if without:
        raise ValueError(
            f"labels must be from 0 to {evidence.early.shape[1] - 1}, got -1, nan or another word "
            f"for none for {without} of {len(labels)} samples: {accepted}"
        )
    unseen = int((~evidence.seen).sum())
    if unseen:
        raise ValueError(
            f"probabilities must be finite, and of every sample; {unseen} of {len(labels)} have "
            f"none: {accepted}"
        )
    return labels, evidence
