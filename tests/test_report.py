"""The report, from made-up results that look like real ones, written as a study writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from apl.config import make_config
from apl.results import HISTORY_COLUMNS, write_history, write_json, write_summary

ENVIRONMENT = {"device": "cpu", "python": "3.12.1", "torch": "2.9.0", "git_commit": "0123abc"}
RESULT = """collapsed reason too_short test_accuracy train_accuracy memorised recovered class_names
per_class_accuracy confusion transition""".split()


def write_study(folder: Path, summary: pd.DataFrame, histories: pd.DataFrame) -> Path:
    """The run folders and the summary.csv that made-up runs would have left."""
    for row in summary.to_dict("records"):
        config = make_config(
            **{name: row[name] for name in ("preset", "dataset", "loss", "noise", "map", "rate")},
            seed=int(row["seed"]),
            epochs=int(row["epochs"]),
        )
        run = folder / "runs" / config.name
        run.mkdir(parents=True)
        content = {"config": config.__dict__, "environment": ENVIRONMENT}
        write_json(run / "config.json", {"format": 1, **content})
        corrupted = int(10_000 * row["rate"])
        result = {name: row[name] for name in RESULT}
        write_json(run / "result.json", {"format": 1, **result, "corrupted": corrupted})
        history = histories[histories["run"] == row["run"]]
        write_history(run / "history.csv", history[list(HISTORY_COLUMNS)].to_dict("records"))
    write_summary(folder)
    return folder
