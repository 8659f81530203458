"""Which column of a table holds texts to learn from: found by what stands in it, or named."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from apl.data.labels import as_text
from apl.errors import BadInput
from apl.noise.labels import IntArray

NO_TEXTS = "none"  # of --text-column: no column is one of texts
NO_TEXT = "no text"
NAMES = (
    *("text", "texts", "sentence", "sentences", "review", "reviews", "comment", "comments"),
    *("message", "tweet", "content", "body", "question", "query", "utterance", "post"),
    *("description", "document", "abstract", "headline", "title", "summary"),
)
"""What a column of texts is called in the lists of others, the likeliest first."""
_OF_IDS = frozenset("id ids name names key uid uuid url link path file date time author".split())
MANY = 100  # different ones, from which on texts may come twice and more
SENT_TEN_TIMES = 10  # each, as reviews and messages may be in small data
FEW_WORDS, ALONE = 5, 3  # that a text has at least in the middle, where its column has no such name
_READ = 1000  # characters of a text by which it is judged
# Of Thai, Lao, Burmese, Khmer, Japanese and Chinese, which part no words: two are about a word.
_UNPARTED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
)
_WORD = re.compile(r"[^\W\d_]+")
_HALVES = re.compile("[\ud800-\udfff]")  # of a character, which no file of UTF-8 can hold


def find_texts(rows: Sequence[Mapping[str, Any]], others: Sequence[str]) -> str:
    """The column of texts among these, by the rows that are known; '' where there is none.

    Texts are words, most of them different, and several in each, unless the column is called as
    one of texts is: not ids, categories, names of files, numbers or dates.
    """
    best: tuple[int, float] | None = None
    column = ""
    for name in others:
        parts = {*re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())}
        if parts & _OF_IDS:
            continue
        texts = [as_text(row.get(name)) for row in rows]
        texts = [text for text in texts if text]
        different = len({*texts})
        if not texts:
            continue
        words = statistics.median(map(_words, texts))
        called = next((place for place, known in enumerate(NAMES) if known in parts), len(NAMES))
        copies = SENT_TEN_TIMES if called < len(NAMES) and words >= ALONE else 2
        if different <= min(len(texts) / copies, MANY):  # categories
            continue
        fewest = 1 if called < len(NAMES) else ALONE if len(others) == 1 else FEW_WORDS
        if words >= fewest and (best is None or (called, -words) < best):
            best, column = (called, -words), name
    return column


def _words(text: str) -> float:
    """About how many words a text has; what has digits, slashes or the like in it is none."""
    start = text[:_READ]
    parted = sum(
        _WORD.search(word) is not None and not re.search(r"[\d/\\@_]", word)
        for word in start.split()
    )
    return parted + len(_UNPARTED.findall(start)) / 2


def require_column(name: str, names: Sequence[str], path: object) -> None:
    """Raise BadInput unless a column of texts that was asked for is there."""
    if name not in names:
        has = ", ".join(map(repr, names[:20]))
        raise BadInput(
            f"text_column is {name!r}, which {path} lacks; accepted: {NO_TEXTS}, or one of its "
            f"columns: {has}"
        )


def numbered(texts: Sequence[str]) -> IntArray:
    """A number for each text [N], the same one for copies."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return np.array([numbers[text] for text in texts], np.int64)


def as_texts(cells: Sequence[Any]) -> list[str]:
    """The cells of a column as texts, '' where there is none."""
    return [_HALVES.sub("\ufffd", as_text(cell)) for cell in cells]
