"""Findings as one HTML file to look at and decide in, that needs nothing else: the labels most
likely wrong first, each with its image or text, the suggested class, what the network said of it
and the samples that are most like it.

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import numpy.typing as npt
from PIL import Image

from apl.data.images import whole_pictures
from apl.detect.tabs import Tab, tabs_of
from apl.errors import cut
from apl.noise.labels import UNKNOWN

if TYPE_CHECKING:
    from apl.detect.evidence import Findings
    from apl.detect.health import Health
    from apl.noise.labels import IntArray

TINY = 40  # pixels a side up to which an image is shown to the pixel, not smoothed
THUMBNAIL = 192  # pixels a side at most of one that is larger, and no file
PHOTO = 400  # of one that is a file, which is shown whole
PER_PAGE, MOST_BYTES = 500, 25_000_000  # cards on a page, and what their images may take
NEIGHBOUR = 112  # pixels of the image of a sample that is like it
FOLD, SAID = 400, 240  # characters of a text before it is folded; of a neighbour's, and in a list
PAIRS = 100  # class pairs in the page's table; the rest are in issues.csv
MANY_CLASSES = 200  # beyond it the table of classes has those alone that most labels are flagged of


@dataclass(frozen=True)
class Looks:
    """What samples look like to a person.

    pixels: uint8 [N, H, W, C], None where there are none; texts [N], () where there are none;
    cells: of the samples with these numbers, with the names of their columns; nearest: those most
    like each of some [M, k]; None where that is not known.
    """

    pixels: Any = None
    texts: Sequence[str] = ()
    cells: Callable[[Sequence[int]], Mapping[int, Sequence[tuple[str, str]]]] | None = None
    nearest: Callable[[IntArray], IntArray] | None = None

    def __bool__(self) -> bool:
        return self.pixels is not None or bool(self.texts) or self.cells is not None


@dataclass(frozen=True)
class Near:
    """A sample that is like another one, with the label that it has."""

    name: str
    label: str
    image: str
    text: str


@dataclass(frozen=True)
class Card:
    """A sample to decide on; pair: its place among the class pairs; lines: pieces of its curve as
    points of an SVG of 100 by 30; told: the same curve in words; path: of its file, '' for none;
    text, cells: what it is where it has no image, whose URI is '' then."""

    id: int
    name: str
    given: str
    suggested: str
    pair: str
    score: float | None
    image: str
    lines: Sequence[str] = ()
    told: str = ""
    path: str = ""
    text: str = ""
    cells: Sequence[tuple[str, str]] = ()
    near: Sequence[Near] = ()

    @property
    def size(self) -> int:
        """About how many bytes of a page it takes."""
        words = [self.text, *(text for pair in self.cells for text in pair)]
        near = sum(len(each.image) + 3 * len(each.text) for each in self.near)
        return len(self.image) + 3 * sum(map(len, words)) + near


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


@dataclass(frozen=True)
class Page:
    """A page: its cards, the first `labels` of which are flagged labels; and by check the groups of
    samples that its tab shows here."""

    cards: Sequence[Card]
    labels: int
    groups: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)


# Many parameters, as those of `write_review`, which calls it.
def make_gallery(
    title: str,
    findings: Findings,
    *,
    order: IntArray,
    class_names: Sequence[str],
    names: Sequence[str],
    root: str,
    looks: Looks,
    curves: npt.NDArray[np.floating[Any]] | None,
    before: Sequence[Sequence[Any]],
    shown: int,
    drawn: Sequence[int] | None = None,
    health: Health | None = None,
) -> list[str]:
    """The pages of the `shown` worst samples that are flagged; same findings, same bytes.

    order: all samples, the worst first; names [N]; root: the folder of the files that they name, ''
    where they name none; looks: its pixels are shown where there is no such file; curves: [N, E] or
    None; before: decisions to carry on, which are not shown, as rows of the file that the page
    saves (`decision_columns`); drawn: of an audit, whose pages have these samples in their order,
    and nothing of what was found; health: what else is amiss, in tabs of their own.
    """
    decided = {row[0]: row[2] for row in before}
    flagged = [i for i in order[findings.is_label_issue[order]].tolist() if i not in decided]
    audit = drawn is not None
    if drawn is not None:
        flagged = [i for i in drawn if i not in decided]
        looks = replace(looks, nearest=None)  # it would show labels of other samples
        curves = None
    tabs = tabs_of(health, findings, decided) if health is not None and not audit else []
    chosen = flagged[: len(flagged) if audit else shown]
    every = list(dict.fromkeys([*chosen, *(i for tab in tabs for i in tab.samples)]))
    deck = _Deck(findings, class_names, names, root, looks, curves, audit)
    cards, sizes = deck.cards(every)
    pages = _pages([cards[i] for i in chosen], tabs, cards)
    given, suggested = findings.given_label.tolist(), findings.predicted_label.tolist()
    pairs = () if audit else ((given[i], suggested[i]) for i in flagged)
    counts = Counter(pairs).most_common()
    template = _template()
    photos = any(max(size) > TINY for size in sizes)
    if len(sizes) < len(cards) and looks.pixels is not None:
        sizes.append(looks.pixels.shape[1:3])
    return [
        template.render(
            title=title,
            samples=len(given),
            all_flagged=int(findings.is_label_issue.sum()),
            decided=sum(bool(findings.is_label_issue[i]) for i in decided),
            shown=len(chosen),
            more=len(flagged) - len(chosen),
            rate=findings.noise_rate,
            doubts=[] if audit else findings.doubts,
            audit=audit,
            cards=page.cards,
            labels=page.labels,
            place=place,
            pages=[page_name(k, audit) for k in range(len(pages))],
            label_pages=max(1, sum(bool(each.labels) for each in pages)),
            tabs=[(tab, _first_with(tab, pages)) for tab in tabs],
            groups=page.groups,
            pairs=[
                Pair(key, class_names[j], class_names[k], number, shown_here[key])
                for (j, k), number in counts[:PAIRS]
                for key in (f"{j}-{k}",)
            ],
            more_pairs=max(0, len(counts) - PAIRS),
            classes=[] if audit else _classes(findings, class_names),
            all_classes=len(class_names),
            class_names=list(class_names),
            before=[list(row) for row in before],
            columns=decision_columns(looks),
            fold=FOLD,
            said=SAID,
            tiny=bool(sizes) and max(map(max, sizes)) <= TINY,
            near=any(card.near for card in cards.values()),
            photos=photos,
            curves=any(card.lines for card in cards.values()),
            key=_key(findings, class_names, names),
        )
        for place, page in enumerate(pages)
        for shown_here in (Counter(card.pair for card in page.cards),)
    ]


@dataclass(frozen=True)
class _Deck:
    """What cards are made from; the fields are as `make_gallery` takes them."""

    findings: Findings
    class_names: Sequence[str]
    names: Sequence[str]
    root: str
    looks: Looks
    curves: npt.NDArray[np.floating[Any]] | None
    audit: bool

    def cards(self, chosen: Sequence[int]) -> tuple[dict[int, Card], list[tuple[int, int]]]:
        """The cards of some samples, by number, and the sizes of the photos of those that are
        files, one of which is in memory at a time."""
        found, looks, curves = self.findings, self.looks, self.curves
        paths = [_path(self.root, self.names[i]) for i in chosen]
        photos = whole_pictures([path for path in paths if path], PHOTO)
        sizes = []
        cells = looks.cells(chosen) if looks.cells is not None else {}
        near = _near(chosen, looks, found, self.class_names, self.names, self.root)
        cards = {}
        for i, path in zip(chosen, paths, strict=True):
            photo = next(photos) if path else None
            if photo is not None:
                sizes.append(photo.size)
            given, suggested = int(found.given_label[i]), int(found.predicted_label[i])
            # A label that is not doubted has no suggestion beside it.
            doubted = bool(found.is_label_issue[i]) and not self.audit
            score = float(found.label_score[i])
            cards[i] = Card(
                id=i,
                name=self.names[i],
                given="" if given == UNKNOWN else self.class_names[given],
                suggested=self.class_names[suggested] if doubted else "",
                pair=f"{given}-{suggested}" if doubted else "",
                score=None if self.audit or math.isnan(score) else score,
                image=_shown(i, photo, looks.pixels),
                lines=_lines(curves[i]) if curves is not None else (),
                told=_told(curves[i]) if curves is not None else "",
                path=path,
                text=looks.texts[i] if looks.texts else "",
                cells=cells.get(i, ()),
                near=near.get(i, ()),
            )
        return cards, sizes


def _template() -> jinja2.Template:
    source = resources.files("apl.detect").joinpath("gallery.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = _percent
    return environment.from_string(source)


def decision_columns(looks: Looks) -> list[str]:
    """The columns of the file of decisions that a page saves."""
    usual = ("id", "file_name", "decision", "label", "given_label", "predicted_label")
    return [*usual, "label_score", *(["text"] if looks.texts else [])]


def _near(
    chosen: Sequence[int],
    looks: Looks,
    findings: Findings,
    class_names: Sequence[str],
    names: Sequence[str],
    root: str,
) -> dict[int, list[Near]]:
    """The samples most like each of those at `chosen`, with their given labels."""
    if looks.nearest is None or not chosen:
        return {}
    alike = looks.nearest(np.array(chosen)).tolist()
    others = sorted({j for row in alike for j in row})
    paths = {j: _path(root, names[j]) for j in others}
    photos = whole_pictures([path for path in paths.values() if path], NEIGHBOUR)
    cells = looks.cells(others) if looks.cells is not None and not looks.texts else {}
    given = findings.given_label.tolist()
    shown = {
        j: Near(
            name=names[j] or f"# {j}",
            label="" if given[j] == UNKNOWN else class_names[given[j]],
            image=_shown(j, next(photos) if path else None, looks.pixels, NEIGHBOUR),
            text=cut(looks.texts[j], SAID)
            if looks.texts
            else cut(", ".join(f"{name} {cell}" for name, cell in cells.get(j, ())), SAID),
        )
        for j, path in paths.items()
    }
    return {i: [shown[j] for j in row] for i, row in zip(chosen, alike, strict=True)}


def _shown(i: int, photo: Image.Image | None, pixels: Any, side: int = THUMBNAIL) -> str:
    """The URI of a sample's image: its file's, else that of its pixels; '' where it has neither."""
    if photo is not None:
        return _image(photo)
    return "" if pixels is None else _image(_of_pixels(np.asarray(pixels[i]), side))


def page_name(place: int, audit: bool = False) -> str:
    """The file of a page, the first one's 0."""
    name = "audit" if audit else "gallery"
    return f"{name}-{place + 1}.html" if place else f"{name}.html"


def _path(root: str, name: str) -> str:
    """The path of a sample's file; '' where it has none."""
    path = os.path.join(root, name) if root and name else ""
    return os.path.abspath(path) if path and os.path.isfile(path) else ""


def _pages(labels: Sequence[Card], tabs: Sequence[Tab], cards: Mapping[int, Card]) -> list[Page]:
    """The pages of flagged labels and of tabs: one where all fits there, else those of the labels
    and then those of the tabs, each group of them whole; one page at least."""
    pages = [Page(page, len(page)) for page in _paged([card] for card in labels)]
    if not tabs:
        return pages
    whole = list({card.id: card for card in [*labels, *cards.values()]}.values())
    if len(_paged([card] for card in whole)) == 1:
        return [Page(whole, len(labels), {tab.key: tab.groups for tab in tabs})]
    shown = [(tab.key, group) for tab in tabs for group in tab.groups]
    begun = 0
    for page in _paged([cards[i] for i in group] for _, group in shown):
        groups: dict[str, list[Sequence[int]]] = {}
        taken = 0
        while taken < len(page):
            key, group = shown[begun]
            groups.setdefault(key, []).append(group)
            taken, begun = taken + len(group), begun + 1
        unique = {card.id: card for card in page}
        pages.append(Page(list(unique.values()), 0, groups))
    return pages if labels else pages[1:]


def _first_with(tab: Tab, pages: Sequence[Page]) -> int:
    return next(place for place, page in enumerate(pages) if tab.key in page.groups)


def _paged(groups: Iterable[Sequence[Card]]) -> list[list[Card]]:
    """The cards of each page, each group on one; one page at least."""
    pages: list[list[Card]] = [[]]
    size = 0
    for group in groups:
        more = sum(card.size for card in group)
        size += more
        full = len(pages[-1]) + len(group) > PER_PAGE or size > MOST_BYTES
        if full and pages[-1]:
            pages.append([])
            size = more
        pages[-1] += group
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


def _of_pixels(pixels: npt.NDArray[np.uint8], side: int) -> Image.Image:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if max(image.size) > TINY:
        image.thumbnail((side, side))
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
