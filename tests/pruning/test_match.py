"""Matching moments: which layers, their moments by numpy, what is corrected, and the network run in stages."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.match import (
    LARGEST_SCALE,
    _correction,
    _moments,
    _Stages,
    corrections,
    matchable,
    output_moments,
)
from tests.numeric import build, run_onnx
from tests.passes.cutting import onnx_text

WEIGHTS = """float[6,3,1,1] a.weight, float[6,6,1,1] b.weight, float[6] n.gamma, float[6] n.beta, float[6] n.mean,
    float[6] n.var, float[4,6,1,1] y.weight, float[3] line, float[6,4] m.weight, int64[3] rows = {1, 6, -1},
    int64[2] flat = {1, -1}, float[384,5] g.weight, float[6] zero"""


def network(body: str, outputs: str = "float[i,j,k,l] y", side: int = 8) -> Model:
    return build(onnx_text(f"float[1,3,{side},{side}] x", outputs, WEIGHTS, body, 17))


NORM = "a = Conv(x, a.weight) n = BatchNormalization(a, n.gamma, n.beta, n.mean, n.var)"
TOKENS = "a = Conv(x, a.weight) r = Reshape(a, rows) t = Transpose<perm=[0,2,1]>(r)"


@pytest.mark.parametrize(
    "body, outputs, found",
    [
        (f"{NORM} y = Conv(n, y.weight)", "float[i,j,k,l] y", ["BatchNormalization", "Conv"]),
        (f"{NORM} s = Add(a, n) y = Conv(s, y.weight)", "float[i,j,k,l] y", ["Conv", "Conv"]),
        (
            "a = Conv(x, a.weight) g = Neg(n.gamma) y = BatchNormalization(a, g, n.beta, n.mean, n.var)",
            "float[i,j,k,l] y",
            ["Conv"],
        ),
        (f"{TOKENS} y = MatMul(t, m.weight)", "float[i,j,k] y", ["Conv", "MatMul"]),
        (f"{TOKENS} y = MatMul(t, r)", "float[i,j,k] y", ["Conv"]),
        (f"{TOKENS} y = MatMul(t, n.gamma)", "float[i,j] y", ["Conv"]),
        ("a = Conv(x, a.weight) f = Reshape(a, flat) y = Gemm(f, g.weight)", "float[i,j] y", ["Conv", "Gemm"]),
        ("y = ConvTranspose(x, line4)", "float[i,j,k,l] y", ["ConvTranspose"]),
    ],
)
def test_layers_with_a_constant_matrix_or_the_norms_behind_them(body: str, outputs: str, found: list[str]) -> None:
    text = onnx_text("float[1,3,8,8] x", outputs, f"{WEIGHTS}, float[3,2,1,1] line4", body, 17)
    assert [node.op for node in matchable(build(text))] == found


def seen(model: Model, count: int = 3) -> list[Array]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(model.graph.inputs[0].shape).astype(np.float32) for _ in range(count)]


def values(model: Model, name: str, images: list[Array]) -> list[Array]:
    tapped = model.copy()
    tapped.graph.outputs = [t for node in tapped.graph.nodes for t in node.outputs if t.name == name]
    return [run_onnx(tapped, {"x": image})[name].astype(np.float64) for image in images]


@pytest.mark.parametrize("side", [8, 48])
def test_moments_are_those_of_every_channel_over_the_positions(side: int) -> None:
    """Of 48 by 48 positions every third row, from the second on; of 2304 tokens every third."""
    model = network(f"{TOKENS} y = MatMul(t, m.weight)", "float[i,j,k] y", side)
    images = seen(model)
    found = output_moments(model, matchable(model), images)
    conv, product = matchable(model)
    maps = np.concatenate(values(model, "a", images))
    maps = maps if side == 8 else maps[:, :, 1::3]
    assert found[conv.name][0] == pytest.approx(maps.mean(axis=(0, 2, 3)), abs=1e-5)
    assert found[conv.name][1] == pytest.approx(maps.var(axis=(0, 2, 3)), rel=1e-4)
    rows = np.concatenate(values(model, "y", images))
    rows = rows if side == 8 else rows[:, 1::3]
    assert found[product.name][0] == pytest.approx(rows.mean(axis=(0, 1)), abs=1e-5)
    assert found[product.name][1] == pytest.approx(rows.var(axis=(0, 1)), rel=1e-4)


def test_moments_of_a_vector_are_those_of_its_only_axis() -> None:
    """A router's layer behind a mean over everything: axis 0 was taken for none, and axis 1 for channels (exit 3)."""
    model = network(
        "a = Conv(x, a.weight) v = ReduceMean<axes=[0,2,3], keepdims=0>(a) y = MatMul(v, m.weight)", "float[i] y"
    )
    images = seen(model)
    mean, variance = output_moments(model, matchable(model), images)[matchable(model)[1].name]
    rows = np.stack(values(model, "y", images))
    assert mean == pytest.approx(rows.mean(axis=0), abs=1e-5) and variance == pytest.approx(rows.var(axis=0), rel=1e-3)


def test_moments_from_sums_of_several_images() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((n, 4)) + 3 for n in (5, 9)]
    sums = [np.stack([p.sum(axis=0), (p**2).sum(axis=0), np.full(4, len(p))]) for p in parts]
    mean, variance = _moments(sums)
    assert mean == pytest.approx(np.concatenate(parts).mean(axis=0))
    assert variance == pytest.approx(np.concatenate(parts).var(axis=0))
    assert _moments([np.array([[3.0], [0.9], [10.0]])])[1].tolist() == [0.0]


def pair(mean: float, variance: float) -> tuple[Array, Array]:
    return np.array([mean, 0.0]), np.array([variance, 1.0])


def test_what_is_as_it_was_is_not_corrected() -> None:
    assert _correction("n", pair(0, 1), pair(0, 1)) is None
    assert _correction("n", pair(0, 1), pair(5e-5, 1 + 5e-5)) is None
    for moved in (pair(2e-4, 1), pair(0, 1.001)):
        found = _correction("n", pair(0, 1), moved)
        assert found is not None and found.node == "n"
        assert found.scale**2 == pytest.approx(moved[1], rel=1e-5) and found.shift == pytest.approx(moved[0], abs=1e-6)


@pytest.mark.parametrize("variance, scale", [(1e-3, LARGEST_SCALE), (1e3, 1 / LARGEST_SCALE), (0.25, 2.0)])
def test_the_scale_has_bounds_and_the_mean_is_met_anyway(variance: float, scale: float) -> None:
    found = _correction("n", pair(0.5, variance), pair(2.0, 1.0))
    assert found is not None and found.scale == pytest.approx([scale, 1.0], rel=1e-4)
    assert found.scale[0] * 0.5 + found.shift[0] == pytest.approx(2.0)


def test_later_layers_are_corrected_on_what_the_corrected_ones_yield() -> None:
    """Both layers were scaled: where the first is corrected, the second has its own factor left, not both."""
    model = network("a = Conv(x, a.weight) b = Conv(a, b.weight) y = Conv(b, y.weight)")
    images = seen(model)
    wanted = output_moments(model, matchable(model), images)
    other = model.copy()
    for node, factor in zip(other.graph.nodes, (0.5, 0.8, 1.0), strict=True):
        node.inputs[1].values = node.inputs[1].values * np.float32(factor)
    found = corrections(other, wanted, images)
    assert [one.node for one in found] == [node.name for node in other.graph.nodes[:2]]
    assert found[0].scale == pytest.approx(np.full(6, 2.0), rel=1e-4)
    assert found[1].scale == pytest.approx(np.full(6, 1.25), rel=1e-4)
    names = [node.name for node in other.graph.nodes]
    assert [one.node for one in corrections(other, {names[1]: wanted[names[1]]}, images)] == [names[1]]


SKIP = "a = Conv(x, a.weight) b = Relu(a) c = Conv(b, b.weight) s = Add(a, c) y = Conv(s, y.weight)"


def test_values_are_kept_as_long_as_something_reads_them() -> None:
    model = network(SKIP)
    images, nodes = seen(model), {node.outputs[0].name: node for node in model.graph.nodes}
    stages = _Stages(model, images)
    for name, kept in (("a", {"a"}), ("c", {"a", "c"}), ("y", {"y"})):
        found = stages.run_to(nodes[name])
        assert [one == pytest.approx(v, abs=1e-5) for one, v in zip(found, values(model, name, images), strict=True)]
        assert set(stages._values) == kept
    stages = _Stages(model, images)
    for one in stages.run_to(nodes["a"]):
        one *= 0
    assert all(not one.any() for one in stages.run_to(nodes["c"])), "later stages read the very arrays"


def test_what_onnxruntime_refuses_is_named() -> None:
    model = network(SKIP)
    stages = _Stages(model, [np.zeros((1, 4, 8, 8), np.float32)])
    with pytest.raises(VerificationError, match=f"while running '{model.graph.nodes[0].name}'"):
        stages.run_to(model.graph.nodes[0])
