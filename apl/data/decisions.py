"""What people decided about labels, read back: keep, fix or drop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from apl.data.labels import WORDS, Unclear, as_text, label_text, tidy, to_number
from apl.data.rows import Row, read_rows
from apl.errors import BadInput, one_line
from apl.files import plain, table_bytes, unharmed, write_atomic
from apl.noise.labels import UNKNOWN, BoolArray, IntArray

if TYPE_CHECKING:
    from apl.data.dataset import Dataset

DECISIONS = ("keep", "fix", "drop")
DECIDED = "decisions.csv"
"""What the gallery saves; in a folder of findings it is read again by itself."""


class NoSuchSample(BadInput):
    """A file of decisions names a sample that is not there, or no longer."""


@dataclass(frozen=True)
class Decisions:
    """What a file says of N samples.

    labels [N]: classes, as given where it says nothing; keep [N]: False for what is to be left
    out; decided [N]: where it says something.
    """

    labels: IntArray
    keep: BoolArray
    decided: BoolArray

    def beside(self, others: Decisions) -> Decisions:
        """These and those on other samples, which are numbered on."""
        parts = zip(
            (self.labels, self.keep, self.decided),
            (others.labels, others.keep, others.decided),
            strict=True,
        )
        return Decisions(*(np.concatenate(both) for both in parts))

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
    now: Mapping[str, str] = MappingProxyType({}),
) -> Decisions:
    """The labels of training samples that a file corrects, confirms or leaves out.

    given: their labels as they are [N]; names: what the user calls each, () where nobody does; now:
    by the names that samples had when the file was written, those that they have, '' where they
    are gone: what it says of these is left out.
    The file is a table (`apl.data.rows`) or Label Studio's export (JSON, JSON-MIN, CSV).
    It says which sample by `file_name`, or where that is empty by `id`, its number from 0; what
    of it by `decision` (keep, fix, drop), by `label` (a class's name, or where no class is called
    by a number, its number), or by both.  To fix without a label is to take `predicted_label`; an
    empty cell says nothing.  With neither column, as in an issues.csv edited by hand, every
    `given_label` that is another than the data's is a correction.

    Raises BadInput, in one line that names file and row, for a file that can't be read, columns
    that lack, an unknown sample, class or decision, and rows that contradict each other.
    """
    rows = _read(file, class_names)
    edited = _check_columns(file, rows)
    written = {row.get(column, "") for _, row in rows for column in _LABELS}
    classes = _Names(class_names, written)
    files = {row.get("file_name", "") for _, row in rows}
    samples = _Names(names or [str(i) for i in range(len(given))], files)
    labels, keep = given.astype(np.int64), np.ones(len(given), dtype=bool)
    said_by = np.zeros(len(given), dtype=np.int64)  # the row, 0 where none says anything
    compared = other = 0
    for number, row in rows:
        where = f"{file}, row {number}"
        word, text = _said(where, row, edited)
        if not word and not text:
            continue
        was = row.get("file_name", "")
        was = was if was in now else unharmed(was)
        if was in now:
            row = {**row, "file_name": now[was]}
            if not now[was]:
                continue
        chosen = _samples_of(where, row, samples, len(given))
        if row.get("given_label") and (edited or not row.get("file_name")):
            compared += 1
            # What was fixed since has the label that was decided.
            said = [row["given_label"], *([text] if text and word != "drop" else [])]
            other += int(given[chosen[0]]) not in {_class_of(where, t, classes, now) for t in said}
        for i in chosen:
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


def names_now(now: Mapping[str, str], data: Dataset) -> dict[str, str]:
    """What samples of data are called now, by the names that they had, for `read_labels`; '' for
    those that are gone."""
    here = {*data.train.names, *data.test.names}
    return {old: new if new in here else "" for old, new in now.items()}


def decided_names(file: Path, was: Mapping[str, str]) -> list[str]:
    """The names of the samples that a file decides on.

    was: the label that each had, beside which the given labels of an issues.csv edited by hand are
    corrections.  Raises BadInput as `read_labels` does.
    """
    rows = _read(file, ())
    edited = _check_columns(file, rows)
    found = []
    for number, row in rows:
        name = row.get("file_name", "")
        name = name if name in was else unharmed(name)
        word, text = _said(f"{file}, row {number}", row, edited)
        if name and (word or text) and not (edited and text == was.get(name)):
            found.append(name)
    return found


def rename_decisions(file: Path, to: Path, now: Mapping[str, str]) -> None:
    """Write a table of decisions anew, each sample by the name that it has now, without those that
    are gone; a file of another kind is left as it is."""
    rows = [row for _, row in read_rows(file, _COLUMNS).rows if isinstance(row, dict)]
    if file.suffix.lower() == ".json" or not rows or "file_name" not in rows[0]:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "id"))
    kept = []
    for row in rows:
        cells = {name: unharmed(as_text(row.get(name))) for name in columns}
        name = now.get(cells["file_name"], cells["file_name"])
        if name:
            kept.append([plain(cell) for cell in (cells | {"file_name": name}).values()])
    write_atomic(to, table_bytes(columns, kept))


_LABELS = ("label", "given_label", "predicted_label")
_COLUMNS = ("file_name", "id", "decision", *_LABELS)
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


class _Names:
    """What is called how: the places of a name, and of a text that a spreadsheet made of it.

    A spreadsheet and pandas take a name such as 03 for a number and write 3 or 3.0.  So what is no
    name means the one of its value, or the one that differs in case alone.  Of 007 and 7 a 7 may
    mean either, unless a 007 in the file shows that its zeros are still there; written: all that
    the file has for such names.
    """

    def __init__(self, names: Sequence[str], written: set[str]) -> None:
        self.places: dict[str, list[int]] = {}
        self.values: dict[float, list[str]] = {}
        self.folded: dict[str, list[str]] = {}
        self.written = written
        for place, each in enumerate(names):
            name = plain(each)
            self.places.setdefault(name, []).append(place)
            if len(self.places[name]) == 1:
                self.folded.setdefault(name.casefold(), []).append(name)
                value = to_number(name)
                if value is not None:
                    self.values.setdefault(value, []).append(name)

    def find(self, text: str) -> list[int]:
        """The places of what a text means; none where it means nothing.  Raises Unclear where it
        may mean several."""
        value = to_number(text)
        alike = self.values.get(value, []) if value is not None else []
        if len(alike) > 1 and as_text(text) == as_text(value):
            kept = [name for name in alike if name != as_text(value)]
            if self.written.isdisjoint(kept):
                raise Unclear(f"may be {' or '.join(alike)}, which a spreadsheet writes alike")
        for exact in (unharmed(text), text, tidy(text), as_text(text)):
            if exact in self.places:
                return self.places[exact]
        near = alike or self.folded.get(text.strip().casefold(), [])
        return self.places[near[0]] if len(near) == 1 else []


def _samples_of(where: str, row: dict[str, str], names: _Names, count: int) -> list[int]:
    """The samples that a row is about."""
    name, text = row.get("file_name", ""), as_text(row.get("id", ""))
    i = int(text) if text.isdecimal() else UNKNOWN
    if name:
        try:
            found = names.find(name)
        except Unclear as error:
            raise BadInput(f"{where}: {name!r} {error}") from None
        if not found:
            raise NoSuchSample(f"{where}: there is no sample called {name!r} in the data")
        # An image that is listed twice: one of them where its number is given, else both.  Numbers
        # change with what is left out, and Label Studio has its own: the name is what counts.
        return [i] if i in found else found
    if not text:
        raise BadInput(f"{where} names no sample")
    if not 0 <= i < count:
        raise BadInput(f"{where}: id is {text!r}; accepted: 0 to {count - 1}")
    return [i]


def _class_of(where: str, text: str, classes: _Names, now: Mapping[str, str] | None = None) -> int:
    """The class that a text names, or where no class is called by a number, that of this number;
    where names have changed `now`, a class may be gone: UNKNOWN."""
    try:
        found = classes.find(text)
    except Unclear as error:
        raise BadInput(f"{where}: {text!r} {error}: keep the zeros of their names") from None
    if found:
        return found[0]
    names = [*classes.places]
    number = as_text(text)
    if not classes.values and number.isdecimal() and int(number) < len(names):
        return int(number)
    if now:
        return UNKNOWN
    accepted = ", ".join(repr(name) if "," in name else name for name in names[:10])
    more = ", ..." if len(names) > 10 else ""
    raise BadInput(f"{where}: there is no class {text!r}; accepted: {accepted}{more}")


Cells = list[tuple[int, dict[str, str]]]  # where a row stands in its file, its cells by column


def _read(file: Path, class_names: Sequence[str]) -> Cells:
    cells = []
    for number, row in read_rows(file, _COLUMNS).rows:
        where = f"{file}, row {number}"
        if isinstance(row, str):
            raise BadInput(f"{where} has {row}")
        try:
            row = _flat(row) if file.suffix.lower() == ".json" else row
            texts = {name: _cell(name, value, class_names) for name, value in row.items()}
        except Unclear as error:
            raise BadInput(f"{where} has {error}; accepted: one") from None
        except (TypeError, KeyError, AttributeError) as error:
            told = f"{type(error).__name__}: {one_line(error)}"
            raise BadInput(f"{file} is no JSON that Label Studio exports ({told})") from None
        cells.append((number, {name: text for name, text in texts.items() if text is not None}))
    if not cells:
        what = "has no rows" if file.read_bytes().strip() else "is empty"
        raise BadInput(f"{file} {what}; accepted: {_ACCEPTED}")
    return cells


def _cell(column: str, value: Any, class_names: Sequence[str]) -> str | None:
    """A cell as text, '' where it says nothing; None for what is neither word nor number."""
    if column in _LABELS or column == "decision":
        # As it stands where it is one word: a folder, and so a class, may be called 1.0.
        plain_text = isinstance(value, str) and not value.lstrip().startswith(("[", "{"))
        text = value if plain_text else label_text(value)
        said = text.strip()
        return text if said and (said not in WORDS or said in class_names) else ""
    if not isinstance(value, str | int | float | bytes | None):
        return None
    return value if isinstance(value, str) else as_text(value)


def _flat(task: Row) -> Row:
    """A task of Label Studio's export with its `data` and what was chosen as its label; those of
    JSON-MIN are flat already.  Raises Unclear where its annotators disagree."""
    row = {**task, **task.get("data", {})}
    if "annotations" in task:
        valid = [each for each in task["annotations"] if not each.get("was_cancelled")]
        decisive = [each for each in valid if each.get("ground_truth")] or valid
        chosen = [_choice(annotation) for annotation in decisive]
        different = sorted({*chosen} - {""})
        if len(different) > 1:
            raise Unclear(f"annotators who disagree ({', '.join(different)})")
        row["label"] = different[0] if different else ""
    row.pop("id", None)  # its ids are those of its tasks, not of our samples
    return row


def _choice(annotation: Mapping[str, Any]) -> str:
    """What an annotation chose; '' where nothing."""
    values = [result["value"].get("choices", ()) for result in annotation["result"]]
    return label_text([choice for choices in values for choice in choices])
