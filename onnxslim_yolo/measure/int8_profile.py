"""Which int8 forms a network's layers have, and their times put right by whole networks in int8.

Beside each other, layers in int8 cost more or less than one by one: layouts are changed between them, and codes are
smaller than floats. So every network is run once with all that can be int8, its ranges made up (time does not depend on
them), and what it takes beyond or below the sum becomes a factor on all int8 times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.emit.ncnn.stem import becomes_phases
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.graph import Node, producer, tensors
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.int8 import (
    CLIPS,
    ENDS,
    THROUGH_NCNN,
    WITH_WEIGHT,
    clipped_form,
    codes_form,
    end_of_chain,
    has_form,
    int8_form,
    scaled_int8,
)
from onnxslim_yolo.latency.layers import Family, LayerKey
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.ops.linear import LinearLayer
from onnxslim_yolo.passes import Activations, Canonicalise, FoldBatchNorm, ReparamBranches
from onnxslim_yolo.quantisation.latency import plan_prediction
from onnxslim_yolo.quantisation.places import bounds_of, places_of
from onnxslim_yolo.quantisation.plan import Quantisation, Range
from onnxslim_yolo.quantisation.weights import quantised_layer

MADE_UP = Range.of(-4, 4)
MOST = 4.0
"""The factor is within [1 / this, this]: beyond, something else used the machine."""

Whole = Callable[[gs.Graph, Quantisation | None], float | None]


def int8_layers(layers: Iterable[LayerKey], runtime: Runtime) -> list[LayerKey]:
    """The int8 forms of layers, and what stands at the ends of chains of them."""
    found = []
    for key in layers:
        family = key.family
        phases = runtime == "ncnn" and family.stride == (2, 2) and becomes_phases(key.ins[0], family.kernel)
        if not has_form(family, runtime) or (family.kind == "conv" and phases):
            continue
        forms = [int8_form(family)]
        if runtime == "ncnn" and family.kind in THROUGH_NCNN:
            forms.append(codes_form(family))
            forms += [clipped_form(form) for form in forms if key.activation == CLIPS]
        found += [LayerKey(form, key.ins, key.outs) for form in forms]
        if runtime == "onnxruntime" and family.kind in WITH_WEIGHT:
            found += [end_of_chain(which, family.size, key.outs[0]) for which in ENDS]
            if key.activation == "leakyrelu":
                leaky = int8_form(Family("unary", "leaky", size=family.size))
                found.append(LayerKey(leaky, key.outs, key.outs))
    return found


def calibrated_int8(table: LatencyTable, graphs: Sequence[gs.Graph], whole: Whole) -> LatencyTable:
    """The table with its int8 times put right by these networks as wholes."""
    factors = []
    for graph in graphs:
        made = everything(graph)
        us = None if made is None else whole(made.graph, made.quantised)
        if made is None or made.quantised is None or us is None:
            continue
        plain, doubled = (
            plan_prediction(made.graph, each, made.quantised).int8_us for each in (table, scaled_int8(table, 2.0))
        )
        if doubled > plain:
            factors.append(1 + (us - plain) / (doubled - plain))
    factor = float(np.clip(np.median(factors), 1 / MOST, MOST)) if factors else 1.0
    return scaled_int8(table, factor)


def everything(graph: gs.Graph) -> Model | None:
    """A copy of a network as it is deployed, with all in int8 that can be; None where nothing can."""
    model = Model(graph=graph).copy()
    try:
        for step in (ReparamBranches(), FoldBatchNorm(), Activations(), Canonicalise()):
            step.run(model)
        places = places_of(model.graph)
    except OnnxSlimError:
        return None
    if not places.layers:
        return None
    known = {tensor.name: tensor for tensor in tensors(model.graph)}
    ranges = {name: _made_up(producer(known[root])) for name, root in places.shares.items()}
    layers = {
        node.name: quantised_layer(
            node, places.writes[node.name], ranges[node.inputs[0].name], np.zeros(_channels(node))
        )
        for node in places.layers
    }
    model.quantised = Quantisation(layers, ranges)
    return model


def _made_up(node: Node | None) -> Range:
    """A range of what a node makes: that of an activation, or onnxruntime could not leave that to the codes' ends."""
    low, high = bounds_of(node) or (MADE_UP.low, MADE_UP.high)
    return Range.of(max(low, MADE_UP.low), min(high, MADE_UP.high))


def _channels(node: Node) -> int:
    layer = LinearLayer.of(node)
    return 0 if layer is None else layer.inputs
