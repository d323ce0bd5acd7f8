"""prune: how many, which, what is protected, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxslim_yolo.analysis.channels import Channels
from onnxslim_yolo.analysis.residual import residual_channels
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.passes import AbsorbConstants, PruneChannels, SliceChannels, prune
from onnxslim_yolo.pruning.believed import misjudged
from onnxslim_yolo.pruning.plan import open_plan
from tests.latency.models import zoo
from tests.numeric import assert_same, build
from tests.passes.cutting import classes_of, onnx_text, run, shapes
from tests.passes.test_snap import chain


@pytest.mark.parametrize(("ratio", "removed"), [(0.0, 0), (0.1, 2), (0.3, 6), (0.7, 14), (0.95, 18), (0.99, 18)])
def test_the_floor_of_ratio_times_count_goes(ratio: float, removed: int) -> None:
    """⌊R·20⌋, but for the one channel that every tensor keeps."""
    after = run(chain(10, 10), PruneChannels(ratio=ratio))
    assert (0 if after.plan is None else after.plan.removed) == removed


def test_rounding_of_the_ratio() -> None:
    """0.7 · 10 is 7, although 0.7 is a little less in binary."""
    after = run(chain(10), PruneChannels(ratio=0.7))
    assert after.plan is not None and after.plan.removed == 7


def test_the_ranking_is_global() -> None:
    gammas = {"n0.gamma": np.linspace(1.0, 1.9, 10), "n1.gamma": np.linspace(-0.1, -1.2, 10)}
    after = run(chain(10, 10, values=gammas), PruneChannels(ratio=0.4, importance="gamma"))
    assert after.plan is not None
    assert after.plan.keep[classes_of(after, "r0")].all()
    np.testing.assert_array_equal(np.flatnonzero(~after.plan.keep[classes_of(after, "r1")]), np.arange(8))
    assert after.plan.threshold == pytest.approx(np.abs(gammas["n1.gamma"][7]))
    assert after.plan.importance_kind == "gamma"
    assert not after.plan.lossless


def test_normalised_within_groups() -> None:
    gammas = {"n0.gamma": np.linspace(1.0, 1.9, 10), "n1.gamma": np.linspace(0.01, 0.019, 10)}
    after = run(chain(10, 10, values=gammas), PruneChannels(ratio=0.4, importance="gamma", normalise=True))
    assert after.plan is not None
    for tensor in ("r0", "r1"):
        np.testing.assert_array_equal(np.flatnonzero(~after.plan.keep[classes_of(after, tensor)]), np.arange(4))


def test_no_tensor_becomes_empty() -> None:
    gammas = {"n0.gamma": np.full(10, 1.0), "n1.gamma": np.linspace(0.01, 0.019, 10)}
    model = chain(10, 10, values=gammas)
    for floor in (1, 3):
        after = run(model, PruneChannels(ratio=0.5, importance="gamma", floor=floor))
        assert after.plan is not None
        # the most important come back
        np.testing.assert_array_equal(
            np.flatnonzero(after.plan.keep[classes_of(after, "r1")]), np.arange(10 - floor, 10)
        )


@pytest.mark.parametrize(
    ("pattern", "protected"),
    [("c0", "r0"), ("c0.weight", "r0"), ("c1*", "r1"), ("/c1", "r1"), ("c[0]", "r0")],
)
def test_kept_layers(pattern: str, protected: str) -> None:
    after = run(chain(10, 10), PruneChannels(ratio=0.5, keep=(pattern,)))
    assert after.plan is not None
    for tensor in ("r0", "r1"):
        assert after.plan.keep[classes_of(after, tensor)].sum() == (10 if tensor == protected else 5)


def test_a_pattern_that_matches_nothing() -> None:
    with pytest.raises(UsageError, match="--keep 'c7' matches no layer") as caught:
        PruneChannels(ratio=0.5, keep=("c7",)).run(chain(10))
    assert caught.value.hint is not None and "c0" in caught.value.hint
    # A prefix ends at a dot or slash: `c` is no prefix of `c0`.
    with pytest.raises(UsageError, match="--keep 'c' matches no layer"):
        PruneChannels(ratio=0.5, keep=("c",)).run(chain(10))


@pytest.mark.parametrize("ratio", [1.0, -0.1, 1.5, float("nan")])
def test_ratios_outside_the_range(ratio: float) -> None:
    with pytest.raises(UsageError, match=r"not in \[0, 1\)"):
        PruneChannels(ratio=ratio)


def test_floors_that_empty_layers() -> None:
    with pytest.raises(UsageError, match="floor 0"):
        PruneChannels(floor=0)


def test_nothing_to_prune() -> None:
    text = onnx_text("float[1,3,4,4] x", "float[a,b,c,d] y", "float[4,3,1,1] w", "y = Conv(x, w)")
    with pytest.raises(UsageError, match=r"nothing in this graph can be pruned .*reaches the output 'y'"):
        PruneChannels(ratio=0.5).run(build(text))
    assert PruneChannels().run(build(text)) == 0  # nothing dead is no error
    assert PruneChannels(ratio=0.0).run(build(text)) == 0
    with pytest.raises(UsageError, match="no convolution or linear layer"):
        PruneChannels(ratio=0.5).run(
            build(onnx_text("float[1,3] x", "float[a,b] y", "", "y = Relu(x)").replace("<>", ""))
        )


RESIDUAL = onnx_text(
    "float[1,3,4,4] x",
    "float[a,b,c,d] y",
    "float[8,3,1,1] s.weight, float[8,8,1,1] c.weight, float[6,8,1,1] d.weight, float[8,6,1,1] e.weight, "
    "float[5,8,1,1] f.weight, float[2,5,1,1] y.weight",
    "s = Conv(x, s.weight) c = Conv(s, c.weight) d = Conv(c, d.weight) t = Relu(d) e = Conv(t, e.weight)"
    " r = Add(c, e) f = Conv(r, f.weight) u = Relu(f) y = Conv(u, y.weight)",
)


def test_scope_without_shortcuts() -> None:
    """c and e are tied by the Add, d lies on the branch it bridges; s and f are free, and the ratio counts them."""
    model = build(RESIDUAL)
    found = residual_channels(model.graph, open_plan(model).channels)
    spared = {name for name in "scdef" if found[classes_of(model, name)].all()}
    assert spared == {"c", "d", "e"}
    assert {name for name in "scdef" if found[classes_of(model, name)].any()} == spared
    after = run(model, PruneChannels(ratio=0.5, scope="no-residual"), SliceChannels())
    assert after.carried.plan is not None and after.carried.plan.removed == (8 + 5) // 2
    assert shapes(after)["d.weight"][0] == 6 and shapes(after)["e.weight"][0] == 8
    everywhere = run(model, PruneChannels(ratio=0.5))
    assert everywhere.plan is not None and everywhere.plan.removed == (8 + 8 + 6 + 5) // 2


def test_folded_models_are_ranked_by_weights_and_say_so() -> None:
    model = build(RESIDUAL)
    after = run(model, PruneChannels(ratio=0.5))
    assert after.plan is not None and after.plan.importance_kind.startswith("weight")
    assert any("ranked by weight norms" in note for note in after.notes)


DEAD = {"n0.gamma": np.array([0.0, 1, 0, 1, 1, 1]), "n0.beta": np.array([0.0, 1, 0.5, 0, -1, 2])}


def test_dead_channels() -> None:
    """γ = β = 0: nothing. γ = 0, β ≠ 0 before a convolution without padding: a constant that a bias takes over."""
    model = chain(6, values=DEAD)
    for absorb, gone in ((True, [0, 2]), (False, [0])):
        after = run(model, PruneChannels(absorb=absorb))
        assert after.plan is not None
        np.testing.assert_array_equal(np.flatnonzero(~after.plan.keep[classes_of(after, "r0")]), gone)
        assert after.plan.lossless
    assert_same(model, run(model, PruneChannels(absorb=False), SliceChannels()))


def test_two_prunings_add_up() -> None:
    model = chain(10, values={"n0.gamma": np.arange(10.0)})
    after = run(model, PruneChannels(), PruneChannels(ratio=0.5))
    assert after.plan is not None and after.plan.removed == 5


def test_auto_says_what_it_takes_where_the_network_is_not_sparse() -> None:
    """γ where the cut goes through small ones; else what activations vary by."""
    sparse = chain(10, 10, values={"n0.gamma": np.linspace(0.001, 0.5, 10), "n1.gamma": np.linspace(0.002, 0.9, 10)})
    dense = chain(10, 10, values={"n0.gamma": np.linspace(0.5, 0.9, 10), "n1.gamma": np.linspace(0.6, 0.9, 10)})
    kinds = {}
    for name, model in (("sparse", sparse), ("dense", dense)):
        after = run(model, PruneChannels(ratio=0.1))
        assert after.plan is not None
        kinds[name] = after.plan.importance_kind
        assert any("variance" in note for note in after.notes) == (name == "dense")
    assert kinds == {"sparse": "gamma", "dense": "variance per MAC"}


def test_a_ratio_that_will_not_be_survived_is_said() -> None:
    gammas = {"n0.gamma": np.linspace(0.001, 0.9, 10), "n1.gamma": np.linspace(0.002, 0.9, 10)}
    mild, bold = (run(chain(10, 10, values=gammas), PruneChannels(ratio=r, importance="gamma")) for r in (0.1, 0.7))
    assert not any("WARNING" in note for note in mild.notes)
    assert any("WARNING" in note and "|γ|" in note for note in bold.notes)


def test_macs_are_met_closely() -> None:
    from onnxslim_yolo.analysis.cost import cost_of

    model = chain(40, 40)
    full = cost_of(model.graph).macs
    for share in (0.9, 0.5):
        after = run(model, PruneChannels(macs=share, importance="weight"), SliceChannels())
        assert share - 0.05 < cost_of(after.graph).macs / full <= share


@pytest.mark.parametrize("option", [{"importance": "output"}, {"allocate": "curves"}])
def test_what_needs_images_says_so(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="needs calibration images"):
        run(chain(10, 10), PruneChannels(ratio=0.5, **option))


@pytest.mark.parametrize("architecture", ["regnet", "shufflenetv1"])
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_grouped_convolutions_lose_what_was_asked_for(
    architecture: str, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their parts are ranked together; ranked one by one, most of it is given back to keep them equal."""
    model = zoo(architecture)

    def removed() -> tuple[int, int]:
        plan = open_plan(run(model, PruneChannels(ratio=ratio, importance="gamma")))
        return int((~plan.keep).sum()), int(ratio * plan.channels.prunable.sum())

    found, asked = removed()
    assert 0.85 * asked <= found <= asked

    def alone(channels: Channels, importance: Array, _: Array) -> tuple[Array, Array]:
        return importance, -1 - np.arange(channels.count)

    monkeypatch.setattr(prune, "levelled", alone)
    assert removed()[0] < 0.8 * found


def test_a_level_that_the_cut_goes_through_stays_whole() -> None:
    """Of 72 channels 58 go, in whole levels; with a level cut in two the repair gives back all but 26."""
    plan = open_plan(run(zoo("shufflenetv1"), PruneChannels(ratio=0.6, importance="gamma")))
    asked = int(0.6 * plan.channels.prunable.sum())
    assert 0.75 * asked <= (~plan.keep).sum() <= asked


def dead_in(*numbers: int) -> dict[str, Array]:
    """γ and β of two layers of ten, zero at these channels of the first."""
    gamma, beta = np.linspace(1.0, 1.9, 10), np.full(10, 0.1)
    gamma[list(numbers)] = beta[list(numbers)] = 0
    return {"n0.gamma": gamma, "n0.beta": beta, "n1.gamma": np.linspace(0.5, 0.9, 10)}


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3])
def test_never_less_than_what_is_dead(ratio: float) -> None:
    """Six of twenty are dead: up to 0.3 of them the plan is that of `dead`, and exact."""
    model = chain(10, 10, values=dead_in(0, 2, 4, 6, 8, 9))
    exact, after = (run(model, step) for step in (PruneChannels(), PruneChannels(ratio=ratio, exact=True)))
    assert after.plan is not None and exact.plan is not None and after.plan.removed == 6
    np.testing.assert_array_equal(after.plan.keep, exact.plan.keep)
    assert after.plan.lossless and after.plan.dead_only
    assert any("contribute nothing" in note for note in after.notes) == (ratio < 0.3)
    assert_same(model, run(model, PruneChannels(ratio=ratio, exact=True), SliceChannels()))


def test_dead_channels_go_first() -> None:
    model = chain(10, 10, values=dead_in(0, 9))
    after = run(model, PruneChannels(ratio=0.2, importance="weight", exact=True))
    assert after.plan is not None and after.plan.removed == 4 and not after.plan.lossless
    assert not after.plan.keep[classes_of(after, "r0")][[0, 9]].any()


def test_no_tensor_is_cut_below_what_carries_its_importance() -> None:
    values = {"n0.gamma": np.linspace(1.0, 1.9, 20), "n1.gamma": np.full(20, 0.01)}
    model = chain(20, 20, values=values)
    for carry, least in ((0.0, 1), (0.1, 2), (0.5, 10)):
        after = run(model, PruneChannels(ratio=0.5, importance="gamma", carry=carry))
        assert after.plan is not None
        kept = after.plan.keep[classes_of(after, "r1")].sum()
        assert kept == least, "what carries stays, and only that"
        assert after.plan.removed == 20 - (carry == 0), "others go instead"
    values["n1.gamma"][3] = 10
    after = run(chain(20, 20, values=values), PruneChannels(ratio=0.5, importance="gamma", carry=0.5))
    assert after.plan is not None and np.flatnonzero(after.plan.keep[classes_of(after, "r1")]).tolist() == [3]
    with pytest.raises(UsageError, match="not in"):
        PruneChannels(carry=1.0)


def test_a_pattern_may_name_a_depthwise_layer() -> None:
    """What it passes on stays, although another layer makes it; parameters of a norm are no layer."""
    norm = "n.gamma, n.beta, n.mean, n.var"
    weights = ", ".join(f"float[8] {name}" for name in norm.split(", "))
    weights += ", float[8,3,1,1] a.weight, float[8,1,3,3] d.weight, float[4,8,1,1] b.weight"
    body = (
        f"a = Conv(x, a.weight) n = BatchNormalization(a, {norm}) d = Conv<group=8>(n, d.weight) y = Conv(d, b.weight)"
    )
    text = onnx_text("float[1,3,6,6] x", "float[a,b,c,d] y", weights, body)
    for pattern, removed in (("d.weight", 0), ("b.weight", 4)):
        after = run(build(text), PruneChannels(ratio=0.5, keep=(pattern,)))
        assert (0 if after.plan is None else after.plan.removed) == removed
    with pytest.raises(UsageError, match="matches no layer"):
        PruneChannels(ratio=0.5, keep=("n.mean",)).run(build(text))


@pytest.mark.parametrize("stale", [False, True])
def test_statistics_that_call_a_channel_constant_are_believed_if_it_is_what_it_was(stale: bool) -> None:
    """A channel of zeros whose running variance is 0 yields β only while its running mean is right."""
    still = {"n1.var": np.where(np.arange(8) < 3, 0, 1.0), "n1.mean": np.where(np.arange(8) < 3, 2.0 * stale, 0.1)}
    model = chain(8, 8, values={**still, "c1.weight": np.ones((8, 8)) * (np.arange(8) >= 3)[:, None] + 1e-9})
    after = run(model, PruneChannels(absorb=True))
    assert after.plan is not None and after.plan.removed == (0 if stale else 3)
    assert any("none is believed" in note for note in after.notes) == stale
    assert_same(model, run(model, PruneChannels(), AbsorbConstants(scope="exact"), SliceChannels()))


def test_statistics_of_a_model_that_does_not_run_are_not_believed() -> None:
    model = chain(8, 8, values={"n1.var": np.zeros(8), "n1.mean": np.zeros(8), "c1.weight": np.full((8, 8), 1e-9)})
    assert misjudged(model, 1e-8) == misjudged(model, 0.0) == []
    model.graph.nodes[-1].attrs["kernel_shape"] = [3, 3]
    assert misjudged(model, 1e-8) == [model.graph.nodes[4].name]


@pytest.mark.parametrize(("share", "kept"), [(1.0, 4), (0.75, 3), (0.7499, 2), (0.5, 2), (0.4999, 1), (0.25, 1)])
def test_a_limit_that_is_met_exactly_is_met(share: float, kept: int) -> None:
    """Every one of the four channels costs a quarter: 3 products to make it and 2 to read it, at each place."""
    weights = "float[4, 3, 1, 1] u, float[2, 4, 1, 1] w"
    model = build(onnx_text("float[1, 3, 6, 6] x", "float[a, b, c, d] y", weights, "a = Conv (x, u) y = Conv (a, w)"))
    after = run(model, PruneChannels(macs=share, importance="weight"), SliceChannels())
    assert shapes(after)["u"][0] == kept


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01])
def test_shares_of_macs_outside_the_range(share: float) -> None:
    with pytest.raises(UsageError, match=rf"the share of MACs {share} is not in \(0, 1\]"):
        PruneChannels(macs=share)


def test_all_macs_take_nothing() -> None:
    after = run(chain(10, 10), PruneChannels(macs=1.0, importance="weight"))
    assert after.plan is None or after.plan.removed == 0


def test_what_holds_most_channels_is_named_and_how_many_other_reasons_there_are() -> None:
    model, end = chain(4), "reaches the output 'y'"

    def told(*frozen: str | None) -> str:
        return prune._nothing_prunable(model, SimpleNamespace(frozen=[*frozen, None, end, end, end, end]))  # type: ignore[arg-type]

    name = next(node.name for node in model.graph.nodes if node.op == "Conv")
    reason = f"'{name}' has a computed bias"
    alone = told(reason)
    assert f"1 of 1 channels are held because {reason}; a 1x1 convolution between them and '{name}' would" in alone
    others = told("it is odd", reason, reason, "it is new", "it is odd", reason)
    assert f"3 of 6 channels are held because {reason}, and 2 other reasons hold the rest; a 1x1" in others
    assert told("it is odd").endswith("because it is odd; a convolution in front of it would be pruned in their place")
    with pytest.raises(UsageError, match=r"pruned \(reaches the output 'y'\)"):
        told()


def test_levels_go_whole_or_not_at_all() -> None:
    level, chosen = np.array([7, 3, 3, 7, 5]), np.array([True, True, False, True, False])
    assert prune._whole_levels(level, chosen, all_of=True).tolist() == [True, False, False, True, False]
    assert prune._whole_levels(level, chosen, all_of=False).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("c0", True),
        ("/c0", True),
        ("n0", False),
        ("c0.weight", True),
        ("weight", False),
        ("c", False),
        ("c?", True),
        ("*.weight", True),
        ("c?.w", False),
        ("c[0]", True),
        ("[d-z]0", False),
        ("x", False),
    ],
)
def test_a_node_is_matched_by_its_name_or_a_constants(pattern: str, found: bool) -> None:
    node = next(node for node in chain(4).graph.nodes if node.op == "Conv")
    node.name = "c0"
    assert prune.matches_layer(pattern, node) == found


def test_what_may_still_go_is_neither_kept_by_name_nor_carries_its_tensor() -> None:
    gammas = {"n1.gamma": np.r_[np.full(8, 0.01), 5.0, 6.0]}
    after = run(chain(10, 10, values=gammas), PruneChannels(ratio=0.3, importance="gamma", keep=("c0",), carry=0.9))
    assert after.plan is not None
    removable = {name: after.plan.removable[classes_of(after, name)].tolist() for name in ("r0", "r1")}
    assert removable == {"r0": [False] * 10, "r1": [True] * 8 + [False] * 2}
