"""What was written is run once: its outputs, and inner tensors for the control, from the file's own bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnxslim_yolo.ir.graph import replace_constant
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx, with_outputs
from onnxslim_yolo.verify.control import Tail
from onnxslim_yolo.verify.files import _run_written
from tests.numeric import build

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x) => (float[1,2,8,8] y)
<float[4,3,1,1] w = {1,0,0,0,1,0,0,0,1,1,1,1}, float[2,4,1,1] v = {1,2,3,4,5,6,7,8}>
{ a = Conv(x, w) b = Relu(a) c = Conv(b, v) y = Sigmoid(c) }"""


def test_the_files_bytes_are_what_is_run(tmp_path: Path) -> None:
    model = build(TEXT)
    file = model.save(tmp_path / "written.onnx")
    assert with_outputs(file, ["b"]).startswith(file.read_bytes())
    assert with_outputs(file, []) == file.read_bytes()
    feeds = image_like_feeds(model, 2)
    plain, inner = _run_written(file, feeds, ["b"])
    assert [list(run) for run in plain] == [["y"], ["y"]] and list(inner) == ["b"]
    for run, alone in zip(plain, run_onnx(file, feeds), strict=True):
        assert np.array_equal(run["y"], alone["y"])
    replace_constant(model.graph.nodes[0], 1, 1.01 * np.asarray(model.graph.nodes[0].inputs[1].values))  # type: ignore[attr-defined]
    _, other = _run_written(model.save(tmp_path / "spoiled.onnx"), feeds, ["b"])
    assert not np.allclose(inner["b"], other["b"], rtol=1e-3)  # the control: the file says, not the memory


def test_what_the_graph_returns_is_not_asked_for_twice() -> None:
    assert Tail(build(TEXT)).inner() == ["b"]
    assert Tail(build(TEXT.replace("(float[1,2,8,8] y)", "(float[1,2,8,8] y, float[1,4,8,8] b)"))).inner() == []
