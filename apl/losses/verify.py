"""Every loss checked numerically: its numbers, and what the lemmas of Ma et al. 2020 say of it.

The numbers: values and gradients in 50 digits, from formulas that share nothing with the code
(`sums.json` and `criteria.json`, which the scripts in tests/losses make), against the specification
and against each path that trains.

The theory: the exact problem is one input whose true class is 0 and whose label is drawn from row
0 of a transition matrix T: the noisy risk of the probabilities p is R(p) = sum_j T[0, j] L(p, j),
the clean one is L(p, 0), and its minimiser is the vertex e_0 where p_0 = 1.  A loss tolerates the
noise if e_0 minimises R as well.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apl.kernels.bases import Term
from apl.kernels.dispatch import Backend
from apl.kernels.dispatch import loss as fused_loss
from apl.kernels.reference import row_losses
from apl.losses.catalog import LOSSES, SUMS, loss_terms
from apl.losses.modules import CRITERIA, RowLoss, make_loss
from apl.noise.labels import Matrix
from apl.noise.matrices import pair_flip, symmetric

FLOOR = 1e-12  # stands for a probability of 0, whose logarithm the losses take
LATTICE = {2: 64, 3: 24, 4: 12, 5: 8, 6: 7, 7: 6, 8: 5, 9: 5, 10: 5}  # steps along an edge, by K
RATES = tuple(round(0.01 * step, 2) for step in range(101))


# The largest error that rounding may make, by path: of float64, and of the kernel's float32.
ALLOWED = {"reference": 1e-9, "eager": 1e-9, "auto": 1e-9, "kernel": 1e-3}
ROUNDING = 1e-12  # of a rate that lies on a bound
SMALL = 1e-4  # what is smaller is compared as if it were so large

# How often the true label must be seen for each time that another one is: the slope in p at 0 over
# that at 1 of a convex loss (for the first three: Zhou et al. 2021).
DOMINANCE = {
    "agce": (1.6 / 0.6) ** 0.4,
    "aul": (5.5 / 4.5) ** 2,
    "ael": math.exp(1 / 2.5),
    "tce": 6.0,
    "phuber_ce": 2.0,
    "phuber_gce": 10.0,
}
STEEP = ("ce", "fl", "gce", "sce", "boot_soft")  # where p vanishes: they tolerate next to nothing
NEXT_TO_NOTHING = 0.02  # gce is that close to MAE
WITHIN_LEMMA_2 = ("nmae", "nrce")


@dataclass(frozen=True)
class Verdict:
    """What holds of one loss.

    sum_spread: (max - min) / mean of sum_j L(z, j) over random logits, 0 if it is constant.
    highest: the largest value found, to hold against the 1/(K-1) of Lemma 2.
    gradient_error: largest difference of the gradient from a central difference, over its largest
    entry.
    symmetric, pair: the highest rate of symmetric and of pair-flip noise, in steps of 0.01, up to
    which e_0 minimises the noisy risk, by K; nan where it does not minimise the clean one.
    errors: the largest error of value and gradient, relative to the true number, by path.
    """

    loss: str
    sum_spread: float
    highest: float
    gradient_error: float
    symmetric: dict[int, float]
    pair: dict[int, float]
    errors: dict[str, float]

    @property
    def constant_sum(self) -> bool:
        """Whether sum_j L(z, j) is the same for all z, up to rounding (Lemma 1)."""
        return self.sum_spread < 1e-12

    @property
    def bounded(self) -> bool:
        """Whether no value found exceeds 1/(K-1), at the largest K (Lemma 2)."""
        return self.highest <= 1 / (max(self.symmetric) - 1) + 1e-12

    def with_errors(self, errors: Mapping[str, float]) -> Verdict:
        """The same with what was found on further paths."""
        return dataclasses.replace(self, errors={**self.errors, **errors})

    @property
    def missed(self) -> list[str]:
        """What is not as it must be, a sentence each."""
        said = wrong_numbers(self.errors)
        if not self.gradient_error < 1e-7:
            said.append(f"its gradient is off finite differences by {self.gradient_error:.0e}")
        if self.constant_sum != LOSSES[self.loss].tolerant:
            must = "must be" if LOSSES[self.loss].tolerant else "must not be"
            said.append(f"its sum over the labels {must} constant (Lemma 1)")
        if self.loss in WITHIN_LEMMA_2 and not self.bounded:
            said.append("it exceeds 1/(K-1) (Lemma 2)")
        for noise, found in (("symmetric", self.symmetric), ("pair", self.pair)):
            for classes, rate in found.items():
                least, most = promised(self.loss, classes, noise)
                same = math.isnan(rate) if math.isnan(least) else least <= rate <= most
                if not same:
                    accepted = f"{least:.2f}" if least == most else f"{least:.2f} to {most:.2f}"
                    said.append(f"{noise} noise, K={classes}: tolerated to {rate:.2f}, {accepted}")
        return said


def wrong_numbers(errors: Mapping[str, float]) -> list[str]:
    """The paths whose largest error is more than rounding, a sentence each."""
    return [
        f"its numbers on the path '{path}' are off by {error:.0e}"
        for path, error in errors.items()
        if not error <= ALLOWED[path]
    ]


def promised(name: str, classes: int, noise: str) -> tuple[float, float]:
    """The lowest and the highest that the theory allows for the rate of 'symmetric' or 'pair' noise
    of so many classes up to which a loss of the catalogue has the clean minimiser; (nan, nan) where
    it must have another one."""

    def highest(holds: Callable[[float], bool]) -> tuple[float, float]:
        rate = max(rate for rate in RATES if holds(rate))
        return rate, rate

    pairs = noise == "pair"
    if name == "ls":  # its minimiser is no vertex, whatever the noise
        return math.nan, math.nan
    if LOSSES[name].tolerant and not pairs:
        return highest(lambda rate: rate <= (classes - 1) / classes + ROUNDING)
    if name in DOMINANCE:
        others = 1 if pairs else classes - 1
        return highest(lambda rate: (1 - rate) * others >= DOMINANCE[name] * rate - ROUNDING)
    if name == "amse":
        # The noisy risk is |p - a T_0|^2 / K and a constant: of all p a vertex is the nearest to
        # a T_0 where T_00 exceeds every other entry by 1 / a or more.
        others = 1 if pairs else classes - 1
        return highest(lambda rate: 1 - rate - rate / others >= 1 / 30 - ROUNDING)
    if name in STEEP and not pairs:
        return 0.0, NEXT_TO_NOTHING
    if name in WITHIN_LEMMA_2:
        return highest(lambda rate: rate <= 0.5)
    return 0.0, 1.0


def verify(
    names: Sequence[str] = SUMS, classes: Sequence[int] = tuple(range(2, 11))
) -> list[Verdict]:
    """Check each named sum of bases, with its default parameters, for each number of classes, 2 to
    10, and by its numbers on every path of this process (`kernel_errors` has the kernel's)."""
    verdicts = []
    for name in names:
        terms = {k: loss_terms(name, k) for k in classes}
        largest = max(classes)
        values = _all_labels(_random_log_p(largest), terms[largest])
        sums = values.sum(1)
        at_points = {k: _all_labels(lattice(k).log(), terms[k]) for k in classes}
        verdicts.append(
            Verdict(
                name,
                float((sums.max() - sums.min()) / sums.mean()),
                float(max(values.max(), at_points[largest].max())),
                _gradient_error(terms[largest], largest),
                {k: _tolerated(at_points[k], symmetric) for k in classes},
                {k: _tolerated(at_points[k], pair_flip) for k in classes},
                {path: sum_error(name, path) for path in ("reference", "eager", "auto")},
            )
        )
    return verdicts


@cache
@functools.cache
def _exact(file: str) -> Any:
    return json.loads(resources.files("apl.losses").joinpath(file).read_text(encoding="utf-8"))


def sum_error(name: str, path: str, device: str = "cpu") -> float:
    """The largest error of value and gradient of a sum of bases on one path: 'reference', 'eager'
    (the closed form), 'auto', in float64, or 'kernel', in float32."""
    exact = _exact("sums.json")
    dtype = torch.float32 if path == "kernel" else torch.float64
    backend: Backend = "triton" if path == "kernel" else path  # type: ignore[assignment]
    errors = []
    cases = list(zip(exact["rows"], exact["losses"][name], strict=True))
    if path == "kernel":
        cases = cases[1:5:3]  # one not sure, one wrong: the interpreter takes its time
    for (row, target), (value, gradient) in cases:
        logits = torch.tensor([row], dtype=dtype, device=device, requires_grad=True)
        targets = torch.tensor([target], device=device)
        said = fused_loss(logits, targets, loss_terms(name, len(row)), backend=backend)
        (slope,) = torch.autograd.grad(said, logits)
        first: dict[tuple[float, bool], int] = {}  # equal logits have equal gradients: one stands
        for k, z in enumerate(row):
            first.setdefault((z, k == target), k)
        errors += [_error([said.item()], [value])]
        errors += [_error(slope[0, sorted(first.values())].tolist(), gradient)]
    return max(errors)


def criterion_error(name: str) -> float:
    """The largest error of value, gradient and memory of a loss that is no sum of bases."""
    exact, errors = _exact("criteria.json"), []
    for visits in exact["losses"][name]:
        row = visits[0][0]
        views = CRITERIA[name].views
        classes = len(row) // views
        matrix = torch.tensor(exact["transitions"][str(classes)], dtype=torch.float64)
        extras: dict[str, Any] = {"num_samples": 1, "transition": matrix}
        needed = {need: extras[need] for need in CRITERIA[name].needs}
        criterion = make_loss(name, classes, **needed).double()
        assert isinstance(criterion, RowLoss)
        about = {"samples": torch.tensor([0]), "epoch": 7.0}
        for row, target, value, gradient, *memory in visits:
            shape = (1, classes) if views == 1 else (views, 1, classes)
            logits = torch.tensor(row, dtype=torch.float64).reshape(shape).requires_grad_()
            wanted = {want: about[want] for want in criterion.wants}
            said = criterion(logits, torch.tensor([target]), **wanted)
            (slope,) = torch.autograd.grad(said, logits)
            errors += [_error([said.item()], [value]), _error(slope.flatten().tolist(), gradient)]
            for state in memory:
                (buffer,) = criterion.buffers()
                errors.append(_error(buffer[0].reshape(-1).tolist(), state))
    return max(errors)


def _error(ours: Sequence[float], exact: Sequence[float]) -> float:
    small = SMALL * max(1.0, *map(abs, exact))  # what is a difference of large numbers
    errors = [abs(a - b) / max(abs(b), small) for a, b in zip(ours, exact, strict=True)]
    return math.inf if any(map(math.isnan, errors)) else max(errors)


def kernel_errors(names: Sequence[str] = SUMS) -> tuple[dict[str, float], str]:
    """The largest error of each loss in the Triton kernel, and where it ran: on the GPU, else in
    Triton's interpreter, in a process of its own, for it is switched on before Triton is loaded.
    No errors, and the reason, where Triton cannot run."""
    if torch.cuda.is_available():
        return {name: sum_error(name, "kernel", "cuda") for name in names}, "on the GPU"
    # As this process finds its modules: beside a checkout, or out of a folder that was put there.
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    code = (
        "import json, sys, warnings; warnings.filterwarnings('error', message='the Triton loss')\n"
        "from apl.losses.verify import sum_error\n"
        "print(json.dumps({name: sum_error(name, 'kernel') for name in sys.argv[1:]}))"
    )
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {}, f"did not run: {lines[-1] if lines else 'its process was killed'}"
    found: dict[str, float] = json.loads(done.stdout)
    return found, "in Triton's interpreter"


@cache
def lattice(num_classes: int) -> Tensor:
    """Points [N, K] of the simplex: all whose coordinates are multiples of 1 / LATTICE[K], with
    FLOOR for 0, and some ever closer to the vertex e_0, along each edge and towards the middle."""
    steps = LATTICE[num_classes]
    # Stars and bars: the gaps between K - 1 bars among steps + K - 1 places are the coordinates.
    bars = np.array(list(itertools.combinations(range(steps + num_classes - 1), num_classes - 1)))
    edges = np.hstack(
        [
            np.full((len(bars), 1), -1),
            bars,
            np.full((len(bars), 1), steps + num_classes - 1),
        ]
    )
    points = (np.diff(edges, axis=1) - 1) / steps
    near = []
    for distance in np.logspace(-1, -10, 28):
        for target in [*np.eye(num_classes)[1:], np.full(num_classes, 1 / num_classes)]:
            near.append((1 - distance) * np.eye(num_classes)[0] + distance * target)
    found = torch.from_numpy(np.vstack([points, near])).clamp_min(FLOOR)
    return found / found.sum(1, keepdim=True)


def _random_log_p(num_classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, num_classes, generator=generator, dtype=torch.float64)
    scales = torch.logspace(-1, 1.5, 2000, dtype=torch.float64)[:, None]
    return torch.log_softmax(logits * scales, 1)


def _all_labels(log_p: Tensor, terms: Sequence[Term]) -> Tensor:
    """The loss of every row of log-probabilities [N, K] for every label: [N, K]."""
    count, num_classes = log_p.shape
    columns = [row_losses(log_p, torch.full((count,), j), terms) for j in range(num_classes)]
    return torch.stack(columns, 1)


def _gradient_error(terms: Sequence[Term], num_classes: int) -> float:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(20, num_classes, generator=generator, dtype=torch.float64)
    targets = torch.randint(num_classes, (20,), generator=generator)

    def loss(z: Tensor) -> Tensor:
        return row_losses(torch.log_softmax(z, 1), targets, terms)

    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
    step = 1e-6
    moves = torch.eye(num_classes, dtype=torch.float64) * step
    differences = [(loss(logits + move) - loss(logits - move)) / (2 * step) for move in moves]
    error = (gradient - torch.stack(differences, 1)).abs().max()
    return float(error / gradient.abs().max())


@cache
def _first_rows(noise: Callable[[int, float], Matrix], num_classes: int) -> Tensor:
    """Row 0 of the transition matrix of every rate: [rates, K]."""
    return torch.from_numpy(np.stack([noise(num_classes, rate)[0] for rate in RATES]))


def _tolerated(values: Tensor, noise: Callable[[int, float], Matrix]) -> float:
    """The highest rate up to which no point of the lattice has a lower noisy risk than e_0, nan
    where one has a lower clean risk (label smoothing).  values: the loss [N, K] of every point for
    every label."""
    num_classes = values.shape[1]
    vertex = int(lattice(num_classes)[:, 0].argmax())
    rows = _first_rows(noise, num_classes)
    risks = values @ rows.T  # [points, rates]
    beaten = risks.min(0).values < risks[vertex] - 1e-9 * values.max()
    first = int(beaten.int().argmax()) if beaten.any() else len(RATES)
    return RATES[first - 1] if first else math.nan
