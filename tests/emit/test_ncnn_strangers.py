"""Kinds of graphs that strangers bring, as pairs: they agree with ONNX, or are refused with reason and way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.emitter import NcnnModel, emit_ncnn
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.verify.ncnn_compare import compare_outputs, half_weights
from tests.emit.ncnn_cases import MAP, graph, one
from tests.emit.ncnn_cases_strangers import DEFORMS
from tests.emit.ncnn_session import fresh_session
from tests.kinds import TRUNK, compiled, text_of, trunk, written
from tests.numeric import build, differences, random_feeds, run_onnx

LAYERS_OF_HALVES = {
    **DEFORMS,
    "convolution": one("y = Conv(x, w)", "float[1,4,9,10]", "float[4,6,1,1] w"),
    "transposed": one("y = ConvTranspose(x, w)", "float[1,4,9,10]", "float[6,4,1,1] w"),
    "matmul": one("y = MatMul(x, w)", "float[1,6,9,4]", "float[10,4] w"),
}
THREE = "float t = {3}, float z = {0}, float s = {6}"
GELU = "float k = {0.044715}, float r = {0.7978845608}, float o = {1}, float h = {0.5}"
ROOT = "float r = {0.70710678}, float o = {1}, float h = {0.5}"
WRITTEN = {
    "x(1+kx²)": (
        "GELU",
        "q = Mul(x, x) a = Mul(q, k) b = Add(a, o) c = Mul(b, x) d = Mul(c, r) e = Tanh(d) f = "
        "Add(e, o) g = Mul(f, x) y = Mul(g, h)",
        GELU,
    ),
    "x+kx³ by products": (
        "GELU",
        "q = Mul(x, x) p = Mul(q, x) a = Mul(k, p) b = Add(x, a) d = Mul(b, r) e = Tanh(d) f = "
        "Add(o, e) g = Mul(h, x) y = Mul(g, f)",
        GELU,
    ),
    "coefficients multiplied in": (
        "GELU",
        "p = Pow(x, three) a = Mul(p, kr) b = Mul(x, r) d = Add(a, b) e = Tanh(d) i = Mul(e, h) f "
        "= Add(i, h) y = Mul(x, f)",
        GELU + ", float three = {3}, float kr = {0.0356774081}",
    ),
    "products written out": (
        "GELU",
        "a = Mul(x, r) b = Erf(a) c = Mul(x, h) d = Mul(c, b) g = Mul(h, x) y = Add(g, d)",
        ROOT,
    ),
    "half inside": ("GELU", "a = Mul(x, r) b = Erf(a) c = Mul(b, h) d = Add(c, h) y = Mul(d, x)", ROOT),
    "SiLU by exp": ("Swish", "n = Neg(x) e = Exp(n) a = Add(e, o) y = Div(x, a)", "float o = {1}"),
    "SiLU by a quotient": ("Swish", "n = Neg(x) e = Exp(n) a = Add(o, e) b = Div(o, a) y = Mul(x, b)", "float o = {1}"),
    "SiLU by a reciprocal": (
        "Swish",
        "n = Mul(x, m) e = Exp(n) a = Add(o, e) b = Reciprocal(a) y = Mul(b, x)",
        "float o = {1}, float m = {-1}",
    ),
    "Mish by log": ("Mish", "e = Exp(x) a = Add(e, o) l = Log(a) b = Tanh(l) y = Mul(x, b)", "float o = {1}"),
    "HardSwish by minimum": ("HardSwish", "a = Add(x, t) b = Relu(a) c = Min(b, s) d = Mul(c, x) y = Div(d, s)", THREE),
    "HardSigmoid": ("HardSigmoid", "a = Add(x, t) b = Clip(a, z, s) y = Div(b, s)", THREE),
}
OTHERS = {
    "HardSwish of halves": (
        "HardSwish",
        "a = Add(x, t) b = Clip(a, z, s) c = Mul(x, b) y = Mul(c, i)",
        THREE + ", float i = {0.1666259765625}",
    ),
    "0.1675": (
        "HardSwish",
        "a = Add(x, t) b = Clip(a, z, s) c = Mul(x, b) y = Mul(c, i)",
        THREE + ", float i = {0.1675}",
    ),
    "0.1667": (
        "HardSwish",
        "a = Add(x, t) b = Clip(a, z, s) c = Mul(x, b) y = Mul(c, i)",
        THREE + ", float i = {0.1668}",
    ),
    "3.001": (
        "HardSwish",
        "a = Add(x, t) b = Clip(a, z, s) c = Mul(x, b) y = Div(c, s)",
        THREE.replace("{3}", "{3.001}"),
    ),
    "clip at 5.99": (
        "HardSwish",
        "a = Add(x, t) b = Clip(a, z, s) c = Mul(x, b) y = Div(c, s)",
        THREE.replace("{6}", "{5.99}"),
    ),
    "another root": (
        "GELU",
        "a = Mul(x, r) b = Erf(a) c = Mul(b, h) d = Add(c, h) y = Mul(d, x)",
        ROOT.replace("0.70710678", "0.7075"),
    ),
    "k = 0.0448": (
        "GELU",
        "q = Mul(x, x) a = Mul(q, k) b = Add(a, o) c = Mul(b, x) d = Mul(c, r) e = Tanh(d) f = "
        "Add(e, o) g = Mul(f, x) y = Mul(g, h)",
        GELU.replace("0.044715", "0.0448"),
    ),
    "2 + exp": ("Swish", "n = Neg(x) e = Exp(n) a = Add(e, o) y = Div(x, a)", "float o = {1.001}"),
    "quick Gelu": ("Swish", "a = Mul(x, c) b = Sigmoid(a) y = Mul(x, b)", "float c = {1.702}"),
}


def pair(text: str) -> tuple[NcnnModel, float]:
    model = build(text)
    converted = emit_ncnn(model, weights="fp32", cut=False)
    with fresh_session() as session:
        found = compare_outputs(model, converted, [random_feeds(model)], session=session)
    return converted, max(each.relative for each in found)


@pytest.mark.parametrize("case", WRITTEN)
def test_an_activation_written_out_is_one_layer(case: str) -> None:
    layer, body, weights = WRITTEN[case]
    converted, relative = pair(one(body, MAP, weights))
    kinds = [line.split()[0] for line in converted.param.splitlines()[2:]]
    assert kinds == ["Input", layer] and relative < 2e-5


@pytest.mark.parametrize("case", OTHERS)
def test_a_function_that_is_nearly_one_is_another(case: str) -> None:
    layer, body, weights = OTHERS[case]
    converted, relative = pair(one(body, MAP, weights))
    assert f"\n{layer} " not in converted.param and relative < 2e-5


SMALL = {
    "all outputs": np.full(8, 1e-8),
    "one output": np.r_[1e-9, np.ones(7)],
    "some are subnormal": np.r_[np.ones(6), 2e-5, 3e-6],
    "overflow": np.r_[np.ones(7), 1e6],
}


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize("kind", ["conv", "deconv", "gemm"])
def test_weights_that_half_precision_does_not_hold(case: str, kind: str) -> None:
    rng, scale = np.random.default_rng(0), SMALL[case]
    first = {
        "conv": ("Conv(x, w)", (8, 6, 1, 1), lambda w: w * scale.reshape(-1, 1, 1, 1)),
        "deconv": ("ConvTranspose(x, w)", (6, 8, 1, 1), lambda w: w * scale.reshape(1, -1, 1, 1)),
        "gemm": ("Gemm(x, w)", (6, 8), lambda w: w * scale),
    }[kind]
    shape, size = ("float[1,6]", "float[8,4] v") if kind == "gemm" else (MAP, "float[4,8,1,1] v")
    w = first[2](rng.standard_normal(first[1]))
    v = rng.standard_normal((4, 8)) / np.minimum(scale, 60)
    last = "Gemm(r, v)" if kind == "gemm" else "Conv(r, v)"
    dims = ",".join(map(str, first[1]))
    text = one(
        f"a = {first[0]} r = Relu(a) y = {last}",
        "float[a,b]" if kind == "gemm" else "float[a,b,c,d]",
        f"float[{dims}] w, {size}",
        shape,
    )
    model = build(text, values={"w": w, "v": v.T if kind == "gemm" else v})
    converted = emit_ncnn(model)
    assert converted.full and any("half precision" in note for note in converted.notes)
    feeds = random_feeds(model)
    rounded = half_weights(model, converted.full)
    assert max(differences(run_onnx(model, feeds), run_onnx(rounded, feeds)).values()) < 0.02
    with fresh_session() as session:
        assert max(d.relative for d in compare_outputs(rounded, converted, [feeds], session=session)) < 1e-3


def test_plain_weights_are_halves() -> None:
    converted = emit_ncnn(build(one("y = Conv(x, w)", "float[1,4,9,10]", "float[4,6,1,1] w")))
    assert not converted.full and len(converted.bin) == 4 + 2 * 24


@pytest.mark.parametrize("layer", LAYERS_OF_HALVES)
def test_the_reference_rounds_whatever_weights_the_pair_rounds(layer: str) -> None:
    model = build(LAYERS_OF_HALVES[layer])
    converted, feeds = emit_ncnn(model), random_feeds(model)
    with fresh_session() as session:
        rounded = compare_outputs(half_weights(model, converted.full), converted, [feeds], session=session)
        plain = compare_outputs(model, converted, [feeds], session=session)
    assert max(d.relative for d in rounded) < 2e-5
    assert max(d.relative for d in plain) > 1e-4  # the control


NMS = "int64[1] n = {5}, float[1] iou = {0.5}, float[1] low = {-9.0}, int64 two = {2}, int64[1] zero = {0}"
PICK = "k = NonMaxSuppression(q, s, n, iou, low) i = Gather<axis=1>(k, two)"
TAILS = {
    "gather": f"{PICK} b = Squeeze(q, zero) z = Gather(b, i)",
    "no gather": f"{PICK.split(' i =')[0]} z = Cast<to=1>(k)",
    "scores too": f"{PICK} b = Squeeze(s, zero) z = Gather<axis=1>(b, i)",
    "where": "g = Greater(q, half) k = NonZero(g) z = Cast<to=1>(k)",
}


@pytest.mark.parametrize("tail", TAILS)
def test_a_head_is_cut_in_front_of_what_depends_on_data(tail: str, tmp_path: Path) -> None:
    head = "h = Conv(f, w1) r = Reshape(h, t) g4 = Slice(r, zero, four, one) q = Transpose<perm=[0,2,1]>(g4)"
    body = f"{trunk()[0]} {head} s5 = Slice(r, four, six, one) s = Sigmoid(s5) {TAILS[tail]}"
    sizes = "int64[3] t = {1,6,64}, int64[1] four = {4}, int64[1] six = {6}, int64[1] one = {1}, float half = {0.5}"
    weights = f"{TRUNK}, float[6,8,1,1] w1, {sizes}, {NMS}"
    path = written(text_of("float[1,3,8,8] x", "float[a,b] z", weights, body), tmp_path)
    result = compiled(path, tmp_path, emit="onnx,ncnn")
    assert any("the head was cut before" in note for note in result.report["notes"])


@pytest.mark.parametrize("bins", ["{0, 1}", "{0, 2}"])
def test_an_expectation_over_bins_is_cut_off_and_learned_weights_are_not(bins: str, tmp_path: Path) -> None:
    """DAMO-YOLO's way: the four sides of a box as images, which ncnn has only one of."""
    body = f"{trunk()[0]} r = Reshape(f, sides) p = Softmax<axis=1>(r) e = Conv(p, bins) z = Reshape(e, flat)"
    sizes = f"int64[4] sides = {{4,2,8,8}}, float[1,2,1,1] bins = {bins}, int64[2] flat = {{4,64}}"
    path = written(text_of("float[1,3,8,8] x", "float[4,64] z", f"{TRUNK}, {sizes}", body), tmp_path)
    if bins == "{0, 1}":
        result = compiled(path, tmp_path, emit="onnx,ncnn")
        assert any("the head was cut before" in note and "(Conv)" in note for note in result.report["notes"])
        return
    with pytest.raises(UnsupportedError, match="cannot be cut off either, because its weights are learned"):
        compiled(path, tmp_path, emit="onnx,ncnn")


def test_what_follows_with_weights_is_not_cut_and_no_useless_option_is_named() -> None:
    text = one(
        "k = NonZero(x) c = Cast<to=1>(k) t = Transpose<perm=[1,0]>(c) y = MatMul(t, w)", "float[a,3]", "float[4,3] w"
    )
    with pytest.raises(UnsupportedError, match="cannot be cut off either") as caught:
        emit_ncnn(build(text))
    assert "--head raw" not in (caught.value.hint or "") and "--emit onnx" in (caught.value.hint or "")


@pytest.mark.parametrize("body", ["y = Asinh(x)", "a = Asinh(x) y = Relu(a)", "a = NonZero(x) y = Cast<to=1>(a)"])
def test_nothing_in_front_of_the_cut_is_no_pair(body: str, tmp_path: Path) -> None:
    shape = "float[a,b]" if "NonZero" in body else MAP
    with pytest.raises(UnsupportedError, match="nothing that the network computes is left"):
        compiled(written(one(body, shape), tmp_path), tmp_path, emit="onnx,ncnn")


@pytest.mark.parametrize("body", ["y = Relu(x)", "a = Shape(z) y = Relu(x)", "y = Relu(x) t, i = TopK(z, n)"])
def test_an_input_that_nothing_reads_is_no_output(body: str) -> None:
    topk = "TopK" in body
    outputs = f"{MAP} y, float[1,1] t" if topk else f"{MAP} y"
    model = build(graph(f"{MAP} x, float[1,4] z", outputs, body, "int64[1] n = {1}"))
    converted = emit_ncnn(model)
    assert list(converted.inputs) == ["in0"] and list(converted.outputs) == ["out0"]
    with fresh_session() as session:
        (found,) = compare_outputs(model, converted, [random_feeds(model)], session=session)
    assert found.relative < 2e-5


REFUSED = {
    "whole numbers divided": ("a = Div(x, c) y = Cast<to=1>(a)", "int32 c = {2}", "int32[1,6,9,10]"),
    "whole numbers wrap": ("a = Add(x, c) y = Cast<to=1>(a)", "uint8 c = {200}", "uint8[1,6,9,10]"),
    "cast to uint8": ("a = Cast<to=2>(x) y = Cast<to=1>(a)", "", MAP),
    "cast to bool": ("a = Cast<to=9>(x) y = Cast<to=1>(a)", "", MAP),
    "powers of what may be negative": ("y = Pow(x, e)", "float[6,1,1] e = {0,1,2,3,4,5}", MAP),
    "another cubic": ('y = Resize<mode="cubic",cubic_coeff_a=-0.5>(x, "", s)', "float[4] s = {1,1,1,2}", MAP),
    "grouped deformable": ("y = DeformConv<group=2>(x, w, o)", "float[4,3,1,1] w, float[1,2,9,10] o", MAP),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_ncnn_has_no_layer_for_is_refused(case: str) -> None:
    body, weights, shape = REFUSED[case]
    with pytest.raises(UnsupportedError, match="ncnn cannot express this"):
        emit_ncnn(build(one(body, "float[a,b,c,d]", weights, shape, opset=19)), cut=False)
