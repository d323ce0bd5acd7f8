"""A ScatterND that writes a box is a cut and a Concat: exact, prunable, in ncnn; any other stays what it is."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.passes import Canonicalise
from tests.kinds import TRUNK, compiled, ops_of, text_of, trunk, worst, written
from tests.numeric import build, check_declines, differences, run_onnx


def places(*axes: range) -> Array:
    """Where each element of a box goes, as ScatterND is told."""
    sizes = [len(axis) for axis in axes]
    return np.asarray(list(product(*axes)), np.int64).reshape(*sizes, len(axes))


Case = tuple[tuple[range, ...], str]

BOXES: dict[str, Case] = {
    "channels, first": ((range(1), range(3)), "u = Slice(f, k0, k3, one) z = ScatterND(f, p, u)"),
    "channels, middle": ((range(1), range(2, 5)), "u = Slice(f, k0, k3, one) z = ScatterND(f, p, u)"),
    "channels, last": ((range(1), range(-3, 0)), "u = Slice(f, k0, k3, one) z = ScatterND(f, p, u)"),
    "two axes": (
        (range(1), range(5, 8), range(2, 5)),
        "v = Slice(f, k0, k3, one) u = Slice(v, k0, k3, two) z = ScatterND(f, p, u)",
    ),
    "everything": ((range(1), range(8)), "u = Relu(f) z = ScatterND(f, p, u)"),
    "axis in front": (
        (range(1, 4),),
        "t = Transpose<perm=[1,0,2,3]>(f) s = Slice(f, k0, k3, one) r = Relu(s) u = Transpose<perm=[1,0,2,3]>(r) "
        "w = ScatterND(t, p, u) z = Transpose<perm=[1,0,2,3]>(w)",
    ),
}
BOUNDS = "int64[1] k0 = {0}, int64[1] k3 = {3}, int64[1] one = {1}, int64[1] two = {2}"


def network(axes: tuple[range, ...], body: str) -> tuple[str, dict[str, Array]]:
    listed = places(*axes)
    first, values = trunk(dead=2)
    declared = f"int64[{','.join(map(str, listed.shape))}] p = {{{','.join(map(str, listed.reshape(-1)))}}}"
    weights = f"{TRUNK}, float[4,8,1,1] w1, {BOUNDS}, {declared}"
    body = f"{first} {body} q = Relu(z) y = Conv(q, w1)"
    return text_of("float[1,3,8,8] x", "float[1,4,8,8] y", weights, body), values


@pytest.mark.parametrize("case", BOXES)
def test_a_box_is_exact_and_nothing_is_scattered(case: str, tmp_path: Path) -> None:
    text, values = network(*BOXES[case])
    path = written(text, tmp_path, values)
    result = compiled(path, tmp_path, emit="onnx,ncnn", snap="none")  # exit 3 where the ncnn pair computes another
    assert result.onnx is not None
    assert not {"ScatterND", "Transpose"} & set(ops_of(result.onnx))


@pytest.mark.parametrize("case", BOXES)
def test_channels_around_a_box_are_pruned(case: str, tmp_path: Path) -> None:
    text, values = network(*BOXES[case])
    path = written(text, tmp_path, values)
    result = compiled(path, tmp_path, prune=0.4, snap="none", will_train=True)
    assert not [group for group in result.plan["groups"] if "Scatter" in (group["frozen"] or "")]


def test_the_control_of_exactness(tmp_path: Path) -> None:
    """A box one place further is another network."""
    paths = []
    for name, axes in (("a", (range(1), range(2, 5))), ("b", (range(1), range(3, 6)))):
        (tmp_path / name).mkdir()
        text, values = network(axes, BOXES["channels, middle"][1])
        paths.append(written(text, tmp_path / name, values))
    assert worst(*paths) > 0.1


BATCHED = (
    "s = Shape(f) n = Gather(s, zero) g = Range(zero, n, step) r = Reshape(g, column) e = Expand(r, wide) "
    "h = Shape(e) i = Unsqueeze(e, last) j0 = Expand(three, h) j = Unsqueeze(j0, last) p = Concat<axis=-1>(i, j) "
    "u = Slice(f, k0, k3, one) z = ScatterND(f, p, u)"
)


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_places_of_an_open_batch(opset: int, tmp_path: Path) -> None:
    """As torch writes `x[:, 1:4] = u`: the batch's places are counted while the model runs."""
    first, values = trunk(dead=2)
    weights = (
        f"{TRUNK}, float[4,8,1,1] w1, {BOUNDS}, int64 zero = {{0}}, int64 step = {{1}}, int64[2] column = {{-1,1}}, "
        "int64[2] wide = {1,3}, int64[1] last = {-1}, int64[1,3] three = {1,2,3}"
    )
    text = text_of("float[N,3,8,8] x", "float[N,4,8,8] y", weights, f"{first} {BATCHED} y = Conv(z, w1)", opset)
    path = written(text, tmp_path, values)
    result = compiled(path, tmp_path)
    assert result.onnx is not None
    assert not {"ScatterND", "Range"} & set(ops_of(result.onnx))
    for batch in (1, 3):
        assert _worst_at(path, result.onnx, batch) < 1e-5


def _worst_at(source: Path, other: Path, batch: int) -> float:
    feeds = {"x": np.random.default_rng(batch).standard_normal((batch, 3, 8, 8)).astype(np.float32)}
    return max(differences(run_onnx(onnx.load(source), feeds), run_onnx(onnx.load(other), feeds)).values())


STAY = {
    "another order": ((range(1), range(2, -1, -1)), "z = ScatterND(f, p, u)"),
    "every second": ((range(1), range(0, 6, 2)), "z = ScatterND(f, p, u)"),
    "added": ((range(1), range(3)), 'z = ScatterND<reduction="add">(f, p, u)'),
}


@pytest.mark.parametrize("case", STAY)
def test_what_is_no_box_stays(case: str) -> None:
    axes, body = STAY[case]
    text, values = network(axes, f"u = Slice(f, k0, k3, one) {body}")
    model = build(text, values=values)
    Canonicalise().run(model)
    assert "ScatterND" in [node.op for node in model.graph.nodes]
    check_declines(model, Canonicalise())
