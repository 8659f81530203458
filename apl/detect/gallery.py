"""Findings as one HTML file to look at and decide in, that needs nothing else: the labels most
likely wrong first, each with its image, the suggested class and what the network said of it.

The contents are put together here; how they look and what a key does is written in
`gallery.jinja`, which escapes every name that comes from a file.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from apl.data.images import whole_pictures
from apl.noise.labels import UNKNOWN

if TYPE_CHECKING:
    from apl.detect.evidence import Findings
    from apl.noise.labels import IntArray

TINY = 40  # pixels a side up to which an image is shown to the pixel, not smoothed
THUMBNAIL = 192  # pixels a side at most of one that is larger, and no file
PHOTO = 400  # of one that is a file, which is shown whole
PER_PAGE, MOST_BYTES = 500, 25_000_000  # cards on a page, and what their images may take
PAIRS = 100  # class pairs in the page's table; the rest are in issues.csv
MANY_CLASSES = 200  # beyond it the table of classes has those alone that most labels are flagged of


@dataclass(frozen=True)
class Card:
    """A sample to decide on; pair: its place among the class pairs; lines: pieces of its curve as
    points of an SVG of 100 by 30; told: the same curve in words; path: of its file, '' for none."""

    id: int
    name: str
    given: str
    suggested: str
    pair: str
    score: float
    image: str
    lines: Sequence[str] = ()
    told: str = ""
    path: str = ""


@dataclass(frozen=True)
class Pair:
    """Two classes, labelled the one and taken for the other: how many are flagged, and shown."""

    key: str
    given: str
    suggested: str
    flagged: int
    shown: int


@dataclass(frozen=True)
class Class:
    """A class as labels give it: how many, how many flagged, and what those are taken for."""

    name: str
    labels: int
    flagged: int
    into: str


# Many parameters, as those of `write_review`, which calls it.
def make_gallery(
    title: str,
    findings: Findings,
    *,
    order: IntArray,
    class_names: Sequence[str],
    names: Sequence[str],
    root: str,
    pixels: Any,
    curves: npt.NDArray[np.floating[Any]] | None,
    before: Sequence[Sequence[Any]],
    shown: int,
) -> list[str]:
    """The pages of the `shown` worst samples that are flagged; same findings, same bytes.

    order: all samples, the worst first; names [N]; root: the folder of the files that they name, ''
    where they name none; pixels: uint8 [N, H, W, C], shown where there is no such file; curves:
    [N, E] or None; before: decisions to carry on, which are not shown, as rows of the file that the
    page saves (id, file_name, decision, label, given_label, predicted_label, label_score).
    """
    decided = {row[0] for row in before}
    flagged = [i for i in order[findings.is_label_issue[order]].tolist() if i not in decided]
    given, suggested = findings.given_label.tolist(), findings.predicted_label.tolist()
    chosen = flagged[:shown]
    paths = [_path(root, names[i]) for i in chosen]
    photos = whole_pictures([path for path in paths if path], PHOTO)
    whole = [next(photos) if path else None for path in paths]
    cards = [
        Card(
            id=i,
            name=names[i],
            given=class_names[given[i]],
            suggested=class_names[suggested[i]],
            pair=f"{given[i]}-{suggested[i]}",
            score=float(findings.label_score[i]),
            image=_image(_of_pixels(np.asarray(pixels[i])) if photo is None else photo),
            lines=_lines(curves[i]) if curves is not None else (),
            told=_told(curves[i]) if curves is not None else "",
            path=path,
        )
        for i, path, photo in zip(chosen, paths, whole, strict=True)
    ]
    pages = _paged(cards)
    counts = Counter((given[i], suggested[i]) for i in flagged).most_common()
    source = resources.files("apl.detect").joinpath("gallery.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = _percent
    template = environment.from_string(source)
    sizes = [photo.size for photo in whole if photo is not None]
    if len(sizes) < len(cards):
        sizes.append(pixels.shape[1:3])
    return [
        template.render(
            title=title,
            samples=len(given),
            all_flagged=int(findings.is_label_issue.sum()),
            decided=sum(bool(findings.is_label_issue[row[0]]) for row in before),
            more=len(flagged) - len(cards),
            rate=findings.noise_rate,
            doubts=findings.doubts,
            cards=page,
            place=place,
            pages=[page_name(k) for k in range(len(pages))],
            pairs=[
                Pair(key, class_names[j], class_names[k], number, shown_here[key])
                for (j, k), number in counts[:PAIRS]
                for key in (f"{j}-{k}",)
            ],
            more_pairs=max(0, len(counts) - PAIRS),
            classes=_classes(findings, class_names),
            all_classes=len(class_names),
            class_names=list(class_names),
            before=[list(row) for row in before],
            tiny=max(map(max, sizes), default=TINY) <= TINY,
            photos=any(photo is not None and max(photo.size) > TINY for photo in whole),
            curves=any(card.lines for card in cards),
            key=_key(findings, class_names, names),
        )
        for place, page in enumerate(pages)
        for shown_here in (Counter(card.pair for card in page),)
    ]


def page_name(place: int) -> str:
    """The file of a page, the first one's 0."""
    return f"gallery-{place + 1}.html" if place else "gallery.html"


def _path(root: str, name: str) -> str:
    """The path of a sample's file; '' where it has none."""
    path = os.path.join(root, name) if root and name else ""
    return os.path.abspath(path) if path and os.path.isfile(path) else ""


def _paged(cards: Sequence[Card]) -> list[list[Card]]:
    """The cards of each page; one page at least."""
    pages: list[list[Card]] = [[]]
    size = 0
    for card in cards:
        size += len(card.image)
        if len(pages[-1]) == PER_PAGE or (size > MOST_BYTES and pages[-1]):
            pages.append([])
            size = len(card.image)
        pages[-1].append(card)
    return pages


def _classes(findings: Findings, class_names: Sequence[str]) -> list[Class]:
    """Every class that has labels, the most doubtful share first."""
    labelled = findings.given_label[findings.given_label != UNKNOWN]
    sizes = np.bincount(labelled, minlength=len(class_names)).tolist()
    chosen = findings.is_label_issue
    into: list[Counter[int]] = [Counter() for _ in class_names]
    pairs = zip(findings.given_label[chosen], findings.predicted_label[chosen], strict=True)
    for label, other in pairs:
        into[label][int(other)] += 1
    rows = [
        Class(
            name,
            size,
            wrong.total(),
            ", ".join(f"{class_names[k]} {number:,}" for k, number in wrong.most_common(3)),
        )
        for name, size, wrong in zip(class_names, sizes, into, strict=True)
        if size
    ]
    return sorted(rows, key=lambda row: -row.flagged / row.labels)[:MANY_CLASSES]


def _key(findings: Findings, class_names: Sequence[str], names: Sequence[str]) -> str:
    """What a browser keeps the decisions under: the same for the same samples and labels."""
    digest = hashlib.sha256(json.dumps([list(class_names), list(names)]).encode())
    digest.update(findings.given_label.astype("<i8").tobytes())
    return f"apl-review-{digest.hexdigest()[:24]}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


# --------------------------------------------------------------------------- images and curves


def _of_pixels(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if max(image.size) > TINY:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image


def _image(image: Image.Image) -> str:
    """An image as a data URI: exact where it is tiny, else a JPEG."""
    data = io.BytesIO()
    kind = "png" if max(image.size) <= TINY else "jpeg"
    if kind == "png":
        image.save(data, "png", optimize=True)
    else:
        image.save(data, "jpeg", quality=80, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


def _lines(curve: Iterable[float]) -> list[str]:
    """The pieces of a curve between its gaps, as points; a lone point is a piece to a dot."""
    values = [float(value) for value in curve]
    step = 100 / max(1, len(values) - 1)
    pieces: list[list[str]] = [[]]
    for epoch, value in enumerate(values):
        if math.isnan(value):
            pieces.append([])
        else:
            pieces[-1].append(f"{epoch * step:.4g},{29 - 28 * value:.4g}")
    return [" ".join(piece if len(piece) > 1 else piece * 2) for piece in pieces if piece]


def _told(curve: Iterable[float]) -> str:
    return ", ".join(
        "not seen" if math.isnan(value) else f"{value:.0%}"[:-1] + " %" for value in curve
    )
