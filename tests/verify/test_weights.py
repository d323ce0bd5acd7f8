"""Weights whose share of every output lies under rounding: `verify` names them, `compile` refuses the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.graph import input_constant, replace_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.verify.pair import compare_models
from tests.command import command
from tests.numeric import build

FAINT = 1e-7
TEXT = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,3,16,16] images) => (float[1,4,16,16] y) <float[8,3,3,3] a, float[8,3,3,3] b, float[4,8,1,1] c> {
u = Conv<pads=[1,1,1,1]>(images, a) v = Conv<pads=[1,1,1,1]>(images, b)
p = Relu(u) q = Relu(v) s = Add(p, q) y = Conv(s, c) }"""


def network() -> Model:
    """A branch `b` of 1e-7 of the other's weights."""
    rng = np.random.default_rng(0)
    shapes = {"a": (8, 3, 3, 3), "b": (8, 3, 3, 3), "c": (4, 8, 1, 1)}
    scale = {"b": FAINT}
    return build(TEXT, values={k: rng.standard_normal(s) * scale.get(k, 1.0) for k, s in shapes.items()})


def spoiled(model: Model, tensor: str, factor: float = 1.01) -> Model:
    copy = model.copy()
    for node in copy.graph.nodes:
        if node.op == "Conv" and node.inputs[1].name == tensor:
            replace_constant(node, 1, np.asarray(input_constant(node, 1)) * np.float32(factor), tensor)
    return copy


def saved(model: Model, path: Path) -> Path:
    onnx.save(model.to_onnx(), path)
    return path


def test_verify_names_what_no_output_shows(tmp_path: Path) -> None:
    first = saved(network(), tmp_path / "a.onnx")
    check = compare_models(first, saved(spoiled(network(), "b"), tmp_path / "b.onnx"))
    assert check.passed and len(check.unseen) == 1 and check.unseen[0].startswith("b differs by up to 0.01")
    assert check.as_json()["unseen"] == check.unseen
    again = compare_models(first, saved(network(), tmp_path / "c.onnx"))
    assert again.passed and again.unseen == []
    assert not compare_models(first, saved(spoiled(network(), "a"), tmp_path / "d.onnx")).passed


def test_the_command_says_it(tmp_path: Path) -> None:
    files = [str(saved(m, tmp_path / n)) for n, m in (("a.onnx", network()), ("b.onnx", spoiled(network(), "b")))]
    plain = command("verify", *files)
    assert plain.returncode == 0 and "not seen: b differs" in plain.stdout
    assert json.loads(command("verify", *files, "--json").stdout)["unseen"]


@pytest.mark.parametrize("weights", ["fp16", "fp32"])
def test_an_ncnn_folder_is_compared_with_what_the_graph_converts_to(weights: str, tmp_path: Path) -> None:
    source = saved(network(), tmp_path / "m.onnx")
    result = oy.compile(source, out=tmp_path / "out", prune=0, ncnn_weights=weights)
    assert result.onnx is not None and result.ncnn is not None
    assert compare_models(result.onnx, result.ncnn, tolerance=1e-2).unseen == []
    other = saved(spoiled(Model.from_onnx(onnx.load(result.onnx)), "b", 1.5), tmp_path / "other.onnx")
    check = compare_models(other, result.ncnn, tolerance=1e-2)
    assert check.passed and len(check.unseen) == 1 and "layer" in check.unseen[0]


def test_compile_refuses_a_file_with_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = Model.save
    monkeypatch.setattr(Model, "save", lambda model, path: save(spoiled(model, "b"), path))
    with pytest.raises(VerificationError, match="b differs"):
        oy.compile(saved(network(), tmp_path / "m.onnx"), out=tmp_path / "out", prune=0, emit="onnx")
    assert not (tmp_path / "out").exists()


def test_a_pair_stored_as_half_agrees_to_what_rounding_its_weights_costs(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "models/digits-sparse.onnx"
    result = oy.compile(source, prune=0.0, out=tmp_path / "out", verify=False)
    assert result.ncnn is not None
    assert compare_models(source, result.ncnn).passed
    model = oy.load(source)
    layer = [node for node in model.graph.nodes if node.op == "Conv"][-1]
    weight = np.asarray(input_constant(layer, 1))
    replace_constant(
        layer, 1, (weight * np.where(np.arange(weight.size) % 2, 0.95, 1.05).reshape(weight.shape)).astype(weight.dtype)
    )
    assert not compare_models(model.save(tmp_path / "other.onnx"), result.ncnn).passed
