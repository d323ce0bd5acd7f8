"""A published pruning of yolov5n, reproduced channel for channel (issue 2, item 4).

The table lists each BatchNorm's channels before and after 70 % were pruned by γ, with the layers that shortcuts tie or
bridge left alone. A yolov5n whose γ are set so that each layer has the listed number above the threshold must come out
with the listed numbers, and with widths snapped to powers of two as the publication's rule snaps them.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import onnx
import pytest

from onnxslim_yolo.ir.graph import Array, parameter_count
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import Canonicalise, FoldBatchNorm, PruneChannels, SliceChannels, SnapWidths
from onnxslim_yolo.passes.protocol import Pass
from onnxslim_yolo.pruning.mask import masked
from tests import zoo
from tests.numeric import assert_same

MIB = 1 << 20
THRESHOLD = 0.01
"""Training with an L1 penalty on γ leaves those of useless channels around a thousandth."""

PUBLISHED_SIZE = {"base": 7.1, "pruned": 1.9, "snapped": 2.0}
"""MiB of the ONNX files, fp32, BatchNorm folded, 80 classes."""

GRID = (8, 16, 32, 64, 128, 256, 512)

# fmt: off
CHANNELS = {
    "model.0.bn": (16, 13),
    "model.1.bn": (32, 31),
    "model.2.cv1.bn": (16, 16),
    "model.2.cv2.bn": (16, 15),
    "model.2.cv3.bn": (32, 32),
    "model.2.m.0.cv1.bn": (16, 16),
    "model.2.m.0.cv2.bn": (16, 16),
    "model.3.bn": (64, 57),
    "model.4.cv1.bn": (32, 32),
    "model.4.cv2.bn": (32, 28),
    "model.4.cv3.bn": (64, 57),
    "model.4.m.0.cv1.bn": (32, 32),
    "model.4.m.0.cv2.bn": (32, 32),
    "model.4.m.1.cv1.bn": (32, 32),
    "model.4.m.1.cv2.bn": (32, 32),
    "model.5.bn": (128, 66),
    "model.6.cv1.bn": (64, 64),
    "model.6.cv2.bn": (64, 30),
    "model.6.cv3.bn": (128, 54),
    "model.6.m.0.cv1.bn": (64, 64),
    "model.6.m.0.cv2.bn": (64, 64),
    "model.6.m.1.cv1.bn": (64, 64),
    "model.6.m.1.cv2.bn": (64, 64),
    "model.6.m.2.cv1.bn": (64, 64),
    "model.6.m.2.cv2.bn": (64, 64),
    "model.7.bn": (256, 1),
    "model.8.cv1.bn": (128, 128),
    "model.8.cv2.bn": (128, 1),
    "model.8.cv3.bn": (256, 4),
    "model.8.m.0.cv1.bn": (128, 128),
    "model.8.m.0.cv2.bn": (128, 128),
    "model.9.cv1.bn": (128, 1),
    "model.9.cv2.bn": (256, 18),
    "model.10.bn": (128, 13),
    "model.13.cv1.bn": (64, 56),
    "model.13.cv2.bn": (64, 8),
    "model.13.cv3.bn": (128, 50),
    "model.13.m.0.cv1.bn": (64, 47),
    "model.13.m.0.cv2.bn": (64, 51),
    "model.14.bn": (64, 35),
    "model.17.cv1.bn": (32, 18),
    "model.17.cv2.bn": (32, 5),
    "model.17.cv3.bn": (64, 60),
    "model.17.m.0.cv1.bn": (32, 22),
    "model.17.m.0.cv2.bn": (32, 27),
    "model.18.bn": (64, 17),
    "model.20.cv1.bn": (64, 19),
    "model.20.cv2.bn": (64, 9),
    "model.20.cv3.bn": (128, 75),
    "model.20.m.0.cv1.bn": (64, 17),
    "model.20.m.0.cv2.bn": (64, 38),
    "model.21.bn": (128, 18),
    "model.23.cv1.bn": (128, 11),
    "model.23.cv2.bn": (128, 9),
    "model.23.cv3.bn": (256, 63),
    "model.23.m.0.cv1.bn": (128, 10),
    "model.23.m.0.cv2.bn": (128, 30),
}
# fmt: on
"""BatchNorm → channels before, channels after. From the publication."""

RESIDUAL = tuple(
    name
    for name in CHANNELS
    if name.split(".")[1] in ("2", "4", "6", "8") and (name.endswith(".cv1.bn") or ".m." in name)
)
"""What shortcuts tie or bridge: cv1 and the bottlenecks of the backbone's C3 blocks."""


def snapped(width: int) -> int:
    """The publication's rule, written down independently: nearest grid point, the smaller one on a tie."""
    return min(GRID, key=lambda point: (abs(point - width), point))


@pytest.fixture(scope="module")
def source() -> Model:
    """yolov5n with the listed number of γ above the threshold, at random places."""
    proto = onnx.load_model_from_string(zoo.onnx_bytes("yolov5n", nc=80, width=1.0))
    rng = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        name = tensor.name.removesuffix(".weight")
        if name in CHANNELS and name != tensor.name:
            tensor.CopyFrom(onnx.numpy_helper.from_array(gammas(*CHANNELS[name], rng), tensor.name))
    model = Model.from_onnx(proto)
    PassManager([Canonicalise()]).run(model)
    return model


def gammas(width: int, above: int, rng: np.random.Generator) -> Array:
    values = rng.uniform(1e-4, 0.9 * THRESHOLD, width)
    values[rng.permutation(width)[:above]] = rng.uniform(0.2, 1.5, above)
    return (values * rng.choice([-1, 1], width)).astype(np.float32)


def ratio() -> float:
    """Removed over in scope."""
    scope = [name for name in CHANNELS if name not in RESIDUAL]
    before, after = (sum(CHANNELS[name][k] for name in scope) for k in (0, 1))
    return (before - after) / before


def compiled(source: Model, *steps: Pass, importance: Literal["auto", "gamma"] = "gamma") -> Model:
    model = source.copy()
    PassManager(
        [PruneChannels(ratio=ratio(), scope="no-residual", importance=importance), *steps, SliceChannels()]
    ).run(model)
    return model


def widths(model: Model) -> dict[str, int]:
    found = {t.name: t.shape[0] for t in model.graph.tensors().values() if t.name.endswith(".bn.weight")}
    return {name.removesuffix(".weight"): int(width) for name, width in found.items()}  # type: ignore[arg-type]


def file_size(model: Model) -> tuple[float, float]:
    """MiB of the ONNX file with BatchNorm folded, and of the weights in it, to the decimal that was published.

    The weights alone show that the publication rounds down: 521502 of them are 1.989 MiB, published as 1.9.
    """
    folded = model.copy()
    PassManager([FoldBatchNorm()]).run(folded)
    sizes = len(folded.to_onnx().SerializeToString()) / MIB, 4 * parameter_count(folded.graph) / MIB
    return math.floor(10 * sizes[0]) / 10, math.floor(10 * sizes[1]) / 10


def test_the_table_lists_every_batch_norm(source: Model) -> None:
    assert widths(source) == {name: before for name, (before, _) in CHANNELS.items()}
    assert all(CHANNELS[name][0] == CHANNELS[name][1] for name in RESIDUAL)
    assert ratio() == pytest.approx(0.7, abs=0.005)


@pytest.mark.parametrize("importance", ["gamma", "auto"])
def test_counts_are_the_published_ones(source: Model, importance: Literal["auto", "gamma"]) -> None:
    """`--scope no-residual` alone reproduces the table: it means what the published scripts do, γ included."""
    model = compiled(source, importance=importance)
    assert widths(model) == {name: after for name, (_, after) in CHANNELS.items()}
    for name, (_, after) in CHANNELS.items():
        gamma = {t.name: t for t in model.graph.tensors().values()}[f"{name}.weight"].values  # type: ignore[attr-defined]
        if name not in RESIDUAL:
            assert (np.abs(gamma) > THRESHOLD).all() and len(gamma) == after


def test_snapped_counts_are_the_published_ones(source: Model) -> None:
    expected = {name: after if name in RESIDUAL else snapped(after) for name, (_, after) in CHANNELS.items()}
    assert widths(compiled(source, SnapWidths(to="pow2"))) == expected


def test_snapping_keeps_the_most_important(source: Model) -> None:
    """A widely copied script fills widths up with the least important channels."""
    before = {t.name: t.values for t in source.graph.tensors().values() if t.name.endswith(".bn.weight")}  # type: ignore[attr-defined]
    after = compiled(source, SnapWidths(to="pow2"))
    for name, (_, wanted) in CHANNELS.items():
        if name in RESIDUAL:
            continue
        gamma = np.sort(np.abs(before[f"{name}.weight"]))[::-1]
        kept = {t.name: t for t in after.graph.tensors().values()}[f"{name}.weight"].values  # type: ignore[attr-defined]
        np.testing.assert_array_equal(np.sort(np.abs(kept))[::-1], gamma[: snapped(wanted)])


def test_the_default_scope_prunes_shortcuts_too(source: Model) -> None:
    model = source.copy()
    PassManager([PruneChannels(ratio=0.7, importance="gamma"), SliceChannels()]).run(model)
    assert all(width < CHANNELS[name][0] for name, width in widths(model).items() if name == "model.2.cv2.bn")
    # Every γ of a shortcut's layers lies above the threshold, yet two thirds of all channels have to go.
    assert sum(widths(model)[name] for name in RESIDUAL) < sum(CHANNELS[name][0] for name in RESIDUAL)


def test_file_sizes_are_the_published_ones(source: Model) -> None:
    models = {
        "base": source,
        "pruned": compiled(source),
        "snapped": compiled(source, SnapWidths(to="pow2")),
    }
    for name, model in models.items():
        file, weights = file_size(model)
        assert weights == PUBLISHED_SIZE[name]
        assert file == pytest.approx(PUBLISHED_SIZE[name], abs=0.1001)


def test_the_result_is_the_masked_source(source: Model) -> None:
    planned = source.copy()
    PassManager([PruneChannels(ratio=ratio(), scope="no-residual"), SnapWidths(to="pow2")]).run(planned)
    assert planned.plan is not None
    reference = masked(planned, planned.plan)
    PassManager([SliceChannels()]).run(planned)
    feeds = {"images": zoo.images().numpy()}
    assert_same(reference, planned, 5e-5, feeds=feeds, optimise=(False,))
