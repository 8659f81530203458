"""What reaches the terminal: text as it stands, in any encoding, and nothing that steers it."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import Cli
from PIL import Image
from rich.table import Table

import apl
from apl.cli import run
from apl.cli.app import main
from apl.cli.console import console, this_command
from apl.cli.study import show_study
from apl.cli.terminal import Terminal
from apl.cli.text import visible

STEERS = "\x1b[2J\x07\x9b1m\u202egnp.exe\u2066\u061c\ud800\u2028"
SHOWN = r"\x1b[2J\x07\x9b1m\u202egnp.exe\u2066\u061c\ud800\u2028"
PLAIN = "[red]x[/] :cat: 猫 é عربي می‌خواهم 👩‍💻 `*_"


def test_a_string_is_printed_as_it_stands() -> None:
    out = console()
    with out.capture() as taken:
        out.print(PLAIN)
        out.print(f"a{STEERS}b\nc", style="bold")
    assert taken.get() == f"{PLAIN}\na{SHOWN}b\\nc\n"


def test_sentences_are_broken_between_words_and_what_is_copied_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Terminal, "is_terminal", True)
    out = console()
    out.width = 20
    for text, lines in (
        ("one in five of each class is held out", ["one in five of each", "class is held out"]),
        ("to do it: apl find photos --yes", ["to do it: apl find photos --yes"]),
        ("results are in a folder/of some name", ["results are in a folder/of some name"]),
    ):
        with out.capture() as taken:
            out.print(text)
        assert [line.rstrip() for line in taken.get().splitlines()] == lines


def test_a_table_steers_nothing() -> None:
    table = Table("name")
    table.add_row(STEERS)
    out = console()
    with out.capture() as taken:
        out.print(table)
    assert not [letter for letter in taken.get() if letter != "\n" and visible(letter) != letter]


ARGUMENTS = ["train", "--loss", "norm(gce)", "it's", "a b", "$HOME", "`ls`", "*", "", '"', "猫"]


def test_the_command_that_goes_on_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/apl", *ARGUMENTS])
    assert shlex.split(this_command()) == ["apl", *ARGUMENTS]


def test_a_study_that_is_stopped_tells_the_command_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["apl", "study", "--losses", "norm(gce),ce"])
    with pytest.raises(typer.Exit) as ended, show_study([], lambda progress: []):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130
    told = capsys.readouterr().err
    assert told.endswith("to go on: apl study --losses 'norm(gce),ce'\n")


@pytest.mark.slow
def test_what_is_suggested_can_be_pasted(cli: Cli, tmp_path: Path) -> None:
    folder = "it's [red] :cat: 猫"
    fast = ("--train-size", "300", "--epochs", "3", "--threads", "1", "--loss", "ce")
    shown = cli("train", *fast, "--out", folder).stdout
    assert f", in {folder}/runs/ce_sym-0.4" in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("more: ")]
    command = shlex.split(line.removeprefix("more: "))
    assert command[:2] == ["apl", "evaluate"]
    assert (tmp_path / command[2]).is_dir()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for name in ("猫", "[red]dog"):
        for k in range(30):
            path = tmp_path / "photos" / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "photos"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp932", "ascii", "cp1252", "utf-8"])
def test_any_encoding_is_written(
    encoding: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="strict")
    words = ["apl", "noise", "--dataset", "photos", "--noise", "pair", "--rate", "0.2"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    stream.flush()
    shown = written.getvalue().decode(encoding)
    cat = "猫" if encoding in ("cp932", "utf-8") else r"\u732b"
    rows = [re.split(r"[ |]+", line.strip(" |"))[0] for line in shown.splitlines()]
    assert {cat, "[red]dog"} <= set(rows)
    assert "labels changed" in shown
    assert run(["noise", "--dataset", "digits", "--noise", "sym", "--rate", "0"]) == 0
    stream.flush()
    matrix = written.getvalue().decode(encoding)
    nothing, bar = {"ascii": (r"\.", r"\|")}.get(encoding, ("[.·]", r"[| ]"))
    assert re.search(rf"{bar}0 +{bar} +0\.0{bar}100\.0{bar}( +{nothing}{bar}){{9}}", matrix)


@pytest.mark.slow
def test_a_real_process_writes_ascii(fresh_cli: Cli) -> None:
    shown = fresh_cli("losses", PYTHONIOENCODING="ascii").stdout
    assert shown.isascii()
    assert "nce_rce" in shown


@pytest.mark.slow
def test_no_home_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for a user number that /etc/passwd does not list."""

    pwd = pytest.importorskip("pwd")

    def nobody(number: int) -> None:
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME", "APL_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for words in (["datasets"], ["doctor"]):  # the cache has another place then
        assert run(words) == 0, words
    capsys.readouterr()
    for words in (
        ["train", "--dataset", "cifar10", "--no-download"],
        ["train", "--dataset", "~/photos"],
        ["find", "~nobody-of-that-name/photos"],
        ["study", "--dataset", "~/photos"],
    ):
        assert run(words) == 2, words
        complaint = capsys.readouterr().err
        assert complaint.startswith("apl: "), words
        assert complaint.count("\n") == 1
        assert "home" in complaint or "cifar10" in complaint


def test_bad_input_steers_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--dataset", f"a\nb{STEERS}"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert visible(complaint.strip(), line=True) == complaint.strip()


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"apl {apl.__version__}\n"


@pytest.mark.slow
def test_verify_explains_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", "ce", "mae"]) == 0
    table, bound, below = capsys.readouterr().out.partition("the bound")
    assert bound
    for column in ("off", "kernel", "sum", "max L", "sym", "pair"):
        assert column in table
        assert column in below
    rows = [line.split("│") for line in table.splitlines()]
    assert {row[1].strip(): row[4].strip() for row in rows if row[4:]} == {"ce": "no", "mae": "yes"}


def test_who_stops_a_command_before_it_trains_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("apl.data.sources.read_data", stopped)
    (tmp_path / "list.csv").write_text("a,label\n1,x\n")
    assert run(["train", "--dataset", str(tmp_path / "list.csv")]) == 130
    assert capsys.readouterr().err == "apl: stopped; nothing finished is lost\n"
