"""The checks of the Triton kernels on a GPU: `pytest -m gpu`, and for the times also `-n0 -s`."""

import os
import re

import kernel_times
import pytest
import torch
from torch._dynamo.utils import counters

from apl.config.config import make_config
from apl.kernels import dispatch
from apl.kernels.bases import Term
from apl.kernels.options import LossOptions
from apl.kernels.reference import reference_loss
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

if torch.cuda.is_available():
    from kernel_checks import *  # noqa: F403

TERMS = (Term("ce", 1.0, "norm"), Term("mae"))


def expected(logits, targets, upstream=1.0):
    """Row losses and their gradient in float64, of logits [N, K]."""
    leaf = logits.detach().double().requires_grad_()
    losses = reference_loss(leaf, targets, TERMS, LossOptions(reduction="none"))
    (grad,) = torch.autograd.grad(losses.sum() * upstream, leaf)
    return losses.detach(), grad


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize(
    ("k", "n", "inner"),
    [(32768, 2**16 + 8, False), (10, 2**31 // 10 + 8, False), (33, 2**26, True)],
    ids=["long rows", "short rows", "classes not innermost"],
)
def test_logits_beyond_32_bits(k, n, inner, reduction):
    """Losses and gradients of rows in front of element 2**31, around it, behind it and between."""
    assert n * k > 2**31
    need = 2 * 2 * n * k + 40 * n + 2**30  # logits and gradient in bfloat16; what rows have
    if torch.cuda.mem_get_info()[0] < need:
        pytest.skip(f"needs {need / 1e9:.0f} GB of free memory")
    generator = torch.Generator("cuda").manual_seed(0)
    rows = torch.randint(n, (1000,), device="cuda", generator=generator)
    middle = min(2**31 // k, n - 4)
    ends = [torch.arange(at, at + 4, device="cuda") for at in (0, middle - 4, middle, n - 4)]
    rows = torch.cat([rows, *ends]).unique()
    some = torch.randn(len(rows), k, device="cuda", generator=generator).bfloat16()
    targets = torch.randint(k, (n,), device="cuda", generator=generator)
    if inner:
        logits = torch.zeros(1, k, n, dtype=torch.bfloat16, device="cuda")
        logits[0, :, rows] = some.t()
    else:
        logits = torch.zeros(n, k, dtype=torch.bfloat16, device="cuda")
        logits[rows] = some
    logits.requires_grad_()
    shape = (1, n) if inner else (n,)
    loss = dispatch.loss(
        logits, targets.view(shape), TERMS, LossOptions(reduction=reduction), backend="triton"
    )
    loss.sum().backward()

    losses, grads = expected(some, targets[rows])
    if reduction == "none":
        torch.testing.assert_close(loss.view(n)[rows].double(), losses, rtol=1e-2, atol=1e-2)
    else:  # where all logits are 0, NCE is 1/K and MAE 2 (1 - 1/K)
        total = losses.sum() + (n - len(rows)) * (1 / k + 2 * (1 - 1 / k))
        torch.testing.assert_close(loss.double(), total, rtol=1e-2, atol=0.0)
    found = logits.grad[0, :, rows].t() if inner else logits.grad[rows]
    size = grads.abs().max().item()
    torch.testing.assert_close(found.double(), grads, rtol=1e-2, atol=1e-3 * size)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("compiled", [False, True])
def test_logits_on_another_device_than_the_current_one(reduction, compiled):
    logits = torch.randn(64, 10, device="cuda:1")
    targets = torch.randint(10, (64,), device="cuda:1")

    def step(z):
        return dispatch.loss(
            z, targets, TERMS, LossOptions(reduction=reduction), backend="triton"
        ).sum()

    leaf = logits.clone().requires_grad_()
    with torch.cuda.device(0):
        (torch.compile(step, fullgraph=True) if compiled else step)(leaf).backward()
        assert torch.cuda.current_device() == 0
    _, grad = expected(logits, targets, 1.0 if reduction == "none" else 1 / 64)
    torch.testing.assert_close(leaf.grad.double(), grad, rtol=1e-5, atol=1e-7)


def test_a_compiled_step_is_captured_with_its_loss():
    """`apl train --compile`: trained as without, and no graph left to the host to launch."""
    torch._dynamo.reset()
    counters.clear()
    config = make_config(train_size=320, epochs=2, network="mlp", width=32, loss="nce_rce")
    losses = []
    for compiled in (False, True):
        rows = []
        machine = Machine(device="cuda", compile=compiled)
        train(config, machine=machine, listener=Listener(on_message=ignore, on_epoch=rows.append))
        losses.append([row["train_loss"] for row in rows])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]
    assert not counters["inductor"]["cudagraph_skips"]


@pytest.mark.parametrize("part", kernel_times.PARTS)
def test_every_part_of_the_benchmark_runs(part):
    run = {"host": kernel_times.host, "memory": kernel_times.memory}.get(part, kernel_times.compare)
    for case in {
        case._replace(shape=(64, 12, 3, 5)[: len(case.shape)]) for case in kernel_times.PARTS[part]
    }:
        rows = run(kernel_times.LOSSES, case, "cuda", 0.0)
        assert {row["path"] for row in rows} >= {"F.cross_entropy", "triton"}
        for row in rows:
            figures = [value for value in row.values() if isinstance(value, float)]
            assert figures, row  # else the path could not run
            assert min(figures) >= 0


@pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="times are taken alone: -n0 -s")
def test_the_table_of_times(capsys):
    """Prints it; a time that is bad fails nothing."""
    kernel_times.main(["--loss", "nce_rce", "--parts", "table", "--seconds", "0.5"])
    shown = capsys.readouterr().out
    with capsys.disabled():
        print(shown)
    assert "left out" not in shown
    for path in ("triton", r"F\.cross_entropy", "copy"):
        found = re.findall(rf"^  \w* +{path} ", shown, re.M)
        assert len(found) == len(kernel_times.PARTS["table"])
