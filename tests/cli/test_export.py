"""`apl export`: the file says what the run says, to a process that knows no apl."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import Cli

from apl.config.config import make_config
from apl.features.backbone import Sight
from apl.features.pictures import to_input
from apl.training.export import _bicubic, _Features
from apl.training.machine import Machine
from apl.training.train import train
from apl.training.use import load_run

HERE = Machine(device="cpu", threads=1)
READ = """
import json, sys
import numpy as np, onnxruntime
assert not any(name.partition(".")[0] in ("apl", "torch") for name in sys.modules)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
said = session.run(None, {"samples": np.load(sys.argv[2])})[0]
np.save(sys.argv[3], said)
print(json.dumps(session.get_modelmeta().custom_metadata_map))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on digits."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    config = make_config(epochs=1, train_size=100, width=8, rate=0.2)
    train(config, folder, machine=HERE)
    return folder


@pytest.mark.slow
def test_a_file_of_onnx_says_the_same_where_no_apl_is(tmp_path: Path, here: Cli, run: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = here("export", str(run), "--out", "d.onnx", "--card")
    assert "checked on 8 random samples" in done.stdout
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    files = [str(tmp_path / name) for name in ("d.onnx", "images.npy", "said.npy")]
    alone = subprocess.run(
        [sys.executable, "-c", READ, *files], cwd=tmp_path, capture_output=True, text=True
    )
    assert alone.returncode == 0, alone.stderr
    wanted = load_run(run, HERE).predict_proba(images)
    assert np.allclose(np.load(tmp_path / "said.npy"), wanted, atol=1e-5)
    about = json.loads(alone.stdout)
    assert json.loads(about["class_names"]) == [str(k) for k in range(10)]
    assert about["input"].startswith("uint8 [N, 8, 8, 1]")
    assert about["opset"] == "18"
    assert len(about["config_sha256"]) == 64


@pytest.mark.slow
def test_a_file_of_torch_and_its_card(tmp_path: Path, here: Cli, run: Path) -> None:
    here("export", str(run), "--to", "torch", "--card")
    extra = {"apl.json": ""}
    program = torch.export.load(tmp_path / "digits.pt2", extra_files=extra)
    images = torch.randint(0, 256, (3, 8, 8, 1), dtype=torch.uint8)
    said = program.module()(images)
    assert torch.allclose(said, torch.from_numpy(load_run(run, HERE).predict_proba(images.numpy())))
    assert json.loads(extra["apl.json"])["dataset"] == "digits"
    card = (tmp_path / "digits.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["pipeline_tag"] == "image-classification"
    assert "accuracy on clean test labels: " in card
    assert "sym noise at rate 0.2 in the training labels: " in card
    done = here("export", str(run), "--to", "coreml", code=2)
    assert "to is 'coreml'; accepted: onnx, torch" in done.stderr


@pytest.mark.parametrize(("side", "size", "channels"), [(32, 128, 3), (57, 40, 1), (16, 16, 3)])
def test_a_file_resizes_as_the_training_did(side: int, size: int, channels: int) -> None:
    images = torch.randint(0, 256, (2, side, side + 3, channels), dtype=torch.uint8)
    mean, std = (127.0, 100.0, 3.0), (128.0, 50.0, 2.0)
    sight = Sight(torch.nn.Flatten(), size, mean, std)
    found = _Features(sight, tuple(images.shape[1:]))(images)
    wanted = to_input(images, size, mean, std, torch.device("cpu")).flatten(1)
    assert torch.equal(found, wanted)
    weights, bits = _bicubic(side, size)
    assert weights.sum(0).sub(2**bits).abs().max() <= 4  # whole numbers, each sum nearly one
