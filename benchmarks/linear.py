"""Memory and time of the last layer and the loss, the plain way and by `linear_loss`, on the CPU.

    python benchmarks/linear.py [--loss nce_rce] [--rows 4096] [--classes 32000] [--width 1024]
                                [--dtype float32] [--chunks 128,256] [--rounds 2] [--ignored 0.5]

Memory is what the resident set rises by at its highest, from when the inputs exist to the end of
the backward, gradients included, in a process of its own for every way.  Time is the processor's,
on one thread, so that other programs hardly change it: the best of the rounds, in each of which all
ways run in turn in one process.  Of ce, torch's own chunked F.linear_cross_entropy is one of them,
where torch has it.  --ignored: this share of the rows does not count.  Linux only.  Prints a
Markdown table, with the processor's name.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from losses import processor
from torch import Tensor

from apl import linear_loss, make_loss
from apl.kernels.linear import chunk_rows

Way = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, spec: str) -> Tensor:
    """The logits whole, and the loss of them."""
    loss: Tensor = make_loss(spec, len(weight))(F.linear(hidden, weight), targets)
    return loss


def make_way(name: str, spec: str) -> Way:
    """A way by its name in the table: 'plain', or the rows of a chunk."""
    if name == "plain":
        return lambda hidden, weight, targets: plain(hidden, weight, targets, spec)
    if name == "torch":
        in_chunks = torch.nn.LinearCrossEntropyOptions()
        return functools.partial(F.linear_cross_entropy, options=in_chunks)
    return lambda hidden, weight, targets: linear_loss(
        hidden, weight, targets, spec, chunk=int(name)
    )


def inputs(
    rows: int, classes: int, width: int, dtype: str, ignored: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight and targets of the same numbers every time."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, width).to(getattr(torch, dtype)).requires_grad_()
    weight = (torch.randn(classes, width) / width**0.5).to(hidden.dtype).requires_grad_()
    targets = torch.randint(classes, (rows,))
    targets[torch.randperm(rows)[: round(ignored * rows)]] = -100
    return hidden, weight, targets


def step(way: Way, hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Forward and backward; the gradients stay until the next step."""
    hidden.grad = weight.grad = None
    way(hidden, weight, targets).backward()


def resident(field: str) -> int:
    """A field of /proc/self/status in bytes: VmRSS is now, VmHWM the highest so far."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if field in x)
    return int(line.split()[1]) * 1024


def memory(
    name: str, spec: str, rows: int, classes: int, width: int, dtype: str, ignored: float
) -> int:
    """Bytes that one step adds to the resident set at its highest."""
    torch.set_num_threads(1)
    way, given = make_way(name, spec), inputs(rows, classes, width, dtype, ignored)
    # What is made once, compiled code above all, is there before.
    few = max(1, (1 << 20) // classes)
    step(way, given[0][:few].detach().requires_grad_(), given[1], given[2][:few])
    given[1].grad = None
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before = resident("VmRSS")
    step(way, *given)
    return resident("VmHWM") - before


def times(
    names: list[str],
    spec: str,
    shape: tuple[int, int, int],
    dtype: str,
    rounds: int,
    ignored: float,
) -> dict[str, float]:
    """Seconds a step of every way."""
    torch.set_num_threads(1)
    given, ways = inputs(*shape, dtype, ignored), {name: make_way(name, spec) for name in names}
    best = dict.fromkeys(names, float("inf"))
    for way in ways.values():
        step(way, *given)
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            step(way, *given)
            best[name] = min(best[name], time.process_time() - start)
    return best


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", default="nce_rce")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=32000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--chunks", default="")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ignored", type=float, default=0.0)
    args = parser.parse_args()
    shape = (args.rows, args.classes, args.width)
    default = chunk_rows(torch.empty(args.classes, args.width, device="meta"))
    chunks = [int(x) for x in args.chunks.split(",") if x]
    names = ["plain", *map(str, sorted({default, *chunks}))]
    if args.loss == "ce" and hasattr(F, "linear_cross_entropy"):
        names.append("torch")
    sizes = " x ".join(map(str, shape))
    print(
        f"{args.loss}, {args.dtype}, N x K x H = {sizes}, {args.ignored:.0%} ignored, "
        f"torch {torch.__version__}, {processor()}\n"
    )
    print("| rows a chunk | memory | of plain | time | of plain |\n" + "| --- " * 5 + "|")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as alone:
        job = (names, args.loss, shape, args.dtype, args.rounds, args.ignored)
        timed = alone.apply(times, job)
        what = (args.loss, *shape, args.dtype, args.ignored)
        risen = {name: alone.apply(memory, (name, *what)) for name in names}
    for name in names:
        cells = [
            name + " (default)" * (name == str(default)),
            f"{risen[name] / 2**20:.0f} MiB",
            f"{risen[name] / risen['plain']:.1%}",
            f"{timed[name]:.1f} s",
            f"{timed[name] / timed['plain']:.2f}",
        ]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
