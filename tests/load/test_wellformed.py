"""What onnx's checker refuses and runtimes run; and what stays refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.load.onnx import load_onnx
from tests.kinds import TRUNK, compiled, text_of, trunk, written
from tests.numeric import build


def test_a_group_norm_of_opset_18_is_compiled(tmp_path: Path) -> None:
    """Its first definition was withdrawn when opset 21 had another; scale and shift are a group's."""
    body, values = trunk()
    body = f"{body} n = LeakyRelu(f) y = Conv(n, w1)"  # our own tests' builder asks the checker, too
    text = text_of("float[1,3,8,8] x", "float[1,4,8,8] y", f"{TRUNK}, float[4,8,1,1] w1", body, opset=20)
    path = written(text, tmp_path, values)
    proto = onnx.load(path)
    place = next(node for node in proto.graph.node if node.op_type == "LeakyRelu")
    place.CopyFrom(helper.make_node("GroupNormalization", ["f", "s", "t"], ["n"], num_groups=2))
    for name, numbers in (("s", [0.5, 1.5]), ("t", [-0.2, 0.3])):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.float32), name))
    onnx.save(proto, path)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(onnx.load(path))
    compiled(path, tmp_path, emit="onnx,ncnn")


def test_an_operator_that_was_superseded_is_refused(tmp_path: Path) -> None:
    text = text_of("float[1,3,8,8] x", "float[1,3,16,16] y", "float[4] up = {1,1,2,2}", "y = Upsample(x, up)", opset=13)
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    with pytest.raises(InputError, match="Upsample"):
        load_onnx(path)


def test_an_image_without_a_batch_is_named_as_that() -> None:
    text = text_of("float[3,8,8] x", "float[3,8,8] y", "", "y = Relu(x)")
    with pytest.raises(UnsupportedError, match=r"has the shape \(3, 8, 8\)(.|\n)*\(1, c, h, w\)"):
        emit_ncnn(build(text))
