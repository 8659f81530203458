"""What this machine has and makes of the kernels, as rows to print."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from apl.data.folders import available, data_folder
from apl.names import DATASETS
from apl.training.machine import choose_device


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
