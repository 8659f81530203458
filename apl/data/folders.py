"""Where data lie, and what is made of them."""

from __future__ import annotations

import os
from pathlib import Path

from apl.names import DATASETS
from apl.paths import cache_home, user_path


def data_folder(given: str | Path | None = None) -> Path:
    """Where data sets lie: `given`, else $APL_DATA, else the user's cache folder."""
    if given:
        return user_path(given)
    if os.environ.get("APL_DATA"):
        return user_path(os.environ["APL_DATA"])
    return cache_folder()


def cache_folder() -> Path:
    """The user's cache folder, which may be deleted at any time."""
    return cache_home() / "apl"


def available(name: str, folder: str | Path | None = None) -> bool:
    """Whether the data set lies in the data folder, so that nothing would be downloaded."""
    return name == "digits" or (data_folder(folder) / DATASETS[name].folder).is_dir()
