"""Several labels of one sample, by several annotators: in columns of their own, or a row a label.

A list has them wide, a column an annotator (`--label-column anna,ben,chi`), or long, a row for each
label with a column that says whose it is.  The samples get the label that most annotators give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from apl.data.labels import Unclear, as_text, label_text, no_labels, one_hot_text
from apl.data.listing import Listing, Votes
from apl.data.rows import Row

COLUMNS = (
    *("annotator", "annotator_id", "annotators", "annotated_by", "rater", "rater_id", "labeler"),
    *("labeller", "labeled_by", "worker", "worker_id", "workerid", "coder", "reviewer"),
)
"""What the column is called that says whose label a row has."""


def column_of(names: Sequence[str]) -> str:
    """The column that says whose label a row has, '' where none is called so."""
    folded = {name.strip().lower(): name for name in reversed(names)}
    return next((folded[name] for name in COLUMNS if name in folded), "")


def are_votes(rows: Sequence[Row], columns: Sequence[str]) -> bool:
    """Whether several label columns are annotators, and not one column a class, a single 1 in each
    row."""
    texts = [[as_text(row.get(name)) for name in columns] for row in rows]
    marked = [one_hot_text([text or 0 for text in row], columns) for row in texts]
    return 2 * sum(each is None for each in marked) > len(marked) or not any(marked)


def votes_of(row: Row, columns: Sequence[str]) -> Votes:
    """What each annotator says of a row.  Raises Unclear where one says several things."""
    found = []
    for name in columns:
        try:
            found.append(label_text(row.get(name)))
        except Unclear as error:
            raise Unclear(f"{error} in column {name!r}") from None
    return tuple(found)


def folded(
    rows: Sequence[tuple[int, Row | str]], key: str, label: str, annotator: str, called: str
) -> tuple[list[tuple[int, Row | str]], str] | None:
    """A row a sample, with a column an annotator, of rows that have one label each; and these
    columns, as `--label-column` names them.  None where no sample has labels of several annotators.

    key: the column that says which sample a row is about, then called `called`.  The other cells of
    a sample are those of its first row.  A row that contradicts what the same annotator said before
    is told as wrong.
    """
    wide: dict[str, tuple[int, Row | str]] = {}
    said: dict[tuple[str, str], str] = {}
    people: dict[str, None] = {}
    wrong: list[tuple[int, Row | str]] = []
    for number, row in rows:
        if isinstance(row, str):
            wrong.append((number, row))
            continue
        name, who = as_text(row.get(key)), as_text(row.get(annotator))
        people.setdefault(who)
        if name not in wide:
            cells = {c: cell for c, cell in row.items() if c not in (label, annotator, key)}
            wide[name] = number, {called: name, **cells}
        try:
            text = label_text(row.get(label))
        except Unclear as error:
            wrong.append((number, str(error)))
            continue
        before = said.setdefault((name, who), text)
        if before and text and before != text:
            wrong.append((number, f"{text!r}, where {who!r} said {before!r} of it before"))
        said[name, who] = before or text
    if len(said) == len(wide):  # of each sample one label: a list as any other
        return None
    columns = {who: _column(who, wide) for who in people}
    for (name, who), text in said.items():
        row = wide[name][1]
        assert isinstance(row, dict)
        row[columns[who]] = text
    quoted = (name.replace('"', '""') for name in columns.values())
    return [*wide.values(), *wrong], ",".join(f'"{name}"' for name in quoted)


def _column(who: str, wide: Mapping[str, tuple[int, Row | str]]) -> str:
    """What the column of an annotator is called: as no other column of the list is."""
    first: Any = next(iter(wide.values()))[1]
    name = " ".join(who.split()) or "(nobody)"
    while name in first:
        name = f"annotator {name}"
    return name


def settle_votes(found: Listing, names: Sequence[str], classes: Sequence[str]) -> None:
    """Have votes that are no labels be '', each sample its majority's label, and tell it.

    Of labels with as many votes that counts of which the annotators agree with others more often.
    classes: names that are labels in any case; where there are some, others are none.
    """
    every = {text for row in found.votes for text in row}
    none = no_labels(every, classes) | (every - {*classes} if classes else set())
    votes = [tuple("" if text in none else text for text in row) for row in found.votes]
    trust = _agreement(votes, len(names))
    found.samples = [
        sample._replace(given=_majority(row, trust))
        for sample, row in zip(found.samples, votes, strict=True)
    ]
    found.votes, found.annotators = votes, tuple(names)
    said = [{*row} - {""} for row in votes]
    count = sum(bool(text) for row in votes for text in row)
    found.notes.append(
        f"{len(names):,} annotators, {count:,} labels of {sum(map(bool, said)):,} samples; they "
        f"differ in {sum(len(labels) > 1 for labels in said):,}. The label that is taken is what "
        "most of them say"
    )


def join_votes(found: Listing, parts: Sequence[Listing]) -> None:
    """Give a listing the votes of its parts, one below the other; of all their annotators."""
    people = tuple(dict.fromkeys(name for part in parts for name in part.annotators))
    for part in parts if people else ():
        at = {name: k for k, name in enumerate(part.annotators)}
        rows = part.votes or [()] * len(part.samples)
        found.votes += [tuple(row[at[n]] if n in at else "" for n in people) for row in rows]
    found.annotators = people


def _agreement(rows: Sequence[Votes], people: int) -> list[float]:
    """How often each annotator agrees with another one on the same sample; ½ more and ½ less are
    counted, so that nobody is sure."""
    same, both = [0.5] * people, [1.0] * people
    for row in rows:
        counts = Counter(filter(None, row))
        there = counts.total()
        for a, text in enumerate(row):
            if text and there > 1:
                same[a] += counts[text] - 1
                both[a] += there - 1
    return [s / b for s, b in zip(same, both, strict=True)]


def _majority(row: Votes, trust: Sequence[float]) -> str:
    """The label with most votes, '' where there are none; the first of those that are alike."""
    counts = Counter(filter(None, row))
    if not counts:
        return ""
    weight = {
        label: (number, sum(t for text, t in zip(row, trust, strict=True) if text == label))
        for label, number in counts.items()
    }
    return max(weight, key=lambda label: weight[label])
