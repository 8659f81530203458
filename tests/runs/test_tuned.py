"""What held-out given labels choose: worked out by hand."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from tuned_runs import finished

from apl.config.tuning import TunedGrid, Tuning
from apl.report.study import studies
from apl.report.tuning import chosen_values_table, cost_table, curves
from apl.runs.run import Finished
from apl.runs.tuned import tuned_in, write_tuning


def grid(losses: tuple[str, ...] = ("ce",), tune: str = "lr=.01,.1,.2") -> TunedGrid:
    tuning = Tuning.of([tune], 2)
    return TunedGrid.of(tuning, "quick", list(losses), ["sym"], [0.4], seeds=2)


def tried(scores: Mapping[float, tuple[float, float]], made: TunedGrid) -> list[Finished]:
    """Tuning runs whose held-out and test accuracies are these by the learning rate, a little
    less and more on the two seeds."""
    runs = []
    for cell in made.to_tune():
        held_out, test = scores[cell.lr]
        by = 0.01 if cell.seed % 2 else -0.01
        runs.append(finished(cell, held_out + by, test + by))
    return runs


def test_the_highest_mean_on_held_out_given_labels_is_chosen_and_never_the_truth() -> None:
    made = grid()
    runs = tried({0.01: (0.3, 0.9), 0.1: (0.5, 0.6), 0.2: (0.4, 0.7)}, made)
    (each,) = tuned_in(runs).values()
    assert each.chosen is not None
    assert each.chosen.values == {"lr": 0.1}
    assert each.best is not None
    assert each.best.values == {"lr": 0.01}
    assert each.cost == pytest.approx(0.3)
    assert each.edge == []
    assert each.record == {"values": {"lr": 0.1}, "held_out": pytest.approx(0.5), "edge": []}
    blind = [
        run._replace(result=dataclasses.replace(run.result, test_accuracy=0.1)) for run in runs
    ]
    (same,) = tuned_in(blind).values()
    assert same.chosen == dataclasses.replace(each.chosen, test=same.chosen.test)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("tune", "best", "edge"),
    [
        ("lr=.01,.1,.2", 0.01, ["lr"]),
        ("lr=.01,.1,.2", 0.1, []),
        ("lr=.01,.1,.2", 0.2, ["lr"]),
        ("lr=0,.1,.2", 0.0, []),  # there is none below
        ("lr=.1", 0.1, []),  # nothing was tried beside it
    ],
)
def test_a_choice_at_the_edge_is_marked(tune: str, best: float, edge: list[str]) -> None:
    made = grid(tune=tune)
    scores = {cell.lr: (0.6 if cell.lr == best else 0.4, 0.5) for cell in made.to_tune()}
    (each,) = tuned_in(tried(scores, made)).values()
    assert each.edge == edge


def test_of_equal_ones_the_first_and_a_run_that_diverged_is_no_choice() -> None:
    made = grid()
    (each,) = tuned_in(tried(dict.fromkeys((0.01, 0.1, 0.2), (0.4, 0.5)), made)).values()
    assert each.chosen is not None
    assert each.chosen.values == {"lr": 0.01}
    runs = [finished(cell, math.nan if cell.lr == 0.2 else 0.1, 0.1) for cell in made.to_tune()]
    (each,) = tuned_in(runs).values()
    assert each.chosen is not None
    assert each.chosen.values == {"lr": 0.01}
    assert each.tried[-1].mean == 0.0


def test_a_configuration_that_lacks_a_seed_is_not_chosen() -> None:
    made = grid()
    runs = tried({0.01: (0.3, 0.3), 0.1: (0.5, 0.5), 0.2: (0.9, 0.9)}, made)
    runs = [run for run in runs if not (run.config.lr == 0.2 and run.config.seed == 1001)]
    (each,) = tuned_in(runs).values()
    assert each.chosen is not None
    assert each.chosen.values == {"lr": 0.1}


def test_tuning_csv_has_a_row_a_configuration_and_no_true_label(tmp_path: Path) -> None:
    made = grid(("ce", "mae"))
    runs = tried({0.01: (0.3, 0.9), 0.1: (0.5, 0.6), 0.2: (0.6, 0.7)}, made)
    path = write_tuning(tmp_path, list(tuned_in(runs).values()))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3
    assert not any("test" in name for name in rows[0])
    chosen = [row for row in rows if row["chosen"]]
    assert [(row["loss"], row["lr"], row["edge"]) for row in chosen] == [
        ("ce", "0.2", "lr"),
        ("mae", "0.2", "lr"),
    ]
    assert (rows[0]["seeds"], float(rows[0]["held_out"])) == ("2", 30.0)
    assert float(rows[0]["std"]) == pytest.approx(100 * 0.02 / math.sqrt(2), abs=1e-4)


def test_a_study_is_told_by_what_was_chosen_and_its_curves_beside_it() -> None:
    made = grid(("ce", "nce"))
    runs = tried({0.01: (0.3, 0.9), 0.1: (0.5, 0.6), 0.2: (0.4, 0.7)}, made)
    chosen = {key: each.record for key, each in tuned_in(runs).items()}
    judged = [finished(cell, 0.5, 0.8) for cell in made.to_judge(chosen)]
    (study,) = studies([*runs, *judged])
    assert list(study.styles) == ["CE", "NCE"]
    assert set(study.runs["seed"]) == {0, 1}
    assert "lr tuned for each loss" in study.caption
    table = chosen_values_table(study)
    assert table is not None
    assert [[c.text for c in row] for row in table.rows] == [
        ["CE", "0.1"],
        ["NCE", "0.1"],
    ]
    cost = cost_table(study)
    assert cost is not None
    assert cost.rows[0][1].text == "30.0"
    ((setting, curve),) = curves(study)
    assert (setting, curve.head) == ("sym 0.4", ["Method", "0.01", "0.1", "0.2"])
    assert [(c.text, c.below, c.best) for c in curve.rows[0][1:]] == [
        ("30.0", "90.0", False),
        ("50.0", "60.0", True),
        ("40.0", "70.0", False),
    ]
    # Of a wider grid another is chosen: what was judged before is left out, and told.
    wider = grid(("ce",), "lr=.01,.1,.2,.5")
    scores = {0.01: (0.3, 0.9), 0.1: (0.5, 0.6), 0.2: (0.4, 0.7), 0.5: (0.8, 0.8)}
    more = tried(scores, wider)
    (later,) = tuned_in(more).values()
    now = {wider.key(cell): later.record for cell in wider.base}
    again = [finished(cell, 0.8, 0.9) for cell in wider.to_judge(now)]
    added = [run for run in more if run.config.lr == 0.5]
    (study,) = studies([*runs, *judged, *added, *again])
    assert study.earlier == 2
    assert len(study.runs) == 4
    table = chosen_values_table(study)
    assert table is not None
    assert "after the last epoch: 3 to 4 configurations of each, 2 tuning seeds" in table.notes[0]
    # Before any run judges, the tuning runs are told as what they are.
    (study,) = studies(runs)
    assert list(study.styles) == [f"{n} (lr={v})" for n in ("CE", "NCE") for v in (0.01, 0.1, 0.2)]
