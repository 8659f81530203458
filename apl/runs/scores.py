"""What was scored, and what it means: scores, verdicts, the result of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from apl.config.config import Config
from apl.features.catalog import NONE
from apl.losses.catalog import REPAIR, is_tolerant
from apl.noise.labels import MOST_CLASSES, IntArray, Labels

NEVER = 0.02  # predictions for each sample of a class: fewer are as good as none
ONE_CLASS_SHARE = 0.95  # of the predictions in one class: the network has collapsed
HARDLY_MEMORISED = 0.10  # of the wrong labels: below it, losses can't be told apart by robustness
FROZEN = (
    "a small network on frozen features learns few by heart, which says little of losses for "
    "networks that can"
)

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


@dataclass(frozen=True)
class Scores:
    """How many samples each class has, gets as predictions, and gets rightly [K]; and the counts
    of (label, prediction) pairs [K, K], None where they are more than MOST_CLASSES."""

    labelled: IntArray
    predicted: IntArray
    right: IntArray
    confusion: IntArray | None = None

    @classmethod
    def of(cls, confusion: IntArray) -> Scores:
        """Those that a confusion matrix holds."""
        return cls(confusion.sum(1), confusion.sum(0), np.diag(confusion), confusion)

    @property
    def accuracy(self) -> float:
        """Share of predictions that equal the label."""
        return float(self.right.sum() / self.labelled.sum())

    @property
    def per_class(self) -> list[float]:
        """The accuracy on each label's samples; nan for a label without samples."""
        with np.errstate(invalid="ignore"):
            shares = self.right / self.labelled
        return [float(share) for share in shares]

    @property
    def collapsed_into(self) -> int | None:
        """The class that gets nearly all predictions while the labels say otherwise, or None."""
        total = self.labelled.sum()
        top = int(self.predicted.argmax())
        share, true_share = self.predicted[top] / total, self.labelled[top] / total
        return top if share >= ONE_CLASS_SHARE and true_share < 0.9 else None

    @property
    def never_predicted(self) -> list[int]:
        """The classes that have samples, and hardly a prediction (NEVER): given up, though not
        collapsed."""
        missing = self.predicted < NEVER * self.labelled
        return [int(k) for k in np.flatnonzero(missing)]

    @property
    def at_chance(self) -> bool:
        """Whether the accuracy is no better than guessing, within three standard errors; of few
        samples, where these reach further, not beyond halfway to all of them right."""
        chance = 1 / len(self.labelled)
        error = (chance * (1 - chance) / self.labelled.sum()) ** 0.5
        return bool(self.accuracy <= chance + min(3 * error, (1 - chance) / 2))


def score(predicted: IntArray, labels: IntArray, num_classes: int) -> Scores:
    """Scores of predictions [N] against labels [N]."""
    if num_classes > MOST_CLASSES:
        parts = (labels, predicted, labels[labels == predicted])
        return Scores(*(np.bincount(part, minlength=num_classes) for part in parts))
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return Scores.of(counts.reshape(num_classes, num_classes))


def memorised_and_recovered(predicted: IntArray, labels: Labels) -> tuple[float, float]:
    """Of the samples with a wrong label: the share predicted as that wrong label, and the share
    predicted as the true one.  nan where no label is known to be wrong."""
    wrong = labels.wrong
    if not wrong.any():
        return math.nan, math.nan
    memorised = (predicted[wrong] == labels.given[wrong]).mean()
    recovered = (predicted[wrong] == labels.true[wrong]).mean()
    return float(memorised), float(recovered)


SCORES = ("test_accuracy", "train_accuracy", "memorised", "recovered")
HISTORY_COLUMNS = (
    *("epoch", "lr", "train_loss"),
    *("train_accuracy", "memorised", "recovered", "test_accuracy"),
)
VALIDATION = "validation_accuracy"  # one more, on held-out given labels, where some are held out


def columns_of(names: Collection[str]) -> tuple[str, ...]:
    """The columns of a history that has these at least: VALIDATION only where it has it."""
    return (*HISTORY_COLUMNS, VALIDATION) if VALIDATION in names else HISTORY_COLUMNS


@dataclass(frozen=True)
class Result:
    """What came out of a run.

    Attributes:
        collapsed: Whether it failed, as `reason` says.
        reason: Why it collapsed, a key of CAUSES, else ''.
        too_short: Whether a loss that does not resist memorising hardly memorised any wrong label,
            so that the budget does not tell robust losses from others.
        test_accuracy: The share of the test images that are predicted as their label.
        train_accuracy: The share of the training images that are predicted as their given label.
        memorised: Of the training samples with a wrong label, the share predicted as that label;
            nan where no training label is known to be wrong.
        recovered: Of the same samples, the share predicted as their true class; nan where no
            training label is known to be wrong.
        corrupted: How many training labels are known to be wrong.
        class_names: What the classes are called.
        confusion: Counts [K, K] of labels by predictions on the test images, None for more classes
            than a matrix is made of.
        transition: The noise matrix [K, K], None where nobody knows it.
        on: Whether the test labels are 'true', or only 'given' since nobody knows the truth.
        held_out: How many training labels were held out to choose by.
        repaired: Of a run on repaired labels how many there are and how many moved, and the noise
            rate, with its interval; else None.
        per_class_accuracy: The test accuracy on the images of each class [K].
    """

    collapsed: bool
    reason: str
    too_short: bool
    test_accuracy: float
    train_accuracy: float
    memorised: float
    recovered: float
    corrupted: int
    class_names: list[str]
    confusion: list[list[int]] | None
    transition: list[list[float]] | None
    on: str = "true"
    held_out: int = 0
    repaired: Mapping[str, float] | None = None
    per_class_accuracy: list[float] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        if self.confusion is not None:
            per_class = Scores.of(np.array(self.confusion)).per_class
            object.__setattr__(self, "per_class_accuracy", per_class)

    def to_json(self) -> dict[str, Any]:
        """What a file holds of it."""
        later = {name for name in ("held_out", "repaired") if not getattr(self, name)}
        content = {name: value for name, value in asdict(self).items() if name not in later}
        return {**content, **{name: packed(content[name]) for name in MATRICES}}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Result:
        """A result from what a file holds, written by this apl or any before it; nan for null.

        Raises KeyError, TypeError or ValueError for what is no result.
        """
        found = {f.name: content[f.name] for f in fields(cls) if f.init and f.name in content}
        for name in SCORES:
            found[name] = math.nan if found[name] is None else float(found[name])
        found["corrupted"] = int(found["corrupted"])
        classes = len(found["class_names"])
        found.update({name: unpacked(found[name]) for name in MATRICES})
        fits = isinstance(found["collapsed"], bool) and isinstance(found["reason"], str)
        for matrix in filter(None, (found[name] for name in MATRICES)):
            fits = fits and [len(row) for row in matrix] == [classes] * classes
        fits = fits and isinstance(found.get("repaired"), Mapping | None)
        if found["confusion"] is None:
            shares = [math.nan if v is None else v for v in found["per_class_accuracy"]]
            found["per_class_accuracy"], fits = shares, fits and len(shares) == classes
        if not fits:
            raise ValueError("its fields do not fit each other")
        return cls(**found)


MATRICES = ("confusion", "transition")
FEW = 20  # classes of which a file holds the whole of a matrix, for people to read


def packed(matrix: list[list[Any]] | None) -> Any:
    """A matrix [K, K] as files hold it.

    In that of many classes a row is nearly all one number: no count, or the share that each wrong
    label has.  It becomes that number, with the column and the value of whatever is another, if
    that is less to write.
    """
    if matrix is None or len(matrix) <= FEW:
        return matrix
    usual = [Counter(row).most_common(1)[0][0] for row in matrix]
    others = [
        [part for k, value in enumerate(row) if value != most for part in (k, value)]
        for row, most in zip(matrix, usual, strict=True)
    ]
    if sum(map(len, others)) >= len(matrix) ** 2:
        return matrix
    return {"usual": usual, "others": others}


def unpacked(content: Any) -> Any:
    """The matrix of which `packed` made this; ValueError where there is no such matrix."""
    if not isinstance(content, Mapping):
        return content
    usual, others = content["usual"], content["others"]
    classes = len(others)
    if classes > MOST_CLASSES:
        raise ValueError("it has too many classes")
    rows = []
    for most, other in zip(usual, others, strict=True):
        row = [most] * classes
        for k, value in zip(other[::2], other[1::2], strict=True):
            if not 0 <= k < classes:
                raise ValueError("a column that there is not")
            row[k] = value
        rows.append(row)
    return rows


def too_short(loss: str, memorised: float) -> bool:
    """Whether a loss that does not resist memorising hardly memorised any wrong label: then the
    budget does not tell robust losses from others.  False where none is known wrong (nan)."""
    return memorised < HARDLY_MEMORISED and not is_tolerant(loss)


def budget_verdict(config: Config, memorised: float) -> str | None:
    """What a low share of memorised labels says about the budget, or None where it is not low."""
    if not memorised < HARDLY_MEMORISED or config.loss == REPAIR:  # that is what it is for
        return None
    found = f"hardly any wrong label was memorised ({memorised:.1%})"
    if config.features != NONE:
        return f"{found}: {FROZEN}"
    if not too_short(config.loss, memorised):
        return (
            f"{found}: {config.loss} resists memorising, or the budget is too short to tell; "
            "only a ce run at the same settings says which"
        )
    return (
        f"{found} although {config.loss} does not resist memorising: this budget is too short to "
        "tell robust losses apart (more epochs or width, fewer images, no augmentation)"
    )


def cause(result: Result) -> str:
    """What the reason why a run collapsed likely means: whoever fits nearly all training labels and
    guesses others has learned them by heart."""
    if result.reason == "chance" and result.train_accuracy >= FITTED:
        return (
            f"it fits {result.train_accuracy:.1%} of the training labels, and on samples that it "
            "has not seen it is no better than guessing: it has learned them by heart"
        )
    return CAUSES[result.reason]


BY_HEART = 0.5  # of the wrong labels, from which on it is said
FITTED, GAP = 0.9, 0.15  # of training labels, and so much more than of held-out ones;
WIDE = 0.25  # of fewer, so much more


def shorter(config: Config) -> int:
    """So many epochs are advised where wrong labels were memorised."""
    return max(1, round(config.epochs / 3))


def memory_verdict(config: Config, result: Result) -> str | None:
    """What to do where wrong labels were memorised, or must have been: nobody knows which
    are wrong, but far more training labels are fitted than held-out ones.  None where neither is
    so."""
    fewer = f"fewer epochs (--epochs {shorter(config)})"
    if result.memorised >= BY_HEART:
        return (
            f"{result.memorised:.1%} of the wrong labels were memorised: take {fewer}, or a loss "
            "that resists, as nce_rce"
        )
    fitted, held_out = result.train_accuracy, result.test_accuracy
    gap = GAP if fitted >= FITTED else WIDE
    if not math.isnan(result.memorised) or fitted - held_out < gap:
        return None
    return (
        f"it fits {fitted:.1%} of the training labels, but only {held_out:.1%} of those it has not "
        f"seen: it has memorised the rest, wrong labels among them.  {fewer.capitalize()} memorise "
        "less; --select noisy says which epoch to stop at, apl find which labels are wrong"
    )
