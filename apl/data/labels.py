"""Labels as people write them: which are none, which are several, and what is a class.

One rule for lists, tables, arrays, frames, torch data sets and decisions.
"""

from __future__ import annotations

import ast
import itertools
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from apl.errors import BadInput

NO_LABEL = "no label"

WORDS = frozenset(
    "nan NaN NAN -nan NA N/A n/a #N/A #NA NULL Null null None <NA> NaT "
    "#REF! #DIV/0! #VALUE! #NAME? #NUM! #NULL!".split()
)
"""What programs write where there is no value, in their spelling: `none` and `na` are classes.
Of a spreadsheet, too, what a formula leaves that has none."""

UNSEEN = "\0\u200b\u200e\u200f\u2060\ufeff"
"""Characters that nobody sees at the ends of a word."""

NUMBERS = ("-1", "-100")
"""What stands for no label among labels that are numbers: scikit-learn's and torch's."""


class Unclear(ValueError):
    """A label that is not one class, and why."""


# -------------------------------------------------------------------------------------- one label


def as_text(value: object) -> str:
    """A cell as text: '' for what is missing, a whole number without a fraction of zeros."""
    if value is None or _is_none(value):
        return ""
    text = tidy(_decoded(value) if isinstance(value, bytes) else str(value))
    whole = "." in text and re.fullmatch(r"[+-]?\d+\.0*", text)
    return text.split(".")[0] if whole else text


def tidy(text: str) -> str:
    """A text without what nobody sees: blanks and marks at its ends, and whether an accent is a
    character of its own (as in the names of files on macOS) or one with its letter."""
    text = text.strip().strip(UNSEEN).strip()
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _is_none(value: Any) -> bool:
    """Whether it is a nan, pandas' NaT, or its NA, which is neither equal to itself nor not."""
    try:
        return bool(value != value)
    except TypeError:
        return True
    except ValueError:  # an array of several values
        return False


def _decoded(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def label_text(value: Any) -> str:
    """A label as text, '' where there is none; a list of one, or the text of such a list, as what
    it holds.  Raises Unclear for several."""
    if getattr(value, "ndim", 0):
        value = value.tolist()
    fields = getattr(getattr(value, "dtype", None), "names", None)
    if fields:  # a record
        if len(fields) > 1:
            raise Unclear(f"several fields ({', '.join(fields)[:100]})")
        value = value[fields[0]]
    if isinstance(value, complex | np.complexfloating):
        if value.imag:
            raise Unclear("a label that is a complex number")
        value = value.real
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "(", "{"):
        value = _literal(value)
    if isinstance(value, Mapping):
        if list(value) != ["choices"]:  # as Label Studio writes them
            raise Unclear("a label that is an object")
        value = value["choices"]
    if isinstance(value, list | tuple | set | frozenset):
        several = sorted({label_text(each) for each in value} - {""})
        if len(several) > 1:
            raise Unclear(f"several labels ({', '.join(several)[:100]})")
        return several[0] if several else ""
    return re.sub(r"\s*[\r\n\v\f\x85\u2028\u2029]+\s*", " ", as_text(value))  # a class is one line


def _literal(text: str) -> Any:
    """What a text such as "['cat']" means; the text itself where it is none."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, list | tuple | set | dict) else text


# ------------------------------------------------------------------------------------ all of them


def require_one_order(
    rows: Any, labels: Any, what: str = "the rows", of: str = "the labels have"
) -> None:
    """Raise BadInput where rows and labels have indices of pandas that do not say the same of which
    belongs to which, since everything here goes by the order.

    An index that counts from 0 says nothing beside one of other values.
    """
    one: Any = getattr(rows, "index", None)
    other: Any = getattr(labels, "index", None)
    if not (hasattr(one, "equals") and hasattr(other, "equals")) or one.equals(other):
        return
    if len(one) != len(other):  # which is refused where both are counted
        return
    ours, theirs = [*one], [*other]
    same = {*ours} == {*theirs}
    if not same and [*range(len(one))] in (ours, theirs):
        return
    place = next(
        (i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len({*pair}) > 1), 0
    )
    differs = "in another order" if same else "another"
    raise BadInput(
        f"{of} an index that is not that of {what}, but {differs} (first {theirs[place]!r} where "
        f"those have {ours[place]!r}); accepted: one index for both, as labels.loc[rows.index], or "
        ".to_numpy() where the order is right"
    )


def no_labels(texts: Iterable[str], classes: Collection[str] = ()) -> set[str]:
    """Which of these texts are no labels: '', and what programs write for a missing value; among
    numbers -1 too, unless the only other one is 1, and -100.

    classes: names that are labels in any case.
    """
    found = {*texts}
    none = found & {"", *WORDS}
    others = {text for text in found - none if text not in NUMBERS}
    values = {to_number(text) for text in others}
    if None not in values:
        none |= found & {"-100"}
        if values != {1.0}:  # -1 and 1 are two classes
            none |= found & {"-1"}
    return none - {*classes}


def on_cpu(values: Any, name: str) -> Any:
    """A tensor of any device, kind and layout as an array; all else as it is.  Raises BadInput for
    one without content; `name` is whose it is."""
    if not hasattr(values, "detach"):
        return values
    if getattr(values, "is_meta", False):
        raise BadInput(f"a tensor of {name} is on the device meta, where it has no content")
    values = values.detach().cpu()
    if not str(values.layout).endswith("strided"):
        values = values.to_dense()
    if str(values.dtype).endswith("bfloat16"):  # which numpy has not
        values = values.float()
    return values.numpy()


def texts_of(labels: Any, name: str) -> list[str]:
    """Labels of N samples as texts, '' where one has none: [N] or [N, 1] of numbers or words, or
    [N, K] one-hot, whose classes are its columns by name or number.

    Raises BadInput for several labels of one sample; `name` is whose labels they are.
    """
    labels = on_cpu(labels, name)
    names = [str(column) for column in getattr(labels, "columns", ())]
    array = _array([*labels] if isinstance(labels, Iterator) else labels)
    if array.ndim == 2 and array.shape[1] > 1:
        return _one_hot(array, names, name)
    try:
        return [label_text(label) for label in array.reshape(-1)]
    except Unclear as error:
        raise BadInput(
            f"the labels of {name} have {error}; accepted: one for each sample"
        ) from None


def _array(labels: Any) -> npt.NDArray[Any]:
    if isinstance(labels, np.ma.MaskedArray):
        array = np.array(labels.data, object)
        array[np.ma.getmaskarray(labels)] = None
        return array
    if not isinstance(labels, list | tuple):
        return np.asarray(labels)
    if any(isinstance(label, str | bytes | type(None)) for label in labels):
        array = np.empty(len(labels), object)  # NumPy would make text of a missing value
        array[:] = labels
        return array
    try:
        return np.asarray(labels)
    except ValueError:  # lists of several lengths
        array = np.empty(len(labels), object)
        for i, label in enumerate(labels):
            array[i] = label
        return array


def _one_hot(array: npt.NDArray[Any], names: Sequence[str], name: str) -> list[str]:
    texts = [one_hot_text(row, names) for row in array]
    if None in texts:
        raise BadInput(
            f"the labels of {name} are {list(array.shape)}; accepted: [N], one for each sample, or "
            "[N, K] with a single 1 in each row"
        )
    return [text or "" for text in texts]


def one_hot_text(row: Iterable[Any], names: Sequence[str] = ()) -> str | None:
    """The class of a one-hot row, by its name or number; '' where no class is marked, None where
    it is no such row."""
    try:
        values = [float(value) for value in row]
    except (TypeError, ValueError):
        return None
    if not {*values} <= {0.0, 1.0} or values.count(1.0) > 1:
        return None
    if 1.0 not in values:
        return ""
    place = values.index(1.0)
    return names[place] if names else str(place)


def to_number(text: str) -> float | None:
    """A finite number that a text is, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None  # 1_0 is Python's alone


def by_value(label: str) -> tuple[bool, float, str]:
    """What classes are in order of: numbers by their value, then words by their letters."""
    value = to_number(label)
    return value is None, value or 0.0, label


def combined(labels: Collection[str]) -> list[str]:
    """Labels that look like several in one cell, as `a|b` beside `a` and `b`."""
    there = {*labels}
    found = set()
    for label, mark in itertools.product(there, "|;,/"):
        parts = [part.strip() for part in label.split(mark)]
        if len(parts) > 1 and all(part in there for part in parts):
            found.add(label)
    return sorted(found)
