"""Learning with noisy labels: the Active-Passive Loss family and the study around it."""

from typing import TYPE_CHECKING, Any

from apl import moved

if TYPE_CHECKING:
    from apl.config.config import Config, make_config
    from apl.config.grid import make_grid
    from apl.data.dataset import Dataset, Split
    from apl.data.sources import load_data
    from apl.detect.consensus import Consensus, consensus
    from apl.detect.estimator import RobustClassifier
    from apl.detect.evidence import Findings, find_issues, noise_rate, rank
    from apl.detect.monitor import LabelMonitor
    from apl.detect.search import find_mislabelled
    from apl.errors import BadInput
    from apl.losses.catalog import LOSSES
    from apl.losses.linear import linear_loss
    from apl.losses.modules import NoisyLabelLoss, make_loss
    from apl.noise.labels import Labels
    from apl.runs.record import read_runs
    from apl.runs.scores import Result
    from apl.study.run import run_study
    from apl.training.listener import Listener
    from apl.training.machine import Machine
    from apl.training.use import load_run

__version__ = "0.2.0"
__all__ = [
    "LOSSES",
    "BadInput",
    "Config",
    "Consensus",
    "Dataset",
    "Findings",
    "LabelMonitor",
    "Labels",
    "Listener",
    "Machine",
    "NoisyLabelLoss",
    "Result",
    "RobustClassifier",
    "Split",
    "__version__",
    "consensus",
    "find_issues",
    "find_mislabelled",
    "linear_loss",
    "load_data",
    "load_run",
    "make_config",
    "make_grid",
    "make_loss",
    "noise_rate",
    "rank",
    "read_runs",
    "run_study",
]

_HOMES = {
    "LOSSES": "losses.catalog",
    "BadInput": "errors",
    "Config": "config.config",
    "Consensus": "detect.consensus",
    "Dataset": "data.dataset",
    "Findings": "detect.evidence",
    "LabelMonitor": "detect.monitor",
    "Labels": "noise.labels",
    "Listener": "training.listener",
    "Machine": "training.machine",
    "NoisyLabelLoss": "losses.modules",
    "Result": "runs.scores",
    "RobustClassifier": "detect.estimator",
    "Split": "data.dataset",
    "consensus": "detect.consensus",
    "find_issues": "detect.evidence",
    "find_mislabelled": "detect.search",
    "linear_loss": "losses.linear",
    "load_data": "data.sources",
    "load_run": "training.use",
    "make_config": "config.config",
    "make_grid": "config.grid",
    "make_loss": "losses.modules",
    "noise_rate": "detect.evidence",
    "rank": "detect.evidence",
    "read_runs": "runs.record",
    "run_study": "study.run",
}

moved.install()


def __getattr__(name: str) -> Any:
    # On demand (PEP 562): the command line answers `--help` in less time than torch takes to load.
    if name not in _HOMES:
        raise AttributeError(f"module 'apl' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"apl.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
