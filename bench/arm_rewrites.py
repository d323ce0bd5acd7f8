"""What each rewrite of unpruned networks is worth on a Pi 5 and a Pi 4: whole pairs, counted under emulation.

    python bench/arm_rewrites.py a76|a72 [NAME@SIZE …]     bench/results/arm_rewrites.json and .md

"all": as compiled with --prune 0 for that device. A row a rewrite: all but this one, and what it is worth; "none":
BatchNorms folded and nothing else; a rewrite that leaves a network as it is, is named instead. Beside them what pruning
is worth at the same limit: all, and blocks taken out whole ("depth"), or channels ("widths"), to 0.9 of the predicted
latency; these change what the network computes. ms: by arm_latency.py. Needs bench/arm_setup.py and arm_counter.sh.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from arm_counting import Counter
from arm_tables import DEVICE, counted_by_layer, model_named
from arm_weights import TITLE, Weights

from onnxslim_yolo.emit.ncnn import rewrites as ncnn_rewrites
from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.layers import layers_of
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes import FocusToConv, SppToSppf
from onnxslim_yolo.passes.protocol import Pass
from onnxslim_yolo.pipeline import _fusing, preparation, remainder

RESULTS = Path(__file__).with_name("results")
NETWORKS = ("yolov5n@320", "yolov8n@320", "yolo11n@320", "yolo26n@320")
STEM = "stem in phases (ncnn)"
KEPT = ("fold-bn", "canonicalise")
LIMIT = "0.9x"
PRUNED = {"depth": {"depth": "only"}, "widths": {"depth": "none", "snap": "auto"}}
"""Options of what is compared with rewrites."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("core", choices=sorted(DEVICE))
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    options = parser.parse_args()
    file = RESULTS / "arm_rewrites.json"
    found = json.loads(file.read_text()) if file.is_file() else []
    for name in options.networks:
        facts = rows_of(name, options.core)
        found = [b for b in found if (b["network"], b["core"]) != (name, options.core)]
        found.append({"network": name, "core": options.core, **facts})
        file.write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "arm_rewrites.md").write_text(markdown(found))
    print(markdown(found))


def rewrites(core: str) -> list[Pass]:
    options = CompileOptions(prune=0, target="ncnn", device=DEVICE[core])
    return [FocusToConv(), SppToSppf(), *_fusing(options)]


def rows_of(name: str, core: str) -> dict[str, object]:
    """A row a form, "all" first, and the rewrites that change nothing."""
    names = [n for n in (*(step.name for step in rewrites(core)), STEM) if n not in KEPT]
    forms: dict[str, set[str]] = {"all": set(), **{f"without {n}": {n} for n in names}, "none": set(names)}
    rows: list[dict[str, object]] = []
    seen: dict[str, str] = {}
    idle: list[str] = []
    with Counter(core) as counter:
        for form, left_out in forms.items():
            model = model_named(name)
            for step in rewrites(core):
                if step.name not in left_out:
                    step.run(model)
            with ExitStack() as stack:
                if STEM in left_out:
                    stack.enter_context(mock.patch.object(ncnn_rewrites, "split_stems", lambda graph: 0))
                text = emit_ncnn(model, half=core == "a76").param
                if text in seen:
                    idle += [form.removeprefix("without ")] if form != "none" and seen[text] == "all" else []
                    continue
                seen[text] = form
                rows.append(row_of(form, model, core, counter))
        for form, more in PRUNED.items():
            rows.append(row_of(f"{form} to {LIMIT}", pruned(name, core, more), core, counter))
    return {"rows": rows, "idle": sorted(set(idle))}


def pruned(name: str, core: str, more: dict[str, object]) -> Model:
    """The network with blocks or channels gone, as `compile` has it."""
    model = model_named(name)
    options = CompileOptions(target="ncnn", device=DEVICE[core], target_latency=LIMIT, head="raw", **more)
    for step in [*preparation(options), *remainder(options, model)]:
        step.run(model)
    return model


def row_of(form: str, model: Model, core: str, counter: Counter) -> dict[str, object]:
    """What a network takes as it is written."""
    layers = counted_by_layer(counter, model)
    if layers is None:
        raise ValueError(f"{form}: ncnn does not run it")
    ms = Weights.read(core).us(layers, layers_of(model.graph)) / 1e3
    row = {"name": form, "instructions": [sum(column) for column in zip(*layers, strict=True)], "ms": round(ms, 3)}
    print(core, row, flush=True)
    return row


def markdown(found: list[dict]) -> str:
    lines = [
        "# Rewrites of unpruned networks on ARM",
        "",
        "`python bench/arm_rewrites.py`. One thread, counted; nothing",
    ]
    lines[2] += " was timed. Worth: what the network takes with all, over what it takes without this one. Depth and"
    lines[2] += " widths are pruning, of random weights: what their time is worth in accuracy is not said here."
    for block in sorted(found, key=lambda b: (b["core"], b["network"])):
        lines += ["", f"## {block['network']}, {TITLE[block['core']]}", ""]
        lines += ["| | 10⁶ instructions | ms by the model | worth, instructions | ms |", "|---|---|---|---|---|"]
        base = block["rows"][0]
        for row in block["rows"]:
            total, all_of = sum(row["instructions"]), sum(base["instructions"])
            lines.append(
                f"| {row['name']} | {total / 1e6:.1f} | {row['ms']:.2f} | {all_of / total:.3f} "
                f"| {base['ms'] / row['ms']:.3f} |"
            )
        lines += ["", f"Change nothing here: {', '.join(block.get('idle', []))}."]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
