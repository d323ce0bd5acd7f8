"""What int8 is worth on a Pi 5 and a Pi 4 by the tables of counted instructions, and how far those tell it.

    python bench/arm_int8_gain.py        writes bench/results/arm_int8_gain.md

Three parts: the ratio int8 / float of networks that ncnn publishes in both, beside what the instruction model says of
each, fitted without it (bench/results/arm_latency.json); layers by kind and narrower width, as the shipped tables have
them; whole networks by these tables, all of them in int8, and only the layers that `--quantize int8` picks by speed.
Needs ../shared/material for FastestDet. The tables' int8 times are made by

    python bench/arm_tables.py count a76 --int8 yolov5n@320 FastestDet.onnx
    python bench/arm_tables.py write a76 --int8 yolov5n@320 FastestDet.onnx      (a72 likewise)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from arm_tables import DEVICE, model_named
from arm_weights import TITLE
from random_widths import fused, prepared

from onnxslim_yolo.ir.graph import Node
from onnxslim_yolo.latency.int8 import clips, float_form, gives_codes, int8_us, is_int8
from onnxslim_yolo.latency.layers import LayerKey, describe
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.latency.table import LatencyTable, cell_widths
from onnxslim_yolo.measure.int8_profile import everything
from onnxslim_yolo.quantisation.latency import faster_layers, plan_prediction

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FASTESTDET = HERE.parents[1] / "shared" / "material" / "weights" / "FastestDet.onnx"
NETWORKS = ("yolov5n@320", "yolov8n@320", "yolo11n@320", str(FASTESTDET))
BANDS = (16, 32, 64, 1 << 20)
PICKED = "| network | float | all in int8 | as picked | layers picked |"


def main() -> None:
    """Write the page."""
    lines = ["# int8 on ARM, by counted instructions", "", "`python bench/arm_int8_gain.py`. Time in int8 / as floats."]
    boards = json.loads((RESULTS / "arm_latency.json").read_text())
    for core, device in DEVICE.items():
        table = table_for("ncnn", device)
        lines += ["", f"## {TITLE[core]}", "", "| network | published | predicted | off |", "|---|---|---|---|"]
        lines += published(boards[core]["networks"])
        lines += ["", "| layer | narrower side | layers | 10 % | median | 90 % |", "|---|---|---|---|---|---|"]
        lines += list(by_kind(table))
        lines += ["", PICKED, "|---|---|---|---|---|"]
        lines += [whole(name, table) for name in NETWORKS if "@" in name or Path(name).is_file()]
    text = "\n".join([*lines, ""])
    (RESULTS / "arm_int8_gain.md").write_text(text)
    print(text)


def published(networks: list[dict[str, object]]) -> list[str]:
    """Networks that are timed in both, by what was fitted without them."""
    known, lines, errors = {str(row["name"]): row for row in networks}, [], []
    for name, row in known.items():
        if f"{name}_int8" not in known:
            continue
        there, here = (known[f"{name}_int8"][key] / row[key] for key in ("published ms", "held out ms"))
        errors.append(abs(here / there - 1))
        lines.append(f"| {name} | {there:.2f} | {here:.2f} | {here / there - 1:+.0%} |")
    return [*lines, f"| median | | | {np.median(errors):.0%} |"]


def by_kind(table: LatencyTable) -> Iterator[str]:
    """Cells of the table against their float forms, by the narrower of their widths."""
    found: dict[tuple[str, int], list[float]] = {}
    for family, grid in table.families.items():
        if not is_int8(family) or gives_codes(family) or clips(family):
            continue
        plain = float_form(family)
        name = f"{family.kind} {plain.kernel[0]}×{plain.kernel[1]}/{plain.stride[0]}"
        for cell in grid.us:
            key = LayerKey(plain, *cell_widths(plain, cell))
            if min(cell) % table.blocks:
                continue  # what is compared is the kernels, and not how floats of such a width are laid out
            us, band = int8_us(table, key), next(band for band in BANDS if min(cell) <= band)
            assert us is not None
            found.setdefault((name, band), []).append(us / table.predict(key))
    for (name, band), ratios in sorted(found.items()):
        low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
        side = f"≤ {band}" if band != BANDS[-1] else f"> {BANDS[-2]}"
        yield f"| {name} | {side} | {len(ratios)} | {low:.2f} | {middle:.2f} | {high:.2f} |"


def whole(name: str, table: LatencyTable) -> str:
    """A network as floats, all in int8, and with the layers on which that gains."""
    made = everything(fused(prepared(model_named(name))).graph)
    assert made is not None and made.quantised is not None
    every = plan_prediction(made.graph, table, made.quantised)
    wanted, picked = faster_layers(made, table, lambda node: None)
    kinds = {layer.node.name: kind_of(layer.key) for layer in describe(made.graph)}
    nodes: list[Node] = [node for node in made.graph.nodes if node.name in made.quantised.layers]
    of, taken = (Counter(kinds[node.name] for node in some) for some in (nodes, [n for n in nodes if not wanted(n)]))
    said = ", ".join(f"{taken[kind]} of {count} {kind}" for kind, count in sorted(of.items()))
    ms = every.float_us / 1e3
    return f"| {Path(name).name} | {ms:.1f} ms | {every.left:.2f} | {picked.left:.2f} | {said} |"


def kind_of(key: LayerKey) -> str:
    """A layer's kind in words."""
    family = key.family
    return (
        f"{'depthwise ' if family.kind == 'depthwise' else ''}{family.kernel[0]}×{family.kernel[1]}/{family.stride[0]}"
    )


if __name__ == "__main__":
    main()
