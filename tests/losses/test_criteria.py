"""Losses that are no sum of terms: against formulas of their own, their closed gradients, what they
are at special values, what they remember."""

from __future__ import annotations

import copy
import functools
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import formulas_of_criteria as formulas
import pytest
import torch
import torch.nn.functional as F
from formulas_of_criteria import GOLDEN, REMEMBERING, ROWS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from apl import LOSSES, make_loss
from apl.config.config import make_config
from apl.errors import BadInput, Interrupted
from apl.losses.catalog import (
    is_tolerant,
    loss_label,
    loss_name,
    loss_params,
    loss_terms,
    parse_loss,
)
from apl.losses.modules import CRITERIA, RowLoss, estimate_transition, needs_of
from apl.training.listener import Listener, ignore
from apl.training.train import train

EXACT = json.loads(GOLDEN.read_text(encoding="utf-8"))["losses"]

SAMPLES = 8
EPOCH = 7.5
ABOUT = {"samples": torch.tensor([5, 0, 3, 7]), "epoch": EPOCH}
NAMES = list(CRITERIA)
STATEFUL = [name for name in NAMES if CRITERIA[name].needs == ("num_samples",)]


@functools.cache
def transition(classes: int) -> Tensor:
    return torch.tensor(formulas.transition(classes), dtype=torch.float64)


def build(name: str, classes: int, reduction: str = "mean", **options: Any) -> RowLoss:
    extras: dict[str, Any] = {}
    if "num_samples" in needs_of(name):
        extras["num_samples"] = SAMPLES
    if "transition" in needs_of(name):
        extras["transition"] = transition(classes)
    made = make_loss(name, classes, reduction, **extras, **options)  # type: ignore[arg-type]
    assert isinstance(made, RowLoss)
    return made


built = functools.cache(build)  # an inverse takes its time, and many want the same


def call(criterion: RowLoss, logits: Tensor, targets: Tensor) -> Tensor:
    """The criterion with what it wants, for up to four rows."""
    rows = {"samples": ABOUT["samples"][: len(targets)], "epoch": EPOCH}  # type: ignore[index]
    value: Tensor = criterion(logits, targets, **{name: rows[name] for name in criterion.wants})
    return value


def random_logits(name: str, classes: int, rows: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, classes) if CRITERIA[name].views == 1 else (CRITERIA[name].views, rows, classes)
    return 3 * torch.randn(shape, generator=generator, dtype=torch.float64)


# ------------------------------------------------------------------------ against 50-digit numbers


def test_every_loss_that_is_no_sum_has_a_class_and_an_independent_formula() -> None:
    assert [name for name, loss in LOSSES.items() if not loss.terms] == NAMES
    assert set(EXACT) == set(NAMES)
    assert set(REMEMBERING) == set(STATEFUL)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in STATEFUL])
def test_value_and_gradient_against_50_digits(name: str) -> None:
    for (row, _), [(z, target, value, gradient)] in zip(ROWS, EXACT[name], strict=True):
        shape = (1, len(row)) if name != "gjs" else (2, 1, len(row))
        logits = torch.tensor(z, dtype=torch.float64).reshape(shape).requires_grad_()
        loss = call(build(name, len(row)), logits, torch.tensor([target]))
        (ours,) = torch.autograd.grad(loss, logits)
        assert loss.item() == pytest.approx(value, rel=1e-11, abs=1e-13)
        assert ours.flatten().tolist() == pytest.approx(gradient, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("name", STATEFUL)
def test_a_loss_that_remembers_against_50_digits_for_three_visits(name: str) -> None:
    for (row, _), visits in zip(ROWS, EXACT[name], strict=True):
        criterion = build(name, len(row)).double()
        (buffer,) = criterion.buffers()
        for z, target, value, gradient, state in visits:
            logits = torch.tensor([z], dtype=torch.float64, requires_grad=True)
            loss = criterion(logits, torch.tensor([target]), samples=torch.tensor([5]))
            (ours,) = torch.autograd.grad(loss, logits)
            assert loss.item() == pytest.approx(value, rel=1e-11, abs=1e-12)
            assert ours[0].tolist() == pytest.approx(gradient, rel=1e-8, abs=1e-12)
            assert buffer[5].reshape(-1).tolist() == pytest.approx(state, rel=1e-12)
        fresh = build(name, len(row)).double()
        others = [k for k in range(SAMPLES) if k != 5]
        assert torch.equal(buffer[others], next(fresh.buffers())[others])


# ------------------------------------------------------------------------------------ the gradients


def from_log_p(g: Tensor, log_p: Tensor) -> Tensor:
    """dL/dz from g = dL/dl, l taken as free variables."""
    return g - log_p.exp() * g.sum(1, keepdim=True)


def closed_gradient(name: str, z: Tensor, y: Tensor, criterion: RowLoss) -> Tensor:
    """The gradient of the sum over rows, as the papers' formulas give it by hand."""
    classes = z.shape[-1]
    q, log_p = F.one_hot(y, classes).double(), torch.log_softmax(z, -1)
    p = log_p.exp()
    hit = (F.one_hot(z.argmax(-1), classes) * q).sum(-1, keepdim=True) if z.ndim == 2 else None
    if name == "boot_hard":
        return from_log_p(-(0.8 * q + 0.2 * F.one_hot(z.argmax(1), classes).double()), log_p)
    if name.startswith("eps_softmax"):
        assert hit is not None
        p_y = (p * q).sum(1, keepdim=True)
        factor = torch.where(hit > 0, p_y / (p_y + 1e5), (p_y / (1 + 1e5) > 1e-8).double())
        mae = -2 * p_y * q
        g = -q * factor if name == "eps_softmax" else -0.01 * q * factor + 5 * mae
        return from_log_p(g, log_p)
    if name.startswith("ce_lc"):
        n = z.norm(dim=1, keepdim=True) + (0 if name == "ce_lc" else 1e-7)
        above, to = {
            "ce_lc": (n > 1.0, 1.0),
            "ce_lc_authors": (n > 1.0, 1.0),
            "ce_lc_eps": (n > 1 / 1.5, 1.5),
        }[name]
        unit = z / z.norm(dim=1, keepdim=True)
        h = torch.softmax(torch.where(above, z * to / n, z), 1) - q
        shrunk = to / n * (h - unit * (unit * h).sum(1, keepdim=True) * z.norm(dim=1)[:, None] / n)
        return torch.where(above, shrunk, h)
    if name == "ldr_kl":
        mu = F.softplus(z).mean(1, keepdim=True)
        s = F.softplus(z) / mu
        r = torch.softmax((0.1 * (1 - q) + s) / 10, 1) - q
        return z.sigmoid() * (r - (r * s).mean(1, keepdim=True)) / mu
    if name == "bi_tempered":
        t1, t2 = 0.7, 1.5
        rows = [[float(v) for v in formulas.tempered(row, t2)] for row in z.tolist()]
        big_p = torch.tensor(rows, dtype=torch.float64)
        d = (big_p - q) * big_p ** (t2 - t1)
        e = big_p**t2 / (big_p**t2).sum(1, keepdim=True)
        return d - e * d.sum(1, keepdim=True)
    if name == "forward":
        seen = p * transition(classes).T[y]
        return from_log_p(-seen / seen.sum(1, keepdim=True), log_p)
    if name == "forward_est":
        return from_log_p(-q, log_p)
    if name == "backward":
        return from_log_p(-transition(classes).inverse()[y], log_p)
    if name == "elr":
        (means,) = criterion.buffers()
        t = means[ABOUT["samples"]].double()  # type: ignore[index]
        clamped = p.clamp(1e-4, 1 - 1e-4)
        g = -q - 3 * t * p * (p == clamped) / (1 - (t * clamped).sum(1, keepdim=True))
        return from_log_p(g, log_p)
    if name == "aldr_kl":
        (lambdas,) = criterion.buffers()
        lam = lambdas[ABOUT["samples"], None].double()  # type: ignore[index]
        length = z.abs().sum(1, keepdim=True)
        f = classes * z / length
        r = torch.softmax((0.1 * (1 - q) + f) / lam, 1) - q
        return (classes * r - z.sign() * (r * f).sum(1, keepdim=True)) / length
    if name == "sr":
        n = z.norm(dim=1, keepdim=True)
        unit = z / n
        inner = torch.log_softmax(unit / 0.5, 1)
        h = from_log_p(-q + 1.2 * 1.03**7 * 0.1 * (0.1 * inner).exp(), inner)
        return (h - unit * (unit * h).sum(1, keepdim=True)) / (0.5 * n)
    if name.startswith("anl"):
        leaf = z.clone().requires_grad_()
        part = make_loss(name.removesuffix("_er"), classes, "sum")(leaf, y)
        return torch.autograd.grad(part, leaf)[0] + from_log_p(2 * p * p.mean(0).log(), log_p)
    assert name == "gjs"
    pi, each = 0.3, 0.35
    mean = pi * q + each * p.sum(0)
    # d/dp_v of sum_w w KL(. | mean) is w log(p_v / mean), up to a constant over the classes
    return torch.stack([from_log_p(v.exp() * each * (v - mean.log()), v) for v in log_p]) / -(
        (1 - pi) * math.log(1 - pi)
    )


@pytest.mark.parametrize("name", NAMES)
def test_autograd_finds_the_closed_gradient(name: str) -> None:
    logits, targets = random_logits(name, 6, seed=1).requires_grad_(), torch.tensor([0, 5, 2, 2])
    with torch.no_grad():
        logits[..., 0, 0] += 4.0  # one row that is right
    criterion = build(name, 6, "sum").double()
    for _ in range(2):
        loss = call(criterion, logits, targets)
    (ours,) = torch.autograd.grad(loss, logits)
    expected = closed_gradient(name, logits.detach(), targets, criterion)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_and_gradgradcheck(name: str) -> None:
    logits = random_logits(name, 4, seed=2).requires_grad_()
    targets, weight = torch.tensor([0, 3, -100, 1]), torch.tensor([0.5, 1.0, 2.0, 0.25])
    criterion = build(name, 4, weight=weight.double())
    call(criterion, logits, targets)
    criterion.eval()  # it keeps what it remembers
    assert torch.autograd.gradcheck(lambda z: call(criterion, z, targets), logits)
    assert torch.autograd.gradgradcheck(lambda z: call(criterion, z, targets), logits)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_finite_for_any_logits(name: str, num_classes: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(4, num_classes, generator=generator, dtype=torch.float64)
    signs[0], signs[1] = signs[0].sign(), 0.0
    signs[2], signs[2, 0] = 0.0, 1.0
    signs[3] = -signs[3].abs()
    signs = signs / signs.abs().amax(1, keepdim=True).clamp_min(1.0)
    if CRITERIA[name].views > 1:
        signs = torch.stack([signs, signs.flip(0)])
    targets = torch.tensor([0, 1, 0, 1])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        logits = (scale * signs).to(dtype).requires_grad_()
        once, again = (copy.deepcopy(built(name, num_classes, "none")) for _ in range(2))
        losses = call(once, logits, targets)
        (grads,) = torch.autograd.grad(losses.sum(), logits)
        assert losses.dtype == grads.dtype == dtype
        assert losses.isfinite().all()
        assert grads.isfinite().all()
        wide = call(again, logits.detach().double(), targets)
        rounding = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 1e-4)
        torch.testing.assert_close(losses.double(), wide, rtol=rounding, atol=rounding)


# -------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("boot_hard", {"beta": 1.0}),
        ("eps_softmax", {"m": 0.0}),
        ("eps_softmax_mae", {"m": 0.0, "alpha": 1.0, "beta": 0.0}),
        ("ce_lc", {"delta": 1e30}),
        ("ce_lc_authors", {"delta": 1e30}),
        ("ce_lc_eps", {"delta": 1e-30}),
        ("bi_tempered", {"t1": 1.0, "t2": 1.0}),
        ("bi_tempered", {"t1": 1.0 - 1e-10, "t2": 1.0 + 1e-10}),
        ("forward", {"transition": torch.eye(5, dtype=torch.float64)}),
        ("backward", {"transition": torch.eye(5, dtype=torch.float64)}),
        ("elr", {"num_samples": SAMPLES, "lam": 1e-300}),
    ],
)
def test_at_special_values_it_is_cross_entropy(name: str, params: dict[str, Any]) -> None:
    logits, targets = random_logits(name, 5).requires_grad_(), torch.tensor([4, 0, 0, 2])
    criterion = make_loss(name, 5, "none", **params)
    assert isinstance(criterion, RowLoss)
    losses, expected = (
        call(criterion, logits, targets),
        F.cross_entropy(logits, targets, reduction="none"),
    )
    torch.testing.assert_close(losses, expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(
        torch.autograd.grad(losses.sum(), logits)[0],
        torch.autograd.grad(expected.sum(), logits)[0],
        rtol=1e-6,
        atol=1e-8,
    )


def test_gjs_of_equal_views_is_js() -> None:
    """JS by its closed form in p_y alone."""
    logits, targets = random_logits("forward", 5), torch.tensor([4, 0, 0, 2])
    log_u = torch.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0]
    for pi in (0.1, 0.5, 0.9):
        rest, u = 1 - pi, log_u.exp()
        s = (pi + rest * u).log()
        js = -pi * s + rest * (u * (log_u - s) - (1 - u) * math.log(rest))
        js = js / -(rest * math.log(rest))
        criterion = make_loss("gjs", 5, "none", pi=pi)
        torch.testing.assert_close(criterion(logits.expand(2, 4, 5), targets), js)
        torch.testing.assert_close(criterion(logits.expand(1, 4, 5), targets), js)
        assert criterion(random_logits("gjs", 5), targets).shape == (4,)


def test_ldr_kl_lies_between_the_largest_and_the_mean_of_the_gaps() -> None:
    logits, targets = random_logits("forward", 5), torch.tensor([4, 0, 0, 2])
    s = F.softplus(logits) / F.softplus(logits).mean(1, keepdim=True)
    q = F.one_hot(targets, 5)
    gaps = 0.1 * (1 - q) + s - (s * q).sum(1, keepdim=True)
    sharp = make_loss("ldr_kl", 5, "none", lam=1e-6)(logits, targets)
    flat = make_loss("ldr_kl", 5, "none", lam=1e6)(logits, targets)
    torch.testing.assert_close(sharp, gaps.amax(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(flat, gaps.mean(1), rtol=1e-5, atol=1e-5)


def test_ldr_kl_does_not_mind_the_scale_of_low_logits() -> None:
    # in eighths, which float32 still has at 3000
    logits = (8 * random_logits("forward", 5)).round().float() / 8
    targets = torch.tensor([4, 0, 0, 2])
    criterion = make_loss("ldr_kl", 5, "none", lam=1.0)
    torch.testing.assert_close(criterion(logits - 200, targets), criterion(logits - 3000, targets))


def test_the_three_rules_of_logit_clipping_differ_where_they_should() -> None:
    logits, y = torch.tensor([[0.5, -0.5], [2.0, -2.0]]), torch.tensor([0, 0])

    def norms(name: str, delta: float) -> list[float]:
        # of two classes z, -z the loss is log(1 + exp(-2 z)), and the norm is sqrt(2) |z|
        losses = make_loss(name, 2, "none", delta=delta)(logits, y)
        return (-losses.expm1().log() / 2 * math.sqrt(2)).tolist()

    before = [math.sqrt(0.5), math.sqrt(8.0)]
    assert norms("ce_lc", 1.5) == pytest.approx([before[0], 1.5], rel=1e-5)
    assert norms("ce_lc_authors", 1.5) == pytest.approx([before[0], 1 / 1.5], rel=1e-5)
    assert norms("ce_lc_eps", 1.5) == pytest.approx([1.5, 1.5], rel=1e-5)


def test_below_its_floor_a_row_that_is_predicted_otherwise_has_no_gradient_of_ce_eps() -> None:
    logits = torch.tensor([[9.0, 0.0], [3.0, 0.0]], requires_grad=True)  # p_y = 1.2e-4, 0.047
    y = torch.tensor([1, 1])
    clamped = torch.autograd.grad(make_loss("eps_softmax", 2, "sum")(logits, y), logits)[0]
    assert clamped.any(1).tolist() == [False, True]
    free = make_loss("eps_softmax", 2, "sum", p_floor=0.0)(logits, y)
    plain = F.cross_entropy(logits, y, reduction="sum")
    torch.testing.assert_close(
        torch.autograd.grad(free, logits)[0], torch.autograd.grad(plain, logits)[0]
    )


@pytest.mark.slow
@given(
    t2=st.floats(1.0, 5.0),
    t1=st.floats(0.0, 1.0),
    classes=st.sampled_from([2, 3, 10, 100]),
    scale=st.floats(0.0, 1e4),
    seed=st.integers(0, 2**32),
)
@example(t2=4.0, t1=0.5, classes=1000, scale=10.0, seed=0)
@settings(max_examples=60, deadline=None)
def test_tempered_probabilities_sum_to_1_in_any_row(
    t1: float, t2: float, classes: int, scale: float, seed: int
) -> None:
    """At t1 = 0 the loss is sum_k (P_k - q_k)^2 / 2 of probabilities, so over all labels it is
    (K sum P^2 - 2 sum P + K) / 2, and sum P shows."""
    generator = torch.Generator().manual_seed(seed)
    row = scale * torch.randn(classes, generator=generator, dtype=torch.float64)
    logits, labels = row.expand(classes, classes), torch.arange(classes)
    losses = make_loss("bi_tempered", classes, "none", t1=0.0, t2=t2)(logits, labels)
    assert (losses >= -1e-12).all()
    # L_j = (sum P^2 + 1) / 2 - P_j, hence sum_j L_j, and from it and one L_j each P_j
    squares = 2 * (losses.sum() + 1) / classes - 1
    p = (squares + 1) / 2 - losses
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)
    assert float((p**2).sum()) == pytest.approx(float(squares), abs=1e-9)
    single = make_loss("bi_tempered", classes, "none", t1=t1, t2=t2)
    torch.testing.assert_close(
        single(logits.float(), labels).double(),
        single(logits.float().double(), labels),
        rtol=1e-4,
        atol=1e-5,
    )


def test_sr_grows_its_sparse_term_by_the_epoch() -> None:
    logits, targets = random_logits("sr", 5), torch.tensor([4, 0, 0, 2])
    criterion = make_loss("sr", 5, rho=2.0, every=5.0)
    values = [float(criterion(logits, targets, epoch=epoch)) for epoch in (0.0, 4.9, 5.0, 10.0)]
    assert values[0] == values[1]
    added = values[2] - values[0]
    assert added > 0
    assert values[3] - values[2] == pytest.approx(2 * added)
    assert float(criterion(logits, targets, epoch=torch.tensor(5.0))) == pytest.approx(values[2])


def test_the_expected_backward_loss_is_cross_entropy_at_the_true_label() -> None:
    """Theorem 1 of Patrini et al.: unbiased over the labels that T draws."""
    logits, t = random_logits("forward", 5), transition(5)
    criterion = make_loss("backward", 5, "none", transition=t)
    losses = torch.stack([criterion(logits, torch.full((4,), j)) for j in range(5)], 1)
    true = torch.tensor([0, 1, 2, 4])
    torch.testing.assert_close(
        (t[true] * losses).sum(1), F.cross_entropy(logits, true, reduction="none")
    )


def test_the_transition_is_found_from_predictions_where_some_sample_is_sure() -> None:
    t = transition(4)
    clean = torch.softmax(random_logits("forward", 4, rows=200), 1)
    clean = torch.cat([clean, torch.eye(4, dtype=torch.float64)])  # the last four are sure
    torch.testing.assert_close(estimate_transition(clean @ t, 1.0), t)
    below = estimate_transition(clean @ t)
    assert below.shape == (4, 4)
    assert (below.diagonal() <= t.diagonal()).all()
    torch.testing.assert_close(below.sum(1), torch.ones(4, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "rate"), [("sym", 0.4), ("asym", 0.4)])
def test_a_run_estimates_the_noise_after_its_warm_start(noise: str, rate: float) -> None:
    config = make_config(
        "quick", loss="forward_est", noise=noise, rate=rate, warm_start=3.0, epochs=5
    )
    criterion = make_loss("forward_est", 10)
    result = train(config, criterion=criterion, listener=Listener(on_message=ignore))
    assert result.transition is not None
    truth = torch.tensor(result.transition)
    assert float((criterion.transition - truth).abs().sum(1).mean()) < 0.5
    # Nearer by far than what it began with, and than what is known without looking.
    for blind in (torch.eye(10), torch.full((10, 10), 0.1)):
        assert (criterion.transition - truth).abs().sum() < 0.7 * (blind - truth).abs().sum()


@pytest.mark.slow
def test_what_it_estimated_outlives_a_stop(tmp_path: Path) -> None:
    config = make_config("quick", loss="forward_est", warm_start=1.0, epochs=3)
    whole = train(config, tmp_path / "whole", listener=Listener(on_message=ignore))
    rows: list[dict[str, float]] = []
    stop = stops_after(rows, epochs=1, steps=4)
    listener = Listener(on_epoch=rows.append, on_message=ignore, should_stop=stop)
    with pytest.raises(Interrupted):  # in the midst of the epoch after the estimate
        train(config, tmp_path / "parts", listener=listener)
    again = train(config, tmp_path / "parts", listener=Listener(on_message=ignore))
    assert again == whole
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def stops_after(rows: list[dict[str, float]], epochs: int, steps: int) -> Callable[[], bool]:
    """True some steps after so many epochs."""
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += len(rows) >= epochs
        return asked > steps

    return should_stop


# ------------------------------------------------------------------------------------ what it keeps


@pytest.mark.parametrize("name", STATEFUL)
def test_what_it_remembers_is_saved_and_goes_on_to_the_byte(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    batches = [
        (
            torch.randn(4, 5, generator=generator),
            torch.randint(5, (4,), generator=generator),
            torch.randperm(SAMPLES, generator=generator)[:4],
        )
        for _ in range(6)
    ]

    def losses(criterion: RowLoss, of: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        return torch.stack([criterion(z, y, samples=samples) for z, y, samples in of])

    whole, first, second = (build(name, 5) for _ in range(3))
    expected = losses(whole, batches)
    file = io.BytesIO()
    assert torch.equal(losses(first, batches[:3]), expected[:3])
    torch.save(first.state_dict(), file)
    file.seek(0)
    assert len(first.state_dict()) == 1
    second.load_state_dict(torch.load(file))
    assert torch.equal(losses(second, batches[3:]), expected[3:])
    (state,), (restored,) = whole.state_dict().values(), second.state_dict().values()
    assert torch.equal(state, restored)


@pytest.mark.parametrize("name", STATEFUL)
def test_it_remembers_nothing_of_an_evaluation(name: str) -> None:
    criterion, y = build(name, 5), torch.tensor([0, 1, 2, 3])
    z = random_logits(name, 5).float()
    call(criterion, z, y)
    (state,) = criterion.buffers()
    before = state.clone()
    with torch.no_grad():
        call(criterion, 2 * z, y)
    criterion.eval()
    call(criterion, 2 * z, y)
    assert torch.equal(state, before)
    criterion.train()
    call(criterion, 2 * z, y)
    assert not torch.equal(state, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_compiles_to_one_graph(name: str) -> None:
    logits, targets = random_logits(name, 5).float(), torch.tensor([4, 0, 0, 2])
    eager, other = build(name, 5), build(name, 5)
    torch.compiler.reset()  # each class counts as a recompilation of the one forward
    compiled = torch.compile(other, backend="eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(call(compiled, logits, targets), call(eager, logits, targets))
    for kept, expected in zip(other.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(kept, expected)


# ----------------------------------------------------------------------------- options and messages


@pytest.mark.parametrize("name", NAMES)
def test_reductions_weights_and_ignored_rows(name: str) -> None:
    logits, targets = random_logits(name, 5).clone(), torch.tensor([4, 0, 2, 0])
    weight = torch.tensor([0.5, 1.0, 2.0, 0.25, 4.0], dtype=torch.float64)
    rows = call(build(name, 5, "none"), logits, targets)
    torch.testing.assert_close(call(build(name, 5), logits, targets), rows.mean())
    torch.testing.assert_close(call(build(name, 5, "sum"), logits, targets), rows.sum())
    scale = weight[targets]
    torch.testing.assert_close(
        call(build(name, 5, weight=weight), logits, targets), (rows * scale).sum() / scale.sum()
    )
    rest = [0, 1, 3]
    if CRITERIA[name].of_batch:  # what is ignored is no part of the batch
        rows[rest] = call(build(name, 5, "none"), logits[rest], targets[rest])
    logits[..., 2, :] = math.nan
    logits.requires_grad_()
    kept = call(build(name, 5, "none", ignore_index=2), logits, targets)
    torch.testing.assert_close(kept, rows * torch.tensor([1, 1, 0, 1]))
    mean = call(build(name, 5, ignore_index=2), logits, targets)
    torch.testing.assert_close(mean, rows[rest].mean())
    (grads,) = torch.autograd.grad(mean, logits)
    assert grads.isfinite().all()
    assert not grads[..., 2, :].any()


@pytest.mark.parametrize("name", NAMES)
def test_pixels_are_rows(name: str) -> None:
    flat, targets = random_logits(name, 5), torch.tensor([[4, 0], [2, 0]])
    rows = call(build(name, 5, "none"), flat, targets.reshape(-1))
    pixels = flat.unflatten(-2, (2, 2)).movedim(-1, -2)  # [..., 2, 5, 2]
    criterion = build(name, 5, "none")
    about = {"samples": ABOUT["samples"].reshape(2, 2), "epoch": EPOCH}  # type: ignore[union-attr]
    got = criterion(pixels, targets, **{want: about[want] for want in criterion.wants})
    torch.testing.assert_close(got, rows.reshape(2, 2))


def test_under_autocast_the_loss_is_float32() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        loss = make_loss("boot_hard", 3)(torch.zeros(2, 3).bfloat16(), torch.tensor([0, 1]))
    assert loss.dtype == torch.float32


def test_a_transition_may_have_zeros() -> None:
    t = torch.tensor([[0.8, 0.2, 0.0], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    logits = torch.randn(3, 3, requires_grad=True)
    losses = make_loss("forward", 3, "none", transition=t)(logits, torch.tensor([0, 1, 2]))
    p = torch.softmax(logits, 1)
    torch.testing.assert_close(losses, -(p @ t).diagonal().log())
    assert torch.autograd.grad(losses.sum(), logits)[0].isfinite().all()


def test_words_know_the_losses_without_their_classes() -> None:
    assert loss_name("ELR") == "elr"
    assert loss_name("GJS") == loss_name(loss_label("gjs")) == "gjs"
    assert not any(is_tolerant(name) for name in NAMES)
    assert loss_params("bi_tempered", {"t1": 0.5, "t2": None}) == {"t1": 0.5, "t2": 1.5}
    assert needs_of("ELR") == ("num_samples",)
    assert needs_of("nce_rce") == ()
    assert make_loss(" ELR ", 3, num_samples=2).num_classes == 3
    config = make_config("quick", loss="elr", ema=0.9)
    assert config.params == {"ema": 0.9, "lam": 3.0}
    with pytest.raises(BadInput, match=r"t2 must be a number in \[1, 5\], got 0\.5"):
        make_config("quick", loss="bi_tempered", t2=0.5)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("elr", {}, "'elr' needs num_samples"),
        ("forward", {}, "'forward' needs transition"),
        ("ce", {"num_samples": 3}, "'ce' takes no num_samples"),
        ("elr", {"num_samples": 3, "transition": torch.eye(3)}, "'elr' takes no transition"),
        ("elr", {"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ("elr", {"num_samples": 3, "t1": 0.5}, "'elr' takes no parameter 't1'; it takes: lam, ema"),
        ("boot_hard", {"label_smoothing": 0.1}, "'boot_hard' has no label_smoothing"),
        ("boot_hard", {"inplace": True}, "'boot_hard' has no inplace"),
        ("gjs", {"reduction": "max"}, "reduction must be one of"),
        ("elr + mae", {}, "ELR is no sum of terms and no part of one"),
        ("2*gjs", {}, "GJS is no sum of terms and no part of one, got '2*gjs'"),
        ("norm(elr)", {}, "norm() takes one of"),
        ("forward", {"transition": torch.ones(3, 3)}, "with rows of probabilities"),
        ("forward", {"transition": torch.eye(4)}, "transition must be [3, 3]"),
        ("backward", {"transition": torch.full((3, 3), 1 / 3)}, "must have an inverse"),
    ],
)
def test_bad_specs_say_what_is_accepted(spec: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_loss(spec, 3, **options)


def test_bad_tensors_say_what_is_accepted() -> None:
    criterion = make_loss("boot_hard", 3)
    with pytest.raises(ValueError, match=r"logits must be \[N, 3\]"):
        criterion(torch.zeros(2, 4), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"targets of 'boot_hard' must be class indices \[2\]"):
        criterion(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"logits must be \[V, N, 3\]"):
        make_loss("gjs", 3)(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="'elr' wants samples beside logits and targets, got noth"):
        make_loss("elr", 3, num_samples=2)(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(
        ValueError, match="'boot_hard' wants nothing beside logits and targets, got"
    ):
        criterion(torch.zeros(2, 3), torch.tensor([0, 1]), epoch=1.0)
    with pytest.raises(ValueError, match="num_classes must be at least 2"):
        make_loss("boot_hard", 1)
    with pytest.raises(ValueError, match="'elr' is no sum of terms: make_loss makes a module of"):
        loss_terms("elr", 3)
    with pytest.raises(ValueError, match="did you mean 'bi_tempered'"):
        parse_loss("bitempered")
    with pytest.raises(ValueError, match=r"probabilities must be \[N, K\]"):
        estimate_transition(torch.zeros(3))
    with pytest.raises(ValueError, match=r"quantile must be in \[0, 1\]"):
        estimate_transition(torch.zeros(3, 2), 97)
