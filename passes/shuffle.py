"""shuffle-to-gather: a permutation of channels, however it is spelt, becomes one Gather on the channel axis.

ShuffleNet's shuffle is Reshape(N, g, C/g, H, W) → Transpose → Reshape(N, C, H, W); others go through (N·C/2, 2, H·W)
and pick halves with Gather; ESPNet-like code slices with a step. Let x have shape (N, C, H, W), and let y be made of x
by data movement alone, with shape (N, C', H, W). Moving the element numbers of x the same way shows whether every
y[n, c] is x[n, π(c)], whole maps in their order. If so, y = Gather(x, π, axis=1), exactly.

As a Gather, channels can be cut freely; as a Reshape each of the g parts would have to keep equally many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.analysis.movement import MOVERS, CannotMoveError, Shape, slice_ranges
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    Tensor,
    consumers,
    is_constant,
    is_graph_output,
    replace_input,
    sweep,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.movement import ARRANGES, is_gather, is_reshape, is_slice

_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class _Origin:
    """A tensor made by moving `root`: `element[i]` is the number of the root's element at position i."""

    root: Tensor
    element: Array


@dataclass(frozen=True)
class ShuffleToGather:
    """Rewrite channel shuffles as Gather on the channel axis, but parts of a Split that the graph returns."""

    name: ClassVar[str] = "shuffle-to-gather"

    def run(self, model: Model) -> int:
        """Rewrite in place; return the number of Gathers made."""
        graph = model.graph
        shapes = concrete_shapes(graph)
        rewrites = _Rewriter(graph, shapes).run()
        if rewrites:
            sweep(graph)
        return rewrites


class _Rewriter:
    def __init__(self, graph: gs.Graph, shapes: dict[int, Shape | None]) -> None:
        self.graph = graph
        self.shapes = shapes
        self.name = Namer(graph)
        self.origins: dict[int, _Origin] = {}

    def run(self) -> int:
        made = 0
        for node in list(self.graph.nodes):
            if node.op not in ARRANGES:
                continue
            for tensor, origin in self._origins(node):
                if tensor is node.outputs[0] and is_gather(node) and origin.root is node.inputs[0]:
                    continue  # already what this pass makes
                order = self._permutation(tensor, origin)
                if order is not None and not self._stays(node, tensor):
                    self._replace(tensor, origin.root, order)
                    made += 1
                else:
                    self.origins[id(tensor)] = origin
        return made

    def _origins(self, node: Node) -> list[tuple[Tensor, _Origin]]:
        """Where the elements of a node's outputs come from; empty for what is no shuffle's beginning or part."""
        data = node.inputs[0]
        origin = self.origins.get(id(data))
        if origin is None:
            if not self._begins(node):
                return []
            shape = self.shapes[id(data)] or ()
            origin = _Origin(data, np.arange(int(np.prod(shape))).reshape(shape))
        shapes = [self.shapes.get(id(tensor)) for tensor in node.outputs]
        if any(shape is None for shape in shapes):
            return []
        try:
            moved = MOVERS[node.op](
                node, [origin.element], [origin.element.shape], [s for s in shapes if s is not None]
            )
        except CannotMoveError:
            return []
        full = [np.broadcast_to(a, s) for a, s in zip(moved, shapes, strict=False) if s is not None]
        return [(tensor, _Origin(origin.root, a)) for tensor, a in zip(node.outputs, full, strict=True)]

    def _begins(self, node: Node) -> bool:
        """A Reshape that splits the channels of a feature map, or a Slice that steps through them."""
        shape = self.shapes.get(id(node.inputs[0]))
        if shape is None or len(shape) != 4 or is_constant(node.inputs[0]) or np.prod(shape) > _ELEMENTS:
            return False
        if is_slice(node):
            try:
                taken = slice_ranges(node, shape).get(1)
            except CannotMoveError:
                return False
            return taken is not None and taken.step != 1
        after = self.shapes.get(id(node.outputs[0]))
        if not is_reshape(node) or after is None or shape[1] == 1:
            return False
        # (N, C, H·W) only flattens space, (C, H·W) drops a batch of 1; a shuffle splits C, or merges it with the batch.
        if after[:2] == shape[:2] or (shape[0] == 1 and after[0] == shape[1]):
            return False
        return any(reader.op in ARRANGES for reader in consumers(node.outputs[0]))

    def _permutation(self, tensor: Tensor, origin: _Origin) -> Array | None:
        """π if the tensor is `root` with its maps taken in the order π, else None."""
        before, after = self.shapes[id(origin.root)], origin.element.shape
        if before is None or len(after) != 4 or after[0] != before[0] or after[2:] != before[2:]:
            return None
        area = before[2] * before[3]
        first = origin.element[0, :, 0, 0]
        order = first // area
        if (order >= before[1]).any():  # another image's
            return None
        maps = np.arange(int(np.prod(before))).reshape(before)
        if not np.array_equal(maps.take(order, axis=1), origin.element):
            return None
        return np.asarray(order, dtype=np.int64)

    def _stays(self, node: Node, tensor: Tensor) -> bool:
        """Whether it is one of several parts that the graph returns, or that nothing reads."""
        return len(node.outputs) > 1 and (is_graph_output(self.graph, tensor) or not consumers(tensor))

    def _replace(self, tensor: Tensor, root: Tensor, order: Array) -> None:
        old = tensor.inputs[0]
        indices = gs.Constant(self.name(f"{old.name}_channels"), order)
        name = self.name(f"{old.name}_gather")
        if len(old.outputs) == 1:
            old.outputs.clear()
            self.graph.nodes.append(gs.Node("Gather", name, {"axis": 1}, [root, indices], [tensor]))
        else:  # one part of a Split: the other parts may be needed as they are
            fresh = gs.Variable(self.name(f"{tensor.name}_gather"), tensor.dtype, tensor.shape)
            self.shapes[id(fresh)] = self.shapes[id(tensor)]
            self.graph.nodes.append(gs.Node("Gather", name, {"axis": 1}, [root, indices], [fresh]))
            for reader in consumers(tensor):
                replace_input(reader, tensor, fresh)
