"""Channels through products of computed matrices, attention and recurrent layers: what is tied, frozen or free."""

from __future__ import annotations

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from tests.analysis.graphs import Labelled, distinct, onnx_text

WEIGHTS = """float[8, 6] q.w, float[8, 6] k.w, float[8, 6] v.w, float[8, 5] o.w, float[1, 16, 8] lstm.w,
    float[1, 16, 4] lstm.r, float[8, 8] e.w"""
LAYERS = "h = Relu (x) q = MatMul (h, q.w) k = MatMul (h, k.w) v = MatMul (h, v.w)"


def graph(body: str, outputs: str = "float[a, b, c] y", opset: int = 17) -> Labelled:
    """Queries, keys and values of six channels each, of ten tokens (2, 10, 8)."""
    return Labelled(onnx_text("float[2, 10, 8] x, float[2, 6, 10] p", outputs, WEIGHTS, f"{LAYERS} {body}", opset))


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


class TestRecurrent:
    def test_the_input_is_read_by_the_weights_last_axis(self) -> None:
        body = "e = MatMul (h, e.w) n = Relu (e) r, s = LSTM <hidden_size = 4> (n, lstm.w, lstm.r) y = Squeeze (s)"
        found = graph(body, "float[a, b] y")
        assert distinct(found["n"]) and found.free("n") and found["n"] == found["e"]
        assert set(found["r"]) == set(found["s"]) == {NO_CHANNEL}
        assert [index for node, index in found.channels.contractions if node.op == "LSTM"] == [0]
        (use,) = [use for use in found.channels.uses if use.constant.name == "lstm.w"]
        assert (use.axis, use.role, use.labels.tolist()) == (2, "in", found["n"])


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
