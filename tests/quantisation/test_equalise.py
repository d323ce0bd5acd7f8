"""Channels made equally large: exact in float, wherever it may be done, and better in int8 where ranges differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.functions import FUNCTIONS, is_homogeneous
from onnxslim_yolo.passes.quantise import calibration
from onnxslim_yolo.quantisation import choose
from onnxslim_yolo.quantisation.equalise import WAYS, equalise, links_of
from onnxslim_yolo.quantisation.qdq import quantised_graph
from onnxslim_yolo.quantisation.ranges import observe
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx
from onnxslim_yolo.verify.ncnn_int8 import verify_int8_pair
from onnxslim_yolo.verify.quantised import verify_quantised
from tests.quantisation.test_quantise import built, images

__all__ = ["images"]

WILD = {
    "wild": (
        "float[16,3,3,3] w, float[16] b, float[16,1,3,3] d, float[16] e, float[6,16,1,1] v",
        "c = Conv<pads=[1,1,1,1]> (x, w, b) r = Relu (c) h = Conv<group=16, pads=[1,1,1,1]> (r, d, e)"
        " l = LeakyRelu<alpha=0.1> (h) p = MaxPool<kernel_shape=[2,2], strides=[2,2]> (l) y = Conv (p, v)",
    ),
    "wild, silu": (
        "float[16,3,3,3] w, float[16] b, float[16,1,3,3] d, float[16] e, float[6,16,1,1] v",
        "c = Conv<pads=[1,1,1,1]> (x, w, b) q = Sigmoid (c) r = Mul (c, q) h = Conv<group=16, pads=[1,1,1,1]> (r, d, e)"
        " z = Sigmoid (h) l = Mul (h, z) y = Conv (l, v)",
    ),
    "wild, read twice": (
        "float[16,3,3,3] w, float[16] b, float[8,16,1,1] d, float[8] e, float[6,8,1,1] v, float[6,16,1,1] o",
        "c = Conv<pads=[1,1,1,1]> (x, w, b) r = Relu (c) h = Conv (r, d, e) l = Relu (h) s = Conv (l, v)"
        " t = Conv (r, o) y = Add (s, t)",
    ),
    "wild, joined": (
        "float[16,3,3,3] w, float[16] b, float[6,19,1,1] v",
        "c = Conv<pads=[1,1,1,1]> (x, w, b) r = Relu (c) k = Concat<axis=1> (r, x) y = Conv (k, v)",
    ),
}
SPREAD = np.float32(2.0) ** np.random.default_rng(3).integers(-5, 6, 16)


def wild(body: str = "wild") -> Model:
    """A network whose channels have ranges of 1 to a thousand, that its readers make up for."""
    rng = np.random.default_rng(1)
    weights: dict[str, Array] = {
        "w": rng.standard_normal((16, 3, 3, 3)) / 5 * SPREAD.reshape(-1, 1, 1, 1),
        "b": rng.standard_normal(16) / 5 * SPREAD,
    }
    if body in ("wild", "wild, silu"):
        weights["d"] = rng.standard_normal((16, 1, 3, 3)) / 3
        weights["v"] = rng.standard_normal((6, 16, 1, 1)) / 4 / SPREAD.reshape(1, -1, 1, 1)
    if body == "wild, read twice":
        weights |= {
            k: rng.standard_normal((n, 16, 1, 1)) / 4 / SPREAD.reshape(1, -1, 1, 1) for k, n in (("d", 8), ("o", 6))
        }
    return built(body, bodies=WILD, **weights)


def links(model: Model, images: Path, way: str = "even") -> list[str]:
    seen = observe(model, [node.inputs[0].name for node in model.graph.nodes], calibration(images, model))
    found = links_of(model, {name: each.largest for name, each in seen.items()}, way)
    equalise(model, found)
    return [link.writer for link in found]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("body", ["wild", "wild, read twice"])
def test_the_float_network_computes_the_very_same(body: str, way: str, images: Path) -> None:
    model = wild(body)
    feeds = image_like_feeds(model, 3)
    before = run_onnx(model, feeds, optimise=False)
    weights = [node.inputs[1].values.copy() for node in model.graph.nodes if node.op == "Conv"]
    assert links(model, images, way) == ["Conv_0", "Conv_2"]
    assert any((old != node.inputs[1].values).any() for old, node in zip(weights, _convs(model), strict=True))
    for one, other in zip(before, run_onnx(model, feeds, optimise=False), strict=True):
        assert np.array_equal(one["y"], other["y"])


def _convs(model: Model) -> list[object]:
    return [node for node in model.graph.nodes if node.op == "Conv"]


def test_control_a_scale_that_one_side_lacks_is_seen(images: Path) -> None:
    model = wild()
    feeds = image_like_feeds(model, 1)
    before = run_onnx(model, feeds)[0]["y"]
    links(model, images)
    _convs(model)[1].inputs[1].values[:8] *= 2
    assert np.abs(run_onnx(model, feeds)[0]["y"] - before).max() > 1e-3 * before.std()


def test_channels_are_equally_large_behind_it(images: Path) -> None:
    model = wild()
    photographs = calibration(images, model)
    before = observe(model, ["r", "p"], photographs)
    links(model, images)
    after = observe(model, ["r", "p"], photographs)
    for name in ("r", "p"):
        sizes = [seen[name].largest for seen in (before, after)]
        ratios = [each.max() / each[each > 0].min() for each in sizes]
        assert ratios[0] > 100 and ratios[1] < 8


@pytest.mark.parametrize("body", ["wild, silu", "wild, joined", "float between"])
def test_not_through_what_is_not_homogeneous_or_mixes(body: str, images: Path) -> None:
    """A sigmoid, a map that others join, a bounded function."""
    model = wild(body) if body.startswith("wild") else built(body)
    assert links(model, images) == []


def test_channels_last_have_no_ranges_of_their_own() -> None:
    """What is observed is of axis 1, which are positions there; it ended in shapes that do not fit."""
    body = (
        "float[16,3,3,3] w, float[16,16] m, float[16,6] v",
        "c = Conv<pads=[1,1,1,1]> (x, w) t = Transpose<perm=[0,2,3,1]> (c) p = MatMul (t, m) r = Relu (p) "
        "q = MatMul (r, v) y = Transpose<perm=[0,3,1,2]> (q)",
    )
    assert not links_of(built("mlp", bodies={"mlp": body}), {"r": np.arange(1.0, 25.0)}, "even")


def test_which_functions_are_homogeneous() -> None:
    import onnx_graphsurgeon as gs

    found = {op for op in FUNCTIONS if is_homogeneous(gs.Node(op, "n"))}
    assert found == {"Relu", "LeakyRelu", "Abs", "Neg"}


def test_it_is_chosen_where_it_helps_and_only_there(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where ranges differ wildly it saves most of the error; with no way to equalise (the control) it is not saved."""
    model = wild()
    photographs = calibration(images, model)
    plan = choose.quantise(model, photographs)
    assert plan.links and plan.equalised in WAYS
    with monkeypatch.context() as patched:
        patched.setattr(choose, "WAYS", {})
        plain = choose.quantise(model, photographs)
    assert not plain.links and plan.error < 0.5 * plain.error
    equalise(model, plan.links)
    file = quantised_graph(model, plan).save(tmp_path / "m.onnx")
    assert verify_quantised(model, plan, file, image_like_feeds(model, 2)).failed is None
    model.quantised = plan
    pair = emit_ncnn(model)
    assert len(pair.int8) == 3
    verify_int8_pair(model, pair, write_pair(pair, tmp_path), image_like_feeds(model, 1))


@pytest.mark.parametrize("body", ["relu", "concat, pool, residual", "matmul", "wild, read twice"])
def test_it_never_loses_on_the_images(body: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = wild(body) if body.startswith("wild") else built(body)
    photographs = calibration(images, model)
    found = choose.quantise(model, photographs)
    monkeypatch.setattr(choose, "WAYS", {})
    assert found.error <= choose.quantise(model, photographs).error
