"""The same command again after the data changed: what changed is told, and nothing is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apl.cli.results import decided_now
from apl.data.dataset import Dataset
from apl.data.decisions import read_labels
from apl.data.since import State, changes
from apl.data.sources import load_data
from apl.errors import BadInput

Run = Callable[..., Any]
QUICK = tuple("--epochs 5 --batch-size 8 --network mlp --width 16 --device cpu".split())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    low = 0 if path.parent.name == "cat" else 156  # so that a network learns it at once
    pixels = np.random.default_rng(seed).integers(low, low + 100, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def photos(root: Path, each: int = 60) -> Path:
    for k, name in enumerate(("cat", "dog")):
        for i in range(each):
            picture(root / name / f"{i:02d}.png", 100 * k + i)
    return root


def load(root: Path) -> Dataset:
    return load_data(root, say=lambda line: None)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# ----------------------------------------------------------------------------------- by content


def test_what_became_of_each_sample(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    old = State.of(load(root), "x")
    picture(root / "cat" / "new.png", 999)
    (root / "cat" / "00.png").unlink()
    picture(root / "cat" / "01.png", 998)
    (root / "cat" / "02.png").rename(root / "dog" / "from-cat.png")
    (root / "dog" / "03.png").rename(root / "dog" / "another.png")
    new = State.of(load(root), "x")
    found = changes(old, new)
    assert found.text == (
        "1 added (cat/new.png), 1 gone (cat/00.png), 1 edited (cat/01.png), "
        "1 relabelled (cat/02.png: cat to dog), 1 renamed (dog/03.png to dog/another.png)"
    )
    assert found.now["cat/02.png"] == "dog/from-cat.png"
    assert found.now["cat/01.png"] == found.now["cat/00.png"] == ""
    assert found.now["dog/05.png"] == "dog/05.png"
    assert changes(new, new).text == "the same samples, split or named otherwise"


def test_copies_are_matched_one_by_one(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    for k in range(3):
        picture(root / "cat" / f"copy{k}.png", 500)
    old = State.of(load(root), "x")
    (root / "cat" / "copy1.png").rename(root / "dog" / "copy1.png")
    (root / "cat" / "copy2.png").unlink()
    found = changes(old, State.of(load(root), "x"))
    assert (len(found.relabelled), len(found.gone), len(found.added)) == (1, 1, 0)


def test_two_files_that_were_swapped(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    old = State.of(load(root), "x")
    (root / "cat" / "00.png").rename(tmp_path / "aside.png")
    (root / "dog" / "00.png").rename(root / "cat" / "00.png")
    (tmp_path / "aside.png").rename(root / "dog" / "00.png")
    found = changes(old, State.of(load(root), "x"))
    assert found.relabelled == ["cat/00.png: cat to dog", "dog/00.png: dog to cat"]
    assert found.now["cat/00.png"] == "dog/00.png"


def test_a_state_is_kept_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    state = State.of(load(photos(tmp_path / "photos")), "x")
    state.write(tmp_path)
    again = State.read(tmp_path)
    assert again is not None
    assert changes(state, again).text.startswith("the same samples")
    (tmp_path / "data.npz").write_bytes(b"x")
    assert State.read(tmp_path) is None


# -------------------------------------------------------------------------------------- apl find


@pytest.mark.slow
def test_a_second_search_goes_beside_the_first(tmp_path: Path, here: Run) -> None:
    root = photos(tmp_path / "photos")
    first = here("find", "photos", *QUICK).stdout
    assert "in results/photos-find" in first
    before = files_of(tmp_path / "results" / "photos-find")
    again = here("find", "photos", *QUICK).stdout
    assert "a finished run is shown, nothing is trained" in again
    assert "have changed" not in again
    (root / "cat" / "00.png").rename(root / "dog" / "was-cat.png")
    picture(root / "cat" / "new.png", 999)
    (root / "dog" / "01.png").unlink()
    second = " ".join(here("find", "photos", *QUICK).stdout.split())
    assert (
        "the data have changed since the results in results/photos-find: 1 added (cat/new.png), "
        "1 gone (dog/01.png), 1 relabelled (cat/00.png: cat to dog); results are in "
        "results/photos-find-2" in second
    )
    assert files_of(tmp_path / "results" / "photos-find") == before
    assert (tmp_path / "results" / "photos-find-2" / "issues.csv").is_file()
    third = here("find", "photos", *QUICK).stdout  # and that one is found again
    assert "a finished run is shown" in third
    assert not (tmp_path / "results" / "photos-find-3").exists()


@pytest.mark.slow
def test_a_folder_that_was_asked_for_is_refused_with_the_reason(tmp_path: Path, here: Run) -> None:
    root = photos(tmp_path / "photos")
    here("find", "photos", *QUICK, "--out", "mine")
    (root / "dog" / "01.png").unlink()
    said = here("find", "photos", *QUICK, "--out", "mine", code=2).stderr
    assert "the data have changed since the results in mine: 1 gone (dog/01.png): choose an" in said


@pytest.mark.slow
def test_a_search_of_an_older_apl_is_told_from_the_cache(tmp_path: Path, here: Run) -> None:
    root = photos(tmp_path / "photos")
    here("find", "photos", *QUICK)
    (tmp_path / "results" / "photos-find" / "data.npz").unlink()
    (root / "dog" / "01.png").unlink()
    said = here("find", "photos", *QUICK).stdout
    assert "since the results in results/photos-find: 1 gone (dog/01.png)" in said


@pytest.mark.slow
def test_decisions_stay_with_what_was_decided_on(tmp_path: Path, here: Run) -> None:
    """Its files were moved into the right folders since, as the decisions asked for."""
    root = photos(tmp_path / "photos")
    here("find", "photos", *QUICK)
    train = load(root).train.names
    cats, dogs = ([name for name in train if name.startswith(k)] for k in ("cat", "dog"))
    rows = [[name, "fix", "dog", "cat"] for name in cats[:5]]
    rows += [[dogs[0], "keep", "dog", "dog"], [dogs[1], "drop", "", "dog"]]
    columns = ["file_name", "decision", "label", "given_label"]
    path = tmp_path / "results" / "photos-find" / "decisions.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    for name in cats[:4]:
        (root / name).rename(root / "dog" / f"was-{Path(name).name}")
    (root / dogs[1]).unlink()
    picture(root / cats[4], 999)
    # Saved by the browser wherever it likes.
    (tmp_path / "mine.csv").write_bytes(path.read_bytes())
    moved = f"4 found under another name ({cats[0]} is dog/was-{Path(cats[0]).name}, "
    lost = f"1 left out, edited since ({cats[4]}), 1 left out, gone ({dogs[1]})"
    said = " ".join(
        here("train", "--dataset", "photos", "--labels", "mine.csv", *QUICK).stdout.split()
    )
    assert f"of the 7 decisions in mine.csv: {moved}" in said
    assert f"{lost}; by the names of now: results/photos-labels/mine-" in said
    said = " ".join(here("find", "photos", *QUICK).stdout.split())
    assert "decisions are kept: results/photos-find/decisions.csv (--decisions takes" in said
    assert f"of the 7 decisions in results/photos-find/decisions.csv: {moved}" in said
    assert lost in said
    noise = json.loads((tmp_path / "results" / "photos-find-2" / "noise.json").read_text())
    # What is held out by now is judged and decided on too.
    assert noise["decided"] == {"keep": 5, "fix": 0, "drop": 0}
    kept = tmp_path / "results" / "photos-find-2" / "decisions.csv"
    assert "dog/was-" in kept.read_text()
    said = here("train", "--dataset", "photos", "--labels", str(kept), *QUICK).stdout
    assert "decisions in" not in said


def test_decisions_of_the_search_after_are_not_read_by_the_names_before(
    tmp_path: Path,
) -> None:
    root = photos(tmp_path / "photos", each=6)
    old = State.of(load(root), "x")
    (root / "cat" / "00.png").rename(root / "dog" / "99.png")
    picture(root / "cat" / "00.png", 999)
    path = tmp_path / "decisions.csv"
    path.write_text("file_name,decision,label\ncat/00.png,fix,dog\n")
    now = load(root)
    for name, state in (("before", old), ("after", State.of(now, "x"))):
        (tmp_path / name).mkdir()
        state.write(tmp_path / name)
    both = [tmp_path / "after", tmp_path / "before"]
    assert decided_now(path, both, now) == ({}, "")
    names, told = decided_now(path, both[1:], now)
    assert names["cat/00.png"] == "dog/99.png"
    assert "1 found under another name (cat/00.png is dog/99.png)" in told


def test_decisions_of_samples_that_are_gone_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text("file_name,decision,label\na,drop,\nb,fix,dog\n")
    given = np.array([0, 1])
    said = read_labels(path, given, ("cat", "dog"), ("c", "d"), {"a": "", "b": "c"})
    assert said.decided.tolist() == [True, False]
    assert said.labels.tolist() == [1, 1]
    with pytest.raises(BadInput, match="there is no sample called 'a' in the data"):
        read_labels(path, given, ("cat", "dog"), ("c", "d"))


def test_what_was_fixed_in_the_data_is_no_sign_of_other_samples(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    rows = [f"{i},fix,dog,cat" for i in range(20)]
    path.write_text("\n".join(["id,decision,label,given_label", *rows]))
    said = read_labels(path, np.ones(20, np.int64), ("cat", "dog"))
    assert said.decided.all()


# ------------------------------------------------------------------------- train, study, names


@pytest.mark.slow
def test_a_training_after_the_data_changed(tmp_path: Path, here: Run) -> None:
    root = photos(tmp_path / "photos")
    ask = ("train", "--dataset", "photos", "--loss", "ce", *QUICK)
    here(*ask)
    (root / "dog" / "01.png").unlink()
    said = " ".join(here(*ask).stdout.split())
    assert "photos-quick-train: 1 gone (dog/01.png); results are in" in said
    assert (tmp_path / "results" / "photos-quick-train-2" / "runs.jsonl").is_file()
    said = here(*ask, "--out", "results/photos-quick-train", code=2).stderr
    assert "the data have changed since the results in" in said


@pytest.mark.slow
def test_a_study_after_the_data_changed(tmp_path: Path, cli: Run) -> None:
    # A process of its own: a worker forked from ours would not know of this cache folder.
    root = photos(tmp_path / "photos")
    ask = ("study", "--dataset", "photos", "--losses", "ce", "--noise", "none", "--seeds", "1")
    ask = (*ask, "--no-pictures", "--workers", "1", *QUICK)
    cli(*ask)
    (root / "dog" / "01.png").unlink()
    said = " ".join(cli(*ask).stdout.split())
    assert "1 gone (dog/01.png); results are in results/photos-quick-2" in said
    assert (tmp_path / "results" / "photos-quick-2" / "runs.jsonl").is_file()


@pytest.mark.slow
def test_a_list_and_a_folder_of_one_name_do_not_collide(tmp_path: Path, here: Run) -> None:
    photos(tmp_path / "photos")
    rows = [f"photos/{k}/{i:02d}.png,{k}" for k in ("cat", "dog") for i in range(60)]
    (tmp_path / "photos.csv").write_text("\n".join(["file_name,label", *rows]))
    here("find", "photos", *QUICK)
    said = here("find", "photos.csv", *QUICK).stdout
    assert "in results/photos.csv-find" in said
    assert "have changed" not in said


@pytest.mark.slow
def test_folders_of_one_name_elsewhere_are_other_data(tmp_path: Path, here: Run) -> None:
    photos(tmp_path / "a" / "photos")
    photos(tmp_path / "b" / "photos", each=50)
    here("find", "a/photos", *QUICK)
    said = " ".join(here("find", "b/photos", *QUICK).stdout.split())
    assert f"photos-find holds results of {tmp_path}/a/photos; results are in" in said


@pytest.mark.slow
def test_a_run_that_goes_on_says_where(tmp_path: Path, here: Run) -> None:
    from apl.config.config import make_config
    from apl.errors import Interrupted
    from apl.training.listener import Listener
    from apl.training.machine import Machine
    from apl.training.train import train

    data = load(photos(tmp_path / "photos"))
    config = make_config(dataset=data, loss="ce", epochs=5, batch_size=8, network="mlp", width=16)
    run = tmp_path / "results" / "photos-quick-train" / "runs" / config.name
    seen: list[float] = []
    stop = Listener(on_epoch=lambda row: seen.append(row["epoch"]), should_stop=lambda: bool(seen))
    with pytest.raises(Interrupted):
        train(config, run, machine=Machine(device="cpu"), data=data, listener=stop)
    ask = ("train", "--dataset", "photos", "--loss", "ce", *QUICK)
    assert "going on at epoch 2" in here(*ask).stdout
    shown = here(*ask[:-1], "cuda").stdout
    assert "a finished run is shown, as it was trained on cpu and not on cuda, nothing is" in shown
