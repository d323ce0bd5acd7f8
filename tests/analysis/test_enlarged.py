"""Pointwise convolutions that read enlarged maps: where they are found, which channels, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.enlarged import beside, enlarged_inputs
from onnxslim_yolo.ir.model import Model
from tests.analysis.graphs import onnx_text
from tests.numeric import build

WEIGHTS = """float[4,3,1,1] a.weight, float[5,3,1,1] b.weight, float[0] roi, float[4] twice = {1, 1, 2, 2},
    float[4] half = {1, 1, 0.5, 0.5}, float[4] more = {1, 2, 2, 2}, float[4] tall = {1, 1, 3, 1},
    float[4] images = {2, 1, 2, 2}, int64[4] sixteen = {1, 4, 16, 16}, float[2,4,1,1] y.weight, float[2] y.bias,
    float[2,4,3,3] wide, float[2,2,1,1] g.weight, float[2,9,1,1] j.weight, float[3,9,1,1] k.weight,
    float[2,4,3,1] high, float[1,4,8,8] still, float[2,8,1,1] d.weight, float[2,8,1,1] m.weight,
    float[4] one = {1, 1, 1, 1}"""
UP = 'a = Conv(x, a.weight) u = Resize<mode="nearest">(a, roi, twice)'
SIDE = "v = MaxPool<kernel_shape=[1,1]>(large) b = Conv(v, b.weight)"
READ = "y = Conv(u, y.weight, y.bias)"


def graph(body: str, size: str = "8,8", outputs: str = "", batch: str = "1") -> Model:
    large = ", float[1,3,16,16] large" if "large" in body else ""
    text = onnx_text(f"float[{batch},3,{size}] x{large}", f"float[i,j,k,l] y{outputs}", WEIGHTS, body, 18)
    return build(text)


def found(model: Model) -> dict[str, list[tuple[int, int, float]]]:
    """By the name of the weight: first channel, end, share."""
    names = {id(node): node.inputs[1].name for node in model.graph.nodes if node.op == "Conv"}
    return {
        names[key]: [(part.start, part.stop, part.share) for part in parts]
        for key, parts in enlarged_inputs(model.graph).items()
    }


ALONE = {"y.weight": [(0, 4, 0.25)]}


@pytest.mark.parametrize(
    "body, parts",
    [
        (f"{UP} {READ}", ALONE),
        (f"{UP} y = Conv(u, y.weight)", ALONE),
        (UP.replace("twice", "tall") + f" {READ}", {"y.weight": [(0, 4, 1 / 3)]}),
        (UP.replace("roi, twice", "roi, , sixteen") + f" {READ}", ALONE),
        (UP.replace("nearest", "linear") + f" {READ}", ALONE),
        (UP.replace("nearest", "cubic") + f" {READ}", ALONE),
        (f"{SIDE} {UP} c = Concat<axis=1>(u, b) y = Conv(c, j.weight)", {"j.weight": [(0, 4, 0.25)]}),
        (f"{SIDE} {UP} c = Concat<axis=1>(b, u) y = Conv(c, j.weight)", {"j.weight": [(5, 9, 0.25)]}),
        (f"{UP} c = Concat<axis=-3>(u, u) y = Conv(c, d.weight)", {"d.weight": [(0, 4, 0.25), (4, 8, 0.25)]}),
    ],
)
def test_what_is_read_enlarged(body: str, parts: dict[str, list[tuple[int, int, float]]]) -> None:
    result = found(graph(body))
    assert {key: sorted(set(spans)) for key, spans in result.items()} == parts


def test_of_two_convolutions_each_reads_it() -> None:
    model = graph(f"{UP} p = Conv(u, y.weight, y.bias) q = Conv(u, y.weight) y = Add(p, q)")
    assert len(enlarged_inputs(model.graph)) == 2 and found(model) == ALONE


@pytest.mark.parametrize(
    "body, outputs",
    [
        (f"{UP} {READ}", ", float[m,n,o,p] u"),
        (f"{UP} {READ} z = Relu(u)", ", float[m,n,o,p] z"),
        (f"{UP} y = Conv(u, wide)", ""),
        (f"{UP} y = Conv<strides=[2,2]>(u, y.weight)", ""),
        (f"{UP} y = Conv<pads=[1,1,1,1]>(u, y.weight)", ""),
        (f"{UP} y = Conv<group=2>(u, g.weight)", ""),
        (f"{UP} y = Conv(u, high)", ""),
        (UP.replace("(a,", "(still,") + f" {READ}", ""),
        (UP.replace("roi", "r").replace("u =", "r = Relu(roi) u =") + f" {READ}", ""),
        (f"{UP} w = Relu(y.weight) y = Conv(u, w)", ""),
        (f"{UP} w = Relu(y.bias) y = Conv(u, y.weight, w)", ""),
        (f"{UP} y = Relu(u)", ""),
        (UP.replace("twice", "half") + f" {READ}", ""),
        (UP.replace("twice", "one") + f" {READ}", ""),
        (UP.replace("twice", "more") + " y = Conv(u, m.weight)", ""),
        (UP.replace("twice", "images") + f" {READ}", ""),
        (UP.replace('mode="nearest"', 'mode="linear", coordinate_transformation_mode="tf_crop_and_resize"').replace(
            "roi", "box") + f" {READ}", ""),
        (UP.replace('mode="nearest"', 'mode="linear", keep_aspect_ratio_policy="not_larger"').replace(
            "roi, twice", "roi, , sixteen") + f" {READ}", ""),
        (UP.replace("(a, roi, twice)", "(a, roi, s)").replace("u =", "s = Relu(twice) u =") + f" {READ}", ""),
        (f"{UP} c = Concat<axis=2>(u, u) y = Conv(c, y.weight)", ""),
        (f"{UP} c = Concat<axis=1>(u, u) y = Conv(c, d.weight) z = Relu(c)", ", float[m,n,o,p] z"),
        (f"{UP} c = Concat<axis=1>(u, u) y = Conv(c, d.weight)", ", float[m,n,o,p] c"),
    ],
)  # fmt: skip
def test_what_is_left_alone(body: str, outputs: str) -> None:
    model = build(
        onnx_text(
            "float[1,3,8,8] x", f"float[i,j,k,l] y{outputs}", f"{WEIGHTS}, float[8] box = {{0,0,0,0,1,1,1,1}}", body, 18
        )
    )
    assert found(model) == {}


@pytest.mark.parametrize(
    "scaled, expected", [("roi, twice", ALONE), ("roi, tall", {"y.weight": [(0, 4, 1 / 3)]}), ("roi, , sixteen", {})]
)
def test_of_sizes_that_are_not_known_scales_tell(
    scaled: str, expected: dict[str, list[tuple[int, int, float]]]
) -> None:
    body = UP.replace("roi, twice", scaled)
    result = found(graph(f"{body} {READ}", "h,w", batch="n"))
    assert result == {key: [(a, b, pytest.approx(c)) for a, b, c in parts] for key, parts in expected.items()}


@pytest.mark.parametrize("batch, becomes", [("n", "m"), ("n", 2), ("1", "m")])
def test_of_other_names_for_a_batch(batch: str, becomes: str | int) -> None:
    model = graph(f"{UP} {READ}", batch=batch)
    resize = next(node for node in model.graph.nodes if node.op == "Resize")
    resize.outputs[0].shape = [becomes, *resize.outputs[0].shape[1:]]
    assert found(model) == ALONE


def test_of_one_side_that_is_not_known_scales_tell() -> None:
    assert found(graph(f"{UP} {READ}", "h,8")) == ALONE == found(graph(f"{UP} {READ}", "8,w"))


@pytest.mark.parametrize("at", ["input", "output"])
def test_of_a_side_that_is_known_on_one_end_alone(at: str) -> None:
    model = graph(f"{UP} {READ}")
    resize = next(node for node in model.graph.nodes if node.op == "Resize")
    tensor = resize.inputs[0] if at == "input" else resize.outputs[0]
    tensor.shape = [1, 4, "h", tensor.shape[3]]
    assert found(model) == ALONE


def test_of_rows_and_of_nothing_less() -> None:
    """One spatial axis is a map, in a Concat as well; none is not."""
    weights = "float[2,6,1] w, float[3] s = {1, 1, 2}, float[2,3] m, float[2] d = {1, 2}"
    body = 'u = Resize<mode="nearest">(x, , s) c = Concat<axis=1>(u, u) y = Conv(c, w)'
    rows = build(onnx_text("float[1,3,8] x", "float[i,j,k] y", weights, body, 18))
    assert found(rows) == {"w": [(0, 3, 0.5), (3, 6, 0.5)]}
    resize = rows.graph.nodes[0]
    for tensor in (resize.inputs[0], resize.outputs[0]):
        tensor.shape = tensor.shape[1:]
    assert found(rows) == {}


@pytest.mark.parametrize(
    "shape, known", [(None, False), ([1], False), ([1, "c", 16, 16], False), ([1, 5, "h", "w"], True)]
)
def test_channels_beside_that_are_not_known(shape: list[int | str] | None, known: bool) -> None:
    model = graph(f"{SIDE} {UP} c = Concat<axis=1>(b, u) y = Conv(c, j.weight)")
    model.graph.tensors()["b"].shape = shape
    assert found(model) == ({"j.weight": [(5, 9, 0.25)]} if known else {})


@pytest.mark.parametrize("shape", [None, [1, "c", 16, 16], [1, 4, 16], [1, 8, 16, 16], [2, 4, 16, 16]])
def test_of_maps_that_are_not_known(shape: list[int | str] | None) -> None:
    model = graph(f"{UP} {READ}")
    resize = next(node for node in model.graph.nodes if node.op == "Resize")
    resize.outputs[0].shape = shape
    assert found(model) == {}


def test_what_stands_beside_it() -> None:
    model = graph(f"{SIDE} {UP} c = Concat<axis=1>(b, u) y = Conv(c, j.weight)")
    node = model.graph.nodes[-1]
    assert [tensor.name for tensor in beside(node, enlarged_inputs(model.graph)[id(node)])] == ["b"]
    alone = graph(f"{UP} {READ}")
    node = alone.graph.nodes[-1]
    assert beside(node, enlarged_inputs(alone.graph)[id(node)]) == []
    assert np.isclose(enlarged_inputs(alone.graph)[id(node)][0].share, 0.25)
