"""The golden numbers of the losses are what the formulas in 50 digits give."""

import json
from types import ModuleType

import formulas_of_criteria
import formulas_of_sums
import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("script", [formulas_of_sums, formulas_of_criteria])
def test_what_is_written_is_what_the_formulas_give(script: ModuleType) -> None:
    assert json.loads(script.golden()) == json.loads(script.GOLDEN.read_text(encoding="utf-8"))
