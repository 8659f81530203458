"""Images per second of training on the CPU: our loop, the ordinary way, a bare step, the limits.

    python benchmarks/training.py [--data-dir DIR] [--threads 2] [--network cnn8] [--width 64]
                                  [--steps 8] [--rounds 3]

All ways train the paper's network with NCE+RCE on CIFAR-10 images, 128 to a step, and are timed in
turn in every round; each keeps its best round, so that what else runs on the machine falls on all
of them.  Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Generator
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from losses import naive_nce_rce
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from apl import make_loss
from apl.config.config import Config, make_config
from apl.data.folders import data_folder
from apl.data.pixels import crop_and_flip, pad, to_float
from apl.errors import Interrupted
from apl.training.listener import Listener
from apl.training.machine import Machine, keep_freed_memory
from apl.training.networks import make_network
from apl.training.prepare import prepare
from apl.training.train import train

WARM_UP = 2  # steps of a round that are not counted
BATCH = 128


def seconds_per_step(clock: list[float]) -> float:
    """The median of the differences, since a step may meet an interruption from elsewhere."""
    steps = sorted(b - a for a, b in itertools.pairwise(clock))
    return steps[len(steps) // 2]


def our_loop(config: Config, machine: Machine, steps: int) -> float:
    """Seconds per step of `apl train` itself, which asks `should_stop` after every step."""
    clock: list[float] = []

    def stop() -> bool:
        clock.append(time.perf_counter())
        return len(clock) > WARM_UP + steps

    with contextlib.suppress(Interrupted):
        train(config, machine=machine, listener=Listener(should_stop=stop))
    return seconds_per_step(clock[WARM_UP:])


def ordinary_way(config: Config, machine: Machine) -> Generator[None, None, None]:
    """One step per `next`, as most training scripts are written: PIL transforms in two worker
    processes, contiguous weights, autograd through the formula, `.item()` in every step."""
    data = prepare(config, machine)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    images = torchvision.datasets.CIFAR10(
        data_folder(machine.data_dir), train=True, transform=transform
    )
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


def ordinary_seconds(config: Config, machine: Machine, steps: int) -> float:
    """Seconds per step of the ordinary way, measured in a process without our memory setting."""
    torch.set_num_threads(machine.threads or 1)
    with contextlib.closing(ordinary_way(config, machine)) as step:
        return timed(step.__next__, steps)


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


def data_path(config: Config, machine: Machine) -> Callable[[], object]:
    """What stands between the images in memory and the network's input, for one batch."""
    data = prepare(config, machine)
    padded = pad(data.train.images)
    indices = torch.randperm(len(data.train.images))[:BATCH]
    offsets = torch.randint(0, 9, (BATCH, 2))
    flips = torch.rand(BATCH) < 0.5
    return lambda: to_float(crop_and_flip(padded, indices, offsets, flips), data.mean, data.std)


def updates(config: Config) -> dict[str, Callable[[], object]]:
    """The optimiser's step in every form torch has, and the clipping before it."""
    found: dict[str, Callable[[], object]] = {}
    forms = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    for name, form in forms.items():
        network = make_network(config.network, (32, 32, 3), 10, config.width)
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimiser = torch.optim.SGD(network.parameters(), 0.0, 0.9, weight_decay=1e-4, **form)
        found[f"update, {name}"] = optimiser.step
    parameters = list(network.parameters())
    found["clipping the gradient"] = lambda: nn.utils.clip_grad_norm_(parameters, 1e9)
    return found


def evaluation(config: Config, size: int) -> Callable[[], object]:
    """The forward pass of 2,048 images without gradients, `size` at a time."""
    network = make_network(config.network, (32, 32, 3), 10, config.width).eval()
    images = torch.randn(2048, 3, 32, 32).to(memory_format=torch.channels_last)

    def forward() -> None:
        with torch.inference_mode():
            for batch in images.split(size):
                network(batch)

    return forward


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
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--network", default="cnn8")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    machine = Machine(threads=given.threads, device="cpu", data_dir=given.data_dir)
    config = make_config("paper", loss="nce_rce", network=given.network, width=given.width)
    half = dataclasses.replace(config, precision="bf16")
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)

    bare = {
        "bare step, contiguous": bare_step(config, torch.contiguous_format, False),
        "bare step, channels-last": bare_step(config, torch.channels_last, False),
        "bare step, compiled": bare_step(config, torch.channels_last, True),
    }
    parts = {"data path": data_path(config, machine), **updates(config)}
    sizes = {size: evaluation(config, size) for size in (128, 512, 2048)}
    side = 2048
    a, b = torch.randn(side, side), torch.randn(side, side)
    channels, maps = 256, torch.randn(64, 256, 32, 32).to(memory_format=torch.channels_last)
    filters = torch.randn(channels, channels, 3, 3).to(memory_format=torch.channels_last)
    best: dict[str, float] = {}

    def keep(name: str, seconds: float) -> None:
        best[name] = min(seconds, best.get(name, math.inf))

    keep_freed_memory()  # as `apl train` does
    context = multiprocessing.get_context("spawn")
    elsewhere = concurrent.futures.ProcessPoolExecutor(1, context)
    for _ in range(given.rounds):
        ordinary = elsewhere.submit(ordinary_seconds, config, machine, given.steps)
        keep("ordinary way", ordinary.result())
        keep("our loop", our_loop(config, machine, given.steps))
        keep("our loop, bf16", our_loop(half, machine, given.steps))
        for name, part in parts.items():
            keep(name, timed(part, 5 * given.steps))
        for name, step in bare.items():
            keep(name, timed(step, given.steps))
        for size, forward in sizes.items():
            keep(f"evaluation, {size} at a time", timed(forward, 1))
        keep("matmul", timed(lambda: a @ b, given.steps))
        keep("convolution", timed(lambda: F.conv2d(maps, filters, padding=1), given.steps))

    work = 3 * 2 * multiply_adds(make_network(given.network, (32, 32, 3), 10, given.width))
    peaks = {
        "float32 matmul": 2 * side**3 / best["matmul"],
        "large convolution": 2 * 9 * channels * maps.numel() / best["convolution"],
    }
    loops = ("our loop", "our loop, bf16")
    rates = {name: BATCH / best[name] for name in ("ordinary way", *loops, *bare)}
    limits = {f"limit: {name}": peak / work for name, peak in peaks.items()}
    speeds = ", ".join(f"{name} {peak / 1e9:.0f} GFLOP/s" for name, peak in peaks.items())
    print(f"{given.network} width {given.width}, {given.threads} threads; {speeds}\n")
    print(
        "| way | images/s | over the ordinary way | "
        + " | ".join(limits).replace("limit: ", "of the ")
        + " |"
    )
    print("| --- | --- | --- |" + " --- |" * len(limits))
    for name, rate in {**rates, **limits}.items():
        shares = " | ".join(f"{rate / limit:.0%}" for limit in limits.values())
        print(f"| {name} | {rate:.0f} | {rate / rates['ordinary way']:.2f} | {shares} |")
    print("\n| part of a step | of our step |\n| --- | --- |")
    for name in parts:
        print(f"| {name} | {best[name] / best['our loop']:.2%} |")
    print("\n| evaluation | images/s |\n| --- | --- |")
    for size in sizes:
        print(f"| {size} at a time | {2048 / best[f'evaluation, {size} at a time']:.0f} |")


if __name__ == "__main__":
    main()
