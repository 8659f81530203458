"""Doubts by what the network says of labels it has not seen, and the one that always stands."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from apl.detect.evidence import INVISIBLE, Evidence, Findings, Rate, eyes, find_issues
from apl.detect.rows import rows_of
from apl.detect.search import find_mislabelled
from apl.training.listener import Listener, ignore


def findings(rate: float, count: int = 240) -> Findings:
    labels = np.arange(count) % 3
    found = find_issues(labels, np.eye(3)[labels] * 0.7 + 0.1)
    return dataclasses.replace(found, noise_rate=Rate(rate, 0.0, 1.0))


@pytest.mark.parametrize(
    ("rate", "trained_on", "unseen", "said"),
    [
        (0.113, 0.90, 0.51, ["weak eyes"]),  # the birds of issue 25, where no doubt was told
        (0.263, 0.89, 0.42, ["weak eyes"]),  # 1,200 photos of CIFAR-10: F1 of the cut .54
        (0.147, 0.93, 0.57, ["weak eyes", "learned by heart"]),
        (0.10, 0.979, 0.60, ["weak eyes", "learned by heart"]),  # the doubt of .98 was silent
        (0.27, 0.73, 0.57, []),  # 600 digits: F1 .94
        (0.28, 0.72, 0.66, []),
        (0.0, 1.0, 0.97, []),
        (0.124, 0.87, 0.84, []),
        (float("nan"), 0.9, 0.1, []),  # nothing is told at all
        (1.0, 0.9, 0.1, []),
    ],
)
def test_weak_eyes_are_told_by_what_they_do(
    rate: float, trained_on: float, unseen: float, said: list[str]
) -> None:
    doubts = eyes(findings(rate), findings(rate), trained_on, unseen)
    assert [text.partition(":")[0] for text in doubts] == said


def test_few_unseen_labels_are_no_reason() -> None:
    """Of twelve labels half may be missed by chance."""
    assert eyes(findings(0.1), findings(0.1, 12), 0.8, 0.75) == []


def test_one_doubt_is_always_there_and_the_last() -> None:
    labels = np.arange(300) % 3
    probs = np.eye(3)[labels] * 0.97 + 0.01
    often = Evidence(np.log(probs), probs, np.full(300, 9))
    for evidence in (probs, often):
        assert find_issues(labels, evidence).doubts[-1] == INVISIBLE
    labels[:3] = -1
    doubts = find_issues(labels, probs).doubts
    assert doubts[0].startswith("3 of 300 samples have no label")
    assert doubts[-1] == INVISIBLE


def test_a_search_with_weak_eyes_says_so_once() -> None:
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (300, 8, 8), np.uint8)  # noise: nothing can be seen
    found = find_mislabelled(
        (images, np.arange(300) % 3),
        listener=Listener(on_message=ignore),
        features="none",
        epochs=3,
    )
    doubts = rows_of(found).findings.doubts
    assert sum(text.startswith("weak eyes: ") for text in doubts) == 1
    assert doubts.count(INVISIBLE) == 1
    assert found.findings.doubts[-1] == INVISIBLE
