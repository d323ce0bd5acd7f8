"""Constant folding agrees with onnxruntime, and leaves alone what is random, huge or unknown."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.folding import cast, fold
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
    inputs = [gs.Constant(f"c{k}", np.ascontiguousarray(value)) for k, value in enumerate(values)]
    return gs.Node(op, "n", attributes, inputs, [gs.Variable("y", None, shape)])


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_onnxruntime(case: str) -> None:
    op, values, attributes = CASES[case]
    feeds = {f"x{k}": np.ascontiguousarray(value) for k, value in enumerate(values)}
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
