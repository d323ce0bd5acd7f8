"""Kinds of graphs that strangers bring: compiled exactly, or kept with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.analysis.folding import cast
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.ir.shapes import infer_shapes
from tests.analysis.graphs import Labelled
from tests.kinds import TRUNK, compiled, text_of, trunk, written

HEADS = "float[4,8,1,1] w1, float[4,8,1,1] w2"


def network(body: str, out: str = "float[1,4,8,8] y", weights: str = HEADS, opset: int = 17) -> str:
    return text_of("float[1,3,8,8] x", out, f"{TRUNK}, {weights}", f"{trunk()[0]} {body}", opset)


CASTS = {
    "to int": "s = Sigmoid(f) i = Cast<to=6>(s) q = Cast<to=1>(i)",
    "to int, below zero": "a = Sub(f, half) i = Cast<to=7>(a) q = Cast<to=1>(i)",
    "to uint8": "s = Sigmoid(f) i = Cast<to=2>(s) q = Cast<to=1>(i)",
    "to bool": "s = Sigmoid(f) i = Cast<to=9>(s) q = Cast<to=1>(i)",
    "to bool, of zero": "i = Cast<to=9>(f) q = Cast<to=1>(i)",
    "to half": "s = Sigmoid(f) i = Cast<to=10>(s) q = Cast<to=1>(i)",
    "to double": "s = Sigmoid(f) i = Cast<to=11>(s) q = Cast<to=1>(i)",
}


@pytest.mark.parametrize("case", CASTS)
@pytest.mark.parametrize("options", [{}, {"prune": 0.4, "compensate": "none"}], ids=["dead", "ratio"])
def test_casts_are_what_the_runtime_makes_of_them(case: str, options: dict[str, object], tmp_path: Path) -> None:
    text = network(f"{CASTS[case]} y = Conv(q, w1)", weights=f"{HEADS}, float half = {{0.5}}")
    compiled(written(text, tmp_path, trunk(dead=3)[1]), tmp_path, **options)


def test_values_that_no_cast_defines() -> None:
    assert cast(np.array([0.9, -0.9, 2.5]), np.dtype(np.int32)).tolist() == [0, 0, 2]
    assert np.isnan(cast(np.array([-1.0, 256.0, np.nan, np.inf]), np.dtype(np.uint8))).all()
    assert cast(np.array([0.3, 0.0]), np.dtype(bool)).tolist() == [1, 0]


INDICES = {
    "2x2": "p, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(f)",
    "3x3": "p, i = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,0,0]>(f)",
    "columns first": "p, i = MaxPool<kernel_shape=[2,2], strides=[2,2], storage_order=1>(f)",
}


@pytest.mark.parametrize("case", INDICES)
def test_indices_that_are_used_hold_their_channels(case: str, tmp_path: Path) -> None:
    text = network(
        f"{INDICES[case]} j = Cast<to=1>(i) y = Conv(j, w1) z = Conv(p, w2)", "float[a,b,c,d] y, float[e,f,g,h] z"
    )
    path = written(text, tmp_path, trunk(dead=2)[1])
    compiled(path, tmp_path)
    result = compiled(path, tmp_path, prune=0.4, compensate="none")
    assert result.report["pruning"]["removed"] == 0
    note = next(note for note in result.report["notes"] if "nothing in this graph can be pruned" in note)
    assert "8 of 8 channels" in note and "MaxPool" in note and "1x1 convolution" in note


def test_indices_that_nobody_reads_hold_nothing() -> None:
    text = network(f"{INDICES['2x2']} y = Conv(p, w1)", "float[a,b,c,d] y")
    assert Labelled(text).free("f")
    returned = network(f"{INDICES['2x2']} y = Conv(p, w1)", "float[a,b,c,d] y, int64[e,f,g,h] i")
    assert not Labelled(returned).free("f")


@pytest.mark.parametrize(
    "node",
    [
        "q = GroupNormalization<num_groups=4>(f, g.gamma, g.beta)",
        "q = MeanVarianceNormalization<axes=[0,2,3]>(f)",
        "q = MeanVarianceNormalization(f)",
        "q = Swish(f)",
        "q = RMSNormalization<axis=-1>(f, r)",
        f"{INDICES['2x2']} q = MaxUnpool<kernel_shape=[2,2], strides=[2,2]>(p, i, s)",
    ],
)
def test_shapes_that_onnx_does_not_infer(node: str) -> None:
    weights = f"{HEADS}, float[8] r, int64[4] s = {{1,8,8,8}}"
    text = network(f"{node} y = Conv(q, w1)", weights=weights, opset=24)
    model = Labelled(text).model
    kind = infer_shapes(model.graph)["y"].tensor_type
    assert [dim.dim_value for dim in kind.shape.dim] == [1, 4, 8, 8]


def test_an_input_that_is_an_output_as_well(tmp_path: Path) -> None:
    """Inference forgot its shape, and with it all others: nothing was seen to be dead."""
    text = network("q = Conv<kernel_shape=[1,1]>(f, w1) y = Relu(q)").replace("=> (", "=> (float[1,3,8,8] x, ")
    path = written(text, tmp_path, trunk(dead=2)[1])
    result = compiled(path, tmp_path, emit="onnx,ncnn", snap="none")
    assert result.report["after"]["parameters"] < result.report["before"]["parameters"] - 2 * (27 + 4)


def test_groups_normalised_at_opset_21_are_counted(tmp_path: Path) -> None:
    text = network("q = GroupNormalization<num_groups=4>(f, g.gamma, g.beta) y = Conv(q, w1)", opset=21)
    result = compiled(written(text, tmp_path), tmp_path, emit="onnx,ncnn", passes="canonicalise")
    assert result.report["before"]["macs"] == 64 * (8 * 27 + 4 * 8)


def test_paths_as_text(tmp_path: Path) -> None:
    path = written(network("y = Conv(f, w1)"), tmp_path)
    (tmp_path / "b.toml").write_text("macs = 1000000000\n")
    result = oy.compile(str(path), out=str(tmp_path / "out"), emit="onnx", budget=str(tmp_path / "b.toml"))
    assert result.onnx is not None
    with pytest.raises(oy.OnnxSlimError, match=r"nowhere\.yaml"):
        oy.compile(str(path), out=str(tmp_path / "out"), emit="onnx", data=str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize("given", ["median", "mode", "Mean"])
def test_aggregates_that_do_not_exist(given: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"aggregate: '{given}' is none of mean, max, sum"):
        oy.compile(tmp_path / "m.onnx", aggregate=given)


@pytest.mark.parametrize("pool", ["MaxPool", "AveragePool"])
def test_a_pad_between_activation_and_pool_in_both_files(pool: str, tmp_path: Path) -> None:
    body = f"r = Relu(f) p = Pad(r, t) q = {pool}<kernel_shape=[3,3], strides=[2,2]>(p) y = Conv(q, w1)"
    text = network(body, "float[a,b,c,d] y", weights=f"{HEADS}, int64[8] t = {{0,0,1,1,0,0,1,1}}")
    assert compiled(written(text, tmp_path, trunk(dead=2)[1]), tmp_path, emit="onnx,ncnn").ncnn is not None
