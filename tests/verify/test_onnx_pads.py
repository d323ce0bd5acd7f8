"""What onnxruntime up to 1.31 fuses wrongly is written, and run, in a form that has nothing to fuse."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.onnx import write_onnx
from onnxslim_yolo.ir.graph import sweep
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.onnx_pads import fit_for_onnxruntime
from onnxslim_yolo.runtime.onnx_run import run_onnx
from tests.numeric import PADS_BEFORE_MAXPOOL, Feeds, assert_control_fails, assert_same, constants, ops, random_feeds
from tests.passes.pads import WINDOWS, graph, padded


def test_onnxruntime_changes_the_original() -> None:
    """The reason for this: without it, the comparison with optimisations on must fail, up to 1.31."""
    model = graph(padded())
    with pytest.raises(AssertionError, match="differs by") if PADS_BEFORE_MAXPOOL else nullcontext():
        assert_same(model, model, optimise=(True,))


def checked(model: Model, rtol: float = 2e-5, feeds: Feeds | None = None) -> list[str]:
    """The operators of what is written, which is the same, and leaves the model as it was."""
    before = ops(model)
    fit = fit_for_onnxruntime(model)
    assert ops(model) == before and fit is not model
    sweep(fit.graph)
    assert_same(model, fit, rtol, feeds=feeds)
    assert_control_fails(model, fit, rtol, feeds=feeds)
    return ops(fit)


@pytest.mark.parametrize("case", WINDOWS)
def test_zero_pad_before_max_pool(case: str) -> None:
    layer, pads = WINDOWS[case]
    assert checked(graph(padded(layer, pads=pads))) == ["Conv", "LeakyRelu", "MaxPool", "Max"]


INDIRECT = {
    "unknown size": (padded(size="m,n"), ["Conv", "LeakyRelu", "Conv", "MaxPool"]),
    "wider than the kernel": (padded(pads="0,0,3,0,0,0,2,2"), ["Conv", "LeakyRelu", "Conv", "MaxPool"]),
    "rounding up": (
        padded("MaxPool<kernel_shape=[2,2], strides=[3,3], ceil_mode=1>(p)", pads="0,0,0,0,0,0,2,0"),
        ["Conv", "LeakyRelu", "Conv", "MaxPool"],
    ),
    "dilated": (
        padded("MaxPool<kernel_shape=[2,2], dilations=[2,2]>(p)", "Relu(c)"),
        ["Conv", "Relu", "Conv", "MaxPool"],
    ),
}


@pytest.mark.parametrize("case", INDIRECT)
def test_zeros_padded_by_a_convolution(case: str) -> None:
    text, left = INDIRECT[case]
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 9, 8)).astype(np.float32)} if "m,n" in text else None
    assert checked(graph(text), feeds=feeds) == left


def test_axes_of_opset_18_and_attributes_of_opset_2() -> None:
    axes = padded(pad="Pad(h, two, zero, spatial)").replace('"": 17', '"": 18')
    assert checked(graph(axes)) == ["Conv", "LeakyRelu", "MaxPool", "Max"]
    attributes = padded(pad="Pad<pads=[0,0,0,0,0,0,1,1], value=0.0>(h)").replace('"": 17', '"": 9')
    assert checked(graph(attributes)) == ["Conv", "LeakyRelu", "MaxPool", "Max"]


def test_float16() -> None:
    model = graph(padded().replace("float", "float16"))
    fit = fit_for_onnxruntime(model)
    assert_same(model, fit, 4e-3)
    assert all(value.dtype != np.float32 for value in constants(fit).values())


@pytest.mark.parametrize(
    "text",
    [
        padded("MaxPool<kernel_shape=[2,2]>(p)", pad="Pad(h, pads, one)"),
        padded("Conv(p, k)"),
        padded(outputs=", int64[2,4,d,e] i").replace("y = MaxPool", "y, i = MaxPool"),
    ],
)
def test_what_is_fused_rightly_or_not_at_all_stays_and_is_not_copied(text: str) -> None:
    model = graph(text)
    assert fit_for_onnxruntime(model) is model


def test_the_file_is_right_with_optimisations_and_the_pair_keeps_its_padding(tmp_path: Path) -> None:
    model = graph(padded())
    file = write_onnx(model, tmp_path / "m.onnx")
    assert [node.op_type for node in onnx.load(file).graph.node] == ["Conv", "LeakyRelu", "MaxPool", "Max"]
    feeds = [random_feeds(model)]
    [plain], [optimised], [run] = (
        run_onnx(model, feeds),
        run_onnx(file, feeds, optimise=True),
        run_onnx(model, feeds, optimise=True),
    )
    for found in (optimised, run):
        assert np.allclose(found["y"], plain["y"], atol=1e-5)
    if PADS_BEFORE_MAXPOOL:  # the control: the graph as it is
        [fused] = run_onnx(model.to_onnx(), feeds, optimise=True)
        assert not np.allclose(fused["y"], plain["y"], atol=1e-2)
    one = graph(padded().replace("float[2,3", "float[1,3").replace("float[2,a", "float[1,a"))
    kinds = [line.split()[0] for line in emit_ncnn(one).param.splitlines()[3:]]
    assert "Padding" in kinds and "BinaryOp" not in kinds
