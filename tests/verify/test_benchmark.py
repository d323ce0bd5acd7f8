"""The measuring protocol: ratios, control, denormals, layers, and broken files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_ncnn
from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.measure.benchmark import CHILD, benchmark


def convolutions(path: Path, count: int, scale: float = 1.0) -> Path:
    """`count` 3×3 convolutions of 16 channels at 48×48, the weights' size times `scale`."""
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "images"
    for index in range(count):
        inputs = 3 if index == 0 else 16
        values = rng.normal(0, 1 / np.sqrt(9 * inputs), (16, inputs, 3, 3)) * (scale if index == 0 else 1.0)
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{index}"))
        nodes.append(
            helper.make_node("Conv", [name, f"w{index}"], [f"y{index}"], pads=[1, 1, 1, 1], name=f"conv{index}")
        )
        name = f"y{index}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", 1, [1, 3, 48, 48])],
        [helper.make_tensor_value_info(name, 1, [1, 16, 48, 48])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_ratios_control_and_layers(tmp_path) -> None:
    one, four = convolutions(tmp_path / "one.onnx", 2), convolutions(tmp_path / "four.onnx", 8)
    seen: list[int] = []
    result = benchmark([one, four], rounds=7, layers=True, progress=lambda done, _: seen.append(done))
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert result.models[0].ratio == 1 and 1.8 < result.models[1].ratio < 12
    assert 0.6 < result.control < 1.6 and result.resolution >= 0.02
    assert result.clock == "thread-cpu" and len(result.seconds) == 7 and len(result.seconds[0]) == 3
    assert sum(layer.type == "Conv" for layer in result.models[1].layers) == 8
    assert sum(layer.share for layer in result.models[1].layers) == pytest.approx(1)
    assert json.loads(json.dumps(result.to_dict()))["models"][1]["name"] == "four.onnx"


PROBE = """
import json, runpy, sys
child = runpy.run_path(sys.argv[1])
entry = json.loads(sys.argv[2])
if sys.argv[3] == "flush":
    child["flush_denormals"]()
call = child["OPEN"][entry["runtime"]](entry, 1)
if sys.argv[3] == "flush":
    child["flush_denormals"]()
import numpy as np
result = call()[0]
values = np.array(result[1]) if isinstance(result, tuple) else result
print(json.dumps([child["denormals_flushed"](), bool(values.any())]))
"""
"""What the measuring process does up to its first round: is the network's denormal output flushed to zero?"""


def probe(entry: dict[str, object], mode: str) -> tuple[bool, bool]:
    """(numpy flushes, the network's output has a number other than zero)."""
    arguments = [sys.executable, "-c", PROBE, str(CHILD), json.dumps(entry), mode]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    flushed, alive = json.loads(done.stdout.splitlines()[-1])
    return flushed, alive


def test_denormals_are_flushed_in_both_runtimes(tmp_path) -> None:
    # Weights of 1e-20 twice: products around 1e-40, which only a denormal can hold.
    path = tmp_path / "tiny.onnx"
    proto = onnx.load(convolutions(path, 2, scale=1e-20))
    second = numpy_helper.to_array(proto.graph.initializer[1]) * np.float32(1e-20)
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(second, "w1"))
    onnx.save(proto, path)
    folder = tmp_path / "tiny_ncnn_model"
    write_ncnn(emit_ncnn(Model.from_onnx(proto), weights="fp32"), folder, {})
    ort_entry = {"runtime": "onnxruntime", "file": str(path), "size": [48, 48]}
    pair = {"param": str(folder / "model.ncnn.param"), "bin": str(folder / "model.ncnn.bin")}
    ncnn_entry = {"runtime": "ncnn", "file": str(folder), "size": [48, 48], **pair}
    if not probe(ort_entry, "flush")[0]:
        pytest.skip("this platform offers no way to flush denormals")
    assert probe(ort_entry, "flush") == (True, False)
    assert probe(ncnn_entry, "flush") == (True, False)
    assert probe(ncnn_entry, "leave") == (False, True)  # control: without flushing the denormals are there


def test_ncnn_and_its_layers(tmp_path) -> None:
    path = convolutions(tmp_path / "x.onnx", 4)
    folder = tmp_path / "x_ncnn_model"
    write_ncnn(emit_ncnn(Model.from_onnx(onnx.load(path))), folder, {})
    result = benchmark([path, folder], names=["ort", "ncnn"], rounds=3, layers=True)
    assert [m.runtime for m in result.models] == ["onnxruntime", "ncnn"]
    layers = result.models[1].layers
    assert [layer.type for layer in layers].count("Convolution") == 4
    assert sum(layer.ms for layer in layers) == pytest.approx(result.models[1].ms, rel=1.0)


def test_channels_last_are_fed_last(tmp_path) -> None:
    """Else onnxruntime refused the picture, and ncnn crashed on it."""
    proto = onnx.load(convolutions(tmp_path / "plain.onnx", 1))
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("picture", 1, [1, 48, 48, 3]))
    proto.graph.node.insert(0, helper.make_node("Transpose", ["picture"], ["images"], perm=[0, 3, 1, 2], name="t"))
    onnx.save(proto, tmp_path / "last.onnx")
    model = Model.from_onnx(proto)
    write_ncnn(emit_ncnn(model), tmp_path / "last_ncnn_model", model.metadata)
    found = benchmark([tmp_path / "last.onnx", tmp_path / "last_ncnn_model"], rounds=5)
    assert [one.runtime for one in found.models] == ["onnxruntime", "ncnn"]


def test_what_cannot_be_measured_is_refused(tmp_path) -> None:
    good = convolutions(tmp_path / "good.onnx", 1)
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    for broken in ("bad.onnx", "gone.onnx", "x.tflite"):
        with pytest.raises(InputError, match=broken):
            benchmark([good, tmp_path / broken])
    for options in ({"rounds": 1}, {"threads": 4096}, {"names": ["a", "b"]}):
        with pytest.raises(UsageError):
            benchmark([good], **options)
    with pytest.raises(UsageError):
        benchmark([])
