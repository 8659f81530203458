"""What a criterion is called and built with: as people do who come from F.cross_entropy."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from apl import linear_loss, make_loss
from apl.kernels import dispatch
from apl.kernels.options import REDUCTIONS, LossOptions
from apl.losses.catalog import loss_terms
from apl.losses.modules import CRITERIA

LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 4, 2, 2, 1, 3])
BACKENDS = ("eager", "reference", "auto")


def made(name: str, **options: Any) -> Any:
    if name in ("forward", "backward"):
        options["transition"] = torch.full((5, 5), 0.1) + 0.5 * torch.eye(5)
    if name in ("elr", "aldr_kl"):
        options["num_samples"] = 20
    return make_loss(name, 5, **options)


def extras(name: str, rows: int | None) -> dict[str, Any]:
    wants = CRITERIA[name].wants
    samples = torch.arange(6)[: rows or 1]
    values = {"samples": samples if rows else samples[0], "epoch": 1.0}
    return {key: values[key] for key in wants}


# --- What it says of itself ---


def test_criteria_that_differ_do_not_print_alike() -> None:
    tensor = torch.tensor
    other = torch.full((5, 5), 0.05) + 0.75 * torch.eye(5)
    criteria = [
        made("gce"),
        made("gce", q=0.9),
        made("gce", q=0.9000001),
        made("gce(q=0.3)"),
        made("nce + gce(q=0.3) + gce(q=0.6)"),
        made("gce", weight=[1.0] * 5),
        made("gce", weight=[1.0, 1.0, 1.0, 1.0, 2.0]),
        made("gce", ignore_index=255),
        made("gce", label_smoothing=0.1),
        made("gce", label_smoothing=0.2),
        made("gce", reduction="sum"),
        made("gce", reduction="none"),
        made("gce", backend="reference"),
        made("gce", inplace=True),
        make_loss("gce", 6),
        make_loss("gce", 100, weight=torch.arange(100.0)),
        make_loss("gce", 100, weight=torch.arange(100.0).roll(1, 0).index_fill(0, tensor(50), 3)),
        made("elr"),
        made("elr", lam=2.0),
        made("elr", weight=[2.0] * 5),
        make_loss("elr", 5, num_samples=21),
        made("forward"),
        make_loss("forward", 5, transition=other),
        made("ce_lc", ignore_index=0),
        made("ce_lc", reduction="none"),
    ]
    said = [repr(criterion) for criterion in criteria]
    assert len(set(said)) == len(said)
    assert all("\n" not in line for line in said)


def test_what_is_as_by_default_is_not_printed() -> None:
    assert repr(make_loss("nce", 10)) == "NoisyLabelLoss('nce', num_classes=10)"
    assert repr(make_loss("gce", 10, q=0.9, label_smoothing=0.1, reduction="sum")) == (
        "NoisyLabelLoss('gce', num_classes=10, q=0.9, reduction='sum', label_smoothing=0.1)"
    )
    assert repr(make_loss("ce", 3, weight=[1, 2, 0.5], ignore_index=255)) == (
        "NoisyLabelLoss('ce', num_classes=3, weight=[1.0, 2.0, 0.5], ignore_index=255)"
    )
    assert "alpha=1, beta=1, A=-9.210340371976182" in repr(make_loss("nce_rce", 10))


# --- How it is called ---


@pytest.mark.parametrize("name", ["nce_rce", *CRITERIA])
def test_by_the_names_of_cross_entropy(name: str) -> None:
    logits = torch.stack([LOGITS, LOGITS + 1]) if name == "gjs" else LOGITS
    more = extras(name, 6) if name in CRITERIA else {}
    expected = made(name)(logits, TARGETS, **more)
    assert torch.equal(made(name)(input=logits, target=TARGETS, **more), expected)
    assert torch.equal(made(name)(logits, target=TARGETS, **more), expected)
    assert torch.equal(made(name)(logits=logits, targets=TARGETS, **more), expected)
    for given in ({}, {"input": logits}, {"target": TARGETS}):
        with pytest.raises(TypeError, match=r"once: criterion\(logits, targets\), or by the names"):
            made(name)(**given, **more)
    with pytest.raises(TypeError, match="give logits once"):
        made(name)(logits, TARGETS, input=logits, **more)
    with pytest.raises(TypeError, match="targets must be a tensor, got list"):
        made(name)(logits, [0, 1], **more)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["ce", "nce_rce", *CRITERIA])
def test_one_row_of_logits_and_a_number(name: str, reduction: str) -> None:
    logits = torch.stack([LOGITS, LOGITS + 1]) if name == "gjs" else LOGITS
    rows = logits[..., :1, :]
    one, many = {}, {}
    if name in CRITERIA:
        one, many = extras(name, None), extras(name, 1)
    found = made(name, reduction=reduction)(rows.squeeze(-2), TARGETS[0], **one)
    assert found.shape == ()
    expected = made(name, reduction=reduction)(rows, TARGETS[:1], **many)
    torch.testing.assert_close(found, expected.reshape(()))
    if name == "ce":
        torch.testing.assert_close(found, F.cross_entropy(rows[0], TARGETS[0], reduction=reduction))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_row_soft_weighted_ignored_and_differentiated(backend: str) -> None:
    q = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0])
    for target, options in (
        (q, {}),
        (torch.tensor(3), {"weight": [1.0, 2, 3, 4, 5], "label_smoothing": 0.1}),
        (torch.tensor(255), {"ignore_index": 255, "reduction": "sum"}),
    ):
        leaf = LOGITS[0].clone().requires_grad_()
        make_loss("ce", 5, backend=backend, **options)(leaf, target).backward()
        theirs = LOGITS[0].clone().requires_grad_()
        if "weight" in options:
            options = {**options, "weight": torch.tensor(options["weight"])}
        F.cross_entropy(theirs, target, **options).backward()
        torch.testing.assert_close(leaf.grad, theirs.grad)
    with pytest.raises(IndexError, match="target 5 is out of bounds"):
        make_loss("nce", 5, backend=backend)(LOGITS[0], torch.tensor(5))
    with pytest.raises(ValueError, match=r"logits must be \[N, 5\], \[N, 5, d1, ...\] or \[5\]"):
        make_loss("nce", 5)(LOGITS[0, :4], torch.tensor(1))
    with pytest.raises(ValueError, match="targets must be class indices"):
        make_loss("nce", 5)(LOGITS[0], TARGETS)


def test_the_last_layer_takes_one_row_too() -> None:
    layer = torch.randn(5, 4)
    hidden = torch.randn(4)
    found = linear_loss(hidden, layer, torch.tensor(2), "nce_rce")
    torch.testing.assert_close(found, make_loss("nce_rce", 5)(layer @ hidden, torch.tensor(2)))


# --- What it is built with ---


@pytest.mark.parametrize("weight", [[1.0] * 10, (1,) * 10, np.ones(10), [1] * 10])
@pytest.mark.parametrize("name", ["nce_rce", "elr"])
def test_class_weights_may_be_a_list(name: str, weight: Any) -> None:
    more = {"num_samples": 4} if name == "elr" else {}
    criterion = make_loss(name, 10, weight=weight, **more)
    assert torch.equal(criterion.weight, torch.ones(10))
    assert criterion.weight.dtype == torch.get_default_dtype()
    if name == "nce_rce":
        hidden, layer, targets = torch.randn(3, 4), torch.randn(10, 4), torch.tensor([1, 2, 9])
        torch.testing.assert_close(
            linear_loss(hidden, layer, targets, name, class_weight=weight),
            criterion(hidden @ layer.T, targets),
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ignore_index": None}, "ignore_index must be an integer, got None; left out it is -100"),
        ({"ignore_index": 255.0}, "ignore_index must be an integer, got 255.0"),
        ({"ignore_index": True}, "ignore_index must be an integer, got True"),
        ({"ignore_index": "-100"}, "ignore_index must be an integer, got '-100'"),
        ({"weight": [1.0] * 4}, "weight must have shape [5], got [4]"),
        ({"weight": [[1.0] * 5]}, "weight must have shape [5], got [1, 5]"),
        ({"weight": 1.0}, "weight must have shape [5], got []"),
        ({"weight": ["a"] * 5}, "weight must be a number for each class, got ['a'"),
        ({"weight": {0: 1.0}}, "weight must be a number for each class, got {0: 1.0}"),
        ({"weight": "balanced"}, "weight must be a number for each class, got 'balanced'"),
        ({"weight": [True] * 5}, "weight must be a number for each class, got torch.bool"),
    ],
)
@pytest.mark.parametrize("name", ["nce_rce", "elr"])
def test_what_does_not_fit_is_said_when_it_is_built(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        made(name, **options)
    if name == "nce_rce":
        mine = {("class_" * (key == "weight")) + key: value for key, value in options.items()}
        with pytest.raises(ValueError, match=r"weight must be|ignore_index must be"):
            linear_loss(LOGITS, torch.randn(5, 5), TARGETS, name, **mine)
        with pytest.raises(ValueError, match=r"weight must|ignore_index must"):
            dispatch.loss(LOGITS, TARGETS, loss_terms(name, 5), LossOptions(**options))


# --- Soft targets ---


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_ignore_index_beside_soft_targets_is_refused_as_torch_does(backend: str) -> None:
    q = LOGITS.softmax(1)
    with pytest.raises(RuntimeError):
        F.cross_entropy(LOGITS, q, ignore_index=2)
    with pytest.raises(
        ValueError, match="ignore_index=2 is for class indices, and the targets are"
    ):
        make_loss("nce_rce", 5, ignore_index=2, backend=backend)(LOGITS, q)
    make_loss("nce_rce", 5, ignore_index=-1, backend=backend)(LOGITS, q)  # as torch does


@pytest.mark.parametrize("backend", BACKENDS)
def test_soft_targets_that_are_no_distributions_are_refused(backend: str) -> None:
    criterion = make_loss("nce_rce", 5, backend=backend)
    several = torch.tensor([[1.0, 1, 0, 0, 0], [0.5, 0.5, 0, 0, 0]])
    said = r"soft targets must sum to 1 over the classes, got 2 \(1 of 2 rows\); several labels"
    with pytest.raises(ValueError, match=said):
        criterion(LOGITS[:2], several)
    for bad in (torch.zeros(5), torch.full((5,), 0.21), torch.tensor([torch.nan, 1, 0, 0, 0])):
        with pytest.raises(ValueError, match="must sum to 1 over the classes, got"):
            criterion(LOGITS[0], bad)
    pixels = torch.full((2, 5, 3), 0.2)
    criterion(torch.randn(2, 5, 3), pixels)
    pixels[1, 2, 2] = 1.0
    with pytest.raises(ValueError, match=r"got 1.8 \(1 of 6 rows\)"):
        criterion(torch.randn(2, 5, 3), pixels)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_rounding_leaves_of_a_distribution_is_one(dtype: torch.dtype) -> None:
    for classes in (2, 1000):
        logits = 3 * torch.randn(50, classes, generator=torch.Generator().manual_seed(1))
        mixed = 0.7 * logits.softmax(1) + 0.3 * F.one_hot(logits.argmax(1), classes)
        make_loss("ce", classes)(logits, mixed.to(dtype))
