"""Networks with random widths: what predictions are tested on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxslim_yolo.analysis.constraints import complete
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes import FocusToConv, SliceChannels, SppToSppf
from onnxslim_yolo.passes.protocol import Pass
from onnxslim_yolo.pipeline import _fusing
from onnxslim_yolo.pruning.plan import open_plan


def prepared(model: Model) -> Model:
    """A copy, rewritten as before pruning."""
    model = model.copy()
    steps: tuple[Pass, ...] = (FocusToConv(), SppToSppf())
    for step in steps:
        step.run(model)
    return model


def fused(model: Model) -> Model:
    """The model, fused in place as before it is written."""
    for step in _fusing():
        step.run(model)
    return model


def with_random_widths(model: Model, seed: int, step: int) -> Model:
    """A sliced and fused copy: each group keeps a random share of its channels, in multiples of `step`.

    The network's typical share is drawn as well, so that assignments differ in size and not in detail only.
    """
    random = np.random.default_rng(seed)
    model = model.copy()
    plan = open_plan(model)
    importance, keep = random.random(plan.channels.count), plan.keep.copy()
    typical = random.uniform(0.25, 0.95)
    for group in plan.channels.groups:
        if group.frozen:
            continue
        share = float(np.clip(random.normal(typical, 0.2), 0.1, 1.0))
        width = max(step, round(share * group.width / step) * step)
        order = group.classes[np.argsort(-importance[group.classes], kind="stable")]
        keep[order[min(width, group.width) :]] = False
    keep = complete(plan.channels, keep, importance)
    model.plan = replace(plan, importance=importance, keep=keep)
    SliceChannels().run(model)
    return fused(model)
