"""What lies in the cache folder: decoded data and features, how large, how old; and less of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apl.data.folders import cache_folder

KINDS = {"decoded": "data", "features": "features"}
"""The folders of the cache, and what is in them: a folder each, with an about.json."""
ABOUT = "about.json"
STATES = 3  # of one path that are kept: a run may still be asked about the data as they were
DAY = 24 * 3600
FRESH = 600  # seconds in which a folder that is not whole is taken for one that is being made


@dataclass(frozen=True)
class Entry:
    """A folder of the cache.

    kind: a key of KINDS; name: of the data set or of the features; path: where it was read from,
    '' where that is no path; origin: the same for all states of one source, '' for none; digest: of
    the data; size: in bytes; used: when last, in seconds since 1970; whole: False for what a killed
    process left; format: how it was decoded, 0 where that was not written down; shape: of an image
    or a row.
    """

    folder: Path
    kind: str
    name: str
    path: str
    origin: str
    digest: str
    size: int
    used: float
    whole: bool
    format: int = 0
    shape: tuple[int, ...] = ()

    @property
    def lock(self) -> Path:
        """The file that whoever writes into the folder holds."""
        own = self.folder / "lock"
        return own if self.kind == "features" else self.folder.with_suffix(".lock")


def entries() -> list[Entry]:
    """Everything in the cache, that which was used last first."""
    found = [
        _entry(folder, kind)
        for kind in KINDS
        for folder in sorted((cache_folder() / kind).glob("*/"))
    ]
    return sorted(found, key=lambda entry: -entry.used)


def _entry(folder: Path, kind: str) -> Entry:
    about: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        about = content if isinstance(content, dict) else {}
    sizes, times = [0], [0.0 if about else folder.stat().st_mtime]
    lock = folder.with_suffix(".lock")
    for file in [*folder.rglob("*"), *([lock] if lock.is_file() else [])]:
        with contextlib.suppress(OSError):
            info = file.lstat()
            times.append(info.st_mtime)
            sizes.append(info.st_size if file.is_file() else 0)
    return Entry(
        folder,
        kind,
        str(about.get("name") or about.get("features") or ""),
        str(about.get("path", "")),
        str(about.get("origin", "")),
        str(about.get("digest", "")),
        sum(sizes),
        max(times),
        bool(about),
        int(about.get("format", 0)),
        tuple(about.get("shape", ())),
    )


def touch(folder: Path) -> None:
    """Note that a folder of decoded data is used now."""
    with contextlib.suppress(OSError):
        os.utime(folder.with_suffix(".lock"))


def outdated(found: Iterable[Entry], keep: int) -> Iterator[Entry]:
    """The older states of each source: those with the content of a newer one, and those beyond the
    `keep` that were used last; and what killed processes left, unless it was written just now:
    whoever has made a folder may not have its lock yet."""
    states: dict[str, list[str]] = {}
    for entry in sorted(found, key=lambda entry: -entry.used):
        if not entry.whole:
            if entry.used < time.time() - FRESH:
                yield entry
        elif entry.origin:
            newer = states.setdefault(entry.origin, [])
            if entry.digest in newer or len(newer) >= keep:
                yield entry
            else:
                newer.append(entry.digest)


def replaced(found: Iterable[Entry], folder: Path) -> Iterator[Entry]:
    """What the data in a folder replace: the same data, as an older release decoded them."""
    new = _entry(folder, "decoded")
    for entry in found:
        same = (entry.digest, entry.shape, entry.kind) == (new.digest, new.shape, new.kind)
        if same and entry.whole and entry.format < new.format:
            yield entry


def unused(found: Iterable[Entry], days: float) -> Iterator[Entry]:
    """What was not used for so many days."""
    oldest = time.time() - days * DAY
    return (entry for entry in found if entry.used < oldest)


def remove(found: Iterable[Entry]) -> tuple[int, int]:
    """Remove folders of the cache, but those that a process is writing; how many, of how many
    bytes."""
    import filelock

    count = size = 0
    for entry in found:
        try:
            with filelock.FileLock(entry.lock, blocking=False):
                if not entry.whole and (entry.folder / ABOUT).exists():
                    continue  # somebody has finished it since it was looked at
                # First what says that it is whole: who opens it meanwhile decodes it anew.
                (entry.folder / ABOUT).unlink(missing_ok=True)
                shutil.rmtree(entry.folder, ignore_errors=True)
        except (filelock.Timeout, OSError):
            continue
        if not entry.folder.exists():  # its lock stays: another process may wait for it
            count, size = count + 1, size + entry.size
    return count, size


def size_text(size: float) -> str:
    """A size in bytes, in words: 512 kB, 3.4 GB."""
    unit = "bytes"
    for larger in ("kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:,.1f} {unit}" if size < 10 and unit != "bytes" else f"{size:,.0f} {unit}"
