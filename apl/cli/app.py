"""The command line: reads options, calls the library, prints.  Nothing is computed here.

What a command needs is imported inside it, so that `apl --help`, bad input and tab completion are
answered before torch would be loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import signal
import sys
import time
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apl.config.config import Config, make_config
from apl.config.grid import ALL_PUBLISHED, make_grid
from apl.config.presets import PRESETS
from apl.data.folders import available, data_folder
from apl.errors import BadInput, Interrupted, NoiseWarning, require
from apl.losses.catalog import LOSSES, PARAMS, loss_label
from apl.names import DATASETS, METHODS, NETWORKS, NOISES, PRECISIONS, no_dataset
from apl.study.trackers import TRACKERS, Tracking, import_runs, require_tracker
from apl.training.ddp import Group
from apl.training.machine import Machine
from apl.usercode import is_own, look_up

if TYPE_CHECKING:
    from rich.console import Console

    from apl.data.dataset import Dataset
    from apl.study.run import Progress

app = typer.Typer(
    help="The laboratory for learning with noisy labels.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    # Of several processes that train one network, the first one speaks.
    quiet = Group.here().rank > 0
    return Console(stderr=stderr, highlight=False, soft_wrap=True, quiet=quiet)


# ------------------------------------------------------------------------------------- options

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
            autocompletion=_completion(_CHOICES.get(name)),
        )
        annotation = Annotated[kind | None, option]  # type: ignore[valid-type]
        found[name] = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
        )
    return found


def _completion(choices: Iterable[str] | None) -> Callable[[str], list[str]] | None:
    if choices is None:
        return None
    return lambda incomplete: [name for name in choices if name.startswith(incomplete)]


_OPTIONS = _options()
_TRACK = typer.Option(
    help=f"tell {', '.join(TRACKERS)} too, each an extra of that name (docs/trackers.md)",
    autocompletion=_completion(TRACKERS),
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


def _machine(given: dict[str, Any], losses: Sequence[str] | None = None) -> Machine:
    """The machine's settings, taken out of what was given; what was typed may be imported."""
    typed = [given.get("network", ""), given.get("loss", ""), *(losses or ())]
    settings = {name: given.pop(name) for name in MACHINE if name in given}
    return Machine(imports=tuple(filter(is_own, typed)), **settings)


def _own_data(given: dict[str, Any], machine: Machine) -> Dataset | None:
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
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from apl.data.sources import load_data

    out = _console()
    columns = (TextColumn("reading images"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=out, transient=True, disable=not out.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)
        given["dataset"] = load_data(
            source,
            image_size=given.get("image_size", 0),
            label_column=given.get("label_column", "label"),
            test_set=given.get("test_set", ""),
            max_broken=machine.max_broken,
            say=lambda line: bar.console.print(line, markup=False),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    data: Dataset = given["dataset"]
    return data


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


QUIET_SECONDS = 3600  # after which a study in no terminal says that it is alive


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in _split(text) or []]
    except ValueError:
        raise BadInput(f"rates is {text!r}; accepted: numbers with commas, as 0.2,0.4") from None


# ------------------------------------------------------------------------------------ commands


@app.command()
@options(*LABELS, *DATA)
def noise(
    *,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="the .npz to write; the picture lies beside it")
    ] = None,
    **given: Any,
) -> None:
    """Make noisy labels: print rates and matrix, write them and a picture.

    The .npz holds clean, noisy, mask and transition.

    Example: `apl noise --type asym --rate 0.3`
    """
    machine = _machine(given)
    _own_data(given, machine)
    config = make_config(**given)
    from apl.noise.files import write_noise
    from apl.report.pictures import plot_transition
    from apl.report.terminal import noise_table
    from apl.training.prepare import prepare

    data = prepare(config, machine)
    labels = data.train.labels
    named = f"{config.dataset}_{config.name.removeprefix(config.loss + '_')}.npz"
    path = out_file or Path("results", "noise", named)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_noise(path, labels)
    stem = path.with_name(path.name.removesuffix(".npz"))  # a rate has a dot too
    pictures = plot_transition(labels, data.class_names, stem, stem.name.replace("_", ", "))
    out = _console()
    out.print(noise_table(config, data.class_names, labels))
    out.print(
        f"{labels.wrong.sum():,} of {len(labels):,} labels changed "
        f"({labels.wrong.mean():.2%}); seed {config.seed}, {config.method}"
    )
    out.print("wrote " + ", ".join(map(str, (path, *pictures))))


@app.command("train")
@options(*CONFIG, *PARAMS, *MACHINE)
def train_command(
    *,
    folder: Annotated[
        Path | None, typer.Option("--out", help="study folder; the run lies under its runs/")
    ] = None,
    track: Annotated[str | None, _TRACK] = None,
    **given: Any,
) -> None:
    """Train one network on noisy labels.

    Stopped at any moment, the same command goes on; a finished run is shown, not repeated.
    Exit code 1 means that the run collapsed: it learned nothing, and says why.  The defaults shown
    are those of the preset quick.  On several GPUs: `torchrun --nproc-per-node 4 -m apl train ...`

    Example: `apl train --loss nce_rce --noise sym --rate 0.6`
    """
    if track:
        require_tracker(track)
    machine = _machine(given)
    data = _own_data(given, machine)
    config = make_config(**given)
    from apl.report.terminal import result_table, verdicts
    from apl.runs.record import write_study
    from apl.runs.run import RUNS
    from apl.training.train import train

    study = folder or Path("results", f"{config.dataset}-{config.preset}-train")
    run = study / RUNS / config.name
    out = _console()
    out.print(f"{loss_label(config.loss)} on {config.dataset} ({config.preset}), in {run}")
    on = "true" if data is None else data.on
    first = Group.here().rank == 0
    with _training(config.epochs, on) as hooks, contextlib.ExitStack() as stack:
        if track and first:
            tracking, shown = Tracking(track, run, config, hooks["say"]), hooks["on_epoch"]
            stack.callback(tracking.end)

            def on_epoch(row: dict[str, float]) -> None:
                shown(row)
                tracking.row(row)

            hooks["on_epoch"] = on_epoch
        result = train(config, run, machine=machine, **hooks)
    if first:
        write_study(study)
    out.print(result_table(f"{loss_label(config.loss)}, last epoch", result))
    for line in verdicts(config, result):
        out.print(line)
    out.print(f"more: apl evaluate {run}")
    if result.collapsed:
        raise typer.Exit(1)


@contextlib.contextmanager
def _training(epochs: int, on: str) -> Iterator[dict[str, Any]]:
    """What a training of so many epochs tells, shown while it runs, and how it is asked to stop;
    when it has, the command that goes on is told."""
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from apl.report.terminal import epoch_line
    from apl.training.machine import keep_freed_memory

    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        if stopping:  # asked twice: it may hang where it can't look, as in a download
            raise KeyboardInterrupt
        stopping = True

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    keep_freed_memory()
    out = _console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("training", total=epochs)

        def on_epoch(row: dict[str, float]) -> None:
            bar.update(task, completed=row["epoch"])
            bar.console.print(epoch_line(row, epochs, on))

        try:
            yield {
                "on_epoch": on_epoch,
                "say": lambda text: bar.console.print(f"[bold red]{escape(text)}[/]"),
                "should_stop": lambda: stopping,
            }
        except Interrupted:
            _console(stderr=True).print(f"stopped; to go on: {_this_command()}")
            raise typer.Exit(130) from None


def _this_command() -> str:
    if Group.here().size > 1:
        return "the same torchrun command"
    quoted = [f"'{a}'" if any(c in a for c in " *+;&'") else a for a in sys.argv[1:]]
    return " ".join(["apl", *quoted])


@app.command()
@options(*(name for name in CONFIG if name not in ("dataset", "select")), *PARAMS, *MACHINE)
def find(
    source: Annotated[str, typer.Argument(help="the path of your data, or a built-in name")],
    *,
    folds: Annotated[
        int, typer.Option(help="0: one training; K: K trainings that judge what they never saw")
    ] = 0,
    decisions: Annotated[
        Path | None,
        typer.Option(help="a decisions.csv of the gallery: what it decides is not shown again"),
    ] = None,
    shown: Annotated[int, typer.Option(help="images in the gallery, the worst ones")] = 400,
    folder: Annotated[
        Path | None, typer.Option("--out", help="folder to write, else DATASET-find in results/")
    ] = None,
    **given: Any,
) -> None:
    """Find the wrong labels: train once, judge every label, write a list and a gallery.

    Open the gallery.html in a browser, decide, and train on what you decided with
    `apl train --labels decisions.csv`.  Settings not given are chosen for finding.  Exit code 1
    means that the training failed, so that nothing can be told.

    Example: `apl find photos/`
    """
    require(shown >= 1, "shown", shown, "a whole number >= 1")
    machine = _machine(given)
    given["dataset"] = source
    own = _own_data(given, machine)
    from rich.markup import escape

    from apl.data.decisions import read_labels
    from apl.data.sources import load_data
    from apl.detect.evidence import detection_scores
    from apl.detect.review import GALLERY, ISSUES, write_review
    from apl.detect.search import find_mislabelled, search_config
    from apl.report.terminal import findings_table

    data = load_data(source, machine.data_dir, machine.download) if own is None else own
    del given["dataset"]
    preset = given.pop("preset", "laptop")
    config = search_config(preset, data, given)
    target = folder or Path("results", f"{data.name}-find")
    out = _console()
    out.print(f"looking for wrong labels in {data.name}, in {target}", markup=False)
    with _training(config.epochs, data.on) as hooks:
        search = find_mislabelled(
            data if own is not None else source,
            preset,
            folds=folds,
            run=None if folds else target / "run",
            machine=machine,
            **hooks,
            **given,
        )
    train, classes = search.data.train, search.data.class_names
    decided = None
    if decisions is not None:
        decided = read_labels(decisions, train.labels.given, classes, train.names)
    target.mkdir(parents=True, exist_ok=True)
    detection = detection_scores(search.findings, train.labels)
    write_review(
        target,
        search.findings,
        class_names=classes,
        names=train.names,
        root=search.data.root,
        pixels=train.images.numpy() if train.images.ndim == 4 else None,
        curves=search.curves if search.curves.shape[1] else None,
        decisions=decided,
        detection=detection,
        title=data.name,
        shown=shown,
    )
    out.print(findings_table(search.findings, classes))
    for doubt in search.findings.doubts:
        out.print(f"[bold red]{escape(doubt)}[/]")
    if detection:
        parts = ", ".join(f"{name.replace('_', ' ')} {v:.3f}" for name, v in detection.items())
        out.print(f"against the true labels: {parts}")
    out.print(f"every label, worst first: {target / ISSUES}", markup=False)
    if train.images.ndim == 4:
        out.print(f"review them in a browser: {target / GALLERY}", markup=False)
    else:  # rows of a table, which nobody can judge by a picture
        out.print("review them there: correct given_label, and give the file to --labels")


@app.command()
@options("dataset", "network", *DATA)
def evaluate(
    run: Annotated[Path, typer.Argument(help="a run folder, as `apl train` names it")],
    labels: Annotated[
        str, typer.Option(help="score on clean test labels, or on noisy ones as the report did")
    ] = "clean",
    **given: Any,
) -> None:
    """Score a trained run: overall, per class, confusion matrix, memorised and recovered.

    Data of your own are found in the cache; --dataset PATH where they are no longer there.  A
    network of your own is imported only where you type it: --network module:Class.

    Example: `apl evaluate results/digits-quick-train/runs/nce_rce_sym-0.4_seed0`
    """
    from apl.report.terminal import result_table, scores_table, verdicts
    from apl.runs.run import Run
    from apl.training.evaluate import evaluate_run

    machine = _machine(given)
    if given:
        config = Run(run).config
        network = given.get("network", config.network)
        require(network == config.network, "network", network, f"the run's, {config.network}")
        if "dataset" in given:  # decoded as it was for the run, into the cache
            for name in ("image_size", "label_column", "test_set"):
                given[name] = getattr(config, name)
            _own_data(given, machine)
    scores, config, result = evaluate_run(run, labels, machine)
    out = _console()
    on = "given" if labels == "clean" and result.on == "given" else labels
    out.print(f"{loss_label(config.loss)}: {scores.accuracy:.2%} on the {on} test labels")
    out.print(scores_table(result.class_names, scores))
    out.print(result_table("last epoch, as trained", result))
    for line in verdicts(config, result):
        out.print(line)


@app.command()
@options(
    *(name for name in CONFIG if name not in ("loss", "noise", "rate", "seed")), *PARAMS, *MACHINE
)
def study(
    *,
    losses: Annotated[
        str | None,
        typer.Option(
            help=(
                f"losses with commas; {ALL_PUBLISHED}: those that papers have figures or settings "
                "of for the data set [default: the preset's]"
            ).replace("[", r"\[")
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option("--noise", "--type", help=f"noise types with commas: {', '.join(NOISES)}"),
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="noise rates with commas, for every noise type")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="number of seeds: 0, 1, ...")] = None,
    workers: Annotated[
        int, typer.Option(help="cells at a time; 0: as many as cores, GPUs and threads allow")
    ] = 0,
    cells_per_gpu: Annotated[int, typer.Option(help="cells that share a GPU")] = 1,
    ray: Annotated[
        str,
        typer.Option(help="train on a Ray cluster: auto, or HOST:PORT (docs/cluster.md)"),
    ] = "",
    bring_weights: Annotated[
        bool,
        typer.Option(
            "--bring-weights",
            help="with --ray, from machines that don't see the study's folder: the networks too",
        ),
    ] = False,
    track: Annotated[str | None, _TRACK] = None,
    pictures: Annotated[
        bool, typer.Option(help="draw the pictures at the end; `apl plot` does it later")
    ] = True,
    folder: Annotated[
        Path | None, typer.Option("--out", help="study folder, else results/DATASET-PRESET")
    ] = None,
    **given: Any,
) -> None:
    """Run the grid of losses x noise types x rates x seeds, then table and pictures.

    Safe to stop at any moment: the same command continues, finished cells are never run again.
    Exit code 1 means that some cell failed.  The defaults shown are those of the preset quick.
    A terminal shows a table that fills; a log gets a line an hour with the time left, and up to
    100 cells a line each.

    Example: `apl study --losses ce,nce_rce --noise sym --rates 0.2,0.6 --seeds 1`
    """
    if track:
        require_tracker(track)
    chosen = _split(losses)
    machine = _machine(given, chosen)
    typed = Path(given.get("dataset", "")).expanduser()
    data = _own_data(given, machine)
    preset = given.pop("preset", "quick")
    out, err = _console(), _console(stderr=True)
    cells = make_grid(
        *(preset, chosen, _split(noise), _numbers(rates), seeds),
        say=lambda line: out.print(line, markup=False),
        **given,
    )
    target = folder or Path("results", f"{cells[0].dataset}-{preset}")
    from rich.live import Live
    from rich.markup import escape

    from apl.report.terminal import StudyLog, study_table
    from apl.study.processes import Processes, Ray, default_workers
    from apl.study.run import run_study

    engine: Any = Processes
    if ray:
        decode = None
        if data is not None and typed.exists():
            from apl.data.sources import load_data

            # On a node that sees the path but has not decoded it.
            decode = partial(
                load_data,
                typed.absolute(),
                image_size=given.get("image_size", 0),
                label_column=given.get("label_column", "label"),
                test_set=given.get("test_set", ""),
                max_broken=machine.max_broken,
            )
        engine = partial(
            Ray,
            address=ray,
            cells_per_gpu=cells_per_gpu,
            weights=bring_weights,
            decode=decode,
        )
        at_a_time = f"at most {workers} at a time on Ray" if workers else "on Ray"
        workers = workers or len(cells)
    else:
        threads = machine.threads or 1
        workers = workers or default_workers(threads, machine.device, cells_per_gpu)
        at_a_time = f"{workers} at a time"
    out.print(f"{len(cells)} cells in {target}, {at_a_time}")
    log = StudyLog(len(cells), out.print, QUIET_SECONDS)
    drawn = -math.inf
    try:
        with Live(console=out, refresh_per_second=2, transient=True) as live:

            def observe(progress: Progress) -> None:
                nonlocal drawn
                for line in progress.messages:
                    live.console.print(f"[yellow]{escape(line)}[/]")
                progress.messages.clear()
                if not out.is_terminal:
                    log(progress)
                elif time.monotonic() - drawn >= 1 / live.refresh_per_second:
                    drawn = time.monotonic()
                    results, left = progress.results, progress.seconds_left
                    live.update(
                        study_table(
                            *(cells, results, progress.running, progress.failed, left),
                            width=out.width,
                            height=out.height,
                        )
                    )

            progress = run_study(
                *(cells, target),
                workers=workers,
                machine=machine,
                engine=engine,
                track=track or "",
                observe=observe,
            )
    except KeyboardInterrupt:
        err.print(f"stopped, nothing finished is lost; to go on: {_this_command()}")
        raise typer.Exit(130) from None
    if progress.results:
        _plot(target, pictures)
    for line in progress.messages:
        err.print(f"[yellow]{escape(line)}[/]")
    for name, problem in progress.failed.items():
        err.print(f"[bold red]failed[/] {name}: {escape(problem)}")
    if progress.failed:
        raise typer.Exit(1)


@app.command()
def plot(
    folder: Annotated[Path, typer.Argument(help="a folder with studies or runs, as results/")],
) -> None:
    """Draw every picture and write the table of each study in a folder.

    Example: `apl plot results/`
    """
    from apl.runs.record import find_studies

    studies = find_studies(folder)
    if not studies:
        raise BadInput(f"there is no finished run in {folder}: `apl train` or `apl study` first")
    for found in studies:
        _plot(found)


def _plot(found: Path, pictures: bool = True) -> None:
    from rich.markdown import Markdown

    from apl.config.published import published_rows
    from apl.files import write_atomic
    from apl.report.table import results_table, studies
    from apl.report.terminal import fold_tables
    from apl.runs.record import read_unfinished, write_study
    from apl.runs.run import PICTURES, RECORD, SUMMARY, TABLE

    parts = studies(write_study(found), read_unfinished(found))
    table, whole = results_table(parts), results_table(parts, published_rows())
    write_atomic(found / TABLE, whole.encode())
    out = _console()
    folded = fold_tables(table, out.width)
    if out.is_terminal:  # into its width, where the file's lines would be broken in two
        out.print(Markdown(folded), soft_wrap=False)
    else:
        out.print(folded, markup=False)
    beside = " (with published figures)" if whole != table else ""
    wrote = ", ".join(str(found / name) for name in (RECORD, SUMMARY, TABLE))
    out.print(f"wrote {wrote}{beside}")
    if pictures:
        from apl.report.pictures import plot_study

        for picture in plot_study(parts, found / PICTURES):
            if picture.suffix == ".png":
                out.print(f"wrote {picture} and .svg")


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(help="a study folder, as `apl study` names it, or several")
    ],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="the .html to write, else report.html in the study")
    ] = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="write every table as LaTeX too, beside the .html")
    ] = False,
) -> None:
    """Write a study as one HTML file: answers, tables, pictures, which claims of the paper hold.

    The file needs nothing else, no network either.  Several studies are compared.  A study whose
    run folders are gone is read from its runs.jsonl.

    Example: `apl report results/digits-quick`
    """
    from apl.files import write_atomic
    from apl.report.page import make_comparison, make_report, read_study
    from apl.runs.run import REPORT

    several = len(folders) > 1
    path = out_file or folders[0] / ("comparison.html" if several else REPORT)
    if path.is_dir():
        raise BadInput(f"out is {path}, a folder; accepted: the name of a file")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):  # as results/NAME beside results/evidence/NAME
        names = [folder.as_posix() for folder in folders]
    named = [(name, read_study(folder)) for name, folder in zip(names, folders, strict=True)]
    made = make_comparison(named) if several else make_report(*named[0])
    out = _console()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, made.html.encode())
    if latex:
        write_atomic(path.with_suffix(".tex"), made.latex.encode())
        out.print(f"wrote {path.with_suffix('.tex')}", markup=False)
    for line in made.agreement:
        out.print(f"agreement with the published ranking: {line}", markup=False)
    out.print(f"wrote {path}", markup=False)


@app.command()
def losses() -> None:
    """List the losses: formula, active or passive, tolerant to symmetric noise or not.

    Example: `apl losses`
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    out = _console()
    out.print("p = softmax(z); any weighted sum is a loss: '2*nce + 0.5*mae'")
    table = Table("name", "formula\nkind, tolerance, parameters; source", box=box.SIMPLE)
    table.columns[0].no_wrap = True
    for name, loss in LOSSES.items():
        params = [f"{key}={value:.4g}" for key, value in loss.params.items()]
        about = ", ".join([loss.kind, "tolerant" if loss.tolerant else "not tolerant", *params])
        table.add_row(name, f"{escape(loss.formula)}\n[dim]{about}; {escape(loss.source)}[/]")
    out.print(table)


@app.command()
@options("data_dir")
def datasets(**given: Any) -> None:
    """List the data sets, presets and networks, and where data lie.

    Example: `apl datasets --data-dir ~/data`
    """
    data_dir = _machine(given).data_dir
    from rich.table import Table

    out = _console()
    out.print(f"data in {data_folder(data_dir)}", markup=False)
    table = Table("name", "what", "there", title="data sets")
    for name, source in DATASETS.items():
        there = "yes" if available(name, data_dir) else "no, is downloaded when asked for"
        table.add_row(name, source.description, there)
    out.print(table)
    table = Table("preset", "data set", "what", title="presets")
    for name, preset in PRESETS.items():
        table.add_row(name, preset.dataset, preset.description)
    out.print(table)
    table = Table("network", "what", title="networks")
    for name, description in NETWORKS.items():
        table.add_row(name, description)
    out.print(table)


@app.command("verify")
def verify_command() -> None:
    """Check the theory of every loss numerically, on exact problems of 2 to 10 classes.

    Whether sum_j L(z, j) is constant (Lemma 1) and L is at most 1/(K-1) (Lemma 2), the gradient
    against finite differences, and the noise rates up to which the noisy risk has the clean
    minimiser.

    Example: `apl verify`
    """
    from rich.table import Table

    from apl.losses.verify import verify

    verdicts = verify()
    counts = sorted(verdicts[0].symmetric)
    few, some, many = counts[0], counts[len(counts) // 2], counts[-1]
    table = Table(title="noise rates up to which the noisy risk has the clean minimiser")
    table.add_column("loss", no_wrap=True)
    bounds = [f"sym K={k}" for k in (few, some, many)]
    for name in ("sum const", "max L", "in Lemma 2", "grad err", *bounds, f"pair K={many}"):
        table.add_column(name, justify="right")
    for verdict in verdicts:
        rates = [verdict.symmetric[k] for k in (few, some, many)] + [verdict.pair[many]]
        table.add_row(
            verdict.loss,
            "yes" if verdict.constant_sum else "no",
            f"{verdict.highest:.3g}",
            "yes" if verdict.bounded else "no",
            f"{verdict.gradient_error:.0e}",
            *(f"{rate:.2f}" for rate in rates),
        )
    limits = [f"{(k - 1) / k:.2f}" for k in (few, some, many)] + ["0.50"]
    table.add_row("the bound", "", f"{1 / (many - 1):.3g}", "", "", *limits)
    _console().print(table)


@app.command()
@options("data_dir")
def doctor(**given: Any) -> None:
    """Say what runs here and why: versions, devices, how losses are computed, where data lie.

    Example: `apl doctor`
    """
    from rich.markup import escape
    from rich.table import Table

    from apl.cli.doctor import diagnosis
    from apl.kernels import dispatch
    from apl.training.machine import environment

    data_dir = _machine(given).data_dir
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a path has no blanks
    for name, value in environment().items():
        table.add_row(name, str(value))
    for name, value in diagnosis(data_dir):
        table.add_row(name, escape(value))
    for backend, there, why in dispatch.backends():
        table.add_row(f"loss backend {backend}", f"{'yes' if there else 'no'}: {escape(why)}")
    _console().print(table)


tracking = typer.Typer(help="Tell trackers of runs that were made.", no_args_is_help=True)
app.add_typer(tracking, name="track")


@tracking.command("import")
def track_import(
    folder: Annotated[Path, typer.Argument(help="a folder with studies or runs, as results/")],
    to: Annotated[
        str, typer.Option(help=", ".join(TRACKERS), autocompletion=_completion(TRACKERS))
    ],
) -> None:
    """Tell a tracker of every finished run in a folder; of each only what it lacks.

    Example: `apl track import results/ --to tensorboard`
    """
    out = _console()
    told, had = import_runs(folder, to, lambda line: out.print(line, markup=False))
    out.print(f"{to}: told of {told} runs, had {had}")


@app.command(
    hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def bench() -> None:
    """Say where `apl bench kernels` went."""
    raise BadInput("see benchmarks/kernel_times.py, for --static kernel_code.py, in a checkout")


# ------------------------------------------------------------------------------------ the door


def main() -> None:
    """The console script `apl`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; bad input is one line and 2, never a
    traceback."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        if Group.here().size > 1 and arguments[:1] != ["train"]:
            raise BadInput(
                f"torchrun was given apl {' '.join(arguments[:1])}; accepted: apl train (a study "
                "takes several GPUs by itself: apl study, or apl study --ray auto)"
            )
        return int(app(list(arguments), prog_name="apl", standalone_mode=False) or 0)
    except BadInput as error:
        return _complain(str(error), 2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _complain(f"{error.strerror or error}{where}; nothing finished is lost", 1)
    except KeyboardInterrupt:
        return _complain("stopped", 130)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not loaded here
            return _complain("the device is out of memory: lower --batch-size or --width", 1)
        # The option parser's complaints carry their own line and exit code; anything else is a
        # defect, and keeps its traceback.
        if not hasattr(error, "format_message"):
            raise
        return _complain(error.format_message(), getattr(error, "exit_code", 2))


def _complain(problem: str, code: int) -> int:
    # Processes that torchrun started get the same input; a disk or a device fails in one of them.
    if code == 1 or Group.here().local_rank == 0:
        print(f"apl: {problem}", file=sys.stderr)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    from rich.markup import escape

    name = "" if issubclass(category, NoiseWarning) else f"{category.__name__}: "
    _console(stderr=True).print(f"[yellow]warning: {name}{escape(str(message))}[/]")


if __name__ == "__main__":
    main()
