"""A cell of a study trained in its run folder, wherever that is: what it tells, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from apl.config.config import Config
from apl.errors import Busy, Interrupted, one_line
from apl.files import require_no_link
from apl.runs.run import LOG
from apl.training.listener import Listener
from apl.training.machine import Machine
from apl.training.train import train

# One, until it is measured on a card: a second cell on a GPU pays only where a single one leaves it
# idle, as small networks do, and costs a CUDA context and a data set more of its memory.
CELLS_PER_GPU = 1

Event = tuple[str, Any]  # its kind, its content
ON_THE_WAY = ("epoch", "message")  # the kinds that do not end a cell


def train_cell(
    cell: Config,
    run: Path,
    machine: Machine,
    tell: Callable[[Event], None],
    should_stop: Callable[[], bool],
) -> Event | None:
    """Train a cell in its run folder, telling each 'epoch' and 'message'; returns what ends it,
    None where it was told to stop."""

    def say(text: str) -> None:
        print(text, flush=True)
        tell(("message", text))

    listener = Listener(
        on_epoch=lambda row: tell(("epoch", row)), on_message=say, should_stop=should_stop
    )
    try:
        require_no_link(run.parent, run)
        with _log_to(run / LOG):
            result = train(cell, run, machine=machine, listener=listener)
        return "result", result
    except Interrupted:
        return None
    except Busy:
        return "busy", ""
    except OSError as error:
        return ("no disk", error) if error.errno in NO_DISK else ("failed", one_line(error))
    except Exception as error:
        return "failed", one_line(error)


# What no cell of the study can get past, so that trying the others would only repeat it.
NO_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send everything this process prints, from C code too, to the end of the file, and the
    traceback of an exception that passes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    # O_NOFOLLOW: a link planted in its place must not lead elsewhere.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        faulthandler.enable(2)  # a segfault leaves its stack here
        try:
            yield
        except (Interrupted, Busy):
            raise
        except Exception:
            with contextlib.suppress(OSError):  # the disk may be full
                traceback.print_exc()
            raise
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            for target, saved in zip((1, 2), before, strict=True):
                os.dup2(saved, target)
                os.close(saved)
