"""Labels judged by probabilities of models that have not seen them: out of fold, of any kind.

Such a model knows the noise from the labels of the others: where 30 % of a class are labelled as
another one, its surest samples get .7 and .3.  So all of the noise is undone here, not its one-way
part alone, and what is left is the chance of the true class.  No temperature is laid on it: who has
not seen a label is not too sure of it.  docs/find-evidence.md has the figures.

The surest samples of a weak model are not all of their class, and show its own confusion as noise:
undone, that would spoil the order of the labels.  So there the one-way flips alone make the order.
"""

from __future__ import annotations

import math

import numpy as np

from apl.detect.flips import of_label, one_way_flips, with_diagonal
from apl.noise.labels import IntArray, Matrix, Vector

SHARE = 0.08  # of a class's labels: the samples that the model is surest of, its anchors
FEW = 50  # anchors of a class at least, or half of its labels
BLOCKS = 0.3  # of the way from chance to certainty that neighbours have one label: they are sorted
STRANGE = 0.8  # of the samples whose neighbours' label a model foresees: below it it is at a loss
LEAST = 1e-3  # of what the model said that is left of a class after the noise is undone
MOST, PAIR = 0.5, 0.8  # of two classes' labels that may be those of the other: one way, both ways
SEES = 0.85  # of the labels that are right that a model must foresee, or else it is weak
ONE_WAY = 3  # classes at least: of one pair alone nothing says what confusion is usual
ENOUGH = 100  # samples a class at least: in fewer chance makes as many flips as noise does
LEAST_FLIP = 0.07  # that is taken for noise: what seems less may be the model's own confusion
LEAST_RATE, MOST_RATE = 0.02, 0.8  # of wrong labels, for a weak model's order; the most times 1-1/K
STRENGTHS = np.exp(np.linspace(math.log(2), math.log(2000), 25))
"""How many anchors a common noise rate may count for in each class."""


def explain(labels: IntArray, probs: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Posterior of the true class given sample and label [N, K], given the sample alone [N, K], and
    the noise matrix [K, K].

    labels [N]: classes; probs [N, K]: of a model that has not seen them.
    """
    sizes = np.bincount(labels, minlength=probs.shape[1])
    transition = noise_matrix(anchor_counts(labels, probs), sizes)
    clean = undo(probs, transition)
    posterior = clean * transition.T[labels]
    posterior /= posterior.sum(1, keepdims=True)
    return posterior, clean, transition


def chances(labels: IntArray, probs: Matrix, posterior: Matrix, transition: Matrix) -> Vector:
    """The chance of each label to be right [N]: its posterior, but of a weak model in another order
    (`_by_flips`), the chances being the same.

    Weak is a model that foresees fewer than SEES of the labels that are right by its own account;
    of few classes, or few samples, nobody can tell.
    """
    own = of_label(posterior, labels)
    foreseen = float((probs.argmax(1) == labels).mean())
    count, classes = probs.shape
    if classes < ONE_WAY or count < ENOUGH * classes or foreseen >= SEES * own.mean():
        return own
    order = _by_flips(labels, probs, transition).astype(np.float32)  # so rounding parts no equals
    _, which, counts = np.unique(order, return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], counts.cumsum()[:-1]])
    alike: Vector = np.add.reduceat(np.sort(own), starts) / counts
    return alike[which.reshape(-1)]


def _by_flips(labels: IntArray, probs: Matrix, transition: Matrix) -> Vector:
    """What orders labels by how likely they are right [N], by flips that go one way alone, beside
    as many in all directions as leave the rate of the noise matrix.

    p_y T_yy / q_y with p = q T^-1 as it comes, so that where nothing goes one way the order is that
    of the chances q_y of the given labels.
    """
    classes = probs.shape[1]
    flips = one_way_flips(labels, probs)
    flips = np.where(flips > LEAST_FLIP, flips, 0)
    most = MOST_RATE * (1 - 1 / classes)
    rate = min(max(1 - float(np.diag(transition).mean()), LEAST_RATE), most)
    off = flips + max(rate - float(flips.sum(1).mean()), LEAST_RATE) / (classes - 1)
    np.fill_diagonal(off, 0)
    off *= np.minimum(1, most / off.sum(1, keepdims=True))
    matrix = with_diagonal(off)
    clean = of_label(probs @ np.linalg.pinv(matrix), labels)
    score: Vector = matrix[labels, labels] * clean / of_label(probs, labels).clip(1e-12)
    return score


def undo(probs: Matrix, transition: Matrix) -> Matrix:
    """The chance of each true class [N, K]: q = p T, so p = q T^-1 (Patrini et al. 2017), and where
    that leaves nothing of a class, a little of what the model said keeps the order."""
    clean: Matrix = np.maximum(probs @ np.linalg.pinv(transition), LEAST * probs)
    clean /= clean.sum(1, keepdims=True)
    return clean


def anchor_counts(labels: IntArray, probs: Matrix) -> Matrix:
    """How many of the samples that look most like class j are labelled k [K, K]; of samples that
    look alike, and are too many, each counts for a part."""
    classes = probs.shape[1]
    sizes = np.bincount(labels, minlength=classes)
    counts = np.zeros((classes, classes))
    for j in np.flatnonzero(sizes):
        wanted = max(1, round(max(SHARE * sizes[j], min(FEW, sizes[j] / 2))))
        least = np.partition(probs[:, j], -wanted)[-wanted]
        above, alike = probs[:, j] > least, probs[:, j] == least
        counts[j] = np.bincount(labels[above], minlength=classes)
        part = (wanted - counts[j].sum()) / alike.sum()
        counts[j] += part * np.bincount(labels[alike], minlength=classes)
    return counts


def noise_matrix(counts: Matrix, sizes: IntArray) -> Matrix:
    """The noise matrix [K, K] that anchors show.

    Each row is the mean of a Dirichlet distribution whose prior is one noise rate for all, the same
    in all directions; how much that counts for is what makes the counts likeliest (empirical
    Bayes).  So symmetric noise stays symmetric, and what is clearly asymmetric stands out.  A class
    without labels (sizes [K]) keeps its name.
    """
    from scipy.special import gammaln

    there = np.flatnonzero(sizes)
    matrix: Matrix = np.eye(len(counts))
    if len(there) < 2:
        return matrix
    counts = counts[np.ix_(there, there)]
    classes, total = len(counts), counts.sum()
    rate = min(max(1 - np.diag(counts).sum() / total, 0.5 / total), 0.95)
    prior = np.full((classes, classes), rate / (classes - 1))
    np.fill_diagonal(prior, 1 - rate)
    met, rows = counts > 0, counts.sum(1)
    found, base = counts[met], prior[met]

    def likelihood(strength: float) -> float:
        per_cell = gammaln(strength * base + found) - gammaln(strength * base)
        per_row = gammaln(strength) - gammaln(strength + rows)
        return float(per_cell.sum() + per_row.sum())

    strength = max(STRENGTHS, key=likelihood)
    matrix[np.ix_(there, there)] = (counts + strength * prior) / (rows + strength)[:, None]
    return _dominant(matrix)


def _dominant(matrix: Matrix) -> Matrix:
    """A noise matrix that leaves every class its name: of one class at most MOST flip into another,
    of two into each other at most PAIR together.  Beyond it (anchors of two classes that the model
    takes for each other are all mixed) the inverse would swap the two."""
    off = matrix * (1 - np.eye(len(matrix)))
    off *= np.minimum(1, MOST / np.maximum(off, MOST))
    both = off + off.T
    off *= np.minimum(1, PAIR / np.maximum(both, PAIR))
    limited: Matrix = off + np.diag(1 - off.sum(1))
    return limited


def how_many(labels: IntArray, right: Vector, clean: Matrix) -> int:
    """How many labels to flag, those with the lowest chance `right` [N] first: midway between what
    makes the expected F1 largest (Lipton et al. 2014) and how many are not the likeliest class
    (clean [N, K]).  The first flags too many where a model is weak, the second too few where noise
    is asymmetric.  Where not one wrong label is expected the first is none."""
    wrong = np.sort(1 - right)[::-1]
    expected = 2 * wrong.cumsum() / (np.arange(1, len(wrong) + 1) + wrong.sum())
    best = int(expected.argmax()) + 1 if wrong.sum() >= 0.5 else 0
    differ = int((clean.argmax(1) != labels).sum())
    return round((best + differ) / 2)


def strange_blocks(labels: IntArray, probs: Matrix) -> bool:
    """Whether the samples stand class by class, and the model is at a loss about what stands where:
    then the folds may have been cut in that order.

    The label that most of a sample's ten neighbours carry is in such data its true one, whatever
    the noise.
    """
    count, classes = probs.shape
    if count < FEW:
        return False
    chance = float(((np.bincount(labels) / count) ** 2).sum())
    alike = float((labels[1:] == labels[:-1]).mean())
    if alike < chance + BLOCKS * (1 - chance):
        return False
    sums = np.zeros((count + 1, classes), dtype=np.int64)
    np.cumsum(np.eye(classes, dtype=np.int64)[labels], axis=0, out=sums[1:])
    places = np.arange(count)
    around = sums[np.minimum(places + 6, count)] - sums[np.maximum(places - 5, 0)]
    return float((probs.argmax(1) == around.argmax(1)).mean()) < STRANGE
