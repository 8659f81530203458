"""Networks of torchvision and timm as features: their pooled layer, by their own means."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from apl.errors import BadInput, did_you_mean, one_line
from apl.features.backbone import Backbone, Sight
from apl.features.catalog import path_of
from apl.features.pictures import to_input
from apl.features.weights import load_weights, weights_digest
from apl.usercode import told

BATCH, ON_DEVICE = 16, 128  # images at a time


class Eyes(NamedTuple):
    """A network without its last layer, and the images that it was trained on: pixels a side, mean
    and std of a channel in [0, 1].  head: the tensors of the layer that is gone."""

    network: nn.Module
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    head: tuple[str, ...]


# More than seven parameters would not help: each decides the numbers.
def library_backbone(
    name: str, source: str, inner: str, size: int, file: str, device: torch.device
) -> Backbone:
    """The features of a network of torchvision or timm, by its published weights or a local file.

    size: pixels a side, 0 for what it was trained on.
    """
    make = _torchvision if source == "torchvision" else _timm
    eyes = make(inner, pretrained=not file)
    if file:
        load_weights(eyes.network, path_of(file), name, eyes.head)
    network = eyes.network.eval().requires_grad_(False)
    network = network.to(device).to(memory_format=torch.channels_last)
    size = size or eyes.size
    mean, std = ([255 * each for each in part] for part in (eyes.mean, eyes.std))

    def of(images: Tensor) -> Tensor:
        with torch.inference_mode():
            try:
                rows: Tensor = network(to_input(images, size, mean, std, device))
            except Exception as error:  # of what a network takes, such as its size alone
                problem = one_line(error)[:160]
                raise BadInput(f"{name} fails on images of {size} pixels: {problem}") from error
            return rows

    decided_by = {"weights": weights_digest(network), "size": size, "mean": mean, "std": std}
    batch = BATCH if device.type == "cpu" else ON_DEVICE
    sight = Sight(network, size, mean, std)
    return Backbone(name, of, decided_by, batch, parallel=device.type == "cpu", sight=sight)


def last_layer(network: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The path and the last layer of a classification network, which is the last linear layer or
    convolution, whatever it is called."""
    layers = [
        (path, layer)
        for path, layer in network.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    return layers[-1]


def put_layer(network: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one at a path."""
    parent, _, child = path.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)


def torchvision_names() -> list[str]:
    """The names of torchvision's classification networks."""
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def without_auxiliary(network: nn.Module) -> None:
    """Take the auxiliary classifiers of an inception network away."""
    parts = {"aux_logits": False, "aux1": None, "aux2": None, "AuxLogits": None}
    for part, without in parts.items():
        if hasattr(network, part):
            setattr(network, part, without)


def _torchvision(name: str, pretrained: bool) -> Eyes:
    from torchvision import models

    names = torchvision_names()
    if name not in names:
        raise BadInput(f"torchvision has no network {name!r} for images{did_you_mean(name, names)}")
    weights = models.get_model_weights(name).DEFAULT
    shift = {"transform_input": True} if name in ("googlenet", "inception_v3") else {}
    try:
        published = weights if pretrained else None
        network: nn.Module = models.get_model(name, weights=published, **shift)
    except (OSError, RuntimeError) as error:
        raise no_weights(f"torchvision:{name}", error) from error
    without_auxiliary(network)
    path, _ = last_layer(network)
    put_layer(network, path, nn.Identity())
    seen: Any = weights.transforms()
    head = (f"{path}.weight", f"{path}.bias")
    return Eyes(network, seen.crop_size[0], tuple(seen.mean), tuple(seen.std), head)


def _timm(name: str, pretrained: bool) -> Eyes:
    timm = timm_library(name)
    try:
        network: nn.Module = timm.create_model(name, num_classes=0, pretrained=pretrained)
    except Exception as error:  # of what it downloads with, and of what a network does not take
        if pretrained:
            raise no_weights(f"timm:{name}", error) from error
        raise BadInput(f"timm:{name} can't be made: {one_line(error)[:160]}") from error
    about = timm.data.resolve_model_data_config(network)
    return Eyes(network, int(about["input_size"][-1]), about["mean"], about["std"], ())


def timm_library(name: str) -> Any:
    """timm, which has a network of that name; BadInput where it is not installed, or has not."""
    try:
        import timm
    except ImportError:
        raise BadInput(
            f"timm:{name} needs timm: pip install timm, or apl-noisy-labels[timm]"
        ) from None
    if not timm.is_model(name.partition(".")[0]):  # after the dot: which of its weights
        raise BadInput(f"timm has no network {name!r}{did_you_mean(name, timm.list_models())}")
    return timm


def no_weights(name: str, error: Exception, remedy: str = "give --weights FILE") -> BadInput:
    """What to tell where published weights can't be had."""
    return BadInput(f"no pretrained weights for {name}, {remedy}: {told(error)}")
