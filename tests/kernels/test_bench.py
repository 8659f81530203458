"""The benchmark of the kernels, as far as it goes without a GPU: that it runs, and how."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from apl.kernels import bench
from apl.losses import loss_terms

NOT_NEEDED = "typer rich pandas scipy sklearn matplotlib PIL torchvision yaml safetensors"


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_script_needs_torch_and_triton_only() -> None:
    """Every part, in the interpreter, in a process where nothing else can be imported."""
    out = python(
        "-c",
        f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED!r}.split()))\n"
        "from apl.kernels import bench\n"
        "bench.main(['--device', 'cpu', '--minutes', '0.5', '--loss', 'norm(fl)+mae'])",
    )
    assert "Error" not in out
    assert "left out" not in out
    lines = out.splitlines()
    assert max(map(len, lines)) < 80
    parts = [line for line in lines if line in bench.PARTS]
    assert parts == [part for part in bench.PARTS if part != "memory"]  # torch counts CUDA's
    assert sum("norm(fl)+mae triton" in line for line in lines) == 7


def test_it_ends_in_time_and_runs_in_a_checkout_that_is_not_installed() -> None:
    out = python("-m", "kernels.bench", "--device", "cpu", "--minutes", "0", "--parts", "table")
    assert out.count("left out, the time is over: Case(shape=(2, 5)") == 2


def test_a_loss_in_words_is_that_of_apl() -> None:
    assert bench.terms_of("norm(ce) + rce")(10) == loss_terms("nce_rce", 10)
    for classes in (10, 1000):
        spec = "norm(mae)+norm(gce)+fl"
        assert bench.terms_of(spec)(classes) == loss_terms(spec, classes)
    for bad in ("nce", "norm(ce", "ce+", "2*ce"):
        with pytest.raises(ValueError, match=r"cannot read .* accepted: a sum of ce, fl"):
            bench.terms_of(bad)


def test_terms_are_those_of_each_number_of_classes() -> None:
    asked = []

    def of(classes: int) -> tuple[bench.Term, ...]:
        asked.append(classes)
        return loss_terms("nmae", classes)

    bench.measure({"nmae": of}, ((3, 4), (2, 5)), (torch.float32,), 0.0, "cpu")
    assert asked == [4, 5]


def test_a_path_that_cannot_run_says_so_and_the_others_go_on() -> None:
    """As triton here: this process has neither a GPU nor the interpreter."""
    rows = bench.measure(bench.LOSSES, ((3, 4),), (torch.float32,), 0.0, "cpu")
    triton = [row for row in rows if row["path"] == "triton"]
    assert len(triton) == len(bench.LOSSES)
    for row in rows:
        if row["path"] == "triton" and not torch.cuda.is_available():
            assert row["ms"].startswith("RuntimeWarning: the Triton loss cannot run")
        elif row["path"] != "triton":
            assert row["ms"] > 0
    text = bench.table(bench.Case((3, 4), torch.float32), rows)
    assert max(map(len, text.splitlines())) < 80


def test_every_rival_in_compiled_code_is_compiled() -> None:
    """However many there are: torch.compile would leave those above a limit as they are."""
    losses = {base: bench.terms_of(base) for base in ("ce", "fl", "mae", "rce", "gce")}
    losses |= {f"norm({base})": bench.terms_of(f"norm({base})") for base in losses}
    case = bench.Case((3, 4), torch.float32, inside=True)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        rows = bench.compare(losses, case, "cpu", 0.0)
    rivals = [row for row in rows if row["path"] in ("F.cross_entropy", "reference")]
    assert len(rivals) == 11
    for row in rivals:
        assert isinstance(row["ms"], float), row
