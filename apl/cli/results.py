"""In which folder results go: where what lies there was made of other data, in one beside it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from apl.errors import BadInput

if TYPE_CHECKING:
    from apl.config.config import Config
    from apl.data.dataset import Dataset
    from apl.data.since import State

Others = Callable[[Path], Collection[str]]
"""The digests of other data than those at hand that a folder's results are of."""


class Place(NamedTuple):
    """Where results go; what samples are called now, by the name that they had when the folders
    before were written; and these, the newest last."""

    folder: Path
    now: Mapping[str, str]
    before: Sequence[Path]


def source_of(typed: str) -> str:
    """What data are known by beside their name: the whole path, or what was typed for no path."""
    return os.path.abspath(os.path.expanduser(typed)) if os.path.exists(typed) else typed


def place_for(
    base: Path,
    data: Dataset | None,
    source: str,
    others: Others,
    say: Callable[[str], None],
    asked: bool = False,
) -> Place:  # the data, what lies there, and how it is told
    """The folder for results of data.

    It is `base`, or where the results in it are of other data the next one that is free: base-2 and
    so on.  What has changed since the newest of these is told.  asked: base was asked for, so that
    other data are BadInput.
    """
    if data is None or not data.digest:
        return Place(base, {}, ())
    from apl.data.since import State, changes

    new = State.of(data, source)
    now: dict[str, str] = {}
    told = ""
    before: list[Path] = []
    for folder in _folders(base):
        digests = others(folder)
        if not digests:
            if told:
                say(f"{told}; results are in {folder}")
            return Place(folder, now, before)
        old = _state(folder, digests, data)
        if old is not None and old.source and old.source != source:
            told = f"{folder} holds results of {old.source}"
        elif old is None:
            told = f"the data have changed since the results in {folder}"
        else:
            found = changes(old, new)
            now.update(found.now)
            before.append(folder)
            told = f"the data have changed since the results in {folder}: {found.text}"
        if asked:
            raise BadInput(f"{told}: choose another --out, or leave it out")
    raise AssertionError("there is always a next folder")


def _folders(base: Path) -> Iterator[Path]:
    yield base
    for k in itertools.count(2):
        yield base.with_name(f"{base.name}-{k}")


def _state(folder: Path, digests: Collection[str], data: Dataset) -> State | None:
    """What the data of a folder's results were: as it keeps them, or as they lie in the cache."""
    from apl.data.files import find_decoded
    from apl.data.since import State

    kept = State.read(folder)
    if kept is not None:
        return kept
    for digest in digests:
        decoded = find_decoded(digest, data.image_size)
        if decoded is not None:
            return State.of(decoded, "")
    return None


def other_search(digest: str) -> Others:
    """Of what other data a folder of `apl find` is."""

    def others(folder: Path) -> set[str]:
        from apl.data.since import State
        from apl.runs.run import Run

        kept = State.read(folder)
        run = Run(folder / "run")
        found = {kept.digest} if kept is not None else set()
        if run.begun:
            found.add(run.config.dataset_sha256)
        return set() if digest in found else found - {""}

    return others


def other_runs(cells: Mapping[str, Config]) -> Others:
    """Of what other data those runs of a study's folder are that have these names."""

    def others(folder: Path) -> set[str]:
        from apl.runs.record import begun_in

        found = set()
        for name, begun in begun_in(folder).items():
            if name in cells and begun.dataset_sha256 != cells[name].dataset_sha256:
                found.add(begun.dataset_sha256)
        return found

    return others


def keep_state(folder: Path, data: Dataset | None, source: str) -> None:
    """Keep in a folder what the data of its results are."""
    if data is not None and data.digest and folder.is_dir():
        from apl.data.since import State

        kept = State.read(folder)
        if kept is None or kept.digest != data.digest:
            State.of(data, source).write(folder)
