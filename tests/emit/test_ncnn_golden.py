"""The `.param` text of small graphs, line by line: what is fused, what is split, what is spelt how."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.errors import UnsupportedError
from tests.emit.ncnn_cases import BINARY, CONV, ELEMENTWISE, LINEAR, MAP, POOL, one
from tests.emit.ncnn_cases_shape import MOVEMENT, RESIZE
from tests.numeric import build, run_onnx


def lines(text: str) -> list[str]:
    """The layers with single spaces, without the magic and the Input."""
    converted = emit_ncnn(build(text), weights="fp32", cut=False)
    return [" ".join(line.split()) for line in converted.param.splitlines()[3:]]


def kinds(text: str) -> list[str]:
    return [line.split()[0] for line in lines(text)]


def test_convolution() -> None:
    text = emit_ncnn(build(CONV["conv-leaky"]), weights="fp32").param
    assert text == (
        "7767517\n2 2\n"
        "Input                    x                        0 1 in0 0=10 1=9 2=6\n"
        "Convolution              Conv_0                   1 1 in0 out0 0=8 1=3 2=1 3=1 4=0 5=0 6=432 9=2 "
        "-23310=1,1.00000001e-01 11=3 12=1 13=1 14=0 15=0 16=0 -23330=4,3,8,7,8\n"
    )


def test_bin_layout() -> None:
    text = one("y = Conv(x, w, b)", "float[1,1,1,1]", "float[1,3,1,1] w, float[1] b", "float[1,3,1,1]")
    text = text.replace("float[1,3,1,1] x", "float[1,3,1,2] x").replace("float[1,1,1,1] y", "float[1,1,1,2] y")
    half, full = emit_ncnn(build(text)), emit_ncnn(build(text), weights="fp32")
    assert half.bin[:4] == b"\x47\x6b\x30\x01" and len(half.bin) == 4 + 6 + 2 + 4 and half.bin[10:12] == b"\0\0"
    assert full.bin[:4] == b"\0\0\0\0" and len(full.bin) == 4 + 12 + 4
    assert half.bin[12:] == full.bin[16:], "the bias is fp32 and untagged in both"


def test_weights_beyond_half_precision_stay_fp32_with_a_note() -> None:
    model = build(CONV["conv-no-bias"])
    model.graph.nodes[0].inputs[1].values = model.graph.nodes[0].inputs[1].values * 1e6
    converted = emit_ncnn(model)
    assert converted.bin[:4] == b"\0\0\0\0"
    assert "exceed half precision" in converted.notes[0]


SHORT = {
    "silu": (ELEMENTWISE["silu"], ["Swish"]),
    "silu whose gate is read again": (ELEMENTWISE["silu-shared-gate"], ["Split", "Sigmoid", "Split", "BinaryOp"]),
    "mish": (ELEMENTWISE["mish"], ["Mish"]),
    "swish": (one("y = Swish(x)", MAP, opset=24), ["Swish"]),
    "swish with a slope": (one("y = Swish<alpha=1.5>(x)", MAP, opset=24), ["Split", "BinaryOp", "Sigmoid", "BinaryOp"]),
    "hardswish": (ELEMENTWISE["hardswish-clip"], ["HardSwish"]),
    "gelu": (ELEMENTWISE["gelu-erf"], ["GELU"]),
    "gelu, half first": (ELEMENTWISE["gelu-erf-half-first"], ["GELU"]),
    "gelu with tanh": (ELEMENTWISE["gelu-tanh-written"], ["GELU"]),
    "relu is fused": (CONV["conv-relu"], ["Convolution"]),
    "hardswish is fused": (CONV["conv-hardswish"], ["Convolution"]),
    "relu6 is fused into depthwise": (CONV["depthwise-relu6"], ["ConvolutionDepthWise"]),
    "silu is not": (CONV["conv-silu"], ["Convolution", "Swish"]),
    "relu is not fused where the convolution is an output": (
        CONV["conv-relu-both-used"],
        ["Convolution", "Split", "ReLU"],
    ),
    "pads are folded": (CONV["conv-padded-explicitly"], ["Convolution"]),
    "pads are folded into an average": (POOL["avgpool-explicit-pad"], ["Pooling"]),
    "zero pads are not folded into a maximum": (
        POOL["maxpool-zero-padded"],
        ["UnaryOp", "UnaryOp", "Padding", "Pooling"],
    ),
    "layer norm": (CONV["layer-norm-written"], ["LayerNorm"]),
    "squeeze and excite": (POOL["se-block"], ["Split", "Pooling", "InnerProduct", "InnerProduct", "BinaryOp"]),
    "shuffle": (MOVEMENT["shuffle"], ["ShuffleChannel"]),
    "shuffle and split": (MOVEMENT["shuffle-split"], ["ShuffleChannel", "Slice"]),
    "gathers that shuffle": (MOVEMENT["gather-two-halves-of-a-shuffle"], ["ShuffleChannel", "Slice"]),
    "pixel shuffle": (MOVEMENT["pixel-shuffle-written"], ["PixelShuffle"]),
    "focus": (MOVEMENT["focus"], ["Convolution", "Convolution"]),
    "halves by slicing": (MOVEMENT["slice-halves"], ["Slice", "Concat"]),
    "softmax between transposes": (LINEAR["softmax-between-transposes"], ["Softmax"]),
    "transposed operand": (LINEAR["matmul-transposed"], ["Input", "MatMul"]),
    "channel constant": (BINARY["add-const-channel"], ["MemoryData", "BinaryOp"]),
    "shape arithmetic": (MOVEMENT["constant-chain"], ["Reshape"]),
    "resize": (RESIZE["nearest-half-pixel-2"], ["Interp"]),
    "nothing": (MOVEMENT["input-is-output"], ["Split", "UnaryOp"]),
}


@pytest.mark.parametrize("name", SHORT)
def test_layers(name: str) -> None:
    text, expected = SHORT[name]
    assert kinds(text) == expected


REFUSED = {
    "dilated pooling": ("y = MaxPool<kernel_shape=[3,3],dilations=[2,2]>(x)", "float[1,6,5,6]", "", "dilation"),
    "cubic": (
        'y = Resize<mode="cubic",cubic_coeff_a=-0.5>(x, "", s)',
        "float[1,6,18,20]",
        "float[4] s = {1,1,2,2}",
        "another coefficient",
    ),
    "other pixels": (
        'y = Resize<mode="nearest",nearest_mode="ceil">(x, "", s)',
        "float[1,6,18,20]",
        "float[4] s = {1,1,2,2}",
        "other pixels",
    ),
    "asymmetric linear": (
        'y = Resize<mode="linear",coordinate_transformation_mode="asymmetric">(x, "", s)',
        "float[1,6,18,20]",
        "float[4] s = {1,1,2,2}",
        "other pixels",
    ),
    "argmax": ("y = ArgMax<axis=1>(x)", "int64[1,1,9,10]", "", "ArgMax"),
    "computed indices": (
        "i = ArgMax<axis=1,keepdims=0>(x) y = Gather<axis=1>(x, i)",
        "float[1,1,9,10,9,10]",
        "",
        "ArgMax",
    ),
    "reversed slice": (
        "y = Slice(x, s, e, a, t)",
        "float[1,6,9,10]",
        "int64[1] s = {-1}, int64[1] e = {-99}, int64[1] a = {1}, int64[1] t = {-1}",
        "step -1",
    ),
    "wrap": ('y = Pad<mode="wrap">(x, p)', "float[1,6,11,12]", "int64[8] p = {0,0,1,1,0,0,1,1}", "mode 'wrap'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name: str) -> None:
    body, out, weights, reason = REFUSED[name]
    model = build(one(body, out, weights, opset=19))
    with pytest.raises(UnsupportedError, match=reason) as caught:
        emit_ncnn(model, cut=False)
    assert caught.value.node and caught.value.hint


def test_a_shape_hint_does_not_tie_the_size(tmp_path: Path) -> None:
    """Winograd's tile is chosen for the hinted size when ncnn loads; a map of any other size still comes out right."""
    ncnn = pytest.importorskip("ncnn")
    net, image = ncnn.Net(), np.random.default_rng(0).random((16, 41, 37), dtype=np.float32)
    weights = "float[16,16,3,3] w"
    small, large = (
        build(one("y = Conv<pads=[1,1,1,1]>(x, w)", f"float[1,16,{h},{w}]", weights, shape=f"float[1,16,{h},{w}]"))
        for h, w in ((6, 6), (41, 37))
    )
    pair = emit_ncnn(small, weights="fp32")
    assert "-23330=4,3,6,6,16" in pair.param
    param, binary = write_pair(pair, tmp_path)
    assert net.load_param(str(param)) == 0 and net.load_model(str(binary)) == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image).clone())
    found = np.array(extractor.extract("out0")[1])
    [wanted] = run_onnx(large, {"x": image[None]}).values()
    np.testing.assert_allclose(found, wanted[0], atol=2e-4 * wanted.std())
