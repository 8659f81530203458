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

from apl.config.config import Config, moved_text
from apl.config.published import published_names
from apl.errors import BadInput, one_line
from apl.files import FORMAT, Newer, csv_bytes, finite, json_object, write_atomic
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
            run = _from_line(json_object(line, where, "its run is needed to write it again"), line)
        except Newer:  # left out, it would be lost when the record is written again
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = str(error) if isinstance(error, BadInput) else "it is no run of this apl"
            said = said if where in said else f"{where}: {said}"
            warnings.warn(f"left out: {said}", stacklevel=2)
            continue
        found[run.name] = run
    return found


def _from_line(content: Mapping[str, Any], line: str) -> Finished:
    names = columns_of(content["history"])
    columns = [
        [math.nan if value is None else float(value) for value in content["history"][name]]
        for name in names
    ]
    history = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    result = Result.read(content["result"])
    environment = dict(content["environment"])
    if not isinstance(content["run"], str):
        raise TypeError("the name of a run must be text")
    variant, tuned = content.get("variant"), content.get("tuned")
    config = Config.read(content["config"], content["run"], variant, tuned)
    return Finished(content["run"], config, environment, history, result, f"{line}\n")


def _to_line(run: Finished) -> str:
    names = columns_of(run.history[0] if run.history else ())
    content = {
        "format": FORMAT,
        **run.config.naming(),
        "run": run.name,  # of its folder
        "config": run.config.to_json(),
        "environment": run.environment,
        "history": {name: [row[name] for row in run.history] for name in names},
        "result": run.result.to_json(),
    }
    return json.dumps(finite(content), separators=(",", ":"), allow_nan=False) + "\n"


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


def as_begun(
    study: Path, cells: Sequence[Config], record: Mapping[str, Finished] | None = None
) -> tuple[list[Config], list[str]]:
    """The cells of a study as its runs were begun, and what to say of it; its record, where it was
    read already.

    A cell that is a run of the study, whatever that is called, is that run.  So is one that has the
    name of a run and differs only in settings that nobody typed, which a release has moved since;
    and what is new beside such runs is trained by the settings that they were begun with, so that
    one table never compares two.  What was typed otherwise is left as it is asked for, for `train`
    to refuse.
    """
    begun = begun_in(study, record)
    if not begun:
        return list(cells), []
    by_content = {_content(config): config for config in begun.values()}
    found = []
    moves: dict[tuple[Any, ...], list[Any]] = {}
    moved_cells: dict[str, int] = {}
    for cell in cells:
        run = by_content.get(_content(cell))
        if run is None and cell.name in begun:
            moved = cell.begun_as(begun[cell.name])
            if moved is not None:
                run = begun[cell.name]
                text = moved_text(moved)
                moved_cells[text] = moved_cells.get(text, 0) + 1
        if run is not None:
            then = run.settings
            for name, value in cell.settings.items():
                for key in _keys(cell, name):
                    moves.setdefault((*key, value), []).append(then[name])
        found.append(run or cell)
    if moved_cells:
        found = [c if c.name in begun else _beside(c, moves) for c in found]
    lines = [
        f"{count} of {len(cells)} runs {'is' if count == 1 else 'are'} as begun: {text}; "
        "another --out trains anew"
        for text, count in moved_cells.items()
    ]
    return found, lines


def begun_in(study: Path, record: Mapping[str, Finished] | None = None) -> dict[str, Config]:
    """The configs of all runs of a study by name, finished or not, from folders and record (which
    is read here where it was not yet)."""
    finished = read_record(study) if record is None else record
    found = {name: run.config for name, run in finished.items()}
    for file in study.glob(f"{RUNS}/*/{CONFIG}"):
        with contextlib.suppress(BadInput):  # a damaged one is told of by whoever trains it
            found[file.parent.name] = Run(file.parent).config
    return found


def _content(config: Config) -> str:
    return json.dumps(config.to_json(), sort_keys=True)


def _keys(cell: Config, name: str) -> list[tuple[Any, ...]]:
    """By what a setting may have moved: with the preset, or with what is published for a loss under
    a noise; what some loss has published settings of, by the latter alone."""
    of_loss = (name, cell.loss, cell.noise, cell.rate)
    return [of_loss] if name in published_names() else [of_loss, (name,)]


def _beside(cell: Config, moves: Mapping[tuple[Any, ...], list[Any]]) -> Config:
    """A new cell by the settings that the runs beside it were begun with, where all agree."""
    typed = cell.settings if cell.typed is None else cell.typed
    then = {}
    for name, value in cell.settings.items():
        for key in _keys(cell, name):
            seen = moves.get((*key, value), [])
            if name not in typed and seen and all(each == seen[0] for each in seen):
                then[name] = seen[0]
                break
    return cell.moved_to(then) if then else cell


def write_study(study: Path) -> list[Finished]:
    """Write the record and summary.csv, and return the runs that they tell of.  The line of a run
    whose folder is gone stays as it was written, by this apl or any before it."""
    runs = read_runs(study)
    lines = (run.line or _to_line(run) for run in runs)
    write_atomic(study / RECORD, "".join(lines).encode())
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
    left = (*wide, "on", "held_out", "repaired")
    scored = [f.name for f in dataclasses.fields(Result) if f.name not in left]
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
