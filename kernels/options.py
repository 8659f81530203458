"""What a loss of rows is told beside logits and targets, as one value: the names of
`F.cross_entropy`, from `make_loss` to the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Reduction = Literal["mean", "sum", "none"]
REDUCTIONS = ("mean", "sum", "none")


class LossOptions(NamedTuple):
    """How the losses of the rows count, and what becomes of them.

    weight: one factor per class [K], by which the loss with label k counts.
    ignore_index: rows whose target is this class count nothing.
    reduction: 'mean' divides by the sum of the weights of the rows, 'none' leaves a loss a row.
    label_smoothing: what share of each target goes to all classes alike.
    """

    weight: Tensor | None = None
    ignore_index: int = -100
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0

    def check(self, num_classes: int) -> None:
        """ValueError for options that no logits of so many classes go with."""
        from torch import Tensor

        if not isinstance(self.ignore_index, int) or isinstance(self.ignore_index, bool):
            raise ValueError(
                f"ignore_index must be an integer, got {self.ignore_index!r}; left out it is -100, "
                "which no class is"
            )
        if self.reduction not in REDUCTIONS:
            accepted = ", ".join(REDUCTIONS)
            raise ValueError(f"reduction must be one of {accepted}, got {self.reduction!r}")
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing must be in [0, 1], got {self.label_smoothing!r}")
        weight = self.weight
        if weight is None:
            return
        if not isinstance(weight, Tensor):
            got = type(weight).__name__
            raise ValueError(f"weight must be a tensor [{num_classes}], got {got}")
        if weight.shape != (num_classes,):
            raise ValueError(f"weight must have shape [{num_classes}], got {list(weight.shape)}")
        if not weight.is_floating_point():
            raise ValueError(f"weight must be floating point, got {weight.dtype}")


DEFAULTS = LossOptions()


def as_weight(
    name: str, given: Tensor | Sequence[float] | None, device: torch.device | None = None
) -> Tensor | None:
    """Class weights as a tensor: a list, a tuple or an array of numbers becomes one."""
    import torch

    if given is None or isinstance(given, torch.Tensor):
        return given
    try:
        found = torch.as_tensor(given, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a number for each class, got {given!r}") from error
    if found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"{name} must be a number for each class, got {found.dtype}")
    return found.to(torch.get_default_dtype())
