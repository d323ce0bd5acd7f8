"""Every architecture of the zoo in int8, in both runtimes: does it load, and compute what its plan says?

    python bench/int8_zoo.py [NAME …] [--write]

At half the nano width and 64×64, random weights: all that can be is made int8 from eight made images, written, and
each of its codes held against the simulation (`verify.quantised`), in int8 kernels and without them. The figures are by
how much the worst code is more than half a step off (0.002 is allowed), how many layers have an int8 kernel of how many
that are int8, how many layers do not show the control (weights 1 % off), or why it is refused. The NCNN pair's layers
are computed anew from what ncnn's read (`verify.ncnn_int8`, 0.001 of a spread is allowed, with its own control).
With --write: bench/results/int8_zoo.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.pipeline import parse_pipeline
from onnxslim_yolo.quantisation.choose import quantise
from onnxslim_yolo.quantisation.equalise import equalise
from onnxslim_yolo.quantisation.plan import reasons
from onnxslim_yolo.quantisation.qdq import quantised_graph
from onnxslim_yolo.runtime.onnx_run import image_like_feeds
from onnxslim_yolo.verify.files import as_cut
from onnxslim_yolo.verify.ncnn_int8 import verify_int8_pair
from onnxslim_yolo.verify.quantised import verify_quantised
from tests import zoo

RESULTS = Path(__file__).parent / "results"
PASSES = (
    "canonicalise,shuffle-to-gather,canonicalise,focus-to-conv,spp-to-sppf,reparam,fold-bn,fold-affine,silu,pad-pool"
)


def row(name: str) -> dict[str, Any]:
    """One architecture."""
    model = Model.from_onnx(onnx.load_from_string(zoo.onnx_bytes(name)))
    try:
        PassManager(parse_pipeline(PASSES)).run(model)
        image = model.graph.inputs[0].name
        plan = quantise(model, [feed[image] for feed in image_like_feeds(model, 8, seed=1)])
        equalise(model, plan.links)
        with tempfile.TemporaryDirectory() as folder:
            file = quantised_graph(model, plan).save(Path(folder) / "net.onnx")
            found = verify_quantised(model, plan, file, image_like_feeds(model, 2))
            model.quantised = plan
            pair = in_ncnn(model, Path(folder))
    except OnnxSlimError as error:
        return {"refused": error.message}
    return {
        "layers": len(plan.layers),
        "kernels": found.kernels,
        "worst": max(check.worst for check in found.checks if check.label.startswith("simulation")),
        "decode": max(check.worst for check in found.checks if check.label.startswith("decode")),
        "blind": len(found.blind),
        "ranges": plan.chosen,
        "equalised": len(plan.links),
        "float": reasons(plan.left.values()),
        "ncnn": pair,
    }


def in_ncnn(model: Model, folder: Path) -> dict[str, Any]:
    """The pair's layers, and by how much the worst is off; or why there is none."""
    try:
        pair = emit_ncnn(model)
        checks = verify_int8_pair(as_cut(model, pair), pair, write_pair(pair, folder), image_like_feeds(model, 1))
    except OnnxSlimError as error:
        return {"refused": error.message}
    return {
        "layers": len(pair.int8),
        "worst": max(check.worst for check in checks if check.label.startswith("simulation")),
        "float": [note.removeprefix("int8: ") for note in pair.notes if note.startswith("int8: ") and "stay" in note],
    }


def main() -> None:
    """Run and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=zoo.NAMES)
    parser.add_argument("--write", action="store_true")
    parsed = parser.parse_args()
    rows: dict[str, Any] = {}
    for name in parsed.names:
        rows[name] = row(name)
        print(name, rows[name], flush=True)
        if parsed.write:
            RESULTS.joinpath("int8_zoo.json").write_text(json.dumps(rows, indent=1) + "\n")
    if parsed.write:
        RESULTS.joinpath("int8_zoo.md").write_text(table(rows))


def table(rows: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "| architecture | int8 layers | with a kernel | worst code off by, steps | decode off by | blind | "
        "in the pair | worst layer off by | float | float in the pair alone |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, each in rows.items():
        if "refused" in each:
            lines.append(f"| {name} | refused: {each['refused']} | | | | | | | | |")
            continue
        left = "; ".join(f"{number}: {why}" for why, number in each["float"].items())
        figures = f"{each['worst']:.1e} | {each['decode']:.1e} | {each['blind']}"
        pair = each["ncnn"]
        there = f"refused: {pair['refused']} | " if "refused" in pair else f"{pair['layers']} | {pair['worst']:.1e}"
        cells = [name, each["layers"], each["kernels"], figures, there, left, "; ".join(pair.get("float", ()))]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "# The zoo in int8, in onnxruntime and ncnn\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
