"""Sparse tensors are the dense ones that they stand for; an initializer may be an output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.load.onnx import load_onnx, read_as_it_is
from tests.kinds import TRUNK, compiled, text_of, trunk, written

SHAPE = (4, 8, 1, 1)


def weight() -> Array:
    rng = np.random.default_rng(1)
    return (rng.standard_normal(SHAPE) * (rng.random(SHAPE) < 0.4)).astype(np.float32)


def sparse(dense: Array, name: str, *, flat: bool, shape: tuple[int, ...] | None = None) -> onnx.SparseTensorProto:
    """As ONNX writes it, its indices of the flattened tensor or of every axis."""
    places = np.flatnonzero(dense) if flat else np.argwhere(dense)
    values = dense[dense != 0]
    parts = (numpy_helper.from_array(values, name), numpy_helper.from_array(places.astype(np.int64), f"{name}.places"))
    return helper.make_sparse_tensor(*parts, list(shape or dense.shape))


def network(folder: Path, nodes: str = "y = Conv(f, w1)", outputs: str = "float[1,4,8,8] y") -> Path:
    body, values = trunk(dead=2)
    weights = f"{TRUNK}, float[4,8,1,1] w1"
    return written(text_of("float[1,3,8,8] x", outputs, weights, f"{body} {nodes}"), folder, values | {"w1": weight()})


def with_sparse(folder: Path, tensor: onnx.SparseTensorProto) -> Path:
    path = network(folder)
    proto = onnx.load(path)
    index = next(k for k, each in enumerate(proto.graph.initializer) if each.name == "w1")
    del proto.graph.initializer[index]
    proto.graph.sparse_initializer.append(tensor)
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("flat", [True, False])
def test_a_sparse_initializer_is_the_dense_one(flat: bool, tmp_path: Path) -> None:
    path = with_sparse(tmp_path, sparse(weight(), "w1", flat=flat))
    result = compiled(path, tmp_path, snap="none")  # compared with the source in onnxruntime, which knows such tensors
    assert result.plan["keep"]["w1"] == {"1": [2, 3, 4, 5, 6, 7]}


def test_a_sparse_constant_is_the_dense_one(tmp_path: Path) -> None:
    path = network(tmp_path)
    proto = onnx.load(path)
    index = next(k for k, each in enumerate(proto.graph.initializer) if each.name == "w1")
    del proto.graph.initializer[index]
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w1"], sparse_value=sparse(weight(), "w1", flat=True)))
    onnx.save(proto, path)
    compiled(path, tmp_path)


@pytest.mark.parametrize("places", [[4 * 8], [-1]])
def test_places_outside_the_tensor_are_refused(places: list[int], tmp_path: Path) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "w1")
    tensor = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(places)), list(SHAPE))
    with pytest.raises(InputError, match=r"'w1' of shape \(4, 8, 1, 1\) has 1 values, and indices"):
        load_onnx(with_sparse(tmp_path, tensor))


def test_a_few_values_do_not_claim_gigabytes(tmp_path: Path) -> None:
    shape = (1 << 14, 1 << 14, 1, 1)
    with pytest.raises(InputError, match="out of proportion"):
        load_onnx(with_sparse(tmp_path, sparse(weight(), "w1", flat=True, shape=shape)))


def test_external_data_of_a_sparse_tensor_lies_beside_the_model(tmp_path: Path) -> None:
    tensor = sparse(weight(), "w1", flat=True)
    data = tensor.values.raw_data
    tensor.values.ClearField("raw_data")
    tensor.values.data_location = onnx.TensorProto.EXTERNAL
    place = tensor.values.external_data.add(key="location", value="w.bin")
    path = with_sparse(tmp_path, tensor)
    (tmp_path / "w.bin").write_bytes(data)
    dense = {t.name: numpy_helper.to_array(t) for t in read_as_it_is(path).graph.initializer}
    np.testing.assert_array_equal(dense["w1"], weight())
    place.value = "../w.bin"
    with pytest.raises(InputError, match="outside the model's folder"):
        load_onnx(with_sparse(tmp_path, tensor))


def test_an_initializer_may_be_an_output(tmp_path: Path) -> None:
    path = network(tmp_path, outputs="float[1,4,8,8] y, float[4,8,1,1] w1")
    result = compiled(path, tmp_path)
    assert result.onnx is not None
    assert [value.name for value in onnx.load(result.onnx).graph.output] == ["y", "w1"]
