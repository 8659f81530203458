"""Data as strangers have them: what is read of each kind, or the line that refuses it."""

from __future__ import annotations

import unicodedata
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from sklearn.datasets import load_iris
from torch.utils.data import DataLoader, TensorDataset

from apl.data.dataset import Dataset
from apl.data.sources import load_data
from apl.errors import BadInput

N = 60
NUMBERS = np.random.default_rng(0).normal(size=(N, 4))
WORDS = np.array(["a", "b", "c"] * (N // 3))
ONE, TWO = "caf\u00e9", "cafe\u0301"  # as most systems write it, and as macOS does


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def load(source: Any, **given: Any) -> tuple[Dataset, list[str]]:
    told: list[str] = []
    return load_data(source, say=told.append, **given), told


def csv(path: Path, labels: list[str], middle: str = "") -> str:
    rows = [f"{i % 7},{i % 5},{label}" for i, label in enumerate(labels)]
    half = len(rows) // 2
    rows[half:half] = [middle] if middle else []
    path.write_text("u,v,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def folders(root: Path, *classes: str, count: int = 10) -> Path:
    rng = np.random.default_rng(len(classes))
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.array([(word,) for word in WORDS], [("label", "U1")]), ("a", "b", "c")),
        (np.arange(N) % 3 + 0j, ("0", "1", "2")),
        (iter(WORDS), ("a", "b", "c")),
        ([ONE, TWO, "tea"] * (N // 3), (ONE, "tea")),
        (["cat", "cat\u00a0", "\u200bdog"] * (N // 3), ("cat", "dog")),
        (["cat\0", "cat", "\ufeffdog"] * (N // 3), ("cat", "dog")),
        (pd.array([0, 1, None] * (N // 3), "Int64"), ("0", "1")),
        (pd.Categorical(WORDS, categories=[*"zcba"]), ("a", "b", "c")),
    ],
)
def test_labels_of_every_kind_are_the_classes_that_were_meant(
    labels: Any, classes: tuple[str, ...]
) -> None:
    assert load((NUMBERS, labels))[0].class_names == classes


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (np.array([(word, 1) for word in WORDS], [("label", "U1"), ("w", "i4")]), "several fields"),
        (np.arange(N) % 3 + 1j, "a complex number"),
    ],
)
def test_labels_that_are_not_one_class_are_refused(labels: Any, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        load((NUMBERS, labels))


def test_columns_of_every_kind_keep_their_numbers() -> None:
    masked = np.ma.array(NUMBERS, mask=np.arange(4 * N).reshape(N, 4) % 5 == 0)
    filled = np.where(masked.mask, np.nan, NUMBERS)
    for one, same in (
        (masked, filled),  # what is masked was learned from
        (pd.DataFrame(NUMBERS, columns=[*"aabb"]), NUMBERS),  # two of the four were
        (NUMBERS + 0j, NUMBERS),
    ):
        found, expected = load((one, WORDS))[0], load((same, WORDS))[0]
        assert found.train.images.shape == expected.train.images.shape
        np.testing.assert_allclose(found.train.images, expected.train.images, atol=1e-5)
    records = np.array([(i % 7, i % 5) for i in range(N)], [("u", "f4"), ("v", "i4")])
    spans = pd.DataFrame({"u": [timedelta(hours=i % 7) for i in range(N)], "v": NUMBERS[:, 0]})
    for table in (records, spans):
        assert load((table, WORDS))[0].train.images.shape[1] == 2


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (NUMBERS + 1j, "column '0' holds complex numbers"),
        (pd.DataFrame({"u": NUMBERS[:, 0] + 1j, "v": NUMBERS[:, 1]}), "column 'u' holds complex"),
        (sparse.csr_matrix(NUMBERS), "are sparse"),
        (np.full((N, 9, 9), np.nan), "60 of 60 images have some that are no numbers"),
    ],
)
def test_inputs_of_which_nobody_knows_what_they_mean_are_refused(inputs: Any, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        load((inputs, WORDS))


def test_tables_that_were_joined_have_no_class_of_the_name_of_a_column(tmp_path: Path) -> None:
    data, told = load(csv(tmp_path / "joined.csv", ["a", "b"] * 30, "u,v,label"))
    assert data.class_names == ("a", "b")
    assert data.train.images.shape[1] == 2
    assert any("row 32: the names of the columns once more" in line for line in told)


def test_what_a_formula_leaves_is_no_class(tmp_path: Path) -> None:
    data, told = load(csv(tmp_path / "sheet.csv", ["a", "b", "#REF!", "#DIV/0!"] * 15))
    assert data.class_names == ("a", "b")
    assert any("without a label and left out: 30" in line for line in told)


def test_a_class_is_one_however_its_folders_are_written(tmp_path: Path) -> None:
    data, told = load(folders(tmp_path / "one", ONE, TWO, "tea"))
    assert data.class_names == (ONE, "tea")
    assert len(data.train) + len(data.test) == 30
    assert any(line.startswith(f"folders of one class, {ONE}: ") for line in told)
    folders(tmp_path / "two" / "train", ONE, "tea ")
    folders(tmp_path / "two" / "test", TWO, "tea", count=4)
    data, told = load(tmp_path / "two")
    assert data.class_names == (ONE, "tea")
    assert len(data.test) == 8
    assert not any("not tested on" in line for line in told)
    assert load(tmp_path / "two", classes=[TWO, "tea"])[0].class_names == (ONE, "tea")
    assert unicodedata.normalize("NFC", TWO) == ONE


@pytest.mark.parametrize(
    "named",
    [
        "C:\\photos\\{0}\\{1}.png",  # of another machine
        "/home/somebody/photos/{0}/{1}.png",
        "file:///photos/{0}/{1}.png",
        "https://example.org/photos/{0}/{1}.png",
        "{2}/{1}.png",
        "{3}/{1}.png",
        "{4}/{1}.PNG",
    ],
)
def test_a_list_finds_its_files_however_they_are_named(tmp_path: Path, named: str) -> None:
    root = folders(tmp_path / "photos", ONE, "tea", count=10)
    lines = []
    for name in (ONE, "tea"):
        words = (name, quote(name), unicodedata.normalize("NFD", name), name.upper())
        lines += [f"{named.format(words[0], i, *words[1:])},{name}" for i in range(10)]
    (root / "list.csv").write_text("\n".join(["file_name,label", *lines]), encoding="utf-8")
    data, _ = load(root / "list.csv")
    assert sorted(data.train.names + data.test.names) == sorted(
        f"{name}/{i}.png" for name in (ONE, "tea") for i in range(10)
    )
    assert all(
        name.startswith(data.class_names[label])
        for name, label in zip(data.train.names, data.train.labels.given, strict=True)
    )


def test_a_path_of_another_folder_is_not_taken_for_one_that_is_there(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos", "val/a", "val/b")
    lines = [f"/data/train/{name}/{i}.png,{name}" for name in "ab" for i in range(10)]
    (root / "list.csv").write_text("\n".join(["file_name,label", *lines]))
    with pytest.raises(BadInput, match="no such file"):
        load(root / "list.csv")


def test_why_one_class_is_left(tmp_path: Path) -> None:
    root = folders(tmp_path / "photos", "a")
    lines = [f"{name}/{i}.png,{name}" for name in "ab" for i in range(10)]
    (root / "list.csv").write_text("\n".join(["file_name,label", *lines]))
    with pytest.raises(BadInput, match=r"1 class.*left out 10: b/0\.png: no such file"):
        load(root / "list.csv")


def test_lists_of_files_are_images_and_no_texts(tmp_path: Path) -> None:
    """Names of files were read as texts, and a network trained on these."""
    root = folders(tmp_path / "photos", "a", "b")
    files = sorted(root.glob("*/*.png"))
    labels = [file.parent.name for file in files]
    for kind in (list, np.array, pd.Series):
        for names in (files, [str(file) for file in files]):
            data, _ = load((kind(names), labels))
            assert data.train.images.shape[1:] == (9, 9, 3)
            assert data.class_names == ("a", "b")
    data, told = load(([*files[:-1], str(root / "b" / "gone.png")], labels))
    assert len(data.train) + len(data.test) == len(files) - 1
    assert any("gone.png: no such file" in line for line in told)


def test_splits_of_arrays_are_those_that_were_given() -> None:
    train, test = (NUMBERS, WORDS), (NUMBERS[:9] + 1, WORDS[:9])
    pixels = np.random.default_rng(0).integers(0, 256, (N, 8, 8), dtype=np.uint8)
    for source in (
        (train, test),  # as Keras's load_data returns them
        {"train": train, "test": test},
        ((pd.DataFrame(NUMBERS), WORDS), (pd.DataFrame(NUMBERS[:9]), WORDS[:9])),
        ((pixels, WORDS), (pixels[:9], WORDS[:9])),
    ):
        data, _ = load(source)
        assert (len(data.train), len(data.test)) == (N, 9)
    with pytest.raises(BadInput, match="differ in shape"):
        load((train, (NUMBERS[:9, :2], WORDS[:9])))
    assert load(load_iris())[0].train.images.shape[1] == 4


def test_samples_of_several_shapes_are_refused_in_one_line() -> None:
    with pytest.raises(BadInput, match=r"differ in shape \(\[8, 8\], \[8, 9\]\): resize them"):
        load(([np.zeros((8, 8 + i % 2), np.uint8) for i in range(N)], WORDS))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (DataLoader(TensorDataset(torch.zeros(4, 3, 8, 8))), r"of batches: give its \.dataset"),
        (zip(NUMBERS, WORDS, strict=True), "no items by number"),
        ((pair for pair in zip(NUMBERS, WORDS, strict=True)), "no items by number"),
    ],
)
def test_what_has_no_items_by_number_says_what_has(source: Any, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        load(source)


def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a quote in line 32 that is never closed"):
        load(csv(tmp_path / "open.csv", ["a", "b"] * 30, '1,2,"a'))
    data, _ = load(csv(tmp_path / "lines.csv", ['"a\nx"', "b"] * 30))
    assert data.class_names == ("a x", "b")  # a class is one line


def test_two_columns_of_the_labels_that_differ_are_refused(tmp_path: Path) -> None:
    for last, read in (("{1}", True), ("x", False)):
        rows = [f"{i % 7},{'ab'[i % 2]},{last.format(0, 'ab'[i % 2])}" for i in range(N)]
        (tmp_path / "two.csv").write_text("\n".join(["u,label,label", *rows]))
        if read:
            assert load(tmp_path / "two.csv")[0].class_names == ("a", "b")
            continue
        with pytest.raises(BadInput, match=r"two columns 'label' that differ"):
            load(tmp_path / "two.csv")


def test_marks_that_nobody_sees_inside_a_file(tmp_path: Path) -> None:
    rows = "\n".join(f"{i % 7},{i % 5},{'ab'[i % 2]}" for i in range(N))
    for content in (
        f"u,v,label\n{rows}".encode("utf-16-le"),
        f"u,v,label\n{rows}".encode("utf-16-be"),
        f"u,v,label\n{rows}\n\ufeff1,2,a\n".encode(),  # two files, one behind the other
    ):
        (tmp_path / "marked.csv").write_bytes(content)
        data, told = load(tmp_path / "marked.csv")
        assert data.train.images.shape[1] == 2
        assert not any("no number" in line for line in told)


def test_what_is_packed_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "photos.tar.gz").write_bytes(b"")
    with pytest.raises(BadInput, match="packed: unpack it first"):
        load(tmp_path / "photos.tar.gz")
