"""Several annotators: the labels that they give together, and who gives them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apl import BadInput, consensus
from apl.data.files import read_path
from apl.data.reading import Reading
from apl.noise.labels import UNKNOWN

NAMES = ("Katze", "הונד", "犬")
PEOPLE = ("anna", "Бен", "chi, jr")


def crowd(count: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True classes, labels of five annotators of whom two guess, and a network's chances."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, count)
    right = (0.9, 0.85, 0.8, 0.34, 0.34)
    votes = np.stack(
        [np.where(rng.random(count) < p, true, rng.integers(0, 3, count)) for p in right], 1
    )
    votes[rng.random(votes.shape) < 0.3] = UNKNOWN
    logits = rng.normal(size=(count, 3)) + 2 * np.eye(3)[true]
    probs = np.exp(logits)
    return true, votes, probs / probs.sum(1, keepdims=True)


def test_it_beats_the_majority_and_a_network_helps():
    """Who guesses is found, and counts less; chances are those of being right."""
    true, votes, probs = crowd()
    counts = (votes[:, :, None] == np.arange(3)).sum(1)
    majority = (counts + np.random.default_rng(1).random(counts.shape) / 2).argmax(1)
    alone, both = consensus(votes), consensus(votes, probs)
    shares = [(labels == true).mean() for labels in (majority, alone.labels, both.labels)]
    assert shares[0] + 0.02 < shares[1] < shares[2] - 0.01
    said = votes != UNKNOWN
    real = [(votes[s, a] == true[s]).mean() for a, s in enumerate(said.T)]
    np.testing.assert_allclose(both.accuracy, real, atol=0.05)
    assert both.probability.mean() == pytest.approx(shares[2], abs=0.03)
    np.testing.assert_allclose(both.matrices.sum(2), 1, atol=1e-4)
    wrong = both.labels != true  # those that are worth another label are wrong more often
    first = [i for i, _ in both.next(60)]
    assert wrong[first].mean() > 3 * wrong.mean()


def test_the_posterior_is_that_of_dawid_and_skene():
    """Given the matrices, by their equation 2.4, by hand."""
    _, votes, probs = crowd(60)
    found = consensus(votes, probs)
    for i in (0, 7, 31):
        chance = probs[i] ** (1 / found.temperature)
        for a, label in enumerate(votes[i]):
            if label != UNKNOWN:
                chance = chance * found.matrices[a][:, label]
        np.testing.assert_allclose(found.posterior[i], chance / chance.sum(), atol=1e-3)


def test_what_people_hand_over():
    """One annotator, one who said nothing, one class, ties, samples without a label, words in any
    script, missing ones of each kind; wide and long are the same."""
    wide = pd.DataFrame(
        [[NAMES[0], None, NAMES[0]], [NAMES[1], "", NAMES[2]], [np.nan, "N/A", None]] * 5,
        columns=PEOPLE,
    )
    found = consensus(wide)
    assert found.annotators == PEOPLE
    assert found.class_names == tuple(sorted(NAMES))
    assert np.isnan(found.accuracy[1])
    assert found.table()["majority"][:3].tolist() == [NAMES[0], "", ""]
    assert found.annotator_table()["labels_given"].tolist() == [10, 0, 10]
    assert "no label yet" in found.why(2)
    rows = [
        {"sample": i, "annotator": who, "label": wide.loc[i, who]}
        for i in wide.index
        for who in PEOPLE
    ]
    long = consensus(pd.DataFrame(rows))
    np.testing.assert_array_equal(long.votes, found.votes)
    np.testing.assert_allclose(long.posterior, found.posterior)
    one = consensus(np.array([[0], [1], [0], [2]]))
    assert one.labels.tolist() == [0, 1, 0, 2]
    assert consensus([[0, 0], [-1, 0], [0, -1]], classes=[0, 1]).labels.tolist() == [0, 0, 0]
    assert consensus([[5, 7], [7, 7]]).class_names == ("5", "7")


@pytest.mark.parametrize(
    ("labels", "others", "told"),
    [
        ([0, 1, 1], {}, "must be [N, A]"),
        ([[0, 0], [0, 0]], {}, "the labels have 1 classes"),
        ([[0, 1], [2, 1]], {"classes": [0, 1]}, "no class '2'"),
        ([[0, 1]], {"probs": [[0.5, 0.5]], "features": [[1.0]]}, "one of them"),
        ([[0, 1]], {"probs": [[0.2, 0.3, 0.5]]}, "probs must be [1, 2]"),
        ([[0, 1]], {"features": [[np.nan]]}, "nan or inf"),
        ([[0, 1]], {"features": [[1.0], [2.0]]}, "features must be [1, F]"),
    ],
)
def test_what_does_not_fit_is_told(labels, others, told):
    with pytest.raises(BadInput, match=re.escape(told)):
        consensus(labels, **others)


def test_one_who_contradicts_themselves_is_told():
    frame = pd.DataFrame({"sample": [1, 1], "annotator": ["a", "a"], "label": ["x", "y"]})
    with pytest.raises(BadInput, match="'a' says 'x' and 'y' of sample '1'"):
        consensus(frame)


# ------------------------------------------------------------------------------------ in a list


def write(folder: Path, count: int = 90) -> tuple[Path, Path]:
    """A table with a column an annotator, and one with a row a label, of the same labels."""
    rng = np.random.default_rng(3)
    true = rng.integers(0, 3, count)
    cells = (rng.normal(size=(count, 4)) + 3 * np.eye(3, 4)[true]).round(3).tolist()
    texts = [
        [NAMES[k if rng.random() < p else rng.integers(3)] if rng.random() < 0.8 else "" for p in
         (0.95, 0.85, 0.4)] for k in true
    ]  # fmt: skip
    texts[5] = ["", "", ""]
    wide = [[i, *row, *said] for i, (row, said) in enumerate(zip(cells, texts, strict=True))]
    long = [
        [i, who, text, *cells[i]]
        for i, said in enumerate(texts)
        for who, text in zip(PEOPLE, said, strict=True)
        if text
    ]
    for name, head, rows in (
        ("wide.csv", ["id", *"abcd", *PEOPLE], wide),
        ("long.csv", ["sample", "annotator", "label", *"abcd"], long),
    ):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *rows])
    return folder / "wide.csv", folder / "long.csv"


COLUMNS = 'anna,Бен,"chi, jr"'


def test_lists_have_them_in_columns_or_in_rows(tmp_path):
    wide, long = write(tmp_path)
    told: list[str] = []
    one = read_path(wide, Reading(label_column=COLUMNS), told.append)
    two = read_path(long, say=told.append)
    assert sum("3 annotators" in line for line in told) == 2
    for first, second in ((one.train, two.train), (one.test, two.test)):
        np.testing.assert_array_equal(first.votes, second.votes)
        np.testing.assert_array_equal(first.labels.given, second.labels.given)
        assert first.names == second.names
        assert (first.votes == first.labels.given[:, None]).any(1).all()
    assert one.annotators == two.annotators == PEOPLE
    assert len(one.train) + len(one.test) == pd.read_csv(long)["sample"].nunique() < 90
    part = one.train.take(np.array([3, 1]))
    np.testing.assert_array_equal(part.votes, one.train.votes[[3, 1]])
    lines = long.read_text(encoding="utf-8").splitlines()
    other = next(name for name in NAMES if name != lines[1].split(",")[2])
    cells = lines[1].split(",")
    contradicted = [*cells[:2], other, *cells[3:]]
    long.write_text("\n".join([*lines, ",".join(contradicted)]) + "\n", encoding="utf-8")
    told.clear()
    read_path(long, Reading(max_broken=0.5), told.append)
    assert any("of it before" in line for line in told)


def test_one_hot_columns_are_no_annotators(tmp_path):
    table = "id,x,cat,dog\n" + "".join(f"{i},{i * i % 7},{i % 2},{1 - i % 2}\n" for i in range(20))
    (tmp_path / "t.csv").write_text(table)
    data = read_path(tmp_path / "t.csv", Reading(label_column="cat,dog"), lambda line: None)
    assert data.class_names == ("cat", "dog")
    assert data.train.votes is None


@pytest.mark.slow
def test_find_tells_who_is_right_and_what_is_worth_another_label(cli, tmp_path):
    write(tmp_path)
    cli("find", "wide.csv", "--label-column", COLUMNS, "--features", "none", "--next", "7")
    folder = tmp_path / "results" / "wide-find"
    issues = pd.read_csv(folder / "issues.csv")
    assert not issues["is_outlier_issue"].isna().any()
    assert issues["near_duplicate_score"].between(0, 1).all()
    people = pd.read_csv(folder / "annotators.csv")
    assert people["annotator"].tolist() == list(PEOPLE)
    assert people["accuracy"].idxmin() == 2  # who guesses
    assert len(pd.read_csv(folder / "next.csv")) == 7
    agreed = pd.read_csv(folder / "consensus.csv")
    assert set(agreed["label"]) <= set(NAMES)
    assert len(agreed) == pd.read_csv(tmp_path / "long.csv")["sample"].nunique()
