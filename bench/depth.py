"""Depth and width against width alone: mAP, predicted and measured latency at one limit.

    python bench/depth.py [--model FILE] [--size N] [--targets 0.8x,0.7x] [--images yes|no] [--rounds 11]

Calibrates on the data.yaml's `calib` images without labels, evaluates on its `val` images; the ONNX file as written.
Latency is measured of the pairs in ncnn, one thread, by that thread's CPU time, source, `--depth none` and
`--depth auto` in turn: medians of ratios to the source within a round, and of the whole compilation in CPU seconds.
Writes bench/results/depth.json and .md, a target at a time; rows that are there are kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import onnxslim_yolo as oy
from onnxslim_yolo.measure.benchmark import benchmark
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
RESULT = HERE / "results" / "depth.json"
COCO = MATERIAL / "data" / "coco-val128"
DEPTHS = ("none", "auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov5n-coco-v6.pt")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--targets", default="0.8x,0.7x")
    parser.add_argument("--images", choices=("yes", "no"), default="yes")
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    rows = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for target in args.targets.split(","):
        key = f"{args.model} {args.size} {target} {'images' if args.images == 'yes' else 'no images'}"
        if key not in rows:
            rows[key] = compared(args.model, args.size, target, images=args.images == "yes", rounds=args.rounds)
            print(key, rows[key], flush=True)
            RESULT.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            RESULT.with_suffix(".md").write_text(markdown(rows), encoding="utf-8")


def compared(model: str, size: int, target: str, *, images: bool, rounds: int) -> dict[str, object]:
    """The source and both ways of meeting one limit."""
    source, options = MATERIAL / "weights" / model, {"imgsz": size, "emit": "onnx,ncnn", "verify": False}
    calibrated = {"calib": COCO / "calib.txt", "compensate": "reconstruct"} if images else {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        whole = oy.compile(source, out=folder / "source", **options)
        found, pairs = {"source": facts(whole)}, [whole.ncnn]
        for depth in DEPTHS:
            started = time.process_time()
            try:
                result = oy.compile(
                    source, out=folder / depth, target_latency=target, depth=depth, **calibrated, **options
                )
            except oy.OnnxSlimError as error:
                found[depth] = {"refused": error.message}
                continue
            found[depth] = facts(result) | {"seconds": round(time.process_time() - started, 1)}
            pairs.append(result.ncnn)
        names = [name for name, row in found.items() if "refused" not in row]
        timed = benchmark(pairs, names=names, rounds=rounds)
    for name, one in zip(names, timed.models, strict=True):
        found[name] |= {"ms": round(one.ms, 3), "measured": round(one.ratio, 4), "quartiles": one.ratio_quartiles}
    return {"rows": found, "rounds": rounds, "control": timed.control, "machine": timed.machine}


def facts(result: oy.Result) -> dict[str, object]:
    """mAP of the ONNX file, and what the report says."""
    data = read_dataset(COCO / "data.yaml", ("val",))
    found = evaluate(Detector(open_network(result.onnx, threads=1), nc=len(data.names)), data)
    before, after = result.report["before"], result.report["after"]
    return {
        "map50": round(found.map50, 4),
        "map": round(found.map, 4),
        "latency": round(after["latency_us"] / before["latency_us"], 3),
        "macs": round(after["macs"] / before["macs"], 3),
        "layers": len(after["layers"]),
        "gone": (result.report["pruning"] or {}).get("gone", []),
    }


def markdown(rows: dict[str, dict]) -> str:
    """One table."""
    lines = [
        "# Depth and width against width alone: `python bench/depth.py`",
        "",
        "| model, px, limit | depth | mAP50 | mAP | measured | predicted | MACs | layers | compile, CPU s | gone |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for key, block in sorted(rows.items()):
        for name, row in ((name, block["rows"][name]) for name in ("source", *DEPTHS)):
            if "refused" in row:
                lines.append(f"| {key} | {name} | refused: {row['refused']} | | | | | | | |")
                continue
            low, high = row["quartiles"]
            lines.append(
                f"| {key} | {name} | {row['map50']:.4f} | {row['map']:.4f} | {row['measured']:.3f} ({low:.3f} to "
                f"{high:.3f}) | {row['latency']:.3f} | {row['macs']:.3f} | {row['layers']} | {row.get('seconds', '')} "
                f"| {', '.join(row['gone'])} |"
            )
    machines = sorted({str(dict(sorted(block["machine"].items()))) for block in rows.values()})
    return "\n".join([*lines, "", *(f"{block}" for block in machines)]) + "\n"


if __name__ == "__main__":
    main()
