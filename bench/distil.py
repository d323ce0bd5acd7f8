"""Distillation without labels beside reconstruction alone, with learning rate 0 as control.

    python bench/distil.py ../shared/material/weights/yolov5n-coco-v6.pt \
        --data ../shared/material/data/coco-val128/data.yaml --imgsz 320 --allocate global --epochs 15 \
        --work /tmp/distil --out bench/results/distil-yolov5n.json

Each share of the MACs is compiled with the data's calibration images (`--compensate reconstruct`), and what came of it
is distilled on the same images, by the commands. mAP is measured by `onnxslim-yolo eval` on the data's validation
images, which nothing else has seen. "lr 0" is the same command with a learning rate of 0: what all but the training
does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    arguments = parse()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    size = ("--imgsz", arguments.imgsz)
    source, data = arguments.source.resolve(), arguments.data.resolve()
    result: dict[str, Any] = {"source": source.name, "imgsz": arguments.imgsz, "epochs": arguments.epochs, "rows": []}
    dense = work / "dense.onnx"
    run(dense, "trace", source, *size, "-o", dense)
    result["dense"] = scores(dense, data)
    for share in arguments.shares:
        folder = work / f"{share:g}"
        module = folder / "pruned.pt"
        row: dict[str, Any] = {"macs": share}
        how = ("--compensate", "reconstruct", "--calib", data, "--allocate", arguments.allocate)
        emit = ("--emit", "onnx,torch", "-q", "-o", folder, "--name", "pruned")
        row["compile"] = run(module, "compile", source, *size, "--target-macs", f"{share:g}x", *how, *emit)
        row["reconstruct"] = scores(folder / "pruned.onnx", data)
        for rate in (0.0, *arguments.lr):
            out = work / f"{share:g}-{rate:g}"
            line = ("distil", module, "--teacher", source, "--images", data, *size, "--lr", rate)
            epochs = arguments.epochs if rate else 1  # of nothing, more would be the same
            seconds = run(out / "pruned.onnx", *line, "--epochs", epochs, "--emit", "onnx", "-q", "-o", out)
            report = json.loads((out / "pruned.report.json").read_text())
            row[f"lr {rate:g}"] = scores(out / "pruned.onnx", data) | {"seconds": seconds, **report["distillation"]}
        result["rows"].append(row)
        print(json.dumps(row), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def run(made: Path, *line: Any) -> float | None:
    """Run a command unless its file is there. Returns its CPU seconds."""
    if made.exists():
        return None
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    tool(*line)
    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)


def scores(model: Path, data: Path) -> dict[str, float]:
    found = json.loads(tool("eval", model, "--data", data, "--json", "--threads", 1))
    return {"map50": round(found["map50"], 4), "map": round(found["map"], 4)}


def tool(*line: Any) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "onnxslim_yolo", *map(str, line)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode not in (0, 5):
        raise SystemExit(f"{line}: status {done.returncode}")
    return done.stdout


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.7])
    parser.add_argument("--allocate", default="global", help="as of `compile`")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-5, 3e-5])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
