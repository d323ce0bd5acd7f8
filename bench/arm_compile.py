"""`compile --run-on` an emulated core: the pair is run there before anything is written, and what it says is kept.

    python bench/arm_compile.py WORK [--cores a76 a72]      networks of ../shared/material and models/

Needs bench/arm_setup.py. WORK keeps what was compiled: the same command goes on behind it. Nothing is pruned but what
is dead. *Swapped*: NMS keeps another candidate of the same object there (see `verify.on_device`); the IoU is that of
the own one. Writes bench/results/arm_compile.md.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from arm_setup import default_root
from arm_tables import DEVICE

from onnxslim_yolo.compiler import compile
from onnxslim_yolo.errors import OnnxSlimError

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE.parents[1] / "shared" / "material" / "weights"
NETWORKS = {
    "FastestDet, 352 px": (WEIGHTS / "FastestDet.onnx", None),
    "Yolo-Fastest 1.1, 320 px": (WEIGHTS / "yolo-fastest-1.1.cfg", None),
    "YOLOv5n, 320 px": (WEIGHTS / "yolov5n-coco-v6.pt", (320, 320)),
    "YOLOv5-Lite-s, 320 px": (WEIGHTS / "v5lite-s-coco.pt", (320, 320)),
    "bccd-sparse": (HERE.parent / "models" / "bccd-sparse.onnx", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--cores", nargs="+", default=list(DEVICE))
    options = parser.parse_args()
    lines = [
        "# `compile --run-on` an emulated core",
        "",
        "`python bench/arm_compile.py WORK`. Swapped: of two candidates of one object, nearly equal, NMS keeps ",
    ]
    lines[-1] += "the other one there; IoU and score are the own one's."
    lines += [""]
    lines += ["| network | core | the pair there | detections kept | IoU ≥ | scores within | outputs within |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for core in options.cores:
        for name in NETWORKS:
            lines.append(f"| {name} | {core}, `--for {DEVICE[core]}` | {' | '.join(cells(name, core, options.work))} |")
            print(lines[-1], flush=True)
    (HERE / "results" / "arm_compile.md").write_text("\n".join([*lines, ""]))


def cells(name: str, core: str, work: Path) -> list[str]:
    """What a compilation says of the pair there; or why there is none."""
    there = compiled(name, core, work)
    if isinstance(there, str):
        return [there, *[""] * 4]
    seen = there["detections"]
    kept = f"{there['kept']} of {seen}" if seen else "none to go by"
    kept += f", {there['swapped']} swapped" if there["swapped"] else ""
    figures = [f"{there[key]:.3f}" if seen else "" for key in ("iou", "score")]
    return [there["state"], kept, *figures, f"{max(output['relative'] for output in there['outputs']):.1e}"]


def compiled(name: str, core: str, work: Path) -> dict | str:
    """The report's `there`, or the error; known from an earlier run or made."""
    file, size = NETWORKS[name]
    folder = work / f"{file.stem}-{core}"
    report = folder / f"{file.stem}.report.json"
    if not report.is_file():
        began = time.process_time()
        try:
            compile(file, out=folder, imgsz=size, device=DEVICE[core], run_on=f"{default_root() / 'arm-python'} {core}")
        except OnnxSlimError as error:
            return str(error).splitlines()[0]
        print(f"{name}: {time.process_time() - began:.0f} s of CPU here")
    return json.loads(report.read_text())["there"]


if __name__ == "__main__":
    main()
