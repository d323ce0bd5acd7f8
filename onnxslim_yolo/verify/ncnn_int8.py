"""Is an int8 pair what it should be? Every int8 layer, from the very numbers that ncnn gave it, against a simulation.

The pair is run and what its int8 layers read and make is looked at. The float graph is cut there: each layer is
computed anew in plain arithmetic (see `emit.ncnn.int8` for the formula) from what ncnn's layer read, whatever is
between layers from what ncnn's layers made, and the outputs from the last of those. So no rounding decided otherwise
travels on, and all has to agree as float pairs do; what a layer hands on as codes, within half a step beside. Weights
1 % off have to show in every int8 layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.emit.ncnn.emitter import NcnnModel
from onnxslim_yolo.emit.ncnn.format import safe_name
from onnxslim_yolo.emit.ncnn.int8 import LARGEST, Int8Layer
from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.graph import (
    Array,
    Namer,
    Node,
    consumers,
    is_graph_output,
    replace_input,
    static_shape,
    tensors,
    toposort,
)
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.ops.linear import LinearLayer, groups_of, take_in_factors
from onnxslim_yolo.runtime.ncnn_run import DEFAULT_TIMEOUT, run_ncnn
from onnxslim_yolo.runtime.onnx_run import Feeds, session
from onnxslim_yolo.verify.chain import Check
from onnxslim_yolo.verify.compare import Difference
from onnxslim_yolo.verify.control import SPOILED_BY
from onnxslim_yolo.verify.judge import judge_from
from onnxslim_yolo.verify.ncnn_compare import ROUNDING, half_weights

INNER = 1e-3
"""Worst |Δ| / (spread + `SIZE`·|value|) of what a layer makes: float sums in another order, Winograd between layers.
Seen: up to 7e-5."""

SIZE = 1 / 8
"""Of a value that counts beside the spread: a gate's are all near ½, and hardly spread."""

SMALL = 1024
"""Values of a map, up to which nothing may show in it: it is told, and no error."""

RECIPROCAL = 4e-4
"""Of the products' sum that a depthwise layer may be off by: on x86 ncnn's kernels of these divide by the steps with
`rcpps`, which is good to 1.5 · 2⁻¹² (seen: 2.8e-4), one factor for all of a channel."""

SLOW = 600.0
"""Seconds for loading, and for each run, where an emulator runs it."""

GIVEN, CUT, PRODUCT = "__given", "__cut", "__product"


@dataclass(frozen=True)
class _Cut:
    """The float graph cut at the int8 layers.

    Attributes:
        inner: the tensors it is cut at, each with its shape for the inputs. depthwise: those of such layers.
        steps: of those that ncnn gives as codes, what one code is.
    """

    session: Any
    inner: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    depthwise: tuple[str, ...] = ()
    steps: Mapping[str, float] = field(default_factory=dict)

    def run(self, feed: Feeds, given: Feeds) -> tuple[Feeds, Feeds, Feeds]:
        """What is computed of the tensors that were given, the outputs, and depthwise layers' sums without bias."""
        made = [name for name in self.inner if name not in feed]
        sums = [f"{name}{PRODUCT}" for name in self.depthwise]
        names = [*(f"{name}{CUT}" for name in made), *self.outputs, *sums]
        inputs = {f"{name}{GIVEN}": given[name] for name in self.inner}
        known = {each.name for each in self.session.get_inputs()}
        values = self.session.run(names, {k: v for k, v in (feed | inputs).items() if k in known})
        found = dict(zip((*made, *self.outputs, *sums), values, strict=True))
        products = {name: found[f"{name}{PRODUCT}"] for name in self.depthwise}
        return dict(zip(made, values, strict=False)), {name: found[name] for name in self.outputs}, products


def verify_int8_pair(
    model: Model, pair: NcnnModel, files: tuple[Path, Path], feeds: Sequence[Feeds], *, run_on: str | None = None
) -> list[Check]:
    """Run a pair and compare.

    Args:
        model: the float graph, as far as the pair goes. files: `.param` and `.bin` as written. feeds: inputs.
        run_on: a command that starts the Python to run the pair in; None: this one.

    Raises:
        VerificationError: a layer or an output is off, codes are no roundings of the weights, or nothing would show it.
    """
    nodes = {safe_name(node.name): node for node in model.graph.nodes}
    for layer in pair.int8:
        _require_rounded(layer, nodes.get(layer.name))
    names = frozenset(layer.name for layer in pair.int8)
    stored = half_weights(model, pair.full | names) if pair.weights == "fp16" else model
    stored = _fixed(stored, feeds[0])
    cut, spoiled = (_cut(stored, pair.int8, by) for by in (0.0, SPOILED_BY))
    checks = []
    for exact in (True, False):
        runs = _run(pair, files, feeds, cut, exact=exact, run_on=run_on)
        label = "ncnn, int8" if exact else "ncnn, int8, as it chooses"
        checks += _compared(model, cut, feeds, runs, label)
        if exact:
            checks[0].unseen.extend(_unseen(cut, spoiled, feeds[-1], runs[-1]))
    for check in checks:
        if not check.passed:
            worst = max(check.differences, key=lambda d: d.worst)
            raise VerificationError(
                f"int8 in ncnn is not what was planned ({check.runtime}): {worst.place()} differs by "
                f"{worst.worst:.2e} of its spread, allowed {check.tolerance:.0e}",
                hint="nothing was written; please report this model; --emit onnx writes the ONNX file alone",
            )
    return checks


def _require_rounded(layer: Int8Layer, node: Node | None) -> None:
    """Codes are roundings of the graph's own weights: no arrangement of the converter's is taken on trust."""
    linear = None if node is None else LinearLayer.of(node)
    if linear is None or linear.weight.size != layer.codes.size:
        raise VerificationError("int8: an NCNN layer has other weights than the graph", node=layer.name)
    step = 1 / layer.scale.astype(np.float64)[:, None]
    blocks = linear.blocks * linear.factors[0]
    apart = np.abs(layer.codes.reshape(len(layer.scale), -1) * step - blocks.reshape(len(layer.scale), -1))
    if not (apart <= 0.5001 * step).all():
        raise VerificationError("int8: codes in the NCNN pair are no roundings of the weights", node=layer.name)


def _fixed(model: Model, feed: Feeds) -> Model:
    """A copy whose shapes are those of these inputs: sizes may be open, and ncnn's blobs know no leading axis."""
    copy = model.copy()
    for tensor in copy.graph.inputs:
        tensor.shape = list(feed[tensor.name].shape)
    reinfer(copy.graph)
    return copy


def _cut(model: Model, layers: Sequence[Int8Layer], spoiled_by: float) -> _Cut:
    """The float graph with each of these layers computed as ncnn does, cut at what they read and make."""
    copy = model.copy()
    graph, name = copy.graph, Namer(copy.graph)
    outputs = tuple(tensor.name for tensor in graph.outputs)
    nodes = {safe_name(node.name): node for node in graph.nodes}
    wanted = dict.fromkeys(each for layer in layers for each in (layer.reads, layer.writes))
    rng = np.random.default_rng(0)
    cut_at = {tensor.name: tensor for tensor in tensors(graph) if tensor.name in wanted}
    inner = {name: static_shape(cut_at[name]) or () for name in wanted}
    for tensor in cut_at.values():
        _give(graph, tensor)
    for layer in layers:
        codes = layer.codes.astype(np.float32)
        if spoiled_by:
            codes = (codes * (1 + rng.choice([-spoiled_by, spoiled_by], size=codes.shape))).astype(np.float32)
        _as_ncnn(graph, nodes[layer.name], layer, codes, name)
    graph.nodes = toposort(graph)
    depthwise = tuple(layer.writes for layer in layers if groups_of(nodes[layer.name]) > 1)
    steps = {layer.writes: 1 / float(layer.output_scale) for layer in layers if layer.output_scale is not None}
    return _Cut(session(copy, optimise=False, threads=1), inner, outputs, depthwise, steps)


def _give(graph: gs.Graph, tensor: gs.Tensor) -> None:
    """Let all that reads a tensor read what is given for it."""
    label, fed = tensor.name, any(tensor is each for each in graph.inputs)
    given = gs.Variable(f"{label}{GIVEN}", np.float32, tensor.shape)
    for node in consumers(tensor):
        replace_input(node, tensor, given)
    graph.inputs.append(given)
    if fed:
        return
    tensor.name = f"{label}{CUT}"
    if is_graph_output(graph, tensor):
        again = gs.Variable(label, np.float32, tensor.shape)
        graph.nodes.append(gs.Node("Identity", f"{label}__again", {}, [given], [again]))
        graph.outputs = [again if each is tensor else each for each in graph.outputs]
    graph.outputs.append(tensor)


def _as_ncnn(graph: gs.Graph, node: Node, layer: Int8Layer, codes: Array, name: Namer) -> None:
    linear, output = LinearLayer.of(node), node.outputs[0]
    if linear is None:
        raise VerificationError("int8: an NCNN layer has other weights than the graph", node=layer.name)
    bias, count = linear.bias, len(layer.scale)

    def make(op: str, *inputs: gs.Tensor | Array, into: gs.Tensor | None = None) -> gs.Tensor:
        read = [
            gs.Constant(name(f"{node.name}__c"), np.asarray(each, np.float32)) if isinstance(each, np.ndarray) else each
            for each in inputs
        ]
        made = gs.Variable(name(f"{node.name}__{op}"), np.float32) if into is None else into
        graph.nodes.append(gs.Node(op, name(f"{node.name}__n"), {}, read, [made]))
        return made

    scaled = make("Mul", node.inputs[0], np.asarray(layer.input_scale))
    away = make("Mul", make("Sign", scaled), make("Floor", make("Add", make("Abs", scaled), np.asarray(0.5))))
    low, high = np.asarray(-float(LARGEST)), np.asarray(float(LARGEST))
    read = make("Min", make("Max", away, low), high)
    sums = gs.Variable(name(f"{node.name}__sums"), np.float32)
    weight = gs.Constant(name(f"{node.name}__codes"), linear.stored(codes.reshape(linear.stored_blocks.shape)))
    shape = (count,) if linear.channel_axis == -1 else (1, count, 1, 1)
    back = (1 / (np.float64(layer.input_scale) * layer.scale.astype(np.float64))).reshape(shape)
    shift = np.zeros(count) if bias is None else linear.factors[1] * np.broadcast_to(bias.reshape(-1), (count,))
    take_in_factors(node)
    node.outputs = [sums]
    node.inputs = [read, weight]
    shift = shift.reshape(shape)
    product = make("Mul", sums, back)
    make("Add", product, shift, into=output)
    if groups_of(node) > 1:
        product.name = f"{layer.writes}{PRODUCT}"
        graph.outputs.append(product)


def _run(
    pair: NcnnModel,
    files: tuple[Path, Path],
    feeds: Sequence[Feeds],
    cut: _Cut,
    *,
    exact: bool,
    run_on: str | None,
) -> list[Feeds]:
    """What ncnn computes of these tensors and of the outputs, by their ONNX names."""
    blobs = {name: blob for blob, name in reversed(list(pair.blobs.items()))}
    fed = {port.onnx for port in pair.inputs.values()}
    outputs = {port.onnx: blob for blob, port in pair.outputs.items()}
    wanted = {name: blobs[name] for name in cut.inner if name not in fed} | outputs
    inputs = [{blob: feed[port.onnx].reshape(port.dims) for blob, port in pair.inputs.items()} for feed in feeds]
    time = DEFAULT_TIMEOUT if run_on is None else SLOW
    blobs_wanted = list(dict.fromkeys(wanted.values()))
    runs = run_ncnn(*files, inputs, outputs=blobs_wanted, exact=exact, run_on=run_on, timeout=time)
    return [
        {name: run[blob] * np.float32(cut.steps.get(name, 1.0)) for name, blob in wanted.items()}
        | {name: feed[name] for name in fed}
        for run, feed in zip(runs, feeds, strict=True)
    ]


def _compared(model: Model, cut: _Cut, feeds: Sequence[Feeds], runs: Sequence[Feeds], label: str) -> list[Check]:
    inner: dict[str, Difference] = {}
    expected, got = [], []
    for feed, run in zip(feeds, runs, strict=True):
        made, outputs, products = cut.run(feed, _shaped(cut, run))
        for name, value in made.items():
            off = _off(name, value, run[name], products.get(name), cut.steps.get(name, 0.0))
            if name not in inner or not off.worst <= inner[name].worst:
                inner[name] = off
        expected.append(outputs)
        got.append({name: run[name].reshape(value.shape) for name, value in outputs.items()})
    worst = sorted(inner.values(), key=lambda d: -d.worst)[:4]
    judge = judge_from(model, feeds, expected).with_floor(ROUNDING)
    return [
        Check("simulation = layers of the NCNN pair", label, worst, INNER),
        Check("decode of them = outputs of the NCNN pair", label, judge.compare(got, INNER), INNER),
    ]


def _shaped(cut: _Cut, run: Mapping[str, Array]) -> Feeds:
    """What ncnn gives knows no batch: the graph's shapes."""
    return {name: run[name].reshape(shape) for name, shape in cut.inner.items()}


def _off(name: str, expected: Array, got: Array, product: Array | None = None, step: float = 0.0) -> Difference:
    """How far off a tensor is; of one that is given as codes, beyond the half step that rounding may cost."""
    if expected.size != got.size:
        return Difference(name, np.inf, np.inf, 0.0, note=f"shape {got.shape}, expected {expected.shape}")
    wanted = expected.astype(np.float64).reshape(-1)
    if step:
        wanted = np.clip(wanted, -LARGEST * step, LARGEST * step)
    delta = np.nan_to_num(np.maximum(np.abs(wanted - got.reshape(-1)) - step / 2, 0.0), nan=np.inf)
    if product is not None and product.size == delta.size:
        delta = np.maximum(delta - RECIPROCAL * np.abs(product.astype(np.float64).reshape(-1)), 0.0)
    spread = float(wanted.std()) or float(np.abs(wanted).max(initial=0.0)) or 1.0
    share = delta / (spread + SIZE * np.abs(wanted))
    return Difference(name, float(share.max(initial=0.0)), float(delta.max(initial=0.0)), spread)


def _unseen(cut: _Cut, spoiled: _Cut, feed: Feeds, run: Feeds) -> list[str]:
    """Weights 1 % off show in what every layer makes, or it is a small map and said.

    Raises:
        VerificationError: they do not show in a larger one.
    """
    made, _, products = spoiled.run(feed, _shaped(cut, run))
    plain, _, _ = cut.run(feed, _shaped(cut, run))
    found = []
    for name, value in made.items():
        moved = not np.array_equal(value, plain[name])
        known = run[name] if name in cut.steps else plain[name]
        if not moved or _off(name, value, known, products.get(name), cut.steps.get(name, 0.0)).worst > 2 * INNER:
            continue
        if value.size > SMALL:
            raise VerificationError(f"the check of the int8 pair would not notice weights 1 % off in '{name}'")
        found.append(f"int8: weights 1 % off do not show in '{name}' of the NCNN pair")
    return found
