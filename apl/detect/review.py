"""What `apl find` leaves for people and other programs to review, and their decisions read back.

A folder of findings holds issues.csv (the columns of cleanlab's Datalab, and file_name; a row a
sample, the worst first; classes by name, as they were given), is_label_issue.npy (the flags [N] in
the order of the data), noise.json (rate, transition matrix, doubts; per class how many are wrong
and into what), gallery.html (to look at and decide), and where the samples are files
label_studio.json with label_studio.xml, and fiftyone.csv.

`id` is the number of a sample in the training data at hand, those of the test, where they were
judged too (the column `split`), numbered on from there; `file_name` what the user calls it.

The head loads neither torch nor pandas nor the report: training reads labels, and shows nothing.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from apl.data.decisions import DECISIONS, Decisions
from apl.detect.evidence import Findings
from apl.detect.health import Health
from apl.errors import cut
from apl.files import plain, table_bytes, write_atomic, write_json
from apl.noise.labels import UNKNOWN, IntArray

if TYPE_CHECKING:
    from apl.detect.audit import Audit
    from apl.detect.gallery import Looks

ISSUES, MASK, NOISE, GALLERY = "issues.csv", "is_label_issue.npy", "noise.json", "gallery.html"
LABEL_STUDIO, LABEL_STUDIO_CONFIG = "label_studio.json", "label_studio.xml"
FIFTYONE = "fiftyone.csv"

COLUMNS = ("id", "is_label_issue", "label_score", "given_label", "predicted_label", "file_name")
MAY_LACK = ("names", "splits")  # what there need not be of any sample
TEXT = 2000  # characters of a text in issues.csv, less than a cell of a spreadsheet holds
SHOWN = 400  # images in a gallery, if not said otherwise


# -------------------------------------------------------------------------------------- writing


# Many parameters, since what other programs found is written too: arrays and names, no types of
# ours but the findings.
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
    splits: Sequence[str] = (),
    judged: Sequence[str] = (),
    looks: Looks | None = None,
    audit: Audit | None = None,
    health: Health | None = None,
) -> None:
    """Write the findings on N samples into a folder that is there, each file whole or not at all.

    names: what the user calls each sample [N], () where nobody does; root: the folder that the
    names are relative to, '' where they are no files; pixels: their images, uint8 [N, H, W, C],
    of which only those shown are read, None for what has no images, and then no gallery, unless
    `looks` says more of what samples look like, which then stands for pixels too; curves:
    the probability of the given label at each epoch [N, E], nan where a sample was not seen;
    decisions: what was decided before on these N samples, which is not shown again; detection:
    what `detection_scores` says; title: of the gallery; shown: how many images it holds at most;
    splits: of which split each sample is [N], () where all are of one; judged: sentences on which
    labels were judged, and how; audit: what one says; health: what else is amiss with the samples,
    as more columns and as tabs of the gallery.
    Raises ValueError for what does not fit.
    """
    from apl.detect.gallery import Looks, make_gallery, page_name

    count = len(findings.given_label)
    looks = looks or Looks(pixels)
    pixels = looks.pixels
    decided = decisions.labels if decisions else None
    fitting = {"names": names, "pixels": pixels, "curves": curves, "decisions": decided}
    for name, rows in {**fitting, "splits": splits}.items():
        if rows is not None and len(rows) != count and (name not in MAY_LACK or len(rows)):
            raise ValueError(f"{name} must be of {count} samples, got {len(rows)}")
    if len(class_names) != len(findings.transition):
        raise ValueError(f"class_names must be {len(findings.transition)}, got {len(class_names)}")
    root, title = plain(root), plain(title)
    class_names = [plain(name) for name in class_names]
    names = [plain(name) for name in names] or [""] * count
    order = worst_first(findings)
    more_columns: dict[str, Sequence[Any]] = {"split": splits} if splits else {}
    if len(looks.texts):
        more_columns["text"] = [plain(cut(text, TEXT)) for text in looks.texts]
    if health is not None:
        more_columns |= {n: list(map(_cell, c)) for n, c in health.columns(names).items()}
    _write_issues(folder, findings, order, class_names, names, more_columns)
    buffer = io.BytesIO()
    np.save(buffer, findings.is_label_issue)
    write_atomic(folder / MASK, buffer.getvalue())
    _write_for_programs(folder, findings, order, class_names, names, root)
    noise = _noise(findings, class_names, decisions)
    counted = Counter(zip(splits, findings.is_label_issue.tolist(), strict=bool(splits)))
    parts = {
        name: {
            "samples": counted[name, True] + counted[name, False],
            "flagged": counted[name, True],
        }
        for name in dict.fromkeys(splits)
    }
    more = {"splits": parts, "judged": list(judged), "detection": dict(detection or {})}
    said = {} if audit is None else {"audit": audit.as_json()}
    if health is not None:
        said["health"] = {name: int(flags.sum()) for name, flags in health.issues.items()}
    write_json(folder / NOISE, {**noise, **more, **said})
    for old in folder.glob("gallery*.html"):  # of another search in this folder
        old.unlink()
    if not looks:
        return
    pages = make_gallery(
        title or Path(root).name or "your data",
        findings,
        order=order,
        class_names=class_names,
        names=names,
        root=root,
        looks=looks,
        curves=curves,
        before=_before(findings, decisions, class_names, names, looks) if decisions else [],
        shown=shown,
        health=health,
    )
    for place, html in reversed([*enumerate(pages)]):  # who sees the first one finds all others
        write_atomic(folder / page_name(place), plain(html).encode())


# Many parameters: those of `write_review` that decide what a sample looks like.
def write_audit(
    folder: Path,
    findings: Findings,
    drawn: Sequence[int],
    *,
    class_names: Sequence[str],
    names: Sequence[str],
    root: str,
    looks: Looks,
    decisions: Decisions | None,
    title: str,
) -> None:
    """Write the pages of an audit, where a person judges the labels that were drawn; the parameters
    are those of `write_review`."""
    from apl.detect.gallery import make_gallery, page_name

    class_names, names = [*map(plain, class_names)], [*map(plain, names)]
    names = names or [""] * len(findings.given_label)
    pages = make_gallery(
        plain(title),
        findings,
        order=worst_first(findings),
        class_names=class_names,
        names=names,
        root=plain(root),
        looks=looks,
        curves=None,
        before=_before(findings, decisions, class_names, names, looks) if decisions else [],
        shown=len(drawn),
        drawn=drawn,
    )
    for old in folder.glob("audit*.html"):
        old.unlink()
    for place, html in reversed([*enumerate(pages)]):
        write_atomic(folder / page_name(place, audit=True), plain(html).encode())


def worst_first(findings: Findings) -> IntArray:
    """All samples [N], those with the lowest scores first, those without one last."""
    return np.argsort(findings.label_score, kind="stable")  # nan is sorted to the end


def _write_issues(
    folder: Path,
    findings: Findings,
    order: IntArray,
    class_names: Sequence[str],
    names: Sequence[str],
    more: Mapping[str, Sequence[Any]],
) -> None:
    rows = (
        (
            i,
            flagged,
            _number(score),
            _class(given, class_names),
            _class(predicted, class_names),
            names[i],
            *(column[i] for column in more.values()),
        )
        for i, flagged, score, given, predicted in _rows_of(findings, order)
    )
    write_atomic(folder / ISSUES, table_bytes((*COLUMNS, *more), rows))


def _rows_of(findings: Findings, order: IntArray) -> Iterator[tuple[int, bool, float, int, int]]:
    """Of each sample: number, flag, score, given and predicted class, as Python's own."""
    parts = (
        findings.is_label_issue,
        findings.label_score,
        findings.given_label,
        findings.predicted_label,
    )
    yield from zip(order.tolist(), *(part[order].tolist() for part in parts), strict=True)


def _cell(cell: Any) -> Any:
    return plain(cell) if isinstance(cell, str) else cell


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
        (str(Path(root) / names[i]), _class(given, class_names), _class(predicted, class_names), s)
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
    findings: Findings,
    decisions: Decisions,
    class_names: Sequence[str],
    names: Sequence[str],
    looks: Looks,
) -> list[tuple[int | str | float, ...]]:
    """What was decided before, in the columns of the file that the gallery saves."""
    words, labels = decisions.words(findings.given_label), decisions.labels.tolist()
    decided = np.flatnonzero(decisions.decided)
    return [
        (
            i,
            names[i],
            words[i],
            "" if words[i] == "drop" else _class(labels[i], class_names),
            _class(given, class_names),
            _class(predicted, class_names),
            _number(score),
            *(plain(cut(text, 240)) for text in looks.texts[i : i + 1]),
        )
        for i, _, score, given, predicted in _rows_of(findings, decided)
    ]


def _noise(
    findings: Findings, class_names: Sequence[str], decisions: Decisions | None
) -> dict[str, Any]:
    """noise.json: what is wrong on the whole, and in each class into what it was labelled."""
    rate, given = findings.noise_rate, findings.given_label
    flagged = findings.is_label_issue
    sizes = np.bincount(given[given != UNKNOWN], minlength=len(class_names)).tolist()
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
