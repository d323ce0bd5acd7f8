"""fold-bn: exact in every layer it knows, and silent wherever folding would change the function."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.passes import FoldBatchNorm
from tests.numeric import assert_same, build, check_declines, check_rewrite, constants, ops, random_feeds, rewritten

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
BN = "float[{0}] bn.gamma, float[{0}] bn.beta, float[{0}] bn.mean, float[{0}] bn.var"
TAIL = "bn.gamma, bn.beta, bn.mean, bn.var"


def graph(inputs: str, outputs: str, weights: str, body: str) -> str:
    return f"{HEADER} g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}"


BEHIND = {
    "conv": ("float[1,6,9,9] x", "float[8,6,3,3] c.weight", "Conv<pads=[1,1,1,1], strides=[2,2]>(x, c.weight)", 8),
    "conv-bias": ("float[1,6,9,9] x", "float[8,6,3,3] c.weight, float[8] c.bias", "Conv(x, c.weight, c.bias)", 8),
    "grouped": ("float[1,6,9,9] x", "float[8,3,3,3] c.weight", "Conv<group=2>(x, c.weight)", 8),
    "depthwise": ("float[1,6,9,9] x", "float[12,1,3,3] c.weight", "Conv<group=6>(x, c.weight)", 12),
    "conv1d": ("float[1,6,9] x", "float[8,6,3] c.weight", 'Conv<auto_pad="SAME_UPPER">(x, c.weight)', 8),
    "transposed": ("float[1,6,5,5] x", "float[6,8,2,2] c.weight", "ConvTranspose<strides=[2,2]>(x, c.weight)", 8),
    "transposed-grouped": (
        "float[1,6,5,5] x",
        "float[6,4,3,3] c.weight, float[8] c.bias",
        "ConvTranspose<group=2>(x, c.weight, c.bias)",
        8,
    ),
    "gemm": (
        "float[3,6] x",
        "float[6,8] c.weight, float[8] c.bias",
        "Gemm<alpha=0.5, beta=2.0>(x, c.weight, c.bias)",
        8,
    ),
    "gemm-transposed": ("float[3,6] x", "float[8,6] c.weight", "Gemm<transB=1>(x, c.weight)", 8),
    "matmul": ("float[3,6] x", "float[6,8] c.weight", "MatMul(x, c.weight)", 8),
}


def behind(case: str, float_type: str = "float") -> str:
    inputs, weights, layer, channels = BEHIND[case]
    text = graph(
        inputs,
        f"float[{','.join('?' * (inputs.count(',') + 1))}] y".replace("?", "n"),
        f"{weights}, {BN.format(channels)}",
        f"h = {layer} b = BatchNormalization<epsilon=0.001>(h, {TAIL}) y = LeakyRelu(b)",
    )
    return text.replace("float[", f"{float_type}[")


def test_behind_a_deformable_convolution() -> None:
    """Its bias stands behind its offsets."""
    for bias, given in (("", ""), (", float[8] c.bias", ", c.bias")):
        weights = f"float[8,6,3,3] c.weight, float[1,18,5,5] o{bias}, {BN.format(8)}"
        body = f"h = DeformConv(x, c.weight, o{given}) y = BatchNormalization(h, {TAIL})"
        model = build(graph("float[1,6,7,7] x", "float[1,8,5,5] y", weights, body).replace(": 17", ": 19"))
        after = check_rewrite(model, FoldBatchNorm())
        assert ops(after) == ["DeformConv"] and set(constants(after)) == {"c.weight", "o", "c.bias"}


@pytest.mark.parametrize("case", BEHIND)
def test_behind_a_layer(case: str) -> None:
    after = check_rewrite(build(behind(case)), FoldBatchNorm())
    assert "BatchNormalization" not in ops(after)
    assert len(ops(after)) == 2
    assert set(constants(after)) == {"c.weight", "c.bias"}


def test_float16_is_computed_in_float64() -> None:
    model = build(behind("conv", "float16"))
    after = rewritten(model, FoldBatchNorm(), rewrites=1)
    assert {value.dtype for value in constants(after).values()} == {np.dtype(np.float16)}
    assert_same(model, after, rtol=4e-3)


def test_float16_that_overflows_is_left_alone() -> None:
    gamma = np.full(8, 60000.0)
    check_declines(build(behind("conv", "float16"), values={"bn.gamma": gamma}), FoldBatchNorm())


def test_float16_that_vanishes_is_left_alone() -> None:
    gamma = np.full(8, 1e-6)
    check_declines(build(behind("conv", "float16"), values={"bn.gamma": gamma}), FoldBatchNorm())


def before(attributes: str, body: str = "", outputs: str = "float[1,8,n,m] y") -> str:
    return graph(
        "float[1,6,9,9] x",
        outputs,
        f"float[8,3,3,3] c.weight, float[8] c.bias, float[8,3,1,1] d.weight, {BN.format(6)}",
        f"r = Relu(x) b = BatchNormalization(r, {TAIL}) y = Conv<group=2{attributes}>(b, c.weight, c.bias) {body}",
    )


def test_before_an_unpadded_convolution() -> None:
    assert ops(check_rewrite(build(before("")), FoldBatchNorm())) == ["Relu", "Conv"]


def test_before_two_convolutions() -> None:
    text = before("", "z = Conv<group=2>(b, d.weight)", "float[1,8,n,m] y, float[1,8,k,l] z")
    after = check_rewrite(build(text), FoldBatchNorm())
    assert ops(after) == ["Relu", "Conv", "Conv"]


def test_before_a_padded_convolution_only_without_a_shift() -> None:
    check_declines(build(before(", pads=[1,1,1,1]")), FoldBatchNorm())
    check_declines(build(before(', auto_pad="SAME_LOWER"')), FoldBatchNorm())
    unshifted = {"bn.beta": np.zeros(6), "bn.mean": np.zeros(6)}
    check_rewrite(build(before(", pads=[1,1,1,1]"), values=unshifted), FoldBatchNorm())


def test_before_a_convolution_not_if_anything_else_reads_it() -> None:
    check_declines(build(before("", "z = Sigmoid(b)", "float[1,8,n,m] y, float[1,6,9,9] z")), FoldBatchNorm())
    check_declines(build(before("", "", "float[1,8,n,m] y, float[1,6,9,9] b")), FoldBatchNorm())


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        ("Gemm<transB=1, alpha=0.5>(b, c.weight, c.bias)", "float[8,6] c.weight, float[8] c.bias"),
        ("Gemm(b, c.weight)", "float[6,8] c.weight"),
        ("MatMul(b, c.weight)", "float[6,8] c.weight"),
    ],
)
def test_before_a_matrix_product(layer: str, weights: str) -> None:
    body = f"r = Relu(x) b = BatchNormalization(r, {TAIL}) y = {layer}"
    check_rewrite(build(graph("float[3,6] x", "float[3,8] y", f"{weights}, {BN.format(6)}", body)), FoldBatchNorm())


def test_before_a_transposed_convolution_not_with_a_shift() -> None:
    body = f"r = Relu(x) b = BatchNormalization(r, {TAIL}) y = ConvTranspose<strides=[2,2]>(b, c.weight)"
    text = graph("float[1,6,5,5] x", "float[1,8,n,m] y", f"float[6,8,2,2] c.weight, {BN.format(6)}", body)
    check_declines(build(text), FoldBatchNorm())
    check_rewrite(build(text, values={"bn.beta": np.zeros(6), "bn.mean": np.zeros(6)}), FoldBatchNorm())


@pytest.mark.parametrize(
    "outputs_and_body",
    [
        ("float[1,8,7,7] y, float[1,8,7,7] h", ""),
        ("float[1,8,7,7] y, float[1,8,7,7] z", "z = Sigmoid(h)"),
    ],
    ids=["graph output", "second reader"],
)
def test_not_if_something_else_reads_the_convolution(outputs_and_body: tuple[str, str]) -> None:
    outputs, more = outputs_and_body
    body = f"h = Conv(x, c.weight) y = BatchNormalization(h, {TAIL}) {more}"
    check_declines(
        build(graph("float[1,6,9,9] x", outputs, f"float[8,6,3,3] c.weight, {BN.format(8)}", body)), FoldBatchNorm()
    )


def test_shared_constants_stay_as_they_are_for_others() -> None:
    body = f"""h = Conv(x, c.weight) b = BatchNormalization(h, {TAIL}) u = Conv(x, c.weight)
               k = Conv(x, c.weight) v = BatchNormalization(k, {TAIL}) y = Add(b, u) z = Relu(v)"""
    text = graph(
        "float[1,6,9,9] x", "float[1,8,7,7] y, float[1,8,7,7] z", f"float[8,6,3,3] c.weight, {BN.format(8)}", body
    )
    model = build(text)
    after = check_rewrite(model, FoldBatchNorm(), rewrites=2)
    np.testing.assert_array_equal(constants(after)["c.weight"], constants(model)["c.weight"])


def test_graph_output_keeps_its_name() -> None:
    body = f"h = Conv(x, c.weight) y = BatchNormalization(h, {TAIL})"
    text = graph("float[1,6,9,9] x", "float[1,8,7,7] y", f"float[8,6,3,3] c.weight, {BN.format(8)}", body)
    assert ops(check_rewrite(build(text), FoldBatchNorm())) == ["Conv"]


LONE = graph(
    "float[1,4,5,5] x, float[1,4,5,5] w",
    "float[1,8,5,5] y",
    BN.format(8),
    f"h = Concat<axis=1>(x, w) b = BatchNormalization(h, {TAIL}) y = LeakyRelu(b)",
)


def test_lone_batch_norm_stays_or_becomes_affine() -> None:
    check_declines(build(LONE), FoldBatchNorm())
    after = check_rewrite(build(LONE), FoldBatchNorm(lone="affine"))
    assert ops(after) == ["Concat", "Mul", "Add", "LeakyRelu"]


def test_lone_chain_becomes_one_batch_norm() -> None:
    text = LONE.replace("y = LeakyRelu(b)", "c = Mul(b, s.scale) d = Add(c, t) y = LeakyRelu(d)").replace(
        "<float[8] bn.gamma", "<float[8,1,1] s.scale, float[1,8,1,1] t, float[8] bn.gamma"
    )
    after = check_rewrite(build(text), FoldBatchNorm())
    assert ops(after) == ["Concat", "BatchNormalization", "LeakyRelu"]


def test_training_mode_is_left_alone() -> None:
    text = behind("conv").replace("<epsilon=0.001>", "<training_mode=1>").replace("b = Batch", "b, m1, v1 = Batch")
    check_declines(build(text), FoldBatchNorm())


def test_batch_norm_of_variables_is_left_alone() -> None:
    body = "h = Conv(x, c.weight) y = BatchNormalization(h, g, bn.beta, bn.mean, bn.var)"
    text = graph(
        "float[1,6,9,9] x, float[8] g", "float[1,8,7,7] y", f"float[8,6,3,3] c.weight, {BN.format(8)}", body
    ).replace("float[8] bn.gamma, ", "")
    check_declines(build(text), FoldBatchNorm())


def test_dynamic_batch_and_size() -> None:
    text = behind("conv").replace("[1,6,9,9]", "[n,6,h,w]").replace("[n,n,n,n]", "[n,8,k,l]")
    model = build(text)
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 6, 11, 13)).astype(np.float32)}
    check_rewrite(model, FoldBatchNorm(), feeds=feeds)
    assert random_feeds(model)["x"].shape == (2, 6, 2, 2)
