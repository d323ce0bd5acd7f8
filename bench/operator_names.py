"""Which files of the engine name ONNX operators: `python bench/operator_names.py [--list]`.

A file names an operator where a text in it is one's name: in a comparison or a table (it decides by the name), or as an
argument only (it makes nodes, or asks for them). `load/` and the readers of other formats are counted apart: they say
what is read and written, and would do so in any design.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parents[1]
READERS = ("onnxslim_yolo/load/", "onnxslim_yolo/runtime/ncnn_layers.py", "onnxslim_yolo/cli/")


def names() -> set[str]:
    """Every operator of the default domain that there ever was."""
    return {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}


def sources() -> list[Path]:
    """The engine's files, each once."""
    skipped = ("onnxslim_yolo/passes/", "onnxslim_yolo/models/", "onnxslim_yolo/stubs/")
    found = [*(ROOT / "onnxslim_yolo").rglob("*.py"), *(ROOT / "passes").glob("*.py")]
    return sorted(p for p in found if not str(p.relative_to(ROOT)).startswith(skipped))


def named(tree: ast.AST, known: set[str]) -> tuple[set[str], set[str]]:
    """The operators that a file decides by, and those that it only makes or asks for."""
    arguments = {id(a) for node in ast.walk(tree) if isinstance(node, ast.Call) for a in node.args}
    texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and n.value in known]
    decides = {node.value for node in texts if id(node) not in arguments}
    return decides, {node.value for node in texts} - decides


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="every file, with the operators that it decides by")
    given, known = parser.parse_args(), names()
    files = [(p, *named(ast.parse(p.read_text(encoding="utf-8")), known)) for p in sources()]
    deciding = [(p, decides) for p, decides, _ in files if decides]
    inner = [(p, decides) for p, decides in deciding if not str(p.relative_to(ROOT)).startswith(READERS)]
    several = [(p, decides) for p, decides in inner if len(decides) > 3]
    print(
        f"{len(files)} files; {sum(bool(a | b) for _, a, b in files)} name operators, {len(deciding)} decide by a name,"
    )
    print(f"{len(inner)} of them not to read or write a format, {len(several)} by more than three names")
    for path, decides in sorted(inner, key=lambda row: len(row[1])) if given.list else ():
        print(f"{len(decides):4} {path.relative_to(ROOT)}  {', '.join(sorted(decides)[:8])}")


if __name__ == "__main__":
    main()
