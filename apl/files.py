"""Files written whole or not at all, JSON, CSV and safetensors; there is no pickle anywhere."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apl.errors import BadInput, one_line

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 4  # of what is written; a higher one was written by a newer apl, all lower ones are read

# ------------------------------------------------------------------------------- whole files


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds the old content or the new one, never a part of it, and
    the new one survives a power cut once this returns.  Its folder must exist: one that vanished
    while a run went on is an error, not something to make again half empty."""
    write_parts(path, (data,))


def write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """As `write_atomic`, a file whose parts come one by one and may be more than memory holds."""
    with naming(path):
        _write_parts(path, parts)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error of the disk name what was to be written: a disk that is full names nothing,
    and a file beside it that is renamed later is nothing that the user knows."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.filename is not None and not _is_aside(error.filename)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def _is_aside(name: object) -> bool:
    return str(name).endswith(".tmp")


def _write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def require_no_link(*paths: Path) -> None:
    """Raise BadInput for a file or a folder of results that is a link, which may lead anywhere."""
    for path in paths:
        if path.is_symlink():
            raise BadInput(f"{path} is a link, which may lead out of the results: delete it")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows can't open folders, and its renames are journalled
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; nan and inf become null, so that any reader takes it."""
    text = json.dumps(finite(content), indent=1, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def finite(value: Any) -> Any:
    """The value as JSON takes it: None for each number in it that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of ours; BadInput names the file and what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        problem = one_line(error)
        raise BadInput(f"{path} can't be read ({problem}): delete its run to repeat it") from None
    return json_object(text, f"{path}", "delete its run to repeat it")


class Newer(BadInput):
    """A file of a later format: nothing is wrong with it, it is only not ours to read."""


def json_object(text: str, where: str, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{where} can't be read ({one_line(error)}): {remedy}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{where} is no JSON object: {remedy}")
    if content.get("format", 0) > FORMAT:
        raise Newer(
            f"{where} was written by a newer apl (format {content['format']}, this one reads up to "
            f"{FORMAT}): update apl"
        )
    return content


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    import numpy as np
    import torch

    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.reshape(-1).view(torch.uint8).numpy()).data)
    return digest.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON state as safetensors with a checksum, atomically; the same content
    gives the same bytes."""
    import safetensors.torch

    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(state)
    # One metadata key only: safetensors does not keep the order of several.
    header = {"apl": json.dumps({"state": text, "sha256": _digest(plain, text)})}
    write_atomic(path, safetensors.torch.save(plain, header))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state of a file of `save_tensors`.

    Raises FileNotFoundError, or BadInput when the file is damaged or none of ours.
    """
    import safetensors

    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["apl"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        intact = _digest(tensors, header["state"]) == header["sha256"]
        state = json.loads(header["state"])
    except Exception as error:  # a damaged header raises nearly anything
        problem = one_line(error)
        raise BadInput(f"{path} is damaged or not written by apl ({problem})") from None
    if not intact:
        raise BadInput(f"{path} is damaged: its checksum does not match")
    return tensors, state


def read_state(path: Path) -> dict[str, Any]:
    """The state alone, unchecked; any exception where there is none."""
    import safetensors

    with safetensors.safe_open(path, "numpy") as file:
        state: dict[str, Any] = json.loads(json.loads((file.metadata() or {})["apl"])["state"])
        return state


def csv_bytes(rows: Sequence[Sequence[Any]]) -> bytes:
    """Rows as CSV, empty where a number is nan."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(["" if value != value else value for value in row])
    return text.getvalue().encode()


_QUOTED = re.compile(r'[",;\t\r\n]|^\s|\s$')  # what a cell can't be without quotes


def table_bytes(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A CSV in UTF-8 whose cells every reader takes as they were: a name with a comma, a line's
    end or a space before it is quoted, which Python's own writer leaves to chance."""
    lines = [",".join(map(_cell, row)) for row in (columns, *rows)]
    return ("\n".join(lines) + "\n").encode()


_RUN = re.compile(r"'*[=+\-@\t\r]")  # how a cell begins that a spreadsheet takes for a formula
_NUMBER = re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?", re.IGNORECASE)


def harmless(text: str) -> str:
    """A text as no spreadsheet runs it: an apostrophe before what it would take for a formula."""
    return f"'{text}" if _RUN.match(text) and not _NUMBER.fullmatch(text) else text


def unharmed(text: str) -> str:
    """The text that `harmless` was given, of what it made of it."""
    return text[1:] if text.startswith("'") and _RUN.match(text) else text


def _cell(value: Any) -> str:
    text = harmless(str(value))
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text


def plain(name: str) -> str:
    """A name as UTF-8 holds it: that of a file or a folder may have bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()
