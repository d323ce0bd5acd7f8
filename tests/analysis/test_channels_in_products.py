"""Channels through products of computed matrices, attention and recurrent layers: what is tied, frozen or free."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.analysis.channels import NO_CHANNEL, analyse_channels
from tests.analysis.graphs import Labelled, distinct, onnx_text
from tests.numeric import build

WEIGHTS = """float[8, 6] q.w, float[8, 6] k.w, float[8, 6] v.w, float[8, 5] o.w, float[1, 16, 8] lstm.w,
    float[1, 16, 4] lstm.r, float[8, 8] e.w"""
LAYERS = "h = Relu (x) q = MatMul (h, q.w) k = MatMul (h, k.w) v = MatMul (h, v.w)"


def graph(body: str, outputs: str = "float[a, b, c] y", opset: int = 17) -> Labelled:
    """Queries, keys and values of six channels each, of ten tokens (2, 10, 8)."""
    return Labelled(onnx_text("float[2, 10, 8] x, float[2, 6, 10] p", outputs, WEIGHTS, f"{LAYERS} {body}", opset))


def passes(found: Labelled, name: str) -> bool:
    """Nothing holds the channels of a tensor but that they reach the output."""
    return all(reason is None or "reaches the output" in reason for reason in found.reasons(name))


class TestMatrices:
    TURNED = "t = Transpose <perm = [0, 2, 1]> (k)"

    def test_what_is_summed_over_is_tied(self) -> None:
        found = graph(f"{self.TURNED} s = MatMul (q, t) y = MatMul (s, v)")
        assert found["q"] == found["k"] and distinct(found["q"]) and found.free("q")
        assert set(found["s"]) == {NO_CHANNEL}
        assert found["y"] == found["v"]
        read = {(node.op, index) for node, index in found.channels.contractions}
        assert ("MatMul", 0) in read and ("MatMul", 1) in read

    def test_summed_against_plain_data_is_frozen(self) -> None:
        assert not graph("y = MatMul (q, p)").free("q")

    def test_channels_of_both_sides(self) -> None:
        """An element has one label: the rows' stay."""
        found = graph("t = Transpose <perm = [0, 2, 1]> (q) y = MatMul (t, v)")
        assert found["y"] == found["q"]
        assert "multiplies two sets of channels" in str(found.reasons("v"))

    def test_channels_that_are_the_matrices(self) -> None:
        body = """a = Transpose <perm = [2, 0, 1]> (q) b = Transpose <perm = [2, 1, 0]> (k) y = MatMul (a, b)"""
        found = graph(body)
        assert found["y"] == found["q"] == found["k"] and found.descriptor("y").shape == (6, 1, 1)


class TestAttention:
    def attention(self, heads: str, rest: str = "", outputs: str = "float[a, b, c] y") -> Labelled:
        return graph(f"y = Attention <{heads}> (q, k, v{rest})", outputs, 23)

    def test_queries_and_keys_are_tied_in_all_heads(self) -> None:
        found = self.attention("q_num_heads = 2, kv_num_heads = 2")
        assert found["q"] == found["k"] and found["q"][:3] == found["q"][3:] and distinct(found["q"][:3])
        assert found["v"][:3] == found["v"][3:] and set(found["v"]).isdisjoint(found["q"])
        assert found["y"] == found["v"]
        assert {index for node, index in found.channels.contractions if node.op == "Attention"} == {0, 1}

    def test_one_head(self) -> None:
        found = self.attention("q_num_heads = 1, kv_num_heads = 1")
        assert found["q"] == found["k"] and distinct(found["q"]) and found["y"] == found["v"]

    def test_more_queries_heads_than_keys(self) -> None:
        body = "w = Concat <axis = 2> (q, q) y = Attention <q_num_heads = 4, kv_num_heads = 2> (w, k, v)"
        found = graph(body, opset=23)
        assert found["y"] == found["v"] * 2 and found["k"][:3] == found["k"][3:] == found["q"][:3]

    @pytest.mark.parametrize(
        "rest, followed",
        [("", True), (", mask", True), (", , past, past", False), (", , past, ", False), (", , , past", False)],
    )
    def test_masks_and_earlier_calls(self, rest: str, followed: bool) -> None:
        weights = f"{WEIGHTS}, float[10, 10] mask, float[2, 2, 4, 3] past"
        if "past" in rest:
            rest, call = ", , past, past", "y, pk, pv"
        else:
            call = "y"
        text = f"{LAYERS} {call} = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v{rest})"
        found = Labelled(onnx_text("float[2, 10, 8] x", "float[a, b, c] y", weights, text, 23))
        assert found.free("q") == followed and (found["y"] == found["v"]) == followed
        assert followed or "earlier calls" in str(found.reasons("q"))

    @pytest.mark.parametrize("outputs", ["y, pk", "y, , pv", "y, pk, pv"])
    def test_that_hand_on_keys_or_values(self, outputs: str) -> None:
        text = f"{LAYERS} {outputs} = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)"
        found = Labelled(onnx_text("float[2, 10, 8] x", "float[a, b, c] y", WEIGHTS, text, 23))
        assert "earlier calls" in str(found.reasons("v")) and set(found["y"]) == {NO_CHANNEL}

    def test_its_scores_are_nobodys(self) -> None:
        text = f"{LAYERS} y, , , s = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) r = Relu (s)"
        found = Labelled(onnx_text("float[2, 10, 8] x", "float[a, b, c] y, float[d, e, f, g] r", WEIGHTS, text, 23))
        assert found.descriptor("s").shape == (1, 1, 1, 1) and set(found["s"]) == {NO_CHANNEL} and found.free("q")

    def test_by_heads_along_an_axis_of_their_own(self) -> None:
        heads = "a = Unsqueeze (q, one) b = Unsqueeze (k, one) c = Unsqueeze (v, one) y = Attention (a, b, c)"
        found = Labelled(
            onnx_text(
                "float[2, 10, 8] x", "float[a, b, c, d] y", f"{WEIGHTS}, int64[1] one = {{1}}", f"{LAYERS} {heads}", 23
            )
        )
        assert found["q"] == found["k"] and distinct(found["q"]) and passes(found, "v")
        assert found["y"] == found["v"] and found.descriptor("y").shape == (1, 1, 1, 6)

    @pytest.mark.parametrize("plain, tied", [("v", True), ("q", False), ("k", False)])
    def test_of_what_no_channel_owns(self, plain: str, tied: bool) -> None:
        sides = ", ".join("i" if side == plain else side for side in "qkv")
        text = f"{LAYERS} y = Attention <q_num_heads = 1, kv_num_heads = 1> ({sides})"
        found = Labelled(onnx_text("float[2, 10, 8] x, float[2, 10, 6] i", "float[a, b, c] y", WEIGHTS, text, 23))
        other = "k" if plain == "q" else "q"
        assert found.free(other) == tied
        if plain == "v":
            assert found.descriptor("y").shape == (1, 1, 1) and found["y"] == [NO_CHANNEL]
            assert {index for node, index in found.channels.contractions if node.op == "Attention"} == {0, 1}

    def test_of_nothing_but_plain_data(self) -> None:
        text = f"{LAYERS} n = Softmax (v) y = Attention <q_num_heads = 1, kv_num_heads = 1> (i, i, n)"
        found = Labelled(onnx_text("float[2, 10, 8] x, float[2, 10, 6] i", "float[a, b, c] y", WEIGHTS, text, 23))
        assert not [node for node, _ in found.channels.contractions if node.op == "Attention"]

    def test_heads_of_which_one_has_a_value_that_no_channel_owns(self) -> None:
        """That position is held in every head, and belongs to nobody in what comes out."""
        parts = "n = Slice (i, zero, one, two) m = Concat <axis = 2> (n, o)"
        weights = f"{WEIGHTS}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] two = {{2}}"
        text = f"{LAYERS} o = MatMul (h, o.w) {parts} y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, m)"
        found = Labelled(onnx_text("float[2, 10, 8] x, float[2, 10, 6] i", "float[a, b, c] y", weights, text, 23))
        first, second = found["m"][:3], found["m"][3:]
        assert first[1:] == second[1:] and NO_CHANNEL not in first[1:]
        assert found["y"] == [NO_CHANNEL, *first[1:]] * 2
        assert found.channels.frozen[second[0]] is not None and "reaches" in str(found.channels.frozen[first[1]])

    @pytest.mark.parametrize("index", [4, 5])
    def test_one_of_the_earlier_states_is_enough(self, index: int) -> None:
        """An exporter may leave the other one out: nothing is known of either."""
        text = f"{LAYERS} y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)"
        model = build(onnx_text("float[2, 10, 8] x", "float[a, b, c] y", WEIGHTS, text, 23))
        (node,) = (node for node in model.graph.nodes if node.op == "Attention")
        empty = [gs.Variable.empty() for _ in range(index - 3)]
        node.inputs = [*node.inputs, *empty, gs.Constant("past", np.zeros((2, 2, 4, 3), np.float32))]
        channels = analyse_channels(model.graph)
        labels = channels.labels_of(model.graph.tensors()["q"])
        assert labels is not None and all("earlier calls" in str(channels.frozen[cls]) for cls in labels.reshape(-1))


class TestRecurrent:
    @pytest.mark.parametrize("op, rows", [("LSTM", 16), ("GRU", 12), ("RNN", 4)])
    def test_each_kind(self, op: str, rows: int) -> None:
        weights = f"{WEIGHTS}, float[1, {rows}, 8] w, float[1, {rows}, 4] r"
        text = f"e = MatMul (h, e.w) n = Relu (e) a, b = {op} <hidden_size = 4> (n, w, r) y = Squeeze (b)"
        found = Labelled(onnx_text("float[2, 10, 8] x", "float[a, b] y", weights, f"{LAYERS} {text}"))
        (use,) = [use for use in found.channels.uses if use.constant.name == "w"]
        assert (use.axis, use.role, use.labels.tolist()) == (2, "in", found["n"]) and found.free("n")
        assert found.descriptor("a").shape == (1, 1, 1, 1) and found.descriptor("b").shape == (1, 1, 1)

    def test_of_plain_data_nothing_is_noted(self) -> None:
        body = "n = Relu (x) a, b = LSTM <hidden_size = 4> (n, lstm.w, lstm.r) y = Squeeze (b)"
        found = Labelled(onnx_text("float[2, 10, 8] x", "float[a, b] y", WEIGHTS, body))
        assert not found.channels.uses and not found.channels.contractions

    def test_by_a_computed_weight(self) -> None:
        body = "e = MatMul (h, e.w) n = Relu (e) c = Mul (lstm.w, peak) a, b = LSTM <hidden_size = 4> (n, c, lstm.r)"
        found = graph(f"peak = ReduceMax <keepdims = 0> (x) {body} y = Squeeze (b)", "float[a, b] y")
        assert "weight is computed" in str(found.reasons("n"))

    def test_the_input_is_read_by_the_weights_last_axis(self) -> None:
        body = "e = MatMul (h, e.w) n = Relu (e) r, s = LSTM <hidden_size = 4> (n, lstm.w, lstm.r) y = Squeeze (s)"
        found = graph(body, "float[a, b] y")
        assert distinct(found["n"]) and found.free("n") and found["n"] == found["e"]
        assert set(found["r"]) == set(found["s"]) == {NO_CHANNEL}
        assert [index for node, index in found.channels.contractions if node.op == "LSTM"] == [0]
        (use,) = [use for use in found.channels.uses if use.constant.name == "lstm.w"]
        assert (use.axis, use.role, use.labels.tolist()) == (2, "in", found["n"])


class TestByAConstant:
    """What a constant matrix is to the channels of the other side: (axis, role, whose labels), and what comes out."""

    ROWS = "r = Relu (z) q = MatMul (r, q.w) t = Transpose <perm = [1, 0]> (q) k = MatMul (r, k.w)"
    STACK = "b = Transpose <perm = [2, 0, 1]> (q)"

    def rows(self, weights: str, body: str, outputs: str = "float[a, b] y") -> Labelled:
        """`q` and `k` are (10, 6), their channels along the last axis; `t` is `q` turned."""
        given = f"float[8, 6] q.w, float[8, 6] k.w, {weights}"
        return Labelled(onnx_text("float[10, 8] z", outputs, given, f"{self.ROWS} {body}"))

    def used(self, found: Labelled) -> list[tuple[int, str, list[int]]]:
        """How `w` is used."""
        return [
            (use.axis, use.role, use.labels.tolist()) for use in found.channels.uses if use.constant.name == "w"
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "size, call, reading, making",
        [
            ("6, 5", "MatMul (q, w)", 0, 1),
            ("5, 6", "MatMul (w, t)", 1, 0),
            ("6, 5", "Gemm (q, w)", 0, 1),
            ("5, 6", "Gemm <transB = 1> (q, w)", 1, 0),
            ("6, 5", "Gemm <transA = 1> (t, w)", 0, 1),
            ("5, 6", "Gemm <transB = 1> (w, q)", 1, 0),
            ("6, 5", "Gemm <transA = 1> (w, t)", 0, 1),
            ("6, 5", "Gemm <transA = 1, transB = 1> (w, q)", 0, 1),
        ],
    )
    def test_summed_over(self, size: str, call: str, reading: int, making: int) -> None:
        """They are read along one axis of it, and the other one makes new ones."""
        left = "(w" in call
        found = self.rows(f"float[{size}] w", f"m = {call} y = Relu (m)")
        made = found["m"]
        assert found.descriptor("m").shape == ((5, 1) if left else (1, 5)) and distinct(made)
        assert sorted(self.used(found)) == sorted([(reading, "in", found["q"]), (making, "out", made)])
        assert [index for node, index in found.channels.contractions if node.name and node.outputs[0].name == "m"] == [
            1 if left else 0
        ]

    @pytest.mark.parametrize(
        "size, call, shape",
        [
            ("5, 10", "MatMul (w, q)", (1, 6)),
            ("10, 5", "MatMul (t, w)", (6, 1)),
            ("10, 5", "Gemm <transA = 1> (q, w)", (6, 1)),
            ("5, 10", "Gemm <transB = 1> (w, t)", (1, 6)),
            ("10, 5", "Gemm <transA = 1> (w, q)", (1, 6)),
            ("5, 10", "Gemm <transB = 1> (t, w)", (6, 1)),
        ],
    )
    def test_passed_on(self, size: str, call: str, shape: tuple[int, int]) -> None:
        """Where other things than channels are summed over, and the constant is not cut."""
        found = self.rows(f"float[{size}] w", f"m = {call} y = Relu (m)")
        assert found.descriptor("m").shape == shape and found["m"] == found["q"] and distinct(found["q"])
        assert not self.used(found) and not [n for n, _ in found.channels.contractions if n.outputs[0].name == "m"]

    @pytest.mark.parametrize(
        "size, axis",
        [("6, 10, 7", 0), ("1, 10, 7", None), ("10, 7", None), ("3, 6, 10, 7", 1), ("3, 1, 10, 7", None)],
    )
    def test_a_stack_of_matrices(self, size: str, axis: int | None) -> None:
        """Matrix by matrix: a stack of as many has one for each channel."""
        rank = max(3, size.count(",") + 1)
        text = f"{LAYERS} {self.STACK} m = MatMul (b, w) y = Relu (m)"
        outputs = f"float[{', '.join('abcd'[:rank])}] y"
        found = Labelled(onnx_text("float[2, 10, 8] x", outputs, f"{WEIGHTS}, float[{size}] w", text))
        shape = [1] * rank
        shape[-3] = 6
        assert found["m"] == found["q"] and list(found.descriptor("m").shape) == shape and passes(found, "q")
        assert self.used(found) == ([] if axis is None else [(axis, "channel", found["q"])])

    @pytest.mark.parametrize("call, size", [("MatMul (q, w)", "6"), ("MatMul (w, t)", "6"), ("MatMul (w, q)", "10")])
    def test_a_vector_is_not_followed(self, call: str, size: str) -> None:
        found = self.rows(f"float[{size}] w", f"m = {call} y = Relu (m)", "float[a] y")
        assert "vectors" in str(found.reasons("q")) and not self.used(found)

    @pytest.mark.parametrize(
        "call, axis, shape",
        [
            ("Gemm (q, v, w)", 0, "5"), ("Gemm (q, v, w)", 1, "1, 5"), ("Gemm (q, v, w)", 1, "10, 5"),
            ("Gemm (q, v, w)", None, "10, 1"), ("Gemm (q, v, w)", None, "1"),
            ("Gemm (u, t, w)", 0, "5, 1"), ("Gemm (u, t, w)", None, "10"), ("Gemm (u, t, w)", 0, "5, 10"),
        ],
    )  # fmt: skip
    def test_a_bias(self, call: str, axis: int | None, shape: str) -> None:
        found = self.rows(f"float[6, 5] v, float[5, 6] u, float[{shape}] w", f"m = {call} y = Relu (m)")
        assert self.used(found) == ([] if axis is None else [(axis, "channel", found["m"])])

    def test_a_bias_that_is_computed(self) -> None:
        found = self.rows("float[6, 6] v, float[6, 6] u", "p = MatMul (q, u) m = Gemm (k, v, p) y = Relu (m)")
        assert found["m"] == found["p"] and distinct(found["m"]) and passes(found, "p")


class TestOfTwoComputed:
    ROWS = TestByAConstant.ROWS

    def rows(self, body: str) -> Labelled:
        return TestByAConstant().rows("float[6, 6] e.w", body)

    @pytest.mark.parametrize(
        "call",
        [
            "MatMul (q, s)",
            "Gemm <transB = 1> (q, k)",
            "Gemm <transA = 1> (t, s)",
            "Gemm <transA = 1, transB = 1> (t, k)",
        ],
    )
    def test_summed_over_channels(self, call: str) -> None:
        found = self.rows(f"s = Transpose <perm = [1, 0]> (k) m = {call} y = Relu (m)")
        assert found["q"] == found["k"] and distinct(found["q"]) and set(found["m"]) == {NO_CHANNEL}
        assert {index for node, index in found.channels.contractions if node.outputs[0].name == "m"} == {0, 1}

    @pytest.mark.parametrize(
        "call",
        [
            "MatMul (t, k)",
            "Gemm <transA = 1> (q, k)",
            "Gemm <transB = 1> (t, s)",
            "Gemm <transA = 1, transB = 1> (q, s)",
        ],
    )
    def test_of_rows_and_columns(self, call: str) -> None:
        found = self.rows(f"s = Transpose <perm = [1, 0]> (k) m = {call} y = Relu (m)")
        assert found["m"] == found["q"] and found.descriptor("m").shape == (6, 1)
        assert "two sets of channels" in str(found.reasons("k")) and passes(found, "q")
        assert not [node for node, _ in found.channels.contractions if node.outputs[0].name == "m"]

    @pytest.mark.parametrize("first", [True, False])
    def test_a_stack_and_one_for_all(self, first: bool) -> None:
        """The one that stands for all of them is none's; a stack of plain matrices beside channels holds them."""
        body = f"{TestByAConstant.STACK} c = ReduceSum <keepdims = 0> (p, one) y = MatMul ({{}})"
        sides = "b, d" if first else "c, g"
        more = "d = Transpose <perm = [1, 0]> (c) g = Transpose <perm = [0, 2, 1]> (b)"
        text = body.replace(" y =", f" {more} y =").format(sides)
        weights = f"{WEIGHTS}, int64[1] one = {{0}}"
        found = Labelled(
            onnx_text("float[2, 10, 8] x, float[2, 6, 10] p", "float[a, b, c] y", weights, f"{LAYERS} {text}")
        )
        assert found["y"] == found["q"] and found.descriptor("y").shape == (6, 1, 1) and passes(found, "q")

    @pytest.mark.parametrize("sides", ["b, g", "e, b"])
    def test_a_stack_of_plain_ones(self, sides: str) -> None:
        plain = "g = Softmax (p) e = Transpose <perm = [0, 2, 1]> (g)"
        text = f"{LAYERS} {TestByAConstant.STACK} {plain} y = MatMul ({sides})"
        inputs = "float[2, 10, 8] x, float[6, 10, 4] p" if sides[0] == "b" else "float[2, 10, 8] x, float[6, 2, 4] p"
        found = Labelled(onnx_text(inputs, "float[a, b, c] y", WEIGHTS, text))
        assert "no channel owns" in str(found.reasons("q"))

    def test_more_axes_on_one_side(self) -> None:
        body = "u = Unsqueeze (b, z) s = Transpose <perm = [0, 2, 1]> (b) m = MatMul (u, s)"
        text = f"{LAYERS} {TestByAConstant.STACK} {body}"
        found = Labelled(onnx_text("float[2, 10, 8] x", "float[a, b, c, d] m", f"{WEIGHTS}, int64[1] z = {{0}}", text))
        assert found["m"] == found["q"] and found.descriptor("m").shape == (1, 6, 1, 1)


class TestExpand:
    def expanded(self, size: int) -> Labelled:
        """One filter's map, spread over several channels, tokens or nothing."""
        weights = f"float[1,3,1,1] a.weight, int64[4] s = {{1,{size},8,8}}, float[2,{size},1,1] y.weight"
        body = "a = Conv (x, a.weight) e = Expand (a, s) y = Conv (e, y.weight)"
        return Labelled(onnx_text("float[1,3,8,8] x", "float[i,j,k,l] y", weights, body))

    def test_one_channel_that_is_repeated_stays(self) -> None:
        for size in (2, 5):
            found = self.expanded(size)
            assert "repeats one channel" in str(found.reasons("a")) and set(found["e"]) == {NO_CHANNEL}

    def test_to_its_own_size_it_is_handed_on(self) -> None:
        found = self.expanded(1)
        assert found["e"] == found["a"] != [NO_CHANNEL]
