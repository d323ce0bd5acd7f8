"""Importance on every kind of head: mAP after a cut without labels, on coupled and decoupled heads.

    python bench/kinds_of_heads.py NAME [--shares 0.9 0.8] [--label now] [--package CHECKOUT]; --table

Networks: YOLOv5n (coupled) and FastestDet (centre-based) as published, and YOLOv5n's backbone and neck with a head
like YOLOX's or YOLOv8's (bench/decoupled.py makes them). Each is ranked, cut to a share of its MACs and fitted on the
32 images of calib.txt, widths not snapped, and evaluated on the 96 of val.txt (2 points are noise on so few).
`--package` runs the package of another checkout, so that two versions are compared in one run, under `--label`.

"One unit" is the metric of commit 627379b: every logit's error in detections seen at a soft threshold, and calibration
weighed by what they hang on. It is in no release: in sum it kept less than the metric that it was to replace.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MATERIAL = HERE.parents[1] / "shared" / "material"
DATA = MATERIAL / "data/coco-val128/data.yaml"
RESULT = HERE / "results" / "kinds_of_heads.json"
MADE = Path(tempfile.gettempdir()) / "onnxslim-decoupled"
NETWORKS: dict[str, tuple[Path, tuple[int, int]]] = {
    "YOLOv5n": (MATERIAL / "weights/yolov5n-coco-v6.pt", (320, 320)),
    "YOLOX-like": (MADE / "yolox-like.onnx", (320, 320)),
    "YOLOv8-like": (MADE / "v8-like.onnx", (320, 320)),
    "FastestDet": (MATERIAL / "weights/FastestDet.onnx", (352, 352)),
}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.9, 0.8, 0.7])
    parser.add_argument("--allocate", default="global", choices=("global", "curves"))
    parser.add_argument("--label", default="as it is")
    parser.add_argument("--package", type=Path, help="a checkout whose package is run")
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    if given.package is not None and os.environ.get("PYTHONPATH") != str(given.package):
        there = {**os.environ, "PYTHONPATH": str(given.package)}
        raise SystemExit(subprocess.run([sys.executable, *sys.argv], env=there, check=False).returncode)
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.exists() else []
    for name in [] if given.table else given.names:
        for row in measured(name, given.shares, given.label, given.allocate, rows):
            rows.append(row)
            print(json.dumps(row), flush=True)
            RESULT.write_text(json.dumps(rows, indent=1) + "\n")
    RESULT.with_suffix(".md").write_text(table(rows))


def measured(name: str, shares: list[float], label: str, allocate: str, known: list[dict[str, Any]]) -> Any:
    """What is missing of a network's rows."""
    import accuracy
    from decoupled import network

    file, size = NETWORKS[name]
    if file.parent == MADE:
        file = network("yolox" if name == "YOLOX-like" else "v8")
    done = {(row["network"], row["label"], row.get("allocate"), row["share"]) for row in known}
    subject = accuracy.Subject(file, size, DATA)
    source, _ = accuracy.read_model(file, accuracy.LoadOptions(size, None, trust=False))
    accuracy.PassManager(accuracy.preparation(accuracy.CompileOptions())).run(source)
    base, step = source.copy(), accuracy.Step(subject, ("output", "reconstruct", allocate), tuple(shares))
    with tempfile.TemporaryDirectory() as folder:
        if (name, "source", None, 1.0) not in done:
            yield {"network": name, "label": "source", "share": 1.0} | accuracy._score(source, Path(folder), DATA)
        for share in shares:
            if (name, label, allocate, share) in done:
                continue
            row = {"network": name, "label": label, "allocate": allocate, "share": share}
            yield row | accuracy._run(step, share, source, base, Path(folder))


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown: per network and share, the versions side by side."""
    labels = list(dict.fromkeys(row["label"] for row in rows if row["label"] != "source"))
    lines = [
        "# Importance on every kind of head",
        "",
        f"| network | share of MACs | widths | {' | '.join(f'mAP50 {label}' for label in labels)} | mAP50 uncut |",
        f"|---|---|---|{'---|' * (len(labels) + 1)}",
    ]
    whole = {row["network"]: row["map50"] for row in rows if row["label"] == "source"}
    found = {(r["network"], r["share"], r["allocate"], r["label"]): r["map50"] for r in rows if r["label"] != "source"}
    for name, share, allocate in dict.fromkeys(key[:3] for key in found):
        cells = [found.get((name, share, allocate, label)) for label in labels]
        shown = " | ".join("–" if cell is None else f"{100 * cell:.1f}" for cell in cells)
        lines.append(f"| {name} | {share} | {allocate} | {shown} | {100 * whole[name]:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
