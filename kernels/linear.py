"""The last layer and the loss in one, a chunk of rows at a time: the logits are never whole.

A loss is a sum over rows, so the rows can be taken in chunks: the logits of a chunk, their gradient
from `dispatch.loss`, at once its share of the gradients of hidden states, weight and bias, and the
chunk is forgotten.  Every loss and every backend of `dispatch.loss` fits unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensor

from . import dispatch
from .bases import Term
from .dispatch import Backend
from .options import DEFAULTS, LossOptions, Reduction

_FEW = 1 << 22  # logits: 16 MB of float32

Needs = tuple[bool, bool, bool]  # of a gradient of hidden, weight, bias
_NONE: Needs = (False, False, False)
Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


# One graph of all chunks would hold a copy of each product and loss for every one of them.  The
# decorator loads the compiler, so this module is imported by whoever calls it, and not before.
@torch.compiler.disable(  # type: ignore[untyped-decorator]
    reason="linear_loss runs chunk by chunk, each with kernels that are compiled already"
)
def linear_loss(  # those of F.linear, and the loss
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    terms: Sequence[Term],
    bias: Tensor | None = None,
    options: LossOptions = DEFAULTS,
    *,
    backend: Backend = "auto",
    chunk: int | None = None,
) -> Tensor:
    """`dispatch.loss` of F.linear(hidden, weight, bias), of which a chunk of rows exists at a time.

    hidden [..., H], weight [K, H], bias [K], targets [...] of classes or soft ones [..., K].
    options, whose weight [K] is one a class, and backend are those of `dispatch.loss`.
    chunk: rows at a time; None takes `chunk_rows`.
    Rows that are ignored cost nothing: the layer is not computed of them.
    Returns a scalar, or the shape of the targets for reduction 'none', in the dtype of the hidden
    states; under autocast layer and loss are computed as F.linear and F.cross_entropy are there.
    """
    _check(hidden, weight, targets, bias, options.weight, chunk)
    options._replace(weight=None).check(weight.shape[0])
    dispatch.check_backend(backend)
    device, dtype, result = hidden.device.type, hidden.dtype, hidden.dtype
    if torch.is_autocast_enabled(device):
        result = torch.float32
        if dtype != torch.float64:  # autocast leaves it as it is
            dtype = torch.get_autocast_dtype(device)
    if device == "cpu" and dtype == torch.bfloat16 and not _bf16_unit():
        dtype = torch.float32  # the products are a hundred times slower there in bfloat16
    call = _Call(
        tuple(terms),
        options,
        backend,
        chunk or chunk_rows(weight),
        dtype,
        result,
    )
    labels = targets.reshape(-1, len(weight)) if _is_soft(targets) else targets.reshape(-1)
    rows = _Rows(hidden.reshape(-1, hidden.shape[-1]), weight, bias, labels)
    asked = any(t is not None and t.requires_grad for t in (hidden, weight, bias))
    kept = None
    if torch._C._are_functorch_transforms_active():
        value = _whole(rows, call)  # torch.func sees through it
    else:
        kept = _kept(labels, options.ignore_index)
        if kept is not None:
            rows = rows._replace(hidden=rows.hidden[kept], targets=labels[kept])
        if asked and torch.is_grad_enabled():
            value = _LinearLoss.apply(*rows, call)
        else:
            value = _forward(rows, call, _NONE)[0]
    if options.reduction != "none":
        return value
    if kept is not None:
        value = value.new_zeros(len(labels)).index_copy(0, kept, value)
    return value.reshape(hidden.shape[:-1])


def _kept(targets: Tensor, ignore_index: int) -> Tensor | None:
    # Which rows count, or None for all of them.  On a GPU the host waits for their number: less
    # than the products of the rows that are left out cost.  A graph that is captured has no number.
    if _is_soft(targets) or isinstance(targets, FakeTensor):
        return None
    if targets.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    kept = (targets != ignore_index).nonzero().squeeze(1)
    return None if len(kept) == len(targets) else kept


def _is_soft(targets: Tensor) -> bool:
    return targets.is_floating_point()


@functools.cache
def _bf16_unit() -> bool:
    """Whether this processor is known to multiply bfloat16 itself."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def chunk_rows(weight: Tensor) -> int:
    """How many rows are taken at a time by default.

    Every chunk reads the weight and adds to its gradient, which costs the less beside the products
    the more rows it has; H/4 rows of logits are a quarter of the weight's size.
    """
    num_classes, width = weight.shape
    return max(1, width // 4, _FEW // num_classes)


def _check(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    class_weight: Tensor | None,
    chunk: int | None,
) -> None:
    if hidden.ndim < 1 or not hidden.is_floating_point():
        raise ValueError(
            "hidden must be [N, H], [N, ..., H] or [H] of a floating point type, "
            f"got {hidden.dtype} {list(hidden.shape)}"
        )
    if weight.ndim != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(f"weight must be [K, {hidden.shape[-1]}], got {list(weight.shape)}")
    num_classes = weight.shape[0]
    soft, integers = (*hidden.shape[:-1], num_classes), hidden.shape[:-1]
    fits = targets.shape == (soft if _is_soft(targets) else integers)
    if not fits or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(
            f"targets must be class indices {list(integers)} of an integer type or soft targets "
            f"{list(soft)} of a floating point type, got {targets.dtype} {list(targets.shape)}"
        )
    for name, vector in (("bias", bias), ("class_weight", class_weight)):
        if vector is not None and (
            vector.shape != (num_classes,) or not vector.is_floating_point()
        ):
            raise ValueError(
                f"{name} must be [{num_classes}] of a floating point type, "
                f"got {vector.dtype} {list(vector.shape)}"
            )
    for name, given in (("class_weight", class_weight), ("targets", targets)):
        if given is not None and given.requires_grad:
            raise ValueError(f"{name} must not require a gradient: linear_loss computes none")
    for name, layer in (("weight", weight), ("bias", bias)):
        # Under autocast all are cast to one type.
        autocast = torch.is_autocast_enabled(hidden.device.type)
        if layer is not None and layer.dtype != hidden.dtype and not autocast:
            raise ValueError(f"{name} is {layer.dtype}, hidden {hidden.dtype}: give one type")
    tensors = {"weight": weight, "targets": targets, "bias": bias, "class_weight": class_weight}
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != hidden.device:
            raise ValueError(f"{name} on {tensor.device}, hidden on {hidden.device}")
    if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be a number of rows, 1 or more, got {chunk!r}")


class _Rows(NamedTuple):
    hidden: Tensor  # [N, H]
    weight: Tensor
    bias: Tensor | None
    targets: Tensor  # [N]


class _Call(NamedTuple):
    terms: tuple[Term, ...]
    options: LossOptions
    backend: Backend
    chunk: int
    dtype: torch.dtype  # of the logits
    result: torch.dtype

    @property
    def wide(self) -> torch.dtype:
        """What sums over rows are taken in."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def one_pass(self) -> bool:
        """Whether the forward computes the gradients, which a number in the backward multiplies.

        Not in float16, where small ones would be 0 before a loss scale arrives.
        """
        return self.options.reduction != "none" and self.dtype != torch.float16

    def loss(
        self, logits: Tensor, targets: Tensor, reduction: Reduction, own: bool = False
    ) -> Tensor:
        """The loss in the wide type: autocast has `dispatch.loss` not round it to a half one."""
        half = self.dtype in (torch.float16, torch.bfloat16)
        with torch.autocast(logits.device.type, self.dtype if half else None, enabled=half):
            return dispatch.loss(
                logits,
                targets,
                self.terms,
                self.options._replace(reduction=reduction),
                backend=self.backend,
                inplace="leaf" if own else False,
            )


class _LinearLoss(torch.autograd.Function):
    """The gradients are computed in the forward, where what comes in is one number to multiply
    them by, else in the backward, from logits that are computed once more."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        call: _Call,
    ) -> Tensor:
        needs = ctx.needs_input_grad[:3] if call.one_pass else _NONE
        value, grads = _forward(_Rows(hidden, weight, bias, targets), call, needs)
        ctx.call, ctx.grads = call, grads
        ctx.save_for_backward(hidden, weight, bias, targets)
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        call, needs = ctx.call, ctx.needs_input_grad[:3]
        # The first backward takes the gradients away and may scale them in place.
        grads, ctx.grads = ctx.grads, None
        if torch.is_grad_enabled():
            # create_graph: these gradients will be differentiated themselves.
            rows = _Rows(*ctx.saved_tensors)
            parts = (rows.hidden, rows.weight, rows.bias)
            inputs = [part for part in parts if part is not None and part.requires_grad]
            value = _whole(rows, call)
            found = iter(torch.autograd.grad(value, inputs, grad_output, create_graph=True))
            grads = tuple(next(found) if needed else None for needed in needs)
        elif not call.one_pass:
            rows, upstream = _Rows(*ctx.saved_tensors), grad_output.to(call.wide)
            if call.options.reduction == "mean":
                upstream = upstream * _total(rows.targets, call)[1]
            _, grads = _in_chunks(rows, call, needs, upstream)
        else:
            if grads is None:  # once more through the same graph (retain_graph)
                _, grads = _forward(_Rows(*ctx.saved_tensors), call, needs)
            for grad in grads:
                if grad is not None:
                    grad.mul_(grad_output)
        return *grads, None, None


def _whole(rows: _Rows, call: _Call) -> Tensor:
    # With all logits at once and nothing that autograd does not see.
    layer = rows.weight.to(call.dtype)
    offset = None if rows.bias is None else rows.bias.to(call.dtype)
    logits = F.linear(rows.hidden.to(call.dtype), layer, offset)
    value = call._replace(backend="reference").loss(logits, rows.targets, call.options.reduction)
    return value.to(call.result)


def _forward(rows: _Rows, call: _Call, needs: Needs) -> tuple[Tensor, Grads]:
    value, grads = _in_chunks(rows, call, needs)
    if call.options.reduction == "mean":
        total, share = _total(rows.targets, call)
        value = value / total
        for grad in grads:
            if grad is not None:
                grad.mul_(share)
    return value.to(call.result), grads


def _total(targets: Tensor, call: _Call) -> tuple[Tensor, Tensor]:
    # What a mean divides by, and by what it multiplies gradients: by 0 where no row counts, where
    # the mean itself is nan.
    if _is_soft(targets):
        total = torch.full((), len(targets), dtype=call.wide, device=targets.device)
        return total, torch.where(total > 0, total.reciprocal(), 0.0)
    kept, class_weight = targets != call.options.ignore_index, call.options.weight
    counts = kept.to(call.wide)
    if class_weight is not None:
        known = torch.where(kept, targets, 0).long().clamp(0, len(class_weight) - 1)
        counts = counts * class_weight.to(call.wide)[known]
    total = counts.sum()
    return total, torch.where(kept.any(), total.reciprocal(), 0.0)


def _in_chunks(
    rows: _Rows, call: _Call, needs: Needs, upstream: Tensor | None = None
) -> tuple[Tensor, Grads]:
    """The losses [N] for reduction 'none', else their sum, and the gradients that are needed: of
    the sum, times `upstream`, a number or one per row [N]."""
    # The types are chosen: autocast would have another in some of the products.
    with torch.autocast(rows.hidden.device.type, enabled=False):
        return _chunk_by_chunk(rows, call, needs, upstream)


def _chunk_by_chunk(
    rows: _Rows, call: _Call, needs: Needs, upstream: Tensor | None
) -> tuple[Tensor, Grads]:
    hidden, weight, bias, targets = rows
    layer, offset = weight.to(call.dtype), None if bias is None else bias.to(call.dtype)
    each = call.options.reduction == "none"
    value = hidden.new_zeros(len(hidden) if each else (), dtype=call.wide)
    of_hidden = torch.zeros_like(hidden) if needs[0] else None
    # A half type would lose what a chunk adds to the sum of those before it.
    of_weight = torch.zeros_like(weight, dtype=call.wide) if needs[1] else None
    of_bias = torch.zeros_like(bias, dtype=call.wide) if bias is not None and needs[2] else None
    # One room for the logits of all chunks: malloc would seldom find the last one's again.
    room = hidden.new_empty(min(call.chunk, len(hidden)), len(weight), dtype=call.dtype)
    for start in range(0, len(hidden), call.chunk):
        here = slice(start, start + call.chunk)
        part = hidden[here].to(call.dtype)
        logits = _linear(part, layer, offset, room[: len(part)]).requires_grad_(any(needs))
        with torch.set_grad_enabled(any(needs)):
            # The gradient takes the place of the logits, but on a CPU not of half types.
            own = any(needs) and not each and call.dtype != torch.float16
            losses = call.loss(logits, targets[here], "none" if each else "sum", own)
        if each:
            value[here] = losses.detach()
        else:
            value += losses.detach()
        if not any(needs):
            continue
        factor = upstream if upstream is None or upstream.ndim == 0 else upstream[here]
        (grad,) = torch.autograd.grad(losses, logits, factor)
        del logits, losses
        if of_hidden is not None:
            of_hidden[here] = grad @ layer
        if of_weight is not None:
            _add_product(of_weight, grad, part)
        if of_bias is not None:
            of_bias += grad.sum(0, dtype=call.wide)
        del grad  # before the next chunk's logits
    return value, (
        of_hidden,
        None if of_weight is None else of_weight.to(weight.dtype),
        None if of_bias is None or bias is None else of_bias.to(bias.dtype),
    )


def _linear(part: Tensor, layer: Tensor, offset: Tensor | None, out: Tensor) -> Tensor:
    if offset is None:
        return torch.mm(part, layer.T, out=out)
    return torch.addmm(offset, part, layer.T, out=out)


def _add_product(total: Tensor, grad: Tensor, part: Tensor) -> None:
    # total [K, H] += grad.T @ part; in a narrower type, where it can't be added to a wide sum at
    # once, the product exists first, by some classes at a time, so that it is no larger than the
    # chunk's logits.
    if grad.dtype == total.dtype:
        total.addmm_(grad.T, part)
        return
    if _adds_wide(grad.device, grad.dtype):
        torch.addmm(total, grad.T, part, out_dtype=total.dtype, out=total)
        return
    blocks = 1 + part.shape[1] // len(part)
    for block, columns in zip(total.chunk(blocks), grad.chunk(blocks, 1), strict=True):
        block += columns.T @ part


@functools.cache
def _adds_wide(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch adds a product of this half type to a float32 sum there, tried once: it says
    nowhere where it can."""
    ones = torch.ones(8, 8, dtype=dtype, device=device)
    total = torch.ones(8, 8, dtype=torch.float32, device=device)
    try:
        torch.addmm(total, ones, ones, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 9.0).all())
