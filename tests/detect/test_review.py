"""What `apl find` writes for people and other programs, and their decisions read back."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import PATIENCE
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from apl.data.decisions import Decisions, read_labels
from apl.detect.evidence import Findings, Rate
from apl.detect.review import write_review
from apl.errors import BadInput
from apl.files import harmless, table_bytes

CLASSES = ("cat", "dog", "sea, deep")
NAMES = ("cat/a.png", 'dog/b, "c".png', "sea, deep/line\nbreak.png", "cat/ é 漢.png", "cat/e.png")
GIVEN = np.array([0, 1, 2, 0, 0])


def findings(**changes: Any) -> Findings:
    """Five labels: the third is worst, then the first; the last sample was never seen."""
    values: dict[str, Any] = {
        "is_label_issue": np.array([True, False, True, False, False]),
        "label_score": np.array([0.2, 0.9, 0.1, 0.7, np.nan]),
        "given_label": GIVEN,
        "predicted_label": np.array([1, 1, 0, 0, -1]),
        "noise_rate": Rate(0.4, 0.3, 0.5),
        "transition": np.full((3, 3), 1 / 3),
        "doubts": ["weak network: it agrees with <half> of the labels"],
    }
    return Findings(**{**values, **changes})


def pixels(size: int = 8, channels: int = 3, count: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)


def files(folder: Path) -> Path:
    """A folder that holds what NAMES says."""
    for name in NAMES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def review(folder: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {"class_names": CLASSES, "names": NAMES, "pixels": pixels()}
    found = changes.pop("findings", findings())
    write_review(folder, found, **{**values, **changes})
    return folder


def read(file: Path, **changes: Any) -> Decisions:
    values: dict[str, Any] = {"given": GIVEN, "class_names": CLASSES, "names": NAMES}
    return read_labels(file, **{**values, **changes})


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text inside of each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag == name]

    @property
    def cards(self) -> list[dict[str, str | None]]:
        return [attrs for attrs in self.of("li") if "data-id" in attrs]


# ----------------------------------------------------------------------------- what is written


def test_what_has_no_images_has_no_gallery(tmp_path: Path) -> None:
    assert (review(tmp_path) / "gallery.html").is_file()
    review(tmp_path, pixels=None)
    assert not (tmp_path / "gallery.html").exists()  # of the images that lay there before
    assert len(pd.read_csv(tmp_path / "issues.csv")) == 5


def test_issues_are_datalabs_columns_worst_first(tmp_path: Path) -> None:
    table = pd.read_csv(review(tmp_path) / "issues.csv")
    datalab = ["id", "is_label_issue", "label_score", "given_label", "predicted_label"]
    assert list(table) == [*datalab, "file_name"]
    assert table["id"].tolist() == [2, 0, 3, 1, 4]
    assert table["is_label_issue"].dtype == bool
    assert table["is_label_issue"].tolist() == [True, True, False, False, False]
    assert table["given_label"].tolist() == [CLASSES[GIVEN[i]] for i in table["id"]]
    assert table["predicted_label"].tolist()[:2] == ["cat", "dog"]
    assert table["file_name"].tolist() == [NAMES[i] for i in table["id"]]
    last = table.iloc[-1]
    assert np.isnan(last["label_score"])
    assert pd.isna(last["predicted_label"])


def test_scores_are_written_exactly(tmp_path: Path) -> None:
    scores = np.random.default_rng(1).random(5)
    table = pd.read_csv(review(tmp_path, findings=findings(label_score=scores)) / "issues.csv")
    np.testing.assert_array_equal(table["label_score"], np.sort(scores))


def test_the_mask_is_in_the_datas_order(tmp_path: Path) -> None:
    mask = np.load(review(tmp_path) / "is_label_issue.npy")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, findings().is_label_issue)


def test_label_studio_takes_the_tasks(tmp_path: Path) -> None:
    root = files(tmp_path / "my photos")
    tasks = json.loads((review(tmp_path, root=str(root)) / "label_studio.json").read_text())
    assert [task["data"]["file_name"] for task in tasks] == [NAMES[2], NAMES[0]]
    task = tasks[0]
    assert task["data"]["image"] == (
        "/data/local-files/?d=my%20photos/sea%2C%20deep/line%0Abreak.png"
    )
    assert task["data"]["given_label"] == "sea, deep"
    (prediction,) = task["predictions"]
    assert prediction["score"] == pytest.approx(0.9)
    (result,) = prediction["result"]
    assert result["type"] == "choices"
    assert result["value"] == {"choices": ["cat"]}
    # The configuration names the same controls and all classes.
    xml = (tmp_path / "label_studio.xml").read_text()
    assert f'<Choices name="{result["from_name"]}" toName="{result["to_name"]}"' in xml
    assert re.findall(r'<Choice value="([^"]*)"', xml) == list(CLASSES)


def test_fiftyone_reads_the_csv(tmp_path: Path) -> None:
    root = files(tmp_path / "photos")
    table = pd.read_csv(review(tmp_path, root=str(root)) / "fiftyone.csv")
    assert list(table) == ["filepath", "given", "suggested", "score"]
    assert table["filepath"].tolist() == [str(root / NAMES[i]) for i in (2, 0, 3, 1, 4)]
    assert all(Path(path).is_file() for path in table["filepath"])
    assert table["given"].tolist()[0] == "sea, deep"


def test_samples_that_are_no_files_are_not_sent_to_programs_that_open_files(tmp_path: Path) -> None:
    review(tmp_path, names=(), root="")
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"issues.csv", "is_label_issue.npy", "noise.json", "gallery.html"}
    assert pd.read_csv(tmp_path / "issues.csv")["file_name"].isna().all()
    review(tmp_path, root=str(tmp_path), names=tuple("01234"))  # arrays of an .npz beside it
    assert not (tmp_path / "label_studio.json").exists()


def test_noise_says_rate_matrix_classes_and_doubts(tmp_path: Path) -> None:
    noise = json.loads((review(tmp_path) / "noise.json").read_text())
    assert noise["noise_rate"] == {"estimate": 0.4, "low": 0.3, "high": 0.5}
    assert (noise["samples"], noise["flagged"]) == (5, 2)
    assert noise["class_names"] == list(CLASSES)
    assert np.array(noise["transition"]).shape == (3, 3)
    assert noise["classes"] == [
        {"name": "cat", "labels": 3, "flagged": 1, "into": {"dog": 1}},
        {"name": "dog", "labels": 1, "flagged": 0, "into": {}},
        {"name": "sea, deep", "labels": 1, "flagged": 1, "into": {"cat": 1}},
    ]
    assert noise["doubts"] == findings().doubts


def test_a_smaller_second_search_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    review(tmp_path, root=str(files(tmp_path / "photos")))
    assert (tmp_path / "label_studio.json").exists()
    review(tmp_path, names=(), root="")
    assert not (tmp_path / "label_studio.json").exists()
    assert not (tmp_path / "fiftyone.csv").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"names": NAMES[:4]}, "names"),
        ({"pixels": pixels(count=4)}, "pixels"),
        ({"curves": np.zeros((4, 3))}, "curves"),
        ({"class_names": CLASSES[:2]}, "class_names"),
        ({"decisions": Decisions(GIVEN[:4], GIVEN[:4] > 0, GIVEN[:4] > 0)}, "decisions"),
    ],
)
def test_what_does_not_fit_the_findings_is_said(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        review(tmp_path, **changes)


# --------------------------------------------------------------------------------- the gallery


def gallery(folder: Path, **changes: Any) -> tuple[str, Page]:
    html = (review(folder, **changes) / "gallery.html").read_text(encoding="utf-8")
    return html, Page(html)


def test_the_gallery_shows_the_flagged_worst_first(tmp_path: Path) -> None:
    _, page = gallery(tmp_path)
    assert [card["data-id"] for card in page.cards] == ["2", "0"]
    first = page.cards[0]
    assert first["data-name"] == NAMES[2]
    assert (first["data-given"], first["data-suggested"]) == ("sea, deep", "cat")
    assert findings().doubts[0][1:] in page.text  # escaped, and whole
    assert "40 %" in page.text
    assert "between 30 % and 50 %" in page.text


def test_the_gallery_leans_on_nothing_outside(tmp_path: Path) -> None:
    html, page = gallery(tmp_path, curves=np.zeros((5, 3)))
    for _, attrs in page.tags:
        for name in ("src", "href", "data", "action"):
            assert (attrs.get(name) or "data:").startswith(("data:", "#"))
    assert not re.search(r"@import|url\((?!data:)|fetch\(|XMLHttpRequest|import\(", html)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiny_images_are_inlined_to_the_pixel(tmp_path: Path, channels: int) -> None:
    images = pixels(28, channels)
    _, page = gallery(tmp_path, pixels=images)
    uri = page.of("img")[0]["src"] or ""
    shown = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))
    np.testing.assert_array_equal(np.asarray(shown).reshape(images[2].shape), images[2])


def test_large_images_are_inlined_small(tmp_path: Path) -> None:
    _, page = gallery(tmp_path, pixels=pixels(512))
    uri = page.of("img")[0]["src"] or ""
    shown = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert max(shown.size) <= 192


def picture(uri: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode((uri or "").partition("base64,")[2])))


def photos(root: Path, size: tuple[int, int], kind: str = "RGB") -> tuple[str, ...]:
    """Five photos, left half dark, right half light."""
    names = tuple(f"some cats/{i} é.png" for i in range(5))
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros(size[::-1], np.uint16 if kind == "I;16" else np.uint8)
        values[:, size[0] // 2 :] = 60000 if kind == "I;16" else 255
        image = Image.fromarray(values)
        (image if kind == "I;16" else image.convert(kind)).save(path)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["RGB", "L", "I;16", "RGBA", "P"])
def test_photos_are_shown_whole(tmp_path: Path, kind: str) -> None:
    """What was learned from is a square of 32 pixels out of the middle; what is judged is not."""
    names = photos(tmp_path / "photos", (1000, 500), kind)
    html, page = gallery(
        tmp_path, names=names, root=str(tmp_path / "photos"), pixels=pixels(32), curves=None
    )
    shown = picture(page.of("img")[0]["src"])
    assert shown.size == (400, 200)
    dark, light = (shown.convert("L").getpixel((x, 100)) for x in (20, 380))
    assert isinstance(dark, int)
    assert isinstance(light, int)
    assert light - dark > 200
    assert page.cards[0]["data-path"] == str(tmp_path / "photos" / names[2])
    assert 'class="photos"' in html


def test_what_is_no_file_any_more_is_shown_as_it_was_decoded(tmp_path: Path) -> None:
    names = photos(tmp_path / "photos", (1000, 500))
    (tmp_path / "photos" / names[2]).unlink()
    (tmp_path / "photos" / names[0]).write_bytes(b"no image")
    _, page = gallery(tmp_path, names=names, root=str(tmp_path / "photos"), pixels=pixels(64))
    assert [picture(image["src"]).size for image in page.of("img")[:2]] == [(64, 64)] * 2
    assert page.cards[0]["data-path"] == ""


def test_small_files_are_shown_to_the_pixel(tmp_path: Path) -> None:
    names = photos(tmp_path / "photos", (28, 20))
    html, page = gallery(tmp_path, names=names, root=str(tmp_path / "photos"), pixels=pixels(20))
    uri = page.of("img")[0]["src"]
    assert (uri or "").startswith("data:image/png")
    assert picture(uri).size == (28, 20)
    assert 'class="tiny"' in html


def test_more_than_a_page_holds_goes_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 30
    found = findings(
        is_label_issue=np.ones(count, bool),
        label_score=np.linspace(0.4, 0.1, count),
        given_label=np.zeros(count, int),
        predicted_label=np.ones(count, int),
    )
    monkeypatch.setattr("apl.detect.gallery.PER_PAGE", 12)
    folder = review(tmp_path, findings=found, names=(), pixels=pixels(count=count), shown=29)
    files = sorted(folder.glob("gallery*.html"))
    assert [file.name for file in files] == ["gallery-2.html", "gallery-3.html", "gallery.html"]
    pages = [Page(file.read_text(encoding="utf-8")) for file in (files[2], *files[:2])]
    ids = [card["data-id"] for page in pages for card in page.cards]
    assert ids == [str(i) for i in range(29, 0, -1)]
    links = [link["href"] for link in pages[1].of("a") if "href" in link]
    assert links == ["gallery.html", "gallery-3.html"]
    assert "on 3 pages" in pages[0].text
    # As large as may be, by what the images take.
    monkeypatch.setattr("apl.detect.gallery.MOST_BYTES", 1000)
    review(tmp_path, findings=found, names=(), pixels=pixels(count=count), shown=29)
    assert len([*folder.glob("gallery*.html")]) > 3
    review(tmp_path)
    assert [file.name for file in folder.glob("gallery*.html")] == ["gallery.html"]


def test_beyond_the_cap_the_page_says_how_many_more(tmp_path: Path) -> None:
    count = 30
    found = findings(
        is_label_issue=np.ones(count, bool),
        label_score=np.linspace(0.4, 0.1, count),
        given_label=np.zeros(count, int),
        predicted_label=np.ones(count, int),
    )
    _, page = gallery(tmp_path, findings=found, names=(), pixels=pixels(count=count), shown=7)
    assert [card["data-id"] for card in page.cards] == [str(i) for i in range(29, 22, -1)]
    assert "23 more" in page.text


def test_a_curve_breaks_where_a_sample_was_not_seen(tmp_path: Path) -> None:
    curves = np.full((5, 6), 0.5)
    curves[2] = [0, 0.5, np.nan, 1, np.nan, 0.25]
    _, page = gallery(tmp_path, curves=curves)
    lines = [line["points"] for line in page.of("polyline")]
    # A piece of two points and two of one in the first card, one of six in the other.
    assert [len(set(points.split())) for points in lines] == [2, 1, 1, 6]
    assert lines[0] == "0,29 20,15"  # nothing at the bottom, one half in the middle
    assert not any("nan" in points for points in lines)
    assert (page.of("svg")[0]["aria-label"] or "").endswith(
        "0 %, 50 %, not seen, 100 %, not seen, 25 %"
    )


def test_no_name_breaks_out_of_the_page(tmp_path: Path) -> None:
    evil = ("</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style>")
    names = tuple(f"{evil[i % 3]}{i}" for i in range(5))
    html, page = gallery(tmp_path, class_names=evil, names=names)
    assert "<script>alert" not in html
    assert len(page.of("script")) == len(gallery(tmp_path)[1].of("script"))
    assert len([image for image in page.of("img") if "src" in image]) == 2
    assert page.cards[0]["data-name"] == names[2]


def test_decided_samples_are_not_shown_again_and_are_counted(tmp_path: Path) -> None:
    labels, keep = GIVEN.copy(), np.ones(5, bool)
    labels[2] = 1
    decided = np.array([False, False, True, False, False])
    html, page = gallery(tmp_path, decisions=Decisions(labels, keep, decided))
    assert [card["data-id"] for card in page.cards] == ["0"]
    assert "1 of the flagged" in page.text
    noise = json.loads((tmp_path / "noise.json").read_text())
    assert noise["decided"] == {"keep": 0, "fix": 1, "drop": 0}
    # They are in the page all the same, so that the file that it saves has all decisions.
    assert '"fix", "dog"' in html


def test_nothing_flagged_is_said(tmp_path: Path) -> None:
    _, page = gallery(tmp_path, findings=findings(is_label_issue=np.zeros(5, bool)))
    assert page.cards == []
    assert "No label is flagged" in page.text


def test_the_same_findings_give_the_same_bytes(tmp_path: Path) -> None:
    assert gallery(tmp_path)[0] == gallery(tmp_path)[0]


def test_neither_head_loads_torch() -> None:
    code = (
        "import sys, apl.review; assert not {'torch', 'pandas', 'jinja2'} & set(sys.modules); "
        "import apl.detect.gallery; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE)


# ----------------------------------------------------------------------------------- read back


def written(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.slow
@given_by(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1),
            st.integers(0, 2),
            st.sampled_from(["", "keep", "fix", "drop"]),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda row: row[0],
    )
)
@settings(max_examples=150, deadline=None)
def test_names_and_decisions_survive(rows: list[tuple[str, int, str, int]]) -> None:
    names = tuple(name for name, _, _, _ in rows)
    given = np.array([label for _, label, _, _ in rows])
    table = [
        (
            i,
            name,
            decision,
            "" if decision in ("", "drop") else CLASSES[new if decision == "fix" else own],
        )
        for i, (name, own, decision, new) in enumerate(rows)
    ]
    data = table_bytes(("id", "file_name", "decision", "label"), table)
    # What is written is what Python's own reader takes it for.
    again = list(csv.reader(io.StringIO(data.decode(), newline="")))
    assert again[1:] == [[harmless(str(cell)) for cell in row] for row in table]
    with tempfile.TemporaryDirectory() as folder:
        found = read(written(Path(folder), data), given=given, names=names)
    for i, (_, own, decision, new) in enumerate(rows):
        assert found.decided[i] == (decision != "")
        assert found.keep[i] == (decision != "drop")
        assert found.labels[i] == (new if decision == "fix" else own)


def test_a_list_of_names_and_labels(tmp_path: Path) -> None:
    found = read(written(tmp_path, "file_name,label\ncat/a.png,dog\ncat/e.png,cat\n"))
    assert found.labels.tolist() == [1, 1, 2, 0, 0]
    assert found.labels.dtype == np.int64
    assert found.keep.all()
    assert found.decided.tolist() == [True, False, False, False, True]


def test_classes_by_number_and_samples_by_number(tmp_path: Path) -> None:
    file = written(tmp_path, "id,label\n0,1\n3,2.0\n")
    assert read(file).labels.tolist() == [1, 1, 2, 2, 0]
    assert read(file, names=()).labels.tolist() == [1, 1, 2, 2, 0]
    # Digits are called '0' to '9': the name is meant, not the place.
    assert read(file, class_names=("2", "1", "0")).labels.tolist() == [1, 1, 2, 0, 0]


def test_samples_without_names_go_by_their_number(tmp_path: Path) -> None:
    file = written(tmp_path, "file_name,label\n4,dog\n")
    assert read(file, names=()).labels.tolist() == [0, 1, 2, 0, 1]


def test_an_image_that_is_listed_twice(tmp_path: Path) -> None:
    names = ("a.png", "a.png", "b.png", "c.png", "d.png")
    both = written(tmp_path, "file_name,label\na.png,sea\n")
    found = read(both, names=names, class_names=("cat", "dog", "sea"))
    assert found.labels.tolist()[:2] == [2, 2]
    one = written(tmp_path, "id,file_name,decision\n1,a.png,drop\n")
    assert read(one, names=names).keep.tolist() == [True, False, True, True, True]


def test_issues_edited_by_hand(tmp_path: Path) -> None:
    file = review(tmp_path) / "issues.csv"
    assert not read(file).decided.any()  # as written, it says nothing
    table = pd.read_csv(file)
    table.loc[table["id"] == 0, "given_label"] = "dog"
    table.to_csv(file, index=False)
    found = read(file)
    assert found.labels.tolist() == [1, 1, 2, 0, 0]
    assert found.decided.tolist() == [True, False, False, False, False]


def test_issues_with_a_column_of_decisions(tmp_path: Path) -> None:
    file = review(tmp_path) / "issues.csv"
    table = pd.read_csv(file)
    table["decision"] = ["Fix", " drop ", "", "keep", ""]
    table.to_csv(file, index=False, sep=";", encoding="utf-8-sig")
    found = read(file)
    assert found.labels.tolist() == [0, 1, 0, 0, 0]  # the third takes the suggestion
    assert found.keep.tolist() == [False, True, True, True, True]
    assert found.decided.tolist() == [True, True, True, False, False]


def test_label_studios_exports(tmp_path: Path) -> None:
    review(tmp_path, root=str(files(tmp_path / "photos")))
    tasks = json.loads((tmp_path / "label_studio.json").read_text())
    for number, (task, label) in enumerate(zip(tasks, ("dog", "cat"), strict=True)):
        result = [{**task["predictions"][0]["result"][0], "value": {"choices": [label]}}]
        task.update(id=100 + number, annotations=[{"result": result, "was_cancelled": False}])
    full = written(tmp_path, json.dumps(tasks), "export.json")
    expected = [0, 1, 1, 0, 0]
    assert read(full).labels.tolist() == expected
    assert read(full).decided.tolist() == [True, False, True, False, False]
    flat = [
        {**t["data"], "id": t["id"], "label": a} for t, a in zip(tasks, ("dog", "cat"), strict=True)
    ]
    assert read(written(tmp_path, json.dumps(flat), "min.json")).labels.tolist() == expected
    pd.DataFrame(flat).to_csv(tmp_path / "export.csv", index=False)
    assert read(tmp_path / "export.csv").labels.tolist() == expected
    tasks[0]["annotations"][0]["was_cancelled"] = True  # skipped
    skipped = read(written(tmp_path, json.dumps(tasks), "export.json"))
    assert skipped.decided.tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("comma", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_as_excel_saves_it(tmp_path: Path, mark: bytes, comma: str, end: str) -> None:
    rows = [["file_name", "label"], ["cat/a.png", '"sea, deep"'], ["", ""], ["cat/e.png", "dog"]]
    text = end.join(comma.join(row) for row in rows)
    assert read(written(tmp_path, mark + text.encode())).labels.tolist() == [2, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("file_name,label\n", "no rows"),
        ("image,label\na,cat\n", "file_name or id.*its columns: 'image', 'label'"),
        ("file_name,colour\ncat/a.png,red\n", "label or decision"),
        ("file_name,label\ncat/a.png,cow\n", "row 2.*'cow'.*accepted: cat, dog, 'sea, deep'"),
        ("file_name,label\ncat/a.png,3\n", "row 2.*'3'"),
        ("file_name,label\ncat/a.png,-1\n", "row 2.*'-1'"),
        ("file_name,label\ncat/z.png,cat\n", "row 2.*no sample.*'cat/z.png'"),
        ("id,label\n5,cat\n", "row 2.*'5'.*0 to 4"),
        ("id,label\none,cat\n", "row 2.*'one'"),
        ("file_name,label\n,cat\n", "row 2 names no sample"),
        ("file_name,decision\ncat/a.png,delete\n", "row 2.*'delete'; accepted: keep, fix, drop"),
        ("file_name,decision\ncat/a.png,fix\n", "row 2.*fix.*label"),
        (
            "file_name,label\ncat/a.png,cat\ncat/e.png,cat\ncat/a.png,dog\n",
            "row 4.*'cat/a.png'.*row 2",
        ),
        ("id,decision\n0,keep\n0,drop\n", "row 3.*row 2"),
        ("file_name,label\ncat/a.png\n", "row 2 has 1 cells under 2 columns"),
        (b"file_name,label\nc\xff,cat\n", "not UTF-8"),
    ],
)
def test_bad_files_get_one_clear_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        read(written(tmp_path, text))
    assert "\n" not in str(error.value)
    assert "labels.csv" in str(error.value)


def test_the_same_said_twice_is_no_contradiction(tmp_path: Path) -> None:
    text = "file_name,label\ncat/a.png,dog\ncat/a.png,dog\n"
    assert read(written(tmp_path, text)).labels[0] == 1


@pytest.mark.parametrize(
    "text", ["{}", "[1]", "nonsense", "[]", '[{"data": 3, "annotations": []}]']
)
def test_json_of_something_else(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match=r"labels\.json"):
        read(written(tmp_path, text, "labels.json"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        read(tmp_path / "nowhere.csv")


def test_a_file_of_other_samples_is_told_by_its_given_labels(tmp_path: Path) -> None:
    """Numbers alone would fit any data: what most rows call the given label must be it."""
    given = np.arange(30) % 3
    rows = [(i, CLASSES[(label + 1) % 3], "keep") for i, label in enumerate(given)]
    file = written(tmp_path, table_bytes(("id", "given_label", "decision"), rows))
    with pytest.raises(BadInput, match="other samples"):
        read(file, given=given, names=())


def test_issues_of_other_noise_do_not_correct_everything(tmp_path: Path) -> None:
    given = np.arange(30) % 3
    rows = [(f"{i}.png", CLASSES[(label + 1) % 3]) for i, label in enumerate(given)]
    file = written(tmp_path, table_bytes(("file_name", "given_label"), rows))
    with pytest.raises(BadInput, match="other samples"):
        read(file, given=given, names=tuple(f"{i}.png" for i in range(30)))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A file on a disk may be called anything; UTF-8 has no place for it."""
    names = ("\udcff/\udcfe.png", *NAMES[1:])
    class_names = ("\udcff", "dog", "sea")
    file = review(tmp_path, names=names, class_names=class_names, title="\udcff") / "issues.csv"
    table = pd.read_csv(file)
    table["label"] = table["given_label"].where(table["id"] != 2, table["given_label"][1])
    table.to_csv(file, index=False)
    found = read(file, names=names, class_names=class_names)
    assert found.decided.all()
    assert found.labels.tolist() == [0, 1, 0, 0, 0]


def test_what_the_page_saves_goes_on_from_what_was_decided(tmp_path: Path) -> None:
    """apl find --decisions: the file that a first page saved, as a second one embeds it."""
    first = written(
        tmp_path, "id,file_name,decision,label\n0,cat/a.png,fix,dog\n1,,drop,\n3,,keep,cat\n"
    )
    html, _ = gallery(tmp_path / ".", decisions=read(first))
    found = re.search(r'<script type="application/json" id="before">(.*?)</script>', html, re.S)
    assert found is not None
    rows = json.loads(found[1])
    columns = ("id", "file_name", "decision", "label", "given_label")
    again = read(written(tmp_path, table_bytes(columns, [row[:5] for row in rows])))
    for name in ("labels", "keep", "decided"):
        np.testing.assert_array_equal(getattr(again, name), getattr(read(first), name))


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

DRIVE = """
<script>
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true }));
URL.createObjectURL = (blob) => {
  blob.text().then((text) => { document.body.dataset.saved = text; });
  return "data:,";
};
HTMLAnchorElement.prototype.click = () => {};  // a browser without a window may wait for a download
addEventListener("error", (event) => { document.body.dataset.error = event.message; });
%s
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize(
    ("keys", "labels", "keep", "decided"),
    [
        # Worst first: the cards are of samples 2 and 0, and a decision goes on to the next.
        (["2", "3"], [0, 1, 0, 0, 0], [0], [0, 2]),
        (["1", "j", "k", "ArrowRight", "2"], [1, 1, 2, 0, 0], [], [0, 2]),
        (["3", "u", "ArrowRight", "3"], [0, 1, 2, 0, 0], [0], [0]),
        (["c", "type:dog", "Enter"], [0, 1, 1, 0, 0], [], [2]),
        (["2", "ArrowLeft", "2", "1"], [0, 1, 2, 0, 0], [], [2]),  # twice takes it back
    ],
)
def test_keys_decide_in_a_browser(
    tmp_path: Path, keys: list[str], labels: list[int], keep: list[int], decided: list[int]
) -> None:
    """The page as a browser runs it, and the file that it saves as training reads it."""
    steps = [
        f"document.activeElement.value = {key[5:]!r};"
        if key.startswith("type:")
        else f"press({key!r});"
        for key in [*keys, "s"]
    ]
    html, _ = gallery(tmp_path, curves=np.full((5, 4), 0.5))
    page = tmp_path / "driven.html"
    page.write_text(html.replace("</body>", DRIVE % "\n".join(steps)), encoding="utf-8")
    assert CHROMIUM is not None
    flags = "--headless --no-sandbox --disable-gpu --virtual-time-budget=3000 --dump-dom".split()
    command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    dom = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, check=True
    ).stdout
    (body,) = Page(dom).of("body")
    assert "data-error" not in body
    found = read(written(tmp_path, body["data-saved"] or "", "decisions.csv"))
    assert found.labels.tolist() == labels
    assert np.flatnonzero(~found.keep).tolist() == keep
    assert np.flatnonzero(found.decided).tolist() == decided
