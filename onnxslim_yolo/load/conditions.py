"""An If whose condition is known before anything runs is the branch that it takes.

torch's exporters write an If for `x.squeeze(1)` and for every check of a size: its condition is computed from
constants, or from the shape of something whose shape is known. Such a condition is computed here, node by node, and the
branch's nodes take the If's place, under names of their own where the graph has used theirs. What depends on the image,
or on a size that is open, stays an If, and is refused by whoever reads on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from onnxslim_yolo.analysis.folding import evaluate, one_node
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ops.movement import SIZED_BY

SMALL = 1 << 12
"""Elements of a value that a condition may be computed from."""
ROUNDS = 8
"""How often shapes are inferred again with what followed from them."""
_SIZED = {**SIZED_BY, "Pad": 1}
DEEPEST = 64
"""How many nodes a condition may be away from what it is computed from, and how deep Ifs may be nested."""


def fold_conditions(proto: onnx.ModelProto) -> int:
    """Put the branch that is taken in place of every If of known condition. Returns how many Ifs went."""
    folded = 0
    while folded < (1 << 12):
        node = next(_known(proto), None)
        if node is None:
            return folded
        _inline(proto.graph, *node)
        folded += 1
    return folded


def _known(proto: onnx.ModelProto) -> Iterator[tuple[int, onnx.GraphProto]]:
    """The position of every If of known condition, and the branch that it takes."""
    ifs = [k for k, node in enumerate(proto.graph.node) if node.op_type == "If" and node.domain in ("", "ai.onnx")]
    values = _Values(proto) if ifs else None
    for position in ifs:
        node = proto.graph.node[position]
        condition = values.of(node.input[0]) if values is not None and len(node.input) == 1 else None
        if condition is None or condition.size != 1:
            continue
        wanted = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
        branch = next((a.g for a in node.attribute if a.name == wanted), None)
        if branch is not None and len(branch.output) >= len(node.output):
            yield position, branch


class _Values:
    """What values of a graph are, where that can be known without its inputs."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._proto = proto
        self._constants = {t.name: t for t in proto.graph.initializer}
        self._makers = {name: node for node in proto.graph.node for name in node.output if name}
        self._shapes: dict[str, list[int | None]] | None = None
        self._known: dict[str, Array | None] = {}

    def of(self, name: str, depth: int = 0) -> Array | None:
        """A value, or None where it is not known."""
        if name not in self._known:
            self._known[name] = None  # a cycle is known by nobody
            self._known[name] = self._find(name, depth)
        return self._known[name]

    def _find(self, name: str, depth: int) -> Array | None:
        tensor = self._constants.get(name)
        if tensor is not None:
            return _array(tensor)
        node = self._makers.get(name)
        if node is None or depth > DEEPEST or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type in ("Shape", "Size"):
            return self._shape(node)
        part = self._part_of_shape(node, depth) if node.op_type in ("Gather", "Slice") else None
        if part is not None:
            return part
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            return None
        values = [self.of(read, depth + 1) if read else None for read in node.input]
        if any(value is None for value, read in zip(values, node.input, strict=True) if read):
            return None
        return self._computed(node, name, values)

    def _computed(self, node: onnx.NodeProto, name: str, values: list[Array | None]) -> Array | None:
        feeds = {read: value for read, value in zip(node.input, values, strict=True) if value is not None}
        one = onnx.NodeProto()
        one.CopyFrom(node)
        one.output[:] = [each if each == name else "" for each in node.output]
        try:
            value = evaluate(one_node(one, feeds, list(self._proto.opset_import)), feeds)[0]
        except Exception:
            return None  # whoever runs the model says what is wrong with it
        return value if value.size <= SMALL else None

    def _dims(self, node: onnx.NodeProto) -> list[int | None] | None:
        """What a Shape yields, with None for open sizes."""
        dims = self._all_shapes().get(node.input[0]) if node.input else None
        if dims is None or node.op_type == "Size":
            return dims
        ends: dict[str, int] = {a.name: a.i for a in node.attribute}
        return dims[slice(ends.get("start", 0), ends.get("end", len(dims)))]

    def _shape(self, node: onnx.NodeProto) -> Array | None:
        dims = self._dims(node)
        if dims is None:
            return None
        known = [dim for dim in dims if dim is not None]
        if len(known) < len(dims):
            return None
        return np.asarray(known if node.op_type == "Shape" else int(np.prod(known)), dtype=np.int64)

    def _part_of_shape(self, node: onnx.NodeProto, depth: int) -> Array | None:
        """A size out of a shape of which others are open."""
        maker = self._makers.get(node.input[0]) if node.input else None
        dims = self._dims(maker) if maker is not None and maker.op_type == "Shape" else None
        if dims is None or node.op_type != "Gather" or len(node.input) != 2:
            return None
        indices = self.of(node.input[1], depth + 1)
        if indices is None or indices.size == 0 or np.any((indices >= len(dims)) | (indices < -len(dims))):
            return None
        taken = [dims[int(k)] for k in indices.reshape(-1)]
        known = [dim for dim in taken if dim is not None]
        return np.asarray(known, dtype=np.int64).reshape(indices.shape) if len(known) == len(taken) else None

    def _all_shapes(self) -> dict[str, list[int | None]]:
        """Inferred shapes. Inference does not compute pads and targets that an exporter spells out: they are given."""
        if self._shapes is None:
            self._shapes = self._inferred({})
            given: dict[str, Array] = {}
            for _ in range(ROUNDS):
                found = self._spelt_out(given)
                if not found:
                    break
                given |= found
                self._shapes = self._inferred(given)
                self._known = {name: value for name, value in self._known.items() if value is not None}
        return self._shapes

    def _spelt_out(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """Pads, bounds and targets that can be computed by now and were not given yet, where a shape hangs on them."""
        found: dict[str, Array] = {}
        for node in self._proto.graph.node:
            if node.op_type not in _SIZED or not node.output or None not in self._of_output(node):
                continue
            for name in node.input[_SIZED[node.op_type] :]:
                if name and name in self._makers and name not in given:
                    value = self.of(name)
                    if value is not None:
                        found[name] = value
        return found

    def _of_output(self, node: onnx.NodeProto) -> list[int | None]:
        return (self._shapes or {}).get(node.output[0], [None])

    def _inferred(self, given: Mapping[str, Array]) -> dict[str, list[int | None]]:
        proto = self._proto
        if given:
            proto = onnx.ModelProto()
            proto.CopyFrom(self._proto)
            for node in proto.graph.node:
                node.output[:] = ["" if name in given else name for name in node.output]
            proto.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in given.items())
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
        except Exception:
            inferred = proto.graph
        shapes: dict[str, list[int | None]] = {t.name: list(t.dims) for t in proto.graph.initializer}
        for info in (*inferred.input, *inferred.value_info, *inferred.output):
            kind = info.type.tensor_type
            if kind.HasField("shape"):
                dims = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
                shapes.setdefault(info.name, dims)
        return shapes


def _array(tensor: onnx.TensorProto) -> Array | None:
    if int(np.prod(tensor.dims, dtype=np.float64)) > SMALL or tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    try:
        return numpy_helper.to_array(tensor)
    except Exception:
        return None  # `wellformed` refuses it with what is wrong


def _inline(graph: onnx.GraphProto, position: int, branch: onnx.GraphProto) -> None:
    """Put a branch's nodes in the place of the If at this position."""
    node = onnx.NodeProto()
    node.CopyFrom(graph.node[position])
    fresh = _renamed(graph, node, branch)
    taken = onnx.GraphProto()
    taken.CopyFrom(branch)
    _rename(taken, fresh)
    for tensor in taken.initializer:
        graph.initializer.append(tensor)
    ends = [
        onnx.helper.make_node("Identity", [inner.name], [outer], name=f"{node.name or outer}/taken")
        for inner, outer in zip(taken.output, node.output, strict=False)
        if outer
    ]
    nodes = [*graph.node[:position], *taken.node, *ends, *graph.node[position + 1 :]]
    kept = [onnx.NodeProto() for _ in nodes]
    for copy, each in zip(kept, nodes, strict=True):
        copy.CopyFrom(each)
    del graph.node[:]
    graph.node.extend(kept)


def _renamed(graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto) -> dict[str, str]:
    """New names for what the branch defines under names that the graph has used."""
    used = {t.name for t in graph.initializer} | {v.name for v in (*graph.input, *graph.output)}
    used |= {name for each in graph.node for name in each.output}
    used |= {each.name for each in graph.node}
    defined = [t.name for t in branch.initializer] + [name for each in branch.node for name in each.output if name]
    fresh: dict[str, str] = {}
    stem = node.name or node.output[0]
    for name in dict.fromkeys(defined):
        candidate, count = name, 0
        while candidate in used:
            count += 1
            candidate = f"{stem}/{name}" if count == 1 else f"{stem}/{name}_{count}"
        used.add(candidate)
        fresh[name] = candidate
    return fresh


def _rename(graph: onnx.GraphProto, fresh: dict[str, str]) -> None:
    """Rename values in a graph and in the graphs inside it, unless those define the name themselves."""
    for tensor in graph.initializer:
        tensor.name = fresh.get(tensor.name, tensor.name)
    for value in (*graph.value_info, *graph.output):
        value.name = fresh.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [fresh.get(name, name) for name in node.input]
        node.output[:] = [fresh.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs:
                own = {t.name for t in inner.initializer} | {v.name for v in inner.input}
                own |= {name for each in inner.node for name in each.output}
                _rename(inner, {old: new for old, new in fresh.items() if old not in own})
