"""Whether parts are faster than the whole and its Split, by the table of whoever runs them."""

from __future__ import annotations

import numpy as np

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import ConvBeforeSplit
from tests.numeric import build

HEADER = '<ir_version: 8, opset_import: ["": 17]>'


def block(width: int, parts: tuple[int, int], side: int) -> Model:
    """A 1×1 convolution, SiLU, a Split, and what reads the parts."""
    whole = sum(parts)
    text = f"""{HEADER} g (float[1,{width},{side},{side}] x) => (float[1,{whole},{side},{side}] z)
    <float[{whole},{width},1,1] w, float[{parts[1]},{parts[1]},3,3] v, int64[2] at> {{
    y = Conv(x, w) s = Sigmoid(y) m = Mul(y, s) p, q = Split<axis=1>(m, at)
    r = Conv<pads=[1,1,1,1]>(q, v) z = Concat<axis=1>(p, r) }}"""
    return build(text, values={"at": np.array(parts)})


def test_only_where_the_runtimes_table_says_that_it_is_faster() -> None:
    def parted(runtime: str, isa: str, *sizes: object) -> bool:
        step = ConvBeforeSplit(runtime=runtime, isa=isa)  # type: ignore[arg-type]
        return bool(step.run(block(*sizes)))  # type: ignore[arg-type]

    assert parted("onnxruntime", "avx2", 32, (16, 16), 80) and parted("onnxruntime", "avx512", 32, (16, 16), 80)
    assert not parted("onnxruntime", "avx2", 32, (12, 16), 80), "in plain order anyway"
    assert not parted("onnxruntime", "avx512", 32, (8, 16), 80)
    assert not parted("onnxruntime", "avx2", 64, (8, 8), 80), "eight filters take as long as sixteen"
    assert not parted("ncnn", "avx2", 32, (16, 16), 80) and not parted("ncnn", "pi5", 32, (16, 16), 80)
