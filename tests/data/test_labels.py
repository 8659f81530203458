"""Labels as people write them: which are none, which are several, what is no class."""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from told import load

import apl
from apl.data.dataset import Dataset
from apl.data.labels import label_text, no_labels
from apl.errors import BadInput

COUNT = 24


pytestmark = pytest.mark.usefixtures("cache")


def pixels(count: int = COUNT) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def labels_of(data: Dataset) -> dict[int, str]:
    return {
        int(name): data.class_names[label]
        for split in (data.train, data.test)
        for name, label in zip(split.names, split.labels.given, strict=True)
    }


def check(data: Dataset, told: list[str], classes: tuple[str, ...], missing: list[int]) -> None:
    """That the samples at `missing` are left out, told with their count, and all others kept."""
    assert data.class_names == classes
    kept = labels_of(data)
    assert sorted(kept) == [i for i in range(COUNT) if i not in missing]
    assert kept == {i: classes[i % 2] for i in kept}
    found = [line for line in told if line.startswith("without a label and left out: ")]
    assert len(found) == 1
    assert found[0].startswith(f"without a label and left out: {len(missing)} samples")
    for split in (data.train, data.test):
        for name, image in zip(split.names, split.images, strict=True):
            if split.images.ndim == 4:
                assert np.array_equal(image.numpy(), pixels()[int(name)])


WORDS: dict[str, Any] = {
    "None": None,
    "nan": float("nan"),
    "numpy nan": np.float32("nan"),
    "pandas NA": pd.NA,
    "NaT": pd.NaT,
    "decimal": decimal.Decimal("nan"),
    "empty": "",
    "blank": "  ",
    **{
        f"text {word}": word for word in ("nan", "NaN", "N/A", "NA", "NULL", "None", "<NA>", "#N/A")
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("missing", WORDS)
@pytest.mark.parametrize("kind", [list, tuple, pd.Series, lambda x: np.array(x, object)])
def test_a_missing_label_is_no_class(missing: str, kind: Callable[[Any], Any]) -> None:
    labels: list[Any] = ["cat", "dog"] * (COUNT // 2)
    for i in (3, 8, 9):
        labels[i] = WORDS[missing]
    data, told = load((pixels(), kind(labels)))
    check(data, told, ("cat", "dog"), [3, 8, 9])


@pytest.mark.slow
@pytest.mark.parametrize("missing", [-1, -100])
@pytest.mark.parametrize(
    "kind",
    [
        list,
        np.array,
        lambda x: np.array(x, np.int8),
        lambda x: np.array(x, np.float32),
        torch.tensor,
        lambda x: torch.tensor(x, dtype=torch.float32)[:, None],
        pd.Series,
        lambda x: list(map(str, x)),
    ],
)
def test_minus_one_among_numbers_is_no_class(missing: int, kind: Callable[[Any], Any]) -> None:
    labels = [0, 2] * (COUNT // 2)
    labels[5] = missing
    data, told = load((pixels(), kind(labels)))
    check(data, told, ("0", "2"), [5])
    assert any(f"'{missing}' 1; --classes names a class that is called so" in line for line in told)


def test_other_frames_and_masks_lack_labels_too() -> None:
    numbers = np.array([0, 1] * (COUNT // 2))
    mask = np.arange(COUNT) == 4
    whole = pd.Series(numbers, dtype="Int64").mask(mask)
    words = pd.Series(["cat", "dog"] * (COUNT // 2)).mask(mask).astype("category")
    for labels, classes in (
        (whole, ("0", "1")),
        (pd.Series(numbers).mask(mask), ("0", "1")),  # floats with a nan
        (words, ("cat", "dog")),
        (words.astype("string"), ("cat", "dog")),
        (np.ma.masked_array(numbers, mask), ("0", "1")),
        (pd.DataFrame({"label": whole}), ("0", "1")),
    ):
        data, told = load((pixels(), labels))
        check(data, told, classes, [4])


FILES = ("list.csv", "list.tsv", "list.jsonl", "list.json", "list.parquet", "my.npz", "my.npy")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("missing", ["nan", "N/A", None])
def test_labels_are_missing_in_files_of_all_kinds(
    tmp_path: Path, file: str, missing: str | None
) -> None:
    labels: list[Any] = ["cat", "dog"] * (COUNT // 2)
    labels[2] = labels[7] = missing
    path = tmp_path / file
    frame = pd.DataFrame({"id": range(COUNT), "x": np.arange(COUNT) ** 2, "label": labels})
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".tsv":
        frame.to_csv(path, index=False, sep="\t", na_rep="NULL")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")))
    elif path.suffix == ".json":
        frame.to_json(path, orient="records")
    elif path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    elif path.suffix == ".npz":
        np.savez(path, x=pixels(), y=np.array([label or "" for label in labels]))
    else:
        np.save(path, pixels())
        np.save(tmp_path / "my_labels.npy", [str(label) for label in labels])
    data, told = load(path)
    check(data, told, ("cat", "dog"), [2, 7])


class Items:
    """A torch Dataset in all but its base."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing", [-1, -100, None, float("nan"), "", "N/A", torch.tensor(-1), np.int64(-100)]
)
@pytest.mark.parametrize("classes", [None, ["cat", "dog", "emu"]])
def test_a_torch_dataset_lacks_labels(missing: Any, classes: list[str] | None) -> None:
    items = [(pixels()[i], missing if i == 6 else i % 2) for i in range(COUNT)]
    data, told = load(Items(items, classes))
    check(data, told, ("cat", "dog") if classes else ("0", "1"), [6])


@pytest.mark.parametrize("label", [3, -2, 0.5, "fish", 1e9])
def test_a_label_that_no_class_has_never_wraps_round(label: Any) -> None:
    items = [(pixels()[i], label if i == 6 else i % 2) for i in range(COUNT)]
    with pytest.raises(BadInput, match=r"item 6 of items has the label .*; accepted: 0 to 2"):
        load(Items(items, ["cat", "dog", "emu"]))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([-1, 1], ("-1", "1")),
        ([-1.0, 1.0], ("-1", "1")),
        (["-1", "+1"], ("-1", "+1")),
        (["-1", "cat"], ("-1", "cat")),
        (["none", "some"], ("none", "some")),
        (["na", "nb"], ("na", "nb")),
    ],
)
def test_classes_that_only_look_like_none(labels: list[Any], classes: tuple[str, ...]) -> None:
    data, told = load((pixels(), labels * (COUNT // 2)))
    assert data.class_names == classes
    assert len(labels_of(data)) == COUNT
    assert not any("without a label" in line for line in told)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["NA", "EU", "AS"], ("AS", "EU", "NA")),
        (["None", "nan", "cat"], ("None", "cat", "nan")),
        ([-1, 0, 1], ("-1", "0", "1")),
    ],
)
def test_a_class_that_is_called_so_is_named(labels: list[Any], classes: tuple[str, ...]) -> None:
    source = (pixels(), labels * (COUNT // 3))
    assert len(labels_of(load(source, classes=",".join(classes))[0])) == COUNT
    data, told = load(source, classes=classes)
    assert data.class_names == classes
    assert not any("without a label" in line for line in told)


def test_classes_that_are_named_are_all_there_is(tmp_path: Path) -> None:
    labels = ["cat", "dog", "not sure"] * (COUNT // 3)
    data, told = load((pixels(), labels), classes=["dog", "cat"])
    assert data.class_names == ("cat", "dog")
    assert len(labels_of(data)) == 16
    assert "left out, of other classes than --classes: 8 samples: not sure" in told
    with pytest.raises(BadInput, match="classes names 'cow', which arrays lacks; its classes: cat"):
        load((pixels(), labels), classes="cat,cow")
    with pytest.raises(BadInput, match="accepted: none with digits"):
        load("digits", classes="0,1")


def test_unlabelled_samples_count_as_no_broken_ones() -> None:
    labels = [("cat", "dog")[i % 2] if i % 3 else None for i in range(COUNT)]
    data, told = load((pixels(), labels), max_broken=0.0)
    assert len(labels_of(data)) == 16
    assert any(line.startswith("left out 8: 0: no label") for line in told)


def test_nothing_is_labelled() -> None:
    with pytest.raises(BadInput, match="arrays has 0 class of labels, nothing to learn"):
        load((pixels(), [None] * COUNT))


def test_true_labels_that_are_unknown(tmp_path: Path) -> None:
    true = [("0", "1", "-1", "nan", "")[i % 5] for i in range(COUNT)]
    np.savez(tmp_path / "my.npz", x=pixels(), y=np.arange(COUNT) % 2, y_clean=true)
    data, _ = load(tmp_path / "my.npz")
    assert data.class_names == ("0", "1")
    known = sum(int(split.labels.known.sum()) for split in (data.train, data.test))
    assert known == sum(label in ("0", "1") for label in true)


# ---------------------------------------------------------------------------- several values


@pytest.mark.parametrize(
    "kind",
    [
        lambda names: [[name] for name in names],
        lambda names: [(name,) for name in names],
        lambda names: [{name} for name in names],
        lambda names: [name.encode() for name in names],
        lambda names: np.array([name.encode() for name in names]),
        lambda names: np.array(names)[:, None],
        lambda names: [f"['{name}']" for name in names],
        lambda names: [f'["{name}"]' for name in names],
    ],
)
def test_one_value_in_a_list_or_in_bytes(kind: Callable[[list[str]], Any]) -> None:
    data, _ = load((pixels(), kind(["cat", "dög"] * (COUNT // 2))))
    assert data.class_names == ("cat", "dög")


@pytest.mark.parametrize("several", [["cat", "spot"], ("cat", "spot"), "['cat', 'spot']"])
def test_several_values_are_no_class(several: Any, tmp_path: Path) -> None:
    labels: list[Any] = ["cat", "dog"] * (COUNT // 2)
    labels[5] = several
    with pytest.raises(BadInput, match=r"labels of arrays have several labels \(cat, spot\)"):
        load((pixels(), labels))
    items = [(image, label) for image, label in zip(pixels(), labels, strict=True)]
    with pytest.raises(BadInput, match=r"item 5 of items has (several labels|2 labels)"):
        load(Items(items))
    rows = [{"x": i * i, "label": label} for i, label in enumerate(labels)]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data, told = load(tmp_path / "my.jsonl")
    assert data.class_names == ("cat", "dog")
    assert any("left out 1: row 6: several labels (cat, spot)" in line for line in told)
    rows[7]["label"] = ["dog", "spot"]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadInput, match=r"2 of 24 in .* can't be used, .*: several labels"):
        load(tmp_path / "my.jsonl")


def test_labels_that_look_like_several_are_told() -> None:
    labels = ["cat", "dog", "cat|dog"] * (COUNT // 3)
    _, told = load((pixels(), labels))
    assert "classes that look like several in one, and are taken as one: cat|dog" in told


def one_hot(k: int = 3) -> np.ndarray[Any, Any]:
    return np.eye(k, dtype=np.int64)[np.arange(COUNT) % k]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (one_hot(), ("0", "1", "2")),
        (one_hot().astype(np.float32), ("0", "1", "2")),
        (one_hot().astype(bool), ("0", "1", "2")),
        (one_hot().tolist(), ("0", "1", "2")),
        (torch.from_numpy(one_hot()), ("0", "1", "2")),
        (pd.DataFrame(one_hot(), columns=["cat", "dog", "emu"]), ("cat", "dog", "emu")),
    ],
)
def test_one_hot_labels(labels: Any, classes: tuple[str, ...]) -> None:
    data, _ = load((pixels(), labels))
    assert data.class_names == classes
    assert labels_of(data) == {i: classes[i % 3] for i in range(COUNT)}


def test_rows_of_one_hot_labels_may_be_empty_and_not_full() -> None:
    labels = one_hot(2)
    labels[4] = 0
    data, told = load((pixels(), labels))
    check(data, told, ("0", "1"), [4])
    labels[5] = 1
    with pytest.raises(BadInput, match=r"labels of arrays are \[24, 2\]; accepted: \[N\], one for"):
        load((pixels(), labels))
    with pytest.raises(BadInput, match=r"labels of arrays are \[24, 3\]"):
        load((pixels(), np.full((COUNT, 3), 1 / 3)))


def test_one_hot_columns_of_a_list(tmp_path: Path) -> None:
    names = ("MEL", "NV", "BCC")
    frame = pd.DataFrame(one_hot().astype(float), columns=names)
    frame["size"] = np.arange(COUNT) ** 2
    frame.to_csv(tmp_path / "my.csv", index=False)
    with pytest.raises(BadInput, match=r"no column of the labels .*as --label-column MEL,NV,BCC"):
        load(tmp_path / "my.csv")
    data, _ = load(tmp_path / "my.csv", label_column="MEL,NV,BCC")
    assert data.class_names == ("BCC", "MEL", "NV")
    assert labels_of(data) == {i: names[i % 3] for i in range(COUNT)}
    assert data.train.images.shape[1] == 1  # the columns of labels are not learned from
    frame.loc[3, ["MEL", "NV"]] = 1
    frame.loc[4, list(names)] = 0
    frame.to_csv(tmp_path / "my.csv", index=False)
    data, told = load(tmp_path / "my.csv", label_column="MEL, NV, BCC")
    assert sorted(labels_of(data)) == [i for i in range(COUNT) if i not in (3, 4)]
    assert any("row 5: not a single 1 in the columns MEL, NV, BCC" in line for line in told)
    assert any(line.startswith("without a label and left out: 1 samples") for line in told)


@pytest.mark.parametrize(
    "label",
    [
        lambda k: torch.eye(3)[k],
        lambda k: np.eye(3)[k],
        lambda k: np.eye(3)[k].tolist(),
        lambda k: torch.tensor([k]),
        lambda k: ["cat", "dog", "emu"][k],
        lambda k: float(k),
    ],
)
@pytest.mark.parametrize(
    "item", [tuple, lambda pair: dict(zip(("image", "label"), pair, strict=True))]
)
def test_targets_of_a_torch_dataset(
    label: Callable[[int], Any], item: Callable[[Any], Any]
) -> None:
    items = [item((pixels()[i], label(i % 3))) for i in range(COUNT)]
    data, _ = load(Items(items, ["cat", "dog", "emu"]))
    assert labels_of(data) == {i: ("cat", "dog", "emu")[i % 3] for i in range(COUNT)}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (
            (0, torch.tensor([0.5, 0.5])),
            "item 0 of items has 2 labels; accepted: one, or a one-hot",
        ),
        ((0, [1, 1, 0]), "item 0 of items has 3 labels"),
        ((0, {"a": 1}), "item 0 of items has a label that is an object"),
        ({"image": 0, "caption": 1}, "items of items have 'image', 'caption'; accepted: one of"),
        ({"pic": 0, "label": 1}, "items of items have 'pic', 'label'"),
    ],
)
def test_targets_that_are_none(item: Any, said: str) -> None:
    if isinstance(item, tuple):
        item = (pixels()[0], item[1])
    with pytest.raises(BadInput, match=said):
        load(Items([item] * COUNT))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({"x": 1}, r"the data is a dict; accepted: .*\(images, labels\)"),
        ({"train": Items([])}, "dict is empty"),
        ({}, r"the data is a dict; accepted: .*\(images, labels\)"),
    ],
)
def test_a_mapping_is_no_data(source: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load(source)


# ------------------------------------------------------------------------ what is no class


@pytest.mark.parametrize(
    "labels",
    [
        [i * i + 100 for i in range(COUNT)],  # prices
        [f"patient {i}" for i in range(COUNT)],
        [datetime.date(2024, 1, 1) + datetime.timedelta(i) for i in range(COUNT)],
    ],
)
def test_labels_that_nearly_all_differ_are_no_classes(labels: list[Any]) -> None:
    with pytest.raises(BadInput, match=r"are 24 different ones, 24 of them of one sample each"):
        load((pixels(), labels))


def test_texts_of_labels() -> None:
    assert [label_text(x) for x in ("(a)", "[", "[cat]", "{x", "1.50")] == [
        "(a)", "[", "[cat]", "{x", "1.50",
    ]  # fmt: skip
    assert [label_text(x) for x in (7.0, np.float32(7), True, np.str_(" a "))] == [
        "7", "7", "True", "a",
    ]  # fmt: skip
    assert no_labels({"-1", "1_0", "2"}) == set()  # 1_0 is no number
    assert no_labels({"-1", "2", "3"}) == {"-1"}
    assert no_labels({"-1", "-100"}) == {"-1", "-100"}


def test_a_folder_may_be_called_anything(tmp_path: Path) -> None:
    from PIL import Image

    for k, name in enumerate(("nan", "NA", "None", "-1")):
        for i in range(5):
            (tmp_path / "my" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels()[5 * k + i]).save(tmp_path / "my" / name / f"{i}.png")
    assert apl.load_data(tmp_path / "my", say=lambda line: None).class_names == (
        "-1", "NA", "None", "nan",
    )  # fmt: skip
