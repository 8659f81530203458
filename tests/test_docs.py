"""What the docs show runs: notebooks, examples, and the site itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
EXAMPLES = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", EXAMPLES, re.S | re.M))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # pictures go into the notebook
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    speaking = [cell for cell in code if "print(" in cell.source or "plt.sub" in cell.source]
    assert all(cell.outputs for cell in speaking), "committed without its outputs"
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    for cell in speaking:
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        assert "plt.sub" not in cell.source or "image/png" in kinds


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("Plain PyTorch", "torch"),
        ("Lightning", "lightning"),
        ("Hugging Face Trainer", "transformers"),
        ("timm", "timm"),
    ],
)
def test_an_example_trains(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    given = {"images": torch.rand(64, 3, 32, 32), "labels": torch.arange(64) % 10}
    exec(BLOCKS[name], given)
    trained = given["trainer"].model if "trainer" in given else given["network"]
    assert all(bool(p.isfinite().all()) for p in trained.parameters())
    if "trainer" in given:
        step = getattr(given["trainer"], "global_step", None) or given["trainer"].state.global_step
        assert step == 2
    else:
        assert any(float(p.grad.abs().sum()) > 0 for p in trained.parameters())


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
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for page in site.rglob("*.html"):
        if "source" in page.relative_to(site).parts:  # studies' own pages, tested elsewhere
            continue
        html = page.read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(?:https?:)?//[^\"]+", html)
        fetched += re.findall(r"<link\b[^>]*rel=\"(?:stylesheet|preconnect)\"[^>]*//[^>]+", html)
        assert not fetched, (page.name, fetched)
    losses = (site / "all-losses.html").read_text(encoding="utf-8")
    from apl.losses import LOSSES

    assert all(f'id="{name}"' in losses for name in LOSSES)
    assert losses.count("<svg viewBox=") > 0.9 * len(LOSSES)
    shutil.rmtree(site)
