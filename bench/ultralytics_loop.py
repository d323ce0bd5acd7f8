"""The whole loop in Ultralytics: train, sparsify, prune, fine-tune with the unpruned one as teacher, compile.

    python bench/ultralytics_loop.py yolov8n --data ../shared/material/data/bccd/data.yaml --epochs 30 22 20 \
        --target-latency 0.47x --set batch=8 nbs=8 optimizer=AdamW lr0=0.002 warmup_epochs=1 cache=True \
        --set-later lr0=0.001 --work /tmp/loop --out bench/results/ultralytics-loop-yolov8n.json

Runs in an environment with `ultralytics` and this package; every step but the first, which trains the dense network
from Ultralytics' yaml, is a command of this package. What a stage has left is not made again: the same command goes on
where it was stopped. mAP is measured by `onnxslim-yolo eval` on the validation images with the ONNX file and with the
NCNN pair of each stage, latency by `onnxslim-yolo bench`, all stages in turn, in both runtimes. Beside the JSON a table
of the same name is written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = {"dense": "best", "sparse": "sparse", "pruned": "sparse", "tuned": "best"}
"""What is measured, in this order, and the stem of its files."""


def main() -> None:
    arguments = parse()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    seconds = run_stages(arguments, work)
    result = measured(arguments, work) | {"seconds": seconds}
    print(table(result))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        arguments.out.with_suffix(".md").write_text(table(result), encoding="utf-8")


def run_stages(arguments: argparse.Namespace, work: Path) -> dict[str, int]:
    """Make every stage's files that are not there yet. Returns how long each took, kept in the work folder."""
    data = work / "data.yaml"  # Ultralytics looks for `path: .` elsewhere
    data.write_text(arguments.data.read_text().replace("path: .", f"path: {arguments.data.resolve().parent}"))
    size = arguments.imgsz
    common = [f"imgsz={size}", "workers=0", "plots=False", "amp=False", *arguments.set, f"project={work / 'runs'}"]
    later = [*common, *arguments.set_later]
    epochs = dict(zip(("dense", "sparse", "tuned"), arguments.epochs, strict=True))
    cut = ("--target-latency", arguments.target_latency) if arguments.target_latency else ("--prune", arguments.prune)
    cut = (*cut, "--floor", arguments.floor)
    emit = ("--imgsz", size, "-q")
    dense, sparse = work / "runs/dense/weights/best.pt", work / "runs/sparse/weights/sparse.pt"
    slim, tuned = work / "pruned/sparse-slim.pt", work / "runs/tuned/weights/best.pt"
    push = ("sparsify", dense, "--data", data, "--epochs", epochs["sparse"], "--target", arguments.target)
    tune = ("finetune", slim, "--data", data, "--epochs", epochs["tuned"], "--teacher", dense)
    steps: list[tuple[str, Path, Callable[[], object]]] = [
        ("dense", dense, lambda: train_dense(arguments.model, data, epochs["dense"], [*common, "name=dense"])),
        ("sparse", sparse, lambda: tool(*push, *later, "name=sparse")),
        ("pruned", slim, lambda: compiled(sparse, work / "pruned", "onnx,ncnn,ultralytics", *emit, *cut)),
        ("tuned", tuned, lambda: tool(*tune, *later, "name=tuned")),
    ]
    for name, file in (("dense", dense), ("sparse", sparse), ("tuned", tuned)):
        onnx = work / name / f"{file.stem}.onnx"
        more = () if name == "tuned" else ("--prune", 0)
        steps.append(
            (f"{name}, compiled", onnx, lambda f=file, o=onnx, m=more: compiled(f, o.parent, "onnx,ncnn", *emit, *m))
        )
    note = work / "seconds.json"
    seconds: dict[str, int] = json.loads(note.read_text()) if note.exists() else {}
    for name, file, function in steps:
        begun = time.perf_counter()
        if name not in seconds or not file.exists():  # a training that was stopped has left a file, too
            function()
            seconds[name] = round(time.perf_counter() - begun)
            note.write_text(json.dumps(seconds))
        print(f"{name}: {file}, {seconds[name]} s", flush=True)
    return seconds


def measured(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Accuracy and cost of every stage's files."""
    result: dict[str, Any] = {
        key: getattr(arguments, key)
        for key in ("model", "imgsz", "epochs", "target", "prune", "target_latency", "floor", "set", "set_later")
    }
    files = {"onnx": [work / name / f"{stem}.onnx" for name, stem in STAGES.items()]}
    files["ncnn"] = [work / name / f"{stem}_ncnn_model" for name, stem in STAGES.items()]
    result["stages"] = {}
    for name, onnx, pair in zip(STAGES, files["onnx"], files["ncnn"], strict=True):
        cost = json.loads(onnx.with_suffix(".report.json").read_text())["after"]
        row: dict[str, Any] = {"macs": cost["macs"], "parameters": cost["parameters"]}
        for kind, file in (("", onnx), ("ncnn_", pair)):
            found = json.loads(tool("eval", file, "--data", arguments.data, "--json"))
            row |= {f"{kind}map50": round(found["map50"], 4), f"{kind}map": round(found["map"], 4)}
        result["stages"][name] = row
    for runtime, models in files.items():
        result[f"bench_{runtime}"] = bench = json.loads(tool("bench", *models, "--json"))
        for row, model in zip(result["stages"].values(), bench["models"], strict=True):
            row |= {f"{runtime}_ms": round(model["ms"], 3), f"{runtime}_ratio": round(model["ratio"], 3)}
    return result


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    dense, sparse, tuned = result["epochs"]
    cut = f"--target-latency {result['target_latency']}" if result["target_latency"] else f"--prune {result['prune']}"
    cut += f" --floor {result['floor']}" if result["floor"] > 1 else ""
    bench = result["bench_ncnn"]
    lines = [
        f"# {result['model']} on BCCD at {result['imgsz']} px: the loop in Ultralytics, from scratch",
        "",
        f"{dense} epochs dense, {sparse} of sparsity training (target {result['target']}), `{cut}`, {tuned} of "
        f"fine-tuning with the dense one as teacher; {' '.join(result['set'])}, afterwards "
        f"{' '.join(result['set_later']) or 'the same'}. "
        "mAP on the 72 validation images, of the ONNX file in onnxruntime and of the NCNN pair; latency as a ratio "
        f"to the dense one's, one thread, interleaved ({bench['machine']['cpu']}; A/A control "
        f"{bench['control']:.3f} in ncnn, {result['bench_onnx']['control']:.3f} in onnxruntime).",
        "",
        "| stage | parameters | MACs | mAP50 | mAP50-95 | mAP50 in ncnn | mAP50-95 in ncnn | ncnn | onnxruntime |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in result["stages"].items():
        scores = " | ".join(f"{100 * row[key]:.1f}" for key in ("map50", "map", "ncnn_map50", "ncnn_map"))
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.2f} M | {row['macs'] / 1e9:.3f} G | {scores} "
            f"| {row['ncnn_ratio']:.2f} ({row['ncnn_ms']:.1f} ms) | {row['onnx_ratio']:.2f} ({row['onnx_ms']:.1f} ms) |"
        )
    return "\n".join(lines) + "\n"


def train_dense(model: str, data: Path, epochs: int, settings: list[str]) -> None:
    from ultralytics import YOLO

    from onnxslim_yolo.training.run_ultralytics import train_settings

    YOLO(f"{model}.yaml").train(data=str(data), epochs=epochs, **train_settings(settings))


def compiled(source: Path, out: Path, emit: str, *more: Any) -> str:
    return tool("compile", source, "--emit", emit, "--will-train", "-o", out, *more)


def tool(*line: Any) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "onnxslim_yolo", *map(str, line)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{line}: status {done.returncode}")
    return done.stdout


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", help="yolov8n, yolo11n, yolo26n …")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--epochs", type=int, nargs=3, default=[60, 40, 40], help="dense, sparse, fine-tuned")
    parser.add_argument("--target", type=float, default=0.6)
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--prune", default="dead", help="as of `compile`")
    cut.add_argument("--target-latency", help="as of `compile`")
    parser.add_argument(
        "--floor", type=int, default=1, help="as of `compile`: 2 lets go of what carries most of a layer"
    )
    parser.add_argument("--set", nargs="*", default=["batch=16"], help="more of Ultralytics' train arguments")
    parser.add_argument("--set-later", nargs="*", default=[], help="of those that differ after the dense training")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
