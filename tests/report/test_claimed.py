"""What a report says of claims that were made before the runs, and of the regret of rules."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, Cli
from tuned_runs import finished

from apl.config.tuning import TunedGrid, Tuning
from apl.report.page import Report, make_report
from apl.report.study import studies
from apl.report.tuning import CHOOSE, regrets
from apl.runs.record import _to_line, read_runs
from apl.runs.run import RECORD, Finished
from apl.runs.tuned import tuned_in

pytestmark = pytest.mark.usefixtures("unpainted")

# By loss: the accuracy on clean labels, and what it loses by each noise setting.
TRUE = {"ce": (0.85, 0.3), "mae": (0.852, 0.05), "nce_rce": (0.84, 0.06)}


@functools.cache
def runs(dataset: str = "cifar10", seeds: int = 8) -> list[Finished]:
    """A tuned study whose higher learning rate is the better one, by the truth and by given
    labels, and whose losses differ as TRUE has it, a little more or less each seed."""
    tuning = Tuning.of(["lr=.01,.1"], 2)
    made = TunedGrid.of(
        tuning, "quick", [*TRUE], ["none", "sym"], [0.4, 0.6, 0.8], dataset=dataset, seeds=seeds
    )
    rng = np.random.default_rng(0)

    def score(cell: Any) -> float:
        clean, falls = TRUE[cell.loss]
        return clean - falls * (cell.rate > 0) - (cell.lr < 0.1) / 10

    tried = [finished(cell, score(cell) / 2, score(cell)) for cell in made.to_tune()]
    chosen = {key: each.record for key, each in tuned_in(tried).items()}
    judged = [
        finished(cell, score(cell) / 2, score(cell) + 0.002 * rng.normal())
        for cell in made.to_judge(chosen)
    ]
    return [*tried, *judged]


def page(of: list[Finished]) -> Report:
    return make_report("x", studies(of))


@pytest.mark.slow
def test_our_claims_come_first_where_a_tuned_study_has_their_settings() -> None:
    html = page(runs()).html
    answers = html[html.index('class="answer"') :]
    first = answers.index("Of 12 claims: holds 3, not run 9.")
    assert first < answers.index("leads with")
    section = html[html.index('<section id="claimed-1"') :]
    assert section.index("Where much of the noise is symmetric, CE falls behind NCE+RCE") > 0
    assert "NCE+RCE ahead of CE by more than 5" in section
    assert "lacks GCE at sym 0.4, GCE at sym 0.6, GCE at sym 0.8" in section


@pytest.mark.slow
def test_they_are_ours_of_cifar10_and_of_tuned_studies_alone() -> None:
    assert "Claimed before the runs" not in page(runs("mnist")).html
    assert "three seeds can&#39;t tell" in page(runs(seeds=3)).html


@pytest.mark.slow
def test_configurations_that_were_tried_speak_for_no_loss() -> None:
    tried = [run for run in runs() if (run.config.tuned or {})["part"] == "tuning"]
    html = page(tried).html
    assert "Claimed before the runs" not in html
    assert "Behind the best loss" not in html
    assert "What was chosen (lr)" in html


@pytest.mark.slow
def test_claims_of_a_file(here: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / RECORD).write_text("".join(map(_to_line, runs("mnist"))), encoding="utf-8")
    file = tmp_path / "mine.yaml"
    claim = "- {says: mine, kind: level, better: mae, than: ce, settings: [clean], margin: 1}\n"
    file.write_text(claim, encoding="utf-8")
    here("report", "study", "--claims", "mine.yaml")
    assert "Of 1 claims: holds 1." in (folder / "report.html").read_text(encoding="utf-8")
    file.write_text(claim.replace("level", "better"), encoding="utf-8")
    said = here("report", "study", "--claims", "mine.yaml", code=2).stderr
    assert "kind is 'better'; accepted: ahead, level" in said


@pytest.mark.slow
def test_the_regret_of_a_rule_by_hand() -> None:
    (study,) = studies(runs())
    means = study.runs.groupby(["method", "setting"])["test_accuracy"].mean().unstack("setting")
    found = {rule.name: rule for rule in regrets(study)}
    assert set(found) == {"always CE", "always MAE", "always NCE+RCE", CHOOSE}
    behind = means.max() - means.loc["CE"]
    assert found["always CE"].mean == pytest.approx(behind.mean())
    assert found["always CE"].worst == pytest.approx(behind.max())
    assert found["always CE"].where == behind.idxmax()
    # Held-out labels choose MAE everywhere, which is the best but for chance.
    assert found[CHOOSE].mean == pytest.approx(found["always MAE"].mean)
    html = page(runs()).html
    assert "Behind the best loss of each setting" in html
    assert "Regret: behind the best loss of each noise setting" in html


@pytest.mark.slow
def test_peoples_labels_on_fresh_images_are_one_setting() -> None:
    """Whose measured rate differs a little from seed to seed."""
    (study,) = studies(read_runs(ROOT / "results" / "evidence" / "cifar10-lite0-linear"))
    sym = [f"sym 0.{k}" for k in (2, 4, 6, 8)]
    assert study.settings == ["clean", *sym, "asym 0.4", "human aggre", "human worse"]
    assert study.runs.groupby(["method", "setting"])["seed"].nunique().eq(10).all()
