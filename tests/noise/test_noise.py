"""Noise: matrices, maps, statistics of the corrupted labels, files, labels of unknown truth."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from apl.errors import BadInput, NoiseWarning
from apl.names import METHODS, SCALES
from apl.noise.draw import corrupt, corrupt_each, mean_by_class
from apl.noise.files import read_noise, read_posterior, read_published, write_noise
from apl.noise.instance import ROWS, Inputs, part_dependent, pmd, uniform_dependent
from apl.noise.labels import UNKNOWN, Labels, Matrix
from apl.noise.matrices import (
    MAPS,
    asymmetric,
    find_map,
    pair_flip,
    past_bound,
    read_matrix,
    symmetric,
    symmetric_all,
)

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


@pytest.mark.slow
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


# ------------------------------------------------------------- what repositories draw differently


def _orbit(mapping: dict[str, str], name: str) -> list[str]:
    """What a name becomes by the map, and that in turn, until it comes again."""
    orbit = [mapping[name]]
    while orbit[-1] != name:
        orbit.append(mapping[orbit[-1]])
    return orbit


def test_cifar100_blocks_are_of_consecutive_numbers_and_no_superclasses() -> None:
    names = sorted(MAPS["superclass"][0])
    blocks = find_map("blocks", names)
    moved = {names.index(source): names.index(target) for source, target in blocks.items()}
    assert moved == {k: k - 4 if k % 5 == 4 else k + 1 for k in range(100)}
    superclass = find_map("superclass", names)
    assert superclass == find_map("paper", names)  # what runs have had by that name since ever
    # Of a hundred flips, six stay inside a superclass: these are two different noises.
    group = {name: set(_orbit(superclass, name)) for name in names}
    inside = [name for name in names if blocks[name] in group[name]]
    assert inside == ["bee", "cattle", "leopard", "porcupine", "telephone", "tractor"]
    with pytest.raises(BadInput, match="the map 'blocks' does not fit"):
        find_map("blocks", CIFAR10)


@given(st.integers(2, 120), st.floats(0, 1))
def test_symmetric_over_all_classes_makes_fewer_wrong(num_classes: int, rate: float) -> None:
    matrix = symmetric_all(num_classes, rate)
    expected = (1 - rate) * np.eye(num_classes) + rate / num_classes
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    wrong = rate * (num_classes - 1) / num_classes
    np.testing.assert_allclose(1 - np.diag(matrix), wrong, atol=1e-12)


@pytest.mark.parametrize(
    ("num_classes", "per_class", "rate", "realised"),
    [
        # As counted in what `method2` of ANL, eps-softmax and JAL makes of CIFAR.
        *[(10, 5000, rate, realised) for rate, realised in ((0.2, 0.1998), (0.8, 0.7992))],
        *[(100, 500, rate, 0.99 * rate) for rate in (0.2, 0.4, 0.6, 0.8)],
    ],
)
def test_floors_of_pairs_have_the_published_rates(
    num_classes: int, per_class: int, rate: float, realised: float
) -> None:
    clean = labels_of(per_class, num_classes)
    labels = corrupt(clean, symmetric(num_classes, rate), "exact-per-pair", 0)
    assert labels.wrong.mean() == pytest.approx(realised, abs=1e-9)
    per = [labels.wrong[clean == k].sum() for k in range(num_classes)]
    assert len(set(per)) == 1


@given(st.integers(0, 2**32), st.integers(2, 6), st.integers(0, 300))
@settings(max_examples=50, deadline=None)
def test_every_pair_is_counted_exactly(seed: int, size: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.dirichlet(np.ones(size), size)
    clean = rng.integers(size, size=count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)
        labels = corrupt(clean, matrix, "exact-per-pair", seed)
    counts = np.zeros((size, size), int)
    np.add.at(counts, (clean, labels.given), 1)
    sizes = np.bincount(clean, minlength=size)
    others = ~np.eye(size, dtype=bool)
    assert (counts[others] == np.floor(matrix * sizes[:, None] + 1e-9)[others]).all()


def test_a_whole_product_is_no_victim_of_its_rounding() -> None:
    matrix = np.array([[1 - 0.29, 0.29], [0.29, 1 - 0.29]])
    assert int(0.29 * 100) == 28  # as floats have it
    labels = corrupt(labels_of(100, 2), matrix, "exact-per-pair")
    assert labels.wrong.sum() == 58


# ------------------------------------------------------------- noise that depends on the sample


def pictures(count: int, num_classes: int, seed: int = 0) -> tuple[Inputs, np.ndarray]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)
    return Inputs(pixels, (0.5, 0.4, 0.6), (0.2, 0.3, 0.25)), rng.integers(num_classes, size=count)


def softmax_without(scores: np.ndarray, own: int) -> np.ndarray:
    scores = np.where(np.arange(len(scores)) == own, -np.inf, scores)
    shares = np.exp(scores - scores.max())
    return np.asarray(shares / shares.sum())


@pytest.mark.parametrize("scale", SCALES)
def test_part_dependent_rows_are_those_of_the_algorithm(scale: str) -> None:
    inputs, labels = pictures(40, 4)
    rows = part_dependent(inputs, labels, 4, 0.3, np.random.default_rng(5), scale)
    rng = np.random.default_rng(5)
    flips = rng.normal(0.3, 0.1, 40)
    assert ((flips >= 0) & (flips <= 1)).all()  # so that none is drawn again here
    weights = [rng.standard_normal((90, 4)) for _ in range(4)]
    for i, y in enumerate(labels):
        x = inputs.values[i].astype(float)
        if scale != "raw":
            x = x / 255
        if scale == "normalised":
            x = (x - inputs.mean) / inputs.std
        expected = flips[i] * softmax_without(x.reshape(-1) @ weights[y], y)
        expected[y] = 1 - flips[i]
        np.testing.assert_allclose(rows[i], expected, atol=1e-9)


def test_flip_rates_are_a_truncated_normal_and_the_raw_choice_is_not_drawn() -> None:
    inputs, labels = pictures(4000, 3)
    for rate in (0.0, 0.1, 0.45, 1.0):
        rows = part_dependent(inputs, labels, 3, rate, np.random.default_rng(1))
        own = np.arange(3) == labels[:, None]
        law = stats.truncnorm(-rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
        assert stats.kstest(1 - rows[own], law.cdf).pvalue > 1e-4
    assert law.mean() == pytest.approx(0.920, abs=1e-3)  # and so 0 gives 0.08
    sharpest = rows[~own].reshape(-1, 2).max(1) / (1 - rows[own])
    assert np.median(sharpest) > 1 - 1e-9


def test_what_is_multiplied_at_a_time_changes_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = pictures(50, 3)
    whole = uniform_dependent(inputs, labels, 3, 0.4, np.random.default_rng(0))
    monkeypatch.setattr("apl.noise.instance.FLOATS", 200)  # two samples of 90 numbers
    parts = uniform_dependent(inputs, labels, 3, 0.4, np.random.default_rng(0))
    np.testing.assert_allclose(parts, whole, atol=1e-12)


def test_uniform_dependent_flips_exactly_as_many_and_follows_no_order() -> None:
    inputs, labels = pictures(1000, 5)
    rng = np.random.default_rng(3)
    rows = uniform_dependent(inputs, labels, 5, 0.4, rng)
    np.testing.assert_allclose(rows[np.arange(1000), labels], 0.6)
    drawn = corrupt_each(labels, rows, "exact", rng)
    assert drawn.wrong.sum() == 400  # the published floor(rate N)
    likeliest = np.where(np.arange(5) == labels[:, None], 0, rows).argmax(1)
    agree = (drawn.given == likeliest)[drawn.wrong]
    expected = np.sort(rows, 1)[:, -2][drawn.wrong] / 0.4
    spread = np.sqrt((expected * (1 - expected)).sum())
    assert abs(agree.sum() - expected.sum()) < 4 * spread + 1
    order = np.random.default_rng(0).permutation(1000)
    moved = Inputs(inputs.values[order], inputs.mean, inputs.std)
    again = uniform_dependent(moved, labels[order], 5, 0.4, np.random.default_rng(3))
    np.testing.assert_allclose(again, rows[order], atol=1e-12)


def test_the_rows_of_a_table_are_taken_as_they_are() -> None:
    rng = np.random.default_rng(0)
    table = Inputs(rng.standard_normal((30, 7)).astype(np.float32), (), ())
    labels = rng.integers(3, size=30)
    made = [
        uniform_dependent(table, labels, 3, 0.4, np.random.default_rng(0), scale)
        for scale in SCALES
    ]
    assert (made[0] == made[1]).all()
    assert (made[0] == made[2]).all()


def posterior_of(count: int, size: int, seed: int = 0) -> tuple[Matrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(size, size=count)
    scores = rng.standard_normal((count, size)) + 2.5 * np.eye(size)[labels]
    shares = np.exp(scores)
    return shares / shares.sum(1, keepdims=True), labels


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_pmd_is_what_its_code_does(kind: int) -> None:
    posterior, labels = posterior_of(400, 4)
    rate = {1: 0.35, 2: 0.65, 3: 0.7}[kind]
    rows = pmd(posterior, labels, rate, kind)
    np.testing.assert_allclose(rows.sum(1), 1)
    assert 1 - rows[np.arange(400), labels].mean() == pytest.approx(rate, abs=1e-12)
    order = np.argsort(posterior, 1)
    u, s = order[:, -1], order[:, -2]
    eta_u, eta_s = (posterior[np.arange(400), k] for k in (u, s))
    # As it is written there, before it is simplified.
    flip = {
        1: -0.5 * (eta_u - eta_s) ** 2 + 0.5,
        2: 1 - np.abs(eta_u - eta_s) ** 3,
        3: 1 - sum(np.abs(eta_u - eta_s) ** power / 3 for power in (3, 2, 1)),
    }[kind]
    level = np.maximum(1 - flip, 0.5) if kind == 1 else 1 - flip
    factors = level / rows[np.arange(400), u]
    np.testing.assert_allclose(factors, factors[0])
    np.testing.assert_allclose(rows[np.arange(400), s], 1 - level / factors[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)
        drawn = corrupt_each(labels, rows, rng=0)
    assert ((drawn.given == u) | (drawn.given == s)).all()
    assert abs(drawn.wrong.mean() - rate) < 4 * np.sqrt(0.25 / 400)


def test_a_rate_that_no_factor_leads_to_is_refused() -> None:
    posterior, labels = posterior_of(300, 4)
    with pytest.raises(BadInput, match=r"type 2 has rates of 0\.\d+ to 0\.\d+ with these prob"):
        pmd(posterior, labels, 0.01, 2)
    with pytest.raises(BadInput, match=r"got 0\.999"):
        pmd(posterior, labels, 0.999, 1)
    with pytest.raises(BadInput, match="type 1, 2 or 3, got 4"):
        pmd(posterior, labels, 0.5, 4)


def test_posteriors_are_checked(tmp_path: Path) -> None:
    posterior, _ = posterior_of(20, 4)
    np.save(tmp_path / "p.npy", posterior.astype(np.float32))
    np.testing.assert_allclose(read_posterior(tmp_path / "p.npy", 20, 4), posterior, atol=1e-6)
    with pytest.raises(BadInput, match=r"is \[20, 4\] of float32; accepted: .* \[21, 4\]"):
        read_posterior(tmp_path / "p.npy", 21, 4)
    with pytest.raises(BadInput, match="no probabilities at"):
        read_posterior(tmp_path / "q.npy", 20, 4)
    np.save(tmp_path / "p.npy", 2 * posterior)
    with pytest.raises(BadInput, match="no probabilities that sum to 1"):
        read_posterior(tmp_path / "p.npy", 20, 4)
    (tmp_path / "p.npy").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="holds no probabilities"):
        read_posterior(tmp_path / "p.npy", 20, 4)


@pytest.mark.slow
@given(
    st.integers(0, 2**32),
    st.integers(2, 6),
    st.integers(1, 80),
    st.floats(0, 1),
    st.sampled_from([name for name in ROWS if not name.startswith("pmd")]),
    st.sampled_from(SCALES),
    st.sampled_from(METHODS[:3]),
)
@settings(max_examples=60, deadline=None)
def test_labels_by_rows_for_any_shape_and_rate(
    seed: int, size: int, count: int, rate: float, kind: str, scale: str, method: str
) -> None:
    inputs, labels = pictures(count, size, seed)
    rows = ROWS[kind](inputs, labels, size, rate, scale, np.random.default_rng(seed))
    assert rows.shape == (count, size)
    assert (rows >= 0).all()
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)
        drawn = corrupt_each(labels, rows, method, seed)
        again = corrupt_each(labels, rows, method, seed)
    assert (drawn.given == again.given).all()
    assert (drawn.true == labels).all()
    assert (rows[np.arange(count), drawn.given] > 0).all()
    np.testing.assert_allclose(np.asarray(drawn.transition), mean_by_class(rows, labels))
    flips = 1 - rows[np.arange(count), labels]
    if method == "exact":
        assert abs(drawn.wrong.sum() - flips.sum()) <= 0.5 + 1e-6
    if method == "exact-per-class":
        for k in range(size):
            members = labels == k
            assert abs(drawn.wrong[members].sum() - flips[members].sum()) <= 0.5 + 1e-6


def test_labels_by_rows_follow_them_by_chi_square() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.dirichlet(np.ones(4), 3)  # three rows, each of many samples
    which, labels = np.repeat(np.arange(3), 6000), np.tile(np.arange(4), 4500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)
        drawn = corrupt_each(labels, kinds[which], rng=1)
    for k in range(3):
        counts = np.bincount(drawn.given[which == k], minlength=4)
        assert stats.chisquare(counts, 6000 * kinds[k]).pvalue > 1e-4


def test_rows_of_as_many_samples_as_classes_are_no_matrix() -> None:
    rows = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    labels = np.array([2, 2, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)
        assert corrupt_each(labels, rows).given.tolist() == [1, 2, 0]


def test_same_seed_same_dependent_labels_on_every_platform() -> None:
    pixels = np.arange(20 * 12, dtype=np.uint8).reshape(20, 2, 2, 3)
    rng = np.random.default_rng(7)
    rows = part_dependent(Inputs(pixels), labels_of(5, 4), 4, 0.5, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)
        drawn = corrupt_each(labels_of(5, 4), rows, rng=rng).given
    # Written down once: other platforms and later versions must give these very labels.
    assert drawn.tolist() == [2, 0, 0, 1, 0, 1, 2, 2, 1, 1, 3, 2, 2, 2, 2, 0, 3, 3, 3, 0]


@pytest.mark.parametrize(
    ("labels", "rows", "method", "message"),
    [
        ([0, 1], np.eye(3)[:2], "exact-per-pair", "depends on the class alone"),
        ([0, 1], np.eye(3), "transition", "rows must be 2 x K, got 3 x 3"),
        ([0, 1], np.ones((2, 3)), "transition", "sum to 1"),
        ([0, 1], np.full((2, 3), np.nan), "transition", "sum to 1"),
        ([0, 3], np.eye(3)[:2], "transition", r"lie in \[0, 3\), got 3"),
        ([0, 1], np.eye(3)[:2], "coin", "method must be one of"),
    ],
)
def test_bad_rows_are_one_clear_line(
    labels: list[int], rows: Matrix, method: str, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        corrupt_each(labels, rows, method)


def test_a_scale_of_pixels_that_is_none_is_refused() -> None:
    inputs, labels = pictures(5, 2)
    with pytest.raises(BadInput, match="is 'bytes'; accepted: raw, unit, normalised"):
        part_dependent(inputs, labels, 2, 0.1, np.random.default_rng(0), "bytes")
    with pytest.raises(BadInput, match="between 0 and 1"):
        uniform_dependent(inputs, labels, 2, 1.1, np.random.default_rng(0))


# ------------------------------------------------------------------- labels that were published


def write_labels(folder: Path, given: np.ndarray, clean: np.ndarray) -> list[Path]:
    """The same labels in every format that papers publish."""
    np.save(folder / "a.npy", given)
    (folder / "b.json").write_text(json.dumps(given.tolist()))
    np.savez(folder / "c.npz", noisy=given, clean=clean)
    torch.save(
        {"clean_label": clean, "noisy_label": given, "noisy_coarse_label": given}, folder / "d.pt"
    )
    return [folder / name for name in ("a.npy", "b.json", "c.npz", "d.pt")]


def test_published_labels_are_read_from_every_format(tmp_path: Path) -> None:
    clean = labels_of(50, 10)
    given = corrupt(clean, symmetric(10, 0.4), rng=0).given
    for path in write_labels(tmp_path, given, clean):
        read = read_published(path, clean, 10)
        assert read.dtype == np.int64
        assert (read == given).all()
    np.save(tmp_path / "a.npy", given[:450])  # PMD's 45,000 of 50,000
    assert (read_published(tmp_path / "a.npy", clean, 10) == given[:450]).all()


def test_labels_in_another_order_are_refused_or_warned_of(tmp_path: Path) -> None:
    clean = labels_of(50, 10)
    order = np.random.default_rng(0).permutation(500)
    given = corrupt(clean, symmetric(10, 0.4), rng=0).given
    plain, listed, own, people = write_labels(tmp_path, given[order], clean[order])
    for path in (own, people):
        with pytest.raises(BadInput, match="of other samples, or in another order"):
            read_published(path, clean, 10)
    for path in (plain, listed):
        with pytest.warns(NoiseWarning, match="no loss is tolerant"):
            read_published(path, clean, 10)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.zeros(7, int), "has 7 labels; accepted: 20, .* or 18, without the last tenth"),
        ("a.npy", np.zeros((20, 2), int), r"\[20, 2\] of int64; accepted: whole numbers"),
        ("a.npy", np.zeros(20), "of float64; accepted: whole numbers"),
        ("a.npy", np.full(20, 5), r"must lie in \[0, 5\)"),
        ("a.npy", b"", "holds no labels"),
        ("a.npy", np.array([{"a": 1}] * 20), "holds no labels"),
        ("a.json", b"[1, ", "holds no labels"),
        ("a.json", b'["cat"]', "accepted: whole numbers"),
        ("a.pt", b"PK", "holds no labels"),
        ("a.npz", b"PK", "holds no labels"),
        ("a.csv", b"0", "accepted: a .npy, .json, .pt or .npz file of labels"),
    ],
)
def test_bad_label_files_are_one_clear_line(
    tmp_path: Path, name: str, content: bytes | np.ndarray, message: str
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(BadInput, match=message) as caught:
        read_published(path, np.arange(20) % 5, 5)
    assert "\n" not in str(caught.value)


def test_a_file_with_many_labels_says_which(tmp_path: Path) -> None:
    torch.save({"clean_label": np.arange(4), "worse_label": np.arange(4)}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="no 'noisy' or 'noisy_label', but clean_label, worse_label"):
        read_published(tmp_path / "a.pt", np.arange(4), 4)
    with pytest.raises(BadInput, match="no labels at"):
        read_published(tmp_path / "b.pt", np.arange(4), 4)
