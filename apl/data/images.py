"""Files of images to one file of pixels: what is met in the wild, by several processes.

No torch here: the processes that decode load this file and little else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import queue
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from apl.cores import cores, leave_ctrl_c_to_the_parent
from apl.data.depth import Pixels, range_of, to_bytes
from apl.data.listing import why_not
from apl.data.reading import AS_USUAL, Reading
from apl.errors import one_line
from apl.files import write_atomic
from apl.names import SIDE

if TYPE_CHECKING:
    from PIL import Image

Progress = Callable[[int, int], None]  # images done, images in all

# Of what is opened, whatever it is called: a format that runs a program (EPS) is not among them.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
AHEAD = 32  # images that are read before they are asked for

# -------------------------------------------------------------------------------------- one image


class Broken(Exception):
    """An image that can't be read, and why."""


class Misfit(Exception):
    """An image that is not what the plan takes all for: what its fields must be for it."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(", ".join(changes))
        self.changes = changes


@dataclass(frozen=True)
class Plan:
    """What images become: `side` pixels a side, one channel where all are `grey`; `exact`: they
    have that size already; `low` to `high`: what becomes 0 to 255 in those of more than 8 bits,
    0 to 0 where there are none."""

    side: int
    grey: bool
    exact: bool
    low: float = 0.0
    high: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.side, self.side, 1 if self.grey else 3


GREY = frozenset(("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"))
_ALPHA = frozenset(("LA", "La", "RGBA", "RGBa", "PA"))
_ORIENTATION = 0x0112


def read_image(
    path: str, plan: Plan, most: int, convert: Callable[[Image.Image, Plan], Pixels] | None = None
) -> tuple[Pixels, bytes]:
    """An image as the plan wants it, [H, W, C], and the digest of its file.  One of more than
    `most` pixels is broken, unless it is a JPEG, which is decoded smaller.  convert: another way
    than `to_pixels` from the open file to pixels."""
    from PIL import Image, UnidentifiedImageError

    try:
        with open(path, "rb") as file:
            content = file.read()
    except (OSError, ValueError) as error:
        raise Broken(why_not(error)) from None
    if not content:
        raise Broken("an empty file")
    try:
        with _no_limit(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _draft(image, plan.side)
            if math.prod(image.size) > most:
                raise Broken(
                    f"{math.prod(image.size):,} pixels, more than the {most:,} of --max-pixels"
                )
            return (convert or to_pixels)(image, plan), hashlib.sha256(content).digest()
    except (Broken, Misfit):
        raise
    except UnidentifiedImageError:
        raise Broken(f"no image ({', '.join(FORMATS)})") from None
    except Exception as error:  # a damaged image raises nearly anything
        raise Broken(one_line(error)[:200]) from None


def whole_pictures(paths: Sequence[str], side: int) -> Iterator[Image.Image | None]:
    """Images to look at, whole and upright, 8 bits a channel, at most `side` pixels on their longer
    side; None for what can't be read, or would take much memory.  AHEAD of them wait in memory at
    most, however slowly they are taken."""
    with _no_limit(), ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(paths), AHEAD):
            yield from pool.map(
                lambda path: _whole_picture(path, side), paths[start : start + AHEAD]
            )


def _whole_picture(path: str, side: int) -> Image.Image | None:
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            _draft(image, side)
            if math.prod(image.size) > AS_USUAL.max_pixels:
                return None
            found = ImageOps.exif_transpose(image)
            if found.mode[0] in "IF":
                values = np.asarray(found)
                found = Image.fromarray(to_bytes(values, *range_of(values)))
            found = _opaque(found)
            found = found if found.mode in ("L", "RGB") else found.convert("RGB")
            found.thumbnail((side, side))
            return found
    except Exception:  # a damaged image raises nearly anything
        return None


def opened(content: bytes | str) -> Image.Image:
    """An image of its bytes, or of the file at a path.  Raises Broken where it is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        data = content if isinstance(content, bytes) else Path(content).read_bytes()
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
    except UnidentifiedImageError:
        raise Broken(f"no image ({', '.join(FORMATS)})") from None
    except Exception as error:  # a damaged image raises nearly anything
        raise Broken(one_line(error)[:200]) from None
    return image


@contextlib.contextmanager
def _no_limit() -> Iterator[None]:
    """Without Pillow's own limit, which it warns of, and as it was afterwards."""
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _draft(image: Image.Image, side: int) -> None:
    """Have a JPEG be decoded at 1/2, 1/4 or 1/8; twice the wanted size loses nothing that shows."""
    if image.format == "JPEG":
        image.draft(None, (2 * side, 2 * side))


def to_pixels(image: Image.Image, plan: Plan) -> Pixels:
    """The first frame, upright, 8 bits a channel, what is transparent white; the shorter side
    resized to the plan's and the middle cut out."""
    from PIL import Image, ImageOps

    side = plan.side
    if plan.grey and image.mode not in GREY:
        image.load()  # what can't be read has no say
        raise Misfit(grey=False)
    if not plan.exact:
        _draft(image, side)
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        image = _eight_bits(image, plan)
    image = _opaque(image)
    mode = "L" if plan.grey else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    width, height = image.size
    if (width, height) != (side, side):
        if plan.exact:
            image.load()
            raise Misfit(exact=False)
        crop = min(width, height)
        left, top = (width - crop) / 2, (height - crop) / 2
        box = (left, top, left + crop, top + crop)
        image = image.resize((side, side), Image.Resampling.BILINEAR, box)
    return np.asarray(image).reshape(plan.shape)


def _opaque(image: Image.Image) -> Image.Image:
    """An image on white where it is transparent."""
    from PIL import Image

    if image.mode not in _ALPHA and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _eight_bits(image: Image.Image, plan: Plan) -> Image.Image:
    """A grey image of more than 8 bits in 8; Pillow itself would cut all above 255 to white."""
    from PIL import Image

    values = np.asarray(image)
    low, high = range_of(values)
    if low < plan.low or high > plan.high:
        raise Misfit(low=min(low, plan.low), high=max(high, plan.high))
    return Image.fromarray(to_bytes(values, plan.low, plan.high))


def _guess(paths: Sequence[str], reading: Reading) -> Plan:
    """What the images look like to be, from some of them; the rest must confirm it."""
    from PIL import Image

    sizes: set[tuple[int, int]] = set()
    greys: set[bool] = set()
    ranges = [(0.0, 0.0)]
    for path in paths[:: max(1, len(paths) // 64)]:
        with (
            contextlib.suppress(Exception),
            _no_limit(),
            Image.open(path, formats=FORMATS) as image,
        ):
            size, grey = image.size, image.mode in GREY
            _draft(image, reading.image_size or reading.side)
            if math.prod(image.size) > reading.max_pixels:
                continue
            deep = image.mode[0] in "IF"
            if size not in sizes or grey not in greys or deep:
                image.load()  # what can't be read has no say
            if deep:
                ranges.append(range_of(np.asarray(image)))
            sizes.add(size)
            greys.add(grey)
        if len(sizes) > 1 and False in greys and len(ranges) == 1:
            break
    plan = plan_of(sizes, greys == {True}, reading.image_size, reading.side)
    lows, highs = zip(*ranges, strict=True)
    return dataclasses.replace(plan, low=min(lows), high=max(highs))


def plan_of(sizes: set[tuple[int, int]], grey: bool, image_size: int, usual: int = SIDE) -> Plan:
    """The plan for images of these sizes (width, height), all grey or not, at the size that was
    asked for, 0 where none was, which leads to the usual one."""
    width, height = next(iter(sizes)) if len(sizes) == 1 else (0, 0)
    exact = 0 < width == height <= usual and image_size in (0, width)
    return Plan(width if exact else image_size or usual, grey, exact)


def wider(plan: Plan, changes: Mapping[str, Any], image_size: int, usual: int = SIDE) -> Plan:
    """The plan that an image fits too which did not fit this one, by what it must be for it."""
    side = image_size or usual if "exact" in changes else plan.side
    return dataclasses.replace(plan, side=side, **changes)


# ------------------------------------------------------------------------------- decoding them all

BLOCK = 128  # images that a process decodes before it says so,
BLOCK_BYTES = 2**24  # or fewer, where they take more memory than this
FEW = 512  # images that this process decodes by itself: another one takes as long to start
FLUSH_SECONDS = 5.0  # of decoding that a power cut may cost

IMAGES, DIGESTS, DONE = "images.u8", "digests.u8", "decoded.u8"
DECODING = "decoding.json"


def decode_block(task: Mapping[str, Any]) -> dict[str, Any]:
    """Decode the images of a block into their rows of the files in the cache; what was wrong."""
    plan = Plan(*task["plan"])
    count, start = len(task["paths"]), task["start"]
    pixels = np.zeros((count, *plan.shape), np.uint8)
    digests = np.zeros((count, 32), np.uint8)
    problems = {}
    for i, path in enumerate(task["paths"]):
        try:
            pixels[i], digest = read_image(path, plan, task["most"])
            digests[i] = np.frombuffer(digest, np.uint8)
        except Broken as error:
            problems[start + i] = str(error)
        except Misfit as error:
            return {"misfit": error.changes}
    folder = Path(task["folder"])
    for name, rows in ((IMAGES, pixels), (DIGESTS, digests)):
        with open(folder / name, "r+b") as file:
            file.seek(start * rows[0].size)
            file.write(rows.data)
    return {"misfit": {}, "start": start, "count": count, "problems": problems}


def work() -> None:
    """The life of a decoding process: a task a line in, what came of it a line out, until its
    parent closes the pipe or is gone."""
    leave_ctrl_c_to_the_parent()
    for line in sys.stdin:
        try:
            answer = decode_block(json.loads(line))
        except OSError as error:  # the disk of the cache: full, read-only or gone
            answer = {"error": [error.errno, error.strerror, error.filename]}
        print(json.dumps(answer), flush=True)


def _decode_blocks(
    tasks: Sequence[Mapping[str, Any]], workers: int
) -> Generator[dict[str, Any], None, None]:
    """The tasks' answers as they come, from this process or from several.

    They are plain processes and not multiprocessing's, which would run the user's script once more
    in each.
    """
    if workers < 2:
        yield from map(decode_block, tasks)
        return
    idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
    command = [sys.executable, "-c", "from apl.data.images import work; work()"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [
        subprocess.Popen(command, **pipes, env=env, text=True, encoding="utf-8")
        for _ in range(workers)
    ]

    def ask(task: Mapping[str, Any]) -> dict[str, Any]:
        process = idle.get()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            print(json.dumps(task), file=process.stdin, flush=True)
            line = process.stdout.readline()
        finally:
            idle.put(process)
        if not line:
            raise OSError(f"a decoding process ended with {process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise OSError(*answer["error"])
        return answer

    for process in processes:
        idle.put(process)
    threads = ThreadPoolExecutor(workers)
    try:
        for answer in as_completed([threads.submit(ask, task) for task in tasks]):
            yield answer.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        threads.shutdown()
        for process in processes:
            process.communicate()


def decode(
    folder: Path, paths: Sequence[str], reading: Reading, progress: Progress
) -> tuple[Plan, dict[int, str]]:
    """Decode every file into the cache, from where an interrupted decoding was; the plan that
    all fit, and what is broken by its position."""
    state = _kept(folder, len(paths)) or _begin(folder, len(paths), _guess(paths, reading))
    while True:
        plan, problems, done = state
        block = max(1, min(BLOCK, BLOCK_BYTES // math.prod(plan.shape)))
        todo = np.flatnonzero(~done)
        tasks = [
            {
                "folder": str(folder),
                "plan": dataclasses.astuple(plan),
                "most": reading.max_pixels,
                "start": int(start),
                "paths": paths[start : start + block],
            }
            for start in np.unique(todo // block) * block
        ]
        kept_at, misfit = time.monotonic(), {}
        answers = _decode_blocks(tasks, cores() if len(todo) > FEW else 1)
        with contextlib.closing(answers):
            for answer in answers:
                misfit = answer["misfit"]
                if misfit:
                    break
                done[answer["start"] : answer["start"] + answer["count"]] = True
                problems.update({int(k): why for k, why in answer["problems"].items()})
                progress(int(done.sum()), len(paths))
                if time.monotonic() - kept_at > FLUSH_SECONDS:
                    _keep(folder, state)
                    kept_at = time.monotonic()
        if not misfit:
            _keep(folder, state)
            return plan, problems
        state = _begin(folder, len(paths), wider(plan, misfit, reading.image_size, reading.side))


State = tuple[Plan, dict[int, str], npt.NDArray[np.bool_]]  # what is broken, what is decoded


def _begin(folder: Path, count: int, plan: Plan) -> State:
    for name, row in ((IMAGES, math.prod(plan.shape)), (DIGESTS, 32)):
        with open(folder / name, "wb") as file:
            file.truncate(count * row)
    state: State = plan, {}, np.zeros(count, bool)
    _keep(folder, state)
    return state


def _kept(folder: Path, count: int) -> State | None:
    """Where an interrupted decoding was, if one was here and its files are whole."""
    try:
        content = json.loads((folder / DECODING).read_text())
        plan = Plan(*content["plan"])
        problems = {int(k): str(why) for k, why in content["problems"].items()}
        done = np.fromfile(folder / DONE, np.uint8).astype(bool)
        sizes = [(folder / name).stat().st_size for name in (DONE, IMAGES, DIGESTS)]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = sizes == [count, count * math.prod(plan.shape), count * 32]
    return (plan, problems, done) if whole else None


def _keep(folder: Path, state: State) -> None:
    """Write down which images are decoded, after them: what is called decoded is on the disk."""
    plan, problems, done = state
    for name in (IMAGES, DIGESTS):
        with open(folder / name, "r+b") as file:
            os.fsync(file.fileno())
    content = {"plan": dataclasses.astuple(plan), "problems": problems}
    # The mask last: a problem without its mark is found again, a mark without it would be lost.
    write_atomic(folder / DECODING, json.dumps(content).encode())
    write_atomic(folder / DONE, done.astype(np.uint8).tobytes())
