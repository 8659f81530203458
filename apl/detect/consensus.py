"""Several annotators: the class of each sample from what all of them say, and a network.

Each annotator a has a matrix T_a [K, K], the share of class j that they call k; a sample of class j
gets its labels with the chance prod_a T_a[j, label of a] (Dawid & Skene 1979, equation 2.4).  What
a network says of a sample, which learned from the others, is the prior of its class in place of the
classes' shares (Raykar et al. 2010, equation 9), once it has the temperature that makes the labels
likeliest.  All of it is learned by EM; then heads learn what was found, and so on.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from apl.data.labels import by_value, no_labels, texts_of, to_number
from apl.detect.crossfit import findings_of as of_heads
from apl.detect.evidence import Evidence, Findings
from apl.detect.given import probabilities
from apl.errors import BadInput
from apl.noise.labels import MOST_CLASSES, UNKNOWN, IntArray, Matrix, Rate, Vector
from apl.training.crossfit import CrossFit

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

Matrices = npt.NDArray[np.float64]  # [A, K, K], one of each annotator

EM_ROUNDS = 40
ROUNDS = 3  # of heads that learn what was found, EM after each
FEWEST = 20  # samples that heads are taught by
RIGHT = 0.8  # how often an annotator is right before anything is known, which weighs as much as
OWN, ROW = 2.0, 10.0  # so many labels of theirs, and of theirs in one class
ANY = 0.1  # counts of each mistake before any is seen
LEAST = 1e-6  # chance of anything
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
LONG = ("sample", "annotator", "label")
"""The columns of a frame with a row for each label."""
CONSENSUS, ANNOTATORS, ANOTHER = "consensus.csv", "annotators.csv", "next.csv"
NEXT = 200  # samples worth another label, if not said otherwise
LOOKED_AT = 20  # times as many of the least sure ones are weighed


@dataclass(frozen=True)
class Consensus:
    """What A annotators say of N samples of K classes, put together.

    Attributes:
        posterior: How likely each class is [N, K].
        votes: What each annotator said [N, A], UNKNOWN where nothing.
        matrices: The share of class j that each calls k [A, K, K].
        clean: What a network says of each sample alone [N, K], None without one.
        temperature: By which its chances are the samples' prior.
        class_names: What the classes are called.
        annotators: What the annotators are called.
        samples: What the samples are called.
    """

    posterior: Matrix
    votes: IntArray
    matrices: Matrices
    clean: Matrix | None
    temperature: float
    class_names: tuple[str, ...]
    annotators: tuple[str, ...]
    samples: tuple[str, ...]

    @property
    def labels(self) -> IntArray:
        """The likeliest class of each sample [N], a number."""
        found: IntArray = self.posterior.argmax(1)
        return found

    @property
    def probability(self) -> Vector:
        """How likely that class is [N]."""
        return np.asarray(self.posterior.max(1))

    @property
    def accuracy(self) -> Vector:
        """How often each annotator is right [A], nan for one who labelled none.

        It is what is expected on the samples that they labelled.
        """
        found = np.full(len(self.annotators), np.nan)
        for a, column in enumerate(self.votes.T):
            there = np.flatnonzero(column != UNKNOWN)
            if len(there):
                found[a] = self.posterior[there, column[there]].mean()
        return found

    def table(self) -> pd.DataFrame:
        """The consensus, a row a sample.

        Returns:
            The columns sample, label (its consensus), probability, labels_given, agreement (the
            share of these that are the consensus), majority ('' for a tie), and network where there
            is one.
        """
        import pandas as pd

        given = (self.votes != UNKNOWN).sum(1)
        same = (self.votes == self.labels[:, None]).sum(1)
        names = np.array([*self.class_names, ""], object)
        table = {
            "sample": self.samples,
            "label": names[self.labels],
            "probability": self.probability,
            "labels_given": given,
            "agreement": same / np.where(given, given, np.nan),
            "majority": names[_clear(self.votes, len(self.class_names))],
        }
        if self.clean is not None:
            table["network"] = names[self.clean.argmax(1)]
        return pd.DataFrame(table)

    def annotator_table(self) -> pd.DataFrame:
        """The annotators, a row each.

        Returns:
            The columns annotator, labels_given (how many), accuracy, agreement (with the others on
            the same samples), and often_mistaken (the mistake made most often).
        """
        import pandas as pd

        rows = []
        for a, (name, column) in enumerate(zip(self.annotators, self.votes.T, strict=True)):
            there = np.flatnonzero(column != UNKNOWN)
            others = np.delete(self.votes[there], a, 1)
            both = (others != UNKNOWN).sum()
            same = (others == column[there, None]).sum()
            rows.append(
                {
                    "annotator": name,
                    "labels_given": len(there),
                    "accuracy": self.accuracy[a],
                    "agreement": same / both if both else math.nan,
                    "often_mistaken": self._mistake(column),
                }
            )
        columns = ["annotator", "labels_given", "accuracy", "agreement", "often_mistaken"]
        return pd.DataFrame(rows, columns=columns)

    def _mistake(self, column: IntArray) -> str:
        """What an annotator takes for what most often, by how often that is expected."""
        there = np.flatnonzero(column != UNKNOWN)
        counts = np.zeros((len(self.class_names), len(self.class_names)))
        np.add.at(counts, column[there], self.posterior[there])
        np.fill_diagonal(counts, 0)
        said, true = np.unravel_index(int(counts.argmax()), counts.shape)
        if counts[said, true] < 1:
            return ""
        return f"{self.class_names[true]} taken for {self.class_names[said]}"

    def next(self, count: int = NEXT) -> list[tuple[int, str]]:
        """The samples worth another label, the most useful first, and why each.

        Useful is how much likelier the best class is expected to be by the label of a usual
        annotator; among those that one label can't change, the least sure come first.

        Args:
            count: How many samples, at most.

        Returns:
            The number of each sample, and `why` in words.
        """
        unsure = np.argsort(self.probability, kind="stable")[: max(1, count) * LOOKED_AT]
        posterior = self.posterior[unsure]
        weights = (self.votes != UNKNOWN).sum(0) + 1e-9
        usual = np.average(self.matrices, 0, weights) if len(weights) else np.eye(1)
        after = np.array([(row[:, None] * usual).max(0).sum() for row in posterior])
        gain = after - posterior.max(1)
        order = np.lexsort((posterior.max(1), -gain.round(4)))[:count]
        return [(int(i), self.why(int(i))) for i in unsure[order]]

    def why(self, i: int) -> str:
        """What makes a sample doubtful, in words.

        Args:
            i: The number of the sample.
        """
        counts = Counter(self.class_names[k] for k in self.votes[i] if k != UNKNOWN)
        said = ", ".join(f"{name} {number}" for name, number in counts.most_common(4))
        if not counts:
            told = "no label yet"
        elif counts.total() == 1:
            told = f"one label: {next(iter(counts))}"
        elif len(counts) > 1:
            told = f"annotators differ: {said}"
        else:
            told = f"all say {said}"
        if self.clean is not None:
            best = int(self.clean[i].argmax())
            told += f"; the network says {self.class_names[best]} ({self.clean[i, best]:.0%})"
        return f"{told}; best: {self.class_names[self.labels[i]]} ({self.probability[i]:.0%})"


def consensus(
    labels: Any,
    probs: Any = None,
    *,
    features: Any = None,
    classes: Sequence[Any] = (),
    seed: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Consensus:
    """The class of each sample by the labels of several annotators.

    With neither probs nor features, the labels alone count.

    Args:
        labels: [N, A], an array or a frame with a column an annotator, of words or numbers, with
            whatever is no label where one gave none (nan, None, '', -1 among numbers); or a frame
            with a row for each label and the columns sample, annotator and label.
        probs: What a network says of the samples [N, K], of whose labels it must have seen none
            (out of fold), its columns in the order of the classes; samples in the order of the
            labels, in a long frame in the order in which they first appear.
        features: In place of probs, [N, F] (an array or a tensor), on which heads are trained for
            it, in folds; samples in the same order.
        classes: Their names in order, where not all of them are in the labels; else numbers are in
            the order of their values, then words in that of their letters.
        seed: The seed of the heads.
        should_stop: Asked while heads are trained, and True raises Interrupted.

    Returns:
        The class of each sample, how likely it is, and how good each annotator.

    Raises:
        BadInput: What is given does not fit.
        Interrupted: `should_stop` said so.
    """
    if probs is not None and features is not None:
        raise BadInput("probs and features are given; accepted: one of them, or none")
    texts, annotators, samples = _texts(labels)
    votes, class_names = _numbers(texts, classes)
    rows: Any = None
    clean: Matrix | None = None
    if probs is not None:
        clean = _chances(probs, len(votes), len(class_names))
    elif features is not None:
        rows = _rows(features, len(votes))
    return agreed(
        votes, class_names, annotators, samples, rows=rows, clean=clean, seed=seed,
        should_stop=should_stop,
    )  # fmt: skip


# What is known of samples and annotators, and of the samples beside their labels.
def agreed(
    votes: IntArray,
    class_names: Sequence[str],
    annotators: Sequence[str],
    samples: Sequence[str],
    *,
    rows: Tensor | None = None,
    clean: Matrix | None = None,
    seed: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Consensus:
    """The consensus of votes [N, A], UNKNOWN where one gave none.

    rows: features [N, F]: heads learn what was found, each judges samples that it has not seen, and
    that is the prior of the next EM.  clean: what others say so [N, K].
    """
    classes = len(class_names)
    found = _explained(votes, clean, classes)
    if rows is not None and len(votes) >= FEWEST and len({*votes.ravel().tolist()} - {UNKNOWN}) > 1:
        from apl.training.crossfit import heads_on

        teach = heads_on(rows, _majority(votes, classes).argmax(1), seed, should_stop)
        said: list[Matrix] = []
        for number in range(ROUNDS):
            said.append(teach(found[0], number + 1))
            clean = np.asarray(np.mean(said, 0))
            found = _explained(votes, clean, classes)
    posterior, matrices, temperature = found
    names = tuple(class_names), tuple(annotators), tuple(samples)
    return Consensus(posterior, votes, matrices, clean, temperature, *names)


def findings_of(agreed: Consensus, given: IntArray) -> Findings:
    """What annotators together say of given labels [N], as `apl.detect.evidence.find_issues` has
    it: right is the consensus."""
    right = agreed.posterior[np.arange(len(given)), given]
    counts = np.full((len(agreed.class_names),) * 2, ANY)
    np.add.at(counts.T, given, agreed.posterior)
    rate = float(1 - right.mean())
    error = 2 * math.sqrt(max(rate * (1 - rate), 0.01) / max(1, len(given)))
    fit = CrossFit(
        agreed.posterior,
        agreed.posterior,
        counts / counts.sum(1, keepdims=True),
        1 - right,
        Rate(rate, max(0.0, rate - error), min(1.0, rate + error)),
    )
    found = of_heads(fit, given, agreed.class_names)
    if agreed.clean is not None:
        return found
    alone = (
        "the annotators' labels alone were counted: --features, or --folds 5, asks a network too"
    )
    return dataclasses.replace(found, doubts=[alone, *found.doubts])


def write_consensus(folder: Path, agreed: Consensus, count: int = NEXT) -> None:
    """Write consensus.csv, annotators.csv, and next.csv with `count` samples worth another label
    into a folder that is there; each whole or not at all."""
    table = agreed.table().rename(columns={"sample": "file_name"})
    _write(folder / CONSENSUS, table)
    _write(folder / ANNOTATORS, agreed.annotator_table())
    write_next(folder, agreed, count)


def as_one(given: IntArray, evidence: Evidence, class_names: Sequence[str]) -> Consensus:
    """What was found in single labels [N], as the consensus of one annotator and the network."""
    clean = np.exp(evidence.log_probs)
    clean /= clean.sum(1, keepdims=True)
    return agreed(given[:, None], class_names, ["given"], (), clean=clean)


def write_next(folder: Path, agreed: Consensus, count: int) -> None:
    """Write next.csv alone."""
    import pandas as pd

    named = agreed.samples or [""] * len(agreed.posterior)
    rows = [(i, named[i], why) for i, why in agreed.next(count)]
    _write(folder / ANOTHER, pd.DataFrame(rows, columns=["id", "file_name", "why"]))


def _write(path: Path, table: pd.DataFrame) -> None:
    from apl.files import plain, table_bytes, write_atomic

    rows = ([_cell(cell, plain) for cell in row] for row in table.itertuples(index=False))
    write_atomic(path, table_bytes(list(table.columns), rows))


def _cell(cell: Any, plain: Callable[[str], str]) -> Any:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else round(cell, 6)
    return plain(cell) if isinstance(cell, str) else cell


# ---------------------------------------------------------------------------- what people hand over


def _texts(labels: Any) -> tuple[list[list[str]], tuple[str, ...], tuple[str, ...]]:
    """Labels as text by sample and annotator, '' where there is none; what both are called."""
    columns = [str(name) for name in getattr(labels, "columns", ())]
    if {*LONG} <= {*columns}:
        return _wide(labels)
    names = [str(name) for name in getattr(labels, "index", ())] if columns else []
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    array = labels.to_numpy(object) if columns else _array(labels)
    if array.ndim != 2 or not array.shape[1]:
        raise BadInput(
            f"labels of several annotators must be [N, A], or a frame with the columns "
            f"{', '.join(LONG)}; got {list(array.shape)}"
        )
    by_annotator = [texts_of(column, "annotators") for column in array.T]
    texts = [list(row) for row in zip(*by_annotator, strict=True)]
    people = columns or [str(a) for a in range(array.shape[1])]
    return texts, tuple(people), tuple(names or map(str, range(len(texts))))


def _array(labels: Any) -> npt.NDArray[Any]:
    if isinstance(labels, np.ma.MaskedArray):
        made = np.array(labels.data, object)
        made[np.ma.getmaskarray(labels)] = None
        return made
    try:
        return np.asarray(labels, object)
    except ValueError:
        raise BadInput("labels must be [N, A], as many of each sample") from None


def _wide(frame: Any) -> tuple[list[list[str]], tuple[str, ...], tuple[str, ...]]:
    """The labels of a frame with a row for each; BadInput where one annotator says two things."""
    samples, people, given = (texts_of(list(frame[name]), name) for name in LONG)
    at = {name: i for i, name in enumerate(dict.fromkeys(samples))}
    by = {name: a for a, name in enumerate(dict.fromkeys(people))}
    texts = [[""] * len(by) for _ in at]
    for sample, who, text in zip(samples, people, given, strict=True):
        row, a = texts[at[sample]], by[who]
        if row[a] and text and row[a] != text:
            raise BadInput(f"{who!r} says {row[a]!r} and {text!r} of sample {sample!r}")
        row[a] = row[a] or text
    return texts, tuple(by), tuple(at)


def _numbers(
    texts: Sequence[Sequence[str]], classes: Sequence[Any]
) -> tuple[IntArray, tuple[str, ...]]:
    """Labels as numbers of classes [N, A], UNKNOWN for none; and the classes' names."""
    there = {text for row in texts for text in row}
    named = tuple(map(str, classes))
    none = no_labels(there, named)
    names = named or tuple(sorted(there - none, key=by_value))
    values = [to_number(name) for name in names]
    if not named and names and all(v is not None and v >= 0 and v % 1 == 0 for v in values):
        # Numbers of classes, of which some may have no label; such as years are names.
        most = int(max(v for v in values if v is not None))
        if most < 2 * len(names):
            names = tuple(map(str, range(most + 1)))
    if len({*names}) != len(names) or not 2 <= len(names) <= MOST_CLASSES:
        raise BadInput(
            f"the labels have {len({*names}):,} classes; accepted: 2 to {MOST_CLASSES:,} different "
            "ones (classes names those that no label has)"
        )
    unknown = sorted(there - none - {*names})
    if unknown:
        raise BadInput(f"there is no class {unknown[0]!r}; classes: {', '.join(names[:10])}")
    index = {name: k for k, name in enumerate(names)} | dict.fromkeys(none, UNKNOWN)
    votes = np.array([[index[text] for text in row] for row in texts], np.int64)
    return votes.reshape(len(texts), -1), names


def _chances(probs: Any, count: int, classes: int) -> Matrix:
    """Probabilities [N, K] as people hand them over; a row that is not finite says nothing."""
    try:
        found, _ = probabilities(probs)
    except ValueError as error:
        raise BadInput(str(error)) from None
    if found.shape != (count, classes):
        raise BadInput(f"probs must be [{count}, {classes}], got {list(found.shape)}")
    return found


def _rows(features: Any, count: int) -> Tensor:
    import torch

    rows = torch.as_tensor(features.to_numpy() if hasattr(features, "iloc") else features)
    if rows.ndim != 2 or len(rows) != count:
        raise BadInput(f"features must be [{count}, F], got {list(rows.shape)}")
    if not torch.isfinite(rows).all():
        raise BadInput("features have nan or inf; accepted: numbers")
    return rows


# -------------------------------------------------------------------------------------------- EM


def _explained(
    votes: IntArray, clean: Matrix | None, classes: int
) -> tuple[Matrix, Matrices, float]:
    """EM for the classes of N samples by votes [N, A] and what is said of them without their votes
    [N, K], None for nothing: posterior [N, K], the annotators' matrices, and the temperature."""
    there = [np.flatnonzero(column != UNKNOWN) for column in votes.T]
    said = [votes[rows, a] for a, rows in enumerate(there)]
    posterior, temperature = _majority(votes, classes), 1.0
    if clean is not None:
        posterior = (posterior + clean) / 2
    base = None if clean is None else np.log(clean.clip(LEAST))
    matrices = np.empty((len(said), classes, classes))
    for _ in range(EM_ROUNDS):
        counts = np.zeros_like(matrices)
        for a, rows in enumerate(there):
            np.add.at(counts[a].T, said[a], posterior[rows])
        matrices = _matrices(counts)
        chance = np.zeros_like(posterior)
        for a, rows in enumerate(there):
            chance[rows] += np.log(matrices[a]).T[said[a]]
        if base is None:
            shares = posterior.sum(0) + 1
            prior = np.log(shares / shares.sum())[None]
        else:
            temperature = _temperature(base, chance)
            prior = _normal(base / temperature)
        before, posterior = posterior, np.exp(_normal(prior + chance))
        if np.abs(posterior - before).max() < LEAST:
            break
    return posterior, matrices, temperature


def _temperature(base: Matrix, chance: Matrix) -> float:
    """That of the chances whose logarithms are given by which the labels are likeliest."""
    return max(
        TEMPERATURES,
        key=lambda t: float(np.logaddexp.reduce(_normal(base / t) + chance, 1).mean()),
    )


def _normal(logs: Matrix) -> Matrix:
    most = logs.max(1, keepdims=True)
    made: Matrix = logs - most - np.log(np.exp(logs - most).sum(1, keepdims=True))
    return made


def _majority(votes: IntArray, classes: int) -> Matrix:
    """The share of the votes that each class has [N, K]; all alike where there are none."""
    counts = np.zeros((len(votes), classes))
    for column in votes.T:
        there = np.flatnonzero(column != UNKNOWN)
        counts[there, column[there]] += 1
    counts[counts.sum(1) == 0] = 1
    made: Matrix = counts / counts.sum(1, keepdims=True)
    return made


def _clear(votes: IntArray, classes: int) -> IntArray:
    """The class with most votes [N]; UNKNOWN where several have as many."""
    shares = _majority(votes, classes)
    alone = (shares == shares.max(1, keepdims=True)).sum(1) == 1
    return np.where(alone, shares.argmax(1), UNKNOWN)


def _matrices(counts: Matrices) -> Matrices:
    """The annotators' matrices by expected counts [A, K, K] of what they called what.

    Few labels prove little: rows begin as those of all annotators together, moved by how much
    better or worse this one is on the whole, and that as if RIGHT.
    """
    eye = np.eye(counts.shape[1], dtype=bool)
    every = counts.sum(0)
    mistakes = np.where(eye, 0, every + ANY)
    mistakes /= mistakes.sum(1, keepdims=True)
    general = (every[eye].sum() + OWN * RIGHT) / (every.sum() + OWN)
    usual = (every[eye] + ROW * general) / (every.sum(1) + ROW)  # how often a class is seen
    sizes = counts.sum(2)
    hits = (counts[:, eye].sum(1) + OWN * general) / (sizes.sum(1) + OWN)
    expected = (sizes @ usual + OWN * general) / (sizes.sum(1) + OWN)  # of a usual annotator
    better = _odds(hits) - _odds(expected)
    own = 1 / (1 + np.exp(-(_odds(usual)[None] + better[:, None])))
    begun = mistakes[None] * (1 - own)[:, :, None]
    begun[:, eye] = own
    made: Matrices = counts + ROW * begun
    made /= made.sum(2, keepdims=True)
    return made.clip(LEAST)


def _odds(chances: Vector) -> Vector:
    inside = chances.clip(LEAST, 1 - LEAST)
    made: Vector = np.log(inside / (1 - inside))
    return made
