"""The cache: one copy of each content, few states of a path, and what lies there, listed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from told import load

from apl.data import cache
from apl.data.files import find_decoded
from apl.data.folders import cache_folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder() / "decoded"


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def photos(root: Path, each: int = 6) -> Path:
    for k, name in enumerate(("cat", "dog")):
        for i in range(each):
            picture(root / name / f"{i:02d}.png", 100 * k + i)
    return root


def folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/"))


def test_touched_files_make_no_further_copies(tmp_path: Path, folder: Path) -> None:
    root = photos(tmp_path / "photos")
    first, _ = load(root)
    for k in range(4):
        os.utime(root / "cat" / "00.png", ns=(k, k))
        again, told = load(root)
        assert again.digest == first.digest
        assert len(folders(folder)) == 1
        assert any(
            line.startswith("removed from the cache: an older state of photos") for line in told
        )
    assert first.train.images.sum() == again.train.images.sum()  # what is open stays readable


def test_the_last_states_that_differ_are_kept(tmp_path: Path, folder: Path) -> None:
    root = photos(tmp_path / "photos")
    digests = [load(root)[0].digest]
    for k in range(5):
        picture(root / "cat" / "new.png", 900 + k)
        digests.append(load(root)[0].digest)
    assert len(folders(folder)) == cache.STATES
    there = [find_decoded(digest, 8) is not None for digest in digests]
    assert there == [False] * 3 + [True] * 3


def test_what_an_older_release_decoded_is_replaced_and_told(tmp_path: Path, folder: Path) -> None:
    root = photos(tmp_path / "photos")
    first, _ = load(root)
    (old,) = folders(folder)
    about = json.loads((old / "about.json").read_text())
    for k, change in enumerate(({}, {"digest": "others"}, {"shape": [4, 4, 3]})):
        earlier = {key: value for key, value in about.items() if key not in ("format", "origin")}
        shutil.copytree(old, folder / f"earlier{k}")
        (folder / f"earlier{k}" / "about.json").write_text(json.dumps({**earlier, **change}))
    shutil.rmtree(old)
    again, told = load(root)
    assert again.digest == first.digest
    assert sum("decoded anew, as this release reads data in another way" in t for t in told) == 1
    # Other data than these may be those of a run that was made then.
    assert [f.name for f in folders(folder) if f != old] == ["earlier1", "earlier2"]
    assert not any("decoded anew" in line for line in load(root)[1])


def test_other_readings_and_other_paths_are_other_sources(tmp_path: Path, folder: Path) -> None:
    for name in ("a", "b"):
        root = photos(tmp_path / name)
        load(root)
        load(root, image_size=16)
        load(root, classes="cat,dog")
    assert len(folders(folder)) == 6
    load((np.zeros((10, 8, 8, 3), np.uint8), [0, 1] * 5))
    load((np.ones((10, 8, 8, 3), np.uint8), [0, 1] * 5))
    assert len(folders(folder)) == 8  # arrays are what they hold, and have no states


def test_a_state_that_another_process_writes_is_left(tmp_path: Path, folder: Path) -> None:
    import filelock

    root = photos(tmp_path / "photos")
    load(root)
    (mine,) = folders(folder)
    with filelock.FileLock(mine.with_suffix(".lock")):
        os.utime(root / "cat" / "00.png", ns=(1, 1))
        load(root)
    assert len(folders(folder)) == 2


@pytest.mark.slow
def test_apl_cache_lists_and_prunes(tmp_path: Path, folder: Path, here: Callable[..., Any]) -> None:
    root = photos(tmp_path / "photos")
    load(root)
    picture(root / "cat" / "new.png", 900)
    load(root)
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "images.u8").write_bytes(bytes(5000))
    store = folder.parent / "features" / "lite0-abc"
    store.mkdir(parents=True)
    (store / "about.json").write_text('{"features": "lite0"}')
    (store / "rows.f16").write_bytes(bytes(3_400_000))
    shown = here("cache").stdout
    assert re.search(r"^ +data +photos  .* \S+/photos *$", shown, re.MULTILINE)  # words to the left
    assert "4 in " in shown
    assert all(text in shown for text in ("photos", "lite0", "3.4 MB", "not finished", str(root)))
    hour_ago = time.time() - 3600
    for file in (folder / "unfinished" / "images.u8", folder / "unfinished"):
        os.utime(file, (hour_ago, hour_ago))
    assert "removed 2 of 4" in here("cache", "--prune").stdout
    assert len(folders(folder)) == 1
    assert store.is_dir()
    long_ago = time.time() - 40 * cache.DAY
    for file in [*store.iterdir(), store]:
        os.utime(file, (long_ago, long_ago))
    assert "removed 1 of 2, 3.4 MB" in here("cache", "--older-than", "30").stdout
    assert not store.exists()
    assert "removed 1 of 1" in here("cache", "--older-than", "0").stdout
    assert "0 in " in here("cache").stdout
    assert "older_than is -1" in here("cache", "--older-than", "-1", code=2).stderr


def test_sizes_in_words() -> None:
    sizes = {0: "0 bytes", 999: "999 bytes", 1500: "1.5 kB", 34_000_000: "34 MB", 5e12: "5,000 GB"}
    assert {size: cache.size_text(size) for size in sizes} == sizes


def test_what_is_being_made_or_was_finished_meanwhile_is_left(tmp_path: Path) -> None:
    """A folder that is not whole may be somebody's at work, and be whole a moment later."""
    folder = tmp_path / "decoded" / "a"
    folder.mkdir(parents=True)
    seen = cache._entry(folder, "decoded")
    assert not seen.whole
    assert list(cache.outdated([seen], 3)) == []  # made just now
    old = dataclasses.replace(seen, used=0.0)
    assert list(cache.outdated([old], 3)) == [old]
    (folder / "about.json").write_text('{"name": "a"}')  # finished since it was looked at
    assert cache.remove([old]) == (0, 0)
    assert folder.exists()
    (folder / "about.json").unlink()
    assert cache.remove([old])[0] == 1
