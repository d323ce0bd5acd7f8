"""What is known to be non-negative or positive, and what is not."""

from __future__ import annotations

import pytest

from onnxslim_yolo.analysis.sign import is_nonnegative, is_positive
from onnxslim_yolo.ir.graph import Tensor
from tests.numeric import build

POSITIVE = [
    "y = Clip(x, nil)",
    "a = Relu(x) y = Clip(a, less)",
    "a = Relu(x) y = Clip(a)",
    "y = Max(x, nil)",
    "a = Abs(x) y = Max(x, a)",
    "a = Abs(x) y = Resize(a, , scales)",
    "y = Relu(x)",
    "a = Relu(x) b = Sigmoid(x) c = Add(a, b) y = MaxPool<kernel_shape=[2,2]>(c)",
    "a = Relu(x) b = Concat<axis=1>(a, a) p, y = Split<axis=1>(b)",
    "a = Relu(x) y = Pad(a, pads)",
    'a = Abs(x) y = Resize<mode="linear">(a, , scales)',
    "a = Clip(x, half) y = Mul(a, half)",
    "y = Max(x, half)",
]
UNKNOWN = [
    "a = Relu(x) b = Neg(a) y = Max(b, b)",
    "a = Relu(x) y = Pad(x, pads)",
    "y = Resize(x, , scales)",
    "y = Clip(x)",
    "a = Cast<to=7>(x) b = Relu(x) y = Cast<to=1>(b)",
    "a = Relu(x) y = Concat<axis=1>(a, x)",
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


def result_of(body: str) -> Tensor:
    constants = """float half = {0.5}, float less = {-0.5}, int64[8] pads = {0,0,1,1,0,0,1,1},
        float nil = {0.0}, int64[4] shape = {1,2,6,6},
        float[4] scales = {1.0, 1.0, 2.0, 2.0}"""
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[1,2,6,6] x) => (float[n,c,h,w] y)
        <{constants}> {{ {body} }}"""
    return build(text).graph.outputs[0]


@pytest.mark.parametrize("body", POSITIVE)
def test_known(body: str) -> None:
    assert is_nonnegative(result_of(body))


@pytest.mark.parametrize("body", UNKNOWN)
def test_unknown(body: str) -> None:
    assert not is_nonnegative(result_of(body))


ABOVE_ZERO = [
    "y = Clip(x, half)",
    "y = Max(x, half)",
    "a = Abs(x) y = Add(a, half)",
    "a = Relu(x) b = Add(half, a) y = Sqrt(b)",
    "a = Clip(x, half, half) y = Expand(a, shape)",
]
MAYBE_ZERO = [
    "y = Relu(x)",
    "y = Sigmoid(x)",
    "y = Exp(x)",
    "y = Identity(x)",
    "y = Clip(x, nil)",
    "y = Clip(x, , half)",
    "y = Add(x, half)",
    "a = Abs(x) b = Abs(x) y = Add(a, b)",
    "a = Abs(x) y = Max(a, nil)",
]


@pytest.mark.parametrize(("body", "expected"), [(b, True) for b in ABOVE_ZERO] + [(b, False) for b in MAYBE_ZERO])
def test_positive(body: str, expected: bool) -> None:
    assert is_positive(result_of(body)) is expected
