"""What a convolution is to channels: which axes of its weight are theirs, what is summed over, what is balanced."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from tests.analysis.graphs import Labelled, distinct, onnx_text

STEM = "a = Conv (x, stem) c = Relu (a)"


def graph(weights: str, body: str, inputs: str = "float[1, 3, 6, 6] x", opset: int = 19) -> Labelled:
    """What follows `c`, a map of four channels of 6×6 pixels; `x` has three that are nobody's."""
    return Labelled(onnx_text(inputs, "float[p, q, r, s] y", f"float[4, 3, 1, 1] stem, {weights}", body, opset))


def uses(found: Labelled, name: str) -> list[tuple[int, str, list[int]]]:
    """How an initializer is used: (axis, role, labels)."""
    return sorted((use.axis, use.role, use.labels.tolist()) for use in found.channels.uses if use.constant.name == name)


def read(found: Labelled, name: str) -> list[int]:
    """Which inputs of the node that makes a tensor are summed over by channels."""
    return [index for node, index in found.channels.contractions if node.outputs[0].name == name]


def parts(found: Labelled) -> list[list[list[int]]]:
    return [balance.parts.tolist() for balance in found.channels.balances]


class TestPlain:
    @pytest.mark.parametrize(
        "op, size, making, reading", [("Conv", "5, 4, 1, 1", 0, 1), ("ConvTranspose", "4, 5, 1, 1", 1, 0)]
    )
    @pytest.mark.parametrize("bias", ["", ", v"])
    def test_of_channels(self, op: str, size: str, making: int, reading: int, bias: str) -> None:
        found = graph(f"float[{size}] w, float[5] v", f"{STEM} d = {op} (c, w{bias}) y = Relu (d)")
        assert distinct(found["d"]) and len(found["d"]) == 5 and found.free("c")
        assert uses(found, "w") == sorted([(making, "out", found["d"]), (reading, "in", found["c"])])
        assert uses(found, "v") == ([(0, "channel", found["d"])] if bias else [])
        assert read(found, "d") == [0] and not found.channels.balances

    @pytest.mark.parametrize("op, size, making", [("Conv", "5, 3, 1, 1", 0), ("ConvTranspose", "3, 5, 1, 1", 1)])
    def test_of_what_no_channel_owns(self, op: str, size: str, making: int) -> None:
        found = graph(f"float[{size}] w", f"d = {op} (x, w) y = Relu (d)")
        assert uses(found, "w") == [(making, "out", found["d"])] and not found.channels.contractions

    @pytest.mark.parametrize("op, size", [("Conv", "5, 4, 1, 1"), ("ConvTranspose", "4, 5, 1, 1")])
    def test_with_a_computed_weight_or_bias(self, op: str, size: str) -> None:
        weights = f"float[{size}] w, float[5] v, float[2, 5, 1, 1] z"
        peak = f"{STEM} peak = ReduceMax <keepdims = 0> (x)"
        found = graph(weights, f"{peak} b = Mul (peak, v) d = {op} (c, w, b) y = Conv (d, z)")
        assert "computed bias" in str(found.reasons("d")) and found.free("c")
        found = graph(weights, f"{peak} u = Mul (peak, w) d = {op} (c, u, v) y = Conv (d, z)")
        assert "weight is computed" in str(found.reasons("c")) and set(found["d"]) == {NO_CHANNEL}

    def test_over_rows_of_one_axis(self) -> None:
        """A row of 36 pixels: maps of any rank."""
        weights = "float[4, 3, 1] stem1, float[5, 4, 3] w, float[5, 1, 3] k, int64[3] s = {1, 3, 36}"
        body = "f = Reshape (x, s) c = Conv (f, stem1) d = Conv (c, w) e = Conv <group = 5> (d, k) y = Relu (e)"
        text = onnx_text("float[1, 3, 6, 6] x", "float[p, q, r] y", weights, body)
        found = Labelled(text)
        assert found.descriptor("e").shape == (1, 5, 1) and found["e"] == found["d"] and found.free("c")


class TestGroups:
    def test_keep_equally_many(self) -> None:
        found = graph("float[6, 2, 1, 1] w, float[6] v", f"{STEM} d = Conv <group = 2> (c, w, v) y = Relu (d)")
        made, given = found["d"], found["c"]
        assert uses(found, "w") == [(0, "out", made), (1, "in", [given[:2], given[2:]])]
        assert uses(found, "v") == [(0, "channel", made)] and read(found, "d") == [0]
        assert sorted(parts(found)) == sorted([[made[:3], made[3:]], [given[:2], given[2:]]])

    def test_of_what_no_channel_owns(self) -> None:
        found = graph(
            "float[6, 1, 1, 1] w", "d = Conv <group = 2> (i, w) y = Relu (d)", "float[1, 2, 6, 6] i, float[1] x"
        )
        found = graph("float[6, 2, 1, 1] w", "d = Conv <group = 2> (x, w) y = Relu (d)", "float[1, 4, 6, 6] x")
        assert parts(found) == [[found["d"][:3], found["d"][3:]]] and not found.channels.contractions
        assert uses(found, "w") == [(0, "out", found["d"])]

    def test_of_a_transposed_one_go_together(self) -> None:
        """Position p of every group is one column of its weight."""
        found = graph("float[4, 3, 2, 2] w, float[6] v", f"{STEM} d = ConvTranspose <group = 2> (c, w, v) y = Relu (d)")
        made, given = found["d"], found["c"]
        assert made[:3] == made[3:] and distinct(made[:3])
        assert uses(found, "w") == [(0, "in", given), (1, "out", made[:3])] and uses(found, "v") == [
            (0, "channel", made)
        ]
        assert parts(found) == [[given[:2], given[2:]]] and read(found, "d") == [0]

    def test_of_a_transposed_one_over_plain_data(self) -> None:
        body = "d = ConvTranspose <group = 2> (x, w) y = Relu (d)"
        found = graph("float[4, 3, 2, 2] w", body, "float[1, 4, 6, 6] x")
        assert found["d"][:3] == found["d"][3:] and not found.channels.balances and not found.channels.contractions
        assert uses(found, "w") == [(1, "out", found["d"][:3])]


class TestDepthwise:
    @pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
    def test_passes_channels_on(self, op: str) -> None:
        found = graph("float[4, 1, 3, 3] w, float[4] v", f"{STEM} d = {op} <group = 4> (c, w, v) y = Relu (d)")
        assert found["d"] == found["c"] and distinct(found["d"]) and not read(found, "d")
        assert uses(found, "w") == uses(found, "v") == [(0, "channel", found["c"])] and not found.channels.balances

    def test_of_two_channels(self) -> None:
        found = graph(
            "float[2, 4, 1, 1] v, float[2, 1, 3, 3] w",
            f"{STEM} b = Conv (c, v) d = Conv <group = 2> (b, w) y = Relu (d)",
        )
        assert found["d"] == found["b"] and distinct(found["b"]) and uses(found, "w") == [(0, "channel", found["b"])]

    def test_makes_several_of_each(self) -> None:
        found = graph("float[8, 1, 3, 3] w, float[8] v", f"{STEM} d = Conv <group = 4> (c, w, v) y = Relu (d)")
        twice = [cls for cls in found["c"] for _ in range(2)]
        assert found["d"] == twice and uses(found, "w") == uses(found, "v") == [(0, "channel", twice)]

    def test_makes_several_of_each_transposed(self) -> None:
        """Its weight's rows are what it reads."""
        found = graph("float[4, 2, 3, 3] w, float[8] v", f"{STEM} d = ConvTranspose <group = 4> (c, w, v) y = Relu (d)")
        twice = [cls for cls in found["c"] for _ in range(2)]
        assert found["d"] == twice and uses(found, "v") == [(0, "channel", twice)]
        assert uses(found, "w") == [(0, "channel", found["c"])]

    def test_of_what_no_channel_owns_makes_none(self) -> None:
        found = graph("float[3, 1, 3, 3] w, float[4, 3, 1, 1] z", "d = Conv <group = 3> (x, w) y = Conv (d, z)")
        assert set(found["d"]) == {NO_CHANNEL} and {cls for _, _, labels in uses(found, "w") for cls in labels} <= {-1}

    def test_of_one_channel_over_plain_data(self) -> None:
        body = "m = ReduceMean <axes = [1]> (x) d = Conv (m, w) y = Relu (d)"
        found = graph("float[5, 1, 3, 3] w", body, opset=17)
        assert len(found["d"]) == 5


def test_a_deformable_one_over_plain_data_balances_nothing() -> None:
    weights = "float[16, 4, 1, 1] o, float[5, 4, 2, 2] w, float[5] v"
    call = "DeformConv <offset_group = 2, pads = [0, 0, 1, 1]> (x, w, f, v)"
    found = graph(weights, f"f = Conv (x, o) d = {call} y = Relu (d)", "float[1, 4, 6, 6] x")
    assert not found.channels.balances and not read(found, "d") and distinct(found["d"])
    assert uses(found, "w") == [(0, "out", found["d"])] and uses(found, "v") == [(0, "channel", found["d"])]


def test_labels_of_a_map_are_as_many_as_its_channels() -> None:
    found = graph("float[5, 4, 1, 1] w", f"{STEM} y = Conv (c, w)")
    assert found.descriptor("c").shape == (1, 4, 1, 1) and np.unique(found.descriptor("c")).size == 4
