"""A study's folder: its runs under runs/, a line for each finished one in runs.jsonl (the record:
config, environment, history and result, all that tables, pictures and reports need) and a row for
each in summary.csv."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apl.config.config import Config
from apl.errors import BadInput, one_line
from apl.files import FORMAT, Newer, _finite, csv_bytes, json_object, write_atomic
from apl.names import NOISES
from apl.runs.run import CONFIG, RECORD, RESULT, RUNS, SUMMARY, Finished, Run
from apl.runs.scores import Result, columns_of

# ----------------------------------------------------------------------------------- a study


def find_studies(folder: Path) -> list[Path]:
    """Every study folder at or below `folder`: those with finished runs, or the record of some."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}")
    found = {result.parents[2] for result in folder.rglob(f"{RUNS}/*/{RESULT}")}
    found |= {record.parent for record in folder.rglob(RECORD)}
    if not found and Run(folder).finished:
        found = {folder.parent.parent}
    return sorted(found)


def read_record(study: Path) -> dict[str, Finished]:
    """The runs that runs.jsonl tells of, by name; none where there is no such file.  A line that
    is damaged is left out, with a warning; one of a newer apl is BadInput."""
    path = study / RECORD
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} can't be read ({one_line(error)})") from None
    found = {}
    for number, line in enumerate(lines, 1):
        where = f"line {number} of {path}"
        try:
            run = _from_line(json_object(line, where, "its run is needed to write it again"))
        except Newer:  # left out, it would be lost when the record is written again
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = str(error) if isinstance(error, BadInput) else "it is no run of this apl"
            said = said if where in said else f"{where}: {said}"
            warnings.warn(f"left out: {said}", stacklevel=2)
            continue
        found[run.name] = run
    return found


def _from_line(content: Mapping[str, Any]) -> Finished:
    names = columns_of(content["history"])
    columns = [content["history"][name] for name in names]
    history = [
        {
            name: math.nan if value is None else float(value)
            for name, value in zip(names, row, strict=True)
        }
        for row in zip(*columns, strict=True)
    ]
    result = Result.read(content["result"])
    environment = dict(content["environment"])
    if not isinstance(content["run"], str):
        raise TypeError("the name of a run must be text")
    return Finished(content["run"], Config.read(content["config"]), environment, history, result)


def _to_line(run: Finished) -> str:
    names = columns_of(run.history[0] if run.history else ())
    content = {
        "format": FORMAT,
        "run": run.name,
        "config": run.config.to_json(),
        "environment": run.environment,
        "history": {name: [row[name] for row in run.history] for name in names},
        "result": run.result.to_json(),
    }
    return json.dumps(_finite(content), separators=(",", ":"), allow_nan=False) + "\n"


def read_runs(study: Path) -> list[Finished]:
    """The finished runs of a study, from their folders and, where these are not at hand, from the
    record, in order of their names.  A folder whose files are damaged is told of in a warning.

    Raises BadInput where there is no run.
    """
    found = read_record(study)
    for file in study.glob(f"{RUNS}/*/{RESULT}"):
        try:
            found[file.parent.name] = Run(file.parent).read()
        except BadInput as error:
            what = "taken from the record" if file.parent.name in found else "left out"
            warnings.warn(f"{what}: {error}", stacklevel=2)
    if not found:
        raise BadInput(f"there is no finished run in {study}")
    return [found[name] for name in sorted(found)]


def read_unfinished(study: Path) -> list[Config]:
    """The configs of the run folders that have no result yet; damaged ones have none to tell."""
    found = []
    for file in sorted(study.glob(f"{RUNS}/*/{CONFIG}")):
        if not Run(file.parent).finished:
            with contextlib.suppress(BadInput):
                found.append(Run(file.parent).config)
    return found


def write_study(study: Path) -> list[Finished]:
    """Write the record and summary.csv, and return the runs that they tell of."""
    runs = read_runs(study)
    write_atomic(study / RECORD, "".join(map(_to_line, runs)).encode())
    write_atomic(study / SUMMARY, csv_bytes(_summary(runs)))
    return runs


SETTING = ("dataset", "preset", "loss", "noise", "map", "rate", "seed", "epochs", "variant")


def setting(run: Finished) -> dict[str, Any]:
    """What a row of tables says of what was asked; the rate of noise that has none of its own is
    that of its matrix, nan where nobody knows it."""
    row = {name: getattr(run.config, name) for name in SETTING}
    if run.config.noise != "none" and not NOISES[run.config.noise].rated:
        matrix = run.result.transition
        # A class without a sample of known truth has a row of null.
        kept = [math.nan] if matrix is None else np.diag(np.array(matrix, float))
        row["rate"] = math.nan if np.isnan(kept).all() else round(1 - float(np.nanmean(kept)), 6)
    return row


def _summary(runs: Sequence[Finished]) -> list[list[Any]]:
    """A row a run, a column acc_CLASS for each class that any of them has; `on` where the test
    labels of some are not known to be true."""
    wide = ("class_names", "per_class_accuracy", "confusion", "transition")
    scored = [f.name for f in dataclasses.fields(Result) if f.name not in (*wide, "on")]
    if any(run.result.on != "true" for run in runs):
        scored.append("on")
    classes = list(dict.fromkeys(name for run in runs for name in run.result.class_names))
    rows: list[list[Any]] = [["run", *SETTING, *scored, *(f"acc_{name}" for name in classes)]]
    for run in runs:
        names = run.result.class_names
        accuracies = dict(zip(names, run.result.per_class_accuracy, strict=True))
        rows.append(
            [
                *(run.name, *setting(run).values()),
                *(getattr(run.result, name) for name in scored),
                *(accuracies.get(name, math.nan) for name in classes),
            ]
        )
    return rows
