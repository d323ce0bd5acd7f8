"""Errors that add up over positions: what the graph computes against the layer itself, and maps of known answers."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.adjoint import carry_back
from onnxslim_yolo.analysis.adjoint_nodes import Adjoint, shape_of
from onnxslim_yolo.analysis.contraction import Contraction, contractions
from onnxslim_yolo.ir.graph import Array, copy_graph, replace_constant, toposort
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.calibration import Statistics, collect
from onnxslim_yolo.pruning.coherence import POWER, Residuals, with_coherence
from onnxslim_yolo.pruning.curvature import curvatures
from onnxslim_yolo.pruning.plan import open_plan
from tests.numeric import build, run_onnx
from tests.passes.cutting import onnx_text

LAYERS = {
    "a window": ("float[5,4,3,3] w", "y = Conv<pads=[1,0,1,1],strides=[2,1]>(a, w)"),
    "groups": ("float[6,2,3,3] w", "y = Conv<group=2,pads=[1,1,1,1]>(a, w)"),
    "dilated": ("float[5,4,3,3] w", "y = Conv<dilations=[2,2]>(a, w)"),
    "transposed": ("float[4,3,2,2] w", "y = ConvTranspose<strides=[2,2]>(a, w)"),
    "tokens": ("float[4,7] w", "t = Transpose<perm=[0,2,3,1]>(a) y = MatMul(t, w)"),
}

THREE = "float[3,3,1,1] f, float[5,3,1,1] w"


def network(layer: str) -> Model:
    """A convolution `a` in front of a layer `y`."""
    weight, text = LAYERS[layer]
    return build(
        onnx_text(
            "float[1,3,8,8] x", "float[p,q,r,s] y", f"float[4,3,1,1] f, {weight}", f"n = Conv(x, f) a = Relu(n) {text}"
        )
    )


def own_parts(residuals: Residuals, rows: Array) -> Array:
    """e of values (channels, positions): diag(P)⁻¹·P·(x − μ), group by group."""
    parts = rows.reshape(*residuals.mean.shape, -1) - residuals.mean[:, :, None]
    told = residuals.inverse @ parts
    diagonal = np.stack([np.diagonal(inverse) for inverse in residuals.inverse])
    return np.asarray((told / diagonal[:, :, None]).reshape(rows.shape))


def place_of(model: Model) -> Contraction:
    """The last layer, as a contraction."""
    return [place for place in contractions(open_plan(model).channels) if place.weighted][-1]


def images(count: int, rng: np.random.Generator) -> list[Array]:
    return [rng.standard_normal((1, 3, 8, 8)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_carried_is_what_the_layer_makes_of_each_channel_s_own_part(layer: str) -> None:
    model, rng = network(layer), np.random.default_rng(0)
    place = place_of(model)
    (statistics,) = collect(model, [place], images(8, rng), window=False)
    residuals = Residuals.of(place, statistics)
    assert residuals is not None
    x = images(1, rng)[0]
    # By the graph.
    graph = copy_graph(model.graph)
    node = next(n for n in graph.nodes if n.name == place.node.name)
    seed = gs.Variable("seed", np.float32, shape_of(graph.outputs[0]))
    u = rng.standard_normal(seed.shape).astype(np.float32)
    first = next(n for n in graph.nodes if n.op == "Conv")
    carried = carry_back(graph, {"y": seed}, [first.outputs[0].name])
    sums = residuals.sums(Adjoint(graph), node, carried.through[node.name])
    graph.outputs, graph.nodes = [sums], toposort(graph)
    (found,) = run_onnx(Model(graph=graph), {"x": x, "seed": u}).values()
    # By the layer itself, which is linear: its own part of one channel at a time in the layer's place.
    tensor = place.node.inputs[0]
    whole = model.copy()
    whole.graph.outputs = [gs.Variable(tensor.name, np.float32, tensor.shape)]
    (read,) = run_onnx(whole, {"x": x}).values()
    columns = np.moveaxis(read.astype(np.float64), place.axis, 0)
    rows = columns.reshape(len(columns), -1)
    own = own_parts(residuals, rows)
    for channel in range(len(own)):
        only = np.zeros_like(own)
        only[channel] = own[channel]
        fed = np.moveaxis(only.reshape(columns.shape), 0, place.axis).astype(np.float32)
        lone = model.copy()
        node = next(n for n in lone.graph.nodes if n.name == place.node.name)
        lone.graph.nodes = [node]
        lone.graph.inputs = [gs.Variable("fed", np.float32, fed.shape)]
        node.inputs[0] = lone.graph.inputs[0]
        (made,) = run_onnx(lone, {"fed": fed}).values()
        expected = float((made.astype(np.float64) * u).sum())
        assert float(found.reshape(-1)[channel]) == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert abs(expected) > 1e-2  # a control: nothing would not do


def test_own_parts_are_what_the_others_do_not_tell() -> None:
    """Of two channels that are the same and a third: nothing, nothing, and the third but for its mean."""
    model = build(onnx_text("float[1,3,4,4] x", "float[1,5,4,4] y", THREE, "a = Conv(x, f) y = Conv(a, w)"))
    x = np.random.default_rng(1).standard_normal((3, 4000))
    x[1] = x[0]
    x[2] += 5
    residuals = Residuals.of(place_of(model), Statistics(x.mean(axis=1), np.cov(x, bias=True), x.shape[1], 1))
    assert residuals is not None
    variance = residuals.variance[0]
    assert variance[0] < 0.02 > variance[1]
    assert variance[2] == pytest.approx(x[2].var(), rel=0.03)
    own = own_parts(residuals, x)
    np.testing.assert_allclose(own.var(axis=1), variance, rtol=1e-9)
    np.testing.assert_allclose(own.mean(axis=1), 0, atol=1e-9)


def ratio(patchy: bool) -> float:
    """r of a layer in front of a mean over positions: its input the same at all of them, or each for itself."""
    # The bias keeps the outputs' spread, by which errors are measured, alike from image to image.
    text = "a = Conv(x, f) b = Conv(a, w, c) y = GlobalAveragePool(b)"
    model = build(
        onnx_text("float[1,3,4,4] x", "float[1,5,1,1] y", f"{THREE}, float[5] c", text),
        values={"c": np.array([-200, -100, 0, 100, 200])},
    )
    rng, place = np.random.default_rng(2), place_of(model)
    some = [
        np.broadcast_to(rng.standard_normal((1, 3, 4, 4) if patchy else (1, 3, 1, 1)), (1, 3, 4, 4)).astype(np.float32)
        for _ in range(2000)
    ]
    (statistics,) = collect(model, [place], some, window=False)
    residuals = Residuals.of(place, statistics)
    assert residuals is not None
    name = place.node.name
    curvature, summed = curvatures(
        model, [n.name for n in model.graph.nodes if n.op == "Conv"], some, None, {name: residuals}
    )
    return float(summed[name].sum()) / residuals.one_by_one(curvature[name])


def test_errors_that_are_alike_everywhere_cost_as_many_times_as_there_are_positions() -> None:
    assert ratio(patchy=False) == pytest.approx(16, rel=0.15)
    assert ratio(patchy=True) == pytest.approx(1, rel=0.15)


def test_layers_that_were_not_measured_count_as_the_typical_one() -> None:
    model = network("a window")
    place = place_of(model)
    (statistics,) = collect(model, [place], images(8, np.random.default_rng(3)), window=False)
    residuals = Residuals.of(place, statistics)
    assert residuals is not None
    curvature = {"y": np.eye(5), "other": 2 * np.eye(4)}
    summed = {"y": np.full(4, residuals.one_by_one(np.eye(5)))}  # r = 4
    found = with_coherence(curvature, {"y": residuals}, summed)
    np.testing.assert_allclose(found["y"], 4**POWER * np.eye(5))
    np.testing.assert_allclose(found["other"], 2 * 4**POWER * np.eye(4))
    np.testing.assert_allclose(with_coherence(curvature, {}, {})["other"], curvature["other"])


def test_a_layer_whose_weight_is_not_constant_has_none() -> None:
    model = network("a window")
    place = place_of(model)
    (statistics,) = collect(model, [place], images(2, np.random.default_rng(4)), window=False)
    replace_constant(place.node, 1, np.zeros((5, 4, 3, 3), np.float32))
    place.node.inputs[1] = gs.Variable("w", np.float32, (5, 4, 3, 3))
    assert Residuals.of(place, statistics) is None
