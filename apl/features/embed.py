"""From a data set to one of features: what the store has is read, the rest is computed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from apl.cores import cores, one_thread
from apl.data.dataset import Dataset, Split
from apl.errors import Interrupted
from apl.features.backbone import Backbone, require_kind
from apl.features.catalog import (
    NONE,
    file_digest,
    is_file,
    is_own_function,
    licence_of,
    says,
    sized,
)
from apl.features.make import make_backbone
from apl.features.store import Digests, Halves, Store, as_numbers, as_rows, digests_of
from apl.features.vectors import read_vectors

Say = Callable[[str], None]
Progress = Callable[[int, int], None]  # samples done, samples in all

TURN = 10.0  # seconds that a process computes while others wait
BETWEEN_TURNS = 0.2  # seconds in which one of them begins: more than a waiting lock's poll


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Which features, and how they are computed.

    name, weights: as `make_backbone` takes them; digest: the sha256 of the file that decides them.
    device: of a network, the CPU where none is given; threads: 0 for all cores.  imports: the
    `module:function`s that the user typed.  say gets lines to tell, progress the samples that are
    computed and in all; should_stop is asked before each batch, and True raises Interrupted.
    """

    name: str
    weights: str = ""
    digest: str = ""
    device: torch.device | None = None
    threads: int = 0
    imports: tuple[str, ...] = ()
    say: Say = print
    progress: Progress = lambda done, total: None
    should_stop: Callable[[], bool] = lambda: False


def featured(
    data: Dataset, how: Embedding, whole: Dataset | None = None, *, train: bool = True
) -> Dataset:
    """The data set with its features as rows float16 [N, F] in the images' place; the columns that
    stand beside texts come before theirs.

    whole: the data set of which this one is a part, for vectors that are in its order.  train:
    whether the features of the training samples are wanted; else there are none of these.
    Data of these features already are returned as they are.  Raises BadInput for what does not fit.
    """
    if how.name == NONE or data.features:
        return data
    kind = data.kind
    require_kind(how.name, "images" if kind == "rows" and is_file(how.name) else kind, data.name)
    none = np.empty(0, np.int64)
    whole = whole or data
    data = data if train else dataclasses.replace(data, train=data.train.take(none))
    parts = {"train": data.train, "test": data.test}
    if is_file(how.name):
        made = read_vectors(how.name, parts, whole)
        decided_by: Mapping[str, Any] = {"sha256": how.digest}
    else:
        fitted_to = whole.train.texts if sized(how.name)[0] == "tfidf" else ()
        backbone = _backbone(how, fitted_to)
        decided_by = backbone.decided_by
        samples = {name: _samples(part) for name, part in parts.items()}
        all_of = {"train": whole.train, "test": whole.test}
        digests = {name: _digests(part, all_of[name]) for name, part in parts.items()}
        made = _rows_of(backbone, samples, digests, how)
    return dataclasses.replace(
        data,
        train=_with_rows(data.train, made["train"], kind),
        test=_with_rows(data.test, made["test"], kind),
        mean=(),
        std=(),
        features=how.name,
        made_by={"name": how.name, "what": says(how.name), **_licence(how.name), **decided_by},
    )


def _licence(name: str) -> dict[str, str]:
    licence = licence_of(name)
    return {"licence": licence} if licence else {}


def _samples(split: Split) -> Any:
    return split.texts if split.texts else split.images


_HASHED: deque[tuple[Any, int, Digests]] = deque(maxlen=4)
"""The samples that were hashed last, all of a split, with torch's count of the changes to them: the
runs of a study share them.  No others are the same object while they are kept here."""


def _digests(split: Split, whole: Split) -> Digests:
    """The digests of the samples of a split, which is `whole` or a part of it."""
    samples, everything = _samples(split), _samples(whole)
    if samples is not everything and (split.at is None or whole.at is not None):
        return digests_of(samples)
    version = getattr(everything, "_version", 0)
    kept = (each for known, then, each in _HASHED if known is everything and then == version)
    digests = next(kept, None)
    if digests is None:
        digests = digests_of(everything)
        _HASHED.append((everything, version, digests))
    return digests if samples is everything else digests[split.at]


def _with_rows(split: Split, rows: Halves, kind: str) -> Split:
    made = torch.from_numpy(rows)
    if kind == "texts":
        if split.images.shape[1]:
            made = torch.cat([split.images.half(), made], 1)
        return dataclasses.replace(split, images=made)
    if kind == "rows":
        return dataclasses.replace(split, images=made)
    # Of the samples of a part, their own images are its pixels.
    return dataclasses.replace(split, images=made, pixels=split.images, at=None)


def _backbone(how: Embedding, texts: Sequence[str]) -> Backbone:
    device = how.device or torch.device("cpu")
    if texts or is_own_function(how.name):
        return make_backbone(how.name, device=device, imports=how.imports, texts=texts)
    digest = file_digest(how.name, how.weights)
    return _kept(how.name, how.weights, digest, device)


@functools.lru_cache(maxsize=2)  # a study's worker trains many heads on the features of one network
def _kept(name: str, weights: str, digest: str, device: torch.device) -> Backbone:
    return make_backbone(name, weights=weights, device=device)


def rows_of(backbone: Backbone, samples: Any, threads: int = 0) -> npt.NDArray[np.float32]:
    """The features float32 [N, F] of samples that are not kept: images uint8 [N, H, W, C] as a
    tensor, or texts; threads: 0 for all cores."""
    starts = range(0, len(samples), backbone.batch)
    batches = [samples[start : start + backbone.batch] for start in starts]
    workers = (threads or cores()) if backbone.parallel else 1

    def compute(place: int) -> npt.NDArray[np.float32]:
        batch = batches[place]
        return as_numbers(
            backbone.of(batch), len(batch), backbone.name, range(starts[place], len(samples))
        )

    with one_thread(workers > 1), ThreadPoolExecutor(workers) as pool:
        return np.concatenate(list(pool.map(compute, range(len(batches)))))


def _rows_of(
    backbone: Backbone, parts: dict[str, Any], digests: dict[str, Digests], how: Embedding
) -> dict[str, Halves]:
    """The features of the samples of each part, from the store, once they are all there.

    Processes write in turns, so that a few samples need not wait for another's many."""
    store = Store.of(backbone)
    told: list[str] = []

    def say_once(line: str) -> None:
        if line not in told:
            told.append(line)
            how.say(line)

    for turn in itertools.count():
        found = {name: store.find(wanted) for name, wanted in digests.items()}
        if all((at >= 0).all() for at in found.values()):
            break
        if turn:
            time.sleep(BETWEEN_TURNS)
        with store.writing(say_once):
            store.append(_computed(backbone, parts, digests, store, how))
    return {name: store.rows(at) for name, at in found.items()}


def _computed(
    backbone: Backbone,
    parts: dict[str, Any],
    digests: dict[str, Digests],
    store: Store,
    how: Embedding,
) -> Iterator[tuple[Digests, Halves]]:
    """Digests and features of the samples that the store has not, each once, in batches, for the
    time of a turn."""
    todo: list[tuple[str, int]] = []
    seen: set[bytes] = set()
    for name, wanted in digests.items():
        for i in np.flatnonzero(store.find(wanted) < 0).tolist():
            key = wanted[i].tobytes()
            if key not in seen:
                seen.add(key)
                todo.append((name, i))
    total = sum(map(len, digests.values()))
    done = total - len(todo)
    batches = [todo[j : j + backbone.batch] for j in range(0, len(todo), backbone.batch)]

    def compute(batch: list[tuple[str, int]]) -> tuple[Digests, Halves]:
        samples = _batch(parts, batch)
        rows = as_rows(backbone.of(samples), len(batch), backbone.name, [i for _, i in batch])
        return np.array([digests[name][i] for name, i in batch]), rows

    end = time.monotonic() + TURN
    workers = (how.threads or cores()) if backbone.parallel else 1
    with one_thread(workers > 1), ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[tuple[Digests, Halves]]] = deque()
        try:
            for k, batch in enumerate(batches):
                if how.should_stop():
                    raise Interrupted
                if k and time.monotonic() > end:
                    break
                waiting.append(pool.submit(compute, batch))
                if len(waiting) > 2 * workers:
                    names, rows = waiting.popleft().result()
                    done += len(rows)
                    how.progress(done, total)
                    yield names, rows
            while waiting:
                names, rows = waiting.popleft().result()
                done += len(rows)
                how.progress(done, total)
                yield names, rows
        finally:
            for each in waiting:
                each.cancel()


def _batch(parts: dict[str, Any], batch: list[tuple[str, int]]) -> Any:
    """The samples of a batch: images [B, H, W, C], or a list of texts."""
    name = batch[0][0]
    if isinstance(parts[name], Tensor) and all(part == name for part, _ in batch):
        return parts[name][torch.tensor([i for _, i in batch])]
    samples = [parts[part][i] for part, i in batch]
    return torch.stack(samples) if isinstance(samples[0], Tensor) else samples
