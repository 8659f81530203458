"""Losses as modules: `make_loss("nce_rce", 10)`, `make_loss("2*nce + 0.5*mae", 10)`."""

from __future__ import annotations

from torch import Tensor, nn

from apl.kernels import dispatch
from apl.kernels.bases import Reduction, Term
from apl.kernels.dispatch import Backend
from apl.losses import loss_terms


class NoisyLabelLoss(nn.Module):
    """A sum of plain and normalised loss terms; build it with `make_loss`."""

    weight: Tensor | None

    def __init__(
        self,
        spec: str,
        num_classes: int,
        terms: tuple[Term, ...],
        weight: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        label_smoothing: float,
        backend: Backend,
        inplace: bool,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes, self.terms = spec, num_classes, terms
        self.ignore_index, self.reduction, self.backend = ignore_index, reduction, backend
        self.label_smoothing, self.inplace = label_smoothing, inplace
        self.register_buffer("weight", weight)

    def extra_repr(self) -> str:
        return f"{self.spec!r}, num_classes={self.num_classes}, reduction={self.reduction!r}"

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits [N, K] or [N, K, d1, ...]; targets class indices of shape [N] or [N, d1, ...], or
        soft targets q of the shape of the logits (mixup, distillation): sum_k q_k L(z, k).

        Returns a scalar, or the shape of the class indices for reduction 'none'.
        """
        if logits.shape[1:2] != (self.num_classes,):
            raise ValueError(
                f"logits must be [N, {self.num_classes}] or [N, {self.num_classes}, d1, ...], "
                f"got {list(logits.shape)}"
            )
        return dispatch.loss(
            logits,
            targets,
            self.terms,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            backend=self.backend,
            inplace=self.inplace,
        )


def make_loss(
    spec: str,
    num_classes: int,
    reduction: Reduction = "mean",
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    backend: Backend = "auto",
    inplace: bool = False,
    **params: float | None,
) -> NoisyLabelLoss:
    """A drop-in for `nn.CrossEntropyLoss`, called as criterion(logits, targets).

    spec: a name of `apl.LOSSES` ('nce_rce') or a sum ('2*nce + 0.5*mae', 'norm(gce) + mae').
    reduction: 'mean' (over the weights of the rows, as torch does), 'sum' or 'none'.
    weight: a factor per class [K]; ignore_index: the target of rows that do not count.
    label_smoothing: what share of each target goes to all classes alike, in [0, 1].
    backend: how it is computed ('triton', 'compiled', 'eager', 'reference'); `apl doctor`
    says what 'auto' takes on this machine.
    inplace: a Triton kernel may write the gradient over the logits, which must not be used
    afterwards; it halves what the loss adds to the memory at its peak.
    params: alpha, beta (weights of the two parts of a combination), gamma (focal), q (gce), A
    (rce), where the loss takes them; None means its default.

    >>> criterion = make_loss("nce_rce", num_classes=10)
    >>> criterion(torch.zeros(2, 10), torch.tensor([3, 7]))
    tensor(8.3893)
    """
    terms = loss_terms(spec, num_classes, **params)
    dispatch.check_options(num_classes, weight, reduction, label_smoothing, backend)
    return NoisyLabelLoss(
        spec, num_classes, terms, weight, ignore_index, reduction, label_smoothing, backend, inplace
    )
