"""slice: every construct that ties, moves or counts channels, cut and compared with the mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.errors import PassError
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import Canonicalise, PruneChannels, ShuffleToGather, SliceChannels
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.plan import open_plan, plan_as_json
from tests.numeric import assert_control_fails, assert_same, build, constants, ops, random_feeds, run_onnx
from tests.passes.cutting import check_slice, classes_of, onnx_text, remove, remove_random, run, shapes
from tests.passes.slice_constructs import CONSTRUCTS, FIRST, IMAGE, RESULT, STEM, conv


def construct(name: str) -> str:
    c = CONSTRUCTS[name]
    return onnx_text(IMAGE, c.outputs, f"{STEM}, {c.weights}", f"{FIRST} {c.body}", c.opset)


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_three_of_eight_channels(name: str) -> None:
    model = build(construct(name))
    remove(model, "h", [1, 4, 6])
    after = check_slice(model)
    assert shapes(after).items() >= {**CONSTRUCTS[name].sizes, "a.weight": (5, 3, 3, 3), "a.bias": (5,)}.items()


def test_a_reshape_says_a_width_of_one() -> None:
    """All but one of a group go: the target's number is one, and nothing else changes."""
    weights = f"int64[4] rows = {{1, 8, 64, 1}}, int64[4] back = {{1, 8, 8, 8}}, {conv('b', 4, 8)}"
    body = f"{FIRST} r = Reshape(h, rows) q = Sigmoid(r) s = Reshape(q, back) y = Conv(s, b.weight)"
    model = build(onnx_text(IMAGE, RESULT, f"{STEM}, {weights}", body))
    remove(model, "h", [0, 1, 2, 3, 5, 6, 7])
    after = check_slice(model)
    targets = [node.inputs[1].values.tolist() for node in after.graph.nodes if node.op == "Reshape"]
    assert targets == [[1, 1, 64, 1], [1, 1, 8, 8]]
    # What a width of one becomes can be cut no further, and wider ones beside it stay.
    wide = f"int64[4] rows = {{1, 1, 8, 64}}, int64[4] back = {{1, 8, 8, 8}}, {conv('b', 4, 8)}"
    model = build(onnx_text(IMAGE, RESULT, f"{STEM}, {wide}", body))
    remove(model, "h", [1, 4, 6])
    after = check_slice(model)
    assert [n.inputs[1].values.tolist() for n in after.graph.nodes if n.op == "Reshape"] == [
        [1, 1, 5, 64],
        [1, 5, 8, 8],
    ]


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_any_allowed_channels(name: str) -> None:
    model = build(construct(name), seed=1)
    remove_random(model, 0.4, seed=2)
    check_slice(model)


def test_the_kept_weights_are_the_sources() -> None:
    model = build(construct("plain"))
    before = constants(model)
    remove(model, "h", [1, 4, 6])
    after = constants(check_slice(model))
    kept = [0, 2, 3, 5, 7]
    np.testing.assert_array_equal(after["a.weight"], before["a.weight"][kept])
    np.testing.assert_array_equal(after["b.weight"], before["b.weight"][:, kept])


def test_the_mask_notices_a_wrong_channel() -> None:
    model = build(construct("plain"))
    plan = remove(model, "h", [1, 4, 6])
    reference = masked(model, plan)
    wrong = model.copy()
    classes, keep = classes_of(model, "h"), plan.keep.copy()
    keep[classes[[1, 2]]] = [True, False]
    wrong.plan = replace(plan, keep=keep)
    with pytest.raises(AssertionError, match="differs by"):
        assert_same(reference, run(wrong, SliceChannels()))


GROUPED = onnx_text(
    IMAGE,
    RESULT,
    f"{STEM}, float[12,4,3,3] g.weight, float[12] g.bias, {conv('b', 4, 12)}",
    f"{FIRST} p = Conv<group=2>(h, g.weight, g.bias) r = Relu(p) y = Conv(r, b.weight)",
)


def test_grouped_convolution() -> None:
    model = build(GROUPED)
    remove(model, "h", [0, 3, 5, 6])
    remove(model, "r", [1, 2, 9, 11])
    after = check_slice(model)
    assert shapes(after)["g.weight"] == (8, 2, 3, 3)
    # The groups keep different channels: one list per group.
    assert after.carried.kept["g.weight"] == {0: [0, 3, 4, 5, 6, 7, 8, 10], 1: [[1, 2], [0, 3]]}


def test_unequal_groups_are_refused() -> None:
    model = build(GROUPED)
    remove(model, "h", [0])
    with pytest.raises(PassError, match=r"pass 'slice'.*groups of .* would keep \[3, 4\]"):
        run(model, SliceChannels())


def test_emptied_tensors_and_frozen_channels_are_refused() -> None:
    model = build(construct("plain"))
    remove(model, "h", range(8))
    with pytest.raises(PassError, match="8 channels would become empty"):
        run(model, SliceChannels())
    model = build(construct("plain"))
    remove(model, "y", [0])
    with pytest.raises(PassError, match="reaches the output 'y'"):
        run(model, SliceChannels())


SHUFFLES = {
    "reshape": "int64[5] split = {BATCH, 2, 4, 8, 8}, int64[4] join = {BATCH, 8, 8, 8}|"
    "s = Reshape(h, split) t = Transpose<perm=[0,2,1,3,4]>(s) k = Reshape(t, join)",
    "reshape-flat": "int64[4] split = {BATCH, 2, 4, 64}, int64[4] join = {BATCH, 8, 8, 8}|"
    "s = Reshape(h, split) t = Transpose<perm=[0,2,1,3]>(s) k = Reshape(t, join)",
    "batch-merged": "int64[3] split = {-1, 2, 64}, int64[5] part = {2, -1, 4, 8, 8}, int64 zero = {0}, int64 one = {1}|"
    "s = Reshape(h, split) t = Transpose<perm=[1,0,2]>(s) u = Reshape(t, part)"
    " v = Gather<axis=0>(u, zero) w = Gather<axis=0>(u, one) k = Concat<axis=1>(v, w)",
    "strided": "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] end = {8}|"
    "v = Slice(h, zero, end, one, two) w = Slice(h, one, end, one, two) k = Concat<axis=1>(v, w)",
    "gather": "int64[8] order = {0,4,1,5,2,6,3,7}|k = Gather<axis=1>(h, order)",
}


@pytest.mark.parametrize("batch", ["1", "N"])
@pytest.mark.parametrize("spelling", SHUFFLES)
def test_channel_shuffles(spelling: str, batch: str) -> None:
    """Any channels may go, not only equally many of each part; with a batch of 1 and with a symbolic one."""
    weights, body = SHUFFLES[spelling].split("|")
    # 0 copies the dimension, as exporters with a dynamic batch spell it
    weights = weights.replace("BATCH", "0" if batch == "N" else "1")
    text = onnx_text(
        IMAGE.replace("[1", f"[{batch}"),
        RESULT,
        f"{STEM}, {weights}, {conv('b', 4, 8)}",
        f"{FIRST} {body} y = Conv(k, b.weight)",
    )
    source = build(text)
    model = run(source, Canonicalise(), ShuffleToGather(), Canonicalise())
    assert_same(source, model)
    remove(model, "h", [0, 1, 6])
    after = check_slice(model)
    assert shapes(after)["b.weight"] == (4, 5, 1, 1)
    assert "Transpose" not in ops(after)


QKV = onnx_text(
    "float[1,3,4,4] x",
    RESULT,
    f"{STEM}, {conv('qkv', 24, 8)}, int64[4] heads = {{1, 2, 12, 16}}, int64[3] parts = {{4, 4, 4}}, "
    f"float scale = {{0.5}}, int64[4] back = {{1, 8, 4, 4}}, {conv('o', 4, 8)}",
    f"{FIRST} z = Conv(h, qkv.weight) r = Reshape(z, heads) q, k, v = Split<axis=2>(r, parts)"
    " qt = Transpose<perm=[0,1,3,2]>(q) s = MatMul(qt, k) u = Mul(s, scale) w = Softmax<axis=-1>(u)"
    " wt = Transpose<perm=[0,1,3,2]>(w) m = MatMul(v, wt) b = Reshape(m, back) y = Conv(b, o.weight)",
)


def test_attention() -> None:
    """Position p of every head goes at once, in q and k together; what reaches the softmax over tokens is free."""
    model = build(QKV)
    classes = classes_of(model, "z").reshape(2, 3, 4)
    np.testing.assert_array_equal(classes[0], classes[1])
    np.testing.assert_array_equal(classes[0, 0], classes[0, 1])
    assert set(classes[0, 2]).isdisjoint(classes[0, 0])
    assert open_plan(model).channels.prunable[classes].all()
    remove(model, "z", [1, 2, 8])  # two of q and k, one of v
    after = check_slice(model)
    assert shapes(after)["qkv.weight"] == (24 - 2 * (2 + 2 + 1), 8, 1, 1)
    assert shapes(after)["o.weight"] == (4, 6, 1, 1)


def test_layer_norm_freezes_with_the_reason() -> None:
    text = onnx_text(
        IMAGE,
        "float[a,b,c] y",
        f"{STEM}, int64[3] flat = {{1, 8, 64}}, float[8] n.gamma, float[8] n.beta, float[8,4] fc.weight",
        f"{FIRST} f = Reshape(h, flat) t = Transpose<perm=[0,2,1]>(f) n = LayerNormalization(t, n.gamma, n.beta)"
        " y = MatMul(n, fc.weight)",
    )
    model = build(text)
    classes = classes_of(model, "h")
    reasons = {open_plan(model).channels.frozen[cls] for cls in classes}
    assert len(reasons) == 1 and "normalises over channels" in str(reasons.pop())


def test_zero_padding_of_widths() -> None:
    """`extra` channels are zeros that nobody's result depends on."""
    model = build(construct("batch-norm-and-prelu"))
    plan = remove(model, "h", [2])
    extra = plan.extra.copy()
    extra[classes_of(model, "h")[5]] = 3
    model.plan = plan = replace(plan, extra=extra)
    reference = masked(model, plan)
    after = run(model, SliceChannels())
    assert shapes(after)["a.weight"] == (10, 3, 3, 3)
    assert shapes(after)["b.weight"] == (4, 10, 1, 1)
    assert_same(reference, after)
    assert_control_fails(reference, after)


def test_the_plan_is_in_the_sources_terms_after_two_slicings() -> None:
    model = build(construct("plain"))
    before = constants(model)["b.weight"]
    for positions in ([0, 5], [1, 2]):  # of the remaining 1 2 3 4 6 7: 2 and 3
        remove(model, "h", positions)
        PassManager([SliceChannels()]).run(model)
    assert model.carried.kept["b.weight"] == {1: [1, 4, 6, 7]}
    np.testing.assert_array_equal(constants(model)["b.weight"], before[:, [1, 4, 6, 7]])
    json = plan_as_json(model)
    assert json["keep"]["a.weight"] == {"0": [1, 4, 6, 7]}


def test_shared_weights_are_cut_once() -> None:
    """A head that runs on two levels: the same weight read twice ties both inputs."""
    text = onnx_text(
        IMAGE,
        f"{RESULT}, float[e,f,g,i] z",
        f"{STEM}, {conv('l', 8, 3)}, {conv('b', 4, 8)}",
        f"{FIRST} k = Conv(x, l.weight) y = Conv(h, b.weight) z = Conv(k, b.weight)",
    )
    model = build(text)
    np.testing.assert_array_equal(classes_of(model, "h"), classes_of(model, "k"))
    remove(model, "h", [3, 4])
    assert shapes(check_slice(model))["l.weight"] == (6, 3, 1, 1)


def test_nothing_planned_changes_nothing() -> None:
    model = build(construct("plain"))
    before = model.to_onnx().SerializeToString()
    assert SliceChannels().run(model) == 0
    open_plan(model)
    assert SliceChannels().run(model) == 0
    assert model.to_onnx().SerializeToString() == before


def test_shapes_are_inferred_anew() -> None:
    model = build(construct("plain"))
    remove(model, "h", [1, 4, 6])
    after = run(model, SliceChannels())
    assert list(after.graph.tensors()["h"].shape or ()) == [1, 5, 8, 8]
    assert run_onnx(after, random_feeds(after))["y"].shape == (1, 4, 4, 4)


def test_ratio_and_slice_from_text() -> None:
    model = build(construct("plain"))
    after = run(model, PruneChannels(ratio=0.5), SliceChannels())
    assert shapes(after)["a.weight"][0] == 4
