"""The last layer and a loss in one: `linear_loss(hidden, weight, targets, "nce_rce")`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from apl.kernels import linear
from apl.kernels.dispatch import Backend
from apl.kernels.options import LossOptions, Reduction, as_weight
from apl.kernels.targets import check_distributions, check_tensors, known
from apl.losses.catalog import loss_terms


def linear_loss(  # those of F.linear and of F.cross_entropy
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    spec: str,
    bias: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    class_weight: Tensor | Sequence[float] | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    backend: Backend = "auto",
    chunk: int | None = None,
    **params: float | None,
) -> Tensor:
    """`make_loss(spec, K)(F.linear(hidden, weight, bias), targets)` in less memory.

    The logits are computed a chunk of rows at a time and are never whole, neither are their
    gradients.

    Gradients of hidden, weight and bias are computed in the forward, each if it is asked for;
    reduction 'none' and float16 compute the logits a second time in the backward. Sums over rows
    are float32 for half types. A second derivative (create_graph) does make the logits whole.
    torch.compile calls it between two graphs (`fullgraph=True` is an error).

    Args:
        hidden: [N, H], [N, ..., H] or [H], what goes into the last layer.
        weight: [K, H], the layer's own, as in `nn.Linear`.
        targets: Classes of the shape of hidden without H, or soft ones with K in the place of H.
        spec: The loss, as in `make_loss`.
        bias: [K], the layer's own, as in `nn.Linear`.
        reduction: As in `make_loss`.
        class_weight: A factor per class [K], the `weight` of `make_loss`.
        ignore_index: The target of rows that cost nothing.
        label_smoothing: As in `make_loss`.
        backend: As in `make_loss`.
        chunk: Rows at a time; by default H/4, or as many as make 4M logits if those are more.
        **params: Parameters of the loss, as in `make_loss`.

    Returns:
        A scalar, or the shape of the class indices for reduction 'none'.

    Raises:
        TypeError: What should be a tensor or text is none.
        ValueError: What is given does not fit.

    Examples:
        >>> linear_loss(torch.zeros(2, 4), torch.zeros(10, 4), torch.tensor([3, 7]), "nce_rce")
        tensor(8.3893)
    """
    check_tensors(hidden=hidden, weight=weight, targets=targets)
    if bias is not None:
        check_tensors(bias=bias)
    if weight.ndim != 2:
        raise ValueError(f"weight must be [K, {hidden.shape[-1]}], got {list(weight.shape)}")
    if targets.is_floating_point() and known(targets) and targets.shape[-1:] == weight.shape[:1]:
        check_distributions(targets, -1)
    terms = loss_terms(spec, len(weight), **params)
    by_class = as_weight("class_weight", class_weight, hidden.device)
    options = LossOptions(by_class, ignore_index, reduction, label_smoothing)
    value: Tensor = linear.linear_loss(
        hidden, weight, targets, terms, bias, options, backend=backend, chunk=chunk
    )
    return value
