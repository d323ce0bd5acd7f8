"""Moving a descriptor equals moving the full array in onnxruntime, for random operators, shapes and descriptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnxslim_yolo.analysis.movement import MOVERS, collapse, reshape, varying_axes
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from tests.numeric import run_onnx

Draw = Callable[[st.SearchStrategy[Any]], Any]
SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=5).map(tuple)
ROUNDS = settings(max_examples=120, deadline=None, derandomize=True)


@st.composite
def descriptors(draw: Draw, shape: tuple[int, ...]) -> Array:
    sizes = [size if draw(st.booleans()) else 1 for size in shape]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.integers(0, 5, sizes)


def factorisations(draw: Draw, size: int) -> list[int]:
    """A shape of so many elements, with axes of size 1 here and there."""
    shape = [1] * draw(st.integers(0, 1))
    while size > 1:
        factor = draw(st.sampled_from([d for d in range(2, size + 1) if size % d == 0]))
        shape += [factor, *[1] * draw(st.integers(0, 1))]
        size //= factor
    return shape or [1]


Case = tuple[str, list[tuple[int, ...]], list[list[int]], dict[str, Any], int]
"""Operator, data shapes, integer inputs, attributes, number of outputs."""


@st.composite
def cases(draw: Draw) -> Case:
    op = draw(st.sampled_from(sorted(set(MOVERS) - {"Dropout", "Cast", "CastLike", "SpaceToDepth"})))
    shape = draw(SHAPES)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    if op == "Reshape":
        return op, [shape], [factorisations(draw, int(np.prod(shape)))], {}, 1
    if op == "Flatten":
        return op, [shape], [], {"axis": draw(st.integers(0, len(shape)))}, 1
    if op == "Transpose":
        return op, [shape], [], {"perm": draw(st.permutations(range(len(shape))))}, 1
    if op == "Squeeze":
        ones = [k for k, s in enumerate(shape) if s == 1]
        shape, ones = (shape, ones) if ones else ((1, *shape), [0])
        return op, [shape], [ones], {}, 1
    if op == "Unsqueeze":
        return op, [shape], [[draw(st.integers(0, len(shape)))]], {}, 1
    if op == "Concat":
        extents = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
        axis %= len(shape)
        return op, [(*shape[:axis], e, *shape[axis + 1 :]) for e in extents], [], {"axis": axis}, 1
    if op == "Split":
        at = draw(st.integers(0, size))
        return op, [shape], [[at, size - at]], {"axis": axis}, 2
    if op == "Slice":
        bound = st.integers(-size - 2, size + 2)
        step = draw(st.sampled_from([1, 1, 2, -1]))
        return op, [shape], [[draw(bound)], [draw(bound)], [axis], [step]], {}, 1
    if op == "Gather":
        indices = draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=6))
        return op, [shape], [indices], {"axis": axis}, 1
    if op == "Tile":
        return op, [shape], [draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))], {}, 1
    if op == "Expand":
        grown = [draw(st.integers(1, 3)) if s == 1 else draw(st.sampled_from([1, s])) for s in shape]
        lead = draw(st.lists(st.integers(1, 3), max_size=2))
        return op, [shape], [[*lead, *grown]], {}, 1
    return op, [shape], [], {}, 1


@ROUNDS
@given(cases(), st.data())
def test_moving_a_descriptor(case: Case, data: st.DataObject) -> None:
    op, shapes, numbers, attributes, outputs = case
    described = [data.draw(descriptors(shape)) for shape in shapes]
    feeds = {
        f"x{k}": np.ascontiguousarray(np.broadcast_to(d, s))
        for k, (d, s) in enumerate(zip(described, shapes, strict=True))
    }
    inputs = [*feeds, *(f"i{k}" for k in range(len(numbers)))]
    names = [f"y{k}" for k in range(outputs)]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, inputs, names, **attributes)],
        "g",
        [info(name, 7, array.shape) for name, array in feeds.items()],
        [info(name, 7, None) for name in names],
        [numpy_helper.from_array(np.asarray(v, dtype=np.int64), f"i{k}") for k, v in enumerate(numbers)],
    )
    model = Model.from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    reinfer(model.graph)
    expected = run_onnx(model, feeds)
    if any(0 in array.shape for array in expected.values()):
        return  # nothing is left to describe
    (node,) = model.graph.nodes
    moved = MOVERS[op](node, described, [tuple(s) for s in shapes], [expected[name].shape for name in names])
    for name, array in zip(names, moved, strict=True):
        np.testing.assert_array_equal(np.broadcast_to(array, expected[name].shape), expected[name])


@ROUNDS
@given(SHAPES, st.data())
def test_reshaping_there_and_back(shape: tuple[int, ...], data: st.DataObject) -> None:
    descriptor = data.draw(descriptors(shape))
    other = tuple(factorisations(data.draw, int(np.prod(shape))))
    there = reshape(descriptor, shape, other)
    np.testing.assert_array_equal(np.broadcast_to(there, other), np.broadcast_to(descriptor, shape).reshape(other))
    back = reshape(there, other, shape)
    np.testing.assert_array_equal(np.broadcast_to(back, shape), np.broadcast_to(descriptor, shape))


@ROUNDS
@given(SHAPES, st.data())
def test_collapsing(shape: tuple[int, ...], data: st.DataObject) -> None:
    full = np.broadcast_to(data.draw(descriptors(shape)), shape)
    small = collapse(full)
    np.testing.assert_array_equal(np.broadcast_to(small, shape), full)
    for axis in varying_axes(small):
        assert (small != small.take([0], axis=axis)).any()
