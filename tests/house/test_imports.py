"""The house has floors: imports point down, without a circle; old paths lead to new places."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path

import pytest
from forked import apart

from apl.moved import MOVED

ROOT = Path(__file__).resolve().parents[2]

# From the ground up.  A module imports what stands below its floor, and within its own package;
# on the ground, whatever lies there.
FLOORS = (
    ("cores", "errors", "files", "moved", "names", "paths", "usercode"),
    ("kernels",),
    ("noise",),
    ("losses",),
    ("data",),
    ("features",),
    ("config",),
    ("runs",),
    ("training",),
    ("detect", "study"),
    ("report",),
    ("cli",),
)
FLOOR = {package: floor for floor, packages in enumerate(FLOORS) for package in packages}
DOORS = ("apl", "apl.__main__")  # who comes in here may go anywhere, on demand
# What a study is read with: the report knows of no training.
READ_ONLY = {"report": {"training"}}


def modules() -> dict[str, Path]:
    """Every module by its name, `kernels/` as it is installed."""
    found = {}
    for path in [*ROOT.glob("apl/**/*.py"), *ROOT.glob("kernels/*.py")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = ("apl", *parts) if parts[0] == "kernels" else parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@functools.cache
def arrows() -> set[tuple[str, str]]:
    """(module, imported module): every import, inside functions and under TYPE_CHECKING too."""
    found = set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                above = module.rsplit(".", node.level)[0] if node.level else ""
                origin = ".".join(filter(None, (above, node.module)))
                for alias in node.names:
                    inner = f"{origin}.{alias.name}"
                    found.add((module, inner if inner in MODULES else origin))
            elif isinstance(node, ast.Import):
                found |= {(module, alias.name) for alias in node.names}
    return {(module, target) for module, target in found if target.partition(".")[0] == "apl"}


def package(module: str) -> str:
    """The part of a module's name that has a floor."""
    return module.split(".")[1] if "." in module else "apl"


def test_every_package_has_a_floor() -> None:
    packages = {package(module) for module in MODULES if module not in DOORS}
    assert packages == {*FLOOR}


def test_imports_point_down() -> None:
    assert len(arrows()) > 200
    climbs = []
    for module, target in sorted(arrows()):
        if module in DOORS or package(module) == package(target):
            continue
        above = FLOOR.get(package(target), len(FLOORS))  # apl itself is the roof
        ground = FLOOR[package(module)] == above == 0
        if FLOOR[package(module)] <= above and not ground:
            climbs.append(f"{module} -> {target}")
    assert climbs == []


def test_there_is_no_circle() -> None:
    below = {module: {t for m, t in arrows() if m == module} for module in MODULES}
    left = {module: targets & {*MODULES} for module, targets in below.items()}
    while True:
        free = {module for module, targets in left.items() if not targets & {*left}}
        if not free:
            break
        left = {module: targets for module, targets in left.items() if module not in free}
    circle = {module: sorted(targets & {*left}) for module, targets in left.items()}
    assert circle == {}


def test_the_report_reads_and_does_not_train() -> None:
    found = [
        f"{module} -> {target}"
        for module, target in sorted(arrows())
        if package(target) in READ_ONLY.get(package(module), set())
    ]
    assert found == []


@pytest.mark.parametrize("old", sorted(MOVED))
def test_old_paths_lead_to_new_places(old: str) -> None:
    module = importlib.import_module(old)
    name = {"apl.report.gallery": "make_gallery", "apl.train": "train", "apl.runs": "Run"}.get(old)
    for place in MOVED[old]:
        new = importlib.import_module(f"apl.{place}")
        names = [name] if name and hasattr(new, name) else _own_names(new)
        for each in names:
            with pytest.warns(DeprecationWarning, match=rf"{old}\.{each} is apl\."):
                assert getattr(module, each) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def _own_names(module: object) -> list[str]:
    """A public name that the module defines itself."""
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]  # type: ignore[attr-defined]
    return [n for n in own if not n.startswith("_")][:1]


@pytest.mark.slow
def test_public_names_are_there_without_a_warning_and_so_is_what_0_2_had() -> None:
    """The imports that docs and notebooks of 0.2 told people to write."""
    lines = (
        "from apl.config import make_config, make_grid, Config",
        "from apl.train import train, prepare, evaluate_run, load_network, outputs",
        "from apl.find import LabelMonitor, find_mislabelled, find_issues, rank, detection_scores",
        "from apl.criteria import make_loss, NoisyLabelLoss, estimate_transition",
        "from apl.linear import linear_loss",
        "from apl.losses import LOSSES, PARAMS",
        "from apl.noise import Labels, corrupt, symmetric, read_matrix",
        "from apl.data.sources import load_data",
        "from apl.data.dataset import Dataset, Split",
        "from apl.scores import Result, Scores",
        "from apl.machine import Machine, data_folder",
        "from apl.runs import Run, read_runs, write_atomic, read_noise",
        "from apl.study import run_study, Progress",
        "from apl.presets import PRESETS, DATASETS, NOISES, published_settings",
        "from apl.report.published import published_rows",
        "from apl.review import read_labels, write_review",
        "import apl.cli; apl.cli.main, apl.cli.run",
    )
    before = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"
    now = (
        "import warnings; warnings.simplefilter('error')\n"
        "import apl\n"
        "for name in apl.__all__: getattr(apl, name)\n"
        "assert {*apl.__all__} == {*dir(apl)}"
    )
    # What others made is loaded once, by the process that both are forked from; nothing of ours.
    theirs = "import torch._dynamo, sklearn.base, pandas"
    for done in apart([before + "\n".join(lines), now], theirs):
        assert done.returncode == 0, done.stderr
