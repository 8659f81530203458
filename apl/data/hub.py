"""Data of Hugging Face's library `datasets`: from the hub, from a folder it saved, from memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apl.data.trees import split_of
from apl.errors import BadInput, cut, one_line

PREFIX = "hf://"
_NAME = re.compile(r"(datasets/)?(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")
OLDEST = 4  # of its versions: one before may run code that lies beside the data


def load_hub(source: str, download: bool = True) -> Any:
    """The data set of `hf://OWNER/NAME` or `hf://OWNER/NAME:CONFIG`; no code of it is run.

    download: whether it may be fetched.  Raises BadInput where it can't be had.
    """
    found = _NAME.fullmatch(source.removeprefix(PREFIX))
    if found is None:
        raise BadInput(f"dataset is {source!r}; accepted: hf://OWNER/NAME, hf://OWNER/NAME:CONFIG")
    datasets = _library(source)
    config = None if download else datasets.DownloadConfig(local_files_only=True)
    try:
        return datasets.load_dataset(found["name"], found["config"], download_config=config)
    except Exception as error:  # no network, no such name, a config that must be chosen
        raise BadInput(f"{source} can't be had: {cut(one_line(error), 300)}") from None


def is_saved(path: Path) -> bool:
    """Whether a folder was written by the library's `save_to_disk`."""
    single = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return single or (path / "dataset_dict.json").is_file()


def load_saved(path: Path) -> Any:
    """The data set of such a folder.  Raises BadInput where it can't be read."""
    datasets = _library(str(path))
    try:
        return datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged file raises nearly anything
        raise BadInput(f"{path} can't be read: {cut(one_line(error), 300)}") from None


def _library(wanted: str) -> Any:
    try:
        import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise BadInput(
            f"{wanted} needs Hugging Face's datasets: pip install 'apl-noisy-labels[hf]'"
        ) from None
    if int(datasets.__version__.split(".")[0]) < OLDEST:
        raise BadInput(f"datasets is {datasets.__version__}; accepted: {OLDEST}.0 or newer")
    return datasets


def splits_in(source: Any) -> tuple[dict[str, Any], list[str]] | None:
    """The parts of a mapping by their splits, and the names that are none; None for what is no
    mapping of splits.  Raises BadInput for two parts of one split."""
    if not isinstance(source, Mapping) or hasattr(source, "columns"):
        return None
    parts: dict[str, Any] = {}
    others = []
    for name, part in source.items():
        split = split_of(str(name))[0]
        if not split:
            others.append(str(name))
        elif split in parts:
            raise BadInput(f"two parts are for {split}: {', '.join(map(str, source))}")
        else:
            parts[split] = part
    return (parts, others) if parts else None
