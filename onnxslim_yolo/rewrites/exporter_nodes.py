"""What exporters write around an operator when nothing tidies up after them. Used by the pass `canonicalise`.

1. CastLike(a, b) becomes Cast(a) to b's type, where that is known: b itself is not read.
2. SequenceAt(SplitToSequence(x, sizes), i) reads a Split's output i; without keepdims the axis is squeezed away.
3. SequenceAt(SequenceConstruct(a, b, …), i) is the i-th of these.
4. ConcatFromSequence(SequenceConstruct(a, b, …)) is a Concat, with a new axis of Unsqueezes.
5. GatherND by constant indices into one axis is a Gather along it.

torch's dynamo exporter with `optimize=False`, which keeps BatchNormalization, writes `chunk`, `split` and `unbind` so,
and `x[:, indices]`.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute, set_operand
from onnxslim_yolo.ir.graph import (
    Namer,
    Node,
    Tensor,
    become,
    constant_of,
    consumers,
    detach,
    input_constant,
    is_graph_output,
    nodes_of,
    producer,
    replace_uses,
)
from onnxslim_yolo.ops.registry import makes_sequence, picks_from_sequence


def rewrite_exported(graph: gs.Graph) -> int:
    """Rewrite casts, sequences and gathers; return how many."""
    return _casts(graph) + _splits(graph) + _picks(graph) + _joins(graph) + _gathers(graph)


def _gathers(graph: gs.Graph) -> int:
    done, name = 0, Namer(graph)
    for node in nodes_of(graph, "GatherND"):
        indices = input_constant(node, 1) if len(node.inputs) > 1 else None  # folded just now
        if indices is None or indices.shape[-1] != 1:
            continue
        axis = int(attribute(node, "batch_dims"))
        rows = indices.reshape(int(np.prod(indices.shape[:axis])), *indices.shape[axis:-1])
        if not len(rows) or (rows != rows[0]).any():
            continue  # every batch picks its own
        picked = gs.Constant(name(f"{node.name}_indices"), np.ascontiguousarray(rows[0]))
        become(node, "Gather", {"axis": axis}, [node.inputs[0], picked])
        done += 1
    return done


def _casts(graph: gs.Graph) -> int:
    done = 0
    for node in nodes_of(graph, "CastLike"):
        kind = _type_of(node.inputs[1]) if len(node.inputs) > 1 else None  # folded just now
        if kind is None:
            continue
        become(node, "Cast", {"to": kind}, [node.inputs[0]])
        done += 1
    return done


def _type_of(tensor: Tensor) -> int | None:
    kind = tensor.dtype
    if kind is None or isinstance(kind, int):
        return kind
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))


def _splits(graph: gs.Graph) -> int:
    done, name = 0, Namer(graph)
    for node in nodes_of(graph, "SplitToSequence"):
        if not node.outputs:
            continue  # folded just now
        readers = consumers(node.outputs[0])
        shape = node.inputs[0].shape
        indices = [_index(reader) for reader in readers if picks_from_sequence(reader)]
        if is_graph_output(graph, node.outputs[0]) or len(indices) != len(readers) or shape is None or None in indices:
            continue
        axis = int(attribute(node, "axis")) % len(shape)
        sizes = _sizes(node, shape[axis])
        if sizes is None or any(not -len(sizes) <= i < len(sizes) for i in indices if i is not None):
            continue
        squeezed = len(node.inputs) < 2 and not attribute(node, "keepdims")
        _split(graph, node, axis, sizes, squeezed, name)
        done += 1
    return done


def _index(node: Node) -> int | None:
    value = input_constant(node, 1)
    return None if value is None else int(value.reshape(-1)[0])


def _sizes(node: Node, extent: object) -> list[int] | None:
    if not isinstance(extent, (int, np.integer)):
        return None
    size = int(extent)
    if len(node.inputs) < 2:
        return [1] * size
    given = constant_of(node.inputs[1])
    if given is None:
        return None
    if given.ndim:
        return [int(v) for v in given]
    chunk = int(given)
    return [min(chunk, size - start) for start in range(0, size, chunk)] if chunk > 0 else None


def _split(graph: gs.Graph, node: Node, axis: int, sizes: list[int], squeezed: bool, name: Namer) -> None:
    """Put a Split in the place of a SplitToSequence, and its outputs in that of the SequenceAts."""
    data = node.inputs[0]
    parts = [gs.Variable(name(f"{node.outputs[0].name}_{k}"), data.dtype) for k in range(len(sizes))]
    cut = gs.Node("Split", name(f"{node.name}_split"), {"axis": axis}, [data], parts)
    set_operand(cut, "split", np.asarray(sizes, np.int64), graph.opset, lambda: name(f"{node.name}_sizes"))
    graph.nodes.append(cut)
    for reader in consumers(node.outputs[0]):
        part = parts[_index(reader) or 0]
        output = reader.outputs[0]
        detach(reader)
        if squeezed:
            _axis_node(graph, "Squeeze", part, output, axis, name)
        else:
            replace_uses(graph, output, part)
    detach(node)


def _axis_node(graph: gs.Graph, op: str, data: Tensor, output: Tensor, axis: int, name: Namer) -> None:
    node = gs.Node(op, name(f"{output.name}_{op.lower()}"), {}, [data], [output])
    set_operand(node, "axes", np.asarray([axis], np.int64), graph.opset, lambda: name(f"{output.name}_axes"))
    graph.nodes.append(node)


def _picks(graph: gs.Graph) -> int:
    done = 0
    for node in nodes_of(graph, "SequenceAt"):
        maker = producer(node.inputs[0]) if node.inputs else None
        index = _index(node) if makes_sequence(maker) else None
        if maker is None or index is None or not -len(maker.inputs) <= index < len(maker.inputs):
            continue
        picked, output = maker.inputs[index], node.outputs[0]
        detach(node)
        replace_uses(graph, output, picked)
        done += 1
    return done


def _joins(graph: gs.Graph) -> int:
    done, name = 0, Namer(graph)
    for node in nodes_of(graph, "ConcatFromSequence"):
        maker = producer(node.inputs[0]) if node.inputs else None
        if not makes_sequence(maker) or any(t.shape is None for t in maker.inputs):
            continue
        axis, parts = int(attribute(node, "axis")), list(maker.inputs)
        if attribute(node, "new_axis"):
            axis %= len(parts[0].shape) + 1
            wide: list[Tensor] = [
                gs.Variable(name(f"{node.outputs[0].name}_{k}"), t.dtype) for k, t in enumerate(parts)
            ]
            for part, widened in zip(parts, wide, strict=True):
                _axis_node(graph, "Unsqueeze", part, widened, axis, name)
            parts = wide
        become(node, "Concat", {"axis": axis}, parts)
        done += 1
    return done
