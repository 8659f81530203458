"""The specification: the value of every loss, in plain torch.

Whatever is faster (the fused paths of this package) is tested against `reference_loss`, whose
gradients of every order come from autograd and are the true ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .bases import BASES, Reduction, Term


def row_losses(log_p: Tensor, targets: Tensor, terms: Sequence[Term]) -> Tensor:
    """Losses [N] from log-probabilities [N, K] and targets [N] in [0, K)."""
    log_p_y = log_p.gather(1, targets[:, None]).squeeze(1)
    losses = torch.zeros_like(log_p_y)
    for base, weight, normalised, params in terms:
        phi = BASES[base].phi
        value = phi(log_p_y, *params)
        if normalised:
            value = value / phi(log_p, *params).sum(1)
        losses = losses + weight * value
    return losses


def reduce_rows(losses: Tensor, row_weights: Tensor, reduction: Reduction) -> Tensor:
    """Row losses [N] times row weights [N] (0 where ignored), reduced as torch's losses are:
    'mean' divides by the sum of the row weights, so it is nan when no row counts."""
    losses = losses * row_weights
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / row_weights.sum()


def reference_loss(
    logits: Tensor,
    targets: Tensor,
    terms: Sequence[Term],
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """The loss of logits [N, K] (any float type, float64 or float32 arithmetic) at targets [N].

    weight: one factor per class [K]; rows whose target is ignore_index count nothing.
    Returns a scalar, or [N] for reduction 'none', in the dtype of the logits.
    """
    kept = targets != ignore_index
    safe = torch.where(kept, targets, 0)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    # An ignored row must not spread its own nan or inf through a product with 0.
    wide = torch.where(kept[:, None], wide, 0.0)
    losses = row_losses(torch.log_softmax(wide, 1), safe, terms)
    row_weights = kept.to(wide.dtype)
    if weight is not None:
        row_weights = row_weights * weight.to(wide.dtype)[safe]
    return reduce_rows(losses, row_weights, reduction).to(logits.dtype)
