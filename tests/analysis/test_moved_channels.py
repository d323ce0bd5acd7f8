"""Channels through what moves them, beyond the plain cases: computed targets, borders, tables, picks."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.analysis.movement import MOVERS, CannotMoveError, concat
from onnxslim_yolo.ir.graph import Array
from tests.analysis.graphs import Labelled, distinct, onnx_text

WEIGHTS = """float[4, 3, 1, 1] a.weight, float[4, 3, 1, 1] b.weight, float[2, 4, 1, 1] z, float[1, 3, 1, 1] one.weight,
    int64[1] zero = {0}, int64[1] first = {1}, int64[1] two = {2}, int64[1] three = {3}, int64[1] four = {4},
    int64[1] rest = {-1}, int64[1] batch = {1}, int64[2] pixels = {6, 6}, int64[1] all = {36}"""


def graph(body: str, weights: str = "", outputs: str = "float[p, q, r, s] y", image: str = "1, 3, 6, 6",
          values: dict[str, Array] | None = None) -> Labelled:  # fmt: skip
    """What follows two convolutions `a` and `b` of four channels each."""
    more = f", {weights}" if weights else ""
    return Labelled(
        onnx_text(f"float[{image}] x, float[1, 4, 6, 6] plain", outputs, WEIGHTS + more,
                  f"a = Conv (x, a.weight) b = Conv (x, b.weight) {body}"),
        values,
    )  # fmt: skip


class TestComputedTargets:
    SHAPE = "s = Shape (a)"

    @pytest.mark.parametrize(
        "target",
        [
            "n = Gather (s, zero) t = Concat <axis = 0> (n, four, all)",
            "n = Gather (s, zero) t = Concat <axis = 0> (n, rest, all)",
            "n = Gather (s, zero) c = Gather (s, first) t = Concat <axis = 0> (n, c, all)",
            "n = Gather (s, zero) t = Concat <axis = 0> (n, zero, rest)",
        ],
    )
    def test_that_say_the_width(self, target: str) -> None:
        found = graph(
            f"{self.SHAPE} {target} u = Reshape (a, t) y = Relu (u)", outputs="float[p, q, r] y", image="N, 3, 6, 6"
        )
        assert found["u"] == found["a"]
        assert "computed" not in str(found.reasons("a"))

    def test_that_come_out_of_arithmetic(self) -> None:
        target = "n = Gather (s, zero) c = Gather (s, first) d = Add (c, zero) t = Concat <axis = 0> (n, d, rest)"
        found = graph(
            f"{self.SHAPE} {target} u = Reshape (a, t) y = Relu (u)", outputs="float[p, q, r] y", image="N, 3, 6, 6"
        )
        assert not found.free("a")

    def test_of_another_tensor_tie_it(self) -> None:
        target = "s = Shape (b) n = Gather (s, zero) c = Gather (s, first) t = Concat <axis = 0> (n, c, all)"
        body = f"{target} u = Reshape (a, t) k = Reshape (u, back) p = Conv (k, z) q = Conv (b, z) y = Add (p, q)"
        found = graph(body, "int64[4] back = {0, 4, 6, 6}", image="N, 3, 6, 6")
        assert found["a"] == found["b"] and distinct(found["a"])


class TestJoined:
    def test_zeros_beside_channels_are_channels(self) -> None:
        zeros = {"w": np.zeros((1, 2, 6, 6))}
        found = graph("c = Concat <axis = 1> (a, w) y = Relu (c)", "float[1, 2, 6, 6] w", values=zeros)
        assert found["c"][:4] == found["a"] and distinct(found["c"])
        other = graph("c = Concat <axis = 1> (a, w) y = Relu (c)", "float[1, 2, 6, 6] w")
        assert other["c"][:4] == other["a"] and other["c"][4:] == [NO_CHANNEL] * 2

    def test_a_table_that_is_repeated_is_cut_as_well(self) -> None:
        body = "e = Expand (w, t) c = Concat <axis = 3> (a, e) y = Conv (c, z)"
        found = graph(body, "float[1, 4, 1, 1] w, int64[4] t = {1, 4, 6, 1}")
        assert found.free("a") and found["c"] == found["a"] == found["e"]
        assert [use.axis for use in found.channels.uses if use.constant.name == "w"] == [1]

    def test_a_table_that_others_read_is_not(self) -> None:
        body = "e = Expand (w, t) f = Relu (e) c = Concat <axis = 3> (a, e, f) y = Conv (c, z)"
        assert not graph(body, "float[1, 4, 1, 1] w, int64[4] t = {1, 4, 6, 1}").free("a")
        grown = "e = Expand (w, t) c = Concat <axis = 3> (a, e) y = Conv (c, z)"
        assert not graph(grown, "float[1, 1, 1, 1] w, int64[4] t = {1, 4, 6, 1}").free("a")
        flat = graph(grown, "float[4, 1, 1] w, int64[4] t = {1, 4, 6, 1}")
        assert flat.free("a") and [use.axis for use in flat.channels.uses if use.constant.name == "w"] == [0]


class TestPadded:
    def test_zeros_in_front_and_behind(self) -> None:
        found = graph("c = Pad (a, pads) y = Relu (c)", "int64[8] pads = {0, 1, 0, 0, 0, 2, 0, 0}")
        assert found["c"][1:5] == found["a"] and distinct(found["c"]) and len(found["c"]) == 7

    def test_other_numbers_are_no_channels(self) -> None:
        found = graph(
            "c = Pad (a, pads, five) y = Relu (c)", "int64[8] pads = {0, 1, 0, 0, 0, 2, 0, 0}, float five = {5}"
        )
        assert found["c"] == [NO_CHANNEL, *found["a"], NO_CHANNEL, NO_CHANNEL]

    def test_cropped(self) -> None:
        found = graph("c = Pad (a, pads) y = Relu (c)", "int64[8] pads = {0, -1, 0, 0, 0, -2, 0, 0}")
        assert found["c"] == found["a"][1:2]

    def test_beside_them(self) -> None:
        found = graph("c = Pad (a, pads) y = Relu (c)", "int64[8] pads = {0, 0, 1, 2, 0, 0, 3, 4}")
        assert found["c"] == found["a"]

    def test_reflected(self) -> None:
        pads = "int64[8] pads = {0, 1, 0, 0, 0, 1, 0, 0}"
        reflected = graph('c = Pad <mode = "reflect"> (a, pads) y = Relu (c)', pads)
        assert set(reflected["c"]) == {NO_CHANNEL} and not reflected.free("a")
        beside = "int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}"
        assert graph('c = Pad <mode = "reflect"> (a, pads) y = Conv (c, z)', beside).free("a")


class TestPixels:
    @pytest.mark.parametrize(
        "mode, pairs", [("DCR", [(0, 2, 4, 6), (1, 3, 5, 7)]), ("CRD", [(0, 1, 2, 3), (4, 5, 6, 7)])]
    )
    def test_a_pixels_channels_go_together(self, mode: str, pairs: list[tuple[int, ...]]) -> None:
        body = f'c = Concat <axis = 1> (a, b) d = DepthToSpace <blocksize = 2, mode = "{mode}"> (c) y = Conv (d, w)'
        found = graph(body, "float[2, 2, 1, 1] w")
        classes = found["c"]
        assert [len({classes[k] for k in group}) for group in pairs] == [1, 1]
        assert found["d"] == [classes[pairs[0][0]], classes[pairs[1][0]]] and distinct(found["d"])

    def test_a_pixel_that_no_channel_owns_altogether(self) -> None:
        weights = "float[1, 4, 6, 6] w, float[2, 2, 1, 1] v"
        body = "c = Concat <axis = 1> (a, w) d = DepthToSpace <blocksize = 2> (c) y = Conv (d, v)"
        found = graph(body, weights)
        assert set(found["d"]) == {NO_CHANNEL} and not found.free("a")


class TestSpatial:
    def test_positions_count_through_all_channels(self) -> None:
        body = "m, i = MaxPool <kernel_shape = [2, 2]> (a) y = Conv (m, z)"
        assert "positions" in str(graph(body, outputs="float[p, q, r, s] y, int64[k, l, m, n] i").reasons("a"))
        assert graph(body).free("a")

    def test_sizes_that_are_computed(self) -> None:
        resized = "t = Concat <axis = 0> (n, pixels) r = Resize (a, , , t) y = Conv (r, z)"
        sizes = f"s = Shape (a) n = Slice (s, zero, two) {resized}"
        found = graph(sizes, image="N, 3, 6, 6")
        assert found["r"] == found["a"] and found.free("a")
        said = sizes.replace("Slice (s, zero, two)", "Slice (s, zero, first)").replace(
            "(n, pixels)", "(n, four, pixels)"
        )
        assert graph(said, image="N, 3, 6, 6").free("a")

    def test_positions_that_are_channels(self) -> None:
        body = "g = Reshape (b, grid) s = GridSample (a, g) y = Conv (s, z)"
        found = graph(body, "int64[4] grid = {1, 6, 12, 2}")
        assert found.free("a") and found["s"] == found["a"] and "positions" in str(found.reasons("b"))


class TestAlongAnAxis:
    def test_elsewhere_they_pass(self) -> None:
        found = graph("c = CumSum (a, three) y = Conv (c, z)")
        assert found.free("a") and found["c"] == found["a"]

    def test_there_they_are_frozen(self) -> None:
        for axis in ("first", "less"):
            found = graph(f"c = CumSum (a, {axis}) y = Conv (c, z)", "int64[1] less = {-3}")
            assert "works along its channels" in str(found.reasons("a")) and set(found["c"]) == {NO_CHANNEL}

    def test_an_axis_that_goes(self) -> None:
        for axis, shape in ((3, (1, 4, 1)), (-1, (1, 4, 1)), (0, (4, 1, 1))):
            found = graph(
                f"m = ArgMax <axis = {axis}, keepdims = 0> (a) y = Cast <to = 1> (m)", outputs="float[p, q, r] y"
            )
            assert found.descriptor("m").shape == shape and found["m"] == found["a"]


class TestPicked:
    def test_along_another_axis(self) -> None:
        body = "i = ArgMax <axis = 3> (b) c = GatherElements <axis = 3> (a, i) y = Conv (c, z)"
        found = graph(body)
        assert found["a"] == found["b"] == found["c"] and found.free("a")

    @pytest.mark.parametrize(
        "body",
        [
            "i = ArgMax <axis = 1> (b) c = GatherElements <axis = 1> (a, i) y = Relu (c)",
            "c = GatherElements <axis = 3> (a, table) y = Conv (c, z)",
        ],
    )
    def test_among_channels_or_by_a_table(self, body: str) -> None:
        assert not graph(body, "int64[1, 4, 6, 2] table").free("a")


class TestCropped:
    def test_beside_the_channels(self) -> None:
        body = "c = CenterCropPad <axes = [2, -1]> (a, pixels) y = Conv (c, z)"
        found = Labelled(
            onnx_text("float[1,3,8,8] x", "float[p,q,r,s] y", WEIGHTS, f"a = Conv (x, a.weight) {body}", 18)
        )
        assert found.free("a") and found["c"] == found["a"]

    @pytest.mark.parametrize("size", [4, 3, 5])
    def test_channels(self, size: int) -> None:
        body = "a = Conv (x, a.weight) c = CenterCropPad <axes = [1]> (a, size) y = Relu (c)"
        weights = f"{WEIGHTS}, int64[1] size = {{{size}}}"
        found = Labelled(onnx_text("float[1,3,8,8] x", "float[p,q,r,s] y", weights, body, 18))
        assert not found.free("a") and set(found["c"]) == {NO_CHANNEL}


class TestHeads:
    """Channels laid out along two axes: which of them is left is the affair of what computes with them."""

    HEADS = "r = Reshape (a, heads)"

    def heads(self, body: str, weights: str = "") -> Labelled:
        more = f"int64[4] heads = {{1, 2, 2, 36}}{', ' if weights else ''}{weights}"
        return graph(f"{self.HEADS} {body}", more)

    def test_not_the_one_that_is_worked_along(self) -> None:
        positions = self.heads("y = CumSum (r, first)")
        assert positions["a"][:2] == positions["a"][2:] != positions["a"][:1] * 2
        assert "works along" not in str(positions.reasons("a"))
        heads = self.heads("y = CumSum (r, two)")
        assert heads["a"][0] == heads["a"][1] != heads["a"][2] == heads["a"][3]
        assert "works along" not in str(heads.reasons("a"))

    def test_not_the_one_that_is_gathered_along(self) -> None:
        for axis, same in ((1, (0, 2)), (2, (0, 1))):
            found = self.heads(f"i = Cast <to = 7> (r) g = GatherElements <axis = {axis}> (r, i) y = Relu (g)")
            assert found["a"][same[0]] == found["a"][same[1]] and len(set(found["a"])) == 2
            assert "picks" not in str(found.reasons("a"))

    def test_not_the_one_that_is_normalised_over(self) -> None:
        found = self.heads("y = LayerNormalization <axis = 2> (r, s)", "float[2, 36] s")
        assert found["a"][0] == found["a"][1] != found["a"][2] and "normalises" not in str(found.reasons("a"))
        over = self.heads("y = LayerNormalization <axis = 1> (r, s)", "float[2, 2, 36] s")
        assert "normalises over channels" in str(over.reasons("a"))

    def test_not_the_one_that_is_padded_beside(self) -> None:
        found = self.heads("y = Pad (r, pads)", "int64[8] pads = {0, 0, 1, 0, 0, 0, 0, 0}")
        assert found["a"][:2] == found["a"][2:] and found["y"][1:] == found["a"][:2] and len(found["y"]) == 3


class TestSaidByTargets:
    """What a computed target of an Expand says of channels, if it says anything."""

    BOUNDS = "int64[1] last = {4}, int64[1] one = {1}, int64[1] six = {6}"

    @pytest.mark.parametrize(
        "target, followed",
        [
            ("t = Slice (s, two, last)", True),  # rows and columns only
            ("t = Slice (s, first, last)", True),  # the width of the channels themselves
            ("c = Gather (s, first) d = Add (c, zero) e = Slice (s, two, last) t = Concat <axis = 0> (d, e)", False),
            ("n = Gather (s, zero) t = Concat <axis = 0> (n, one, one, one)", True),
            ("n = Gather (s, zero) t = Concat <axis = 0> (n, four, six, six)", True),
        ],
    )
    def test_of_channels(self, target: str, followed: bool) -> None:
        found = graph(f"s = Shape (a) {target} e1 = Expand (a, t) y = Conv (e1, z)", self.BOUNDS, image="N, 3, 6, 6")
        assert ("computed" not in str(found.reasons("a"))) == followed
        assert not followed or found["e1"] == found["a"]

    @pytest.mark.parametrize("width, followed", [("four", True), ("c", True), ("d", False)])
    def test_of_a_table(self, width: str, followed: bool) -> None:
        target = "s = Shape (a) n = Gather (s, zero) c = Gather (s, first) d = Mul (c, one)"
        body = f"{target} t = Concat <axis = 0> (n, {width}, six, one) e = Expand (w, t) j = Concat <axis = 3> (a, e)"
        found = graph(f"{body} y = Conv (j, z)", f"float[1, 4, 1, 1] w, {self.BOUNDS}", image="N, 3, 6, 6")
        assert found.free("a") == followed
        assert [use.axis for use in found.channels.uses if use.constant.name == "w"] == ([1] if followed else [])

    def test_what_is_computed_and_repeated_is_no_table(self) -> None:
        body = "m = ReduceMean <axes = [1, 2, 3]> (x) e = Expand (m, t) c = Concat <axis = 3> (a, e) y = Conv (c, z)"
        assert not graph(body, "int64[4] t = {1, 4, 6, 1}").free("a")


class TestSizes:
    """What a Resize says of channels."""

    def resized(self, attributes: str, sizes: str) -> Labelled:
        body = f"a = Conv (x, a.weight) s = Shape (a) {sizes} r = Resize {attributes} (a, , , t) y = Conv (r, z)"
        weights = f"{WEIGHTS}, int64[1] last = {{4}}, int64[1] six = {{6}}"
        return Labelled(onnx_text("float[N, 3, 6, 6] x", "float[p, q, r, s] y", weights, body, 18))

    def test_of_some_axes(self) -> None:
        added = "c = Slice (s, {}, last) t = Add (c, c)"
        beside = self.resized("<axes = [2, 3]>", added.format("two"))
        assert beside.free("a") and beside["r"] == beside["a"]
        arithmetic = "c = Slice (s, first, two) d = Add (c, zero) t = Concat <axis = 0> (d, six, six)"
        for axes in ("[1, 2, 3]", "[-3, 2, 3]"):
            assert "computed" in str(self.resized(f"<axes = {axes}>", arithmetic).reasons("a"))
        kept = "c = Slice (s, first, two) t = Concat <axis = 0> (six, c, six)"
        assert self.resized("<axes = [2, 1, 3]>", kept).free("a")

    def test_of_one_channel(self) -> None:
        body = "m = ReduceMax <axes = [1]> (a) s = Shape (m) t = Add (s, s) r = Resize (m, , , t) y = Conv (r, o)"
        found = graph("m = Conv (x, one.weight) " + body.split(") ", 1)[1].replace("t = Add (s, s)", "t = Mul (s, k)"),
                      "int64[4] k = {1, 1, 2, 2}, float[2, 1, 1, 1] o", image="N, 3, 6, 6")  # fmt: skip
        assert "computed" not in str(found.reasons("m"))


class TestPicks:
    def test_of_some_channels_only(self) -> None:
        body = "c = Conv (x, w) i = Cast <to = 7> (c) g = GatherElements <axis = 3> (a, i) y = Relu (g)"
        assert "picks some of the channels only" in str(graph(body, "float[2, 3, 1, 1] w").reasons("a"))

    def test_among_channels_by_what_is_none(self) -> None:
        body = "i = Cast <to = 7> (plain) g = GatherElements <axis = 1> (a, i) y = Relu (g)"
        assert "picks among channels" in str(graph(body).reasons("a"))
        turned = "i = Cast <to = 7> (b) g = GatherElements <axis = 1> (plain, i) y = Relu (g)"
        assert "picks among channels" in str(graph(turned).reasons("b"))

    def test_samples_and_shapes(self) -> None:
        found = graph("g = GridSample (a, grid) s = Shape (g) y = Cast <to = 1> (s)", "float[1, 6, 6, 2] grid",
                      "float[p] y, float[p, q, r, s] g")  # fmt: skip
        assert found.descriptor("g").shape == (1, 4, 1, 1) and found.descriptor("s").shape == (1,)


class TestBeside:
    def test_one_channel_of_zeros_is_none(self) -> None:
        """Two or more are channels, free to be tied or to go."""
        for width, made in ((1, False), (2, True)):
            found = graph(
                "c = Concat <axis = 1> (a, w) y = Relu (c)",
                f"float[1, {width}, 6, 6] w",
                values={"w": np.zeros((1, width, 6, 6))},
            )
            assert found["c"][:4] == found["a"] and (NO_CHANNEL not in found["c"][4:]) == made

    @pytest.mark.parametrize(
        "widths, value, expected",
        [
            ((0, 2), 5, [0, 1, 2, 3, None, None]),
            ((2, 0), 5, [None, None, 0, 1, 2, 3]),
            ((-1, 2), 5, [1, 2, 3, None, None]),
            ((-1, 2), 0, [1, 2, 3, "new", "new"]),
            ((1, -2), 0, ["new", 0, 1]),
        ],
    )
    def test_padded_on_one_side(self, widths: tuple[int, int], value: int, expected: list[object]) -> None:
        pads = f"int64[8] pads = {{0, {widths[0]}, 0, 0, 0, {widths[1]}, 0, 0}}, float v = {{{value}.0}}"
        found = graph("c = Pad (a, pads, v) y = Relu (c)", pads)
        for cls, wanted in zip(found["c"], expected, strict=True):
            if isinstance(wanted, int):
                assert cls == found["a"][wanted]
            else:
                assert (cls == NO_CHANNEL) == (wanted is None) and cls not in found["a"]


class TestNorms:
    @pytest.mark.parametrize("op, count", [("BatchNormalization", 4), ("InstanceNormalization", 2)])
    def test_of_plain_data_have_no_channels(self, op: str, count: int) -> None:
        names = ", ".join(f"n{k}" for k in range(count))
        weights = ", ".join(f"float[4] n{k}" for k in range(count))
        found = graph(f"n = {op} (plain, {names}) y = Conv (n, z)", weights)
        assert set(found["n"]) == {NO_CHANNEL} and not [u for u in found.channels.uses if u.constant.name[0] == "n"]
        there = graph(f"n = {op} (a, {names}) y = Conv (n, z)", weights)
        own = sorted((u.constant.name, u.axis, u.role) for u in there.channels.uses if u.constant.name[0] == "n")
        assert own == [(f"n{k}", 0, "channel") for k in range(count)] and there.free("a") and there["n"] == there["a"]

    @pytest.mark.parametrize("op, held", [("Sub", True), ("Add", False), ("Mul", False)])
    def test_written_out(self, op: str, held: bool) -> None:
        """The mean over channels, taken off each of them: of one that is zero, minus the mean is left."""
        found = graph(f"m = ReduceMean <axes = [1]> (a) c = {op} (a, m) y = Conv (c, z)")
        assert ("normalises over channels" in str(found.reasons("c"))) == held

    @pytest.mark.parametrize("index", [0, 1])
    def test_by_what_is_computed(self, index: int) -> None:
        names = ["s", "t"]
        names[index] = "c"
        body = (
            f"peak = ReduceMax <keepdims = 0> (x) c = Mul (peak, s) n = InstanceNormalization (a, {', '.join(names)})"
        )
        found = graph(f"{body} y = Conv (n, z)", "float[4] s, float[4] t")
        assert "parameters are computed" in str(found.reasons("a"))


class TestLabels:
    """Labels themselves, along every axis of their own extent or one for all."""

    def test_joined_where_one_varies_elsewhere(self) -> None:
        channels, columns = np.arange(2).reshape(1, 2, 1, 1), 7 + np.arange(3).reshape(1, 1, 1, 3)
        found = concat([channels, columns], [(1, 2, 4, 3), (1, 2, 4, 3)], 1)
        assert found.shape == (1, 4, 1, 3)
        assert found[0, :, 0].tolist() == [[0, 0, 0], [1, 1, 1], [7, 8, 9], [7, 8, 9]]

    @pytest.mark.parametrize("labels, found", [([5], [5]), ([1, 2], [1, 2] * 4)])
    def test_space_to_depth(self, labels: list[int], found: list[int]) -> None:
        node = gs.Node("SpaceToDepth", "n", {"blocksize": 2})
        (moved,) = MOVERS["SpaceToDepth"](node, [np.array(labels).reshape(1, -1, 1, 1)], [(1, 2, 4, 4)], [(1, 8, 2, 2)])
        assert moved.reshape(-1).tolist() == found and moved.ndim == 4
        with pytest.raises(CannotMoveError, match="vary over space"):
            MOVERS["SpaceToDepth"](node, [np.zeros((1, 1, 1, 4), np.int64)], [(1, 2, 4, 4)], [(1, 8, 2, 2)])
