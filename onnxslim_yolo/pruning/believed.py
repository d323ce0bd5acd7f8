"""Whether statistics that call a channel constant may be believed: the network is run once and looked at.

A running variance of next to nothing says that a BatchNormalization's channel never varied in training, and so yields
β. That holds as long as what comes in is what came in then. Weights set to zero afterwards (a sparsified file whose
statistics nobody took again) shift it: the channel is still a constant, but another one.
"""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.analysis.moment_rules import STILL
from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Array, Node, input_constant, nodes_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx, with_outputs

ROOM = 10 * STILL
"""A constant channel yields β to within this: `STILL`, with room for a running mean that trails behind."""


def misjudged(model: Model, floor: float) -> list[str]:
    """Names of the BatchNormalizations that an input moves away from β in a channel which their variance calls still.

    Of a model that does not run all that call one so: nothing vouches for them.

    Args:
        floor: running variances below this call a channel still.
    """
    doubted = [node for node in nodes_of(model.graph, "BatchNormalization") if _still(node, floor)]
    if not doubted:
        return []
    given = {tensor.name for tensor in (*model.graph.outputs, *model.graph.inputs)}
    hidden = {node.inputs[0].name for node in doubted} - given
    feeds = image_like_feeds(model)
    try:
        runs = run_onnx(with_outputs(model, sorted(hidden)), feeds)
    except VerificationError:
        return [node.name for node in doubted]
    seen = [feed | run for feed, run in zip(feeds, runs, strict=True)]
    return [node.name for node in doubted if any(_moves(node, values[node.inputs[0].name], floor) for values in seen)]


def _still(node: Node, floor: float) -> bool:
    gamma, var = input_constant(node, 1), input_constant(node, 4)
    return gamma is not None and var is not None and bool(((var < floor) & (gamma != 0)).any())


def _moves(node: Node, value: Array, floor: float) -> bool:
    gamma, _, mean, var = (np.asarray(input_constant(node, index), np.float64) for index in range(1, 5))
    apart = np.abs(np.moveaxis(value.astype(np.float64), 1, -1) - mean)
    far = np.abs(gamma) * apart / np.sqrt(var + float(attribute(node, "epsilon"))) > ROOM
    return bool(far[..., (var < floor) & (gamma != 0)].any())
