"""A kernel that fails gives way to another path, once told; an error of somebody else is raised.

`test_kernels.py` runs this file under triton's interpreter."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from apl import make_loss
from apl.kernels import dispatch
from apl.kernels.triton_loss import Launch

LOGITS, TARGETS = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, -100])
RUN = Launch.run


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is said of triton, where nothing has failed before."""
    monkeypatch.setattr(dispatch, "_launch_problems", {})
    monkeypatch.setattr(dispatch, "_warned", set())
    lines: list[str] = []

    def say(message: Warning | str, *rest: object, **more: object) -> None:
        lines.extend([str(message)] if "Triton" in str(message) else [])

    with warnings.catch_warnings():
        warnings.simplefilter("always", RuntimeWarning)
        monkeypatch.setattr(warnings, "showwarning", say)
        yield lines


@pytest.fixture
def fail_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def then(make: Callable[[], Exception], of_gradients_alone: bool = True) -> None:
        # As on a card where the kernel with the gradient needs more than there is.
        def failing(self: Launch) -> None:
            named = dict(zip(self.kernel.arg_names, self.args, strict=False))
            if named["grad"] is None or (of_gradients_alone and named["losses"] is not None):
                return RUN(self)
            raise make()

        monkeypatch.setattr(Launch, "run", failing)

    return then


def too_many_registers() -> Exception:
    return OutOfResources(999, 100, "registers")


def gradient(backend: str, reduction: str, scale: float = 1.0) -> Tensor:
    leaf = LOGITS.clone().requires_grad_()
    value = make_loss("nce_rce", 5, reduction, backend=backend)(leaf, TARGETS)
    value.backward(torch.full_like(value, scale))
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize(("reduction", "scale"), [("none", 1.0), ("mean", 3.0), ("sum", 0.5)])
def test_a_failure_of_the_backward_kernel_alone_gives_way_with_one_line(
    told: list[str], fail_with: Callable[..., None], reduction: str, scale: float
) -> None:
    fail_with(too_many_registers)
    for _ in range(3):
        ours, expected = (gradient(path, reduction, scale) for path in ("triton", "reference"))
        torch.testing.assert_close(ours, expected)
    (line,) = told
    assert line.startswith("the Triton loss cannot run and another path takes its place")
    assert "\n" not in line
    assert "OutOfResources: out of resource: registers, Required: 999" in line
    assert len(dispatch._launch_problems) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("of somebody else"),
        NotImplementedError("theirs"),
        torch.OutOfMemoryError("full"),
        ValueError("an argument"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_others_raise_in_a_backward_is_raised_and_noted_nowhere(
    told: list[str], fail_with: Callable[..., None], error: Exception
) -> None:
    fail_with(lambda: error)
    with pytest.raises(type(error), match=str(error)):
        gradient("triton", "none")
    assert not told
    assert not dispatch._launch_problems


def test_what_others_raise_in_a_forward_is_raised_and_noted_nowhere(
    told: list[str], fail_with: Callable[..., None]
) -> None:
    fail_with(lambda: RuntimeError("of somebody else"), of_gradients_alone=False)
    with pytest.raises(RuntimeError, match="of somebody else"):
        gradient("triton", "mean")
    assert not dispatch._launch_problems
    fail_with(too_many_registers, of_gradients_alone=False)
    torch.testing.assert_close(gradient("triton", "mean"), gradient("reference", "mean"))
    assert len(dispatch._launch_problems) == len(told) == 1
