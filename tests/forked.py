"""Processes of the tests, forked from one that has loaded torch and the like once.

Each is a process of its own, as a user's; what is saved are the seconds in which a fresh one
imports.  What a fresh one imports, and when, `tests/house/test_start.py` looks at.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Where there is no fork, on Windows, each process is a fresh one.
FORKED = "forkserver" in multiprocessing.get_all_start_methods()
CONTEXT: Any = multiprocessing.get_context("forkserver" if FORKED else "spawn")
if FORKED:

    class _Process(CONTEXT.Process):  # type: ignore[misc]
        """One in the environment and the folder of the process that asks for it, as a fresh one
        is, and not in those of the process that forks."""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self._environment, self._folder = dict(os.environ), os.getcwd()

        def run(self) -> None:
            os.environ.clear()
            os.environ.update(self._environment)
            os.chdir(self._folder)
            super().run()

    class _Forked(type(CONTEXT)):  # type: ignore[misc]
        Process = _Process

    CONTEXT = _Forked()
    loaded = ["apl.report.page", "apl.report.pictures", "apl.study.run", "sklearn.datasets"]
    multiprocessing.set_forkserver_preload(["apl.cli.app", *loaded])


def stop() -> None:
    """End the process that forks, and wait for it: what it and its children used counts as ours."""
    if FORKED:
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


def forked(method: str | None = None) -> Any:
    """`multiprocessing.get_context` whose fresh processes are forked ones."""
    return CONTEXT if method == "spawn" else _get_context(method)


_get_context = multiprocessing.get_context


def answer(arguments: tuple[str, ...], folder: Path, env: Mapping[str, str], out: Path) -> None:
    """Be `apl ARGUMENTS` in a folder, and write what it prints to the files `out` / 'out' and
    'err'.  Its own processes are forked, as those of the tests are, from the same one."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        file = os.open(out / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream.fileno())
    sys.argv = ["apl", *arguments]
    if FORKED:
        # It knows where the process listens from which it came, but not that it need start none.
        multiprocessing.forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
    multiprocessing.get_context = forked  # type: ignore[assignment]
    from apl.cli.app import main

    main()
