"""The networks of the study.  Images [B, C, H, W] in, logits [B, K] out."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apl.config.presets import HEADS
from apl.errors import BadInput, did_you_mean, require
from apl.features.libraries import (
    last_layer,
    no_weights,
    put_layer,
    timm_library,
    torchvision_names,
    without_auxiliary,
)
from apl.names import NETWORKS
from apl.usercode import look_up, told


def make_network(  # which one, of what size, and what it begins with
    name: str,
    image_shape: Sequence[int],
    num_classes: int,
    width: int,
    *,
    weights: str = "",
    imports: Sequence[str] = (),
    dropout: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """A network for images of shape (H, W, C), or for the rows of a table of shape (F,),
    initialised from torch's global random state.

    name: one of ours; `torchvision:NAME`, any of its classification networks; `timm:NAME`; or
    `module:Class`, your own, imported only where it is in `imports`, the names the user typed.
    It is called as Class(num_classes), and where its signature has them also with `num_classes`,
    `in_channels` (of a table the columns) and `image_shape` by name.
    width: channels of the first block (cnn8: 64 is the paper's; cnn5), last conv width (cnn4: 64
    is the paper's), hidden units (mlp); resnet34 at 64 is the standard one and takes no other;
    of no meaning outside ours.
    weights: 'default' for the pretrained ones of torchvision and timm, downloaded where they are
    not there yet; the last layer is new, for the classes.
    dropout, seed: the share of units in front of each linear layer of cnn4, cnn5, cnn8 and mlp that
    is left out in a step of training, and what decides which.
    Raises BadInput for a name that there is not, and for a network that fails on such images or
    gives them no logits [B, K]: those that are not ours are tried once.

    Convolutions of ours are Kaiming-uniform and linear layers Xavier-uniform, as in the paper's
    code; a bias that batch norm would cancel is left out.
    """
    source, colon, inner = name.partition(":")
    require(weights in ("", "default"), "weights", weights, "default, or none")
    if weights and source not in ("torchvision", "timm"):
        raise BadInput(f"{name!r} has no pretrained weights; accepted: torchvision:NAME, timm:NAME")
    shape = tuple(image_shape)
    table = len(shape) == 1
    if table and name not in HEADS and (not colon or source in ("torchvision", "timm")):
        raise BadInput(f"network is {name!r}; accepted for a table: mlp, linear, module:Class")
    if colon:
        if source == "torchvision":
            network = _torchvision(inner, shape[-1], num_classes, bool(weights))
        elif source == "timm":
            network = _timm(inner, shape[-1], num_classes, bool(weights))
        else:
            network = _own(name, shape, num_classes, imports)
        return _tried(network, name, shape, num_classes)
    make = _OURS.get(name)
    if make is None:
        raise BadInput(
            f"unknown network {name!r}; accepted: {', '.join(NETWORKS)}, torchvision:NAME, "
            f"timm:NAME, module:Class{did_you_mean(name, NETWORKS)}"
        )
    network = make((1, 1, *shape) if table else shape, num_classes, width)
    return _with_dropout(network, dropout, seed) if dropout else network


def _cnn8(shape: Sequence[int], num_classes: int, width: int) -> nn.Module:
    height, image_width, channels = shape
    widths = (width, 2 * width, 49 * width // 16)
    blocks: list[nn.Module] = []
    for before, after in zip((channels, *widths[:2]), widths, strict=True):
        blocks += [*conv(before, after), *conv(after, after), nn.MaxPool2d(2)]
    features = widths[-1] * (height // 8) * (image_width // 8)
    return initialise(nn.Sequential(*blocks, nn.Flatten(), *head(features, 4 * width, num_classes)))


def _cnn5(shape: Sequence[int], num_classes: int, width: int) -> nn.Module:
    height, image_width, channels = shape
    widths = (width, 3 * width // 2, 2 * width)
    features = widths[2] * ((height + 1) // 2 // 4) * ((image_width + 1) // 2 // 4)
    return initialise(
        nn.Sequential(
            *conv(channels, widths[0], 5, stride=2),
            *conv(widths[0], widths[1]),
            nn.MaxPool2d(2),
            *conv(widths[1], widths[2]),
            nn.MaxPool2d(2),
            nn.Flatten(),
            *head(features, 8 * width, num_classes),
        )
    )


def _cnn4(shape: Sequence[int], num_classes: int, width: int) -> nn.Module:
    height, image_width, channels = shape
    return initialise(
        nn.Sequential(
            *conv(channels, width // 2),
            nn.MaxPool2d(2),
            *conv(width // 2, width),
            nn.MaxPool2d(2),
            nn.Flatten(),
            *head(width * (height // 4) * (image_width // 4), 2 * width, num_classes),
        )
    )


def _mlp(shape: Sequence[int], num_classes: int, width: int) -> nn.Module:
    return initialise(
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(math.prod(shape), width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            *head(width, width, num_classes),
        )
    )


def _resnet34(shape: Sequence[int], num_classes: int, width: int) -> nn.Module:
    channels = shape[-1]
    if width != 64 or channels != 3:
        raise BadInput(f"resnet34 takes width 64 and colour images, got {width} and {channels}")
    import torchvision  # takes a second, so only where it is needed

    network = torchvision.models.resnet34(num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return _channels_last(network)


def _linear(shape: Sequence[int], num_classes: int, width: int) -> nn.Module:
    layer = nn.Linear(math.prod(shape), num_classes)
    return initialise(nn.Sequential(nn.Flatten(), layer))


# By name, of images (H, W, C), classes and width.
_OURS = {
    "cnn8": _cnn8,
    "cnn5": _cnn5,
    "cnn4": _cnn4,
    "mlp": _mlp,
    "linear": _linear,
    "resnet34": _resnet34,
}


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


class Dropout(nn.Module):
    """Dropout whose masks follow from a seed and the number of the step, which is a part of the
    state: a training that was interrupted goes on with the masks that it would have had."""

    drawn: Tensor

    def __init__(self, share: float, seed: int) -> None:
        super().__init__()
        self.share, self.seed = share, seed
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))
        self._step: int | None = None  # as `drawn`, without asking the device for it

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [B, F], in training without a share of their numbers and scaled for it."""
        if not self.training or not self.share:
            return rows
        if self._step is None:
            self._step = int(self.drawn)
        words = np.random.SeedSequence([self.seed, self._step]).generate_state(1, np.uint64)
        generator = torch.Generator(rows.device).manual_seed(int(words[0] >> np.uint64(1)))
        self._step += 1
        self.drawn.add_(1)
        mask = torch.empty_like(rows).bernoulli_(1 - self.share, generator=generator)
        return rows * mask / (1 - self.share)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, *rest)
        self._step = None


def _with_dropout(network: nn.Module, share: float, seed: int) -> nn.Sequential:
    """The network with dropout in front of each linear layer but one that takes the input itself,
    which comes after its flattening."""
    layers: list[nn.Module] = []
    for place, layer in enumerate(network.children()):
        if isinstance(layer, nn.Linear) and place > 1:
            layers.append(Dropout(share, seed + place))
        layers.append(layer)
    return nn.Sequential(*layers)


# --------------------------------------------------------------------------- networks not ours


def _torchvision(name: str, channels: int, num_classes: int, pretrained: bool) -> nn.Module:
    from torchvision import models

    names = torchvision_names()
    if name not in names:
        raise BadInput(f"torchvision has no network {name!r} for images{did_you_mean(name, names)}")
    # These two shift the usual colours to their own; without weights too, since a run's network is
    # made again without.
    inception = name in ("googlenet", "inception_v3")
    options: dict[str, Any] = {"transform_input": True} if inception else {}
    if pretrained:
        try:
            network: nn.Module = models.get_model(name, weights="DEFAULT", **options)
        except (OSError, RuntimeError) as error:
            raise no_weights(f"torchvision:{name}", error, "leave weights out") from error
        replace_head(network, num_classes)
    else:
        if inception:
            options["init_weights"] = True
        network = models.get_model(name, num_classes=num_classes, **options)
    if inception:
        # Their auxiliary classifiers would make tuples in training, for a loss of their own.
        without_auxiliary(network)
    if channels == 1:
        network.register_forward_pre_hook(_to_colour)
    return network


def _to_colour(network: nn.Module, images: tuple[Tensor]) -> Tensor:
    # So weights trained on photographs fit, whatever the first layer is called.
    return images[0].expand(-1, 3, -1, -1)


def replace_head(network: nn.Module, num_classes: int) -> None:
    """Put a new last layer for `num_classes` in the place of a classification network's, which is
    the last linear layer or convolution, whatever it is called."""
    path, last = last_layer(network)
    bias = last.bias is not None
    new: nn.Module
    if isinstance(last, nn.Linear):
        new = nn.Linear(last.in_features, num_classes, bias)
    else:  # of size 1, and averaged over the image
        new = nn.Conv2d(last.in_channels, num_classes, 1, bias=bias)
    put_layer(network, path, new)


def _timm(name: str, channels: int, num_classes: int, pretrained: bool) -> nn.Module:
    timm = timm_library(name)
    made = {"num_classes": num_classes, "in_chans": channels, "pretrained": pretrained}
    try:
        network: nn.Module = timm.create_model(name, **made)
    except Exception as error:  # of what it downloads with, and of what a network does not take
        if pretrained:
            raise no_weights(f"timm:{name}", error, "leave weights out") from error
        raise BadInput(f"timm:{name} can't be made: {told(error)}") from error
    return network


def _own(name: str, shape: tuple[int, ...], num_classes: int, imports: Sequence[str]) -> nn.Module:
    if name not in imports:
        raise BadInput(
            f"{name!r} is a network of your own, imported only where you type it: give it to "
            "--network, in Python to make_network(imports=...)"
        )
    # What the module's import draws or seeds must not decide the weights: it runs only once.
    with torch.random.fork_rng(devices=[]):
        make = look_up(name)
    if isinstance(make, nn.Module) or not callable(make):
        raise BadInput(
            f"{name!r} is a {type(make).__name__}; accepted: a class or function that makes a "
            "network, so that its weights follow from the seed"
        )
    offered = {"num_classes": num_classes, "in_channels": shape[-1], "image_shape": shape}
    try:
        takes = inspect.signature(make).parameters
    except (TypeError, ValueError):  # of what is not written in Python
        takes = MappingProxyType({})
    named = {each: value for each, value in offered.items() if each in takes}
    first = () if "num_classes" in named else (num_classes,)
    try:
        network = make(*first, **named)
    except Exception as error:
        given = ", ".join([*map(str, first), *(f"{each}={named[each]}" for each in named)])
        raise BadInput(f"{name}({given}) fails: {told(error, _file(make))}") from error
    if not isinstance(network, nn.Module):
        raise BadInput(f"{name!r} made a {type(network).__name__}; accepted: a torch.nn.Module")
    return network


def _file(made: object) -> str:
    return getattr(sys.modules.get(getattr(made, "__module__", "")), "__file__", None) or ""


def _tried(network: nn.Module, name: str, shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The network itself, if it takes two images (rows of a table) to logits [2, K].

    Code that lays views over its features needs them in torch's usual memory format: what fails
    channels-last and runs in that one keeps it.
    """
    size = [2, *shape] if len(shape) == 1 else [2, shape[2], *shape[:2]]
    device = next((parameter.device for parameter in network.parameters()), None)
    inputs = torch.zeros(size, device=device)
    try:
        if len(shape) == 1:
            logits = _answer(network, inputs)
        else:
            try:
                _channels_last(network)
                logits = _answer(network, inputs.to(memory_format=torch.channels_last))
            except RuntimeError:
                network.to(memory_format=torch.contiguous_format)
                network.register_forward_pre_hook(_to_contiguous)
                logits = _answer(network, inputs)
    except Exception as error:
        problem = told(error, _file(type(network)))
        raise BadInput(f"{name} fails on inputs of shape {size}: {problem}") from error
    is_tensor = isinstance(logits, Tensor)
    if not is_tensor or logits.shape != (2, num_classes):
        made = list(logits.shape) if is_tensor else f"a {type(logits).__name__}"
        raise BadInput(
            f"{name} makes {made} of inputs of shape {size}; accepted: logits [2, {num_classes}]"
        )
    return network


def _to_contiguous(network: nn.Module, images: tuple[Tensor]) -> Tensor:
    return images[0].contiguous()


def _answer(network: nn.Module, inputs: Tensor) -> Any:
    """What the network says in evaluation mode; random state, statistics and modes stay."""
    training = [layer for layer in network.modules() if layer.training]
    network.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return network(inputs)
    finally:
        for layer in training:
            layer.training = True
