"""The specification: the value of every loss, in plain torch.

Whatever is faster (the fused paths of this package) is tested against `reference_loss`, whose
gradients of every order come from autograd and are the true ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .bases import BASES, Term
from .options import DEFAULTS, LossOptions


def row_losses(log_p: Tensor, targets: Tensor, terms: Sequence[Term]) -> Tensor:
    """Losses [N] from log-probabilities [N, K] and targets: classes [N] in [0, K), or soft ones
    q [N, K], whose loss is sum_k q_k of the loss that the row has with label k."""
    soft = targets.is_floating_point()
    log_p_y = log_p if soft else log_p.gather(1, targets[:, None]).squeeze(1)
    masked = log_p == -torch.inf
    there = log_p.masked_fill(masked, -1.0)  # some number: a nan of phi' times 0 would be nan
    losses = log_p.new_zeros(len(log_p))
    for base, weight, form, params in terms:
        phi = BASES[base].phi
        if form == "sum":
            value = phi(log_p, *params).sum(1)
            if soft:
                value = value * targets.sum(1)
        else:
            value = phi(log_p_y, *params)
            if soft:
                value = expected(value, targets)
            if form == "norm":
                total = phi(there, *params).masked_fill(masked, 0.0).sum(1)
                value = value * inverse_sum(value, total)
        losses = losses + weight * value
    return losses


def inverse_sum(value: Tensor, total: Tensor) -> Tensor:
    """What a loss is multiplied by to normalise it: 1 / total, the sum of that loss over all labels
    whose class is not masked out.

    Two corners: with one class left the total is 0, and so is the share of it.  A label that is
    masked out itself costs infinitely much where phi(log 0) does: then the loss stays as it is, and
    its gradient, like that of cross entropy, is a finite one.
    """
    impossible, alone = value.isinf(), total == 0
    inverse = total.masked_fill(impossible | alone, 1.0).reciprocal()
    return inverse.masked_fill(alone & ~impossible, 0.0)


def expected(values: Tensor, q: Tensor) -> Tensor:
    """sum_k q_k values_k, both [N, K]: a class that cannot be (q = 0) may have a value of inf."""
    return (q * values.masked_fill((q == 0) & values.isinf(), 0.0)).sum(1)


def soft_targets(
    targets: Tensor, num_classes: int, options: LossOptions, dtype: torch.dtype
) -> Tensor:
    """By what the loss with each label counts, [N, K] of this type: (1 - s) q_k + s / K, times the
    weight of k, for s the label_smoothing and q the targets [N, K], or one-hot at targets [N]."""
    weight, label_smoothing = options.weight, options.label_smoothing
    if targets.is_floating_point():
        q = targets.to(dtype)
        if label_smoothing:
            q = q * (1.0 - label_smoothing) + label_smoothing / num_classes
        return q if weight is None else q * weight.to(dtype)
    ones = torch.ones(num_classes, dtype=dtype, device=targets.device)
    scale = ones if weight is None else weight.to(dtype)
    everywhere = (scale * (label_smoothing / num_classes)).expand(len(targets), num_classes)
    at_y = (scale * (1.0 - label_smoothing))[targets]
    return everywhere.scatter_add(1, targets.unsqueeze(1), at_y.unsqueeze(1))


def reference_loss(
    logits: Tensor,
    targets: Tensor,
    terms: Sequence[Term],
    options: LossOptions = DEFAULTS,
) -> Tensor:
    """The loss of logits [N, K] (any float type, float64 or float32 arithmetic) at targets: classes
    [N], or soft ones q [N, K] of any float type, whose loss is sum_k q_k L(z, k).

    The options as in `F.cross_entropy`: the weight of class k multiplies L(z, k); label_smoothing s
    mixes q with a share for all classes alike, (1 - s) q + s / K; 'mean' divides by the sum of the
    weights of the targets, and for soft ones by N; it is nan when no row counts.
    Returns a scalar, or [N] for reduction 'none', in the dtype of the logits.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    num_classes = logits.shape[1]
    count: Tensor | int
    if targets.is_floating_point():
        log_p, count = torch.log_softmax(wide, 1), len(wide)
        q = soft_targets(targets, num_classes, options, wide.dtype)
        losses = row_losses(log_p, q, terms)
    else:
        kept = targets != options.ignore_index
        targets = torch.where(kept, targets, 0)
        # An ignored row must not spread its own nan or inf through a product with 0.
        log_p = torch.log_softmax(torch.where(kept[:, None], wide, 0.0), 1)
        row_weights = kept.to(wide.dtype)
        if options.weight is not None:
            row_weights = row_weights * options.weight.to(wide.dtype)[targets]
        count = row_weights.sum()
        if options.label_smoothing:
            q = soft_targets(targets, num_classes, options, wide.dtype)
            losses = row_losses(log_p, q, terms) * kept
        else:
            losses = row_losses(log_p, targets, terms) * row_weights
    if options.reduction == "mean":
        losses = losses.sum() / count
    elif options.reduction == "sum":
        losses = losses.sum()
    return losses.to(logits.dtype)
