"""Tables: numbers and words to features, and what is met in files of them."""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from told import load

from apl.config.config import make_config
from apl.config.grid import make_grid, study_commands
from apl.data.dataset import Dataset
from apl.data.files import find_decoded
from apl.data.tables import MOST, to_features
from apl.errors import BadInput
from apl.noise.labels import UNKNOWN
from apl.training.listener import Listener, ignore
from apl.training.machine import Machine
from apl.training.prepare import data_of
from apl.training.train import train

HERE = Machine(device="cpu", threads=1)
ROWS = 40


pytestmark = pytest.mark.usefixtures("cache")


def labels(count: int = ROWS) -> list[str]:
    return ["ham" if i % 3 else "spam" for i in range(count)]


def table(path: Path, columns: Mapping[str, Sequence[Any]], delimiter: str = ",") -> Path:
    """A file with these columns; the labels above where it has none."""
    columns = {"label": labels(), **columns}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def features_of(data: Dataset) -> dict[str, torch.Tensor]:
    """The features of each sample by its name."""
    return {
        name: row
        for split in (data.train, data.test)
        for name, row in zip(split.names, split.images, strict=True)
    }


NUMBERS = [round(math.sin(i) * 10, 3) for i in range(ROWS)]
SITES = [("north", "south", "east")[i % 3 if i % 7 else 0] for i in range(ROWS)]


# --------------------------------------------------------------------------------- features


def test_a_table_of_numbers_and_words(tmp_path: Path) -> None:
    path = table(tmp_path / "my.csv", {"size": NUMBERS, "site": SITES})
    data, told = load(path)
    assert (data.name, data.class_names, data.image_size) == ("my", ("ham", "spam"), 1)
    assert (data.mean, data.std, data.root) == ((), (), "")
    assert data.train.images.dtype == torch.float32
    assert data.train.images.shape == (32, 4)
    assert "my: 4 features of 1 columns of numbers and 1 of words" in told
    assert any(line.startswith("no test split: one in 5 of each class") for line in told)
    found = features_of(data)
    assert sorted(found, key=int) == [str(i) for i in range(ROWS)]
    here = np.array([NUMBERS[int(name)] for name in data.train.names])
    for i, (number, site) in enumerate(zip(NUMBERS, SITES, strict=True)):
        standardised = (number - here.mean()) / here.std()
        words = [float(site == word) for word in ("east", "north", "south")]
        assert found[str(i)].tolist() == pytest.approx([standardised, *words], abs=1e-6)


def features(columns: Mapping[str, Sequence[Any]], train: int, **options: Any) -> Any:
    count = len(next(iter(columns.values())))
    told: list[str] = []
    made, _ = to_features(columns, np.arange(count), train, "it", told.append, **options)
    return (np.stack(made, 1) if made else None), told


def test_what_is_usual_is_that_of_the_training_rows() -> None:
    words = ["a", "b"] * 10 + ["new", "a"]
    made, _ = features({"x": [*range(0, 40, 2), 10**9, -5], "word": words}, 20)
    assert made[:20, 0].mean() == pytest.approx(0, abs=1e-6)
    assert made[:20, 0].std() == pytest.approx(1, abs=1e-6)
    assert made[20, 0] == pytest.approx(math.sqrt(20))  # as far as a row trained on can lie
    assert made[20, 1:].tolist() == [0, 0]  # never shown: neither of them
    assert made[21, 1:].tolist() == [1, 0]


def test_rare_words_share_a_column_with_those_never_shown() -> None:
    words = ["a", "b"] * 10 + ["once", "twice", "twice"] + ["new", "b"]
    made, _ = features({"word": words}, 23)
    assert made[[0, 1, 20, 21, 23, 24]].tolist() == [
        *([1, 0, 0, 0], [0, 1, 0, 0]),
        *([0, 0, 0, 1], [0, 0, 1, 0]),
        *([0, 0, 0, 1], [0, 1, 0, 0]),
    ]


def test_many_words_get_no_more_columns_than_there_may_be() -> None:
    words = [f"w{k:03d}" for k in range(2 * MOST) for _ in range(2 if k % 2 else 3)]
    made, _ = features({"word": words}, len(words))
    assert made.shape == (len(words), MOST + 1)
    assert (made.sum(1) == 1).all()
    assert made[0].argmax() == 0  # the more frequent ones have their own
    assert made[3].argmax() == MOST


def test_missing_numbers_are_the_mean_and_are_marked() -> None:
    numbers = ["1", "", "3", "NA", "5", "?", "-", "NaN", "inf", "3"]
    made, _ = features({"x": numbers}, 9)
    missing = [1, 3, 5, 6, 7, 8]
    assert made[:, 1].tolist() == [float(i in missing) for i in range(10)]
    assert (made[missing, 0] == 0).all()
    assert made[0, 0] == -made[4, 0] == pytest.approx(-math.sqrt(1.5))
    unmarked, _ = features({"x": ["1", "2", "3", "4", ""]}, 4)  # no row of the training says how
    assert unmarked.shape == (5, 1)
    assert unmarked[4, 0] == 0


def test_missing_words_are_a_word_of_their_own() -> None:
    made, _ = features({"word": ["a", "", None, "a", "a", math.nan]}, 6)
    assert made.tolist() == [[0, 1], [1, 0], [1, 0], [0, 1], [0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        (["7"] * ROWS, "the same in all training rows"),
        (["x"] * ROWS, "the same in all training rows"),
        ([""] * ROWS, "the same in all training rows"),
        ([0.1] * (ROWS - 1) + [5], "the same in all training rows"),  # the last is no training row
        ([f"k{i}" for i in range(ROWS)], "nearly every row another word (ids, free text)"),
        ([f"2024-01-{i % 28 + 1:02d}" for i in range(ROWS)], "dates"),
        ([f"{i % 28 + 1}.1.2024 10:00" for i in range(ROWS)], "dates"),
        ([datetime.date(2024, 1, i % 28 + 1) for i in range(ROWS)], "dates"),
        (list(range(5, ROWS + 5)), "row numbers"),
        (["ham", "spam", "spam", "ham"] * 10, "labels too, as it seems"),
        ([[i % 2, 1] for i in range(ROWS)], "lists and the like"),
    ],
)
def test_columns_that_say_nothing_are_left_out_and_told(cells: Sequence[Any], why: str) -> None:
    made, told = features(
        {"x": NUMBERS, "odd": cells}, ROWS - 1, class_names=("eggs", "ham", "spam")
    )
    assert made.shape == (ROWS, 1)
    assert f"columns left out, {why}: odd" in told


def test_true_and_false_are_numbers() -> None:
    for cells in ([True, False, False, True], ["True", "FALSE", "false", "true"]):
        made, told = features({"x": cells}, 4)
        assert made[:, 0].tolist() == [1, -1, -1, 1]
        assert told == ["it: 1 features of 1 columns of numbers and 0 of words"]


def test_a_cell_that_is_no_number_among_many_is_missing() -> None:
    cells = [*map(str, NUMBERS[:-1]), "n/a?"]
    made, told = features({"x": cells}, ROWS)
    assert made.shape == (ROWS, 2)
    assert made[-1].tolist() == [0, 1]
    assert told[0] == "column 'x': missing where there is no number: n/a?"


@pytest.mark.parametrize(
    ("cells", "decimal", "values"),
    [
        (["1,5", "-2,25", "3", "1.000,5", "1.000"], ",", [1.5, -2.25, 3, 1000.5, 1000]),
        (["1.500", "2.250", "3", "4"], ",", [1.5, 2.25, 3, 4]),
        (["1,234", "2,000,000.5", "-3", "4"], ".", [1234, 2000000.5, -3, 4]),
        (["1e3", "+2", ".5", "0005"], ".", [1000, 2, 0.5, 5]),
        ([10**400, 1, 2, 4], ".", [math.nan, 1, 2, 4]),
    ],
)
def test_numbers_as_they_are_written(
    cells: Sequence[Any], decimal: str, values: Sequence[float]
) -> None:
    made, _ = features({"x": cells}, len(cells), decimal=decimal)
    wanted = np.array(values)
    wanted = np.nan_to_num((wanted - np.nanmean(wanted)) / np.nanstd(wanted))
    assert made[:, 0] == pytest.approx(wanted, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(width=64), min_size=2, max_size=40), st.integers(1, 40))
def test_any_numbers_become_finite_features(values: list[float], train: int) -> None:
    train = min(train, len(values))
    here = [value for value in values[:train] if math.isfinite(value)]
    low, high = min(here, default=0.0), max(here, default=0.0)
    spread = high / 2 - low / 2 > 1e-12 * max(abs(low), abs(high))
    made, _ = features({"x": values}, train)
    if made is None:
        assert not spread or here == sorted(here)  # row numbers
        assert len(here) in (0, train)  # else it would be told which are missing
        return
    assert np.isfinite(made).all()
    assert np.abs(made).max() <= max(1.0, math.sqrt(train)) + 1e-6
    if spread and len(here) == train:
        assert made[:train].astype(np.float64).mean() == pytest.approx(0, abs=1e-3)
        assert made[:train].astype(np.float64).std() == pytest.approx(1, abs=1e-3)


# ------------------------------------------------------------------------------------ files


def write_jsonl(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    path.write_text("\n".join(json.dumps(row) for row in rows))


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(dict(columns)), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("my.csv", table),
        ("my.tsv", lambda path, columns: table(path, columns, "\t")),
        ("my.jsonl", write_jsonl),
        ("my.parquet", write_parquet),
    ],
)
def test_a_table_in_any_file_is_the_same_data(
    tmp_path: Path, name: str, write: Callable[[Path, Mapping[str, Sequence[Any]]], Any]
) -> None:
    columns = {"label": labels(), "size": NUMBERS, "site": SITES, "old": [True, False] * 20}
    write(tmp_path / name, columns)
    data, _ = load(tmp_path / name)
    expected, _ = load(table(tmp_path / "as.csv", columns))
    assert torch.equal(data.train.images, expected.train.images)
    assert data.digest == expected.digest


def test_a_semicolon_brings_decimal_commas(tmp_path: Path) -> None:
    commas = [f"{number:.3f}".replace(".", ",") for number in NUMBERS]
    data, _ = load(table(tmp_path / "my.csv", {"size": commas}, ";"))
    expected, _ = load(table(tmp_path / "as.csv", {"size": NUMBERS}))
    assert torch.equal(data.train.images, expected.train.images)


def test_splits_true_labels_and_ids_of_a_table(tmp_path: Path) -> None:
    columns = {
        "id": [f"row-{i}" for i in range(ROWS)],
        "size": NUMBERS,
        "split": ["dev" if i < 10 else "train" for i in range(ROWS)],
        "clean_label": ["" if i == 20 else "ham" for i in range(ROWS)],
        "noisy_label": ["a", "b"] * 20,
    }
    data, told = load(table(tmp_path / "my.csv", columns))
    assert data.test.names == tuple(f"row-{i}" for i in range(10))
    assert data.train.images.shape == (30, 1)
    assert data.train.labels.true.tolist() == [UNKNOWN if i == 20 else 0 for i in range(10, 40)]
    assert "columns left out, called labels: noisy_label" in told
    other, told = load(tmp_path / "my.csv", label_column="noisy_label")
    assert other.class_names == ("a", "b", "ham")
    assert other.train.images.shape == (30, 1)
    assert "columns left out, called labels: label" in told


@pytest.mark.parametrize("name", ["", "index", "Unnamed: 0", "ID"])
def test_the_row_numbers_of_pandas_are_names(tmp_path: Path, name: str) -> None:
    numbers = [100 + i for i in range(ROWS)]
    data, told = load(table(tmp_path / "my.csv", {name: numbers, "size": NUMBERS}))
    assert data.train.images.shape[1] == 1
    assert set(data.train.names) < set(map(str, numbers))
    assert not any("left out" in line for line in told)


def test_an_id_that_is_none(tmp_path: Path) -> None:
    data, told = load(table(tmp_path / "my.csv", {"id": [1, 1, 2, 3] * 10, "size": NUMBERS}))
    assert "0" in (*data.train.names, *data.test.names)
    assert "column 'id' names no sample: it has the same value twice, or none" in told


def test_broken_rows_of_a_table_are_told_and_the_others_keep_their_names(
    tmp_path: Path, cache: Path
) -> None:
    path = table(tmp_path / "my.csv", {"size": NUMBERS})
    lines = path.read_text().splitlines()
    lines[3], lines[5], lines[7] = ",2", "ham", "ham,1,1"
    path.write_text("\n".join(lines))
    with pytest.raises(BadInput, match=r"2 of 39 in .*my.csv can't be used"):
        load(path)
    data, _ = load(path, max_broken=0.1)
    assert set(features_of(data)) == set(map(str, range(ROWS))) - {"2", "4", "6"}
    (listed,) = cache.glob("*/broken.csv")
    assert listed.read_text().splitlines()[1:] == [
        "row 4,no label",
        "row 6,1 cells under 2 columns",
        "row 8,3 cells under 2 columns",
    ]


def test_columns_of_one_name_and_rows_of_json_with_other_keys(tmp_path: Path) -> None:
    path = table(tmp_path / "my.csv", {"x": NUMBERS, "y": NUMBERS[::-1]})
    path.write_text(path.read_text().replace("label,x,y", "label,x,x", 1))
    assert load(path)[0].train.images.shape == (32, 2)
    rows = [{"label": name, "x": x} for name, x in zip(labels(), NUMBERS, strict=True)]
    for i in range(5, ROWS):
        rows[i]["late"] = i % 3
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data, _ = load(tmp_path / "my.jsonl")
    assert data.train.images.shape == (32, 3)  # x, late, and where it is missing


def test_equal_rows_with_other_labels_are_told(tmp_path: Path, cache: Path) -> None:
    numbers = list(NUMBERS)
    numbers[1] = numbers[0]  # a spam and a ham
    _, told = load(table(tmp_path / "my.csv", {"size": numbers}))
    assert any(line.startswith("2 rows are as others with another label") for line in told)
    (listed,) = cache.glob("*/copies.csv")
    assert sorted(listed.read_text().splitlines()[1:]) == ["0,spam,1", "1,ham,1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a,b\n1,2\n",
            r"no column of the labels \('label'; --label-column\); its columns: 'a', 'b'",
        ),
        (
            "14.2,1.7,1\n13.2,1.8,1\n",
            "the first line must name the columns, and here it looks like",
        ),
        ("label,x\n" + "a,1\nb,1\n" * 9, "has no column that anything can be learned from"),
        ("label,x\n" + "0.5,1\n1.5,2\n" * 9, r"numbers such as .*; accepted: words or whole"),
        ("label,x\n,1\n", "lists no sample; left out 1: row 2: no label"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "my.csv").write_text(text)
    with pytest.raises(BadInput, match=message):
        load(tmp_path / "my.csv")


def test_a_table_has_no_pixels(tmp_path: Path) -> None:
    path = table(tmp_path / "my.csv", {"size": NUMBERS})
    with pytest.raises(BadInput, match=r"image_size is 32; accepted: 0 or 1 for .*my.csv, a table"):
        load(path, image_size=32)
    assert load(path, image_size=1)[0].digest == load(path)[0].digest


# ----------------------------------------------------------------------------------- arrays


def test_arrays_of_two_axes_are_a_table(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    x[3:9, 1] = np.nan
    data, _ = load((x, labels()))
    assert data.train.images.shape == (32, 4)
    np.savez(tmp_path / "my.npz", x=x, y=labels())
    for name, array in (("x", x), ("y", np.array(labels()))):
        np.save(tmp_path / f"{name}.npy", array)
    pairs = [(row, name) for row, name in zip(x, labels(), strict=True)]
    for source in ((torch.from_numpy(x), labels()), tmp_path / "my.npz", tmp_path, pairs):
        other, _ = load(source)
        assert other.digest == data.digest
        assert torch.equal(other.train.images, data.train.images)


def test_a_frame_of_pandas_is_a_table(tmp_path: Path) -> None:
    import pandas as pd

    path = table(tmp_path / "my.csv", {"size": ["", *NUMBERS[1:]], "site": SITES})
    frame = pd.read_csv(path)
    data, _ = load((frame.drop(columns="label"), frame["label"]))
    assert torch.equal(data.train.images, load(path)[0].train.images)
    frame = frame.convert_dtypes()  # whose missing value is neither None nor nan
    again, _ = load((frame[["size", "site"]], frame["label"]))
    assert torch.equal(again.train.images, data.train.images)
    alone, _ = load(frame)  # its column of labels is found by its name
    assert torch.equal(alone.train.images, data.train.images)
    assert alone.class_names == data.class_names


# ------------------------------------------------------------------------ from data to a run


def separable() -> tuple[Any, list[str]]:
    x = np.random.default_rng(0).normal(size=(200, 5))
    return x, ["high" if row.sum() > 0 else "low" for row in x]


def test_a_run_on_a_table_finds_it_by_its_config(tmp_path: Path) -> None:
    x, given = separable()
    data, _ = load((x, given))
    config = make_config(dataset=data, loss="ce", noise="none", epochs=20)
    assert (config.network, config.image_size) == ("mlp", 1)
    assert torch.equal(data_of(config, HERE).train.images, data.train.images)
    assert find_decoded(data.digest, 8) is None
    result = train(config, tmp_path / "run", machine=HERE, listener=Listener(on_message=ignore))
    assert result.on == "given"
    assert result.test_accuracy > 0.85
    (command,) = study_commands(make_grid("quick", ["ce"], dataset=data, epochs=7))
    assert command.endswith("--dataset arrays")
