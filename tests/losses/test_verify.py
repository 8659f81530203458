"""The numerical check of the theory finds what the theory says, and would notice a wrong loss."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import Cli

from apl.losses.catalog import LOSSES, SUMS
from apl.losses.verify import RATES, Verdict, lattice, verify

CLASSES = (2, 3, 10)


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    return {verdict.loss: verdict for verdict in verify(classes=CLASSES)}


@pytest.mark.slow
@pytest.mark.parametrize("name", SUMS)
def test_the_sum_is_constant_exactly_for_the_tolerant(
    verdicts: dict[str, Verdict], name: str
) -> None:
    assert verdicts[name].constant_sum == LOSSES[name].tolerant


@pytest.mark.parametrize("name", SUMS)
def test_gradients_agree_with_differences(verdicts: dict[str, Verdict], name: str) -> None:
    assert verdicts[name].gradient_error < 1e-7


@pytest.mark.parametrize("name", [name for name in SUMS if LOSSES[name].tolerant])
def test_lemma_1_symmetric_noise_is_tolerated_up_to_the_bound(
    verdicts: dict[str, Verdict], name: str
) -> None:
    for k, rate in verdicts[name].symmetric.items():
        assert rate == max(r for r in RATES if r <= (k - 1) / k)


@pytest.mark.parametrize("name", ["ce", "fl", "gce", "sce", "boot_soft"])
def test_what_grows_steep_where_p_vanishes_tolerates_nothing(
    verdicts: dict[str, Verdict], name: str
) -> None:
    assert max(verdicts[name].symmetric.values()) <= 0.02  # gce is that close to MAE


def test_label_smoothing_has_no_vertex_for_a_minimiser_even_without_noise(
    verdicts: dict[str, Verdict],
) -> None:
    rates = [*verdicts["ls"].symmetric.values(), *verdicts["ls"].pair.values()]
    assert all(math.isnan(rate) for rate in rates)
    for name, verdict in verdicts.items():
        assert name == "ls" or not any(map(math.isnan, verdict.symmetric.values()))


# How often the true label must be seen for each time that another one is: the slope in p at 0 over
# that at 1 of a convex loss (for the first three: Zhou et al. 2021).
DOMINANCE = {
    "agce": (1.6 / 0.6) ** 0.4,
    "aul": (5.5 / 4.5) ** 2,
    "ael": math.exp(1 / 2.5),
    "tce": 6.0,
    "phuber_ce": 2.0,
    "phuber_gce": 10.0,
}


@pytest.mark.parametrize("name", DOMINANCE)
def test_asymmetric_losses_tolerate_noise_while_the_true_label_dominates_enough(
    verdicts: dict[str, Verdict], name: str
) -> None:
    for k, rate in verdicts[name].symmetric.items():
        most = max(r for r in RATES if (1 - r) * (k - 1) >= DOMINANCE[name] * r)
        assert rate == most
    for rate in verdicts[name].pair.values():
        assert rate == max(r for r in RATES if 1 - r >= DOMINANCE[name] * r)


def test_amse_tolerates_noise_while_the_true_label_leads_by_1_over_a(
    verdicts: dict[str, Verdict],
) -> None:
    # The noisy risk is |p - a T_0|^2 / K and a constant: of all p a vertex is the nearest to a T_0
    # where T_00 exceeds every other entry by 1 / a or more.
    for k, rate in verdicts["amse"].symmetric.items():
        assert rate == max(r for r in RATES if 1 - r - r / (k - 1) >= 1 / 30)
    for rate in verdicts["amse"].pair.values():
        assert rate == max(r for r in RATES if 1 - 2 * r >= 1 / 30)


@pytest.mark.parametrize("name", ["nmae", "nrce"])
def test_lemma_2_losses_within_its_bound_tolerate_pair_flips_below_a_half(
    verdicts: dict[str, Verdict], name: str
) -> None:
    assert verdicts[name].bounded
    assert set(verdicts[name].pair.values()) == {0.5}


def test_lemma_2_says_nothing_of_losses_past_its_bound(verdicts: dict[str, Verdict]) -> None:
    for name in ("ce", "nce", "nfl", "ngce"):
        assert not verdicts[name].bounded
        assert verdicts[name].pair[10] == 0.0
    # MAE and RCE are within it once they are scaled, which moves no minimiser.
    assert verdicts["mae"].pair == verdicts["nmae"].pair


def test_the_lattice_lies_in_the_simplex_and_holds_every_vertex() -> None:
    points = lattice(3)
    torch.testing.assert_close(points.sum(1), torch.ones(len(points), dtype=torch.float64))
    assert (points > 0).all()
    for vertex in torch.eye(3, dtype=torch.float64):
        assert ((points - vertex).abs().amax(1) < 1e-9).any()


@pytest.mark.slow
def test_apl_verify_prints_a_row_for_every_loss(cli: Cli) -> None:
    shown = cli("verify").stdout
    assert all(f" {name} " in shown for name in SUMS)
    rows = [line.split() for line in shown.splitlines() if line.startswith("│")]
    constant = [row[1] for row in rows if row[3] == "yes"]
    assert constant == [name for name, loss in LOSSES.items() if loss.tolerant]
