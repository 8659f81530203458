"""What is trained on small data of the user's own, where nothing is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from apl import load_data, make_config


@pytest.mark.parametrize(("rows", "epochs"), [(100, 80), (600, 12), (5_000, 7)])
def test_seven_epochs_or_as_many_as_make_80_steps(rows: int, epochs: int) -> None:
    table = np.random.default_rng(0).normal(size=(rows, 4))
    data = load_data((table, np.arange(rows) % 2), say=lambda _: None)
    config = make_config(dataset=data)
    assert (config.epochs, config.weight_decay, config.warm_start) == (epochs, 0.01, 2.0)
    assert make_config(dataset=data, epochs=3).epochs == 3
    assert make_config("laptop", dataset=data).weight_decay == 1e-4
    assert make_config(dataset="digits").weight_decay == 1e-4


def test_images_have_dropout_where_their_network_takes_any_and_rows_have_none() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 12, 12), dtype=np.uint8)
    data = load_data((images, np.arange(40) % 2), say=lambda _: None)
    for given, dropout in (
        ({}, 0.3),
        ({"network": "cnn5"}, 0.3),
        ({"network": "torchvision:resnet18"}, 0.0),
        ({"preset": "laptop"}, 0.0),
        ({"dropout": 0.1}, 0.1),
    ):
        config = make_config(**{"dataset": data, **given})
        assert config.dropout == dropout
        assert "dropout" in config.name if "dropout" in given else "dropout" not in config.name
    rows = load_data((rng.normal(size=(40, 4)), np.arange(40) % 2), say=lambda _: None)
    assert make_config(dataset=rows).dropout == 0.0
    assert make_config(dataset="digits").dropout == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "classes", "epochs", "decay"),
    [(100, 2, 80, 1.0), (600, 4, 27, 0.83), (4_000, 2, 20, 0.12), (4_000, 77, 20, 0.016)],
)
def test_a_head_on_features_is_held_back_by_the_size_of_the_data(
    rows: int, classes: int, epochs: int, decay: float, tmp_path: Path
) -> None:
    vectors = tmp_path / "v.npy"
    np.save(vectors, np.zeros((rows, 3), np.float16))
    labels = np.arange(rows) % classes
    split = np.where(np.arange(rows) < rows * 4 // 5, "train", "test")
    table = pd.DataFrame({"x": np.arange(rows) * 0.5, "label": labels, "split": split})
    data = load_data(table, say=lambda _: None)
    asked = {"dataset": data, "features": str(vectors)}
    config = make_config(**asked)
    assert len(data.train) == rows * 4 // 5
    told = (config.network, config.weight_ema)
    assert told == ("linear", 0.98)
    assert (config.epochs, config.weight_decay) == (epochs, decay)
    assert make_config(**asked, weight_decay=0.5).weight_decay == 0.5
    # Of other presets, other heads and repaired labels nothing is other than on built-in data.
    for other in (
        make_config("laptop", **asked),
        make_config(**asked, network="mlp", weight_ema=0.0),
        make_config("laptop", dataset="digits", features=str(vectors)),
    ):
        assert (other.weight_decay, other.weight_ema) == (1e-3, 0.0)
    assert make_config(**asked, loss="repair").weight_ema == 0.0


@pytest.mark.parametrize(("count", "components"), [(40, 4), (4_000, 400), (6_000, 0)])
def test_of_few_photos_features_have_few_components(count: int, components: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    data = load_data((images, np.arange(count) % 2), say=lambda _: None)
    asked = {"dataset": data, "features": "lite0"}
    config = make_config(**asked)
    assert config.components == components == (len(data.train) // 8 if components else 0)
    assert ("components" in config.name) == (components > 0)
    assert make_config(**asked, components=7).components == 7
    for other in ({"network": "mlp"}, {"preset": "laptop"}, {"loss": "repair"}):
        assert make_config(**asked, **other).components == 0


def test_the_page_has_the_figures_of_its_records() -> None:
    page = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
    records = [pd.read_csv(ROOT / f"docs/own-{name}.csv") for name in ("defaults", "features")]
    done = pd.concat(records)
    kinds = {r"lite0: .*": "photos", r"tfidf: banking,.*": "texts", "tfidf: .*": "8,002 texts"}
    noisy = done[done["noise"] != "clean"]
    noisy = noisy.assign(kind=noisy["set"].replace(kinds, regex=True))
    noisy["kind"] = noisy["kind"].where(noisy["kind"].isin([*kinds.values()]), "")
    for (kind, _, loss), rows in noisy.groupby(["kind", "candidate", "loss"]):
        lost = (rows["best"] - rows["last"]).mean()
        figures = (rows["last"].mean(), lost, rows["memorised"].mean())
        wanted = [kind, *(f"{figure:.1f}" for figure in figures)]
        lines = [line for line in page.splitlines() if all(each in line for each in wanted)]
        assert len(lines) == 1, (loss, wanted)
