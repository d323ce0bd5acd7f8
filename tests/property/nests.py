"""Random nests of operators that make, move, tie and read channels.

Every feature map is (1, C, 4, 4). A nest draws operators over a growing pool of maps, and ends with a convolution per
map that nothing has read, whose outputs are the graph's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

SIDE = 4
Draw = Callable[[st.SearchStrategy[int]], int]


@dataclass
class Nest:
    """A graph while it grows: `maps` are (name, channels)."""

    draw: Draw
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    maps: list[tuple[str, int]] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        names = [f"t{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"{kind}_{len(self.nodes)}", **attributes))
        self.read |= set(inputs)
        return names

    def constant(self, values: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.asarray(values, dtype=np.int64))

    def weight(self, *shape: int) -> str:
        scale = np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 1.0
        return self.constant((self.rng.standard_normal(shape) / scale).astype(np.float32))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def any_map(self) -> tuple[str, int]:
        return self.maps[self.number(max(0, len(self.maps) - 4), len(self.maps) - 1)]

    def like(self, channels: int) -> str:
        """A map of so many channels: one there is, or a new convolution's."""
        alike = [name for name, c in self.maps if c == channels]
        if alike and self.number(0, 2):
            return alike[self.number(0, len(alike) - 1)]
        return self.conv(*self.any_map(), channels)

    def conv(self, name: str, before: int, after: int) -> str:
        return self.op("Conv", name, self.weight(after, before, 1, 1), self.weight(after))[0]


def conv(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    after = n.number(2, 8)
    kernel = n.weight(after, c, 3, 3)
    return [(n.op("Conv", name, kernel, pads=[1, 1, 1, 1])[0], after)]


def grouped(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    groups = 2 if c % 2 == 0 else c
    after = groups * n.number(1, 3)
    return [(n.op("Conv", name, n.weight(after, c // groups, 1, 1), n.weight(after), group=groups)[0], after)]


def depthwise(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    return [(n.op("Conv", name, n.weight(c, 1, 3, 3), n.weight(c), group=c, pads=[1, 1, 1, 1])[0], c)]


def transposed(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    after = n.number(2, 5)
    grown = n.op("ConvTranspose", name, n.weight(c, after, 2, 2), strides=[2, 2])[0]
    return [(n.op("MaxPool", grown, kernel_shape=[2, 2], strides=[2, 2])[0], after)]


def activation(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    kind = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish")[n.number(0, 4)]
    return [(n.op(kind, name)[0], c)]


def norm(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    var = n.constant(n.rng.uniform(0.5, 1.5, c).astype(np.float32))
    return [(n.op("BatchNormalization", name, n.weight(c), n.weight(c), n.weight(c), var)[0], c)]


def scaled(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    shape = ((1, c, 1, 1), (c, 1, 1), (1,))[n.number(0, 2)]
    table = n.constant(n.rng.standard_normal(shape).astype(np.float32))
    return [(n.op(("Mul", "Add", "PRelu")[n.number(0, 2)], name, table)[0], c)]


def concat(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    parts = [(name, c)] + [n.any_map() for _ in range(n.number(1, 2))]
    return [(n.op("Concat", *(part for part, _ in parts), axis=1)[0], sum(k for _, k in parts))]


def twice(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    return [(n.op("Concat", name, name, axis=1)[0], 2 * c)]


def split(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    if c < 2:
        return []
    at = n.number(1, c - 1)
    parts = n.op("Split", name, n.ints(at, c - at), outputs=2, axis=1)
    return list(zip(parts, (at, c - at), strict=True))


def sliced(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    start = n.number(0, c - 1)
    stop = n.number(start + 1, c)
    end = stop if stop < c or n.number(0, 1) else 1 << 40
    begin = start - c if n.number(0, 1) else start
    return [(n.op("Slice", name, n.ints(begin), n.ints(end), n.ints(1))[0], stop - start)]


def strided(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    step = (2, -1)[n.number(0, 1)]
    bounds = (n.ints(0), n.ints(c)) if step > 0 else (n.ints(-1), n.ints(-(1 << 40)))
    return [(n.op("Slice", name, *bounds, n.ints(1), n.ints(step))[0], len(range(0, c, step)) if step > 0 else c)]


def gathered(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    order = [n.number(-c, c - 1) for _ in range(n.number(1, 6))]
    return [(n.op("Gather", name, n.ints(*order), axis=1)[0], len(order))]


def combined(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    return [(n.op(("Add", "Mul", "Sub", "Max")[n.number(0, 3)], name, n.like(c))[0], c)]


def shuffled(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    if c % 2:
        return []
    parts = n.op("Reshape", name, n.ints(1, 2, c // 2, SIDE, SIDE))[0]
    turned = n.op("Transpose", parts, perm=[0, 2, 1, 3, 4])[0]
    return [(n.op("Reshape", turned, n.ints(1, c, SIDE, SIDE))[0], c)]


def halves(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    """Channels become an axis of two rows and come back: whole columns go."""
    if c % 2:
        return []
    parts = n.op("Reshape", name, n.ints(1, 2, c // 2, SIDE * SIDE))[0]
    return [(n.op("Reshape", n.op("Sigmoid", parts)[0], n.ints(1, c, SIDE, SIDE))[0], c)]


def tokens(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    after = n.number(2, 6)
    flat = n.op("Transpose", n.op("Reshape", name, n.ints(1, c, -1))[0], perm=[0, 2, 1])[0]
    mixed = n.op("Add", n.op("MatMul", flat, n.weight(c, after))[0], n.weight(after))[0]
    back = n.op("Transpose", mixed, perm=[0, 2, 1])[0]
    return [(n.op("Reshape", back, n.ints(1, after, SIDE, SIDE))[0], after)]


def attention(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    q, k = (n.op("Reshape", n.conv(name, c, 4), n.ints(1, 4, -1))[0] for _ in range(2))
    v = n.op("Reshape", name, n.ints(1, c, -1))[0]
    scores = n.op("Softmax", n.op("MatMul", n.op("Transpose", q, perm=[0, 2, 1])[0], k)[0], axis=-1)[0]
    return [(n.op("Reshape", n.op("MatMul", v, scores)[0], n.ints(1, c, SIDE, SIDE))[0], c)]


def gate(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    squeezed = n.op("Relu", n.conv(n.op("GlobalAveragePool", name)[0], c, 3))[0]
    excited = n.op("Sigmoid", n.op("Conv", squeezed, n.weight(c, 3, 1, 1))[0])[0]
    return [(n.op("Mul", name, excited)[0], c)]


def spatial_gate(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    return [(n.op("Mul", name, n.op("ReduceMean", name, axes=[1])[0])[0], c)]


def pooled(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    kind = ("MaxPool", "AveragePool")[n.number(0, 1)]
    return [(n.op(kind, name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])[0], c)]


def resized(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    none = n.constant(np.zeros(0, np.float32))
    if n.number(0, 1):
        grown = n.op("Resize", name, none, n.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")[0]
    else:
        grown = n.op("Resize", name, none, none, n.ints(1, c, 2 * SIDE, 2 * SIDE), mode="linear")[0]
    return [(n.op("AveragePool", grown, kernel_shape=[2, 2], strides=[2, 2])[0], c)]


def padded(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    before, after = n.number(0, 2), n.number(0, 2)
    return [(n.op("Pad", name, n.ints(0, before, 0, 0, 0, after, 0, 0))[0], c + before + after)]


def turned(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    return [(n.op("Transpose", name, perm=[0, 1, 3, 2])[0], c)]


def frozen(n: Nest, name: str, c: int) -> list[tuple[str, int]]:
    return [(n.op("Softmax", name, axis=1)[0], c)]


STEPS = (
    *(
        conv,
        conv,
        grouped,
        depthwise,
        transposed,
        activation,
        norm,
        scaled,
        concat,
        concat,
        twice,
        split,
        split,
        sliced,
    ),
    *(strided, gathered, combined, combined, shuffled, halves, tokens, attention, gate, spatial_gate, pooled, resized),
    *(padded, turned, frozen),
)


@st.composite
def nests(draw: Callable[[st.SearchStrategy[object]], object], most: int = 10) -> onnx.ModelProto:
    """A random graph of feature maps, with one input `x` of shape (1, 3, 4, 4)."""
    n = Nest(draw, np.random.default_rng(draw(st.integers(0, 99))))  # type: ignore[arg-type]
    n.maps.append((n.conv("x", 3, n.number(3, 8)), 0))
    n.maps[0] = (n.maps[0][0], numpy_helper.to_array(n.weights[0]).shape[0])
    for _ in range(n.number(2, most)):
        step = STEPS[n.number(0, len(STEPS) - 1)]
        n.maps += [(name, c) for name, c in step(n, *n.any_map()) if c <= 40]
    ends = [(name, c) for name, c in n.maps if name not in n.read]
    outputs = [n.conv(name, c, 2) for name, c in ends]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        n.nodes,
        "nest",
        [value("x", 1, [1, 3, SIDE, SIDE])],
        [value(name, 1, [1, 2, SIDE, SIDE]) for name in outputs],
        n.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
