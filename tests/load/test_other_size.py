"""Files of a fixed size, made for another: as if they had been exported for it, or refused with what is in the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxslim_yolo as oy
from onnxslim_yolo.analysis.limits import Asked
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.load.other_size import fixed_size
from onnxslim_yolo.passes import head as head_pass
from onnxslim_yolo.rewrites import decode_nodes
from onnxslim_yolo.runtime.onnx_run import run_onnx
from tests import zoo

OTHER = (128, 96)


def traced(name: str, size: tuple[int, int], tmp_path: Path, **options: object) -> Path:
    """The same network, exported for a size."""
    import torch

    from onnxslim_yolo.load.trace import trace

    path = tmp_path / f"{name}-{size[0]}x{size[1]}.onnx"
    network = zoo.module(name, **options)
    path.write_bytes(trace(network, torch.rand(1, 3, *size)).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("yolov5n", "decoded"),  # grids of an anchor head
        ("yolov8n", "decoded"),  # points and DFL
        ("shufflenetv2", "raw"),  # channels shuffled by Reshape and Transpose
        ("yolo11n", "raw"),  # attention over all positions
        ("yolov5n-focus", "raw"),  # every other row and column
    ],
)
def test_it_is_as_if_it_had_been_exported_for_that_size(name: str, head: str, tmp_path: Path) -> None:
    """At 64 pixels maps have 8, 4 and 2 rows: as many as there are channels, heads or parts somewhere."""
    fixed, wanted = (traced(name, size, tmp_path, head=head) for size in ((64, 64), OTHER))
    model, made = read_model(fixed, LoadOptions(imgsz=OTHER))
    assert fixed_size(model.graph) == OTHER and "made for 128x96" in model.notes[-1]
    image = np.random.default_rng(0).random((1, 3, *OTHER), np.float32)
    found, expected = (run_onnx(file, [{"images": image}])[0] for file in (made, wanted))
    assert list(found) == list(expected)
    for one, other in zip(found.values(), expected.values(), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_the_size_that_it_has_changes_nothing(tmp_path: Path) -> None:
    fixed = traced("yolov5n", (64, 64), tmp_path)
    _, made = read_model(fixed, LoadOptions(imgsz=(64, 64)))
    assert made.SerializeToString() == onnx.load(fixed).SerializeToString()


def test_a_decode_that_gives_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where our decode is spoilt, the comparison at the old size sees it."""
    fixed = traced("yolov8n", (64, 64), tmp_path)
    plain = decode_nodes.grid_of
    monkeypatch.setattr(decode_nodes, "grid_of", lambda height, width: plain(height, width) + 0.01)
    with pytest.raises(InputError, match="is fixed at 64x64 pixels, not 128x96, for which it cannot be made") as caught:
        read_model(fixed, LoadOptions(imgsz=OTHER))
    assert caught.value.node is not None and caught.value.hint is not None and "--imgsz" in caught.value.hint


def test_a_ranking_is_cut_off_where_maps_are_wanted(tmp_path: Path) -> None:
    fixed = traced("yolo26n", (64, 64), tmp_path)
    with pytest.raises(InputError, match="fixed at 64x64"):
        read_model(fixed, LoadOptions(imgsz=OTHER))
    model, _ = read_model(fixed, LoadOptions(imgsz=OTHER, head="raw"))
    assert [tuple(tensor.shape[2:]) for tensor in model.graph.outputs] == [(16, 12), (8, 6), (4, 3)]


def test_nothing_is_run_beyond_the_limits(tmp_path: Path) -> None:
    fixed = traced("yolov8n", (64, 64), tmp_path)
    with pytest.raises(InputError, match="limit-work"):
        read_model(fixed, LoadOptions(imgsz=OTHER, asked=Asked(work=1000)))


def test_a_compilation_and_its_report_say_so(tmp_path: Path) -> None:
    fixed = traced("yolov5n", (64, 64), tmp_path)
    result = oy.compile(fixed, imgsz=(96, 64), prune=0.2, emit="onnx,ncnn", out=tmp_path / "out")
    assert all(check["passed"] for check in result.report["verification"]["checks"] if not check.get("control"))
    assert any(note.startswith("it was exported for 64x64, and made for 96x64") for note in result.report["notes"])
    assert result.onnx is not None
    sides = [dim.dim_value for dim in onnx.load(result.onnx).graph.input[0].type.tensor_type.shape.dim]
    assert sides == [1, 3, 96, 64]


def test_its_size_is_a_lever(tmp_path: Path) -> None:
    """`--size auto` chooses among sizes that a file of a fixed one can be made for."""
    fixed = traced("yolov5n", (128, 128), tmp_path, head="raw")
    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        Image.fromarray(np.full((90, 120, 3), 40 * index, np.uint8)).save(images / f"{index}.png")
    options = {"size": "auto", "target_latency": "0.8x", "emit": "onnx", "device": "x86-avx2"}
    result = oy.compile(fixed, out=tmp_path / "out", **options)
    assert result.onnx is not None
    height, width = (dim.dim_value for dim in onnx.load(result.onnx).graph.input[0].type.tensor_type.shape.dim[2:])
    assert (height, width) < (128, 128)


def test_a_batch_that_is_open_stays_open(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((8, 3, 1, 1), np.float32), "w")
    target = numpy_helper.from_array(np.array([-1, 2, 4, 16, 16]), "t")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Reshape", ["c", "t"], ["y"])]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight, target])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    _, made = read_model(path, LoadOptions(imgsz=(24, 16)))
    assert run_onnx(made, [{"x": np.ones((5, 3, 24, 16), np.float32)}])[0]["y"].shape == (5, 2, 4, 24, 16)


def test_a_part_that_is_all_of_the_old_size_is_refused(tmp_path: Path) -> None:
    """The first 1000 rows of 16 are all of them: the Slice is gone once the graph is canonical."""
    weight = numpy_helper.from_array(np.ones((8, 3, 1, 1), np.float32), "w")
    bounds = [numpy_helper.from_array(np.array([value]), name) for name, value in (("b", 0), ("e", 1000), ("a", 2))]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Slice", ["c", "b", "e", "a"], ["y"])]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight, *bounds])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(InputError, match="it ends at 1000, behind what it reads"):
        read_model(path, LoadOptions(imgsz=(2048, 16)))


def test_the_pass_that_writes_decodes_is_the_head_s() -> None:
    """`made_for` and `--head decoded` write one decode."""
    assert head_pass.write_v8 is decode_nodes.write_v8
