"""Depth and width against width alone: mAP and predicted latency at one limit, on images that nothing was fitted to.

    python bench/depth.py [--model FILE] [--size N] [--targets 0.8x,0.7x] [--images yes|no]

Calibrates on the data.yaml's `calib` images without labels, evaluates on its `val` images; the ONNX file as written.
Writes bench/results/depth.json, a row at a time; rows that are there are kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import onnxslim_yolo as oy
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
RESULT = HERE / "results" / "depth.json"
COCO = MATERIAL / "data" / "coco-val128"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov5n-coco-v6.pt")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--targets", default="0.8x,0.7x")
    parser.add_argument("--images", choices=("yes", "no"), default="yes")
    args = parser.parse_args()
    rows = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for target in args.targets.split(","):
        for depth in ("none", "auto", "only"):
            key = f"{args.model} {args.size} {target} {'images' if args.images == 'yes' else 'no images'} {depth}"
            if key in rows:
                continue
            rows[key] = row(args.model, args.size, target, depth, images=args.images == "yes")
            print(key, rows[key], flush=True)
            RESULT.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def row(model: str, size: int, target: str, depth: str, *, images: bool) -> dict[str, object]:
    options = {"calib": COCO / "calib.txt", "compensate": "reconstruct"} if images else {}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            result = oy.compile(
                MATERIAL / "weights" / model,
                imgsz=size,
                out=folder,
                emit="onnx",
                verify=False,
                target_latency=target,
                depth=depth,
                **options,
            )
        except oy.OnnxSlimError as error:
            return {"refused": error.message}
        seconds = time.perf_counter() - started
        data = read_dataset(COCO / "data.yaml", ("val",))
        found = evaluate(Detector(open_network(result.onnx, threads=1), nc=len(data.names)), data)
    before, after = result.report["before"], result.report["after"]
    return {
        "map50": round(found.map50, 4),
        "map": round(found.map, 4),
        "latency": round(after["latency_us"] / before["latency_us"], 3),
        "macs": round(after["macs"] / before["macs"], 3),
        "gone": result.report["pruning"]["gone"],
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
