"""Strangers' graphs from ONNX text: written to a file, compiled as anybody would, and compared with the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

import onnxslim_yolo as oy
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.result import Result
from tests.numeric import build, differences, random_feeds, run_onnx

EXACT = 1e-4
"""Worst |Δ| / spread of a network of a few layers."""

TRUNK = "float[8,3,3,3] w0, float[8] b0, float[8] g.gamma, float[8] g.beta, float[8] g.mean, float[8] g.var"
"""Weights of what `trunk` computes."""


def trunk(dead: int = 0) -> tuple[str, dict[str, Array]]:
    """Conv, BatchNorm: x → f, eight channels of which the first `dead` are zero; the text, and the weights it needs."""
    body = "c = Conv<pads=[1,1,1,1]>(x, w0, b0) f = BatchNormalization(c, g.gamma, g.beta, g.mean, g.var)"
    values = {"g.gamma": np.linspace(0.6, 1.4, 8), "g.beta": np.linspace(-0.5, 0.5, 8)}
    for key in values:
        values[key][:dead] = 0
    return body, values


def text_of(inputs: str, outputs: str, weights: str, body: str, opset: int = 17, domain: str = "") -> str:
    """A whole model as ONNX text."""
    weights = weights.strip(", ")
    declared = f"<{weights}>" if weights else ""
    return f'<ir_version: 8, opset_import: ["{domain}": {opset}]> g ({inputs}) => ({outputs}) {declared} {{ {body} }}'


def written(text: str, folder: Path, values: dict[str, Array] | None = None) -> Path:
    """The graph as a file; tensors that nothing computes become random weights."""
    path = folder / "m.onnx"
    onnx.save(build(text, values=values).to_onnx(), path)
    return path


def compiled(path: Path, folder: Path, **options: Any) -> Result:
    """Compile with all its checks on; without pruning, compare the ONNX file with the source once more."""
    result = oy.compile(path, out=folder / "out", **({"emit": "onnx"} | options))
    if result.onnx is not None and "prune" not in options:
        assert worst(path, result.onnx) < EXACT
    return result


def worst(source: Path, other: Path) -> float:
    """The worst |Δ| / spread of two files on the same random inputs."""
    a, b = onnx.load(source), onnx.load(other)
    feeds = random_feeds(a, seed=3)
    names = {value.name for value in b.graph.input}
    return max(differences(run_onnx(a, feeds), run_onnx(b, {k: v for k, v in feeds.items() if k in names})).values())


def ops_of(path: Path) -> list[str]:
    """The operators of a file, in order."""
    return [node.op for node in gs.import_onnx(onnx.load(path)).nodes]
