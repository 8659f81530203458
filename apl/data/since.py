"""What became of data since a search or a training in them: told by content, not by name.

A results folder keeps what its samples were, in data.npz.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from apl.data.dataset import Dataset
from apl.data.decisions import decided_names
from apl.data.listing import some_of
from apl.files import write_atomic

FILE = "data.npz"
_SHOWN = 3  # samples that are named of each kind of change


@dataclass(frozen=True)
class State:
    """What a data set was: where it lay, its digest, and of each sample its name, its label and the
    digest of its content [N, 32]; train: how many of them, the first, were trained on, 0 where an
    older apl kept it and nobody knows."""

    source: str
    digest: str
    names: Sequence[str]
    labels: Sequence[str]
    contents: npt.NDArray[np.uint8]
    train: int = 0

    @classmethod
    def of(cls, data: Dataset, source: str) -> State:
        """What a data set of the user's own is now."""
        names = [*data.train.names, *data.test.names]
        given = [*data.train.labels.given.tolist(), *data.test.labels.given.tolist()]
        contents = np.zeros((0, 32), np.uint8) if data.contents is None else data.contents
        labels = [data.class_names[k] for k in given]
        return cls(source, data.digest, names, labels, contents, len(data.train))

    def write(self, folder: Path) -> None:
        """Keep it in a results folder, which is there."""
        what = [self.source, self.digest, [*self.names], [*self.labels], self.train]
        text = json.dumps(what).encode()
        buffer = io.BytesIO()
        about = np.frombuffer(text, np.uint8)
        np.savez_compressed(buffer, about=about, contents=np.asarray(self.contents))
        write_atomic(folder / FILE, buffer.getvalue())

    @classmethod
    def read(cls, folder: Path) -> State | None:
        """What a results folder keeps; None where it keeps nothing that can be read."""
        try:
            with np.load(folder / FILE, allow_pickle=False) as file:
                source, digest, names, labels, *train = json.loads(file["about"].tobytes())
                contents = file["contents"]
        except Exception:  # none there, or a damaged one, which raises nearly anything
            return None
        fits = len(names) == len(labels) == len(contents)
        return cls(source, digest, names, labels, contents, *train) if fits else None

    @property
    def trained_on(self) -> set[bytes]:
        """The digests of the contents of the samples that were trained on."""
        return {bytes(row) for row in self.contents[: self.train]}


@dataclass
class Changes:
    """What became of samples: which came, went, were edited under their name, have another label
    or another name."""

    added: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)
    relabelled: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    now: dict[str, str] = field(default_factory=dict)
    """By the name that a sample had: the one it has, '' where its content is nowhere."""

    @property
    def text(self) -> str:
        """They in words, counted and some of them named."""
        told = [
            f"{len(names):,} {kind} ({some_of(names, _SHOWN)})"
            for kind in ("added", "gone", "edited", "relabelled", "renamed")
            if (names := getattr(self, kind))
        ]
        return ", ".join(told) or "the same samples, split or named otherwise"


def changes(old: State, new: State) -> Changes:
    """What became of the samples of a data set, matched by their content."""
    found = Changes()
    before, after = ([bytes(row) for row in state.contents] for state in (old, new))
    same = {*zip(old.names, before, strict=True)} & {*zip(new.names, after, strict=True)}
    waiting: dict[bytes, list[int]] = defaultdict(list)  # new ones that no old one is yet
    place = {}
    for j, (name, content) in enumerate(zip(new.names, after, strict=True)):
        if (name, content) in same:
            place[name, content] = j
        else:
            waiting[content].append(j)
    lost: dict[str, int] = {}
    for i, (name, content) in enumerate(zip(old.names, before, strict=True)):
        if (name, content) in same:
            j = place[name, content]
        elif waiting[content]:
            j = waiting[content].pop(0)
        else:
            lost[name] = i
            found.now[name] = ""
            continue
        found.now[name] = new.names[j]
        if old.labels[i] != new.labels[j]:
            found.relabelled.append(f"{name}: {old.labels[i]} to {new.labels[j]}")
        elif name != new.names[j]:
            found.renamed.append(f"{name} to {new.names[j]}")
    for j in sorted(j for places in waiting.values() for j in places):
        name = new.names[j]
        kind = found.edited if lost.pop(name, None) is not None else found.added
        kind.append(name)
    found.gone = list(lost)
    return found


def decided_since(file: Path, old: State, new: State) -> tuple[dict[str, str], str]:
    """By the names that samples had when a file of decisions was written, those that they have
    now, and a line on what became of those that it decides on; no names and no line where nothing
    did, or where the data are others.

    old, new: what the data were then, and are now.
    """
    found = changes(old, new)
    if not any(found.now.values()):
        return {}, ""
    names = decided_names(file, dict(zip(old.names, old.labels, strict=True)))
    edited = {*found.edited}
    moved: list[str] = []
    changed: list[str] = []
    gone: list[str] = []
    for name in names:
        is_now = found.now.get(name, name)
        if not is_now:
            (changed if name in edited else gone).append(name)
        elif is_now != name:
            moved.append(f"{name} is {is_now}")
    parts = [
        f"{len(which):,} {what} ({some_of(which, _SHOWN)})"
        for what, which in (
            ("found under another name", moved),
            ("left out, edited since", changed),
            ("left out, gone", gone),
        )
        if which
    ]
    if not parts:
        return {}, ""
    return found.now, f"of the {len(names):,} decisions in {file}: {', '.join(parts)}"
