"""What a graph of very many nodes costs: CPU seconds and memory of reading it and of compiling it.

    python bench/many_nodes.py [--nodes 10000 100000]

A chain of Relu, Sigmoid and Neg, and one of 1×1 convolutions: each in a process of its own, without verification,
which is the runtimes' time. Twice the nodes should take twice the time. Writes bench/results/many_nodes.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
from onnx import helper, numpy_helper

RESULTS = Path(__file__).resolve().parent / "results"
KINDS = ("element-wise", "convolutions")


def chain(kind: str, count: int) -> onnx.ModelProto:
    """x → count nodes in a row → y."""
    names = ["x", *(f"t{i}" for i in range(count - 1)), "y"]
    rng, nodes, weights = np.random.default_rng(0), [], []
    for index, (source, target) in enumerate(pairwise(names)):
        if kind == "element-wise":
            nodes.append(helper.make_node(("Relu", "Sigmoid", "Neg")[index % 3], [source], [target], name=f"n{index}"))
            continue
        weight = (rng.standard_normal((3, 3, 1, 1)) * 0.9).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("Conv", [source, f"w{index}"], [target], name=f"n{index}"))
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measured(kind: str, count: int) -> dict[str, object]:
    """CPU seconds of `load` and `compile`, and the most memory that this process ever had."""
    import onnxslim_yolo as oy

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.onnx"
        path.write_bytes(chain(kind, count).SerializeToString())
        start = time.process_time()
        oy.load(path)
        middle = time.process_time()
        oy.compile(
            path, out=Path(folder) / "out", emit="onnx", verify=False, limit_work="none"
        )  # many nodes are refused otherwise
        end = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"kind": kind, "nodes": count, "load_s": middle - start, "compile_s": end - middle, "peak_mb": peak}


def markdown(rows: list[dict[str, float]]) -> str:
    lines = ["| chain of | nodes | load, CPU s | compile, CPU s | peak MB |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {row['kind']} | {row['nodes']} | {row['load_s']:.1f} | {row['compile_s']:.1f} | {row['peak_mb']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one[0], int(given.one[1]))))
        return
    rows = []
    for kind in KINDS:
        for count in given.nodes:
            line = [sys.executable, __file__, "--one", kind, str(count)]
            done = subprocess.run(line, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    (RESULTS / "many_nodes.json").write_text(json.dumps(rows, indent=1) + "\n")
    (RESULTS / "many_nodes.md").write_text(markdown(rows))


if __name__ == "__main__":
    main()
