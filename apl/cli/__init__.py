"""The command line: `apl`, `python -m apl`, `python cli.py`."""

from apl.cli.app import main, run

__all__ = ["main", "run"]
