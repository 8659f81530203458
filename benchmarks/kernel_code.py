"""What the compiled kernels look like, read from their machine code: no GPU needed.

    python benchmarks/kernel_code.py [--loss nce_rce] [--arch 90]

Prints a row for each specialisation, of every loss unless one is given, and what the columns are.
Every specialisation goes through the launch code of `apl.kernels.triton_loss` up to the point
where a kernel would start, is compiled for a given NVIDIA architecture, and is taken apart with
the nvdisasm of triton's own wheel.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import struct
import subprocess
import tempfile
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver

from apl.kernels import triton_loss
from apl.kernels.bases import BASES, Form, Term
from apl.kernels.options import LossOptions
from apl.losses.catalog import loss_terms


class Card(NamedTuple):
    """A card of an architecture: its multiprocessors and bytes of L2 cache, and what one
    multiprocessor holds at most: warps, programs, and bytes of shared memory."""

    name: str
    processors: int
    l2: int
    warps: int
    programs: int
    shared: int


# By architecture.  Limits of a multiprocessor: cuda_occupancy.h of CUDA 13 and the CUDA C++
# programming guide (compute capabilities); multiprocessors and L2: NVIDIA's papers on each card.
CARDS = {
    80: Card("A100", 108, 40 << 20, 64, 32, 164 << 10),
    86: Card("RTX 3090", 82, 6 << 20, 48, 16, 100 << 10),
    89: Card("RTX 4090", 128, 72 << 20, 48, 24, 100 << 10),
    90: Card("H100 SXM", 132, 50 << 20, 64, 32, 228 << 10),
    100: Card("B200", 148, 126 << 20, 64, 32, 228 << 10),
    120: Card("RTX 5090", 170, 96 << 20, 48, 24, 100 << 10),
}
ARCHITECTURES = tuple(CARDS)
SIZES = (10, 100, 1000, 4096, 131072)
DTYPES = (torch.float32, torch.bfloat16)

_SECTOR = 32  # bytes: the least that memory gives
_PARTITION = 16384  # registers of each of the four parts of a multiprocessor


@dataclass(frozen=True)
class Specialisation:
    """One kernel as launched: terms at [N, K], or at [N, K, D] with the classes not innermost
    where inner = D > 1, for targets that are an 'index', 'smoothed' or 'dense' ([N, K])."""

    terms: tuple[Term, ...]
    num_classes: int
    dtype: torch.dtype
    inner: int = 1
    targets: str = "index"

    @property
    def name(self) -> str:
        """The bases as one name, n before a normalised one, Σ before a sum over all classes, none
        for a constant: 'nce_rce'."""
        forms = {"at": "", "norm": "n", "sum": "Σ"}
        return "_".join(forms[t.form] + t.base for t in self.terms if t.base != "one")


@dataclass(frozen=True)
class Report:
    """What the machine code of a specialisation holds.

    A program takes `rows` rows at a time (a tile), `block` classes at a time.

    instructions: issued by all threads of a program for a logit; lanes of the padding count, as
    they take the same time.  Code in a loop counts as often as the loop runs, code before a loop
    over many tiles in proportion, both sides of a branch count, NOPs do not.
    barriers: for which a tile waits.
    loads, stores: instructions on the row (logits, gradient) in the code, by bytes a thread.
    row_reads, row_writes: how often a tile is read and written.
    sectors, least_sectors: the 32-byte sectors of logits and gradient that a row moves, one that
    two programs fetch counted twice, and the fewest there could be with one read and one write.
    bytes_in_flight: of rows, that the programs of a multiprocessor have asked for at once.
    l2_share: the rows that all programs of the card (`CARDS`) work on, over its L2 cache.
    """

    spec: Specialisation
    arch: int
    warps: int
    rows: int
    block: int
    registers: int
    spills: int
    programs: int
    instructions: float
    barriers: int
    loads: dict[int, int]
    stores: dict[int, int]
    other_loads: int
    other_stores: int
    row_reads: int
    row_writes: int
    sectors: float
    least_sectors: float
    bytes_in_flight: int
    l2_share: float


def structures() -> list[tuple[Term, ...]]:
    """Of the bases of Ma et al. 2020 every one alone, plain and normalised, and every active one
    joined with a passive one."""
    plain = {name: _term(name) for name in ("ce", "fl", "mae", "rce", "gce")}
    normalised = {
        name: term._replace(form="norm")
        for name, term in plain.items()
        if BASES[name].total is None
    }
    passive = [term for name, term in plain.items() if not BASES[name].active]
    single = [(term,) for term in (*plain.values(), *normalised.values())]
    return single + list(itertools.product(normalised.values(), passive))


def _term(base: str, weight: float = 1.0, form: Form = "at") -> Term:
    return Term(base, weight, form, tuple(BASES[base].params.values()))


def costly() -> list[tuple[Term, ...]]:
    """Of all other bases what keeps most in registers: ANL-FL and JAL-FL, and three normalised."""
    negative = (_term("one"), _term("negfl", -1.0, "norm"))
    squares = (_term("sq", 0.1, "sum"), _term("mae", 3.0), _term("one"))
    others = [(_term(base, form="norm"),) for base in ("aul", "tce", "js")]
    return [*((_term("fl", form="norm"), *rest) for rest in (negative, squares)), *others]


def shipped(terms: tuple[Term, ...] | None = None) -> list[Specialisation]:
    """Every structure at every size and width, and the one that keeps most in registers also with
    the classes not innermost and with soft targets; of the terms given, if any.  Without, also the
    costly ones at the size that fills most registers."""
    found = [
        Specialisation(each, size, dtype)
        for size, dtype, each in itertools.product(
            SIZES, DTYPES, structures() if terms is None else [terms]
        )
    ]
    if terms is None:
        wide = (1000, torch.bfloat16)
        found += [Specialisation(each, *wide) for each in costly()]
        found += [Specialisation(each, *wide, targets="dense") for each in costly()[:2]]
        (terms,) = (each for each in structures() if [t.base for t in each] == ["fl", "rce"])
    for dtype in DTYPES:
        found += [Specialisation(terms, size, dtype, inner=1024) for size in (10, 150, 1000)]
        found += [
            Specialisation(terms, size, dtype, targets=targets)
            for size, targets in itertools.product((10, 1000, 131072), ("smoothed", "dense"))
        ]
    return found


def inspect(specs: Iterable[Specialisation], arch: int) -> list[Report]:
    """Compiles each for sm_<arch> and reads its machine code.  Raises where ptxas does."""
    with _compile_only(arch):
        compiled = [(spec, *_compile(spec, arch)) for spec in specs]
    cubins = [kernel.asm["cubin"] for _, _, kernel in compiled]
    return [
        _report(spec, arch, launch, _resources(cubin), parse(listing))
        for (spec, launch, _), cubin, listing in zip(
            compiled, cubins, _listings(cubins, arch), strict=True
        )
    ]


LEGEND = """\
K     classes; * not innermost ([N, K, D]); ~ smoothed and = dense soft targets
tile  rows x classes that a program takes at a time, with w warps
reg   registers a thread; sp: bytes spilled
ins   instructions issued a logit; bar: barriers a tile
ld st instructions that load and store the row, count x bytes a thread
sect  32-byte sectors that a row moves; +%: more than the least there could be
KB    of rows on their way to a multiprocessor; L2: rows at work, % of the cache"""


def table(reports: Iterable[Report]) -> list[dict[str, str]]:
    """Printable cells, one dict per report; `LEGEND` explains them."""
    marks = {"index": "", "smoothed": "~", "dense": "="}
    return [
        {
            "loss": r.spec.name,
            "K": f"{r.spec.num_classes}{'*' * (r.spec.inner > 1)}{marks[r.spec.targets]}",
            "type": {4: "f32", 2: "bf16"}[r.spec.dtype.itemsize],
            "tile": f"{r.rows}x{r.block}",
            "w": str(r.warps),
            "reg": str(r.registers),
            "sp": str(r.spills),
            "ins": f"{r.instructions:.0f}",
            "bar": str(r.barriers),
            "ld": _widths(r.loads),
            "st": _widths(r.stores),
            "sect": f"{r.sectors:.0f}",
            "+%": f"{100 * (r.sectors / r.least_sectors - 1):.0f}",
            "KB": f"{r.bytes_in_flight / 1000:.0f}",
            "L2": f"{100 * r.l2_share:.0f}",
        }
        for r in reports
    ]


def _widths(counts: dict[int, int]) -> str:
    return "+".join(f"{n}x{width}" if n > 1 else str(width) for width, n in sorted(counts.items()))


def table_lines(rows: Sequence[dict[str, str]], width: int) -> list[str]:
    """The rows of `table` as lines, a blank between two columns.

    Where they are wider than `width`, the first columns stand above the rows that share them, as
    many as it takes.
    """
    heads = list(rows[0])
    cells = [list(row.values()) for row in rows]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    above = 0
    while above < len(heads) - 1 and sum(widths[above:]) + len(widths[above:]) - 1 > width:
        above += 1

    def line(row: Sequence[str]) -> str:
        words = zip(heads[above:], row[above:], widths[above:], strict=True)
        return " ".join(f"{word:{'<' if head == 'loss' else '>'}{w}}" for head, word, w in words)

    lines = [line(heads)]
    shared: list[str] = []
    for row in cells:
        if row[:above] != shared:
            shared = row[:above]
            lines.append(" ".join(shared))
        lines.append(line(row))
    return lines


# --- Compiling without a device ---


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


_SAMPLES = 1 << 20  # so many that they fill every card; tensors of the meta device take no memory


def plan(spec: Specialisation, arch: int) -> triton_loss.Launch:
    """What would be launched on the card of an architecture."""
    logits = torch.empty(_SAMPLES, spec.num_classes, spec.inner, dtype=spec.dtype, device="meta")
    targets = torch.empty(_SAMPLES, spec.inner, dtype=torch.int64, device="meta")
    losses, denominator = targets.float(), torch.empty((), device="meta")
    return triton_loss.plan(
        logits,
        torch.empty_like(logits) if spec.targets == "dense" else targets,
        spec.terms,
        LossOptions(label_smoothing=0.1 if spec.targets == "smoothed" else 0.0),
        denominator,
        losses,
        torch.empty_like(logits),
        chip=triton_loss.Chip(CARDS[arch].processors, CARDS[arch].l2),
    )


def _compile(spec: Specialisation, arch: int) -> tuple[triton_loss.Launch, Any]:
    launch = plan(spec, arch)
    return launch, launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.options)


# --- Machine code ---


@dataclass(frozen=True)
class Instruction:
    """One instruction of the machine code (SASS): '@!P0 LDG.E.64 R4, desc[UR6][R2.64+0x40]'."""

    address: int
    predicate: str
    op: str
    operands: str

    @cached_property
    def name(self) -> str:
        return self.op.partition(".")[0]

    @cached_property
    def width(self) -> int:
        """Bytes a thread that the operation moves."""
        found = re.search(r"\.[US]?(8|16|64|128|256)(?=\.|$)", self.op)
        return int(found[1]) // 8 if found else 4

    @cached_property
    def jump(self) -> int | None:
        """The address to which it may branch."""
        if self.name not in ("BRA", "CALL"):
            return None
        # BRA.DIV leaves for the threads of a warp that have parted.  Ours part nowhere.
        found = None if ".DIV" in self.op else re.search(r"0x([0-9a-f]+)$", self.operands)
        return int(found[1], 16) if found else None

    @cached_property
    def falls_through(self) -> bool:
        """Whether the next instruction may follow: not after 'EXIT' or 'BRA 0x520'."""
        always = not self.predicate and "," not in self.operands
        return not (always and self.name in ("BRA", "EXIT", "RET"))

    @cached_property
    def written(self) -> list[str]:
        """The registers it writes, in order of their words; for a spill, the place ('[R1+0x4]')."""
        if self.name == "STL":
            return [self.operands.partition(",")[0]]
        if self.name.startswith(("ST", "RED", "LDGSTS", "BRA", "BAR", "EXIT", "CALL")):
            return []
        for operand in self.operands.split(",")[:2]:
            first = re.match(r"\s*(U?R)(\d+)", operand)
            if first:
                wide = re.search(r"\.(WIDE|64|128)(?=\.|$)", self.op)
                words = {"WIDE": 2, "64": 2, "128": 4}[wide[1]] if wide else 1
                return [f"{first[1]}{int(first[2]) + word}" for word in range(words)]
            if not re.match(r"\s*!?U?P", operand):  # comparisons and shuffles name predicates first
                break
        return []

    @cached_property
    def read(self) -> list[str]:
        """The registers it reads; of those that are several words, the first."""
        named: list[str] = _REGISTER.findall(re.sub(r"desc\[\w+\]", "", self.operands))
        place = [self.operands.rpartition(", ")[2]] if self.name == "LDL" else []
        return (named[1:] if self.written else named) + place


_REGISTER = re.compile(r"\bU?R\d+\b")
_CONSTANT = re.compile(r"c\[0x0\]\[(?:U?R\d+\+)?(0x[0-9a-f]+)\]")
# After the operands some releases tell how the instruction is scheduled: '&req={1} ?trans5'.
_INSTRUCTION = re.compile(
    r"/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@(?P<predicate>!?U?P\w+)\s+)?(?P<op>[A-Z][\w.]*)\s*"
    r"(?P<operands>[^;&?]*?)\s*(?:[&?][^;]*)?;"
)


def parse(sass: str) -> list[Instruction]:
    """The instructions of a listing of nvdisasm that can be reached from the first, without NOPs:
    what the compiler leaves behind the end is not among them."""
    code = [
        Instruction(
            int(found["address"], 16), found["predicate"] or "", found["op"], found["operands"]
        )
        for found in _INSTRUCTION.finditer(sass)
        if found["op"] != "NOP"
    ]
    return [code[i] for i in sorted(_reachable(code))]


def _reachable(code: Sequence[Instruction], around: int | None = None) -> set[int]:
    """The indices that can be reached from the first without passing `around`."""
    addresses = [instruction.address for instruction in code]
    seen: set[int] = set()
    stack = [0]
    while stack:
        i = stack.pop()
        if i in seen or i == around or i >= len(code):
            continue
        seen.add(i)
        if code[i].falls_through:
            stack.append(i + 1)
        target = code[i].jump
        if target is not None:
            stack.append(bisect_left(addresses, target))
    return seen


def loops(code: Sequence[Instruction]) -> list[tuple[int, int]]:
    """First and last index of each loop, inner ones before those around them."""
    addresses = [instruction.address for instruction in code]
    found: dict[int, int] = {}
    for last, instruction in enumerate(code):
        if instruction.jump is not None and instruction.jump <= instruction.address:
            first = bisect_left(addresses, instruction.jump)
            # A jump back from code that was only moved out of the way is no loop: there is a way
            # to it that does not pass where it jumps to.
            if last not in _reachable(code, around=first):
                found[first] = last
    return sorted(found.items(), key=lambda loop: loop[1] - loop[0])


def row_accesses(
    code: Sequence[Instruction], logits: int, grad: int
) -> tuple[list[int], list[int]]:
    """The indices of the loads and of the stores of the row: those whose address comes from the
    kernel argument at `logits` or `grad` in the constant bank.  (Others fetch targets, weights.)"""
    writers: defaultdict[str, list[int]] = defaultdict(list)
    for i, instruction in enumerate(code):
        for register in instruction.written:
            writers[register].append(i)

    def arguments(i: int) -> set[int]:
        # Backwards through the text: in front of every use stands a write with the same origin.
        found: set[int] = set()
        address = code[i].operands[code[i].operands.rindex("[") :]
        stack = [(i, register) for register in _REGISTER.findall(address)]
        seen = set()
        while stack:
            reader, register = stack.pop()
            earlier = bisect_left(writers[register], reader)
            if not earlier:
                continue
            writer = writers[register][earlier - 1]
            if (writer, register) in seen:
                continue
            seen.add((writer, register))
            instruction = code[writer]
            constants = [int(offset, 16) for offset in _CONSTANT.findall(instruction.operands)]
            if instruction.predicate:
                stack.append((writer, register))
            if instruction.name in ("LDC", "ULDC", "LDCU"):
                found.add(constants[0] + 4 * instruction.written.index(register))
            elif instruction.name == "LDL" or not instruction.name.startswith("LD"):
                # (What was loaded from elsewhere is no pointer of ours.)
                found.update(constants)
                stack += [(writer, source) for source in instruction.read]
        return found

    loads = [
        i for i, x in enumerate(code) if x.name in ("LDG", "LDGSTS") and logits in arguments(i)
    ]
    stores = [i for i, x in enumerate(code) if x.name == "STG" and grad in arguments(i)]
    return loads, stores


def times(
    code: Sequence[Instruction], loads: Sequence[int], tile_bytes: float, tiles: float
) -> list[float]:
    """How often a thread issues each instruction for a tile.

    A loop runs until its body has loaded the `tile_bytes` that a thread has of the tile, which
    says how often, whatever the compiler has unrolled.  A loop that loads a whole tile each time
    takes a program through its `tiles`: what stands outside of it is shared by them.
    """
    found = [1.0] * len(code)
    over_tiles = None
    for first, last in loops(code):
        body = range(first, last + 1)
        loaded = sum(found[i] * code[i].width for i in loads if i in body)
        turns = max(1, round(tile_bytes / loaded)) if loaded else 1
        if turns == 1 and loaded >= tile_bytes:
            over_tiles = body
        for i in body:
            found[i] *= turns
    if over_tiles is not None:
        found = [n if i in over_tiles else n / tiles for i, n in enumerate(found)]
    return found


def bytes_in_flight(code: Sequence[Instruction], loads: Sequence[int]) -> int:
    """The most bytes a thread that have been asked for by `loads` and are not yet waited for.

    A load is waited for where a register it fills is read; a copy to shared memory (LDGSTS), where
    fewer groups of copies may be under way (DEPBAR)."""
    wanted = set(loads)
    most = 0
    registers: dict[int, set[str]] = {}  # what each load fills
    groups: list[int] = [0]  # bytes of the groups of copies, the last one still open
    for i in _two_turns(0, len(code) - 1, loops(code)):
        instruction = code[i]
        if instruction.name == "LDGDEPBAR":
            groups.append(0)
        elif instruction.name == "DEPBAR":
            under_way = re.search(r"SB0, (0x[0-9a-f]+)", instruction.operands)
            if under_way:
                groups = groups[-1 - int(under_way[1], 16) :]
        elif i in wanted and instruction.name == "LDGSTS":
            groups[-1] += instruction.width
        read = set(instruction.read)
        registers = {load: filled for load, filled in registers.items() if not filled & read}
        if i in wanted and instruction.name == "LDG":
            registers[i] = set(instruction.written)
        most = max(most, sum(groups) + sum(code[load].width for load in registers))
    return most


def _two_turns(first: int, last: int, inside: Sequence[tuple[int, int]]) -> Iterator[int]:
    # The indices in the order of a run that takes each loop twice: what a turn leaves under way
    # for the next is seen then.
    around = {a: b for a, b in inside if first <= a and b <= last and (a, b) != (first, last)}
    i = first
    while i <= last:
        if i in around:
            for _ in range(2):
                yield from _two_turns(i, around[i], inside)
            i = around[i] + 1
        else:
            yield i
            i += 1


# --- One report ---


def _report(
    spec: Specialisation,
    arch: int,
    launch: triton_loss.Launch,
    resources: tuple[int, ...],
    code: Sequence[Instruction],
) -> Report:
    registers, stack, shared, local = resources
    given = dict(zip(launch.kernel.arg_names, launch.args, strict=False))
    options = launch.options
    warps, rows = options["num_warps"], options.get("ROWS", 1)
    block = options["BLOCK"] if "BLOCK" in options else options["LANES"] * options["PER_LANE"]
    blocks = ceil(spec.num_classes / block)
    tiles = given["samples"] * ceil(given["rows"] / rows)
    # Bytes of the tile a thread, padding included.
    tile_bytes = rows * blocks * block * spec.dtype.itemsize / (32 * warps)

    every, stores = row_accesses(code, *_argument_offsets(launch, arch))
    # The logit of the label, which is loaded alone, is no part of the tile.
    loads = [i for i in every if code[i].width > spec.dtype.itemsize] or every
    often = times(code, loads, tile_bytes, tiles / launch.grid[0])
    total = Counter(instruction.name for instruction in code)
    barriers = sum(n for n, x in zip(often, code, strict=True) if x.name == "BAR")
    loaded = sum(often[i] * code[i].width for i in loads)
    stored = sum(often[i] * code[i].width for i in stores)
    in_flight = bytes_in_flight(code, loads)
    # Copies to shared memory run ahead of a loop: as many are masked out at its end.
    ahead = in_flight if any(code[i].name == "LDGSTS" for i in loads) else 0
    row_reads = round(loaded / (tile_bytes + ahead))
    # What a mask turns off, or the compiler left out, of the padding.
    useful = spec.num_classes / (blocks * block) * row_reads * (tile_bytes + ahead) / loaded

    row_writes = round(stored / tile_bytes)
    programs = _resident(registers, shared, warps, arch)
    card = CARDS[arch]
    on_card = min(launch.grid[0], programs * card.processors)
    (z, least_z), (g, least_g) = (
        sectors(
            (given["samples"], given["rows"], spec.num_classes),
            (
                given[f"{tensor}_sample"] * options["UNIT"],
                given[f"{tensor}_row"] * options["UNIT"],
                given[f"{tensor}_col"],
            ),
            spec.dtype.itemsize,
            rows,
        )
        for tensor in ("z", "g")
    )
    return Report(
        spec=spec,
        arch=arch,
        warps=warps,
        rows=rows,
        block=block,
        registers=registers,
        spills=stack + local,
        programs=programs,
        instructions=sum(often) * 32 * warps / (rows * spec.num_classes),
        barriers=round(barriers),
        loads=dict(Counter(code[i].width for i in every)),
        stores=dict(Counter(code[i].width for i in stores)),
        other_loads=total["LDG"] + total["LDGSTS"] - len(every),
        other_stores=total["STG"] - len(stores),
        row_reads=row_reads,
        row_writes=row_writes,
        sectors=row_reads * z + row_writes * g,
        least_sectors=least_z + least_g,
        bytes_in_flight=round(in_flight * useful * 32 * warps * ceil(on_card / card.processors)),
        l2_share=on_card * rows * spec.num_classes * spec.dtype.itemsize / card.l2,
    )


def _tool(name: str, *given: str, content: bytes) -> str:
    """What a disassembler of triton's wheel prints of a file with this content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "code")
        path.write_bytes(content)
        command = [getattr(knobs.nvidia, name).path, *given, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _resources(cubin: bytes) -> tuple[int, ...]:
    """Registers, bytes of stack, shared and local memory."""
    usage = r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)"
    found = re.search(usage, _tool("cuobjdump", "-res-usage", content=cubin))
    return tuple(map(int, found.groups()))  # type: ignore[union-attr]


def _listings(cubins: Sequence[bytes], arch: int) -> list[str]:
    """The machine code of each, at addresses that go on from one to the next.

    The disassembler takes half a second to start and hundredths for a kernel: it is given the code
    of all of them as one.
    """
    codes = [_machine_code(cubin) for cubin in cubins]
    target = f"SM{arch}a" if arch >= 90 else f"SM{arch}"  # as triton compiles
    listing = _tool("nvdisasm", "-b", target, content=b"".join(codes))
    lines = [line for line in listing.splitlines() if line.lstrip().startswith("/*")]
    assert 16 * len(lines) == sum(map(len, codes))  # an instruction a line
    ends = itertools.accumulate(len(code) // 16 for code in codes)
    return [
        "\n".join(lines[end - len(code) // 16 : end]) for code, end in zip(codes, ends, strict=True)
    ]


def _machine_code(cubin: bytes) -> bytes:
    """The section .text.<kernel> of an ELF file of 64 bits."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    count, names = struct.unpack_from("<HH", cubin, 0x3C)
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + 64 * i) for i in range(count)]
    (found,) = (
        cubin[begin : begin + size]
        for name, _, _, _, begin, size in sections
        if cubin.startswith(b".text.", sections[names][4] + name)
    )
    return found


def _argument_offsets(launch: triton_loss.Launch, arch: int) -> tuple[int, int]:
    # Where logits and gradient stand in the constant bank: arguments begin there at an offset that
    # the architecture fixes, 8 bytes each as long as they are tensors.
    begin = 0x380 if arch >= 100 else 0x210 if arch >= 90 else 0x160
    tensors = [
        name
        for name, value in zip(launch.kernel.arg_names, launch.args, strict=False)
        if isinstance(value, Tensor)
    ]
    return begin + 8 * tensors.index("logits"), begin + 8 * tensors.index("grad")


def _resident(registers: int, shared: int, warps: int, arch: int) -> int:
    """Programs that a multiprocessor holds at once.  Registers are given out 256 to a warp at a
    time in each of four parts, shared memory 128 bytes at a time (with the 1 KiB the system keeps,
    which `cuobjdump` counts in from sm_90 on)."""
    card = CARDS[arch]
    per_warp = ceil(registers * 32 / 256) * 256
    programs = min(4 * (_PARTITION // per_warp) // warps, card.warps // warps, card.programs)
    if shared:
        programs = min(programs, card.shared // (ceil(shared / 128) * 128))
    return programs


@cache
def sectors(
    shape: tuple[int, int, int], strides: tuple[int, int, int], itemsize: int, rows: int
) -> tuple[float, float]:
    """Sectors that one pass over a row fetches, and the fewest it could.

    shape and strides of [sample, row, class]; a program takes `rows` neighbours of a sample.  From
    the addresses of the first programs; what two of them fetch counts twice, but for the fewest.
    """
    samples, per_sample, num_classes = shape
    col = torch.arange(num_classes) * strides[2]
    blocks = ceil(per_sample / rows)
    fetched, distinct, seen = 0, [], 0
    for tile in range(min(samples * blocks, 64, max(1, (1 << 18) // (rows * num_classes)))):
        row = torch.arange(tile % blocks * rows, min((tile % blocks + 1) * rows, per_sample))
        at = tile // blocks * strides[0] + row[:, None] * strides[1] + col
        found = torch.unique(at * itemsize // _SECTOR)
        fetched += len(found)
        distinct.append(found)
        seen += len(row)
    return fetched / seen, len(torch.unique(torch.cat(distinct))) / seen


# --- The script ---


def main(arguments: Sequence[str] | None = None) -> None:
    """The script: prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", help="the loss to show [all]")
    parser.add_argument("--arch", type=int, default=90, choices=ARCHITECTURES, help="sm_ARCH")
    asked = parser.parse_args(arguments)
    try:
        terms = None if asked.loss is None else loss_terms(asked.loss, 10)
    except ValueError as error:
        parser.error(str(error))
    rows = table(inspect(shipped(terms), asked.arch))
    lines = table_lines(rows, shutil.get_terminal_size().columns)
    print(f"sm_{asked.arch}", LEGEND, "", *lines, sep="\n")


if __name__ == "__main__":
    main()
