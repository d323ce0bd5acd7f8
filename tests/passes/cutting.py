"""Plans set by hand, and the check that slicing them equals masking them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.analysis.constraints import complete
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import SliceChannels
from onnxslim_yolo.passes.protocol import Pass
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.plan import Plan, open_plan
from onnxslim_yolo.verify.compare import control as spoil_layers
from tests.numeric import TIGHT, assert_same, differences, random_feeds, run_onnx

HEADER = '<ir_version: 8, opset_import: ["": 17]>'


def onnx_text(inputs: str, outputs: str, weights: str, body: str, opset: int = 17) -> str:
    """A graph as ONNX text; see `tests.numeric.build` for the weights."""
    header = HEADER.replace("17", str(opset))
    return f"{header} g ({inputs}) => ({outputs}) <{weights}> {{ {body} }}"


def classes_of(model: Model, name: str) -> Array:
    """The classes along the channels of a tensor, shape (n,)."""
    plan = open_plan(model)
    tensor = model.graph.tensors()[name]
    labels = plan.channels.labels_of(tensor)
    assert labels is not None, f"'{name}' has no labels"
    return labels.reshape(-1)


def remove(model: Model, name: str, positions: Iterable[int]) -> Plan:
    """Plan the removal of some channels of the tensor `name`."""
    classes = classes_of(model, name)[list(positions)]
    assert (classes != NO_CHANNEL).all(), f"'{name}' has no channels there"
    plan = open_plan(model).without(classes)
    model.plan = replace(plan, wanted=plan.keep, lossless=False)
    return model.plan


def remove_random(model: Model, share: float = 0.5, seed: int = 0) -> Plan:
    """Plan the removal of a random allowed set of channels."""
    plan = open_plan(model)
    rng = np.random.default_rng(seed)
    importance = rng.random(plan.channels.count)
    keep = complete(plan.channels, importance > share, importance)
    model.plan = replace(plan, importance=importance, keep=keep, wanted=keep, lossless=False)
    return model.plan


def run(model: Model, *steps: Pass) -> Model:
    """A copy of the model after some passes."""
    after = model.copy()
    PassManager(steps).run(after)
    return after


def check_slice(model: Model, *, rtol: float = TIGHT, control: bool = True) -> Model:
    """Slice what is planned: equal to masking, with the control; a second run makes nothing. Returns the result."""
    assert model.plan is not None and model.plan.removed, "nothing is planned"
    reference = masked(model, model.plan)
    after = model.copy()
    (record,) = PassManager([SliceChannels()]).run(after)
    assert record.rewrites > 0
    assert PassManager([SliceChannels()]).run(after)[0].rewrites == 0, "a second run slices again"
    assert_same(reference, after, rtol)
    if control:
        feeds = random_feeds(model)
        noticed, layer = spoil_layers(after, [feeds], [run_onnx(reference, feeds)])
        assert noticed > 10 * rtol, f"1 % on the weights of '{layer}' goes unnoticed"
        unlike = differences(run_onnx(model, feeds), run_onnx(after, feeds))
        assert max(unlike.values()) > 100 * rtol, "what was removed did not matter: the check would see nothing"
    return after


def shapes(model: Model) -> dict[str, Sequence[int]]:
    """The shape of every initializer by name."""
    import onnx_graphsurgeon as gs

    return {t.name: tuple(t.shape) for t in model.graph.tensors().values() if isinstance(t, gs.Constant)}
