"""A backbone by its name."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from apl.features.backbone import Backbone
from apl.features.catalog import sized


def make_backbone(
    name: str,
    *,
    weights: str = "",
    device: torch.device | None = None,
    imports: Sequence[str] = (),
    texts: Sequence[str] = (),
) -> Backbone:
    """The backbone of a name that `apl.features.catalog.require_features` takes, but for files of
    vectors, which need none.

    weights: '' or 'default' for the published ones, or a local file.  device: where a network
    runs, the CPU where none is given.  imports: the `module:function`s that the user typed.
    texts: those that `tfidf` is fitted to.
    Raises BadInput where a package, a network or weights are missing, or do not fit.
    """
    device = device or torch.device("cpu")
    file = "" if weights == "default" else weights
    plain, size = sized(name)
    source, _, inner = plain.partition(":")
    if plain == "lite0":
        from apl.features.lite import lite0

        return lite0(name, size, file, device)
    if source in ("torchvision", "timm"):
        from apl.features.libraries import library_backbone

        return library_backbone(name, source, inner, size, file, device)
    if plain == "tfidf":
        from apl.features.words import tfidf

        return tfidf(texts)
    if plain == "minilm":
        from apl.features.minilm import minilm

        return minilm(device)
    if source == "st":
        from apl.features.sentences import sentence_transformer

        return sentence_transformer(name, inner, device)
    from apl.features.own import own_function

    return own_function(name, imports)
