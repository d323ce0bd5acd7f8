"""Bad input: one clear message that names file or node and the way out, exit status 2, and nothing written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxslim_yolo as oy
from onnxslim_yolo.errors import OnnxSlimError
from tests.command import command
from tests.numeric import build

TEXT = (
    '<ir_version: 8, opset_import: ["": 17]> g (float[1,3,8,8] x) => (float[1,2,8,8] y)'
    " <float[8,3,3,3] a.weight, float[2,8,1,1] z.weight>"
    " { a = Conv<pads=[1,1,1,1]>(x, a.weight) h = Relu(a) y = Conv(h, z.weight) }"
)


def good() -> onnx.ModelProto:
    return build(TEXT).to_onnx()


def write(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def with_nodes(*nodes: onnx.NodeProto, opset: int = 17, domain: str | None = None) -> onnx.ModelProto:
    """x → nodes → y."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(list(nodes), "g", [info("x", 1, [1, 3, 8, 8])], [info("y", 1, [1, 3, 8, 8])])
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1)] if domain else []
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"the_{op}", **attributes)


def subgraph(op: str) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["o"])], "b", [], [info("o", 1, [1, 3, 8, 8])])
    yes = numpy_helper.from_array(np.array(True), "yes")
    steps = [node("Loop", "yes", "y", body=body)]
    if op == "If":  # a constant condition would be folded
        steps = [node("ReduceMax", "x", "most", keepdims=0), node("Cast", "most", "computed", to=TensorProto.BOOL)]
        steps.append(node("If", "computed", "y", then_branch=body, else_branch=body))
    proto = with_nodes(*steps)
    proto.graph.initializer.append(yes)
    return proto


def external(path: Path, location: str) -> Path:
    proto = good()
    tensor = next(t for t in proto.graph.initializer if t.name == "a.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return write(proto, path)


def outside(folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "secret.bin").write_bytes(b"\0" * 8 * 27 * 4)
    return external(folder / "model" / "m.onnx", "../secret.bin")


def symlinked(folder: Path) -> Path:
    (folder / "model").mkdir()
    (folder / "secret.bin").write_bytes(b"\0" * 8 * 27 * 4)
    (folder / "model" / "w.bin").symlink_to(folder / "secret.bin")
    return external(folder / "model" / "m.onnx", "w.bin")


def truncated(folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(good().SerializeToString()[:-100])
    return path


def bytes_of(data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "m.onnx"
        path.write_bytes(data)
        return path

    return make


def folder_named(folder: Path) -> Path:
    (folder / "m.onnx").mkdir()
    return folder / "m.onnx"


def proto_of(make: Callable[[], onnx.ModelProto]) -> Callable[[Path], Path]:
    return lambda folder: write(make(), folder / "m.onnx")


def cyclic() -> onnx.ModelProto:
    return with_nodes(node("Add", "x b", "a"), node("Relu", "a", "b"), node("Neg", "b", "y"))


def two_producers() -> onnx.ModelProto:
    return with_nodes(node("Relu", "x", "a"), node("Neg", "x", "a"), node("Abs", "a", "y"))


def nobody_computes() -> onnx.ModelProto:
    return with_nodes(node("Add", "x missing", "y"))


def contradicting() -> onnx.ModelProto:
    proto = good()
    weight = next(t for t in proto.graph.initializer if t.name == "z.weight")
    weight.CopyFrom(numpy_helper.from_array(np.zeros((2, 7, 1, 1), np.float32), "z.weight"))
    return proto


def no_channels() -> onnx.ModelProto:
    return with_nodes(node("Relu", "x", "h"), node("Neg", "h", "y"))


def quantised() -> onnx.ModelProto:
    proto = with_nodes(node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q t z", "y"))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "s"))
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.2), "t"))
    proto.graph.initializer.append(numpy_helper.from_array(np.uint8(0), "z"))
    return proto


def conv_integer() -> onnx.ModelProto:
    return with_nodes(node("ConvInteger", "x w", "y"))


CASES: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "missing": (lambda folder: folder / "none.onnx", "none.onnx: no such file", ""),
    "text": (bytes_of(b"hello, this is no model at all\n"), "no ONNX file|holds no graph", "help:"),
    "image": (bytes_of(b"\x89PNG\r\n\x1a\n" + bytes(range(256))), "no ONNX file|holds no graph", "help:"),
    "empty": (bytes_of(b""), "is empty, expected an ONNX file", ""),
    "truncated": (truncated, "no ONNX file, or a truncated one", "is it complete"),
    "folder": (folder_named, "is a folder, expected an ONNX file", ""),
    "unknown-suffix": (lambda folder: folder.joinpath("m.txt").write_text("x") and folder / "m.txt", "m.txt", ""),
    "external-missing": (
        lambda folder: external(folder / "m.onnx", "w.bin"),
        "external data 'w.bin' of 'a.weight' is missing",
        "copy it beside",
    ),
    "external-outside": (outside, "lies outside the model's folder: '../secret.bin'", "beside the model"),
    "external-absolute": (
        lambda folder: external(folder / "m.onnx", "/etc/hostname"),
        "lies outside the model's folder",
        "beside the model",
    ),
    "external-symlink": (symlinked, "external data 'w.bin'|lies outside the model's folder", "beside"),
    "external-unnamed": (lambda folder: external(folder / "m.onnx", ""), "external data", "beside"),
    "opset-too-old": (
        proto_of(lambda: with_nodes(node("Relu", "x", "y"), opset=6)),
        "opset 6 is not supported",
        "export",
    ),
    "opset-too-new": (
        proto_of(lambda: with_nodes(node("Relu", "x", "y"), opset=99)),
        "opset 99 is not supported",
        "export",
    ),
    "if": (proto_of(lambda: subgraph("If")), "node 'the_If': If has a subgraph", "tracing"),
    "loop": (proto_of(lambda: subgraph("Loop")), "node 'the_Loop': Loop has a subgraph", "tracing"),
    "qdq": (proto_of(quantised), "node 'the_QuantizeLinear': .*int8-quantised", "float model"),
    "conv-integer": (proto_of(conv_integer), "node 'the_ConvInteger': .*int8-quantised", "float model"),
    "custom-domain": (
        proto_of(lambda: with_nodes(node("NMS", "x", "y", domain="org.example"), domain="org.example")),
        "node 'the_NMS': operator org.example.NMS is outside the ONNX standard",
        "without custom",
    ),
    "unknown-operator": (
        proto_of(lambda: with_nodes(node("Frobnicate", "x", "y"))),
        "node 'the_Frobnicate': unknown operator",
        "",
    ),
    "cycle": (proto_of(cyclic), "cycle", "help:"),
    "two-producers": (proto_of(two_producers), "'a'", "help:"),
    "nobody-computes": (proto_of(nobody_computes), "'missing'", "help:"),
    "contradicting-shapes": (
        proto_of(contradicting),
        "'Conv_2' .Conv. has weights for 7 channels, but its input 'h' has 8",
        "help:",
    ),
}


def check_message(error: OnnxSlimError, pattern: str, hint: str, path: Path) -> None:
    import re

    text = str(error)
    assert error.exit_status == 2
    assert re.search(pattern, text), text
    assert hint in text, text
    assert path.name in text, f"the message does not name the file: {text}"
    assert len(text) < 900 and "Traceback" not in text


@pytest.mark.parametrize("case", CASES)
def test_refusals(case: str, tmp_path: Path) -> None:
    make, pattern, hint = CASES[case]
    path = make(tmp_path)
    out = tmp_path / "out"
    with pytest.raises(OnnxSlimError) as caught:
        oy.compile(path, out=out, emit="onnx")
    check_message(caught.value, pattern, hint, path)
    assert not out.exists() or not any(out.iterdir())
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "a staging folder is left"


@pytest.mark.parametrize("case", ["truncated", "if", "external-outside", "missing"])
def test_the_command_exits_with_2_and_one_message(case: str, tmp_path: Path) -> None:
    make, _, _ = CASES[case]
    path = make(tmp_path)
    done = command("compile", str(path), "-o", str(tmp_path / "out"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("error") == 1 and "Traceback" not in done.stderr
    assert path.name in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune": 1.0}, r"ratio 1.0 is not in \[0, 1\)"),
        ({"prune": -0.1}, r"ratio -0.1 is not in \[0, 1\)"),
        ({"prune": float("nan")}, r"not in \[0, 1\)"),
        ({"prune": "half"}, "'half'"),
        ({"snap": 0}, "multiples of 0"),
        ({"snap": "pow3"}, "none of none, pow2, auto"),
        ({"emit": "onnx,tflite"}, "'tflite' is none of onnx, ncnn, torch"),
        ({"emit": ""}, "names nothing to write"),
        ({"keep": ["nowhere"]}, "'nowhere' matches no layer"),
        ({"imgsz": 0}, "image size"),
        ({"passes": "prun"}, "unknown pass 'prun'.*\n.*'prune'"),
        ({"name": "a/b"}, "no file name"),
        ({"prune": 0.5, "target_macs": 0.5}, "give one of"),
        ({"target_macs": 1.5}, r"\(0, 1\]"),
        ({"target_params": 0.001}, "cannot come down"),
        ({"scope": "most"}, "'most' is none of"),
        ({"unheard": 1}, "unheard"),
    ],
)
def test_options(options: dict[str, object], message: str, tmp_path: Path) -> None:
    path = write(good(), tmp_path / "m.onnx")
    with pytest.raises(OnnxSlimError, match=message) as caught:
        oy.compile(path, out=tmp_path / "out", **({"emit": "onnx"} | options))
    assert caught.value.exit_status == 2
    assert not (tmp_path / "out").exists()


def test_nothing_prunable(tmp_path: Path) -> None:
    path = write(no_channels(), tmp_path / "m.onnx")
    with pytest.raises(OnnxSlimError, match="nothing in this graph can be pruned") as caught:
        oy.compile(path, out=tmp_path / "out", emit="onnx", prune=0.5)
    assert caught.value.exit_status == 2 and caught.value.hint is not None and "--prune 0" in caught.value.hint
    oy.compile(path, out=tmp_path / "out", emit="onnx", prune=0)


def test_the_output_is_a_file(tmp_path: Path) -> None:
    path = write(good(), tmp_path / "m.onnx")
    (tmp_path / "out").write_text("precious")
    with pytest.raises(OnnxSlimError, match="is a file, expected a folder") as caught:
        oy.compile(path, out=tmp_path / "out", emit="onnx")
    assert caught.value.exit_status == 2
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.skipif(not Path("/proc/1").exists(), reason="needs /proc")
def test_the_output_cannot_be_written(tmp_path: Path) -> None:
    path = write(good(), tmp_path / "m.onnx")
    with pytest.raises(OnnxSlimError, match="cannot write") as caught:
        oy.compile(path, out=Path("/proc/nowhere/out"), emit="onnx")
    assert caught.value.exit_status == 2 and "-o" in str(caught.value)


def test_the_parent_of_the_output_is_a_file(tmp_path: Path) -> None:
    path = write(good(), tmp_path / "m.onnx")
    with pytest.raises(OnnxSlimError, match="cannot write"):
        oy.compile(path, out=path / "out", emit="onnx")


@pytest.mark.parametrize("after", [0, 1, 2])
def test_disk_full(after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up at the n-th file: what was there stays, byte for byte, and nothing is left behind."""
    path = write(good(), tmp_path / "m.onnx")
    out = tmp_path / "out"
    oy.compile(path, out=out, emit="onnx", prune=0.25)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    calls = 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OnnxSlimError, match="No space left on device") as caught:
        oy.compile(path, out=out, emit="onnx", prune=0.5)
    assert caught.value.exit_status == 2 and calls == after + 1
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "out"}
