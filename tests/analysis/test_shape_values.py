"""What computed shapes say, of graphs with an open batch N and an open height H: worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper

from onnxslim_yolo.analysis.channels import concrete_shapes
from onnxslim_yolo.analysis.most_shapes import of_any_size
from onnxslim_yolo.analysis.shape_values import DEPTH, LONGEST, Size, dims_of, known_sizes, sizes_of
from onnxslim_yolo.ir.graph import Tensor
from onnxslim_yolo.ir.shapes import reinfer
from tests.analysis.graphs import onnx_text
from tests.numeric import build

WEIGHTS = """int64[1] none = {-1}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3},
    int64[1] eight = {8}, int64[4] ones = {-1, -1, -1, -1}, int64[2] ends = {0, -1}, int64[1] far = {4},
    int64 first = {0}, int64[1] minus = {-2}, float[1] broken = {1.5}, float[1] whole = {4},
    int64[1] axis = {0}, int64[1] many = {65}, int64[1] most = {64}"""
SHAPE = "s = Shape (x)"  # N, 12, H, 20


def sizes(body: str) -> list[int | str | None] | None:
    """What `y` says: numbers, "2·N" where it is that many times an open size."""
    tensor: Tensor = build(
        onnx_text("float[N, 12, H, 20] x, int64[2] p, float[N, 3] z", "int64[n] y", WEIGHTS, body)
    ).graph.tensors()["y"]
    found = sizes_of(tensor)
    return None if found is None else [_told(size) for size in found]


def _told(size: Size | None) -> int | str | None:
    if size is None:
        return None
    return size.factor if not size.of else f"{size.factor}·{size.of}"


def at(index: str, name: str) -> str:
    """One number of the shape, in brackets."""
    return f"{name} = Gather (s, {index})"


@pytest.mark.parametrize(
    "body, expected",
    [
        ("y = Shape (x)", ["1·N", 12, "1·H", 20]),
        ("y = Shape <start = 1> (x)", [12, "1·H", 20]),
        ("y = Shape <start = -3, end = -1> (x)", [12, "1·H"]),
        ("y = Shape <end = 2> (x)", ["1·N", 12]),
        (f"{SHAPE} y = Gather (s, ends)", ["1·N", 20]),
        (f"{SHAPE} y = Gather (p, one)", None),
        (f"{SHAPE} y = Slice (s, one, three)", [12, "1·H"]),
        (f"{SHAPE} y = Slice (s, none, minus, axis, none)", [20]),
        (f"{SHAPE} y = Slice (s, zero, far, axis, two)", ["1·N", "1·H"]),
        (f"{SHAPE} q = ReduceSum (p) y = Slice (s, q, three)", None),
        ("y = Slice (p, zero, one)", None),
        (f"{SHAPE} a = Gather (s, zero) y = Concat <axis = 0> (a, none, p, three)", ["1·N", -1, None, None, 3]),
        (f"{SHAPE} a = Cast <to = 1> (s) b = Floor (a) c = Ceil (b) y = Cast <to = 7> (c)", ["1·N", 12, "1·H", 20]),
        (f"{SHAPE} a = Gather (s, first) b = Unsqueeze (a, axis) c = Identity (b) y = Reshape (c, none)", ["1·N"]),
        (f"{SHAPE} b = Gather (s, one) c = Squeeze (b, axis) y = Unsqueeze (c, axis)", [12]),
    ],
)
def test_what_reads_and_joins(body: str, expected: list[int | str | None] | None) -> None:
    assert sizes(body) == expected


@pytest.mark.parametrize(
    "body, expected",
    [
        (f"{SHAPE} y = Mul (s, two)", ["2·N", 24, "2·H", 40]),
        (f"{SHAPE} y = Mul (three, s)", ["3·N", 36, "3·H", 60]),
        (f"{SHAPE} y = Mul (s, s)", [None, 144, None, 400]),
        (f"{SHAPE} y = Mul (s, ones)", ["-1·N", -12, "-1·H", -20]),
        (f"{SHAPE} y = Div (s, two)", [None, 6, None, 10]),
        (f"{SHAPE} y = Div (s, three)", [None, 4, None, 6]),
        (f"{SHAPE} c = Gather (s, one) d = Add (c, three) y = Div (d, two)", [7]),  # 15 / 2, whole numbers
        (f"{SHAPE} c = Gather (s, one) d = Sub (three, c) y = Div (d, two)", [-4]),  # -9 / 2: towards 0
        (
            f"{SHAPE} c = Gather (s, one) d = Cast <to = 1> (c) f = Div (whole, d) y = Cast <to = 7> (f)",
            [None],
        ),
        (f"{SHAPE} y = Div (s, zero)", [None, None, None, None]),
        (f"{SHAPE} a = Mul (s, eight) y = Div (a, two)", ["4·N", 48, "4·H", 80]),
        (f"{SHAPE} a = Mul (s, eight) y = Div (a, s)", [8, 8, 8, 8]),
        (f"{SHAPE} {at('zero', 'n')} y = Div (s, n)", [1, None, None, None]),
        (f"{SHAPE} y = Add (s, s)", ["2·N", 24, "2·H", 40]),
        (f"{SHAPE} y = Add (s, one)", [None, 13, None, 21]),
        (f"{SHAPE} a = Mul (s, three) y = Sub (a, s)", ["2·N", 24, "2·H", 40]),
        (f"{SHAPE} {at('zero', 'n')} y = Sub (s, n)", ["0·N", None, None, None]),
        (f"{SHAPE} y = Sub (s, two)", [None, 10, None, 18]),
    ],
)
def test_arithmetic(body: str, expected: list[int | str | None] | None) -> None:
    assert sizes(body) == expected


@pytest.mark.parametrize(
    "body, expected",
    [
        (f"{SHAPE} e = Equal (s, ones) y = Cast <to = 7> (e)", [0, 0, 0, 0]),
        (f"{SHAPE} e = Equal (ones, s) y = Cast <to = 7> (e)", [0, 0, 0, 0]),
        (f"{SHAPE} {at('one', 't')} e = Equal (s, t) y = Cast <to = 7> (e)", [None, 1, None, 0]),
        (f"{SHAPE} e = Equal (s, zero) y = Cast <to = 7> (e)", [None, 0, None, 0]),
        (f"{SHAPE} {at('zero', 'n')} e = Equal (s, n) y = Cast <to = 7> (e)", [1, None, None, None]),
        (f"{SHAPE} m = Mul (s, ones) e = Equal (m, ones) y = Cast <to = 7> (e)", [None, 0, None, 0]),
        (f"{SHAPE} e = Equal (ends, none) y = Where (e, two, three)", [3, 2]),
        (f"{SHAPE} e = Equal (ones, none) y = Where (e, s, two)", ["1·N", 12, "1·H", 20]),
        (f"{SHAPE} e = Equal (one, two) y = Where (e, two, s)", ["1·N", 12, "1·H", 20]),
        (f"{SHAPE} e = Equal (s, one) y = Where (e, two, three)", [None, 3, None, 3]),
        (f"{SHAPE} e = Equal (one, two) y = Where (e, two, p)", None),
        (f"{SHAPE} e = Equal (one, two) y = Where (e, p, two)", None),
        (f"{SHAPE} e = Equal (p, two) y = Where (e, two, two)", None),
    ],
)
def test_choices(body: str, expected: list[int | str | None] | None) -> None:
    assert sizes(body) == expected


@pytest.mark.parametrize(
    "body, expected",
    [
        ("f = ConstantOfShape (three) y = Cast <to = 7> (f)", [0, 0, 0]),
        ("y = ConstantOfShape <value = int64[1] {7}> (two)", [7, 7]),
        ("k = Concat <axis = 0> (two, three) y = ConstantOfShape <value = int64[1] {1}> (k)", [1] * 6),
        ("y = ConstantOfShape <value = int64[1] {0}> (most)", [0] * LONGEST),
        ("y = ConstantOfShape <value = int64[1] {0}> (many)", None),
        ("f = ConstantOfShape <value = float[1] {0.5}> (two) y = Cast <to = 7> (f)", None),
        (f"{SHAPE} {at('zero', 'n')} y = ConstantOfShape <value = int64[1] {{0}}> (n)", None),
        ("q = ReduceSum (p) y = ConstantOfShape <value = int64[1] {0}> (q)", None),
        (f"{SHAPE} t = Slice (s, zero, two) y = ReduceProd (t)", ["12·N"]),
        (f"{SHAPE} y = ReduceProd (s)", [None]),
        ("q = ReduceSum (p) y = ReduceProd (q)", [None]),
        ("y = Neg (two)", None),
        ("c = Cast <to = 7> (broken) y = Identity (c)", None),
        ("c = Cast <to = 7> (whole) y = Identity (c)", [4]),
        ("a = ConstantOfShape <value = int64[1] {0}> (most) y = Concat <axis = 0> (a, two)", None),
    ],
)
def test_what_is_filled_and_multiplied(body: str, expected: list[int | str | None] | None) -> None:
    assert sizes(body) == expected


def test_of_constants() -> None:
    assert sizes_of(gs.Constant("c", np.array([[2, -1]]))) == [Size(2), Size(-1)]
    assert sizes_of(gs.Constant("c", np.array([True]))) == [Size(1)]
    assert sizes_of(gs.Constant("c", np.array([3.0]))) == [Size(3)]
    assert sizes_of(gs.Constant("c", np.array([3.5, 1.0]))) is None
    assert sizes_of(gs.Constant("c", np.zeros(LONGEST, np.int64))) == [Size(0)] * LONGEST
    assert sizes_of(gs.Constant("c", np.zeros(LONGEST + 1, np.int64))) is None


@pytest.mark.parametrize(
    "op, operands, expected",
    [
        ("Gather", ([5, 6], [2]), None),
        ("Gather", ([5, 6], [-3]), None),
        ("Gather", ([5, 6], [-2, 1]), [5, 6]),
        ("Add", ([5, 6], [1, 2, 3]), None),
        ("Add", ([5], [1, 2, 3]), [6, 7, 8]),
        ("Where", ([1], [5, 6], [1, 2, 3]), None),
        ("Where", ([1, 0], [5], [2]), [5, 2]),
        ("Slice", ([5, 6], [1], [2, 3]), None),
    ],
)
def test_what_does_not_fit_is_not_known(op: str, operands: tuple[list[int], ...], expected: list[int] | None) -> None:
    out = gs.Variable("y")
    gs.Node(op, inputs=[gs.Constant(f"c{k}", np.array(part)) for k, part in enumerate(operands)], outputs=[out])
    assert sizes_of(out) == (None if expected is None else [Size(number) for number in expected])


def test_an_empty_vector_stays_empty() -> None:
    empty = gs.Constant("c", np.zeros(0, np.int64))
    for op in ("Mul", "Add"):
        out = gs.Variable("y")
        gs.Node(op, inputs=[empty, gs.Constant("t", np.array([2]))], outputs=[out])
        assert sizes_of(out) == []


def test_only_operators_of_onnx_are_followed_and_not_forever() -> None:
    shaped = gs.Variable("x", np.float32, (2, 3))
    for domain, found in (
        (None, [Size(2), Size(3)]),
        ("", [Size(2), Size(3)]),
        ("ai.onnx", [Size(2), Size(3)]),
        ("a", None),
    ):
        out = gs.Variable("y")
        gs.Node("Shape", attrs={"start": 0, "end": None}, inputs=[shaped], outputs=[out], domain=domain)
        assert sizes_of(out) == found
    here: Tensor = gs.Constant("c", np.array([5]))
    for k in range(DEPTH + 1):
        after = gs.Variable(f"t{k}")
        gs.Node("Identity", inputs=[here], outputs=[after])
        here = after
        assert (sizes_of(here) == [Size(5)]) is (k < DEPTH)


def test_a_tensors_shape() -> None:
    assert dims_of(gs.Variable("x")) is None
    assert dims_of(gs.Variable("x", shape=(3, -1, "N", "unk_3", 0))) == [
        Size(3), Size(1, "x:1"), Size(1, "N"), Size(1, "x:3"), Size(0),
    ]  # fmt: skip


def test_open_sizes_that_are_inferred_elsewhere() -> None:
    x = gs.Variable("a:b", np.float32, ("unk_0", 4, "unk_2", "N"))
    types = {"a:b": helper.make_tensor_type_proto(TensorProto.FLOAT, [6, 4, None, 5])}
    for indices, found in (([0, 1], [6, 4]), ([1, 2], None), ([3], None), ([0], [6])):
        out = gs.Variable("y")
        whole = gs.Variable("s")
        gs.Node("Shape", attrs={"start": 0, "end": None}, inputs=[x], outputs=[whole])
        gs.Node("Gather", inputs=[whole, gs.Constant("i", np.array(indices))], outputs=[out])
        assert known_sizes(out, types) == found
        assert known_sizes(out, {}) == (found if indices == [1] else None)
        no_shape = {"a:b": onnx.TypeProto(tensor_type=onnx.TypeProto.Tensor(elem_type=TensorProto.FLOAT))}
        assert known_sizes(out, no_shape) is None
    doubled = gs.Variable("d")
    gs.Node("Mul", inputs=[out, gs.Constant("t", np.array([2]))], outputs=[doubled])
    assert known_sizes(doubled, types) == [12]
    assert known_sizes(gs.Variable("nothing"), types) is None


def test_open_sizes_that_are_taken_as_said() -> None:
    x, whole = gs.Variable("x", np.float32, ("batch", 4, "unk_2")), gs.Variable("s")
    gs.Node("Shape", attrs={"start": 0, "end": 2}, inputs=[x], outputs=[whole])
    assert known_sizes(whole, {}) is None and known_sizes(whole, {}, {"batch": 3}) == [3, 4]


@pytest.mark.parametrize("opset", [11, 12, 13, 17])
def test_a_resize_to_another_maps_size_has_a_shape_over_an_open_batch(opset: int) -> None:
    """`interpolate(z, size=x.shape[-2:])`: onnx follows a Concat of sizes from opset 13 on only, and before it the file
    was refused as of a size that the image says."""
    body = (
        "p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) s = Shape(p) lead = Slice(s, zero, two, zero) "
        "w = Shape(x) last = Slice(w, two, four, zero) size = Concat<axis=0>(lead, last) "
        "y = Resize(p, none, none, size)"
    )
    weights = "int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, float[0] none"
    text = onnx_text("float[batch,3,8,8] x", "float[batch,3,h,w] y", weights, body, opset)
    model = build(text)
    reinfer(model.graph)
    assert concrete_shapes(model.graph, 2)[id(model.graph.outputs[0])] == (2, 3, 8, 8)
    assert of_any_size(model.graph) is None


@pytest.mark.parametrize("shape, told", [([3], [12, None, None, None]), (None, None), (["n"], None), ([1, 3], None)])
def test_a_part_of_which_nothing_is_known_but_how_long_it_is(shape: list[int | str] | None, told: object) -> None:
    """As many numbers that are not known; without a length nothing is."""
    known, part = gs.Constant("k", np.array([12])), gs.Variable("p", np.int64, shape)
    joined = gs.Node("Concat", "c", {"axis": 0}, [known, part], [gs.Variable("y", np.int64)])
    found = sizes_of(joined.outputs[0])
    assert (None if found is None else [_told(size) for size in found]) == told
