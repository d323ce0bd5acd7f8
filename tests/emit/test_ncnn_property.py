"""Random chains of data movement, reductions and broadcasting: ncnn agrees, or the emitter says why it cannot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.layout import (
    broadcast_dims,
    canonical_dims,
    dim_of_axis,
    dims_showing,
    permute_order,
    regrouped,
)
from onnxslim_yolo.errors import UnsupportedError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.ncnn_run import NcnnSession
from onnxslim_yolo.verify.ncnn_compare import compare_outputs
from tests.emit.ncnn_session import fresh_session

Shape = tuple[int, ...]
STEPS = ("reshape", "transpose", "slice", "softmax", "reduce", "concat", "broadcast", "gather", "split", "relu", "swap")


@pytest.fixture(scope="module")
def session() -> Iterator[NcnnSession]:
    with fresh_session() as opened:
        yield opened


EXAMPLES = int(os.environ.get("ONNXSLIM_EXAMPLES", "60"))


class Program:
    """A graph under construction: one current tensor and its shape."""

    def __init__(self, shape: Shape) -> None:
        self.input = gs.Variable("x", np.float32, list(shape))
        self.tensor, self.shape = self.input, shape
        self.nodes: list[gs.Node] = []
        self.rng = np.random.default_rng(0)

    def add(self, op: str, shape: Shape, constants: list[np.ndarray] = [], **attrs: object) -> None:  # noqa: B006
        name = f"{op.lower()}{len(self.nodes)}"
        inputs = [self.tensor, *(gs.Constant(f"{name}_{i}", value) for i, value in enumerate(constants))]
        output = gs.Variable(f"t_{name}", np.float32)
        self.nodes.append(gs.Node(op, name, dict(attrs), inputs, [output]))
        self.tensor, self.shape = output, shape

    def model(self) -> Model:
        self.tensor.dtype, self.tensor.shape = np.float32, list(self.shape)
        graph = gs.Graph(nodes=self.nodes, inputs=[self.input], outputs=[self.tensor], opset=17, ir_version=8)
        onnx.checker.check_model(gs.export_onnx(graph), full_check=True)
        return Model(graph=graph)


def factorisation(draw: st.DrawFn, count: int) -> Shape:
    """A random way to write a number as a product, with ones here and there."""
    dims: list[int] = []
    while count > 1 and len(dims) < 4:
        divisors = [d for d in range(1, count + 1) if count % d == 0]
        dims.append(draw(st.sampled_from(divisors)))
        count //= dims[-1]
    if count > 1:
        dims.append(count)
    return tuple(dims) or (1,)


def step(draw: st.DrawFn, program: Program, kind: str) -> None:
    shape, rank = program.shape, len(program.shape)
    axis = draw(st.integers(0, rank - 1))
    size = shape[axis]
    if kind == "reshape":
        lead: Shape = (1,) if draw(st.booleans()) else ()
        new = (*lead, *factorisation(draw, prod(shape)))
        program.add("Reshape", new, [np.asarray(new, np.int64)])
    elif kind == "transpose":
        perm = draw(st.permutations(range(rank)))
        program.add("Transpose", tuple(shape[a] for a in perm), perm=list(perm))
    elif kind == "swap" and rank > 1:
        perm = [*range(rank - 2), rank - 1, rank - 2]
        program.add("Transpose", tuple(shape[a] for a in perm), perm=perm)
    elif kind == "slice":
        start = draw(st.integers(0, size - 1))
        end, hop = draw(st.integers(start + 1, size)), draw(st.integers(1, 3))
        bounds = [np.asarray([value], np.int64) for value in (start, end, axis, hop)]
        program.add("Slice", (*shape[:axis], -(-(end - start) // hop), *shape[axis + 1 :]), bounds)
    elif kind == "softmax":
        program.add("Softmax", shape, axis=axis)
    elif kind == "relu":
        program.add("Relu", shape)
    elif kind == "reduce":
        keep = draw(st.booleans()) or rank == 1
        program.add(
            "ReduceMax", (*shape[:axis], *([1] if keep else []), *shape[axis + 1 :]), axes=[axis], keepdims=int(keep)
        )
    elif kind == "concat" and prod(shape) < 3000:
        source = program.tensor
        program.add("Concat", (*shape[:axis], 2 * size, *shape[axis + 1 :]), axis=axis)
        program.nodes[-1].inputs = [source, source]
    elif kind == "broadcast":
        other = tuple(n if draw(st.booleans()) else 1 for n in shape)[draw(st.integers(0, rank - 1)) :]
        program.add(draw(st.sampled_from(["Add", "Mul", "Sub"])), shape, [program.rng.random(other).astype(np.float32)])
    elif kind == "gather":
        picks = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5))
        new = (*shape[:axis], len(picks), *shape[axis + 1 :])
        program.add("Gather", new, [np.asarray(picks, np.int64)], axis=axis)
    elif kind == "split" and size > 1:
        first = draw(st.integers(1, size - 1))
        source = program.tensor
        program.add("Split", shape, [np.asarray([first, size - first], np.int64)], axis=axis)
        half = gs.Variable(f"{program.tensor.name}_b", np.float32)
        program.nodes[-1].outputs = [program.tensor, half]
        assert source is not program.tensor
        pieces = [half, program.tensor]
        program.add("Concat", shape, axis=axis)
        program.nodes[-1].inputs = pieces


@st.composite
def programs(draw: st.DrawFn) -> Model:
    shape = draw(st.sampled_from([(1, 6, 4, 5), (1, 12, 10), (1, 8, 3, 4), (1, 2, 6, 2, 5), (1, 24)]))
    program = Program(shape)
    program.add("Abs", shape)
    for kind in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=7)):
        step(draw, program, kind)
    return program.model()


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(model=programs())
def test_random_programs(model: Model, session: NcnnSession) -> None:
    try:
        converted = emit_ncnn(model, weights="fp32", cut=False)
    except UnsupportedError as error:
        assert error.node and error.hint and "internal" not in error.message
        return
    shape = model.graph.inputs[0].shape
    feed = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    (found,) = compare_outputs(model, converted, [feed], session=session)
    # Softmaxes of softmaxes hardly vary: there the plain difference is what float32 allows.
    close = abs(found.wanted - found.found) < 1e-5 * (1 + abs(found.wanted))
    assert not found.reason and (found.relative < 1e-5 or close), f"{found}\n{converted.param}\n{model.graph}"


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=6).map(tuple)


@given(shape=SHAPES, data=st.data())
def test_layout_algebra(shape: Shape, data: st.DataObject) -> None:
    """Dims always hold the same elements, and an axis that they show is where it is said to be."""
    dims = canonical_dims(shape)
    assert prod(dims) == prod(shape) and 1 <= len(dims) <= 4
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1), max_size=3))
    shown = dims_showing(shape, axes)
    if shown is not None:
        wanted, where = shown
        assert prod(wanted) == prod(shape) and all(wanted[where[axis]] == shape[axis] for axis in axes)
        for axis in axes:
            assert shape[axis] == 1 or dim_of_axis(shape, wanted, axis) == where[axis]
    other = tuple(n if data.draw(st.booleans()) else 1 for n in shape)
    grouped = regrouped(shape, [n != 1 for n in other], ())
    if grouped is not None:
        placed = broadcast_dims(shape, grouped[0], other)
        assert placed is not None and prod(placed) == prod(other)
        values = np.arange(prod(other)).reshape(other)
        wide = np.broadcast_to(values, shape).reshape(grouped[0])
        assert np.array_equal(np.broadcast_to(values.reshape(placed), grouped[0]), wide)


def test_permute_codes_are_distinct() -> None:
    from itertools import permutations

    for rank, count in ((1, 1), (2, 2), (3, 6), (4, 24)):
        assert sorted(permute_order(perm) for perm in permutations(range(rank))) == list(range(count))
