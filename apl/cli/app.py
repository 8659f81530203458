"""The command line: every command by its name, and the door that answers bad input with a line.

The commands lie beside this file.  What one needs is imported inside it, so that `apl --help`, bad
input and tab completion are answered before torch would be loaded.  Nothing is computed here.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from apl.cli import apply, find, options, show, study, train, use
from apl.cli.console import console
from apl.cli.text import visible, write_anything
from apl.errors import BadInput, NoiseWarning, Stopped
from apl.training.ddp import Group


def _show_version(asked: bool) -> None:
    if asked:
        print(f"apl {sys.modules['apl'].__version__}")  # the roof, which is loaded
        raise typer.Exit


app = typer.Typer(
    cls=options.Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.callback()
def apl(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """The laboratory for learning with noisy labels."""


for name, command in (
    ("noise", train.noise),
    ("train", train.train_command),
    ("find", find.find),
    ("apply", apply.apply),
    ("evaluate", train.evaluate),
    ("predict", use.predict),
    ("export", use.export),
    ("study", study.study),
    ("plot", show.plot),
    ("report", show.report),
    ("losses", show.losses),
    ("datasets", show.datasets),
    ("verify", show.verify_command),
    ("doctor", show.doctor),
    ("cache", show.cache),
):
    app.command(name, cls=options.Command)(command)

tracking = typer.Typer(
    cls=options.Group, help="Send finished runs to a tracker.", no_args_is_help=True
)
app.add_typer(tracking, name="track")
tracking.command("import", cls=options.Command)(study.track_import)


@app.command(
    hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def bench() -> None:
    """Say where `apl bench kernels` went."""
    raise BadInput("see benchmarks/kernel_times.py, for --static kernel_code.py, in a checkout")


@functools.cache
def command_line() -> Any:
    """All commands and their options, made once in a process that answers many command lines."""
    return typer.main.get_command(app)


def main() -> None:
    """The console script `apl`."""
    write_anything()
    code = run(sys.argv[1:])
    if Group.here().size > 1:  # one of several in a while aborts where torch's threads end, after
        sys.stdout.flush()  # all is written, and torchrun takes the training for failed
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; bad input is one line and 2, never a
    traceback."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        if Group.here().size > 1 and arguments[:1] != ["train"]:
            raise BadInput(
                f"torchrun was given apl {' '.join(arguments[:1])}; accepted: apl train (a study "
                "takes several GPUs by itself: apl study, or apl study --ray auto)"
            )
        return int(command_line()(list(arguments), prog_name="apl", standalone_mode=False) or 0)
    except BadInput as error:
        return _complain(str(error), 2)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _complain(f"{error.strerror or error}{where}; nothing finished is lost", 1)
    except (Stopped, KeyboardInterrupt):
        return _complain("stopped; nothing finished is lost", 130)
    except Exception as error:
        if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib's
            no_home = "there is no home folder: set HOME, or give every folder without ~ and"
            return _complain(f"{no_home} --data-dir or $APL_DATA, and $XDG_CACHE_HOME", 2)
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not loaded here
            return _complain("the device is out of memory: lower --batch-size or --width", 1)
        # The option parser's complaints carry their own line and exit code; anything else is a
        # defect, and keeps its traceback.
        if not hasattr(error, "format_message"):
            raise
        problem, code = error.format_message(), getattr(error, "exit_code", 2)
        return _complain(problem, code) if problem else code  # of no arguments the help is all


def _complain(problem: str, code: int) -> int:
    # Processes that torchrun started get the same input; a disk or a device fails in one of them.
    if code == 1 or Group.here().local_rank == 0:
        print(visible(f"apl: {problem}", line=True), file=sys.stderr)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: Any) -> None:
    ours = category is UserWarning or issubclass(category, NoiseWarning)
    name = "" if ours else f"{category.__name__}: "
    console(stderr=True).print(f"warning: {name}{' '.join(str(message).split())}", style="yellow")
