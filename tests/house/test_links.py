"""Each file and folder of a results folder swapped for a link: nothing is written behind it."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apl.cli import app
from apl.report import pictures

QUICK = tuple("--epochs 2 --batch-size 16 --network mlp --width 8 --device cpu".split())
COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "photos-find": (("find", "photos", *QUICK, "--features", "none"),),
    "photos-quick-train": (
        ("train", "--dataset", "photos", "--loss", "ce", "--features", "none", *QUICK),
    ),
    "photos-quick": (
        (
            *("study", "--dataset", "photos", "--losses", "ce", "--noise", "none", "--seeds", "1"),
            *("--no-pictures", "--workers", "1", "--features", "none", *QUICK),
        ),
        ("plot", "results"),
        ("report", "results/photos-quick", "--latex"),
        *(
            [("track", "import", "results", "--to", "tensorboard")]
            if importlib.util.find_spec("tensorboard")
            else []
        ),
    ),
}


def photos(root: Path) -> None:
    for k, name in enumerate(("cat", "dog")):
        for i in range(40):
            path = root / name / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(100 * k + i).integers(0, 100, (8, 8, 3))
            Image.fromarray((pixels + 156 * k).astype(np.uint8)).save(path)


def behind(path: Path) -> dict[str, tuple[bytes, int]]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def swapped(kept: Path, folder: str) -> Iterator[tuple[Path, bool]]:
    """Every file and folder of a results folder, as it is and as if its run were not finished."""
    for path in sorted((kept / folder).rglob("*")):
        for unfinished in (False, True):
            if not (unfinished and path.name == "result.json"):
                yield path.relative_to(kept), unfinished


@pytest.mark.slow
@pytest.mark.usefixtures("unpainted", "one_picture")
@pytest.mark.parametrize("folder", COMMANDS)
def test_nothing_is_written_behind_a_link(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    # A grey square stands for what the picture shows.
    monkeypatch.setattr(pictures, "pixels", lambda figure: Image.new("RGB", (4, 4)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    trained, *read = COMMANDS[folder]
    assert app.run(trained) == 0
    runs = behind(tmp_path / "results" / folder / "runs")
    for command in read:
        assert app.run(command) == 0
        assert behind(tmp_path / "results" / folder / "runs") == runs  # it writes nothing there
    results, outside = tmp_path / "results", tmp_path / "outside"
    results.rename(tmp_path / "kept")
    for path, unfinished in swapped(tmp_path / "kept", folder):
        shutil.copytree(tmp_path / "kept", results)
        if unfinished:
            for file in results.rglob("result.json"):
                file.unlink()
        (results / path).rename(outside)
        (results / path).symlink_to(outside)
        before = behind(outside)
        # The others read a run, and draw for seconds.
        of_a_run = unfinished or "runs" in path.parts[:-1]
        for command in (trained, *([] if of_a_run else read)):
            code = app.run(command)
            said = capsys.readouterr().err
            assert behind(outside) == before, (command, path, unfinished)
            refused = "is a link, which may lead out of the results" in said
            assert code == 0 or refused or "there is no finished run" in said, (path, said)
        shutil.rmtree(results)
        shutil.rmtree(outside) if outside.is_dir() else outside.unlink()


def test_pictures_and_logs_are_not_written_behind_a_link(
    tmp_path: Path, here: Callable[..., Any]
) -> None:
    ask = ("--dataset", "digits", "--train-size", "200", "--epochs", "1", "--threads", "1")
    here("train", *ask, "--loss", "mae", code=1)
    study = tmp_path / "results" / "digits-quick-train"
    (tmp_path / "outside").mkdir()
    (study / "pictures").symlink_to(tmp_path / "outside")
    assert "pictures is a link" in here("plot", "results", code=2).stderr
    from apl.runs.run import Run
    from apl.study.cells import train_cell
    from apl.training.machine import Machine

    (run,) = (study / "runs").iterdir()
    config = Run(run).config
    shutil.rmtree(run)
    run.symlink_to(tmp_path / "outside")
    ending = train_cell(config, run, Machine(), lambda event: None, lambda: False)
    assert ending is not None
    assert "is a link" in str(ending[1])
    assert not list((tmp_path / "outside").iterdir())
