"""How people's data are read, as one value."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import apl
from apl.data.reading import AS_USUAL, Reading
from apl.errors import BadInput


def test_what_load_data_takes_is_a_reading() -> None:
    taken = inspect.signature(apl.load_data).parameters
    for name, usual in vars(AS_USUAL).items():
        assert taken[name].default == usual
        assert taken[name].kind is inspect.Parameter.KEYWORD_ONLY


def test_other_settings_hold_some_of_it() -> None:
    settings: dict[str, Any] = {"image_size": 32, "loss": "ce", "test_set": None}
    machine = {"max_broken": 0.0, "classes": 'cat, "a, b", 7', "threads": 1}
    wanted = Reading(image_size=32, max_broken=0.0, classes=("cat", "a, b", "7"))
    assert Reading.of(settings, machine) == wanted
    assert Reading.of({}) == Reading.of({"classes": "", "label_column": ""}) == AS_USUAL
    assert Reading.of({"classes": ["cat", 7]}).classes == ("cat", "7")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image_size": -1}, "image_size is -1; accepted: 1 to 1024, or 0 for the data's own"),
        ({"image_size": 1025}, "image_size is 1025; accepted"),
        ({"max_broken": 1.5}, "max_broken is 1.5; accepted: a number from 0 to 1"),
        ({"classes": "cat"}, "classes is 'cat'; accepted: two different names or more"),
        ({"classes": ["cat", "cat"]}, "classes is 'cat, cat'; accepted: two different"),
        ({"max_broken": float("nan")}, "max_broken is nan; accepted"),
    ],
)
def test_what_is_none(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        apl.load_data("digits", **given)
