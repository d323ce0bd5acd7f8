"""Size arithmetic of a graph as it was read, carried over into one that was compiled at one size.

A derived tensor (see `size_probes`) is copied with all that it is computed from, down to what the arithmetic reads: a
`Shape`. Of that, extents that are the same at every size are written down, as channels may have gone since; those that
vary are read off a tensor of the compiled graph that has the same extent at every size, computed before it is needed.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Namer, Node, Tensor, is_constant, is_empty
from onnxslim_yolo.ops.movement import tells_shape
from onnxslim_yolo.rewrites.size_probes import Probes


class StaysFixedError(Exception):
    """Something that was computed at one size is not known at others; the message names it."""


class Grafts:
    """Copies derived tensors of `source` into `graph`, each once.

    Args:
        graph: what was compiled, in topological order; nodes are added behind the others, for `toposort` to place.
        source: as it was read. probes: the same at a few sizes.
    """

    def __init__(self, graph: gs.Graph, source: gs.Graph, probes: Probes) -> None:
        self.graph = graph
        self.probes = probes
        self.name = Namer(graph)
        self.made = {t.name: node for node in source.nodes for t in node.outputs if not is_empty(t)}
        self._done: dict[str, Tensor] = {}
        self._shapes: dict[str, Tensor] = {}
        self._extents: dict[tuple[str, int], Tensor] = {}
        inputs = [(-1, tensor) for tensor in graph.inputs]
        later = [(k, t) for k, node in enumerate(graph.nodes) for t in node.outputs if not is_empty(t)]
        self._known = [(k, t) for k, t in (*inputs, *later) if t.name in probes.shapes]
        self._at = {t.name: (k, t) for k, t in self._known}

    def tensor(self, name: str, before: int) -> Tensor:
        """A derived tensor of the source.

        Args:
            before: the place in the graph of the node that reads it.

        Raises:
            StaysFixedError: it reads a size that the compiled graph does not have any more.
        """
        if name in self._done:
            return self._done[name]
        node = self.made[name]
        if tells_shape(node):
            self._done[name] = self._shape(node, before)
            return self._done[name]
        inputs = [self._input(tensor, before) for tensor in node.inputs]
        outputs: list[Tensor] = [
            gs.Variable.empty() if is_empty(t) else gs.Variable(self.name(t.name), t.dtype, None) for t in node.outputs
        ]
        self._add(node.op, node.name or name, dict(node.attrs), inputs, outputs)
        self._done |= {t.name: twin for t, twin in zip(node.outputs, outputs, strict=True) if not is_empty(t)}
        return self._done[name]

    def element(self, name: str, index: int, before: int) -> Tensor:
        """One element of a derived vector, as a vector of one."""
        return self._gather(self.tensor(name, before), index, f"{name}_{index}")

    def extent(self, name: str, axis: int, before: int) -> Tensor | None:
        """A tensor's extent along an axis, as a vector of one; None where the graph computes none like it by then."""
        wanted = [shape[axis] for shape in self.probes.shapes[name]]
        for place, tensor in (self._at.get(name, (before, None)), *self._known):
            if tensor is None or place >= before:
                continue
            shapes = self.probes.shapes[tensor.name]
            order = [axis] if tensor.name == name else range(len(shapes[0]))
            for k in order:
                if all(len(shape) > k and shape[k] == want for shape, want in zip(shapes, wanted, strict=True)):
                    return self._extent(tensor, k)
        return None

    def constant(self, *values: int) -> gs.Constant:
        """A vector of numbers."""
        return gs.Constant(self.name("size"), np.asarray(values, dtype=np.int64))

    def joined(self, parts: list[Tensor], stem: str) -> Tensor:
        """Vectors one behind the other."""
        if len(parts) == 1:
            return parts[0]
        whole = gs.Variable(self.name(stem), np.int64, None)
        self._add("Concat", stem, {"axis": 0}, parts, [whole])
        return whole

    def _input(self, tensor: Tensor, before: int) -> Tensor:
        if is_empty(tensor):
            return gs.Variable.empty()
        if not isinstance(tensor, gs.Constant):
            return self.tensor(tensor.name, before)
        if tensor.name not in self._done:
            self._done[tensor.name] = gs.Constant(self.name(tensor.name), tensor.values)
        return self._done[tensor.name]

    def _shape(self, node: Node, before: int) -> Tensor:
        """What a Shape of the source says, whatever became of the tensor that it reads."""
        read = node.inputs[0].name
        if is_constant(node.inputs[0]):
            values: list[int] = [int(d) for d in node.inputs[0].shape]
            return self.constant(*values[slice(*_part(node, len(values)))])
        if read not in self.probes.shapes:
            raise StaysFixedError(f"nothing says what '{read}' measures")
        shapes = self.probes.shapes[read]
        if len({len(shape) for shape in shapes}) != 1:
            raise StaysFixedError(f"'{read}' has more axes at one size than at another")
        parts: list[Tensor] = []
        for axis in range(len(shapes[0]))[slice(*_part(node, len(shapes[0])))]:
            if not self.probes.varies(read, axis):
                parts.append(self.constant(shapes[0][axis]))
                continue
            found = self.extent(read, axis, before)
            if found is None:
                raise StaysFixedError(f"the size of '{read}' is no tensor's any more")
            parts.append(found)
        return self.joined(parts, f"{read}_shape") if parts else self.constant()

    def _extent(self, tensor: Tensor, axis: int) -> Tensor:
        key = (tensor.name, axis)
        if key not in self._extents:
            if tensor.name not in self._shapes:
                read = gs.Variable(self.name(f"{tensor.name}_shape"), np.int64, None)
                self._add("Shape", f"{tensor.name}_shape", {}, [tensor], [read])
                self._shapes[tensor.name] = read
            self._extents[key] = self._gather(self._shapes[tensor.name], axis, f"{tensor.name}_extent")
        return self._extents[key]

    def _gather(self, vector: Tensor, index: int, stem: str) -> Tensor:
        one = gs.Variable(self.name(stem), np.int64, None)
        self._add("Gather", stem, {"axis": 0}, [vector, self.constant(index)], [one])
        return one

    def _add(self, op: str, stem: str, attrs: dict[str, object], inputs: list[Tensor], outputs: list[Tensor]) -> None:
        self.graph.nodes.append(gs.Node(op, self.name(stem), attrs, inputs, outputs))


def _part(node: Node, rank: int) -> tuple[int, int]:
    end = attribute(node, "end")
    return int(attribute(node, "start") or 0), rank if end is None else int(end)
