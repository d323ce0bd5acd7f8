"""--snap auto for a Pi 5 and a Pi 4 against none, 4, 8, 16 and pow2, at equal importance kept, in counted instructions.

    python bench/arm_snap.py count a76|a72 MODEL… [--prune 0.35 0.5]                 at equal importance kept
    python bench/arm_snap.py score a76|a72 MODEL… --prune 0.1 --data D --calib C     at an equal share, with mAP50
    python bench/arm_snap.py report                            bench/results/arm_snap.md from arm_snap.json

MODEL: NAME@SIZE of models/zoo, or a file. `count`: for each share to prune, `none` says what importance is kept. Every
other rule is then run at the highest share with which it keeps as much (halving an interval; `auto` keeps it by
itself), and the pair is written as for that device and run whole under emulation. `score`: as compiled with
--compensate reconstruct and these images; mAP50 is that of the ONNX file in onnxruntime on the data's validation
images, nothing trained. ms: by the weights of arm_latency.py. Needs bench/arm_setup.py and arm_counter.sh.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from arm_counting import Counter
from arm_tables import DEVICE, ISA, counted_by_layer, model_named
from arm_weights import TITLE, Weights
from random_widths import fused, prepared

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency import table_for
from onnxslim_yolo.latency.layers import layers_of
from onnxslim_yolo.latency.packing import pack_of
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes import PruneChannels, SliceChannels, SnapWidths
from onnxslim_yolo.pipeline import preparation, remainder
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network

RESULTS = Path(__file__).with_name("results")
SNAPS: tuple[str | int, ...] = ("none", 4, 8, 16, "pow2", "auto")
HALVINGS = 6
Networks = Iterator[tuple[str, Model, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("count", "score", "report"))
    parser.add_argument("core", nargs="?", choices=sorted(DEVICE))
    parser.add_argument("models", nargs="*")
    parser.add_argument("--prune", type=float, nargs="+", default=[0.35, 0.5])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--calib", type=Path)
    options = parser.parse_args()
    file = RESULTS / "arm_snap.json"
    blocks = json.loads(file.read_text()) if file.is_file() else []
    for name in options.models:
        for ratio in options.prune:
            key = {"core": options.core, "model": Path(name).name, "prune": ratio, "scored": options.job == "score"}
            if options.job == "score":
                networks = at_equal_share(name, options, ratio)
            else:
                networks = at_equal_importance(prepared(model_named(name)), options.core, ratio)
            rows = rows_of(networks, options.core, options.data)
            blocks = [b for b in blocks if {k: b.get(k, False) for k in key} != key] + [key | {"rows": rows}]
            file.write_text(json.dumps(blocks, indent=1) + "\n")
    text = report(blocks)
    (RESULTS / "arm_snap.md").write_text(text)
    print(text)


def at_equal_importance(base: Model, core: str, ratio: float) -> Networks:
    """A network a rule, and the share of importance that it keeps; the unpruned one first."""
    plain, wanted = pruned(base, core, ratio, "none")
    yield "unpruned", fused(base.copy()), 1.0
    yield "none", written(plain), wanted
    for snap in SNAPS[1:]:
        found = pruned(base, core, ratio, snap) if snap == "auto" else as_important(base, core, snap, wanted)
        yield snap if snap == "auto" else f"snap {snap}", written(found[0]), found[1]


def at_equal_share(name: str, options: argparse.Namespace, ratio: float) -> Networks:
    """The same, compiled at one share; importance is kept as each rule does."""
    yield "unpruned", fused(prepared(model_named(name))), 1.0
    for snap in SNAPS:
        model = model_named(name)
        common = {"target": "ncnn", "device": DEVICE[options.core], "snap": snap, "calib": options.calib}
        chosen = CompileOptions(prune=ratio, compensate="reconstruct", depth="none", **common)
        for step in [*preparation(chosen), *remainder(chosen, model)]:
            step.run(model)
        yield str(snap) if snap in ("none", "auto") else f"snap {snap}", model, float("nan")


def rows_of(networks: Networks, core: str, data: Path | None) -> list[dict[str, object]]:
    """What each network takes, and its mAP50 where there is data."""
    rows = []
    with Counter(core) as counter:
        for name, network, kept in networks:
            layers, keys = counted_by_layer(counter, network), layers_of(network.graph)
            if layers is None:
                raise ValueError(f"{name}: ncnn does not run it")
            row = {
                "name": name, "importance": None if kept != kept else round(kept, 4),
                "macs": cost_of(network.graph).macs,
                "instructions": [sum(column) for column in zip(*layers, strict=True)],
                "table_ms": round(table_for("ncnn", DEVICE[core]).predict_layers(keys) / 1e3, 3),
                "ms": round(Weights.read(core).us(layers, keys) / 1e3, 3),
                "convolutions": convolutions(keys, core),
                **({} if data is None else {"map50": map50(network, data)}),
            }  # fmt: skip
            print(row, flush=True)
            rows.append(row)
    return rows


def map50(model: Model, data: Path) -> float:
    """On a data set's validation images."""
    dataset = read_dataset(data, ("val",))
    with tempfile.TemporaryDirectory() as folder:
        network = open_network(model.save(Path(folder) / "model.onnx"))
        return round(evaluate(Detector(network, nc=len(dataset.names)), dataset).map50, 4)


def pruned(base: Model, core: str, ratio: float, snap: str | int) -> tuple[Model, float]:
    """A planned copy, and the share of importance that it keeps."""
    model = base.copy()
    PruneChannels(ratio=ratio).run(model)
    SnapWidths(to=snap, isa=DEVICE[core], runtime="ncnn").run(model)
    plan = model.plan
    assert plan is not None
    losses = plan.importance if plan.losses is None else plan.losses
    return model, float(losses[plan.keep].sum() / losses.sum())


def as_important(base: Model, core: str, snap: str | int, wanted: float) -> tuple[Model, float]:
    """At the highest ratio that keeps this share of importance."""
    low, high = 0.0, 0.95
    best = pruned(base, core, low, snap)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = pruned(base, core, middle, snap)
        if found[1] >= wanted:
            low, best = middle, found
        else:
            high = middle
    return best


def written(model: Model) -> Model:
    """Cut and fused."""
    if model.plan is not None:
        SliceChannels().run(model)
    return fused(model)


def convolutions(keys: list[object], core: str) -> dict[str, int]:
    """How many convolutions have which pack at their narrower side."""
    lanes = 8 if ISA[core] == "neon-fp16" else 4
    found: dict[str, int] = {}
    for key in keys:
        if key.family.kind == "conv" and key.ins[0] > 4:
            pack = str(min(pack_of("ncnn", lanes, key.ins[0]), pack_of("ncnn", lanes, key.outs[0])))
            found[pack] = found.get(pack, 0) + 1
    return found


def report(blocks: list[dict]) -> str:
    lines = ["# --snap auto on ARM, at equal importance kept", "", "`python bench/arm_snap.py`. Whole pairs under", ""]
    lines[2] += (
        " emulation, one thread. Ratios are to the unpruned network's instructions; ms by the instruction model."
    )
    for block in sorted(blocks, key=lambda b: (b.get("scored", False), b["model"], b["core"], b["prune"])):
        base, best = block["rows"][0], min(sum(row["instructions"]) for row in block["rows"])
        share = ", at an equal share" if block.get("scored") else ""
        lines += [f"## {block['model']}, {DEVICE[block['core']]}, --prune {block['prune']}{share}", ""]
        lines += [f"{TITLE[block['core']]}.", ""]
        scored = "map50" in base
        lines += ["| | instructions, ratio | 10⁶ | ÷ best row | ms, ratio | MACs | importance | convolutions by pack |"]
        lines[-1] += " mAP50 |" if scored else ""
        lines += ["|---|---|---|---|---|---|---|---|" + "---|" * scored]
        for row in block["rows"]:
            total = sum(row["instructions"])
            packs = ", ".join(f"{n} of {pack}" for pack, n in sorted(row["convolutions"].items()))
            kept = "" if row["importance"] is None else f"{row['importance']:.3f}"
            ms, macs = row["ms"] / base["ms"], row["macs"] / base["macs"]
            lines.append(
                f"| {row['name']} | {total / sum(base['instructions']):.3f} | {total / 1e6:.1f} | {total / best:.3f} "
                f"| {ms:.3f} | {macs:.3f} | {kept} | {packs} |" + (f" {row['map50']:.3f} |" if scored else "")
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
