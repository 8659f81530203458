"""Features from code of the user's own: `module:function`, of a batch of samples."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from apl.errors import BadInput
from apl.features.backbone import Backbone
from apl.usercode import look_up, source_digest, told

BATCH = 64  # samples at a time


def own_function(name: str, imports: Sequence[str]) -> Backbone:
    """The features that a function of the user's makes of a batch: uint8 [B, H, W, C], an array, or
    a list of B texts, to rows [B, F], an array or a tensor.

    It is imported only where it is in `imports`, the names that the user typed.
    """
    if name not in imports:
        raise BadInput(
            f"{name!r} is code of your own, which is imported only where you type it: give it to "
            "--features, in Python to Machine(imports=...)"
        )
    function = look_up(name)
    if not callable(function):
        raise BadInput(
            f"{name!r} is a {type(function).__name__}; accepted: a function of a batch of samples"
        )
    try:
        file = inspect.getsourcefile(function) or ""
    except TypeError:  # of what is not written in Python
        file = ""

    def of(batch: Any) -> Any:
        samples = batch.numpy() if hasattr(batch, "numpy") else list(batch)
        try:
            return function(samples)
        except Exception as error:
            problem = told(error, file)
            raise BadInput(f"{name} fails on {len(samples)} samples: {problem}") from error

    return Backbone(name, of, {"source": source_digest(name)}, BATCH, parallel=False)
