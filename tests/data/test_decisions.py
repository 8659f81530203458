"""What people decided about labels, after spreadsheets and annotators had it in their hands."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from apl.data.decisions import read_labels
from apl.errors import BadInput

MONTHS = ("01", "02", "03", "04")


def read(
    folder: Path, text: str, classes: Sequence[str], name: str = "decisions.csv", **given: Any
) -> list[str]:
    """What the file makes of three samples of the first class."""
    (folder / name).write_text(text)
    found = read_labels(folder / name, np.zeros(3, np.int64), classes, **given)
    return [classes[k] for k in found.labels]


def through_pandas(text: str) -> str:
    written = io.StringIO()
    pd.read_csv(io.StringIO(text)).to_csv(written, index=False)
    return written.getvalue()


def test_classes_with_zeros_survive_pandas(tmp_path: Path) -> None:
    text = "id,given_label,label\n0,01,03\n1,01,04\n2,01,\n"
    assert "03" not in through_pandas(text)
    assert read(tmp_path, text, MONTHS) == ["03", "04", "01"]
    assert read(tmp_path, through_pandas(text), MONTHS) == ["03", "04", "01"]


@pytest.mark.parametrize(
    ("classes", "label", "meant"),
    [
        (MONTHS, "3", "03"),
        (MONTHS, "3.0", "03"),
        (MONTHS, "03", "03"),
        (("1", "2", "3", "4", "5"), "5", "5"),
        (("1", "2", "3", "4", "5"), "5.0", "5"),
        (("0.50", "0.75"), "0.5", "0.50"),
        (("1.0", "2.0"), "2", "2.0"),
        (("cat", "10"), "10.0", "10"),
        (("false", "true"), "TRUE", "true"),
        (("cat", "dog"), "Dog", "dog"),
        (("cat", "dog"), " dog ", "dog"),
        (("cat", "dog"), "1", "dog"),  # words may go by their number
        (("cat", "nan"), "nan", "nan"),  # a class that is called so
        (("cat", "NA"), "NA", "NA"),
        (("cat", "dog"), '"{""choices"":[""dog""]}"', "dog"),
        (("cat", "dog"), "['dog']", "dog"),
    ],
)
def test_what_a_label_means(
    tmp_path: Path, classes: tuple[str, ...], label: str, meant: str
) -> None:
    assert read(tmp_path, f"id,label\n1,{label}\n", classes)[1] == meant


@pytest.mark.parametrize(
    ("classes", "label", "said"),
    [
        (MONTHS, "0", "no class '0'; accepted: 01, 02"),
        (MONTHS, "5", "no class '5'"),
        (("1", "2", "3", "4", "5"), "0", "no class '0'; accepted: 1, 2, 3"),
        (("10", "cat"), "1", "no class '1'"),
        (
            ("007", "7"),
            "7",
            "'7' may be 007 or 7, which a spreadsheet writes alike: keep the zeros",
        ),
        (("007", "7"), "7.0", "may be 007 or 7"),
        (("Cat", "cAt"), "CAT", "no class 'CAT'"),
        (("cat", "dog"), "\"['cat', 'dog']\"", r"several labels \(cat, dog\); accepted: one"),
        (("cat", "dog"), '"{""choices"":[""cat"",""dog""]}"', r"several labels \(cat, dog\)"),
    ],
)
def test_what_is_no_class_or_may_be_two(
    tmp_path: Path, classes: tuple[str, ...], label: str, said: str
) -> None:
    with pytest.raises(BadInput, match=f"row 2.*{said}"):
        read(tmp_path, f"id,label\n1,{label}\n", classes)


def test_zeros_that_are_still_there_tell_7_from_007(tmp_path: Path) -> None:
    text = "id,label\n0,007\n1,7\n"
    assert read(tmp_path, text, ("x", "007", "7")) == ["007", "7", "x"]
    assert read(tmp_path, "id,label\n0,007\n", ("x", "007", "7"))[0] == "007"


@pytest.mark.parametrize("word", ["nan", "NaN", "NULL", "None", "<NA>", "N/A", "  "])
def test_a_missing_value_says_nothing(tmp_path: Path, word: str) -> None:
    text = f"id,label,decision\n0,{word},\n1,b,{word}\n2,{word},drop\n"
    assert read(tmp_path, text, ("a", "b")) == ["a", "b", "a"]


def test_names_that_are_numbers_survive_as_well(tmp_path: Path) -> None:
    names = ("0017", "0018", "1e5")
    text = "file_name,label\n18,b\n17.0,b\n100000,b\n"
    assert read(tmp_path, text, ("a", "b"), names=names) == ["b", "b", "b"]
    with pytest.raises(BadInput, match="no sample called '19'"):
        read(tmp_path, "file_name,label\n19,b\n", ("a", "b"), names=names)
    with pytest.raises(BadInput, match="'17' may be 0017 or 17"):
        read(tmp_path, "file_name,label\n17,b\n", ("a", "b"), names=("0017", "17", "x"))


def task(*annotations: Any, **more: Any) -> str:
    made = [
        {"result": [{"value": {"choices": list(choices)}}], "was_cancelled": False, **extra}
        for choices, extra in annotations
    ]
    return json.dumps([{"id": 7, "data": {"file_name": "1"}, "annotations": made, **more}])


def test_annotators_who_agree_or_one_who_decides(tmp_path: Path) -> None:
    classes, name = ("cat", "dog", "emu"), "export.json"
    for text in (
        task((["dog"], {}), (["dog"], {})),
        task((["dog"], {}), (["emu"], {"was_cancelled": True})),
        task((["emu"], {}), (["dog"], {"ground_truth": True})),
        task((["dog", "dog"], {})),
        task((["dog"], {}), ([], {})),
    ):
        assert read(tmp_path, text, classes, name)[1] == "dog"
    assert read(tmp_path, task(([], {})), classes, name)[1] == "cat"


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (task((["dog"], {}), (["emu"], {})), "a.json", r"annotators who disagree \(dog, emu\)"),
        (task((["dog", "emu"], {})), "a.json", r"several labels \(dog, emu\)"),
        (
            json.dumps([{"file_name": "1", "label": {"choices": ["dog", "emu"]}}]),
            "min.json",
            r"several labels \(dog, emu\)",
        ),
        (
            json.dumps([{"file_name": "1", "label": x} for x in ("dog", "emu")]),
            "min.json",
            "row 2: '1' contradicts what row 1 says",
        ),
        ('{"file_name": "1", "label": ["dog", "emu"]}', "rows.jsonl", r"several labels \(dog, emu"),
        (
            '{"id": 1, "label": "dog"}\n{"id": 1, "label": "emu"}',
            "rows.jsonl",
            "row 2: '1' contradicts what row 1 says",
        ),
        ("id,label\n1,dog\n1,emu\n", "rows.csv", "row 3: '1' contradicts what row 2 says"),
    ],
)
def test_contradictions_are_told_in_every_format(
    tmp_path: Path, text: str, name: str, said: str
) -> None:
    with pytest.raises(BadInput, match=said) as error:
        read(tmp_path, text, ("cat", "dog", "emu"), name)
    assert name in str(error.value)
