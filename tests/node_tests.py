"""ONNX's own node tests, wrapped: a convolution with BatchNormalization in front, and a layer behind.

    x → Conv → BatchNormalization (some channels dead) → the node → Conv or Gemm → y

What the node reads besides its first floating-point input are constants from the node test. `check` says what became
of it: removing what is dead changes nothing, and a random choice equals its mask.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import AbsorbConstants, Canonicalise, PruneChannels, ShuffleToGather, SliceChannels
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.plan import open_plan
from tests.numeric import Feeds, differences, random_feeds, run_onnx
from tests.passes.cutting import remove_random

ROUNDING = 1e-4
NEWEST = 23
"""The newest opset that every supported onnxruntime runs."""

LARGEST = 1 << 14
"""Elements of a node test's input, at most."""


@dataclass(frozen=True)
class Outcome:
    """What became of one node test.

    Attributes:
        state: "pruned", "held" (with the reasons), "skipped" (with why it cannot be wrapped or run).
        dead: how many of the dead channels in front of the node went, of how many.
        error: the worst difference over both comparisons, in spreads.
    """

    name: str
    op: str
    state: str
    reason: str = ""
    dead: tuple[int, int] = (0, 0)
    error: float = 0.0


def wrapped(name: str, proto: onnx.ModelProto, inputs: list[Array | None]) -> onnx.ModelProto | str:
    """The node test between two layers, or why it cannot be. Tests of a function's body are wrapped whole."""
    if len(proto.graph.output) == 0 or not proto.graph.node:
        return "no nodes or no outputs"
    given = [item.name for item in proto.graph.input]
    known = dict(zip(given, map(_widened, inputs), strict=False))
    place = next((i for i, n in enumerate(given) if _carries_channels(known.get(n))), None)
    if place is None:
        return "no floating-point input with channels"
    data = known[given[place]]
    assert data is not None
    if any(value is None for key, value in known.items() if key != given[place]):
        return "inputs that are no tensors"
    opset = max([runnable(node) for node in proto.graph.node])
    if opset > NEWEST:
        return "an operator newer than the runtime"
    if any(attribute.HasField("g") for node in proto.graph.node for attribute in node.attribute):
        return "control flow"
    rng = np.random.default_rng(len(name))
    front, values = _front(data, given[place], rng)
    constants = {key: value for key, value in known.items() if key != given[place] and value is not None}
    behind, made, wanted = _behind(proto, [out.name for out in proto.graph.output], rng)
    values |= {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    types = {out.name: out.type.tensor_type.elem_type for out in proto.graph.output}
    graph = helper.make_graph(
        [*front, *proto.graph.node, *behind],
        "wrapped",
        [helper.make_tensor_value_info("image", 1, [data.shape[0], 3, *data.shape[2:]])],
        [helper.make_tensor_value_info(out, types.get(out, 1), None) for out in wanted],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in {**values, **constants, **made}.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(proto.ir_version, 10)
    )


def _widened(value: Array | None) -> Array | None:
    """A map of one channel becomes one of four, that there is something to remove."""
    if value is None or value.dtype != np.float32 or value.ndim < 4 or value.shape[1] != 1:
        return value
    return np.repeat(value, 4, axis=1)


def runnable(node: onnx.NodeProto) -> int:
    """The newest opset of the runtime that has a node, or one beyond where none does."""
    if node.domain not in ("", "ai.onnx"):
        return NEWEST + 1
    try:
        schema = onnx.defs.get_schema(node.op_type, max_inclusive_version=NEWEST)
    except onnx.defs.SchemaError:
        return NEWEST + 1
    known = all(attribute.name in schema.attributes for attribute in node.attribute)
    return NEWEST if known and len(node.input) <= schema.max_input else NEWEST + 1


def _carries_channels(value: Array | None) -> bool:
    return (
        value is not None
        and value.dtype == np.float32
        and 2 <= value.ndim <= 5
        and value.shape[1] >= 2
        and (0 < value.size <= LARGEST)
    )


def _front(data: Array, name: str, rng: np.random.Generator) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    width, rank = data.shape[1], data.ndim
    gamma, beta = rng.uniform(0.5, 1.5, width), rng.uniform(0.2, 0.8, width)
    dead = rng.permutation(width)[: max(width // 2, 1)]
    gamma[dead] = beta[dead] = 0.0
    values = {
        "front_w": rng.standard_normal((width, 3, *(1,) * (rank - 2))),
        "gamma": gamma,
        "beta": beta,
        "mean": 0.1 * rng.standard_normal(width),
        "var": rng.uniform(2.0, 4.0, width),
    }
    first = (
        helper.make_node("Gemm", ["image", "front_w"], ["front"], transB=1)
        if rank == 2
        else helper.make_node("Conv", ["image", "front_w"], ["front"])
    )
    norm = helper.make_node("BatchNormalization", ["front", "gamma", "beta", "mean", "var"], [name])
    return [first, norm], {key: value.astype(np.float32) for key, value in values.items()}


def _behind(
    proto: onnx.ModelProto, outputs: list[str], rng: np.random.Generator
) -> tuple[list[onnx.NodeProto], dict[str, Array], list[str]]:
    """A layer behind every floating-point output that has a channel axis; others are outputs as they are."""
    nodes, values, wanted = [], {}, []
    shapes = {
        out.name: (out.type.tensor_type.elem_type, [d.dim_value for d in out.type.tensor_type.shape.dim])
        for out in proto.graph.output
    }
    for index, out in enumerate(outputs):
        kind, shape = shapes.get(out, (0, []))
        if kind != 1 or len(shape) < 2 or 0 in shape:
            wanted.append(out)
            continue
        weight, y = f"behind_w{index}", f"behind_y{index}"
        values[weight] = rng.standard_normal((4, shape[1], *(1,) * (len(shape) - 2))).astype(np.float32)
        attrs = {"transB": 1} if len(shape) == 2 else {}
        nodes.append(helper.make_node("Gemm" if len(shape) == 2 else "Conv", [out, weight], [y], **attrs))
        wanted.append(y)
    return nodes, values, wanted


def every_case() -> Iterator[tuple[str, onnx.ModelProto, list[Array | None]]]:
    """All of onnx's node tests: name, model, inputs (None for sequences and optionals)."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        for case in collect_testcases(None):
            if case.model is None or not case.data_sets:
                continue
            inputs = [v if isinstance(v, np.ndarray) else None for v in case.data_sets[0][0]]
            yield case.name, case.model, inputs


def check(name: str, proto: onnx.ModelProto, inputs: list[Array | None]) -> Outcome:
    """Wrap a node test, prune it, and compare."""
    op = proto.graph.node[0].op_type if len(proto.graph.node) == 1 else "written out"
    source = wrapped(name, proto, inputs)
    if isinstance(source, str):
        return Outcome(name, op, "skipped", source)
    try:
        feeds = random_feeds(source)
        expected = run_onnx(source, feeds)
    except Exception as error:
        return Outcome(name, op, "skipped", f"onnxruntime: {str(error).splitlines()[0][:80]}")
    if any(not np.isfinite(v).all() for v in expected.values() if v.dtype.kind == "f"):
        return Outcome(name, op, "skipped", "not finite")
    return _compare(name, op, source, feeds, expected)


def _compare(name: str, op: str, source: onnx.ModelProto, feeds: Feeds, expected: Feeds) -> Outcome:
    model = Model.from_onnx(source)
    PassManager([Canonicalise(), ShuffleToGather(), Canonicalise()]).run(model)
    error = worst(expected, run_onnx(model, feeds))
    channels = open_plan(model).channels
    front = next((t for t in model.graph.tensors().values() if t.name == "front_w"), None)
    if front is None:
        return Outcome(name, op, "skipped" if error <= ROUNDING else "wrong", "it reads no values", error=error)
    classes = np.unique(np.concatenate([u.labels for u in channels.uses if u.constant is front and u.role == "out"]))
    free = [cls for cls in classes.tolist() if channels.frozen[cls] is None]
    gamma = next(t for t in model.graph.tensors().values() if t.name == "gamma").values
    dead = int((gamma == 0).sum())
    width = len(gamma)
    model.plan = None
    after = model.copy()
    PassManager([PruneChannels(), AbsorbConstants(scope="exact"), SliceChannels()]).run(after)
    left = next((t.shape[0] for t in after.graph.tensors().values() if t.name == "gamma"), 0)
    error = max(error, worst(expected, run_onnx(after, feeds)))
    for seed in range(3):
        attempt = model.copy()
        attempt.plan = None
        plan = remove_random(attempt, seed=seed)
        if plan.removed:
            reference = run_onnx(masked(attempt, plan), feeds)
            PassManager([SliceChannels()]).run(attempt)
            error = max(error, worst(reference, run_onnx(attempt, feeds)))
    reasons = "; ".join(sorted({channels.frozen[cls] or "" for cls in classes.tolist()} - {""}))
    return Outcome(name, op, "pruned" if free else "held", reasons, (width - left, dead), error)


def worst(reference: Feeds, found: Feeds) -> float:
    """The worst difference in spreads; elements that are not finite in both count as equal."""
    cleaned = [
        {k: np.nan_to_num(v) if v.dtype.kind == "f" else v for k, v in part.items()} for part in (reference, found)
    ]
    return max(differences(*cleaned).values(), default=0.0)
