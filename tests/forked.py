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

# Where there is no fork, on Windows, each process is a fresh one.
FORKED = "forkserver" in multiprocessing.get_all_start_methods()
CONTEXT = multiprocessing.get_context("forkserver" if FORKED else "spawn")
if FORKED:
    loaded = ["apl.report.page", "apl.report.pictures", "apl.study.run", "sklearn.datasets"]
    multiprocessing.set_forkserver_preload(["apl.cli.app", *loaded])


def stop() -> None:
    """End the process that forks, and wait for it: what it and its children used counts as ours."""
    if FORKED:
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


def answer(arguments: tuple[str, ...], folder: Path, env: Mapping[str, str], out: Path) -> None:
    """Be `apl ARGUMENTS` in a folder, and write what it prints to the files `out` / 'out' and
    'err'."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        file = os.open(out / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream.fileno())
    sys.argv = ["apl", *arguments]
    from apl.cli.app import main

    main()
