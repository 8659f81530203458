"""`apl noise`, `apl train`, `apl evaluate`: one network and its labels."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apl.cli.after import SEES, again, cleaned, then, typed
from apl.cli.completion import one_of
from apl.cli.console import console, this_command
from apl.cli.features import features_first
from apl.cli.options import (
    CONFIG,
    DATA,
    LABELS,
    MACHINE,
    TRACK,
    USUAL,
    maps,
    options,
    take_machine,
    take_own_data,
)
from apl.cli.results import (
    keep_state,
    labels_now,
    other_runs,
    place_for,
    source_of,
    study_of,
)
from apl.config.config import make_config
from apl.errors import Interrupted, require
from apl.features.catalog import seen_by
from apl.losses.catalog import PARAMS, REPAIR, loss_label, loss_name
from apl.study.trackers import Tracking, require_tracker
from apl.training.ddp import Group
from apl.training.listener import Listener
from apl.training.machine import Machine

if TYPE_CHECKING:
    from apl.config.config import Config
    from apl.runs.scores import Result


@options(*LABELS, *DATA, texts={"map": maps()})
def noise(
    *,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="the .npz to write; the picture is written beside it"),
    ] = None,
    **given: Any,
) -> None:
    """Make noisy labels: print rates and matrix, write them and a picture.

    The .npz has the arrays clean, noisy, mask (which labels are wrong) and transition.

    Example: `apl noise --type asym --rate 0.3`
    """
    words = typed(given)
    machine = take_machine(given)
    take_own_data(given, machine)
    config = make_config(**given)
    from apl.noise.files import write_noise
    from apl.report.pictures import plot_transition
    from apl.report.terminal import noise_table
    from apl.training.prepare import data_of, with_noise

    data = with_noise(config, machine, data_of(config, machine))
    labels = data.train.labels
    named = f"{config.dataset}_{config.name.removeprefix(config.loss + '_')}.npz"
    path = out_file or Path("results", "noise", named)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_noise(path, labels)
    stem = path.with_name(path.name.removesuffix(".npz"))  # a rate has a dot too
    pictures = plot_transition(labels, data.class_names, stem, stem.name.replace("_", ", "))
    out = console()
    out.print(noise_table(config, data.class_names, labels, out.width))
    out.print(
        f"{labels.wrong.sum():,} of {len(labels):,} labels changed "
        f"({labels.wrong.mean():.2%}); seed {config.seed}, {config.method}"
    )
    out.print("wrote " + ", ".join(map(str, (path, *pictures))))
    then(out, ("to train on these labels", ["apl", "train", "--loss", config.loss, *words]))


@options(*CONFIG, *PARAMS, *MACHINE)
def train_command(
    *,
    folder: Annotated[
        Path | None, typer.Option("--out", help="study folder; the run is written into its runs/")
    ] = None,
    track: Annotated[str | None, TRACK] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="judge labels first, then train on repaired ones")
    ] = False,
    **given: Any,
) -> None:
    """Train one network on noisy labels.

    Stop it at any moment: the same command goes on; a finished run is shown, not repeated.  Exit
    code 1: it learned nothing, and says why.  Defaults are those of the preset quick; a loss has
    its own parameters.  On several GPUs: `torchrun --nproc-per-node 4 -m apl train ...`

    Example: `apl train --loss nce_rce --noise sym --rate 0.6`
    """
    if track:
        require_tracker(track)
    if repair:
        loss = loss_name(given.get("loss", REPAIR))
        require(loss in (REPAIR, "ce"), "loss", loss, "ce or none with --repair")
        given["loss"] = REPAIR
    given_dataset, asked = given.get("dataset", ""), dict(given)
    machine = take_machine(given)
    data = take_own_data(given, machine)
    since = labels_now(given, data, folder)
    config = make_config(**given)
    from apl.report.terminal import result_table, verdicts
    from apl.runs.record import as_begun, write_study
    from apl.runs.run import RUNS, Run
    from apl.training.train import train

    out = console()
    base = folder or Path("results", f"{config.dataset}-{config.preset}-train")
    others, source = other_runs({config.name: config}), source_of(given_dataset)
    study = place_for(base, data, source, others, out.print, asked=folder is not None).folder
    (config,), moved = as_begun(study, [config])
    run = study / RUNS / config.name
    tell_begun(run, machine)
    out.print(f"{loss_label(config.loss)} on {config.dataset} ({config.preset}), in {run}")
    for line in (*moved, *since):
        out.print(line)
    if not Run(run).finished:
        features_first([config], machine, data)
    on = "true" if data is None else data.on
    first = Group.here().rank == 0
    with show_training(config.epochs, on) as listener, contextlib.ExitStack() as stack:
        if track and first:
            tracking = Tracking(track, run, config, listener.on_message)
            stack.callback(tracking.end)
            listener += Listener(on_epoch=tracking.row)
        result = train(config, run, machine=machine, listener=listener)
    if first:
        write_study(study)
        keep_state(study, data, source)
    seen = seen_by(config.features, config.network, config.weights)
    title = f"{loss_label(config.loss)}, last epoch"
    out.print(result_table(f"{title}\n{seen}" if seen else title, result))
    for verdict in verdicts(config, result):
        out.print(verdict)
    remedies = _remedies(config, result)
    if data is not None and not remedies:
        if config.labels:
            remedies += cleaned(given_dataset, data, config.labels, asked)
        else:
            words = ["apl", "find", given_dataset, *typed(asked, SEES)]
            remedies.append(("which labels are wrong", words))
    more = ("more", ["apl", "evaluate", str(run)])
    in_use = (
        "in use, on these or new samples",
        ["apl", "predict", str(run), given_dataset or config.dataset],
    )
    then(out, *remedies, more, *([] if result.collapsed else [in_use]))
    if result.collapsed:
        raise typer.Exit(1)


def _remedies(config: Config, result: Result) -> list[tuple[str, list[str]]]:
    """What to type again, and with what, where a training failed or learned wrong labels by
    heart."""
    from apl.runs.scores import FITTED, memory_verdict, shorter

    if Group.here().size > 1 or result.reason == "no-gradient":
        return []
    if result.reason == "diverged":
        return [("again, with smaller steps", again("--lr", f"{config.lr / 10:g}"))]
    if result.reason == "chance" and result.train_accuracy >= FITTED:  # learned by heart
        return [("again, for fewer epochs", again("--epochs", str(shorter(config))))]
    if result.collapsed and config.loss != "ce":
        return [("whether ce learns", again("--loss", "ce"))]
    if result.collapsed:
        return [("again, for longer", again("--epochs", str(2 * config.epochs)))]
    if memory_verdict(config, result):
        return [("again, for fewer epochs", again("--epochs", str(shorter(config))))]
    return []


def tell_begun(path: Path | None, machine: Machine) -> None:
    """Say what becomes of a run that was begun: it goes on, or is finished and shown."""
    from apl.runs.run import Run

    run, out = Run(path), console()
    if not run.begun:
        return
    if not run.finished:
        done = run.epochs_done()
        if done:
            out.print(f"going on at epoch {done + 1}")
        return
    asked, was = machine.device, str(run.environment.get("device", ""))
    on = ""
    if asked != "auto" and was and asked.partition(":")[0] != was.partition(":")[0]:
        on = f", as it was trained on {was} and not on {asked}"
    out.print(f"a finished run is shown{on}, nothing is trained; for a new one give another --out")


@contextlib.contextmanager
def show_training(epochs: int, on: str) -> Iterator[Listener]:
    """Shows what a training of so many epochs tells, and stops it when the user asks for that; then
    the command that goes on is told."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from apl.report.terminal import epoch_line, shows
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
    out = console()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("training", total=epochs)

        def on_epoch(row: dict[str, float]) -> None:
            bar.update(task, completed=row["epoch"])
            if shows(int(row["epoch"]), epochs):
                bar.console.print(epoch_line(row, epochs, on))

        try:
            yield Listener(
                on_epoch=on_epoch,
                on_message=lambda text: bar.console.print(text, style="bold red"),
                should_stop=lambda: stopping,
            )
        except Interrupted:
            console(stderr=True).print(f"stopped; to go on: {this_command()}")
            raise typer.Exit(130) from None


@options(
    "dataset",
    "network",
    *DATA,
    usual={**USUAL, "dataset": "the run's", "network": "the run's"},
    texts={"dataset": "where your data are now", "network": "module:Class of yours, typed again"},
)
def evaluate(
    run: Annotated[Path, typer.Argument(help="a run folder, as `apl train` names it")],
    *,
    labels: Annotated[
        str,
        typer.Option(
            help="score on clean test labels, or on noisy ones, as this project's first report did",
            autocompletion=one_of(("clean", "noisy")),
        ),
    ] = "clean",
    **given: Any,
) -> None:
    """Score a trained run: overall, per class, confusion matrix, memorised and recovered.

    Your own data are found in the cache; if they are no longer there, give --dataset PATH.  Your
    own network is imported only if you type it: --network module:Class.

    Example: `apl evaluate results/digits-quick-train/runs/nce_rce_sym-0.4_seed0`
    """
    from apl.report.terminal import result_table, scores_table, verdicts
    from apl.runs.run import Run
    from apl.training.evaluate import evaluate_run

    machine = take_machine(given)
    if given:
        config = Run(run).config
        network = given.get("network", config.network)
        require(network == config.network, "network", network, f"the run's, {config.network}")
        if "dataset" in given:  # decoded as it was for the run, into the cache
            for name in ("image_size", "label_column", "test_set"):
                given[name] = getattr(config, name)
            take_own_data(given, machine)
    scores, config, result = evaluate_run(run, labels, machine)
    out = console()
    on = "given" if labels == "clean" and result.on == "given" else labels
    out.print(f"{loss_label(config.loss)}: {scores.accuracy:.2%} on the {on} test labels")
    out.print(scores_table(result.class_names, scores, out.width))
    out.print(result_table("last epoch, as trained", result))
    for line in verdicts(config, result):
        out.print(line)
    study = study_of(run)
    if study is not None:
        then(out, ("the runs beside it on a page", ["apl", "report", str(study)]))
