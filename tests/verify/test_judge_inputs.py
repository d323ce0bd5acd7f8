"""What rounding costs is asked of every input, where a comparison fails."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.verify.compare import worst_of
from onnxslim_yolo.verify.judge import judge_of
from tests.numeric import build, run_onnx

TEXT = '<ir_version: 9, opset_import: ["" : 17]> g (float[1,64,8,8] x) => (float[1,2,8,8] y)\n'
TEXT += "<float[2,64,1,1] w> { y = Conv(x, w) }"


def test_terms_that_cancel_on_one_input_alone() -> None:
    rng = np.random.default_rng(0)
    half = rng.normal(0, 1, (2, 32, 1, 1))
    weight = np.concatenate((half, -half), axis=1).astype(np.float32)
    order = rng.permutation(64)
    large = rng.normal(0, 1, (1, 32, 8, 8)) * 3e3
    small, still = (rng.normal(0, 1e-1, (1, 64, 8, 8)) for _ in range(2))
    images = (np.concatenate((large, large), axis=1) + small, still)
    feeds = [{"x": image.astype(np.float32)} for image in images]
    reference = build(TEXT, values={"w": weight})
    judge = judge_of(reference, feeds)
    turned = build(TEXT, values={"w": weight[:, order]})  # the same sum in another order
    other = [{"y": run_onnx(turned, {"x": feed["x"][:, order]})["y"]} for feed in feeds]
    assert worst_of(judge.compare(other)) <= 1e-4
    spoilt = weight.copy()
    spoilt[0, 3] *= 1.01
    wrong = [{"y": run_onnx(build(TEXT, values={"w": spoilt}), feed)["y"]} for feed in feeds]
    assert worst_of(judge.compare(wrong)) > 1e-4
