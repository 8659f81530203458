"""What labels drawn at random say of all, whatever the noise; and how a person is asked."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import hypergeom

from apl.data.decisions import Decisions
from apl.detect.audit import audited, bounds, draw, drawn_before
from apl.errors import BadInput

SIZE, DRAWS, DRAWN = 400, 1000, 20


def test_the_bounds_hold_any_number_of_wrong_labels_with_95_percent() -> None:
    """Exactly, by the chance of every draw, not by simulation."""
    for drawn, size in ((20, 60), (30, 2000)):
        low, high = np.array([bounds(wrong, drawn, size) for wrong in range(drawn + 1)]).T
        for k in range(0, size + 1, 1 + size // 100):
            held = (low <= k) & (k <= high)
            assert hypergeom.pmf(np.arange(drawn + 1), size, k, drawn)[held].sum() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "skill"), [(0.0, 1.0), (0.01, 0.5), (0.2, 0.0), (0.2, 0.8), (0.5, 1.0), (1.0, 0.3)]
)
def test_intervals_hold_the_truth_in_simulated_audits(noise: float, skill: float) -> None:
    """skill: of the wrong labels, the share that is flagged; 0 of errors that nobody can see."""
    rng = np.random.default_rng(1)
    given = rng.integers(0, 3, SIZE)
    wrong = rng.random(SIZE) < noise
    true = np.where(wrong, (given + 1) % 3, given)
    flagged = np.where(wrong, rng.random(SIZE) < skill, rng.random(SIZE) < 0.1)
    dropped = wrong & (rng.random(SIZE) < 0.2)  # of no class at all
    said = Decisions(true, ~dropped, np.ones(SIZE, bool))
    sizes = wrong.sum(), (wrong & flagged).sum(), (wrong & ~flagged).sum()
    held = np.zeros(3)
    for _ in range(DRAWS):
        found = audited(rng.permutation(SIZE)[:DRAWN].tolist(), said, given, flagged)
        parts = found.all, found.flagged, found.others
        held += [part.low <= k <= part.high for part, k in zip(parts, sizes, strict=True)]
    assert (held >= 0.95 * DRAWS).all()


@pytest.mark.slow
def test_the_bounds_are_those_of_all_numbers_tried() -> None:
    for drawn, size in ((7, 20), (20, 20), (50, 3000)):
        for wrong in range(0, drawn + 1, 5):
            k = np.arange(wrong, size - drawn + wrong + 1)
            fits = k[
                (hypergeom.sf(wrong - 1, size, k, drawn) > 0.025)
                & (hypergeom.cdf(wrong, size, k, drawn) > 0.025)
            ]
            assert bounds(wrong, drawn, size) == (fits[0], fits[-1])
    assert bounds(3, 20, 20) == (3, 3)  # all were judged
    assert bounds(0, 0, 100) == (0, 100)  # none was


def test_what_is_undecided_widens_the_interval_to_both_sides() -> None:
    given = np.zeros(100, np.int64)
    labels = np.where(np.arange(100) < 30, 1, 0)
    decided = np.arange(100) % 10 > 1
    drawn = list(range(0, 100, 2))
    flagged = np.arange(100) < 40
    all_said = audited(drawn, Decisions(labels, decided | True, decided | True), given, flagged)
    some = audited(drawn, Decisions(labels, decided | True, decided), given, flagged)
    assert (all_said.left, some.left) == (0, 10)
    assert some.all.low < all_said.all.low <= 30 <= all_said.all.high < some.all.high
    assert "15 of 50 labels drawn at random are wrong: noise rate 30.0%" in all_said.lines[0]
    assert "12 of 50 labels drawn at random are wrong and 10 undecided: noise rate" in some.lines[0]
    assert "%)" not in some.lines[0]  # no estimate, for nobody leaves labels open by chance
    assert some.as_json()["all"]["share"] is None
    assert json.dumps(some.as_json(), allow_nan=False)


def test_a_draw_is_kept_grows_and_is_of_these_labels_alone(tmp_path: Path) -> None:
    given = np.arange(90) % 3
    first = draw(tmp_path, 10, "a" * 64, given, 0)
    assert drawn_before(tmp_path, "a" * 64, given) == first
    assert len({*first}) == 10
    assert draw(tmp_path, 20, "a" * 64, given, 5)[:10] == first  # of another seed now
    with pytest.raises(BadInput, match="audit is 5, but 20 labels were drawn already"):
        draw(tmp_path, 5, "a" * 64, given, 0)
    assert not drawn_before(tmp_path, "b" * 64, given)
    assert not drawn_before(tmp_path, "a" * 64, given[::-1])
    (tmp_path / "audit.json").write_text('{"data": 3, "drawn": "x"}')
    assert not drawn_before(tmp_path, "a" * 64, given)


@pytest.mark.slow
@pytest.mark.usefixtures("briefly")
def test_a_person_is_asked_before_the_list_is_shown(
    here: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    words = {"ru": "фильм очень понравился сюжет".split(), "ar": "فيلم رائع قصة مذهلة".split()}
    true = ["ru", "ar"] * 40
    given = ["ar" if i < 8 else kind for i, kind in enumerate(true)]
    with (tmp_path / "my.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for kind, label in zip(true, given, strict=True):
            writer.writerow([" ".join(rng.choice(words[kind], 4)) + " <b>", label])
    asked = ("find", "my.csv", "--loss", "ce", "--epochs", "2", "--threads", "1", "--audit", "20")
    told = here(*asked).stdout
    folder = tmp_path / "results/my-find"
    assert "judge 20 labels in a browser" in told
    assert "look wrong" not in told
    assert not (folder / "issues.csv").exists()
    page = (folder / "audit.html").read_text(encoding="utf-8")
    cards = re.findall(
        r'data-id="(\d+)" data-name="(\d+)" data-given="(\w+)" data-sug\w+="(.*?)"', page
    )
    assert [int(card[0]) for card in cards] == json.loads((folder / "audit.json").read_text())[
        "drawn"
    ]
    assert {card[3] for card in cards} == {""}  # what was found sways nobody
    assert "noise rate" not in page
    if shutil.which("node"):
        (code,) = re.findall(r"<script>\n(.*?)</script>", page, re.S)
        (tmp_path / "page.js").write_text(code, encoding="utf-8")
        subprocess.run(["node", "--check", str(tmp_path / "page.js")], check=True)
    rows = [
        (i, name, "keep" if true[int(name)] == label else "fix", true[int(name)], label)
        for i, name, label, _ in cards
    ]
    wrong = sum(row[2] == "fix" for row in rows)
    with (tmp_path / "decisions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "file_name", "decision", "label", "given_label"])
        writer.writerows(rows)
    told = here(*asked, "--decisions", "decisions.csv").stdout
    assert f"audit: {wrong} of 20 labels drawn at random are wrong" in told
    assert "look wrong" in told
    noise = json.loads((folder / "noise.json").read_text())
    assert noise["audit"]["all"]["wrong"] == wrong
    assert noise["audit"]["all"]["low"] <= 8 <= noise["audit"]["all"]["high"]
    assert any("predicted from the input" in doubt for doubt in noise["doubts"])
    again = here(*asked[:-2], "--decisions", "decisions.csv").stdout  # and without --audit
    assert f"audit: {wrong} of 20 labels" in again
