"""What is trained on small data of the user's own, where nothing is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from apl import load_data, make_config


@pytest.mark.parametrize(("rows", "epochs"), [(100, 80), (600, 12), (5_000, 7)])
def test_seven_epochs_or_as_many_as_make_80_steps(rows: int, epochs: int) -> None:
    table = np.random.default_rng(0).normal(size=(rows, 4))
    data = load_data((table, np.arange(rows) % 2), say=lambda _: None)
    config = make_config(dataset=data)
    assert (config.epochs, config.weight_decay, config.warm_start) == (epochs, 0.01, 2.0)
    assert make_config(dataset=data, epochs=3).epochs == 3
    assert make_config("laptop", dataset=data).weight_decay == 1e-4
    assert make_config(dataset="digits").weight_decay == 1e-4


def test_the_page_has_the_figures_of_its_record() -> None:
    done = pd.read_csv(ROOT / "docs/own-defaults.csv")
    noisy = done[done["noise"] != "clean"]
    page = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
    for (_, loss), rows in noisy.groupby(["candidate", "loss"]):
        lost = (rows["best"] - rows["last"]).mean()
        figures = (rows["last"].mean(), lost, rows["memorised"].mean())
        wanted = [f"{figure:.1f}" for figure in figures]
        lines = [line for line in page.splitlines() if all(each in line for each in wanted)]
        assert len(lines) == 1, (loss, wanted)
