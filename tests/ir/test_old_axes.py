"""Axes counted from the end before opset 11: which, what they become, and a head that was refused for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.ir.model import Source
from onnxslim_yolo.ir.old_axes import settle_axes
from onnxslim_yolo.ir.shapes import infer_shapes
from onnxslim_yolo.load.onnx import model_of
from onnxslim_yolo.passes import Canonicalise
from tests.kinds import TRUNK, text_of, trunk, written
from tests.numeric import build, run_onnx
from tests.passes.cutting import onnx_text

X = "float[2,1,4,6] x"


@pytest.mark.parametrize(
    "body, attribute, shape",
    [
        ("y = Concat<axis=-1>(x, x)", 3, [2, 1, 4, 12]),
        ("y = Concat<axis=-3>(x, x)", 1, [2, 2, 4, 6]),
        ("y = Flatten<axis=-1>(x)", 3, [8, 6]),
        ("y = Squeeze<axes=[-3]>(x)", [1], [2, 4, 6]),
        ("y = Unsqueeze<axes=[-1,0]>(x)", [5, 0], [1, 2, 1, 4, 6, 1]),
        ("y = Slice<axes=[2,-1], starts=[0,1], ends=[2,4]>(x)", [2, 3], [2, 1, 2, 3]),
        ("y = Slice<axes=[3,2], starts=[1,0], ends=[4,2]>(x)", [2, 3], [2, 1, 2, 3]),
        ("y = Slice<axes=[-1,0], starts=[1,0], ends=[4,1]>(x)", [0, 3], [1, 1, 4, 3]),
    ],
)
def test_axes_are_counted_from_the_front(body: str, attribute: object, shape: list[int]) -> None:
    model = model_of(onnx.parser.parse_model(onnx_text(X, "float[n] y", "float[1] unread = {0}", body, 9)), Source())
    (node,) = model.graph.nodes
    assert next(value for name, value in node.attrs.items() if name in ("axis", "axes")) == attribute
    types = infer_shapes(model.graph)
    assert [dim.dim_value for dim in types[model.graph.outputs[0].name].tensor_type.shape.dim] == shape


def test_one_behind_another_and_what_is_left_alone() -> None:
    body = "a = Unsqueeze<axes=[-1]>(x) b = Concat<axis=-1>(a, a) c = Squeeze<axes=[-4]>(b) y = Concat<axis=-2>(c, c)"
    graph = build(onnx_text(X, "float y", "float[1] unread", body, 10)).graph
    assert settle_axes(graph) == 4 and settle_axes(graph) == 0
    assert [next(v for k, v in n.attrs.items() if k in ("axis", "axes")) for n in graph.nodes] == [[4], 4, [1], 2]
    later = build(onnx_text(X, "float y", "float[1] unread", "y = Concat<axis=-1>(x, x)", 11)).graph
    assert settle_axes(later) == 0 and later.nodes[0].attrs["axis"] == -1
    far = build(onnx_text(X, "float y", "float[1] unread", "y = Concat<axis=-5>(x, x)", 10)).graph
    assert settle_axes(far) == 0
    ranks = "s = Reshape(x, w) y = Concat<axis=-1>(s, s)"
    unknown = build(onnx_text(f"{X}, int64[n] w", "float y", "float[1] unread", ranks, 10)).graph
    assert settle_axes(unknown) == 0


def test_ranks_that_folding_finds() -> None:
    """A grid's axes, expanded to a size that a Shape says, which onnx does not follow at opset 9."""
    body = (
        "s = Shape(x) h = Slice<axes=[0], starts=[2], ends=[4]>(s) r = ReduceMean<axes=[0,1,2,3]>(x) "
        "f = Reshape(r, one) a = Expand(f, h) b = Expand(f, h) "
        "u = Unsqueeze<axes=[2]>(a) v = Unsqueeze<axes=[2]>(b) g = Concat<axis=-1>(u, v) y = Neg(g)"
    )
    model = build(onnx_text(X, "float[n,m,o] y", "int64[1] one = {1}", body, 9))
    Canonicalise().run(model)
    assert model.graph.outputs[0].shape == [4, 6, 2]


def test_a_head_whose_parts_are_joined_along_the_last_axis_compiles(tmp_path: Path) -> None:
    """`torch.cat((xy, wh), -1)` at opset 10: sizes behind it were not known, and the file was refused."""
    body, values = trunk()
    head = (
        "o = Conv(f, w1) p = Transpose<perm=[0,2,3,1]>(o) s = Sigmoid(p) d = Mul(p, k) both = Concat<axis=-1>(s, d) "
        "y = Reshape(both, rows)"
    )
    held = f"{TRUNK}, float[4,8,1,1] w1, float[1] k = {{100}}, int64[3] rows = {{1, -1, 8}}"
    text = text_of("float[1,3,8,8] x", "float[1,m,8] y", held, f"{body} {head}", 10)
    file = written(text, tmp_path, values)
    result = oy.compile(file, out=tmp_path / "out", emit=("onnx",))
    feeds = {"x": np.random.default_rng(0).random((1, 3, 8, 8), np.float32)}
    assert result.onnx is not None
    wanted, found = (run_onnx(onnx.load(path), feeds)["y"] for path in (file, result.onnx))
    assert wanted == pytest.approx(found, abs=1e-3)
