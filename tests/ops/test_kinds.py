"""Every pool, normalisation, reduction, movement and element-wise operator between two convolutions.

    x → Conv → BatchNormalization (three of eight channels dead) → the operator → Conv → y

onnxruntime and onnx.reference agree on the source; what is dead goes without a difference, a random choice equals its
mask, and ncnn and torch compute the same or refuse by the operator's name. Functions of one input: `test_functions`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.ops.registry import KINDS
from onnxslim_yolo.passes import AbsorbConstants, Canonicalise, PruneChannels, SliceChannels
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.runtime.ncnn_run import NcnnSession
from onnxslim_yolo.verify.ncnn_compare import compare_outputs
from tests.emit.ncnn_session import fresh_session
from tests.kinds import EXACT, TRUNK, text_of, trunk
from tests.numeric import build, differences, random_feeds, run_onnx
from tests.passes.cutting import remove_random

BOTH = "k = Greater(f, h) d = Less(f, i)"
PLACES = 'coordinate_transformation_mode="asymmetric"'
AFFINE = "float[8] n.gamma, float[8] n.beta"
NUMBERS: dict[str, list[int]] = {
    "one": [1], "two": [2], "three": [3], "nine": [9], "space": [2, 3], "sizes": [5, 3],
    "order": [7, 2, 0, 4, 5, 1, 6, 3],
    "pads": [0, 0, 1, 0, 0, 0, 0, 2], "flat": [1, 8, 36, 1], "wide": [1, 8, 6, 6], "twice": [1, 1, 2, 1], "five": [5],
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One operator: its body from f to q, and what comes of it.

    Attributes:
        width: q's channels. dead: how many of the three dead channels go. weights: declared further.
        opset: of the graph. reference: whether onnx.reference has it. alive: of zeros it makes no numbers.
    """

    body: str
    width: int = 8
    dead: int = 3
    weights: str = ""
    opset: int = 17
    reference: bool = True
    alive: bool = False


def unary(text: str, **more: object) -> Case:
    return Case(f"q = {text}", **more)  # type: ignore[arg-type]


CASES: dict[str, Case] = {
    **{op: unary(f"{op}(f, g)") for op in ("Add", "Sub", "Mul", "Max", "Min")},
    **{op: unary(f"{op}(f, g, f)") for op in ("Sum", "Mean")},
    "Div": Case("e = Exp(g) q = Div(f, e)"),
    "Pow": Case("a = Abs(f) q = Pow(a, twos)", weights="float twos = {2.0}"),
    "PRelu": Case("q = PRelu(f, s)", weights="float[8,1,1] s"),
    "Clip": Case("q = Clip(f, low, high)", weights="float low = {-0.5}, float high = {0.7}"),
    "Mod": Case("q = Mod<fmod=1>(f, m)", weights="float m = {0.7}"),
    "Where": Case("k = Greater(f, z) q = Where(k, f, g)", weights="float z = {0.0}"),
    **{
        op: Case(f"k = {op}(f, h) q = Cast<to=1>(k)", weights="float h = {0.3}", dead=3)
        for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual")
    },
    "Equal": Case("k = Equal(f, h) q = Cast<to=1>(k)", weights="float h = {0.3}"),
    "Not": Case("k = Greater(f, h) d = Not(k) q = Cast<to=1>(d)", weights="float h = {0.3}"),
    **{
        op: Case(f"{BOTH} e = {op}(k, d) q = Cast<to=1>(e)", weights="float h = {-0.3}, float i = {0.4}", dead=0)
        for op in ("And", "Or", "Xor")
    },
    "MaxPool": unary("MaxPool<kernel_shape=[3,2],strides=[2,1],pads=[1,0,1,1]>(f)"),
    "AveragePool": unary("AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1>(f)"),
    "LpPool": unary("LpPool<kernel_shape=[2,2],p=2>(f)", reference=False),
    **{op: unary(f"{op}(f)") for op in ("GlobalMaxPool", "GlobalAveragePool")},
    "GlobalLpPool": unary("GlobalLpPool(f)", reference=False),
    "Resize": unary(f'Resize<mode="nearest",{PLACES},nearest_mode="floor">(f, , scales)'),
    "Upsample": unary("Upsample(f, scales)", opset=9, reference=False),
    "GridSample": Case("q = GridSample(f, grid)", weights="float[1,4,5,2] grid", opset=16, reference=False),
    "Pad": unary("Pad(f, pads)"),
    "BatchNormalization": unary(
        "BatchNormalization(f, n.gamma, n.beta, n.mean, n.var)", weights=f"{AFFINE}, float[8] n.mean, float[8] n.var"
    ),
    "InstanceNormalization": unary("InstanceNormalization(f, n.gamma, n.beta)", weights=AFFINE),
    "GroupNormalization": unary(
        "GroupNormalization<num_groups=2>(f, n.gamma, n.beta)", weights=AFFINE, opset=21, dead=0
    ),
    "LayerNormalization": unary(
        "LayerNormalization<axis=2>(f, n.scale, n.shift)", weights="float[6,6] n.scale, float[6,6] n.shift", dead=0
    ),
    "RMSNormalization": unary("RMSNormalization<axis=-1>(f, n.scale)", weights="float[6] n.scale", opset=23),
    "MeanVarianceNormalization": unary("MeanVarianceNormalization<axes=[2,3]>(f)", dead=0, alive=True),
    "LpNormalization": unary("LpNormalization<axis=2>(f)", dead=0, reference=False, alive=True),
    "LRN": unary("LRN<size=3>(f)", dead=0, reference=False),
    "Softmax": unary("Softmax<axis=3>(f)", dead=0),
    "LogSoftmax": unary("LogSoftmax<axis=2>(f)", dead=0),
    "Hardmax": unary("Hardmax<axis=2>(f)", dead=0),
    **{op: Case(f"a = Softplus(f) q = {op}(a, space)", opset=18) for op in KINDS if KINDS[op] == "reduction"},
    "Reshape": Case("a = Reshape(f, flat) q = Reshape(a, wide)"),
    "Flatten": Case("a = Flatten<axis=2>(f) q = Reshape(a, wide)"),
    "Squeeze": Case("a = Unsqueeze(f, two) q = Squeeze(a, two)"),
    "Unsqueeze": Case("p = ReduceMax<axes=[2],keepdims=0>(f) q = Unsqueeze(p, three)"),
    "Transpose": Case("a = Transpose<perm=[0,2,3,1]>(f) q = Transpose<perm=[0,3,1,2]>(a)"),
    "Identity": unary("Identity(f)"),
    "Dropout": unary("Dropout(f)"),
    "Cast": Case("a = Cast<to=11>(f) q = Cast<to=1>(a)"),
    "CastLike": unary("CastLike(f, g)"),
    "Concat": Case("q = Concat<axis=1>(f, g)", width=16),
    "Split": Case("a, b = Split<axis=1>(f, sizes) q = Concat<axis=1>(b, a)"),
    "Slice": Case("q = Slice(f, one, nine, one)", width=7, dead=3),
    "Gather": Case("q = Gather<axis=1>(f, order)"),
    "GatherElements": Case("i = Shape(f) q = Identity(f)"),
    "Expand": Case("p = GlobalAveragePool(f) q = Expand(p, wide)"),
    "Tile": Case("q = Tile(f, twice)"),
    "SpaceToDepth": Case("q = SpaceToDepth<blocksize=2>(f)", width=32),
    "DepthToSpace": Case('q = DepthToSpace<blocksize=2,mode="CRD">(f)', width=2, dead=0),
    "DepthToSpace, depth first": Case("q = DepthToSpace<blocksize=2>(f)", width=2, dead=0),
    "CenterCropPad": Case("q = CenterCropPad<axes=[2]>(f, five)", opset=18),
    "Trilu": Case("q = Trilu(f)", dead=0),
    "CumSum": Case("q = CumSum(f, axis)", weights="int32 axis = {2}"),
}  # fmt: skip
"""Operator → between what it stands."""


def model_of(case: Case) -> Model:
    (front, values) = trunk(dead=0 if case.alive else 3)
    values = {k: np.asarray(v) for k, v in values.items()}
    values["g.beta"] = np.linspace(0.4, 0.9, 8) * (values["g.gamma"] != 0)
    given = [f"int64[{len(v)}] {k}" for k, v in NUMBERS.items() if re.search(rf"\b{k}\b", case.body)]
    given += ["float[4] scales"] if "scales" in case.body else []
    second = "v = Conv<pads=[1,1,1,1]>(x, w2) g = Mul(v, mask)" if re.search(r"\bg\b", case.body) else ""
    given += ["float[8,3,3,3] w2", "float[1,8,1,1] mask"] if second else []
    weights = ", ".join(filter(None, [TRUNK, case.weights, *given, f"float[4,{case.width},1,1] w1"]))
    body = f"{front} {second} {case.body} y = Conv(q, w1)"
    constants = {k: np.asarray(v) for k, v in NUMBERS.items()} | {"scales": np.asarray([1.0, 1, 2, 2])}
    constants["mask"] = (values["g.gamma"] != 0).astype(float)
    constants["grid"] = np.random.default_rng(5).uniform(-0.9, 0.9, (1, 4, 5, 2))
    return build(
        text_of("float[1,3,6,6] x", "float[a,b,c,d] y", weights, body, case.opset), values={**values, **constants}
    )


def worst(a: dict[str, Array], b: dict[str, Array]) -> float:
    return max(differences(a, b).values())


@pytest.fixture(scope="module")
def session() -> NcnnSession:
    with fresh_session() as opened:
        yield opened  # type: ignore[misc]


@pytest.mark.parametrize("name", CASES)
def test_between_two_convolutions(name: str, session: NcnnSession) -> None:
    case, op = CASES[name], name.split(",")[0]
    source = model_of(case)
    feeds = random_feeds(source)
    expected = run_onnx(source, feeds)
    if case.reference:
        (found,) = ReferenceEvaluator(source.to_onnx()).run(None, feeds)
        assert worst({"y": np.asarray(found)}, expected) < EXACT
    # What is dead goes, and nothing changes.
    dead = source.copy()
    PassManager([Canonicalise(), PruneChannels(), AbsorbConstants(scope="exact"), SliceChannels()]).run(dead)
    assert worst(expected, run_onnx(dead, feeds)) < EXACT
    gone = 8 - dead.graph.tensors()["w0"].shape[0]
    assert gone == case.dead, f"{gone} of three dead channels went"
    # A random choice equals its mask.
    cut = source.copy()
    PassManager([Canonicalise()]).run(cut)
    plan = remove_random(cut, 0.4)
    if not plan.keep.all():
        reference = run_onnx(masked(cut, plan), feeds)
        PassManager([SliceChannels()]).run(cut)
        assert worst(reference, run_onnx(cut, feeds)) < EXACT
    in_ncnn(op, dead, feeds, session)
    in_torch(op, dead, feeds)


def in_ncnn(op: str, model: Model, feeds: dict[str, Array], session: NcnnSession) -> None:
    """The same in ncnn, or a refusal that says what it is about."""
    try:
        pair = emit_ncnn(model, cut=False, weights="fp32")
    except UnsupportedError as error:
        assert "ncnn cannot express" in str(error)
        return
    (found,) = compare_outputs(model, pair, [feeds], session=session)
    assert found.relative < 1e-3


def in_torch(op: str, model: Model, feeds: dict[str, Array]) -> None:
    """The same in torch, or a refusal that says what it is about."""
    torch = pytest.importorskip("torch")
    from onnxslim_yolo.emit.torch import to_torch

    try:
        module = to_torch(model)
        with torch.no_grad():
            found = module(torch.from_numpy(feeds["x"]))
    except UnsupportedError as error:
        assert str(error)
        return
    assert worst({"y": found.numpy()}, run_onnx(model, feeds)) < EXACT


def test_every_operator_of_these_kinds_is_here_or_has_a_test_of_its_own() -> None:
    in_node_tests = {
        *("IsInf", "IsNaN", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "GatherND", "Compress"),
        *("ReverseSequence", "ScatterND", "ScatterElements", "Scatter"),
    }
    kinds = ("element-wise", "pool", "resize", "norm", "reduction", "movement")
    wanted = {op for op, kind in KINDS.items() if kind in kinds}
    assert wanted - {name.split(",")[0] for name in CASES} == in_node_tests


def test_the_check_notices_one_percent() -> None:
    source = model_of(CASES["MaxPool"])
    spoiled = source.copy()
    weight = spoiled.graph.tensors()["w1"]
    weight.values = weight.values * np.random.default_rng(0).choice([0.99, 1.01], weight.values.shape).astype(
        np.float32
    )
    feeds = random_feeds(source)
    assert worst(run_onnx(source, feeds), run_onnx(spoiled, feeds)) > 10 * EXACT
