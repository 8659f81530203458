"""What `--help` shows at 80 columns, that it is true, and that what it hides still works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from apl.cli.app import app, run
from apl.cli.options import CONFIG, MACHINE, PANELS, SHARED
from apl.config.config import make_config
from apl.data.sources import load_data
from apl.detect.search import search_config
from apl.losses.catalog import PARAMS
from apl.names import NOISES
from apl.training.machine import Machine

MOST_LINES = 110


def commands(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command by what is typed, `apl` alone and groups included."""
    yield " ".join(path), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


COMMANDS = dict(commands(typer.main.get_command(app)))
# The arguments that a command must have.
NEEDED = {"find": ["photos"], "evaluate": ["run"], "report": ["study"], "plot": ["results"]}


@cache
def shown(command: str) -> list[str]:
    """The lines of a help in a terminal of 80 columns."""
    done = CliRunner().invoke(app, [*command.split(), "--help"], terminal_width=80)
    assert done.exit_code == 0, done.output
    return [line.rstrip() for line in done.output.splitlines()]


def test_what_is_typed_after_a_help_is_read_as_ever(capsys: pytest.CaptureFixture[str]) -> None:
    """A help shows the first of each option's names; all of them are taken, in this process too."""
    assert run(["train", "--help"]) == 0
    assert "--no-download" not in capsys.readouterr().out.split()
    assert run(["train", "--no-download", "--loss", "nope"]) == 2
    assert "unknown loss 'nope'" in capsys.readouterr().err


def texts(command: str) -> dict[str, int]:
    """By its first word: the lines that what stands in a panel takes."""
    found: dict[str, int] = {}
    name = ""
    for line in shown(command):
        if line.startswith("│"):
            begins = re.match(r"│[ *]{1,6}([^ ]+)", line)  # text that goes on stands further right
            if begins:
                name = begins[1]
                found[name] = 0
            found[name] += 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_fits_a_terminal(command: str) -> None:
    lines = shown(command)
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    assert len("\n".join(lines).strip().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_shows_an_example(command: str) -> None:
    if command in ("", "track", "bench"):  # they lead to commands
        return
    assert any(line.startswith(f" Example: apl {command}") for line in shown(command))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_text_of_a_help_takes_two_lines_at_most(command: str) -> None:
    found = texts(command)
    assert "--help" in found
    long = {name: count for name, count in found.items() if count > 2}
    assert set(long) == ({"--map"} if command == "noise" else set())


def test_loss_parameters_are_written_with_the_loss_and_not_shown() -> None:
    for command in ("train", "find"):
        found = texts(command)
        assert not {f"--{name.replace('_', '-')}" for name in PARAMS} & set(found)
        assert "gce(q=0.9)" in " ".join(shown(command))
    assert "gce(q=0.9)" in " ".join(shown("study"))


def test_a_panel_for_every_option() -> None:
    placed = [name for names in PANELS.values() for name in names]
    assert len(placed) == len(set(placed))
    assert {*CONFIG, *MACHINE, *PARAMS} <= set(placed)
    titles = [line[2:].split(" ─")[0].strip("─ ") for line in shown("train") if line[0:1] == "╭"]
    assert titles == list(PANELS)
    first = list(texts("train"))
    assert first[:4] == ["--dataset", "--loss", "--noise", "--rate"]


VALUES: dict[type, tuple[str, Any]] = {
    int: ("7", 7),
    float: ("0.25", 0.25),
    str: ("words", "words"),
    Path: ("some/where", Path("some/where")),
}


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("train", (*CONFIG, *MACHINE, *PARAMS)),
        ("find", ({*CONFIG, *MACHINE, *PARAMS} - {"dataset", "select"})),
        ("study", (*SHARED, *MACHINE, *PARAMS)),
    ],
)
def test_every_option_is_taken(command: str, names: tuple[str, ...]) -> None:
    usual = {**vars(make_config()), **vars(Machine()), **dict.fromkeys(PARAMS, 1.0)}
    for name in names:
        flag = f"--{name.replace('_', '-')}"
        kind = {"threads": int, "data_dir": Path}.get(name, type(usual[name]))
        given = {f"{flag}": True, f"--no-{flag[2:]}": False} if kind is bool else {flag: None}
        for typed, value in given.items():
            text, expected = ("", value) if kind is bool else VALUES[kind]
            line = [*NEEDED.get(command, []), typed, *filter(None, [text])]
            with COMMANDS[command].make_context(command, line) as context:
                assert context.params[name] == expected, name


def told(command: str) -> dict[str, str]:
    """By option: the default that its help tells, '' for none."""
    found = {}
    for parameter in COMMANDS[command].params:
        text = (parameter.help or "").replace("\\[", "[")
        default = re.search(r"\[default: ([^\]]*)\]|([\w-]+) \(default\)", text)
        found[parameter.name] = (default[1] or default[2]) if default else ""
    return found


def written(value: object) -> str:
    """A default as a help tells it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:g}" if isinstance(value, float) else str(value or ("" if value is None else value))
    )


@pytest.mark.parametrize("command", ["noise", "train", "study"])
def test_the_defaults_of_a_help_are_those_of_quick(command: str) -> None:
    usual = {**vars(make_config()), **vars(Machine())}
    found = told(command)
    in_words = {"threads", "data_dir", "noise" if command == "study" else ""}
    checked = [name for name in found if name in usual and name not in in_words]
    assert len(checked) > 10
    for name in checked:
        assert found[name].split(";")[0] == written(usual[name]), name
    assert not any("by noise type" in line for line in shown(command))


@pytest.mark.parametrize("side", [1, 12])
def test_the_defaults_of_find_are_those_of_a_search(side: int) -> None:
    """For data of one's own, of rows and of images."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5000, side, side, 3), dtype=np.uint8)
    rows = rng.random((5000, 4), dtype=np.float32)
    data = load_data((pixels if side > 1 else rows, rng.integers(0, 3, 5000)))
    config = search_config("laptop", data, {})
    usual = {**vars(config), **vars(Machine()), "image_size": 0}
    found = told("find")
    by_data = {"network", "width", "batch_size", "features"}
    assert found["features"] == "photos: lite0, texts: tfidf"
    assert found["network"] == "by size"
    assert found["width"] == "32, rows: 64"
    assert config.width == (64 if side == 1 else 32)
    assert found["batch_size"] == "128, if few: less"
    assert config.batch_size <= 128
    checked = [n for n in found if n in usual and n not in {*by_data, "threads", "data_dir"}]
    assert len(checked) > 25
    for name in checked:
        assert found[name].split(";")[0] == written(usual[name]), name


def test_every_noise_and_every_map_is_listed_by_noise() -> None:
    words = " ".join(re.findall(r"[\w./-]+", " ".join(shown("noise"))))
    for name, kind in NOISES.items():
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", words), name
        for each in kind.names:
            assert each in words


def test_what_looks_alike_is_told_apart() -> None:
    def text(command: str, name: str) -> str:
        (found,) = [p.help for p in COMMANDS[command].params if p.name == name]
        return str(found)

    assert "CE first" in text("train", "warm_start")
    assert "learning rate" in text("train", "warmup")
    assert "learning rate" not in text("train", "warm_start")
    assert "training labels" in text("train", "labels")
    assert "test labels" in text("evaluate", "labels")


def test_a_study_has_runs_and_takes_the_old_word() -> None:
    (found,) = [p for p in COMMANDS["study"].params if p.name == "cells_per_gpu"]
    assert found.opts == ["--runs-per-gpu", "--cells-per-gpu"]
    assert "--cells" not in " ".join(shown("study"))
