"""Texts as samples: which column has them, and what is met in one."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from told import load

from apl.config.config import make_config
from apl.data.dataset import Dataset, copies
from apl.data.files import find_decoded
from apl.data.texts import find_texts
from apl.errors import BadInput
from apl.training.machine import Machine
from apl.training.prepare import prepare

RUSSIAN = "фильм очень понравился всей нашей большой дружной семье сюжет прекрасный актёры".split()
ARABIC = "فيلم رائع جدا أعجبني كثيرا قصة مذهلة أنصح بمشاهدتها اليوم".split()
COUNT = 60


pytestmark = pytest.mark.usefixtures("cache")


def review(i: int) -> str:
    """A text of its own, of the Russian class where i is even and of the Arabic one where not."""
    words, rng = (ARABIC if i % 2 else RUSSIAN), np.random.default_rng(i)
    return " ".join(rng.choice(words, 6)) + f" {'🙂' * (i % 3)} {i}"


TEXTS = [review(i) for i in range(COUNT)]
LABELS = ["ar" if i % 2 else "ru" for i in range(COUNT)]


def table(path: Path, columns: dict[str, list[Any]], encoding: str = "utf-8") -> Path:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".parquet":
        pd.DataFrame(columns).to_parquet(path)
    else:
        with path.open("w", newline="", encoding=encoding) as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(columns)
            writer.writerows(row.values() for row in rows)
    return path


def all_texts(data: Dataset) -> set[str]:
    return {*data.train.texts, *data.test.texts}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_of_list_may_hold_texts_of_any_script(tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = table(tmp_path / f"my{suffix}", {"отзыв": TEXTS, "метка": LABELS}, "utf-8-sig")
    data, told = load(path)
    assert "labels: column 'метка' (--label-column takes another)" in told
    assert any(line.startswith("texts: column 'отзыв' (--text-column") for line in told)
    assert data.kind == "texts"
    assert data.class_names == ("ar", "ru")
    assert data.image_size == 1
    assert all_texts(data) == {text.strip() for text in TEXTS}
    by_text = dict(zip(map(str.strip, TEXTS), LABELS, strict=True))
    given = [data.class_names[k] for k in data.train.labels.given]
    assert given == [by_text[text] for text in data.train.texts]
    again = find_decoded(data.digest, 1)  # as a study's worker finds it
    assert again is not None
    assert again.train.texts == data.train.texts
    assert make_config(dataset=data).features == "tfidf"
    with pytest.raises(BadInput, match="features is 'none'; accepted: tfidf, minilm, st:NAME"):
        make_config(dataset=data, features="none")
    with pytest.raises(
        BadInput, match="idn-part noise depends on pixels or numbers, of which my has"
    ):
        prepare(make_config(dataset=data, noise="idn-part", rate=0.3), Machine(device="cpu"), data)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"text": ["good", "bad", "awful", "great"]}, "text"),  # of one word, but called so
        ({"title": ["Mr", "Mrs", "Mr", "Mr", "Mrs", "Mr"]}, ""),  # categories
        ({"id": [f"a{i}" for i in range(9)], "x": list(range(9))}, ""),
        ({"content": [f"photos/cat/{i}.png" for i in range(9)]}, ""),
        ({"pixels": ["70 80 82 72", "151 150 147 155", "1 2 3 4"]}, ""),
        ({"when": [f"2020-01-{i:02d} 10:00" for i in range(1, 9)]}, ""),
        ({"name": ["Braund, Mr. Owen Harris", "Heikkinen, Miss. Laina K"], "age": [1, 2]}, ""),
        ({"said": ["where is my card", "I want a new card", "what is it"]}, "said"),
        ({"说": ["这部电影非常好看我很喜欢", "太无聊了浪费我的时间", "演员的表演很好"]}, "说"),
        ({"review_title": ["so good", "so bad"], "reviewBody": ["I like it", "not so"]},
         "reviewBody"),
        ({"review_id": ["a b c d e f", "g h i j k l"], "body": ["it is", "so so"]}, "body"),
        ({"a": [None, float("nan"), ""], "b": [1, 2, 3]}, ""),
    ],
)  # fmt: skip
def test_the_column_of_texts_is_found_by_what_stands_in_it(
    columns: dict[str, list[Any]], found: str
) -> None:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert find_texts(rows, list(columns)) == found


def test_texts_beside_other_columns_and_the_column_that_is_asked_for(tmp_path: Path) -> None:
    prices = [float(i % 7) for i in range(COUNT)]
    notes = [f"note {'x' * (i % 11)} of the shop by hand {i}" for i in range(COUNT)]
    columns = {"review": TEXTS, "price": prices, "note": notes, "label": LABELS}
    path = table(tmp_path / "my.csv", columns)
    data, told = load(path)
    assert "my: 1 features of 1 columns of numbers and 0 of words" in told
    assert "columns left out, nearly every row another word (ids, free text): note" in told
    assert data.train.images.shape == (48, 1)
    assert data.train.texts[0].strip() in TEXTS[0]
    other, told = load(path, text_column="note")
    assert all_texts(other) == {*notes}
    assert other.digest != data.digest
    assert "texts: column 'note'" in told
    without, told = load(path, text_column="none")
    assert without.kind == "rows"
    assert not any(line.startswith("texts") for line in told)
    with pytest.raises(BadInput, match=r"text_column is 'noted', which .*; accepted: none, or one"):
        load(path, text_column="noted")


def test_samples_without_a_text_are_left_out_where_there_is_nothing_else(tmp_path: Path) -> None:
    texts = [*TEXTS[:-3], "", None, "  "]
    data, told = load(table(tmp_path / "a.csv", {"text": texts, "label": LABELS}))
    assert len(data.train) + len(data.test) == COUNT - 3
    assert "without a text and left out: 3 samples" in told  # and no error for one in twenty
    both = {"text": texts, "x": list(range(0, 2 * COUNT, 2)), "label": LABELS}
    data, told = load(table(tmp_path / "b.csv", both))
    assert len(data.train) + len(data.test) == COUNT
    assert "" in all_texts(data)
    assert "without a text: 3 samples, of their other columns alone" in told


def test_copies_of_a_text_are_held_out_together_or_counted(tmp_path: Path) -> None:
    texts = [*TEXTS[:20], *TEXTS[:20], *TEXTS[:20]]
    data, told = load(
        table(tmp_path / "a.csv", {"text": texts, "x": list(range(0, 180, 3)), "label": LABELS})
    )
    assert not {*data.train.texts} & {*data.test.texts}
    assert len(data.test) >= 10
    assert "copies are held out together, or not at all" in told
    alike = copies(data.train)
    assert alike is not None
    assert len({*alike.tolist()}) == len({*data.train.texts})
    splits = ["train"] * 40 + ["test"] * 20
    split = table(tmp_path / "b.csv", {"text": texts, "label": LABELS, "split": splits})
    _, told = load(split)
    assert any(line.startswith("20 of 20 test texts are copies of training texts") for line in told)


def test_texts_that_are_long_halved_or_of_another_encoding(tmp_path: Path) -> None:
    texts = ["слово " * 20_000 + str(i) if i < 2 else f"half \ud83d {i} of it" for i in range(20)]
    data, _ = load(table(tmp_path / "a.jsonl", {"text": texts, "label": LABELS[:20]}))
    assert {len(text) for text in all_texts(data)} >= {120_001}
    assert "\ud83d" not in str(data.train)
    assert "half \ufffd 7 of it" in all_texts(data)
    latin = table(tmp_path / "b.csv", {"text": ["é"] * 9, "label": LABELS[:9]}, "latin-1")
    with pytest.raises(BadInput, match=r"is not UTF-8 \(line 2: .*save it as UTF-8"):
        load(latin)


def test_texts_in_memory_and_in_splits(tmp_path: Path) -> None:
    for source in (TEXTS, np.array(TEXTS), pd.Series(TEXTS)):
        data, _ = load((source, LABELS))
        assert all_texts(data) == {text.strip() for text in TEXTS}
    frame = pd.DataFrame({"n": range(0, 180, 3), "what": TEXTS})
    data, told = load((frame, LABELS))
    assert data.kind == "texts"
    assert "texts: column 'what' (text_column takes another)" in told
    folder = tmp_path / "splits"
    folder.mkdir()
    table(folder / "train.csv", {"text": TEXTS[:40], "label": LABELS[:40]})
    table(folder / "test.csv", {"text": ["ok", "ok", "ok", "ok"], "label": LABELS[:4]})
    data, _ = load(folder)  # the test's column alone would be one of words
    assert data.test.texts == ("ok",) * 4
    assert len(data.train.texts) == 40


def test_a_column_that_names_images_leads_to_these(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(20):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
    columns = {"file_name": [f"{i}.png" for i in range(20)], "text": TEXTS[:20]}
    path = table(tmp_path / "list.csv", {**columns, "label": LABELS[:20]})
    assert load(path)[0].kind == "images"
    assert load(path, text_column="text")[0].kind == "texts"
