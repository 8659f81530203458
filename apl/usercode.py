"""Code of the user's own, as `module:name`: looked up only where the user typed it."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from apl.errors import BadInput, did_you_mean, one_line


def is_own(name: str) -> bool:
    """Whether a network or a loss is `module:name`, code of the user's own."""
    module, colon, _ = name.partition(":")
    return bool(colon) and module not in ("torchvision", "timm")


def look_up(text: str) -> Any:
    """What a `module:name` of the user's own names: its module is imported, the current folder
    first, as with `python -m`.

    Only for text that the user typed, never for what a file holds: it runs the module's code.
    Raises BadInput: no such module, an error inside it, no such name.
    """
    module, _, name = text.partition(":")
    file = _source(text)
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise BadInput(f"{module!r} of {text!r} can't be imported: {told(error, file)}") from error
    if name and hasattr(found, name):
        return getattr(found, name)
    public = [each for each in vars(found) if not each.startswith("_")]
    near = did_you_mean(name, public)
    raise BadInput(f"{module!r} has no {name!r} (given {text!r}){near}")


def told(error: BaseException, file: str = "") -> str:
    """An error in the user's code on one line: its type, what it says, and the last line of
    `file` that led to it."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if file and frame.f_code.co_filename == file:
            line = number
    place = f" ({Path(file).name}, line {line})" if file and line else ""
    said = error.msg if isinstance(error, SyntaxError) else one_line(error)
    return f"{type(error).__name__}: {said}{place}"


def source_digest(text: str) -> str:
    """The sha256 of the source file of a `module:name` that the user typed; nothing is run.

    Raises BadInput where there is no such module, or it is no file.
    """
    try:
        return hashlib.sha256(Path(_source(text)).read_bytes()).hexdigest()
    except OSError as error:
        raise BadInput(f"{text!r} has no source that can be read: {error.strerror}") from None


def _source(text: str) -> str:
    """The path of the file of a `module:name`, found without running any package above it."""
    module, colon, _ = text.partition(":")
    if not module or not colon or module.endswith(".py") or "/" in module:
        raise BadInput(f"{text!r} is no module:name, such as nets.mine:Net for Net in nets/mine.py")
    if sys.path[:1] != [""]:
        sys.path.insert(0, "")  # the current folder, wherever that is
    importlib.invalidate_caches()  # the file may have been written a moment ago
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for part in inner:
            top = f"{top}.{part}"
            places = spec.submodule_search_locations if spec else None
            spec = importlib.machinery.PathFinder.find_spec(top, places) if places else None
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise BadInput(
            f"there is no module {module!r} in this folder or among what is installed "
            f"(given {text!r})"
        )
    return spec.origin or ""
