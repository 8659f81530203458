"""Time and memory of value plus gradient, every way there is to compute them, side by side.

    python benchmarks/kernel_times.py [--minutes 8] [--loss nce_rce ...] [--parts table host ...]
                                      [--seconds 4]

Of what apl depends on it needs torch and triton alone: `pip install --no-deps -e .` is enough.

The loss must read the logits once and write their gradient once, and a copy of them does exactly
that: so the yardstick is the copy, timed on the same logits in the same rounds.  On CUDA all times
but the host's are those of the device between two events, behind a flush of the L2 cache.
On a CPU (`--device cpu`) the kernels run in triton's interpreter at a few small sizes, which shows
that the script works and nothing else; only `--parts host` is a measurement there.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import statistics
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from apl.kernels import dispatch
from apl.kernels.bases import LOG_ZERO, Term
from apl.kernels.options import LossOptions, Reduction
from apl.losses.catalog import loss_terms

LossOf = Callable[[int], tuple[Term, ...]]
"""The terms of a loss for a number of classes, on which sums that are constant depend."""

Path = Callable[[Tensor, Tensor], Tensor]
Name = tuple[str, str]  # (loss, path)
Run = Callable[[], object]
Row = dict[str, Any]


LOSSES: dict[str, LossOf] = {
    name: functools.partial(loss_terms, name) for name in ("ce", "nce_rce")
}


class Case(NamedTuple):
    """Logits of a shape [N, K, ...] and a type, and how their loss is asked for.

    scale: what the gradient comes in with; inside: in compiled code, behind an operation.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    reduction: Reduction = "mean"
    scale: float = 1.0
    inside: bool = False


BF16, FP32 = torch.bfloat16, torch.float32
SHAPES = ((2**22, 10), (2**19, 100), (16384, 1000), (4096, 32000), (2048, 131072))
FEW = (SHAPES[0], SHAPES[2], SHAPES[4])
IMAGES = ((8, 21, 256, 256), (8, 150, 256, 256))

PARTS: dict[str, list[Case]] = {
    "host": [Case((128, 10), FP32)],
    "table": [Case(shape, dtype) for dtype in (BF16, FP32) for shape in SHAPES],
    "memory": [Case(shape, BF16) for shape in (*FEW, IMAGES[0])],
    "nchw": [Case(shape, BF16) for shape in IMAGES],
    "scale": [Case(shape, BF16, scale=0.5) for shape in FEW],
    "none": [Case(shape, BF16, "none") for shape in FEW],
    "compile": [Case(shape, BF16, inside=True) for shape in FEW],
}


def for_interpreter(part: str) -> list[Case]:
    """The cases of a part on a CPU: each layout and type once, at sizes for triton's interpreter;
    those of the host as they are, since it launches nothing, and none of memory, of which torch
    counts CUDA's."""
    if part == "host":
        return PARTS[part]
    tiny = [case._replace(shape=(2, 5, 3, 3)[: len(case.shape)]) for case in PARTS[part]]
    return [] if part == "memory" else list(dict.fromkeys(tiny))


# --- What is compared ---


def paths(losses: Mapping[str, LossOf], case: Case, device: str) -> dict[Name, Path]:
    """Every way there is to compute the losses of a case: name -> loss(logits, targets).

    On CUDA its rivals are there compiled too, for the sizes of this case alone.
    """
    # Forgets what was compiled for other shapes: else a size that differs becomes dynamic.
    torch._dynamo.reset()
    compiled = functools.partial(
        torch.compile, dynamic=False, backend="inductor" if device == "cuda" else "aot_eager"
    )
    reduction = case.reduction
    rivals: dict[Name, Path] = {
        ("ce", "F.cross_entropy"): functools.partial(F.cross_entropy, reduction=reduction)
    }
    own: dict[Name, Path] = {}
    for name, of in losses.items():
        terms = of(case.shape[1])
        rivals[name, "reference"] = _through("reference", terms, reduction)
        if name == "nce_rce" and len(case.shape) == 2:
            rivals[name, "four lines"] = functools.partial(four_lines, reduction=reduction)
        own[name, "triton"] = _through("triton", terms, reduction)
    if case.inside:
        every = {**rivals, **own}
        return {name: compiled(functools.partial(_behind, path)) for name, path in every.items()}
    if device == "cuda":
        rivals |= {(n, f"compiled {path}"): compiled(run) for (n, path), run in rivals.items()}
        with contextlib.suppress(ImportError):
            liger = importlib.import_module("liger_kernel.transformers")
            if len(case.shape) == 2:
                rivals["ce", "Liger"] = liger.LigerCrossEntropyLoss(reduction=reduction)
    return {**rivals, **own}


def four_lines(logits: Tensor, targets: Tensor, reduction: Reduction) -> Tensor:
    """NCE + RCE in as few operations of torch as there can be, and autograd."""
    log_p = torch.log_softmax(logits.float(), 1)
    log_p_y = log_p.gather(1, targets[:, None])
    losses = log_p_y / log_p.sum(1, keepdim=True) + LOG_ZERO * log_p_y.expm1()
    if reduction == "none":
        return losses.squeeze(1)
    return losses.mean() if reduction == "mean" else losses.sum()


def _through(
    backend: dispatch.Backend, terms: tuple[Term, ...], reduction: Reduction = "mean"
) -> Path:
    options = LossOptions(reduction=reduction)
    return functools.partial(dispatch.loss, terms=terms, options=options, backend=backend)


@contextlib.contextmanager
def _without_limit() -> Iterator[None]:
    # All compiled paths count as one function to torch.compile, the wrapper that it puts around a
    # partial; those above its limit, 8, would silently not be compiled.
    with torch._dynamo.config.patch(recompile_limit=1000):
        yield


def _behind(path: Path, logits: Tensor, targets: Tensor) -> Tensor:
    return path(1.5 * logits, targets)


def _data(case: Case, device: str) -> tuple[Tensor, Tensor]:
    samples, classes, *inner = case.shape
    logits = torch.randn(case.shape, dtype=case.dtype, device=device)
    return logits.requires_grad_(), torch.randint(classes, (samples, *inner), device=device)


def _step(path: Path, logits: Tensor, targets: Tensor, upstream: Tensor | None = None) -> None:
    torch.autograd.grad(path(logits, targets), logits, upstream)


def _ready(
    losses: Mapping[str, LossOf], case: Case, device: str
) -> tuple[Tensor, dict[Name, Run | str]]:
    """The logits of a case and each path's forward plus backward of them, which has run before
    (that compiles it); for a path that cannot run here, why not."""
    logits, targets = _data(case, device)
    runs: dict[Name, Run | str] = {}
    for name, path in paths(losses, case, device).items():
        # Liger writes its gradient over the logits.
        own = logits.detach().clone().requires_grad_() if name[1] == "Liger" else logits
        try:
            with warnings.catch_warnings():  # of another path taking Triton's place, which is
                dispatch._warned.clear()  # said once in a process: here each time
                warnings.filterwarnings("error", "the Triton loss cannot run")
                upstream = torch.full_like(path(own, targets).detach(), case.scale)
                run = functools.partial(_step, path, own, targets, upstream)
                run(), run()
        except Exception as error:  # of a rival, or a memory that is full: the others go on
            runs[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
        else:
            runs[name] = run
    return logits, runs


def _row(case: Case, name: Name, **measured: float | str) -> Row:
    loss, path = name
    size = "x".join(map(str, case.shape))
    kind = {BF16: "bf16", FP32: "fp32"}[case.dtype]
    return {"logits": size, "type": kind, "loss": loss, "path": path, **measured}


# --- Time of the device ---

ROUNDS = (3, 100)  # at the least and at the most


@_without_limit()
def compare(losses: Mapping[str, LossOf], case: Case, device: str, seconds: float) -> list[Row]:
    """A row per path: milliseconds of forward plus backward (median, and half the distance of the
    quartiles in percent of it), the bytes of logits and gradient over that time in GB/s, and the
    time of the copy in percent of it.

    All paths run in turn for so many seconds, after each has run before.
    """
    logits, ready = _ready(losses, case, device)
    copied = torch.empty_like(logits, requires_grad=False)
    runs: dict[Name, Run] = {("", "copy"): functools.partial(copied.copy_, logits.detach())}
    runs |= {name: run for name, run in ready.items() if not isinstance(run, str)}
    times = _times(runs, device, seconds)
    copy = statistics.median(times["", "copy"])
    moved = 2 * logits.numel() * logits.element_size()
    columns = ("ms", "+-%", "GB/s", "% of copy")
    rows = []
    for name, measured in times.items():
        low, median, high = statistics.quantiles(measured, n=4)
        spread = 50 * (high - low) / median
        figures = (median * 1e3, spread, moved / median / 1e9, 100 * copy / median)
        rows.append(_row(case, name, **dict(zip(columns, figures, strict=True))))
    return rows + [_row(case, name, ms=why) for name, why in ready.items() if isinstance(why, str)]


def _times(runs: Mapping[Name, Run], device: str, seconds: float) -> dict[Name, list[float]]:
    """Seconds of each run, round by round."""
    round_of = _Device(runs.values()).round if device == "cuda" else _on_host
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < ROUNDS[0] or (len(rounds) < ROUNDS[1] and time.perf_counter() < end):
        rounds.append(round_of(runs.values()))
    return dict(zip(runs, map(list, zip(*rounds, strict=True)), strict=True))


def _on_host(runs: Iterable[Run]) -> list[float]:
    times = []
    for run in runs:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


class _Device:
    """Times runs on CUDA by events, each behind writes of more than the L2 cache holds.

    There are as many writes as keep the device busy until the host has launched the whole run:
    else its time would be the host's.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        l2 = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
        self.flush = torch.empty(4 * l2, dtype=torch.int8, device="cuda")
        self.writes = [1]
        self.round([self.flush.zero_])  # the first loads code
        (one,) = self.round([self.flush.zero_])
        self.writes = []
        for run in runs:
            torch.cuda.synchronize()
            (host,) = _on_host([run])
            self.writes.append(1 + min(50, round(1.5 * host / one)))

    def round(self, runs: Iterable[Run]) -> list[float]:
        """Seconds of each run."""
        events = []
        for run, writes in zip(runs, self.writes, strict=True):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(writes):
                self.flush.zero_()
            start.record()
            run()
            end.record()
            events.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in events]


# --- Memory and host ---


@_without_limit()
def memory(losses: Mapping[str, LossOf], case: Case, device: str, seconds: float) -> list[Row]:
    """A row per path: the most memory of forward plus backward, the logits included, over that of
    the logits."""
    logits, ready = _ready(losses, case, device)
    size = logits.numel() * logits.element_size()
    rows = []
    for name, run in ready.items():
        if isinstance(run, str):
            rows.append(_row(case, name, peak=run))
            continue
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        rows.append(_row(case, name, peak=1 + peak / size))
    return rows


CALLS = 50  # at a time without waiting: what they launch must fit into CUDA's queue


def host(losses: Mapping[str, LossOf], case: Case, device: str, seconds: float) -> list[Row]:
    """A row per path: microseconds of the host for a forward and for forward plus backward, from
    call to return (median, and the least), and on CUDA those of the device for both.

    'triton, no launch' leaves the launches of kernels out: Python, autograd and torch's small
    operations remain.  'no-op Function' is an autograd.Function that computes nothing: what any
    loss with a backward of its own costs.  On a CPU the time of F.cross_entropy holds its
    arithmetic, and that of the triton path the arithmetic of those small operations.
    """
    logits, targets = _data(case, device)
    launched: dict[Name, Path] = {
        ("ce", "F.cross_entropy"): F.cross_entropy,
        ("", "no-op Function"): _Nothing.apply,
    }
    not_launched: dict[Name, Path] = {}
    for loss, of in losses.items():
        path = _through("triton", of(case.shape[1]))
        not_launched[loss, "triton, no launch"] = path
        if device == "cuda":
            launched[loss, "triton"] = path
    steps = {
        name: functools.partial(_step, path, logits, targets)
        for name, path in {**launched, **not_launched}.items()
    }
    forwards: dict[Name, list[float]] = {name: [] for name in steps}
    both: dict[Name, list[float]] = {name: [] for name in steps}
    rounds, end = 0, time.perf_counter() + seconds
    while rounds < ROUNDS[0] or time.perf_counter() < end:
        rounds += 1
        for name, step in steps.items():
            path = step.args[0]
            with _no_launches() if name in not_launched else contextlib.nullcontext():
                forward = functools.partial(path, logits, targets)
                forwards[name].append(_microseconds(forward, device))
                both[name].append(_microseconds(step, device))
    on_device: dict[Name, list[float]] = {}
    if device == "cuda":
        on_device = _times({name: steps[name] for name in launched}, device, seconds)
    rows = []
    for name in steps:
        figures = {
            "forward us": statistics.median(forwards[name]),
            "both us": statistics.median(both[name]),
            "least us": min(both[name]),
        }
        if name in on_device:
            figures["device us"] = 1e6 * statistics.median(on_device[name])
        rows.append(_row(case, name, **figures))
    return rows


def _microseconds(run: Run, device: str) -> float:
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS):
        run()
    return (time.perf_counter() - start) / CALLS * 1e6


class _Nothing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(logits)
        return logits.new_empty(())

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        return torch.empty_like(ctx.saved_tensors[0]), None


@contextlib.contextmanager
def _no_launches() -> Iterator[None]:
    from apl.kernels.triton_loss import Launch

    launch = Launch.run
    Launch.run = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        Launch.run = launch  # type: ignore[method-assign]


# --- The script ---


DIGITS = {"ms": 4, "peak": 2}


def table(case: Case, rows: Sequence[Row]) -> str:
    """The rows of a case as lines of less than 80 characters.

    Why a path has no figures stands below it, and a loss with a long name above its own line.
    """
    columns = [
        name for name in max(rows, key=len) if name not in ("logits", "type", "loss", "path")
    ]
    how = f", {case.reduction}" if case.reduction != "mean" else ""
    how += f", gradient times {case.scale:g}" if case.scale != 1.0 else ""
    how += ", in compiled code" if case.inside else ""
    head = f"{rows[0]['logits']} {rows[0]['type']}{how}"
    lines = [head] if len(head) > 39 else []
    heads = "".join(f"{name:>{max(8, 1 + len(name))}}" for name in columns)
    lines.append(f"{'' if lines else head:40}{heads}")
    for row in rows:
        loss, path = row["loss"], row["path"]
        if len(loss) > 12:  # no room beside its path
            lines += textwrap.wrap(loss, 76, initial_indent="  ", subsequent_indent="  ")
            loss = ""
        line = f"  {loss:13}{path:25}"
        why = ""
        for name in columns:
            value = row.get(name, "")
            if isinstance(value, float):
                line += f"{value:{max(8, 1 + len(name))}.{DIGITS.get(name, 1)}f}"
            else:
                why += value
        lines.append(line)
        lines += textwrap.wrap(why, 76, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(line.rstrip() for line in lines)


def run(
    losses: Mapping[str, LossOf],
    parts: Sequence[str] = tuple(PARTS),
    minutes: float = 8.0,
    seconds: float = 4.0,
    device: str = "cuda",
) -> None:
    """Prints the parts, each case as soon as it is measured, in so many seconds; ends within so
    many minutes."""
    # Nothing interrupts a compiler: an eighth is kept for what is under way when the time is over.
    end = time.monotonic() + 60 * minutes * 7 / 8
    work = [
        (part, case)
        for part in parts
        for case in (PARTS[part] if device == "cuda" else for_interpreter(part))
    ]
    for done, (part, case) in enumerate(work):
        if not done or part != work[done - 1][0]:
            print(f"\n{part}", flush=True)
        left = (end - time.monotonic()) / (len(work) - done)
        if left <= 0:
            print(f"left out, the time is over: {case}", flush=True)
            continue
        measured = {"host": host, "memory": memory}.get(part, compare)
        try:  # half for what is to be compiled
            print(table(case, measured(losses, case, device, min(seconds, left / 2))), flush=True)
        except torch.OutOfMemoryError:
            print(f"does not fit into memory: {case}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The script: prints what it runs on, and `run`s."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of it, compiling too")
    parser.add_argument("--loss", nargs="+", default=list(LOSSES), help="by name, or as 'nce+rce'")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--seconds", type=float, default=4.0, help="for each size, at the most")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    asked = parser.parse_args(arguments)
    try:
        for name in asked.loss:
            loss_terms(name, 10)
    except ValueError as error:
        parser.error(str(error))
    if asked.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
        torch.set_num_threads(1)
        name = "CPU, 1 thread"
    elif torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        parser.error(
            "there is no CUDA device; --device cpu runs in triton's interpreter, kernel_code.py "
            "shows the compiled code without one, and losses.py times the CPU"
        )
    import triton

    print(f"{name}, torch {torch.__version__}, triton {triton.__version__}", flush=True)
    losses = {name: functools.partial(loss_terms, name) for name in asked.loss}
    run(losses, asked.parts, asked.minutes, asked.seconds, asked.device)


if __name__ == "__main__":
    main()
