"""Importance: which γ and which filters count, and how several become one."""

from __future__ import annotations

import re

import numpy as np
import pytest

from onnxslim_yolo.analysis.importance import measure
from onnxslim_yolo.ir.graph import Array
from tests.analysis.graphs import Labelled, onnx_text


def names(prefix: str) -> str:
    return ", ".join(f"{prefix}.{part}" for part in ("gamma", "beta", "mean", "var"))


def norm(prefix: str, width: int) -> str:
    return ", ".join(f"float[{width}] {name}" for name in names(prefix).split(", "))


TEXT = onnx_text(
    "float[1,3,4,4] x",
    "float[p,q,r,s] y",
    f"float[4,3,1,1] a.weight, float[4,3,1,1] b.weight, float[6,4,1,1] c.weight, float[2,6,1,1] z.weight, "
    f"{norm('m', 4)}, {norm('n', 4)}",
    f"a = Conv(x, a.weight) an = BatchNormalization(a, {names('m')}) b = Conv(x, b.weight)"
    f" bn = BatchNormalization(b, {names('n')}) s = Add(an, bn) c = Conv(s, c.weight) r = Relu(c)"
    " y = Conv(r, z.weight)",
)
M, N = np.array([1.0, -2, 0, 4]), np.array([3.0, 0, 0, -4])


@pytest.fixture(scope="module")
def graph() -> Labelled:
    return Labelled(TEXT, {"m.gamma": M, "n.gamma": N})


@pytest.mark.parametrize(
    ("aggregate", "expected"), [("mean", [2, 1, 0, 4]), ("max", [3, 2, 0, 4]), ("sum", [4, 2, 0, 8])]
)
def test_several_gammas_of_one_coupled_channel(graph: Labelled, aggregate: str, expected: list[float]) -> None:
    found = measure(graph.channels, "gamma", aggregate)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.values[graph["a"]], expected)
    assert found.has_gamma[graph["a"]].all() and not found.has_gamma[graph["c"]].any()


def rms(values: Array) -> Array:
    return np.sqrt((values.astype(np.float64) ** 2).mean(axis=(1, 2, 3)))


def test_weight_norms_compare_across_fan_in(graph: Labelled) -> None:
    weights = {t.name: t.values for t in graph.model.graph.tensors().values() if t.name.endswith("weight")}  # type: ignore[attr-defined]
    found = measure(graph.channels, "weight")
    assert found.kind == "weight" and found.remark == ""
    np.testing.assert_allclose(found.values[graph["c"]], rms(weights["c.weight"]), rtol=1e-6)
    both = (rms(weights["a.weight"]) + rms(weights["b.weight"])) / 2
    np.testing.assert_allclose(found.values[graph["a"]], both, rtol=1e-6)


def test_channels_without_gamma_get_a_comparable_number_and_a_remark(graph: Labelled) -> None:
    """c has no BatchNorm: its norms relative to their layer's, times the typical γ."""
    found = measure(graph.channels, "gamma")
    weights = {t.name: t.values for t in graph.model.graph.tensors().values() if t.name == "c.weight"}  # type: ignore[attr-defined]
    relative = rms(weights["c.weight"]) / rms(weights["c.weight"]).mean()
    np.testing.assert_allclose(found.values[graph["c"]], relative * 7 / 4, rtol=1e-6)
    assert found.remark.startswith("60% of the prunable channels have no γ")


def test_where_all_that_may_go_have_one_there_is_no_remark() -> None:
    """The last layer's own channels have none: they stay. One γ a channel is enough."""
    body = f"a = Conv(x, a.weight) an = BatchNormalization(a, {names('m')}) y = Conv(an, z.weight)"
    weights = f"float[4,3,1,1] a.weight, float[2,4,1,1] z.weight, {norm('m', 4)}"
    one = Labelled(onnx_text("float[1,3,4,4] x", "float[p,q,r,s] y", weights, body), {"m.gamma": M})
    found = measure(one.channels)
    assert (found.kind, found.remark) == ("gamma", "")
    assert found.has_gamma[one["a"]].all() and not found.has_gamma[one["y"]].any()
    assert found.values[one["a"]].tolist() == [1, 2, 0, 4] and found.values[one["y"]].all()


def test_auto_takes_what_most_have(graph: Labelled) -> None:
    found = measure(graph.channels, "auto")
    assert found.kind == "weight" and found.remark.startswith("only 40% of the prunable channels have a BatchNorm")
    without = Labelled(re.sub(r"BatchNormalization\((\w+)[^)]*\)", r"Identity(\1)", TEXT), {})
    assert measure(without.channels, "auto").remark.startswith("no prunable channel has a BatchNormalization:")
    half = Labelled(TEXT.replace("[6,4,", "[4,4,").replace("[2,6,", "[2,4,"), {"m.gamma": M, "n.gamma": N})
    assert measure(half.channels, "auto").remark.startswith("only 50%")
    wider = Labelled(TEXT.replace("[6,4,", "[3,4,").replace("[2,6,", "[2,3,"), {"m.gamma": M, "n.gamma": N})
    assert measure(wider.channels, "auto").kind == "gamma"


def test_normalised_by_the_groups_mean(graph: Labelled) -> None:
    found = measure(graph.channels, "gamma", normalise=True)
    np.testing.assert_allclose(found.values[graph["a"]], np.array([2, 1, 0, 4]) / 1.75, rtol=1e-6)
    assert found.values[graph["c"]].mean() == pytest.approx(1)


def test_no_gamma_anywhere() -> None:
    text = onnx_text(
        "float[1,3,4,4] x", "float[p,q,r,s] y", "float[4,3,1,1] a, float[2,4,1,1] z", "h = Conv(x, a) y = Conv(h, z)"
    )
    found = measure(Labelled(text).channels, "gamma")
    assert found.values.all() and "no γ anywhere" in found.remark
