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
    call = _Call(
        tuple(terms), ignore_index, reduction, _choose(backend, logits, weight), logits.dtype
    )
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
    if call.backend != "triton" and labels.dtype != torch.int64:
        labels = labels.long()

    try:
        if call.backend == "reference":
            result = _reference(rows, labels, weight, call)
        elif rows.requires_grad and torch.is_grad_enabled():
            result = _OnePass.apply(rows, labels, weight, call)
        else:
            result = _run(rows, labels, weight, call, need_grad=False)[0]
    except Exception as error:
        if call.backend != "triton" or not _note_launch_problem(error):
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


class _Call(NamedTuple):
    terms: tuple[Term, ...]
    ignore_index: int
    reduction: Reduction
    backend: str
    dtype: torch.dtype  # of the result


class _OnePass(torch.autograd.Function):
    """Value and gradient at once in the forward; the backward hands the gradient over."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, weight: Tensor | None, call: _Call
    ) -> Tensor:
        # Detached, as compiled code is made anew for inputs that require a gradient.
        value, grad, scale = _run(logits.detach(), targets, weight, call, need_grad=True)
        ctx.call, ctx.scale = call, scale
        if torch.compiler.is_compiling():
            ctx.save_for_backward(grad)
        else:
            # The logits are kept, not copied, for whoever differentiates twice.
            ctx.save_for_backward(logits, targets, weight)
            ctx.grad = grad
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None, None]:
        call, scale = ctx.call, ctx.scale
        if torch.compiler.is_compiling():
            (grad,) = ctx.saved_tensors
            factor = _per_row(grad_output, grad) if call.reduction == "none" else grad_output
            return (grad * (factor * scale)).to(grad.dtype), None, None, None

        # The first backward takes the gradient away and may scale it in place.
        grad, ctx.grad = ctx.grad, None
        if torch.is_grad_enabled():  # create_graph: this gradient will be differentiated itself
            logits, targets, weight = ctx.saved_tensors
            value = _reference_rows(logits, targets, weight, call)
            (grad,) = torch.autograd.grad(value, logits, grad_output, create_graph=True)
            return grad, None, None, None
        if grad is None:  # once more through the same graph (retain_graph): computed again
            logits, targets, weight = ctx.saved_tensors
            grad = _run(logits, targets, weight, call, need_grad=True)[1]
        if call.reduction == "none":
            grad.mul_(_per_row(grad_output, grad))
        elif call.backend == "triton":
            _triton().module.scale_(grad, grad_output)
        else:
            factor = grad_output.item() * scale
            if factor != 1.0:
                grad.mul_(factor)
        return grad, None, None, None


def _per_row(grad_output: Tensor, grad: Tensor) -> Tensor:
    # [N] against [N, K], [N, D] against [N, K, D].
    return grad_output.unsqueeze(1)


def _run(
    logits: Tensor, targets: Tensor, weight: Tensor | None, call: _Call, need_grad: bool
) -> tuple[Tensor, Tensor | None, float]:
    # The reduced loss, the gradient (with respect to the row losses for 'none'), and a number
    # the gradient is yet to be multiplied by.
    terms, ignore_index, reduction, backend, dtype = call
    if backend == "triton":
        losses, grad = _triton_rows(
            logits, targets, terms, weight, ignore_index, reduction == "mean", need_grad
        )
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
        if grad is not None and grad.dtype != logits.dtype:
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


def _choose(backend: Backend, logits: Tensor, weight: Tensor | None) -> str:
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


_launch_problem = ""  # why a kernel could not be compiled or launched, if so


def _note_launch_problem(error: Exception) -> bool:
    # Whether the error speaks against Triton on this machine, which then is not tried again.
    global _launch_problem
    if torch.compiler.is_compiling() or isinstance(error, torch.OutOfMemoryError):
        return False
    _launch_problem = f"a kernel could not be launched ({error})"
    return True


def _triton_problem(device: str, dtype: torch.dtype) -> str:
    # Why Triton cannot take logits of this device and dtype; '' where it can.
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"its arithmetic is float32, the logits are {str(dtype).removeprefix('torch.')}"
    if device != "cuda" and not (device == "cpu" and interpreted()):
        return f"it needs a CUDA device, the logits are on {device}"
    return _triton().problem or _launch_problem


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
    terms: tuple[Term, ...],
    weight: Tensor | None,
    ignore_index: int,
    mean: bool,
    need_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    if torch.compiler.is_compiling():
        bases, numbers = _encode(terms)
        losses, grad = _loss_and_grad_op(
            logits, targets, weight, bases, numbers, ignore_index, mean, need_grad
        )
        return losses, (grad if need_grad else None)
    result: tuple[Tensor, Tensor | None] = _triton().module.loss_and_grad(
        logits, targets, terms, weight, ignore_index, mean, need_grad
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
    bases: str,
    numbers: list[float],
    ignore_index: int,
    mean: bool,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    losses, grad = _triton().module.loss_and_grad(
        logits, targets, _decode(bases, numbers), weight, ignore_index, mean, need_grad
    )
    return losses, (logits.new_empty(0) if grad is None else grad)


@_loss_and_grad_op.register_fake
def _(
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    bases: str,
    numbers: list[float],
    ignore_index: int,
    mean: bool,
    need_grad: bool,
) -> tuple[Tensor, Tensor]:
    losses = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
    return losses, (torch.empty_like(logits) if need_grad else logits.new_empty(0))
