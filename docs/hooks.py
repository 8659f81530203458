"""What mkdocs does while it builds the site: pages made of what stands elsewhere in the repository.

README, CONTRIBUTING and CHANGELOG become pages; notebooks become pages with their outputs; every
loss gets its formula and a plot, from the registry; and what a page links to outside docs/ comes
along, so that the same links work on GitHub and in the site, which needs no network.
"""

from __future__ import annotations

import json
import os
import re
from html import escape
from pathlib import Path
from typing import Any

import torch
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from apl.criteria import make_loss, needs_of
from apl.losses import LOSSES

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = {  # of the repository's own files, by where they are
    ROOT / "README.md": "index.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
CLASSES = 10  # of the plots; what is not the label's shares the rest of the probability alike


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand elsewhere, and what is linked to outside docs/."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, content=_moved(path.read_text(), path, uri)))
    for path in sorted(DOCS.glob("notebooks/*.ipynb")):
        uri = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, uri, content=notebook(path)))
    files.append(File.generated(config, "all-losses.md", content=all_losses()))
    outside = {
        target
        for path in [*PAGES, *DOCS.glob("*.md")]
        for link in LINK.finditer(path.read_text())
        if (target := (path.parent / link["path"]).resolve()).is_file()
        and DOCS not in target.parents
        and target not in PAGES
    }
    for path in sorted(outside):
        uri = _uri(path)
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of a page in docs/ to files outside lead to their copies."""
    path = DOCS / page.file.src_uri
    return _moved(markdown, path, page.file.src_uri) if path.exists() else markdown


def _uri(path: Path) -> str:
    """Where a file of the repository is in the site: a Markdown file beside the pages, as text."""
    if path in PAGES:
        return PAGES[path]
    if DOCS in path.parents:
        of_notebook = path.with_suffix(".md") if path.suffix == ".ipynb" else path
        return of_notebook.relative_to(DOCS).as_posix()
    name = path.relative_to(ROOT).as_posix().lstrip(".")  # what begins with a dot is left out
    return f"source/{name}.txt" if path.suffix in ("", ".md", ".cff") else f"source/{name}"


def _moved(markdown: str, path: Path, uri: str) -> str:
    """The text of a file that is now the page `uri`, with links as they are from there."""

    def link(found: re.Match[str]) -> str:
        target = (path.parent / found["path"]).resolve()
        if not target.is_file():
            return found[0]
        moved = os.path.relpath(_uri(target), Path(uri).parent)
        return Path(moved).as_posix() + (found["anchor"] or "")

    return LINK.sub(link, markdown)


# ------------------------------------------------------------------------------------ notebooks


def notebook(path: Path) -> str:
    """A notebook as Markdown: its text, its code, and what the code printed and drew."""
    parts = [f"*This page is the notebook `docs/notebooks/{path.name}`; run it as it is.*"]
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        parts += [_output(output) for output in cell["outputs"]]
    title, *rest = parts[1], parts[0], *parts[2:]
    return "\n\n".join([title, *rest])


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f"![what the code draws](data:image/png;base64,{data['image/png'].strip()})"
    if "text/html" in data:
        return "".join(data["text/html"])
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```"


# --------------------------------------------------------------------------------------- losses


def all_losses() -> str:
    """Every loss with a name: formula, kind, tolerance, parameters, source, and its two curves."""
    parts = [
        "# Every loss",
        f"As `apl losses` lists them, and drawn for {CLASSES} classes at their defaults against "
        "the probability p of the label; what is left the other classes share alike. Solid: the "
        "loss. Dashed: how hard a step down the gradient pulls up the logit of the label; below "
        "the grey line it pushes it down. Each curve has its own scale. The definitions are told "
        "in [losses](losses.md) and [criteria](criteria.md).",
    ]
    for name, loss in LOSSES.items():
        params = ", ".join(f"{key} = {value:.4g}" for key, value in loss.params.items())
        words = [f"*{loss.kind}*", "tolerant" if loss.tolerant else "not symmetric"]
        words += filter(None, [params, loss.source])
        parts += [f"## {loss.label} {{ #{name} }}", f"`{name}`: `{loss.formula}`"]
        parts += ["; ".join(words) + ".", curves(name)]
    return "\n\n".join(parts)


def curves(name: str) -> str:
    """A small picture of a loss and of its pull on the label's logit; '' where a row alone does not
    decide it."""
    given: dict[str, Any] = {"reduction": "none"}
    if "transition" in needs_of(name):
        others = 0.4 / (CLASSES - 1)
        given["transition"] = torch.eye(CLASSES) * (0.6 - others) + others
    if "num_samples" in needs_of(name):
        return ""
    criterion = make_loss(name, CLASSES, **given)
    if getattr(criterion, "wants", ()) or getattr(criterion, "views", 1) > 1:
        return ""
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    rest = ((1 - p) / (CLASSES - 1)).log()[:, None].expand(-1, CLASSES - 1)
    logits = torch.cat([p.log()[:, None], rest], 1).requires_grad_()
    loss = criterion(logits, torch.zeros(len(p), dtype=torch.long))
    if getattr(criterion, "of_batch", False):
        return ""
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    lines = [
        _line(p, loss.detach(), "#0072b2", ""),
        _line(p, -gradient[:, 0], "#c94f00", ' stroke-dasharray="5 3"'),
    ]
    words = f"{name}: the loss falls, and the pull is drawn, from p = 0 to p = 1"
    return (
        f'<svg viewBox="0 0 220 90" width="220" role="img" aria-label="{escape(words)}">'
        '<line x1="10" y1="80" x2="210" y2="80" stroke="#888" stroke-width="1"/>'
        f"{''.join(lines)}</svg>"
    )


def _line(p: torch.Tensor, values: torch.Tensor, color: str, more: str) -> str:
    """A curve over 0 to 1, its 0 at the grey line and its largest size 70 pixels."""
    size = max(float(values.abs().max()), 1e-12)
    points = " ".join(
        f"{10 + 200 * float(x):.1f},{80 - 70 * float(y) / size:.1f}"
        for x, y in zip(p, values, strict=True)
    )
    return f'<polyline fill="none" stroke="{color}" stroke-width="2"{more} points="{points}"/>'
