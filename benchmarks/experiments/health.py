"""A data set's health: what `apl.detect.health` finds of planted copies, strangers and blurred
images, and what it costs beside finding wrong labels.

    python benchmarks/experiments/health.py [--images 8000] [--planted 200] [--texts FILE] [--cost]

CIFAR-10's first training images, seen by lite0 (pretrained on ImageNet), with --planted of them
again as JPEG of quality 75, scaled to 24 pixels and back, cut by 1 and 2 pixels, and mirrored;
and as many MNIST digits, with labels drawn at random.  --texts: clinc150_full.json, 20 questions of
each class and all of no class, these with labels drawn at random, by minilm.  --cost: processor
time beside that of the heads of `apl find` on the same features.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from sklearn.metrics import roc_auc_score

from apl.data.sources import load_data
from apl.detect.health import Health, health_of
from apl.features.make import make_backbone
from apl.training.crossfit import cross_fit

Array = np.ndarray[Any, Any]


def seen_by(name: str, samples: Any) -> torch.Tensor:
    """Features of images or texts, a batch at a time."""
    backbone, parts = make_backbone(name), []
    for k in range(0, len(samples), backbone.batch):
        parts.append(torch.as_tensor(backbone.of(samples[k : k + backbone.batch])).float())
    return torch.cat(parts)


def changed(image: Array) -> dict[str, Array]:
    """An image as people keep it twice."""
    file, whole = io.BytesIO(), Image.fromarray(image)
    whole.save(file, "jpeg", quality=75)
    side = whole.size
    return {
        "jpeg": np.array(Image.open(file)),
        "resized": np.array(whole.resize((24, 24)).resize(side)),
        "cropped": np.array(whole.crop((2, 2, side[0] - 1, side[1] - 1)).resize(side)),
        "mirrored": image[:, ::-1].copy(),
    }


def images(count: int, planted: int) -> tuple[torch.Tensor, Array, Array, Array, Array]:
    """Features, labels and pixels; what each is ('' as it came), and of which it is a copy."""
    rng = np.random.default_rng(0)
    data = load_data("cifar10").train
    pixels, labels = data.images[:count].numpy(), data.labels.given[:count]
    kinds, of, more = [""] * count, [-1] * count, []
    for i in rng.permutation(count)[:planted].tolist():
        for kind, image in changed(pixels[i]).items():
            kinds.append(kind)
            of.append(i)
            more.append(image)
    for digit in load_data("mnist").test.images[:planted].numpy():
        grey = Image.fromarray(digit[..., 0]).resize((32, 32))
        kinds.append("digit")
        of.append(-1)
        more.append(np.array(grey.convert("RGB")))
    source = np.array(of)
    drawn = rng.integers(0, 10, len(of))
    given = np.where(source >= 0, labels[source.clip(0)], drawn)
    given[:count] = labels
    whole = np.concatenate([pixels, np.stack(more)])
    return seen_by("lite0", torch.from_numpy(whole)), given, whole, np.array(kinds), source


def texts(file: Path) -> tuple[torch.Tensor, Array, Array]:
    """Features and labels of CLINC150's questions, and which belong to no class."""
    content, rng = json.loads(file.read_text(encoding="utf-8")), np.random.default_rng(0)
    by_class: dict[str, list[str]] = {}
    for text, name in content["train"]:
        by_class.setdefault(name, []).append(text)
    names = sorted(by_class)
    inside = [(text, k) for k, name in enumerate(names) for text in by_class[name][:20]]
    outside = [text for part in content if part.startswith("oos") for text, _ in content[part]]
    labels = [k for _, k in inside] + rng.integers(0, len(names), len(outside)).tolist()
    strange = np.arange(len(labels)) >= len(inside)
    return seen_by("minilm", [text for text, _ in inside] + outside), np.array(labels), strange


def tell_strangers(name: str, found: Health, strange: Array, among: Array) -> None:
    """AUROC of the outlier score, and the shares that are flagged."""
    score, flags = found.scores["outlier"], found.issues["outlier"]
    auroc = roc_auc_score(strange[among], -score[among])
    others = flags[among & ~strange].mean()
    print(f"{name}: AUROC {auroc:.4f}, flagged {flags[strange].mean():.1%}, others {others:.1%}")


def tell_cost(name: str, rows: torch.Tensor, labels: Array, pixels: Array | None) -> None:
    """Processor time of both."""
    began = time.process_time()
    health_of(rows, labels, pixels)
    middle = time.process_time()
    cross_fit(rows, labels, int(labels.max()) + 1)
    health, heads = middle - began, time.process_time() - middle
    print(f"{name}: health {health:.1f} s, heads {heads:.1f} s of a processor")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--planted", type=int, default=200)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--cost", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, labels, pixels, kinds, source = images(given.images, given.planted)
    found = health_of(rows, labels, pixels)
    for kind in ("jpeg", "resized", "cropped", "mirrored"):
        at = np.flatnonzero(kinds == kind)
        same = (found.copies[at] == found.copies[source[at]]) & (found.copies[at] >= 0)
        print(f"{kind}: {same.mean():.1%} are found with their original")
    alone = (kinds == "") & ~np.isin(np.arange(len(kinds)), source)
    print(f"copies among the others: {found.issues['near_duplicate'][alone].mean():.1%}")
    whole = (kinds == "") | (kinds == "digit")
    apart = health_of(rows[whole], labels[whole])
    digit = kinds[whole] == "digit"
    tell_strangers("MNIST among CIFAR-10", apart, digit, np.ones(len(digit), bool))
    first = pixels[: given.images]
    for radius in (1.0, 1.5, 2.0):
        blurred = [Image.fromarray(x).filter(ImageFilter.GaussianBlur(radius)) for x in first[:500]]
        both = np.concatenate([first, np.stack([np.asarray(image) for image in blurred])])
        flags = health_of(None, np.zeros(len(both), np.int64), both).issues["blurry"]
        share, others = flags[len(first) :].mean(), flags[: len(first)].mean()
        print(f"blurred by {radius} pixels: {share:.1%} are flagged, others {others:.2%}")
    if given.cost:
        tell_cost("CIFAR-10", rows, labels, pixels)
    if given.texts:
        rows, labels, strange = texts(given.texts)
        every = np.ones(len(strange), bool)
        tell_strangers("CLINC150", health_of(rows, labels), strange, every)
        if given.cost:
            tell_cost("CLINC150", rows[~strange], labels[~strange], None)


if __name__ == "__main__":
    main()
