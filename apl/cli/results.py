"""In which folder results go: where what lies there was made of other data, in one beside it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apl.errors import BadInput
from apl.files import require_no_link

if TYPE_CHECKING:
    from apl.config.config import Config
    from apl.data.dataset import Dataset
    from apl.data.since import State

Others = Callable[[Path], Collection[str]]
"""The digests of other data than those at hand that a folder's results are of."""


class Place(NamedTuple):
    """Where results go, and the folders with those of the data before, the newest last."""

    folder: Path
    before: Sequence[Path]


def study_of(run: Path) -> Path | None:
    """The study that a run folder belongs to, where it lies in one that has a record."""
    from apl.runs.run import RECORD, RUNS

    study = run.parent.parent if run.parent.name == RUNS else None
    return study if study is not None and (study / RECORD).is_file() else None


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
        return Place(base, ())
    from apl.data.since import State, changes

    new = State.of(data, source)
    told = ""
    before: list[Path] = []
    for folder in _folders(base):
        digests = others(folder)
        if not digests:
            if told:
                say(f"{told}; results are in {folder}")
            return Place(folder, before)
        old = _state(folder, digests, data)
        if old is not None and old.source and old.source != source:
            told = f"{folder} holds results of {old.source}"
        elif old is None:
            told = f"the data have changed since the results in {folder}"
        else:
            before.append(folder)
            told = f"the data have changed since the results in {folder}: {changes(old, new).text}"
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


def trained_on(run: Path, config: Config) -> set[bytes]:
    """The digests of the contents of the samples that a run on data of one's own had to train on,
    as its study's folder or the cache keeps them; none where neither does."""
    from apl.data.files import find_decoded
    from apl.data.since import State
    from apl.runs.run import RUNS

    if not config.dataset_sha256:
        return set()
    kept = State.read(run.parent.parent) if run.parent.name == RUNS else None
    if kept is None or kept.digest != config.dataset_sha256 or not kept.train:
        decoded = find_decoded(config.dataset_sha256, config.image_size)
        kept = None if decoded is None else State.of(decoded, "")
    return set() if kept is None else kept.trained_on


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


def labels_now(given: dict[str, Any], data: Dataset | None, folder: Path | None) -> list[str]:
    """Have the file of labels in what was given name the samples as they are called now, and say
    what became of them since it was written.

    Where names have changed it is written anew, into `folder`, the results folder that was asked
    for, or into that of the data's labels.
    """
    labels = given.get("labels")
    if not labels or data is None or not Path(labels).is_file():
        return []
    file = Path(labels)
    now, told = decided_now(file, searches(data), data)
    if not now:
        return []
    from apl.data.decisions import rename_decisions

    digest = hashlib.sha256(json.dumps([*now.items()]).encode() + file.read_bytes()).hexdigest()
    target = folder / "labels" if folder else Path("results", f"{data.name}-labels")
    require_no_link(target)
    target.mkdir(parents=True, exist_ok=True)
    renamed = target / f"{file.stem}-{digest[:8]}{file.suffix}"
    rename_decisions(file, renamed, now)
    if not renamed.is_file():  # a kind of file that is not written anew
        return [told]
    given["labels"] = str(renamed)
    return [f"{told}; by the names of now: {renamed}"]


def searches(data: Dataset) -> list[Path]:
    """The folders of searches in data of this name, the newest first."""
    found = itertools.takewhile(Path.is_dir, _folders(Path("results", f"{data.name}-find")))
    return [*found][::-1]


def decided_now(
    file: Path, folders: Sequence[Path], data: Dataset
) -> tuple[Mapping[str, str], str]:
    """What samples are called now by the names in a file of decisions, and a line on what became
    of them since; nothing where nothing did, or nobody knows what they were.

    They are those of the search whose folder the file lies in, else of the newest in `folders`
    that knows all its names: the file may have been saved anywhere.
    """
    from apl.data.decisions import decided_names
    from apl.data.since import State, decided_since

    for folder in (file.parent, *folders):
        old = State.read(folder)
        if old is None:
            continue
        labels = dict(zip(old.names, old.labels, strict=True))
        if labels.keys() >= {*decided_names(file, labels)}:
            return decided_since(file, old, State.of(data, ""))
    return {}, ""


def keep_state(folder: Path, data: Dataset | None, source: str) -> None:
    """Keep in a folder what the data of its results are."""
    if data is not None and data.digest and folder.is_dir():
        from apl.data.since import State

        kept = State.read(folder)
        if kept is None or kept.digest != data.digest or not kept.train:
            State.of(data, source).write(folder)
