"""What people decided about labels, read back: keep, fix or drop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apl.data.listing import as_text
from apl.data.rows import Row, read_rows
from apl.errors import BadInput, one_line
from apl.files import plain
from apl.noise.labels import UNKNOWN, BoolArray, IntArray

DECISIONS = ("keep", "fix", "drop")


@dataclass(frozen=True)
class Decisions:
    """What a file says of N samples.

    labels [N]: classes, as given where it says nothing; keep [N]: False for what is to be left
    out; decided [N]: where it says something.
    """

    labels: IntArray
    keep: BoolArray
    decided: BoolArray

    def words(self, given: IntArray) -> list[str]:
        """The decision on each sample [N] beside its given label, '' where there is none."""
        changed = np.where(self.labels == given, "keep", "fix")
        words: list[str] = np.where(self.decided, np.where(self.keep, changed, "drop"), "").tolist()
        return words


# -------------------------------------------------------------------------------------- reading


def read_labels(
    file: Path,
    given: IntArray,
    class_names: Sequence[str],
    names: Sequence[str] = (),
) -> Decisions:
    """The labels of training samples that a file corrects, confirms or leaves out.

    given: their labels as they are [N]; names: what the user calls each, () where nobody does.
    The file is a table (`apl.data.rows`) or Label Studio's export (JSON, JSON-MIN, CSV).
    It says which sample by `file_name`, or where that is empty by `id`, its number from 0; what
    of it by `decision` (keep, fix, drop), by `label` (a class's name, or else its number), or by
    both.  To fix without a label is to take `predicted_label`; an empty cell says nothing.  With
    neither column, as in an issues.csv edited by hand, every `given_label` that is another than
    the data's is a correction.

    Raises BadInput, in one line that names file and row, for a file that can't be read, columns
    that lack, an unknown sample, class or decision, and rows that contradict each other.
    """
    rows = _read(file)
    edited = _check_columns(file, rows)
    count = len(given)
    classes = {plain(name): i for i, name in enumerate(class_names)}
    numbers: dict[str, list[int]] = {}
    for i, name in enumerate(names or map(str, range(count))):
        numbers.setdefault(plain(name), []).append(i)
    labels, keep = given.astype(np.int64), np.ones(count, dtype=bool)
    said_by = np.zeros(count, dtype=np.int64)  # the row, 0 where none says anything
    compared = other = 0
    for number, row in rows:
        where = f"{file}, row {number}"
        word, text = _said(where, row, edited)
        if not word and not text:
            continue
        samples = _samples_of(where, row, numbers, count)
        if row.get("given_label") and (edited or not row.get("file_name")):
            compared += 1
            other += _class_of(where, row["given_label"], classes) != given[samples[0]]
        for i in samples:
            kept = word != "drop"
            label = _class_of(where, text, classes) if text and kept else int(given[i])
            if edited and label == given[i]:
                continue
            if said_by[i] and (kept, label) != (keep[i], labels[i]):
                name = row.get("file_name") or row["id"]
                raise BadInput(f"{where}: {name!r} contradicts what row {said_by[i]} says of it")
            keep[i], labels[i], said_by[i] = kept, label, number
    # A number fits any data, and an issues.csv of other noise would correct everything.
    if 2 * other > max(compared, 10):
        raise BadInput(
            f"{file} is of other samples: of {compared} given labels in it {other} are not those "
            "of the data; accepted: what was found in the same data, train_size and noise"
        )
    return Decisions(labels, keep, said_by > 0)


_COLUMNS = ("file_name", "id", "label", "decision", "given_label")
_ACCEPTED = "a column file_name or id, and a column label or decision"


def _check_columns(file: Path, rows: Cells) -> bool:
    """Whether the file is one of findings whose given labels are edited, and not of decisions;
    BadInput where it is neither."""
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    edited = not {"label", "decision"} & {*columns}
    for told, wanted in (
        ("file_name or id", {"file_name", "id"}),
        ("label or decision", {"given_label" if edited else "label", "decision"}),
    ):
        if not wanted & {*columns}:
            raise BadInput(
                f"{file} has no column {told}; its columns: {', '.join(map(repr, columns))}"
            )
    return edited


def _said(where: str, row: dict[str, str], edited: bool) -> tuple[str, str]:
    """The decision of a row and the label that it gives; '' for what it does not say."""
    word = row.get("decision", "").strip().lower()
    text = row.get("given_label" if edited else "label", "")
    if word not in ("", *DECISIONS):
        raise BadInput(
            f"{where}: decision is {row['decision']!r}; accepted: {', '.join(DECISIONS)}"
        )
    if word == "fix" and not text:
        text = row.get("predicted_label", "")
        if not text:
            raise BadInput(f"{where}: to fix it takes a label, or a predicted_label")
    return word, text


def _samples_of(
    where: str, row: dict[str, str], numbers: dict[str, list[int]], count: int
) -> list[int]:
    """The samples that a row is about, by the numbers of each name."""
    name, text = row.get("file_name", ""), as_text(row.get("id", ""))
    i = int(text) if text.isdecimal() else UNKNOWN
    if name:
        if name not in numbers:
            raise BadInput(f"{where}: there is no sample called {name!r} in the training data")
        # An image that is listed twice: one of them where its number is given, else both.  Numbers
        # change with what is left out, and Label Studio has its own: the name is what counts.
        return [i] if i in numbers[name] else numbers[name]
    if not text:
        raise BadInput(f"{where} names no sample")
    if not 0 <= i < count:
        raise BadInput(f"{where}: id is {text!r}; accepted: 0 to {count - 1}")
    return [i]


def _class_of(where: str, text: str, classes: dict[str, int]) -> int:
    """The class of that name, or else of that number; '3' may be the name of another class."""
    number = as_text(text)
    for name in (text, number):
        if name in classes:
            return classes[name]
    if number.isdecimal() and int(number) < len(classes):
        return int(number)
    accepted = ", ".join(repr(name) if "," in name else name for name in [*classes][:10])
    more = ", ..." if len(classes) > 10 else ""
    raise BadInput(f"{where}: there is no class {text!r}; accepted: {accepted}{more}")


Cells = list[tuple[int, dict[str, str]]]  # where a row stands in its file, its cells by column


def _read(file: Path) -> Cells:
    cells = []
    for number, row in read_rows(file, _COLUMNS).rows:
        if isinstance(row, str):
            raise BadInput(f"{file}, row {number} has {row}")
        if file.suffix.lower() == ".json":
            try:
                row = _flat(row)
            except (TypeError, KeyError, AttributeError) as error:
                told = f"{type(error).__name__}: {one_line(error)}"
                raise BadInput(f"{file} is no JSON that Label Studio exports ({told})") from None
        texts = {k: str(v) for k, v in row.items() if isinstance(v, str | int | float) and v == v}
        cells.append((number, texts))
    if not cells:
        what = "has no rows" if file.read_bytes().strip() else "is empty"
        raise BadInput(f"{file} {what}; accepted: {_ACCEPTED}")
    return cells


def _flat(task: Row) -> Row:
    """A task of Label Studio's export with its `data` and what was chosen as its label; those of
    JSON-MIN are flat already."""
    row = {**task, **task.get("data", {})}
    if "annotations" in task:
        chosen = [
            choice
            for annotation in task["annotations"]
            if not annotation.get("was_cancelled")
            for result in annotation["result"]
            for choice in result["value"].get("choices", ())
        ]
        row["label"] = chosen[-1] if chosen else ""
    row.pop("id", None)  # its ids are those of its tasks, not of our samples
    return row
