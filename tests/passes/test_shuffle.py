"""shuffle-to-gather: every spelling of a channel permutation, and what is none."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.passes import ShuffleToGather, shuffle
from tests.numeric import assert_same, build, check_declines, ops, rewritten
from tests.passes.cutting import onnx_text
from tests.passes.test_slice import SHUFFLES

ORDERS = {
    "reshape": [0, 4, 1, 5, 2, 6, 3, 7],
    "reshape-flat": [0, 4, 1, 5, 2, 6, 3, 7],
    "batch-merged": [0, 2, 4, 6, 1, 3, 5, 7],
    "strided": [0, 2, 4, 6, 1, 3, 5, 7],
}


@pytest.mark.parametrize("spelling", ORDERS)
@pytest.mark.parametrize("batch", ["2", "N"])
def test_spellings(spelling: str, batch: str) -> None:
    weights, body = SHUFFLES[spelling].split("|")
    weights = weights.replace("BATCH", "0")
    text = onnx_text(f"float[{batch},8,8,8] x", "float[a,b,c,d] y", weights, f"h = Relu(x) {body} y = Neg(k)")
    source = build(text)
    after = rewritten(source, ShuffleToGather(), rewrites=1 if spelling.startswith("reshape") else 2)
    assert set(ops(after)) <= {"Relu", "Gather", "Concat", "Neg"}
    assert_same(source, after)
    taken = [node.inputs[1].values for node in after.graph.nodes if node.op == "Gather"]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.concatenate(taken), ORDERS[spelling])


NO_SHUFFLES = {
    "pixels-change-places": (
        "s = Reshape(h, split) t = Transpose<perm=[0,1,3,2,4]>(s) y = Reshape(t, join)",
        "a,b,c,d",
    ),
    "only-flattens-space": ("y = Reshape(h, flat)", "a,b,c"),
    "heads": ("s = Reshape(h, split) y = Transpose<perm=[0,2,1,3,4]>(s)", "a,b,c,d,e"),
}


@pytest.mark.parametrize("name", NO_SHUFFLES)
def test_what_is_no_shuffle(name: str) -> None:
    body, rank = NO_SHUFFLES[name]
    weights = "int64[5] split = {2, 2, 4, 8, 8}, int64[4] join = {2, 8, 8, 8}, int64[3] flat = {2, 8, 64}"
    model = build(onnx_text("float[2,8,8,8] x", f"float[{rank}] y", weights, f"h = Relu(x) {body}"))
    check_declines(model, ShuffleToGather())


PARTS = {
    "both parts go on": ("y = Concat<axis=1>(q, p)", "", 2),
    "a part is an output": ("y = Neg(q)", ", float[1,4,8,8] p", 1),
    "both parts are outputs": ("y = Neg(h)", ", float[1,4,8,8] p, float[1,4,8,8] q", 0),
}


@pytest.mark.parametrize("case", PARTS)
def test_parts_of_a_split(case: str) -> None:
    """Halves of the channels by way of the batch: what is returned stays as it is, and is not counted."""
    body, outputs, made = PARTS[case]
    weights = "int64[4] s = {2,4,8,8}, int64[2] n = {1,1}"
    split = "h = Relu(x) k = Reshape(h, s) p, q = Split<axis=0>(k, n)"
    source = build(onnx_text("float[1,8,8,8] x", f"float[a,b,c,d] y{outputs}", weights, f"{split} {body}"))
    after = rewritten(source, ShuffleToGather(), rewrites=made)
    assert ops(after).count("Gather") == made
    assert_same(source, after)


MORE = """int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}, int64[1] ten = {10},
    int64[2] matrix = {8, 64}, int64[4] merge = {2, 4, 8, 8}, int64[5] split = {1, 2, 4, 8, 8},
    int64[4] join = {1, 8, 8, 8}, int64[5] halves = {4, 2, 4, 8, 8}, int64[4] whole = {4, 8, 8, 8}"""


@pytest.mark.parametrize(
    "batch, body",
    [
        (1, "r = Reshape(h, matrix) t = Transpose<perm=[1,0]>(r) y = Neg(t)"),  # a batch of one is dropped
        (1, "y = Slice(h, zero, ten, two, two)"),  # every other row
        (1, "y = Slice(h, zero, four, one, one)"),  # the first half
        (1, "s = Reshape(h, split) a = Neg(s) t = Transpose<perm=[0,2,1,3,4]>(a) y = Reshape(t, join)"),
        (4, "s = Reshape(h, halves) t = Transpose<perm=[1,0,2,3,4]>(s) y = Reshape(t, whole)"),  # across images
        (1, "r = Reshape(h, merge) y = Neg(r)"),
    ],
)
def test_what_looks_like_one_is_left_alone(batch: int, body: str) -> None:
    rank = "a,b" if "matrix" in body else "a,b,c,d"
    text = onnx_text(f"float[{batch},8,8,8] x", f"float[{rank}] y", MORE, f"h = Relu(x) {body}")
    check_declines(build(text), ShuffleToGather())


def test_a_map_of_one_channel_has_nothing_to_change_places() -> None:
    body = "h = Relu(x) s = Reshape(h, split) t = Transpose<perm=[0,2,1,3,4]>(s) y = Reshape(t, join)"
    weights = "int64[5] split = {2, 1, 1, 8, 8}, int64[4] join = {2, 1, 8, 8}"
    check_declines(build(onnx_text("float[2,1,8,8] x", "float[a,b,c,d] y", weights, body)), ShuffleToGather())


def test_of_channels_that_are_taken_backwards() -> None:
    weights = "int64[1] last = {-1}, int64[1] before = {-100}, int64[1] maps = {1}, int64[1] back = {-1}"
    body = "h = Relu(x) k = Slice(h, last, before, maps, back) y = Neg(k)"
    source = build(onnx_text("float[1,5,4,4] x", "float[a,b,c,d] y", weights, body))
    after = rewritten(source, ShuffleToGather(), rewrites=1)
    assert_same(source, after)
    (gather,) = [node for node in after.graph.nodes if node.op == "Gather"]
    assert gather.inputs[1].values.tolist() == [4, 3, 2, 1, 0] and gather.attrs["axis"] == 1  # type: ignore[attr-defined]


def test_a_map_that_is_too_large_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    text = onnx_text(
        "float[1,4,4,4] x", "float[a,b,c,d] y", "int64[5] s = {1, 2, 2, 4, 4}, int64[4] j = {1, 4, 4, 4}",
        "h = Relu(x) r = Reshape(h, s) t = Transpose<perm=[0,2,1,3,4]>(r) y = Reshape(t, j)",
    )  # fmt: skip
    monkeypatch.setattr(shuffle, "_ELEMENTS", 63)
    check_declines(build(text), ShuffleToGather())
    monkeypatch.setattr(shuffle, "_ELEMENTS", 64)
    rewritten(build(text), ShuffleToGather(), rewrites=1)


def test_a_part_that_nobody_reads_is_not_made() -> None:
    body = "h = Relu(x) k = Reshape(h, s) p, q = Split<axis=0>(k, n) y = Neg(q)"
    weights = "int64[4] s = {2,4,8,8}, int64[2] n = {1,1}"
    source = build(onnx_text("float[1,8,8,8] x", "float[a,b,c,d] y", weights, body))
    assert_same(source, rewritten(source, ShuffleToGather(), rewrites=1))
