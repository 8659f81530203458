"""A function is as long as one sitting: what is longer says beside its name why."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES, PARAMETERS = 80, 7


@functools.cache
def sources() -> dict[Path, tuple[str, ast.Module]]:
    """Every file of ours, its text and what it says."""
    paths = sorted([*ROOT.glob("apl/**/*.py"), *ROOT.glob("kernels/*.py")])
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    return {path: (text, ast.parse(text)) for path, text in texts.items()}


def functions() -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """(where it stands, the function, the line of its name and the one before)."""
    for path, (text, tree) in sources().items():
        lines = text.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                where = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                yield where, node, "".join(lines[node.lineno - 2 : node.lineno])


@pytest.mark.slow
def test_a_long_function_or_signature_has_its_reason_beside_it() -> None:
    found = []
    for where, node, beside in functions():
        names = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
        names += [each.arg for each in node.args.kwonlyargs]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        lines = int(node.end_lineno or 0) - node.lineno + 1
        if (lines > LINES or count > PARAMETERS) and "#" not in beside:
            found.append(f"{where}: {lines} lines, {count} parameters")
    assert found == []


@pytest.mark.slow
def test_arguments_are_not_packed_to_please_a_formatter() -> None:
    found = []
    for path, (_, tree) in sources().items():
        for node in ast.walk(tree):
            packed = isinstance(node, ast.Call) and any(
                isinstance(each, ast.Starred) and isinstance(each.value, ast.Tuple | ast.List)
                for each in node.args
            )
            splat = isinstance(node, ast.Dict) and any(
                key is None and isinstance(value, ast.Dict)
                for key, value in zip(node.keys, node.values, strict=True)
            )
            if packed or splat:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []
