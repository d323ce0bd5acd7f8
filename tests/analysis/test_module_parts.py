"""What a model's code takes for equal is told from its graph, and every plan respects it where that is asked for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.analysis.module_parts import module_balances
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.passes import PruneChannels, SliceChannels, SnapWidths
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx


def graph(text: str, **weights: tuple[int, ...]) -> Model:
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    for name, shape in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    model = Model.from_onnx(proto)
    reinfer(model.graph)
    return model


def halves(second: str = "b") -> Model:
    """A convolution cut in halves, of which one is read by a convolution and both by another."""
    return graph(
        f"""g (float[1, 3, 8, 8] x) => (float[1, 2, 8, 8] z) {{
            y = Conv (x, w1)
            a, b = Split <axis = 1> (y)
            c = Conv ({second}, w2)
            d = Concat <axis = 1> (a, b, c)
            z = Conv (d, w3)
        }}""",
        w1=(16, 3, 1, 1),
        w2=(4, 8, 1, 1),
        w3=(2, 20, 1, 1),
    )


def attention(heads: int = 2, returned: int = 8) -> Model:
    """Queries and keys of 2, values of `returned` / heads channels a head; the product is laid out as a map again."""
    values = returned // heads
    rows = heads * (4 + values)
    return graph(
        f"""g (float[1, 3, 4, 4] x) => (float[1, 2, 4, 4] z)
        <int64[4] apart = {{1, {heads}, {4 + values}, 16}}, int64[3] sizes = {{2, 2, {values}}},
         int64[4] back = {{1, {returned}, 4, 4}}> {{
            i = Conv (x, w1)
            qkv = Conv (i, w2)
            r = Reshape (qkv, apart)
            q, k, v = Split <axis = 2> (r, sizes)
            t = Transpose <perm = [0, 1, 3, 2]> (q)
            s = MatMul (t, k)
            p = Softmax <axis = -1> (s)
            o = MatMul (v, p)
            m = Reshape (o, back)
            z = Conv (m, w3)
        }}""",
        w1=(8, 3, 1, 1),
        w2=(rows, 8, 1, 1),
        w3=(2, returned, 1, 1),
    )


def pruned(model: Model, ratio: float, *, equal: bool) -> Model:
    model = model.copy()
    model.equal_parts = equal
    for step in (PruneChannels(ratio=ratio, importance="weight"), SnapWidths(to="none"), SliceChannels()):
        step.run(model)
    return model


def split_widths(model: Model) -> list[list[int]]:
    return [[int(t.shape[1]) for t in node.outputs] for node in model.graph.nodes if node.op == "Split"]


@pytest.mark.parametrize("second", ["a", "b"])
def test_halves_stay_equal(second: str) -> None:
    model = halves(second)
    assert [balance.parts.shape for balance in module_balances(model.graph, analyse_channels(model.graph))] == [(2, 8)]
    found = [split_widths(pruned(model, ratio, equal=True))[0] for ratio in (0.2, 0.4, 0.6)]
    assert all(a == b for a, b in found) and found[-1][0] < 8
    free = [split_widths(pruned(model, ratio, equal=False))[0] for ratio in (0.2, 0.4, 0.6)]
    assert any(a != b for a, b in free)  # the demand is what keeps them equal


def test_what_is_cut_with_the_demand_computes_what_was_planned() -> None:
    model = pruned(halves(), 0.4, equal=True)
    assert model.carried.kept
    masked = halves()
    for name, axes in model.carried.kept.items():
        constant = next(t for node in masked.graph.nodes for t in node.inputs if t.name == name)
        values = np.array(constant.values)
        for axis, kept in axes.items():
            gone = np.setdiff1d(np.arange(values.shape[axis]), kept)
            np.moveaxis(values, axis, 0)[gone] = 0
        constant.values = values
    feeds = image_like_feeds(model, 1)
    expected, got = (next(iter(run_onnx(each, feeds)[0].values())) for each in (masked, model))
    assert np.abs(expected - got).max() < 1e-5 < np.abs(expected).max()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_an_attention_returns_as_many_channels_as_it_was_given(heads: int) -> None:
    model = attention(heads)
    channels = analyse_channels(model.graph)
    assert (2, 8) in [balance.parts.shape for balance in module_balances(model.graph, channels)]
    for ratio in (0.2, 0.4):
        found = pruned(model, ratio, equal=True)
        weights = {t.name: t.values.shape for node in found.graph.nodes for t in node.inputs if t.name.startswith("w")}
        assert weights["w1"][0] == weights["w3"][1] == weights["w2"][1]


def test_other_widths_are_free() -> None:
    uneven = attention(2, 12).graph
    found = module_balances(uneven, analyse_channels(uneven))
    assert not [balance for balance in found if balance.parts.shape[1] == 12]  # 8 are read, 12 returned
