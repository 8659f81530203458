"""The options: one for each field of a config and of the machine, and what is made of them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from apl.cli.completion import CHOICES, loss, one_of
from apl.cli.console import console, counting
from apl.config.config import Config, make_config, usual_side
from apl.errors import BadInput, Stopped
from apl.features.catalog import is_own_function
from apl.losses.catalog import PARAMS
from apl.names import DATASETS, NOISES, no_dataset
from apl.paths import user_path
from apl.study.trackers import TRACKERS
from apl.training.machine import Machine
from apl.usercode import is_own, look_up

if TYPE_CHECKING:
    from apl.data.dataset import Dataset


CONFIG = [f.name for f in dataclasses.fields(Config) if "help" in f.metadata]
MACHINE = [f.name for f in dataclasses.fields(Machine) if "help" in f.metadata]
DATA = (
    *("data_dir", "download", "max_broken", "classes", "max_pixels"),
    *("image_folder", "layout", "skip", "text_column"),
)
LABELS = (
    *("preset", "dataset", "image_size", "label_column", "test_set"),
    *("noise", "rate", "map", "method", "seed", "train_size"),
)

SHARED = [name for name in CONFIG if name not in ("loss", "noise", "rate", "seed")]  # by all runs

SELDOM = ("components",)  # taken and not shown, as the parameters of losses: docs tell of it
PANELS: dict[str, tuple[str, ...]] = {
    "Options": (  # typer's own panel, the first one, with --help: what most people need
        *("dataset", "loss", "losses", "noise", "rate", "rates", "seed", "seeds", "preset"),
        *(
            "tune",
            "tune_seeds",
            "repair",
            "epochs",
            "labels",
            "folds",
            "judge",
            "audit",
            "decisions",
            "shown",
            "another",
            "pictures",
            "folder",
            "out_file",
            "everything",
            "best",
            "fit",
            "form",
            "card",
        ),
        *("to", "link", "move", "yes", "undo"),
    ),
    "Data": (
        *(
            "features",
            "train_size",
            "fresh_data",
            "image_size",
            "label_column",
            "test_set",
            "select",
        ),
        *("augment", "crop_size", "crop", "colour", *DATA),
    ),
    "Noise": ("map", "method"),
    "Loss": ("warm_start", *PARAMS),
    "Network": ("network", "width", "weights", "components", "dropout"),
    "Training": (
        *("batch_size", "lr", "schedule", "warmup", "momentum", "nesterov", "weight_decay"),
        *("l1", "clip", "weight_ema", "eval_every", "precision"),
    ),
    "Where it runs": (
        *("device", "threads", "workers", "cells_per_gpu", "compile", "checkpoint_minutes"),
        *("ray", "bring_weights", "track"),
    ),
}
"""By what a person thinks of: the options of `Config`, of `Machine` and the commands' own, in the
order in which `--help` shows them.  Parameters of a loss are written where the loss is, as
`gce(q=0.9)`; as options they are accepted and not shown."""

_PANEL = {name: panel for panel, names in PANELS.items() for name in names}
_ORDER = {name: place for place, name in enumerate(_PANEL)}

_SHAPES: dict[Any, str] = {
    int: "N",
    float: "X",
    str: "NAME",
    Path: "PATH",
    bool: "",
    list[str]: "NAME",
}  # of a value, in a help


def maps() -> str:
    """Every map of every kind of noise, in words; kinds that have the same maps together."""
    kinds: dict[str, list[str]] = {}
    for name, kind in NOISES.items():
        if kind.maps:
            kinds.setdefault(kind.maps, []).append(name)
    return "; ".join(f"{', '.join(names)}: {accepted}" for accepted, names in kinds.items())


def _fields() -> dict[str, tuple[Any, str]]:
    """The type and the help of every field of `Config` and `Machine` that is an option."""
    found = {}
    for of in (Config, Machine):
        types = typing.get_type_hints(of)
        for each in dataclasses.fields(of):
            if "help" in each.metadata:
                found[each.name] = types[each.name], each.metadata["help"]
    return found


_FIELDS = _fields()
USUAL: dict[str, object] = {**vars(make_config()), **vars(Machine())}
"""The defaults of `apl train`: those of the preset quick."""


def _shared_option(name: str) -> inspect.Parameter:
    """An option for a field of `Config` or `Machine`, or for a parameter of the losses."""
    kind, help = _FIELDS[name] if name in _FIELDS else (float, PARAMS[name].help)
    flags = ["--" + name.replace("_", "-")]
    if name == "noise":
        flags.append("--type")
    if kind is bool:
        flags = [f"{flags[0]}/--no-{flags[0][2:]}"]
    offer = loss if name == "loss" else one_of(CHOICES[name]) if name in CHOICES else None
    hidden = name in PARAMS or name in SELDOM
    option = typer.Option(*flags, help=help, hidden=hidden, autocompletion=offer)
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _show(option: OptionInfo, kind: Any, name: str, text: str, default: object) -> None:
    """Have `--help` show an option in its panel, with this text and this default."""
    kinds = typing.get_args(kind) or (kind,)
    option.rich_help_panel = _PANEL[name]
    option.metavar = next(shape for of, shape in _SHAPES.items() if of in kinds)
    option.help = _with_default(name, text, default).replace("[", r"\[")
    option.show_default = False


def _with_default(name: str, help: str, value: object) -> str:
    """A help and the default, marked where it is one of the choices; as it is where the help says
    what happens by default."""
    if value in (None, ""):
        return help
    if isinstance(value, bool):
        return f"{help} [default: yes; else --no-{name}]" if value else f"{help} [default: no]"
    if name in CHOICES:
        marked = re.sub(rf"(?<![\w-]){value}(?![\w-])", f"{value} (default)", help, count=1)
        if marked != help:
            return marked
    return f"{help} [default: {f'{value:g}' if isinstance(value, float) else value}]"


class OneColumn:
    """What makes a help have one column of flags: the first of each option, what turns a switch
    on."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help; what is typed next in this process is read as ever."""
        params = self.get_params(ctx)  # type: ignore[attr-defined]
        before = [(each, dict(vars(each))) for each in params]
        for each in params:
            each.opts, each.secondary_opts = each.opts[:1], []
            if getattr(each, "is_flag", False):
                each.metavar = ""
        try:
            super().format_help(ctx, formatter)  # type: ignore[misc]
        finally:
            for each, fields in before:
                vars(each).update(fields)


class Command(OneColumn, TyperCommand):
    """A command."""


class Group(OneColumn, TyperGroup):
    """Commands under one name."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; who stops it is told, which the option parser would not do."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped from None


TRACK = typer.Option(
    help=f"send it to {', '.join(TRACKERS)} too (docs/trackers.md)",
    autocompletion=one_of(TRACKERS),
)


def options(
    *names: str,
    usual: Mapping[str, object] = USUAL,
    texts: Mapping[str, str] = MappingProxyType({}),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these names; it gets those that were given as keywords.

    usual: the defaults to tell, by name.  texts: helps that are other than elsewhere, by name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        kept += map(_shared_option, names)
        kept.sort(key=lambda p: _ORDER.get(p.name, -1))  # an argument stands before all options
        for each in kept:
            kind, option = typing.get_args(each.annotation)
            if isinstance(option, OptionInfo):
                default = each.default if usual.get(each.name) in (None, "") else usual[each.name]
                _show(option, kind, each.name, texts.get(each.name, option.help or ""), default)

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
    features = filter(is_own_function, [given.get("features", "")])
    return Machine(imports=(*filter(is_own, typed), *features), **settings)


def take_own_data(given: dict[str, Any], machine: Machine) -> Dataset | None:
    """The data of the user's own that --dataset leads to, which takes its place in what was given;
    None where it is a built-in name."""
    named = given.get("dataset")
    if named is None or named in DATASETS:
        return None
    from apl.data.hub import PREFIX

    source: Any = named
    if not (named.startswith(PREFIX) or user_path(named).exists()):
        if not is_own(named):
            raise no_dataset(named)
        source = look_up(named)
        source = source() if callable(source) else source
    from apl.data.dataset import told_classes
    from apl.data.reading import Reading
    from apl.data.sources import read_data

    out = console()
    with counting("reading images", out) as progress:
        reading = Reading.of(given, vars(machine))
        given["dataset"] = read_data(
            source,
            dataclasses.replace(reading, side=usual_side(given)),
            download=machine.download,
            say=out.print,
            progress=progress,
        )
    data: Dataset = given["dataset"]
    out.print(told_classes(data))
    return data


def split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in split(text) or []]
    except ValueError:
        raise BadInput(f"rates is {text!r}; accepted: numbers with commas, as 0.2,0.4") from None
