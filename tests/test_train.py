"""Training learns, repeats itself exactly, records the truth, and says when it learns nothing."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from apl.checkpoint import load_tensors
from apl.config import PRESETS, PUBLISHED_WEIGHTS, Config, make_config
from apl.data.sources import SOURCES, load_dataset
from apl.errors import BadInput
from apl.losses import LOSSES, make_loss
from apl.networks import make_network
from apl.noise import NoisyLabels
from apl.runs import read_noise
from apl.scores import Scores, budget_verdict, evaluate_run, memorised_and_recovered, score
from apl.train import _batch_bounds, prepare, train


def small(**given: Any) -> Config:
    return make_config(**{"train_size": 300, "epochs": 4, "threads": 1, **given})


def files(run: Path) -> dict[str, bytes]:
    names = ("history.csv", "result.json", "model.safetensors", "noise.npz")
    return {name: (run / name).read_bytes() for name in names}


def test_it_learns_digits_in_seconds() -> None:
    result = train(make_config(loss="nce_rce", rate=0.4, epochs=10, threads=1))
    assert result["test_accuracy"] > 0.85
    assert not result["collapsed"]


def test_two_runs_with_one_seed_are_identical_and_other_seeds_are_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(small(), tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    train(small(seed=1), tmp_path / "c")
    assert files(tmp_path / "a")["model.safetensors"] != files(tmp_path / "c")["model.safetensors"]


def test_global_random_state_neither_matters_nor_changes() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = train(small())
    assert (torch.random.get_rng_state() == before).all()
    torch.manual_seed(2)
    assert train(small()) == first


def test_history_has_a_row_an_epoch_and_matches_its_definition(tmp_path: Path) -> None:
    result = train(small(rate=0.5), tmp_path)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    expected = [0.05 * 0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(4)]
    assert history["lr"].tolist() == pytest.approx(expected)
    shares = history[["train_accuracy", "memorised", "recovered", "test_accuracy"]]
    assert shares.apply(lambda s: s.between(0, 1)).all().all()
    assert history["test_accuracy"].iloc[-1] == result["test_accuracy"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert Config(**config["config"]) == small(rate=0.5)
    assert {"torch", "numpy", "device", "threads", "git_commit"} <= set(config["environment"])


def test_first_epoch_by_hand() -> None:
    """One epoch in one batch: the recorded loss and accuracy are those of the initial network."""
    rows: list[dict[str, float]] = []
    config = small(batch_size=300, epochs=1, lr=0.0)
    train(config, on_epoch=rows.append, say=lambda text: None)
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append((logits.detach(), targets))
        return make_loss("nce_rce", 10)(logits, targets)

    train(config, criterion=spy, say=lambda text: None)
    logits, targets = seen[0]
    assert rows[0]["train_loss"] == pytest.approx(float(make_loss("nce_rce", 10)(logits, targets)))
    assert rows[0]["train_accuracy"] == pytest.approx(
        float((logits.argmax(1) == targets).double().mean())
    )


def test_eval_every_leaves_gaps_but_never_the_last_epoch(tmp_path: Path) -> None:
    train(small(eval_every=3), tmp_path)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["test_accuracy"].isna().tolist() == [True, True, False, False]


def test_augmentation_and_a_last_batch_of_one(tmp_path: Path) -> None:
    result = train(small(augment=True, train_size=129, batch_size=64, epochs=2), tmp_path)
    assert 0 <= result["test_accuracy"] <= 1
    assert _batch_bounds(129, 64) == [(0, 64), (64, 129)]
    assert _batch_bounds(128, 64) == [(0, 64), (64, 128)]
    assert _batch_bounds(130, 64) == [(0, 64), (64, 128), (128, 130)]
    assert _batch_bounds(5, 64) == [(0, 5)]


def test_subset_and_noise_are_what_the_config_says() -> None:
    data, labels = prepare(small(rate=0.4, method="exact", train_size=200))
    assert len(data.train_images) == len(labels.clean) == 200
    assert np.bincount(labels.clean).tolist() == [20] * 10
    assert labels.mask.sum() == 80
    whole, none = prepare(make_config(noise="none"))
    assert len(whole.train_labels) == 1347
    assert not none.mask.any()


# The report's outcome, in each way it can come about, can't go unnoticed.


def numpy_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The report's mistake: numpy cuts the graph, and requires_grad_ hides that it did."""
    z = logits.detach().numpy()
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    value = -np.log(p[np.arange(len(z)), targets.numpy()]).mean()
    return torch.tensor(value, requires_grad=True)


def half_detached(logits: Tensor, targets: Tensor) -> Tensor:
    return make_loss("ce", 10)(logits.detach() + 0 * logits, targets)


@pytest.mark.parametrize(
    "criterion",
    [
        numpy_loss,
        lambda logits, targets: numpy_loss(logits, targets).item(),
        lambda logits, targets: make_loss("ce", 10)(logits.detach(), targets),
        half_detached,
    ],
    ids=["numpy", "number", "detached", "times zero"],
)
def test_a_loss_without_gradient_is_told_on_the_spot(criterion: Any, tmp_path: Path) -> None:
    said: list[str] = []
    rows: list[dict[str, float]] = []
    result = train(
        small(epochs=50), tmp_path, criterion=criterion, say=said.append, on_epoch=rows.append
    )
    assert result["collapsed"]
    assert result["reason"] == "no-gradient"
    assert rows == []  # it did not go on for 50 epochs
    assert any("numpy" in text for text in said)


def test_a_loss_that_is_not_finite_is_told_on_the_spot() -> None:
    said: list[str] = []
    result = train(
        small(),
        criterion=lambda z, y: make_loss("ce", 10)(z, y) * math.nan,
        say=said.append,
    )
    assert (result["collapsed"], result["reason"]) == (True, "diverged")
    assert "not finite" in said[0]


def test_a_huge_learning_rate_diverges_and_says_so() -> None:
    said: list[str] = []
    result = train(small(lr=1e30, clip=0.0, loss="ce"), say=said.append)
    assert result["collapsed"]
    assert said


def test_predictions_in_one_class_are_told_in_the_epoch_and_in_the_result() -> None:
    said: list[str] = []

    def always_five(logits: Tensor, targets: Tensor) -> Tensor:
        return make_loss("ce", 10)(logits, torch.full_like(targets, 5))

    result = train(small(), criterion=always_five, say=said.append)
    assert (result["collapsed"], result["reason"]) == (True, "one-class")
    assert result["per_class_accuracy"][5] == 1.0
    assert "epoch" in said[0]
    assert "'5'" in said[0]


def test_learning_nothing_at_lr_0_is_told() -> None:
    result = train(small(lr=0.0), say=lambda text: None)
    assert result["collapsed"]
    assert result["reason"] in ("one-class", "chance")


def test_too_short_a_budget_is_told() -> None:
    short = train(make_config(loss="ce", rate=0.4, epochs=1, threads=1), say=lambda text: None)
    assert short["too_short"]
    long = train(make_config(loss="ce", rate=0.4, epochs=40, threads=1))
    assert not long["too_short"]
    assert long["memorised"] > 0.6
    ce, robust = make_config(loss="ce"), make_config(loss="nce_rce")
    assert "too short to tell" in (budget_verdict(ce, 0.04) or "")
    assert "only a ce run" in (budget_verdict(robust, 0.04) or "")
    assert budget_verdict(ce, 0.5) is None
    assert budget_verdict(ce, math.nan) is None


def test_scores() -> None:
    scores = score(torch.tensor([0, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 2]), 4)
    assert scores.accuracy == 0.8
    assert scores.per_class[:3] == pytest.approx([1.0, 1.0, 2 / 3])
    assert math.isnan(scores.per_class[3])
    assert scores.collapsed_into is None
    assert scores.never_predicted == []
    assert Scores(np.array([[5, 5, 0], [3, 7, 0], [5, 5, 0]])).never_predicted == [2]
    assert Scores(np.array([[1, 9], [0, 10]])).collapsed_into == 1
    assert Scores(np.array([[0, 0], [0, 10]])).collapsed_into is None  # only that class is there
    labels = NoisyLabels(np.array([0, 1, 2]), np.array([1, 2, 2]), np.eye(3))
    assert memorised_and_recovered(torch.tensor([1, 1, 0]), labels) == (0.5, 0.5)


def test_evaluate_scores_what_was_trained(tmp_path: Path) -> None:
    result = train(small(rate=0.3), tmp_path)
    clean, _, again = evaluate_run(tmp_path)
    assert clean.accuracy == result["test_accuracy"]
    assert again == json.loads((tmp_path / "result.json").read_text())
    noisy, _, _ = evaluate_run(tmp_path, "noisy")
    assert noisy.accuracy < clean.accuracy  # a third of the labels are wrong
    assert noisy.confusion.sum() == clean.confusion.sum() == 450
    assert read_noise(tmp_path / "noise.npz").mask.sum() == result["corrupted"]
    tensors, state = load_tensors(tmp_path / "model.safetensors")
    assert state["config"]["loss"] == "nce_rce"
    assert sum(t.numel() for t in tensors.values()) > 1000


# Config and presets.


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10", "cifar100"])
def test_every_preset_makes_a_config_for_every_data_set(preset: str, dataset: str) -> None:
    for loss in PRESETS[preset].losses:
        config = make_config(preset, dataset=dataset, loss=loss)
        assert config.variant == ""
    source = SOURCES[dataset]
    shape = (source.size, source.size, len(source.mean))
    make_network(config.network, shape, source.num_classes, config.width)
    assert config.train_size <= (1347 if dataset == "digits" else 50_000)
    assert make_config(preset).dataset == PRESETS[preset].dataset


def test_presets_are_the_protocols() -> None:
    paper = make_config("paper", noise="asym", rate=0.4)
    assert (paper.network, paper.width, paper.epochs, paper.batch_size) == ("cnn8", 64, 120, 128)
    assert (paper.lr, paper.momentum, paper.weight_decay, paper.clip) == (0.01, 0.9, 1e-4, 5.0)
    assert (paper.augment, paper.method, paper.map) == (True, "exact-per-class", "paper")
    mnist = make_config("paper", dataset="mnist")
    assert (mnist.network, mnist.epochs, mnist.weight_decay) == ("cnn4", 50, 1e-3)
    hundred = make_config("paper", dataset="cifar100")
    assert (hundred.network, hundred.epochs, hundred.lr) == ("resnet34", 200, 0.1)
    assert (hundred.alpha, hundred.beta) == (10.0, 0.1)
    report = make_config("report", noise="asym")
    assert (report.epochs, report.batch_size, report.lr) == (15, 4, 1e-4)
    assert (report.map, report.dataset) == ("report", "cifar10")
    assert PRESETS["report"].rates["asym"] == (0.1, 0.2, 0.23, 0.33)
    assert make_config("paper", loss="nce_mae").beta == 0.5  # the code's MAE is half of ours
    for given in ("NCE_MAE", " nce_mae", "NCE+MAE"):  # one loss, however it is written
        assert make_config("paper", loss=given) == make_config("paper", loss="nce_mae")
    for weights in PUBLISHED_WEIGHTS.values():
        assert set(weights) <= set(LOSSES)


def test_names_say_what_differs_and_stay_inside_the_folder() -> None:
    assert make_config().name == "nce_rce_sym-0.4_seed0"
    assert make_config(noise="none", rate=0.3).name == "nce_rce_clean_seed0"
    assert make_config(lr=0.5, seed=3).name == "nce_rce_sym-0.4_seed3_lr=0.5"
    assert make_config(threads=2, device="cpu").name == make_config().name
    for loss in ("2*nce + 0.5*mae", "+".join(["0.123456*nce"] * 30)):
        name = make_config(loss=loss).name
        assert "/" not in name
        assert len(name) <= 150
    escape = make_config(noise="matrix", map="../../etc/passwd").name
    assert "/" not in escape
    assert not escape.startswith(".")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "fast"}, "preset is 'fast'; accepted: quick"),
        ({"dataset": "svhn"}, "dataset is 'svhn'; accepted: digits"),
        ({"network": "vgg"}, "network is 'vgg'; accepted: cnn8"),
        ({"noise": "salt"}, "noise is 'salt'; accepted: none"),
        ({"rate": 1.5}, "between 0 and 1, got 1.5"),
        ({"epochs": 0}, "epochs is 0; accepted"),
        ({"batch_size": 1}, "batch_size is 1; accepted"),
        ({"lr": math.nan}, "lr is nan; accepted"),
        ({"momentum": 1.0}, "momentum is 1.0; accepted"),
        ({"seed": -1}, "seed is -1; accepted"),
        ({"device": "tpu"}, "device is 'tpu'; accepted"),
        ({"loss": "cee"}, "did you mean 'ce'"),
        ({"gamma": 2.0}, "takes no parameter 'gamma'"),
        ({"noise": "human"}, "accepted: cifar10 with human noise"),
        (
            {"noise": "human", "dataset": "cifar10", "map": "paper"},
            "map is 'paper'; accepted: aggre",
        ),
        ({"noise": "matrix"}, "needs --map FILE"),
    ],
)
def test_bad_configs_are_one_clear_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        make_config(**given)
    assert "\n" not in str(caught.value)


def test_bad_settings_that_only_the_data_can_tell(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="train_size is 5000"):
        train(make_config(train_size=5000))
    with pytest.raises(BadInput, match="at least 2 images"):
        train(make_config(train_size=1))
    with pytest.raises(BadInput, match="there is no device 'cuda:7'"):
        train(small(device="cuda:7"))


def test_a_few_steps_on_real_cifar10(cifar10: str) -> None:
    small = {"train_size": 2000, "epochs": 3, "width": 8, "augment": True, "threads": 1}
    rows: list[dict[str, float]] = []
    config = make_config("laptop", loss="nce_rce", rate=0.2, **small)
    result = train(config, on_epoch=rows.append, download=False)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert result["test_accuracy"] > 0.15
    assert sum(map(sum, result["confusion"])) == len(load_dataset(cifar10).test_labels)


@pytest.mark.parametrize("loss", ["ce", "nce_rce", "nfl_mae"])
def test_the_fused_loss_trains_like_the_reference(loss: str) -> None:
    """100 steps (5 epochs of 20 batches): the same curve up to float rounding, and the same end."""
    config = make_config(loss=loss, epochs=5, train_size=1280, threads=1)
    curves, results = {}, {}
    for backend in ("auto", "reference"):
        curve: list[float] = []
        criterion = make_loss(loss, 10, backend=backend)  # type: ignore[arg-type]

        def recording(
            z: Tensor, y: Tensor, criterion: Any = criterion, curve: list[float] = curve
        ) -> Tensor:
            value: Tensor = criterion(z, y)
            curve.append(value.item())
            return value

        results[backend] = train(config, criterion=recording)
        curves[backend] = curve
    assert len(curves["auto"]) == 100
    assert curves["auto"] == pytest.approx(curves["reference"], rel=2e-3)
    ends = [result["test_accuracy"] for result in results.values()]
    assert ends[0] == pytest.approx(ends[1], abs=0.02)


def test_a_network_of_ones_own_is_trained_in_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = make_network("mlp", (8, 8, 1), 10, 16)
    before = [p.clone() for p in network.parameters()]
    result = train(small(epochs=8), network=network, say=lambda text: None)
    assert result["test_accuracy"] > 0.5
    after = list(network.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with pytest.raises(ValueError, match="leave out run"):
        train(small(), tmp_path / "run", network=network)
    assert not (tmp_path / "run").exists()
