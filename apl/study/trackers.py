"""Who else hears of a run: TensorBoard, Weights & Biases, MLflow or Trackio.

The files of a run and the record of its study stay the truth: a tracker is told what stands
there, each epoch once, and is asked first what it has already.  So a run that was killed, or
trained before anybody tracked it, is complete in the end.

A tracker is a function that begins a run there and returns how to tell it an epoch and the end.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import importlib.util
import io
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from apl.config.config import Config
from apl.errors import BadInput, one_line, require
from apl.files import require_no_link

if TYPE_CHECKING:
    from apl.runs.run import History
    from apl.runs.scores import Result

LOCK = "track.lock"  # in a run folder: who tells of the run
# What marks an epoch, and the result, as told whole: never nan, and told last.
LAST_OF_ROW, LAST_OF_RESULT = "lr", "result/corrupted"
PATIENCE = 10  # seconds that a server may take to answer


class About(NamedTuple):
    """What a tracker is told of a run when it begins.

    study: the folder of the study, in which trackers without a server write; key: the same for the
    same config under the same names, wherever and whenever it is asked for.
    """

    study: Path
    project: str
    name: str
    key: str
    params: dict[str, Any]


class Begun(NamedTuple):
    """A run begun in a tracker, or gone on with.

    told: the epochs that it has; row(epoch, numbers): one epoch more; end(epochs, result): that it
    ended after so many with this result, or with None that it stopped and may go on.
    """

    told: float
    row: Callable[[int, Mapping[str, float]], object]
    end: Callable[[int, Mapping[str, Any] | None], object]


# ------------------------------------------------------------------------------- the trackers
#
# Each returns None where it has the end of the run already.


def tensorboard(about: About) -> Begun | None:
    """A log folder STUDY/tensorboard/RUN; the result is one step after the last epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    folder = about.study / "tensorboard" / about.name
    folder.mkdir(parents=True, exist_ok=True)
    there = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = there.Tags()["scalars"]
    if LAST_OF_RESULT in tags:
        return None
    told = there.Scalars(LAST_OF_ROW)[-1].step if LAST_OF_ROW in tags else 0
    # What a killed process wrote of a later step is hidden by TensorBoard.
    writer: Any = SummaryWriter(str(folder), purge_step=told + 1)
    begin, params, done = hparams(about.params, {"result/test_accuracy": math.nan})
    writer.file_writer.add_summary(begin)
    writer.file_writer.add_summary(params)

    def row(epoch: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    def end(epochs: int, result: Mapping[str, Any] | None) -> None:
        if result is not None:
            row(epochs + 1, _numbers(result))
            writer.file_writer.add_summary(done)
        writer.close()

    return Begun(told, row, end)


def wandb(about: About) -> Begun | None:
    """Offline, a folder STUDY/wandb/offline-run-TIME-KEY for `wandb sync`; online where WANDB_MODE
    or WANDB_API_KEY say so."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would report to its makers
    import wandb

    key_given = bool(os.environ.get("WANDB_API_KEY"))
    mode: Any = os.environ.get("WANDB_MODE") or ("online" if key_given else "offline")
    offline = mode in ("offline", "dryrun")
    kind = "offline-run" if offline else "run"
    before = list((about.study / "wandb").glob(f"{kind}-*-{about.key}"))
    if any((folder / "ended").exists() for folder in before):
        return None
    # Nothing of the machine, the repository or the terminal: what is told stands in the run.
    alone = {"console": "off", "disable_git": True, "disable_code": True, "x_disable_stats": True}
    patience = {"init_timeout": PATIENCE, "finish_timeout": PATIENCE}
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or about.project,
        dir=about.study,
        id=about.key,
        name=about.name,
        config=about.params,
        mode=mode,
        resume="allow",
        reinit="create_new",  # several at once in the process of a study
        settings=wandb.Settings(silent=True, **alone, **patience),
    )
    for folder in before if offline else ():  # no server to ask what they hold: told anew
        shutil.rmtree(folder)

    def end(epochs: int, result: Mapping[str, Any] | None) -> None:
        run.summary.update(dict(result or {}))
        run.finish(exit_code=1 if result is None else 0)
        if result is not None:
            (Path(run.dir).parent / "ended").touch()

    def row(epoch: int, numbers: Mapping[str, float]) -> None:
        run.log(dict(numbers), step=epoch, commit=True)

    return Begun(max(run.step - 1, 0), row, end)


def mlflow(about: About) -> Begun | None:
    """$MLFLOW_TRACKING_URI, else STUDY/mlflow.db; an experiment a study."""
    import filelock

    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),  # it would report to its makers
        ("MLFLOW_LOGGING_LEVEL", "WARNING"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),  # which may hold a password
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE)),
    ):
        os.environ.setdefault(name, value)
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{about.study / 'mlflow.db'}"
    project = os.environ.get("MLFLOW_EXPERIMENT_NAME") or about.project
    with filelock.FileLock(about.study / "mlflow.lock"):  # two may not make the tables at once
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(project)
        experiment = found.experiment_id if found else client.create_experiment(project)
    tags = {"apl.key": about.key}
    same = client.search_runs([experiment], f"tags.`apl.key` = '{about.key}'")
    run = same[0] if same else client.create_run(experiment, run_name=about.name, tags=tags)
    id = run.info.run_id
    if LAST_OF_RESULT in run.data.metrics:
        if run.info.status != "FINISHED":  # killed between the two
            client.set_terminated(id)
        return None
    client.log_batch(id, params=[Param(name, str(v)) for name, v in about.params.items()])
    client.update_run(id, status="RUNNING")
    rows = client.get_metric_history(id, LAST_OF_ROW)

    def row(epoch: int, numbers: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        client.log_batch(id, [Metric(name, value, now, epoch) for name, value in numbers.items()])

    def end(epochs: int, result: Mapping[str, Any] | None) -> None:
        if result is not None:
            words = [RunTag(name, v) for name, v in result.items() if isinstance(v, str)]
            client.log_batch(id, tags=words)
            row(epochs, _numbers(result))
        client.set_terminated(id, "KILLED" if result is None else "FINISHED")

    return Begun(max((metric.step for metric in rows), default=0), row, end)


def trackio(about: About) -> Begun | None:
    """Trackio's own folder ($TRACKIO_DIR), or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say; the
    result is one step after the last epoch."""
    import trackio

    with contextlib.redirect_stdout(io.StringIO()):  # it greets
        # In a context of its own: trackio ends the run that it began before in the same one.
        run = contextvars.Context().run(
            trackio.init,
            os.environ.get("TRACKIO_PROJECT") or about.project,
            name=f"{about.name}-{about.key[:8]}",
            config=about.params,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def end(epochs: int, result: Mapping[str, Any] | None) -> None:
        if result is not None:
            run.log(dict(result), step=epochs + 1)
        with contextlib.redirect_stdout(io.StringIO()):
            run.finish()

    def row(epoch: int, numbers: Mapping[str, float]) -> None:
        run.log(dict(numbers), step=epoch)

    return Begun(max(run._next_step - 1, 0), row, end)


TRACKERS: dict[str, Callable[[About], Begun | None]] = {
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
    "trackio": trackio,
}


KEPT = ("tensorboard", "wandb", "mlflow.db", "mlflow.lock")
"""What they keep in the folder of a study."""


def require_tracker(name: str) -> None:
    """Raise BadInput unless it is the name of a tracker whose package is installed."""
    require(name in TRACKERS, "track", name, ", ".join(TRACKERS))
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:  # a folder of that name is no package
        raise BadInput(f"{name} is not installed: pip install 'apl-noisy-labels[{name}]'")


# ------------------------------------------------------------------------------ what is told


def _about(study: Path, name: str, config: Config) -> About:
    study = study.resolve()
    require_no_link(*(study / each for each in KEPT), study / "tensorboard" / name)
    project = re.sub(r"[^\w.-]+", "-", study.name) or "apl"
    asked = config.to_json()
    key = hashlib.sha256(json.dumps([project, name, asked], sort_keys=True).encode()).hexdigest()
    # A loss parameter goes by its own name, as on the command line.
    params = {**{k: v for k, v in asked.items() if k != "params"}, **asked["params"]}
    return About(study, project, name, key[:16], params)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers; what was not measured is not told."""
    kept = {name: v for name, v in values.items() if isinstance(v, int | float)}
    return {name: float(value) for name, value in kept.items() if math.isfinite(value)}


def _row(row: Mapping[str, float]) -> dict[str, float]:
    """What is told of an epoch: the columns of the history, the last one LAST_OF_ROW."""
    told = {name: value for name, value in row.items() if name not in ("epoch", LAST_OF_ROW)}
    return _numbers({**told, LAST_OF_ROW: row[LAST_OF_ROW]})


def _result(result: Result) -> dict[str, Any]:
    """What is told of a result: what is one number or word, the last one LAST_OF_RESULT."""
    words = {k: v for k, v in result.to_json().items() if isinstance(v, str) and v}
    return {f"result/{k}": v for k, v in {**words, **_numbers(result.to_json())}.items()}


def _public(error: BaseException) -> str:
    """What an exception says, on one line, without the secrets of this environment."""
    text = re.sub(r"//[^/@\s]+@", "//", one_line(error))
    text = re.sub(r"(?i)((?:token|key|password)=)[^&\s\"']+", r"\1...", text)
    for name, value in os.environ.items():
        if len(value) > 5 and re.search("KEY|TOKEN|PASS|SECRET", name.upper()):
            text = text.replace(value, f"${name}")
    return text if len(text) <= 300 else f"{text[:300]}..."


def _own(run: Path) -> contextlib.AbstractContextManager[object]:
    """Keep other processes from telling of a run; filelock.Timeout where one does."""
    import filelock

    require_no_link(run.parent, run, run / LOCK)
    return (
        filelock.FileLock(run / LOCK, blocking=False) if run.is_dir() else contextlib.nullcontext()
    )


def _tell(begun: Begun, told: float, rows: Sequence[Mapping[str, float]]) -> float:
    """Tell the epochs after those told; returns how many are told then."""
    for row in rows:
        if row["epoch"] > told:
            begun.row(int(row["epoch"]), _row(row))
            told = row["epoch"]
    return told


def _tell_end(begun: Begun, told: float, history: History, result: Result) -> bool:
    """Tell what is left of a finished run; False where that was nothing."""
    left = told <= len(history)  # the result counts as one more
    _tell(begun, told, history)
    begun.end(len(history), _result(result) if left else None)
    return left


class Tracking:
    """A run told to a tracker while it is trained: `row` after each epoch, `end` once at last.

    Nothing is opened before the first row: until then the run may turn out to be another
    process's.  What the tracker lacks of the epochs before is told from the run's checkpoint, or at
    the end from its history; epochs that it has are not told again.  A tracker that fails is said
    in one line and left alone from then on: it stops no training.
    """

    def __init__(
        self, tracker: str, run: Path, config: Config, say: Callable[[str], None] = print
    ) -> None:
        """tracker: a key of TRACKERS; run: the folder of the run; say gets the one warning.

        Raises BadInput where there is no such tracker, or its package is not installed.
        """
        require_tracker(tracker)
        self.tracker, self.run, self.config, self.say = tracker, run, config, say
        self._begun: Begun | None = None
        self._told: float = -1  # -1: not begun; infinite: nothing is left to tell
        self._held = contextlib.ExitStack()

    def row(self, row: Mapping[str, float]) -> None:
        """Tell an epoch, a row of the history; for `on_epoch` of `apl.training.train.train`."""
        from apl.runs.run import Run

        with self._forgiving():
            epoch = int(row["epoch"])
            if self._told < 0:
                self._begin()
                if self._told > epoch + 1:  # a resumed run repeats one, seldom two
                    self.say(
                        f"{self.tracker} is not told again of epochs that it has of this run; to "
                        "log it anew, delete it there"
                    )
            if self._begun is not None and self._told < epoch - 1:
                before = Run(self.run).resume(self.config)[1].get("history", [])
                self._told = _tell(self._begun, self._told, before)
            if self._begun is not None and self._told == epoch - 1:  # else `end` tells it, in order
                self._told = _tell(self._begun, self._told, [row])

    def end(self) -> None:
        """Tell what is left of a finished run, and that it ended; an unfinished one may go on."""
        from apl.runs.run import Run

        with self._forgiving(), self._held:
            run = Run(self.run)
            if run.finished and self._told < 0:
                self._begin()
            if self._begun is None:
                return
            begun, self._begun = self._begun, None
            told, self._told = self._told, math.inf
            if run.finished:
                _tell_end(begun, told, run.history, run.result)
            else:
                begun.end(0, None)

    def _begin(self) -> None:
        import filelock

        from apl.runs.run import RUNS

        study = self.run.parent.parent if self.run.parent.name == RUNS else self.run.parent
        try:
            self._held.enter_context(_own(self.run))
        except filelock.Timeout:
            raise BadInput(f"another process sends {self.run.name}") from None
        self._told = math.inf
        self._begun = TRACKERS[self.tracker](_about(study, self.run.name, self.config))
        if self._begun is not None:
            self._told = self._begun.told

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._begun, self._told = None, math.inf
            self._held.close()
            self.say(
                f"{self.tracker} failed ({_public(error)}): the run goes on without it; "
                "`apl track import` tells it the rest"
            )


def import_runs(folder: Path, tracker: str, say: Callable[[str], None] = print) -> tuple[int, int]:
    """Tell a tracker of the finished runs of all studies in a folder, from their run folders or
    their records; of each only what it lacks.  Returns how many it was told of and how many it had.

    A run that another process is telling is left to it.  Raises BadInput where there is no finished
    run, or the tracker is unknown, not installed or fails.
    """
    import filelock

    from apl.runs.record import find_studies, read_runs
    from apl.runs.run import RUNS

    require_tracker(tracker)
    studies = find_studies(folder)
    if not studies:
        raise BadInput(f"there is no finished run in {folder}")
    told = whole = 0
    try:
        for study in studies:
            for run in read_runs(study):
                try:
                    with _own(study / RUNS / run.name):
                        begun = TRACKERS[tracker](_about(study, run.name, run.config))
                        left = begun is not None and _tell_end(
                            begun, begun.told, run.history, run.result
                        )
                except filelock.Timeout:
                    say(f"{run.name} is left to the process that sends it")
                    continue
                told, whole = told + left, whole + (not left)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"{tracker} failed ({_public(error)}) after {told} runs; the same command goes on"
        ) from None
    return told, whole
