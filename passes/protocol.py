"""What a pass is: the protocol that every pass follows, and what it may do to the function a model computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    from onnxslim_yolo.ir.model import Model


@runtime_checkable
class Pass(Protocol):
    """One rewrite of a model.

    `run` edits the model in place and returns how many rewrites it made; run again, it makes none. `name` is the
    pass's name in a textual pipeline.

    A pass may say what its result has to be compared with by a class attribute `effect`: "exact" (the default: the
    same function), "plan" (only the plan changes), "slice" (the function of the model with the removed channels
    masked), "blocks" (of the model with those blocks masked that the plan has got), "head" (other outputs of the same
    network) or "approximate" (a loss that is reported, not checked).
    """

    name: ClassVar[str]

    def run(self, model: Model) -> int:
        """Edit the model in place; return the number of rewrites."""
        ...


Effect = Literal["exact", "plan", "slice", "blocks", "approximate", "head"]


def effect_of(step: Pass) -> Effect:
    """What a pass does to the function that the model computes (see `Pass`)."""
    return cast(Effect, getattr(step, "effect", "exact"))
