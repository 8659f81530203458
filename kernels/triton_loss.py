# Device code is not Python: its values have no types here and its tuples no unpacking.
# mypy: disable-error-code="untyped-decorator,no-untyped-def,assignment"
# ruff: noqa: RUF005
"""The Triton kernels: loss and gradient of any sum of terms in one pass over the logits.

With l = log softmax(z), every sum of `Term`s has the gradient (docs/kernels.md derives it)

    dL/dz_k = g_k - p_k sum_j g_j,   g_k = [k = y] at_y + sum_t spread_t phi_t'(l_k),

where only normalised and summed terms t spread over the classes.  So one kernel serves all, terms
being compile-time structure and their weights and parameters run-time scalars.  A new base needs
one device function here, entered in `DEVICE`.

This file imports triton: import it only through `apl.kernels.dispatch`, which does without.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bases import Term
from .options import LossOptions

# --- Base losses on the device ---
# (log_p, p, params) -> (phi(log_p), its derivative), all float32, p = exp(log_p)

_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _exp(x):
    # tl.exp guards results below 2**-126 with three more instructions; here they may become 0.
    return tl.exp2(x * _LOG2_E)


@triton.jit
def _log2(x):
    # Of a normal x > 0, within 1e-7 (of another, some number): half the instructions of tl.log2,
    # which is ready for everything.  x = 2**e (1 + f) with |f| < 0.42; f P(f) is fitted to
    # log2(1 + f).
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) & -0x800000
    f = (bits - exponent).to(tl.float32, bitcast=True) - 1.0
    series = 0.12541314959526062 * f - 0.21030651032924652
    series = series * f + 0.21738065779209137
    series = series * f - 0.238519087433815
    series = series * f + 0.2876564860343933
    series = series * f - 0.3607212007045746
    series = series * f + 0.48092254996299744
    series = series * f - 0.7213471531867981
    series = series * f + 1.442694902420044
    return exponent.to(tl.float32) * 1.1920928955078125e-07 + f * series


@triton.jit
def _log_of(norm, inverse_norm):
    # nan where the norm is nan, or 0 since every logit is -inf.
    return _log2(norm) * _LN_2 + inverse_norm * 0.0


@triton.jit
def _one_minus_exp(x, exp_x):
    # 1 - exp(x) for x <= 0 without cancellation: its Taylor series where exp(x) > 0.6.
    series = x * (1 / 40320) + (1 / 5040)
    series = series * x + (1 / 720)
    series = series * x + (1 / 120)
    series = series * x + (1 / 24)
    series = series * x + (1 / 6)
    series = series * x + 0.5
    series = series * x + 1.0
    return tl.where(x > -0.5, -x * series, 1.0 - exp_x)


@triton.jit
def _ce(log_p, p, params):
    return -log_p, -1.0


@triton.jit
def _fl(log_p, p, params):
    # Kept above 0 (the smallest normal float) for the same reason as in the reference.
    rest = tl.maximum(_one_minus_exp(log_p, p), 1.1754943508222875e-38)
    lower = tl.exp2((params[0] - 1.0) * _log2(rest))  # rest ** (gamma - 1)
    power = lower * rest
    # Finite where a logit is masked by -inf, for p log p is 0 there; nan stays nan.
    finite = tl.maximum(log_p, -3.4028234663852886e38, propagate_nan=tl.PropagateNan.ALL)
    return -power * log_p, params[0] * lower * (p * finite) - power


@triton.jit
def _gce(log_p, p, params):
    x = params[0] * log_p
    power = _exp(x)
    return _one_minus_exp(x, power) / params[0], -power


@triton.jit
def _mae(log_p, p, params):
    return 2.0 * _one_minus_exp(log_p, p), -2.0 * p


@triton.jit
def _rce(log_p, p, params):
    return -params[0] * _one_minus_exp(log_p, p), params[0] * p


@triton.jit
def _ln(x):
    return _log2(x) * _LN_2


@triton.jit
def _log1p(x):
    # What 1 + x has lost of x is added again, in the first order.
    u = 1.0 + x
    return _ln(u) + (x - (u - 1.0)) / u


@triton.jit
def _log_mean(p, rest, a, inverse):
    # log((a + p) / (a + 1)), rest = 1 - p and inverse = 1 / (a + 1), as in the reference; of nan
    # nan.
    less = -rest * inverse
    return tl.where(less <= -0.5, _ln((p + a) * inverse), _log1p(less))


@triton.jit
def _agce(log_p, p, params):
    a, q, inverse, scale = params
    x = q * _log_mean(p, _one_minus_exp(log_p, p), a, inverse)
    power = _exp(x)
    return scale * _one_minus_exp(x, power), -p * (scale * q * power / (a + p))


@triton.jit
def _aul(log_p, p, params):
    q, least = params
    rest = _one_minus_exp(log_p, p)
    room = rest + least
    lower = _exp((q - 1.0) * _ln(room))  # room ** (q - 1)
    x = -q * _log1p(rest / least)
    return lower * room * _one_minus_exp(x, _exp(x)) / q, -p * lower


@triton.jit
def _ael(log_p, p, params):
    x = p / params[0]
    value = _exp(-x)
    return value, -x * value


@triton.jit
def _tce(log_p, p, params):
    rest = _one_minus_exp(log_p, p)
    left = params[0]
    value = rest / left
    powers = 1.0 + 0.0 * p
    while left > 1.5:
        left -= 1.0
        value = rest * (value + 1.0 / left)
        powers = rest * powers + 1.0
    return value, -p * powers


@triton.jit
def _phuber_ce(log_p, p, params):
    tau, edge = params
    x = tau * p
    steep = log_p > -edge
    return tl.where(steep, -log_p, edge + 1.0 - x), -tl.where(steep, 1.0, x)


@triton.jit
def _phuber_gce(log_p, p, params):
    tau, q, edge, most = params
    x = q * log_p
    power = _exp(x)
    steep = log_p > edge
    value = tl.where(steep, _one_minus_exp(x, power) / q, most - tau * p)
    return value, -tl.where(steep, power, tau * p)


@triton.jit
def _bounded(log_p):
    # As in the reference.
    return tl.maximum(log_p, -1e4, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _js(log_p, p, params):
    pi, a, rest_weight, log_weight = params
    rest = _one_minus_exp(log_p, p)
    log_m = _log_mean(p, rest, a, rest_weight)
    above = tl.where(log_p > -16.0, _log1p(pi * (rest / p)), log_m - _bounded(log_p))
    above = p * (above / log_weight)
    return (a / log_weight) * log_m + above + rest, above - p


@triton.jit
def _one(log_p, p, params):
    return 1.0, 0.0


@triton.jit
def _negce(log_p, p, params):
    above = tl.maximum(log_p - params[0], 0.0, propagate_nan=tl.PropagateNan.ALL)
    return above, tl.where(log_p > params[0], 1.0, 0.0)


@triton.jit
def _negfl(log_p, p, params):
    floor, gamma, most = params
    value, slope = _fl(log_p, p, (gamma,))
    flat = log_p <= floor
    return tl.where(flat, 0.0, most - value), tl.where(flat, 0.0, -slope)


@triton.jit
def _square(log_p, p, params):
    return p * p, 2.0 * p * p


@triton.jit
def _entropy(log_p, p, params):
    log_p = _bounded(log_p)
    return -p * log_p, -p * (log_p + 1.0)


@dataclass(frozen=True)
class Device:
    """A base loss on the device.

    phi: its device function.  affine(*params), where phi has this form: (a, b, c, q) with
    phi(l) = a + b l + c exp(q l).  Its sums over the classes then follow from sum l and
    sum p^q, and can be rescaled when a larger logit turns up; without it the looped form
    reads the row once more.
    numbers(*params): what phi is given for params, if not these.
    registers: that a thread needs to sum phi over the classes of a row.
    """

    phi: Any
    affine: Callable[..., tuple[float, float, float, float]] | None = None
    numbers: Callable[..., tuple[float, ...]] = lambda *params: params
    registers: int = 200


def _tangent(tau: float, q: float) -> tuple[float, ...]:
    # The log of the p below which phuber_gce is a straight line, and the value of that at 0.
    power = tau ** (q / (q - 1))
    return tau, q, math.log(tau) / (q - 1), power + (1 - power) / q


DEVICE: dict[str, Device] = {
    "ce": Device(_ce, lambda: (0.0, -1.0, 0.0, 1.0)),
    "fl": Device(_fl),
    "mae": Device(_mae, lambda: (2.0, 0.0, -2.0, 1.0)),
    "rce": Device(_rce, lambda A: (-A, 0.0, A, 1.0)),
    "gce": Device(_gce, lambda q: (1 / q, 0.0, -1 / q, q)),
    "agce": Device(_agce, numbers=lambda a, q: (a, q, 1 / (a + 1), (a + 1) ** q / q)),
    "aul": Device(_aul, numbers=lambda a, q: (q, a - 1)),
    "ael": Device(_ael),
    "tce": Device(_tce, registers=240),
    "phuber_ce": Device(_phuber_ce, numbers=lambda tau: (tau, math.log(tau))),
    "phuber_gce": Device(_phuber_gce, numbers=_tangent),
    "js": Device(
        _js,
        numbers=lambda pi: (pi, pi / (1 - pi), 1 - pi, math.log(1 - pi)),
        registers=240,
    ),
    "one": Device(_one),
    "negce": Device(_negce, numbers=lambda p_min: (math.log(p_min),)),
    "negfl": Device(
        _negfl,
        numbers=lambda p_min, gamma: (
            math.log(p_min),
            gamma,
            -((1 - p_min) ** gamma) * math.log(p_min),
        ),
    ),
    "sq": Device(_square, lambda: (0.0, 0.0, 1.0, 2.0)),
    "entropy": Device(_entropy),
}


# --- One row ---
# How a term is summed over the classes (SUMS): 'linear' from sum l, 'power' from sum exp(q l),
# 'phi' from phi itself, None for a term that has no sum.  One that is its sum and not a share of it
# is WHOLE, and asks for every class; a share is one of the classes that no logit of -inf masks out.
# Each affine form has the part in l or the one in exp(q l), and the other must not be computed:
# with a masked logit sum l is -inf, and 0 times that is nan.


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
        inverse = 1.0 / tl.load(denominator)
        factor *= inverse
        nothing *= inverse
    return factor, nothing


@triton.jit
def _share(value, total):
    # What normalises a loss, and what its sum then spreads, as `inverse_sum` of the reference: 0
    # where one class is left, and nothing for a loss that is infinite.
    impossible = value == float("inf")
    inverse = tl.where(impossible, 1.0, tl.where(total == 0.0, 0.0, 1.0 / total))
    return inverse, tl.where(impossible, 0.0, -value * inverse * inverse)


@triton.jit
def _values_at_target(  # a kernel takes pointers and numbers
    l_y,
    p_y,
    sums,
    WEIGHTS,
    PARAMS,
    PHI: tl.constexpr,
    SUMS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    # From l_y and the sums (S, S') of the terms that have one: the loss of the row, at_y, the
    # factor with which each of these spreads, and sum_j g_j.
    loss = 0.0
    at_y = 0.0
    total = 0.0
    spreads = ()
    for t in tl.static_range(len(PHI)):
        if WHOLE[t]:
            spread = WEIGHTS[t]
            total += spread * sums[t][1]
            loss += spread * sums[t][0]
        else:
            value, slope = PHI[t](l_y, p_y, PARAMS[t])
            if SUMS[t] is not None:
                inverse, spread = _share(value, sums[t][0])
                value *= inverse
                slope *= inverse
                spread *= WEIGHTS[t]
                total += spread * sums[t][1]
            else:
                spread = 0.0
            loss += WEIGHTS[t] * value
            at_y += WEIGHTS[t] * slope
        spreads = spreads + (spread,)
    return loss, at_y, spreads, total + at_y


@triton.jit
def _values_of_soft(at_q, sums, WEIGHTS, SUMS: tl.constexpr, WHOLE: tl.constexpr):
    # The same for soft targets, from sum_k q_k phi and sum_k q_k phi' of each term, or of a WHOLE
    # one sum_k q_k and 0: the loss of the row, by term what q_k phi'(l_k) counts and what spreads,
    # and sum_j g_j.
    loss = 0.0
    total = 0.0
    ats = ()
    spreads = ()
    for t in tl.static_range(len(SUMS)):
        at = WEIGHTS[t]
        spread = 0.0
        if WHOLE[t]:
            spread = at * at_q[t][0]
            total += spread * sums[t][1]
            loss += spread * sums[t][0]
        else:
            if SUMS[t] is not None:
                inverse, spread = _share(at_q[t][0], sums[t][0])
                at *= inverse
                spread *= WEIGHTS[t]
                total += spread * sums[t][1]
            loss += at * at_q[t][0]
            total += at * at_q[t][1]
        ats = ats + (at,)
        spreads = spreads + (spread,)
    return loss, ats, spreads, total


@triton.jit
def _soft_targets(  # a kernel takes pointers and numbers
    at, hit, col, mask, class_weight, smoothing, TARGETS: tl.constexpr, K: tl.constexpr
):
    # q times the class weights: given by the pointers `at`, or of the one class hit; smoothed.
    if TARGETS == "dense":
        q = tl.load(at, mask=mask, other=0.0).to(tl.float32) * (1.0 - smoothing)
    else:
        q = tl.where(hit, 1.0 - smoothing, 0.0)
    q += smoothing / K
    if class_weight is not None:
        q *= tl.load(class_weight + col, mask=col < K, other=0.0).to(tl.float32)
    return tl.where(mask, q, 0.0)


# --- Kernels ---


@triton.jit
def _unless_same(upstream, used, seen, end):
    # Where the programs end: at once if the gradient is there, for the upstream that has arrived.
    arrived = tl.load(upstream)
    if tl.program_id(0) == 0:
        tl.store(seen, arrived)
    return tl.where(arrived == tl.load(used), 0, end)


@triton.jit(do_not_specialize=["samples", "rows", "one"])
def _rows_kernel(  # a kernel takes pointers and numbers
    logits,  # [sample, row, K] by strides; row strides count UNITs, so that their factor is known
    targets,  # [sample, row] contiguous, or where 'dense' [sample, row, K] by strides
    class_weight,  # [K] or None
    denominator,  # [] or None
    upstream,  # what arrives at the losses, [] or [sample, row] contiguous; None for 1
    losses,  # [sample, row] float32, contiguous; None where they are not wanted
    grad,  # like the logits, or None where no gradient is needed
    used,  # what upstream was when grad was computed, []; None if grad is not yet computed
    seen,  # where upstream is then kept, []
    samples,
    rows,
    z_sample,
    z_row,
    z_col,
    g_sample,
    g_row,
    g_col,
    q_sample,
    q_row,
    q_col,
    ignore_index,
    one,  # the number 1, which the compiler does not know
    smoothing,
    WEIGHTS,  # one float per term
    PARAMS,  # one tuple of floats per term
    AFFINE,  # (a, b, c, q) per term, of use where SUMS says so
    PHI: tl.constexpr,
    SUMS: tl.constexpr,
    WHOLE: tl.constexpr,
    TARGETS: tl.constexpr,  # 'index', 'smoothed' or 'dense'
    K: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    OF_ROWS: tl.constexpr,  # whether upstream has a number per row
    EVEN: tl.constexpr,  # whether ROWS divides rows, neighbours in memory
    VECTOR: tl.constexpr,  # of which a thread then takes so many at a time
    SPREAD: tl.constexpr,  # whether lanes lie along the rows first, though classes are neighbours
    APART: tl.constexpr,  # whether the logit of the label is loaded alone, not picked from the row
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """ROWS whole rows a program, each read once into registers and its gradient written once."""
    blocks = tl.cdiv(rows, ROWS)
    first = tl.program_id(0)
    end, step = first + 1, 1
    if used is not None:  # all rows once more, and only if another upstream has arrived
        end = _unless_same(upstream, used, seen, samples * blocks)
        step = tl.num_programs(0)
    for block in range(first, end, step):
        sample = (block // blocks).to(tl.int64)
        row = (block % blocks) * ROWS + tl.arange(0, ROWS)
        if EVEN:
            row = tl.max_contiguous(row, VECTOR)
        inside = (row < rows) | EVEN
        col = tl.arange(0, BLOCK)[:, None]
        mask = tl.broadcast_to(inside[None, :], [BLOCK, ROWS])
        if K < BLOCK:
            mask &= col < K
        offset = col.to(tl.int64) if WIDE else col

        at = (sample * z_sample + row.to(tl.int64) * z_row) * UNIT
        z = tl.load(
            logits + at[None, :] + offset * (one if SPREAD else z_col),
            mask=mask,
            other=float("-inf"),
        )
        if TARGETS == "dense":
            kept, hit = inside, mask
            factor, nothing = _row_factor(None, denominator, row * 0, kept, K)
        else:
            target = tl.load(targets + sample * rows + row, mask=inside, other=ignore_index)
            kept = target != ignore_index
            hit = col == target.to(tl.int32)[None, :]
            of_target = class_weight if TARGETS == "index" else None
            factor, nothing = _row_factor(of_target, denominator, target, kept, K)
            if TARGETS == "index" and APART:
                known = kept & (target >= 0) & (target < K)
                z_y = tl.load(logits + at + target.to(tl.int64) * z_col, mask=known, other=0.0)

        z = z.to(tl.float32)
        top = tl.max(z, 0)
        top = tl.where(top == float("-inf"), 0.0, top)  # the rows outside: no nan from inf - inf
        z -= top[None, :]
        there = z != float("-inf")  # neither masked out nor outside; nan is
        # Of the others e^z is -0, so that nothing but e^z need be kept to know them.
        bits = tl.where(there, _exp(z).to(tl.int32, bitcast=True), -0x80000000)
        exp_z, left = bits.to(tl.float32, bitcast=True), bits >= 0
        norm = tl.sum(exp_z, 0)
        inverse_norm = 1.0 / norm
        log_norm = _log_of(norm, inverse_norm)
        log_p = z - log_norm[None, :]
        p = exp_z * inverse_norm[None, :]
        count = tl.sum(there.to(tl.int32), 0).to(tl.float32)

        sums = ()
        for t in tl.static_range(len(PHI)):
            # Where a thread has parts of long rows, z itself has no register left.
            crowded = SUMS[t] == "phi" and BLOCK > 256
            summed = mask if WHOLE[t] else left if crowded else there
            n = K if WHOLE[t] else count
            if SUMS[t] == "linear":
                sum_l = tl.sum(tl.where(summed, z, 0.0), 0) - n * log_norm
                a, b, _c, _q = AFFINE[t]
                sums = sums + ((a * n + b * sum_l, b * n),)
            elif SUMS[t] == "power":
                _, slope = PHI[t](log_p, p, PARAMS[t])
                a, _b, c, q = AFFINE[t]
                slopes = tl.sum(slope, 0)
                # Of one class that is left to the last digit: 0, where it is.
                sums = sums + ((tl.where(n > 1, a * n + slopes / q, a + c), slopes),)
            elif SUMS[t] == "phi":
                phi, slope = PHI[t](log_p, p, PARAMS[t])
                phi, slope = tl.where(summed, phi, 0.0), tl.where(summed, slope, 0.0)
                sums = sums + ((tl.sum(phi, 0), tl.sum(slope, 0)),)
            else:
                sums = sums + ((),)

        if TARGETS == "index":
            if APART:
                l_y = (z_y.to(tl.float32) - top) - log_norm
            else:
                l_y = tl.sum(tl.where(hit, log_p, 0.0), 0)
            loss, at_y, spreads, total = _values_at_target(
                l_y, _exp(l_y), sums, WEIGHTS, PARAMS, PHI, SUMS, WHOLE
            )
        else:
            if TARGETS == "dense":
                at = (sample * q_sample + row.to(tl.int64) * q_row) * UNIT
                q_at = targets + at[None, :] + offset * (one if SPREAD else q_col)
            else:
                q_at = None
            q = _soft_targets(q_at, hit, col, mask, class_weight, smoothing, TARGETS, K)
            of_q = ()
            for t in tl.static_range(len(PHI)):
                if WHOLE[t]:
                    of_q = of_q + ((tl.sum(q, 0), 0.0),)
                else:
                    phi, slope = PHI[t](log_p, p, PARAMS[t])
                    n = tl.sum(tl.where(q == 0.0, 0.0, q * phi), 0)
                    of_q = of_q + ((n, tl.sum(q * slope, 0)),)
            loss, ats, spreads, total = _values_of_soft(of_q, sums, WEIGHTS, SUMS, WHOLE)
        if losses is not None:
            loss = tl.where(kept, loss * factor, nothing)
            tl.store(losses + sample * rows + row, loss, mask=inside)

        if grad is not None:
            if upstream is not None:  # before the gradient is rounded to its type
                if OF_ROWS:
                    factor *= tl.load(upstream + sample * rows + row, mask=inside, other=0.0)
                else:
                    factor *= tl.load(upstream)
            # Numbers of the row first: then most of what is left is one multiply-add an element.
            g = -exp_z * (total * inverse_norm * factor)[None, :]
            if TARGETS == "index":
                g += tl.where(hit, (at_y * factor)[None, :], 0.0)
            for t in tl.static_range(len(PHI)):
                if TARGETS != "index" and not WHOLE[t]:
                    _, slope = PHI[t](log_p, p, PARAMS[t])
                    g += (ats[t] * factor)[None, :] * q * slope
                if SUMS[t] == "linear":  # phi' is the constant b
                    spread = (spreads[t] * AFFINE[t][1] * factor)[None, :]
                    g += spread if WHOLE[t] else tl.where(left, spread, 0.0)
                elif SUMS[t] is not None:
                    _, slope = PHI[t](log_p, p, PARAMS[t])
                    if SUMS[t] == "phi" and not WHOLE[t]:  # else it is 0 at p = 0
                        slope = tl.where(left, slope, 0.0)
                    g += (spreads[t] * factor)[None, :] * slope
            g = tl.where(kept[None, :], g, 0.0)
            at = (sample * g_sample + row.to(tl.int64) * g_row) * UNIT
            tl.store(grad + at[None, :] + offset * g_col, g, mask=mask)


@triton.jit(do_not_specialize=["samples", "rows"])
def _long_rows_kernel(  # a kernel takes pointers and numbers
    logits,
    targets,
    class_weight,
    denominator,
    upstream,
    losses,
    grad,
    used,
    seen,
    samples,
    rows,
    z_sample,
    z_row,
    z_col,
    g_sample,
    g_row,
    g_col,
    q_sample,
    q_row,
    q_col,
    ignore_index,
    one,
    smoothing,
    WEIGHTS,
    PARAMS,
    AFFINE,
    PHI: tl.constexpr,
    SUMS: tl.constexpr,
    WHOLE: tl.constexpr,
    TARGETS: tl.constexpr,
    K: tl.constexpr,
    UNIT: tl.constexpr,
    WIDE: tl.constexpr,
    OF_ROWS: tl.constexpr,
    REREAD: tl.constexpr,  # whether a sum needs log p itself
    LANES: tl.constexpr,
    PER_LANE: tl.constexpr,  # neighbours in memory, that share a running maximum
    STAGES: tl.constexpr,
):
    """Rows too long for registers, one after another: each is read once for the sums and once for
    the gradient, and in between once more for sums that need log p itself."""
    BLOCK: tl.constexpr = LANES * PER_LANE
    lane = tl.arange(0, LANES)
    first_col = lane[:, None] * PER_LANE + tl.arange(0, PER_LANE)[None, :]
    end = samples * rows
    if used is not None:
        end = _unless_same(upstream, used, seen, end)
    for index in range(tl.program_id(0), end, tl.num_programs(0)):
        sample = (index // rows).to(tl.int64)
        row = (index % rows).to(tl.int64)
        z_at = logits + (sample * z_sample + row * z_row) * UNIT
        g_at = grad if grad is None else grad + (sample * g_sample + row * g_row) * UNIT
        if TARGETS == "dense":
            target = ignore_index * 0
            kept = True
            q_at = targets + (sample * q_sample + row * q_row) * UNIT
            factor, nothing = _row_factor(None, denominator, target, True, K)
        else:
            target = tl.load(targets + sample * rows + row)
            kept = target != ignore_index
            q_at = targets
            of_target = class_weight if TARGETS == "index" else None
            factor, nothing = _row_factor(of_target, denominator, target, kept, K)

        # Every lane keeps its own running maximum, and its sums relative to it: sum exp(z - top),
        # sum (z - top) and sum exp(q (z - top)); and how many classes it has seen that are not
        # masked out.  No lane waits for another inside the loop.
        top = tl.full([LANES], -3.4028234663852886e38, tl.float32)
        norm = tl.zeros([LANES], tl.float32)
        linear = tl.zeros([LANES], tl.float32)
        seen_by = tl.zeros([LANES], tl.float32)
        powers = ()
        for _t in tl.static_range(len(PHI)):
            powers = powers + (tl.zeros([LANES], tl.float32),)
        for start in tl.range(0, K, BLOCK, num_stages=STAGES):
            col = start + first_col
            offset = col.to(tl.int64) if WIDE else col
            inside = col < K
            z = tl.load(z_at + offset * z_col, mask=inside, other=float("-inf")).to(tl.float32)
            higher = tl.maximum(top, tl.max(z, 1))
            shift = top - higher
            z -= higher[:, None]
            norm = norm * _exp(shift) + tl.sum(_exp(z), 1)
            there = z != float("-inf")
            linear += seen_by * shift + tl.sum(tl.where(there, z, 0.0), 1)
            seen_by += tl.sum(tl.where(there, 1.0, 0.0), 1)
            powers = _add_powers(powers, z, shift, AFFINE, SUMS)
            top = higher
        highest = tl.max(top, 0)
        shift = top - highest
        norm_all = tl.sum(norm * _exp(shift), 0)
        inverse_norm = 1.0 / norm_all
        log_norm = _log_of(norm_all, inverse_norm)
        count = tl.sum(seen_by, 0)
        sum_l = tl.sum(tl.where(seen_by > 0, linear + seen_by * shift, 0.0), 0) - count * log_norm

        sums = ()
        for t in tl.static_range(len(PHI)):
            a, b, c, q = AFFINE[t]
            n = K if WHOLE[t] else count
            if SUMS[t] == "power":
                power = tl.sum(powers[t] * _exp(q * shift), 0) * _exp(-q * log_norm)
                total = tl.where(n > 1, a * n + c * power, a + c)
                sums = sums + ((total, c * q * power),)
            elif WHOLE[t]:
                every = tl.where(count < K, float("-inf"), sum_l)
                sums = sums + ((a * K + b * every, b * K),)
            else:
                sums = sums + ((a * n + b * sum_l, b * n),)
        of_q = ()
        if REREAD:
            partial = ()
            for _t in tl.static_range(len(PHI)):
                zero = tl.zeros([LANES], tl.float32)
                partial = partial + ((zero, zero, zero, zero),)
            for start in tl.range(0, K, BLOCK, num_stages=STAGES):
                col = start + first_col
                offset = col.to(tl.int64) if WIDE else col
                inside = col < K
                z = tl.load(z_at + offset * z_col, mask=inside, other=float("-inf")).to(tl.float32)
                there = z != float("-inf")
                log_p = (z - highest) - log_norm
                if TARGETS == "index":
                    soft = log_p
                else:
                    at = q_at + offset * q_col
                    soft = _soft_targets(
                        at, col == target, col, inside, class_weight, smoothing, TARGETS, K
                    )
                partial = _add_phi(
                    partial, log_p, soft, inside, there, PARAMS, PHI, SUMS, WHOLE, TARGETS
                )
            sums, of_q = _join(sums, partial, SUMS)

        if TARGETS == "index":
            known = kept & (target >= 0) & (target < K)
            z_y = tl.load(z_at + target * z_col, mask=known, other=0.0).to(tl.float32)
            l_y = (z_y - highest) - log_norm
            loss, at_y, spreads, total = _values_at_target(
                l_y, _exp(l_y), sums, WEIGHTS, PARAMS, PHI, SUMS, WHOLE
            )
        else:
            loss, ats, spreads, total = _values_of_soft(of_q, sums, WEIGHTS, SUMS, WHOLE)
        if losses is not None:
            tl.store(losses + sample * rows + row, tl.where(kept, loss * factor, nothing))

        if grad is not None:
            if upstream is not None:
                factor *= tl.load(upstream + ((sample * rows + row) if OF_ROWS else 0))
            of_p = total * inverse_norm * factor
            for start in tl.range(0, K, BLOCK, num_stages=STAGES):
                col = start + first_col
                offset = col.to(tl.int64) if WIDE else col
                inside = col < K
                z = tl.load(z_at + offset * z_col, mask=inside, other=float("-inf")).to(tl.float32)
                z -= highest
                there = z != float("-inf")
                exp_z = _exp(z)
                log_p = z - log_norm
                p = exp_z * inverse_norm
                g = -exp_z * of_p
                if TARGETS == "index":
                    g += tl.where(col == target, at_y * factor, 0.0)
                else:
                    at = q_at + offset * q_col
                    soft = _soft_targets(
                        at, col == target, col, inside, class_weight, smoothing, TARGETS, K
                    )
                for t in tl.static_range(len(PHI)):
                    if TARGETS != "index" and not WHOLE[t]:
                        _, slope = PHI[t](log_p, p, PARAMS[t])
                        g += (ats[t] * factor) * soft * slope
                    if SUMS[t] == "linear":
                        spread = spreads[t] * AFFINE[t][1] * factor
                        g += spread if WHOLE[t] else tl.where(there, spread, 0.0)
                    elif SUMS[t] is not None:
                        _, slope = PHI[t](log_p, p, PARAMS[t])
                        if SUMS[t] == "phi" and not WHOLE[t]:
                            slope = tl.where(there, slope, 0.0)
                        g += (spreads[t] * factor) * slope
                tl.store(g_at + offset * g_col, tl.where(kept, g, 0.0), mask=inside)


@triton.jit
def _add_powers(powers, z, shift, AFFINE, SUMS: tl.constexpr):
    added = ()
    for t in tl.static_range(len(SUMS)):
        power = powers[t]
        if SUMS[t] == "power":
            q = AFFINE[t][3]
            power = power * _exp(q * shift) + tl.sum(_exp(q * z), 1)
        added = added + (power,)
    return added


@triton.jit
def _add_phi(  # a kernel takes pointers and numbers
    partial,
    log_p,
    soft,
    inside,
    there,
    PARAMS,
    PHI: tl.constexpr,
    SUMS: tl.constexpr,
    WHOLE: tl.constexpr,
    TARGETS: tl.constexpr,
):
    # To sum phi and sum phi' of a term, and to those times soft targets.
    p = _exp(log_p)
    added = ()
    for t in tl.static_range(len(SUMS)):
        phi_sum, slope_sum, n, m = partial[t]
        phi, slope = PHI[t](log_p, p, PARAMS[t])
        if SUMS[t] == "phi":
            summed = inside if WHOLE[t] else there
            phi_sum += tl.sum(tl.where(summed, phi, 0.0), 1)
            slope_sum += tl.sum(tl.where(summed, slope, 0.0), 1)
        if TARGETS != "index":
            if WHOLE[t]:
                n += tl.sum(soft, 1)
            else:
                n += tl.sum(tl.where(soft == 0.0, 0.0, soft * phi), 1)
                m += tl.sum(soft * slope, 1)
        added = added + ((phi_sum, slope_sum, n, m),)
    return added


@triton.jit
def _join(sums, partial, SUMS: tl.constexpr):
    joined = ()
    of_q = ()
    for t in tl.static_range(len(SUMS)):
        if SUMS[t] == "phi":
            joined = joined + ((tl.sum(partial[t][0], 0), tl.sum(partial[t][1], 0)),)
        else:
            joined = joined + (sums[t],)
        of_q = of_q + ((tl.sum(partial[t][2], 0), tl.sum(partial[t][3], 0)),)
    return joined, of_q


# --- Launch ---

LONGEST_ROW = 8192
"""Rows of up to so many classes are held in registers."""

# Elements a thread: the more there are, the fewer instructions a row's own numbers cost each of
# them, and the more bytes are on their way to a multiprocessor.  More than 32 of them, with what
# is computed from each, do not fit into 255 registers.
_PER_THREAD = 32
# Before, triton laid lanes along the classes of short rows however these are addressed: then a
# thread holds parts of many rows, and the numbers of each.
_LAYS_ALONG_ROWS = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 7)
_LONG_WARPS = 16
_REGISTERS = 65536  # of a multiprocessor
# Bytes of rows that a multiprocessor should have asked for at any time: about what memory
# delivers to it while one of them is on its way (Little's law).
_IN_FLIGHT = 32_000
# Registers that 32 elements a thread need, by how a term is summed; of 'phi' a base says it.
_REGISTERS_OF = {None: 104, "linear": 104, "power": 128}
_SECTOR = 32  # bytes: what memory gives at the least
# Said, not left to a default that differs between releases (triton 3.10 turns it off): a fused
# multiply-add rounds once, and the figures of benchmarks/kernel_code.py are those with it.
_FP_FUSION = True


class Chip(NamedTuple):
    """What a launch must know of the device: multiprocessors, and bytes of L2 cache."""

    multiprocessors: int
    l2: int


class Launch(NamedTuple):
    """One kernel launch: kernel[grid](*args, **options)."""

    kernel: Any
    grid: tuple[int]
    args: tuple[Any, ...]
    options: dict[str, Any]

    def run(self) -> None:
        self.kernel[self.grid](*self.args, **self.options)


def plan(  # what a plan depends on
    logits: Tensor,
    targets: Tensor,
    terms: tuple[Term, ...],
    options: LossOptions,
    denominator: Tensor | None,
    losses: Tensor | None,
    grad: Tensor | None,
    upstream: Tensor | None = None,
    used: Tensor | None = None,
    seen: Tensor | None = None,
    chip: Chip | None = None,
) -> Launch:
    """The launch that writes losses [N, D] (float32) and grad (like the logits, or None).

    logits [N, K, D] of any strides; targets [N, D] contiguous, or soft ones [N, K, D] of any
    strides; losses [N, D] (or None) and the weight [K] contiguous; denominator [] divides losses
    and gradient; upstream, [] or [N, D] contiguous, multiplies the gradient.  With `used` [], grad
    holds the gradient for that upstream, and is computed again only if upstream is another, which
    `seen` [] keeps.
    """
    soft = targets.is_floating_point()
    form = _form(
        logits.shape,
        logits.stride(),
        (logits if grad is None else grad).stride(),
        targets.stride() if soft else None,
        logits.element_size(),
        terms,
        options.label_smoothing != 0.0,
        upstream is not None and upstream.ndim > 0,
        used is not None,
        chip or _chip(logits.device),
    )
    args = (
        logits,
        targets,
        options.weight,
        denominator,
        upstream,
        losses,
        grad,
        used,
        seen,
        *form.sizes,
        options.ignore_index,
        1,
        float(options.label_smoothing),
        *form.numbers,
    )
    return Launch(form.kernel, form.grid, args, form.options)


class _Form(NamedTuple):
    # All of a launch that does not depend on where the tensors are.
    kernel: Any
    grid: tuple[int]
    sizes: tuple[int, ...]
    numbers: tuple[Any, ...]
    options: dict[str, Any]


_Strides = tuple[int, ...]


@functools.lru_cache(maxsize=1024)
def _form(  # the arithmetic of every form of a term in one place
    shape: torch.Size,
    z_stride: _Strides,
    g_stride: _Strides,
    q_stride: _Strides | None,
    itemsize: int,
    terms: tuple[Term, ...],
    smoothed: bool,
    of_rows: bool,
    again: bool,
    chip: Chip,
) -> _Form:
    samples, num_classes, inner = shape
    # All rows are one dimension where the layout allows it ([N, K], channels last); else a program
    # takes rows along D, neighbours in memory when the classes are not ([N, K, H, W]).
    strides = [s for s in (z_stride, g_stride, q_stride) if s is not None]
    if inner == 1:
        strides = [(0, s[0], s[1]) for s in strides]
        samples, inner = 1, samples
    elif all(s[0] == inner * s[2] for s in strides):
        strides = [(0, s[2], s[1]) for s in strides]
        samples, inner = 1, samples * inner
    else:
        strides = [(s[0], s[2], s[1]) for s in strides]
    z, g = strides[:2]
    # Strides between rows are passed in the largest power of two they share: 16 bytes at a time
    # can be loaded only if the compiler knows that every row begins at such an address.
    q = strides[2] if q_stride is not None else (0, 0, 1)
    unit = math.gcd(16, *z[:2], *g[:2], *q[:2]) if z[2] == 1 else 1
    sizes = (
        samples,
        inner,
        *(n // by for step in (z, g, q) for n, by in zip(step, (unit, unit, 1), strict=True)),
    )
    forms, sums = zip(*(_sum_method(term) for term in terms), strict=True)
    numbers = (
        tuple(float(term.weight) for term in terms),
        tuple(tuple(map(float, DEVICE[t.base].numbers(*t.params))) for t in terms),
        forms,
    )
    options: dict[str, Any] = {
        "PHI": tuple(DEVICE[term.base].phi for term in terms),
        "SUMS": sums,
        "WHOLE": tuple(term.form == "sum" for term in terms),
        "TARGETS": "dense" if q_stride is not None else "smoothed" if smoothed else "index",
        "K": num_classes,
        "UNIT": unit,
        "WIDE": (num_classes - 1) * max(z[2], g[2], q[2]) >= 2**31,
        "OF_ROWS": of_rows,
        "enable_fp_fusion": _FP_FUSION,
    }
    block = triton.next_power_of_2(num_classes)
    if block > LONGEST_ROW:
        per_lane = min(unit, 16 // itemsize)
        options["REREAD"] = "phi" in sums or options["TARGETS"] != "index"
        options["PER_LANE"] = per_lane
        if per_lane * itemsize < 8:
            # Rows of odd lengths: no copy to shared memory is so small, and each load is one to
            # registers.  As many of these are under way as a thread has elements.
            # (Of what keeps most, half: eight elements a thread fit into its 128 registers.)
            of_phi = [
                DEVICE[t.base].registers for t, by in zip(terms, sums, strict=True) if by == "phi"
            ]
            options["LANES"], options["STAGES"] = 4096 if sum(of_phi) > 200 else 8192, 1
        else:  # two loads of 16 bytes a thread: with three stages some 32 KB are on their way
            options["LANES"] = 32 * _LONG_WARPS * 2 * 16 // itemsize // per_lane
            options["STAGES"] = 3
        options["num_warps"] = _LONG_WARPS
        if torch.version.hip is None:
            options["maxnreg"] = _REGISTERS // (32 * _LONG_WARPS)
        # As many rows at a time as half of the cache holds: the second read finds them there.
        in_cache = chip.l2 // 2 // (num_classes * itemsize)
        programs = min(samples * inner, max(1, min(2 * chip.multiprocessors, in_cache)))
        return _Form(_long_rows_kernel, (programs,), sizes, numbers, options)
    per_thread = _PER_THREAD if _LAYS_ALONG_ROWS or block > 256 else 8
    if block <= 16 and "phi" in sums:  # a thread has whole rows, and phi and phi' of each class
        per_thread = min(per_thread, 16)
    tile = max(block, 32 * per_thread)
    rows = tile // block
    if z[2] != 1:
        rows = max(rows, _SECTOR // itemsize)  # neighbours, or a sector comes for one element
    options["ROWS"] = rows
    options["BLOCK"] = block
    # A soft target a class is kept beside phi and phi': with half as many a thread none spills.
    crowded = options["TARGETS"] == "dense" and "phi" in sums and block >= 1024
    options["num_warps"] = max(1, rows * block // (32 * _PER_THREAD)) * (1 + crowded)
    # Only where it lets neighbours be loaded at once: another batch size compiles nothing.  Few at
    # a time, for a thread keeps the numbers of each row.
    options["EVEN"] = z[2] != 1 and inner % rows == 0
    options["VECTOR"] = max(1, 4 // itemsize)
    # A load instruction of lanes along rows touches as many cache lines as rows, which for long
    # rows costs more than it saves; neighbouring lanes save nothing in unaligned rows.
    aligned = unit * itemsize >= 16
    innermost = z[2] == 1 and q[2] == 1
    short = block <= 256 and not (aligned and 16 < block <= 64)
    options["APART"] = block > 16  # three instructions a class less
    options["SPREAD"] = _LAYS_ALONG_ROWS and innermost and short
    if torch.version.hip is None and options["TARGETS"] == "index" and _LAYS_ALONG_ROWS:
        # As few registers as bring so many bytes on their way, but as many as the sums need.
        threads = 32 * options["num_warps"]
        programs = triton.cdiv(_IN_FLIGHT, rows * num_classes * itemsize)
        fewest = max(
            DEVICE[term.base].registers if by == "phi" else _REGISTERS_OF[by]
            for term, by in zip(terms, sums, strict=True)
        )
        if per_thread < _PER_THREAD:
            fewest = fewest // 2 - 4 + 48 * (sums.count("phi") - 1)
        most = min(248, _REGISTERS // threads)
        options["maxnreg"] = min(most, max(fewest, _REGISTERS // (threads * programs) // 8 * 8))
        if programs > 16 and block > 16 and not {"phi", "power"}.intersection(sums):
            # Of these six programs, and not five, fit into a quarter of a multiprocessor.
            options["maxnreg"] = 80
    blocks = samples * triton.cdiv(inner, rows)
    programs = min(blocks, 4 * chip.multiprocessors) if again else blocks
    return _Form(_rows_kernel, (programs,), sizes, numbers, options)


def _sum_method(term: Term) -> tuple[tuple[float, ...], str | None]:
    affine = DEVICE[term.base].affine
    if term.form == "at":
        return (0.0, 0.0, 0.0, 0.0), None
    if affine is None:
        return (0.0, 0.0, 0.0, 0.0), "phi"
    form = affine(*term.params)
    return form, "power" if form[2] else "linear"


@functools.cache
def _chip(device: torch.device) -> Chip:
    if device.type != "cuda":  # the interpreter: few programs, so that each takes several rows
        return Chip(2, 1 << 20)
    found = torch.cuda.get_device_properties(device)
    return Chip(found.multi_processor_count, found.L2_cache_size)


def loss_and_grad(  # what a kernel is launched with
    logits: Tensor,
    targets: Tensor,
    terms: tuple[Term, ...],
    options: LossOptions,
    denominator: Tensor | None,
    need_grad: bool,
    upstream: Tensor | None = None,
    need_losses: bool = True,
    inplace: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """Row losses [N, D] (float32, over `denominator` [], see `row_weight_sum`) and their gradient
    with respect to logits [N, K, D] (same dtype and layout, or where `inplace` written
    over them), times `upstream`, a number or one per row [N, D], in float32 before it is rounded.
    None for what is not needed.

    targets: classes [N, D], or soft ones [N, K, D].
    """
    losses = grad = None
    if need_losses:
        losses = torch.empty(logits.shape[::2], dtype=torch.float32, device=logits.device)
    if need_grad:
        grad = logits if inplace else torch.empty_like(logits)
    _launch(logits, targets, terms, options, denominator, losses, grad, upstream)
    return losses, grad


def correct_(  # what a kernel is launched with
    grad: Tensor,
    used: Tensor,
    upstream: Tensor,
    logits: Tensor,
    targets: Tensor,
    terms: tuple[Term, ...],
    options: LossOptions,
    denominator: Tensor | None,
) -> Tensor:
    """Makes the gradient for `used` [] the one for `upstream` [], in place; a copy of upstream.

    Where both are the same, no byte of it moves; else it is computed again, so that its bits do
    not depend on what had been expected.  The host does not wait to know.
    """
    seen = torch.empty_like(used)
    _launch(logits, targets, terms, options, denominator, None, grad, upstream, used, seen)
    return seen


def _launch(  # what a kernel is launched with
    logits: Tensor,
    targets: Tensor,
    terms: tuple[Term, ...],
    options: LossOptions,
    denominator: Tensor | None,
    losses: Tensor | None,
    grad: Tensor | None,
    upstream: Tensor | None,
    used: Tensor | None = None,
    seen: Tensor | None = None,
) -> None:
    if not logits.numel():
        if seen is not None:
            seen.fill_(1.0)
        return
    soft = targets.is_floating_point()
    if not soft:
        targets = targets.contiguous()
    if options.weight is not None:
        options = options._replace(weight=options.weight.contiguous())
    if upstream is not None:
        upstream = upstream.contiguous()
    with _on_device_of(logits):
        where = (denominator, losses, grad, upstream, used, seen)
        plan(logits, targets, terms, options, *where).run()


def _on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    # Triton launches on the current device and its stream, whatever tensors it is given.
    return torch.cuda.device_of(tensor) if tensor.is_cuda else nullcontext()


def row_weight_sum(targets: Tensor, options: LossOptions) -> Tensor:
    """What a mean divides by [], float32: the weights of the rows, each 1 for soft targets."""
    if targets.is_floating_point():
        count = targets.numel() // targets.shape[1]
        return torch.full((), count, dtype=torch.float32, device=targets.device)
    kept, class_weight = targets != options.ignore_index, options.weight
    if class_weight is None:
        return kept.sum(dtype=torch.float32)
    known = kept & (targets >= 0) & (targets < len(class_weight))
    return (class_weight.float()[torch.where(known, targets, 0)] * known).sum()
