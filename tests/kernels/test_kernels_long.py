"""Machine code of rows of many classes: up to 8,192 in registers, and lengths that are odd.

Other lengths and what the figures mean: `test_kernels_static.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton.backends.nvidia")
import kernel_code
from test_kernels_static import LAYS_ALONG_ROWS, hold, ids

from apl.losses.catalog import loss_terms

pytestmark = pytest.mark.slow

FP32, BF16 = torch.float32, torch.bfloat16
IN_REGISTERS, ODD = 8192, (21841, 50257)
# By loss: instructions a logit, at the most, in registers and of odd lengths.
MOST = {"nce_rce": (36, 66), "anl_fl": (90, 190)}


@pytest.fixture(scope="module")
def reports() -> list[tuple[str, Any]]:
    # Nearest to their limits of registers: 195 of 200 (anl_fl in registers), 123 of 128 (nce_rce of
    # an odd length); each other length, type and generation of machine code once.
    found = []
    for arch, name, *sizes in (
        (80, "anl_fl", (IN_REGISTERS, FP32)),
        *((90, name, (IN_REGISTERS, BF16), (ODD[0], BF16)) for name in MOST),
        (100, "anl_fl", (ODD[1], FP32)),
    ):
        specs = [kernel_code.Specialisation(loss_terms(name, 10), *size) for size in sizes]
        found += [(name, report) for report in kernel_code.inspect(specs, arch)]
    return found


def test_nothing_spills(reports: list[tuple[str, Any]]) -> None:
    hold(ids(r for _, r in reports if r.spills))


def test_what_is_read_and_written(reports: list[tuple[str, Any]]) -> None:
    # Once in registers; else twice, and once more for sums of phi itself.
    def passes(name: str, report: Any) -> tuple[int, int]:
        if report.spec.num_classes == IN_REGISTERS:
            return 1, 1
        return (2, 1) if name == "nce_rce" else (3, 1)

    hold(ids(r for name, r in reports if (r.row_reads, r.row_writes) != passes(name, r)))


def test_instructions_a_logit(reports: list[tuple[str, Any]]) -> None:
    def most(name: str, report: Any) -> int:
        return MOST[name][report.spec.num_classes != IN_REGISTERS]

    hold(ids(r for name, r in reports if r.instructions > most(name, r)), LAYS_ALONG_ROWS)


def test_bytes_on_their_way_of_rows_in_registers(reports: list[tuple[str, Any]]) -> None:
    def least(name: str, report: Any) -> int:
        return 32_000 if name == "nce_rce" or report.spec.dtype == FP32 else 16_000

    rows = [(name, r) for name, r in reports if r.spec.num_classes == IN_REGISTERS]
    hold(ids(r for name, r in rows if r.bytes_in_flight < least(name, r)))
