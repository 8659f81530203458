"""Paths as people write them, and a folder of their own for what may be deleted."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from apl.errors import BadInput


def user_path(path: str | Path) -> Path:
    """A path, with ~ at its head for a home folder; BadInput where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise BadInput(
            f"{path} begins with a home folder that is not there: write it out"
        ) from None


def cache_home() -> Path:
    """Where a user's caches lie: $XDG_CACHE_HOME, else ~/.cache; in the folder of temporary files
    where there is no home or nothing can be written there, as in a container."""
    asked = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(asked):
        return Path(asked)
    cache = Path(os.path.expanduser("~")) / ".cache"
    there = next((folder for folder in (cache, *cache.parents) if folder.is_dir()), None)
    if cache.is_absolute() and there is not None and os.access(there, os.W_OK | os.X_OK):
        return cache
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir(), f"cache-{user}")
