"""Time of value plus gradient, every way there is to compute it, side by side.

On a GPU the yardstick is the measured speed of copying a tensor of the size of the logits: the
loss must read the logits once and write their gradient once, and a copy does exactly that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.benchmark import Timer

from .bases import BASES, Term
from .dispatch import Backend, interpreted, loss
from .reference import reference_loss

SHAPES = ((128, 10), (65536, 10), (65536, 100), (16384, 1000), (4096, 32000), (2048, 131072))

NCE_RCE = (Term("ce", 1.0, True), Term("rce", 1.0, False, tuple(BASES["rce"].params.values())))

Path = Callable[[Tensor, Tensor], Tensor]


def measure(
    terms: tuple[Term, ...] = NCE_RCE,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    dtype: torch.dtype = torch.float32,
    seconds: float = 0.5,
    device: str = "cuda",
) -> list[dict[str, Any]]:
    """One dict per shape and path: milliseconds of forward plus backward (median), and the bytes
    that must move, logits and gradient, over that time in GB/s and in percent of the copy.

    Sizes that fit the cache of the device run from it, the copy too.
    """
    rows = []
    for n, k in shapes:
        logits = torch.randn(n, k, device=device).to(dtype).requires_grad_()
        targets = torch.randint(k, (n,), device=device)
        moved = 2 * n * k * logits.element_size()
        target = torch.empty_like(logits, requires_grad=False)
        copy = _seconds(functools.partial(target.copy_, logits.detach()), seconds)
        for name, path in paths(terms, device).items():
            time = _seconds(functools.partial(_step, path, logits, targets), seconds)
            rows.append(
                {
                    "N": n,
                    "K": k,
                    "type": str(dtype).removeprefix("torch."),
                    "path": name,
                    "ms": time * 1e3,
                    "GB/s": moved / time / 1e9,
                    "% of copy": 100 * copy / time,
                }
            )
    return rows


def paths(terms: tuple[Term, ...], device: str) -> dict[str, Path]:
    """What there is to compare on a device: name -> loss(logits, targets)."""

    def through(backend: Backend) -> Path:
        return functools.partial(loss, terms=terms, backend=backend)

    reference = functools.partial(reference_loss, terms=terms)
    found: dict[str, Path] = {"F.cross_entropy": F.cross_entropy, "reference": reference}
    if device == "cuda" or interpreted():
        found["triton"] = through("triton")
    if device == "cuda":
        found["reference, torch.compile"] = torch.compile(reference)
    else:
        found["eager"] = through("eager")
        if not interpreted():
            found["compiled"] = through("compiled")
    return found


def _step(path: Path, logits: Tensor, targets: Tensor) -> None:
    torch.autograd.grad(path(logits, targets), logits)


def _seconds(run: Callable[[], Any], seconds: float) -> float:
    # Timer waits for the GPU; the first calls, which compile, do not count.
    run(), run()
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=seconds).median)
