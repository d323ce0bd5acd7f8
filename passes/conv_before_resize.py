"""conv-before-resize: a 1×1 convolution of an enlarged map becomes the enlarged result of convolving the small one.

    Conv(Resize(a))                =  Resize(Conv(a))
    Conv(Concat(Resize(a), b))     =  Resize(Conv_a(a)) + Conv_b(b)

The necks of nearly all YOLOs read an upsampled map beside one of the backbone's like this. On the small map the same
sums take a quarter of the multiplications (of YOLOv5n's in all 1.8 % go), and no Concat is copied together.

Declines: where anything else reads the large map or the Concat, so that they would have to be made all the same; where
a BatchNormalization follows the convolution, which could not be folded any more (run `fold-bn` before); kernels of more
than one element, strides, groups; crops, sizes that are not known, and a Resize along the channels. What a Resize makes
has to add up to what it reads: see `analysis.enlarged`. With a `runtime`, also where its latency table predicts that
the parts and their sum are slower than the one convolution: of few channels they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.enlarged import Enlarged, beside, enlarged_inputs
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    Tensor,
    consumers,
    detach,
    input_constant,
    is_empty,
    sweep,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.devices import DeviceName
from onnxslim_yolo.latency.moved import better_left
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.ops.norms import is_batch_norm


@dataclass(frozen=True)
class ConvBeforeResize:
    """Move 1×1 convolutions in front of the Resize that they read.

    Args:
        runtime: where latency counts; "any": move all, which takes the fewest multiplications.
        isa: the instruction set that it is judged for; "host" asks this machine.
        table: a file of latencies, made by `onnxslim-yolo profile`, instead of the one shipped.
        threads: how many the runtime will have there.
    """

    name: ClassVar[str] = "conv-before-resize"

    runtime: Literal["any", "ncnn", "onnxruntime"] = "any"
    isa: DeviceName = "host"
    table: Path | None = None
    threads: int = 1

    def run(self, model: Model) -> int:
        """Move; return how many convolutions were."""
        graph = model.graph
        parts_of = enlarged_inputs(graph)
        if parts_of and self.runtime != "any":
            left = better_left(graph, table_for(self.runtime, self.isa, self.table, self.threads))
            parts_of = {key: parts for key, parts in parts_of.items() if key not in left}
        found = [(node, parts_of[id(node)]) for node in graph.nodes if id(node) in parts_of]
        stay = {id(part.resize) for node, parts in found if _is_normalised(node) for part in parts}
        moved = [(node, going) for node, parts in found if (going := [p for p in parts if id(p.resize) not in stay])]
        mover = _Mover(graph)
        for node, parts in moved:
            mover.move(node, parts)
        if moved:
            sweep(graph)
            graph.nodes = toposort(graph)
        return len(moved)


def _is_normalised(node: Node) -> bool:
    return any(is_batch_norm(reader) for reader in consumers(node.outputs[0]))


class _Mover:
    """Rewrites the convolutions of one graph."""

    def __init__(self, graph: gs.Graph) -> None:
        self._graph = graph
        self._name = Namer(graph)
        self._rests: dict[tuple[int, ...], Tensor] = {}
        """What is left of a Concat, by its inputs' `id`s: its readers share it."""

    def move(self, node: Node, parts: Sequence[Enlarged]) -> None:
        """Split a convolution into one for each enlarged input, on the small map, and one for the rest."""
        weight, output = np.asarray(input_constant(node, 1)), node.outputs[0]
        rest = np.ones(weight.shape[1], dtype=bool)
        for part in parts:
            rest[part.start : part.stop] = False
        bias = list(node.inputs[2:])
        terms: list[Tensor] = []
        if rest.any():
            terms.append(self._convolve(node, self._rest_of(node, beside(node, parts)), weight[:, rest], bias, output))
            bias = []
        for part in parts:
            small = part.resize.inputs[0]
            made = self._convolve(node, small, weight[:, part.start : part.stop], bias, small)
            terms.append(self._enlarge(part.resize, made, output))
            bias = []
        self._add_up(node, terms, output)

    def _convolve(self, node: Node, source: Tensor, weight: Array, bias: Sequence[Tensor], like: Tensor) -> Tensor:
        """The convolution of some of its inputs; `like` has the result's size."""
        name = self._name(f"{node.name}_part")
        made = gs.Variable(f"{name}_output", node.outputs[0].dtype, [like.shape[0], len(weight), *like.shape[2:]])
        values = gs.Constant(self._name(f"{name}.weight"), np.ascontiguousarray(weight))
        self._graph.nodes.append(gs.Node("Conv", name, dict(node.attrs), [source, values, *bias], [made]))
        return made

    def _enlarge(self, resize: Node, small: Tensor, output: Tensor) -> Tensor:
        """What this Resize makes of another map."""
        name = self._name(f"{resize.name}_part")
        large = gs.Variable(f"{name}_output", output.dtype, [*output.shape])
        inputs = [small, *resize.inputs[1:]]
        if len(inputs) > 3 and not is_empty(inputs[3]) and "axes" not in resize.attrs:
            # Sizes are of all axes: the channels' is among them.
            sizes = np.array(input_constant(resize, 3))
            sizes[1] = output.shape[1]
            inputs[3] = gs.Constant(self._name(f"{name}.sizes"), sizes)
        self._graph.nodes.append(gs.Node(resize.op, name, dict(resize.attrs), inputs, [large]))
        return large

    def _rest_of(self, node: Node, left: Sequence[Tensor]) -> Tensor:
        """These inputs of the Concat that a convolution reads, as one tensor."""
        concat = node.inputs[0].inputs[0]
        if len(left) == 1:
            return left[0]
        key = tuple(id(tensor) for tensor in left)
        if key not in self._rests:
            name = self._name(f"{concat.name}_part")
            width = sum(int(tensor.shape[1]) for tensor in left)
            whole = concat.outputs[0]
            made = gs.Variable(f"{name}_output", whole.dtype, [whole.shape[0], width, *whole.shape[2:]])
            self._graph.nodes.append(gs.Node("Concat", name, dict(concat.attrs), list(left), [made]))
            self._rests[key] = made
        return self._rests[key]

    def _add_up(self, node: Node, terms: Sequence[Tensor], output: Tensor) -> None:
        """The sum of the terms becomes what the convolution made."""
        total = terms[0]
        for term in terms[1:]:
            made = gs.Variable(self._name(f"{node.name}_sum_output"), output.dtype, [*output.shape])
            self._graph.nodes.append(gs.Node("Add", self._name(f"{node.name}_sum"), {}, [total, term], [made]))
            total = made
        detach(node)
        total.inputs[0].outputs = [output]
