"""Channels in random nests: whatever is removed, slicing equals masking, and what nobody reads can go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.analysis.constraints import complete, violations
from onnxslim_yolo.analysis.dead import dead_channels
from onnxslim_yolo.analysis.moment_rules import moments_of
from onnxslim_yolo.ir.graph import Array, replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import AbsorbConstants, Canonicalise, PruneChannels, ShuffleToGather, SliceChannels
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.plan import Plan, open_plan
from tests.numeric import differences, random_feeds, run_onnx
from tests.property.nests import nests

ROUNDING = 1e-4
QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def prepared(proto: onnx.ModelProto) -> Model:
    onnx.checker.check_model(proto)
    model = Model.from_onnx(proto)
    PassManager([Canonicalise(), ShuffleToGather(), Canonicalise()]).run(model)
    return model


def planned(model: Model, seed: int, share: float) -> Plan:
    """A random allowed choice."""
    plan = open_plan(model)
    importance = np.random.default_rng(seed).random(plan.channels.count)
    keep = complete(plan.channels, importance > share, importance)
    assert violations(plan.channels, keep) == []
    model.plan = replace(plan, importance=importance, keep=keep, lossless=False)
    return model.plan


def worst(a: Model | onnx.ModelProto, b: Model) -> float:
    feeds = random_feeds(a)
    return max(differences(run_onnx(a, feeds), run_onnx(b, feeds)).values())


@QUICK
@given(nests())
def test_labels_describe_every_tensor(proto: onnx.ModelProto) -> None:
    model = prepared(proto)
    assert worst(proto, model) <= ROUNDING
    channels = open_plan(model).channels
    for tensor in model.graph.tensors().values():
        labels = channels.labels_of(tensor)
        if labels is None:
            continue
        shape = tuple(tensor.shape or ())
        np.broadcast_shapes(labels.shape, shape)
        assert sum(size > 1 for size in labels.shape) <= 1 and labels.ndim == len(shape)
        assert ((labels >= 0) | (labels == NO_CHANNEL)).all() and (labels < channels.count).all()
    assert len(channels.frozen) == channels.count == len(channels.group_of)


@QUICK
@given(nests(), st.integers(0, 9), st.sampled_from([0.2, 0.5, 0.9]))
def test_slicing_equals_masking(proto: onnx.ModelProto, seed: int, share: float) -> None:
    model = prepared(proto)
    plan = planned(model, seed, share)
    assume(plan.removed > 0)
    reference = masked(model, plan)
    PassManager([SliceChannels()]).run(model)
    assert PassManager([SliceChannels()]).run(model)[0].rewrites == 0
    assert worst(reference, model) <= ROUNDING


@QUICK
@given(nests(), st.integers(0, 9))
def test_what_no_weight_reads_can_go(proto: onnx.ModelProto, seed: int) -> None:
    """The columns of removed channels are zeroed in whoever reads them: then removing them changes nothing."""
    model = prepared(proto)
    plan = planned(model, seed, 0.5)
    assume(plan.removed > 0)
    weighted = {id(node) for use in plan.channels.uses if use.role == "in" for node in [use.node]}
    for node, index in plan.channels.contractions:
        labels = plan.channels.labels_of(node.inputs[index])
        gone = labels is not None and bool((~plan.keep[labels[labels != NO_CHANNEL]]).any())
        assume(not gone or id(node) in weighted)  # attention multiplies two computed tensors
    zero_columns(plan)
    dead = dead_channels(plan.channels, moments_of(model.graph, plan.channels.shapes))
    assert dead[~plan.keep].all()
    after = model.copy()
    PassManager([SliceChannels()]).run(after)
    assert worst(model, after) <= ROUNDING


def zero_columns(plan: Plan) -> None:
    """Zero the weights that read removed channels."""
    for use in plan.channels.uses:
        if use.role == "in":
            values = np.array(use.constant.values)
            replace_constant(use.node, use.index, zeroed(values, use.labels, use.axis, plan.keep))


def zeroed(values: Array, labels: Array, axis: int, keep: Array) -> Array:
    gone = (labels != NO_CHANNEL) & ~keep[np.maximum(labels, 0)]
    if labels.ndim == 2:  # a grouped convolution: each group's rows have columns of their own
        for rows, columns in zip(np.split(values, len(labels), axis=0), gone, strict=True):
            rows[:, columns] = 0
        return values
    values[(slice(None),) * axis + (gone,)] = 0
    return values


@QUICK
@given(nests())
def test_pruning_dead_channels_is_exact(proto: onnx.ModelProto) -> None:
    model = prepared(proto)
    after = model.copy()
    PassManager([PruneChannels(), AbsorbConstants(scope="exact"), SliceChannels()]).run(after)
    assert worst(model, after) <= ROUNDING


@QUICK
@given(nests(), st.sampled_from([0.3, 0.6]))
def test_pruned_twice(proto: onnx.ModelProto, ratio: float) -> None:
    """The result of one pruning can be pruned again, and the plan still speaks about the source."""
    model = prepared(proto)
    before = {t.name: t.shape for t in model.graph.tensors().values()}
    assume(open_plan(model).channels.prunable.any())
    PassManager([PruneChannels(ratio=ratio), SliceChannels(), PruneChannels(ratio=0.0), SliceChannels()]).run(model)
    plan = planned(model, 1, 0.4)
    assume(plan.removed > 0)
    reference = masked(model, plan)
    PassManager([SliceChannels()]).run(model)
    assert worst(reference, model) <= ROUNDING
    after = {t.name: t.shape for t in model.graph.tensors().values()}
    for name, axes in model.carried.kept.items():
        for axis, kept in axes.items():
            lists = kept if kept and isinstance(kept[0], list) else [kept]
            assert all(len(part) == after[name][axis] and max(part) < before[name][axis] for part in lists)  # type: ignore[arg-type,type-var,index]
