"""Learning with noisy labels: the Active-Passive Loss family and the study around it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apl.criteria import make_loss
    from apl.data.sources import load_data
    from apl.find import LabelMonitor
    from apl.linear import linear_loss
    from apl.losses import LOSSES

__version__ = "0.2.0"
__all__ = ["LOSSES", "LabelMonitor", "__version__", "linear_loss", "load_data", "make_loss"]


def __getattr__(name: str) -> Any:
    # On demand (PEP 562): the command line answers `--help` in less time than torch takes to load.
    if name == "make_loss":
        from apl.criteria import make_loss

        return make_loss
    if name == "linear_loss":
        from apl.linear import linear_loss

        return linear_loss
    if name == "load_data":
        from apl.data.sources import load_data

        return load_data
    if name == "LabelMonitor":
        from apl.find import LabelMonitor

        return LabelMonitor
    if name == "LOSSES":
        from apl.losses import LOSSES

        return LOSSES
    raise AttributeError(f"module 'apl' has no attribute {name!r}")
