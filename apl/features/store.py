"""What backbones have computed, in the cache folder: a file of float16 a backbone, mapped, each
row found by the digest of its sample.

A store only grows: rows are written first, then their digests, which say how many rows are whole.
So a killed process loses its last batches at most, and any data set that shares samples with
another, or is a part of it, finds them there.  One process writes at a time; all may read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from apl.data.folders import cache_folder
from apl.errors import BadInput
from apl.features.backbone import Backbone
from apl.files import naming, write_atomic
from apl.noise.labels import IntArray

Halves = npt.NDArray[np.float16]
Digests = npt.NDArray[np.void]  # V32, one a sample

ABOUT, ROWS, DIGESTS, LOCK = "about.json", "rows.f16", "digests.u8", "lock"
WIDTH = 32  # bytes of a digest
FLUSH_SECONDS = 2.0  # of computing that a killed process may cost


def features_folder() -> Path:
    """Where all stores lie."""
    return cache_folder() / "features"


@dataclass(frozen=True)
class Store:
    """The folder of one backbone."""

    folder: Path

    @classmethod
    def of(cls, backbone: Backbone) -> Store:
        """The store of a backbone, its folder made where it is not there."""
        plain = re.sub(r"[^\w.+=-]+", "-", backbone.name).strip("-.")[:60]
        folder = features_folder() / f"{plain}-{backbone.key[:20]}"
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / ABOUT).is_file():
            about = {"features": backbone.name, "key": backbone.key, **backbone.decided_by}
            write_atomic(folder / ABOUT, json.dumps(about, indent=1).encode())
        return cls(folder)

    @property
    def digests(self) -> Digests:
        """The digests of the samples whose rows are whole, in the rows' order."""
        try:
            content = np.fromfile(self.folder / DIGESTS, np.uint8)
        except FileNotFoundError:
            content = np.zeros(0, np.uint8)
        whole = content[: len(content) // WIDTH * WIDTH].view(f"V{WIDTH}")
        return whole[: self._rows_written(len(whole))]

    def _rows_written(self, most: int) -> int:
        width = self.width
        if not width or not most:
            return 0
        size = (self.folder / ROWS).stat().st_size if (self.folder / ROWS).is_file() else 0
        return int(min(most, size // (2 * width)))

    @property
    def width(self) -> int:
        """The numbers of a row, 0 while there is none."""
        try:
            return int(json.loads((self.folder / ABOUT).read_text()).get("numbers", 0))
        except (OSError, ValueError):
            return 0

    def find(self, wanted: Digests) -> IntArray:
        """Which row each sample has, -1 where it has none."""
        there = self.digests
        if not len(there):
            return np.full(len(wanted), -1)
        order = np.argsort(there)
        at = np.searchsorted(there, wanted, sorter=order).clip(max=len(there) - 1)
        found: IntArray = np.where(there[order[at]] == wanted, order[at], -1)
        return found

    def rows(self, at: IntArray) -> Halves:
        """The rows [N, F] at these places, mapped where they lie side by side, else copied."""
        count, width = len(self.digests), self.width
        # 'c', copy on write: torch warns of memory that it may not write to.
        mapped: Halves = np.memmap(self.folder / ROWS, np.float16, "c", shape=(count, width))
        if len(at) and at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all():
            return mapped[at[0] : at[-1] + 1]
        return mapped[at]

    @contextmanager
    def writing(self, say: Callable[[str], None]) -> Iterator[None]:
        """Alone to write, once any other process has ended."""
        import filelock

        lock = filelock.FileLock(self.folder / LOCK)
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            say("another process computes these features: waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def append(self, parts: Iterator[tuple[Digests, Halves]]) -> None:
        """Write rows as they come, after what is whole; only within `writing`."""
        whole = self.digests
        done, width = len(whole), self.width
        rows_file, digests_file = self.folder / ROWS, self.folder / DIGESTS
        with naming(rows_file), open(rows_file, "ab") as rows, open(digests_file, "ab") as digests:
            digests.truncate(done * WIDTH)
            rows.truncate(done * width * 2)
            waiting, flushed = bytearray(), time.monotonic()
            try:
                for names, made in parts:
                    if not width:
                        width = made.shape[1]
                        self._remember(width)
                    rows.write(np.ascontiguousarray(made).data)
                    waiting += names.tobytes()
                    if time.monotonic() - flushed > FLUSH_SECONDS:
                        _flush(rows, digests, waiting)
                        flushed = time.monotonic()
            finally:  # what was computed before an error or a stop stays
                _flush(rows, digests, waiting)

    def _remember(self, width: int) -> None:
        about = json.loads((self.folder / ABOUT).read_text())
        content = {**about, "numbers": width, "begun": time.strftime("%Y-%m-%d")}
        write_atomic(self.folder / ABOUT, json.dumps(content, indent=1).encode())


def _flush(rows: IO[bytes], digests: IO[bytes], waiting: bytearray) -> None:
    """Have all rows on the disk, then the digests that call them whole."""
    rows.flush()
    os.fsync(rows.fileno())
    digests.write(waiting)
    digests.flush()
    waiting.clear()


def digests_of(samples: Any) -> Digests:
    """The sha256 of each sample's content: of images uint8 [N, H, W, C] with their shape, or of
    texts."""
    found = bytearray()
    if hasattr(samples, "shape"):
        shape = str(tuple(samples.shape[1:])).encode()
        for image in samples.numpy():
            found += hashlib.sha256(shape + image.tobytes()).digest()
    else:
        for text in samples:
            found += hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return np.frombuffer(bytes(found), f"V{WIDTH}")


def as_rows(made: Any, count: int, name: str, which: Sequence[Any] | IntArray) -> Halves:
    """What a backbone made of a batch as float16 [B, F], as they are kept; else as `as_numbers`."""
    halves: Halves = as_numbers(made, count, name, which).astype(np.float16)
    return halves


def as_numbers(
    made: Any, count: int, name: str, which: Sequence[Any] | IntArray
) -> npt.NDArray[np.float32]:
    """What a backbone made of a batch as float32 [B, F]; BadInput where it is no such rows, or is
    not finite in float16.  which: the names or numbers of the samples, as a person knows
    them [B], or more."""
    array = np.asarray(made.detach().cpu().float() if hasattr(made, "detach") else made)
    if array.ndim != 2 or len(array) != count or not array.shape[1]:
        raise BadInput(
            f"{name} makes {list(array.shape)} of {count} samples; accepted: a row of numbers for "
            f"each, [{count}, F] (a backbone without its last layer)"
        )
    try:
        with np.errstate(over="ignore"):
            numbers: npt.NDArray[np.float32] = array.astype(np.float64).astype(np.float32)
            bad = np.flatnonzero(~np.isfinite(numbers.astype(np.float16)).all(1))
    except (TypeError, ValueError):
        raise BadInput(f"{name} makes {array.dtype}; accepted: numbers") from None
    if len(bad):
        large = bool(np.isfinite(array[bad[0]].astype(np.float64)).all())
        what = "numbers beyond 65,504, which float16 can't hold" if large else "nan or inf"
        raise BadInput(f"{name} makes {what} of sample {which[int(bad[0])]}: scale or mend it")
    return numbers
