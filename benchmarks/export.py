"""What a file of `apl export RUN --to onnx` says of real images, beside the run itself.

    python benchmarks/export.py RUN --images 10000

RUN: one on CIFAR-10.  Needs the extra `export`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnxruntime

from apl.data.sources import load_data
from apl.training.export import export_run
from apl.training.machine import Machine
from apl.training.use import load_run

BATCH = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("export.onnx"))
    asked = parser.parse_args()
    run = load_run(asked.run, Machine(device="cpu"))
    print(export_run(run, asked.out, "onnx").checked)
    images = load_data("cifar10").test.images[: asked.images].numpy()
    session = onnxruntime.InferenceSession(str(asked.out), providers=["CPUExecutionProvider"])
    parts = np.array_split(images, max(1, len(images) // BATCH))
    began = time.process_time()
    ours = np.concatenate([run.predict_proba(part) for part in parts])
    between = time.process_time()
    theirs = np.concatenate([session.run(None, {"samples": part})[0] for part in parts])
    ended = time.process_time()
    alike = (ours.argmax(1) == theirs.argmax(1)).mean()
    print(
        f"{len(images):,} images of CIFAR-10's test set: probabilities differ by "
        f"{np.abs(ours - theirs).max():.2g} at most, same class {alike:.4%}; "
        f"{between - began:.1f} s of processor time here, {ended - between:.1f} s in ONNX Runtime"
    )


if __name__ == "__main__":
    main()
