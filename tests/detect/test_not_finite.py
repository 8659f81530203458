"""Evidence that is not finite is left out, counted and told; nothing is nan without a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from torch import Tensor

from apl.detect.evidence import Evidence, find_issues, rank
from apl.detect.monitor import LabelMonitor
from apl.detect.search import find_mislabelled
from apl.errors import BadInput
from apl.training.listener import Listener, ignore

COUNT, CLASSES, EPOCHS = 600, 4, 6
LABELS = torch.arange(COUNT) % CLASSES


def logits_of(epoch: int) -> Tensor:
    """Of a fair network: the label is a little ahead."""
    draws = torch.Generator().manual_seed(epoch)
    logits = torch.randn(COUNT, CLASSES, generator=draws)
    return logits + 3 * torch.nn.functional.one_hot(LABELS, CLASSES)


def watched(damage: Callable[[int, Tensor], Tensor] = lambda epoch, x: x) -> LabelMonitor:
    monitor = LabelMonitor(COUNT, CLASSES, curves=True)
    for epoch in range(EPOCHS):
        logits = damage(epoch, logits_of(epoch))
        for chosen in torch.randperm(COUNT).split(100):
            monitor.update(chosen, logits[chosen], LABELS[chosen])
    return monitor


def one(value: float, epochs: tuple[int, ...] = (2,)) -> Callable[[int, Tensor], Tensor]:
    def damage(epoch: int, logits: Tensor) -> Tensor:
        if epoch in epochs:
            logits[17, 2] = value
        return logits

    return damage


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_number_in_one_step_costs_that_visit_alone(value: float) -> None:
    whole, damaged = watched().findings(), watched(one(value))
    found = damaged.findings()
    assert damaged.evidence.visits[17] == EPOCHS - 1
    assert damaged.evidence.lost.tolist() == [int(i == 17) for i in range(COUNT)]
    assert np.isfinite(found.label_score).all()
    others = np.arange(COUNT) != 17
    assert np.allclose(found.label_score[others], whole.label_score[others], atol=0.02)
    assert found.doubts[0].startswith("not finite: 1 answers of the network, to 1 of 600 samples,")
    assert found.doubts[1:] == whole.doubts
    assert np.isnan(damaged.curves[17]).tolist() == [epoch == 2 for epoch in range(EPOCHS)]


def test_a_class_that_is_masked_is_ruled_out_and_no_damage() -> None:
    monitor = watched(one(-math.inf, tuple(range(EPOCHS))))
    assert (monitor.evidence.visits == EPOCHS).all()
    found = monitor.findings()
    assert np.isfinite(found.label_score).all()
    assert not any(text.startswith("not finite") for text in found.doubts)


def test_a_sample_that_is_never_finite_has_no_score_and_is_counted() -> None:
    found = watched(one(math.nan, tuple(range(EPOCHS)))).findings()
    assert np.flatnonzero(np.isnan(found.label_score)).tolist() == [17]
    assert found.predicted_label[17] == -1
    assert not found.is_label_issue[17]
    assert found.doubts[0].startswith("not finite: 6 answers")
    assert found.doubts[0].endswith("and 1 have no score")


def test_an_epoch_of_nan_is_left_out() -> None:
    monitor = watched(lambda epoch, logits: logits * (math.nan if epoch == 1 else 1))
    found = monitor.findings()
    assert (monitor.evidence.visits == EPOCHS - 1).all()
    assert np.isfinite(found.label_score).all()
    assert found.doubts[0].startswith("not finite: 600 answers of the network, to 600 of 600")


def test_half_numbers_that_overflow_are_left_out() -> None:
    def damage(epoch: int, logits: Tensor) -> Tensor:
        logits[:50] *= 1e5 if epoch > 3 else 1
        return logits.half()

    monitor = watched(damage)
    assert 1 < monitor.evidence.visits[:50].mean() < EPOCHS
    found = monitor.findings()
    assert np.isfinite(found.label_score).all()
    assert found.doubts[0].startswith("not finite: ")


def test_when_nothing_was_finite_nothing_is_told_but_that() -> None:
    monitor = watched(lambda epoch, logits: logits * math.nan)
    found = monitor.findings()
    assert not found.is_label_issue.any()
    assert math.isnan(found.noise_rate.estimate)
    assert found.doubts[0].startswith("nothing can be told of these labels: not finite: ")


def test_the_count_outlives_a_checkpoint_and_older_ones_have_none() -> None:
    monitor, other = watched(one(math.nan)), LabelMonitor(COUNT, CLASSES)
    state = monitor.state_dict()
    other.load_state_dict(state)
    assert other.evidence.lost[17] == 1
    older = {name: total for name, total in state.items() if name != "lost"}
    other.load_state_dict(older)
    assert other.evidence.lost.sum() == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_rows_of_probabilities_that_are_not_finite_are_left_out_and_told(value: float) -> None:
    probs = logits_of(0).softmax(1).double().numpy()
    labels = LABELS.numpy()
    whole = find_issues(labels[3:], probs[3:])
    probs[:3, 1] = value
    found = find_issues(labels, probs)
    assert np.isnan(found.label_score).tolist() == [i < 3 for i in range(COUNT)]
    assert np.array_equal(found.label_score[3:], whole.label_score)
    assert found.noise_rate == whole.noise_rate
    assert found.doubts[0].startswith("not finite: 3 answers of the network, to 3 of 600")
    with pytest.raises(ValueError, match=r"must be finite, and of every sample; 3 of 600 have"):
        rank(labels, probs)


def test_evidence_that_somebody_put_together_is_looked_at_too() -> None:
    whole = watched().evidence
    early = whole.early.copy()
    early[5] = math.nan
    found = find_issues(LABELS.numpy(), Evidence(whole.log_probs, early, whole.visits))
    assert np.flatnonzero(np.isnan(found.label_score)).tolist() == [5]
    assert found.doubts[0].startswith("not finite: 1 answers")


def test_missing_probabilities_of_frames_and_masked_arrays() -> None:
    import pandas as pd

    probs = logits_of(0).softmax(1).double().numpy()
    frame = pd.DataFrame(probs).astype("Float64")
    frame.iloc[4, 0] = pd.NA
    masked = np.ma.masked_array(probs, mask=False)
    masked[4, 0] = np.ma.masked
    for given in (frame, masked):
        found = find_issues(LABELS.numpy(), given)
        assert np.flatnonzero(np.isnan(found.label_score)).tolist() == [4]


# ------------------------------------------------------------------------------------ a search


def own_data(folder: Path) -> None:
    """Digits of four classes as a list of numbers, some labels wrong."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    few = np.flatnonzero(labels < 4)[:300]
    labels = labels[few].copy()
    labels[::7] = (labels[::7] + 1) % 4
    np.savez(folder / "own.npz", x=pixels[few].reshape(-1, 8, 8).astype(np.uint8) * 15, y=labels)


@pytest.mark.slow
def test_a_search_that_diverged_says_so_twice_and_prints_no_nan(cli: Cli, tmp_path: Path) -> None:
    own_data(tmp_path)
    for _ in range(2):  # trained, and read
        shown = cli("find", "own.npz", "--loss", "ce", "--lr", "1e18", "--clip", "0", code=1)
        assert "the training failed (diverged)" in shown.stdout
        assert "not finite: " in shown.stdout
        assert "nan%" not in shown.stdout
    folder = tmp_path / "results/own-find"
    noise = json.loads((folder / "noise.json").read_text())
    assert noise["doubts"][0].startswith("the training failed (diverged)")
    assert (
        "nan" not in (folder / "gallery.html").read_text().split("</style>")[1].split("<script")[0]
    )


@pytest.mark.parametrize("folds", [0, 2])
def test_a_search_without_anything_finite(folds: int) -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    source = (pixels[:200].reshape(-1, 8, 8).astype(np.uint8), labels[:200])
    found = search(source, folds=folds, loss="ce", lr=1e30, clip=0.0, epochs=2)
    assert found.failed
    assert found.findings.doubts[0] == found.failed
    scores = found.findings.label_score
    if np.isnan(scores).any():
        assert any("not finite: " in text for text in found.findings.doubts)


def search(source: Any, **settings: Any) -> Any:
    return find_mislabelled(source, listener=Listener(on_message=ignore), **settings)


CUT = """
import torch

def cut(logits, targets):
    return torch.nn.functional.cross_entropy(logits.detach(), targets)
"""


@pytest.mark.slow
def test_a_loss_that_is_cut_off_is_a_failed_search_and_no_bad_input(
    cli: Cli, tmp_path: Path
) -> None:
    own_data(tmp_path)
    (tmp_path / "losses.py").write_text(CUT)
    for _ in range(2):
        shown = cli("find", "own.npz", "--loss", "losses:cut", "--warm-start", "0", code=1)
        assert "the training failed (no-gradient)" in shown.stdout
        assert "noise rate unknown" in shown.stdout


def test_a_run_that_nobody_watched_is_still_refused(tmp_path: Path) -> None:
    own_data(tmp_path)
    from apl import load_data
    from apl.detect.search import search_config
    from apl.training.train import train

    data = load_data(tmp_path / "own.npz", say=ignore)
    config = search_config("laptop", data, {"epochs": 1})
    train(config, tmp_path / "run", data=data, listener=Listener(on_message=ignore))
    with pytest.raises(BadInput, match="was trained and not watched"):
        search(data, run=tmp_path / "run", epochs=1)
