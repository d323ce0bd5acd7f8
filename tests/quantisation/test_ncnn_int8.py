"""The NCNN pair in int8: written, run by ncnn, and a mistake of any kind is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ncnn")

from onnxslim_yolo.emit.ncnn.emitter import NcnnModel, emit_ncnn
from onnxslim_yolo.emit.ncnn.int8 import Int8Layer, away_from_zero
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.runtime.ncnn_run import run_ncnn
from onnxslim_yolo.runtime.onnx_run import image_like_feeds
from onnxslim_yolo.verify.chain import Check
from onnxslim_yolo.verify.ncnn_int8 import verify_int8_pair
from tests.quantisation.test_quantise import BODIES, built, images, layers_of, quantised

__all__ = ["images"]


def checked(model: Model, pair: NcnnModel, folder: Path) -> list[Check]:
    return verify_int8_pair(model, pair, write_pair(pair, folder), image_like_feeds(model, 2))


@pytest.mark.parametrize("weights", ["fp16", "fp32"])
@pytest.mark.parametrize("body", BODIES)
def test_ncnn_computes_the_plan(body: str, weights: str, images: Path, tmp_path: Path) -> None:
    model = quantised(built(body), images)
    pair = emit_ncnn(model, weights=weights)
    assert len(pair.int8) == layers_of(body) and "8=1" in pair.param
    assert max(check.worst for check in checked(model, pair, tmp_path) if "simulation" in check.label) < 1e-4


def test_only_what_is_asked_for(images: Path, tmp_path: Path) -> None:
    model = built("relu")
    quantised(model, images, model.graph.nodes[0].name)
    pair = emit_ncnn(model)
    assert [layer.name for layer in pair.int8] == [model.graph.nodes[0].name]
    checked(model, pair, tmp_path)


def test_with_dot_products_winograd_is_faster(images: Path) -> None:
    pair = emit_ncnn(quantised(built("relu"), images), dot_products=True)
    assert len(pair.int8) == 1 and any("3x3 convolution is faster" in note for note in pair.notes)


def one_code(layer: Int8Layer) -> Int8Layer:
    codes = layer.codes.copy()
    codes.reshape(-1)[3] += 40 if codes.reshape(-1)[3] < 0 else -40
    return replace(layer, codes=codes)


def input_scale(layer: Int8Layer) -> Int8Layer:
    return replace(layer, input_scale=np.float32(layer.input_scale * 1.01))


def one_scale(layer: Int8Layer) -> Int8Layer:
    scale = layer.scale.copy()
    scale[2] *= np.float32(1.01)
    return replace(layer, scale=scale)


@pytest.mark.parametrize("mistake", [one_code, input_scale, one_scale])
@pytest.mark.parametrize("body", ["silu", "clip and depthwise"])
def test_a_mistake_is_found(body: str, mistake: Callable[[Int8Layer], Int8Layer], images: Path, tmp_path: Path) -> None:
    """The pair on disk has other numbers than it is said to have."""
    model = quantised(built(body), images)
    pair = emit_ncnn(model)
    said = (mistake(pair.int8[0]), *pair.int8[1:])
    with pytest.raises(VerificationError, match="int8"):
        checked(model, replace(pair, int8=said), tmp_path)


def test_codes_that_are_no_roundings(images: Path, tmp_path: Path) -> None:
    """A pair that does what it says is wrong still, where what it says is not the graph."""
    model = quantised(built("relu"), images)
    pair = emit_ncnn(model)
    other = built("relu", w=np.random.default_rng(5).standard_normal((8, 3, 3, 3)) / 5)
    with pytest.raises(VerificationError, match="no roundings of the weights"):
        checked(other, pair, tmp_path)


def test_halves_go_away_from_zero() -> None:
    assert away_from_zero(np.array([-1.5, -0.5, 0.5, 2.5, 0.49])).tolist() == [-2, -1, 1, 3, 0]


def output_scale(layer: Int8Layer) -> Int8Layer:
    return replace(layer, output_scale=layer.output_scale * np.float32(1.01))


def test_codes_are_handed_on(images: Path, tmp_path: Path) -> None:
    """Where only int8 convolutions read them; not to a pool, nor out of the network; and a wrong scale is found."""
    model = quantised(built("clip and depthwise"), images)
    pair = emit_ncnn(model)
    assert [layer.output_scale is not None for layer in pair.int8] == [True, True, False]
    assert pair.param.count("8=101") == 2 and any("2 of them hand on codes" in note for note in pair.notes)
    checked(model, pair, tmp_path)
    with pytest.raises(VerificationError, match="int8"):
        checked(model, replace(pair, int8=(output_scale(pair.int8[0]), *pair.int8[1:])), tmp_path)
    pooled = emit_ncnn(quantised(built("concat, pool, residual"), images))
    assert not any(layer.output_scale for layer in pooled.int8) and "8=101" not in pooled.param


def test_codes_are_those_that_the_reader_would_make(images: Path, tmp_path: Path) -> None:
    """Of the same plan with and without: what the network gives out is the same but for ncnn's own arithmetic."""
    model = quantised(built("relu"), images)
    pair = emit_ncnn(model)
    assert [layer.output_scale is not None for layer in pair.int8] == [True, False]
    other = emit_ncnn(model, codes=False)
    outputs = []
    for name, each in (("with", pair), ("without", other)):
        (tmp_path / name).mkdir()
        feed = image_like_feeds(model, 1)[0]["x"][0]
        outputs.append(run_ncnn(*write_pair(each, tmp_path / name), [{"in0": feed}], outputs=["out0"], exact=True)[0])
    assert np.abs(outputs[0]["out0"] - outputs[1]["out0"]).max() <= 1e-5 * np.abs(outputs[1]["out0"]).max()


def test_a_size_that_is_open(images: Path, tmp_path: Path) -> None:
    model = quantised(built("relu"), images)
    pair = emit_ncnn(model)
    files, feeds = write_pair(pair, tmp_path), image_like_feeds(model, 2)
    model.graph.inputs[0].shape = ["n", 3, "h", "w"]
    reinfer(model.graph)
    assert all(check.passed for check in verify_int8_pair(model, pair, files, feeds))
