"""Classes that a logit of -inf masks out: a normalised loss is the one over the classes that are
left, on every backend; on the compiled one as on the reference, in `test_kernels.py`.

`pytest` runs this file beside triton's compiler; `test_kernels.py` runs it once more where the
Triton kernels are interpreted.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from apl.kernels import dispatch
from apl.kernels.bases import BASES, Form, Term
from apl.kernels.dispatch import Backend
from apl.kernels.options import LossOptions
from apl.losses.catalog import SUMS, loss_terms
from apl.losses.modules import make_loss

INTERPRETED = dispatch.interpreted()
BACKENDS: tuple[Backend, ...] = ("triton",) if INTERPRETED else ("auto", "eager", "reference")
LONG = 2 * 8192 + 5
# Of some classes with a mask, the others.  Numbers that depend on how many classes there are stay
# those of the loss: 1/(K - 1) in nmae and nrce, 1/K in amse, the share of each class in ls.
NORMALISED = [name for name in SUMS if any(t.form == "norm" for t in loss_terms(name, 9))]
SAME = [name for name in NORMALISED if "sq" not in {t.base for t in loss_terms(name, 9)}]


def term(base: str, form: Form, weight: float = 1.0) -> Term:
    return Term(base, weight, form, tuple(BASES[base].params.values()))


def value_and_gradient(
    logits: Tensor, targets: Tensor, terms: tuple[Term, ...], backend: Backend, **options: float
) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    losses = dispatch.loss(
        leaf, targets, terms, LossOptions(reduction="none", **options), backend=backend
    )  # type: ignore[arg-type]
    losses.sum().backward()
    assert leaf.grad is not None
    return losses.detach(), leaf.grad


def some(rows: int, classes: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits with masked classes, another number of them in each row, targets that are none of
    these, and where the masks are."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, generator=generator)
    masked = torch.zeros(rows, classes, dtype=torch.bool)
    for row in range(rows):
        masked[row, torch.randperm(classes, generator=generator)[: row * (classes - 2) // rows]] = 1
    targets = torch.multinomial((~masked).float(), 1, generator=generator)[:, 0]
    return logits.masked_fill(masked, -math.inf), targets, masked


def over_the_others(
    logits: Tensor, targets: Tensor, masked: Tensor, terms: tuple[Term, ...]
) -> tuple[Tensor, Tensor]:
    """Row by row what the loss is without the masked classes, in float64."""
    losses, grads = [], torch.zeros_like(logits, dtype=torch.float64)
    for row, (z, y, gone) in enumerate(zip(logits.double(), targets, masked, strict=True)):
        there = (~gone).nonzero()[:, 0]
        at = (there == y).nonzero()[0]
        value, grad = value_and_gradient(z[None, there], at, terms, "reference")
        losses.append(value)
        grads[row, there] = grad[0]
    return torch.cat(losses), grads


def close(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        size = max([1.0, *theirs[theirs.isfinite()].abs().tolist()])
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=2e-6 * size)


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_normalised_loss_is_the_one_over_the_classes_that_are_left(
    name: str, backend: Backend
) -> None:
    logits, targets, masked = some(6, 9)
    terms = loss_terms(name, 9)
    found = value_and_gradient(logits, targets, terms, backend)
    close(found, over_the_others(logits, targets, masked, terms))
    assert not found[1][masked].any()
    assert found[1][~masked].any()


ALL = [base for base in BASES if base not in ("one", "entropy")]


@pytest.mark.slow
@pytest.mark.parametrize("classes", [5, 40, LONG])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_base_normalised(classes: int, backend: Backend) -> None:
    logits, targets, masked = some(3, classes)
    for base in ALL if classes < LONG else ("ce", "fl", "gce", "rce"):
        terms = (term(base, "norm"), term("ce", "at", 0.1))
        found = value_and_gradient(logits, targets, terms, backend)
        close(found, over_the_others(logits, targets, masked, terms))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_row_with_a_mask_among_others_and_a_nan_elsewhere(backend: Backend) -> None:
    logits, targets, masked = some(4, 7)
    terms = loss_terms("nce_rce", 7)
    expected = over_the_others(logits, targets, masked, terms)
    logits[0, 3] = math.nan
    value, grad = value_and_gradient(logits, targets, terms, backend)
    assert value.isnan().tolist() == [True, False, False, False]
    close((value[1:], grad[1:]), (expected[0][1:], expected[1][1:]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_soft_targets_beside_a_masked_class(backend: Backend, smoothing: float) -> None:
    logits, _, masked = some(6, 9)
    q = torch.rand(6, 9, generator=torch.Generator().manual_seed(1)).masked_fill(masked, 0.0)
    q /= q.sum(1, keepdim=True)
    for name in ("nce_rce", "nfl", "ngce", "anl_fl", "ce"):
        terms = loss_terms(name, 9)
        options = {"label_smoothing": smoothing}
        value, grad = value_and_gradient(logits, q, terms, backend, **options)
        expected = value_and_gradient(logits.double(), q.double(), terms, "reference", **options)
        close((value, grad), expected)
        # Smoothing asks for every class: where one cannot be, that costs what it costs in ce.
        unbounded = any(t.base in ("ce", "fl") for t in terms)
        assert value[1:].isinf().all() == (unbounded and smoothing > 0)
        assert grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [5, LONG])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_label_that_is_masked_out_itself(backend: Backend, classes: int) -> None:
    logits, targets, _ = some(4, classes)
    logits[torch.arange(4), targets] = -math.inf
    few = ("nce_rce", "3*nfl", "ngce")
    more = ("ce", "fl", "nce", "nfl", "anl_fl", "jal_fl", "mae", "nagce")
    for name in (*few, *more) if classes == 5 else few:
        terms = loss_terms(name, classes)
        found = value_and_gradient(logits, targets, terms, backend)
        # As of cross entropy: infinitely wrong, in a direction that is finite.
        unbounded = any(t.base in ("ce", "fl") for t in terms)
        assert found[0].isinf().all() == unbounded, name
        assert not found[0].isnan().any(), name
        assert found[1].isfinite().all(), name
        close(found, value_and_gradient(logits.double(), targets, terms, "reference"))
    if classes == 5:
        leaf = logits.clone().requires_grad_()
        F.cross_entropy(leaf, targets, reduction="sum").backward()
        for name in ("ce", "nce"):
            grad = value_and_gradient(logits, targets, loss_terms(name, classes), backend)[1]
            torch.testing.assert_close(grad, leaf.grad)


@pytest.mark.parametrize("classes", [5, LONG])
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_class_left_and_none(backend: Backend, classes: int) -> None:
    logits = torch.full((3, classes), -math.inf)
    logits[0, 2] = logits[1, 2] = 1.5
    targets = torch.tensor([2, 1, 0])  # the one that is left, another, and nothing is left
    names = ("nce", "nfl", "ngce", "nmae", "nce_rce", "anl_ce")
    for name in names if classes == 5 else ("nce_rce",):
        terms = loss_terms(name, classes)
        value, grad = value_and_gradient(logits, targets, terms, backend)
        assert value[:2].isnan().tolist() == [False, False], name
        assert value[2].isnan(), name
        if name != "anl_ce":  # 5 (1 - 1) = 0 too, but for rounding
            assert value[0] == 0, name
        assert value[1].isinf() == any(t.base in ("ce", "fl") for t in terms), name
        assert grad[:2].isfinite().all(), name
        assert grad[0].abs().max() < 1e-6, name
        expected = value_and_gradient(logits[:2].double(), targets[:2], terms, "reference")
        close((value[:2], grad[:2]), expected)
    unsimplified = (term("gce", "norm"), term("mae", "norm"), term("js", "norm"))
    value, grad = value_and_gradient(logits[:2], targets[:2], unsimplified, backend)
    assert value.tolist() == [0.0, 0.0]
    assert not grad.any()


def test_the_example_of_the_second_reading() -> None:
    logits = torch.tensor([[2.0, -math.inf, 0.5, 1.0]])
    without = make_loss("nce_rce", 3)(logits[:, [0, 2, 3]], torch.tensor([0]))
    backend: Backend = "triton" if INTERPRETED else "eager"
    found = make_loss("nce_rce", 4, backend=backend)(logits, torch.tensor([0]))
    torch.testing.assert_close(found, without)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_lowest_finite_logit_is_no_mask(backend: Backend) -> None:
    lowest = torch.finfo(torch.float32).min
    terms = loss_terms("nce_rce", 5)
    logits = torch.tensor([[1.0, lowest, 0.0, 2.0, -1.0]])
    value, grad = value_and_gradient(logits, torch.tensor([0]), terms, backend)
    close((value, grad), value_and_gradient(logits.double(), torch.tensor([0]), terms, "reference"))
    for classes in (5, LONG):  # and a row of these alone is one of equal logits
        logits = torch.full((2, classes), lowest)
        logits[1] = 0.0
        for name in ("nce_rce", "ce", "nfl"):
            terms = loss_terms(name, classes)
            value, grad = value_and_gradient(logits, torch.tensor([1, 1]), terms, backend)
            torch.testing.assert_close(value[0], value[1])
            torch.testing.assert_close(grad[0], grad[1])
