"""--snap auto for a Pi 5 and a Pi 4 against none, 4, 8, 16 and pow2, at equal importance kept, in counted instructions.

    python bench/arm_snap.py count a76|a72 MODEL… [--prune 0.35 0.5]      MODEL: NAME@SIZE of models/zoo, or a file
    python bench/arm_snap.py report                                       bench/results/arm_snap.md from arm_snap.json

For each share to prune, `none` says what importance is kept. Every other rule is then run at the highest share with
which it keeps as much (halving an interval; `auto` keeps it by itself), and the pair is written as for that device and
run whole under emulation. ms: by the weights of arm_latency.py. Needs bench/arm_setup.py and arm_counter.sh.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from arm_counting import Counter
from arm_tables import DEVICE, ISA, model_named, shape_of
from arm_weights import TITLE, Weights
from random_widths import fused, prepared

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency import table_for
from onnxslim_yolo.latency.layers import layers_of
from onnxslim_yolo.latency.packing import pack_of
from onnxslim_yolo.passes import PruneChannels, SliceChannels, SnapWidths

RESULTS = Path(__file__).with_name("results")
SNAPS: tuple[str | int, ...] = ("none", 4, 8, 16, "pow2", "auto")
HALVINGS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("count", "report"))
    parser.add_argument("core", nargs="?", choices=sorted(DEVICE))
    parser.add_argument("models", nargs="*")
    parser.add_argument("--prune", type=float, nargs="+", default=[0.35, 0.5])
    options = parser.parse_args()
    file = RESULTS / "arm_snap.json"
    blocks = json.loads(file.read_text()) if file.is_file() else []
    for name in options.models:
        base = prepared(model_named(name))
        for ratio in options.prune:
            key = {"core": options.core, "model": Path(name).name, "prune": ratio}
            rows = rows_of(base, options.core, ratio)
            blocks = [b for b in blocks if {k: b[k] for k in key} != key] + [key | {"rows": rows}]
            file.write_text(json.dumps(blocks, indent=1) + "\n")
    text = report(blocks)
    (RESULTS / "arm_snap.md").write_text(text)
    print(text)


def rows_of(base: Model, core: str, ratio: float) -> list[dict[str, object]]:
    """A row a rule, and the unpruned network first."""
    plain, wanted = pruned(base, core, ratio, "none")
    networks: dict[str, tuple[Model, float]] = {"unpruned": (base.copy(), 1.0)}
    for snap in SNAPS:
        if snap in ("none", "auto"):
            networks[str(snap)] = (plain, wanted) if snap == "none" else pruned(base, core, ratio, snap)
        else:
            networks[f"snap {snap}"] = as_important(base, core, snap, wanted)
    rows = []
    with Counter(core) as counter, tempfile.TemporaryDirectory() as folder:
        for name, (model, kept) in networks.items():
            network, place = written(model), Path(folder) / name.replace(" ", "-")
            place.mkdir()
            pair = write_pair(emit_ncnn(network, half=core == "a76"), place)
            counts = counter.whole(*pair, [shape_of(network)])
            keys = layers_of(network.graph)
            row = {
                "name": name, "importance": round(kept, 4), "macs": cost_of(network.graph).macs,
                "instructions": counts,
                "table_ms": round(table_for("ncnn", DEVICE[core]).predict_layers(keys) / 1e3, 3),
                "ms": None if counts is None else round(Weights.read(core).us(counts, keys) / 1e3, 3),
                "convolutions": convolutions(keys, core),
            }  # fmt: skip
            print(row, flush=True)
            rows.append(row)
    return rows


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
    for block in sorted(blocks, key=lambda b: (b["model"], b["core"], b["prune"])):
        base, best = block["rows"][0], min(sum(row["instructions"]) for row in block["rows"])
        lines += [f"## {block['model']}, {DEVICE[block['core']]}, --prune {block['prune']}", ""]
        lines += [f"{TITLE[block['core']]}.", ""]
        lines += ["| | instructions, ratio | 10⁶ | ÷ best row | ms, ratio | MACs | importance | convolutions by pack |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for row in block["rows"]:
            total = sum(row["instructions"])
            packs = ", ".join(f"{n} of {pack}" for pack, n in sorted(row["convolutions"].items()))
            ms, macs = row["ms"] / base["ms"], row["macs"] / base["macs"]
            lines.append(
                f"| {row['name']} | {total / sum(base['instructions']):.3f} | {total / 1e6:.1f} | {total / best:.3f} "
                f"| {ms:.3f} | {macs:.3f} | {row['importance']:.3f} | {packs} |"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
