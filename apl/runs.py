"""The files of a run and of a study, and the only place that knows their names.

A run folder holds config.json, noise.npz, history.csv, result.json and model.safetensors.  A study
folder holds its runs under runs/, a line for each finished one in runs.jsonl (the record: config,
environment, history and result, all that tables, pictures and reports need) and a row for each in
summary.csv.  Everything is written whole or not at all; there is no pickle anywhere.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from apl.config import Config
from apl.errors import BadInput, Busy, one_line
from apl.noise import UNKNOWN, Labels, check_transition
from apl.presets import NOISES
from apl.scores import HISTORY_COLUMNS, Result, columns_of

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2  # of what is written; a higher one was written by a newer apl, all lower ones are read

RUNS, RECORD, SUMMARY, TABLE = "runs", "runs.jsonl", "summary.csv", "table.md"
PICTURES, REPORT = "pictures", "report.html"
CONFIG, NOISE, HISTORY, RESULT = "config.json", "noise.npz", "history.csv", "result.json"
WEIGHTS, LOG, LOCK = "model.safetensors", "log.txt", "run.lock"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint-previous.safetensors"

History = list[dict[str, float]]

# ------------------------------------------------------------------------------- whole files


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
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        problem = one_line(error)
        raise BadInput(f"{path} can't be read ({problem}): delete its run to repeat it") from None
    return _object(text, f"{path}", "delete its run to repeat it")


class _Newer(BadInput):
    """A file of a later format: nothing is wrong with it, it is only not ours to read."""


def _object(text: str, where: str, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{where} can't be read ({one_line(error)}): {remedy}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{where} is no JSON object: {remedy}")
    if content.get("format", 0) > FORMAT:
        raise _Newer(
            f"{where} was written by a newer apl (format {content['format']}, this one reads up to "
            f"{FORMAT}): update apl"
        )
    return content


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    import torch

    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.reshape(-1).view(torch.uint8).numpy()).data)
    return digest.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON state as safetensors with a checksum, atomically; the same content
    gives the same bytes."""
    import safetensors.torch

    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(state)
    # One metadata key only: safetensors does not keep the order of several.
    header = {"apl": json.dumps({"state": text, "sha256": _digest(plain, text)})}
    write_atomic(path, safetensors.torch.save(plain, header))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state of a file of `save_tensors`.

    Raises FileNotFoundError, or BadInput when the file is damaged or none of ours.
    """
    import safetensors

    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["apl"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        intact = _digest(tensors, header["state"]) == header["sha256"]
        state = json.loads(header["state"])
    except Exception as error:  # a damaged header raises nearly anything
        problem = one_line(error)
        raise BadInput(f"{path} is damaged or not written by apl ({problem})") from None
    if not intact:
        raise BadInput(f"{path} is damaged: its checksum does not match")
    return tensors, state


def _read_state(path: Path) -> dict[str, Any]:
    """The state alone, unchecked; any exception where there is none."""
    import safetensors

    with safetensors.safe_open(path, "numpy") as file:
        state: dict[str, Any] = json.loads(json.loads((file.metadata() or {})["apl"])["state"])
        return state


def write_noise(path: Path, labels: Labels) -> None:
    """noise.npz: clean and noisy labels and the mask of wrong ones [N], and the transition matrix
    [K, K] that they were drawn by; a clean label of -1 is unknown, an unknown matrix is a nan for
    each class."""
    buffer = io.BytesIO()
    transition = labels.transition
    if transition is None:
        named = max(int(part.max(initial=-1)) for part in (labels.given, labels.true))
        transition = np.full(named + 1, np.nan)
    np.savez_compressed(
        buffer, clean=labels.true, noisy=labels.given, mask=labels.wrong, transition=transition
    )
    write_atomic(path, buffer.getvalue())


def read_noise(path: Path) -> Labels:
    """The labels of a noise.npz, checked; BadInput says what is wrong with the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            clean, noisy = file["clean"], file["noisy"]
            transition = np.asarray(file["transition"], np.float64)
    except FileNotFoundError:
        raise BadInput(f"{path} is missing") from None
    except Exception as error:  # a damaged zip raises nearly anything
        problem = one_line(error)
        raise BadInput(f"{path} holds no noisy labels ({problem}); `apl noise` writes it") from None
    num_classes = len(transition) if transition.ndim else 0
    for name, labels in (("clean", clean), ("noisy", noisy)):
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise BadInput(f"{path}: {name} must be a vector of whole numbers")
        least = UNKNOWN if name == "clean" else 0
        if len(labels) and not least <= labels.min() <= labels.max() < num_classes:
            raise BadInput(f"{path}: {name} labels must lie in [0, {num_classes})")
    if len(clean) != len(noisy):
        raise BadInput(f"{path}: {len(clean)} clean labels but {len(noisy)} noisy ones")
    unknown = bool(np.isnan(transition).all())
    matrix = None if unknown else check_transition(transition, num_classes, f"{path}")
    return Labels(noisy.astype(np.int64), clean.astype(np.int64), matrix)


# ------------------------------------------------------------------------------------- a run


class Finished(NamedTuple):
    """A finished run, from its folder or from its study's record."""

    name: str
    config: Config
    environment: Mapping[str, Any]
    history: History
    result: Result


@dataclass(frozen=True)
class Run:
    """A run and its folder; with the path None nothing is read or written."""

    path: Path | None

    # What it is.

    def file(self, name: str) -> Path:
        """The path of one of its files."""
        if self.path is None:
            raise ValueError("a run without a folder has no files")
        return self.path / name

    @property
    def begun(self) -> bool:
        """Whether it was begun: config.json is the first file it writes."""
        return self.path is not None and self.file(CONFIG).exists()

    @property
    def finished(self) -> bool:
        """Whether it ended: result.json is the last file it writes."""
        return self.path is not None and self.file(RESULT).is_file()

    @property
    def config(self) -> Config:
        """What was asked."""
        path = self.file(CONFIG)
        try:
            return Config.read(read_json(path)["config"])
        except (TypeError, KeyError, AttributeError):
            problem = f"{path} is no config of this apl: delete the run to repeat it"
            raise BadInput(problem) from None
        except BadInput as error:
            said = str(error)
            raise BadInput(said if str(path) in said else f"{path}: {said}") from None

    @property
    def environment(self) -> dict[str, Any]:
        """Where it was computed: device, threads, versions, commit; empty where nobody wrote it."""
        found = read_json(self.file(CONFIG)).get("environment")
        return found if isinstance(found, dict) else {}

    @property
    def labels(self) -> Labels:
        """What it was trained on."""
        return read_noise(self.file(NOISE))

    @property
    def history(self) -> History:
        """A row an epoch; nan where nothing was measured."""
        path = self.file(HISTORY)
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file, restval="", strict=True)
                if not set(HISTORY_COLUMNS) <= set(rows.fieldnames or ()):
                    raise ValueError("a column is missing")
                columns = columns_of(rows.fieldnames or ())
                return [{name: float(row[name] or "nan") for name in columns} for row in rows]
        except (OSError, ValueError, KeyError, csv.Error) as error:
            problem = f"{path} can't be read ({one_line(error)}): delete the run to repeat it"
            raise BadInput(problem) from None

    @property
    def result(self) -> Result:
        """What came out."""
        path = self.file(RESULT)
        try:
            return Result.read(read_json(path))
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            problem = f"{path} is no result of this apl: delete the run to repeat it"
            raise BadInput(problem) from None

    def read(self) -> Finished:
        """All that its study's record keeps of it."""
        name = self.file(CONFIG).parent.name
        return Finished(name, self.config, self.environment, self.history, self.result)

    # While it is trained.

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder and keep other processes out of it; Busy where one is in it."""
        import filelock

        if self.path is None:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        links = [path for path in (self.path, *self.path.iterdir()) if path.is_symlink()]
        if links:
            raise BadInput(f"{links[0]} is a link, which may lead out of the results: delete it")
        try:
            with filelock.FileLock(self.file(LOCK), blocking=False):
                for leftover in self.path.glob(".*.tmp"):  # of a process killed while it wrote
                    leftover.unlink()
                yield
        except filelock.Timeout:
            raise Busy(f"another process is training in {self.path}") from None

    def check(self, config: Config) -> None:
        """BadInput where the folder holds a run that was asked for otherwise."""
        different = config.differs(self.config)
        if different:
            raise BadInput(
                f"{self.path} holds a run with other arguments ({'; '.join(different)}): "
                "choose another --out, or delete it"
            )

    def begin(self, config: Config, labels: Labels, environment: Mapping[str, Any]) -> None:
        """Write config.json and noise.npz of a new run; of an old one, the labels must be the
        same."""
        if self.path is None:
            return
        if not self.begun:
            write_noise(self.file(NOISE), labels)
            content = {"config": config.to_json(), "environment": environment}
            write_json(self.file(CONFIG), {"format": FORMAT, **content})
            return
        if not self.file(NOISE).exists():
            write_noise(self.file(NOISE), labels)
        if not np.array_equal(self.labels.given, labels.given):
            raise BadInput(
                f"{self.path} was trained on other labels than these arguments give: delete it"
            )

    def save(self, config: Config, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write the newest checkpoint; the one before it stays as a fallback."""
        if self.path is None:
            return
        if self.file(CHECKPOINT).exists():
            os.replace(self.file(CHECKPOINT), self.file(PREVIOUS))
        state = {"config": config.to_json(), **state}
        save_tensors(self.file(CHECKPOINT), tensors, state)

    def resume(self, config: Config) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
        """The tensors and the state of the newest good checkpoint, empty where there is none, and
        what was wrong with newer ones."""
        problems: list[str] = []
        for name in (CHECKPOINT, PREVIOUS) if self.path is not None else ():
            try:
                tensors, state = load_tensors(self.file(name))
            except FileNotFoundError:
                continue
            except BadInput as error:
                problems.append(str(error))
                continue
            if is_of(state, config):
                return tensors, state, problems
            return {}, {}, [*problems, f"the checkpoint in {self.path} is another run's"]
        return {}, {}, problems

    def epochs_done(self) -> int:
        """How many epochs its newest checkpoint has behind it, 0 where there is none to read."""
        try:
            return int(_read_state(self.file(CHECKPOINT))["epoch"])
        except Exception:  # none there, or a damaged one, which raises nearly anything
            return 0

    def finish(
        self, config: Config, weights: Mapping[str, Tensor], history: History, result: Result
    ) -> None:
        """Write weights, history and, last of all, the result; the checkpoints go."""
        if self.path is None:
            return
        save_tensors(self.file(WEIGHTS), weights, {"config": config.to_json()})
        columns = columns_of(history[0] if history else ())
        rows = [[row[name] for name in columns] for row in history]
        write_atomic(self.file(HISTORY), _csv([list(columns), *rows]))
        write_json(self.file(RESULT), {"format": FORMAT, **result.to_json()})
        self.delete_checkpoints()

    def delete_checkpoints(self) -> None:
        """Remove the checkpoints of a finished run."""
        for name in (CHECKPOINT, PREVIOUS):
            self.file(name).unlink(missing_ok=True)

    def weights(self, config: Config) -> dict[str, Tensor]:
        """The trained weights; BadInput where they are missing, damaged or another run's."""
        path = self.file(WEIGHTS)
        try:
            tensors, state = load_tensors(path)
        except FileNotFoundError:
            problem = f"{path} is missing: train the run (weights are not committed)"
            raise BadInput(problem) from None
        if not is_of(state, config):
            raise BadInput(f"{path} is another run's, not that of its config.json: train it again")
        return tensors


def is_of(state: Mapping[str, Any], config: Config) -> bool:
    """Whether the state that lies with tensors, by this apl or one before, is that of a config."""
    try:
        return Config.read(state["config"]) == config
    except (KeyError, TypeError, AttributeError, BadInput):
        return False


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
            run = _from_line(_object(line, where, "its run is needed to write it again"))
        except _Newer:  # left out, it would be lost when the record is written again
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
    write_atomic(study / SUMMARY, _csv(_summary(runs)))
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


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    """Rows as CSV, empty where a number is nan."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow(["" if value != value else value for value in row])
    return text.getvalue().encode()
