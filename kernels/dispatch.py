"""The one door: `loss` picks a backend, and the backends all mean the same loss.

`auto` is Triton on CUDA, the closed form on the CPU (compiled from a size on), and the reference
wherever those do not apply: other devices, float64 on CUDA, inside `torch.func` transforms.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.autograd import forward_ad
from torch.autograd.forward_ad import unpack_dual

from . import closed_form
from .bases import BASES, Form, Term
from .closed_form import has_compiler as has_compiler
from .options import DEFAULTS, REDUCTIONS, LossOptions
from .plain_rows import plain_rows
from .reference import reference_loss
from .targets import any_ignored, known

Backend = Literal["auto", "triton", "compiled", "eager", "reference"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


def loss(  # the door: every way there is, in one place
    logits: Tensor,
    targets: Tensor,
    terms: Sequence[Term],
    options: LossOptions = DEFAULTS,
    *,
    backend: Backend = "auto",
    inplace: bool | Literal["leaf"] = False,
) -> Tensor:
    """The loss of logits [N, K], [N, K, d1, ...] or [K] at class indices of shape [N], [N, d1, ...]
    or [], or at soft targets of the shape of the logits.

    terms and options as in `reference_loss`.  backend:
    'triton' (one kernel for value and gradient), 'eager' (closed form in torch), 'compiled' (the
    same through Inductor), 'reference' (autograd), or 'auto'.  One that cannot run here gives way
    to the next best with one warning; where the gradient of weight or targets is asked for, all
    give way to the reference.
    inplace: the kernel may write the gradient over the logits, which halves the memory at the peak;
    they must not be used afterwards, and there is one backward.  Other paths leave them alone.
    'leaf' says it of logits that are a leaf, which else somebody is sure to want again.
    Returns a scalar, or [N] or [N, d1, ...] for reduction 'none', in the dtype of the logits;
    under autocast in float32, as `F.cross_entropy` does.
    """
    if backend == "auto":
        plain = _plain_rows(logits, targets, terms, options, inplace)
        if plain is not None:
            return plain
    weight, reduction = options.weight, options.reduction
    how: dict[str, Any] = {"backend": backend, "inplace": inplace}
    if logits.ndim == 1:  # one row
        if inplace:
            _check_inplace(logits, reduction, inplace == "leaf")
        value = loss(logits.unsqueeze(0), targets.unsqueeze(0), terms, options, **how)
        return value.reshape(())
    _check(logits, targets, weight)
    options.check(logits.shape[1])
    check_backend(backend)
    if targets.is_floating_point() and options.ignore_index >= 0:
        raise ValueError(
            f"ignore_index={options.ignore_index} is for class indices, and the targets are soft: "
            "leave it out"
        )
    terms = tuple(terms)
    if targets.requires_grad or (weight is not None and weight.requires_grad):
        backend = "reference"
    if isinstance(logits, FakeTensor):
        backend = "reference"  # shapes without values: the others look at these, or compile
    if any(unpack_dual(t).tangent is not None for t in (logits, targets, weight) if t is not None):
        backend = "reference"  # forward-mode derivatives: autograd has them, a kernel would not
    chosen = _choose(backend, logits, terms)
    if inplace:
        _check_inplace(logits, reduction, inplace == "leaf")
    own = bool(inplace) and chosen == "triton" and logits.requires_grad and torch.is_grad_enabled()
    call = _Call(terms, options, chosen, logits.dtype, own)
    device = logits.device.type
    if logits.dtype != torch.float32 and torch.is_autocast_enabled(device):
        call = call._replace(dtype=torch.float32)
    if call.backend == "triton":
        # [N, K, D]: no copy where d1, ... lie evenly in memory, as they do unless sliced.
        rows = logits.unsqueeze(2) if logits.ndim == 2 else logits.flatten(2)
        if targets.is_floating_point():
            labels = targets.unsqueeze(2) if targets.ndim == 2 else targets.flatten(2)
        else:
            labels = targets.reshape(rows.shape[0], rows.shape[2])
    elif logits.ndim == 2:
        rows, labels = logits, targets
    else:
        rows, labels = _flat(logits, targets)
    if not labels.is_floating_point() and labels.dtype != torch.int64:
        labels = labels.long()

    try:
        if call.backend == "reference":
            if not labels.is_floating_point() and known(labels):
                any_ignored(labels, rows.shape[1], options.ignore_index)
            result = _reference(rows, labels, call)
        elif rows.requires_grad and torch.is_grad_enabled():
            function = _Kernel if call.backend == "triton" else _ClosedForm
            result = function.apply(rows, labels, call)
        elif call.backend == "triton":
            denominator = _denominator(labels, call)
            losses = _rows(rows, labels, call, denominator, need_grad=False)[0]
            result = _reduced(losses, call)
        else:
            result = _closed_form(rows, labels, call, need_grad=False)[0]
    except Exception as error:
        if call.backend != "triton" or not _note_launch_problem(error, terms, logits):
            raise
        return loss(logits, targets, terms, options, **how)
    return result.reshape(logits.shape[:1] + logits.shape[2:]) if reduction == "none" else result


def check_backend(backend: Backend) -> None:
    """ValueError for what is no way to compute a loss."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def _check(logits: Tensor, targets: Tensor, weight: Tensor | None) -> None:
    # ValueError for tensors that no backend takes: said once, and not as many errors as there are
    # ways.
    if logits.ndim < 2 or not logits.is_floating_point():
        raise ValueError(
            "logits must be [N, K] or [N, K, d1, ...] of a floating point type, "
            f"got {logits.dtype} {list(logits.shape)}"
        )
    if targets.is_floating_point():
        fits = targets.shape == logits.shape
    else:
        fits = targets.shape == logits.shape[:1] + logits.shape[2:]
        fits = fits and not targets.is_complex() and targets.dtype != torch.bool
    if not fits:
        raise ValueError(
            f"targets must be class indices {list(logits.shape[:1] + logits.shape[2:])} of an "
            f"integer type or soft targets {list(logits.shape)} of a floating point type, "
            f"got {targets.dtype} {list(targets.shape)}"
        )
    for name, tensor in (("targets are", targets), ("weight is", weight)):
        if isinstance(tensor, Tensor) and tensor.device != logits.device:
            raise ValueError(f"{name} on {tensor.device}, the logits on {logits.device}")


def _check_inplace(logits: Tensor, reduction: str, leaf: bool) -> None:
    # ValueError where a gradient over the logits would be a wrong one.
    why = ""
    if torch.compiler.is_compiling():
        why = "torch.compile: it decides itself where gradients go"
    elif reduction == "none":
        why = "reduction 'none': what arrives at the rows must be known before"
    elif logits.dtype == torch.float16:
        why = "float16: the gradient would be rounded before a loss scale arrives"
    elif logits.requires_grad and logits.is_leaf and not leaf:
        why = "a leaf that requires grad: its values are needed after the step"
    elif torch._debug_has_internal_overlap(logits):
        why = "expanded logits: several share one place in memory"
    if why:
        raise ValueError(f"inplace=True cannot be with {why}")


def _flat(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    # [N, K, d1, ...] as rows [N d1 ..., K], with their targets.
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1])
    if targets.is_floating_point():
        return rows, targets.movedim(1, -1).reshape(rows.shape)
    return rows, targets.reshape(-1)


class _Call(NamedTuple):
    terms: tuple[Term, ...]
    options: LossOptions
    backend: str
    dtype: torch.dtype  # of the result
    inplace: bool = False


def _plain_rows(
    logits: Tensor,
    targets: Tensor,
    terms: Sequence[Term],
    options: LossOptions,
    inplace: bool | Literal["leaf"],
) -> Tensor | None:
    # The loss by as few calls of torch as there can be, or None where another way is faster, or
    # where there is more to it than classes of rows.  Ahead of every other look at the arguments,
    # for these cost as much here as the arithmetic does.
    weight, ignore_index, reduction, label_smoothing = options
    if label_smoothing or type(ignore_index) is not int or reduction not in REDUCTIONS:
        return None
    if type(logits) is not Tensor or type(targets) is not Tensor or targets.dtype != torch.int64:
        return None
    if not (logits.is_cpu and targets.is_cpu) or torch.compiler.is_compiling():
        return None
    shape, rows = logits.shape, targets.shape
    if (
        len(shape) < 2
        or len(shape) != len(rows) + 1
        or shape[0] != rows[0]
        or shape[2:] != rows[1:]
    ):
        return None
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return None
    if weight is not None:
        if type(weight) is not Tensor or not weight.is_cpu or weight.requires_grad:
            return None
        options.check(shape[1])
    if inplace:
        _check_inplace(logits, reduction, inplace == "leaf")
        over = logits.requires_grad and torch.is_grad_enabled()
        if logits.dtype not in closed_form.EXACT or not over or not logits.numel():
            return None
        return plain_rows(logits, targets, tuple(terms), options, over=True)
    if not closed_form.gives_way(logits):
        return None
    return plain_rows(logits, targets, tuple(terms), options)


class _ClosedForm(torch.autograd.Function):
    """Value and gradient at once in the forward; the backward hands the gradient over."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, call: _Call) -> Tensor:
        # Detached, as compiled code is made anew for inputs that require a gradient.
        value, grad, scale = _closed_form(logits.detach(), targets, call, need_grad=True)
        ctx.call, ctx.scale, ctx.dtype = call, scale, logits.dtype
        if torch.compiler.is_compiling():
            ctx.save_for_backward(grad)
        else:
            # The logits are kept, not copied, for whoever differentiates twice.
            ctx.save_for_backward(logits, targets, call.options.weight)
            ctx.grad = grad
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None]:
        call, scale = ctx.call, ctx.scale
        if torch.compiler.is_compiling():
            (grad,) = ctx.saved_tensors
            factor = grad_output.unsqueeze(1) if call.options.reduction == "none" else grad_output
            return (grad * (factor * scale)).to(ctx.dtype), None, None
        # The first backward takes the gradient away and may scale it in place.
        grad, ctx.grad = ctx.grad, None
        logits, targets, _ = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable(logits, targets, call, grad_output), None, None
        if grad is None:  # once more through the same graph (retain_graph): computed again
            grad = _closed_form(logits, targets, call, need_grad=True)[1]
            assert grad is not None
        if call.options.reduction == "none":
            grad.mul_(grad_output.unsqueeze(1))  # [N] against [N, K]
        else:
            factor = grad_output.item() * scale
            if factor != 1.0:
                grad.mul_(factor)
        return grad.to(ctx.dtype), None, None


def _closed_form(
    logits: Tensor, targets: Tensor, call: _Call, need_grad: bool
) -> tuple[Tensor, Tensor | None, float]:
    # The reduced loss, the gradient (with respect to the row losses for 'none'), and a number
    # the gradient is yet to be multiplied by.
    compiled = call.backend == "compiled"
    value, grad, scale = closed_form.loss_and_grad(
        logits, targets, call.terms, call.options, need_grad, compiled
    )
    # In float16 it is kept wide: it would be rounded to 0 before a loss scale arrives.
    if grad is not None and logits.dtype != torch.float16:
        grad = grad.to(logits.dtype)
    return (value if value.dtype == call.dtype else value.to(call.dtype)), grad, scale


class _Kernel(torch.autograd.Function):
    """Value and gradient from one kernel, the incoming scale included before it is rounded.

    Of a mean or a sum the forward computes the gradient, for the scale that arrived the last time:
    1 of `loss.backward()`, that of mixed precision, one over the steps to accumulate.  The backward
    hands it over, or where another scale arrives computes it again, so that the bits never depend
    on what was expected.  Where a gradient would have to be read and written once more anyway (a
    number per row, compiled code between), the backward alone computes it.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, call: _Call) -> Tensor:
        rows = (logits.detach(), targets, call)
        ctx.call, ctx.grad, ctx.denominator = call, None, _denominator(targets, call)
        if torch.compiler.is_compiling() or call.options.reduction == "none":
            losses = _rows(*rows, ctx.denominator, need_grad=False)[0]
        else:
            ctx.used = None if call.inplace else _expected(logits, call)
            losses, ctx.grad = _rows(*rows, ctx.denominator, need_grad=True, upstream=ctx.used)
        if call.inplace:
            torch.autograd.graph.increment_version(logits)
        else:
            ctx.save_for_backward(logits, targets, call.options.weight)  # kept, not copied
        return _reduced(losses, call)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None]:
        call = ctx.call
        # The first backward takes the gradient away.
        grad, ctx.grad = ctx.grad, None
        if call.inplace:
            if grad is None or torch.is_grad_enabled():
                raise RuntimeError("a loss with inplace=True has one backward: its logits are gone")
            return grad.mul_(grad_output), None, None
        logits, targets, _ = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _differentiable(logits, targets, call, grad_output), None, None
        try:
            return _kernel_grad(ctx, logits, targets, grad, grad_output.float()), None, None
        except Exception as error:
            # A kernel of the backward is another one, and may fail where that of the forward ran.
            if not _note_launch_problem(error, call.terms, logits):
                raise
            _warn_once(_gives_way(_launch_problems[_kernel_of(call.terms, logits)]))
        return _reference_grad(logits, targets, call, grad_output), None, None


def _kernel_grad(
    ctx: Any, logits: Tensor, targets: Tensor, grad: Tensor | None, upstream: Tensor
) -> Tensor | None:
    # The gradient for what has arrived: what the forward left, if it expected that, or another.
    call = ctx.call
    if grad is None:
        return _rows(
            logits.detach(), targets, call, ctx.denominator, True, upstream, need_losses=False
        )[1]
    rows = (logits.detach(), targets, call.terms, call.options, ctx.denominator)
    seen = _triton().module.correct_(grad, ctx.used, upstream, *rows)
    if not _capturing(logits):
        _upstreams[_upstream_key(logits, call)] = seen
    return grad


def _reference_grad(logits: Tensor, targets: Tensor, call: _Call, grad_output: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        value = _reference_rows(leaf, targets, call)
        return torch.autograd.grad(value, leaf, grad_output)[0]


_upstreams: dict[tuple[Any, ...], Tensor] = {}
"""What arrived last at the losses of a kernel on a device and a stream."""


def _upstream_key(logits: Tensor, call: _Call) -> tuple[Any, ...]:
    # The stream too: on another one the number might not have been written yet.
    device = logits.device
    stream = torch.cuda.current_stream(device).cuda_stream if logits.is_cuda else 0
    # By what is computed and not by its weights, which a schedule may change in every step.
    return *_kernel_of(call.terms, logits), device, stream


def _expected(logits: Tensor, call: _Call) -> Tensor:
    found = None if _capturing(logits) else _upstreams.get(_upstream_key(logits, call))
    return torch.ones((), dtype=torch.float32, device=logits.device) if found is None else found


def _capturing(logits: Tensor) -> bool:
    # A CUDA graph writes its numbers when it is replayed, maybe between a forward and its backward:
    # nothing outside may read them, nor a graph what is outside.
    return logits.is_cuda and torch.cuda.is_current_stream_capturing()


def _denominator(targets: Tensor, call: _Call) -> Tensor | None:
    if call.options.reduction != "mean" or torch.compiler.is_compiling():
        return None  # compiled: the operator finds it
    return _triton().module.row_weight_sum(targets, call.options)  # type: ignore[no-any-return]


def _reduced(losses: Tensor, call: _Call) -> Tensor:
    # The kernel has divided by the weights of the rows; of no rows at all the mean is nan.
    if call.options.reduction != "none":
        empty_mean = call.options.reduction == "mean" and not losses.numel()
        losses = losses.mean() if empty_mean else losses.sum()
    return losses if losses.dtype == call.dtype else losses.to(call.dtype)


def _differentiable(logits: Tensor, targets: Tensor, call: _Call, grad_output: Tensor) -> Tensor:
    # create_graph: a gradient that will be differentiated itself.
    value = _reference_rows(logits, targets, call)
    return torch.autograd.grad(value, logits, grad_output, create_graph=True)[0]


def _reference(rows: Tensor, labels: Tensor, call: _Call) -> Tensor:
    wide = rows if rows.dtype == call.dtype else rows.to(call.dtype)
    return reference_loss(wide, labels, call.terms, call.options)


def _reference_rows(logits: Tensor, targets: Tensor, call: _Call) -> Tensor:
    # The reference for logits [N, K] or, from the Triton path, [N, K, D].
    value = _reference(*_flat(logits, targets), call)
    return value.reshape(logits.shape[:1] + logits.shape[2:]) if value.ndim else value


# --- Choosing a backend ---


def _choose(backend: Backend, logits: Tensor, terms: tuple[Term, ...]) -> str:
    """The backend that runs: the given one, or where that cannot, the next best."""
    if backend == "reference":
        return "reference"
    tracing = torch.compiler.is_compiling()
    if not tracing and torch._C._are_functorch_transforms_active():
        return "reference"  # torch.func sees through it; values are the same
    if backend in ("eager", "compiled"):
        return "eager" if tracing else backend  # a surrounding torch.compile compiles it too
    device = logits.device.type
    if backend == "triton" or device == "cuda":
        problem = _triton_problem(device, logits.dtype)
        if not problem and not tracing and _launch_problems:
            problem = _launch_problems.get(_kernel_of(terms, logits), "")
        if not problem:
            return "triton"
        if backend == "triton" or logits.dtype != torch.float64:
            _warn_once(_gives_way(problem))
    if device != "cpu":
        return "reference"
    large = not tracing and logits.numel() >= closed_form.COMPILE_FROM
    return "compiled" if large and has_compiler() else "eager"


def _gives_way(problem: str) -> str:
    return f"the Triton loss cannot run and another path takes its place: {problem}"


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


_Which = tuple[tuple[tuple[str, Form], ...], int, torch.dtype]
_launch_problems: dict[_Which, str] = {}
"""Why a kernel could not be compiled or launched: of each that could not, and of no other."""


def _kernel_of(terms: tuple[Term, ...], logits: Tensor) -> _Which:
    return tuple((t.base, t.form) for t in terms), logits.shape[1], logits.dtype


def _note_launch_problem(error: Exception, terms: tuple[Term, ...], logits: Tensor) -> bool:
    # Whether the error speaks against this kernel on this machine, which then is not tried again:
    # what triton or the driver has raised, but not that of an argument or a memory that is full.
    if torch.compiler.is_compiling() or isinstance(error, torch.OutOfMemoryError):
        return False
    of_triton = type(error).__module__.partition(".")[0] == "triton"
    if not (of_triton or (isinstance(error, RuntimeError) and _raised_in_triton(error))):
        return False
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    problem = f"a kernel could not be launched ({type(error).__name__}: {said[:200]})"
    _launch_problems[_kernel_of(terms, logits)] = problem
    return True


def _raised_in_triton(error: Exception) -> bool:
    # The driver's errors are plain RuntimeErrors, and so are many of torch: where it was raised
    # tells them apart.  (C code has no frame of its own.)
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    name = "" if frame is None else str(frame.tb_frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] == "triton"


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


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)


# A surrounding torch.compile calls it while it traces, as it does the other.
_warn_once._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
        auto = f"few calls of torch, and compiled code from {closed_form.COMPILE_FROM:,} logits on"
    else:
        auto = "few calls of torch"
    return [
        ("triton", not problem, triton_why),
        ("compiled", compiler, compiled_why),
        ("eager", True, "closed form in torch"),
        ("reference", True, "autograd through the specification"),
        ("auto", True, f"takes {auto}"),
    ]


# --- Triton behind torch.compile: one opaque operator ---


def _rows(  # what a kernel is launched with
    logits: Tensor,
    targets: Tensor,
    call: _Call,
    denominator: Tensor | None,
    need_grad: bool,
    upstream: Tensor | None = None,
    need_losses: bool = True,
) -> tuple[Tensor, Tensor | None]:
    if torch.compiler.is_compiling():
        bases, numbers = _encode(call.terms)
        weight, ignore_index, reduction, label_smoothing = call.options
        rest = (upstream, bases, numbers, ignore_index, reduction == "mean", label_smoothing)
        result = _loss_or_grad_op(logits, targets, weight, *rest)
        return result, result if need_grad else None
    rows = (logits, targets, call.terms, call.options, denominator)
    return _triton().module.loss_and_grad(  # type: ignore[no-any-return]
        *rows, need_grad, upstream, need_losses, call.inplace
    )


def _encode(terms: tuple[Term, ...]) -> tuple[str, list[float]]:
    # Terms in the types an operator takes: 'norm ce+at rce' and all weights and parameters.
    names = [f"{term.form} {term.base}" for term in terms]
    return "+".join(names), [number for term in terms for number in (term.weight, *term.params)]


def _decode(bases: str, numbers: list[float]) -> tuple[Term, ...]:
    terms, number = [], iter(numbers)
    for name in bases.split("+"):
        form, base = name.split()
        weight = next(number)
        params = tuple(next(number) for _ in BASES[base].params)
        terms.append(Term(base, weight, cast(Form, form), params))
    return tuple(terms)


@torch.library.custom_op("apl::loss_or_grad", mutates_args=())
def _loss_or_grad_op(  # an operator takes tensors and numbers, no values of ours
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    upstream: Tensor | None,
    bases: str,
    numbers: list[float],
    ignore_index: int,
    mean: bool,
    label_smoothing: float,
) -> Tensor:
    """The losses of the rows, or where upstream is given their gradient."""
    need_grad = upstream is not None
    options = LossOptions(weight, ignore_index, "mean" if mean else "sum", label_smoothing)
    kernels = _triton().module
    denominator = kernels.row_weight_sum(targets, options) if mean else None
    rows = (logits, targets, _decode(bases, numbers), options, denominator)
    losses, grad = kernels.loss_and_grad(*rows, need_grad, upstream, not need_grad)
    return grad if need_grad else losses  # type: ignore[no-any-return]


@_loss_or_grad_op.register_fake
def _(  # as the operator's
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    upstream: Tensor | None,
    bases: str,
    numbers: list[float],
    ignore_index: int,
    mean: bool,
    label_smoothing: float,
) -> Tensor:
    if upstream is not None:
        return torch.empty_like(logits)
    return torch.empty(logits.shape[::2], dtype=torch.float32, device=logits.device)
