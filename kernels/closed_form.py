"""The loss and its gradient in closed form, in plain torch: the fused path of the CPU.

The gradient form is that of `apl.kernels.triton_loss`; phi and phi' come from the specification, so
a new base needs nothing here.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import types
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .bases import BASES, Form, Term
from .options import LossOptions
from .reference import expected, inverse_sum, soft_targets
from .targets import any_ignored

# Logits from which `auto` compiles the closed form, of rows that lie one after another.  Compiling
# takes some 30 s of a processor, for training and evaluation together, and then saves some 6 ns a
# logit and step beside `plain_rows`: at 512 x 32,000 it has paid after some 300 steps, but at
# 4096 x 100 after more than any session has (docs/kernels-evidence.md).  The choice depends on
# nothing but the size: a threshold in calls or seconds would change the last bits of a run
# somewhere in its middle, and differently each time.
COMPILE_FROM = 1 << 23

# torch's log_softmax is vectorised along a row, and slow where the row is shorter than this.
# Compiled, the other form is always the faster one: l and p share one exponential.
_SHORT_ROW = 32

# From so many elements on, where torch has the wide instructions that it is tuned to, the closed
# form is the faster one for short rows.
_SHORT_ROWS_FROM = 1 << 12
EXACT = (torch.float32, torch.float64)


@functools.cache
def _tuned_here() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def gives_way(logits: Tensor) -> bool:
    """Whether `plain_rows` is faster on a CPU: it takes half as many calls, but no half types.
    By the size and the instruction set alone: equal runs compute equal bits."""
    size, classes = logits.numel(), logits.shape[1]
    if logits.dtype not in EXACT or not size:
        return False
    if logits.ndim > 2:  # here rows would be copied to lie one after another
        return True
    if classes < _SHORT_ROW:
        return size < _SHORT_ROWS_FROM or not _tuned_here()
    return size < COMPILE_FROM or not has_compiler()


@functools.cache
def has_compiler() -> bool:
    """Whether Inductor finds the C++ compiler that it needs for CPU code."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


# (base, form, weight is not 1, the parameters of a base that counts) per term
Structure = tuple[tuple[str, Form, bool, tuple[float, ...]], ...]

Compute = Callable[
    [Tensor, Tensor, Structure, Sequence[Tensor], bool, bool], tuple[Tensor, Tensor | None]
]


def rows_closed_form(  # one pass: half of a loss has no meaning
    logits: Tensor,
    targets: Tensor,
    structure: Structure,
    constants: Sequence[Tensor],
    need_grad: bool,
    mean: bool,
) -> tuple[Tensor, Tensor | None]:
    """Row losses [N] of logits [N, K] at targets, [N] in [0, K) or soft ones [N, K] in the type
    that is computed in, and their gradient [N, K].

    constants: of every term in turn, its weight (unless 1) and its parameters (unless counts).
    mean: divide the gradient by N.
    """
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    num_classes = logits.shape[1]
    if num_classes < _SHORT_ROW or torch.compiler.is_compiling():
        shifted = logits - logits.amax(1, keepdim=True)
        p = shifted.exp()
        norm = p.sum(1, keepdim=True)
        log_p = shifted.sub_(norm.log())
        p = p.div_(norm)
    else:
        log_p = torch.log_softmax(logits, 1)
        p = log_p.exp()
    masked = _masked(log_p, structure)
    soft = targets.is_floating_point()
    index = targets if soft else targets.unsqueeze(1)
    log_p_y = log_p if soft else log_p.gather(1, index)

    loss: Tensor | None = None  # [N, 1]
    at_y: Tensor | float = 0.0  # [N, 1]: g's part at y alone; [N, K]: that part where y is k
    spreads = []  # (factor [N, 1], phi' over the classes): g's part spread over all of them
    constant = iter(constants)
    for name, form, weighted, counts in structure:
        base = BASES[name]
        weight = next(constant) if weighted else None
        values = counts or [next(constant) for _ in base.params]
        if form == "sum":  # by what the loss with each label counts, which is the same
            share = targets.sum(1, keepdim=True) if soft else torch.ones_like(log_p[:, :1])
            if weight is not None:
                share = weight * share
            value = share * base.phi(log_p, *values).sum(1, keepdim=True)
            loss = value if loss is None else loss + value
            if need_grad:
                spreads.append((share, base.slope(log_p, *values)))
            continue
        value, slope = base.phi(log_p_y, *values), base.slope(log_p_y, *values)
        if soft:
            value = expected(value, targets).unsqueeze(1)
        if form == "norm":  # before it is weighted: a product that overflows has no share
            inverse = _inverse_sum(value, base.phi(log_p, *values), masked)
            if need_grad:
                spread = -inverse * inverse * value
                if masked is not None:
                    spread = spread.masked_fill(value.isinf(), 0.0)
                slopes = base.slope(log_p, *values)
                if masked is not None:
                    slopes = torch.where(masked, 0.0, slopes)
                spreads.append((spread if weight is None else weight * spread, slopes))
            value, slope = value * inverse, _times(slope, inverse)
        if weight is not None:
            value, slope = weight * value, _times(slope, weight)
        loss = value if loss is None else loss + value
        at_y = slope if isinstance(at_y, float) and at_y == 0.0 else at_y + slope
    assert loss is not None
    losses = loss.squeeze(1)
    if not need_grad:
        return losses, None

    if not isinstance(at_y, Tensor) or at_y.ndim == 0:  # plain CE alone: the same in every row
        at_y = torch.zeros_like(loss) + at_y
    if mean:  # here, while these are one number per row
        at_y = at_y / logits.shape[0]
        spreads = [(spread / logits.shape[0], slopes) for spread, slopes in spreads]
    if soft:
        at_y = targets * at_y
    total = at_y.sum(1, keepdim=True) if soft else at_y  # sum_j g_j
    g: Tensor | None = None
    for spread, slopes in spreads:
        if isinstance(slopes, Tensor):
            total = torch.addcmul(total, spread, slopes.sum(1, keepdim=True))
        else:
            total = torch.add(total, spread, alpha=slopes * num_classes)
        part = _times(slopes, spread)
        g = part if g is None else g + part
    grad = p.mul_(-total) if g is None else torch.addcmul(g, p, total, value=-1)
    if soft:
        return losses, grad.add_(at_y)
    if torch.compiler.is_compiling():  # fused; a scatter would be a serial loop of its own
        classes = torch.arange(num_classes, dtype=torch.int32, device=index.device)
        return losses, grad + torch.where(classes == index.to(torch.int32), at_y, 0.0)
    return losses, grad.scatter_add_(1, index, at_y)


def _masked(log_p: Tensor, structure: Structure) -> Tensor | None:
    # Where classes are masked out, or None where no normalised loss would ask: on a CPU that is
    # looked at, in one pass that reads; elsewhere, and in compiled code, it goes without.
    if not any(form == "norm" for _, form, _, _ in structure):
        return None
    look = log_p.device.type == "cpu" and not torch.compiler.is_compiling() and log_p.numel()
    if look and log_p.amin() > -torch.inf:
        return None
    return log_p == -torch.inf


def _inverse_sum(value: Tensor, of_label: Tensor, masked: Tensor | None) -> Tensor:
    # Of a loss [N, 1] and the losses with each label [N, K].
    if masked is None:
        return of_label.sum(1, keepdim=True).reciprocal()
    return inverse_sum(value, of_label.masked_fill(masked, 0.0).sum(1, keepdim=True))


def _times(slope: Tensor | float, x: Tensor) -> Tensor:
    # A product with a Python number costs as much as three with a tensor, and CE's slope is -1.
    return -x if isinstance(slope, float) and slope == -1.0 else slope * x


def loss_and_grad(
    logits: Tensor,
    targets: Tensor,
    terms: Sequence[Term],
    options: LossOptions,
    need_grad: bool,
    compiled: bool,
) -> tuple[Tensor, Tensor | None, float]:
    """The reduced loss of logits [N, K], its gradient [N, K], and a number that the gradient is
    yet to be multiplied by (1/N of a plain mean: the backward multiplies anyway).

    Arguments as in `reference_loss`."""
    reduction, class_weight = options.reduction, options.weight
    # Dynamo would warn that it looks through the cache.
    constants = _constants.__wrapped__ if torch.compiler.is_compiling() else _constants
    structure, values = constants(tuple(terms))
    num_classes = logits.shape[1]
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    given_soft = targets.is_floating_point()
    soft = given_soft or options.label_smoothing > 0.0
    compute: Compute = rows_closed_form
    if compiled:
        compute = _compiled(structure, num_classes, logits.dtype, need_grad, soft)
    plain = given_soft or not any_ignored(targets, num_classes, options.ignore_index)
    if given_soft or (plain and class_weight is None):
        if soft:
            targets = soft_targets(targets, num_classes, options, wide)
        # Compiled code divides the gradient by N for nothing, the backward for one torch call.
        divide = compiled and reduction == "mean" and need_grad
        losses, grad = compute(logits, targets, structure, values, need_grad, divide)
        if reduction == "mean":
            return losses.mean(), grad, 1.0 if divide else 1.0 / max(len(logits), 1)
        return (losses.sum() if reduction == "sum" else losses), grad, 1.0

    kept = targets != options.ignore_index
    targets = torch.where(kept, targets, 0)
    factor = kept.to(wide)
    if class_weight is not None:
        factor = factor * class_weight.to(wide)[targets]
    count = factor.sum()
    if soft:  # weighted already
        targets = soft_targets(targets, num_classes, options, wide)
        factor = kept.to(wide)
    losses, grad = compute(logits, targets, structure, values, need_grad, False)
    if reduction == "mean":
        factor = factor / count
    # Chosen, not multiplied by 0: nan or inf of an ignored row must not come through.
    losses = torch.where(kept, losses * factor, 0.0)
    if grad is not None:
        column = kept[:, None]
        grad = torch.where(column, grad.mul_(factor[:, None]), 0.0)
    if reduction == "mean":
        # With no row at all the mean is 0/0, as torch has it.
        return torch.where(kept.any(), losses.sum(), torch.nan), grad, 1.0
    return (losses.sum() if reduction == "sum" else losses), grad, 1.0


@functools.cache
def _constants(terms: tuple[Term, ...]) -> tuple[Structure, tuple[Tensor, ...]]:
    # Weights and parameters as tensors of no dimension: torch multiplies by them in half the time
    # that a Python number takes, and compiled code need not be compiled again for new values.
    structure, numbers = [], []
    for term in terms:
        counted = BASES[term.base].counted
        weighted = term.weight != 1.0
        structure.append((term.base, term.form, weighted, term.params if counted else ()))
        # Not multiplied by a bool: Dynamo of torch 2.8 takes a weight that varies for no number.
        numbers += [*([term.weight] if weighted else ()), *(() if counted else term.params)]
    return tuple(structure), tuple(torch.tensor(n, dtype=torch.float64) for n in numbers)


@functools.cache
def _compiled(
    structure: Structure, num_classes: int, dtype: torch.dtype, need_grad: bool, soft: bool
) -> Compute:
    # One copy of the function per specialisation: Dynamo keeps its compiled forms with the code
    # object and would stop at the eighth.  num_classes is fixed (the loops over a row are then
    # vectorised to its end), the number of rows is not.
    code = rows_closed_form.__code__
    copy = types.FunctionType(code.replace(), rows_closed_form.__globals__)
    fast = torch.compile(copy, fullgraph=True, options={"cpp.dynamic_threads": True})
    failed = False

    def compute(
        logits: Tensor,
        targets: Tensor,
        structure: Structure,
        constants: Sequence[Tensor],
        need_grad: bool,
        mean: bool,
    ) -> tuple[Tensor, Tensor | None]:
        nonlocal failed
        if not failed:
            _say_that_it_compiles()
            # Views, so that the mark stays off the caller's tensors.  At each call: which of them
            # is compiled anew, for an option that is another, is not known here.
            logits, targets = logits.view_as(logits), targets.view_as(targets)
            torch._dynamo.maybe_mark_dynamic(logits, 0)
            torch._dynamo.maybe_mark_dynamic(targets, 0)
            try:
                result: tuple[Tensor, Tensor | None] = fast(
                    logits, targets, structure, constants, need_grad, mean
                )
                return result
            except Exception as error:
                failed = True
                warnings.warn(
                    f"the compiled loss does not work here and runs uncompiled: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return rows_closed_form(logits, targets, structure, constants, need_grad, mean)

    return compute


@functools.cache
def _say_that_it_compiles() -> None:
    if multiprocessing.parent_process() is None:  # a worker has nobody to tell
        warnings.warn(
            "the loss is compiled for this processor, once for training and once for evaluation, "
            "which takes some 30 seconds in all; make_loss(..., backend='eager') does without",
            UserWarning,
            stacklevel=2,
        )
