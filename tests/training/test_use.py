"""A trained network in use: samples in any form lead to what the training itself would say."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import apl
from apl.config.config import make_config
from apl.data.dataset import Dataset
from apl.data.sources import load_data
from apl.errors import BadInput
from apl.features.backbone import Backbone
from apl.runs.run import INPUTS
from apl.training.machine import Machine
from apl.training.prepare import _decoded
from apl.training.train import train
from apl.training.use import Trained, _check_backbone, agreed, load_run, mean_of

HERE = Machine(device="cpu", threads=1)
SIDE = 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def photos(folder: Path, count: int = 10) -> Path:
    """Red cats and green dogs."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[..., k] += 100
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def trained(source: Any, run: Path, **settings: Any) -> tuple[Dataset, Path]:
    data = load_data(source, say=lambda line: None)
    config = make_config(dataset=data, epochs=2, features="none", **settings)
    train(config, run, machine=HERE, data=data)
    return data, run


def said(run: Trained, images: torch.Tensor) -> Any:
    """What the network itself says of the samples of a data set."""
    return run.evaluator.logits(images).softmax(1).numpy()


def test_images_in_any_form_are_what_was_trained_on(tmp_path: Path, cache: Path) -> None:
    data, folder = trained(photos(tmp_path / "photos"), tmp_path / "run")
    shutil.rmtree(cache)  # the training data are no longer needed
    run = apl.load_run(folder, HERE)
    assert run.class_names == ("cat", "dog")
    paths = [tmp_path / "photos" / name for name in data.test.names]
    arrays = np.stack([np.asarray(Image.open(path)) for path in paths])
    wanted = said(run, torch.from_numpy(arrays))
    forms: list[Any] = [
        paths,
        arrays,
        arrays / 255,
        torch.from_numpy(arrays).permute(0, 3, 1, 2),
        [Image.open(path) for path in paths],
        [arrays[0], *map(str, paths[1:])],
    ]
    for form in forms:
        assert np.allclose(run.predict_proba(form), wanted, atol=1e-6)
    assert np.allclose(run.predict_proba(arrays[0]), wanted[:1], atol=1e-6)
    assert run.predict(arrays).tolist() == [run.class_names[k] for k in wanted.argmax(1)]
    assert run.predict_proba([]).shape == (0, 2)
    large = Image.open(paths[0]).resize((3 * SIDE, 2 * SIDE)).convert("L")  # in colour, middle
    assert run.predict_proba(large).shape == (1, 2)


def test_rows_are_encoded_as_those_of_the_training(tmp_path: Path, cache: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size": [None if i % 7 == 0 else i % 3 + rng.normal() for i in range(60)],
            "site": [("north", "south", "east")[i % 3] for i in range(60)],
            "label": ["abc"[i % 3] for i in range(60)],
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    data, folder = trained(tmp_path / "t.csv", tmp_path / "run")
    shutil.rmtree(cache)
    run = load_run(folder, HERE)
    test = frame.iloc[[int(name) for name in data.test.names]]
    recipes = run.inputs.encoding["columns"]
    assert [recipe["column"] for recipe in recipes] == ["size", "site"]
    seen = run.seen(test[["site", "size"]])  # in another order, without the label
    assert torch.equal(seen, run.seen(test.to_dict("records")))
    assert seen.shape == (len(test), 5)
    cells = run.seen({"size": ["1,000.5", ""], "site": ["never shown", None]})
    assert cells[:, 1].tolist() == [0, 1]  # marked as missing
    assert cells[0, 2:].tolist() == cells[1, 2:].tolist() == [0, 0, 0]
    assert torch.equal(run.seen({"site": ["north"]})[:, :2], torch.tensor([[0.0, 1.0]]))
    with pytest.raises(BadInput, match="no column is one that the network was trained on"):
        run.predict({"weight": [1]})


def test_the_rows_of_a_test_set_are_seen_as_in_the_training(tmp_path: Path) -> None:
    numbers = [str(i * i % 11) for i in range(40)]
    columns = {"x": numbers, "word": ["a", "b", "", "a", "once"] * 8}
    frame = pd.DataFrame({**columns, "label": ["u", "v"] * 20})
    frame.to_csv(tmp_path / "t.csv", index=False)
    data, folder = trained(tmp_path / "t.csv", tmp_path / "run")
    run = load_run(folder, HERE)
    rows = [{name: cells[int(k)] for name, cells in columns.items()} for k in data.test.names]
    assert torch.equal(run.seen(rows), data.test.images)
    assert np.allclose(run.predict_proba(rows), said(run, data.test.images))


def test_vectors_of_ones_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1797, 6)).astype(np.float32)
    np.savez(tmp_path / "v.npz", train=vectors[:1347], test=vectors[1347:])
    config = make_config(
        features=str(tmp_path / "v.npz"), network="linear", epochs=1, train_size=100
    )
    train(config, tmp_path / "run", machine=HERE)
    run = load_run(tmp_path / "run", HERE)
    assert run.inputs.kind == "vectors"
    wanted = said(run, torch.from_numpy(vectors[:3]))  # not rounded, as the cache rounds them
    assert np.allclose(run.predict_proba(vectors[:3]), wanted, atol=1e-6)
    with pytest.raises(BadInput, match=r"accepted: numbers \[N, 6\]"):
        run.predict(vectors[:, :5])


def test_a_run_of_an_older_apl_needs_its_data(tmp_path: Path, cache: Path) -> None:
    data, folder = trained(photos(tmp_path / "photos"), tmp_path / "run")
    wanted = load_run(folder, HERE).predict_proba(data.test.images)
    (folder / INPUTS).unlink()
    assert np.array_equal(load_run(folder, HERE).predict_proba(data.test.images), wanted)
    shutil.rmtree(cache)
    _decoded.cache_clear()
    with pytest.raises(BadInput, match=r"older apl.*give --dataset PATH"):
        load_run(folder, HERE)
    (folder / INPUTS).write_text('{"format": 3, "kind": "images"}')
    with pytest.raises(BadInput, match="is none of this apl's"):
        load_run(folder, HERE)


def test_several_runs_agree_on_their_classes(tmp_path: Path) -> None:
    _, folder = trained(photos(tmp_path / "photos"), tmp_path / "run")
    run = load_run(folder, HERE)

    def called(*names: str) -> Trained:
        return dataclasses.replace(run, inputs=dataclasses.replace(run.inputs, class_names=names))

    swapped, other = called("dog", "cat"), called("cat", "cow")
    assert agreed([run, swapped]) == ("cat", "dog")
    first, second = np.array([[0.75, 0.25]], np.float32), np.array([[0.25, 0.75]], np.float32)
    assert mean_of([(run, first), (swapped, second)]).tolist() == [[0.75, 0.25]]
    with pytest.raises(BadInput, match=r"other classes than .*: cow, dog; accepted"):
        agreed([run, other])


def test_other_weights_of_a_backbone_are_told() -> None:
    config = make_config(features="lite0")
    backbone = Backbone("lite0", lambda batch: batch, {"weights": "a" * 64, "size": 128})
    _check_backbone(backbone, {"weights": "a" * 64, "size": 128}, config)
    with pytest.raises(BadInput, match=f"its weights are {'a' * 12}, and were {'b' * 12}"):
        _check_backbone(backbone, {"weights": "b" * 64}, config)
