"""Published results to compare with: last epoch, clean test labels, the 8-layer CNN, 120 epochs."""

from __future__ import annotations

from importlib import resources

import pandas as pd


def published_rows() -> pd.DataFrame:
    """Every published figure: dataset, noise, rate, method, mean and std in %, paper, source.

    Ma et al. 2020 is the authors' notebook, since it says more than the paper; papers that ran
    the same protocol follow.
    """
    with resources.files("apl.report").joinpath("published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def published_table(dataset: str) -> pd.DataFrame | None:
    """One row per method, noise and rate for a data set, the earliest paper's; None if none."""
    rows = published_rows()
    rows = rows[rows["dataset"] == dataset].drop_duplicates(["method", "noise", "rate"])
    return None if rows.empty else rows
