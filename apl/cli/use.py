"""`apl predict`, `apl export`: a trained network in use, here and in other programs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apl.cli.after import READS, again, then, typed
from apl.cli.completion import one_of
from apl.cli.console import console, counting
from apl.cli.options import DATA, options, take_machine, take_own_data
from apl.cli.results import trained_on
from apl.errors import BadInput, require

if TYPE_CHECKING:
    from apl.cli.terminal import Terminal
    from apl.data.listing import Listing
    from apl.training.machine import Machine
    from apl.training.predictions import Told
    from apl.training.use import Trained

_TEXTS = {
    "dataset": "where its training data are now, for a run of an older apl",
    "network": "module:Class of yours, typed again",
    "features": "module:function of yours, typed again",
    "label_column": "column with labels to score on [default: the run's]",
    "max_pixels": "most pixels of an image; a JPEG may have more",
}


_NAMES = (
    *("dataset", "network", "features", "label_column", "device", "threads", "data_dir"),
    *("download", "max_pixels", "image_folder", "layout", "skip"),
)


@options(
    *_NAMES,
    usual={},
    texts=_TEXTS,
)
def predict(
    things: Annotated[list[str], typer.Argument(help="runs, then samples", metavar="RUN INPUT")],
    *,
    out_file: Annotated[Path, typer.Option("--out", help="the table to write")] = Path(
        "predictions.csv"
    ),
    everything: Annotated[bool, typer.Option("--all", help="a column for each class")] = False,
    best: Annotated[
        bool, typer.Option("--best", help="of a study: the run that held-out given labels choose")
    ] = False,
    fit: Annotated[
        bool, typer.Option("--calibrate", help="first fit the run's temperature, once for all")
    ] = False,
    **given: Any,
) -> None:
    """Say what trained networks see in new samples: file_name, predicted_label, probability.

    INPUT is what `--dataset` takes, labelled or not, a single file, or a pattern as `'new/*.jpg'`.
    Several runs: the mean of their probabilities.  Given labels are scored.  What can't be read is
    named and left out.  Stop it at any moment: the same command goes on.

    Example: `apl predict results/photos-quick-train/runs/ce_given_seed0 new/ --out predictions.csv`
    """
    words = dict(given)
    machine = take_machine(given)
    from apl.training.predictions import Question, write_predictions

    out = console()
    folders, sources = _runs_first(things)
    paths = _run_folders(folders, best, out)
    if fit:
        from apl.training.calibration import calibrate

        for path in paths:
            calibrate(path, machine, out.print)
    runs = _load(paths, given, machine)
    reading = {**given, **{name: getattr(machine, name) for name in DATA}}
    listings = [_listed(source, runs[0], reading, machine, out, len(sources)) for source in sources]
    for line in _missing(runs, listings):
        out.print(line, markup=False)
    if not out_file.parent.is_dir():
        raise BadInput(f"there is no folder {out_file.parent} for --out")
    require(not out_file.is_dir(), "out", str(out_file), "a file, as predictions.csv")
    trained = _trained(listings, runs, paths)
    asked = Question(runs, listings, everything, machine.max_pixels, trained)
    with counting("predicting", out) as count:
        told = write_predictions(asked, out_file, out.print, count)
    _tell(told, runs, out_file, out)
    if not told.rows:
        raise typer.Exit(1)
    then(out, *_next(told, runs, paths, sources, words))


def _runs_first(things: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The folders of runs and studies that come first, and the inputs behind them."""
    folders = [Path(each) for each in itertools.takewhile(_is_run_or_study, things)]
    if not folders:
        raise BadInput(f"{things[0]} is no run; accepted: a run folder, as `apl train` names it")
    if len(folders) == len(things):
        raise BadInput(f"predict what? For instance `apl predict {folders[0]} new/`")
    return folders, list(things[len(folders) :])


def _is_run_or_study(thing: str) -> bool:
    from apl.runs.run import CONFIG, RECORD, RUNS

    path = Path(thing)
    return any((path / name).exists() for name in (CONFIG, RECORD)) or any(
        path.glob(f"{RUNS}/*/{CONFIG}")
    )


def _run_folders(folders: Sequence[Path], best: bool, out: Terminal) -> list[Path]:
    """The run folders that are asked: a study's is the one that was chosen without the truth."""
    from apl.runs.run import CONFIG, RUNS

    found = []
    for folder in folders:
        if (folder / CONFIG).exists():
            found.append(folder)
            continue
        runs = sorted(folder.glob(f"{RUNS}/*/{CONFIG}"))
        if len(runs) == 1:
            found.append(runs[0].parent)
            continue
        if not best:
            raise BadInput(
                f"{folder} has {len(runs)} runs; accepted: --best, one of them, or several, whose "
                f"mean is taken: {folder / RUNS / '*'}"
            )
        from apl.report.results import chosen_run
        from apl.report.study import studies
        from apl.runs.record import read_runs

        name, why = chosen_run(studies(read_runs(folder)), str(folder))
        out.print(why, markup=False)
        found.append(folder / RUNS / name)
    return found


def _load(paths: Sequence[Path], given: dict[str, Any], machine: Machine) -> list[Trained]:
    """The runs' networks, once their data are decoded where the user says where these are."""
    from apl.runs.run import Run
    from apl.training.machine import set_up
    from apl.training.use import load_run

    config = Run(paths[0]).config
    for name in ("network", "features"):
        typed = given.pop(name, getattr(config, name))
        require(typed == getattr(config, name), name, typed, f"the run's, {getattr(config, name)}")
    if "dataset" in given:
        own = {name: getattr(config, name) for name in ("image_size", "label_column", "test_set")}
        own["dataset"] = given.pop("dataset")
        take_own_data(own, machine)
    set_up(config, machine)
    return [load_run(path, machine) for path in paths]


def _listed(
    source: str,
    run: Trained,
    given: dict[str, Any],
    machine: Machine,
    out: Terminal,
    several: int,
) -> Listing:
    """What lies at an input; of several each sample has its input before its name."""
    from apl.data.hub import PREFIX, is_saved
    from apl.data.reading import Reading
    from apl.data.samples import list_dataset, list_samples
    from apl.data.texts import NO_TEXTS
    from apl.features.vectors import list_vectors
    from apl.names import DATASETS
    from apl.paths import user_path

    inputs = run.inputs
    side = inputs.shape[0] if inputs.kind == "images" else 0
    column = inputs.encoding.get("text_column", NO_TEXTS)
    reading = Reading.of({"label_column": run.config.label_column, **given, "text_column": column})
    path = user_path(source)
    if source in DATASETS or source.startswith(PREFIX) or (path.is_dir() and is_saved(path)):
        from apl.data.sources import read_data

        reading = reading if source in DATASETS else dataclasses.replace(reading, image_size=side)
        data = read_data(source, reading, machine.data_dir, machine.download, out.print)
        found = list_dataset(data)
    elif inputs.kind == "vectors":
        found = list_vectors(source)
    else:
        found = list_samples(source, reading, inputs.kind)
    for note in found.notes:
        out.print(note, markup=False)
    if (
        several > 1
        and path.exists()
        and not all(sample.name == sample.path for sample in found.samples)
    ):
        before = source.rstrip("/")
        found.samples = [s._replace(name=f"{before}/{s.name}") for s in found.samples]
        found.broken = [(f"{before}/{name}", why) for name, why in found.broken]
    return found


def _missing(runs: Sequence[Trained], listings: Sequence[Listing]) -> list[str]:
    """A line for columns that a network was trained on and a table lacks."""
    from apl.data.listing import some_of
    from apl.data.samples import missing_columns

    lines = []
    for listing in listings:
        if listing.columns is not None:
            recipes = runs[0].inputs.encoding.get("columns", ())
            lacks = missing_columns(listing.columns, recipes)
            if lacks:
                lines.append(f"columns that are not there, taken as missing: {some_of(lacks)}")
    return lines


def _trained(
    listings: Sequence[Listing], runs: Sequence[Trained], paths: Sequence[Path]
) -> set[int]:
    """Which samples of listings, one after the other, a run was trained on, by their content."""
    from apl.data.samples import contents_of
    from apl.data.texts import NO_TEXTS

    seen: set[bytes] = set()
    for path, run in zip(paths, runs, strict=True):
        seen |= trained_on(path, run.config)
    if not seen:
        return set()
    column = runs[0].inputs.encoding.get("text_column", NO_TEXTS)
    contents = itertools.chain(*(contents_of(listing, column) for listing in listings))
    return {place for place, content in enumerate(contents) if content in seen}


def _tell(told: Told, runs: Sequence[Trained], path: Path, out: Terminal) -> None:
    """What was predicted, how far it agrees with given labels, and what was left out."""
    from apl.data.listing import broken_line, some_of

    mean = f", the mean of {len(runs)} runs" if len(runs) > 1 else ""
    out.print(f"{told.rows:,} predictions{mean}: {path}", markup=False)
    out.print(f"probabilities: {'; '.join(dict.fromkeys(run.calibrated for run in runs))}")
    if told.labelled:
        share = f"{told.right / told.labelled:.2%}"
        out.print(f"accuracy on given labels: {share} of {told.labelled:,}")
    if told.trained:
        out.print(_seen_before(told))
    if told.strange:
        names = some_of([f"{name} {count:,}" for name, count in told.strange.most_common()])
        count = sum(told.strange.values())
        out.print(f"not scored: {count:,} with a label that is no class: {names}", markup=False)
    if told.broken:
        out.print(broken_line(told.broken), markup=False)


def _seen_before(told: Told) -> str:
    """What the samples that were trained on do to the accuracy on given labels."""
    all_of = told.trained == told.rows
    line = f"trained on {'all' if all_of else f'{told.trained:,}'} of these {told.rows:,} samples"
    if not told.labelled:
        return f"{line}: how sure it is of them says nothing of new ones"
    line += ", and labels that it has seen it may know by heart"
    if not told.new_labelled:
        return f"{line}: this accuracy says nothing of new ones"
    return f"{line}; on the {told.new_labelled:,} others {told.new_right / told.new_labelled:.2%}"


def _next(
    told: Told,
    runs: Sequence[Trained],
    paths: Sequence[Path],
    sources: Sequence[str],
    words: dict[str, Any],
) -> list[tuple[str, list[str]]]:
    """What may be typed next: labels that were trained on are judged rather than predicted;
    probabilities that are not calibrated are, where that can be; else the network is taken away."""
    from apl.training.calibration import can_calibrate

    lines = []
    if told.trained and told.labelled and len(sources) == 1:
        judge = ["apl", "find", sources[0], *typed(words, READS)]
        lines.append(("which of these labels are wrong", judge))
    if can_calibrate(runs):
        lines.append(("for probabilities that mean something", again("--calibrate")))
    elif len(paths) == 1:
        ours = typed(words, ("network", "features"))
        lines.append(("in other programs", ["apl", "export", str(paths[0]), *ours]))
    return lines


@options("network", "features", usual={}, texts=_TEXTS)
def export(
    run: Annotated[Path, typer.Argument(help="a run folder, as `apl train` names it")],
    *,
    form: Annotated[
        str,
        typer.Option(
            "--to", help="onnx, or torch for torch.export", autocompletion=one_of(("onnx", "torch"))
        ),
    ] = "onnx",
    out_file: Annotated[
        Path | None, typer.Option("--out", help="the file to write, else DATASET.onnx or .pt2")
    ] = None,
    card: Annotated[bool, typer.Option("--card", help="a model card beside it")] = False,
    **given: Any,
) -> None:
    """Write a trained network as one file: from pixels or rows to probabilities, all inside.

    It needs no apl: ONNX Runtime or torch reads it.  Classes, sizes and licences are in its
    metadata.  A few samples are asked of both, and a difference is an error.

    Example: `apl export results/digits-quick-train/runs/nce_rce_sym-0.4_seed0 --to onnx --card`
    """
    require(form in ("onnx", "torch"), "to", form, "onnx, torch")
    machine = dataclasses.replace(take_machine(given), device="cpu")
    from apl.files import write_atomic
    from apl.runs.run import Run
    from apl.training.card import model_card
    from apl.training.export import KINDS, export_run

    (trained,) = _load([run], given, machine)
    path = out_file or Path(f"{trained.config.dataset}{KINDS[form]}")
    if not path.parent.is_dir():
        raise BadInput(f"there is no folder {path.parent} for --out")
    require(not path.is_dir(), "out", str(path), f"a file, as model{KINDS[form]}")
    done = export_run(trained, path, form)
    out = console()
    out.print(f"{path}: {path.stat().st_size / 2**20:.1f} MB, input {done.holds}")
    out.print(done.checked)
    if card:
        beside = path.with_suffix(".md")
        write_atomic(beside, model_card(Run(run), trained, form, done.holds).encode())
        out.print(f"model card: {beside}")
