"""Every architecture of the zoo through the compiler into ncnn: does it convert, load and agree with onnxruntime?

    python bench/ncnn_zoo.py [NAME …] [--write]

At nano width, at 320×320, 640×640 and 320×448, each four times: as it is; half of its channels pruned; pruned with the
widths that `snap auto` takes; and pruned, then padded with zero channels to multiples of 8. Each pair is written with
fp32 weights and run in a child process next to the very graph it was made from, on uniform noise. The figure is the
worst element of any output, over that output's standard deviation; it has to be below 1e-3. The control is the same
pair with its middle convolution's weights 1 % off: it has to show ten times as much.
With --write: bench/results/ncnn_zoo.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxslim_yolo.emit.ncnn.emitter import NcnnModel, emit_ncnn
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.graph import nodes_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.pipeline import parse_pipeline
from onnxslim_yolo.verify.compare import spoiled
from onnxslim_yolo.verify.ncnn_compare import compare_outputs
from tests import zoo

RESULTS = Path(__file__).parent / "results"
SIZES = ((320, 320), (640, 640), (320, 448))
FUSE = "reparam,fold-bn,fold-affine,conv-before-resize,silu,pad-pool,canonicalise"
VARIANTS = {
    "as it is": FUSE,
    "pruned": f"prune{{ratio=0.5}},absorb,slice,{FUSE}",
    "snapped": f"prune{{ratio=0.5}},snap,absorb,slice,{FUSE}",
    "padded": f"prune{{ratio=0.5}},absorb,slice,snap{{to=8 odd=up}},slice,{FUSE}",
}
LIMIT = 1e-3


def compiled(name: str, size: tuple[int, int], pipeline: str) -> Model:
    """An export with open sizes, prepared for `size` and taken through a pipeline."""
    model = Model.from_onnx(onnx.load_from_string(zoo.onnx_bytes(name, nc=80, width=1.0, dynamic=True)))
    prepare = (
        f"canonicalise{{height={size[0]} width={size[1]}}},shuffle-to-gather,canonicalise,focus-to-conv,spp-to-sppf"
    )
    PassManager(parse_pipeline(f"{prepare},{pipeline}")).run(model)
    return model


def difference(model: Model, pair: NcnnModel) -> float:
    """The worst relative difference between a pair and a graph."""
    rng = np.random.default_rng(0)
    feeds = {port.onnx: rng.random(port.shape, dtype=np.float32) for port in pair.inputs.values()}
    return max(float(found.relative) for found in compare_outputs(model, pair, [feeds], timeout=120))


def row(name: str, size: tuple[int, int], variant: str) -> dict[str, Any]:
    """One case."""
    found: dict[str, Any] = {"model": name, "size": f"{size[0]}x{size[1]}", "widths": variant}
    try:
        model = compiled(name, size, VARIANTS[variant])
        pair = emit_ncnn(model, weights="fp32")
        found["difference"] = difference(model, pair)
        if size == SIZES[0]:
            convolutions = nodes_of(model.graph, "Conv")
            wrong = spoiled(model, convolutions[len(convolutions) // 2].name)
            found["control"] = difference(model, emit_ncnn(wrong, weights="fp32"))
        found["cut"] = list(pair.cut)
    except OnnxSlimError as error:
        found["refused"] = str(error).splitlines()[0]
    return found


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """A line per architecture: the worst of each kind of widths over the sizes."""
    lines = [
        "# Every architecture in ncnn",
        "",
        "Worst difference from onnxruntime over the output's spread, fp32 weights, at 320×320, 640×640 and 320×448;",
        f"the limit is {LIMIT:g}. Control: the middle convolution's weights 1 % off.",
        "Made by `python bench/ncnn_zoo.py --write`. The weights are random: where the control shows many times the",
        "output's spread, the network amplifies rounding as well, and passes the limit for that: v5lite-c, yolov7-rep;",
        "where it shows next to nothing, pruning at random has left little to see (classifiers, yolov9t, yolo11n).",
        "",
        "| architecture | " + " | ".join(VARIANTS) + " | least control |",
        "|---|" + "---|" * (len(VARIANTS) + 1),
    ]
    for name in dict.fromkeys(each["model"] for each in rows):
        own = [each for each in rows if each["model"] == name]
        cells = []
        for variant in VARIANTS:
            these = [each for each in own if each["widths"] == variant]
            bad = [each["refused"] for each in these if "refused" in each]
            cells.append(f"refused: {bad[0]}" if bad else f"{max(each['difference'] for each in these):.1e}")
        controls = [each["control"] for each in own if "control" in each]
        lines.append(f"| {name} | " + " | ".join(cells) + (f" | {min(controls):.1e} |" if controls else " | |"))
    return "\n".join(lines) + "\n"


def main() -> int:
    """The command line; status 1 if a case differs or a control is not seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in arguments.names or zoo.NAMES:
        for size in SIZES:
            for variant in VARIANTS:
                rows.append(row(name, size, variant))
                print(json.dumps(rows[-1]), flush=True)
    if arguments.write:
        (RESULTS / "ncnn_zoo.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "ncnn_zoo.md").write_text(as_markdown(rows), encoding="utf-8")
    wrong = [
        each
        for each in rows
        if each.get("difference", 0) > LIMIT or each.get("control", 1) < 10 * each.get("difference", 0)
    ]
    print(f"{len(rows)} cases, {len(wrong)} wrong", *map(json.dumps, wrong), sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
