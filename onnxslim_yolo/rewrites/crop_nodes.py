"""A CenterCropPad becomes the Pad that it is. Used by the pass `canonicalise`.

Along an axis of extent n it leaves the middle m of n elements, from ⌊(n − m)/2⌋ on, or puts ⌊(m − n)/2⌋ zeros in front
and the rest behind: a Pad whose widths are negative where it crops. Both extents have to be known.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.movement import axes_of
from onnxslim_yolo.ir.graph import Namer, become, input_constant, nodes_of
from onnxslim_yolo.ir.origins import ADDED, set_origin


def pads_for_crops(graph: gs.Graph) -> int:
    """Rewrite every CenterCropPad whose extents are known; return how many."""
    rewritten, name = 0, Namer(graph)
    for node in nodes_of(graph, "CenterCropPad"):
        shape, wanted = node.inputs[0].shape, input_constant(node, 1)
        if shape is None or wanted is None:
            continue
        rank = len(shape)
        axes = [axis % rank for axis in axes_of(node) or range(rank)]
        before, after = [0] * rank, [0] * rank
        if not all(isinstance(shape[axis], (int, np.integer)) for axis in axes):
            continue
        for axis, size in zip(axes, wanted.reshape(-1).tolist(), strict=True):
            change = size - int(shape[axis])
            first = abs(change) // 2
            before[axis] = first if change > 0 else -first
            after[axis] = change - before[axis]
        pads = gs.Constant(name(f"{node.name}_pads"), np.asarray([*before, *after], dtype=np.int64))
        set_origin(pads, ADDED)
        become(node, "Pad", {"mode": "constant"}, [node.inputs[0], pads])
        rewritten += 1
    return rewritten
