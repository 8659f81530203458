"""The last layer and the loss in chunks against F.linear and the loss of all logits at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from apl import linear_loss, make_loss
from apl.kernels.linear import chunk_rows
from apl.kernels.options import REDUCTIONS
from apl.losses.catalog import SUMS

Layer = tuple[Tensor, Tensor, Tensor | None]


class Case(NamedTuple):
    """The inputs of a last layer, targets, and a factor per class."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    class_weight: Tensor | None

    @property
    def layer(self) -> list[Tensor]:
        """What a gradient is asked of."""
        parts = (self.hidden, self.weight, self.bias)
        return [part for part in parts if part is not None and part.requires_grad]

    def to(self, dtype: torch.dtype) -> Case:
        """The same in another type, with gradients of its own."""
        parts = [
            None if part is None else part.detach().to(dtype).requires_grad_(part.requires_grad)
            for part in (self.hidden, self.weight, self.bias)
        ]
        return Case(*parts, self.targets, self.class_weight)  # type: ignore[arg-type]


def make_case(
    n: int,
    k: int,
    width: int,
    *,
    bias: bool = True,
    weighted: bool = False,
    ignored: bool = False,
    scale: float = 1.0,
    seed: int = 0,
) -> Case:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        numbers = torch.randn(*shape, generator=random, dtype=torch.float64) * scale
        return numbers.requires_grad_()

    targets = torch.randint(k, (n,), generator=random)
    if ignored:
        targets[::3] = -100
    return Case(
        normal(n, width),
        normal(k, width),
        normal(k) if bias else None,
        targets,
        torch.rand(k, generator=random) + 0.5 if weighted else None,
    )


def plain(case: Case, spec: str, reduction: Any = "mean", **options: Any) -> Tensor:
    criterion = make_loss(
        spec, len(case.weight), reduction, weight=case.class_weight, backend="reference", **options
    )
    loss: Tensor = criterion(F.linear(case.hidden, case.weight, case.bias), case.targets)
    return loss


def chunked(case: Case, spec: str, reduction: Any = "mean", **options: Any) -> Tensor:
    return linear_loss(
        case.hidden,
        case.weight,
        case.targets,
        spec,
        case.bias,
        reduction,
        class_weight=case.class_weight,
        **options,
    )


def incoming(value: Tensor) -> Tensor:
    """A gradient to send in: another number for each loss."""
    return torch.linspace(0.5, 2.0, value.numel(), dtype=value.dtype).reshape(value.shape)


def grads(value: Tensor, case: Case, **options: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, case.layer, incoming(value), **options)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 20),
    k=st.integers(2, 9),
    width=st.integers(1, 6),
    chunk=st.integers(1, 25),
    spec=st.sampled_from([*SUMS, "2*nce + 0.5*mae"]),
    reduction=st.sampled_from(REDUCTIONS),
    bias=st.booleans(),
    weighted=st.booleans(),
    ignored=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1]),
    frozen=st.sets(st.sampled_from(["hidden", "weight", "bias"]), max_size=2),
    seed=st.integers(0, 1000),
)
def test_value_and_gradients_are_those_of_the_plain_way(
    n: int,
    k: int,
    width: int,
    chunk: int,
    spec: str,
    reduction: str,
    bias: bool,
    weighted: bool,
    ignored: bool,
    smoothing: float,
    frozen: set[str],
    seed: int,
) -> None:
    case = make_case(
        n, k, width, bias=bias, weighted=weighted, ignored=ignored and n > 1, seed=seed
    )
    for name in frozen:
        part = getattr(case, name)
        if part is not None and len(case.layer) > 1:
            part.requires_grad_(False)
    value = chunked(case, spec, reduction, chunk=chunk, label_smoothing=smoothing)
    expected = plain(case, spec, reduction, label_smoothing=smoothing)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grads(value, case), grads(expected, case))
    with torch.no_grad():
        unasked = chunked(case, spec, reduction, chunk=chunk, label_smoothing=smoothing)
    torch.testing.assert_close(unasked, expected)
    assert not unasked.requires_grad


@pytest.mark.slow
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_type_loses_more_than_the_plain_way(dtype: torch.dtype, reduction: str) -> None:
    # In so many chunks that a sum over them in a half type would.
    case = make_case(600, 12, 8, weighted=True, ignored=True).to(dtype)
    exact = case.to(torch.float64)
    truth = plain(exact, "nce_rce", reduction)
    upstream = incoming(truth)
    wanted = [truth, *torch.autograd.grad(truth, exact.layer, upstream)]
    errors = []
    for way, options in ((plain, {}), (chunked, {"chunk": 3})):
        value = way(case, "nce_rce", reduction, **options)
        assert value.dtype == dtype
        found = [value, *torch.autograd.grad(value, case.layer, upstream.to(dtype))]
        assert all(part.dtype == dtype for part in found)
        pairs = zip(found, wanted, strict=True)
        errors.append([((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs])
    for lost, lost_by_plain in zip(errors[1], errors[0], strict=True):
        assert lost <= 2 * lost_by_plain + torch.finfo(dtype).eps


def test_small_gradients_survive_float16_with_a_loss_scale() -> None:
    # Sure and right: the gradients of the other classes are p = 4e-8, which float16 rounds to 6e-8.
    case = make_case(64, 4, 3, scale=0.0).to(torch.float32)
    assert case.bias is not None
    with torch.no_grad():
        case.bias[0] = 17.0
    case.targets.zero_()
    with torch.autocast("cpu", torch.float16):
        value = chunked(case, "ce", chunk=16)
    (grad,) = torch.autograd.grad(65536.0 * value, case.bias)
    exact = case.to(torch.float64)
    (wanted,) = torch.autograd.grad(65536.0 * plain(exact, "ce"), exact.bias)
    torch.testing.assert_close(grad[1:].double(), wanted[1:], rtol=5e-3, atol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_leading_dimensions_and_targets_of_any_integer_type(reduction: str) -> None:
    case = make_case(24, 5, 3, ignored=True)
    deep = case._replace(
        hidden=case.hidden.detach().reshape(4, 3, 2, 3).transpose(0, 1).requires_grad_(),
        targets=case.targets.reshape(4, 3, 2).transpose(0, 1).to(torch.int16),
    )
    value = chunked(deep, "nfl_mae", reduction, chunk=7)
    flat = case._replace(hidden=deep.hidden.reshape(24, 3), targets=deep.targets.reshape(24).long())
    expected = plain(flat, "nfl_mae", reduction)
    assert value.shape == (deep.targets.shape if reduction == "none" else ())
    torch.testing.assert_close(value, expected.reshape(value.shape))
    upstream = incoming(value)
    found = torch.autograd.grad(value, deep.layer, upstream)
    wanted = torch.autograd.grad(expected, deep.layer, upstream.reshape(expected.shape))
    torch.testing.assert_close(found, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_derivatives_of_both_orders(reduction: str, weighted: bool) -> None:
    case = make_case(7, 4, 3, weighted=weighted, ignored=True)

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        given = case._replace(hidden=hidden, weight=weight, bias=bias)
        return chunked(given, "nce_rce", reduction, chunk=3)

    assert torch.autograd.gradcheck(loss, case.layer)
    assert torch.autograd.gradgradcheck(loss, case.layer)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_graph_that_is_kept_gives_the_same_again(reduction: str) -> None:
    case = make_case(11, 4, 3, ignored=True)
    value = chunked(case, "nce_mae", reduction, chunk=4)
    first = grads(value, case, retain_graph=True)
    kept = [grad.clone() for grad in first]
    second = torch.autograd.grad(value, case.layer, 3 * incoming(value))
    torch.testing.assert_close([3 * grad for grad in kept], list(second))
    torch.testing.assert_close(list(first), kept, rtol=0, atol=0)  # nothing written into them


@pytest.mark.parametrize("n", [0, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_where_no_row_counts_the_mean_is_nan_and_the_gradient_zero(n: int, weighted: bool) -> None:
    case = make_case(n, 4, 3, weighted=weighted)
    case.targets.fill_(-100)
    for reduction, value in (("mean", torch.nan), ("sum", 0.0)):
        found = chunked(case, "nce_rce", reduction, chunk=2)
        assert found.isnan() if reduction == "mean" else found == value
        assert all(not grad.any() for grad in grads(found, case))
    found = chunked(case, "nce_rce", "none", chunk=2)
    torch.testing.assert_close(found, torch.zeros(n, dtype=torch.float64))
    assert all(not grad.any() for grad in grads(found, case))


def test_a_nan_in_an_ignored_row_stays_there() -> None:
    case = make_case(6, 4, 3, ignored=True)
    with torch.no_grad():
        case.hidden[case.targets == -100] = torch.inf
    value = chunked(case, "nce_rce", chunk=2)
    assert value.isfinite()
    of_hidden, _, of_bias = grads(value, case)
    assert of_hidden.isfinite().all()
    assert of_bias.isfinite().all()


class Largest(TorchDispatchMode):
    """Sees the elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def largest(way: Any, case: Case, *args: Any, **options: Any) -> int:
    with Largest() as seen:
        value = way(case, *args, **options)
        grads(value, case)
    return seen.elements


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_logits_are_never_whole(reduction: str, dtype: torch.dtype) -> None:
    n, k, width, chunk = 96, 50, 8, 16
    case = make_case(n, k, width, weighted=True).to(dtype)
    assert largest(plain, case, "nce_rce", reduction) == n * k
    for options in ({}, {"label_smoothing": 0.1}, {"ignore_index": 3}):
        found = largest(chunked, case, "nce_rce", reduction, chunk=chunk, **options)
        # A chunk of logits; nothing else here is as large.
        assert found == chunk * k > max(n * width, k * width)


def test_no_gradient_of_what_is_frozen() -> None:
    case = make_case(8, 90, 20)
    case.weight.requires_grad_(False)
    assert case.bias is not None
    case.bias.requires_grad_(False)

    def made(case: Case) -> set[tuple[int, ...]]:
        shapes: set[tuple[int, ...]] = set()

        class Shapes(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                result = func(*args, **(kwargs or {}))
                if isinstance(result, Tensor):
                    shapes.add(tuple(result.shape))
                return result

        with Shapes():
            chunked(case, "nce_rce", chunk=4).backward()
        return shapes

    assert (90, 20) not in made(case)
    assert case.hidden.grad is not None
    assert case.weight.grad is None
    assert case.bias.grad is None
    case.weight.requires_grad_()
    assert (90, 20) in made(case)


def test_the_default_chunk_is_bounded_by_what_is_there_anyway() -> None:
    for k, width in ((32000, 1024), (128256, 4096), (151936, 8192)):
        rows = chunk_rows(torch.empty(k, width, device="meta"))
        assert rows * k <= k * width // 4
    assert chunk_rows(torch.empty(10, 64, device="meta")) > 100_000  # few classes: all at once
    assert chunk_rows(torch.empty(10_000_000, 2, device="meta")) == 1


@pytest.mark.parametrize(
    ("dtype", "unit"), [(torch.bfloat16, True), (torch.bfloat16, False), (torch.float16, False)]
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_autocast_is_that_of_the_plain_way(
    monkeypatch: pytest.MonkeyPatch, reduction: str, dtype: torch.dtype, unit: bool
) -> None:
    # Whatever this processor has: one without a unit for bfloat16 computes in float32 instead.
    monkeypatch.setattr("apl.kernels.linear._bf16_unit", lambda: unit)
    case = make_case(64, 9, 8, weighted=True, ignored=True).to(torch.float32)
    with torch.autocast("cpu", dtype):
        value = chunked(case, "nce_rce", reduction, chunk=16)
        expected = plain(case, "nce_rce", reduction)
    exact = plain(case, "nce_rce", reduction)
    assert value.dtype == torch.float32
    rough = {"rtol": 0.0, "atol": 4 * torch.finfo(dtype).eps * exact.abs().max().item()}
    torch.testing.assert_close(value, expected, **rough)
    if reduction != "none":  # no chunk's sum was rounded to the half type
        torch.testing.assert_close(value, expected, rtol=2e-4, atol=0.0)
    in_float32 = dtype == torch.bfloat16 and not unit
    assert torch.allclose(value, exact, rtol=1e-6, atol=0.0) is in_float32
    for found, wanted in zip(grads(value, case), grads(expected, case), strict=True):
        assert found.dtype == torch.float32
        size = wanted.abs().max().item()
        torch.testing.assert_close(found, wanted, rtol=0, atol=4 * torch.finfo(dtype).eps * size)


def test_autocast_leaves_float64_alone() -> None:
    case = make_case(12, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        value, expected = (way(case, "nce_rce") for way in (chunked, plain))
    assert value.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(grads(value, case), grads(expected, case))


@pytest.mark.slow
def test_compiled_code_calls_it_between_two_graphs() -> None:
    case = make_case(20, 6, 4)

    def step(hidden: Tensor) -> Tensor:
        return 2 * chunked(case._replace(hidden=hidden.sin()), "nce_rce", chunk=8)

    with pytest.raises(Exception, match="linear_loss runs chunk by chunk"):
        torch.compile(step, backend="aot_eager", fullgraph=True)(case.hidden)
    explained = torch._dynamo.explain(step)(case.hidden)
    assert (explained.graph_count, explained.graph_break_count) == (2, 1)
    expected = step(case.hidden)
    value = torch.compile(step, backend="aot_eager")(case.hidden)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, case.layer), torch.autograd.grad(expected, case.layer)
    )


def test_torch_func_sees_through_it() -> None:
    case = make_case(9, 5, 4)

    def loss(weight: Tensor) -> Tensor:
        return chunked(case._replace(weight=weight), "nce_rce", chunk=2)

    (expected,) = torch.autograd.grad(plain(case, "nce_rce"), case.weight)
    torch.testing.assert_close(torch.func.grad(loss)(case.weight), expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden": torch.tensor(1.0)}, r"hidden must be \[N, H\], \[N, ..., H\] or \[H\]"),
        ({"hidden": torch.zeros(3, 4, dtype=torch.int64)}, "hidden must be .* got torch.int64"),
        ({"weight": torch.zeros(5, 3)}, r"weight must be \[K, 4\], got \[5, 3\]"),
        ({"weight": torch.zeros(5, 4).double()}, "weight is torch.float64, hidden torch.float32"),
        ({"weight": torch.zeros(5, 4, device="meta")}, "weight on meta, hidden on cpu"),
        ({"bias": torch.zeros(4)}, r"bias must be \[5\] .* got torch.float32 \[4\]"),
        ({"bias": torch.zeros(5).half()}, "bias is torch.float16, hidden torch.float32"),
        ({"targets": torch.zeros(3, 5)}, "soft targets must sum to 1 over the classes, got 0"),
        ({"targets": torch.zeros(3, 4)}, r"soft targets \[3, 5\] .*, got torch.float32 \[3, 4\]"),
        ({"targets": torch.zeros(3)}, r"targets must be class indices \[3\] .* torch.float32"),
        ({"targets": torch.zeros(4, dtype=torch.int64)}, r"\[3\] of an integer type .* \[4\]"),
        ({"targets": torch.zeros(3, dtype=torch.bool)}, "targets must be .* got torch.bool"),
        ({"class_weight": torch.ones(4)}, r"class_weight must be \[5\]"),
        ({"class_weight": torch.ones(5, requires_grad=True)}, "class_weight must not require"),
        ({"chunk": 0}, "chunk must be a number of rows, 1 or more, got 0"),
        ({"chunk": 2.5}, "chunk must be a number of rows, 1 or more, got 2.5"),
        ({"reduction": "max"}, "reduction must be one of mean, sum, none, got 'max'"),
        ({"backend": "cuda"}, "backend must be one of"),
        ({"label_smoothing": 2.0}, "label_smoothing must be"),
        ({"spec": "nce_rec"}, "unknown loss 'nce_rec': did you mean 'nce_rce'"),
        ({"q": 0.5}, "q"),
        ({"weight": torch.tensor(1.0)}, r"weight must be \[K, 4\], got \[\]"),
        ({"weight": torch.nn.Linear(4, 5)}, "weight must be a tensor, got Linear"),
        ({"hidden": np.zeros((3, 4))}, "hidden must be a tensor, got ndarray"),
        ({"targets": [0, 1, 2]}, "targets must be a tensor, got list"),
        ({"bias": "mean"}, "bias must be a tensor, got str"),
        ({"spec": torch.zeros(5)}, "a loss is given as text, .* got Tensor"),
    ],
)
def test_bad_input_is_one_clear_line(changed: dict[str, Any], message: str) -> None:
    good = {
        "hidden": torch.zeros(3, 4),
        "weight": torch.zeros(5, 4),
        "targets": torch.zeros(3, dtype=torch.int64),
        "spec": "nce_rce",
    }
    linear_loss(**good)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        linear_loss(**{**good, **changed})
    assert "\n" not in str(caught.value)
