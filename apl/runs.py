"""Files of a run and of a study: written whole or not at all, read back as data frames.

A run folder holds config.json, noise.npz, history.csv, result.json and model.safetensors.  A
study folder holds its runs under runs/ and one row for each in summary.csv.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from apl.config import NOISES, Config
from apl.errors import BadInput, one_line
from apl.noise import NoisyLabels, check_transition

FORMAT = 1  # of config.json and result.json; a higher one was written by a newer apl

HISTORY_COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "train_accuracy",
    "memorised",
    "recovered",
    "test_accuracy",
)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds the old content or the new one, never a part of it, and
    the new one survives a power cut once this returns.  Its folder must exist: one that vanished
    while a run went on is an error, not something to make again half empty."""
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # Windows can't open folders, and its renames are journalled
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; nan and inf become null, so that any reader takes it."""
    text = json.dumps(_finite(content), indent=1, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of ours; BadInput names the file and what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        problem = one_line(error)
        raise BadInput(f"{path} can't be read ({problem}): delete its run to repeat it") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path} is no JSON object: delete its run to repeat it")
    if content.get("format", 0) > FORMAT:
        raise BadInput(
            f"{path} was written by a newer apl (format {content['format']}, this one reads up to "
            f"{FORMAT}): update apl"
        )
    return content


def environment() -> dict[str, Any]:
    """What else a result depends on: versions, machine, git commit, threads."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        run = ["git", "-C", str(here), "rev-parse", "HEAD"]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """history.csv: a row an epoch, fractions in [0, 1], empty where nothing was measured."""
    frame = pd.DataFrame(list(history), columns=list(HISTORY_COLUMNS))
    write_atomic(path, frame.to_csv(index=False, lineterminator="\n").encode())


def write_noise(path: Path, labels: NoisyLabels) -> None:
    """noise.npz: clean, noisy, mask [N] and the intended transition matrix [K, K]."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        clean=labels.clean,
        noisy=labels.noisy,
        mask=labels.mask,
        transition=labels.transition,
    )
    write_atomic(path, buffer.getvalue())


def read_noise(path: Path) -> NoisyLabels:
    """The labels of a noise.npz, checked; BadInput says what is wrong with the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            clean, noisy, transition = (file[key] for key in ("clean", "noisy", "transition"))
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except Exception as error:  # a damaged zip raises nearly anything
        problem = one_line(error)
        raise BadInput(f"{path} holds no noisy labels ({problem}); `apl noise` writes it") from None
    num_classes = len(transition) if transition.ndim == 2 else 0
    for name, labels in (("clean", clean), ("noisy", noisy)):
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise BadInput(f"{path}: {name} must be a vector of whole numbers")
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise BadInput(f"{path}: {name} labels must lie in [0, {num_classes})")
    if len(clean) != len(noisy):
        raise BadInput(f"{path}: {len(clean)} clean labels but {len(noisy)} noisy ones")
    transition = check_transition(np.asarray(transition, np.float64), num_classes, f"{path}")
    return NoisyLabels(clean.astype(np.int64), noisy.astype(np.int64), transition)


def read_config(run: Path) -> Config:
    """The config of a run folder."""
    path = run / "config.json"
    try:
        return Config(**read_json(path)["config"])
    except (TypeError, KeyError):
        raise BadInput(f"{path} is no config of this apl: delete the run to repeat it") from None
    except BadInput as error:
        raise BadInput(str(error) if str(path) in str(error) else f"{path}: {error}") from None


_RESULT_NUMBERS = ("test_accuracy", "train_accuracy", "memorised", "recovered")
_RESULT_LISTS = ("class_names", "per_class_accuracy", "confusion", "transition")


def read_result(run: Path) -> dict[str, Any]:
    """The result of a finished run folder; nan where the file says null."""
    path = run / "result.json"
    result = read_json(path)
    try:
        for name in _RESULT_NUMBERS:
            result[name] = math.nan if result[name] is None else float(result[name])
        result["corrupted"] = int(result["corrupted"])
        lengths = {len(result[name]) for name in _RESULT_LISTS}
        fits = isinstance(result["collapsed"], bool) and isinstance(result["reason"], str)
    except (KeyError, TypeError, ValueError):
        fits, lengths = False, set()
    if not fits or len(lengths) != 1:
        raise BadInput(f"{path} is no result of this apl: delete the run to repeat it")
    return result


def is_finished(run: Path) -> bool:
    """Whether a run ended: result.json is the last file it writes."""
    return (run / "result.json").is_file()


def find_studies(folder: Path) -> list[Path]:
    """Every study folder at or below `folder`: those with finished runs under runs/."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}")
    found = {result.parents[2] for result in folder.rglob("runs/*/result.json")}
    if not found and is_finished(folder):
        found = {folder.parent.parent}
    return sorted(found)


def read_history(run: Path) -> pd.DataFrame:
    """The history of a run folder, a row an epoch."""
    path = run / "history.csv"
    try:
        return pd.read_csv(path, dtype=float)[list(HISTORY_COLUMNS)]
    except (OSError, ValueError, KeyError) as error:
        problem = one_line(error)
        raise BadInput(f"{path} can't be read ({problem}): delete the run to repeat it") from None


def read_study(study: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The finished runs of a study: a row a run, and a row a run and epoch.

    The first frame holds the columns of summary.csv, and as objects class_names,
    per_class_accuracy, confusion ([true][predicted]) and transition.  A run whose files are
    damaged is left out, with a warning that names the file.
    """
    rows, histories = [], []
    for result_file in sorted(study.glob("runs/*/result.json")):
        run = result_file.parent
        try:
            config, result, history = read_config(run), read_result(run), read_history(run)
        except BadInput as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
            continue
        rows.append({"run": run.name, **_setting(config), **result})
        histories.append(history.assign(run=run.name))
    if not rows:
        raise BadInput(f"there is no finished run in {study}")
    summary = pd.DataFrame(rows).drop(columns="format")
    return summary, pd.concat(histories, ignore_index=True)


def _setting(config: Config) -> dict[str, Any]:
    names = ("dataset", "preset", "loss", "noise", "map", "rate", "seed", "epochs")
    return {**{name: getattr(config, name) for name in names}, "variant": config.variant}


def write_summary(study: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write summary.csv, tidy, a row a finished run, a column acc_CLASS for each class; and
    return what `read_study` read for it."""
    summary, histories = read_study(study)
    tidy = summary.drop(columns=["class_names", "per_class_accuracy", "confusion", "transition"])
    per_class = [
        {f"acc_{name}": accuracy for name, accuracy in zip(names, accuracies, strict=True)}
        for names, accuracies in zip(
            summary["class_names"], summary["per_class_accuracy"], strict=True
        )
    ]
    tidy = pd.concat([tidy, pd.DataFrame(per_class, index=tidy.index)], axis=1)
    write_atomic(study / "summary.csv", tidy.to_csv(index=False, lineterminator="\n").encode())
    return summary, histories


_SUMMARY_TYPES: dict[str, Any] = {
    **dict.fromkeys(("run", "dataset", "preset", "loss", "noise", "map", "variant", "reason"), str),
    **dict.fromkeys(("rate", *_RESULT_NUMBERS), float),
    **dict.fromkeys(("seed", "epochs"), int),
    **dict.fromkeys(("collapsed", "too_short"), bool),
}


def read_summary(study: Path) -> pd.DataFrame:
    """The runs that summary.csv tells of, as `read_study` has them, for a study whose run folders
    are not at hand: confusion and transition are empty."""
    path = study / "summary.csv"
    try:
        tidy = pd.read_csv(path, dtype=_SUMMARY_TYPES)
        summary = tidy[list(_SUMMARY_TYPES)].copy()
        accuracies = tidy.filter(regex="^acc_").astype(float)
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path} is no summary of this apl ({one_line(error)})") from None
    words = ["variant", "map", "reason"]  # empty ones are read as nan
    summary[words] = summary[words].fillna("")
    unknown = sorted(set(summary["noise"].astype(str)) - set(NOISES))
    if summary.empty or unknown:
        problem = f"noise is {unknown[0]!r}" if unknown else "there is no run in it"
        raise BadInput(f"{path} is no summary of this apl ({problem})")
    classes = {  # a study may hold several data sets, each with its own columns
        dataset: list(rows.columns[rows.notna().any()])
        for dataset, rows in accuracies.groupby(summary["dataset"])
    }
    columns = [classes.get(dataset, []) for dataset in summary["dataset"]]
    summary["class_names"] = [[name.removeprefix("acc_") for name in names] for names in columns]
    summary["per_class_accuracy"] = [
        accuracies.loc[row, names].tolist()
        for row, names in zip(summary.index, columns, strict=True)
    ]
    for name in ("confusion", "transition"):
        summary[name] = [[] for _ in summary.index]
    return summary
