"""The benchmark of the kernels, as far as it goes without a GPU: that it runs, and how."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings

import kernel_times
import pytest
import torch
from conftest import PATIENCE, ROOT

from apl import make_loss
from apl.kernels.bases import Term
from apl.losses.catalog import loss_terms

NOT_NEEDED = "typer rich pandas scipy sklearn matplotlib PIL torchvision yaml safetensors"


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_script_needs_torch_and_triton_only() -> None:
    """Every part, in the interpreter, in a process where nothing else can be imported."""
    out = python(
        "-c",
        f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED!r}.split()))\n"
        "sys.path[:0] = ['benchmarks', 'tests/kernels']\n"
        "import os; os.environ['TRITON_INTERPRET'] = '1'\n"  # as the script has it
        "import quick_interpreter; quick_interpreter.quicken()\n"
        "del os.environ['TRITON_INTERPRET']\n"
        "import kernel_times\n"
        "asked = '--device cpu --minutes 5 --seconds 0 --loss nfl+mae'\n"
        "kernel_times.main(asked.split())",
    )
    assert "Error" not in out
    assert "left out" not in out
    lines = out.splitlines()
    assert max(map(len, lines)) < 80
    parts = [line for line in lines if line in kernel_times.PARTS]
    assert parts == [part for part in kernel_times.PARTS if part != "memory"]  # torch counts CUDA's
    assert sum("nfl+mae      triton" in line for line in lines) == 7


def test_it_ends_in_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton")  # before the script asks for the interpreter, which others do not
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    kernel_times.main(["--device", "cpu", "--minutes", "0", "--parts", "table"])
    out = capsys.readouterr().out
    assert out.count("left out, the time is over: Case(shape=(2, 5)") == 2


def test_what_is_no_loss_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for bad, named in (("nosuch", "nosuch"), ("ce+", "ce+"), ("norm(ce", "ce")):
        with pytest.raises(SystemExit, match="2"):
            kernel_times.main(["--device", "cpu", "--loss", "ce", bad])
        assert named in capsys.readouterr().err.splitlines()[-1]


def test_terms_are_those_of_each_number_of_classes() -> None:
    asked = []

    def of(classes: int) -> tuple[Term, ...]:
        asked.append(classes)
        return loss_terms("nmae", classes)

    for shape in ((3, 4), (2, 5)):
        kernel_times.compare({"nmae": of}, kernel_times.Case(shape, torch.float32), "cpu", 0.0)
    assert asked == [4, 5]


def test_a_path_that_cannot_run_says_so_and_the_others_go_on() -> None:
    """As triton here: this process has neither a GPU nor the interpreter."""
    case = kernel_times.Case((3, 4), torch.float32)
    loss, targets = make_loss("ce", 4, backend="triton"), torch.tensor([0])
    with warnings.catch_warnings():  # somebody may have been told before
        warnings.simplefilter("ignore")
        loss(torch.zeros(1, 4), targets)
    rows = kernel_times.compare(kernel_times.LOSSES, case, "cpu", 0.0)
    triton = [row for row in rows if row["path"] == "triton"]
    assert len(triton) == len(kernel_times.LOSSES)
    for row in rows:
        if row["path"] == "triton" and not torch.cuda.is_available():
            assert row["ms"].startswith("RuntimeWarning: the Triton loss cannot run")
        elif row["path"] != "triton":
            assert row["ms"] > 0
    text = kernel_times.table(case, rows)
    assert max(map(len, text.splitlines())) < 80


@pytest.mark.slow
def test_every_rival_in_compiled_code_is_compiled() -> None:
    """However many there are: torch.compile would leave those above a limit as they are."""
    losses = {name: functools.partial(loss_terms, name) for name in ("ce", "norm(ce)", "mae")}
    case = kernel_times.Case((3, 4), torch.float32, inside=True)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=3):
        rows = kernel_times.compare(losses, case, "cpu", 0.0)
    rivals = [row for row in rows if row["path"] in ("F.cross_entropy", "reference")]
    assert len(rivals) == 4 > 3  # the limit
    for row in rivals:
        assert isinstance(row["ms"], float), row


def test_why_there_are_no_figures_is_told_whole() -> None:
    why = "RuntimeError: " + "the compiler of this path has a lot to say " * 4
    name = "norm(gce) + 0.25*rce + 3*norm(fl)"
    rows: list[kernel_times.Row] = [
        {"logits": "65536x1000", "type": "bf16", "loss": name, "path": "triton", "ms": 1.25},
        {"logits": "65536x1000", "type": "bf16", "loss": "ce", "path": "compiled", "ms": why},
    ]
    case = kernel_times.Case((65536, 1000), torch.bfloat16, scale=1024.0, inside=True)
    lines = kernel_times.table(case, [{**rows[0], "GB/s": 3.0}, rows[1]]).splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(why.split()) in " ".join(" ".join(lines).split())
    assert name in " ".join(lines)
