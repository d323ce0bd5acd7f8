"""The house: imports among the modules close no circle and run in one order, those inside functions counted."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from tests.test_packaging import OUTSIDE, packages_in_the_tree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PLACES = {"onnxslim_yolo": "onnxslim_yolo", "passes": "onnxslim_yolo.passes", "models": "onnxslim_yolo.models"}


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found: dict[str, Path] = {}
    for folder, package in PLACES.items():
        for path in sorted((root / folder).rglob("*.py")):
            parts = [package, *path.relative_to(root / folder).with_suffix("").parts]
            inside = folder != "onnxslim_yolo" or parts[1] not in ("passes", "models", "stubs")
            if inside:
                found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(tree: ast.AST, known: set[str]) -> set[str]:
    """The modules among the known ones that a module imports, wherever it does; not those for type checkers alone."""
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known) or {node.module}
    return found & known


def circle(arrows: dict[str, set[str]]) -> list[str] | None:
    """A circle among the arrows, as the modules on it in order; None where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for other in sorted(arrows.get(name, ())):
            found = walk(other, [*path, name])
            if found:
                return found
        done.add(name)
        return None

    return next((found for name in sorted(arrows) if (found := walk(name, []))), None)


def arrows() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(ast.parse(path.read_text()), set(known)) - {name} for name, path in known.items()}


def test_no_circles() -> None:
    found = circle(arrows())
    assert found is None, " → ".join(found)


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}}) is None


def test_imports_inside_functions_count() -> None:
    tree = ast.parse(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import p.a\ndef f():\n  from p import b\n  import p.c\n"
    )
    assert imports(tree, {"p", "p.a", "p.b", "p.c"}) == {"p.b", "p.c"}


ROOMS = [
    "errors",
    "_version",
    "files",
    "models",
    "ir",
    "ops",
    "analysis",
    "heads",
    "runtime",
    "latency",
    "pruning",
    "quantisation",
    "rewrites",
    "passes",
    "manager",
    "load",
    "options",
    "emit",
    "verify",
    "measure",
    "training",
    "result",
    "report",
    "reach",
    "pipeline",
    "stages",
    "compiler",
    "sweep",
    "ci",
    "cli",
    "__main__",
]
"""A room may import from those before it. `load` stands behind the passes: what it hands out is in canonical form."""

DOORS = frozenset({"onnxslim_yolo", "onnxslim_yolo.postprocess", "onnxslim_yolo.sparsity"})
"""Public names for what stands in a room: they may import anything, and nobody imports them."""

UNSHIPPED = ("onnxslim_yolo.models.zoo", "onnxslim_yolo.models.demo")


def against_the_order(all_arrows: dict[str, set[str]]) -> list[str]:
    """The arrows that run from an earlier room to a later one, or between rooms that nobody has put in order."""
    rank = {room: place for place, room in enumerate(ROOMS)}
    found = []
    for name, others in all_arrows.items():
        if name in DOORS or name.startswith(UNSHIPPED):
            continue
        room = name.split(".")[1]
        found += [
            f"{name} → {other}"
            for other in sorted(others - {"onnxslim_yolo"})
            if other in DOORS or rank.get(room, -1) < rank.get(other.split(".")[1], len(ROOMS))
        ]
    return found


def test_rooms_are_in_order() -> None:
    assert against_the_order(arrows()) == []


def test_an_arrow_against_the_order_is_found() -> None:
    assert against_the_order({"onnxslim_yolo.ir.graph": {"onnxslim_yolo.passes.slice"}})
    assert against_the_order({"onnxslim_yolo.attic": {"onnxslim_yolo.errors"}})
    assert not against_the_order({"onnxslim_yolo.passes.slice": {"onnxslim_yolo.ir.graph"}})


def test_the_top_level_tells_the_story() -> None:
    top = list((ROOT / "onnxslim_yolo").glob("*.py"))
    assert len(top) <= 12, sorted(path.name for path in top)
    assert len(list((ROOT / "passes").glob("*.py"))) <= 23


def test_no_file_is_too_long_to_read() -> None:
    rooms = ("onnxslim_yolo", "passes", "models", "tests", "docs", "bench")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 600
    assert [path for path in files if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []


def test_the_map_for_contributors_shows_every_room_in_order() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## To add")[0]
    shown = [room for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for room in re.findall(r"`(\w+)/`", row)]
    inside = {path.parent.name for path in (ROOT / "onnxslim_yolo").glob("*/__init__.py")}
    assert shown == [room for room in ROOMS if room in inside]


def test_the_package_list_is_the_tree() -> None:
    """What is not in the list is in no wheel. Here, so that it is asked whenever modules have moved."""
    with (ROOT / "pyproject.toml").open("rb") as stream:
        setuptools = tomllib.load(stream)["tool"]["setuptools"]
    assert set(setuptools["packages"]) == packages_in_the_tree()
    assert setuptools["package-dir"] == {"onnxslim_yolo": "onnxslim_yolo", **{v: k for k, v in OUTSIDE.items()}}
