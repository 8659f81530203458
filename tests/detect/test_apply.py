"""`apl apply`: decisions carried out on folders, lists and tables, and taken back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

from apl.data.rows import changed, read_rows
from apl.data.since import State
from apl.data.sources import load_data
from apl.detect.apply import HALF, carry_out, plan, undo
from apl.errors import BadInput

CLASSES = ("cat", "dog")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images of each class, numbered in both."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        for i in range(6):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
    return tmp_path / "photos"


def decide(folder: Path, *rows: str) -> Path:
    path = folder / "decisions.csv"
    path.write_text("\n".join(["file_name,decision,label", *rows]) + "\n")
    return path


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


ROWS = ("cat/1.png,fix,dog", "cat/2.png,drop,", "dog/3.png,keep,")


@pytest.mark.parametrize("how", ["copy", "link", "move"])
def test_a_folder_is_sorted_and_taken_back(photos: Path, how: str) -> None:
    before, top = contents(photos), photos.parent
    decisions = decide(top, *ROWS)
    found = plan(photos, decisions, top / "cleaned", how)
    assert contents(photos) == before
    assert not (top / "cleaned").exists()
    assert dict(found.counts) == {"keep": 1, "fix": 1, "drop": 1, "": 9}
    carry_out(found)
    expected = {name: content for name, content in before.items() if name != "cat/2.png"}
    expected["dog/1-from-cat.png"] = expected.pop("cat/1.png")
    assert contents(top / "cleaned") == expected
    left = {"cat/2.png": before["cat/2.png"]} if how == "move" else before
    assert contents(photos) == left
    if how == "link":
        assert (top / "cleaned/dog/1-from-cat.png").samefile(photos / "cat/1.png")
    assert undo(found.journal) == []
    assert contents(photos) == before
    assert sorted(path.name for path in top.iterdir()) == ["decisions.csv", "photos"]


def test_a_folder_is_sorted_where_it_is(photos: Path) -> None:
    before, top = contents(photos), photos.parent
    found = plan(photos, decide(top, *ROWS), how="move")
    carry_out(found)
    after = contents(photos)
    assert after["dog/1-from-cat.png"] == before["cat/1.png"]
    assert after["dog/1.png"] == before["dog/1.png"]
    assert contents(top / "photos-dropped") == {"cat/2.png": before["cat/2.png"]}
    assert len(after) == len(before) - 1
    assert undo(found.journal) == []
    assert contents(photos) == before
    assert not (top / "photos-dropped").exists()


@pytest.mark.parametrize("how", ["copy", "move"])
@pytest.mark.parametrize("at", [0, 3, 10])
def test_what_a_crash_left_half_done_is_taken_back(photos: Path, how: str, at: int) -> None:
    before, top = contents(photos), photos.parent
    found = plan(photos, decide(top, *ROWS), top / "cleaned", how)

    class Crash(Exception):
        pass

    def progress(done: int, total: int) -> None:
        if done == at:  # in the middle of a copy
            target = found.steps[done].target
            target.parent.mkdir(parents=True, exist_ok=True)
            target.with_name(target.name + HALF).write_bytes(b"half")
            raise Crash

    with pytest.raises(Crash):
        carry_out(found, progress)
    with pytest.raises(BadInput, match="--undo"):
        carry_out(found)
    assert undo(found.journal) == []
    assert contents(photos) == before
    assert not (top / "cleaned").exists()


def test_nothing_is_overwritten_and_nothing_of_the_users_is_removed(photos: Path) -> None:
    top = photos.parent
    decisions = decide(top, *ROWS)
    found = plan(photos, decisions, top / "cleaned")
    (top / "cleaned/dog").mkdir(parents=True)
    (top / "cleaned/dog/1-from-cat.png").write_bytes(b"mine")
    with pytest.raises(BadInput, match="is there already"):
        carry_out(found)
    assert (top / "cleaned/dog/1-from-cat.png").read_bytes() == b"mine"
    (line,) = undo(found.journal)
    assert "changed since" in line
    assert (top / "cleaned/dog/1-from-cat.png").read_bytes() == b"mine"
    with pytest.raises(BadInput, match=r"cleaned\.journal\.json says what was done, or begun"):
        plan(photos, decisions, top / "cleaned")
    found.journal.rename(top / "kept.json")
    with pytest.raises(BadInput, match="is there already; nothing is overwritten"):
        plan(photos, decisions, top / "cleaned")
    with pytest.raises(BadInput, match="in the data themselves"):
        plan(photos, decisions, photos / "cleaned")


def test_a_copy_whose_original_is_gone_is_not_removed(photos: Path) -> None:
    top = photos.parent
    found = plan(photos, decide(top, *ROWS), top / "cleaned")
    carry_out(found)
    (photos / "dog/0.png").unlink()
    (line,) = undo(found.journal)
    assert "all that is left" in line
    assert contents(top / "cleaned").keys() == {"dog/0.png"}
    assert found.journal.exists()


def test_splits_stay_and_a_name_that_differs_in_case_alone_is_taken(photos: Path) -> None:
    top = photos.parent
    (top / "all").mkdir()
    photos.rename(top / "all/train")
    (top / "all/test").mkdir()
    for name in CLASSES:
        (top / "all/test" / name).mkdir()
        (top / "all/train" / name / "0.png").rename(top / "all/test" / name / "0.png")
    (top / "all/train/dog/1.png").rename(top / "all/train/dog/1.PNG")
    found = plan(
        top / "all", decide(top, "train/cat/1.png,fix,dog", "test/cat/0.png,fix,dog"), top / "new"
    )
    assert found.fixed == [
        ("train/cat/1.png", "train/dog/1-from-cat.png"),
        ("test/cat/0.png", "test/dog/0-from-cat.png"),
    ] or found.fixed == [
        ("test/cat/0.png", "test/dog/0-from-cat.png"),
        ("train/cat/1.png", "train/dog/1-from-cat.png"),
    ]


LIST = (
    "\ufeff# what the camera saw\r\n"
    'photos/cat/0.png;"cat";1,5\r\n'
    'photos/cat/1.png;cat;"two\r\nlines"\r\n'
    "\r\n"
    "photos/cat/2.png;cat\r\n"
    + "".join(f"photos/{name}/{i}.png;{name};3\r\n" for name in CLASSES for i in range(3, 6))
    + 'photos/dog/0.png; "dog";4'
).replace("saw\r\n", "saw\r\nfile_name;label;note\r\n")


def test_the_copy_of_a_list_differs_in_what_was_decided_alone(photos: Path) -> None:
    top = photos.parent
    (top / "list.csv").write_bytes(LIST.encode())
    decisions = decide(top, "photos/cat/1.png,fix,dog", "photos/cat/3.png,drop,")
    found = plan(top / "list.csv", decisions, top / "list-2.csv")
    carry_out(found)
    expected = LIST.replace("photos/cat/3.png;cat;3\r\n", "")
    expected = expected.replace("photos/cat/1.png;cat;", "photos/cat/1.png;dog;")
    assert (top / "list-2.csv").read_bytes().decode() == expected
    assert undo(found.journal) == []
    assert not (top / "list-2.csv").exists()
    with pytest.raises(BadInput, match="so its copy belongs there: --to"):
        plan(top / "list.csv", decisions, top / "elsewhere/list.csv")
    with pytest.raises(BadInput, match="accepted: a file"):
        plan(top / "list.csv", decisions, top / "list-2.parquet")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_the_copy_of_a_table_of_any_kind(tmp_path: Path, suffix: str) -> None:
    rows = [{"x": 0.5 * i, "y": i % 3, "label": i % 2, "word": f"w{i % 4}"} for i in range(20)]
    path = tmp_path / f"table{suffix}"
    if suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
        pandas.DataFrame(rows).to_parquet(path)
    file = tmp_path / "decisions.csv"
    file.write_text("id,decision,label\n3,fix,0\n4,drop,\n")
    made = tmp_path / f"new{suffix}"
    carry_out(plan(path, file, made))
    before, after = ([row for _, row in read_rows(each).rows] for each in (path, made))
    by_id = plan_names(path)
    fixed, dropped = by_id[3], by_id[4]
    expected = [dict(row) for row in before if isinstance(row, dict)]
    expected[fixed]["label"] = type(expected[fixed]["label"])(0)
    del expected[dropped]
    assert after == expected


def plan_names(path: Path) -> list[int]:
    """The row of each sample of a table in the order in which `apl find` numbers them."""
    from apl.data.kinds import list_data
    from apl.data.listing import arrange
    from apl.data.reading import AS_USUAL

    listing = list_data(path, AS_USUAL)
    order = arrange(listing.samples, "", lambda line: None)
    first = min(listing.rows)
    step = sorted(listing.rows)[1] - first
    return [(listing.rows[i] - first) // step for i in order.chosen]


def test_a_column_for_each_class_and_numbers_of_classes(tmp_path: Path) -> None:
    head, rows = "x,cat,dog", [f"{i},{i % 2},{1 - i % 2}" for i in range(20)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    made = changed(path, {2: {"cat": "1", "dog": "0"}, 3: None}).decode()
    assert made.splitlines() == [head, "0,1,0", *rows[2:]]


@pytest.mark.slow
def test_what_can_not_be_applied_is_one_line(photos: Path, cli: Cli) -> None:
    top = photos.parent
    decide(top, *ROWS)
    for arguments, said in (
        ((), "apply which decisions to what?"),
        (("photos",), "apply which decisions"),
        (("photos", "--decisions", "decisions.csv"), "where to? --to FOLDER, or --move"),
        (("photos", "--decisions", "no.csv", "--to", "new"), "no.csv can't be read"),
        (("nowhere", "--decisions", "decisions.csv", "--to", "new"), "nowhere is no data set"),
        (("--undo", "decisions.csv"), "decisions.csv can't be read"),
        (
            ("photos", "--decisions", "decisions.csv", "--to", "new", "--link", "--move"),
            "--link and --move are two ways",
        ),
    ):
        assert said in cli("apply", *arguments, code=2).stderr


def test_the_command_tells_first_and_does_then(photos: Path, cli: Cli) -> None:
    top = photos.parent
    decide(top, *ROWS)
    words = ("apply", "photos", "--decisions", "decisions.csv", "--to", "clean ed")
    told = cli(*words).stdout
    assert "1 labels corrected, 1 images dropped, 1 confirmed, 9 undecided" in told
    assert "cat/1.png -> dog/1-from-cat.png" in told
    assert "--to 'clean ed' --yes" in told
    assert not (top / "clean ed").exists()
    assert "to take it back: apl apply --undo" in cli(*words, "--yes").stdout
    assert len(contents(top / "clean ed")) == 11
    assert "undone" in cli("apply", "--undo", "clean ed.journal.json").stdout
    assert not (top / "clean ed").exists()


def test_what_stopped_halfway_says_how_to_take_it_back(photos: Path, cli: Cli) -> None:
    top, before = photos.parent, contents(photos)
    decide(top, *ROWS)
    (top / "photos-dropped").write_text("in the way of what is dropped")
    words = ("apply", "photos", "--decisions", "decisions.csv", "--move", "--yes")
    back = "apl apply --undo photos.journal.json"
    assert f"not all of it is done; to take back what is: {back}" in cli(*words, code=1).stdout
    for again in (words, words[:-1]):
        assert f"to take it back: {back}" in cli(*again, code=2).stderr
    assert "undone" in cli("apply", "--undo", "photos.journal.json").stdout
    assert contents(photos) == before


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_a_link_is_not_moved(photos: Path) -> None:
    (photos / "cat/9.png").symlink_to(photos / "cat/0.png")
    found = plan(photos, decide(photos.parent, *ROWS, "cat/9.png,fix,dog"), how="move")
    with pytest.raises(BadInput, match="is a link, which leads nowhere once moved"):
        carry_out(found)
    assert undo(found.journal) == []
    assert (photos / "cat/9.png").is_symlink()


@pytest.mark.slow
def test_images_that_have_other_names_since_are_found_by_their_content(
    photos: Path, cli: Cli
) -> None:
    """As `apl find` and `apl train --labels` find them; without a search's word on what they were
    it is one line."""
    top = photos.parent
    decide(top, *ROWS)
    before = State.of(load_data(photos, say=lambda line: None), "x")
    (photos / "cat" / "1.png").rename(photos / "cat" / "один.png")
    (photos / "dog" / "3.png").unlink()
    words = ("apply", "photos", "--decisions", "decisions.csv", "--to", "new")
    assert "there is no sample called 'cat/1.png'" in cli(*words, code=2).stderr
    search = top / "results" / "photos-find"
    search.mkdir(parents=True)
    before.write(search)
    told = cli(*words).stdout
    assert "1 found under another name (cat/1.png is cat/один.png)" in told
    assert "1 left out, gone (dog/3.png)" in told
    assert "cat/один.png -> dog/один.png" in told
