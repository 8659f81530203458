"""What the compiled kernels hold, read from their machine code: runs without a GPU."""

import math
import re
import warnings

import pytest
import torch

pytest.importorskip("triton.backends.nvidia")
import kernel_code
import triton

from apl.kernels.options import DEFAULTS
from apl.kernels.triton_loss import DEVICE, LONGEST_ROW, Chip, plan
from apl.losses.catalog import loss_terms

VERIFIED = (3, 8)  # the newest release of triton whose figures have been held
LAYS_ALONG_ROWS = (3, 7)  # the oldest that lays out short rows as it is told
FP32, BF16 = torch.float32, torch.bfloat16


def specialisations(arch):
    """What is compiled for which architecture.  `python benchmarks/kernel_code.py` shows all.

    A kernel takes a second to compile: these are, of each form, the ones nearest to their limit of
    registers, and those whose figures are held.
    For sm_90, at the size that fills most registers of a row, sums in which each base stands and
    the costly ones; what keeps most in registers at all sizes; other shapes and targets in each
    size and each type, not in all pairs of them.
    For the others what is nearest to its limit: 80 and 100 are the generations of compilers and of
    machine code; 120 has the code of these with fewer programs and another cache, as 86 and 89 do,
    which are not compiled for.
    """
    if arch == 90:
        parts = ("fl", "mae", "rce", "gce", "nce", "nfl", "ngce", "nce_mae", "nfl_mae", "ngce_rce")
        by_size = {
            ("nce_rce", FP32): (10, 1000),
            ("nce_rce", BF16): (4096,),
            ("nfl_rce", FP32): (4096,),
            ("nfl_rce", BF16): (10, 100, 131072),
        }
        others = [
            *((150, BF16, 1024, "index"), (1000, FP32, 1024, "index"), (10, FP32, 1, "smoothed")),
            *((1000, FP32, 1, "dense"), (131072, BF16, 1, "dense")),
        ]

        def compiled(each):
            size = (each.num_classes, each.dtype)
            if each.targets != "index" or each.inner != 1:
                return each.name == "nfl_rce" and (*size, each.inner, each.targets) in others
            if size == (1000, BF16):
                return each.name not in parts  # they stand in the sums
            return each.num_classes in by_size.get((each.name, each.dtype), ())

        return [each for each in kernel_code.shipped() if compiled(each)]
    terms = tuple(loss_terms("nfl_rce", 10))
    generation = [(10, FP32), (131072, FP32)] if arch in (80, 100) else []
    return [kernel_code.Specialisation(terms, *rest) for rest in ((1000, BF16), *generation)]


@pytest.fixture(scope="session")
def reports():
    """Every specialisation that is compiled."""
    return [
        r for arch in (80, 90, 100, 120) for r in kernel_code.inspect(specialisations(arch), arch)
    ]


@pytest.fixture(scope="session")
def on_hopper(reports):
    """Those for sm_90, with the class index as target, classes innermost."""
    found = [r for r in reports if r.arch == 90 and r.spec.targets == "index" and r.spec.inner == 1]
    assert found
    return found


def ids(found):
    return [
        f"sm_{r.arch} {r.spec.name} K={r.spec.num_classes} D={r.spec.inner} {r.spec.dtype} "
        f"{r.spec.targets}: {r.rows} x {r.block} by {r.warps} warps, {r.programs} programs, "
        f"{r.registers} registers, {r.spills} bytes spilled, {r.instructions:.1f} instructions a "
        f"logit, {r.barriers} barriers, rows read {r.row_reads} and written {r.row_writes} times, "
        f"loads {r.loads} and stores {r.stores} of the row (bytes: count), {r.other_loads} and "
        f"{r.other_stores} others, {r.sectors:.1f} of {r.least_sectors:.1f} sectors, "
        f"{r.bytes_in_flight} bytes in flight, {r.l2_share:.0%} of L2"
        for r in found
    ]


def hold(bad: list[str], oldest: tuple[int, int] = (3, 4)) -> None:
    """Nothing is bad on a verified release.  Another compiler may be worse through no fault of
    the project or of whoever runs its tests: there it is a warning with the numbers."""
    found = "\n".join(bad)
    release = tuple(map(int, triton.__version__.split(".")[:2]))
    if oldest <= release <= VERIFIED:
        assert not bad, found
    elif bad:
        first, last = (".".join(map(str, verified)) for verified in (oldest, VERIFIED))
        warnings.warn(
            f"triton {triton.__version__}, not among the verified ({first} to {last}), "
            f"compiles {len(bad)} kernels worse:\n{found}",
            stacklevel=2,
        )


@pytest.mark.slow
def test_a_worse_figure_fails_on_a_verified_release_and_warns_on_a_newer_one(reports, monkeypatch):
    report = reports[0]
    bad = ids([report])
    numbers = f"{report.registers} registers, {report.spills} bytes spilled"
    for verified in ("3.4.0", "3.8.1"):
        monkeypatch.setattr(triton, "__version__", verified)
        hold([])
        with pytest.raises(AssertionError, match=numbers):
            hold(bad)
    for newer in ("3.10.0", "4.0.0+git1a2b3c"):
        monkeypatch.setattr(triton, "__version__", newer)
        with pytest.warns(UserWarning, match=numbers):
            hold(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            hold([])


# --- The figures ---


@pytest.mark.slow
def test_nothing_spills(reports):
    hold(ids(r for r in reports if r.spills), LAYS_ALONG_ROWS)


@pytest.mark.slow
def test_one_read_and_one_write_of_a_row_in_registers(reports):
    short = [r for r in reports if r.spec.num_classes <= LONGEST_ROW]
    assert short
    hold(ids(r for r in short if (r.row_reads, r.row_writes) != (1, 1)))


@pytest.mark.slow
def test_two_reads_of_a_long_row_and_a_third_where_a_sum_needs_log_p(reports):
    def reads(report):
        unscaled = any(t.form != "at" and not DEVICE[t.base].affine for t in report.spec.terms)
        return 3 if unscaled or report.spec.targets != "index" else 2

    long = [r for r in reports if r.spec.num_classes > LONGEST_ROW]
    assert long
    hold(ids(r for r in long if (r.row_reads, r.row_writes) != (reads(r), 1)))


@pytest.mark.slow
def test_few_accesses_beside_the_row(reports):
    # The denominator, and the targets (a lone one twice, from the cache); one loss a row.
    def few(report):
        return report.other_loads <= 1 + max(report.rows, 2) and report.other_stores == math.ceil(
            report.rows / (32 * report.warps)
        )

    hold(ids(r for r in reports if r.spec.targets == "index" and not few(r)))


@pytest.mark.slow
def test_a_thread_takes_16_bytes_at_a_time_of_rows_that_begin_there(on_hopper):
    def wide(report):
        single = {report.spec.dtype.itemsize}  # the logit of the label
        return set(report.loads) - single == {16} and set(report.stores) == {16}

    hold(ids(r for r in on_hopper if r.spec.num_classes >= 1000 and not wide(r)))


@pytest.mark.parametrize(
    ("loss", "num_classes", "dtype", "most"),
    [
        ("nce_rce", 1000, BF16, 36),
        ("nce_rce", 1000, FP32, 45),
        ("nce_rce", 4096, BF16, 36),
        ("nfl_rce", 4096, FP32, 70),
        ("nfl_rce", 1000, BF16, 70),
        ("nce_rce", 10, FP32, 80),
        ("ce", 1000, BF16, 25),
    ],
)
@pytest.mark.slow
def test_instructions_a_logit(on_hopper, loss, num_classes, dtype, most):
    # A chip that copies 4.3 TB/s at 1.98 GHz has room for some 31 instructions on a logit of
    # bfloat16 that it reads and whose gradient it writes, and for 62 on one of float32.
    wanted = (loss, num_classes, dtype)
    (report,) = (r for r in on_hopper if (r.spec.name, r.spec.num_classes, r.spec.dtype) == wanted)
    hold(ids([report] if report.instructions > most else []), LAYS_ALONG_ROWS)


@pytest.mark.slow
def test_one_warp_that_has_a_row_waits_for_no_other(on_hopper):
    beside = [r for r in on_hopper if r.spec.num_classes <= 1000 and r.spec.inner == 1]
    assert {r.warps for r in beside} == {1}
    # Short rows go out through shared memory, at a barrier of the one warp with itself.
    hold(ids(r for r in beside if r.barriers > (r.spec.num_classes < 1000)), LAYS_ALONG_ROWS)


@pytest.mark.slow
def test_enough_bytes_are_on_their_way_to_a_multiprocessor(on_hopper):
    # 32 KB: 132 multiprocessors, 4 TB/s, and about a microsecond until memory answers.  Where the
    # logits are half as wide, some kernels have more registers a byte than that leaves.
    def least(report):
        if report.spec.dtype == torch.float32:
            return 24_000 if report.spec.num_classes == 10 else 30_000
        linear = ("ce", "mae", "rce")  # sums of these keep little in registers
        if any(t.form != "at" and t.base not in linear for t in report.spec.terms):
            return 12_000
        return 20_000 if report.spec.num_classes == 10 or report.spec.inner > 1 else 32_000

    hold(ids(r for r in on_hopper if r.bytes_in_flight < least(r)), LAYS_ALONG_ROWS)


@pytest.mark.slow
def test_no_sector_is_fetched_twice_where_the_classes_are_not_innermost(reports):
    across = [r for r in reports if r.spec.inner > 1]
    assert max(r.spec.num_classes for r in across) == 1000
    hold(ids(r for r in across if r.sectors > r.least_sectors))


@pytest.mark.slow
def test_neighbouring_rows_share_at_most_a_sector(reports):
    def extra(report):
        passes = report.row_reads + report.row_writes
        return report.sectors - passes / 2 * report.least_sectors

    beside = [r for r in reports if r.spec.inner == 1]
    hold(ids(r for r in beside if extra(r) > r.row_reads + r.row_writes))


@pytest.mark.slow
@pytest.mark.parametrize("arch", kernel_code.ARCHITECTURES)
@pytest.mark.parametrize("dtype", kernel_code.DTYPES)
def test_half_of_the_l2_cache_holds_the_long_rows_that_are_at_work(arch, dtype, reports):
    # Were all programs of the launch at work at once: more than the card has room for, if any.
    terms = tuple(loss_terms("nfl_rce", 10))
    launch = kernel_code.plan(kernel_code.Specialisation(terms, 131072, dtype), arch)
    card = kernel_code.CARDS[arch]
    (programs,) = launch.grid
    assert programs <= 2 * card.processors
    at_work = programs * 131072 * dtype.itemsize
    assert card.l2 / 4 < at_work <= card.l2 / 2 or programs == 2 * card.processors
    long = [r for r in reports if r.spec.num_classes > LONGEST_ROW]
    assert {r.arch for r in long} == {80, 90, 100}
    hold(ids(r for r in long if r.l2_share > 0.5))


# --- The reader of machine code ---


def code(*lines):
    """Lines of machine code at addresses 0, 0x10, 0x20 ..."""
    return kernel_code.parse(
        "\n".join(f"  /*{16 * i:04x}*/   {line} ;   /* 0x0123 */" for i, line in enumerate(lines))
    )


def test_straight_code_counts_once_and_what_stands_behind_the_end_not_at_all():
    straight = code(
        "LDC R1, c[0x0][0x28]",
        "@!P0 FADD R2, R3, -R4.reuse",
        "NOP",
        "BAR.SYNC.DEFER_BLOCKING 0x0",
        "@P1 EXIT",
        "STG.E.64 desc[UR6][R2.64+0x40], R6",
        "EXIT  ?trans5",
        "BRA 0x70  ?trans5",
        "NOP",
    )
    assert [x.op for x in straight] == [
        *("LDC", "FADD", "BAR.SYNC.DEFER_BLOCKING", "EXIT", "STG.E.64", "EXIT")
    ]
    assert straight[1].predicate == "!P0"
    assert straight[1].written == ["R2"]
    assert straight[1].read == ["R3", "R4"]
    assert straight[4].read == ["R2", "R6"]  # of an address and what is stored, not of desc
    assert straight[4].width == 8
    assert kernel_code.loops(straight) == []
    assert kernel_code.times(straight, [], tile_bytes=8, tiles=5) == [1.0] * 6


def test_both_sides_of_a_branch_count():
    branching = code("@P0 BRA 0x30", "FADD R1, R1, R2", "BRA 0x40", "FMUL R1, R1, R2", "EXIT")
    assert kernel_code.times(branching, [], tile_bytes=8, tiles=1) == [1.0] * 5


@pytest.mark.parametrize(
    "back", ["@!P0 BRA 0x10", "BRA.U !UP0, 0x10", "@!P0 BRA 0x10   &req={2}   ?trans6"]
)
@pytest.mark.parametrize("unrolled", [1, 2])
def test_a_loop_runs_until_it_has_loaded_the_tile(back, unrolled):
    lines = ["MOV R2, c[0x0][0x210]", *["LDG.E.128 R4, desc[UR6][R2.64]"] * unrolled]
    looped = code(*lines, "BAR.SYNC 0x0", back, "EXIT")
    loads, stores = kernel_code.row_accesses(looped, 0x210, 0x240)
    assert loads == list(range(1, unrolled + 1))
    assert stores == []
    assert kernel_code.loops(looped) == [(1, unrolled + 2)]
    turns = 12 / unrolled
    assert kernel_code.times(looped, loads, tile_bytes=12 * 16, tiles=1) == [
        *(1, *[turns] * (unrolled + 2), 1)
    ]


def test_what_stands_before_a_loop_over_tiles_is_shared_by_them():
    persistent = code(
        "LDC.64 R2, c[0x0][0x210]",
        "LDG.E.128 R4, desc[UR6][R2.64]",  # 0x10: of the next tile
        "LDG.E.128 R8, desc[UR6][R2.64]",  # 0x20: one block of it
        "@!P0 BRA 0x20",
        "@!P1 BRA 0x10",
        "EXIT",
    )
    loads, _ = kernel_code.row_accesses(persistent, 0x210, 0x240)
    assert kernel_code.loops(persistent) == [(2, 3), (1, 4)]
    assert kernel_code.times(persistent, loads, tile_bytes=64, tiles=10) == [0.1, 1, 4, 4, 1, 0.1]


def test_code_moved_behind_the_end_is_no_loop_and_parted_warps_are_not_counted():
    moved = code(
        "@P0 BRA 0x40",  # to a rare case ...
        "FADD R1, R1, R2",
        "BRA.DIV UR4, 0x60",
        "EXIT",
        "FMUL R1, R1, R2",  # 0x40
        "BRA 0x10",  # ... and back
        "WARPSYNC R3",  # 0x60: for threads that have parted
        "BRA 0x30",
    )
    assert [x.name for x in moved] == ["BRA", "FADD", "BRA", "EXIT", "FMUL", "BRA"]
    assert kernel_code.loops(moved) == []


def test_an_access_belongs_to_the_argument_that_its_address_comes_from():
    mixed = code(
        "LDCU.128 UR4, c[0x0][0x380]",  # two pointers: logits and targets
        "LDC.64 R10, c[0x0][0x398]",  # the gradient
        "IMAD.WIDE R2, R0, 0x2, R10",
        "LEA R8, P1, R6, UR4, 0x1",
        "LDG.E.64 R4, desc[UR8][R8.64]",  # 4: logits
        "LEA R8, P1, R6, UR6, 0x3",
        "LDG.E.64 R12, desc[UR8][R8.64]",  # 6: targets
        "@P0 IADD3 R2, P2, R2, 0x40, RZ",
        "LEA R14, R12, R10, 0x1",
        "STG.E.U16 desc[UR8][R2.64], R4",  # 9: gradient
        "MOV R14, R4",
        "STG.E desc[UR8][R14.64], R4",  # 11: where a loaded number says
        "LDGSTS.E.BYPASS.LTC128B.128 [R3], desc[UR8][UR4.64], P0",  # 12: logits
        "EXIT",
    )
    assert kernel_code.row_accesses(mixed, 0x380, 0x398) == ([4, 12], [9])
    assert kernel_code.row_accesses(mixed, 0x388, 0x398) == ([6], [9])
    assert [mixed[i].width for i in (4, 9, 12)] == [8, 2, 16]


def test_an_address_is_followed_through_a_spill():
    spilled = code(
        *("MOV R5, c[0x0][0x210]", "MOV R6, c[0x0][0x218]", "STL [R1+0x4], R5", "STL [R1], R6"),
        *("LDL R8, [R1+0x4]", "LDG.E R4, desc[UR6][R8.64]"),
        *("LDL R8, [R1]", "LDG.E R4, desc[UR6][R8.64]", "EXIT"),
    )
    assert kernel_code.row_accesses(spilled, 0x210, 0x220) == ([5], [])
    assert kernel_code.row_accesses(spilled, 0x218, 0x220) == ([7], [])


def test_bytes_are_in_flight_until_a_register_they_fill_is_read():
    apart = code(
        *("LDG.E.128 R4, desc[UR6][R2.64]", "FADD R0, R7, R1"),
        *("LDG.E.128 R8, desc[UR6][R2.64]", "FADD R0, R8, R1", "EXIT"),
    )
    together = code(
        *("LDG.E.128 R4, desc[UR6][R2.64]", "LDG.E.128 R8, desc[UR6][R2.64]"),
        *("FADD R0, R7, R1", "FADD R0, R8, R1", "EXIT"),
    )
    assert kernel_code.bytes_in_flight(apart, [0, 2]) == 16
    assert kernel_code.bytes_in_flight(together, [0, 1]) == 32
    # What one turn of a loop leaves for the next is under way beside what that one asks for.
    ahead = code(
        *("LDG.E.64 R4, desc[UR6][R2.64]", "LDG.E.64 R6, desc[UR6][R2.64]"),
        *("FADD R0, R4, R1", "MOV R4, R6", "@P0 BRA 0x10", "EXIT"),
    )
    assert kernel_code.bytes_in_flight(ahead, [0, 1]) == 16


def test_copies_are_in_flight_until_a_barrier_of_their_group():
    copies = code(
        *("LDGSTS.E.128 [R3], desc[UR8][R2.64]", "LDGDEPBAR"),
        *("LDGSTS.E.128 [R3], desc[UR8][R2.64]", "LDGDEPBAR"),
        *("DEPBAR.LE SB0, 0x1", "LDGSTS.E.128 [R3], desc[UR8][R2.64]", "LDGDEPBAR"),  # 0x40
        *("@P0 BRA 0x40", "DEPBAR.LE SB0, 0x0", "EXIT"),
    )
    assert kernel_code.bytes_in_flight(copies, [0, 2, 5]) == 32


def test_registers_are_given_out_in_each_quarter_of_a_multiprocessor():
    # 106 registers are 14 times 256 a warp, of which a quarter of 16,384 holds 4: 16 programs of
    # one warp, though 65,536 would hold 18.
    assert kernel_code._resident(106, 0, 1, 90) == 16
    assert kernel_code._resident(32, 0, 1, 90) == 32
    assert kernel_code._resident(32, 0, 1, 86) == 16
    assert kernel_code._resident(32, 0, 8, 89) == 6
    assert kernel_code._resident(32, 100 << 10, 1, 90) == 2


def test_a_sector_counts_for_each_program_that_fetches_it():
    def per_row(shape, strides, rows):
        return kernel_code.sectors(shape, strides, 2, rows)

    assert per_row((1, 64, 16), (0, 16, 1), 1) == (1, 1)  # a row is a sector
    assert per_row((1, 64, 24), (0, 24, 1), 1) == (2, 1.5)  # every second begins within one
    assert per_row((1, 64, 24), (0, 24, 1), 2) == (1.5, 1.5)
    assert per_row((4, 64, 10), (640, 1, 64), 1) == (10, 10 / 16)  # 2 bytes of each 32 fetched
    assert per_row((4, 64, 10), (640, 1, 64), 16) == (10 / 16, 10 / 16)


# --- Compiler and command line ---


@pytest.mark.slow
def test_the_default_of_the_compiler_does_not_decide_on_fused_multiply_adds(monkeypatch):
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    # A size that no other test compiles: triton would not read the default for one it has.
    spec = kernel_code.Specialisation(kernel_code.structures()[-1], 7, FP32)
    with kernel_code._compile_only(90):
        _, kernel = kernel_code._compile(spec, 90)
    assert kernel.metadata.enable_fp_fusion


@pytest.mark.slow
def test_the_table_fits_into_80_columns(reports, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    some = [each for each in specialisations(90) if each.name == "nfl_rce"][::4]
    monkeypatch.setattr(kernel_code, "shipped", lambda terms: some)  # of all that the script has
    kernel_code.main(["--arch", "90", "--loss", "nfl_rce"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    _legend, table = "\n".join(lines).split("\n\n")
    heads, *rows = table.splitlines()
    assert len(rows) == len(some)
    assert all(row.startswith("nfl_rce ") for row in rows)
    # The widest cell of every column, over all specialisations, with a blank between columns.
    cells = kernel_code.table(r for r in reports if r.arch == 90)
    widest = [max(len(name), *(len(row[name]) for row in cells)) for name in cells[0]]
    assert heads.split() == list(cells[0])
    assert sum(widest) + len(widest) - 1 <= 80


def test_what_the_table_cannot_show_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        kernel_code.main(["--loss", "nosuch"])
    assert "nosuch" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(SystemExit, match="2"):
        kernel_code.main(["--arch", "75"])
    assert re.search(r"75 .*80, 86, 89, 90, 100, 120", capsys.readouterr().err.splitlines()[-1])


def test_columns_without_room_stand_above_their_rows():
    name = "nce_mae_rce_gce_fl"
    row = {"loss": name, "K": "131072=", "ld": "4+12x16", "wide": "x" * 50, "figure": "2.5"}
    rows = [row, {**row, "K": "10"}, {**row, "loss": "ce"}]
    assert kernel_code.table_lines(rows, 100)[1] == f"{name} 131072= 4+12x16 {'x' * 50}    2.5"
    lines = kernel_code.table_lines(rows, 80)
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["K", "ld", "wide", "figure"]
    assert lines[1] == name
    assert [line.split()[0] for line in lines[2:]] == ["131072=", "10", "ce", "131072="]


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [7, 9001])
def test_another_number_of_rows_compiles_nothing(num_classes):
    # The last batch of an epoch: odd, one row, a multiple of 16.  A size no other test compiles.
    terms = kernel_code.structures()[0]
    kernels = set()
    with kernel_code._compile_only(90):
        for rows in (1, 17, 64):
            logits = torch.empty(rows, num_classes, 1, device="meta")
            losses = torch.empty(rows, 1, device="meta")
            targets = torch.empty(rows, 1, dtype=torch.int64, device="meta")
            where = (DEFAULTS, None, losses, torch.empty_like(logits))
            launch = plan(logits, targets, terms, *where, chip=Chip(132, 50 << 20))
            kernels.add(launch.kernel.warmup(*launch.args, grid=launch.grid, **launch.options).hash)
    assert len(kernels) == 1
