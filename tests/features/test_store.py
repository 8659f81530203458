"""The store of features: computed once, found by content, whole after a kill."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apl.data.dataset import Dataset, Split
from apl.data.sources import load_data
from apl.errors import BadInput, Interrupted
from apl.features.backbone import Backbone
from apl.features.catalog import file_digest
from apl.features.embed import Embedding, featured
from apl.features.store import Store, digests_of, features_folder
from apl.noise.labels import Labels


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a folder of the test's own, with a module of the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    (tmp_path / "stored_eyes.py").write_text(CODE)
    return tmp_path


CODE = """
import os, time
calls = []
def pixels(images):
    calls.append(len(images))
    if os.environ.get("SLOW"):
        time.sleep(0.05)
    return images.reshape(len(images), -1)[:, :6].astype("float32")
def words(texts):
    return [[len(t), t.count("a")] for t in texts]
def holes(images):
    made = pixels(images)
    made[-1, 0] = float("nan")
    return made
"""
NAME = "stored_eyes:pixels"
HOW = Embedding(NAME, imports=(NAME,), say=lambda line: None)


def arrays(count: int, first: int = 0, names: bool = False) -> Split:
    images = np.random.default_rng(5).integers(0, 256, (500, 3, 3, 3), dtype=np.uint8)
    labels = np.arange(count) % 2
    called = tuple(str(first + i) for i in range(count)) if names else ()
    part = torch.from_numpy(images[first : first + count])
    return Split(part, Labels(labels, labels), called)


def dataset(train: int = 300, test: int = 100, **more: Any) -> Dataset:
    parts = arrays(train, **more), arrays(test, first=train, **more)
    return Dataset("mine", ("a", "b"), *parts, (0.5,) * 3, (0.2,) * 3, digest="0" * 64)


def calls() -> list[int]:
    import stored_eyes  # type: ignore[import-not-found]

    made: list[int] = stored_eyes.calls
    return made


def test_each_sample_is_computed_once() -> None:
    data = dataset()
    made = featured(data, HOW)
    assert made.train.images.shape == (300, 6)
    assert made.train.images.dtype == torch.float16
    wanted = data.train.images.reshape(300, -1)[:, :6]
    assert torch.equal(made.train.images.float(), wanted.float())
    assert torch.equal(made.test.images.float(), data.test.images.reshape(100, -1)[:, :6].float())
    count = sum(calls())
    assert count >= 400
    # A part of them, in another order and with copies, has nothing to compute.
    rows = np.array([7, 3, 3, 299])
    part = dataclasses.replace(data, train=data.train.take(rows))
    again = featured(part, HOW)
    assert torch.equal(again.train.images, made.train.images[rows])
    assert sum(calls()) == count
    # What is new alone is computed.
    featured(dataset(350, 150), HOW)
    assert sum(calls()) == count + 100


def test_features_know_what_they_are_of() -> None:
    data = dataset()
    made = featured(data, HOW)
    assert made.kind == "rows"
    assert made.features == NAME
    assert made.made_by["source"]
    assert made.train.pictures is data.train.images
    some = made.train.take(np.array([4, 2])).take(np.array([1]))
    assert some.pictures is not None
    assert torch.equal(some.pictures[0], data.train.images[2])
    assert featured(made, HOW) is made


def test_copies_are_computed_once() -> None:
    data = dataset()
    twice = data.train.images[torch.arange(300) % 10]
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, images=twice))
    before = sum(calls())
    made = featured(data, HOW)
    assert sum(calls()) - before == 110
    assert torch.equal(made.train.images[:10], made.train.images[290:])


def test_a_stop_keeps_what_was_computed() -> None:
    asked = iter([False, False, True])
    stopping = dataclasses.replace(HOW, should_stop=lambda: next(asked))
    with pytest.raises(Interrupted):
        featured(dataset(), stopping)
    (folder,) = features_folder().iterdir()
    kept = len(Store(folder).digests)
    before = sum(calls())
    featured(dataset(), HOW)
    assert sum(calls()) - before == 400 - kept


KILLED = """
from test_store import HOW, dataset
from apl.features.embed import featured
featured(dataset(), HOW)
"""


@pytest.mark.slow
def test_a_kill_leaves_a_store_that_goes_on(own_cache: Path) -> None:
    here = str(Path(__file__).parent)
    env = {**os.environ, "SLOW": "1", "PYTHONPATH": os.pathsep.join([str(own_cache), here])}
    process = subprocess.Popen([sys.executable, "-c", KILLED], env=env)
    while not list(features_folder().glob("*/rows.f16")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    (folder,) = features_folder().iterdir()
    # Rows beyond the digests are those of a batch that was not finished.
    with open(folder / "rows.f16", "ab") as file:
        file.write(b"\xff" * 7)
    with open(folder / "digests.u8", "ab") as file:
        file.write(b"\xff" * 5)
    data = dataset()
    made = featured(data, HOW)
    assert torch.equal(made.train.images.float(), data.train.images.reshape(300, -1)[:, :6].float())
    assert len(Store(folder).digests) == 400


def test_few_samples_do_not_wait_for_the_many_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has its turn between two parts of a long embedding, and is told once that it
    waits; each sample is computed once all the same."""
    monkeypatch.setattr("apl.features.embed.TURN", 0.0)
    monkeypatch.setattr("apl.features.embed.BETWEEN_TURNS", 0.3)
    many = dataset()
    few = dataclasses.replace(many, train=arrays(60, first=380), test=arrays(20, first=440))
    done: list[tuple[str, int]] = []
    told: list[str] = []
    before = sum(calls())  # by the tests before

    def how(who: str) -> Embedding:
        def progress(so_far: int, total: int) -> None:
            done.append((who, so_far))
            if other.ident is None:
                other.start()

        return dataclasses.replace(HOW, threads=1, progress=progress, say=told.append)

    other = threading.Thread(target=lambda: featured(few, how("few")))
    featured(many, how("many"))
    other.join()
    assert done.index(("few", 80)) < done.index(("many", 400))
    assert told == ["another process computes these features: waiting for it"]
    assert sum(calls()) - before == 460  # 20 samples are in both


def test_what_is_not_finite_is_told_and_the_rest_is_kept() -> None:
    name = "stored_eyes:holes"
    with pytest.raises(BadInput, match="nan or inf of sample 63"):
        featured(dataset(), Embedding(name, imports=(name,)))


def test_other_code_or_backbone_has_a_store_of_its_own() -> None:
    one = Backbone("a", lambda batch: batch, {"size": 1})
    other = Backbone("a", lambda batch: batch, {"size": 2})
    assert Store.of(one).folder != Store.of(other).folder
    assert Store.of(one).find(digests_of(["x"])).tolist() == [-1]


def test_texts_have_features_too() -> None:
    name = "stored_eyes:words"
    train, test = (
        dataclasses.replace(split, images=torch.zeros(len(split), 0), texts=texts)
        for split, texts in ((arrays(3), ("a", "aa", "b")), (arrays(2), ("", "ça va")))
    )
    data = Dataset("texts", ("a", "b"), train, test, (), (), digest="0" * 64)
    assert data.kind == "texts"
    made = featured(data, Embedding(name, imports=(name,)))
    assert made.train.images.tolist() == [[1, 1], [2, 2], [1, 0]]
    beside = dataclasses.replace(data, train=dataclasses.replace(train, images=torch.ones(3, 2)))
    beside = dataclasses.replace(beside, test=dataclasses.replace(test, images=torch.ones(2, 2)))
    assert featured(beside, Embedding(name, imports=(name,))).test.images.shape == (2, 4)
    with pytest.raises(BadInput, match="of images, but texts is texts"):
        featured(data, Embedding("lite0"))


# ------------------------------------------------------------------------------ files of vectors


def rows_of(data: Dataset, file: Path) -> np.ndarray[Any, Any]:
    made = featured(data, Embedding(str(file)))
    return torch.cat([made.train.images, made.test.images]).numpy()


def test_vectors_in_the_order_of_the_samples(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(400, 5)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    data = dataset(names=True)
    assert np.allclose(rows_of(data, tmp_path / "v.npy"), vectors, atol=1e-2)
    mixed = dataclasses.replace(data, train=data.train.take(np.array([9, 4])))
    assert np.allclose(rows_of(mixed, tmp_path / "v.npy")[:2], vectors[[9, 4]], atol=1e-2)
    np.savez(tmp_path / "v.npz", train=vectors[:300], test=vectors[300:])
    assert np.allclose(rows_of(dataset(), tmp_path / "v.npz"), vectors, atol=1e-2)


def test_vectors_by_name(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(400, 5))
    names = [f"class/{(i * 7) % 400}.png" for i in range(400)]
    order = np.argsort(names)[::-1]
    np.savez(tmp_path / "v.npz", names=np.array(names)[order], vectors=vectors[order])
    data = dataset()
    splits = [
        dataclasses.replace(split, names=tuple(names[part]))
        for split, part in ((data.train, slice(300)), (data.test, slice(300, None)))
    ]
    named = dataclasses.replace(data, train=splits[0], test=splits[1])
    assert np.allclose(rows_of(named, tmp_path / "v.npz"), vectors, atol=1e-2)
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = {"file_name": names, "embedding": [list(row) for row in vectors]}
    parquet.write_table(pyarrow.table(table), tmp_path / "lists.parquet")
    assert np.allclose(rows_of(named, tmp_path / "lists.parquet"), vectors, atol=1e-2)
    wide = {"file_name": names, **{f"f{k}": vectors[:, k] for k in range(5)}}
    parquet.write_table(pyarrow.table(wide), tmp_path / "wide.parquet")
    assert np.allclose(rows_of(named, tmp_path / "wide.parquet"), vectors, atol=1e-2)
    # Without names: in the order of the names as text.
    np.save(tmp_path / "sorted.npy", vectors[np.argsort(names)])
    assert np.allclose(rows_of(named, tmp_path / "sorted.npy"), vectors, atol=1e-2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"x": np.zeros((399, 5))}, "has 399 rows, but mine has 400 samples"),
        ({"x": np.zeros((400, 5)), "names": np.arange(399)}, "399 names for 400 rows"),
        ({"x": np.zeros((400, 5)), "names": np.arange(1, 401)}, "no row for 1 of 300.*'0'"),
        ({"x": np.full((400, 5), np.nan)}, "nan or inf of sample 0"),
        ({"x": np.where(np.arange(400)[:, None] == 317, np.inf, [1.0])}, "of sample 317:"),
        ({"x": np.zeros(400)}, r"holds x \[400\]; accepted: vectors"),
        ({"train": np.zeros((300, 5)), "test": np.zeros((100, 4))}, "as many in each part"),
        ({"train": np.zeros((300, 5)), "test": np.zeros((9, 5))}, "9 rows, but test has 100"),
        ({"x": np.array([["a"] * 5] * 400)}, "accepted: numbers"),
    ],
)
def test_vectors_that_do_not_fit_are_told(
    content: dict[str, Any], told: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "v.npz", **content)
    with pytest.raises(BadInput, match=told) as caught:
        rows_of(dataset(names=True), tmp_path / "v.npz")
    assert "\n" not in str(caught.value)


def test_vectors_of_a_damaged_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(b"no array")
    with pytest.raises(BadInput, match="it is damaged, of another kind"):
        rows_of(dataset(names=True), tmp_path / "v.npy")
    np.save(tmp_path / "o.npy", np.array([None] * 400), allow_pickle=True)
    with pytest.raises(BadInput, match="holds no vectors"):
        rows_of(dataset(names=True), tmp_path / "o.npy")
    np.save(tmp_path / "v.npy", np.zeros((400, 2)))
    with pytest.raises(BadInput, match=r"an \.npz with train and test"):
        rows_of(load_data("digits"), tmp_path / "v.npy")


def test_the_runs_of_a_study_hash_samples_once_and_what_changed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[int] = []

    def counting(samples: Any) -> Any:
        hashed.append(len(samples))
        return digests_of(samples)

    monkeypatch.setattr("apl.features.embed.digests_of", counting)
    whole = Dataset("mine", ("a", "b"), arrays(40), arrays(9, 40), (0.5,) * 3, (0.5,) * 3)
    first = featured(whole, HOW, whole)
    chosen = np.array([31, 4, 12])
    part = dataclasses.replace(whole, train=whole.train.take(chosen))
    made = featured(part, HOW, whole).train.images
    assert torch.equal(made, first.train.images[torch.from_numpy(chosen)])
    assert hashed == [40, 9]
    whole.train.images[4] = 255 - whole.train.images[4]  # in place: the same object
    again = featured(whole, HOW, whole).train.images
    assert hashed == [40, 9, 40]
    assert not torch.equal(again[4], first.train.images[4])
    assert torch.equal(again[5:], first.train.images[5:])
    unknown = dataclasses.replace(part, train=dataclasses.replace(part.train, at=None))
    assert torch.equal(featured(unknown, HOW, whole).train.images, made)  # not known as a part
    assert hashed[3:] == [3]


def test_a_file_is_hashed_again_once_it_was_written_to(tmp_path: Path) -> None:
    file = tmp_path / "v.npy"
    file.write_bytes(b"one")
    first = file_digest("v.npy", "")
    assert file_digest("v.npy", "") == first
    info = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))  # as a copy that keeps times
    assert file_digest("v.npy", "") != first


def test_test_texts_have_the_features_of_all_training_texts_where_they_are_asked_for_alone() -> (
    None
):
    """As `apl evaluate` asks for them; and never of what tfidf was not to see."""
    words = ["card is lost", "card has arrived", "my card is late", "where is my card"]
    none = torch.zeros(4, 0)
    labels = Labels(np.arange(4) % 2, np.arange(4) % 2)
    splits = (Split(none, labels, texts=tuple(texts)) for texts in (words, ["my card", "lost"] * 2))
    data = Dataset("said", ("a", "b"), *splits, (), ())
    how = Embedding("tfidf")
    whole, alone = featured(data, how), featured(data, how, train=False)
    assert torch.equal(alone.test.images, whole.test.images)
    assert len(alone.train) == 0
    part = dataclasses.replace(data, train=data.train.take(np.array([3, 0])))
    assert torch.equal(featured(part, how, data).train.images, whole.train.images[[3, 0]])
    others = dataclasses.replace(data, test=dataclasses.replace(data.test, texts=("x",) * 4))
    assert featured(others, how).made_by == whole.made_by  # test texts are not counted
