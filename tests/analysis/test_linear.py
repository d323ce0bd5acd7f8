"""Composing and adding convolutions of random geometry gives what onnxruntime computes step by step."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxslim_yolo.analysis.linear import (
    Geometry,
    LinearMap,
    add,
    chain_geometry,
    compose,
    compose_geometry,
    sum_geometry,
)
from onnxslim_yolo.analysis.window import Window, set_windows
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from tests.numeric import TIGHT, differences, run_onnx

SIZE = (17, 13)


def a_window(stride: int | None = None, pads: bool = True) -> st.SearchStrategy[Window]:
    small = st.integers(0, 2) if pads else st.just(0)
    return st.builds(
        Window.of,
        st.integers(1, 3),
        st.integers(1, 2) if stride is None else st.just(stride),
        st.integers(1, 2),
        small,
        small,
    )


@st.composite
def a_map(draw: st.DrawFn, outputs: int, inputs: int, pads: bool = True, biased: bool = True) -> LinearMap:
    common = [g for g in (1, 2, 3, 6) if outputs % g == 0 and inputs % g == 0]
    groups = draw(st.sampled_from(common))
    windows = (draw(a_window(pads=pads)), draw(a_window(pads=pads)))
    return random_map(Geometry(outputs, inputs, groups, windows), biased)


def random_map(geometry: Geometry, biased: bool = True) -> LinearMap:
    rng = np.random.default_rng(geometry.cost)
    weight = rng.standard_normal((geometry.outputs, geometry.inputs // geometry.groups, *geometry.kernel))
    return LinearMap(geometry, weight, rng.standard_normal(geometry.outputs) * biased)


def run(maps: list[LinearMap], parallel: bool = False) -> Array:
    """Convolutions in a row, or side by side and added up."""
    x = gs.Variable("x", np.float32, [1, maps[0].geometry.inputs, *SIZE])
    nodes, source, ends = [], x, []
    for n, m in enumerate(maps):
        out = gs.Variable(f"t{n}", np.float32)
        constants = [gs.Constant(f"w{n}", m.weight.astype(np.float32)), gs.Constant(f"b{n}", m.bias.astype(np.float32))]
        node = gs.Node("Conv", f"c{n}", {"group": m.geometry.groups}, [source, *constants], [out])
        set_windows(node, m.geometry.windows)
        nodes.append(node)
        ends.append(out)
        source = x if parallel else out
    y = gs.Variable("y", np.float32)
    nodes.append(gs.Node("Sum", "sum", {}, ends if parallel else ends[-1:], [y]))
    graph = gs.Graph(nodes, [x], [y], opset=17, ir_version=8)
    feeds = {"x": np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)}
    return run_onnx(Model(graph), feeds)["y"]


def check(merged: LinearMap, expected: Array) -> None:
    """The merged map gives what is expected; with a weight that is off by 1 % it does not."""
    assert merged.geometry.cost == merged.weight.size
    assert difference(expected, run([merged])) < TIGHT
    spoilt = LinearMap(merged.geometry, merged.weight * 1.01, merged.bias)
    assert difference(expected, run([spoilt])) > TIGHT


def difference(expected: Array, found: Array) -> float:
    return differences({"y": expected}, {"y": found})["y"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(a_map(6, 12), a_map(18, 6, pads=False))
def test_row_without_padding_in_the_second(first: LinearMap, second: LinearMap) -> None:
    both = compose(first, second)
    check(both, run([first, second]))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 2), st.sampled_from([1, 2, 6]), a_map(18, 6))
def test_row_of_unbiased_points_and_anything(stride: int, groups: int, second: LinearMap) -> None:
    point = Window.of(1, stride, 1, 0, 0)
    first = random_map(Geometry(6, 12, groups, (point, point)), biased=False)
    both = compose(first, second)
    check(both, run([first, second]))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data(), st.integers(1, 2))
def test_sums(data: st.DataObject, stride: int) -> None:
    """Windows of any kernel, dilation and offset, padded so that all outputs have one size."""
    maps = []
    for _ in range(data.draw(st.integers(2, 3))):
        windows = []
        for _ in SIZE:
            taps, step, first = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3)))
            # Outputs as many as a window of one tap without padding has, which takes an end padding of at least 0.
            windows.append(Window(stride, -min(first, step * (taps - 1)), step, taps, slack=-1))
        maps.append(random_map(Geometry(6, 12, data.draw(st.sampled_from([1, 2, 3, 6])), tuple(windows))))
    total = add(maps)
    check(total, run(maps, parallel=True))


def test_inexact_rows_are_refused() -> None:
    point, padded = Window.of(1, 1, 1, 0, 0), Window.of(3, 1, 1, 1, 1)
    one, three = Geometry(6, 6, 1, (point, point)), Geometry(6, 6, 1, (padded, padded))
    assert compose_geometry(one, three, biased=False) is not None
    assert compose_geometry(one, three, biased=True) is None
    assert compose_geometry(three, three, biased=False) is None
    with pytest.raises(ValueError, match="no single convolution"):
        compose(random_map(one), random_map(three))


def test_sums_of_different_sizes_are_refused() -> None:
    same, strided, valid = Window.of(3, 1, 1, 1, 1), Window.of(3, 2, 1, 1, 1), Window.of(3, 1, 1, 0, 0)
    geometry = Geometry(6, 6, 1, (same, same))
    assert sum_geometry([geometry]) == geometry
    for other in (strided, valid):
        assert sum_geometry([geometry, Geometry(6, 6, 1, (same, other))]) is None
    with pytest.raises(ValueError, match="different strides"):
        add([random_map(geometry), random_map(Geometry(6, 6, 1, (valid, valid)))])


def test_the_geometry_of_a_row_is_that_of_what_it_is_composed_to() -> None:
    """Of three maps; None where a bias comes under padding, be it two layers before."""
    point, wide = Window.of(1, 1, 1, 0, 0), Window.of(3, 2, 1, 1, 1)
    first = random_map(Geometry(4, 3, 1, (point, point)), biased=False)
    second = random_map(Geometry(6, 4, 2, (point, point)), biased=False)
    last = random_map(Geometry(2, 6, 2, (wide, wide)))
    assert chain_geometry([first]) == first.geometry
    found = chain_geometry([first, second, last])
    assert found == compose(compose(first, second), last).geometry  # type: ignore[arg-type]
    assert found is not None and (found.outputs, found.inputs, found.windows) == (2, 3, (wide, wide))
    biased = random_map(first.geometry)
    assert biased.is_biased and chain_geometry([biased, second]) is not None
    assert chain_geometry([biased, second, last]) is None and chain_geometry([biased, last]) is None
    assert chain_geometry([first, random_map(Geometry(6, 5, 1, (point, point)), biased=False)]) is None
