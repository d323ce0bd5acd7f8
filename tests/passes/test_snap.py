"""snap: grids, ties, and who comes back or goes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.packing import PACK, host_isa
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import PruneChannels, SliceChannels, SnapWidths
from onnxslim_yolo.pruning.plan import Plan, open_plan
from tests.numeric import assert_same, build
from tests.passes.cutting import classes_of, onnx_text, run, shapes


def chain(*widths: int, values: dict[str, Array] | None = None) -> Model:
    """Convolutions with BatchNorm and ReLU in a row: tensors r0, r1, …"""
    weights, body, before, data = [], [], 3, "x"
    for k, width in enumerate(widths):
        norm = [f"n{k}.{part}" for part in ("gamma", "beta", "mean", "var")]
        weights += [f"float[{width},{before},1,1] c{k}.weight", *(f"float[{width}] {name}" for name in norm)]
        body += [f"c{k} = Conv({data}, c{k}.weight)", f"b{k} = BatchNormalization(c{k}, {', '.join(norm)})"]
        body += [f"r{k} = Relu(b{k})"]
        before, data = width, f"r{k}"
    text = onnx_text(
        "float[1,3,4,4] x",
        "float[a,b,c,d] y",
        ", ".join([*weights, f"float[2,{before},1,1] y.weight"]),
        " ".join([*body, f"y = Conv({data}, y.weight)"]),
    )
    return build(text, values=values)


def planned(width: int, keep: int, importance: Array | None = None, *, lossless: bool = False) -> tuple[Model, Plan]:
    """One layer of which the `keep` most important channels are kept."""
    model = chain(width)
    plan = open_plan(model)
    classes = classes_of(model, "r0")
    values = np.random.default_rng(0).permutation(width) + 1.0 if importance is None else importance
    ranked, there = plan.importance.copy(), plan.without(classes[np.argsort(-values)[keep:]])
    ranked[classes] = values
    removable = ~there.keep if lossless else plan.removable
    model.plan = replace(there, importance=ranked, wanted=there.keep, removable=removable)
    return model, model.plan


def kept(model: Model) -> int:
    assert model.plan is not None
    return int(model.plan.keep[classes_of(model, "r0")].sum())


@pytest.mark.parametrize(
    ("width", "keep", "expected"),
    [
        *((64, n, 8) for n in (1, 4, 7, 8, 11, 12)),  # 12: a tie, the smaller one
        *((64, n, 16) for n in (13, 16, 23, 24)),
        *((64, n, 32) for n in (25, 33, 48)),
        *((64, n, 64) for n in (49, 63, 64)),
        *((48, n, 32) for n in (25, 40, 47)),  # never above the layer's own width
        (48, 48, 48),  # the ranking left it whole
        *((6, n, 4) for n in (1, 3, 5)),  # below the grid: halves of it, down to 4
        (6, 6, 6),
        *((3, n, n) for n in (1, 2, 3)),  # narrower than any register
    ],
)
def test_powers_of_two(width: int, keep: int, expected: int) -> None:
    model, _ = planned(width, keep)
    rewrites = SnapWidths(to="pow2").run(model)
    assert kept(model) == expected
    assert rewrites == int(expected != keep)
    assert SnapWidths(to="pow2").run(model) == 0


@pytest.mark.parametrize(
    ("to", "width", "keep", "expected"),
    [
        (4, 20, 5, 4),
        (4, 20, 6, 4),
        (4, 20, 7, 8),
        (4, 20, 19, 20),
        (4, 18, 17, 16),
        (1, 20, 7, 7),
        (16, 12, 7, 8),
        (10, 100, 44, 40),
        (10, 100, 46, 50),
        (10, 100, 1, 10),
    ],
)
def test_multiples(to: int, width: int, keep: int, expected: int) -> None:
    model, _ = planned(width, keep)
    SnapWidths(to=to).run(model)
    assert kept(model) == expected


@pytest.mark.parametrize(("isa", "expected"), [("avx512", 16), ("avx2", 24), ("neon-fp16", 24), ("neon", 20)])
def test_auto_is_the_pack_width_of_the_instruction_set(isa: str, expected: int) -> None:
    model, _ = planned(64, 21)
    SnapWidths(to="auto", isa=isa).run(model)  # type: ignore[arg-type]
    assert kept(model) == expected


def test_the_host_has_a_pack_width() -> None:
    assert host_isa() in PACK
    by_host, by_name = planned(64, 21)[0], planned(64, 21)[0]
    SnapWidths().run(by_host)
    SnapWidths(isa=host_isa()).run(by_name)  # type: ignore[arg-type]
    assert kept(by_host) == kept(by_name)


def test_none_changes_nothing() -> None:
    model, plan = planned(64, 21)
    before = plan.keep.copy()
    assert SnapWidths(to="none").run(model) == 0
    np.testing.assert_array_equal(open_plan(model).keep, before)


def test_the_most_important_removed_channels_come_back() -> None:
    """A widely copied script sorts ascending and takes the first ones: those of least importance."""
    importance = np.array([5, 1, 9, 3, 8, 2, 7, 4, 6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01])
    model, plan = planned(16, 6, importance)
    assert sorted(importance[plan.keep[classes_of(model, "r0")]]) == [4, 5, 6, 7, 8, 9]
    SnapWidths(to="pow2").run(model)
    survivors = sorted(importance[open_plan(model).keep[classes_of(model, "r0")]])
    assert survivors == [2, 3, 4, 5, 6, 7, 8, 9]
    assert survivors != sorted([*[4, 5, 6, 7, 8, 9], 0.01, 0.05])


def test_the_least_important_kept_channels_go() -> None:
    importance = np.arange(1.0, 33.0)
    model, _ = planned(32, 18, importance)
    SnapWidths(to="pow2").run(model)
    np.testing.assert_array_equal(np.flatnonzero(open_plan(model).keep[classes_of(model, "r0")]), np.arange(16, 32))


def test_dead_mode_never_removes_live_channels() -> None:
    rng = np.random.default_rng(1)
    alive = rng.permutation(np.arange(32) < 18)
    gamma = np.where(alive, rng.uniform(0.5, 1.5, 32), 0.0)
    beta = np.where(alive, rng.standard_normal(32), 0.0)
    model = chain(32, values={"n0.gamma": gamma, "n0.beta": beta})
    after = run(model, PruneChannels(), SnapWidths(to="pow2"))
    assert after.plan is not None
    survivors = after.plan.keep[classes_of(after, "r0")]
    assert survivors[alive].all() and survivors.sum() == 18  # 16 is nearer, but would cost live ones
    PassManager([SliceChannels()]).run(after)
    assert shapes(after)["c0.weight"] == (18, 3, 1, 1)
    assert_same(model, after)
    # Upwards is allowed: dead ones stay.
    after = run(chain(32, values={"n0.gamma": gamma, "n0.beta": beta}), PruneChannels(), SnapWidths(to=10))
    assert after.plan is not None and after.plan.keep[classes_of(after, "r0")].sum() == 20


def test_protected_layers_are_not_snapped() -> None:
    model = chain(21, 33)
    after = run(model, PruneChannels(ratio=0.3, keep=("c0",)), SnapWidths(to="pow2"))
    assert after.plan is not None
    assert after.plan.keep[classes_of(after, "r0")].all()
    assert after.plan.keep[classes_of(after, "r1")].sum() == 16


def test_the_plan_remembers_what_the_ranking_wanted() -> None:
    model, _ = planned(64, 13)
    SnapWidths(to="pow2").run(model)
    group = next(g for g in open_plan(model).group_plans() if g.members == ("c0",))
    assert (group.width, group.wanted, group.kept) == (64, 13, 16)


@pytest.mark.parametrize(("to", "expected"), [("pow2", (16, 32)), (8, (16, 24)), (4, (12, 20)), ("none", (11, 19))])
def test_padding_an_odd_graph_is_exact(to: str | int, expected: tuple[int, int]) -> None:
    """Somebody else pruned to 11 and 19: zero channels fill up to the grid point above."""
    model = chain(11, 19)
    after = run(model, SnapWidths(to=to, odd="up"), SliceChannels())  # type: ignore[arg-type]
    assert (shapes(after)["c0.weight"][0], shapes(after)["c1.weight"][0]) == expected
    assert_same(model, after)
    assert after.lossless


def test_a_layer_of_one_channel_is_not_padded() -> None:
    """Its one channel cannot be told from one that is broadcast; the layers around it are padded."""
    model = chain(11, 1, 3)
    after = run(model, SnapWidths(to=8, odd="up"), SliceChannels())
    assert [shapes(after)[f"c{k}.weight"][0] for k in range(3)] == [16, 1, 8]
    assert_same(model, after)


SUMS = {
    "length": ("float floor = {0.001}", "n = ReduceL2<axes=[1]>(h) m = Clip(n, floor) g = Div(h, m)"),
    "sum": ("", "n = ReduceSum<axes=[1]>(h) m = Sigmoid(n) g = Mul(h, m)"),
}


@pytest.mark.parametrize("case", SUMS)
def test_what_is_summed_without_weights_is_not_padded(case: str) -> None:
    """An added channel is σ(0) behind the Sigmoid: weights of zero hide that from a convolution, not from a sum."""
    weights, body = SUMS[case]
    weights = f"float[11,3,1,1] a.weight, float[13,11,1,1] b.weight, float[2,13,1,1] c.weight, {weights}".rstrip(", ")
    body = f"a = Conv(x, a.weight) h = Sigmoid(a) {body} b = Conv(g, b.weight) s = Sigmoid(b) y = Conv(s, c.weight)"
    model = build(onnx_text("float[1,3,4,4] x", "float[a,b,c,d] y", weights, body, opset=12))
    after = run(model, SnapWidths(to=8, odd="up"), SliceChannels())
    assert [shapes(after)[name][0] for name in ("a.weight", "b.weight")] == [11, 16]
    assert_same(model, after)


def test_a_slice_of_all_channels_grows_with_them() -> None:
    """What an earlier pruning left of YOLOv4-tiny's half: a Slice that takes everything, by number."""
    text = onnx_text(
        "float[1,3,4,4] x",
        "float[a,b,c,d] y",
        "float[11,3,1,1] c.weight, float[2,11,1,1] y.weight, int64[1] s0 = {0}, int64[1] s1 = {11}, int64[1] i = {1}",
        "c = Conv(x, c.weight) r = Relu(c) s = Slice(r, s0, s1, i) y = Conv(s, y.weight)",
    )
    model = build(text)
    after = run(model, SnapWidths(to=8, odd="up"), SliceChannels())
    assert shapes(after)["y.weight"][1] == 16
    assert_same(model, after)


def test_an_odd_graph_is_left_alone_without_padding() -> None:
    model = chain(11, 19)
    assert SnapWidths(to="pow2").run(model) == 0


def test_bad_grids_are_refused() -> None:
    for to in (0, -8):
        with pytest.raises(UsageError, match=f"multiples of {to}"):
            SnapWidths(to=to)


def test_an_odd_width_of_somebody_elses_goes_down_by_importance_when_asked_to():
    model = build(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 3, 8, 8] x) => (float[1, 2, 8, 8] y)
        <float[13, 3, 3, 3] a.weight, float[2, 13, 1, 1] b.weight> {
            h = Conv<pads = [1, 1, 1, 1]>(x, a.weight)
            y = Conv(h, b.weight)
        }"""
    )
    norms = [float(np.sqrt((c**2).mean())) for c in np.asarray(model.graph.nodes[0].inputs[1].values)]
    kept = PassManager([SnapWidths(to=4), SliceChannels()]).run(model.copy())
    assert kept[0].rewrites == 0, "whole groups stay whole unless asked"
    PassManager([SnapWidths(to=4, odd="down"), SliceChannels()]).run(model)
    assert not model.lossless
    left = model.carried.kept["a.weight"][0]
    assert len(left) == 12
    assert min(range(13), key=lambda i: norms[i]) not in left
