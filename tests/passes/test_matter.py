"""Calibration counts positions by what the detections hang on: background does not decide what is fitted."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.adjoint_rules import ADJOINTS
from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.analysis.contraction import contractions
from onnxslim_yolo.heads.spec import HeadSpec
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning import matter
from onnxslim_yolo.pruning.calibration import collect
from tests.numeric import build

HEAD = HeadSpec("v8-raw", 3, strides=(8,), reg_max=1)
SIDE = 16
BRIGHT = slice(0, 4)
"""The columns in which something is seen."""


def network(kernel: int) -> Model:
    """Two convolutions; what is bright is an object of class 0, the rest is nothing."""
    pad = kernel // 2
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[1,3,{SIDE},{SIDE}] x) => (float[1,7,{SIDE},{SIDE}] y)
        <float[4,3,1,1] wa, float[7,4,{kernel},{kernel}] wb, float[7] bb> {{
            a = Conv<kernel_shape=[1,1]>(x, wa)
            b = Relu(a)
            y = Conv<kernel_shape=[{kernel},{kernel}],pads=[{pad},{pad},{pad},{pad}]>(b, wb, bb)
        }}
    """
    first = np.random.default_rng(0).uniform(0.2, 1.0, (4, 3, 1, 1))
    second = np.zeros((7, 4, kernel, kernel))
    second[4, :, pad, pad] = 3.0
    second[:4, :, pad, pad] = 0.1
    return build(text, values={"wa": first, "wb": second, "bb": np.array([2, 2, 2, 2, -9, -20, -20])})


def images() -> list[Array]:
    rng = np.random.default_rng(1)
    found = [rng.uniform(0, 0.1, (1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(3)]
    for image in found:
        image[..., BRIGHT] += 0.45
    return found


def means(model: Model, head: HeadSpec | None) -> Array:
    """The means of what the second convolution reads."""
    places = [place for place in contractions(analyse_channels(model.graph)) if place.taps is not None]
    place = next(place for place in places if place.node.outputs[0].name == "y")
    return collect(model, [place], images(), head=head)[0].by_channel().mean


@pytest.mark.parametrize("kernel", [1, 3])
def test_where_something_is_seen_counts_more(kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(kernel)
    alike, weighed = means(model, None), means(model, HEAD)
    bright = 4 / SIDE
    seen = (alike / (bright + 0.05)).min()  # about what a bright position gives
    assert (weighed > 1.7 * alike).all()
    assert (weighed < seen).all()  # half of the weight stays everywhere
    monkeypatch.setattr(matter, "SHARE", 0.0)
    np.testing.assert_allclose(means(model, HEAD), alike, rtol=1e-5)  # the control


def test_without_gradients_all_positions_count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(1)
    monkeypatch.delitem(ADJOINTS, "Conv")
    np.testing.assert_allclose(means(model, HEAD), means(model, None), rtol=1e-6)
    assert any("all positions count alike" in note and "Conv" in note for note in model.notes)
