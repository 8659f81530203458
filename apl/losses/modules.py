"""Losses as modules: `make_loss("nce_rce", 10)`, `make_loss("2*nce + 0.5*mae", 10)`,
`make_loss("elr", 10, num_samples=50_000)`.

A sum of terms is a `NoisyLabelLoss`, computed by the fused kernels.  What is no such sum is a
`RowLoss` in plain torch, with its class in `CRITERIA` and its words in `apl.losses`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apl.kernels import dispatch
from apl.kernels.bases import Term
from apl.kernels.dispatch import Backend
from apl.kernels.options import LossOptions, Reduction, as_weight
from apl.kernels.targets import any_ignored, check_distributions, check_tensors, known
from apl.losses.catalog import check_classes, loss_name, loss_params, loss_terms


class Criterion(nn.Module):
    """What every criterion of `make_loss` is: a spec with its parameters, options, and a call."""

    params: Mapping[str, float | tuple[float, ...]]
    weight: Tensor | None

    def __init__(
        self,
        spec: str,
        num_classes: int,
        params: Mapping[str, float | tuple[float, ...]],
        options: LossOptions,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes, self.params = spec, num_classes, dict(params)
        weight, self.ignore_index, self.reduction, self.label_smoothing = options
        self.register_buffer("weight", weight)

    @property
    def options(self) -> LossOptions:
        """Its options as they are now: the weight where the module is."""
        weight = self._buffers["weight"]  # as an attribute it takes as long as a call of torch
        return LossOptions(weight, self.ignore_index, self.reduction, self.label_smoothing)

    def forward(
        self,
        logits: Tensor | None = None,
        targets: Tensor | None = None,
        *,
        input: Tensor | None = None,
        target: Tensor | None = None,
        **wanted: Any,
    ) -> Tensor:
        """The loss of logits at targets; what these may be is told by `value` of the class.

        Args:
            logits: What the network says of each row, before any softmax.
            targets: The class of each row, or what else `value` takes.
            input: The logits, by their name in `F.cross_entropy`.
            target: The targets, by their name in `F.cross_entropy`.
            **wanted: What the `wants` of the class name, and no more.

        Returns:
            A scalar, or the shape of the class indices for reduction 'none'.

        Raises:
            TypeError: Logits or targets are given not at all or twice, or are no tensor.
            ValueError: Their shapes, or what is wanted, do not fit.
        """
        return self.value(*_called(logits, targets, input, target), **wanted)

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, of tensors that have been given once each."""
        raise NotImplementedError

    def _said(self, **own: tuple[object, object]) -> str:
        # All that two criteria may differ in: parameters, and what is not as it is by default.
        said = [repr(self.spec), f"num_classes={self.num_classes}"]
        for name, value in self.params.items():
            said.append(f"{name}={_number(value)}")
        if self.weight is not None:
            said.append(f"weight={_few(self.weight)}")
        rest = {
            "ignore_index": (self.ignore_index, -100),
            "reduction": (self.reduction, "mean"),
            "label_smoothing": (self.label_smoothing, 0.0),
            **own,
        }
        said += [f"{name}={value!r}" for name, (value, usual) in rest.items() if value != usual]
        return ", ".join(said)


class NoisyLabelLoss(Criterion):
    """A sum of plain and normalised loss terms; build it with `make_loss`.

    Each argument is an attribute too, by its name.

    Args:
        spec: The loss as it was asked for.
        num_classes: How many classes there are, K.
        params: Every parameter of the loss with its value; a tuple where the parts of a sum have
            different ones.
        options: Class weights, ignore_index, reduction and label_smoothing.
        terms: What is summed.
        backend: How it is computed.
        inplace: Whether a Triton kernel may write the gradient over the logits.
    """

    def __init__(
        self,
        spec: str,
        num_classes: int,
        params: Mapping[str, float | tuple[float, ...]],
        options: LossOptions,
        terms: tuple[Term, ...],
        backend: Backend,
        inplace: bool,
    ) -> None:
        super().__init__(spec, num_classes, params, options)
        self.terms, self.backend, self.inplace = terms, backend, inplace

    def extra_repr(self) -> str:
        return self._said(backend=(self.backend, "auto"), inplace=(self.inplace, False))

    def value(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, of tensors that have been given once each.

        Args:
            logits: [N, K], [N, K, d1, ...] or [K].
            targets: Class indices of shape [N], [N, d1, ...] or [], or soft targets q of the shape
                of the logits (mixup, distillation), which sum to 1 over the classes; the loss of a
                row is then `sum_k q_k L(z, k)`.
        """
        k, shape = self.num_classes, logits.shape
        if not shape or shape[min(1, len(shape) - 1)] != k:
            raise ValueError(
                f"logits must be [N, {k}], [N, {k}, d1, ...] or [{k}], got {list(shape)}"
            )
        if targets.is_floating_point() and targets.shape == logits.shape and known(targets):
            check_distributions(targets, min(1, logits.ndim - 1))
        return dispatch.loss(
            logits, targets, self.terms, self.options, backend=self.backend, inplace=self.inplace
        )


def _called(
    logits: Tensor | None, targets: Tensor | None, input: Tensor | None, target: Tensor | None
) -> tuple[Tensor, Tensor]:
    # What a criterion is called with, by our names or by those of F.cross_entropy.
    if isinstance(logits, Tensor) and isinstance(targets, Tensor) and input is target is None:
        return logits, targets
    for name, both in (("logits", (logits, input)), ("targets", (targets, target))):
        if sum(each is not None for each in both) != 1:
            raise TypeError(
                f"give {name} once: criterion(logits, targets), or by the names of "
                "F.cross_entropy, criterion(input=..., target=...)"
            )
    found = (logits if input is None else input, targets if target is None else target)
    check_tensors(logits=found[0], targets=found[1])
    return found  # type: ignore[return-value]


def _number(value: float | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_number, value))})"
    return str(int(value)) if value == int(value) else repr(value)


def _few(values: Tensor) -> str:
    # A vector, or its first numbers with one that tells two of them apart.
    numbers = [float(f"{value:.6g}") for value in values.detach().flatten().tolist()]
    if len(numbers) <= 12:
        return str(numbers)
    first, mark = ", ".join(map(str, numbers[:6])), sum(k * w for k, w in enumerate(numbers, 1))
    return f"[{first}, ... {len(numbers)} in all, sum of k w_k {mark:.9g}]"


# ------------------------------------------------------------------------ what is no sum of terms


class RowLoss(Criterion):
    """A loss of each row of logits that is no sum of terms; build it with `make_loss`.

    needs: what its class is built with beside its parameters ('num_samples', 'transition').
    wants: the keyword arguments that its call takes: 'samples', which training samples the rows are
    (of the shape of the targets), or 'epoch', the epochs done so far.
    views: from so many augmented views of a batch come its logits; [V, N, K] where more than 1.
    of_batch: whether the rows depend on each other; then they are told which of them count, as
    rows that remember their samples are.
    What it remembers is a buffer, so it moves, is saved and comes back with the module; it changes
    only in training mode while gradients are recorded.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    wants: ClassVar[tuple[str, ...]] = ()
    views: ClassVar[int] = 1
    of_batch: ClassVar[bool] = False
    params: Mapping[str, float]  # of its one part
    num_samples: int = 0  # how many training samples it remembers something of

    def extra_repr(self) -> str:
        said = self._said(num_samples=(self.num_samples, 0))
        transition = getattr(self, "transition", None)  # where there is one to tell apart
        return said if transition is None else f"{said}, transition={_few(transition)}"

    def rows(self, logits: Tensor, targets: Tensor, *args: Any, **wanted: Any) -> Tensor:
        """The losses [R] of logits [R, K] (of V views [V, R, K]), float32 or float64, at [R]."""
        raise NotImplementedError

    def value(self, logits: Tensor, targets: Tensor, **wanted: Any) -> Tensor:
        """logits [N, K], [N, K, d1, ...] or [K], with V in front where there are views; targets
        class indices of shape [N], [N, d1, ...] or [].

        Returns the loss in the dtype of the logits (under autocast in float32); the arithmetic is
        float32 or float64.
        """
        if set(wanted) != set(self.wants):
            wants = ", ".join(self.wants) or "nothing"
            given = ", ".join(sorted(wanted)) or "nothing"
            raise ValueError(f"{self.spec!r} wants {wants} beside logits and targets, got {given}")
        if targets.ndim == 0 and logits.ndim == (2 if self.views > 1 else 1):  # one row
            if "samples" in wanted:
                wanted["samples"] = wanted["samples"].reshape(1)
            return self.value(logits.unsqueeze(-2), targets[None], **wanted).squeeze(0)
        self._check(logits, targets)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        # [..., K, d1, ...] as rows [..., K]
        first = 1 if self.views > 1 else 0
        flat = wide.movedim(first + 1, -1).reshape(*wide.shape[:first], -1, self.num_classes)
        labels = targets.reshape(-1).long()
        if known(labels):
            any_ignored(labels, self.num_classes, self.ignore_index)
        kept = labels != self.ignore_index
        # Where no value may be looked at, as on a GPU, the loss of a row with no class is nan.
        bad = kept & ((labels < 0) | (labels >= self.num_classes))
        about = dict(wanted)
        if "samples" in about:
            samples = self._samples(about["samples"], targets)
            if known(samples):
                self._check_samples(samples[kept])
            bad = bad | (kept & ((samples < 0) | (samples >= self.num_samples)))
            about["samples"] = torch.where(kept & ~bad, samples, 0)
        if self.of_batch or "samples" in about:
            about["kept"] = kept & ~bad
        labels = torch.where(kept & ~bad, labels, 0)
        # An ignored row must not spread its own nan or inf through a product with 0.
        flat = torch.where(kept[:, None], flat, 0.0)
        scale = kept.to(flat.dtype)
        if self.weight is not None:
            scale = scale * self.weight.to(flat.dtype)[labels]
        losses = torch.where(kept, self.rows(flat, labels, **about), 0.0) * scale
        losses = losses.masked_fill(bad, math.nan)
        if self.reduction == "mean":
            losses = losses.sum() / scale.sum()
        elif self.reduction == "sum":
            losses = losses.sum()
        else:
            losses = losses.reshape(targets.shape)
        autocast = torch.is_autocast_enabled(logits.device.type)
        return losses if autocast else losses.to(logits.dtype)

    def _samples(self, samples: Tensor, targets: Tensor) -> Tensor:
        # Their numbers [R], or ValueError for what would be read as a mask, or as other ones.
        integer = not (samples.is_floating_point() or samples.is_complex())
        if samples.shape != targets.shape or not integer or samples.dtype == torch.bool:
            raise ValueError(
                f"samples of {self.spec!r} must be the numbers {list(targets.shape)} of training "
                f"samples, of an integer type, got {samples.dtype} {list(samples.shape)}"
            )
        return samples.reshape(-1).long()

    def _check_samples(self, samples: Tensor) -> None:
        wrong = samples[(samples < 0) | (samples >= self.num_samples)]
        if wrong.numel():
            raise IndexError(
                f"sample {int(wrong[0])} is out of bounds; accepted by {self.spec!r}: 0 to "
                f"{self.num_samples - 1}, as num_samples says"
            )

    def _check(self, logits: Tensor, targets: Tensor) -> None:
        shape = list(logits.shape[1:] if self.views > 1 else logits.shape)
        fits = len(shape) >= 2 and shape[1] == self.num_classes and logits.is_floating_point()
        if not fits:
            front = "V, " if self.views > 1 else ""
            k = self.num_classes
            raise ValueError(
                f"logits must be [{front}N, {k}] or [{front}N, {k}, d1, ...] of a floating point "
                f"type, got {logits.dtype} {list(logits.shape)}"
            )
        integer = not (targets.is_floating_point() or targets.is_complex())
        accepted = shape[:1] + shape[2:]
        if list(targets.shape) != accepted or not integer or targets.dtype == torch.bool:
            raise ValueError(
                f"targets of {self.spec!r} must be class indices {accepted} of an integer type, "
                f"got {targets.dtype} {list(targets.shape)}"
            )


def _at(values: Tensor, targets: Tensor) -> Tensor:
    # values [R, K] at targets [R]: [R].
    return values.gather(1, targets[:, None]).squeeze(1)


def _norm(logits: Tensor, order: float = 2.0) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(logits, order, dim=1, keepdim=True)
    return norm


def _remember(memory: Tensor, samples: Tensor, values: Tensor, kept: Tensor) -> None:
    # Write the rows of values that are kept to their samples' places in memory.  The others write
    # once more what the first kept row writes: no shape depends on data, so nothing waits for it.
    if not len(kept):
        return
    rows = torch.where(kept, torch.arange(len(kept), device=kept.device), kept.int().argmax())
    places = samples[rows]
    memory[places] = torch.where(kept.any(), values[rows].to(memory.dtype), memory[places])


def _without_masked(logits: Tensor) -> tuple[Tensor, Tensor]:
    # Logits with 0 for each class that is masked by -inf, which has no length, and where these are.
    masked = logits == -math.inf
    return logits.masked_fill(masked, 0.0), masked


def _entropy(log_p: Tensor) -> Tensor:
    # -sum_k p_k log p_k [R] of log-probabilities [R, K]; a class that is ruled out adds nothing.
    return -(log_p.exp() * log_p.masked_fill(log_p == -math.inf, 0.0)).sum(1)


def _unit(logits: Tensor, order: float = 2.0) -> Tensor:
    # The rows over their norms; a row of zeros has no direction, and no gradient.
    there, masked = _without_masked(logits)
    norm = _norm(there, order)
    return (there / norm.masked_fill(norm == 0, math.inf)).masked_fill(masked, -math.inf)


class HardBootstrap(RowLoss):
    """-beta log p_y - (1 - beta) log max_k p_k (Reed et al. 2015)."""

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_p, beta = torch.log_softmax(logits, 1), self.params["beta"]
        return -beta * _at(log_p, targets) - (1 - beta) * _at(log_p, log_p.argmax(1))


class EpsSoftmax(RowLoss):
    """alpha CE_eps + beta MAE (Wang et al. 2024): CE of (p + m onehot(argmax p)) / (m + 1), and
    MAE = 2 (1 - p_y) of the plain softmax.  `eps_softmax` is CE_eps alone.

    p_floor: what the authors' code clamps that probability at, so that a row whose label is not the
    prediction and has p_y < p_floor (m + 1) has no gradient of CE_eps.
    """

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        m, p_floor = self.params["m"], self.params["p_floor"]
        log_p = torch.log_softmax(logits, 1)
        log_p_y, hit = _at(log_p, targets), log_p.argmax(1) == targets
        # (p + m) / (1 + m) = 1 - (1 - p) / (1 + m); the other rows' log1p must not become -inf.
        raised = (torch.where(hit, log_p_y, 0.0).expm1() / (1 + m)).log1p()
        log_p_hat = torch.where(hit, raised, log_p_y - math.log1p(m))
        if p_floor:
            log_p_hat = log_p_hat.clamp_min(math.log(p_floor))
        if "alpha" not in self.params:
            return -log_p_hat
        return -self.params["alpha"] * log_p_hat - 2 * self.params["beta"] * log_p_y.expm1()


class LogitClip(RowLoss):
    """CE of z min(1, delta / |z|), |z| the L2 norm of the logits (Wei et al. 2023)."""

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        there, masked = _without_masked(logits)
        clipped = self.clip(there, self.params["delta"]).masked_fill(masked, -math.inf)
        return F.cross_entropy(clipped, targets, reduction="none")

    def clip(self, logits: Tensor, delta: float) -> Tensor:
        return logits * (delta / _norm(logits).clamp_min(delta))


class LogitClipAuthors(LogitClip):
    """The rule in the authors' code: a norm above delta becomes 1 / delta, so it jumps there unless
    delta = 1."""

    def clip(self, logits: Tensor, delta: float) -> Tensor:
        norm = _norm(logits) + 1e-7
        return torch.where(norm > delta, logits / norm / delta, logits)


class LogitClipEps(LogitClip):
    """The rule in the code of eps-softmax and JAL: a norm above 1 / delta becomes delta, so for
    delta > 1 the norms between the two are scaled up."""

    def clip(self, logits: Tensor, delta: float) -> Tensor:
        norm = _norm(logits) + 1e-7
        return torch.where(norm > 1 / delta, logits / norm * delta, logits)


def _log_mean_exp(scores: Tensor, targets: Tensor, margin: float, lam: float | Tensor) -> Tensor:
    # lam log mean_k exp((margin [k != y] + f_k - f_y) / lam), for scores f [R, K]; lam a number or
    # one a row [R, 1].
    gaps = margin + scores - scores.gather(1, targets[:, None])
    gaps = gaps.scatter(1, targets[:, None], 0.0)
    return (lam * (torch.logsumexp(gaps / lam, 1, keepdim=True) - math.log(scores.shape[1])))[:, 0]


def _log_softplus(logits: Tensor) -> Tensor:
    # log log(1 + e^z), which is z itself to the last bit of float64 below -37.
    low = logits < -37.0
    inside = torch.where(low, 0.0, logits)
    return torch.where(low, logits, torch.logaddexp(inside, torch.zeros_like(inside)).log())


class LdrKl(RowLoss):
    """lam log mean_k exp((margin [k != y] + f_k - f_y) / lam), f = softplus(z) / mean softplus(z)
    (Zhu et al. 2023); a ratio computed from logarithms, so no logits are too low for it."""

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        scores = self.num_classes * torch.softmax(_log_softplus(logits), 1)
        return _log_mean_exp(scores, targets, self.params["margin"], self.params["lam"])


class AldrKl(RowLoss):
    """LDR-KL with a lam for each sample (Zhu et al. 2023), and f = K z / |z|_1 as in their code:
    lam_i = lam (1 - KL(p | uniform) / (pull log K)) with p = softmax(f / lam_i of the last visit),
    and -(pull log K / lam) (lam_i - lam)^2 / 2 added to the loss."""

    needs: ClassVar[tuple[str, ...]] = ("num_samples",)
    wants: ClassVar[tuple[str, ...]] = ("samples",)
    lambdas: Tensor

    def __init__(self, *about: Any, num_samples: int) -> None:
        super().__init__(*about)
        self.num_samples = num_samples
        self.register_buffer("lambdas", torch.full((num_samples,), float(self.params["lam"])))

    def rows(self, logits: Tensor, targets: Tensor, samples: Tensor, kept: Tensor) -> Tensor:
        lam, log_k = self.params["lam"], math.log(self.num_classes)
        strength = self.params["pull"] * log_k
        scores = self.num_classes * _unit(logits, 1.0)
        own = self.lambdas[samples].to(scores.dtype)
        if self.training and torch.is_grad_enabled():
            log_p = torch.log_softmax(scores.detach() / own[:, None], 1)
            own = lam - lam / strength * (log_k - _entropy(log_p))
            _remember(self.lambdas, samples, own, kept)
        losses = _log_mean_exp(scores, targets, self.params["margin"], own[:, None])
        return losses - strength / (2 * lam) * (own - lam) ** 2


class BiTempered(RowLoss):
    """The bi-tempered logistic loss (Amid et al. 2019): P = exp_t2(z - nu) with sum P = 1, and
    the Bregman divergence of P from the label under the temperature t1."""

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        t1, t2 = self.params["t1"], self.params["t2"]
        below = logits - logits.amax(1, keepdim=True).detach()
        nu = torch.zeros_like(below[:, :1])
        with torch.no_grad():
            for _ in range(8):  # by then no step changes it, in float64, for any K up to 1e5
                nu = _newton(below, nu, t2)
        # Two more steps carry the first and the second derivative: the error of a step is the
        # square of the one before.
        for _ in range(2):
            nu = _newton(below, nu, t2)
        log_p = _log_exp_t(below - nu, t2)
        log_p_y = _at(log_p, targets)
        # -log_t1 P_y - (1 - P_y^(2 - t1)) / (2 - t1): as exact near P_y = 1 as anywhere
        at_y = ((2 - t1) * log_p_y).expm1() / (2 - t1) - _log_t(log_p_y, t1)
        others = ((2 - t1) * log_p).exp().scatter(1, targets[:, None], 0.0).sum(1) / (2 - t1)
        return at_y + others


def _log_t(log_x: Tensor, t: float) -> Tensor:
    # log_t x = (x^(1 - t) - 1) / (1 - t), given log x.
    return log_x if t == 1 else ((1 - t) * log_x).expm1() / (1 - t)


def _log_exp_t(x: Tensor, t: float) -> Tensor:
    # log exp_t(x) for x <= 0 and t >= 1, where exp_t(x) = (1 + (1 - t) x)^(1 / (1 - t)).
    return x if t == 1 else -((1 - t) * x).log1p() / (t - 1)


def _newton(below: Tensor, nu: Tensor, t: float) -> Tensor:
    # A step of Newton's method for log_t(sum_k exp_t(below_k - nu)) = 0, which for t = 1 and for
    # equal logits is linear in nu, and concave in between: it converges from any start.
    log_p = _log_exp_t(below - nu, t)
    log_sum = torch.logsumexp(log_p, 1, keepdim=True)
    slope = torch.logsumexp(t * log_p, 1, keepdim=True)
    return nu + _log_t(log_sum, t) * (t * log_sum - slope).exp()


class Forward(RowLoss):
    """-log sum_k p_k T[k, y] with T[i, j] = P(label j | true class i) (Patrini et al. 2017)."""

    needs: ClassVar[tuple[str, ...]] = ("transition",)
    transition: Tensor

    def __init__(self, *about: Any, transition: Tensor) -> None:
        super().__init__(*about)
        self.register_buffer("transition", _stochastic(transition, self.num_classes))

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_t = self.transition.to(logits.dtype).log().T[targets]  # -inf where T is 0
        # A label that no class is ever given has a probability of 0 whatever the logits are: its
        # loss is infinite, without a gradient (that of the log of 0 would be nan).
        never = (log_t == -math.inf).all(1)
        log_t = log_t.masked_fill(never[:, None], 0.0)
        losses = -torch.logsumexp(torch.log_softmax(logits, 1) + log_t, 1)
        return losses.masked_fill(never, math.inf)


class Backward(RowLoss):
    """-sum_k (T^-1)[y, k] log p_k (Patrini et al. 2017): unbounded below, since T^-1 has
    negative entries."""

    needs: ClassVar[tuple[str, ...]] = ("transition",)
    inverse: Tensor

    def __init__(self, *about: Any, transition: Tensor) -> None:
        super().__init__(*about)
        given = _stochastic(transition, self.num_classes)
        inverse, singular = torch.linalg.inv_ex(given.double())
        if singular or float(torch.linalg.matrix_norm(inverse, math.inf)) > 1e6:
            raise ValueError("the transition matrix of 'backward' must have an inverse")
        self.register_buffer("inverse", inverse.to(given.dtype))

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        inverse = self.inverse.to(logits.dtype)[targets]
        return -(inverse * torch.log_softmax(logits, 1)).sum(1)


def _stochastic(transition: Tensor, num_classes: int) -> Tensor:
    # A copy of the matrix, or ValueError where it is none of transition probabilities.
    k = num_classes
    good = transition.shape == (k, k) and transition.is_floating_point()
    if good:
        sums = transition.double().sum(1)
        good = bool((transition >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())
    if not good:
        raise ValueError(
            f"transition must be [{k}, {k}] of a floating point type, with rows of probabilities "
            f"that sum to 1, got {transition.dtype} {list(transition.shape)}"
        )
    return transition.detach().clone()


class ForwardEstimated(Forward):
    """`Forward` with T estimated from what a network has learned so far (Patrini et al. 2017, who
    train a first network for it); until then T is the identity, and the loss is CE."""

    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, spec: str, num_classes: int, *about: Any) -> None:
        super().__init__(spec, num_classes, *about, transition=torch.eye(num_classes))

    @torch.no_grad()
    def estimate(self, probabilities: Tensor) -> None:
        """Take T from the predictions [N, K] for the training samples; see `estimate_transition`.
        In place, so that what was compiled with the old one sees it."""
        self.transition.copy_(estimate_transition(probabilities, self.params["quantile"]))


def estimate_transition(probabilities: Tensor, quantile: float = 0.97) -> Tensor:
    """The transition matrix from predictions of a network trained on noisy labels.

    Row i is the prediction for the sample whose p_i is the given quantile of all, normalised
    (Patrini et al. 2017; their code takes 0.97, and 1, the largest, on CIFAR-100).

    Args:
        probabilities: The predictions [N, K], N at least 1.
        quantile: The quantile of p_i at which the sample of row i is taken, in [0, 1].

    Returns:
        T [K, K], T[i, j] = P(label j | true class i).

    Raises:
        ValueError: The shape of the predictions or the quantile does not fit.
    """
    if probabilities.ndim != 2 or not len(probabilities):
        raise ValueError(f"probabilities must be [N, K], N >= 1, got {list(probabilities.shape)}")
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be in [0, 1], got {quantile}")
    at = round(quantile * (len(probabilities) - 1))
    anchors = probabilities.sort(dim=0, stable=True).indices[at]
    rows = probabilities[anchors]
    return rows / rows.sum(1, keepdim=True)


class Elr(RowLoss):
    """CE + lam log(1 - <t_i, p>), t_i <- ema t_i + (1 - ema) p before use: a running mean of the
    predictions for sample i, 0 at first (Liu et al. 2020; p clamped as in their code)."""

    needs: ClassVar[tuple[str, ...]] = ("num_samples",)
    wants: ClassVar[tuple[str, ...]] = ("samples",)
    means: Tensor

    def __init__(self, *about: Any, num_samples: int) -> None:
        super().__init__(*about)
        self.num_samples = num_samples
        self.register_buffer("means", torch.zeros(num_samples, self.num_classes))

    def rows(self, logits: Tensor, targets: Tensor, samples: Tensor, kept: Tensor) -> Tensor:
        log_p, ema = torch.log_softmax(logits, 1), self.params["ema"]
        p = log_p.exp().clamp(1e-4, 1 - 1e-4)
        mean = self.means[samples].to(p.dtype)
        if self.training and torch.is_grad_enabled():
            now = p.detach()
            mean = ema * mean + (1 - ema) * now / now.sum(1, keepdim=True)
            _remember(self.means, samples, mean, kept)
        agreement = (mean * p).sum(1)
        return -_at(log_p, targets) + self.params["lam"] * (-agreement).log1p()


class Gjs(RowLoss):
    """The generalised Jensen-Shannon divergence of the label (weight pi) and the predictions for V
    views of one sample (the rest, evenly), over -(1 - pi) log(1 - pi) (Englesson & Azizpour
    2021)."""

    views: ClassVar[int] = 2

    def rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        pi, each = self.params["pi"], (1 - self.params["pi"]) / len(logits)
        log_p = torch.log_softmax(logits, 2)
        # A class that is masked in every view: the log of a sum of zeros would have no gradient.
        gone = (log_p == -math.inf).all(0)
        log_mean = torch.logsumexp(log_p.masked_fill(gone, 0.0), 0) + math.log(each)
        log_mean = log_mean.masked_fill(gone, -math.inf)
        at_y = torch.logaddexp(_at(log_mean, targets), logits.new_tensor(math.log(pi)))
        log_mean = log_mean.scatter(1, targets[:, None], at_y[:, None])
        ratio = (log_p - log_mean).masked_fill(log_p == -math.inf, 0.0)
        divergences = (log_p.exp() * ratio).sum((0, 2))
        return (each * divergences - pi * at_y) / -((1 - pi) * math.log1p(-pi))


class SparseRegularisation(RowLoss):
    """CE + lam_t sum_k p_k^s, both of z / (temp |z|), with lam_t = lam rho^floor(epoch / every)
    (Zhou et al. 2021 and its code, without the code's clamp of p at 1e-7)."""

    wants: ClassVar[tuple[str, ...]] = ("epoch",)

    def rows(self, logits: Tensor, targets: Tensor, epoch: float | Tensor) -> Tensor:
        params = self.params
        log_p = torch.log_softmax(_unit(logits) / params["temp"], 1)
        weight = params["lam"] * params["rho"] ** (epoch // params["every"])
        return -_at(log_p, targets) + weight * (params["s"] * log_p).exp().sum(1)


class EntropyRegularised(RowLoss):
    """A sum of terms + lam (log K - H(mean over the batch of p)) in every row, for H the entropy:
    what holds the predictions of a batch together from being of one class (Ye et al. 2024)."""

    of_batch: ClassVar[bool] = True

    def __init__(
        self, spec: str, num_classes: int, params: Mapping[str, float], options: LossOptions
    ) -> None:
        super().__init__(spec, num_classes, params, options)
        own = {name: value for name, value in params.items() if name != "lam"}
        self.terms = loss_terms(spec.removesuffix("_er"), num_classes, **own)

    def rows(self, logits: Tensor, targets: Tensor, kept: Tensor) -> Tensor:
        losses = dispatch.loss(logits, targets, self.terms, LossOptions(reduction="none"))
        log_p = torch.log_softmax(logits, 1).masked_fill(~kept[:, None], -math.inf)
        log_mean = torch.logsumexp(log_p, 0) - kept.sum().to(log_p.dtype).log()
        entropy = -(log_mean.exp() * log_mean).sum()
        return losses + self.params["lam"] * (math.log(self.num_classes) - entropy)


CRITERIA: dict[str, type[RowLoss]] = {
    "boot_hard": HardBootstrap,
    "eps_softmax": EpsSoftmax,
    "eps_softmax_mae": EpsSoftmax,
    "ce_lc": LogitClip,
    "ce_lc_authors": LogitClipAuthors,
    "ce_lc_eps": LogitClipEps,
    "ldr_kl": LdrKl,
    "aldr_kl": AldrKl,
    "bi_tempered": BiTempered,
    "forward": Forward,
    "forward_est": ForwardEstimated,
    "backward": Backward,
    "elr": Elr,
    "gjs": Gjs,
    "anl_ce_er": EntropyRegularised,
    "anl_fl_er": EntropyRegularised,
    "sr": SparseRegularisation,
}
"""The class of every loss that is no sum of terms."""


def needs_of(spec: str) -> tuple[str, ...]:
    """What `make_loss` must be given for this loss beside its parameters."""
    found = CRITERIA.get(loss_name(spec))
    return found.needs if found else ()


def make_loss(  # those of nn.CrossEntropyLoss, and ours
    spec: str,
    num_classes: int,
    reduction: Reduction = "mean",
    *,
    weight: Tensor | Sequence[float] | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    backend: Backend = "auto",
    inplace: bool = False,
    num_samples: int | None = None,
    transition: Tensor | None = None,
    **params: float | None,
) -> NoisyLabelLoss | RowLoss:
    """A drop-in for `nn.CrossEntropyLoss`, called as criterion(logits, targets).

    A loss that is no sum of terms takes class indices alone, no label_smoothing, and is computed in
    plain torch whatever the backend.

    Args:
        spec: A name of `apl.LOSSES` ('nce_rce') or a sum (`2*nce + 0.5*mae`, `norm(gce) + mae`),
            with parameters in brackets (`gce(q=0.9)`, `nce + 2*gce(q=0.9)`) or without.
        num_classes: How many classes there are, K, 2 or more.
        reduction: 'mean' (over the weights of the rows, as torch does), 'sum' or 'none'.
        weight: A factor per class, a tensor [K] or a list.
        ignore_index: The target of rows that do not count.
        label_smoothing: What share of each target goes to all classes alike, in [0, 1].
        backend: How it is computed ('triton', 'compiled', 'eager', 'reference'); `apl doctor` says
            what 'auto' takes on this machine.
        inplace: Whether a Triton kernel may write the gradient over the logits, which must not be
            used afterwards; it halves what the loss adds to the memory at its peak.
        num_samples: How many training samples there are, for a loss that remembers each (elr,
            aldr_kl) and is called with samples=, the numbers of those at hand.
        transition: T [K, K], T[i, j] = P(label j | true class i), for a loss that corrects by it
            (forward, backward).
        **params: alpha, beta (weights of the two parts of a combination), gamma (focal), q (gce), A
            (rce) and the others of `apl losses`, for every part of the loss that takes them and has
            none in its own brackets; None means its default.

    Returns:
        The criterion, a module; a `NoisyLabelLoss` where the loss is a sum of terms.

    Raises:
        ValueError: What is given does not fit.

    Examples:
        >>> criterion = make_loss("nce_rce", num_classes=10)
        >>> criterion(torch.zeros(2, 10), torch.tensor([3, 7]))
        tensor(8.3893)
    """
    check_classes(num_classes)
    weight = as_weight("weight", weight)
    options = LossOptions(weight, ignore_index, reduction, label_smoothing)
    options.check(num_classes)
    dispatch.check_backend(backend)
    name = loss_name(spec)
    extras = {"num_samples": num_samples, "transition": transition}
    given: dict[str, Any] = {extra: value for extra, value in extras.items() if value is not None}
    needs = needs_of(name)
    for extra in extras:
        if (extra in given) != (extra in needs):
            raise ValueError(f"{spec!r} {'needs' if extra in needs else 'takes no'} {extra}")
    if name not in CRITERIA:
        terms = loss_terms(spec, num_classes, **params)
        about = (spec, num_classes, loss_params(spec, params), options)
        return NoisyLabelLoss(*about, terms, backend, inplace)
    values: dict[str, Any] = loss_params(spec if "=" in spec else name, params)  # of one part
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    if label_smoothing or inplace:
        raise ValueError(f"{name!r} has no {'label_smoothing' if label_smoothing else 'inplace'}")
    return CRITERIA[name](name, num_classes, values, options, **given)
