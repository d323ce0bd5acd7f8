"""What a graph with an open height and width computes at a few sizes: the shapes of its tensors, its size arithmetic.

A tensor is *derived* if it follows from sizes and constants alone: an anchor grid, a Reshape's target, the extents of
a Resize. Canonicalisation at one size makes constants of those; what they are at other sizes is told by running the
graph as it was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.graph import Array, Namer, Node, Tensor, is_constant, is_empty, tensors, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.movement import tells_shape, tells_sizes
from onnxslim_yolo.ops.registry import handles_sequences
from onnxslim_yolo.runtime.onnx_run import Feeds, image_like_feeds, run_onnx

UNITS = (32, 64, 128)
"""Sizes are multiples of these; the strides of nearly every detector divide one of them."""

ODD = (7, 13)
"""What the last size is off a multiple, where the graph takes that."""

SMALL = 192 * 192
"""Pixels that any graph is tried on; more than this only up to the size it is compiled at."""

Size = tuple[int, int]


class NoOtherSizeError(OnnxSlimError):
    """A graph says that its size is open, and runs at none of those tried."""


@dataclass(frozen=True)
class Probes:
    """A graph at a few sizes.

    Attributes:
        sizes: (h, w) each. batches: images each.
        shapes: per tensor name, its shape at each. values: likewise what derived tensors hold.
    """

    sizes: list[Size]
    batches: list[int]
    shapes: dict[str, list[tuple[int, ...]]]
    values: dict[str, list[Array]]

    def varies(self, name: str, axis: int) -> bool:
        """Whether a tensor's extent depends on the size."""
        return len({shape[axis] for shape in self.shapes[name]}) > 1


@dataclass(frozen=True)
class Sides:
    """Which of height and width are open, and whether they go by one name."""

    height: bool
    width: bool
    tied: bool

    @classmethod
    def of(cls, graph: gs.Graph) -> Sides:
        """Of a graph as it was read."""
        names: list[set[str]] = [set(), set()]
        open_ = [False, False]
        for tensor in graph.inputs:
            for k in (0, 1) if len(tensor.shape or ()) == 4 else ():
                dim = tensor.shape[2 + k]
                if not _is_fixed(dim):
                    open_[k] = True
                    names[k] |= {str(dim)} if dim else set()
        return cls(open_[0], open_[1], bool(names[0] & names[1]))

    def __bool__(self) -> bool:
        return self.height or self.width

    def sizes(self, unit: int, at: Size, odd: Size) -> list[Size]:
        """Three sizes: two that differ in both ways where both sides are open, and one that is off a multiple."""
        if self.tied:
            return [(k * unit + off,) * 2 for k, off in ((2, 0), (3, 0), (5, odd[0]))]
        multiples = [(2, 3), (3, 2), (4, 5)]
        offs = [(0, 0), (0, 0), odd]
        return [
            (
                h * unit + off[0] if self.height else at[0],
                w * unit + off[1] if self.width else at[1],
            )
            for (h, w), off in zip(multiples, offs, strict=True)
        ]


def derived_names(graph: gs.Graph) -> set[str]:
    """Names of the tensors that follow from sizes and constants alone."""
    found: set[str] = set()
    for node in toposort(graph):
        sized = tells_sizes(node) or (
            any(tensor.name in found for tensor in node.inputs)
            and all(is_constant(t) or is_empty(t) or t.name in found for t in node.inputs)
        )
        if sized:
            found |= {tensor.name for tensor in node.outputs if not is_empty(tensor)}
    return found


def probe(source: Model, names: Iterable[str], at: Size) -> Probes:
    """Run a graph as it was read at three sizes.

    Args:
        names: of the tensors whose shapes are asked for, as far as the graph has them.
        at: the size that it is compiled at: of the sides that are fixed, and for how large sizes may be.

    Raises:
        NoOtherSizeError: it runs at none.
    """
    sides, derived = Sides.of(source.graph), derived_names(source.graph)
    outputs = {tensor.name for tensor in source.graph.outputs}
    read = {node.inputs[0].name for node in source.graph.nodes if tells_shape(node)}
    shaped = [n for n in _tensor_names(source.graph) if (n in set(names) or n in read or n in outputs)]
    asking, spelt = _asking(source, shaped, sorted(derived))
    last = "none was small enough"
    for unit, odd, batches in _trials(source, at):
        sizes = sides.sizes(unit, at, odd)
        if any(h * w > max(SMALL, at[0] * at[1]) for h, w in sizes):
            continue
        feeds = [feeds_at(source, size, batch)[0] for size, batch in zip(sizes, batches, strict=True)]
        try:
            runs = run_onnx(asking, feeds)
        except OnnxSlimError as error:
            last = error.message
            continue
        shapes = {name: [tuple(int(d) for d in run[said]) for run in runs] for name, said in spelt.items()}
        values = {name: [run[name] for run in runs] for name in derived if name in runs[0]}
        return Probes(sizes, batches, shapes, values)
    raise NoOtherSizeError(f"as it was read it runs at no other size that was tried ({last})")


def feeds_at(model: Model, size: Size, batch: int, count: int = 1) -> list[Feeds]:
    """Image-like inputs of this size, where the inputs leave it open."""
    shaped = Model(graph=gs.Graph(inputs=[_sized(tensor, size, batch) for tensor in model.graph.inputs]))
    shaped.metadata = model.metadata
    return image_like_feeds(shaped, count, seed=size[0] * 31 + size[1])


def _sized(tensor: Tensor, size: Size, batch: int) -> Tensor:
    shape = list(tensor.shape or [])
    if len(shape) == 4:
        full = (batch, 3, *size)
        shape = [dim if _is_fixed(dim) else full[axis] for axis, dim in enumerate(shape)]
    return gs.Variable(tensor.name, tensor.dtype, shape)


def _trials(source: Model, at: Size) -> Iterator[tuple[int, Size, list[int]]]:
    """Units, offsets, batches; those that tell most first."""
    free = any(t.shape and not _is_fixed(t.shape[0]) for t in source.graph.inputs)
    for batches in ([1, 2, 3], [1, 1, 1]) if free else ([1, 1, 1],):
        for odd in (ODD, (0, 0)):
            for unit in UNITS:
                yield unit, odd, batches


def _asking(source: Model, shaped: Sequence[str], values: Sequence[str]) -> tuple[Model, dict[str, str]]:
    """The graph with further outputs: values, and the shapes of tensors under the names that are returned."""
    asking = source.copy()
    graph, name = asking.graph, Namer(asking.graph)
    by_name = {tensor.name: tensor for tensor in tensors(graph) if not is_constant(tensor)}
    returned = {tensor.name for tensor in graph.outputs}
    graph.outputs += [by_name[n] for n in values if n in by_name and n not in returned]
    spelt: dict[str, str] = {}
    for wanted in shaped:
        said = gs.Variable(name(f"{wanted}__shape"), np.int64)
        graph.nodes.append(gs.Node("Shape", name(f"{wanted}__asked"), {}, [by_name[wanted]], [said]))
        graph.outputs.append(said)
        spelt[wanted] = said.name
    return asking, spelt


def _tensor_names(graph: gs.Graph) -> list[str]:
    """Of everything that is fed or computed and has a shape: sequences have none."""
    made = [tensor for node in graph.nodes if not _makes_sequences(node) for tensor in node.outputs]
    return [tensor.name for tensor in (*graph.inputs, *made) if not is_empty(tensor)]


def _makes_sequences(node: Node) -> bool:
    return handles_sequences(node)


def _is_fixed(dim: object) -> bool:
    return bool(isinstance(dim, (int, np.integer)) and dim > 0)
