"""What this machine has and makes of the kernels, as rows to print."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from apl.errors import BadInput
from apl.kernels.bases import Term
from apl.losses import loss_terms
from apl.machine import available, choose_device, data_folder
from apl.presets import DATASETS


def diagnosis(data_dir: str | Path | None = None) -> list[tuple[str, str]]:
    """Pairs of what and how: triton, devices, data sets, and what stands in the way."""
    found = [("triton", _version("triton") or "not installed"), ("device", _device())]
    folder = data_folder(data_dir)
    found.append(("data folder", f"{folder}{'' if folder.is_dir() else ' (not there yet)'}"))
    found += [
        (f"data set {name}", "there" if available(name, data_dir) else "not there")
        for name in DATASETS
    ]
    return found


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _device() -> str:
    device = choose_device("auto")
    if device.type != "cuda":
        return f"{device} ({torch.get_num_threads()} threads)"
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return f"{device} ({', '.join(names)})"


def kernel_table(loss: str | None, static: bool, arch: int, seconds: float) -> list[dict[str, Any]]:
    """Rows of `apl bench kernels`: the compiled code where `static`, of every loss unless one is
    given; else times on the GPU, of nce_rce unless another loss is given."""
    if static:
        try:
            from apl.kernels import static as compiled
        except ImportError as error:
            raise BadInput(f"--static needs triton for Linux: {error}") from None
        if arch not in compiled.ARCHITECTURES:
            accepted = ", ".join(map(str, compiled.ARCHITECTURES))
            raise BadInput(f"arch is {arch}; accepted: {accepted}")
        terms = None if loss is None else _terms(loss)
        return compiled.table(compiled.inspect(compiled.shipped(terms), arch))
    if not torch.cuda.is_available():
        raise BadInput(
            "there is no CUDA device to time; --static shows the compiled code without one, and "
            "benchmarks/losses.py times the CPU"
        )
    from apl.kernels import bench

    timed = loss or "nce_rce"
    _terms(timed)  # says what is wrong with it
    return bench.measure({timed: lambda classes: loss_terms(timed, classes)}, seconds=seconds)


def _terms(loss: str) -> tuple[Term, ...]:
    try:
        return loss_terms(loss, 10)
    except ValueError as error:
        raise BadInput(str(error)) from None
