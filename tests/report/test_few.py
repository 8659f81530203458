"""Of many methods a small panel shows those that tell most, and a sheet of matrices a few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from conftest import ROOT

from apl.report import pictures
from apl.report.page import read_study
from apl.report.study import Study


@pytest.fixture(scope="module")
def study() -> Study:
    (found,) = read_study(ROOT / "results/evidence/cifar10-laptop")
    return found


@pytest.fixture(autouse=True)
def look() -> Iterator[None]:
    with pictures.look():
        yield


@pytest.mark.slow
def test_the_few_are_ce_the_papers_own_the_best_and_the_worst(study: Study) -> None:
    few = pictures.telling(study)
    assert len(few) == pictures.FEW < len(study.styles) == 12
    assert {"CE", "NCE+RCE"} <= set(few)
    means = study.runs.groupby(["method", "setting"])["test_accuracy"].mean().groupby("method")
    order = means.mean().sort_values()
    assert {order.index[0], *order.index[-3:]} <= set(few)


@pytest.mark.slow
def test_the_others_are_grey_and_counted(study: Study) -> None:
    ((_, draw),) = pictures._accuracy_per_epoch(study)
    figure = draw()
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == [*pictures.telling(study), "6 others", "chance (10 %)"]
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    assert sum(line.get_color() == pictures.BEHIND.color for line in lines) == 6
    assert len(lines) == 12


@pytest.mark.slow
def test_every_matrix_is_drawn_once_six_on_a_sheet(study: Study) -> None:
    sheets: dict[str, list[str]] = {}
    for name, draw in pictures._confusions(study):
        titles = [axes.get_title() for axes in draw().axes if axes.get_title()]
        assert len(titles) <= pictures.FEW
        sheets.setdefault(name.removesuffix("_2"), []).extend(titles)
    assert len(sheets) == 2
    assert all(sorted(titles) == sorted(study.styles) for titles in sheets.values())


def test_a_study_of_few_shows_all(study: Study) -> None:
    few = list(study.styles)[:8]
    runs = study.runs[study.runs["method"].isin(few)]
    small = replace(study, runs=runs, styles={name: study.styles[name] for name in few})
    assert pictures._in_front(small)[0] == few
