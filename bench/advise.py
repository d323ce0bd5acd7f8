"""What `advise` answers: the levers that need no training at 0.7 of the latency, by mAP50 and by detections kept.

    python bench/advise.py [NAME …] [--out DIR]     what is missing of it; --table only writes the table again

Each network with the 32 images of calib.txt (16 are fitted to, detections are counted on the other 16) and mAP50 on the
96 images of val.txt (2 points are noise on so few). Latency is measured where a row says ms: one thread, interleaved
with the source. Work is kept in DIR, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.measure.machine import machine
from onnxslim_yolo.sweep.advise import AdviseOptions, advise

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
DATA, CALIB = MATERIAL / "data/coco-val128/data.yaml", MATERIAL / "data/coco-val128/calib.txt"
RESULT = HERE / "results" / "advise.json"
TARGET = "0.7x"
NETWORKS: dict[str, tuple[str, int | None, str]] = {
    "YOLOv5n, 320 px, ncnn": ("yolov5n-coco-v6.pt", 320, "ncnn"),
    "YOLOv5n, 320 px, onnxruntime": ("yolov5n-coco-v6.pt", 320, "onnxruntime"),
    "YOLOv5-Lite-s, 416 px, ncnn": ("v5lite-s-coco.pt", 416, "ncnn"),
    "FastestDet, 352 px, ncnn": ("FastestDet.onnx", None, "ncnn"),
}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "onnxslim-advise")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parsed = parser.parse_args()
    rows: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in [] if parsed.table else parsed.names:
        if name not in rows:
            rows[name] = network(name, parsed.out)
            write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    write_atomically(RESULT.with_suffix(".md"), table(rows))


def network(name: str, out: Path) -> dict[str, Any]:
    """What is answered for one network."""
    file, size, runtime = NETWORKS[name]
    compiling = {"target": runtime} | ({} if size is None else {"imgsz": (size, size)})
    folder = out / name.replace(" ", "-").replace(",", "")
    options = AdviseOptions(MATERIAL / "weights" / file, CALIB, TARGET, folder, DATA, compiling)
    found = advise(options, lambda stage: print(f"{name}: {stage}", flush=True))
    rows = [{key: value for key, value in row.items() if key not in ("command", "key", "file")} for row in found.rows]
    return {"rows": rows, "notes": found.facts["notes"], "machine": machine()}


def table(networks: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        f"# What `advise` answers at {TARGET}",
        "",
        "| network | lever | latency left | mAP50 | detections kept | false alarms | MB | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    machines: dict[str, None] = {}
    for name, each in networks.items():
        for row in each["rows"]:
            if row.get("error"):
                lines.append(f"| {name} | {row['lever']} | not to be had | | | | | |")
                continue
            timed = row.get("measured") is not None
            left = f"{row['measured']:.2f} ({row['measured_ms']:.2f} ms)" if timed else f"{row['left']:.2f} predicted"
            kept = row["kept"]
            said = "meets it" if row["meets"] else ""
            cells = [name, row["lever"], left, f"{100 * row['map50']:.1f}", f"{kept['kept']} of {kept['objects']}"]
            lines.append(f"| {' | '.join(cells)} | {kept['false_alarms']} | {row['bytes'] / 1e6:.2f} | {said} |")
        machines[", ".join(f"{key} {value}" for key, value in each["machine"].items())] = None
    return "\n".join(lines) + "\n\nMachine: " + "; ".join(machines) + "\n"


if __name__ == "__main__":
    main()
