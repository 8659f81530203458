"""The checks of the Triton kernels on a GPU: `pytest -m gpu`."""

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

if torch.cuda.is_available():
    from kernel_checks import *  # noqa: F403


def test_rows_beyond_32_bits():
    """More logits than 2**31, where the card has room for them."""
    from apl.kernels import dispatch
    from apl.kernels.bases import Term
    from apl.kernels.reference import reference_loss

    n, k = 2**31 // 32768 + 8, 32768
    if torch.cuda.mem_get_info()[0] < 3 * 2 * n * k:
        pytest.skip("needs 13 GB of free memory")
    logits = torch.zeros(n, k, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    with torch.no_grad():
        logits[-4:] = torch.randn(4, k, device="cuda")
    targets = torch.arange(n, device="cuda") % k
    terms = (Term("ce", 1.0, True), Term("mae"))
    loss = dispatch.loss(logits, targets, terms, reduction="none", backend="triton")
    expected = reference_loss(logits[-4:].double(), targets[-4:], terms, reduction="none")
    torch.testing.assert_close(loss[-4:].double(), expected, rtol=1e-2, atol=1e-2)
    loss.sum().backward()
    assert logits.grad[-4:].isfinite().all()


def test_the_table_of_apl_bench_kernels():
    """Prints it, so that `pytest -m gpu -n0 -s` shows it."""
    from apl.doctor import kernel_table

    rows = kernel_table("nce_rce", static=False, arch=90, seconds=0.5)
    for row in rows:
        print({name: f"{v:.3g}" if isinstance(v, float) else v for name, v in row.items()})
    assert {row["path"] for row in rows} >= {"triton", "F.cross_entropy"}
    assert all(row["% of copy"] > 0 for row in rows)
