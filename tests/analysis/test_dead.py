"""Dead channels: each reason on its own, and what only looks dead."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.dead import along, dead_channels
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.passes import AbsorbConstants, PruneChannels, SliceChannels
from tests.analysis.graphs import Labelled, onnx_text
from tests.numeric import assert_same
from tests.passes.cutting import run

NORM = "n.gamma, n.beta, n.mean, n.var"
WEIGHTS = "float[4,3,1,1] a.weight, float[4] a.bias, " + ", ".join(f"float[4] {name}" for name in NORM.split(", "))
Z, Z1, ZT = "float[2,4,3,3] z", "float[2,4,1,1] z", "float[4,2,2,2] z"
LIVE = np.array([1.0, 0.5, 2.0, 0.7])


def but(index: int, value: float) -> Array:
    changed = LIVE.copy()
    changed[index] = value
    return changed


def zeroed(shape: tuple[int, ...], index: tuple[object, ...]) -> Array:
    values = np.random.default_rng(0).standard_normal(shape)
    values[index] = 0
    return values


FIRST = "a = Conv(x, a.weight, a.bias)"
NORMED = f"{FIRST} b = BatchNormalization(a, {NORM})"
ZERO_NORM = {"n.gamma": but(2, 0), "n.beta": but(2, 0)}
CONSTANT_NORM = {"n.gamma": but(2, 0)}

CASES: dict[str, tuple[str, str, dict[str, Array], list[int]]] = {
    "zero-norm-relu": (Z, f"{NORMED} h = Relu(b) y = Conv<pads=[1,1,1,1]>(h, z)", ZERO_NORM, [2]),
    "zero-norm-silu": (Z, f"{NORMED} s = Sigmoid(b) h = Mul(b, s) y = Conv<pads=[1,1,1,1]>(h, z)", ZERO_NORM, [2]),
    "zero-norm-sigmoid-padded": (Z, f"{NORMED} h = Sigmoid(b) y = Conv<pads=[1,1,1,1]>(h, z)", ZERO_NORM, []),
    "zero-norm-sigmoid": (Z, f"{NORMED} h = Sigmoid(b) y = Conv(h, z)", ZERO_NORM, [2]),
    "negative-constant-relu": (
        Z,
        f"{NORMED} h = Relu(b) y = Conv<pads=[1,1,1,1]>(h, z)",
        {"n.gamma": but(2, 0), "n.beta": but(2, -3)},
        [2],
    ),
    "constant": (Z, f"{NORMED} h = Relu(b) y = Conv(h, z)", CONSTANT_NORM, [2]),
    "constant-padded": (Z, f"{NORMED} h = Relu(b) y = Conv<pads=[1,1,1,1]>(h, z)", CONSTANT_NORM, []),
    "constant-same": (Z, f'{NORMED} h = Relu(b) y = Conv<auto_pad="SAME_UPPER">(h, z)', CONSTANT_NORM, []),
    "constant-valid": (Z, f'{NORMED} h = Relu(b) y = Conv<auto_pad="VALID">(h, z)', CONSTANT_NORM, [2]),
    "constant-transposed": (ZT, f"{NORMED} h = Relu(b) y = ConvTranspose(h, z)", CONSTANT_NORM, []),
    "zero-transposed": (ZT, f"{NORMED} h = Relu(b) y = ConvTranspose(h, z)", ZERO_NORM, [2]),
    "zero-norm-maximum": ("float[2,1,1,1] z", f"{NORMED} h = ReduceMax<axes=[1]>(b) y = Conv(h, z)", ZERO_NORM, [2]),
    "constant-maximum": ("float[2,1,1,1] z", f"{NORMED} h = ReduceMin<axes=[1]>(b) y = Conv(h, z)", CONSTANT_NORM, []),
    "zero-norm-over-columns": (f"{Z1}, float[6,2] m", f"{NORMED} h = MatMul(b, m) y = Conv(h, z)", ZERO_NORM, [2]),
    "zero-norm-over-positions": (
        f"int64[3] f = {{0,0,-1}}, float[36,5] m, int64[1] three = {{3}}, {Z1}",
        f"{NORMED} t = Reshape(b, f) k = MatMul(t, m) h = Unsqueeze(k, three) y = Conv(h, z)",
        ZERO_NORM,
        [2],
    ),
    "zero-norm-group": (
        f"int64[3] f = {{0,2,-1}}, int64[4] g = {{0,4,6,6}}, float[2] i.gamma, float[2] i.beta, {Z1}",
        f"{NORMED} t = Reshape(b, f) h = InstanceNormalization(t, i.gamma, i.beta) u = Reshape(h, g) y = Conv(u, z)",
        {"n.gamma": np.array([1.0, 0.5, 0, 0]), "n.beta": np.array([0.3, 0.2, 0, 0])},
        [2, 3],
    ),
    "zeroed-filter": (
        Z,
        f"{FIRST} h = Relu(a) y = Conv<pads=[1,1,1,1]>(h, z)",
        {"a.weight": zeroed((4, 3, 1, 1), (1,)), "a.bias": but(1, 0)},
        [1],
    ),
    "zeroed-filter-bias": (
        Z,
        f"{FIRST} h = Relu(a) y = Conv<pads=[1,1,1,1]>(h, z)",
        {"a.weight": zeroed((4, 3, 1, 1), (1,))},
        [],
    ),
    "zeroed-reader": (
        Z,
        f"{FIRST} h = Relu(a) y = Conv<pads=[1,1,1,1]>(h, z)",
        {"z": zeroed((2, 4, 3, 3), (slice(None), 3))},
        [3],
    ),
    "one-of-two-readers": (
        f"{Z}, float[2,4,3,3] v",
        f"{FIRST} h = Relu(a) p = Conv(h, z) q = Conv(h, v) y = Add(p, q)",
        {"z": zeroed((2, 4, 3, 3), (slice(None), 3))},
        [],
    ),
    "unread": (
        "float[2,3,1,1] z, int64[1] from = {0}, int64[1] to = {3}, int64[1] one = {1}",
        f"{FIRST} h = Slice(a, from, to, one) y = Conv(h, z)",
        {},
        [3],
    ),
    "one-of-two-in-a-sum": (
        f"{Z1}, float[4,3,1,1] c.weight",
        f"{NORMED} c = Conv(x, c.weight) h = Add(b, c) y = Conv(h, z)",
        ZERO_NORM,
        [],
    ),
    "depthwise-between": (
        f"float[4,1,3,3] d, {Z1}",
        f"{NORMED} h = Relu(b) e = Conv<group=4, pads=[1,1,1,1]>(h, d) y = Conv(e, z)",
        ZERO_NORM,
        [2],
    ),
    "zeroed-depthwise": (
        f"float[4,1,3,3] d, {Z1}",
        f"{FIRST} e = Conv<group=4, pads=[1,1,1,1]>(a, d) y = Conv(e, z)",
        {"d": zeroed((4, 1, 3, 3), (0,))},
        [0],
    ),
    "closed-gate": (
        f"float[4,3,1,1] e.weight, {Z1}",
        f"{NORMED} c = Conv(x, e.weight) m = GlobalAveragePool(c) h = Mul(b, m) y = Conv(h, z)",
        ZERO_NORM,
        [2],
    ),
    "length-over-channels": (
        f"{Z}, float floor = {{0.001}}",
        f"{NORMED} h = Relu(b) n = ReduceL2<axes=[1]>(h) m = Clip(n, floor) q = Div(h, m) y = Conv(q, z)",
        ZERO_NORM,
        [2],
    ),
    "length-that-may-be-zero": (  # 0 / 0 is not 0
        Z,
        f"{NORMED} h = Relu(b) n = ReduceL2<axes=[1]>(h) q = Div(h, n) y = Conv(q, z)",
        ZERO_NORM,
        [],
    ),
    "mean-over-space": (
        "float[4,2] z",
        f"{NORMED} h = Relu(b) m = ReduceMean<axes=[2,3], keepdims=0>(h) y = MatMul(m, z)",
        ZERO_NORM,
        [2],
    ),
    "output": ("", f"{NORMED} y = Relu(b)", ZERO_NORM, []),
    "live": (Z, f"{NORMED} h = Relu(b) y = Conv(h, z)", {}, []),
}


@pytest.mark.parametrize("case", CASES)
def test_reasons(case: str) -> None:
    weights, body, values, expected = CASES[case]
    outputs = "float[p,q] y" if "MatMul" in body and "Conv(h" not in body else "float[p,q,r,s] y"
    text = onnx_text("float[1,3,6,6] x", outputs, f"{WEIGHTS}, {weights}" if weights else WEIGHTS, body)
    g = Labelled(text, {"n.gamma": LIVE, "n.beta": LIVE, "a.bias": LIVE, "n.var": np.ones(4)} | values)
    dead = dead_channels(g.channels, moments_of(g.model.graph, g.channels.shapes))
    assert np.flatnonzero(dead[g["a"]]).tolist() == expected
    after = run(g.model, PruneChannels(), AbsorbConstants(scope="exact"), SliceChannels())
    assert_same(g.model, after)
    sizes = {t.name: t.shape for t in after.graph.tensors().values()}
    assert sizes["a.weight"][0] == 4 - len(expected)  # type: ignore[index]


def test_along() -> None:
    values = np.array([[1.0, 1.0], [2.0, 3.0]])
    np.testing.assert_array_equal(along(values, 0, 2), [1, np.nan])
    np.testing.assert_array_equal(along(np.array([[True, True], [True, False]]), 0, 2), [True, False])
    np.testing.assert_array_equal(along(np.full((1, 1, 1), 5.0), 1, 3), [5, 5, 5])
    np.testing.assert_array_equal(along(np.arange(3.0).reshape(1, 3), -1, 3), [0, 1, 2])
