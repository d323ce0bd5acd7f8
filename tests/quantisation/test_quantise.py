"""int8: what is quantised, what is written, that the check sees what is wrong with it, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from PIL import Image

import onnxslim_yolo as oy
from onnxslim_yolo.errors import InputError, OnnxSlimError, UnsupportedError, UsageError, VerificationError
from onnxslim_yolo.ir.input_format import BYTES, INPUT_KEY
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.passes.quantise import Quantise
from onnxslim_yolo.quantisation.plan import Range
from onnxslim_yolo.quantisation.qdq import quantised_graph
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx
from onnxslim_yolo.runtime.processor import adds_in_16_bits
from onnxslim_yolo.verify.quantised import verify_quantised
from tests.numeric import build
from tests.passes.cutting import onnx_text

BODIES = {
    "relu": (
        "float[8,3,3,3] w, float[8] b, float[6,8,1,1] v",
        "c = Conv<pads=[1,1,1,1]> (x, w, b) r = Relu (c) y = Conv (r, v)",
    ),
    "silu": (
        "float[8,3,3,3] w, float[6,8,3,3] v",
        "c = Conv<pads=[1,1,1,1], strides=[2,2]> (x, w) s = Sigmoid (c) m = Mul (c, s) d = Conv (m, v) y = Sigmoid (d)",
    ),
    "clip and depthwise": (
        "float[8,3,3,3] w, float[8,1,3,3] d, float[6,8,1,1] v, float zero = {0}, float six = {6}",
        "c = Conv<pads=[0,1,1,0]> (x, w) r = Clip (c, zero, six) e = Conv<group=8> (r, d) y = Conv (e, v)",
    ),
    "concat, pool, residual": (
        "float[8,3,3,3] w, float[8,8,1,1] u, float[6,16,1,1] v",
        "c = Conv<pads=[1,1,1,1]> (x, w) l = LeakyRelu<alpha=0.1> (c)"
        " p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]> (l)"
        " e = Conv (p, u) a = Add (e, l) k = Concat<axis=1> (a, p) y = Conv (k, v)",
    ),
    "gemm": (
        "float[8,3,3,3] w, float[96,128] m, float[128] b, float[384,128] n, float[1,384] d, int64[4] s = {1,6,8,8}",
        "c = Conv<pads=[1,1,1,1], strides=[2,2]> (x, w) r = Relu (c) a = MaxPool<kernel_shape=[4,4], strides=[4,4]> (r)"
        " f = Flatten (a) e = Gemm<alpha=0.5, beta=2.0> (f, m, b) p = Relu (e) q = Gemm<transB=1> (p, n, d)"
        " y = Reshape (q, s)",
    ),
    "matmul": (
        "float[8,3,3,3] w, float[8,16] m, float[16] b, float[16,8] n, float[6,8,1,1] v,"
        " int64[3] f = {1,8,768}, int64[4] g = {1,8,24,32}",
        "c = Conv<pads=[1,1,1,1]> (x, w) r = Relu (c) q = Reshape (r, f) t = Transpose<perm=[0,2,1]> (q)"
        " a = MatMul (t, m) d = Add (a, b) e = Relu (d) i = MatMul (e, n) o = Transpose<perm=[0,2,1]> (i)"
        " z = Reshape (o, g) y = Conv (z, v)",
    ),
    "float between": (
        "float[8,3,3,3] w, float[6,8,1,1] v",
        "c = Conv<pads=[1,1,1,1]> (x, w) h = HardSwish (c) y = Conv (h, v)",
    ),
}


def layers_of(body: str) -> int:
    """How many layers with weights there are."""
    return len(re.findall("Conv|Gemm|MatMul", BODIES[body][1]))


def built(body: str, opset: int = 17, bodies: Mapping[str, tuple[str, str]] = BODIES, **weights: np.ndarray) -> Model:
    """A graph of ONNX text, random weights where none are given."""
    declared, nodes = bodies[body]
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1,3,24,32] x) => (float[1,6,h,k] y)'
        f" <{declared}> {{ {nodes} }}"
    )
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    known = {tensor.name for tensor in proto.graph.initializer}
    for info in [i for i in proto.graph.value_info if i.name not in known]:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        value = weights.get(info.name, rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1))
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), info.name))
        proto.graph.value_info.remove(info)
    model = Model.from_onnx(proto)
    reinfer(model.graph)
    return model


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for index in range(9):
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
        small.resize((32, 24), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def quantised(model: Model, images: Path, *layers: str) -> Model:
    """As this machine's int8 kernels can compute it: where they add in 16 bits, they are not looked at otherwise."""
    Quantise(layers or ("all",), images, narrow=adds_in_16_bits()).run(model)
    return model


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("body", BODIES)
def test_the_file_computes_the_plan(body: str, opset: int, images: Path, tmp_path: Path) -> None:
    if body == "float between" and opset < 14:
        pytest.skip("no such operator")
    model = quantised(built(body, opset), images)
    plan = model.quantised
    assert plan is not None
    file = quantised_graph(model, plan).save(tmp_path / "m.onnx")
    found = verify_quantised(model, plan, file, image_like_feeds(model, 3))
    assert found.failed is None
    assert found.kernels == len(plan.layers) == layers_of(body)
    assert not found.blind
    assert found.controls and min(control.worst for control in found.controls if not control.blind) > 1e-2


def test_a_picture_of_bytes_is_quantised_behind_its_preprocessing(images: Path, tmp_path: Path) -> None:
    body = """f = Cast<to=1> (x) s = Sub (f, mean) d = Div (s, std) t = Transpose<perm=[0,3,1,2]> (d)
        c = Conv<pads=[1,1,1,1]> (t, w) r = Relu (c) y = Conv (r, v)"""
    weights = "float[3] mean, float[3] std, float[8,3,3,3] w, float[6,8,1,1] v"
    model = build(
        onnx_text("uint8[1,24,32,3] x", "float[1,6,24,32] y", weights, body),
        values={"mean": np.full(3, 120.0), "std": np.full(3, 60.0)},
    )
    model.metadata[INPUT_KEY] = str(BYTES)
    plan = quantised(model, images).quantised
    assert plan is not None and len(plan.layers) == 2
    file = quantised_graph(model, plan).save(tmp_path / "m.onnx")
    found = verify_quantised(model, plan, file, image_like_feeds(model, 3))
    assert found.failed is None and found.kernels == 2
    assert found.controls and min(control.worst for control in found.controls if not control.blind) > 1e-2


@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize(
    ("body", "left", "between"),
    [("clip and depthwise", 1, True), ("concat, pool, residual", 1, False), ("relu", 0, False)],
)
def test_a_float_layer_between_codes_stays_float(
    body: str, left: int, between: bool, opset: int, images: Path, tmp_path: Path
) -> None:
    """onnxruntime quantises such a layer by itself where it reads codes with one step for all (the control)."""
    model = built(body, opset)
    names = [node.name for node in model.graph.nodes if node.op == "Conv"]
    quantised(model, images, *(name for name in names if name != names[left]))
    file = quantised_graph(model, model.quantised).save(tmp_path / "m.onnx")
    feeds = image_like_feeds(model, 3)
    assert verify_quantised(model, model.quantised, file, feeds).failed is None
    proto = onnx.load(file)
    scales = {t.name for t in proto.graph.initializer if "_scales" in t.name}
    assert (between and len(scales) == 1) or body != "clip and depthwise"
    for tensor in [t for t in proto.graph.initializer if "_scales" in t.name or "_zero_points" in t.name]:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[0], tensor.name))
    onnx.save(proto, tmp_path / "control.onnx")
    if between:
        with pytest.raises(VerificationError, match="int8 is not what was planned"):
            verify_quantised(model, model.quantised, tmp_path / "control.onnx", feeds)


BETWEEN = {
    "a softmax": (
        "float[8,3,3,3] w, float[6,8,1,1] v",
        "c = Conv<pads=[1,1,1,1]> (x, w) s = Softmax<axis=1> (c) y = Conv (s, v)",
    ),
    "a convolution of rows, behind what moves codes": (
        "float[8,3,3,3] w, float[8,8,3] r, float[6,8,1,1] v, int64[3] flat = {1,8,768}, int64[4] map = {1,8,24,32}",
        "c = Conv<pads=[1,1,1,1]> (x, w) a = Relu (c) f = Reshape (a, flat) d = Conv<pads=[1,1]> (f, r) e = Relu (d) "
        "g = Reshape (e, map) y = Conv (g, v)",
    ),
}


@pytest.mark.parametrize("body", BETWEEN)
def test_what_onnxruntime_would_compute_on_codes_stays_float(body: str, images: Path, tmp_path: Path) -> None:
    model = quantised(built(body, bodies=BETWEEN), images)
    file, feeds = quantised_graph(model, model.quantised).save(tmp_path / "m.onnx"), image_like_feeds(model, 3)
    assert verify_quantised(model, model.quantised, file, feeds).failed is None
    proto = onnx.load(file)
    for tensor in [t for t in proto.graph.initializer if "_scales" in t.name or "_zero_points" in t.name]:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[0], tensor.name))
    onnx.save(proto, tmp_path / "control.onnx")
    with pytest.raises(VerificationError, match="int8 is not what was planned"):
        verify_quantised(model, model.quantised, tmp_path / "control.onnx", feeds)


def wrong_weight(model: Model) -> None:
    """One weight of the last layer one step off."""
    layer = list(model.quantised.layers.values())[-1]
    weight = layer.weight.copy()
    weight[0, 0, 0, 0] += 1 if weight[0, 0, 0, 0] < 100 else -1
    _replaced(model, replace(layer, weight=weight))


def wrong_step(model: Model) -> None:
    layer = next(iter(model.quantised.layers.values()))
    _replaced(model, replace(layer, step=(layer.step * 1.01).astype(np.float32)))


def wrong_bias(model: Model) -> None:
    layer = list(model.quantised.layers.values())[-1]
    _replaced(model, replace(layer, bias=layer.bias + 0.02 * np.abs(layer.weight).max() * layer.step))


def wrong_zero(model: Model) -> None:
    name = list(model.quantised.layers.values())[1].reads
    old = model.quantised.ranges[name]
    model.quantised.ranges[name] = Range(old.low - 3 * old.step, old.high - 3 * old.step)


def _replaced(model: Model, layer: object) -> None:
    model.quantised.layers[layer.name] = layer


@pytest.mark.parametrize("mistake", [wrong_weight, wrong_step, wrong_bias, wrong_zero])
def test_a_mistake_is_found(mistake: object, images: Path, tmp_path: Path) -> None:
    """The file holds other numbers than the plan: one step of one weight, 1 % of a scale, a bias, a zero point."""
    model = quantised(built("silu"), images)
    plan = model.quantised
    other = model.copy()
    other.quantised = replace(plan, layers=dict(plan.layers), ranges=dict(plan.ranges))
    mistake(other)
    file = quantised_graph(other, other.quantised).save(tmp_path / "m.onnx")
    with pytest.raises(VerificationError, match="int8 is not what was planned"):
        verify_quantised(model, plan, file, image_like_feeds(model, 3))


def test_rounding_is_the_formats() -> None:
    its = Range.of(-1.0, 4.1)
    assert its.rounded(np.array([0.0]))[0] == 0
    assert np.abs(its.rounded(np.linspace(-1, 4.1, 999)) - np.linspace(-1, 4.1, 999)).max() <= 0.51 * its.step


def test_the_decode_stays_float(images: Path) -> None:
    model = quantised(built("silu"), images)
    written = quantised_graph(model, model.quantised)
    last = next(node for node in written.graph.nodes if node.outputs[0].name == "y")
    assert last.op == "Sigmoid" and last.inputs[0].inputs[0].op == "DequantizeLinear"


def test_a_channel_of_nothing_but_a_bias(images: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((8, 3, 3, 3)) / 5, rng.standard_normal(8)
    weight[2], bias[2] = 1e-30, 7.5
    model = quantised(built("relu", w=weight, b=bias), images)
    file = quantised_graph(model, model.quantised).save(tmp_path / "m.onnx")
    assert verify_quantised(model, model.quantised, file, image_like_feeds(model, 3)).failed is None
    step = model.quantised.ranges["x"].step
    layer = next(iter(model.quantised.layers.values()))
    bias = model.graph.nodes[0].inputs[2].values  # channels may have been scaled
    assert np.allclose(layer.bias_codes(step) * layer.bias_step(step), bias, atol=0.05)


def test_int8_is_near_float(images: Path) -> None:
    model = built("concat, pool, residual")
    feeds = image_like_feeds(model, 1)
    expected = run_onnx(model, feeds)[0]["y"]
    got = run_onnx(quantised_graph(model, quantised(model, images).quantised), feeds)[0]["y"]
    assert 1e-4 < np.abs(got - expected).mean() / expected.std() < 0.1


def test_compile_writes_it(images: Path, tmp_path: Path) -> None:
    source = built("silu").save(tmp_path / "net.onnx")
    result = oy.compile(source, prune=0, quantize="all", calib=images, emit="onnx,ncnn", out=tmp_path / "out")
    ops = [node.op_type for node in onnx.load(result.onnx).graph.node]
    assert ops.count("QuantizeLinear") == ops.count("DequantizeLinear") - 4
    assert result.report["int8"]["layers"] and result.report["verification"]["int8"]["kernels"] == 2
    labels = [check["label"] for check in result.report["verification"]["checks"] if check["passed"]]
    assert "simulation = net.onnx" in labels and "decode of its codes = net.onnx" in labels
    plain = oy.compile(source, prune=0, emit="onnx", out=tmp_path / "plain")
    assert "QuantizeLinear" not in [node.op_type for node in onnx.load(plain.onnx).graph.node]


@pytest.mark.parametrize(("batch", "size"), [("2", "24,32"), ("n", "24,32"), ("1", "h,w")])
def test_batches_and_open_sizes(batch: str, size: str, images: Path, tmp_path: Path) -> None:
    declared, nodes = BODIES["silu"]
    text = (
        f'<ir_version: 8, opset_import: ["" : 17]> g (float[{batch},3,{size}] x) => (float[{batch},6,a,b] y)'
        f" <{declared}> {{ {nodes} }}"
    )
    proto = onnx.parser.parse_model(text)
    del proto.graph.value_info[:]
    rng = np.random.default_rng(0)
    for name, shape in (("w", (8, 3, 3, 3)), ("v", (6, 8, 3, 3))):
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) / 5, name))
    onnx.save(proto, tmp_path / "net.onnx")
    options = {"prune": 0, "quantize": "all", "calib": images, "imgsz": "24,32", "emit": "onnx"}
    result = oy.compile(tmp_path / "net.onnx", out=tmp_path / "out", **options)
    assert len(result.report["int8"]["layers"]) == 2 and result.report["verification"]["int8"]["kernels"] == 2
    shape = onnx.load(result.onnx).graph.input[0].type.tensor_type.shape
    assert [dim.dim_param or str(dim.dim_value) for dim in shape.dim] == [batch, "3", *size.split(",")]


def test_layers_by_name(images: Path) -> None:
    model = built("relu")
    first = model.graph.nodes[0].name
    quantised(model, images, first)
    assert list(model.quantised.layers) == [first] and "not among" in next(iter(model.quantised.left.values()))
    with pytest.raises(UsageError, match="matches no layer"):
        quantised(built("relu"), images, "nothing.like.it")


def blank(folder: Path, count: int) -> Path:
    for index in range(count):
        Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


def test_black_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 images that show something .12 blank."):
        quantised(built("relu"), blank(tmp_path, 12))


def test_blank_ones_among_others_are_left_out(images: Path, tmp_path: Path) -> None:
    for path in images.iterdir():
        (tmp_path / f"z{path.name}").write_bytes(path.read_bytes())
    model = quantised(built("relu"), blank(tmp_path, 3))
    assert model.quantised is not None and any("3 of 12 calibration images are blank" in note for note in model.notes)


def test_too_few_images(images: Path, tmp_path: Path) -> None:
    for path in sorted(images.iterdir())[:3]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"at least 8 images .* there are 3"):
        quantised(built("relu"), tmp_path)


def test_numbers_that_are_none(images: Path) -> None:
    weight = np.ones((6, 8, 1, 1))
    weight[3, 2] = np.nan
    with pytest.raises(InputError, match="a weight is NaN"):
        quantised(built("relu", v=weight), images)
    huge = np.full((8, 3, 3, 3), 3e38)
    with pytest.raises(InputError, match="NaN or infinite on a calibration image"):
        quantised(built("relu", w=huge), images)


def test_no_kernel(images: Path) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,24,32] x) => (float[1,6,48,64] y)'
        f" <float[3,6,2,2] w = {{{','.join(['0.5'] * 72)}}}> {{ y = ConvTranspose<strides=[2,2]> (x, w) }}"
    )
    model = Model.from_onnx(onnx.parser.parse_model(text))
    with pytest.raises(UnsupportedError, match="no layer can be int8"):
        quantised(model, images)
    with pytest.raises(UnsupportedError, match="cannot be int8: ConvTranspose"):
        quantised(model, images, "*")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int8"}, "needs images"),
        ({"quantize": "all", "calib": "x", "emit": "ncnn"}, "--emit names none"),
        ({"quantize": "int8,all", "calib": "x"}, "takes int8, all or patterns"),
        ({"quantize": " ,", "calib": "x"}, "names nothing"),
    ],
)
def test_options_are_checked(options: dict[str, str], message: str) -> None:
    with pytest.raises(OnnxSlimError, match=message):
        oy.compile("none.onnx", **options)


def test_products_of_two_maps_stay_float(images: Path) -> None:
    """There is no weight to quantise beforehand in attention; what is around it is int8."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,24,32] x) => (float[1,24,24,32] y)'
        f" <float[24,3,1,1] w = {{{','.join(['0.1'] * 72)}}}, float[24,24,1,1] v = {{{','.join(['0.1'] * 576)}}}>"
        " { c = Conv (x, w) t = Transpose<perm=[0,1,3,2]> (c) m = MatMul (c, t)"
        " s = Softmax (m) p = MatMul (s, c) y = Conv (p, v) }"
    )
    model = Model.from_onnx(onnx.parser.parse_model(text))
    reinfer(model.graph)
    plan = quantised(model, images).quantised
    assert len(plan.layers) == 2 and len(plan.left) == 2
    assert all("weight is computed" in why for why in plan.left.values())


@pytest.mark.parametrize("budget", [0.0, -0.1])
def test_a_budget_that_allows_nothing_is_refused(budget: float) -> None:
    with pytest.raises(UsageError, match=f"the error allowed to int8 must be above 0, not {budget}"):
        Quantise(budget=budget)


def test_without_images_there_are_no_ranges() -> None:
    with pytest.raises(UsageError, match="int8 needs images") as caught:
        Quantise().run(built("relu"))
    assert "--calib DIR" in (caught.value.hint or "")
