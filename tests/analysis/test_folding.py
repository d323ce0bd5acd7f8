"""Constant folding agrees with onnxruntime, and leaves alone what is random, huge or unknown."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis import folding
from onnxslim_yolo.analysis.folding import cast, element_type, fold, one_node, run_constants
from onnxslim_yolo.analysis.unionfind import UnionFind
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from tests.numeric import run_onnx

INTS, FLOATS = np.array([[-7, 2, 9], [4, -5, 6]]), np.array([[1.5, -2, 3], [0.25, 5, -6]], np.float32)
NEGATIVE = np.array([[2, -2, 4], [-3, 3, 5]])

CASES: dict[str, tuple[str, list[Array], dict[str, object]]] = {
    "gather": ("Gather", [INTS, np.array([1, -1])], {"axis": 1}),
    "gather-scalar": ("Gather", [INTS, np.array(0)], {}),
    "unsqueeze": ("Unsqueeze", [FLOATS, np.array([0, -1])], {}),
    "squeeze": ("Squeeze", [FLOATS[None], np.array([0])], {}),
    "cast": ("Cast", [FLOATS], {"to": 7}),
    "cast-to-bool": ("Cast", [INTS], {"to": 9}),
    "concat": ("Concat", [INTS, NEGATIVE], {"axis": 1}),
    "transpose": ("Transpose", [FLOATS], {}),
    "transpose-perm": ("Transpose", [FLOATS[None]], {"perm": [2, 0, 1]}),
    "divide-integers": ("Div", [INTS, NEGATIVE], {}),
    "divide": ("Div", [FLOATS, FLOATS + 10], {}),
    "add": ("Add", [INTS, np.array([1, 2, 3])], {}),
    "subtract": ("Sub", [INTS, NEGATIVE], {}),
    "multiply": ("Mul", [FLOATS, FLOATS], {}),
    "range": ("Range", [np.array(2), np.array(11), np.array(3)], {}),
    "slice": ("Slice", [INTS, np.array([2]), np.array([-9]), np.array([1]), np.array([-1])], {}),
    "reshape": ("Reshape", [INTS, np.array([3, -1])], {}),
    "where": ("Where", [INTS > 0, INTS, NEGATIVE], {}),
    "expand": ("Expand", [np.array([1, 2, 3]), np.array([2, 3])], {}),
    "tile": ("Tile", [INTS, np.array([2, 1])], {}),
    "floor": ("Floor", [FLOATS], {}),
    "equal": ("Equal", [INTS, NEGATIVE], {}),
    "matmul": ("MatMul", [FLOATS, FLOATS.T], {}),
    "sigmoid": ("Sigmoid", [FLOATS], {}),
    "identity": ("Identity", [FLOATS], {}),
    "shape": ("Shape", [FLOATS], {}),
}


def node_of(op: str, values: list[Array], attributes: dict[str, object], shape: list[int] | None = None) -> gs.Node:
    inputs = [gs.Constant(f"c{k}", np.asarray(value, order="C")) for k, value in enumerate(values)]
    return gs.Node(op, "n", attributes, inputs, [gs.Variable("y", None, shape)])


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_onnxruntime(case: str) -> None:
    op, values, attributes = CASES[case]
    feeds = {f"x{k}": np.asarray(value, order="C") for k, value in enumerate(values)}
    inputs = [gs.Variable(name, value.dtype, list(value.shape)) for name, value in feeds.items()]
    kind = {"cast": np.int64, "cast-to-bool": np.bool_, "equal": np.bool_, "shape": np.int64}.get(
        case, values[-1].dtype
    )
    kind = FLOATS.dtype if case == "unsqueeze" or case == "squeeze" else kind
    output = gs.Variable("y", kind)
    graph = gs.Graph([gs.Node(op, "n", attributes, inputs, [output])], inputs, [output], opset=17, ir_version=8)
    expected = run_onnx(Model(graph), feeds)["y"]
    found = fold(node_of(op, values, attributes, list(expected.shape)), 17)
    assert found is not None
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    assert found[0].dtype == expected.dtype and found[0].shape == expected.shape


NUMPY = {
    **{name: CASES[name] for name in CASES if CASES[name][0] in folding._NUMPY},
    "cast-narrow-wraps": ("Cast", [INTS * 100], {"to": onnx.TensorProto.INT8}),
    "cast-half": ("Cast", [FLOATS], {"to": onnx.TensorProto.FLOAT16}),
    "cast-from-bool": ("Cast", [INTS > 0], {"to": onnx.TensorProto.FLOAT}),
    "unsqueeze-11": ("Unsqueeze", [FLOATS], {"axes": [0, -1]}),
    "gather-32": ("Gather", [INTS, np.array([[1], [-2]], np.int32)], {}),
}
WRAPPED = {"cast-narrow-wraps": (INTS * 100).astype(np.int8), "cast-half": FLOATS.astype(np.float16),
           "cast-from-bool": (INTS > 0).astype(np.float32), "unsqueeze-11": FLOATS[None, ..., None],
           "gather-32": INTS[[[1], [0]]]}  # fmt: skip


@pytest.mark.parametrize("case", NUMPY)
def test_shape_arithmetic_needs_no_session(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of such nodes are folded on load. What they are in onnxruntime is asked above."""
    op, values, attributes = NUMPY[case]
    node = node_of(op, values, attributes)
    if case not in WRAPPED:
        expected = folding._evaluate(node, list(values), 17)
        assert expected is not None
    monkeypatch.setattr(folding, "_evaluate", None)
    found = fold(node, 11 if case == "unsqueeze-11" else 17)
    assert found is not None
    np.testing.assert_array_equal(found[0], WRAPPED[case] if case in WRAPPED else expected[0])
    assert found[0].dtype == (WRAPPED[case] if case in WRAPPED else expected[0]).dtype


@pytest.mark.parametrize(
    "op, values, attributes",
    [
        ("Cast", [np.array([300.0, 1])], {"to": onnx.TensorProto.INT8}),  # beyond its range
        ("Cast", [FLOATS], {"to": onnx.TensorProto.BFLOAT16}),
        ("Cast", [np.array(["1"], object)], {"to": onnx.TensorProto.FLOAT}),
        ("Div", [INTS, INTS * 0], {}),
        ("Abs", [FLOATS], {}),
    ],
)
def test_what_onnxruntime_has_to_say(
    op: str, values: list[Array], attributes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [np.zeros(1)]
    monkeypatch.setattr(folding, "_evaluate", lambda node, given, opset: said)
    assert fold(node_of(op, values, attributes), 17) is said


@pytest.mark.parametrize(
    "to, kind",
    [(7, np.int64), (1, np.float32), (9, np.bool_), (16, None), (8, None), (99, None), (np.float16, np.float16),
     (np.dtype("int8"), np.int8), (np.str_, None), ("nonsense", None), (None, np.float64)],
)  # fmt: skip
def test_the_type_that_a_cast_names(to: object, kind: type | None) -> None:
    found = element_type(to)
    assert found is None if kind is None else found == np.dtype(kind)


@pytest.mark.parametrize(
    "op, values, shape, most",
    [
        ("Range", [np.array(10), np.array(0), np.array(-1)], [10], 10),
        ("Range", [np.array(100), np.array(102), np.array(1)], [2], 2),
        ("Range", [np.array(0), np.array(100), np.array(50)], [2], 2),
        ("Expand", [INTS, np.array([2, 3])], [2, 3], 6),
        ("Add", [INTS, INTS], [2, 3], 6),
    ],
)
def test_as_many_elements_as_there_is_room_for(op: str, values: list[Array], shape: list[int], most: int) -> None:
    node = node_of(op, values, {}, shape)
    assert fold(node, 17, most) is not None and fold(node, 17, most - 1) is None


def test_limits() -> None:
    """Refused by what shapes say: that it takes no time here shows that nothing was computed."""
    assert fold(node_of("Expand", [np.zeros(1, np.int8), np.array([2**24 + 1])], {}, [2**24 + 1]), 17) is None
    assert fold(node_of("Expand", [INTS, np.array([2, 3])], {}), 17) is None  # a size that nobody tells
    assert fold(node_of("Abs", [INTS], {}), 17) is not None  # grows by nothing
    square, wide = np.zeros((1024, 1024), np.float32), np.zeros((1024, 1040), np.float32)
    assert fold(node_of("MatMul", [square, wide], {}, [1024, 1040]), 17) is None
    same = gs.Graph([gs.Node("Identity", "i", {}, [gs.Variable("x")], [gs.Variable("z")])], [], [gs.Variable("z")])
    branch = node_of("If", [np.array(True)], {"then_branch": same, "else_branch": same}, [2, 3])
    assert fold(branch, 17) is None


def test_what_is_left_out_may_be_and_what_is_computed_may_not() -> None:
    low, high, nothing = gs.Variable("low"), gs.Constant("high", np.array(2, np.float32)), gs.Variable.empty()
    data, y = gs.Constant("x", FLOATS), [gs.Variable("y")]
    found = fold(gs.Node("Clip", "n", {}, [data, nothing, high], y), 17)
    assert found is not None
    np.testing.assert_array_equal(found[0], np.minimum(FLOATS, 2))
    assert fold(gs.Node("Clip", "n", {}, [data, low, high], y), 17) is None


def test_outputs_that_are_left_out_keep_their_place() -> None:
    outputs = [gs.Variable.empty(), gs.Variable("indices")]
    top = gs.Node("TopK", "n", {}, [gs.Constant("x", FLOATS), gs.Constant("k", np.array([1]))], outputs)
    found = fold(top, 17)
    assert found is not None and len(found) == 2
    assert found[0].size == 0 and found[1].tolist() == [[2], [1]]


@pytest.mark.parametrize("name", [*(f"{sign}int{8 << n}" for sign in ("", "u") for n in range(4)), "float16", "float32",
                                  "float64", "bool"])  # fmt: skip
def test_types_that_onnxruntime_hands_out(name: str) -> None:
    value = np.array([0, 1, 3]).astype(name)
    model = one_node(onnx.helper.make_node("Identity", ["x"], ["y"]), {"x": value}, [onnx.helper.make_opsetid("", 17)])
    (found,) = run_constants(model, {"x": value})
    assert found.dtype == value.dtype and found.tolist() == value.tolist()


def test_types_that_it_hands_out_as_bits_are_refused() -> None:
    node = onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.BFLOAT16)
    model = one_node(node, {"x": FLOATS}, [onnx.helper.make_opsetid("", 17)])
    with pytest.raises(TypeError, match="bfloat16"):
        run_constants(model, {"x": FLOATS})


def test_what_is_not_computed() -> None:
    assert fold(node_of("RandomNormalLike", [FLOATS], {}), 17) is None
    assert fold(node_of("ConstantOfShape", [np.array([10**6, 10**6])], {}), 17) is None
    assert fold(node_of("Expand", [FLOATS, np.array([10**9, 2, 3])], {}, [10**9, 2, 3]), 17) is None
    assert fold(node_of("Range", [np.array(0), np.array(10**12), np.array(1)], {}), 17) is None
    assert fold(node_of("Range", [np.array(0), np.array(9), np.array(0)], {}), 17) is None
    variable = gs.Node("Add", "n", {}, [gs.Variable("x"), gs.Constant("c", FLOATS)], [gs.Variable("y")])
    assert fold(variable, 17) is None
    custom = node_of("Add", [INTS, INTS], {})
    custom.domain = "org.example"
    assert fold(custom, 17) is None


def test_union_find() -> None:
    sets = UnionFind()
    labels = sets.fresh(5000)
    assert labels[0] == 1 and len(sets) == 5001
    sets.union(labels[:-1:2], labels[1::2])
    sets.union(labels[1:3], labels[2:4])
    np.testing.assert_array_equal(sets.find(labels[:6]), [1, 1, 1, 1, 5, 5])
    assert sets.find(np.array([0])) == [0]
    sets.union(labels[-1:], labels[:1])
    assert sets.find(labels[-1:]) == [1]


@pytest.mark.parametrize(
    "kind", [onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT8E5M2]
)
def test_types_that_numpy_lacks_keep_their_values_and_not_their_bits(kind: int) -> None:
    """onnxruntime hands a float8 out as the byte that it is stored in."""
    narrow = fold(node_of("Cast", [FLOATS], {"to": kind}), 19)
    assert narrow is not None
    back = fold(node_of("Cast", narrow, {"to": onnx.TensorProto.FLOAT}), 19)
    assert back is not None
    np.testing.assert_array_equal(back[0], FLOATS)


def test_a_cast_reaches_to_the_ends_of_a_type_and_no_further() -> None:
    values = np.array([-128.0, -128.9, -129.0, 127.0, 127.9, 128.0, np.nan, 0.5])
    found = cast(values, np.dtype(np.int8))
    np.testing.assert_array_equal(found, [-128, -128, np.nan, 127, 127, np.nan, np.nan, 0])
    np.testing.assert_array_equal(cast(values, np.dtype(bool)), [1, 1, 1, 1, 1, 1, np.nan, 1])
    np.testing.assert_array_equal(cast(np.array([0.0, 1.0]), np.dtype(bool)), [0, 1])
