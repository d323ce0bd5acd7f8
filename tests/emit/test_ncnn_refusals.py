"""What ncnn cannot express is refused at the node, with the reason and a way out."""

from __future__ import annotations

import re
from math import prod

import pytest

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.errors import UnsupportedError
from tests.emit.ncnn_cases import MAP, graph, one
from tests.numeric import build

ROW, FIVE, TWO = "float[1,6,11]", "float[1,2,3,4,5]", "float[2,3,4,5]"
ANY4, ANY3 = "float[a,b,c,d]", "float[a,b,c]"
CEILING = "ceil_mode=1,count_include_pad=1"
BACK = "int64[1] s = {9}, int64[1] e = {0}, int64[1] a = {3}"
TO_TWO = "int64[4] s = {2,3,9,10}"
"""A batch of two, which only a Reshape can make."""


def _resize(attributes: str, sizes: str, shape: str = MAP) -> str:
    count = sizes.count(",") + 1
    return one(
        f'y = Resize<{attributes}>(x, "", "", s)', f"float[{sizes}]", f"int64[{count}] s = {{{sizes}}}", shape, 19
    )


def _of_two(body: str, weights: str = "", opset: int = 17) -> str:
    return one(f"a = Reshape(x, s) {body}", ANY4, f"{TO_TWO}{', ' if weights else ''}{weights}", opset=opset)


def _other(body: str, other: str, out: str = MAP, shape: str = MAP, opset: int = 17, weights: str = "") -> str:
    """With a tensor `b` of this type that is computed from a second input, so that nothing folds it."""
    sizes = other.partition("[")[2].rstrip("]")
    count = prod(int(size) for size in sizes.split(",")) if sizes else 1
    made = "b = Reshape(c, q)" if sizes else "b = ReduceSum<keepdims=0>(c)"
    whole = "c = Cast<to=7>(z)" if "int" in other else "c = Abs(z)"
    declared = [*([f"int64[{sizes.count(',') + 1}] q = {{{sizes}}}"] if sizes else []), *([weights] if weights else [])]
    return graph(f"{shape} x, float[1,{count}] z", f"{out} y", f"{whole} {made} {body}", ", ".join(declared), opset)


REFUSED = {
    "computed bounds": (_other("y = Clip(x, b)", "float"), "Clip", "its bounds are computed"),
    "computed slope": (_other("y = PRelu(x, b)", "float[6,1,1]"), "PRelu", "its slope is computed"),
    "slope per row": (
        one("y = PRelu(x, w)", MAP, "float[9,1] w"),
        "PRelu", r"a slope of shape \(9, 1\) for an input of shape \(1, 6, 9, 10\)",
    ),
    "slope of a batch": (_of_two("y = PRelu(a, w)", "float[3,1,1] w"), "PRelu", r"a slope of shape \(3, 1, 1\) for"),
    "slope per element": (one("y = PRelu(x, w)", MAP, "float[6,9,10] w"), "PRelu", "a slope of shape"),
    "exponents that differ": (
        one("y = Pow(x, e)", MAP, "float[6,1,1] e = {1,2,3,4,5,6}"),
        "Pow", "its exponents differ",
    ),
    "exponents that enlarge": (
        one("y = Pow(x, e)", MAP, "float[6,1,1] e = {2,2,2,2,2,2}", "float[1,1,9,10]"),
        "Pow", "its exponents differ",
    ),
    "a base of nought": (
        one("y = Pow(w, x)", MAP, "float w = {0}"),
        "Pow", "the power of a constant that is not positive",
    ),
    "a negative base": (one("y = Pow(w, x)", MAP, "float[6,1,1] w = {1,2,3,4,5,-1}"), "Pow", "the power of a constant"),
    "int32 to uint8": (
        one("a = Cast<to=2>(x) y = Cast<to=1>(a)", MAP, shape="int32[1,6,9,10]"),
        "Cast", "from int32 to uint8",
    ),
    "int64 to uint8": (
        one("a = Cast<to=2>(x) y = Cast<to=1>(a)", MAP, shape="int64[1,6,9,10]"),
        "Cast", "from int64 to uint8",
    ),
    "uint8 to int8": (
        one("a = Cast<to=3>(x) y = Cast<to=1>(a)", MAP, shape="uint8[1,6,9,10]"),
        "Cast", "from uint8 to int8",
    ),
    "int32 to bool": (
        one("a = Cast<to=9>(x) y = Cast<to=1>(a)", MAP, shape="int32[1,6,9,10]"),
        "Cast", "from int32 to bool",
    ),
    "float to int16": (one("a = Cast<to=5>(x) y = Cast<to=1>(a)", MAP), "Cast", "from float32 to int16"),
    "three of different shapes": (
        _other("y = Max(x, b, b)", "float[1,6,1,1]"),
        "Max", "more than two operands of different shapes",
    ),
    "a constant of three": (
        one("a = Neg(x) y = Sum(x, a, w)", MAP, "float[1,6,9,10] w"),
        "Sum", "more than two operands",
    ),
    "computed reduction": (
        _other("y = ReduceSum(x, b)", "int64[1]", ANY4),
        "ReduceSum", "its axes are computed|depends on the input's data",
    ),
    "vector product": (
        one("a = Reshape(x, s) b = Abs(a) y = MatMul(b, a)", "float", "int64[1] s = {540}"),
        "MatMul", r"operands of shapes \(540,\) and \(540,\)",
    ),
    "batches broadcast": (
        graph("float[1,2,1,7,12] x, float[1,1,3,12,5] z", "float[1,2,3,7,5] y", "y = MatMul(x, z)"),
        "MatMul", "broadcasting the batch of",
    ),
    "a convolution of a batch": (
        _of_two("y = Conv(a, w)", "float[4,3,1,1] w"),
        "Conv", r"the input has the shape \(2, 3, 9, 10\), expected",
    ),
    "a convolution in 3-D": (
        one("y = Conv(x, w)", "float[1,4,3,4,5]", "float[4,2,1,1,1] w", FIVE),
        "Conv", r"the input has the shape \(1, 2, 3, 4, 5\)",
    ),
    "a convolution's bias": (
        _other("y = Conv(x, w, b)", "float[4]", ANY4, weights="float[4,6,1,1] w"),
        "Conv", "the bias is not a constant",
    ),
    "a convolution's weight": (
        _other("y = Conv(x, b)", "float[4,6,1,1]", ANY4),
        "Conv", "the weight is not a constant",
    ),
    "a transposed one of a batch": (
        _of_two("y = ConvTranspose(a, w)", "float[3,4,1,1] w"),
        "ConvTranspose", r"\(2, 3, 9, 10\)",
    ),
    "a transposed one's bias": (
        _other("y = ConvTranspose(x, w, b)", "float[4]", ANY4, weights="float[6,4,1,1] w"),
        "ConvTranspose", "the bias is not a constant",
    ),
    "a transposed one's weight": (
        _other("y = ConvTranspose(x, b)", "float[6,4,1,1]", ANY4),
        "ConvTranspose", "the weight is not a constant",
    ),
    "a computed matrix": (
        _other("y = Gemm(x, b)", "float[6,4]", "float[1,4]", "float[1,6]"),
        "Gemm", "only .M, K. times a constant matrix",
    ),
    "a computed vector": (
        _other("y = Gemm(x, w, b)", "float[4]", "float[1,4]", "float[1,6]", weights="float[6,4] w"),
        "Gemm", "only .M, K. times",
    ),
    "a transposed Gemm": (
        one("y = Gemm<transA=1>(x, w)", "float[6,4]", "float[1,4] w", "float[1,6]"),
        "Gemm", "only .M, K. times",
    ),
    "a bias per row": (
        one("r = Reshape(x, s) y = Gemm(r, w, b)", "float[54,5]", "int64[2] s = {54,10}, float[10,5] w, float[54,1] b"),
        "Gemm", r"the bias has the shape \(54, 1\)",
    ),
    "a pool in 3-D": (
        one("y = MaxPool<kernel_shape=[2,2,2]>(x)", "float[1,2,2,3,4]", shape=FIVE),
        "MaxPool", r"the input has the shape \(1, 2, 3, 4, 5\)",
    ),
    "a pool of a batch": (_of_two("y = AveragePool<kernel_shape=[2,2]>(a)"), "AveragePool", r"\(2, 3, 9, 10\)"),
    "a pool's indices": (
        graph(f"{MAP} x", "float[1,6,8,9] y, int64[1,6,8,9] i", "y, i = MaxPool<kernel_shape=[2,2]>(x)"),
        "MaxPool", "the indices are asked for",
    ),
    "a pool dilated one way": (
        one("y = MaxPool<kernel_shape=[2,2],dilations=[1,2]>(x)", "float[1,6,8,8]"),
        "MaxPool", r"its dilation is \(1, 2\)",
    ),
    "pads that count in a ceiling": (
        one(f"y = AveragePool<kernel_shape=[2,2],strides=[2,2],{CEILING}>(x)", "float[1,6,5,5]", opset=19),
        "AveragePool", "ceil_mode together",
    ),
    "columns that count in a ceiling": (
        one(f"y = AveragePool<kernel_shape=[1,3],strides=[1,2],{CEILING}>(x)", "float[1,6,9,5]", opset=19),
        "AveragePool", "ceil_mode together",
    ),
    "a mean of a batch": (_of_two("y = GlobalAveragePool(a)"), "GlobalAveragePool", r"\(2, 3, 9, 10\), expected"),
    "a mean of a matrix": (
        _of_two("y = BatchNormalization(a, g, g, g, v_var)", "float[3] g, float[3] v_var"),
        "BatchNormalization", r"\(2, 3, 9, 10\), expected",
    ),
    "a computed norm": (
        _other("y = InstanceNormalization(x, b, b)", "float[6]"),
        "InstanceNormalization", "the weight is not a constant",
    ),
    "a norm of a batch": (
        _of_two("y = InstanceNormalization(a, g, g)", "float[3] g"),
        "InstanceNormalization", r"\(2, 3, 9, 10\), expected",
    ),
    "groups of a batch": (
        _of_two("y = GroupNormalization<num_groups=3>(a, g, g)", "float[3] g", 21),
        "GroupNormalization", r"\(2, 3, 9, 10\), expected",
    ),
    "a deformable batch": (
        _of_two("y = DeformConv(a, w, o)", "float[4,3,1,1] w, float[2,2,9,10] o", 19),
        "DeformConv", r"\(2, 3, 9, 10\), expected",
    ),
    "a deformable bias": (
        _other("y = DeformConv(x, w, o, b)", "float[4]", ANY4, weights="float[4,6,1,1] w, float[1,2,9,10] o", opset=19),
        "DeformConv", "the bias is not a constant",
    ),
    "offsets in groups": (
        one("y = DeformConv<offset_group=2>(x, w, o)", ANY4, "float[4,6,1,1] w, float[1,4,9,10] o", opset=19),
        "DeformConv", "it has groups",
    ),
    "a deformable one in groups": (
        one("y = DeformConv<group=2>(x, w, o)", ANY4, "float[4,3,1,1] w, float[1,2,9,10] o", opset=19),
        "DeformConv", "it has groups",
    ),
    "a grid of a batch": (
        _of_two("y = GridSample(a, g)", "float[2,4,5,2] g", 20),
        "GridSample", r"\(2, 3, 9, 10\), expected",
    ),
    "depth of a batch": (
        one("a = Reshape(x, s) y = DepthToSpace<blocksize=2>(a)", ANY4, "int64[4] s = {2,4,2,5}", "float[1,8,2,5]"),
        "DepthToSpace", r"\(2, 4, 2, 5\), expected",
    ),
    "pads of both signs": (one("y = Pad(x, p)", ANY4, "int64[8] p = {0,0,1,0,0,0,-1,0}"), "Pad", "pads of both signs"),
    "pads of the outermost of four": (
        one("y = Pad(x, p)", "float[1,3,3,4,5]", "int64[10] p = {0,1,0,0,0,0,0,0,0,0}", FIVE),
        "Pad", "padding the outermost of four dimensions",
    ),
    "computed padding value": (
        _other("y = Pad(x, p, b)", "float", ANY4, weights="int64[8] p = {0,0,1,0,0,0,1,0}"),
        "Pad", "its pads are computed",
    ),
    "resized channels": (_resize('mode="nearest"', "1,12,9,10"), "Resize", r"from \(1, 6, 9, 10\) to \(1, 12, 9, 10\)"),
    "resized depth": (
        _resize('mode="nearest"', "1,2,6,4,5", FIVE),
        "Resize", r"from \(1, 2, 3, 4, 5\) to \(1, 2, 6, 4, 5\)",
    ),
    "antialias": (_resize('mode="linear",antialias=1', "1,6,5,5"), "Resize", "mode 'linear' with antialias"),
    "cubic, weights inside only": (
        _resize('mode="cubic",exclude_outside=1', "1,6,18,20"),
        "Resize", "weights that leave out the outside",
    ),
    "cubic of three rows": (
        _resize('mode="cubic"', "1,6,6,8", "float[1,6,3,4]"),
        "Resize", r"cubic interpolation of \(3, 4\) pixels",
    ),
    "cubic of three columns": (
        _resize('mode="cubic"', "1,6,8,6", "float[1,6,4,3]"),
        "Resize", r"cubic interpolation of \(4, 3\) pixels",
    ),
    "one column made two": (
        _resize('mode="linear"', "1,6,18,2", "float[1,6,9,1]"),
        "Resize", "interpolation of one row or column",
    ),
    "one row made two": (
        _resize('mode="linear"', "1,6,2,18", "float[1,6,1,9]"),
        "Resize", "interpolation of one row or column",
    ),
    "another rounding": (
        _resize('mode="nearest",nearest_mode="ceil"', "1,6,18,20"),
        "Resize", "samples other pixels than ncnn",
    ),
    "rounding down at halves": (
        _resize('mode="nearest",nearest_mode="floor"', "1,6,18,20"),
        "Resize", "nearest half_pixel floor from",
    ),
    "where single precision decides": (
        _resize('mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="floor"', "1,6,18,16",
                "float[1,6,9,14]"),
        "Resize", "nearest asymmetric floor from",
    ),
    "nearest between corners": (
        _resize('mode="nearest",coordinate_transformation_mode="align_corners"', "1,6,27,30"),
        "Resize", "samples other pixels",
    ),
    "cubic from the edge": (
        _resize('mode="cubic",coordinate_transformation_mode="asymmetric"', "1,6,18,20"),
        "Resize", "samples other pixels",
    ),
    "a region": (
        one(
            'y = Resize<mode="linear",coordinate_transformation_mode="tf_crop_and_resize">(x, r, "", s)', ANY4,
            "float[8] r = {0,0,0,0,1,1,0.5,0.5}, int64[4] s = {1,6,18,20}",
        ), "Resize", "coordinate mode 'tf_crop_and_resize'",
    ),
    "computed slices": (
        _other("y = Slice(x, b, e)", "int64[1]", "float[a,6,9,10]", weights="int64[1] e = {9}"),
        "Slice", "its bounds are computed|depends on the input's data",
    ),
    "a negative step": (
        one("y = Slice(x, s, e, a, t)", "float[1,6,9,a]", f"{BACK}, int64[1] t = {{-2}}"),
        "Slice", "step -2",
    ),
    "scattered rows": (
        one("y = Gather<axis=2>(x, i)", "float[1,6,13,10]", "int64[13] i = {5,0,4,2,0,5,3,1,5,0,2,4,2}"),
        "Gather", "13 scattered indices along axis 2",
    ),
    "scattered batches": (
        _of_two("y = Gather<axis=1>(a, i)", "int64[13] i = {2,0,2,1,0,2,0,2,1,0,2,0,2}"),
        "Gather", "13 scattered indices along axis 1",
    ),
    "computed picks": (
        _other("y = Gather<axis=1>(x, b)", "int64[2]", "float[1,2,9,10]"),
        "Gather", "its indices are computed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_the_node_with_the_reason(case: str) -> None:
    text, op, reason = REFUSED[case]
    model = build(text)
    with pytest.raises(UnsupportedError) as caught:
        emit_ncnn(model, cut=False)
    assert re.search(reason, caught.value.message), caught.value.message
    assert f"cannot express this {op}" in caught.value.message or "depends on" in caught.value.message
    assert any(node.name == caught.value.node and node.op == op for node in model.graph.nodes)
    assert "write ONNX only" in (caught.value.hint or "")


INPUTS = {
    "an unknown size": (
        "float[1,3,h,w] x",
        r"has the shape \[1, 3, 'h', 'w'\]; ncnn needs every size but the batch",
        "--imgsz",
    ),
    "a batch": ("float[2,3,8,8] x", "has batch 2; ncnn has no batch dimension", "batch 1 or a dynamic batch"),
    "no batch": (
        "float[3,8,8] x",
        r"\(3, 8, 8\); ncnn takes what stands behind a batch axis of 1",
        r"as \(1, c, h, w\)",
    ),
    "a number": ("float x", r"\(\); ncnn takes what stands behind", r"as \(1, c, h, w\)"),
    "a batch of rows": ("float[2,8] x", r"\(2, 8\); ncnn takes what stands behind", r"as \(1, c, h, w\)"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_ncnn_has_no_place_for(case: str) -> None:
    given, reason, hint = INPUTS[case]
    model = build(graph(given, f"{given[:-2]} y", "y = Relu(x)"))
    with pytest.raises(UnsupportedError, match=reason) as caught:
        emit_ncnn(model)
    assert re.search(hint, caught.value.hint or "")


def test_an_open_batch_becomes_one() -> None:
    converted = emit_ncnn(build(graph("float[n,3,8,8] x", "float[n,3,8,8] y", "y = Relu(x)")))
    assert converted.inputs["in0"].shape == (1, 3, 8, 8) and converted.outputs["out0"].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(("kind", "noted"), [("uint8", True), ("int64", True), ("float", False)])
def test_whole_inputs_are_floats_with_a_note(kind: str, noted: bool) -> None:
    body = "y = Relu(x)" if kind == "float" else "y = Cast<to=1>(x)"
    text = one(body, MAP, shape=MAP.replace("float", kind))
    notes = emit_ncnn(build(text)).notes
    assert any("the pair takes it as floats" in note for note in notes) == noted
