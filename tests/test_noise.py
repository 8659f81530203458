"""Noise: matrices, maps, statistics of the corrupted labels, files, labels of unknown truth."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from apl.errors import BadInput, NoiseWarning
from apl.noise import (
    MAPS,
    UNKNOWN,
    Labels,
    Matrix,
    asymmetric,
    corrupt,
    find_map,
    pair_flip,
    past_bound,
    read_matrix,
    symmetric,
)
from apl.presets import METHODS
from apl.runs import read_noise, write_noise

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()


def labels_of(per_class: int, num_classes: int) -> np.ndarray:
    return np.repeat(np.arange(num_classes), per_class)


def test_symmetric_matrix() -> None:
    expected = [[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4]]
    np.testing.assert_allclose(symmetric(3, 0.6), expected)


def test_paper_map_flips_five_classes_and_half_the_rate_overall() -> None:
    matrix = asymmetric(CIFAR10, 0.4, find_map("paper", CIFAR10))
    moved = {(CIFAR10[j], CIFAR10[k]) for j, k in zip(*np.nonzero(matrix == 0.4), strict=True)}
    assert moved == {
        ("truck", "automobile"),
        ("bird", "airplane"),
        ("deer", "horse"),
        ("cat", "dog"),
        ("dog", "cat"),
    }
    assert 1 - np.diag(matrix).mean() == pytest.approx(0.2)


def test_report_map_sends_automobile_to_truck_and_moves_every_class() -> None:
    matrix = asymmetric(CIFAR10, 0.33, find_map("report", CIFAR10))
    assert matrix[CIFAR10.index("automobile"), CIFAR10.index("truck")] == 0.33
    np.testing.assert_allclose(np.diag(matrix), 0.67)


def test_mnist_map_fits_the_digits() -> None:
    matrix = asymmetric([str(k) for k in range(10)], 0.3, MAPS["paper"][1])
    assert [matrix[7, 1], matrix[2, 7], matrix[5, 6], matrix[6, 5], matrix[3, 8]] == [0.3] * 5


def test_cifar100_map_is_a_cycle_inside_each_of_twenty_superclasses() -> None:
    mapping = MAPS["paper"][2]
    names = sorted(mapping)
    assert len(names) == 100
    assert sorted(mapping.values()) == names
    for name in names:
        orbit = [name]
        while mapping[orbit[-1]] != name:
            orbit.append(mapping[orbit[-1]])
        assert len(orbit) == 5
    # Class indices are alphabetical, so "next inside the superclass" is the next name.
    assert mapping["beaver"] == "dolphin"
    assert mapping["whale"] == "beaver"


def test_pair_flip_moves_to_the_next_class() -> None:
    np.testing.assert_allclose(pair_flip(3, 0.2), [[0.8, 0.2, 0], [0, 0.8, 0.2], [0.2, 0, 0.8]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "matrix",
    [symmetric(10, 0.4), asymmetric(CIFAR10, 0.3, find_map("paper", CIFAR10)), pair_flip(10, 0.2)],
    ids=["sym", "asym", "pair"],
)
def test_labels_follow_the_matrix_by_chi_square(matrix: Matrix, method: str) -> None:
    labels = corrupt(labels_of(5000, 10), matrix, method, 7)
    for k in range(10):
        counts = np.bincount(labels.given[labels.true == k], minlength=10)
        possible = matrix[k] > 0
        assert (counts[~possible] == 0).all()
        if possible.sum() > 1:
            expected = 5000 * matrix[k][possible]
            assert stats.chisquare(counts[possible], expected).pvalue > 1e-4


@given(
    st.integers(0, 2**32),
    st.integers(2, 8),
    st.integers(0, 200),
    st.floats(0, 1),
    st.sampled_from(METHODS),
)
@settings(max_examples=100, deadline=None)
def test_exact_counts_for_any_labels(
    seed: int, num_classes: int, count: int, rate: float, method: str
) -> None:
    rng = np.random.default_rng(seed)
    clean = rng.integers(num_classes, size=count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)
        labels = corrupt(clean, symmetric(num_classes, rate), method, seed)
    assert (labels.true == clean).all()
    assert ((labels.given >= 0) & (labels.given < num_classes)).all()
    if method == "exact":
        assert labels.wrong.sum() == round((1 - (1 - rate)) * count)
    if method == "exact-per-class":
        for k in range(num_classes):
            members = clean == k
            assert labels.wrong[members].sum() == round((1 - (1 - rate)) * members.sum())


@given(st.integers(0, 2**32), st.data())
@settings(max_examples=100, deadline=None)
def test_exact_counts_for_any_matrix(seed: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    size = data.draw(st.integers(2, 6))
    matrix = rng.dirichlet(np.full(size, data.draw(st.sampled_from([0.1, 1.0, 10.0]))), size)
    clean = rng.integers(size, size=data.draw(st.integers(0, 300)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)
        labels = corrupt(clean, matrix, "exact", seed)
    expected = (1 - np.diag(matrix))[clean].sum()
    assert abs(labels.wrong.sum() - expected) <= 0.5 + 1e-6
    assert (matrix[labels.true, labels.given] > 0).all()


def test_same_seed_same_labels_on_every_platform() -> None:
    clean = labels_of(3, 5)
    first = corrupt(clean, symmetric(5, 0.5), "transition", 3).given
    assert (first == corrupt(clean, symmetric(5, 0.5), "transition", 3).given).all()
    assert (first != corrupt(clean, symmetric(5, 0.5), "transition", 4).given).any()
    # Written down once: other platforms and later versions must give these very labels.
    assert first.tolist() == [4, 2, 0, 1, 3, 3, 1, 0, 2, 4, 1, 3, 1, 4, 4]


def test_no_noise_changes_nothing_and_full_noise_everything() -> None:
    clean = labels_of(50, 4)
    assert not corrupt(clean, symmetric(4, 0.0)).wrong.any()
    with pytest.warns(NoiseWarning, match="no loss is tolerant"):
        assert corrupt(clean, symmetric(4, 1.0)).wrong.all()


@pytest.mark.parametrize(
    ("matrix", "past"),
    [
        (symmetric(10, 0.89), False),
        (symmetric(10, 0.9), True),
        (symmetric(2, 0.5), True),
        (asymmetric(CIFAR10, 0.49, find_map("paper", CIFAR10)), False),
        (asymmetric(CIFAR10, 0.5, find_map("paper", CIFAR10)), True),
        (np.eye(3), False),
    ],
)
def test_the_bound_of_tolerance_is_told(matrix: Matrix, past: bool) -> None:
    assert (past_bound(matrix) is not None) == past


def test_empirical_matrix_and_an_empty_class() -> None:
    labels = corrupt(np.array([0, 0, 2, 2]), np.eye(3))
    assert labels.empirical[0].tolist() == [1, 0, 0]
    assert np.isnan(labels.empirical[1]).all()


def test_labels_of_unknown_truth_are_neither_right_nor_wrong() -> None:
    labels = Labels(np.array([1, 0, 2, 1, 0]), np.array([1, UNKNOWN, 1, 1, UNKNOWN]))
    assert len(labels) == 5
    assert labels.known.tolist() == [True, False, True, True, False]
    assert labels.wrong.tolist() == [False, False, True, False, False]
    assert labels.empirical[1].tolist() == [0, 2 / 3, 1 / 3]  # of the known ones alone
    assert np.isnan(labels.empirical[[0, 2]]).all()
    none_known = Labels(labels.given, np.full(5, UNKNOWN))
    assert not none_known.known.any()
    assert not none_known.wrong.any()
    assert none_known.empirical.shape == (3, 3)
    assert np.isnan(none_known.empirical).all()


def test_the_empirical_matrix_has_every_class_that_is_given_true_or_in_the_matrix() -> None:
    only_true = Labels(np.array([0, 0]), np.array([0, 2]))  # nobody gave class 2
    assert only_true.empirical.shape == (3, 3)
    assert only_true.empirical[2].tolist() == [1, 0, 0]
    assert Labels(np.array([0]), np.array([0]), np.eye(4)).empirical.shape == (4, 4)


def test_the_file_of_labels_keeps_what_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "noise.npz"
    labels = Labels(np.array([1, 0, 2]), np.array([1, UNKNOWN, UNKNOWN]))
    write_noise(path, labels)
    again = read_noise(path)
    assert again.given.tolist() == labels.given.tolist()
    assert again.true.tolist() == labels.true.tolist()
    assert again.transition is None
    with np.load(path) as file:
        assert file["mask"].tolist() == labels.wrong.tolist()
    write_noise(path, Labels(np.array([0, 0]), np.array([2, UNKNOWN])))  # nobody gave class 2
    assert read_noise(path).true.tolist() == [2, UNKNOWN]
    drawn = corrupt(labels_of(20, 3), symmetric(3, 0.4))
    write_noise(path, drawn)
    again = read_noise(path)
    assert (again.given == drawn.given).all()
    assert (again.true == drawn.true).all()
    np.testing.assert_allclose(np.asarray(again.transition), symmetric(3, 0.4))


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), float("inf")])
def test_rates_outside_0_1_are_refused(rate: float) -> None:
    with pytest.raises(BadInput, match="between 0 and 1"):
        symmetric(10, rate)
    with pytest.raises(BadInput, match="between 0 and 1"):
        pair_flip(10, rate)


@pytest.mark.parametrize(
    ("labels", "matrix", "method", "message"),
    [
        ([0, 3], symmetric(3, 0.1), "transition", r"lie in \[0, 3\), got 3"),
        ([0, -1], symmetric(3, 0.1), "transition", r"lie in \[0, 3\), got -1"),
        ([[0]], symmetric(3, 0.1), "transition", "one-dimensional"),
        ([0], symmetric(3, 0.1), "coin", "method must be one of"),
        ([0], np.ones((2, 2)), "transition", "row 0 sums to 2"),
        ([0], np.array([[1.5, -0.5], [0, 1]]), "transition", "negative or non-finite"),
        ([0], np.array([[np.nan, 1], [0, 1]]), "transition", "negative or non-finite"),
        ([0], np.ones((2, 3)) / 3, "transition", "must be 2 x 2, got 2 x 3"),
    ],
)
def test_bad_input_is_one_clear_line(
    labels: list[int], matrix: Matrix, method: str, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        corrupt(labels, matrix, method)


def test_one_class_has_no_noise() -> None:
    with pytest.raises(BadInput, match="at least 2 classes"):
        symmetric(1, 0.0)


def test_maps_and_matrices_from_files(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("cat: dog\ntruck: ship\n")
    (tmp_path / "map.json").write_text('{"cat": "dog", "truck": "ship"}')
    for name in ("map.yaml", "map.json"):
        mapping = find_map(str(tmp_path / name), CIFAR10)
        assert mapping == {"cat": "dog", "truck": "ship"}
    matrix = symmetric(3, 0.3)
    np.save(tmp_path / "m.npy", matrix)
    np.savetxt(tmp_path / "m.csv", matrix, delimiter=",")
    np.savetxt(tmp_path / "m.txt", matrix)
    (tmp_path / "m.json").write_text(json.dumps(matrix.tolist()))
    for name in ("m.npy", "m.csv", "m.txt", "m.json"):
        np.testing.assert_allclose(read_matrix(tmp_path / name, 3), matrix)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cat: zebra", "'zebra', which the data set lacks"),
        ("cat: cat", "to itself"),
        ("[1, 2]", "must map source classes"),
        ("a: [", "neither JSON nor YAML"),
        ("!!python/object/apply:os.system ['true']", "neither JSON nor YAML"),
    ],
)
def test_bad_map_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(content)
    with pytest.raises(BadInput, match=message):
        asymmetric(CIFAR10, 0.2, find_map(str(path), CIFAR10))


def test_unknown_map_and_misfit() -> None:
    with pytest.raises(BadInput, match="no noise map 'papper'"):
        find_map("papper", CIFAR10)
    with pytest.raises(BadInput, match="does not fit the classes"):
        find_map("report", ["0", "1"])


@pytest.mark.parametrize("content", [b"", b"not numbers", b"1 0\n0 1\n"])
def test_bad_matrix_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"m\.csv"):
        read_matrix(path, 3)
