"""Hugging Face's data: Parquet with images inside, `datasets` in memory, saved, and by a name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from told import load

from apl.data.dataset import Dataset
from apl.errors import BadInput

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hugging Face's library, which must be there and may ask nobody."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")


def pixels(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, columns: dict[str, Any], named: dict[str, list[str]] | None = None) -> Path:
    """A Parquet file, with the names of classes as the library writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    if named:
        features = {k: {"names": names, "_type": "ClassLabel"} for k, names in named.items()}
        info = {"info": {"features": features}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    parquet.write_table(table, path)
    return path


def kept(count: int, paths: bool = True, start: int = 0) -> list[dict[str, Any]]:
    """Images as the library keeps them."""
    return [
        {"bytes": png(i), "path": f"{i:03d}.png" if paths else None}
        for i in range(start, start + count)
    ]


def image_of(data: Dataset, name: str) -> np.ndarray[Any, Any]:
    for split in (data.train, data.test):
        if name in split.names:
            image: np.ndarray[Any, Any] = split.images[split.names.index(name)].numpy()
            return image
    raise AssertionError(f"no {name} among {data.train.names}")


# ------------------------------------------------------------------------------------ Parquet


@pytest.mark.parametrize("column", ["image", "img", "scan"])
def test_a_parquet_with_images_inside(tmp_path: Path, column: str, cache: Path) -> None:
    labels = [i % 2 for i in range(10)]
    names = {"label": ["cat", "dog"]}
    path = write(tmp_path / "x.parquet", {column: kept(10), "label": labels}, names)
    data, _ = load(path)
    assert data.class_names == ("cat", "dog")
    assert data.train.images.shape == (8, 8, 8, 3)
    assert np.array_equal(image_of(data, "003.png"), pixels(3))
    assert not list(cache.glob("*/taken_out"))  # the files that were taken out are gone
    again, _ = load(path)
    assert again.digest == data.digest


@pytest.mark.parametrize("paths", [True, False])
def test_the_same_images_as_files_are_the_same_data(tmp_path: Path, paths: bool) -> None:
    """By content: whether they lie in a file or are files."""
    for i in range(10):
        file = tmp_path / "files" / "ab"[i % 2] / f"{i:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(i))
    labels = ["ab"[i % 2] for i in range(10)]
    data, _ = load(write(tmp_path / "x.parquet", {"image": kept(10, paths), "label": labels}))
    files, _ = load(tmp_path / "files")
    assert data.digest == files.digest


def test_bytes_alone_are_images_too(tmp_path: Path) -> None:
    labels = ["ab"[i % 2] for i in range(10)]
    content = [png(i) for i in range(10)]
    data, _ = load(write(tmp_path / "x.parquet", {"jpg": content, "label": labels}))
    assert np.array_equal(image_of(data, "3"), pixels(3))
    single = [{"bytes": each} for each in content]
    other, _ = load(write(tmp_path / "y.parquet", {"jpg": single, "label": labels}))
    assert other.digest == data.digest


def test_paths_alone_are_files_beside_it(tmp_path: Path) -> None:
    for i in range(10):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{i}.png").write_bytes(png(i))
    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [{"bytes": None, "path": f"{i}.png"} for i in range(10)]
    columns = {"image": pyarrow.array(rows, struct), "label": ["ab"[i % 2] for i in range(10)]}
    data, _ = load(write(tmp_path / "x.parquet", columns))
    assert np.array_equal(image_of(data, "images/3.png"), pixels(3))


def test_what_is_broken_inside_is_left_out_and_no_bytes_are_printed(tmp_path: Path) -> None:
    rows = kept(200)
    rows[3] = {"bytes": png(3)[:40], "path": "cut.png"}
    rows[4] = {"bytes": None, "path": "none.png"}
    labels = ["ab"[i % 2] for i in range(200)]
    data, told = load(write(tmp_path / "x.parquet", {"image": rows, "label": labels}))
    assert len(data.train) + len(data.test) == 198
    assert any("left out 2: cut.png" in line for line in told)
    assert all(len(line) < 400 and "\\x" not in line for line in told)


@pytest.mark.parametrize("columns", [["image"], ["image", "a", "b"], ["label"]])
def test_an_error_never_holds_an_image(tmp_path: Path, columns: list[str]) -> None:
    every = {
        "image": kept(6),
        "a": [1, 2] * 3,
        "b": [2, 1] * 3,
        "label": [png(i) for i in range(6)],
    }
    path = write(tmp_path / "x.parquet", {name: every[name] for name in columns})
    with pytest.raises(BadInput) as raised:
        load(path)
    assert len(str(raised.value)) < 500
    assert "x89PNG" not in str(raised.value)


def test_parts_of_a_parquet_by_their_splits(tmp_path: Path) -> None:
    """As the hub has them: data/train-00000-of-00002.parquet."""
    names = {"label": ["cat", "dog"]}
    for k in range(2):
        rows = {"image": kept(6, False, 10 * k), "label": [i % 2 for i in range(6)]}
        write(tmp_path / "x" / "data" / f"train-0000{k}-of-00002.parquet", rows, names)
    rows = {"image": kept(4, False, 50), "label": [0, 1, 0, -1]}
    write(tmp_path / "x" / "data" / "test-00000-of-00001.parquet", rows, names)
    data, told = load(tmp_path / "x")
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (12, 3)
    content = [bytes(image) for image in data.train.images.numpy()]
    assert content == [pixels(i).tobytes() for i in (*range(6), *range(10, 16))]
    assert any("no label" in line for line in told)


def test_one_image_that_is_listed_twice(tmp_path: Path) -> None:
    rows = [*kept(10), *kept(10)]
    labels = ["ab"[i % 2] for i in range(20)]
    data, _ = load(write(tmp_path / "x.parquet", {"image": rows, "label": labels}))
    assert len({*data.train.names, *data.test.names}) == 20


# ---------------------------------------------------------------------------------- datasets


def dataset_of(datasets: Any, count: int, start: int = 0, image: str = "image") -> Any:
    features = datasets.Features(
        {image: datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    images = [Image.fromarray(pixels(i)) for i in range(start, start + count)]
    labels = [i % 2 for i in range(count)]
    return datasets.Dataset.from_dict({image: images, "label": labels}, features)


@pytest.mark.parametrize("image", ["image", "img", "scan"])
def test_a_dataset(datasets: Any, image: str) -> None:
    data, _ = load(dataset_of(datasets, 10, image=image))
    assert data.class_names == ("cat", "dog")
    assert np.array_equal(image_of(data, "3"), pixels(3))


def test_a_dataset_that_is_not_decoded(datasets: Any) -> None:
    source = dataset_of(datasets, 10).cast_column("image", datasets.Image(decode=False))
    data, _ = load(source)
    assert np.array_equal(image_of(data, "3"), pixels(3))


def test_a_dataset_of_several_labels(datasets: Any) -> None:
    source = dataset_of(datasets, 9).add_column("coarse_label", [i % 3 for i in range(9)])
    assert load(source)[0].class_names == ("cat", "dog")
    assert load(source, label_column="coarse_label")[0].num_classes == 3
    with pytest.raises(BadInput, match=r"have 'image', 'label', 'coarse_label'; accepted: one of"):
        load(source, label_column="fine")


@pytest.mark.parametrize("kind", [dict, "DatasetDict"])
def test_splits_of_datasets(datasets: Any, kind: Any) -> None:
    parts = {"train": dataset_of(datasets, 8), "test": dataset_of(datasets, 4, 20)}
    parts["unsupervised"] = dataset_of(datasets, 2, 40)
    data, told = load(getattr(datasets, kind)(parts) if isinstance(kind, str) else kind(parts))
    assert (len(data.train), len(data.test)) == (8, 4)
    assert data.test.names[0] == "test:0"
    assert "not read, as they are no splits: unsupervised" in told


def test_a_dict_of_torch_datasets() -> None:
    """Splits need no library."""
    parts = {
        split: [
            (torch.from_numpy(pixels(i + at).transpose(2, 0, 1).copy()), i % 2) for i in range(6)
        ]
        for split, at in (("train", 0), ("val", 10))
    }
    data, _ = load(parts)
    assert (len(data.train), len(data.test)) == (6, 6)
    assert np.array_equal(image_of(data, "validation:2"), pixels(12))
    with pytest.raises(BadInput, match="two parts are for validation: train, val, valid"):
        load({**parts, "valid": parts["val"]})


def test_a_streamed_dataset_is_refused_in_one_line(datasets: Any) -> None:
    source = dataset_of(datasets, 10).to_iterable_dataset()
    with pytest.raises(BadInput, match="IterableDataset; one that is streamed has no items by num"):
        load(source)


def test_a_folder_that_the_library_saved(datasets: Any, tmp_path: Path) -> None:
    dataset_of(datasets, 10).save_to_disk(tmp_path / "one")
    parts = {"train": dataset_of(datasets, 8), "test": dataset_of(datasets, 4, 20)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "two")
    one, _ = load(tmp_path / "one")
    two, _ = load(tmp_path / "two")
    assert (one.name, len(one.train), len(two.test)) == ("one", 8, 4)


def test_a_name_of_the_hub(
    datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Callable[..., Any]
) -> None:
    """The library takes a folder of that name before it asks the hub."""
    names = {"label": ["cat", "dog"]}
    columns = {"image": kept(10, False), "label": [i % 2 for i in range(10)]}
    write(tmp_path / "me" / "pets" / "train-00000-of-00001.parquet", columns, names)
    monkeypatch.chdir(tmp_path)
    data, _ = load("hf://me/pets")
    assert data.name == "pets"
    assert len(data.train) + len(data.test) == 10
    with pytest.raises(BadInput, match=r"hf://me/none can't be had: "):
        load("hf://me/none", download=False)
    with pytest.raises(BadInput, match=r"accepted: hf://OWNER/NAME"):
        load("hf://a/b/c")
    shown = here("noise", "--dataset", "hf://me/pets", "--type", "sym", "--rate", "0.2").stdout
    assert "10 of" in shown or "of 8 labels changed" in shown


def test_a_module_of_ones_own_may_return_splits(
    datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Callable[..., Any]
) -> None:
    dataset_of(datasets, 12).save_to_disk(tmp_path / "saved")
    (tmp_path / "mine.py").write_text(
        "import datasets\n"
        "def pets():\n"
        "    return datasets.load_from_disk('saved').train_test_split(0.25, seed=0)\n"
    )
    shown = here("noise", "--dataset", "mine:pets", "--type", "sym", "--rate", "0.2").stdout
    assert "of 9 labels changed" in shown


def test_the_library_is_missed_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(BadInput, match=r"needs Hugging Face's datasets: pip install 'apl-noisy"):
        load("hf://me/pets")
