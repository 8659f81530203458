"""Data sets, batches and networks."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from apl.config.config import make_config
from apl.data.dataset import balanced_subset
from apl.data.folders import data_folder
from apl.data.pixels import BORDER, crop_and_flip, pad, to_float
from apl.data.sources import human_labels, load_data
from apl.errors import BadInput
from apl.names import HUMAN_LABELS, NETWORKS
from apl.training.batches import Batches
from apl.training.machine import Machine
from apl.training.networks import make_network
from apl.training.prepare import prepare

Batch = tuple[torch.Tensor, torch.Tensor]


def test_digits_are_there_without_a_download() -> None:
    data = load_data("digits", download=False)
    assert data.train.images.shape == (1347, 8, 8, 1)
    assert data.test.images.shape == (450, 8, 8, 1)
    assert np.bincount(data.test.labels.given).tolist() == [45] * 10
    for split in (data.train, data.test):  # what a data set gives is taken for true
        assert split.labels.known.all()
        assert not split.labels.wrong.any()
    theirs = load_digits()  # which is not asked, since it takes a second to import
    found = sorted(
        (label, *(image.flatten() / (255 / 16)).round().int().tolist())
        for split in (data.train, data.test)
        for image, label in zip(split.images, split.labels.given.tolist(), strict=True)
    )
    wanted = zip(theirs.target.tolist(), *theirs.data.astype(int).T.tolist(), strict=True)
    assert found == sorted(wanted)
    pixels = to_float(data.train.images, data.mean, data.std)
    assert abs(float(pixels.mean())) < 1e-3
    assert abs(float(pixels.std()) - 1) < 1e-3


@pytest.mark.slow
def test_real_cifar10(cifar10: str) -> None:
    data = load_data(cifar10, download=False)
    assert data.train.images.shape == (50_000, 32, 32, 3)
    assert data.train.images.dtype == torch.uint8
    assert np.bincount(data.train.labels.given).tolist() == [5000] * 10
    assert data.class_names[9] == "truck"
    values = np.arange(256) / 255
    for channel, pixels in enumerate(data.train.images.unbind(3)):
        share = torch.bincount(pixels.flatten(), minlength=256).numpy() / pixels.numel()
        mean = (share * values).sum()
        assert mean == pytest.approx(data.mean[channel], abs=1e-4)
        std = (share * (values - mean) ** 2).sum() ** 0.5
        assert std == pytest.approx(data.std[channel], abs=1e-4)


@pytest.mark.slow
def test_human_labels_have_the_published_rates(cifar10: str) -> None:
    clean = load_data(cifar10, download=False).train.labels.given
    wrong = {name: (human_labels(name, clean) != clean).mean() for name in HUMAN_LABELS}
    published = {
        "aggre": 9.03,
        "random1": 17.23,
        "random2": 18.12,
        "random3": 17.64,
        "worse": 40.21,
    }
    assert {k: 100 * v for k, v in wrong.items()} == pytest.approx(published, abs=0.03)
    with pytest.raises(BadInput, match="in their order"):
        human_labels("worse", clean[::-1].copy())


@pytest.mark.slow
def test_people_s_labels_choose_no_images_and_their_matrix_has_every_class(cifar10: str) -> None:
    machine = Machine(download=False)
    asked = {"dataset": cifar10, "train_size": 20}
    human = prepare(make_config(**asked, noise="human"), machine).train
    true = prepare(make_config(**asked, noise="none"), machine).train
    assert torch.equal(human.images, true.images)
    assert np.bincount(human.labels.true).tolist() == [2] * 10
    assert (human.labels.true == true.labels.given).all()
    assert human.labels.wrong.any()
    assert human.labels.transition is not None
    assert human.labels.transition.shape == (10, 10)
    np.testing.assert_allclose(human.labels.transition, human.labels.empirical)


@given(st.integers(0, 1000), st.integers(2, 6), st.integers(1, 100))
@settings(max_examples=50, deadline=None)
def test_balanced_subset(seed: int, num_classes: int, count: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.arange(120) % num_classes)
    chosen = balanced_subset(labels, count)
    counts = np.bincount(labels[chosen], minlength=num_classes)
    assert len(np.unique(chosen)) == count
    assert counts.max() - counts.min() <= 1 or counts.max() <= 120 // num_classes
    assert (chosen == balanced_subset(labels, count)).all()


def test_crop_and_flip_is_the_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (7, 6, 5, 3), generator=generator, dtype=torch.uint8)
    indices = torch.tensor([3, 3, 0, 6])
    offsets = torch.tensor([[0, 8], [4, 4], [8, 0], [2, 7]])
    flips = torch.tensor([True, False, True, False])
    got = crop_and_flip(pad(images), indices, offsets, flips)
    for row, (index, (top, left), flip) in enumerate(
        zip(indices.tolist(), offsets.tolist(), flips.tolist(), strict=True)
    ):
        wide = np.pad(images[index].numpy(), ((BORDER, BORDER), (BORDER, BORDER), (0, 0)))
        crop = wide[top : top + 6, left : left + 5]
        assert (got[row].numpy() == (crop[:, ::-1] if flip else crop)).all()


def test_batches_are_each_image_once_an_epoch_and_depend_on_seed_and_epoch_alone() -> None:
    data, device = load_data("digits"), torch.device("cpu")

    def epoch_of(seed: int, epoch: int, first: int = 0, augment: bool = True) -> list[Batch]:
        asked = make_config(batch_size=500, seed=seed, augment=augment)
        return list(Batches(data, asked, device).of(epoch, first))

    whole = epoch_of(0, 3)
    assert len(whole) == len(Batches(data, make_config(batch_size=500), device)) == 3
    chosen = torch.cat([indices for indices, _ in whole])
    assert chosen.sort().values.tolist() == list(range(1347))
    # An epoch that goes on in its middle goes on as it would have.
    for (a, images), (b, again) in zip(whole[1:], epoch_of(0, 3, first=1), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(images, again)
    assert not torch.equal(chosen, torch.cat([indices for indices, _ in epoch_of(0, 4)]))
    assert not torch.equal(chosen, torch.cat([indices for indices, _ in epoch_of(1, 3)]))
    indices, plain = epoch_of(0, 3, augment=False)[0]
    assert torch.equal(plain, data.to_float(data.train.images[indices]))
    assert plain.shape == (500, 1, 8, 8)


def test_a_split_keeps_images_and_labels_together() -> None:
    split = load_data("digits").train
    chosen = np.array([7, 3, 3])
    part = split.take(chosen)
    assert len(part) == 3
    assert torch.equal(part.images, split.images[[7, 3, 3]])
    assert part.labels.given.tolist() == split.labels.given[chosen].tolist()
    assert part.labels.true.tolist() == split.labels.true[chosen].tolist()


def test_no_download_says_where_the_archive_belongs(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cifar-10-python\.tar\.gz.*--no-download"):
        load_data("cifar10", tmp_path, download=False)
    with pytest.raises(BadInput, match=r"'cifra10'; accepted: digits.*did you mean 'cifar10'"):
        load_data("cifra10")


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_cifar_file_is_named(cifar10: str, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    shutil.copytree(data_folder() / folder.name, folder)
    broken = folder / "data_batch_3"
    content = bytearray(broken.read_bytes())
    content[123_456] ^= 1
    if damage == "delete":
        broken.unlink()
    else:
        broken.write_bytes(content if damage == "flip" else content[:1000])
    with pytest.raises(BadInput, match=r"damaged or incomplete \(data_batch_3\)"):
        load_data("cifar10", tmp_path, download=False)


def write_mnist(root: Path, side: int, top_label: int) -> None:
    """Files in MNIST's format, with 5 images of side x side and labels up to top_label."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    labels = bytes([*range(4), top_label])
    for split in ("train", "t10k"):
        images = struct.pack(">IIII", 2051, 5, side, side) + bytes(5 * side * side)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 5) + labels)


@pytest.mark.parametrize(
    ("side", "top_label", "message"),
    [
        (28, 9, None),
        (20, 9, r"images of mnist must be \[N, 28, 28, 1\].*got \[5, 20, 20, 1\]"),
        (28, 10, r"labels of mnist must lie in \[0, 10\)"),
    ],
)
def test_wrong_sizes_and_labels_in_a_data_set(
    tmp_path: Path, side: int, top_label: int, message: str | None
) -> None:
    write_mnist(tmp_path, side, top_label)
    if message is None:
        assert len(load_data("mnist", tmp_path, download=False).test) == 5
    else:
        with pytest.raises(BadInput, match=message):
            load_data("mnist", tmp_path, download=False)


def test_data_folder_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("APL_DATA", raising=False)
    assert data_folder() == tmp_path / "cache" / "apl"
    monkeypatch.setenv("APL_DATA", str(tmp_path / "env"))
    assert data_folder() == tmp_path / "env"
    assert data_folder("given") == Path("given")


SHAPES = {
    "cnn8": (32, 32, 3),
    "cnn5": (32, 32, 3),
    "cnn4": (28, 28, 1),
    "resnet34": (32, 32, 3),
    "mlp": (8, 8, 1),
    "linear": (8, 8, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_logits_and_every_parameter_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    network = make_network(name, SHAPES[name], 7, 64)
    height, width, channels = SHAPES[name]
    logits = network(torch.randn(4, channels, height, width))
    assert logits.shape == (4, 7)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_the_paper_networks_have_the_paper_sizes() -> None:
    shapes = [tuple(p.shape) for p in make_network("cnn8", (32, 32, 3), 10, 64).parameters()]
    convs = [s[0] for s in shapes if len(s) == 4]
    assert convs == [64, 64, 128, 128, 196, 196]
    assert [s for s in shapes if len(s) == 2] == [(256, 196 * 16), (10, 256)]
    shapes = [tuple(p.shape) for p in make_network("cnn4", (28, 28, 1), 10, 64).parameters()]
    assert [s[0] for s in shapes if len(s) == 4] == [32, 64]
    assert [s for s in shapes if len(s) == 2] == [(128, 64 * 49), (10, 128)]


def test_bad_networks() -> None:
    with pytest.raises(BadInput, match="unknown network 'vgg'; accepted: cnn8"):
        make_network("vgg", (32, 32, 3), 10, 64)
    with pytest.raises(BadInput, match="too small for this network"):
        make_network("cnn8", (4, 4, 1), 10, 64)
