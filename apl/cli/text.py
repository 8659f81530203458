"""Text that any terminal takes: nothing in it steers one, and every encoding can write it."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

TWINS = {"·": ".", "…": "~", "†": "+", "‡": "#", "±": "+-"}  # of our own signs, in ASCII
JOINERS = "\u200c\u200d"  # letters of some scripts need them


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
