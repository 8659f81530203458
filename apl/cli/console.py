"""What every command writes to, and the line that goes on with a command."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from apl.training.ddp import Group

if TYPE_CHECKING:
    from apl.cli.terminal import Terminal


def console(stderr: bool = False) -> Terminal:
    """The terminal, or whatever standard output or standard error is led to."""
    from apl.cli.terminal import Terminal

    # Of several processes that train one network, the first one speaks.
    return Terminal(stderr=stderr, quiet=Group.here().rank > 0)


@contextlib.contextmanager
def counting(what: str, out: Terminal) -> Iterator[Callable[[int, int], None]]:
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
    """The command that was typed, to be pasted into a shell."""
    if Group.here().size > 1:
        return "the same torchrun command"
    return shlex.join(["apl", *sys.argv[1:]])
