"""Channels that are constant, through what keeps them so: every value worked out by hand; NaN where it is not known."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest

from onnxslim_yolo.ir.graph import Array
from tests.analysis.graphs import Labelled, nearly, onnx_text

WEIGHTS = """float[4, 3, 1, 1] w, float[4] b, float[8, 3, 1, 1] w8, float[8] b8, float[4, 3, 1, 1] free,
    float[4] gamma, float[4] beta, float[4] mean, float[4] var, float[4] scales = {1, 1, 2, 2}, float[8] crop"""
VALUES: dict[str, Array] = {
    "w": np.zeros((4, 3, 1, 1)),
    "b": np.array([1.5, -2.25, 0, 3]),
    "w8": np.zeros((8, 3, 1, 1)),
    "gamma": np.array([0.0, 1, 2, 0]),
    "beta": np.array([7.0, 1, 0, -1]),
    "mean": np.array([5.0, 1.5, -2, 5]),
    "var": np.array([3.0, 3, 0, 3]),
}
CONSTANT = "c = Conv (x, w, b)"


def graph(body: str, outputs: str = "float[p, q, r, s] y", opset: int = 17, **values: list[float]) -> Labelled:
    given = VALUES | {name: np.array(value) for name, value in values.items()}
    return Labelled(onnx_text("float[1, 3, 6, 6] x, bool[1, 4, 6, 6] m", outputs, WEIGHTS, body, opset), given)


def constants(labelled: Labelled, name: str = "y") -> list[float]:
    """The values of what is exactly constant."""
    found = labelled.moments(name)
    return [float(v) for v in np.where(found.exact, found.mean, nan).reshape(-1)]


def same(found: list[float], *expected: float) -> bool:
    return nearly(np.array(found), *expected)


class TestCasts:
    def test_of_constants(self) -> None:
        found = graph(f"{CONSTANT} i = Cast <to = 6> (c) y = Cast <to = 1> (i)")
        assert same(constants(found, "i"), 1, -2, 0, 3) and same(constants(found), 1, -2, 0, 3)
        assert same(constants(graph(f"{CONSTANT} b1 = Cast <to = 9> (c) y = Cast <to = 1> (b1)")), 1, 1, 0, 1)

    def test_of_what_varies(self) -> None:
        body = "n = BatchNormalization (c, gamma, beta, mean, var) h = Cast <to = {}> (n) y = Cast <to = 1> (h)"
        half = graph(f"c = Conv (x, free) {body.format(10)}", var=[1.0, 1, 1, 1])
        before, after = half.moments("n"), half.moments("h")
        assert nearly(after.mean, *before.mean.reshape(-1)) and nearly(after.variance, *before.variance.reshape(-1))
        assert after.exact.reshape(-1).tolist() == [True, False, False, True]
        whole = graph(f"c = Conv (x, free) {body.format(6)}", var=[1.0, 1, 1, 1]).moments("h")
        assert nearly(whole.mean, 7, nan, nan, -1) and np.isnan(whole.variance.reshape(-1)[1:3]).all()


class TestNorm:
    def test_that_scales_by_zero(self) -> None:
        found = graph("c = Conv (x, free) y = BatchNormalization (c, gamma, beta, mean, var)")
        assert same(constants(found)[:1], 7) and same(constants(found)[3:], -1)
        assert found.moments("y").exact.reshape(-1).tolist()[1] is False

    def test_of_constants(self) -> None:
        found = graph(f"{CONSTANT} y = BatchNormalization <epsilon = 1.0> (c, gamma, beta, mean, var)")
        assert same(constants(found), 7, 1 + (-2.25 - 1.5) / 2, 0 + (0 + 2) * 2, -1)


class TestPixels:
    @pytest.mark.parametrize(
        "mode, values, expected",
        [
            ("DCR", [5, 1, 5, 2, 5, 1, 5, 1], [5, nan]),
            ("DCR", [5, 1, 5, 1, 5, 1, 5, 1], [5, 1]),
            ("CRD", [5, 5, 5, 5, 1, 1, 2, 1], [5, nan]),
            ("CRD", [5, 1, 5, 1, 5, 1, 5, 1], [nan, nan]),
        ],
    )
    def test_of_one_channel_are_known_where_they_are_alike(
        self, mode: str, values: list[float], expected: list[float]
    ) -> None:
        found = graph(f'c = Conv (x, w8, b8) y = DepthToSpace <blocksize = 2, mode = "{mode}"> (c)', b8=values)
        assert same(constants(found), *expected)

    def test_that_are_not_constant(self) -> None:
        found = graph("c = Conv (x, w8, b8) d = Relu (c) y = DepthToSpace <blocksize = 2> (d)", b8=[-1.0] * 8)
        assert constants(found)[0] == 0
        parts = "a = Conv (x, free) e = Concat <axis = 1> (a, a) r = Relu (e)"
        free = graph(f"{parts} y = DepthToSpace <blocksize = 2> (r)")
        assert np.isnan(constants(free)).all()


class TestWindows:
    POOL = "AveragePool <kernel_shape = [3, 3]{}> (c)"

    @pytest.mark.parametrize(
        "attributes, zero_only",
        [
            ("", False),
            (", count_include_pad = 1", False),
            (", pads = [1, 1, 1, 1]", False),
            (", pads = [1, 1, 1, 1], count_include_pad = 1", True),
        ],
    )
    def test_a_mean_of_constants(self, attributes: str, zero_only: bool) -> None:
        found = graph(f"{CONSTANT} y = {self.POOL.format(attributes)}")
        assert same(constants(found), *([nan, nan, 0, nan] if zero_only else [1.5, -2.25, 0, 3]))

    @pytest.mark.parametrize("pool", ["MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>", "GlobalAveragePool",
                                      "GlobalMaxPool"])  # fmt: skip
    def test_the_constant_itself(self, pool: str) -> None:
        assert same(constants(graph(f"{CONSTANT} y = {pool} (c)")), 1.5, -2.25, 0, 3)

    @pytest.mark.parametrize("pool", ["MaxPool <kernel_shape = [3, 3]>", "AveragePool <kernel_shape = [3, 3]>"])
    def test_of_maps_put_together_from_several(self, pool: str) -> None:
        found = graph(f"{CONSTANT} d = Conv (x, w) e = Concat <axis = 2> (c, d) y = {pool} (e)")
        assert np.isnan(constants(found)).any()

    def test_resized(self) -> None:
        assert same(constants(graph(f"{CONSTANT} y = Resize (c, , scales)")), 1.5, -2.25, 0, 3)
        cut = 'Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (c, crop, scales)'
        assert np.isnan(constants(graph(f"{CONSTANT} y = {cut}"))).all()


class TestChoices:
    def test_between_constants(self) -> None:
        body = f"{CONSTANT} d = Relu (c) y = Where (m, c, d)"
        assert same(constants(graph(body)), 1.5, nan, 0, 3)

    def test_sums_over_a_map(self) -> None:
        axes = "axes = Constant <value = int64[2] {2, 3}> ()"
        found = graph(f"{axes} {CONSTANT} y = ReduceSum <keepdims = 1> (c, axes)")
        assert same(constants(found), 54, -81, 0, 108)
        flat = graph(f"{CONSTANT} y = ReduceMean <axes = [2, 3], keepdims = 0> (c)", "float[p, q] y")
        assert same(constants(flat), 1.5, -2.25, 0, 3)
