"""Numbers as people write them in a column: prices, per cents, a unit behind, thousands parted, a
fraction after a comma.

What a column means is judged as a whole, so no cell is read by another rule than the others.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from apl.data.labels import tidy

Cells = Sequence[Any]  # of a column: text as in a file, or numbers, a NumPy array among them

STRAY = 0.05  # of a column of numbers that may be something else, and then is missing
_MISSING = re.compile(r"|[-?.]|na|n/a|null|none|\.[a-z]", re.IGNORECASE)
"""And nan, a number to Python.  A point, with a letter or without, is SAS's and Stata's; 99 or -9
is a number as any other: only who asked the question knows whether it stands for no answer."""
_TRUTH = {"true": 1.0, "false": 0.0}
_PLAINER = str.maketrans("\u2212\u2019\uff05\xa0\u2009\u202f", "-'%   ")
_CODES = frozenset("USD EUR GBP JPY CNY INR CHF SEK NOK DKK PLN Rs kr".split())
_SHARES = ("%", "\u2030")
_CELL = re.compile(
    r"([+-]?) ?([^\d\s.,'()+-]{0,4}?)\.? ?([+-]?)"  # a sign before or behind that of money
    r"((?:\d[\d.,' ]*|[.,]\d+)(?<! )(?:e[+-]?\d+)?)"
    r" ?([^\d\s()'\"/:;,+-][^\d\s()]{0,7})?",
    re.IGNORECASE,
)


def _of(fraction: str, thousands: str) -> re.Pattern[str]:
    d, t = re.escape(fraction), re.escape(thousands)
    parted = (
        rf"[1-9]\d{{0,2}}(?:(?:{t}\d{{2,3}})*{t}\d{{3}}|(?:'\d{{3}})+|(?: \d{{3}})+)(?:{d}\d*)?"
    )
    return re.compile(rf"(?:\d+(?:{d}\d*)?|{d}\d+)(?:e[+-]?\d+)?|{parted}", re.IGNORECASE)


_OTHER = {".": ",", ",": "."}
_NUMBER = {fraction: _of(fraction, thousands) for fraction, thousands in _OTHER.items()}


class Written(NamedTuple):
    """A column as numbers [N], nan where one is missing.

    strays: cells that are none; decimal: where a fraction begins, '' where no cell has a comma;
    unit: what stands beside the numbers, as `$` or `kg`; example: a cell that no program would
    read, and its value.
    """

    values: npt.NDArray[np.float64]
    strays: list[str]
    decimal: str = ""
    unit: str = ""
    example: str = ""


def is_numeric(cells: Cells) -> bool:
    """Whether a column is an array of numbers."""
    return isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf"


def to_numbers(cells: Cells, decimal: str = ".", unit: str | None = None) -> Written | None:
    """A column as numbers; None where more than a few cells are none.

    decimal: where a fraction begins as far as the column does not tell: `1,5` and `1.234,56` tell,
    `1,234` does not.  unit: that of a column which is known, '' for none: each cell that does not
    fit is missing then, however many there are.
    """
    if is_numeric(cells):
        values = np.array(cells, np.float64)
        values[~np.isfinite(values)] = np.nan
        return Written(values, [])
    texts = ["" if cell is None or cell != cell else tidy(str(cell)) for cell in cells]
    there = [text for text in texts if not _MISSING.fullmatch(text)]
    plain = [_plain(text) for text in texts]
    strays = [
        text
        for text, value in zip(texts, plain, strict=True)
        if value is None and not _MISSING.fullmatch(text)
    ]
    found = Written(np.array(plain, np.float64), strays)  # None becomes nan
    if strays or unit in _SHARES:
        found = _as_written(texts, decimal, unit)
    few = len(found.strays) <= STRAY * len(there) and bool(there)
    return found if few or unit is not None else None


def _plain(text: str) -> float | None:
    """A number as programs write it, nan for one that is not finite."""
    try:
        value = float(text)
    except ValueError:
        return _TRUTH.get(text.lower())
    return value if math.isfinite(value) else math.nan


def _as_written(texts: Sequence[str], decimal: str, unit: str | None) -> Written:
    parts = [_parts(text) for text in texts]
    there = [part for part in parts if part is not None]
    told = Counter(filter(None, (_tells(digits) for _, digits, _ in there)))
    commas = any("," in digits for _, digits, _ in there)
    decimal = told.most_common(1)[0][0] if told else decimal if commas else "."
    units = Counter(unit for _, _, unit in there if unit)
    wanted = unit if unit is not None else units.most_common(1)[0][0] if units else ""
    bare = ("", wanted) if _is_money(wanted) else (wanted,)  # a sign of money may be left out
    values = np.full(len(texts), np.nan)
    strays, example = [], ""
    for i, (text, part) in enumerate(zip(texts, parts, strict=True)):
        value = None
        if part is not None and part[2] in bare:
            value = _value(part[0], part[1], decimal)
        elif part is None and not wanted:
            value = _plain(text)  # True, or inf
        if value is not None:
            values[i] = value
            if not example and _plain(text) is None:
                example = f"{text} is {value:.12g}"
        elif not _MISSING.fullmatch(text):
            strays.append(text)
    return Written(values, strays, decimal if commas else "", wanted, example)


def _parts(text: str) -> tuple[bool, str, str] | None:
    """Whether a number is negative, its digits with what parts them, and its unit; None for what is
    no number."""
    text = text.translate(_PLAINER)
    inside = text[1:-1] if text.startswith("(") and text.endswith(")") else ""  # as accountants
    match = _CELL.fullmatch(inside.strip() or text)
    if match is None:
        return None
    sign, before, second, digits, after = match.groups(default="")
    if (before and not _is_money(before)) or (before and after) or (sign and second):
        return None
    if after and not any(c.isalpha() or c in "%\u2030\u00b0" or _is_money(c) for c in after):
        return None
    return bool(inside) != ("-" in sign + second), digits, before or after


def _is_money(unit: str) -> bool:
    return unit in _CODES or any(unicodedata.category(c) == "Sc" for c in unit)


def _tells(digits: str) -> str:
    """Where the fraction of a number must begin, '' where it may be either or there is none."""
    points, commas = digits.count("."), digits.count(",")
    if points and commas:
        return max(".,", key=digits.rindex)
    mark = "." if points else ","
    if points + commas != 1:
        return _OTHER[mark] if points + commas else ""
    before, after = digits.split(mark)
    either = re.fullmatch(r"[1-9]\d{0,2}", before) and re.fullmatch(r"\d{3}", after)
    return "" if either else mark


def _value(negative: bool, digits: str, decimal: str) -> float | None:
    if not _NUMBER[decimal].fullmatch(digits):
        return None
    bare = re.sub(rf"[{_OTHER[decimal]}' ]", "", digits).replace(",", ".")
    value = float(bare)
    return (-value if negative else value) if math.isfinite(value) else math.nan
