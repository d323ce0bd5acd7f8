"""Whether statistics that call a channel constant may be believed: an input must not move it from β."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.believed import ROOM, misjudged
from tests.numeric import build
from tests.passes.cutting import onnx_text

FLOOR = 1e-6
WEIGHTS = """float[2,3,1,1] a.weight, float[2] n.gamma, float[2] n.beta, float[2] n.mean, float[2] n.var,
    float[2,2,1,1] y.weight"""
BODY = "a = Conv(x, a.weight, a.bias) n = BatchNormalization(a, n.gamma, n.beta, n.mean, n.var) y = Conv(n, y.weight)"


def network(bias: tuple[float, float], mean: tuple[float, float], var: tuple[float, float], **more: Array) -> Model:
    """A layer that yields its bias alone, whatever it is fed."""
    values = {"a.weight": np.zeros(6), "a.bias": np.array(bias), "n.mean": np.array(mean), "n.var": np.array(var)}
    text = onnx_text("float[1,3,8,8] x", "float[i,j,k,l] y", f"{WEIGHTS}, float[2] a.bias", BODY)
    return build(text, values=values | {"n.gamma": np.ones(2)} | more)


SPREAD = float(np.sqrt(1e-5))
"""What the norm divides by where a variance is next to nothing: √ε."""


@pytest.mark.parametrize("away, moves", [(0.9, False), (1.1, True), (-0.9, False), (-1.1, True)])
def test_what_comes_in_is_what_came_in_then_but_for_so_much(away: float, moves: bool) -> None:
    here = 3.0 + away * ROOM * SPREAD
    model = network((here, 9.0), (3.0, 0.0), (0.0, 1.0))
    names = [node.name for node in model.graph.nodes if node.op == "BatchNormalization"]
    assert misjudged(model, FLOOR) == (names if moves else [])


def test_channels_that_vary_or_are_scaled_by_nothing_are_not_asked() -> None:
    assert misjudged(network((9.0, 9.0), (0.0, 0.0), (1.0, FLOOR)), FLOOR) == []
    gamma = np.array([0.0, 1.0])
    assert misjudged(network((9.0, 9.0), (0.0, 0.0), (0.0, 1.0), **{"n.gamma": gamma}), FLOOR) == []
    assert len(misjudged(network((9.0, 9.0), (0.0, 0.0), (0.0, 1.0)), FLOOR)) == 1
    small = np.array([1e-9, 1.0])  # it yields β, as good as
    assert misjudged(network((9.0, 9.0), (0.0, 0.0), (0.0, 1.0), **{"n.gamma": small}), FLOOR) == []


def test_only_channels_below_the_floor_are_asked() -> None:
    """One that is at the floor may be wherever it likes, beside one that stays as it was."""
    floor = 2.0**-20  # a number of float32
    assert misjudged(network((3.0, 9.0), (3.0, 0.0), (0.0, floor)), floor) == []
    assert len(misjudged(network((3.0, 9.0), (3.0, 0.0), (0.0, floor / 2)), floor)) == 1


def test_where_a_layer_reads_the_image_itself() -> None:
    weights = "float[3] n.gamma, float[3] n.beta, float[3] n.mean, float[3] n.var, float[2,3,1,1] y.weight"
    body = "n = BatchNormalization(x, n.gamma, n.beta, n.mean, n.var) y = Conv(n, y.weight)"
    model = build(onnx_text("float[1,3,8,8] x", "float[i,j,k,l] y", weights, body), values={"n.var": np.zeros(3)})
    assert len(misjudged(model, FLOOR)) == 1


def test_of_what_does_not_run_all_are_misjudged() -> None:
    model = network((3.0, 9.0), (3.0, 0.0), (0.0, 1.0))
    assert misjudged(model, FLOOR) == []
    next(node for node in model.graph.nodes if node.op == "Conv").domain = "nobody.knows"
    assert len(misjudged(model, FLOOR)) == 1
