"""People's tables as people have them: one reader for lists, tables and decisions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apl
from apl.data.decisions import read_labels
from apl.data.rows import read_rows
from apl.errors import BadInput

HEAD, ROWS = "file_name,label,note", ["a.png,cat,", "b.png,dog,far", '"c,c.png",cat,']


def sheet(path: Path, text: str | bytes, names: tuple[str, ...] = ("label",)) -> list[Any]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_rows(path, names).rows)


def cells(found: list[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) if isinstance(row, dict) else row for _, row in found]


PLAIN = [("a.png", "cat", ""), ("b.png", "dog", "far"), ("c,c.png", "cat", "")]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join([HEAD, *ROWS]),
        "\n".join([f"{HEAD},", *(f"{row}," for row in ROWS)]),
        "\n".join([HEAD, *(f"{row}," for row in ROWS)]),
        "\n".join([f"{HEAD},,", *ROWS]),
        "\n".join([f"{HEAD},", *ROWS[:2], f"{ROWS[2]},,,"]),
        "\n".join(["# made by hand, 2024", "#", HEAD, *ROWS]),
        "\n".join(["", "# with one, two, three", "", HEAD, "", *ROWS, ",,", "  ,", ""]),
        "\n".join([f"#{HEAD}", *ROWS]),
        "\n".join(["# a comment", f"# {HEAD}", *ROWS]),
        "\n".join(["sep=,", HEAD, *ROWS]),
        "\r\n".join(['"sep=,"', HEAD, *ROWS]),
        "\ufeffsep=,\r\n" + "\r\n".join([HEAD, *ROWS]),
        "SEP=;\n" + "\n".join([HEAD, *ROWS]).replace(",", ";").replace("c;c", "c,c"),
        "\n".join([HEAD, *ROWS]).replace(",", ";").replace("c;c", "c,c"),
        "\n".join([HEAD, *ROWS]).replace(",", "|").replace("c|c", "c,c"),
        "\n".join([HEAD, *ROWS]).replace(",", "\t").replace("c\tc", "c,c"),
        "sep=^\n" + "\n".join([HEAD, *ROWS]).replace(",", "^").replace("c^c", "c,c"),
        "\n".join([HEAD, *ROWS]).replace(",", ", ").replace("c, c", "c,c"),
        "\r".join([HEAD, *ROWS]),
        "\n".join([HEAD, *ROWS]).encode("utf-16"),
        "\n".join([HEAD, *ROWS]).replace(",", "\t").replace("c\tc", "c,c").encode("utf-16"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_a_csv_as_people_have_it(tmp_path: Path, text: str | bytes, suffix: str) -> None:
    found = sheet(tmp_path / f"my{suffix}", text)
    assert cells(found) == PLAIN
    assert list(found[0][1]) == ["file_name", "label", "note"]


def test_a_column_that_nobody_named_stays_where_it_holds_something(tmp_path: Path) -> None:
    found = sheet(tmp_path / "my.csv", "file_name,label,\na.png,cat,\nb.png,dog,far\n")
    assert [row[""] for _, row in found] == ["", "far"]
    first = sheet(tmp_path / "my.csv", ",x,label\n0,1,a\n1,2,b\n")  # as pandas writes its index
    assert [row[""] for _, row in first] == ["0", "1"]


def test_a_column_may_be_called_by_a_hash(tmp_path: Path) -> None:
    found = sheet(tmp_path / "my.csv", "#,file_name,label\n1,a.png,cat\n")
    assert found == [(2, {"#": "1", "file_name": "a.png", "label": "cat"})]
    # A file may be called so as well: only what stands before the columns is a comment.
    found = sheet(tmp_path / "my.csv", "file_name,label\n#1.png,cat\n")
    assert cells(found) == [("#1.png", "cat")]


def test_cells_that_are_too_many_or_too_few_are_told_by_their_line(tmp_path: Path) -> None:
    text = '# one\nfile_name,label\n"two\nlines.png",cat\nb.png\n\nc.png,cat,more\n'
    assert sheet(tmp_path / "my.csv", text) == [
        (3, {"file_name": "two\nlines.png", "label": "cat"}),
        (5, "1 cells under 2 columns"),
        (7, "3 cells under 2 columns"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name, first;label\nBob, X;cat\nAnn, Y;dog\n", [("Bob, X", "cat"), ("Ann, Y", "dog")]),
        ("x;label\n1,5;cat\n2,5;dog\n", [("1,5", "cat"), ("2,5", "dog")]),
        ("text\tlabel\na, b, c | d\tcat\ne; f\tdog\n", [("a, b, c | d", "cat"), ("e; f", "dog")]),
        ('"a;b;c",label\n1,cat\n', [("1", "cat")]),
        ("label\ncat\n", [("cat",)]),
    ],
)
def test_what_parts_the_cells(tmp_path: Path, text: str, expected: list[Any]) -> None:
    assert cells(sheet(tmp_path / "my.csv", text)) == expected


def test_semicolons_bring_decimal_commas(tmp_path: Path) -> None:
    for text, decimal in (("x;label\n", ","), ("sep=;\nx;label\n", ","), ("x,label\n", ".")):
        (tmp_path / "my.csv").write_text(text)
        assert read_rows(tmp_path / "my.csv", ("label",)).decimal == decimal


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n# comments\n", "sep=;\n", "\ufeff"])
def test_nothing_in_a_csv(tmp_path: Path, text: str) -> None:
    assert sheet(tmp_path / "my.csv", text) == []


def test_json_in_both_forms(tmp_path: Path) -> None:
    rows = [{"x": 1, "label": "a\u2028b"}, {"x": None, "late": [1]}]
    lines = "\ufeff" + "\r\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert [row for _, row in sheet(tmp_path / "my.jsonl", lines)] == rows
    assert sheet(tmp_path / "my.json", json.dumps(rows)) == [(1, rows[0]), (2, rows[1])]
    mixed = sheet(tmp_path / "my.jsonl", '{"x": 1}\n[1]\nnonsense\n')
    assert mixed == [(1, {"x": 1}), (2, "no JSON object"), (3, "no JSON object")]
    assert sheet(tmp_path / "my.json", "[1]") == [(1, "no JSON object")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("my.csv", b"file_name,label\na.png,cat\nb.png,\xe9\n", r"is not UTF-8 \(line 3: .*0xe9"),
        ("my.jsonl", b'{"x": "\xff"}', r"is not UTF-8 \(line 1"),
        ("my.csv", b"\xff\xfea\x00b", r"is not UTF-8"),
        ("my.json", "{}", "holds no list; accepted: a JSON list with an object a row"),
        ("my.json", "nonsense", "is no JSON"),
        ("my.json", "[" * 100_000, "is no JSON"),
        ("my.csv", "file_name,label\n" + "x" * 200_000 + ",cat\n", r"is no CSV \(line 2: field"),
    ],
)
def test_what_can_t_be_read_is_said_in_one_line(
    tmp_path: Path, name: str, text: str | bytes, said: str
) -> None:
    with pytest.raises(BadInput, match=said) as error:
        sheet(tmp_path / name, text)
    assert "\n" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none.csv can't be read \(No such file"):
        read_rows(tmp_path / "none.csv")


DIALECTS: dict[str, Callable[[str], str]] = {
    "commas at the end": lambda text: text.replace("\n", ",\n"),
    "commas at the rows' ends": lambda text: text.replace("\n", ",\n").replace(",\n", "\n", 1),
    "comment": lambda text: "# from the lab, May\n" + text,
    "sep": lambda text: "sep=;\n" + text.replace(",", ";"),
    "bars": lambda text: text.replace(",", "|"),
    "hash": lambda text: "# " + text,
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_lists_tables_and_decisions_are_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    change = DIALECTS[dialect]
    table = "x,label\n" + "".join(f"{i * i},{'ab'[i % 2]}\n" for i in range(10))
    (tmp_path / "table.csv").write_text(change(table))
    data = apl.load_data(tmp_path / "table.csv", say=lambda line: None)
    assert (data.class_names, len(data.train), data.train.images.shape[1]) == (("a", "b"), 8, 1)
    decisions = "file_name,label\n0,dog\n2,dog\n"
    (tmp_path / "decisions.csv").write_text(change(decisions))
    found = read_labels(tmp_path / "decisions.csv", np.zeros(3, np.int64), ("cat", "dog"))
    assert found.labels.tolist() == [1, 0, 1]


def test_decisions_as_rows_of_json_and_parquet(tmp_path: Path) -> None:
    rows = [{"id": 0, "label": "dog", "decision": ""}, {"id": 2, "label": None, "decision": "drop"}]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = [tmp_path / "my.jsonl"]
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        pass
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "my.parquet")
        files.append(tmp_path / "my.parquet")
    for file in files:
        found = read_labels(file, np.zeros(3, np.int64), ("cat", "dog"))
        assert (found.labels.tolist(), found.keep.tolist()) == ([1, 0, 0], [True, True, False])


def test_a_list_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rows = [{"x": i * i, "label": "ab"[i % 2]} for i in range(10)]
    (tmp_path / "my.json").write_text(json.dumps(rows))
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    one, other = (
        apl.load_data(tmp_path / name, say=lambda line: None) for name in ("my.json", "my.jsonl")
    )
    assert one.digest == other.digest
