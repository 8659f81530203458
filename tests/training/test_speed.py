"""What makes training fast, as far as it can be counted: syncs, graph breaks, equal results."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from apl.config.config import Config, make_config
from apl.errors import BadInput
from apl.kernels import dispatch
from apl.kernels.targets import any_ignored, known
from apl.losses.modules import make_loss
from apl.names import NETWORKS
from apl.runs.scores import Result
from apl.training.fit import learning_rate
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.networks import make_network
from apl.training.train import train

# What makes the host wait for a GPU: a number or a size read from a tensor, or values that come
# from Python lists (copied from memory that is not pinned).
SYNCS = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh", "equal"}

needs_compiler = pytest.mark.skipif(not dispatch.has_compiler(), reason="needs a C++ compiler")


def looks_at_targets() -> bool:
    """Whether the operation comes from the look at targets, which is for the CPU alone."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is any_ignored.__code__:
            return True
        frame = frame.f_back
    return False


class CountSyncs(TorchDispatchMode):
    """Counts every operation on tensors that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        moved = (kwargs or {}).get("device")
        waits = name in SYNCS or (name == "_to_copy" and moved is not None)
        if waits and not looks_at_targets():
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def config(**given: Any) -> Config:
    return make_config(**{"train_size": 320, "epochs": 2, **given})


def run(asked: Config, compile: bool = False, **options: Any) -> Result:
    machine = Machine(threads=1, device="cpu", compile=compile)
    listener = options.pop("listener", Listener()) + Listener(on_message=ignore)
    return train(asked, machine=machine, listener=listener, **options)


def compile_by(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile traces goes to that compiler.  To Inductor it is half a minute: what is
    ours, what is traced and that it is the same, 'aot_eager' shows as well."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))


def syncs(loss: str, **given: Any) -> Counter[str]:
    # The reference backend is what devices without a kernel run.  The closed form is for the CPU
    # alone, where to read a number costs nothing, and does so.
    criterion = make_loss(loss, 10, backend="reference")
    asked = config(loss=loss, network="mlp", width=16, **given)
    run(asked, criterion=criterion)  # fills what is computed only once
    with CountSyncs() as counter:
        run(asked, criterion=criterion)
    return counter.seen


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "nce_rce", "nfl_mae", "gce"])
def test_no_step_waits_for_the_device(loss: str) -> None:
    """Four times as many steps, not one wait more."""
    assert syncs(loss, batch_size=20) == syncs(loss, batch_size=80)


def test_no_target_is_looked_at_on_a_device() -> None:
    """So what `syncs` leaves out is the CPU's alone."""
    targets = torch.arange(4)
    assert known(targets)
    assert not known(targets.to("meta"))


def test_a_wait_in_a_step_is_counted() -> None:
    class Waits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = make_loss("ce", 10)

        def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            loss: torch.Tensor = self.loss(logits, targets)
            return loss if loss.item() > 0 else -loss

    asked = config(loss="ce", batch_size=20, network="mlp", width=16)
    with CountSyncs() as counter:
        run(asked, criterion=Waits())
    assert counter.seen["_local_scalar_dense"] >= 2 * 16


@pytest.mark.slow
def test_augmentation_does_not_wait_either() -> None:
    assert syncs("ce", augment=True, batch_size=20) == syncs("ce", augment=True, batch_size=80)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_and_losses_are_one_graph(name: str) -> None:
    """torch.compile sees the whole step: no graph break in the network or in the loss."""
    small = name in ("mlp", "cnn4")
    shape = (8, 8, 1) if small else (32, 32, 3)
    network = make_network(name, shape, 10, 64).train()
    criterion = make_loss("nce_rce", 10)

    def step(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return criterion(network(images), targets)

    images = torch.randn(4, shape[2], *shape[:2])
    explained = torch._dynamo.explain(step)(images, torch.randint(10, (4,)))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("network", "precision", "rounding", "batch_size", "graphs", "backend"),
    [
        ("mlp", "float32", 1e-3, 64, 1, "aot_eager"),  # of 64 each
        ("mlp", "bf16", 2e-2, 150, 2, "aot_eager"),  # of 150, 150 and 20
        ("linear", "bf16", 2e-2, 160, 1, "inductor"),  # it compiles seconds for each layer
    ],
)
def test_compiled_training_is_training_and_one_graph_of_network_and_loss(
    network: str,
    precision: str,
    rounding: float,
    batch_size: int,
    graphs: int,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same run, compiled: the same up to the rounding of fused sums, in one graph for each size
    of a batch, autocast and the way to float32 in it, and no break."""
    compile_by(backend, monkeypatch)
    criterion = make_loss("nce_rce", 10)
    rows: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for compiled, seen in rows.items():

        def traced(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            assert torch.compiler.is_compiling() == compiled  # noqa: B023
            assert logits.dtype == torch.float32
            assert not torch.is_autocast_enabled("cpu")
            return criterion(logits, targets)

        torch._dynamo.reset()
        counters.clear()
        asked = config(network=network, width=32, batch_size=batch_size, precision=precision)
        run(asked, compiled, criterion=traced, listener=Listener(on_epoch=seen.append))
        assert counters["stats"]["unique_graphs"] == (graphs if compiled else 0)
        assert not counters["graph_break"]
    for eager, fused in zip(rows[False], rows[True], strict=True):
        assert fused["train_loss"] == pytest.approx(eager["train_loss"], rel=rounding)
        assert fused["train_accuracy"] == pytest.approx(eager["train_accuracy"], abs=0.02)
        assert fused["test_accuracy"] == pytest.approx(eager["test_accuracy"], abs=0.02)


@pytest.mark.slow
@needs_compiler
def test_a_loss_that_cannot_be_traced_is_computed_beside_the_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compile_by("aot_eager", monkeypatch)

    def opaque(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(logits, targets)
        right = (logits.detach().numpy().argmax(1) == targets.numpy()).mean()
        return loss * 0.5 if right > 0.3 else loss

    losses = {}
    for compiled in (False, True):
        rows: list[dict[str, float]] = []
        run(
            config(network="mlp", width=32),
            compiled,
            criterion=opaque,
            listener=Listener(on_epoch=rows.append),
        )
        losses[compiled] = [row["train_loss"] for row in rows]
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


def test_compile_without_a_compiler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    dispatch.has_compiler.cache_clear()
    try:
        with pytest.raises(BadInput, match="compile needs a C\\+\\+ compiler"):
            run(config(), compile=True)
    finally:
        dispatch.has_compiler.cache_clear()


@pytest.mark.slow
def test_bf16_trains_with_float32_weights_and_loss() -> None:
    """The network computes in bf16, all that adds up does not, and it learns as well."""
    inside: dict[str, set[torch.dtype]] = {"float32": set(), "bf16": set()}
    accuracy: dict[str, float] = {}
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    criterion = make_loss("nce_rce", 10)

    def watched(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = criterion(logits, targets)
        seen.append((logits.dtype, loss.dtype))
        return loss

    for precision, outputs in inside.items():
        asked = config(epochs=15, precision=precision)
        torch.manual_seed(0)
        network = make_network(asked.network, (8, 8, 1), 10, asked.width)
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.register_forward_hook(
                    lambda layer, given, out, outputs=outputs: (
                        outputs.add(out.dtype) if layer.training else None
                    )
                )
        accuracy[precision] = run(asked, criterion=watched, network=network).test_accuracy
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert inside == {"float32": {torch.float32}, "bf16": {torch.bfloat16}}
    assert set(seen) == {(torch.float32, torch.float32)}
    assert min(accuracy.values()) > 0.7


def test_precision_and_warmup_belong_to_a_run_and_compile_does_not() -> None:
    assert "precision=bf16" in config(precision="bf16").name
    assert "warmup=1" in config(warmup=1.0).name
    assert "compile" not in {field.name for field in dataclasses.fields(Config)}
    with pytest.raises(BadInput, match="precision is 'fp8'; accepted: float32, tf32, bf16"):
        config(precision="fp8")


def test_warmup_rises_and_meets_the_cosine() -> None:
    asked = config(epochs=10, warmup=2.0, lr=0.1)
    rates = [learning_rate(asked, e, done) for e in range(10) for done in (0.25, 0.5, 0.75, 1.0)]
    plain = [learning_rate(config(epochs=10, lr=0.1), e, 1.0) for e in range(10)]
    assert rates[0] == pytest.approx(0.1 / 8)
    assert rates[:8] == sorted(rates[:8])
    assert rates[7] == pytest.approx(plain[1])
    assert rates[11::4] == pytest.approx(plain[2:])
