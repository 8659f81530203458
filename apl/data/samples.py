"""New samples, labelled or not, for a network that is trained: what lies at a path, what a caller
holds, and how both are brought into the form of what was trained on.

Nothing is split, left out for its label or written to the cache here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from apl.cores import cores
from apl.data.arrays import list_arrays
from apl.data.depth import Pixels, checked_range, range_of, to_bytes
from apl.data.formats import hint
from apl.data.images import Broken, Misfit, Plan, read_image, to_pixels
from apl.data.kinds import list_path
from apl.data.listing import LISTS, SUFFIXES, Listing, Sample, some_of, suffix_of, why_not
from apl.data.lists import NONE, list_file
from apl.data.numbers import Cells
from apl.data.reading import AS_USUAL, Reading
from apl.data.tables import Recipe, encode, row_digests, to_columns
from apl.data.texts import NO_TEXTS
from apl.data.texts import as_texts as as_they_are_read
from apl.data.trees import scan
from apl.errors import BadInput
from apl.paths import user_path

if TYPE_CHECKING:
    from PIL import Image

    from apl.data.dataset import Dataset

# ------------------------------------------------------------------------------- at a path


def list_samples(source: str, reading: Reading, kind: str) -> Listing:
    """What lies at a path, or at all paths that a pattern such as `new/*.jpg` fits: every sample,
    with the label that stands beside it, '' where none does.

    kind: what the network sees, 'images', 'texts' or 'rows'.  A folder's images are all that lie
    below it; the folders' names are their labels where these are classes to `apl train` too.
    Raises BadInput where nothing that can be looked at is there.
    """
    path = user_path(source)
    if not path.exists():
        found = sorted(glob.glob(str(path), recursive=True))
        if not found:
            raise BadInput(f"nothing is at {source}; accepted: a folder, a file, a list, a pattern")
        return _single_files(found, source)
    if path.is_dir():
        return _folder(path, reading)
    suffix = suffix_of(path.name)
    if suffix in (".npz", ".npy"):
        return list_arrays(path, reading, labelled=False)
    if suffix in LISTS:
        # A table's column may be called `image` or `path`, and names no file.
        every = dataclasses.replace(reading, image_folder=NONE, text_column=NO_TEXTS)
        alone = every if kind != "images" else reading
        return list_file(path, alone, labelled=False)
    if suffix in SUFFIXES:
        return _single_files([str(path)], source)
    kinds = " ".join(sorted(SUFFIXES))
    what = f"; it is {known}" if (known := hint(path)) else ""
    raise BadInput(f"{source} is no input; accepted: {kinds}, {', '.join(LISTS)}, .npz, .npy{what}")


def _single_files(paths: Sequence[str], source: str) -> Listing:
    """Files that were named one by one; what is no image is told of as broken."""
    found = Listing(Path())
    for path in paths:
        if os.path.isdir(path):
            found.broken.append((path, "a folder: give it by itself"))
            continue
        try:
            info = os.stat(path)
        except OSError as error:
            found.broken.append((path, why_not(error)))
            continue
        at = (info.st_size, info.st_mtime_ns)
        found.samples.append(Sample(path, path, "", "", "", at))
    if not found.samples:
        raise BadInput(f"{source} leads to folders alone; accepted: files, or one folder")
    return found


def _folder(path: Path, reading: Reading) -> Listing:
    """Every image below a folder, with the labels that `apl train` would read; or what else lies
    there, such as arrays."""
    try:
        listed = list_path(path, reading)
    except BadInput as error:
        listed, why = Listing(path), str(error)
    else:
        why = ""
        if listed.columns is not None or listed.pixels is not None or listed.pictures is not None:
            return listed
    tree = scan(path, reading.skip)
    labels = {sample.name: sample.given for sample in listed.samples}
    found = Listing(path, broken=list(tree.broken))
    for within, file in tree.top.below():
        if suffix_of(file.name) not in SUFFIXES:
            continue
        name = within + file.name
        try:
            info = file.stat()
        except OSError as error:
            found.broken.append((name, why_not(error)))
            continue
        at = (info.st_size, info.st_mtime_ns)
        found.samples.append(Sample(name, file.path, labels.get(name, ""), "", "", at))
    if not found.samples:
        raise BadInput(f"{path} has no images{f' ({why[:200]})' if why else ''}")
    found.samples.sort()
    return found


def list_dataset(data: Dataset) -> Listing:
    """The samples of a data set that is in memory: of a built-in one the test images, of another
    one all of them."""
    parts = [data.train, data.test] if data.digest else [data.test]
    found = Listing(Path(data.name))
    for part in parts:
        names = part.names or [f"test:{i}" for i in range(len(part))]
        for name, label in zip(names, part.labels.given.tolist(), strict=True):
            found.samples.append(Sample(name, "", data.class_names[label], "", "", (0, 0)))
    images = np.concatenate([part.images.numpy() for part in parts])
    if images.ndim == 2:
        raise BadInput(f"{data.name} is a table in memory: give it as a file")
    found.pixels = images
    return found


@contextlib.contextmanager
def files_of(listing: Listing) -> Iterator[list[str]]:
    """The path of each sample's image; of images inside a Parquet file that of a copy, which is
    there for so long."""
    if listing.pictures is None:
        yield [sample.path for sample in listing.samples]
        return
    with tempfile.TemporaryDirectory() as folder:
        everyone = np.arange(len(listing.samples))
        with listing.pictures.taken_out(Path(folder, "images"), everyone) as paths:
            yield paths


def contents_of(listing: Listing, text_column: str = NO_TEXTS) -> list[bytes]:
    """The sha256 of what each sample holds, as `Dataset.contents` has it; b'' where its file can't
    be read.  text_column: which of a table's columns the texts are, NO_TEXTS where none is."""
    if listing.columns is not None:
        cells = dict(listing.cells)
        if text_column in cells:
            cells = {"": as_they_are_read(cells.pop(text_column)), **cells}
        return [bytes(row) for row in row_digests(cells)]
    if listing.pixels is not None:
        return [hashlib.sha256(np.ascontiguousarray(one).data).digest() for one in listing.pixels]
    with files_of(listing) as paths:
        return [_content_of(path) for path in paths]


def _content_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).digest()
    except (OSError, ValueError):
        return b""


# ---------------------------------------------------------------------------------- images


def read_files(
    paths: Sequence[str], plan: Plan, most: int = AS_USUAL.max_pixels
) -> tuple[Pixels, dict[int, str]]:
    """The images [n, H, W, C] of those files that can be read, as the plan wants them; and why the
    others can't, by position.  One of more than `most` pixels can't, unless it is a JPEG."""
    problems: dict[int, str] = {}

    def read(i: int) -> Pixels | None:
        try:
            return read_image(paths[i], plan, most, fitted)[0]
        except Broken as error:
            problems[i] = str(error)
            return None

    with ThreadPoolExecutor(cores()) as pool:
        made = [image for image in pool.map(read, range(len(paths))) if image is not None]
    return np.stack(made) if made else np.zeros((0, *plan.shape), np.uint8), problems


def fitted(image: Image.Image, plan: Plan) -> Pixels:
    """An image as `to_pixels` has it, and one that the plan does not foresee too: colours in grey,
    pixels beyond its range as the nearest in it."""
    from PIL import Image, ImageOps

    if image.mode[0] in "IF":
        image = ImageOps.exif_transpose(image)
        values = np.asarray(image)
        low, high = (plan.low, plan.high) if plan.high > plan.low else range_of(values)
        image = Image.fromarray(to_bytes(values.clip(low, high), low, high))
    try:
        return to_pixels(image, plan)
    except Misfit:
        coloured = to_pixels(image, dataclasses.replace(plan, grey=False))
        return np.asarray(Image.fromarray(coloured).convert("L")).reshape(plan.shape)


def as_images(samples: Any, plan: Plan) -> Pixels:
    """Images [N, H, W, C] as the plan wants them, of what a caller holds: one image or several, as
    arrays or tensors (uint8, or fractions of 1; channels last, or a tensor's first), of Pillow's,
    or as paths.

    Raises BadInput for what is none, or can't be read.
    """
    if isinstance(samples, str | Path) or _is_pillow(samples):
        samples = [samples]
    if isinstance(samples, list | tuple):
        made = [_one_image(sample, plan, i) for i, sample in enumerate(samples)]
        return np.stack(made) if made else np.zeros((0, *plan.shape), np.uint8)
    array = _channels_last(samples, plan)
    if not len(array):
        return np.zeros((0, *plan.shape), np.uint8)
    pixels = _as_bytes(array, plan)
    if pixels.shape[1:] == plan.shape:
        return pixels
    return np.stack([fitted(_to_pillow(image), plan) for image in pixels])


def _is_pillow(sample: Any) -> bool:
    return hasattr(sample, "convert") and hasattr(sample, "getexif")


def _one_image(sample: Any, plan: Plan, place: int) -> Pixels:
    try:
        if isinstance(sample, str | Path):
            return read_image(str(user_path(sample)), plan, AS_USUAL.max_pixels, fitted)[0]
        if _is_pillow(sample):
            return fitted(sample, plan)
    except Broken as error:
        what = f"{sample} can't be read" if isinstance(sample, str | Path) else f"image {place}"
        raise BadInput(f"{what}: {error}") from None
    one = as_images(sample, plan)
    if len(one) != 1:
        raise BadInput(f"sample {place} is {list(np.shape(sample))}; accepted: one image")
    image: Pixels = one[0]
    return image


def _channels_last(samples: Any, plan: Plan) -> npt.NDArray[Any]:
    """An array or a tensor as [N, H, W, C]."""
    is_tensor = hasattr(samples, "detach")
    array = samples.detach().cpu().numpy() if is_tensor else np.asarray(samples)
    first = array.ndim > 2 and array.shape[-3] in (1, 3)
    last = array.ndim > 2 and array.shape[-1] in (1, 3)
    if array.ndim in (3, 4) and first and (is_tensor or not last):
        array = np.moveaxis(array, -3, -1)
    elif array.ndim in (2, 3) and not last:  # grey: [H, W] or [N, H, W]
        array = array[..., None]
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
        size = " x ".join(map(str, plan.shape))
        raise BadInput(
            f"images are {list(array.shape)}, {array.dtype}; accepted: [N, H, W, C], [H, W, C] or "
            f"a tensor [N, C, H, W], with 1 or 3 channels (the network sees {size})"
        )
    return array


def _as_bytes(array: npt.NDArray[Any], plan: Plan) -> Pixels:
    if array.dtype == np.uint8:
        return array
    low, high = checked_range(array, "the images")
    if plan.high > plan.low:
        low, high = plan.low, plan.high
    return to_bytes(array.clip(low, high), low, high)


def _to_pillow(image: Pixels) -> Image.Image:
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else np.ascontiguousarray(image))


# ------------------------------------------------------------------------- rows and texts


def as_columns(samples: Any) -> tuple[dict[str, Cells], int]:
    """What a caller holds as columns by name, and how many rows: a DataFrame, columns by name, rows
    by name, or an array [N, F] or [F], whose columns are called by their numbers."""
    if isinstance(samples, Mapping):
        one = not any(_is_column(cells) for cells in samples.values())
        columns = {str(k): [v] if one else v for k, v in samples.items()}
        counts = {len(cells) for cells in columns.values()}
        if len(counts) > 1:
            raise BadInput(f"the columns have {sorted(counts)} rows; accepted: as many in each")
        return columns, max(counts, default=0)
    if isinstance(samples, list | tuple) and samples and isinstance(samples[0], Mapping):
        names = dict.fromkeys(str(name) for row in samples for name in row)
        return {name: [row.get(name) for row in samples] for name in names}, len(samples)
    if hasattr(samples, "detach"):
        samples = samples.detach().cpu().numpy()
    if not hasattr(samples, "columns"):
        samples = np.asarray(samples)
        samples = samples[None] if samples.ndim == 1 else samples
        if samples.ndim != 2:
            raise BadInput(f"rows are {list(samples.shape)}; accepted: [N, F], or a row [F]")
    return to_columns(samples), len(samples)


def _is_column(cells: Any) -> bool:
    return not isinstance(cells, str) and hasattr(cells, "__len__")


def encoded(
    columns: Mapping[str, Cells], count: int, recipes: Sequence[Recipe], decimal: str = "."
) -> npt.NDArray[np.float32]:
    """Rows [N, F] as the network sees them; BadInput where not one column is as in the training."""
    names = [recipe["column"] for recipe in recipes]
    if names and not {*names} & {*columns}:
        raise BadInput(
            f"no column is one that the network was trained on; it has {some_of([*columns], 8)}, "
            f"needed: {some_of(names, 8)}"
        )
    return encode(columns, recipes, count, decimal)


def missing_columns(columns: Mapping[str, Cells], recipes: Sequence[Recipe]) -> list[str]:
    """The columns that were trained on and are not there, which count as missing in each row."""
    return [recipe["column"] for recipe in recipes if recipe["column"] not in columns]


def as_texts(samples: Any) -> list[str]:
    """Texts of what a caller holds: one, or several."""
    if isinstance(samples, str):
        return [samples]
    if isinstance(samples, Path) or not hasattr(samples, "__iter__"):
        raise BadInput(f"texts are a {type(samples).__name__}; accepted: a text, or several")
    return as_they_are_read(list(samples))
