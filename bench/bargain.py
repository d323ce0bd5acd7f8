"""What costs least without training: a smaller input, or fewer channels? YOLOv5n on COCO, 320 px, nothing trained.

    python bench/bargain.py            what is missing of it; --table only writes the table again

A row of an input's size is one compilation of the same checkpoint with nothing cut, its ONNX file evaluated on the
96 images of val.txt. Pruned rows are ranked by the loss on the 32 images of calib.txt and their weights fitted to these
images, without labels; at the widths that a compilation gives for this device, and beside them those of
bench/accuracy.py at exact widths (by curves), whose latency nobody predicted. MACs are counted. Latency is predicted
(onnxruntime, x86-avx2), as it cannot be measured on a machine that does something else. Rows that are done are kept in
the JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import onnxslim_yolo as oy
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
MODEL, DATA = MATERIAL / "weights/yolov5n-coco-v6.pt", MATERIAL / "data/coco-val128/data.yaml"
RESULT = HERE / "results" / "bargain.json"
CALIB = MATERIAL / "data/coco-val128/calib.txt"
SIZE = 320

SIZES = ((320, 320), (288, 320), (288, 288), (256, 320), (224, 320), (256, 256), (224, 224))
PRUNED = HERE / "results" / "accuracy.json"
METHOD = {"model": MODEL.name, "size": SIZE, "importance": "output", "compensate": "reconstruct", "allocate": "curves"}
SHARES = (0.9, 0.8, 0.7)


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="run nothing")
    parsed = parser.parse_args()
    rows: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for size in SIZES:
        if name_of(size) not in rows and not parsed.table:
            rows[name_of(size)] = measured(imgsz=size, prune=0)
            print(size, rows[name_of(size)], flush=True)
            write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    for share in [] if parsed.table else SHARES:
        if f"{share:g} of the MACs" not in rows:
            options = {"target_macs": share, "calib": CALIB, "compensate": "reconstruct"}
            rows[f"{share:g} of the MACs"] = measured(imgsz=(SIZE, SIZE), **options)
            print(share, rows[f"{share:g} of the MACs"], flush=True)
            write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    write_atomically(RESULT.with_suffix(".md"), table(rows, pruned()))


def name_of(size: tuple[int, int]) -> str:
    """One side of a square, else height and width."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def measured(**options: Any) -> dict[str, float]:
    """mAP of the network by these options, its MACs, and its predicted latency in µs."""
    with tempfile.TemporaryDirectory() as folder:
        result = oy.compile(
            MODEL,
            emit="onnx",
            verify=False,
            target="onnxruntime",
            device="x86-avx2",
            out=folder,
            **options,
        )
        network = open_network(Path(folder) / f"{MODEL.stem}.onnx")
        found = evaluate(Detector(network), read_dataset(DATA))
    after = result.report["after"]
    return {
        "map50": round(found.map50, 4),
        "map": round(found.map, 4),
        "macs": after["macs"],
        "latency_us": round(after["latency_us"], 1),
    }


def pruned() -> dict[float, dict[str, float]]:
    """Share of the MACs asked for → what bench/accuracy.py measured."""
    rows = json.loads(PRUNED.read_text())
    mine = [row for row in rows if not row.get("variant") and all(row.get(key) == METHOD[key] for key in METHOD)]
    return {row["target"]: row for row in mine if row.get("target") in SHARES}


def table(sizes: dict[str, Any], cut: dict[float, dict[str, float]]) -> str:
    """The rows as Markdown, each beside the network as it is."""
    first = sizes[str(SIZE)]
    lines = [
        "| YOLOv5n, COCO, no training | mAP50 | lost | MACs left | latency left, predicted |",
        "|---|---|---|---|---|",
    ]
    for size in SIZES:
        row = sizes[name_of(size)]
        shares = [f"{row[key] / first[key]:.2f}" for key in ("macs", "latency_us")]
        lines.append(_line(f"{name_of(size)} px", row["map50"], first["map50"], *shares))
    for share in SHARES:
        row = sizes.get(f"{share:g} of the MACs")
        if row is not None:
            shares = [f"{row[key] / first[key]:.2f}" for key in ("macs", "latency_us")]
            lines.append(_line(_named(share, "widths by default"), row["map50"], first["map50"], *shares))
    for share, row in sorted(cut.items(), reverse=True):
        name = _named(share, "exact widths")
        lines.append(_line(name, row["map50"], first["map50"], f"{row['macs']:.2f}", "–"))
    return "# A smaller input, or fewer channels\n\n" + "\n".join(lines) + "\n"


def _named(share: float, widths: str) -> str:
    return f"{SIZE} px, {1 - share:.0%} fewer MACs, with images, {widths}".replace("%", " %")


def _line(name: str, map50: float, whole: float, *shares: str) -> str:
    return f"| {' | '.join([name, f'{100 * map50:.1f}', f'{100 * (whole - map50):.1f}', *shares])} |"


if __name__ == "__main__":
    main()
