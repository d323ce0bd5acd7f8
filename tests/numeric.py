"""Numeric comparison for tests: run graphs in onnxruntime, compare tightly, and prove that the comparison can fail.

The difference of two outputs is the worst |Δ| over the spread (standard deviation) of the reference, so that an output
that hardly varies is not compared against its large mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes.protocol import Pass

TIGHT = 2e-5
"""Tolerance for float32 graphs, as worst |Δ| / spread."""

PADS_BEFORE_MAXPOOL = tuple(int(part) for part in ort.__version__.split(".")[:2]) < (1, 32)
"""Whether this onnxruntime still fuses a zero Pad into a MaxPool where that is wrong: up to 1.31 it does."""

DYNAMIC_SIZE = 2
"""What a dimension without a number becomes in random feeds."""

_DOTTED = re.compile(r"\b[A-Za-z_]\w*(?:\.\w+)+")
"""Names with dots, as a state_dict has them; ONNX text wants those quoted."""

AnyModel = Model | onnx.ModelProto
Feeds = dict[str, Array]


def build(text: str, *, seed: int = 0, values: dict[str, Array] | None = None) -> Model:
    """A Model from ONNX text, with shapes inferred. Declared tensors that nothing computes become random weights.

    Weights have unit gain, so that activations neither vanish nor explode: fan-in scaled where of two or more
    dimensions, in [0.5, 1.5] where named …scale, …gamma or …var, and standard normal otherwise. `values` fixes some.
    Names may have dots, as in a state_dict.
    """
    proto = onnx.parser.parse_model(_DOTTED.sub(r'"\g<0>"', text))
    graph, rng = proto.graph, np.random.default_rng(seed)
    known = {t.name for t in (*graph.initializer, *graph.input)} | {name for n in graph.node for name in n.output}
    for info in [info for info in graph.value_info if info.name not in known]:
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        value = (values or {}).get(info.name)
        value = random_weight(info.name, shape, rng) if value is None else np.asarray(value).reshape(shape)
        graph.initializer.append(numpy_helper.from_array(value.astype(dtype), info.name))
        graph.value_info.remove(info)
    onnx.checker.check_model(proto)
    model = Model.from_onnx(proto)
    reinfer(model.graph)
    return model


def random_weight(name: str, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """A random weight of unit gain (see `build`)."""
    if name.endswith(("scale", "gamma", "var")):
        return rng.uniform(0.5, 1.5, shape)
    value = rng.standard_normal(shape)
    return value / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else value


def to_proto(model: AnyModel) -> onnx.ModelProto:
    """A ModelProto of either kind of model."""
    return model.to_onnx() if isinstance(model, Model) else model


def run_onnx(model: AnyModel, feeds: Feeds, optimise: bool = False) -> dict[str, Array]:
    """All outputs by name, run in onnxruntime on one thread, with its graph optimisations on or off."""
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def random_feeds(model: AnyModel, seed: int = 0) -> Feeds:
    """Standard normal inputs of the graph's types and shapes; dimensions without a number become 2."""
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for info in to_proto(model).graph.input:
        kind = info.type.tensor_type
        shape = [dim.dim_value or DYNAMIC_SIZE for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        value = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 256, shape)
        feeds[info.name] = value.astype(dtype)
    return feeds


def differences(reference: Feeds, found: Feeds) -> dict[str, float]:
    """Per output the worst |Δ| over the reference's spread; infinite where shapes differ or a value is not finite."""
    assert reference.keys() == found.keys(), f"outputs {list(found)} instead of {list(reference)}"
    return {name: _difference(value, found[name]) for name, value in reference.items()}


def _difference(reference: Array, found: Array) -> float:
    if reference.shape != found.shape or reference.dtype != found.dtype:
        return math.inf
    if reference.dtype.kind != "f":
        return 0.0 if np.array_equal(reference, found) else math.inf
    a, b = reference.astype(np.float64), found.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    spread = float(a.std()) or float(np.abs(a).max()) or 1.0
    return float(np.abs(a - b).max(initial=0.0)) / spread


def assert_same(
    before: AnyModel,
    after: AnyModel,
    rtol: float = TIGHT,
    *,
    feeds: Feeds | None = None,
    seed: int = 0,
    optimise: Iterable[bool] = (False, True),
) -> None:
    """Every output of `after`, with onnxruntime's optimisations off and on, equals that of `before` with them off."""
    feeds = random_feeds(before, seed) if feeds is None else feeds
    reference = run_onnx(before, feeds)
    for setting in optimise:
        for name, difference in differences(reference, run_onnx(after, feeds, setting)).items():
            assert difference <= rtol, f"output '{name}' differs by {difference:.2e} > {rtol:.0e} (optimise={setting})"


def spoiled(model: AnyModel, weight: str | None = None, by: float = 0.01, *, whole: bool = False) -> onnx.ModelProto:
    """A copy with one weight off by 1 %: the largest element of `weight`, or of the largest initializer.

    `whole` spoils all elements of it: in a whole network a single one of a million may not show.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(to_proto(model))
    floats = [t for t in proto.graph.initializer if numpy_helper.to_array(t).dtype.kind == "f"]
    if weight is not None:
        floats = [t for t in floats if t.name == weight]
    assert floats, f"no float initializer{f' named {weight}' if weight else ''} to spoil"
    target = max(floats, key=lambda t: math.prod(t.dims))
    values = numpy_helper.to_array(target).copy()
    worst = ... if whole else np.unravel_index(np.abs(values).argmax(), values.shape)
    values[worst] *= 1 + by
    target.CopyFrom(numpy_helper.from_array(values, target.name))
    return proto


def assert_control_fails(
    before: AnyModel,
    after: AnyModel,
    rtol: float = TIGHT,
    *,
    weight: str | None = None,
    whole: bool = False,
    feeds: Feeds | None = None,
    seed: int = 0,
) -> None:
    """The comparison of `assert_same` must fail once one weight of `after` is off by 1 %."""
    with pytest.raises(AssertionError, match="differs by"):
        assert_same(before, spoiled(after, weight, whole=whole), rtol, feeds=feeds, seed=seed, optimise=(False,))


def rewritten(model: Model, step: Pass, *, rewrites: int) -> Model:
    """The model after a pass, through the pass manager: invariants hold, and a second run makes no rewrite."""
    after = model.copy()
    (record,) = PassManager([step]).run(after)
    assert record.rewrites == rewrites, f"{record.rewrites} rewrites instead of {rewrites}: {ops(after)}"
    assert PassManager([step]).run(after)[0].rewrites == 0, "a second run rewrites again"
    return after


def check_rewrite(
    model: Model,
    step: Pass,
    *,
    rewrites: int = 1,
    rtol: float = TIGHT,
    feeds: Feeds | None = None,
    control: bool = True,
) -> Model:
    """The model after a pass that must make `rewrites` rewrites and change nothing; with the control."""
    untouched = to_proto(model).SerializeToString()
    after = rewritten(model, step, rewrites=rewrites)
    assert to_proto(model).SerializeToString() == untouched, "the pass edited an array it shares with the source"
    assert_same(model, after, rtol, feeds=feeds)
    if control:
        assert_control_fails(model, after, rtol, feeds=feeds)
    return after


def check_declines(model: Model, step: Pass) -> None:
    """The pass must not touch the model."""
    untouched = to_proto(model).SerializeToString()
    after = rewritten(model, step, rewrites=0)
    assert to_proto(after).SerializeToString() == untouched


def ops(model: Model) -> list[str]:
    """The operators in order."""
    return [node.op for node in model.graph.nodes]


def constants(model: Model) -> dict[str, Array]:
    """Initializers by name."""
    return {t.name: t.values for t in model.graph.tensors().values() if isinstance(t, gs.Constant)}
