"""`apl apply`: what was decided about labels, carried out on the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from apl.cli.after import again, then, typed
from apl.cli.console import console, counting
from apl.cli.options import options
from apl.errors import BadInput


@options("label_column", "test_set", "classes", "image_folder", "layout", "skip")
def apply(
    source: Annotated[str, typer.Argument(help="a folder of classes, a list or a table")] = "",
    *,
    decisions: Annotated[
        Path | None, typer.Option(help="decisions.csv of the gallery, or any list of labels")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="the folder to make, or the corrected copy of a list")
    ] = None,
    link: Annotated[bool, typer.Option(help="hard links in place of copies")] = False,
    move: Annotated[
        bool, typer.Option(help="move the images; without --to in their own folder")
    ] = False,
    yes: Annotated[
        bool, typer.Option(help="do it; without it, only say what would be done")
    ] = False,
    undo: Annotated[Path | None, typer.Option(help="a journal: undo what it lists")] = None,
    **given: Any,
) -> None:
    """Correct the data by your decisions: images go into their class folder, a list into a copy.

    Nothing is overwritten, and nothing is done without --yes.  A journal is written beside the
    result: --undo JOURNAL takes everything back.  A copy leaves dropped images out; --move without
    --to puts them into NAME-dropped.

    Example: `apl apply photos/ --decisions decisions.csv --to cleaned/`
    """
    from apl.data.decisions import NoSuchSample
    from apl.data.reading import Reading
    from apl.detect.apply import carry_out, plan, told
    from apl.detect.apply import undo as take_back

    out = console()
    if undo is not None:
        left = take_back(undo)
        for line in left:
            out.print(line)
        out.print(f"{undo}: undone" if not left else f"{undo}: undone but for what is named above")
        if left:
            raise typer.Exit(1)
        return
    if not source or decisions is None:
        raise BadInput(
            "apply which decisions to what? For instance `apl apply photos/ --decisions "
            "decisions.csv --to cleaned/`"
        )
    if link and move:
        raise BadInput("--link and --move are two ways; accepted: one of them, or none to copy")
    reads = dict(given)
    how = "link" if link else "move" if move else "copy"
    try:
        found = plan(source, decisions, to, how, Reading.of(given))
    except NoSuchSample:
        now, line = _now(source, decisions, reads)
        if not now:
            raise
        found = plan(source, decisions, to, how, Reading.of(reads), now)
        out.print(line)
    for line in told(found):
        out.print(line)
    if not yes:
        then(out, ("nothing is written yet; to do it", again("--yes")))
        return
    back = ["apl", "apply", "--undo", str(found.journal)]
    try:
        with counting("files", out) as progress:
            carry_out(found, progress)
    except BaseException:  # Ctrl-C, a full disk
        if found.journal.exists():
            then(out, ("not all of it is done; to take back what is", back))
        raise
    words = [] if found.content else typed(reads)
    then(
        out,
        ("done; to take it back", back),
        ("what is left", ["apl", "find", str(to or source), *words]),
    )


def _now(source: str, decisions: Path, given: Mapping[str, Any]) -> tuple[Mapping[str, str], str]:
    """What images are called now by the names in a file of decisions, and a line on it: found by
    their content, where a search has kept what it was; else nothing."""
    from apl.cli.results import decided_now, searches
    from apl.data.decisions import names_now
    from apl.data.reading import Reading
    from apl.data.sources import read_data

    data = read_data(source, Reading.of(dict(given)), say=console().print)
    now, line = decided_now(decisions, searches(data), data)
    return names_now(now, data), line
