"""Finding wrong labels: scores against known posteriors, monitor against batch, real runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PATIENCE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from apl import load_data
from apl.detect.evidence import (
    INVISIBLE,
    Evidence,
    Findings,
    Rate,
    detection_scores,
    estimate_transition,
    find_issues,
    noise_rate,
    rank,
)
from apl.detect.flips import one_way_flips
from apl.detect.monitor import LabelMonitor
from apl.detect.search import EVIDENCE, Search, find_mislabelled
from apl.errors import BadInput, Interrupted
from apl.noise.labels import UNKNOWN, Labels
from apl.noise.matrices import symmetric
from apl.training.listener import Listener, ignore

seeds = st.integers(0, 2**32 - 1)


def test_detection_scores_count_only_what_is_known() -> None:
    """By hand: five samples, of one the truth is unknown, one was never seen."""
    found = Findings(
        is_label_issue=np.array([True, True, False, True, False]),
        label_score=np.array([0.1, 0.2, 0.3, 0.05, np.nan]),
        given_label=np.array([0, 0, 1, 1, 0]),
        predicted_label=np.array([1, 1, 1, 0, -1]),
        noise_rate=Rate(0.4, 0.3, 0.5),
        transition=np.eye(2),
        doubts=[],
    )
    labels = Labels(found.given_label, np.array([1, 0, 0, UNKNOWN, 1]))
    scores = detection_scores(
        found, labels
    )  # of the first three: 0 and 2 are wrong, 0 and 1 flagged
    assert (scores["precision"], scores["recall"], scores["f1"]) == (0.5, 0.5, 0.5)
    assert scores["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    unknown = Labels(found.given_label, np.full(5, UNKNOWN))
    assert detection_scores(found, unknown) == {}


def problem(
    seed: int, transition: np.ndarray, count: int = 6000, sharp: float = 3.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True posteriors p [N, K], labels drawn by them and the noise, and which are wrong."""
    draws = np.random.default_rng(seed)
    classes = len(transition)
    logits = draws.normal(size=(count, classes)) * sharp
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    true = (p.cumsum(1) > draws.random((count, 1))).argmax(1)
    given_label = (transition[true].cumsum(1) > draws.random((count, 1))).argmax(1)
    return p, given_label, given_label != true


def average_precision(wrong: np.ndarray, label_score: np.ndarray) -> float:
    hits = wrong[np.argsort(label_score, kind="stable")]
    return float((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())


def bayes(p: np.ndarray, transition: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The chance that a label is right, where image and noise are known exactly."""
    joint = p * transition[:, labels].T
    return joint[np.arange(len(labels)), labels] / joint.sum(1)


def one_way(classes: int, pairs: dict[int, int], rate: float) -> np.ndarray:
    matrix = np.eye(classes)
    for source, target in pairs.items():
        matrix[source, source], matrix[source, target] = 1 - rate, rate
    return matrix


def evidence_of(p: np.ndarray, transition: np.ndarray) -> Evidence:
    """What a calibrated network that never memorises says: posteriors of the given label."""
    q = p @ transition
    return Evidence(np.log(q), q, np.full(len(q), 10))


# ------------------------------------------------------------------------------ the score


@settings(max_examples=20, deadline=None)
@given(seed=seeds, rate=st.floats(0.2, 0.6), classes=st.integers(3, 12))
def test_symmetric_noise_is_ranked_as_well_as_by_the_true_posterior(
    seed: int, rate: float, classes: int
) -> None:
    transition = symmetric(classes, rate)
    p, labels, wrong = problem(seed, transition)
    best = average_precision(wrong, bayes(p, transition, labels))
    assert average_precision(wrong, rank(labels, p)) > best - 0.05


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(seed=seeds, rate=st.floats(0.25, 0.45))
def test_one_way_flips_are_found_and_undone(seed: int, rate: float) -> None:
    pairs = {9: 1, 2: 0, 4: 7}
    transition = one_way(10, pairs, rate)
    p, labels, wrong = problem(seed, transition, 20_000, 2.0)
    evidence = evidence_of(p, transition)
    flips = one_way_flips(labels, evidence.early)
    found = {(int(j), int(k)) for j, k in zip(*np.nonzero(flips > 0.15), strict=True)}
    assert found == set(pairs.items())
    best = average_precision(wrong, bayes(p, transition, labels))
    ours = average_precision(wrong, rank(labels, evidence))
    plain = average_precision(wrong, evidence.early[np.arange(len(labels)), labels])
    assert best - 0.1 < ours > plain + 0.5


@settings(max_examples=20, deadline=None)
@given(seed=seeds, rate=st.floats(0.0, 0.7))
def test_no_flip_is_invented_where_confusion_is_mutual(seed: int, rate: float) -> None:
    transition = symmetric(10, rate)
    p, labels, _ = problem(seed, transition, 10_000, 1.0)
    assert one_way_flips(labels, p @ transition).max() < 0.15


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_names_of_classes_and_order_of_samples_do_not_matter(seed: int) -> None:
    p, labels, _ = problem(seed, one_way(6, {0: 1, 3: 2}, 0.3), 2000)
    draws = np.random.default_rng(seed)
    classes, order = draws.permutation(6), draws.permutation(len(labels))
    renamed = np.empty_like(p)
    renamed[:, classes] = p
    scores = rank(labels, p)
    assert np.allclose(rank(classes[labels], renamed), scores, rtol=1e-6)
    assert np.allclose(rank(labels[order], p[order]), scores[order], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_equal_samples_get_equal_scores(seed: int) -> None:
    p, labels, _ = problem(seed, symmetric(5, 0.3), 500)
    scores = rank(np.tile(labels, 2), np.tile(p, (2, 1)))
    assert np.array_equal(scores[:500], scores[500:])
    assert ((scores >= 0) & (scores <= 1)).all()


def test_the_transition_is_stochastic_and_knows_the_direction() -> None:
    transition = one_way(10, {2: 0}, 0.4)
    p, labels, _ = problem(0, transition, 20_000, 2.0)
    found = estimate_transition(labels, evidence_of(p, transition))
    assert np.allclose(found.sum(1), 1)
    assert found[2, 0] > 5 * found[0, 2]
    assert found[2, 0] == (found - np.diag(np.diag(found))).max()


# ---------------------------------------------------------------------- rate, cut, doubts


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4, 0.6])
def test_the_noise_rate_of_a_good_network_lies_in_the_interval(rate: float) -> None:
    errors, inside = [], 0
    for seed in range(20):
        p, labels, wrong = problem(seed, symmetric(10, rate), 10_000, 8.0)
        found = noise_rate(labels, p)
        errors.append(found.estimate - wrong.mean())
        inside += bool(found.low <= wrong.mean() <= found.high)
    assert inside >= 17
    assert abs(np.mean(errors)) < 0.015


@pytest.mark.parametrize("rate", [0.2, 0.4])
def test_a_good_network_that_was_pushed_to_its_labels_names_more_anchors(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its few surest samples are those whose label fits; among many, fewer are missing."""
    p, labels, wrong = problem(0, symmetric(10, rate), 10_000, 30.0)
    logits = 0.1 * np.log(p.clip(1e-30))
    logits[np.arange(len(p)), labels] += 0.3
    seen = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    evidence = Evidence(np.log(seen), seen, np.full(len(p), 10))
    found = noise_rate(labels, evidence)
    assert found.low <= wrong.mean() <= found.high
    monkeypatch.setattr("apl.detect.evidence.SURE", 2.0)
    few = noise_rate(labels, evidence)
    assert few.high < wrong.mean()


def test_the_noise_rate_lies_midway_where_all_wrong_labels_were_learned_in_the_end() -> None:
    """Of the surest early samples those are left that the end confirms, and none of them is wrong:
    0 by them, the truth by all of them."""
    early, labels, wrong = problem(0, symmetric(10, 0.4), 10_000, 8.0)
    learned = np.full_like(early, 0.01)
    learned[np.arange(len(labels)), labels] = 0.91
    found = noise_rate(labels, Evidence(np.log(learned), early, np.full(len(labels), 10)))
    assert 0.4 * wrong.mean() < found.estimate < 0.6 * wrong.mean()
    assert found.low == 0


@settings(max_examples=30, deadline=None)
@given(seed=seeds, rate=st.floats(0, 0.8), classes=st.integers(2, 10), sharp=st.floats(0.1, 8))
def test_findings_fit_together(seed: int, rate: float, classes: int, sharp: float) -> None:
    p, labels, _ = problem(seed, symmetric(classes, rate), 400, sharp)
    found = find_issues(labels, p)
    rate_found = found.noise_rate
    assert 0 <= rate_found.low <= rate_found.estimate <= rate_found.high <= 1
    flagged, scores = found.is_label_issue, found.label_score
    if flagged.any() and not flagged.all():
        assert scores[flagged].max() <= scores[~flagged].min()
    assert (found.predicted_label[flagged] != labels[flagged]).all()
    assert (np.diff(scores[np.argsort(rank(labels, p), kind="stable")]) >= 0).all()
    assert abs((1 - scores).mean() - rate_found.estimate) < 1e-3
    assert list(found.table().columns) == [
        "is_label_issue",
        "label_score",
        "given_label",
        "predicted_label",
    ]


def test_the_cut_is_better_than_prediction_differs_from_label() -> None:
    p, labels, wrong = problem(2, symmetric(10, 0.2), 10_000, 2.0)

    def f1(flagged: np.ndarray) -> float:
        return float(2 * (flagged & wrong).sum() / (flagged.sum() + wrong.sum()))

    assert f1(find_issues(labels, p).is_label_issue) > f1(p.argmax(1) != labels)


def test_it_says_when_it_cannot_tell() -> None:
    p, labels, _ = problem(3, symmetric(10, 0.4), 4000, 8.0)
    assert find_issues(labels, p).doubts == [INVISIBLE]
    blind = np.full_like(p, 0.1) + np.random.default_rng(0).random(p.shape) * 1e-3
    blind /= blind.sum(1, keepdims=True)
    assert any(text.startswith("weak network") for text in find_issues(labels, blind).doubts)
    without = p.copy()
    without[:, 4] = 1e-9
    without /= without.sum(1, keepdims=True)
    doubts = find_issues(labels, without).doubts
    assert any(text.startswith("given up") and "class 4" in text for text in doubts)
    names = [f"name{k}" for k in range(10)]
    assert any("class 'name4'" in text for text in find_issues(labels, without, names).doubts)
    assert any(text.startswith("too few") for text in find_issues(labels[:300], p[:300]).doubts)
    by_heart = np.eye(10)[labels] * 0.99 + 0.001
    known = Evidence(np.log(by_heart), p, np.full(len(p), 50))
    assert any(text.startswith("memorised") for text in find_issues(labels, known).doubts)


# ------------------------------------------------------------------------- degenerate input


GOOD = np.full((4, 3), 1 / 3)


@pytest.mark.parametrize(
    ("labels", "evidence", "says"),
    [
        ([0, 1, 2], GOOD, r"labels must be \[4\]"),
        ([0, 1, 2, 3], GOOD, "labels must be from 0 to 2, got 3"),
        ([0, 1, 2, -1], GOOD, "labels must be from 0 to 2, got -1"),
        ([0.0, 1.0, 2.0, 0.0], GOOD, "labels must be integers from 0 to 2"),
        ([0, 1, 2, 0], GOOD * 2, "row 0 sums to 2"),
        ([0, 1, 2, 0], GOOD * np.nan, "finite"),
        ([0, 1, 2, 0], GOOD - [1, -0.5, -0.5], "not negative"),
        ([0, 1, 2, 0], GOOD[:, 0], r"\[N, K\]"),
        ([0, 0, 0, 0], GOOD[:, :1], "K of 2 or more"),
        ([], np.zeros((0, 3)), "no samples"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(labels: object, evidence: object, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        rank(labels, evidence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [[0], [0, 0, 0], [0, 1]])
def test_tiny_sets_and_single_classes_are_judged_without_a_warning(labels: list[int]) -> None:
    probs = np.tile([0.7, 0.2, 0.1], (len(labels), 1))
    with np.errstate(all="raise"):
        found = find_issues(labels, probs)
    assert np.isfinite(found.label_score).all()
    assert any(text.startswith("too few") for text in found.doubts)


def test_certain_probabilities_are_no_trouble() -> None:
    labels = np.arange(300) % 3
    probs = np.eye(3)[labels]
    probs[:30] = np.eye(3)[(labels[:30] + 1) % 3]
    found = find_issues(labels, probs)
    assert found.is_label_issue[:30].all()
    assert not found.is_label_issue[30:].any()
    assert np.array_equal(found.predicted_label[:30], (labels[:30] + 1) % 3)


# ------------------------------------------------------------------------------ the monitor


def watched(epochs: int = 4, count: int = 50, classes: int = 4) -> tuple[LabelMonitor, np.ndarray]:
    """A monitor of random logits [epochs, N, K], seen in shuffled batches."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(epochs, count, classes, generator=generator) * 3
    labels = torch.arange(count) % classes
    monitor = LabelMonitor(count, classes)
    for epoch in range(epochs):
        for chosen in torch.randperm(count, generator=generator).split(16):
            monitor.update(chosen, logits[epoch, chosen], labels[chosen])
    return monitor, logits.double().numpy()


def test_the_monitor_averages_what_it_saw() -> None:
    monitor, logits = watched()
    log_probs = logits - np.log(np.exp(logits).sum(2, keepdims=True))
    evidence = monitor.evidence
    assert np.allclose(evidence.log_probs, log_probs.mean(0), atol=1e-5)
    assert np.allclose(evidence.early, np.exp(log_probs[: monitor.early]).mean(0), atol=1e-6)
    assert (evidence.visits == 4).all()
    assert np.array_equal(monitor.labels, np.arange(50) % 4)


def test_a_monitor_goes_on_from_its_state() -> None:
    whole, logits = watched(4)
    first, _ = watched(4)
    labels = torch.arange(50) % 4
    parts = [LabelMonitor(50, 4), LabelMonitor(50, 4)]
    every = torch.arange(50)
    for epoch in range(4):
        if epoch == 2:
            parts[1].load_state_dict(parts[0].state_dict())
        parts[epoch // 2].update(every, torch.from_numpy(logits[epoch]).float(), labels)
    assert np.allclose(parts[1].evidence.log_probs, whole.evidence.log_probs, atol=1e-6)
    assert np.allclose(parts[1].evidence.early, whole.evidence.early, atol=1e-6)
    assert first.issues().equals(whole.issues())
    with pytest.raises(ValueError, match="log_probs must be"):
        LabelMonitor(49, 4).load_state_dict(whole.state_dict())
    with pytest.raises(ValueError, match="got none"):
        whole.load_state_dict({})


def test_curves_tell_what_the_given_label_got_epoch_by_epoch() -> None:
    logits = torch.randn(3, 50, 4, generator=torch.Generator().manual_seed(0)) * 3
    labels = torch.arange(50) % 4
    of_label = logits.softmax(2)[:, torch.arange(50), labels].T.numpy()
    whole, first = LabelMonitor(50, 4, curves=True), LabelMonitor(50, 4, curves=True)
    assert whole.curves.shape == (50, 0)
    for epoch in range(3):
        for chosen in torch.randperm(50).split(16):
            whole.update(chosen, logits[epoch, chosen], labels[chosen])
    assert whole.curves.dtype == np.float16
    assert np.allclose(whole.curves, of_label, atol=1e-3)
    assert LabelMonitor(50, 4).curves.shape == (50, 0)

    # Killed within the second epoch, and gone on.
    steps = [(epoch, chosen) for epoch in range(3) for chosen in torch.arange(50).split(16)]
    monitor = first
    for step, (epoch, chosen) in enumerate(steps):
        if step == 6:
            monitor = LabelMonitor(50, 4, curves=True)
            monitor.load_state_dict(first.state_dict())
        monitor.update(chosen, logits[epoch, chosen], labels[chosen])
    assert np.allclose(monitor.curves, of_label, atol=1e-3)
    assert np.isnan(first.curves[32:, 1]).all()
    assert first.curves.shape == (50, 2)


def test_states_with_and_without_curves_are_taken_by_each_other() -> None:
    with_curves, without = LabelMonitor(4, 3, curves=True), LabelMonitor(4, 3)
    every, logits = torch.arange(4), torch.randn(4, 3)
    for monitor in (with_curves, without):
        monitor.update(every, logits, every % 3)
    state, plain = with_curves.state_dict(), without.state_dict()
    assert set(state) - set(plain) == {"curves", "taken"}
    without.load_state_dict(state)
    assert without.curves.shape == (4, 0)
    with_curves.load_state_dict(plain)
    assert with_curves.curves.shape == (4, 0)
    with_curves.update(every, logits, every % 3)
    assert with_curves.curves.shape == (4, 1)
    assert with_curves.evidence.visits.tolist() == [2, 2, 2, 2]


def test_a_sample_seen_twice_in_a_batch_counts_twice() -> None:
    monitor = LabelMonitor(2, 3)
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    monitor.update(torch.tensor([0, 1, 0]), logits, torch.tensor([0, 1, 0]))
    log_probs = logits.log_softmax(1)
    assert np.allclose(monitor.evidence.log_probs[0], (log_probs[0] + log_probs[2]) / 2, atol=1e-6)
    assert monitor.evidence.visits.tolist() == [2, 1]


def test_samples_never_seen_have_no_score_and_change_no_other() -> None:
    whole, logits = watched(1)
    larger = LabelMonitor(53, 4)
    larger.update(torch.arange(50) + 3, torch.from_numpy(logits[0]).float(), torch.arange(50) % 4)
    found, table = larger.findings(), larger.issues()
    assert np.isnan(table.label_score[:3]).all()
    assert not table.is_label_issue[:3].any()
    assert (table.predicted_label[:3] == -1).all()
    assert np.allclose(table.label_score[3:], whole.issues().label_score, atol=1e-5)
    assert found.doubts[0].startswith("3 of 53 samples were never seen")
    with pytest.raises(ValueError, match="no sample was ever seen"):
        LabelMonitor(5, 3).issues()


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (((2,), (2, 4), (2,)), r"logits must be \[B, 3\]"),
        (((3,), (2, 3), (2,)), r"must be \[2\]"),
        (((2,), (2, 3), (2, 1)), r"must be \[2\]"),
    ],
)
def test_the_monitor_names_a_wrong_shape(shapes: tuple[tuple[int, ...], ...], says: str) -> None:
    indices, logits, targets = shapes
    with pytest.raises(ValueError, match=says):
        LabelMonitor(5, 3).update(
            torch.zeros(indices, dtype=torch.long),
            torch.zeros(logits),
            torch.zeros(targets, dtype=torch.long),
        )


def test_watching_changes_no_gradient_and_takes_other_types() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    monitor = LabelMonitor(4, 3)
    monitor.update(torch.arange(4), logits, torch.zeros(4, dtype=torch.long))
    int32 = torch.zeros(4, dtype=torch.int32)
    monitor.update(int32, logits.bfloat16(), int32)
    assert monitor.evidence.visits.tolist() == [5, 1, 1, 1]
    assert all(not total.requires_grad for total in monitor.state_dict().values())
    nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.long)).backward()
    assert logits.grad is not None


@pytest.mark.slow
def test_ranking_loads_no_torch() -> None:
    code = (
        "import sys, numpy as np; from apl.find import rank, find_issues;"
        "find_issues([0, 1, 1], np.full((3, 2), .5)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


# ------------------------------------------------------------------------------- real runs


def noisy_digits(count: int = 1797) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """(images, labels as words) of which 30 % are wrong, and the true classes."""
    from sklearn.datasets import load_digits

    pixels, true = load_digits(return_X_y=True)
    pixels, true = (pixels.reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)[:count], true[:count]
    draws = np.random.default_rng(0)
    wrong = draws.random(count) < 0.3
    given_label = np.where(wrong, (true + draws.integers(1, 10, count)) % 10, true)
    return (pixels, np.array([f"digit {k}" for k in given_label])), true


def search(*args: Any, **settings: Any) -> Search:
    listener = settings.pop("listener", Listener()) + Listener(on_message=ignore)
    return find_mislabelled(*args, listener=listener, **settings)


def f1(flagged: np.ndarray, wrong: np.ndarray) -> float:
    return float(2 * (flagged & wrong).sum() / (flagged.sum() + wrong.sum()))


@pytest.mark.slow
def test_wrong_labels_of_own_images_are_found() -> None:
    (images, words), true = noisy_digits()
    found = search((images, words))
    which = np.array([int(name) for name in found.data.train.names])
    wrong = words[which] != np.array([f"digit {k}" for k in true[which]])
    findings = found.findings
    assert average_precision(wrong, findings.label_score) > 0.95
    assert f1(findings.is_label_issue, wrong) > 0.85
    assert findings.noise_rate.low <= wrong.mean() <= findings.noise_rate.high
    assert findings.doubts == [INVISIBLE]
    assert found.config.noise == "none"
    assert found.curves.shape == (len(which), found.config.epochs)
    # A wrong label is believed late, if ever.
    late = found.curves[:, -1].astype(float)
    assert late[~wrong].mean() > late[wrong].mean() + 0.5

    table = found.table()
    assert list(table.columns) == [
        *("id", "is_label_issue", "label_score", "given_label", "predicted_label", "file_name")
    ]
    assert list(table.id) == list(range(len(which)))
    assert list(table.file_name) == list(found.data.train.names)
    assert list(table.given_label) == list(words[which])
    right = table.predicted_label == [f"digit {k}" for k in true[which]]
    assert right[findings.is_label_issue & wrong].mean() > 0.8


@pytest.mark.slow
def test_folds_are_judged_by_what_has_not_seen_them() -> None:
    source, true = noisy_digits(1000)
    found = search(source, folds=2, epochs=20)
    which = np.array([int(name) for name in found.data.train.names])
    wrong = source[1][which] != np.array([f"digit {k}" for k in true[which]])
    assert average_precision(wrong, found.findings.label_score) > 0.85
    assert (found.evidence.visits == 1).all()
    assert found.curves.shape == (len(which), 0)
    # The network of a fold that had seen its labels would agree with more than are right.
    agrees = found.evidence.early.argmax(1) == found.data.train.labels.given
    assert agrees.mean() < 1 - wrong.mean() + 0.02


@pytest.mark.slow
def test_artificial_noise_is_added_once_with_folds() -> None:
    asked = {"noise": "sym", "rate": 0.4, "epochs": 1}
    labels = [search("digits", folds=folds, **asked).data.train.labels for folds in (0, 2)]
    assert np.array_equal(labels[0].given, labels[1].given)
    assert 0.3 < labels[0].wrong.mean() < 0.5


@pytest.mark.slow
def test_a_killed_search_goes_on_and_a_finished_one_is_read(tmp_path: Path) -> None:
    data = load_data(noisy_digits(400)[0], say=lambda line: None)
    whole = search(data, epochs=4)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 50

    with pytest.raises(Interrupted):
        search(data, epochs=4, run=tmp_path / "run", listener=Listener(should_stop=stop))
    for _ in range(2):  # goes on, is read
        found = search(data, epochs=4, run=tmp_path / "run")
        assert np.array_equal(found.findings.label_score, whole.findings.label_score)
        assert np.array_equal(found.curves, whole.curves)
    (tmp_path / "run" / EVIDENCE).unlink()
    with pytest.raises(BadInput, match="was trained and not watched"):
        search(data, epochs=4, run=tmp_path / "run")


@pytest.mark.slow
def test_a_built_in_set_is_searched_in_a_run_folder(tmp_path: Path) -> None:
    found = search("digits", run=tmp_path / "run", noise="sym", rate=0.3)
    labels = found.data.train.labels
    assert average_precision(labels.wrong, found.findings.label_score) > 0.95
    assert (tmp_path / "run" / EVIDENCE).exists()


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"folds": 1}, "folds is 1; accepted: 0, or 2 and more"),
        ({"folds": 2, "run": Path("x")}, "run is 'x'"),
        ({"select": "noisy"}, "select is 'noisy'"),
        ({"preset": "huge"}, "preset is 'huge'"),
        ({"network": "huge"}, "network is 'huge'"),
    ],
)
def test_what_a_search_does_not_take_is_told_in_one_line(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        search("digits", **asked)
    assert "\n" not in str(caught.value)


def test_a_search_says_that_it_failed() -> None:
    found = search(noisy_digits(300)[0], loss="ce", lr=1e-9, epochs=1)
    assert found.findings.doubts[0].startswith("the training failed (")
    assert any(text.startswith("weak network") for text in found.findings.doubts)


def vectors() -> tuple[Tensor, Tensor, np.ndarray]:
    """scikit-learn's digits as vectors [N, 64], labels of which 30 % are wrong, and the truth."""
    from sklearn.datasets import load_digits

    pixels, true = load_digits(return_X_y=True)
    draws = np.random.default_rng(0)
    wrong = draws.random(len(true)) < 0.3
    given_label = np.where(wrong, (true + draws.integers(1, 10, len(true))) % 10, true)
    return torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(given_label), true


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def check_found(monitor: LabelMonitor, labels: Tensor, true: np.ndarray) -> None:
    issues = monitor.issues()
    wrong = labels.numpy() != true
    assert average_precision(wrong, issues.label_score.to_numpy()) > 0.9
    suggested = issues.predicted_label.to_numpy()[issues.is_label_issue & wrong]
    assert (suggested == true[issues.is_label_issue & wrong]).mean() > 0.8
    assert (monitor.evidence.visits == 15).all()


@pytest.mark.slow
def test_a_loop_of_plain_torch() -> None:
    """docs/find.md shows these lines, as those of the two tests below."""
    images, labels, true = vectors()
    network = perceptron()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    monitor = LabelMonitor(num_samples=len(images), num_classes=10)
    for _ in range(15):
        for indices in torch.randperm(len(images)).split(64):
            logits = network(images[indices])
            monitor.update(indices, logits, labels[indices])
            optimiser.zero_grad()
            nn.functional.cross_entropy(logits, labels[indices]).backward()
            optimiser.step()
    check_found(monitor, labels, true)


def test_a_lightning_module(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
    from torch.utils.data import DataLoader, TensorDataset

    images, labels, true = vectors()
    monitor = LabelMonitor(num_samples=len(images), num_classes=10)

    class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = perceptron()

        def training_step(self, batch: tuple[Tensor, Tensor, Tensor], step: int) -> Tensor:
            indices, images, labels = batch
            logits = self.network(images)
            monitor.update(indices, logits, labels)
            return nn.functional.cross_entropy(logits, labels)

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["monitor"] = monitor.state_dict()

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            monitor.load_state_dict(checkpoint["monitor"])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 3e-3)

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    dataset = TensorDataset(torch.arange(len(images)), images, labels)
    loader = DataLoader(dataset, batch_size=64, shuffle=True)
    model = Classifier()
    first = lightning.Trainer(max_epochs=5, accelerator="cpu", enable_checkpointing=False, **quiet)
    first.fit(model, loader)
    first.save_checkpoint(tmp_path / "some.ckpt")
    monitor = LabelMonitor(num_samples=len(images), num_classes=10)
    second = lightning.Trainer(
        max_epochs=15, accelerator="cpu", enable_checkpointing=False, **quiet
    )
    second.fit(model, loader, ckpt_path=tmp_path / "some.ckpt", weights_only=True)
    check_found(monitor, labels, true)


def test_a_hugging_face_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    images, labels, true = vectors()
    monitor = LabelMonitor(num_samples=len(images), num_classes=10)

    class WatchedTrainer(transformers.Trainer):  # type: ignore[misc, name-defined]
        def compute_loss(
            self,
            model: nn.Module,
            inputs: dict[str, Tensor],
            return_outputs: bool = False,
            **more: Any,
        ) -> Any:
            indices, labels = inputs.pop("indices"), inputs["labels"]
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **more)
            if model.training:
                monitor.update(indices, outputs["logits"], labels)
            return (loss, outputs) if return_outputs else loss

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = perceptron()

        def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.network(images)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    dataset = [
        {"indices": i, "images": image, "labels": label}
        for i, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=15,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        remove_unused_columns=False,  # else the indices are taken away
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    WatchedTrainer(model=Classifier(), args=settings, train_dataset=dataset).train()
    check_found(monitor, labels, true)
