"""The command line: `apl`, `python -m apl`, `python cli.py`."""

from apl.cli.app import app, main, run

__all__ = ["app", "main", "run"]
