"""Latency tables of ARM cores from counted instructions: ncnn-pi5.json (fp16 arithmetic) and ncnn-pi4.json (fp32).

    python bench/arm_tables.py count a76|a72 MODEL…     layers and whole networks, into --cells
    python bench/arm_tables.py write a76|a72 MODEL…     the table, by the weights in bench/results/arm_latency.json
    python bench/arm_tables.py write a76|a72 --int8 MODEL…      its int8 times alone; floats stay as they were written
    … --bf16  (behind the networks)                     of ncnn set to bf16: ncnn-pi5-bf16.json, ncnn-pi4-bf16.json
    python bench/arm_tables.py sample a76|a72           some of the layers, for tests/latency/test_counted.py
    python bench/arm_tables.py judge                    the analytic model against all of them: results/arm_formula.md

MODEL: NAME@SIZE of models/zoo, or a file.

What is counted is kept as it comes, and not counted again. Needs bench/arm_setup.py and arm_counter.sh. A table holds
microseconds by the model that ncnn's published times were fitted with (see arm_latency.py): its ratios are what it is
for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from arm_counting import Counter
from arm_maps import layers_of_param
from arm_setup import default_root
from arm_weights import TITLE, Weights
from models_for_bench import model_of
from random_widths import fused, prepared, with_random_widths

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.analytic import AnalyticModel
from onnxslim_yolo.latency.int8 import is_int8
from onnxslim_yolo.latency.layers import Family, LayerKey, layers_of
from onnxslim_yolo.latency.packing import Runtime, blocks_of
from onnxslim_yolo.latency.shipped import DATA
from onnxslim_yolo.latency.table import LatencyTable
from onnxslim_yolo.latency.table_format import read_table, write_table
from onnxslim_yolo.load import load
from onnxslim_yolo.measure import sampling
from onnxslim_yolo.measure.int8_profile import calibrated_int8
from onnxslim_yolo.measure.profile import Whole, calibrate, families_of, measure_families
from onnxslim_yolo.quantisation.plan import Quantisation

ISA = {"a76": "neon-fp16", "a72": "neon"}
CPU = {"a76": "a Raspberry Pi 5's Cortex-A76", "a72": "a Raspberry Pi 4's Cortex-A72"}
DEVICE = {"a76": "pi5", "a72": "pi4"}
RUNTIME: Runtime = "ncnn"
SAMPLES = {
    8: (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512),
    4: (4, 12, 28, 60, 124, 252, 508),
    1: (1, 3, 5, 7, 13, 21, 35, 57, 93, 151, 255, 509),
}
"""Fewer than `profile` measures: counts have no noise, and within a class they are smooth."""
SAMPLED = 90
CALL = 2.0
"""µs a layer, about what `calibrate` finds."""
RANDOM_WIDTHS = ((1000, 1), (1001, 4), (1002, 8))
"""Seeds and steps of the random assignments that take part in the calibration."""


class Cells:
    """Instructions by class of layers and networks, counted or remembered."""

    def __init__(self, file: Path, counter: Counter | None, weights: Weights | None = None) -> None:
        self.counter, self.file, self.weights = counter, file, weights
        self.bf16 = counter.bf16 if counter is not None else weights is not None and weights.bf16
        self.known: dict[str, Any] = {}
        if file.is_file():
            self.known = dict(json.loads(line) for line in file.read_text().splitlines())

    def __call__(self, keys: Sequence[LayerKey]) -> list[float | None]:
        """µs of layers: by the weights, or, while counting, by instructions alone."""
        return [self._us(key) for key in keys]

    def _us(self, key: LayerKey) -> float | None:
        name = repr(key)
        if name not in self.known and self.counter is not None:
            self._keep(name, self.counter.layer(key))
        counts = self.known.get(name)
        if counts is None:
            return None
        return sum(counts) / 1e3 if self.weights is None else self.weights.us([counts], [key])

    def whole(self, name: str, model: Model) -> list[list[int]] | None:
        """Of a network, written as a pair, layer by layer."""
        name = f"layers of {name}"
        if name not in self.known and self.counter is not None:
            self._keep(name, counted_by_layer(self.counter, model))
        return self.known.get(name)

    def _keep(self, name: str, counts: list[Any] | None) -> None:
        self.known[name] = counts
        with self.file.open("a") as stream:
            stream.write(json.dumps([name, counts]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("count", "write", "sample", "judge"))
    parser.add_argument("core", nargs="?", choices=sorted(ISA))
    parser.add_argument("models", nargs="*")
    parser.add_argument("--int8", nargs="*", default=[], help="networks whose layers are wanted in int8 as well")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--cells", type=Path)
    parser.add_argument("--out", type=Path, default=DATA)
    options = parser.parse_args()
    if options.job == "judge":
        judge()
        return
    bf16 = "-bf16" if options.bf16 else ""
    file = options.cells or default_root() / f"classes-{options.core}{bf16}.jsonl"
    if options.job == "count":
        with Counter(options.core, half=not bf16, bf16=bool(bf16)) as counter:
            table_of(options.core, options.models, Cells(file, counter), options.int8)
        return
    if options.job == "sample":
        sample(options.core, Cells(file, None, Weights.read(options.core)))
        return
    cells = Cells(file, None, Weights.read(options.core, bf16=bool(bf16)))
    path = options.out / f"{RUNTIME}-{DEVICE[options.core]}{bf16}.json"
    floats = None if options.models else read_table(path)
    write_table(table_of(options.core, options.models, cells, options.int8, floats), path)
    table = read_table(path)
    count = sum(len(grid.us) for grid in table.families.values())
    print(f"{path}: {len(table.families)} families, {count} layers, {path.stat().st_size / 1024:.0f} KB, ", end="")
    print(f"scale {table.scale:.3f}, {table.overhead:.2f} µs a layer")


def table_of(
    core: str, models: Sequence[str], cells: Cells, int8: Sequence[str] = (), floats: LatencyTable | None = None
) -> LatencyTable:
    """The table of these networks' layers, calibrated on them as wholes; of some of them in int8 as well.

    `floats`: a table that has the float layers, of no other networks then.
    """
    named = [(Path(name).name, prepared(model_named(name))) for name in models]
    sampling.SAMPLES.clear()
    sampling.SAMPLES.update(SAMPLES)
    families = families_of([model.graph for _, model in named])
    graphs = [fused(prepared(model_named(name))).graph for name in int8]
    families |= {f: most for f, most in families_of(graphs, RUNTIME).items() if is_int8(f)}
    isa = "neon" if cells.bf16 else ISA[core]
    grids = measure_families(families, RUNTIME, blocks_of(RUNTIME, isa), cells, progress)
    method = cells.weights.about if cells.weights is not None else ""
    table = LatencyTable(RUNTIME, isa, 1, version(RUNTIME), CPU[core], grids, method=method)
    wholes = []
    for name, model in named:
        for label, variant in variants(name, model):
            counts, keys = cells.whole(label, variant), layers_of(variant.graph)
            if counts is not None and cells.weights is not None:
                us = cells.weights.us(counts, keys)
                wholes.append(Whole(us, table.predict_layers(keys), len(keys)))
                total = sum(map(sum, counts)) / 1e6
                print(f"{label}: {total:.1f} M, {us / 1e3:.2f} ms, layers {wholes[-1].sum_us / 1e3:.2f} ms")
    if floats is None:
        scale, overhead = calibrate(wholes)
        table = replace(table, scale=scale, overhead=overhead, _cache={})
    else:
        known = {family: grid for family, grid in floats.families.items() if not is_int8(family)}
        table = replace(floats, families=known | grids, _cache={}, _corrections={})
    labels = iter(int8)

    def whole(graph: gs.Graph, quantised: Quantisation | None) -> float | None:
        counts = cells.whole(f"int8 {Path(next(labels)).name}", Model(graph=graph, quantised=quantised))
        return None if counts is None or cells.weights is None else cells.weights.us(counts, layers_of(graph))

    return calibrated_int8(table, graphs, whole) if graphs else table


def counted_by_layer(counter: Counter, model: Model) -> list[list[int]] | None:
    """Instructions by class of each layer of a network as it is written for the counter's core."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = counter.core == "a76"
        pair = emit_ncnn(model, half=fresh and not counter.bf16, dot_products=fresh)
        param, _ = write_pair(pair, Path(folder))
        made = [layer.made for layer in layers_of_param(param) if layer.type != "Input"]
        return counter.by_blob(param, [shape_of(model)], made)


def model_named(text: str) -> Model:
    """NAME@SIZE of the zoo, or a file, whose @SIZE says what it leaves open."""
    name, _, size = text.partition("@")
    if Path(name).is_file():
        return load(Path(name), imgsz=(int(size), int(size)) if size else None)
    return model_of(name, int(size))


def variants(name: str, model: Model) -> Iterator[tuple[str, Model]]:
    """The network as it is, and at random widths."""
    yield f"whole {name}", fused(model.copy())
    for seed, step in RANDOM_WIDTHS:
        yield f"whole {name} random {seed} step {step}", with_random_widths(model, seed, step)


def layers_counted(cells: Cells) -> list[LayerKey]:
    """The layers among what was counted, by name."""
    known = {"LayerKey": LayerKey, "Family": Family}
    names = sorted(name for name, counts in cells.known.items() if name.startswith("LayerKey(") and counts)
    return [eval(name, known) for name in names]


def sample(core: str, cells: Cells) -> None:
    """Every so many layers, in the order of their names, so that all kinds are there."""
    keys = layers_counted(cells)
    keys = keys[:: len(keys) // SAMPLED]
    rows = [
        json.dumps([(f := k.family).kind, f.op, f.kernel, f.stride, f.size, k.ins, k.outs, round(us, 2)])
        for k, us in zip(keys, cells(keys), strict=True)
        if us is not None
    ]
    file = Path(__file__).parents[1] / "tests" / "latency" / f"counted-{DEVICE[core]}.json"
    file.write_text("[" + ",\n ".join(rows) + "]\n")


def judge() -> None:
    """Rank correlation and ratio of the analytic model, over all kinds and by kind; by it no table is read."""
    lines = [
        "# The formula for ARM against counted layers",
        "",
        "`python bench/arm_tables.py judge`: ncnn, one layer a",
    ]
    lines[2] += f" network, {CALL} µs a call added, as whole networks take it."
    for core, isa in ISA.items():
        cells = Cells(default_root() / f"classes-{core}.jsonl", None, Weights.read(core))
        keys = layers_counted(cells)
        model, counted = AnalyticModel(RUNTIME, isa), cells(keys)
        pairs = [(key, us + CALL, model.predict(key)) for key, us in zip(keys, counted, strict=True) if us is not None]
        groups = {"all": pairs}
        for pair in pairs:
            family = pair[0].family
            kernel = f" {family.kernel[0]}×{family.kernel[1]}/{family.stride[0]}" if family.kernel != (1, 1) else ""
            groups.setdefault(f"{family.kind}{kernel} {family.op}".strip(), []).append(pair)
        lines += ["", f"## {TITLE[core]}", ""]
        lines += ["| | layers | rank correlation | predicted ÷ counted, 10 % | median | 90 % |"]
        lines += ["|---|---|---|---|---|---|"]
        for name, group in groups.items():
            us, guess = np.array([[a, b] for _, a, b in group]).T
            ranks = [np.argsort(np.argsort(values)) for values in (us, guess)]
            rank = np.corrcoef(ranks[0], ranks[1])[0, 1] if len(us) > 9 else np.nan
            low, middle, high = np.quantile(guess / us, [0.1, 0.5, 0.9])
            lines.append(f"| {name} | {len(us)} | {rank:.3f} | {low:.2f} | {middle:.2f} | {high:.2f} |")
    text = "\n".join([*lines, ""])
    (Path(__file__).with_name("results") / "arm_formula.md").write_text(text)
    print(text)


def shape_of(model: Model) -> list[int]:
    return [int(side) for side in model.graph.inputs[0].shape[1:]]


def progress(done: int, total: int) -> None:
    if done % 240 == 0:
        print(f"{done} of {total}", flush=True)


if __name__ == "__main__":
    main()
