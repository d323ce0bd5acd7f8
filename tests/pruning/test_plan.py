"""The plan: its choices carried to a graph that has changed, and what plan.json says, also in a checkpoint's terms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.ir.carried import Carried
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.plan import Plan, open_plan, plan_as_json, reopen_plan
from tests.numeric import build
from tests.passes.cutting import classes_of, onnx_text

WEIGHTS = "float[6,3,1,1] a.weight, float[5,6,1,1] b.weight, float[4,5,1,1] y.weight, float[7,6,1,1] c.weight"
BODY = "a = Conv(x, a.weight) b = Conv(a, b.weight) y = Conv(b, y.weight)"


def network(body: str = BODY) -> Model:
    return build(onnx_text("float[1,3,4,4] x", "float[i,j,k,l] y", WEIGHTS, body, 17))


def chosen(model: Model) -> Plan:
    """Everything that a plan chooses, otherwise than by default."""
    plan, count = open_plan(model), open_plan(model).channels.count
    rng = np.random.default_rng(0)
    model.plan = replace(
        plan,
        keep=rng.random(count) < 0.6,
        wanted=rng.random(count) < 0.5,
        removable=rng.random(count) < 0.7,
        importance=rng.random(count),
        losses=rng.random(count),
        extra=rng.integers(0, 3, count),
        importance_kind="gamma",
        threshold=0.25,
        absorbed=True,
        lossless=False,
        dead_only=True,
        floor=2,
        ranking="measured",
    )
    return model.plan


def test_choices_are_carried_to_a_new_analysis() -> None:
    model = network()
    old = chosen(model)
    new = reopen_plan(model)
    assert new is not old and new is model.plan and new.channels is not old.channels
    for name in "ab":
        here, there = classes_of(model, name), classes_of(model, name)
        for key in ("keep", "wanted", "removable", "importance", "losses", "extra"):
            assert np.array_equal(getattr(new, key)[here], getattr(old, key)[there]), key
    for key in ("importance_kind", "threshold", "absorbed", "lossless", "dead_only", "floor", "ranking"):
        assert getattr(new, key) == getattr(old, key), key


def test_a_graph_of_other_channels_has_no_ranking_and_no_choices_for_them() -> None:
    model = network()
    old = chosen(model)
    last = model.graph.nodes[-1]
    added = network(BODY.replace("y = Conv(b, y.weight)", "c = Conv(a, c.weight) y = Conv(b, y.weight)"))
    node = next(node for node in added.graph.nodes if node.inputs[1].name == "c.weight")
    assert last.op == node.op
    added.plan = old
    new = open_plan(added)
    assert new is not old and new.ranking is None and new.channels.count != old.channels.count
    assert np.array_equal(new.keep[classes_of(added, "b")], old.keep[classes_of(network(), "b")])


def test_a_plan_that_fits_is_opened_as_it_is() -> None:
    model = network()
    plan = chosen(model)
    assert open_plan(model) is plan
    removed = model.copy()
    removed.graph.nodes = removed.graph.nodes[:-1]
    assert open_plan(removed) is not plan


def test_a_plan_is_read_only_and_others_are_made_of_it() -> None:
    plan = chosen(network())
    with pytest.raises(ValueError, match="read-only"):
        plan.keep[0] = True
    kept = int(np.flatnonzero(plan.keep)[0])
    less = plan.without(np.array([kept]))
    assert less.removed == plan.removed + 1 == int((~plan.keep).sum()) + 1 and not less.keep[kept]


def test_two_plans_rank_alike() -> None:
    plan = chosen(network())
    assert plan.ranks_as(replace(plan, wanted=~plan.wanted, threshold=None, losses=None))
    for other in (
        replace(plan, keep=~plan.keep),
        replace(plan, removable=~plan.removable),
        replace(plan, importance=plan.importance + 1),
        replace(plan, floor=3),
        replace(plan, channels=open_plan(network()).channels),
    ):
        assert not plan.ranks_as(other)


def test_groups_say_what_was_wanted_and_what_is_kept_with_what_is_added() -> None:
    model = network()
    plan = chosen(model)
    by_width = {group.width: group for group in plan.group_plans() if group.frozen is None}
    for name, width in (("a", 6), ("b", 5)):
        classes, group = classes_of(model, name), by_width[width]
        kept = plan.keep[classes]
        assert (group.wanted, group.kept) == (plan.wanted[classes].sum(), (kept * (1 + plan.extra[classes])).sum())
        assert group.as_json()["members"] == list(group.members) and group.as_json()["frozen"] is None


def test_what_was_carried_out_in_the_files_and_in_the_checkpoints_terms() -> None:
    """A traced module's graph has a Linear's weight transposed, as `fc.weight.T`."""
    model = network()
    model.carried = Carried(
        kept={"fc.weight.T": {0: [1, 2], 1: [0]}, "b.weight": {1: [3], 0: [4, 5]}},
        shapes={"fc.weight.T": ((4, 3), (2, 1)), "b.weight": ((8, 4), None), "n.T": ((5, 6), None)},
    )
    found = plan_as_json(model)
    assert found["keep"] == {"b.weight": {"0": [4, 5], "1": [3]}, "fc.weight.T": {"0": [1, 2], "1": [0]}}
    assert list(found["keep"]["b.weight"]) == ["0", "1"]
    assert found["shapes"] == {"b.weight": [[8, 4], None], "fc.weight.T": [[4, 3], [2, 1]], "n.T": [[5, 6], None]}
    assert (found["format"], found["version"], found["groups"]) == ("onnxslim-yolo/plan", 2, [])
    assert "bridged" not in found
    found = plan_as_json(model, from_checkpoint=True)
    assert found["keep"] == {"b.weight": {"0": [4, 5], "1": [3]}, "fc.weight": {"0": [0], "1": [1, 2]}}
    assert found["shapes"] == {"b.weight": [[8, 4], None], "fc.weight": [[3, 4], [1, 2]], "n": [[6, 5], None]}


def test_of_bridged_blocks_those_whose_nodes_went() -> None:
    model = network()
    model.carried = Carried(removed_nodes=("m.a", "m.b"), bridged=("m.a", "m.c"), layers=("m.a", "m.b", "m.c"))
    found = plan_as_json(model)
    assert found["bridged"] == ["m.a"] and found["removed"] == ["m.a", "m.b"]
