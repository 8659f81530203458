"""A list and its images apart: in which folder they lie, by which column, and never a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from told import load

from apl.data.dataset import Dataset
from apl.data.places import Place, Places
from apl.errors import BadInput

pytestmark = pytest.mark.usefixtures("cache")


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write(path: Path, head: str, rows: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def labels_of(data: Dataset) -> dict[str, str]:
    return {
        name: data.class_names[label]
        for split in (data.train, data.test)
        for name, label in zip(split.names, split.labels.given, strict=True)
    }


def ham10000(root: Path, count: int = 20) -> Path:
    """As Kaggle has it: ids without a suffix, images in two folders."""
    rows = []
    for i in range(count):
        name = f"ISIC_{24306 + i:07d}"
        picture(root / f"HAM10000_images_part_{1 + (i >= 8)}" / f"{name}.jpg", i)
        rows.append(f"HAM_{i // 2:07d},{name},{('bkl', 'nv')[i % 2]},histo,{20 + 5 * i},male,back")
    head = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    return write(root / "HAM10000_metadata.csv", head, rows)


def test_ids_without_a_suffix_in_two_folders(tmp_path: Path) -> None:
    path = ham10000(tmp_path)
    data, told = load(path, label_column="dx")
    assert data.train.images.ndim == 4  # and no table of age and sex
    assert len(data.train) + len(data.test) == 20
    assert labels_of(data)["HAM10000_images_part_1/ISIC_0024307.jpg"] == "nv"
    assert (
        "files named by column 'image_id': 20 of 20 rows have one, in HAM10000_images_part_2, "
        "HAM10000_images_part_1; 0 rows have none" in told
    )
    assert data.root == str(tmp_path)


def test_the_column_of_the_labels_is_guessed_and_told(tmp_path: Path) -> None:
    data, told = load(ham10000(tmp_path))
    assert data.class_names == ("bkl", "nv")
    assert "labels: column 'dx' (--label-column takes another)" in told


def test_the_folder_of_a_list_and_its_images_is_enough(tmp_path: Path) -> None:
    ham10000(tmp_path / "ham")
    data, told = load(tmp_path / "ham")  # two folders of images, which are no classes
    assert data.class_names == ("bkl", "nv")
    assert any(line.startswith("read: HAM10000_metadata.csv, which names") for line in told)
    folders, _ = load(tmp_path / "ham", layout="classes")
    assert folders.class_names == ("HAM10000_images_part_1", "HAM10000_images_part_2")


@pytest.mark.parametrize("source", ["train.csv", "."])
def test_names_of_files_in_another_folder(tmp_path: Path, source: str) -> None:
    """As cassava: train.csv, train_images/, test_images/ and a sample of a submission."""
    rows = []
    for i in range(12):
        picture(tmp_path / "train_images" / f"{1000015157 + i}.jpg", i)
        rows.append(f"{1000015157 + i}.jpg,{i % 3}")
    picture(tmp_path / "test_images" / "2216849948.jpg", 99)
    write(tmp_path / "sample_submission.csv", "image_id,label", ["2216849948.jpg,4"])
    write(tmp_path / "train.csv", "image_id,label", rows)
    data, told = load(tmp_path / source)
    assert data.class_names == ("0", "1", "2")
    assert len(data.train) + len(data.test) == 12
    assert any("12 of 12 rows have one, in train_images; 0 rows" in line for line in told)


@pytest.mark.parametrize("source", ["labels.csv", "."])
def test_ids_and_breeds(tmp_path: Path, source: str) -> None:
    """As Kaggle's dog breeds: labels.csv with id and breed, train/ID.jpg, test/ID.jpg."""
    rows = []
    for i in range(12):
        name = f"{i * 7919:032x}"
        picture(tmp_path / "train" / f"{name}.jpg", i)
        rows.append(f"{name},{('beagle', 'boxer')[i % 2]}")
    picture(tmp_path / "test" / f"{1:032x}.jpg", 99)
    write(tmp_path / "labels.csv", "id,breed", rows)
    data, told = load(tmp_path / source)
    assert data.class_names == ("beagle", "boxer")
    assert "labels: column 'breed' (--label-column takes another)" in told
    assert len(data.train) + len(data.test) == 12


@pytest.mark.parametrize(
    ("names", "file"),
    [
        (["{:03d}"], "images/{:03d}.png"),  # numbers with their zeros
        (["{}"], "images/{:03d}.png"),  # and as a spreadsheet leaves them
        (["IMG_{}.JPG"], "deep/er/img_{}.jpg"),  # another spelling of the suffix
        (["photos\\{}.png"], "photos/{}.png"),  # written on Windows
        (["old/place/{}.png"], "here/{}.png"),  # moved since
        (["{}.png"], "a/{}.jpg"),  # saved in another format: the name is no file's
    ],
)
def test_names_that_nearly_lead_there(tmp_path: Path, names: list[str], file: str) -> None:
    for i in range(10):
        picture(tmp_path / file.format(i), i)
    rows = [f"{names[0].format(i)},{'ab'[i % 2]}" for i in range(10)]
    path = write(tmp_path / "list.csv", "image_name,label", rows)
    if file.startswith("a/"):
        with pytest.raises(BadInput, match=r"lists no image that is there \(--image-folder says"):
            load(path)
        return
    data, _ = load(path)
    assert labels_of(data)[file.format(3)] == "b"


def test_rows_without_a_file_are_counted(tmp_path: Path) -> None:
    path = ham10000(tmp_path)
    for file in (tmp_path / "HAM10000_images_part_1").iterdir():
        file.unlink()
    with pytest.raises(BadInput, match=r"8 of 20 in .*more than max_broken 0\.01: .*no such file"):
        load(path)
    data, told = load(path, max_broken=0.5)
    assert data.train.images.ndim == 4
    assert any("12 of 20 rows have one, in HAM10000_images_part_2; 8 rows" in t for t in told)


def test_a_folder_elsewhere_is_named(tmp_path: Path) -> None:
    path = ham10000(tmp_path / "lists")
    for k in (1, 2):
        (tmp_path / "lists" / f"HAM10000_images_part_{k}").rename(tmp_path / f"part{k}")
    said = r"column 'image_id' of .* looks like names of images .*--image-folder says where they l"
    with pytest.raises(BadInput, match=said):
        load(path)
    data, _ = load(path, image_folder=tmp_path)
    assert labels_of(data)["part1/ISIC_0024307.jpg"] == "nv"
    table, _ = load(path, image_folder="none", label_column="dx")
    assert table.train.images.ndim == 2
    with pytest.raises(BadInput, match="image_folder is 'nowhere', where no folder is; accepted"):
        load(path, image_folder="nowhere")


def test_a_table_with_numbers_that_are_names_of_files_is_one(tmp_path: Path) -> None:
    """Ages and lengths lie beside photos that are called by numbers."""
    for i in range(30):
        picture(tmp_path / "holiday" / f"{i}.png", i)
    rows = [f"{i % 15},{i * 0.5},{'ab'[i % 2]}" for i in range(30)]
    data, _ = load(write(tmp_path / "t.csv", "age,length,label", rows))
    assert data.train.images.ndim == 2


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    rows = []
    for k in "ab":
        for i in range(6):
            picture(tmp_path / "images" / k / f"{i}.png", 10 * i + (k == "b"))
            rows.append(f"{i}.png,{k}")
    data, _ = load(write(tmp_path / "list.csv", "file_name,label", rows))
    assert labels_of(data)["images/b/3.png"] == "b"
    picture(tmp_path / "more" / "a" / "3.png", 77)
    found = Places(tmp_path / "list.csv").find("3.png", ("a",))
    assert found == "several files of that name: images/a/3.png, images/b/3.png, more/a/3.png"


def test_several_columns_may_be_the_labels(tmp_path: Path) -> None:
    rows = [f"{picture(tmp_path / f'{i}.png', i).name},{i % 2},{i % 3}" for i in range(9)]
    path = write(tmp_path / "list.csv", "file_name,fine_label,coarse_label", rows)
    with pytest.raises(BadInput, match=r"no column of the labels .*'fine_label', 'coarse_label'"):
        load(path)
    assert load(path, label_column="coarse_label")[0].num_classes == 3


# ------------------------------------------------------------------ regular files below the folder


def test_a_list_names_regular_files_below_its_folder(tmp_path: Path) -> None:
    secret = picture(tmp_path / "secret.png", 1)
    inside = picture(tmp_path / "my" / "0.png", 2)
    (tmp_path / "my" / "link.png").symlink_to(secret)
    (tmp_path / "my" / "away").symlink_to(tmp_path)
    (tmp_path / "my" / "near.png").symlink_to("0.png")
    os.mkfifo(tmp_path / "my" / "pipe.png")
    (tmp_path / "my" / "folder.png").mkdir()
    places = Places(tmp_path / "my" / "list.csv")
    for name in ("../secret.png", str(secret), "link.png", "away/secret.png"):
        assert "outside of the list's folder: --image-folder says" in str(places.find(name))
    assert places.find("pipe.png") == places.find("folder.png") == "no regular file"
    assert places.find("/dev/zero") != "no regular file"
    for name in ("0.png", str(inside), "near.png", "../my/0.png"):
        assert isinstance(places.find(name), Place), name
    said = Places(tmp_path / "my" / "list.csv", str(tmp_path))
    found = said.find("../secret.png")
    assert isinstance(found, Place)
    assert found.name == "secret.png"


def test_pipes_among_the_files_of_a_list_never_hang(tmp_path: Path) -> None:
    rows = [f"{picture(tmp_path / f'{i}.png', i).name},{'ab'[i % 2]}" for i in range(10)]
    os.mkfifo(tmp_path / "pipe.png")
    path = write(tmp_path / "list.csv", "file_name,label", [*rows, "pipe.png,a"])
    data, told = load(path)
    assert len(data.train) + len(data.test) == 10
    assert any("pipe.png: no regular file" in line for line in told)
