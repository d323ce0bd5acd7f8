"""Where instructions go in whole networks on a Pi 5 and a Pi 4: blob by blob, by what kind of layer makes it.

    python bench/arm_blobs.py count a76|a72 [NAME@SIZE …]     bench/results/arm_blobs.json
    python bench/arm_blobs.py report                          bench/results/arm_blobs.md

Networks as compiled with --prune 0, boxes decoded. Multiplying: convolutions and products of matrices. Calling: what a
Split takes, which computes nothing, times all layers: ncnn's own scheduling, one thread. With four threads, what every
layer adds is fitted to ncnn's published times of one and four: ms₄ = share · ms₁ + call · layers, all networks. Needs
bench/arm_setup.py, arm_counter.sh, and for the report a checkout of ncnn at --ncnn.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path

import numpy as np
from arm_boards import rows as published_rows
from arm_counting import Counter
from arm_latency import BOARDS
from arm_maps import layers_of_param
from arm_rewrites import rewrites
from arm_setup import default_root
from arm_tables import DEVICE, shape_of
from arm_weights import TITLE, Weights
from models_for_bench import model_of

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency import table_for
from onnxslim_yolo.latency.layers import layers_of

RESULTS = Path(__file__).with_name("results")
NETWORKS = ("yolov5n@320", "yolov8n@320", "yolo11n@320", "yolo26n@320")
MULTIPLYING = ("Convolution", "ConvolutionDepthWise", "Deconvolution", "InnerProduct", "MatMul", "Gemm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("count", "report"))
    parser.add_argument("core", nargs="?", choices=sorted(DEVICE))
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--ncnn", type=Path, default=default_root() / "ncnn")
    options = parser.parse_args()
    file = RESULTS / "arm_blobs.json"
    found = json.loads(file.read_text()) if file.is_file() else []
    if options.job == "count":
        with Counter(options.core) as counter:
            for name in options.networks:
                facts = {"network": name, "core": options.core, **counted(name, options.core, counter)}
                found = [b for b in found if (b["network"], b["core"]) != (name, options.core)] + [facts]
                file.write_text(json.dumps(found, indent=1) + "\n")
        return
    text = report(found, options.ncnn / "benchmark")
    (RESULTS / "arm_blobs.md").write_text(text)
    print(text)


def counted(name: str, core: str, counter: Counter) -> dict[str, object]:
    """Layers, instructions and µs by ncnn's type of layer."""
    model, weights = compiled(name, core), Weights.read(core)
    with tempfile.TemporaryDirectory() as folder:
        param, _ = write_pair(emit_ncnn(model, half=core == "a76"), Path(folder))
        blobs = [(layer.type, layer.made) for layer in layers_of_param(param) if layer.type != "Input"]
        counts = counter.by_blob(param, [shape_of(model)], [made for _, made in blobs])
    if counts is None:
        raise ValueError(f"{name}: ncnn does not run it")
    types: dict[str, list[float]] = {}
    for (kind, _), each in zip(blobs, counts, strict=True):
        row = types.setdefault(kind, [0, 0, 0.0])
        row[0] += 1
        row[1] += sum(each)
        row[2] += weights.us([each], [])
    return {"types": {kind: [*row[:2], round(row[2], 1)] for kind, row in types.items()}}


def compiled(name: str, core: str) -> Model:
    """A network as it is written with --prune 0, its boxes decoded."""
    stem, _, size = name.partition("@")
    model = model_of(stem, int(size), head="decoded")
    for step in rewrites(core):
        step.run(model)
    return model


def report(found: list[dict], benchmark: Path) -> str:
    lines = ["# Where instructions go on ARM", "", "`python bench/arm_blobs.py`. Counted blob by blob, one thread;"]
    lines[2] += " nothing was timed. Calling: a Split's instructions, which computes nothing, times all layers."
    for block in sorted(found, key=lambda b: (b["core"], b["network"])):
        types, core = block["types"], block["core"]
        keys = layers_of(compiled(block["network"], core).graph)
        memory = Weights.read(core).us([], keys)
        told = table_for("ncnn", DEVICE[core]).predict_layers(keys)
        total, us = (sum(row[i] for row in types.values()) for i in (1, 2))
        layers = sum(row[0] for row in types.values())
        multiplying = sum(row[1] for kind, row in types.items() if kind in MULTIPLYING)
        splits = types["Split"]
        calling = layers * splits[1] / splits[0]
        lines += ["", f"## {block['network']}, {TITLE[block['core']]}", ""]
        lines += [
            f"{layers} layers, {total / 1e6:.1f}·10⁶ instructions: multiplying {multiplying / total:.1%}, calling "
            f"{calling / total:.2%}. By the model {(us + memory) / 1e3:.2f} ms; by the device's table "
            f"{told / 1e3:.2f} ms.",
        ]
        lines += ["", "| ncnn's layer | number | 10⁶ instructions | share | ms |", "|---|---|---|---|---|"]
        for kind, (number, n, each) in sorted(types.items(), key=lambda item: -item[1][1]):
            if n > total / 500:
                lines.append(f"| {kind} | {number} | {n / 1e6:.2f} | {n / total:.1%} | {each / 1e3:.2f} |")
    return "\n".join([*lines, "", *threads(benchmark), ""])


def threads(benchmark: Path) -> list[str]:
    """What each layer adds with four threads, by published times."""
    readme = (benchmark / "README.md").read_text()
    lines = ["## Four threads, by published times", ""]
    lines += ["| board | networks | share of one thread's time | µs a layer | median error | FastestDet's layers |"]
    lines += ["|---|---|---|---|---|---|"]
    for core, title in BOARDS.items():
        section = readme[readme.index(f"### {title}") :]
        runs = re.split(r"(?=loop_count = )", section[: section.index("\n### ", 1)])[1:]
        four, one = (
            next(dict(published_rows(run)) for run in runs if re.search(rf"num_threads = {n}\b", run)) for n in (4, 1)
        )
        names = [name for name in one if name in four and (benchmark / "models" / f"{name}.param").is_file()]
        count = {name: len(list(layers_of_param(benchmark / "models" / f"{name}.param"))) for name in names}
        rows = np.array([[one[name], count[name] / 1e3] for name in names])
        ms = np.array([four[name] for name in names])
        (share, call), *_ = np.linalg.lstsq(rows / ms[:, None], np.ones(len(ms)), rcond=None)
        error = np.median(np.abs(rows @ [share, call] / ms - 1))
        part = call * count["FastestDet"] / 1e3 / four["FastestDet"]
        lines.append(f"| {TITLE[core]} | {len(ms)} | {share:.2f} | {call:.1f} | {error:.1%} | {part:.0%} of its time |")
    return lines


if __name__ == "__main__":
    main()
