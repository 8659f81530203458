"""Which classes flip into which, one way, in what a network says and in what labels say."""

from __future__ import annotations

import math

import numpy as np

from apl.noise.labels import IntArray, Matrix, Vector

# Chosen with the constants of `apl.detect.evidence`; docs/find-evidence.md has the others.
BALANCE = 0.85  # how much of the confusion one way is taken for granted by that the other way
SLOPE = 3.0  # an early network shows about a third of a flip
MOST = 0.5  # of a class's samples that are taken to have flipped one way: above it, it is undone


def confident_joint(labels: IntArray, probs: Matrix) -> Matrix:
    """Counts [K, K] of samples that look like class j and are labelled k.

    A sample looks like class j where p_j is at least its mean over the samples labelled j; where
    several are, the likeliest of them (Northcutt et al. 2021, equation 1).  Columns are scaled to
    the number of labels.
    """
    classes = probs.shape[1]
    sizes = np.bincount(labels, minlength=classes)
    own = np.bincount(labels, of_label(probs, labels), classes)
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


def with_diagonal(off: Matrix) -> Matrix:
    """The transition matrix with these entries off the diagonal."""
    off = off.copy()
    np.fill_diagonal(off, 0)
    return off + np.diag(1 - off.sum(1))


def of_label(values: Matrix, labels: IntArray) -> Vector:
    """What is said of each sample's own label [N], in rows [N, K]."""
    chosen: Vector = values[np.arange(len(labels)), labels]
    return chosen
