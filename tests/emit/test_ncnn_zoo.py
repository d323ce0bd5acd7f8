"""Every architecture, in ncnn as in onnxruntime: dynamic exports fixed to two sizes, odd widths, fp16, cut heads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

from onnxslim_yolo.emit.ncnn.emitter import NcnnModel, emit_ncnn
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.ncnn_run import NcnnSession
from onnxslim_yolo.verify.ncnn_compare import compare_outputs, half_weights
from tests import zoo
from tests.emit.ncnn_session import fresh_session

TOLERANCE = 5e-4
SIZES = ((64, 64), (96, 160))
REFUSED = {"rtdetr"}
"""TopK in the middle of the network, with learned layers behind it."""

CUT = {"yolov10n", "yolo26n", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb"}


@pytest.fixture(scope="module")
def session() -> Iterator[NcnnSession]:
    with fresh_session() as opened:
        yield opened


def load(name: str, size: tuple[int, int] | None = None, **options: object) -> Model:
    model = Model.from_onnx(onnx.load_from_string(zoo.onnx_bytes(name, **options)))
    if size is not None:
        model.graph.inputs[0].shape = ["batch", 3, *size]
    return model


def noise(converted: NcnnModel, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {port.onnx: rng.random(port.shape, dtype=np.float32) for port in converted.inputs.values()}


FREE = zoo.some(
    *("yolov5n", "yolov7-rep", "yolov8n-obb", "yolov10n", "yolo12n", "yolo26n-pose", "v5lite-s"),
    *("nanodet", "efficientdet", "ppyoloe", "convnext", "mobilenetv3"),
)
"""A network of each way to write sizes; bench/ncnn_zoo.py takes all at three sizes."""


@pytest.mark.parametrize("name", [name for name in zoo.NAMES if name not in REFUSED])
def test_agrees_with_onnxruntime(name: str, session: NcnnSession) -> None:
    agrees(name, load(name), session)


@pytest.mark.parametrize("name", [name for name in FREE if name not in REFUSED])
def test_as_exporters_write_sizes_that_are_free(name: str, session: NcnnSession) -> None:
    for size in SIZES if "yolo" in name else SIZES[1:]:
        agrees(name, load(name, size, dynamic=True, fold=True), session)


def agrees(name: str, model: Model, session: NcnnSession) -> None:
    converted = emit_ncnn(model, weights="fp32")
    assert bool(converted.cut) == (name in CUT)
    found = compare_outputs(model, converted, [noise(converted)], session=session)
    assert max(each.relative for each in found) < TOLERANCE, found


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "yolo12n", "v5lite-s", "mobilenetv3"])
def test_unfolded_batchnorm_and_odd_widths(name: str, session: NcnnSession) -> None:
    model = load(name, width=0.37)
    converted = emit_ncnn(model, weights="fp32")
    found = compare_outputs(model, converted, [noise(converted)], session=session)
    assert max(each.relative for each in found) < TOLERANCE, found


@pytest.mark.parametrize("name", ["yolov8n", "mobilenetv2", "yolov5n-focus", "yolo12n"])
def test_fp16_weights(name: str, session: NcnnSession) -> None:
    model = load(name, SIZES[1], dynamic=True, fold=True)
    half, full = emit_ncnn(model), emit_ncnn(model, weights="fp32")
    assert 0.45 < len(half.bin) / len(full.bin) < 0.75
    found = compare_outputs(half_weights(model), half, [noise(half)], session=session)
    assert max(each.relative for each in found) < TOLERANCE, found
    rounding = compare_outputs(model, half, [noise(half)], session=session)
    assert max(each.relative for each in found) < max(each.relative for each in rounding) < 0.2, rounding


@pytest.mark.parametrize("name", sorted(CUT))
def test_end_to_end_head_is_cut_before_topk(name: str) -> None:
    model = load(name, SIZES[0], dynamic=True)
    converted = emit_ncnn(model)
    shapes = [port.shape for port in converted.outputs.values()]
    boxes_and_scores = (84, 8) if name in ("yolov10n", "yolo26n") else (84, 4)
    assert set(shapes[0][1:]) == set(boxes_and_scores)
    (note,) = (note for note in converted.notes if "depthwise" not in note)
    assert "TopK" in note and converted.cut[0] in note
    with pytest.raises(UnsupportedError, match="TopK"):
        emit_ncnn(model, cut=False)


def test_refusal_names_the_node_and_the_learned_layer_behind_it() -> None:
    with pytest.raises(UnsupportedError, match=r"node '/TopK'.*MatMul.*comes after"):
        emit_ncnn(load("rtdetr"))


def test_sizes_must_be_known() -> None:
    with pytest.raises(UnsupportedError, match="--imgsz"):
        emit_ncnn(load("yolov8n", dynamic=True))


def test_same_bytes_twice() -> None:
    model = load("yolov8n")
    first, second = emit_ncnn(model), emit_ncnn(model.copy())
    assert first == second
