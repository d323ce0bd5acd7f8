"""A quantised model as ONNX says it: QuantizeLinear and DequantizeLinear around what runtimes then compute on codes.

Every tensor with codes gets a pair; a layer's weight is int8 behind a DequantizeLinear per output channel, its bias
int32 behind one of the product of both steps. Before opset 13 DequantizeLinear has no axis: there onnxruntime's
own operators of the same name are used.

A convolution that stays float and has codes on both sides would be quantised by onnxruntime itself while it loads the
file, with one step for the whole weight (its `WeightBiasQuantization`). It does that behind a DequantizeLinear with one
step; so such layers read one with that step once per channel, which says the same, and so does a Softmax, of which it
has a kernel on codes that rounds in its own way, and what hands codes on to either. Not so products of two maps:
onnxruntime computes those of codes with one step only, and as exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    Tensor,
    consumers,
    is_graph_output,
    replace_constant,
    replace_input,
    set_input,
    tensors,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import LINEAR, is_matmul, take_in_factors
from onnxslim_yolo.quantisation.places import MOVES
from onnxslim_yolo.quantisation.plan import Quantisation, QuantisedLayer, Range

PER_AXIS = 13
MICROSOFT = "com.microsoft"
OWN_WAY = frozenset(("Softmax",))
"""Operators that onnxruntime has a kernel on codes of, which rounds otherwise than floats do: they stay float."""
CODES_OF = "__codes"
"""Ending of the name of the tensor that holds another one's codes."""


def as_int8(model: Model) -> Model:
    """What is written of a model: itself, or a copy in which what is quantised is."""
    return model if model.quantised is None else quantised_graph(model, model.quantised)


def quantised_graph(model: Model, plan: Quantisation) -> Model:
    """A copy of the model with what the plan says as QuantizeLinear and DequantizeLinear."""
    written = model.copy()
    written.quantised = None
    writer = _Writer(written.graph)
    layers = {node.name: node for node in written.graph.nodes}
    for name, layer in plan.layers.items():
        node = layers[name]
        step = plan.ranges[layer.reads].step
        weight_name = node.inputs[1].name
        set_input(node, 1, writer.constant(f"{weight_name}_quantized", layer.weight, layer.step, layer.axis))
        if layer.adds:
            bias = layer.bias_codes(step), layer.bias_step(step)
            set_input(node, 2, writer.constant(f"{name}_bias_quantized", *bias))
        take_in_factors(node)
    for tensor in [t for t in tensors(written.graph) if t.name in plan.ranges]:
        writer.pair(tensor, plan.ranges[tensor.name], plan.layers)
    written.graph.nodes = toposort(written.graph)
    return written


class _Writer:
    """Adds the nodes."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.name = Namer(graph)
        self.domain = None if graph.opset >= PER_AXIS else MICROSOFT
        if self.domain is not None:
            known = {each.domain for each in graph.import_domains or ()}
            if MICROSOFT not in known:
                import onnx

                graph.import_domains = [*(graph.import_domains or ()), onnx.helper.make_opsetid(MICROSOFT, 1)]

    def constant(self, name: str, codes: Array, step: Array, axis: int = 0) -> Tensor:
        """Whole numbers per output channel, and what they stand for."""
        result = gs.Variable(self.name(f"{name}_dequantized"), np.float32, codes.shape)
        zero = np.zeros(step.shape, codes.dtype)
        read = [codes, step, zero]
        inputs = [
            gs.Constant(self.name(name + end), v) for end, v in zip(("", "_scale", "_zero_point"), read, strict=True)
        ]
        self._node("DequantizeLinear", inputs, result, {"axis": axis})
        return result

    def pair(self, tensor: Tensor, its: Range, layers: Collection[str]) -> None:
        """A tensor's codes, which everything that read the tensor reads. layers: names of those that are int8."""
        codes = gs.Variable(self.name(tensor.name + CODES_OF), np.uint8, tensor.shape)
        again = gs.Variable(self.name(f"{tensor.name}_dequantized"), np.float32, tensor.shape)
        readers = [node for node in consumers(tensor) if node.name not in layers]
        floats = [node for node in readers if self._is_taken_over(node, layers)]
        channels = (tensor.shape or (None, None))[1:2]
        if floats and channels and isinstance(channels[0], int):
            self._by_channel(tensor, floats, codes, its, channels[0])
        for node in consumers(tensor):
            replace_input(node, tensor, again)
        if is_graph_output(self.graph, tensor):
            again.name, tensor.name = tensor.name, again.name
            self.graph.outputs = [again if each is tensor else each for each in self.graph.outputs]
        parameters = [
            gs.Constant(self.name(f"{tensor.name}_{end}"), value)
            for end, value in (
                ("scale", np.asarray(its.step, np.float32)),
                ("zero_point", np.asarray(its.zero, np.uint8)),
            )
        ]
        self._node("QuantizeLinear", [tensor, *parameters], codes, {})
        self._node("DequantizeLinear", [codes, *parameters], again, {})

    def _is_taken_over(self, node: Node, layers: Collection[str]) -> bool:
        """Whether onnxruntime would compute it, or what reads it where it only moves codes, on codes in its own way."""
        if node.name in layers:
            return False
        if node.op in MOVES:
            return any(self._is_taken_over(each, layers) for each in consumers(node.outputs[0]))
        return node.op in OWN_WAY or (node.op in LINEAR and not is_matmul(node))

    def _by_channel(self, tensor: Tensor, readers: Sequence[Node], codes: Tensor, its: Range, channels: int) -> None:
        """The codes as floats for readers that are to stay float."""
        again = gs.Variable(self.name(f"{tensor.name}_dequantized_by_channel"), np.float32, tensor.shape)
        steps: dict[str, Array] = {
            "scales": np.full(channels, its.step, np.float32),
            "zero_points": np.full(channels, its.zero, np.uint8),
        }
        parameters = [gs.Constant(self.name(f"{tensor.name}_{end}"), value) for end, value in steps.items()]
        self._node("DequantizeLinear", [codes, *parameters], again, {"axis": 1})
        for node in readers:
            replace_input(node, tensor, again)

    def _node(self, op: str, inputs: Sequence[Tensor], output: Tensor, attrs: dict[str, object]) -> None:
        name = self.name(f"{output.name}_{op}")
        self.graph.nodes.append(gs.Node(op, name, attrs, list(inputs), [output], self.domain))


def with_rounded_weights(model: Model, plan: Quantisation) -> Model:
    """A float copy whose weights and biases are those that the plan's whole numbers stand for."""
    rounded = model.copy()
    rounded.quantised = None
    for node in rounded.graph.nodes:
        layer = plan.layers.get(node.name)
        if layer is not None:
            replace_constant(node, 1, weight_of(layer), f"{node.name}__rounded")
            step = plan.ranges[layer.reads].step
            bias = layer.bias_codes(step) * layer.bias_step(step).astype(np.float64)
            if layer.adds:
                replace_constant(node, 2, bias.astype(np.float32), f"{node.name}__rounded_bias")
            take_in_factors(node)
    return rounded


def weight_of(layer: QuantisedLayer) -> Array:
    """What a layer's whole numbers stand for, float32."""
    step = np.expand_dims(layer.step, [axis for axis in range(layer.weight.ndim) if axis != layer.axis])
    return np.asarray(layer.weight.astype(np.float32) * step)
