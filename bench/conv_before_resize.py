"""What the pass `conv-before-resize` is worth: whole networks compiled without it and with it.

    python bench/conv_before_resize.py [--sizes 320 640] [--threads 1 2] [--networks yolov5n …] [--copies 3]

Writes bench/results/conv_before_resize.json and .md.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import mock

from interleaved import RUNTIMES, Entry, Facts, arguments, block, keep, latency_cells, protocol, table, written
from models_for_bench import model_of

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes import ConvBeforeResize
from onnxslim_yolo.pipeline import remainder

NETWORKS = ("yolov5n", "yolov7-tiny", "yolov8n", "yolo11n", "yolox")


def main() -> None:
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--copies", type=int, default=3)
    options = parser.parse_args()
    blocks: list[Facts] = []
    for name in options.networks:
        for size in options.sizes:
            without, moved = compiled(name, size, moved=False), compiled(name, size, moved=True)
            macs = cost_of(moved.graph).macs / cost_of(without.graph).macs
            for runtime in options.runtimes.split(","):
                for threads in options.threads:
                    with tempfile.TemporaryDirectory() as folder:
                        entries = [
                            Entry("without", written(without, Path(folder) / "without", runtime)),
                            Entry("with", written(moved, Path(folder) / "with", runtime)),
                        ]
                        timing = {"rounds": options.rounds, "threads": threads, "copies": options.copies}
                        blocks.append(block(entries, size=size, what=name, runtime=runtime, macs=macs, **timing))
    keep({"blocks": blocks}, markdown(blocks), options.out, "conv_before_resize")


def compiled(name: str, size: int, *, moved: bool) -> Model:
    """The network, fused and not pruned."""
    model = model_of(name, size).copy()
    with mock.patch.object(ConvBeforeResize, "run", ConvBeforeResize.run if moved else lambda *_: 0):
        PassManager(remainder(CompileOptions(), model)).run(model)
    return model


def markdown(blocks: list[Facts]) -> str:
    lines = [
        "# 1×1 convolutions in front of the Resize",
        "",
        "Time with the pass over the time without; made by `python bench/conv_before_resize.py`. MACs likewise.",
        "",
    ]
    for runtime in RUNTIMES:
        for threads in dict.fromkeys(found["threads"] for found in blocks):
            own = [found for found in blocks if (found["runtime"], found["threads"]) == (runtime, threads)]
            if not own:
                continue
            least = max(own, key=lambda found: found["resolution"])
            rows = [
                [found["what"], str(found["size"]), f"{found['macs']:.3f}", *latency_cells(found["rows"][1])]
                for found in own
            ]
            lines += [f"## {runtime}, {threads} thread(s)", "", protocol(least), ""]
            lines += table(("", "px", "MACs", "ms", "ratio", "quartiles"), rows)
    return "\n".join(lines)


if __name__ == "__main__":
    main()
