"""Types that round: float16 graphs are compared with their own float32 evaluation; float16's 0 may have been more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxslim_yolo as oy
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.half import feeds_in_float32, in_float32, is_half
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx
from onnxslim_yolo.verify.judge import judge_of

KINDS = ("half", "half, batch norm", "half, sigmoid", "half weights cast", "half, deep", "half inside")


def build(kind: str, path: Path) -> Path:
    """A small convolutional network of this kind, 3 channels in and 6 out at 32×32."""
    rng = np.random.default_rng(3)
    inner = np.float32 if kind == "half weights cast" else np.float16
    outer = np.float16 if kind.startswith("half,") or kind == "half" else np.float32
    nodes, weights, now = [], [], "x"
    if kind == "half inside":
        nodes.append(helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16))
        now = "x16"
    width, depth = 3, 6 if kind == "half, deep" else 2
    for k in range(depth + 1):
        out = 6 if k == depth else 12
        w = (rng.normal(0, 1, (out, width, 3, 3)) * np.sqrt(2 / (9 * width))).astype(np.float16)
        b = rng.normal(0, 0.1, out).astype(np.float16)
        names = []
        for name, value in ((f"w{k}", w), (f"b{k}", b)):
            weights.append(numpy_helper.from_array(value, name))
            if inner is np.float32:
                nodes.append(helper.make_node("Cast", [name], [f"{name}_32"], to=TensorProto.FLOAT))
            names.append(f"{name}_32" if inner is np.float32 else name)
        nodes.append(helper.make_node("Conv", [now, *names], [f"c{k}"], pads=[1] * 4))
        now, width = f"c{k}", out
        if k < depth:
            if kind == "half, batch norm":
                stats = [rng.uniform(0.5, 1.5, out), rng.normal(0, 0.3, out), rng.normal(0, 0.1, out), np.ones(out)]
                for j, value in enumerate(stats):
                    weights.append(numpy_helper.from_array(value.astype(inner), f"n{k}{j}"))
                nodes.append(helper.make_node("BatchNormalization", [now, *(f"n{k}{j}" for j in range(4))], [f"n{k}"]))
                now = f"n{k}"
            nodes.append(helper.make_node("Relu", [now], [f"r{k}"]))
            now = f"r{k}"
    nodes.append(helper.make_node("Sigmoid" if kind == "half, sigmoid" else "Identity", [now], ["y16"]))
    cast_back = kind == "half inside"
    nodes.append(
        helper.make_node("Cast" if cast_back else "Identity", ["y16"], ["y"], **({"to": 1} if cast_back else {}))
    )
    types = [helper.np_dtype_to_tensor_dtype(np.dtype(outer if kind != "half weights cast" else np.float32))] * 2
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", types[0], [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", types[1], [1, 6, 32, 32])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("emit", ["onnx", "onnx,ncnn"])
def test_float16_is_compiled_and_verified(kind: str, emit: str, tmp_path: Path) -> None:
    result = oy.compile(build(kind, tmp_path / "m.onnx"), out=tmp_path / "out", emit=emit, verify_each=True)
    assert all(check["passed"] for check in result.report["verification"]["checks"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_mistake_in_float16_is_noticed(kind: str, tmp_path: Path) -> None:
    model = Model.from_onnx(onnx.load(build(kind, tmp_path / "m.onnx")))
    feeds = image_like_feeds(model)
    judge = judge_of(model, feeds)
    assert all(d.worst <= 1e-4 for d in judge.compare(run_onnx(model, feeds)))
    weight = next(t for n in model.graph.nodes for t in n.inputs if isinstance(t, gs.Constant) and t.values.ndim == 4)
    weight.values = (weight.values * np.float16(1.1)).astype(np.float16)
    (found,) = judge.compare(run_onnx(model, feeds))
    assert found.worst > 1e-4 and not found.blind


FRONTS = {
    "div": ((("Div", 255.0),), 0),
    "mul": ((("Mul", 1 / 255),), 1),
    "sub-div": ((("Sub", 128.0), ("Div", 58.4)), 2),
    "per-channel": ((("Div", [58.4, 57.1, 57.4]),), 3),
}


@pytest.mark.parametrize("front", FRONTS)
def test_folding_rounds_float16_weights_once_more(front: str, tmp_path: Path) -> None:
    """Scores shown as they are: what folding the image's scale into half weights costs is known, a mistake is not."""
    steps, seed = FRONTS[front]
    rng = np.random.default_rng(seed)
    nodes, now = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16)], "h"
    weights = {"w": rng.normal(0, 0.3, (4, 3, 3, 3)), "b": rng.normal(0, 0.3, 4)}
    for k, (op, value) in enumerate(steps):
        weights[f"s{k}"] = np.array(value) if np.ndim(value) == 0 else np.array(value).reshape(1, 3, 1, 1)
        nodes.append(helper.make_node(op, [now, f"s{k}"], [f"i{k}"]))
        now = f"i{k}"
    nodes += [helper.make_node("Conv", [now, "w", "b"], ["c"], pads=[1] * 4), helper.make_node("Sigmoid", ["c"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, 4, 32, 32])],
        [numpy_helper.from_array(np.asarray(value, np.float16), name) for name, value in weights.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    result = oy.compile(path, out=tmp_path / "out", emit="onnx", verify_each=True)
    assert all(check["passed"] for check in result.report["verification"]["checks"])
    assert result.model.graph.nodes[-2].op == "Conv" and len(result.model.graph.nodes) < len(nodes)
    model = Model.from_onnx(onnx.load(path))
    feeds = image_like_feeds(model)
    conv = next(node for node in model.graph.nodes if node.op == "Conv")
    judge = judge_of(model, feeds)
    conv.inputs[1].values = (np.asarray(conv.inputs[1].values) * np.float16(1.01)).astype(np.float16)
    (found,) = judge.compare(run_onnx(model, feeds))
    assert found.worst > 1e-4 and not found.blind


def test_a_source_that_computes_no_numbers_is_a_bad_input(tmp_path: Path) -> None:
    """A channel that is constant, normalised by its deviation: NaN, which every output of the next layer gets."""
    rng = np.random.default_rng(0)
    w, v = (rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((8, 3, 3, 3), (6, 8, 1, 1)))
    w[2] = 0
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("MeanVarianceNormalization", ["c"], ["m"], axes=[0, 2, 3]),
        helper.make_node("Conv", ["m", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("y", 1, [1, 6, 32, 32])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    with pytest.raises(InputError, match="'y' is NaN or infinite in 100% of its places"):
        oy.compile(path, out=tmp_path / "out", emit="onnx", prune=0.3, will_train=True)


@pytest.mark.parametrize("kind", KINDS)
def test_in_float32_nothing_is_half(kind: str, tmp_path: Path) -> None:
    model = Model.from_onnx(onnx.load(build(kind, tmp_path / "m.onnx")))
    wide = in_float32(model)
    assert is_half(model) and not is_half(wide)
    feeds = image_like_feeds(model, 1)
    a, b = run_onnx(model, feeds)[0]["y"], run_onnx(wide, feeds_in_float32(feeds))[0]["y"]
    assert b.dtype == np.float32 and 0 <= np.abs(a.astype(np.float32) - b).max() < 0.02


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5])
@pytest.mark.parametrize("stored", ["half", "single"])
def test_a_variance_that_float16_rounded_to_0(epsilon: float, stored: str, tmp_path: Path) -> None:
    """What was 1e-8 may be float16's 0: with γ/√ε in front of it the channel is no constant."""
    rng = np.random.default_rng(0)
    var = rng.uniform(0.5, 1.5, 8).astype(np.float16 if stored == "half" else np.float32).astype(np.float32)
    var[:2] = 0
    w = rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32)
    w[:2] *= 1e-4 if stored == "half" else 0
    values = {
        "w": w,
        "g": np.ones(8, np.float32),
        "b": rng.normal(0, 0.3, 8).astype(np.float32),
        "m": np.zeros(8, np.float32),
        "v": var,
        "w2": rng.normal(0, 0.3, (4, 8, 1, 1)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"], epsilon=epsilon),
            helper.make_node("Relu", ["n"], ["r"]),
            helper.make_node("Conv", ["r", "w2"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", 1, [1, 4, 14, 14])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "m.onnx")
    result = oy.compile(tmp_path / "m.onnx", out=tmp_path / "out", emit="onnx", snap="none")
    kept = result.report["after"]["parameters"] == result.report["before"]["parameters"]
    removed = sum(g["width"] - g["kept"] for g in result.report["groups"])
    assert removed == (0 if stored == "half" else 2), kept


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_a_column_that_hardly_moves_beside_terms_that_cancel(seed: int, tmp_path: Path) -> None:
    """Numbers around 30 that move by 1e-5: what folding rounds is no mistake."""
    from tests.numeric import build as graph

    a, b = (", ".join(f"float[16] {norm}_{part}" for part in ("gamma", "beta", "mean", "var")) for norm in "ab")
    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,32,32] x) => (float[1,6,16,16] y)'
        f" <float[16,3,3,3] w, {a}, {b}, float[16,1,3,3] dw, float[6,16,1,1] v> {{"
        " c = Conv<pads=[1,1,1,1],strides=[2,2]>(x, w) n = BatchNormalization(c, a_gamma, a_beta, a_mean, a_var)"
        " r = Relu(n) e = Conv<group=16,pads=[1,1,1,1]>(r, dw)"
        " m = BatchNormalization<epsilon=0.001>(e, b_gamma, b_beta, b_mean, b_var) q = HardSwish(m) y = Conv(q, v) }"
    )
    values = {
        "b_var": np.where(np.arange(16) < 8, 1, 6e-8),
        "dw": np.random.default_rng(0).normal(size=(16, 1, 3, 3)) * 1e-4,
    }
    graph(text, values=values, seed=seed).save(tmp_path / "m.onnx")
    result = oy.compile(tmp_path / "m.onnx", out=tmp_path / "out", emit="onnx")
    assert result.report["verification"]["checks"][0]["passed"]


@pytest.mark.parametrize("seed", [5, 11])
def test_what_summing_a_map_costs_in_ncnn_is_no_mistake(seed: int, tmp_path: Path) -> None:
    """A mean over a map that hardly moves from image to image, of weights around 1e-9 and 1e8."""
    from tests.numeric import build as graph

    text = (
        '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,32,32] x) => (float[1,10] y)'
        " <float[16,3,3,3] w, float[16] a_gamma, float[16] a_beta, float[16] a_mean, float[16] a_var,"
        " float[16,16,2,2] u, float[10,16] g> { c = Conv<pads=[1,1,1,1],strides=[2,2]>(x, w)"
        " n = BatchNormalization(c, a_gamma, a_beta, a_mean, a_var) r = Relu(n) e = ConvTranspose<strides=[2,2]>(r, u)"
        " q = GlobalAveragePool(e) f = Flatten(q) y = Gemm<transB=1>(f, g) }"
    )
    draw = np.random.default_rng(seed).normal
    values = {"u": draw(size=(16, 16, 2, 2)) * 3e-9, "g": draw(size=(10, 16)) * 1e8}
    graph(text, values=values).save(tmp_path / "m.onnx")
    assert oy.compile(tmp_path / "m.onnx", out=tmp_path / "out").ncnn is not None
