"""What may be typed next, which each command ends with: as a shell takes it, in this folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from apl.cli.terminal import Terminal
    from apl.data.dataset import Dataset

READS = (
    *("data_dir", "image_size", "label_column", "test_set", "max_broken", "classes"),
    *("max_pixels", "image_folder", "layout", "skip", "text_column"),
)
"""The options by which data of one's own are read, which the next command needs too."""
SEES = (*READS, "features", "weights")
"""And by what a network sees of them."""
OF_APPLY = ("label_column", "test_set", "classes", "image_folder", "layout", "skip")
NOISY = ("noise", "rate", "map", "method", "seed", "train_size")
LISTS = (".csv", ".tsv", ".jsonl", ".json")  # of which `apl apply` makes a corrected copy


def typed(given: Mapping[str, Any], names: Sequence[str] | None = None) -> list[str]:
    """The options of these names that were given, all where none are named, to be typed again."""
    words = []
    for name, value in given.items():
        if names is not None and name not in names:
            continue
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            text = str(value)
            words += [f"--{flag}={text}"] if text.startswith("-") else [f"--{flag}", text]
    return words


def then(out: Terminal, *commands: tuple[str, Sequence[str]]) -> None:
    """Say what may be typed next, a line each: what for, and the words of the command."""
    for what, words in commands:
        out.print(f"{what}: {shlex.join(words)}")


def again(flag: str, *value: str) -> list[str]:
    """The words of the command that was typed, with an option as it is to be now."""
    kept: list[str] = []
    words = iter(sys.argv[1:])
    for word in words:
        if word == flag and value:
            next(words, None)
        elif not word.startswith(f"{flag}="):
            kept.append(word)
    return ["apl", *kept, flag, *value]


def in_browser(file: Path) -> list[str]:
    """The words of a command that opens a file in a browser, on any system."""
    python = "py" if sys.platform == "win32" else "python3"
    return [python, "-m", "webbrowser", file.absolute().as_uri()]


def cleaned(
    source: str, data: Dataset, decisions: str | Path, given: Mapping[str, Any]
) -> list[tuple[str, list[str]]]:
    """What carries decisions out on data, beside them; nothing where the data are of a kind that
    nothing is made of."""
    path = Path(source)
    names, given_labels = data.train.names, data.train.labels.given
    folders = path.is_dir() and bool(names)
    if folders:
        folders = data.class_names[given_labels[0]] in names[0].split("/")
    if not folders and not (path.is_file() and path.suffix.lower() in LISTS):
        return []
    whole = path if path.name not in ("", "..") else path.resolve()
    stem, end = (whole.name, "") if folders else (whole.stem, path.suffix)
    beside = (whole.with_name(f"{stem}-cleaned{k}{end}") for k in ("", *range(2, 10**6)))
    to = next(each for each in beside if not each.exists())
    words = ["apl", "apply", source, "--decisions", str(decisions), "--to", str(to)]
    return [("to carry the decisions out", [*words, *typed(given, OF_APPLY)])]
