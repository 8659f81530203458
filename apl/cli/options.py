"""The options: one for each field of a config and of the machine, and what is made of them."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apl.cli.console import console, counting
from apl.config.config import Config, make_config
from apl.config.presets import PRESETS
from apl.errors import BadInput
from apl.losses.catalog import LOSSES, PARAMS
from apl.names import DATASETS, METHODS, NETWORKS, NOISES, PRECISIONS, no_dataset
from apl.study.trackers import TRACKERS
from apl.training.machine import Machine
from apl.usercode import is_own, look_up

if TYPE_CHECKING:
    from apl.data.dataset import Dataset


_CHOICES: dict[str, Iterable[str]] = {
    **{"preset": PRESETS, "dataset": DATASETS, "loss": LOSSES, "noise": NOISES},
    **{"method": METHODS, "network": NETWORKS, "precision": PRECISIONS},
    **{"device": ("auto", "cpu", "cuda", "mps")},
}
"""What tab completion offers for an option."""

CONFIG = [f.name for f in dataclasses.fields(Config) if "help" in f.metadata]
MACHINE = [f.name for f in dataclasses.fields(Machine) if "help" in f.metadata]
DATA = ("data_dir", "download", "max_broken")
LABELS = (
    *("preset", "dataset", "image_size", "label_column", "test_set"),
    *("noise", "rate", "map", "method", "seed", "train_size"),
)

SHARED = [name for name in CONFIG if name not in ("loss", "noise", "rate", "seed")]  # by all cells


def _options() -> dict[str, inspect.Parameter]:
    """An option for every field of `Config` and `Machine` and every parameter of the losses."""
    found = {}
    usual = {**vars(make_config()), **vars(Machine())}
    helps = {
        f.name: f.metadata.get("help") for c in (Config, Machine) for f in dataclasses.fields(c)
    }
    types = {**typing.get_type_hints(Config), **typing.get_type_hints(Machine)}
    for name in (*CONFIG, *MACHINE, *PARAMS):
        flags = ["--" + name.replace("_", "-")]
        if name == "noise":
            flags.append("--type")
        kind = types.get(name, float)
        if kind is bool:
            flags = [f"{flags[0]}/--no-{flags[0][2:]}"]
        if name in PARAMS:
            text = f"{PARAMS[name].help} [default: the loss's]"
        elif usual[name] is None:  # the help says what that means
            text = str(helps[name])
        else:
            shown = "by noise type" if usual[name] == "" else usual[name]
            text = f"{helps[name]} [default: {shown}]"
        option = typer.Option(
            *flags,
            help=text.replace("[", r"\["),
            show_default=False,
            autocompletion=completion(_CHOICES.get(name)),
        )
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        found[name] = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
        )
    return found


def completion(choices: Iterable[str] | None) -> Callable[[str], list[str]] | None:
    if choices is None:
        return None
    return lambda incomplete: [name for name in choices if name.startswith(incomplete)]


_OPTIONS = _options()
TRACK = typer.Option(
    help=f"tell {', '.join(TRACKERS)} too, each an extra of that name (docs/trackers.md)",
    autocompletion=completion(TRACKERS),
)


def options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these names; it gets those that were given as keywords."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        kept += [_OPTIONS[name] for name in names]

        def called(**given: Any) -> None:
            command(**{k: v for k, v in given.items() if k not in names or v is not None})

        called.__doc__ = command.__doc__
        called.__name__ = command.__name__
        called.__signature__ = own.replace(parameters=kept)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in kept}
        return called

    return decorate


def take_machine(given: dict[str, Any], losses: Sequence[str] | None = None) -> Machine:
    """The machine's settings, taken out of what was given; what was typed may be imported."""
    typed = [given.get("network", ""), given.get("loss", ""), *(losses or ())]
    settings = {name: given.pop(name) for name in MACHINE if name in given}
    return Machine(imports=tuple(filter(is_own, typed)), **settings)


def take_own_data(given: dict[str, Any], machine: Machine) -> Dataset | None:
    """The data of the user's own that --dataset leads to, which takes its place in what was given;
    None where it is a built-in name."""
    named = given.get("dataset")
    if named is None or named in DATASETS:
        return None
    source: Any = named
    if not Path(named).expanduser().exists():
        if not is_own(named):
            raise no_dataset(named)
        source = look_up(named)
        source = source() if callable(source) else source
    from apl.data.reading import Reading
    from apl.data.sources import read_data

    out = console()
    with counting("reading images", out) as progress:
        given["dataset"] = read_data(
            source,
            Reading.of(given, max_broken=machine.max_broken),
            say=lambda line: out.print(line, markup=False),
            progress=progress,
        )
    data: Dataset = given["dataset"]
    return data


def split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in split(text) or []]
    except ValueError:
        raise BadInput(f"rates is {text!r}; accepted: numbers with commas, as 0.2,0.4") from None
