"""The claims and the agreement, against numbers worked out by hand and by scipy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from apl.config.config import make_config
from apl.config.published import own_protocol, published_rows
from apl.report.claims import (
    CLAIMS,
    CLEAN,
    COMBINATIONS,
    HIGH_SYM,
    NOISY,
    Claim,
    Finding,
    Where,
    agreement,
    best_losses,
    estimate,
    lead,
    recipes,
)
from apl.report.claims import judge as judge_together
from apl.report.results import confused_anyway, too_short_settings
from apl.report.study import Study, studies
from apl.runs.run import Finished
from apl.runs.scores import Result

Key = tuple[str, str, float, int]  # loss, noise, rate, seed


def runs_of(accuracies: Mapping[Key, float], **settings: Any) -> list[Finished]:
    """Runs with these test accuracies, in percent; settings: of their configs, alike in all."""
    found = []
    for (loss, noise, rate, seed), accuracy in accuracies.items():
        cell = {"loss": loss, "noise": noise, "rate": rate, "seed": seed, **settings}
        config = make_config("paper", **cell)
        result = Result(
            collapsed=False,
            reason="",
            too_short=False,
            test_accuracy=accuracy / 100,
            train_accuracy=0.5,
            memorised=1 - accuracy / 100 if rate else math.nan,
            recovered=0.5,
            corrupted=0,
            class_names=["a", "b"],
            confusion=[[1, 0], [0, 1]],
            transition=[[1.0, 0.0], [0.0, 1.0]],
        )
        found.append(Finished(config.name, config, {}, [], result))
    return found


def study_of(runs: Iterable[Finished]) -> Study:
    (study,) = studies(list(runs))
    return study


def judge(accuracies: Mapping[Key, float], claim: Claim) -> Finding:
    ((_, runs),) = recipes(study_of(runs_of(accuracies)))
    (found,) = judge_together(runs, [claim])
    return found


def test_ce_says_whether_a_budget_is_too_short_to_tell() -> None:
    """Of GCE 4 % were memorised everywhere: it resists where CE memorised 30 %, and can't tell
    where CE did no more, nor where there is no CE."""
    runs = runs_of(
        {
            ("gce", "sym", 0.2, 0): 96.0,
            ("ce", "sym", 0.2, 0): 70.0,
            ("gce", "sym", 0.4, 0): 96.0,
            ("ce", "sym", 0.4, 0): 95.0,
            ("gce", "sym", 0.6, 0): 96.0,
            ("nce", "sym", 0.8, 0): 99.0,  # resists by its theory: it says nothing
        }
    )
    assert too_short_settings(study_of(runs).runs) == ["sym 0.4", "sym 0.6"]
    found = study_of(runs).runs
    part = {"part": "evaluation", "values": {}}
    tuned = found.assign(config=found["config"].map(lambda config: replace(config, tuned=part)))
    assert too_short_settings(tuned) == []  # little memory is what was chosen


NCE_CE = Claim("", ("nce",), ("ce",), HIGH_SYM)


def twice(accuracies: Mapping[Key, float]) -> dict[Key, float]:
    """Three seeds and three like them: enough for a verdict."""
    again = {(*key[:3], key[3] + 3): value for key, value in accuracies.items() if key[2] != 0.2}
    return {**accuracies, **again}


HAND = {
    ("nce", "sym", 0.4, 0): 80.0,
    ("ce", "sym", 0.4, 0): 60.0,
    ("nce", "sym", 0.6, 0): 70.0,
    ("ce", "sym", 0.6, 0): 40.0,
    ("nce", "sym", 0.4, 1): 78.0,
    ("ce", "sym", 0.4, 1): 62.0,
    ("nce", "sym", 0.6, 1): 72.0,
    ("ce", "sym", 0.6, 1): 48.0,
    ("nce", "sym", 0.4, 2): 79.0,
    ("ce", "sym", 0.4, 2): 61.0,
    ("nce", "sym", 0.6, 2): 71.0,
    ("ce", "sym", 0.6, 2): 44.0,
    ("nce", "sym", 0.2, 0): 10.0,  # no setting of the claim
    ("ce", "sym", 0.2, 0): 90.0,
}


def test_margins_are_paired_by_seed_and_setting_and_the_interval_is_students() -> None:
    found = judge(HAND, NCE_CE)
    assert found.margins.loc["sym 0.4"].tolist() == pytest.approx([20, 16, 18])
    assert found.margins.loc["sym 0.6"].tolist() == pytest.approx([30, 24, 27])
    # Seed means 25, 20, 22.5: mean 22.5, std 2.5; t(0.975, 2) = 4.30265.
    assert found.estimate.mean == pytest.approx(22.5)
    reach = 4.30265 * 2.5 / math.sqrt(3)
    assert found.estimate.low == pytest.approx(22.5 - reach, abs=1e-4)
    assert found.estimate.high == pytest.approx(22.5 + reach, abs=1e-4)
    reference = stats.ttest_1samp([25.0, 20.0, 22.5], 0)
    assert found.estimate.p == pytest.approx(reference.pvalue)
    assert found.verdict == "too few seeds"  # whatever its interval says
    assert found.missing == ("sym 0.8",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("claim", "verdict", "mean"),
    [
        (replace(NCE_CE, least=15.0), "holds", 7.5),
        (replace(NCE_CE, least=22.0), "undecided", 0.5),
        (replace(NCE_CE, least=50.0), "contradicted", -27.5),
        (replace(NCE_CE, score="memorised"), "holds", 22.5),
        (replace(NCE_CE, better=("ce",), worse=("nce",)), "contradicted", -22.5),
        (replace(NCE_CE, worse=()), "holds", 22.5),
        (replace(NCE_CE, where=Where("sym 0.2", ("sym",), 0.2, 0.2)), "one seed only", -80),
        (replace(NCE_CE, where=CLEAN), "not run", math.nan),
        (replace(NCE_CE, worse=("gce",)), "not run", math.nan),
    ],
)
def test_verdicts(claim: Claim, verdict: str, mean: float) -> None:
    found = judge(twice(HAND), claim)
    assert found.verdict == verdict
    assert found.estimate.mean == pytest.approx(mean, nan_ok=True)


def test_claims_that_are_judged_together_are_corrected_for_being_many() -> None:
    ((_, runs),) = recipes(study_of(runs_of(twice(HAND))))
    (alone,) = judge_together(runs, [NCE_CE])
    claims = [replace(NCE_CE, least=least) for least in (0.0, 1.0, 2.0, 3.0)]
    together = judge_together(runs, [*claims, replace(NCE_CE, worse=("gce",))])
    assert alone.holds == pytest.approx(1 / 64)  # of 64 arrangements of six signs
    assert together[0].holds == pytest.approx(4 / 64)
    assert [f.verdict for f in (alone, together[0])] == ["holds", "undecided"]
    assert math.isnan(together[-1].holds)


def test_what_is_missing_is_named() -> None:
    assert judge(HAND, replace(NCE_CE, worse=("gce",))).missing == ("GCE",)
    assert judge(HAND, replace(NCE_CE, where=CLEAN)).missing == ("clean labels",)
    assert "any other loss" in judge(HAND, replace(NCE_CE, better=("ce", "nce"), worse=())).missing


def test_a_seed_that_lacks_a_setting_is_left_out_and_named() -> None:
    partly = {key: value for key, value in HAND.items() if key != ("ce", "sym", 0.6, 2)}
    found = judge(partly, NCE_CE)
    assert list(found.margins.columns) == [0, 1]
    assert found.missing == ("sym 0.8", "a complete seed 2")
    # Where no seed is whole, the settings that every seed has.
    for key in (("ce", "sym", 0.6, 0), ("ce", "sym", 0.6, 1), ("nce", "sym", 0.6, 2)):
        partly.pop(key)
    partly[("nce", "sym", 0.8, 0)] = partly[("ce", "sym", 0.8, 0)] = 20.0
    partly[("nce", "sym", 0.6, 1)] = partly[("ce", "sym", 0.6, 1)] = 20.0
    partly[("nce", "sym", 0.8, 2)] = partly[("ce", "sym", 0.8, 2)] = 20.0
    found = judge(partly, NCE_CE)
    assert list(found.margins.index) == ["sym 0.4"]
    assert found.margins.shape == (1, 3)
    assert found.missing == ("sym 0.6", "sym 0.8")


def test_a_run_without_accuracy_takes_its_seed_away() -> None:
    found = judge({**HAND, ("nce", "sym", 0.4, 1): math.nan}, NCE_CE)
    assert list(found.margins.columns) == [0, 2]


def test_the_best_and_each_of_several() -> None:
    accuracies = {
        (loss, "sym", 0.4, seed): value + seed
        for seed in (0, 1)
        for loss, value in {**dict.fromkeys(COMBINATIONS, 80.0), "ce": 60.0, "mae": 70.0}.items()
    }
    accuracies[("nfl_rce", "sym", 0.4, 0)] = 65.0
    best = Claim("", COMBINATIONS, (), NOISY)
    assert judge(accuracies, best).margins.to_numpy().tolist() == [[pytest.approx(10)] * 2]
    every = judge(accuracies, replace(best, every=True))
    assert every.margins.to_numpy().tolist() == [[pytest.approx(-5), pytest.approx(10)]]


def test_where_no_setting_and_no_seed_is_whole_nobody_knows_by_how_much_one_leads() -> None:
    accuracies: dict[Key, float] = {("nce", "sym", r, s): 70.0 for r in (0.2, 0.4) for s in (0, 1)}
    accuracies |= {("ce", "sym", 0.2, 0): 50.0, ("ce", "sym", 0.4, 1): 40.0}
    found = lead(study_of(runs_of(accuracies)).runs)
    assert found is not None
    assert (found.best, found.leads["CE"].count) == ("NCE", 0)


def test_the_best_four_of_each_setting() -> None:
    accuracies = {
        (loss, "sym", rate, 0): 50.0 + place
        for rate in (0.2, 0.4)
        for place, loss in enumerate(["ce", "mae", *COMBINATIONS])
    }
    accuracies[("ce", "sym", 0.4, 0)] = 54.5
    ((_, runs),) = recipes(study_of(runs_of(accuracies)))
    order = best_losses(runs)
    assert order["losses"][0] == ["nfl_rce", "nfl_mae", "nce_rce", "nce_mae", "mae", "ce"]
    assert order["losses"][1][:2] == ["nfl_rce", "ce"]
    assert order["best"].tolist() == [True, True]
    assert order["best_four"].tolist() == [True, False]


floats = st.floats(-50, 50).map(lambda value: round(value, 3))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(floats, min_size=1, max_size=8))
def test_estimate_is_scipys_and_odd_in_its_values(values: list[float]) -> None:
    found, mirrored = estimate(values), estimate([-value for value in values])
    assert mirrored.mean == pytest.approx(-found.mean, abs=1e-12)
    if len(values) == 1:
        assert math.isnan(found.low)
        assert math.isnan(found.p)
        return
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    assert found.low <= found.mean <= found.high
    if np.std(values) > 1e-6:
        reference = stats.ttest_1samp(values, 0)
        assert found.p == pytest.approx(reference.pvalue, rel=1e-6, abs=1e-12)
        interval = reference.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


accuracies = st.floats(10, 90).map(lambda value: round(value, 2))


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.lists(accuracies, min_size=24, max_size=24))
def test_swapping_the_losses_negates_the_margin(values: list[float]) -> None:
    keys = itertools.product(("ce", "nce"), ("sym",), (0.4, 0.6), range(6))
    table = dict(zip(keys, values, strict=True))
    one = judge(table, NCE_CE)
    other = judge(table, replace(NCE_CE, better=("ce",), worse=("nce",)))
    assert one.estimate.mean == pytest.approx(-other.estimate.mean, abs=1e-9)
    assert one.estimate.low == pytest.approx(-other.estimate.high, abs=1e-9)
    mirror = {"holds": "contradicted", "contradicted": "holds"}
    assert other.verdict == mirror.get(one.verdict, one.verdict)


def test_every_claim_of_the_list_is_one_of_its_own_and_can_be_read() -> None:
    assert len(set(CLAIMS)) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.statement[0].isupper()
        assert claim.where.standard, claim
    ideas = list(dict.fromkeys(claim.idea for claim in CLAIMS))
    assert [idea for idea, _ in itertools.groupby(claim.idea for claim in CLAIMS)] == ideas


def test_a_recipe_holds_what_differs_in_loss_noise_and_seed_only() -> None:
    one: Mapping[Key, float] = {("nce_rce", "sym", 0.4, 0): 1.0}
    runs = [
        *runs_of(HAND),
        *runs_of(HAND, lr=0.5),
        *runs_of(one, alpha=2.0, lr=0.5),
        *runs_of(dict.fromkeys(one, 2.0), alpha=3.0, lr=0.5),
    ]
    (first, plain), (second, other) = recipes(study_of(runs))
    assert (first, second) == ("cifar10, preset paper", "cifar10, preset paper, lr=0.5")
    assert len(plain) == len(HAND)
    assert len(other) == len(HAND) + 1
    assert other.set_index("loss").loc["nce_rce", "test_accuracy"] == pytest.approx(1.0)


def published(**means: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "dataset": "cifar10",
            "noise": "sym",
            "map": "",
            "rate": 0.4,
            "method": list(means),
            "mean": list(means.values()),
            "std": 0.5,
            "paper": "A",
        }
    )


def test_agreement_by_hand() -> None:
    ours = {("ce", "sym", 0.4, 0): 50.0, ("nce", "sym", 0.4, 0): 60.0, ("mae", "sym", 0.4, 0): 70.0}
    found = agreement(
        recipes(study_of(runs_of(ours))), published(ce=40.0, nce=80.0, mae=79.4, gce=1.0)
    )
    # ce < nce: agrees; ce < mae: agrees; nce < mae: the paper has it the other way, by more than
    # one of its deviations of 0.5 and less than both.
    assert found.pairs["agrees"].tolist() == [1, 1, -1]
    assert found.pairs["apart"].tolist() == [True, True, False]
    assert found.overall == pytest.approx(1 / 3)
    assert found.overall_apart == 1
    assert found.settings[["setting", "losses"]].to_numpy().tolist() == [["sym 0.4", 3]]
    tau = stats.kendalltau([50, 60, 70], [40, 80, 79.4]).statistic
    assert found.settings["tau"].tolist() == [pytest.approx(tau)]
    low, high = found.interval
    assert -1 <= low <= found.overall <= high <= 1
    assert f"+0.33 ({low:+.2f} to {high:+.2f}) over 3 pairs" in str(found)


TWO: Mapping[Key, float] = {("ce", "sym", 0.4, 0): 50.0, ("nce", "sym", 0.4, 0): 60.0}


def test_agreement_needs_three_losses_for_tau_and_two_for_a_pair() -> None:
    ours = recipes(study_of(runs_of(TWO)))
    two = agreement(ours, published(ce=1.0, nce=2.0))
    assert math.isnan(two.settings["tau"].iloc[0])
    assert two.overall == 1
    none = agreement(ours, published(ce=1.0))
    assert math.isnan(none.overall)
    assert math.isnan(none.overall_apart)
    assert "no two losses" in str(none)
    assert agreement(ours, published(gce=1.0, mae=2.0)).pairs.empty
    flips = {(loss, "asym", rate, seed): mean for (loss, _, rate, seed), mean in TWO.items()}
    for map, pairs in (("paper", 1), ("report", 0)):  # published ones are of the paper's map
        mapped = recipes(study_of(runs_of(flips, map=map)))
        rows = published(ce=1.0, nce=2.0).assign(noise="asym", map="paper")
        assert len(agreement(mapped, rows).pairs) == pairs


def papers_own() -> pd.DataFrame:
    rows = own_protocol(published_rows())
    return rows[rows["dataset"] == "cifar10"]


def test_what_is_confused_anyway_is_no_memory() -> None:
    """Class a is labelled b in 40 %, b never a: what counts is how often networks that were trained
    on right labels take a for b; CE's, where there are such runs."""
    flips = [[0.6, 0.4], [0.0, 1.0]]
    matrices = {"ce": [[7, 3], [1, 9]], "mae": [[0, 10], [0, 10]]}

    def runs(*losses: str) -> Study:
        cells: list[Finished] = []
        for loss in losses:
            clean, noisy = runs_of({(loss, "none", 0.0, 0): 80, (loss, "asym", 0.4, 0): 60})
            found = replace(clean.result, confusion=matrices[loss])
            cells += [clean._replace(result=found)]
            cells += [noisy._replace(result=replace(noisy.result, transition=flips))]
        return study_of(cells)

    assert confused_anyway(runs("ce", "mae")) == {"asym 0.4": pytest.approx(30.0)}
    assert confused_anyway(runs("mae")) == {"asym 0.4": pytest.approx(100.0)}
    noisy = runs_of({("ce", "asym", 0.4, 0): 60})
    assert confused_anyway(study_of(noisy)) == {}


def test_the_papers_that_rank_losses_had_one_protocol() -> None:
    rows = papers_own()
    assert list(rows["paper"].unique()) == [
        "Ma et al., ICML 2020",
        "Wang et al., NeurIPS 2024 (epsilon-softmax)",
    ]
    for name, value in (("network", "cnn8"), ("epochs", 120), ("epoch", "last")):
        assert set(rows[name]) == {value}
    assert not rows["quoted"].any()
    assert set(rows["doubtful"]) == {""}
    assert not rows.duplicated(["paper", "noise", "map", "rate", "method"]).any()
    others = own_protocol(published_rows())
    networks = others[others["dataset"] != "cifar10"].groupby("dataset")["network"].unique()
    assert {name: list(own) for name, own in networks.items()} == {
        "cifar100": ["resnet34"],
        "mnist": ["cnn4"],
    }


def test_the_table_of_mnist_that_stands_in_the_notebook_alone() -> None:
    """Ma et al. print no table of MNIST; what is read there ranks MAE first up to 60 %."""
    rows = own_protocol(published_rows())
    sym = rows[(rows["dataset"] == "mnist") & (rows["noise"] == "sym")]
    assert set(sym["paper"]) == {"Ma et al., ICML 2020"}
    lead = sym.loc[sym.groupby("rate")["mean"].idxmax()].set_index("rate")["method"].to_dict()
    assert lead == {0.2: "mae", 0.4: "ngce_mae", 0.6: "mae", 0.8: "rce"}


@pytest.mark.slow
@pytest.mark.parametrize("paper", papers_own()["paper"].unique())
@pytest.mark.parametrize("sign", [1, -1])
def test_a_paper_agrees_with_itself_and_not_with_its_reverse(paper: str, sign: int) -> None:
    rows = papers_own()
    rows = rows[rows["paper"] == paper]
    # Papers have methods that are no loss here: sums stand in for them while the study is read.
    methods = {f"{number + 2}*ce": name for number, name in enumerate(rows["method"].unique())}
    stand_in = {name: loss for loss, name in methods.items()}
    ours = {
        (stand_in[row["method"]], row["noise"], row["rate"], seed): 50
        + sign * (row["mean"] - 50) / 2
        for row in rows.to_dict("records")
        for seed in (0, 1)
    }
    found_recipes = [
        (name, runs.assign(loss=runs["loss"].map(methods)))
        for name, runs in recipes(study_of(runs_of(ours)))
    ]
    found = agreement(found_recipes, rows)
    assert len(found.settings)
    ties = found.pairs["agrees"] == 0
    assert (found.pairs.loc[~ties, "agrees"] == sign).all()
    assert found.overall_apart == sign or math.isnan(found.overall_apart)
    assert found.settings["tau"].dropna().to_numpy() == pytest.approx(sign)


def test_agreement_compares_each_paper_by_itself() -> None:
    both = pd.concat([published(ce=1.0), published(nce=9.0).assign(paper="B")])
    assert agreement(recipes(study_of(runs_of(TWO))), both).pairs.empty


def test_agreement_compares_each_recipe_by_itself() -> None:
    # CE at one learning rate and NCE at another are no pair.
    (ce, nce) = runs_of(TWO)
    (faster,) = (run for run in runs_of(TWO, lr=0.5) if run.config.loss == "nce")
    rows = published(ce=1.0, nce=2.0)
    assert len(agreement(recipes(study_of([ce, nce])), rows).pairs) == 1
    assert agreement(recipes(study_of([ce, faster])), rows).pairs.empty
