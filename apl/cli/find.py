"""`apl find`: the wrong labels of a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apl.cli.after import NOISY, SEES, again, cleaned, then, typed
from apl.cli.console import console, this_command
from apl.cli.features import features_first
from apl.cli.options import CONFIG, MACHINE, options, take_machine, take_own_data
from apl.cli.results import Place, keep_state, other_search, place_for, source_of
from apl.cli.train import show_training, tell_begun
from apl.config.config import make_config
from apl.config.presets import SEARCH
from apl.errors import BadInput, require
from apl.features.catalog import seen_by
from apl.losses.catalog import PARAMS
from apl.names import NETWORKS, SIDE
from apl.training.machine import Machine

if TYPE_CHECKING:
    from apl.cli.terminal import Terminal
    from apl.data.dataset import Dataset
    from apl.data.decisions import Decisions
    from apl.detect.audit import Audit
    from apl.detect.health import Health
    from apl.detect.rows import Rows
    from apl.detect.search import Search

PRESET = "laptop"
_OWN = make_config(
    PRESET, dataset="yours", dataset_sha256="0" * 64, image_size=SIDE, noise="none", **SEARCH
)
USUAL = {
    **vars(_OWN),
    **vars(Machine()),
    "image_size": 0,
    "network": "by size",
    "features": "photos: lite0, texts: tfidf",
    "width": "32, rows: 64",
    "batch_size": f"{_OWN.batch_size}, if few: less",
}
"""The defaults for data of one's own, in words where they depend on these."""


@options(
    *(name for name in CONFIG if name not in ("dataset", "select")),
    *PARAMS,
    *MACHINE,
    usual=USUAL,
    texts={
        "noise": "adds wrong labels, to try it out: see `apl noise --help`",
        "network": f"{', '.join(NETWORKS)}, timm:NAME, module:Class",
    },
)
def find(  # its parameters are its options, which a third of its lines are
    source: Annotated[str, typer.Argument(help="the path of your data, or a built-in name")] = "",
    *,
    folds: Annotated[
        int, typer.Option(help="0: one training; K: K trainings, each judges what it never saw")
    ] = 0,
    judge: Annotated[
        str, typer.Option(help="all: test labels too, never trained on; train: not these")
    ] = "all",
    audit: Annotated[int, typer.Option(help="judge N random labels first")] = 0,
    decisions: Annotated[
        Path | None,
        typer.Option(help="decisions.csv: these are not shown again"),
    ] = None,
    shown: Annotated[int, typer.Option(help="images in the gallery, worst first")] = 400,
    another: Annotated[
        int, typer.Option("--next", help="list so many samples that are worth another label")
    ] = 0,
    folder: Annotated[
        Path | None, typer.Option("--out", help="folder for the results, else results/DATASET-find")
    ] = None,
    **given: Any,
) -> None:
    """Find the wrong labels: train once, judge every label, write a list and a gallery.

    Open gallery.html in a browser, decide, and train on your decisions with
    `apl train --labels decisions.csv`.  The defaults shown are those for your own data.  Exit
    code 1: the training failed, so nothing is known about the labels.

    Example: `apl find photos/`
    """
    if not source:
        raise BadInput(
            "find the wrong labels of what? For instance `apl find photos/`, a folder of classes; "
            "or, to try it out, `apl find digits --noise sym --rate 0.2`"
        )
    require(shown >= 1, "shown", shown, "a whole number >= 1")
    require(another >= 0, "next", another, "a whole number >= 0")
    require(audit >= 0, "audit", audit, "a whole number >= 0")
    asked = dict(given)
    machine = take_machine(given)
    given["dataset"] = source
    own = take_own_data(given, machine)

    from apl.data.sources import load_data
    from apl.detect.review import ISSUES
    from apl.detect.rows import rows_of, search_health
    from apl.detect.search import search_config, search_labels

    data = load_data(source, machine.data_dir, machine.download) if own is None else own
    del given["dataset"]
    preset = given.pop("preset", PRESET)
    config = search_config(preset, data, given)
    out = console()
    known = source_of(source)
    base, others = folder or Path("results", f"{data.name}-find"), other_search(data.digest)
    place = place_for(base, own, known, others, out.print, asked=folder is not None)
    target = place.folder
    decisions = decisions or _kept(place, out)
    out.print(f"looking for wrong labels in {data.name}, in {target}")
    features_first([config], machine, own)
    with show_training(config.epochs, data.on) as listener:
        run = None if folds else target / "run"
        tell_begun(run, machine)
        search = search_labels(
            config, own, folds=folds, judge=judge, run=run, machine=machine, listener=listener
        )
    rows = rows_of(search)
    target.mkdir(parents=True, exist_ok=True)
    keep_state(target, own, known)
    decided = None
    if decisions is not None:
        decided, decisions = _decided(decisions, place, search, data, out)
    if audit and _asks(search, rows, decided, target, data.name, audit):
        return
    audited, health = _audited(search, rows, decided, target), search_health(search, rows)
    detection = _write(search, rows, decided, target, data.name, shown, audited, health)
    _tell(search, rows, detection, target)
    for line in audited.lines if audited else ():
        out.print(line)
    if health.told():
        where = f"in tabs of the gallery and in {ISSUES}" if rows.looks else f"in {ISSUES}"
        out.print(f"beside the labels, {where}: {'; '.join(health.told())}")
    _write_agreed(search, target, another)
    done = decisions if decided is not None and decided.decided.any() else None
    then(out, *_next(search, rows, done, target, source, asked))
    if search.failed:
        raise typer.Exit(1)


def _asks(
    search: Search, rows: Rows, decided: Decisions | None, target: Path, title: str, count: int
) -> bool:
    """Write the page of an audit where some of the labels that were drawn are to be judged yet."""
    from apl.detect.audit import PAGE, draw
    from apl.detect.review import write_audit

    given = rows.findings.given_label
    require(bool(rows.looks), "audit", count, f"0 with {title}, of which nothing can be shown")
    drawn = draw(target, min(count, len(given)), search.data.digest, given, search.config.seed)
    left = [i for i in drawn if decided is None or not decided.decided[i]]
    if not left:
        return False
    write_audit(
        target,
        rows.findings,
        drawn,
        class_names=search.data.class_names,
        names=rows.names,
        root=search.data.root,
        looks=rows.looks,
        decisions=decided,
        title=title,
    )
    out = console()
    again = this_command()
    file = "" if "--decisions" in again else " --decisions decisions.csv"
    out.print(f"judge {len(left)} labels in a browser, save decisions.csv: {target / PAGE}")
    out.print(f"then give them to the same command, which shows what was found: {again}{file}")
    return True


def _audited(search: Search, rows: Rows, decided: Decisions | None, target: Path) -> Audit | None:
    """What an audit of these labels says, where there was one."""
    from apl.detect.audit import audited, drawn_before

    found = rows.findings
    drawn = drawn_before(target, search.data.digest, found.given_label)
    if not drawn or decided is None:
        return None
    return audited(drawn, decided, found.given_label, found.is_label_issue)


# Seven parameters: what was found, what was said of it, and where it goes.
def _write(
    search: Search,
    rows: Rows,
    decided: Decisions | None,
    target: Path,
    title: str,
    shown: int,
    audit: Audit | None,
    health: Health,
) -> dict[str, float]:
    """Write the files of findings; how well training labels were found, where their truth is
    known."""
    from apl.detect.evidence import detection_scores
    from apl.detect.review import write_review
    from apl.detect.rows import judged

    detection = detection_scores(search.findings, search.data.train.labels)
    config = search.config
    seen = seen_by(config.features, config.network, config.weights)
    write_review(
        target,
        rows.findings,
        class_names=search.data.class_names,
        names=rows.names,
        root=search.data.root,
        pixels=rows.looks.pixels,
        looks=rows.looks,
        curves=rows.curves,
        decisions=decided,
        detection=detection,
        title=f"{title} ({seen})" if seen else title,
        shown=shown,
        splits=rows.splits,
        judged=[*judged(search), *(audit.lines if audit else [])],
        audit=audit,
        health=health,
    )
    return detection


def _write_agreed(search: Search, target: Path, another: int) -> None:
    """Write what several annotators say together, and the samples worth another label."""
    from apl.detect.consensus import (
        ANNOTATORS,
        ANOTHER,
        CONSENSUS,
        NEXT,
        as_one,
        write_consensus,
        write_next,
    )

    out, found = console(), search.agreed
    if found is None and another and not search.failed:
        train = search.data.train
        one = as_one(train.labels.given, search.evidence, search.data.class_names)
        write_next(target, dataclasses.replace(one, samples=train.names), another)
    elif found is not None:
        write_consensus(target, found, another or NEXT)
        sure = [(share, name) for share, name in zip(found.accuracy, found.annotators, strict=True)]
        sure = sorted(pair for pair in sure if pair[0] == pair[0])
        ends = ", ".join(
            f"{name} {share:.1%}" for share, name in dict.fromkeys(sure[-1:] + sure[:1])
        )
        out.print(f"annotators, by how often they are right: {ends}; all: {target / ANNOTATORS}")
        out.print(f"consensus: {target / CONSENSUS} (apl train --labels takes it)")
    else:
        return
    out.print(f"worth another label, and why: {target / ANOTHER}")


def _kept(place: Place, out: Terminal) -> Path | None:
    """The decisions that lie in the folder, or in the newest of those before it."""
    from apl.data.decisions import DECIDED

    for folder in (place.folder, *reversed(place.before)):
        if (folder / DECIDED).is_file():
            out.print(f"decisions are kept: {folder / DECIDED} (--decisions takes others)")
            return folder / DECIDED
    return None


def _decided(
    file: Path, place: Place, search: Search, data: Dataset, out: Terminal
) -> tuple[Decisions, Path]:
    """What a file says of the samples that were judged, and the file that has it by their names:
    where they have other names since, another one."""
    from apl.cli.results import decided_now
    from apl.data.decisions import DECIDED, rename_decisions
    from apl.training.prepare import read_decisions

    folders = (place.folder, *reversed(place.before))
    now, told = decided_now(file, folders, data)
    if told:
        out.print(told)
    train, test = read_decisions(file, search.data, now)
    if now and not (place.folder / DECIDED).exists():
        rename_decisions(file, place.folder / DECIDED, now)
        file = place.folder / DECIDED
        out.print(f"decisions by the names of now: {file}")
    return (train if search.test is None else train.beside(test)), file


def _tell(search: Search, rows: Rows, detection: Mapping[str, float] | None, target: Path) -> None:
    """What was found, how far it is to be doubted, and where it lies."""
    from apl.detect.evidence import INVISIBLE
    from apl.detect.review import GALLERY, ISSUES
    from apl.detect.rows import judged
    from apl.report.terminal import findings_table

    out = console()
    found, rate = rows.findings, rows.findings.noise_rate
    table = findings_table(
        found.given_label,
        found.predicted_label,
        found.is_label_issue,
        (rate.estimate, rate.low, rate.high),
        search.data.class_names,
        out.width,
    )
    out.print(table)
    for doubt in found.doubts:
        out.print(doubt, style="" if doubt == INVISIBLE else "bold red")
    if detection:
        parts = ", ".join(f"{name.replace('_', ' ')} {v:.3f}" for name, v in detection.items())
        out.print(f"against the true labels: {parts}")
    for line in judged(search):
        out.print(line)
    out.print(f"every label, worst first: {target / ISSUES}")
    if rows.looks:
        out.print(f"review them in a browser: {target / GALLERY}; save decisions.csv beside it")
    else:  # rows of a table, which nobody can judge by a picture
        out.print("review them there: correct given_label, and give the file to --labels")


def _next(
    search: Search,
    rows: Rows,
    decisions: Path | None,
    target: Path,
    source: str,
    asked: Mapping[str, Any],
) -> list[tuple[str, list[str]]]:
    """What may be typed next: the decisions carried out where there are some, what cleaning would
    gain, or what may help a search that failed."""
    from apl.data.decisions import DECIDED
    from apl.detect.review import ISSUES

    config, train = search.config, ["apl", "train", "--dataset", source]
    if search.failed and "diverged" in search.failed:
        return [("again, with smaller steps", again("--lr", f"{config.lr / 10:g}"))]
    if search.failed:
        return [("again, for longer", again("--epochs", str(2 * config.epochs)))]
    if not search.data.digest:
        return [("what a training makes of them", [*train, *typed(asked, (*SEES, *NOISY))])]
    train = [*train, *typed(asked, SEES), "--labels"]
    gained = "what cleaning gained"
    if decisions is not None:
        apply = cleaned(source, search.data, decisions, asked)
        return [*apply, (gained, [*train, str(decisions)])]
    file = DECIDED if rows.looks else ISSUES
    return [(f"then, {gained}", [*train, str(target / file)])]
