"""The journey's stages: a pipeline cut into segments by what passes declare, and the networks at the segments' ends.

Passes that follow one another and leave the function as it is (`exact`, `plan`) make one segment; a pass with any other
effect (see `passes.protocol`) is a segment of its own. Verification, the report and training speak about what stands
between two segments, and about nothing inside one: a network is copied there, once for all who need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager, PassRecord
from onnxslim_yolo.passes.protocol import Effect, Pass, effect_of
from onnxslim_yolo.verify.chain import CHANGING, Chain
from onnxslim_yolo.verify.compensation import Compensated, compensated_by


@dataclass(frozen=True)
class Segment:
    """Passes that are run without anybody looking between them: one that changes the function, or any that do not."""

    steps: tuple[Pass, ...]

    @property
    def changes(self) -> Effect | None:
        """What the one pass does to the function; None where all passes leave it as it is."""
        effect = effect_of(self.steps[0])
        return effect if effect in CHANGING else None


def segments(steps: Sequence[Pass]) -> list[Segment]:
    """A pipeline cut wherever the function may change."""
    found: list[Segment] = []
    for changing, group in groupby(steps, lambda step: effect_of(step) in CHANGING):
        passes = tuple(group)
        found += [Segment((step,)) for step in passes] if changing else [Segment(passes)]
    return found


def up_to_slice(steps: Sequence[Pass]) -> tuple[list[Pass], list[Pass]]:
    """The passes up to the last that carries a plan out, and those behind it, which fuse."""
    last = max((index for index, step in enumerate(steps) if effect_of(step) == "slice"), default=-1)
    return list(steps[: last + 1]), list(steps[last + 1 :])


@dataclass(frozen=True)
class Stages:
    """What a compilation went through.

    Attributes:
        prepared: the source in canonical form.
        cut: behind the last pass that carries a plan out, with nothing fused yet: what can be trained.
        chain: what the result has to agree with, and which networks on the way with which.
        compensated: the passes that made up for what was about to be cut, with the networks to judge them by.
        records: what every pass did, in order.
    """

    prepared: Model
    cut: Model
    chain: Chain
    compensated: tuple[Compensated, ...]
    records: tuple[PassRecord, ...]


@dataclass
class Journey:
    """Runs pipelines on one model, segment by segment, and keeps what stood at the ends.

    Attributes:
        model: edited in place.
        chain: what it has to agree with so far.
        manage: a PassManager for some passes, the first of which has this index.
        watched: whether the ends are compared later; else none is kept for that.
    """

    model: Model
    chain: Chain
    manage: Callable[[Sequence[Pass], int], PassManager]
    watched: bool = True
    compensated: list[Compensated] = field(default_factory=list)
    records: list[PassRecord] = field(default_factory=list)
    _standing: Model | None = None

    def run(self, steps: Sequence[Pass]) -> None:
        """Run passes after those before. Raises as `PassManager.run`."""
        for segment in segments(steps):
            effect = segment.changes if self.watched else None
            before = self.standing() if effect is not None else self.model
            done = self.manage(segment.steps, len(self.records)).run(self.model)
            self.records += done
            if any(record.rewrites for record in done) or self._planned_otherwise():
                self._standing = None
            if effect is not None and done[0].rewrites:
                self._changed(segment.steps[0], effect, before)

    def standing(self) -> Model:
        """The model as it stands between two segments: a copy, the same one until passes have changed the model."""
        if self._standing is None:
            self._standing = self.model.copy()
        return self._standing

    def _planned_otherwise(self) -> bool:
        """Whether what is planned or carried out is no longer what it was at the last copy: passes need no rewrite."""
        then = self._standing
        return then is not None and (then.plan is not self.model.plan or then.carried is not self.model.carried)

    def _changed(self, step: Pass, effect: Effect, before: Model) -> None:
        after = self.standing()
        self.chain = self.chain.behind(step.name, effect, before, after)
        found = compensated_by(step.name, before, after) if effect == "approximate" else None
        self.compensated += [] if found is None else [found]
