"""A study of data whose truth nobody knows leads with the loss that held-out labels choose."""

from __future__ import annotations

import dataclasses
import math

import pytest

from apl.config.config import make_config
from apl.report.page import make_report
from apl.report.pictures import guess
from apl.report.results import choices, chosen_lines, results_table
from apl.report.study import Study, studies
from apl.runs.run import Finished
from apl.runs.scores import HISTORY_COLUMNS, VALIDATION, Result

OWN = {"dataset": "wine", "dataset_sha256": "0" * 64, "image_size": 1, "noise": "none"}
COUNTS = [[20, 5], [3, 7]]


def run(loss: str, seed: int, held_out: float, test: float, count: int = 46) -> Finished:
    config = make_config("quick", loss=loss, seed=seed, select="noisy", epochs=1, **OWN)
    result = Result(
        collapsed=False,
        reason="",
        too_short=False,
        test_accuracy=test,
        train_accuracy=0.9,
        memorised=math.nan,
        recovered=math.nan,
        corrupted=0,
        class_names=["red", "white"],
        confusion=COUNTS,
        transition=None,
        on="given",
        held_out=count,
    )
    row = dict.fromkeys(HISTORY_COLUMNS, 0.5) | {"epoch": 1, "test_accuracy": test}
    return Finished(config.name, config, {}, [row | {VALIDATION: held_out}], result)


def study(count: int = 46) -> Study:
    """CE has the best test accuracy, GCE the best on held-out labels, NCE+RCE is far behind."""
    scores = {"ce": (0.70, 0.95), "gce": (0.76, 0.80), "nce_rce": (0.40, 0.85)}
    runs = [run(loss, seed, *of, count) for loss, of in scores.items() for seed in range(3)]
    (found,) = studies(runs, [])
    return found


def test_what_is_chosen_and_whether_so_few_labels_can_tell() -> None:
    (choice,) = choices(study())
    assert choice.method == "GCE"
    assert list(choice.ahead) == ["CE", "NCE+RCE"]
    expected = 196 * math.sqrt(2 * 0.76 * 0.24 / 46)
    assert choice.reach == pytest.approx(expected)
    (line,) = chosen_lines(study())
    assert line.startswith(
        "GCE, chosen by held-out given labels: 76.0 % of them, 6.0 points ahead of CE"
    )
    assert (
        "46 labels alone can't decide between it and CE: they show differences of 17.5 points"
        in line
    )
    assert line.endswith("It reaches 80.0 % on given test labels.")


def test_who_is_level_is_not_ahead() -> None:
    runs = [run(loss, 0, 0.75, 0.9) for loss in ("ce", "gce")]
    (found,) = studies(runs, [])
    assert "75.0 % of them, level with GCE" in chosen_lines(found)[0]


def test_many_labels_decide_and_records_without_their_number_say_nothing_of_it() -> None:
    assert "which 4,600 labels can tell" in chosen_lines(study(4600))[0]
    assert "alone" not in chosen_lines(study(0))[0]


@pytest.mark.slow
@pytest.mark.usefixtures("unpainted")
def test_table_and_page_lead_with_it_and_never_with_the_winner_in_hindsight() -> None:
    told = results_table([study()])
    assert told.index("GCE, chosen by held-out") < told.index("| Method")
    page = make_report("mine", [study()])
    assert "GCE, chosen by held-out given labels" in page.html
    for hindsight in ("CE leads", "Which loss leads", "claims of the paper", "published ranking"):
        assert hindsight not in page.html
    assert page.agreement == []


def test_guessing_is_the_largest_class() -> None:
    share, name = guess(study())
    assert share == pytest.approx(100 * 25 / 35)
    assert name == "largest class"


def test_a_result_without_a_choice_is_written_as_before() -> None:
    plain = dataclasses.replace(run("ce", 0, 0.7, 0.9).result, held_out=0)
    assert "held_out" not in plain.to_json()
    assert Result.read(plain.to_json()).held_out == 0
    chosen = run("ce", 0, 0.7, 0.9).result
    assert Result.read(chosen.to_json()).held_out == 46
