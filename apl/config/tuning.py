"""Settings that are tuned: the configurations of each loss, and the cells that try and judge them.

Every loss and noise setting has the same number of configurations, each tried on tuning seeds; one
is chosen by the mean accuracy on held-out given labels after the last epoch, no true label being
looked at, and is judged on evaluation seeds that no tuning run has.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apl.config.config import Config
from apl.config.grid import make_grid
from apl.errors import BadInput, require
from apl.losses.catalog import PARAMS, loss_name, params_of

FIRST_SEED = 1000
"""The first tuning seed: more evaluation seeds than that are refused, so that none is tuned on."""

TUNED = ("lr", "weight_decay", "warm_start", "epochs", "batch_size", "momentum", "warmup", "clip")
TUNABLE = (*TUNED, "l1", "dropout", "weight_ema", "width")
_WHOLE = {"epochs", "batch_size", "width"}
_CALLED = {"warm_start_epochs": "warm_start"}
_ACCEPTED = (
    f"NAME=X,X,... of {', '.join(TUNABLE)}, a loss's parameter, or LOSS.PARAMETER, as gce.q=.5,.7"
)

Values = dict[str, float]


@dataclass(frozen=True)
class Tuning:
    """What is tuned: the values of each setting by name, a loss's own parameter as 'q' or, for one
    loss alone, 'gce.q'; and on how many seeds each configuration is tried."""

    over: Mapping[str, tuple[float, ...]]
    seeds: int

    @classmethod
    def of(cls, texts: Sequence[str], seeds: int) -> Tuning:
        """From what was typed, as 'lr=.005,.02'; BadInput for what can't be tuned."""
        require(seeds >= 1, "tune_seeds", seeds, "a whole number >= 1")
        over: dict[str, tuple[float, ...]] = {}
        for text in texts:
            typed, equals, listed = text.partition("=")
            name = typed.strip().replace("-", "_") if "." not in typed else typed.strip()
            name = _CALLED.get(name, name)
            known = name in TUNABLE or name.rpartition(".")[2] in PARAMS
            require(bool(equals) and known, "tune", text, _ACCEPTED)
            require(name not in over, "tune", text, f"{name} once")
            over[name] = _numbers(text, name, listed)
        return cls(over, seeds)

    def for_loss(self, loss: str) -> dict[str, tuple[float, ...]]:
        """What of it is tuned for a loss, by the names that were typed."""
        takes = params_of(loss)
        found = {}
        for name, values in self.over.items():
            of, _, param = name.rpartition(".")
            if name in TUNABLE or (param in takes and (not of or loss_name(of) == loss)):
                found[name] = values
        return found

    def configurations(self, loss: str) -> list[Values]:
        """The configurations of a loss, each as its values by the name of the setting."""
        over = self.for_loss(loss)
        names = [name.rpartition(".")[2] for name in over]
        return [dict(zip(names, each, strict=True)) for each in itertools.product(*over.values())]

    def require_alike(self, losses: Sequence[str]) -> None:
        """Raise BadInput unless each of the losses has as many configurations, and what is tuned
        is some loss's."""
        for name in self.over:
            if not any(name in self.for_loss(loss) for loss in losses):
                raise BadInput(f"tune is {name!r}, which none of {', '.join(losses)} takes")
        counts = {loss: len(self.configurations(loss)) for loss in losses}
        most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        if counts[most] != counts[least]:
            raise BadInput(
                f"{most} would be tried with {counts[most]} configurations and {least} with "
                f"{counts[least]}: a fair choice tries as many for each; give the others' own "
                "parameters as many values, or run them in a study of their own"
            )


def _numbers(text: str, name: str, listed: str) -> tuple[float, ...]:
    kind: Callable[[str], float] = int if name in _WHOLE else float
    try:
        values = tuple(kind(part) for part in listed.split(",") if part.strip())
    except ValueError:
        raise BadInput(f"tune is {text!r}; accepted: {_ACCEPTED}") from None
    require(bool(values) and len(set(values)) == len(values), "tune", text, "values, each once")
    return values


def setting_key(config: Config) -> str:
    """What the tuning runs of one loss under one noise setting share: all but seed, name and what
    is tuned."""
    tuned = set((config.tuned or {}).get("values", ()))
    fields = {n: v for n, v in config.to_json().items() if n not in {*tuned, "seed", "params"}}
    fields["params"] = {n: v for n, v in config.params.items() if n not in tuned}
    return json.dumps(fields, sort_keys=True)


def part_of(config: Config) -> str:
    """What part a run has in a tuning: 'tuning', 'evaluation', or '' where nothing is tuned."""
    return str((config.tuned or {}).get("part", ""))


@dataclass(frozen=True)
class TunedGrid:
    """The cells of a tuned study: one of each loss and noise setting, what is tuned, and on how
    many seeds what was chosen is judged."""

    base: Sequence[Config]
    tuning: Tuning
    seeds: int

    @classmethod
    def of(
        cls,
        tuning: Tuning,
        preset: str,
        losses: Sequence[str] | None = None,
        noises: Sequence[str] | None = None,
        rates: Sequence[float] | None = None,
        say: Callable[[str], None] = print,
        **overrides: Any,
    ) -> TunedGrid:  # those of make_grid, and what is tuned
        """From the arguments of `make_grid`.  A tenth of the training labels is held out, as given,
        in every run: it is what chooses."""
        seeds = overrides.pop("seeds", None)
        plain = {name: values[0] for name, values in tuning.over.items() if name in TUNABLE}
        both = {name for name in tuning.over if overrides.get(name) is not None}
        for name in sorted(both):
            raise BadInput(f"{name} is given and tuned: give --{name.replace('_', '-')} or --tune")
        given = {**overrides, **plain, "select": "noisy"}
        base = make_grid(preset, losses, noises, rates, None, say, **given)
        count = 1 + max(cell.seed for cell in base) if seeds is None else seeds
        fits = 1 <= count <= FIRST_SEED
        require(fits, "seeds", count, f"a whole number from 1 to {FIRST_SEED}, to tune")
        base = [cell for cell in base if cell.seed == 0]
        for cell in base:
            for name in (
                set(tuning.configurations(cell.loss)[0]) & {*PARAMS} & {*(cell.typed or ())}
            ):
                raise BadInput(f"{name} of {cell.loss} is given and tuned: give it once")
        tuning.require_alike(list(dict.fromkeys(cell.loss for cell in base)))
        return cls(base, tuning, count)

    @property
    def expected(self) -> list[Config]:
        """The tuning runs, and evaluation runs as if the first configuration were chosen: as many
        as there will be, and of the same data."""
        first = {self.key(c): {"values": self.tuning.configurations(c.loss)[0]} for c in self.base}
        return [*self.to_tune(), *self.to_judge(first)]

    def to_tune(self) -> list[Config]:
        """The tuning runs, seed by seed."""
        return [
            self._cell(cell, FIRST_SEED + k, values, {"part": "tuning"})
            for k in range(self.tuning.seeds)
            for cell in self.base
            for values in self.tuning.configurations(cell.loss)
        ]

    def to_judge(self, chosen: Mapping[str, Mapping[str, Any]]) -> list[Config]:
        """The evaluation runs, seed by seed, of the losses and noise settings for which something
        was chosen: by `setting_key` its `values`, and what else their records are to say."""
        cells = [(cell, chosen.get(self.key(cell))) for cell in self.base]
        return [
            self._cell(cell, seed, dict(said["values"]), {"part": "evaluation", **said})
            for seed in range(self.seeds)
            for cell, said in cells
            if said is not None
        ]

    def key(self, cell: Config) -> str:
        """The `setting_key` of a cell of the base."""
        values = self.tuning.configurations(cell.loss)[0]
        return setting_key(self._cell(cell, FIRST_SEED, values, {"part": "tuning"}))

    def _cell(self, cell: Config, seed: int, values: Values, said: Mapping[str, Any]) -> Config:
        params = {**cell.params, **{n: v for n, v in values.items() if n in PARAMS}}
        rest: dict[str, Any] = {name: v for name, v in values.items() if name not in PARAMS}
        over = {name: list(each) for name, each in self.tuning.for_loss(cell.loss).items()}
        tuned = {"values": values, "over": over, "seeds": self.tuning.seeds, **said}
        typed = tuple(sorted({*(cell.typed or ()), *values}))
        made = dataclasses.replace(
            cell, seed=seed, params=params, typed=typed, tuned=tuned, identity=None, **rest
        )
        return made.saying(values)
