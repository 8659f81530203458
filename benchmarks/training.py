"""Images per second of training on the CPU: our loop, the ordinary way, a bare step, the limit.

    python benchmarks/training.py [--data-dir DIR] [--threads 2] [--network cnn8] [--width 64]
                                  [--steps 8] [--rounds 3]

All ways train the paper's network with NCE+RCE on CIFAR-10 images, 128 to a step, and are timed in
turn in every round; each keeps its best round, so that what else runs on the machine falls on all
of them.  Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Generator
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from apl import make_loss
from apl.config import Config, make_config
from apl.data import crop_and_flip, data_folder, pad, to_float
from apl.errors import Interrupted
from apl.networks import make_network
from apl.train import keep_freed_memory, prepare, train
from benchmarks.losses import naive_nce_rce

WARM_UP = 2  # steps of a round that are not counted
BATCH = 128


def seconds_per_step(clock: list[float]) -> float:
    """The median of the differences, since a step may meet an interruption from elsewhere."""
    steps = sorted(b - a for a, b in itertools.pairwise(clock))
    return steps[len(steps) // 2]


def our_loop(config: Config, folder: Path, steps: int) -> float:
    """Seconds per step of `apl train` itself, which asks `should_stop` after every step."""
    clock: list[float] = []

    def stop() -> bool:
        clock.append(time.perf_counter())
        return len(clock) > WARM_UP + steps

    with contextlib.suppress(Interrupted):
        train(config, data_dir=folder, should_stop=stop)
    return seconds_per_step(clock[WARM_UP:])


def ordinary_way(config: Config, folder: Path) -> Generator[None, None, None]:
    """One step per `next`, as most training scripts are written: PIL transforms in two worker
    processes, contiguous weights, autograd through the formula, `.item()` in every step."""
    data, _ = prepare(config, folder)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    images = torchvision.datasets.CIFAR10(folder, train=True, transform=transform)
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=2)
    network = make_network(config.network, (32, 32, 3), 10, config.width)
    network = network.to(memory_format=torch.contiguous_format)
    optimiser = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=1e-4)
    total = right = 0.0
    for batch, targets in loader:
        optimiser.zero_grad()
        logits = network(batch)
        loss = naive_nce_rce(logits, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        total += loss.item()
        right += (logits.argmax(1) == targets).sum().item()
        yield


def bare_step(config: Config, layout: torch.memory_format, compiled: bool) -> Callable[[], None]:
    """Forward, backward and update on one random batch: no data path, no metrics, no clipping."""
    network = make_network(config.network, (32, 32, 3), 10, config.width).to(memory_format=layout)
    batch = torch.randn(BATCH, 3, 32, 32).to(memory_format=layout)
    targets = torch.randint(10, (BATCH,))
    criterion = make_loss("nce_rce", 10)
    optimiser = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)
    forward = torch.compile(network) if compiled else network

    def step() -> None:
        optimiser.zero_grad()
        criterion(forward(batch), targets).backward()
        optimiser.step()

    return step


def data_path(config: Config, folder: Path) -> Callable[[], object]:
    """What stands between the images in memory and the network's input, for one batch."""
    data, _ = prepare(config, folder)
    padded = pad(data.train_images)
    indices = torch.randperm(len(data.train_images))[:BATCH]
    offsets = torch.randint(0, 9, (BATCH, 2))
    flips = torch.rand(BATCH) < 0.5
    return lambda: to_float(crop_and_flip(padded, indices, offsets, flips), data.mean, data.std)


def timed(call: Callable[[], object], steps: int) -> float:
    """Seconds per call: the median of `steps`."""
    for _ in range(WARM_UP):
        call()
    clock = [time.perf_counter()]
    for _ in range(steps):
        call()
        clock.append(time.perf_counter())
    return seconds_per_step(clock)


def multiply_adds(network: nn.Module) -> int:
    """Multiply-adds of the convolutions and linear layers for one image, forward."""
    count = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal count
        assert isinstance(layer.weight, Tensor)
        count += layer.weight.numel() * math.prod(output.shape[2:])

    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(add)
    network.eval()(torch.zeros(1, 3, 32, 32))
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--network", default="cnn8")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    folder = data_folder(given.data_dir)
    config = make_config(
        "paper",
        loss="nce_rce",
        network=given.network,
        width=given.width,
        threads=given.threads,
        device="cpu",
    )
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)

    bare = {
        "bare step, contiguous": bare_step(config, torch.contiguous_format, False),
        "bare step, channels-last": bare_step(config, torch.channels_last, False),
        "bare step, compiled": bare_step(config, torch.channels_last, True),
    }
    prepared = data_path(config, folder)
    side = 2048
    a, b = torch.randn(side, side), torch.randn(side, side)
    best: dict[str, float] = {}

    def keep(name: str, seconds: float) -> None:
        best[name] = min(seconds, best.get(name, math.inf))

    for round_ in range(given.rounds + 1):
        if round_ == 1:
            # From here on as in `apl train`; the ordinary way has the first round too, without.
            keep_freed_memory()
        with contextlib.closing(ordinary_way(config, folder)) as steps:
            keep("ordinary way", timed(steps.__next__, given.steps))
        if round_ == 0:
            continue
        keep("our loop", our_loop(config, folder, given.steps))
        keep("data path", timed(prepared, 5 * given.steps))
        for name, step in bare.items():
            keep(name, timed(step, given.steps))
        keep("matmul", timed(lambda: a @ b, given.steps))

    work = 3 * 2 * multiply_adds(make_network(given.network, (32, 32, 3), 10, given.width))
    peak = 2 * side**3 / best.pop("matmul")
    share = best.pop("data path") / best["our loop"]
    rates = {name: BATCH / seconds for name, seconds in best.items()}
    rates["limit: float32 matmul"] = peak / work
    print(f"{given.network} width {given.width}, {given.threads} threads, matmul {peak / 1e9:.0f}")
    print("GFLOP/s\n\n| way | images/s | over the ordinary way | of the limit |")
    print("| --- | --- | --- | --- |")
    for name in ("ordinary way", "our loop", *bare, "limit: float32 matmul"):
        rate = rates[name]
        print(
            f"| {name} | {rate:.0f} | {rate / rates['ordinary way']:.2f} "
            f"| {rate / rates['limit: float32 matmul']:.0%} |"
        )
    print(f"\nThe data path takes {share:.1%} of a step of our loop.")


if __name__ == "__main__":
    main()
