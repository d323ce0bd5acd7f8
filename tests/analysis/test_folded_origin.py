"""Where the elements of a folded constant come from: what is needed of each operand for a part of the result."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.folded_origin import origins_of_results
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.origins import Leaf, Made, set_origin

A = np.arange(1.0, 13.0, dtype=np.float32).reshape(3, 4)
B = np.arange(1.0, 9.0, dtype=np.float32).reshape(2, 4)


def origins(
    op: str, inputs: Sequence[Array | None], results: Sequence[Array], opset: int = 17, **attrs: object
) -> list[object]:
    tensors: list[gs.Tensor] = []
    for k, value in enumerate(inputs):
        tensors.append(gs.Variable.empty() if value is None else gs.Constant(f"c{k}", np.asarray(value)))
        if value is not None and np.asarray(value).dtype.kind == "f":
            set_origin(tensors[-1], Leaf(f"c{k}", np.shape(value)))
    outputs = [gs.Variable(f"o{k}") for k in range(len(results))]
    return list(origins_of_results(gs.Node(op, "n", dict(attrs), tensors, outputs), results, opset))


def needed(origin: object, at: tuple[int, ...], shape: tuple[int, ...]) -> dict[str, list[int]]:
    """Of each leaf the flat positions that one element of the result is made of."""
    assert isinstance(origin, Made)
    mask = np.zeros(shape, dtype=bool)
    mask[at] = True
    found: dict[str, list[int]] = {}
    for part in origin.parts:
        assert isinstance(part.origin, Leaf)
        found.setdefault(part.origin.name, []).extend(np.flatnonzero(part.back(mask)).tolist())
    return found


def test_what_changes_nothing_is_its_operand() -> None:
    (found,) = origins("Identity", [A], [A])
    assert found == Leaf("c0", (3, 4))


def test_integers_hold_no_channels() -> None:
    assert origins("Shape", [A], [np.array([3, 4])]) == [None]
    assert origins("Cast", [A], [A.astype(bool)], to=9) == [None]


@pytest.mark.parametrize(
    "op, more, attrs, result, at, wanted",
    [
        ("Transpose", [], {"perm": [1, 0]}, A.T, (2, 1), [6]),
        ("Reshape", [np.array([2, 6])], {}, A.reshape(2, 6), (1, 3), [9]),
        ("Slice", [np.array([1]), np.array([3]), np.array([0])], {}, A[1:], (0, 2), [6]),
        ("Gather", [np.array([2, 0])], {"axis": 0}, A[[2, 0]], (0, 1), [9]),
        ("Pad", [np.array([0, 1, 0, 0]), np.array(5.0, np.float32)], {}, np.pad(A, ((0, 0), (1, 0))), (1, 0), []),
        ("Pad", [np.array([0, 1, 0, 0]), np.array(5.0, np.float32)], {}, np.pad(A, ((0, 0), (1, 0))), (1, 1), [4]),
    ],
)
def test_moved(
    op: str, more: list[Array], attrs: dict[str, object], result: Array, at: tuple[int, ...], wanted: list[int]
) -> None:
    (found,) = origins(op, [A, *more], [result], **attrs)
    assert needed(found, at, result.shape)["c0"] == wanted


def test_parts_of_a_split() -> None:
    parts = np.split(A, 2, axis=1)
    first, second = origins("Split", [A, np.array([2, 2])], parts, axis=1)
    assert needed(first, (1, 1), (3, 2)) == {"c0": [5]} and needed(second, (1, 1), (3, 2)) == {"c0": [7]}


def test_joined() -> None:
    result = np.concatenate([A, B])
    (found,) = origins("Concat", [A, B], [result], axis=0)
    assert needed(found, (1, 2), result.shape) == {"c0": [6], "c1": []}
    assert needed(found, (4, 2), result.shape) == {"c0": [], "c1": [6]}


def test_element_by_element() -> None:
    row = np.ones((1, 4), np.float32)
    (found,) = origins("Mul", [A, row], [A])
    assert needed(found, (2, 3), A.shape) == {"c0": [11], "c1": [3]}
    (found,) = origins("Exp", [A], [np.exp(A)])
    assert needed(found, (2, 3), A.shape) == {"c0": [11]}


@pytest.mark.parametrize(
    "opset, inputs, attrs, result, at, wanted",
    [
        (18, [np.array([1])], {"keepdims": 0}, A.mean(axis=1), (1,), [4, 5, 6, 7]),
        (18, [np.array([0])], {"keepdims": 1}, A.mean(axis=0, keepdims=True), (0, 3), [3, 7, 11]),
        (18, [np.array([-1])], {"keepdims": 0}, A.mean(axis=1), (0,), [0, 1, 2, 3]),
        (17, [], {"axes": [0], "keepdims": 1}, A.mean(axis=0, keepdims=True), (0, 0), [0, 4, 8]),
        (18, [], {"keepdims": 1}, A.mean(keepdims=True), (0, 0), list(range(12))),
    ],
)
def test_reduced(
    opset: int, inputs: list[Array], attrs: dict[str, object], result: Array, at: tuple[int, ...], wanted: list[int]
) -> None:
    (found,) = origins("ReduceMean", [A, *inputs], [result], opset, **attrs)
    assert needed(found, at, result.shape) == {"c0": wanted}


def test_what_no_rule_tells_is_made_of_everything() -> None:
    result = A @ B.T
    (found,) = origins("MatMul", [A, B.T.copy()], [result])
    assert needed(found, (0, 0), result.shape) == {"c0": list(range(12)), "c1": list(range(8))}
    (found,) = origins("ReduceSum", [A, None], [A], 18, noop_with_empty_axes=1)
    assert needed(found, (1, 1), A.shape) == {"c0": list(range(12))}
