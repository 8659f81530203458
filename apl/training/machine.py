"""Where and how a run is computed, which its outcome must not depend on: devices, threads, data."""

from __future__ import annotations

import ctypes
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apl.config.presets import THREADS
from apl.cores import cores
from apl.data.reading import AS_USUAL
from apl.errors import BadInput, require
from apl.names import option
from apl.training.ddp import Group

if TYPE_CHECKING:
    import torch

    from apl.config.config import Config


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where and how: fields with a help are options of `apl train`; none is part of what a run is.

    (The number of threads decides the order of float sums, so the last bits of a result.)

    Attributes:
        threads: CPU threads, 0 for all cores; None for 1 on digits and in a study, else 0.
        device: 'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'.
        compile: Whether torch.compile and CUDA graphs are used: for long runs.
        checkpoint_minutes: Minutes between checkpoints inside an epoch.
        data_dir: Where data sets lie; None for $APL_DATA, else the user's cache.
        download: Whether a data set that is missing is fetched.
        max_broken: The share of files that may be broken.
        classes: Names of classes of the user's data, with commas; others are left out.
        max_pixels: The most pixels of an image.
        image_folder: Where the files of a list are; 'none' where it has none.
        layout: What folders are, 'classes' or 'splits'; '' where that is judged.
        skip: Folders not to read, with commas; 'none' reads all.
        text_column: The column of a table with texts; 'none' where it has none.
        imports: The `module:name`s that the user typed: no others are imported.
    """

    threads: int | None = option(
        "CPU threads; 0: all cores [default: 1 for digits and in a study, else 0]",
        None,
    )
    device: str = option("auto, cpu, cuda, cuda:1, mps", "auto")
    compile: bool = option(
        "use torch.compile and CUDA graphs: for long runs",
        False,
    )
    checkpoint_minutes: float = option("minutes between checkpoints inside an epoch", 10.0)
    data_dir: Path | None = option(
        "where data sets lie [default: $APL_DATA, else the user's cache]", None
    )
    download: bool = option("fetch a data set that is missing", True)
    max_broken: float = option("share of broken files allowed", 0.01)
    classes: str = option("your classes, with commas; others are left out", "")
    max_pixels: int = option("most pixels of an image", AS_USUAL.max_pixels)
    image_folder: str = option("where your list's files are; none: it has none", "")
    layout: str = option("what your folders are: classes or splits", "")
    skip: str = option("folders not to read, with commas; none: read all", "")
    text_column: str = option("your table's column of texts; none: it has none", "")
    imports: tuple[str, ...] = ()  # the `module:name`s that the user typed: no others are imported

    def __post_init__(self) -> None:
        threads, minutes = self.threads or 0, self.checkpoint_minutes
        require(threads >= 0, "threads", threads, "a whole number >= 0")
        fits = 0 <= minutes < float("inf")
        require(fits, "checkpoint_minutes", minutes, "a finite number >= 0")
        share = 0 <= self.max_broken <= 1
        require(share, "max_broken", self.max_broken, "a number from 0 to 1")
        known = re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device) is not None
        require(known, "device", self.device, "auto, cpu, cuda, cuda:N, mps")

    def threads_for(self, dataset: str) -> int:
        """The threads that a run by itself takes; 0 for all cores."""
        return THREADS.get(dataset, 0) if self.threads is None else self.threads


def choose_device(name: str) -> torch.device:
    """The device that `name` means; 'auto' is the first of CUDA, MPS and CPU that is there.  Each
    process that torchrun started has its own."""
    import torch

    group = Group.here()
    if group.size > 1:
        return group.device(name)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[device.type]
    if (device.index or 0) >= there:
        raise BadInput(f"there is no device {name!r} here; accepted: auto, or one of this machine")
    return device


def set_up(config: Config, machine: Machine) -> torch.device:
    """The device, and what torch must be told before anything runs there."""
    import torch

    # The threads decide the order of float sums, so they are part of the result's story.
    threads = machine.threads_for(config.dataset)
    if threads:
        torch.set_num_threads(threads)
    device = choose_device(machine.device)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    tf32 = config.precision != "float32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    return device


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed tensors for the next step, in this process.

    By default it gives large blocks back to the system at once and asks for them again in the
    next step; on a CPU the page faults of that cost up to a quarter of the training time.  Does
    nothing where there is no glibc.
    """
    mmap_max, trim_threshold = -4, -1  # mallopt's names for its parameters
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # macOS, Windows, musl
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def environment() -> dict[str, Any]:
    """What else a result depends on: versions, machine, git commit."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": version("numpy"),
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        run = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
