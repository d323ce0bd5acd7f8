"""Where a computed shape says a number, and which extent a number is."""

from __future__ import annotations

import pytest

from onnxslim_yolo.analysis.targets import entry_of, read_off
from onnxslim_yolo.ir.graph import Tensor
from tests.analysis.graphs import onnx_text
from tests.numeric import build

WEIGHTS = """int64[2] pair = {64, 400}, int64[1] one = {7}, int64[3] three = {3, 4, 5}, int64[1] axis = {0},
    int64[2] picked = {2, -4}, int64[1] first = {1}, int64[1] last = {3}, int64[1] minus = {-1}, int64[1] back = {-3},
    int64 single = {2}"""


def tensor(body: str) -> Tensor:
    text = onnx_text("float[1, 8, 5, 6] x, int64[2] p, int64[n] open", "int64[m] y", WEIGHTS, body)
    found: Tensor = build(text).graph.tensors()["y"]
    return found


def entry(body: str, position: int) -> tuple[str, int, int, int] | None:
    found = entry_of(tensor(body), position)
    return None if found is None else (found.node.outputs[0].name, found.index, found.element, found.value)


def extent(body: str, position: int) -> tuple[str, int] | None:
    found = read_off(tensor(body), position)
    return None if found is None else (found.tensor.name, found.axis)


@pytest.mark.parametrize(
    "position, found",
    [(0, None), (1, None), (2, ("y", 1, 0, 64)), (3, ("y", 1, 1, 400)), (4, ("c", 0, 0, 7)), (5, ("d", 1, 0, 64)),
     (6, ("d", 1, 1, 400)), (7, None), (8, None)],
)  # fmt: skip
def test_a_number_in_a_join(position: int, found: tuple[str, int, int, int] | None) -> None:
    body = "c = Identity (one) d = Concat <axis = 0> (c, pair) e = Neg (one) y = Concat <axis = 0> (p, pair, d, e)"
    assert entry(body, position) == found


def test_behind_what_keeps_the_order() -> None:
    assert entry("c = Cast <to = 7> (three) y = Identity (c)", 1) == ("c", 0, 1, 4)
    assert entry("c = Cast <to = 7> (three) y = Identity (c)", 3) is None
    assert entry("c = Concat <axis = 0> (pair, three) y = Cast <to = 7> (c)", 3) == ("c", 1, 1, 4)
    assert entry("y = Neg (three)", 0) is None
    assert entry("c = Neg (three) y = Identity (c)", 0) is None


def test_behind_a_part_of_unknown_length() -> None:
    body = "y = Concat <axis = 0> (pair, open, three)"
    assert entry(body, 1) == ("y", 0, 1, 400)
    assert entry(body, 2) is None
    assert extent("s = Shape (x) y = Concat <axis = 0> (s, open, s)", 3) == ("x", 3)
    assert extent("s = Shape (x) y = Concat <axis = 0> (s, open, s)", 4) is None


@pytest.mark.parametrize(
    "body, position, found",
    [
        ("y = Shape (x)", 2, ("x", 2)),
        ("y = Shape <start = 1> (x)", 2, ("x", 3)),
        ("y = Shape <start = -3> (x)", 1, ("x", 2)),
        ("y = Shape <start = -1> (x)", 0, ("x", 3)),
        ("s = Shape (x) y = Cast <to = 7> (s)", 3, ("x", 3)),
        ("s = Shape (x) y = Concat <axis = 0> (pair, s)", 1, None),
        ("s = Shape (x) y = Concat <axis = 0> (pair, s)", 2, ("x", 0)),
        ("s = Shape (x) y = Concat <axis = 0> (pair, s)", 5, ("x", 3)),
        ("s = Shape (x) y = Concat <axis = 0> (pair, s)", 6, None),
        ("s = Shape (x) y = Gather (s, picked)", 0, ("x", 2)),
        ("s = Shape (x) y = Gather (s, picked)", 1, ("x", 0)),
        ("s = Shape (x) g = Gather (s, single) y = Unsqueeze (g, axis)", 0, ("x", 2)),
        ("s = Shape (x) y = Gather (s, p)", 0, None),
        ("s = Shape (x) y = Slice (s, first, last)", 0, ("x", 1)),
        ("s = Shape (x) y = Slice (s, first, last)", 1, ("x", 2)),
        ("s = Shape (x) y = Slice (s, minus, back, axis, minus)", 1, ("x", 2)),
        ("s = Shape (x) q = ReduceSum (p) y = Slice (s, q, last)", 0, None),
        ("y = Slice (open, first, last)", 0, None),
        ("y = Gather (open, picked)", 0, None),
        ("s = Shape (x) y = Neg (s)", 0, None),
        ("y = Identity (pair)", 0, None),
    ],
)
def test_an_extent_without_arithmetic(body: str, position: int, found: tuple[str, int] | None) -> None:
    assert extent(body, position) == found
