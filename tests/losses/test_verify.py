"""The numerical check of the theory finds what the theory says, and would notice a wrong loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import Cli

from apl.kernels.bases import BASES, Base
from apl.losses.catalog import SUMS
from apl.losses.modules import CRITERIA
from apl.losses.verify import (
    Verdict,
    criterion_error,
    lattice,
    promised,
    verify,
    wrong_numbers,
)

CLASSES = (2, 3, 10)


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    return {verdict.loss: verdict for verdict in verify(classes=CLASSES)}


@pytest.mark.slow
@pytest.mark.parametrize("name", SUMS)
def test_every_loss_is_as_theory_and_50_digits_have_it(
    verdicts: dict[str, Verdict], name: str
) -> None:
    assert verdicts[name].missed == []
    assert set(verdicts[name].errors) == {"reference", "eager", "auto"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CRITERIA)
def test_what_is_no_sum_is_as_50_digits_have_it(name: str) -> None:
    assert wrong_numbers({"auto": criterion_error(name)}) == []


def test_theory_promises_what_the_papers_say() -> None:
    assert promised("mae", 10, "symmetric") == (0.9, 0.9)  # Lemma 1: below (K-1)/K
    assert promised("nce_rce", 5, "symmetric") == (0.8, 0.8)
    assert promised("nmae", 10, "pair") == (0.5, 0.5)  # Lemma 2
    assert promised("tce", 5, "symmetric") == (0.4, 0.4)  # on the bound itself
    assert promised("ce", 10, "symmetric") == (0.0, 0.02)
    assert all(map(math.isnan, promised("ls", 10, "symmetric")))


@pytest.mark.slow
def test_lemma_2_says_nothing_of_losses_past_its_bound(verdicts: dict[str, Verdict]) -> None:
    for name in ("ce", "nce", "nfl", "ngce"):
        assert not verdicts[name].bounded
        assert verdicts[name].pair[10] == 0.0
    # MAE and RCE are within it once they are scaled, which moves no minimiser.
    assert verdicts["mae"].pair == verdicts["nmae"].pair


def base(name: str, **parts: Any) -> tuple[str, Base]:
    return name, dataclasses.replace(BASES[name], **parts)


def with_params(name: str, *params: float) -> tuple[str, Base]:
    """A base that takes these for its parameters, whatever is given."""
    of = BASES[name]
    return base(
        name,
        phi=lambda log_p, *_: of.phi(log_p, *params),
        slope=lambda log_p, *_: of.slope(log_p, *params),
    )


def with_part(name: str, part: str, by: Callable[[Any], Any]) -> tuple[str, Base]:
    """A base one of whose functions gives what another function makes of it."""
    right = getattr(BASES[name], part)
    return base(name, **{part: lambda *given: by(right(*given))})


# What a slip of the pen makes of a base, and a loss that must be found wrong by it.
SLIPS = {
    "RCE's sign": ("rce", with_part("rce", "phi", lambda value: -value)),
    "GCE without 1/q": ("gce", base("gce", phi=lambda log_p, q: 1 - (q * log_p).exp())),
    "FL with another gamma": ("fl", with_params("fl", 5.0)),
    "another A": ("nce_rce", with_part("rce", "phi", lambda value: value * 4 / 9.21)),
    "half of MAE": ("mae", with_part("mae", "phi", lambda value: value / 2)),
    "a reversed slope": ("ce", with_part("ce", "slope", lambda slope: -slope)),
    "half a slope": ("nfl", with_part("fl", "slope", lambda slope: slope / 2)),
    "TCE one term short": ("tce", with_params("tce", 5.0)),
    "AUL's a": ("aul", with_params("aul", 5.0, 3.0)),
    "AGCE's q": ("agce", with_params("agce", 0.6, 0.7)),
    "a sum of another size": ("nmae", base("mae", total=lambda classes: 2.0 * classes)),
    "the square without its 2": ("jal_ce", with_part("sq", "slope", lambda slope: slope / 2)),
    "a slope of 0": ("js", with_part("js", "slope", lambda slope: 0 * slope)),
    "a loss and a little": ("gce", with_part("gce", "phi", lambda value: value + 1e-6)),
}


@pytest.mark.slow
@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_found(slip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, (name, wrong) = SLIPS[slip]
    monkeypatch.setitem(BASES, name, wrong)
    assert verify([loss], CLASSES)[0].missed


def test_the_lattice_lies_in_the_simplex_and_holds_every_vertex() -> None:
    points = lattice(3)
    torch.testing.assert_close(points.sum(1), torch.ones(len(points), dtype=torch.float64))
    assert (points > 0).all()
    for vertex in torch.eye(3, dtype=torch.float64):
        assert ((points - vertex).abs().amax(1) < 1e-9).any()


@pytest.mark.slow
def test_apl_verify_shows_losses_kernels_too_and_fails_by_one(
    here: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nothing is missed by 2 losses" in here("verify", "gjs", "sr").stdout
    monkeypatch.setitem(BASES, *with_part("tce", "phi", lambda value: -value))
    done = here("verify", "tce", "nce_rce", "fl", "gjs", code=1)
    # Of the others nothing is, so their kernels are right: those of a process of its own.
    missed = [line for line in done.stdout.splitlines() if line.startswith("missed: ")]
    assert missed
    assert all(line.startswith("missed: tce: ") for line in missed)
    where = "on the GPU" if torch.cuda.is_available() else "in Triton's interpreter"
    assert f"in float32 ({where})" in done.stdout
    assert "did you mean" in here("verify", "rse", code=2).stderr
