"""People's tables as rows: CSV in its dialects, JSON, JSON lines, Parquet.

Lists of files, tables to learn from and decisions about labels are all read here.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apl.data.formats import hint_of
from apl.data.pictures import parquet_changed, parquet_rows
from apl.errors import BadInput, one_line

Row = dict[str, Any]  # cells by column: text of a CSV, else whatever the file holds
Rows = Iterator[tuple[int, Row | str]]


class Sheet(NamedTuple):
    """The rows of a file in their order, each with the line where it begins (its number, from 1, in
    a .json or .parquet): the row, or in words what is wrong with it.  decimal: where the fraction
    of a number begins, ',' in a file that semicolons part; columns, delimiter: of a CSV; notes:
    lines to tell."""

    rows: Rows
    decimal: str = "."
    columns: Sequence[str] = ()
    delimiter: str = ","
    notes: Sequence[str] = ()


def read_rows(path: Path, names: Collection[str] = ()) -> Sheet:
    """What a .jsonl, a .json, a .parquet, or else a CSV (.csv, .tsv) holds.

    A CSV's cells are parted by commas, semicolons, tabs or bars, and a line names the columns; or
    by blanks, in a file with a column that is looked for.  Where each row has a cell more than that
    line, the rows' names come first, as R writes them, in a column ''.
    Before it may stand a mark of UTF-8 or UTF-16, Excel's `sep=;`, empty lines, and lines that
    begin with a hash.  Columns of one name become `x` and `x (2)`.  Empty cells beyond the columns
    are none, as a comma at each row's end makes them, and rows of empty cells are none either.
    names: columns that the caller looks for; a line with a hash that has one of them is the line
    of the columns.

    Raises BadInput where the file as a whole can't be read, some of it while the rows are.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        return Sheet(_parquet_rows(path))
    text = _text(path)
    if kind == ".jsonl":
        return Sheet(_json_lines(text))
    if kind == ".json":
        return Sheet(_json_rows(path, text))
    return _csv_sheet(path, text, names)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} can't be read ({error.strerror})") from None
    what = hint_of(content)
    if what:
        raise BadInput(f"{path} is no text, but {what}")
    for first, coding in enumerate(("utf-16-be", "utf-16-le")):  # without a mark
        if content[first:200:2].count(0) > 40 and not content[1 - first : 200 : 2].count(0):
            content = content.decode(coding, "replace").encode()
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # "Unicode text"
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")  # Excel begins with a mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput(
            f"{path} is not UTF-8 (line {line}: {one_line(error)}): save it as UTF-8, in a "
            "spreadsheet as 'CSV UTF-8'"
        ) from None


# ------------------------------------------------------------------------------------------ CSV

DELIMITERS = ",;\t|"
BLANK = " "  # of R's write.table; in any other file it is part of a text
_FIRST = "the first is the row's name"
_SEP = re.compile(r'"?sep=(.)"?[,;\t|]*(\r\n?|\n|$)', re.IGNORECASE)
_LOOKED_AT = 100  # rows that tell what parts the cells

Lines = Iterator[tuple[int, list[str]]]  # where a row begins, and its cells


def _csv_sheet(path: Path, text: str, names: Collection[str]) -> Sheet:
    first = 1
    said = _SEP.match(text)
    if said:
        text, first, delimiter = text[said.end() :], 2, said[1]
    else:
        delimiter = max(DELIMITERS, key=lambda each: _fit(text, each, names))
        if not _fit(text, delimiter, names)[0] and _fit(text, BLANK, names)[:2] == (True, 1.0):
            delimiter = BLANK
    lines = _lines(path, text, delimiter, first)
    columns = _head(lines, names)
    notes = []
    lines, with_names = _with_names(lines, len(columns))
    if with_names:
        columns.insert(0, "")
        notes.append(f"each row has a cell more than the line of the columns: {_FIRST}")
    if columns and not columns[-1]:  # a comma at the end, or a column that nobody named
        known = list(lines)
        lines = iter(known)
        while columns and not columns[-1] and all(_is_blank(c, len(columns)) for _, c in known):
            columns.pop()
    names = different(columns)
    decimal = "," if delimiter == ";" else "."
    return Sheet(_fitted(lines, names, columns), decimal, names, delimiter, notes)


def _with_names(lines: Lines, columns: int) -> tuple[Lines, bool]:
    """The lines again, and whether each row has one cell more than there are columns, the last of
    them not empty in some row."""
    head = list(itertools.islice(lines, 1))
    if not head or columns < 1 or len(head[0][1]) != columns + 1:
        return itertools.chain(head, lines), False
    known = [*head, *lines]
    filled = [cells for _, cells in known if any(map(str.strip, cells))]
    more = all(len(cells) == columns + 1 for cells in filled)
    return iter(known), more and any(cells[-1].strip() for cells in filled)


def _fit(text: str, delimiter: str, names: Collection[str]) -> tuple[bool, float, int]:
    """How well a delimiter parts the first rows: whether it makes a column that is looked for, of
    how many rows it makes as many cells as there are columns, and how many columns."""
    lines = itertools.islice(_lines(Path(), text, delimiter, 1), _LOOKED_AT)
    try:
        columns = _head(lines, names)
        rows = [len(cells) >= len(columns) for _, cells in lines if any(cells)]
    except BadInput:
        return False, 0.0, 0
    if len(columns) < 2:  # then any row fits
        return False, 0.0, 0
    share = sum(rows) / len(rows) if rows else 1.0
    return not {*names}.isdisjoint(columns), share, len(columns)


def _lines(path: Path, text: str, delimiter: str, first: int) -> Lines:
    """The cells of each row, and the line where it begins; the text's first one has that number."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    begin = last = first
    try:
        for cells in reader:
            last = begin
            yield begin, cells
            begin = first + reader.line_num
    except csv.Error as error:
        raise BadInput(f"{path} is no CSV (line {begin}: {one_line(error)})") from None
    if reader.line_num > last + 1 - first:  # a row of several lines, to the end of the file
        _require_closed(path, text, delimiter, last, first)


def _require_closed(path: Path, text: str, delimiter: str, begin: int, first: int) -> None:
    """BadInput where the last row's quote is never closed, so that it swallows what follows."""
    rest = itertools.islice(io.StringIO(text, newline=""), begin - first, None)
    rows = csv.reader(rest, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for _ in rows:
            pass
    except csv.Error as error:
        if "end of data" in str(error):
            raise BadInput(
                f"{path} has a quote in line {begin} that is never closed, so all lines behind it "
                "are one cell: close it, or write it twice"
            ) from None


def _head(lines: Lines, names: Collection[str]) -> list[str]:
    """The names of the columns; the lines before them and their own are taken."""
    for _, cells in lines:
        columns = [cell.strip() for cell in cells]
        if columns and columns[0].startswith("#"):
            columns[0] = columns[0].lstrip("#").strip() or "#"
            if {*names}.isdisjoint(columns):
                continue  # a comment
        if any(columns):
            return columns
    return []


def _is_blank(cells: Sequence[str], place: int) -> bool:
    """Whether nothing stands in the cell of that place, from 1."""
    return len(cells) < place or not cells[place - 1].strip()


def _fitted(lines: Lines, names: Sequence[str], head: Sequence[str]) -> Rows:
    for number, cells in lines:
        if not any(map(str.strip, cells)):
            continue
        if len(names) > 1 and [cell.strip() for cell in cells] == head:
            yield number, "the names of the columns once more"
            continue
        while len(cells) > len(names) and not cells[-1].strip():
            cells.pop()
        if len(cells) == len(names):
            yield number, dict(zip(names, cells, strict=True))
        else:
            yield number, f"{len(cells)} cells under {len(names)} columns"


def different(names: Sequence[str]) -> list[str]:
    """The names of columns, the second `x` as `x (2)`."""
    counts: Counter[str] = Counter()
    named = []
    for name in names:
        counts[name] += 1
        named.append(f"{name} ({counts[name]})" if counts[name] > 1 else name)
    return named


# ---------------------------------------------------------------------------------- with changes

Changes = Mapping[int, Mapping[str, str] | None]


def changed(path: Path, changes: Changes, names: Collection[str] = ()) -> bytes:
    """A file of rows with some of them changed; whatever is not changed stands as it stood, of a
    CSV to the byte.

    changes: by the number of a row, as `read_rows` has it, its new cells by column, None to leave
    the row out; names: as for `read_rows`.  A number stays a number in what knows numbers.
    Raises BadInput where the file can't be read.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        return parquet_changed(path, changes)
    if kind == ".json":
        rows = [
            _with(row, changes.get(number, {})) for number, row in _json_rows(path, _text(path))
        ]
        kept = [row for row in rows if row is not None]
        return (json.dumps(kept, ensure_ascii=False, indent=1) + "\n").encode()
    text = _text(path)
    if kind == ".jsonl":
        lines = text.split("\n")
        for number, change in changes.items():
            row = _with(json.loads(lines[number - 1]), change)
            lines[number - 1] = "" if row is None else json.dumps(row, ensure_ascii=False)
        gone = {number - 1 for number, change in changes.items() if change is None}
        written = "\n".join(line for i, line in enumerate(lines) if i not in gone)
    else:
        written = _csv_changed(path, text, changes, names)
    start = path.read_bytes()[:3]
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return written.encode("utf-16")
    return (codecs.BOM_UTF8 if start == codecs.BOM_UTF8 else b"") + written.encode()


def _with(row: Row | str, change: Mapping[str, str] | None) -> Row | str | None:
    if change is None or isinstance(row, str):
        return None if change is None else row
    return {**row, **{name: _as(row.get(name), text) for name, text in change.items()}}


def _as(old: Any, text: str) -> Any:
    """A new cell of the kind of the one in whose place it stands."""
    if isinstance(old, int | float) and not isinstance(old, bool):
        with contextlib.suppress(ValueError):
            return type(old)(text)
    return text


def _csv_changed(path: Path, text: str, changes: Changes, names: Collection[str]) -> str:
    sheet = _csv_sheet(path, text, names)
    said = _SEP.match(text)
    lines = list(io.StringIO(text, newline=""))
    first = 2 if said else 1
    body = text[said.end() :] if said else text
    begins = [number for number, _ in _lines(path, body, sheet.delimiter, first)]
    ends = [*begins[1:], len(lines) + 1]
    written = [*lines[: begins[0] - 1]] if begins else lines
    for begin, end in zip(begins, ends, strict=True):
        row = "".join(lines[begin - 1 : end - 1])
        change = changes.get(begin, {})
        if change is None:
            continue
        if change:
            bare = row.rstrip("\r\n")
            alone = io.StringIO(bare, newline="")
            cells = next(csv.reader(alone, delimiter=sheet.delimiter, skipinitialspace=True))
            for name, cell in change.items():
                cells[list(sheet.columns).index(name)] = cell
            out = io.StringIO()
            csv.writer(out, delimiter=sheet.delimiter).writerow(cells)  # and \r\n
            row = out.getvalue()[:-2] + row[len(bare) :]
        written.append(row)
    return "".join(written)


# ------------------------------------------------------------------------------ JSON and Parquet


def _json_lines(text: str) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):  # others than \n may stand in a text
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield number, row if isinstance(row, dict) else "no JSON object"


def _json_rows(path: Path, text: str) -> Rows:
    try:
        rows = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no JSON ({one_line(error)})") from None
    if not isinstance(rows, list):
        raise BadInput(f"{path} holds no list; accepted: a JSON list with an object a row")
    for number, row in enumerate(rows, 1):
        yield number, row if isinstance(row, dict) else "no JSON object"


def _parquet_rows(path: Path) -> Rows:
    yield from enumerate(parquet_rows(path), 1)
