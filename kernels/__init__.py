"""Losses on tensors: logits, targets, values, gradients, and nothing else.

`kernels.reference` is the specification; `apl.make_loss` is the door most users want.
"""

from kernels.reference import BASES, REDUCTIONS, Base, Reduction, Term, reference_loss, simplify

__all__ = ["BASES", "REDUCTIONS", "Base", "Reduction", "Term", "reference_loss", "simplify"]
