"""What `--compensate distil` adds to reconstruction: mAP without labels, beside the control of no rate.

    python bench/compensate.py [--share 0.7] [--epochs 12]      --table: only the table

YOLOv5n on COCO at 320 px: ranked, cut and fitted on the 32 images of calib.txt (28; 4 are held out), distilled on the
same, evaluated on the 96 images of val.txt (2 points are noise on so few). One ranking and one reconstruction a share:
the rows differ by the training alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from accuracy import COCO, MATERIAL, _score

from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pipeline import preparation, remainder, shaping
from onnxslim_yolo.training.compensate import Distil

RESULT = Path(__file__).resolve().parent / "results" / "compensate.json"
NETWORK, SIZE = MATERIAL / "weights/yolov5n-coco-v6.pt", (320, 320)
RATES = (0.0, 3e-5, 1e-4)


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, nargs="+", default=[0.7])
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.exists() else []
    for share in [] if given.table else given.share:
        with tempfile.TemporaryDirectory() as folder:
            for row in measured(share, given.rates, given.epochs, Path(folder)):
                rows = [each for each in rows if _key(each) != _key(row)] + [row]
                print(json.dumps(row), flush=True)
                write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    write_atomically(RESULT.with_suffix(".md"), table(rows))


def measured(share: float, rates: list[float], epochs: int, folder: Path) -> Any:
    """The rows of one share of the MACs: reconstruction alone, then with each rate."""
    options = CompileOptions(target_macs=share, snap="none", importance="output", compensate="reconstruct", calib=COCO)
    source, _ = read_model(NETWORK, LoadOptions(SIZE, None, trust=False))
    PassManager(preparation(options)).run(source)
    teacher, cut = source.copy(), source.copy()
    PassManager(shaping(options)).run(teacher)
    steps = remainder(options, cut)
    last = max(index for index, step in enumerate(steps) if step.name == "slice") + 1
    PassManager(steps[:last]).run(cut)
    for rate in (None, *rates):
        model, facts, begun = cut.copy(), {}, time.perf_counter()
        if rate is not None:
            step = Distil(teacher, COCO, epochs=epochs if rate else 1, lr=rate)
            PassManager([step]).run(model)
            facts = {key: step.facts[key] for key in ("before", "after", "epoch", "images", "held_out", "norms")}
        seconds = time.perf_counter() - begun
        PassManager(steps[last:]).run(model)
        row = {"share": share, "rate": rate, "epochs": epochs, "seconds": round(seconds)} | facts
        yield row | _score(model, folder, COCO)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["share"], row["rate"], row["epochs"]


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "# What distillation adds to reconstruction",
        "",
        "| YOLOv5n, 320 px, share of MACs | compensation | mAP50 | mAP | error held out, before → after | epoch kept |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (-row["share"], row["rate"] is not None, row["rate"] or 0)):
        named = "reconstruct" if row["rate"] is None else f"distil, rate {row['rate']:g}"
        held = (
            f"{row['before']:.3f} → {row['after']:.3f} | {row['epoch']} of {row['epochs']}" if "before" in row else "| "
        )
        lines.append(f"| {row['share']} | {named} | {100 * row['map50']:.1f} | {100 * row['map']:.1f} | {held} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
