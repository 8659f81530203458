"""The errors that a caller is meant to tell apart."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """One clear line: what was given, what is accepted.  The command line exits 2 with it."""


class Busy(BadInput):
    """Another process is training in the run folder."""


class Interrupted(Exception):
    """Training was asked to stop; its checkpoint is written."""


class Stopped(Exception):
    """A command was stopped where there is nothing to go on from."""


class NoiseWarning(UserWarning):
    """The noise is past the bound up to which any loss is tolerant to it."""


def require(fits: bool, name: str, value: object, accepted: str) -> None:
    """Raise BadInput that says what was given and what is accepted, unless it `fits`."""
    if not fits:
        raise BadInput(f"{name} is {cut(repr(value), 200)}; accepted: {accepted}")


def cut(text: str, most: int) -> str:
    """A text of so many characters at most, the end of a longer one left out: what a cell holds may
    be a whole image."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def one_line(error: BaseException) -> str:
    """What an exception says, on one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The nearest of the names, as the end of an error's line; '' where none is near."""
    near = difflib.get_close_matches(name, list(names), 3)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
