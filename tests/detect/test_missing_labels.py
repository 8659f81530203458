"""A missing label is no class: neither for `find_issues` and `rank` nor for a monitor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from apl.detect.evidence import Evidence, estimate_transition, find_issues, noise_rate, rank
from apl.detect.monitor import LabelMonitor

COUNT, CLASSES = 300, 3
NONE = [float("nan"), None, pd.NA, pd.NaT, "", " ", "nan", "N/A", "NULL", "<NA>", -1, -100, "-1"]
TRUE = np.arange(COUNT) % CLASSES
DRAWS = np.random.default_rng(0)
GIVEN = np.where(DRAWS.random(COUNT) < 0.2, (TRUE + 1) % CLASSES, TRUE)
PROBS = np.exp(6 * np.eye(CLASSES)[TRUE] + DRAWS.normal(size=(COUNT, CLASSES)))
PROBS /= PROBS.sum(1, keepdims=True)


def missing(value: Any, places: slice = slice(0, 5)) -> list[Any]:
    labels: list[Any] = GIVEN.tolist()
    labels[places] = [value] * len(labels[places])
    return labels


def check(labels: Any, evidence: Any = PROBS, said: Any = GIVEN) -> None:
    """The first five have no label: no score, a prediction, a sentence; the others are as if these
    were not there."""
    found = find_issues(labels, evidence)
    rest = evidence.take(np.arange(COUNT) >= 5) if isinstance(evidence, Evidence) else evidence[5:]
    alone = find_issues(said[5:], rest)
    assert np.isnan(found.label_score[:5]).all()
    assert (found.given_label[:5] == -1).all()
    assert not found.is_label_issue[:5].any()
    assert (found.predicted_label[:5] == TRUE[:5]).all()
    assert np.array_equal(found.label_score[5:], alone.label_score)
    assert np.array_equal(found.is_label_issue[5:], alone.is_label_issue)
    assert found.noise_rate == alone.noise_rate
    assert np.array_equal(found.transition, alone.transition)
    assert found.doubts == [
        "5 of 300 samples have no label, so they have no score, and a predicted label alone",
        *alone.doubts,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("value", NONE, ids=repr)
def test_what_is_no_label_in_data_is_none_here(value: Any) -> None:
    labels = missing(value)
    check(labels)
    check(tuple(labels))
    check(np.array(labels, object))
    check(pd.Series(labels, dtype=object))
    for judge in (rank, noise_rate, estimate_transition):
        with pytest.raises(ValueError, match="for 5 of 300 samples: leave them out, or ask"):
            judge(labels, PROBS)


def test_what_libraries_make_of_it() -> None:
    with_nan = np.array(missing(np.nan))
    assert with_nan.dtype == float
    check(with_nan)
    check(pd.Series(missing(None)))
    check(pd.Series(missing(pd.NA), dtype="Int64"))
    check(pd.Series(missing(pd.NA), dtype="Int8"))
    check(pd.Series(missing(None), dtype="category"))
    check(torch.tensor(missing(-100)))
    check(torch.tensor(missing(float("nan"))))
    check(np.ma.masked_array(GIVEN, mask=np.arange(COUNT) < 5))
    check(np.array(missing(-1), np.int8))
    mixed = missing(None)
    mixed[:5] = [None, "", float("nan"), -1, pd.NA]
    check(mixed)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (-2, "from 0 to 2, got -2"),
        (3, "from 0 to 2, got 3"),
        (255, "got 255"),
        (1.5, "got 1.5"),
        (float("inf"), "got inf"),
        ("cat", "got 'cat'"),
        ("1", "got '1'"),
        (True, "got True"),
        ([0, 1], "several labels"),
    ],
)
def test_what_is_no_class_and_not_missing_is_refused(label: Any, says: str) -> None:
    labels = missing(None, slice(0, 1))
    labels[7] = label
    with pytest.raises(ValueError, match=says) as caught:
        find_issues(labels, PROBS)
    assert "\n" not in str(caught.value)


def test_minus_one_and_one_are_two_classes_and_not_ours() -> None:
    with pytest.raises(ValueError, match="got -1 and 1: give 0 for -1"):
        find_issues([-1, 1, 1, -1], np.full((4, 2), 0.5))


def test_no_label_at_all() -> None:
    found = find_issues([None] * COUNT, PROBS)
    assert found.doubts[0].startswith("nothing can be told of these labels: 300 of 300 samples")
    assert not found.is_label_issue.any()


# ------------------------------------------------------------------------------------ a monitor


def monitor_of(targets: torch.Tensor, curves: bool = True) -> LabelMonitor:
    monitor = LabelMonitor(COUNT, CLASSES, curves=curves)
    for epoch in range(4):
        draws = torch.Generator().manual_seed(epoch)
        logits = torch.from_numpy(np.log(PROBS)).float()
        logits = logits + 0.1 * torch.randn(COUNT, CLASSES, generator=draws)
        for chosen in torch.randperm(COUNT, generator=draws).split(64):
            monitor.update(chosen, logits[chosen], targets[chosen])
    return monitor


@pytest.mark.parametrize("value", [-1, -100, float("nan")])
@pytest.mark.parametrize("curves", [False, True])
def test_a_monitor_knows_no_such_class_either(value: float, curves: bool) -> None:
    monitor = monitor_of(torch.tensor(missing(value)), curves)
    check(monitor.labels, monitor.evidence)
    issues = monitor.issues()
    assert issues.label_score.isna().sum() == 5
    if curves:
        assert np.isnan(monitor.curves[:5]).all()
        assert not np.isnan(monitor.curves[5:]).any()


@pytest.mark.parametrize("value", [3, -2, 255])
def test_a_target_outside_is_refused_where_it_is_handed_over(value: int) -> None:
    with pytest.raises(ValueError, match=f"targets must be from 0 to 2.*got {value}"):
        monitor_of(torch.tensor(missing(value)))


def test_a_fraction_is_no_target_and_no_sample_wraps_round() -> None:
    with pytest.raises(ValueError, match=r"whole numbers, got 0\.5"):
        monitor_of(torch.tensor(missing(0.5)))
    monitor = LabelMonitor(5, 3)
    for index in (-1, 5):
        with pytest.raises(ValueError, match=f"indices must be from 0 to 4, got {index}"):
            monitor.update(torch.tensor([index]), torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="no sample was ever seen"):
        monitor.findings()


def test_never_seen_and_without_a_label_are_two_things() -> None:
    monitor = LabelMonitor(COUNT + 2, CLASSES)
    targets = torch.tensor(missing(-1))
    monitor.update(torch.arange(COUNT), torch.from_numpy(PROBS).log().float(), targets)
    doubts = monitor.findings().doubts
    assert doubts[0] == "2 of 302 samples were never seen, so they have no score"
    assert doubts[1].startswith("5 of 302 samples have no label")
