"""What the compiled kernels look like, read from their cubins: no GPU needed.

Every specialisation goes through the launch code of `apl.kernels.triton_loss` up to the point
where a kernel would start, is compiled for a given NVIDIA architecture, and is taken apart with
the cuobjdump and nvdisasm of triton's own wheel.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver

from . import triton_loss
from .bases import BASES, Term

ARCHITECTURES = (80, 90, 100)
SIZES = (10, 100, 1000, 4096, 131072)
DTYPES = (torch.float32, torch.bfloat16)

# Per multiprocessor, the same for all three (CUDA C++ programming guide, compute capabilities).
_REGISTERS, _WARPS, _PROGRAMS = 65536, 64, 32
_SHARED = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}


@dataclass(frozen=True)
class Specialisation:
    """One kernel as launched: terms at [N, K] (or [N, K, D] with the classes not innermost)."""

    terms: tuple[Term, ...]
    num_classes: int
    dtype: torch.dtype
    inner: int = 1

    @property
    def name(self) -> str:
        """The terms as an expression, without weights: 'norm(ce) + rce'."""
        return " + ".join(f"norm({t.base})" if t.normalised else t.base for t in self.terms)


@dataclass(frozen=True)
class Report:
    """What the cubin of a specialisation holds.

    loads, stores: instructions on the row (logits, gradient) per thread and pass, by bytes.
    reads, writes: bytes of the row that a program asks for, over the bytes the row has; a block
    padded to a power of two is masked, so only K of its elements travel.
    occupancy: the share of the multiprocessor's warps that registers and shared memory leave.
    """

    spec: Specialisation
    arch: int
    warps: int
    rows: int
    block: int
    registers: int
    stack_bytes: int
    local_bytes: int
    local_instructions: int
    shared_bytes: int
    occupancy: float
    loads: dict[int, int]
    stores: dict[int, int]
    row_reads: int
    row_writes: int
    global_loads: int
    global_stores: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of logits."""
        return self.spec.num_classes * self.spec.dtype.itemsize

    @property
    def bytes_moved(self) -> int:
        """Bytes of logits and gradient that one row moves."""
        return (self.row_reads + self.row_writes) * self.row_bytes

    @property
    def bytes_limit(self) -> int:
        """The least: every logit must be read once and every derivative written once."""
        return 2 * self.row_bytes


def structures() -> list[tuple[Term, ...]]:
    """Every base alone, plain and normalised, and every active one joined with a passive one."""
    plain = {name: Term(name, 1.0, False, tuple(b.params.values())) for name, b in BASES.items()}
    normalised = {
        name: term._replace(normalised=True)
        for name, term in plain.items()
        if BASES[name].total is None
    }
    passive = [term for name, term in plain.items() if not BASES[name].active]
    single = [(term,) for term in (*plain.values(), *normalised.values())]
    return single + list(itertools.product(normalised.values(), passive))


def shipped() -> list[Specialisation]:
    """Every structure at every size and width, and the costliest with the classes not innermost."""
    specs = [
        Specialisation(terms, size, dtype)
        for size, dtype, terms in itertools.product(SIZES, DTYPES, structures())
    ]
    with_rce = [terms for terms in structures() if len(terms) == 2 and terms[1].base == "rce"]
    return specs + [
        Specialisation(terms, 10, dtype, 1024)
        for dtype, terms in itertools.product(DTYPES, with_rce)
    ]


def inspect(specs: Iterable[Specialisation], arch: int) -> list[Report]:
    """Compiles each for sm_<arch> and reads its cubin.  Raises where ptxas does."""
    with _compile_only(arch):
        return [_inspect(spec, arch) for spec in specs]


def rows(arch: int = 90, specs: Iterable[Specialisation] | None = None) -> list[dict[str, Any]]:
    """The reports as a table: one dict of printable cells per specialisation."""
    return [
        {
            "loss": report.spec.name,
            "K": report.spec.num_classes,
            "type": str(report.spec.dtype).removeprefix("torch."),
            "rows x block": f"{report.rows} x {report.block}",
            "warps": report.warps,
            "registers": report.registers,
            "spills": report.local_bytes + report.stack_bytes,
            "occupancy": f"{report.occupancy:.0%}",
            "loads": _widths(report.loads),
            "stores": _widths(report.stores),
            "bytes/row": report.bytes_moved,
            "limit": report.bytes_limit,
        }
        for report in inspect(shipped() if specs is None else specs, arch)
    ]


def _widths(counts: dict[int, int]) -> str:
    return " + ".join(f"{n} x {8 * width} bit" for width, n in sorted(counts.items()))


class _CompileOnly(DriverBase):  # type: ignore[misc]
    """A driver that names a target and has no device: enough for `JITFunction.warmup`."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    @classmethod
    def is_active(cls) -> bool:
        return False

    def get_current_target(self) -> Any:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch  # triton keeps compiled kernels per device: one device per architecture

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_benchmarker(self) -> Any:
        raise NotImplementedError("a compile-only driver has nothing to measure")


@contextmanager
def _compile_only(arch: int) -> Iterator[None]:
    try:
        previous = driver.active
    except Exception:  # newer releases look for a device at once, and fail in several ways
        previous = None  # as good as unset: they look again when next asked
    driver.set_active(_CompileOnly(arch))
    try:
        yield
    finally:
        driver.set_active(previous)


def _compile(spec: Specialisation) -> tuple[triton_loss.Launch, Any]:
    logits = torch.empty(4096, spec.num_classes, spec.inner, dtype=spec.dtype, device="meta")
    targets = torch.empty(4096, spec.inner, dtype=torch.int64, device="meta")
    losses, denominator = targets.float(), torch.empty((), device="meta")
    launch = triton_loss.plan(
        logits, targets, spec.terms, None, denominator, -100, losses, torch.empty_like(logits)
    )
    return launch, launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.options)


def _inspect(spec: Specialisation, arch: int) -> Report:
    launch, kernel = _compile(spec)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        Path(cubin.name).write_bytes(kernel.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", cubin.name)
        sass = _tool("nvdisasm", "-c", cubin.name)
    registers, stack, shared, local = map(
        int,
        re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage).groups(),  # type: ignore[union-attr]
    )
    warps = launch.options["num_warps"]
    row_count, block = launch.options.get("ROWS", 1), launch.options["BLOCK"]
    loads, stores = _row_accesses(kernel.asm["ptx"], launch.args)
    tile = row_count * block * spec.dtype.itemsize / (32 * warps)  # bytes of the tile per thread
    return Report(
        spec=spec,
        arch=arch,
        warps=warps,
        rows=row_count,
        block=block,
        registers=registers,
        stack_bytes=stack,
        local_bytes=local,
        local_instructions=len(re.findall(r"\b(?:LDL|STL)\b", sass)),
        shared_bytes=shared,
        occupancy=_occupancy(registers, shared, warps, arch),
        loads=dict(loads),
        stores=dict(stores),
        row_reads=round(sum(width * n for width, n in loads.items()) / tile),
        row_writes=round(sum(width * n for width, n in stores.items()) / tile),
        global_loads=len(re.findall(r"\bLDG\b", sass)),
        global_stores=len(re.findall(r"\bSTG\b", sass)),
    )


def _tool(name: str, *args: str) -> str:
    path = getattr(knobs.nvidia, name).path
    return subprocess.run([path, *args], check=True, capture_output=True, text=True).stdout


_INSTRUCTION = re.compile(r"^\s*(?:@!?%\w+\s+)?(?P<op>[a-z][\w.:]*)\s+(?P<operands>[^;]+);", re.M)
_REGISTER = re.compile(r"%\w+")
_PARAMETER = re.compile(r"\[\w+_param_(\d+)")
_WIDTH = re.compile(r"(?:\.v(\d))?\.[bsuf](\d+)$")


def _row_accesses(ptx: str, args: tuple[Any, ...]) -> tuple[Counter[int], Counter[int]]:
    """The loads and stores of the row by width in bytes: those whose address comes from the
    pointer to the logits or to the gradient.  (The others fetch targets and weights.)"""
    pointers = [arg for arg in args if isinstance(arg, Tensor)]
    logits = 0
    grad = next(i for i, tensor in enumerate(pointers) if tensor is args[6])
    origins: dict[str, set[str | int]] = {}  # register -> the registers or parameters it is from
    accesses = []
    for match in _INSTRUCTION.finditer(ptx):
        op, operands = match["op"], match["operands"]
        if op.startswith(("ld.global", "st.global")):
            address = operands[operands.index("[") :]
            accesses.append((op, _REGISTER.findall(address)[0]))
        elif op.startswith("ld.param"):
            parameter = _PARAMETER.search(operands)
            if parameter:
                origins.setdefault(_REGISTER.findall(operands)[0], set()).add(int(parameter[1]))
        elif not op.startswith(("ld.", "st.", "bra", "bar")):
            first, *rest = _REGISTER.findall(operands) or [""]
            origins.setdefault(first, set()).update(rest)

    def parameters(register: str) -> set[int]:
        found: set[int] = set()
        seen, stack = {register}, [register]
        while stack:
            for origin in origins.get(stack.pop(), ()):
                if isinstance(origin, int):
                    found.add(origin)
                elif origin not in seen:
                    seen.add(origin)
                    stack.append(origin)
        return found

    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    for op, register in accesses:
        vector, bits = _WIDTH.search(op).groups()  # type: ignore[union-attr]
        width = int(vector or 1) * int(bits) // 8
        if op.startswith("ld.") and logits in parameters(register):
            loads[width] += 1
        if op.startswith("st.") and grad in parameters(register):
            stores[width] += 1
    return loads, stores


def _occupancy(registers: int, shared: int, warps: int, arch: int) -> float:
    """Resident warps over the most there can be.  Registers are given out 256 to a warp at a
    time, shared memory 128 bytes at a time (with the 1 KiB the system keeps, which `cuobjdump`
    counts in from sm_90 on)."""
    per_warp = -(-registers * 32 // 256) * 256
    programs = min(_REGISTERS // (per_warp * warps), _WARPS // warps, _PROGRAMS)
    if shared:
        programs = min(programs, _SHARED[arch] // (-(-shared // 128) * 128))
    return programs * warps / _WARPS
