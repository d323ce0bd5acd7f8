"""Matching moments: give every layer's outputs the mean and variance they had before pruning.

What pruned inputs still explain of a layer's output varies less than the output did, and its mean has moved. With
(m₀, v₀) the moments of an output channel in the source and (m′, v′) in the pruned network, over calibration
positions,

    y  ←  √(v₀/v′)·(y − m′) + m₀

Where a BatchNormalization reads the layer alone, its output is what is matched, and γ and β take the map;
otherwise the layer's weight and bias do. Layers are matched in topological order, each on what the ones before
it, matched already, make of the images: the network runs in stages, all images through one stage before the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    copy_graph,
    input_constant,
    is_constant,
    is_empty,
    sole_consumer,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.origins import left_of, origin_of
from onnxslim_yolo.ops.linear import PLAIN, Layout, tapped_axis
from onnxslim_yolo.ops.norms import is_batch_norm
from onnxslim_yolo.pruning.calibration import Images, thin, thinned

LARGEST_SCALE = 4.0
"""Outputs are scaled by at most this: what hardly varies any more cannot be restored by turning it up."""

Moments = dict[str, tuple[Array, Array]]
"""Per node name: mean and variance of each output channel."""


@dataclass(frozen=True)
class Correction:
    """y ← scale·y + shift per output channel of the node called `node`."""

    node: str
    scale: Array
    shift: Array


def matchable(model: Model) -> list[Node]:
    """The nodes whose outputs are matched: layers with a constant weight, or the BatchNormalization behind them."""
    found = []
    for node in _layers(model):
        reader = sole_consumer(model.graph, node.outputs[0])
        normalised = is_batch_norm(reader) and input_constant(reader, 1) is not None
        found.append(reader if reader is not None and normalised else node)
    return found


def _layers(model: Model) -> list[Node]:
    return [
        node
        for node in model.graph.nodes
        if node.op in PLAIN and (weight := input_constant(node, 1)) is not None and weight.ndim > 1
    ]


def output_moments(model: Model, nodes: Sequence[Node], images: Images) -> Moments:
    """Mean and variance of each output channel of the nodes, over images and (thinned) positions."""
    from onnxslim_yolo.runtime.onnx_run import session

    graph = copy_graph(model.graph)
    twins = {node.name: node for node in graph.nodes}
    name = Namer(graph)
    taps = {node.name: thin(graph, twins[node.name].outputs[0], tapped_axis(node), name) for node in nodes}
    graph.nodes = toposort(graph)
    graph.outputs = [gs.Variable(tap, np.float32) for tap in taps.values()]
    runner = session(Model(graph=graph), optimise=True, threads=1)
    feed = graph.inputs[0].name
    seen: dict[str, list[Array]] = {node.name: [] for node in nodes}
    for image in images:
        for node, value in zip(nodes, runner.run(list(taps.values()), {feed: image}), strict=True):
            axis = tapped_axis(node)
            rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis]).astype(np.float64)
            seen[node.name].append(
                np.stack([rows.sum(axis=0), (rows**2).sum(axis=0), np.full(rows.shape[1], len(rows))])
            )
    return {name: _moments(sums) for name, sums in seen.items()}


def of_what_is_left(source: Moments, came: Model, model: Model) -> Moments:
    """The moments of the channels that layers still have where parts were cut out of a network: what reads a part
    channel by channel has lost channels with it. Layers of which it is not known which ones are left out.

    Args:
        source: moments of `came`, the network with the parts; `model`: without.
    """
    before = {node.name: node for node in matchable(came)}
    found: Moments = {}
    for node in matchable(model):
        if node.name not in source:
            continue
        own, old = node.inputs[1], before[node.name].inputs[1]
        axis = 0 if is_batch_norm(node) else Layout.of_shape(node, tuple(own.shape)).making_axis
        if own.shape[axis] == old.shape[axis]:
            found[node.name] = source[node.name]
            continue
        rows = left_of(origin_of(own), origin_of(old), axis)
        if rows is not None:
            mean, variance = source[node.name]
            found[node.name] = mean[rows], variance[rows]
    return found


def corrections(model: Model, source: Moments, images: Images) -> list[Correction]:
    """What each layer of `model` needs to have the source's moments, in topological order.

    Args:
        model: the pruned network, as a mask or sliced; not edited. Layers are found by name.
        source: the moments to be had.
    """
    stages = _Stages(model, images)
    found: list[Correction] = []
    for node in matchable(model):
        if node.name not in source:
            continue
        axis = tapped_axis(node)
        outputs = stages.run_to(node)
        rows = [thinned(value, axis).astype(np.float64) for value in outputs]
        mean, variance = _moments(
            [np.stack([r.sum(axis=0), (r**2).sum(axis=0), np.full(r.shape[1], len(r))]) for r in rows]
        )
        correction = _correction(node.name, (mean, variance), source[node.name])
        if correction is None:
            continue
        found.append(correction)
        shape = [-1 if k == axis else 1 for k in range(outputs[0].ndim)]
        scale, shift = (v.reshape(shape).astype(outputs[0].dtype) for v in (correction.scale, correction.shift))
        for value in outputs:  # in place: the stages behind read the corrected output
            value *= scale
            value += shift
    return found


def _moments(sums: list[Array]) -> tuple[Array, Array]:
    total, squares, count = np.sum(sums, axis=0)
    mean = total / count
    return mean, np.maximum(squares / count - mean**2, 0.0)


def _correction(name: str, now: tuple[Array, Array], wanted: tuple[Array, Array]) -> Correction | None:
    floor = 1e-12 + 1e-6 * float(wanted[1].mean())
    scale = np.sqrt((wanted[1] + floor) / (now[1] + floor)).clip(1 / LARGEST_SCALE, LARGEST_SCALE)
    shift = wanted[0] - scale * now[0]
    spread = np.sqrt(wanted[1] + floor)
    if np.abs(scale - 1).max() < 1e-4 and (np.abs(shift) / spread).max() < 1e-4:
        return None
    return Correction(name, scale, shift)


class _Stages:
    """A network run piece by piece, every piece on all images; values are kept as long as a later piece reads
    them."""

    def __init__(self, model: Model, images: Images) -> None:
        self._nodes = toposort(model.graph)
        self._graph = model.graph
        self._done = 0
        self._readers = Counter(t.name for node in self._nodes for t in node.inputs if not is_constant(t))
        self._values: dict[str, list[Array]] = {model.graph.inputs[0].name: list(images)}

    def run_to(self, node: Node) -> list[Array]:
        """The node's output per image: the very arrays that later stages read."""
        from onnxslim_yolo.runtime.onnx_run import session

        end = next(i for i, other in enumerate(self._nodes) if other is node) + 1
        piece = self._nodes[self._done : end]
        self._done = end
        made = {t.name for other in piece for t in other.outputs if not is_empty(t)}
        self._readers.subtract(t.name for other in piece for t in other.inputs if not is_constant(t))
        read = {t.name for other in piece for t in other.inputs if not is_constant(t) and not is_empty(t)}
        inputs = sorted(read - made)
        outputs = sorted(name for name in made if self._readers[name] > 0 or name == node.outputs[0].name)
        runner = session(_piece(self._graph, piece, inputs, outputs, self._values), optimise=False, threads=1)
        count = len(next(iter(self._values.values())))
        try:
            rows = [runner.run(outputs, {name: self._values[name][i] for name in inputs}) for i in range(count)]
        except Exception as error:
            raise VerificationError(f"onnxruntime fails while running '{node.name}': {error}") from error
        for k, name in enumerate(outputs):
            self._values[name] = [row[k] for row in rows]
        for name in [name for name in self._values if self._readers[name] <= 0 and name != node.outputs[0].name]:
            del self._values[name]
        return self._values[node.outputs[0].name]


def _piece(
    graph: gs.Graph, nodes: list[Node], inputs: list[str], outputs: list[str], values: dict[str, list[Array]]
) -> onnx.ModelProto:
    """Some of a graph's nodes as a model of their own."""
    types = {t.name: t.dtype for node in nodes for t in node.outputs}
    part = gs.Graph(
        nodes=nodes,
        inputs=[gs.Variable(name, values[name][0].dtype, values[name][0].shape) for name in inputs],
        outputs=[gs.Variable(name, types[name]) for name in outputs],
        opset=graph.opset,
        import_domains=graph.import_domains,
        ir_version=graph.ir_version,
    )
    return gs.export_onnx(part, do_type_check=False)
