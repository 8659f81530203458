"""`apl.RobustClassifier`: as scikit-learn wants it, on what its users have, in their process."""

from __future__ import annotations

import dataclasses
import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from joblib.externals import loky
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris, load_wine, make_blobs
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import apl
from apl.detect.estimator import BUDGET, read_labels
from apl.errors import BadInput

QUICK: dict[str, Any] = {"repair": False, "epochs": 5}


def blobs(count: int = 200, wrong: float = 0.3) -> tuple[Any, Any, Any]:
    """Rows, labels of which a share is wrong, and the true ones."""
    rows, true = make_blobs(count, 5, centers=3, cluster_std=2.0, random_state=1)
    draw = np.random.default_rng(0)
    flipped = draw.random(count) < wrong
    given = np.where(flipped, (true + draw.integers(1, 3, count)) % 3, true)
    return rows, given, true


@pytest.mark.slow
@parametrize_with_checks([apl.RobustClassifier()])
def test_scikit_learn_accepts_it(
    estimator: Any, check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(BUDGET, steps=40, epochs=5)  # enough for what they ask
    monkeypatch.setattr("apl.detect.estimator.BUDGET", short)
    monkeypatch.setattr("apl.training.arrays.FEWEST_STEPS", 40)
    check(estimator)


@pytest.mark.slow
def test_wrong_labels_are_named_and_learned_around() -> None:
    rows, given, true = blobs()
    fitted = apl.RobustClassifier().fit(rows, given)
    assert fitted.score(rows, true) > 0.95
    table = fitted.label_issues_
    assert [*table] == ["is_label_issue", "label_score", "given_label", "predicted_label"]
    flagged, wrong = table["is_label_issue"].to_numpy(), given != true
    assert (flagged & wrong).sum() / wrong.sum() > 0.8
    assert (flagged & ~wrong).sum() < 0.1 * len(rows)
    assert (table["predicted_label"] == true)[flagged & wrong].mean() > 0.9
    rate = fitted.noise_rate_
    assert rate.low <= wrong.mean() <= rate.high
    assert rate.low <= rate.estimate <= rate.high
    assert fitted.transition_.shape == (3, 3)
    assert fitted.doubts_
    assert fitted.n_iter_ == len(fitted.history_) > 0
    again = apl.RobustClassifier().fit(rows, given)
    np.testing.assert_array_equal(fitted.predict_proba(rows), again.predict_proba(rows))
    pd.testing.assert_frame_equal(table, again.label_issues_)


def test_without_repair_nothing_is_said_of_labels() -> None:
    rows, given, true = blobs()
    fitted = apl.RobustClassifier(repair=False, epochs=20).fit(rows, given)
    assert fitted.score(rows, true) > 0.9
    assert not hasattr(fitted, "label_issues_")
    assert fitted.n_iter_ == 20
    other = apl.RobustClassifier(repair=False, epochs=20, random_state=1).fit(rows, given)
    assert not np.array_equal(fitted.predict_proba(rows), other.predict_proba(rows))


@pytest.mark.slow
def test_whole_weights_are_copies_and_no_order_counts() -> None:
    rows, given, _ = blobs(90)
    weights = np.arange(90) % 3  # a third of them of weight 0
    weighted = apl.RobustClassifier(epochs=3).fit(rows, given, sample_weight=weights)
    copied = apl.RobustClassifier(epochs=3).fit(
        np.repeat(rows, weights, axis=0)[::-1], np.repeat(given, weights)[::-1]
    )
    np.testing.assert_array_equal(weighted.predict_proba(rows), copied.predict_proba(rows))
    scores = weighted.label_issues_["label_score"]
    assert scores.isna().to_numpy().tolist() == (weights == 0).tolist()


@pytest.mark.parametrize(
    ("labels", "classes", "missing"),
    [
        ([0, 1, -1, 2, 1], [0, 1, 2], [2]),
        ([1, -1, -1, 1, 1], [-1, 1], []),
        ([0.0, np.nan, 1.0, 1.0, 0.0], [0.0, 1.0], [1]),
        (["cat", None, "dog", "dog", "cat"], ["cat", "dog"], [1]),
        (["cat", "N/A", "none", "none", "cat"], ["cat", "none"], [1]),
        (pd.Series([1, None, 3, 3, 1], dtype="Int64"), [1, 3], [1]),
        (pd.Series(["a", None, "b", "b", "a"], dtype="category"), ["a", "b"], [1]),
        ([True, False, True, True, False], [False, True], []),
        (torch.tensor([3, 5, 3, 3, -100]), [3, 5], [4]),
        (np.ma.masked_array([1, 2, 1, 1, 2], [0, 0, 0, 0, 1]), [1, 2], [4]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*taken for no label")
def test_one_rule_for_missing_labels(labels: Any, classes: Any, missing: Any) -> None:
    found, given = read_labels(labels)
    assert found.tolist() == classes
    assert np.flatnonzero(given < 0).tolist() == missing


def test_what_scikit_learn_would_take_for_a_class_is_told() -> None:
    with pytest.warns(UserWarning, match=r"2 labels are '-1', taken for no label"):
        read_labels([0, 1, -1, 2, -1])


@pytest.mark.slow
def test_samples_without_a_label_get_a_predicted_one() -> None:
    rows, given, true = blobs()
    some = np.where(np.arange(200) < 60, given.astype(float), np.nan)
    fitted = apl.RobustClassifier().fit(rows, some)
    table = fitted.label_issues_[60:]
    assert table["label_score"].isna().all()
    assert not table["is_label_issue"].any()
    assert table["given_label"].isna().all()
    assert (table["predicted_label"] == true[60:]).mean() > 0.85
    assert "140 samples have no label" in fitted.doubts_[0]


@pytest.mark.slow
def test_frames_words_and_what_they_are_told() -> None:
    rows, given, _ = blobs(60, 0.0)
    names = np.array(["red", "green", "blue"])
    frame = pd.DataFrame(rows, columns=[*"abcde"], index=range(100, 160))
    frame["colour"] = names[given]
    with pytest.raises(BadInput, match=r"columns colour hold words; accepted: numbers.*OneHot"):
        apl.RobustClassifier().fit(frame, given)
    coded = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["colour"]), remainder=StandardScaler()
    )
    model = make_pipeline(coded, apl.RobustClassifier(**QUICK)).fit(frame, names[given])
    assert model.score(frame, names[given]) > 0.9
    plain = apl.RobustClassifier(epochs=2).fit(frame[[*"abcde"]], names[given])
    assert plain.feature_names_in_.tolist() == [*"abcde"]
    assert plain.label_issues_.index.tolist() == frame.index.tolist()
    assert plain.predict(frame[[*"abcde"]]).dtype.kind in "OUT"


@pytest.mark.slow
def test_sparse_is_as_dense_and_wide_is_reduced() -> None:
    rows, given, true = blobs(120, 0.1)
    rows = np.where(np.abs(rows) > 1, rows, 0)
    dense = apl.RobustClassifier(**QUICK).fit(rows, given).predict_proba(rows)
    thin = apl.RobustClassifier(**QUICK).fit(sparse.csc_matrix(rows), given)
    np.testing.assert_array_equal(dense, thin.predict_proba(sparse.coo_matrix(rows)))
    others = sparse.csr_matrix(np.random.default_rng(0).random((120, 5000)) < 0.001)
    wide = sparse.hstack([sparse.csr_matrix(rows), others])
    model = apl.RobustClassifier(repair=False).fit(wide.tocsr(), given)
    assert model.score(wide, true) > 0.8
    assert model.n_features_in_ == 5005


def test_texts_and_images_by_their_features() -> None:
    texts = [f"{word} {i % 7} {word}s" for i, word in enumerate(["cat", "dog"] * 20)]
    given = ["meow", "woof"] * 20
    model = apl.RobustClassifier(features="tfidf", repair=False).fit(pd.Series(texts), given)
    model = pickle.loads(pickle.dumps(model))
    assert model.predict(["cat 8 cats", "dog 8 dogs"]).tolist() == ["meow", "woof"]
    assert not hasattr(model, "n_features_in_")
    for features, samples, told in (
        ("tfidf", np.zeros((40, 2)), "a text of X is 0.0"),
        ("tfidff", texts, "features is 'tfidff'"),
        ("vectors.npy", texts, "vectors are X itself"),
        ("lite0", np.zeros((40, 2)), r"the images of X are \[40, 2\]"),
    ):
        with pytest.raises(BadInput, match=told):
            apl.RobustClassifier(features=features, **QUICK).fit(samples, given)


def test_scikit_learns_tools_take_it() -> None:
    rows, given, _ = blobs(90)
    search = GridSearchCV(
        apl.RobustClassifier(**QUICK), {"loss": ["ce", "nce_rce", "gce(q=0.5)", "elr"]}, cv=2
    ).fit(rows, given)
    assert search.best_params_["loss"]
    model = apl.RobustClassifier(**QUICK)
    chances = cross_val_predict(model, rows, given, cv=2, method="predict_proba")
    assert chances.shape == (90, 3)
    assert CalibratedClassifierCV(model, cv=2).fit(rows, given).predict(rows).shape == (90,)
    fitted = clone(model).fit(rows, given)
    assert permutation_importance(fitted, rows, given, n_repeats=1).importances_mean.shape == (5,)
    piped = make_pipeline(StandardScaler().set_output(transform="pandas"), model)
    assert piped.fit(pd.DataFrame(rows), given).score(pd.DataFrame(rows), given) > 0.3


@pytest.mark.slow
def test_processes_of_joblib_take_it() -> None:
    """One of those that n_jobs starts, which takes seconds to load torch."""
    rows, given, _ = blobs(90)
    asked = (apl.RobustClassifier(**QUICK), rows, given)
    with loky.ProcessPoolExecutor(max_workers=1) as processes:
        found = processes.submit(cross_val_score, *asked, cv=2).result()
    np.testing.assert_array_equal(found, cross_val_score(*asked, cv=2))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("cleanlab") is None, reason="cleanlab is missing")
def test_cleanlab_takes_it() -> None:
    from cleanlab.classification import CleanLearning

    rows, given, true = blobs()
    alone = {"n_jobs": 1}  # its processes are forked, and wait for ever for threads of torch
    model = CleanLearning(
        apl.RobustClassifier(**QUICK), cv_n_folds=3, find_label_issues_kwargs=alone
    )
    cleaned = model.fit(rows, given)
    assert cleaned.score(rows, true) > 0.9


@pytest.mark.slow
def test_the_process_stays_as_it_was() -> None:
    rows, given, _ = blobs(60)
    usual = apl.RobustClassifier(epochs=2).fit(rows, given).predict_proba(rows)
    np.random.seed(3)  # noqa: NPY002 (scikit-learn's users have it)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode():
            found = apl.RobustClassifier(epochs=2).fit(rows, given).predict_proba(rows)
            assert torch.is_inference_mode_enabled()
            assert torch.empty(1).device.type == "meta"
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found, usual)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_what_is_fitted_holds_arrays_alone(tmp_path: Path) -> None:
    rows, given, _ = blobs(60)
    fitted = apl.RobustClassifier(epochs=2).fit(rows, given)
    content = pickle.dumps(fitted)
    assert b"torch" not in content
    np.testing.assert_array_equal(
        pickle.loads(content).decision_function(rows), fitted.decision_function(rows)
    )
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"loss": "nce_rcee"}, "nce_rce"),
        ({"loss": "forward"}, "needs a known noise matrix"),
        ({"loss": "gjs"}, "needs several views of a sample"),
        ({"network": "resnet"}, "network is 'resnet'; accepted: linear, mlp"),
        ({"epochs": 0}, "epochs is 0; accepted: a whole number from 1 on"),
        ({"lr": -1}, "lr is -1; accepted: a finite number above 0"),
        ({"lr": 1e30}, "accepted: a smaller lr than 1e\\+30"),
        ({"repair": "yes"}, "repair is 'yes'; accepted: True, or False"),
    ],
)
def test_settings_that_do_not_fit_are_told(settings: Any, told: str) -> None:
    rows, given, _ = blobs(30)
    with pytest.raises(BadInput, match=told):
        apl.RobustClassifier(**{**QUICK, **settings}).fit(rows, given)


@pytest.mark.slow
def test_few_samples_and_lone_classes_are_taken_as_given() -> None:
    rows, given, _ = blobs(100, 0.0)
    given = given.copy()
    given[:3] = 7
    fitted = apl.RobustClassifier().fit(rows, given)
    assert not fitted.label_issues_["is_label_issue"][:3].any()
    few = apl.RobustClassifier().fit(rows[:8], given[:8])
    assert np.isnan(few.noise_rate_.estimate)
    assert "no label was judged" in few.doubts_[0]
    one = apl.RobustClassifier().fit(rows, ["a"] * 100)
    assert {*one.predict(rows)} == {"a"}
    assert one.predict_proba(rows).tolist() == [[1.0]] * 100


def test_it_is_there_on_demand() -> None:
    code = (
        "import apl, sys; assert 'RobustClassifier' in dir(apl)\n"
        "assert not {'torch', 'sklearn', 'pandas'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_iris, load_wine])
def test_clean_tables_stay_clean(load: Any) -> None:
    rows, true = load(return_X_y=True)
    fitted = apl.RobustClassifier().fit(rows, true)
    assert fitted.score(rows, true) > 0.95
    assert fitted.noise_rate_.estimate < 0.05
