"""`apl study`: many runs at once; `apl track import` tells trackers of them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apl.cli.after import SEES, then, typed
from apl.cli.completion import CHOICES, one_of, with_commas
from apl.cli.completion import losses as offer_losses
from apl.cli.console import console, this_command
from apl.cli.features import features_first
from apl.cli.options import (
    MACHINE,
    SHARED,
    TRACK,
    USUAL,
    numbers,
    options,
    split,
    take_machine,
    take_own_data,
)
from apl.cli.results import keep_state, labels_now, other_runs, place_for, source_of
from apl.cli.show import draw
from apl.config.grid import ALL_PUBLISHED, make_grid
from apl.config.tuning import TunedGrid, Tuning
from apl.losses.catalog import PARAMS, split_losses
from apl.paths import user_path
from apl.study.trackers import TRACKERS, import_runs, require_tracker

if TYPE_CHECKING:
    from apl.config.config import Config
    from apl.data.dataset import Dataset
    from apl.study.run import Progress
    from apl.training.machine import Machine


QUIET_SECONDS = 3600  # after which a study in no terminal says that it is alive


@options(
    *SHARED,
    *PARAMS,
    *MACHINE,
    usual={**USUAL, **dict.fromkeys(("losses", "noise", "rates", "seeds"), "the preset's")},
    texts={"threads": "of the CPU, of each run [default: 1]"},
)
def study(  # its parameters are its options, which half of its lines are
    *,
    losses: Annotated[
        str | None,
        typer.Option(
            help=f"as `ce,gce(q=0.9)`; repair; {ALL_PUBLISHED}: those of papers",
            autocompletion=offer_losses,
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            "--noise",
            "--type",
            help="kinds of noise, with commas: see `apl noise --help`",
            autocompletion=with_commas(one_of(CHOICES["noise"])),
        ),
    ] = None,
    rates: Annotated[str | None, typer.Option(help="noise rates, with commas")] = None,
    seeds: Annotated[int | None, typer.Option(help="how many: 0, 1, ...")] = None,
    tune: Annotated[
        list[str] | None,
        typer.Option(help="as lr=.02,.08,.3, for each loss"),
    ] = None,
    tune_seeds: Annotated[int, typer.Option(help="seeds to try each of them on")] = 3,
    workers: Annotated[int, typer.Option(help="at a time; 0: all that fit")] = 0,
    cells_per_gpu: Annotated[
        int, typer.Option("--runs-per-gpu", "--cells-per-gpu", help="runs that share a GPU")
    ] = 1,
    ray: Annotated[
        str,
        typer.Option(help="run on a Ray cluster: auto, or HOST:PORT (docs/cluster.md)"),
    ] = "",
    bring_weights: Annotated[
        bool,
        typer.Option(
            "--bring-weights",
            help="with --ray: fetch the trained networks too (docs/cluster.md)",
        ),
    ] = False,
    track: Annotated[str | None, TRACK] = None,
    pictures: Annotated[
        bool, typer.Option(help="draw pictures at the end; `apl plot` draws them later")
    ] = True,
    folder: Annotated[
        Path | None, typer.Option("--out", help="study folder, else results/DATASET-PRESET")
    ] = None,
    **given: Any,
) -> None:
    """Train the grid of losses x noise types x rates x seeds, then write table and pictures.

    Stop it at any moment: the same command goes on, and repeats no finished run.  Exit code 1: a
    run failed.  Defaults are those of the preset quick; a loss has its own parameters.

    Example: `apl study --losses ce,nce_rce --noise sym --rates 0.2,0.6 --seeds 1`
    """
    if track:
        require_tracker(track)
    reads = typed(given, SEES)
    chosen = None if losses is None else split_losses(losses)
    machine = take_machine(given, chosen)
    named = given.get("dataset", "")
    path = user_path(named)
    data = take_own_data(given, machine)
    preset = given.pop("preset", "quick")
    left_out = labels_now(given, data, folder)  # told after the first line
    told = left_out.append
    where = split(noise), numbers(rates)
    grid = None
    if tune:
        tuning = Tuning.of(tune, tune_seeds)
        grid = TunedGrid.of(tuning, preset, chosen, *where, say=told, seeds=seeds, **given)
    cells = grid.expected if grid else make_grid(preset, chosen, *where, seeds, say=told, **given)
    base = folder or Path("results", f"{cells[0].dataset}-{preset}{'-tuned' if grid else ''}")
    others, source = other_runs({cell.name: cell for cell in cells}), source_of(named)
    target = place_for(base, data, source, others, told, asked=folder is not None).folder
    from apl.study.processes import Processes, default_workers
    from apl.study.run import run_study
    from apl.study.tune import require_own_folder

    require_own_folder(target, grid is not None)
    engine: Any = Processes
    if ray:
        at_a_time = f"at most {workers} at a time on Ray" if workers else "on Ray"
        workers = workers or len(cells)
        decode = _decoding(path, given, machine) if data is not None and path.exists() else None
        engine = _on_ray(ray, cells_per_gpu, bring_weights, decode)
    else:
        workers = workers or default_workers(machine.threads or 1, machine.device, cells_per_gpu)
        at_a_time = f"{workers} at a time"

    features_first(cells, machine, data)
    train = partial(
        run_study, study=target, workers=workers, machine=machine, engine=engine, track=track or ""
    )
    if grid:
        progress = _tuned(grid, target, train, at_a_time, left_out)
    else:
        progress = _shown(cells, target, train, at_a_time, left_out)
    out, err = console(), console(stderr=True)
    keep_state(target, data, source)
    if progress.results:
        draw(target, pictures)
    for line in progress.messages:
        err.print(line, style="yellow")
    for name, problem in progress.failed.items():
        err.print(f"failed {name}: {problem}", style="red")
    if progress.failed:
        out.print(f"to try these again: {this_command()}")
        raise typer.Exit(1)
    then(out, ("all of it as one page", ["apl", "report", str(target)]))
    if data is not None:
        then(out, ("which labels are wrong", ["apl", "find", named, *reads]))


Train = Callable[..., "Progress"]  # as `run_study`, with all but the cells and the observer


def _shown(
    cells: Sequence[Config], target: Path, train: Train, at_a_time: str, lines: Sequence[str]
) -> Progress:
    """Train cells and show how far they are; lines: what else is told first."""
    from apl.report.terminal import opening

    def first_lines(progress: Progress) -> list[str]:
        return [*opening(len(progress.results), len(cells), target, at_a_time), *lines]

    with show_study(cells, first_lines) as observe:
        return train(cells, observe=observe)


def _tuned(
    grid: TunedGrid, target: Path, train: Train, at_a_time: str, lines: Sequence[str]
) -> Progress:
    """Try the configurations of a tuned study, choose, and judge what was chosen; its progress, in
    which failed tuning runs are failures too."""
    from apl.report.terminal import opening, tuned_lines, tuning_cost
    from apl.study.tune import tune

    later = len(grid.expected) - len(grid.to_tune())

    def try_them(cells: Sequence[Config]) -> Progress:
        def first_lines(progress: Progress) -> list[str]:
            done = len(progress.results)
            begun = opening(done, len(cells), target, at_a_time) if done < len(cells) else []
            return [tuning_cost(grid), *begun, *lines]

        with show_study(cells, first_lines) as observe:
            return train(cells, observe=lambda progress: observe(progress.with_later(later)))

    tried, found, cells = tune(grid, target, try_them)
    if not cells:
        return tried
    judged = _shown(cells, target, train, at_a_time, tuned_lines(found, target))
    judged.failed |= tried.failed
    judged.messages[:0] = tried.messages
    return judged


def _decoding(path: Path, given: dict[str, Any], machine: Machine) -> Callable[[], Dataset]:
    """What decodes data on a node that sees their path but has not decoded them."""
    from apl.data.reading import Reading
    from apl.data.sources import read_data

    return partial(read_data, path.absolute(), Reading.of(given, vars(machine)))


def _on_ray(
    address: str, cells_per_gpu: int, weights: bool, decode: Callable[[], Dataset] | None
) -> Any:
    from apl.study.ray import Ray

    return partial(
        Ray, address=address, cells_per_gpu=cells_per_gpu, weights=weights, decode=decode
    )


@contextlib.contextmanager
def show_study(
    cells: Sequence[Config], first_lines: Callable[[Progress], Sequence[str]]
) -> Iterator[Callable[[Progress], None]]:
    """Shows how far a study is, as a table in a terminal and as lines in a log, its first lines
    first; where the user stops it, the command that goes on is told."""
    from rich.live import Live

    from apl.report.terminal import StudyLog, study_table

    out = console()
    log = StudyLog(len(cells), out.print, QUIET_SECONDS)
    begun, drawn = False, -math.inf
    try:
        with Live(console=out, refresh_per_second=2, transient=True) as live:

            def observe(progress: Progress) -> None:
                nonlocal begun, drawn
                if not begun:
                    begun = True
                    for line in first_lines(progress):
                        out.print(line)
                    return
                for line in progress.messages:
                    out.print(line, style="yellow")
                progress.messages.clear()
                done, running, failed = progress.results, progress.running, progress.failed
                left = progress.seconds_left
                if not out.is_terminal:
                    log(done, running, failed, left)
                elif time.monotonic() - drawn >= 1 / live.refresh_per_second:
                    drawn = time.monotonic()
                    table = study_table(
                        progress.cells,
                        done,
                        running,
                        failed,
                        left,
                        width=out.width,
                        height=out.height,
                    )
                    live.update(table)

            yield observe
    except KeyboardInterrupt:
        told = f"stopped, nothing finished is lost; to go on: {this_command()}"
        console(stderr=True).print(told)
        raise typer.Exit(130) from None


def track_import(
    folder: Annotated[Path, typer.Argument(help="a folder with studies or runs, as results/")],
    to: Annotated[str, typer.Option(help=", ".join(TRACKERS), autocompletion=one_of(TRACKERS))],
) -> None:
    """Send every finished run in a folder to a tracker; of each only what is missing there.

    Example: `apl track import results/ --to tensorboard`
    """
    out = console()
    told, had = import_runs(folder, to, out.print)
    out.print(f"{to}: sent {told} runs; {had} were there already")
    if to == "tensorboard":
        then(out, ("to look at them", ["tensorboard", "--logdir", str(folder)]))
