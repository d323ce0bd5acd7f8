"""What `emit/ncnn_stem.py` is worth: a stem of 6×6 with stride 2 in ncnn, said in three ways.

    python bench/ncnn_stem.py [--sizes 320 640] [--threads 1 2] [--widths 8 12 …] [--copies 3]

plain: one convolution. Reorg: ncnn's layer for SpaceToDepth, and a 3×3 convolution. phases: what the emitter writes, a
2×2 convolution that picks the phases into 16 channels, and the same 3×3. A Swish and a global maximum follow. "other
kernels": the same rewrite of 4×4 and 8×8, which the emitter leaves alone; it has no 3×3 to give to Winograd there.

Whole networks: YOLOv5n and YOLOv5n 5.0 (whose Focus is such a stem), with the rewrite and without.
Writes bench/results/ncnn_stem.json and .md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from interleaved import Entry, Facts, arguments, block, keep, latency_cells, protocol, table, written
from models_for_bench import model_of
from onnx import TensorProto, helper, numpy_helper

from onnxslim_yolo.emit.ncnn import rewrites as ncnn_rewrites
from onnxslim_yolo.emit.ncnn import stem as ncnn_stem
from onnxslim_yolo.ir.model import Model

NETWORKS = {"yolov5n": "YOLOv5n", "yolov5n-focus": "YOLOv5n 5.0"}
OTHER_KERNELS = (4, 8)
OTHER_WIDTHS = (16, 32)


def main() -> None:
    parser = arguments(__doc__, rounds=11)
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--widths", type=int, nargs="*", default=[8, 12, 16, 24, 32, 48, 64])
    parser.add_argument("--copies", type=int, default=3)
    options = parser.parse_args()
    cases = [(6, width) for width in options.widths]
    cases += [(kernel, width) for kernel in OTHER_KERNELS for width in OTHER_WIDTHS if options.widths]
    blocks: list[Facts] = []
    for size in options.sizes:
        for threads in options.threads:
            timing = {"rounds": options.rounds, "threads": threads, "copies": options.copies}
            for kernel, width in cases:
                with tempfile.TemporaryDirectory() as folder:
                    entries = forms(kernel, width, size, Path(folder))
                    what = f"{kernel}×{kernel}, {width} outputs"
                    blocks.append(block(entries, size=size, what=what, **timing))
            for name, what in NETWORKS.items():
                with tempfile.TemporaryDirectory() as folder:
                    entries = with_and_without(model_of(name, size), Path(folder))
                    blocks.append(block(entries, size=size, what=what, **timing))
    keep({"blocks": blocks}, markdown(blocks), options.out, "ncnn_stem")


def forms(kernel: int, width: int, size: int, folder: Path) -> list[Entry]:
    """The three ways to say one stem."""
    plain = stem(kernel, width, size)
    entries = with_and_without(plain, folder, kernels=frozenset({kernel}))
    reorg = written(stem(kernel, width, size, reorg=True), folder / "reorg", "ncnn")
    return [entries[0], Entry("Reorg", reorg), entries[1]]


def with_and_without(model: Model, folder: Path, kernels: frozenset[int] = ncnn_stem.KERNELS) -> list[Entry]:
    """The network without the rewrite and with it."""
    with mock.patch.object(ncnn_rewrites, "split_stems", lambda graph: 0):
        plain = written(model, folder / "plain", "ncnn")
    with mock.patch.object(ncnn_stem, "KERNELS", kernels):
        return [Entry("plain", plain), Entry("phases", written(model, folder / "phases", "ncnn"))]


def stem(kernel: int, width: int, size: int, *, reorg: bool = False) -> Model:
    """A convolution with stride 2 that halves the image, or SpaceToDepth and the same with stride 1."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((width, 3, kernel, kernel), dtype=np.float32) / kernel
    pad = {4: 0, 6: 2, 8: 2}[kernel]
    if reorg:
        weight = np.ascontiguousarray(ncnn_stem.by_phase(weight)[:, : 3 * ncnn_stem.PHASES])
    pads, strides = ([pad // 2] * 4, [1, 1]) if reorg else ([pad] * 4, [2, 2])
    nodes = [helper.make_node("SpaceToDepth", ["x"], ["s"], blocksize=2)] if reorg else []
    nodes += [
        helper.make_node("Conv", ["s" if reorg else "x", "w", "b"], ["c"], "stem", pads=pads, strides=strides),
        helper.make_node("Sigmoid", ["c"], ["g"]),
        helper.make_node("Mul", ["c", "g"], ["a"]),
        helper.make_node("GlobalMaxPool", ["a"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(weight, "w"),
        numpy_helper.from_array(rng.standard_normal(width, dtype=np.float32), "b"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, 3, size, size)), ("y", (1, width, 1, 1)))
    ]
    graph = helper.make_graph(nodes, "stem", ends[:1], ends[1:], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Model.from_onnx(onnx.shape_inference.infer_shapes(proto))


def markdown(blocks: list[Facts]) -> str:
    lines = [
        "# A 6×6 stem with stride 2 in ncnn",
        "",
        "Time over the plain one's; made by `python bench/ncnn_stem.py`. 4×4 and 8×8 are left alone by the emitter.",
        "",
    ]
    for size, threads in dict.fromkeys((found["size"], found["threads"]) for found in blocks):
        own = [found for found in blocks if (found["size"], found["threads"]) == (size, threads)]
        least = max(own, key=lambda found: found["resolution"])
        rows = [[found["what"], row["name"], *latency_cells(row)] for found in own for row in found["rows"]]
        lines += [f"## {size} px, {threads} thread(s)", "", protocol(least), ""]
        lines += table(("", "form", "ms", "ratio", "quartiles"), rows)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
