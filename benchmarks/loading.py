"""Own images: the first pass and later epochs, beside torchvision's ImageFolder with a DataLoader.

    python benchmarks/loading.py [--pngs 50000] [--jpegs 3000] [--rounds 3] [--keep DIR]

Small PNGs (CIFAR-10's where it lies in $APL_DATA, else noise) and larger JPEGs are written to a
folder, which --keep leaves there for the next time.  In one process, round by round, each side
reads all of them, we first in every other round: ours decodes into an empty cache and takes an
epoch of batches, as the first epoch of a run does; theirs takes an epoch of a DataLoader with 2
workers, whose transform resizes and cuts to the same size.  Later epochs are the same again, from
our map and from their files.  Both give normalised float batches of 128, shuffled, not augmented.

What is printed is images a second, the median of the rounds, and the median of the rounds' ratios
with the least and the greatest: on a machine that does other work too, only these mean something.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from apl.config.config import make_config
from apl.data.sources import load_data
from apl.errors import BadInput
from apl.training.batches import Batches

BATCH, WORKERS = 128, 2

Way = Callable[[Path, int], tuple[float, float]]  # folder, side -> seconds: first pass, later one


def write_pngs(root: Path, count: int) -> None:
    """Images of CIFAR-10's size in ten folders."""
    try:
        images = load_data("cifar10", download=False).train.images.numpy()
    except BadInput:
        print("CIFAR-10 is not there: PNGs of noise, which take longer to decode")
        images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    _write(root, (Image.fromarray(images[i % len(images)]) for i in range(count)), "png")


def write_jpegs(root: Path, count: int) -> None:
    """Photographs' size and smoothness, 500 x 375 as ImageNet's are on average."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 12, 16, 3), np.uint8)
    resized = (
        Image.fromarray(image).resize((500, 375), Image.Resampling.BICUBIC) for image in coarse
    )
    _write(root, resized, "jpg")


def _write(root: Path, images: Iterable[Image.Image], suffix: str) -> None:
    """The images in folders of ten classes, in a folder that is there once it is whole."""
    part = root.with_name(f"{root.name}.part")
    for k in range(10):
        (part / str(k)).mkdir(parents=True)
    for i, image in enumerate(images):
        image.save(part / str(i % 10) / f"{i:06d}.{suffix}")
    part.rename(root)


@contextlib.contextmanager
def cache() -> Iterator[None]:
    """An empty cache folder."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        yield


def seconds(batches: Iterable[object], since: float) -> float:
    for _ in batches:
        pass
    return time.perf_counter() - since


def ours(root: Path, side: int) -> tuple[float, float]:
    """Seconds of the first pass, decoding included, and of a later epoch."""
    with cache():
        start = time.perf_counter()
        data = load_data(root, image_size=side, say=lambda line: None)
        # The held-out images too, as theirs takes all.
        test = (data.to_float(part) for part in data.test.images.split(BATCH))
        batches = Batches(data, make_config(batch_size=BATCH, augment=False), torch.device("cpu"))
        first = seconds(batches.of(0), start) + seconds(test, time.perf_counter())
        start = time.perf_counter()
        test = (data.to_float(part) for part in data.test.images.split(BATCH))
        return first, seconds(batches.of(1), start) + seconds(test, time.perf_counter())


def theirs(root: Path, side: int) -> tuple[float, float]:
    """The same of ImageFolder and DataLoader; the workers stay between the epochs."""
    start = time.perf_counter()
    steps = [transforms.Resize(side), transforms.CenterCrop(side), transforms.ToTensor()]
    steps += [transforms.Normalize((0.5,) * 3, (0.25,) * 3)]
    folder = datasets.ImageFolder(str(root), transforms.Compose(steps))
    loader = DataLoader(folder, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    first = seconds(loader, start)
    return first, seconds(loader, time.perf_counter())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pngs", type=int, default=50_000)
    parser.add_argument("--jpegs", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    columns = "{:>7} {:26} {:6} {:>10} {:>15} {:>20}"
    print(
        columns.format("images", "kind", "pass", "ours /s", "ImageFolder /s", "ratio"), flush=True
    )
    work = asked.keep or Path(tempfile.mkdtemp())
    try:
        for name, count, side, write in (
            ("32 x 32 PNG", asked.pngs, 32, write_pngs),
            ("500 x 375 JPEG to 64 x 64", asked.jpegs, 64, write_jpegs),
        ):
            root = work / f"{count} of {name}"
            if not root.is_dir():
                write(root, count)
            times: dict[Way, list[tuple[float, float]]] = {ours: [], theirs: []}
            for turn in range(asked.rounds):
                for way in (ours, theirs) if turn % 2 == 0 else (theirs, ours):
                    times[way].append(way(root, side))
            for number, which in enumerate(("first", "later")):
                us, them = ([pair[number] for pair in times[way]] for way in (ours, theirs))
                ratios = [b / a for a, b in zip(us, them, strict=True)]
                spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
                rates = (f"{count / statistics.median(seen):,.0f}" for seen in (us, them))
                print(columns.format(f"{count:,}", name, which, *rates, spread), flush=True)
    finally:
        if asked.keep is None:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
