"""A data set's health: what its features and its pixels say beside its labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apl.detect import neighbours as module
from apl.detect.health import health_of
from apl.detect.neighbours import neighbours
from apl.errors import Interrupted


@pytest.mark.parametrize("block", [1, 2**26])  # a row at a time, and all at once
def test_the_neighbours_are_the_exact_ones(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    rows = torch.randn(60, 7, generator=torch.Generator().manual_seed(0)).half()
    places, near = neighbours(rows, 5)
    wide = rows.double().numpy()
    wide -= wide.mean(0)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    alike = wide @ wide.T
    np.fill_diagonal(alike, -9)
    np.testing.assert_array_equal(places, np.argsort(-alike, 1)[:, :5])
    np.testing.assert_allclose(near, -np.sort(-alike, 1)[:, :5], atol=1e-5)


def test_few_rows_have_few_neighbours_and_a_stop_is_heard():
    assert neighbours(torch.zeros(0, 3), 4)[0].shape == (0, 0)
    assert neighbours(torch.ones(1, 3), 4)[0].shape == (1, 0)
    places, near = neighbours(torch.ones(3, 2), 4)  # all alike: nearer to none
    assert places.shape == (3, 2)
    assert (near == 0).all()
    with pytest.raises(Interrupted):
        neighbours(torch.ones(3, 2), 1, lambda: True)


def classes_of(count: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Rows [N, 40] of four classes, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    rows = rng.normal(size=(count, 40)) + 6 * np.eye(4, 40)[labels]
    return torch.from_numpy(rows).float(), labels


def test_planted_copies_and_strangers_are_found():
    """Copies are grouped with what they are copies of, and named; samples of no class, many of them
    alike, score lowest, whatever label they have."""
    rows, labels = classes_of(400)
    rng = np.random.default_rng(1)
    copies = rows[[3, 3, 8]] + 0.05 * torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    strange = torch.from_numpy(rng.normal(size=(20, 40)) + 6 * np.eye(40)[20]).float()
    whole = torch.cat([rows, copies, strange])
    given = np.concatenate([labels, labels[[3, 3, 8]], rng.integers(0, 4, 20)])
    found = health_of(whole, given)
    flagged = np.flatnonzero(found.issues["near_duplicate"])
    assert flagged.tolist() == [3, 8, 400, 401, 402]
    sets = found.columns([f"{i}.png" for i in range(len(whole))])["near_duplicate_sets"]
    assert (sets[3], sets[402], sets[0]) == ("400.png; 401.png", "8.png", "")
    worst = np.argsort(found.scores["outlier"])[:20]
    assert np.isin(worst, np.arange(403, 423)).mean() >= 0.85
    unlabelled = health_of(whole, np.full(len(whole), -1))
    assert "outlier" not in unlabelled.issues
    assert not health_of(rows[:5], labels[:5]).issues  # too few to say what is usual


def test_few_samples_of_many_numbers_are_not_taken_for_strangers():
    """300 samples of 250 numbers, most of which tell nothing: scaled alike, these would drown what
    tells the classes apart."""
    rng = np.random.default_rng(0)
    labels, scale = rng.integers(0, 4, 300), 8 / np.arange(1, 251) ** 0.5
    rows = rng.normal(size=(312, 250))
    rows[:300] += 5 * np.eye(4, 250)[labels]
    rows[300:] += 5 * np.eye(250)[4]  # of no class
    given = np.concatenate([labels, rng.integers(0, 4, 12)])
    found = health_of(torch.from_numpy(rows * scale).float(), given)
    assert found.issues["outlier"][:300].mean() < 0.02
    assert set(range(300, 312)) <= set(np.argsort(found.scores["outlier"])[:24].tolist())


def pictures(count: int = 40) -> np.ndarray:
    """Images [N, 24, 24, 3] of random waves, and sharp."""
    rng = np.random.default_rng(0)
    at = np.arange(24)
    waves = np.sin(
        at[:, None] * rng.uniform(0.2, 1, (count, 1, 1)) + rng.uniform(0, 6, (count, 1, 1))
    )
    waves = waves * np.sin(
        at * rng.uniform(0.2, 1, (count, 1, 1)) + rng.uniform(0, 6, (count, 1, 1))
    )
    grey = 128 + 90 * waves + rng.normal(0, 12, (count, 24, 24))
    return np.repeat(grey[..., None], 3, 3).clip(0, 255).astype(np.uint8)


def test_images_that_are_blank_dark_or_blurred_are_found():
    from PIL import Image, ImageFilter

    images = pictures()
    images[1] = 200
    images[2] //= 8
    images[3] = np.asarray(Image.fromarray(images[3]).filter(ImageFilter.GaussianBlur(2)))
    found = health_of(None, np.zeros(len(images), np.int64), images)
    flagged = {name: np.flatnonzero(flags).tolist() for name, flags in found.issues.items()}
    assert flagged == {"low_information": [1], "dark": [2], "blurry": [3]}
    for scores in found.scores.values():
        assert ((scores >= 0) & (scores <= 1)).all()
    assert found.told() == ["blank: 1", "dark: 1", "blurred: 1"]


def test_mirrored_and_resized_images_are_copies_and_others_that_lie_near_are_none():
    from PIL import Image

    images = pictures()
    images[10] = images[0][:, ::-1]
    small = Image.fromarray(images[4]).resize((16, 16)).resize((24, 24))
    images[11] = np.asarray(small)
    rows, labels = classes_of(len(images))
    rows[10] = rows[0] + 0.3
    rows[11] = rows[4] + 0.3
    rows[12] = rows[6]  # features that can't tell two images apart
    found = health_of(rows, labels, images)
    assert np.flatnonzero(found.issues["near_duplicate"]).tolist() == [0, 4, 10, 11]
    assert found.copies[0] == found.copies[10] != found.copies[4] == found.copies[11]
