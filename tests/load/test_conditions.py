"""Ifs of known condition are the branch they take; "ai.onnx" is the domain ""."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.load.onnx import read_onnx, read_pair
from tests.kinds import TRUNK, compiled, ops_of, text_of, trunk, written

THEN = "then_branch = a () => (float[a,b,c,d] p2) { two = Constant<value_float=2.0>() p2 = Mul(f, two) }"
ELSE = "else_branch = b () => (float[a,b,c,d] p3) { p3 = Neg(f) }"
LAST = "y = Conv(z, w1)"

CONDITIONS = {
    "true": ("", "k = Constant<value=bool {1}>()", "Mul"),
    "false, one element": ("", "k = Constant<value=bool[1] {0}>()", "Neg"),
    "initializer": ("bool k = {1}", "", "Mul"),
    "negated": ("bool n = {1}", "k = Not(n)", "Neg"),
    "a channel count": (
        "int64 one = {1}, int64 eight = {8}",
        "s = Shape(f) d = Gather(s, one) k = Equal(d, eight)",
        "Mul",
    ),
    "a size behind pads that are spelt out, as torch does": (
        "int64[4,2] q = {1,0,1,0,0,0,0,0}, int64[1] flat = {-1}, int64 axis2 = {2}, int64 nine = {9}, "
        "int64[1] last8 = {-1}, int64[1] past = {-9}, int64[1] axis0 = {0}, int64[1] back = {-1}",
        "t = Transpose<perm=[1,0]>(q) r = Reshape(t, flat) i = Slice(r, last8, past, axis0, back) wide = Pad(f, i) "
        "s = Shape(wide) d = Gather(s, axis2) k = Equal(d, nine)",
        "Mul",
    ),
    "a rank": ("int64 four = {3}", "s = Shape(f) r = Size(s) k = Equal(r, four)", "Neg"),
    "a comparison of constants": ("float p = {0.5}, float q = {0.25}", "k = Greater(p, q)", "Mul"),
}


@pytest.mark.parametrize("case", CONDITIONS)
def test_a_known_condition_is_the_branch_it_takes(case: str, tmp_path: Path) -> None:
    weights, nodes, op = CONDITIONS[case]
    body, values = trunk(dead=2)
    text = text_of(
        "float[N,3,8,8] x",
        "float[N,4,8,8] y",
        f"{TRUNK}, float[4,8,1,1] w1, {weights}",
        f"{body} {nodes} z = If(k) <{THEN}, {ELSE}> {LAST}",
    )
    path = written(text, tmp_path, values)
    kept = ops_of(compiled(path, tmp_path).onnx or path)
    assert "If" not in kept and ("Neg" in kept) == (op == "Neg")


def test_ifs_in_ifs_and_names_used_twice(tmp_path: Path) -> None:
    then, other = (f"() => (float[a,b,c,d] {n}) {{ {n} = {op}(f) }}" for n, op in (("q1", "Abs"), ("q2", "Neg")))
    inner = f"z = If(k) <then_branch = c {then}, else_branch = d {other}>"
    text = text_of(
        "float[1,3,8,8] x",
        "float[1,4,8,8] y, float[1,8,8,8] c2",
        f"{TRUNK}, float[4,8,1,1] w1, bool k = {{1}}",
        f"{trunk()[0]} t = If(k) <then_branch = a () => (float[a,b,c,d] z) {{ {inner} }}, {ELSE}> c2 = Relu(t) "
        "y = Conv(t, w1)",
    )
    path = written(text, tmp_path)
    assert ops_of(compiled(path, tmp_path, passes="canonicalise").onnx or path).count("Abs") == 1


@pytest.mark.parametrize("condition", ["k = Cast<to=9>(m)", "s = Shape(x) d = Gather(s, zero) k = Equal(d, one)"])
def test_what_depends_on_the_image_or_an_open_size_is_refused(condition: str, tmp_path: Path) -> None:
    text = text_of(
        "float[N,3,8,8] x",
        "float[N,4,8,8] y",
        f"{TRUNK}, float[4,8,1,1] w1, int64 zero = {{0}}, int64 one = {{1}}",
        f"{trunk()[0]} m = ReduceMax<keepdims=0>(x) {condition} z = If(k) <{THEN}, {ELSE}> {LAST}",
    )
    with pytest.raises(UnsupportedError, match="its condition is not constant"):
        oy.compile(written(text, tmp_path), out=tmp_path / "out", emit="onnx")


@pytest.mark.parametrize("opset", [11, 13, 17, 20])
def test_the_long_name_of_the_domain(opset: int, tmp_path: Path) -> None:
    text = text_of(
        "float[1,3,8,8] x", "float[1,4,8,8] y", f"{TRUNK}, float[4,8,1,1] w1", f"{trunk()[0]} y = Conv(f, w1)", opset
    )
    proto = onnx.load(written(text, tmp_path))
    proto.opset_import[0].domain = "ai.onnx"
    proto.opset_import.add(domain="com.microsoft", version=1)
    for node in proto.graph.node[::2]:
        node.domain = "ai.onnx"
    path = tmp_path / "long.onnx"
    onnx.save(proto, path)
    compiled(path, tmp_path, emit="onnx,ncnn")
    read, reference = read_pair(path)
    assert {node.domain for node in read.graph.node} == {""} and reference.opset_import[0].domain == "ai.onnx"


def test_two_versions_of_one_domain(tmp_path: Path) -> None:
    proto = onnx.load(written(text_of("float[1,3] x", "float[1,3] y", "", "y = Relu(x)"), tmp_path))
    proto.opset_import.add(domain="ai.onnx", version=13)
    onnx.save(proto, tmp_path / "two.onnx")
    with pytest.raises(InputError, match="two versions"):
        read_onnx(tmp_path / "two.onnx")
