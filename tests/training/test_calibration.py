"""The temperature of a run: mean confidence is the accuracy that given labels let expect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apl.config.config import make_config
from apl.data.sources import load_data
from apl.errors import BadInput
from apl.training.calibration import calibrate, temperature_for
from apl.training.machine import Machine
from apl.training.train import train
from apl.training.use import NOT_CALIBRATED, load_run

HERE = Machine(device="cpu", threads=1)


def test_the_mean_confidence_becomes_the_accuracy() -> None:
    logits = 7 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    found = temperature_for(logits, 0.7)
    assert (logits / found).softmax(1).amax(1).mean() == pytest.approx(0.7, abs=1e-4)
    assert temperature_for(logits, 0.1) == pytest.approx(20, rel=1e-3)  # below chance: the hottest


@pytest.mark.slow
def test_a_run_on_noisy_rows_is_calibrated_by_given_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 900)
    rows = rng.normal(size=(900, 5)) + 1.2 * np.eye(5)[true]
    given = np.where(rng.random(900) < 0.3, rng.integers(0, 3, 900), true)
    data = load_data((rows, given), say=lambda line: None)
    config = make_config(dataset=data, loss="nce_rce", epochs=40)
    run = tmp_path / "run"
    train(config, run, machine=HERE, data=data)
    before = load_run(run, HERE)
    weights = (run / "model.safetensors").read_bytes()
    calibrate(run, HERE, say=lambda line: None)
    after = load_run(run, HERE)
    assert (run / "model.safetensors").read_bytes() == weights
    assert before.calibrated == NOT_CALIBRATED
    assert after.calibrated.startswith("calibrated on 180 given labels that were not trained on")
    unseen = rng.integers(0, 3, 3000)
    samples = rng.normal(size=(3000, 5)) + 1.2 * np.eye(5)[unseen]
    gaps = []
    for trained in (before, after):
        said = trained.predict_proba(samples)
        gaps.append(abs(said.max(1).mean() - (said.argmax(1) == unseen).mean()))
    assert gaps[1] < gaps[0] / 2  # 180 labels, of which a fifth are wrong


def test_true_test_labels_are_not_used(tmp_path: Path) -> None:
    config = make_config(epochs=1, train_size=100, width=8)
    train(config, tmp_path / "run", machine=HERE)
    with pytest.raises(BadInput, match=r"held out no given labels.*--select noisy"):
        calibrate(tmp_path / "run", HERE)
