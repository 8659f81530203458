"""Where things lie when there is no home, or a disk knows no locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from forked import apart

from apl.data.folders import cache_folder, data_folder
from apl.data.sources import load_data
from apl.errors import BadInput
from apl.paths import cache_home

NOBODY = 54321  # a number without an entry among the users
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)


def test_a_cache_where_people_want_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine" / "apl"
    monkeypatch.setenv("HOME", str(tmp_path))
    for none in ("", "not/absolute"):  # which the standard has to be ignored
        monkeypatch.setenv("XDG_CACHE_HOME", none)
        assert cache_home() == tmp_path / ".cache"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_home() == tmp_path / ".cache"
    monkeypatch.setenv("APL_DATA", "~/sets")
    assert data_folder() == tmp_path / "sets"
    monkeypatch.setenv("HOME", "no/absolute")
    assert cache_home() == Path(tempfile.gettempdir(), f"cache-{os.getuid()}")


@pytest.mark.parametrize("path", ["~nobody_of_this_name/x", "~nobody_of_this_name"])
def test_the_home_of_a_user_who_has_none(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="begins with a home folder that is not there"):
        load_data(path)
    with pytest.raises(BadInput, match="begins with a home folder that is not there"):
        load_data("cifar10", folder=path, download=False)
    monkeypatch.setenv("APL_DATA", path)
    with pytest.raises(BadInput, match="begins with a home folder that is not there"):
        data_folder()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root becomes others")
def test_a_user_without_a_home_loads_data(tmp_path: Path) -> None:
    """As in a container that runs under a number."""
    begin = f"""
import os, sys, tempfile, numpy, apl
source = numpy.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype="uint8"), ["a", "b"] * 10
os.environ["XDG_CACHE_HOME"] = {str(tmp_path)!r}
apl.load_data(source, say=lambda line: None)  # nobody may read the code that this imports
for name in ("HOME", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
def load(folder, **home):
    tempfile.tempdir = folder
    os.chdir(folder)
    os.environ.update(home)
    os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
    print(len(apl.load_data(source, say=lambda line: None).train))
"""
    homes = ("", ", HOME='/'", ", HOME='/nowhere/at/all'")
    with contextlib.ExitStack() as stack:
        made = [tempfile.TemporaryDirectory(prefix="apl-test-") for _ in homes]
        folders = [stack.enter_context(folder) for folder in made]
        for folder in folders:
            os.chmod(folder, 0o777)
        asked = [f"load({folder!r}{home})" for folder, home in zip(folders, homes, strict=True)]
        for done, folder in zip(apart(asked, begin), folders, strict=True):
            assert done.stdout.strip() == "16", done.stderr
            assert [path.name for path in Path(folder).glob("cache-*")] == [f"cache-{NOBODY}"]


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems answer flock with ENOSYS."""

    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fcntl, "flock", flock)
    for _ in range(2):
        with pytest.warns(UserWarning, match="SoftFileLock"):
            data = load_data((IMAGES, ["a", "b"] * 10), say=lambda line: None)
        assert len(data.train) == 16
