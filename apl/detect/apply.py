"""What was decided about labels, carried out on the data themselves: images go into the folder of
their class, a list or a table gets a corrected copy, and a journal takes it all back.

Nothing is overwritten.  The journal is whole on the disk before a file is touched, so that what a
crash left half done can be undone.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import hashlib
import itertools
import os
import shlex
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from apl.data.decisions import Decisions, read_labels
from apl.data.kinds import list_data
from apl.data.listing import Listing, Order, Sample, arrange
from apl.data.lists import LABEL_COLUMNS
from apl.data.reading import AS_USUAL, Reading
from apl.data.rows import Changes, changed
from apl.errors import BadInput
from apl.files import read_json, write_atomic, write_json
from apl.paths import user_path

HOW = ("copy", "link", "move")
JOURNAL = ".journal.json"  # behind the name of what is made
HALF = ".apl-half"  # behind the name of a copy that is not whole yet


class Step(NamedTuple):
    """A file, and where it goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    source: the data; target: the folder or file to make, or the data themselves; how: one of HOW;
    counts: of 'keep', 'fix', 'drop' and '' (undecided); fixed: each image whose class changes, by
    name, and its new name; steps: files to copy, link or move; content: of the corrected copy of a
    list; left: how many files and rows have no part in it, since they are not read.
    """

    source: Path
    target: Path
    how: str
    counts: Mapping[str, int]
    fixed: Sequence[tuple[str, str]] = ()
    steps: Sequence[Step] = ()
    content: bytes = b""
    left: int = 0

    @property
    def journal(self) -> Path:
        """Where it is written down, beside what is made."""
        return _journal_of(self.target)


# ------------------------------------------------------------------------------------- the plan


def plan(
    source: str | Path,
    decisions: Path,
    target: str | Path | None = None,
    how: str = "copy",
    reading: Reading = AS_USUAL,
    now: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """What `carry_out` will do with the data at a path.

    source: a folder of classes, a list of files, or a table; decisions: a file as `read_labels`
    takes it; target: the folder or file to make; None, with 'move', for the folder itself, whose
    dropped images go to NAME-dropped beside it; how: 'copy', 'link' (hard links) or 'move'; now: by
    the names in the file those that images have since, as `read_labels` takes it.
    Raises BadInput where the data are something else, a target or the journal of an earlier time is
    in the way, or a decision fits no sample.
    """
    path = user_path(source)
    _require_no_journal(path if target is None else user_path(target))
    if how not in HOW:
        raise BadInput(f"how is {how!r}; accepted: {', '.join(HOW)}")
    if target is None and how != "move":
        raise BadInput("where to? --to FOLDER, or --move to sort the images where they are")
    made = None if target is None else user_path(target)
    listing = list_data(path, reading)
    order = arrange(listing.samples, str(path), lambda line: None, reading.classes)
    samples = [listing.samples[i] for i in order.chosen]
    names = [sample.name for sample in samples]
    decided = read_labels(decisions, order.given, order.class_names, names, now)
    if not decided.decided.any():
        raise BadInput(f"{decisions} decides nothing")
    counts = Counter(decided.words(order.given))
    left = len(listing.broken) + len(listing.samples) - len(samples)
    if path.is_dir():
        if listing.rows or listing.pixels is not None:
            raise BadInput(
                f"the labels of {path} are not the names of its folders; accepted: a folder of "
                "classes, or the path of the list in it"
            )
        _check_target(path, made)
        steps, fixed = _sorted(path, made, samples, order, decided)
        return Plan(path, made or path, how, counts, fixed, steps, left=left)
    if not listing.rows:
        raise BadInput(f"{path} holds arrays; accepted: a folder of classes, a list or a table")
    if how != "copy" or made is None:
        raise BadInput(f"{path} is a list, which gets a corrected copy: give --to FILE alone")
    _check_file(path, made, any(sample.path for sample in samples))
    changes = _changes(listing, order, decided)
    content = changed(path, changes, {reading.label_column, *LABEL_COLUMNS})
    return Plan(path, made, how, counts, content=content, left=left)


def _journal_of(target: Path) -> Path:
    return target.with_name(target.name + JOURNAL)


def _require_no_journal(target: Path) -> None:
    journal = _journal_of(target)
    if journal.exists():
        raise BadInput(
            f"{journal} says what was done, or begun, before; to take it back: apl apply --undo "
            f"{shlex.quote(str(journal))}; to leave it so, give the journal another name"
        )


def _check_target(path: Path, made: Path | None) -> None:
    if made is None:
        return
    inside = made.absolute().resolve().is_relative_to(path.absolute().resolve())
    if inside:
        raise BadInput(f"--to is {made}, which is in the data themselves; give a place outside")
    if made.exists() and (not made.is_dir() or any(made.iterdir())):
        raise BadInput(f"{made} is there already; nothing is overwritten: give another --to")


def _check_file(path: Path, made: Path, named: bool) -> None:
    """named: whether the list names files, which it does from its own folder."""
    if made.exists():
        raise BadInput(f"{made} is there already; nothing is overwritten: give another --to")
    if made.suffix.lower() != path.suffix.lower():
        raise BadInput(f"--to is {made}; accepted: a file {path.suffix}, as {path.name} is")
    if named and made.absolute().parent.resolve() != path.absolute().parent.resolve():
        raise BadInput(
            f"{path.name} names its files from its own folder, so its copy belongs there: --to "
            f"{path.with_name(made.name)}"
        )


def _sorted(
    root: Path, made: Path | None, samples: Sequence[Sample], order: Order, decided: Decisions
) -> tuple[list[Step], list[tuple[str, str]]]:
    """The steps for images in folders of classes, and which change their class."""
    words = decided.words(order.given)
    names = [sample.name for sample in samples]
    for i in [i for i, word in enumerate(words) if word == "fix"]:
        given, label = (order.class_names[k] for k in (order.given[i], decided.labels[i]))
        names[i] = _in_class(root, names[i], given, label)
    top = made or root
    stay = {_alike(names[i]) for i, word in enumerate(words) if word in ("", "keep")}
    steps, fixed = [], []
    for i, (sample, word) in enumerate(zip(samples, words, strict=True)):
        path = Path(sample.path)
        if word == "fix":
            names[i] = _free(names[i], sample.name, stay, top)
            fixed.append((sample.name, names[i]))
        if word == "drop":  # of a copy it is left out
            aside = root.with_name(f"{root.name}-dropped")
            target = None if made else aside / _free(sample.name, "", set(), aside)
        else:
            target = top / names[i] if made or word == "fix" else None
        if target is not None:
            steps.append(Step(path, target))
    return steps, fixed


def _in_class(root: Path, name: str, given: str, label: str) -> str:
    """The name of an image with another class in the place of its folder."""
    parts = name.split("/")
    at = [k for k, part in enumerate(parts[:-1]) if _alike(part) == _alike(given)]
    if not at:
        raise BadInput(
            f"{name!r} lies in no folder {given!r} of {root}, so its label can't be corrected by "
            "its place; accepted: a folder of classes"
        )
    parts[at[0]] = label
    return "/".join(parts)


def _free(name: str, before: str, taken: set[str], top: Path) -> str:
    """A name that no other image has or gets: its own, or one that says where it comes from."""
    stem, suffix = os.path.splitext(name)
    origin = f"-from-{before.split('/')[-2]}" if "/" in before else "-again"
    tries = itertools.chain([name], (f"{stem}{origin}{n}{suffix}" for n in _numbers()))
    free = next(
        each for each in tries if _alike(each) not in taken and not os.path.lexists(top / each)
    )
    taken.add(_alike(free))
    return free


def _numbers() -> Iterator[str]:
    yield ""
    yield from (f"-{n}" for n in itertools.count(2))


def _alike(name: str) -> str:
    """What a name is to a disk that knows neither case nor how an accent is written."""
    return unicodedata.normalize("NFC", name).casefold()


def _changes(listing: Listing, order: Order, decided: Decisions) -> Changes:
    """By row of a list, its new cells; None for one that is dropped."""
    columns = listing.label_columns
    if listing.votes:
        raise BadInput(
            f"the list has a column for each of {len(columns)} annotators, whose labels stay as "
            "they are: train on what was decided, with --labels decisions.csv"
        )
    changes: dict[int, Mapping[str, str] | None] = {}
    for i, word in enumerate(decided.words(order.given)):
        row = listing.rows[order.chosen[i]]
        label = order.class_names[decided.labels[i]]
        if word == "drop":
            changes[row] = None
        elif word == "fix" and len(columns) == 1:
            changes[row] = {columns[0]: label}
        elif word == "fix":  # one-hot
            changes[row] = {name: "1" if name == label else "0" for name in columns}
    return changes


# ------------------------------------------------------------------------------------- done, undone


def carry_out(plan: Plan, progress: Callable[[int, int], None] = lambda done, all: None) -> None:
    """Do what a plan says; `undo` takes it back.

    Raises BadInput where a journal of an earlier time is in the way, or a disk has no hard links,
    and OSError as the disk does; what is done by then is in the journal.
    """
    _require_no_journal(plan.target)
    plan.target.absolute().parent.mkdir(parents=True, exist_ok=True)
    steps = [[str(part.absolute()) for part in step] for step in plan.steps]
    written = {"how": plan.how, "steps": steps, "target": str(plan.target.absolute())}
    if plan.content:
        written["sha256"] = hashlib.sha256(plan.content).hexdigest()
    write_json(plan.journal, written)
    if plan.content:
        half = plan.target.with_name(plan.target.name + HALF)
        write_atomic(half, plan.content)
        _put(half, plan.target)
    for done, step in enumerate(plan.steps):
        progress(done, len(plan.steps))
        step.target.parent.mkdir(parents=True, exist_ok=True)
        _carry(plan.how, step)


def _carry(how: str, step: Step) -> None:
    if how == "link":
        try:
            os.link(os.path.realpath(step.source), step.target)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            where = step.target.parent
            raise BadInput(f"no hard links from {step.source} into {where}: copy them") from None
        return
    if how == "move":
        if step.source.is_symlink():
            raise BadInput(f"{step.source} is a link, which leads nowhere once moved: copy them")
        with contextlib.suppress(OSError):  # another disk
            _put(step.source, step.target)
            return
    half = step.target.with_name(step.target.name + HALF)
    shutil.copy2(step.source, half)
    _put(half, step.target)
    if how == "move":
        step.source.unlink()


def _put(source: Path, target: Path) -> None:
    """Rename a file, unless there is one of that name."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise BadInput(f"{target} is there already; nothing is overwritten") from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        if target.exists():  # of a disk without hard links
            raise BadInput(f"{target} is there already; nothing is overwritten") from None
        os.rename(source, target)
        return
    source.unlink()


def undo(journal: Path) -> list[str]:
    """Take back what a journal says was done, and remove it; returns a line for each file that is
    left as it is, since it was changed since, or its place taken.

    Raises BadInput for what is no journal.
    """
    said = read_json(journal)
    try:
        how, target = said["how"], Path(said["target"])
        steps = [Step(Path(source), Path(goal)) for source, goal in said["steps"]]
    except (KeyError, TypeError, ValueError):
        raise BadInput(f"{journal} is no journal of apl apply") from None
    left = []
    if "sha256" in said and target.exists():
        if hashlib.sha256(target.read_bytes()).hexdigest() == said["sha256"]:
            target.unlink()
        else:
            left.append(f"{target} was changed since")
    for step in reversed(steps):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            step.target.with_name(step.target.name + HALF).unlink()
        why = _take_back(how, step)
        left += [f"{step.target} {why}"] if why else []
    for folder in sorted({parent for step in steps for parent in _between(step, target)})[::-1]:
        with contextlib.suppress(OSError):  # what is not empty stays
            folder.rmdir()
    if not left:
        journal.unlink()
    return left


def _between(step: Step, target: Path) -> Iterator[Path]:
    """The folders that a step may have made."""
    folder = step.target.parent
    while target.parent in folder.parents:
        yield folder
        folder = folder.parent


def _take_back(how: str, step: Step) -> str:
    """Undo a step that was done; why not, '' where it is undone or was never done."""
    if not step.target.exists():
        return ""
    if how == "move":
        if step.source.exists():
            return f"stays: {step.source} is there again"
        step.source.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(step.target, step.source)
        return ""
    if not step.source.exists():
        return f"stays: {step.source} is gone, and this may be all that is left of it"
    same = step.source.samefile(step.target)
    if not same and not filecmp.cmp(step.source, step.target, shallow=False):
        return "was changed since"
    step.target.unlink()
    return ""


def told(plan: Plan, names: int = 10) -> list[str]:
    """A plan in words, a line each."""
    counts, what = plan.counts, "rows" if plan.content else "images"
    into = f"into {plan.target}"
    if plan.target == plan.source:
        into = f"inside {plan.source}, dropped ones into {plan.source.name}-dropped beside it"
    verb = "move" if plan.how == "move" else "copy" if plan.how == "copy" else "hard link"
    lines = [
        f"{plan.source}: {counts['fix']:,} labels corrected, {counts['drop']:,} {what} dropped, "
        f"{counts['keep']:,} confirmed, {counts['']:,} undecided, which stay as they are",
        f"a corrected copy {into}" if plan.content else f"{verb} {len(plan.steps):,} files {into}",
    ]
    lines += [f"  {before} -> {after}" for before, after in plan.fixed[:names]]
    if len(plan.fixed) > names:
        lines.append(f"  and {len(plan.fixed) - names:,} more")
    if plan.left and not plan.content and plan.target != plan.source:
        lines.append(f"{plan.left:,} files are not read, and have no part in it")
    return lines
