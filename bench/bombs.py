"""Small files that ask for much: what a plain `compile` of each takes, in CPU seconds and memory at the worst moment.

    python bench/bombs.py                # writes bench/results/bombs.md
    python bench/bombs.py gathers tile   # some of them, on standard output

The first row of each kind is a bomb as it was found, the second the largest of its kind, or nearly, that the default
limits let through: both must stay below 20 s and 2 GB.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "bombs.md"
MOST_SECONDS, MOST_BYTES = 20.0, 2 * 10**9
TIMEOUT = 300

MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True, errors="replace")
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, done.returncode)
print((done.stderr.strip().splitlines() or [""])[0][:300])
"""
"""Runs a command; prints seconds of CPU, the most memory of one process, its status, and the first line it said."""


def model_of(
    nodes: list[onnx.NodeProto], shape: tuple[int, ...], weights: dict[str, np.ndarray] | None = None, out: str = "y"
) -> onnx.ModelProto:
    """A model of one image input and one output."""
    graph = helper.make_graph(
        nodes,
        "bomb",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def pool(kernel: int, side: int, count: int = 1, op: str = "MaxPool") -> onnx.ModelProto:
    half = kernel // 2
    nodes = [
        helper.make_node(
            op, ["x" if k == 0 else f"t{k}"], [f"t{k + 1}" if k + 1 < count else "y"],
            kernel_shape=[kernel] * 2, pads=[half] * 4,
        )
        for k in range(count)
    ]  # fmt: skip
    return model_of(nodes, (1, 3, side, side))


def conv(side: int, ins: int, outs: int, kernel: int = 3, op: str = "Conv") -> onnx.ModelProto:
    shape = (outs, ins, kernel, kernel) if op == "Conv" else (ins, outs, kernel, kernel)
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    nodes = [helper.make_node(op, ["x", "w"], ["y"], kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)]
    return model_of(nodes, (1, ins, side, side), {"w": weight})


def gathers(count: int, size: int) -> onnx.ModelProto:
    """Constants of size², each made from a vector by a Gather, added one after the other."""
    nodes, last = [], "x"
    weights = {"v": np.ones((1, size), np.float32), "i": np.zeros(size, np.int64)}
    for k in range(count):
        nodes.append(helper.make_node("Gather", ["v", "i"], [f"g{k}"], axis=0))
        nodes.append(helper.make_node("ReduceMax", [f"g{k}"], [f"m{k}"], keepdims=0))
        nodes.append(helper.make_node("Add", [last, f"m{k}"], [f"a{k}"]))
        last = f"a{k}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    return model_of(nodes, (1, 3, 8, 8), weights)


def live_gathers(count: int, size: int) -> onnx.ModelProto:
    """The same from the image: every one lives until the last Sum."""
    nodes = [helper.make_node("Reshape", ["x", "flat"], ["v"])]
    nodes += [helper.make_node("Gather", ["v", "i"], [f"g{k}"], axis=0) for k in range(count)]
    nodes.append(helper.make_node("Sum", [f"g{k}" for k in range(count)], ["y"]))
    return model_of(nodes, (1, 3, 8, 8), {"flat": ints(1, 192), "i": np.zeros(size, np.int64)})


def resize(side: int, mode: str = "linear") -> onnx.ModelProto:
    nodes = [helper.make_node("Resize", ["x", "", "", "s"], ["y"], mode=mode)]
    return model_of(nodes, (1, 3, 8, 8), {"s": ints(1, 3, side, side)})


def expand(side: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Unsqueeze", ["x", "a"], ["u"]), helper.make_node("Expand", ["u", "s"], ["y"])]
    return model_of(nodes, (1, 3, 8, 8), {"s": ints(1, 3, 8, 8, side), "a": ints(4)})


def tile(times: int) -> onnx.ModelProto:
    return model_of([helper.make_node("Tile", ["x", "r"], ["y"])], (1, 3, 8, 8), {"r": ints(1, 1, times, times)})


def matmul(size: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Reshape", ["x", "a"], ["p"]),
        helper.make_node("Reshape", ["x", "b"], ["q"]),
        helper.make_node("MatMul", ["p", "q"], ["y"]),
    ]
    side = int(size**0.5)
    return model_of(nodes, (1, 1, side, side), {"a": ints(1, side**2, 1), "b": ints(1, 1, side**2)})


def pad(side: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Pad", ["x", "p"], ["y"])]
    return model_of(nodes, (1, 3, 8, 8), {"p": ints(0, 0, 0, 0, 0, 0, side - 8, side - 8)})


def outer_sum(size: int) -> onnx.ModelProto:
    """A row and a column, added: broadcasting makes a square."""
    nodes = [
        helper.make_node("Reshape", ["x", "a"], ["p"]),
        helper.make_node("Reshape", ["x", "b"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    side = int(size**0.5)
    return model_of(nodes, (1, 1, side, side), {"a": ints(1, side**2, 1), "b": ints(1, 1, side**2)})


def chain(count: int, side: int) -> onnx.ModelProto:
    """Many cheap operators on a large map."""
    names = ["x", *(f"t{k}" for k in range(1, count)), "y"]
    nodes = [helper.make_node("Sin" if k % 2 else "Exp", [names[k]], [names[k + 1]]) for k in range(count)]
    return model_of(nodes, (1, 3, side, side))


def quick_chain(count: int, side: int) -> onnx.ModelProto:
    """The same of operators that count half."""
    names = ["x", *(f"t{k}" for k in range(1, count)), "y"]
    nodes = [helper.make_node("Sigmoid" if k % 2 else "Relu", [names[k]], [names[k + 1]]) for k in range(count)]
    return model_of(nodes, (1, 3, side, side))


def constant(size: int) -> onnx.ModelProto:
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]
    return model_of(nodes, (1, 3, 8, 8), {"s": ints(size, 3, 8, 8)})


def many_sums(count: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["x"], [f"r{k}"]) for k in range(count)]
    nodes.append(helper.make_node("Sum", [f"r{k}" for k in range(count)], ["y"]))
    return model_of(nodes, (1, 3, 8, 8))


def sliced(count: int) -> onnx.ModelProto:
    """Slices that keep everything, added: each is taken out of the Sum's inputs."""
    nodes = [helper.make_node("Slice", ["x", "a", "b"], [f"s{k}"]) for k in range(count)]
    nodes.append(helper.make_node("Sum", [f"s{k}" for k in range(count)], ["y"]))
    return model_of(nodes, (1, 16, 16, 16), {"a": ints(0, 0, 0, 0), "b": ints(1, 16, 16, 16)})


def dilated(step: int) -> onnx.ModelProto:
    """A small kernel whose padding alone is large."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], dilations=[step] * 2, pads=[step] * 4)]
    return model_of(nodes, (1, 3, 64, 64), {"w": np.ones((3, 3, 3, 3), np.float32)})


def cropped(stride: int) -> onnx.ModelProto:
    """A transposed convolution of which the middle is kept."""
    pads = [stride * 7 // 2] * 4
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[stride] * 2, pads=pads)]
    return model_of(nodes, (1, 3, 8, 8), {"w": np.ones((3, 3, 2, 2), np.float32)})


def counted(size: int) -> onnx.ModelProto:
    """A Range of constants, which onnx's shape inference writes out."""
    nodes = [
        helper.make_node("Range", ["a", "b", "c"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=1),
        helper.make_node("ReduceSum", ["f"], ["s"], keepdims=0),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]
    return model_of(nodes, (1, 3, 8, 8), {k: np.int64(v) for k, v in (("a", 0), ("b", size), ("c", 1))})


def doubled(times: int) -> onnx.ModelProto:
    """A shape joined to itself again and again: so is this."""
    nodes = [helper.make_node("Shape", ["x"], ["s0"])]
    nodes += [helper.make_node("Concat", [f"s{k}"] * 2, [f"s{k + 1}"], axis=0) for k in range(times)]
    nodes += [
        helper.make_node("Cast", [f"s{times}"], ["f"], to=1),
        helper.make_node("ReduceMax", ["f"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    return model_of(nodes, (1, 3, 8, 8))


def as_large_as_said(op: str, size: float = 2e9) -> onnx.ModelProto:
    """An operator that makes as much as the image's greatest value says; about `size`."""
    sizes = {
        "Pad": [0, 0, 0, 0, 0, 0, size**0.5, size**0.5],
        "Resize": [1, 1, (size / 192) ** 0.5, (size / 192) ** 0.5],
        "Tile": [1, 1, 1, size],
    }
    weights = {"k": np.array(sizes.get(op, [size]), np.float32), "z": np.float32(1e-9), "a": ints(0), "one": ints(1)}
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Mul", ["m", "z"], ["n"]),
        helper.make_node("Add", ["n", "k"], ["l"]),
        helper.make_node("Cast", ["l"], ["i"], to=7),
    ]
    if op in ("Range", "OneHot"):
        nodes.append(helper.make_node("Reshape", ["i", "none"], ["j"]))
        weights |= {"none": np.zeros(0, np.int64), "zero": np.int64(0), "unit": np.int64(1)}
        weights |= {"values": np.array([0, 1], np.float32), "places": ints(1, 2)}
    inputs = {
        "Resize": ["x", "", "l"], "Range": ["zero", "j", "unit"], "OneHot": ["places", "j", "values"],
        "ConstantOfShape": ["i"], "Expand": ["m", "i"],
    }  # fmt: skip
    nodes += [
        helper.make_node(op, inputs.get(op, ["x", "i"]), ["e"]),
        helper.make_node("Cast", ["e"], ["f"], to=1),
        helper.make_node("ReduceMax", ["f"], ["g"], keepdims=0),
        helper.make_node("Add", ["x", "g"], ["y"]),
    ]
    return model_of(nodes, (1, 3, 8, 8), weights)


def places(side: int) -> onnx.ModelProto:
    """Every place that is not zero, times every other."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=1),
        helper.make_node("Transpose", ["f"], ["t"]),
        helper.make_node("MatMul", ["t", "f"], ["p"]),
        helper.make_node("ReduceMax", ["p"], ["g"], keepdims=0),
        helper.make_node("Add", ["x", "g"], ["y"]),
    ]
    return model_of(nodes, (1, 3, side, side))


Make = Callable[[], onnx.ModelProto]
BOMBS: dict[str, tuple[Make, Make | None]] = {
    "a pooling kernel of 1999²": (lambda: pool(1999, 2000), lambda: pool(31, 400)),
    "30 poolings of 255²": (lambda: pool(255, 640, 30), lambda: pool(17, 128, 30)),
    "average pooling of 1999²": (lambda: pool(1999, 2000, op="AveragePool"), lambda: pool(31, 400, op="AveragePool")),
    "a convolution on a 4000² image": (lambda: conv(4000, 64, 64), lambda: conv(380, 64, 64)),
    "a 65² convolution": (lambda: conv(2000, 16, 16, 65), lambda: conv(25, 16, 16, 65)),
    "a transposed convolution": (
        lambda: conv(4000, 32, 64, 3, "ConvTranspose"),
        lambda: conv(380, 64, 32, 3, "ConvTranspose"),
    ),
    "200 Gathers of 4096² (constant)": (lambda: gathers(200, 4096), lambda: gathers(1, 4000)),
    "200 Gathers of 4096 rows (live)": (lambda: live_gathers(200, 70_000), None),
    "a Resize": (lambda: resize(28_000), lambda: resize(1800)),
    "a cubic Resize": (lambda: resize(9000, "cubic"), lambda: resize(1800, "cubic")),
    "an Expand": (lambda: expand(13_000_000), lambda: expand(50_000)),
    "a Tile": (lambda: tile(2000), lambda: tile(220)),
    "a MatMul that is an outer product": (lambda: matmul(43_000), lambda: matmul(3100)),
    "a sum that is an outer one": (lambda: outer_sum(43_000), lambda: outer_sum(3100)),
    "a Pad": (lambda: pad(28_000), lambda: pad(1800)),
    "2000 quick operators on a 4000² image": (lambda: quick_chain(2000, 4000), lambda: quick_chain(160, 1000)),
    "a ConstantOfShape": (lambda: constant(10_000_000), lambda: constant(50_000)),
    "1000 operators on a 4000² image": (lambda: chain(1000, 4000), lambda: chain(60, 1000)),
    "a Sum of 10⁴ inputs": (lambda: many_sums(10_000), None),
    "3000 Slices into a Sum": (lambda: sliced(3000), None),
    "20,000 operators on 8²": (lambda: chain(20_000, 8), lambda: quick_chain(14_000, 8)),
    "a convolution dilated by 100,000": (lambda: dilated(100_000), lambda: dilated(2400)),
    "a transposed convolution, cropped": (lambda: cropped(2000), lambda: cropped(700)),
    "a Range of 2·10⁹": (lambda: counted(2 * 10**9), lambda: counted(10**6)),
    "a shape joined to itself 27 times": (lambda: doubled(27), lambda: doubled(17)),
    "an Expand as large as the image says": (lambda: as_large_as_said("Expand"), None),
    "a Pad as large as the image says": (lambda: as_large_as_said("Pad"), None),
    "all places times all places": (lambda: places(200), None),
}


def measured(model: onnx.ModelProto) -> tuple[int, float, float, int, str]:
    """Bytes of the file; seconds and bytes of a plain `compile`; its exit status; the first line of what it said."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "m.onnx"
        onnx.save(model, str(path))
        command = [sys.executable, "-m", "onnxslim_yolo", "compile", "m.onnx", "-q"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        line = ["timeout", str(TIMEOUT), sys.executable, "-c", MEASURE, *command]
        done = subprocess.run(line, cwd=name, env=environment, capture_output=True, text=True)
        first, _, said = done.stdout.partition("\n")
        seconds, size, status = first.split() if first else (TIMEOUT, "nan", -1)
        return path.stat().st_size, float(seconds), float(size), int(status), said.strip()


def main() -> int:
    """Measure all of them, or those whose name has one of the words given."""
    words = sys.argv[1:]
    chosen = {k: v for k, v in BOMBS.items() if not words or any(word.lower() in k.lower() for word in words)}
    rows, broken = [], 0
    for name, makes in chosen.items():
        for kind, make in zip(("bomb", "largest allowed"), makes, strict=True):
            if make is None:
                continue
            size, seconds, memory, status, said = measured(make())
            broken += seconds > MOST_SECONDS or memory > MOST_BYTES
            rows.append(f"| {name} | {kind} | {size:,} | {status} | {seconds:.1f} | {memory / 1e6:.0f} |")
            print(rows[-1], said[:140], flush=True)
    if not words:
        head = "# Small files that ask for much\n\nMade by `python bench/bombs.py`: a plain `compile`, one thread.\n\n"
        head += "| file | kind | bytes | exit | CPU seconds | MB at most |\n|---|---|--:|--:|--:|--:|\n"
        RESULT.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
