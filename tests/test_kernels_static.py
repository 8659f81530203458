"""What the compiled kernels hold, read from their cubins: runs without a GPU."""

import warnings

import pytest
import torch

pytest.importorskip("triton.backends.nvidia")
import triton

from apl.kernels import static
from apl.kernels.triton_loss import LONGEST_ROW

VERIFIED = (3, 9)  # the newest release of triton whose figures have been held


@pytest.fixture(scope="session")
def reports():
    """Every shipped specialisation for every architecture."""
    specs = static.shipped()
    return [report for arch in static.ARCHITECTURES for report in static.inspect(specs, arch)]


def ids(found):
    return [
        f"sm_{r.arch} {r.spec.name} K={r.spec.num_classes} D={r.spec.inner} {r.spec.dtype}: "
        f"{r.registers} registers, {r.stack_bytes} bytes of stack, {r.local_bytes} local bytes, "
        f"{r.local_instructions} local instructions, occupancy {r.occupancy:.0%}, "
        f"rows read {r.row_reads} and written {r.row_writes} times, "
        f"loads {r.loads} and stores {r.stores} of the row (bytes: count), "
        f"{r.global_loads} loads and {r.global_stores} stores in all"
        for r in found
    ]


def hold(bad: list[str]) -> None:
    """Nothing is bad on a verified release.  A newer compiler may be worse through no fault of
    the project or of whoever runs its tests: there it is a warning with the numbers."""
    found = "\n".join(bad)
    release = tuple(map(int, triton.__version__.split(".")[:2]))
    if release <= VERIFIED:
        assert not bad, found
    elif bad:
        newest = ".".join(map(str, VERIFIED))
        warnings.warn(
            f"triton {triton.__version__}, newer than the last verified ({newest}), "
            f"compiles {len(bad)} kernels worse:\n{found}",
            stacklevel=2,
        )


def test_a_worse_figure_fails_on_a_verified_release_and_warns_on_a_newer_one(monkeypatch):
    (report,) = static.inspect(static.shipped()[:1], 90)
    bad = ids([report])
    numbers = f"{report.registers} registers, {report.stack_bytes} bytes of stack"
    for verified in ("3.4.0", "3.9.1"):
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


def test_no_spills_and_no_local_memory(reports):
    hold(ids(r for r in reports if r.stack_bytes or r.local_bytes or r.local_instructions))


def test_half_of_the_warps_fit(reports):
    hold(ids(r for r in reports if r.occupancy < 0.5))


def test_one_read_and_one_write_of_a_row_in_registers(reports):
    short = [r for r in reports if r.spec.num_classes <= LONGEST_ROW]
    assert short
    hold(ids(r for r in short if (r.row_reads, r.row_writes) != (1, 1)))
    hold(ids(r for r in short if r.bytes_moved != r.bytes_limit))


def test_two_reads_of_a_long_row_and_a_third_for_the_normalised_focal_loss(reports):
    def reads(report):
        return 3 if any(t.base == "fl" and t.normalised for t in report.spec.terms) else 2

    long = [r for r in reports if r.spec.num_classes > LONGEST_ROW]
    assert long
    hold(ids(r for r in long if (r.row_reads, r.row_writes) != (reads(r), 1)))


def test_the_machine_code_has_the_accesses_of_the_ptx_and_few_others(reports):
    # Beside the row: the denominator, and the targets (a lone one twice, from the cache).
    def few(report):
        row_loads, row_stores = sum(report.loads.values()), sum(report.stores.values())
        return (
            report.global_loads <= row_loads + 1 + max(report.rows, 2)
            and report.global_stores == row_stores + 1
        )

    hold(ids(r for r in reports if not few(r)))


def test_accesses_are_as_wide_as_the_rows_allow(reports):
    def wide(report):
        size = report.spec.dtype.itemsize
        # All rows begin at multiples of this many bytes; [N, K, D] is read along D.
        aligned = (
            size * 1024
            if report.spec.inner > 1
            else size * (report.spec.num_classes & -report.spec.num_classes)
        )
        per_thread = size * report.rows * report.block // (32 * report.warps)
        widest = min(16, aligned, per_thread)
        single = [size] if report.spec.num_classes > LONGEST_ROW else []  # the logit of the target
        return (sorted(report.loads), sorted(report.stores)) == (
            sorted({*single, widest}),
            [widest],
        )

    hold(ids(r for r in reports if not wide(r)))


def test_the_default_of_the_compiler_does_not_decide_on_fused_multiply_adds(monkeypatch):
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    # A size that no other test compiles: triton would not read the default for one it has.
    spec = static.Specialisation(static.structures()[-1], 7, torch.float32)
    with static._compile_only(90):
        _, kernel = static._compile(spec)
    assert kernel.metadata.enable_fp_fusion


def test_table_has_a_row_per_specialisation():
    specs = static.shipped()[:2]
    table = static.rows(90, specs)
    assert [row["loss"] for row in table] == [spec.name for spec in specs]
    hold([str(row) for row in table if row["bytes/row"] != row["limit"]])
