"""The decode as graph nodes: raw maps of a described head → one table of boxes. Used by the pass `head`.

    v5-raw   (b, na·no, h, w) → (b, Σ na·h·w, no)     cx = α·s·σ(x) + (cell − (α − 1)/2)·s    w = 4a·σ(w)² or a·exp(w)
    v8-raw   (b, 4·reg_max + nc, h, w) → (b, 4 + nc, Σ h·w)     sides by DFL; box = cell + ½ ∓ sides, times s, as xywh

Grids, strides and anchors are constants, so the input size has to be fixed. The nodes are those that exporters write
(DFL as a 1×1 convolution with weights 0, 1, 2, …), which runtimes and emitters know.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array, Namer, Tensor
from onnxslim_yolo.ir.model import Model

SCOPE = "decode"


class DecodeWriter:
    """Appends nodes to a graph under free names."""

    def __init__(self, model: Model) -> None:
        self._graph, self._namer = model.graph, Namer(model.graph)

    def node(self, op: str, inputs: Sequence[Tensor], count: int, **attrs: object) -> list[Tensor]:
        """A node and its outputs."""
        name = self._namer(f"{SCOPE}/{op}")
        outputs: list[Tensor] = [gs.Variable(self._namer(f"{name}_output_{i}"), np.float32) for i in range(count)]
        self._graph.nodes.append(gs.Node(op, name, dict(attrs), list(inputs), outputs))
        return outputs

    def one(self, op: str, *inputs: Tensor, **attrs: object) -> Tensor:
        """A node with one output."""
        return self.node(op, inputs, 1, **attrs)[0]

    def floats(self, values: object) -> Tensor:
        """A float32 constant."""
        return gs.Constant(self._namer(f"{SCOPE}/const"), np.asarray(values, np.float32))

    def ints(self, *values: int) -> Tensor:
        """An int64 constant."""
        return gs.Constant(self._namer(f"{SCOPE}/const"), np.array(values, np.int64))

    def reshape(self, tensor: Tensor, *shape: int) -> Tensor:
        """A Reshape; 0 keeps an extent."""
        return self.one("Reshape", tensor, self.ints(*shape))

    def split(self, tensor: Tensor, axis: int, sizes: Sequence[int]) -> list[Tensor]:
        """A Split into parts of these sizes."""
        return self.node("Split", [tensor, self.ints(*sizes)], len(sizes), axis=axis)

    def concat(self, tensors: Sequence[Tensor], axis: int) -> Tensor:
        """A Concat, or the tensor itself if there is only one."""
        return tensors[0] if len(tensors) == 1 else self.one("Concat", *tensors, axis=axis)


def grid_of(height: int, width: int) -> Array:
    """(h·w, 2): column and row of every cell."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)


def write_v5(write: DecodeWriter, maps: Sequence[Tensor], cells: Sequence[tuple[int, int]], head: HeadSpec) -> Tensor:
    """The table (b, N, 5 + nc + e) of a head with anchors."""
    columns = 5 + head.nc + head.extra_channels
    tables: list[Tensor] = []
    levels = zip(maps, cells, head.strides, head.anchors, head.scales, head.size_rules, strict=True)
    for tensor, (height, width), stride, anchors, alpha, rule in levels:
        count, scaled = len(anchors), np.array(anchors).reshape(1, -1, 1, 2)
        rows = write.one("Transpose", write.reshape(tensor, 0, count, columns, height * width), perm=[0, 1, 3, 2])
        sizes = [2, 2, 1 + head.nc, *([head.extra_channels] if head.extra_channels else [])]
        xy, wh, scores, *extra = write.split(rows, 3, sizes)
        offset = grid_of(height, width).reshape(1, 1, -1, 2).astype(np.float64)
        if head.centres == "logistic":
            xy, offset = write.one("Sigmoid", xy), offset - (alpha - 1) / 2
        centre = write.one("Mul", xy, write.floats(stride * (alpha if head.centres == "logistic" else 1.0)))
        centre = write.one("Add", centre, write.floats(offset * stride))
        if rule == "exp":
            size = write.one("Mul", write.one("Exp", wh), write.floats(scaled))
        else:
            half = write.one("Sigmoid", wh)
            size = write.one("Mul", write.one("Mul", half, half), write.floats(4 * scaled))
        table = write.concat([centre, size, write.one("Sigmoid", scores), *extra], 3)
        tables.append(write.reshape(table, 0, count * height * width, columns))
    return write.concat(tables, 1)


def write_v8(write: DecodeWriter, maps: Sequence[Tensor], cells: Sequence[tuple[int, int]], head: HeadSpec) -> Tensor:
    """The table (b, 4 + nc, N) of a head without anchors."""
    bins, levels = 4 * head.reg_max, head.levels
    count = sum(height * width for height, width in cells)
    extents = [height * width for height, width in cells]
    if head.joint:
        channels = bins + head.nc
        flat = [write.reshape(t, 0, channels, n) for t, n in zip(maps, extents, strict=True)]
        box, scores = write.split(write.concat(flat, 2), 1, [bins, head.nc])
    else:
        box = write.concat([write.reshape(t, 0, bins, n) for t, n in zip(maps[:levels], extents, strict=True)], 2)
        scores = write.concat([write.reshape(t, 0, head.nc, n) for t, n in zip(maps[levels:], extents, strict=True)], 2)
    sides = box if head.reg_max == 1 else _dfl(write, box, head.reg_max, count)
    centre = np.concatenate([grid_of(*level) + 0.5 for level in cells]).T[None]
    strides = np.concatenate([np.full(n, s) for n, s in zip(extents, head.strides, strict=True)]).reshape(1, 1, -1)
    low, high = write.split(sides, 1, [2, 2])
    first = write.one("Sub", write.floats(centre), low)
    last = write.one("Add", write.floats(centre), high)
    middle = write.one("Mul", write.one("Add", first, last), write.floats(0.5))
    boxes = write.one("Mul", write.concat([middle, write.one("Sub", last, first)], 1), write.floats(strides))
    return write.concat([boxes, write.one("Sigmoid", scores)], 1)


def _dfl(write: DecodeWriter, box: Tensor, reg_max: int, count: int) -> Tensor:
    """(b, 4·reg_max, n) → (b, 4, n): the expectation over each side's bins."""
    bins = write.one("Transpose", write.reshape(box, 0, 4, reg_max, count), perm=[0, 2, 1, 3])
    weight = write.floats(np.arange(reg_max).reshape(1, reg_max, 1, 1))
    return write.reshape(write.one("Conv", write.one("Softmax", bins, axis=1), weight), 0, 4, count)
