"""absorb: let biases take over what removed channels contribute on average.

A contraction y = b + Σ_c W[:, c] ∗ x[c] loses the terms of its removed channels. Each is replaced by its expectation:

    b += Σ_{c removed} (Σ_taps W[:, c]) · E[x[c]]

with E[x[c]] from the BatchNormalization statistics carried through the activation (see `analysis.moments`; no data is
needed). Where the convolution has no bias and a BatchNormalization reads it alone, that one's running mean is lowered
instead; otherwise a bias is made. The removed columns' weights stay, and are cut by `slice`.

For a channel that is exactly constant and a contraction without zero padding this is exact; with padding it is exact
but for the border. `scope=exact` takes provably constant channels only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.contraction import Contraction, contractions
from onnxslim_yolo.analysis.dead import along
from onnxslim_yolo.analysis.labelling import AxisUse
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.analysis.moments import VARIANCE_FLOOR, MomentAnalysis
from onnxslim_yolo.graph import (
    Array,
    Model,
    Namer,
    Node,
    has_input,
    input_constant,
    revalue,
    set_input,
    sole_consumer,
)
from onnxslim_yolo.origins import ADDED, set_origin
from onnxslim_yolo.passes.protocol import Effect
from onnxslim_yolo.plan import open_plan


@dataclass(frozen=True)
class AbsorbConstants:
    """Move the expected contribution of removed channels into biases.

    Args:
        scope: "all", or "exact": only channels that provably are constants.
        variance_floor: channels whose running variance is below this count as constant, too (see `prune`).
    """

    name: ClassVar[str] = "absorb"
    effect: ClassVar[Effect] = "approximate"

    scope: Literal["all", "exact"] = "all"
    variance_floor: float = VARIANCE_FLOOR

    def run(self, model: Model) -> int:
        """Shift biases in place; return the number of contractions shifted."""
        if model.plan is None or model.plan.applied:
            return 0
        plan = open_plan(model)
        if plan.absorbed or plan.keep.all():
            return 0
        moments = moments_of(model.graph, plan.channels.shapes, self.variance_floor)
        places = contractions(plan.channels)
        # All shifts before any is applied: each speaks about the graph as analysed.
        shifts = [self._shift(place, ~plan.keep, moments) for place in places]
        name = Namer(model.graph)
        applied = 0
        for place, shift in zip(places, shifts, strict=True):
            applied += shift is not None and shift_outputs(model, place.node, shift, name)
        plan.absorbed = True
        return applied

    def _shift(self, place: Contraction, removed: Array, moments: MomentAnalysis) -> Array | None:
        gone = (place.classes >= 0) & removed[np.maximum(place.classes, 0)]
        if place.taps is None or not gone.any():
            return None
        known = moments.of(place.node.inputs[place.index])
        mean = along(known.mean, place.axis, len(gone))
        usable = gone & np.isfinite(mean)
        if self.scope == "exact":
            usable &= along(known.exact, place.axis, len(gone))
        if not (usable & (mean != 0)).any():
            return None
        return np.asarray(place.taps[:, usable] @ mean[usable])


def shift_outputs(model: Model, node: Node, shift: Array, name: Namer) -> bool:
    """Add `shift` to what the node yields per output channel."""
    if not np.any(shift):
        return False
    scale = float(node.attrs.get("alpha", 1.0)) if node.op == "Gemm" else 1.0
    shift = shift * scale
    reader = sole_consumer(model.graph, node.outputs[0])
    if node.op == "MatMul":
        return _shift_matmul(model, node, shift, name)
    if has_input(node, 2):
        bias = input_constant(node, 2)
        if bias is None:
            return False
        beta = float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else 1.0
        full = np.broadcast_to(bias, np.broadcast_shapes(bias.shape, shift.shape))
        revalue(node, 2, (full + shift / beta).astype(bias.dtype))
        _label(model, node, 2)
        return True
    if reader is not None and reader.op == "BatchNormalization" and input_constant(reader, 3) is not None:
        mean = np.asarray(input_constant(reader, 3))
        revalue(reader, 3, (mean - shift).astype(mean.dtype))
        return True
    dtype = np.asarray(input_constant(node, 1)).dtype
    stem = node.inputs[1].name
    stem = f"{stem[: -len('.weight')]}.bias" if stem.endswith(".weight") else f"{stem}_bias"
    set_input(node, 2, gs.Constant(name(stem), shift.astype(dtype)))
    set_origin(node.inputs[2], ADDED)
    _label(model, node, 2)
    return True


def _label(model: Model, node: Node, index: int) -> None:
    """Tell the plan's analysis about a per-channel constant that it has not seen, so that `slice` cuts it, too."""
    channels = None if model.plan is None else model.plan.channels
    labels = None if channels is None else channels.labels_of(node.outputs[0])
    width = int(node.inputs[index].shape[-1])
    if channels is None or labels is None or labels.size != width or width == 1:
        return
    if not any(use.node is node and use.index == index for use in channels.uses):
        axis = len(node.inputs[index].shape) - 1
        channels.uses.append(AxisUse(node, index, axis, labels.reshape(-1), "channel"))


def _shift_matmul(model: Model, node: Node, shift: Array, name: Namer) -> bool:
    reader = sole_consumer(model.graph, node.outputs[0])
    if reader is not None and reader.op == "Add":
        for index, tensor in enumerate(reader.inputs):
            value = input_constant(reader, index)
            if tensor is not node.outputs[0] and value is not None and value.shape[-1:] == shift.shape:
                revalue(reader, index, (value + shift).astype(value.dtype))
                return True
    output = node.outputs[0]
    dtype = np.asarray(input_constant(node, 1)).dtype
    inner = gs.Variable(name(f"{output.name}_unshifted"), output.dtype, output.shape)
    node.outputs = [inner]
    bias = gs.Constant(name(f"{node.name}_bias"), shift.astype(dtype))
    set_origin(bias, ADDED)
    add = gs.Node("Add", name(f"{node.name}_shift"), {}, [inner, bias], [output])
    model.graph.nodes.append(add)
    _label(model, add, 1)
    return True
