"""What every command writes to: the terminal, and the line that goes on with a command."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from apl.training.ddp import Group

if TYPE_CHECKING:
    from rich.console import Console


def console(stderr: bool = False) -> Console:
    from rich.console import Console

    # Of several processes that train one network, the first one speaks.
    quiet = Group.here().rank > 0
    return Console(stderr=stderr, highlight=False, soft_wrap=True, quiet=quiet)


@contextlib.contextmanager
def counting(what: str, out: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar, in a terminal, while something goes on that tells how many of how many are done."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def this_command() -> str:
    if Group.here().size > 1:
        return "the same torchrun command"
    quoted = [f"'{a}'" if any(c in a for c in " *+;&'") else a for a in sys.argv[1:]]
    return " ".join(["apl", *quoted])
