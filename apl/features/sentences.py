"""Texts by any network of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from apl.errors import BadInput, one_line
from apl.features.backbone import Backbone
from apl.features.weights import weights_digest

BATCH = 64


def sentence_transformer(name: str, inner: str, device: torch.device) -> Backbone:
    """The features of a network of sentence-transformers, a name of its hub or a local folder."""
    try:
        from sentence_transformers import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            SentenceTransformer,
        )
    except ImportError:
        raise BadInput(
            f"{name} needs sentence-transformers: pip install 'apl-noisy-labels[sentences]'"
        ) from None
    try:
        network = SentenceTransformer(inner, device=str(device))
    except Exception as error:  # of what it downloads with, which raises nearly anything
        problem = f"{type(error).__name__}: {one_line(error)}"[:200]
        raise BadInput(f"no network for {name}: {problem}") from error

    def of(texts: Sequence[str]) -> Any:
        return network.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)

    decided_by = {"weights": weights_digest(network), "tokens": network.max_seq_length}
    return Backbone(name, of, decided_by, BATCH, parallel=False)
