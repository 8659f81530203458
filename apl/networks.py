"""The networks of the study.  Images [B, C, H, W] in, logits [B, K] out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from apl.errors import BadInput
from apl.presets import NETWORKS


def make_network(name: str, image_shape: Sequence[int], num_classes: int, width: int) -> nn.Module:
    """A network for images of shape (H, W, C), initialised from torch's global random state.

    width: channels of the first block (cnn8: 64 is the paper's; cnn5), last conv width (cnn4: 64
    is the paper's), hidden units (mlp); resnet34 at 64 is the standard one and takes no other.
    Convolutions are Kaiming-uniform and linear layers Xavier-uniform, as in the paper's code; a
    bias that batch norm would cancel is left out.
    """
    height, image_width, channels = image_shape
    if name == "cnn8":
        widths = (width, 2 * width, 49 * width // 16)
        blocks: list[nn.Module] = []
        for before, after in zip((channels, *widths[:2]), widths, strict=True):
            blocks += [*conv(before, after), *conv(after, after), nn.MaxPool2d(2)]
        features = widths[-1] * (height // 8) * (image_width // 8)
        network = nn.Sequential(*blocks, nn.Flatten(), *head(features, 4 * width, num_classes))
    elif name == "cnn5":
        widths = (width, 3 * width // 2, 2 * width)
        network = nn.Sequential(
            *conv(channels, widths[0], 5, stride=2),
            *conv(widths[0], widths[1]),
            nn.MaxPool2d(2),
            *conv(widths[1], widths[2]),
            nn.MaxPool2d(2),
            nn.Flatten(),
            *head(
                widths[2] * ((height + 1) // 2 // 4) * ((image_width + 1) // 2 // 4),
                *(8 * width, num_classes),
            ),
        )
    elif name == "cnn4":
        network = nn.Sequential(
            *conv(channels, width // 2),
            nn.MaxPool2d(2),
            *conv(width // 2, width),
            nn.MaxPool2d(2),
            nn.Flatten(),
            *head(width * (height // 4) * (image_width // 4), 2 * width, num_classes),
        )
    elif name == "mlp":
        network = nn.Sequential(
            nn.Flatten(),
            nn.Linear(height * image_width * channels, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            *head(width, width, num_classes),
        )
    elif name == "resnet34":
        if width != 64 or channels != 3:
            raise BadInput(f"resnet34 takes width 64 and colour images, got {width} and {channels}")
        import torchvision  # takes a second, so only where it is needed

        resnet = torchvision.models.resnet34(num_classes=num_classes)
        resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        resnet.maxpool = nn.Identity()
        return _channels_last(resnet)
    else:
        raise BadInput(f"unknown network {name!r}; accepted: {', '.join(NETWORKS)}")
    return initialise(network)


def conv(before: int, after: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, ReLU; the image loses nothing but by the stride."""
    padding = 0 if size == stride else size // 2
    layer = nn.Conv2d(before, after, size, stride, padding, bias=False)
    return [layer, nn.BatchNorm2d(after), nn.ReLU()]


def head(features: int, hidden: int, num_classes: int) -> list[nn.Module]:
    """The hidden layer and the logits; BadInput where the images left no features."""
    if features == 0:
        raise BadInput("the images are too small for this network; try --network mlp")
    linear = nn.Linear(features, hidden, bias=False)
    return [linear, nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, num_classes)]


def initialise(network: nn.Sequential) -> nn.Module:
    """The weights as the paper's code begins with them, in the memory format of our batches."""
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight)
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return _channels_last(network)


def _channels_last(network: nn.Module) -> nn.Module:
    # Batches arrive channels-last; with the weights so too, convolutions on a CPU run a quarter
    # faster and those of tensor cores need no transposes.
    return network.to(memory_format=torch.channels_last)
