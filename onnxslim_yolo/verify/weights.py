"""Weights compared by themselves: a mistake in a tensor whose share of every output lies under rounding shows nowhere
else.

Two graphs of one structure (the same operators in the same order, constants of the same shapes) are the same function
but for their constants, so those that differ are known without a run. An NCNN folder is compared with what the graph
converts to, where that has the same layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product, zip_longest
from pathlib import Path

import numpy as np

from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.graph import Array, Node, input_constant, is_constant
from onnxslim_yolo.ir.model import Model

ROUNDING = 1e-6
"""Of a tensor's largest magnitude: exporters round once more."""

MOST = 8


def changed_weights(reference: Model, other: Model) -> list[str]:
    """The constants in which two graphs differ, a sentence each; empty where their structures differ."""
    pairs = list(zip_longest(reference.graph.nodes, other.graph.nodes))
    if not all(a is not None and b is not None and _alike(a, b) for a, b in pairs):
        return []
    found = {
        tensor.name: text
        for a, b in pairs
        for index, tensor in enumerate(a.inputs)
        if (text := _change(tensor.name, input_constant(a, index), input_constant(b, index))) is not None
    }
    return _shortened(list(found.values()))


def _alike(a: Node, b: Node) -> bool:
    if a.op != b.op or len(a.inputs) != len(b.inputs) or len(a.outputs) != len(b.outputs):
        return False
    for index, (one, two) in enumerate(zip(a.inputs, b.inputs, strict=True)):
        if is_constant(one) != is_constant(two):
            return False
        values = input_constant(a, index), input_constant(b, index)
        if values[0] is not None and values[1] is not None and values[0].shape != values[1].shape:
            return False
    return True


def _change(name: str, a: Array | None, b: Array | None) -> str | None:
    if a is None or b is None or not a.size or a.dtype.kind != "f":
        return None
    apart = float(np.abs(a.astype(np.float64) - b).max())
    largest = float(np.abs(a).max()) or 1.0
    if not apart > ROUNDING * largest:
        return None
    return f"{name} differs by up to {apart / largest:.2g} of its largest weight, which shows less than rounding"


def changed_layers(graph: Model, folder: Path) -> list[str]:
    """The layers of an NCNN folder whose weights are not those that the graph converts to, a sentence each.

    Empty where it converts to other layers, as another converter's folder will.
    """
    from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
    from onnxslim_yolo.emit.ncnn.format import Weights
    from onnxslim_yolo.runtime.ncnn_run import ncnn_files

    param, weights = ncnn_files(folder)
    text, data = param.read_text(encoding="utf-8"), weights.read_bytes()
    kinds: tuple[Weights, ...] = ("fp16", "fp32")
    for kind, half in product(kinds, (None, True, False)):
        try:
            pair = emit_ncnn(graph, weights=kind, half=half)
        except OnnxSlimError:
            return []
        if pair.param == text and len(pair.bin) == len(data):
            return _shortened(list(_layers(pair.bin, data, param, weights)))
    return []


def _layers(wanted: bytes, found: bytes, param: Path, weights: Path) -> Iterator[str]:
    """The layers in whose bytes two weight files differ."""
    from onnxslim_yolo.runtime.ncnn_reader import read_ncnn, weight_spans

    different = np.flatnonzero(np.frombuffer(wanted, np.uint8) != np.frombuffer(found, np.uint8))
    for name, start, stop in weight_spans(read_ncnn(param, weights), weights):
        if np.searchsorted(different, start) < np.searchsorted(different, stop):
            yield f"layer {name} has other weights than the graph converts to, which shows less than rounding"


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - MOST
    return lines if more <= 0 else [*lines[:MOST], f"and {more} more"]
