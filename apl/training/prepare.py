"""From a config to what is trained: data and their noise, the loss, the network."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apl.config.config import Config, code_digest, labels_digest, map_digest, own_names
from apl.data.dataset import Dataset, Split, balanced_subset, copies
from apl.data.decisions import Decisions, names_now, read_labels
from apl.data.files import find_decoded
from apl.data.listing import held_out
from apl.data.sources import built_in, human_labels
from apl.errors import BadInput
from apl.features.catalog import NONE, file_digest
from apl.features.embed import Embedding, Progress, Say, featured
from apl.losses.catalog import REPAIR
from apl.losses.modules import make_loss, needs_of
from apl.noise.draw import corrupt, corrupt_each
from apl.noise.files import read_published
from apl.noise.instance import ROWS, Inputs
from apl.noise.labels import MOST_CLASSES, Labels
from apl.noise.matrices import MATRICES
from apl.training.fit import Criterion
from apl.training.heads import make_head
from apl.training.listener import never
from apl.training.machine import Machine, choose_device
from apl.training.networks import make_network
from apl.training.repair import RepairedLabels
from apl.usercode import is_own, look_up


def data_of(config: Config, machine: Machine) -> Dataset:
    """The data set that a config means.  Data of the user's own are found in the cache by the
    digest of their content, since a config holds no path.

    Raises BadInput where it is not on this machine.
    """
    if not config.dataset_sha256:
        return built_in(config.dataset, machine.data_dir, machine.download)
    return _decoded(config.dataset, config.dataset_sha256, config.image_size)


@functools.lru_cache(maxsize=2)
def _decoded(name: str, digest: str, image_size: int) -> Dataset:
    found = find_decoded(digest, image_size)
    if found is None:
        raise BadInput(
            f"{name} (sha256 {digest[:12]}, {image_size} pixels) is not decoded on this machine, "
            "or has changed since: give its path with --dataset"
        )
    return found


HELD_OUT = 10  # with --select, one training image in so many is kept for choosing


def prepare(
    config: Config,
    machine: Machine | None = None,
    data: Dataset | None = None,
    how: Embedding | None = None,
) -> Dataset:
    """The data of a run: cut to size, with noise, as features where the config says so.

    Its training images are cut to `train_size`, their labels are corrupted, and features stand in
    the images' place where the config says so.

    Args:
        config: What the run is.
        machine: Where and how, None for what a `Machine` is by default.
        data: Another data set than the config's. Artificial noise takes its given labels for true.
        how: How features are computed that are not in the cache yet, as `embedding` makes it.

    Returns:
        The data set as it is trained on.

    Raises:
        BadInput: Data are not on this machine, or do not fit the config.
    """
    machine = machine or Machine()
    data = data or data_of(config, machine)
    labelled = with_noise(config, machine, data)
    if config.features == NONE:
        return labelled
    how = how or embedding(config, machine)
    if config.features_sha256 not in ("", how.digest):
        named = config.features if config.weights in ("", "default") else config.weights
        raise _changed(named)
    return featured(labelled, how, data)


def embedding(
    config: Config,
    machine: Machine,
    *,
    say: Say = print,
    progress: Progress = lambda done, total: None,
    should_stop: Callable[[], bool] = never,
) -> Embedding:
    """How the features of a config are computed on this machine."""
    return Embedding(
        config.features,
        config.weights,
        file_digest(config.features, config.weights),
        choose_device(machine.device),
        machine.threads_for(config.dataset),
        machine.imports,
        say,
        progress,
        should_stop,
    )


def with_noise(config: Config, machine: Machine, data: Dataset) -> Dataset:
    """The data cut to the config's `train_size`, with its noise in the training labels."""
    train = data.train
    if config.noise != "none" and data.num_classes > MOST_CLASSES:
        raise BadInput(
            f"{config.noise} noise of {data.num_classes:,} classes; accepted: none, or at most "
            f"{MOST_CLASSES:,} classes"
        )
    if config.map_sha256 and map_digest(config.map, config.noise) != config.map_sha256:
        raise _changed(config.map)
    if config.noise == "human":
        people = human_labels(config.map, train.labels.true, machine.data_dir)
        # Known by its size: in a small subset nobody may have named the last class.
        labels = Labels(people, train.labels.true, np.eye(data.num_classes))
        train = dataclasses.replace(train, labels=labels)
    elif config.noise == "file":
        given = read_published(config.map, train.labels.given, data.num_classes)
        train = train.take(np.arange(len(given)))  # PMD's files leave out the last tenth
        labels = Labels(given, train.labels.given, np.eye(data.num_classes))
        train = dataclasses.replace(train, labels=labels)
    elif config.noise in ROWS:  # of all images, so that a part of them has the same labels
        train = dataclasses.replace(train, labels=by_image(config, data))
    if config.train_size > len(train):
        raise BadInput(
            f"train_size is {config.train_size}, but {data.name} has {len(train)} training images"
        )
    if config.train_size:
        # Balanced by the true classes where they are known: people's labels choose no images.
        classes = train.labels.true if train.labels.known.all() else train.labels.given
        draw = config.seed if config.fresh_data else None
        train = train.take(balanced_subset(classes, config.train_size, draw))
    if len(train) < 2:
        raise BadInput(f"training needs at least 2 images, got {len(train)}")
    labels = train.labels  # as they are, where no noise is added to labels not known to be true
    if config.noise in ("human", "file"):
        labels = dataclasses.replace(labels, transition=labels.empirical)
    elif (
        config.noise not in ROWS
        and data.num_classes <= MOST_CLASSES
        and (config.noise != "none" or np.array_equal(labels.given, labels.true))
    ):
        transition = MATRICES[config.noise](data.class_names, config.rate, config.map)
        labels = corrupt(labels.given, transition, config.method, config.seed)
    train = dataclasses.replace(train, labels=labels)
    if config.labels:
        if labels_digest(config.labels) != config.labels_sha256:
            raise _changed(config.labels)
        return relabelled(dataclasses.replace(data, train=train), Path(config.labels))
    return dataclasses.replace(data, train=train)


def by_image(config: Config, data: Dataset) -> Labels:
    """The labels of a noise that depends on the image."""
    if not data.train.images.shape[-1]:
        raise BadInput(
            f"{config.noise} noise depends on pixels or numbers, of which {data.name} has none; "
            "accepted for texts: none, sym, asym"
        )
    rng = np.random.default_rng(config.seed)
    inputs = Inputs(data.train.images.numpy(), data.mean, data.std)
    given = data.train.labels.given
    rows = ROWS[config.noise](inputs, given, data.num_classes, config.rate, config.map, rng)
    return corrupt_each(given, rows, config.method, rng)


def relabelled(data: Dataset, file: Path) -> Dataset:
    """The samples with the labels that a file gives them, without those that it drops."""
    train, test = data.train, data.test
    said, of_test = read_decisions(file, data)
    names = train.names or tuple(map(str, range(len(train))))  # numbers outlive what is left out
    train = _decided(dataclasses.replace(train, names=names), said)
    if of_test.decided.any():
        test = _decided(test, of_test)
    for split, what in ((train, "training"), (test, "test")):
        if not len(split):
            raise BadInput(f"{file} drops every {what} sample; accepted: some that stay")
    return dataclasses.replace(data, train=train, test=test)


def read_decisions(
    file: Path, data: Dataset, now: Mapping[str, str] = MappingProxyType({})
) -> tuple[Decisions, Decisions]:
    """What a file decides on the training samples and on the test samples of data; on these only
    where samples have names.

    now: what samples are called now, by the names that they had when the file was written, ''
    where they are gone.  Raises BadInput as `read_labels` does.
    """
    train, test = data.train, data.test
    if not (train.names and test.names):
        nothing = np.zeros(len(test), dtype=bool)
        said = read_labels(file, train.labels.given, data.class_names, train.names)
        return said, Decisions(test.labels.given, ~nothing, nothing)
    given = np.concatenate([train.labels.given, test.labels.given])
    names = (*train.names, *test.names)
    said = read_labels(file, given, data.class_names, names, names_now(now, data))
    count = len(train)
    first, second = (
        Decisions(said.labels[part], said.keep[part], said.decided[part])
        for part in (slice(count), slice(count, None))
    )
    return first, second


def _decided(split: Split, said: Decisions) -> Split:
    labels = dataclasses.replace(split.labels, given=said.labels)
    split = dataclasses.replace(split, labels=labels, decided=said.decided)
    return split if said.keep.all() else split.take(np.flatnonzero(said.keep))


def hold_out(data: Dataset) -> tuple[Dataset, Split]:
    """The data without a class-balanced tenth of its training samples, and that tenth, its labels
    as given: what a choice may look at where nobody knows the truth.  Copies of one image of the
    user's own are held out together or not at all, where that leaves any."""
    given = data.train.labels.given
    chosen = balanced_subset(given, max(1, len(given) // HELD_OUT))
    alike = copies(data.train) if data.digest else None
    if alike is not None:
        out = held_out(given, alike, HELD_OUT)
        if out.any() and np.intersect1d(alike[chosen], np.delete(alike, chosen)).size:
            chosen = np.flatnonzero(out)
    rest = np.setdiff1d(np.arange(len(given)), chosen)
    return dataclasses.replace(data, train=data.train.take(rest)), data.train.take(chosen)


def check_code(config: Config, machine: Machine, wanted: Sequence[str]) -> None:
    """Raise BadInput unless the user typed what is wanted of the code that the config names, and
    it is as it was; without code of the user's own there is nothing to check."""
    if not config.code_sha256:
        return
    own = own_names(vars(config))
    for name in own:
        if name in wanted and name not in machine.imports:
            raise BadInput(
                f"{name!r} is code of your own, which is imported only where you type it: give it "
                "to --network, --loss or --features, in Python to Machine(imports=...)"
            )
    if code_digest(own) != config.code_sha256:
        raise _changed(", ".join(own))


def find_criterion(config: Config, data: Dataset) -> Criterion:
    """The loss that a config means: ours by name, or `module:name` of the user's own, a function
    of (logits [B, K], targets [B]) or a class of such modules, called with the classes' number."""
    classes = data.num_classes
    if config.loss == REPAIR:
        return RepairedLabels(len(data.train), classes)
    if not is_own(config.loss):
        given: dict[str, Any] = dict(config.params)
        for name in needs_of(config.loss):
            given[name] = len(data.train) if name == "num_samples" else _known_matrix(data)
        return make_loss(config.loss, classes, **given)
    own = look_up(config.loss)
    made: Criterion = own(classes) if isinstance(own, type) else own
    if not callable(made):
        raise BadInput(f"loss is {config.loss!r}, a {type(made).__name__}; accepted: a function")
    return made


def _changed(what: str) -> BadInput:
    return BadInput(f"{what} has changed since the run was asked for: give the command again")


def _known_matrix(data: Dataset) -> Tensor:
    """The noise matrix [K, K] of the training labels, for a loss that corrects by it."""
    if data.train.labels.transition is None:
        raise BadInput(
            f"the noise of {data.name} has no known matrix, which this loss corrects by: add "
            "--noise, or take another loss"
        )
    return torch.from_numpy(data.train.labels.transition).float()


def build_network(config: Config, data: Dataset, machine: Machine) -> nn.Module:
    """The network that a config means, initialised from its seed."""
    shape: Sequence[int] = data.train.images.shape[1:]
    if config.crop_size:
        shape = (config.crop_size, config.crop_size, shape[-1])
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        if config.features != NONE:
            return make_head(config, data, machine.imports)
        return make_network(
            config.network,
            shape,
            data.num_classes,
            config.width,
            weights=config.weights,
            imports=machine.imports,
            dropout=config.dropout,
            seed=config.seed,
        )
