"""What is printed fits: 80 columns without a word cut, the height of a terminal, a log that tells
enough and no more."""

from __future__ import annotations

import io
import math
import os
import re
import select
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Cli
from forked import CONTEXT, answer
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.live import Live

from apl.config.config import Config
from apl.config.grid import make_grid
from apl.losses.catalog import LOSSES, loss_label
from apl.report.terminal import StudyLog, epoch_line, shows, study_table
from apl.runs.run import RECORD, TABLE
from apl.runs.scores import Result
from apl.study.run import Progress

LONG = ["2*nce + 0.5*mae", "norm(gce) + 0.25*rce + 3*nfl", "eps_softmax_mae", "bi_tempered"]
MANY = [*LONG, *(name for name in LOSSES if name not in LONG)][:20]
FAST = ("--train-size", "200", "--epochs", "2", "--threads", "1")


def lines_of(text: str) -> list[str]:
    """The lines of an output, of at most 80 characters and none of them cut."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    lines = [line.rstrip() for line in plain.splitlines()]
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    assert "…" not in plain
    return lines


# ------------------------------------------------------------------------------ the commands


def test_the_list_of_losses_fits_and_breaks_no_formula_within_a_word(cli: Cli) -> None:
    words = set(" ".join(lines_of(cli("losses", COLUMNS="80").stdout)).split())
    for name, loss in LOSSES.items():
        assert {
            name,
            *loss.formula.split(),
            *loss.kind.replace("active,", "").split()[:-1],
        } <= words


def test_a_long_path_is_folded_and_not_cut(cli: Cli, tmp_path: Path) -> None:
    data = tmp_path / "a folder" / ("with_a_name_of_sixty_letters_" * 3)
    shown = cli("doctor", "--data-dir", str(data), COLUMNS="80").stdout
    rows = [line.split("│") for line in lines_of(shown) if line.count("│") == 3]
    assert str(data).replace(" ", "") in "".join(row[2] for row in rows).replace(" ", "")
    assert str(data) in cli("datasets", "--data-dir", str(data), COLUMNS="80").stdout


@pytest.mark.slow
def test_the_results_of_a_study_fit_wherever_they_are_printed(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "study").mkdir()
    shutil.copy(ROOT / "results/evidence/cifar10-laptop" / RECORD, tmp_path / "study")
    words = ("study", "--preset", "laptop", "--no-pictures", "--out", "study")
    shown = cli(*words, COLUMNS="80").stdout
    table = lines_of("\n".join(line for line in shown.splitlines() if line.startswith("|")))
    heads = [line for line in table if line.startswith("| Method")]
    found = [cell.strip() for head in heads for cell in head.split("|")[2:-1]]
    whole = (tmp_path / "study" / TABLE).read_text().splitlines()[2]
    assert found == [cell.strip() for cell in whole.split("|")[2:-1]]
    assert len(heads) == 3
    assert sum(line.startswith("| NCE+RCE ") for line in table) == len(heads)
    # In a terminal: without what the file is called, which is as long as it is.
    shown = cli(*words, COLUMNS="80", FORCE_COLOR="1").stdout
    told = lines_of(shown.partition("wrote ")[0])
    assert sum(line.startswith(" Method ") for line in told) == len(heads)
    assert sum(line.startswith(" NCE+RCE ") for line in told) == len(heads)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal")
def test_a_study_in_a_terminal_of_80_by_12(tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 80, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    for name in ("out", "err"):  # what is printed goes to the terminal
        (tmp_path / name).symlink_to(os.ttyname(theirs))
    words = ("--losses", ",".join(MANY[:7]), "--noise", "sym", "--rates", "0.4", "--seeds", "1")
    words += ("--train-size", "1000", "--epochs", "4", "--threads", "1")  # some seconds in all
    asked = ("study", *words, "--no-pictures")
    process = CONTEXT.Process(target=answer, args=(asked, tmp_path, env, tmp_path))
    process.start()
    got = b""
    while process.is_alive() or select.select([ours], [], [], 0.0)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            got += os.read(ours, 65536)
    process.join()
    os.close(theirs)
    os.close(ours)
    assert process.exitcode == 0, got.decode()
    live = got.decode().partition("runs in results/digits-quick")[2].partition("digits, preset")[0]
    # What is cleared is another line; what a run has to say (that it collapsed) is no table.
    lines = re.split(r"[\r\n]+|\x1b\[2K", live)[1:]
    lines = lines_of("\n".join(line for line in lines if "_seed0" not in line))
    assert any(re.match(r"\d of 7 runs, 0 min \d\d s left; clean test", line) for line in lines)
    assert any(re.match(r"room for 1 of 1 settings, [45] of 7 losses", line) for line in lines)
    assert any(re.match(r" \S.* [0-4]/4$", line) for line in lines)  # one at work


# ----------------------------------------------------------------------------- the live table


def a_result(**fields: Any) -> Result:
    known: dict[str, Any] = {
        **{"collapsed": False, "reason": "", "too_short": False, "corrupted": 100},
        **{"test_accuracy": 0.5, "train_accuracy": 0.5, "memorised": 0.5, "recovered": 0.5},
        **{"class_names": ["0", "1"], "confusion": [[1, 0], [0, 1]]},
        **{"transition": [[1, 0], [0, 1]], **fields},
    }
    return Result(**known)


def rendered(
    cells: Sequence[Config],
    results: Mapping[str, Result],
    running: Mapping[str, Mapping[str, float]],
    height: int | None = None,
) -> list[str]:
    console = Console(width=80, file=io.StringIO())
    console.print(study_table(cells, results, running, {}, 86_399.0, width=80, height=height))
    assert isinstance(console.file, io.StringIO)
    return lines_of(console.file.getvalue())


@pytest.mark.slow
def test_a_wide_study_stands_in_several_tables() -> None:
    noises = ["none", "sym", "asym", "pair", "human"]
    cells = make_grid("paper", MANY[:14], noises, [0.2, 0.4, 0.6], 2)
    assert len({(cell.noise, cell.rate) for cell in cells}) == 11
    best = {cell.name: a_result(test_accuracy=1.0, collapsed=True) for cell in cells}
    running = {cell.name: {"epoch": 119.0} for cell in cells if cell.noise in ("asym", "human")}
    lines = rendered(cells, best, running)
    assert lines[0] == "308 of 308 runs, 23 h 59 min left; clean test accuracy in %"
    tables = [k for k, line in enumerate(lines) if line.startswith(" loss ")]
    assert len(tables) == 2
    assert " ".join(lines[k] for k in tables).split().count("loss") == 2
    for first in ("CE", "norm(gce) + 0.25*rce +", "3*nfl", "CE_eps+MAE"):
        assert sum(re.match(f" {re.escape(first)}( |$)", line) is not None for line in lines) == 2
    states = " ".join(lines).split()
    assert states.count("119/120") == 14 * 4
    assert states.count("100.0†") == 14 * 7


@pytest.mark.slow
def test_what_is_at_work_is_shown_where_there_is_no_room_for_all() -> None:
    cells = make_grid("paper", MANY, ["none", "sym", "asym", "pair", "human"], seeds=1)
    done = {cell.name: a_result(test_accuracy=1.0, collapsed=True) for cell in cells}
    at_work = [cells[-1], cells[-3]]
    running = {cell.name: {"epoch": float(119)} for cell in at_work}
    lines = rendered(cells, done, running, height=24)
    assert len(lines) <= 24
    assert " ".join(lines).split().count("119/120") == 2
    for cell in at_work:
        assert any(line.startswith(f" {loss_label(cell.loss)} ") for line in lines)
    assert re.fullmatch(r"room for \d+ of 14 settings, \d+ of 20 losses", lines[-1])
    # Nothing is said of room where there is enough.
    whole = rendered(cells, done, running, height=200)
    assert not any("room for" in line for line in whole)
    assert len(whole) <= 200


@pytest.mark.slow
@given(
    st.integers(1, 20),
    st.lists(st.sampled_from(["sym", "asym", "pair", "idn-uniform", "human", "none"]), unique=True),
    st.integers(10, 60),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_any_study_fits_any_terminal(
    losses: int, noises: list[str], height: int, data: st.DataObject
) -> None:
    cells = make_grid("paper", MANY[:losses], noises or ["sym"], [0.05, 0.15, 1 / 3], 1)
    busy = data.draw(st.sets(st.sampled_from([cell.name for cell in cells]), max_size=8))
    running = {name: {"epoch": 100.0} for name in busy}
    shown = study_table(cells, {}, running, {}, 1.0, width=80, height=height)
    console = Console(width=80, height=height, file=io.StringIO(), force_terminal=True)
    with Live(shown, console=console, auto_refresh=False):  # says … where it must crop
        pass
    assert isinstance(console.file, io.StringIO)
    lines = lines_of(console.file.getvalue())
    assert (" 100/120" in " ".join(lines)) == bool(busy)


# ---------------------------------------------------------------------------------- the log


class Watch:
    """A log, its lines, and the time that it reads."""

    def __init__(self, total: int) -> None:
        self.lines: list[str] = []
        self.now = 1e6
        self.progress = Progress([])
        self.log = StudyLog(total, self.lines.append, now=lambda: self.now)

    def after(self, seconds: float, *, done: int = 0, left: float | None = None) -> list[str]:
        """What it says after so many seconds, in which so many cells were done."""
        self.now += seconds
        for _ in range(done):
            self.progress.results[f"cell{len(self.progress.results)}"] = a_result()
        self.progress.seconds_left = left
        before = len(self.lines)
        now = self.progress
        self.log(now.results, now.running, now.failed, now.seconds_left)
        return self.lines[before:]


def test_a_log_of_few_cells_has_a_line_for_each_and_one_an_hour_between() -> None:
    watch = Watch(100)
    assert watch.after(0) == []
    assert watch.after(10, left=5400) == []
    assert watch.after(10, done=1, left=5399) == [
        "1/100, 1 h 29 min left: cell0  test 50.00%",
    ]
    watch.progress.running = {"a": {"epoch": 3.0}, "b": {}}
    assert watch.after(3599, left=100) == []
    assert watch.after(1, left=99) == ["1/100, 1 min 39 s left: running a epoch 3, b epoch 0"]
    assert watch.after(3599) == []
    assert len(watch.after(1, done=2)) == 2
    assert watch.after(3599) == []


def test_a_log_of_many_cells_has_a_line_an_hour() -> None:
    watch = Watch(1000)
    watch.progress.running = {f"r{k}": {"epoch": float(k)} if k else {} for k in range(128)}
    assert watch.after(0) == []
    assert watch.after(5, done=3) == []
    (first,) = watch.after(5, left=36_000)  # at once when it is known
    assert first == (
        "3/1000, 10 h 00 min left: running r1 epoch 1, r2 epoch 2, r3 epoch 3, r4 epoch 4 "
        "and 124 more"
    )
    said = [line for _ in range(10 * 60) for line in watch.after(60, done=1, left=600)]
    assert len(said) == 10
    assert said[0].startswith("63/1000, ")
    watch.progress.failed = {"x": "why"}
    (last,) = watch.after(3600)
    assert last.startswith("603/1000, 1 failed: running")


def test_a_line_of_an_epoch_fits_and_says_only_what_is_known() -> None:
    row = {"epoch": 400, "train_loss": 1234.5678, "train_accuracy": 1.0, "test_accuracy": 1.0}
    own = epoch_line({**row, "memorised": math.nan, "recovered": math.nan}, 400, "given")
    assert own == (
        "epoch 400/400  loss 1234.5678  train (noisy) 100.0%  test (given labels) 100.0%"
    )
    assert len(own) <= 80
    known = epoch_line({**row, "memorised": 0.25, "recovered": 0.5}, 400)
    assert known.endswith("memorised  25.0%  recovered  50.0%")
    assert [epoch for epoch in range(1, 421) if shows(epoch, 421)] == [*range(11, 421, 11)]
    assert all(shows(epoch, 40) for epoch in range(1, 41))
    assert shows(421, 421)
