"""A kernel that fails gives way to another path, once told; an error of somebody else is raised."""

from __future__ import annotations

import pytest
from forked import apart

pytest.importorskip("triton")

BEGIN = """
import warnings, torch
from triton.runtime.errors import OutOfResources
from apl import make_loss
from apl.kernels import dispatch
from apl.kernels.triton_loss import Launch

run = Launch.run

def fail_with(make, of_gradients_alone=True):
    # As on a card where the kernel with the gradient needs more than there is.
    def failing(self):
        named = dict(zip(self.kernel.arg_names, self.args, strict=False))
        if named["grad"] is None or (of_gradients_alone and named["losses"] is not None):
            return run(self)
        raise make()
    Launch.run = failing

z, y = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, -100])

def gradient(name, backend, reduction, scale):
    leaf = z.clone().requires_grad_()
    value = make_loss(name, 5, reduction, backend=backend)(leaf, y)
    value.backward(torch.full_like(value, scale))
    return leaf.grad

caught = []
warnings.showwarning = lambda message, *rest, **more: caught.append(str(message))
warnings.simplefilter("always", RuntimeWarning)
"""


def of_one_reduction(reduction: str, scale: float) -> str:
    return f"""
fail_with(lambda: OutOfResources(999, 100, "registers"))
for _ in range(3):
    ours = gradient("nce_rce", "triton", "{reduction}", {scale})
    torch.testing.assert_close(ours, gradient("nce_rce", "reference", "{reduction}", {scale}))
told = [line for line in caught if "Triton" in line]
print(len(told), told[0].count(chr(10)), told[0])
print(len(dispatch._launch_problems))
"""


IN_A_BACKWARD = """
for make in (lambda: RuntimeError("of somebody else"), lambda: NotImplementedError("theirs"),
             lambda: torch.OutOfMemoryError("full"), lambda: ValueError("an argument")):
    fail_with(make)
    try:
        gradient("nce_rce", "triton", "none", 1.0)
    except Exception as error:
        print(type(error).__name__, error)
print(len(dispatch._launch_problems), len([line for line in caught if "Triton" in line]))
"""

IN_A_FORWARD = """
fail_with(lambda: RuntimeError("of somebody else"), of_gradients_alone=False)
try:
    gradient("nce_rce", "triton", "mean", 1.0)
except RuntimeError as error:
    print(error, len(dispatch._launch_problems))
fail_with(lambda: OutOfResources(999, 100, "registers"), of_gradients_alone=False)
torch.testing.assert_close(gradient("nce_rce", "triton", "mean", 1.0),
                           gradient("nce_rce", "reference", "mean", 1.0))
print(len(dispatch._launch_problems), len([line for line in caught if "Triton" in line]))
"""

REDUCTIONS = (("none", 1.0), ("mean", 3.0), ("sum", 0.5))


@pytest.fixture(scope="module")
def lines() -> dict[str, list[str]]:
    """What each script prints, in the interpreter."""
    scripts = [*(of_one_reduction(*each) for each in REDUCTIONS), IN_A_BACKWARD, IN_A_FORWARD]
    found = apart(scripts, BEGIN, TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    for done in found:
        assert done.returncode == 0, done.stderr[-3000:]
    return {script: done.stdout.splitlines() for script, done in zip(scripts, found, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize(("reduction", "scale"), REDUCTIONS)
def test_a_failure_of_the_backward_kernel_alone_gives_way_with_one_line(
    lines: dict[str, list[str]], reduction: str, scale: float
) -> None:
    found = lines[of_one_reduction(reduction, scale)]
    assert found[0].startswith("1 0 the Triton loss cannot run and another path takes its place")
    assert "OutOfResources: out of resource: registers, Required: 999" in found[0]
    assert found[1] == "1"


@pytest.mark.slow
def test_what_others_raise_in_a_backward_is_raised_and_noted_nowhere(
    lines: dict[str, list[str]],
) -> None:
    assert lines[IN_A_BACKWARD] == [
        "RuntimeError of somebody else",
        "NotImplementedError theirs",
        "OutOfMemoryError full",
        "ValueError an argument",
        "0 0",
    ]


@pytest.mark.slow
def test_what_others_raise_in_a_forward_is_raised_and_noted_nowhere(
    lines: dict[str, list[str]],
) -> None:
    assert lines[IN_A_FORWARD] == ["of somebody else 0", "1 1"]
