"""What `apl find` leaves for people and other programs to review, and their decisions read back.

A folder of findings holds issues.csv (the columns of cleanlab's Datalab, and file_name; a row a
sample, the worst first; classes by name, as they were given), is_label_issue.npy (the flags [N] in
the order of the data), noise.json (rate, transition matrix, doubts; per class how many are wrong
and into what), gallery.html (to look at and decide), and where the samples are files
label_studio.json with label_studio.xml, and fiftyone.csv.

`id` is the number of a sample in the training data at hand, `file_name` what the user calls it.

The head loads neither torch nor pandas nor the report: training reads labels, and shows nothing.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from apl.data.listing import as_text
from apl.errors import BadInput, one_line
from apl.find import BoolArray, Findings
from apl.noise import UNKNOWN, IntArray
from apl.runs import write_atomic, write_json

ISSUES, MASK, NOISE, GALLERY = "issues.csv", "is_label_issue.npy", "noise.json", "gallery.html"
LABEL_STUDIO, LABEL_STUDIO_CONFIG = "label_studio.json", "label_studio.xml"
FIFTYONE = "fiftyone.csv"

COLUMNS = ("id", "is_label_issue", "label_score", "given_label", "predicted_label", "file_name")
DECISIONS = ("keep", "fix", "drop")
SHOWN = 400  # images in a gallery, if not said otherwise


@dataclass(frozen=True)
class Decisions:
    """What a file says of N samples.

    labels [N]: classes, as given where it says nothing; keep [N]: False for what is to be left
    out; decided [N]: where it says something.
    """

    labels: IntArray
    keep: BoolArray
    decided: BoolArray

    def words(self, given: IntArray) -> list[str]:
        """The decision on each sample [N] beside its given label, '' where there is none."""
        changed = np.where(self.labels == given, "keep", "fix")
        words: list[str] = np.where(self.decided, np.where(self.keep, changed, "drop"), "").tolist()
        return words


# -------------------------------------------------------------------------------------- writing


def write_review(
    folder: Path,
    findings: Findings,
    *,
    class_names: Sequence[str],
    names: Sequence[str] = (),
    root: str = "",
    pixels: Any,
    curves: npt.NDArray[np.floating[Any]] | None = None,
    decisions: Decisions | None = None,
    detection: Mapping[str, float] | None = None,
    title: str = "",
    shown: int = SHOWN,
) -> None:
    """Write the findings on N samples into a folder that is there, each file whole or not at all.

    names: what the user calls each sample [N], () where nobody does; root: the folder that the
    names are relative to, '' where they are no files; pixels: their images, uint8 [N, H, W, C],
    of which only those shown are read, None for what has no images, and then no gallery; curves:
    the probability of the given label at each epoch [N, E], nan where a sample was not seen;
    decisions: what was decided before on these N samples, which is not shown again; detection:
    what `apl.find.detection_scores` says; title: of the gallery; shown: how many images it holds
    at most.
    Raises ValueError for what does not fit.
    """
    count = len(findings.given_label)
    decided = decisions.labels if decisions else None
    fitting = {"names": names, "pixels": pixels, "curves": curves, "decisions": decided}
    for name, rows in fitting.items():
        if rows is not None and len(rows) != count and (name != "names" or len(rows)):
            raise ValueError(f"{name} must be of {count} samples, got {len(rows)}")
    if len(class_names) != len(findings.transition):
        raise ValueError(f"class_names must be {len(findings.transition)}, got {len(class_names)}")
    root, title = _plain(root), _plain(title)
    class_names = [_plain(name) for name in class_names]
    names = [_plain(name) for name in names] or [""] * count
    order = worst_first(findings)
    _write_issues(folder, findings, order, class_names, names)
    buffer = io.BytesIO()
    np.save(buffer, findings.is_label_issue)
    write_atomic(folder / MASK, buffer.getvalue())
    _write_for_programs(folder, findings, order, class_names, names, root)
    noise = _noise(findings, class_names, decisions)
    write_json(folder / NOISE, {**noise, "detection": dict(detection or {})})
    if pixels is None:
        (folder / GALLERY).unlink(missing_ok=True)  # of another search in this folder
        return
    from apl.report.gallery import make_gallery

    html = make_gallery(
        title or Path(root).name or "your data",
        findings,
        order=order,
        class_names=class_names,
        names=names,
        pixels=pixels,
        curves=curves,
        before=_before(findings, decisions, class_names, names) if decisions else [],
        shown=shown,
    )
    write_atomic(folder / GALLERY, _plain(html).encode())  # last: who sees it finds the others


def worst_first(findings: Findings) -> IntArray:
    """All samples [N], those with the lowest scores first, those without one last."""
    return np.argsort(findings.label_score, kind="stable")  # nan is sorted to the end


def _write_issues(
    folder: Path,
    findings: Findings,
    order: IntArray,
    class_names: Sequence[str],
    names: Sequence[str],
) -> None:
    rows = (
        (i, flagged, _number(score), class_names[given], _class(predicted, class_names), names[i])
        for i, flagged, score, given, predicted in _rows_of(findings, order)
    )
    write_atomic(folder / ISSUES, table_bytes(COLUMNS, rows))


def _rows_of(findings: Findings, order: IntArray) -> Iterator[tuple[int, bool, float, int, int]]:
    """Of each sample: number, flag, score, given and predicted class, as Python's own."""
    parts = (
        findings.is_label_issue,
        findings.label_score,
        findings.given_label,
        findings.predicted_label,
    )
    yield from zip(order.tolist(), *(part[order].tolist() for part in parts), strict=True)


def _number(score: float) -> float | str:
    return score if score == score else ""


def _class(label: int, class_names: Sequence[str]) -> str:
    return "" if label == UNKNOWN else class_names[label]


def _write_for_programs(
    folder: Path,
    findings: Findings,
    order: IntArray,
    class_names: Sequence[str],
    names: Sequence[str],
    root: str,
) -> None:
    """The files of programs that open images themselves, where there are such images."""
    if not (root and names[0] and (Path(root) / names[0]).is_file()):
        for name in (LABEL_STUDIO, LABEL_STUDIO_CONFIG, FIFTYONE):
            (folder / name).unlink(missing_ok=True)  # of another search in this folder
        return
    rows = (
        (str(Path(root) / names[i]), class_names[given], _class(predicted, class_names), s)
        for i, _, score, given, predicted in _rows_of(findings, order)
        for s in (_number(score),)
    )
    columns = ("filepath", "given", "suggested", "score")
    write_atomic(folder / FIFTYONE, table_bytes(columns, rows))
    # Its server takes LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT for the place that `d` begins at: the
    # folder above root, since root itself is what it asks to be added as a storage.
    top = Path(root).name
    tasks = [
        {
            "data": {
                "image": f"/data/local-files/?d={quote(f'{top}/{names[i]}')}",
                "file_name": names[i],
                "given_label": class_names[given],
                "label_score": score,
            },
            "predictions": [
                {
                    "model_version": "apl find",
                    "score": 1 - score,
                    "result": [
                        {
                            "id": f"suggested-{i}",
                            "type": "choices",
                            "from_name": "label",
                            "to_name": "image",
                            "value": {"choices": [class_names[predicted]]},
                        }
                    ],
                }
            ],
        }
        for i, flagged, score, given, predicted in _rows_of(findings, order)
        if flagged
    ]
    write_atomic(folder / LABEL_STUDIO, json.dumps(tasks, indent=1, ensure_ascii=False).encode())
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in class_names)
    config = (
        '<View>\n  <Image name="image" value="$image"/>\n'
        '  <Text name="given" value="$given_label"/>\n'
        '  <Choices name="label" toName="image" choice="single">\n'
        f"{choices}\n  </Choices>\n</View>\n"
    )
    write_atomic(folder / LABEL_STUDIO_CONFIG, config.encode())


def _before(
    findings: Findings, decisions: Decisions, class_names: Sequence[str], names: Sequence[str]
) -> list[tuple[int, str, str, str, str, str, float | str]]:
    """What was decided before, in the columns of the file that the gallery saves."""
    words, labels = decisions.words(findings.given_label), decisions.labels.tolist()
    decided = np.flatnonzero(decisions.decided)
    return [
        (
            *(i, names[i], words[i], "" if words[i] == "drop" else class_names[labels[i]]),
            *(class_names[given], _class(predicted, class_names), _number(score)),
        )
        for i, _, score, given, predicted in _rows_of(findings, decided)
    ]


def _noise(
    findings: Findings, class_names: Sequence[str], decisions: Decisions | None
) -> dict[str, Any]:
    """noise.json: what is wrong on the whole, and in each class into what it was labelled."""
    rate, given = findings.noise_rate, findings.given_label
    flagged = findings.is_label_issue
    sizes = np.bincount(given, minlength=len(class_names)).tolist()
    pairs = Counter(
        zip(given[flagged].tolist(), findings.predicted_label[flagged].tolist(), strict=True)
    )
    into: list[dict[str, int]] = [{} for _ in class_names]
    for (label, other), number in pairs.most_common():
        into[label][class_names[other]] = number
    words = Counter(decisions.words(given) if decisions else ())
    return {
        "samples": len(given),
        "flagged": int(flagged.sum()),
        "decided": {word: words[word] for word in DECISIONS},
        "noise_rate": {"estimate": rate.estimate, "low": rate.low, "high": rate.high},
        "doubts": findings.doubts,
        "class_names": list(class_names),
        "transition": findings.transition.tolist(),
        "classes": [
            {"name": name, "labels": size, "flagged": sum(wrong.values()), "into": wrong}
            for name, size, wrong in zip(class_names, sizes, into, strict=True)
        ],
    }


_QUOTED = re.compile(r'[",;\t\r\n]|^\s|\s$')  # what a cell can't be without quotes


def table_bytes(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A CSV in UTF-8 whose cells every reader takes as they were: a name with a comma, a line's
    end or a space before it is quoted, which Python's own writer leaves to chance."""
    lines = [",".join(map(_cell, row)) for row in (columns, *rows)]
    return ("\n".join(lines) + "\n").encode()


def _cell(value: Any) -> str:
    text = str(value)
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text


def _plain(name: str) -> str:
    """A name as UTF-8 holds it: that of a file or a folder may have bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()


# -------------------------------------------------------------------------------------- reading


def read_labels(
    file: Path,
    given: IntArray,
    class_names: Sequence[str],
    names: Sequence[str] = (),
) -> Decisions:
    """The labels of training samples that a file corrects, confirms or leaves out.

    given: their labels as they are [N]; names: what the user calls each, () where nobody does.
    The file is a CSV (comma, semicolon or tab) or Label Studio's export (JSON, JSON-MIN, CSV).
    It says which sample by `file_name`, or where that is empty by `id`, its number from 0; what
    of it by `decision` (keep, fix, drop), by `label` (a class's name, or else its number), or by
    both.  To fix without a label is to take `predicted_label`; an empty cell says nothing.  With
    neither column, as in an issues.csv edited by hand, every `given_label` that is another than
    the data's is a correction.

    Raises BadInput, in one line that names file and row, for a file that can't be read, columns
    that lack, an unknown sample, class or decision, and rows that contradict each other.
    """
    rows = _read_json(file) if file.suffix.lower() == ".json" else _read_csv(file)
    if not rows:
        raise BadInput(f"{file} has no rows; accepted: {_ACCEPTED}")
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    edited = not {"label", "decision"} & set(columns)
    label_column = "given_label" if edited else "label"
    for told, wanted in (
        ("file_name or id", {"file_name", "id"}),
        ("label or decision", {label_column, "decision"}),
    ):
        if not wanted & set(columns):
            raise BadInput(
                f"{file} has no column {told}; its columns: {', '.join(map(repr, columns))}"
            )
    count = len(given)
    classes = {_plain(name): i for i, name in enumerate(class_names)}
    numbers: dict[str, list[int]] = {}
    for i, name in enumerate(names or map(str, range(count))):
        numbers.setdefault(_plain(name), []).append(i)
    labels, keep = given.astype(np.int64), np.ones(count, dtype=bool)
    said_by = np.zeros(count, dtype=np.int64)  # the row, 0 where none says anything
    compared = other = 0
    for number, row in rows:
        where = f"{file}, row {number}"
        word, text = row.get("decision", "").strip().lower(), row.get(label_column, "")
        if word not in ("", *DECISIONS):
            raise BadInput(
                f"{where}: decision is {row['decision']!r}; accepted: {', '.join(DECISIONS)}"
            )
        if word == "fix" and not text:
            text = row.get("predicted_label", "")
            if not text:
                raise BadInput(f"{where}: to fix it takes a label, or a predicted_label")
        if not word and not text:
            continue
        samples = _samples_of(where, row, numbers, count)
        if row.get("given_label") and (edited or not row.get("file_name")):
            compared += 1
            other += _class_of(where, row["given_label"], classes) != given[samples[0]]
        for i in samples:
            kept = word != "drop"
            label = _class_of(where, text, classes) if text and kept else int(given[i])
            if edited and label == given[i]:
                continue
            if said_by[i] and (kept, label) != (keep[i], labels[i]):
                name = row.get("file_name") or row["id"]
                raise BadInput(f"{where}: {name!r} contradicts what row {said_by[i]} says of it")
            keep[i], labels[i], said_by[i] = kept, label, number
    # A number fits any data, and an issues.csv of other noise would correct everything.
    if 2 * other > max(compared, 10):
        raise BadInput(
            f"{file} is of other samples: of {compared} given labels in it {other} are not those "
            "of the data; accepted: what was found in the same data, train_size and noise"
        )
    return Decisions(labels, keep, said_by > 0)


_ACCEPTED = "a column file_name or id, and a column label or decision"


def _samples_of(
    where: str, row: dict[str, str], numbers: dict[str, list[int]], count: int
) -> list[int]:
    """The samples that a row is about, by the numbers of each name."""
    name, text = row.get("file_name", ""), as_text(row.get("id", ""))
    i = int(text) if text.isdecimal() else UNKNOWN
    if name:
        if name not in numbers:
            raise BadInput(f"{where}: there is no sample called {name!r} in the training data")
        # An image that is listed twice: one of them where its number is given, else both.  Numbers
        # change with what is left out, and Label Studio has its own: the name is what counts.
        return [i] if i in numbers[name] else numbers[name]
    if not text:
        raise BadInput(f"{where} names no sample")
    if not 0 <= i < count:
        raise BadInput(f"{where}: id is {text!r}; accepted: 0 to {count - 1}")
    return [i]


def _class_of(where: str, text: str, classes: dict[str, int]) -> int:
    """The class of that name, or else of that number; '3' may be the name of another class."""
    number = as_text(text)
    for name in (text, number):
        if name in classes:
            return classes[name]
    if number.isdecimal() and int(number) < len(classes):
        return int(number)
    accepted = ", ".join(repr(name) if "," in name else name for name in [*classes][:10])
    more = ", ..." if len(classes) > 10 else ""
    raise BadInput(f"{where}: there is no class {text!r}; accepted: {accepted}{more}")


Rows = list[tuple[int, dict[str, str]]]  # where a row stands in its file, and its cells by column


def _text(file: Path) -> str:
    try:
        text = file.read_bytes().decode("utf-8-sig")  # Excel begins its files with a mark
    except OSError as error:
        raise BadInput(f"{file} can't be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8 ({one_line(error)})") from None
    if not text.strip():
        raise BadInput(f"{file} is empty; accepted: {_ACCEPTED}")
    return text


def _read_csv(file: Path) -> Rows:
    text = _text(file)
    comma = max(",;\t", key=text.split("\n", 1)[0].count)  # the first of them where none is there
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=comma)
    rows = []
    try:
        columns = [name.strip() for name in next(lines)]
        for number, cells in enumerate(lines, 2):
            if not any(cells):
                continue
            if len(cells) != len(columns):
                raise BadInput(
                    f"{file}, row {number} has {len(cells)} cells under {len(columns)} columns"
                )
            rows.append((number, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise BadInput(f"{file} is no CSV: {one_line(error)}") from None
    return rows


def _read_json(file: Path) -> Rows:
    """Label Studio's export: tasks with `data` and `annotations`, or flat ones (JSON-MIN)."""
    rows = []
    try:
        for number, task in enumerate(json.loads(_text(file)), 1):
            row = {**task, **task.get("data", {})}
            if "annotations" in task:
                chosen = [
                    choice
                    for annotation in task["annotations"]
                    if not annotation.get("was_cancelled")
                    for result in annotation["result"]
                    for choice in result["value"].get("choices", ())
                ]
                row["label"] = chosen[-1] if chosen else ""
            # Its ids are those of its tasks, not of our samples.
            cells = {
                key: str(value)
                for key, value in row.items()
                if key != "id" and isinstance(value, str | int | float)
            }
            rows.append((number, cells))
    except BadInput:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        told = f"{type(error).__name__}: {one_line(error)}"
        raise BadInput(f"{file} is no JSON that Label Studio exports ({told})") from None
    return rows
