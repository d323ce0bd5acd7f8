"""ONNX graph in, ncnn `.param` and `.bin` out: the driver.

prepare (batch 1, shapes, constants) → fuse patterns → lower each node by the tables → cut what ncnn lacks → tidy →
Split layers → text and bytes. The caller's model is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.emit.ncnn.cut import cut as cut_tail
from onnxslim_yolo.emit.ncnn.cut import learned_node, tail_of
from onnxslim_yolo.emit.ncnn.defects import note_of, work_around
from onnxslim_yolo.emit.ncnn.format import FP16_MAX, SHAPE_HINT, Layer, Weights, bin_bytes, fits_fp16, param_text
from onnxslim_yolo.emit.ncnn.int8 import Int8Layer, hand_on_codes, quantise_layers
from onnxslim_yolo.emit.ncnn.layout import Dims, Shape, canonical_dims
from onnxslim_yolo.emit.ncnn.lower import Lower, Lowering, unsupported
from onnxslim_yolo.emit.ncnn.ops_elementwise import ELEMENTWISE_OPS
from onnxslim_yolo.emit.ncnn.ops_functions import FUNCTION_OPS
from onnxslim_yolo.emit.ncnn.ops_math import MATH_OPS
from onnxslim_yolo.emit.ncnn.ops_nn import NN_OPS
from onnxslim_yolo.emit.ncnn.ops_norm import NORM_OPS
from onnxslim_yolo.emit.ncnn.ops_sampling import SAMPLING_OPS
from onnxslim_yolo.emit.ncnn.ops_shape import SHAPE_OPS
from onnxslim_yolo.emit.ncnn.patterns import fuse_patterns
from onnxslim_yolo.emit.ncnn.prepare import prepare, shape_of
from onnxslim_yolo.emit.ncnn.tidy import insert_splits, rename_blobs, tidy
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Node, is_constant, is_empty, is_graph_output, static_shape
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.movement import SAME
from onnxslim_yolo.ops.registry import SELECTS
from onnxslim_yolo.quantisation.plan import Quantisation, reasons

OPS: Mapping[str, Lower] = {
    **NN_OPS,
    **NORM_OPS,
    **SAMPLING_OPS,
    **FUNCTION_OPS,
    **ELEMENTWISE_OPS,
    **MATH_OPS,
    **SHAPE_OPS,
}
"""ONNX operator → the function that emits its layers. To support an operator is to add a row."""

ARITHMETIC = (FUNCTION_OPS.keys() | ELEMENTWISE_OPS.keys() | MATH_OPS.keys()) - frozenset((*SAME, *SELECTS))
"""Operators that on whole numbers wrap around or cut off, which floats do not."""


@dataclass(frozen=True)
class Port:
    """One input or output of the network.

    Attributes:
        onnx: the ONNX tensor's name.
        shape: its ONNX shape at batch 1.
        dims: the ncnn blob's extents, outermost first (the shape without the batch axis).
    """

    onnx: str
    shape: Shape
    dims: Shape


@dataclass(frozen=True)
class NcnnModel:
    """A converted network, in memory.

    Attributes:
        param: the text of the `.param` file.
        bin: the bytes of the `.bin` file.
        inputs: `in0`, `in1`, … → port.
        outputs: `out0`, `out1`, … → port.
        blobs: every blob that holds an ONNX tensor → that tensor's name (same elements, same order).
        cut: the ONNX names of the outputs that replace a tail ncnn cannot express; empty if nothing was cut.
        notes: remarks for the report.
        weights: how weights are stored.
        full: the layers whose weights stay fp32 in an fp16 pair, because half precision does not hold them.
        int8: the layers that are computed in int8.
    """

    param: str
    bin: bytes
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    blobs: Mapping[str, str]
    cut: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    weights: Weights = "fp16"
    full: frozenset[str] = frozenset()
    int8: tuple[Int8Layer, ...] = ()


def emit_ncnn(
    model: Model,
    *,
    weights: Weights = "fp16",
    cut: bool = True,
    half: bool | None = None,
    dot_products: bool = False,
    codes: bool = True,
) -> NcnnModel:
    """Convert a model to ncnn.

    Args:
        model: a graph whose sizes are known apart from the batch; what of it is quantised is int8 in the pair.
        weights: the type of the weights of convolutions and linear layers; all else is fp32.
        cut: whether a post-processing tail that ncnn cannot express may be cut off.
        half: whether it will run where there is fp16 arithmetic, whose defects in ncnn are worked around; None: it may.
        dot_products: whether int8 runs there with them. codes: whether they are handed on (see `int8`).

    Raises:
        UnsupportedError: the graph has an operator, or a use of one, that ncnn lacks. Names the node and the way out.
    """
    graph = prepare(model)
    original, notes = list(graph.outputs), _input_notes(graph)
    open_ended = _open_ended(graph)
    if open_ended:  # no pattern need know of shapes that depend on data
        _cut(graph, open_ended, notes, allowed=cut)
    fuse_patterns(graph)
    lowering, failures = _lower(graph)
    if failures:
        _cut(graph, failures, notes, allowed=cut)
        lowering, failures = _lower(graph)
    if failures:
        raise failures[0][1]
    cut_names = tuple(t.name for t in graph.outputs if not any(t is other for other in original))
    return _finish(graph, lowering, weights, cut_names, notes, half, (model.quantised, dot_products, codes))


def _input_notes(graph: gs.Graph) -> list[str]:
    """Leave out inputs that nothing reads, which ncnn would take for outputs; say so, and where a type changes."""
    notes = []
    for tensor in list(graph.inputs):
        if not tensor.outputs and not is_graph_output(graph, tensor):
            graph.inputs = [other for other in graph.inputs if other is not tensor]
            notes.append(f"ncnn: nothing reads the input '{tensor.name}', and the pair has none of that name")
        elif tensor.dtype is not None and np.dtype(tensor.dtype).kind in "iub":
            notes.append(
                f"ncnn: the input '{tensor.name}' is {np.dtype(tensor.dtype)} in ONNX; the pair takes it as floats"
            )
    return notes


def _open_ended(graph: gs.Graph) -> list[tuple[Node, UnsupportedError]]:
    """The first nodes whose outputs have as many elements as the input's data makes them have."""
    failures: list[tuple[Node, UnsupportedError]] = []
    for node in graph.nodes:
        computed = [tensor for tensor in node.outputs if not is_empty(tensor)]
        if all(static_shape(tensor) is not None for tensor in computed):
            continue
        if any(static_shape(t) is None for t in node.inputs if not is_empty(t) and not is_constant(t)):
            continue
        try:
            if node.op not in OPS:
                raise unsupported(node, f"there is no layer for '{node.op}'")
            for tensor in computed:
                shape_of(tensor, node)
        except UnsupportedError as error:
            failures.append((node, error))
    return failures


def _lower(graph: gs.Graph) -> tuple[Lowering, list[tuple[Node, UnsupportedError]]]:
    """Lower every node whose inputs could be lowered. Returns the failures as well."""
    lowering = Lowering(graph)
    failures: list[tuple[Node, UnsupportedError]] = []
    for tensor in graph.inputs:
        lowering.add_input(tensor)
    missing: set[int] = set()
    for node in graph.nodes:
        if any(id(tensor) in missing for tensor in node.inputs):
            missing.update(id(tensor) for tensor in node.outputs)
            continue
        try:
            _lower_node(lowering, node)
        except UnsupportedError as error:
            failures.append((node, error))
            missing.update(id(tensor) for tensor in node.outputs)
    return lowering, failures


def _lower_node(lowering: Lowering, node: Node) -> None:
    lower: Callable[[Lowering, Node], None] | None = OPS.get(node.op)
    if lower is None or node.domain not in (None, "", "ai.onnx"):
        raise unsupported(node, f"there is no layer for '{node.op}'")
    for tensor in node.outputs:
        if not is_empty(tensor):
            shape_of(tensor, node)
            if node.op in ARITHMETIC and tensor.dtype is not None and np.dtype(tensor.dtype).kind in "iu":
                raise unsupported(node, f"it computes with {np.dtype(tensor.dtype)}; ncnn has floats only")
    lower(lowering, node)


def _cut(graph: gs.Graph, failures: list[tuple[Node, UnsupportedError]], notes: list[str], *, allowed: bool) -> None:
    node, error = failures[0]
    if not allowed:
        raise error
    tail = tail_of(graph, [failed for failed, _ in failures])
    learned = learned_node(tail)
    if learned is not None:
        why = "its weights are learned" if learned is node else f"'{learned.name}' ({learned.op}) comes after it"
        raise UnsupportedError(
            f"{error.message}; it cannot be cut off either, because {why}",
            node=error.node,
            hint="rewrite this part of the model, or write ONNX only (--emit onnx)",
        ) from error
    fresh = cut_tail(graph, tail)
    if not graph.outputs:
        raise UnsupportedError(
            f"{error.message}; nothing that the network computes is left in front of it",
            node=error.node,
            hint="write ONNX only (--emit onnx)",
        ) from error
    names = ", ".join(tensor.name for tensor in fresh)
    notes.append(
        f"ncnn: the head was cut before '{node.name}' ({node.op}), which ncnn lacks; "
        f"{len(tail)} nodes of post-processing are left to the caller" + (f", the outputs are {names}" if names else "")
    )
    unread = _input_notes(graph)
    notes += [note for note in unread if note not in notes]


def _finish(
    graph: gs.Graph,
    lowering: Lowering,
    weights: Weights,
    cut_names: tuple[str, ...],
    notes: list[str],
    half: bool | None,
    quantised: tuple[Quantisation | None, bool, bool] = (None, False, True),
) -> NcnnModel:
    inputs = [lowering.value(tensor) for tensor in graph.inputs]
    values = [lowering.value(tensor) for tensor in graph.outputs]
    outputs = [lowering.view(value, canonical_dims(value.shape)) for value in values]
    layers = tidy(lowering.layers, [value.blob for value in outputs], lowering.dims)
    _hint_shapes(layers, lowering.dims)
    if half is not False:
        layers, hit = work_around(layers, lowering.dims, known=half is True)
        notes += [note_of(hit, known=half is True)] if hit else []
    plan, dot_products, codes = quantised
    int8: list[Int8Layer] = []
    if plan is not None:
        layers, int8, left = quantise_layers(layers, lowering.onnx_names(), plan, dot_products=dot_products)
        if codes:
            layers, int8 = hand_on_codes(layers, int8, [value.blob for value in outputs], lowering.dims)
        notes.append(f"int8: {len(int8)} of {len(plan.layers)} layers in the NCNN pair")
        handed = sum(layer.output_scale is not None for layer in int8)
        notes += [f"int8: {handed} of them hand on codes in the NCNN pair"] if handed else []
        notes += [f"int8: {number} stay float: {why}" for why, number in reasons(left.values()).items()]
    layers, ends = insert_splits(layers, [value.blob for value in outputs])
    onnx_names = lowering.onnx_names()
    blobs = {blob: onnx_names[blob] for layer in layers for blob in layer.outputs if blob in onnx_names}
    renames = {value.blob: f"in{index}" for index, value in enumerate(inputs)}
    renames.update({blob: f"out{index}" for index, blob in enumerate(ends)})
    rename_blobs(layers, renames)
    blobs = {renames.get(blob, blob): name for blob, name in blobs.items()}
    in_ports = {
        f"in{index}": Port(tensor.name, value.shape, value.dims)
        for index, (tensor, value) in enumerate(zip(graph.inputs, inputs, strict=True))
    }
    out_ports = {
        f"out{index}": Port(tensor.name, value.shape, value.dims)
        for index, (tensor, value) in enumerate(zip(graph.outputs, outputs, strict=True))
    }
    blobs.update({blob: port.onnx for blob, port in out_ports.items()})
    full = {} if weights == "fp32" else _full(layers)
    notes += [f"ncnn: the weights of '{name}' {why} half precision and stay fp32" for name, why in full.items()]
    param, data = param_text(layers), bin_bytes(layers, weights)
    return NcnnModel(
        param, data, in_ports, out_ports, blobs, cut_names, tuple(notes), weights, frozenset(full), tuple(int8)
    )


def _hint_shapes(layers: list[Layer], dims: Mapping[str, Dims]) -> None:
    """Tell convolutions their outputs' size, by which ncnn chooses Winograd's tile when it loads the network.

    Without it a tile is taken that suits large maps: YOLOv3-tiny at 320 px takes a quarter longer.
    """
    for layer in layers:
        size = dims.get(layer.outputs[0], ())
        if layer.type == "Convolution" and len(size) == 3:
            channels, height, width = size
            layer.params[SHAPE_HINT] = [3, width, height, channels]


def _full(layers: list[Layer]) -> dict[str, str]:
    """The layers whose weights half precision does not hold, and where they lie."""
    found: dict[str, str] = {}
    for layer in layers:
        for weight in layer.weights:
            if weight.tagged and weight.values.dtype != np.int8 and not fits_fp16(layer, weight):
                found[layer.name] = "exceed" if np.abs(weight.values).max() > FP16_MAX else "lie below the range of"
    return found
