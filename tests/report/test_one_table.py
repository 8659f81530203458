"""A table is the same whichever way it is written."""

from __future__ import annotations

import csv
import io
import re
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.markdown import Markdown
from test_terminal import lines_of

from apl.report.tables import Cell, Table, bands


def wide(keys: int) -> Table:
    """Two rows of twelve figures, and of as many names as that."""
    head = [*("Method", "Noise")[:keys], *(f"noise {k}" for k in range(12))]
    rows = [
        [Cell(text) for text in (*(f"a|{n}*b", f"sym 0.{n}")[:keys], *figures)]
        for n in range(2)
        for figures in [[f"{k}{n}.34 ± 0.56" for k in range(12)]]
    ]
    return Table("figures", head, rows, keys=keys)


def printed(shown: object, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    return lines_of(console.file.getvalue())


def parts(line: str) -> list[str]:
    """The cells of a line of Markdown."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("keys", [1, 2])
def test_markdown_is_folded_by_columns_and_loses_nothing(keys: int) -> None:
    table = wide(keys)
    whole = table.markdown().splitlines()
    assert len(whole) == 4
    assert len({*map(len, whole)}) == 1  # they line up
    assert table.markdown(300) == table.markdown(len(whole[0])) == table.markdown()
    folded = [block.splitlines() for block in table.markdown(80).split("\n\n")]
    assert len(folded) > 2
    for block in folded:
        assert max(map(len, block)) <= 80
        assert [parts(line)[:keys] for line in block] == [parts(line)[:keys] for line in whole]
    for k, line in enumerate(whole):
        found = [cell for block in folded for cell in parts(block[k])[keys:]]
        assert found == parts(line)[keys:]
    shown = "\n".join(printed(Markdown(table.markdown(80))))
    assert shown.count("±") == 24
    assert all(f"{k}{n}.34 ± 0.56" in shown for k in range(12) for n in range(2))
    assert "a|0*b" in shown


def test_the_best_are_bold_and_what_is_below_stands_in_brackets() -> None:
    rows = [[Cell("CE"), Cell("1.00", 1.0, best=True)], [Cell("a_b"), Cell("2.00", 2.0, "3.00")]]
    lines = Table("x", ["Method", "Here,\nlast epoch"], rows, ["a note"]).markdown().splitlines()
    assert lines[0].split() == ["|", "Method", "|", "Here,", "last", "epoch", "|"]
    assert re.fullmatch(r"\| :-+ \| -+: \|", lines[1])
    assert parts(lines[2]) == ["CE", "**1.00**"]
    assert parts(lines[3]) == [r"a\_b", "2.00 (3.00)"]


def test_csv_reads_back_and_latex_needs_no_package() -> None:
    best = Cell("46.57 ± 0.37", 46.57, "79.78 ± 0.13¹", best=True)
    row = [Cell("nfl~rce^2"), Cell("sym"), best, Cell("a, b & c_d <e>")]
    table = Table("Of 50 %\\ {x}", ["Method", "Noise", "a\nb", "x"], [row], keys=2)
    assert list(csv.reader(io.StringIO(table.csv))) == [
        ["Method", "Noise", "a b", "x"],
        ["nfl~rce^2", "sym", "46.57 ± 0.37 (79.78 ± 0.13¹)", "a, b & c_d <e>"],
    ]
    latex = table.latex
    assert "\\caption{Of 50 \\%\\textbackslash{} \\{x\\}}" in latex
    assert "\\begin{tabular}{llrr}" in latex
    pm = "\\ensuremath{\\pm}"
    told = f"\\textbf{{46.57 {pm} 0.37 (79.78 {pm} 0.13\\ensuremath{{^1}})}} & a, b \\& c\\_d"
    assert told in latex
    assert "nfl\\textasciitilde{}rce\\textasciicircum{}2 & sym & " in latex
    joined = table.joined
    assert joined.head == ["Method", "a\nb", "x"]
    assert joined.rows == [[Cell("nfl~rce^2, sym"), *row[2:]]]
    assert "\\begin{tabular}{lrr}" in joined.latex
    assert joined.joined == joined


@pytest.mark.parametrize("look", ["framed", "open", "close"])
def test_in_a_terminal_nothing_is_cut_and_no_name_is_markup(
    look: Literal["framed", "open", "close"],
) -> None:
    path = "/a/" + 100 * "b"
    rows = [
        [Cell("[red]x[/]"), Cell(path, below="[bold]below")],
        [Cell("y"), Cell("", style="dim")],
    ]
    table = Table("[i]caption", ["[b]name", "what\nit is"], rows, words=True)
    lines = printed(table.rich(look, unbroken=True, narrowest=12))
    told = "\n".join(lines)
    for text in ("[red]x[/]", "[bold]below", "[i]caption", "[b]name", "it is"):
        assert text in told
    assert sum(line.count("b") for line in lines) == 100 + "[bold]below [b]name".count("b")
    assert ("│" in told) == (look == "framed")
    bare = printed(Table("", [], rows).rich(look))
    assert "caption" not in "".join(bare)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 100))
def test_bands_fit_the_room_and_are_no_more_than_needed(widths: list[int], room: int) -> None:
    found = bands(widths, room)
    assert [place for band in found for place in band] == list(range(len(widths)))
    assert all(band for band in found) or not widths
    for band in found:
        assert sum(widths[k] for k in band) <= room or len(band) == 1
    for one, other in pairwise(found):
        along = other[:2] if other is found[-1] and len(other) == 2 else other[:1]
        assert sum(widths[k] for k in [*one, *along]) > room
