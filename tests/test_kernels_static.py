"""What the compiled kernels hold, read from their cubins: runs without a GPU."""

import pytest

pytest.importorskip("triton.backends.nvidia")
from apl.kernels import static
from apl.kernels.triton_loss import LONGEST_ROW

# One process for all of them: the cubins are compiled once a session.
pytestmark = pytest.mark.xdist_group("static")


@pytest.fixture(scope="session")
def reports():
    """Every shipped specialisation for every architecture."""
    specs = static.shipped()
    return [report for arch in static.ARCHITECTURES for report in static.inspect(specs, arch)]


def ids(found):
    return [f"sm_{r.arch} {r.spec.name} K={r.spec.num_classes} {r.spec.dtype}" for r in found]


def test_no_spills_and_no_local_memory(reports):
    assert not ids(r for r in reports if r.stack_bytes or r.local_bytes or r.local_instructions)


def test_half_of_the_warps_fit(reports):
    assert not ids(r for r in reports if r.occupancy < 0.5)


def test_one_read_and_one_write_of_a_row_in_registers(reports):
    short = [r for r in reports if r.spec.num_classes <= LONGEST_ROW]
    assert short
    assert not ids(r for r in short if (r.row_reads, r.row_writes) != (1, 1))
    assert all(r.bytes_moved == r.bytes_limit for r in short)


def test_two_reads_of_a_long_row_and_a_third_for_the_normalised_focal_loss(reports):
    long = [r for r in reports if r.spec.num_classes > LONGEST_ROW]
    assert long
    for report in long:
        focal = any(t.base == "fl" and t.normalised for t in report.spec.terms)
        assert (report.row_reads, report.row_writes) == (3 if focal else 2, 1), ids([report])


def test_the_machine_code_has_the_accesses_of_the_ptx_and_few_others(reports):
    # Beside the row: the denominator, and the targets (a lone one twice, from the cache).
    for report in reports:
        row_loads, row_stores = sum(report.loads.values()), sum(report.stores.values())
        assert report.global_loads <= row_loads + 1 + max(report.rows, 2), ids([report])
        assert report.global_stores == row_stores + 1, ids([report])


def test_accesses_are_as_wide_as_the_rows_allow(reports):
    for report in reports:
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
        assert sorted(report.loads) == sorted({*single, widest}), ids([report])
        assert sorted(report.stores) == [widest], ids([report])


def test_table_has_a_row_per_specialisation():
    specs = static.shipped()[:2]
    table = static.rows(90, specs)
    assert [row["loss"] for row in table] == [spec.name for spec in specs]
    assert all(row["bytes/row"] == row["limit"] for row in table)
