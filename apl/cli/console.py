"""What every command writes to: the terminal, and the line that goes on with a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from apl.training.ddp import Group

if TYPE_CHECKING:
    from rich.console import Console


def console(stderr: bool = False) -> Console:
    from rich.console import Console

    # Of several processes that train one network, the first one speaks.
    quiet = Group.here().rank > 0
    return Console(stderr=stderr, highlight=False, soft_wrap=True, quiet=quiet)


def this_command() -> str:
    if Group.here().size > 1:
        return "the same torchrun command"
    quoted = [f"'{a}'" if any(c in a for c in " *+;&'") else a for a in sys.argv[1:]]
    return " ".join(["apl", *quoted])
