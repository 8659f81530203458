"""`apl find` judges every label that it is given: those of the test split, or held out, too."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Cli
from PIL import Image

from apl.config.config import make_config
from apl.data.sources import load_data
from apl.detect.rows import judged, rows_of
from apl.detect.search import EVIDENCE, Search, find_mislabelled
from apl.errors import BadInput, Interrupted
from apl.files import load_tensors, save_tensors
from apl.training.listener import Listener, ignore
from apl.training.prepare import prepare, read_decisions


def digits(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels of which 20 % are wrong, and the true ones."""
    from sklearn.datasets import load_digits

    pixels, true = load_digits(return_X_y=True)
    draws = np.random.default_rng(0)
    wrong = draws.random(count) < 0.2
    given = np.where(wrong, (true[:count] + draws.integers(1, 10, count)) % 10, true[:count])
    images = (pixels[:count].reshape(-1, 8, 8) / 16 * 255).astype(np.uint8)
    return images, given, true[:count]


def search(source: Any, **settings: Any) -> Search:
    listener = settings.pop("listener", Listener()) + Listener(on_message=ignore)
    return find_mislabelled(source, listener=listener, **{"features": "none", **settings})


def wrong_in(found: Search, split: str, true: np.ndarray) -> np.ndarray:
    part = getattr(found.data, split)
    classes = np.array([int(name) for name in found.data.class_names])
    return classes[part.labels.given] != true[[int(name) for name in part.names]]


def average_precision(wrong: np.ndarray, scores: np.ndarray) -> float:
    hits = wrong[np.argsort(scores, kind="stable")]
    return float((hits.cumsum() / np.arange(1, len(hits) + 1))[hits].mean())


def same(first: Search, second: Search) -> None:
    for one, other in ((first.findings, second.findings), (first.test, second.test)):
        assert one is not None
        assert other is not None
        assert np.array_equal(one.label_score, other.label_score)
        assert np.array_equal(one.is_label_issue, other.is_label_issue)
        assert one.doubts == other.doubts
    assert np.array_equal(first.test_curves, second.test_curves)


@pytest.fixture(scope="module")
def found() -> tuple[Search, np.ndarray]:
    images, given, true = digits(800)
    return search((images, given)), true


@pytest.mark.slow
def test_labels_that_nothing_was_trained_on_are_judged_too(
    found: tuple[Search, np.ndarray],
) -> None:
    whole, true = found
    assert whole.test is not None
    wrong = wrong_in(whole, "test", true)
    assert average_precision(wrong, whole.test.label_score) > 0.9
    flagged = whole.test.is_label_issue
    assert 2 * (flagged & wrong).sum() / (flagged.sum() + wrong.sum()) > 0.8
    assert whole.test_curves is not None
    assert whole.test_curves.shape == (len(wrong), whole.config.epochs)
    assert not np.isnan(whole.test_curves).any()
    table = whole.test_table()
    assert list(table.columns) == list(whole.table().columns)
    assert list(table.file_name) == list(whole.data.test.names)
    assert table.id.min() == len(whole.data.train)


@pytest.mark.slow
def test_what_is_found_in_the_training_labels_is_as_without(
    found: tuple[Search, np.ndarray],
) -> None:
    whole, _ = found
    alone = search(digits(800)[:2], judge="train")
    assert alone.test is None
    assert np.array_equal(alone.findings.label_score, whole.findings.label_score)
    assert np.array_equal(alone.curves, whole.curves)
    assert alone.findings.doubts == whole.findings.doubts
    assert len(alone.test_table()) == 0
    assert alone.unjudged == ("160 test labels (--judge train)",)
    rows = rows_of(alone)
    assert rows.splits == ()
    assert len(rows.names) == len(rows.findings.label_score) == len(whole.data.train)


@pytest.mark.slow
def test_the_rows_are_those_of_both_splits(found: tuple[Search, np.ndarray]) -> None:
    whole, _ = found
    rows = rows_of(whole)
    count = len(whole.data.train)
    assert rows.splits.count("train") == count
    assert rows.splits.count("test") == len(whole.data.test)
    assert rows.names == (*whole.data.train.names, *whole.data.test.names)
    assert rows.looks.pixels is not None
    assert rows.looks.pixels.shape == (800, 8, 8, 1)
    for place in (0, count - 1, count, 799):
        split, i = ("train", place) if place < count else ("test", place - count)
        image = getattr(whole.data, split).images[i].numpy()
        assert np.array_equal(rows.looks.pixels[place], image)
    with pytest.raises(IndexError):
        rows.looks.pixels[800]
    assert rows.findings.noise_rate == whole.findings.noise_rate
    told = judged(whole)
    assert told[0] == f"judged: {count} training labels by how the training took them"
    assert told[1].startswith("judged: 160 test labels, which nothing was trained on")
    assert len(told) == 2


@pytest.mark.slow
def test_a_killed_search_goes_on_and_a_finished_one_is_read(tmp_path: Path) -> None:
    data = load_data(digits(300)[:2], say=ignore)
    whole = search(data, epochs=4)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 45

    with pytest.raises(Interrupted):
        search(data, epochs=4, run=tmp_path / "run", listener=Listener(should_stop=stop))
    for _ in range(2):  # goes on, is read
        same(search(data, epochs=4, run=tmp_path / "run"), whole)
    state = load_tensors(tmp_path / "run" / EVIDENCE)[0]
    older = {name: tensor for name, tensor in state.items() if not name.startswith("test.")}
    save_tensors(tmp_path / "run" / EVIDENCE, older, {})
    read = search(data, epochs=4, run=tmp_path / "run")
    assert read.test is None
    assert np.array_equal(read.findings.label_score, whole.findings.label_score)
    assert read.unjudged == (f"{len(data.test)} test labels: the search was made without them",)


@pytest.mark.slow
def test_folds_judge_them_by_all_their_networks() -> None:
    images, given, true = digits(400)
    found = search((images, given), folds=2, epochs=20)
    assert found.test is not None
    assert average_precision(wrong_in(found, "test", true), found.test.label_score) > 0.8
    assert "by the same networks" in judged(found)[1]
    assert "look wrong; noise rate " in judged(found)[1]
    # Heads judge all labels as one: their rate is no rate of the test labels.
    together = dataclasses.replace(found.test, noise_rate=found.findings.noise_rate)
    assert judged(dataclasses.replace(found, test=together))[1].endswith("look wrong")
    assert rows_of(found).curves is None


def test_what_is_known_to_be_right_or_left_out_is_told() -> None:
    found = search("digits", epochs=1, train_size=200, noise="sym", rate=0.3)
    assert found.test is None
    assert found.unjudged == (
        "1,147 of 1,347 training labels (--train-size, or dropped by --labels)",
        "450 test labels: those of digits are taken for true",
    )
    with pytest.raises(BadInput, match="judge is 'some'; accepted: all, or train"):
        search("digits", judge="some")


# ----------------------------------------------------------------------------------- decisions


def photos(folder: Path, split: bool = False) -> None:
    """Digits of three classes as images: folder[/train or test]/CLASS/N.png."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    few = np.flatnonzero(labels < 3)[:150]
    for n, i in enumerate(few):
        part = ("test" if n % 5 == 0 else "train") if split else ""
        place = folder / part / f"c{labels[i]}"
        place.mkdir(parents=True, exist_ok=True)
        image = (pixels[i].reshape(8, 8) / 16 * 255).astype(np.uint8)
        Image.fromarray(image).save(place / f"{n:03}.png")


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True])
def test_every_image_stands_in_the_list_and_can_be_decided_on(
    cli: Cli, tmp_path: Path, split: bool
) -> None:
    photos(tmp_path / "photos", split)
    asked = ("find", "photos", "--features", "none", "--epochs", "3", "--loss", "ce")
    shown = cli(*asked).stdout
    folder = tmp_path / "results/photos-find"
    issues = pd.read_csv(folder / "issues.csv")
    assert len(issues) == 150
    assert sorted(issues["id"]) == list(range(150))
    assert issues["split"].value_counts().to_dict() == {"train": 120, "test": 30}
    assert issues["label_score"].notna().all()
    first, second = (line for line in shown.splitlines() if line.startswith("judged: "))
    assert first == "judged: 120 training labels by how the training took them"
    assert second.startswith("judged: 30 test labels, which nothing was trained on")
    noise = json.loads((folder / "noise.json").read_text())
    assert {name: part["samples"] for name, part in noise["splits"].items()} == {
        "train": 120,
        "test": 30,
    }
    assert noise["judged"] == [first, second]

    tested = issues[issues["split"] == "test"]
    chosen = [tested.iloc[0], tested.iloc[1], issues[issues["split"] == "train"].iloc[0]]
    decided = pd.DataFrame(
        {
            "id": [row["id"] for row in chosen],
            "file_name": [row["file_name"] for row in chosen],
            "decision": ["fix", "drop", "keep"],
            "label": ["c0" if chosen[0]["given_label"] != "c0" else "c1", "", ""],
        }
    )
    decided.to_csv(tmp_path / "decisions.csv", index=False)
    for judge in ("all", "train"):
        out = ("--judge", judge, "--out", f"again-{judge}")
        cli(*asked, "--decisions", "decisions.csv", *out)
        noise = json.loads((tmp_path / f"again-{judge}/noise.json").read_text())
        expected = {"keep": 1, "fix": 1, "drop": 1} if judge == "all" else {"keep": 1}
        assert {word: n for word, n in noise["decided"].items() if n} == expected
    shown = cli(*asked, "--judge", "train", "--out", "again-train").stdout
    assert "not judged: 30 test labels (--judge train)" in shown.splitlines()[-4:]
    assert "split" not in pd.read_csv(tmp_path / "again-train/issues.csv")


def test_decisions_change_the_labels_of_both_splits(tmp_path: Path) -> None:
    data = load_data(digits(300)[:2], say=ignore)
    train, test = data.train, data.test
    file = tmp_path / "decisions.csv"

    def decide(*rows: str) -> Any:
        file.write_text("\n".join(["file_name,decision,label", *rows]) + "\n")
        config = make_config("laptop", dataset=data, labels=str(file), features="none")
        return prepare(config, data=data)

    other = data.class_names[(test.labels.given[0] + 1) % 10]
    made = decide(
        f"{test.names[0]},fix,{other}", f"{test.names[1]},drop,", f"{train.names[2]},drop,"
    )
    assert len(made.train) == len(train) - 1
    assert made.test.names == (test.names[0], *test.names[2:])
    assert data.class_names[made.test.labels.given[0]] == other
    assert np.array_equal(made.test.labels.given[1:], test.labels.given[2:])
    said, of_test = read_decisions(file, data)
    assert said.decided.sum() == 1
    assert of_test.decided.sum() == 2
    untouched = decide(f"{train.names[2]},drop,").test
    assert np.array_equal(untouched.labels.given, test.labels.given)
    with pytest.raises(BadInput, match="there is no sample called 'nobody'"):
        decide("nobody,drop,")
    with pytest.raises(BadInput, match="drops every test sample"):
        decide(*(f"{name},drop," for name in test.names))
