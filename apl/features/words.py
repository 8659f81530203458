"""Texts as counts of their characters and words (TF-IDF), reduced to few numbers: no download.

What was counted and how it is reduced is kept in the cache folder, and goes with a run: new texts
get their numbers by it, wherever the training texts are.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apl.errors import BadInput
from apl.features.backbone import Backbone
from apl.features.store import Store
from apl.files import load_tensors, save_tensors

NUMBERS = 256  # of a text, at most
LEAST, TEXTS_EACH = 16, 8  # of fewer texts no more than one for so many texts, but for the least
MOST = 60_000  # pieces of characters, and as many words, the most frequent ones
BATCH = 1024
KEPT = "fitted.safetensors"
_KINDS: dict[str, dict[str, Any]] = {
    "characters": {"analyzer": "char_wb", "ngram_range": (2, 5)},
    "words": {"token_pattern": r"(?u)\b\w+\b", "ngram_range": (1, 2)},
}
_USUAL: dict[str, Any] = {"sublinear_tf": True, "dtype": np.float32}


@dataclass(frozen=True)
class Counts:
    """What is counted in a text: the terms of each kind in the order of their numbers, how rare
    each is [V], and what reduces all of them to few numbers [F, V], float16."""

    terms: dict[str, list[str]]
    rarity: dict[str, npt.NDArray[np.float32]]
    axes: npt.NDArray[np.float16]
    fitted_to: str

    @functools.cached_property
    def _parts(self) -> list[Any]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        parts = []
        for kind, terms in self.terms.items():
            part = TfidfVectorizer(vocabulary=terms, **_KINDS[kind], **_USUAL)
            part.idf_ = self.rarity[kind]
            parts.append(part)
        return parts

    def rows(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The numbers [B, F] of texts."""
        from scipy import sparse

        counted = sparse.hstack([part.transform(texts) for part in self._parts], "csr")
        made: npt.NDArray[np.float32] = counted @ self.axes.T.astype(np.float32)
        return np.asarray(made, np.float32)

    def write(self, path: Path) -> None:
        """Write it to a file, atomically."""
        import torch

        arrays = {f"rarity.{kind}": array for kind, array in self.rarity.items()}
        tensors = {name: torch.from_numpy(a) for name, a in {**arrays, "axes": self.axes}.items()}
        save_tensors(path, tensors, {"terms": self.terms, "fitted_to": self.fitted_to})

    @classmethod
    def read(cls, path: Path) -> Counts:
        """What `write` wrote; FileNotFoundError, or BadInput where it is damaged."""
        tensors, state = load_tensors(path)
        rarity = {kind: tensors[f"rarity.{kind}"].numpy() for kind in state["terms"]}
        return cls(state["terms"], rarity, tensors["axes"].numpy(), state["fitted_to"])


def tfidf(texts: Sequence[str]) -> Backbone:
    """Features of texts in any script: pieces of 2 to 5 characters within words, and words, counted
    in the texts given, weighed by how rare they are, and reduced to 256 numbers by SVD, or fewer
    where there are few texts.

    Nothing is computed before the first batch is asked for.
    """
    import sklearn

    fitted: list[Counts] = []

    def of(batch: Sequence[str]) -> npt.NDArray[np.float32]:
        if not fitted:
            fitted.append(Counts.read(kept_counts(made, texts)))
        return fitted[0].rows(batch)

    decided_by: dict[str, Any] = {
        "fitted_to": _digest(tuple(texts)),
        "scikit-learn": sklearn.__version__,
        "axes": "float16",  # so that what goes with a run is what it was trained with
    }
    if _most_numbers(texts) < NUMBERS:  # else they are what they always were
        decided_by["components"] = _most_numbers(texts)
    made = Backbone("tfidf", of, decided_by, BATCH, parallel=False)
    return made


def kept_counts(backbone: Backbone, texts: Sequence[str]) -> Path:
    """The file in the cache folder with what `tfidf` counts, fitted to these texts where it is not
    there yet."""
    path = Store.of(backbone).folder / KEPT
    try:
        Counts.read(path)
    except (FileNotFoundError, BadInput):
        fit_counts(texts).write(path)
    return path


def counted(path: Path) -> Backbone:
    """`tfidf` as it was fitted before: by the file that went with a run."""
    counts = Counts.read(path)
    decided_by = {"fitted_to": counts.fitted_to}
    return Backbone("tfidf", counts.rows, decided_by, BATCH, parallel=False)


@functools.lru_cache(maxsize=2)  # each run of a study asks for it
def _digest(texts: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def _most_numbers(texts: Sequence[str]) -> int:
    """How many numbers these texts are reduced to, at most.

    The last of them are chance in few texts, and a head gives each as much weight as the first,
    since it standardises them: it then errs in so many that these pass for wrong labels.
    """
    return min(NUMBERS, max(LEAST, len(texts) // TEXTS_EACH))


def fit_counts(texts: Sequence[str]) -> Counts:
    """What `tfidf` counts, and how it is reduced, fitted to these texts."""
    from scipy import sparse
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    rare = 2 if len(texts) > 1 else 1  # what one text alone has says nothing of another
    terms: dict[str, list[str]] = {}
    rarity: dict[str, npt.NDArray[np.float32]] = {}
    matrices = []
    for kind, how in _KINDS.items():
        part = TfidfVectorizer(min_df=rare, max_features=MOST, **how, **_USUAL)
        try:
            matrices.append(part.fit_transform(texts))
        except ValueError:  # nothing stands in two texts
            continue
        terms[kind] = part.get_feature_names_out().tolist()
        rarity[kind] = part.idf_.astype(np.float32)
    if not matrices:
        raise BadInput("tfidf finds nothing that two of the texts share: take minilm or st:NAME")
    matrix = sparse.hstack(matrices, "csr")
    size = max(1, min(_most_numbers(texts), *(each - 1 for each in matrix.shape)))
    svd = TruncatedSVD(size, random_state=0).fit(matrix)
    return Counts(terms, rarity, svd.components_.astype(np.float16), _digest(tuple(texts)))
