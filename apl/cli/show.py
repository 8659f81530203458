"""What trains nothing: `plot`, `report`, `losses`, `datasets`, `verify`, `doctor`, `cache`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apl.cli.after import in_browser, then, typed
from apl.cli.completion import loss as offer_loss
from apl.cli.console import console, counting
from apl.cli.options import options, take_machine
from apl.config.presets import COMMON, PRESETS
from apl.config.published import published_lines
from apl.cores import cores
from apl.data.folders import available, data_folder
from apl.errors import BadInput, require
from apl.losses.catalog import (
    LOSSES,
    PARAMS,
    SUMS,
    is_tolerant,
    loss_label,
    loss_name,
    loss_params,
    parse_loss,
)
from apl.names import DATASETS, NETWORKS
from apl.report.tables import Cell, Table
from apl.usercode import is_own

if TYPE_CHECKING:
    from apl.losses.verify import Verdict


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
        draw(found)
    then(console(), *_pages(studies))


MOST_COMPARED = 4  # studies in a command that is suggested


def _pages(studies: Sequence[Path]) -> list[tuple[str, list[str]]]:
    """What makes one page of studies."""
    what = "all of it as one page" if len(studies) == 1 else "the first of them beside each other"
    return [(what, ["apl", "report", *map(str, studies[:MOST_COMPARED])])]


def draw(found: Path, pictures: bool = True) -> None:
    from rich.markdown import Markdown
    from rich.text import Text

    from apl.config.published import published_rows
    from apl.files import require_no_link, write_atomic
    from apl.report.results import in_markdown, results
    from apl.report.study import studies
    from apl.runs.record import read_unfinished, write_study
    from apl.runs.run import PICTURES, RECORD, SUMMARY, TABLE

    parts = studies(write_study(found), read_unfinished(found))
    told = results(parts, published_rows())
    whole = in_markdown(piece for ours, theirs in told for piece in (*ours, *theirs))
    write_atomic(found / TABLE, whole.encode())
    out = console()
    folded = in_markdown((piece for ours, _ in told for piece in ours), out.width)
    if out.is_terminal:  # into its width, where the file's lines would be broken in two
        out.print(Markdown(folded), soft_wrap=False)
    else:
        out.print(Text(folded))
    beside = " (with published figures)" if any(theirs for _, theirs in told) else ""
    wrote = ", ".join(str(found / name) for name in (RECORD, SUMMARY, TABLE))
    out.print(f"wrote {wrote}{beside}")
    if pictures:
        from apl.report.pictures import plot_study

        require_no_link(found / PICTURES)
        with counting("drawing pictures", out) as progress:
            drawn = plot_study(parts, found / PICTURES, processes=cores(), progress=progress)
        for picture in drawn:
            if picture.suffix == ".png":
                out.print(f"wrote {picture} and .svg")


def report(
    folders: Annotated[list[Path], typer.Argument(help="study folders, as `apl study` names them")],
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="the .html to write, else report.html in the study folder"),
    ] = None,
    claims: Annotated[
        Path | None,
        typer.Option(help="a .yaml of claims made before the runs, else ours (docs/claims.md)"),
    ] = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="write every table as LaTeX too, beside the .html")
    ] = False,
) -> None:
    """Write a study as one HTML page: answers, tables, pictures, which claims of the paper hold.

    The page opens without a network.  Several studies are compared.  A study whose run folders
    are gone is read from its runs.jsonl.

    Example: `apl report results/digits-quick`
    """
    from apl.files import write_atomic
    from apl.report.contrasts import read_claims
    from apl.report.page import make_comparison, make_report, read_study
    from apl.runs.run import REPORT

    claimed = read_claims(claims) if claims else None

    several = len(folders) > 1
    path = out_file or folders[0] / ("comparison.html" if several else REPORT)
    if path.is_dir():
        raise BadInput(f"out is {path}, a folder; accepted: the name of a file")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):  # as results/NAME beside results/evidence/NAME
        names = [folder.as_posix() for folder in folders]
    named = [(name, read_study(folder)) for name, folder in zip(names, folders, strict=True)]
    made = make_comparison(named, claimed) if several else make_report(*named[0], claimed)
    out = console()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, made.html.encode())
    if latex:
        write_atomic(path.with_suffix(".tex"), made.latex.encode())
        out.print(f"wrote {path.with_suffix('.tex')}")
    for line in made.agreement:
        out.print(f"agreement with the published ranking: {line}")
    out.print(f"wrote {path}")
    then(out, ("to open it", in_browser(path)))


def losses(
    name: Annotated[
        str,
        typer.Argument(help="one of them, or a sum, as with --loss", autocompletion=offer_loss),
    ] = "",
) -> None:
    """List the losses, or show one: formula, kind, source, its parameters and their values.

    Example: `apl losses "nce + 2*gce(q=0.9)"`
    """
    if name:
        _show_loss(name)
        return
    out = console()
    out.print("p = softmax(z); sums are losses too: '2*nce + 0.5*mae'; one: apl losses NAME")
    out.print("repair stands for one: CE on labels that are repaired first (docs/repair.md)")
    rows = []
    for each, loss in LOSSES.items():
        params = [f"{key}={value:.4g}" for key, value in loss.params.items()]
        about = ", ".join([loss.kind, "tolerant" if loss.tolerant else "not tolerant", *params])
        rows.append([Cell(each), Cell(loss.formula, below=f"{about}; {loss.source}")])
    head = ["name", "formula\nkind, tolerance, parameters; source"]
    out.print(Table("", head, rows, words=True).rich("open", unbroken=True))
    then(out, ("one of them", ["apl", "losses", COMMON["loss"]]))


def _show_loss(typed: str) -> None:
    """Show a loss part by part: what it is, the values that are typed, and what papers chose."""
    spec = loss_name(typed) if loss_label(loss_name(typed)) == typed.strip() else typed
    if is_own(spec):
        raise BadInput(f"{spec!r} is a function of yours: its module says what it is")
    try:
        loss_params(spec, {})  # the values fit
        parts = parse_loss(spec)
    except ValueError as error:
        raise BadInput(str(error)) from None
    names = {loss.label: name for name, loss in LOSSES.items()}
    out = console()
    if len(parts) > 1:
        out.print(f"{spec}: {_tolerance(is_tolerant(spec))}")
    for part in parts:
        loss, name = part.loss, names[part.loss.label]
        told = [
            ("formula", f"{loss.formula}; p = softmax(z)"),
            ("kind", f"{loss.kind}, {_tolerance(loss.tolerant)}"),
            ("source", loss.source),
        ]
        for param, default in loss.params.items():
            value = part.own.get(param, default)
            usual = "" if value == default else f" (default {default:g})"
            told.append((param, f"{value:g}{usual}: {PARAMS[param].help}"))
        if not loss.params:
            told.append(("parameters", "none"))
        told += [("published", line) for line in published_lines(name)]
        caption = f"{'' if part.factor == 1 else f'{part.factor:g} * '}{name} ({loss.label})"
        rows = [[Cell(word), Cell(text)] for word, text in told]
        out.print(Table(caption, [], rows, words=True).rich("open", unbroken=True))
    then(out, ("to train with it", ["apl", "train", "--loss", typed]))


def _tolerance(tolerant: bool) -> str:
    return f"{'' if tolerant else 'not '}tolerant to symmetric noise"


@options("data_dir")
def datasets(**given: Any) -> None:
    """List the data sets, presets and networks, and where data lie.

    Example: `apl datasets --data-dir ~/data`
    """
    where = typed(given)
    data_dir = take_machine(given).data_dir
    out = console()
    out.print(f"data in {data_folder(data_dir)}")
    rows = []
    for name, source in DATASETS.items():
        there = "yes" if available(name, data_dir) else "no, is downloaded when asked for"
        rows.append([Cell(name), Cell(source.description), Cell(there)])
    out.print(Table("data sets", ["name", "what", "there"], rows, words=True).rich())
    rows = [[Cell(n), Cell(p.dataset), Cell(p.description)] for n, p in PRESETS.items()]
    out.print(Table("presets", ["preset", "data set", "what"], rows, words=True).rich())
    rows = [[Cell(name), Cell(description)] for name, description in NETWORKS.items()]
    out.print(Table("networks", ["network", "what"], rows, words=True).rich())
    here = [name for name in DATASETS if available(name, data_dir)]
    then(out, ("to train on one", ["apl", "train", "--dataset", here[0], *where]))


def verify_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[LOSS]...", help="losses by name; none: all of them"),
    ] = None,
) -> None:
    """Check every loss numerically: its numbers, and what theory promises of it.

    Values and gradients on each path that trains, against formulas in 50 digits; sum_j L(z, j)
    constant (Lemma 1); L at most 1/(K-1) (Lemma 2); and up to which noise rate training on noisy
    labels has the same best classifier as on clean ones.  Exit code 1 where one is missed.

    Example: `apl verify`
    """
    from apl.losses.modules import CRITERIA
    from apl.losses.verify import criterion_error, kernel_errors, verify, wrong_numbers

    names = list(names or LOSSES)
    for name in names:
        try:
            parse_loss(name)
        except ValueError as error:
            raise BadInput(str(error)) from None
        require(name in LOSSES, "loss", name, "the name of one loss, see `apl losses`")
    out = console()
    sums = [name for name in names if name in SUMS]
    verdicts: list[Verdict] = []
    others: dict[str, float] = {}
    with counting("checking losses", out) as progress:
        kernel, where = kernel_errors(sums) if sums else ({}, "")
        for done, name in enumerate(names, 1):
            if name in CRITERIA:
                others[name] = criterion_error(name)
            else:
                (verdict,) = verify([name])
                verdicts.append(verdict.with_errors({"kernel": kernel[name]} if kernel else {}))
            progress(done, len(names))
    if verdicts:
        out.print(_verdicts(verdicts).rich(unbroken=True))
        classes = max(verdicts[0].symmetric)
        for line in (
            "off: the largest error of value and gradient against 50 digits, in float64;",
            f"  kernel: that of the Triton kernel, in float32 ({where})",
            "sum: whether sum_j L(z, j) is the same for all z (Lemma 1)",
            f"max L: the largest value of {classes} classes, with a * at most 1/(K-1) (Lemma 2)",
            "sym, pair: the highest rate of symmetric and of pair-flip noise, of K classes,",
            "  under which the loss still has the minimiser that it has without noise",
        ):
            out.print(line)
    if others:
        most = f"{max(others.values()):.0e}"
        out.print(f"losses that are no sums of bases ({', '.join(others)}): off by {most} at most")
    missed = [f"{verdict.loss}: {what}" for verdict in verdicts for what in verdict.missed]
    for name, off in others.items():
        missed += [f"{name}: {what}" for what in wrong_numbers({"auto": off})]
    for line in missed:
        out.print(f"missed: {line}")
    if missed:
        raise typer.Exit(1)
    out.print(f"nothing is missed by {len(names)} loss{'es' * (len(names) != 1)}")
    then(out, ("what one of them is", ["apl", "losses", names[-1]]))


def _verdicts(verdicts: Sequence[Verdict]) -> Table:
    counts = sorted(verdicts[0].symmetric)
    few, some, many = counts[0], counts[len(counts) // 2], counts[-1]
    bounds = [f"sym\nK={k}" for k in (few, some, many)]
    head = ["loss", "off", "kernel", "sum", "max L", *bounds, f"pair\nK={many}"]
    rows = []
    for verdict in verdicts:
        rates = [verdict.symmetric[k] for k in (few, some, many)] + [verdict.pair[many]]
        errors = dict(verdict.errors)
        kernel = errors.pop("kernel", None)
        row = [
            verdict.loss,
            f"{max(errors.values()):.0e}",
            "-" if kernel is None else f"{kernel:.0e}",
            "yes" if verdict.constant_sum else "no",
            f"{verdict.highest:.3g}" + ("*" if verdict.bounded else ""),
            *(f"{rate:.2f}" for rate in rates),
        ]
        rows.append(row)
    limits = [f"{(k - 1) / k:.2f}" for k in (few, some, many)] + ["0.50"]
    rows.append(["the bound", "", "", "", f"{1 / (many - 1):.3g}", *limits])
    title = "noise rates up to which the noisy risk has the clean minimiser"
    return Table(title, head, [[Cell(text) for text in row] for row in rows])


def cache(
    prune: Annotated[
        bool, typer.Option("--prune", help="remove older states, and what killed runs left")
    ] = False,
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", help="remove what was not used for so long")
    ] = None,
) -> None:
    """List what is in the cache folder, the last used first; remove some of it.

    It holds your decoded data and computed features.  It may be emptied at any time: what is needed
    is made again from your data, if they are still where they were.

    Example: `apl cache --older-than 30`
    """
    import time

    from apl.data.cache import DAY, KINDS, entries, outdated, remove, size_text, unused
    from apl.data.folders import cache_folder

    require(older_than is None or older_than >= 0, "older_than", older_than, "days, from 0 on")
    out = console()
    found = entries()
    old = list(outdated(found, keep=1)) if prune else []
    old += list(unused(found, older_than)) if older_than is not None else []
    if prune or older_than is not None:
        count, size = remove({entry.folder: entry for entry in old}.values())
        out.print(f"removed {count:,} of {len(found):,}, {size_text(size)}")
        found = entries()
    now = time.time()
    rows = [
        [
            Cell(KINDS[entry.kind]),
            Cell(entry.name if entry.whole else "not finished"),
            Cell(size_text(entry.size), entry.size),
            Cell(f"{(now - entry.used) / DAY:.1f}"),
            Cell(entry.path or ""),  # arrays come from a program
        ]
        for entry in found
    ]
    if rows:
        head = ["what", "name", "size", "days ago", "from"]
        out.print(Table("the cache, the last used first", head, rows, words=True).rich("open"))
    total = size_text(sum(entry.size for entry in found))
    out.print(f"{len(found):,} in {cache_folder()}: {total}")
    if outdated(found, keep=1):
        then(out, ("to remove older states", ["apl", "cache", "--prune"]))
    elif found and older_than is None:
        month = ["apl", "cache", "--older-than", "30"]
        then(out, ("to remove what was not used for a month", month))


@options("data_dir")
def doctor(**given: Any) -> None:
    """Say what runs here and why: versions, devices, how losses are computed, where data lie.

    Example: `apl doctor`
    """
    from apl.cli.doctor import diagnosis
    from apl.kernels import dispatch
    from apl.training.machine import environment

    data_dir = take_machine(given).data_dir
    found = [*environment().items(), *diagnosis(data_dir)]
    for backend, there, why in dispatch.backends():
        found.append((f"loss backend {backend}", f"{'yes' if there else 'no'}: {why}"))
    rows = [[Cell(name), Cell(str(value))] for name, value in found]
    out = console()
    out.print(Table("", [], rows, words=True).rich(unbroken=True))
    then(out, ("a first study, in a few minutes", ["apl", "study"]))
