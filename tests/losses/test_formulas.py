"""The golden numbers of the losses are what the formulas in 50 digits give."""

import json

import formulas_of_criteria
import formulas_of_sums
import pytest

pytestmark = pytest.mark.slow


def test_sums() -> None:
    written = json.loads(formulas_of_sums.GOLDEN.read_text(encoding="utf-8"))
    assert json.loads(formulas_of_sums.as_text(formulas_of_sums.golden())) == written


def test_criteria() -> None:
    written = json.loads(formulas_of_criteria.GOLDEN.read_text(encoding="utf-8"))
    assert json.loads(formulas_of_sums.as_text(formulas_of_criteria.golden())) == written
