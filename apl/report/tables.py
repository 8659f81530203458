"""A table as a value, and each way to write it: for a terminal, as Markdown, CSV and LaTeX.

The page writes it by `page.jinja`.  Whatever is told in rows and columns is such a table, and none
of those who tell it lays it out.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Cell:
    """A cell: text, what to sort it by, a second line, a share (0 to 1) that colours it, whether it
    is the best of its column, a verdict to mark it with, and the style it has in a terminal."""

    text: str
    order: float | None = None
    below: str = ""
    heat: float | None = None
    best: bool = False
    verdict: str = ""
    style: str = ""

    @property
    def whole(self) -> str:
        """Both lines in one."""
        return f"{self.text} ({self.below})" if self.below else self.text


@dataclass(frozen=True)
class Table:
    """A table: what it is of, headings (none where it has no need of them), rows of cells, and
    notes to stand below.

    words: cells of words stand to the left, those of numbers to the right.
    keys: how many cells of a row, from the left, say what the row is of.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    words: bool = False
    keys: int = 1

    @property
    def joined(self) -> Table:
        """The same with one cell at the left of each row: 'CE, sym 0.4' for 'CE', 'sym 0.4'."""
        rows = [
            [Cell(", ".join(cell.text for cell in row[: self.keys])), *row[self.keys :]]
            for row in self.rows
        ]
        head = [*self.head[:1], *self.head[self.keys :]]
        return dataclasses.replace(self, head=head, rows=rows, keys=1)

    @property
    def csv(self) -> str:
        """As CSV, the headings first."""
        text = io.StringIO()
        lines = [[_line(name) for name in self.head]]
        lines += [[cell.whole for cell in row] for row in self.rows]
        csv.writer(text, lineterminator="\n").writerows(lines)
        return text.getvalue()

    @property
    def latex(self) -> str:
        """As LaTeX that needs no package, the best of each column in bold."""
        told = ["l" if self.words or k < self.keys else "r" for k in range(len(self.head))]
        lines = [
            "\\begin{table}",
            f"\\caption{{{_latex(self.caption)}}}",
            f"\\begin{{tabular}}{{{''.join(told)}}}",
            "\\hline",
            " & ".join(map(_latex, self.head)) + " \\\\",
            "\\hline",
        ]
        for row in self.rows:
            texts = [_latex(cell.whole) for cell in row]
            texts = [
                f"\\textbf{{{text}}}" if cell.best else text
                for text, cell in zip(texts, row, strict=True)
            ]
            lines.append(" & ".join(texts) + " \\\\")
        return "\n".join([*lines, "\\hline", "\\end{tabular}", "\\end{table}", ""])

    def markdown(self, width: float = math.inf) -> str:
        """As Markdown that lines up as text too, the best of each column in bold; the caption and
        the notes are the reader's to place.

        Where it is wider than `width` it stands as several, one below the other, each of which
        begins with the keys.
        """
        texts = [[escape(_line(name)) for name in self.head]]
        texts += [[_bold(escape(cell.whole), cell.best) for cell in row] for row in self.rows]
        from rich.cells import cell_len

        widths = [max(map(cell_len, column)) for column in zip(*texts, strict=True)]
        rule = [
            f"{'-' if k else ':'}{'-' * (wide - 2)}{':' if k else '-'}"
            for k, wide in enumerate(widths)
        ]
        texts.insert(1, rule)
        keys = list(range(self.keys))
        room = width - 1 - sum(3 + widths[k] for k in keys)
        parts = []
        for band in bands([3 + wide for wide in widths[self.keys :]], room):
            columns = keys + [self.keys + k for k in band]
            lines = [
                " | ".join(row[k] + " " * (widths[k] - cell_len(row[k])) for k in columns)
                for row in texts
            ]
            parts.append("\n".join(f"| {line} |" for line in lines))
        return "\n\n".join(parts)

    def rich(
        self,
        look: Literal["framed", "open", "close"] = "framed",
        *,
        unbroken: bool = False,
        narrowest: int | None = None,
    ) -> RichTable:
        """For a terminal, by rich; no cell is cut where there is no room for it, it is folded.

        look: in a frame, without one, or also with columns so close that ten figures and a name
        fit 80 columns; unbroken: the first cell of a row is not folded; narrowest: a width that
        the other columns have at least.
        """
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        made = RichTable(
            title=Text(self.caption, "table.title") if self.caption else None,
            show_header=bool(self.head),
            box=box.HEAVY_HEAD if look == "framed" else box.SIMPLE,
            padding=0 if look == "close" else (0, 1),
        )
        for k in range(max(map(len, (self.head, *self.rows)))):
            made.add_column(
                Text(self.head[k] if self.head else ""),
                justify="left" if self.words or k < self.keys else "right",
                no_wrap=unbroken and k == 0,
                overflow="fold",
                min_width=narrowest if k else None,
            )
        for row in self.rows:
            made.add_row(*map(_rich, row))
        return made


def bands(widths: Sequence[int], room: float) -> list[list[int]]:
    """Columns of these widths, by their place, in as many groups as it takes for each to fit the
    room; at least one column in each.  A last one that would stand alone takes along the one before
    it, which it may belong to."""
    found: list[list[int]] = [[]]
    used = 0.0
    for place, width in enumerate(widths):
        if found[-1] and used + width > room:
            found.append([])
            used = 0.0
        found[-1].append(place)
        used += width
    if len(found) > 1 and len(found[-1]) == 1 and len(found[-2]) > 2:
        last = found[-2][-1]
        if widths[last] + used <= room:
            found[-1].insert(0, found[-2].pop())
    return found


def shortened(text: str, room: int) -> str:
    """A text that takes so many cells of a terminal at most, of a longer one without its middle.

    Wide letters take two cells, and no sign is parted from the letter that it belongs to.
    """
    from rich.cells import cell_len

    if cell_len(text) <= room:
        return text
    begin, end = [""], [""]
    for part in _letters(text):
        begin.append(begin[-1] + part)
    for part in reversed(_letters(text)):
        end.append(part + end[-1])
    left = room - 1
    first = next(each for each in reversed(begin) if cell_len(each) <= (left + 1) // 2)
    last = next(each for each in reversed(end) if cell_len(first) + cell_len(each) <= left)
    return f"{first}…{last}"


def _letters(text: str) -> list[str]:
    """A text in pieces that are not parted: a letter with the signs on it, what a joiner joins."""
    found: list[str] = []
    for sign in text:
        belongs = unicodedata.category(sign)[0] == "M" or sign in "\u200c\u200d"
        joined = bool(found) and found[-1].endswith("\u200d")
        if found and (belongs or joined or "\U0001f3fb" <= sign <= "\U0001f3ff"):
            found[-1] += sign
        else:
            found.append(sign)
    return found


def _line(text: str) -> str:
    return " ".join(text.split())


def escape(text: str) -> str:
    """The text in Markdown: expressions hold '*', which it would take for emphasis."""
    return re.sub(r"([*_|])", r"\\\1", text)


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text


def _rich(cell: Cell) -> Any:
    from rich.text import Text

    below = "\n" + cell.below if cell.below else ""
    return Text.assemble((cell.text, cell.style), (below, "dim"))


_LATEX = {mark: f"\\{mark}" for mark in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\ensuremath{<}",
    ">": "\\ensuremath{>}",
    "±": "\\ensuremath{\\pm}",
    "†": "\\dag{}",
    "‡": "\\ddag{}",
    "∅": "\\ensuremath{\\emptyset}",
}
_LATEX |= {raised: f"\\ensuremath{{^{digit}}}" for digit, raised in enumerate("¹²³⁴⁵⁶⁷⁸⁹", 1)}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in _line(text))
