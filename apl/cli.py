"""The command line: reads options, calls the library, prints.  Nothing is computed here."""

from __future__ import annotations

import dataclasses
import inspect
import signal
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich import box
from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import apl.kernels as kernels
from apl.config import PRESETS, Config, make_config
from apl.data.sources import SOURCES, available, data_folder
from apl.doctor import diagnosis, kernel_table
from apl.errors import BadInput, Interrupted
from apl.losses import LOSSES, loss_label
from apl.networks import NETWORKS
from apl.noise import NoiseWarning, NoisyLabels
from apl.report.published import published_rows
from apl.runs import (
    environment,
    find_studies,
    write_atomic,
    write_noise,
    write_summary,
)
from apl.scores import Scores, budget_verdict, evaluate_run
from apl.study import Progress as StudyProgress
from apl.study import default_workers, make_grid, run_study
from apl.train import CAUSES, keep_freed_memory, prepare, train
from apl.verify import verify

app = typer.Typer(
    help="The laboratory for learning with noisy labels.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

MANY_CLASSES = 12  # 80 columns have no room for a column for each of more

DataDir = Annotated[
    Path | None, typer.Option(help="where data sets lie; else $APL_DATA, else the user's cache")
]
NoDownload = Annotated[bool, typer.Option("--no-download", help="never download a data set")]


def config_options(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option for every field of `Config` but `left_out`; it gets them as
    keywords, None where not given."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        types = typing.get_type_hints(Config)
        defaults = make_config()
        for field in dataclasses.fields(Config):
            if field.name in left_out:
                continue
            default = getattr(defaults, field.name)
            flags = ["--" + field.name.replace("_", "-")]
            if field.name == "noise":
                flags.append("--type")
            if field.type == "bool":
                flags = [f"{flags[0]}/--no-{field.name}"]
            shown = {None: "the loss's", "": "by noise type"}.get(default, str(default))
            if field.name == "preset":
                option = typer.Option(*flags, help=field.metadata["help"])
                annotation, value = Annotated[str, option], default
            else:
                text = f"{field.metadata['help']} [default: {shown}]"
                option = typer.Option(*flags, help=text.replace("[", r"\["), show_default=False)
                annotation, value = Annotated[types[field.name] | None, option], None
            kept.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=annotation
                )
            )
        command.__signature__ = own.replace(parameters=kept)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in kept}
        return command

    return decorate


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in _split(text) or []]
    except ValueError:
        raise BadInput(f"rates is {text!r}; accepted: numbers with commas, as 0.2,0.4") from None


@app.command()
@config_options(
    *(
        f.name
        for f in dataclasses.fields(Config)
        if f.name
        not in ("preset", "dataset", "noise", "rate", "map", "method", "seed", "train_size")
    )
)
def noise(
    *,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="the .npz to write; the picture lies beside it")
    ] = None,
    data_dir: DataDir = None,
    no_download: NoDownload = False,
    **fields: Any,
) -> None:
    """Make noisy labels: print rates and matrix, write them and a picture.

    The .npz holds clean, noisy, mask and transition.

    Example: `apl noise --type asym --rate 0.3`
    """
    config = make_config(**fields)
    data, labels = prepare(config, data_dir, not no_download)
    named = f"{config.dataset}_{config.name.removeprefix(config.loss + '_')}.npz"
    path = out_file or Path("results", "noise", named)
    out.print(_noise_table(config, data.class_names, labels))
    out.print(
        f"{labels.mask.sum():,} of {len(labels.clean):,} labels changed "
        f"({labels.mask.mean():.2%}); seed {config.seed}, {config.method}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_noise(path, labels)
    from apl.report.pictures import plot_transition  # matplotlib takes a second to load

    stem = path.with_name(path.name.removesuffix(".npz"))  # a rate has a dot too
    pictures = plot_transition(labels, data.class_names, stem, stem.name.replace("_", ", "))
    out.print("wrote " + ", ".join(map(str, (path, *pictures))))


def _noise_table(config: Config, names: Sequence[str], labels: NoisyLabels) -> Table:
    title = f"{config.noise} noise of {config.dataset}: rows true, columns given, in %"
    shares = 100 * labels.empirical
    wrong = [f"{100 - shares[k, k]:.1f}" for k in range(len(names))]
    return class_table(title, names, ("wrong", wrong), shares, "most frequent wrong label", ".1f")


def class_table(
    title: str,
    names: Sequence[str],
    of_each: tuple[str, Sequence[str]],
    matrix: npt.NDArray[Any],
    most: str,
    form: str,
) -> Table:
    """A row a class: its name, a figure `of_each` (heading, figures), and its row of a matrix.

    Of many classes there is no room for a column each: the largest off the diagonal stands alone,
    under the heading `most`.  Ten classes with names of ten letters fit 80 columns.
    """
    table = Table(title=title, box=box.SIMPLE, padding=0)
    wide = len(names) > MANY_CLASSES
    table.add_column("class")
    for heading in (of_each[0], *([most] if wide else [name[:5] for name in names])):
        table.add_column(heading, justify="right")
    for k, name in enumerate(names):
        cells = [format(value, form) if value else "·" for value in matrix[k]]
        if wide:
            others = matrix[k].copy()
            others[k] = 0
            top = int(others.argmax())
            cells = [f"{names[top]} {cells[top]}" if others[top] else "·"]
        table.add_row(name, of_each[1][k], *cells)
    return table


@app.command("train")
@config_options()
def train_command(
    *,
    folder: Annotated[
        Path | None, typer.Option("--out", help="study folder; the run lies under its runs/")
    ] = None,
    data_dir: DataDir = None,
    no_download: NoDownload = False,
    **fields: Any,
) -> None:
    """Train one network on noisy labels.

    Stopped at any moment, the same command goes on; a finished run is shown, not repeated.
    Exit code 1 means that the run collapsed: it learned nothing, and says why.  The defaults shown
    are those of the preset quick.

    Example: `apl train --loss nce_rce --noise sym --rate 0.6`
    """
    config = make_config(**fields)
    study = folder or Path("results", f"{config.dataset}-{config.preset}-train")
    run = study / "runs" / config.name
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        if stopping:  # asked twice: it may hang where it can't look, as in a download
            raise KeyboardInterrupt
        stopping = True

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)
    out.print(f"{loss_label(config.loss)} on {config.dataset} ({config.preset}), in {run}")
    keep_freed_memory()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("training", total=config.epochs)

        def on_epoch(row: dict[str, float]) -> None:
            bar.update(task, completed=row["epoch"])
            bar.console.print(_epoch_line(row, config.epochs))

        try:
            result = train(
                config,
                run,
                data_dir=data_dir,
                download=not no_download,
                on_epoch=on_epoch,
                say=lambda text: bar.console.print(f"[bold red]{escape(text)}[/]"),
                should_stop=lambda: stopping,
            )
        except Interrupted:
            err.print(f"stopped; to go on: {_this_command()}")
            raise typer.Exit(130) from None
    write_summary(study)
    out.print(_result_table(f"{loss_label(config.loss)}, last epoch", result))
    _print_verdicts(config, result)
    out.print(f"more: apl evaluate {run}")
    if result["collapsed"]:
        raise typer.Exit(1)


def _epoch_line(row: dict[str, float], epochs: int) -> str:
    def percent(name: str) -> str:
        return "     -" if row[name] != row[name] else f"{100 * row[name]:5.1f}%"

    return (
        f"epoch {row['epoch']:3d}/{epochs}  loss {row['train_loss']:8.4f}  "
        f"train (noisy) {percent('train_accuracy')}  test (clean) {percent('test_accuracy')}  "
        f"memorised {percent('memorised')}  recovered {percent('recovered')}"
    )


def _result_table(title: str, result: dict[str, Any]) -> Table:
    table = Table(title=title, show_header=False)
    for name, meaning in (
        ("test_accuracy", "accuracy on the clean test labels"),
        ("train_accuracy", "accuracy on the noisy training labels"),
        ("memorised", "of the wrong labels: memorised (predicted as given)"),
        ("recovered", "of the wrong labels: recovered (predicted as true)"),
    ):
        value = result[name]
        shown = "none wrong" if value != value else f"{100 * value:.2f} %"
        table.add_row(meaning, shown)
    return table


def _print_verdicts(config: Config, result: dict[str, Any]) -> None:
    if result["collapsed"]:
        cause = CAUSES[result["reason"]]
        out.print(f"[bold red]collapsed ({result['reason']})[/]: {escape(cause)}")
    given_up = Scores(np.array(result["confusion"])).never_predicted
    if given_up and not result["collapsed"]:
        names = ", ".join(result["class_names"][k] for k in given_up)
        out.print(f"[yellow]never predicted: {escape(names)}[/]")
    verdict = budget_verdict(config, result["memorised"])
    if verdict:
        out.print(f"[yellow]{escape(verdict)}[/]")


def _this_command() -> str:
    quoted = [f"'{a}'" if any(c in a for c in " *+;&'") else a for a in sys.argv[1:]]
    return " ".join(["apl", *quoted])


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="a run folder, as `apl train` names it")],
    labels: Annotated[
        str, typer.Option(help="score on clean test labels, or on noisy ones as the report did")
    ] = "clean",
    data_dir: DataDir = None,
    no_download: NoDownload = False,
) -> None:
    """Score a trained run: overall, per class, confusion matrix, memorised and recovered.

    Example: `apl evaluate results/digits-quick-train/runs/nce_rce_sym-0.4_seed0`
    """
    scores, config, result = evaluate_run(run, labels, data_dir, not no_download)
    names = result["class_names"]
    out.print(f"{loss_label(config.loss)}: {scores.accuracy:.2%} on the {labels} test labels")
    accuracies = [f"{share:.1%}" for share in scores.per_class]
    title, most = "rows: label, columns: prediction", "most frequent mistake"
    out.print(class_table(title, names, ("right", accuracies), scores.confusion, most, "d"))
    out.print(_result_table("last epoch, as trained", result))
    _print_verdicts(config, result)


@app.command()
@config_options("loss", "noise", "rate", "seed")
def study(
    *,
    losses: Annotated[
        str | None,
        typer.Option(help="losses with commas [default: the preset's]".replace("[", r"\[")),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option("--noise", "--type", help="noise types with commas: none,sym,asym,pair,human"),
    ] = None,
    rates: Annotated[
        str | None, typer.Option(help="noise rates with commas, for every noise type")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="number of seeds: 0, 1, ...")] = None,
    workers: Annotated[
        int, typer.Option(help="processes at a time; 0: as many as cores and threads allow")
    ] = 0,
    pictures: Annotated[
        bool, typer.Option(help="draw the pictures at the end; `apl plot` does it later")
    ] = True,
    folder: Annotated[
        Path | None, typer.Option("--out", help="study folder, else results/DATASET-PRESET")
    ] = None,
    data_dir: DataDir = None,
    no_download: NoDownload = False,
    **fields: Any,
) -> None:
    """Run the grid of losses x noise types x rates x seeds, then table and pictures.

    Safe to stop at any moment: the same command continues, finished cells are never run again.
    Exit code 1 means that some cell failed.  The defaults shown are those of the preset quick.

    Example: `apl study --losses ce,nce_rce --noise sym --rates 0.2,0.6 --seeds 1`
    """
    preset = fields.pop("preset")
    fields["threads"] = fields["threads"] or 1
    cells = make_grid(preset, _split(losses), _split(noise), _numbers(rates), seeds, **fields)
    target = folder or Path("results", f"{cells[0].dataset}-{preset}")
    workers = workers or default_workers(cells[0].threads, cells[0].device)
    out.print(f"{len(cells)} cells in {target}, {workers} at a time")
    shown: set[str] = set()
    try:
        with Live(console=out, refresh_per_second=2, transient=True) as live:

            def observe(progress: StudyProgress) -> None:
                for line in progress.messages:
                    live.console.print(f"[yellow]{escape(line)}[/]")
                progress.messages.clear()
                if out.is_terminal:
                    live.update(_study_table(progress))
                else:
                    for name in progress.results.keys() - shown:
                        out.print(_cell_line(name, progress, len(cells)))
                        shown.add(name)

            progress = run_study(
                cells,
                target,
                workers=workers,
                data_dir=data_dir,
                download=not no_download,
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


def _cell_line(name: str, progress: StudyProgress, total: int) -> str:
    result = progress.results[name]
    left = "" if progress.seconds_left is None else f", {_duration(progress.seconds_left)} left"
    mark = f"  collapsed ({result['reason']})" if result["collapsed"] else ""
    return (
        f"{len(progress.results)}/{total}{left}: {name}  test {result['test_accuracy']:.2%}{mark}"
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _study_table(progress: StudyProgress) -> Table:
    settings = list(dict.fromkeys((cell.noise, cell.rate) for cell in progress.cells))
    done, total = len(progress.results), len(progress.cells)
    left = "" if progress.seconds_left is None else f", {_duration(progress.seconds_left)} left"
    title = f"{done} of {total} cells{left}; clean test accuracy in %"
    table = Table(title=title, box=box.SIMPLE, padding=0)  # so that nine settings fit 80 columns
    table.add_column("loss", no_wrap=True)
    for kind, rate in settings:
        table.add_column(kind if kind == "none" else f"{kind}\n{rate:g}", justify="right")
    for loss in dict.fromkeys(cell.loss for cell in progress.cells):
        row = []
        for setting in settings:
            cells = [c for c in progress.cells if (c.loss, c.noise, c.rate) == (loss, *setting)]
            row.append(_study_cell(cells, progress))
        table.add_row(loss_label(loss), *row)
    return table


def _study_cell(cells: list[Config], progress: StudyProgress) -> str:
    finished = [progress.results[c.name] for c in cells if c.name in progress.results]
    running = [c for c in cells if c.name in progress.running]
    if any(c.name in progress.failed for c in cells):
        return "[red]failed[/]"
    if running:
        epoch = progress.running[running[0].name].get("epoch", 0)
        return f"[cyan]{epoch:.0f}/{running[0].epochs}[/]"
    if not finished:
        return "[dim]·[/]"
    mean = sum(result["test_accuracy"] for result in finished) / len(finished)
    mark = "†" if any(result["collapsed"] for result in finished) else ""
    return f"{100 * mean:.1f}{mark}" + ("" if len(finished) == len(cells) else "[dim]…[/]")


@app.command()
def plot(
    folder: Annotated[Path, typer.Argument(help="a folder with studies or runs, as results/")],
) -> None:
    """Draw every picture and write the table of each study in a folder.

    Example: `apl plot results/`
    """
    studies = find_studies(folder)
    if not studies:
        raise BadInput(f"there is no finished run in {folder}: `apl train` or `apl study` first")
    for found in studies:
        _plot(found)


def _plot(found: Path, pictures: bool = True) -> None:
    from apl.report.pictures import plot_study, results_table  # matplotlib takes a second to load

    summary, histories = write_summary(found)
    table = results_table(summary, published_rows())
    write_atomic(found / "table.md", table.encode())
    if out.is_terminal:  # into its width, where the file's lines would be broken in two
        out.print(Markdown(table), soft_wrap=False)
    else:
        out.print(table, markup=False)
    out.print(f"wrote {found / 'summary.csv'} and {found / 'table.md'}")
    if pictures:
        for picture in plot_study(summary, histories, found / "pictures"):
            if picture.suffix == ".png":
                out.print(f"wrote {picture} and .svg")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="a study folder, as `apl study` names it")],
    out_file: Annotated[
        Path | None, typer.Option("--out", help="the .html to write, else report.html in the study")
    ] = None,
) -> None:
    """Write a study as one HTML file: tables, pictures, and which claims of the paper hold.

    The file needs nothing else, no network either. A study whose run folders are gone is read from
    its summary.csv.

    Example: `apl report results/digits-quick`
    """
    from apl.report.page import make_report, read_material  # matplotlib takes a second to load

    path = out_file or folder / "report.html"
    if path.is_dir():
        raise BadInput(f"out is {path}, a folder; accepted: the name of a file")
    made = make_report(read_material(folder))
    for line in made.agreement:
        out.print(f"agreement with the published ranking: {line}", markup=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, made.html.encode())
    out.print(f"wrote {path}", markup=False)


@app.command()
def losses() -> None:
    """List the losses: formula, active or passive, tolerant to symmetric noise or not.

    Example: `apl losses`
    """
    table = Table(title="p = softmax(z); any weighted sum is a loss: '2*nce + 0.5*mae'")
    for column in ("name", "formula", "kind", "tolerant", "parameters", "source"):
        table.add_column(column)
    for name, loss in LOSSES.items():
        params = ", ".join(f"{key}={value:.4g}" for key, value in loss.params.items())
        tolerant = "yes" if loss.tolerant else "no"
        table.add_row(name, escape(loss.formula), loss.kind, tolerant, params, loss.source)
    out.print(table)


@app.command()
def datasets(data_dir: DataDir = None) -> None:
    """List the data sets, presets and networks, and where data lie.

    Example: `apl datasets --data-dir ~/data`
    """
    table = Table(title=f"data sets, in {data_folder(data_dir)}")
    for column in ("name", "what", "there"):
        table.add_column(column)
    for name, source in SOURCES.items():
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
    out.print(table)


@app.command()
def doctor(data_dir: DataDir = None) -> None:
    """Say what runs here and why: versions, devices, how losses are computed, where data lie.

    Example: `apl doctor`
    """
    table = Table(show_header=False)
    for name, value in environment().items():
        table.add_row(name, str(value))
    for name, value in diagnosis(data_dir):
        table.add_row(name, escape(value))
    for backend, there, why in kernels.backends():
        table.add_row(f"loss backend {backend}", f"{'yes' if there else 'no'}: {escape(why)}")
    out.print(table)


bench = typer.Typer(help="Measure what this machine makes of the kernels.", no_args_is_help=True)
app.add_typer(bench, name="bench")


@bench.command("kernels")
def bench_kernels(
    static: Annotated[
        bool, typer.Option("--static", help="read the compiled code instead; needs no GPU")
    ] = False,
    arch: Annotated[int, typer.Option(help="--static: compile for sm_ARCH: 80, 90 or 100")] = 90,
    loss: Annotated[str, typer.Option(help="the loss to time")] = "nce_rce",
    seconds: Annotated[float, typer.Option(help="time for each measurement")] = 0.5,
) -> None:
    """Time the kernels on a GPU beside the other ways, or show what the compiler made of them.

    The times: milliseconds, GB/s and percent of the measured copy bandwidth.  --static:
    registers, spills, loads and stores, occupancy and bytes moved per row over the least possible.

    Example: `apl bench kernels --static --arch 90`
    """
    rows = kernel_table(loss, static, arch, seconds)
    table = Table(title=f"sm_{arch}" if static else f"{loss}, forward plus backward")
    for name in rows[0]:
        table.add_column(name, justify="right" if name != "loss" else "left")
    for row in rows:
        table.add_row(
            *(f"{v:.3g}" if isinstance(v, float) else escape(str(v)) for v in row.values())
        )
    out.print(table)


def main() -> None:
    """The console script `apl`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; bad input is one line and 2, never a
    traceback."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        return int(app(list(arguments), standalone_mode=False) or 0)
    except BadInput as error:
        err.print(f"apl: {error}", markup=False)
        return 2
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        err.print(f"apl: {error.strerror or error}{where}; nothing finished is lost", markup=False)
        return 1
    except torch.OutOfMemoryError:
        err.print("apl: the device is out of memory: lower --batch-size or --width", markup=False)
        return 1
    except KeyboardInterrupt:
        err.print("apl: stopped")
        return 130
    except Exception as error:
        # The option parser's complaints carry their own line and exit code; anything else is a
        # defect, and keeps its traceback.
        if not hasattr(error, "format_message"):
            raise
        err.print(f"apl: {error.format_message()}", markup=False)
        return getattr(error, "exit_code", 2)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    name = "" if issubclass(category, NoiseWarning) else f"{category.__name__}: "
    err.print(f"[yellow]warning: {name}{escape(str(message))}[/]")


if __name__ == "__main__":
    main()
