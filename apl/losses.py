"""Names and expressions to losses: `make_loss("nce_rce", 10)`, `make_loss("2*nce + 0.5*mae", 10)`.

What a base loss is stands in `apl.kernels.reference`; here stands how bases combine and what they
are called.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

import apl.kernels as kernels
from apl.kernels import BACKENDS, BASES, REDUCTIONS, Backend, Reduction, Term, simplify

Recipe = tuple[tuple[str, str | float], ...]  # (base or norm(base), weight or the weight's name)


@dataclass(frozen=True)
class Loss:
    """A named loss: what it is called in print, its sum of terms, and where it comes from.

    terms: pairs (base, weight) with base like 'ce' or 'norm(ce)' and weight a number, or 'alpha'
    or 'beta' for one that the user sets; `defaults` holds their values.
    """

    label: str
    terms: Recipe
    source: str
    defaults: Mapping[str, float]

    @property
    def tolerant(self) -> bool:
        """Whether sum_j L(z, j) is constant: tolerant to symmetric noise (Lemma 1)."""
        return all(_is_tolerant(atom) for atom, _ in self.terms)

    @property
    def kind(self) -> str:
        """'active', 'passive', or 'active + passive' (definitions 1 and 2 of Ma et al. 2020)."""
        kinds = {"active" if BASES[_base(atom)].active else "passive" for atom, _ in self.terms}
        return " + ".join(sorted(kinds))

    @property
    def formula(self) -> str:
        """The loss of one row, as text."""
        if len(self.terms) == 1:
            atom = self.terms[0][0]
            base = _base(atom)
            return BASES[base].formula if atom == base else f"{base} / sum_j {base}_j"
        return " + ".join(f"{weight} {_short(atom)}" for atom, weight in self.terms)

    @property
    def params(self) -> dict[str, float]:
        """Every parameter this loss takes, with its default."""
        found = dict(self.defaults)
        for atom, _ in self.terms:
            found.update(BASES[_base(atom)].params)
        return found


def _base(atom: str) -> str:
    return atom.removeprefix("norm(").removesuffix(")")


def _short(atom: str) -> str:
    return f"n{_base(atom)}" if atom.startswith("norm(") else atom


def _is_tolerant(atom: str) -> bool:
    return atom.startswith("norm(") or BASES[atom].total is not None


MA = "Ma et al. 2020"


def _registry() -> dict[str, Loss]:
    named = {
        base: Loss(base.upper(), ((base, 1.0),), BASES[base].source, {})
        for base in ("ce", "fl", "mae", "rce", "gce")
    }
    named["sce"] = Loss(
        "SCE", (("ce", "alpha"), ("rce", "beta")), "Wang et al. 2019", {"alpha": 0.1, "beta": 1.0}
    )
    for base in ("ce", "fl", "mae", "rce", "gce"):
        named[f"n{base}"] = Loss(f"N{base.upper()}", ((f"norm({base})", 1.0),), MA, {})
    for active in ("ce", "fl", "gce"):
        for passive in ("mae", "rce"):
            named[f"n{active}_{passive}"] = Loss(
                f"N{active.upper()}+{passive.upper()}",
                ((f"norm({active})", "alpha"), (passive, "beta")),
                MA,
                {"alpha": 1.0, "beta": 1.0},
            )
    return named


LOSSES: dict[str, Loss] = _registry()
"""Every loss with a name, in the order of the tables."""

_SUMMAND = re.compile(
    r"\s*(?:(?P<weight>\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)\s*\*\s*)?"
    r"(?P<atom>norm\(\s*\w+\s*\)|[a-z]\w*)\s*",
    re.IGNORECASE,
)


def loss_label(spec: str) -> str:
    """What a loss is called in print: 'NCE+RCE' for 'nce_rce'; a sum as given."""
    return LOSSES[spec].label if spec in LOSSES else spec


def loss_name(spec: str) -> str:
    """The name of a loss that is given by its name in any case or by its label ('NCE+RCE'); any
    other text, such as a sum, as it is."""
    labels = {loss.label: name for name, loss in LOSSES.items()}
    text = spec.strip()
    return labels.get(text, text.lower() if text.lower() in LOSSES else text)


def parse_loss(spec: str) -> list[tuple[float, Loss]]:
    """A name or a sum like '2*nce + 0.5*norm(mae)' as weighted named losses.

    Raises ValueError that says what is accepted, with the nearest name to an unknown one.
    """
    summands = []
    position = 0
    while True:
        match = _SUMMAND.match(spec, position)
        if match is None:
            raise ValueError(
                f"cannot read the loss {spec!r}: give a name ({', '.join(LOSSES)}) "
                "or a sum such as '2*nce + 0.5*mae' or 'norm(gce) + mae'"
            )
        summands.append((float(match["weight"] or 1.0), _lookup(match["atom"].lower())))
        position = match.end()
        if position == len(spec):
            return summands
        if spec[position] != "+":
            raise ValueError(f"cannot read the loss {spec!r} at {spec[position:]!r}: expected '+'")
        position += 1


def _lookup(atom: str) -> Loss:
    inner = atom.removeprefix("norm(").removesuffix(")").strip()
    if atom.startswith("norm("):
        if f"n{inner}" in LOSSES:
            return LOSSES[f"n{inner}"]
        raise ValueError(f"norm() takes one of {', '.join(BASES)}; got {inner!r}")
    if atom not in LOSSES:
        near = difflib.get_close_matches(atom, LOSSES, 1, 0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown loss {atom!r}: {hint}accepted: {', '.join(LOSSES)}")
    return LOSSES[atom]


_ACCEPTED: dict[str, tuple[str, Callable[[float], bool]]] = {
    "alpha": ("a number >= 0", lambda v: v >= 0),
    "beta": ("a number >= 0", lambda v: v >= 0),
    "gamma": ("a number >= 0", lambda v: v >= 0),
    "q": ("a number in (0, 1]", lambda v: 0 < v <= 1),
    "A": ("a number < 0 (it stands for log 0)", lambda v: v < 0),
}
PARAMS = tuple(_ACCEPTED)
"""The names of all loss parameters."""


def loss_terms(spec: str, num_classes: int, **params: float | None) -> tuple[Term, ...]:
    """The sum of terms that `spec` means for `num_classes` classes.

    params: alpha, beta, gamma, q, A, each only where the loss takes it; None means the default.
    Raises ValueError for anything that does not fit.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    summands = parse_loss(spec)
    taken = {name: default for _, loss in summands for name, default in loss.params.items()}
    given = {name: value for name, value in params.items() if value is not None}
    for name, value in given.items():
        if name not in taken:
            accepted = ", ".join(taken) or "none"
            raise ValueError(f"{spec!r} takes no parameter {name!r}; it takes: {accepted}")
        meaning, fits = _ACCEPTED[name]
        if not (math.isfinite(value) and fits(value)):
            raise ValueError(f"{name} must be {meaning}, got {value}")
    terms = []
    for factor, loss in summands:
        values = {**loss.params, **given}
        for atom, weight in loss.terms:
            base = _base(atom)
            terms.append(
                Term(
                    base,
                    factor * (values[weight] if isinstance(weight, str) else weight),
                    atom != base,
                    tuple(values[name] for name in BASES[base].params),
                )
            )
    if not all(math.isfinite(term.weight) for term in terms):
        raise ValueError(f"the weights of {spec!r} must be finite")
    return simplify(terms, num_classes)


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
        backend: Backend,
    ) -> None:
        super().__init__()
        self.spec, self.num_classes, self.terms = spec, num_classes, terms
        self.ignore_index, self.reduction, self.backend = ignore_index, reduction, backend
        self.register_buffer("weight", weight)

    def extra_repr(self) -> str:
        return f"{self.spec!r}, num_classes={self.num_classes}, reduction={self.reduction!r}"

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """logits [N, K] or [N, K, d1, ...], targets [N] or [N, d1, ...] of class indices.

        Returns a scalar, or the shape of the targets for reduction 'none'.
        """
        if not logits.is_floating_point():
            raise ValueError(f"logits must be floating point, got {logits.dtype}")
        if logits.ndim < 2 or logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits must be [N, {self.num_classes}] or [N, {self.num_classes}, d1, ...], "
                f"got {list(logits.shape)}"
            )
        expected = (logits.shape[0], *logits.shape[2:])
        if targets.shape != expected or targets.is_floating_point():
            raise ValueError(
                f"targets must be class indices of shape {list(expected)}, "
                f"got {targets.dtype} {list(targets.shape)}"
            )
        return kernels.loss(
            logits,
            targets,
            self.terms,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            backend=self.backend,
        )


def make_loss(
    spec: str,
    num_classes: int,
    reduction: Reduction = "mean",
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    alpha: float | None = None,
    beta: float | None = None,
    gamma: float | None = None,
    q: float | None = None,
    A: float | None = None,
    backend: Backend = "auto",
) -> NoisyLabelLoss:
    """A drop-in for `nn.CrossEntropyLoss`, called as criterion(logits, targets).

    spec: a name of `apl.LOSSES` ('nce_rce') or a sum ('2*nce + 0.5*mae', 'norm(gce) + mae').
    reduction: 'mean' (over the weights of the rows, as torch does), 'sum' or 'none'.
    weight: a factor per class [K]; ignore_index: the target of rows that do not count.
    alpha, beta (weights of the two parts of a combination), gamma (focal), q (gce), A (rce):
    where the loss takes them; None means its default.
    backend: how it is computed ('triton', 'compiled', 'eager', 'reference');
    `apl.kernels.backends()` says what 'auto' takes on this machine.

    >>> criterion = make_loss("nce_rce", num_classes=10)
    >>> criterion(torch.zeros(2, 10), torch.tensor([3, 7]))
    tensor(8.3893)
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if weight is not None and weight.shape != (num_classes,):
        raise ValueError(f"weight must have shape [{num_classes}], got {list(weight.shape)}")
    terms = loss_terms(spec, num_classes, alpha=alpha, beta=beta, gamma=gamma, q=q, A=A)
    return NoisyLabelLoss(spec, num_classes, terms, weight, ignore_index, reduction, backend)
