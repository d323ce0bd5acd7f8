"""Descriptors moved as the tensors are that they describe: every operator against numpy on the tensor in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis import movement
from onnxslim_yolo.analysis.movement import MOVERS, CannotMoveError
from onnxslim_yolo.ir.graph import Array, Node

COMPUTED = gs.Variable("computed", np.int64, (1,))
FREE: tuple[int, ...] = (2, 4, 3, 5)


def node(op: str, *operands: Sequence[int] | int | gs.Variable | None, outputs: int = 1, **attributes: Any) -> Node:
    """An operator of one variable, `x`, and of these constants; None is an input that is left out."""
    inputs: list[Any] = [gs.Variable("x", np.float32, FREE)]
    for k, values in enumerate(operands):
        given = isinstance(values, gs.Variable)
        inputs.append(values if given else gs.Variable.empty() if values is None else constant(f"c{k}", values))
    return gs.Node(op, "n", attributes, inputs, [gs.Variable(f"y{k}") for k in range(outputs)])


def constant(name: str, values: Any) -> gs.Constant:
    return gs.Constant(name, np.asarray(values, np.float32 if isinstance(values, float) else np.int64))


def numbered(*sizes: int) -> Array:
    """A descriptor of which no two elements are alike."""
    return 1 + np.arange(int(np.prod(sizes)), dtype=np.int64).reshape(sizes)


def collapsed(array: Array) -> Array:
    """Of size 1 along every axis along which nothing changes, told by spreads."""
    for axis in range(array.ndim):
        if not np.ptp(array, axis=axis).any():
            array = array[(slice(None),) * axis + (slice(0, 1),)]
    return array


def moved(operator: Node, *described: tuple[Array, tuple[int, ...]], after: list[tuple[int, ...]]) -> list[Array]:
    arrays, shapes = [array for array, _ in described], [shape for _, shape in described]
    return MOVERS[operator.op](operator, arrays, shapes, after)


Full = Callable[[Array], "Array | list[Array]"]
CASES: dict[str, tuple[Node, Full]] = {
    "identity": (node("Identity"), lambda x: x),
    "cast": (node("Cast", to=1), lambda x: x),
    "dropout": (node("Dropout", outputs=2), lambda x: [x, x]),
    "reshape to tokens": (node("Reshape", [2, 4, 15]), lambda x: x.reshape(2, 4, 15)),
    "reshape that parts channels": (node("Reshape", [2, 2, 2, 3, 5]), lambda x: x.reshape(2, 2, 2, 3, 5)),
    "reshape that mixes": (node("Reshape", [2, 6, 2, 5]), lambda x: x.reshape(2, 6, 2, 5)),
    "reshape to a row": (node("Reshape", [120]), lambda x: x.reshape(120)),
    "reshape with ones": (node("Reshape", [1, 2, 4, 1, 15, 1]), lambda x: x.reshape(1, 2, 4, 1, 15, 1)),
    "flatten": (node("Flatten"), lambda x: x.reshape(2, 60)),
    "unsqueeze": (node("Unsqueeze", [2]), lambda x: x[:, :, None]),
    "transpose": (node("Transpose", perm=[0, 2, 3, 1]), lambda x: x.transpose(0, 2, 3, 1)),
    "reversed": (node("Transpose"), lambda x: x.transpose(3, 2, 1, 0)),
    "split in equal parts": (node("Split", axis=1, outputs=2), lambda x: np.split(x, 2, axis=1)),
    "split of more": (node("Split", axis=-1, outputs=3), lambda x: np.split(x, [2, 4], axis=3)),
    "split by sizes": (node("Split", [3, 1], axis=1, outputs=2), lambda x: np.split(x, [3], axis=1)),
    "split into single ones": (node("Split", axis=1, outputs=4), lambda x: np.split(x, 4, axis=1)),
    "split along rows": (node("Split", axis=2, outputs=3), lambda x: np.split(x, 3, axis=2)),
    "slice": (node("Slice", [1], [3], [1]), lambda x: x[:, 1:3]),
    "slice of first axes": (node("Slice", [0, 1], [1, 9]), lambda x: x[:1, 1:]),
    "slice from behind": (node("Slice", [-3], [-1], [-3], [1]), lambda x: x[:, -3:-1]),
    "slice by steps": (node("Slice", [1, 0], [99, 99], [3, 1], [2, 3]), lambda x: x[:, ::3, :, 1::2]),
    "slice backwards": (node("Slice", [3], [0], [1], [-2]), lambda x: x[:, 3:0:-2]),
    "slice backwards to the beginning": (node("Slice", [-1], [-5], [1], [-1]), lambda x: x[:, ::-1]),
    "slice backwards to far beyond": (node("Slice", [2**62], [-(2**63) + 1], [1], [-1]), lambda x: x[:, ::-1]),
    "slice backwards but for the first": (node("Slice", [-1], [-4], [1], [-1]), lambda x: x[:, :0:-1]),
    "slice to the end": (node("Slice", [2], [2**63 - 1], [3]), lambda x: x[..., 2:]),
    "gather": (node("Gather", [3, -3, 0], axis=1), lambda x: x[:, [3, 1, 0]]),
    "gather one": (node("Gather", 2, axis=1), lambda x: x[:, 2]),
    "gather a table": (node("Gather", [[0, 1], [-1, 2]], axis=-3), lambda x: x[:, [[0, 1], [3, 2]]]),
    "gather images": (node("Gather", [1, 0, 1]), lambda x: x[[1, 0, 1]]),
    "tile": (node("Tile", [1, 2, 1, 3]), lambda x: np.tile(x, (1, 2, 1, 3))),
    "expand": (node("Expand", [6, 2, 4, 3, 5]), lambda x: np.broadcast_to(x, (6, 2, 4, 3, 5))),
}


@pytest.mark.parametrize("along", [(1,), (3,), (1, 3), (0, 2), ()], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_what_is_described_moves_as_the_tensor(case: str, along: tuple[int, ...]) -> None:
    """And where nothing changes along an axis of what comes of it, its size is 1 there."""
    operator, function = CASES[case]
    array = numbered(*(FREE[axis] if axis in along else 1 for axis in range(4)))
    result = function(np.broadcast_to(array, FREE))
    expected = result if isinstance(result, list) else [result]
    found = moved(operator, (array, FREE), after=[part.shape for part in expected])
    assert [part.tolist() for part in found] == [collapsed(part).tolist() for part in expected]


@pytest.mark.parametrize("axis", [1, -2])
def test_joined(axis: int) -> None:
    shapes = [(1, 2, 3, 5), (1, 2, 3, 5)]
    arrays = [numbered(1, 2, 1, 1), numbered(1, 1, 3, 5)]
    wanted = np.concatenate([np.broadcast_to(a, s) for a, s in zip(arrays, shapes, strict=True)], axis=axis)
    (found,) = moved(node("Concat", axis=axis), *zip(arrays, shapes, strict=True), after=[wanted.shape])
    assert found.tolist() == collapsed(wanted).tolist()


def test_joined_of_what_is_alike_is_one_value() -> None:
    (found,) = moved(node("Concat", axis=1), *[(np.full((1, 1, 1), 7), (1, 2, 3))] * 2, after=[(1, 4, 3)])
    assert found.tolist() == [[[7]]]


def test_a_parts_last_chunk_is_what_is_left() -> None:
    assert movement.split_sizes(node("Split", outputs=3), 8) == [3, 3, 2]
    assert movement.split_sizes(node("Split", [5, 3], outputs=2), 8) == [5, 3]


class TestReshaped:
    def test_by_what_varies_alone(self) -> None:
        """A map of 2⁶⁰ pixels costs its channels: in full it fits in no memory."""
        pixels = 1 << 30
        found = movement.reshape(numbered(1, 8, 1, 1), (1, 8, pixels, pixels), (1, 2, 4, pixels * pixels))
        assert found.tolist() == numbered(1, 2, 4, 1).tolist()
        found = movement.reshape(numbered(1, 8, 1, 1), (pixels, 8, pixels // 2, 2), (pixels // 2, 2, 2, 4, pixels))
        assert found.tolist() == numbered(1, 1, 2, 4, 1).tolist()

    @pytest.mark.parametrize("before, after", [((0, 4), (4, 0)), ((4, 0), (0,)), ((2, 3), (0, 6))])
    def test_nothing(self, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        with pytest.raises(CannotMoveError, match="empty tensor"):
            movement.reshape(np.ones((1, 1)), before, after)

    def test_to_another_size(self) -> None:
        with pytest.raises(CannotMoveError, match="differ in size"):
            movement.reshape(np.ones((1, 1)), (2, 3), (7,))


class TestComputed:
    """What a graph computes cannot be told here, unless it does not matter."""

    @pytest.mark.parametrize(
        "operator, reason",
        [
            (node("Split", COMPUTED, axis=1, outputs=2), "split sizes that are computed"),
            (node("Slice", COMPUTED, [3], [1]), "slice bounds that are computed"),
            (node("Slice", [0], COMPUTED, [1]), "slice bounds that are computed"),
            (node("Slice", [0], [3], COMPUTED), "slice bounds that are computed"),
            (node("Slice", [0], [3], [1], COMPUTED), "slice bounds that are computed"),
            (node("Slice"), "not given"),
            (node("Slice", [1]), "not given"),
            (node("Gather", COMPUTED, axis=1), "gather indices that are computed"),
        ],
    )
    def test_along_what_varies(self, operator: Node, reason: str) -> None:
        with pytest.raises(CannotMoveError, match=reason):
            moved(operator, (numbered(1, 4, 1, 1), FREE), after=[(2, 2, 3, 5)] * len(operator.outputs))

    @pytest.mark.parametrize(
        "operator, after",
        [
            (node("Split", COMPUTED, axis=1, outputs=2), (2, 2, 3, 5)),
            (node("Slice", COMPUTED, COMPUTED, [1, -3], COMPUTED), (2, 2, 3, 5)),
            (node("Gather", COMPUTED, axis=1), (2, 9, 3, 5)),
        ],
    )
    def test_along_another_axis(self, operator: Node, after: tuple[int, ...]) -> None:
        array = numbered(1, 1, 1, 5)
        for found in moved(operator, (array, FREE), after=[after] * len(operator.outputs)):
            assert found.tolist() == array.tolist()

    @pytest.mark.parametrize("axes", [[1, 3], [-1], [0, -1]])
    def test_along_that_axis_as_well(self, axes: list[int]) -> None:
        with pytest.raises(CannotMoveError):
            moved(node("Slice", COMPUTED, COMPUTED, axes), (numbered(1, 1, 1, 5), FREE), after=[FREE])

    def test_an_index_that_picks_one_of_what_is_alike(self) -> None:
        one = gs.Variable("i", np.int64, ())
        (found,) = moved(node("Gather", one, axis=2), (numbered(1, 4, 1, 5), FREE), after=[(2, 4, 5)])
        assert found.tolist() == numbered(1, 4, 5).tolist()

    def test_pads(self) -> None:
        for operator, reason in ((node("Pad", COMPUTED), "pads that are computed"), (node("Pad"), "not given")):
            with pytest.raises(CannotMoveError, match=reason):
                movement.pad_widths(operator, 4)
        with pytest.raises(CannotMoveError, match="axes that are computed"):
            movement.pad_widths(node("Pad", [1, 1], None, COMPUTED), 4)
        assert movement.pad_value(node("Pad", [1, 1], COMPUTED)) is None


class TestPads:
    @pytest.mark.parametrize(
        "operator, widths",
        [
            (node("Pad", [1, 2, 3, 4, 5, 6, 7, 8]), [(1, 5), (2, 6), (3, 7), (4, 8)]),
            (node("Pad", [1, 2, 3, 4], None, [3, -3]), [(0, 0), (2, 4), (0, 0), (1, 3)]),
            (node("Pad", pads=[0, -1, 0, 0, 0, 0, 2, 0]), [(0, 0), (-1, 0), (0, 2), (0, 0)]),
        ],
    )
    def test_by_axis(self, operator: Node, widths: list[tuple[int, int]]) -> None:
        assert movement.pad_widths(operator, 4) == widths

    def test_with_what(self) -> None:
        assert movement.pad_value(node("Pad", [0] * 8)) in (0, None)
        assert movement.pad_value(node("Pad", [0] * 8, 2.5)) == 2.5
        assert movement.pad_value(node("Pad", pads=[0] * 8, value=1.5)) == 1.5


@pytest.mark.parametrize("shape", [(1, 4, 6, 6), (1, 1, 6, 6)])
def test_space_to_depth_puts_positions_in_front_of_channels(shape: tuple[int, ...]) -> None:
    array = numbered(1, shape[1], 1, 1)
    after = (1, shape[1] * 9, 2, 2)
    full = np.broadcast_to(array, shape).reshape(1, shape[1], 2, 3, 2, 3).transpose(0, 3, 5, 1, 2, 4).reshape(after)
    (found,) = moved(node("SpaceToDepth", blocksize=3), (array, shape), after=[after])
    assert np.broadcast_to(found, after).tolist() == full.tolist()


def test_space_to_depth_of_what_varies_over_space() -> None:
    for array in (numbered(1, 4, 6, 1), numbered(1, 4, 1, 6)):
        with pytest.raises(CannotMoveError, match="vary over space"):
            moved(node("SpaceToDepth", blocksize=2), (array, (1, 4, 6, 6)), after=[(1, 16, 3, 3)])
