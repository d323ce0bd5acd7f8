"""What `advise` answers without labels at 0.9, 0.8 and 0.7 of the latency, and pruning alone: mAP50 against latency.

    python bench/advise.py [NAME …] [--targets 0.9x,0.7x] [--unpruned] [--alone …]    what is missing of it
    python bench/advise.py --table                                                  only the table

`advise` gets the 32 images of calib.txt and no label: 16 are fitted to, the other 16 judge. How far its order of the
rows is that of mAP50 is given as a rank correlation, beside that of counting detections kept (F1): on this network at
320 px the former was chosen by that. Beside it stands pruning alone with depth, compensated on all 32 images
(`reconstruct`), and distilled on them after that (`distil`). Then all files of a target are timed together, beside the
source: one thread, interleaved, medians of per-round ratios in thread-CPU time. mAP50 is of the files as they are, on
the 96 images of val.txt (2 points are noise on so few). For a Pi, named "…, pi5", latency is as predicted, and pruning
alone is left out; the heads like YOLOX's and YOLOv8's are bench/decoupled.py's. Work is kept in DIR, so that a run that
was stopped goes on, and all targets share the trials. With --unpruned nothing that prunes is tried, neither by `advise`
nor alone, which saves most of the time; --alone reconstruct leaves distillation out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import onnxslim_yolo as oy
from onnxslim_yolo.emit.onnx import write_onnx
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.measure.benchmark import benchmark
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.measure.machine import machine
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.sweep.advise import AdviseOptions, advise
from onnxslim_yolo.sweep.levers import Lever, levers
from onnxslim_yolo.verify.detector import Detector, open_network

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
DATA, CALIB = MATERIAL / "data/coco-val128/data.yaml", MATERIAL / "data/coco-val128/calib.txt"
RESULT = HERE / "results" / "advise.json"
TARGETS = ("0.9x", "0.8x", "0.7x")
MADE = Path(tempfile.gettempdir()) / "onnxslim-decoupled"
NETWORKS: dict[str, tuple[str | Path, int | None, str]] = {
    "YOLOv5n, 320 px, ncnn": ("yolov5n-coco-v6.pt", 320, "ncnn"),
    "YOLOv5n, 640 px, ncnn": ("yolov5n-coco-v6.pt", 640, "ncnn"),
    "YOLOv5n, 320 px, onnxruntime": ("yolov5n-coco-v6.pt", 320, "onnxruntime"),
    "YOLOv5-Lite-s, 416 px, ncnn": ("v5lite-s-coco.pt", 416, "ncnn"),
    "FastestDet, 352 px, ncnn": ("FastestDet.onnx", None, "ncnn"),
    "Yolo-Fastest 1.1, 320 px, ncnn": ("yolo-fastest-1.1.cfg", None, "ncnn"),
    "YOLOX-like, 320 px, ncnn": (MADE / "yolox-like.onnx", None, "ncnn"),
    "YOLOv8-like, 320 px, ncnn": (MADE / "v8-like.onnx", None, "ncnn"),
}
ON_BOARDS = {
    f"{name.removesuffix(', ncnn')}, {board}": (*given[:2], board)
    for name, given in NETWORKS.items()
    if given[2] == "ncnn" and given[1] != 640
    for board in ("pi5", "pi4")
}
NETWORKS |= ON_BOARDS
ALONE = {"pruned, 32 images": "reconstruct", "pruned and distilled, 32 images": "distil"}
ROUNDS = 31
NOISE = 1.03
"""Measured latency may miss the target by so much."""


def main() -> None:
    """Run what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--unpruned", action="store_true", help="try nothing that prunes")
    parser.add_argument("--alone", nargs="+", choices=list(ALONE.values()), default=list(ALONE.values()))
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "onnxslim-advise")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parsed = parser.parse_args()
    blocks: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.exists() else []
    for name in [] if parsed.table else parsed.names:
        for target in parsed.targets.split(","):
            if all((block["network"], block["target"]) != (name, target) for block in blocks):
                folder = parsed.out / name.replace(" ", "-").replace(",", "")
                blocks.append(answered(name, target, folder, () if parsed.unpruned else parsed.alone))
                blocks.sort(key=lambda block: (list(NETWORKS).index(block["network"]), -float(block["target"][:-1])))
                write_atomically(RESULT, json.dumps(blocks, indent=1) + "\n")
    write_atomically(RESULT.with_suffix(".md"), "\n".join(table(blocks)) + "\n")


def answered(name: str, target: str, folder: Path, alone: Sequence[str]) -> dict[str, Any]:
    """What is answered for one network, and what all of it comes to.

    Args:
        alone: how pruning alone is compensated; none: nothing is pruned.
    """
    file, size, where = NETWORKS[name]
    compiling: dict[str, Any] = {"target": where} if name not in ON_BOARDS else {"device": where}
    compiling |= {} if size is None else {"imgsz": (size, size)}
    options = AdviseOptions(MATERIAL / "weights" / file, CALIB, target, folder, compile=compiling)
    with nullcontext() if alone else patch("onnxslim_yolo.sweep.advise.levers", _unpruned):
        found = advise(options, lambda stage: print(f"{name}, {target}: {stage}", flush=True))
    rows = {row["lever"]: facts(row) | {"file": str(folder / row["file"])} for row in found.rows if "file" in row}
    for lever, how in ALONE.items():
        written = pruned(options, folder / f"{how}-{target}", how) if how in alone and name not in ON_BOARDS else None
        if written is not None:
            rows[lever] = {"lever": lever, "file": str(written)}
    data, best = read_dataset(DATA), found.best
    order = ["source", *(lever for lever in rows if lever != "source")]
    control = None
    if name not in ON_BOARDS:
        timed = benchmark([Path(rows[lever]["file"]) for lever in order], names=order, rounds=ROUNDS)
        control = round(timed.control, 4)
        for lever, time in zip(order, timed.models, strict=True):
            rows[lever] |= {"left": round(time.ratio, 4), "ms": round(time.ms, 3)}
    for lever in order:
        row = rows[lever]
        counted = evaluate(Detector(open_network(Path(row.pop("file")), threads=1), nc=len(data.names)), data)
        row |= {"map50": round(counted.map50, 4), "map": round(counted.map, 4)}
    answer = None if best is None else best["lever"]
    block = {"network": name, "target": target, "answer": answer, "rows": list(rows.values())}
    return block | {"control": control, "notes": found.facts["notes"], "machine": machine()}


def pruned(options: AdviseOptions, folder: Path, how: str) -> Path | None:
    """Pruning alone, compensated on all images; None where that cannot be."""
    known = [path for path in (folder / "model_ncnn_model", folder / "fixed.onnx") if path.exists()]
    if known:
        return known[0]
    emit = ["onnx", "ncnn"] if options.compile["target"] == "ncnn" else ["onnx"]
    more = {"target_latency": options.target_latency, "compensate": how, "calib": options.calib, "verify": False}
    try:
        made = oy.compile(options.model, emit=emit, out=folder, name="model", **options.compile, **more)
    except OnnxSlimError as error:
        print(f"{folder.name}: {error.message}", flush=True)
        return None
    return made.ncnn or write_onnx(made.model, folder / "fixed.onnx")


def _unpruned(*given: Any) -> list[Lever]:
    return [lever for lever in levers(*given) if "target_latency" not in lever.options]


def facts(row: dict[str, Any]) -> dict[str, Any]:
    """What of a trial is worth keeping."""
    predicted = {"left": round(row["left"], 4), "ms": round(row["predicted_us"] / 1000, 3)}
    return {key: row[key] for key in ("lever", "bytes", "kept", "gain")} | predicted


def table(blocks: list[dict[str, Any]]) -> Iterator[str]:
    """The rows as Markdown: what is answered, then every row."""
    yield "# What `advise` answers without labels"
    yield ""
    yield "| network | asked | `advise` answers | latency left | mAP50 lost | least lost at it | pruned alone, lost |"
    yield "|---|---|---|---|---|---|---|"
    for block in blocks:
        yield _answer(block)
    yield from ("", "All that was tried, timed together:", "")
    yield "| network | asked for | lever | latency left | mAP50 | lost | detections kept | false alarms | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for block in blocks:
        whole = _row(block, "source")["map50"]
        for row in sorted(block["rows"], key=lambda row: (row["left"] > _limit(block), -row["map50"])):
            kept = row.get("kept")
            counted = f"{kept['kept']} of {kept['objects']} | {kept['false_alarms']}" if kept else " | "
            said = "the answer" if row["lever"] == block["answer"] else ""
            scores = f"{100 * row['map50']:.1f} | {100 * (whole - row['map50']):.1f}"
            left = f"{row['left']:.2f} ({row['ms']:.2f} ms)"
            cells = [block["network"], block["target"], row["lever"], left, scores, counted, said]
            yield f"| {' | '.join(cells)} |"
    yield ""
    for name in dict.fromkeys(block["network"] for block in blocks):
        rows = {row["lever"]: row for b in blocks if b["network"] == name for row in b["rows"] if "kept" in row}
        maps = [row["map50"] for row in rows.values()]
        by = [[row["gain"] for row in rows.values()], [row["kept"]["score"] for row in rows.values()]]
        yield (
            f"{name}: rank correlation with mAP50 over {len(rows)} results: {_alike(by[0], maps):.2f} of what `advise` "
            f"goes by, {_alike(by[1], maps):.2f} of detections kept (F1)."
        )
    machines = dict.fromkeys(", ".join(f"{k} {v}" for k, v in block["machine"].items()) for block in blocks)
    yield from ("", "Machine: " + "; ".join(machines))


def _alike(one: list[float], other: list[float]) -> float:
    """Spearman's rank correlation."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1]) if len(one) > 2 else float("nan")


def _answer(block: dict[str, Any]) -> str:
    whole = _row(block, "source")["map50"]

    def lost(row: dict[str, Any]) -> str:
        return f"{100 * (whole - row['map50']):.1f}"

    chosen = None if block["answer"] is None else _row(block, block["answer"])
    cells = ["nothing", "", ""] if chosen is None else [chosen["lever"], f"{chosen['left']:.2f}", lost(chosen)]
    meeting = [row for row in block["rows"] if row["left"] <= _limit(block)]
    best = max(meeting, key=lambda row: row["map50"], default=None)
    alone = [f"{lost(row)} at {row['left']:.2f}" for row in block["rows"] if row["lever"] in ALONE]
    most = "" if best is None else f"{lost(best)} ({best['lever']})"
    pruned = ", distilled ".join(alone) or "not tried"
    return f"| {block['network']} | {block['target']} | {' | '.join([*cells, most])} | {pruned} |"


def _limit(block: dict[str, Any]) -> float:
    return NOISE * float(block["target"][:-1])


def _row(block: dict[str, Any], lever: str) -> dict[str, Any]:
    return next(row for row in block["rows"] if row["lever"] == lever)


if __name__ == "__main__":
    main()
