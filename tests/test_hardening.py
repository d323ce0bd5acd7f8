"""Hostile and broken ONNX: one clear message and exit status 2; no crash, no hang, nothing written, bounded memory.

What `test_bad_input.py` tests already (truncated files, external data, subgraphs, cycles) is not repeated here.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxslim_yolo as oy
from onnxslim_yolo.errors import OnnxSlimError
from tests.test_bad_input import good, node, with_nodes, write

ROOT = Path(__file__).resolve().parents[1]


def graph(*nodes: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    """x → nodes → y with constants by name; a tuple is a shape of random weights."""
    proto = with_nodes(*nodes)
    for name, value in constants.items():
        array = np.ones(value, np.float32) if isinstance(value, tuple) else np.asarray(value)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def conv(**attributes: object) -> onnx.ModelProto:
    return graph(node("Conv", "x w", "y", **attributes), w=(3, 3, 1, 1))


def ones(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def at_opset(version: int, proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.opset_import[0].version = version
    return proto


def largest(node_: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    """A node whose result `e` is only looked at for its largest element."""
    return graph(node_, node("ReduceMax", "e", "y"), **constants)


ARITY: dict[str, tuple[onnx.ModelProto, str]] = {
    "conv-without-weight": (graph(node("Conv", "x", "y")), "node 'the_Conv': Conv: .*input size 1"),
    "reshape-without-shape": (graph(node("Reshape", "x", "y")), "node 'the_Reshape': Reshape: .*input size 1"),
    "concat-without-axis": (graph(node("Concat", "x x", "y")), "node 'the_Concat': Concat: .*'axis' is missing"),
    "norm-without-variance": (graph(node("BatchNormalization", "x s s", "y"), s=(3,)), "input size 3"),
    "relu-of-nothing": (graph(node("Relu", "", "y")), "node 'the_Relu': Relu: .*input size 0"),
    "relu-of-two-results": (graph(node("Relu", "x", "y z")), "output size 2"),
    "group-is-text": (conv(group="abc"), "group"),
    "unknown-attribute": (conv(zzz=1), "Unrecognized attribute: zzz"),
    "weight-of-two-axes": (graph(node("Conv", "x w", "y"), w=(3, 3)), "a weight of shape .3, 3."),
    "group-0": (conv(group=0), "in 0 groups"),
    "group-negative": (conv(group=-1), "in -1 groups"),
    "group-huge": (conv(group=2**62), "in 4611686018427387904 groups"),
    "empty-weight": (graph(node("Conv", "x w", "y"), w=(0, 3, 1, 1)), "an empty weight"),
    "kernel-of-another": (conv(kernel_shape=[3, 3]), "kernel_shape .3, 3., but a weight of shape"),
    "bias-of-another": (graph(node("Conv", "x w b", "y"), w=(3, 3, 1, 1), b=(7,)), "3 outputs, but a bias of shape .7"),
    "norm-of-another": (graph(node("BatchNormalization", "x s s s t", "y"), s=(3,), t=(5,)), "parameters of shapes"),
    "split-of-another": (graph(node("Split", "x", "y z", axis=1, split=[1])), "Split|split"),
}
SIZES: dict[str, tuple[onnx.ModelProto, str]] = {
    "expand": (largest(node("Expand", "x s", "e"), s=ones(10**5, 3, 8000, 8000)), "cannot be computed|refuses"),
    "fill": (largest(node("ConstantOfShape", "s", "e"), s=ones(10**5, 10**5)), "100000, 100000"),
    "range": (largest(node("Range", "a b c", "e"), a=np.int64(0), b=np.int64(2**40), c=np.int64(1)), "1099511627776"),
    "tile": (largest(node("Tile", "w r", "e"), w=(3, 3), r=ones(10**5, 10**5)), "300000, 300000"),
    "resize": (
        largest(helper.make_node("Resize", ["x", "", "s"], ["e"]), s=np.array([1, 1, 1e6, 1e6], np.float32)),
        "8000000, 8000000",
    ),
    "pad": (largest(node("Pad", "x p", "e"), p=ones(0, 0, 0, 0, 0, 0, 2**30, 2**30)), "would have the shape"),
    "pads": (conv(pads=[2**30] * 4), "would have the shape"),
}


def edited(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    proto = good()
    edit(proto)
    return proto


def weight(proto: onnx.ModelProto) -> TensorProto:
    return proto.graph.initializer[0]


def dims(proto: onnx.ModelProto, *values: int) -> None:
    weight(proto).dims[:] = values


def side(proto: onnx.ModelProto, value: int) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = value


def element(proto: onnx.ModelProto, kind: int) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = kind


FILES: dict[str, tuple[onnx.ModelProto, str]] = {
    "short-data": (edited(lambda p: setattr(weight(p), "raw_data", b"1234")), "has 4 bytes, expected 864"),
    "giant-declared": (
        edited(lambda p: dims(p, 2**20, 2**20, 3, 3)),
        "'a.weight' declares the shape .1048576.*too large",
    ),
    "overflow-declared": (edited(lambda p: dims(p, 2**32, 2**32)), "too large"),
    "negative-dimension": (edited(lambda p: dims(p, -8, 3, 3, 3)), "'a.weight' has a negative dimension: .-8, 3, 3, 3"),
    "unknown-type": (edited(lambda p: setattr(weight(p), "data_type", 999)), "no known element type: 999"),
    "input-huge": (edited(lambda p: side(p, 2**40)), "input 'x' of shape .* is too large"),
    "input-empty": (edited(lambda p: side(p, 0)), "input 'x' is empty"),
    "input-shapeless": (edited(lambda p: p.graph.input[0].type.tensor_type.ClearField("shape")), "'x' has no shape"),
    "input-typeless": (edited(lambda p: element(p, 0)), "input 'x' has no known element type: 0"),
    "input-bfloat16": (edited(lambda p: element(p, 16)), "input 'x' is bfloat16; no check can feed that"),
    "input-text": (edited(lambda p: element(p, 8)), "input 'x' is string"),
    "two-initializers": (
        edited(lambda p: p.graph.initializer.append(weight(p))),
        "two initializers are called 'a.weight'",
    ),
    "two-inputs": (edited(lambda p: p.graph.input.append(p.graph.input[0])), "two inputs are called"),
    "no-opset": (edited(lambda p: p.ClearField("opset_import")), "opset None is not supported"),
    "random": (graph(node("RandomNormalLike", "x", "y")), "the result is random"),
    "training": (graph(node("Dropout", "x r t", "y"), r=np.float32(0.5), t=np.array(True)), "in training mode"),
    "training-by-outputs": (
        at_opset(13, graph(node("BatchNormalization", "x g b m v", "y m2 v2 sm sv"), g=(3,), b=(3,), m=(3,), v=(3,))),
        "in training mode",
    ),
}
CASES = ARITY | SIZES | FILES


@pytest.mark.parametrize("case", CASES)
def test_one_clear_refusal(case: str, tmp_path: Path) -> None:
    import re

    proto, pattern = CASES[case]
    path = write(proto, tmp_path / "m.onnx")
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(OnnxSlimError) as caught:
        oy.compile(path, out=tmp_path / "out", prune="dead", emit="onnx", verify=case == "expand")
    text = str(caught.value)
    assert caught.value.exit_status == 2 and re.search(pattern, text), text
    assert len(text) < 900 and "m.onnx" in text
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10, "kB"


def function(name: str, *callees: str) -> onnx.FunctionProto:
    names = ["a", *(f"t{i}" for i in range(len(callees) - 1)), "b"]
    nodes = [
        helper.make_node(callee, [source], [target], domain="" if callee == "Relu" else "d")
        for callee, source, target in zip(callees, names, names[1:], strict=False)
    ]
    return helper.make_function(
        "d", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("d", 1)]
    )


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([function("F0", "F0")], "function 'F0' calls itself"),
        ([function("F0", "F1"), function("F1", "F0")], "calls itself"),
        (
            [*(function(f"F{i}", *[f"F{i + 1}"] * 10) for i in range(11)), function("F11", "Relu")],
            "1e.11 nodes, more than",
        ),
    ],
    ids=["itself", "each-other", "ten-times-ten-times-ten"],
)
def test_functions_that_never_end(functions: list[onnx.FunctionProto], message: str, tmp_path: Path) -> None:
    proto = with_nodes(helper.make_node("F0", ["x"], ["y"], domain="d"), domain="d")
    proto.functions.extend(functions)
    with pytest.raises(OnnxSlimError, match=message):
        oy.load(write(proto, tmp_path / "m.onnx"))


@pytest.mark.parametrize("field", [b"a.weight", b"Relu"])
def test_names_that_are_no_text(field: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(good().SerializeToString().replace(field, b"\xff" * len(field)))
    with pytest.raises(OnnxSlimError, match=r"no UTF-8|no ONNX file"):
        oy.load(path)


def test_names_cannot_speak_to_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[31mred\n\x07" + "z" * 10**6
    proto = with_nodes(helper.make_node("Relu", [evil], ["y"], name=evil))
    with pytest.raises(OnnxSlimError) as caught:
        oy.load(write(proto, tmp_path / "m.onnx"))
    assert "\x1b" not in str(caught.value) and "\x07" not in str(caught.value) and len(str(caught.value)) < 2000


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_noted(value: float, tmp_path: Path) -> None:
    proto = good()
    array = numpy_helper.to_array(weight(proto)).copy()
    array[0, 0, 0, 0] = value
    weight(proto).CopyFrom(numpy_helper.from_array(array, "a.weight"))
    path = write(proto, tmp_path / "m.onnx")
    report = oy.compile(path, out=tmp_path / "out", emit="onnx", prune=0.25, verify=False).report
    assert "initializer 'a.weight' holds NaN or infinite weights" in report["notes"]
    json.loads((tmp_path / "out" / "m.report.json").read_text(), parse_constant=pytest.fail)


def test_external_data_is_measured_before_it_is_read(tmp_path: Path) -> None:
    for entries, message in (
        ({"offset": "-5"}, "but its external data"),
        ({"offset": "99999999"}, "but its external data"),
        ({"length": "7"}, "of which 7 at 0"),
        ({"offset": "x"}, "no offset or length"),
    ):
        proto = good()
        weight(proto).ClearField("raw_data")
        weight(proto).data_location = TensorProto.EXTERNAL
        for key, value in ({"location": "w.bin"} | entries).items():
            weight(proto).external_data.add(key=key, value=value)
        (tmp_path / "w.bin").write_bytes(b"\0" * 900)
        with pytest.raises(OnnxSlimError, match=message):
            oy.load(write(proto, tmp_path / "m.onnx"))


def test_external_data_that_is_right_is_read(tmp_path: Path) -> None:
    proto = good()
    data = weight(proto).raw_data
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"skip" + data + b"more")
    weight(proto).ClearField("raw_data")
    weight(proto).data_location = TensorProto.EXTERNAL
    for key, value in {"location": "sub/w.bin", "offset": "4", "length": str(len(data))}.items():
        weight(proto).external_data.add(key=key, value=value)
    model = oy.load(write(proto, tmp_path / "m.onnx"))
    found = next(t for t in model.to_onnx().graph.initializer if t.name == "a.weight")
    assert numpy_helper.to_array(found).tobytes() == data


def test_work_grows_with_the_number_of_nodes(tmp_path: Path) -> None:
    """Four times the nodes take four times the calls (no clock: machines are shared); 10^5 nodes are measured in
    docs."""

    def calls(count: int) -> int:
        names = ["x", *(f"t{i}" for i in range(count - 1)), "y"]
        nodes = [helper.make_node("Relu" if i % 2 else "Neg", [names[i]], [names[i + 1]]) for i in range(count)]
        path = write(with_nodes(*nodes), tmp_path / "m.onnx")
        made = 0

        def note(*_: object) -> None:
            nonlocal made
            made += 1

        sys.setprofile(note)
        try:
            oy.load(path)
        finally:
            sys.setprofile(None)
        return made

    calls(100)
    small, large = calls(1500), calls(6000)
    assert large < 4.1 * small, (small, large)


@pytest.mark.parametrize(
    "arguments",
    [
        ("fuzz_onnx.py", "onnx-bytes", 300),
        ("fuzz_onnx.py", "onnx", 300),
        ("fuzz_readers.py", "plan", 300),
        ("fuzz_readers.py", "config", 300),
        ("fuzz_ncnn.py", "ncnn-param", 300),
        ("fuzz_ncnn.py", "ncnn-bin", 300),
    ],
    ids=lambda arguments: arguments[1],
)
def test_a_few_of_the_fuzzers_inputs(arguments: tuple[str, str, int]) -> None:
    script, reader, count = arguments
    done = subprocess.run(
        [sys.executable, f"bench/{script}", reader, "--inputs", str(count), "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} inputs" in done.stdout


def test_control_the_fuzzer_sees_crashes_and_hangs() -> None:
    """A reader that raises, ends its process, or never returns is found out, each with the input's number."""
    code = (
        "import os, sys; sys.path[:0] = ['bench']; import fuzzing; fuzzing.SECONDS = 0.2\n"
        "def read(n):\n if n == 3: raise KeyError(n)\n if n == 5: os.abort()\n"
        " while n == 7: pass\n if n == 8: bytearray(1 << 34)\n"
        "found = [fuzzing.fuzz('t', lambda rng, n=n: n, read, fuzzing.Options(1, n)).findings for n in range(10)]\n"
        "print([n for n, f in enumerate(found) if f])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[3, 5, 7, 8]", done.stdout + done.stderr
    for word in ("KeyError", "SIGABRT", "SIGVTALRM", "MemoryError"):
        assert word in done.stdout


def test_control_an_input_that_cannot_be_made_ends_its_child_only() -> None:
    code = (
        "import sys; sys.path[:0] = ['bench']; import fuzzing\n"
        "def make(rng, left=[2]):\n left[0] -= 1\n return 1 // left[0]\n"
        "print(fuzzing.fuzz('t', make, print, fuzzing.Options(4)).outcomes['exit 70'], 'parent')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.stdout.splitlines()[-1].endswith("parent") and done.stdout.count("parent") == 1, done.stdout
    assert "ZeroDivisionError" in done.stderr
