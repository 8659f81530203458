"""The one door: `loss` picks a backend, and the backends all mean the same loss.

`auto` is Triton on CUDA, the closed form on the CPU (compiled from a size on), and the reference
wherever those do not apply: other devices, float64 on CUDA, inside `torch.func` transforms.
"""

from __future__ import annotations

import functools
import os
import shutil
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from . import closed_form
from .bases import BASES, Reduction, Term
from .reference import reference_loss

Backend = Literal["auto", "triton", "compiled", "eager", "reference"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


def loss(
    logits: Tensor,
    targets: Tensor,
    terms: Sequence[Term],
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    backend: Backend = "auto",
) -> Tensor:
    """The loss of logits [N, K] or [N, K, d1, ...] at class indices of shape [N] or [N, d1, ...].

    terms, weight, ignore_index and reduction as in `reference_loss`.  backend: 'triton' (one
    kernel for value and gradient), 'eager' (closed form in torch), 'compiled' (the same through
    Inductor), 'reference' (autograd), or 'auto'.  One that cannot run here gives way to the next
    best with one warning.
    Returns a scalar, or the shape of the targets for reduction 'none', in the dtype of the logits;
    under autocast in float32, as `F.cross_entropy` does.
    """
    _check(logits, targets, weight)
    terms = tuple(terms)
    chosen = _choose(backend, logits, terms, weight)
    call = _Call(terms, ignore_index, reduction, chosen, logits.dtype)
    device = logits.device.type
    if logits.dtype != torch.float32 and torch.is_autocast_enabled(device):
        call = call._replace(dtype=torch.float32)
    if call.backend == "triton":
        # [N, K, D]: no copy where d1, ... lie evenly in memory, as they do unless sliced.
        rows = logits.unsqueeze(2) if logits.ndim == 2 else logits.flatten(2)
        labels = targets.reshape(rows.shape[0], rows.shape[2])
    elif logits.ndim == 2:
        rows, labels = logits, targets
    else:
        rows = logits.movedim(1, -1).reshape(-1, logits.shape[1])
        labels = targets.reshape(-1)
    if labels.dtype != torch.int64:
        labels = labels.long()

    try:
        if call.backend == "reference":
            result = _reference(rows, labels, weight, call)
        elif rows.requires_grad and torch.is_grad_enabled():
            result = _OnePass.apply(rows, labels, weight, call)
        else:
            result = _run(rows, labels, weight, call, need_grad=False)[0]
    except Exception as error:
        if call.backend != "triton" or not _note_launch_problem(error, terms, logits):
            raise
        return loss(
            logits,
            targets,
            terms,
            weight=weight,
            ignore_index=ignore_index,
            reduction=reduction,
            backend=backend,
        )
    return result.reshape(targets.shape) if reduction == "none" else result


def _check(logits: Tensor, targets: Tensor, weight: Tensor | None) -> None:
    """ValueError for what no backend takes: said once, and not as many errors as there are ways."""
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(f"targets must be class indices of an integer type, got {targets.dtype}")
    if targets.device != logits.device:
        raise ValueError(f"targets are on {targets.device}, the logits on {logits.device}")
    if weight is None:
        return
    if weight.shape != logits.shape[1:2]:
        raise ValueError(f"weight must have shape [{logits.shape[1]}], got {list(weight.shape)}")
    if weight.device != logits.device:
        raise ValueError(f"weight is on {weight.device}, the logits on {logits.device}")
    if not weight.is_floating_point():
        raise ValueError(f"weight must be floating point, got {weight.dtype}")


class _Call(NamedTuple):
    terms: tuple[Term, ...]
    ignore_index: int
    reduction: Reduction
    backend: str
    dtype: torch.dtype  # of the result


def _in_one_pass(logits: Tensor, call: _Call) -> bool:
    """Whether the forward computes the gradient too, for the backward to hand over.

    It does not where the kernel would only have to read and write it once more in the backward,
    since a number per row or compiled code stands between, nor in float16: divided by N it
    is rounded to 0 before a loss scale arrives.  Then the backward computes it, scale included.
    """
    if call.backend != "triton":
        return True
    return not (
        torch.compiler.is_compiling() or call.reduction == "none" or logits.dtype == torch.float16
    )


class _OnePass(torch.autograd.Function):
    """Value and gradient at once in the forward, where that pays; the backward hands it over."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, weight: Tensor | None, call: _Call
    ) -> Tensor:
        # Detached, as compiled code is made anew for inputs that require a gradient.
        one_pass = _in_one_pass(logits, call)
        value, grad, scale = _run(logits.detach(), targets, weight, call, need_grad=one_pass)
        ctx.call, ctx.scale, ctx.dtype, ctx.one_pass = call, scale, logits.dtype, one_pass
        if torch.compiler.is_compiling() and one_pass:
            ctx.save_for_backward(grad)
        else:
            # The logits are kept, not copied, for whoever differentiates twice.
            ctx.save_for_backward(logits, targets, weight)
            ctx.grad = grad
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None, None]:
        call, scale = ctx.call, ctx.scale
        if torch.compiler.is_compiling() and ctx.one_pass:
            (grad,) = ctx.saved_tensors
            factor = grad_output.unsqueeze(1) if call.reduction == "none" else grad_output
            return (grad * (factor * scale)).to(ctx.dtype), None, None, None

        # The first backward takes the gradient away and may scale it in place.
        grad = None
        if ctx.one_pass:
            grad, ctx.grad = ctx.grad, None
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # create_graph: this gradient will be differentiated itself.
            logits, targets, weight = ctx.saved_tensors
            value = _reference_rows(logits, targets, weight, call)
            (grad,) = torch.autograd.grad(value, logits, grad_output, create_graph=True)
            return grad, None, None, None
        if not ctx.one_pass:
            logits, targets, weight = ctx.saved_tensors
            upstream = grad_output.float()
            grad = _triton_rows(logits.detach(), targets, weight, call, True, upstream)[1]
            return grad, None, None, None
        if grad is None:  # once more through the same graph (retain_graph): computed again
            logits, targets, weight = ctx.saved_tensors
            grad = _run(logits, targets, weight, call, need_grad=True)[1]
        if call.reduction == "none":
            grad.mul_(grad_output.unsqueeze(1))  # [N] against [N, K]
        elif call.backend == "triton":
            _triton().module.scale_(grad, grad_output)
        else:
            factor = grad_output.item() * scale
            if factor != 1.0:
                grad.mul_(factor)
        return grad.to(ctx.dtype), None, None, None


def _run(
    logits: Tensor, targets: Tensor, weight: Tensor | None, call: _Call, need_grad: bool
) -> tuple[Tensor, Tensor | None, float]:
    # The reduced loss, the gradient (with respect to the row losses for 'none'), and a number
    # the gradient is yet to be multiplied by.
    terms, ignore_index, reduction, backend, dtype = call
    if backend == "triton":
        losses, grad = _triton_rows(logits, targets, weight, call, need_grad)
        scale = 1.0
        if reduction == "none":
            value = losses
        else:  # the kernel has divided; of no rows at all the mean is nan
            value = losses.sum() if losses.numel() or reduction == "sum" else losses.mean()
    else:
        value, grad, scale = closed_form.loss_and_grad(
            logits,
            targets,
            terms,
            weight,
            ignore_index,
            reduction,
            need_grad,
            compiled=backend == "compiled",
        )
        # In float16 it is kept wide: it would be rounded to 0 before a loss scale arrives.
        if grad is not None and logits.dtype != torch.float16:
            grad = grad.to(logits.dtype)
    return (value if value.dtype == dtype else value.to(dtype)), grad, scale


def _reference(rows: Tensor, labels: Tensor, weight: Tensor | None, call: _Call) -> Tensor:
    wide = rows if rows.dtype == call.dtype else rows.to(call.dtype)
    return reference_loss(
        wide,
        labels,
        call.terms,
        weight=weight,
        ignore_index=call.ignore_index,
        reduction=call.reduction,
    )


def _reference_rows(logits: Tensor, targets: Tensor, weight: Tensor | None, call: _Call) -> Tensor:
    # The reference for logits [N, K] or, from the Triton path, [N, K, D].
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    return _reference(rows, targets.reshape(-1).long(), weight, call).reshape(
        targets.shape if call.reduction == "none" else ()
    )


# --- Choosing a backend ---


def _choose(
    backend: Backend, logits: Tensor, terms: tuple[Term, ...], weight: Tensor | None
) -> str:
    """The backend that runs: the given one, or where that cannot, the next best."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "reference" or (weight is not None and weight.requires_grad):
        return "reference"
    tracing = torch.compiler.is_compiling()
    if not tracing and torch._C._are_functorch_transforms_active():
        return "reference"  # torch.func sees through it; values are the same
    if backend in ("eager", "compiled"):
        return "eager" if tracing else backend  # a surrounding torch.compile compiles it too
    device = logits.device.type
    if backend == "triton" or device == "cuda":
        problem = _triton_problem(device, logits.dtype)
        if not problem and not tracing:
            problem = _launch_problems.get(_kernel_of(terms, logits), "")
        if not problem:
            return "triton"
        if backend == "triton" or logits.dtype != torch.float64:
            _warn_once(f"the Triton loss cannot run and another path takes its place: {problem}")
    if device != "cpu":
        return "reference"
    large = not tracing and logits.numel() >= closed_form.COMPILE_FROM
    return "compiled" if large and has_compiler() else "eager"


class _Triton(NamedTuple):
    module: Any
    problem: str


@functools.cache
def _triton() -> _Triton:
    try:
        from . import triton_loss
    except Exception as error:  # not installed, or installed and broken
        return _Triton(None, f"triton cannot be imported ({error})")
    return _Triton(triton_loss, "")


_Kernel = tuple[tuple[tuple[str, bool], ...], int, torch.dtype]
_launch_problems: dict[_Kernel, str] = {}
"""Why a kernel could not be compiled or launched: of each that could not, and of no other."""


def _kernel_of(terms: tuple[Term, ...], logits: Tensor) -> _Kernel:
    return tuple((t.base, t.normalised) for t in terms), logits.shape[1], logits.dtype


def _note_launch_problem(error: Exception, terms: tuple[Term, ...], logits: Tensor) -> bool:
    # Whether the error speaks against this kernel on this machine, which then is not tried again:
    # the compiler's do and the driver's, but not that of an argument or a memory that is full.
    of_triton = type(error).__module__.partition(".")[0] == "triton"
    if torch.compiler.is_compiling() or isinstance(error, torch.OutOfMemoryError):
        return False
    if not (of_triton or isinstance(error, RuntimeError)):
        return False
    _launch_problems[_kernel_of(terms, logits)] = f"a kernel could not be launched ({error})"
    return True


def _triton_problem(device: str, dtype: torch.dtype) -> str:
    # Why Triton cannot take logits of this device and dtype; '' where it can.
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"its arithmetic is float32, the logits are {str(dtype).removeprefix('torch.')}"
    if device != "cuda" and not (device == "cpu" and interpreted()):
        return f"it needs a CUDA device, the logits are on {device}"
    return _triton().problem


# What `torch.compiler.assume_constant_result` does; the decorator itself imports the compiler,
# which takes longer to load than torch does.  test_speed holds that a loss stays one graph.
_triton_problem._dynamo_marked_constant = True  # type: ignore[attr-defined]


def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on the CPU (for tests)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def has_compiler() -> bool:
    """Whether Inductor finds the C++ compiler that it needs for CPU code."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def backends() -> list[tuple[str, bool, str]]:
    """Every backend as (name, available, why), and last what `auto` takes here."""
    cuda = torch.cuda.is_available()
    problem = _triton_problem("cuda" if cuda else "cpu", torch.float32)
    problem = problem or next(iter(_launch_problems.values()), "")
    triton_why = problem or ("interpreted" if interpreted() else "one kernel for value and grad")
    compiler = has_compiler()
    compiled_why = "Inductor with a C++ compiler" if compiler else "no C++ compiler (CXX, g++)"
    if cuda:
        auto = "reference" if problem else "triton"
    elif compiler:
        auto = f"eager, and compiled from {closed_form.COMPILE_FROM:,} logits on"
    else:
        auto = "eager"
    return [
        ("triton", not problem, triton_why),
        ("compiled", compiler, compiled_why),
        ("eager", True, "closed form in torch"),
        ("reference", True, "autograd through the specification"),
        ("auto", True, f"takes {auto}"),
    ]


# --- Triton behind torch.compile: one opaque operator ---


def _triton_rows(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    call: _Call,
    need_grad: bool,
    upstream: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    mean = call.reduction == "mean"
    if torch.compiler.is_compiling():
        bases, numbers = _encode(call.terms)
        losses, grad = _loss_and_grad_op(
            logits, targets, weight, upstream, bases, numbers, call.ignore_index, mean, need_grad
        )
        return losses, (grad if need_grad else None)
    result: tuple[Tensor, Tensor | None] = _triton().module.loss_and_grad(
        logits, targets, call.terms, weight, call.ignore_index, mean, need_grad, upstream
    )
    return result


def _encode(terms: tuple[Term, ...]) -> tuple[str, list[float]]:
    # Terms in the types an operator takes: 'norm(ce)+rce' and all weights and parameters.
    names = [f"norm({term.base})" if term.normalised else term.base for term in terms]
    return "+".join(names), [number for term in terms for number in (term.weight, *term.params)]


def _decode(bases: str, numbers: list[float]) -> tuple[Term, ...]:
    terms, number = [], iter(numbers)
    for name in bases.split("+"):
        base = name.removeprefix("norm(").removesuffix(")")
        weight = next(number)
        params = tuple(next(number) for _ in BASES[base].params)
        terms.append(Term(base, weight, name != base, params))
    return tuple(terms)


@torch.library.custom_op("apl::loss_and_grad", mutates_args=())
def _loss_and_grad_op(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    upstream: Tensor | None,
    bases: str,
    numbers: list[float],
    ignore_index: int,
    mean: bool,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    losses, grad = _triton().module.loss_and_grad(
        logits, targets, _decode(bases, numbers), weight, ignore_index, mean, need_grad, upstream
    )
    return losses, (logits.new_empty(0) if grad is None else grad)


@_loss_and_grad_op.register_fake
def _(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    upstream: Tensor | None,
    bases: str,
    numbers: list[float],
    ignore_index: int,
    mean: bool,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    losses = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
    return losses, (torch.empty_like(logits) if need_grad else logits.new_empty(0))
