"""Data as other people's programs hold them: tensors, frames, folders of other tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from told import load

from apl.errors import BadInput

ROWS = np.random.default_rng(0).normal(size=(40, 3))
IMAGES = np.random.default_rng(1).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
LABELS = np.arange(40) % 2


pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(IMAGES / 255.0, requires_grad=True),
        torch.tensor(IMAGES / 255.0).bfloat16(),
        torch.tensor(IMAGES).to_sparse(),
        torch.tensor(ROWS, requires_grad=True).bfloat16(),
    ],
)
def test_tensors_of_any_kind(tensor: torch.Tensor) -> None:
    data, _ = load((tensor, torch.tensor(LABELS, dtype=torch.bfloat16)))
    assert data.class_names == ("0", "1")
    assert len(data.train) + len(data.test) == 40


def test_a_tensor_without_content_is_refused() -> None:
    nothing = torch.zeros(40, device="meta")
    for pair in ((ROWS, nothing), (nothing[:, None], LABELS)):
        with pytest.raises(BadInput, match="on the device meta, where it has no content"):
            load(pair)


@pytest.mark.parametrize(
    ("column", "names", "count"),
    [
        (pd.array([None, *LABELS[1:]], dtype="Int64"), ("0", "1"), 39),
        (pd.array(LABELS == 1, dtype="boolean"), ("False", "True"), 40),
        (pd.Categorical(np.array(["x", "y"])[LABELS], ["x", "y", "zz"]), ("x", "y"), 40),
        (pd.Series(np.array(["x", "y"])[LABELS], dtype="string"), ("x", "y"), 40),
    ],
)
def test_a_frame_has_its_labels_in_a_column(column: Any, names: Any, count: int) -> None:
    frame = pd.DataFrame({0: ROWS[:, 0], "b": ROWS[:, 1], "label": column, "clean_label": LABELS})
    data, told = load(frame.set_index(np.arange(100, 140)))
    assert data.class_names == names
    assert len(data.train) + len(data.test) == count
    assert data.train.images.shape[1] == 2
    assert "not learned from: column 'clean_label'" in told


def test_a_frame_s_column_split_says_which_rows_are_for_testing() -> None:
    where = np.where(np.arange(len(ROWS)) % 3 == 0, "Test", "train")
    frame = pd.DataFrame({"a": ROWS[:, 0], "b": ROWS[:, 1], "label": LABELS, "split": where})
    data, _ = load(frame)
    wanted = range(0, len(ROWS), 3)
    assert list(data.test.labels.given) == [LABELS[k] for k in wanted]
    assert data.train.images.shape == (len(ROWS) - len(wanted), 2)
    other, _ = load(frame.assign(split=np.roll(where, 1)))
    assert data.digest != other.digest
    with pytest.raises(BadInput, match="split is 'somewhere'; accepted: train, training, val"):
        load(frame.assign(split="somewhere"))


def test_a_frame_without_one_column_of_labels_is_refused() -> None:
    frame = pd.DataFrame(np.c_[ROWS, LABELS], columns=["a", "b", "label", "label"])
    with pytest.raises(BadInput, match="has two columns 'label'"):
        load(frame)
    with pytest.raises(
        BadInput, match="has no column 'y'; accepted: label_column, one of 'a', 'b'"
    ):
        load(frame, label_column="y")
    marked = pd.DataFrame({"a": ROWS[:, 0], "cat": LABELS, "dog": 1 - LABELS})
    assert load(marked, label_column="cat,dog")[0].class_names == ("cat", "dog")


@pytest.mark.parametrize("beside", ["images/", ""])
def test_splits_of_other_tasks_are_no_classes(tmp_path: Path, beside: str) -> None:
    """As YOLO and COCO have them: the labels are boxes in files beside the images."""
    root = tmp_path / "boxes"
    for split in ("train2017", "val2017"):
        for k in range(6):
            path = root / f"{beside}{split}" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(IMAGES[k]).save(path)
    (root / "labels").mkdir()
    (root / "labels" / "0.txt").write_text("0 .5 .5 .1 .1")
    with pytest.raises(BadInput, match="has splits without folders of classes"):
        load(root)
    assert load(root / beside, layout="classes")[0].class_names == ("train2017", "val2017")
