"""Batches: augmentation, random resized crops, colours, views and tables."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as vision

from apl.config.config import make_config
from apl.data.dataset import Dataset, Split
from apl.data.pixels import (
    BORDER,
    crop_and_flip,
    jitter,
    middle,
    pad,
    plain_boxes,
    random_boxes,
    resized_crop,
)
from apl.errors import BadInput
from apl.noise.labels import Labels
from apl.training.batches import Batches, _generator

CPU = torch.device("cpu")
RECIPES = [
    {"augment": True},
    {"augment": True, "crop_size": 10},
    {"augment": False, "crop_size": 20, "colour": 0.4},
    {"augment": True, "crop_size": 10, "colour": 0.4, "views": 2},
    {"augment": True, "views": 3},
]


def photographs(count: int, height: int, width: int, channels: int = 3) -> torch.Tensor:
    """Smooth images uint8 [count, height, width, channels]."""
    coarse = torch.rand(count, channels, 4, 5, generator=torch.Generator().manual_seed(0))
    fine = functional.interpolate(coarse, (height, width), mode="bicubic").mul(255)
    return fine.clamp(0, 255).round().byte().permute(0, 2, 3, 1).contiguous()


def own(images: torch.Tensor) -> Dataset:
    labels = np.arange(len(images)) % 3
    split = Split(images, Labels(labels, labels, None))
    channels = images.shape[-1] if images.ndim == 4 else 0
    return Dataset("own", ("a", "b", "c"), split, split, (0.4,) * channels, (0.25,) * channels)


DATA = own(photographs(23, 16, 12))


def batches(data: Dataset = DATA, seed: int = 0, **recipe: object) -> Batches:
    views = recipe.pop("views", 1)
    asked = make_config(batch_size=5, seed=seed, **recipe)
    return Batches(data, asked, CPU, views=views)


def test_pad_crop_and_flip_draws_what_it_always_drew() -> None:
    """Old runs are made again: the numbers are drawn in the old order."""
    generator = _generator(7, 2)
    order = torch.randperm(23, generator=generator)
    offsets = torch.randint(0, 2 * BORDER + 1, (23, 2), generator=generator)
    flips = torch.rand(23, generator=generator) < 0.5
    padded = pad(DATA.train.images)
    start = 0
    for chosen, images in batches(seed=7, augment=True).of(2):
        end = start + len(chosen)
        assert torch.equal(chosen, order[start:end])
        expected = crop_and_flip(padded, chosen, offsets[start:end], flips[start:end])
        assert torch.equal(images, DATA.to_float(expected))
        start = end
    assert start == 23


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_interrupted_epoch_goes_on_exactly(recipe: dict[str, object]) -> None:
    whole = list(batches(**recipe).of(4))
    again = list(batches(**recipe).of(4, first=3))
    assert len(whole) == 5
    for (a, images), (b, same) in zip(whole[3:], again, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(images, same)
    for other in (batches(**recipe).of(5), batches(seed=1, **recipe).of(4)):
        chosen, images = next(iter(other))
        assert not torch.equal(chosen, whole[0][0])
        assert not torch.equal(images, whole[0][1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_batches_have_the_size_that_was_asked_for_and_channels_last(
    recipe: dict[str, object],
) -> None:
    crop = recipe.get("crop_size")
    size = (crop, crop) if crop else (16, 12)
    for chosen, images in batches(**recipe).of(0):
        views = [images.shape[0]] if "views" in recipe else []
        assert images.shape == (*views, len(chosen), 3, *size)
        assert views == ([recipe["views"]] if "views" in recipe else [])
        flat = images.flatten(0, 1) if views else images
        assert flat.is_contiguous(memory_format=torch.channels_last)
        assert flat.dtype == torch.float32


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_first_view_is_what_one_view_would_be(recipe: dict[str, object]) -> None:
    one = list(batches(**{**recipe, "views": 1}).of(3))
    two = list(batches(**{**recipe, "views": 2}).of(3))
    for (a, images), (b, views) in zip(one, two, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(images, views[0])
        assert not torch.equal(images, views[1])


boxes_within = st.integers(1, 16).flatmap(
    lambda tall: st.integers(1, 12).flatmap(
        lambda wide: st.tuples(
            st.integers(0, 16 - tall), st.integers(0, 12 - wide), st.just(tall), st.just(wide)
        )
    )
)


@given(st.lists(boxes_within, min_size=2, max_size=2), st.integers(16, 30), st.booleans())
@settings(max_examples=40, deadline=None)
def test_crops_no_larger_than_the_result_are_torchvision_s(
    boxes: list[tuple[int, int, int, int]], size: int, flip: bool
) -> None:
    images = DATA.train.images[:2]
    flips = torch.tensor([flip, not flip])
    got = resized_crop(images, torch.tensor(boxes).float(), size, flips)
    for image, box, flipped, ours in zip(images, boxes, flips, got, strict=True):
        there = image.permute(2, 0, 1).float()
        expected = vision.resized_crop(there, *box, [size, size], antialias=True)
        expected = expected.flip(2) if flipped else expected
        torch.testing.assert_close(ours.permute(2, 0, 1), expected, atol=2e-2, rtol=0)


def test_what_is_made_smaller_does_not_alias() -> None:
    board = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255
    whole = torch.tensor([[0.0, 0, 64, 64]])
    grey = resized_crop(board.byte()[None, :, :, None], whole, 16)
    torch.testing.assert_close(grey, torch.full((1, 16, 16, 1), 127.5))
    photograph = photographs(1, 64, 64)
    ours = resized_crop(photograph, whole, 16)[0].permute(2, 0, 1)
    theirs = vision.resize(photograph[0].permute(2, 0, 1).float(), [16, 16], antialias=True)
    assert (ours - theirs).abs().mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 64), (8, 8)])
def test_random_boxes_are_drawn_as_torchvision_draws_them(height: int, width: int) -> None:
    boxes = random_boxes(4000, height, width, torch.Generator().manual_seed(0))
    assert torch.equal(boxes, boxes.round())
    top, left, tall, wide = boxes.unbind(1)
    assert bool(((top >= 0) & (left >= 0) & (tall >= 1) & (wide >= 1)).all())
    assert bool(((top + tall <= height) & (left + wide <= width)).all())
    image, ratios = torch.empty(1, height, width), [3 / 4, 4 / 3]
    torch.manual_seed(0)
    draws = [RandomResizedCrop.get_params(image, [0.08, 1], ratios) for _ in range(4000)]
    theirs = torch.tensor(draws).float()
    # The standard error of a mean of 4,000 is a sixtieth of the spread; here are four of them.
    for ours, other in (
        (tall * wide, theirs[:, 2] * theirs[:, 3]),
        ((wide / tall).log(), (theirs[:, 3] / theirs[:, 2]).log()),
        (top, theirs[:, 0]),
        (left, theirs[:, 1]),
    ):
        bound = 4 * float((ours.var() + other.var()).sqrt()) / len(ours) ** 0.5
        assert abs(float(ours.mean() - other.mean())) < bound
        assert abs(float(ours.std() - other.std())) < bound


def test_a_ribbon_has_boxes_too() -> None:
    boxes = random_boxes(50, 3, 300, torch.Generator().manual_seed(0))
    top, left, tall, wide = boxes.unbind(1)
    assert bool(((top + tall <= 3) & (left + wide <= 300)).all())
    # Where nothing that was drawn fits, the middle as far as the ratios allow.
    assert [0, 148, 3, 4] in boxes.int().tolist()


def test_evaluation_looks_at_the_middle() -> None:
    images = photographs(2, 64, 72)
    assert torch.equal(middle(images, 56), images[:, 4:60, 8:64])
    assert torch.equal(
        own(images).to_float(images, 56), own(images).to_float(images[:, 4:60, 8:64])
    )
    larger = middle(images, 80).permute(0, 3, 1, 2)
    cut = images[:, 4:60, 8:64].permute(0, 3, 1, 2).float()
    torch.testing.assert_close(larger, vision.resize(cut, [80, 80]), atol=2e-2, rtol=0)
    assert own(images).to_float(images, 30).shape == (2, 3, 30, 30)


def test_plain_crops_are_squares_at_every_place_and_take_pixels_as_they_are() -> None:
    boxes = plain_boxes(4000, 9, 10, 7, torch.Generator().manual_seed(0))
    assert {tuple(box) for box in boxes.int().tolist()} == {
        (top, left, 7, 7) for top in range(3) for left in range(4)
    }
    # An image that is smaller gives all it has.
    assert plain_boxes(1, 5, 10, 7, torch.Generator())[0, 2:].tolist() == [5, 7]
    images = photographs(3, 20, 24)
    asked = make_config(batch_size=3, augment=False, crop_size=16, crop="plain")
    seen = Batches(own(images), asked, CPU)
    (order, pixels), *_ = seen.of(0)
    assert sorted(order.tolist()) == [0, 1, 2]
    for k, crop in zip(order.tolist(), pixels, strict=True):
        whole = own(images).to_float(images[k : k + 1])[0]
        parts = [
            whole[:, top : top + 16, left : left + 16] for top in range(5) for left in range(9)
        ]
        assert min(float((crop - part).abs().max()) for part in parts) < 1e-3
    assert torch.equal(middle(images, 16, plain=True), images[:, 2:18, 4:20])


@given(st.lists(st.floats(0, 3), min_size=3, max_size=3))
@settings(max_examples=30, deadline=None)
def test_colours_are_torchvision_s(factors: list[float]) -> None:
    images = photographs(2, 6, 5)
    got = jitter(images, torch.tensor([[1.0, 1, 1], factors]))
    torch.testing.assert_close(got[0], images[0].float(), atol=1e-3, rtol=0)
    expected = images[1].permute(2, 0, 1) / 255
    expected = vision.adjust_brightness(expected, factors[0])
    expected = vision.adjust_contrast(expected, factors[1])
    expected = vision.adjust_saturation(expected, factors[2]).permute(1, 2, 0) * 255
    # Their weight of red is .2989; the factors make the difference nine times as large.
    torch.testing.assert_close(got[1], expected, atol=0.5, rtol=0)


def test_grey_images_have_brightness_and_contrast_alone() -> None:
    images = photographs(2, 6, 5, 1)
    factors = torch.tensor([[1.0, 1, 9], [1.3, 0.5, 1]])
    got = jitter(images, factors)
    torch.testing.assert_close(got[0], images[0].float())
    bright = (images[1].float() * 1.3).clamp(max=255)
    torch.testing.assert_close(got[1], (bright + bright.mean()) / 2)


def test_a_strength_of_colour_is_how_far_the_factors_go() -> None:
    flat = own(torch.full((400, 2, 2, 1), 100, dtype=torch.uint8))
    drawn = batches(flat, augment=False, colour=0.4).of(0)
    values = torch.cat([images[:, 0, 0, 0] for _, images in drawn])
    pixels = (values * 0.25 + 0.4) * 255
    assert 60 - 0.01 <= float(pixels.min()) < 64
    assert 136 < float(pixels.max()) <= 140 + 0.01


TABLE = own(torch.randn(23, 4, generator=torch.Generator().manual_seed(0)))


def test_a_table_is_shuffled_and_left_as_it_is() -> None:
    assert TABLE.image_size == 1
    assert torch.equal(TABLE.to_float(TABLE.train.images), TABLE.train.images)
    seen = list(batches(TABLE, augment=False).of(0))
    for chosen, rows in seen:
        assert torch.equal(rows, TABLE.train.images[chosen])
    assert torch.cat([chosen for chosen, _ in seen]).sort().values.tolist() == list(range(23))
    chosen, rows = next(batches(TABLE, augment=False, views=2).of(0))
    assert rows.shape == (2, 5, 4)
    part = TABLE.train.take(np.array([3, 1]))
    assert torch.equal(part.images, TABLE.train.images[[3, 1]])


@pytest.mark.parametrize("recipe", [{"augment": True}, {"crop_size": 8}, {"colour": 0.1}])
def test_a_table_is_not_augmented(recipe: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=r"^a table has no pixels: leave augment, crop_size"):
        batches(TABLE, **{"augment": False, **recipe})


def test_mapped_images_give_the_same_batches(tmp_path: object) -> None:
    file = f"{tmp_path}/images"
    DATA.train.images.numpy().tofile(file)
    shape = DATA.train.images.shape
    mapped = torch.from_file(file, size=shape.numel(), dtype=torch.uint8).view(shape)
    split = dataclasses.replace(DATA.train, images=mapped)
    data = dataclasses.replace(DATA, train=split)
    recipe = RECIPES[3]
    for ours, theirs in zip(batches(data, **recipe).of(1), batches(**recipe).of(1), strict=True):
        assert torch.equal(ours[1], theirs[1])
