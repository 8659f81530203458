"""Weights from a local file, safely: no pickle, nothing huge, nothing of another network."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apl.errors import BadInput, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

LARGEST = 4  # times the network's own size: float64 and the state of an optimiser fit
SPARE = 2**24  # bytes beside them
_NESTED = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "net")


def load_weights(network: nn.Module, path: Path, name: str, head: Iterable[str] = ()) -> None:
    """Load a file of weights (.safetensors, .pth) into a network.

    name: what errors call the network; head: the names of its last layer's tensors, which may be of
    other classes, or missing, since no feature comes from it.
    Raises BadInput where the file is missing, damaged, far too large, or of another network.
    """
    need = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    tensors = _unwrapped(_read(path, LARGEST * need + SPARE, name))
    own, last = network.state_dict(), {*head}
    kept = {key: tensor for key, tensor in tensors.items() if key not in last}
    missing = [key for key in own if key not in kept and key not in last]
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    wrong = [key for key in kept if key in own and kept[key].shape != own[key].shape]
    if missing or wrong:
        what = (
            f"{missing[0]!r} and {len(missing) - 1:,} more tensors are missing"
            if missing
            else f"{wrong[0]!r} is {list(kept[wrong[0]].shape)}, needed {list(own[wrong[0]].shape)}"
        )
        raise BadInput(f"{path} holds no weights of {name}: {what}")
    for key, tensor in kept.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise BadInput(f"{path} is damaged: {key!r} holds values that are not finite")
    network.load_state_dict({key: kept.get(key, own[key]) for key in own})


def _read(path: Path, most: int, name: str) -> Mapping[str, Any]:
    """What a file holds, if that is not more than `most` bytes."""
    import torch
    from safetensors.torch import load_file

    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):  # a small file may unpack to a large one
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(info.file_size for info in archive.infolist()))
        if size > most:
            raise BadInput(
                f"{path} has {size / 2**20:,.0f} MB, more than {most / 2**20:,.0f}: "
                f"no weights of {name}"
            )
        if path.suffix.lower() == ".safetensors":
            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"no weights at {path}: {error.strerror or one_line(error)}") from None
    except Exception as error:  # a damaged file raises nearly anything
        problem = one_line(error)[:160]
        raise BadInput(f"{path} is damaged or holds more than weights ({problem})") from None
    if not isinstance(content, Mapping):
        raise BadInput(f"{path} holds a {type(content).__name__}; accepted: tensors by name")
    return content


def _unwrapped(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors by name, out of a checkpoint and without the prefix that DataParallel writes."""
    from torch import Tensor

    for key in _NESTED:
        if isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {str(k): tensor for k, tensor in content.items() if isinstance(tensor, Tensor)}
    if tensors and all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    return tensors


def weights_digest(network: nn.Module, head: Iterable[str] = ()) -> str:
    """The sha256 of a network's tensors, by name, without those of its last layer."""
    digest, last = hashlib.sha256(), {*head}
    for key, tensor in sorted(network.state_dict().items()):
        if key in last:
            continue
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{key} {array.dtype} {list(array.shape)}".encode())
        if math.prod(array.shape):
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
