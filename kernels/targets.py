"""Class indices looked at before anything is computed from them: which count, and that all are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses import FakeTensor


def any_ignored(targets: Tensor, num_classes: int, ignore_index: int) -> bool:
    """Whether a row of targets [N] on a CPU is left out, or whatever else the general form alone
    can do: no rows at all, and what is not known while a graph is traced.

    Raises IndexError for a target that is neither a class nor `ignore_index`, as F.cross_entropy
    does.  It must be here: the bounds check in Inductor's code ends the whole process, since
    nothing catches what it throws.
    """
    if torch.compiler.is_compiling() or not targets.numel():
        return True
    low, high = (int(bound) for bound in targets.aminmax())
    if low >= 0 and high < num_classes:
        return 0 <= ignore_index < num_classes and bool((targets == ignore_index).any())
    counted = targets[targets != ignore_index]
    wrong = counted[(counted < 0) | (counted >= num_classes)]
    if wrong.numel():
        raise IndexError(
            f"target {int(wrong[0])} is out of bounds; accepted: the classes 0 to "
            f"{num_classes - 1}, and ignore_index, which is {ignore_index}"
        )
    return True


def known(targets: Tensor) -> bool:
    """Whether the values of targets can be looked at without waiting for a device, or at all."""
    return (
        targets.device.type == "cpu"
        and not isinstance(targets, FakeTensor)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def check_tensors(**given: object) -> None:
    """TypeError for what is no tensor, by its name."""
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")


def check_distributions(targets: Tensor, dim: int) -> None:
    """ValueError for soft targets that are no distributions over the classes, which lie along dim;
    as exact as their type can say it."""
    sums = targets.detach().sum(dim, dtype=torch.float64)
    room = max(1e-3, 4 * torch.finfo(targets.dtype).eps)
    wrong = ~((sums - 1).abs() <= room)
    if wrong.any():
        raise ValueError(
            f"soft targets must sum to 1 over the classes, got {sums[wrong][0].item():.6g} "
            f"{f'({int(wrong.sum())} of {wrong.numel()} rows)' if wrong.ndim else ''}".rstrip()
            + "; several labels at once are not among our losses"
        )
