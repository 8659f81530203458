"""How many cores there are for us, and processes that run our code alone on them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import types
from collections.abc import Iterator


def cores() -> int:
    """The cores that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """While torch computes with one thread, where that is wanted: several wait for each other
    longer than they compute where there is little to do, ten times as long on a busy machine."""
    import torch  # a second, which whoever computes has spent already

    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """While multiprocessing's processes are started here, they do not run the user's script.

    By default each new process runs it once more, up to its `if __name__ == "__main__"`: a script
    without that line would begin anew in each, and one that came from stdin is not to be found.
    Nothing in our processes needs it.  Ctrl-C reaches them all, and they leave it to this one; it
    waits meanwhile, and does not meet them half begun, when they would answer with a traceback.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        with _ctrl_c_waits():
            yield
    finally:
        sys.modules["__main__"] = script


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Processes begin with the mask of the thread that starts them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker  # no part of what each start loads

    resource_tracker.ensure_running()  # which else lifts the mask on its way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_ctrl_c_to_the_parent() -> None:
    """For processes that `without_script` starts: Ctrl-C reaches every process of the terminal, and
    only the parent decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # that it waited while this process began
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
