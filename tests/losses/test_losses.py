"""Every loss against an independent formula, its identities, its gradients and its corners."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from formulas_of_sums import GOLDEN, ROWS, different
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from apl import LOSSES, make_loss
from apl.kernels.bases import BASES, Term, simplify
from apl.losses.catalog import SUMS, loss_terms, parse_loss

EXACT = json.loads(GOLDEN.read_text(encoding="utf-8"))["losses"]

# Every base alone and normalised, what is summed over the classes, and a sum of each kind.  The
# other names are sums of these: of the right ones by `test_value_and_gradient_against_50_digits`,
# each the sum of its parts by `test_any_weighted_sum_is_the_sum_of_its_parts`.
KINDS = [name for name in SUMS if len(LOSSES[name].terms) == 1]
KINDS += ["amse", "ls", "boot_soft", "nce_rce", "anl_fl", "jal_fl"]


def test_every_loss_has_an_independent_formula() -> None:
    assert set(EXACT) == set(SUMS)
    assert {term.base for name in KINDS for term in loss_terms(name, 10)} == set(BASES)


@pytest.mark.parametrize("name", SUMS)
def test_value_and_gradient_against_50_digits(name: str) -> None:
    for (row, target), (value, gradient) in zip(ROWS, EXACT[name], strict=True):
        logits = torch.tensor([row], dtype=torch.float64, requires_grad=True)
        loss = make_loss(name, len(row))(logits, torch.tensor([target]))
        (ours,) = torch.autograd.grad(loss, logits)
        assert loss.item() == pytest.approx(value, rel=1e-11, abs=3e-15)
        first = different(row, target)
        assert ours[0, first].tolist() == pytest.approx(gradient, rel=1e-9, abs=1e-14)
        equal = [
            first[[(row[j], j == target) for j in first].index((z, k == target))]
            for k, z in enumerate(row)
        ]
        torch.testing.assert_close(ours[0], ours[0, equal], rtol=1e-13, atol=1e-16)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_finite_for_any_logits(name: str, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(6, num_classes, generator=generator, dtype=torch.float64)
    signs[0], signs[1] = signs[0].sign(), 0.0
    signs[2] = 0.0
    signs[2, 0] = signs[3, 0] = 1.0
    signs = signs / signs.abs().amax(1, keepdim=True).clamp_min(1.0)
    rows = torch.cat([scale * signs for scale in (1.0, 100.0, 1e4)])
    targets = torch.tensor([0, 1, 0, 1, 0, 1]).repeat(3)
    criterion = make_loss(name, num_classes, reduction="none")
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        logits = rows.to(dtype).requires_grad_()
        losses = criterion(logits, targets)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        assert losses.dtype == gradient.dtype == dtype
        assert losses.isfinite().all()
        assert gradient.isfinite().all()
        wide = criterion(logits.detach().double(), targets)
        rounding = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-4)
        torch.testing.assert_close(losses.double(), wide, rtol=rounding, atol=rounding)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_gradcheck_and_gradgradcheck(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, -100, 2])
    weight = torch.tensor([0.5, 1.0, 2.0, 0.25], dtype=torch.float64)
    criterion = make_loss(name, 4, weight=weight)
    assert torch.autograd.gradcheck(criterion, (logits, targets))
    assert torch.autograd.gradgradcheck(criterion, (logits, targets))


weights = st.floats(0.01, 100)
alone = [base for base, of in BASES.items() if not of.part]
atoms = st.sampled_from([*SUMS, *(f"norm({base})" for base in alone)])


@pytest.mark.slow
@given(st.lists(st.tuples(weights, atoms), min_size=1, max_size=4), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_any_weighted_sum_is_the_sum_of_its_parts(
    summands: list[tuple[float, str]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(5, (6,), generator=generator)
    spec = " + ".join(f"{weight!r}*{atom}" for weight, atom in summands)
    whole = make_loss(spec, 5)(logits, targets)
    parts = sum(w * make_loss(atom, 5)(logits, targets) for w, atom in summands)
    torch.testing.assert_close(whole, torch.as_tensor(parts))
    assert torch.autograd.gradcheck(make_loss(spec, 5), (logits, targets))


def all_labels(name: str, logits: Tensor, **params: float) -> Tensor:
    """The loss of every row for every label: [N, K]."""
    num_classes = logits.shape[1]
    criterion = make_loss(name, num_classes, reduction="none", **params)
    columns = [criterion(logits, torch.full((len(logits),), j)) for j in range(num_classes)]
    return torch.stack(columns, 1)


def random_logits(seed: int, num_classes: int, rows: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 5 * torch.randn(rows, num_classes, generator=generator, dtype=torch.float64)


@given(st.integers(0, 2**32), st.integers(2, 12), st.sampled_from(alone))
@settings(max_examples=50, deadline=None)
def test_normalised_losses_lie_in_0_1_and_sum_to_1(seed: int, classes: int, base: str) -> None:
    values = all_labels(f"norm({base})", random_logits(seed, classes))
    assert (values >= 0).all()
    assert (values <= 1).all()
    torch.testing.assert_close(values.sum(1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("name", SUMS)
def test_tolerant_means_a_constant_sum_over_the_labels(name: str) -> None:
    sums = all_labels(name, random_logits(3, 7, rows=50)).sum(1)
    assert (float(sums.max() - sums.min()) < 1e-9) == LOSSES[name].tolerant


@given(st.integers(0, 2**32), st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_nmae_and_nrce_are_scaled_mae_and_rce(seed: int, classes: int) -> None:
    logits = random_logits(seed, classes)
    nmae = all_labels("mae", logits) / (2 * (classes - 1))
    nrce = all_labels("rce", logits) / (-math.log(1e-4) * (classes - 1))
    torch.testing.assert_close(all_labels("nmae", logits), nmae)
    torch.testing.assert_close(all_labels("nrce", logits), nrce)
    torch.testing.assert_close(nmae, nrce)


def test_gamma_0_makes_focal_cross_entropy_and_q_1_makes_gce_half_of_mae() -> None:
    logits = random_logits(5, 6)
    torch.testing.assert_close(all_labels("fl", logits, gamma=0), all_labels("ce", logits))
    torch.testing.assert_close(all_labels("nfl", logits, gamma=0), all_labels("nce", logits))
    torch.testing.assert_close(all_labels("gce", logits, q=1), all_labels("mae", logits) / 2)
    near = all_labels("gce", logits, q=1e-9)
    torch.testing.assert_close(near, all_labels("ce", logits), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@given(st.integers(0, 2**32), st.integers(2, 12), st.floats(0.05, 1.0))
@settings(max_examples=30, deadline=None)
def test_what_the_asymmetric_losses_become(seed: int, classes: int, q: float) -> None:
    logits = random_logits(seed, classes)
    close = {"rtol": 1e-6, "atol": 1e-6}
    agce = all_labels("agce", logits, a=1e-300, q=q)
    torch.testing.assert_close(agce, all_labels("gce", logits, q=q), **close)
    half_mae = all_labels("mae", logits) / 2
    torch.testing.assert_close(all_labels("agce", logits, a=0.3, q=1), half_mae)
    torch.testing.assert_close(all_labels("aul", logits, a=1.7, q=1), half_mae)
    # exp(-p / a) = 1 - p / a + ..., so for a large a it is a straight line in p.
    ael = 1e6 * (all_labels("ael", logits, a=1e6) - math.exp(-1e-6))
    torch.testing.assert_close(ael, half_mae, **close)


def test_agce_of_the_webvision_preset_is_gce() -> None:
    logits = random_logits(11, 10)
    agce, gce = all_labels("agce", logits, a=1e-5, q=0.5), all_labels("gce", logits, q=0.5)
    torch.testing.assert_close(agce, gce, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
@given(st.integers(0, 2**32), st.integers(2, 12))
@settings(max_examples=30, deadline=None)
def test_what_lies_between_cross_entropy_and_half_of_mae(seed: int, classes: int) -> None:
    logits = random_logits(seed, classes) / 5
    ce, half_mae = all_labels("ce", logits), all_labels("mae", logits) / 2
    torch.testing.assert_close(all_labels("tce", logits, t=1), half_mae)
    torch.testing.assert_close(all_labels("phuber_ce", logits, tau=1e9), ce)
    torch.testing.assert_close(all_labels("js", logits, pi=1e-9), ce, rtol=1e-6, atol=1e-6)
    # Only logarithmically fast: what is left falls with 1 / log(1 - pi).
    left = [(all_labels("js", logits, pi=1 - d) - half_mae).abs().max() for d in (1e-3, 1e-9)]
    assert left[1] < 0.4 * left[0]
    orders = [all_labels("tce", logits, t=t) for t in (1, 2, 5, 100)]
    for lower, higher in itertools.pairwise([*orders, ce]):
        assert (lower <= higher + 1e-12).all()


def test_tce_is_bounded_by_the_harmonic_number_and_js_by_its_entropy() -> None:
    logits = torch.tensor([[200.0, 0.0]], dtype=torch.float64)
    wrong = torch.tensor([1])
    assert make_loss("tce", 2, t=4)(logits, wrong).item() == pytest.approx(
        1 + 1 / 2 + 1 / 3 + 1 / 4
    )
    entropy = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    js = make_loss("js", 2, pi=0.3)(logits, wrong).item()
    assert js == pytest.approx(entropy / (-0.7 * math.log(0.7)))
    assert make_loss("ael", 2, a=2.0)(logits, torch.tensor([0])).item() == math.exp(-1 / 2)


@pytest.mark.slow
@given(st.integers(0, 2**32), st.integers(2, 12), st.floats(-1.0, 1.0), st.floats(0.1, 50.0))
@settings(max_examples=30, deadline=None)
def test_what_is_summed_over_the_classes(seed: int, classes: int, share: float, a: float) -> None:
    logits = random_logits(seed, classes)
    log_p = torch.log_softmax(logits, 1)
    p, ce = log_p.exp(), all_labels("ce", logits)
    # A negative share is negative label smoothing.
    ls = (1 - share) * ce - share * log_p.mean(1, keepdim=True)
    torch.testing.assert_close(all_labels("ls", logits, smoothing=share), ls)
    if share >= 0:
        y = torch.arange(4) % classes
        torch.testing.assert_close(
            make_loss("ls", classes, smoothing=share)(logits, y),
            F.cross_entropy(logits, y, label_smoothing=share),
        )
    entropy = -(p * log_p).sum(1, keepdim=True)
    boot = abs(share) * ce + (1 - abs(share)) * entropy
    torch.testing.assert_close(all_labels("boot_soft", logits, beta=abs(share)), boot)
    # But for a constant AMSE is MAE and a little of the sum of squares.
    flat = all_labels("mae", logits) * a + p.square().sum(1, keepdim=True) + a * a - 2 * a
    torch.testing.assert_close(all_labels("amse", logits, a=a), flat / classes)
    brier = (p[:, None] - torch.eye(classes)).square().sum(2)
    torch.testing.assert_close(all_labels("amse", logits, a=1.0), brier / classes)


def test_the_gradients_of_what_is_summed_over_the_classes_by_hand() -> None:
    logits, targets = random_logits(4, 5).requires_grad_(), torch.tensor([4, 0, 2, 0])
    log_p = torch.log_softmax(logits.detach(), 1)
    p, q = log_p.exp(), F.one_hot(targets, 5).double()
    for name, g in (
        ("amse", (2 * p * p - 2 * 30 * p * q) / 5),
        ("ls", -(0.9 * q + 0.1 / 5)),
        ("boot_soft", -(0.95 * q + 0.05 * p * (1 + log_p))),
    ):
        loss = make_loss(name, 5, "sum")(logits, targets)
        (ours,) = torch.autograd.grad(loss, logits)
        torch.testing.assert_close(ours, g - p * g.sum(1, keepdim=True))


@pytest.mark.parametrize("name", ["boot_soft", "amse", "jal_ce", "js", "njs"])
@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_a_masked_class_leaves_a_finite_gradient_under_any_loss_scale(
    name: str, backend: str
) -> None:
    masked = torch.tensor([[0.5, -math.inf, 1.0]], requires_grad=True)
    loss = make_loss(name, 3, backend=backend)(masked, torch.tensor([0]))  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(65536 * loss, masked)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient[0, 1] == 0
    if name == "boot_soft":
        rest = make_loss(name, 2)(torch.tensor([[0.5, 1.0]]), torch.tensor([0]))
        torch.testing.assert_close(loss, rest)


@pytest.mark.parametrize(
    ("name", "edge", "params"),
    [
        ("phuber_ce", 1 / 2, {"tau": 2.0}),
        ("phuber_gce", 10 ** (1 / -0.3), {"tau": 10.0, "q": 0.7}),
    ],
)
def test_phuber_losses_are_continuous_with_their_slope(
    name: str, edge: float, params: dict[str, float]
) -> None:
    found = []
    for p in (edge * (1 - 1e-9), edge * (1 + 1e-9)):
        logits = torch.tensor([[math.log(p), math.log(1 - p)]], dtype=torch.float64)
        leaf = logits.requires_grad_()
        loss = make_loss(name, 2, **params)(leaf, torch.tensor([0]))  # type: ignore[arg-type]
        found.append((loss.item(), torch.autograd.grad(loss, leaf)[0]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-7)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["nnce", "nnfl"])
@pytest.mark.parametrize("p_min", [1e-7, 1e-8, 1e-2])
def test_normalised_negative_losses_sum_to_one_less_than_the_classes(
    name: str, p_min: float
) -> None:
    logits = 3 * random_logits(12, 7, rows=50)  # with classes on either side of p_min
    values = all_labels(name, logits, p_min=p_min)
    assert ((logits.log_softmax(1) < math.log(p_min)).any(1)).any()
    torch.testing.assert_close(values.sum(1), torch.full((50,), 6.0, dtype=torch.float64))
    assert (values >= 0).all()
    assert (values <= 1).all()


@pytest.mark.parametrize("name", ["nnce", "nnfl"])
def test_below_p_min_negative_losses_are_flat(name: str) -> None:
    logits = torch.tensor([[3.0, 1.0, -20.0]], dtype=torch.float64, requires_grad=True)
    criterion = make_loss(name, 3, p_min=1e-7)
    (gradient,) = torch.autograd.grad(criterion(logits, torch.tensor([0])), logits)
    # g is 0 there: what is left, -p sum_j g_j, is as small as its p.
    assert 0 < gradient.abs()[0, 2] < 1e-9 < gradient.abs()[0, 1]
    loss = criterion(logits, torch.tensor([2]))
    assert loss.item() == 1.0
    assert not torch.autograd.grad(loss, logits)[0].any()


def test_anl_is_a_weighted_sum_of_its_two_parts() -> None:
    logits = random_logits(13, 6)
    for name, active, passive in (("anl_ce", "nce", "nnce"), ("anl_fl", "nfl", "nnfl")):
        whole = all_labels(name, logits, alpha=10.0, beta=0.5)
        parts = 10 * all_labels(active, logits) + 0.5 * all_labels(passive, logits)
        torch.testing.assert_close(whole, parts)


def test_float32_is_as_good_near_p_0_and_p_1_as_between() -> None:
    gaps = torch.logspace(-7, 2.2, 60)
    for name in SUMS:
        logits = torch.stack([gaps, torch.zeros(60), -gaps], 1)
        for target in (0, 2):
            targets = torch.full((60,), target)
            results = []
            for dtype in (torch.float32, torch.float64):
                leaf = logits.to(dtype).requires_grad_()
                losses = make_loss(name, 3, "none")(leaf, targets)
                results.append((losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]))
            for ours, exact_ in zip(*results, strict=True):
                size = exact_.abs().max().item()
                torch.testing.assert_close(ours.double(), exact_, rtol=2e-6, atol=2e-6 * size)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 4), (0,)])
def test_ce_is_a_drop_in_for_cross_entropy(
    reduction: str, weighted: bool, smoothing: float, soft: bool, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(shape[0], 5, *shape[1:], generator=generator, requires_grad=True)
    targets = torch.randint(5, shape, generator=generator)
    targets = torch.where(torch.rand(shape, generator=generator) < 0.3, 3, targets)
    options = {"label_smoothing": smoothing, "reduction": reduction}
    if soft:
        targets = torch.rand(logits.shape, generator=generator)
        targets = targets / targets.sum(1, keepdim=True)
    else:
        options["ignore_index"] = 3
    weight = torch.rand(5, generator=generator) if weighted else None
    expected = F.cross_entropy(logits, targets, weight=weight, **options)  # type: ignore[arg-type]
    for backend in ("eager", "reference"):
        ours = make_loss("ce", 5, weight=weight, backend=backend, **options)  # type: ignore[arg-type]
        got = ours(logits, targets)
        torch.testing.assert_close(got, expected, equal_nan=True)
        upstream = torch.rand(expected.shape, generator=generator)
        torch.testing.assert_close(
            torch.autograd.grad(got, logits, upstream)[0],
            torch.autograd.grad(expected, logits, upstream, retain_graph=True)[0],
            equal_nan=True,
        )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("name", KINDS)
def test_soft_targets_are_a_sum_over_the_labels(name: str, backend: str) -> None:
    logits = random_logits(4, 6).requires_grad_()
    generator = torch.Generator().manual_seed(5)
    q, weight = torch.rand(4, 6, generator=generator), torch.rand(6, generator=generator)
    q[0, 2] = q[3, 5] = 0.0
    q /= q.sum(1, keepdim=True)
    for smoothing in (0.0, 0.2):
        options = {"label_smoothing": smoothing, "weight": weight, "backend": backend}
        mixed = (1 - smoothing) * q.double() + smoothing / 6
        losses = (mixed * weight.double() * all_labels(name, logits)).sum(1)
        for reduction, expected in (("none", losses), ("mean", losses.mean())):
            got = make_loss(name, 6, reduction, **options)(logits, q)  # type: ignore[arg-type]
            torch.testing.assert_close(got, expected)
            upstream = torch.rand(expected.shape, generator=generator, dtype=torch.float64)
            torch.testing.assert_close(
                torch.autograd.grad(got, logits, upstream)[0],
                torch.autograd.grad(expected, logits, upstream, retain_graph=True)[0],
            )


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("name", KINDS)
def test_one_hot_targets_are_class_indices(name: str, smoothing: float) -> None:
    logits = random_logits(6, 5).requires_grad_()
    targets = torch.tensor([4, 0, 2, 2])
    criterion = make_loss(name, 5, label_smoothing=smoothing)
    hard, soft = criterion(logits, targets), criterion(logits, F.one_hot(targets, 5).double())
    torch.testing.assert_close(hard, soft)
    torch.testing.assert_close(
        torch.autograd.grad(hard, logits)[0], torch.autograd.grad(soft, logits)[0]
    )


@pytest.mark.parametrize("name", KINDS)
def test_mixup_is_one_call_with_mixed_labels(name: str) -> None:
    generator = torch.Generator().manual_seed(7)
    images, share = torch.randn(8, 12, generator=generator), 0.3
    labels = torch.randint(5, (8,), generator=generator)
    order = torch.randperm(8, generator=generator)
    logits = nn.Linear(12, 5)(share * images + (1 - share) * images[order])
    q = share * F.one_hot(labels, 5) + (1 - share) * F.one_hot(labels[order], 5)
    criterion = make_loss(name, 5)
    expected = share * criterion(logits, labels) + (1 - share) * criterion(logits, labels[order])
    torch.testing.assert_close(criterion(logits, q), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_soft_targets_up_to_the_second_order(name: str) -> None:
    logits = random_logits(8, 4, rows=2).requires_grad_()
    q = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    q /= q.sum(1, keepdim=True)
    criterion = make_loss(name, 4, label_smoothing=0.1)
    assert torch.autograd.gradcheck(criterion, (logits, q))
    assert torch.autograd.gradgradcheck(criterion, (logits, q))
    taught = q.requires_grad_()  # by a teacher that learns too
    assert torch.autograd.gradcheck(criterion, (logits, taught))


def test_a_masked_class_counts_nothing_unless_a_soft_target_asks_for_it() -> None:
    logits = torch.tensor([[0.5, -math.inf, 1.0], [0.5, -math.inf, 1.0]], requires_grad=True)
    q = torch.tensor([[0.25, 0.0, 0.75], [0.25, 0.5, 0.25]])
    rest = torch.tensor([[0.5, 1.0]], requires_grad=True)
    expected = F.cross_entropy(rest, torch.tensor([[0.25, 0.75]]))
    (gradient,) = torch.autograd.grad(expected, rest)
    for backend in ("eager", "reference"):
        losses = make_loss("ce", 3, "none", backend=backend)(logits, q)  # type: ignore[arg-type]
        torch.testing.assert_close(losses[0], expected)
        assert losses[1] == math.inf
        (ours,) = torch.autograd.grad(losses[0], logits)
        torch.testing.assert_close(ours[0, [0, 2]], gradient[0])
        assert ours[0, 1] == 0


def test_nan_in_one_row_stays_in_that_row_and_an_ignored_row_counts_nothing() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    broken = logits.detach().clone()
    broken[1] = math.nan
    broken[2] = math.inf
    broken.requires_grad_()
    losses = make_loss("nce_rce", 3, "none", ignore_index=2)(broken, torch.tensor([0, 1, 2, 1]))
    (gradient,) = torch.autograd.grad(losses.sum(), broken)
    assert losses.isnan().tolist() == [False, True, False, False]
    assert gradient.isnan().any(1).tolist() == [False, True, False, False]
    assert losses[2] == 0
    assert (gradient[2] == 0).all()


def test_module_moves_and_saves_like_any_other() -> None:
    criterion = make_loss("nce_rce", 3, weight=torch.tensor([1.0, 2.0, 3.0]))
    assert isinstance(criterion, nn.Module)
    assert set(criterion.state_dict()) == {"weight"}
    assert criterion.double().weight.dtype == torch.float64  # type: ignore[union-attr]
    assert "nce_rce" in repr(criterion)


def test_simplify_joins_like_terms_and_divides_constant_sums_out() -> None:
    terms = loss_terms("nce + 2*nce + nmae + 0.5*mae", 5)
    assert terms == (Term("ce", 3.0, "norm", ()), Term("mae", 0.5 + 1 / 8, "at", ()))
    assert simplify([Term("rce", 1.0, "norm", (-4.0,))], 3) == (Term("rce", 1 / 8, "at", (-4.0,)),)


@pytest.mark.slow
def test_the_package_gives_losses_on_demand_and_loads_torch_for_their_modules_alone() -> None:
    script = """
import sys
import apl
print("apl.losses" in sys.modules, "torch" in sys.modules)
from apl import LOSSES
print("torch" in sys.modules)
from apl import make_loss
print("torch" in sys.modules)
import apl.losses.modules, apl.losses
print(make_loss is apl.losses.modules.make_loss, LOSSES is apl.losses.catalog.LOSSES)
from apl import losing
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False", "False", "True", "True", "True"], done.stderr
    assert "ImportError: cannot import name 'losing' from 'apl'" in done.stderr


@pytest.mark.parametrize(
    ("spec", "params", "message"),
    [
        ("nce_rcx", {}, "did you mean 'nce_rce'"),
        ("xyz", {}, "unknown loss 'xyz': did you mean"),
        ("one", {}, "unknown loss 'one'"),
        ("norm(negce)", {}, "norm() takes one of ce, fl"),
        ("norm(sce)", {}, "norm() takes one of ce, fl"),
        ("2*nce +", {}, "cannot read the loss"),
        ("2*nce - mae", {}, "expected '+'"),
        ("", {}, "cannot read the loss"),
        ("ce", {"gamma": 2.0}, "takes no parameter 'gamma'"),
        ("fl", {"gamma": -1.0}, "gamma must be a number >= 0"),
        ("gce", {"q": 0.0}, "q must be a number in (0, 1]"),
        ("ngce_mae", {"q": 1.5}, "q must be a number in (0, 1], got 1.5"),
        ("agce", {"q": 0.0}, "q must be a number > 0"),
        ("agce + gce", {"q": 1.5}, "q must be a number in (0, 1]"),
        ("phuber_gce", {"q": 1.0}, "q must be a number in (0, 1), got 1.0"),
        ("agce", {"a": 0.0}, "a must be a number > 0"),
        ("nce_aul", {"a": 1.0}, "a must be a number > 1"),
        ("tce", {"t": 2.5}, "t must be a whole number from 1 to 100"),
        ("phuber_ce", {"tau": 1.0}, "tau must be a number > 1"),
        ("js", {"pi": 1.0}, "pi must be a number in (0, 1)"),
        ("ls", {"smoothing": 2.0}, "smoothing must be a number <= 1"),
        ("jal_ce", {"a": 0.0}, "a must be a number > 0"),
        ("amse", {"beta": 2.0}, "'amse' takes no parameter 'beta'; it takes: a"),
        ("sq", {}, "unknown loss 'sq'"),
        ("nnce", {"p_min": 0.0}, "p_min must be a number in (0, 1)"),
        ("anl_fl", {"p_min": 0.1}, "p_min must be below 1 / 10 classes, got 0.1"),
        ("nnce", {"gamma": 0.5}, "takes no parameter 'gamma'"),
        ("rce", {"A": 4.0}, "A must be a number < 0"),
        ("nce_rce", {"alpha": math.nan}, "alpha must be"),
        ("1e999*ce", {}, "must be finite"),
    ],
)
def test_bad_specs_say_what_is_accepted(spec: str, params: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_loss(spec, 10, **params)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [None, ["ce"], torch.zeros(10), make_loss("ce", 10)])
def test_what_is_no_text_is_no_loss(spec: object) -> None:
    with pytest.raises(TypeError, match="a loss is given as text, as 'nce_rce'"):
        make_loss(spec, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [None, "10", 1])
@pytest.mark.parametrize("spec", ["ce", "elr"])
def test_a_number_of_classes_is_one(spec: str, classes: object) -> None:
    with pytest.raises(ValueError, match=f"num_classes must be at least 2, got {classes!r}"):
        make_loss(spec, classes, num_samples=9 if spec == "elr" else None)


@pytest.mark.slow
@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_loss_or_a_value_error(text: str) -> None:
    try:
        terms = loss_terms(text, 10)
    except ValueError as error:
        assert str(error)
    else:
        assert terms
        assert parse_loss(text)


def test_bad_tensors_say_what_is_accepted() -> None:
    criterion = make_loss("nce_rce", 4)
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        make_loss("ce", 1)
    with pytest.raises(ValueError, match=r"logits must be \[N, 4\]"):
        criterion(torch.zeros(2, 5), y)
    with pytest.raises(ValueError, match="floating point"):
        criterion(torch.zeros(2, 4, dtype=torch.long), y)
    accepted = (
        "targets must be class indices [2] of an integer type "
        "or soft targets [2, 4] of a floating point type, got "
    )
    for targets, got in (
        (torch.tensor([0, 1, 2]), "torch.int64 [3]"),
        (torch.zeros(2), "torch.float32 [2]"),
        (torch.zeros(4, 2), "torch.float32 [4, 2]"),
        (torch.zeros(2, 4, dtype=torch.long), "torch.int64 [2, 4]"),
        (torch.zeros(2, dtype=torch.bool), "torch.bool [2]"),
        (torch.zeros(2, 4, dtype=torch.complex64), "torch.complex64 [2, 4]"),
    ):
        with pytest.raises(ValueError, match=re.escape(accepted + got)):
            criterion(torch.zeros(2, 4), targets)
    for smoothing in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got"):
            make_loss("ce", 4, label_smoothing=smoothing)
    with pytest.raises(ValueError, match=r"weight must be floating point, got torch\.int64"):
        make_loss("ce", 4, weight=torch.ones(4, dtype=torch.long))
    with pytest.raises(ValueError, match="reduction must be one of"):
        make_loss("ce", 4, "max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weight must have shape \[4\]"):
        make_loss("ce", 4, weight=torch.ones(3))
