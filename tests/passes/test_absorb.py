"""absorb: exact for constants in front of unpadded contractions, wherever the shift has to go."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import AbsorbConstants, PruneChannels, SliceChannels
from onnxslim_yolo.pruning.mask import masked
from onnxslim_yolo.pruning.plan import open_plan
from tests.numeric import assert_control_fails, assert_same, build, constants, differences, ops, random_feeds, run_onnx
from tests.passes.cutting import classes_of, onnx_text, remove, run

NORM = "n.gamma, n.beta, n.mean, n.var"
WEIGHTS = "float[6,3,1,1] a.weight, " + ", ".join(f"float[6] {name}" for name in NORM.split(", "))
STEM = f"a = Conv(x, a.weight) b = BatchNormalization(a, {NORM}) h = Sigmoid(b)"
VALUES: dict[str, Array] = {
    "n.gamma": np.array([1.0, 0, 0.7, 0, 1.2, 0]),
    "n.beta": np.array([0.3, 0.8, -0.2, -1.5, 0.1, 0]),
}
CONSTANT = [1, 3, 5]  # σ(β) ≠ 0: never zero


def model(weights: str, body: str, outputs: str = "float[a,b,c,d] y", opset: int = 17) -> Model:
    text = onnx_text("float[2,3,5,5] x", outputs, f"{WEIGHTS}, {weights}", f"{STEM} {body}", opset)
    return build(text, values=VALUES)


READERS = {
    "bias": ("float[4,6,3,3] w, float[4] v", "y = Conv(h, w, v)"),
    "no-bias": ("float[4,6,3,3] w", "y = Conv(h, w)"),
    "grouped": ("float[4,3,1,1] w", "y = Conv<group=2>(h, w)"),
    "relu-behind": ("float[4,6,1,1] w, float[2,4,1,1] z", "c = Conv(h, w) r = Relu(c) y = Conv(r, z)"),
    "norm-behind": (
        "float[4,6,1,1] w, float[4] m.gamma, float[4] m.beta, float[4] m.mean, float[4] m.var",
        "c = Conv(h, w) y = BatchNormalization(c, m.gamma, m.beta, m.mean, m.var)",
    ),
    "norm-behind-and-another-reader": (
        "float[4,6,1,1] w, float[4] m.gamma, float[4] m.beta, float[4] m.mean, float[4] m.var",
        "c = Conv(h, w) d = BatchNormalization(c, m.gamma, m.beta, m.mean, m.var) y = Add(c, d)",
    ),
    "concat": ("float[4,12,1,1] w", "c = Concat<axis=1>(h, h) y = Conv(c, w)"),
    "pool-between": ("float[4,6,1,1] w", "p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(h) y = Conv(p, w)"),
    "resize-between": (
        "float[0] roi, float[4] factors = {1.0, 1.0, 2.0, 2.0}, float[4,6,1,1] w",
        'p = Resize<mode="linear">(h, roi, factors) y = Conv(p, w)',
    ),
    "depthwise-between": (
        "float[6,1,3,3] d, float[6] e, float[4,6,1,1] w",
        "p = Conv<group=6>(h, d, e) y = Conv(p, w)",
    ),
    "residual": ("float[6,6,1,1] r, float[4,6,1,1] w", "y0 = Conv(h, w) y = Identity(y0)"),
    "gemm": (
        "float[6,4] w, float[4] v",
        "m = GlobalAveragePool(h) f = Flatten(m) y = Gemm<alpha=0.5, beta=2.0>(f, w, v)",
        "float[a,b] y",
    ),
    "gemm-no-bias": (
        "float[4,6] w",
        "m = ReduceMean<axes=[2,3], keepdims=0>(h) y = Gemm<alpha=0.5, transB=1>(m, w)",
        "float[a,b] y",
    ),
    "matmul": ("float[6,4] w", "m = GlobalAveragePool(h) f = Flatten(m) y = MatMul(f, w)", "float[a,b] y"),
    "matmul-add": (
        "float[6,4] w, float[4] v",
        "m = GlobalAveragePool(h) f = Flatten(m) q = MatMul(f, w) y = Add(q, v)",
        "float[a,b] y",
    ),
    "tokens": (
        "int64[3] flat = {2, 6, 25}, float[6,4] w",
        "f = Reshape(h, flat) t = Transpose<perm=[0,2,1]>(f) y = MatMul(t, w)",
        "float[a,b,c] y",
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_constants_are_absorbed_exactly(reader: str) -> None:
    source = model(*READERS[reader])
    after = run(source, PruneChannels(), AbsorbConstants(scope="exact"), SliceChannels())
    assert after.carried.plan is not None
    gone = np.flatnonzero(~after.carried.plan.keep[classes_of_plan(after)])
    if reader == "grouped":  # 1 lies in the first group, 3 and 5 in the second: one of these has to stay
        assert len(gone) == 2 and set(gone) < set(CONSTANT)
    else:
        np.testing.assert_array_equal(gone, CONSTANT)
    assert_same(source, after)
    assert_control_fails(source, after, weight="w")
    # Without absorbing, the constants are missed.
    without = run(source, PruneChannels(), SliceChannels())
    assert (
        max(differences(run_onnx(source, random_feeds(source)), run_onnx(without, random_feeds(source))).values())
        > 0.01
    )


def classes_of_plan(model: Model) -> Array:
    """The classes that `a` makes, in an analysis whose graph has been sliced since."""
    assert model.carried.plan is not None
    uses = [use for use in model.carried.plan.channels.uses if use.role == "out"]
    return next(use.labels for use in uses if use.constant.name == "a.weight")


def test_a_running_mean_takes_the_shift() -> None:
    """No bias is made where a BatchNorm reads the convolution alone."""
    source = model(*READERS["norm-behind"])
    after = run(source, PruneChannels(), AbsorbConstants(scope="exact"))
    assert set(constants(after)) == set(constants(source))
    assert (constants(after)["m.mean"] != constants(source)["m.mean"]).all()
    assert (constants(after)["m.beta"] == constants(source)["m.beta"]).all()
    other = run(model(*READERS["norm-behind-and-another-reader"]), PruneChannels(), AbsorbConstants(scope="exact"))
    assert "w_bias" in constants(other)


def test_a_bias_is_made_with_the_weights_name() -> None:
    source = model("float[4,6,1,1] head.cv.weight", "y = Conv(h, head.cv.weight)")
    after = run(source, PruneChannels(), AbsorbConstants(scope="exact"))
    assert "head.cv.bias" in constants(after)
    taps = constants(source)["head.cv.weight"].sum(axis=(2, 3))[:, CONSTANT]
    expected = taps @ (1 / (1 + np.exp(-VALUES["n.beta"][CONSTANT])))
    np.testing.assert_allclose(constants(after)["head.cv.bias"], expected, rtol=1e-5)


def test_zero_padding_is_not_exact() -> None:
    """A padded convolution reads 0 beyond the edge, not the constant: such channels are not dead."""
    source = model("float[4,6,3,3] w", "y = Conv<pads=[1,1,1,1]>(h, w)")
    after = run(source, PruneChannels())
    assert after.plan is None or after.plan.removed == 0
    planned = source.copy()
    remove(planned, "h", CONSTANT)
    sliced = run(planned, AbsorbConstants(), SliceChannels())
    expected, found = (run_onnx(m, random_feeds(source))["y"] for m in (source, sliced))
    np.testing.assert_allclose(found[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], rtol=1e-4, atol=1e-5)
    assert np.abs(found - expected)[:, :, 0].max() > 0.01


def test_expectations_lower_the_loss() -> None:
    """Statistics, not constants: σ(γz + β) has a mean, and missing it costs more than missing its variance."""
    rng = np.random.default_rng(0)
    text = onnx_text("float[2,3,32,32] x", "float[a,b,c,d] y", f"{WEIGHTS}, float[4,6,1,1] w", f"{STEM} y = Conv(h, w)")
    source = build(text, values={"n.gamma": rng.uniform(0.2, 0.5, 6), "n.beta": rng.uniform(0.5, 2, 6)})
    feeds = {"x": rng.standard_normal((2, 3, 32, 32)).astype(np.float32)}
    calibrated = calibrate(source, feeds)
    errors = {}
    for scope in ("none", "exact", "all"):
        planned = calibrated.copy()
        remove(planned, "h", [0, 4])
        steps = [] if scope == "none" else [AbsorbConstants(scope=scope)]  # type: ignore[arg-type]
        after = run(planned, *steps, SliceChannels())
        errors[scope] = float(np.abs(run_onnx(after, feeds)["y"] - run_onnx(calibrated, feeds)["y"]).mean())
    assert errors["exact"] == errors["none"]  # nothing is provably constant
    assert errors["all"] < 0.3 * errors["none"]


def calibrate(model: Model, feeds: dict[str, Array]) -> Model:
    """Running statistics as training would have left them."""
    probe = model.copy()
    probe.graph.outputs = [probe.graph.tensors()["a"]]
    a = run_onnx(probe, feeds)["a"]
    found = model.copy()
    for node in found.graph.nodes:
        if node.op == "BatchNormalization":
            mean, var = a.mean(axis=(0, 2, 3)), a.var(axis=(0, 2, 3))
            inputs = list(node.inputs)
            inputs[3], inputs[4] = gs.Constant("n.mean", mean), gs.Constant("n.var", var)
            node.inputs = inputs
    return found


def test_it_is_done_once_and_only_for_a_plan() -> None:
    source = model(*READERS["bias"])
    assert AbsorbConstants().run(source) == 0
    planned = run(source, PruneChannels())
    (first, second) = PassManager([AbsorbConstants(), AbsorbConstants()]).run(planned)
    assert (first.rewrites, second.rewrites) == (1, 0)
    PassManager([SliceChannels()]).run(planned)
    assert AbsorbConstants().run(planned) == 0
    assert ops(planned) == ops(source)


def test_slicing_still_equals_masking_afterwards() -> None:
    """Absorbing edits biases only: slice against the mask of the absorbed model."""
    planned = model(*READERS["norm-behind"])
    remove(planned, "h", [0, 1])
    PassManager([AbsorbConstants()]).run(planned)
    plan = open_plan(planned)
    reference = masked(planned, plan)
    assert_same(reference, run(planned, SliceChannels()))
    assert classes_of(planned, "h").size == 6


@pytest.mark.parametrize("layer", ["Conv(r, b.weight)", "Conv(r, b.weight, b.bias)"])
def test_a_bias_made_here_is_cut_with_its_channels(layer: str) -> None:
    zero = np.zeros((8, 3, 1, 1), np.float32)
    dead = np.zeros((8, 8, 1, 1), np.float32)
    dead[:3] = np.random.default_rng(0).standard_normal((3, 8, 1, 1))
    model = build(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] y)
        <float[8, 3, 1, 1] a.weight, float[8] a.bias, float[8, 8, 1, 1] b.weight, float[8] b.bias,
         float[2, 8, 1, 1] c.weight> {{
            h = Conv(x, a.weight, a.bias)
            r = Relu(h)
            m = {layer}
            s = Relu(m)
            y = Conv(s, c.weight)
        }}""",
        values={"a.weight": zero, "a.bias": np.ones(8, np.float32), "b.weight": dead},
    )
    before = model.copy()
    PassManager([PruneChannels(), AbsorbConstants(scope="exact"), SliceChannels()]).run(model)
    assert model.carried.plan is not None and model.carried.plan.removed > 0
    assert_same(before, model)
