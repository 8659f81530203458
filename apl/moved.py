"""Import paths of 0.2 that led to other modules: they work until 1.0, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: dict[str, tuple[str, ...]] = {
    "apl.config": ("config.config", "config.grid", "config.published", "names"),
    "apl.criteria": ("losses.modules",),
    "apl.ddp": ("training.ddp",),
    "apl.doctor": ("cli.doctor",),
    "apl.find": ("detect.evidence", "detect.monitor", "detect.search", "noise.labels"),
    "apl.linear": ("losses.linear",),
    "apl.loggers": ("study.trackers",),
    "apl.losses": ("losses.catalog",),
    "apl.machine": ("training.machine", "data.folders"),
    "apl.networks": ("training.networks",),
    "apl.noise": (
        "noise.labels",
        "noise.matrices",
        "noise.draw",
        "noise.instance",
        "noise.files",
    ),
    "apl.presets": ("names", "config.presets", "config.published"),
    "apl.report.gallery": ("detect.gallery",),
    "apl.report.published": ("config.published",),
    "apl.report.table": ("report.study", "report.results"),
    "apl.review": ("detect.review", "data.decisions", "files"),
    "apl.runs": ("runs.run", "runs.record", "files", "noise.files"),
    "apl.scores": ("runs.scores", "training.fit"),
    "apl.study": ("study.run", "study.clock"),
    "apl.train": (
        "training.train",
        "training.prepare",
        "training.fit",
        "training.evaluate",
        "training.machine",
    ),
    "apl.verify": ("losses.verify",),
    "apl.workers": ("study.processes", "study.ray", "study.cells"),
}
"""By a module of 0.2: where what it held is now, all below `apl`.  Some of these modules are gone,
others are packages of the same name."""


def moved(old: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module that was `old`."""

    def __getattr__(name: str) -> Any:
        if not name.startswith("__"):
            for place in MOVED[old]:
                module = importlib.import_module(f"apl.{place}")
                if hasattr(module, name):
                    told = f"{old}.{name} is apl.{place}.{name} since 0.3; the old path goes in 1.0"
                    warnings.warn(told, DeprecationWarning, stacklevel=2)
                    return getattr(module, name)
        raise AttributeError(f"module {old!r} has no attribute {name!r}")

    return __getattr__


class Gone(MetaPathFinder, Loader):
    """Finds the modules of 0.2 of which there is no file any more."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of one of them; asked only where no other finder has a module of that name."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Let it look its names up where they are now."""
        module.__dict__["__getattr__"] = moved(module.__name__)


def install() -> None:
    """Have Python look here last, once."""
    if not any(isinstance(finder, Gone) for finder in sys.meta_path):
        sys.meta_path.append(Gone())
