"""Learning with noisy labels: the Active-Passive Loss family and the study around it."""

import kernels

if not hasattr(kernels, "reference_loss"):
    raise ImportError(
        f"apl needs its own package `kernels`, but {kernels.__file__} is another one (Hugging "
        "Face's `kernels` has the same import name): use an environment of its own for apl, or "
        "run `pip uninstall kernels` and install apl again"
    )

from apl.losses import LOSSES, make_loss

__version__ = "0.1.0"
__all__ = ["LOSSES", "__version__", "make_loss"]
