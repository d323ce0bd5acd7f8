"""Where pipelines are cut, what stands at the ends, and how often a network is copied for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from onnxslim_yolo.ir.graph import revalue
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import AbsorbConstants, FoldBatchNorm, PruneChannels, SliceChannels, SnapWidths
from onnxslim_yolo.passes.protocol import Effect, Pass
from onnxslim_yolo.runtime.onnx_run import image_like_feeds
from onnxslim_yolo.stages import Journey, segments, up_to_slice
from onnxslim_yolo.verify.chain import Chain, check_links, check_pair
from tests.verify.test_compensation import network

HALF = PruneChannels(ratio=0.5, importance="gamma")


@dataclass(frozen=True)
class Halves:
    """Another function than before, as it says."""

    name: ClassVar[str] = "halves"
    effect: ClassVar[Effect] = "approximate"

    def run(self, model: Model) -> int:
        node = model.graph.nodes[-1]
        revalue(node, 1, (node.inputs[1].values / 2).astype(np.float32))  # type: ignore[attr-defined]
        return 1


@dataclass(frozen=True)
class Lies:
    """The same, and it says that nothing changes."""

    name: ClassVar[str] = "lies"
    run = Halves.run


def journey(model: Model, *, watched: bool = True) -> Journey:
    def manage(steps: Sequence[Pass], first: int) -> PassManager:
        return PassManager(steps, first_index=first)

    return Journey(model, Chain(model.to_onnx()), manage, watched=watched)


def names(steps: Sequence[Pass]) -> list[str]:
    return [step.name for step in steps]


def test_pipelines_are_cut_where_the_function_may_change() -> None:
    steps = [HALF, SnapWidths(), AbsorbConstants(), SliceChannels(), FoldBatchNorm(), FoldBatchNorm()]
    found = segments(steps)
    assert [names(segment.steps) for segment in found] == [
        ["prune", "snap"],
        ["absorb"],
        ["slice"],
        ["fold-bn", "fold-bn"],
    ]
    assert [segment.changes for segment in found] == [None, "approximate", "slice", None]


def test_two_changes_in_a_row_are_two_segments() -> None:
    assert [names(segment.steps) for segment in segments([Halves(), Halves()])] == [["halves"], ["halves"]]


def test_a_pass_of_any_name_that_slices_ends_the_choosing() -> None:
    class Carve(SliceChannels):
        name: ClassVar[str] = "carve"

    cutting, fusing = up_to_slice([HALF, Carve(), FoldBatchNorm()])
    assert (names(cutting), names(fusing)) == (["prune", "carve"], ["fold-bn"])
    assert up_to_slice([FoldBatchNorm()]) == ([], [FoldBatchNorm()])


def test_the_ends_agree_and_the_pass_that_lies_does_not() -> None:
    model = network(2.0)
    feeds = image_like_feeds(model, 1)
    walked = journey(model)
    walked.run([HALF, AbsorbConstants(), SliceChannels(), FoldBatchNorm(), Halves()])
    assert [link.label for link in walked.chain.links] == [
        "source = before absorb",
        "after absorb = before slice",
        "masked source = before halves",
    ]
    assert all(check.passed for check in check_links(walked.chain.links, feeds))
    assert check_pair("the files", walked.chain.reference, model, feeds).passed
    assert [step.step for step in walked.compensated] == ["absorb"]

    spoiled = journey(network(2.0))
    spoiled.run([HALF, SliceChannels(), Lies(), Halves()])
    assert [check.passed for check in check_links(spoiled.chain.links, feeds)] == [True, False]


def test_a_network_is_copied_once_for_all_who_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[int] = []
    copy = Model.copy
    monkeypatch.setattr(Model, "copy", lambda model: (copies.append(1), copy(model))[1])
    quiet = journey(network(2.0), watched=False)
    quiet.run([HALF, AbsorbConstants(), SliceChannels(), FoldBatchNorm()])
    assert not copies and not quiet.chain.links
    walked = journey(network(2.0))
    walked.run([FoldBatchNorm()])
    first = walked.standing()
    walked.run([Halves(), Halves()])  # before the first, between both, behind the second
    assert len(copies) == 3 and walked.chain.links[0].candidate is first
    assert walked.chain.links[1].candidate is walked.chain.links[1].reference
    walked.run([FoldBatchNorm()])  # nothing left to fold
    assert walked.standing() is walked.chain.reference


def test_a_plan_that_changed_without_a_rewrite_is_not_stood_for_by_an_older_copy() -> None:
    walked = journey(network(2.0))
    walked.run([PruneChannels(ratio=0.5, importance="gamma")])
    before = walked.standing()
    walked.run([SliceChannels(), SliceChannels()])
    after = walked.standing()
    assert before.plan is not None and after.plan is None and after.carried.plan is before.plan


def test_what_a_pass_gives_up_is_linked_where_only_dead_channels_go_and_constants_are_not() -> None:
    """Biases that took constants over compute the same once it is sliced; another approximation never does."""
    model = network(0.0)
    gamma, beta = (model.graph.tensors()[f"bn.{name}"] for name in ("gamma", "beta"))
    gamma.values = np.where(np.arange(8) < 4, 0, gamma.values).astype(np.float32)  # type: ignore[attr-defined]
    beta.values = np.where(np.arange(8) < 2, 1, beta.values).astype(np.float32)  # type: ignore[attr-defined]
    feeds = image_like_feeds(model, 1)
    exact = journey(model.copy())
    exact.run([PruneChannels(), AbsorbConstants(scope="exact"), SliceChannels()])
    assert exact.chain.links == () and exact.model.lossless
    assert check_pair("the files", exact.chain.reference, exact.model, feeds).passed
    walked = journey(model.copy())
    walked.run([PruneChannels(absorb=False), Halves(), SliceChannels()])
    assert [link.label for link in walked.chain.links] == ["source = before halves"]
    assert check_pair("the files", walked.chain.reference, walked.model, feeds).passed
    assert not check_pair("the source", model.to_onnx(), walked.model, feeds).passed


def test_nobody_writes_into_a_plan_that_copies_share() -> None:
    model = network(2.0)
    HALF.run(model)
    assert model.plan is not None and model.copy().plan is model.plan
    with pytest.raises(ValueError, match="read-only"):
        model.plan.keep[0] = False
