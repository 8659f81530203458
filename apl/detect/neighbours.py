"""The nearest neighbours of every sample by its features: exact, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from apl.errors import Interrupted
from apl.noise.labels import IntArray

BLOCK_BYTES = 2**26  # of similarities at a time


def neighbours(
    rows: Tensor,
    count: int,
    should_stop: Callable[[], bool] = lambda: False,
    asked: IntArray | None = None,
) -> tuple[IntArray, npt.NDArray[np.float32]]:
    """The `count` nearest of the other rows for each row [N, F] of any float type, or all N - 1
    where there are fewer: their places [N, k], nearest first, and how near they are [N, k].

    Near is the cosine of the rows, from 1 to -1, once the mean of all is taken away; a row that is
    the mean is as near to all (0).  should_stop: asked between blocks, True raises Interrupted.
    asked: the rows whose neighbours are wanted, all where none are named.
    """
    size = len(rows)
    count = max(0, min(count, size - 1))
    asked = np.arange(size) if asked is None else asked
    places = np.empty((len(asked), count), dtype=np.int64)
    near = np.empty((len(asked), count), dtype=np.float32)
    if not count or not len(asked):
        return places, near
    wide = rows.float()
    wide = F.normalize(wide - wide.mean(0))
    done = 0
    for chosen in torch.from_numpy(asked).split(max(1, BLOCK_BYTES // (4 * size))):
        if should_stop():
            raise Interrupted
        alike = wide[chosen] @ wide.T
        alike[torch.arange(len(chosen)), chosen] = -2.0  # itself: further than any other
        values, found = alike.topk(count)
        block = slice(done, done + len(chosen))
        done = block.stop
        places[block], near[block] = found.cpu().numpy(), values.clamp(-1, 1).cpu().numpy()
    return places, near
