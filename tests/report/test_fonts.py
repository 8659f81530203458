"""Names in any script are drawn in fonts that have their letters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest

from apl.report import fonts

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    fonts._cover.cache_clear()
    yield
    fonts._cover.cache_clear()


def test_what_the_first_font_has_takes_no_other() -> None:
    assert fonts.families("кошки, chats, γάτες, قطط") == ["DejaVu Sans"]


def test_a_letter_takes_the_font_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # The integrals of matplotlib's own font for formulas are in no font for texts.
    entry = SimpleNamespace(fname=str(DEJAVU / "STIXSizOneSymReg.ttf"), index=0, name="Sizes")
    letter = chr(min(fonts._codes(entry.fname) - fonts._codes(str(DEJAVU / "DejaVuSans.ttf"))))
    monkeypatch.setattr(fonts, "_installed", lambda: iter([entry]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fonts.families(f"cat {letter}") == ["DejaVu Sans", "Sizes"]


def test_what_no_font_has_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: iter(()))
    with pytest.warns(UserWarning, match="no font here has 馬, so pictures have boxes"):
        assert fonts.families("馬 кот") == ["DejaVu Sans"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fonts.families("馬 кот")


def test_the_font_of_boxes_is_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    # matplotlib 3.11 brings one that has a box with a sample letter for every script.
    manager = fonts.font_manager.fontManager
    boxes = [each for each in manager.ttflist if "Resort" in each.name]
    monkeypatch.setattr(manager, "ttflist", boxes)
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", lambda: [])
    with pytest.warns(UserWarning, match="no font here has 馬"):
        assert fonts.families("馬") == ["DejaVu Sans"]


def test_what_is_no_font_has_no_letters(tmp_path: Path) -> None:
    file = tmp_path / "no.ttf"
    file.write_bytes(b"no font")
    assert fonts._codes(str(file)) == frozenset()
