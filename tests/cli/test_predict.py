"""`apl predict` as a user meets it: names, labels, files that are broken, a kill half-way."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

from apl.config.config import make_config
from apl.data.reading import Reading
from apl.data.samples import contents_of, list_samples
from apl.data.sources import load_data
from apl.training import predictions
from apl.training.machine import Machine
from apl.training.train import train


def photos(folder: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    for k, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (8, 8, 3), dtype=np.uint8)
            pixels[..., k] += 100
            Image.fromarray(pixels).save(folder / name / f"={i}.png")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run on photos, whose data are no longer decoded."""
    folder = tmp_path_factory.mktemp("trained")
    photos(folder / "photos", 12)
    with pytest.MonkeyPatch.context() as then:
        then.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        data = load_data(folder / "photos", say=lambda line: None)
        config = make_config(dataset=data, epochs=1, features="none")
        train(config, folder / "run", machine=Machine(device="cpu", threads=1), data=data)
    shutil.rmtree(folder / "cache")
    return str(folder / "run")


@pytest.mark.slow
def test_new_photos_from_the_command_line(tmp_path: Path, here: Cli, run: str) -> None:
    photos(tmp_path / "new", 3)
    (tmp_path / "new" / "dog" / "torn.png").write_bytes(b"\x89PNG")
    (tmp_path / "new" / "cow").mkdir()
    Image.new("L", (20, 9)).save(tmp_path / "new" / "cow" / "grey.jpg")
    done = here("predict", run, "new", "--all")
    table = rows_of(tmp_path / "predictions.csv")
    assert [row["file_name"] for row in table] == [
        "cat/=0.png", "cat/=1.png", "cat/=2.png", "cow/grey.jpg",
        "dog/=0.png", "dog/=1.png", "dog/=2.png",
    ]  # fmt: skip
    for row in table:
        said = {name: float(row[f"probability_{name}"]) for name in ("cat", "dog")}
        assert sum(said.values()) == pytest.approx(1, abs=1e-5)
        assert float(row["probability"]) == said[row["predicted_label"]] == max(said.values())
    assert "accuracy on given labels: " in done.stdout
    assert " of 6\n" in done.stdout
    assert "not scored: 1 with a label that is no class: cow 1" in done.stdout
    assert "left out 1: dog/torn.png: no image" in done.stdout

    whole = (tmp_path / "predictions.csv").read_bytes()
    here("predict", run, run, "new", "--all", "--out", "twice.csv")  # the mean of two alike
    assert (tmp_path / "twice.csv").read_bytes() == whole
    here("predict", run, "new/cat/*.png", "--out", "pattern.csv")
    lines = (tmp_path / "pattern.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == [f"new/cat/={i}.png" for i in range(3)]
    Image.new("RGB", (8, 8)).save(tmp_path / "=1+1.png")
    here("predict", run, "=1+1.png", "--out", "one.csv")
    assert (tmp_path / "one.csv").read_text().splitlines()[1].startswith("'=1+1.png,")


@pytest.mark.slow
def test_a_command_that_was_killed_goes_on(
    tmp_path: Path, here: Cli, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "new", 4)
    (tmp_path / "new" / "cat" / "=1.png").write_bytes(b"torn")
    here("predict", run, "new", "--out", "whole.csv")
    monkeypatch.setattr(predictions, "BATCH", 2)
    said = predictions._said

    def killed(*arguments: object) -> object:
        for count, batch in enumerate(said(*arguments)):  # type: ignore[arg-type]
            if count == 2:
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as then:
        then.setattr(predictions, "_said", killed)
        here("predict", run, "new", "--out", "p.csv", code=130)
    (part,) = tmp_path.glob("p.csv.*.part")
    assert not (tmp_path / "p.csv").exists()
    content = part.read_bytes()
    part.write_bytes(content + b'"cat/=')  # cut within a row
    done = here("predict", run, "new", "--out", "p.csv")
    assert f"going on: {content.count(b'.png')} of 8 rows were written before" in done.stdout
    assert "left out 1: cat/=1.png: no image" in done.stdout
    for row, whole in zip(
        rows_of(tmp_path / "p.csv"), rows_of(tmp_path / "whole.csv"), strict=True
    ):
        assert list(row.values())[:2] == list(whole.values())[:2]
        assert float(row["probability"]) == pytest.approx(float(whole["probability"]), abs=1e-5)
    (tmp_path / "p.csv.0123456789ab.part").write_bytes(content)
    done = here("predict", run, "new", "--out", "p.csv")
    assert "begun anew: p.csv.0123456789ab.part was of other samples or another run" in done.stdout
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["new", "RUN"], "new is no run; accepted: a run folder"),
        (["RUN"], "predict what?"),
        (["RUN", "nowhere/*.png"], "nothing is at nowhere/*.png"),
        (["RUN", "new"], "new has no images"),
        (["RUN", "words.txt"], "words.txt is no input; accepted: .bmp"),
        (["RUN", "t.csv"], "has a table, but nce_rce_given"),
        (["RUN", "a.png", "--out", "no/p.csv"], "there is no folder no for --out"),
        (["RUN", "new", "--network", "cnn8"], "network is 'cnn8'; accepted: the run's, cnn4"),
    ],
)
def test_what_can_not_be_predicted_is_told_in_a_line(
    tmp_path: Path, here: Cli, run: str, arguments: list[str], told: str
) -> None:
    (tmp_path / "new").mkdir()
    Image.new("L", (3, 3)).save(tmp_path / "a.png")
    (tmp_path / "words.txt").write_text("words")
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")
    done = here("predict", *(run if each == "RUN" else each for each in arguments), code=2)
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_of_a_study_the_run_that_held_out_labels_choose(tmp_path: Path, here: Cli) -> None:
    photos(tmp_path / "photos", 30)
    photos(tmp_path / "new", 3)
    small = ("--epochs", "2", "--features", "none", "--losses", "ce,mae")
    here("study", "--dataset", "photos", *small, "--seeds", "1", "--out", "unchosen")
    told = here("predict", "unchosen", "new", code=2).stderr
    assert "2 runs; accepted: --best, one of them, or several" in told
    told = here("predict", "unchosen", "new", "--best", code=2).stderr
    assert "--select noisy" in told

    here(
        "study",
        "--dataset",
        "photos",
        *small,
        "--seeds",
        "2",
        "--select",
        "noisy",
        "--out",
        "chosen",
    )
    lines = (tmp_path / "chosen" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    held_out: dict[str, list[float]] = {"ce": [], "mae": []}
    for run in map(json.loads, lines):
        held_out[run["config"]["loss"]].append(run["history"]["validation_accuracy"][-1])
    best = max(held_out, key=lambda loss: sum(held_out[loss]))
    done = here("predict", "chosen", "new", "--best")
    name, why = done.stdout.splitlines()[0].split(": ", 1)
    assert name.startswith(f"{best}_")
    assert why.startswith("chosen by held-out given labels, ")
    chosen = (tmp_path / "predictions.csv").read_bytes()
    here("predict", f"chosen/runs/{name}", "new", "--out", "one.csv")
    assert (tmp_path / "one.csv").read_bytes() == chosen


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["in the study", "in the cache"])
def test_samples_that_were_trained_on_say_nothing_of_new_ones(
    tmp_path: Path, here: Cli, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    photos(tmp_path / "photos", 30)
    quick = ("--epochs", "1", "--batch-size", "8", "--device", "cpu")
    here("train", "--dataset", "photos", *quick, "--loss", "ce", "--out", "study")
    (run,) = (tmp_path / "study" / "runs").iterdir()
    ask = ("predict", str(run.relative_to(tmp_path)))
    if kept == "in the study":
        shutil.rmtree(tmp_path / "cache")
    else:
        (tmp_path / "study" / "data.npz").unlink()
    done = here(*ask, "photos")
    labels = "labels that it has seen it may know by heart"
    assert f"trained on 48 of these 60 samples, and {labels}; on the 12 others " in done.stdout
    assert "which of these labels are wrong: apl find photos\n" in done.stdout
    assert f"in other programs: apl export {ask[1]}" in done.stdout.splitlines()[-1]

    # By their content, whatever they are called.
    (tmp_path / "new").mkdir()
    names = [f"{name}/={i}.png" for name in ("cat", "dog") for i in range(30)]
    for k, name in enumerate(names):
        shutil.copy(tmp_path / "photos" / name, tmp_path / "new" / f"{k}.png")
    done = here(*ask, "new")
    assert "trained on 48 of these 60 samples: how sure it is of them says nothing" in done.stdout
    assert "apl find" not in done.stdout
    shutil.rmtree(tmp_path / "new")
    photos(tmp_path / "new", 3)
    assert "trained on" not in here(*ask, "new").stdout


@pytest.mark.parametrize(
    ("table", "kind", "column"),
    [
        ("id,a,b,label\n7,1.5,x,u\n8,2,,v\n9,3,x,u\n10,4,y,v\n", "rows", "none"),
        ("a,label\n1,u\n2,v\n3,u\n4,v\n", "rows", "none"),
        ("label,review,n\nu, so  good,1\nv,a bad one,2\nu,good,3\nv,bad,4\n", "texts", "review"),
    ],
)  # fmt: skip
def test_a_sample_is_known_by_what_it_holds(
    tmp_path: Path, cache: Path, table: str, kind: str, column: str
) -> None:
    (tmp_path / "t.csv").write_text(table)
    data = load_data(tmp_path / "t.csv", say=lambda line: None)
    assert data.contents is not None
    listed = list_samples(str(tmp_path / "t.csv"), Reading(text_column="none"), kind)
    assert sorted(contents_of(listed, column)) == sorted(bytes(row) for row in data.contents)
