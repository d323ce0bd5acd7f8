"""What is known to be non-negative, and what is not."""

from __future__ import annotations

import pytest

from onnxslim_yolo.analysis.sign import is_nonnegative
from tests.numeric import build

POSITIVE = [
    "y = Relu(x)",
    "a = Relu(x) b = Sigmoid(x) c = Add(a, b) y = MaxPool<kernel_shape=[2,2]>(c)",
    "a = Relu(x) b = Concat<axis=1>(a, a) p, y = Split<axis=1>(b)",
    "a = Relu(x) y = Pad(a, pads)",
    'a = Abs(x) y = Resize<mode="linear">(a, , scales)',
    "a = Clip(x, half) y = Mul(a, half)",
    "y = Max(x, half)",
]
UNKNOWN = [
    "y = LeakyRelu(x)",
    "y = Identity(x)",
    "a = Relu(x) y = Add(a, x)",
    "a = Relu(x) y = Sub(a, half)",
    "a = Relu(x) y = Mul(a, less)",
    'a = Abs(x) y = Resize<mode="cubic">(a, , scales)',
    "a = Relu(x) y = Pad(a, pads, less)",
    "y = Clip(x, less)",
    "y = Clip(x, , half)",
    "y = Min(x, half)",
]


def known(body: str) -> bool:
    constants = """float half = {0.5}, float less = {-0.5}, int64[8] pads = {0,0,1,1,0,0,1,1},
        float[4] scales = {1.0, 1.0, 2.0, 2.0}"""
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[1,2,6,6] x) => (float[n,c,h,w] y)
        <{constants}> {{ {body} }}"""
    return is_nonnegative(build(text).graph.outputs[0])


@pytest.mark.parametrize("body", POSITIVE)
def test_known(body: str) -> None:
    assert known(body)


@pytest.mark.parametrize("body", UNKNOWN)
def test_unknown(body: str) -> None:
    assert not known(body)
