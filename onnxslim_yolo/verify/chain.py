"""What a compiled model has to agree with, told by what passes did, and checked once it is written.

Exact passes must leave the function as it was. Some passes change it on purpose, and there the chain gets a new link:

* `drop-blocks`: from here on the reference is the model with those blocks *masked*;
* `slice` (unless only dead channels go): from here on the reference is the model with the removed channels *masked*;
* `absorb` and other approximate passes: from here on the reference is the model as that pass left it;
* `head`: the outputs themselves change; the reference is the model as that pass left it.

Each link says: the old reference and the model just before the change compute the same. The last link is between the
newest reference and the files as written. With dead channels only there is one link: the source against the files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes.protocol import Effect, Pass, effect_of
from onnxslim_yolo.pruning.mask import mask_blocks, masked
from onnxslim_yolo.runtime.onnx_run import Feeds, run_onnx
from onnxslim_yolo.verify.compare import TOLERANCE, Difference, told_apart, worst_of
from onnxslim_yolo.verify.inner import inner_change
from onnxslim_yolo.verify.judge import Judge, judge_of

Runnable = Model | onnx.ModelProto

CHANGING: frozenset[Effect] = frozenset(("slice", "blocks", "approximate", "head"))
"""Effects after which there may be a new link; other passes leave the function as it was."""


@dataclass(frozen=True)
class Link:
    """Two models that must compute the same, and between which passes they stand."""

    label: str
    reference: Runnable
    candidate: Model


@dataclass(frozen=True)
class Chain:
    """What a model has to agree with now, and the links behind it (see the module)."""

    reference: Runnable
    label: str = "source"
    links: tuple[Link, ...] = ()

    def behind(self, name: str, effect: Effect, before: Model, after: Model) -> Chain:
        """The chain once a pass of this name and effect has made `after` of `before`. Neither is edited any more."""
        if effect == "blocks":
            gone = after.carried.blocks[len(before.carried.blocks) :]
            return self._linked(before, name, mask_blocks(before, gone), "masked source")
        if effect == "slice":
            plan = before.plan
            if plan is None or before.lossless or not plan.removed:
                return self
            return self._linked(before, name, masked(before, plan), "masked source")
        exactly = before.lossless and after.plan is not None and after.plan.absorbed  # once it is sliced
        if effect not in CHANGING or exactly:
            return self
        return self._linked(before, name, after, f"after {name}")

    def _linked(self, candidate: Model, name: str, reference: Model, label: str) -> Chain:
        link = Link(f"{self.label} = before {name}", self.reference, candidate)
        return Chain(reference, label, (*self.links, link))


@dataclass(frozen=True)
class Check:
    """The outcome of one comparison.

    Attributes:
        label: what was compared. runtime: where the candidate ran.
        differences: per output.
        tolerance: the largest allowed worst |Δ| / spread.
        unseen: weights that differ although no output shows it, a sentence each.
    """

    label: str
    runtime: str
    differences: list[Difference]
    tolerance: float = TOLERANCE
    unseen: list[str] = field(default_factory=list)

    @property
    def worst(self) -> float:
        """The worst difference of all outputs."""
        return worst_of(self.differences)

    @property
    def passed(self) -> bool:
        """Whether every output agrees."""
        return self.worst <= self.tolerance

    def as_json(self) -> dict[str, Any]:
        """All fields, and the verdict. JSON has no infinity: what is not required has the tolerance null."""
        return {
            "label": self.label,
            "runtime": self.runtime,
            "tolerance": self.tolerance if math.isfinite(self.tolerance) else None,
            "worst": self.worst if math.isfinite(self.worst) else None,
            "passed": self.passed,
            "outputs": [d.as_json() for d in self.differences],
            "unseen": self.unseen,
        }


def check_links(links: Sequence[Link], feeds: list[Feeds], tolerance: float = TOLERANCE) -> list[Check]:
    """Run both ends of every link and compare."""
    return [check_pair(link.label, link.reference, link.candidate, feeds, tolerance) for link in links]


def check_pair(
    label: str, reference: Runnable, candidate: Model, feeds: list[Feeds], tolerance: float = TOLERANCE
) -> Check:
    """Run two models in onnxruntime without optimisations and compare them."""
    differences = judge_of(reference, feeds).compare(run_onnx(candidate, feeds), tolerance)
    return Check(label, "onnxruntime", differences, tolerance)


class EachPass:
    """An observer that compares the model before and after every pass at once (`--verify-each`, and bisecting).

    Raises (from its call):
        VerificationError: a pass changed what it must not; the message names it.
    """

    def __init__(self, source: Runnable, feeds: list[Feeds]) -> None:
        self.chain = Chain(source)
        self.feeds = feeds
        self.checks: list[Check] = []
        self._judges: list[tuple[Runnable, Judge]] = []

    def _judge(self) -> Judge:
        """Of the chain's present reference, which most passes leave as it was."""
        if not self._judges or self._judges[-1][0] is not self.chain.reference:
            self._judges = [(self.chain.reference, judge_of(self.chain.reference, self.feeds))]
        return self._judges[-1][1]

    def __call__(self, step: Pass, before: Model, after: Model) -> None:
        """Check one pass."""
        effect = effect_of(step)
        if effect in CHANGING:
            self.chain = self.chain.behind(step.name, effect, before, after.copy())
        pending = before.plan is not None and before.lossless and before.plan.absorbed
        absorbed_now = after.plan is not None and after.plan.absorbed
        if absorbed_now or (pending and effect_of(step) != "slice"):
            self._look_inside(step, before, after)  # a bias has taken over what its channels still contribute:
            return  # outputs are comparable once they are cut
        differences = self._judge().compare(run_onnx(after, self.feeds))
        check = Check(f"{self.chain.label} = after {step.name}", "onnxruntime", differences)
        self.checks.append(check)
        if check.passed:
            self._look_inside(step, before, after)
        else:
            culprit = max(check.differences, key=lambda d: d.worst)
            worst, allowed = told_apart(culprit.worst, check.tolerance)
            raise VerificationError(
                f"pass '{step.name}' changed {culprit.place()} by {worst} of its spread (allowed: {allowed})",
                hint=f"leave the pass out with --passes, and report it: '{step.name}' is wrong on this model",
            )

    def _look_inside(self, step: Pass, before: Model, after: Model) -> None:
        """An exact pass leaves what it does not rename, also where no output shows it."""
        found = inner_change(before, after, self.feeds[0]) if effect_of(step) == "exact" else None
        if found is None:
            return
        worst, allowed = told_apart(found.worst, found.allowed)
        raise VerificationError(
            f"pass '{step.name}' changed the inner tensor '{found.tensor}' by {worst} of its spread (allowed: "
            f"{allowed}), which no output shows",
            hint=f"leave the pass out with --passes, and report it: '{step.name}' is wrong on this model",
        )
