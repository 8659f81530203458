"""The command line: `apl`, `python -m apl`, `python cli.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main() -> None:
    """The console script `apl`.  Its modules take a while to load, and Ctrl-C is answered then
    too."""
    try:
        from apl.cli import app
    except KeyboardInterrupt:
        print("apl: stopped", file=sys.stderr)
        sys.exit(130)
    app.main()


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    from apl.cli import app

    return app.run(arguments)


__all__ = ["main", "run"]
