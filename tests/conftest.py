"""What the tests share: one thread each (they run side by side), real data where it lies."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from apl.data.folders import available, data_folder

torch.set_num_threads(1)

# What torch compiles for one instruction set, it would take for another's (ATEN_CPU_CAPABILITY):
# the key of its cache does not tell them apart.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    os.path.join(
        tempfile.gettempdir(),
        f"torchinductor_tests_{os.getuid() if hasattr(os, 'getuid') else ''}",
        torch.backends.cpu.get_cpu_capability().replace(" ", ""),
    ),
)

ROOT = Path(__file__).resolve().parent.parent
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cifar10() -> str:
    """Skips where real CIFAR-10 is not in $APL_DATA or the cache folder."""
    if not available("cifar10"):
        pytest.skip(
            f"real CIFAR-10 is not in {data_folder()}; set APL_DATA to a folder that has it"
        )
    return "cifar10"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Runs `apl ...` as a user would, in an empty folder."""

    def run(*arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *arguments],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200", **env},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    return run
