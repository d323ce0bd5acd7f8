"""What the pass refuses before it looks at an image, and what it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.passes.quantise import Quantise
from onnxslim_yolo.quantisation.qdq import quantised_graph
from onnxslim_yolo.runtime.onnx_run import image_like_feeds
from onnxslim_yolo.verify.quantised import verify_quantised
from tests.numeric import build
from tests.passes.cutting import onnx_text

BODY = "c = Conv<pads=[1,1,1,1]> (x, w) r = Relu (c) y = Conv (r, v)"


@pytest.mark.parametrize("opset", [9, 10])
def test_codes_need_an_opset_that_has_them(opset: int, tmp_path: Path) -> None:
    (tmp_path / "i").mkdir()
    for index in range(9):
        pixels = np.random.default_rng(index).integers(0, 255, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "i" / f"{index}.png")
    model = build(
        onnx_text("float[1,3,24,32] x", "float[1,6,24,32] y", "float[8,3,3,3] w, float[6,8,1,1] v", BODY, opset)
    )
    step = Quantise(("all",), tmp_path / "i")
    if opset == 9:
        with pytest.raises(UnsupportedError, match="int8 is written with QuantizeLinear, which opset 9 has not"):
            step.run(model)
        return
    step.run(model)
    plan = model.quantised
    assert plan is not None
    found = verify_quantised(
        model, plan, quantised_graph(model, plan).save(tmp_path / "m.onnx"), image_like_feeds(model, 3)
    )
    assert found.failed is None and found.kernels == 2
