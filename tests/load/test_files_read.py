"""What earlier work is known by: every file that reading a model or labels reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load.files_read import content_of, files_of_data, files_of_model
from tests.passes.cutting import onnx_text


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(onnx_text("float[1,3,8,8] x", "float y", "float[4,3,1,1] w", "y = Conv(x, w)"))
    del proto.graph.value_info[:]
    path = tmp_path / "net.onnx"
    found = []
    for seed in (0, 0, 1):
        weight = np.random.default_rng(seed).random((4, 3, 1, 1), np.float32)
        proto.graph.ClearField("initializer")
        proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
        (tmp_path / "net.data").unlink(missing_ok=True)
        onnx.save(proto, path, save_as_external_data=True, location="net.data", size_threshold=0)
        found.append((path.read_bytes(), content_of(files_of_model(path))))
    assert found[0] == found[1] and found[1][0] == found[2][0] and found[1][1] != found[2][1]


@pytest.mark.parametrize("named", ["net.cfg", "net.weights"])
@pytest.mark.parametrize("edited", ["net.cfg", "net.weights", "net.names"])
def test_darknet_s_files_belong_together(named: str, edited: str, tmp_path: Path) -> None:
    for name in ("net.cfg", "net.weights", "net.names", "other.names"):
        (tmp_path / name).write_text(name)
    before = content_of(files_of_model(tmp_path / named))
    (tmp_path / "other.names").write_text("dog")
    assert content_of(files_of_model(tmp_path / named)) == before
    (tmp_path / edited).write_text("dog")
    assert content_of(files_of_model(tmp_path / named)) != before


def test_labels_count(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"pixels")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    data = tmp_path / "data.yaml"
    data.write_text("path: .\nval: .\nnames: [cell]\n")
    assert [path.name for path in files_of_data(data)] == ["data.yaml", "a.jpg", "a.txt"]
    before = content_of(files_of_data(data))
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.2")
    assert content_of(files_of_data(data)) != before


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        content_of([tmp_path / "none"])
