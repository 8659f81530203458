# Device code is not Python: its values have no types here and its tuples no unpacking.
# mypy: disable-error-code="untyped-decorator,no-untyped-def,assignment"
# ruff: noqa: RUF005
"""The Triton kernels: loss and gradient of any sum of terms in one pass over the logits.

With l = log softmax(z), every sum of `Term`s has the gradient (docs/kernels.md derives it)

    dL/dz_k = g_k - p_k sum_j g_j,   g_k = [k = y] at_y + sum_t spread_t phi_t'(l_k),

where only normalised terms t spread over the classes.  So one kernel serves them all, its terms
being compile-time structure and their weights and parameters run-time scalars.  A new base needs
one device function here, entered in `DEVICE`.

This file imports triton: import it only through `apl.kernels.dispatch`, which does without.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bases import Term

# --- Base losses on the device ---
# (log_p, p, params) -> (phi(log_p), its derivative), all float32, p = exp(log_p)


@triton.jit
def _one_minus_exp(x, exp_x):
    # 1 - exp(x) for x <= 0 without cancellation: its Taylor series where exp(x) > 0.6.
    series = 1.0 + x / 8
    series = 1.0 + x / 7 * series
    series = 1.0 + x / 6 * series
    series = 1.0 + x / 5 * series
    series = 1.0 + x / 4 * series
    series = 1.0 + x / 3 * series
    series = 1.0 + x / 2 * series
    return tl.where(x > -0.5, -x * series, 1.0 - exp_x)


@triton.jit
def _ce(log_p, p, params):
    return -log_p, -1.0


@triton.jit
def _fl(log_p, p, params):
    # Kept above 0 (the smallest normal float) for the same reason as in the reference.
    rest = tl.maximum(_one_minus_exp(log_p, p), 1.1754943508222875e-38)
    power = tl.exp(params[0] * tl.log(rest))
    # Finite where a logit is masked by -inf, for p log p is 0 there; nan stays nan.
    log_p = tl.where(log_p == float("-inf"), -3.4028234663852886e38, log_p)
    return -power * log_p, params[0] * power / rest * (p * log_p) - power


@triton.jit
def _gce(log_p, p, params):
    x = params[0] * log_p
    power = tl.exp(x)
    return _one_minus_exp(x, power) / params[0], -power


@triton.jit
def _mae(log_p, p, params):
    return 2.0 * _one_minus_exp(log_p, p), -2.0 * p


@triton.jit
def _rce(log_p, p, params):
    return -params[0] * _one_minus_exp(log_p, p), params[0] * p


@dataclass(frozen=True)
class Device:
    """A base loss on the device.

    phi: its device function.  affine(*params), where phi has this form: (a, b, c, q) with
    phi(l) = a + b l + c exp(q l).  Its sums over the classes then follow from sum l and
    sum p^q, which can be rescaled when a larger logit turns up; without it the looped form
    reads the row once more.
    """

    phi: Any
    affine: Callable[..., tuple[float, float, float, float]] | None = None


DEVICE: dict[str, Device] = {
    "ce": Device(_ce, lambda: (0.0, -1.0, 0.0, 1.0)),
    "fl": Device(_fl),
    "mae": Device(_mae, lambda: (2.0, 0.0, -2.0, 1.0)),
    "rce": Device(_rce, lambda A: (-A, 0.0, A, 1.0)),
    "gce": Device(_gce, lambda q: (1 / q, 0.0, -1 / q, q)),
}


# --- Kernels ---


@triton.jit
def _row_factor(class_weight, denominator, target, kept, K: tl.constexpr):
    # What the loss and the gradient of a row are multiplied by, and the loss of an ignored row: 0,
    # but nan where every row is ignored and the mean is 0/0.  A target that is no class and not
    # ignored gives nan: a kernel cannot raise, and a wrong number must not look right.
    valid = (target >= 0) & (target < K)
    if class_weight is None:
        factor = tl.where(valid, 1.0, float("nan"))
    else:
        known = tl.load(class_weight + target, mask=valid & kept, other=0.0).to(tl.float32)
        factor = tl.where(valid, known, float("nan"))
    nothing = 0.0
    if denominator is not None:
        rows = tl.load(denominator)
        factor /= rows
        nothing /= rows
    return factor, nothing


@triton.jit
def _values_at_target(l_y, p_y, sums, WEIGHTS, PARAMS, PHI: tl.constexpr, NORMALISED: tl.constexpr):
    # From l_y and the sums (S, S') of the normalised terms: the loss of the row, at_y, the factor
    # with which each normalised term spreads, and sum_j g_j.
    loss = l_y * 0.0
    at_y = l_y * 0.0
    total = l_y * 0.0
    spreads = ()
    for t in tl.static_range(len(PHI)):
        value, slope = PHI[t](l_y, p_y, PARAMS[t])
        if NORMALISED[t]:
            inverse = 1.0 / sums[t][0]
            value *= inverse
            slope *= inverse
            spread = -WEIGHTS[t] * value * inverse
            total += spread * sums[t][1]
        else:
            spread = 0.0
        loss += WEIGHTS[t] * value
        at_y += WEIGHTS[t] * slope
        spreads = spreads + (spread,)
    return loss, at_y, spreads, total + at_y


@triton.jit
def _rows_kernel(
    logits,  # [outer, row, K] by strides; row strides count UNITs, so that their factor is known
    targets,  # [outer, row], contiguous
    class_weight,  # [K] or None
    denominator,  # [] or None
    upstream,  # what arrives at the losses, [] or [outer, row] contiguous; None for 1
    losses,  # [outer, row] float32, contiguous
    grad,  # like the logits, or None where no gradient is needed
    rows,
    z_outer,
    z_row,
    z_col,
    g_outer,
    g_row,
    g_col,
    ignore_index,
    WEIGHTS,  # one float per term
    PARAMS,  # one tuple of floats per term
    PHI: tl.constexpr,
    NORMALISED: tl.constexpr,
    K: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    OF_ROWS: tl.constexpr,  # whether upstream has a number per row
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ROWS whole rows per program, each read once into registers and its gradient written once."""
    blocks = tl.cdiv(rows, ROWS)
    outer = (tl.program_id(0) // blocks).to(tl.int64)
    row = (tl.program_id(0) % blocks) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    col = tl.arange(0, BLOCK)[None, :]
    mask = tl.broadcast_to(inside[:, None], [ROWS, BLOCK])
    if K < BLOCK:
        mask &= col < K
    offset = col.to(tl.int64) if WIDE else col

    at = (outer * z_outer + row.to(tl.int64) * z_row) * UNIT
    z = tl.load(logits + at[:, None] + offset * z_col, mask=mask, other=float("-inf"))
    target = tl.load(targets + outer * rows + row, mask=inside, other=ignore_index)
    kept = target != ignore_index
    factor, nothing = _row_factor(class_weight, denominator, target, kept, K)

    z = z.to(tl.float32)
    top = tl.max(z, 1)
    top = tl.where(top == float("-inf"), 0.0, top)  # the rows outside: no nan from inf - inf
    z -= top[:, None]
    p = tl.exp(z)
    norm = tl.sum(p, 1)
    log_p = z - tl.log(norm)[:, None]
    p *= (1.0 / norm)[:, None]
    hit = col == target.to(tl.int32)[:, None]
    l_y = tl.sum(tl.where(hit, log_p, 0.0), 1)
    p_y = tl.exp(l_y)

    sums = ()
    for t in tl.static_range(len(PHI)):
        if NORMALISED[t]:
            phi, slope = PHI[t](log_p, p, PARAMS[t])
            sums = sums + (
                (tl.sum(tl.where(mask, phi, 0.0), 1), tl.sum(tl.where(mask, slope, 0.0), 1)),
            )
        else:
            sums = sums + ((),)
    loss, at_y, spreads, total = _values_at_target(l_y, p_y, sums, WEIGHTS, PARAMS, PHI, NORMALISED)
    tl.store(losses + outer * rows + row, tl.where(kept, loss * factor, nothing), mask=inside)

    if grad is not None:
        if upstream is not None:  # before the gradient is rounded to its type
            if OF_ROWS:
                factor *= tl.load(upstream + outer * rows + row, mask=inside, other=0.0)
            else:
                factor *= tl.load(upstream)
        g = tl.where(hit, at_y[:, None], 0.0) - p * total[:, None]
        for t in tl.static_range(len(PHI)):
            if NORMALISED[t]:
                _, slope = PHI[t](log_p, p, PARAMS[t])
                g += spreads[t][:, None] * slope
        g = tl.where(kept[:, None], g * factor[:, None], 0.0)
        at = (outer * g_outer + row.to(tl.int64) * g_row) * UNIT
        tl.store(grad + at[:, None] + offset * g_col, g, mask=mask)


@triton.jit
def _long_row_kernel(
    logits,
    targets,
    class_weight,
    denominator,
    upstream,
    losses,
    grad,
    rows,
    z_outer,
    z_row,
    z_col,
    g_outer,
    g_row,
    g_col,
    ignore_index,
    WEIGHTS,
    PARAMS,
    AFFINE,  # (a, b, c, q) per term, of use where SUMS says 'linear' or 'power'
    PHI: tl.constexpr,
    NORMALISED: tl.constexpr,
    SUMS: tl.constexpr,  # how each term is summed: 'linear', 'power', 'reread', or None if plain
    REREAD: tl.constexpr,  # whether any is
    K: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    OF_ROWS: tl.constexpr,  # whether upstream has a number per row
    BLOCK: tl.constexpr,
):
    """One row per program, too long for registers: read once for the sums and once for the
    gradient, and in between once more where a normalised base has no affine form."""
    outer = (tl.program_id(0) // rows).to(tl.int64)
    row = (tl.program_id(0) % rows).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    z_at = logits + (outer * z_outer + row * z_row) * UNIT
    target = tl.load(targets + outer * rows + row)
    kept = target != ignore_index
    factor, nothing = _row_factor(class_weight, denominator, target, kept, K)

    # Every lane keeps its own running maximum, and its sums relative to it: sum exp(z - top),
    # sum (z - top) and sum exp(q (z - top)).  No lane waits for another inside the loop.
    top = tl.full([BLOCK], -3.0e38, tl.float32)
    norm = tl.zeros([BLOCK], tl.float32)
    linear = tl.zeros([BLOCK], tl.float32)
    powers = ()
    for _t in tl.static_range(len(PHI)):
        powers = powers + (tl.zeros([BLOCK], tl.float32),)
    for start in range(0, K, BLOCK):
        col = start + lane
        offset = col.to(tl.int64) if WIDE else col
        inside = col < K
        z = tl.load(z_at + offset * z_col, mask=inside, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, z)
        shift = top - higher
        z -= higher
        norm = norm * tl.exp(shift) + tl.exp(z)
        linear += (start // BLOCK) * shift + tl.where(inside, z, 0.0)
        powers = _add_powers(powers, z, shift, AFFINE, SUMS)
        top = higher
    count = (K - lane + BLOCK - 1) // BLOCK
    highest = tl.max(top, 0)
    shift = top - highest
    norm_all = tl.sum(norm * tl.exp(shift), 0)
    log_norm = tl.log(norm_all)
    sum_l = tl.sum(linear + count * shift, 0) - K * log_norm

    sums = ()
    for t in tl.static_range(len(PHI)):
        a, b, c, q = AFFINE[t]
        # Each form has the part in l or the one in exp(q l), and the other must not be computed:
        # with a masked logit sum l is -inf, and 0 times that is nan.
        if SUMS[t] == "power":
            power = tl.sum(powers[t] * tl.exp(q * shift), 0) * tl.exp(-q * log_norm)
            sums = sums + ((a * K + c * power, c * q * power),)
        else:
            sums = sums + ((a * K + b * sum_l, b * K),)
    if REREAD:
        partial = ()
        for _t in tl.static_range(len(PHI)):
            partial = partial + ((tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)),)
        for start in range(0, K, BLOCK):
            col = start + lane
            offset = col.to(tl.int64) if WIDE else col
            inside = col < K
            z = tl.load(z_at + offset * z_col, mask=inside, other=float("-inf")).to(tl.float32)
            log_p = (z - highest) - log_norm
            partial = _add_phi(partial, log_p, inside, PARAMS, PHI, SUMS)
        sums = _join(sums, partial, SUMS)

    known = kept & (target >= 0) & (target < K)
    z_y = tl.load(z_at + target * z_col, mask=known, other=0.0).to(tl.float32)
    l_y = (z_y - highest) - log_norm
    loss, at_y, spreads, total = _values_at_target(
        l_y, tl.exp(l_y), sums, WEIGHTS, PARAMS, PHI, NORMALISED
    )
    tl.store(losses + outer * rows + row, tl.where(kept, loss * factor, nothing))

    if grad is not None:
        if upstream is not None:
            factor *= tl.load(upstream + ((outer * rows + row) if OF_ROWS else 0))
        g_at = grad + (outer * g_outer + row * g_row) * UNIT
        for start in range(0, K, BLOCK):
            col = start + lane
            offset = col.to(tl.int64) if WIDE else col
            inside = col < K
            z = tl.load(z_at + offset * z_col, mask=inside, other=float("-inf")).to(tl.float32)
            log_p = (z - highest) - log_norm
            p = tl.exp(log_p)
            g = tl.where(col == target, at_y, 0.0) - p * total
            for t in tl.static_range(len(PHI)):
                if NORMALISED[t]:
                    _, slope = PHI[t](log_p, p, PARAMS[t])
                    g += spreads[t] * slope
            tl.store(g_at + offset * g_col, tl.where(kept, g * factor, 0.0), mask=inside)


@triton.jit
def _add_powers(powers, z, shift, AFFINE, SUMS: tl.constexpr):
    added = ()
    for t in tl.static_range(len(SUMS)):
        power = powers[t]
        if SUMS[t] == "power":
            q = AFFINE[t][3]
            power = power * tl.exp(q * shift) + tl.exp(q * z)
        added = added + (power,)
    return added


@triton.jit
def _add_phi(partial, log_p, inside, PARAMS, PHI: tl.constexpr, SUMS: tl.constexpr):
    p = tl.exp(log_p)
    added = ()
    for t in tl.static_range(len(SUMS)):
        phi_sum, slope_sum = partial[t]
        if SUMS[t] == "reread":
            phi, slope = PHI[t](log_p, p, PARAMS[t])
            phi_sum += tl.where(inside, phi, 0.0)
            slope_sum += tl.where(inside, slope, 0.0)
        added = added + ((phi_sum, slope_sum),)
    return added


@triton.jit
def _join(sums, partial, SUMS: tl.constexpr):
    joined = ()
    for t in tl.static_range(len(SUMS)):
        if SUMS[t] == "reread":
            joined = joined + ((tl.sum(partial[t][0], 0), tl.sum(partial[t][1], 0)),)
        else:
            joined = joined + (sums[t],)
    return joined


@triton.jit
def _scale_kernel(grad, scale, size, BLOCK: tl.constexpr):
    """grad *= scale in place, without touching it where the scale is 1 (loss.backward())."""
    factor = tl.load(scale).to(tl.float32)
    if factor != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        g = tl.load(grad + at, mask=inside).to(tl.float32)
        tl.store(grad + at, g * factor, mask=inside)


# --- Launch ---

# So few elements a thread that logits, probabilities and phi' of the costliest sums stay in 64
# registers for every architecture (8 spill on sm_100); 4 of float32 are one 16-byte load.
_PER_THREAD = 4
# Half as many where they lie in several rows, whose numbers (the target, the sums, what follows
# from them) a thread must then keep as well: with four rows a thread, triton 3.9 spills on sm_90.
_PER_THREAD_ACROSS_ROWS = 2
LONGEST_ROW = 1024 * _PER_THREAD  # a program has 1024 threads at most
_LONG_BLOCK = 2048
_SCALE_BLOCK = 4096
# Said, not left to a default that differs between releases (triton 3.10 turns it off): a fused
# multiply-add rounds once, and the figures of `apl.kernels.static` are those with it.
_FP_FUSION = True


class Launch(NamedTuple):
    """One kernel launch: kernel[grid](*args, **options)."""

    kernel: Any
    grid: tuple[int]
    args: tuple[Any, ...]
    options: dict[str, Any]

    def run(self) -> None:
        self.kernel[self.grid](*self.args, **self.options)


def plan(
    logits: Tensor,
    targets: Tensor,
    terms: Sequence[Term],
    class_weight: Tensor | None,
    denominator: Tensor | None,
    ignore_index: int,
    losses: Tensor,
    grad: Tensor | None,
    upstream: Tensor | None = None,
) -> Launch:
    """The launch that writes losses [N, D] (float32) and grad (like the logits, or None).

    logits [N, K, D] of any strides; targets and losses [N, D] and class_weight [K] contiguous;
    denominator [] divides losses and gradient; upstream, [] or [N, D] contiguous, multiplies the
    gradient.
    """
    outer, rows, z_strides, g_strides = _split_rows(logits, grad)
    num_classes = logits.shape[1]
    reach = (num_classes - 1) * max(z_strides[2], g_strides[2])
    # Strides between rows are passed in the largest power of two they share: 16 bytes at a time
    # can be loaded only if the compiler knows that every row begins at such an address.
    unit = math.gcd(16, *z_strides[:2], *g_strides[:2]) if z_strides[2] == 1 else 1
    args = (
        logits,
        targets,
        class_weight,
        denominator,
        upstream,
        losses,
        grad,
        rows,
        z_strides[0] // unit,
        z_strides[1] // unit,
        z_strides[2],
        g_strides[0] // unit,
        g_strides[1] // unit,
        g_strides[2],
        ignore_index,
        tuple(float(term.weight) for term in terms),
        tuple(tuple(float(value) for value in term.params) for term in terms),
    )
    phi = tuple(DEVICE[term.base].phi for term in terms)
    normalised = tuple(term.normalised for term in terms)
    shared: dict[str, Any] = {
        "PHI": phi,
        "NORMALISED": normalised,
        "K": num_classes,
        "UNIT": unit,
        "WIDE": reach >= 2**31,
        "OF_ROWS": upstream is not None and upstream.ndim > 0,
        "enable_fp_fusion": _FP_FUSION,
    }
    if torch.version.hip is None:
        shared["maxnreg"] = 64  # half of an NVIDIA multiprocessor's threads can be resident
    block = triton.next_power_of_2(num_classes)
    if block > LONGEST_ROW:
        affine, sums = zip(*(_sum_method(term) for term in terms), strict=True)
        options = {
            **shared,
            "SUMS": sums,
            "REREAD": "reread" in sums,
            "BLOCK": _LONG_BLOCK,
            "num_warps": 8,
        }
        return Launch(_long_row_kernel, (outer * rows,), (*args, affine), options)
    # Two warps at least, so that the 32 programs a multiprocessor takes can fill it.
    tile = max(block, 64 * _PER_THREAD)
    rows_are_neighbours = tile > block and z_strides[2] != 1
    per_thread = _PER_THREAD_ACROSS_ROWS if rows_are_neighbours else _PER_THREAD
    options = {
        **shared,
        "ROWS": tile // block,
        "BLOCK": block,
        "num_warps": tile // (32 * per_thread),
    }
    blocks = triton.cdiv(rows, tile // block)
    return Launch(_rows_kernel, (outer * blocks,), args, options)


def _split_rows(
    logits: Tensor, grad: Tensor | None
) -> tuple[int, int, tuple[int, int, int], tuple[int, int, int]]:
    # Rows as (outer, row), and the strides (outer, row, class) of logits and gradient.  Where
    # the layout allows, all rows are one dimension ([N, K], channels last); else a program takes
    # rows along D, neighbours in memory when the classes are not ([N, K, H, W]).
    samples, _, inner = logits.shape
    pair = [t.stride() for t in (logits, logits if grad is None else grad)]
    if inner == 1:
        z, g = ((0, s[0], s[1]) for s in pair)
        return 1, samples, z, g
    if all(s[0] == inner * s[2] for s in pair):
        z, g = ((0, s[2], s[1]) for s in pair)
        return 1, samples * inner, z, g
    z, g = ((s[0], s[2], s[1]) for s in pair)
    return samples, inner, z, g


def _sum_method(term: Term) -> tuple[tuple[float, ...], str | None]:
    affine = DEVICE[term.base].affine
    if not term.normalised:
        return (0.0, 0.0, 0.0, 0.0), None
    if affine is None:
        return (0.0, 0.0, 0.0, 0.0), "reread"
    form = affine(*term.params)
    return form, "power" if form[2] else "linear"


def loss_and_grad(
    logits: Tensor,
    targets: Tensor,
    terms: Sequence[Term],
    class_weight: Tensor | None,
    ignore_index: int,
    mean: bool,
    need_grad: bool,
    upstream: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Row losses [N, D] (float32, divided by the sum of the row weights where `mean`) and their
    gradient with respect to logits [N, K, D] (same dtype and layout; None unless needed), times
    `upstream`, a number or one per row [N, D], in float32 before it is rounded."""
    targets = targets.contiguous()
    if class_weight is not None:
        class_weight = class_weight.contiguous()
    if upstream is not None:
        upstream = upstream.contiguous()
    with _on_device_of(logits):
        denominator = _row_weight_sum(targets, class_weight, ignore_index) if mean else None
        losses = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
        grad = torch.empty_like(logits) if need_grad else None
        if logits.numel():
            where = (denominator, ignore_index, losses, grad, upstream)
            plan(logits, targets, terms, class_weight, *where).run()
    return losses, grad


def _on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    # Triton launches on the current device and its stream, whatever tensors it is given.
    return torch.cuda.device_of(tensor) if tensor.is_cuda else nullcontext()


def _row_weight_sum(targets: Tensor, class_weight: Tensor | None, ignore_index: int) -> Tensor:
    kept = targets != ignore_index
    if class_weight is None:
        return kept.sum(dtype=torch.float32)
    known = kept & (targets >= 0) & (targets < len(class_weight))
    return (class_weight.float()[torch.where(known, targets, 0)] * known).sum()


def scale_(grad: Tensor, scale: Tensor) -> Tensor:
    """grad *= scale, a tensor of no dimension; free of memory traffic where the scale is 1.

    grad must be dense, as `loss_and_grad` makes it.
    """
    if grad.numel():
        blocks = triton.cdiv(grad.numel(), _SCALE_BLOCK)
        with _on_device_of(grad):
            _scale_kernel[(blocks,)](
                grad,
                scale,
                grad.numel(),
                _SCALE_BLOCK,
                num_warps=8,
                enable_fp_fusion=_FP_FUSION,
            )
    return grad
