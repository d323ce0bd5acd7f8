"""Post-processing of raw maps in logit space against the naive decode, on real logits.

YOLOv5n at 640x640 makes 25,200 candidates of 80 classes. Compared per image, in numpy, without NMS:

    naive      sigmoid over every number, decode every box, multiply, compare with the threshold
    objectness naive, but boxes whose objectness is too small are dropped before the rest is decoded
    logit      `onnxslim_yolo.heads.finish`: compare logits with −log(1/t − 1), decode the survivors
    filter     of a table that the graph has decoded: only compare (its decode is paid for inside the network)

All four have to give the same candidates. `python bench/postprocess.py` needs torch and ../shared/material.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxslim_yolo.heads.decode import Candidates, candidates
from onnxslim_yolo.heads.spec import HEAD_KEY, HeadSpec
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.measure.benchmark import benchmark, machine
from onnxslim_yolo.passes.head import Head
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.runtime.images import load_input
from onnxslim_yolo.verify.detector import open_onnx

ROOT = Path(__file__).resolve().parents[1]
MATERIAL = ROOT.parent / "shared" / "material"
THRESHOLDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9)


def decode_all(maps: list[np.ndarray], head: HeadSpec, objectness: float) -> np.ndarray:
    """Raw maps → (N, 85) with every number decoded, of the boxes above `objectness` only."""
    tables = []
    for level, stride, anchors in zip(maps, head.strides, head.anchors, strict=True):
        _, height, width = level.shape
        rows = level.reshape(len(anchors), 5 + head.nc, height * width).transpose(0, 2, 1)
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(1, -1, 2)
        grid = np.broadcast_to(grid, (len(anchors), height * width, 2)).reshape(-1, 2)
        sizes = np.repeat(np.array(anchors, np.float32), height * width, axis=0)
        rows = rows.reshape(-1, 5 + head.nc)
        if objectness > 0:
            alive = 1 / (1 + np.exp(-rows[:, 4])) > objectness
            rows, grid, sizes = rows[alive], grid[alive], sizes[alive]
        y = 1 / (1 + np.exp(-rows))
        y[:, :2] = (y[:, :2] * 2 - 0.5 + grid) * stride
        y[:, 2:4] = (y[:, 2:4] * 2) ** 2 * sizes
        tables.append(y)
    return np.concatenate(tables)


def select(table: np.ndarray, conf: float) -> Candidates:
    """The best class of every row whose objectness times probability exceeds `conf`."""
    scores = table[:, 5:] * table[:, 4:5]
    label = scores.argmax(axis=1)
    score = scores[np.arange(len(scores)), label]
    alive = score > conf
    xy, half = table[alive, :2], table[alive, 2:4] / 2
    return Candidates(np.concatenate((xy - half, xy + half), axis=1), score[alive], label[alive], np.zeros((0, 0)))


def fastest(call: Callable[[], Any], rounds: int = 7) -> float:
    """Milliseconds, the median of thread-CPU times."""
    call()
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        call()
        times.append((time.thread_time() - start) * 1000)
    return float(np.median(times))


def agree(one: Candidates, other: Candidates, conf: float) -> bool:
    """The same boxes, apart from those whose score is within rounding (0.01 %) of the threshold."""
    clear = [c.scores > conf * 1.0001 for c in (one, other)]
    boxes = [c.boxes[keep] for c, keep in zip((one, other), clear, strict=True)]
    return boxes[0].shape == boxes[1].shape and bool(np.allclose(boxes[0], boxes[1], rtol=1e-4, atol=1e-2))


def measure(images: int) -> dict[str, Any]:
    """All figures."""
    import torch

    from onnxslim_yolo.load.checkpoint import read_checkpoint
    from onnxslim_yolo.load.trace import trace

    net = read_checkpoint(MATERIAL / "weights" / "yolov5n-coco-v6.pt").module
    decoded = trace(net, torch.rand(1, 3, 640, 640))
    model = Model.from_onnx(decoded)
    if Head().run(model) != 1:
        raise SystemExit(f"the head was not cut: {model.notes}")
    head = HeadSpec.from_json(model.metadata[HEAD_KEY])
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "decoded.onnx", Path(folder) / "raw.onnx"]
        onnx.save(decoded, paths[0])
        onnx.save(model.to_onnx(), paths[1])
        latency = benchmark(paths)
    raw = open_onnx(model.to_onnx().SerializeToString(), Path("raw.onnx"))
    table = open_onnx(decoded.SerializeToString(), Path("decoded.onnx"))
    dataset = read_dataset(MATERIAL / "data" / "coco-val128" / "data.yaml")
    sums: dict[float, dict[str, list[float]]] = {t: {} for t in THRESHOLDS}
    for image in dataset.images[:images]:
        pixels, _ = load_input(image, raw.size)
        maps, full = list(raw.run(pixels)), list(table.run(pixels))
        one = [m[0] for m in maps]
        for t in THRESHOLDS:
            ways: dict[str, Callable[[], Candidates]] = {
                "naive": lambda t=t, one=one: select(decode_all(one, head, 0), t),
                "objectness": lambda t=t, one=one: select(decode_all(one, head, t), t),
                "logit": lambda t=t, maps=maps: candidates(maps, head, 0, t, False),
                "filter": lambda t=t, full=full: candidates(full, HeadSpec("v5", head.nc), 0, t, False),
            }
            results = {name: call() for name, call in ways.items()}
            if not all(agree(results["naive"], result, t) for result in results.values()):
                raise SystemExit(f"{image.name} at {t}: the ways disagree")
            sums[t].setdefault("candidates", []).append(len(results["logit"].scores))
            for name, call in ways.items():
                sums[t].setdefault(name, []).append(fastest(call))
    rows = [{"threshold": t, **{name: float(np.mean(values)) for name, values in sums[t].items()}} for t in THRESHOLDS]
    network = {m.name: {"ms": m.ms, "ratio": m.ratio, "quartiles": m.ratio_quartiles} for m in latency.models}
    return {
        "machine": machine(),
        "images": images,
        "rows": rows,
        "network": network,
        "control": [latency.control, *latency.control_quartiles],
    }


def report(result: dict[str, Any]) -> str:
    """As a Markdown table."""
    lines = [
        f"YOLOv5n, 25,200 × 80 candidates, {result['images']} COCO images, ms an image, one thread, "
        f"{result['machine']['cpu']}",
        "",
        "| threshold | candidates | naive | objectness first | logit space | naive ÷ logit | filter decoded table |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['threshold']} | {r['candidates']:.0f} | {r['naive']:.2f} | {r['objectness']:.2f} | {r['logit']:.2f} "
        f"| {r['naive'] / r['logit']:.1f} | {r['filter']:.2f} |"
        for r in result["rows"]
    ]
    network = result["network"]
    lines += [
        "",
        f"The network itself (onnxruntime, one thread): decoded {network['decoded.onnx']['ms']:.1f} ms, raw "
        f"{network['raw.onnx']['ms']:.1f} ms, ratio {network['raw.onnx']['ratio']:.3f} "
        f"(control {result['control'][0]:.3f}).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args()
    result = measure(options.images)
    text = report(result)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "postprocess.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "postprocess.md").write_text(text)


if __name__ == "__main__":
    main()
