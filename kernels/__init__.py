"""Losses on tensors: logits, targets, values, gradients, and nothing else.

`apl.kernels.reference` is the specification, `apl.kernels.loss` the same thing as fast as this
machine can; `apl.make_loss` is the door most users want.
"""

from .dispatch import BACKENDS, Backend, backends, has_compiler, loss
from .reference import BASES, REDUCTIONS, Base, Reduction, Term, reference_loss, simplify

__all__ = [
    "BACKENDS",
    "BASES",
    "REDUCTIONS",
    "Backend",
    "Base",
    "Reduction",
    "Term",
    "backends",
    "has_compiler",
    "loss",
    "reference_loss",
    "simplify",
]
