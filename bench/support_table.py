"""Which architectures are supported, and how much of each can be pruned: writes docs/pages/support.md.

    python bench/support_table.py [NAME …]        # only these rows anew; the rest as kept in bench/results/support.json

Every architecture of `models.zoo.ARCHITECTURES` at its published nano size, with random weights, is compiled with half
of its channels removed, emitted as ONNX and NCNN, and run in both runtimes. "yes" means that the written file was run
and agreed with the source under the same mask, by the same check as in every compilation.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import torch

from onnxslim_yolo.compiler import compile as compile_model
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.load.trace import trace
from onnxslim_yolo.models.zoo.architectures import ARCHITECTURES, build, randomise

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results/support.json"
PAGE = ROOT / "docs/pages/support.md"
SIZE = 128
Row = dict[str, Any]
HEAD = """# What is supported

Made by `python bench/support_table.py`: each architecture at its published nano size with random weights, half of its
channels removed, written as ONNX and NCNN, both run and compared with the source under the same mask. Other sizes of a
family differ in widths and repeats only.

* *Prunable*: share of the coupled channels that may be removed. The rest is frozen, for the reasons given.
* *Exact*: worst difference of the ONNX file from the masked source, in spreads of the output.

The definitions are this package's own, made for tests. A network that is not listed compiles as well if its operators
have rules; what has no rule is left whole, and the report names it.

| architecture | coupled channels | prunable | frozen, and why | ONNX | exact | NCNN |
|---|---|---|---|---|---|---|
"""


def row_of(name: str, folder: Path) -> Row:
    """One row; a refusal is a result, and stands in its place."""
    path = folder / f"{name}.onnx"
    onnx.save(trace(randomise(build(name), 0), torch.rand(1, 3, SIZE, SIZE)), path)
    row: Row = {"name": name}
    kinds = ("onnx", "ncnn")
    try:
        found = _compiled(path, folder / "both", *kinds)
        return row | found | {"onnx": "yes"}
    except OnnxSlimError:
        pass  # which of the two it was is found out below
    for kind in kinds:
        try:
            row |= _compiled(path, folder / kind, kind)
        except OnnxSlimError as error:
            row[kind] = f"no: {error.message}"
    return row


def _compiled(path: Path, out: Path, *kinds: str) -> Row:
    result = compile_model(path, prune=0.5, compensate="none", emit=",".join(kinds), out=out / path.stem)
    cut = any("head is cut" in note for note in result.report["notes"])
    found = dict.fromkeys(kinds, "yes, head cut to raw maps" if cut and "ncnn" in kinds else "yes")
    return found | (_facts(result.report) if "onnx" in kinds else {})


def _facts(report: dict[str, Any]) -> Row:
    pruning = report["pruning"]
    # A reason may name a node: what is in quotes differs from layer to layer, and the kind is what matters.
    reasons: Counter[str] = Counter()
    for entry in report["frozen"]:
        reasons[re.sub(r"\s*'[^']*'", "", entry["reason"])] += entry["channels"]
    # Checks without a tolerance are for information: the cost of fp16 weights.
    checks = [check for check in report["verification"]["checks"] if check["tolerance"] is not None]
    worst = [check["worst"] for check in checks if check["runtime"].startswith("onnxruntime")]
    return {
        "channels": pruning["channels"],
        "prunable": pruning["prunable"],
        "frozen": dict(reasons.most_common()),
        "worst": max(worst),
    }


def page(rows: list[Row]) -> str:
    return HEAD + "".join(f"| {' | '.join(_cells(row))} |\n" for row in rows)


def _cells(row: Row) -> list[str]:
    if "channels" not in row:
        return [row["name"], "–", "–", "–", _short(row["onnx"]), "–", _short(row["ncnn"])]
    why = "; ".join(f"{count} {reason}" for reason, count in row["frozen"].items()) or "nothing"
    share = f"{row['prunable'] / row['channels']:.1%}"
    return [
        *(row["name"], str(row["channels"]), share, why.replace("|", "/")),
        *(_short(row["onnx"]), f"{row['worst']:.0e}", _short(row["ncnn"])),
    ]


def _short(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")[:160]


def main() -> None:
    kept: dict[str, Row] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    names = sys.argv[1:] or list(ARCHITECTURES)
    with tempfile.TemporaryDirectory() as text:
        for name in names:
            kept[name] = row_of(name, Path(text))
            print(kept[name], flush=True)
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    PAGE.write_text(page([kept[name] for name in ARCHITECTURES if name in kept]))


if __name__ == "__main__":
    main()
