"""Names and sums of losses, in words: 'nce_rce', '2*nce + 0.5*mae'.

What a base loss is stands in `apl.kernels.bases`; here stands how bases combine and what they are
called; `apl.criteria` makes modules of them.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from apl.kernels.bases import BASES, Term, simplify

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
    """Every base, plain and normalised, and every normalised active one with a passive one."""
    named = {base: Loss(base.upper(), ((base, 1.0),), of.source, {}) for base, of in BASES.items()}
    named["sce"] = Loss(
        "SCE", (("ce", "alpha"), ("rce", "beta")), "Wang et al. 2019", {"alpha": 0.1, "beta": 1.0}
    )
    for base in BASES:
        named[f"n{base}"] = Loss(f"N{base.upper()}", ((f"norm({base})", 1.0),), MA, {})
    for active in (base for base, of in BASES.items() if of.active):
        for passive in (base for base, of in BASES.items() if not of.active):
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


class Param(NamedTuple):
    """A parameter of losses: its help, what is accepted in words, and whether a value is."""

    help: str
    accepted: str
    fits: Callable[[float], bool]


PARAMS: dict[str, Param] = {
    "alpha": Param("weight of the active part of a combination", "a number >= 0", lambda v: v >= 0),
    "beta": Param("weight of the passive part of a combination", "a number >= 0", lambda v: v >= 0),
    "gamma": Param("focusing parameter of the focal losses", "a number >= 0", lambda v: v >= 0),
    "q": Param("exponent of the gce losses", "a number in (0, 1]", lambda v: 0 < v <= 1),
    "A": Param("what rce puts for log 0", "a number < 0 (it stands for log 0)", lambda v: v < 0),
}
"""Every loss parameter by name; an option of `apl train` and `apl study` each."""


def check_params(spec: str, params: Mapping[str, float | None]) -> dict[str, float]:
    """The parameters of a loss that are given, None meaning that one is not.

    Raises ValueError for a loss that can't be read, and for a name or a value it does not take.
    """
    taken = {name for _, loss in parse_loss(spec) for name in loss.params}
    given = {name: value for name, value in params.items() if value is not None}
    for name, value in given.items():
        if name not in taken:
            accepted = ", ".join(name for name in PARAMS if name in taken) or "none"
            raise ValueError(f"{spec!r} takes no parameter {name!r}; it takes: {accepted}")
        if not (math.isfinite(value) and PARAMS[name].fits(value)):
            raise ValueError(f"{name} must be {PARAMS[name].accepted}, got {value}")
    if not all(math.isfinite(term.weight) for term in _terms(spec, given)):
        raise ValueError(f"the weights of {spec!r} must be finite")
    return given


def loss_terms(spec: str, num_classes: int, **params: float | None) -> tuple[Term, ...]:
    """The sum of terms that `spec` means for `num_classes` classes.

    params: names of `PARAMS`, each only where the loss takes it; None means the default.
    Raises ValueError for anything that does not fit.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    return simplify(_terms(spec, check_params(spec, params)), num_classes)


def _terms(spec: str, given: Mapping[str, float]) -> list[Term]:
    terms = []
    for factor, loss in parse_loss(spec):
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
    return terms


def is_tolerant(spec: str) -> bool:
    """Whether every part of the loss is tolerant to symmetric noise."""
    return all(part.tolerant for _, part in parse_loss(spec))
