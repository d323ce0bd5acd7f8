"""What compensation is said to gain is what it gains; with a control that gains nothing."""

import numpy as np
import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import AbsorbConstants, PruneChannels
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx
from onnxslim_yolo.verify.compensation import compensated_by, measure_compensation
from tests.numeric import build

NETWORK = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,16,16] x) => (float[1,4,16,16] y)'
    " <float[8,3,1,1] stem.weight, float[8] bn.gamma, float[8] bn.beta, float[8] bn.mean, float[8] bn.var,"
    " float[4,8,1,1] head.weight>"
    " { a = Conv(x, stem.weight) b = BatchNormalization(a, bn.gamma, bn.beta, bn.mean, bn.var) c = Relu(b)"
    " y = Conv(c, head.weight) }"
)


def network(constant):
    """Half of the channels vary little around a value: `constant`, which a bias can take over."""
    model = build(NETWORK)
    tensors = model.graph.tensors()
    gamma, beta = tensors["bn.gamma"].values.copy(), tensors["bn.beta"].values.copy()
    gamma[:4], beta[:4] = 1e-3, constant
    gamma[4:], beta[4:] = 1.0, 0.5
    tensors["bn.gamma"].values, tensors["bn.beta"].values = gamma, beta
    return model


def measured(model):
    """What `absorb` gains on half of the channels."""
    PassManager([PruneChannels(ratio=0.5, importance="gamma")]).run(model)
    before = model.copy()
    PassManager([AbsorbConstants()]).run(model)
    found = compensated_by("absorb", before, model)
    return measure_compensation([] if found is None else [found], None)


def test_a_constant_is_won_back():
    (gain,) = measured(network(2.0))
    assert (gain.step, gain.measure, gain.images, gain.kind) == ("absorb", "difference", 1, "synthetic")
    assert gain.without > 0.5 and gain.compensated < 0.01 * gain.without


def test_the_figures_are_those_of_the_networks():
    """The distance without it, worked out by hand: the removed half of the channels, through the last weights."""
    model = network(2.0)
    feeds = image_like_feeds(model, 1)
    values = {name: t.values for name, t in model.graph.tensors().items() if hasattr(t, "values")}
    x = feeds[0]["x"].astype(np.float64)[0].reshape(3, -1)
    normal = (values["stem.weight"].reshape(8, 3) @ x - values["bn.mean"][:, None]) / np.sqrt(
        values["bn.var"][:, None] + 1e-5
    )
    features = np.maximum(values["bn.gamma"][:, None] * normal + values["bn.beta"][:, None], 0)
    lost = values["head.weight"].reshape(4, 8)[:, :4] @ features[:4]
    whole = run_onnx(model, feeds)[0]["y"].astype(np.float64)
    (gain,) = measured(model)
    assert gain.without == pytest.approx(np.sqrt((lost**2).mean()) / whole.std(), rel=1e-4)


def test_control_nothing_to_win_back():
    assert measured(network(0.0)) == [] or all(
        gain.compensated == pytest.approx(gain.without, rel=0.05) for gain in measured(network(0.0))
    )


def test_a_compilation_reports_it(tmp_path):
    path = network(2.0).save(tmp_path / "m.onnx")
    common = {"emit": "onnx", "snap": "none", "out": tmp_path / "o", "importance": "gamma"}
    (row,) = oy.compile(path, prune=0.5, **common).report["compensation"]
    assert row["pass"] == "absorb" and row["compensated"] < 0.01 * row["without"]
    assert "instead of" in (tmp_path / "o" / "m.report.html").read_text()
    assert oy.compile(path, prune=0.5, compensate="none", **common).report["compensation"] == []
    assert oy.compile(path, **common).report["compensation"] == [], "nothing is lost where only dead channels go"
