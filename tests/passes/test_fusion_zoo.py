"""The fusion passes over whole architectures: how often each rewrites, that nothing is left, that nothing changes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import (
    Activations,
    Canonicalise,
    ConvBeforeResize,
    ConvBeforeSplit,
    FocusToConv,
    FoldAffine,
    FoldBatchNorm,
    PadToPool,
    ReparamBranches,
    SppToSppf,
)
from tests.numeric import (
    PADS_BEFORE_MAXPOOL,
    assert_control_fails,
    assert_same,
    differences,
    ops,
    random_feeds,
    run_onnx,
)
from tests.zoo import onnx_bytes

TOLERANCE = 2e-4
"""Rounding through up to 200 layers of a random net; 1 % on a weight moves the output by 1e-2 (see `zoo.randomise`)."""

FUSION = (
    FocusToConv(),
    SppToSppf(),
    ReparamBranches(),
    FoldBatchNorm(),
    FoldAffine(),
    ConvBeforeSplit(),
    ConvBeforeResize(),
    Activations(),
    PadToPool(),
)

REWRITES = {
    "yolov3-tiny": {"fold-bn": 11},
    "yolov5n-focus": {"focus-to-conv": 1, "spp-to-sppf": 2, "fold-bn": 59, "conv-before-resize": 4},
    "yolov6n": {"reparam": 35, "fold-bn": 15},
    "yolov7-rep": {"spp-to-sppf": 2, "reparam": 3, "fold-bn": 86, "fold-affine": 6, "conv-before-resize": 4},
    "yolov8n": {"fold-bn": 57, "conv-before-split": 8, "conv-before-resize": 4},
    "yolov9t": {"reparam": 42, "fold-bn": 137, "conv-before-split": 8, "conv-before-resize": 4},
    "yolov10n": {"reparam": 1, "fold-bn": 75, "conv-before-split": 9, "conv-before-resize": 4},
    "v5lite-g": {"reparam": 12, "fold-bn": 25, "conv-before-resize": 4},
    "yolox": {"focus-to-conv": 1, "spp-to-sppf": 2, "fold-bn": 70, "conv-before-resize": 4},
    "rtdetr": {"reparam": 4, "fold-bn": 46, "fold-affine": 5, "conv-before-resize": 4},
    "ssd": {"fold-bn": 19, "fold-affine": 1},
    "efficientdet": {"fold-bn": 61, "fold-affine": 2},
    "ppyoloe": {"spp-to-sppf": 2, "reparam": 11, "fold-bn": 56, "conv-before-resize": 4},
    "repvgg": {"reparam": 9},
    "mobileone": {"reparam": 17},
    "convnext": {"fold-affine": 12},
}
"""Per architecture, how many rewrites each pass makes; none where it is not named."""


def load(name: str, **options: object) -> Model:
    model = Model.from_onnx(onnx.load_from_string(onnx_bytes(name, **options)))
    reinfer(model.graph)
    return model


def fuse(source: Model, canonicalise: bool = True) -> tuple[Model, dict[str, int]]:
    model = source.copy()
    if canonicalise:
        PassManager([Canonicalise()]).run(model)
    records = PassManager(FUSION).run(model)
    assert not any(record.rewrites for record in PassManager(FUSION).run(model)), "a second run rewrites again"
    return model, {record.name: record.rewrites for record in records if record.rewrites}


def images(model: Model) -> dict[str, np.ndarray]:
    """Uniform noise, as the zoo's weights are calibrated for."""
    rng = np.random.default_rng(3)
    return {name: rng.random(value.shape).astype(value.dtype) for name, value in random_feeds(model).items()}


@pytest.mark.parametrize("name", REWRITES)
def test_architecture(name: str) -> None:
    source = load(name)
    fused, rewrites = fuse(source)
    assert rewrites == REWRITES[name]
    assert "BatchNormalization" not in ops(fused)
    feeds = images(source)
    assert_same(source, fused, TOLERANCE, feeds=feeds)
    assert_control_fails(source, fused, TOLERANCE, whole=True, feeds=feeds)


@pytest.mark.parametrize("name", ["yolov6n", "mobileone"])
def test_branches_merge_alike_where_the_exporter_folded_batch_norms(name: str) -> None:
    unfolded, _ = fuse(load(name))
    source = load(name, fold=True)
    folded, rewrites = fuse(source)
    assert rewrites["reparam"] == REWRITES[name]["reparam"]
    assert Counter(ops(folded)) == Counter(ops(unfolded))
    assert_same(source, folded, TOLERANCE, feeds=images(source))


def test_densenet_keeps_norms_behind_concats() -> None:
    source = load("densenet")
    fused, _ = fuse(source)
    lone = [node for node in fused.graph.nodes if node.op == "BatchNormalization"]
    assert len(lone) == 13
    assert {node.inputs[0].inputs[0].op for node in lone} <= {"Concat", "MaxPool", "AveragePool", "Conv"}
    assert_same(source, fused, TOLERANCE, feeds=images(source))


def test_onnxruntime_changes_yolov3_tiny_but_not_what_we_write() -> None:
    source = load("yolov3-tiny")
    feeds = images(source)
    reference = run_onnx(source, feeds)
    assert (max(differences(reference, run_onnx(source, feeds, optimise=True)).values()) > 1e-2) == PADS_BEFORE_MAXPOOL
    fused, _ = fuse(source)
    assert max(differences(reference, run_onnx(fused, feeds, optimise=True)).values()) < TOLERANCE


def test_dynamic_shapes() -> None:
    source = load("yolov5n-focus", dynamic=True)
    fused, rewrites = fuse(source, canonicalise=False)
    assert rewrites == REWRITES["yolov5n-focus"]
    feeds = {"images": np.random.default_rng(0).random((2, 3, 96, 64)).astype(np.float32)}
    assert_same(source, fused, TOLERANCE, feeds=feeds)
