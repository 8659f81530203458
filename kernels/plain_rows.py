"""Rows of a CPU, each with a class, by as few calls of torch as there can be.

A small batch costs what its calls cost, and a large one what its exponentials and its passes
through memory do.  So `torch.log_softmax` is one call each way, and what lies between the
log-probabilities and the loss are numbers of the rows: its gradient by log p is, for every loss
without another sum than that of cross entropies, a number a row and one more at its label.
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
        try:
            return _value(logits, _Rows(index, terms, _parts(terms, logits.dtype), reduction))
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
    return _value(logits, rows)


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


def _value(logits: Tensor, rows: _Rows) -> Tensor:
    if logits.requires_grad and torch.is_grad_enabled():
        return _AtOnce.apply(logits, rows)  # type: ignore[no-any-return]
    return _forward(torch.log_softmax(logits, 1), rows)[0]


class _AtOnce(torch.autograd.Function):
    """The loss, and in the same breath its gradient: one node of autograd's, which at a small batch
    costs as much as some calls of torch, and one tensor of the logits' size left at its end."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: _Rows) -> Tensor:
        value, ctx.grad = _with_gradient(logits, rows, _share(rows))
        ctx.rows = rows
        ctx.save_for_backward(logits)
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        grad, ctx.grad = ctx.grad, None  # the first backward takes it away
        rows = ctx.rows
        if torch.is_grad_enabled():  # to be differentiated itself
            (logits,) = ctx.saved_tensors
            value = _reduced(_specified(torch.log_softmax(logits, 1), rows), rows)
            return torch.autograd.grad(value, logits, grad_output, create_graph=True)[0], None
        if grad is None:  # once more through the same graph (retain_graph)
            (logits,) = ctx.saved_tensors
            grad = _with_gradient(logits, rows, _share(rows))[1]
        if rows.reduction == "none":
            return grad.mul_(grad_output.unsqueeze(1)), None
        return _scaled(grad, grad_output), None


class _Over(torch.autograd.Function):
    """The loss of logits whose gradient takes their place, by as many rows at a time as fit into a
    cache: beside them there is next to nothing in memory."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: _Rows) -> Tensor:
        share = _share(rows)
        step = max(1, _BLOCK // (logits.numel() // len(logits)))
        total = torch.zeros((), dtype=logits.dtype)
        for start in range(0, len(logits), step):
            here = slice(start, start + step)
            value, grad = _with_gradient(logits[here], rows.part(here, "sum"), share)
            total += value
            logits[here].copy_(grad)
        torch.autograd.graph.increment_version(logits)
        ctx.grad = logits.detach()
        return total if share == 1.0 else total * _number(share, total.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        grad, ctx.grad = ctx.grad, None
        if grad is None or torch.is_grad_enabled():
            raise RuntimeError("a loss with inplace=True has one backward: its logits are gone")
        return _scaled(grad, grad_output), None


def _scaled(grad: Tensor, upstream: Tensor) -> Tensor:
    factor = upstream.item()
    return grad if factor == 1.0 else grad.mul_(factor)


def _share(rows: _Rows) -> float:
    # By what the sum over the rows counts.
    return 1.0 / rows.at.numel() if rows.reduction == "mean" else 1.0


def _with_gradient(logits: Tensor, rows: _Rows, share: float) -> tuple[Tensor, Tensor]:
    # The loss, and by the logits the gradient of its sum over the rows, times share.
    log_p = torch.log_softmax(logits, 1)
    value, found = _forward(log_p, rows)
    upstream = share if rows.factor is None else rows.factor * share
    if found is None:
        grad = _by_autograd(log_p, rows, upstream)
    else:
        grad = _gradient(log_p, rows, found, upstream)
    # What log_softmax itself has for a backward: row by row, so it may write over what it reads,
    # and memory that is fresh from the system costs as much as a pass through it.
    out = grad if grad.is_contiguous() and log_p.is_contiguous() else None
    return value, torch._log_softmax_backward_data(grad, log_p, 1, log_p.dtype, out=out)


class _Part(NamedTuple):
    # A term, ready for tensors of one type.
    phi: Callable[..., Tensor]
    slope: Callable[..., Tensor | float]
    form: Form
    weight: float
    params: tuple[Any, ...]


@functools.lru_cache(maxsize=4096)
def _number(value: float, dtype: torch.dtype) -> Tensor:
    # A tensor of no dimension, by which torch multiplies in half the time that a number of Python
    # takes.
    with torch.inference_mode(False):  # kept for whoever comes later
        return torch.tensor(value, dtype=dtype, device="cpu")


@functools.lru_cache(maxsize=1024)
def _parts(terms: tuple[Term, ...], dtype: torch.dtype) -> tuple[_Part, ...]:
    parts = []
    for name, weight, form, params in terms:
        base = BASES[name]
        phi, slope = base.phi, base.slope
        numbers = params if base.counted else tuple(_number(x, dtype) for x in params)
        if name == "ce" and form == "norm":  # of a share the signs are of no use
            phi, slope = _itself, _one
        elif base.rate is not None:  # nor is a factor
            phi, slope, numbers = torch.expm1, torch.exp, ()
            weight = weight if form == "norm" else weight * base.rate(*params)
        parts.append(_Part(phi, slope, form, weight, numbers))
    return tuple(parts)


def _itself(log_p: Tensor) -> Tensor:
    return log_p


def _one(log_p: Tensor) -> float:
    return 1.0


def _forward(log_p: Tensor, rows: _Rows) -> tuple[Tensor, tuple[Tensor, _Values] | None]:
    # The loss, and what its gradient is made from; None where classes are masked out, and the
    # specification takes over.
    log_p_y = log_p.gather(1, rows.at)
    losses: Tensor | float | None = None
    values: _Values = []
    looked = False
    for phi, _, form, weight, params in rows.parts:
        total = None
        if form == "sum":
            value = phi(log_p, *params).sum(1, keepdim=True)
        else:
            value = phi(log_p_y, *params)
            if form == "norm":
                total = phi(log_p, *params).sum(1, keepdim=True)
                if not looked:  # for a masked class, or nan, where the fewest numbers show it
                    seen = total if phi is _itself else log_p
                    if not seen.amin().item() > -torch.inf:
                        return _reduced(_specified(log_p, rows), rows), None
                    looked = True
                value = value / total
        values.append((value, total))
        losses = _more(losses, value, weight, log_p.dtype)
    assert isinstance(losses, Tensor)
    return _reduced(losses, rows), (log_p_y, values)


def _reduced(losses: Tensor, rows: _Rows) -> Tensor:
    # Of losses [N, 1, ...]; a copy for 'none': autograd lets nothing be done in place to a view.
    if rows.factor is not None:
        losses = losses * rows.factor
    if rows.reduction == "none":
        return losses.squeeze(1).clone()
    total = losses.sum()
    if rows.reduction == "sum":
        return total
    return total / _number(float(losses.numel()), losses.dtype)


def _gradient(
    log_p: Tensor, rows: _Rows, found: tuple[Tensor, _Values], upstream: Tensor | float
) -> Tensor:
    # By the log-probabilities: less at all classes, and more at the label.
    (log_p_y, values), dtype = found, log_p.dtype
    at_y: Tensor | float | None = None
    spread: Tensor | float | None = None  # what is taken from every class, or from all alike
    dense = False
    for (_, slope, form, weight, params), (value, total) in zip(rows.parts, values, strict=True):
        factor = _times(weight, upstream, dtype)
        if total is not None:
            factor = _tensor(factor, dtype) / total
        if form == "sum":
            factor = -factor
        else:
            at_y = _more(at_y, slope(log_p_y, *params), factor, dtype)
            if total is None:
                continue
            factor = value * factor
        slopes = slope(log_p, *params)
        dense = dense or isinstance(slopes, Tensor)
        spread = _more(spread, slopes, factor, dtype)
    if spread is None:
        grad = torch.zeros_like(log_p)
    else:
        spread = _tensor(spread, dtype)
        grad = spread.neg_() if dense else spread.expand_as(log_p).neg()
    if at_y is None:
        return grad
    at_y = _tensor(at_y, dtype)
    return grad.scatter_add_(1, rows.at, at_y if at_y.ndim else at_y.expand_as(rows.at))


def _tensor(value: Tensor | float, dtype: torch.dtype) -> Tensor:
    return value if isinstance(value, Tensor) else _number(value, dtype)


def _times(x: Tensor | float, y: Tensor | float, dtype: torch.dtype) -> Tensor | float:
    if isinstance(y, Tensor):
        x, y = y, x
    if isinstance(y, Tensor) or not isinstance(x, Tensor):
        return x * y
    return x if y == 1.0 else -x if y == -1.0 else x * _number(y, dtype)


def _more(
    total: Tensor | float | None, value: Tensor | float, factor: Tensor | float, dtype: torch.dtype
) -> Tensor | float:
    # total + factor value, by one call of torch where there is one.
    if isinstance(total, Tensor) and isinstance(value, Tensor):
        if isinstance(factor, Tensor):
            return torch.addcmul(total, factor, value)
        return torch.add(total, value, alpha=factor)
    product = _times(value, factor, dtype)
    return product if total is None else total + product


def _specified(log_p: Tensor, rows: _Rows) -> Tensor:
    flat = log_p.movedim(1, -1).reshape(-1, log_p.shape[1])
    return row_losses(flat, rows.at.reshape(-1), rows.terms).reshape(rows.at.shape)


def _by_autograd(log_p: Tensor, rows: _Rows, upstream: Tensor | float) -> Tensor:
    # By the specification, where classes are masked out.
    with torch.enable_grad():
        leaf = log_p.detach().requires_grad_()
        value = (_specified(leaf, rows) * upstream).sum()
        return torch.autograd.grad(value, leaf)[0]
