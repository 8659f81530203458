"""Numbers as people write them, and the columns, headers and files that come with them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from apl.data.dataset import Dataset
from apl.data.formats import hint
from apl.data.numbers import to_numbers
from apl.data.rows import changed
from apl.data.sources import load_data
from apl.data.tables import encode
from apl.errors import BadInput

NAN = float("nan")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def load(source: Any, **given: Any) -> tuple[Dataset, list[str]]:
    told: list[str] = []
    return load_data(source, say=told.append, **given), told


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["$1.50", "$2", "3.25"], [1.5, 2, 3.25]),  # the sign may be left out
        (["-$3", "$-3", "($1,234.50)"], [-3, -3, -1234.5]),
        (["US$ 5", "US$ 1,000.00", ""], [5, 1000, NAN]),
        (["EUR 5", "EUR 7,50", "n/a"], [5, 7.5, NAN]),
        (["1.234,56 \u20ac", "2,50 \u20ac", "0,99\xa0\u20ac"], [1234.56, 2.5, 0.99]),
        (["5%", "7.5 %", "10%"], [5, 7.5, 10]),
        (["1,234", "5,678", "900"], [1234, 5678, 900]),
        (["1,5", "2,25", "1,234"], [1.5, 2.25, 1.234]),  # 1,5 tells what 1,234 is
        (["1,234", "1.5"], [1234, 1.5]),
        (["0,123", "3"], [0.123, 3]),
        (["1.234.567", "2.000"], [1234567, 2000]),
        (["1,23,456", "2,345"], [123456, 2345]),  # as in India
        (["1 234,5", "2\u202f000,25"], [1234.5, 2000.25]),
        (["1'234.50", "12"], [1234.5, 12]),
        (["12 kg", "5kg", "7.5 kg"], [12, 5, 7.5]),
        (["30\u00b0C", "25 \u00b0C"], [30, 25]),
        (["\u22125", "3"], [-5, 3]),
        ([".", ".a", "1"], [NAN, NAN, 1]),  # of Stata and SAS
        (["99", "-9", "1"], [99, -9, 1]),  # which only who asked knows to be no answer
    ],
)
def test_a_column_is_the_numbers_that_were_meant(
    cells: Sequence[str], values: Sequence[float]
) -> None:
    found = to_numbers(cells)
    assert found is not None
    np.testing.assert_allclose(found.values, values)
    assert found.strays == []


@pytest.mark.parametrize(
    "cells",
    [
        ["5%", "0.05"],
        ["12 kg", "5 g"],
        ["$5", "5 \u20ac"],
        ["3pm", "4am"],
        ["12th", "1st"],
        ["a1", "b2"],
        ["10-20", "<5"],
        ["1,5", "2.5"],
        ["2020-01-01"],
        ["12:30"],
        ["1/2"],
        ["", "."],
    ],
)
def test_what_has_no_one_scale_is_no_column_of_numbers(cells: Sequence[str]) -> None:
    assert to_numbers(cells * 3) is None


def test_where_the_column_does_not_tell_the_file_does() -> None:
    for decimal, cells, value in (
        (".", ["1,234"], 1234.0),
        (",", ["1,234"], 1.234),
        (",", ["1.234"], 1.234),
        (",", ["1,234.56"], 1234.56),  # was 1.23456
        (",", ["1.000,5"], 1000.5),
    ):
        found = to_numbers(cells, decimal)
        assert found is not None
        assert found.values.tolist() == [value]


def test_prices_are_learned_from_told_and_read_alike_later(tmp_path: Path) -> None:
    rows = [f'"${i % 9 + 1},00{i % 7}.50",{i % 4}%,"{i % 5},5",{"ab"[i % 2]}' for i in range(60)]
    (tmp_path / "shop.csv").write_text("price,share,size,label\n" + "\n".join(rows) + "\n")
    data, told = load(tmp_path / "shop.csv")
    assert data.train.images.shape[1] == 3
    assert any(
        line == "columns of numbers as people write them: 'price' ($1,000.50 is 1000.5), 'share' "
        "(0% is 0), 'size' (0,5 is 0.5)"
        for line in told
    )
    recipes = json.loads(json.dumps(data.encoding["columns"]))
    price, share, size = recipes
    new = {"price": ["$2,001.50", "\u20ac5"], "share": ["3%", "0.03"], "size": ["1,234", "2"]}
    made = encode(new, recipes, 2)
    for k, (recipe, value) in enumerate(((price, 2001.5), (share, 3), (size, 1.234))):
        wanted = (value / recipe["scale"] - recipe["mean"]) / recipe["std"]
        assert made[0, k] == pytest.approx(wanted, abs=1e-5)
    assert made[1].tolist()[:2] == [0, 0]  # another currency, and a share of 1


# ------------------------------------------------------------------------- names of rows


def rows_of(count: int = 40) -> list[list[str]]:
    rng = np.random.default_rng(0)
    order = rng.permutation(count)
    return [[str(k), str(k % 7), str(k % 5), "ab"[k % 2]] for k in order.tolist()]


@pytest.mark.parametrize("mark", [",", "\t", " "])
def test_a_header_of_rs_write_table_is_one_cell_shorter(tmp_path: Path, mark: str) -> None:
    file = tmp_path / "r.csv"
    lines = [f'"r{row[0]}"{mark}{mark.join(row[1:3])}{mark}"{row[3]}"' for row in rows_of()]
    file.write_text("\n".join([mark.join(['"u"', '"v"', '"label"']), *lines]) + "\n")
    data, told = load(file)
    assert data.class_names == ("a", "b")
    assert data.train.images.shape[1] == 2
    assert {*data.train.names} < {f"r{k}" for k in range(40)}
    assert any("a cell more than the line of the columns" in line for line in told)
    written = changed(file, {2: {"label": "b"}, 3: None}, {"label"}).decode()
    assert re.search(rf'^"?r{rows_of()[0][0]}"?{mark}.*{mark}"?b"?\r?$', written, re.MULTILINE)


@pytest.mark.parametrize("column", ["", "Unnamed: 0", "Unnamed: 0.1", "level_0"])
def test_numbers_of_rows_are_not_learned_from(tmp_path: Path, column: str) -> None:
    """As R's write.csv, pandas' to_csv and a second saving of it leave them."""
    lines = [",".join(row) for row in rows_of()]  # of a frame that was shuffled
    (tmp_path / "p.csv").write_text("\n".join([f"{column},u,v,label", *lines]) + "\n")
    frame = pd.read_csv(tmp_path / "p.csv")
    for source in (tmp_path / "p.csv", frame):
        assert load(source)[0].train.images.shape[1] == 2


def test_an_id_beside_numbers_of_rows_names_the_samples(tmp_path: Path) -> None:
    lines = [f"{row[0]},{row[1]},{row[2]},x{row[0]},{row[3]}" for row in rows_of()]
    (tmp_path / "p.csv").write_text("\n".join(["Unnamed: 0,u,v,id,label", *lines]) + "\n")
    data, told = load(tmp_path / "p.csv")
    assert data.train.images.shape[1] == 2
    assert data.train.names[0].startswith("x")
    assert "columns left out, numbers of rows: 'Unnamed: 0'" in told


# ------------------------------------------------------------------------------ an index


def frame_of(index: Any) -> tuple[pd.DataFrame, pd.Series]:
    rows = rows_of()
    frame = pd.DataFrame({"u": [int(row[1]) for row in rows], "v": [int(row[2]) for row in rows]})
    frame.index = index
    return frame, pd.Series([row[3] for row in rows], index=index)


INDICES: dict[str, Callable[[], Any]] = {
    "words": lambda: pd.Index([f"s{k}" for k in range(40)]),
    "shuffled": lambda: pd.Index(np.random.default_rng(1).permutation(40)),
    "twice": lambda: pd.Index([*range(20), *range(20)]),
    "several": lambda: pd.MultiIndex.from_product([range(8), [*"abcde"]]),
    "days": lambda: pd.date_range("2020", periods=40),
}


@pytest.mark.parametrize("kind", INDICES)
def test_one_index_in_another_order_is_refused_and_never_shuffled(kind: str) -> None:
    frame, labels = frame_of(INDICES[kind]())
    plain = load((frame.to_numpy(), labels.to_numpy()))[0]
    assert load((frame, labels))[0].train.labels.given.tolist() == plain.train.labels.given.tolist()
    with pytest.raises(BadInput, match=r"in another order.*labels\.loc\[rows\.index\]"):
        load((frame, labels.iloc[::-1]))
    with pytest.raises(BadInput, match="another"):
        load((frame, labels.set_axis([f"other{k}" for k in range(40)])))
    ordered = load((frame, labels.iloc[::-1].to_numpy()[::-1]))[0]  # no index, so by the order
    assert ordered.train.labels.given.tolist() == plain.train.labels.given.tolist()
    if kind in ("words", "days", "several"):  # one that counts from 0 says nothing beside it
        assert (
            load((frame, labels.reset_index(drop=True)))[0].digest
            == load((frame, labels))[0].digest
        )


def test_labels_in_the_index_of_a_frame() -> None:
    frame, labels = frame_of(range(40))
    frame["label"] = labels
    for indexed in (frame.set_index("label"), frame.set_index(["v", "label"])):
        data, _ = load(indexed)
        assert data.class_names == ("a", "b")


# --------------------------------------------------------------------------- other files


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.xlsx", "a spreadsheet: save it as CSV"),
        ("a.xls", "a spreadsheet"),
        ("a.ods", "a spreadsheet"),
        ("a.mat", "scipy.io.loadmat"),
        ("a.rds", "write.csv"),
        ("a.RData", "write.csv"),
        ("a.h5", "h5py"),
        ("a.pkl", "never opened"),
        ("a.sqlite", "a database"),
        ("a.zip", "unpack it first"),
        ("a.csv.gz", "unpack it first"),
        ("a.dta", "read_stata"),
        ("a.sav", "read_spss"),
        ("a.feather", "read_feather"),
        ("a.txt", "a table is called .csv or .tsv"),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_to_save_it_as(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadInput, match=re.escape(said)) as refused:
        load(tmp_path / name)
    assert "\n" not in str(refused.value)
    with pytest.raises(BadInput, match=re.escape(said)):  # the one file of a folder
        load(tmp_path)
    assert hint(Path("a.csv")) == hint(Path("a.png")) == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04\x14\x00", "a spreadsheet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "a spreadsheet"),
        (b"\r\n<HTML><table>", "a page"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"PAR1", "call it .parquet"),
        (b"\x1f\x8b\x08", "unpack"),
    ],
)
def test_a_file_that_is_called_a_list_and_is_none(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "list.csv").write_bytes(content * 20)
    with pytest.raises(BadInput, match=said):
        load(tmp_path / "list.csv")
