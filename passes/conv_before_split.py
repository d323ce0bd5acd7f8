"""conv-before-split: a convolution whose result is split becomes one convolution a part.

    Split(f(Conv(x)))  =  f(Conv₁(x)), f(Conv₂(x)), …       f element-wise: an activation, or nothing

The blocks of YOLOv8, 9, 10, 11 and 26 (C2f, C3k2, …) split what their first convolution makes. onnxruntime keeps
channels in blocks from one convolution to the next, but has no such Split: around it, and around all that reads a part
beside others, maps are put back in plain order and again in blocks. Each part has its own filters, so the sums are the
same ones.

Declines: where anything else reads what is split; groups; a constant in between that is not one number; a Split along
another axis, or whose parts are not known. With a `runtime`, also where a part does not fill its blocks, or where its
latency table predicts that little is gained (`latency.parts.MARGIN`): a narrow convolution takes longer a channel, and
in ncnn a Split costs next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.parted import Parted, parted_convolutions
from onnxslim_yolo.ir.graph import Array, Namer, Node, Tensor, detach, has_input, input_constant, sweep, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.devices import DeviceName
from onnxslim_yolo.latency.parts import worth_parting
from onnxslim_yolo.latency.shipped import table_for


@dataclass(frozen=True)
class ConvBeforeSplit:
    """Compute the parts of a Split by convolutions of their own.

    Args:
        runtime: where latency counts; "any": part all.
        isa: the instruction set that it is judged for; "host" asks this machine.
        table: a file of latencies, made by `onnxslim-yolo profile`, instead of the one shipped.
        threads: how many the runtime will have there.
    """

    name: ClassVar[str] = "conv-before-split"

    runtime: Literal["any", "ncnn", "onnxruntime"] = "any"
    isa: DeviceName = "host"
    table: Path | None = None
    threads: int = 1

    def run(self, model: Model) -> int:
        """Part; return how many convolutions were."""
        graph = model.graph
        places = parted_convolutions(graph)
        if places and self.runtime != "any":
            table = table_for(self.runtime, self.isa, self.table, self.threads)
            places = worth_parting(graph, places, table)
        for place in places:
            _part(graph, place)
        if places:
            sweep(graph)
            graph.nodes = toposort(graph)
        return len(places)


def _part(graph: gs.Graph, place: Parted) -> None:
    name, start = Namer(graph), 0
    whole, parts = place.split.inputs[0], list(place.split.outputs)
    detach(place.split)
    for part, width in zip(parts, place.widths, strict=True):
        # What a node makes of the whole → what its copy makes of this part.
        made = {id(place.convolution.outputs[0]): _filters(graph, name, place.convolution, start, width)}
        for node in place.between:
            made[id(node.outputs[0])] = _copy(graph, name, node, made, width)
        made[id(whole)].inputs[0].outputs = [part]  # its readers, and its name, stay
        start += width


def _filters(graph: gs.Graph, name: Namer, node: Node, start: int, width: int) -> Tensor:
    """What some of a convolution's filters make."""
    label = name(f"{node.name}_part")
    inputs = [node.inputs[0], _constant(name, f"{label}.weight", input_constant(node, 1), start, width)]
    if has_input(node, 2):
        inputs.append(_constant(name, f"{label}.bias", input_constant(node, 2), start, width))
    return _made(graph, gs.Node(node.op, label, dict(node.attrs), inputs), node, width)


def _constant(name: Namer, label: str, values: Array | None, start: int, width: int) -> gs.Constant:
    return gs.Constant(name(label), np.ascontiguousarray(np.asarray(values)[start : start + width]))


def _copy(graph: gs.Graph, name: Namer, node: Node, made: dict[int, Tensor], width: int) -> Tensor:
    inputs = [made.get(id(operand), operand) for operand in node.inputs]
    return _made(graph, gs.Node(node.op, name(f"{node.name}_part"), dict(node.attrs), inputs), node, width)


def _made(graph: gs.Graph, node: Node, like: Node, width: int) -> Tensor:
    whole = like.outputs[0]
    result = gs.Variable(f"{node.name}_output", whole.dtype, [whole.shape[0], width, *whole.shape[2:]])
    node.outputs = [result]
    graph.nodes.append(node)
    return result
