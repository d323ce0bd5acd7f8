"""A layer that sums over channels, however ONNX spells it: y = α·W·x + β·b, with W as blocks.

`blocks` has the shape (groups, outputs a group, inputs a group, taps) in float64, for Conv, ConvTranspose, DeformConv,
Gemm and MatMul alike; `stored` is its inverse. What they spell in different ways (which axis of the weight makes
channels, which reads them; transB; groups; the transposed layout of ConvTranspose; where the bias is) is told here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from onnxslim_yolo.ir.attributes import attribute, per_axis
from onnxslim_yolo.ir.graph import Array, Node, has_input, input_constant
from onnxslim_yolo.ops.question import one_of
from onnxslim_yolo.ops.spatial import may_pad

CONVOLUTIONS = ("Conv", "ConvTranspose")
PLAIN = (*CONVOLUTIONS, "Gemm", "MatMul")
"""Those that read the same places whatever they are fed."""
LINEAR = (*PLAIN, "DeformConv")

is_conv = one_of("Conv")
is_transposed_conv = one_of("ConvTranspose")
is_gemm = one_of("Gemm")
is_matmul = one_of("MatMul")
multiplies_matrices = one_of("Gemm", "MatMul")
"""Of two matrices, either of which may be computed."""


def groups_of(node: Node) -> int:
    """Of how many parts that share nothing a linear layer consists."""
    return int(attribute(node, "group") or 1)


def factors_of(node: Node) -> tuple[float, float]:
    """α and β: what Gemm multiplies the product and the bias by; 1 elsewhere."""
    alpha, beta = (attribute(node, name) if node.op == "Gemm" else 1 for name in ("alpha", "beta"))
    return float(alpha), float(beta)


def take_in_factors(node: Node) -> None:
    """Let a node whose constants were multiplied by α and β not do it again."""
    for name in ("alpha", "beta"):
        node.attrs.pop(name, None)  # 1 where none is said


def bias_place(node: Node) -> int:
    """Which input the bias is, where the operator has one."""
    return 3 if node.op == "DeformConv" else 2


def output_axis(node: Node) -> int | None:
    """The axis of inputs and outputs along which channels lie, from the front; None where the rank is not known."""
    if node.op != "MatMul":
        return 1
    shape = node.outputs[0].shape
    return None if shape is None else len(shape) - 1


def tapped_axis(node: Node) -> int:
    """`output_axis`, or 1, where feature maps have their channels, if the rank is not known. A vector's is 0."""
    axis = output_axis(node)
    return 1 if axis is None else axis


def is_steady(node: Node) -> bool:
    """Whether a constant input gives a constant output everywhere.

    Padding is zeros; taps of a transposed convolution overlap differently at different positions; a deformable one may
    look beyond the edge.
    """
    return node.op not in ("ConvTranspose", "DeformConv") and not may_pad(node)


def is_turned(node: Node, side: int) -> bool:
    """Whether a Gemm transposes its left (0) or right (1) matrix; a MatMul does not."""
    return bool(attribute(node, "transB" if side else "transA"))


def matrix_axes(node: Node, side: int) -> tuple[int, int]:
    """Of the left (0) or right (1) matrix of a Gemm or MatMul, the axis that is summed over, and the other one; from
    the end."""
    return (-1, -2) if (side == 0) != is_turned(node, side) else (-2, -1)


def product_macs(node: Node, left: tuple[int, ...], made: int) -> int:
    """Multiply-accumulates of a Gemm or MatMul that makes so many elements, its left operand being of this shape."""
    summed, _ = matrix_axes(node, 0)
    return made * int(left[summed if len(left) > 1 else -1])


@dataclass(frozen=True)
class Layout:
    """Where a linear layer's weight has what, by its shape alone.

    Attributes:
        node: the node.
        shape: of its weight, as stored.
        groups: of how many parts it consists that share nothing.
    """

    node: Node
    shape: tuple[int, ...]
    groups: int

    @classmethod
    def of_shape(cls, node: Node, shape: tuple[int, ...]) -> Layout:
        """The layout of a node's weight of this shape."""
        return Layout(node, shape, groups_of(node))

    @property
    def outputs_first(self) -> bool:
        """Whether axis 0 of the stored weight makes channels (Conv, Gemm with transB), not axis 1."""
        return self.node.op in ("Conv", "DeformConv") or bool(attribute(self.node, "transB"))

    @property
    def making_axis(self) -> int:
        """The axis of the stored weight along which the channels that it makes lie (a group's: ConvTranspose)."""
        return 0 if self.outputs_first else 1

    @property
    def reading_axis(self) -> int:
        """The axis of the stored weight along which the channels that it reads lie (a group's: Conv)."""
        return 1 if self.outputs_first else 0

    @property
    def channel_axis(self) -> int:
        """The axis of inputs and outputs along which channels lie: the last one of matrices, else axis 1."""
        return -1 if self.node.op in ("Gemm", "MatMul") else 1

    @property
    def samples_in_place(self) -> bool:
        """Whether it reads the same places whatever it is fed."""
        return self.node.op in PLAIN

    @property
    def outputs(self) -> int:
        """How many channels it makes."""
        return int(self.shape[self.making_axis]) * (self.groups if self.node.op == "ConvTranspose" else 1)

    @property
    def inputs(self) -> int:
        """How many channels it reads."""
        return int(self.shape[self.reading_axis]) * (1 if self.node.op == "ConvTranspose" else self.groups)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Its window's positions per axis; none of matrices."""
        return tuple(int(taps) for taps in self.shape[2:]) if self.channel_axis == 1 else ()

    @property
    def taps(self) -> int:
        """How many positions a kernel has."""
        return prod(self.kernel)

    @property
    def overlap(self) -> int:
        """Among how many outputs the taps of one channel are shared out: the strides of a ConvTranspose, else 1."""
        return prod(per_axis(self.node, "strides", len(self.kernel))) if self.node.op == "ConvTranspose" else 1

    def macs(self, before: tuple[int, ...], after: tuple[int, ...]) -> int:
        """Multiply-accumulates: a weight is applied once a position of the output, or of ConvTranspose's input."""
        if self.node.op == "ConvTranspose":
            return prod(before) * self.outputs // self.groups * self.taps
        return prod(after) * self.inputs // self.groups * self.taps

    @property
    def is_depthwise(self) -> bool:
        """Whether every input channel is a group of its own."""
        return self.groups > 1 and self.groups == self.inputs


@dataclass(frozen=True)
class LinearLayer(Layout):
    """A node that multiplies by a constant weight.

    Attributes:
        weight: its weight as stored.
    """

    weight: Array

    @classmethod
    def of(cls, node: Node) -> LinearLayer | None:
        """The layer that a node is; None where it is none, or its weight is computed, or its input is transposed."""
        weight = input_constant(node, 1) if node.op in LINEAR else None
        if weight is None or weight.ndim < 2 or attribute(node, "transA"):
            return None
        if node.op in ("Gemm", "MatMul") and weight.ndim != 2:
            return None
        return cls.with_weight(node, weight)

    @classmethod
    def with_weight(cls, node: Node, weight: Array) -> LinearLayer:
        """The layer that a node would be with this weight."""
        return cls(node, weight.shape, groups_of(node), weight)

    @property
    def blocks(self) -> Array:
        """(groups, outputs/groups, inputs/groups, taps), float64."""
        return np.asarray(self.stored_blocks, np.float64)

    @property
    def stored_blocks(self) -> Array:
        """The same in the weight's own type, and a view of it where that can be: read-only."""
        w = self.weight
        if self.node.op == "ConvTranspose":  # (inputs, outputs/groups, *taps)
            return np.asarray(w.reshape(self.groups, w.shape[0] // self.groups, w.shape[1], -1).swapaxes(1, 2))
        w = w if self.outputs_first else w.T
        return w.reshape(self.groups, w.shape[0] // self.groups, w.shape[1], -1)

    def stored(self, blocks: Array) -> Array:
        """The inverse of `blocks`: a weight in the node's own layout, of the blocks' type."""
        if self.node.op == "ConvTranspose":
            return np.asarray(blocks.swapaxes(1, 2).reshape(self.weight.shape))
        flat = blocks.reshape(-1, *blocks.shape[2:])
        return np.asarray(flat.reshape(self.weight.shape) if self.outputs_first else flat[..., 0].T)

    def per_output(self, values: Array) -> Array:
        """One value a channel that it makes, to multiply `blocks` by."""
        return values.reshape(self.groups, -1, 1, 1)

    def per_input(self, values: Array) -> Array:
        """One value a channel that it reads, to multiply `blocks` by."""
        return values.reshape(self.groups, 1, -1, 1)

    @property
    def reads(self) -> Array:
        """Whether any weight reads the input, shape (inputs,)."""
        return np.asarray((self.stored_blocks != 0).any(axis=1).any(axis=-1).reshape(-1))

    @property
    def factors(self) -> tuple[float, float]:
        """α and β: what the product and the bias are multiplied by."""
        return factors_of(self.node)

    @property
    def has_computed_bias(self) -> bool:
        """Whether something is added that is no constant."""
        return has_input(self.node, bias_place(self.node)) and self.bias is None

    @property
    def bias(self) -> Array | None:
        """What is added, as stored; None where nothing constant is."""
        return None if self.node.op == "MatMul" else input_constant(self.node, bias_place(self.node))


def matrix_of(layer: LinearLayer) -> Array:
    """(outputs, inputs) with kernel positions summed and groups on the diagonal."""
    summed = layer.blocks.sum(axis=3)
    groups, rows, columns = summed.shape
    if groups == 1:
        return np.asarray(summed[0])
    full = np.zeros((groups * rows, groups * columns))
    for g, block in enumerate(summed):
        full[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = block
    return full
