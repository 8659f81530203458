"""Rows of a CPU, each with a class, by as few calls of torch as there can be.

A small batch costs what its calls cost, and a large one what its exponentials and its passes
through memory do.  So `torch.log_softmax` is one call each way, of autograd's own, and what lies
between the log-probabilities and the loss is one node: numbers of the rows forward, and backward
one gradient by log p, which for every loss without another sum than that of cross entropies is a
number a row and one more at its label.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .bases import BASES, Form, Term
from .options import LossOptions
from .reference import row_losses
from .targets import any_ignored

_BLOCK = 1 << 17
"""Logits whose gradient is made at a time where it takes their place: half a megabyte of float32,
which stays in the cache of a core."""


def plain_rows(
    logits: Tensor,
    targets: Tensor,
    terms: tuple[Term, ...],
    options: LossOptions,
    over: bool = False,
) -> Tensor:
    """The loss of logits [N, K, ...] (float32 or float64) at classes [N, ...], all on a CPU;
    label_smoothing has no part in it.

    over: the gradient is written over the logits at once, and there is one backward.
    """
    index, reduction = targets.unsqueeze(1), options.reduction
    if options.weight is None and not over and not 0 <= options.ignore_index < logits.shape[1]:
        log_p = torch.log_softmax(logits, 1)
        try:
            return _value(log_p, _Rows(index, terms, _parts(terms, log_p.dtype), reduction))
        except RuntimeError as error:
            # gather has looked at the targets, so nobody need do it before.
            if "out of bounds" not in str(error):
                raise
    factor = None  # what each row counts [N, 1, ...], or all of them alike
    ignored = any_ignored(targets, logits.shape[1], options.ignore_index)
    if ignored or options.weight is not None:
        kept = index != options.ignore_index
        index = torch.where(kept, index, 0)
        factor = kept.to(logits.dtype)
        if options.weight is not None:
            factor = factor * options.weight.to(logits.dtype)[index]
        if reduction == "mean":
            factor, reduction = factor / factor.sum(), "sum"
        if ignored:  # an ignored row must not spread its own nan or inf; its gradient is 0
            logits = torch.where(kept, logits, 0.0)
    rows = _Rows(index, terms, _parts(terms, logits.dtype), reduction, factor)
    if over:
        return _Over.apply(logits, rows)  # type: ignore[no-any-return]
    return _value(torch.log_softmax(logits, 1), rows)


class _Rows(NamedTuple):
    # What is known of the rows beside their logits.
    at: Tensor  # the classes, [N, 1, ...]
    terms: tuple[Term, ...]
    parts: tuple[_Part, ...]
    reduction: str
    factor: Tensor | None = None  # by which their losses are multiplied, [N, 1, ...]

    def part(self, here: slice, reduction: str) -> _Rows:
        factor = None if self.factor is None else self.factor[here]
        return self._replace(at=self.at[here], reduction=reduction, factor=factor)


# Of each term [N, 1, ...]: its loss before it is weighted, and what that was divided by.
_Values = list[tuple[Tensor, Tensor | None]]


def _value(log_p: Tensor, rows: _Rows) -> Tensor:
    if log_p.requires_grad:
        return _PlainRows.apply(log_p, rows)  # type: ignore[no-any-return]
    return _forward(log_p, rows)[0]


class _PlainRows(torch.autograd.Function):
    """The loss from log-probabilities; its gradient by them, times what arrives."""

    @staticmethod
    def forward(ctx: Any, log_p: Tensor, rows: _Rows) -> Tensor:
        value, ctx.found = _forward(log_p, rows)
        ctx.rows = rows
        ctx.save_for_backward(log_p)
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        (log_p,), rows = ctx.saved_tensors, ctx.rows
        if ctx.found is None or torch.is_grad_enabled():
            return _by_autograd(log_p, rows, grad_output), None
        return _gradient(log_p, rows, ctx.found, _at_rows(grad_output, rows)), None


class _Over(torch.autograd.Function):
    """The loss of logits whose gradient takes their place, by as many rows at a time as fit into a
    cache: beside them there is next to nothing in memory."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: _Rows) -> Tensor:
        one = _number(1.0, logits.dtype)
        upstream = (
            one / _number(float(rows.at.numel()), one.dtype) if rows.reduction == "mean" else one
        )
        step = max(1, _BLOCK // (logits.numel() // len(logits)))
        total = torch.zeros((), dtype=logits.dtype)
        for start in range(0, len(logits), step):
            here = slice(start, start + step)
            block, part = logits[here], rows.part(here, "sum")
            log_p = torch.log_softmax(block, 1)
            value, found = _forward(log_p, part)
            total += value
            arriving = _at_rows(upstream, part)
            if found is None:
                grad = _by_autograd(log_p, part, upstream)
            else:
                grad = _gradient(log_p, part, found, arriving)
            # What log_softmax itself has for a backward.
            block.copy_(torch._log_softmax_backward_data(grad, log_p, 1, log_p.dtype))
        torch.autograd.graph.increment_version(logits)
        ctx.grad = logits.detach()
        return total * upstream

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        grad, ctx.grad = ctx.grad, None
        if grad is None or torch.is_grad_enabled():
            raise RuntimeError("a loss with inplace=True has one backward: its logits are gone")
        factor = grad_output.item()
        return (grad if factor == 1.0 else grad.mul_(factor)), None


class _Part(NamedTuple):
    # A term, ready for tensors of one type; its numbers are tensors of no dimension, by which torch
    # multiplies in half the time that a number of Python takes.
    phi: Callable[..., Tensor]
    slope: Callable[..., Tensor | float]
    form: Form
    weight: Tensor | None  # None for 1
    params: tuple[Any, ...]


@functools.lru_cache(maxsize=4096)
def _number(value: float, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # kept for whoever comes later
        return torch.tensor(value, dtype=dtype, device="cpu")


@functools.lru_cache(maxsize=1024)
def _parts(terms: tuple[Term, ...], dtype: torch.dtype) -> tuple[_Part, ...]:
    parts = []
    for name, weight, form, params in terms:
        base = BASES[name]
        phi, slope = base.phi, base.slope
        if name == "ce" and form == "norm":  # of a share the signs are of no use
            phi, slope = _itself, _one
        numbers = params if base.counted else tuple(_number(x, dtype) for x in params)
        factor = None if weight == 1.0 else _number(weight, dtype)
        parts.append(_Part(phi, slope, form, factor, numbers))
    return tuple(parts)


def _itself(log_p: Tensor) -> Tensor:
    return log_p


def _one(log_p: Tensor) -> float:
    return 1.0


def _forward(log_p: Tensor, rows: _Rows) -> tuple[Tensor, tuple[Tensor, _Values] | None]:
    # The loss, and what its gradient is made from; None where classes are masked out, and the
    # specification takes over.
    log_p_y = log_p.gather(1, rows.at)
    losses: Tensor | None = None
    values: _Values = []
    looked = False
    for phi, _, form, weight, params in rows.parts:
        total = None
        if form == "sum":
            value = phi(log_p, *params).sum(1, keepdim=True)
        else:
            value = phi(log_p_y, *params)
            if form == "norm":
                if not looked and not log_p.amin().item() > -torch.inf:  # a masked class, or nan
                    return _reduced(_specified(log_p, rows), rows), None
                looked = True
                total = phi(log_p, *params).sum(1, keepdim=True)
                value = value / total
        values.append((value, total))
        if weight is not None:
            value = weight * value
        losses = value if losses is None else losses + value
    assert losses is not None
    return _reduced(losses, rows), (log_p_y, values)


def _reduced(losses: Tensor, rows: _Rows) -> Tensor:
    # Of losses [N, 1, ...]; a copy for 'none': what is added to it in place must not reach what the
    # gradient is made from.
    if rows.factor is not None:
        losses = losses * rows.factor
    if rows.reduction == "none":
        return losses.squeeze(1).clone()
    total = losses.sum()
    if rows.reduction == "sum":
        return total
    return total / _number(float(losses.numel()), losses.dtype)


def _at_rows(upstream: Tensor, rows: _Rows) -> Tensor:
    # What arrives at the losses of the rows before they are reduced: [] or [N, 1, ...].
    if rows.reduction == "mean":
        upstream = upstream / _number(float(rows.at.numel()), upstream.dtype)
    elif rows.reduction == "none":
        upstream = upstream.unsqueeze(1)
    return upstream if rows.factor is None else upstream * rows.factor


def _gradient(
    log_p: Tensor, rows: _Rows, found: tuple[Tensor, _Values], upstream: Tensor
) -> Tensor:
    # By the log-probabilities: less at all classes, and more at the label.
    log_p_y, values = found
    at_y: Tensor | None = None
    even: Tensor | None = None  # what is taken from all classes of a row alike
    dense: Tensor | None = None
    for (_, slope, form, weight, params), (value, total) in zip(rows.parts, values, strict=True):
        factor = upstream if weight is None else upstream * weight
        if total is not None:
            factor = factor / total
        if form != "sum":
            at_y = _plus(at_y, _times(factor, slope(log_p_y, *params)))
            if total is None:
                continue
            factor = value * factor  # what is taken from all classes
        else:
            factor = -factor
        slopes = slope(log_p, *params)
        if isinstance(slopes, Tensor):
            dense = _plus(dense, factor * slopes)
        else:
            even = _plus(even, _times(factor, slopes))
    if dense is not None:
        grad = (dense if even is None else dense.add_(even)).neg_()
    elif even is not None:
        grad = even.expand_as(log_p).neg()
    else:
        grad = torch.zeros_like(log_p)
    if at_y is None:
        return grad
    return grad.scatter_add_(1, rows.at, at_y if at_y.ndim else at_y.expand_as(rows.at))


def _times(factor: Tensor, slope: Tensor | float) -> Tensor:
    if isinstance(slope, Tensor) or abs(slope) != 1.0:
        return factor * slope
    return factor if slope == 1.0 else -factor


def _plus(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total + more


def _specified(log_p: Tensor, rows: _Rows) -> Tensor:
    flat = log_p.movedim(1, -1).reshape(-1, log_p.shape[1])
    return row_losses(flat, rows.at.reshape(-1), rows.terms).reshape(rows.at.shape)


def _by_autograd(log_p: Tensor, rows: _Rows, upstream: Tensor) -> Tensor:
    # By the specification: masked classes, and gradients that are differentiated once more.
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = log_p if again else log_p.detach().requires_grad_()
        value = _reduced(_specified(leaf, rows), rows)
        return torch.autograd.grad(value, leaf, upstream, create_graph=again)[0]
