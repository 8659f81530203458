"""Learning with noisy labels: the Active-Passive Loss family and the study around it."""

from apl.losses import LOSSES, make_loss

__version__ = "0.1.0"
__all__ = ["LOSSES", "__version__", "make_loss"]
