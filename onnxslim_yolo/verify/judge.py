"""A reference with all that comparing with it needs: its outputs, what its columns mean, and what rounding costs it.

What rounding costs is measured on the reference itself: onnxruntime with its graph optimisations against onnxruntime
without. A float16 reference stands for the float32 evaluation of its weights, and what float16 makes of that is counted
as rounding, too, and so is what rounding every weight once more makes, as folding does.

Where a comparison fails, it is asked of every input, not of the last alone, what optimising does, and what moving every
weight of the reference by its last place does: terms that cancel leave a column that hardly moves with the rounding of
numbers far larger than it, which two runs of the same sums do not show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import onnx

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.graph import Array, static_shape
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.apart import apart
from onnxslim_yolo.runtime.half import feeds_in_float32, in_float32, is_half
from onnxslim_yolo.runtime.onnx_run import run_onnx
from onnxslim_yolo.verify.columns import Feeds, head_of, meanings
from onnxslim_yolo.verify.compare import TOLERANCE, Difference, compare, sorts, worst_of
from onnxslim_yolo.verify.half import moved_weights, rounded_again
from onnxslim_yolo.verify.ruler import NOISE, Ruler, noise_between, rulers_of, with_noise
from onnxslim_yolo.verify.shown_logits import shown_logits

Runnable = Model | onnx.ModelProto

SLIP = 0.1
"""A difference of more than this share of what inputs do is no rounding, and nothing is asked."""

HALF_NOISE = 4.0
"""What float16 costs a result may be this many times what it is seen to cost the reference: it is no rare case."""


@dataclass(frozen=True)
class Judge:
    """What a reference computes from some inputs, and how others are compared with it.

    Attributes:
        expected: its outputs, per input.
        rulers: per output.
        ordered: whether rounding may reorder rows.
        slips: what optimising, or moving every weight by its last place, does on any input (of `noise_between`), asked
            where a comparison fails.
    """

    expected: list[Feeds]
    rulers: dict[str, Ruler]
    ordered: bool = False
    slips: Callable[[], dict[str, Array]] | None = None

    def compare(self, got: list[Feeds], tolerance: float = TOLERANCE, *, skip: int = 0) -> list[Difference]:
        """Differences of other outputs of the same inputs, the first `skip` of them left out."""
        wanted = self.expected[skip : skip + len(got)]
        run = partial(compare, wanted, got, sorted_outputs=self.ordered, tolerance=tolerance)
        found = run(rulers=self.rulers)
        worst = worst_of(found)
        if self.slips is None or worst <= tolerance or not worst < SLIP:
            return found
        return run(rulers=with_noise(self.rulers, self.slips()))

    def with_floor(self, share: float) -> Judge:
        """The same for a runtime whose rounding costs at least this share of the movement."""
        wider = {n: replace(r, floor=np.maximum(r.floor, share * r.movement)) for n, r in self.rulers.items()}
        return replace(self, rulers=wider)

    def with_noise(self, noise: dict[str, Array]) -> Judge:
        """The same where rounding costs a column this much (of `noise_between`)."""
        wider = {n: replace(r, floor=np.maximum(r.floor, noise.get(n, 0.0))) for n, r in self.rulers.items()}
        return replace(self, rulers=wider)


def judge_of(reference: Runnable, feeds: Sequence[Feeds], *, exact: bool = False) -> Judge:
    """Run a reference and look at its outputs.

    Args:
        exact: leave out measuring what rounding costs, and compare to the last digits.
    """
    both = apart(reference)  # once for both sessions
    native = run_onnx(both, list(feeds))
    again = None if exact else run_onnx(both, list(feeds[-1:]), optimise=True)
    return judge_from(reference, feeds, native, again)


def judge_from(
    reference: Runnable, feeds: Sequence[Feeds], native: list[Feeds], again: list[Feeds] | None = None
) -> Judge:
    """The same from outputs that are known: of every input, and optimised (None: not measured) of the last."""
    model = reference if isinstance(reference, Model) else Model.from_onnx(reference)
    expected, half = native, is_half(model)
    if half:
        expected = _in_float32(model, list(feeds)) or native
    masks = shown_logits(_sized(model, feeds[0])).masks
    meaning = meanings(expected, head_of(expected, _size(feeds[0]), model.metadata), masks)
    rulers = rulers_of(native, meaning)
    noise: dict[str, Array] = {}
    if again is not None:
        noise = noise_between(native[-1:], again, rulers)
    if half:
        cost = noise_between(expected, native, rulers)
        again = _in_float32(rounded_again(model), list(feeds[-1:]))
        sharp = {name: replace(ruler, unit=0.0) for name, ruler in rulers.items()}  # nothing is let off by element
        moved = {} if again is None else noise_between(expected[-1:], again, sharp)
        cost = {n: np.maximum(cost[n], moved.get(n, 0.0)) for n in cost}
        noise = {n: np.maximum(noise.get(n, np.zeros(1)), cost[n] * HALF_NOISE / NOISE) for n in cost}
    slips = None if half else cache(partial(_slips, model, list(feeds), native, rulers))
    return Judge(expected, with_noise(rulers, noise), sorts(model.graph), slips)


def _slips(model: Model, feeds: list[Feeds], native: list[Feeds], rulers: dict[str, Ruler]) -> dict[str, Array]:
    """On every input, for what cancels on one need not on another: another order of sums, and moved weights."""
    ways = (run_onnx(model, feeds, optimise=True), run_onnx(moved_weights(model), feeds))
    first, second = (noise_between(native, way, rulers) for way in ways)
    return {name: np.maximum(first[name], second[name]) for name in first}


def _in_float32(model: Model, feeds: list[Feeds]) -> list[Feeds] | None:
    try:
        return run_onnx(in_float32(model), feeds_in_float32(feeds))
    except (VerificationError, ValueError, TypeError):
        return None  # an operator that takes float16 alone


def _sized(model: Model, feed: Feeds) -> Model:
    """The model with its inputs sized as they are fed, so that what is shown is, too: a copy where it is not so."""
    if all(tensor.name not in feed or static_shape(tensor) == feed[tensor.name].shape for tensor in model.graph.inputs):
        return model
    copy = model.copy()
    for tensor in copy.graph.inputs:
        if tensor.name in feed:
            tensor.shape = list(feed[tensor.name].shape)
    return copy


def _size(feed: Feeds) -> tuple[int, int] | None:
    shapes = [value.shape for value in feed.values()]
    return (shapes[0][2], shapes[0][3]) if len(shapes) == 1 and len(shapes[0]) == 4 else None
