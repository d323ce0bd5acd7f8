"""What costs least without training: a smaller input, or fewer channels? YOLOv5n on COCO, 320 px, nothing trained.

    python bench/bargain.py            what is missing of it; --table only writes the table again

Every row is one compilation of the same checkpoint, its ONNX file evaluated on the 96 images of val.txt. Pruned rows
were fitted to the 32 images of calib.txt, without their labels. Latency is predicted (onnxruntime, x86-avx2), as it
cannot be measured on a machine that does something else; the MACs are counted. Rows that are done are kept in the JSON.
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
SIZE = 320

IMAGES: dict[str, Any] = {"importance": "output", "compensate": "reconstruct", "calib": DATA}
LEVERS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "288 px": {"imgsz": (288, 288)},
    "256 px": {"imgsz": (256, 256)},
    "224 px": {"imgsz": (224, 224)},
    "10 % fewer MACs, with images": {"target_macs": 0.9, "allocate": "curves", **IMAGES},
    "20 % fewer MACs, with images": {"target_macs": 0.8, "allocate": "curves", **IMAGES},
    "30 % fewer MACs, with images": {"target_macs": 0.7, "allocate": "curves", **IMAGES},
    "20 % fewer MACs, without images": {"target_macs": 0.8},
}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="run nothing")
    parsed = parser.parse_args()
    rows: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name, options in LEVERS.items():
        if name in rows or parsed.table:
            continue
        rows[name] = measured(options)
        print(name, rows[name], flush=True)
        write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    write_atomically(RESULT.with_suffix(".md"), table(rows))


def measured(options: dict[str, Any]) -> dict[str, float]:
    """mAP of what these options make of the network, its MACs, and its predicted latency in µs."""
    base: dict[str, Any] = {"imgsz": (SIZE, SIZE), "prune": 0 if "target_macs" not in options else "dead"}
    with tempfile.TemporaryDirectory() as folder:
        result = oy.compile(
            MODEL,
            **(base | {"emit": "onnx", "verify": False, "target": "onnxruntime", "device": "x86-avx2"} | options),
            will_train=True,
            out=folder,
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


def table(rows: dict[str, Any]) -> str:
    """The rows as Markdown, each beside the network as it is."""
    first = rows["as it is"]
    lines = [
        "| YOLOv5n, COCO, 320 px, no training | mAP50 | lost | MACs left | latency left, predicted |",
        "|---|---|---|---|---|",
    ]
    for name in LEVERS:
        row = rows.get(name)
        if row is None:
            continue
        lost = 100 * (first["map50"] - row["map50"])
        shares = [f"{row[key] / first[key]:.2f}" for key in ("macs", "latency_us")]
        lines.append(f"| {name} | {100 * row['map50']:.1f} | {lost:.1f} | {' | '.join(shares)} |")
    return "# A smaller input, or fewer channels\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
