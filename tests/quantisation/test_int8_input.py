"""int8 files as input: read as the floats that their whole numbers stand for, ranges kept; else refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnxslim_yolo as oy
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import load
from onnxslim_yolo.load.dequantise import RANGES_KEY, ranges_from
from onnxslim_yolo.passes.quantise import Quantise
from onnxslim_yolo.quantisation.qdq import quantised_graph, with_rounded_weights
from onnxslim_yolo.quantisation.ranges import known_ranges
from onnxslim_yolo.runtime.onnx_run import image_like_feeds
from onnxslim_yolo.verify.int8_source import answers_as
from tests.numeric import assert_same, run_onnx
from tests.quantisation.test_quantise import BODIES, built, images, quantised  # noqa: F401

CODED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "Cast"}


def ops(model: Model) -> set[str]:
    return {node.op for node in model.graph.nodes}


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("body", ["relu", "clip and depthwise", "concat, pool, residual"])
def test_what_we_wrote_is_read_again(body: str, opset: int, images: Path, tmp_path: Path) -> None:  # noqa: F811
    model = quantised(built(body, opset), images)
    plan = model.quantised
    assert plan is not None
    found = load(quantised_graph(model, plan).save(tmp_path / "int8.onnx"))
    assert not ops(found) & CODED and any("the file is int8" in note for note in found.notes)
    assert RANGES_KEY not in found.metadata
    rounded, feeds = with_rounded_weights(model, plan), image_like_feeds(model, 2)
    assert_same(rounded, found, feeds=feeds[0])
    assert max(np.abs(run_onnx(found, feeds[0])["y"] - run_onnx(model, feeds[0])["y"]).ravel()) > 1e-4  # the control
    for name, ends in found.ranges.items():
        assert ends == pytest.approx((plan.ranges[name].low, plan.ranges[name].high), abs=plan.ranges[name].step)
    assert len(found.ranges) == len(plan.ranges)


def test_ranges_are_used_again(images: Path, tmp_path: Path) -> None:  # noqa: F811
    model = quantised(built("relu"), images)
    found = load(quantised_graph(model, model.quantised).save(tmp_path / "int8.onnx"))
    name = next(each for each in found.ranges if each not in ("x", "y"))
    found.ranges[name] = (0.0, 123.0)
    assert known_ranges(found.copy())[name].high == 123.0
    Quantise(("all",), images).run(found)
    assert found.quantised.ranges[name].high == 123.0


@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic_codes(per_channel: bool, tmp_path: Path) -> None:
    """As onnxruntime's quantize_dynamic writes a Conv with a bias, and a MatMul."""
    rng = np.random.default_rng(0)
    weight, matrix = rng.integers(-90, 90, (5, 3, 3, 3)), rng.integers(0, 200, (8, 4))
    steps = rng.uniform(0.01, 0.02, 5 if per_channel else 1).astype(np.float32)
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,8,8] x) => (float[1,5,8,4] y)
        <int8[5,3,3,3] w, float s, uint8[8,4] m, uint8 z, float t, float[1,5,1,1] b> {
            q, qs, qz = DynamicQuantizeLinear(x)
            i = ConvInteger<pads=[1,1,1,1]>(q, w, qz)
            f = Cast<to=1>(i)
            k = Mul(qs, s)
            c = Mul(f, k)
            d = Add(c, b)
            r, rs, rz = DynamicQuantizeLinear(d)
            n = MatMulInteger(r, m, rz, z)
            g = Cast<to=1>(n)
            l = Mul(rs, t)
            y = Mul(l, g)
        }
    """
    proto = onnx.parser.parse_model(text)
    scale = steps.reshape(-1, 1, 1) if per_channel else steps.reshape(())
    values = {
        "w": weight.astype(np.int8),
        "s": scale,
        "m": matrix.astype(np.uint8),
        "z": np.uint8(100),
        "t": np.float32(0.01),
        "b": rng.standard_normal((1, 5, 1, 1)).astype(np.float32),
    }
    del proto.graph.value_info[:]
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in values.items())
    onnx.save(proto, tmp_path / "dynamic.onnx")
    found = load(tmp_path / "dynamic.onnx")
    assert [node.op for node in found.graph.nodes] == ["Conv", "Add", "MatMul"]
    feed = {"x": rng.random((1, 3, 8, 8), np.float32)}
    there, here = run_onnx(proto, feed)["y"], run_onnx(found, feed)["y"]
    assert 0 < np.abs(there - here).max() < 0.05 * np.abs(there).max()  # codes of 8 bits
    floats = (weight * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    np.testing.assert_allclose(found.graph.nodes[0].inputs[1].values, floats, rtol=1e-6)
    assert not found.ranges


def test_dynamic_codes_of_a_weight_that_two_layers_read(tmp_path: Path) -> None:
    """As the tower or the expectation that all levels of a head share."""
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,2,8,8] x) => (float[1,2,8,8] y)
        <int8[2,2,1,1] w = {3, -4, 50, 6}, float s = {0.01}> {
            q, qs, qz = DynamicQuantizeLinear(x)
            i = ConvInteger(q, w, qz)
            f = Cast<to=1>(i)
            k = Mul(qs, s)
            c = Mul(f, k)
            r, rs, rz = DynamicQuantizeLinear(c)
            j = ConvInteger(r, w, rz)
            g = Cast<to=1>(j)
            l = Mul(rs, s)
            y = Mul(g, l)
        }
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "shared.onnx")
    found = load(tmp_path / "shared.onnx")
    assert [node.op for node in found.graph.nodes] == ["Conv", "Conv"]
    for node in found.graph.nodes:
        np.testing.assert_allclose(node.inputs[1].values.ravel(), [0.03, -0.04, 0.5, 0.06], rtol=1e-6)


def test_weights_that_are_quantised_in_the_file(tmp_path: Path) -> None:
    """As a network trained for int8 is exported: floats, rounded where they are read; and an output read again."""
    text = """
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[1,3,8,8] x) => (float[1,4,8,8] y)
        <float[4,3,1,1] w, float[4] s, int8[4] z, float a, uint8 b> {
            q = QuantizeLinear<axis=0>(w, s, z)
            v = DequantizeLinear<axis=0>(q, s, z)
            c = Conv(x, v)
            p = QuantizeLinear(c, a, b)
            y = DequantizeLinear(p, a, b)
        }
    """
    rng = np.random.default_rng(0)
    weight, step = rng.standard_normal((4, 3, 1, 1)).astype(np.float32), np.full(4, 0.02, np.float32)
    values = {"w": weight, "s": step, "z": np.zeros(4, np.int8), "a": np.float32(0.1), "b": np.uint8(128)}
    proto = onnx.parser.parse_model(text)
    del proto.graph.value_info[:]
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in values.items())
    onnx.save(proto, tmp_path / "trained.onnx")
    found = load(tmp_path / "trained.onnx")
    assert not ops(found) & CODED and [tensor.name for tensor in found.graph.outputs] == ["y"]
    conv = next(node for node in found.graph.nodes if node.op == "Conv")
    rounded = np.clip(np.rint(weight / 0.02), -128, 127) * 0.02
    np.testing.assert_allclose(conv.inputs[1].values, rounded, rtol=1e-5, atol=1e-7)
    assert np.abs(conv.inputs[1].values - weight).max() > 1e-3  # the control
    assert found.ranges["y"] == pytest.approx((-12.8, 12.7))
    read = next(node for node in proto.graph.node if node.output[0] == "y")
    read.input[1] = "a2"
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.2), "a2"))
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(UnsupportedError, match="QuantizeLinear: the model is int8"):
        load(tmp_path / "other.onnx")


def test_metadata_of_anybody_are_no_ranges(tmp_path: Path) -> None:
    assert ranges_from("[1") == ranges_from("[1, 2]") == ranges_from('{"a": 3}') == {}
    proto = built("relu").to_onnx()
    helper.set_model_props(proto, {RANGES_KEY: "nonsense"})
    onnx.save(proto, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx").ranges == {}


class Calibration:
    """Some inputs for onnxruntime's quantiser."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.left = [{"x": rng.random((1, 3, 16, 16), np.float32)} for _ in range(8)]

    def get_next(self) -> dict[str, Array] | None:
        return self.left.pop() if self.left else None


ACTIVATIONS = {
    "relu": ("r = Relu(h)", ["Conv", "Clip", "Conv"]),
    "relu6": ("lo = Constant<value_float=0.0>() hi = Constant<value_float=6.0>() r = Clip(h, lo, hi)", None),
    "pooled relu": ("k = Relu(h) r = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(k)", None),
    "silu": ("s = Sigmoid(h) r = Mul(h, s)", ["Conv", "Sigmoid", "Mul", "Conv"]),
    "none": ("r = Identity(h)", ["Conv", "Conv"]),
}


def by_onnxruntime(folder: Path, activation: str, kind: str) -> Path:
    """Conv, activation, Conv, as onnxruntime's own quantiser writes it: without the Relu, which the codes' ends do."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,16,16] x) => (float[1,4,16,16] y)'
        " <float[8,3,3,3] a, float[8] c, float[4,8,3,3] b>"
        f" {{ h = Conv<pads=[1,1,1,1]>(x, a, c) {ACTIVATIONS[activation][0]} y = Conv<pads=[1,1,1,1]>(r, b) }}"
    )
    for name, shape in (("a", (8, 3, 3, 3)), ("c", (8,)), ("b", (4, 8, 3, 3))):
        values = (0.5 * rng.standard_normal(shape)).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(proto, folder / "float.onnx")
    types = {"activation_type": getattr(QuantType, kind), "weight_type": QuantType.QInt8}
    quantize_static(folder / "float.onnx", folder / "int8.onnx", Calibration(), quant_format=QuantFormat.QDQ, **types)
    return folder / "int8.onnx"


@pytest.mark.parametrize("kind", ["QUInt8", "QInt8"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_activation_that_the_codes_stand_for_is_read(activation: str, kind: str, tmp_path: Path) -> None:
    path = by_onnxruntime(tmp_path, activation, kind)
    assert "Relu" not in {node.op_type for node in onnx.load(path).graph.node} or activation == "pooled relu"
    found = load(path)
    operators = ACTIVATIONS[activation][1]
    assert operators is None or [node.op for node in found.graph.nodes if node.op != "Identity"] == operators
    feeds = image_like_feeds(found, 2)
    for feed in feeds:
        there, here = run_onnx(onnx.load(path), feed)["y"], run_onnx(found, feed)["y"]
        assert np.sqrt(((there - here) ** 2).mean()) < 0.05 * there.std()
    assert not answers_as(path, found).startswith("WARNING")


def test_a_misread_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = by_onnxruntime(tmp_path, "relu", "QUInt8")
    read = tmp_path / "out"
    note = next(n for n in oy.compile(path, out=read).report["notes"] if n.startswith("run beside the int8 file"))
    assert "alike" in note
    monkeypatch.setattr("onnxslim_yolo.load.dequantise._Work._clip", _without_it)
    notes = oy.compile(path, out=tmp_path / "misread").report["notes"]
    assert any(n.startswith("WARNING: run beside the int8 file") for n in notes)


def _without_it(self: object, node: onnx.NodeProto, low: float, high: float) -> str:
    self.graph.node.remove(node)  # type: ignore[attr-defined]
    return str(node.input[0])
