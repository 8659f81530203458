"""The wheel: what is in it, and that its one import name collides with nobody's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from conftest import PATIENCE, ROOT

import apl

# Asked, not imported: pip, once imported, gives the process an older distutils, without which
# torch compiles nothing.
pytestmark = pytest.mark.skipif(
    not any(metadata.distributions(name="pip")), reason="wheels are built and installed by pip"
)

BUILT_FROM = ("apl", "kernels", "cli.py", "pyproject.toml", "README.md", "LICENSE")


def python(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def pip(*arguments: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    options = ("--quiet", "--disable-pip-version-check", "--no-input")
    return python("-m", "pip", *options, *map(str, arguments), cwd=cwd, **env)


def build(project: Path, **env: str) -> Path:
    """The wheel of a project, built offline by the setuptools of this environment."""
    out = project / "wheel"
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out)
    done = pip("wheel", *options, project, cwd=project, **env)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.iterdir()
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # From a copy: a build leaves folders behind, and would pack what an older one left.
    project = tmp_path_factory.mktemp("project")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, project)
    # The version is read without importing anything: an isolated build has no torch.
    trap = tmp_path_factory.mktemp("trap")
    (trap / "torch.py").write_text("raise SystemExit('the build imports torch')\n")
    return build(project, PYTHONPATH=str(trap))


@pytest.mark.slow
def test_the_wheel_holds_apl_and_nothing_else(wheel: Path) -> None:
    dist_info = f"apl_noisy_labels-{apl.__version__}.dist-info"
    assert wheel.name == f"apl_noisy_labels-{apl.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        commands = file.read(f"{dist_info}/entry_points.txt").decode()
    assert {name.split("/")[0] for name in names} == {"apl", dist_info}
    assert f"{dist_info}/licenses/LICENSE" in names
    assert "apl = apl.cli:main" in commands
    assert names >= {"apl/py.typed", "apl/config/published.csv", "apl/report/page.jinja"}
    here = {
        f"{installed}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, installed in (("apl", "apl"), ("kernels", "apl/kernels"))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("apl/")} == here


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of another package that is imported as `kernels`, as Hugging Face's is: its name
    and one function, made here, since no test downloads."""
    project = tmp_path_factory.mktemp("other")
    (project / "kernels").mkdir(parents=True)
    (project / "kernels" / "__init__.py").write_text("def get_kernel(name): ...\n")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "kernels"\nversion = "0"\n[tool.setuptools]\npackages = ["kernels"]\n'
    )
    return build(project)


IMPORTS = """
import kernels
from kernels import get_kernel
import apl, apl.kernels
from apl import make_loss
print(apl.__file__, apl.kernels.__file__, kernels.__file__, make_loss("nce_rce", 10), sep="\\n")
"""


@pytest.mark.slow
def test_it_can_be_installed_beside_hugging_faces_kernels(
    wheel: Path, other: Path, tmp_path: Path
) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for package in (other, wheel):
        done = pip("install", "--no-deps", "--target", target, package, cwd=elsewhere)
        assert done.returncode == 0, done.stderr
        for name in ("apl", "kernels"):  # pip leaves a folder of another package as it is
            assert f"{target / name} already exists" not in done.stderr
    done = python("-c", IMPORTS, cwd=elsewhere, PYTHONPATH=str(target))
    assert done.returncode == 0, done.stderr
    *files, loss = done.stdout.splitlines()
    assert [Path(file).parent for file in files] == [
        target / "apl",
        target / "apl" / "kernels",
        target / "kernels",
    ]
    assert "nce_rce" in loss
