"""Inputs that a file leaves open: negative dimensions, sizes that are guessed, and what is said about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

import onnxslim_yolo as oy
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load.onnx import load_onnx
from onnxslim_yolo.passes.canonicalise import GUESSED
from tests.numeric import build, run_onnx
from tests.passes.cutting import onnx_text

BODY = "a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a) y = Conv(b, v)"


def written(folder: Path, dims: tuple[int, ...], body: str = BODY, more: str = "") -> Path:
    """Two convolutions whose input has these dimensions as its file's numbers."""
    rng = np.random.default_rng(0)
    weights = "float[8,3,3,3] w, float[4,8,1,1] v" + more
    values = {"w": rng.standard_normal((8, 3, 3, 3)), "v": rng.standard_normal((4, 8, 1, 1))}
    proto = build(onnx_text("float[1,3,32,32] x", "float[a,b,c,d] y", weights, body), values=values).to_onnx()
    for value in (*proto.graph.input, *proto.graph.output):
        for dim, number in zip(value.type.tensor_type.shape.dim, dims, strict=True):
            if number < 0 or value.name == "x":
                dim.dim_value = number
    path = folder / "open.onnx"
    onnx.save(proto, str(path))
    return path


@pytest.mark.parametrize("dims", [(-1, 3, 32, 32), (1, 3, -1, -1), (-1, 3, -1, -1), (1, -1, 32, -1), (-1, -1, -1, -1)])
def test_negative_dimensions_are_open(dims: tuple[int, ...], tmp_path: Path) -> None:
    path = written(tmp_path, dims)
    shape = load_onnx(path).graph.inputs[0].shape
    assert [isinstance(found, str) for found in shape] == [number < 0 for number in dims]
    size = {} if dims[2] > 0 and dims[3] > 0 else {"imgsz": 32}
    result = oy.compile(path, out=tmp_path / "out", prune=0.3, **size)
    assert result.onnx is not None and all(c["passed"] for c in result.report["verification"]["checks"])
    batch = Model.from_onnx(onnx.load(str(result.onnx))).graph.inputs[0].shape[0]
    assert isinstance(batch, str) == (dims[0] < 0)
    assert run_onnx(result.model, {"x": np.ones((3 if dims[0] < 0 else 1, 3, 32, 32), np.float32)})["y"].shape[2] == 32


def test_a_guessed_size_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, (1, 3, -1, -1))
    notes = [note for note in oy.load(path).notes if "640x640" in note]
    assert len(notes) == 1 and notes[0].startswith(GUESSED) and "--imgsz" in notes[0]
    given = oy.load(path, imgsz=(32, 64)).notes
    assert any("compiled at 32x64" in note for note in given) and not any(n.startswith(GUESSED) for n in given)
    fixed = oy.load(written(tmp_path, (1, 3, 32, 32))).notes
    assert not any("leaves its size open" in note for note in fixed)


def test_an_error_that_follows_from_a_guess_says_so(tmp_path: Path) -> None:
    """A Reshape to 32 by 32 does not take the 640 that is guessed."""
    body = "a = Conv<pads=[1,1,1,1]>(x, w) s = Constant<value_ints=[1,8,32,32]>() b = Reshape(a, s) y = Conv(b, v)"
    path = written(tmp_path, (1, 3, -1, -1), body)
    with pytest.raises(OnnxSlimError, match="640x640") as caught:
        oy.compile(path, out=tmp_path / "out")
    assert "--imgsz" in str(caught.value)
    assert oy.compile(path, out=tmp_path / "out", imgsz=32).onnx is not None


def test_a_size_that_the_graph_does_not_take_is_said_as_that(tmp_path: Path) -> None:
    """One complaint of onnx's, the first: with its file, its node, and the way out."""
    body = "a = Conv<pads=[1,1,1,1]>(x, w) b = Add(a, grid) c = Relu(b) d = Sigmoid(c) y = Conv(d, v)"
    path = written(tmp_path, (1, 3, -1, -1), body, ", float[1,8,32,32] grid")
    with pytest.raises(OnnxSlimError) as caught:
        oy.compile(path, out=tmp_path / "out", imgsz=64)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and "node 'Add_1': shape inference failed at Add: Incompatible dimensions" in lines[0]
    assert path.name in lines[0] and "give the --imgsz that it was exported with" in lines[1]
    assert oy.compile(path, out=tmp_path / "out", imgsz=32).onnx is not None


def test_pictures_with_channels_last_are_as_open(tmp_path: Path) -> None:
    body = "t = Transpose<perm=[0,3,1,2]>(x) a = Conv<pads=[1,1,1,1]>(t, w) b = Relu(a) y = Conv(b, v)"
    text = onnx_text("float[1,h,k,3] x", "float[a,b,c,d] y", "float[8,3,3,3] w, float[4,8,1,1] v", body)
    path = tmp_path / "last.onnx"
    onnx.save(build(text).to_onnx(), str(path))
    result = oy.compile(path, out=tmp_path / "out", imgsz=(32, 64))
    assert result.ncnn is not None
    assert list(result.model.graph.inputs[0].shape)[3] == 3
    said = yaml.safe_load((result.ncnn / "metadata.yaml").read_text())
    assert said["imgsz"] == [32, 64] and said["onnxslim_yolo"]["inputs"]["in0"]["shape"] == [1, 32, 64, 3]
