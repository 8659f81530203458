"""What a run has to say of its memory, with the truth known and without."""

from __future__ import annotations

import dataclasses
import math

import pytest

from apl.config.config import make_config
from apl.report.terminal import verdicts
from apl.runs.scores import Result, memory_verdict

CONFIG = make_config(loss="nce_rce", epochs=60)
RESULT = Result(
    collapsed=False,
    reason="",
    too_short=False,
    corrupted=0,
    test_accuracy=0.694,
    train_accuracy=0.986,
    memorised=math.nan,
    recovered=math.nan,
    class_names=["a", "b"],
    per_class_accuracy=[0.7, 0.7],
    confusion=[[7, 3], [3, 7]],
    transition=None,
    on="given",
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "fits 98.6% of the training labels, but only 69.4% of those it has not seen"),
        ({"train_accuracy": 0.8}, None),  # it has not fitted them
        ({"train_accuracy": 0.85, "test_accuracy": 0.55}, "fits 85.0% of the training labels"),
        ({"test_accuracy": 0.9}, None),  # nor others much less
        ({"memorised": 0.895, "corrupted": 90}, "89.5% of the wrong labels were memorised"),
        ({"memorised": 0.2, "corrupted": 90}, None),  # the truth is known, and says no
    ],
)
def test_what_was_learned_by_heart_is_said(changes: dict[str, float], said: str | None) -> None:
    verdict = memory_verdict(CONFIG, dataclasses.replace(RESULT, **changes))
    if said is None:
        assert verdict is None
    else:
        assert said in (verdict or "")
        assert "--epochs 20" in (verdict or "")


def test_a_run_that_learned_nothing_has_nothing_by_heart() -> None:
    changes = {"collapsed": True, "reason": "chance", "memorised": 0.9, "train_accuracy": 0.5}
    bad = dataclasses.replace(RESULT, **changes)
    assert not any("memorised" in line.plain for line in verdicts(CONFIG, bad))
    assert any("has memorised" in line.plain for line in verdicts(CONFIG, RESULT))


def test_a_run_that_fits_what_it_has_seen_and_guesses_the_rest_has_learned_by_heart() -> None:
    bad = dataclasses.replace(RESULT, collapsed=True, reason="chance", test_accuracy=0.5)
    (line,) = verdicts(CONFIG, bad)
    assert "fits 98.6% of the training labels" in line.plain
    assert "by heart" in line.plain
