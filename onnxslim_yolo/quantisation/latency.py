"""What int8 gains by a latency table, and which layers it gains on.

ncnn's int8 convolutions read and write floats, but for those that only int8 ones read: these hand on codes. In
onnxruntime codes are handed on everywhere, so that a layer that becomes float again also needs its neighbours' codes
made and read. Its int8 convolutions write channels last, and what follows on codes keeps them so; where an operator
wants them first, or a convolution gets them first, they are moved, and a pool of codes that are not behind such a
convolution is slow. So the network is judged as a whole, layer after layer: a change stays as long as the sum falls.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import (
    Node,
    Tensor,
    consumers,
    is_constant,
    is_empty,
    is_graph_output,
    producer,
    sole_consumer,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.int8 import HANDED_ON, THROUGH_NCNN, TURN, end_of_chain, gives_codes, int8_us
from onnxslim_yolo.latency.layers import Family, Layer, LayerKey, describe, size_of
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.ops.linear import is_conv
from onnxslim_yolo.quantisation.places import CODES_POOLED, COMPUTES, MOVES, SATURATES, places_of
from onnxslim_yolo.quantisation.plan import Quantisation

WORTH = 0.95
"""A layer is int8 where it takes less of the float layer's time than this: tables are noisy."""

LEAST = {"ncnn": 0.99, "onnxruntime": 0.9}
"""The whole network stays float unless int8 takes less of its time than this: in ncnn layers add up to it within some
per cent, in onnxruntime what is done between them is estimated."""

ROUNDS = 2
SLOWER = "it is not faster in int8, by the latency table"
UNKNOWN = "the latency table has no int8 time of it"
NOTHING = "int8 gains nothing in all, by the latency table"

FUSED_IN_NCNN = frozenset(("Relu", "LeakyRelu", "Clip", "HardSwish", "Sigmoid", "Mish"))
"""Activations that ncnn's convolutions compute themselves (`emit.ncnn.tidy`)."""

CHANNELS_FIRST = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Gather"))
"""Operators on codes for which onnxruntime moves channels back to the front."""

SLOW_POOL = 40.0
"""A pool of codes with channels first takes so many times what the float one takes (measured: 15 to 200)."""

Wanted = Callable[[Node], str | None]


@dataclass(frozen=True)
class Prediction:
    """µs of a network: as floats, and with the layers that were chosen in int8."""

    float_us: float
    int8_us: float

    @property
    def left(self) -> float:
        """The share of latency that is left."""
        return self.int8_us / self.float_us if self.float_us > 0 else 1.0


def plan_prediction(graph: gs.Graph, table: LatencyTable, plan: Quantisation) -> Prediction:
    """What is predicted of a plan."""
    judge = _Judge(graph, table)
    return Prediction(judge.us((), ()), judge.us(plan.layers, plan.ranges))


def faster_layers(model: Model, table: LatencyTable, wanted: Wanted) -> tuple[Wanted, Prediction]:
    """What is to be int8 for speed: `wanted`, and no layer on which int8 gains nothing; what is predicted of it.

    Args:
        wanted: why a convolution is to stay float whatever its speed; None where it may be int8.
    """
    judge = _Judge(model.graph, table)

    places = places_of(model.graph, wanted)
    measured = {node.name for node in places.layers if judge.gain(node) is not None}

    def only(names: Collection[str]) -> Wanted:
        def left(node: Node) -> str | None:
            return None if node.name in names else SLOWER if node.name in measured else UNKNOWN

        return lambda node: wanted(node) or left(node)

    def us(names: Collection[str]) -> float:
        places = places_of(model.graph, only(names))
        return judge.us([node.name for node in places.layers], places.shares)

    alone = {node.name for node in places.layers if (judge.gain(node) or 0.0) > 0}
    float_us = judge.us((), ())
    chosen = min((alone, measured), key=us)
    if table.runtime == "onnxruntime" or any(map(gives_codes, table.families)):
        chosen = _descended(chosen, [node.name for node in places.layers if node.name in measured], us)
    best = us(chosen)
    if best > LEAST[table.runtime] * float_us:
        return (lambda node: wanted(node) or NOTHING), Prediction(float_us, float_us)
    return only(chosen), Prediction(float_us, best)


def _descended(chosen: set[str], names: list[str], us: Callable[[Collection[str]], float]) -> set[str]:
    """The choice with layers put in and taken out one by one, as long as that is faster."""
    best = us(chosen)
    for _ in range(ROUNDS):
        before = best
        for name in names:
            tried = chosen ^ {name}
            now = us(tried)
            if now < best:
                chosen, best = tried, now
        if best == before:
            break
    return chosen


class _Judge:
    """A graph's layers, each with its times."""

    def __init__(self, graph: gs.Graph, table: LatencyTable) -> None:
        self._graph, self._table = graph, table
        self._layers = describe(graph)
        self._float = [table.predict(layer.key) for layer in self._layers]
        self._int8 = [int8_us(table, layer.key) for layer in self._layers]
        self._codes = [int8_us(table, layer.key, codes=True) for layer in self._layers]
        self._on_codes = table.runtime == "onnxruntime"
        self._readers = {} if self._on_codes else {layer.node.name: self._read_by(layer) for layer in self._layers}
        self._tensors = [tensor for node in graph.nodes for tensor in node.outputs] + list(graph.inputs)

    def gain(self, node: Node) -> float | None:
        """µs that a layer gains by itself, less what is noise; None where its int8 form was not measured."""
        for layer, plain, whole in zip(self._layers, self._float, self._int8, strict=True):
            if layer.node is node:
                return None if whole is None else WORTH * plain - whole - self._activation(layer)
        return None

    def us(self, layers: Collection[str], coded: Collection[str]) -> float:
        """µs of the graph with these layers in int8, and codes in these tensors, both by name."""
        layers, total = set(layers), 0.0
        last = self._channels_last(layers, coded) if self._on_codes else set()
        for layer, plain, floats, handed in zip(self._layers, self._float, self._int8, self._codes, strict=True):
            readers = self._readers.get(layer.node.name)
            whole = handed if readers and readers <= layers else floats
            codes = layer.node.name in layers or (self._on_codes and _reads_and_writes(layer.node, coded))
            if self._on_codes and self._pools_slowly(layer, coded, last):
                total += SLOW_POOL * plain
            elif not codes or whole is None:
                total += plain
            else:
                total += whole + (self._activation(layer) if layer.node.name in layers else 0.0)
        return total + (self._ends(layers, coded, last) if self._on_codes and layers else 0.0)

    def _read_by(self, layer: Layer) -> set[str]:
        """The convolutions that read what one makes, with its activation, in ncnn; none where something else does."""
        made, (height, width) = layer.node.outputs[0], layer.key.family.size
        if layer.key.family.kind not in THROUGH_NCNN or height * width * layer.key.outs[0] < HANDED_ON:
            return set()
        reader = sole_consumer(self._graph, made)
        if reader is not None and reader.op in FUSED_IN_NCNN:
            made = reader.outputs[0]
        readers = consumers(made)
        other = is_graph_output(self._graph, made) or not all(is_conv(node) for node in readers)
        return set() if other else {node.name for node in readers}

    def _activation(self, layer: Layer) -> float:
        """onnxruntime computes a LeakyRelu as part of a float convolution, and apart from one in int8."""
        if not self._on_codes or layer.key.activation != "leakyrelu":
            return 0.0
        family = Family("unary", "leaky", size=layer.key.family.size)
        return int8_us(self._table, LayerKey(family, layer.key.outs, layer.key.outs)) or 0.0

    def _channels_last(self, layers: Collection[str], coded: Collection[str]) -> set[str]:
        """Tensors whose codes onnxruntime has with their channels last: behind int8 convolutions."""
        found: set[str] = set()
        for node in self._graph.nodes:
            before = producer(node.inputs[0]) if node.op in SATURATES else None
            written = before is not None and is_conv(before) and before.name in layers
            kept = (
                node.op not in CHANNELS_FIRST
                and _reads_and_writes(node, coded)
                and any(tensor.name in found for tensor in node.inputs)
            )
            if written or kept or (is_conv(node) and node.name in layers):
                found.update(tensor.name for tensor in node.outputs)
        return found

    def _ends(self, layers: Collection[str], coded: Collection[str], last: Collection[str]) -> float:
        """µs of making codes of floats, and floats of codes, and of moving their channels."""
        total = 0.0
        for tensor in self._tensors:
            if tensor.name not in coded:
                continue
            made = producer(tensor)
            if made is None or not _computed_on_codes(made, layers, coded):
                total += self._end("quantize", tensor) * (1 + _blocked(made))
            readers = consumers(tensor)
            float_readers = [node for node in readers if not _computed_on_codes(node, layers, coded)]
            leaves = bool(float_readers) or is_graph_output(self._graph, tensor)
            if leaves:
                total += self._end("dequantize", tensor) * (1 + any(map(is_conv, float_readers)))
            first = any(node.op in CHANNELS_FIRST and _reads_and_writes(node, coded) for node in readers)
            convolved = any(is_conv(node) and node.name in layers for node in readers)
            if (first or leaves) if tensor.name in last else convolved:
                total += self._end(TURN, tensor)
        return total

    def _pools_slowly(self, layer: Layer, coded: Collection[str], last: Collection[str]) -> bool:
        """Whether codes are pooled with channels first: where codes are made of a maximum, they are made before."""
        read, made = layer.node.inputs[0].name, layer.node.outputs[0].name
        of_codes = {"maxpool": self._graph.opset >= CODES_POOLED, "avgpool": read in coded}
        return read not in last and made in coded and of_codes.get(layer.key.family.kind, False)

    def _end(self, which: str, tensor: Tensor) -> float:
        shape = [int(side) if isinstance(side, int) else 1 for side in tensor.shape or ()]
        if len(shape) < 3:
            return 0.0
        return int8_us(self._table, end_of_chain(which, size_of(tuple(shape)), shape[1])) or 0.0


def _blocked(made: Node | None) -> bool:
    """Whether a float is made by a convolution, whose blocks of channels have to be put in order first."""
    if made is not None and made.op in SATURATES:
        made = producer(made.inputs[0])
    return made is not None and is_conv(made)


def _computed_on_codes(node: Node, layers: Collection[str], coded: Collection[str]) -> bool:
    if node.name in layers or _reads_and_writes(node, coded):
        return True
    before = producer(node.inputs[0]) if node.op in SATURATES else None
    return before is not None and before.name in layers


def _reads_and_writes(node: Node, coded: Collection[str]) -> bool:
    """Whether an operator between convolutions reads codes and writes them."""
    if node.op not in MOVES and node.op not in COMPUTES:
        return False
    read = [tensor for tensor in node.inputs if not is_constant(tensor) and not is_empty(tensor)]
    return all(tensor.name in coded for tensor in (*read, *node.outputs))
