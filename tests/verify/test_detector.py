"""Opening models of every runtime as detectors."""

import json

import numpy as np
import onnx
import onnx.parser
import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_ncnn
from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError
from onnxslim_yolo.heads.spec import HEAD_KEY, HeadSpec
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes.head import Head
from onnxslim_yolo.runtime.progress import listening
from onnxslim_yolo.verify.detector import Detector, _ncnn_metadata, cut_by_emitter, open_network
from onnxslim_yolo.verify.input_size import declared_size
from onnxslim_yolo.verify.pair import compare_models
from tests.numeric import build
from tests.passes.cutting import onnx_text
from tests.zoo import model_path

IMAGE = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n"])
def test_one_detector_in_four_shapes(tmp_path, name: str) -> None:
    decoded = Model.from_onnx(onnx.load(model_path(name)))
    raw = decoded.copy()
    assert Head().run(raw) == 1
    onnx.save(raw.to_onnx(), tmp_path / "raw.onnx")
    write_ncnn(emit_ncnn(raw, weights="fp32"), tmp_path / "raw_ncnn_model", raw.metadata)
    write_ncnn(emit_ncnn(decoded, weights="fp32"), tmp_path / "dec_ncnn_model", decoded.metadata)
    files = [model_path(name), tmp_path / "raw.onnx", tmp_path / "raw_ncnn_model", tmp_path / "dec_ncnn_model"]
    found = [Detector(open_network(file, threads=1), conf=0.05)(IMAGE)[0] for file in files]
    assert len(found[0]) > 5
    for other in found[1:]:
        assert len(other) == len(found[0])
        np.testing.assert_allclose(other.scores, found[0].scores, atol=1e-5)
        np.testing.assert_allclose(np.sort(other.boxes, axis=0), np.sort(found[0].boxes, axis=0), atol=0.01)


def test_end_to_end_heads_in_ncnn(tmp_path) -> None:
    whole = Model.from_onnx(onnx.load(model_path("yolo26n")))
    raw = whole.copy()
    assert Head().run(raw) == 1
    for name, model in (("whole", whole), ("raw", raw)):
        write_ncnn(emit_ncnn(model, weights="fp32"), tmp_path / f"{name}_ncnn_model", model.metadata)
    cells = 84  # so many boxes, one a cell, this little model ranks
    source = Detector(open_network(model_path("yolo26n"), threads=1), nc=4, conf=0.2)(IMAGE)[0]
    found = Detector(open_network(tmp_path / "raw_ncnn_model", threads=1), conf=0.2, max_det=cells)(IMAGE)[0]
    assert len(source) > 5
    np.testing.assert_allclose(found.scores, source.scores, atol=1e-5)
    np.testing.assert_allclose(found.boxes, source.boxes, atol=0.01)
    # What the emitter cut by itself looks like YOLOv8's table, but its boxes are corners: not guessed at.
    with pytest.raises(UnsupportedError, match="--head raw"):
        Detector(open_network(tmp_path / "whole_ncnn_model", threads=1))(IMAGE)


def test_input_sizes(tmp_path) -> None:
    assert open_network(model_path("yolov8n")).size == (64, 64)
    with pytest.raises(UsageError, match="fixed to 64x64"):
        open_network(model_path("yolov8n"), size=(96, 96))
    free = model_path("yolov8n", dynamic=True)
    assert open_network(free, size=(96, 128)).size == (96, 128)
    assert open_network(free).size == (640, 640)
    proto = onnx.load(free)
    onnx.helper.set_model_props(proto, {"imgsz": "[224, 320]"})
    onnx.save(proto, tmp_path / "free.onnx")
    assert open_network(tmp_path / "free.onnx").size == (224, 320)
    assert declared_size({"imgsz": "320"}) == (320, 320) and declared_size({"imgsz": "big"}) is None


def test_broken_files_are_named(tmp_path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    (tmp_path / "folder").mkdir()
    for name in ("x.onnx", "gone.onnx", "folder"):
        with pytest.raises(InputError, match=name):
            open_network(tmp_path / name)


def relu(shape: str, path) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[{shape}] x) => (float[{shape}] y) {{ y = Relu(x) }}'
    onnx.save(onnx.parser.parse_model(text), path)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ("2,3,8,8", "its batch is fixed at 2"),
        ("1,1,8,8", r"expected one input \(1, 3, h, w\)"),
        ("1,3,8", "expected one"),
    ],
)
def test_what_is_no_one_image_is_refused(shape: str, said: str, tmp_path) -> None:
    """One by one, images were fed to it all the same, and onnxruntime's answer was an internal error."""
    relu(shape, tmp_path / "n.onnx")
    with pytest.raises(InputError, match=said):
        open_network(tmp_path / "n.onnx")


def test_channels_that_come_last_are_fed_last(tmp_path) -> None:
    relu("n,12,8,3", tmp_path / "n.onnx")
    network = open_network(tmp_path / "n.onnx")
    image = np.random.default_rng(0).random((1, 3, 12, 8), np.float32)
    assert network.size == (12, 8)
    assert np.array_equal(network.run(image)[0], image.transpose(0, 2, 3, 1))


def test_so_they_are_in_ncnn(tmp_path) -> None:
    text = (
        "float[1,12,8,3] x",
        "float[1,4,12,8] y",
        "float[4,3,1,1] w",
        "t = Transpose<perm=[0,3,1,2]>(x) y = Conv(t, w)",
    )
    model = build(onnx_text(*text))
    model.save(tmp_path / "n.onnx")
    write_ncnn(emit_ncnn(model, weights="fp32"), tmp_path / "n_ncnn_model", model.metadata)
    image = np.random.default_rng(0).random((1, 3, 12, 8), np.float32)
    here, there = (open_network(tmp_path / name) for name in ("n.onnx", "n_ncnn_model"))
    assert here.size == there.size == (12, 8)
    np.testing.assert_allclose(here.run(image)[0], there.run(image)[0], rtol=1e-4, atol=1e-5)


def test_unknown_heads_name_the_file() -> None:
    with pytest.raises(UnsupportedError, match="onnx"):
        Detector(open_network(model_path("resnet")))(IMAGE)


def test_description_survives_yaml(tmp_path) -> None:
    model = Model.from_onnx(onnx.load(model_path("yolov8n")))
    Head().run(model)
    folder = tmp_path / "n_ncnn_model"
    write_ncnn(emit_ncnn(model), folder, model.metadata)
    metadata = open_network(folder).metadata
    assert json.loads(metadata["onnxslim_yolo.head"])["kind"] == "v8-raw"


def test_a_checkpoint_is_a_detector_too(tmp_path) -> None:
    pytest.importorskip("torch")
    from tests.load.repositories import save_like_a_trainer
    from tests.zoo import module

    save_like_a_trainer(tmp_path / "best.pt", module("yolov8n"), extra={"train_args": {"imgsz": 64}})
    files = [tmp_path / "best.pt", model_path("yolov8n")]
    found = [Detector(open_network(file, threads=1), conf=0.05)(IMAGE)[0] for file in files]
    assert len(found[0]) > 5
    for part in ("boxes", "scores", "classes"):
        np.testing.assert_array_equal(getattr(found[0], part), getattr(found[1], part))
    seen: list[str] = []
    with listening(lambda what, done, total: seen.append(what)):
        assert compare_models(*files, size=(64, 64)).passed
    assert seen.count("its graph") == 1, "read and traced once"
    # Control: another checkpoint gives other boxes.
    spoilt = module("yolov8n")
    spoilt.model[0].conv.weight.data *= 1.01
    save_like_a_trainer(tmp_path / "other.pt", spoilt)
    other = Detector(open_network(tmp_path / "other.pt", size=(64, 64), threads=1), conf=0.05)(IMAGE)[0]
    assert other.scores.shape != found[0].scores.shape or np.abs(other.scores - found[0].scores).max() > 1e-4


@pytest.mark.parametrize(("text", "expected"), [("[64, 96]", (64, 96)), ("²", None), ("9" * 5000, None), ("0", None)])
def test_declared_sizes(text: str, expected: tuple[int, int] | None) -> None:
    assert declared_size({"imgsz": text}) == expected


@pytest.mark.parametrize(
    "value", ["'" + "[" * 50_000 + "'", "2026-11-22", "{2026-11-22: 1}", "[]", "'{\"strides\": [1e999]}'"]
)
def test_damaged_descriptions(tmp_path, value: str) -> None:
    (tmp_path / "metadata.yaml").write_text(f"{HEAD_KEY}: {value}\nonnxslim_yolo.ncnn: {value}\n")
    metadata = _ncnn_metadata(tmp_path)
    assert not cut_by_emitter(metadata)
    with pytest.raises(InputError, match=r"is damaged|unknown kind"):
        HeadSpec.from_json(metadata[HEAD_KEY])


def test_raw_maps_beside_boxes_are_refused_with_the_way_to_compare_them(tmp_path) -> None:
    whole = model_path("yolov5n")
    raw = oy.compile(whole, prune=0, head="raw", emit="onnx", verify=False, out=tmp_path / "raw").onnx
    for pair in ((whole, raw), (raw, whole)):
        with pytest.raises(InputError, match=r"has \d outputs?, .* has \d") as caught:
            compare_models(*pair)
        assert f"`compile {whole} --prune 0 --head raw`" in str(caught.value)
    again = oy.compile(whole, prune=0, head="raw", emit="onnx", verify=False, out=tmp_path / "again").onnx
    assert compare_models(again, raw).passed
