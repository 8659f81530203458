"""What data of the user's hold, in words: which files, which labels, what is trained on.

Nothing is decoded here, and nothing that is wrong with one file or row loses the others.
"""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apl.data.depth import Pixels
from apl.data.labels import (
    NO_LABEL,
    NUMBERS,
    by_value,
    combined,
    no_labels,
    tidy,
    to_number,
)
from apl.data.pictures import Pictures
from apl.data.reading import Reading
from apl.errors import BadInput, cut, one_line
from apl.noise.labels import UNKNOWN, BoolArray, IntArray

Say = Callable[[str], None]

SPLITS = (
    dict.fromkeys(("train", "training"), "train")
    | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
    | dict.fromkeys(("test", "testing", "eval"), "test")
)
"""The names of splits, those that Hugging Face's imagefolder reads."""

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .gif .bmp .dib .tif .tiff .webp .ppm .pgm .pbm .pnm".split()
)
LISTS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
HELD_OUT = 5  # one in so many is held out where there is no test split


Votes = tuple[str, ...]  # a sample's labels as text, by annotator, '' where one gave none


class Sample(NamedTuple):
    """A sample as it is listed: what the user calls it, where it lies, its labels as text."""

    name: str
    path: str
    given: str
    true: str
    split: str
    stat: tuple[int, int]  # size and time of its file


@dataclass
class Listing:
    """What a path holds, before anything is decoded.

    root: what the names are relative to; broken: what is left out, by name, and why; notes: lines
    to tell; pixels: the images themselves where arrays hold them, in the samples' order; columns:
    so the cells of a table, by column, with `decimal` where a number's fraction begins; name: of
    the data set, '' until it has one; pictures: where the samples' images lie inside a file; rows:
    where each sample stands in its list, as `apl.data.rows` numbers it; label_columns: of a list;
    votes: what several annotators say of each sample, by whom as `annotators` names them;
    texts: of samples that are texts, `columns` then being what stands beside them; text_column.
    """

    root: Path
    samples: list[Sample] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pixels: Pixels | None = None
    columns: dict[str, Sequence[Any]] | None = None
    decimal: str = "."
    name: str = ""
    pictures: Pictures | None = None
    rows: list[int] = field(default_factory=list)
    label_columns: Sequence[str] = ()
    votes: list[Votes] = field(default_factory=list)
    annotators: Sequence[str] = ()
    texts: Sequence[str] | None = None
    text_column: str = ""

    @property
    def cells(self) -> dict[str, Sequence[Any]]:
        """All that a table's samples are, by column; that of the texts, ''."""
        texts = {} if self.texts is None else {"": self.texts}
        return {**texts, **(self.columns or {})}


def suffix_of(name: str) -> str:
    """The suffix of a name in small letters, with its dot; '' where it has none."""
    return os.path.splitext(name)[1].lower()


def why_not(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (error.strerror if isinstance(error, OSError) else None) or one_line(error)


def some_of(names: Sequence[str], count: int = 5) -> str:
    rest = len(names) - count
    return ", ".join(map(_printable, names[:count])) + (f" and {rest:,} more" if rest > 0 else "")


def _printable(name: str) -> str:
    """A name on one line: names of files may hold newlines, and bytes that are no text."""
    text = cut(name.encode("utf-8", "backslashreplace").decode(), 200)
    return text if text.isprintable() else repr(text)[1:-1]


def broken_line(broken: Sequence[tuple[str, str]]) -> str:
    if not broken:
        return "it is empty"
    shown = "; ".join(f"{_printable(name)}: {why}" for name, why in broken[:3])
    return f"left out {len(broken):,}: {shown}{'; ...' if len(broken) > 3 else ''}"


# --------------------------------------------------------------------- which is learned from which


class Order(NamedTuple):
    """The samples that are used, those to train on first: positions, labels, classes."""

    chosen: IntArray
    train: int  # so many of them
    given: IntArray
    true: IntArray
    class_names: tuple[str, ...]
    ours: bool  # whether the split is


def arrange(
    samples: Sequence[Sample],
    name: str,
    say: Say,
    classes: Collection[str] = (),
    alike: IntArray | None = None,
) -> Order:
    """Labels as text to numbers, and the split: what is called test is tested on, else what is
    called validation, else a share of each class, the same every time.

    The classes are those that training samples have, given or true, and those named by `classes`:
    numbers in order of their value, then words in that of their letters.  Without a label, or with
    that of a class which nothing is trained on, a sample is left out.  alike: a number for each
    sample, the same one for those that are held out together or not at all.
    """
    labelled = np.array([sample.given != "" for sample in samples], bool)
    where = np.array([sample.split or "train" for sample in samples])
    there = {*where[labelled].tolist()}
    tested = next((split for split in ("test", "validation") if split in there), "")
    if tested == "test" and "validation" in there:
        unused = (labelled & (where == "validation")).sum()
        say(f"not used: {unused:,} samples for validation")
    train = np.flatnonzero(labelled & (where == "train") if tested else labelled)
    test = np.flatnonzero(labelled & (where == tested))
    if tested and not len(train):
        raise BadInput(f"{name} has {labelled.sum():,} samples, and none of them for training")
    labels = _classes(samples, train, classes, name, say)
    index = {label: k for k, label in enumerate(labels)}
    y = np.array([index.get(sample.given, UNKNOWN) for sample in samples], np.int64)
    y_true = np.array([index.get(sample.true, UNKNOWN) for sample in samples], np.int64)
    if tested:
        test = _known_classes(samples, test, index, say)
    else:
        out = held_out(y[train], None if alike is None else alike[train])
        together = bool(out.any())
        out = out if together or alike is None else held_out(y[train])
        train, test = train[~out], train[out]
        say(
            f"no test split: one in {HELD_OUT} of each class is held out, {len(test):,} of "
            f"{labelled.sum():,}, the same every time"
        )
        if alike is not None and together:
            say("copies are held out together, or not at all")
        elif alike is not None:
            say("copies are nearly all there is: they can't be held out together")
    if not len(test):
        raise BadInput(f"{name} has {labelled.sum():,} samples, and none of them for test")
    for one, other, have, lack in (
        ("training", "test", train, test),
        ("test", "training", test, train),
    ):
        alone = sorted({*y[have].tolist()} - {*y[lack].tolist()})
        if alone:
            names = some_of([labels[k] for k in alone])
            say(f"classes among the {one} samples, but not among the {other} samples: {names}")
    chosen = np.concatenate([train, test])
    return Order(chosen, len(train), y[chosen], y_true[chosen], tuple(labels), not tested)


def _classes(
    samples: Sequence[Sample], train: IntArray, classes: Collection[str], name: str, say: Say
) -> list[str]:
    """The classes in their order, those of the samples at `train` and those that are named."""
    found = {*map(tidy, classes)}
    for i in train:
        found |= {samples[i].given, samples[i].true}
    labels = sorted(found - {""}, key=by_value)
    if len(labels) < 2:
        only = f": all are {labels[0]!r}" if labels else ""
        raise BadInput(f"{name} has {len(labels)} class of labels, nothing to learn{only}")
    for _, alike in itertools.groupby(sorted(labels, key=_folded), key=_folded):
        same = list(alike)
        if len(same) > 1:
            say(f"classes that differ in case alone are {len(same)} classes: {some_of(same)}")
    several = combined(labels)
    if several:
        say(f"classes that look like several in one, and are taken as one: {some_of(several)}")
    return labels


def _known_classes(
    samples: Sequence[Sample], test: IntArray, index: Mapping[str, int], say: Say
) -> IntArray:
    """The test samples of classes that are learned; the others are told."""
    known = np.array([{samples[i].given, samples[i].true} <= {*index, ""} for i in test], bool)
    if not known.all():
        strange = {label for i in test[~known] for label in (samples[i].given, samples[i].true)}
        names = some_of(sorted(strange - {*index, ""}))
        say(
            f"not tested on: {(~known).sum():,} samples of classes that no training sample has: "
            f"{names} (--classes with all names keeps them)"
        )
    chosen: IntArray = test[known]
    return chosen


def settle_labels(found: Listing, reading: Reading, name: str) -> None:
    """Have labels that are none be '', and tell how many; BadInput for what is no class.

    They are left out, and count as no broken files.
    """
    given = [sample.given for sample in found.samples]
    none = no_labels(given, reading.classes)
    kept = {*given} - none
    unknown = no_labels((sample.true for sample in found.samples), kept) | ({*NUMBERS} - kept)
    written = Counter(label for label in given if label in none)
    if written or any(sample.true in unknown and sample.true for sample in found.samples):
        for i, sample in enumerate(found.samples):
            if sample.given in none:
                why = f"{NO_LABEL} ({sample.given!r})" if sample.given else NO_LABEL
                found.broken.append((sample.name, why))
            found.samples[i] = sample._replace(
                given="" if sample.given in none else sample.given,
                true="" if sample.true in unknown else sample.true,
            )
    unlabelled = sum(why.startswith(NO_LABEL) for _, why in found.broken)
    if unlabelled:
        words = [f"{word!r} {count:,}" for word, count in written.most_common(5) if word]
        told = f": {', '.join(words)}; --classes names a class that is called so" if words else ""
        found.notes.append(f"without a label and left out: {unlabelled:,} samples{told}")
    if not reading.classes:
        check_labels([label for label in given if label not in none], name)


def only_classes(found: Listing, classes: Collection[str], name: str) -> None:
    """Leave samples of other classes than these out, and tell; BadInput for one that nobody has."""
    there = {sample.given for sample in found.samples} - {""}
    classes = [*map(tidy, classes)]
    for each in classes:
        if each not in there:
            has = some_of(sorted(there, key=by_value), 20)
            raise BadInput(f"classes names {each!r}, which {name} lacks; its classes: {has}")
    others = there - {*classes}
    if classes and others:
        left = sum(sample.given in others for sample in found.samples)
        names = some_of(sorted(others, key=by_value))
        found.notes.append(f"left out, of other classes than --classes: {left:,} samples: {names}")
        found.samples = [
            sample._replace(
                given=sample.given if sample.given in classes else "",
                true=sample.true if sample.true in classes else "",
            )
            for sample in found.samples
        ]


MANY = 20  # classes from which on it is asked whether labels are classes at all


def check_labels(labels: Sequence[str], name: str) -> None:
    """BadInput where labels are measured and not classes: numbers, some of them with fractions; or
    nearly all different."""
    counts = Counter(labels)
    values = [to_number(label) for label in counts]
    fractions = [value for value in values if value is not None and value % 1]
    if fractions and None not in values:
        raise BadInput(
            f"the labels of {name} are numbers such as {fractions[0]:g}; accepted: words or whole "
            "numbers, one for each class"
        )
    single = sum(count == 1 for count in counts.values())
    if len(counts) > MANY and 2 * single > len(counts):
        raise BadInput(
            f"the labels of {name} are {len(counts):,} different ones, {single:,} of them of one "
            "sample each: values that are measured, or names; accepted: words or whole numbers, "
            "one for each class (--classes where these are meant)"
        )


def _folded(label: str) -> str:
    return unicodedata.normalize("NFC", label).casefold()


def held_out(labels: IntArray, alike: IntArray | None = None, one_in: int = HELD_OUT) -> BoolArray:
    """True for one in so many of each class, at least one of two; the same every time.

    alike: a number for each sample; those of one number are held out together or not at all, and
    no class is held out as a whole for it.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    out = np.zeros(len(labels), dtype=bool)
    rest = Counter(labels.tolist())  # of each class, what is not held out
    together = _by_class(alike) if alike is not None else []
    group = {i: members for members in together if len(members) > 1 for i in members.tolist()}
    for members in _by_class(labels[order]):
        label, size = int(labels[order[members[0]]]), len(members)
        wanted = max(round(size / one_in), min(size - 1, 1))
        if not group:
            out[order[members[:wanted]]] = True
            continue
        spare: list[IntArray] = []  # copies that are more than are wanted
        for i in order[members].tolist():
            same = group.get(i, np.array([i]))
            taken = Counter(labels[same].tolist())
            if out[i] or any(rest[k] <= count for k, count in taken.items()):
                continue
            if size - rest[label] + taken[label] <= wanted:
                out[same] = True
                rest.subtract(taken)
            else:
                spare.append(same)
        if rest[label] == size and spare:  # the fewest of them, rather than none
            same = min(spare, key=len)
            out[same] = True
            rest.subtract(Counter(labels[same].tolist()))
    return out


def _by_class(labels: IntArray) -> list[IntArray]:
    """The positions of each class, in order."""
    order = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[order], return_index=True)
    return np.split(order, starts[1:])
