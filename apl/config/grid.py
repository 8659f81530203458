"""The grid of a study: its cells as configs, and the commands that make them."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from apl.config.config import Config, beside_preset, make_config, settings_text
from apl.config.presets import PRESETS
from apl.config.published import published_rows, published_table
from apl.errors import BadInput, require
from apl.losses.catalog import LOSSES, PARAMS, params_of, write_loss
from apl.names import NOISES

# --------------------------------------------------------------------------------- many configs


ALL_PUBLISHED = "all-published"


def published_losses(dataset: str) -> list[str]:
    """The losses of ours that papers have figures or settings of for a data set, and those of Ma et
    al. 2020; of a data set that no paper has, the losses that they have for any."""
    rows = published_rows()
    known = set(zip(rows["dataset"], rows["method"], strict=True))
    known |= {*published_table()}
    chosen = {loss for name, loss in known if name == dataset} or {loss for _, loss in known}
    return [loss for loss in LOSSES if loss in chosen | {*PRESETS["paper"].losses}]


def _lacks(config: Config) -> str:
    """What a run lacks that its loss needs, '' where it has all."""
    from apl.losses.modules import needs_of  # by torch, which takes seconds

    blind = (
        config.noise == "none" and config.dataset_sha256 and "transition" in needs_of(config.loss)
    )
    return "the noise of own labels has no known matrix, which it corrects by" if blind else ""


def make_grid(
    preset: str,
    losses: Sequence[str] | None = None,
    noises: Sequence[str] | None = None,
    rates: Sequence[float] | None = None,
    seeds: int | None = None,
    say: Callable[[str], None] = print,
    **overrides: Any,
) -> list[Config]:
    """The cells of a study, seed by seed, so that an unfinished one covers the whole grid early.

    Args:
        preset: The settings to start from, as `make_config` takes it.
        losses: Names of losses, None for the preset's. Among them ALL_PUBLISHED stands for
            `published_losses` of the data set; one of them that needs what its runs lack is left
            out.
        noises: Noise types, None for the preset's.
        rates: Noise rates, None for the preset's, per noise type.
        seeds: How many seeds, None for the preset's number.
        say: Gets a line of each published loss that is left out.
        **overrides: What `make_config` takes, for all cells; a loss parameter goes to the losses
            that take it.

    Returns:
        A config for each cell.

    Raises:
        BadInput: What is given does not fit, an empty grid or a cell given twice included.
    """
    require(preset in PRESETS, "preset", preset, ", ".join(PRESETS))
    chosen = PRESETS[preset]
    dataset = overrides.get("dataset") or chosen.dataset
    asked = list(chosen.losses if losses is None else losses)
    losses = _with_published(asked, dataset if isinstance(dataset, str) else dataset.name)
    if noises is None:
        own = not isinstance(dataset, str)
        noises = (("sym",) if rates else ("none",)) if own else tuple(chosen.rates)
    seeds = chosen.seeds if seeds is None else seeds
    require(seeds >= 1, "seeds", seeds, "a whole number >= 1")
    for noise in noises:
        require(noise in NOISES, "noise", noise, ", ".join(NOISES))
    given = {name for name in PARAMS if overrides.get(name) is not None}
    taken = {loss: _params(loss) for loss in losses}
    for name in sorted(given - set().union(*taken.values())):
        raise BadInput(f"none of {', '.join(losses)} takes the parameter {name!r}")
    cells = []
    left_out: dict[str, str] = {}
    for seed, noise in itertools.product(range(seeds), noises):
        for rate, loss in itertools.product(_rates(chosen.rates, noise, rates), losses):
            fitting = {k: v for k, v in overrides.items() if k not in given - taken[loss]}
            cell = {**fitting, "loss": loss, "noise": noise, "rate": rate, "seed": seed}
            if loss in asked:
                cells.append(make_config(preset, **cell))
                continue
            config, lack = _published_cell(preset, cell, given)
            if config is not None:
                cells.append(config)
            elif loss not in left_out:
                left_out[loss] = f"{loss} is left out under {noise} noise: {lack}"
    for line in left_out.values():
        say(line)
    if not cells:
        raise BadInput("the study is empty: give at least one loss, noise type and rate")
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"the study holds {twice} twice: give each loss, noise type and rate once")
    return cells


def _with_published(losses: Sequence[str], dataset: str) -> list[str]:
    """The losses, with those that ALL_PUBLISHED stands for in its place."""
    if ALL_PUBLISHED not in losses:
        return list(losses)
    found = [loss for loss in published_losses(dataset) if loss not in losses]
    at = list(losses).index(ALL_PUBLISHED)
    return [*losses[:at], *found, *losses[at + 1 :]]


def _published_cell(
    preset: str, cell: Mapping[str, Any], given: set[str]
) -> tuple[Config | None, str]:
    """A cell of a loss that nobody asked for by name, or what it lacks of what the loss needs;
    BadInput where no loss is at fault.  given: the loss parameters of the cell."""
    try:
        config = make_config(preset, **cell)
    except BadInput as error:
        plain = {name: value for name, value in cell.items() if name not in given}
        make_config(preset, **(plain | {"loss": "ce"}))
        return None, str(error)
    lack = _lacks(config)
    return (None if lack else config), lack


def _params(loss: str) -> set[str]:
    try:
        return params_of(loss)
    except ValueError as error:
        raise BadInput(str(error)) from None


def _rates(
    defaults: Mapping[str, tuple[float, ...]], noise: str, rates: Sequence[float] | None
) -> Sequence[float]:
    if not NOISES[noise].rated:
        return (0.0,)
    return defaults.get(noise, defaults["sym"]) if rates is None else rates


def study_commands(cells: Sequence[Config]) -> list[str]:
    """The `apl study` commands that make these cells, the inverse of `make_grid`: one for each
    choice of settings and of rates.  Of a grid with holes they make the whole.

    What is not today's preset's is an option, or stands in the brackets of its loss.
    """
    alike: dict[tuple[tuple[str, Any], ...], dict[str, list[Config]]] = {}
    for cell in cells:
        tuned = cell.tuned or {}
        beside = {n: v for n, v in beside_preset(cell).items() if n not in tuned.get("values", ())}
        options: dict[str, Any] = {"preset": cell.preset, "dataset": cell.dataset}
        options |= {name: value for name, value in beside.items() if name not in PARAMS}
        if tuned:
            over = tuned["over"].items()
            options["tune"] = tuple(f"{name}={','.join(map(_exact, vs))}" for name, vs in over)
            options["tune_seeds"] = tuned["seeds"]
        if cell.map != PRESETS[cell.preset].map_of(cell.dataset, cell.noise):
            options["map"] = cell.map
        params = {name: value for name, value in beside.items() if name in PARAMS}
        written = settings_text(params)  # losses with the same parameters go into one command
        alike.setdefault(tuple(options.items()), {}).setdefault(written, []).append(cell)
    commands = []
    for chosen, by_params in alike.items():
        for group in _same_grids(by_params.values()):
            commands += _commands(dict(chosen), group)
    return commands


def _exact(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _same_grids(groups: Iterable[list[Config]]) -> list[list[Config]]:
    """The groups, joined where they have the same noise, rates and seeds."""
    joined: dict[frozenset[tuple[str, float, int]], list[Config]] = {}
    for group in groups:
        grid = frozenset((cell.noise, cell.rate, cell.seed) for cell in group)
        joined.setdefault(grid, []).extend(group)
    return list(joined.values())


def _commands(options: dict[str, Any], group: Sequence[Config]) -> list[str]:
    """The commands that make cells of these settings, one for each choice of rates."""
    preset = PRESETS[options.pop("preset")]
    if options["dataset"] == preset.dataset:
        del options["dataset"]
    commands = []
    for noises, rates in _shared_rates(group, preset.rates):
        made = [cell for cell in group if cell.noise in noises]
        losses = {_spec(cell): cell.loss for cell in made}
        words = ["apl", "study", "--preset", group[0].preset]
        if set(losses) != set(preset.losses):
            ranks = {loss: rank for rank, loss in enumerate(LOSSES)}
            ordered = sorted(losses, key=lambda spec: (ranks.get(losses[spec], len(ranks)), spec))
            words += ["--losses", ",".join(ordered)]
        if set(noises) != set(preset.rates):
            words += ["--noise", ",".join(noises)]
        if rates is not None:
            words += ["--rates", ",".join(map(str, rates))]
        judged = [cell.seed for cell in made if (cell.tuned or {}).get("part") != "tuning"]
        seeds = 1 + max(judged, default=preset.seeds - 1)
        if seeds != preset.seeds:
            words += ["--seeds", str(seeds)]
        for name, value in options.items():
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            elif isinstance(value, tuple):
                words += [word for each in value for word in (f"--{flag}", each)]
            else:
                words += [f"--{flag}", str(value)]
        commands.append(shlex.join(words))
    return commands


def _spec(cell: Config) -> str:
    """The loss of a cell, with the parameters in brackets that are not today's preset's."""
    tuned = (cell.tuned or {}).get("values", ())
    beside = beside_preset(cell).items()
    own = {name: value for name, value in beside if name in PARAMS and name not in tuned}
    return write_loss(cell.loss, own)


def _shared_rates(
    cells: Sequence[Config], defaults: Mapping[str, tuple[float, ...]]
) -> list[tuple[list[str], tuple[float, ...] | None]]:
    """The noise types that one command can make, with its rates; None for the preset's own."""
    found: dict[str, set[float]] = {}
    for cell in cells:
        found.setdefault(cell.noise, set()).add(cell.rate)
    shared: dict[tuple[float, ...] | None, list[str]] = {}
    unrated = [noise for noise in NOISES if noise in found and not NOISES[noise].rated]
    for noise in (noise for noise in NOISES if noise in found and NOISES[noise].rated):
        rates = tuple(sorted(found[noise]))
        usual = tuple(sorted(_rates(defaults, noise, None)))
        shared.setdefault(None if rates == usual else rates, []).append(noise)
    if unrated:  # they go with any rates
        first = next(iter(shared), None)
        shared[first] = [*unrated, *shared.get(first, [])]
    return [(noises, rates) for rates, noises in shared.items()]
