"""A trained network as one file for other programs: from pixels or rows to probabilities.

The backbone of its features, normalising and the temperature are inside; classes, sizes, the rule
by which images are resized, licences and digests are in the file's metadata.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apl.data.pixels import middle
from apl.errors import BadInput, one_line
from apl.features.backbone import Sight
from apl.features.catalog import licence_of, says
from apl.files import finite, write_atomic
from apl.training.use import Trained

OPSET = 18
KINDS = {"onnx": ".onnx", "torch": ".pt2"}
MOST = 1e-4  # by which a probability of the file may differ from ours
TRIED = 8  # samples that are asked of both
_PRECISIONS = 22  # as torch's resizing of bytes tries them


@dataclass(frozen=True)
class Exported:
    """A file that was written: what it holds in words, what was checked, in words."""

    path: Path
    holds: str
    checked: str


class Whole(nn.Module):
    """Samples as they are decoded, to probabilities [N, K]: uint8 images [N, H, W, C], or float32
    rows [N, F] of a table or of features that are made elsewhere."""

    def __init__(self, run: Trained) -> None:
        super().__init__()
        inputs, config = run.inputs, run.config
        self.network, self.temperature = run.network, run.temperature
        self.sees: nn.Module
        if inputs.kind != "images":
            self.sees = nn.Identity()
        elif run.backbone is None:
            self.sees = _Normalised(run)
        else:
            if run.backbone.sight is None:
                raise BadInput(
                    f"features {config.features} are code that no file can hold; accepted for "
                    "images: runs on pixels, on lite0, torchvision:NAME or timm:NAME"
                )
            self.sees = _Features(run.backbone.sight, inputs.shape)

    def forward(self, samples: Tensor) -> Tensor:
        """The probabilities [N, K]."""
        logits: Tensor = self.network(self.sees(samples))
        return (logits.float() / self.temperature).softmax(1)


class _Normalised(nn.Module):
    """Images uint8 [N, H, W, C] as a network that learned from pixels takes them."""

    scale: Tensor
    shift: Tensor

    def __init__(self, run: Trained) -> None:
        super().__init__()
        self.crop, self.plain = run.config.crop_size, run.config.crop == "plain"
        self.register_buffer("scale", torch.tensor([1 / (255 * s) for s in run.inputs.std]))
        pairs = zip(run.inputs.mean, run.inputs.std, strict=True)
        self.register_buffer("shift", torch.tensor([m / s for m, s in pairs]))

    def forward(self, images: Tensor) -> Tensor:
        """The middle of them where training saw crops, normalised: float32 [N, C, H, W]."""
        if self.crop:
            images = middle(images, self.crop, self.plain)
        return (images.float() * self.scale - self.shift).permute(0, 3, 1, 2)


class _Features(nn.Module):
    """Images uint8 [N, H, W, C] as features [N, F]."""

    weights: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, sight: Sight, shape: tuple[int, ...]) -> None:
        super().__init__()
        height, width, self.channels = shape
        self.side = min(height, width)
        self.top, self.left = (height - self.side) // 2, (width - self.side) // 2
        self.resized = self.side != sight.size
        weights, self.bits = _bicubic(self.side, sight.size)
        self.network = sight.network
        self.register_buffer("weights", weights)
        self.register_buffer("mean", torch.tensor(sight.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(sight.std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Their features."""
        batch = images.permute(0, 3, 1, 2)
        batch = batch[:, :, self.top : self.top + self.side, self.left : self.left + self.side]
        if self.resized:
            batch = self._rounded(batch.double() @ self.weights)
            batch = self._rounded(self.weights.T @ batch)
        pixels = batch.float()
        if self.channels == 1:
            pixels = pixels.expand(-1, 3, -1, -1)
        rows: Tensor = self.network((pixels - self.mean) / self.std)
        return rows

    def _rounded(self, sums: Tensor) -> Tensor:
        """Sums of pixels times whole weights to the nearest byte."""
        whole: Tensor = ((sums + 2 ** (self.bits - 1)) / 2**self.bits).floor()
        return whole.clamp(0, 255)


def _bicubic(side: int, size: int) -> tuple[Tensor, int]:
    """The weights [side, size] by which torch resizes bytes, whole numbers, and how many bits they
    are shifted by: so that a file resizes as training did, to the byte."""
    one = torch.eye(side, dtype=torch.float64)[None, None]
    weights = F.interpolate(one, (side, size), mode="bicubic", antialias=True, align_corners=False)[
        0, 0
    ]
    largest, bits = float(weights.max()), 0
    while bits < _PRECISIONS and int(0.5 + largest * 2 ** (bits + 1)) < 2**15:
        bits += 1
    scaled = weights * 2**bits
    return torch.where(scaled < 0, (scaled - 0.5).ceil(), (scaled + 0.5).floor()), bits


def export_run(run: Trained, path: Path, to: str) -> Exported:
    """Write the file of a run, 'onnx' or 'torch', and ask it about a few samples.

    Raises BadInput where a package is missing, or the network can't be exported.
    """
    whole = Whole(run).eval().cpu()
    samples = _samples(run)
    told = metadata(run)
    write_out = _onnx if to == "onnx" else _torch_export
    content = write_out(whole, samples, told)
    write_atomic(path, content)
    with torch.inference_mode():
        wanted = whole(samples).numpy()
    return Exported(path, told["input"], _checked(path, to, samples, wanted))


def _samples(run: Trained) -> Tensor:
    """A few samples of the run's form, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    if run.inputs.kind == "images":
        size = (TRIED, *run.inputs.shape)
        return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    numbers = run.evaluator.data.train.images.shape[1]
    return torch.randn(TRIED, numbers, generator=generator)


def metadata(run: Trained) -> dict[str, str]:
    """What a file says of itself, texts by name."""
    inputs, config = run.inputs, run.config
    content = json.dumps(config.to_json(), sort_keys=True).encode()
    shape = " x ".join(map(str, inputs.shape))
    if inputs.kind == "images":
        takes = f"uint8 [N, {', '.join(map(str, inputs.shape))}], channels last, 0 to 255"
        resize = (
            "to decode a file: upright, on white where transparent, the shorter side resized "
            f"(bilinear) and the middle cut out, {shape}"
        )
    else:
        numbers = run.evaluator.data.train.images.shape[1]
        made = {
            "rows": "rows of a table, encoded by `columns`",
            "texts": f"features of texts, made by {config.features} before: apl predict makes them",
            "vectors": f"vectors made as those of {config.features}",
        }[inputs.kind]
        takes, resize = f"float32 [N, {numbers}], {made}", ""
    about = {
        "apl": "a network trained on labels that may be wrong",
        "input": takes,
        "output": f"float32 [N, {len(run.class_names)}], the probability of each class",
        "class_names": json.dumps(list(run.class_names), ensure_ascii=False),
        "image_rule": resize,
        "columns": json.dumps(finite(list(inputs.encoding.get("columns", [])))),
        "features": says(config.features),
        "licence": licence_of(config.features),
        "temperature": repr(run.temperature),
        "calibrated": run.calibrated,
        "run": config.name,
        "dataset": config.dataset,
        "dataset_sha256": config.dataset_sha256,
        "config_sha256": hashlib.sha256(content).hexdigest(),
    }
    return {name: value for name, value in about.items() if value not in ("", "[]")}


def _onnx(whole: Whole, samples: Tensor, told: dict[str, str]) -> bytes:
    try:
        import onnx  # type: ignore[import-not-found,import-untyped,unused-ignore]
        import onnxscript  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except ImportError:
        raise BadInput(
            "--to onnx needs a few packages: pip install 'apl-noisy-labels[export]'"
        ) from None
    with _quiet(), _told("onnx"):
        program = torch.onnx.export(
            whole,
            (samples,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["samples"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        assert program is not None
        model = program.model_proto
    about = {**told, "opset": str(OPSET)}
    onnx.helper.set_model_props(model, about)
    content: bytes = model.SerializeToString()
    return content


def _torch_export(whole: Whole, samples: Tensor, told: dict[str, str]) -> bytes:
    shapes = {"samples": {0: torch.export.Dim("batch")}}
    buffer = io.BytesIO()
    with _quiet(), _told("torch"), torch.no_grad():
        program = torch.export.export(whole, (samples,), dynamic_shapes=shapes)
        torch.export.save(program, buffer, extra_files={"apl.json": json.dumps(told)})
    return buffer.getvalue()


@contextlib.contextmanager
def _told(to: str) -> Iterator[None]:
    """An error of torch's exporter as one line."""
    try:
        yield
    except Exception as error:  # of whatever a network does that a graph can't hold
        raise BadInput(f"the network can't be exported to {to}: {one_line(error)[:300]}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter prints on its way."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _checked(path: Path, to: str, samples: Tensor, wanted: Any) -> str:
    """How far what the file says is from what the run says, in words; BadInput where too far."""
    if to == "torch":
        with torch.no_grad():
            found = torch.export.load(path).module()(samples).numpy()
    else:
        try:
            import onnxruntime  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            return "not checked: pip install onnxruntime"
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {"samples": samples.numpy()})[0]
    far = float(np.abs(found - wanted).max())
    if not far <= MOST:
        raise BadInput(f"{path} says something else than the run, by {far:.2g}: not to be used")
    return f"checked on {len(samples)} random samples: probabilities differ by {far:.1g} at most"
