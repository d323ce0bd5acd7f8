"""A layer behind a Pad of a map that is mostly negative, as ONNX text."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.ir.model import Model
from tests.numeric import build

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
ZERO = np.array(0.0)
POOL = "MaxPool<kernel_shape=[2,2], strides=[1,1]>(p)"
LEAKY = "LeakyRelu<alpha=0.1>(c)"


def padded(
    layer: str = POOL,
    activation: str = LEAKY,
    pads: str = "0,0,0,0,0,0,1,1",
    *,
    size: str = "8,7",
    more: str = "",
    outputs: str = "",
    pad: str = "Pad(h, pads)",
) -> str:
    """A convolution whose outputs are mostly negative, an activation, a Pad and a layer."""
    weights = f"float[4,3,3,3] w, float[4] b, float[5,4,3,3] k, int64[8] pads = {{{pads}}}, float low"
    return f"""{HEADER} g (float[2,3,{size}] x) => (float[2,a,b,c] y{outputs}) <{weights}, float zero, float one,
        int64[2] spatial = {{-1, 2}}, int64[4] two = {{0,1,1,1}}>
        {{ c = Conv(x, w, b) h = {activation} p = {pad} y = {layer} {more} }}"""


def graph(text: str) -> Model:
    low = np.finfo(np.float16 if "float16" in text else np.float32).min
    return build(text, values={"b": np.array([-1, -2, -1.5, -3]), "zero": ZERO, "one": ZERO + 1, "low": np.array(low)})


WINDOWS = {
    "v3-tiny": (POOL, "0,0,0,0,0,0,1,1"),
    "stride 2": ("MaxPool<kernel_shape=[2,2], strides=[2,2]>(p)", "0,0,1,1,0,0,1,0"),
    "3x3, both sides": ("MaxPool<kernel_shape=[3,3], strides=[2,1]>(p)", "0,0,1,2,0,0,1,0"),
    "pads of its own": ("MaxPool<kernel_shape=[5,5], pads=[2,2,2,2]>(p)", "0,0,1,1,0,0,2,1"),
    "some rows beyond the last window": ("MaxPool<kernel_shape=[2,2], strides=[3,3]>(p)", "0,0,0,0,0,0,1,1"),
}
