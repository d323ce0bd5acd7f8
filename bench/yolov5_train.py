"""A pruned YOLOv5n in YOLOv5's own train.py: does `--weights NAME-slim.pt` keep the widths, and the rest still work?

    python bench/yolov5_train.py CHECKOUT --python PYTHON --out bench/results/yolov5_train.md

CHECKOUT is a clone of ultralytics/yolov5, PYTHON an interpreter with its requirements. The published checkpoint is
compiled with `--emit ultralytics`, trained for two epochs on a handful of images, the result compiled and pruned again,
and trained once more; `val.py` and `detect.py` open it; data of other classes is trained, too. The control is the same
checkpoint with the yaml that it had.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MATERIAL = ROOT.parent / "shared/material"
CONTROL = (
    "import sys, torch; c = torch.load(sys.argv[1], weights_only=False); "
    "c['model'].yaml = torch.load(sys.argv[2], weights_only=False)['model'].yaml; torch.save(c, sys.argv[3])"
)
"""Gives a checkpoint the yaml of another."""


FONT = "import shutil, sys, matplotlib.font_manager as f; shutil.copy(f.findfont('DejaVu Sans'), sys.argv[1])"
"""Stands for the font that YOLOv5 would fetch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--commit", default="?", help="which one it is, for the table")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--weights", type=Path, default=MATERIAL / "weights/yolov5n-coco-v6.pt")
    parser.add_argument("--prune", default="0.3")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = report(arguments, Path(folder))
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def report(arguments: argparse.Namespace, work: Path) -> str:
    """Run every step; what each of them printed of widths and tensors, as Markdown."""
    data, one = few_images(work)
    subprocess.run([arguments.python, "-c", FONT, work / "Arial.ttf"], check=True)
    slim, parameters = compiled(arguments.weights, work / "first", arguments.prune)
    rows = [("compiled, --emit ultralytics", f"{parameters:,} parameters")]

    def repository(script: str, *line: object) -> str:
        own = {"YOLOV5_CONFIG_DIR": str(work), "YOLO_CONFIG_DIR": str(work), "YOLO_OFFLINE": "1"}
        environment = {**os.environ, **own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
        done = subprocess.run(
            [arguments.python, script, *map(str, line)],
            cwd=arguments.checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{script} {line}: status {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")
        return done.stdout + done.stderr

    def trained(name: str, weights: Path, data: Path, epochs: int) -> Path:
        common = ("--batch-size", 4, "--imgsz", 160, "--workers", 0, "--device", "cpu", "--noplots")
        line = ("--weights", weights, "--data", data, "--epochs", epochs, "--project", work / "runs", "--name", "run")
        said = repository("train.py", *line, *common, "--exist-ok")
        found = re.search(r"Transferred (\d+)/(\d+) items", said), re.search(r"layers, ([\d,]+) parameters", said)
        moved, size = (match.group(0) if match else "?" for match in found)
        rows.append((name, f"{moved}, {size.removeprefix('layers, ')}"))
        return work / "runs/run/weights/best.pt"

    best = trained("train.py, 2 epochs", slim, data, 2)
    again, parameters = compiled(best, work / "second", "0.2")
    rows.append(("its best.pt compiled, pruned by 0.2 more", f"{parameters:,} parameters"))
    said = repository("val.py", "--weights", best, "--data", data, "--imgsz", 160, "--device", "cpu", "--workers", 0)
    rows.append(("val.py on that best.pt", "runs" if "Speed" in said else "?"))
    repository("detect.py", "--weights", slim, "--source", work / "few/images", "--device", "cpu", "--nosave")
    rows.append(("detect.py on NAME-slim.pt", "runs"))
    trained("train.py of the twice pruned, 1 epoch", again, data, 1)
    trained("train.py with data of one class, 1 epoch", slim, one, 1)
    wide = work / "control.pt"
    subprocess.run([arguments.python, "-c", CONTROL, slim, arguments.weights, wide], cwd=arguments.checkout, check=True)
    trained("control: the same tensors with the source's yaml", wide, data, 1)
    lines = [
        "# YOLOv5's own train.py with a pruned checkpoint",
        "",
        f"{arguments.weights.name}, --prune {arguments.prune}",
    ]
    lines[-1] += f", 8 images, 160 px, CPU; ultralytics/yolov5 at {arguments.commit}."
    return "\n".join([*lines, "", "| step | what it says |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]) + "\n"


def few_images(work: Path) -> tuple[Path, Path]:
    """Eight labelled images of COCO, as a data.yaml with its classes and as one with a single class."""
    coco = MATERIAL / "data/coco-val128"
    names = (coco / "data.yaml").read_text().partition("names:")[2]
    for folder, classes in (("few", names), ("one", " [thing]\n")):
        for part in ("images", "labels"):
            (work / folder / part).mkdir(parents=True)
        for image in sorted((coco / "images").iterdir())[:8]:
            shutil.copy(image, work / folder / "images")
            label = coco / "labels" / f"{image.stem}.txt"
            rows = label.read_text().splitlines() if label.exists() else []
            kept = rows if folder == "few" else [f"0 {row.split(maxsplit=1)[1]}" for row in rows]
            (work / folder / "labels" / label.name).write_text("\n".join(kept))
        file = work / f"{folder}.yaml"
        file.write_text(f"path: {work / folder}\ntrain: images\nval: images\nnames:{classes}")
    return work / "few.yaml", work / "one.yaml"


def compiled(source: Path, out: Path, ratio: str) -> tuple[Path, int]:
    line = [sys.executable, "-m", "onnxslim_yolo", "compile", str(source), "--prune", ratio, "--imgsz", "160"]
    subprocess.run([*line, "--emit", "onnx,ultralytics", "--will-train", "-q", "-o", str(out)], check=True)
    found = json.loads((out / f"{source.stem}.report.json").read_text())
    return out / f"{source.stem}-slim.pt", int(found["ultralytics"]["parameters"])


if __name__ == "__main__":
    main()
