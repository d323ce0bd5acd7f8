"""The `.param` text of small graphs, line by line: what is fused, what is split, what is spelt how."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.errors import UnsupportedError
from tests.emit.ncnn_cases import BINARY, CONV, ELEMENTWISE, LINEAR, MAP, POOL, one
from tests.emit.ncnn_cases_bounds import CUTS, GATHERS, ORDERS, WINDOWS
from tests.emit.ncnn_cases_edges import ALONG, ARITHMETIC, CASTS, FUNCTIONS, NORMS, PADS
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


@pytest.mark.parametrize(
    ("shape", "keys"),
    [("1,5", "0=5"), ("1,7,5", "0=5 1=7"), ("1,3,7,5", "0=5 1=7 2=3"), ("1,3,2,7,5", "0=5 1=7 11=2 2=3")],
)
def test_an_input_says_its_extents(shape: str, keys: str) -> None:
    """Width, height, depth and channels, under the keys that ncnn's Input has for them."""
    text = one("y = Relu(x)", f"float[{shape}]", shape=f"float[{shape}]")
    [head] = [line.split() for line in emit_ncnn(build(text), weights="fp32", cut=False).param.splitlines()[2:3]]
    assert head[0] == "Input" and sorted(head[5:]) == sorted(keys.split())


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
    "layer norm without scale": (NORMS["layer-norm-plain"], ["LayerNorm"]),
    "layer norm over two axes": (NORMS["layer-norm-written-2-axes"], ["Reshape", "LayerNorm", "Reshape"]),
    "hardswish with other numbers": (FUNCTIONS["hardswish-of-others-turned"], ["HardSwish"]),
    "a power below 0 of what is positive": (ARITHMETIC["pow-sigmoid-minus-0.7"], ["Sigmoid", "BinaryOp"]),
    "the highest power multiplied out": (ARITHMETIC["pow-16"], ["UnaryOp"] * 5),
    "one operand": (ARITHMETIC["Sum-alone"], ["ReLU"]),
    "a constant of channels": (ARITHMETIC["add-channel-left"], ["MemoryData", "BinaryOp"]),
    "a pooled operand stays a vector": (ARITHMETIC["mul-pooled"], ["Input", "Pooling", "BinaryOp"]),
    "whole numbers to wider ones": (CASTS["cast-uint8-to-int32"], ["Split"]),
    "whole numbers to narrower ones": (CASTS["cast-int64-to-int32"], ["Split"]),
    "a batch of matrices in five axes": (ALONG["matmul-5d"], ["Input", "MatMul"]),
    "a mean with the batch": (ALONG["reduce-mean-with-batch"], ["Pooling", "Reshape"]),
    "no pad": (PADS["pad-nothing"], ["ReLU"]),
    "pads before a convolution with pads": (PADS["pad-uneven-then-conv"], ["Convolution"]),
    "pads before a depthwise one": (PADS["pad-uneven-then-depthwise"], ["ConvolutionDepthWise"]),
    "another value before a convolution": (PADS["pad-value-then-conv"], ["Padding", "Convolution"]),
    "mirrored before a convolution": (PADS["pad-reflect-then-conv"], ["Padding", "Convolution"]),
    "channels before a convolution": (PADS["pad-channels-then-conv"], ["Padding", "Convolution"]),
    "channels behind, before a convolution": (PADS["pad-behind-channels-then-conv"], ["Padding", "Convolution"]),
    "uneven pads before an average": (PADS["pad-uneven-then-average"], ["Pooling"]),
    "pads before an average with pads": (PADS["pad-then-padded-average"], ["Padding", "Pooling"]),
    "another value before an average": (PADS["pad-value-then-average"], ["Padding", "Pooling"]),
    "the lowest value before a maximum": (PADS["pad-lowest-then-max"], ["Pooling"]),
    "pads before a mean of all": (PADS["pad-then-global"], ["Padding", "Pooling", "Reshape"]),
    "a slice of everything": (CUTS["slice-all"], ["Split"]),
    "one element of a step": (CUTS["slice-one-step-left"], ["Crop"]),
    "thirds by slicing": (CUTS["thirds-by-slicing"], ["Slice", "Concat"]),
    "a gap between slices": (CUTS["gap-by-slicing"], ["Split", "Crop", "Crop", "Concat"]),
    "slices that overlap": (CUTS["overlap-by-slicing"], ["Split", "Crop", "Crop", "Concat"]),
    "slices that end early": (CUTS["short-by-slicing"], ["Split", "Crop", "Crop", "Concat"]),
    "slices that start late": (CUTS["late-by-slicing"], ["Split", "Crop", "Crop", "Concat"]),
    "all of a split": (CUTS["split-one"], ["ReLU"]),
    "one piece of a split": (CUTS["split-middle-used"], ["Crop"]),
    "halves of merged axes": (CUTS["halves-of-merged"], ["Slice", "Reshape", "Reshape"]),
    "a gather of everything": (GATHERS["gather-all"], ["Split"]),
    "a gather that shuffles four channels": (GATHERS["gather-shuffle-of-4"], ["ShuffleChannel"]),
    "a gather that nearly shuffles": (GATHERS["gather-nearly-shuffled"], ["Slice", "Concat"]),
    "twelve pieces": (GATHERS["gather-12-pieces"], ["Split", *["Crop"] * 12, "Concat"]),
    "thirteen pieces": (GATHERS["gather-13-pieces"], ["Convolution"]),
    "one operand to put together": (ORDERS["concat-one"], ["ReLU"]),
    "tiled once": (ORDERS["tile-once"], ["ReLU"]),
    "shuffle of four by two": (ORDERS["shuffle-4-by-2"], ["ShuffleChannel"]),
    "moved there and back": (ORDERS["transposed-twice"], ["Split"]),
    "moved around a reshape": (ORDERS["transposed-around-a-reshape"], ["Reshape"]),
    "a pixel with pads": (WINDOWS["conv-pixel-padded"], ["Pooling", "Reshape", "Convolution"]),
    "a pixel in groups": (WINDOWS["conv-pixel-grouped"], ["Pooling", "Reshape", "ConvolutionDepthWise"]),
    "a row of one": (WINDOWS["conv-row-of-one"], ["Reshape", "InnerProduct", "Reshape"]),
    "nothing": (MOVEMENT["input-is-output"], ["Split", "UnaryOp"]),
}


@pytest.mark.parametrize("name", SHORT)
def test_layers(name: str) -> None:
    text, expected = SHORT[name]
    assert kinds(text) == expected


LINES = {
    "powers of two factors": (WINDOWS["conv-row-strided"], "Convolution", "1=3 2=2 3=2 4=1 6=72 11=1 15=2"),
    "shuffle of two by four": (ORDERS["shuffle-2-by-4"], "ShuffleChannel", "0=2"),
    "shuffle of four by two": (ORDERS["shuffle-4-by-2"], "ShuffleChannel", "0=2 1=1"),
    "hardswish": (FUNCTIONS["hardswish-of-others"], "HardSwish", "0=3.00000012e-01 1=4.00000006e-01"),
}


@pytest.mark.parametrize("name", LINES)
def test_parameters(name: str) -> None:
    text, kind, expected = LINES[name]
    (line,) = (line for line in lines(text) if line.startswith(f"{kind} "))
    assert set(expected.split()) <= set(line.split()), line


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
    "an index behind the last": (
        "y = Gather<axis=1>(x, i)",
        "float[1,2,9,10]",
        "int64[2] i = {0, 6}",
        "indices outside an axis of 6",
    ),
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
