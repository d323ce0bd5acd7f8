"""Gradients carried back by ONNX nodes are those of finite differences, one by one and in detectors."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.adjoint import carry_back
from onnxslim_yolo.analysis.adjoint_nodes import Adjoint, shape_of
from onnxslim_yolo.analysis.adjoint_rules import ADJOINTS
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Array, copy_graph, input_constant, replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pipeline import preparation
from tests.numeric import build, run_onnx
from tests.passes.cutting import onnx_text
from tests.zoo import model_path

TOLERANCE = 2e-3
"""Of finite differences in float32; a weight spoilt by 5 % exceeds it."""

X = "float[1,4,8,8] x"
BODIES = {
    "Conv": ("float[6,4,3,3] w", "y = Conv<pads=[1,1,1,1],strides=[2,2]>(x, w)"),
    "Conv grouped": ("float[6,2,3,3] w", "y = Conv<pads=[2,0,1,2],dilations=[2,1],group=2>(x, w)"),
    "Conv of step 1": ("float[6,4,3,2] w", "y = Conv<pads=[1,0,0,1],dilations=[2,3]>(x, w)"),
    "Conv of step 1 in groups": ("float[6,2,3,3] w", "y = Conv<pads=[1,1,1,1],group=2>(x, w)"),
    "Conv padded far": ("float[3,4,2,2] w", "y = Conv<pads=[3,0,1,2]>(x, w)"),
    "Conv depthwise": ("float[4,1,3,5] w", "y = Conv<pads=[1,2,1,2],group=4>(x, w)"),
    "Conv depthwise, twice as many": ("float[8,1,3,3] w", "y = Conv<group=4>(x, w)"),
    "slopes by values": (
        "float[1] two = {2}", "a = Exp(x) b = Add(a, two) c = Reciprocal(b) d = Neg(c) e = Tan(d) y = Sigmoid(e)"),
    "ConvTranspose": ("float[4,3,2,2] w", "y = ConvTranspose<strides=[2,2]>(x, w)"),
    "ConvTranspose padded": ("float[4,1,3,3] w", "y = ConvTranspose<strides=[2,2],pads=[1,1,1,1],group=4>(x, w)"),
    "Gemm": ("float[5,256] w, int64[2] s = {1, 256}", "f = Reshape(x, s) y = Gemm<transB=1,alpha=0.5>(f, w)"),
    "MatMul": ("float[8,5] w", "y = MatMul(x, w)"),
    "MatMul of two": ("float[8,5] w", "t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, t)"),
    "BatchNormalization": (
        "float[4] a_gamma, float[4] b, float[4] m, float[4] v_var",
        "y = BatchNormalization(x, a_gamma, b, m, v_var)",
    ),
    "Sub and broadcast": ("float[4,1,1] w", "m = GlobalAveragePool(x) s = Sub(w, m) y = Mul(s, x)"),
    "Div": ("float[1] one = {3}", "s = Exp(x) t = Add(s, one) y = Div(x, t)"),
    "Softmax": ("float[1] one = {3}", "y = Softmax<axis=1>(x)"),
    "SiLU": ("float[1] one = {3}", "s = Sigmoid(x) y = Mul(x, s)"),
    "Clip without a bound": ("float most = {9}", "y = Clip(x, , most)"),
    "functions": ("float[1] two = {2}", "a = HardSwish(x) b = Tanh(a) c = Softplus(b) y = Pow(c, two)"),
    "functions that end at zero": (
        "float[1] k = {0.001}, float[1] n = {300}, float[4,1,1] p = {0.5, 1.5, -0.5, 0.3}",
        "e = Exp(x) t = Mul(e, k) a = Sqrt(t) b = Log(t) c = Reciprocal(t) d = Div(c, n) f = Pow(t, p) "
        "y = Sum(a, b, d, f)",
    ),
    "Identity and Dropout": ("float[1] one = {3}", "a = Identity(x) b = Dropout(a) y = Mul(b, x)"),
    "Concat and Split": ("int64[2] n = {1, 3}", "a, b = Split<axis=1>(x, n) y = Concat<axis=1>(b, a, b)"),
    "Slice": (
        "int64[2] a = {1, -1}, int64[2] b = {7, -9}, int64[2] c = {2, 3}, int64[2] d = {2, -1}",
        "y = Slice(x, a, b, c, d)",
    ),
    "Gather": ("int64[5] i = {3, 0, 3, 1, 3}", "y = Gather<axis=1>(x, i)"),
    "Gather of two": ("int64[3] i = {3, 0, 3}", "y = Gather<axis=-3>(x, i)"),
    "Gather of a matrix": ("int64[2,2] i = {3, -2, 0, 3}", "y = Gather<axis=2>(x, i)"),
    "Gather of one": ("int64 i = {-3}", "y = Gather<axis=1>(x, i)"),
    "Split in part": ("int64[2] n = {1, 3}", "a, b = Split<axis=-3>(x, n) y = Relu(b)"),
    "Pad": ("int64[8] p = {0, 0, 1, 2, 0, 0, 0, 3}", "y = Pad(x, p)"),
    "Resize": ("float[0] r, float[4] s = {1, 1, 2, 3}", "y = Resize<mode=\"nearest\",nearest_mode=\"floor\","
               "coordinate_transformation_mode=\"asymmetric\">(x, r, s)"),
    "ReduceMean": ("float[1] one = {3}", "y = ReduceMean<axes=[2,3],keepdims=0>(x)"),
    "AveragePool": ("float[1] one = {3}", "y = AveragePool<kernel_shape=[2,2],strides=[2,2]>(x)"),
    "MaxPool": ("float[1] one = {3}", "y = MaxPool<kernel_shape=[5,5],pads=[2,2,2,2]>(x)"),
    "MaxPool strided": ("float[1] one = {3}", "y = MaxPool<kernel_shape=[3,2],strides=[2,2],pads=[1,0,1,0]>(x)"),
    "Conv SAME": ("float[6,4,3,2] w", "y = Conv<auto_pad=\"SAME_UPPER\",strides=[2,3]>(x, w)"),
    "Conv VALID": ("float[6,4,3,3] w", "y = Conv<auto_pad=\"VALID\">(x, w)"),
    "Conv of a row": ("float[6,4,3] w, int64[3] s = {1, 4, 64}",
                      "f = Reshape(x, s) y = Conv<auto_pad=\"VALID\",strides=[2]>(f, w)"),
    "ConvTranspose with more": (
        "float[4,3,3,3] w", "y = ConvTranspose<strides=[2,3],pads=[1,0,1,1],output_padding=[1,2]>(x, w)"),
    "Gemm the other way": ("float[256,5] w, int64[2] s = {1, 256}", "f = Reshape(x, s) y = Gemm<alpha=0.5>(f, w)"),
    "MatMul from the left": ("float[3,4,5,8] w", "y = MatMul(w, x)"),
    "MaxPool ceil": ("float[1] one = {3}", "y = MaxPool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(x)"),
    "MaxPool SAME": ("float[1] one = {3}", "y = MaxPool<kernel_shape=[2,3],strides=[3,2],auto_pad=\"SAME_LOWER\">(x)"),
    "AveragePool ceil": ("float[1] one = {3}", "y = AveragePool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(x)"),
    "AveragePool inside": ("float[1] one = {3}", "y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x)"),
    "AveragePool VALID": (
        "float[1] one = {3}", "y = AveragePool<kernel_shape=[3,2],strides=[2,3],auto_pad=\"VALID\">(x)"),
    "AveragePool VALID, counting": (
        "float[1] one = {3}",
        "y = AveragePool<kernel_shape=[3,2],strides=[2,3],auto_pad=\"VALID\",count_include_pad=1>(x)"),
    "Max of one": ("float[1] one = {3}", "y = Max(x)"),
    "AveragePool ceil, padded": (
        "float[1] one = {3}",
        "y = AveragePool<kernel_shape=[3,3],strides=[2,2],pads=[0,1,0,1],ceil_mode=1,count_include_pad=1>(x)"),
    "AveragePool padded": (
        "float[1] one = {3}", "y = AveragePool<kernel_shape=[3,2],pads=[1,0,2,1],count_include_pad=1>(x)"),
    "AveragePool SAME": (
        "float[1] one = {3}", "y = AveragePool<kernel_shape=[3,3],strides=[2,2],auto_pad=\"SAME_UPPER\">(x)"),
    "Resize linear": ("float[4] s = {1, 1, 1.5, 0.75}", "y = Resize<mode=\"linear\">(x, , s)"),
    "Resize aligned": ("int64[4] s = {1, 4, 13, 8}", "y = Resize<mode=\"linear\","
                       "coordinate_transformation_mode=\"align_corners\">(x, , , s)"),
    "Resize with empty scales": ("float[0] e, int64[4] s = {1, 4, 13, 5}", "y = Resize<mode=\"linear\">(x, e, e, s)"),
    "Resize by too little": ("float[4] s = {1, 1, 1.1, 1.05}", "y = Resize<mode=\"linear\">(x, , s)"),
    "Resize by a little": ("float[4] s = {1, 1, 2, 1.1}", "y = Resize<mode=\"linear\">(x, , s)"),
    "Resize cubic": ("float[4] s = {1, 1, 2, 0.5}", "y = Resize<mode=\"cubic\",cubic_coeff_a=-0.5>(x, , s)"),
    "Resize nearest, not whole": ("int64[4] s = {1, 4, 5, 11}", "y = Resize<mode=\"nearest\">(x, , , s)"),
    "LayerNormalization": (
        "float[8] a_gamma, float[8] b", "y = LayerNormalization<axis=-1,epsilon=0.01>(x, a_gamma, b)"),
    "LayerNormalization of two": ("float[8,8] a_gamma", "y = LayerNormalization<axis=2>(x, a_gamma)"),
    "InstanceNormalization": ("float[4] a_gamma, float[4] b", "y = InstanceNormalization(x, a_gamma, b)"),
    "MeanVarianceNormalization": ("float[1] one = {3}", "y = MeanVarianceNormalization<axes=[0,2,3]>(x)"),
    "LpNormalization": ("float[1] one = {3}", "y = LpNormalization<axis=1,p=2>(x)"),
    "ReduceMax": ("float[1] one = {3}", "y = ReduceMax<axes=[1],keepdims=0>(x)"),
    "ReduceMin": ("float[1] one = {3}", "m = ReduceMin<axes=[2,3]>(x) y = Mul(m, x)"),
    "GlobalMaxPool": ("float[1] one = {3}", "m = GlobalMaxPool(x) y = Sub(x, m)"),
    "ReduceSum": ("int64[1] k = {-1}", "y = ReduceSum<keepdims=0>(x, k)"),
    "ReduceSum of nothing": ("float[1] one = {3}", "s = ReduceSum<noop_with_empty_axes=1>(x) y = Mul(s, x)"),
    "ReduceSum of all": (
        "int64[1] k = {1}", "a = ReduceSum(x) s = ReduceSum<noop_with_empty_axes=1>(x, k) y = Mul(a, s)"),
    "ReduceMean of all": ("float[1] one = {3}", "a = ReduceMean<keepdims=0>(x) y = Mul(a, x)"),
    "lengths": ("float[1] one = {3}", "a = ReduceL2<axes=[1]>(x) b = Div(x, a) c = ReduceL1<axes=[1]>(b) "
                "d = ReduceSumSquare<axes=[3],keepdims=0>(b) e = ReduceMean<axes=[3],keepdims=0>(c) y = Mul(d, e)"),
    "GatherElements": ("int64[1,4,3,2] i", "y = GatherElements<axis=2>(x, i)"),
    "Tile": ("int64[4] r = {2, 1, 3, 2}", "y = Tile(x, r)"),
    "DepthToSpace": ("float[1] one = {3}", "n = Exp(x) c = Concat<axis=1>(x, n) y = DepthToSpace<blocksize=2>(c)"),
    "DepthToSpace CRD": ("float[1] one = {3}",
                         "n = Exp(x) c = Concat<axis=1>(x, n) y = DepthToSpace<blocksize=2,mode=\"CRD\">(c)"),
    "SpaceToDepth": ("float[1] one = {3}", "y = SpaceToDepth<blocksize=4>(x)"),
    "LogSoftmax": ("float[1] one = {3}", "y = LogSoftmax<axis=1>(x)"),
    "Max and Min": ("float[4,1,1] w", "m = GlobalAveragePool(x) n = Neg(x) a = Max(x, m, w) y = Min(a, n)"),
    "Mean of several": ("float[4,1,1] w", "m = GlobalAveragePool(x) y = Mean(x, m, w)"),
    "Where": ("float[1] zero = {0.0078}, float[4,1,1] w",
              "m = GlobalMaxPool(x) p = Greater(x, zero) a = Where(p, x, m) y = Where(p, w, a)"),
    "Cast": ("float[1] one = {3}", "d = Cast<to=11>(x) e = Cast<to=1>(d) y = Mul(e, x)"),
    "double precision": ("double[4,1,1] k = {1, 2, 3, 4}, double[1] two = {2}",
                         "d = Cast<to=11>(x) e = Div(d, k) m = Max(e, k) n = Pow(m, two) y = Cast<to=1>(n)"),
    "CastLike": ("float[1] one = {3}", "d = CastLike(x, one) y = Mul(d, x)"),
    "Expand": ("int64[5] s = {2, 1, 4, 8, 8}", "y = Expand(x, s)"),
}  # fmt: skip


def gradients(model: Model, feeds: dict[str, Array], seeds: dict[str, Array], wanted: str) -> Array:
    graph = copy_graph(model.graph)
    variables = {name: gs.Variable(f"{name}_seed", np.float32, value.shape) for name, value in seeds.items()}
    carried = carry_back(graph, variables, [wanted]).of
    graph.outputs = [carried[wanted]]
    found = run_onnx(Model(graph=graph), {**feeds, **{f"{n}_seed": v for n, v in seeds.items()}})
    return next(iter(found.values()))


def disagreement(model: Model, reference: Model, step: float = 1e-3) -> float:
    """How far gradients of `model` along random directions are from finite differences of `reference`."""
    rng = np.random.default_rng(0)
    tensor = model.graph.inputs[0]
    # No two values closer than the step reaches: a maximum stays where it is.
    x = (rng.permutation(np.prod(tensor.shape)) / 64 - 2).reshape(tensor.shape).astype(np.float32)
    seeds = {o.name: rng.standard_normal(shape_of(o)).astype(np.float32) for o in model.graph.outputs}
    g = gradients(model, {tensor.name: x}, seeds, tensor.name).astype(np.float64)
    assert np.isfinite(g).all()
    worst = 0.0
    for _ in range(3):
        d = rng.standard_normal(x.shape).astype(np.float32)
        ends = [run_onnx(reference, {tensor.name: (x + sign * step * d).astype(np.float32)}) for sign in (1, -1)]
        slope = sum(
            float((seeds[n].astype(np.float64) * (ends[0][n].astype(np.float64) - ends[1][n])).sum()) for n in seeds
        )
        worst = max(worst, abs(slope / (2 * step) - float((g * d).sum())) / float(np.linalg.norm(g)))
    return worst


@pytest.mark.parametrize("name", BODIES)
def test_every_operator(name: str) -> None:
    weights, body = BODIES[name]
    text = onnx_text(X, "float[a,b,c,d] y", weights, body).replace("float[a,b,c,d] y", "float y")
    positions = {"i": np.arange(24).reshape(1, 4, 3, 2) % 5} if name == "GatherElements" else None
    model = build(text, values=positions)
    assert disagreement(model, model) < TOLERANCE


@pytest.mark.parametrize(
    "weight, attrs, op",
    [
        ("float[6,4,3,3] w", "pads=[1,1,1,1]", "Conv"),
        ("float[4,1,3,3] w", "pads=[1,1,1,1],group=4", "Conv"),
        ("float[6,4,3,3] w", "pads=[1,1,1,1],strides=[2,2]", "ConvTranspose"),
        ("float[8,1,3,3] w", "pads=[1,1,1,1],group=4", "ConvTranspose"),
        ("float[6,4,1,1] w", "pads=[0,0,0,1]", "ConvTranspose"),
    ],
)
def test_a_convolution_of_step_1_is_carried_back_by_a_convolution(weight: str, attrs: str, op: str) -> None:
    graph = build(onnx_text(X, "float y", weight, f"y = Conv<{attrs}>(x, w)")).graph
    carry_back(graph, {"y": gs.Variable("y_seed", np.float32, shape_of(graph.outputs[0]))}, ["x"])
    assert [node.op for node in graph.nodes] == ["Conv", op]


def test_groups_are_normalised() -> None:
    body = "y = GroupNormalization<num_groups=2,epsilon=0.01>(x, a_gamma, b)"
    model = build(onnx_text(X, "float y", "float[4] a_gamma, float[4] b", body, 21))
    assert disagreement(model, model) < TOLERANCE


@pytest.mark.parametrize(
    "opset, weights, body",
    [
        (9, "float[4] s = {1, 1, 2, 3}", 'y = Upsample<mode="linear">(x, s)'),
        (7, "float[1] unread", "y = MaxPool<kernel_shape=[3,3],pads=[1,1,1,1]>(x)"),
        (9, "float[1] unread", "y = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x)"),
        (9, "float[1] unread", "a = Sigmoid(x) y = Concat<axis=1>(a, x)"),
        (9, "float[1] unread", "y = Slice<starts=[1],ends=[3],axes=[1]>(x)"),
        (9, "float[1] unread", "y = Pad<pads=[0,1,0,0,0,0,1,2]>(x)"),
        (9, "float[4,1,1] k", "y = Max(x, k)"),
        (9, "float[1] unread", "y = SpaceToDepth<blocksize=2>(x)"),
        (9, "float[1] unread", "y = DepthToSpace<blocksize=2>(x)"),
        (9, "float[1] unread", "y = ReduceMax<axes=[2]>(x)"),
        (9, "float[1] unread", "y = ReduceL1<axes=[2]>(x)"),
        (10, "float[4] s = {1, 1, 1.5, 2}", 'y = Resize<mode="linear">(x, s)'),
        (11, "float[8] r, float[4] s = {1, 1, 1.5, 2}", 'y = Resize<mode="linear">(x, r, s)'),
        (9, "float[5,256] w, float[5] b, int64[2] s = {1,256}", "f = Reshape(x, s) y = Gemm<transB=1>(f, w, b)"),
        (9, "float[1] one = {3}", "n = Exp(x) y = Concat<axis=1>(n, x)"),
        (10, "float[1] one = {3}", "n = Exp(x) y = Concat<axis=1>(n, x)"),
        (16, "int64[1,4,3,2] i", "y = GatherElements<axis=2>(x, i)"),
        (18, "int64[2] k = {1, -1}", "y = ReduceMax(x, k)"),
        (18, "int64[1] k = {2}", "y = ReduceL2<keepdims=0>(x, k)"),
        (18, "int64[1] k = {2}", "y = ReduceMean<keepdims=0>(x, k)"),
    ],
)
def test_as_other_opsets_spell_it(opset: int, weights: str, body: str) -> None:
    values = {"i": np.arange(24).reshape(1, 4, 3, 2) % 5}
    model = build(onnx_text(X, "float y", weights, body, opset), values=values)
    assert disagreement(model, model) < TOLERANCE


def test_root_mean_squares_are_normalised() -> None:
    """Opset 23, which onnxruntime may not run: against the same written out."""
    plain = "m = Mul(x, x) n = ReduceMean(m, k) o = Add(n, e) q = Sqrt(o) r = Div(x, q) y = Mul(r, a_gamma)"
    weights = "float[8] a_gamma, int64[1] k = {-1}, float[1] e = {0.01}"
    reference = build(onnx_text(X, "float y", weights, plain, 18))
    model = build(onnx_text(X, "float y", weights, plain, 18))
    last = model.graph.nodes[-1]
    gamma = last.inputs[1]
    stand_in = gs.Node("RMSNormalization", "rms", {"axis": -1, "epsilon": 0.01}, [model.graph.inputs[0], gamma])
    graph = copy_graph(model.graph)
    seed = gs.Variable("u", np.float32, (1, 4, 8, 8))
    found = ADJOINTS["RMSNormalization"](Adjoint(graph), stand_in, [seed])[0]
    graph.inputs, graph.outputs = [*graph.inputs, seed], [found]
    stand_in.inputs = []
    x, u = (np.random.default_rng(k).standard_normal((1, 4, 8, 8)).astype(np.float32) for k in (0, 1))
    ours = next(iter(run_onnx(Model(graph=graph), {"x": x, "u": u}).values()))
    theirs = gradients(reference, {"x": x}, {"y": u}, "x")
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_a_spoilt_weight_shows() -> None:
    model = build(onnx_text(X, "float y", *BODIES["Conv"]))
    spoilt = model.copy()
    weight = input_constant(spoilt.graph.nodes[0], 1)
    assert weight is not None
    replace_constant(spoilt.graph.nodes[0], 1, np.asarray(weight * np.float32(1.05)))
    assert disagreement(spoilt, model) > 5 * TOLERANCE


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "yolo11n"])
def test_a_whole_detector(name: str) -> None:
    """Against PyTorch's own gradients, at the input of the network."""
    torch = pytest.importorskip("torch")
    from onnxslim_yolo.emit.torch import to_torch

    model = Model.from_onnx(onnx.load(model_path(name)))
    PassManager(preparation(CompileOptions())).run(model)
    rng = np.random.default_rng(0)
    tensor = model.graph.inputs[0]
    x = rng.random(tensor.shape, np.float32)
    seeds = {o.name: rng.standard_normal(shape_of(o)).astype(np.float32) for o in model.graph.outputs}
    found = gradients(model, {tensor.name: x}, seeds, tensor.name)
    image = torch.from_numpy(x).requires_grad_(True)
    outputs = to_torch(model)(image)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(
        (o * torch.from_numpy(seeds[t.name])).sum() for o, t in zip(outputs, model.graph.outputs, strict=True)
    ).backward()
    expected = image.grad.numpy()
    assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()
    assert np.abs(found * np.float32(1.05) - expected).max() > 1e-2 * np.abs(expected).max()


def carried(weights: str, body: str, shape: tuple[int, ...] | None = None) -> list[str]:
    """The operators that carry y's cotangent back to x; `shape`: of y, where it is not inferred."""
    graph = copy_graph(build(onnx_text(X, "float y", weights, body)).graph)
    y = graph.outputs[0]
    y.shape = shape or y.shape
    before = len(graph.nodes)
    carry_back(graph, {y.name: gs.Variable("u", np.float32, shape_of(y))}, ["x"])
    return [node.op for node in graph.nodes[before:]]


@pytest.mark.parametrize(
    "weights, body, found",
    [
        ("float[4] s = {1, 1, 2, 3}", 'y = Resize<mode="nearest",nearest_mode="floor">(x, , s)', ["Conv"]),
        ("float[4] s = {1, 1, 2, 1}", 'y = Resize<mode="linear">(x, , s)', ["MatMul"]),
        ("float[4] s = {1, 1, 1, 2}", 'y = Resize<mode="linear">(x, , s)', ["MatMul"]),
        ("float[4] s = {1, 1, 1, 512}", 'y = Resize<mode="linear">(x, , s)', ["MatMul"]),
        ("float[4] s = {1, 1, 1, 1}", 'y = Resize<mode="linear">(x, , s)', []),
        ("int64[4] i = {0, 1, 2, 3}", "y = Gather<axis=1>(x, i)", []),
    ],
)
def test_no_more_than_it_takes(weights: str, body: str, found: list[str]) -> None:
    assert [op for op in carried(weights, body) if op != "Identity"] == found


@pytest.mark.parametrize(
    "weights, body, why",
    [
        ("float[1] two = {2}", "p = Mul(x, two) w = GlobalMaxPool(x) y = Conv(x, w)", "weight is not constant"),
        ("float[4,3,2,2] w", "c = Neg(w) d = Identity(x) y = ConvTranspose<output_shape=[9,9]>(d, w)", "its padding"),
        ("float[4,3,2,2] w", 'y = ConvTranspose<auto_pad="SAME_UPPER">(x, w)', "its padding"),
        ("float[8] w", "y = MatMul(x, w)", "one side is a vector"),
        ("float[8] w", "y = MatMul(w, x)", "one side is a vector"),
        ("int64[2] s = {256, 1}, float[256,3] w", "f = Reshape(x, s) y = Gemm<transA=1>(f, w)", "is transposed"),
        ("int64[1] one = {1}", "c = Cast<to=7>(x) y = Cast<to=1>(c)", "only from one floating-point type"),
        ("float[4] s = {1, 1, 1, 513}", 'y = Resize<mode="linear">(x, , s)', "its coordinates"),
        ("float[8] r = {0, 0, 0, 0, 1, 1, 1, 1}, float[4] s = {1, 1, 2, 2}",
         'y = Resize<mode="linear",coordinate_transformation_mode="tf_crop_and_resize">(x, r, s)', "its coordinates"),
        ("float[4] s = {1, 2, 2, 2}", 'y = Resize<mode="nearest">(x, , s)', "height and width alone"),
        ("int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1}", 'y = Pad<mode="reflect">(x, p)', "constant padding outwards"),
        ("int64[8] p = {0, 0, -1, 0, 0, 0, 0, 0}", "y = Pad(x, p)", "constant padding outwards"),
        ("int64[3] s = {1, 4, 64}", "f = Reshape(x, s) y = MaxPool<kernel_shape=[3]>(f)", "windows of two sides"),
        ("float[1] one = {1}", "y = LpNormalization<axis=1,p=1>(x)", "Euclidean"),
        ("float[1] one = {1}", "y = Floor(x)", "a step function"),
        ("float[1] one = {1}", "e = GlobalMaxPool(x) y = Pow(x, e)", "more than its first input varies"),
        ("float[3,4,8,8] e", "y = Pow(x, e)", "its input is broadcast"),
        ("float[4] b, float[4] m, float[4] v_var, int64[1] k = {-1}",
         "g = Flatten<axis=0>(m) h = Reshape(g, k) y = BatchNormalization(x, h, b, m, v_var)", "its statistics"),
        ("float[4] b, float[4] m, float[4] g_gamma, int64[1] k = {-1}",
         "f = Flatten<axis=0>(m) h = Reshape(f, k) y = BatchNormalization(x, g_gamma, b, m, h)", "its statistics"),
    ],
)  # fmt: skip
def test_what_has_no_gradient_says_why(weights: str, body: str, why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        carried(weights, body)


def test_of_computed_places_there_is_none() -> None:
    """Where the result's shape is known nevertheless: it is declared."""
    computed = "s = Shape(x) d = Sub(s, s) t = Add(d, r) "
    weights = "int64[4] r = {1, 1, 2, 1}, int64[4] e = {1, 1, 8, 4}, int64[8] p = {0, 0, 1, 0, 0, 0, 0, 0}"
    for body, shape, why in (
        ("y = Tile(x, t)", (1, 4, 16, 8), "its repeats"),
        ("y = Slice(x, d, e)", (1, 1, 8, 4), "its bounds"),
        ("y = Gather<axis=2>(x, t)", (1, 4, 4, 8), "its indices"),
        ("q = Concat<axis=0>(d, d) y = Pad(x, q)", (1, 4, 8, 8), "its pads"),
    ):
        with pytest.raises(UnsupportedError, match=why):
            carried(weights, computed + body, shape)


@pytest.mark.parametrize(
    "opset, found",
    [
        (7, "Less Greater Or Not Cast Sub Relu Add"),
        (8, "Less Greater Or Not Cast Max"),
        (10, "Less Greater Or Not Cast Max"),
        (11, "Equal Cast Max"),
    ],
)
def test_what_equals_and_what_is_least(opset: int, found: str) -> None:
    """In one node as soon as an opset has it for floats, broadcast."""
    graph, value = gs.Graph(opset=opset), gs.Variable("v", np.float32, (3,))
    adjoint = Adjoint(graph)
    equal, least = adjoint.hits(value, value), adjoint.at_least(value, 0.5)
    assert [node.op for node in graph.nodes] == found.split()
    graph.inputs, graph.outputs = [value], [equal, least]
    model = Model(graph=graph)
    model.graph.ir_version = 8
    told = run_onnx(model, {"v": np.array([0.25, 0.5, 2], np.float32)})
    assert [values.tolist() for values in told.values()] == [[1, 1, 1], [0.5, 0.5, 2]]


def test_what_an_opset_has_not_is_refused() -> None:
    """The slope of |x| is its sign, which is no operator before opset 9; and nothing is summed into place before 16."""
    picked = build(onnx_text(X, "float y", "int64[1,4,3,2] i", "y = GatherElements<axis=2>(x, i)", 15))
    with pytest.raises(UnsupportedError, match="before opset 16"):
        disagreement(picked, picked)
    model = build(onnx_text(X, "float y", "float[1] unread", "y = ReduceL1<axes=[2]>(x)", 8))
    with pytest.raises(UnsupportedError, match="it takes Sign, which opset 8 has not"):
        disagreement(model, model)


def test_an_unknown_operator_is_refused() -> None:
    assert "TopK" not in ADJOINTS
    model = build(onnx_text(X, "float y, int64 i", "int64[1] k = {2}", "y, i = TopK<axis=1>(x, k)"))
    with pytest.raises(UnsupportedError, match="TopK"):
        carry_back(copy_graph(model.graph), {"y": gs.Variable("u", np.float32, (1, 2, 8, 8))}, ["x"])


def test_a_sum_along_axes_that_are_computed_is_refused() -> None:
    model = build(onnx_text(f"{X}, int64[1] k", "float[1,1,8,8] y", "float[1] unread", "y = ReduceSum(x, k)"))
    with pytest.raises(UnsupportedError, match="its axes are not constant"):
        carry_back(copy_graph(model.graph), {"y": gs.Variable("u", np.float32, (1, 1, 8, 8))}, ["x"])
