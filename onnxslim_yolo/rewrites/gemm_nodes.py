"""Gemm and MatMul as one plain linear layer. Used by the pass `canonicalise`.

    Y = α·A′·B′ + β·C,   A′ = A or Aᵀ, B′ = B or Bᵀ

is the only operator of ONNX that multiplies, scales, transposes and adds at once. What is behind one layer stays one
layer, and everything else becomes the operators that do it, so that whoever reads a Gemm need not know them:

1. β = 0: C is not read, whatever it holds.
2. transA: a constant A is transposed, a computed one gets a Transpose in front.
3. B computed: Gemm = α·MatMul(A, B or its Transpose) + β·C.
4. C computed, or one value a row: it is added behind, by an Add that broadcasts as Gemm does.
5. α and β are multiplied into constants that nobody else reads, if their type keeps float32's precision or the factor
   is a power of two; else they stay attributes.
6. A MatMul by a constant vector is one by a matrix of one row or column, and a Squeeze.

Exact up to the rounding of a product by α and β.
"""

from __future__ import annotations

from functools import partial
from math import frexp

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.attributes import attribute, set_operand
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    Tensor,
    become,
    has_input,
    input_constant,
    is_constant,
    nodes_of,
    revalue,
)
from onnxslim_yolo.ir.origins import Made, moved, origin_of, set_origin
from onnxslim_yolo.ops.linear import is_gemm


def plain_gemms(graph: gs.Graph) -> int:
    """Rewrite every Gemm and MatMul that is more than a plain layer; return how many rewrites were made."""
    namer = Namer(graph)
    vectors = sum(_as_matrix(graph, node, namer) for node in nodes_of(graph, "MatMul") if len(node.inputs) > 1)
    steps = (_drop_unread, _transpose_first, _multiply_computed, _add_behind, _fold_factors)
    gemms = nodes_of(graph, "Gemm")
    return vectors + sum(step(graph, node, namer) for node in gemms for step in steps if len(node.inputs) > 1)


def _as_matrix(graph: gs.Graph, node: Node, namer: Namer) -> int:
    index = next((k for k in (0, 1) if (value := input_constant(node, k)) is not None and value.ndim == 1), None)
    other = None if index is None else node.inputs[1 - index].shape
    if index is None or other is None or len(other) < 2:
        return 0
    vector = np.asarray(input_constant(node, index))
    matrix = gs.Constant(namer(f"{node.inputs[index].name}_matrix"), np.expand_dims(vector, index))
    origin = moved(origin_of(node.inputs[index]), vector.shape, partial(np.expand_dims, axis=index))
    set_origin(matrix, Made((origin,)))
    node.inputs = [matrix, node.inputs[1]] if index == 0 else [node.inputs[0], matrix]
    output = node.outputs[0]
    wide = gs.Variable(namer(f"{output.name}_wide"), output.dtype)
    node.outputs = [wide]
    squeeze = gs.Node("Squeeze", namer(f"{node.name}_squeeze"), {}, [wide], [output])
    axis = np.asarray([len(other) - 2 + index], np.int64)
    set_operand(squeeze, "axes", axis, graph.opset, lambda: namer(f"{node.name}_axis"))
    position = next(place for place, each in enumerate(graph.nodes) if each is node)
    graph.nodes.insert(position + 1, squeeze)
    return 1


def _drop_unread(graph: gs.Graph, node: Node, namer: Namer) -> int:
    if float(attribute(node, "beta")) != 0:
        return 0
    node.inputs = list(node.inputs[:2])
    node.attrs = {key: value for key, value in node.attrs.items() if key != "beta"}
    return 1


def _transpose_first(graph: gs.Graph, node: Node, namer: Namer) -> int:
    if not attribute(node, "transA"):
        return 0
    constant = input_constant(node, 0)
    if constant is None:
        turned: Tensor = _transposed(graph, node, 0, namer)
    else:
        turned = gs.Constant(namer(f"{node.inputs[0].name}_t"), np.ascontiguousarray(constant.T))
        set_origin(turned, Made((moved(origin_of(node.inputs[0]), constant.shape, np.transpose),)))
    node.inputs = [turned, *node.inputs[1:]]
    node.attrs = {key: value for key, value in node.attrs.items() if key != "transA"}
    return 1


def _transposed(graph: gs.Graph, node: Node, index: int, namer: Namer) -> Tensor:
    source = node.inputs[index]
    shape = None if source.shape is None else list(source.shape)[::-1]
    turned = gs.Variable(namer(f"{source.name}_t"), source.dtype, shape)
    _insert(graph, node, gs.Node("Transpose", namer(f"{node.name}_t"), {"perm": [1, 0]}, [source], [turned]))
    return turned


def _multiply_computed(graph: gs.Graph, node: Node, namer: Namer) -> int:
    """Two computed matrices: a MatMul, as attention writes it."""
    if not is_gemm(node) or is_constant(node.inputs[1]):
        return 0
    second = _transposed(graph, node, 1, namer) if attribute(node, "transB") else node.inputs[1]
    alpha, beta = (float(attribute(node, key)) for key in ("alpha", "beta"))
    product, added = [node.inputs[0], second], node.inputs[2] if has_input(node, 2) else None
    become(node, "MatMul", {}, product)
    if alpha != 1:
        _behind(graph, node, "Mul", _factor(node, alpha, namer), namer)
    if added is not None:
        last = node if alpha == 1 else node.outputs[0].outputs[0]
        _behind(graph, last, "Add", _scaled(graph, last, added, beta, namer), namer)
    return 1


def _add_behind(graph: gs.Graph, node: Node, namer: Namer) -> int:
    """A computed C, or one value a row, is no bias."""
    if not is_gemm(node) or not has_input(node, 2):
        return 0
    bias = input_constant(node, 2)
    if bias is not None and (bias.ndim < 2 or bias.shape[0] == 1):
        return 0
    added, beta = node.inputs[2], float(attribute(node, "beta"))
    node.inputs = list(node.inputs[:2])
    node.attrs = {key: value for key, value in node.attrs.items() if key != "beta"}
    _behind(graph, node, "Add", _scaled(graph, node, added, beta, namer), namer)
    return 1


def _scaled(graph: gs.Graph, node: Node, added: Tensor, beta: float, namer: Namer) -> Tensor:
    if beta == 1:
        return added
    scaled = gs.Variable(namer(f"{added.name}_scaled"), added.dtype, added.shape)
    factor = _factor(node, beta, namer)
    _insert(graph, node, gs.Node("Mul", namer(f"{node.name}_beta"), {}, [added, factor], [scaled]))
    return scaled


def _factor(node: Node, value: float, namer: Namer) -> Tensor:
    dtype = node.outputs[0].dtype or node.inputs[0].dtype or np.float32
    return gs.Constant(namer(f"{node.name}_factor"), np.asarray(value, dtype=np.dtype(dtype)))


def _behind(graph: gs.Graph, node: Node, op: str, other: Tensor, namer: Namer) -> None:
    """Let `op` take over the node's output, of the node's result and another tensor."""
    output = node.outputs[0]
    inner = gs.Variable(namer(f"{output.name}_{node.op.lower()}"), output.dtype, output.shape)
    node.outputs = [inner]
    position = next(index for index, each in enumerate(graph.nodes) if each is node)
    behind = gs.Node(op, namer(f"{node.name}_{op.lower()}"), {}, [inner, other], [output])
    graph.nodes.insert(position + 1, behind)


def _insert(graph: gs.Graph, before: Node, fresh: Node) -> None:
    position = next(index for index, each in enumerate(graph.nodes) if each is before)
    graph.nodes.insert(position, fresh)


def _fold_factors(graph: gs.Graph, node: Node, namer: Namer) -> int:
    if not is_gemm(node):
        return 0
    folded = 0
    for key, index in (("alpha", 1), ("beta", 2)):
        factor, values = float(attribute(node, key)), input_constant(node, index)
        if key == "beta" and not has_input(node, 2):
            values = np.zeros(0, dtype=np.float32)
        if factor == 1 or values is None or not _keeps_precision(values, factor):
            continue
        if values.size and len(node.inputs[index].outputs) > 1:
            continue  # another layer reads it as it is, and its name is what the plan calls it
        if values.size:
            revalue(node, index, (values * values.dtype.type(factor)).astype(values.dtype))
        node.attrs = {name: value for name, value in node.attrs.items() if name != key}
        folded += 1
    return folded


def _keeps_precision(values: Array, factor: float) -> bool:
    if values.dtype in (np.float32, np.float64):
        return bool(np.isfinite(values * np.float32(factor)).all())
    return values.dtype == np.float16 and abs(frexp(factor)[0]) == 0.5 and 0.25 <= abs(factor) <= 4
