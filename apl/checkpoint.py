"""Tensors on disk: safetensors with a state and a checksum in the header, no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from apl.errors import BadInput, one_line
from apl.runs import write_atomic

CURRENT, PREVIOUS = "checkpoint.safetensors", "checkpoint-previous.safetensors"


def _digest(tensors: Mapping[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.reshape(-1).view(torch.uint8).numpy()).data)
    return digest.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON state, atomically; the same content gives the same bytes."""
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(state)
    # One metadata key only: safetensors does not keep the order of several.
    header = {"apl": json.dumps({"state": text, "sha256": _digest(plain, text)})}
    write_atomic(path, safetensors.torch.save(plain, header))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state of a file of `save_tensors`.

    Raises FileNotFoundError, or BadInput when the file is damaged or none of ours.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["apl"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        intact = _digest(tensors, header["state"]) == header["sha256"]
        state = json.loads(header["state"])
    except Exception as error:  # a damaged header raises nearly anything
        problem = one_line(error)
        raise BadInput(f"{path} is damaged or not written by apl ({problem})") from None
    if not intact:
        raise BadInput(f"{path} is damaged: its checksum does not match")
    return tensors, state


def save_checkpoint(run: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the newest checkpoint of a run; the one before it stays as a fallback."""
    if (run / CURRENT).exists():
        os.replace(run / CURRENT, run / PREVIOUS)
    save_tensors(run / CURRENT, tensors, state)


def load_checkpoint(run: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """The newest good checkpoint with what was wrong with newer ones, or None if there is none."""
    problems: list[str] = []
    for name in (CURRENT, PREVIOUS):
        try:
            return (*load_tensors(run / name), problems)
        except FileNotFoundError:
            continue
        except BadInput as error:
            problems.append(str(error))
    return ({}, {}, problems) if problems else None


def delete_checkpoints(run: Path) -> None:
    """Remove the checkpoints of a finished run."""
    for name in (CURRENT, PREVIOUS):
        (run / name).unlink(missing_ok=True)
