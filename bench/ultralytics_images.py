"""The pruned checkpoint and the ONNX file on photographs, in Ultralytics: the same boxes?

    python bench/ultralytics_images.py --data ../shared/material/data/bccd --work /tmp/images \
        --out bench/results/ultralytics_images.md

Runs in an environment with `ultralytics` and this package. Every network is trained from scratch by Ultralytics for a
few epochs on blood cells, so that it finds some: far from well, but by what it has learnt. Cells are round: masks are
the ellipses in the data set's boxes, oriented boxes those boxes, points five places on the ellipses; classes are those
of cut-out cells. Then `compile --prune 0.4 --calib … --compensate reconstruct --emit onnx,ultralytics`; NAME-slim.pt
and NAME.onnx are both opened by `YOLO()` and predict the validation images (`rect=False`: a checkpoint would be fed
narrower images than a file of fixed size). Compared are detections from a score on that leaves some dozens: their
number, and how far the nearest of equal class is in pixels and score; the control is the checkpoint with every filter
1 % off. What is in the work folder already is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = (
    *("yolov8n", "yolo11n", "yolo26n", "yolov10n", "yolo12n", "yolov9t", "yolov5nu", "yolov6n", "yolov3-tinyu"),
    *("yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolov8n-cls"),
    *("yolo26n-seg", "yolo26n-pose", "yolo26n-obb", "yolo11n-cls"),
)
SHAPES = {"-seg": "segment", "-pose": "pose", "-obb": "obb", "-cls": "classify"}
KINDS = ("RBC", "WBC", "Platelets")
POINTS = 5
CALIBRATED = 16
CONFS = (0.25, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
ENOUGH = 60
"""Detections before pruning that the threshold has to leave."""

MOST_PIXELS, MOST_SCORE = 1.0, 1e-3
"""What may differ."""


def main() -> None:
    arguments = parse()
    work = arguments.work.resolve()
    rows = {}
    for name in arguments.names:
        note = work / name / "found.json"
        if not note.exists():
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(json.dumps(tried(name, arguments, note.parent)))
        rows[name] = json.loads(note.read_text())
        print(name, rows[name], flush=True)
    text = table(rows, arguments)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def tried(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train, compile, predict, compare."""
    task = next((task for ending, task in SHAPES.items() if name.endswith(ending)), "detect")
    data = dataset(arguments.data.resolve(), folder.parent / f"data-{task}", task, arguments.images)
    source, begun = folder / f"{name}.pt", time.perf_counter()
    if not source.exists():
        score = train(name, data, folder, arguments)
        (folder / "trained.json").write_text(json.dumps({"score": score, "seconds": time.perf_counter() - begun}))
    photographs = folder.parent / "data-detect/images"
    dataset(arguments.data.resolve(), folder.parent / "data-detect", "detect", arguments.images)
    calib = folder / "calib.txt"
    calib.write_text("".join(f"{file}\n" for file in sorted((photographs / "train").iterdir())[:CALIBRATED]))
    cut = ("--prune", arguments.prune, "--calib", calib, "--compensate", "reconstruct")
    emit = ("--emit", "onnx,ultralytics", "--will-train", "-q", "-o", folder / "out")
    done = subprocess.run(list(map(str, (sys.executable, "-m", "onnxslim_yolo", "compile", source, *cut, *emit))))
    if done.returncode:
        raise SystemExit(f"{name}: compile ended with {done.returncode}")
    files = {"slim": folder / f"out/{name}-slim.pt", "onnx": folder / f"out/{name}.onnx", "source": source}
    files["spoilt"] = spoilt(files["slim"], folder / "spoilt.pt")
    images = sorted((photographs / "val").glob("*"))[: arguments.val]
    least = 0.0 if task == "classify" else threshold(predicted(source, images, arguments.imgsz, CONFS[-1], task))
    found = {key: predicted(file, images, arguments.imgsz, least, task) for key, file in files.items()}
    trained = json.loads((folder / "trained.json").read_text())
    against = {key: compared(found[key], found["onnx"]) for key in ("slim", "spoilt", "source")}
    report = json.loads((folder / f"out/{name}.report.json").read_text())
    share = report["after"]["parameters"] / report["before"]["parameters"]
    return {"task": task, "images": len(images), "parameters": share, "conf": least, **trained, **against}


def dataset(source: Path, folder: Path, task: str, images: int) -> Path:
    """The blood cells with labels of this task. Returns what Ultralytics is given as `data`."""
    yaml = folder / "data.yaml"
    told = folder if task == "classify" else yaml
    if yaml.exists():
        return told
    for split in ("train", "val"):
        for file in sorted((source / f"images/{split}").iterdir())[:images]:
            cells = np.loadtxt(source / f"labels/{split}/{file.stem}.txt", ndmin=2)
            (cut_out if task == "classify" else labelled)(file, cells, folder, split, task)
    extra = f"kpt_shape: [{POINTS}, 3]\n" if task == "pose" else ""
    names = dict(enumerate(KINDS))
    yaml.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: {names}\n{extra}")
    return told


def labelled(file: Path, cells: np.ndarray[Any, Any], folder: Path, split: str, task: str) -> None:
    for part in ("images", "labels"):
        (folder / part / split).mkdir(parents=True, exist_ok=True)
    (folder / "images" / split / file.name).write_bytes(file.read_bytes())
    lines = []
    for kind, x, y, w, h in cells:
        if task == "segment":
            rest = ellipse(x, y, w, h, 16)
        elif task == "obb":
            rest = [x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2]
        elif task == "pose":
            places = np.reshape(ellipse(x, y, w, h, POINTS), (POINTS, 2))
            rest = [x, y, w, h, *np.column_stack([places, np.full(POINTS, 2)]).ravel()]
        else:
            rest = [x, y, w, h]
        lines.append(" ".join([str(int(kind)), *(f"{min(max(value, 0), 2):.5f}" for value in rest)]))
    (folder / "labels" / split / f"{file.stem}.txt").write_text("\n".join(lines) + "\n")


def ellipse(x: float, y: float, w: float, h: float, points: int) -> list[float]:
    """The ellipse in a box, inside the image."""
    angles = 2 * np.pi * np.arange(points) / points
    places = np.column_stack([x + w / 2 * np.cos(angles), y + h / 2 * np.sin(angles)])
    return list(np.clip(places, 0, 1).ravel())


def cut_out(file: Path, cells: np.ndarray[Any, Any], folder: Path, split: str, task: str) -> None:
    """Each cell of an image as an image of its class; of red ones, which are most, the first two."""
    with Image.open(file) as picture:
        width, height = picture.size
        for number, (kind, x, y, w, h) in enumerate(cells):
            if kind == 0 and (cells[:number, 0] == 0).sum() >= 2:
                continue
            place = folder / split / KINDS[int(kind)]
            place.mkdir(parents=True, exist_ok=True)
            box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            picture.convert("RGB").crop(tuple(map(round, box))).save(place / f"{file.stem}-{number}.png")


def train(name: str, data: Path, folder: Path, arguments: argparse.Namespace) -> float:
    """Leaves NAME.pt. Returns mAP50 (of classes: the share that is right) of the validation images, in per cent."""
    from ultralytics import YOLO

    yolo = YOLO(f"{name}.yaml")
    settings = {"imgsz": arguments.imgsz, "epochs": arguments.epochs, "batch": 8, "nbs": 8, "optimizer": "AdamW"}
    settings |= {
        "lr0": 0.002,
        "warmup_epochs": 1,
        "workers": 0,
        "plots": False,
        "amp": False,
        "mosaic": 0.0,
        "val": False,
    }
    settings |= {"verbose": False, "project": str(folder / "runs"), "name": "dense", "exist_ok": True, "seed": 0}
    yolo.train(data=str(data), **settings)
    (folder / f"{name}.pt").write_bytes((folder / "runs/dense/weights/best.pt").read_bytes())
    scores = yolo.metrics.results_dict
    return 100 * float(scores.get("metrics/mAP50(B)", scores.get("metrics/accuracy_top1", float("nan"))))


def spoilt(file: Path, out: Path) -> Path:
    """A copy of the checkpoint with the filters of every convolution 1 % off, every other one up and down."""
    import torch

    held = torch.load(file, weights_only=False)
    layers = [part for part in held["model"].modules() if isinstance(part, torch.nn.Conv2d)]
    with torch.no_grad():
        for layer in layers:
            layer.weight[::2] *= 1.01
            layer.weight[1::2] *= 0.99
    torch.save(held, out)
    return out


def threshold(found: list[list[list[float]]]) -> float:
    """The highest score, of some, that enough of these detections have."""
    scores = np.array([row[1] for rows in found for row in rows])
    return next((conf for conf in CONFS if (scores >= conf).sum() >= ENOUGH), CONFS[-1])


def predicted(file: Path, images: list[Path], size: int, conf: float, task: str) -> list[list[list[float]]]:
    """Per image the detections, best first: class, score, coordinates in pixels, and the side of a mask."""
    from ultralytics import YOLO

    yolo = YOLO(str(file), task=task)
    one_to_one = file.suffix == ".pt" and getattr(yolo.model.model[-1], "end2end", False)
    more = {"nms": False} if one_to_one else {}  # the towers that the file is set to, and that are exported
    settings = {"imgsz": size, "conf": conf, "rect": False, "verbose": False, **more}
    found = []
    for image in images:
        result = yolo.predict(str(image), **settings)[0]
        if result.probs is not None:
            found.append([[float(k), float(p)] for k, p in enumerate(result.probs.data)])
            continue
        boxes = result.boxes if result.obb is None else result.obb
        places = boxes.xyxy if result.obb is None else boxes.xyxyxyxy.reshape(len(boxes), -1)
        columns = [boxes.cls[:, None], boxes.conf[:, None], places]
        if result.keypoints is not None and len(boxes):
            columns.append(result.keypoints.xy.reshape(len(boxes), -1))
        if result.masks is not None and len(boxes):
            columns.append(result.masks.data.float().sum((1, 2)).sqrt()[:, None])
        found.append(np.concatenate([np.asarray(column) for column in columns], 1).tolist())
    return found


def compared(ours: list[list[list[float]]], theirs: list[list[list[float]]]) -> dict[str, Any]:
    """Of each of their detections the nearest of ours: which have none, and the largest differences of the others."""
    missing, pixels, score, count = 0, 0.0, 0.0, 0
    for mine, other in zip(ours, theirs, strict=True):
        count += len(other)
        missing += max(len(mine) - len(other), 0)
        for row in np.array(other):
            near = [each for each in np.array(mine) if each[0] == row[0]]
            distances = [(np.abs(each[2:] - row[2:]).max(initial=0.0), abs(each[1] - row[1])) for each in near]
            place, difference = min(distances, key=lambda pair: pair[0] + 100 * pair[1], default=(np.inf, np.inf))
            if place <= MOST_PIXELS and difference <= MOST_SCORE:
                pixels, score = max(pixels, float(place)), max(score, float(difference))
            else:
                missing += 1
    return {"count": count, "missing": missing, "pixels": pixels, "score": score}


def table(rows: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The outcomes as Markdown."""
    import torch
    import ultralytics

    lines = [
        "# The pruned checkpoint and the ONNX file on photographs, in Ultralytics",
        "",
        f"Ultralytics {ultralytics.__version__}, torch {torch.__version__}; {arguments.epochs} epochs from scratch on "
        f"{arguments.images} images of BCCD at {arguments.imgsz} px, `--prune {arguments.prune} --compensate "
        f"reconstruct`, then {arguments.val} validation images. A detection is without "
        f"counterpart if none of its class lies within {MOST_PIXELS:g} px (box, points, the side of a square "
        f"as large as the mask) and {MOST_SCORE:g} of score. Control: the filters of every layer 1 % off; "
        "`source`: the network before pruning.",
        "",
        "| network | its mAP50 | parameters kept | scores from | detections | without counterpart "
        "| largest of the others | control: without | source: without |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        slim, other, source = row["slim"], row["spoilt"], row["source"]
        lines.append(
            f"| {name} | {row['score']:.1f} | {row['parameters']:.2f} | {row['conf']:g} | {slim['count']} "
            f"| {slim['missing']} | {slim['pixels']:.1e} px, {slim['score']:.1e} | {other['missing']} "
            f"| {source['missing']} |"
        )
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--data", type=Path, required=True, help="the folder of BCCD")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=96, help="of the training images, and at most of the others")
    parser.add_argument("--val", type=int, default=16)
    parser.add_argument("--imgsz", type=int, default=128)
    parser.add_argument("--prune", default="0.4")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
