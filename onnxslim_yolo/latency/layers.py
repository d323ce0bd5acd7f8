"""A graph as the layers that a runtime spends time on.

What runtimes fold is folded here, too, so that a graph before and after fusion reads alike: BatchNormalization behind a
convolution costs nothing, x·sigmoid(x) is one layer, and a ReLU behind a convolution is part of it.

A `LayerKey` is a `Family` (all that is fixed while widths are chosen: kind, kernel, stride, spatial size) with widths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.analysis.movement import Shape
from onnxslim_yolo.ir.attributes import attribute, per_axis
from onnxslim_yolo.ir.graph import Array, Node, Tensor, consumers, input_constant, is_constant, is_empty, producer
from onnxslim_yolo.ops.arithmetic import ARITHMETIC
from onnxslim_yolo.ops.functions import FUNCTIONS
from onnxslim_yolo.ops.linear import CONVOLUTIONS, LinearLayer, is_transposed_conv, matrix_axes
from onnxslim_yolo.ops.spatial import POOLS, RESIZES

Pair = tuple[int, int]


@dataclass(frozen=True, order=True)
class Family:
    """What one layer is, apart from its widths.

    Attributes:
        kind: "conv", "group-conv", "depthwise", "deconv", "maxpool", "avgpool", "resize", "concat", "split", "binary",
            "gate" (a feature map times one number a channel), "unary", "matmul", "gather" (channels picked) or
            "move" (anything else that copies).
        op: what exactly: the activation, the arithmetic, the way of resizing; "" for convolutions; "maps" of a
            "matmul" that has no weight.
        kernel, stride: height, width. (1, 1) where there is none.
        groups: of a "group-conv"; of a "gather" the width at which it is a shuffle or takes every n-th; 1 otherwise.
        size: height and width of the output; of a "split", "concat" and so on the same as of the input; of a "matmul"
            its rows and 1. Images of a fixed batch lie below each other. Channels may lie along it: an activation of
            (1, H, W, C) has H channels of size (W, C).
    """

    kind: str
    op: str = ""
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    groups: int = 1
    size: Pair = (1, 1)

    @property
    def area(self) -> int:
        """Output positions."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True, order=True)
class LayerKey:
    """A layer: its family, and the channels of each input and output."""

    family: Family
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    activation: str = ""


@dataclass(frozen=True)
class Span:
    """Some axes of a tensor: as many positions as these have together. No axes: one position."""

    tensor: Tensor
    axes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Layer:
    """A layer of a graph, and what its numbers are of: a width is of one span, or of several in a row.

    Attributes:
        size: what the family's size is of, height and width; () where no channels lie along it.
    """

    key: LayerKey
    node: Node
    ins: tuple[tuple[Span, ...], ...]
    outs: tuple[tuple[Span, ...], ...]
    size: tuple[Span, ...] = ()


FREE = frozenset({"Identity", "Dropout", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Constant", "Shape"})
"""Operators that no runtime spends time on worth speaking of."""

FUSED = frozenset({"Relu", "LeakyRelu", "Clip", "Tanh"})
"""Activations that both runtimes compute while a convolution writes its result."""

UNARY = {op: row.kind for op, row in FUNCTIONS.items()} | {
    "Clip": "relu", "PRelu": "leaky", "BatchNormalization": "scale", "InstanceNormalization": "scale", "Pow": "exp",
}  # fmt: skip
BINARY = {op: row.kind for op, row in ARITHMETIC.items() if op not in ("Pow", "Mean")}


def layers_of(graph: gs.Graph) -> list[LayerKey]:
    """Every layer worth time, in the graph's order, equal ones as often as they occur.

    A layer whose shapes are not static is left out.
    """
    return [layer.key for layer in describe(graph)]


def describe(graph: gs.Graph, shapes: Mapping[int, Shape | None] | None = None) -> list[Layer]:
    """As `layers_of`, with the tensors. `shapes` by the tensors' `id`; worked out where not given."""
    reader = _Reader(concrete_shapes(graph) if shapes is None else shapes)
    found: list[Layer] = []
    for node in graph.nodes:
        if node.op in FREE or reader.folded(node):
            continue
        described = RULES.get(node.op, _move)(reader, node)
        if described is not None:
            found.append(described)
    return found


class _Reader:
    """Shapes of tensors, and what is part of the layer before it."""

    def __init__(self, shapes: Mapping[int, Shape | None]) -> None:
        self.shapes = shapes

    def shape(self, tensor: Tensor) -> Shape | None:
        return self.shapes.get(id(tensor))

    def layer(
        self,
        node: Node,
        family: Family,
        ins: list[Tensor],
        outs: list[Tensor],
        act: str = "",
        sized: Tensor | None = None,
    ) -> Layer | None:
        """A layer whose widths are of these tensors, and whose size is of `sized`, the first output if not given."""
        shapes = [self.shape(tensor) for tensor in (*ins, *outs)]
        if any(not shape for shape in shapes):
            return None
        spans = [[(Span(t, (min(1, len(self.shape(t) or ()) - 1),)),) for t in side] for side in (ins, outs)]
        widths = [tuple(self.length(span) for (span,) in side) for side in spans]
        key = LayerKey(family, widths[0], widths[1], act)
        return Layer(key, node, tuple(spans[0]), tuple(spans[1]), self.spread(outs[0] if sized is None else sized))

    def length(self, span: Span) -> int:
        """Of a span of a tensor whose shape is known."""
        shape = self.shape(span.tensor) or ()
        return prod(shape[axis] for axis in span.axes)

    def spread(self, tensor: Tensor) -> tuple[Span, ...]:
        """What `size` is of."""
        rank = len(self.shape(tensor) or ())
        return (Span(tensor, (0, 2)[: rank - 1]), Span(tensor, tuple(range(3, rank)))) if rank >= 2 else ()

    def size(self, tensor: Tensor) -> Pair:
        return size_of(self.shape(tensor) or ())

    def folded(self, node: Node) -> bool:
        """Whether the node is part of the layer before it."""
        if not node.inputs or not node.outputs:
            return True
        before = _alone_before(node)
        if node.op == "BatchNormalization":
            return before is not None and before.op in ("Conv", "ConvTranspose", "Gemm")
        if node.op in FUSED:
            while before is not None and before.op == "BatchNormalization":
                before = _alone_before(before)
            return before is not None and before.op in ("Conv", "Gemm")
        return node.op == "Sigmoid" and _gated_by(node) is not None


def size_of(shape: Shape) -> Pair:
    """Height and width of a feature map; images of a fixed batch lie below each other."""
    return (shape[0] * prod(shape[2:3]), prod(shape[3:])) if len(shape) >= 2 else (1, 1)


def _alone_before(node: Node) -> Node | None:
    """The node before, if nobody else reads it."""
    before = producer(node.inputs[0])
    return before if before is not None and len(node.inputs[0].outputs) == 1 else None


def _gated_by(sigmoid: Node) -> Node | None:
    """The Mul that makes x·sigmoid(x) of it, if that is all its output is for."""
    readers = consumers(sigmoid.outputs[0])
    if len(readers) != 1 or readers[0].op != "Mul":
        return None
    return readers[0] if any(tensor is sigmoid.inputs[0] for tensor in readers[0].inputs) else None


def _computed(node: Node) -> list[Tensor]:
    return [tensor for tensor in node.inputs if not is_constant(tensor) and not is_empty(tensor)]


def _outputs(node: Node) -> list[Tensor]:
    return [tensor for tensor in node.outputs if not is_empty(tensor)]


def _pair(values: object, default: int = 1) -> Pair:
    numbers = [int(v) for v in values] if isinstance(values, (list, tuple)) else []
    return (numbers[0], numbers[-1]) if numbers else (default, default)


def _convolution(reader: _Reader, node: Node) -> Layer | None:
    layer, before = LinearLayer.of(node), reader.shape(node.inputs[0])
    if layer is None or before is None or len(before) < 3:
        return _move(reader, node)
    kind = "deconv" if is_transposed_conv(node) else "conv"
    if layer.groups > 1:
        kind = "depthwise" if layer.groups == before[1] else "group-conv"
    family = Family(
        kind,
        kernel=_pair(list(layer.kernel)),
        stride=_pair(per_axis(node, "strides", 2)),
        groups=layer.groups if kind == "group-conv" else 1,
        size=reader.size(node.outputs[0]),
    )
    readers = consumers(node.outputs[0])
    if len(readers) == 1 and readers[0].op == "BatchNormalization":
        readers = consumers(readers[0].outputs[0])
    activation = readers[0].op.lower() if len(readers) == 1 and readers[0].op in FUSED else ""
    return reader.layer(node, family, [node.inputs[0]], [node.outputs[0]], activation)


def _pooling(reader: _Reader, node: Node) -> Layer | None:
    shape = reader.shape(node.inputs[0])
    if shape is None or len(shape) != 4:
        return _move(reader, node)
    whole = node.op.startswith("Global") or node.op == "ReduceMean"
    family = Family(
        "maxpool" if "Max" in node.op else "avgpool",
        kernel=(shape[2], shape[3]) if whole else _pair(node.attrs.get("kernel_shape")),
        stride=(1, 1) if whole else _pair(per_axis(node, "strides", 2)),
        size=reader.size(node.outputs[0]),
    )
    return reader.layer(node, family, [node.inputs[0]], [node.outputs[0]])


def _unary(reader: _Reader, node: Node) -> Layer | None:
    family = Family("unary", UNARY[node.op], size=reader.size(node.outputs[0]))
    return reader.layer(node, family, [node.inputs[0]], [node.outputs[0]])


def _binary(reader: _Reader, node: Node) -> Layer | None:
    ins, out = _computed(node), node.outputs[0]
    silu = node.op == "Mul" and any(
        (before := producer(tensor)) is not None and before.op == "Sigmoid" and _gated_by(before) is node
        for tensor in ins
    )
    sizes = [reader.size(tensor) for tensor in ins]
    if silu:
        return reader.layer(node, Family("unary", "silu", size=reader.size(out)), ins[:1], [out])
    if len(ins) < 2:
        return reader.layer(node, Family("unary", "scale", size=reader.size(out)), ins, [out])
    if sizes[0] != sizes[1]:
        wide = ins[int(np.argmax([h * w for h, w in sizes]))]
        return reader.layer(node, Family("gate", BINARY[node.op], size=reader.size(out)), [wide], [out])
    return reader.layer(node, Family("binary", BINARY[node.op], size=reader.size(out)), ins[:2], [out])


def _resize(reader: _Reader, node: Node) -> Layer | None:
    before, after = reader.size(node.inputs[0]), reader.size(node.outputs[0])
    factor = (max(1, after[0] // max(before[0], 1)), max(1, after[1] // max(before[1], 1)))
    mode = attribute(node, "mode")
    family = Family("resize", "nearest" if mode == "nearest" else "linear", kernel=factor, size=after)
    return reader.layer(node, family, [node.inputs[0]], [node.outputs[0]])


def _concat(reader: _Reader, node: Node) -> Layer | None:
    shape = reader.shape(node.outputs[0])
    if shape is None or len(shape) != 4 or int(attribute(node, "axis")) % 4 != 1:
        return _move(reader, node)
    return reader.layer(node, Family("concat", size=reader.size(node.outputs[0])), _computed(node), [node.outputs[0]])


def _split(reader: _Reader, node: Node) -> Layer | None:
    shape, after = reader.shape(node.inputs[0]), reader.shape(node.outputs[0])
    if shape is None or after is None or len(shape) != 4 or shape[2:] != after[2:]:
        return _move(reader, node)
    whole = node.inputs[0]
    return reader.layer(node, Family("split", size=reader.size(whole)), [whole], _outputs(node), sized=whole)


def _gather(reader: _Reader, node: Node) -> Layer | None:
    """Channels that are picked one by one; runs of them are a few slices."""
    before, picks = reader.shape(node.inputs[0]), input_constant(node, 1)
    if before is None or len(before) != 4 or picks is None or int(attribute(node, "axis")) % 4 != 1:
        return _move(reader, node)
    picks = picks.reshape(-1).astype(np.int64) % max(before[1], 1)
    steps = np.diff(picks)
    if np.count_nonzero(steps != 1) < FEW_RUNS:
        return _move(reader, node)
    even = len(set(steps.tolist())) == 1
    groups = before[1] if even or _is_shuffle(picks, before[1]) else 1
    family = Family("gather", groups=groups, size=reader.size(node.outputs[0]))
    return reader.layer(node, family, [node.inputs[0]], [node.outputs[0]])


def _is_shuffle(picks: Array, width: int) -> bool:
    """Whether they are all channels as the columns of a matrix of them."""
    step = int(picks[1] - picks[0])
    whole = len(picks) == width and step > 0 and width % step == 0
    return whole and np.array_equal(picks, np.arange(width).reshape(-1, step).T.reshape(-1))


def _product(reader: _Reader, node: Node) -> Layer | None:
    """A Gemm or MatMul: a weight, or a second computed matrix, applied to every row."""
    out = node.outputs[0]
    shapes = [reader.shape(tensor) for tensor in (*node.inputs[:2], out)]
    if any(not shape for shape in shapes):
        return None
    computed = [not is_constant(tensor) for tensor in node.inputs[:2]]
    side = computed.index(True) if any(computed) else 0
    summed = Span(node.inputs[side], (_summed_axis(node, side, len(shapes[side] or ())),))
    rank = len(shapes[2] or ())
    rows, columns = Span(out, tuple(range(rank - 1))), Span(out, (rank - 1,))
    family = Family("matmul", "maps" if all(computed) else "", size=(reader.length(rows), 1))
    key = LayerKey(family, (reader.length(summed),), (reader.length(columns),))
    return Layer(key, node, ((summed,),), ((columns,),), (rows, Span(out, ())))


def _summed_axis(node: Node, side: int, rank: int) -> int:
    return 0 if rank == 1 else rank + matrix_axes(node, side)[0]


def _move(reader: _Reader, node: Node) -> Layer | None:
    """An operator without a rule of its own: it reads and writes memory."""
    outs = _outputs(node)
    if not _computed(node) or any(reader.shape(tensor) is None for tensor in outs):
        return None
    spans = tuple(Span(tensor, tuple(range(len(reader.shape(tensor) or ())))) for tensor in outs)
    elements = (sum(reader.length(span) for span in spans),)
    return Layer(LayerKey(Family("move", MOVES.get(node.op, "copy")), elements, elements), node, (spans,), (spans,))


FEW_RUNS = 12
"""Runs of channels up to which a Gather is written as slices and a Concat (see `emit.ncnn.gather`)."""
MOVES = {"Reshape": "view", "Slice": "slice", "Transpose": "transpose", "Softmax": "softmax"}
"""What a "move" does, where it is more or less than a copy."""

RULES: dict[str, Callable[[_Reader, Node], Layer | None]] = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **{op: _pooling for op, row in POOLS.items() if row.steady}, "ReduceMean": _pooling,
    **dict.fromkeys(RESIZES, _resize),
    "Concat": _concat, "Split": _split, "Slice": _split,
    "MatMul": _product, "Gemm": _product, "Gather": _gather,
    **dict.fromkeys(UNARY, _unary), **dict.fromkeys(BINARY, _binary),
}  # fmt: skip
"""Operator → what layer it is. Anything else is a "move"."""
