"""Random resized crops, flips and colours: our batches beside torchvision's transforms, on a CPU.

    python benchmarks/batches.py [--images 512] [--rounds 5]

The same images lie in memory as uint8, nothing is decoded.  In one process with one thread, round
by round, ours augments whole batches of 128; theirs, as a DataLoader's worker does, each image by
itself, and stacks them.  Both give normalised float batches.  What is printed is images a second,
the median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from apl.config.config import make_config
from apl.data.dataset import Dataset, Split
from apl.noise.labels import Labels
from apl.training.batches import Batches

BATCH, COLOUR = 128, 0.4
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def theirs(images: Tensor, size: int, colour: float) -> Iterable[Tensor]:
    steps: list[torch.nn.Module] = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
    if colour:
        steps.append(v2.ColorJitter(colour, colour, colour))
    transform = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
    channels_first = images.permute(0, 3, 1, 2)
    for chosen in torch.randperm(len(images)).split(BATCH):
        yield torch.stack([transform(channels_first[i]) for i in chosen])


def seconds(batches: Iterable[object]) -> float:
    start = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    columns = "{:>10} {:>5} {:7} {:>9} {:>15} {:>6}"
    print(columns.format("images", "crop", "colour", "ours /s", "torchvision /s", "ratio"))
    for side, size in ((32, 32), (64, 56), (256, 224)):
        images = torch.randint(256, (asked.images, side, side, 3), dtype=torch.uint8)
        labels = np.zeros(len(images), np.int64)
        split = Split(images, Labels(labels, labels, None))
        data = Dataset("own", ("a", "b"), split, split, MEAN, STD)
        for colour in (0.0, COLOUR):
            device = torch.device("cpu")
            config = make_config(batch_size=BATCH, augment=True, crop_size=size, colour=colour)
            batches = Batches(data, config, device)
            times = [
                (seconds(batches.of(epoch)), seconds(theirs(images, size, colour)))
                for epoch in range(asked.rounds)
            ]
            us, them = (len(images) / statistics.median(each) for each in zip(*times, strict=True))
            figures = (f"{us:,.0f}", f"{them:,.0f}", f"{us / them:.2f}")
            print(columns.format(f"{side} x {side}", size, f"{colour:g}", *figures))


if __name__ == "__main__":
    main()
