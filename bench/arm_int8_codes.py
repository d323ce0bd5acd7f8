"""What int8 layers that hand on codes gain on a Pi 5 and a Pi 4, in counted instructions of whole pairs.

    python bench/arm_int8_codes.py [--before FOLDER] ["yolov6n, 320 px" …]      networks of bench/int8_codes.py
    python bench/arm_int8_codes.py --write       counts what the tables know of it anew, and calibrates their int8 times

Each network as three pairs (in float; all in int8 that can be, every layer giving out floats; the same handing on codes
where it can, term 101) is run whole under emulation, by bench/arm_counter.sh's qemu. Ratios are of instructions,
and of the slots that these take up (bench/arm_weights.py, here of the network as a whole): no time, which also goes
into moving maps. The last columns are times: of the pair with codes by its layers' slots and bytes, ÷ float, and what
the latency table predicts of it; --before: tables as they were. Writes bench/results/arm_int8_codes.md.

What --write counts are depthwise layers, giving out floats, with the packing anew that these need, and codes, each
also with a result that is clipped. A
convolution's floats need none: codes take it as long, but for less than an instruction a value. Calibrated on the
networks of the table's int8 layers (bench/arm_tables.py), as they are written.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from arm_counting import Counter
from arm_tables import DEVICE, counted_by_layer, model_named
from arm_weights import TITLE, Weights, slots
from int8_codes import MATERIAL, PASSES, network
from random_widths import fused, prepared

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.format import safe_name
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.int8 import clipped_form, clips, codes_form, gives_codes, is_int8, scaled_int8
from onnxslim_yolo.latency.layers import LayerKey, layers_of
from onnxslim_yolo.latency.shipped import DATA
from onnxslim_yolo.latency.table import Grid, LatencyTable
from onnxslim_yolo.latency.table_format import read_table, write_table
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.measure.int8_profile import everything
from onnxslim_yolo.pipeline import parse_pipeline
from onnxslim_yolo.quantisation.latency import plan_prediction

RESULTS = Path(__file__).with_name("results")
CHOSEN = ("FastestDet", "mobilenetv2, 224 px", "yolov6n, 320 px")
CALIBRATED_ON = ("yolov5n@320", str(MATERIAL / "FastestDet.onnx"))


def main() -> None:
    """Count, write the tables of latencies or that of the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=CHOSEN)
    parser.add_argument("--before", type=Path, help="a folder of tables as they were")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = ["# Codes handed on, on ARM", "", "`python bench/arm_int8_codes.py`. Instructions of whole pairs."]
    for core in DEVICE:
        with Counter(core) as counter:
            if options.write:
                write(core, counter)
                continue
            tables = [read_table(folder / file_of(core)) for folder in (options.before, DATA) if folder is not None]
            predicted = " predicted before | predicted |" if len(tables) > 1 else " predicted |"
            lines += ["", f"## {TITLE[core]}", ""]
            lines += [
                "| network | int8 layers | hand on codes | float, 10⁶ | int8 | handing codes on | of int8 without |"
            ]
            lines[-1] += f" the same, slots | of float, slots | of float, time |{predicted}"
            lines += ["|---" * (10 + len(tables)) + "|"]
            for name in options.networks:
                lines.extend(rows(name, network(name), core, counter, tables))
                print(lines[-1], flush=True)
    if not options.write:
        (RESULTS / "arm_int8_codes.md").write_text("\n".join([*lines, ""]))


def file_of(core: str) -> str:
    return f"ncnn-{DEVICE[core]}.json"


def write(core: str, counter: Counter) -> None:
    """The core's table with its depthwise layers' int8 forms counted anew, and all int8 times calibrated anew."""
    path, weights = DATA / file_of(core), Weights.read(core)
    table = read_table(path)
    families = {f: grid for f, grid in table.families.items() if not gives_codes(f) and not clips(f)}
    found, factors = {}, []
    for family in [family for family in families if is_int8(family) and family.kind == "depthwise"]:
        widths = sorted(width for (width,) in families[family].us)
        forms = (family, codes_form(family))
        for form in (*forms, *map(clipped_form, forms)):
            counted = {}
            for width in widths:
                key = LayerKey(form, (width,), (width,))
                counts = counter.layer(key)
                assert counts is not None, key
                counted[(width,)] = weights.us([counts], [key])
            found[form] = Grid(tuple(widths), (), counted)
    for family in [family for family in families if is_int8(family) and family.kind == "conv"]:
        cell = max(families[family].us, key=lambda cell: cell[0] * cell[1])
        key = LayerKey(family, cell[:1], cell[1:])
        counts = counter.layer(key)
        assert counts is not None, key
        factors.append(families[family].us[cell] / weights.us([counts], [key]))
    spread = f"{min(factors):.3f} to {max(factors):.3f}"
    print(f"{core}: int8 times were {np.median(factors):.3f} of what is counted ({spread})")
    plain = scaled_int8(replace(table, families=families, _corrections={}), 1 / float(np.median(factors)))
    plain = replace(plain, families=plain.families | found, _cache={}, _near={}, _corrections={})
    factors = [factor_of(name, core, counter, plain, weights) for name in CALIBRATED_ON]
    print(f"{core}: they are now {np.median(factors):.3f} ({', '.join(f'{factor:.3f}' for factor in factors)})")
    write_table(scaled_int8(plain, float(np.median(factors))), path)


def factor_of(name: str, core: str, counter: Counter, table: LatencyTable, weights: Weights) -> float:
    """By what a network's int8 times are to be multiplied, so that it takes in all what is counted."""
    made = as_written(everything(fused(prepared(model_named(name))).graph), core)
    counts = counted_by_layer(counter, made)
    assert counts is not None and made.quantised is not None
    us = weights.us(counts, layers_of(made.graph))
    one, two = (plan_prediction(made.graph, each, made.quantised).int8_us for each in (table, scaled_int8(table, 2.0)))
    return 1 + (us - one) / (two - one)


def as_written(model: Model | None, core: str) -> Model:
    """The network with those layers in int8 that are so in its pair."""
    assert model is not None and model.quantised is not None
    names = {layer.name for layer in emit_ncnn(model, half=core == "a76", dot_products=core == "a76").int8}
    layers = {name: layer for name, layer in model.quantised.layers.items() if safe_name(name) in names}
    return Model(graph=model.graph, quantised=replace(model.quantised, layers=layers))


def rows(name: str, model: Model, core: str, counter: Counter, tables: list[LatencyTable]) -> Iterator[str]:
    """A network's row; none where nothing of it can be in int8."""
    PassManager(parse_pipeline(PASSES)).run(model)
    whole = everything(model.graph)
    if whole is None:
        return
    of_board = {"half": core == "a76", "dot_products": core == "a76"}
    pairs = {
        "float": emit_ncnn(Model(graph=whole.graph), half=core == "a76"),
        "floats": emit_ncnn(whole, codes=False, **of_board),
        "codes": emit_ncnn(whole, **of_board),
    }
    shapes = [list(port.shape[1:]) for port in pairs["float"].inputs.values()]
    counts = {}
    for label, pair in pairs.items():
        with tempfile.TemporaryDirectory() as folder:
            found = counter.whole(*write_pair(pair, Path(folder)), shapes)
        if found is None:
            raise ValueError(f"{name}: ncnn does not run it as {label}")
        counts[label] = sum(found), slots(core, found)
    handed = sum(layer.output_scale is not None for layer in pairs["codes"].int8)
    plain, without, with_codes = (np.array(counts[label]) for label in ("float", "floats", "codes"))
    gains = with_codes / without
    made = as_written(whole, core)
    times = [counted_by_layer(counter, each) for each in (Model(graph=made.graph), made)]
    keys, weights = layers_of(made.graph), Weights.read(core)
    float_us, us = (weights.us(counts, keys) for counts in times if counts is not None)
    assert made.quantised is not None
    told = [plan_prediction(made.graph, table, made.quantised).left for table in tables]
    yield (
        f"| {name} | {len(pairs['codes'].int8)} | {handed} | {plain[0] / 1e6:.1f} | {without[0] / plain[0]:.2f} | "
        f"{with_codes[0] / plain[0]:.2f} | {gains[0]:.3f} | {gains[1]:.3f} | {with_codes[1] / plain[1]:.2f} | "
        f"{us / float_us:.2f} | {' | '.join(f'{ratio:.2f}' for ratio in told)} |"
    )


if __name__ == "__main__":
    main()
