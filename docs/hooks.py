"""What mkdocs does while it builds the site: pages made of what stands elsewhere in the repository.

README, CONTRIBUTING and CHANGELOG become pages; notebooks become pages with their outputs; every
loss gets its formula and a plot, from the registry; and what a page links to outside docs/ comes
along, so that the same links work on GitHub and in the site, which needs no network.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import torch
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from apl.config.published import settings_rows
from apl.losses.catalog import LOSSES, Loss
from apl.losses.modules import make_loss, needs_of

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = {  # of the repository's own files, by where they are
    ROOT / "README.md": "index.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
}
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
LOSSES_HERE = re.compile(r"<!-- losses: (\w+) -->")
CLASSES = 10  # of the plots


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand elsewhere, and what is linked to outside docs/."""
    for path, uri in PAGES.items():
        files.append(
            File.generated(config, uri, content=_moved(path.read_text(encoding="utf-8"), path, uri))
        )
    for path in sorted(DOCS.glob("notebooks/*.ipynb")):
        uri = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, uri, content=notebook(path)))
    outside = {
        target
        for path in [*PAGES, *DOCS.glob("*.md")]
        for link in LINK.finditer(path.read_text(encoding="utf-8"))
        if (target := (path.parent / link["path"]).resolve()).is_file()
        and DOCS not in target.parents
        and target not in PAGES
    }
    for path in sorted(outside):
        uri = _uri(path)
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of a page in docs/ to files outside lead to their copies; the losses of a group stand
    where the page says `<!-- losses: GROUP -->`."""
    path = DOCS / page.file.src_uri
    if not path.exists():
        return markdown
    moved = _moved(markdown, path, page.file.src_uri)
    return LOSSES_HERE.sub(lambda here: losses(here[1]), moved)


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
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        printed = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        parts += [f"```text\n{printed.rstrip()}\n```"] if printed else []
        parts += [_shown(output["data"]) for output in cell["outputs"] if "data" in output]
    about, title, *rest = parts
    # No column for a table of contents: there is none, and code is wide.
    return "\n\n".join(["---\nhide: [toc]\n---", title, about, *rest])


def _shown(data: dict[str, Any]) -> str:
    if "image/png" in data:
        return f"![what the code draws](data:image/png;base64,{data['image/png'].strip()})"
    if "text/html" in data:
        return "".join(data["text/html"])
    return f"```text\n{''.join(data['text/plain'])}\n```"


# --------------------------------------------------------------------------------------- losses


def group_of(loss: Loss) -> str:
    """Where a loss stands on the page of all losses, by the form of its terms."""
    atoms = [atom for atom, _ in loss.terms]
    if not atoms:
        return "other"
    if any(atom.startswith("1 - ") for atom in atoms):
        return "negative"
    if any(atom.startswith("sum(") for atom in atoms):
        return "summed"
    if len(atoms) > 1:
        return "joined"
    return "normalised" if atoms[0].startswith("norm(") else "plain"


def losses(group: str) -> str:
    """The losses of a group: formula, name, kind, tolerance, parameters, source, two curves, and
    what is published of them."""
    parts = []
    for name, loss in LOSSES.items():
        if group_of(loss) != group:
            continue
        words = [f"`{name}`"]
        words += [loss.kind] if loss.terms else []
        words += ["tolerant to symmetric noise"] if loss.tolerant else []
        words += [" ".join(f"`{key}={value:.4g}`" for key, value in loss.params.items())]
        parts += [
            f"### {loss.label} {{ #{name} }}",
            f'<p class="formula">{formula(loss.formula, loss.params)}</p>',
            " · ".join(filter(None, [*words, loss.source])),
            curves(name),
            published(name),
        ]
    return "\n\n".join(parts)


def published(name: str) -> str:
    """What is published of a loss, a line for each data set, noise and source; '' for nothing."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in settings_rows():
        if row["loss"] == name:
            at = (row["dataset"], f"{row['noise']} {row['rate']}".strip(), row["source"])
            lines.setdefault(at, []).append(f"`{row['parameter']}={row['value']}`")
    if not lines:
        return ""
    told = [
        f"| {dataset} | {noise or 'any'} | {' '.join(settings)} | {source} |"
        for (dataset, noise, source), settings in lines.items()
    ]
    return "\n".join(["| published for | noise | settings | source |", "| --- " * 4 + "|", *told])


TOKEN = re.compile(
    # the name of a loss, also as in `ce_j`
    rf"(?P<loss>(?<!\w)(?:{'|'.join(sorted(LOSSES, key=len, reverse=True))})(?=_j\b|(?!\w)))"
    r"|_(?:\{(?P<below>[^}]*)\}|(?P<index>[A-Za-z0-9]+))"
    r"|\^(?:\((?P<above>(?:[^()]|\([^()]*\))*)\)|(?P<power>-?[A-Za-z0-9]+))"
    r"|1e-(?P<exponent>\d+)|(?P<word>(?:--)?[A-Za-z]+(?:['-][A-Za-z]+)*)|(?P<sign>\|\||!=|[-<>&])"
)
GREEK = "alpha beta gamma delta nu pi rho tau".split()
WORDS = {"sum": "&Sigma;", "lam": "&lambda;", **{name: f"&{name};" for name in GREEK}}
SIGNS = {"||": "&#8214;", "!=": "&ne;", "-": "&minus;", "<": "&lt;", ">": "&gt;", "&": "&amp;"}


def formula(text: str, params: Mapping[str, float]) -> str:
    """A formula of the registry as HTML: indices low, powers high, losses linked by their names."""

    def html(found: re.Match[str]) -> str:
        token = found[found.lastgroup or 0]
        match found.lastgroup:
            case "loss":
                return f'<a href="#{token}">{LOSSES[token].label}</a>'
            case "index" if len(token) == 2 and token.isalpha():  # of a matrix
                return f"<sub><i>{token}</i></sub>"
            case "below" | "index":
                return f"<sub>{formula(token, params)}</sub>"
            case "above" | "power":
                return f"<sup>{formula(token, params)}</sup>"
            case "exponent":
                return f"10<sup>&minus;{token}</sup>"
            case "sign":
                return SIGNS[token]
        is_letter = len(token) == 1 and (token != "a" or "a" in params)  # else English
        return f"<i>{token}</i>" if is_letter else WORDS.get(token, token)

    return TOKEN.sub(html, text)


def curves(name: str) -> str:
    """Two pictures of a loss against the probability of the label: its value, and how hard a step
    down the gradient pulls the label's logit up; a sentence where one row does not decide it."""
    needs = needs_of(name)
    if "num_samples" in needs:
        return "*No picture: it remembers what the network said of each sample.*"
    given: dict[str, Any] = {"reduction": "none"}
    if "transition" in needs:
        others = 0.4 / (CLASSES - 1)
        given["transition"] = torch.eye(CLASSES) * (0.6 - others) + others
    criterion = make_loss(name, CLASSES, **given)
    if getattr(criterion, "views", 1) > 1:
        return "*No picture: it compares two views of an image.*"
    if getattr(criterion, "of_batch", False):
        return "*No picture: it looks at the whole batch.*"
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    rest = ((1 - p) / (CLASSES - 1)).log()[:, None].expand(-1, CLASSES - 1)
    logits = torch.cat([p.log()[:, None], rest], 1)
    logits = (logits - logits.mean(1, keepdim=True)).requires_grad_()
    wanted = {"epoch": 0} if "epoch" in getattr(criterion, "wants", ()) else {}
    loss = criterion(logits, torch.zeros(len(p), dtype=torch.long), **wanted)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    label = f"{escape(name)} and its pull on the logit of the label, against the label's p"
    return (
        f'<svg class="curves" viewBox="0 0 480 130" role="img" aria-label="{label}">'
        f"{_panel(0, 'loss', p, loss.detach())}{_panel(240, 'pull', p, -gradient[:, 0])}</svg>"
    )


def _panel(left: int, title: str, p: torch.Tensor, values: torch.Tensor) -> str:
    """One curve in its axes, with numbers at the ends of both."""
    low, high = float(values.min()), float(values.max())
    if low < high / 2:  # else 0 is too far away to be drawn
        low, high = min(low, 0.0), max(high, 0.0)
    x0, x1, top, bottom = left + 50, left + 225, 24, 106

    def y(value: float) -> str:
        return f"{bottom - (bottom - top) * (value - low) / (high - low):.1f}"

    def text(x: float, y: float | str, words: str, anchor: str = "middle") -> str:
        return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'

    points = " ".join(
        f"{x0 + (x1 - x0) * float(x):.1f},{y(float(value))}"
        for x, value in zip(p, values, strict=True)
    )
    ground = y(max(low, 0.0))
    numbers = [
        text(x0 - 5, float(y(n)) + 4, f"{n:.2g}".replace("-", "&minus;"), "end")
        for n in (low, high)
    ]
    return (
        f'<path d="M{x0},{top} V{bottom} M{x0},{ground} H{x1}"/>'
        f'<polyline class="{title}" points="{points}"/>{"".join(numbers)}'
        f"{text(x0, 14, title, 'start')}{text(x0, 122, '0')}{text(x1, 122, '1')}"
        f"{text((x0 + x1) / 2, 122, 'p of the label')}"
    )
