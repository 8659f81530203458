"""Forward plus backward of a loss on the CPU, every way there is, over F.cross_entropy's time.

    python benchmarks/losses.py [--loss nce_rce] [--threads 2] [--seconds 0.2] [--rounds 7]

All ways are timed in turn in every round, and each keeps its best round: what else runs on the
machine then falls on all of them.  Every shape has a process of its own: the heap that earlier
shapes leave behind decides, for all ways differently, whether a new tensor costs page faults.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from apl import make_loss

SHAPES = ((128, 10), (4096, 10), (4096, 100), (4096, 1000))


def naive_nce_rce(logits: Tensor, targets: Tensor) -> Tensor:
    """NCE + RCE as it is usually written: softmax, one-hot, clamp, log, autograd."""
    p = F.softmax(logits, dim=1)
    q = F.one_hot(targets, logits.shape[1]).float()
    log_p = torch.log(torch.clamp(p, min=1e-7, max=1.0))
    nce = (q * log_p).sum(1) / log_p.sum(1)
    rce = -(p * torch.log(torch.clamp(q, min=1e-4, max=1.0))).sum(1)
    return (nce + rce).mean()


def measure(
    spec: str, n: int, k: int, threads: int, seconds: float, rounds: int
) -> dict[str, float]:
    """Seconds per forward plus backward of every way, at logits [n, k] in float32."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"F.cross_entropy": F.cross_entropy}
    if spec == "nce_rce":
        ways["usual code"] = naive_nce_rce
    for backend in ("reference", "eager", "compiled", "auto"):
        ways[backend] = make_loss(spec, k, backend=backend)
    logits = torch.randn(n, k, requires_grad=True)
    targets = torch.randint(k, (n,))

    def step(way: Callable[[Tensor, Tensor], Tensor]) -> None:
        logits.grad = None
        way(logits, targets).backward()

    for way in ways.values():
        for _ in range(5):
            step(way)
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            run = functools.partial(step, way)
            best[name] = min(best[name], _time(run, seconds))
    return best


def _time(run: Callable[[], None], seconds: float) -> float:
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        run()
        count += 1
    return spent / count


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", default="nce_rce")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print(f"{args.loss}, {args.threads} threads, torch {torch.__version__}\n")
    for i, (n, k) in enumerate(SHAPES):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            best = pool.apply(measure, (args.loss, n, k, args.threads, args.seconds, args.rounds))
        unit = best["F.cross_entropy"]
        if i == 0:
            print(f"| N x K | F.cross_entropy | {' | '.join(list(best)[1:])} |")
            print("| --- " * (len(best) + 1) + "|")
        ratios = " | ".join(f"{seconds / unit:.2f}" for seconds in list(best.values())[1:])
        print(f"| {n} x {k} | {unit * 1e6:.0f} us | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
