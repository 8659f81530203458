"""Training learns, repeats itself exactly, records the truth, and says when it learns nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from apl.config.config import Config, make_config
from apl.config.presets import PRESETS
from apl.data.dataset import Dataset, Split
from apl.data.sources import load_data
from apl.detect.monitor import LabelMonitor
from apl.errors import BadInput, Interrupted
from apl.files import load_tensors
from apl.kernels.bases import LOG_ZERO
from apl.losses.modules import make_loss
from apl.names import DATASETS, NOISES
from apl.noise.files import read_noise
from apl.noise.labels import UNKNOWN, Labels
from apl.runs.record import read_record, write_study
from apl.runs.run import Run
from apl.runs.scores import (
    Result,
    Scores,
    budget_verdict,
    memorised_and_recovered,
    score,
    too_short,
)
from apl.training.batches import batch_bounds
from apl.training.evaluate import Evaluator, evaluate_run
from apl.training.fit import Counts
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.networks import make_network
from apl.training.prepare import hold_out, prepare
from apl.training.train import train


def small(**given: Any) -> Config:
    return make_config(**{"train_size": 300, "epochs": 4, **given})


def files(run: Path) -> dict[str, bytes]:
    names = ("history.csv", "result.json", "model.safetensors", "noise.npz")
    return {name: (run / name).read_bytes() for name in names}


@pytest.mark.slow
def test_it_learns_digits_in_seconds() -> None:
    result = train(make_config(loss="nce_rce", rate=0.4, epochs=10))
    assert result.test_accuracy > 0.85
    assert not result.collapsed


@pytest.mark.slow
def test_two_runs_with_one_seed_are_identical_and_other_seeds_are_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(small(), tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    train(small(seed=1), tmp_path / "c")
    assert files(tmp_path / "a")["model.safetensors"] != files(tmp_path / "c")["model.safetensors"]


@pytest.mark.slow
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
    assert history["test_accuracy"].iloc[-1] == result.test_accuracy
    config = json.loads((tmp_path / "config.json").read_text())
    assert Config(**config["config"]) == Config.read(config["config"]) == small(rate=0.5)
    assert {"torch", "numpy", "device", "threads", "git_commit"} <= set(config["environment"])


def test_first_epoch_by_hand() -> None:
    """One epoch in one batch: the recorded loss and accuracy are those of the initial network."""
    rows: list[dict[str, float]] = []
    config = small(batch_size=300, epochs=1, lr=0.0)
    train(config, listener=Listener(on_epoch=rows.append, on_message=ignore))
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(logits: Tensor, targets: Tensor) -> Tensor:
        seen.append((logits.detach(), targets))
        return make_loss("nce_rce", 10)(logits, targets)

    train(config, criterion=spy, listener=Listener(on_message=ignore))
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
    assert 0 <= result.test_accuracy <= 1
    assert batch_bounds(129, 64) == [(0, 64), (64, 129)]
    assert batch_bounds(128, 64) == [(0, 64), (64, 128)]
    assert batch_bounds(130, 64) == [(0, 64), (64, 128), (128, 130)]
    assert batch_bounds(5, 64) == [(0, 5)]


def test_subset_and_noise_are_what_the_config_says() -> None:
    train = prepare(small(rate=0.4, method="exact", train_size=200)).train
    assert len(train.images) == len(train.labels.true) == len(train) == 200
    assert np.bincount(train.labels.true).tolist() == [20] * 10
    assert train.labels.wrong.sum() == 80
    whole = prepare(make_config(noise="none")).train
    assert len(whole.labels.true) == 1347
    assert not whole.labels.wrong.any()


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
        small(epochs=50),
        tmp_path,
        criterion=criterion,
        listener=Listener(on_message=said.append, on_epoch=rows.append),
    )
    assert result.collapsed
    assert result.reason == "no-gradient"
    assert rows == []  # it did not go on for 50 epochs
    assert any("numpy" in text for text in said)


def test_a_loss_that_is_not_finite_is_told_on_the_spot() -> None:
    said: list[str] = []
    result = train(
        small(),
        criterion=lambda z, y: make_loss("ce", 10)(z, y) * math.nan,
        listener=Listener(on_message=said.append),
    )
    assert (result.collapsed, result.reason) == (True, "diverged")
    assert "not finite" in said[0]


def test_a_huge_learning_rate_diverges_and_says_so() -> None:
    said: list[str] = []
    result = train(small(lr=1e30, clip=0.0, loss="ce"), listener=Listener(on_message=said.append))
    assert result.collapsed
    assert said


def test_predictions_in_one_class_are_told_in_the_epoch_and_in_the_result() -> None:
    said: list[str] = []

    def always_five(logits: Tensor, targets: Tensor) -> Tensor:
        return make_loss("ce", 10)(logits, torch.full_like(targets, 5))

    result = train(small(), criterion=always_five, listener=Listener(on_message=said.append))
    assert (result.collapsed, result.reason) == (True, "one-class")
    assert result.per_class_accuracy[5] == 1.0
    assert "epoch" in said[0]
    assert "'5'" in said[0]


def test_learning_nothing_at_lr_0_is_told() -> None:
    result = train(small(lr=0.0), listener=Listener(on_message=ignore))
    assert result.collapsed
    assert result.reason in ("one-class", "chance")


def test_a_head_on_frozen_features_is_not_called_too_short() -> None:
    head = make_config(dataset="cifar10", features="lite0", loss="ce")
    said = budget_verdict(head, 0.04) or ""
    assert said.startswith("hardly any wrong label was memorised (4.0%): a small network on frozen")


@pytest.mark.slow
def test_too_short_a_budget_is_told() -> None:
    short = train(make_config(loss="ce", rate=0.4, epochs=1), listener=Listener(on_message=ignore))
    assert short.too_short
    long = train(make_config(loss="ce", rate=0.4, epochs=40))
    assert not long.too_short
    assert long.memorised > 0.6
    ce, robust = make_config(loss="ce"), make_config(loss="nce_rce")
    assert "too short to tell" in (budget_verdict(ce, 0.04) or "")
    assert "only a ce run" in (budget_verdict(robust, 0.04) or "")
    assert budget_verdict(ce, 0.5) is None
    assert budget_verdict(ce, math.nan) is None


def test_scores() -> None:
    scores = score(np.array([0, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 2]), 4)
    assert scores.accuracy == 0.8
    assert scores.per_class[:3] == pytest.approx([1.0, 1.0, 2 / 3])
    assert math.isnan(scores.per_class[3])
    assert scores.collapsed_into is None
    assert scores.never_predicted == []
    assert Scores.of(np.array([[5, 5, 0], [3, 7, 0], [5, 5, 0]])).never_predicted == [2]
    assert Scores.of(np.array([[99, 1], [100, 0]])).never_predicted == [1]  # once in 100 is no word
    assert Scores.of(np.array([[99, 1], [99, 1]])).never_predicted == []
    assert Scores.of(np.array([[9, 0], [0, 0]])).never_predicted == []  # no sample has that label
    assert Scores.of(np.array([[1, 9], [0, 10]])).collapsed_into == 1
    assert Scores.of(np.array([[0, 0], [0, 10]])).collapsed_into is None  # only that class is there
    assert not Scores.of(np.array([[4, 0], [0, 4]])).at_chance  # all of so few, which may be luck
    assert Scores.of(np.array([[3, 1], [1, 3]])).at_chance
    assert Scores.of(np.array([[300, 200], [255, 245]])).at_chance  # 3 standard errors: 547.4
    assert not Scores.of(np.array([[300, 200], [252, 248]])).at_chance
    labels = Labels(given=np.array([1, 2, 2]), true=np.array([0, 1, 2]), transition=np.eye(3))
    assert memorised_and_recovered(np.array([1, 1, 0]), labels) == (0.5, 0.5)


def test_evaluate_scores_what_was_trained(tmp_path: Path) -> None:
    result = train(small(rate=0.3), tmp_path)
    clean, _, again = evaluate_run(tmp_path)
    assert clean.accuracy == result.test_accuracy
    assert again == result
    written = json.loads((tmp_path / "result.json").read_text())
    assert {"format": written["format"], **again.to_json()} == written
    noisy, _, _ = evaluate_run(tmp_path, "noisy")
    assert noisy.accuracy < clean.accuracy  # a third of the labels are wrong
    assert noisy.confusion.sum() == clean.confusion.sum() == 450
    assert read_noise(tmp_path / "noise.npz").wrong.sum() == result.corrupted
    tensors, state = load_tensors(tmp_path / "model.safetensors")
    assert state["config"]["loss"] == "nce_rce"
    assert sum(t.numel() for t in tensors.values()) > 1000


# Config and presets.


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dataset", ["digits", "mnist", "cifar10", "cifar100"])
def test_every_preset_makes_a_config_for_every_data_set(preset: str, dataset: str) -> None:
    for loss in PRESETS[preset].losses:
        config = make_config(preset, dataset=dataset, loss=loss)
        assert config.variant == ""
    source = DATASETS[dataset]
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
    assert hundred.params == {"alpha": 10.0, "beta": 0.1, "A": LOG_ZERO}
    report = make_config("report", noise="asym")
    assert (report.epochs, report.batch_size, report.lr) == (15, 4, 1e-4)
    assert (report.map, report.dataset) == ("report", "cifar10")
    assert PRESETS["report"].rates["asym"] == (0.1, 0.2, 0.23, 0.33)
    # The code's MAE is half of ours.
    assert make_config("paper", loss="nce_mae").params["beta"] == 0.5
    for given in ("NCE_MAE", " nce_mae", "NCE+MAE"):  # one loss, however it is written
        assert make_config("paper", loss=given) == make_config("paper", loss="nce_mae")


def test_names_say_what_differs_and_stay_inside_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_config().name == "nce_rce_sym-0.4_seed0"
    assert make_config(noise="none", rate=0.3).name == "nce_rce_clean_seed0"
    assert make_config(lr=0.5, seed=3).name == "nce_rce_sym-0.4_seed3_lr=0.5"
    for loss in ("2*nce + 0.5*mae", "+".join(["0.123456*nce"] * 30)):
        name = make_config(loss=loss).name
        assert "/" not in name
        assert len(name) <= 150
    for folder in ("etc", "a/b"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc" / "passwd").touch()
    monkeypatch.chdir(tmp_path / "a" / "b")
    escape = make_config(noise="matrix", map="../../etc/passwd").name
    assert "/" not in escape
    assert not escape.startswith(".")


FORMAT_1: dict[str, Any] = {
    "preset": "quick",
    "dataset": "digits",
    "loss": "nce_rce",
    **dict.fromkeys(["alpha", "beta", "gamma", "q", "A"]),
    "noise": "sym",
    "rate": 0.4,
    "map": "",
    "method": "transition",
    "seed": 0,
    "network": "cnn4",
    "width": 32,
    "train_size": 0,
    "epochs": 20,
    "batch_size": 64,
    "lr": 0.05,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "clip": 5.0,
    "augment": False,
    "eval_every": 1,
    "threads": 1,
    "device": "cuda:1",
    "checkpoint_minutes": 10.0,
}
"""What config.json held of a run of the first apl: no warmup, precision or compile yet."""


@pytest.mark.parametrize(
    ("changed", "given"),
    [
        ({}, {}),
        ({"alpha": 2.0, "beta": 0.5}, {"alpha": 2.0, "beta": 0.5}),
        ({"loss": "fl", "gamma": 2.0}, {"loss": "fl", "gamma": 2.0}),
        ({"warmup": 1.0, "precision": "bf16"}, {"warmup": 1.0, "precision": "bf16"}),
        ({"compile": True, "threads": 0, "device": "auto"}, {}),
        ({"noise": "none"}, {"noise": "none"}),  # it carried the preset's rate
        (
            {
                "dataset": "cifar10",
                "width": 16,
                "network": "cnn8",
                "noise": "human",
                "map": "aggre",
            },
            {"dataset": "cifar10", "noise": "human", "map": "aggre"},
        ),
    ],
)
def test_configs_of_the_first_format_are_read(
    changed: dict[str, Any], given: dict[str, Any]
) -> None:
    old = Config.read({**FORMAT_1, **changed})
    assert old == make_config(**given)
    assert old.name == make_config(**given).name
    assert Config.read(dataclasses.asdict(old)) == old


def test_what_is_no_config_is_not_read_as_one() -> None:
    now = dataclasses.asdict(make_config())
    for fields in (
        {**FORMAT_1, "flavour": "sweet"},  # of a newer apl, perhaps
        {**now, "flavour": "sweet"},
        {**now, "threads": 1},  # the machine's, and none of a config since format 2
        {**now, "alpha": 1.0},
        {**now, "noise": "salt"},
        {name: value for name, value in now.items() if name != "noise"},
    ):
        with pytest.raises(KeyError):
            Config.read(fields)
    with pytest.raises(TypeError):
        Config.read({name: value for name, value in now.items() if name != "lr"})
    with pytest.raises(BadInput, match="lr is -1"):
        Config.read({**FORMAT_1, "lr": -1})
    with pytest.raises(BadInput, match="takes no parameter 'gamma'"):
        Config.read({**FORMAT_1, "gamma": 1.0})


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("given", "overrides"),
    [
        ({}, {}),
        ({"noise": "asym", "rate": 0.1, "seed": 3}, {}),
        ({"alpha": 7.0, "lr": 0.5}, {"alpha": 7.0, "lr": 0.5}),
        ({"A": -4.0}, {"A": -4.0}),
        ({"network": "mlp", "width": 32}, {"network": "mlp", "width": 32}),
        ({"width": 8, "augment": None}, {"width": 8}),
        ({"epochs": 3, "precision": "bf16"}, {"epochs": 3, "precision": "bf16"}),
    ],
)
def test_overrides_are_what_the_preset_has_not(
    preset: str, given: dict[str, Any], overrides: dict[str, Any]
) -> None:
    config = make_config(preset, loss="nce_rce", **given)
    assert config.overrides == overrides
    assert list(config.overrides) == list(overrides)
    assert config.variant == ",".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in overrides.items()
    )
    cell = {name: getattr(config, name) for name in ("noise", "rate", "map", "seed")}
    assert make_config(preset, loss="nce_rce", **cell, **overrides) == config


@pytest.mark.parametrize("preset", PRESETS)
def test_another_value_of_any_setting_is_another_name(preset: str) -> None:
    others: dict[str, Any] = {
        **{"dataset": "mnist", "loss": "ce", "noise": "none", "rate": 0.15, "seed": 1},
        **{"method": "exact", "network": "mlp", "width": 9, "train_size": 77, "epochs": 2},
        **{"batch_size": 3, "lr": 0.123, "momentum": 0.5, "weight_decay": 0.3, "clip": 1.0},
        **{"augment": True, "eval_every": 4, "warmup": 0.5, "precision": "bf16"},
        **{"weights": "default", "crop_size": 6, "colour": 0.1, "l1": 1e-5, "warm_start": 2.0},
        **{"select": "noisy", "alpha": 3.0, "beta": 3.0, "A": -3.0},
        **{"schedule": "x0.1@40,80", "nesterov": True, "crop": "plain"},
        **{"features": "lite0", "dropout": 0.5, "fresh_data": True, "weight_ema": 0.9},
        **{"components": 60},
    }
    told = {field.name for field in dataclasses.fields(Config)}
    of_own_data = {
        "dataset_sha256",
        "image_size",
        "label_column",
        "test_set",
    }  # tests/data/test_own_data.py
    of_files = {"map", "map_sha256", "labels", "labels_sha256", "code_sha256"}
    of_files |= {"features_sha256"}
    elsewhere = {"preset", "params", "typed", "identity", "tuned"} | of_files | of_own_data
    assert set(others) == told - elsewhere | {"alpha", "beta", "A"}
    config = make_config(preset)
    for name, value in others.items():
        # The data set is told by the study that a run is in; the name holds what differs within.
        if name != "dataset" and getattr(config, name, None) != value:
            needs = {
                "crop": {"crop_size": 6},
                "dropout": {"features": "lite0"},
                "components": {"features": "lite0"},
                "fresh_data": {"train_size": 77},
            }
            also: dict[str, Any] = needs.get(name, {})
            assert make_config(preset, **also, **{name: value}).name != (
                make_config(preset, **also).name
            ), name
    for noise, one, other in (("asym", "paper", "report"), ("human", "aggre", "worse")):
        asked = {"dataset": "cifar10", "noise": noise}
        names = {make_config(preset, **asked, map=map).name for map in (one, other)}
        assert len(names) == 2
    # As wide as the preset's network, which another network is not where no width is given.
    usual, wide = (make_config(preset, network="mlp", width=w) for w in (None, config.width))
    assert (wide == usual) == (wide.name == usual.name)


def test_the_content_of_a_map_is_part_of_a_config(tmp_path: Path) -> None:
    file = tmp_path / "map.yaml"
    asked = {"noise": "asym", "map": str(file), "rate": 0.3, "epochs": 1}
    file.write_text("'1': '7'\n")
    before = small(**asked)
    assert before == small(**asked)
    train(before, tmp_path / "run", listener=Listener(on_message=ignore))
    file.write_text("'1': '8'\n")
    after = small(**asked)
    assert after != before
    assert after.name == before.name  # the name is of the file
    (difference,) = before.differs(after)
    assert difference.startswith("map_sha256 is ")
    with pytest.raises(BadInput, match="map_sha256 is "):
        train(after, tmp_path / "run")
    with pytest.raises(BadInput, match="has changed since"):  # its labels would not be what it says
        train(before)
    file.write_text("'1': '7'\n")
    assert small(**asked) == before
    for name in ("paper", "report"):  # ours have no file
        assert make_config(dataset="cifar10", noise="asym", map=name).map_sha256 == ""
    assert make_config(dataset="cifar10", noise="human").map_sha256 == ""


def test_the_content_of_a_matrix_is_part_of_a_config(tmp_path: Path) -> None:
    file = tmp_path / "matrix.npy"
    np.save(file, np.eye(10))
    before = small(noise="matrix", map=str(file))
    np.save(file, np.roll(np.eye(10), 1, 1) * 0.25 + np.eye(10) * 0.75)
    after = small(noise="matrix", map=str(file))
    assert before != after
    assert prepare(after).train.labels.wrong.any()


def test_noise_without_a_rate_of_its_own_has_rate_0_whatever_is_asked(tmp_path: Path) -> None:
    np.save(tmp_path / "matrix.npy", np.eye(10))
    maps = {name: str(tmp_path / "matrix.npy") for name in NOISES if not NOISES[name].map}
    for name, kind in NOISES.items():
        asked = {"dataset": "cifar10", "noise": name, "map": maps.get(name)}
        rates = [make_config(**asked, rate=rate).rate for rate in (0.3, None)]
        assert rates == ([0.3, 0.4] if kind.rated else [0.0, 0.0])
        configs = {make_config(**asked, rate=rate).name for rate in (0.3, 0.6)}
        assert len(configs) == (2 if kind.rated else 1)


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
        ({"loss": "cee"}, "did you mean 'ce'"),
        ({"gamma": 2.0}, "takes no parameter 'gamma'"),
        ({"noise": "human"}, "accepted: cifar100 or cifar10 with human noise"),
        (
            {"noise": "human", "dataset": "cifar10", "map": "paper"},
            "map is 'paper'; accepted: aggre",
        ),
        ({"noise": "matrix"}, "needs --map FILE"),
        ({"noise": "matrix", "map": "none.npy"}, "no transition matrix at 'none.npy'"),
        ({"noise": "asym", "map": "papper"}, "no noise map 'papper'; accepted: paper, report"),
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
        train(small(), machine=Machine(device="cuda:7"))


# The machine, which is no part of what a run is.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "tpu"}, "device is 'tpu'; accepted"),
        ({"threads": -1}, "threads is -1; accepted"),
        ({"checkpoint_minutes": math.nan}, "checkpoint_minutes is nan; accepted"),
        ({"checkpoint_minutes": math.inf}, "checkpoint_minutes is inf; accepted"),
    ],
)
def test_bad_machines_are_one_clear_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        Machine(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_machine_is_no_part_of_a_run(tmp_path: Path) -> None:
    of_machine = {field.name for field in dataclasses.fields(Machine)}
    assert not of_machine & {field.name for field in dataclasses.fields(Config)}
    first = train(small(), tmp_path, machine=Machine(device="cpu", checkpoint_minutes=0.0))
    # The same run, asked for of another machine: finished.
    assert train(small(), tmp_path, machine=Machine(threads=1, checkpoint_minutes=9.0)) == first
    assert train(small()) == first
    assert Machine().threads_for("digits") == 1  # a second one would only cost
    assert Machine().threads_for("cifar10") == 0
    assert Machine(threads=0).threads_for("digits") == 0


@pytest.mark.slow
def test_a_few_steps_on_real_cifar10(cifar10: str) -> None:
    small = {"train_size": 2000, "epochs": 3, "width": 8, "augment": True, "eval_every": 3}
    rows: list[dict[str, float]] = []
    config = make_config("laptop", loss="nce_rce", rate=0.2, **small)
    machine = Machine(threads=1, download=False)
    result = train(config, machine=machine, listener=Listener(on_epoch=rows.append))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert result.test_accuracy > 0.15
    assert sum(map(sum, result.confusion)) == len(load_data(cifar10).test)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "nce_rce", "nfl_mae"])
def test_the_fused_loss_trains_like_the_reference(loss: str) -> None:
    """100 steps (5 epochs of 20 batches): at each step the value and the gradient of the reference
    at the same logits; then a training by the reference alone, with the same first steps, the same
    course and the same end.  Later steps are not compared one by one: rounding grows, and how much
    depends on the processor."""
    config = make_config(loss=loss, epochs=5, train_size=1280)
    reference, fused = (make_loss(loss, 10, backend=name) for name in ("reference", "auto"))

    def value_and_grad(criterion: nn.Module, logits: Tensor, y: Tensor) -> tuple[float, Tensor]:
        leaf = logits.detach().requires_grad_()
        value = criterion(leaf, y)
        return value.item(), torch.autograd.grad(value, leaf)[0]

    curves: dict[str, list[float]] = {"fused": [], "reference": []}

    def compared(z: Tensor, y: Tensor) -> Tensor:
        expected, slope = value_and_grad(reference, z, y)
        found, grad = value_and_grad(fused, z, y)
        assert found == pytest.approx(expected, rel=2e-6)
        assert (grad - slope).abs().max() < 1e-4 * slope.abs().max()
        curves["fused"].append(found)
        value: Tensor = fused(z, y)
        return value

    def alone(z: Tensor, y: Tensor) -> Tensor:
        value: Tensor = reference(z, y)
        curves["reference"].append(value.item())
        return value

    ends = [train(config, criterion=each).test_accuracy for each in (compared, alone)]
    assert [len(curve) for curve in curves.values()] == [100, 100]
    assert curves["fused"][:10] == pytest.approx(curves["reference"][:10], rel=1e-5)
    by_epoch = [np.reshape(curve, (5, 20)).mean(1) for curve in curves.values()]
    np.testing.assert_allclose(*by_epoch, rtol=0.02)
    assert min(ends) > 0.85
    assert ends[0] == pytest.approx(ends[1], abs=0.04)


def test_a_network_of_ones_own_is_trained_in_place(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = make_network("mlp", (8, 8, 1), 10, 16)
    before = [p.clone() for p in network.parameters()]
    result = train(small(epochs=8), network=network, listener=Listener(on_message=ignore))
    assert result.test_accuracy > 0.5
    after = list(network.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with pytest.raises(ValueError, match="leave out run"):
        train(small(), tmp_path / "run", network=network)
    with pytest.raises(ValueError, match=r"data of your own.*leave out run"):
        train(small(), tmp_path / "run", data=load_data("digits"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_mean_of_the_weights_is_what_is_scored_and_what_remains(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = make_network("mlp", (8, 8, 1), 10, 16)
    mean: dict[str, Tensor] = {}
    steps = 0

    def on_step(*_: Any) -> None:
        nonlocal steps
        steps += 1
        for name, value in network.state_dict().items():
            before = mean.get(name, torch.zeros(()))
            share = max(0.1, 1 / steps)
            mean[name] = (before + share * (value - before)).to(value.dtype)

    config = small(epochs=8, weight_ema=0.9)
    hears = Listener(on_message=ignore, on_step=on_step)
    result = train(config, network=network, listener=hears)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, mean[name], atol=1e-5, rtol=1e-4)
    data = prepare(config)
    assert Evaluator(network, data, config).scores().accuracy == result.test_accuracy > 0.5
    # The training is as it is without; only what is asked and kept is another network.
    rows: dict[float, list[dict[str, float]]] = {0.0: [], 0.9: []}
    for ema, heard in rows.items():
        train(small(weight_ema=ema), listener=Listener(on_message=ignore, on_epoch=heard.append))
    for plain, averaged in zip(*rows.values(), strict=True):
        assert plain["train_loss"] == averaged["train_loss"]
        assert plain["test_accuracy"] != averaged["test_accuracy"]

    network.copy = (_ for _ in ())  # type: ignore[assignment]  # as nothing that can be copied
    with pytest.raises(
        BadInput, match=r"weight_ema is 0.9, and the network can't be copied: .*: 0"
    ):
        train(small(weight_ema=0.9), network=network, listener=Listener(on_message=ignore))


# Data of one's own, of which nobody need know the truth.


def shapes(true_train: bool, true_test: bool) -> Dataset:
    """Three classes of 12 x 12 images that differ in which third is bright, a fifth mislabelled."""
    rng = np.random.default_rng(0)

    def split(count: int, known: bool) -> Split:
        true = np.arange(count) % 3
        images = rng.integers(0, 100, (count, 12, 12, 1)).astype(np.uint8)
        for image, k in zip(images, true, strict=True):
            image[4 * k : 4 * k + 4] += 100
        given = np.where(rng.random(count) < 0.2, (true + 1) % 3, true)
        return Split(torch.from_numpy(images), Labels(given, true if known else true * 0 + UNKNOWN))

    train, test = split(240, true_train), split(90, true_test)
    return Dataset("shapes", ("top", "middle", "bottom"), train, test, (0.3,), (0.2,))


def asked_of_shapes(**given: Any) -> Config:
    return make_config(
        **{"network": "mlp", "width": 32, "epochs": 12, "batch_size": 32, "noise": "none", **given}
    )


@pytest.mark.slow
@pytest.mark.parametrize("train_size", [0, 90])
def test_data_of_unknown_truth_are_trained_on_and_scored_on_the_labels_given(
    train_size: int,
) -> None:
    data = shapes(true_train=False, true_test=False)
    rows: list[dict[str, float]] = []
    result = train(
        asked_of_shapes(train_size=train_size, augment=True),
        data=data,
        listener=Listener(on_epoch=rows.append),
    )
    assert math.isnan(result.memorised)
    assert math.isnan(result.recovered)
    assert (result.on, result.corrupted, result.transition) == ("given", 0, None)
    assert not result.too_short
    assert not result.collapsed
    assert result.class_names == ["top", "middle", "bottom"]
    assert sum(map(sum, result.confusion)) == 90
    given = np.bincount(data.test.labels.given).tolist()
    assert [sum(row) for row in result.confusion] == given  # by the labels given
    assert result.test_accuracy > 0.6  # of 0.8 that a perfect network would have
    assert len(rows) == 12
    for row in rows:
        assert math.isnan(row["memorised"])
        assert math.isnan(row["recovered"])
        assert 0 <= row["train_accuracy"] <= 1
    written = json.loads(json.dumps(result.to_json()).replace("NaN", "null"))
    again = Result.read(written)
    assert math.isnan(again.memorised)
    assert math.isnan(again.recovered)
    assert (again.on, again.transition) == ("given", None)
    assert again.confusion == result.confusion


@pytest.mark.slow
def test_scores_are_of_the_truth_where_it_is_known() -> None:
    data = shapes(true_train=True, true_test=True)
    result = train(asked_of_shapes(loss="ce", epochs=30), data=data)
    assert result.on == "true"
    assert result.test_accuracy > 0.85  # more than the labels given would allow
    assert [sum(row) for row in result.confusion] == [30, 30, 30]
    # The labels are as they are, wrong ones included, since no noise was asked for.
    assert result.corrupted == int(data.train.labels.wrong.sum()) > 0
    assert 0 <= result.memorised <= 1
    assert result.transition is None
    half = dataclasses.replace(data, test=shapes(True, False).test)
    assert (
        train(asked_of_shapes(epochs=1), data=half, listener=Listener(on_message=ignore)).on
        == "given"
    )


def test_a_test_set_known_in_part_is_scored_on_the_labels_given() -> None:
    data = shapes(true_train=True, true_test=True)
    true = data.test.labels.true.copy()
    true[0] = UNKNOWN
    labels = dataclasses.replace(data.test.labels, true=true)
    part = dataclasses.replace(data, test=dataclasses.replace(data.test, labels=labels))
    result = train(asked_of_shapes(epochs=1), data=part, listener=Listener(on_message=ignore))
    assert result.on == "given"
    assert sum(map(sum, result.confusion)) == 90


def test_artificial_noise_takes_the_labels_given_for_true() -> None:
    data = shapes(true_train=False, true_test=False)
    config = asked_of_shapes(noise="sym", rate=0.3, method="exact")
    labels = prepare(config, data=data).train.labels
    assert (labels.true == data.train.labels.given).all()
    assert labels.wrong.sum() == 72
    result = train(config, data=data)
    assert result.corrupted == 72
    assert 0 <= result.memorised <= 1
    assert result.transition is not None
    np.testing.assert_allclose(np.diag(result.transition), 0.7)
    # Labels all known and right need no noise to have a matrix: that of none.
    clean = prepare(asked_of_shapes(dataset="digits"), data=load_data("digits")).train.labels
    np.testing.assert_array_equal(np.asarray(clean.transition), np.eye(10))


def test_counts_of_an_epoch_are_of_the_labels_known_to_be_wrong() -> None:
    given, device = np.array([0, 1, 2, 0, 1]), torch.device("cpu")
    logits = torch.eye(3)[torch.tensor([0, 1, 0, 1, 1])]  # what is predicted

    def row(true: list[int]) -> dict[str, float]:
        counts = Counts(Labels(given, np.array(true)), device)
        for chosen in (torch.tensor([4, 0]), torch.tensor([1, 2, 3])):
            counts.add(chosen, logits[chosen], torch.tensor(2.0))
        return counts.row(7, 0.1)

    known = row([0, 0, 0, 1, 2])  # wrong: 1, 2, 3, 4; memorised 1 and 4; recovered 2 and 3
    assert (known["epoch"], known["lr"], known["train_loss"]) == (7, 0.1, 2.0)
    assert known["train_accuracy"] == 0.6
    assert (known["memorised"], known["recovered"]) == (0.5, 0.5)
    part = row([0, UNKNOWN, 0, UNKNOWN, 2])  # known to be wrong: 2 and 4
    assert (part["memorised"], part["recovered"]) == (0.5, 0.5)
    assert row([UNKNOWN, 0, UNKNOWN, UNKNOWN, UNKNOWN])["memorised"] == 1.0
    for nothing in ([UNKNOWN] * 5, given.tolist()):
        none = row(nothing)
        assert none["train_accuracy"] == 0.6
        assert math.isnan(none["memorised"])
        assert math.isnan(none["recovered"])


def test_nothing_is_said_of_the_budget_where_no_label_is_known_to_be_wrong() -> None:
    labels = Labels(np.array([0, 1]), np.array([UNKNOWN, UNKNOWN]))
    memorised, recovered = memorised_and_recovered(np.array([0, 0]), labels)
    assert math.isnan(memorised)
    assert math.isnan(recovered)
    assert not too_short("ce", memorised)
    assert budget_verdict(make_config(loss="ce"), memorised) is None
    assert too_short("ce", 0.04)
    assert not too_short("nce_rce", 0.04)


# A warm start, a penalty, a choice on noisy labels, who listens.


@pytest.mark.slow
def test_a_warm_start_is_ce_and_then_the_loss() -> None:
    def rows(**given: Any) -> list[dict[str, float]]:
        found: list[dict[str, float]] = []
        train(
            small(rate=0.4, epochs=4, **given),
            listener=Listener(on_epoch=found.append, on_message=ignore),
        )
        return found

    warm, ce, mae = rows(loss="mae", warm_start=2), rows(loss="ce"), rows(loss="mae")
    assert warm[:2] == ce[:2]
    assert warm[2]["train_loss"] != ce[2]["train_loss"]
    assert warm[0] != mae[0]
    assert rows(loss="mae", warm_start=0.5) == warm  # a share of the epochs
    assert rows(loss="ce", warm_start=2) == ce
    config = make_config(epochs=10)
    shares = {0.04: 0, 0.06: 1, 0.3: 3, 0.99: 9, 1.0: 1, 12.0: 9}
    for given, epochs in shares.items():
        assert dataclasses.replace(config, warm_start=given).warm_epochs == epochs
    with pytest.raises(BadInput, match=r"warm_start is 1\.5; accepted: a share below 1"):
        make_config(warm_start=1.5)


def test_the_l1_penalty_is_part_of_loss_and_gradient() -> None:
    """By hand: one step without momentum from the same weights, with and without it."""
    rows: dict[float, dict[str, float]] = {}
    weights: dict[float, Tensor] = {}
    for l1 in (0.0, 1e-3):
        config = small(
            **{"loss": "ce", "epochs": 1, "batch_size": 300, "lr": 0.1, "clip": 0.0, "l1": l1},
            **{"network": "mlp", "width": 8, "momentum": 0.0, "weight_decay": 0.0},
        )
        torch.manual_seed(0)
        network = make_network("mlp", (8, 8, 1), 10, 8)
        start = torch.nn.utils.parameters_to_vector(network.parameters()).detach().clone()
        seen: list[dict[str, float]] = []
        train(config, network=network, listener=Listener(on_epoch=seen.append, on_message=ignore))
        rows[l1] = seen[0]
        weights[l1] = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    added = rows[1e-3]["train_loss"] - rows[0.0]["train_loss"]
    assert added == pytest.approx(1e-3 * float(start.abs().sum()), rel=1e-4)
    expected = -0.1 * 1e-3 * start.sign()
    assert float((weights[1e-3] - weights[0.0] - expected).abs().max()) < 2e-7


@pytest.mark.slow
def test_select_holds_out_given_labels_and_leaves_them_in_the_history(tmp_path: Path) -> None:
    config = small(rate=0.4, select="noisy", eval_every=2)
    train(config, tmp_path, listener=Listener(on_message=ignore))
    # As Python reads them: pandas reads a decimal to the last place but one.
    exactly = {"validation_accuracy": lambda text: float(text or "nan")}
    history = pd.read_csv(tmp_path / "history.csv", converters=exactly)
    assert history["validation_accuracy"].isna().tolist() == [True, False, True, False]
    assert read_noise(tmp_path / "noise.npz").given.shape == (270,)
    whole = prepare(config)
    data, held = hold_out(whole)
    assert (len(data.train), len(held)) == (270, 30)
    pixels = {bytes(image.numpy().tobytes()) for image in data.train.images}
    assert not pixels & {bytes(image.numpy().tobytes()) for image in held.images}
    assert held.labels.wrong.any()  # nobody told it the truth
    counts = np.bincount(held.labels.given, minlength=10)
    assert counts.max() - counts.min() <= 1
    finished = Run(tmp_path)
    assert finished.history[1]["validation_accuracy"] == history["validation_accuracy"][1]
    study = tmp_path / "study"
    train(config, study / "runs" / config.name, listener=Listener(on_message=ignore))
    write_study(study)
    (kept,) = read_record(study).values()
    assert kept.history[3]["validation_accuracy"] == history["validation_accuracy"][3]
    assert math.isnan(kept.history[0]["validation_accuracy"])


class Stopper:
    """Asks to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.slow
def test_a_monitor_hears_every_step_and_survives_a_stop(tmp_path: Path) -> None:
    config = small(rate=0.4)
    whole = LabelMonitor(300, 10)
    train(config, listener=whole.listener + Listener(on_message=ignore))
    assert (whole.evidence.visits == 4).all()
    assert (whole.labels == prepare(config).train.labels.given).all()
    stopped = LabelMonitor(300, 10)
    with pytest.raises(Interrupted):
        train(
            config,
            tmp_path,
            listener=stopped.listener + Listener(on_message=ignore, should_stop=Stopper(7)),
        )
    resumed = LabelMonitor(300, 10)
    train(config, tmp_path, listener=resumed.listener + Listener(on_message=ignore))
    for name, part in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], part), name


LOSS = """
from torch import nn
from torch.nn import functional as F

def robust(logits, targets):
    return F.cross_entropy(logits, targets, label_smoothing=0.1)

class Robust(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.scale = 10 / num_classes

    def forward(self, logits, targets):
        return self.scale * robust(logits, targets)
"""


@pytest.mark.slow
def test_a_loss_of_ones_own_is_imported_only_where_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "losses_of_mine.py"
    file.write_text(LOSS)
    config = small(loss="losses_of_mine:robust", rate=0.4)
    with pytest.raises(BadInput, match="imported only where you type it"):
        train(config, tmp_path / "a")
    assert "losses_of_mine" not in sys.modules
    machine = Machine(imports=("losses_of_mine:robust", "losses_of_mine:Robust"))
    result = train(config, tmp_path / "a", machine=machine, listener=Listener(on_message=ignore))
    smoothed = make_loss("ce", 10, label_smoothing=0.1)
    ours = train(
        small(loss="ce", rate=0.4), criterion=smoothed, listener=Listener(on_message=ignore)
    )
    assert result.test_accuracy == pytest.approx(ours.test_accuracy, abs=0.02)
    assert not result.too_short or result.memorised < 0.1
    by_class = small(loss="losses_of_mine:Robust", rate=0.4)
    again = train(by_class, machine=machine, listener=Listener(on_message=ignore))
    assert again.test_accuracy == result.test_accuracy
    file.write_text(LOSS + "# another\n")
    with pytest.raises(BadInput, match="has changed since the run was asked for"):
        train(config, tmp_path / "b", machine=machine)
    with pytest.raises(BadInput, match="no parameter 'gamma'"):
        make_config(loss="losses_of_mine:robust", gamma=2.0)
    with pytest.raises(BadInput, match="no module 'nowhere'"):
        make_config(loss="nowhere:robust")


def test_of_many_classes_no_matrix_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,001 classes: a matrix of them, and of 20,000, would outgrow the run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    count = 1001
    labels = np.repeat(np.arange(count), 2)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4, 1), np.uint8)
    data = load_data((images, labels), say=lambda text: None)
    config = make_config(dataset=data, loss="ce", epochs=1, width=4)
    study = tmp_path / "study"
    run = study / "runs" / config.name
    result = train(config, run, listener=Listener(on_message=ignore))
    assert result.confusion is None
    assert len(result.per_class_accuracy) == count
    assert Run(run).result == result
    assert Run(run).result.per_class_accuracy == pytest.approx(
        result.per_class_accuracy, nan_ok=True
    )
    assert (run / "result.json").stat().st_size < 100_000
    scores, _, _ = evaluate_run(run)
    assert scores.confusion is None
    assert scores.accuracy == result.test_accuracy
    write_study(study)
    (kept,) = read_record(study).values()
    assert kept.result == result
    with pytest.raises(BadInput, match="sym noise of 1,001 classes; accepted: none, or at most"):
        prepare(make_config(dataset=data, noise="sym", rate=0.2))
