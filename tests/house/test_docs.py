"""What the docs show runs: notebooks, examples, the loss that is added, and the site itself."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from conftest import PATIENCE, ROOT, Cli
from PIL import Image

from apl.cli.app import app
from apl.losses.catalog import LOSSES

DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def blocks(page: str) -> dict[str, str]:
    """The first block of Python, or of a change, below each heading of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for part in re.split(r"^##+ ", text, flags=re.M)[1:]:
        code = re.search(r"^```(?:python|diff)\n(.*?)^```", part, re.S | re.M)
        if code:
            found[part.split("\n")[0]] = code[1]
    return found


EXAMPLES = blocks("examples.md")
ADDED = blocks("adding-a-loss.md")


@pytest.mark.slow
def test_the_notebooks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one kernel, which loads torch once, each with nothing defined; two epochs of a small
    network where a training shows what comes out."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # pictures go into the notebook
    book, speaking = nbformat.v4.new_notebook(), []
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        code = [
            cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
        ]
        said = [cell for cell in code if "print(" in cell.source or "plt.sub" in cell.source]
        assert said
        assert all(cell.outputs for cell in said), f"{path.stem} is committed without its outputs"
        for cell in code:
            cell.source = TRAINED.sub(_shortly, cell.source)
        book.cells += [nbformat.v4.new_code_cell("%reset -f"), *code]
        speaking += said
    nbclient.NotebookClient(
        book, timeout=PATIENCE, resources={"metadata": {"path": tmp_path}}
    ).execute()
    for cell in speaking:
        assert cell.outputs, cell.source
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        assert "plt.sub" not in cell.source or "image/png" in kinds


TRAINED = re.compile(r'\b(make_config|find_mislabelled)\(([^()]*"quick"[^()]*)\)')


def _shortly(call: re.Match[str]) -> str:
    return f"{call[1]}({re.sub(', epochs=[0-9]+', '', call[2])}, epochs=2, network='mlp')"


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("Plain PyTorch", ["torch"]),
        ("Lightning", ["lightning"]),
        ("The Trainer", ["transformers", "accelerate"]),
        ("timm", ["timm"]),
    ],
)
def test_an_example_trains(
    name: str, packages: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    given = {"images": torch.rand(64, 3, 32, 32), "labels": torch.arange(64) % 10}
    if name == "The Trainer":
        exec(EXAMPLES["Hugging Face Trainer"], given)
    exec(EXAMPLES[name], given)
    trained = given["trainer"].model if "trainer" in given else given["network"]
    assert all(bool(p.isfinite().all()) for p in trained.parameters())
    if "trainer" in given:
        step = getattr(given["trainer"], "global_step", None) or given["trainer"].state.global_step
        assert step == 2
    else:
        assert any(float(p.grad.abs().sum()) > 0 for p in trained.parameters())


def test_timms_own_script_trains_with_the_two_lines(tmp_path: Path) -> None:
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    if "TIMM_TRAIN" not in os.environ:
        pytest.skip("timm's package leaves train.py out: set TIMM_TRAIN to where it is")
    *added, before = EXAMPLES["timm's training script"].splitlines(keepends=True)
    assert [line[0] for line in (*added, before)] == ["+", "+", " "]
    script = Path(os.environ["TIMM_TRAIN"]).read_text(encoding="utf-8")
    assert script.count(before[1:]) == 1
    after = "".join(line[1:] for line in (*added, before))
    after += "    print('the loss is', train_loss_fn)\n"
    (tmp_path / "train.py").write_text(script.replace(before[1:], after), encoding="utf-8")
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        for k in range(20):
            place = tmp_path / "photos" / split / f"class{k % 10}"
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{k}.png")
    options = "--model resnet10t --num-classes 10 --mixup 0.2 --epochs 1 --batch-size 8 --workers 0"
    options += " --img-size 32 --device cpu --no-prefetcher --warmup-epochs 0 --cooldown-epochs 0"
    done = subprocess.run(
        [sys.executable, "train.py", "photos", *options.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the loss is NoisyLabelLoss('nce_rce', num_classes=10" in done.stdout
    assert list(tmp_path.glob("output/train/*/last.pth.tar")) or "Best metric" in done.stderr


@pytest.mark.slow
def test_a_function_of_ones_own_trains(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "my_losses.py").write_text(ADDED["2. A function of yours"], encoding="utf-8")
    done = cli("train", "--loss", "my_losses:poly", "--epochs", "2", "--rate", "0.2")
    assert "my_losses:poly" in done.stdout


@pytest.mark.slow
def test_an_entry_of_bases_makes_three_losses(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "apl", tmp_path / "apl")
    shutil.copytree(ROOT / "kernels", tmp_path / "apl" / "kernels")
    bases = tmp_path / "apl" / "kernels" / "bases.py"
    text, place = bases.read_text(encoding="utf-8"), '    "one": Base('
    assert text.count(place) == 1
    entry = ADDED["3. A function of log p, for everybody"]
    bases.write_text(text.replace(place, entry + place), encoding="utf-8")
    check = """
import sys
import torch
from apl import LOSSES, make_loss
from apl.cli import main
assert {"square", "nsquare", "nce_square"} <= set(LOSSES)
assert LOSSES["nsquare"].tolerant and not LOSSES["square"].tolerant
z = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
y = torch.tensor([0, 1, 2, 3, 0, 1])
rest = 1 - z.softmax(1)
for name, expected in {
    "square": rest.gather(1, y[:, None])[:, 0] ** 2,
    "nsquare": rest.gather(1, y[:, None])[:, 0] ** 2 / (rest**2).sum(1),
}.items():
    torch.testing.assert_close(make_loss(name, 4, "none")(z, y), expected)
    torch.autograd.gradcheck(make_loss(name, 4), (z, y))
sys.argv = ["apl", "losses"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", check],
        cwd=tmp_path,  # the copy is found before the installed one
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "(1 - p_y)^2" in done.stdout


@pytest.mark.slow
def test_the_site_is_built_and_asks_for_nothing(tmp_path: Path) -> None:
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs-material and mkdocstrings are not installed")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    for page in site.rglob("*.html"):
        if "source" in page.relative_to(site).parts:  # studies' own pages, tested elsewhere
            continue
        html = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(?:https?:)?//[^\"]+", html)
        fetched += re.findall(r"<link\b[^>]*rel=\"(?:stylesheet|preconnect)\"[^>]*//[^>]+", html)
        assert not fetched, (page.name, fetched)
    for sheet in site.rglob("*.css"):
        fetched = re.findall(r"url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8"))
        assert not fetched, (sheet.name, fetched)

    losses = (site / "all-losses.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in losses for name in LOSSES)
    formulas = re.findall(r'<p class="formula">(.*?)</p>', losses)
    assert len(formulas) == len(LOSSES)
    assert not [it for it in formulas if re.search(r"[_^]", re.sub(r"<a.*?</a>", "", it))]
    pictures = losses.count('<svg class="curves"') + losses.count("<em>No picture")
    assert pictures == len(LOSSES)
    api = re.sub(r"<[^>]*>|\s+", " ", (site / "api.html").read_text(encoding="utf-8"))
    head = r"ignore_index +\( *int *, default: *-100 *\) +\u2013"
    assert re.search(rf"{head} +The target of rows", api)
    assert "2*nce + 0.5*mae" in api  # and not in italics


@pytest.mark.slow
def test_the_api_page_says_of_each_parameter_what_it_is() -> None:
    """Docstrings name all that there are, in their order, and no others."""
    griffe = pytest.importorskip("griffe", reason="mkdocstrings is not installed")
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    (plugin,) = (each for each in site["plugins"] if "mkdocstrings" in each)
    options = plugin["mkdocstrings"]["handlers"]["python"]["options"]
    package = griffe.GriffeLoader(search_paths=[ROOT]).load("apl")
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    shown = []
    for name, own in re.findall(r"^::: apl\.(\S+)\n(?:    options: (.*)\n)?", page, re.M):
        members = yaml.safe_load(own or "{}").get("members", [])
        shown += [package[name], *(package[name].all_members[member] for member in members)]
    assert len(shown) > 50
    for thing in shown:
        found = thing.docstring.parse(options["docstring_style"], **options["docstring_options"])
        sections = {section.kind.value: section.value for section in found}
        named = sections.get("parameters") or sections.get("attributes", [])
        there = [each.name for each in getattr(thing, "parameters", []) if each.name != "self"]
        assert [each.name.lstrip("*") for each in named] == there, thing.path
        returned = [each.annotation for each in sections.get("returns", [])]
        # What stands before a colon would be taken for a type.
        assert not returned or returned == [thing.returns], thing.path


def test_the_benchmarks_are_named_where_they_lie() -> None:
    """All of them by their README, and by no page one that is not there."""
    folder = ROOT / "benchmarks"
    listed = re.findall(r"^\| `([\w/]+\.py)", (folder / "README.md").read_text(), re.M)
    assert sorted(listed) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.py")
    )
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("results/evidence/*/*.md")]
    pages += [*DOCS.rglob("*.md"), *folder.rglob("*.py"), *(ROOT / "apl").rglob("*.py")]
    for page in pages:
        for named in re.findall(r"benchmarks/([\w/]+\.py)", page.read_text(encoding="utf-8")):
            assert (folder / named).is_file(), f"{page}: {named}"


@functools.cache
def sources_of_tests() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in TESTS}


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_what_there_is(page: Path) -> None:
    """Files of ours, tests, and options of the commands that it shows."""
    text = page.read_text(encoding="utf-8")
    for named in re.findall(r"`((?:apl|kernels|tests|docs|results/evidence)/[\w./-]+\.\w+)`", text):
        assert (ROOT / named).is_file(), named
    tests = sources_of_tests()
    for named in re.findall(r"`(test_\w+\.py)`", text):
        assert named in tests, named
    for named in re.findall(r"`(test_\w+)`", text):
        other = named in ("test_accuracy", "test_set")  # a column, and a folder
        assert other or any(f"def {named}(" in source for source in tests.values()), named
    group = typer.main.get_command(app)
    for name, rest in re.findall(r"\bapl ([a-z]+)((?:\\\n|[^\n`#|])*)", text):
        command = getattr(group, "commands", {}).get(name)
        command = getattr(command, "commands", {"import": command})["import"]  # apl track import
        if command is not None:  # else a sentence with our name in it
            known = {word for option in command.params for word in _words(option)}
            assert set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest)) <= {*known, "--help"}, rest


def _words(option: Any) -> list[str]:
    return [*option.opts, *option.secondary_opts]
