"""What of a block is linear in what stays, of branches and parts, on thinned maps; and where it is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxslim_yolo.analysis.blocks import Block, find_blocks
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.bridge import Bridge, bridged, bridges
from tests.numeric import assert_same, build, run_onnx
from tests.passes.cutting import onnx_text

WEIGHTS = """float[6,3,1,1] s.weight, float[6,6,1,1] p.weight, float[6,6,1,1] q.weight, float[6] p.bias,
    float[4,6,1,1] h.weight, float[4,18,1,1] j.weight"""
BRANCH = "s = Conv(x, s.weight) p = Conv(s, p.weight, p.bias) r = Add(s, p) y = Conv(r, h.weight)"
CURVED = "s = Conv(x, s.weight) c = Conv(s, p.weight, p.bias) p = Relu(c) r = Add(s, p) y = Conv(r, h.weight)"
PARTS = """s = Conv(x, s.weight) p = Conv(s, p.weight, p.bias) c = Conv(s, q.weight) q = Relu(c)
    r = Concat<axis=1>(s, p, q) y = Conv(r, j.weight)"""


def network(body: str, side: tuple[int, int] = (8, 8), kind: str = "float") -> Model:
    size = f"{side[0]},{side[1]}"
    text = onnx_text(f"float[1,3,{size}] x", f"float[1,4,{size}] y", WEIGHTS, body, 17)
    return build(text.replace("float[", f"{kind}["))


def block(model: Model, kind: str, index: int = 1) -> Block:
    return next(one for one in find_blocks(model.graph) if one.kind == kind and one.index == index)


def images(model: Model, count: int = 6) -> list[Array]:
    shape, rng = model.graph.inputs[0].shape, np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(model.graph.inputs[0].dtype) for _ in range(count)]


def rows(model: Model, name: str, seen: list[Array]) -> Array:
    """A tensor at all positions, (positions, channels)."""
    tapped = model.copy()
    tapped.graph.outputs = [t for node in tapped.graph.nodes for t in node.outputs if t.name == name]
    found = [run_onnx(tapped, {"x": image})[name] for image in seen]
    return np.concatenate([np.moveaxis(one, 1, -1).reshape(-1, one.shape[1]) for one in found]).astype(np.float64)


def fitted(x: Array, y: Array) -> tuple[Array, float]:
    """Least squares with a constant as the last row, and the share of y's variance that is left."""
    wide = np.c_[x, np.ones(len(x))]
    found = np.linalg.lstsq(wide, y, rcond=1e-5)[0]
    return found, float((y - wide @ found).var(axis=0).sum() / y.var(axis=0).sum())


@pytest.mark.parametrize("side", [(8, 8), (48, 48)])
def test_a_branch_that_is_linear_is_all_told_whatever_is_thinned(side: tuple[int, int]) -> None:
    model = network(BRANCH, side)
    (found,) = bridges(model, [block(model, "branch")], images(model, 2), ridge=1e-9)
    assert found is not None and found.matrix.shape == (6, 6) and found.left < 1e-6
    assert_same(model, bridged(model, block(model, "branch"), found), 1e-4)


@pytest.mark.parametrize("body, kind, others", [(CURVED, "branch", ["s"]), (PARTS, "part", ["s", "p"])])
def test_it_is_the_least_squares_on_what_stays_beside_it(body: str, kind: str, others: list[str]) -> None:
    """What stays has linear combinations in it: many fits leave as much, and predict the same."""
    model = network(body)
    seen = images(model)
    one = block(model, kind, 1 if kind == "branch" else 2)
    end = "p" if kind == "branch" else "q"
    (found,) = bridges(model, [one], seen, ridge=1e-9)
    x, y = np.concatenate([rows(model, name, seen) for name in others], axis=1), rows(model, end, seen)
    expected, left = fitted(x, y)
    assert found is not None and found.matrix.shape == (6, 6 * len(others))
    assert found.left == pytest.approx(left, rel=1e-3) and 0.05 < left < 0.95
    assert x @ found.matrix.T + found.shift == pytest.approx(np.c_[x, np.ones(len(x))] @ expected, abs=1e-3)
    # In the block's place.
    instead = bridged(model, one, found)
    after = rows(instead, "y", seen)
    whole = {name: rows(model, name, seen) for name in (*others, "s")} | {end: x @ found.matrix.T + found.shift}
    weights = {t.name: t.values for node in model.graph.nodes for t in node.inputs if hasattr(t, "values")}
    if kind == "branch":
        wanted = (whole["s"] + whole["p"]) @ weights["h.weight"][:, :, 0, 0].T
    else:
        wanted = np.concatenate([whole[name] for name in "spq"], axis=1) @ weights["j.weight"][:, :, 0, 0].T
    assert after == pytest.approx(wanted, abs=1e-3)
    assert np.abs(after - rows(model, "y", seen)).max() > 0.1, "the control: the block is not linear"


@pytest.mark.parametrize("side, count, enough", [((4, 5), 1, False), ((4, 6), 1, True), ((4, 3), 2, True)])
def test_four_positions_a_column_are_enough(side: tuple[int, int], count: int, enough: bool) -> None:
    model = network(BRANCH, side)
    (found,) = bridges(model, [block(model, "branch")], images(model, count))
    assert (found is not None) == enough


def test_what_is_no_number_is_not_fitted() -> None:
    model = network(BRANCH)
    seen = images(model)
    seen[3][0, 1, 2, 2] = np.nan
    assert bridges(model, [block(model, "branch")], seen) == [None]


def test_a_layer_half_precision_and_maps_of_another_size_have_no_bridge() -> None:
    model = network(BRANCH)
    branch = block(model, "branch")
    fit = Bridge(np.eye(6), np.zeros(6), 0.0)
    for other in (replace(branch, kind="layer"), replace(branch, node="nowhere")):
        assert bridges(model, [other], images(model)) == [None]
        assert [one is not None for one in bridges(model, [other, branch], images(model))] == [False, True]
        with pytest.raises(ValueError, match="there is no block"):
            bridged(model, other, fit)
    half = network(BRANCH, kind="float16")
    assert bridges(half, [block(half, "branch")], images(half)) == [None]
    pooled = network(BRANCH.replace("r = Add(s, p)", "g = GlobalAveragePool(p) r = Add(s, g)"))
    by_hand = replace(branch, node=next(node.name for node in pooled.graph.nodes if node.op == "Add"))
    assert bridges(pooled, [by_hand], images(pooled)) == [None]


def test_a_chain_that_begins_nowhere_has_no_bridge() -> None:
    model = network("s = Conv(x, s.weight) p = Conv(s, p.weight, p.bias) y = Conv(p, h.weight)")
    chain = block(model, "chain", -1)
    assert bridges(model, [chain], images(model))[0] is not None
    assert bridges(model, [replace(chain, start="nowhere")], images(model)) == [None]


@pytest.mark.parametrize(
    "name, shape",
    [("p", None), ("s", None), ("p", [1, "c", 8, 8]), ("s", [1, "c", 8, 8]), ("p", [6, 8, 8]), ("s", [1, 6, 64])],
)
def test_maps_of_unknown_width_or_none_at_all_have_no_bridge(name: str, shape: list[int | str] | None) -> None:
    model = network(BRANCH)
    branch = block(model, "branch")
    next(t for node in model.graph.nodes for t in node.outputs if t.name == name).shape = shape
    assert bridges(model, [branch], images(model)) == [None]


def test_a_batch_of_any_size_is_no_hindrance() -> None:
    model = network(BRANCH)
    for tensor in (t for node in model.graph.nodes for t in node.outputs):
        tensor.shape = ["n", *tensor.shape[1:]]
    assert bridges(model, [block(model, "branch")], images(model))[0] is not None
