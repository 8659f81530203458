"""Processes of the tests, forked from one that has loaded torch and the like once.

Each is a process of its own, as a user's; what is saved are the seconds in which a fresh one
imports.  What a fresh one imports, and when, `tests/house/test_start.py` looks at.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
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
    LOADED = ["apl.cli.app", "apl.report.page", "apl.report.pictures", "apl.study.run"]
    LOADED += ["sklearn.datasets"]
    LOADED += ["torch._dynamo"]  # by torch itself, at the first step of any optimizer: a second
    multiprocessing.set_forkserver_preload(LOADED)


def start() -> None:
    """Fork the process that forks from this one, which has loaded what the tests need and computed
    nothing yet: a fresh one would load it all once more.  Elsewhere than on Linux what a process
    has loaded may not outlive a fork, and a fresh one begins at the first need."""
    if sys.platform != "linux":
        return
    for name in LOADED:
        importlib.import_module(name)
    importlib.import_module("apl.data.sources").load_data("digits")
    gc.freeze()  # or each collection, there and here, goes through all that was loaded
    fresh = multiprocessing.util.spawnv_passfds
    multiprocessing.util.spawnv_passfds = _fork
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        multiprocessing.util.spawnv_passfds = fresh


def _fork(path: str, arguments: Sequence[str], files: Sequence[int]) -> int:
    """Instead of `python -c CODE` with these files: the code in a fork, which has no other file of
    this process and no hook of pytest."""
    pid = os.fork()
    if pid:
        return pid
    try:
        faulthandler.disable()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        sys.meta_path[:] = [each for each in sys.meta_path if "pytest" not in type(each).__module__]
        for number in map(int, os.listdir("/dev/fd")):
            if number > 2 and number not in files:
                with contextlib.suppress(OSError):  # by which they were listed
                    os.close(number)
        exec(arguments[-1], {})
    finally:
        os._exit(0)


def stop() -> None:
    """End the process that forks, and wait for it: what it and its children used counts as ours."""
    if FORKED:
        multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


def forked(method: str | None = None) -> Any:
    """`multiprocessing.get_context` whose fresh processes are forked ones."""
    return CONTEXT if method == "spawn" else _get_context(method)


_get_context = multiprocessing.get_context


def in_clean_process(test: Callable[..., None], *given: Any) -> None:
    """Run a test of a module, which forks, in a process that has computed nothing: in the children
    of one that has threads of its own, which tests before may have left, no training is sure."""
    process = CONTEXT.Process(target=test, args=given)
    process.start()
    process.join()
    assert process.exitcode == 0, "what it raised is printed above"


def answer(arguments: tuple[str, ...], folder: Path, env: Mapping[str, str], out: Path) -> None:
    """Be `apl ARGUMENTS` in a folder, and write what it prints to `out` / 'out' and 'err', files or
    links to a terminal.  Its own processes are forked, as those of the tests are, from the same
    one."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        file = os.open(out / name.removeprefix("std"), os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream.fileno())
        kind: dict[str, Any] = {"encoding": stream.encoding, "errors": stream.errors}
        setattr(sys, name, open(stream.fileno(), "w", closefd=False, **kind))  # noqa: SIM115, to stay
    sys.argv = ["apl", *arguments]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # the tests run behind a shell's prompt
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if FORKED:
        # The process that forks may have begun beside the workers of a study, while Ctrl-C waited.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        # It knows where the process listens from which it came, but not that it need start none.
        multiprocessing.forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
    multiprocessing.get_context = forked  # type: ignore[assignment]
    from apl.cli.app import main

    main()


_APART = """
import os, sys, traceback
folder, *names = sys.argv[1:]
here = {"__name__": "__main__"}
def run(name):
    with open(os.path.join(folder, name + ".py"), encoding="utf-8") as file:
        exec(compile(file.read(), name, "exec"), here)
run("begin")
for name in names:
    pid = os.fork()
    if pid == 0:
        for number, kind in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(os.path.join(folder, name + kind), os.O_WRONLY | os.O_CREAT), number)
        code = 0
        try:
            run(name)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    with open(os.path.join(folder, name + ".code"), "w") as file:
        file.write(str(os.waitstatus_to_exitcode(status)))
"""


def apart(
    scripts: Sequence[str], begin: str = "", **env: str
) -> list[subprocess.CompletedProcess[str]]:
    """What scripts print, each in a process of its own.  All of these are forked from one new
    interpreter that has run `begin`, what they have in common: imports, which take seconds."""
    named: dict[str, Any] = {"capture_output": True, "text": True, "env": {**os.environ, **env}}
    if not FORKED:
        return [
            subprocess.run([sys.executable, "-c", f"{begin}\n{script}"], **named)
            for script in scripts
        ]
    with tempfile.TemporaryDirectory() as folder:
        texts = {"begin": begin, **{str(n): script for n, script in enumerate(scripts)}}
        for name, text in texts.items():
            Path(folder, f"{name}.py").write_text(text, encoding="utf-8")
        command = [sys.executable, "-c", _APART, folder, *map(str, range(len(scripts)))]
        begun = subprocess.run(command, **named)
        assert begun.returncode == 0, begun.stderr

        def read(name: str) -> str:
            return Path(folder, name).read_text(encoding="utf-8")

        return [
            subprocess.CompletedProcess(
                script, int(read(f"{n}.code")), read(f"{n}.out"), read(f"{n}.err")
            )
            for n, script in enumerate(scripts)
        ]
