"""What a network is fed for a pixel: spelt, read off first layers or metadata, and used wherever networks are run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

import onnxslim_yolo as oy
from onnxslim_yolo.analysis.first_layers import format_of_first_layers
from onnxslim_yolo.cli.main import app
from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.ir.input_format import BYTES, INPUT_KEY, UNIT, InputFormat, input_format_of, parse_input
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.runtime.images import load_input
from onnxslim_yolo.runtime.onnx_run import image_like_feeds
from onnxslim_yolo.verify.detector import Detector, open_network
from onnxslim_yolo.verify.pair import compare_models
from tests.numeric import build
from tests.passes.cutting import onnx_text
from tests.passes.test_empty_frames import DIGITS, scene


def test_spellings_come_back() -> None:
    for text in ("0..1", "0..255", "0..255,bgr", "mean=127.5,std=128", "mean=103,116,123,std=57,58,59,bgr"):
        assert str(parse_input(text)) == text
    imagenet = parse_input("mean=0.485,0.456,0.406,std=0.229,0.224,0.225")
    assert imagenet.mean == pytest.approx((123.675, 116.28, 103.53)) and imagenet.std[0] == pytest.approx(58.395)
    assert parse_input(str(imagenet)) == imagenet and parse_input("std=255") == UNIT and parse_input("std=1") == UNIT
    pixel = np.array([1.0, 0.5, 0.0], np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(BYTES.feed(pixel).ravel(), [255, 127.5, 0])
    np.testing.assert_array_equal(BYTES.feed(pixel, np.uint8).ravel(), [255, 128, 0])
    np.testing.assert_allclose(InputFormat(bgr=True).feed(pixel).ravel(), [0, 0.5, 1])
    np.testing.assert_allclose(imagenet.feed(pixel).ravel()[0], (1 - 0.485) / 0.229, rtol=1e-5)


@pytest.mark.parametrize("text", ["", "0..2", "mean=1", "std=0", "std=a", "std=1,2", "0..1,std=3", "std=nan", "x=3"])
def test_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--input"):
        parse_input(text)
    with pytest.raises(InputError, match="damaged"):
        input_format_of({INPUT_KEY: text})
    assert CliRunner().invoke(app, ["verify", "a", "b", "--input", text]).exception is not None


WEIGHTS = "float[4,3,3,3] w, float[1] k, float[1,3,1,1] m, float[1,3,1,1] s"
FIRST_LAYERS = {
    "a = Div(x, k) y = Conv(a, w)": ({"k": [255.0]}, BYTES),
    "a = Mul(x, k) y = Conv(a, w)": ({"k": [0.00392]}, BYTES),
    "a = Identity(x) b = Mul(k, a) y = Conv(b, w)": ({"k": [0.00392]}, BYTES),
    "k2 = Constant<value_float=255.0>() a = Div(x, k2) y = Conv(a, w)": ({}, BYTES),
    "a = Sub(x, m) b = Div(a, s) y = Conv(b, w)": ({"m": [103.5, 116.0, 123.0], "s": [57.0, 58.0, 59.0]}, BYTES),
    "a = Sub(x, m) y = Conv(a, w)": ({"m": [104.0, 117.0, 123.0]}, BYTES),
    "a = Sub(x, m) b = Div(a, s) z = Conv(b, w) y = Relu(z)": ({"m": [0.48, 0.45, 0.4], "s": [0.2, 0.2, 0.2]}, UNIT),
    "a = Mul(k, x) y = Conv(a, w)": ({"k": [255.0]}, UNIT),
    "y = Conv(x, w)": ({}, None),
    "a = Relu(x) b = Div(a, k) y = Conv(b, w)": ({"k": [255.0]}, None),
    "a = Div(k, x) y = Conv(a, w)": ({"k": [255.0]}, None),
}


@pytest.mark.parametrize("body", FIRST_LAYERS)
def test_first_layers_show_the_input(body: str) -> None:
    given, expected = FIRST_LAYERS[body]
    values = {"w": np.ones((4, 3, 3, 3))} | {
        key: np.asarray(value).reshape((1,) if key == "k" else (1, 3, 1, 1)) for key, value in given.items()
    }
    used = ", ".join(part for part in WEIGHTS.split(", ") if part.split()[-1] in values)
    found = format_of_first_layers(
        build(onnx_text("float[1,3,16,16] x", "float[a,b,c,d] y", used, body), values=values).graph
    )
    assert (None if found is None else found[0]) == expected


def test_integers_are_pixels() -> None:
    text = onnx_text("uint8[1,3,8,8] x", "float[a,b,c,d] y", "float[4,3,3,3] w", "a = Cast<to=1>(x) y = Conv(a, w)")
    found = format_of_first_layers(build(text, values={"w": np.ones((4, 3, 3, 3))}).graph)
    assert found is not None and found[0] == BYTES and "uint8" in found[1]


def with_pixels(folder: Path, kind: int = TensorProto.FLOAT) -> Path:
    """The bundled detector, fed pixels from 0 to 255."""
    proto = onnx.load(str(DIGITS))
    image = proto.graph.input[0]
    shape = [d.dim_value or d.dim_param for d in image.type.tensor_type.shape.dim]
    name, image.name = image.name, "pixels"
    image.CopyFrom(helper.make_tensor_value_info("pixels", kind, shape))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(255, np.float32), "white"))
    nodes = [helper.make_node("Div", ["levels", "white"], [name], name="to_unit")]
    cast = helper.make_node("Cast" if kind != TensorProto.FLOAT else "Identity", ["pixels"], ["levels"], name="levels")
    if kind != TensorProto.FLOAT:
        cast.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    old = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([cast, *nodes, *old])
    path = folder / "pixels.onnx"
    onnx.save(proto, str(path))
    return path


def detections(path: Path, image: Path, form: InputFormat | None = None) -> list[np.ndarray]:
    network = open_network(path, form=form)
    found = Detector(network, conf=0.25)(load_input(image, network.size)[0])[0]
    return [found.boxes, found.scores]


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8], ids=["float", "uint8"])
def test_a_detector_that_takes_pixels(kind: int, tmp_path: Path) -> None:
    path, image = with_pixels(tmp_path, kind), tmp_path / "scene.png"
    Image.fromarray(scene(0)).save(image)
    expected = detections(DIGITS, image)
    assert len(expected[1])
    for ours, theirs in zip(detections(path, image), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=0.2 if ours.ndim > 1 else 1e-3)
    # The control: fed from 0 to 1 it sees nothing.
    assert kind != TensorProto.FLOAT or not len(detections(path, image, UNIT)[1])
    model, _ = read_model(path, LoadOptions())
    assert any(note.startswith("input: 0..255, for ") for note in model.notes)
    assert image_like_feeds(model)[0]["pixels"].max() > 200
    calibration = CalibrationImages(image, model)[0]
    assert calibration.max() > 200 and calibration.dtype == (np.float32 if kind == TensorProto.FLOAT else np.uint8)


def test_the_result_says_what_it_is_fed(tmp_path: Path) -> None:
    path, image = with_pixels(tmp_path), tmp_path / "scene.png"
    Image.fromarray(scene(0)).save(image)
    result = oy.compile(path, out=tmp_path / "out", prune=0.2)
    assert any("input: 0..255" in note for note in result.report["notes"])
    assert result.onnx is not None and result.ncnn is not None
    assert Model.from_onnx(onnx.load(str(result.onnx))).metadata[INPUT_KEY] == "0..255"
    for written in (result.onnx, result.ncnn):
        network = open_network(written)
        assert network.form == BYTES
        np.testing.assert_allclose(len(detections(written, image)[1]), len(detections(path, image)[1]), atol=2)
    assert compare_models(path, path).passed


def test_a_given_format_is_kept(tmp_path: Path) -> None:
    result = oy.compile(DIGITS, out=tmp_path / "out", emit="onnx", input="mean=0,std=255,bgr")
    assert result.onnx is not None and open_network(result.onnx).form.bgr
    plain = oy.compile(DIGITS, out=tmp_path / "plain", emit="onnx")
    assert plain.onnx is not None and INPUT_KEY not in open_network(plain.onnx).metadata
    with pytest.raises(UsageError, match="--input"):
        oy.compile(DIGITS, input="0..3")
