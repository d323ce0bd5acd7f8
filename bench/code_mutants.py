"""Mutation testing: small mistakes drawn at random in the code, and whether the tests that mirror it notice.

    python bench/code_mutants.py --count 60 --seed 0 [--into bench/results/code_mutants.md]

A mutant is one change of one place: a comparison turned round or made strict, + for −, `and` for `or`, a condition
negated, a number one more, a boolean turned, a `return` of nothing. Places are drawn evenly over all that could be
changed in `analysis/`, `passes/`, `emit/` and `pruning/`. Only the tests of the folder that mirrors the file run: those
that import the module, or what imports it. A mutant whose tests do not end within the time counts as surviving, and a
test that fails without the mutant as well ends the run. The tree is copied: nothing here is touched.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = {
    "onnxslim_yolo/analysis": ["tests/analysis"],
    "passes": ["tests/passes", "tests/quantisation"],
    "onnxslim_yolo/emit": ["tests/emit"],
    "onnxslim_yolo/pruning": ["tests/pruning", "tests/passes", "tests/latency"],
}
"""Room → the folders of tests that mirror it."""
GUARDS = ("strict", "frozen", "repr", "compare")
"""Keywords whose value changes nothing for code that is right."""
LIMIT = 420
"""CPU seconds that the tests of one mutant may take: on a busy machine they take longer by the clock."""

_COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
            ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In}  # fmt: skip
_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
               ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: of the `place`-th node that could be changed in a file."""

    path: Path
    place: int
    line: int
    what: str


def places(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that can be changed, in order. Annotations, docstrings and messages are left alone, and so is what only
    guards against mistakes: `strict` of zip, `frozen` and the like of dataclasses."""
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if part is not None
        for inner in ast.walk(part)
    }
    told = {id(n) for node in ast.walk(tree) if isinstance(node, ast.Raise) for n in ast.walk(node)}
    told |= {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg in GUARDS}
    for node in ast.walk(tree):
        if id(node) not in annotations and id(node) not in told and _changes(node):
            yield node


def _changes(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return len(node.ops) == 1 and type(node.ops[0]) in _COMPARE
    if isinstance(node, ast.BinOp):
        text = any(isinstance(side, (ast.JoinedStr, ast.List, ast.Set, ast.Tuple)) for side in (node.left, node.right))
        return type(node.op) in _ARITHMETIC and not text
    if isinstance(node, ast.Constant):
        return type(node.value) in (int, bool)
    return isinstance(node, (ast.BoolOp, ast.If, ast.IfExp)) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    )


def change(node: ast.AST) -> str:
    """Make the mistake; returns it in words."""
    if isinstance(node, ast.Compare):
        before = ast.unparse(node)
        node.ops[0] = _COMPARE[type(node.ops[0])]()
        return f"{before} → {ast.unparse(node)}"
    if isinstance(node, ast.BinOp):
        before = ast.unparse(node)
        node.op = _ARITHMETIC[type(node.op)]()
        return f"{before} → {ast.unparse(node)}"
    if isinstance(node, ast.BoolOp):
        before = ast.unparse(node)
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return f"{before} → {ast.unparse(node)}"
    if isinstance(node, (ast.If, ast.IfExp)):
        before = ast.unparse(node.test)
        node.test = ast.UnaryOp(ast.Not(), node.test)
        return f"if {before} → if not"
    if isinstance(node, ast.Constant):
        before = node.value
        node.value = not before if isinstance(before, bool) else int(before) + 1  # type: ignore[call-overload]
        return f"{before} → {node.value}"
    if isinstance(node, ast.UnaryOp):
        before = ast.unparse(node)
        node.operand = ast.UnaryOp(ast.Not(), node.operand)
        return f"{before} → {ast.unparse(node)}"
    raise ValueError(type(node).__name__)


def drawn(count: int, seed: int) -> list[Mutant]:
    """Places evenly over all that could be changed."""
    every = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            every += [(path.relative_to(ROOT), index) for index, _ in enumerate(places(tree))]
    found = []
    for path, index in random.Random(seed).sample(every, count):
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        node = copy.deepcopy(list(places(tree))[index])
        found.append(Mutant(path, index, getattr(node, "lineno", 0), change(node)))
    return found


def mirrored(path: Path) -> list[str]:
    """The tests of a file: those of its folder that import it, or what imports it, or else the folder."""
    room = next(room for room in ROOMS if path.is_relative_to(room))
    files = {p: p.read_text(encoding="utf-8") for folder in ROOMS[room] for p in (ROOT / folder).glob("test_*.py")}
    code = {p: p.read_text(encoding="utf-8") for p in (ROOT / room).rglob("*.py")}
    wanted = {_dotted(path)}
    for _ in range(3):
        near = [p for p, text in files.items() if any(name in text for name in wanted) or path.stem in p.stem]
        if near:
            return sorted(str(p.relative_to(ROOT)) for p in near)
        wanted |= {_dotted(p.relative_to(ROOT)) for p, text in code.items() if any(name in text for name in wanted)}
    return sorted(str(p.relative_to(ROOT)) for p in files)


def _dotted(path: Path) -> str:
    module = ".".join(path.with_suffix("").parts)
    return module if module.startswith("onnxslim_yolo") else f"onnxslim_yolo.{module}"


def killed(mutant: Mutant, tree: Path) -> str:
    """The test that killed the mutant; "" where none did.

    Raises:
        SystemExit: that test fails without the mutant, too.
    """
    path = tree / mutant.path
    original = path.read_text(encoding="utf-8")
    parsed = ast.parse(original)
    change(list(places(parsed))[mutant.place])
    path.write_text(ast.unparse(ast.fix_missing_locations(parsed)), encoding="utf-8")
    tests = mirrored(mutant.path)
    try:
        status, by = _run(tests, tree)
    finally:
        path.write_text(original, encoding="utf-8")
    if not status:
        return ""
    control, _ = _run([by] if by else tests, tree)
    if control == pytest.ExitCode.USAGE_ERROR:  # a test's name that the command line does not take
        control, _ = _run([by.split("::")[0]], tree)
    if control:
        raise SystemExit(f"{by or tests} fails without the mutant as well")
    return by or f"status {status}"


def _run(tests: list[str], tree: Path) -> tuple[int, str]:
    """pytest's status, 0 also where it ran out of time, and the first test that failed."""
    try:
        run = _pytest(tree, "-x", *tests, PYTHONDONTWRITEBYTECODE="1")
    except subprocess.TimeoutExpired:
        return 0, ""
    if run.returncode in (0, -signal.SIGXCPU, -signal.SIGKILL):
        return 0, ""
    lines = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return run.returncode, lines[0].split(" - ")[0].split(maxsplit=1)[1] if lines else ""


def _pytest(tree: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["prlimit", f"--cpu={LIMIT}", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=tree, env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=10 * LIMIT,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first of them that is run")
    parser.add_argument("--last", type=int, default=1 << 30, help="the last")
    parser.add_argument("--into", type=Path)
    given = parser.parse_args()
    rows, gone = [], 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", "__pycache__", ".mypy_cache", ".ruff_cache")
        shutil.copytree(ROOT, tree, symlinks=True, ignore=ignored)
        # Once, so that everything is compiled: no mutant has to do that again.
        if _pytest(tree, "--collect-only", *{folder for folders in ROOMS.values() for folder in folders}).returncode:
            raise SystemExit("tests are not even collected without a mutant")
        for number, mutant in enumerate(drawn(given.count, given.seed)):
            if not given.first <= number <= given.last:
                continue
            by = killed(mutant, tree)
            gone += bool(by)
            rows.append(f"| {number} | `{mutant.path}:{mutant.line}` | `{mutant.what[:90]}` | {by or '**survives**'} |")
            print(rows[-1], flush=True)
    total = f"{gone} of {len(rows)} killed ({gone / max(len(rows), 1):.0%}), seed {given.seed}"
    print(total)
    if given.into:
        table = ["| | where | mistake | killed by |", "|---|---|---|---|", *rows]
        given.into.write_text("\n".join([f"# Mutants\n\n{total}.\n", *table]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
