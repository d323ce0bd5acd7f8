"""canonicalise: what it folds, resolves, drops, separates and merges; and what it must leave."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import static_shape
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import Canonicalise
from tests.numeric import assert_same, build, constants, ops, random_feeds, rewritten, run_onnx
from tests.passes.cutting import onnx_text, run

X = "float[1,8,4,4] x"


def canonical(text: str, *, seed: int = 0) -> Model:
    """The canonical form: exact, and a second run makes nothing."""
    source = build(text, seed=seed)
    after = run(source, Canonicalise())
    assert PassManager([Canonicalise()]).run(after.copy())[0].rewrites == 0
    assert_same(source, after, 0.0, optimise=(False,))
    return after


NOTHING = {
    "identity": ("", "h = Identity(x) y = Relu(h)"),
    "dropout": ("", "h = Dropout(x) y = Relu(h)"),
    "dropout-inference": ("float r = {0.5}, bool t = {0}", "h = Dropout(x, r, t) y = Relu(h)"),
    "cast": ("", "h = Cast<to=1>(x) y = Relu(h)"),
    "reshape": ("int64[4] s = {1,8,4,4}", "h = Reshape(x, s) y = Relu(h)"),
    "reshape-zero": ("int64[4] s = {0,0,-1,4}", "h = Reshape(x, s) y = Relu(h)"),
    "transpose": ("", "h = Transpose<perm=[0,1,2,3]>(x) y = Relu(h)"),
    "expand": ("int64[4] s = {1,8,1,4}", "h = Expand(x, s) y = Relu(h)"),
    "slice": (
        "int64[1] a = {0}, int64[1] b = {9223372036854775807}, int64[1] c = {1}",
        "h = Slice(x, a, b, c) y = Relu(h)",
    ),
    "pad": ("int64[8] p = {0,0,0,0,0,0,0,0}", "h = Pad(x, p) y = Relu(h)"),
    "concat": ("", "h = Concat<axis=1>(x) y = Relu(h)"),
    "a-reduction-over-no-axis": ("", "h = ReduceSum<noop_with_empty_axes=1>(x) y = Relu(h)"),
    "transposed-and-back": ("", "h = Transpose<perm=[0,2,3,1]>(x) i = Transpose<perm=[0,3,1,2]>(h) y = Relu(i)"),
    "at-the-output": ("", "h = Relu(x) y = Identity(h)"),
    "in-a-row": ("int64[4] s = {1,8,4,4}", "h = Identity(x) i = Reshape(h, s) j = Dropout(i) y = Relu(j)"),
}


@pytest.mark.parametrize("case", NOTHING)
def test_what_does_nothing_goes(case: str) -> None:
    weights, body = NOTHING[case]
    after = canonical(onnx_text(X, "float[a,b,c,d] y", weights, body))
    assert ops(after) == ["Relu"]
    assert [t.name for t in after.graph.outputs] == ["y"]


SOMETHING = {
    "reverse": (
        "int64[1] a = {-1}, int64[1] b = {-9223372036854775808}, int64[1] c = {1}, int64[1] d = {-1}",
        "y = Slice(x, a, b, c, d)",
    ),
    "pad": ("int64[8] p = {0,0,1,0,0,0,0,0}", "y = Pad(x, p)"),
    "transpose": ("", "y = Transpose<perm=[0,1,3,2]>(x)"),
    "same-shape-transpose-default": ("", "y = Transpose(x)"),
    "sum-over-all": ("", "s = ReduceSum<noop_with_empty_axes=0>(x) y = Add(x, s)"),
    "broadcast": ("int64[4] s = {2,8,4,4}", "y = Expand(x, s)"),
    "double": ("", "d = Cast<to=11>(x) y = Cast<to=1>(d)"),
}


@pytest.mark.parametrize("case", SOMETHING)
def test_what_does_something_stays(case: str) -> None:
    weights, body = SOMETHING[case]
    source = build(onnx_text(X, "float[a,b,c,d] y", weights, body))
    after = run(source, Canonicalise())
    assert ops(after) == ops(source)
    assert_same(source, after, 0.0)


EXPANDS = {
    "division": ("n = ReduceMax<axes=[1]>(x) e = Expand(n, s) y = Div(x, e)", 0),
    "both-sides": ("n = ReduceMax<axes=[1]>(x) e = Expand(n, s) y = Sub(e, x)", 0),
    "two-readers": ("n = ReduceMax<axes=[1]>(x) e = Expand(n, s) a = Mul(x, e) y = Add(a, e)", 0),
    "other-is-narrow": ("n = ReduceMax<axes=[1]>(x) e = Expand(n, s) y = Add(n, e)", 1),
    "with-itself": ("n = ReduceMax<axes=[1]>(x) e = Expand(n, s) y = Add(e, e)", 1),
    "not-elementwise": ("n = ReduceMax<axes=[1]>(x) e = Expand(n, s) y = Concat<axis=1>(x, e)", 1),
    "output": ("n = ReduceMax<axes=[1]>(x) y = Expand(n, s) z = Mul(x, y)", 1),
}


@pytest.mark.parametrize("case", EXPANDS)
def test_an_expand_goes_where_its_readers_broadcast(case: str) -> None:
    body, left = EXPANDS[case]
    outputs = "float[a,b,c,d] y, float[e,f,g,h] z" if " z = " in body else "float[a,b,c,d] y"
    after = canonical(onnx_text(X, outputs, "int64[4] s = {1,8,4,4}", body))
    assert ops(after).count("Expand") == left


def test_an_output_that_is_an_input_keeps_its_identity() -> None:
    source = build(onnx_text(X, "float[1,8,4,4] y, float[1,8,4,4] z", "", "y = Identity(x) z = Identity(y)"))
    after = run(source, Canonicalise())
    assert ops(after) == ["Identity", "Identity"]
    assert_same(source, after, 0.0)


def test_shape_arithmetic_becomes_constant() -> None:
    """View as exporters write it: Shape → Gather → Unsqueeze → Concat → Reshape."""
    text = onnx_text(
        X,
        "float[a,b,c] y",
        "int64 zero = {0}, int64 one = {1}, int64[1] axis = {0}, int64[1] rest = {-1}, int64 two = {2}",
        "s = Shape(x) n = Gather(s, zero) c = Gather(s, one) h = Div(c, two) nu = Unsqueeze(n, axis)"
        " hu = Unsqueeze(h, axis) t = Concat<axis=0>(nu, hu, rest) y = Reshape(x, t)",
    )
    after = canonical(text)
    assert ops(after) == ["Reshape"]
    assert [v.tolist() for v in constants(after).values()] == [[1, 4, -1]]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_symbolic_batch_stays_symbolic(batch: int) -> None:
    text = onnx_text(
        "float[N,8,4,4] x",
        "float[a,b,c] y",
        "int64 zero = {0}, int64[1] axis = {0}, int64[2] rest = {8, 16}",
        "s = Shape(x) n = Gather(s, zero) nu = Unsqueeze(n, axis) t = Concat<axis=0>(nu, rest) y = Reshape(x, t)",
    )
    source = build(text)
    after = run(source, Canonicalise())
    assert ops(after) == ["Reshape"]
    assert constants(after).popitem()[1].tolist() == [-1, 8, 16]
    assert (after.graph.inputs[0].shape or [None])[0] == "N"
    feeds = {"x": np.random.default_rng(0).standard_normal((batch, 8, 4, 4)).astype(np.float32)}
    assert_same(source, after, 0.0, feeds=feeds)


def test_height_and_width_are_settled() -> None:
    text = onnx_text(
        "float[N,3,H,W] x",
        "float[a,b,c,d] y",
        "float[2,3,1,1] w, float[0] roi, float[0] none, int64 two = {2}, int64[1] end = {4}, int64[1] a = {2}, "
        "int64[1] from = {0}, int64[1] to = {2}, int64[1] axis = {0}, int64[2] double = {2, 2}",
        "c = Conv(x, w) s = Shape(c) sp = Slice(s, a, end, axis) nc = Slice(s, from, to, axis) big = Mul(sp, double)"
        ' size = Concat<axis=0>(nc, big) y = Resize<mode="nearest">(c, roi, none, size)',
    )
    source = build(text)
    for step, expected in (
        (Canonicalise(), ["N", 3, 640, 640]),
        (Canonicalise(32, 64), ["N", 3, 32, 64]),
    ):
        after = run(source, step)
        assert list(after.graph.inputs[0].shape or ()) == expected
        assert "Shape" not in ops(after) or expected[0] == "N"
    source.metadata["imgsz"] = "[96, 160]"
    assert list(run(source, Canonicalise()).graph.inputs[0].shape or ())[2:] == [96, 160]
    after = run(source, Canonicalise(32, 64))
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 32, 64)).astype(np.float32)}
    assert_same(source, after, 0.0, feeds=feeds, optimise=(False,))


@pytest.mark.parametrize(
    ("given", "stored", "settled", "made", "said"),
    [
        ("1,3,8,8", "", [1, 3, 8, 8], 0, None),
        ("1,c,8,8", "", [1, 3, 8, 8], 1, None),
        ("1,c,h,8", "16", [1, 3, 16, 8], 2, "'x' leaves its size open: it is compiled at 16x8"),
        ("1,3,8,w", "", [1, 3, 8, 640], 1, "the input's size was guessed: 8x640, for 'x'"),
        ("1,3,h,0", "16,24", [1, 3, 16, 24], 2, "'x' leaves its size open: it is compiled at 16x24"),
        ("1,3,h,w", "99999,0", [1, 3, 640, 640], 2, "the input's size was guessed: 640x640"),
        ("1,h,w", "16", [1, "h", "w"], 0, None),
        ("1,h,w,3", "16,24", [1, 16, 24, 3], 2, "'x' leaves its size open: it is compiled at 16x24"),
        ("1,8,w,3", "", [1, 8, 640, 3], 1, "the input's size was guessed: 8x640, for 'x'"),
        ("1,1,h,3", "16", [1, 1, 16, 3], 1, "'x' leaves its size open: it is compiled at 16x3"),
    ],
)
def test_what_a_file_leaves_open_is_settled_and_said(
    given: str, stored: str, settled: list[int | str], made: int, said: str | None
) -> None:
    source = build(onnx_text(f"float[{given}] x", f"float[{given}] y", "float unread", "y = Relu(x)"))
    source.metadata["imgsz"] = stored
    assert Canonicalise()._fix_inputs(source) == made
    assert list(source.graph.inputs[0].shape or ()) == settled
    assert [note.startswith(said or "?") for note in source.notes] == ([] if said is None else [True])


def test_a_guess_that_was_not_asked_is_not_said() -> None:
    source = build(onnx_text("float[1,3,h,w] x", "float[1,3,h,w] y", "float unread", "y = Relu(x)"))
    assert Canonicalise(height=16, width=24)._fix_inputs(source) == 2
    assert source.notes == ["'x' leaves its size open: it is compiled at 16x24"]
    with pytest.raises(InputError, match="fixed at 16x24 pixels, not 16x32"):
        Canonicalise(width=32)._fix_inputs(source)
    last = build(onnx_text("float[1,64,32,3] x", "float[1,64,32,3] y", "float unread", "y = Relu(x)"))
    with pytest.raises(InputError, match="fixed at 64x32 pixels, not 64x64"):
        Canonicalise(height=64, width=64)._fix_inputs(last)
    assert Canonicalise(height=16)._fix_inputs(source) == 0


def test_a_size_that_contradicts_the_file_is_refused() -> None:
    source = build(onnx_text("float[1,3,64,64] x", "float[a,b,c,d] y", "float[2,3,1,1] w", "y = Conv(x, w)"))
    assert Canonicalise(64, 64).run(source) == 0
    with pytest.raises(InputError, match="'x' is fixed at 64x64 pixels, not 32x32") as caught:
        Canonicalise(32, 32).run(source)
    assert caught.value.hint is not None and "--imgsz" in caught.value.hint


def test_constant_nodes_are_computed() -> None:
    """An anchor grid, and a weight that is transposed and cast on the way."""
    text = onnx_text(
        "float[1,4] x",
        "float[a,b] y",
        "int64 zero = {0}, int64 four = {4}, int64 one = {1}, double[4,4] w, int64[2] s = {1, 4}",
        "r = Range(zero, four, one) f = Cast<to=1>(r) g = Reshape(f, s) wt = Transpose<perm=[1,0]>(w)"
        " wf = Cast<to=1>(wt) h = MatMul(x, wf) y = Add(h, g)",
    )
    after = canonical(text)
    assert ops(after) == ["MatMul", "Add"]


def test_random_and_huge_constants_are_not_computed() -> None:
    text = onnx_text(
        "float[1,4] x",
        "float[a,b] y",
        "int64[2] s = {1, 4}, int64[2] big = {100000, 100000}, float one = {1.0}",
        "r = RandomNormalLike(x) e = Expand(one, big) m = ReduceMean<keepdims=0>(e) h = Add(x, r) y = Add(h, m)",
    )
    after = run(build(text), Canonicalise())
    assert {"RandomNormalLike", "Expand"} <= set(ops(after))


def test_integer_division_rounds_towards_zero() -> None:
    text = onnx_text(
        "float[3,4] x",
        "float[a,b] y",
        "int64[1] a = {-7}, int64[1] b = {2}, int64[1] c = {4}",
        "d = Div(a, b) e = Add(d, c) f = Add(e, c) t = Concat<axis=0>(e, f) u = Abs(t) v = Cast<to=1>(u)"
        " w = ReduceSum<keepdims=0>(v) y = Add(x, w)",
    )
    canonical(text)


def test_merged_vectors_become_separate() -> None:
    """An exporter merged biases and BatchNorm parameters because their values are equal."""
    text = onnx_text(
        X,
        "float[a,b,c,d] y",
        "float[8,8,1,1] w, float[8,8,1,1] v, float[8] b, int64[4] s = {1,8,16,1}, int64[4] t = {1,8,16,1}",
        "c = Conv(x, w, b) d = Conv(c, v, b) r = Reshape(d, s) q = Reshape(r, t) y = Add(r, q)",
    )
    source = build(text)
    after = run(source, Canonicalise())
    biases = [node.inputs[2] for node in after.graph.nodes if node.op == "Conv"]
    assert biases[0] is not biases[1] and biases[0].name != biases[1].name
    assert_same(source, after, 0.0, optimise=(False,))


def test_equal_integers_become_one() -> None:
    text = onnx_text(
        X,
        "float[a,b] y, float[c,d] z",
        "int64[2] s = {8, 16}, int64[2] t = {8, 16}",
        "h = Relu(x) y = Reshape(h, s) k = Neg(x) z = Reshape(k, t)",
    )
    assert len(constants(canonical(text))) == 1


def test_dead_nodes_go() -> None:
    text = onnx_text(X, "float[a,b,c,d] y", "float[8,8,1,1] w", "y = Relu(x) c = Conv(x, w) s = Sigmoid(c)")
    after = canonical(text)
    assert ops(after) == ["Relu"] and not constants(after)


def test_metadata_survives() -> None:
    proto = build(onnx_text(X, "float[a,b,c,d] y", "float[8,8,1,1] w", "h = Identity(x) y = Conv(h, w)")).to_onnx()
    helper.set_model_props(proto, {"stride": "32", "names": "{0: 'a'}"})
    proto.graph.node[1].metadata_props.add(key="k", value="v")
    proto.model_version, proto.domain = 3, "org.example"
    model = Model.from_onnx(proto)
    PassManager([Canonicalise()]).run(model)
    after = model.to_onnx()
    assert {p.key: p.value for p in after.metadata_props} == {"stride": "32", "names": "{0: 'a'}"}
    assert [(p.key, p.value) for p in after.graph.node[0].metadata_props] == [("k", "v")]
    assert (after.model_version, after.domain, after.ir_version) == (3, "org.example", proto.ir_version)
    assert [o.version for o in after.opset_import if o.domain == ""] == [17]


def test_unnamed_nodes_and_constant_nodes() -> None:
    """Constant nodes of every kind of attribute become initializers; nodes get names."""
    value = numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1), "v")
    nodes = [
        helper.make_node("Constant", [], ["a"], value=value),
        helper.make_node("Constant", [], ["b"], value_float=2.0),
        helper.make_node("Constant", [], ["s"], value_ints=[1, 8, 16]),
        helper.make_node("Add", ["x", "a"], ["h"]),
        helper.make_node("Mul", ["h", "b"], ["m"]),
        helper.make_node("Reshape", ["m", "s"], ["y"]),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", 1, [1, 8, 4, 4])], [info("y", 1, [1, 8, 16])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    model = Model.from_onnx(proto)
    assert ops(model) == ["Add", "Mul", "Reshape"]
    assert len({node.name for node in model.graph.nodes}) == 3
    after = run(model, Canonicalise())
    feeds = random_feeds(proto)
    np.testing.assert_array_equal(run_onnx(proto, feeds)["y"], run_onnx(after, feeds)["y"])
    assert all(static_shape(t) for t in after.graph.outputs)


def test_rewrites_are_counted() -> None:
    text = onnx_text(X, "float[a,b,c,d] y", "", "h = Identity(x) i = Dropout(h) y = Relu(i)")
    rewritten(build(text), Canonicalise(), rewrites=2)


def test_what_was_folded_is_met_by_no_rewrite() -> None:
    body = (
        'e = Einsum<equation="ij,jk->ik">(a, b) g = Gemm<alpha=2.0, transB=1>(e, c) k = CastLike(g, x)'
        " r = Reshape(k, s) t = Expand(r, r4) y = Add(x, t)"
    )
    weights = "float[1,4] a, float[4,8] b, float[8,8] c, int64[4] s = {0,-1,1,1}, int64[4] r4 = {1,8,1,1}"
    after = canonical(onnx_text(X, "float[a,b,c,d] y", weights, body))
    assert ops(after) == ["Add"]


@pytest.mark.parametrize("counts", ["b, one, one, one", "b, one, two, one", "b, k, one, one"])
def test_what_is_repeated_for_every_image_is_expanded(counts: str) -> None:
    body = (
        "s = Shape(x) n = Gather(s, zero) b = Unsqueeze(n, axis)"
        f" t = Concat<axis=0>({counts}) r = Tile(v, t) y = Add(x, r)"
    )
    weights = (
        f"float[1,{1 if 'k' in counts else 8},{2 if 'two' in counts else 1},1] v, int64 zero = {{0}},"
        " int64[1] axis = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] k = {8}"
    )
    text = onnx_text("float[N,8,4,4] x", "float[a,b,c,d] y", weights, body)
    if "two" in counts:  # [2, 1] twice is no broadcast
        assert "Tile" in ops(canonical(text))
    else:
        assert ops(canonical(text)) == ["Add"]
