"""Constants with several readers: float vectors become separate, equal integers one. Used by the pass `canonicalise`.

A bias or BatchNorm parameter that two layers share would tie channels that have nothing to do with each other; targets,
axes and bounds tie nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import Namer, Node, consumers, initializers, replace_constant, replace_input
from onnxslim_yolo.ir.origins import origin_of


def separate_vectors(graph: gs.Graph) -> int:
    """Give every reader of a float vector a constant of its own; return how many were made."""
    separated, name = 0, Namer(graph)
    for constant in list(initializers(graph)):
        if (
            len(constant.outputs) < 2
            or len(constant.shape) > 1
            or not _is_float(constant)
            or np.prod(constant.shape) < 2
        ):
            continue
        owner: Node | None = None
        for node in consumers(constant):
            for index, tensor in enumerate(node.inputs):
                if tensor is not constant:
                    continue
                if owner is None:
                    owner = node
                    continue
                twin = name(f"{constant.name}__{node.name}")
                replace_constant(node, index, constant.values, twin, origin_of(constant))
                separated += 1
    return separated


def merge_integers(graph: gs.Graph) -> int:
    """Let equal integer constants (targets, axes, bounds) be one; return how many went."""
    first: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}
    merged = 0
    for constant in list(initializers(graph)):
        if _is_float(constant) or constant.dtype is None:
            continue
        key = (str(constant.dtype), tuple(constant.shape), constant.values.tobytes())
        kept = first.setdefault(key, constant)
        if kept is constant:
            continue
        for node in consumers(constant):
            replace_input(node, constant, kept)
        merged += 1
    return merged


def _is_float(constant: gs.Constant) -> bool:
    try:
        return np.dtype(constant.dtype).kind not in "iub"
    except TypeError:
        return True
