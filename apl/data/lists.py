"""A list of files with their labels, or a table: which columns are for what, and its samples."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apl.data.annotators import are_votes, column_of, folded, settle_votes, votes_of
from apl.data.labels import NO_LABEL, Unclear, as_text, label_text, one_hot_text, to_number
from apl.data.listing import (
    SPLITS,
    SUFFIXES,
    Listing,
    Sample,
    Votes,
    broken_line,
    settle_labels,
    some_of,
    suffix_of,
)
from apl.data.pictures import Picture, Pictures
from apl.data.places import Place, Places
from apl.data.reading import Reading, names_of
from apl.data.rows import Row, read_rows
from apl.data.texts import NO_TEXT, NO_TEXTS, as_texts, find_texts, require_column
from apl.errors import BadInput

NONE = "none"  # of --image-folder: the list names no files
FILE_COLUMNS = ("file_name", "filename", "file", "path", "image")
LABEL_COLUMNS = (
    *("label", "labels", "class", "class_name", "classname", "class_label", "category", "target"),
    *("dx", "diagnosis", "breed", "species", "y", "sentiment", "intent", "topic", "stars"),
)
"""What the column of the labels is called where nobody says it, in the lists of others."""
SAMPLE_COLUMNS = ("sample", "sample_id", "id", "task", "task_id", "item", "item_id")
"""What the column is called that says which sample of a table a row is about, where there is a row
for each label."""
_OF_IMAGES = frozenset("image images img imgs photo photos picture pictures file filename".split())
_OF_IDS = _OF_IMAGES | frozenset("id ids name key uid uuid scan slide".split())
HEAD = 2000  # rows by which it is judged what the columns are for


class _Columns(NamedTuple):
    """Which columns of a list say what: several of the label where it is one-hot, '' for what none
    says."""

    labels: Sequence[str]
    file: str
    split: str
    embedded: bool
    votes: bool  # of annotators, each in one of the labels' columns
    text: str = ""


def list_file(
    path: Path, reading: Reading, split: str = "", sure: bool = False, *, labelled: bool = True
) -> Listing:
    """A list of files with their labels, the files below the list's folder or in it; or, without a
    column of files, a table: a sample a row.

    split: that of rows which tell none.  sure: only a column that is called one of labels is taken
    for it.  labelled: whether a sample needs a label.  Raises BadInput where nothing can be learned
    from it.
    """
    sheet = read_rows(path, {reading.label_column})
    rows = iter(sheet.rows)
    head = list(itertools.islice(rows, HEAD))
    key, annotator = _long(head, reading)
    if annotator:
        head = [*head, *rows]
        called = key if key in FILE_COLUMNS else ID_COLUMNS[0]
        wide = folded(head, key, reading.label_column, annotator, called)
        if wide is not None:
            head, people = wide
            reading = dataclasses.replace(reading, label_column=people)
    named = [row for _, row in head if not isinstance(row, str)]
    found = Listing(path.parent, decimal=sheet.decimal, notes=[*sheet.notes])
    places = None if reading.image_folder == NONE else Places(path, reading.image_folder)
    columns = None
    if named:
        columns = _columns_of(path, named, reading, places, found, sure, labelled)
    if columns and columns.file and not columns.embedded and places is not None:
        found.root = places.root
    taken = _Taken(path, columns, places, split, found, labelled)
    for number, row in itertools.chain(head, rows):
        taken.add(number, row)
    taken.drop_others()
    if columns is None or not found.samples:
        what = "image that is there" if columns and columns.file else "sample"
        where = " (--image-folder says where they lie)" if columns and columns.file else ""
        raise BadInput(f"{path} lists no {what}{where}; {broken_line(found.broken)}")
    found.label_columns = columns.labels
    taken.tell()
    if columns.votes:
        settle_votes(found, columns.labels, reading.classes)
    if labelled:
        settle_labels(found, reading, f"{path} ({', '.join(columns.labels)})")
    if not columns.file:
        _make_table(found, taken.cells, columns)
        if labelled and found.texts is not None:
            _without_empty(found, found.texts, alone=not found.columns)
    return found


def _long(head: Sequence[tuple[int, Row | str]], reading: Reading) -> tuple[str, str]:
    """The columns of a list with a row for each label that say of which sample and by whom it is;
    '' where it has none, or its images lie in it."""
    rows = [row for _, row in head if not isinstance(row, str)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    annotator, label = column_of(names), reading.label_column
    key = next((name for name in (*FILE_COLUMNS, *SAMPLE_COLUMNS) if name in names), "")
    inside = any(isinstance(_first(rows, name), Picture) for name in names)
    if inside or not key or label not in names or annotator == label:
        return "", ""
    return key, annotator


class _Taken:
    """The samples of a list's rows as they come, and where their files were found."""

    def __init__(
        self,
        path: Path,
        columns: _Columns | None,
        places: Places | None,
        split: str,
        found: Listing,
        labelled: bool,
    ) -> None:
        self.path, self.columns, self.places = path, columns, places
        self.split, self.found, self.labelled = split, found, labelled
        self.cells: dict[str, list[Any]] = {}
        self.folders: Counter[str] = Counter()
        self.count = self.missing = self.place = 0
        self.votes: Votes = ()  # those of the row that is taken
        self.named: list[tuple[str, bool]] = []  # by which name a sample's file was found, and how
        info = os.stat(path)
        self.stat = info.st_size, info.st_mtime_ns
        if columns and columns.embedded:
            found.pictures = Pictures([(path, columns.file)], [])

    def add(self, number: int, row: Row | str) -> None:
        """Take a row, or leave it out with the reason."""
        place, self.place = self.place, self.place + 1
        columns, found = self.columns, self.found
        if isinstance(row, str) or columns is None:
            found.broken.append((f"row {number}", str(row)))
            return
        name = _name_of(row, columns.file) if columns.file else str(place)
        self.count += 1
        sample = self._sample(row, columns, name, place)
        if isinstance(sample, str):
            called = name if name and columns.file else f"row {number}"
            found.broken.append((called, sample))
            return
        if found.pictures is not None:
            found.pictures.rows.append(place)
        elif not columns.file:
            for column in row:
                if column not in self.cells:  # a JSON object may have more than those before it
                    self.cells[column] = [None] * len(found.samples)
            for column, values in self.cells.items():
                values.append(row.get(column))
        found.samples.append(sample)
        found.rows.append(number)
        if columns.votes:
            found.votes.append(self.votes)

    def _sample(self, row: Row, columns: _Columns, name: str, place: int) -> Sample | str:
        """The sample of a row, or why it is none."""
        split = as_text(row.get(columns.split)).lower() if columns.split else ""
        if columns.embedded:
            name = name or str(place)
        if not name.strip():
            return "no file is named"
        self.votes = ("",) * len(columns.labels)
        try:
            true = label_text(row.get("clean_label"))
            self.votes = votes_of(row, columns.labels) if columns.votes else self.votes
            given = next(filter(None, self.votes), "") or _label_of(row, columns)
        except Unclear as error:
            if self.labelled:
                return str(error)
            given = true = ""
        if not given and self.labelled:
            return NO_LABEL
        if columns.split and split not in SPLITS and self.labelled:
            return f"split is {split!r}; accepted: {', '.join(SPLITS)}"
        split = SPLITS.get(split, self.split)
        if not columns.file or columns.embedded or self.places is None:
            return Sample(name, "", given, true, split, self.stat)
        file = self.places.find(name, (given, split))
        if not isinstance(file, Place):
            self.missing += 1
            return file
        self.named.append((name, file.searched))
        if file.searched:
            self.folders[file.name.rpartition("/")[0]] += 1
        return Sample(file.name, file.path, given, true, split, file.stat)

    def drop_others(self) -> None:
        """Leave out what was found by the end of its name where that file is another row's:
        `b/1.png` is not `a/1.png`, though no other file is called so."""
        found = self.found
        if not any(searched for _, searched in self.named):
            return
        paths = [os.path.realpath(sample.path) for sample in found.samples]
        names: dict[str, set[str]] = {}
        for path, (name, _) in zip(paths, self.named, strict=True):
            names.setdefault(path, set()).add(name)
        lost = [
            i for i, (_, searched) in enumerate(self.named) if searched and len(names[paths[i]]) > 1
        ]
        if not lost:
            return
        for i in lost:
            why = f"no such file, but {found.samples[i].name}, which another row names"
            found.broken.append((self.named[i][0], why))
        self.missing += len(lost)
        kept = sorted({*range(len(paths))} - {*lost})
        found.samples = [found.samples[i] for i in kept]
        found.rows = [found.rows[i] for i in kept]
        found.votes = [found.votes[i] for i in kept] if found.votes else []

    def tell(self) -> None:
        """Say where the files were found, where their names alone did not lead there."""
        columns, found = self.columns, self.found
        if found.pictures is not None and len({s.name for s in found.samples}) < len(found.samples):
            rows = found.pictures.rows  # a name for each, where those of the files are none
            found.samples = [
                sample._replace(name=str(row))
                for sample, row in zip(found.samples, rows, strict=True)
            ]
        if columns and (self.folders or (self.missing and columns.file not in FILE_COLUMNS)):
            where = some_of([folder or "." for folder, _ in self.folders.most_common()], 3)
            lies = f", in {where}" if where else ""
            there = self.count - self.missing
            found.notes.append(
                f"files named by column {columns.file!r}: {there:,} of {self.count:,} rows have "
                f"one{lies}; {self.missing:,} rows have none"
            )


def _name_of(row: Row, column: str) -> str:
    """What a row calls its file; '' where it names none."""
    value = row.get(column)
    if isinstance(value, Picture):
        return value.name
    return value if isinstance(value, str) else as_text(value)  # a name may end with a space


# -------------------------------------------------------------------- what the columns are for


# Seven parameters: the reading decides, the listing is told.
def _columns_of(
    path: Path,
    rows: Sequence[Row],
    reading: Reading,
    places: Places | None,
    found: Listing,
    sure: bool,
    labelled: bool,
) -> _Columns:
    """What the columns of a list are for, by its first rows."""
    names = list(dict.fromkeys(name for row in rows[:100] for name in row))
    asked = reading.text_column if reading.text_column != NO_TEXTS else ""
    if asked:
        require_column(asked, names, path)
    pictured = [name for name in names if isinstance(_first(rows, name), Picture) and not asked]
    file = pictured[0] if pictured else ""
    if not file and places is not None and not asked:
        file = next((name for name in FILE_COLUMNS if name in names), "")
        if not file and (file := _named_as_images(rows, names)):
            found.notes.append(f"column {file!r} names the files")
        file = file or _named_by_id(rows, names, places)
        if not file:
            _refuse_images(path, rows, names, reading)
    labels: Sequence[str] = (reading.label_column,)
    twin = f"{reading.label_column} (2)"
    if twin in names and any(row.get(reading.label_column) != row.get(twin) for row in rows):
        raise BadInput(
            f"{path} has two columns {reading.label_column!r} that differ; accepted: one "
            f"(--label-column {twin!r} takes the second)"
        )
    if reading.label_column not in names:
        labels = names_of(reading.label_column)
    if not {*labels} <= {*names}:
        labels = ()
    text = asked
    if not file and not reading.text_column:
        known = {*labels, *LABEL_COLUMNS, *SAMPLE_COLUMNS, *ID_COLUMNS, "clean_label", "split"}
        text = find_texts(rows, [name for name in names if name.strip().lower() not in known])
    if not labels:
        rest = [name for name in names if name not in (file, text)]
        ours = (file or text) and reading.label_column == "label"
        guessed = _label_column(rest, sure) if ours else ""
        if not guessed and labelled:
            raise BadInput(_no_labels(path, reading.label_column, rows[0], names))
        if guessed:
            found.notes.append(f"labels: column {guessed!r} (--label-column takes another)")
        labels = (guessed,) if guessed else ()
    if text:
        what = (
            "" if asked else f" (--text-column takes another, {NO_TEXTS}: the other columns alone)"
        )
        found.notes.append(f"texts: column {text!r}{what}")
    votes = len(labels) > 1 and are_votes(rows, labels)
    split = "split" if "split" in names else ""
    return _Columns(labels, file, split, bool(pictured), votes, text)


def _first(rows: Sequence[Row], name: str) -> Any:
    """The first value of a column that is one."""
    return next((row[name] for row in rows if row.get(name) is not None), None)


def _named_as_images(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The first column with names of images, '' where there is none."""
    for name in names:
        values = [as_text(row.get(name)) for row in rows if row.get(name) not in (None, "")]
        if 2 * sum(suffix_of(value) in SUFFIXES for value in values) > len(values):
            return name
    return ""


def _named_by_id(rows: Sequence[Row], names: Sequence[str], places: Places) -> str:
    """The column whose values are names of files below the folder, without their suffix, of most
    rows; '' where there is none.

    Numbers that happen to be names of files, as ages may, are told from ids by hardly any being
    there twice.
    """
    best, column = 0.0, ""
    for name in names:
        values = [as_text(row.get(name)) for row in rows if not isinstance(row.get(name), Picture)]
        values = [value for value in values if value]
        distinct = dict.fromkeys(values)
        hinted = bool(_words(name) & _OF_IDS)
        numbers = all(value.lstrip("+-").replace(".", "", 1).isdecimal() for value in distinct)
        if numbers and not all(value.isdecimal() for value in distinct):
            continue  # measured
        several = 0.5 if hinted and numbers else 0.9 if numbers else 0.2
        if not values or len(distinct) < several * len(values):
            continue
        there = sum(places.has(value) for value in distinct) / len(distinct)
        if there > best and there >= (0.05 if hinted or not numbers else 0.5):
            best, column = there, name
    return column


def _refuse_images(path: Path, rows: Sequence[Row], names: Sequence[str], reading: Reading) -> None:
    """BadInput for a column that is called one of images, and whose files are nowhere: learning
    from the other columns is not what was meant."""
    for name in names:
        values = [as_text(row.get(name)) for row in rows if row.get(name) not in (None, "")]
        words = not any(to_number(value) is not None or " " in value for value in values)
        different = 2 * len({*values}) > len(values) > 1
        if _words(name) & _OF_IMAGES and words and different:
            where = reading.image_folder or path.parent
            raise BadInput(
                f"column {name!r} of {path} looks like names of images ({some_of(values, 2)}), "
                f"none of which lies below {where}: --image-folder says where they lie, "
                "--image-folder none learns from the other columns"
            )


def _words(name: str) -> set[str]:
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return {word for word in re.split(r"[\W_]+", parted.lower()) if word}


def _label_column(names: Sequence[str], sure: bool) -> str:
    """The column among these that has the labels of a list, where none is called label; '' where
    that can't be told."""
    others = [name for name in names if name not in ("clean_label", "split", "")]
    folded = {name.strip().lower(): name for name in reversed(others)}
    for known in LABEL_COLUMNS:
        if known in folded:
            return folded[known]
    called = [name for name in others if {"label", "class"} & _words(name)]
    if len(called) == 1:
        return called[0]
    rest = [name for name in others if not _words(name) & {"id", "index", "unnamed"}]
    return rest[0] if len(rest) == 1 and not called and not sure else ""


def _label_of(row: Row, of: _Columns) -> str:
    """The label of a row, in its column or by the one of several columns that is 1; '' without, and
    of several annotators."""
    columns = of.labels
    if of.votes or not columns:
        return ""
    if len(columns) == 1:
        return label_text(row.get(columns[0]))
    text = one_hot_text([as_text(row.get(name)) or 0 for name in columns], columns)
    if text is None:
        raise Unclear(f"not a single 1 in the columns {some_of(columns)}")
    return text


def _no_labels(
    path: Path, label_column: str, row: Mapping[str, Any], columns: Sequence[str]
) -> str:
    has = some_of([repr(name) for name in columns], 20)
    hint = ""
    marks = [name for name in columns if as_text(row.get(name)) in ("0", "1")]
    if sum(to_number(name) is not None for name in columns) > len(columns) / 2:
        hint = "; the first line must name the columns, and here it looks like numbers"
    elif len(marks) > 1 and [as_text(row.get(name)) for name in marks].count("1") == 1:
        hint = f"; a column for each class is given as --label-column {','.join(marks)[:200]}"
    elif likely := _label_column(columns, sure=True):
        hint = f"; it may be --label-column {likely}"
    return (
        f"{path} has no column of the labels ({label_column!r}; --label-column); its columns: "
        f"{has}{hint}"
    )


ID_COLUMNS = ("id", "", "index", "unnamed: 0")  # the last three are those of pandas' row numbers
_ROW_NUMBERS = re.compile(r"|level_\d|unnamed: \d+(\.\d+)*")  # as pandas calls them in each saving


def take_names(cells: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Take the columns out of a table that name its samples, which nothing is to be learned from:
    ids and numbers of rows.  The names, none where each value is not another one, and lines to
    tell."""
    folded = {name: name.strip().lower() for name in cells}
    ids = [name for name in cells if folded[name] in ID_COLUMNS]
    ids.sort(key=lambda name: folded[name] != "id")
    counted = [name for name in cells if _ROW_NUMBERS.fullmatch(folded[name])]
    notes: list[str] = []
    names: list[str] = []
    if ids:
        names = [as_text(cell) for cell in cells[ids[0]]]
        if "" in names or len(set(names)) < len(names):
            notes.append(f"column {ids[0]!r} names no sample: it has the same value twice, or none")
            names = []
    rest = [name for name in counted if name not in ids[:1]]
    if rest:
        notes.append(f"columns left out, numbers of rows: {some_of([repr(name) for name in rest])}")
    for name in {*ids[:1], *counted}:
        cells.pop(name)
    return names, notes


def _make_table(found: Listing, cells: dict[str, list[Any]], columns: _Columns) -> None:
    """What a table's columns are for: names, labels, or to learn from."""
    if columns.text:
        found.text_column, found.texts = columns.text, as_texts(cells.pop(columns.text))
    names, notes = take_names(cells)
    found.notes += notes
    if names:
        named = zip(found.samples, names, strict=True)
        found.samples = [sample._replace(name=name) for sample, name in named]
    for name in (*columns.labels, "clean_label", "split"):
        cells.pop(name, None)
    labels = [
        name for name in cells if {"label", "labels"} & set(re.split(r"[\W_]+", name.lower()))
    ]
    if labels:
        found.notes.append(f"columns left out, called labels: {some_of(labels)}")
    found.columns = {name: column for name, column in cells.items() if name not in labels}


def _without_empty(found: Listing, texts: Sequence[str], alone: bool) -> None:
    """Leave samples out that have no text and nothing else, and tell how many have none."""
    empty = [i for i, text in enumerate(texts) if not text and found.samples[i].given]
    if not empty:
        return
    if not alone:
        found.notes.append(f"without a text: {len(empty):,} samples, of their other columns alone")
        return
    for i in empty:
        found.broken.append((found.samples[i].name, NO_TEXT))
        found.samples[i] = found.samples[i]._replace(given="")
    found.notes.append(f"without a text and left out: {len(empty):,} samples")
