"""Trackers: every epoch of a run told once, whatever is killed; with the real packages, offline."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apl.config.config import Config, make_config
from apl.errors import BadInput, Interrupted
from apl.runs.record import read_runs, write_study
from apl.runs.run import RESULT, RUNS, Run
from apl.study import trackers as loggers
from apl.study.trackers import TRACKERS, About, Begun, Tracking, import_runs, require_tracker
from apl.training.listener import Listener, ignore
from apl.training.train import train

EPOCHS = 4


def config(seed: int = 0, **given: Any) -> Config:
    settings = {"train_size": 100, "epochs": EPOCHS, "eval_every": 2, "loss": "gce", **given}
    return make_config("quick", seed=seed, **settings)


def run_of(study: Path, asked: Config) -> Path:
    return study / RUNS / asked.name


# ------------------------------------------------------- the seam, with a tracker that is a file


def notes(about: About, knows_ends: bool = True) -> Begun | None:
    """A tracker that keeps a line for each thing it is told, all of it where it is killed; one
    that knows no ends counts them as an epoch more."""
    file = about.study / f"notes-{about.name}.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    ended = bool(lines) and "result" in lines[-1]
    if ended and knows_ends:
        return None

    def add(line: Mapping[str, Any]) -> None:
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")

    def end(epochs: int, result: Mapping[str, Any] | None) -> None:
        if result is not None:
            add({"result": result, "epochs": epochs})

    return Begun(
        max((line.get("epoch", 0) for line in lines), default=0) + ended,
        lambda epoch, numbers: add({"epoch": epoch, "numbers": numbers}),
        end,
    )


def noted(study: Path, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines of the epochs, and that of the end."""
    lines = [json.loads(x) for x in (study / f"notes-{name}.jsonl").read_text().splitlines()]
    return [x for x in lines if "epoch" in x], next((x for x in lines if "result" in x), {})


@pytest.fixture
def json_tracker(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(loggers.TRACKERS, "json", notes)  # the name of a package that is there
    return "json"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two finished runs that nobody tracked."""
    folder = tmp_path_factory.mktemp("trackers") / "my study"
    for seed in (0, 1):
        train(config(seed), run_of(folder, config(seed)))
    write_study(folder)
    return folder


def measured(row: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in row.items() if k != "epoch" and not math.isnan(v)}


def assert_whole(study: Path, asked: Config) -> None:
    run = Run(run_of(study, asked))
    epochs, end = noted(study, asked.name)
    assert [line["epoch"] for line in epochs] == list(range(1, len(run.history) + 1))
    assert [line["numbers"] for line in epochs] == [measured(row) for row in run.history]
    assert end["result"]["result/test_accuracy"] == run.result.test_accuracy
    assert end["epochs"] == len(run.history)


def follow(tracker: str, study: Path, asked: Config, stop_after: int = 0) -> list[str]:
    """Train with a tracker; returns what was said of it."""
    said: list[str] = []
    tracking, done = Tracking(tracker, run_of(study, asked), asked, said.append), 0

    def on_epoch(row: dict[str, float]) -> None:
        nonlocal done
        done = int(row["epoch"])
        tracking.row(row)

    try:
        stop = (lambda: done >= stop_after) if stop_after else (lambda: False)
        train(
            asked,
            run_of(study, asked),
            listener=Listener(on_epoch=on_epoch, should_stop=stop, on_message=ignore),
        )
    except Interrupted:
        pass
    finally:
        tracking.end()
    return said


def test_a_tracker_hears_each_epoch_and_the_result(tmp_path: Path, json_tracker: str) -> None:
    follow(json_tracker, tmp_path, config())
    assert_whole(tmp_path, config())
    first = noted(tmp_path, config().name)[0][0]["numbers"]
    assert "test_accuracy" not in first  # not looked at in this epoch: nothing to tell
    assert list(first)[-1] == loggers.LAST_OF_ROW
    result = noted(tmp_path, config().name)[1]["result"]
    assert list(result)[-1] == loggers.LAST_OF_RESULT
    assert result["result/on"] == "true"


def test_a_stopped_run_goes_on_where_the_tracker_is(tmp_path: Path, json_tracker: str) -> None:
    follow(json_tracker, tmp_path, config(), stop_after=2)
    assert [x["epoch"] for x in noted(tmp_path, config().name)[0]] == [1, 2]
    assert not noted(tmp_path, config().name)[1]
    assert follow(json_tracker, tmp_path, config()) == []
    assert_whole(tmp_path, config())


def test_epochs_before_there_was_a_tracker_are_told(tmp_path: Path, json_tracker: str) -> None:
    def stop_at_3(row: dict[str, float]) -> None:
        if row["epoch"] == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config(), run_of(tmp_path, config()), listener=Listener(on_epoch=stop_at_3))
    follow(json_tracker, tmp_path, config(), stop_after=3)
    assert [x["epoch"] for x in noted(tmp_path, config().name)[0]] == [1, 2, 3]
    follow(json_tracker, tmp_path, config())
    assert_whole(tmp_path, config())


@pytest.mark.parametrize("knows_ends", [True, False])
def test_a_finished_run_is_told_whole_and_only_once(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows_ends: bool
) -> None:
    monkeypatch.setitem(loggers.TRACKERS, "json", partial(notes, knows_ends=knows_ends))
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    for imported in ((1, 1), (0, 2)):
        assert follow("json", folder, config()) == []
        assert_whole(folder, config())
        assert import_runs(folder, "json") == imported
    told = (folder / f"notes-{config().name}.jsonl").read_text().splitlines()
    assert len(told) == EPOCHS + 1


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_was_told_and_lost_each_epoch_is_told_once(
    study: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Rows of a real run, trained by processes that each die after any number of them and go on
    from the last checkpoint or the one before, each with the tracker or without; the last sees the
    end, or none does and an import follows."""
    folder = tmp_path_factory.mktemp("lives") / "study"
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("*.lock"))
    run = run_of(folder, config())
    rows = Run(run).history
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(loggers.TRACKERS, "json", notes)
        newest = 0
        for _ in range(data.draw(st.integers(1, 4))):
            begin = data.draw(st.integers(max(0, newest - 1), newest))
            newest = data.draw(st.integers(begin, EPOCHS))
            tracking = Tracking("json", run, config(), lambda line: None)
            for row in rows[begin:newest] if data.draw(st.booleans()) else ():
                tracking.row(row)
            tracking._held.close()  # the process dies: its lock is free
        if data.draw(st.booleans()):
            follow("json", folder, config())
        import_runs(folder, "json")
    assert_whole(folder, config())


def test_a_tracker_that_fails_stops_no_training_and_tells_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def away(about: About) -> Begun:
        def row(epoch: int, numbers: Mapping[str, float]) -> None:
            nonlocal calls
            calls += 1
            raise ConnectionError(
                "https://me:hunter2@host.example/api?write_token=sesame\nsaid 401 to opensesame"
            )

        return Begun(0, row, lambda epochs, result: None)

    monkeypatch.setitem(loggers.TRACKERS, "json", away)
    monkeypatch.setenv("MY_API_KEY", "opensesame")
    said = follow("json", tmp_path, config())
    assert Run(run_of(tmp_path, config())).finished
    assert calls == 1
    assert len(said) == 1
    assert "json failed" in said[0]
    assert "apl track import" in said[0]
    assert not [secret for secret in ("hunter2", "sesame", "\n") if secret in said[0]]
    with pytest.raises(BadInput, match=r"json failed .* after 0 runs"):
        import_runs(tmp_path, "json")


def test_a_run_of_another_process_is_left_to_it(tmp_path: Path, json_tracker: str) -> None:
    follow(json_tracker, tmp_path, config(), stop_after=1)
    first, said = Tracking(json_tracker, run_of(tmp_path, config()), config()), []
    first.row({**dict.fromkeys(("train_loss", "lr"), 0.5), "epoch": 2})
    assert "another process sends gce" in follow(json_tracker, tmp_path, config())[0]
    assert [x["epoch"] for x in noted(tmp_path, config().name)[0]] == [1, 2]
    assert import_runs(tmp_path, json_tracker, said.append) == (0, 0)
    assert "left to the process" in said[0]
    first.end()
    assert [x["epoch"] for x in noted(tmp_path, config().name)[0]] == list(range(1, EPOCHS + 1))


def test_a_run_made_anew_is_told_of(tmp_path: Path, json_tracker: str) -> None:
    follow(json_tracker, tmp_path, config())
    shutil.rmtree(run_of(tmp_path, config()))
    said = follow(json_tracker, tmp_path, config())
    assert len(said) == 1
    assert "to log it anew, delete it there" in said[0]
    assert_whole(tmp_path, config())


def test_import_tells_what_is_missing_from_folders_and_from_the_record(
    study: Path, tmp_path: Path, json_tracker: str
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study, folder)
    runs = read_runs(folder)
    shutil.rmtree(run_of(folder, config(1)))
    assert import_runs(tmp_path, json_tracker) == (2, 0)  # studies below the folder
    assert import_runs(folder, json_tracker) == (0, 2)
    assert_whole(folder, config(0))
    epochs, end = noted(folder, config(1).name)
    assert [x["numbers"] for x in epochs] == [measured(row) for row in runs[1].history]
    assert end["result"]["result/memorised"] == runs[1].result.memorised
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no finished run"):
        import_runs(tmp_path / "empty", json_tracker)


def test_bad_trackers_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="track is 'tensorbord'; accepted: tensorboard, wandb"):
        Tracking("tensorbord", tmp_path, config())
    missing = [name for name in TRACKERS if importlib.util.find_spec(name) is None]
    for name in missing:
        with pytest.raises(BadInput, match=rf"{name} is not installed: pip install"):
            import_runs(tmp_path, name)


def test_a_folder_of_that_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no_such_tracker").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(loggers.TRACKERS, "no_such_tracker", notes)
    with pytest.raises(BadInput, match="no_such_tracker is not installed"):
        require_tracker("no_such_tracker")


def test_the_key_of_a_run_tells_its_study_name_and_config() -> None:
    asked = config(alpha=None, q=0.5)
    about = loggers._about(Path("/a/b c"), asked.name, asked)
    assert about.project == "b-c"
    assert about.params["q"] == 0.5
    assert about.params["loss"] == "gce"
    assert "params" not in about.params
    assert about.key == loggers._about(Path("/d/b c"), asked.name, asked).key
    others = [
        loggers._about(Path("/a/bd"), asked.name, asked),
        loggers._about(Path("/a/b c"), "x", asked),
        loggers._about(Path("/a/b c"), asked.name, config()),
    ]
    assert len({about.key, *(other.key for other in others)}) == 4


# --------------------------------------------------------------------- with the real packages

PROGRAM = """
import os, signal, sys
from pathlib import Path

def listen(event, arguments):  # whom this process speaks to
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        if arguments[1][0] not in ("127.0.0.1", "::1", "localhost"):
            print("SPOKE TO", arguments[1], flush=True)
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", "::1", "localhost"):
        print("ASKED FOR", arguments[0], flush=True)

sys.addaudithook(listen)
sys.path.insert(0, os.environ["TESTS"])
from test_loggers import config, follow, import_runs, run_of
from apl.study.trackers import Tracking
from apl.runs import Run
from apl.train import train
from apl.training.listener import Listener

tracker, study, what = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
if what[0] == "killed":  # once its second epoch is told, and not in a checkpoint yet
    tracking = Tracking(tracker, run_of(study, config(7)), config(7))
    def on_epoch(row):
        tracking.row(row)
        if row["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    train(config(7), run_of(study, config(7)), listener=Listener(on_epoch=on_epoch))
elif what[0] == "train":
    print(*follow(tracker, study, config(int(what[1]))), sep="\\n")
elif what[0] == "at once":  # as in a study: several runs, told by one process in turn
    trackings = [Tracking(tracker, run_of(study, config(seed)), config(seed)) for seed in (8, 9)]
    hooks = [tracking.row for tracking in trackings]
    rows = [[], []]
    for seed, kept in zip((8, 9), rows):
        listener = Listener(on_epoch=kept.append)
        train(config(seed), run_of(study, config(seed)), listener=listener)
    for pair in zip(*rows):
        for tracking, row in zip(trackings, pair):
            tracking.row(row)
    for tracking in trackings:
        tracking.end()
elif what[0] == "import":
    print("IMPORTED", import_runs(study, tracker), import_runs(study, tracker))
"""

Story = tuple[dict[str, Any], dict[int, dict[str, float]], dict[str, Any]]


def read_tensorboard(study: Path) -> Iterator[tuple[str, Story]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for folder in (study / "tensorboard").iterdir():
        there = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
        steps: dict[int, dict[str, float]] = {}
        for tag in there.Tags()["scalars"]:
            for scalar in there.Scalars(tag):
                assert tag not in steps.setdefault(scalar.step, {}), "told twice"
                steps[scalar.step][tag] = scalar.value
        told = there.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        params = HParamsPluginData.FromString(told).session_start_info.hparams
        kinds = {k: getattr(v, v.WhichOneof("kind")) for k, v in params.items()}
        yield folder.name, (kinds, steps, steps.pop(max(steps)))


def read_wandb(study: Path) -> Iterator[tuple[str, Story]]:
    from wandb.proto.wandb_internal_pb2 import Record

    folders = [folder for folder in (study / "wandb").glob("*run-*") if folder.name[:6] != "latest"]
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == len(folders)
    for folder in folders:
        steps: dict[int, dict[str, float]] = {}
        params, name, end = {}, "", {}
        for content in leveldb_records((next(folder.glob("*.wandb"))).read_bytes()):
            record = Record.FromString(content)
            if record.HasField("run"):
                name = record.run.display_name
                params = {
                    item.key: json.loads(item.value_json) for item in record.run.config.update
                }
            if record.HasField("history"):
                row = {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in record.history.item
                }
                step = row.pop("_step")
                assert step not in steps, "told twice"
                steps[step] = {k: v for k, v in row.items() if k[0] != "_"}
            for item in record.summary.update if record.HasField("summary") else ():
                end[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        yield name, (params, steps, {k: v for k, v in end.items() if k.startswith("result/")})


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """The records of a log of LevelDB's format, behind a header of seven bytes."""
    at, parts = 7, b""
    while at + 7 <= len(log):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", log[at : at + 7])
        parts += log[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def read_mlflow(study: Path) -> Iterator[tuple[str, Story]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("my-study")
    for run in client.search_runs([experiment.experiment_id]):
        steps: dict[int, dict[str, float]] = {}
        end: dict[str, Any] = {k: v for k, v in run.data.tags.items() if k.startswith("result/")}
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                if name.startswith("result/"):
                    assert name not in end, "told twice"
                    end[name] = metric.value
                else:
                    assert name not in steps.setdefault(metric.step, {}), "told twice"
                    steps[metric.step][name] = metric.value
        assert run.info.status == "FINISHED"
        yield run.info.run_name, (run.data.params, steps, end)


def read_trackio(study: Path) -> Iterator[tuple[str, Story]]:
    with sqlite3.connect(study / "trackio" / "my-study.db") as database:
        told = database.execute("select run_name, step, metrics from metrics").fetchall()
        configs = dict(database.execute("select run_name, config from configs").fetchall())
    for run in {run for run, _, _ in told}:
        rows = [(step, json.loads(metrics)) for name, step, metrics in told if name == run]
        steps = dict(rows)
        assert len(steps) == len(rows), "told twice"
        yield run.rpartition("-")[0], (json.loads(configs[run]), steps, steps.pop(max(steps)))


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Story]]]] = {
    "tensorboard": read_tensorboard,
    "wandb": read_wandb,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
}


@pytest.fixture(params=TRACKERS)
def tracker(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install 'apl-noisy-labels[{name}]'")
    return name


class Process:
    """A process that tells a tracker something, in an environment that asks for no network."""

    def __init__(self, tracker: str, study: Path, *what: str, **env: str) -> None:
        asks = ("WANDB", "MLFLOW", "TRACKIO", "HF_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(asks)}
        here = {"TESTS": str(Path(__file__).parent), "HOME": str(study.parent)}
        # A file, as a pipe stays open while any child of a killed process lives.
        self.out = study.parent / f"out-{'-'.join(what)}.txt"
        with self.out.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, tracker, str(study), *what],
                cwd=study.parent,
                env={**kept, **here, **env, "TRACKIO_DIR": str(study / "trackio")},
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def said(self, code: int = 0) -> str:
        """All that it printed, once it has ended with this exit code."""
        ended = self.process.wait(timeout=600)
        out = self.out.read_text()
        assert ended == code, out
        assert "SPOKE TO" not in out
        assert "ASKED FOR" not in out
        return out


def test_a_real_tracker_has_each_epoch_once_whatever_was_killed(
    study: Path, tmp_path: Path, tracker: str
) -> None:
    """One run killed between an epoch's telling and its checkpoint and gone on with, while another
    process tells of one more; two told in turn by one process; two imported, one by its record."""
    folder = tmp_path / "my study"
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("*.lock"))
    Process(tracker, folder, "killed").said(-signal.SIGKILL)
    for process in [Process(tracker, folder, "train", seed) for seed in ("7", "6")]:
        assert "failed" not in process.said()
    Process(tracker, folder, "at once").said()
    write_study(folder)
    shutil.rmtree(run_of(folder, config(1)))
    assert "IMPORTED (2, 4) (0, 6)" in Process(tracker, folder, "import").said()

    runs = {run.name: run for run in read_runs(folder)}
    told = dict(READERS[tracker](folder))
    assert set(told) == set(runs)
    assert len(runs) == 6
    for name, (params, steps, end) in told.items():
        run = runs[name]
        assert params["loss"] == "gce"
        assert str(params["lr"]) == str(run.config.lr)
        assert list(steps) == [row["epoch"] for row in run.history]
        for row in run.history:
            assert steps[int(row["epoch"])] == pytest.approx(measured(row), rel=1e-6)
        for score in ("test_accuracy", "memorised", "corrupted"):
            assert end[f"result/{score}"] == pytest.approx(getattr(run.result, score), rel=1e-6)


AWAY = {
    "wandb": {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
    "mlflow": {"MLFLOW_TRACKING_URI": "http://me:hunter2@127.0.0.1:9"},
}


@pytest.mark.parametrize("tracker", AWAY, indirect=True)
def test_a_server_that_is_away_costs_one_line(tmp_path: Path, tracker: str) -> None:
    out = Process(tracker, tmp_path / "study", "train", "0", **AWAY[tracker]).said()
    assert (run_of(tmp_path / "study", config()) / RESULT).is_file()
    assert out.count(f"{tracker} failed") == 1
    assert "apl track import" in out
    assert "hunter2" not in out
    assert "k" * 40 not in out
