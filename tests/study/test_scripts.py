"""Studies from a script that has no guard, and as a notebook runs them.

`test_study.py` kills one whose script came from stdin."""

from __future__ import annotations

import signal
import sys
import types
from pathlib import Path

import pytest

from apl.cores import without_script

SCRIPT = """
from pathlib import Path
with open({begun!r}, "a") as file:
    file.write("begun ")
from apl.config.grid import make_grid
from apl.study.run import run_study
cells = make_grid("quick", ["ce"], ["sym"], [0.2], 1, epochs=1, width=4, train_size=100)
print("failed:", run_study(cells, Path("out"), workers=2).failed)
"""


@pytest.mark.parametrize("how", ["no guard", "notebook"])
def test_a_study_runs_from_any_script(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its workers are forked here, and begin by what a fresh one would run of its script."""
    monkeypatch.chdir(tmp_path)
    script = SCRIPT.format(begun=str(tmp_path / "begun"))
    main = types.ModuleType("__main__")
    if how == "no guard":
        (tmp_path / "mine.py").write_text(script)
        main.__file__ = str(tmp_path / "mine.py")  # a notebook has none
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(script, vars(main))
    assert "failed: {}" in capsys.readouterr().out
    assert (tmp_path / "begun").read_text() == "begun "


def test_the_script_is_as_it_was_afterwards() -> None:
    script = sys.modules["__main__"]
    with without_script():
        assert getattr(sys.modules["__main__"], "__file__", None) is None
    assert sys.modules["__main__"] is script
    with pytest.raises(ValueError, match="x"), without_script():
        raise ValueError("x")
    assert sys.modules["__main__"] is script


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs masks of signals")
def test_ctrl_c_waits_while_processes_are_started() -> None:
    """Who is just beginning would answer it with a traceback; here it is only late."""

    def begin() -> None:
        with without_script():
            signal.raise_signal(signal.SIGINT)
            assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a command may have its own
    try:
        with pytest.raises(KeyboardInterrupt):
            begin()
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
