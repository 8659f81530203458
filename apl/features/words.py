"""Texts as counts of their characters and words (TF-IDF), reduced to few numbers: no download."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from apl.errors import BadInput
from apl.features.backbone import Backbone

NUMBERS = 256  # of a text
MOST = 60_000  # pieces of characters, and as many words, the most frequent ones
BATCH = 1024


def tfidf(texts: Sequence[str]) -> Backbone:
    """Features of texts in any script: pieces of 2 to 5 characters within words, and words, counted
    in the texts given, weighed by how rare they are, and reduced to 256 numbers by SVD.

    Nothing is computed before the first batch is asked for.
    """
    import sklearn

    fitted: list[Any] = []

    def of(batch: Sequence[str]) -> npt.NDArray[np.float32]:
        if not fitted:
            fitted.append(_fit(texts))
        rows: npt.NDArray[np.float32] = fitted[0].transform(batch).astype(np.float32)
        return rows

    digest = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    decided_by = {"fitted_to": digest.hexdigest(), "scikit-learn": sklearn.__version__}
    return Backbone("tfidf", of, decided_by, BATCH, parallel=False)


def _fit(texts: Sequence[str]) -> Any:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline, make_union

    rare = 2 if len(texts) > 1 else 1  # what one text alone has says nothing of another
    usual: dict[str, Any] = {"min_df": rare, "max_features": MOST, "sublinear_tf": True}
    usual["dtype"] = np.float32
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **usual)
    words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", ngram_range=(1, 2), **usual)
    parts = []
    for part in (characters, words):
        try:
            parts.append(part.fit(texts))
        except ValueError:  # nothing stands in two texts
            continue
    if not parts:
        raise BadInput("tfidf finds nothing that two of the texts share: take minilm or st:NAME")
    counts = make_union(*parts)
    matrix = counts.transform(texts)
    size = max(1, min(NUMBERS, *(each - 1 for each in matrix.shape)))
    svd = TruncatedSVD(size, random_state=0).fit(matrix)
    return make_pipeline(counts, svd)
