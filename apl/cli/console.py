"""What every command writes to, in whatever encoding, and the line that goes on with a command."""

from __future__ import annotations

import codecs
import contextlib
import io
import shlex
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from apl.training.ddp import Group

if TYPE_CHECKING:
    from apl.cli.terminal import Terminal

TWINS = {"·": ".", "…": "~", "†": "+", "‡": "#", "±": "+-"}  # of our own signs, in ASCII
JOINERS = "\u200c\u200d"  # letters of some scripts need them


def console(stderr: bool = False) -> Terminal:
    """The terminal, or whatever standard output or standard error is led to."""
    from apl.cli.terminal import Terminal

    # Of several processes that train one network, the first one speaks.
    return Terminal(stderr=stderr, quiet=Group.here().rank > 0)


def visible(text: str, *, line: bool = False) -> str:
    """The text, with what would steer a terminal or turn the direction of what follows as an
    escape, such as \\x1b; line: a line break too, since the text is one line."""
    if text.isprintable():
        return text
    kept = JOINERS if line else "\n\t" + JOINERS
    return "".join(
        letter if letter in kept or not _steers(letter) else _escaped(letter) for letter in text
    )


def _steers(letter: str) -> bool:
    """Whether it is a control, a format, half of a pair or a separator of lines."""
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(text: str) -> str:
    return text.encode("unicode_escape").decode("ascii")


def _twin(error: UnicodeError) -> tuple[str, int]:
    """What stands for text that an encoding lacks, for `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(TWINS.get(letter) or _escaped(letter) for letter in lacking), error.end


def write_anything() -> None:
    """Let standard output and standard error take any text, whatever their encoding."""
    codecs.register_error("apl.twin", _twin)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="apl.twin")


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
