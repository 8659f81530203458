"""Learning with noisy labels: the Active-Passive Loss family and the study around it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apl.criteria import make_loss
    from apl.data.sources import load_data
    from apl.find import LabelMonitor, find_mislabelled
    from apl.linear import linear_loss
    from apl.losses import LOSSES

__version__ = "0.2.0"
__all__ = [
    "LOSSES",
    "LabelMonitor",
    "__version__",
    "find_mislabelled",
    "linear_loss",
    "load_data",
    "make_loss",
]

_HOMES = {
    "LOSSES": "apl.losses",
    "LabelMonitor": "apl.find",
    "find_mislabelled": "apl.find",
    "linear_loss": "apl.linear",
    "load_data": "apl.data.sources",
    "make_loss": "apl.criteria",
}


def __getattr__(name: str) -> Any:
    # On demand (PEP 562): the command line answers `--help` in less time than torch takes to load.
    if name not in _HOMES:
        raise AttributeError(f"module 'apl' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
