"""What each rewrite of unpruned networks is worth on a Pi 5 and a Pi 4: whole pairs, counted under emulation.

    python bench/arm_rewrites.py a76|a72 [NAME@SIZE …]     bench/results/arm_rewrites.json and .md

"all": as compiled with --prune 0 for that device. A row a rewrite: all but this one, and what it is worth; "none":
BatchNorms folded and nothing else. A rewrite that leaves a network as it is has no row. ms: by arm_latency.py.
Needs bench/arm_setup.py and arm_counter.sh.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from arm_counting import Counter
from arm_tables import DEVICE, model_named, shape_of
from arm_weights import TITLE, Weights

from onnxslim_yolo.emit.ncnn import rewrites as ncnn_rewrites
from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.layers import layers_of
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes import FocusToConv, SppToSppf
from onnxslim_yolo.passes.protocol import Pass
from onnxslim_yolo.pipeline import _fusing

RESULTS = Path(__file__).with_name("results")
NETWORKS = ("yolov5n@320", "yolov8n@320", "yolo11n@320", "yolo26n@320")
STEM = "stem in phases (ncnn)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("core", choices=sorted(DEVICE))
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    options = parser.parse_args()
    file = RESULTS / "arm_rewrites.json"
    found = json.loads(file.read_text()) if file.is_file() else []
    for name in options.networks:
        rows = rows_of(name, options.core)
        found = [b for b in found if (b["network"], b["core"]) != (name, options.core)]
        found.append({"network": name, "core": options.core, "rows": rows})
        file.write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "arm_rewrites.md").write_text(markdown(found))
    print(markdown(found))


def rewrites(core: str) -> list[Pass]:
    options = CompileOptions(prune=0, target="ncnn", device=DEVICE[core])
    return [FocusToConv(), SppToSppf(), *_fusing(options)]


def rows_of(name: str, core: str) -> list[dict[str, object]]:
    names = [step.name for step in rewrites(core)]
    kept = ("fold-bn", "canonicalise")
    forms: dict[str, set[str]] = {"all": set(), **{f"without {n}": {n} for n in (*names, STEM) if n not in kept}}
    forms["none"] = {n for n in (*names, STEM) if n not in kept}
    rows: list[dict[str, object]] = []
    seen: dict[str, dict[str, object]] = {}
    with Counter(core) as counter, tempfile.TemporaryDirectory() as folder:
        for form, left_out in forms.items():
            model = model_named(name)
            for step in rewrites(core):
                if step.name not in left_out:
                    step.run(model)
            pair = written(model, core, left_out, Path(folder) / form.replace(" ", "-"))
            text = pair[0].read_text()
            if text in seen:
                continue
            counts = counter.whole(*pair, [shape_of(model)])
            ms = None if counts is None else round(Weights.read(core).us(counts, layers_of(model.graph)) / 1e3, 3)
            seen[text] = {"name": form, "instructions": counts, "ms": ms}
            rows.append(seen[text])
            print(name, core, rows[-1], flush=True)
    return rows


def written(model: Model, core: str, left_out: set[str], folder: Path) -> tuple[Path, Path]:
    folder.mkdir()
    with ExitStack() as stack:
        if STEM in left_out:
            stack.enter_context(mock.patch.object(ncnn_rewrites, "split_stems", lambda graph: 0))
        return write_pair(emit_ncnn(model, half=core == "a76"), folder)


def markdown(found: list[dict]) -> str:
    lines = [
        "# Rewrites of unpruned networks on ARM",
        "",
        "`python bench/arm_rewrites.py`. One thread, counted; nothing",
    ]
    lines[2] += " was timed. Worth: what the network takes with all, over what it takes without this one."
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
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
