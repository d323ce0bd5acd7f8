"""The whole loop in Ultralytics: train, sparsify, prune, fine-tune with the unpruned one as teacher, compile.

    python bench/ultralytics_loop.py yolov8n --data ../shared/material/data/bccd/data.yaml --imgsz 160 --epochs 6 3 3 \
        --work /tmp/loop --out bench/results/ultralytics-loop-yolov8n.json

Runs in an environment with `ultralytics` and this package; every step but the first, which trains the dense network
from Ultralytics' yaml, is a command of this package. mAP is measured by `onnxslim-yolo eval` on the validation images
with the ONNX file of each stage, latency by `onnxslim-yolo bench` on the NCNN pairs, all stages in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    arguments = parse()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    data = work / "data.yaml"  # Ultralytics looks for `path: .` elsewhere
    lines = arguments.data.read_text().replace("path: .", f"path: {arguments.data.resolve().parent}")
    data.write_text(lines)
    common = [
        f"imgsz={arguments.imgsz}",
        "workers=0",
        "plots=False",
        "amp=False",
        *arguments.set,
        f"project={work / 'runs'}",
    ]
    dense_epochs, sparse_epochs, tune_epochs = arguments.epochs
    seconds: dict[str, float] = {}

    def step(name: str, file: Path, function: Any) -> Path:
        begun = time.perf_counter()
        if not file.exists():
            function()
        seconds[name] = round(time.perf_counter() - begun)
        print(f"{name}: {file} after {seconds[name]} s", flush=True)
        return file

    dense = step(
        "dense",
        work / "runs/dense/weights/best.pt",
        lambda: train_dense(arguments.model, data, dense_epochs, [*common, "name=dense"]),
    )
    sparse = step(
        "sparse",
        work / "runs/sparse/weights/sparse.pt",
        lambda: tool(
            "sparsify",
            dense,
            "--data",
            data,
            "--epochs",
            sparse_epochs,
            "--target",
            arguments.target,
            *common,
            "name=sparse",
        ),
    )
    emit = ("--emit", "onnx,ncnn,ultralytics", "--imgsz", arguments.imgsz, "--will-train", "-q")
    slim = step(
        "pruned",
        work / "pruned/sparse-slim.pt",
        lambda: tool("compile", sparse, *emit, "--prune", arguments.prune, "-o", work / "pruned"),
    )
    tuned = step(
        "tuned",
        work / "runs/tuned/weights/best.pt",
        lambda: tool(
            "finetune", slim, "--data", data, "--epochs", tune_epochs, "--teacher", dense, *common, "name=tuned"
        ),
    )
    for name, file, more in (
        ("dense", dense, ("--prune", 0)),
        ("sparse", sparse, ("--prune", 0)),
        ("tuned", tuned, ()),
    ):
        step(
            f"{name}, compiled",
            work / f"{name}/{file.stem}.onnx",
            lambda file=file, name=name, more=more: tool(
                "compile", file, "--emit", "onnx,ncnn", "--imgsz", arguments.imgsz, "-q", *more, "-o", work / name
            ),
        )
    stages = {"dense": "best", "sparse": "sparse", "pruned": "sparse", "tuned": "best"}
    result: dict[str, Any] = {"model": arguments.model, "imgsz": arguments.imgsz, "epochs": arguments.epochs}
    result |= {"target": arguments.target, "prune": arguments.prune, "seconds": seconds, "stages": {}}
    for name, stem in stages.items():
        found = json.loads(tool("eval", work / name / f"{stem}.onnx", "--data", arguments.data, "--json"))
        cost = json.loads((work / name / f"{stem}.report.json").read_text())["after"]
        result["stages"][name] = {
            "map50": round(found["map50"], 4),
            "map": round(found["map"], 4),
            "macs": cost["macs"],
            "parameters": cost["parameters"],
        }
    pairs = [work / name / f"{stem}_ncnn_model" for name, stem in stages.items()]
    result["bench"] = json.loads(tool("bench", *pairs, "--json"))
    print(json.dumps(result["stages"]))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def train_dense(model: str, data: Path, epochs: int, settings: list[str]) -> None:
    from ultralytics import YOLO

    from onnxslim_yolo.training.run_ultralytics import train_settings

    YOLO(f"{model}.yaml").train(data=str(data), epochs=epochs, **train_settings(settings))


def tool(*line: Any) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "onnxslim_yolo", *map(str, line)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode not in (0, 5):  # 5: it no longer detects, as a network that has hardly been trained
        raise SystemExit(f"{line}: status {done.returncode}")
    return done.stdout


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", help="yolov8n, yolo11n, yolo26n …")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, nargs=3, default=[60, 40, 40], help="dense, sparse, fine-tuned")
    parser.add_argument("--target", type=float, default=0.6)
    parser.add_argument("--prune", default="dead", help="as of `compile`")
    parser.add_argument("--set", nargs="*", default=["batch=16"], help="more of Ultralytics' train arguments")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
