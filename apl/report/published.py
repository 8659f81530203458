"""Published results to compare with: last epoch, clean test labels, the 8-layer CNN, 120 epochs."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pandas as pd

Cells = dict[tuple[str, str, float], dict[Any, Any]]


def published_rows() -> pd.DataFrame:
    """Every published figure: dataset, noise, rate, method, mean and std in %, paper, source.

    Ma et al. 2020 is the authors' notebook, since it says more than the paper; papers that ran
    the same protocol follow.
    """
    with resources.files("apl.report").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def published_cells(dataset: str, rows: pd.DataFrame | None = None) -> Cells:
    """The row of each (method, noise, rate in %) of a data set, the first paper's of several.

    rows: some of `published_rows`, None for all.
    """
    rows = published_rows() if rows is None else rows
    rows = rows[rows["dataset"] == dataset].drop_duplicates(["method", "noise", "rate"])
    return {
        (row["method"], row["noise"], round(100 * float(row["rate"]), 4)): row
        for row in rows.to_dict("records")
    }
