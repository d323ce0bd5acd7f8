"""reparam: every kind of linear branch merges exactly, and nothing merges where that would be inexact or dearer."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import FoldBatchNorm, ReparamBranches
from tests.numeric import assert_same, build, check_declines, check_rewrite, constants, ops

HEADER = '<ir_version: 8, opset_import: ["": 17]>'


def norm(name: str, channels: int = 6) -> str:
    return ", ".join(f"float[{channels}] {name}.{part}" for part in ("gamma", "beta", "mean", "var"))


def batch_norm(source: str, name: str) -> str:
    return f"BatchNormalization({source}, {name}.gamma, {name}.beta, {name}.mean, {name}.var)"


WEIGHTS = ", ".join(
    [
        "float[6,6,3,3] k3.weight, float[6] k3.bias, float[6,6,3,3] k3b.weight",
        "float[6,6,1,1] k1.weight, float[6] k1.bias",
        "float[6,6,1,3] h.weight, float[6,6,3,1] v.weight, float[6,6,5,5] k5.weight, float[6] k5.bias",
        "float[6,1,3,3] dw3.weight, float[6,1,7,7] dw7.weight, float[6,3,3,3] g2.weight, float[6,2,1,1] g3.weight",
        "float[2,6,1,1] down.weight, float[6,2,3,3] up.weight, float[6,1,1] s.scale, float[1,6,1,1] t",
        norm("n3"),
        norm("n1"),
        norm("n0"),
    ]
)


def block(body: str, outputs: str = "float[2,6,n,m] y", size: str = "9,8") -> str:
    return f"{HEADER} g (float[2,6,{size}] w) => ({outputs}) <{WEIGHTS}> {{ x = Sin(w) {body} }}"


REPVGG = f"""a = Conv<pads=[1,1,1,1]>(x, k3.weight) b = Conv(x, k1.weight)
    p = {batch_norm("a", "n3")} q = {batch_norm("b", "n1")} r = {batch_norm("x", "n0")}
    s = Add(p, q) z = Add(s, r) y = LeakyRelu(z)"""

MERGED = {
    "repvgg": REPVGG,
    "repvgg without identity": "a = Conv<pads=[1,1,1,1]>(x, k3.weight, k3.bias) b = Conv(x, k1.weight) y = Add(b, a)",
    "stride 2": """a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, k3.weight) b = Conv<strides=[2,2]>(x, k1.weight)
        y = Add(a, b)""",
    "three branches in one Sum": """a = Conv<pads=[1,1,1,1]>(x, k3.weight) b = Conv<pads=[1,1,1,1]>(x, k3b.weight)
        y = Sum(a, x, b)""",
    "asymmetric": """a = Conv<pads=[1,1,1,1]>(x, k3.weight) b = Conv<pads=[0,1,0,1]>(x, h.weight)
        c = Conv<pads=[1,0,1,0]>(x, v.weight) d = Add(a, b) y = Add(c, d)""",
    "depthwise 7 and 3": """a = Conv<pads=[3,3,3,3], group=6>(x, dw7.weight)
        b = Conv<pads=[1,1,1,1], group=6>(x, dw3.weight) y = Add(a, b)""",
    "depthwise and identity": "a = Conv<pads=[1,1,1,1], group=6>(x, dw3.weight) y = Add(a, x)",
    "groups of 3 beside groups of 2": """a = Conv<pads=[1,1,1,1]>(x, k3.weight)
        b = Conv<pads=[1,1,1,1], group=2>(x, g2.weight) c = Conv<group=3>(x, g3.weight) y = Sum(a, b, c)""",
    "groups and identity": "a = Conv<pads=[1,1,1,1], group=2>(x, g2.weight) y = Add(a, x)",
    "dilated inside a larger kernel": """a = Conv<pads=[2,2,2,2]>(x, k5.weight, k5.bias)
        b = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, k3.weight) y = Add(a, b)""",
    "dilated with its centre": """a = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, k3.weight) b = Conv(x, k1.weight)
        y = Sum(a, b, x)""",
    "average pool that counts its padding": """a = Conv<pads=[1,1,1,1]>(x, k3.weight)
        b = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) y = Add(a, b)""",
    "average pool without padding": "a = Conv(x, k3.weight) b = AveragePool<kernel_shape=[3,3]>(x) y = Add(a, b)",
    "scaled branches": """a = Conv<auto_pad="SAME_UPPER">(x, k3.weight) b = Mul(x, s.scale) c = Conv(x, k1.weight)
        d = Mul(c, s.scale) e = Sub(d, t) y = Sum(a, b, e)""",
    "diverse branch block": f"""a = Conv<pads=[1,1,1,1]>(x, k3.weight, k3.bias) b = Conv(x, down.weight)
        c = Conv<pads=[1,1,1,1]>(b, up.weight)
        d = Conv(x, k1.weight) e = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(d)
        f = {batch_norm("c", "n1")} y = Sum(a, e, f)""",
    "uneven padding": "a = Conv<pads=[0,1,2,1]>(x, k3.weight) b = Conv<pads=[0,0,0,0]>(x, k1.weight) y = Add(a, b)",
    "norm in front of an unpadded convolution": f"""n = {batch_norm("x", "n0")} a = Conv(n, k3.weight)
        b = Conv(x, k3b.weight) y = Add(a, b)""",
}


@pytest.mark.parametrize("case", MERGED)
def test_becomes_one_convolution(case: str) -> None:
    after = check_rewrite(build(block(MERGED[case])), ReparamBranches())
    assert [op for op in ops(after) if op not in ("Sin", "LeakyRelu")] == ["Conv"]


@pytest.mark.parametrize("case", ["repvgg", "diverse branch block", "asymmetric"])
def test_before_or_after_batch_norms_are_folded(case: str) -> None:
    model = build(block(MERGED[case]))
    early, late = model.copy(), model.copy()
    PassManager([ReparamBranches(), FoldBatchNorm()]).run(early)
    PassManager([FoldBatchNorm(), ReparamBranches()]).run(late)
    assert ops(early) == ops(late)
    assert_same(model, early)
    assert_same(model, late)


def test_names_of_the_largest_branch_stay() -> None:
    after = check_rewrite(build(block(REPVGG)), ReparamBranches())
    assert set(constants(after)) == {"k3.weight", "k3.bias"}


def test_mobileone_branches() -> None:
    branches = " ".join(f"a{i} = Conv<pads=[1,1,1,1]>(x, w{i}) b{i} = {batch_norm(f'a{i}', f'm{i}')}" for i in range(4))
    weights = ", ".join(f"float[6,6,3,3] w{i}, {norm(f'm{i}')}" for i in range(4))
    body = f"{branches} s0 = Add(b0, b1) s1 = Add(s0, b2) s2 = Add(s1, b3) s = {batch_norm('x', 'n0')} y = Add(s2, s)"
    text = block(body).replace("<float[6,6,3,3] k3", f"<{weights}, float[6,6,3,3] k3")
    assert ops(check_rewrite(build(text), ReparamBranches())) == ["Sin", "Conv"]


def test_convolutions_in_one_dimension() -> None:
    weights = "float[4,4,3] a.weight, float[4,4,1] b.weight, float[4] b.bias"
    text = f"""{HEADER} g (float[1,4,9] x) => (float[1,4,9] y) <{weights}> {{
        a = Conv<pads=[1,1]>(x, a.weight) b = Conv(x, b.weight, b.bias) c = Add(a, b) y = Add(x, c) }}"""
    assert ops(check_rewrite(build(text), ReparamBranches())) == ["Conv"]


ROWS = {
    "1x1 then padded 3x3, no bias": "a = Conv(x, k1.weight) y = Conv<pads=[1,1,1,1]>(a, k3.weight, k3.bias)",
    "1x1 with bias then unpadded 3x3": "a = Conv(x, k1.weight, k1.bias) y = Conv(a, k3.weight, k3.bias)",
    "padded 3x3 then 1x1": "a = Conv<pads=[1,1,1,1]>(x, k3.weight, k3.bias) y = Conv(a, k1.weight, k1.bias)",
    "strided 1x1 then padded strided 3x3": """a = Conv<strides=[2,2]>(x, k1.weight)
        y = Conv<pads=[1,1,1,1], strides=[2,2]>(a, k3.weight)""",
    "with a norm between": f"a = Conv(x, k1.weight) b = {batch_norm('a', 'n0')} y = Conv(b, k3.weight)",
    "depthwise in a row": "a = Conv<group=6>(x, dw1.weight) y = Conv<pads=[3,3,3,3], group=6>(a, dw7.weight)",
}


@pytest.mark.parametrize("case", ROWS)
def test_rows(case: str) -> None:
    text = block(ROWS[case]).replace("<float[6,6,3,3] k3", "<float[6,1,1,1] dw1.weight, float[6,6,3,3] k3")
    assert ops(check_rewrite(build(text), ReparamBranches())) == ["Sin", "Conv"]


DECLINED = {
    "bias under padding": "a = Conv(x, k1.weight, k1.bias) y = Conv<pads=[1,1,1,1]>(a, k3.weight)",
    "3x3 then padded 3x3": "a = Conv<pads=[1,1,1,1]>(x, k3.weight) y = Conv<pads=[1,1,1,1]>(a, k3b.weight)",
    "bottleneck is cheaper": "a = Conv(x, down.weight) y = Conv<pads=[1,1,1,1]>(a, up.weight)",
    "depthwise beside dense is cheaper": """a = Conv<pads=[1,1,1,1], group=6>(x, dw3.weight) b = Conv(x, k1.weight)
        y = Add(a, b)""",
    "1x3 beside 3x1 is cheaper": """a = Conv<pads=[0,1,0,1]>(x, h.weight) b = Conv<pads=[1,0,1,0]>(x, v.weight)
        y = Add(a, b)""",
    "pool does not count padding": """a = Conv<pads=[1,1,1,1]>(x, k3.weight)
        b = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) y = Add(a, b)""",
    "different inputs": "v = Cos(x) a = Conv<pads=[1,1,1,1]>(x, k3.weight) b = Conv(v, k1.weight) y = Add(a, b)",
    "nothing but identities": "y = Add(x, x)",
    "activation between": """a = Conv<pads=[1,1,1,1]>(x, k3.weight) c = LeakyRelu(a) b = Conv(x, k1.weight)
        y = Add(c, b)""",
    "product": "a = Conv<pads=[1,1,1,1]>(x, k3.weight) b = Conv(x, k1.weight) y = Mul(a, b)",
    "broadcast": "a = Conv(x, k3.weight) b = Conv(x, k9.weight) y = Add(a, b)",
}


@pytest.mark.parametrize("case", DECLINED)
def test_declines(case: str) -> None:
    text = block(DECLINED[case]).replace("<float[6,6,3,3] k3", "<float[6,6,9,8] k9.weight, float[6,6,3,3] k3")
    check_declines(build(text), ReparamBranches())


@pytest.mark.parametrize("inner", ["a", "b", "c"])
def test_declines_where_anything_else_reads_between(inner: str) -> None:
    body = f"""a = Conv<pads=[1,1,1,1]>(x, k3.weight) b = Conv(x, k1.weight) c = Add(a, b) d = Conv(c, k5.weight)
        y = LeakyRelu(c) z = Cos({inner})"""
    model = build(block(body, "float[2,6,n,m] y, float[2,6,i,j] z, float[2,6,k,l] d"))
    if inner == "c":  # read twice, but only what is merged lies before it
        check_rewrite(model, ReparamBranches())
    else:
        check_declines(model, ReparamBranches())
    outputs = f"float[2,6,n,m] y, float[2,6,i,j] {inner}, float[2,6,k,l] d"
    if inner != "c":
        check_declines(build(block(body, outputs)), ReparamBranches())


def test_merges_the_part_that_fits() -> None:
    """A residual from elsewhere and a constant stay in the sum; broadcasting stays as it was."""
    body = """v = Cos(x) u = ReduceMean<axes=[2,3]>(v) a = Conv<pads=[1,1,1,1]>(x, k3.weight) b = Conv(x, k1.weight)
        c = Add(v, a)
        d = Add(c, t) e = Add(u, b) f = Add(d, e) y = LeakyRelu(f)"""
    after = check_rewrite(build(block(body)), ReparamBranches())
    assert sorted(ops(after)) == ["Add", "Add", "Add", "Conv", "Cos", "LeakyRelu", "ReduceMean", "Sin"]


def test_merges_two_inputs_each_for_itself() -> None:
    body = """v = Cos(x) a = Conv<pads=[1,1,1,1]>(x, k3.weight) b = Conv(x, k1.weight)
        c = Conv<pads=[1,1,1,1]>(v, k3b.weight)
        d = Conv<pads=[1,1,1,1], group=2>(v, g2.weight) y = Sum(a, c, b, d)"""
    after = check_rewrite(build(block(body)), ReparamBranches(), rewrites=2)
    assert sorted(ops(after)) == ["Add", "Conv", "Conv", "Cos", "Sin"]


def test_nested_blocks() -> None:
    body = """a = Conv<pads=[1,1,1,1]>(x, k3.weight) b = Conv(x, k1.weight) c = Add(a, b) d = Conv(c, g1.weight)
        y = Add(d, x)"""
    text = block(body).replace("<float[6,6,3,3] k3", "<float[6,6,1,1] g1.weight, float[6,6,3,3] k3")
    assert ops(check_rewrite(build(text), ReparamBranches(), rewrites=2)) == ["Sin", "Conv"]


def test_dynamic_sizes() -> None:
    text = block(MERGED["asymmetric"]).replace("float[2,6,9,8]", "float[n,6,h,w]")
    feeds = {"w": np.random.default_rng(0).standard_normal((3, 6, 7, 5)).astype(np.float32)}
    check_rewrite(build(text), ReparamBranches(), feeds=feeds)


def test_float16() -> None:
    model = build(block(REPVGG).replace("float[", "float16["))
    after = check_rewrite(model, ReparamBranches(), rtol=6e-3, control=False)
    assert {value.dtype for value in constants(after).values()} == {np.dtype(np.float16)}


def test_shared_weights() -> None:
    body = "a = Conv<pads=[1,1,1,1]>(x, k3.weight) y = Add(a, x) z = Conv(x, k3.weight)"
    model = build(block(body, "float[2,6,n,m] y, float[2,6,i,j] z"))
    after = check_rewrite(model, ReparamBranches())
    np.testing.assert_array_equal(constants(after)["k3.weight"], constants(model)["k3.weight"])


@pytest.mark.parametrize("shared", [False, True])
def test_a_bias_keeps_its_name_unless_somebody_else_reads_it(shared: bool) -> None:
    body = "a = Conv<pads=[1,1,1,1]>(x, k3.weight, odd) b = Conv(x, k1.weight, k1.bias) y = Add(a, b)"
    outputs = "float[2,6,n,m] y"
    if shared:
        body, outputs = f"{body} z = Conv(x, k5.weight, odd)", f"{outputs}, float[2,6,i,j] z"
    text = block(body, outputs).replace("<float[6,6,3,3] k3", "<float[6] odd, float[6,6,3,3] k3")
    model = build(text)
    after = check_rewrite(model, ReparamBranches())
    merged = next(node for node in after.graph.nodes if node.outputs[0].name == "y")
    assert merged.inputs[1].name == "k3.weight" and (merged.inputs[2].name == "odd") == (not shared)
    if shared:
        assert merged.inputs[2].name == "k3.bias"
        np.testing.assert_array_equal(constants(after)["odd"], constants(model)["odd"])


def test_no_bias_is_made_where_there_was_none() -> None:
    after = check_rewrite(build(block("a = Conv<pads=[1,1,1,1]>(x, k3.weight) y = Add(a, x)")), ReparamBranches())
    assert [len(node.inputs) for node in after.graph.nodes if node.op == "Conv"] == [2]
