"""The terminal: it shows text as it stands, and nothing in a text steers it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from apl.cli.text import visible

_COPIED = re.compile(r"[/\\]|\bapl\s|--\w")
"""What stands in a line that somebody may copy from."""


class Terminal(Console):
    """A console for which a string is one line of text: no markup and no emoji in it are read.

    In tables and the like, whose cells may have markup, what would steer a terminal is made
    visible too.
    """

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, highlight=False, emoji=False, soft_wrap=True)

    def print(self, *objects: Any, **how: Any) -> None:
        """Print as rich does, strings as they are.

        A sentence that is too long for a terminal is broken between words; what holds a path or a
        command is left whole, to be copied.
        """
        shown = [Text(visible(it, line=True)) if isinstance(it, str) else it for it in objects]
        if self.is_terminal and len(shown) == 1 and isinstance(shown[0], Text):
            how.setdefault("soft_wrap", bool(_COPIED.search(shown[0].plain)))
        super().print(*shown, **how)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The pieces of text that are written, none of which is a command to the terminal but
        rich's own."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(visible(piece.text), piece.style)
