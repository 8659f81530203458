"""Labels and evidence with indices of pandas: judged together as they belong, or refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from apl import LabelMonitor, RobustClassifier, find_issues, noise_rate, rank
from apl.errors import BadInput

N = 60
NAMES = pd.Index([f"s{k}" for k in np.random.default_rng(0).permutation(N)])
LABELS = pd.Series(np.arange(N) % 3, index=NAMES)
PROBS = pd.DataFrame(np.eye(3)[np.arange(N) % 3] * 0.7 + 0.1, index=NAMES)
ROWS = PROBS + np.random.default_rng(1).normal(0, 0.1, (N, 3))


@pytest.mark.parametrize("judge", [find_issues, noise_rate, rank])
def test_labels_and_probabilities_in_two_orders_are_refused(judge: object) -> None:
    assert callable(judge)
    judge(LABELS, PROBS)
    for probs in (PROBS, PROBS.to_numpy()):  # an index that says nothing
        judge(LABELS.reset_index(drop=True), probs)
    with pytest.raises(BadInput, match="of the probabilities, but in another order"):
        judge(LABELS.sort_index(), PROBS)


@pytest.mark.slow
def test_a_classifier_never_pairs_rows_with_the_labels_of_others() -> None:
    model = RobustClassifier(epochs=2, random_state=0)
    assert model.fit(ROWS, LABELS).label_issues_.index.equals(NAMES)
    model.set_params(repair=False)
    at_once = model.fit(ROWS, LABELS).predict_proba(ROWS)
    plain = model.fit(ROWS.to_numpy(), LABELS.to_numpy()).predict_proba(ROWS.to_numpy())
    np.testing.assert_array_equal(at_once, plain)
    with pytest.raises(BadInput, match="the labels have an index"):
        model.fit(ROWS, LABELS.sort_index())
    weights = pd.Series(1.0, index=NAMES)
    model.fit(ROWS, LABELS, weights)
    with pytest.raises(BadInput, match="sample_weight has an index"):
        model.fit(ROWS, LABELS, weights.sort_index())


def test_a_monitor_takes_arrays_and_series_by_their_place_in_the_batch() -> None:
    monitor, other = LabelMonitor(N, 3), LabelMonitor(N, 3)
    for batch in np.random.default_rng(0).permutation(N).reshape(6, 10):
        logits = torch.tensor(ROWS.to_numpy()[batch])
        monitor.update(pd.Series(batch, index=NAMES[batch]), logits, LABELS.iloc[batch])
        other.update(torch.tensor(batch), logits, torch.tensor(LABELS.to_numpy()[batch]))
    np.testing.assert_array_equal(monitor.findings().label_score, other.findings().label_score)
    assert monitor.findings().given_label.tolist() == LABELS.tolist()
    with pytest.raises(ValueError, match="indices must be from 0 to 59, got 60"):
        monitor.update([60], torch.zeros(1, 3), [0])  # a row's name, and no place
