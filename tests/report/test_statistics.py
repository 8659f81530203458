"""Tests over seeds, against numbers worked out by hand, by scipy, and by drawing studies."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from apl.errors import BadInput
from apl.report.contrasts import MOST, Contrast, judge_claims, read_claims
from apl.report.statistics import above, below, cant_tell, holm, may_be_best, outside, within

EIGHT = [2.0, 3.0, 2.5, 4.0, 3.5, 2.2, 3.1, 2.7]


def test_a_margin_is_judged_by_the_larger_p_of_two_tests() -> None:
    by_t = stats.ttest_1samp(EIGHT, 1.0, alternative="greater").pvalue
    assert above(EIGHT, 1.0) == max(by_t, 1 / 256)  # all eight are above: one sign in 256
    # One wild seed: its mean is above 0, and neither the t-test nor the signs believe it.
    assert above([10.0, -0.1, -0.2, -0.1, -0.3, -0.2, -0.1]) > 0.1
    assert above([1.0, 1.0, 1.0, 1.0, 1.0, 1.0]) == pytest.approx(1 / 64)
    assert above([0.0] * 6) == 1.0
    assert math.isnan(above([1.0]))
    assert below([-v for v in EIGHT], -1.0) == above(EIGHT, 1.0)


def test_no_difference_that_is_seen_is_not_taken_for_none() -> None:
    wide = [9.0, -9.0, 8.0, -8.0, 7.0, -7.0, 5.0, -5.0]
    close = [0.1, -0.1, 0.2, -0.2, 0.1, -0.1, 0.05, -0.05]
    assert stats.ttest_1samp(wide, 0).pvalue > 0.9  # far from significant, and far from level
    assert within(wide, 1.0) > 0.3
    assert within(close, 1.0) == pytest.approx(1 / 256)
    assert within(EIGHT, 1.0) > 0.99
    assert outside(EIGHT, 1.0) == pytest.approx(2 * above(EIGHT, 1.0))
    assert outside(close, 1.0) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = holm([0.04, math.nan, 0.03])
    assert (found[0], found[2]) == pytest.approx((0.06, 0.06))
    assert math.isnan(found[1])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_the_p_and_bonferronis(ps: list[float]) -> None:
    for p, corrected in zip(ps, holm(ps), strict=True):
        assert p <= corrected <= min(1.0, len(ps) * p) + 1e-12
    order = np.argsort(ps, kind="stable")
    assert (np.diff(np.array(holm(ps))[order]) >= -1e-12).all()


@pytest.mark.slow
def test_the_set_of_the_best_holds_the_best_one_in_nineteen_of_twenty_studies() -> None:
    rng = np.random.default_rng(0)
    held, sizes = 0, []
    for _ in range(300):  # five methods as good as each other, two that are not; paired seeds
        scores = rng.normal(0, 1, (8, 7)) + rng.normal(0, 3, (8, 1)) - np.array([0] * 5 + [6, 9])
        kept = may_be_best(pd.DataFrame(scores))
        held += 0 in kept
        sizes.append(len(kept))
        assert int(scores.mean(0).argmax()) in kept
    assert held >= 0.95 * 300
    assert np.mean(sizes) < 5.5  # and leaves out what is none


def test_the_set_of_the_best_of_few() -> None:
    one = pd.DataFrame({"a": [3.0], "b": [1.0]})
    assert may_be_best(one) == ["a", "b"]
    same = pd.DataFrame({"a": [1.0] * 6, "b": [1.0] * 6, "c": [0.0] * 6})
    assert may_be_best(same) == ["a", "b"]
    assert may_be_best(pd.DataFrame({"a": [1.0, 2.0]})) == ["a"]


def test_so_few_seeds_in_words() -> None:
    assert cant_tell(3) == "three seeds can't tell"
    assert cant_tell(1) == "one seed can't tell"


def runs(**by_loss: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"loss": loss, "setting": setting, "seed": seed, "test_accuracy": value + extra}
            for loss, values in by_loss.items()
            for setting, extra in (("clean", 5.0), ("sym 0.4", 0.0))
            for seed, value in enumerate(values)
        ]
    )


AHEAD = Contrast("x", "ahead", "mae", "ce", ("clean", "sym 0.4"), 1.0)
LEVEL = Contrast("x", "level", "mae", "ce", ("sym 0.4",), 1.0)
EVEN = [70.0, 71.0, 69.0, 70.5, 70.2, 69.8, 70.1, 70.3]


@pytest.mark.parametrize(
    ("claim", "lead", "verdict"),
    [
        (AHEAD, EIGHT, "holds"),
        (AHEAD, [-v for v in EIGHT], "does not hold"),
        (AHEAD, [3.0, -1.0, 4.0, -2.0, 2.0, 1.0, 0.0, 3.0], "undecided"),
        (AHEAD, EIGHT[:3], "three seeds can't tell"),
        (LEVEL, EIGHT, "does not hold"),
        (LEVEL, [0.1, -0.1, 0.2, 0.0, 0.1, -0.2, 0.1, 0.05], "holds"),
        (LEVEL, [3.0, -3.0, 4.0, -4.0, 2.0, -2.0, 3.0, -3.0], "undecided"),
        (Contrast("x", "ahead", "mae", "gce", ("clean",), 0.0), EIGHT, "not run"),
        (Contrast("x", "ahead", "mae", "ce", ("asym 0.4",), 0.0), EIGHT, "not run"),
    ],
)
def test_a_claim_is_judged(claim: Contrast, lead: list[float], verdict: str) -> None:
    mae = [base + by for base, by in zip(EVEN, lead, strict=False)]
    (found,) = judge_claims(runs(ce=EVEN[: len(mae)], mae=mae), [claim])
    assert found.verdict == verdict
    assert bool(found.missing) == (verdict == "not run")
    if not found.missing:
        assert found.margins == pytest.approx(lead)


def test_many_claims_are_one_family() -> None:
    table = runs(ce=EVEN, mae=[a + b for a, b in zip(EVEN, EIGHT, strict=True)])
    (alone,) = judge_claims(table, [AHEAD])
    lacking = Contrast("x", "ahead", "mae", "gce", ("clean",), 0.0)
    first, *_ = judge_claims(table, [AHEAD, LEVEL, AHEAD, lacking])
    assert first.holds == pytest.approx(3 * alone.holds)  # of the three that can be judged


def test_our_claims_can_be_read_and_are_few() -> None:
    ours = read_claims()
    assert 1 <= len(ours) <= MOST
    assert len({claim.statement + str(claim.settings) for claim in ours}) == len(ours)
    assert ours[0].statement == "NCE+RCE ahead of CE by more than 5"


GOOD = "- {says: a, kind: ahead, better: mae, than: ce, settings: [clean], margin: 1}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no list; accepted: a list of 1 to 12 claims"),
        ("[]", "holds 0 claims"),
        (13 * GOOD, "holds 13 claims"),
        (GOOD.replace("says", "sais"), "claim 1 of .* has other fields; accepted: says, kind"),
        (GOOD.replace("ahead", "better"), "kind is 'better'; accepted: ahead, level"),
        (GOOD.replace("margin: 1", "margin: -1"), "margin is -1"),
        (GOOD.replace("ahead", "level").replace("margin: 1", "margin: 0"), "above 0"),
        (GOOD.replace("[clean]", "clean"), "settings is 'clean'"),
        ("a: [", "can't be read as claims"),
    ],
)
def test_a_file_that_holds_no_claims(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=said):
        read_claims(file)
    with pytest.raises(BadInput, match="can't be read"):
        read_claims(tmp_path / "none.yaml")


def test_a_file_that_holds_some(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(GOOD, encoding="utf-8")
    assert read_claims(file) == [Contrast("a", "ahead", "mae", "ce", ("clean",), 1.0)]
