"""The channel-label analysis, rule by rule: what is tied to what, and what is frozen, and why."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.analysis.movement import MOVERS
from onnxslim_yolo.analysis.rules import RULES
from tests.analysis.graphs import Labelled, distinct, onnx_text

STEM = "float[4,3,1,1] a.weight, float[4,3,1,1] b.weight"
BOTH = "a = Conv(x, a.weight) b = Conv(x, b.weight)"


def two(weights: str, body: str, outputs: str = "float[p,q,r,s] y", opset: int = 17) -> Labelled:
    """What follows two convolutions `a` and `b` of four channels each."""
    separator = ", " if weights else ""
    return Labelled(onnx_text("float[1,3,6,6] x", outputs, STEM + separator + weights, f"{BOTH} {body}", opset))


TAIL = "float[2,4,1,1] z"


def test_convolutions_make_channels() -> None:
    g = two(TAIL, "s = Add(a, b) y = Conv(s, z)")
    assert distinct(g["a"]) and distinct(g["y"])
    assert g.channels.labels_of(g.model.graph.tensors()["x"]) is None
    assert set(g["a"]).isdisjoint(g["y"])


def test_adding_ties_element_by_element() -> None:
    g = two(TAIL, "s = Add(a, b) y = Conv(s, z)")
    assert g["a"] == g["b"] == g["s"]
    assert g.groups()[("a", "b")] == 4


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sum", "Mean", "PRelu"])
def test_elementwise_of_two(op: str) -> None:
    g = two(TAIL, f"s = {op}(a, b) y = Conv(s, z)")
    assert g["a"] == g["b"] == g["s"] and g.free("a")


@pytest.mark.parametrize(
    "op", ["Relu", "Sigmoid", "HardSwish", "LeakyRelu", "Softplus", "Tanh", "Exp", "Sqrt", "Erf", "Clip", "Identity"]
)
def test_elementwise_of_one(op: str) -> None:
    g = two(TAIL, f"s = {op}(a) t = Add(s, b) y = Conv(t, z)")
    assert g["s"] == g["a"] and g.free("a")


def test_independent_convolutions_stay_independent() -> None:
    g = two("float[2,8,1,1] z", "c = Concat<axis=1>(a, b) y = Conv(c, z)")
    assert distinct(g["c"]) and g["c"] == g["a"] + g["b"]
    assert g.groups()[("a",)] == g.groups()[("b",)] == 4


def test_concat_ties_nothing_but_across_other_axes() -> None:
    g = two(TAIL, "c = Concat<axis=2>(a, b) y = Conv(c, z)")
    assert g["a"] == g["b"] == g["c"] and g.free("a")


def test_concat_with_a_constant_across_another_axis() -> None:
    """A class token, a border: cut along with the channels it stands beside."""
    g = two("float[2,4,1,1] z, float[1,4,1,6] table", "c = Concat<axis=2>(a, table) y = Conv(c, z)")
    assert g.free("a") and g["c"] == g["a"]
    assert [(use.axis, use.labels.tolist()) for use in g.channels.uses if use.constant.name == "table"] == [(1, g["a"])]


def test_concat_with_plain_data_across_another_axis() -> None:
    """Computed by nobody's channels, beside them: nobody could cut it along."""
    g = Labelled(
        onnx_text(
            "float[1,3,6,6] x, float[1,4,1,6] table",
            "float[p,q,r,s] y",
            "float[4,3,1,1] a.weight, float[2,4,1,1] z",
            "a = Conv(x, a.weight) c = Concat<axis=2>(a, table) y = Conv(c, z)",
        )
    )
    (reason,) = g.reasons("a")
    assert reason is not None and "Concat" in reason


def test_split_slice_gather() -> None:
    g = two(
        "int64[2] sizes = {1, 3}, int64[1] i = {1}, int64[1] j = {3}, int64[4] order = {3,1,0,2}, float[2,1,1,1] z, "
        "float[2,2,1,1] w, float[2,4,1,1] v",
        "p, q = Split<axis=1>(a, sizes) s = Slice(a, i, j, i) k = Gather<axis=1>(a, order)"
        " u1 = Conv(p, z) u2 = Conv(s, w) u3 = Conv(k, v) t = Add(u1, u2) y = Add(t, u3)",
    )
    a = g["a"]
    assert g["p"] == a[:1] and g["q"] == a[1:] and g["s"] == a[1:3] and g["k"] == [a[3], a[1], a[0], a[2]]


def test_transposed_and_reshaped() -> None:
    g = two(
        "int64[3] flat = {1, 4, 36}, float[4,2] w",
        "r = Reshape(a, flat) t = Transpose<perm=[0,2,1]>(r) y = MatMul(t, w)",
        "float[p,q,r] y",
    )
    assert g.descriptor("r").shape == (1, 4, 1) and g.descriptor("t").shape == (1, 1, 4)
    assert g["t"] == g["a"] and g.free("a")


def test_a_reshape_that_splits_the_channels_ties_its_rows() -> None:
    """A tensor stays a box: heads × positions, of which whole positions go."""
    g = two(
        "int64[5] s = {1,2,2,6,6}, int64[4] t = {1,4,6,6}, float[2,4,1,1] z",
        "r = Reshape(a, s) u = Reshape(r, t) y = Conv(u, z)",
    )
    a = g["a"]
    assert a[:2] == a[2:] and distinct(a[:2])
    assert g.descriptor("r").shape == (1, 1, 2, 1, 1)


def test_flatten_repeats_a_channels_pixels() -> None:
    g = two("float[144,2] w", "f = Flatten(a) y = MatMul(f, w)", "float[p,q] y")
    assert g["f"] == np.repeat(g["a"], 36).tolist() and g.free("a")


def test_depthwise_passes_on_and_multiplies() -> None:
    g = two("float[8,1,3,3] d, float[2,8,1,1] z", "c = Conv<group=4>(a, d) y = Conv(c, z)")
    assert g["c"] == np.repeat(g["a"], 2).tolist() and g.free("a")


def test_depthwise_on_the_image_is_frozen() -> None:
    """Three copies of an unlabelled input belong to no channel."""
    g = Labelled(
        onnx_text(
            "float[1,3,6,6] x",
            "float[p,q,r,s] y",
            "float[3,1,3,3] d, float[2,3,1,1] z",
            "c = Conv<group=3>(x, d) y = Conv(c, z)",
        )
    )
    assert set(g["c"]) == {NO_CHANNEL}


def test_grouped_convolution_balances_its_parts() -> None:
    g = two("float[6,2,1,1] w, float[2,6,1,1] z", "c = Conv<group=2>(a, w) y = Conv(c, z)")
    assert distinct(g["c"]) and set(g["c"]).isdisjoint(g["a"])
    parts = [balance.parts.tolist() for balance in g.channels.balances]
    assert [g["a"][:2], g["a"][2:]] in parts and [g["c"][:3], g["c"][3:]] in parts
    use = next(use for use in g.channels.uses if use.constant.name == "w" and use.axis == 1)
    assert use.labels.tolist() == [g["a"][:2], g["a"][2:]] and use.role == "in"


def test_conv_transpose() -> None:
    g = two("float[4,3,2,2] w, float[2,3,1,1] z", "c = ConvTranspose(a, w) y = Conv(c, z)")
    roles = {(use.constant.name, use.axis): use.role for use in g.channels.uses}
    assert roles[("w", 0)] == "in" and roles[("w", 1)] == "out"
    grouped = two("float[4,3,2,2] w, float[2,6,1,1] z", "c = ConvTranspose<group=2>(a, w) y = Conv(c, z)")
    assert grouped["c"][:3] == grouped["c"][3:]  # the weight's axis 1 is shared by the groups


def test_gate() -> None:
    g = two(
        "float[2,4,1,1] s.weight, float[4,2,1,1] e.weight, float[2,4,1,1] z",
        "m = GlobalAveragePool(a) s = Conv(m, s.weight) e = Conv(s, e.weight) w = Sigmoid(e) t = Mul(a, w)"
        " y = Conv(t, z)",
    )
    assert g["e"] == g["a"] == g["t"] and distinct(g["s"]) and g.free("a") and g.free("s")


def test_a_one_channel_gate_stays() -> None:
    g = two("float[1,4,1,1] s.weight, float[2,4,1,1] z", "s = Conv(a, s.weight) t = Mul(b, s) y = Conv(t, z)")
    assert g["t"] == g["b"] and g.free("b") and g.free("a")
    assert "broadcasts it over other channels" in str(g.reasons("s"))


def test_per_channel_constants_are_sliced() -> None:
    g = two(
        "float[1,4,1,1] scale, float[4,1,1] shift, float[6] row, float one, float[2,4,1,1] z",
        "p = Mul(a, scale) q = Add(p, shift) r = Add(q, row) t = Add(r, one) y = Conv(t, z)",
    )
    used = {(use.constant.name, use.axis) for use in g.channels.uses if use.role == "channel"}
    assert used == {("scale", 1), ("shift", 0)}
    assert g.free("a")


def test_plain_data_of_the_same_extent_freezes() -> None:
    g = Labelled(
        onnx_text(
            "float[1,3,6,6] x, float[1,4,6,6] other",
            "float[p,q,r,s] y",
            "float[4,3,1,1] a.weight, float[2,4,1,1] z",
            "a = Conv(x, a.weight) t = Add(a, other) y = Conv(t, z)",
        )
    )
    assert "combines them with values that no channel owns" in str(g.reasons("a"))


def test_batch_norm_and_instance_norm() -> None:
    norm = "float[4] n.gamma, float[4] n.beta, float[4] n.mean, float[4] n.var"
    g = two(f"{norm}, {TAIL}", "h = BatchNormalization(a, n.gamma, n.beta, n.mean, n.var) y = Conv(h, z)")
    assert g["h"] == g["a"] and g.free("a")
    assert sum(use.role == "channel" for use in g.channels.uses) == 4
    g = two(f"{norm}, {TAIL}", "h = InstanceNormalization(a, n.gamma, n.beta) y = Conv(h, z)")
    assert g["h"] == g["a"] and g.free("a")


FROZEN = {
    "layer-norm": (
        "int64[3] f = {1,4,36}, float[4] g, float[4] h, float[4,2] w",
        "r = Reshape(a, f) t = Transpose<perm=[0,2,1]>(r) n = LayerNormalization(t, g, h) y = MatMul(n, w)",
        "LayerNormalization .* normalises over channels",
    ),
    "layer-norm-written-out": (
        "int64[3] f = {1,4,36}, float two = {2.0}, float[4,2] w",
        "r = Reshape(a, f) t = Transpose<perm=[0,2,1]>(r) m = ReduceMean<axes=[-1]>(t) d = Sub(t, m) q = Pow(d, two)"
        " v = ReduceMean<axes=[-1]>(q) s = Sqrt(v) n = Div(d, s) y = MatMul(n, w)",
        "Sub .* normalises over channels",
    ),
    "centred-channels": (TAIL, "m = ReduceMean(a) h = Sub(a, m) y = Conv(h, z)", "Sub .* normalises over channels"),
    "softmax": (TAIL, "h = Softmax<axis=1>(a) y = Conv(h, z)", "Softmax .* normalises over channels"),
    "reduce-prod": (
        "float[2,1,1,1] z",
        "h = ReduceProd<axes=[1]>(a) y = Conv(h, z)",
        "ReduceProd .* reduces over channels",
    ),
    "lrn": (TAIL, "h = LRN<size=3>(a) y = Conv(h, z)", "LRN .* normalises over channels"),
    "cumsum": ("int64 i = {1}, " + TAIL, "h = CumSum(a, i) y = Conv(h, z)", "CumSum .* works along its channels"),
    "gather-elements": (
        f"int64[1,4,6,6] i, {TAIL}",
        "h = GatherElements<axis=3>(a, i) y = Conv(h, z)",
        "positions are a table as wide as the channels",
    ),
    "gather-elements-of-channels": (
        f"int64[1,4,6,6] i, {TAIL}",
        "h = GatherElements<axis=1>(a, i) y = Conv(h, z)",
        "picks among channels",
    ),
    "argmax": ("", "h = ArgMax<axis=1>(a) y = Cast<to=1>(h)", "ArgMax .* works along its channels"),
    "reflecting-pad": (
        "int64[8] p = {0,1,0,0,0,1,0,0}, float[2,6,1,1] z",
        'h = Pad<mode="reflect">(a, p) y = Conv(h, z)',
        "reflects or repeats channels",
    ),
    "output": ("", "y = Relu(a)", "reaches the output 'y'"),
    "transposed-into-space": (
        "float[2,6,1,1] z",
        "h = Transpose<perm=[0,2,1,3]>(a) y = Conv(h, z)",
        "expects channels on axis 1 only",
    ),
}


@pytest.mark.parametrize("case", FROZEN)
def test_what_freezes_and_why(case: str) -> None:
    weights, body, reason = FROZEN[case]
    rank = {"layer-norm": "float[p,q,r] y"}.get(case, "float[p,q,r,s] y")
    g = two(weights, body, rank)
    (found,) = g.reasons("a")
    assert found is not None
    assert re.search(reason, found), found


PASSING = {
    "max-pool": (TAIL, "h = MaxPool<kernel_shape=[2,2]>(a) y = Conv(h, z)"),
    "average-pool": (TAIL, "h = AveragePool<kernel_shape=[2,2]>(a) y = Conv(h, z)"),
    "global-max-pool": (TAIL, "h = GlobalMaxPool(a) y = Conv(h, z)"),
    "resize": (f"float[0] roi, float[4] f = {{1.0,1.0,2.0,2.0}}, {TAIL}", "h = Resize(a, roi, f) y = Conv(h, z)"),
    "softmax-over-space": (TAIL, "h = Softmax<axis=3>(a) y = Conv(h, z)"),
    "pad-space": (f"int64[8] p = {{0,0,1,1,0,0,1,1}}, {TAIL}", 'h = Pad<mode="reflect">(a, p) y = Conv(h, z)'),
    "expand-space": (f"int64[4] s = {{1,4,6,6}}, {TAIL}", "g = GlobalAveragePool(a) h = Expand(g, s) y = Conv(h, z)"),
    "mean-over-space": (TAIL, "h = ReduceMean<axes=[-1,-2]>(a) y = Conv(h, z)"),
    "tile-space": (f"int64[4] s = {{1,1,2,1}}, {TAIL}", "h = Tile(a, s) y = Conv(h, z)"),
    "grid-sample": (f"float[1,6,6,2] where, {TAIL}", "h = GridSample(a, where) y = Conv(h, z)"),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_passes_channels_on(case: str) -> None:
    weights, body = PASSING[case]
    opset = 16 if case == "grid-sample" else 17
    g = two(weights, body, opset=opset)
    assert g["h"] == g["a"] and g.free("a") and distinct(g["a"])


def test_padded_channels_are_free_to_go_where_they_are_zero() -> None:
    g = two("int64[8] p = {0,1,0,0,0,2,0,0}, float[2,7,1,1] z", "h = Pad(a, p) y = Conv(h, z)")
    assert g["h"][1:5] == g["a"] and g.free("h") and distinct(g["h"])
    g = two("int64[8] p = {0,1,0,0,0,2,0,0}, float v = {1}, float[2,7,1,1] z", "h = Pad(a, p, v) y = Conv(h, z)")
    assert g["h"] == [NO_CHANNEL, *g["a"], NO_CHANNEL, NO_CHANNEL] and g.free("a")


def test_repeated_channels() -> None:
    g = two("int64[4] s = {1,2,1,1}, float[2,8,1,1] z", "h = Tile(a, s) y = Conv(h, z)")
    assert g["h"] == g["a"] * 2 and g.free("a")


def test_pixel_shuffles() -> None:
    g = two("float[2,1,1,1] z", "h = DepthToSpace<blocksize=2>(a) y = Conv(h, z)")
    assert len(set(g["a"])) == 1
    g = two("float[2,16,1,1] z", "h = SpaceToDepth<blocksize=2>(a) y = Conv(h, z)")
    assert g["h"] == g["a"] * 4 and g.free("a")


def test_sums_over_channels_leave_them_free() -> None:
    for op in ("ReduceL2", "ReduceMean"):
        g = two("float[2,1,1,1] z", f"h = {op}<axes=[1]>(a) y = Conv(h, z)")
        assert g.free("a") and set(g["h"]) == {NO_CHANNEL}
        assert any(node.op == op for node, _ in g.channels.contractions)


def test_attention_products() -> None:
    g = two(
        "int64[3] f = {1,4,36}, float[4,2] w",
        "p = Reshape(a, f) q = Reshape(b, f) pt = Transpose<perm=[0,2,1]>(p) s = MatMul(pt, q) m = Softmax(s)"
        " o = MatMul(p, m) t = Transpose<perm=[0,2,1]>(o) y = MatMul(t, w)",
        "float[p,q,r] y",
    )
    assert g["a"] == g["b"] == g["o"] and set(g["s"]) == {NO_CHANNEL} and g.free("a")


@pytest.mark.parametrize("rank", [3, 4])
def test_attention_as_one_node_ties_queries_to_keys_and_passes_values_on(rank: int) -> None:
    """Two heads of 4 positions: matrices of 8 columns, or heads as an axis."""
    size, rows = ("1,2,5,6", 4) if rank == 4 else ("1,5,6", 8)
    heads = "" if rank == 4 else "<q_num_heads=2, kv_num_heads=2>"
    axes = ", ".join("pqrs"[:rank])
    g = Labelled(
        onnx_text(
            f"float[{size}] x",
            f"float[{axes}] y",
            f"float[6,{rows}] q.weight, float[6,{rows}] k.weight, float[6,{rows}] v.weight, float[{rows},3] w",
            f"q = MatMul(x, q.weight) k = MatMul(x, k.weight) v = MatMul(x, v.weight) o = Attention{heads}(q, k, v)"
            " y = MatMul(o, w)",
            opset=23,
        )
    )
    assert g.descriptor("o").shape == (1,) * (rank - 1) + (rows,)
    assert g["q"] == g["k"] and g["v"] == g["o"] and not set(g["q"]) & set(g["v"])
    assert len(set(g["q"])) == len(set(g["v"])) == 4  # as in one head, so in the other


def test_shared_weights_tie_their_readers() -> None:
    g = two(TAIL, "u = Conv(a, z) v = Conv(b, z) y = Add(u, v)")
    assert g["a"] == g["b"]


def test_a_computed_weight_freezes() -> None:
    g = Labelled(
        onnx_text(
            "float[1,3,6,6] x, float[2,4,1,1] w",
            "float[p,q,r,s] y",
            "float[4,3,1,1] a.weight",
            "a = Conv(x, a.weight) y = Conv(a, w)",
        )
    )
    assert "its weight is computed, not constant" in str(g.reasons("a"))


def test_a_computed_reshape_freezes() -> None:
    g = Labelled(
        onnx_text(
            "float[1,3,6,6] x, int64[3] s",
            "float[p,q,r] y",
            "float[4,3,1,1] a.weight",
            "a = Conv(x, a.weight) y = Reshape(a, s)",
        )
    )
    assert len(g.reasons("a")) == 1 and None not in g.reasons("a")


def test_a_symbolic_batch_is_taken_as_one() -> None:
    g = Labelled(
        onnx_text(
            "float[N,3,6,6] x",
            "float[p,q,r,s] y",
            f"float[4,3,1,1] a.weight, {TAIL}",
            "a = Conv(x, a.weight) y = Conv(a, z)",
        )
    )
    assert distinct(g["a"]) and g.free("a")
    assert g.model.graph.inputs[0].shape[0] == "N"


def test_groups_have_the_same_members() -> None:
    """Channels of one layer that different layers know are chosen in separate groups."""
    g = two(
        "float[2,2,1,1] z, float[2,4,1,1] w, float[2,2,1,1] v",
        "p, q = Split<axis=1>(a) u1 = Conv(p, z) u2 = Conv(a, w) y = Add(u1, u2)",
    )
    widths = sorted(group.width for group in g.channels.groups if "a" in group.members)
    assert widths == [2, 2]
    assert (g.channels.group_of[g["a"][:2]] != g.channels.group_of[g["a"][2]]).all()


def test_classes_are_numbered_in_order_of_appearance() -> None:
    g = two(TAIL, "s = Add(a, b) y = Conv(s, z)")
    assert g["a"] == [0, 1, 2, 3] and g["y"] == [4, 5] and g.channels.count == 6


def test_every_mover_has_a_rule() -> None:
    assert set(MOVERS) <= set(RULES)
