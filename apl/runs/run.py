"""A run and its folder, and the only place that knows the names of its files.

A run folder holds config.json, noise.npz, history.csv, result.json and model.safetensors; and what
the network in use needs besides: inputs.json, of texts counted by tfidf their vocabulary, and
calibration.json."""

from __future__ import annotations

import contextlib
import csv
import filecmp
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from apl.config.config import Config, moved_text
from apl.errors import BadInput, Busy, one_line
from apl.files import (
    FORMAT,
    csv_bytes,
    load_tensors,
    read_json,
    read_state,
    require_no_link,
    save_tensors,
    table_bytes,
    write_atomic,
    write_json,
    write_parts,
)
from apl.noise.files import read_noise, write_noise
from apl.noise.labels import Labels
from apl.runs.scores import HISTORY_COLUMNS, Result, columns_of

if TYPE_CHECKING:
    from torch import Tensor

RUNS, RECORD, SUMMARY, TABLE = "runs", "runs.jsonl", "summary.csv", "table.md"
PICTURES, REPORT = "pictures", "report.html"
CONFIG, NOISE, HISTORY, RESULT = "config.json", "noise.npz", "history.csv", "result.json"
REPAIRED = "repaired.csv"  # of a run on repaired labels: those that moved
WEIGHTS, LOG, LOCK = "model.safetensors", "log.txt", "run.lock"
INPUTS, VOCABULARY = "inputs.json", "vocabulary.safetensors"
CALIBRATION = "calibration.json"
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint-previous.safetensors"

History = list[dict[str, float]]


# ------------------------------------------------------------------------------------- a run


class Finished(NamedTuple):
    """A finished run, from its folder or from its study's record; line: that of the record, ''
    where it was read from its folder."""

    name: str
    config: Config
    environment: Mapping[str, Any]
    history: History
    result: Result
    line: str = ""


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
            content = read_json(path)
            name = content.get("run", path.parent.name)
            variant, tuned = content.get("variant"), content.get("tuned")
            return Config.read(content["config"], name, variant, tuned)
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

    @property
    def inputs(self) -> dict[str, Any] | None:
        """What its network sees, as `apl.training.inputs` has it; None of a run of an older apl."""
        path = self.file(INPUTS)
        return read_json(path) if path.is_file() else None

    @property
    def calibration(self) -> dict[str, Any] | None:
        """How its probabilities are calibrated, as `apl.training.calibration` has it; None where
        nobody wrote it."""
        path = self.file(CALIBRATION)
        return read_json(path) if path.is_file() else None

    # While it is trained.

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder and keep other processes out of it; Busy where one is in it."""
        import filelock

        if self.path is None:
            yield
            return
        above = (self.path.parent,) if self.path.parent.name == RUNS else ()
        require_no_link(*above, self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        require_no_link(*self.path.iterdir())
        try:
            with filelock.FileLock(self.file(LOCK), blocking=False):
                for leftover in self.path.glob(".*.tmp"):  # of a process killed while it wrote
                    leftover.unlink()
                yield
        except filelock.Timeout:
            raise Busy(f"another process is training in {self.path}") from None

    def begun_as(self, config: Config, say: Callable[[str], None] = print) -> Config:
        """The config with which a begun run goes on, or is shown: that which it was begun with.
        `say` gets a line where a release has moved settings since, which nobody typed.

        Raises BadInput where the run was asked for otherwise.
        """
        begun = self.config
        if begun == config:
            return begun
        moved = config.begun_as(begun)
        if moved is None:
            raise BadInput(
                f"{self.path} holds a run with other arguments "
                f"({'; '.join(config.differs(begun))}): choose another --out, or delete it"
            )
        say(f"{begun.name} is as it was begun: {moved_text(moved)}")
        return begun

    def begin(self, config: Config, labels: Labels, environment: Mapping[str, Any]) -> None:
        """Write config.json and noise.npz of a new run; of an old one, the labels must be the
        same."""
        if self.path is None:
            return
        if not self.begun:
            write_noise(self.file(NOISE), labels)
            content = {**config.naming(), "config": config.to_json(), "environment": environment}
            write_json(self.file(CONFIG), {"format": FORMAT, **content})
            return
        if not self.file(NOISE).exists():
            write_noise(self.file(NOISE), labels)
        if not np.array_equal(self.labels.given, labels.given):
            raise BadInput(
                f"{self.path} was trained on other labels than these arguments give: delete it"
            )

    def keep_inputs(self, inputs: Mapping[str, Any], vocabulary: Path | None = None) -> None:
        """Keep what the network sees; vocabulary: the file in the cache with what tfidf counts.
        The runs of a study share one file of these where the disk can."""
        if self.path is None:
            return
        write_json(self.file(INPUTS), {"format": FORMAT, **inputs})
        if vocabulary is None or self.file(VOCABULARY).exists():
            return
        beside = sorted(self.path.parent.glob(f"*/{VOCABULARY}"))
        for other in (*beside[:1], vocabulary):
            if filecmp.cmp(other, vocabulary, shallow=False):
                with contextlib.suppress(OSError):  # another disk, or one without links
                    os.link(other, self.file(VOCABULARY))
                    return
        with vocabulary.open("rb") as file:
            write_parts(self.file(VOCABULARY), iter(lambda: file.read(2**22), b""))

    def keep_calibration(self, calibration: Mapping[str, Any]) -> None:
        """Keep how the probabilities are calibrated."""
        if self.path is not None:
            write_json(self.file(CALIBRATION), {"format": FORMAT, **calibration})

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
            return int(read_state(self.file(CHECKPOINT))["epoch"])
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
        write_atomic(self.file(HISTORY), csv_bytes([list(columns), *rows]))
        write_json(self.file(RESULT), {"format": FORMAT, **result.to_json()})
        self.delete_checkpoints()

    def write_repaired(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write which labels moved where they were repaired, a row each."""
        if self.path is not None:
            write_atomic(self.file(REPAIRED), table_bytes(columns, rows))

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
