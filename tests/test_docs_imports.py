"""What the pages, the benchmarks and the site's scripts import of this package exists: they hear of a move last."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.docs_snippets import PAGES, ROOT, blocks

SCRIPTS = [*sorted((ROOT / "bench").glob("*.py")), *sorted((ROOT / "docs").glob("*.py"))]
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(PAGES.rglob("*.md"))]


def texts(path: Path) -> list[str]:
    if path.suffix == ".py":
        return [path.read_text(encoding="utf-8")]
    return [block.text for block in blocks(path) if block.language == "python"]


def imported(text: str) -> set[tuple[str, str]]:
    """(module, name) of each import from this package."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.module]
    return {(str(n.module), a.name) for n in nodes if str(n.module).split(".")[0] == "onnxslim_yolo" for a in n.names}


def missing(pairs: set[tuple[str, str]]) -> list[str]:
    found = []
    for module, name in sorted(pairs):
        try:
            if not hasattr(importlib.import_module(module), name):
                importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError as error:
            if str(error.name).split(".")[0] == "onnxslim_yolo":  # not what an extra would bring
                found.append(f"{module}: {name}")
    return found


@pytest.mark.parametrize("path", [*WRITTEN, *SCRIPTS], ids=lambda path: path.name)
def test_what_is_imported_exists(path: Path) -> None:
    pairs = {pair for text in texts(path) for pair in imported(text)}
    assert not missing(pairs)


def test_what_has_moved_is_noticed() -> None:
    assert missing({("onnxslim_yolo.gone", "x")}) and missing({("onnxslim_yolo.errors", "GoneError")})
