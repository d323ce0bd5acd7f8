"""Latency tables of ARM cores from counted instructions: ncnn-neon-fp16.json and ncnn-neon.json.

    python bench/arm_tables.py CORE MODEL@SIZE… [--cells FILE] [--out FILE]

    python bench/arm_tables.py a76 yolov5n@320 yolov8n@320        with fp16 arithmetic
    python bench/arm_tables.py a72 yolov5n@320 yolov8n@320        fp32

What is counted is kept in --cells as it comes, and not counted again. Needs bench/arm_setup.py and arm_counter.sh. A
table holds instructions times the nanoseconds that one took on a board in the median of ncnn's published networks: its
ratios are what it is for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from arm_counting import Counter
from models_for_bench import model_of
from random_widths import fused, prepared

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.latency.layers import LayerKey, layers_of
from onnxslim_yolo.latency.packing import Runtime, blocks_of
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.latency.table_format import write_table
from onnxslim_yolo.measure.profile import Whole, calibrate, families_of, measure_families

ISA = {"a76": "neon-fp16", "a72": "neon"}
CPU = {
    "a76": "Cortex-A76 (Pi 5) by counted instructions, not timed",
    "a72": "Cortex-A72 (Pi 4) by counted instructions, not timed",
}
RUNTIME: Runtime = "ncnn"


class Cells:
    """µs per layer, counted or remembered."""

    def __init__(self, counter: Counter, file: Path) -> None:
        self.counter, self.file = counter, file
        self.known: dict[str, float | None] = {}
        if file.is_file():
            self.known = dict(json.loads(line) for line in file.read_text().splitlines())

    def __call__(self, keys: Sequence[LayerKey]) -> list[float | None]:
        with self.file.open("a") as stream:
            for key in keys:
                name = repr(key)
                if name not in self.known:
                    self.known[name] = self.counter([key])[0]
                    stream.write(json.dumps([name, self.known[name]]) + "\n")
                    stream.flush()
        return [self.known[repr(key)] for key in keys]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("core", choices=sorted(ISA))
    parser.add_argument("models", nargs="+")
    parser.add_argument("--cells", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    isa = ISA[options.core]
    models = [prepared(model_of(name, int(size))) for name, size in (text.split("@") for text in options.models)]
    with Counter(options.core) as counter:
        cells = Cells(counter, options.cells or Path(f"cells-{options.core}.jsonl"))
        families = families_of([model.graph for model in models])
        grids = measure_families(families, RUNTIME, blocks_of(RUNTIME, isa), cells, progress)
        table = LatencyTable(RUNTIME, isa, 1, version(RUNTIME), CPU[options.core], grids)
        wholes = []
        for model in models:
            with tempfile.TemporaryDirectory() as folder:
                whole = counter.whole(*write_pair(emit_ncnn(fused(model.copy())), Path(folder)), [shape_of(model)])
            keys = layers_of(model.graph)
            if whole is not None:
                us = sum(whole) * counter.ns / 1e3
                wholes.append(Whole(us, table.predict_layers(keys), len(keys)))
                print(f"{model.source.file}: {sum(whole) / 1e6:.1f} M instructions, {wholes[-1]}")
    scale, overhead = calibrate(wholes)
    path = options.out or Path(f"{RUNTIME}-{isa}.json")
    print(write_table(replace(table, scale=scale, overhead=overhead, _cache={}), path))


def shape_of(model: object) -> list[int]:
    return [int(side) for side in model.graph.inputs[0].shape[1:]]


def progress(done: int, total: int) -> None:
    if done % 240 == 0:
        print(f"{done} of {total}", flush=True)


if __name__ == "__main__":
    main()
