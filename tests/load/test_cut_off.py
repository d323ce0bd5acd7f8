"""Post-processing that only one runtime knows: the refusal's command gives a file that compiles."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.load import load
from tests.numeric import build
from tests.passes.cutting import onnx_text


def detector(path: Path, *, behind: str | None = None) -> Path:
    """Two convolutions, boxes and scores of them, and TensorRT's NMS; `behind`: an operator that reads its result."""
    model = build(
        onnx_text("float[1,3,8,8] x", "float[1,64,4] boxes, float[1,64,2] scores", "float[8,3,3,3] w, float[6,8,1,1] v",
        """c = Conv<pads=[1,1,1,1]>(x, w) r = Relu(c) m = Conv(r, v)
        flat = Constant<value_ints=[1,6,64]>() f = Reshape(m, flat)
        t = Transpose<perm=[0,2,1]>(f) parts = Constant<value_ints=[4,2]>() boxes, scores = Split<axis=2>(t, parts)""")
    )  # fmt: skip
    proto = model.to_onnx()
    ends = ["num_dets", "det_boxes", "det_scores", "det_classes"]
    proto.graph.node.append(helper.make_node("EfficientNMS_TRT", ["boxes", "scores"], ends, "nms", score_threshold=0.2))
    del proto.graph.output[:]
    if behind:
        proto.graph.node.append(helper.make_node(behind, ["det_boxes", "det_scores"], ["last"], "last"))
        ends = ["last"]
    proto.graph.output.extend(helper.make_tensor_value_info(end, TensorProto.FLOAT, None) for end in ends)
    onnx.save(proto, path)
    return path


def test_the_command_in_the_message_gives_the_network_before_it(tmp_path: Path) -> None:
    path = detector(tmp_path / "yolo-trt.onnx")
    with pytest.raises(UnsupportedError, match="unknown operator EfficientNMS_TRT") as refused:
        load(path)
    command = re.search(r'python -c "(.*)"$', refused.value.hint or "")
    assert command is not None and "$" not in command[1]
    subprocess.run([sys.executable, "-c", command[1]], cwd=tmp_path, check=True)
    cut = load(tmp_path / "yolo-trt-cut.onnx")
    assert [tensor.name for tensor in cut.graph.outputs] == ["boxes", "scores"]
    assert [node.op for node in cut.graph.nodes if node.op == "Conv"] == ["Conv", "Conv"]


def test_what_is_learned_behind_it_is_not_cut_off(tmp_path: Path) -> None:
    path = detector(tmp_path / "a.onnx", behind="MatMul")
    with pytest.raises(UnsupportedError) as refused:
        load(path)
    assert "export without custom" in (refused.value.hint or "")


def test_names_that_a_shell_would_read_are_not_in_a_command(tmp_path: Path) -> None:
    path = detector(tmp_path / "a.onnx")
    proto = onnx.load(path)
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = "$(boxes)" if name == "boxes" else name
    onnx.save(proto, path)
    with pytest.raises(UnsupportedError) as refused:
        load(path)
    assert "export without custom" in (refused.value.hint or "")
