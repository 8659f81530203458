"""Several annotators: the label of each sample from what all of them say, and a network.

Each annotator a has a matrix T_a [K, K], the share of class j that they call k; what is said of a
sample of class j has the chance prod_a T_a[j, label of a] (Dawid & Skene 1979).  Where a network's
chances p of a sample are known, made without this sample's labels, they are the prior of its class
in place of the classes' shares (Raykar et al. 2010); a temperature, by which the labels are
likeliest, says how far to trust them.  Samples differ, too: some are hard, and there all annotators
err together, so that three who agree prove less than three would.  So each sample is easy or hard,
with matrices of its own (as in Whitehill et al. 2009, with two levels).  All is learned by EM.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from apl.data.labels import Unclear, by_value, label_text, no_labels
from apl.errors import BadInput
from apl.noise.labels import MOST_CLASSES, UNKNOWN, IntArray, Matrix, Vector

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

EM_ROUNDS = 40
ROUNDS = 2  # of a network that learns what was found, each followed by EM
RIGHT = 0.8  # how often an annotator is right, before anything is seen: as much as ...
OWN, ROW = 2.0, 10.0  # ... so many labels of theirs, and of one class of theirs
HARD = 0.1  # of the samples, before anything is seen
TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)


@dataclass(frozen=True)
class _Fit:
    """What EM has learned: the posterior of each sample's class [N, K]; the annotators' matrices
    [A, K, K]; and how likely all labels are, the mean logarithm over the samples."""

    posterior: Matrix
    matrices: npt.NDArray[np.float64]
    likelihood: float
    temperature: float
    hard: float


def _explain(votes: IntArray, prior: Matrix | None, classes: int, levels: int = 2) -> _Fit:
    """EM for what N samples are, by votes [N, A] and a prior [N, K]; None: the classes' shares."""
    count, people = votes.shape
    there = [np.flatnonzero(votes[:, a] != UNKNOWN) for a in range(people)]
    said = [votes[rows, a] for a, rows in enumerate(there)]
    posterior = _majority(votes, classes)
    if prior is not None:
        posterior = 0.5 * (posterior + prior)
    resp = np.stack([posterior * (1 - HARD), posterior * HARD])[:levels] if levels > 1 else posterior[None]
    # hard: where people disagree
    if levels > 1:
        top = _majority(votes, classes).max(1)
        hard = np.where(top < 1, 0.5, 0.05)[:, None]
        resp = np.stack([posterior * (1 - hard), posterior * hard])
    chances = prior
    temperature, likelihood = 1.0, -math.inf
    for round in range(EM_ROUNDS):
        shares = resp.sum((1, 2)) / max(resp.sum(), 1e-9)
        counts = np.zeros((levels, people, classes, classes))
        for a in range(people):
            for h in range(levels):
                np.add.at(counts[h, a].T, said[a], resp[h][there[a]])
        tables = [_matrices(counts[0], RIGHT)]
        if levels > 1:
            pooled = _matrices(counts[1].sum(0)[None], 0.5)
            tables.append(np.repeat(pooled, people, 0))
        log_votes = np.zeros((levels, count, classes))
        for h in range(levels):
            for a in range(people):
                log_votes[h][there[a]] += np.log(tables[h][a]).T[said[a]]
            log_votes[h] += math.log(max(shares[h], 1e-9))
        together = np.logaddexp.reduce(log_votes, 0)
        if prior is None:
            total = resp.sum((0, 1)) + 1.0
            log_prior = np.log(total / total.sum())[None]
        else:
            base = np.log(prior.clip(1e-9))
            if round % 5 == 4 or round == 0:
                temperature = max(TEMPERATURES, key=lambda t: _likelihood(base / t, together))
            log_prior = _normal(base / temperature)
        joint = log_prior[None] + log_votes
        total = np.logaddexp.reduce(np.logaddexp.reduce(joint, 0), 1)
        likelihood = float(total.mean())
        resp = np.exp(joint - total[None, :, None])
    return _Fit(resp.sum(0), tables[0], likelihood, temperature, float(shares[-1]) if levels > 1 else 0.0)


def _likelihood(log_prior: Matrix, together: Matrix) -> float:
    return float(np.logaddexp.reduce(_normal(log_prior) + together, 1).mean())


def _normal(logs: Matrix) -> Matrix:
    made: Matrix = logs - np.logaddexp.reduce(logs, 1)[:, None]
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


def _matrices(counts: npt.NDArray[np.float64], right: float) -> npt.NDArray[np.float64]:
    """Matrices [A, K, K] by the counts of what was said; an annotator's accuracy stands in for the
    rows of classes that they saw little of, and everybody's mistakes for theirs."""
    people, classes, _ = counts.shape
    eye = np.eye(classes, dtype=bool)
    everybody = counts.sum(0) + 0.1
    off = np.where(eye, 0, everybody)
    off /= off.sum(1, keepdims=True)
    all_hits = counts[:, eye].sum()
    general = (all_hits + OWN * right) / (counts.sum() + OWN)
    pool = (counts.sum(0)[eye] + ROW * general) / (counts.sum((0, 2)) + ROW)  # of each class
    made = np.empty_like(counts)
    for a in range(people):
        hits, size = counts[a][eye].sum(), counts[a].sum()
        expected = (counts[a].sum(1) * pool).sum()  # of one like all others, on these classes
        # the annotator's odds against the others'
        shift = _logit((hits + OWN * general) / (size + OWN)) - _logit((expected + OWN * general) / (size + OWN))
        own = 1 / (1 + np.exp(-(_logit(pool) + shift)))
        prior = off * (1 - own)[:, None]
        prior[eye] = own
        rows = counts[a] + ROW * prior
        made[a] = rows / rows.sum(1, keepdims=True)
    return made.clip(1e-6)


def _logit(p):
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(p / (1 - p))
