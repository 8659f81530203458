"""What the tests share: one thread each (they run side by side), real data where it lies."""

from __future__ import annotations

import functools
import multiprocessing
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
# Compile here: the processes that Inductor starts beside each of the tests' would load torch again.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# The compiler knows the instructions that the processor says it has: to try costs seconds.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import CONTEXT, answer, forked, start, stop

PATIENCE = 600  # seconds: who takes longer hangs, however busy the machine is
ROOT = Path(__file__).resolve().parent.parent
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_configure(config: pytest.Config) -> None:
    """What runs tests has torch with one thread; what hands them out to others needs no torch."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return
    import torch

    torch.set_num_threads(1)
    # What torch compiles for one instruction set, it would take for another's
    # (ATEN_CPU_CAPABILITY): the key of its cache does not tell them apart.
    user = os.getuid() if hasattr(os, "getuid") else ""
    chip = torch.backends.cpu.get_cpu_capability().replace(" ", "")
    compiled = os.path.join(tempfile.gettempdir(), f"torchinductor_tests_{user}", chip)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", compiled)
    if any(Path(asked).is_dir() for asked in config.args):  # for a single file it may not pay
        start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest in one process begins first, so that no core waits for it at the end."""
    items.sort(key=lambda item: item.name != "test_kernels_under_the_interpreter")


@pytest.fixture(scope="session")
def cifar10() -> str:
    """Skips where real CIFAR-10 is not in $APL_DATA or the cache folder."""
    from apl.data.folders import available, data_folder

    if not available("cifar10"):
        pytest.skip(
            f"real CIFAR-10 is not in {data_folder()}; set APL_DATA to a folder that has it"
        )
    return "cifar10"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own: where decoded images lie in it."""
    from apl.data.folders import cache_folder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder() / "decoded"


def pytest_sessionfinish() -> None:
    stop()


@pytest.fixture(autouse=True)
def workers_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of studies are forked from a process that has loaded torch, which takes seconds
    in each; those of `fresh_cli` and of programs that tests start are not."""
    monkeypatch.setattr(multiprocessing, "get_context", forked)


def checked(
    arguments: tuple[str, ...], code: int, done: subprocess.CompletedProcess[str]
) -> subprocess.CompletedProcess[str]:
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


class Begun:
    """An `apl ...` of its own that has begun, and what it will have said."""

    def __init__(self, arguments: tuple[str, ...], folder: Path, env: dict[str, str]) -> None:
        self._out = tempfile.TemporaryDirectory()
        self.arguments = arguments
        given = {**os.environ, "COLUMNS": "200", **env}
        self.process = CONTEXT.Process(
            target=answer, args=(arguments, folder, given, Path(self._out.name))
        )
        self.process.start()

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def end(self) -> subprocess.CompletedProcess[str]:
        """Wait for it, and kill it where it hangs."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        with self._out as out:
            printed = [Path(out, name).read_text(encoding="utf-8") for name in ("out", "err")]
        code = self.process.exitcode or 0
        return subprocess.CompletedProcess(self.arguments, code, *printed)


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., Begun]:
    """Begins what `cli` runs, and does not wait."""
    return lambda *arguments, **env: Begun(arguments, tmp_path, env)


@pytest.fixture
def cli(begin: Callable[..., Begun]) -> Cli:
    """Runs `apl ...` as a user would, in an empty folder."""

    def run(*arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        return checked(arguments, code, begin(*arguments, **env).end())

    return run


@pytest.fixture
def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """As `cli`, in the process of the test, where the workers of a study are forked."""

    from apl.cli import app as command_line

    def run(*arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as then:
            then.chdir(tmp_path)
            then.setattr(sys, "argv", ["apl", *arguments])
            for name, value in {"COLUMNS": "200", **env}.items():
                then.setenv(name, value)
            capsys.readouterr()
            returned = command_line.run(arguments)
        done = subprocess.CompletedProcess(arguments, returned, *capsys.readouterr())
        return checked(arguments, code, done)

    return run


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have no pictures, which take longer to draw than all else: for what they say."""
    monkeypatch.setattr("apl.report.page._pictures", lambda study: [])


@pytest.fixture
def one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the pictures of a study, all of which are drawn and written alike, one is."""
    from apl.report import pictures

    drawn = pictures._of_all
    monkeypatch.setattr(pictures, "_of_all", lambda parts: dict([*drawn(parts).items()][:1]))


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of reports are laid out, and a grey square stands for each."""
    from PIL import Image

    grey = Image.new("RGB", (4, 4), "grey")
    monkeypatch.setattr("apl.report.page.pixels", lambda figure, dpi: grey)


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches by heads take 300 steps of a round, not 1,000: for what they say.  How well they
    judge in rounds of full length, tests/detect/test_crossfit.py asks."""
    from apl.training.crossfit import Budget, cross_fit

    short = functools.partial(cross_fit, budget=Budget(steps=300))
    monkeypatch.setattr("apl.training.crossfit.cross_fit", short)


@pytest.fixture
def fresh_cli(tmp_path: Path) -> Cli:
    """As `cli`, by a fresh interpreter: for what it reads or loads when it starts."""

    def run(*arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(ROOT / "cli.py"), *arguments],
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200", **env},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return checked(arguments, code, done)

    return run
