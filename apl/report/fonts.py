"""Fonts for names in any script: DejaVu Sans, which matplotlib brings, and of the fonts installed
here one for each script that it lacks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import lru_cache

from matplotlib import font_manager
from matplotlib.font_manager import FontEntry, FontProperties
from matplotlib.ft2font import FT2Font

FIRST = "DejaVu Sans"
BOXES = "Last Resort"  # begins the name of matplotlib's font that has a box for every letter


def families(text: str) -> list[str]:
    """The font families in which the letters of a text are drawn, each where those before it lack
    one; warns of letters that no font installed here has."""
    return list(_cover(frozenset(text)))


@lru_cache(maxsize=8)  # so it is said once
def _cover(letters: frozenset[str]) -> tuple[str, ...]:
    first = font_manager.findfont(FontProperties(family=FIRST), fallback_to_default=True)
    chosen = [FIRST]
    left = {ord(each) for each in letters if each.isprintable()} - _codes(first)
    if not left:
        return (FIRST,)
    for entry in _installed():
        here = left & _codes(entry.fname, entry.index)
        if here:
            chosen.append(entry.name)
            left -= here
        if not left:
            break
    if left:
        shown = "".join(map(chr, sorted(left)[:10]))
        warnings.warn(
            f"no font here has {shown}, so pictures have boxes in their place: install one, for "
            "instance Noto Sans or Noto Sans CJK",
            stacklevel=3,
        )
    return tuple(chosen)


def _installed() -> Iterator[FontEntry]:
    """The plain fonts here, upright and without serifs before others; what was installed since
    matplotlib made its list comes last."""
    manager = font_manager.fontManager

    def plain(entries: list[FontEntry]) -> list[FontEntry]:
        true = [e for e in entries if not e.name.startswith(BOXES)]
        upright = [e for e in true if e.style == "normal" and e.weight in (400, "normal")]
        return sorted(upright, key=lambda e: ("Sans" not in e.name, "Mono" in e.name, e.name))

    yield from plain(manager.ttflist)
    known = {entry.fname for entry in manager.ttflist}
    before = len(manager.ttflist)
    for path in sorted({*font_manager.findSystemFonts()} - known):
        try:
            manager.addfont(path)
        except (OSError, RuntimeError):  # what is no font that it can read
            continue
    yield from plain(manager.ttflist[before:])


@lru_cache(maxsize=256)
def _codes(file: str, face: int = 0) -> frozenset[int]:
    """The letters of a font; none of one that can't be read."""
    try:
        font = FT2Font(file, face_index=face) if face else FT2Font(file)
        return frozenset(font.get_charmap())
    except (OSError, RuntimeError, TypeError):  # TypeError: a matplotlib without faces
        return frozenset()
