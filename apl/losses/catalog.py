"""Names and sums of losses, in words: 'nce_rce', '2*nce + 0.5*mae', 'nce + gce(q=0.9)'.

What a base loss is stands in `apl.kernels.bases`; here stands how bases combine and what they are
called; `apl.losses.modules` makes modules of them.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import NamedTuple

from apl.kernels.bases import BASES, Form, Term, simplify
from apl.usercode import is_own

# A number, the name of one, or what makes one of the parameters and the number of classes.
Weight = float | str | Callable[[Mapping[str, float], int], float]
# (base, norm(base), 1 - norm(base), or sum(base) over the classes; weight)
Recipe = tuple[tuple[str, Weight], ...]


@dataclass(frozen=True)
class Loss:
    """A named loss: what it is called in print, its sum of terms, and where it comes from.

    terms: pairs (base, weight) with base like 'ce', 'norm(ce)', '1 - norm(negce)' or 'sum(ce)' and
    weight a number, 'alpha' or 'beta' for one that the user sets, or a function of all parameters
    and the number of classes; `defaults` holds the values of these parameters, and those of the
    bases that are others here.  Without terms it is no sum, and `CRITERIA` of
    `apl.losses.modules` has its class.
    text: the formula, where the terms do not say it.
    """

    label: str
    terms: Recipe
    source: str
    defaults: Mapping[str, float]
    text: str = ""

    @property
    def tolerant(self) -> bool:
        """Whether sum_j L(z, j) is constant: tolerant to symmetric noise (Lemma 1)."""
        return bool(self.terms) and all(_is_tolerant(atom) for atom, _ in self.terms)

    @property
    def kind(self) -> str:
        """'active', 'passive', or 'active + passive' (definitions 1 and 2 of Ma et al. 2020);
        'other' for what is no sum of terms."""
        if not self.terms:
            return "other"
        kinds = {"active" if _is_active(atom) else "passive" for atom, _ in self.terms}
        return " + ".join(sorted(kinds))

    @property
    def formula(self) -> str:
        """The loss of one row, as text."""
        if self.text:
            return self.text
        if len(self.terms) == 1:
            atom = self.terms[0][0]
            base = _base(atom)
            if atom.startswith("1 - "):
                return f"1 - s_y / sum_j s_j, s = {BASES[base].formula}"
            return BASES[base].formula if atom == base else f"{base} / sum_j {base}_j"
        return " + ".join(f"{weight} {_short(atom)}" for atom, weight in self.terms)

    @property
    def params(self) -> dict[str, float]:
        """Every parameter this loss takes, with its default."""
        found = dict(self.defaults)
        for atom, _ in self.terms:
            found.update(BASES[_base(atom)].params)
        return {**found, **self.defaults}


def _base(atom: str) -> str:
    return atom.removeprefix("1 - ").removeprefix("norm(").removeprefix("sum(").removesuffix(")")


def _form(atom: str) -> Form:
    return "sum" if atom.startswith("sum(") else "at" if atom == _base(atom) else "norm"


def _is_active(atom: str) -> bool:
    return BASES[_base(atom)].active and _form(atom) != "sum"  # a sum has to do with all classes


def _short(atom: str) -> str:
    if atom.startswith("1 - "):
        return f"nn{_base(atom).removeprefix('neg')}"
    return f"n{_base(atom)}" if atom.startswith("norm(") else atom


def _is_tolerant(atom: str) -> bool:
    return _form(atom) == "norm" or BASES[_base(atom)].total is not None


MA = "Ma et al. 2020"
_PAPER = ("ce", "fl", "mae", "rce", "gce")  # the bases of Ma et al.
_LATER = tuple(base for base, of in BASES.items() if base not in _PAPER and not of.part)
_NEGATIVE = {"ce": "negce", "fl": "negfl"}  # of an active base, what it leaves of its largest value
# With what Zhou et al. 2021 join theirs with NCE on CIFAR-10: other parameters than alone.
_BESIDE_NCE = {
    "agce": {"beta": 4.0, "a": 6.0, "q": 1.5},
    "aul": {"beta": 4.0, "a": 6.3, "q": 1.5},
    "ael": {"beta": 4.0, "a": 5.0},
}


def _label(base: str) -> str:
    return base.upper().replace("_", "-")


def _alone(base: str) -> Loss:
    if base == "mae":  # others leave out its factor of 2, which changes what a learning rate does
        return Loss("MAE", (("mae", "scale"),), BASES["mae"].source, {"scale": 1.0})
    return Loss(_label(base), ((base, 1.0),), BASES[base].source, {})


def _normalised(base: str) -> Loss:
    return Loss(f"N{_label(base)}", ((f"norm({base})", 1.0),), MA, {})


def _joined(active: str, other: str) -> Loss:
    return Loss(
        f"N{_label(active)}+{_label(other)}",
        ((f"norm({active})", "alpha"), (other, "beta")),
        BASES[other].source if other in _BESIDE_NCE else MA,
        {"alpha": 1.0, "beta": 1.0, **_BESIDE_NCE.get(other, {})},
    )


def _negative(active: str) -> Loss:
    negative = _NEGATIVE[active]
    terms = ((f"1 - norm({negative})", 1.0),)
    return Loss(f"NN{_label(active)}", terms, BASES[negative].source, {})


def _active_negative(active: str) -> Loss:
    negative = _NEGATIVE[active]
    terms = ((f"norm({active})", "alpha"), (f"1 - norm({negative})", "beta"))
    weights = {"alpha": 5.0, "beta": 5.0}  # on CIFAR-10
    return Loss(f"ANL-{_label(active)}", terms, BASES[negative].source, weights)


def _amse(beta: str | None) -> Recipe:
    # (sum_k p_k^2 + a 2 (1 - p_y) + a^2 - 2 a) / K, times beta where it has a name.
    def weight(of_a: Callable[[float], float]) -> Weight:
        def of(params: Mapping[str, float], num_classes: int) -> float:
            return (params[beta] if beta else 1.0) * of_a(params["a"]) / num_classes

        return of

    return (
        ("sum(sq)", weight(lambda a: 1.0)),
        ("mae", weight(lambda a: a)),
        ("one", weight(lambda a: a * (a - 2))),
    )


def _joint(active: str) -> Loss:
    terms = ((f"norm({active})", "alpha"), *_amse("beta"))
    weights = {"alpha": 1.0, "beta": 1.0, "a": 30.0}  # on CIFAR-10
    return Loss(f"JAL-{_label(active)}", terms, WANG, weights, f"alpha n{active} + beta amse")


WANG = "Wang et al. 2025"
_SUMMED = {
    "amse": Loss(
        "AMSE", _amse(None), WANG, {"a": 30.0}, "sum_k (p_k - a q_k)^2 / K, q_y = 1 and else 0"
    ),
    "jal_ce": _joint("ce"),
    "jal_fl": _joint("fl"),
    "ls": Loss(
        "LS",
        (
            ("ce", lambda params, classes: 1 - params["smoothing"]),
            ("sum(ce)", lambda params, classes: params["smoothing"] / classes),
        ),
        "Szegedy et al. 2016",
        {"smoothing": 0.1},
        "ce of (1 - smoothing) q + smoothing / K",
    ),
    "boot_soft": Loss(
        "Soft bootstrap",
        (("ce", "beta"), ("sum(entropy)", lambda params, classes: 1 - params["beta"])),
        "Reed et al. 2015",
        {"beta": 0.95},
        "-sum_k (beta q_k + (1 - beta) p_k) log p_k",
    ),
}


# What is no sum of terms, and no summand either.  Where the defaults come from: docs/criteria.md.
def _other(label: str, source: str, text: str, **defaults: float) -> Loss:
    return Loss(label, (), source, defaults, text)


_OTHERS = {
    "boot_hard": _other(
        "Hard bootstrap",
        "Reed et al. 2015",
        "-beta log p_y - (1 - beta) log max_k p_k",
        beta=0.8,
    ),
    "eps_softmax": _other(
        "CE_eps",
        "Wang et al. 2024",
        "ce of (p + m onehot(argmax p)) / (m + 1)",
        m=1e5,
        p_floor=1e-8,
    ),
    "eps_softmax_mae": _other(
        "CE_eps+MAE",
        "Wang et al. 2024",
        "alpha eps_softmax + beta mae",
        alpha=0.01,
        beta=5.0,
        m=1e5,
        p_floor=1e-8,
    ),
    "ce_lc": _other("CE+LC", "Wei et al. 2023", "ce of z min(1, delta / |z|)", delta=1.0),
    "ce_lc_authors": _other(
        "CE+LC (authors' code)",
        "code of Wei et al. 2023",
        "ce of z / (delta |z|) where |z| > delta, else of z",
        delta=1.0,
    ),
    "ce_lc_eps": _other(
        "CE+LC (code of eps-softmax)",
        "code of Wang et al. 2024",
        "ce of delta z / |z| where |z| > 1 / delta, else of z",
        delta=1.5,
    ),
    "ldr_kl": _other(
        "LDR-KL",
        "Zhu et al. 2023",
        "lam log mean_k exp((margin [k != y] + f_k - f_y) / lam), f = softplus(z) / its mean",
        margin=0.1,
        lam=10.0,
    ),
    "aldr_kl": _other(
        "ALDR-KL",
        "Zhu et al. 2023",
        "ldr_kl with a lam for each sample, f = K z / |z|_1",
        margin=0.1,
        lam=10.0,
        pull=2.0,
    ),
    "bi_tempered": _other(
        "Bi-tempered",
        "Amid et al. 2019",
        "divergence of temperature t1 of exp_t2(z - nu) from q",
        t1=0.7,
        t2=1.5,
    ),
    "forward": _other("Forward", "Patrini et al. 2017", "-log sum_k p_k T_ky"),
    "forward_est": _other(
        "Forward (estimated T)",
        "Patrini et al. 2017",
        "forward, T estimated after the epochs of ce (--warm-start)",
        quantile=0.97,
    ),
    "backward": _other("Backward", "Patrini et al. 2017", "-sum_k (T^-1)_yk log p_k"),
    "elr": _other(
        "ELR",
        "Liu et al. 2020",
        "ce + lam log(1 - sum_k t_k p_k), t a running mean of p for each sample",
        ema=0.7,
        lam=3.0,
    ),
    "gjs": _other(
        "GJS",
        "Englesson & Azizpour 2021",
        "Jensen-Shannon divergence of q (weight pi) and p of two views",
        pi=0.3,
    ),
    "anl_ce_er": _other(
        "ANL-CE+ER",
        "Ye et al. 2024",
        "anl_ce + lam (log K - entropy of the batch's mean p)",
        **_active_negative("ce").params,
        lam=2.0,
    ),
    "anl_fl_er": _other(
        "ANL-FL+ER",
        "Ye et al. 2024",
        "anl_fl + lam (log K - entropy of the batch's mean p)",
        **_active_negative("fl").params,
        lam=2.0,
    ),
    "sr": _other(
        "SR",
        "Zhou et al. 2021",
        "(ce + lam rho^(epoch // every) sum_k p_k^s) of z / (temp |z|)",
        temp=0.5,
        s=0.1,
        lam=1.2,
        rho=1.03,
        every=1.0,
    ),
}


LOSSES: dict[str, Loss] = {
    **{base: _alone(base) for base in _PAPER},
    "sce": Loss(
        "SCE", (("ce", "alpha"), ("rce", "beta")), "Wang et al. 2019", {"alpha": 0.1, "beta": 1.0}
    ),
    **{f"n{base}": _normalised(base) for base in _PAPER},
    **{
        f"n{active}_{passive}": _joined(active, passive)
        for active in _PAPER
        if BASES[active].active
        for passive in _PAPER
        if not BASES[passive].active
    },
    **{base: _alone(base) for base in _LATER},
    **{f"n{base}": _normalised(base) for base in _LATER},
    **{f"nce_{base}": _joined("ce", base) for base in _LATER},
    **{f"nn{active}": _negative(active) for active in _NEGATIVE},
    **{f"anl_{active}": _active_negative(active) for active in _NEGATIVE},
    **_SUMMED,
    **_OTHERS,
}
"""Every loss with a name, in the order of the tables: of the bases of Ma et al. every one, plain
and normalised, and every normalised active one with a passive one; of each later base itself, its
normalised form and NCE with it; and what has a name of its own."""

SUMS = tuple(name for name, loss in LOSSES.items() if loss.terms)
"""Those that are sums of terms."""

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_OWN = r"\s*(?:\((?P<{}>[^()]*)\))?"  # parameters in brackets
_SUMMAND = re.compile(
    rf"\s*(?:(?P<factor>{_NUMBER})\s*\*\s*)?"
    rf"(?:norm\(\s*(?P<inner>\w+){_OWN.format('of_inner')}\s*\)"
    rf"|(?P<name>[a-z]\w*){_OWN.format('of_name')})\s*",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"\s*\([^()]*=[^()]*\)")
_SETS = re.compile(rf"\s*(?P<name>\w+)\s*=\s*(?P<value>[+-]?{_NUMBER})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A summand of a loss as it is written: factor * loss(own parameters).

    at: where in the text the name ends, and so where its brackets stand.
    """

    factor: float
    loss: Loss
    own: Mapping[str, float]
    at: int = field(compare=False)


Values = Mapping[str, float | tuple[float, ...]]
"""Parameters of a loss by name: a number for every part that takes it, or a tuple of one for each
of these parts, in order."""


REPAIR = "repair"
"""What stands where a loss does and is none: CE on labels that are repaired before, which
`apl.training.repair` tells."""


_BY_LABEL = {loss.label: name for name, loss in LOSSES.items()}


def loss_label(spec: str) -> str:
    """What a loss is called in print: 'NCE+RCE' for 'nce_rce'; a sum as given."""
    return LOSSES[spec].label if spec in LOSSES else spec


def loss_name(spec: str) -> str:
    """The name of a loss that is given by its name in any case, by its label ('NCE+RCE') or with
    parameters in brackets ('gce(q=0.9)'); a sum, or what can't be read, as it is, without
    the brackets."""
    text = _text(spec).strip()
    if text in _BY_LABEL:
        return _BY_LABEL[text]
    bare = text if is_own(text) else _BRACKETS.sub("", text).strip()
    small = bare.lower()
    return small if small == REPAIR or small in LOSSES else bare


def _text(spec: str) -> str:
    if not isinstance(spec, str):
        raise TypeError(
            "a loss is given as text, as 'nce_rce' or 'nce + 2*gce(q=0.9)', got "
            f"{type(spec).__name__}"
        )
    return spec


def check_classes(num_classes: int) -> None:
    """ValueError for what is no number of classes."""
    if not isinstance(num_classes, Real) or num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes!r}")


def split_losses(text: str) -> list[str]:
    """The losses of 'ce,gce(q=0.5,scale=2)', split at the commas outside brackets."""
    found, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth <= 0:
            found.append(text[start:place])
            start = place + 1
    return [loss.strip() for loss in (*found, text[start:]) if loss.strip()]


def parse_loss(spec: str) -> list[Part]:
    """The summands of a name or of a sum like '2*nce + 0.5*norm(gce(q=0.3))'.

    Raises ValueError that says what is accepted, with the nearest name to an unknown one; TypeError
    for what is no text.
    """
    if _text(spec).count("(") != spec.count(")"):
        raise ValueError(
            f"the brackets of the loss {spec!r} do not close: give it as 'gce(q=0.9)', in a shell "
            "with the quotes"
        )
    parts = []
    position = 0
    while True:
        match = _SUMMAND.match(spec, position)
        if match is None:
            raise ValueError(
                f"cannot read the loss {spec!r}: give a name (`apl losses` lists them) "
                "or a sum such as '2*nce + 0.5*mae', 'norm(gce) + mae' or 'nce + gce(q=0.9)'"
            )
        name = "name" if match["inner"] is None else "inner"
        found = _lookup(match[name].lower(), normalised=name == "inner")
        own = _own(spec, match[f"of_{name}"])
        parts.append(Part(float(match["factor"] or 1.0), found, own, match.end(name)))
        position = match.end()
        if position == len(spec):
            break
        if spec[position] != "+":
            raise ValueError(f"cannot read the loss {spec!r} at {spec[position:]!r}: expected '+'")
        position += 1
    for part in parts:
        label = part.loss.label
        if not part.loss.terms and (part.factor != 1.0 or len(parts) > 1):
            raise ValueError(f"{label} is no sum of terms and no part of one, got {spec!r}")
        for name in part.own:
            _require_taken(f"{label} in {spec!r}" if len(parts) > 1 else label, name, part.loss)
    return parts


def _own(spec: str, inside: str | None) -> dict[str, float]:
    """What stands in the brackets of a part: 'q=0.9, A=-4'."""
    own: dict[str, float] = {}
    for text in () if inside is None else inside.split(","):
        match = _SETS.fullmatch(text)
        if match is None:
            raise ValueError(
                f"cannot read {text.strip()!r} in the loss {spec!r}: brackets hold parameters as "
                "NAME=NUMBER, with commas"
            )
        if match["name"] in own:
            raise ValueError(f"the loss {spec!r} sets {match['name']} twice")
        own[match["name"]] = float(match["value"])
    return own


def _lookup(name: str, *, normalised: bool) -> Loss:
    if normalised:
        if name in (*_PAPER, *_LATER):
            return LOSSES[f"n{name}"]
        raise ValueError(f"norm() takes one of {', '.join((*_PAPER, *_LATER))}; got {name!r}")
    if name == REPAIR:
        raise ValueError(
            f"{REPAIR!r} is no loss of logits and labels: it trains on repaired labels, stands "
            "alone and takes no parameter"
        )
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, 5, 0.0)
        meant = f"{', '.join(map(repr, near[:-1]))} or {near[-1]!r}"
        raise ValueError(f"unknown loss {name!r}: did you mean {meant}? `apl losses` lists all")
    return LOSSES[name]


def write_loss(name: str, params: Values) -> str:
    """A loss without brackets with these parameters in brackets, each at every part that takes it:
    'nce + 2*gce(q=0.9)'; `loss_name` and `loss_params` read both back.

    Raises ValueError for a loss that can't be read.
    """
    if not params:
        return name
    text, longer = name, 0
    parts, options = _per_part(name, params)
    for part, option in zip(parts, options, strict=True):
        if option:
            ordered = [f"{each}={_exact(option[each])}" for each in PARAMS if each in option]
            brackets, place = f"({', '.join(ordered)})", part.at + longer
            text, longer = text[:place] + brackets + text[place:], longer + len(brackets)
    return text


def _exact(value: float) -> str:
    """A number as short as reads back the same."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


class Param(NamedTuple):
    """A parameter of losses: its help, what is accepted in words, and whether a value is."""

    help: str
    accepted: str
    fits: Callable[[float], bool]


PARAMS: dict[str, Param] = {
    "alpha": Param("weight of the active part of a combination", "a number >= 0", lambda v: v >= 0),
    "beta": Param("weight of the passive part of a combination", "a number >= 0", lambda v: v >= 0),
    "gamma": Param("focusing parameter of the focal losses", "a number >= 0", lambda v: v >= 0),
    "q": Param("exponent of the gce, agce and aul losses", "a number > 0", lambda v: v > 0),
    "scale": Param("factor of mae alone: 0.5 for 1 - p_y", "a number >= 0", lambda v: v >= 0),
    "A": Param("what rce puts for log 0", "a number < 0 (it stands for log 0)", lambda v: v < 0),
    "a": Param(
        "shift of the agce, aul and ael losses; in amse and jal what p_y is drawn to",
        "a number > 0",
        lambda v: v > 0,
    ),
    "t": Param(
        "summands of the tce losses",
        "a whole number from 1 to 100",
        lambda v: 1 <= v <= 100 and v == int(v),
    ),
    "tau": Param("bound of the slope in p of the phuber losses", "a number > 1", lambda v: v > 1),
    "pi": Param("weight of the label in the js losses", "a number in (0, 1)", lambda v: 0 < v < 1),
    "p_min": Param(
        "probability below which the nnce, nnfl and anl losses are flat",
        "a number in (0, 1)",
        lambda v: 0 < v < 1,
    ),
    "smoothing": Param(
        "share of each label that goes to all classes alike in ls",
        "a number <= 1",
        lambda v: v <= 1,
    ),
    "m": Param("what eps_softmax adds to the largest p", "a number >= 0", lambda v: v >= 0),
    "p_floor": Param(
        "what eps_softmax clamps its p at", "a number in [0, 1)", lambda v: 0 <= v < 1
    ),
    "delta": Param("norm of the logits in the ce_lc losses", "a number > 0", lambda v: v > 0),
    "margin": Param("margin of the ldr losses", "a number >= 0", lambda v: v >= 0),
    "lam": Param(
        "strength of the term that elr, sr and anl_.._er add; temperature of the ldr losses",
        "a number > 0",
        lambda v: v > 0,
    ),
    "pull": Param("what holds the lam of each sample in aldr_kl", "a number > 1", lambda v: v > 1),
    "t1": Param(
        "temperature of bi_tempered's logarithm", "a number in [0, 1]", lambda v: 0 <= v <= 1
    ),
    "t2": Param(
        "temperature of bi_tempered's exponential", "a number in [1, 5]", lambda v: 1 <= v <= 5
    ),
    "quantile": Param(
        "of the p_i of all samples: the one at it shows forward_est how class i is labelled",
        "a number in [0, 1]",
        lambda v: 0 <= v <= 1,
    ),
    "ema": Param("share that elr's running means keep", "a number in [0, 1)", lambda v: 0 <= v < 1),
    "temp": Param("temperature of sr's softmax", "a number > 0", lambda v: v > 0),
    "s": Param("exponent of sr's sparse term", "a number in (0, 1]", lambda v: 0 < v <= 1),
    "rho": Param("growth of sr's lam", "a number > 0", lambda v: v > 0),
    "every": Param("epochs between two growths of sr's lam", "a number > 0", lambda v: v > 0),
}
"""Every loss parameter by name; an option of `apl train` and `apl study` each."""


def params_of(spec: str) -> set[str]:
    """The names of the parameters that a loss takes, of the user's own none.

    Raises ValueError for a loss that can't be read.
    """
    return set() if _is_none(spec) else {n for part in parse_loss(spec) for n in part.loss.params}


def _is_none(spec: str) -> bool:
    """Whether a loss is none of ours, and so without parameters."""
    return is_own(_text(spec)) or spec.strip().lower() == REPAIR


def loss_params(
    spec: str,
    params: Mapping[str, float | tuple[float, ...] | None],
    usual: Mapping[str, float] | None = None,
) -> dict[str, float | tuple[float, ...]]:
    """Every parameter of a loss with its value, in the order of `PARAMS`.

    A part of the loss takes what stands in its own brackets, then what is in params (None meaning
    that it is not given), then what is usual, then its default.  A tuple in params gives a value
    for each of the parts that take it; parts that differ give one.
    Raises ValueError for a loss that can't be read, for a name or a value that it does not take,
    and for a parameter that only parts with another value of their own take.
    """
    if _is_none(spec):
        for name in (name for name, value in params.items() if value is not None):
            raise ValueError(f"{spec!r} takes no parameter {name!r}; it takes: none")
        return {}
    _, values = _resolved(spec, params, usual or {})
    found: dict[str, float | tuple[float, ...]] = {}
    for name in PARAMS:
        each = tuple(own[name] for own in values if name in own)
        if each:
            found[name] = each[0] if len(set(each)) == 1 else each
    return found


def _resolved(
    spec: str,
    params: Mapping[str, float | tuple[float, ...] | None],
    usual: Mapping[str, float],
) -> tuple[list[Part], list[dict[str, float]]]:
    """The parts of a loss, and every parameter of each with its value, as `loss_params` says."""
    given = {name: value for name, value in params.items() if value is not None}
    parts, options = _per_part(spec, given)
    for name in given:
        taking = [pair for pair in zip(parts, options, strict=True) if name in pair[1]]
        unlike = [
            (p.own[name], o[name]) for p, o in taking if p.own.get(name) not in (None, o[name])
        ]
        if unlike and all(name in part.own for part, _ in taking):
            inside, beside = map(_exact, unlike[0])
            raise ValueError(f"{name} is {inside} in {spec!r} and {beside} beside it: give one")
    values = []
    for part, option in zip(parts, options, strict=True):
        defaults = part.loss.params
        of_usual = {name: value for name, value in usual.items() if name in defaults}
        values.append({**defaults, **of_usual, **option, **part.own})
        _check_values(part.loss, values[-1])
    if not all(math.isfinite(term.weight) for term in _terms(parts, values, 2)):
        raise ValueError(f"the weights of {spec!r} must be finite")
    return parts, values


def _per_part(spec: str, given: Values) -> tuple[list[Part], list[dict[str, float]]]:
    """The parts of a loss, and what of these parameters each takes."""
    parts = parse_loss(spec)
    options: list[dict[str, float]] = [{} for _ in parts]
    for name, value in given.items():
        taking = [o for o, part in zip(options, parts, strict=True) if name in part.loss.params]
        if not taking:
            _require_taken(repr(spec), name, *(part.loss for part in parts))
        each = value if isinstance(value, tuple) else (value,) * len(taking)
        if len(each) != len(taking):
            wanted = f"one number or {len(taking)}"
            raise ValueError(f"{name} of {spec!r} must be {wanted}, got {len(each)}")
        for option, number in zip(taking, each, strict=True):
            option[name] = float(number)
    return parts, options


def _require_taken(who: str, name: str, *losses: Loss) -> None:
    taken = {name for loss in losses for name in loss.params}
    if name not in taken:
        accepted = ", ".join(name for name in PARAMS if name in taken) or "none"
        raise ValueError(f"{who} takes no parameter {name!r}; it takes: {accepted}")


def _check_values(loss: Loss, values: Mapping[str, float]) -> None:
    """Raise ValueError for a value that is out of its range."""
    bases = {_base(atom) for atom, _ in loss.terms}
    for name, value in values.items():
        narrower = [BASES[base].ranges[name] for base in bases if name in BASES[base].ranges]
        for accepted, fits in (*narrower, PARAMS[name][1:]):
            if not (math.isfinite(value) and fits(value)):
                raise ValueError(f"{name} must be {accepted}, got {value}")


def loss_terms(
    spec: str, num_classes: int, **params: float | tuple[float, ...] | None
) -> tuple[Term, ...]:
    """The sum of terms that `spec` means for `num_classes` classes.

    params: as `loss_params` takes them.
    Raises ValueError for anything that does not fit.
    """
    check_classes(num_classes)
    parts, values = _resolved(spec, params, {})
    terms = _terms(parts, values, num_classes)
    if not terms:
        raise ValueError(f"{spec!r} is no sum of terms: make_loss makes a module of it")
    for p_min in (term.params[0] for term in terms if term.base in _NEGATIVE.values()):
        if p_min * num_classes >= 1:  # all that stands below the fraction might be 0
            raise ValueError(f"p_min must be below 1 / {num_classes} classes, got {p_min}")
    return simplify(terms, num_classes)


def _terms(
    parts: Sequence[Part], values: Sequence[Mapping[str, float]], num_classes: int
) -> list[Term]:
    """The terms of parts with all their values."""
    terms = []
    for part, own in zip(parts, values, strict=True):
        for atom, weight in part.loss.terms:
            base = _base(atom)
            if callable(weight):
                number = part.factor * weight(own, num_classes)
            else:
                number = part.factor * (own[weight] if isinstance(weight, str) else weight)
            if atom.startswith("1 - "):
                terms.append(Term("one", number))
                number = -number
            given_to = tuple(own[name] for name in BASES[base].params)
            terms.append(Term(base, number, _form(atom), given_to))
    return terms


def is_tolerant(spec: str) -> bool:
    """Whether every part of the loss is known to be tolerant to symmetric noise; repaired labels
    are taken for it."""
    if _is_none(spec):
        return not is_own(spec)
    return all(part.loss.tolerant for part in parse_loss(spec))
