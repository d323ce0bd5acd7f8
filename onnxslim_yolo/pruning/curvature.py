"""How much an error at a layer's outputs disturbs the network's: one matrix per layer, without labels or training.

With E the detector's error (`verify.head_metric`), an error δ at a position of a layer's output costs to second order
δᵀGδ. G, summed over positions and averaged over images, is E[g gᵀ] with g the random cotangents of E carried back to
that layer by `analysis.adjoint`: the output factor of K-FAC (Martens & Grosse 2015, §3) for the Gauss–Newton matrix.
Errors at different positions are taken as independent; how they add up is measured beside it (`pruning.coherence`).

Where an operator has no adjoint, layers are disturbed by noise instead, one at a time, and G is a multiple of the unit
matrix (`_second_order.sensitivities`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.adjoint import carry_back
from onnxslim_yolo.analysis.adjoint_nodes import Adjoint, shape_of
from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.heads.metric import HeadMetric
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array, Namer, Node, copy_graph, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.linear import tapped_axis
from onnxslim_yolo.pruning.calibration import Images
from onnxslim_yolo.pruning.coherence import Residuals
from onnxslim_yolo.runtime.half import in_float32

SEED = 0


def curvatures(
    model: Model,
    names: Sequence[str],
    images: Images,
    head: HeadSpec | None,
    residuals: Mapping[str, Residuals] | None = None,
    probes: int = 1,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """G of the layers with these names, shape (outputs, outputs) each; zeros where the outputs do not depend on one.
    And of the layers with residuals the mean of s² (see `pruning.coherence`), where what they read depends on a layer.

    Args:
        images: inputs, streamed. head: how to read the outputs, or None.
        residuals: by name. probes: random cotangents an image.

    Raises:
        UnsupportedError: an operator between has no adjoint, or a shape is not known.
        VerificationError: onnxruntime refuses the graph.
    """
    from onnxslim_yolo.runtime.onnx_run import session

    model = in_float32(model)
    graph = copy_graph(model.graph)
    by_name = {node.name: node for node in graph.nodes}
    name = Namer(graph)
    seeds = {o.name: gs.Variable(name(f"{o.name}_seed"), np.float32, shape_of(o)) for o in graph.outputs}
    outputs = [o.name for o in graph.outputs]
    layers = {layer: by_name[layer] for layer in dict.fromkeys(names)}
    carried = carry_back(graph, seeds, [node.outputs[0].name for node in layers.values()])
    adjoint = Adjoint(graph)
    grams = {
        layer: _gram(adjoint, node, carried.of[node.outputs[0].name])
        for layer, node in layers.items()
        if node.outputs[0].name in carried.of
    }
    known = {layer: mine for layer, mine in (residuals or {}).items() if layer in carried.through}
    together = [mine.sums(adjoint, by_name[layer], carried.through[layer]) for layer, mine in known.items()]
    graph.outputs, graph.nodes = [*grams.values(), *together], toposort(graph)
    runner = session(Model(graph=graph), optimise=True, threads=1)
    sums = {layer: np.zeros((n, n)) for layer, n in ((la, _width(node)) for la, node in layers.items())}
    squares = {layer: np.zeros(mine.mean.size) for layer, mine in known.items()}
    rng = np.random.default_rng(SEED)
    feed, kind = graph.inputs[0].name, graph.inputs[0].dtype or np.float32
    wanted = [tensor.name for tensor in graph.outputs]
    source, count = session(model, optimise=True, threads=1), 0
    for image in (each.astype(kind, copy=False) for each in images):
        metric = HeadMetric([np.asarray(o, dtype=np.float32) for o in source.run(None, {feed: image})], head)
        for _ in range(probes):
            given: dict[str, Array] = {}
            for output, value in zip(outputs, metric.cotangents(rng), strict=True):
                seed = seeds[output].name  # an output may be given out twice
                given[seed] = given[seed] + value if seed in given else value
            try:
                found = runner.run(wanted, {feed: image, **given})
            except Exception as error:
                raise VerificationError(f"onnxruntime fails on the gradient: {error}") from error
            values = [np.nan_to_num(value.astype(np.float64)) for value in found]
            for layer, value in zip(grams, values, strict=False):
                sums[layer] += value
            for layer, value in zip(squares, values[len(grams) :], strict=True):
                squares[layer] += value.reshape(-1) ** 2
            count += 1
    means = [{layer: total / max(count, 1) for layer, total in one.items()} for one in (sums, squares)]
    return means[0], means[1]


def _width(node: Node) -> int:
    return shape_of(node.outputs[0])[tapped_axis(node)]


def _gram(adjoint: Adjoint, node: Node, cotangent: gs.Variable) -> gs.Variable:
    """Σ over positions of g gᵀ, computed in the graph so that only a small matrix leaves it."""
    rows = adjoint.in_rows(cotangent, shape_of(node.outputs[0]), tapped_axis(node), [_width(node)])
    return adjoint.add("MatMul", [rows, adjoint.add("Transpose", [rows], perm=[1, 0])])
