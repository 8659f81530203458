"""Forward plus backward of a loss on the CPU, every way there is, over F.cross_entropy's time.

    python benchmarks/losses.py [--loss nce_rce] [--threads 2] [--seconds 0.2] [--rounds 5] [--busy]
        [--ways "four lines,auto"]

All ways are timed in turn in every round, and what is printed are medians over the rounds: of
F.cross_entropy's time, of each way's time over that of F.cross_entropy in the same round, and of
auto's over that of the four lines.  With
--busy a spinning process on every core takes part in all of it.  Every shape has a process of its
own: the heap that earlier shapes leave behind decides, for all ways differently, whether a new
tensor costs page faults.  On one thread times are the processor's.  Prints a Markdown table, with
the seconds of the first compiled call, which finds nothing compiled before; and what share of a
training step the smallest loss takes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from apl import make_loss
from apl.config.config import make_config
from apl.config.presets import THREADS
from apl.kernels.bases import LOG_ZERO
from apl.names import DATASETS
from apl.training.networks import make_network

SHAPES = (
    (64, 10),
    (128, 10),
    (4096, 10),
    (128, 100),
    (4096, 100),
    (4096, 1000),
    (512, 32000),
    (4, 21, 128, 128),
)


def processor() -> str:
    """This processor's name and the instruction set that torch takes of it."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = next((line for line in lines if line.startswith("model name")), f": {name}")
        model = next((line for line in lines if line.startswith("model\t")), ": ?")
        name = f"{named.partition(': ')[2]} (model {model.partition(': ')[2]})"
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def naive_nce_rce(logits: Tensor, targets: Tensor) -> Tensor:
    """NCE + RCE as it is usually written: softmax, one-hot, clamp, log, autograd."""
    p = F.softmax(logits, dim=1)
    q = F.one_hot(targets, logits.shape[1]).float()
    log_p = torch.log(torch.clamp(p, min=1e-7, max=1.0))
    nce = (q * log_p).sum(1) / log_p.sum(1)
    rce = -(p * torch.log(torch.clamp(q, min=1e-4, max=1.0))).sum(1)
    return (nce + rce).mean()


def four_lines(logits: Tensor, targets: Tensor) -> Tensor:
    """NCE + RCE in as few operations as there can be, and autograd: what every way is held to."""
    log_p = torch.log_softmax(logits, 1)
    log_p_y = log_p.gather(1, targets.unsqueeze(1))
    return (log_p_y / log_p.sum(1, keepdim=True) + LOG_ZERO * log_p_y.expm1()).mean()


def measure(
    spec: str,
    shape: tuple[int, ...],
    only: Collection[str],
    threads: int,
    seconds: float,
    rounds: int,
) -> tuple[dict[str, list[float]], float]:
    """Of every way, or of `only` some, the seconds per forward plus backward at float32 logits of
    this shape, in every round; and the seconds of the first compiled call (nan without one)."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"F.cross_entropy": F.cross_entropy}
    if spec == "nce_rce":
        if len(shape) == 2:
            ways["usual code"] = naive_nce_rce
        ways["four lines"] = four_lines
    for backend in ("reference", "eager", "compiled", "auto"):
        ways[backend] = make_loss(spec, shape[1], backend=backend)
    if only:
        ways = {name: ways[name] for name in ways if name in {"F.cross_entropy", *only}}
    logits = torch.randn(shape, requires_grad=True)
    targets = torch.randint(shape[1], shape[:1] + shape[2:])

    def step(way: Callable[[Tensor, Tensor], Tensor]) -> None:
        logits.grad = None
        way(logits, targets).backward()

    first = {}
    for name, way in ways.items():
        first[name] = _time(functools.partial(step, way), 0.0)
        for _ in range(4):
            step(way)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(_time(functools.partial(step, way), seconds))
    return found, first.get("compiled", math.nan)


def training_step(
    spec: str, n: int, seconds: float, rounds: int
) -> tuple[str, dict[str, list[float]]]:
    """A forward, backward and update of the quick preset's network, in words; and the seconds in
    every round of that, of the loss at n rows and of F.cross_entropy there, all with the threads
    that the preset takes."""
    config = make_config("quick", loss=spec)
    threads = THREADS.get(config.dataset, torch.get_num_threads())
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    source = DATASETS[config.dataset]
    size, channels, k = source.size, len(source.mean), source.num_classes
    network = make_network(config.network, (size, size, channels), k, config.width)
    optimiser = torch.optim.SGD(
        network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
    )
    criterion = make_loss(spec, k)
    images = torch.randn(config.batch_size, channels, size, size)
    targets = torch.randint(k, (config.batch_size,))

    def step() -> None:
        optimiser.zero_grad()
        criterion(network(images), targets).backward()
        optimiser.step()

    logits = torch.randn(n, k, requires_grad=True)
    labels = torch.randint(k, (n,))

    def alone(way: Callable[[Tensor, Tensor], Tensor]) -> None:
        logits.grad = None
        way(logits, labels).backward()

    ways = {
        "step": step,
        spec: functools.partial(alone, criterion),
        "F.cross_entropy": functools.partial(alone, F.cross_entropy),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, run in ways.items():
            spent = _time(run, seconds)
            if i:  # the first round warms up
                found[name].append(spent)
    threads_said = f"{threads} thread{'s' * (threads > 1)}"
    return f"{config.network}, {config.batch_size} images, {threads_said}", found


def _ratio(times: list[float], units: list[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(times, units, strict=True)):.2f}"


def _time(run: Callable[[], None], seconds: float) -> float:
    # On one thread the processor's time, which other programs hardly change.
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    count, start = 0, now()
    while True:
        run()
        count += 1
        if (spent := now() - start) >= seconds:
            return spent / count


def _spin(parent: int) -> None:
    while os.getppid() == parent:  # no longer than the benchmark, however that ends
        pass


@contextlib.contextmanager
def _beside(count: int) -> Iterator[None]:
    here = (os.getpid(),)
    spinning = [multiprocessing.Process(target=_spin, args=here, daemon=True) for _ in range(count)]
    for process in spinning:
        process.start()
    try:
        yield
    finally:
        for process in spinning:
            process.terminate()


def main() -> None:
    """Prints the table, and the share of a training step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", default="nce_rce")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--ways", default="", help="some of the columns, by their names")
    args = parser.parse_args()
    busy = (os.cpu_count() or 1) if args.busy else 0
    print(
        f"{args.loss}, {args.threads} threads, torch {torch.__version__}, {processor()}, "
        f"medians of {args.rounds} "
        f"rounds, {busy} spinning processes, load {os.getloadavg()[0]:.1f} before\n"
    )
    timing = (args.threads, args.seconds, args.rounds)
    only = tuple(filter(None, args.ways.split(",")))
    pool = functools.partial(multiprocessing.get_context("spawn").Pool, 1)
    with tempfile.TemporaryDirectory() as empty, _beside(busy):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        for i, shape in enumerate(SHAPES):
            with pool() as process:
                found, compiling = process.apply(measure, (args.loss, shape, only, *timing))
            units = found.pop("F.cross_entropy")
            if i == 0:
                ways = list(found)
                heads = ("N x K", "F.cross_entropy", *ways, "auto over four", "first compiled call")
                print(f"| {' | '.join(heads)} |\n{'| --- ' * len(heads)}|")
            ratios = " | ".join(_ratio(found[way], units) if way in found else "" for way in ways)
            ahead = ""
            if {"auto", "four lines"} <= set(found):
                ahead = _ratio(found["auto"], found["four lines"])
            unit = statistics.median(units) * 1e6
            size = " x ".join(map(str, shape))
            first = "" if math.isnan(compiling) else f"{compiling:.1f} s"
            print(f"| {size} | {unit:.0f} us | {ratios} | {ahead} | {first} |", flush=True)
        with pool() as process:
            what = (args.loss, SHAPES[0][0], args.seconds, args.rounds)
            words, found = process.apply(training_step, what)
    steps = found.pop("step")
    print(
        f"\nA training step of the quick preset ({words}): {statistics.median(steps) * 1e3:.2f} ms"
    )
    for name, times in found.items():
        share = statistics.median(a / b for a, b in zip(times, steps, strict=True))
        print(
            f"{name} at {SHAPES[0][0]} x {SHAPES[0][1]}: {statistics.median(times) * 1e6:.0f} us, "
            f"{share:.1%} of it"
        )


if __name__ == "__main__":
    main()
